#include "api/api.h"

#include "util/fs.h"
#include "util/glob.h"
#include "util/message.h"
#include "util/text.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const char *terrace_status_name(int status)
{
	switch ((terrace_status)status) {
#define CASE(name) \
	case name: \
		return #name
		CASE(TERRACE_OK);
		CASE(TERRACE_MISS);
		CASE(TERRACE_EXISTS);
		CASE(TERRACE_ABSENT);
		CASE(TERRACE_EINVAL);
		CASE(TERRACE_ENOMEM);
		CASE(TERRACE_EIO);
		CASE(TERRACE_EFULL);
		CASE(TERRACE_EACCESS);
		CASE(TERRACE_ECONFIG);
		CASE(TERRACE_EBUSY);
		CASE(TERRACE_ECYCLE);
		CASE(TERRACE_EFORK);
		CASE(TERRACE_EFORMAT);
		CASE(TERRACE_ECORRUPT);
		CASE(TERRACE_ETOOBIG);
#undef CASE
	}
	return "TERRACE_UNKNOWN";
}

const char *terrace_error_message(void)
{
	return terrace__message();
}

int terrace_fail(int status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	terrace__message_vset(format, args);
	va_end(args);
	return status;
}

const char *terrace_version(void)
{
	return TERRACE_VERSION;
}

const char *terrace_tier_name(unsigned tier)
{
	switch (tier) {
	case TERRACE_L1:
		return "l1";
	case TERRACE_L2:
		return "l2";
	case TERRACE_L3:
		return "l3";
	}
	return "none";
}

/* --- arguments ---------------------------------------------------------------------------- */

static void not_a_handle(const char *what)
{
	fprintf(stderr, "terrace: this is no %s, or one that was closed\n", what);
	abort();
}

static int check_fork(const struct terrace *store)
{
	if (store->forks == atomic_load_explicit(&terrace__forks, memory_order_relaxed))
		return TERRACE_OK;
	return terrace_fail(TERRACE_EFORK,
	                    "this handle of %s was opened before fork(); open the store again in "
	                    "the child",
	                    store->dir);
}

int terrace__check_store(const struct terrace *store)
{
	if (store->magic != STORE_MAGIC)
		not_a_handle("terrace store");
	return check_fork(store);
}

int terrace__check_cache_again(const struct terrace_cache *cache)
{
	if (!cache)
		return TERRACE_OK;
	if (cache->magic != CACHE_MAGIC)
		not_a_handle("terrace cache");
	return check_fork(cache->store);
}

int terrace__check_writing(struct terrace_cache *cache)
{
	int rc = terrace__check_cache(cache);

	if (rc == TERRACE_OK && cache && cache->tiers == 0)
		atomic_fetch_add(&cache->unkept, 1);
	if (rc == TERRACE_OK && cache && cache->store->read_only)
		rc = terrace__check_writable(cache->store);
	return rc;
}

int terrace__check_key_again(terrace_slice key)
{
	return terrace_fail(TERRACE_EINVAL, "a key has 1 to %u bytes, not %zu%s", TERRACE_KEY_MAX,
	                    key.size, key.data ? "" : " at address NULL");
}

