/* Background work: order, counts, cancelling, and who goes before whom. */
#include "support/support.h"

#include <terrace/jobs.h>

#include <pthread.h>
#include <semaphore.h>
#include <time.h>
#include <unistd.h>

enum { ITEMS = 500 };

/* What a job of these tests does: note who ran, in which order, how many at a time. */
struct work {
	_Atomic unsigned runs[ITEMS];
	_Atomic unsigned order;         /* of all items */
	_Atomic unsigned started_at[4]; /* the turn in which item 0..3 ran */
	_Atomic int under_way, most;
	_Atomic int finished;
	bool gated; /* each item waits at the gate */
	sem_t inside, gate;
	struct work *shared_order; /* turns are counted there */
	terrace_cache *cache;
	uint64_t fail_every;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void work_init(struct work *work)
{
	memset(work, 0, sizeof *work);
	sem_init(&work->inside, 0, 0);
	sem_init(&work->gate, 0, 0);
}

static int run(void *ctx, uint64_t item)
{
	struct work *work = ctx;
	struct work *turns = work->shared_order ? work->shared_order : work;
	int now = atomic_fetch_add(&work->under_way, 1) + 1, most = atomic_load(&work->most);

	while (now > most && !atomic_compare_exchange_weak(&work->most, &most, now))
		;
	if (item < 4)
		atomic_store(&work->started_at[item], atomic_fetch_add(&turns->order, 1) + 1);
	if (work->gated) {
		sem_post(&work->inside);
		sem_wait(&work->gate);
	}
	atomic_fetch_add(&work->runs[item], 1);
	atomic_fetch_sub(&work->under_way, 1);
	if (work->fail_every && item % work->fail_every == 0)
		return terrace_fail(TERRACE_EIO, "item %d failed", (int)item);
	return TERRACE_OK;
}

static void finished(void *ctx)
{
	atomic_fetch_add(&((struct work *)ctx)->finished, 1);
}

static bool every_third(void *ctx, uint64_t item)
{
	(void)ctx;
	return item % 3 == 0;
}

static terrace_jobs *engine(unsigned workers, unsigned bulk_workers)
{
	terrace_jobs_options options = TERRACE_JOBS_INIT;
	terrace_jobs *jobs;

	options.workers = workers;
	options.bulk_workers = bulk_workers;
	assert_ok(terrace_jobs_open(&options, &jobs));
	return jobs;
}

static terrace_job *submit(terrace_jobs *jobs, struct work *work, terrace_priority priority,
                           uint64_t items)
{
	terrace_job_spec spec = TERRACE_JOB_INIT;
	terrace_job *job;

	spec.priority = priority;
	spec.items = items;
	spec.run = run;
	spec.finished = finished;
	spec.ctx = work;
	assert_ok(terrace_jobs_submit(jobs, &spec, &job));
	return job;
}

static terrace_progress progress_of(terrace_job *job)
{
	terrace_progress progress = TERRACE_PROGRESS_INIT;

	assert_ok(terrace_job_progress(job, &progress));
	return progress;
}

static void test_job__runs_every_item_once(void **state)
{
	struct work work;
	terrace_job_spec spec = TERRACE_JOB_INIT;
	terrace_progress progress;
	terrace_jobs *jobs = engine(4, 3);
	terrace_job *job;

	(void)state;
	for (int priority = TERRACE_FOREGROUND; priority <= TERRACE_BULK; priority++) {
		work_init(&work);
		work.fail_every = 10;
		spec.priority = (terrace_priority)priority;
		spec.items = ITEMS;
		spec.workers = 2;
		spec.run = run;
		spec.have = every_third;
		spec.finished = finished;
		spec.ctx = &work;
		assert_ok(terrace_jobs_submit(jobs, &spec, &job));
		assert_ok(terrace_job_wait(job, -1));
		progress = progress_of(job);
		for (unsigned i = 0; i < ITEMS; i++)
			assert_int_equal(work.runs[i], i % 3 == 0 ? 0 : 1);
		assert_int_equal(progress.skipped, 167);    /* of 0..499, those that 3 divides */
		assert_int_equal(progress.failed, 50 - 17); /* 10 divides, 30 does not */
		assert_int_equal(progress.done, 500 - 167 - 33);
		assert_true(progress.finished && !progress.cancelled && progress.running == 0);
		assert_non_null(strstr(progress.last_error, " failed"));
		assert_int_equal(work.finished, 1);
		assert_true(work.most <= 2);
		terrace_job_release(job);
	}
	terrace_jobs_close(jobs);
}

static void test_job__without_items_finishes(void **state)
{
	struct work work;
	terrace_jobs *jobs = engine(1, 1);
	terrace_job *job;

	(void)state;
	work_init(&work);
	job = submit(jobs, &work, TERRACE_BULK, 0);
	assert_ok(terrace_job_wait(job, -1));
	assert_int_equal(work.finished, 1);
	terrace_job_release(job);
	terrace_jobs_close(jobs);
}

static void test_foreground__goes_before_prefetch(void **state)
{
	struct work first, prefetch, foreground;
	terrace_jobs *jobs = engine(1, 1);
	terrace_job *busy, *low, *high;

	(void)state;
	work_init(&first);
	work_init(&prefetch);
	work_init(&foreground);
	first.gated = true;
	prefetch.shared_order = foreground.shared_order = &first;
	busy = submit(jobs, &first, TERRACE_FOREGROUND, 1);
	sem_wait(&first.inside); /* the only worker is taken; the others queue up */
	low = submit(jobs, &prefetch, TERRACE_PREFETCH, 2);
	high = submit(jobs, &foreground, TERRACE_FOREGROUND, 2);
	sem_post(&first.gate);
	assert_ok(terrace_job_wait(low, -1));
	assert_ok(terrace_job_wait(high, -1));
	assert_int_equal(foreground.started_at[0], 2);
	assert_int_equal(foreground.started_at[1], 3);
	assert_int_equal(prefetch.started_at[0], 4);
	assert_int_equal(prefetch.started_at[1], 5);
	terrace_job_release(busy);
	terrace_job_release(low);
	terrace_job_release(high);
	terrace_jobs_close(jobs);
}

/* However many prefetch items there are, one worker is left for who waits. */
static void test_prefetch__leaves_a_worker_free(void **state)
{
	struct work prefetch, foreground;
	terrace_jobs *jobs = engine(2, 1);
	terrace_job *low, *high;

	(void)state;
	work_init(&prefetch);
	work_init(&foreground);
	prefetch.gated = true;
	low = submit(jobs, &prefetch, TERRACE_PREFETCH, 8);
	sem_wait(&prefetch.inside);
	high = submit(jobs, &foreground, TERRACE_FOREGROUND, 4);
	assert_ok(terrace_job_wait(high, -1)); /* for ever, if prefetch had both */
	assert_int_equal(progress_of(low).running, 1);
	for (int i = 0; i < 8; i++)
		sem_post(&prefetch.gate);
	assert_ok(terrace_job_wait(low, -1));
	terrace_job_release(low);
	terrace_job_release(high);
	terrace_jobs_close(jobs);
}

static void test_bulk__waits_while_the_foreground_works(void **state)
{
	struct work work;
	terrace_jobs *jobs = engine(2, 3);
	terrace_job *job;

	(void)state;
	work_init(&work);
	terrace_jobs_enter(jobs);
	terrace_jobs_enter(jobs);
	job = submit(jobs, &work, TERRACE_BULK, ITEMS);
	terrace_jobs_leave(jobs);
	assert_status(terrace_job_wait(job, 50), TERRACE_EBUSY);
	assert_int_equal(progress_of(job).done, 0);
	assert_int_equal(progress_of(job).running, 0);
	terrace_jobs_leave(jobs);
	assert_ok(terrace_job_wait(job, -1));
	assert_int_equal(progress_of(job).done, ITEMS);
	terrace_job_release(job);
	terrace_jobs_close(jobs);
}

static void test_bulk__waits_for_queued_foreground(void **state)
{
	struct work foreground, bulk;
	terrace_jobs *jobs = engine(1, 3);
	terrace_job *high, *low;

	(void)state;
	work_init(&foreground);
	work_init(&bulk);
	foreground.gated = true;
	high = submit(jobs, &foreground, TERRACE_FOREGROUND, 1);
	sem_wait(&foreground.inside);
	low = submit(jobs, &bulk, TERRACE_BULK, 4);
	assert_status(terrace_job_wait(low, 50), TERRACE_EBUSY);
	assert_int_equal(progress_of(low).done + progress_of(low).running, 0);
	sem_post(&foreground.gate);
	assert_ok(terrace_job_wait(low, -1));
	terrace_job_release(high);
	terrace_job_release(low);
	terrace_jobs_close(jobs);
}

static int run_and_yield(void *ctx, uint64_t item)
{
	int rc = run(ctx, item);

	terrace_jobs_yield();
	return rc;
}

/* The foreground may wait for the very item that gives way to it. */
static void test_yield__does_not_wait_for_ever(void **state)
{
	struct work work;
	terrace_job_spec spec = TERRACE_JOB_INIT;
	terrace_jobs *jobs = engine(1, 1);
	terrace_job *job;

	(void)state;
	work_init(&work);
	work.gated = true;
	spec.priority = TERRACE_BULK;
	spec.items = 1;
	spec.run = run_and_yield;
	spec.ctx = &work;
	assert_ok(terrace_jobs_submit(jobs, &spec, &job));
	sem_wait(&work.inside);
	terrace_jobs_enter(jobs);
	sem_post(&work.gate);
	assert_ok(terrace_job_wait(job, -1));
	terrace_jobs_leave(jobs);
	terrace_jobs_yield(); /* on a thread that is none of the engine's */
	terrace_job_release(job);
	terrace_jobs_close(jobs);
}

static void test_cancel__begins_nothing_more(void **state)
{
	struct work work;
	terrace_jobs *jobs = engine(2, 2);
	terrace_progress progress;
	terrace_job *job;

	(void)state;
	work_init(&work);
	work.gated = true;
	job = submit(jobs, &work, TERRACE_BULK, ITEMS);
	sem_wait(&work.inside);
	sem_wait(&work.inside); /* both threads are inside an item */
	terrace_job_cancel(job);
	assert_int_equal(work.finished, 0);
	sem_post(&work.gate);
	sem_post(&work.gate);
	assert_ok(terrace_job_wait(job, -1));
	progress = progress_of(job);
	assert_true(progress.cancelled && progress.finished);
	assert_int_equal(progress.done, 2);
	assert_int_equal(work.finished, 1);
	assert_int_equal(work.runs[0] + work.runs[1], 2);
	assert_int_equal(work.runs[2], 0);
	terrace_job_release(job);
	terrace_jobs_close(jobs);
}

/* A lower bound alone: a slow machine may start later, never earlier. */
static void test_rate__is_not_exceeded(void **state)
{
	struct work work;
	terrace_job_spec spec = TERRACE_JOB_INIT;
	terrace_jobs *jobs = engine(2, 3);
	terrace_job *job;
	uint64_t before = now_ns(); /* from within the first item, it may be late already */

	(void)state;
	work_init(&work);
	spec.priority = TERRACE_BULK;
	spec.items = 20;
	spec.rate_limit = 200;
	spec.run = run;
	spec.ctx = &work;
	assert_ok(terrace_jobs_submit(jobs, &spec, &job));
	assert_ok(terrace_job_wait(job, -1));
	/* 20 items at 200 a second: the last is due 95 ms after the first was. */
	assert_true(now_ns() - before >= 95 * UINT64_C(1000000));
	terrace_job_release(job);
	terrace_jobs_close(jobs);
}

static void test_close__ends_what_runs_and_drops_the_rest(void **state)
{
	struct work work;
	terrace_jobs *jobs = engine(2, 3);
	terrace_progress progress;
	terrace_job *job, *other;

	(void)state;
	work_init(&work);
	job = submit(jobs, &work, TERRACE_BULK, ITEMS);
	other = submit(jobs, &work, TERRACE_PREFETCH, 0);
	terrace_jobs_close(jobs);
	progress = progress_of(job); /* still readable */
	assert_true(progress.finished);
	assert_int_equal(progress.running, 0);
	assert_int_equal(work.finished, 2);
	terrace_job_release(job);
	terrace_job_release(other);
}

/* --- with a cache: what a restart left undone is done, and nothing twice ---------------------- */

static terrace_slice key_of(uint64_t item, char text[24])
{
	snprintf(text, 24, "item %u", (unsigned)item);
	return terrace_str(text);
}

static bool in_cache(void *ctx, uint64_t item)
{
	char text[24];

	return terrace_exists(((struct work *)ctx)->cache, key_of(item, text)) == TERRACE_OK;
}

static int into_cache(void *ctx, uint64_t item)
{
	struct work *work = ctx;
	char text[24];
	int rc = run(ctx, item);

	return rc ? rc : terrace_put(work->cache, key_of(item, text), terrace_str("x"), NULL);
}

static void test_resume__does_only_what_is_missing(void **state)
{
	enum { MANY = 60 };
	struct fixture fixture = { 0 };
	struct work work;
	terrace_job_spec spec = TERRACE_JOB_INIT;
	terrace_progress progress;
	terrace_jobs *jobs = engine(2, 2);
	terrace_job *job;
	uint64_t before;

	(void)state;
	fixture_open(&fixture);
	work_init(&work);
	work.cache = fixture_cache(&fixture, "warm", NULL);
	work.gated = true;
	spec.priority = TERRACE_BULK;
	spec.items = MANY;
	spec.run = into_cache;
	spec.have = in_cache;
	spec.ctx = &work;
	assert_ok(terrace_jobs_submit(jobs, &spec, &job));
	for (int i = 0; i < MANY / 2; i++)
		sem_post(&work.gate);
	for (int i = 0; i < MANY / 2; i++)
		sem_wait(&work.inside);
	terrace_job_cancel(job);
	for (int i = 0; i < MANY; i++)
		sem_post(&work.gate);
	assert_ok(terrace_job_wait(job, -1));
	before = progress_of(job).done;
	assert_true(before >= MANY / 2 && before < MANY);
	terrace_job_release(job);
	terrace_jobs_close(jobs);

	fixture_reopen(&fixture);
	work.cache = fixture_cache(&fixture, "warm", NULL);
	work.gated = false;
	jobs = engine(2, 2);
	assert_ok(terrace_jobs_submit(jobs, &spec, &job));
	assert_ok(terrace_job_wait(job, -1));
	progress = progress_of(job);
	assert_int_equal(progress.skipped, before);
	assert_int_equal(progress.done, MANY - before);
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(work.runs[i], 1);
	terrace_job_release(job);
	terrace_jobs_close(jobs);
	fixture_close(&fixture);
}

/* --- everything at once --------------------------------------------------------------------------- */

struct churn {
	terrace_jobs *jobs;
	struct work *work;
	uint64_t seed;
};

static void *churn(void *arg)
{
	struct churn *churn = arg;
	struct rng rng = { churn->seed };
	int rounds = 100;

	for (int i = 0; i < rounds; i++) {
		terrace_job *job = submit(churn->jobs, churn->work,
		                          (terrace_priority)rng_below(&rng, 3),
		                          rng_below(&rng, 20));

		if (rng_below(&rng, 3) == 0)
			terrace_job_cancel(job);
		terrace_jobs_enter(churn->jobs);
		progress_of(job);
		terrace_jobs_leave(churn->jobs);
		if (rng_below(&rng, 2) == 0)
			assert_ok(terrace_job_wait(job, -1));
		terrace_job_release(job);
	}
	return NULL;
}

static void test_jobs__from_many_threads(void **state)
{
	uint64_t seed = test_seed();
	struct work work;
	struct churn churns[4];
	pthread_t threads[4];
	terrace_jobs *jobs = engine(3, 3);

	(void)state;
	work_init(&work);
	for (int i = 0; i < 4; i++) {
		churns[i] = (struct churn){ jobs, &work, seed + (uint64_t)i };
		pthread_create(&threads[i], NULL, churn, &churns[i]);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	terrace_jobs_close(jobs);
	assert_int_equal(work.finished, 400);
	assert_int_equal(work.under_way, 0);
}

static void test_wrong_use__is_refused(void **state)
{
	terrace_jobs_options options = TERRACE_JOBS_INIT;
	terrace_job_spec spec = TERRACE_JOB_INIT;
	terrace_jobs *jobs;

	(void)state;
	options.workers = 65;
	assert_status(terrace_jobs_open(&options, &jobs), TERRACE_EINVAL);
	assert_status(terrace_jobs_submit(NULL, &spec, NULL), TERRACE_EINVAL);
	jobs = engine(1, 1);
	assert_status(terrace_jobs_submit(jobs, &spec, NULL), TERRACE_EINVAL); /* nothing to run */
	assert_status(terrace_job_wait(NULL, 0), TERRACE_EINVAL);
	terrace_job_cancel(NULL);
	terrace_job_release(NULL);
	terrace_jobs_enter(NULL);
	terrace_jobs_leave(NULL);
	terrace_jobs_close(jobs);
	terrace_jobs_close(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_job__runs_every_item_once),
		cmocka_unit_test(test_job__without_items_finishes),
		cmocka_unit_test(test_foreground__goes_before_prefetch),
		cmocka_unit_test(test_prefetch__leaves_a_worker_free),
		cmocka_unit_test(test_bulk__waits_while_the_foreground_works),
		cmocka_unit_test(test_bulk__waits_for_queued_foreground),
		cmocka_unit_test(test_yield__does_not_wait_for_ever),
		cmocka_unit_test(test_cancel__begins_nothing_more),
		cmocka_unit_test(test_rate__is_not_exceeded),
		cmocka_unit_test(test_close__ends_what_runs_and_drops_the_rest),
		cmocka_unit_test(test_resume__does_only_what_is_missing),
		cmocka_unit_test(test_jobs__from_many_threads),
		cmocka_unit_test(test_wrong_use__is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
