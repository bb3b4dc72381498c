/*
 * The job engine. One lock guards everything but the count of the program's own
 * foreground work; items run without it. A job is in the queue of its priority
 * from its submission until it has finished.
 */
#include "api/api.h"

#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <terrace/jobs.h>

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define JOBS_MAGIC UINT32_C(0x544a6f62)

enum {
	PRIORITIES = TERRACE_BULK + 1,
	THREADS_MAX = 64,
};

#define MILLISECOND UINT64_C(1000000)
#define QUIET_NS    (50 * MILLISECOND)   /* of no foreground work, before bulk goes on */
#define PATIENCE_NS (1000 * MILLISECOND) /* between bulk items while it is never quiet so long */
#define YIELD_NS    (20 * MILLISECOND)

/* The threads that run urgent jobs, or those that run bulk. */
struct pool {
	pthread_cond_t work;
	pthread_t threads[THREADS_MAX];
	unsigned count;
	bool bulk;
	struct terrace_jobs *jobs;
};

struct terrace_jobs {
	uint32_t magic;
	unsigned forks;              /* see terrace__forks: a child has none of its threads */
	_Atomic unsigned references; /* the program's and one of each job */
	pthread_mutex_t lock;
	pthread_cond_t finished;
	struct terrace_job *first[PRIORITIES];
	struct pool urgent, bulk;
	unsigned running[PRIORITIES]; /* items under way */
	bool closing;
	_Atomic unsigned entered; /* foreground work of the program's own */
	_Atomic uint64_t left_ns; /* when foreground work last ended */
	uint64_t bulk_begun_ns;   /* when a bulk item last began */
};

struct terrace_job {
	struct terrace_jobs *jobs;
	struct terrace_job *next;
	_Atomic unsigned references; /* the caller's and the queue's */
	terrace_job_spec spec;
	uint64_t claimed; /* the next item */
	uint64_t done, skipped, failed;
	unsigned running;
	bool cancelled, finishing, over;
	uint64_t submitted_ns, finished_ns;
	uint64_t next_start_ns; /* with a rate limit */
	char last_error[256];
};

/* --- lifetimes -------------------------------------------------------------------------------- */

static void jobs_unref(struct terrace_jobs *jobs)
{
	if (atomic_fetch_sub(&jobs->references, 1) != 1)
		return;
	pthread_mutex_destroy(&jobs->lock);
	pthread_cond_destroy(&jobs->finished);
	pthread_cond_destroy(&jobs->urgent.work);
	pthread_cond_destroy(&jobs->bulk.work);
	jobs->magic = 0;
	free(jobs);
}

static void job_unref(struct terrace_job *job)
{
	struct terrace_jobs *jobs = job->jobs;

	if (atomic_fetch_sub(&job->references, 1) != 1)
		return;
	free(job);
	jobs_unref(jobs);
}

/* --- choosing what to run: under the lock ------------------------------------------------------- */

static bool has_items(const struct terrace_job *job)
{
	return !job->cancelled && job->claimed < job->spec.items;
}

static bool is_over(const struct terrace_job *job)
{
	return !has_items(job) && job->running == 0 && !job->finishing;
}

static bool any_items(const struct terrace_jobs *jobs, terrace_priority priority)
{
	for (const struct terrace_job *job = jobs->first[priority]; job; job = job->next) {
		if (has_items(job))
			return true;
	}
	return false;
}

static bool foreground_works(struct terrace_jobs *jobs)
{
	return atomic_load(&jobs->entered) || jobs->running[TERRACE_FOREGROUND] ||
	       any_items(jobs, TERRACE_FOREGROUND) || any_items(jobs, TERRACE_PREFETCH);
}

/*
 * Who pans asks for tiles in bursts: what begins between two of them is under
 * way when the next one comes. So it has to be quiet for a while. *until is when
 * to look again.
 */
static bool bulk_may_begin(struct terrace_jobs *jobs, uint64_t *until)
{
	uint64_t now = terrace__now_ns(), quiet = atomic_load(&jobs->left_ns) + QUIET_NS;

	if (foreground_works(jobs)) {
		*until = min_u64(*until, now + QUIET_NS);
		return false;
	}
	if (now >= quiet || now - jobs->bulk_begun_ns >= PATIENCE_NS)
		return true;
	*until = min_u64(*until, quiet);
	return false;
}

