/*
 * The keeper: a thread of a store that has been in use for a while, or holds
 * much. It adds statistics to the store's file, so that others see what this
 * process does, and lets L1 give memory back when the machine is short of it.
 */
#ifndef CORE_KEEPER_H
#define CORE_KEEPER_H

#include "core/store.h"
#include "util/util.h"

/* L1 below this is not worth a thread. */
#define KEEPER_BYTES (UINT64_C(1) << 20)

void terrace__keeper_init(struct terrace *store);
/* Once; where no thread can be had, nothing is kept, and nobody misses it. */
void terrace__keeper_start(struct terrace *store);
void terrace__keeper_stop(struct terrace *store);

/* Until the keeper is not at work on the cache, which is closing. Under caches_lock. */
void terrace__keeper_await(struct terrace *store, const struct terrace_cache *cache);

/* What the thread does when it wakes: for the thread, and for tests with times of their own. */
void terrace__keeper_tick(struct terrace *store, int64_t now_ms);

/* To be called where a time was taken anyway. */
static inline void keeper_at(struct terrace *store, uint64_t now_ns)
{
	if (UNLIKELY(now_ns > atomic_load_explicit(&store->keeper.due_ns, memory_order_relaxed)))
		terrace__keeper_start(store);
}

#endif
