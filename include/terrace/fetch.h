/*
 * Get or compute, once for all callers: single flight among the threads of a
 * process and among the processes of a machine.
 *
 * Who computes a key holds a lock that the kernel drops when the process dies,
 * so a killed owner is replaced within about 20 ms and nobody waits for a
 * time-out. A value computed before its key was written, deleted or invalidated
 * is returned to the caller that computed it, and not stored.
 */
#ifndef TERRACE_FETCH_H
#define TERRACE_FETCH_H

#include <terrace/base.h>
#include <terrace/cache.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What a loader fills in. */
typedef struct terrace_loaded terrace_loaded;

/**
 * Compute the value of `key`. Return 0 after terrace_loaded_copy() or
 * terrace_loaded_take(); anything else is returned to every caller that waits
 * for this key, unchanged (use numbers that mean something to you), with the
 * message of terrace_fail().
 */
typedef int terrace_load_fn(void *ctx, terrace_slice key, terrace_loaded *loaded);

/** Give the value as a copy of `bytes`. */
TERRACE_API int terrace_loaded_copy(terrace_loaded *loaded, terrace_slice bytes);
/** Give the value itself: `data` is freed with free() in the end, also on failure. */
TERRACE_API int terrace_loaded_take(terrace_loaded *loaded, void *data, size_t size);
/**
 * There is no such value. Return 0 after it: fetch gives TERRACE_ABSENT to all
 * callers, and for the cache's absent_ttl_ms to those who come later, without
 * running the loader.
 */
TERRACE_API void terrace_loaded_absent(terrace_loaded *loaded);
/** A time to live for this value; otherwise the cache's. With one that put refuses it is not stored. */
TERRACE_API void terrace_loaded_ttl(terrace_loaded *loaded, int64_t ttl_ms);
/** An idle time for this value, as in terrace_put_options; otherwise the cache's. As above. */
TERRACE_API void terrace_loaded_idle(terrace_loaded *loaded, int64_t idle_ms);
/** A tag. */
TERRACE_API int terrace_loaded_tag(terrace_loaded *loaded, const char *tag);
/**
 * A source: call it before reading the file. Returns as terrace_sources_file();
 * a missing file is remembered as absent (TERRACE_MISS). A link that leads nowhere
 * is TERRACE_EINVAL.
 */
TERRACE_API int terrace_loaded_source(terrace_loaded *loaded, const char *path, unsigned flags);
/**
 * The value's sources, to add others to: listings, variables, files that must be
 * there. Add each before looking at it. Owned by `loaded`.
 */
TERRACE_API terrace_sources *terrace_loaded_sources(terrace_loaded *loaded);
/** Where this value goes, as in terrace_put_options; otherwise as the call or the cache says. */
TERRACE_API void terrace_loaded_strategy(terrace_loaded *loaded, terrace_strategy strategy);
/** The cost in microseconds; otherwise the time that the loader took. */
TERRACE_API void terrace_loaded_cost(terrace_loaded *loaded, uint64_t cost_us);
/** Return the value to the callers, but do not store it. */
TERRACE_API void terrace_loaded_keep_out(terrace_loaded *loaded);

/**
 * Get `key`, or compute it with `load` while everybody else who wants it waits
 * for the result. A caller that has waited for the store's wait_ms computes for
 * itself. A NULL cache computes every time.
 *
 * What has expired no longer ago than the cache's stale_ms is given at once
 * while another caller computes; with stale_on_error_ms, also instead of a
 * loader's failure. terrace_value_stale() tells.
 *
 * Owns:    on TERRACE_OK the caller releases *ret.
 * Returns: TERRACE_OK; TERRACE_ABSENT (see terrace_loaded_absent()); what `load`
 *          returned when that is not 0; TERRACE_ECYCLE
 *          when `load` runs for this very key further up on this thread's stack (of NULL caches nobody can tell
 *          one from another, so there it recurses);
 *          TERRACE_EINVAL; TERRACE_ENOMEM. Never a failure of the cache itself.
 * Threads: safe; `load` runs on the calling thread.
 * Cost:    on a hit that of terrace_get().
 */
TERRACE_API int terrace_fetch(terrace_cache *cache, terrace_slice key, terrace_load_fn *load,
                              void *ctx, terrace_value **ret);

/** How long fetch waits for a loader, and for whom it runs. Zero fields: no limit. */
typedef struct terrace_fetch_options {
	size_t size; /* set by TERRACE_FETCH_INIT */
	/* Past this, an expired value is given if there is one (see stale_on_error_ms). */
	int64_t soft_ms;
	/* Past this, fetch returns TERRACE_EBUSY. */
	int64_t hard_ms;
	/* An expired value (see stale_ms) is given at once also to the caller whose turn it
	 * is to compute. */
	bool background;
	/* Called once, when `load` will not use `ctx` any more; NULL = nothing to do. */
	void (*release)(void *ctx);
	/* For this call: where the value goes, and what is brought with it. 0 = the cache's. */
	terrace_strategy strategy;
} terrace_fetch_options;
TERRACE_DEFINE_INIT(terrace_fetch_options)
#define TERRACE_FETCH_INIT terrace_fetch_options_init()

