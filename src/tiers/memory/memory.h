/*
 * L1: the entries of one cache in this process's memory. Readers take no lock;
 * writers lock one of the shards. Nothing here knows time, versions or limits.
 */
#ifndef MEMORY_MEMORY_H
#define MEMORY_MEMORY_H

#include "tiers/memory/evict.h"
#include "tiers/tier.h"

struct memory;

extern const struct tier_ops terrace__memory_ops;

/*
 * shards: a power of two; more of them let more threads write, fewer evict better.
 * pool:   counts with this one and its like; may be NULL.
 */
int terrace__memory_open(const struct evict_ops *evict, const struct evict_setting *setting,
                         unsigned shards, struct tier_pool *pool, struct memory **ret);

/* Looks at every entry. */
struct memory_counts terrace__memory_counts(struct memory *memory);

/* Was it evicted lately, and when? Of caches that no lower tier backs. */
bool terrace__memory_gone(struct memory *memory, uint64_t hash, int64_t *ret_when);

/* Without a lock; what usage says, to the precision of a moment. */
uint64_t terrace__memory_bytes(const struct memory *memory);
uint64_t terrace__memory_entries(const struct memory *memory);

#endif
