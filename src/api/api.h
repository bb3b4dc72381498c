/* What the files of the api have in common: checking handles and arguments. */
#ifndef API_API_H
#define API_API_H

#include "core/ahead.h"
#include "core/caches.h"
#include "core/flight.h"
#include "core/lookup.h"
#include "core/present.h"
#include "util/util.h"

#include <terrace/terrace.h>

#include <limits.h>

/* Entries are aligned to 16 bytes: a handle tells in the low bits of its address which tier
 * served it, and whether it had expired. */
enum { VALUE_STALE = 8 };

static inline terrace_value *value_of(struct entry *entry, unsigned tier)
{
	return (terrace_value *)((uintptr_t)entry | tier);
}

static inline struct entry *value_entry(const terrace_value *value)
{
	return (struct entry *)((uintptr_t)value & ~(uintptr_t)15);
}

/*
 * TERRACE_OK for a handle of this process. Aborts on what is no handle: that is
 * a bug in the program which must not go on.
 */
int terrace__check_store(const struct terrace *store);
int terrace__check_cache_again(const struct terrace_cache *cache);
int terrace__check_key_again(terrace_slice key);

static inline int terrace__check_cache(const struct terrace_cache *cache)
{
	if (LIKELY(cache && cache->magic == CACHE_MAGIC &&
	           cache->store->forks ==
	               atomic_load_explicit(&terrace__forks, memory_order_relaxed)))
		return TERRACE_OK;
	return terrace__check_cache_again(cache);
}

static inline int terrace__check_key(terrace_slice key)
{
	if (LIKELY(key.data && key.size > 0 && key.size <= TERRACE_KEY_MAX))
		return TERRACE_OK;
	return terrace__check_key_again(key);
}

/* The same for calls that write: TERRACE_EACCESS where the store may only be read. */
int terrace__check_writing(struct terrace_cache *cache);

/* For functions that take a cache: NULL and disabled ones hold nothing. */
static inline bool holds_nothing(const terrace_cache *cache)
{
	return !cache || cache->tiers == 0;
}

/* After a look-up under a strategy (0: the cache's), with its outcome. */
static inline void asked_for(terrace_cache *cache, terrace_slice key, terrace_strategy strategy,
                             int rc, unsigned tier)
{
	if (strategy == TERRACE_STRATEGY_DEFAULT)
		strategy = cache->strategy;
	if (__builtin_expect(strategy > TERRACE_STRATEGY_STANDARD, 0))
		terrace__ahead_asked(cache, key, strategy,
		                     rc == TERRACE_OK || rc == TERRACE_ABSENT ? tier & 7 : 0);
}

/* Copies a caller's match; TERRACE_EINVAL for a malformed one. The path of a SOURCE goes to `path`. */
int terrace__check_match(const terrace_match *match, terrace_match *ret, char *path,
                         size_t path_size);

/* fetch.c: run the loader under its lease, store and hand out what comes, end the lease. */
int terrace__compute(struct terrace_lease *lease, terrace_load_fn *load, void *ctx,
                     terrace_value **ret);
/* As terrace__lease_begin(), with the value in its public shape, and an expired one for a failure. */
int terrace__fetch_begin(struct terrace_cache *cache, terrace_slice key, int64_t wait_ms,
                         enum flight_shape shape, struct terrace_lease **ret_lease,
                         terrace_value **ret, int *ret_code);
/* Without a cache (NULL), or a lease of one: the loader, and nothing else. */
int terrace__load_alone(struct terrace_cache *cache, terrace_slice key, enum flight_shape shape,
                        terrace_load_fn *load, void *ctx, terrace_value **ret);

/*
 * As terrace_get_to() of a cache that holds something; TERRACE_ABSENT where that is what it
 * holds. What the sink returned goes to *ret_sink: it may be any number, that of a status too.
 */
int terrace__give_to(terrace_cache *cache, terrace_slice key, uint64_t offset, uint64_t length,
                     terrace_sink_fn *sink, void *ctx, uint64_t *ret_given, int *ret_sink);

/* One that there is, and that the cache can do. */
int terrace__check_strategy(const terrace_cache *cache, terrace_strategy strategy);
/* A copy of the caller's options, whatever their age. NULL is fine. */
int terrace__check_put_options(const terrace_cache *cache, const terrace_put_options *options,
                               terrace_put_options *ret);

#endif
