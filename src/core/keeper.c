#include "core/keeper.h"

#include "core/caches.h"
#include "core/idle.h"
#include "core/processes.h"
#include "core/lookup.h"
#include "util/slab.h"
#include "util/thread.h"
#include "util/time.h"
#include "util/util.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>

/* Processes that are done within this time never have the thread. */
#define START_AFTER_NS UINT64_C(1000000000)
enum { TICK_MS = 1000, STATISTICS_MS = 5000 };

void terrace__keeper_init(struct terrace *store)
{
	struct keeper *keeper = &store->keeper;
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&keeper->lock, NULL);
	pthread_cond_init(&keeper->wake, &monotonic);
	pthread_cond_init(&keeper->folded, NULL);
	pthread_condattr_destroy(&monotonic);
	keeper->pressure.calm_since = -1;
	atomic_init(&keeper->due_ns, terrace__now_ns() + START_AFTER_NS);
}

/* --- statistics ---------------------------------------------------------------------------------- */

/* The open cache with the next number; it is not closed before done_with(). */
static struct terrace_cache *next_cache(struct terrace *store, int64_t after)
{
	struct terrace_cache *found = NULL;

	pthread_mutex_lock(&store->caches_lock);
	for (struct terrace_cache *cache = store->caches; cache; cache = cache->next) {
		if (cache->tiers && cache->number > after &&
		    (!found || cache->number < found->number))
			found = cache;
	}
	store->keeper.folding = found;
	pthread_mutex_unlock(&store->caches_lock);
	return found;
}

static void done_with(struct terrace *store)
{
	pthread_mutex_lock(&store->caches_lock);
	store->keeper.folding = NULL;
	pthread_cond_broadcast(&store->keeper.folded);
	pthread_mutex_unlock(&store->caches_lock);
}

void terrace__keeper_await(struct terrace *store, const struct terrace_cache *cache)
{
	while (store->keeper.folding == cache)
		pthread_cond_wait(&store->keeper.folded, &store->caches_lock);
}

/* Summing L1's hits takes a look at every entry: no more than a hundredth of the time goes into it. */
static void fold_all(struct terrace *store, int64_t now_ms)
{
	uint64_t start = terrace__now_ns();
	struct terrace_cache *cache;
	int64_t last = -1;

	while ((cache = next_cache(store, last))) {
		last = cache->number;
		terrace__stats_fold(cache);
		terrace__codecs_tick(cache);
		done_with(store);
	}
	store->keeper.fold_at = now_ms + STATISTICS_MS +
	                        (int64_t)((terrace__now_ns() - start) / 10000);
}

/* --- memory -------------------------------------------------------------------------------------- */

static void keep_pool(struct terrace *store, enum pressure_level level, int64_t now_ms,
                      struct tier_pool *pool, struct memory_limit *limit, uint64_t promised)
{
	const uint64_t now = atomic_load(&limit->now), used = atomic_load(&pool->bytes);
	uint64_t most = atomic_load(&limit->most), next;
	const bool limited = most != 0;

	/* Without a limit, what is in use when memory becomes short is the measure. */
	if (!limited) {
		if (now == 0)
			limit->pressed = max_u64(used, KEEPER_BYTES);
		most = limit->pressed;
	}
	next = terrace__pressure_limit(&store->keeper.pressure, level, now_ms, now ? now : most,
	                               used, max_u64(promised, most / 16), most);
	if (!limited && next >= most)
		next = 0;
	if (next == now)
		return;
	terrace__log(store, TERRACE_LOG_INFO,
	             "memory %s (stalled %.1f %%, control group %.1f %% used): "
	             "the limit goes from %" PRIu64 " to %" PRIu64 " bytes",
	             level == PRESSURE_TIGHT ? "is short" : "is there again",
	             store->keeper.pressure.stalled, store->keeper.pressure.used, now, next);
	atomic_store(&limit->now, next);
}

static void keep_memory(struct terrace *store, int64_t now_ms)
{
	struct pressure *pressure = &store->keeper.pressure;
	enum pressure_level level;
	uint64_t before = atomic_load(&store->pool.bytes) + atomic_load(&store->encoded_pool.bytes),
		 after;
	int64_t before_both, after_first;

	pthread_mutex_lock(&store->keeper.lock);
	level = terrace__pressure_read(pressure);
	before_both = pressure->calm_since;
	keep_pool(store, level, now_ms, &store->pool, &store->memory,
	          terrace__memory_promised(store, NULL));
	/* Both grow at the same time; or one alone, where the other need not any more. */
	after_first = pressure->calm_since;
	pressure->calm_since = before_both;
	keep_pool(store, level, now_ms, &store->encoded_pool, &store->encoded, 0);
	if (pressure->calm_since == before_both)
		pressure->calm_since = after_first;
	pthread_mutex_unlock(&store->keeper.lock);
	terrace__memory_shrink(store);
	after = atomic_load(&store->pool.bytes) + atomic_load(&store->encoded_pool.bytes);
	/* What was freed is the process's until its allocators give it back. */
	if (level == PRESSURE_TIGHT && after + KEEPER_BYTES < before) {
		terrace__slab_trim();
#ifdef __GLIBC__
		malloc_trim(0);
#endif
	}
}

/* --- the thread ---------------------------------------------------------------------------------- */

void terrace__keeper_tick(struct terrace *store, int64_t now_ms)
{
	terrace__idle_settle(store);
	if (store->watches_memory)
		keep_memory(store, now_ms);
	if (now_ms < store->keeper.fold_at)
		return;
	fold_all(store, now_ms);
	terrace__process_renew(store);
}

static void *run(void *ctx)
{
	struct terrace *store = ctx;
	struct keeper *keeper = &store->keeper;

	pthread_mutex_lock(&keeper->lock);
	while (!keeper->stopping) {
		int64_t until = terrace__clock_ms(CLOCK_MONOTONIC) + TICK_MS;
		struct timespec at = { until / 1000, (long)(until % 1000) * 1000000 };

		while (!keeper->stopping &&
		       pthread_cond_timedwait(&keeper->wake, &keeper->lock, &at) != ETIMEDOUT)
			;
		if (keeper->stopping)
			break;
		pthread_mutex_unlock(&keeper->lock);
		terrace__keeper_tick(store, terrace__clock_ms(CLOCK_MONOTONIC));
		pthread_mutex_lock(&keeper->lock);
	}
	pthread_mutex_unlock(&keeper->lock);
	return NULL;
}

void terrace__keeper_start(struct terrace *store)
{
	struct keeper *keeper = &store->keeper;

	pthread_mutex_lock(&keeper->lock);
	if (!keeper->started) {
		keeper->started = true;
		atomic_store(&keeper->due_ns, UINT64_MAX);
		keeper->running = terrace__thread_start(&keeper->thread, run, store);
	}
	pthread_mutex_unlock(&keeper->lock);
}

void terrace__keeper_stop(struct terrace *store)
{
	struct keeper *keeper = &store->keeper;

	pthread_mutex_lock(&keeper->lock);
	keeper->started = keeper->stopping = true;
	pthread_cond_signal(&keeper->wake);
	pthread_mutex_unlock(&keeper->lock);
	if (keeper->running)
		pthread_join(keeper->thread, NULL);
	terrace__process_leave(store);
	pthread_mutex_destroy(&keeper->lock);
	pthread_cond_destroy(&keeper->wake);
	pthread_cond_destroy(&keeper->folded);
}