int terrace__check_match(const terrace_match *match, terrace_match *ret, char *path,
                         size_t path_size)
{
	char given[PATH_MAX];
	int err;

	if (!match) {
		*ret = (terrace_match){ TERRACE_MATCH_ALL, { NULL, 0 } };
		return TERRACE_OK;
	}
	*ret = *match;
	if (match->kind == TERRACE_MATCH_ALL)
		return TERRACE_OK;
	if (match->kind == TERRACE_MATCH_KEY)
		return terrace__check_key(match->text);
	if (!match->text.data && match->text.size > 0)
		return terrace_fail(TERRACE_EINVAL,
		                    "what is to match, %zu bytes, is at address NULL",
		                    match->text.size);
	switch (match->kind) {
	case TERRACE_MATCH_ALL:
	case TERRACE_MATCH_KEY:
	case TERRACE_MATCH_PREFIX:
		return TERRACE_OK;
	case TERRACE_MATCH_GLOB:
		if (terrace__glob_valid(match->text.data, match->text.size))
			return TERRACE_OK;
		return terrace_fail(TERRACE_EINVAL,
		                    "the pattern \"%.*s\" has a '[' that is not "
		                    "closed, or ends in '\\'",
		                    (int)(match->text.size < 200 ? match->text.size : 200),
		                    (const char *)match->text.data);
	case TERRACE_MATCH_TAG:
		if (match->text.size > 0 && match->text.size <= TERRACE_TAG_MAX)
			return TERRACE_OK;
		return terrace_fail(TERRACE_EINVAL, "a tag has 1 to %u bytes", TERRACE_TAG_MAX);
	case TERRACE_MATCH_SOURCE:
		if (match->text.size >= sizeof given)
			return terrace_fail(TERRACE_EINVAL, "the source's path is too long");
		if (match->text.size > 0)
			memcpy(given, match->text.data, match->text.size);
		given[match->text.size] = '\0';
		err = terrace__absolute_path(given, path, path_size);
		if (err < 0)
			return terrace_fail(TERRACE_EINVAL, "the source's path \"%s\": %s", given,
			                    strerror(-err));
		ret->text = terrace_str(path);
		return TERRACE_OK;
	}
	return terrace_fail(TERRACE_EINVAL, "unknown kind of match: %d", (int)match->kind);
}

int terrace__check_strategy(const terrace_cache *cache, terrace_strategy strategy)
{
	if (strategy > TERRACE_STRATEGY_BATCH)
		return terrace_fail(TERRACE_EINVAL, "strategy is unknown");
	if (strategy != TERRACE_STRATEGY_IMMEDIATE || !cache || cache->tiers == 0 || cache->memory)
		return TERRACE_OK;
	return terrace_fail(TERRACE_EINVAL,
	                    "strategy immediate keeps a value in l1 alone, which cache %s does not "
	                    "have",
	                    cache->name);
}

int terrace__check_put_options(const terrace_cache *cache, const terrace_put_options *options,
                               terrace_put_options *ret)
{
	int rc = terrace__struct_in(ret, sizeof *ret, options, "the put's struct of options");

	if (rc != TERRACE_OK)
		return rc;
	if (ret->ttl_ms < TERRACE_TTL_NONE)
		return terrace_fail(TERRACE_EINVAL, "ttl_ms is negative: %" PRId64, ret->ttl_ms);
	if (ret->idle_ms < TERRACE_TTL_FOREVER)
		return terrace_fail(TERRACE_EINVAL, "idle_ms is negative: %" PRId64, ret->idle_ms);
	return terrace__check_strategy(cache, ret->strategy);
}

/* --- text ----------------------------------------------------------------------------------- */

int terrace_parse_size(const char *text, uint64_t *ret_bytes)
{
	if (text && terrace__text_size(text, ret_bytes))
		return TERRACE_OK;
	return terrace_fail(TERRACE_EINVAL, "\"%s\" is no size; write 64M or 1.5G",
	                    text ? text : "");
}

int terrace_parse_duration(const char *text, int64_t *ret_ms)
{
	if (text && terrace__text_duration(text, ret_ms))
		return TERRACE_OK;
	return terrace_fail(TERRACE_EINVAL,
	                    "\"%s\" is no duration; write 90s, 2h, 1h30m or forever",
	                    text ? text : "");
}

const char *terrace_format_size(uint64_t bytes, char text[TERRACE_TEXT_MAX])
{
	terrace__text_put_size(bytes, text, TERRACE_TEXT_MAX);
	return text;
}

const char *terrace_format_duration(int64_t ms, char text[TERRACE_TEXT_MAX])
{
	terrace__text_put_duration(ms, text, TERRACE_TEXT_MAX);
	return text;
}