/**
 * As terrace_fetch(), but with a limit on the waiting: `load` runs on a thread
 * of the store, goes on after the limit, and what it gives is stored for the
 * next caller. So `ctx` must outlive this call: see `release`. Where no thread
 * can be had, and within a transaction, `load` runs on the calling one, without a limit.
 *
 * Returns: as terrace_fetch(); TERRACE_EBUSY past hard_ms.
 * Threads: safe. terrace_close() waits for loaders that still run.
 * Cost:    on a hit that of terrace_get(); on a miss that of a thread besides.
 */
TERRACE_API int terrace_fetch_with(terrace_cache *cache, terrace_slice key, terrace_load_fn *load,
                                   void *ctx, const terrace_fetch_options *options,
                                   terrace_value **ret);

/**
 * As terrace_fetch(), but of a cache with a form the encoded bytes: nothing is
 * decoded. What is computed is kept in the memory for encoded bytes and on the
 * disk, as the policy says; the object is made when somebody gets it. Calls for
 * either shape share one computation.
 *
 * Owns, Returns, Threads: as terrace_fetch().
 * Cost:    on a hit that of terrace_get_encoded().
 */
TERRACE_API int terrace_fetch_encoded(terrace_cache *cache, terrace_slice key,
                                      terrace_load_fn *load, void *ctx, terrace_value **ret);

/**
 * Compute the values of `count` keys: fill in loaded[i], as a terrace_load_fn
 * does, for keys[i]. What is left empty is not there for this caller, and not
 * stored. Anything else than 0 fails for all of them.
 */
typedef int terrace_load_many_fn(void *ctx, const terrace_slice *keys, size_t count,
                                 terrace_loaded *const *loaded);

/**
 * Get many keys, and compute those that are nowhere with one call of `load`: a
 * range in bulk. What it gives is stored in one transaction, but for values with
 * times, tags or sources of their own, and each unless its key was written or
 * invalidated meanwhile. Who waits for one of these keys, in
 * any process, is given it; this call waits for others' computations no longer
 * than it takes for the first of them, and computes the rest itself. A key that
 * is there twice is computed once.
 *
 * Owns:    on TERRACE_OK the caller releases each ret_values[i] that is not NULL:
 *          absent, or left empty.
 * Returns: as terrace_fetch(), but for TERRACE_ABSENT and TERRACE_ECYCLE; a key of
 *          which the loader runs further up is computed again. TERRACE_EINVAL also
 *          for more than 4,096 keys.
 * Threads: safe; `load` runs on the calling thread.
 */
TERRACE_API int terrace_fetch_many(terrace_cache *cache, const terrace_slice *keys, size_t count,
                                   terrace_load_many_fn *load, void *ctx,
                                   terrace_value **ret_values);

/**
 * The right to compute a key, alone among all threads and processes: fetch
 * without a callback, for bindings and for work that does not fit a loader.
 */
typedef struct terrace_lease terrace_lease;

/**
 * Get `key`, or the right to compute it, waiting for whoever holds it.
 *
 * wait_ms: how long to wait; 0 = the store's wait_ms. After that the lease is
 *          given all the same, so that a stuck owner stops nobody.
 * Returns: TERRACE_OK with *ret_value; TERRACE_ABSENT; TERRACE_MISS with *ret_lease, which the
 *          caller ends with terrace_lease_put() or terrace_lease_drop() on the
 *          same thread; what another caller's loader failed with, unless that
 *          looks like TERRACE_MISS; TERRACE_ECYCLE, TERRACE_EINVAL, TERRACE_ENOMEM.
 */
TERRACE_API int terrace_lease_begin(terrace_cache *cache, terrace_slice key, int64_t wait_ms,
                                    terrace_lease **ret_lease, terrace_value **ret_value);

/**
 * Store the value unless the key was written or invalidated since the lease
 * began, hand it to those who wait, and end the lease.
 *
 * options, ret: may be NULL.
 * Returns: TERRACE_OK; TERRACE_EINVAL (the lease goes on), TERRACE_ENOMEM (it has ended).
 */
TERRACE_API int terrace_lease_put(terrace_lease *lease, terrace_slice value,
                                  const terrace_put_options *options, terrace_value **ret);

/** Store that there is no value, as terrace_loaded_absent(), and end the lease. */
TERRACE_API int terrace_lease_absent(terrace_lease *lease);

/** End the lease without a value: the next one who waits gets it. NULL is fine. */
TERRACE_API void terrace_lease_drop(terrace_lease *lease);

#ifdef __cplusplus
}
#endif
#endif
