/*
 * Caches and values: get, put and their relatives.
 *
 * Common to all functions here:
 *   - a NULL cache is valid and holds nothing: reads miss, writes return
 *     TERRACE_OK and keep nothing;
 *   - keys are 1 to TERRACE_KEY_MAX bytes, anything else is TERRACE_EINVAL;
 *   - every function may return TERRACE_EFORK in a child that inherited the
 *     handle;
 *   - a failure of a tier while reading is counted and logged, and is a miss;
 *   - outputs are written only on success.
 */
#ifndef TERRACE_CACHE_H
#define TERRACE_CACHE_H

#include <terrace/base.h>
#include <terrace/policy.h>
#include <terrace/sources.h>
#include <terrace/store.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Open a cache of a store, making it where needed.
 *
 * The same name opened twice is the same handle, counted; the policy of the
 * first open stands. name may be NULL: "default". policy may be NULL. A NULL
 * store gives a NULL cache and TERRACE_OK.
 *
 * Owns:    the caller closes *ret with terrace_cache_close().
 * Returns: TERRACE_OK; TERRACE_EINVAL (an empty or over-long name, '/', control
 *          characters, a contradictory policy); TERRACE_ECONFIG (settings that
 *          contradict each other, wherever they are from); TERRACE_EACCESS (a new one, where
 *          the store may only be read); TERRACE_EFULL (1,024 caches exist), TERRACE_EIO,
 *          TERRACE_ENOMEM.
 * Threads: safe.
 */
TERRACE_API int terrace_cache_open(terrace *store, const char *name, const terrace_policy *policy,
                                   terrace_cache **ret);

/** Close one handle; NULL is fine. Pinned values stay readable. */
TERRACE_API void terrace_cache_close(terrace_cache *cache);

/** The cache's name; "" for NULL. Owned by the cache. */
TERRACE_API const char *terrace_cache_name(const terrace_cache *cache);

/* --- values --------------------------------------------------------------- */

/** The bytes; NULL for a decoded form. Valid while pinned. NULL value: NULL. */
TERRACE_API const void *terrace_data(const terrace_value *value);
/** The number of bytes; a form's weight. */
TERRACE_API size_t terrace_size(const terrace_value *value);
/** data and size in one slice. */
TERRACE_API terrace_slice terrace_slice_of(const terrace_value *value);
/** The decoded object of a cache with a form; NULL otherwise. Valid while pinned. */
TERRACE_API void *terrace_object(const terrace_value *value);
/** Which tier served this value; 0 for one that was just computed or a default. */
TERRACE_API unsigned terrace_value_tier(const terrace_value *value);
/** True for a value that had expired, which only fetch gives, where the policy lets it. */
TERRACE_API bool terrace_value_stale(const terrace_value *value);
/**
 * Unpin. NULL is fine. The value may outlive its cache and its store.
 * Cost: one atomic operation.
 */
TERRACE_API void terrace_release(terrace_value *value);

/* --- reading ---------------------------------------------------------------- */

/**
 * Look up `key`, nearest tier first; a hit below is copied into L1.
 *
 * Owns:    on TERRACE_OK the caller releases *ret with terrace_release().
 * Returns: TERRACE_OK, TERRACE_MISS, TERRACE_EINVAL, TERRACE_ENOMEM.
 * Threads: safe.
 * Cost:    O(1). An L1 hit of an entry without sources takes no lock, copies
 *          nothing, allocates nothing and makes no system call; one stat for
 *          each source otherwise, as the cache's check policy says.
 */
TERRACE_API int terrace_get(terrace_cache *cache, terrace_slice key, terrace_value **ret);

/**
 * As terrace_get(), but a miss gives a value that holds a copy of `fallback`.
 *
 * Returns: TERRACE_OK, TERRACE_EINVAL, TERRACE_ENOMEM.
 */
TERRACE_API int terrace_get_or(terrace_cache *cache, terrace_slice key, terrace_slice fallback,
                               terrace_value **ret);

/**
 * Look up `count` keys. ret_values[i] is a pinned value or NULL.
 *
 * Returns: TERRACE_OK with the number of hits in *ret_hits (may be NULL),
 *          TERRACE_EINVAL (nothing is written), TERRACE_ENOMEM.
 */
TERRACE_API int terrace_get_many(terrace_cache *cache, const terrace_slice *keys, size_t count,
                                 terrace_value **ret_values, size_t *ret_hits);

