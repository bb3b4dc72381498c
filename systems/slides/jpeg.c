/* Markers: ITU-T T.81, annex B. */
#include "slides/jpeg.h"

#include <pthread.h>
#include <stdlib.h>
#include <turbojpeg.h>

enum {
	SOF0 = 0xc0,
	SOF1 = 0xc1,
	SOF2 = 0xc2,
	DHT = 0xc4,
	JPG = 0xc8,
	DAC = 0xcc,
	RST0 = 0xd0,
	RST7 = 0xd7,
	SOI = 0xd8,
	EOI = 0xd9,
	SOS = 0xda,
	TEM = 0x01,
};

static int damaged(const char *what)
{
	return terrace_fail(TERRACE_ECORRUPT, "the JPEG is damaged: %s", what);
}

static int check_frame(const uint8_t *at, size_t size, uint32_t edge_max, struct jpeg_info *info)
{
	if (info->components)
		return damaged("it has two frames");
	if (size < 6)
		return damaged("its frame header is cut off");
	info->height = (uint32_t)at[1] << 8 | at[2];
	info->width = (uint32_t)at[3] << 8 | at[4];
	info->components = at[5];
	if (at[0] != 8)
		return terrace_fail(TERRACE_ECORRUPT, "the JPEG has %u bits a sample, not 8",
		                    at[0]);
	if (info->components != 1 && info->components != 3)
		return terrace_fail(TERRACE_ECORRUPT, "the JPEG has %u components, not 1 or 3",
		                    info->components);
	if (size < 6 + 3u * info->components)
		return damaged("its frame header is cut off");
	if (info->width == 0 || info->height == 0)
		return damaged("it has no pixels");
	if (info->width > edge_max || info->height > edge_max)
		return terrace_fail(TERRACE_ECORRUPT,
		                    "the JPEG is %u x %u pixels; a tile here has at most %u x %u",
		                    info->width, info->height, edge_max, edge_max);
	return TERRACE_OK;
}

/* The next marker behind entropy-coded data; NULL when the data ends before. */
static const uint8_t *next_marker(const uint8_t *at, const uint8_t *end)
{
	while (at < end && (at = memchr(at, 0xff, (size_t)(end - at))) != NULL) {
		while (at + 1 < end && at[1] == 0xff)
			at++;
		if (at + 1 >= end)
			return NULL;
		if (at[1] != 0 && !(at[1] >= RST0 && at[1] <= RST7))
			return at;
		at += 2;
	}
	return NULL;
}

int jpeg_check(terrace_slice bytes, uint32_t edge_max, struct jpeg_info *ret)
{
	const uint8_t *at = bytes.data, *end = at + bytes.size;
	struct jpeg_info info = { 0 };
	int rc;

	if (bytes.size < 4 || at[0] != 0xff || at[1] != SOI)
		return terrace_fail(TERRACE_ECORRUPT, "this is not a JPEG");
	at += 2;
	for (;;) {
		size_t size;
		uint8_t marker;

		while (at < end && at[0] == 0xff && at + 1 < end && at[1] == 0xff)
			at++;
		if (end - at < 2)
			return damaged("it is cut off");
		if (at[0] != 0xff)
			return damaged("there is no marker where one must be");
		marker = at[1];
		at += 2;
		if (marker == EOI)
			break;
		if (marker == TEM || (marker >= RST0 && marker <= RST7))
			continue;
		if (end - at < 2)
			return damaged("it is cut off");
		size = (size_t)at[0] << 8 | at[1];
		if (size < 2 || size > (size_t)(end - at))
			return damaged("a segment is longer than what is there");
		if (marker == SOF0 || marker == SOF1 || marker == SOF2) {
			rc = check_frame(at + 2, size - 2, edge_max, &info);
			if (rc != TERRACE_OK)
				return rc;
		} else if (marker >= SOF0 && marker <= 0xcf && marker != DHT && marker != JPG &&
		           marker != DAC) {
			return terrace_fail(TERRACE_ECORRUPT,
			                    "the JPEG is of a kind that is not decoded here "
			                    "(frame type %u)",
			                    marker - SOF0);
		}
		at += size;
		if (marker != SOS)
			continue;
		if (!info.components)
			return damaged("a scan comes before the frame");
		if (++info.scans > JPEG_SCANS_MAX)
			return terrace_fail(TERRACE_ECORRUPT, "the JPEG has more than %d scans",
			                    JPEG_SCANS_MAX);
		at = next_marker(at, end);
		if (!at)
			return damaged("it is cut off");
	}
	if (!info.scans)
		return damaged("it has no scan");
	*ret = info;
	return TERRACE_OK;
}

/* --- libjpeg-turbo: a handle of each kind for each thread --------------------------------------- */

static pthread_key_t decompressors, compressors;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void destroy_handle(void *handle)
{
	tjDestroy(handle);
}

static void make_keys(void)
{
	pthread_key_create(&decompressors, destroy_handle);
	pthread_key_create(&compressors, destroy_handle);
}

static tjhandle handle_of(pthread_key_t *key, tjhandle (*make)(void))
{
	tjhandle handle;

	pthread_once(&once, make_keys);
	handle = pthread_getspecific(*key);
	if (!handle) {
		handle = make();
		pthread_setspecific(*key, handle);
	}
	return handle;
}

int jpeg_decode(terrace_slice bytes, uint32_t edge_max, struct picture **ret)
{
	struct jpeg_info info;
	struct picture *picture;
	tjhandle handle;
	int rc = jpeg_check(bytes, edge_max, &info);

	if (rc != TERRACE_OK)
		return rc;
	handle = handle_of(&decompressors, tjInitDecompress);
	picture = malloc(sizeof *picture + (size_t)info.width * info.height * 3);
	if (!handle || !picture) {
		free(picture);
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a tile of %u x %u pixels",
		                    info.width, info.height);
	}
	picture->width = info.width;
	picture->height = info.height;
	/* What it warns of is damage too: rather no tile than a wrong one. */
	if (tjDecompress2(handle, bytes.data, bytes.size, picture->rgb, (int)info.width, 0,
	                  (int)info.height, TJPF_RGB, 0) != 0) {
		free(picture);
		return terrace_fail(TERRACE_ECORRUPT, "the JPEG is damaged: %s",
		                    tjGetErrorStr2(handle));
	}
	*ret = picture;
	return TERRACE_OK;
}

size_t picture_weight(const struct picture *picture)
{
	return sizeof *picture + (size_t)picture->width * picture->height * 3;
}

int jpeg_encode(const uint8_t *rgb, uint32_t width, uint32_t height, int quality, void **ret,
                size_t *ret_size)
{
	tjhandle handle = handle_of(&compressors, tjInitCompress);
	unsigned long size = tjBufSize((int)width, (int)height, TJSAMP_420);
	unsigned char *bytes = handle ? malloc(size) : NULL;

	if (!bytes)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a JPEG of %u x %u pixels",
		                    width, height);
	if (tjCompress2(handle, rgb, (int)width, 0, (int)height, TJPF_RGB, &bytes, &size,
	                TJSAMP_420, quality, TJFLAG_NOREALLOC) != 0) {
		free(bytes);
		return terrace_fail(TERRACE_EIO, "cannot encode a tile: %s",
		                    tjGetErrorStr2(handle));
	}
	*ret = bytes;
	*ret_size = size;
	return TERRACE_OK;
}
