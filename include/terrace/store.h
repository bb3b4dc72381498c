/*
 * Stores: an open directory with all its caches, shared by every thread of this
 * process and by every process of the machine that opens the same directory.
 */
#ifndef TERRACE_STORE_H
#define TERRACE_STORE_H

#include <terrace/base.h>
#include <terrace/policy.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum terrace_log_level {
	TERRACE_LOG_ERROR = 0,
	TERRACE_LOG_WARN = 1,
	TERRACE_LOG_INFO = 2,
	TERRACE_LOG_DEBUG = 3,
} terrace_log_level;

/** Receives one line without its newline. Any thread may call it; it must not call Terrace. */
typedef void terrace_log_fn(void *ctx, terrace_log_level level, const char *line);

/** Milliseconds since 1970. Must not go back. For programs and tests that own their time. */
typedef int64_t terrace_clock_fn(void *ctx);

/** Fields left at zero mean the default of the next place down. */
typedef struct terrace_options {
	size_t size; /* set by TERRACE_OPTIONS_INIT; new fields come last */
	const char
	    *config_path; /* NULL = TERRACE_CONFIG, terrace.ini in the directory, or the user's */
	uint64_t disk_bytes;     /* the directory on the device; 0 = 2 GiB */
	uint64_t disk_entries;   /* 0 = no limit */
	uint64_t memory_bytes;   /* L1 of all caches in this process; 0 = 64 MiB */
	uint64_t memory_entries; /* 0 = no limit */
	int64_t wait_ms;         /* how long an operation may wait for others; 0 = 30 s */
	bool disabled;           /* every call works and nothing is kept */
	terrace_log_fn *log;     /* NULL = silent, unless TERRACE_LOG is set */
	void *log_ctx;           /* borrowed until terrace_close() */
	terrace_clock_fn *clock; /* NULL = the machine's */
	void *clock_ctx;         /* borrowed until terrace_close() */
	uint64_t encoded_bytes; /* encoded bytes beside forms, all caches; 0 = each its own alone */
	/* Where shortage of memory is read, borrowed until terrace_close(): NULL = the
	 * kernel's and the process's own control group; "" = not there. See memory.h */
	const char *pressure_path, *cgroup_path;
	const char *boot_id_path; /* for tests: a file that says which boot this is; read by
	                           * terrace_open() alone; NULL = the kernel's */
} terrace_options;
TERRACE_DEFINE_INIT(terrace_options)
#define TERRACE_OPTIONS_INIT terrace_options_init()

/**
 * Open a store, making its directory where needed.
 *
 * The same directory opened twice in a process is the same store: the handle is
 * counted, and the options of the first open stand. A store that is disabled
 * (by option, TERRACE_DISABLED or configuration) opens without touching the
 * disk, and keeps nothing.
 *
 * A store whose directory or files are not writable opens and serves; what would
 * write says TERRACE_EACCESS. Once the directory is removed, everything misses,
 * and what would write says TERRACE_EIO, until it is opened again.
 *
 * dir:     NULL means TERRACE_DIR, else $XDG_CACHE_HOME/terrace, else
 *          ~/.cache/terrace.
 * options: may be NULL.
 * Owns:    on TERRACE_OK the caller closes *ret; otherwise *ret is untouched.
 * Returns: TERRACE_OK; TERRACE_EINVAL; TERRACE_ECONFIG (the message names file,
 *          line, key and what would be right); TERRACE_EACCESS (it is not there
 *          and cannot be made, another user's, writable by others, a link, a
 *          network file system);
 *          TERRACE_EFORMAT, TERRACE_EFULL, TERRACE_EIO, TERRACE_ENOMEM.
 * Threads: safe.
 * Cost:    a few system calls and one SQLite connection, whatever the store's size.
 */
TERRACE_API int terrace_open(const char *dir, const terrace_options *options, terrace **ret);

/**
 * Close one handle; the last one closes the store. Caches opened on it must be
 * closed before, or are closed with it. NULL is fine.
 *
 * Threads: safe, but not beside another call on the same last handle. Values
 *          that are still pinned stay readable until they are released.
 */
TERRACE_API void terrace_close(terrace *store);

/**
 * Make rows of values that this process has put and that wait; see terrace_write.
 * NULL is fine.
 *
 * Returns: TERRACE_OK when every value put before this call is written;
 *          otherwise how the first of them failed (TERRACE_EFULL,
 *          TERRACE_ETOOBIG, TERRACE_EIO, TERRACE_EBUSY), since the last call. What could not be
 *          written is a miss, and so is the value that it was to replace.
 * Threads: safe.
 * Cost:    that of one transaction; nothing when nothing waits.
 */
TERRACE_API int terrace_flush(terrace *store);

/** The store's directory as an absolute path. Owned by the store. */
TERRACE_API const char *terrace_dir(const terrace *store);

/** False when the store keeps nothing. NULL is false. */
TERRACE_API bool terrace_enabled(const terrace *store);

/** One row of the registry of what this process has open. */
typedef struct terrace_open_cache {
	size_t size;
	const char *dir;       /* of the store */
	const char *name;      /* of the cache */
	unsigned handles;      /* how often it is open */
	uint64_t memory_bytes; /* what its L1 holds now */
	uint64_t memory_entries;
} terrace_open_cache;

/**
 * Call `fn` for each cache that this process has open; stop when it returns
 * nonzero. Strings are valid during the call. `fn` must not open or close.
 *
 * Returns: the number of caches visited. fn may be NULL, to count them.
 */
TERRACE_API size_t terrace_registry_each(int (*fn)(void *ctx, const terrace_open_cache *open),
                                         void *ctx);

/**
 * Close every store and cache of this process, whatever their counts: for
 * tests, between cases. Every handle is invalid afterwards.
 */
TERRACE_API void terrace_registry_reset(void);

/** Where a configured value came from. */
typedef struct terrace_setting {
	size_t size;
	const char *section; /* "store", or "cache NAME" */
	const char *name;    /* "ttl" */
	const char *value;   /* as people write it: "2h" */
	const char *origin;  /* "default", "FILE:LINE", "environment TERRACE_…", "code" */
} terrace_setting;

/**
 * Call `fn` for each setting of the store and of every cache that is configured
 * or open; stop when it returns nonzero. Strings are valid during the call.
 */
TERRACE_API void terrace_config_each(terrace *store,
                                     int (*fn)(void *ctx, const terrace_setting *setting),
                                     void *ctx);

/**
 * Call `fn` with the name of every cache that the store has ever held, open or
 * not, in order of their making; stop when it returns nonzero.
 */
TERRACE_API int terrace_caches_each(terrace *store, int (*fn)(void *ctx, const char *name),
                                    void *ctx);

#ifdef __cplusplus
}
#endif
#endif
