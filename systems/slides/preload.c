#include "slides/preload.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* --- folders -------------------------------------------------------------------------------------- */

static bool may_be_slide(const char *name)
{
	static const char *const ends[] = {
		".fastpath", ".dzi", ".svs", ".tif", ".tiff", ".ndpi",
		".mrxs",     ".scn", ".vms", ".vmu", ".bif",  ".svslide"
	};
	const char *dot = strrchr(name, '.');

	for (size_t i = 0; dot && i < sizeof ends / sizeof ends[0]; i++) {
		if (strcasecmp(dot, ends[i]) == 0)
			return true;
	}
	return false;
}

static int add_path(struct folder *folder, const char *dir, const char *name)
{
	char **grown = realloc(folder->paths, (folder->count + 1) * sizeof *grown);
	char path[4096];

	if (!grown)
		return TERRACE_ENOMEM;
	folder->paths = grown;
	snprintf(path, sizeof path, "%s%s%s", dir, *name ? "/" : "", name);
	grown[folder->count] = strdup(path);
	if (!grown[folder->count])
		return TERRACE_ENOMEM;
	folder->count++;
	return TERRACE_OK;
}

static int compare_paths(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int folder_list(const char *path, struct folder *ret)
{
	struct folder folder = { 0 };
	enum slide_kind kind;
	struct dirent *entry;
	int rc = TERRACE_OK;
	DIR *dir;

	if (slide_kind_of(path, &kind) == TERRACE_OK) {
		rc = add_path(&folder, path, "");
		*ret = folder;
		return rc;
	}
	dir = opendir(path);
	if (!dir)
		return terrace_fail(TERRACE_MISS, "cannot open folder \"%s\": %s", path,
		                    strerror(errno));
	while (rc == TERRACE_OK && (entry = readdir(dir)) != NULL) {
		char whole[4096];

		snprintf(whole, sizeof whole, "%s/%s", path, entry->d_name);
		if (entry->d_name[0] != '.' && may_be_slide(entry->d_name) &&
		    slide_kind_of(whole, &kind) == TERRACE_OK)
			rc = add_path(&folder, path, entry->d_name);
	}
	closedir(dir);
	if (rc != TERRACE_OK) {
		folder_free(&folder);
		return terrace_fail(rc, "out of memory for a list of slides");
	}
	if (folder.count)
		qsort(folder.paths, folder.count, sizeof *folder.paths, compare_paths);
	*ret = folder;
	return TERRACE_OK;
}

void folder_free(struct folder *folder)
{
	for (size_t i = 0; i < folder->count; i++)
		free(folder->paths[i]);
	free(folder->paths);
	*folder = (struct folder){ 0 };
}

void preload_order(size_t count, size_t current, size_t *ret)
{
	size_t at = 0;

	if (count)
		ret[at++] = current;
	for (size_t step = 1; at < count; step++) {
		if (current + step < count)
			ret[at++] = current + step;
		if (step <= current)
			ret[at++] = current - step;
	}
}

/* --- the job ------------------------------------------------------------------------------------------ */

struct preload_slide {
	struct slide *slide;
	uint64_t first;        /* its first item of the job */
	_Atomic uint64_t left; /* tiles */
};

struct preload {
	struct tiles *tiles;
	uint32_t finest_level;
	size_t slide_count;
	struct preload_slide *slides; /* in order of loading */
	uint64_t failed_slides, items;
	_Atomic uint64_t slides_done;
	_Atomic bool full;
	terrace_job *job;
};

static bool is_wanted(const struct preload *preload, const struct slide_level *level)
{
	return level->level <= preload->finest_level;
}

static struct preload_slide *slide_of(struct preload *preload, uint64_t item)
{
	size_t low = 0, high = preload->slide_count;

	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (preload->slides[middle].first <= item)
			low = middle;
		else
			high = middle;
	}
	return &preload->slides[low];
}

static struct tile tile_of(const struct preload *preload, const struct preload_slide *in,
                           uint64_t item)
{
	uint64_t at = item - in->first;

	for (unsigned i = 0; i < in->slide->level_count; i++) {
		const struct slide_level *level = &in->slide->levels[i];
		uint64_t count = (uint64_t)level->cols * level->rows;

		if (!is_wanted(preload, level))
			continue;
		if (at < count)
			return (struct tile){ level->level, (uint32_t)(at % level->cols),
				              (uint32_t)(at / level->cols) };
		at -= count;
	}
	return (struct tile){ UINT32_MAX, 0, 0 };
}

static void tile_done(struct preload *preload, struct preload_slide *slide)
{
	if (atomic_fetch_sub(&slide->left, 1) == 1)
		atomic_fetch_add(&preload->slides_done, 1);
}

