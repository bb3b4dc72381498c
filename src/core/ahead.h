/*
 * Reading ahead: what will be asked for next is brought into L1 before. By
 * prediction, on a thread of the cache (PREEMPTIVE), or with a key of the same
 * range, on the caller's (BATCH).
 *
 * What is predicted from, and learnt, is the stream of keys as it would be without
 * prediction: those that L1 did not have, and the first hit of each that was
 * predicted. So a hit of anything else costs a hash and a load.
 *
 * Who asks must not wait for this: the key goes into a ring if its lock is free, and
 * the thread, which is no reason to stop whoever runs, is woken for misses, and for
 * hits of what was predicted when half of that is used up. Submitting a job for each
 * (terrace/jobs.h) took 10 us on a busy machine; this takes 2.
 */
#ifndef CORE_AHEAD_H
#define CORE_AHEAD_H

#include "core/lookup.h"

/* Keys that go with another; each stands in the buffer behind its size. */
struct terrace_next {
	struct buf keys;
	size_t count;
};

enum { NEXT_KEYS = 256, NEXT_BYTES = 64 << 10 };

struct ahead;

/*
 * Somebody has asked for a key and was given it by that tier (0: by none), under
 * this strategy, which is PREEMPTIVE or BATCH.
 */
void terrace__ahead_asked(struct terrace_cache *cache, terrace_slice key, terrace_strategy strategy,
                          unsigned tier);

void terrace__ahead_evicted(struct ahead *ahead, uint64_t hash);
/* The cache closes: what was predicted and is not used by now never will be. */
void terrace__ahead_close(struct terrace_cache *cache);
/* Wait until what was asked for is worked off; for tests. */
void terrace__ahead_settle(struct terrace_cache *cache);

static inline void ahead_evicted(struct terrace_cache *cache, uint64_t hash)
{
	struct ahead *ahead = atomic_load_explicit(&cache->ahead, memory_order_acquire);

	if (__builtin_expect(ahead != NULL, 0))
		terrace__ahead_evicted(ahead, hash);
}

#endif
