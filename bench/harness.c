#include "harness.h"

#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint64_t bench_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void bench_die(const char *what, const char *file, int line)
{
	fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
	exit(1);
}

/* --- percentiles --------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return left < right ? -1 : left > right;
}

bool bench_wanted(const char *operation)
{
	const char *wanted = getenv("BENCH");

	return !wanted || strncmp(operation, wanted, strlen(wanted)) == 0;
}

void bench_percentiles(uint64_t *samples, size_t count, uint64_t *ret_p50, uint64_t *ret_p99)
{
	qsort(samples, count, sizeof *samples, by_size);
	*ret_p50 = samples[count / 2];
	*ret_p99 = samples[count * 99 / 100];
}

void bench_print(const struct bench *bench, uint64_t p50_ns, uint64_t p99_ns, double ops_per_s)
{
	printf("%s\t%s\t%s\t%llu\t%u\t%llu\t%llu\t%.0f\n", bench->group, bench->name,
	       bench->operation, (unsigned long long)bench->value_bytes, bench->threads,
	       (unsigned long long)p50_ns, (unsigned long long)p99_ns, ops_per_s);
	fflush(stdout);
}

/* --- running --------------------------------------------------------------------------------------- */

enum { SAMPLES = 200000, TURNS = 10 };

/* One of those that are run in turns. */
struct run {
	const struct bench *bench;
	uint64_t taken_ns;
	uint64_t *samples;   /* ticks, of all its threads */
	size_t sample_count; /* of each */
};

struct turns {
	struct run *runs;
	size_t count;
	pthread_barrier_t barrier;
	struct worker *workers;
};

/* A thread. Each takes part in all turns, if only to wait for those who work. */
struct worker {
	struct turns *turns;
	pthread_t thread;
	unsigned number;
	struct progress {
		uint64_t random, next;
	} * progress; /* of each run */
	uint64_t taken_ns;
};

static double ticks_per_ns(void)
{
	static double known;

	if (known == 0) {
		uint64_t ns = bench_ns(), ticks = bench_ticks();

		while (bench_ns() - ns < 20000000)
			;
		known = (double)(bench_ticks() - ticks) / (double)(bench_ns() - ns);
	}
	return known;
}

/* What timing nothing takes. */
static uint64_t overhead(void)
{
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < 1000; i++) {
		uint64_t before = bench_ticks(), taken = bench_ticks() - before;

		least = taken < least ? taken : least;
	}
	return least;
}

