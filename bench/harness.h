/*
 * What the benchmarks have in common. A benchmark prints a line for each thing
 * it measured: group, name, operation, value bytes, threads, median and 99th
 * percentile in nanoseconds, operations a second. bench/run.py runs it several
 * times, takes medians, and sets what is ours beside its peers.
 */
#ifndef BENCH_HARNESS_H
#define BENCH_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

uint64_t bench_ns(void);

/* The processor's own counter: 10 ns to read where the clock takes 20. */
static inline uint64_t bench_ticks(void)
{
#ifdef __x86_64__
	return __builtin_ia32_rdtsc();
#else
	return bench_ns();
#endif
}

/* One operation on the i-th of the things that a benchmark has prepared. */
typedef void bench_fn(void *ctx, uint64_t i);

struct bench {
	const char *group, *name, *operation;
	uint64_t value_bytes;
	unsigned threads;
	uint64_t operations; /* of each thread */
	uint64_t limit;      /* i is below this, at random; 0: i counts up */
	bench_fn *fn;
	void *ctx;
	/* NULL, or called before each of its turns and after it: something runs beside it. */
	void (*beside)(void *beside_ctx, bool begin);
	void *beside_ctx;
};

/*
 * Two passes: one without looking at a clock, for the operations a second, and
 * one that times each operation, for the percentiles; what looking at the
 * clock costs is taken off. Threads are pinned to processors of their own.
 * Those that are given together are run in turns, a tenth of each at a time, so
 * that what disturbs one disturbs all.
 */
void bench_run(const struct bench *benches, size_t count);

/* From here on the thread runs on that processor. Workers are on 0 and 1. */
void bench_pin(unsigned processor);

/* Is this one asked for? Without BENCH in the environment all are, else what begins with it. */
bool bench_wanted(const char *operation);

/* A result that was measured otherwise. */
void bench_print(const struct bench *bench, uint64_t p50_ns, uint64_t p99_ns, double ops_per_s);
/* Median and 99th percentile of samples, which are sorted. */
void bench_percentiles(uint64_t *samples, size_t count, uint64_t *ret_p50, uint64_t *ret_p99);

/* Ends the benchmark when something did not work that must. */
#define bench_require(condition)                                   \
	do {                                                       \
		if (!(condition))                                  \
			bench_die(#condition, __FILE__, __LINE__); \
	} while (0)
void bench_die(const char *what, const char *file, int line) __attribute__((noreturn));

/* Keys of 20 to 40 bytes, the same for everybody. */
struct bench_keys {
	uint64_t count;
	char (*text)[48];
	size_t *size;
};
void bench_keys_make(struct bench_keys *keys, uint64_t count);
void bench_keys_free(struct bench_keys *keys);

/* Bytes of which about half compress away. */
void bench_fill(void *data, size_t size, uint64_t seed);

/* An empty directory; removed with what is in it at the end of the process. */
const char *bench_directory(const char *name);

static inline uint64_t bench_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

#ifdef __cplusplus
}
#endif
#endif
