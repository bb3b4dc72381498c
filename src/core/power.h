/*
 * Power cuts. Commits are not synced one by one, so a power cut may take the
 * last ones back, and older values would show again. The file `unsynced` says
 * whether that may have happened: it holds the id of the boot in which values
 * were last written, synced to the device before the first of these writes
 * returns, and is set to "none" when the last process has left and all is on
 * the device. Who finds another boot's id in it, or no file, drops what is not
 * immutable.
 *
 * Where no cache is immutable that is all there is: the database itself is dropped,
 * and so need not survive in one piece. From the first checkpoint behind the mark
 * on nothing is synced. docs/COHERENCE.md has the reasons.
 */
#ifndef CORE_POWER_H
#define CORE_POWER_H

#include "core/store.h"

/*
 * Alone, under the attach lock, when what is shared was made anew: drop what
 * may be out of date. waiting_lost: what waited to be written in this boot is not
 * known any more, and any row may be one that it was to replace.
 */
int terrace__power_check(struct terrace *store, bool waiting_lost);
/* Move the log into the database, if that is due. Under the writers' lock, no transaction open. */
bool terrace__power_checkpoint(struct terrace *store, enum disk_checkpoint when);
/* From now on the database is to survive a power cut, for something in it will. The same. */
int terrace__power_tighten(struct terrace *store);
/* Drop all that is not immutable, and say why. Not under the writers' lock. */
int terrace__power_drop(struct terrace *store, const char *why);
/* The same under the writers' lock, no transaction open; a power cut may take it back. */
int terrace__floors_raise(struct terrace *store);
/* The same of one cache, be it immutable, to a number that is not below its floor; within a transaction. */
int terrace__floor_raise(struct terrace *store, uint32_t cache, uint64_t floor);

/* The same for what is only read: here it is dropped, and for nobody else. */
int terrace__power_check_snapshot(struct terrace *store);

/* See terrace__power_note(). */
int terrace__power_mark(struct terrace *store);

/* Before a write to the cache returns that must not be forgotten. */
static inline int terrace__power_note(struct terrace_cache *cache)
{
	if (shared_is_unsynced(cache->store->shared) ||
	    cache_is_immutable(cache->store->shared, cache->shared))
		return TERRACE_OK;
	return terrace__power_mark(cache->store);
}

/* The process has written all that it will: if it is the last one, sync. */
void terrace__power_leave(struct terrace *store);

/* The id of the boot, from `path` (NULL: the kernel's); or what is the same as no boot, when it cannot be told. */
int terrace__boot_id(const char *path, uint8_t ret[16]);
bool terrace__boot_same(const uint8_t a[16], const uint8_t b[16]);

#endif
