#include "slides/view.h"

#include <math.h>
#include <stdlib.h>

/* A rectangle in level-0 pixels; half open. */
struct rect {
	double left, top, right, bottom;
};

/* Tiles [left, right) x [top, bottom) of a level. */
struct span {
	uint32_t left, top, right, bottom;
};

const struct slide_level *view_level(const struct slide *slide, double scale)
{
	/* The coarsest comes first. */
	for (unsigned i = 0; i < slide->level_count; i++) {
		if (slide->levels[i].downsample <= 1 / scale)
			return &slide->levels[i];
	}
	return &slide->levels[slide->level_count - 1];
}

static uint32_t clamp(double value, uint32_t most)
{
	if (!(value > 0))
		return 0;
	return value < most ? (uint32_t)value : most;
}

static struct span span_of(const struct slide *slide, const struct slide_level *level,
                           const struct rect *rect)
{
	double tile = slide->tile_size * level->downsample;

	return (struct span){
		.left = clamp(floor(rect->left / tile), level->cols),
		.top = clamp(floor(rect->top / tile), level->rows),
		.right = clamp(ceil(rect->right / tile), level->cols),
		.bottom = clamp(ceil(rect->bottom / tile), level->rows),
	};
}

static bool within(const struct span *span, uint32_t col, uint32_t row)
{
	return col >= span->left && col < span->right && row >= span->top && row < span->bottom;
}

/* Row by row, without those of `but` (may be NULL), `most` at most. */
static size_t list(const struct slide_level *level, const struct span *span, const struct span *but,
                   size_t most, struct tile *ret)
{
	size_t count = 0;

	for (uint32_t row = span->top; row < span->bottom; row++) {
		for (uint32_t col = span->left; col < span->right; col++) {
			if (but && within(but, col, row)) {
				col = but->right - 1;
				continue;
			}
			if (count == most)
				return count;
			ret[count++] = (struct tile){ level->level, col, row };
		}
	}
	return count;
}

/* By a tile on every side, and three more the way it moves along each axis. */
static struct rect widen(const struct view *view, const struct rect *rect, double tile)
{
	struct rect wide = { rect->left - tile, rect->top - tile, rect->right + tile,
		             rect->bottom + tile };

	if (view->velocity_x > VIEW_FAST)
		wide.right += VIEW_AHEAD * tile;
	else if (view->velocity_x < -VIEW_FAST)
		wide.left -= VIEW_AHEAD * tile;
	if (view->velocity_y > VIEW_FAST)
		wide.bottom += VIEW_AHEAD * tile;
	else if (view->velocity_y < -VIEW_FAST)
		wide.top -= VIEW_AHEAD * tile;
	return wide;
}

/* The quarter of the width and of the height around the middle. */
static struct rect central_quarter(const struct view *view)
{
	double x = view->x + view->width / 2, y = view->y + view->height / 2;

	return (struct rect){ x - view->width / 8, y - view->height / 8, x + view->width / 8,
		              y + view->height / 8 };
}

static bool is_sound(const struct view *view)
{
	return isfinite(view->x) && isfinite(view->y) && isfinite(view->velocity_x) &&
	       isfinite(view->velocity_y) && isfinite(view->width) && isfinite(view->height) &&
	       isfinite(view->scale) && view->width > 0 && view->height > 0 && view->scale > 0;
}

int view_plan(const struct slide *slide, const struct view *view, struct view_plan *ret)
{
	const struct slide_level *level, *last = &slide->levels[slide->level_count - 1];
	struct rect rect = { view->x, view->y, view->x + view->width, view->y + view->height };
	struct rect wide, centre;
	struct span visible, span;
	struct view_plan plan;

	if (!is_sound(view))
		return terrace_fail(TERRACE_EINVAL,
		                    "a view needs a width, a height and a scale above zero");
	level = view_level(slide, view->scale);
	plan = (struct view_plan){ .level = level->level };
	plan.visible = calloc(VIEW_VISIBLE_MAX, sizeof *plan.visible);
	plan.prefetch = calloc(VIEW_WIDENED_MAX + 2 * VIEW_VISIBLE_MAX, sizeof *plan.prefetch);
	if (!plan.visible || !plan.prefetch) {
		view_plan_free(&plan);
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a view's tiles");
	}
	visible = span_of(slide, level, &rect);
	plan.visible_count = list(level, &visible, NULL, VIEW_VISIBLE_MAX, plan.visible);
	wide = widen(view, &rect, slide->tile_size * level->downsample);
	span = span_of(slide, level, &wide);
	plan.prefetch_count = list(level, &span, &visible, VIEW_WIDENED_MAX, plan.prefetch);
	if (level > slide->levels) {
		span = span_of(slide, level - 1, &rect);
		plan.prefetch_count += list(level - 1, &span, NULL, VIEW_VISIBLE_MAX,
		                            plan.prefetch + plan.prefetch_count);
	}
	if (level < last) {
		centre = central_quarter(view);
		span = span_of(slide, level + 1, &centre);
		plan.prefetch_count += list(level + 1, &span, NULL, VIEW_VISIBLE_MAX,
		                            plan.prefetch + plan.prefetch_count);
	}
	*ret = plan;
	return TERRACE_OK;
}

void view_plan_free(struct view_plan *plan)
{
	free(plan->visible);
	free(plan->prefetch);
	*plan = (struct view_plan){ 0 };
}

int view_first(const struct slide *slide, struct tile **ret, size_t *ret_count)
{
	struct tile *tiles = calloc((size_t)slide->level_count * VIEW_FIRST_TILES, sizeof *tiles);
	size_t count = 0;

	if (!tiles)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a list of tiles");
	for (unsigned i = 0; i < slide->level_count; i++) {
		const struct slide_level *level = &slide->levels[i];
		struct span all = { 0, 0, level->cols, level->rows };

		if ((uint64_t)level->cols * level->rows <= VIEW_FIRST_TILES)
			count += list(level, &all, NULL, VIEW_FIRST_TILES, tiles + count);
	}
	*ret = tiles;
	*ret_count = count;
	return TERRACE_OK;
}
