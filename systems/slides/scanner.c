/*
 * Scanner formats through OpenSlide: tiles of 512 pixels are cut from the
 * nearest finer level of the file, averaged down to the level's size, and
 * encoded. Dear to make, which is why they are kept on disk.
 */
#include "slides/slide.h"

#ifdef HAVE_OPENSLIDE

#include "slides/jpeg.h"

#include <math.h>
#include <openslide/openslide.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	CUT_TILE = 512,
	CUT_QUALITY = 85,
	STRIP_PIXELS = 64 << 10, /* that are read at a time */
};

bool slide_openslide_reads(const char *path)
{
	return openslide_detect_vendor(path) != NULL;
}

/*
 * OpenSlide's handle, which fails for ever after one failure: so that a damaged
 * part of a file fails alone, the handle is then replaced. Readers share the
 * lock.
 */
struct scanner {
	pthread_rwlock_t lock;
	openslide_t *file;
};

static void replace_file(struct slide *slide)
{
	struct scanner *scanner = slide->state;
	openslide_t *fresh;

	pthread_rwlock_wrlock(&scanner->lock);
	if (openslide_get_error(scanner->file)) {
		fresh = openslide_open(slide->path);
		if (fresh) {
			openslide_close(scanner->file);
			scanner->file = fresh;
		}
	}
	pthread_rwlock_unlock(&scanner->lock);
}

/* Sums of the pixels that fall on each pixel of the tile, and how many those are. */
struct sums {
	uint32_t width, height;
	struct sum {
		uint32_t red, green, blue, count;
	} * pixels;
};

static void add_pixel(struct sum *to, const uint8_t background[3], uint32_t argb)
{
	uint32_t clear = 255 - (argb >> 24);

	/* The file's pixels are premultiplied: what is clear shows the background. */
	to->red += (argb >> 16 & 255) + clear * background[0] / 255;
	to->green += (argb >> 8 & 255) + clear * background[1] / 255;
	to->blue += (argb & 255) + clear * background[2] / 255;
	to->count++;
}

static uint8_t mean_of(uint32_t sum, uint32_t count)
{
	uint32_t mean = count ? (sum + count / 2) / count : 0;

	return (uint8_t)(mean > 255 ? 255 : mean);
}

/* What of the file a tile covers. */
struct area {
	int32_t file_level;
	double file_downsample;
	int64_t x, y;          /* level-0 pixels */
	int64_t width, height; /* pixels of the file's level */
};

static int add_strips(openslide_t *file, const struct area *area, const uint8_t background[3],
                      struct sums *sums)
{
	int64_t strip = STRIP_PIXELS / area->width;
	uint32_t *pixels;

	strip = strip < 1 ? 1 : strip > area->height ? area->height : strip;
	pixels = malloc((size_t)(strip * area->width) * sizeof *pixels);
	if (!pixels)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a strip of the slide");
	for (int64_t top = 0; top < area->height; top += strip) {
		int64_t rows = area->height - top < strip ? area->height - top : strip;

		terrace_jobs_yield();
		openslide_read_region(file, pixels, area->x,
		                      area->y + (int64_t)((double)top * area->file_downsample),
		                      area->file_level, area->width, rows);
		if (openslide_get_error(file))
			break;
		for (int64_t y = 0; y < rows; y++) {
			struct sum *row = sums->pixels +
			                  (top + y) * sums->height / area->height * sums->width;

			for (int64_t x = 0; x < area->width; x++)
				add_pixel(row + x * sums->width / area->width, background,
				          pixels[y * area->width + x]);
		}
	}
	free(pixels);
	if (openslide_get_error(file))
		return terrace_fail(TERRACE_ECORRUPT, "OpenSlide: %s", openslide_get_error(file));
	return TERRACE_OK;
}

static int encode_sums(struct sums *sums, void **ret, size_t *ret_size)
{
	size_t pixels = (size_t)sums->width * sums->height;
	uint8_t *rgb = malloc(pixels * 3);
	int rc;

	if (!rgb)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a tile");
	for (size_t i = 0; i < pixels; i++) {
		const struct sum *sum = &sums->pixels[i];

		rgb[3 * i] = mean_of(sum->red, sum->count);
		rgb[3 * i + 1] = mean_of(sum->green, sum->count);
		rgb[3 * i + 2] = mean_of(sum->blue, sum->count);
	}
	terrace_jobs_yield();
	rc = jpeg_encode(rgb, sums->width, sums->height, CUT_QUALITY, ret, ret_size);
	free(rgb);
	return rc;
}

