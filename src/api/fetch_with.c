/* Fetch with a limit on the waiting: loaders on threads of the store. */
#include "api/api.h"

#include "core/flight.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <stdio.h>
#include <stdlib.h>

/* A loader at work; the caller that started it may be gone. */
struct job {
	struct terrace_lease *lease;
	struct terrace_cache *cache;
	terrace_load_fn *load;
	void (*release)(void *ctx);
	void *ctx;
	unsigned users; /* guarded by jobs.lock, as all below */
	bool done;
	int rc;
	terrace_value *value;
	char message[256];
};

static void job_leave(struct loader_jobs *jobs, struct job *job)
{
	bool last;

	pthread_mutex_lock(&jobs->lock);
	last = --job->users == 0;
	pthread_mutex_unlock(&jobs->lock);
	if (!last)
		return;
	terrace_release(job->value);
	free(job);
}

static void *job_run(void *arg)
{
	struct job *job = arg;
	struct terrace_cache *cache = job->cache;
	struct loader_jobs *jobs = &cache->store->jobs;
	terrace_value *value = NULL;
	int rc;

	terrace__lease_enter(job->lease);
	rc = terrace__compute(job->lease, job->load, job->ctx, &value);
	if (job->release)
		job->release(job->ctx);
	pthread_mutex_lock(&jobs->lock);
	job->rc = rc;
	job->value = value;
	snprintf(job->message, sizeof job->message, "%s", rc ? terrace__message() : "");
	job->done = true;
	pthread_cond_broadcast(&jobs->changed);
	pthread_mutex_unlock(&jobs->lock);
	job_leave(jobs, job);
	terrace__cache_close(cache, false);
	pthread_mutex_lock(&jobs->lock);
	jobs->running--;
	pthread_cond_broadcast(&jobs->changed);
	pthread_mutex_unlock(&jobs->lock);
	return NULL;
}

/* False when there is no thread to be had, and nothing has happened. */
static bool job_start(struct job *job)
{
	struct terrace *store = job->cache->store;
	struct loader_jobs *jobs = &store->jobs;
	pthread_attr_t detached;
	pthread_t thread;
	bool started;

	pthread_mutex_lock(&jobs->lock);
	started = jobs->running < JOBS_MAX;
	jobs->running += started;
	pthread_mutex_unlock(&jobs->lock);
	if (!started)
		return false;
	terrace__lease_leave(job->lease);
	pthread_mutex_lock(&store->caches_lock);
	job->cache->handles++;
	pthread_mutex_unlock(&store->caches_lock);
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	started = pthread_create(&thread, &detached, job_run, job) == 0;
	pthread_attr_destroy(&detached);
	if (started)
		return true;
	pthread_mutex_lock(&store->caches_lock);
	job->cache->handles--;
	pthread_mutex_unlock(&store->caches_lock);
	terrace__lease_enter(job->lease);
	pthread_mutex_lock(&jobs->lock);
	jobs->running--;
	pthread_mutex_unlock(&jobs->lock);
	return false;
}

/* True when it is done before the deadline, which may be "never". */
static bool job_wait(struct loader_jobs *jobs, struct job *job, int64_t deadline)
{
	struct timespec until = { deadline / 1000, (long)(deadline % 1000) * 1000000 };
	bool done;

	pthread_mutex_lock(&jobs->lock);
	while (!job->done && terrace__clock_ms(CLOCK_MONOTONIC) < deadline)
		pthread_cond_timedwait(&jobs->changed, &jobs->lock, &until);
	done = job->done;
	pthread_mutex_unlock(&jobs->lock);
	return done;
}

static int job_result(struct job *job, terrace_value **ret)
{
	if (job->rc == TERRACE_OK) {
		*ret = job->value;
		job->value = NULL;
	} else if (job->rc != TERRACE_ABSENT) {
		terrace__message_set("%s", job->message);
	}
	return job->rc;
}

static int too_late(terrace_slice key, int64_t hard_ms)
{
	return terrace_fail(TERRACE_EBUSY, "\"%.*s\" was not computed within %lld ms",
	                    (int)min_u64(key.size, 100), (const char *)key.data,
	                    (long long)hard_ms);
}

static bool take_stale(struct terrace_cache *cache, terrace_slice key, int64_t window,
                       terrace_value **ret)
{
	struct entry *entry;

	if (terrace__get_stale(cache, key, window, &entry) != TERRACE_OK)
		return false;
	*ret = value_of(entry, terrace__found_stale(cache, entry));
	return true;
}

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* A loader that takes too long is as bad as one that fails. */
static int64_t window(const struct terrace_cache *cache)
{
	return cache->stale_ms > cache->stale_error_ms ? cache->stale_ms : cache->stale_error_ms;
}

