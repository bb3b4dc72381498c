/*
 * What a program that shows slides embeds: one current slide, its tiles as
 * pictures, and the work that goes ahead of the view.
 *
 * Every opening of a slide has a generation. Work begun for an earlier one is
 * dropped: before a tile is claimed, after it is, and after it was decoded. A
 * tile's key names its slide, so that even a tile that is late can only ever be
 * found as what it is.
 */
#ifndef SLIDES_VIEWER_H
#define SLIDES_VIEWER_H

#include "slides/tiles.h"

struct viewer;

/* What a call returns for a generation that is over. */
enum { VIEWER_STALE = 100 };

/*
 * A tile that was worked ahead has arrived, of the generation that is current
 * as this is called. On a thread of the engine; must not call the viewer.
 */
typedef void viewer_arrived(void *ctx, uint64_t generation, const struct tile *tile,
                            const struct picture *picture);

/* What is worked ahead: pictures, or JPEGs for those who pass them on as they are. */
enum viewer_form { VIEWER_PICTURES, VIEWER_JPEGS };

/*
 * tiles, jobs: borrowed until viewer_close(). arrived may be NULL; it is told of
 * pictures alone.
 */
int viewer_new(struct tiles *tiles, terrace_jobs *jobs, enum viewer_form form,
               viewer_arrived *arrived, void *ctx, struct viewer **ret);
/* Waits for work that is under way. NULL is fine. */
void viewer_close(struct viewer *viewer);

/*
 * Show another slide. Its levels of 64 tiles or fewer are asked for at once.
 * Where it cannot be opened, the former one stays.
 */
int viewer_open(struct viewer *viewer, const char *path, uint64_t *ret_generation);

/* The current slide, referenced, and its generation; NULL before the first. */
struct slide *viewer_current(struct viewer *viewer, uint64_t *ret_generation);

/*
 * Ask for what a view needs: its visible tiles as foreground, the others as
 * prefetch. What an earlier view asked for and has not begun is forgotten.
 *
 * Returns: TERRACE_OK, VIEWER_STALE, TERRACE_EINVAL, TERRACE_ENOMEM.
 */
int viewer_look(struct viewer *viewer, uint64_t generation, const struct view *view);

/*
 * One tile of the current slide, now, on this thread.
 *
 * Returns: as tiles_picture(); VIEWER_STALE when another slide is shown by now.
 */
int viewer_tile(struct viewer *viewer, uint64_t generation, const struct tile *tile,
                terrace_value **ret, enum tiles_from *ret_from);

/* Is it cached? False for a generation that is over. */
bool viewer_has(struct viewer *viewer, uint64_t generation, const struct tile *tile);

/* Wait until what was asked for so far is there. */
void viewer_wait(struct viewer *viewer);

#endif