void bench_pin(unsigned processor)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(processor % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
	pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

static uint64_t pick(const struct bench *bench, struct progress *progress)
{
	return bench->limit ? bench_random(&progress->random) % bench->limit : progress->next++;
}

/* On a machine that others use too: the time that the thread has run. */
static uint64_t worker_ns(void)
{
	struct timespec now;

	if (!getenv("BENCH_THREAD_TIME"))
		return bench_ns();
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void run_slice(struct worker *worker, const struct bench *bench, struct progress *progress,
                      unsigned turn)
{
	uint64_t count = bench->operations * (turn + 1) / TURNS - bench->operations * turn / TURNS;
	uint64_t started = worker_ns();

	for (uint64_t i = 0; i < count; i++)
		bench->fn(bench->ctx, pick(bench, progress));
	worker->taken_ns = worker_ns() - started;
}

static void time_slice(const struct run *run, unsigned number, struct progress *progress,
                       unsigned turn)
{
	const struct bench *bench = run->bench;
	uint64_t *samples = run->samples + number * run->sample_count;

	for (size_t i = run->sample_count * turn / TURNS;
	     i < run->sample_count * (turn + 1) / TURNS; i++) {
		uint64_t at = pick(bench, progress), before = bench_ticks();

		bench->fn(bench->ctx, at);
		samples[i] = bench_ticks() - before;
	}
}

/* The slowest of its threads. */
static uint64_t turn_ns(const struct turns *turns, const struct bench *bench)
{
	uint64_t most = 0;

	for (unsigned i = 0; i < bench->threads; i++)
		if (turns->workers[i].taken_ns > most)
			most = turns->workers[i].taken_ns;
	return most;
}

static void take_turn(struct worker *worker, size_t which, unsigned turn, bool timed)
{
	struct turns *turns = worker->turns;
	struct run *run = &turns->runs[which];
	const struct bench *bench = run->bench;

	if (worker->number == 0 && bench->beside)
		bench->beside(bench->beside_ctx, true);
	pthread_barrier_wait(&turns->barrier);
	if (worker->number < bench->threads && !timed)
		run_slice(worker, bench, &worker->progress[which], turn);
	else if (worker->number < bench->threads)
		time_slice(run, worker->number, &worker->progress[which], turn);
	pthread_barrier_wait(&turns->barrier);
	if (worker->number == 0 && bench->beside)
		bench->beside(bench->beside_ctx, false);
	if (worker->number == 0 && !timed)
		run->taken_ns += turn_ns(turns, bench);
}

static void *work(void *ctx)
{
	struct worker *worker = ctx;
	const struct turns *turns = worker->turns;

	bench_pin(worker->number);
	for (unsigned turn = 0; turn < 2 * TURNS; turn++)
		for (size_t which = 0; which < turns->count; which++)
			take_turn(worker, which, turn % TURNS, turn >= TURNS);
	return NULL;
}

static void print_run(struct run *run)
{
	const struct bench *bench = run->bench;
	uint64_t cost = overhead(), p50, p99;

	bench_percentiles(run->samples, bench->threads * run->sample_count, &p50, &p99);
	p50 = p50 > cost ? p50 - cost : 0;
	p99 = p99 > cost ? p99 - cost : 0;
	bench_print(bench, (uint64_t)((double)p50 / ticks_per_ns()),
	            (uint64_t)((double)p99 / ticks_per_ns()),
	            (double)(bench->threads * bench->operations) * 1e9 / (double)run->taken_ns);
}

static void worker_start(struct worker *worker, struct turns *turns, unsigned number)
{
	*worker = (struct worker){
		.turns = turns,
		.number = number,
		.progress = calloc(turns->count, sizeof *worker->progress),
	};
	for (size_t i = 0; i < turns->count; i++)
		worker->progress[i] = (struct progress){
			.random = 1000 + number,
			.next = number * turns->runs[i].bench->operations * 2,
		};
	bench_require(pthread_create(&worker->thread, NULL, work, worker) == 0);
}

void bench_run(const struct bench *benches, size_t count)
{
	struct turns turns = { .runs = calloc(count, sizeof *turns.runs), .count = count };
	unsigned threads = 0;

	for (size_t i = 0; i < count; i++) {
		const struct bench *bench = &benches[i];
		struct run *run = &turns.runs[i];

		run->bench = bench;
		run->sample_count = bench->operations < SAMPLES ? bench->operations : SAMPLES;
		run->samples = calloc(bench->threads * run->sample_count, sizeof *run->samples);
		threads = bench->threads > threads ? bench->threads : threads;
	}
	turns.workers = calloc(threads, sizeof *turns.workers);
	pthread_barrier_init(&turns.barrier, NULL, threads);
	for (unsigned i = 0; i < threads; i++)
		worker_start(&turns.workers[i], &turns, i);
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(turns.workers[i].thread, NULL);
		free(turns.workers[i].progress);
	}
	for (size_t i = 0; i < count; i++) {
		print_run(&turns.runs[i]);
		free(turns.runs[i].samples);
	}
	pthread_barrier_destroy(&turns.barrier);
	free(turns.workers);
	free(turns.runs);
}

/* --- data ------------------------------------------------------------------------------------------- */

void bench_keys_make(struct bench_keys *keys, uint64_t count)
{
	uint64_t random = 7;

	keys->count = count;
	keys->text = calloc(count, sizeof *keys->text);
	keys->size = calloc(count, sizeof *keys->size);
	for (uint64_t i = 0; i < count; i++) {
		static const char tail[] = "/abcdefghijklmnopqrst";

		keys->size[i] = (size_t)snprintf(keys->text[i], sizeof *keys->text,
		                                 "key:%015llu%.*s", (unsigned long long)i,
		                                 (int)(1 + bench_random(&random) % 20), tail);
	}
}

void bench_keys_free(struct bench_keys *keys)
{
	free(keys->text);
	free(keys->size);
}

void bench_fill(void *data, size_t size, uint64_t seed)
{
	uint64_t random = seed;
	uint8_t *bytes = data;

	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(i / 64 % 2 ? bench_random(&random) : 'a' + i % 7);
}

static char directories[16][256];
static unsigned directory_count;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void remove_directories(void)
{
	for (unsigned i = 0; i < directory_count; i++)
		nftw(directories[i], remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *bench_directory(const char *name)
{
	const char *base = getenv("BENCH_DIR");
	char *path = directories[directory_count];

	if (directory_count == 0)
		atexit(remove_directories);
	bench_require(directory_count < 16);
	directory_count++;
	snprintf(path, sizeof directories[0], "%s/terrace-bench-%s-XXXXXX", base ? base : "/tmp",
	         name);
	bench_require(mkdtemp(path));
	return path;
}
