/*
 * Sources: what an entry was made from: files, paths with nothing there, the
 * names in directories, variables of the environment. An entry with sources is
 * a hit only while each of them is as it was.
 *
 * A source's fingerprint is taken when it is added here, so add it before
 * reading it: what changes in between then makes a miss, never a stale hit.
 * A file counts as unchanged while size, modification time, change time and
 * inode stand. A file that was younger than a file system's time grain (2 s)
 * when it was fingerprinted is compared by content (XXH3, 128 bit) as well;
 * hashes of unchanged files are remembered.
 *
 * What is written through a mapping of a file (mmap) shows in its times when the kernel
 * next has to look, which on a file system in memory may be never: whoever
 * changes sources in that way says so himself, by utimensat() or by invalidating what was made
 * from them.
 */
#ifndef TERRACE_SOURCES_H
#define TERRACE_SOURCES_H

#include <terrace/base.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct terrace_sources terrace_sources;

typedef enum terrace_source_flags {
	/* Compare content when the other marks differ: touching a file, or
	 * checking out the same bytes again, is then no change. */
	TERRACE_SOURCE_CONTENT = 1,
} terrace_source_flags;

/**
 * Make an empty set.
 *
 * Owns:    the caller frees *ret with terrace_sources_free().
 * Returns: TERRACE_OK, TERRACE_ENOMEM.
 * Threads: a set belongs to one thread at a time.
 */
TERRACE_API int terrace_sources_new(terrace_sources **ret);

/** NULL is fine. */
TERRACE_API void terrace_sources_free(terrace_sources *sources);

/**
 * Add a file and take its fingerprint now. A relative path is made absolute;
 * links are followed.
 *
 * Returns: TERRACE_OK; TERRACE_MISS when there is no such file (nothing is
 *          added); TERRACE_EACCESS, TERRACE_EIO when it cannot be looked at;
 *          TERRACE_EINVAL (not a regular file, a path over 4,095 bytes),
 *          TERRACE_ENOMEM.
 * Cost:    one stat; reads the file when it is younger than 2 s or CONTENT is asked.
 */
TERRACE_API int terrace_sources_file(terrace_sources *sources, const char *path, unsigned flags);

/**
 * Add a path that must stay absent.
 *
 * Returns: TERRACE_OK; TERRACE_EXISTS when something is there (nothing is
 *          added); otherwise as terrace_sources_file().
 */
TERRACE_API int terrace_sources_absent(terrace_sources *sources, const char *path);

/**
 * Add the names in a directory: a name that is added, removed or changed ends the
 * entry; what the files hold does not. `listing` is the directory, for all names
 * in it, or the directory and which names count: as last part a pattern ('*' any
 * bytes, '?' one, [a-z], '\' the next as it is), and before it, or instead, "**"
 * for the directories below as well: "src", "src/PATTERN", "src/(**)",
 * "src/(**)/PATTERN", without the parentheses. Names that begin with a dot count. A
 * directory is another name than a file. Links are names, and are not descended,
 * but in the path of the directory itself.
 *
 * Returns: TERRACE_OK; TERRACE_MISS when there is no such directory (nothing is
 *          added); TERRACE_EACCESS, TERRACE_EIO when it, or one below, cannot be
 *          read or does not stop changing; TERRACE_EINVAL (a file, wildcards
 *          elsewhere, a path over 4,095 bytes), TERRACE_ENOMEM.
 * Cost:    reads the directories. Looking again costs one stat for a directory
 *          that is not young on a local file system; else they are read again.
 */
TERRACE_API int terrace_sources_listing(terrace_sources *sources, const char *listing);

/**
 * Add a variable of the environment: its value, or that it has none. What counts
 * is the environment of the process that gets the entry, at that moment; who
 * wants an entry for each value puts the value into the key.
 *
 * Returns: TERRACE_OK; TERRACE_EINVAL (an empty name, one over 255 bytes or
 *          with a '='), TERRACE_ENOMEM.
 * Threads: getenv() is used: no thread may change the environment meanwhile.
 * Cost:    a look through the environment, no system call.
 */
TERRACE_API int terrace_sources_variable(terrace_sources *sources, const char *name);

/** How many sources the set holds. */
TERRACE_API size_t terrace_sources_count(const terrace_sources *sources);

/** A content hash: XXH3, 128 bit, big-endian; no defence against an attacker. */
typedef struct terrace_digest {
	uint8_t bytes[16];
} terrace_digest;

/**
 * The content hash of a file, remembered in the store (in the cache ".files")
 * while size, times and inode stand.
 *
 * store:   may be NULL: nothing is remembered.
 * Returns: TERRACE_OK, TERRACE_MISS (no such file), TERRACE_EACCESS,
 *          TERRACE_EIO, TERRACE_EINVAL (a directory or device), TERRACE_ENOMEM.
 * Threads: safe.
 * Cost:    one stat and one get when remembered; otherwise reads the file.
 */
TERRACE_API int terrace_file_digest(terrace *store, const char *path, terrace_digest *ret);

/**
 * What a listing, as of terrace_sources_listing(), amounts to now: the same digest
 * for the same names.
 *
 * Returns: as terrace_sources_listing().
 * Threads: safe.
 * Cost:    reads the directories.
 */
TERRACE_API int terrace_listing_digest(const char *listing, terrace_digest *ret);

#ifdef __cplusplus
}
#endif
#endif
