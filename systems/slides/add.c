#include "slides/commands.h"

#ifdef HAVE_VIPS

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vips/vips.h>

enum { ADD_TILE = 512, ADD_THUMBNAIL = 512 };

struct adding {
	void (*progress)(void *ctx, int percent);
	void *ctx;
};

static void on_eval(VipsImage *image, VipsProgress *progress, void *ctx)
{
	struct adding *adding = ctx;

	(void)image;
	if (adding->progress && progress->percent < 100)
		adding->progress(adding->ctx, progress->percent);
}

static int vips_failed(const char *what, const char *image)
{
	const char *message = vips_error_buffer();
	size_t size = strcspn(message, "\n");
	int rc = terrace_fail(TERRACE_ECORRUPT, "cannot %s \"%s\": %.*s", what, image, (int)size,
	                      message);

	vips_error_clear();
	return rc;
}

/* On white where it is transparent, and in 8-bit RGB. */
static VipsImage *to_rgb(const char *path)
{
	VipsImage *image = vips_image_new_from_file(path, "access", VIPS_ACCESS_SEQUENTIAL, NULL);
	VipsImage *next;
	double white[] = { 255, 255, 255 };
	VipsArrayDouble *background = vips_array_double_new(white, 3);

	if (image && vips_image_hasalpha(image)) {
		if (vips_flatten(image, &next, "background", background, NULL) != 0)
			next = NULL;
		g_object_unref(image);
		image = next;
	}
	vips_area_unref(VIPS_AREA(background));
	if (image) {
		if (vips_colourspace(image, &next, VIPS_INTERPRETATION_sRGB, NULL) != 0)
			next = NULL;
		g_object_unref(image);
		image = next;
	}
	return image;
}

static int write_tiles(const char *image_path, const char *to, struct adding *adding,
                       int *ret_width, int *ret_height, double *ret_mpp)
{
	VipsImage *image = to_rgb(image_path);
	char name[4200];
	const char *mpp;
	int rc;

	if (!image)
		return vips_failed("read", image_path);
	*ret_width = vips_image_get_width(image);
	*ret_height = vips_image_get_height(image);
	*ret_mpp = 0;
	if (vips_image_get_typeof(image, "openslide.mpp-x") &&
	    vips_image_get_string(image, "openslide.mpp-x", &mpp) == 0)
		*ret_mpp = strtod(mpp, NULL);
	vips_image_set_progress(image, TRUE);
	g_signal_connect(image, "eval", G_CALLBACK(on_eval), adding);
	snprintf(name, sizeof name, "%s/tiles", to);
	rc = vips_dzsave(image, name, "layout", VIPS_FOREIGN_DZ_LAYOUT_DZ, "suffix",
	                 ".jpg[Q=80,interlace]", "overlap", 0, "tile-size", ADD_TILE, "depth",
	                 VIPS_FOREIGN_DZ_DEPTH_ONETILE, "strip", TRUE, NULL);
	g_object_unref(image);
	return rc == 0 ? TERRACE_OK : vips_failed("cut", image_path);
}

static int write_thumbnail(const char *image_path, const char *to)
{
	VipsImage *image, *flat;
	char name[4200];
	int rc;

	snprintf(name, sizeof name, "%s/thumbnail.jpg", to);
	if (vips_thumbnail(image_path, &image, ADD_THUMBNAIL, "height", ADD_THUMBNAIL, NULL) != 0)
		return vips_failed("shrink", image_path);
	rc = vips_image_hasalpha(image) ? vips_flatten(image, &flat, NULL) :
	                                  (flat = g_object_ref(image), 0);
	g_object_unref(image);
	if (rc == 0) {
		rc = vips_jpegsave(flat, name, "Q", 85, "strip", TRUE, NULL);
		g_object_unref(flat);
	}
	return rc == 0 ? TERRACE_OK : vips_failed("write a thumbnail of", image_path);
}

static const char *base_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* A name as JSON text wants it. */
static void put_escaped(FILE *file, const char *text)
{
	for (; *text; text++) {
		if (*text == '"' || *text == '\\' || (unsigned char)*text < 0x20)
			fprintf(file, "\\u%04x", (unsigned char)*text);
		else
			fputc(*text, file);
	}
}

