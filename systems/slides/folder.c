/*
 * Slide folders: metadata.json, and the tiles as files or packed. And plain Deep
 * Zoom, which is an XML file beside the same kind of folder.
 */
#include "slides/slide.h"

#include <expat.h>
#include <fcntl.h>
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* --- tiles in files ------------------------------------------------------------------------------ */

static int files_read(struct slide *slide, const struct slide_level *level, uint32_t col,
                      uint32_t row, void **ret, size_t *ret_size)
{
	char path[128];
	const char *under = slide->kind == SLIDE_DEEPZOOM ? "" : "tiles_files/";
	const char *format = slide->state ? slide->state : "jpg";

	snprintf(path, sizeof path, "%s%u/%u_%u.%s", under, level->level, col, row, format);
	return slide_file(slide->dir_fd, path, SLIDE_FILE_MAX, ret, ret_size);
}

static void files_close(struct slide *slide)
{
	free(slide->state);
}

static const struct slide_source files_source = { files_read, files_close };

/* --- packed tiles ------------------------------------------------------------------------------------ */

enum { INDEX_HEAD = 16, INDEX_ROW = 12 };

struct pack {
	int fd;
	uint64_t size;
	uint8_t *index; /* the file */
};

struct packs {
	struct pack
	    packs[SLIDE_LEVELS_MAX]; /* as slide->levels before they are sorted: by number */
};

static uint64_t little(const uint8_t *at, int bytes)
{
	uint64_t value = 0;

	while (bytes-- > 0)
		value = value << 8 | at[bytes];
	return value;
}