/* May an item of this priority begin now? */
static bool may_begin(struct terrace_jobs *jobs, terrace_priority priority, uint64_t *until)
{
	switch (priority) {
	case TERRACE_FOREGROUND:
		return true;
	case TERRACE_PREFETCH:
		/* One thread stays free for what somebody waits for. */
		return !any_items(jobs, TERRACE_FOREGROUND) &&
		       (jobs->urgent.count == 1 ||
		        jobs->running[TERRACE_PREFETCH] + 1 < jobs->urgent.count);
	case TERRACE_BULK:
		return any_items(jobs, TERRACE_BULK) && bulk_may_begin(jobs, until);
	}
	return false;
}

/*
 * The first job of this priority of which an item can begin. One that waits for
 * its rate is passed over; *until is when the earliest of those goes on.
 */
static struct terrace_job *first_ready(struct terrace_jobs *jobs, terrace_priority priority,
                                       uint64_t *until)
{
	uint64_t now = 0;

	for (struct terrace_job *job = jobs->first[priority]; job; job = job->next) {
		if (!has_items(job) || (job->spec.workers && job->running >= job->spec.workers))
			continue;
		if (job->spec.rate_limit) {
			now = now ? now : terrace__now_ns();
			if (job->next_start_ns > now) {
				*until = min_u64(*until, job->next_start_ns);
				continue;
			}
		}
		return job;
	}
	return NULL;
}

static struct terrace_job *first_over(struct terrace_jobs *jobs, terrace_priority priority)
{
	struct terrace_job *job = jobs->first[priority];

	while (job && !is_over(job))
		job = job->next;
	return job;
}

/* --- running ----------------------------------------------------------------------------------- */

/* Somebody else may have something to do now. Under the lock. */
static void wake(struct terrace_jobs *jobs)
{
	pthread_cond_signal(&jobs->urgent.work);
	pthread_cond_signal(&jobs->bulk.work);
}

static void unlink_job(struct terrace_job *job)
{
	struct terrace_job **at = &job->jobs->first[job->spec.priority];

	while (*at != job)
		at = &(*at)->next;
	*at = job->next;
}

/* Called and left with the lock held; not while `finished` runs. */
static void finish(struct terrace_job *job)
{
	struct terrace_jobs *jobs = job->jobs;

	job->finishing = true;
	job->finished_ns = terrace__now_ns();
	pthread_mutex_unlock(&jobs->lock);
	if (job->spec.finished)
		job->spec.finished(job->spec.ctx);
	pthread_mutex_lock(&jobs->lock);
	unlink_job(job);
	job->over = true;
	pthread_cond_broadcast(&jobs->finished);
	wake(jobs);
	pthread_mutex_unlock(&jobs->lock);
	job_unref(job);
	pthread_mutex_lock(&jobs->lock);
}

/* One item of a job: begun and accounted for under the lock, run without it. */
static void run_item(struct terrace_job *job)
{
	struct terrace_jobs *jobs = job->jobs;
	const terrace_job_spec *spec = &job->spec;
	uint64_t item = job->claimed++, now = terrace__now_ns(), interval = 0;
	bool skipped;
	int rc = TERRACE_EXISTS;

	job->running++;
	jobs->running[spec->priority]++;
	if (spec->priority == TERRACE_BULK)
		jobs->bulk_begun_ns = now;
	if (spec->rate_limit) {
		interval = UINT64_C(1000000000) / spec->rate_limit;
		job->next_start_ns = max_u64(now, job->next_start_ns) + interval;
	}
	wake(jobs);
	pthread_mutex_unlock(&jobs->lock);
	terrace__message_set("%s", "");
	skipped = spec->have && spec->have(spec->ctx, item);
	if (!skipped)
		rc = spec->run(spec->ctx, item);
	pthread_mutex_lock(&jobs->lock);
	if (skipped)
		job->next_start_ns -= interval; /* it took nothing from the rate */
	if (rc == TERRACE_OK)
		job->done++;
	else if (rc == TERRACE_EXISTS)
		job->skipped++;
	else
		job->failed++;
	if (rc != TERRACE_OK && rc != TERRACE_EXISTS)
		snprintf(job->last_error, sizeof job->last_error, "%s",
		         *terrace__message() ? terrace__message() : terrace_status_name(rc));
	job->running--;
	jobs->running[spec->priority]--;
	if (spec->priority == TERRACE_FOREGROUND)
		atomic_store(&jobs->left_ns, terrace__now_ns());
	wake(jobs);
}

