#include "core/store.h"
#include "util/message.h"

#include <stdarg.h>
#include <stdio.h>

void terrace__log(const struct terrace *store, terrace_log_level level, const char *format, ...)
{
	char line[1024];
	va_list args;

	if (!store || !store->log)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	store->log(store->log_ctx, level, line);
}

void terrace__swallow(struct terrace *store, struct terrace_cache *cache, const char *what)
{
	if (cache)
		count_add(&cache->counts, COUNT_errors, 1);
	terrace__log(store, TERRACE_LOG_WARN, "%s%s%s: %s", cache ? cache->name : "",
	             cache ? ": " : "", what, terrace__message());
}
