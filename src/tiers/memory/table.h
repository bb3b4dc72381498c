/*
 * A hash table of entries that readers search without a lock. Buckets are cache
 * lines of seven words, each an entry's address above 16 bits of its hash, and
 * before them a word of tags, eight other bits for each, so that one comparison
 * says which of them to look at. An entry that finds its bucket full goes to
 * the next one, and the buckets that it passed count it, so that a search knows
 * when to stop. Writers hold the shard's lock; they write an entry's word before
 * its tag, and a tag without its word finds nothing. A table that grew too small
 * is replaced by a larger one and retired by epochs.
 */
#ifndef MEMORY_TABLE_H
#define MEMORY_TABLE_H

#include "tiers/tier.h"

/* A test has the others compiled, too. */
#if defined(__SSE2__) && !defined(TABLE_PORTABLE)
#define TABLE_SSE2 1
#include <emmintrin.h>
#endif

enum { BUCKET_WORDS = 7 };

struct bucket {
	/* A byte for each word; in the highest how many entries of this or an
	 * earlier bucket lie further on. PASSED_MANY stays. */
	_Alignas(64) _Atomic uint64_t tags;
	_Atomic uint64_t words[BUCKET_WORDS];
};

enum { PASSED_SHIFT = 56, PASSED_MANY = 255 };

struct table {
	struct epoch_node retired;
	uint64_t mask; /* of a hash: how far from the first its bucket begins */
	struct bucket buckets[];
};

/* The place of a hash in a table: its lowest bits say nothing more, so that no shift is needed. */
static inline struct bucket *bucket_of(struct table *table, uint64_t hash)
{
	return (struct bucket *)((char *)table->buckets + (hash & table->mask));
}

/* The one behind it, or the first. */
static inline struct bucket *bucket_next(struct table *table, const struct bucket *bucket)
{
	uint64_t at = (uint64_t)((const char *)(bucket + 1) - (const char *)table->buckets);

	return bucket_of(table, at);
}

static inline uint64_t table_buckets(const struct table *table)
{
	return table->mask / sizeof(struct bucket) + 1;
}

static inline uint64_t word_of(const struct entry *entry)
{
	return (uint64_t)(uintptr_t)entry << 16 | entry->hash >> 48;
}

static inline struct entry *word_entry(uint64_t word)
{
	return (struct entry *)(uintptr_t)(word >> 16);
}

static inline uint64_t tag_of(uint64_t hash)
{
	return hash >> 40 & 255;
}

/* The tags that are this one, a bit for each; and without SSE2 now and then one that is not. */
static inline uint64_t tags_find(uint64_t tags, uint64_t tag)
{
	uint64_t wanted = tag * UINT64_C(0x01010101010101);
#ifdef TABLE_SSE2
	__m128i same = _mm_cmpeq_epi8(_mm_cvtsi64_si128((int64_t)tags),
	                              _mm_cvtsi64_si128((int64_t)wanted));

	return (uint64_t)_mm_movemask_epi8(same) & 0x7f;
#else
	uint64_t apart = tags ^ wanted;

	return (apart - UINT64_C(0x01010101010101)) & ~apart & UINT64_C(0x80808080808080);
#endif
}

/* Which word a bit of tags_find() is of. */
static inline unsigned tag_word(uint64_t found)
{
#ifdef TABLE_SSE2
	return (unsigned)__builtin_ctzll(found);
#else
	return (unsigned)__builtin_ctzll(found) / 8;
#endif
}

typedef uint64_t two_words __attribute__((vector_size(16)));

static inline two_words apart_at(const uint8_t *a, const uint8_t *b, size_t at)
{
	two_words left, right;

	memcpy(&left, a + at, sizeof left);
	memcpy(&right, b + at, sizeof right);
	return left ^ right;
}

static inline bool same_few_bytes(const uint8_t *a, const uint8_t *b, size_t size)
{
	uint64_t left[2], right[2];

	if (size < 8) {
		while (size > 0 && a[size - 1] == b[size - 1])
			size--;
		return size == 0;
	}
	memcpy(&left[0], a, 8);
	memcpy(&right[0], b, 8);
	memcpy(&left[1], a + size - 8, 8);
	memcpy(&right[1], b + size - 8, 8);
	return ((left[0] ^ right[0]) | (left[1] ^ right[1])) == 0;
}

static inline bool is_nothing(two_words words)
{
#ifdef TABLE_SSE2
	__m128i bytes;

	memcpy(&bytes, &words, sizeof bytes);
	return _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_setzero_si128())) == 0xffff;
#else
	return (words[0] | words[1]) == 0;
#endif
}