static bool have_tile(void *ctx, uint64_t item)
{
	struct preload *preload = ctx;
	struct preload_slide *in = slide_of(preload, item);
	struct tile tile = tile_of(preload, in, item);

	if (!tiles_has(preload->tiles, in->slide, &tile))
		return false;
	tile_done(preload, in);
	return true;
}

static int load_tile(void *ctx, uint64_t item)
{
	struct preload *preload = ctx;
	struct preload_slide *in = slide_of(preload, item);
	struct tile tile = tile_of(preload, in, item);
	terrace_value *value;
	int rc;

	/* Further slides would push out the nearer ones. */
	if (in->slide->kind != SLIDE_OPENSLIDE && tiles_full(preload->tiles)) {
		atomic_store(&preload->full, true);
		return TERRACE_EXISTS;
	}
	rc = tiles_jpeg(preload->tiles, in->slide, &tile, NULL, NULL, &value, NULL);
	if (rc == TERRACE_OK)
		terrace_release(value);
	tile_done(preload, in);
	/* A pyramid may have holes. */
	return rc == TERRACE_MISS ? TERRACE_EXISTS : rc;
}

static void add_slide(struct preload *preload, const char *path)
{
	struct preload_slide *in = &preload->slides[preload->slide_count];
	uint64_t count = 0;

	if (tiles_slide(preload->tiles, path, 1000, &in->slide) != TERRACE_OK) {
		preload->failed_slides++;
		return;
	}
	for (unsigned i = 0; i < in->slide->level_count; i++) {
		const struct slide_level *level = &in->slide->levels[i];

		if (is_wanted(preload, level))
			count += (uint64_t)level->cols * level->rows;
	}
	in->first = preload->items;
	atomic_init(&in->left, count);
	preload->items += count;
	preload->slide_count++;
}

int preload_start(struct tiles *tiles, terrace_jobs *jobs, const struct preload_spec *spec,
                  struct preload **ret)
{
	struct preload *preload = calloc(1, sizeof *preload);
	size_t count = spec->folder->count, *order = calloc(count + 1, sizeof *order);
	terrace_job_spec job = TERRACE_JOB_INIT;
	int rc;

	if (preload)
		preload->slides = calloc(count + 1, sizeof *preload->slides);
	if (!preload || !preload->slides || !order) {
		preload_free(preload);
		free(order);
		return terrace_fail(TERRACE_ENOMEM, "out of memory for preloading");
	}
	preload->tiles = tiles;
	preload->finest_level = spec->finest_level;
	preload_order(count, spec->current < count ? spec->current : 0, order);
	for (size_t i = 0; i < count; i++)
		add_slide(preload, spec->folder->paths[order[i]]);
	free(order);
	job.priority = TERRACE_BULK;
	job.items = preload->items;
	job.rate_limit = spec->rate_limit;
	job.run = load_tile;
	job.have = have_tile;
	job.ctx = preload;
	rc = terrace_jobs_submit(jobs, &job, &preload->job);
	if (rc != TERRACE_OK) {
		preload_free(preload);
		return rc;
	}
	*ret = preload;
	return TERRACE_OK;
}

void preload_status(struct preload *preload, struct preload_status *ret)
{
	terrace_progress progress = TERRACE_PROGRESS_INIT;

	terrace_job_progress(preload->job, &progress);
	*ret = (struct preload_status){
		.slides = preload->slide_count + preload->failed_slides,
		.slides_done = atomic_load(&preload->slides_done),
		.slides_failed = preload->failed_slides,
		.tiles = progress.items,
		.tiles_done = progress.done,
		.tiles_failed = progress.failed,
		.tiles_skipped = progress.skipped,
		.running = !progress.finished,
		.cancelled = progress.cancelled,
		.full = atomic_load(&preload->full),
		.elapsed_ms = progress.elapsed_ms,
	};
	memcpy(ret->last_error, progress.last_error, sizeof ret->last_error);
}

void preload_cancel(struct preload *preload)
{
	if (preload)
		terrace_job_cancel(preload->job);
}

int preload_wait(struct preload *preload, int64_t wait_ms)
{
	return terrace_job_wait(preload->job, wait_ms);
}

void preload_free(struct preload *preload)
{
	if (!preload)
		return;
	if (preload->job) {
		terrace_job_cancel(preload->job);
		terrace_job_wait(preload->job, -1);
		terrace_job_release(preload->job);
	}
	for (size_t i = 0; i < preload->slide_count; i++)
		slide_unref(preload->slides[i].slide);
	free(preload->slides);
	free(preload);
}