static int cut_from(struct slide *slide, openslide_t *file, const struct slide_level *level,
                    uint32_t col, uint32_t row, void **ret, size_t *ret_size)
{
	double down = level->downsample, ratio;
	uint32_t across = (uint32_t)ceil(slide->width / down), along;
	struct area area;
	struct sums sums;
	int rc;

	along = (uint32_t)ceil(slide->height / down);
	sums.width = across - col * CUT_TILE < CUT_TILE ? across - col * CUT_TILE : CUT_TILE;
	sums.height = along - row * CUT_TILE < CUT_TILE ? along - row * CUT_TILE : CUT_TILE;
	/* Files say 4.0001 where they mean 4. */
	area.file_level = openslide_get_best_level_for_downsample(file, down * 1.01);
	if (area.file_level < 0)
		area.file_level = 0;
	area.file_downsample = openslide_get_level_downsample(file, area.file_level);
	ratio = fmax(1, down / area.file_downsample);
	area.x = (int64_t)(col * (double)CUT_TILE * down);
	area.y = (int64_t)(row * (double)CUT_TILE * down);
	area.width = (int64_t)fmax(1, round(sums.width * ratio));
	area.height = (int64_t)fmax(1, round(sums.height * ratio));
	sums.pixels = calloc((size_t)sums.width * sums.height, sizeof *sums.pixels);
	rc = sums.pixels ? add_strips(file, &area, slide->background, &sums) :
	                   terrace_fail(TERRACE_ENOMEM, "out of memory for a tile");
	if (rc == TERRACE_OK)
		rc = encode_sums(&sums, ret, ret_size);
	free(sums.pixels);
	return rc;
}

static int cut(struct slide *slide, const struct slide_level *level, uint32_t col, uint32_t row,
               void **ret, size_t *ret_size)
{
	struct scanner *scanner = slide->state;
	bool failed;
	int rc;

	/* What another thread's part of the file did to the handle is not ours: once more. */
	for (int attempt = 0; attempt < 2; attempt++) {
		pthread_rwlock_rdlock(&scanner->lock);
		rc = cut_from(slide, scanner->file, level, col, row, ret, ret_size);
		failed = openslide_get_error(scanner->file) != NULL;
		pthread_rwlock_unlock(&scanner->lock);
		if (!failed)
			break;
		replace_file(slide);
		if (rc == TERRACE_OK)
			break;
	}
	return rc;
}

static void close_file(struct slide *slide)
{
	struct scanner *scanner = slide->state;

	openslide_close(scanner->file);
	pthread_rwlock_destroy(&scanner->lock);
	free(scanner);
}

static const struct slide_source scanner_source = { cut, close_file };

static double property(openslide_t *file, const char *name)
{
	const char *text = openslide_get_property_value(file, name);

	return text ? strtod(text, NULL) : 0;
}

int slide_open_openslide(struct slide *slide)
{
	openslide_t *file = openslide_open(slide->path);
	const char *error = file ? openslide_get_error(file) : "it is in no format that it knows";
	const char *colour;
	struct scanner *scanner;
	int64_t width, height;
	unsigned levels = 1, rgb[3];

	if (error) {
		int rc = terrace_fail(TERRACE_ECORRUPT, "OpenSlide: %s", error);

		if (file)
			openslide_close(file);
		return rc;
	}
	scanner = calloc(1, sizeof *scanner);
	if (!scanner) {
		openslide_close(file);
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a slide");
	}
	pthread_rwlock_init(&scanner->lock, NULL);
	scanner->file = file;
	slide->state = scanner;
	slide->source = &scanner_source;
	openslide_get_level0_dimensions(file, &width, &height);
	if (width < 1 || height < 1 || width > INT32_MAX || height > INT32_MAX)
		return terrace_fail(TERRACE_ECORRUPT, "its dimensions are %lld x %lld",
		                    (long long)width, (long long)height);
	slide->width = (uint32_t)width;
	slide->height = (uint32_t)height;
	slide->tile_size = CUT_TILE;
	slide->mpp = property(file, OPENSLIDE_PROPERTY_NAME_MPP_X);
	slide->magnification = property(file, OPENSLIDE_PROPERTY_NAME_OBJECTIVE_POWER);
	colour = openslide_get_property_value(file, OPENSLIDE_PROPERTY_NAME_BACKGROUND_COLOR);
	if (colour && sscanf(colour, "%2x%2x%2x", &rgb[0], &rgb[1], &rgb[2]) == 3) {
		for (int i = 0; i < 3; i++)
			slide->background[i] = (uint8_t)rgb[i];
	}
	while (ceil((double)(width > height ? width : height) / (double)(1u << (levels - 1))) >
	       CUT_TILE)
		levels++;
	slide_halve(slide, levels);
	return TERRACE_OK;
}

#else

bool slide_openslide_reads(const char *path)
{
	(void)path;
	return false;
}

int slide_open_openslide(struct slide *slide)
{
	(void)slide;
	return terrace_fail(TERRACE_EINVAL, "this terrace was built without OpenSlide");
}

#endif
