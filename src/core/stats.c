#include "core/stats.h"

#include "core/locks.h"
#include "util/fs.h"
#include "util/hash.h"
#include "util/histogram.h"
#include "util/lock.h"
#include "util/util.h"

#include <errno.h>
#include <fcntl.h>

_Static_assert(HISTOGRAM_BUCKETS == TERRACE_LATENCY_BUCKETS, "one scale");

#define STATS_NAME "stats"

void terrace__count_time(struct counts *counts, enum latency which, uint64_t ns)
{
	struct latency_counts *latency = &counts->latencies[which];

	atomic_fetch_add_explicit(&latency->count, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&latency->sum_ns, ns, memory_order_relaxed);
	atomic_fetch_add_explicit(&latency->buckets[terrace__histogram_bucket(ns)], 1,
	                          memory_order_relaxed);
}

/* What counts and stats have in common, as the file has it. */
struct block {
	uint64_t check; /* of all that follows */
	uint64_t counters[COUNTERS];
	terrace_latency latencies[LATENCIES];
};

static void block_to_stats(const struct block *block, terrace_stats *stats)
{
	uint64_t *counters[] = {
#define X(name, what) &stats->name,
		TERRACE_COUNTERS(X)
#undef X
	};
	terrace_latency *latencies[] = {
#define X(name, what) &stats->name##_time,
		TERRACE_LATENCIES(X)
#undef X
	};

	for (int i = 0; i < COUNTERS; i++)
		*counters[i] += block->counters[i];
	for (int i = 0; i < LATENCIES; i++) {
		latencies[i]->count += block->latencies[i].count;
		latencies[i]->sum_ns += block->latencies[i].sum_ns;
		for (int b = 0; b < TERRACE_LATENCY_BUCKETS; b++)
			latencies[i]->buckets[b] += block->latencies[i].buckets[b];
	}
}

void terrace__counts_read(const struct counts *counts, terrace_stats *stats)
{
	struct block block = { 0 };

	for (int i = 0; i < COUNTERS; i++)
		block.counters[i] = atomic_load(&counts->counters[i]);
	for (int i = 0; i < LATENCIES; i++) {
		block.latencies[i].count = atomic_load(&counts->latencies[i].count);
		block.latencies[i].sum_ns = atomic_load(&counts->latencies[i].sum_ns);
		for (int b = 0; b < TERRACE_LATENCY_BUCKETS; b++)
			block.latencies[i].buckets[b] = atomic_load(
			    &counts->latencies[i].buckets[b]);
	}
	block_to_stats(&block, stats);
}

static void counts_move(struct counts *counts, struct block *block)
{
	for (int i = 0; i < COUNTERS; i++)
		block->counters[i] += atomic_exchange(&counts->counters[i], 0);
	for (int i = 0; i < LATENCIES; i++) {
		block->latencies[i].count += atomic_exchange(&counts->latencies[i].count, 0);
		block->latencies[i].sum_ns += atomic_exchange(&counts->latencies[i].sum_ns, 0);
		for (int b = 0; b < TERRACE_LATENCY_BUCKETS; b++)
			block->latencies[i].buckets[b] += atomic_exchange(
			    &counts->latencies[i].buckets[b], 0);
	}
}

static void block_add(struct block *block, const struct block *more)
{
	for (int i = 0; i < COUNTERS; i++)
		block->counters[i] += more->counters[i];
	for (int i = 0; i < LATENCIES; i++) {
		block->latencies[i].count += more->latencies[i].count;
		block->latencies[i].sum_ns += more->latencies[i].sum_ns;
		for (int b = 0; b < TERRACE_LATENCY_BUCKETS; b++)
			block->latencies[i].buckets[b] += more->latencies[i].buckets[b];
	}
}

static void counts_give_back(struct counts *counts, const struct block *block)
{
	for (int i = 0; i < COUNTERS; i++)
		atomic_fetch_add(&counts->counters[i], block->counters[i]);
	for (int i = 0; i < LATENCIES; i++) {
		atomic_fetch_add(&counts->latencies[i].count, block->latencies[i].count);
		atomic_fetch_add(&counts->latencies[i].sum_ns, block->latencies[i].sum_ns);
		for (int b = 0; b < TERRACE_LATENCY_BUCKETS; b++)
			atomic_fetch_add(&counts->latencies[i].buckets[b],
			                 block->latencies[i].buckets[b]);
	}
}

static uint64_t check_of(const struct block *block)
{
	return terrace__hash64((const char *)block + sizeof block->check,
	                       sizeof *block - sizeof block->check, 0);
}

static int block_read(int fd, uint32_t cache, struct block *ret)
{
	size_t got = 0;
	int rc = terrace__read_full(fd, ret, sizeof *ret, (off_t)cache * (off_t)sizeof *ret, &got);

	if (rc == 0 && (got != sizeof *ret || ret->check != check_of(ret)))
		memset(ret, 0, sizeof *ret);
	return rc;
}

static bool is_zero(const struct counts *counts)
{
	uint64_t sum = 0;

	for (int i = 0; i < COUNTERS; i++)
		sum |= atomic_load_explicit(&counts->counters[i], memory_order_relaxed);
	for (int i = 0; i < LATENCIES; i++)
		sum |= atomic_load_explicit(&counts->latencies[i].count, memory_order_relaxed);
	return sum == 0;
}

int terrace__stats_file_add(int dir_fd, int lock_fd, uint32_t cache, struct counts *counts)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct block block;
	int rc;

	if (is_zero(counts))
		return 0;
	fd = openat(dir_fd, STATS_NAME, O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	rc = terrace__lock_wait(lock_fd, LOCK_STATS + cache, true);
	if (rc < 0)
		return rc;
	rc = block_read(fd, cache, &block);
	/* On a full disk the counts stay where they are, and what is in the file too. */
	terrace__limit_enter();
	if (rc == 0)
		rc = -posix_fallocate(fd, (off_t)cache * (off_t)sizeof block, sizeof block);
	terrace__limit_leave();
	if (rc == 0) {
		struct block ours = { 0 };

		counts_move(counts, &ours);
		block_add(&block, &ours);
		block.check = check_of(&block);
		rc = terrace__write_full(fd, &block, sizeof block,
		                         (off_t)cache * (off_t)sizeof block);
		if (rc < 0)
			counts_give_back(counts, &ours);
	}
	terrace__unlock(lock_fd, LOCK_STATS + cache);
	return rc;
}

int terrace__stats_file_read(int dir_fd, int lock_fd, uint32_t cache, terrace_stats *stats)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct block block;
	int rc;

	fd = openat(dir_fd, STATS_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	/* Who may only read may have none: then nobody writes. */
	rc = lock_fd < 0 ? 0 : terrace__lock_wait(lock_fd, LOCK_STATS + cache, false);
	if (rc < 0)
		return rc;
	rc = block_read(fd, cache, &block);
	terrace__unlock(lock_fd, LOCK_STATS + cache);
	if (rc == 0)
		block_to_stats(&block, stats);
	return rc;
}
