/*
 * Write-behind: a put is in L1 and in a queue when it returns; a thread of the
 * store commits the queue, many values in one transaction.
 *
 * No process reads an older row meanwhile: the key's version carries the mark
 * `behind` (see coherence.h) until the row is committed. Who finds the mark and
 * has not the value itself, misses. Before the mark is set, the value is
 * written down in the process's lane, so that when the process dies, another
 * removes the rows that it meant to replace, and only then takes the mark off.
 *
 * A value that waits is dropped, as if it had been evicted, when anything else
 * is written to its slot, or its cache's epoch moves: it may be out of date.
 */
#ifndef CORE_BEHIND_H
#define CORE_BEHIND_H

#include "core/write.h"

/* A value that waits. Guarded by behind.lock, but for what a flush only reads. */
struct pending {
	struct pending *next;         /* in order of arrival */
	struct pending *next_in_slot; /* of a bucket of slots */
	struct terrace_cache *cache;
	struct entry *entry; /* the key, and the value */
	uint32_t slot;
	uint64_t number; /* of the version: good while it has not moved */
	uint64_t epoch;
	uint64_t seq;  /* rows up to it are older */
	uint64_t mark; /* where it stands in the lane */
	bool flushing;
	bool superseded; /* by a later value of the same key */
	bool dead;       /* could not be written: only the older row is to go */
};

/*
 * Take a value. TERRACE_OK when it waits; TERRACE_MISS when the lease no longer
 * holds; TERRACE_EXISTS when it must be written through: the queue stayed full,
 * another process has values waiting for the slot, or there is no lane.
 */
int terrace__behind_put(struct terrace_cache *cache, const struct tier_key *key,
                        struct entry *entry, const struct write_lease *lease);

/*
 * The slot's version is marked. TERRACE_OK with a reference to the value that
 * waits; TERRACE_EXISTS when only other keys of the slot wait, here, so that
 * the row is good; TERRACE_MISS when the row is not to be trusted.
 */
int terrace__behind_get(struct terrace_cache *cache, const struct tier_key *key,
                        struct entry **ret);

/* Write what waits now; the first failure since the last call. */
int terrace__behind_flush(struct terrace *store);
/* Before a write that depends on what is there, or removes it. */
void terrace__behind_settle(struct terrace *store, uint32_t slot);
/* Give a key's byte back (see flight.c) as soon as what waits now is written. */
bool terrace__behind_hold_byte(struct terrace *store, uint64_t hash);

/* Within a transaction: one value of a flush. */
int terrace__behind_apply(struct transaction *transaction, struct write *write);
/* Has any process values of the cache (NULL: of any) waiting? */
bool terrace__behind_any(struct terrace *store, const struct terrace_cache *cache);

/* Remove what processes left that died. Without the writers' lock. */
void terrace__behind_reap(struct terrace *store);

/* The cache is about to close: write what waits; with `force`, what cannot be is given up. */
void terrace__behind_leave(struct terrace_cache *cache, bool force);
/* Has it values that wait? */
bool terrace__behind_waits(struct terrace_cache *cache);
/* Write what waits, and stop the thread. */
void terrace__behind_close(struct terrace *store);

#endif
