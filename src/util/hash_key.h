/* terrace__hash64() without a call for keys of the usual sizes: for the look-up of a hit. */
#ifndef UTIL_HASH_KEY_H
#define UTIL_HASH_KEY_H

#include "util/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static inline uint64_t hash_key(const void *data, size_t size, uint64_t seed)
{
	if (__builtin_expect(size <= 16 || size > 128, 0))
		return terrace__hash64(data, size, seed);
	return XXH3_64bits_withSeed(data, size, seed);
}

#endif
