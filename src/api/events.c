#include "core/events.h"

#include "api/api.h"
#include "util/util.h"

enum { QUEUE_MAX = 1 << 20 };

const char *terrace_event_name(terrace_event_kind kind)
{
	static const struct {
		terrace_event_kind kind;
		const char *name;
	} names[] = {
		{ TERRACE_EVENT_HIT, "hit" },       { TERRACE_EVENT_MISS, "miss" },
		{ TERRACE_EVENT_PUT, "put" },       { TERRACE_EVENT_EVICT, "evict" },
		{ TERRACE_EVENT_EXPIRE, "expire" }, { TERRACE_EVENT_ERROR, "error" },
		{ TERRACE_EVENT_BATCH, "batch" },   { TERRACE_EVENT_STATISTICS, "statistics" },
	};

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		if (names[i].kind == kind)
			return names[i].name;
	}
	return "unknown";
}

int terrace_subscribe(terrace_cache *cache, const terrace_subscribe_options *options,
                      terrace_event_fn *fn, void *ctx, terrace_subscription **ret)
{
	terrace_subscribe_options ours;
	int rc = terrace__check_cache(cache);

	if (rc != TERRACE_OK)
		return rc;
	rc = terrace__struct_in(&ours, sizeof ours, options, "the subscription's struct");
	if (rc != TERRACE_OK)
		return rc;
	if (!fn)
		return terrace_fail(TERRACE_EINVAL, "a subscription needs a function to call");
	if (ours.kinds & ~(unsigned)TERRACE_EVENT_ALL || ours.queue > QUEUE_MAX ||
	    ours.statistics_ms < 0)
		return terrace_fail(TERRACE_EINVAL,
		                    "a subscription takes known kinds of events, a queue of up to "
		                    "%d, and a time that is not negative",
		                    QUEUE_MAX);
	if (holds_nothing(cache)) {
		*ret = NULL;
		return TERRACE_OK;
	}
	rc = terrace__subscribe(cache, &ours, fn, ctx, ret);
	if (rc != TERRACE_OK)
		terrace_fail(rc, "no thread can be had for a subscription to cache %s",
		             cache->name);
	return rc;
}

void terrace_unsubscribe(terrace_subscription *subscription)
{
	if (subscription)
		terrace__unsubscribe(subscription);
}