/* The job runs: what its caller gets, and when. */
static int await(struct job *job, terrace_slice key, const terrace_fetch_options *options,
                 int64_t start, terrace_value **ret)
{
	struct terrace_cache *cache = job->cache;
	struct loader_jobs *jobs = &cache->store->jobs;
	int64_t hard = options->hard_ms ? add_sat_i64(start, options->hard_ms) : INT64_MAX;

	if (options->background && take_stale(cache, key, cache->stale_ms, ret))
		return TERRACE_OK;
	if (options->soft_ms && !job_wait(jobs, job, add_sat_i64(start, options->soft_ms)) &&
	    take_stale(cache, key, window(cache), ret))
		return TERRACE_OK;
	if (!job_wait(jobs, job, hard))
		return too_late(key, options->hard_ms);
	return job_result(job, ret);
}

/* With the lease of the key. */
static void let_go(const terrace_fetch_options *options, void *ctx)
{
	if (options->release)
		options->release(ctx);
}

static int compute_aside(struct terrace_lease *lease, terrace_slice key, terrace_load_fn *load,
                         void *ctx, const terrace_fetch_options *options, int64_t start,
                         terrace_value **ret)
{
	struct terrace_cache *cache = lease->cache;
	struct job *job = NULL;
	int rc;

	/* Within a transaction another thread could not store, and would wait for this one. */
	if (!terrace__transaction_mine(cache->store))
		job = calloc(1, sizeof *job);
	if (job) {
		*job = (struct job){ .lease = lease,
			             .cache = cache,
			             .load = load,
			             .release = options->release,
			             .ctx = ctx,
			             .users = 2 };
		if (job_start(job)) {
			rc = await(job, key, options, start, ret);
			job_leave(&cache->store->jobs, job);
			return rc;
		}
		free(job);
	}
	rc = terrace__compute(lease, load, ctx, ret);
	let_go(options, ctx);
	return rc;
}

static int without_lease(struct terrace_cache *cache, terrace_slice key, terrace_load_fn *load,
                         void *ctx, const terrace_fetch_options *options, terrace_value **ret)
{
	int rc = terrace__load_alone(cache, key, FLIGHT_OBJECT, load, ctx, ret);

	let_go(options, ctx);
	return rc;
}

/*
 * The value, or the lease to compute it (TERRACE_MISS), within the limits: it
 * may be another caller who computes for longer than we may wait.
 */
static int begin_in_time(struct terrace_cache *cache, terrace_slice key,
                         const terrace_fetch_options *options, int64_t start,
                         struct terrace_lease **ret_lease, terrace_value **ret, int *ret_code)
{
	int64_t limits[] = { options->soft_ms, options->hard_ms };

	for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
		int64_t until = add_sat_i64(start, limits[i]);
		int64_t left = until - terrace__clock_ms(CLOCK_MONOTONIC);
		int rc;

		if (limits[i] == 0)
			continue;
		rc = terrace__fetch_begin(cache, key, left > 0 ? left : 0, FLIGHT_OBJECT, ret_lease,
		                          ret, ret_code);
		if (rc != TERRACE_MISS || !*ret_lease || (*ret_lease)->flight ||
		    terrace__clock_ms(CLOCK_MONOTONIC) < until)
			return rc;
		terrace__lease_end(*ret_lease, NULL, 0);
		if (take_stale(cache, key, window(cache), ret))
			return TERRACE_OK;
	}
	if (options->hard_ms)
		return too_late(key, options->hard_ms);
	return terrace__fetch_begin(cache, key, cache->store->wait_ms, FLIGHT_OBJECT, ret_lease,
	                            ret, ret_code);
}

static int check(const terrace_cache *cache, terrace_slice key,
                 const terrace_fetch_options *options)
{
	int rc = terrace__check_cache(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc == TERRACE_OK && (options->soft_ms < 0 || options->hard_ms < 0))
		rc = terrace_fail(TERRACE_EINVAL, "soft_ms and hard_ms must not be negative");
	if (rc == TERRACE_OK)
		rc = terrace__check_strategy(cache, options->strategy);
	return rc;
}

int terrace_fetch_with(terrace_cache *cache, terrace_slice key, terrace_load_fn *load, void *ctx,
                       const terrace_fetch_options *options, terrace_value **ret)
{
	int64_t start = terrace__clock_ms(CLOCK_MONOTONIC);
	terrace_fetch_options ours;
	struct terrace_lease *lease;
	int rc = terrace__struct_in(&ours, sizeof ours, options, "the fetch's struct of options");
	int code;

	if (rc != TERRACE_OK)
		return rc;
	rc = check(cache, key, &ours);
	if (rc != TERRACE_OK) {
		let_go(&ours, ctx);
		return rc;
	}
	if (ours.hard_ms)
		ours.soft_ms = earlier(ours.soft_ms, ours.hard_ms);
	if (!cache)
		return without_lease(NULL, key, load, ctx, &ours, ret);
	rc = begin_in_time(cache, key, &ours, start, &lease, ret, &code);
	asked_for(cache, key, ours.strategy, rc, rc == TERRACE_OK ? terrace_value_tier(*ret) : 0);
	if (rc != TERRACE_MISS) {
		let_go(&ours, ctx);
		return rc == FLIGHT_FAILED ? code : rc;
	}
	if (!lease)
		return without_lease(cache, key, load, ctx, &ours, ret);
	lease->strategy = ours.strategy;
	return compute_aside(lease, key, load, ctx, &ours, start, ret);
}
