/*
 * A slide: a pyramid of JPEG tiles, wherever they come from. On Terrace's public
 * headers alone; nothing here caches.
 *
 * Functions return TERRACE_OK, TERRACE_MISS (not there), TERRACE_ECORRUPT
 * (damaged, or made to do harm), or another status of Terrace, with the message
 * of terrace_error_message().
 */
#ifndef SLIDES_SLIDE_H
#define SLIDES_SLIDE_H

#include <terrace/terrace.h>

enum {
	SLIDE_LEVELS_MAX = 64,
	SLIDE_TILE_MAX = 4096, /* pixels along an edge of a tile */
	SLIDE_OVERLAP_MAX = 256,
	SLIDE_COLS_MAX = 65535,       /* what the packed form can count */
	SLIDE_FILE_MAX = 64 << 20,    /* bytes of a tile's JPEG */
	SLIDE_METADATA_MAX = 1 << 20, /* bytes of metadata */
	SLIDE_NAME_MAX = 256,
};

enum slide_kind {
	SLIDE_FOLDER,    /* NAME.fastpath with tiles_files/LEVEL/COL_ROW.jpg */
	SLIDE_PACKED,    /* NAME.fastpath with tiles/level_N.idx and .pack */
	SLIDE_DEEPZOOM,  /* NAME.dzi with NAME_files/LEVEL/COL_ROW.jpg */
	SLIDE_OPENSLIDE, /* a scanner's file: tiles are cut and encoded on demand */
};

struct slide_level {
	uint32_t level; /* its number; 0 is the smallest */
	double downsample;
	uint32_t cols, rows;
};

struct slide;

/* Where the tiles come from. */
struct slide_source {
	/* The JPEG of a tile that is within its level; the caller frees it. */
	int (*read)(struct slide *slide, const struct slide_level *level, uint32_t col,
	            uint32_t row, void **ret, size_t *ret_size);
	void (*close)(struct slide *slide);
};

struct slide {
	_Atomic unsigned references;
	enum slide_kind kind;
	char path[4096];
	char name[SLIDE_NAME_MAX];
	uint32_t width, height;
	uint32_t tile_size, overlap;
	double mpp, magnification; /* 0: unknown */
	uint8_t background[3];
	unsigned level_count;
	struct slide_level levels[SLIDE_LEVELS_MAX]; /* the coarsest first */
	terrace_digest id;                           /* of path and stamp */
	terrace_digest stamp;                        /* of the state of its files */
	int dir_fd;                                  /* folder forms: of the folder; -1 */
	const struct slide_source *source;
	void *state; /* the source's */
};

/* Which kind a path is of, by its name and what lies there; TERRACE_MISS when it is none. */
int slide_kind_of(const char *path, enum slide_kind *ret);
const char *slide_kind_name(enum slide_kind kind);

/*
 * Open a slide: its metadata is read and checked, no tile is.
 *
 * Owns: the caller releases *ret with slide_unref().
 */
int slide_open(const char *path, struct slide **ret);
struct slide *slide_ref(struct slide *slide);
void slide_unref(struct slide *slide); /* NULL is fine */

/* The state of the files as it is now; equal to slide->stamp while nothing has changed. */
int slide_stamp_now(const char *path, terrace_digest *ret);

/* The level of a number; NULL when there is none. */
const struct slide_level *slide_level(const struct slide *slide, uint32_t number);
uint64_t slide_tile_count(const struct slide *slide);

/*
 * A tile's JPEG, checked to be one that may be decoded: see jpeg.h. The caller
 * frees *ret. TERRACE_MISS outside the level, or when there is no such tile.
 */
int slide_read(struct slide *slide, uint32_t level, uint32_t col, uint32_t row, void **ret,
               size_t *ret_size);

/* The picture of the whole slide that lies in its folder; TERRACE_MISS without one. */
int slide_thumbnail(struct slide *slide, void **ret, size_t *ret_size);

/* --- the sources ---------------------------------------------------------------------------- */

/* Each fills in what its metadata says, and source. */
int slide_open_folder(struct slide *slide); /* FOLDER and PACKED; sets kind */
int slide_open_deepzoom(struct slide *slide);
int slide_open_openslide(struct slide *slide); /* TERRACE_EINVAL when built without */
bool slide_openslide_reads(const char *path);

/* Check what metadata said, and put the levels in order. */
int slide_check(struct slide *slide);
/* Levels as Deep Zoom has them: halves until `last` levels are there. */
void slide_halve(struct slide *slide, unsigned count);

/* --- files, safely ------------------------------------------------------------------------------ */

/*
 * Read a regular file below a folder, wherever links in it lead: not out of it.
 * TERRACE_MISS, TERRACE_ETOOBIG over `most` bytes, TERRACE_EACCESS for a path
 * that leaves the folder. The result has a zero behind it, not counted.
 */
int slide_file(int dir_fd, const char *path, size_t most, void **ret, size_t *ret_size);
int slide_file_open(int dir_fd, const char *path, int *ret_fd, uint64_t *ret_size);

#endif
