#include "util/hash.h"

#include "util/hash_wide.h"
#include "util/util.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* The C library has asked the processor already; the compiler's way asks it once more as a
 * program starts, which on a virtual machine takes 30 us. */
#if defined(HAVE_HASH_WIDE) && __has_include(<sys/platform/x86.h>)
#include <sys/platform/x86.h>
#endif
#ifdef CPU_FEATURE_ACTIVE
#define HAS_WIDE() CPU_FEATURE_ACTIVE(AVX2)
#else
#define HAS_WIDE() __builtin_cpu_supports("avx2")
#endif

/* From here on XXH3 works on stripes, and wide registers pay. */
enum { LONG = 512 };

struct hash128 terrace__hash128(const void *data, size_t size, uint64_t seed)
{
	XXH128_hash_t hash;

#ifdef HAVE_HASH_WIDE
	if (UNLIKELY(size >= LONG) && HAS_WIDE())
		return terrace__hash128_wide(data, size, seed);
#endif
	hash = XXH3_128bits_withSeed(data, size, seed);
	return (struct hash128){ hash.low64, hash.high64 };
}

uint64_t terrace__hash64(const void *data, size_t size, uint64_t seed)
{
	/* Of what is long they are the lower half of the 128. */
	if (UNLIKELY(size >= LONG))
		return terrace__hash128(data, size, seed).low;
	return XXH3_64bits_withSeed(data, size, seed);
}

struct hasher *terrace__hasher_new(void)
{
	XXH3_state_t *state = XXH3_createState();

	if (state)
		XXH3_128bits_reset(state);
	return (struct hasher *)state;
}

void terrace__hasher_free(struct hasher *hasher)
{
	XXH3_freeState((XXH3_state_t *)hasher);
}

void terrace__hasher_add(struct hasher *hasher, const void *data, size_t size)
{
	XXH3_128bits_update((XXH3_state_t *)hasher, data, size);
}

struct hash128 terrace__hasher_sum(const struct hasher *hasher)
{
	XXH128_hash_t hash = XXH3_128bits_digest((const XXH3_state_t *)hasher);

	return (struct hash128){ hash.low64, hash.high64 };
}

void terrace__hash128_bytes(struct hash128 hash, uint8_t ret[16])
{
	XXH128_canonical_t canonical;
	XXH128_hash_t value = { .low64 = hash.low, .high64 = hash.high };

	XXH128_canonicalFromHash(&canonical, value);
	for (int i = 0; i < 16; i++)
		ret[i] = canonical.digest[i];
}
