/*
 * The slowest call of a program while a million rows that have expired are
 * removed: a third by its own terrace_cleanup() on another thread, a third by
 * another process, and a third by its puts, because the store is at its limit.
 *
 * Two figures of each: what the clock says, and that without what the machine under this
 * one took: a thread that neither slept nor made way for another, and yet ran for less time
 * than passed, was stopped with its whole processor, which no program can do anything about.
 */
#include "harness.h"

#include <terrace/terrace.h>

#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	EXPIRING = 999000,
	LIVE = 20000,
	BATCH = 1000,
	VALUE_BYTES = 100,
	PARTS = 3,
	PUT_BYTES = 1024,
	NEWS = 80000,
	PAUSE_US = 50
};
enum { HOUR_MS = 3600 * 1000 };

/* What the processes share. */
struct board {
	_Atomic int64_t later_ms; /* the stores' clock beside the machine's */
	_Atomic bool go, done;
};

static struct board *board;

static int64_t now_ms(void *ctx)
{
	(void)ctx;
	return (int64_t)(bench_ns() / 1000000) + INT64_C(1700000000000) + board->later_ms;
}

static void open_store(const char *dir, uint64_t disk_bytes, terrace **ret_store,
                       terrace_cache **ret_cache)
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	terrace_policy policy = TERRACE_POLICY_INIT;

	options.clock = now_ms;
	options.disk_bytes = disk_bytes;
	policy.tiers = TERRACE_L2;
	bench_require(terrace_open(dir, &options, ret_store) == TERRACE_OK);
	bench_require(terrace_cache_open(*ret_store, "bench", &policy, ret_cache) == TERRACE_OK);
}

/* --- the store -------------------------------------------------------------------------------------- */

static terrace_slice key_of(char *text, size_t size, const char *what, uint64_t i)
{
	return terrace_bytes(
	    text, (size_t)snprintf(text, size, "%s:%020llu", what, (unsigned long long)i));
}

static void fill(terrace_cache *cache, const char *what, uint64_t count, int parts)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	static char texts[BATCH][32];
	terrace_item items[BATCH];
	char value[VALUE_BYTES];

	bench_fill(value, sizeof value, 1);
	for (uint64_t from = 0; from < count; from += BATCH) {
		for (uint64_t i = 0; i < BATCH; i++)
			items[i] = (terrace_item){ key_of(texts[i], sizeof texts[i], what,
				                          from + i),
				                   terrace_bytes(value, sizeof value) };
		options.ttl_ms = parts ? (int64_t)(1 + from * (uint64_t)parts / count) * HOUR_MS :
		                         0;
		bench_require(terrace_put_many(cache, items, BATCH, &options) == TERRACE_OK);
	}
}

static uint64_t rows_of(terrace_cache *cache)
{
	terrace_usage usage;

	bench_require(terrace_cache_usage(cache, &usage) == TERRACE_OK);
	return usage.entries;
}

static uint64_t file_bytes; /* of the database */

static int add_bytes(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	if (type == FTW_F && strncmp(path + ftw->base, "db-", 3) == 0)
		file_bytes += (uint64_t)st->st_size;
	return 0;
}

/* --- the foreground ------------------------------------------------------------------------------ */

static struct samples {
	uint64_t *items;
	size_t count, capacity;
} samples;

/* Of all parts: by the clock, and by what of it was this system's. */
static struct slowest {
	uint64_t clock, own;
} slowest;

struct moment {
	uint64_t clock, ran;
	long switches;
};

/* The clock is asked last before a call and first after it. */
static struct moment moment_before(void)
{
	struct rusage usage;
	struct timespec ran;

	bench_require(getrusage(RUSAGE_THREAD, &usage) == 0);
	bench_require(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ran) == 0);
	return (struct moment){ .switches = usage.ru_nvcsw + usage.ru_nivcsw,
		                .ran = (uint64_t)ran.tv_sec * 1000000000 + (uint64_t)ran.tv_nsec,
		                .clock = bench_ns() };
}

static struct slowest slowest_since(const struct moment *before)
{
	struct slowest took = { .clock = bench_ns() - before->clock };
	struct moment after = moment_before();
	uint64_t ran = after.ran - before->ran;

	took.own = after.switches == before->switches && ran < took.clock ? ran : took.clock;
	return took;
}

static void slowest_add(struct slowest *all, const struct slowest *one)
{
	all->clock = one->clock > all->clock ? one->clock : all->clock;
	all->own = one->own > all->own ? one->own : all->own;
}

static void sample(uint64_t ns)
{
	if (samples.count == samples.capacity) {
		samples.capacity = samples.capacity ? 2 * samples.capacity : 1 << 20;
		samples.items = realloc(samples.items, samples.capacity * sizeof *samples.items);
		bench_require(samples.items);
	}
	samples.items[samples.count++] = ns;
}

