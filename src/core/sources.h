/*
 * Sources: fingerprints of what entries were made from (files, absent files,
 * variables; listings are in listing.h), and the hashes of files, remembered.
 */
#ifndef CORE_SOURCES_H
#define CORE_SOURCES_H

#include "core/store.h"
#include "tiers/extra.h"

#include <sys/stat.h>

enum source_state {
	SOURCE_SAME,
	SOURCE_CHANGED,
	SOURCE_UNKNOWN, /* it cannot be looked at just now: a miss, but nobody's end */
};

enum { SOURCE_PATH_MAX = 4095, VARIABLE_MAX = 255 };

/*
 * A file changed twice within the grain of its time stamps looks unchanged.
 * FAT keeps two seconds; nothing in use is coarser. A variable, because a
 * file's change time cannot be set: tests set this instead.
 */
extern int64_t terrace__source_grain_ms;

/* A fingerprint of a file now. mark->path is the caller's. As terrace_sources_file(). */
int terrace__source_mark(struct terrace *store, const char *path, unsigned flags,
                         struct source_mark *ret);

/* The value of a variable of this process, or that it has none. */
void terrace__variable_mark(const char *name, struct source_mark *ret);

/*
 * Is the source as it was? `store` may be NULL: nothing is remembered. When
 * not, `why` (which may be NULL) gets a line for people.
 */
enum source_state terrace__source_check(struct terrace *store, const struct source_mark *mark,
                                        char *why, size_t why_size);

/* All sources of an entry's extra; the first that is not the same decides. */
enum source_state terrace__sources_check(struct terrace *store, terrace_slice extra,
                                         uint64_t *ret_looked_at, char *why, size_t why_size);

/*
 * Size, times and inode, and whether they are too young to prove anything: at
 * `before`, what CLOCK_REALTIME said before the file was looked at, in ms.
 */
void terrace__source_stat(const struct stat *st, int64_t before, struct source_mark *ret);
bool terrace__source_same_stat(const struct source_mark *a, const struct source_mark *b);
/* SOURCE_CHANGED, with the line for people where it is wanted. */
enum source_state terrace__source_changed(char *why, size_t why_size, const char *what,
                                          const char *how);
/* errno of a path that cannot be looked at: TERRACE_MISS where nothing is there, or a failure. */
int terrace__source_failed(int err, const char *path);

/* The content hash, remembered in the store's cache ".files" where there is one. */
int terrace__file_digest(struct terrace *store, const char *path, struct source_mark *ret);

#endif