/* For something to change, or the time that a rate gives. Under the lock. */
static void wait_for_work(struct pool *pool, uint64_t until)
{
	struct timespec when = {
		.tv_sec = (time_t)(until / 1000000000),
		.tv_nsec = (long)(until % 1000000000),
	};

	if (until == UINT64_MAX)
		pthread_cond_wait(&pool->work, &pool->jobs->lock);
	else
		pthread_cond_timedwait(&pool->work, &pool->jobs->lock, &when);
}

/* One step of a thread: false when there is nothing to do. Under the lock. */
static bool step(struct pool *pool, uint64_t *until)
{
	struct terrace_jobs *jobs = pool->jobs;
	terrace_priority from = pool->bulk ? TERRACE_BULK : TERRACE_FOREGROUND;
	terrace_priority to = pool->bulk ? TERRACE_BULK : TERRACE_PREFETCH;
	struct terrace_job *job;

	*until = UINT64_MAX;
	for (terrace_priority priority = from; priority <= to; priority++) {
		job = first_over(jobs, priority);
		if (job) {
			finish(job);
			return true;
		}
	}
	for (terrace_priority priority = from; priority <= to; priority++) {
		job = may_begin(jobs, priority, until) ? first_ready(jobs, priority, until) : NULL;
		if (job) {
			run_item(job);
			return true;
		}
	}
	return false;
}

/* A bulk thread gives way to everybody, and to nobody's disk. */
static void give_way(void)
{
	struct sched_param none = { 0 };

	/* Best effort: without it, it is still the items' order that protects. */
	(void)pthread_setschedparam(pthread_self(), SCHED_IDLE, &none);
#ifdef SYS_ioprio_set
	/* This thread, class idle. */
	(void)syscall(SYS_ioprio_set, 1, 0, 3 << 13);
#endif
}

/* The engine of which this is a bulk thread; NULL: it is none. */
static _Thread_local struct terrace_jobs *bulk_of;

void terrace_jobs_yield(void)
{
	struct terrace_jobs *jobs = bulk_of;
	uint64_t deadline;

	if (!jobs)
		return;
	deadline = terrace__now_ns() + YIELD_NS;
	pthread_mutex_lock(&jobs->lock);
	while (!jobs->closing && foreground_works(jobs) && terrace__now_ns() < deadline) {
		struct timespec soon = { (time_t)(deadline / 1000000000),
			                 (long)(deadline % 1000000000) };

		pthread_cond_timedwait(&jobs->bulk.work, &jobs->lock, &soon);
	}
	/* The signal may have been for another thread. */
	pthread_cond_signal(&jobs->bulk.work);
	pthread_mutex_unlock(&jobs->lock);
}

static void *thread_main(void *arg)
{
	struct pool *pool = arg;
	struct terrace_jobs *jobs = pool->jobs;
	uint64_t until;

	if (pool->bulk) {
		give_way();
		bulk_of = jobs;
	}
	pthread_mutex_lock(&jobs->lock);
	for (;;) {
		if (step(pool, &until))
			continue;
		if (jobs->closing)
			break; /* what is left is under way on other threads */
		wait_for_work(pool, until);
	}
	pthread_mutex_unlock(&jobs->lock);
	return NULL;
}

/* --- engines ------------------------------------------------------------------------------------ */

static int start_threads(struct pool *pool, unsigned count)
{
	while (pool->count < count) {
		int err;

		/* The count is what may_begin() goes by. */
		pthread_mutex_lock(&pool->jobs->lock);
		err = pthread_create(&pool->threads[pool->count], NULL, thread_main, pool);
		if (err == 0)
			pool->count++;
		pthread_mutex_unlock(&pool->jobs->lock);
		if (err)
			return terrace_fail(TERRACE_EIO, "cannot start a thread for jobs: %s",
			                    strerror(err));
	}
	return TERRACE_OK;
}

