/*
 * Which tiles a view needs, and which it may need next.
 *
 * The rules are those of FastPATH's viewer (its scheduler and prefetch), with
 * the widening counted in tiles of the level that is shown.
 */
#ifndef SLIDES_VIEW_H
#define SLIDES_VIEW_H

#include "slides/slide.h"

enum {
	VIEW_VISIBLE_MAX = 256,
	VIEW_WIDENED_MAX = 32,
	VIEW_FAST = 50,       /* pixels a second */
	VIEW_AHEAD = 3,       /* tiles more, the way it moves */
	VIEW_FIRST_TILES = 64 /* levels of at most so many tiles come first when a slide opens */
};

struct view {
	double x, y, width, height; /* level-0 pixels: of the slide at its full resolution */
	double scale;               /* screen pixels for each of those */
	double velocity_x, velocity_y;
};

struct tile {
	uint32_t level, col, row;
};

struct view_plan {
	uint32_t level;
	size_t visible_count, prefetch_count;
	struct tile *visible;  /* in the order in which they are asked for */
	struct tile *prefetch; /* likewise, behind the visible ones */
};

/* The largest downsample not above 1/scale; the finest level where none is. */
const struct slide_level *view_level(const struct slide *slide, double scale);

/*
 * Owns:    the caller frees what *ret holds with view_plan_free().
 * Returns: TERRACE_OK; TERRACE_EINVAL for a scale or a size that is not positive, or
 *          no number; TERRACE_ENOMEM.
 */
int view_plan(const struct slide *slide, const struct view *view, struct view_plan *ret);
void view_plan_free(struct view_plan *plan);

/* All tiles of the levels of VIEW_FIRST_TILES or fewer, the coarsest level first. */
int view_first(const struct slide *slide, struct tile **ret, size_t *ret_count);

#endif
