#include "slides/viewer.h"

#include <pthread.h>
#include <stdlib.h>

enum { ASKED = 3 }; /* the first levels, the visible tiles, those ahead */

struct viewer {
	struct tiles *tiles;
	terrace_jobs *jobs;
	enum viewer_form form;
	viewer_arrived *arrived;
	void *ctx;

	pthread_mutex_t lock; /* over slide and asked; arrivals are told under `telling` */
	pthread_mutex_t telling;
	struct slide *slide;
	_Atomic uint64_t generation;
	terrace_job *asked[ASKED];
	unsigned batches; /* that have not ended */
	pthread_cond_t ended;
};

/* Tiles that were asked for together. */
struct batch {
	struct viewer *viewer;
	struct slide *slide;
	uint64_t generation;
	struct tile *tiles;
};

/* One tile of a batch, or of a caller. */
struct claim {
	struct viewer *viewer;
	uint64_t generation;
};

static bool is_over(struct viewer *viewer, uint64_t generation)
{
	return atomic_load(&viewer->generation) != generation;
}

static int guard(void *ctx)
{
	struct claim *claim = ctx;

	return is_over(claim->viewer, claim->generation) ? VIEWER_STALE : TERRACE_OK;
}

/* --- working ahead --------------------------------------------------------------------------------- */

static int run_tile(void *ctx, uint64_t item)
{
	struct batch *batch = ctx;
	struct viewer *viewer = batch->viewer;
	struct claim claim = { viewer, batch->generation };
	terrace_value *value;
	int rc;

	if (is_over(viewer, batch->generation))
		return TERRACE_EXISTS; /* nothing to do any more */
	rc = (viewer->form == VIEWER_JPEGS ? tiles_jpeg : tiles_picture)(
	    viewer->tiles, batch->slide, &batch->tiles[item], guard, &claim, &value, NULL);
	if (rc == VIEWER_STALE || rc == TERRACE_MISS)
		return TERRACE_EXISTS;
	if (rc != TERRACE_OK)
		return rc;
	/* A switch takes `telling` to move on: nobody is told of an older slide's. */
	pthread_mutex_lock(&viewer->telling);
	if (viewer->arrived && viewer->form == VIEWER_PICTURES &&
	    !is_over(viewer, batch->generation))
		viewer->arrived(viewer->ctx, batch->generation, &batch->tiles[item],
		                terrace_object(value));
	pthread_mutex_unlock(&viewer->telling);
	terrace_release(value);
	return TERRACE_OK;
}

static void free_batch(void *ctx)
{
	struct batch *batch = ctx;
	struct viewer *viewer = batch->viewer;

	slide_unref(batch->slide);
	free(batch->tiles);
	free(batch);
	pthread_mutex_lock(&viewer->lock);
	viewer->batches--;
	pthread_cond_broadcast(&viewer->ended);
	pthread_mutex_unlock(&viewer->lock);
}

/* Under the lock. Takes over the array of tiles. */
static int ask(struct viewer *viewer, int which, terrace_priority priority, struct tile *tiles,
               size_t count)
{
	terrace_job_spec spec = TERRACE_JOB_INIT;
	struct batch *batch = malloc(sizeof *batch);
	int rc;

	terrace_job_cancel(viewer->asked[which]);
	terrace_job_release(viewer->asked[which]);
	viewer->asked[which] = NULL;
	if (!batch) {
		free(tiles);
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a view");
	}
	*batch = (struct batch){ viewer, slide_ref(viewer->slide), atomic_load(&viewer->generation),
		                 tiles };
	spec.priority = priority;
	spec.items = count;
	spec.run = run_tile;
	spec.finished = free_batch;
	spec.ctx = batch;
	rc = terrace_jobs_submit(viewer->jobs, &spec, &viewer->asked[which]);
	if (rc == TERRACE_OK) {
		viewer->batches++;
	} else {
		slide_unref(batch->slide);
		free(tiles);
		free(batch);
	}
	return rc;
}

/* --- the viewer --------------------------------------------------------------------------------------- */

int viewer_new(struct tiles *tiles, terrace_jobs *jobs, enum viewer_form form,
               viewer_arrived *arrived, void *ctx, struct viewer **ret)
{
	struct viewer *viewer = calloc(1, sizeof *viewer);

	if (!viewer)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a viewer");
	viewer->tiles = tiles;
	viewer->jobs = jobs;
	viewer->form = form;
	viewer->arrived = arrived;
	viewer->ctx = ctx;
	pthread_mutex_init(&viewer->lock, NULL);
	pthread_mutex_init(&viewer->telling, NULL);
	pthread_cond_init(&viewer->ended, NULL);
	*ret = viewer;
	return TERRACE_OK;
}

/* The jobs of now, each with a reference, so that they can be waited for without the lock. */
static void take_asked(struct viewer *viewer, terrace_job *ret[ASKED])
{
	pthread_mutex_lock(&viewer->lock);
	for (int i = 0; i < ASKED; i++) {
		ret[i] = viewer->asked[i];
		viewer->asked[i] = NULL;
	}
	pthread_mutex_unlock(&viewer->lock);
}