/* Gets and puts, so many puts of new keys, or of what lives until somebody says that it is done. */
static void work(terrace_cache *cache, const char *operation, uint64_t news)
{
	struct bench bench = {
		.group = "l2", .name = "terrace", .operation = operation, .threads = 1
	};
	uint64_t random = 3, first = samples.count, start = bench_ns(), p50, p99;
	struct slowest worst = { 0 };
	char text[32], value[PUT_BYTES];

	bench_fill(value, sizeof value, 2);
	board->go = true;
	for (uint64_t i = 0; news ? i < 2 * news : !board->done; i++) {
		uint64_t which = bench_random(&random) % LIVE;
		struct moment before;
		struct slowest took;
		terrace_value *got;
		terrace_slice key = news && i % 2 == 0 ? key_of(text, sizeof text, "new", i / 2) :
		                                         key_of(text, sizeof text, "live", which);

		value[i % sizeof value]++;
		before = moment_before();
		if (i % 2 == 0)
			bench_require(terrace_put(cache, key, terrace_bytes(value, sizeof value),
			                          NULL) == TERRACE_OK);
		else if (terrace_get(cache, key, &got) == TERRACE_OK)
			terrace_release(got);
		took = slowest_since(&before);
		sample(took.clock);
		slowest_add(&worst, &took);
		if (i % 2 == 0)
			usleep(PAUSE_US);
	}
	start = bench_ns() - start;
	slowest_add(&slowest, &worst);
	bench_percentiles(samples.items + first, samples.count - first, &p50, &p99);
	bench_print(&bench, p50, worst.clock,
	            (double)(samples.count - first) * 1e9 / (double)start);
}

/* --- who removes them ------------------------------------------------------------------------------- */

static void *clean(void *ctx)
{
	terrace_cache *cache = ctx;
	uint64_t count;

	while (!board->go)
		usleep(100);
	bench_require(terrace_cleanup(NULL, cache, &count) == TERRACE_OK);
	bench_require(count >= EXPIRING / PARTS / 2);
	board->done = true;
	return NULL;
}

static pid_t clean_elsewhere(const char *dir)
{
	pid_t child = fork();
	terrace *store;
	terrace_cache *cache;

	bench_require(child >= 0);
	if (child)
		return child;
	open_store(dir, 0, &store, &cache);
	clean(cache);
	terrace_cache_close(cache);
	terrace_close(store);
	_exit(0);
}

static void start_part(int part)
{
	board->later_ms = (int64_t)part * HOUR_MS + HOUR_MS / 2;
	board->go = board->done = false;
}

int main(void)
{
	struct bench bench = { .group = "l2", .name = "terrace", .threads = 1 };
	const char *dir = bench_directory("expire");
	terrace *store;
	terrace_cache *cache;
	pthread_t thread;
	uint64_t p50, p99;
	pid_t child;
	int status;

	board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
	             0);
	bench_require(board != MAP_FAILED);
	open_store(dir, 0, &store, &cache);
	fill(cache, "live", LIVE, 0);
	fill(cache, "dead", EXPIRING, PARTS);
	terrace_cache_close(cache);
	terrace_close(store);
	nftw(dir, add_bytes, 16, FTW_PHYS);

	start_part(1);
	open_store(dir, file_bytes + (16 << 20), &store, &cache);
	work(cache, "slowest call, puts expire", NEWS);
	bench_require(rows_of(cache) <= EXPIRING - EXPIRING / PARTS + LIVE + NEWS + EXPIRING / 20);
	terrace_cache_close(cache);
	terrace_close(store);

	start_part(2);
	open_store(dir, 0, &store, &cache);
	pthread_create(&thread, NULL, clean, cache);
	work(cache, "slowest call, a thread expires", 0);
	pthread_join(thread, NULL);
	terrace_cache_close(cache);
	terrace_close(store);

	start_part(3);
	child = clean_elsewhere(dir);
	open_store(dir, 0, &store, &cache);
	work(cache, "slowest call, a process expires", 0);
	bench_require(waitpid(child, &status, 0) == child && status == 0);
	bench_require(rows_of(cache) <= LIVE + NEWS);
	terrace_cache_close(cache);
	terrace_close(store);
	bench_percentiles(samples.items, samples.count, &p50, &p99);
	bench.operation = "slowest while a million expire";
	bench_print(&bench, p50, slowest.own, 0);
	bench.operation = "slowest by the clock alone";
	bench_print(&bench, p50, slowest.clock, 0);
	bench.operation = "p99.9 while a million expire";
	bench_print(&bench, p50, samples.items[samples.count - samples.count / 1000], 0);
	return 0;
}
