/* terrace__hash128() without a call for keys of the usual sizes: for the look-up of a hit. */
#ifndef UTIL_HASH_KEY_H
#define UTIL_HASH_KEY_H

#include "util/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static inline struct hash128 hash_key(const void *data, size_t size, uint64_t seed)
{
	XXH128_hash_t hash;

	if (__builtin_expect(size <= 16 || size > 128, 0))
		return terrace__hash128(data, size, seed);
	hash = XXH3_128bits_withSeed(data, size, seed);
	return (struct hash128){ hash.low64, hash.high64 };
}

#endif
