/*
 * Heavy shared libraries, opened when somebody needs them and not before, once,
 * with what is made from them: a parser's tables, a decoder's context.
 *
 *   terrace_library *python;
 *   terrace_library_new(&options, &python);            opens nothing
 *   ...
 *   terrace_library_object(python, &parser);           the first call opens it
 */
#ifndef TERRACE_LIBRARY_H
#define TERRACE_LIBRARY_H

#include <terrace/base.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct terrace_library terrace_library;

/** What a library is and what it needs. Copied by terrace_library_new(). */
typedef struct terrace_library_options {
	size_t size; /* set by TERRACE_LIBRARY_INIT */
	/* A path with a '/', or a file name for `folders` and then the system's search. */
	const char *file;
	const char *const *folders;    /* looked in, in order; ends with NULL; may be NULL */
	terrace_library *const *needs; /* opened before this one; each must outlive it */
	size_t need_count;
	/*
	 * Runs once, when the library and what it needs are open, and sets what
	 * is made from it. Anything but 0 is the error of every later call, with
	 * the message of terrace_fail(). May be NULL: the object is NULL.
	 */
	int (*ready)(void *ctx, terrace_library *library, void **ret_object);
	void (*done)(void *ctx, void *object); /* before it is closed; may be NULL */
	void *ctx;                             /* borrowed until terrace_library_free() */
} terrace_library_options;
TERRACE_DEFINE_INIT(terrace_library_options)
#define TERRACE_LIBRARY_INIT terrace_library_options_init()

/**
 * Describe a library. Nothing is opened, and the file need not exist.
 *
 * Owns:    the caller frees *ret with terrace_library_free().
 * Returns: TERRACE_OK; TERRACE_EINVAL (no file name), TERRACE_ENOMEM.
 */
TERRACE_API int terrace_library_new(const terrace_library_options *options, terrace_library **ret);

/**
 * Close the library where it is open, after the object that was made from it;
 * waits for a preload that is under way. NULL is fine.
 */
TERRACE_API void terrace_library_free(terrace_library *library);

/**
 * The object that `ready` made; opens the library on the first call. A failure
 * is remembered: later calls return it at once, with the same message.
 *
 * ret:     may be NULL: just open it.
 * Returns: TERRACE_OK; TERRACE_MISS (no such file; the message names every place
 *          that was looked in), TERRACE_EFORMAT (the file is no library that can
 *          be opened here; the message says why), what `ready` returned, or the
 *          failure of a library that this one needs; TERRACE_ECYCLE when `ready`
 *          asks for the object that it is making.
 * Threads: safe; one thread opens, others wait for it.
 * Cost:    one atomic load once it is open.
 */
TERRACE_API int terrace_library_object(terrace_library *library, void **ret);

/**
 * The address of a function or variable; opens the library on the first call.
 * In `ready` as well.
 *
 * Returns: as terrace_library_object(); TERRACE_MISS when it has no such name.
 * Threads: safe.
 */
TERRACE_API int terrace_library_symbol(terrace_library *library, const char *name, void **ret);

/**
 * Open libraries in the background, one after another, on one thread. Failures
 * are remembered, as if a caller had asked.
 *
 * Returns: TERRACE_OK when the work has begun; TERRACE_ENOMEM, TERRACE_EIO.
 * Threads: safe. terrace_library_free() waits for it.
 */
TERRACE_API int terrace_library_preload(terrace_library *const *libraries, size_t count);

typedef enum terrace_library_state {
	TERRACE_LIBRARY_CLOSED = 0, /* nobody has needed it */
	TERRACE_LIBRARY_OPENING = 1,
	TERRACE_LIBRARY_OPEN = 2,
	TERRACE_LIBRARY_FAILED = 3,
} terrace_library_state;

typedef struct terrace_library_report {
	size_t size; /* set by TERRACE_LIBRARY_REPORT_INIT */
	terrace_library_state state;
	int status;        /* of the failure */
	uint64_t open_us;  /* how long opening took, without what it needs */
	uint64_t ready_us; /* how long `ready` took */
	const char *path;  /* where it was found; "" before. Owned by the library. */
	const char *error; /* of the failure; "" otherwise. Owned by the library. */
} terrace_library_report;
TERRACE_DEFINE_INIT(terrace_library_report)
#define TERRACE_LIBRARY_REPORT_INIT terrace_library_report_init()

/** What is known of a library, without opening it. Threads: safe. */
TERRACE_API void terrace_library_describe(terrace_library *library, terrace_library_report *ret);

#ifdef __cplusplus
}
#endif
#endif
