#include "tiers/tier.h"

#include "util/hash.h"

/*
 * The lowest bits are of the whole key, with the store's seed: of ten million keys of one
 * number, which differ behind it, a pair or two have one hash. Above them are the number's last two
 * digits, and then what neighbours share: 4,096 places are enough for millions of rows.
 */
enum {
	NEAR_BITS = 7,
	NEAR_DIGITS = 2,
	LOOK_BACK = 64, /* bytes in which a number is looked for */
};

#define BELOW(bits) ((UINT64_C(1) << (bits)) - 1)

static bool is_digit(uint8_t byte)
{
	return (uint8_t)(byte - '0') <= 9;
}

uint64_t terrace__row_hash(const struct tier_key *key)
{
	const uint8_t *bytes = key->key.data;
	size_t end = key->key.size, start = end > LOOK_BACK ? end - LOOK_BACK : 0, at;
	uint64_t near = 0;

	while (end > start && !is_digit(bytes[end - 1]))
		end--;
	if (end == start)
		return key->hash;
	at = end - 1;
	while (at > start && end - at < NEAR_DIGITS && is_digit(bytes[at - 1]))
		at--;
	for (size_t i = at; i < end; i++)
		near = near * 10 + (uint64_t)(bytes[i] - '0');
	return (terrace__hash64(bytes, at, key->cache) & ~BELOW(ROW_HASH_BITS + NEAR_BITS)) |
	       near << ROW_HASH_BITS | (key->hash & BELOW(ROW_HASH_BITS));
}
