/* What all slides have in common: opening, checking, reading a tile. */
#include "slides/slide.h"

#include "slides/jpeg.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* --- files --------------------------------------------------------------------------------------- */

static int open_beneath(int dir_fd, const char *path)
{
	struct open_how how = {
		.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};

	return (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof how);
}

/* Where the kernel has no openat2: step by step, through no link at all. */
static int open_stepwise(int dir_fd, const char *path)
{
	char part[NAME_MAX + 1];
	int fd = dir_fd;

	for (;;) {
		size_t size = strcspn(path, "/");
		bool last = path[size] == '\0';
		int next;

		if (size == 0 || size > NAME_MAX || (size == 2 && strncmp(path, "..", 2) == 0)) {
			next = -1;
			errno = EXDEV;
		} else {
			memcpy(part, path, size);
			part[size] = '\0';
			next = openat(fd, part,
			              O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW |
			                  (last ? 0 : O_DIRECTORY));
		}
		if (fd != dir_fd)
			close(fd);
		if (next < 0 || last)
			return next;
		fd = next;
		path += size + 1;
	}
}

int slide_file_open(int dir_fd, const char *path, int *ret_fd, uint64_t *ret_size)
{
	struct stat st;
	int fd = open_beneath(dir_fd, path);

	if (fd < 0 && (errno == ENOSYS || errno == EPERM))
		fd = open_stepwise(dir_fd, path);
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return terrace_fail(TERRACE_MISS, "there is no %s", path);
	if (fd < 0 && (errno == EXDEV || errno == ELOOP))
		return terrace_fail(TERRACE_EACCESS, "%s leads out of the slide's folder", path);
	if (fd < 0)
		return terrace_fail(errno == EACCES ? TERRACE_EACCESS : TERRACE_EIO,
		                    "cannot open %s: %s", path, strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return terrace_fail(TERRACE_ECORRUPT, "%s is not a regular file", path);
	}
	*ret_fd = fd;
	*ret_size = (uint64_t)st.st_size;
	return TERRACE_OK;
}

