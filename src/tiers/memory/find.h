/* The search of a hit, to be compiled in place. */
#ifndef MEMORY_FIND_H
#define MEMORY_FIND_H

#include "tiers/memory/table.h"

/* What a struct memory begins with. */
struct memory_tables {
	_Atomic(struct table *) *tables; /* of each shard */
	uint64_t mask;
};

static inline uint64_t memory_shard(const struct memory_tables *tables, uint64_t hash)
{
	/* Bits that neither buckets nor tags are found by. */
	return hash >> 36 & tables->mask;
}

/*
 * As memory's get without a hit, where that takes neither a second look nor a count; NULL
 * says nothing.
 */
static inline struct entry *memory_find(const void *tier, terrace_slice key, uint64_t hash)
{
	const struct memory_tables *tables = tier;
	struct epoch_slot *slot = terrace__epoch_mine;
	struct entry *entry;

	if (__builtin_expect(!slot, 0))
		return NULL;
	terrace__epoch_enter(slot);
	entry = table_find_fast(
	    atomic_load_explicit(&tables->tables[memory_shard(tables, hash)], memory_order_acquire),
	    key, hash);
	if (__builtin_expect(entry != NULL, 1) && __builtin_expect(!entry_hold(slot, entry), 0))
		entry = NULL;
	terrace__epoch_exit(slot);
	return entry;
}

#endif
