/* The peers of the bench: other programs' ways to the same tiles. */
#ifndef SLIDES_BENCH_PARTS_H
#define SLIDES_BENCH_PARTS_H

#include "slides/tiles.h"

#include <jansson.h>

uint64_t bench_ns(void);
double bench_quantile(double *values, size_t count, double q);
/* The i-th tile of the pan that all sides make. */
struct tile bench_tile(const struct slide *slide, unsigned i);

/* Milliseconds for 200 tiles of the pan; 0 with a NULL slide, or where it is not built. */
double bench_pan_vips(const char *path, const struct slide *slide);
double bench_pan_openslide(const char *path, const struct slide *slide);

/* A tiled TIFF of the finest level of a slide folder; false where that cannot be made. */
bool bench_make_scan(const char *folder, const char *to);

/* Median microseconds for a tile from this command's server, and from a plain one. */
bool bench_serve(const char *folder, const char *store, double *ret_ours, double *ret_plain);

#endif
