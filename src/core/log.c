#include "core/events.h"
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
	struct event_facts facts = { .count = 1 };
	char text[512];

	if (cache)
		count_add(&cache->counts, COUNT_errors, 1);
	if (cache && events_wanted(cache, TERRACE_EVENT_ERROR)) {
		snprintf(text, sizeof text, "%s: %s", what, terrace__message());
		facts.detail = text;
		terrace__event(cache, TERRACE_EVENT_ERROR, &facts);
	}
	terrace__log(store, TERRACE_LOG_WARN, "%s%s%s: %s", cache ? cache->name : "",
	             cache ? ": " : "", what, terrace__message());
}
