/* What `terrace slides` does besides looking at one slide: add, serve, bench. */
#ifndef SLIDES_COMMANDS_H
#define SLIDES_COMMANDS_H

#include "slides/preload.h"

#include <stdio.h>

/*
 * Make DIR/NAME.fastpath from an image, through libvips: tiles of 512 pixels, a
 * thumbnail, metadata.json last. Written beside and renamed, so that a failure
 * leaves nothing.
 *
 * progress: called now and then with percent done; may be NULL.
 * path:     where the folder is, at least 4,096 bytes.
 * Returns:  TERRACE_OK; TERRACE_EXISTS when there is such a folder; TERRACE_MISS
 *           without the image; TERRACE_ECORRUPT, TERRACE_EIO; TERRACE_EFORMAT when
 *           built without libvips.
 */
int slides_add(const char *image, const char *dir, void (*progress)(void *ctx, int percent),
               void *ctx, char *path, size_t path_size);

struct serve_spec {
	const char *folder;
	const char *current; /* the slide to show first, by name; NULL: the first */
	uint16_t port;       /* 0: any that is free */
	bool preload;
	uint32_t rate_limit; /* of preloading, tiles a second; 0: any */
	const char *dir, *config;
	/* Called once it listens; `url` ends in '/'. */
	void (*ready)(void *ctx, const char *url, size_t slides);
	void (*warn)(const char *message);
	void *ctx;
};

/*
 * Serve until SIGINT or SIGTERM. TERRACE_OK; TERRACE_MISS without the folder;
 * TERRACE_EBUSY when the port is taken; TERRACE_EFORMAT when built without a
 * server.
 */
int slides_serve(const struct serve_spec *spec);

/* Measure, beside peers, in one run; one JSON object or a table. NULL image: one is made. */
int slides_bench(const char *slide, const char *dir, bool json, FILE *out);

#endif
