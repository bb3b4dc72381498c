/* The one place that names all tiers: everywhere else they are tables of functions. */
#ifndef CORE_TIERS_H
#define CORE_TIERS_H

#include "tiers/tier.h"

/*
 * L1. eviction: a name that terrace__tiers_evictions() knows. by_count: only the
 * number of entries is limited. backed: a lower tier has what is evicted.
 */
int terrace__tiers_memory(const char *eviction, bool by_count, bool backed, unsigned shards,
                          struct tier_pool *pool, const struct tier_ops **ret_ops, void **ret_tier);
uint64_t terrace__tiers_memory_bytes(const void *tier);
uint64_t terrace__tiers_memory_entries(const void *tier);
struct memory_counts terrace__tiers_memory_counts(void *tier);
bool terrace__tiers_memory_gone(void *tier, uint64_t hash, int64_t *ret_when);

/* L2 and L3; see disk.h. */
int terrace__tiers_disk(int dir_fd, const char *path, struct disk_shared *shared, bool read_only,
                        uint64_t log_bytes, uint64_t value_max, const struct disk_ops **ret_ops,
                        void **ret_disk);

/* The name itself when there is an eviction policy of that name, else NULL. */
const char *terrace__tiers_evictions(const char *name);

/* See disk.h. */
int terrace__tiers_watch_forks(void);
bool terrace__tiers_fork_was_quiet(void);

#endif
