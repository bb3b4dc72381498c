/*
 * The tile cache: decoded tiles in memory, their JPEGs in memory under a budget
 * of their own, and tiles that are dear to make on disk as well. And the pool of
 * slides whose metadata has been read.
 *
 * Two of Terrace's caches: "slides" in memory alone, for tiles that lie in files
 * anyway, and "slides.made" in all tiers, for those cut from a scanner's file.
 * Keys begin with the slide's id, which its path and the state of its files
 * make: a slide that has changed has other keys, so no entry has to be checked.
 */
#ifndef SLIDES_TILES_H
#define SLIDES_TILES_H

#include "slides/jpeg.h"
#include "slides/slide.h"
#include "slides/view.h"

#include <stdatomic.h>

struct tiles;

/* Which place served a tile. */
enum tiles_from {
	FROM_DECODED, /* memory, as a picture */
	FROM_MEMORY,  /* memory, as a JPEG */
	FROM_DISK,    /* Terrace's L2 or L3 */
	FROM_SOURCE,  /* the slide itself */
	FROMS,
};

const char *tiles_from_name(enum tiles_from from);

struct tiles_budget {
	uint64_t decoded_bytes, jpeg_bytes;
};

/*
 * 512 MB and 32 GB, or what FASTPATH_L1_CACHE_MB and FASTPATH_L2_CACHE_MB say;
 * at most a quarter and half of the memory that this machine, or this control
 * group, has. TERRACE_ECONFIG for a value that is no number.
 */
int tiles_budget(struct tiles_budget *ret);

/*
 * dir, config_path: of the store; may be NULL. Where it cannot be opened, `warn`
 * (may be NULL) is called with the message, and the cache keeps nothing.
 */
int tiles_open(const char *dir, const char *config_path, const struct tiles_budget *budget,
               void (*warn)(const char *message), struct tiles **ret);
void tiles_close(struct tiles *tiles); /* NULL is fine */

/* --- slides ------------------------------------------------------------------------------------ */

/*
 * The slide of a path: parsed at most once while its files are unchanged. Looks
 * at their state again when it did so more than `age_ms` ago.
 *
 * Owns: the caller releases *ret with slide_unref().
 */
int tiles_slide(struct tiles *tiles, const char *path, int64_t age_ms, struct slide **ret);
/* How often metadata was parsed so far. */
uint64_t tiles_parsed(const struct tiles *tiles);

/* --- tiles --------------------------------------------------------------------------------------- */

/* Told after a tile has been claimed for computing; not TERRACE_OK: it is left alone. */
typedef int tiles_guard(void *ctx);

/*
 * The picture of a tile: terrace_object() of *ret is a struct picture. A tile in
 * memory is not copied.
 *
 * guard:    may be NULL.
 * ret_from: NULL for who only works ahead: then it does not count as served.
 * Owns:    the caller releases *ret with terrace_release().
 * Returns: TERRACE_OK; what slide_read() returns; what guard returned.
 */
int tiles_picture(struct tiles *tiles, struct slide *slide, const struct tile *tile,
                  tiles_guard *guard, void *ctx, terrace_value **ret, enum tiles_from *ret_from);

/* Its JPEG, as it is stored: terrace_data() of *ret. Nothing is decoded. */
int tiles_jpeg(struct tiles *tiles, struct slide *slide, const struct tile *tile,
               tiles_guard *guard, void *ctx, terrace_value **ret, enum tiles_from *ret_from);

/* Is it in memory or on Terrace's disk, in whichever form? */
bool tiles_has(struct tiles *tiles, const struct slide *slide, const struct tile *tile);

/* What has been served from where since this was opened, and what memory holds. */
struct tiles_stats {
	uint64_t served[FROMS];
	uint64_t failed;
	uint64_t decoded_bytes, decoded_entries, decoded_limit;
	uint64_t jpeg_bytes, jpeg_entries, jpeg_limit;
	uint64_t disk_bytes, disk_entries;
};
void tiles_stats(struct tiles *tiles, struct tiles_stats *ret);
/* The JPEGs that were read into memory so far, in bytes; against the budget. */
bool tiles_full(const struct tiles *tiles);

#endif
