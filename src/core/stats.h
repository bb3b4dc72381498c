/*
 * Counters and latencies of a cache, in this process and in the store's file,
 * where every process adds its own.
 */
#ifndef CORE_STATS_H
#define CORE_STATS_H

#include <terrace/base.h>
#include <terrace/stats.h>

#include <stdatomic.h>

enum counter {
#define X(name, what) COUNT_##name,
	TERRACE_COUNTERS(X)
#undef X
	    COUNTERS
};

enum latency {
#define X(name, what) TIME_##name,
	TERRACE_LATENCIES(X)
#undef X
	    LATENCIES
};

struct latency_counts {
	_Atomic uint64_t count;
	_Atomic uint64_t sum_ns;
	_Atomic uint32_t buckets[TERRACE_LATENCY_BUCKETS];
};

/* Of this process, since it last added them to the file. */
struct counts {
	_Atomic uint64_t counters[COUNTERS];
	struct latency_counts latencies[LATENCIES];
};

static inline void count_add(struct counts *counts, enum counter which, uint64_t n)
{
	atomic_fetch_add_explicit(&counts->counters[which], n, memory_order_relaxed);
}

void terrace__count_time(struct counts *counts, enum latency which, uint64_t ns);

/* Add what is in `counts` to `stats`. */
void terrace__counts_read(const struct counts *counts, terrace_stats *stats);

/*
 * The store's file: a block for each cache number. Adding takes `counts` down
 * to zero. A block whose checksum does not hold counts as zero: these are
 * statistics.
 */
int terrace__stats_file_add(int dir_fd, int lock_fd, uint32_t cache, struct counts *counts);
int terrace__stats_file_read(int dir_fd, int lock_fd, uint32_t cache, terrace_stats *stats);

#endif
