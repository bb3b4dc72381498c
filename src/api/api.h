/* What the files of the api have in common: checking handles and arguments. */
#ifndef API_API_H
#define API_API_H

#include "core/caches.h"
#include "core/lookup.h"

#include <terrace/terrace.h>

#include <limits.h>

/* A handle tells which tier served it in the low bits of its address. */
static inline terrace_value *value_of(struct entry *entry, unsigned tier)
{
	return (terrace_value *)((uintptr_t)entry | tier);
}

static inline struct entry *value_entry(const terrace_value *value)
{
	return (struct entry *)((uintptr_t)value & ~(uintptr_t)7);
}

/*
 * TERRACE_OK for a handle of this process. Aborts on what is no handle: that is
 * a bug in the program which must not go on.
 */
int terrace__check_store(const struct terrace *store);
int terrace__check_cache(const struct terrace_cache *cache);

int terrace__check_key(terrace_slice key);
/* For functions that take a cache: NULL and disabled ones hold nothing. */
static inline bool holds_nothing(const terrace_cache *cache)
{
	return !cache || cache->tiers == 0;
}

/* Copies a caller's match; TERRACE_EINVAL for a malformed one. The path of a SOURCE goes to `path`. */
int terrace__check_match(const terrace_match *match, terrace_match *ret, char *path,
                         size_t path_size);

/* A copy of the caller's options, whatever their age. NULL is fine. */
int terrace__check_put_options(const terrace_put_options *options, terrace_put_options *ret);

#endif