/**
 * As terrace_get(), but the encoded bytes of a cache with a form, undecoded.
 */
TERRACE_API int terrace_get_encoded(terrace_cache *cache, terrace_slice key, terrace_value **ret);

/**
 * Is there a live entry? Reads no value from disk, copies nothing up.
 *
 * Returns: TERRACE_OK, TERRACE_MISS, TERRACE_EINVAL.
 */
TERRACE_API int terrace_exists(terrace_cache *cache, terrace_slice key);

/* --- writing ------------------------------------------------------------------ */

/** What an entry carries besides its bytes. Fields left at zero mean none. */
typedef struct terrace_put_options {
	size_t size;             /* set by TERRACE_PUT_INIT */
	int64_t ttl_ms;          /* TERRACE_TTL_FOREVER, _NONE, milliseconds; 0 = the cache's */
	const char *const *tags; /* borrowed during the call */
	size_t tag_count;        /* at most 64 */
	const terrace_sources *sources; /* borrowed during the call */
	uint64_t cost_us; /* what it cost to make; weighs in eviction and time saved */
	/*
	 * The value was computed under this lease of the same cache: store it,
	 * under whichever key, only if nothing was invalidated by clear, glob,
	 * tag or source since. Where something was, put returns TERRACE_MISS.
	 */
	const struct terrace_lease *lease;
	int64_t idle_ms; /* see terrace_policy; TERRACE_TTL_FOREVER: none; 0 = the cache's */
	/* IMMEDIATE, or any other for all tiers; 0 = the cache's. TERRACE_EINVAL where
	 * the cache has no L1 that could take it. */
	terrace_strategy strategy;
} terrace_put_options;
TERRACE_DEFINE_INIT(terrace_put_options)
#define TERRACE_PUT_INIT terrace_put_options_init()

/**
 * Store a copy of `value`, replacing what is there. When this has returned, no
 * get that begins later in any process returns the older value.
 *
 * options: may be NULL.
 * Returns: TERRACE_OK; TERRACE_MISS (see lease above); TERRACE_EFULL (the disk is
 *          full; the older value is gone where that could still be written); TERRACE_ETOOBIG (larger than any
 *          tier of the cache keeps; the older value is gone); TERRACE_EBUSY,
 *          TERRACE_EIO, TERRACE_EINVAL, TERRACE_ENOMEM.
 * Threads: safe; writes of all threads that wait together share a transaction.
 */
TERRACE_API int terrace_put(terrace_cache *cache, terrace_slice key, terrace_slice value,
                            const terrace_put_options *options);

typedef struct terrace_item {
	terrace_slice key;
	terrace_slice value;
} terrace_item;

/**
 * Store many values in one transaction, or of those that have files of their own 64 in
 * each; in memory alone and where values wait to be written, one after the other, so that
 * others may see some without the rest. Of equal keys the last one wins.
 *
 * Returns: as terrace_put(); after a failure some items may have been stored.
 */
TERRACE_API int terrace_put_many(terrace_cache *cache, const terrace_item *items, size_t count,
                                 const terrace_put_options *options);

/**
 * Store only if no live entry is there, atomically among all processes (among
 * the threads of this process for a cache that lives in memory alone).
 *
 * Returns: TERRACE_OK when stored, TERRACE_EXISTS, or as terrace_put().
 */
TERRACE_API int terrace_add(terrace_cache *cache, terrace_slice key, terrace_slice value,
                            const terrace_put_options *options);

/**
 * Add `delta` to a number kept as decimal text, atomically as terrace_add();
 * an absent entry counts as `initial`. Time to live, tags and sources stand.
 *
 * Returns: TERRACE_OK with the new number in *ret (may be NULL); TERRACE_EINVAL
 *          when the value is no number or the sum leaves 64 bits; or as
 *          terrace_put().
 */
TERRACE_API int terrace_incr(terrace_cache *cache, terrace_slice key, int64_t delta,
                             int64_t initial, int64_t *ret);

/**
 * Remove an entry from all tiers, in all processes.
 *
 * Returns: TERRACE_OK; TERRACE_MISS when there was none; TERRACE_EIO,
 *          TERRACE_EFULL, TERRACE_EBUSY, TERRACE_EINVAL.
 */
TERRACE_API int terrace_delete(terrace_cache *cache, terrace_slice key);

