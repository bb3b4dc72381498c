/* terrace__hash64() without a call for keys of the usual sizes: for the look-up of a hit. */
#ifndef UTIL_HASH_KEY_H
#define UTIL_HASH_KEY_H

#include "util/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { HASH_KEY_MOST = 128 };

/* Of 1 to HASH_KEY_MOST bytes. */
static inline uint64_t hash_key(const void *data, size_t size, uint64_t seed)
{
	if (size - 1 >= HASH_KEY_MOST)
		__builtin_unreachable();
	return XXH3_64bits_withSeed(data, size, seed);
}

#endif