static int packed_read(struct slide *slide, const struct slide_level *level, uint32_t col,
                       uint32_t row, void **ret, size_t *ret_size)
{
	struct packs *packs = slide->state;
	struct pack *pack = &packs->packs[level->level];
	const uint8_t *at = pack->index + INDEX_HEAD +
	                    ((uint64_t)row * level->cols + col) * INDEX_ROW;
	uint64_t offset = little(at, 8), size = little(at + 8, 4);
	char *bytes;
	size_t got = 0;

	if (size == 0)
		return terrace_fail(TERRACE_MISS, "it is missing from the pack");
	if (size > SLIDE_FILE_MAX || offset > pack->size || size > pack->size - offset)
		return terrace_fail(TERRACE_ECORRUPT, "the index points out of the pack");
	bytes = malloc(size);
	if (!bytes)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for %u bytes", (unsigned)size);
	while (got < size) {
		ssize_t n = pread(pack->fd, bytes + got, size - got, (off_t)(offset + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			free(bytes);
			return terrace_fail(TERRACE_EIO, "cannot read the pack");
		}
		got += (size_t)n;
	}
	*ret = bytes;
	*ret_size = size;
	return TERRACE_OK;
}

static void packed_close(struct slide *slide)
{
	struct packs *packs = slide->state;

	for (int i = 0; packs && i < SLIDE_LEVELS_MAX; i++) {
		free(packs->packs[i].index);
		if (packs->packs[i].fd >= 0)
			close(packs->packs[i].fd);
	}
	free(packs);
}

static const struct slide_source packed_source = { packed_read, packed_close };

static int open_pack(struct slide *slide, const struct slide_level *level, struct pack *pack)
{
	uint64_t expected = INDEX_HEAD + (uint64_t)level->cols * level->rows * INDEX_ROW;
	char path[64];
	size_t size;
	void *index;
	int rc;

	snprintf(path, sizeof path, "tiles/level_%u.idx", level->level);
	rc = slide_file(slide->dir_fd, path, (size_t)expected, &index, &size);
	if (rc != TERRACE_OK)
		return rc == TERRACE_MISS ? TERRACE_ECORRUPT : rc;
	pack->index = index;
	if (size != expected || memcmp(index, "FPLIDX1", 8) != 0 ||
	    little(pack->index + 8, 4) != 1 || little(pack->index + 12, 2) != level->cols ||
	    little(pack->index + 14, 2) != level->rows)
		return terrace_fail(TERRACE_ECORRUPT,
		                    "%s is not the index of version 1 of %u x %u tiles", path,
		                    level->cols, level->rows);
	snprintf(path, sizeof path, "tiles/level_%u.pack", level->level);
	rc = slide_file_open(slide->dir_fd, path, &pack->fd, &pack->size);
	return rc == TERRACE_MISS ? TERRACE_ECORRUPT : rc;
}

static int open_packs(struct slide *slide)
{
	struct packs *packs = calloc(1, sizeof *packs);
	int rc = TERRACE_OK;

	if (!packs)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for the indexes");
	for (int i = 0; i < SLIDE_LEVELS_MAX; i++)
		packs->packs[i].fd = -1;
	slide->state = packs;
	slide->source = &packed_source;
	for (unsigned i = 0; i < slide->level_count && rc == TERRACE_OK; i++)
		rc = open_pack(slide, &slide->levels[i], &packs->packs[slide->levels[i].level]);
	return rc;
}

/* --- metadata.json ------------------------------------------------------------------------------------ */

/* A whole number in a range; what it is, is said in the message. */
static int whole(const json_t *value, const char *what, double least, double most, uint32_t *ret)
{
	double number = json_is_number(value) ? json_number_value(value) : NAN;

	if (!(number >= least && number <= most) || number != floor(number))
		return terrace_fail(TERRACE_ECORRUPT,
		                    "metadata.json: %s must be a whole number from %.0f to %.0f",
		                    what, least, most);
	*ret = (uint32_t)number;
	return TERRACE_OK;
}

static int parse_level(const json_t *from, struct slide_level *level)
{
	const json_t *downsample = json_object_get(from, "downsample");
	int rc = whole(json_object_get(from, "level"), "a level's number", 0, SLIDE_LEVELS_MAX - 1,
	               &level->level);

	if (rc == TERRACE_OK && !json_is_number(downsample))
		rc = terrace_fail(TERRACE_ECORRUPT, "metadata.json: level %u has no downsample",
		                  level->level);
	if (rc != TERRACE_OK)
		return rc;
	level->downsample = json_number_value(downsample);
	rc = whole(json_object_get(from, "cols"), "a level's cols", 1, SLIDE_COLS_MAX,
	           &level->cols);
	if (rc == TERRACE_OK)
		rc = whole(json_object_get(from, "rows"), "a level's rows", 1, SLIDE_COLS_MAX,
		           &level->rows);
	return rc;
}

static int parse_metadata(struct slide *slide, const json_t *root)
{
	const json_t *dimensions = json_object_get(root, "dimensions");
	const json_t *levels = json_object_get(root, "levels");
	const json_t *background = json_object_get(root, "background_color");
	const json_t *mpp = json_object_get(root, "target_mpp");
	uint32_t colour;
	int rc;

	if (!json_is_array(dimensions) || json_array_size(dimensions) != 2)
		return terrace_fail(TERRACE_ECORRUPT,
		                    "metadata.json: dimensions must be [width, height]");
	rc = whole(json_array_get(dimensions, 0), "the width", 1, INT32_MAX, &slide->width);
	if (rc == TERRACE_OK)
		rc = whole(json_array_get(dimensions, 1), "the height", 1, INT32_MAX,
		           &slide->height);
	if (rc == TERRACE_OK)
		rc = whole(json_object_get(root, "tile_size"), "tile_size", 1, SLIDE_TILE_MAX,
		           &slide->tile_size);
	if (rc != TERRACE_OK)
		return rc;
	slide->mpp = json_number_value(mpp ? mpp : json_object_get(root, "source_mpp"));
	slide->magnification = json_number_value(json_object_get(root, "target_magnification"));
	for (size_t i = 0; json_is_array(background) && i < 3; i++) {
		rc = whole(json_array_get(background, i), "background_color", 0, 255, &colour);
		if (rc != TERRACE_OK)
			return rc;
		slide->background[i] = (uint8_t)colour;
	}
	if (!json_is_array(levels) || json_array_size(levels) < 1 ||
	    json_array_size(levels) > SLIDE_LEVELS_MAX)
		return terrace_fail(TERRACE_ECORRUPT, "metadata.json: levels must be 1 to %d",
		                    SLIDE_LEVELS_MAX);
	slide->level_count = (unsigned)json_array_size(levels);
	for (unsigned i = 0; i < slide->level_count && rc == TERRACE_OK; i++)
		rc = parse_level(json_array_get(levels, i), &slide->levels[i]);
	return rc;
}

int slide_open_folder(struct slide *slide)
{
	json_error_t error;
	size_t size;
	void *text;
	json_t *root;
	int rc;

	slide->dir_fd = open(slide->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (slide->dir_fd < 0)
		return terrace_fail(TERRACE_EIO, "%s", strerror(errno));
	rc = slide_file(slide->dir_fd, "metadata.json", SLIDE_METADATA_MAX, &text, &size);
	if (rc != TERRACE_OK)
		return rc;
	root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
	free(text);
	if (!root)
		return terrace_fail(TERRACE_ECORRUPT, "metadata.json, line %d: %s", error.line,
		                    error.text);
	rc = json_is_object(root) ? parse_metadata(slide, root) :
	                            terrace_fail(TERRACE_ECORRUPT, "metadata.json is no object");
	json_decref(root);
	if (rc == TERRACE_OK)
		rc = slide_check(slide);
	if (rc != TERRACE_OK)
		return rc;
	if (faccessat(slide->dir_fd, "tiles_files", F_OK, 0) < 0 &&
	    faccessat(slide->dir_fd, "tiles", F_OK, 0) == 0) {
		slide->kind = SLIDE_PACKED;
		return open_packs(slide);
	}
	slide->source = &files_source;
	return TERRACE_OK;
}

/* --- Deep Zoom ------------------------------------------------------------------------------------------ */

struct dzi {
	struct slide *slide;
	XML_Parser parser;
	char format[8];
	bool has_image;
};

static uint32_t attribute(const XML_Char **attributes, const char *name)
{
	for (; *attributes; attributes += 2) {
		char *end;
		unsigned long value;

		if (strcmp(attributes[0], name) != 0)
			continue;
		value = strtoul(attributes[1], &end, 10);
		return *end || end == attributes[1] || value > UINT32_MAX ? 0 : (uint32_t)value;
	}
	return 0;
}

static void XMLCALL start_element(void *ctx, const XML_Char *name, const XML_Char **attributes)
{
	struct dzi *dzi = ctx;
	const char *colon = strrchr(name, ':');

	name = colon ? colon + 1 : name;
	if (strcmp(name, "Image") == 0) {
		dzi->has_image = true;
		dzi->slide->tile_size = attribute(attributes, "TileSize");
		dzi->slide->overlap = attribute(attributes, "Overlap");
		for (; *attributes; attributes += 2) {
			if (strcmp(attributes[0], "Format") == 0)
				snprintf(dzi->format, sizeof dzi->format, "%s", attributes[1]);
		}
	} else if (strcmp(name, "Size") == 0) {
		dzi->slide->width = attribute(attributes, "Width");
		dzi->slide->height = attribute(attributes, "Height");
	}
}

/* Nobody's Deep Zoom file declares entities; those who would do harm do. */
static void XMLCALL start_doctype(void *ctx, const XML_Char *name, const XML_Char *system,
                                  const XML_Char *public, int internal)
{
	(void)name, (void)system, (void)public, (void)internal;
	XML_StopParser(((struct dzi *)ctx)->parser, XML_FALSE);
}

static int parse_dzi(struct dzi *dzi, const char *text, size_t size)
{
	XML_Parser parser = XML_ParserCreate(NULL);
	int rc = TERRACE_OK;

	if (!parser)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for an XML parser");
	dzi->parser = parser;
	XML_SetUserData(parser, dzi);
	XML_SetStartElementHandler(parser, start_element);
	XML_SetStartDoctypeDeclHandler(parser, start_doctype);
	if (XML_Parse(parser, text, (int)size, 1) != XML_STATUS_OK)
		rc = terrace_fail(TERRACE_ECORRUPT, "line %lu: %s",
		                  XML_GetCurrentLineNumber(parser),
		                  XML_ErrorString(XML_GetErrorCode(parser)));
	XML_ParserFree(parser);
	return rc;
}

int slide_open_deepzoom(struct slide *slide)
{
	struct dzi dzi = { .slide = slide };
	char folder[PATH_MAX];
	uint32_t longest;
	unsigned levels = 1;
	size_t size;
	void *text;
	int rc = slide_file(AT_FDCWD, slide->path, SLIDE_METADATA_MAX, &text, &size);

	/* An absolute path is beneath nothing; this one the user gave. */
	if (rc == TERRACE_EACCESS) {
		char *slash = strrchr(slide->path, '/');
		int fd;

		snprintf(folder, sizeof folder, "%.*s/", (int)(slash - slide->path), slide->path);
		fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		rc = slide_file(fd, slash + 1, SLIDE_METADATA_MAX, &text, &size);
		if (fd >= 0)
			close(fd);
	}
	if (rc != TERRACE_OK)
		return rc;
	rc = parse_dzi(&dzi, text, size);
	free(text);
	if (rc != TERRACE_OK)
		return rc;
	if (!dzi.has_image)
		return terrace_fail(TERRACE_ECORRUPT, "it describes no image");
	if (strcmp(dzi.format, "jpg") != 0 && strcmp(dzi.format, "jpeg") != 0)
		return terrace_fail(TERRACE_ECORRUPT, "its tiles are \"%s\"; only JPEG is read",
		                    dzi.format);
	longest = slide->width > slide->height ? slide->width : slide->height;
	while (levels < 32 && (UINT64_C(1) << (levels - 1)) < longest)
		levels++;
	if (slide->tile_size == 0)
		return terrace_fail(TERRACE_ECORRUPT, "it has no tile size");
	slide->state = strdup(dzi.format);
	slide->source = &files_source;
	snprintf(folder, sizeof folder, "%.*s_files", (int)strlen(slide->path) - 4, slide->path);
	slide->dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (slide->dir_fd < 0)
		return terrace_fail(TERRACE_ECORRUPT, "its tiles are missing: %s: %s", folder,
		                    strerror(errno));
	/* Pyramids that stop at one tile have fewer levels, numbered from there. */
	while (levels > 1) {
		snprintf(folder, sizeof folder, "%u", levels - 1);
		if (faccessat(slide->dir_fd, folder, F_OK, 0) == 0)
			break;
		levels--;
	}
	slide_halve(slide, levels);
	return TERRACE_OK;
}
