/*
 * Idle time: entries that die when nobody uses them. The stamp of the last use
 * is when they die; it moves when less than the idle time is left, which is once
 * in an eighth of it at most (see tiers/entry.h), in this process at once, and in
 * the row with other rows' by the next transaction or the keeper.
 */
#ifndef CORE_IDLE_H
#define CORE_IDLE_H

#include "core/store.h"

/* The idle time that is meant by one of the public headers. */
int64_t terrace__idle_ms(const struct terrace_cache *cache, int64_t idle_ms);

/* An entry with an idle time, of which `expires` is the time to live so far. */
void terrace__idle_begin(struct terrace_cache *cache, struct entry *entry, int64_t idle,
                         int64_t now);

/* Somebody gets an entry with an idle time. */
void terrace__idle_used(struct terrace_cache *cache, const struct tier_key *key,
                        struct entry *entry);

/* Within a transaction: write down up to `most` uses. */
int terrace__idle_flush(struct terrace *store, size_t most);
/* It has ended; of one that was rolled back the uses wait again. */
void terrace__idle_flushed(struct terrace *store, bool committed);
/* What waits, now; for the keeper. */
void terrace__idle_settle(struct terrace *store);

void terrace__idle_done(struct terrace *store);

/* To be called with each hit; costs a load where no entry has an idle time. */
static inline void idle_hit(struct terrace_cache *cache, const struct tier_key *key,
                            struct entry *entry)
{
	if (__builtin_expect(atomic_load_explicit(&cache->has_idle, memory_order_relaxed), 0) &&
	    entry_rest(entry)->idle)
		terrace__idle_used(cache, key, entry);
}

#endif
