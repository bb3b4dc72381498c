/*
 * A program that shows slides: it opens one, pans over it as a screen would, and
 * counts where the tiles came from. Instead of drawing, it adds up pixels.
 *
 *   slides SLIDE
 */
#include "slides/viewer.h"

#include <stdio.h>

/* The part of a slide that one screen shows; the decoded tiles are read in place. */
static uint64_t draw(struct viewer *viewer, uint64_t generation, const struct view_plan *plan,
                     unsigned counts[FROMS])
{
	uint64_t sum = 0;

	for (size_t i = 0; i < plan->visible_count; i++) {
		const struct picture *picture;
		terrace_value *value;
		enum tiles_from from;

		if (viewer_tile(viewer, generation, &plan->visible[i], &value, &from) !=
		    TERRACE_OK) {
			fprintf(stderr, "%s\n", terrace_error_message());
			continue;
		}
		picture = terrace_object(value);
		for (size_t at = 0; at < (size_t)picture->width * picture->height * 3; at += 97)
			sum += picture->rgb[at];
		terrace_release(value);
		counts[from]++;
	}
	return sum;
}

static int pan(struct viewer *viewer, const char *path)
{
	unsigned counts[FROMS] = { 0 }, screens = 0;
	struct view view = { 0, 0, 1280, 800, 1, 400, 0 };
	uint64_t generation, sum = 0;
	struct slide *slide;
	int rc = viewer_open(viewer, path, &generation);

	if (rc != TERRACE_OK)
		return rc;
	slide = viewer_current(viewer, NULL);
	for (int round = 0; round < 2; round++) {
		for (view.x = 0; view.x < slide->width; view.x += 160, screens++) {
			struct view_plan plan;

			/* The tiles to the right are asked for while these are drawn. */
			viewer_look(viewer, generation, &view);
			if (view_plan(slide, &view, &plan) != TERRACE_OK)
				break;
			sum += draw(viewer, generation, &plan, counts);
			view_plan_free(&plan);
		}
	}
	slide_unref(slide);
	printf("%u screens, sum %llu:", screens, (unsigned long long)sum);
	for (int from = 0; from < FROMS; from++)
		printf(" %u from %s%s", counts[from], tiles_from_name((enum tiles_from)from),
		       from + 1 < FROMS ? "," : "\n");
	return TERRACE_OK;
}

int main(int argc, char **argv)
{
	struct tiles_budget budget;
	struct viewer *viewer = NULL;
	struct tiles *tiles = NULL;
	terrace_jobs *jobs = NULL;
	int rc;

	if (argc != 2) {
		fprintf(stderr, "usage: slides SLIDE\n");
		return 2;
	}
	rc = tiles_budget(&budget);
	if (rc == TERRACE_OK)
		rc = tiles_open(NULL, NULL, &budget, NULL, &tiles);
	if (rc == TERRACE_OK)
		rc = terrace_jobs_open(NULL, &jobs);
	if (rc == TERRACE_OK)
		rc = viewer_new(tiles, jobs, VIEWER_PICTURES, NULL, NULL, &viewer);
	if (rc == TERRACE_OK)
		rc = pan(viewer, argv[1]);
	if (rc != TERRACE_OK)
		fprintf(stderr, "slides: %s\n", terrace_error_message());
	viewer_close(viewer);
	terrace_jobs_close(jobs);
	tiles_close(tiles);
	return rc == TERRACE_OK ? 0 : 1;
}
