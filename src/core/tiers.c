#include "core/tiers.h"

#include "tiers/memory/memory.h"
#include "tiers/sqlite/disk.h"

int terrace__tiers_memory(const char *eviction, bool by_count, bool backed, unsigned shards,
                          struct tier_pool *pool, const struct tier_ops **ret_ops, void **ret_tier)
{
	struct evict_setting setting = { .by_count = by_count, .backed = backed };
	struct memory *memory;
	int rc = terrace__memory_open(terrace__evict_find(eviction), &setting, shards, pool,
	                              &memory);

	if (rc != TERRACE_OK)
		return rc;
	*ret_ops = &terrace__memory_ops;
	*ret_tier = memory;
	return TERRACE_OK;
}

uint64_t terrace__tiers_memory_bytes(const void *tier)
{
	return terrace__memory_bytes(tier);
}

uint64_t terrace__tiers_memory_entries(const void *tier)
{
	return terrace__memory_entries(tier);
}

struct memory_counts terrace__tiers_memory_counts(void *tier)
{
	return terrace__memory_counts(tier);
}

bool terrace__tiers_memory_gone(void *tier, uint64_t hash, int64_t *ret_when)
{
	return terrace__memory_gone(tier, hash, ret_when);
}

int terrace__tiers_disk(int dir_fd, const char *path, struct disk_shared *shared, bool read_only,
                        uint64_t log_bytes, uint64_t value_max, const struct disk_ops **ret_ops,
                        void **ret_disk)
{
	struct disk *disk;
	int rc = terrace__disk_open(dir_fd, path, shared, read_only, log_bytes, value_max, &disk);

	if (rc != TERRACE_OK)
		return rc;
	*ret_ops = &terrace__disk_ops;
	*ret_disk = disk;
	return TERRACE_OK;
}

int terrace__tiers_watch_forks(void)
{
	return terrace__disk_watch_forks();
}

bool terrace__tiers_fork_was_quiet(void)
{
	return terrace__disk_fork_was_quiet();
}

const char *terrace__tiers_evictions(const char *name)
{
	const struct evict_ops *evict = terrace__evict_find(name);

	return evict ? evict->name : NULL;
}
