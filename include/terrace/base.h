/*
 * What every other header needs: visibility, status codes, byte slices and the
 * message that explains the last failure.
 */
#ifndef TERRACE_BASE_H
#define TERRACE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TERRACE_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/** An open directory with all its caches. */
typedef struct terrace terrace;
/** A named, isolated key space with a policy. NULL is a cache that holds nothing. */
typedef struct terrace_cache terrace_cache;
/** A pinned, immutable, reference-counted value. */
typedef struct terrace_value terrace_value;

/**
 * What a call returns. Zero and positive codes are expected outcomes; negative
 * ones are failures, explained by terrace_error_message().
 */
typedef enum terrace_status {
	TERRACE_OK = 0,     /* done, or a hit */
	TERRACE_MISS = 1,   /* not there */
	TERRACE_EXISTS = 2, /* add: a live entry was there already */
	TERRACE_ABSENT = 3, /* fetch: a loader found that there is no value */

	TERRACE_EINVAL = -1,    /* an argument is wrong: the caller's mistake */
	TERRACE_ENOMEM = -2,    /* out of memory */
	TERRACE_EIO = -3,       /* the system failed to read or write */
	TERRACE_EFULL = -4,     /* no space on the device, or a file-size limit */
	TERRACE_EACCESS = -5,   /* not allowed: permissions, owner, a link, a read-only place */
	TERRACE_ECONFIG = -6,   /* a configuration file or variable is wrong */
	TERRACE_EBUSY = -7,     /* waited as long as allowed */
	TERRACE_ECYCLE = -8,    /* a loader asked for a key that waits for that loader */
	TERRACE_EFORK = -9,     /* the handle was opened before fork(); open your own */
	TERRACE_EFORMAT = -10,  /* written by a version of Terrace that this one cannot read */
	TERRACE_ECORRUPT = -11, /* damaged bytes; a get never returns this, it misses */
	TERRACE_ETOOBIG = -12,  /* larger than a limit allows */
} terrace_status;

/**
 * The name of a status, such as "TERRACE_MISS".
 *
 * Returns: a static string; "TERRACE_UNKNOWN" for a number that is none.
 * Threads: safe.
 */
TERRACE_API const char *terrace_status_name(int status);

/**
 * One line for people about the last failure on this thread: what was being
 * done to what, why it failed, and what to do.
 *
 * Owns:    the library; valid until the next call into Terrace on this thread.
 * Returns: never NULL; "" when nothing has failed on this thread.
 * Threads: each has its own message.
 */
TERRACE_API const char *terrace_error_message(void);

/**
 * Set this thread's message and return `status`: for loaders and other
 * callbacks that want to explain themselves.
 */
TERRACE_API int terrace_fail(int status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/** The library's version, such as "0.1.0". Static. */
TERRACE_API const char *terrace_version(void);

/** Borrowed bytes: never owned, never changed through the slice. */
typedef struct terrace_slice {
	const void *data;
	size_t size;
} terrace_slice;

static inline terrace_slice terrace_bytes(const void *data, size_t size)
{
	terrace_slice slice;
	slice.data = data;
	slice.size = size;
	return slice;
}

/** The bytes of a C string, without its terminator. NULL is empty. */
static inline terrace_slice terrace_str(const char *text)
{
	return terrace_bytes(text, text ? strlen(text) : 0);
}

/** A key from a C string. */
#define TERRACE_KEY(text) terrace_str(text)

/*
 * Every struct that callers fill begins with its own size, so that a program
 * and a library of different ages understand each other, and starts out as its
 * TERRACE_…_INIT: all fields zero, which means the default.
 */
#define TERRACE_DEFINE_INIT(type)              \
	static inline type type##_init(void)   \
	{                                      \
		type init;                     \
		memset(&init, 0, sizeof init); \
		init.size = sizeof init;       \
		return init;                   \
	}

/** Keys are 1 to this many bytes, of any content. */
#define TERRACE_KEY_MAX (64u * 1024u)
/** Cache names are 1 to this many bytes without '/' and control characters. */
#define TERRACE_NAME_MAX 64u
/** A tag is 1 to this many bytes. */
#define TERRACE_TAG_MAX 255u

/** Where an entry lies, or which tier served it. Also a bit in a set of tiers. */
typedef enum terrace_tier {
	TERRACE_L1 = 1, /* memory of this process */
	TERRACE_L2 = 2, /* SQLite */
	TERRACE_L3 = 4, /* files */
} terrace_tier;

/** "l1", "l2", "l3"; "none" for anything else. Static. */
TERRACE_API const char *terrace_tier_name(unsigned tier);

#ifdef __cplusplus
}
#endif
#endif
