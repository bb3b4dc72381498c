/* Events: queues of what happened, and the threads that tell of it. */
#ifndef CORE_EVENTS_H
#define CORE_EVENTS_H

#include "core/store.h"

#include <terrace/events.h>

/* Of an event, what its place in the cache knows. */
struct event_facts {
	terrace_slice key;
	unsigned tier;
	uint64_t count;
	const char *detail; /* NULL: none */
};

int terrace__subscribe(struct terrace_cache *cache, const terrace_subscribe_options *options,
                       terrace_event_fn *fn, void *ctx, terrace_subscription **ret);
/* Closes the cache that it held open. */
void terrace__unsubscribe(terrace_subscription *subscription);
/* Does anybody listen, or has just ended itself? *ret_last is for terrace__events_end(). */
bool terrace__events_any(struct terrace *store, uint64_t *ret_last);
/* The store is being closed: end all deliveries to those who had subscribed by then. */
void terrace__events_end(struct terrace *store, uint64_t last);

/* Put it into the queues of all who want it. Takes and gives back a lock, and waits for nobody. */
void terrace__event(struct terrace_cache *cache, terrace_event_kind kind,
                    const struct event_facts *facts);

static inline bool events_wanted(const struct terrace_cache *cache, unsigned kinds)
{
	return __builtin_expect(
	    (atomic_load_explicit(&cache->events, memory_order_relaxed) & kinds) != 0, 0);
}

/* What happened to one key. */
static inline void event_of_key(struct terrace_cache *cache, terrace_event_kind kind,
                                terrace_slice key, unsigned tier)
{
	if (events_wanted(cache, kind)) {
		struct event_facts facts = { .key = key, .tier = tier, .count = 1 };

		terrace__event(cache, kind, &facts);
	}
}

/* What happened to so many entries. */
static inline void event_of_many(struct terrace_cache *cache, terrace_event_kind kind,
                                 unsigned tier, uint64_t count)
{
	struct event_facts facts = { .tier = tier, .count = count };

	if (count > 0 && events_wanted(cache, kind))
		terrace__event(cache, kind, &facts);
}

#endif