static unsigned default_workers(void)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	return processors < 2 ? 2 : processors > 16 ? 16 : (unsigned)processors;
}

static void pool_init(struct terrace_jobs *jobs, struct pool *pool, bool bulk)
{
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->work, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pool->jobs = jobs;
	pool->bulk = bulk;
}

/* A child's are dead: no thread is there to let go of a lock, or to run anything. */
static bool is_inherited(const struct terrace_jobs *jobs)
{
	return jobs->forks != atomic_load_explicit(&terrace__forks, memory_order_relaxed);
}

static int inherited(void)
{
	return terrace_fail(TERRACE_EFORK, "these jobs were opened before fork(), and their "
	                                   "threads are the parent's; open your own in the child");
}

int terrace_jobs_open(const terrace_jobs_options *options, terrace_jobs **ret)
{
	terrace_jobs_options ours;
	struct terrace_jobs *jobs;
	pthread_condattr_t monotonic;
	int rc;

	if (!ret)
		return terrace_fail(TERRACE_EINVAL,
		                    "terrace_jobs_open() needs a place for the jobs");
	rc = terrace__struct_in(&ours, sizeof ours, options, "the jobs' struct of options");
	if (rc != TERRACE_OK)
		return rc;
	if (ours.workers > THREADS_MAX || ours.bulk_workers > THREADS_MAX)
		return terrace_fail(TERRACE_EINVAL, "jobs take at most %d threads of a kind",
		                    THREADS_MAX);
	jobs = calloc(1, sizeof *jobs);
	if (!jobs)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for jobs");
	jobs->magic = JOBS_MAGIC;
	terrace__watch_forks();
	jobs->forks = atomic_load(&terrace__forks);
	atomic_init(&jobs->references, 1);
	pthread_mutex_init(&jobs->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&jobs->finished, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pool_init(jobs, &jobs->urgent, false);
	pool_init(jobs, &jobs->bulk, true);
	rc = start_threads(&jobs->urgent, ours.workers ? ours.workers : default_workers());
	if (rc == TERRACE_OK)
		rc = start_threads(&jobs->bulk, ours.bulk_workers ? ours.bulk_workers : 3);
	if (rc != TERRACE_OK) {
		terrace_jobs_close(jobs);
		return rc;
	}
	*ret = jobs;
	return TERRACE_OK;
}

void terrace_jobs_close(terrace_jobs *jobs)
{
	if (!jobs || is_inherited(jobs))
		return;
	pthread_mutex_lock(&jobs->lock);
	jobs->closing = true;
	for (int priority = 0; priority < PRIORITIES; priority++) {
		for (struct terrace_job *job = jobs->first[priority]; job; job = job->next)
			job->cancelled = true;
	}
	pthread_cond_broadcast(&jobs->urgent.work);
	pthread_cond_broadcast(&jobs->bulk.work);
	pthread_mutex_unlock(&jobs->lock);
	for (unsigned i = 0; i < jobs->urgent.count; i++)
		pthread_join(jobs->urgent.threads[i], NULL);
	for (unsigned i = 0; i < jobs->bulk.count; i++)
		pthread_join(jobs->bulk.threads[i], NULL);
	jobs_unref(jobs);
}

void terrace_jobs_enter(terrace_jobs *jobs)
{
	if (jobs)
		atomic_fetch_add(&jobs->entered, 1);
}

void terrace_jobs_leave(terrace_jobs *jobs)
{
	if (!jobs)
		return;
	/* Bulk threads look again by themselves: nobody is woken on this path. */
	atomic_store(&jobs->left_ns, terrace__now_ns());
	atomic_fetch_sub(&jobs->entered, 1);
}

/* --- jobs ------------------------------------------------------------------------------------------ */

int terrace_jobs_submit(terrace_jobs *jobs, const terrace_job_spec *spec, terrace_job **ret)
{
	struct terrace_job *job, **at;
	terrace_job_spec ours;
	bool closing;
	int rc;

	if (!jobs || jobs->magic != JOBS_MAGIC || !spec)
		return terrace_fail(TERRACE_EINVAL, "a job needs an engine, and a struct that says "
		                                    "what is to be run");
	rc = terrace__struct_in(&ours, sizeof ours, spec, "the job's struct");
	if (rc != TERRACE_OK)
		return rc;
	if (!ours.run || (unsigned)ours.priority > TERRACE_BULK)
		return terrace_fail(TERRACE_EINVAL, "a job needs something to run and a priority");
	if (is_inherited(jobs))
		return inherited();
	job = calloc(1, sizeof *job);
	if (!job)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a job");
	job->jobs = jobs;
	job->spec = ours;
	job->submitted_ns = terrace__now_ns();
	atomic_init(&job->references, ret ? 2 : 1);
	atomic_fetch_add(&jobs->references, 1);
	pthread_mutex_lock(&jobs->lock);
	closing = jobs->closing;
	if (!closing) {
		for (at = &jobs->first[ours.priority]; *at; at = &(*at)->next)
			;
		*at = job;
		if (ours.priority == TERRACE_BULK)
			pthread_cond_signal(&jobs->bulk.work);
		else
			pthread_cond_signal(&jobs->urgent.work);
	}
	pthread_mutex_unlock(&jobs->lock);
	if (closing) {
		free(job);
		jobs_unref(jobs);
		return terrace_fail(TERRACE_EINVAL, "the job engine is being closed");
	}
	if (ret)
		*ret = job;
	return TERRACE_OK;
}

int terrace_job_progress(terrace_job *job, terrace_progress *ret)
{
	if (!job || !ret || ret->size < sizeof *ret)
		return terrace_fail(TERRACE_EINVAL, "progress needs a job and an initialized "
		                                    "struct of this version");
	if (is_inherited(job->jobs))
		return inherited();
	pthread_mutex_lock(&job->jobs->lock);
	*ret = (terrace_progress){
		.size = sizeof *ret,
		.items = job->spec.items,
		.done = job->done,
		.skipped = job->skipped,
		.failed = job->failed,
		.running = job->running,
		.cancelled = job->cancelled,
		.finished = job->over,
		.elapsed_ms = (int64_t)((job->finished_ns ? job->finished_ns : terrace__now_ns()) -
		                        job->submitted_ns) /
		              1000000,
	};
	memcpy(ret->last_error, job->last_error, sizeof ret->last_error);
	pthread_mutex_unlock(&job->jobs->lock);
	return TERRACE_OK;
}

void terrace_job_cancel(terrace_job *job)
{
	struct terrace_jobs *jobs;

	if (!job || is_inherited(job->jobs))
		return;
	jobs = job->jobs;
	pthread_mutex_lock(&jobs->lock);
	job->cancelled = true;
	if (is_over(job)) {
		struct pool *pool = job->spec.priority == TERRACE_BULK ? &jobs->bulk :
		                                                         &jobs->urgent;

		pthread_cond_signal(&pool->work);
	}
	pthread_mutex_unlock(&jobs->lock);
}

int terrace_job_wait(terrace_job *job, int64_t wait_ms)
{
	struct terrace_jobs *jobs;
	struct timespec until;
	int64_t deadline;
	int err = 0;
	bool over;

	if (!job)
		return terrace_fail(TERRACE_EINVAL, "there is no job to wait for");
	jobs = job->jobs;
	if (is_inherited(jobs))
		return inherited();
	deadline = add_sat_i64(terrace__clock_ms(CLOCK_MONOTONIC), wait_ms < 0 ? 0 : wait_ms);
	until = (struct timespec){ deadline / 1000, (long)(deadline % 1000) * 1000000 };
	pthread_mutex_lock(&jobs->lock);
	while (!job->over && err != ETIMEDOUT) {
		if (wait_ms < 0)
			pthread_cond_wait(&jobs->finished, &jobs->lock);
		else
			err = pthread_cond_timedwait(&jobs->finished, &jobs->lock, &until);
	}
	over = job->over;
	pthread_mutex_unlock(&jobs->lock);
	return over ? TERRACE_OK : terrace_fail(TERRACE_EBUSY, "the job has not finished yet");
}

void terrace_job_release(terrace_job *job)
{
	if (job)
		job_unref(job);
}
