/*
 * Jobs: background work over many items, such as warming a cache.
 *
 * An engine has threads of two kinds. Its workers run items of FOREGROUND and
 * PREFETCH jobs, foreground first, and prefetch never on all of them. Its bulk
 * workers run items of BULK jobs alone, at the lowest priority that the kernel
 * knows for processor and disk, and begin none while foreground work is queued
 * or under way, the program's own included (terrace_jobs_enter()), nor within 50
 * ms after it, but for one a second where it is never quiet for so long.
 *
 * Within a priority the job that was submitted first goes first; within a job
 * items start in order of their numbers, so a program orders them as it likes.
 *
 * To resume after a restart, submit the same job again with `have`: what the
 * cache still holds is skipped. There is no record besides that could say
 * something else than the cache does.
 */
#ifndef TERRACE_JOBS_H
#define TERRACE_JOBS_H

#include <terrace/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Threads and their queues. */
typedef struct terrace_jobs terrace_jobs;
/** One submitted job. */
typedef struct terrace_job terrace_job;

typedef enum terrace_priority {
	TERRACE_FOREGROUND = 0, /* somebody is waiting for it */
	TERRACE_PREFETCH = 1,   /* somebody may soon */
	TERRACE_BULK = 2,       /* nobody is */
} terrace_priority;

typedef struct terrace_jobs_options {
	size_t size;           /* set by TERRACE_JOBS_INIT */
	unsigned workers;      /* of FOREGROUND and PREFETCH; 0 = one a processor, 2 to 16 */
	unsigned bulk_workers; /* of BULK; 0 = 3 */
} terrace_jobs_options;
TERRACE_DEFINE_INIT(terrace_jobs_options)
#define TERRACE_JOBS_INIT terrace_jobs_options_init()

/**
 * Start an engine.
 *
 * options: may be NULL.
 * Owns:    on TERRACE_OK the caller closes *ret with terrace_jobs_close().
 * Returns: TERRACE_OK, TERRACE_EINVAL (over 64 threads of a kind), TERRACE_ENOMEM,
 *          TERRACE_EIO (no more threads).
 */
TERRACE_API int terrace_jobs_open(const terrace_jobs_options *options, terrace_jobs **ret);

/**
 * Cancel all jobs, wait for the items under way, end the threads. Jobs that are
 * still held stay readable. NULL is fine. Not from within an item.
 */
TERRACE_API void terrace_jobs_close(terrace_jobs *jobs);

/**
 * Foreground work of the program's own begins and ends on this thread: while
 * there is any, no bulk item begins. May be nested. A NULL engine is fine.
 *
 * Threads: safe.
 * Cost:    an atomic operation; leaving reads the clock.
 */
TERRACE_API void terrace_jobs_enter(terrace_jobs *jobs);
TERRACE_API void terrace_jobs_leave(terrace_jobs *jobs);

/**
 * Within a long item of a bulk job, between steps: wait while foreground work is
 * queued or under way, 20 ms at most, because the foreground may be waiting for
 * this very item. Elsewhere it returns at once.
 */
TERRACE_API void terrace_jobs_yield(void);

/** What a job is to do. Fields left at zero mean the default. */
typedef struct terrace_job_spec {
	size_t size; /* set by TERRACE_JOB_INIT */
	terrace_priority priority;
	uint64_t items;      /* numbered from 0 */
	unsigned workers;    /* items under way at a time; 0 = as many as there are threads */
	uint32_t rate_limit; /* items that start in a second, skipped ones not counted; 0 = any */
	/*
	 * Do one item. TERRACE_OK: done. TERRACE_EXISTS: there was nothing to do,
	 * counted as skipped. Anything else: failed; the job goes on.
	 */
	int (*run)(void *ctx, uint64_t item);
	/* Is the item's result there already? It is skipped. NULL: never. */
	bool (*have)(void *ctx, uint64_t item);
	/* After the last item, and after a cancel: once, on a thread of the engine. */
	void (*finished)(void *ctx);
	void *ctx; /* borrowed until `finished` has returned */
} terrace_job_spec;
TERRACE_DEFINE_INIT(terrace_job_spec)
#define TERRACE_JOB_INIT terrace_job_spec_init()

/**
 * Queue a job.
 *
 * Owns:    with `ret` the caller releases *ret with terrace_job_release();
 *          ret may be NULL.
 * Returns: TERRACE_OK; TERRACE_EINVAL; TERRACE_ENOMEM.
 * Threads: safe, also from within an item or `finished`.
 */
TERRACE_API int terrace_jobs_submit(terrace_jobs *jobs, const terrace_job_spec *spec,
                                    terrace_job **ret);

/** How far a job is. done + skipped + failed = items once it has run to its end. */
typedef struct terrace_progress {
	size_t size; /* set by TERRACE_PROGRESS_INIT */
	uint64_t items;
	uint64_t done;
	uint64_t skipped;
	uint64_t failed;
	unsigned running; /* items under way */
	bool cancelled;
	bool finished;        /* nothing of it runs, or will */
	int64_t elapsed_ms;   /* since it was submitted, until it finished */
	char last_error[256]; /* of the item that failed last; "" without any */
} terrace_progress;
TERRACE_DEFINE_INIT(terrace_progress)
#define TERRACE_PROGRESS_INIT terrace_progress_init()

/** Returns: TERRACE_OK; TERRACE_EINVAL. Threads: safe. */
TERRACE_API int terrace_job_progress(terrace_job *job, terrace_progress *ret);

/**
 * Begin no further item. Those under way end; terrace_job_wait() waits for
 * them. NULL is fine.
 */
TERRACE_API void terrace_job_cancel(terrace_job *job);

/**
 * Wait until it has finished and `finished` has returned.
 *
 * wait_ms: how long; negative = without a limit.
 * Returns: TERRACE_OK; TERRACE_EBUSY after wait_ms. Not from within an item.
 */
TERRACE_API int terrace_job_wait(terrace_job *job, int64_t wait_ms);

/** Let go of it; it goes on. NULL is fine. */
TERRACE_API void terrace_job_release(terrace_job *job);

#ifdef __cplusplus
}
#endif
#endif
