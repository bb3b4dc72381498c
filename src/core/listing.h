/*
 * Listings as sources: the names in a directory, or in all directories below
 * it, or those that match a pattern.
 */
#ifndef CORE_LISTING_H
#define CORE_LISTING_H

#include "core/sources.h"

/* A listing's path, taken apart. */
struct listing {
	char dir[SOURCE_PATH_MAX + 1];
	const char *pattern; /* in the path; NULL: every name */
	bool deep;
};

/* By the flags of its fingerprint. The pattern points into `path`. */
void terrace__listing_split(const char *path, unsigned flags, struct listing *ret);

/* A fingerprint now; as terrace_sources_listing(). `path` has been made absolute. */
int terrace__listing_mark(const char *path, struct source_mark *ret);
enum source_state terrace__listing_check(const struct source_mark *mark, const char *path,
                                         char *why, size_t why_size);

/*
 * Goes through the directories of a listing, its own first: `dir` is called
 * before a directory is read, `name` for what is in it and counts, with the path
 * below the listing's, a directory's ending in '/'. Either may be NULL; what they
 * return unless it is TERRACE_OK ends it. TERRACE_EBUSY: it changed meanwhile.
 */
struct listing_visitor {
	int (*dir)(void *ctx, int fd, const char *below);
	int (*name)(void *ctx, const char *below, size_t size);
	void *ctx;
};
int terrace__listing_walk(const struct listing *listing, const struct listing_visitor *visitor);

#endif
