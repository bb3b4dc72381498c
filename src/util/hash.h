/*
 * Hashing: XXH3 (Collet, 2019..2023), 64 and 128 bit. Fast, of good quality,
 * and no defence against somebody who makes collisions on purpose; so keys are
 * always compared in full, and their hashes are seeded for each store.
 */
#ifndef UTIL_HASH_H
#define UTIL_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash128 {
	uint64_t low;
	uint64_t high;
};

struct hash128 terrace__hash128(const void *data, size_t size, uint64_t seed);
uint64_t terrace__hash64(const void *data, size_t size, uint64_t seed);

/* Piecewise, for what does not lie in one piece. */
struct hasher;
struct hasher *terrace__hasher_new(void);
void terrace__hasher_free(struct hasher *hasher);
void terrace__hasher_add(struct hasher *hasher, const void *data, size_t size);
struct hash128 terrace__hasher_sum(const struct hasher *hasher);

/* XXH's canonical form: big-endian, high half first. */
void terrace__hash128_bytes(struct hash128 hash, uint8_t ret[16]);

#endif