void viewer_wait(struct viewer *viewer)
{
	terrace_job *asked[ASKED];

	take_asked(viewer, asked);
	for (int i = 0; i < ASKED; i++) {
		if (asked[i])
			terrace_job_wait(asked[i], -1);
		terrace_job_release(asked[i]);
	}
}

void viewer_close(struct viewer *viewer)
{
	terrace_job *asked[ASKED];

	if (!viewer)
		return;
	atomic_fetch_add(&viewer->generation, 1);
	take_asked(viewer, asked);
	for (int i = 0; i < ASKED; i++) {
		terrace_job_cancel(asked[i]);
		terrace_job_release(asked[i]);
	}
	/* Those of earlier views too may have an item under way. */
	pthread_mutex_lock(&viewer->lock);
	while (viewer->batches)
		pthread_cond_wait(&viewer->ended, &viewer->lock);
	pthread_mutex_unlock(&viewer->lock);
	slide_unref(viewer->slide);
	pthread_cond_destroy(&viewer->ended);
	pthread_mutex_destroy(&viewer->lock);
	pthread_mutex_destroy(&viewer->telling);
	free(viewer);
}

int viewer_open(struct viewer *viewer, const char *path, uint64_t *ret_generation)
{
	struct slide *slide, *former;
	struct tile *first;
	size_t count;
	int rc = tiles_slide(viewer->tiles, path, 0, &slide);

	if (rc != TERRACE_OK)
		return rc;
	rc = view_first(slide, &first, &count);
	if (rc != TERRACE_OK) {
		slide_unref(slide);
		return rc;
	}
	pthread_mutex_lock(&viewer->lock);
	for (int i = 0; i < ASKED; i++)
		terrace_job_cancel(viewer->asked[i]);
	former = viewer->slide;
	viewer->slide = slide;
	pthread_mutex_lock(&viewer->telling);
	atomic_fetch_add(&viewer->generation, 1);
	pthread_mutex_unlock(&viewer->telling);
	if (ret_generation)
		*ret_generation = atomic_load(&viewer->generation);
	rc = ask(viewer, 0, TERRACE_FOREGROUND, first, count);
	pthread_mutex_unlock(&viewer->lock);
	slide_unref(former);
	return rc;
}

struct slide *viewer_current(struct viewer *viewer, uint64_t *ret_generation)
{
	struct slide *slide;

	pthread_mutex_lock(&viewer->lock);
	slide = viewer->slide ? slide_ref(viewer->slide) : NULL;
	if (ret_generation)
		*ret_generation = atomic_load(&viewer->generation);
	pthread_mutex_unlock(&viewer->lock);
	return slide;
}

static int ask_for_plan(struct viewer *viewer, struct view_plan *plan)
{
	int rc = ask(viewer, 1, TERRACE_FOREGROUND, plan->visible, plan->visible_count);

	plan->visible = NULL; /* taken over */
	if (rc != TERRACE_OK)
		return rc;
	rc = ask(viewer, 2, TERRACE_PREFETCH, plan->prefetch, plan->prefetch_count);
	plan->prefetch = NULL;
	return rc;
}

int viewer_look(struct viewer *viewer, uint64_t generation, const struct view *view)
{
	struct view_plan plan = { 0 };
	int rc = VIEWER_STALE;

	pthread_mutex_lock(&viewer->lock);
	if (viewer->slide && !is_over(viewer, generation)) {
		rc = view_plan(viewer->slide, view, &plan);
		if (rc == TERRACE_OK)
			rc = ask_for_plan(viewer, &plan);
	}
	pthread_mutex_unlock(&viewer->lock);
	view_plan_free(&plan);
	return rc;
}

/* The slide of a generation, referenced; NULL when it is over. */
static struct slide *slide_of(struct viewer *viewer, uint64_t generation)
{
	uint64_t current;
	struct slide *slide = viewer_current(viewer, &current);

	if (current == generation)
		return slide;
	slide_unref(slide);
	return NULL;
}

int viewer_tile(struct viewer *viewer, uint64_t generation, const struct tile *tile,
                terrace_value **ret, enum tiles_from *ret_from)
{
	struct claim claim = { viewer, generation };
	struct slide *slide = slide_of(viewer, generation);
	int rc;

	if (!slide)
		return VIEWER_STALE;
	terrace_jobs_enter(viewer->jobs);
	rc = tiles_picture(viewer->tiles, slide, tile, guard, &claim, ret, ret_from);
	terrace_jobs_leave(viewer->jobs);
	slide_unref(slide);
	if (rc == TERRACE_OK && is_over(viewer, generation)) {
		terrace_release(*ret);
		return VIEWER_STALE;
	}
	return rc;
}

bool viewer_has(struct viewer *viewer, uint64_t generation, const struct tile *tile)
{
	struct slide *slide = slide_of(viewer, generation);
	bool has = slide && tiles_has(viewer->tiles, slide, tile);

	slide_unref(slide);
	return has;
}
