/* What the files of the extension have in common. Everything here needs the GIL. */
#ifndef PYTHON_COMMON_H
#define PYTHON_COMMON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "buffer.h"

#include <terrace/terrace.h>

#include <pthread.h>
#include <stdatomic.h>

/* --- handles ------------------------------------------------------------------------ */

/*
 * An open store and cache. Every call holds a reference, so that a close on
 * another thread takes effect when the last call has returned.
 */
struct core {
	_Atomic unsigned refs;
	unsigned forks; /* as it was when this was opened */
	terrace *store;
	terrace_cache *cache;
};

/* Counts up in a forked child: handles from before are the parent's. */
extern _Atomic unsigned forks_seen;

void core_release(struct core *core);

struct cache_object {
	PyObject_HEAD pthread_mutex_t lock; /* over core; never held while the GIL is given up */
	struct core *core;                  /* NULL: opened when it is needed */
	unsigned setups;                    /* how often what follows was set */
	char *directory, *name;
	int64_t wait_ms;
	terrace_policy policy; /* what settings say of it */
	int pickle;            /* the protocol; -1: never */
};

/* A reference to the open handle; NULL with an exception. */
struct core *cache_acquire(struct cache_object *self);

/* --- errors -------------------------------------------------------------------------- */

extern PyObject *error_type;   /* terrace.Error */
extern PyObject *timeout_type; /* terrace.Timeout */

/* Raise what a failure means to Python, with this thread's message. Returns NULL. */
PyObject *raise_status(int status);

/* Could the value not be kept, for which no program is to blame? */
static inline bool is_not_kept(int status)
{
	return status == TERRACE_EFULL || status == TERRACE_ETOOBIG || status == TERRACE_EIO ||
	       status == TERRACE_ECORRUPT;
}

/* --- codec.c: keys and values as bytes -------------------------------------------------- */

/* Bytes that grow; small ones need no allocation. */
struct bytes {
	char *data;
	size_t size, capacity;
	char small[256];
};

void bytes_init(struct bytes *bytes);
void bytes_done(struct bytes *bytes);

static inline terrace_slice bytes_slice(const struct bytes *bytes)
{
	return terrace_bytes(bytes->data, bytes->size);
}

/* 0; -1 with an exception. pickle: the protocol, or -1. `bytes` is initialised by these. */
int key_encode(PyObject *key, int pickle, struct bytes *bytes);
int value_encode(PyObject *value, int pickle, struct bytes *bytes);

/*
 * A new reference; NULL without an exception for what this reader cannot read
 * (pickled bytes without pickle, bytes that no Python program wrote); NULL with
 * one when out of memory.
 */
PyObject *key_decode(terrace_slice key, int pickle);
PyObject *value_decode(terrace_slice value, int pickle);

/* The bytes of a bytes or str value; false for another. */
bool value_payload(terrace_slice value, terrace_slice *ret);

PyObject *codec_configure(PyObject *module, PyObject *args);
/* A tuple of bytes from whatever a program gives as tags; NULL with an exception. */
PyObject *tags_from(PyObject *tag);
/* What a program gave, from stored texts. */
PyObject *tags_to(const char *const *tags, size_t count);

/* The set behind a Sources object, for this thread alone until it lets go. NULL is none. */
terrace_sources *sources_hold(PyObject *sources);
void sources_let_go(PyObject *sources);

/* --- options.c: what a put carries --------------------------------------------------------- */

enum { TAGS_AT_ONCE = 64 };

struct put_more {
	terrace_put_options options;
	PyObject *tags; /* owns the texts */
	const char *texts[TAGS_AT_ONCE];
	PyObject *sources; /* owns the set */
};

/* What a program gives; each may be NULL or None. */
struct put_asked {
	PyObject *expire, *tag, *sources, *idle;
};
/* 0; -1 with an exception. The caller calls put_more_done() in any case. */
int put_more_from(struct put_more *more, const struct put_asked *asked);
void put_more_done(struct put_more *more);
/* Around the put, without the GIL: nobody adds to the sources meanwhile. */
static inline const terrace_put_options *put_more_hold(struct put_more *more)
{
	more->options.sources = sources_hold(more->sources);
	return &more->options;
}
static inline void put_more_let_go(struct put_more *more)
{
	sources_let_go(more->sources);
}
/* Seconds, or None for the cache's own, as a time to live. */
int ttl_from(PyObject *expire, int64_t *ret_ms);

/* --- the types ----------------------------------------------------------------------------- */

extern PyTypeObject *value_type, *keys_type, *sources_type, *lease_type, *transaction_type;
extern PyTypeObject *writer_type, *reader_type, *subscription_type;

int value_setup(PyObject *module);
int keys_setup(PyObject *module);
int sources_setup(PyObject *module);
int lease_setup(PyObject *module);
int transaction_setup(PyObject *module);
int stream_setup(PyObject *module);
int subscription_setup(PyObject *module);
int cache_setup(PyObject *module);

/* Takes over the pin. */
PyObject *value_new(terrace_value *pinned, terrace_cache *cache, int pickle, bool facts);
PyObject *keys_new(struct cache_object *cache, bool newest, PyObject *prefix);
PyObject *lease_begin(struct cache_object *cache, PyObject *key, int64_t wait_ms);
PyObject *transaction_begin(struct cache_object *cache);
PyObject *writer_open(struct cache_object *cache, PyObject *args);
PyObject *reader_open(struct cache_object *cache, PyObject *key);
PyObject *subscription_begin(struct cache_object *cache, PyObject *args);

/* entry.c: what is known of a cache and its entries; methods of the cache. */
PyObject *cache_why(PyObject *self, PyObject *key);
PyObject *cache_stats(PyObject *self, PyObject *none);
PyObject *cache_usage(PyObject *self, PyObject *none);
PyObject *cache_verify(PyObject *self, PyObject *fix);
/* {counter: number} */
PyObject *stats_dict(const terrace_stats *stats);
/* Seconds; None for 0. */
PyObject *seconds_or_none(int64_t ms);
/* When it expires, used or not: None for what only dies of not being used. */
PyObject *expire_time_of(const terrace_info *info);

/* Free an object of a heap type. */
void object_free(PyObject *self);
/* Make the type, and put it into the module; NULL with an exception. */
PyTypeObject *type_add(PyObject *module, PyType_Spec *spec);

#define UNLOCKED(statement)                       \
	do {                                      \
		Py_BEGIN_ALLOW_THREADS statement; \
		Py_END_ALLOW_THREADS              \
	} while (0)

#endif
