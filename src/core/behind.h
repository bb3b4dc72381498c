/*
 * Values that wait. A put is in L1 and in the process's lane (lane.h) when it
 * returns, and so for every process; a thread of the store makes rows of what
 * waits, many in one transaction, and so does whoever has to have a row.
 *
 * That is so for caches that write behind, and for single values of up to 64 KiB of
 * others, once a process has put some: a transaction for each would cost ten times as much.
 * The value outlives its process, as a row would.
 *
 * A value is dropped, as if it had been evicted, when anything else is written to its
 * slot, or its cache's epoch moves: it may be out of date.
 */
#ifndef CORE_BEHIND_H
#define CORE_BEHIND_H

#include "core/lane.h"
#include "core/write.h"

/*
 * Take a value. TERRACE_OK when it waits; TERRACE_MISS when the lease no longer
 * holds; TERRACE_EXISTS when it must be written through: the lane stayed full,
 * another value waits for the slot, or there is no lane.
 */
int terrace__behind_put(struct terrace_cache *cache, const struct tier_key *key,
                        struct entry *entry, const struct write_lease *lease);

/*
 * The slot was loaded with this version, which is marked. TERRACE_OK with a copy of the
 * value that waits, which holds while the version stands; TERRACE_EXISTS when it is
 * another key's, so that the row is good; TERRACE_EBUSY when somebody is at it, most likely
 * for a moment; TERRACE_MISS when there is none, and the row is not to be trusted.
 */
int terrace__behind_get(struct terrace_cache *cache, const struct tier_key *key, uint64_t version,
                        struct entry **ret);

/*
 * As terrace__lane_value(); of our own lane, whose places other threads use again, under
 * its lock, but for who makes rows of them.
 */
int terrace__behind_value(struct terrace *store, int lane, const struct lane_item *item,
                          struct entry **ret);

/* Is it this thread that makes rows of what waits in this process? */
bool terrace__behind_flushes(const struct terrace *store);
/* Write what waits in this process now; the first failure since the last call. */
int terrace__behind_flush(struct terrace *store);
/* The same in every process, as far as it can be written: for who asks the rows. */
void terrace__behind_settle_all(struct terrace *store);
/* Before a write that depends on what is there, or removes it. */
void terrace__behind_settle(struct terrace *store, uint32_t slot);
/* The same under the writers' lock, no transaction open: what has come since. */
void terrace__behind_settle_now(struct terrace *store, uint32_t slot);
/*
 * What waits in this process, before a write that makes a row of a new key: rows are
 * listed in the order in which they were made. As above.
 */
bool terrace__behind_any_mine(const struct terrace *store);
void terrace__behind_settle_mine_now(struct terrace *store);

/* Make rows of what dead processes have left. */
void terrace__behind_reap(struct terrace *store);

/* The cache is about to close: write what waits. */
void terrace__behind_leave(struct terrace_cache *cache);
/* Write what waits, and stop the thread. */
void terrace__behind_close(struct terrace *store);

#endif
