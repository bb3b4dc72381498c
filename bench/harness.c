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

enum { SAMPLES = 200000 };

struct worker {
	const struct bench *bench;
	pthread_t thread;
	unsigned number;
	pthread_barrier_t *start;
	uint64_t started, ended;
	uint64_t *samples; /* ticks */
	size_t sample_count;
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

static void pin(unsigned number)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(number % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
	pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

static uint64_t pick(const struct bench *bench, uint64_t *random, uint64_t count)
{
	return bench->limit ? bench_random(random) % bench->limit : count;
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

static void *work(void *ctx)
{
	struct worker *worker = ctx;
	const struct bench *bench = worker->bench;
	uint64_t random = 1000 + worker->number, first = worker->number * bench->operations * 2;

	pin(worker->number);
	pthread_barrier_wait(worker->start);
	worker->started = worker_ns();
	for (uint64_t i = 0; i < bench->operations; i++)
		bench->fn(bench->ctx, pick(bench, &random, first + i));
	worker->ended = worker_ns();
	pthread_barrier_wait(worker->start);
	first += bench->operations;
	for (size_t i = 0; i < worker->sample_count; i++) {
		uint64_t at = pick(bench, &random, first + i), before = bench_ticks();

		bench->fn(bench->ctx, at);
		worker->samples[i] = bench_ticks() - before;
	}
	return NULL;
}

void bench_run(const struct bench *bench)
{
	struct worker *workers = calloc(bench->threads, sizeof *workers);
	size_t count = bench->operations < SAMPLES ? bench->operations : SAMPLES;
	uint64_t *samples = calloc(bench->threads * count, sizeof *samples), p50, p99;
	uint64_t taken = 0, cost = overhead();
	pthread_barrier_t start;

	pthread_barrier_init(&start, NULL, bench->threads);
	for (unsigned i = 0; i < bench->threads; i++) {
		workers[i] = (struct worker){ .bench = bench,
			                      .number = i,
			                      .start = &start,
			                      .samples = samples + i * count,
			                      .sample_count = count };
		pthread_create(&workers[i].thread, NULL, work, &workers[i]);
	}
	for (unsigned i = 0; i < bench->threads; i++) {
		pthread_join(workers[i].thread, NULL);
		if (workers[i].ended - workers[i].started > taken)
			taken = workers[i].ended - workers[i].started;
	}
	bench_percentiles(samples, bench->threads * count, &p50, &p99);
	p50 = p50 > cost ? p50 - cost : 0;
	p99 = p99 > cost ? p99 - cost : 0;
	bench_print(bench, (uint64_t)((double)p50 / ticks_per_ns()),
	            (uint64_t)((double)p99 / ticks_per_ns()),
	            (double)(bench->threads * bench->operations) * 1e9 / (double)taken);
	pthread_barrier_destroy(&start);
	free(samples);
	free(workers);
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
