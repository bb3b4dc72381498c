/* What L1 holds, and its limits, by hand. */
#include "api/api.h"

#include "core/keeper.h"
#include "core/processes.h"
#include "util/message.h"

#include <inttypes.h>

int terrace_memory_usage(terrace *store, terrace_memory *ret)
{
	terrace_memory memory = TERRACE_MEMORY_INIT;
	int rc = store ? terrace__check_store(store) : TERRACE_OK;

	if (rc != TERRACE_OK)
		return rc;
	if (ret->size < sizeof memory)
		return terrace_fail(TERRACE_EINVAL, "the memory struct is of an older version");
	if (!store) {
		*ret = memory;
		return TERRACE_OK;
	}
	memory.bytes = atomic_load(&store->pool.bytes);
	memory.entries = atomic_load(&store->pool.entries);
	memory.limit_bytes = atomic_load(&store->memory.now);
	memory.most_bytes = atomic_load(&store->memory.most);
	memory.encoded_bytes = atomic_load(&store->encoded_pool.bytes);
	memory.encoded_limit_bytes = atomic_load(&store->encoded.now);
	pthread_mutex_lock(&store->keeper.lock);
	memory.stalled_percent = store->keeper.pressure.stalled;
	memory.group_percent = store->keeper.pressure.used;
	memory.tight = store->keeper.pressure.tight;
	pthread_mutex_unlock(&store->keeper.lock);
	*ret = memory;
	return TERRACE_OK;
}

int terrace_resize(terrace *store, uint64_t bytes)
{
	int rc = store ? terrace__check_store(store) : TERRACE_OK;
	uint64_t promised;

	if (rc != TERRACE_OK || !store)
		return rc;
	promised = terrace__memory_promised(store, NULL);
	if (bytes == 0 || bytes < promised)
		return terrace_fail(TERRACE_EINVAL,
		                    "L1 cannot be resized to %" PRIu64 " bytes: its caches are "
		                    "promised %" PRIu64 "; give more, or use terrace_evict()",
		                    bytes, promised);
	pthread_mutex_lock(&store->keeper.lock);
	atomic_store(&store->memory.most, bytes);
	atomic_store(&store->memory.now, bytes);
	pthread_mutex_unlock(&store->keeper.lock);
	terrace__memory_shrink(store);
	return TERRACE_OK;
}

int terrace_cache_resize(terrace_cache *cache, uint64_t bytes)
{
	int rc = terrace__check_cache(cache);
	uint64_t used;

	if (rc != TERRACE_OK || holds_nothing(cache))
		return rc;
	if (bytes && bytes < cache->memory_min_bytes)
		return terrace_fail(TERRACE_EINVAL,
		                    "cache %s cannot be resized to %" PRIu64 " bytes: it is "
		                    "promised %" PRIu64,
		                    cache->name, bytes, cache->memory_min_bytes);
	atomic_store(&cache->memory_bytes, bytes);
	used = cache->memory ? terrace__tiers_memory_bytes(cache->memory) : 0;
	if (bytes && used > bytes)
		terrace__memory_evict(cache, used - bytes, 0);
	return TERRACE_OK;
}

int terrace_evict(terrace_cache *cache, uint64_t count, uint64_t *ret)
{
	int rc = terrace__check_cache(cache);

	if (ret)
		*ret = 0;
	if (rc != TERRACE_OK || holds_nothing(cache) || count == 0)
		return rc;
	count = terrace__memory_evict(cache, 0, count);
	if (ret)
		*ret = count;
	return TERRACE_OK;
}

int terrace_processes_each(terrace *store, int (*fn)(void *ctx, const terrace_process *process),
                           void *ctx)
{
	struct process_record records[PROCESSES_MAX];
	int rc = store ? terrace__check_store(store) : TERRACE_OK;
	size_t count;

	if (rc != TERRACE_OK || !store || store->disabled)
		return rc;
	if (!fn)
		return terrace_fail(TERRACE_EINVAL, "there is no function to call for processes");
	count = terrace__processes_read(store, records);
	for (size_t i = 0; i < count; i++) {
		const terrace_process process = {
			.size = sizeof process,
			.pid = records[i].pid,
			.seen_ms = records[i].seen,
			.memory_bytes = records[i].bytes,
			.memory_entries = records[i].entries,
			.memory_limit_bytes = records[i].limit,
			.encoded_bytes = records[i].encoded,
			.tight = records[i].tight != 0,
		};

		if (fn(ctx, &process))
			break;
	}
	return TERRACE_OK;
}
