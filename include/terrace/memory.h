/*
 * Memory: what L1 holds in this process, and how much it may.
 *
 * All caches of a store share memory_bytes of the store. A cache that is promised
 * memory_min_bytes keeps so much; beyond that, caches borrow what is free, up to
 * their own memory_bytes, and the one that has borrowed most gives it back first.
 *
 * When the machine is short of memory, L1 shrinks to three quarters of what it
 * holds, once a second, by value, down to what is promised or a sixteenth of the
 * limit; after ten seconds of calm it may grow again by an eighth of the limit,
 * and so on. Short means: tasks waited for memory in 10 % of the last ten seconds
 * (/proc/pressure/memory), or the process's control group, or one around it, has
 * 95 % of its limit in use without files that can be dropped at once; calm means
 * under 1 % and under 85 %. Encoded bytes beside forms follow the same way. The
 * store's setting `pressure` switches this off.
 */
#ifndef TERRACE_MEMORY_H
#define TERRACE_MEMORY_H

#include <terrace/base.h>
#include <terrace/cache.h>
#include <terrace/store.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct terrace_memory {
	size_t size;            /* set by TERRACE_MEMORY_INIT */
	uint64_t bytes;         /* of L1 of all caches in this process, with overhead */
	uint64_t entries;       /* the same */
	uint64_t limit_bytes;   /* what L1 may hold now; 0 = no limit */
	uint64_t most_bytes;    /* … when memory is not short */
	uint64_t encoded_bytes; /* beside forms, in all caches */
	uint64_t encoded_limit_bytes;
	double stalled_percent; /* as last read: of the last ten seconds; 0 where unknown */
	double group_percent;   /* of the control group's limit; 0 where there is none */
	bool tight;             /* memory was short when last looked */
} terrace_memory;
TERRACE_DEFINE_INIT(terrace_memory)
#define TERRACE_MEMORY_INIT terrace_memory_init()

/**
 * What this process holds in memory, and what it may.
 *
 * Returns: TERRACE_OK, TERRACE_EINVAL.
 * Threads: safe.
 */
TERRACE_API int terrace_memory_usage(terrace *store, terrace_memory *ret);

/**
 * Set what L1 of all caches may hold in this process, from now on: memory_bytes
 * of the options by another value. What is over goes at once, by value; what is
 * promised to caches stays.
 *
 * bytes:   at least what caches are promised, and not 0.
 * Returns: TERRACE_OK, TERRACE_EINVAL.
 * Threads: safe.
 * Cost:    that of evicting what is over.
 */
TERRACE_API int terrace_resize(terrace *store, uint64_t bytes);

/**
 * The same for one cache: memory_bytes of its policy. 0 = as much as the store
 * has.
 *
 * Returns: TERRACE_OK; TERRACE_EINVAL, also for less than the cache is promised.
 */
TERRACE_API int terrace_cache_resize(terrace_cache *cache, uint64_t bytes);

/**
 * Let go of the entries of L1 in this process that are worth least. What lower
 * tiers hold stays there.
 *
 * count:   how many; UINT64_MAX for all.
 * ret:     how many went: fewer where there were fewer; may be NULL.
 * Returns: TERRACE_OK, TERRACE_EINVAL.
 * Threads: safe.
 */
TERRACE_API int terrace_evict(terrace_cache *cache, uint64_t count, uint64_t *ret);

/** A process that works with the store. */
typedef struct terrace_process {
	size_t size;
	int64_t pid;
	int64_t seen_ms;       /* when it last said so, since 1970: up to some seconds ago */
	uint64_t memory_bytes; /* L1 of all its caches */
	uint64_t memory_entries;
	uint64_t memory_limit_bytes;
	uint64_t encoded_bytes;
	bool tight; /* it found that memory is short */
} terrace_process;

/**
 * Call `fn` for each process that works with the store, this one too where it
 * has done so for some seconds; stop when it returns nonzero. What did little
 * and is gone again is not among them; who was killed is, for 20 seconds. At most
 * 64.
 *
 * Returns: TERRACE_OK, TERRACE_EINVAL.
 * Threads: safe.
 * Cost:    reads a small file.
 */
TERRACE_API int terrace_processes_each(terrace *store,
                                       int (*fn)(void *ctx, const terrace_process *process),
                                       void *ctx);

#ifdef __cplusplus
}
#endif
#endif