static int write_metadata(const char *image_path, const char *to, int width, int height, double mpp)
{
	int longest = width > height ? width : height, count = 1;
	char name[4200];
	FILE *file;
	int failed;

	while (ceil((double)longest / (double)(1u << (count - 1))) > ADD_TILE)
		count++;
	snprintf(name, sizeof name, "%s/metadata.json", to);
	file = fopen(name, "we");
	if (!file)
		return terrace_fail(TERRACE_EIO, "cannot write %s: %s", name, strerror(errno));
	fprintf(file, "{\n  \"version\": \"1.0\",\n  \"source_file\": \"");
	put_escaped(file, base_of(image_path));
	fprintf(file,
	        "\",\n  \"source_mpp\": %.6g,\n  \"target_mpp\": %.6g,\n"
	        "  \"target_magnification\": %.6g,\n  \"tile_size\": %d,\n"
	        "  \"dimensions\": [%d, %d],\n  \"levels\": [",
	        mpp, mpp, mpp > 0 ? 10 / mpp : 0, ADD_TILE, width, height);
	for (int i = 0; i < count; i++) {
		double downsample = (double)(1u << (count - 1 - i)), span = ADD_TILE * downsample;

		fprintf(file,
		        "%s\n    {\"level\": %d, \"downsample\": %.0f, \"cols\": %.0f, "
		        "\"rows\": %.0f}",
		        i ? "," : "", i, downsample, ceil(width / span), ceil(height / span));
	}
	fprintf(file, "\n  ],\n  \"background_color\": [255, 255, 255],\n"
	              "  \"tile_format\": \"dzsave\"\n}\n");
	failed = ferror(file);
	failed |= fclose(file);
	return failed ? terrace_fail(TERRACE_EIO, "cannot write %s", name) : TERRACE_OK;
}

static int make_folder(const char *image, const char *to, struct adding *adding)
{
	int width = 0, height = 0, rc;
	double mpp = 0;

	if (mkdir(to, 0777) < 0)
		return terrace_fail(TERRACE_EIO, "cannot make %s: %s", to, strerror(errno));
	rc = write_tiles(image, to, adding, &width, &height, &mpp);
	if (rc == TERRACE_OK)
		rc = write_thumbnail(image, to);
	if (rc == TERRACE_OK)
		rc = write_metadata(image, to, width, height, mpp);
	return rc;
}

static void remove_tree(const char *path)
{
	g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
	const char *name;

	while (dir && (name = g_dir_read_name(dir)) != NULL) {
		g_autofree char *below = g_build_filename(path, name, NULL);

		if (g_file_test(below, G_FILE_TEST_IS_DIR) &&
		    !g_file_test(below, G_FILE_TEST_IS_SYMLINK))
			remove_tree(below);
		else
			unlink(below);
	}
	rmdir(path);
}

int slides_add(const char *image, const char *dir, void (*progress)(void *ctx, int percent),
               void *ctx, char *path, size_t path_size)
{
	struct adding adding = { progress, ctx };
	const char *base = base_of(image);
	const char *dot = strrchr(base, '.');
	int size = dot && dot != base ? (int)(dot - base) : (int)strlen(base);
	char beside[4096];
	int rc;

	if (access(image, R_OK) < 0)
		return terrace_fail(TERRACE_MISS, "cannot read \"%s\": %s", image, strerror(errno));
	if (VIPS_INIT("terrace") != 0)
		return vips_failed("start libvips for", image);
	vips_concurrency_set(2);
	snprintf(path, path_size, "%s/%.*s.fastpath", dir, size, base);
	snprintf(beside, sizeof beside, "%s/.%.*s.%ld", dir, size, base, (long)getpid());
	if (access(path, F_OK) == 0)
		return terrace_fail(TERRACE_EXISTS,
		                    "%s is there already; remove it to make it again", path);
	rc = make_folder(image, beside, &adding);
	if (rc == TERRACE_OK && rename(beside, path) < 0)
		rc = terrace_fail(TERRACE_EIO, "cannot name %s: %s", path, strerror(errno));
	if (rc != TERRACE_OK)
		remove_tree(beside);
	else if (progress)
		progress(ctx, 100);
	return rc;
}

#else

int slides_add(const char *image, const char *dir, void (*progress)(void *ctx, int percent),
               void *ctx, char *path, size_t path_size)
{
	(void)image, (void)dir, (void)progress, (void)ctx, (void)path, (void)path_size;
	return terrace_fail(TERRACE_EFORMAT,
	                    "this terrace was built without libvips, which cuts images into tiles");
}

#endif