/** Remove many in one transaction; *ret_count (may be NULL) says how many there were. */
TERRACE_API int terrace_delete_many(terrace_cache *cache, const terrace_slice *keys, size_t count,
                                    uint64_t *ret_count);

/**
 * Give a live entry a new time to live from now.
 *
 * ttl_ms:  as in terrace_put_options.
 * Returns: TERRACE_OK, TERRACE_MISS, or as terrace_delete().
 */
TERRACE_API int terrace_touch(terrace_cache *cache, terrace_slice key, int64_t ttl_ms);

/**
 * Remove every entry from the given tiers (0: all of them). Clearing L1 alone
 * drops this process's memory only.
 *
 * Returns: TERRACE_OK with the number of entries in *ret_count (may be NULL), as of
 *          terrace_invalidate().
 */
TERRACE_API int terrace_clear(terrace_cache *cache, unsigned tiers, uint64_t *ret_count);

/* --- choosing many ------------------------------------------------------------ */

typedef enum terrace_match_kind {
	TERRACE_MATCH_ALL = 0,
	TERRACE_MATCH_KEY = 1,
	TERRACE_MATCH_PREFIX = 2,
	TERRACE_MATCH_GLOB = 3, /* '*' any bytes, '?' one byte, [a-z], [!a-z], '\' escapes */
	TERRACE_MATCH_TAG = 4,
	TERRACE_MATCH_SOURCE = 5, /* entries made from this file; the path is made absolute */
} terrace_match_kind;

typedef struct terrace_match {
	terrace_match_kind kind;
	terrace_slice text;
} terrace_match;

static inline terrace_match terrace_match_text(terrace_match_kind kind, const char *text)
{
	terrace_match match;
	match.kind = kind;
	match.text = terrace_str(text);
	return match;
}

/**
 * Remove what matches, from all tiers, in all processes.
 *
 * match:   NULL means all.
 * Returns: TERRACE_OK with the number of entries in *ret_count (may be NULL;
 *          none is no error; where the cache has a disk, values that are in memory alone
 *          go without being counted); TERRACE_EINVAL (a malformed glob), or as
 *          terrace_delete().
 * Cost:    KEY, TAG, SOURCE and ALL go by index. PREFIX, and GLOB that begins
 *          with plain text, look at every key that is in no index yet, and put an
 *          eighth of those into one, for the next that looks; other GLOBs, and
 *          those of a cache in memory alone, look at every key.
 */
TERRACE_API int terrace_invalidate(terrace_cache *cache, const terrace_match *match,
                                   uint64_t *ret_count);

/**
 * Iterates over live keys, in the order in which they were first stored (of a
 * cache in memory alone: in none). What several processes have stored within a
 * tenth of a second may be in another order among them. Entries that come or go
 * meanwhile may be seen or not.
 */
typedef struct terrace_keys terrace_keys;

/**
 * match:   NULL means all.
 * Owns:    the caller closes *ret with terrace_keys_close().
 * Returns: TERRACE_OK, TERRACE_EINVAL, TERRACE_EIO, TERRACE_ENOMEM.
 * Threads: an iterator belongs to one thread at a time.
 */
TERRACE_API int terrace_keys_open(terrace_cache *cache, const terrace_match *match,
                                  terrace_keys **ret);
/** As terrace_keys_open(), the other way round: the latest arrival first. */
TERRACE_API int terrace_keys_open_newest(terrace_cache *cache, const terrace_match *match,
                                         terrace_keys **ret);
/** The next key, valid until the next call: TERRACE_OK, or TERRACE_MISS at the end. */
TERRACE_API int terrace_keys_next(terrace_keys *keys, terrace_slice *ret);
TERRACE_API void terrace_keys_close(terrace_keys *keys);

/* --- keeping house ------------------------------------------------------------ */

/**
 * Drop what is expired, sweep what was cleared, and make room down to the
 * limits. cache may be NULL for every cache of the store.
 *
 * Returns: TERRACE_OK with the number of entries removed in *ret_count (may be NULL).
 */
TERRACE_API int terrace_cleanup(terrace *store, terrace_cache *cache, uint64_t *ret_count);

/**
 * Look at the sources of every entry of the cache and remove the entries of
 * which one changed: what the manual check policy waits for.
 */
TERRACE_API int terrace_check_sources(terrace_cache *cache, uint64_t *ret_count);

#ifdef __cplusplus
}
#endif
#endif
