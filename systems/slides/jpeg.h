/*
 * JPEG tiles: looked over before anything is allocated for them, decoded and
 * encoded by libjpeg-turbo.
 */
#ifndef SLIDES_JPEG_H
#define SLIDES_JPEG_H

#include <terrace/terrace.h>

enum {
	JPEG_SCANS_MAX = 100, /* a progressive tile has some ten */
};

struct jpeg_info {
	uint32_t width, height;
	uint8_t components; /* 1 or 3 */
	unsigned scans;
};

/* A decoded tile: rows of width * 3 bytes, R G B, the top one first. */
struct picture {
	uint32_t width, height;
	uint8_t rgb[];
};

/*
 * Walk over the markers: 8 bits, 1 or 3 components, 1 to `edge_max` pixels
 * along each edge, at most JPEG_SCANS_MAX scans, complete to its end.
 * TERRACE_ECORRUPT with a message otherwise. Allocates nothing.
 */
int jpeg_check(terrace_slice bytes, uint32_t edge_max, struct jpeg_info *ret);

/* After jpeg_check(): the picture; the caller frees it. Greyscale becomes RGB. */
int jpeg_decode(terrace_slice bytes, uint32_t edge_max, struct picture **ret);
size_t picture_weight(const struct picture *picture);

/* The caller frees *ret with free(). */
int jpeg_encode(const uint8_t *rgb, uint32_t width, uint32_t height, int quality, void **ret,
                size_t *ret_size);

#endif