/* Mostly they are the same, and short: a call would cost more than to compare. */
static inline bool same_bytes(const uint8_t *a, const uint8_t *b, size_t size)
{
	two_words apart;

	if (__builtin_expect(size < 16, 0))
		return same_few_bytes(a, b, size);
	apart = apart_at(a, b, 0) | apart_at(a, b, size - 16);
	for (size_t at = 16; at + 16 < size; at += 16)
		apart |= apart_at(a, b, at);
	return is_nothing(apart);
}

static inline bool entry_is(const struct entry *entry, terrace_slice key)
{
	return entry->key_size == (uint32_t)key.size &&
	       same_bytes(entry_key(entry), key.data, key.size);
}

static inline bool word_fits(uint64_t word, uint64_t hash)
{
	return (uint16_t)word == (uint16_t)(hash >> 48) && word_entry(word);
}

/* What a hit reads: some of the head, the key, and the value, which lies behind that. */
static inline void entry_read_ahead(const struct entry *entry, size_t key_size)
{
	const char *line = (const char *)entry + offsetof(struct entry, meta);

	__builtin_prefetch(line);
	__builtin_prefetch(line + 64);
	__builtin_prefetch((const char *)entry + entry_value_behind(key_size));
}

static inline void bucket_read_ahead(struct bucket *bucket, const struct tier_key *key)
{
	uint64_t tags = atomic_load_explicit(&bucket->tags, memory_order_relaxed);

	for (uint64_t found = tags_find(tags, tag_of(key->hash)); found; found &= found - 1) {
		uint64_t word = atomic_load_explicit(&bucket->words[tag_word(found)],
		                                     memory_order_relaxed);

		if (word_fits(word, key->hash))
			entry_read_ahead(word_entry(word), key->key.size);
	}
}

/*
 * The search as it mostly goes: the first candidate of the first bucket. Within an
 * epoch. NULL when that is not it, and all has to be looked at.
 */
static inline struct entry *table_find_fast(struct table *table, terrace_slice key, uint64_t hash)
{
	struct bucket *bucket = bucket_of(table, hash);
	uint64_t tags = atomic_load_explicit(&bucket->tags, memory_order_acquire);
	uint64_t found = tags_find(tags, tag_of(hash)), word;
	struct entry *entry;

	if (__builtin_expect(found == 0, 0))
		return NULL;
	word = atomic_load_explicit(&bucket->words[tag_word(found)], memory_order_acquire);
	if (__builtin_expect(!word_fits(word, hash), 0))
		return NULL;
	entry = word_entry(word);
	/* The value lies behind the key: it is asked for before the head says how long that is. */
	__builtin_prefetch((const char *)entry + entry_value_behind(key.size));
	return __builtin_expect(entry_is(entry, key), 1) ? entry : NULL;
}

/*
 * The word that holds the key's entry and what it held; NULL when none does.
 * Within an epoch, or under the lock.
 */
static inline _Atomic uint64_t *table_find(struct table *table, const struct tier_key *key,
                                           struct entry **ret)
{
	struct bucket *bucket = bucket_of(table, key->hash);

	/* Once around at most: in a small table every bucket may have been passed. */
	for (uint64_t n = table_buckets(table); n > 0; n--, bucket = bucket_next(table, bucket)) {
		uint64_t tags = atomic_load_explicit(&bucket->tags, memory_order_acquire);
		uint64_t found = tags_find(tags, tag_of(key->hash));

		for (; found; found &= found - 1) {
			_Atomic uint64_t *at = &bucket->words[tag_word(found)];
			uint64_t word = atomic_load_explicit(at, memory_order_acquire);
			struct entry *entry = word_entry(word);

			if (__builtin_expect(!word_fits(word, key->hash), 0))
				continue;
			entry_read_ahead(entry, key->key.size);
			if (__builtin_expect(entry_is(entry, key->key), 1)) {
				*ret = entry;
				return at;
			}
		}
		if (__builtin_expect(tags >> PASSED_SHIFT == 0, 1))
			break;
	}
	return NULL;
}

/* For walking over all words, under the lock; NULL where there is no entry. */
static inline uint64_t table_words(const struct table *table)
{
	return table_buckets(table) * BUCKET_WORDS;
}

static inline struct entry *table_at(struct table *table, uint64_t at)
{
	_Atomic uint64_t *word = &table->buckets[at / BUCKET_WORDS].words[at % BUCKET_WORDS];

	return word_entry(atomic_load_explicit(word, memory_order_relaxed));
}

/* Room for `entries`, three quarters full at most; NULL when out of memory. */
struct table *terrace__table_new(uint64_t entries);
uint64_t terrace__table_capacity(const struct table *table);
void terrace__table_insert(struct table *table, struct entry *entry);
void terrace__table_remove(struct table *table, const struct entry *entry);
void terrace__table_retire(struct table *table);

#endif
