/*
 * Preloading a folder: the JPEG of every tile of every slide into the cache, as
 * one bulk job of Terrace's engine. The current slide comes first, then its
 * neighbours +1, -1, +2 and so on; within a slide the coarsest level.
 */
#ifndef SLIDES_PRELOAD_H
#define SLIDES_PRELOAD_H

#include "slides/tiles.h"

/* The slides of a folder, by name; or the one slide that the path is. */
struct folder {
	size_t count;
	char **paths;
};

/* TERRACE_OK, also when it is empty; TERRACE_MISS when there is no such folder. */
int folder_list(const char *path, struct folder *ret);
void folder_free(struct folder *folder);

/* current, +1, -1, +2, ... of `count`, into ret[count]. */
void preload_order(size_t count, size_t current, size_t *ret);

struct preload;

struct preload_spec {
	const struct folder *folder; /* borrowed during the call */
	size_t current;
	uint32_t finest_level; /* up from here to the coarsest; UINT32_MAX: all levels */
	uint32_t rate_limit;   /* tiles a second; 0: any */
};

/*
 * Owns: the caller ends *ret with preload_free(). Slides that cannot be opened
 * are counted as failed.
 */
int preload_start(struct tiles *tiles, terrace_jobs *jobs, const struct preload_spec *spec,
                  struct preload **ret);

struct preload_status {
	uint64_t slides, slides_done, slides_failed;
	uint64_t tiles, tiles_done, tiles_failed, tiles_skipped;
	bool running, cancelled;
	bool full; /* what did not fit the budget was skipped */
	int64_t elapsed_ms;
	char last_error[256];
};
void preload_status(struct preload *preload, struct preload_status *ret);

void preload_cancel(struct preload *preload); /* NULL is fine */
/* TERRACE_OK, or TERRACE_EBUSY after wait_ms; negative: however long it takes. */
int preload_wait(struct preload *preload, int64_t wait_ms);
/* Cancels it, waits and frees. NULL is fine. */
void preload_free(struct preload *preload);

#endif