static int read_all(int fd, void *bytes, size_t size)
{
	size_t got = 0;

	while (got < size) {
		ssize_t n = read(fd, (char *)bytes + got, size - got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		got += (size_t)n;
	}
	return 0;
}

int slide_file(int dir_fd, const char *path, size_t most, void **ret, size_t *ret_size)
{
	uint64_t size;
	char *bytes;
	int fd, rc = slide_file_open(dir_fd, path, &fd, &size);

	if (rc != TERRACE_OK)
		return rc;
	if (size > most) {
		close(fd);
		return terrace_fail(TERRACE_ETOOBIG, "%s has %llu bytes; at most %zu are read",
		                    path, (unsigned long long)size, most);
	}
	bytes = malloc((size_t)size + 1);
	if (!bytes || read_all(fd, bytes, (size_t)size) < 0) {
		close(fd);
		free(bytes);
		return terrace_fail(bytes ? TERRACE_EIO : TERRACE_ENOMEM, "cannot read %s", path);
	}
	close(fd);
	bytes[size] = '\0';
	*ret = bytes;
	*ret_size = (size_t)size;
	return TERRACE_OK;
}

/* --- kinds ---------------------------------------------------------------------------------------- */

static bool ends_in(const char *text, const char *end)
{
	size_t size = strlen(text), end_size = strlen(end);

	return size > end_size && strcasecmp(text + size - end_size, end) == 0;
}

int slide_kind_of(const char *path, enum slide_kind *ret)
{
	char metadata[PATH_MAX];
	struct stat st;

	if (stat(path, &st) < 0)
		return terrace_fail(errno == EACCES ? TERRACE_EACCESS : TERRACE_MISS,
		                    "cannot open slide \"%s\": %s", path, strerror(errno));
	if (S_ISDIR(st.st_mode)) {
		snprintf(metadata, sizeof metadata, "%s/metadata.json", path);
		if (access(metadata, F_OK) < 0)
			return terrace_fail(TERRACE_MISS,
			                    "\"%s\" is no slide: it has no metadata.json", path);
		*ret = SLIDE_FOLDER;
		return TERRACE_OK;
	}
	if (ends_in(path, ".dzi")) {
		*ret = SLIDE_DEEPZOOM;
		return TERRACE_OK;
	}
	if (S_ISREG(st.st_mode) && slide_openslide_reads(path)) {
		*ret = SLIDE_OPENSLIDE;
		return TERRACE_OK;
	}
	return terrace_fail(TERRACE_MISS,
	                    "\"%s\" is no slide: give a folder NAME.fastpath, a NAME.dzi, or a "
	                    "scanner's file that OpenSlide reads",
	                    path);
}

const char *slide_kind_name(enum slide_kind kind)
{
	static const char *const names[] = { "folder", "packed", "dzi", "openslide" };

	return names[kind];
}

/* --- stamps: what tells that a slide has changed ----------------------------------------------------- */

struct marks {
	uint64_t words[1024];
	size_t count;
};

static void add_mark(struct marks *marks, int dir_fd, const char *path)
{
	struct stat st;

	if (marks->count + 6 > sizeof marks->words / sizeof marks->words[0])
		return;
	if (fstatat(dir_fd, path, &st, 0) < 0) {
		marks->words[marks->count++] = UINT64_MAX;
		return;
	}
	marks->words[marks->count++] = (uint64_t)st.st_ino;
	marks->words[marks->count++] = (uint64_t)st.st_size;
	marks->words[marks->count++] = (uint64_t)st.st_mtim.tv_sec;
	marks->words[marks->count++] = (uint64_t)st.st_mtim.tv_nsec;
	marks->words[marks->count++] = (uint64_t)st.st_ctim.tv_sec;
	marks->words[marks->count++] = (uint64_t)st.st_ctim.tv_nsec;
}

/*
 * Of a folder: metadata, and for each level its directory or pack, so that tiles
 * that come, go or are replaced are seen. A tile that is written over in its
 * place is not: whoever does that touches metadata.json.
 */
int slide_stamp_now(const char *path, terrace_digest *ret)
{
	struct marks marks = { .count = 0 };
	char name[PATH_MAX];
	struct stat st;

	if (stat(path, &st) < 0)
		return terrace_fail(TERRACE_MISS, "cannot open slide \"%s\": %s", path,
		                    strerror(errno));
	if (!S_ISDIR(st.st_mode))
		add_mark(&marks, AT_FDCWD, path);
	snprintf(name, sizeof name, "%s/metadata.json", path);
	if (S_ISDIR(st.st_mode))
		add_mark(&marks, AT_FDCWD, name);
	for (unsigned i = 0; i < SLIDE_LEVELS_MAX; i++) {
		size_t before = marks.count;

		if (S_ISDIR(st.st_mode)) {
			snprintf(name, sizeof name, "%s/tiles_files/%u", path, i);
			add_mark(&marks, AT_FDCWD, name);
			snprintf(name, sizeof name, "%s/tiles/level_%u.idx", path, i);
			add_mark(&marks, AT_FDCWD, name);
			snprintf(name, sizeof name, "%s/tiles/level_%u.pack", path, i);
			add_mark(&marks, AT_FDCWD, name);
		} else if (ends_in(path, ".dzi")) {
			snprintf(name, sizeof name, "%.*s_files/%u", (int)strlen(path) - 4, path,
			         i);
			add_mark(&marks, AT_FDCWD, name);
		}
		if (marks.count - before <= 3 && i > 32)
			break;
	}
	*ret = terrace_digest_bytes(terrace_bytes(marks.words, marks.count * 8));
	return TERRACE_OK;
}

/* --- checking ---------------------------------------------------------------------------------------- */

static int compare_levels(const void *a, const void *b)
{
	double x = ((const struct slide_level *)a)->downsample;
	double y = ((const struct slide_level *)b)->downsample;

	return x > y ? -1 : x < y;
}

static int check_level(const struct slide *slide, const struct slide_level *level)
{
	double span;

	if (!isfinite(level->downsample) || level->downsample < 1 || level->downsample > 1e9)
		return terrace_fail(TERRACE_ECORRUPT, "level %u has a downsample of %g",
		                    level->level, level->downsample);
	if (level->cols < 1 || level->rows < 1 || level->cols > SLIDE_COLS_MAX ||
	    level->rows > SLIDE_COLS_MAX)
		return terrace_fail(TERRACE_ECORRUPT,
		                    "level %u has %u x %u tiles; 1 to %d are right", level->level,
		                    level->cols, level->rows, SLIDE_COLS_MAX);
	/* One more than fits may come from rounding; a thousand do not. */
	span = slide->tile_size * level->downsample;
	if (level->cols > ceil(slide->width / span) + 1 ||
	    level->rows > ceil(slide->height / span) + 1)
		return terrace_fail(TERRACE_ECORRUPT,
		                    "level %u has %u x %u tiles, more than %u x %u pixels have "
		                    "room for",
		                    level->level, level->cols, level->rows, slide->width,
		                    slide->height);
	return TERRACE_OK;
}

int slide_check(struct slide *slide)
{
	int rc;

	if (slide->width < 1 || slide->height < 1 || slide->width > INT32_MAX ||
	    slide->height > INT32_MAX)
		return terrace_fail(TERRACE_ECORRUPT, "its dimensions are %u x %u", slide->width,
		                    slide->height);
	if (slide->tile_size < 1 || slide->tile_size > SLIDE_TILE_MAX)
		return terrace_fail(TERRACE_ECORRUPT, "its tile size is %u; 1 to %d is right",
		                    slide->tile_size, SLIDE_TILE_MAX);
	if (slide->overlap > slide->tile_size || slide->overlap > SLIDE_OVERLAP_MAX)
		return terrace_fail(TERRACE_ECORRUPT, "its tiles overlap by %u of %u pixels",
		                    slide->overlap, slide->tile_size);
	if (slide->level_count < 1 || slide->level_count > SLIDE_LEVELS_MAX)
		return terrace_fail(TERRACE_ECORRUPT, "it has %u levels; 1 to %d are right",
		                    slide->level_count, SLIDE_LEVELS_MAX);
	for (unsigned i = 0; i < slide->level_count; i++) {
		rc = check_level(slide, &slide->levels[i]);
		if (rc != TERRACE_OK)
			return rc;
		for (unsigned j = 0; j < i; j++) {
			if (slide->levels[i].level == slide->levels[j].level ||
			    slide->levels[i].downsample == slide->levels[j].downsample)
				return terrace_fail(TERRACE_ECORRUPT, "level %u is there twice",
				                    slide->levels[i].level);
		}
	}
	qsort(slide->levels, slide->level_count, sizeof slide->levels[0], compare_levels);
	return TERRACE_OK;
}

void slide_halve(struct slide *slide, unsigned count)
{
	slide->level_count = count;
	for (unsigned i = 0; i < count; i++) {
		struct slide_level *level = &slide->levels[i];
		double span;

		level->level = i;
		level->downsample = (double)(UINT64_C(1) << (count - 1 - i));
		span = slide->tile_size * level->downsample;
		level->cols = (uint32_t)fmin(ceil(slide->width / span), UINT32_MAX);
		level->rows = (uint32_t)fmin(ceil(slide->height / span), UINT32_MAX);
	}
}

/* --- opening ------------------------------------------------------------------------------------------ */

static void take_name(struct slide *slide)
{
	const char *base = strrchr(slide->path, '/');
	char *dot;

	base = base ? base + 1 : slide->path;
	snprintf(slide->name, sizeof slide->name, "%.255s", base);
	dot = strrchr(slide->name, '.');
	if (dot && dot != slide->name &&
	    (slide->kind == SLIDE_DEEPZOOM || ends_in(slide->name, ".fastpath")))
		*dot = '\0';
}

static int open_kind(struct slide *slide)
{
	switch (slide->kind) {
	case SLIDE_FOLDER:
	case SLIDE_PACKED:
		return slide_open_folder(slide);
	case SLIDE_DEEPZOOM:
		return slide_open_deepzoom(slide);
	case SLIDE_OPENSLIDE:
		return slide_open_openslide(slide);
	}
	return TERRACE_EINVAL;
}

int slide_open(const char *path, struct slide **ret)
{
	struct slide *slide = calloc(1, sizeof *slide);
	char message[512];
	terrace_digest parts[2];
	int rc;

	if (!slide)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a slide");
	atomic_init(&slide->references, 1);
	slide->dir_fd = -1;
	memset(slide->background, 255, sizeof slide->background);
	rc = slide_kind_of(path, &slide->kind);
	if (rc == TERRACE_OK && !realpath(path, slide->path))
		rc = terrace_fail(TERRACE_MISS, "cannot open slide \"%s\": %s", path,
		                  strerror(errno));
	/* Before it is read: what changes meanwhile is seen at the next look. */
	if (rc == TERRACE_OK)
		rc = slide_stamp_now(slide->path, &slide->stamp);
	if (rc == TERRACE_OK) {
		take_name(slide);
		rc = open_kind(slide);
		if (rc == TERRACE_OK)
			rc = slide_check(slide);
		if (rc != TERRACE_OK) {
			snprintf(message, sizeof message, "%s", terrace_error_message());
			terrace_fail(rc, "cannot open slide \"%s\": %s", path, message);
		}
	}
	if (rc != TERRACE_OK) {
		slide_unref(slide);
		return rc;
	}
	parts[0] = terrace_digest_bytes(terrace_str(slide->path));
	parts[1] = slide->stamp;
	slide->id = terrace_digest_bytes(terrace_bytes(parts, sizeof parts));
	*ret = slide;
	return TERRACE_OK;
}

struct slide *slide_ref(struct slide *slide)
{
	atomic_fetch_add(&slide->references, 1);
	return slide;
}

void slide_unref(struct slide *slide)
{
	if (!slide || atomic_fetch_sub(&slide->references, 1) != 1)
		return;
	if (slide->source)
		slide->source->close(slide);
	if (slide->dir_fd >= 0)
		close(slide->dir_fd);
	free(slide);
}

/* --- tiles --------------------------------------------------------------------------------------------- */

const struct slide_level *slide_level(const struct slide *slide, uint32_t number)
{
	for (unsigned i = 0; i < slide->level_count; i++) {
		if (slide->levels[i].level == number)
			return &slide->levels[i];
	}
	return NULL;
}

uint64_t slide_tile_count(const struct slide *slide)
{
	uint64_t count = 0;

	for (unsigned i = 0; i < slide->level_count; i++)
		count += (uint64_t)slide->levels[i].cols * slide->levels[i].rows;
	return count;
}

int slide_read(struct slide *slide, uint32_t number, uint32_t col, uint32_t row, void **ret,
               size_t *ret_size)
{
	const struct slide_level *level = slide_level(slide, number);
	char message[512];
	struct jpeg_info info;
	int rc;

	if (!level || col >= level->cols || row >= level->rows)
		return terrace_fail(TERRACE_MISS, "slide %s has no tile %u/%u_%u", slide->name,
		                    number, col, row);
	rc = slide->source->read(slide, level, col, row, ret, ret_size);
	if (rc == TERRACE_OK) {
		rc = jpeg_check(terrace_bytes(*ret, *ret_size),
		                slide->tile_size + 2 * slide->overlap, &info);
		if (rc != TERRACE_OK)
			free(*ret);
	}
	if (rc != TERRACE_OK) {
		snprintf(message, sizeof message, "%s", terrace_error_message());
		terrace_fail(rc, "tile %u/%u_%u of slide %s: %s", number, col, row, slide->name,
		             message);
	}
	return rc;
}

int slide_thumbnail(struct slide *slide, void **ret, size_t *ret_size)
{
	struct jpeg_info info;
	int rc;

	if (slide->dir_fd < 0 || slide->kind == SLIDE_DEEPZOOM)
		return TERRACE_MISS;
	rc = slide_file(slide->dir_fd, "thumbnail.jpg", SLIDE_FILE_MAX, ret, ret_size);
	if (rc != TERRACE_OK)
		return rc;
	rc = jpeg_check(terrace_bytes(*ret, *ret_size), SLIDE_TILE_MAX, &info);
	if (rc != TERRACE_OK)
		free(*ret);
	return rc;
}
