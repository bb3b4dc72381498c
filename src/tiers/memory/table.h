/*
 * A hash table of entries that readers search without a lock. Buckets are cache
 * lines of seven words, each an entry's address with 16 bits of its hash; an
 * entry that finds its bucket full goes to the next one, and the buckets that
 * it passed count it, so that a search knows when to stop. Writers hold the
 * shard's lock. A table that grew too small is replaced by a larger one and
 * retired by epochs.
 */
#ifndef MEMORY_TABLE_H
#define MEMORY_TABLE_H

#include "tiers/tier.h"

enum { BUCKET_WORDS = 7 };

struct bucket {
	_Alignas(64) _Atomic uint64_t words[BUCKET_WORDS];
	_Atomic uint32_t passed; /* entries of this or an earlier bucket that lie further on */
};

struct table {
	struct epoch_node retired;
	uint64_t mask;
	struct bucket buckets[];
};

static inline uint64_t word_of(const struct entry *entry)
{
	return (uint64_t)(uintptr_t)entry | (entry->hash >> 48 << 48);
}

static inline struct entry *word_entry(uint64_t word)
{
	return (struct entry *)(uintptr_t)(word & UINT64_C(0xffffffffffff));
}

static inline bool entry_is(const struct entry *entry, const struct tier_key *key)
{
	return entry->hash == key->hash && entry->key_size == key->key.size &&
	       memcmp(entry_key(entry), key->key.data, key->key.size) == 0;
}

/* An entry's first lines, and its value's, which lies behind the key. */
static inline void entry_read_ahead(const struct entry *entry, const struct tier_key *key)
{
	const char *line = (const char *)entry;

	__builtin_prefetch(line);
	__builtin_prefetch(line + sizeof *entry);
	__builtin_prefetch(line + sizeof *entry + ((key->key.size + 15) & ~(size_t)15));
}

static inline void bucket_read_ahead(struct bucket *bucket, const struct tier_key *key)
{
	for (unsigned k = 0; k < BUCKET_WORDS; k++) {
		uint64_t word = atomic_load_explicit(&bucket->words[k], memory_order_relaxed);

		if (word && word >> 48 == key->hash >> 48)
			entry_read_ahead(word_entry(word), key);
	}
}

/*
 * The word that holds the key's entry and what it held; NULL when none does.
 * Within an epoch, or under the lock. All tags of a bucket are compared before
 * the first branch: where in it the entry lies cannot be predicted.
 */
static inline _Atomic uint64_t *table_find(struct table *table, const struct tier_key *key,
                                           struct entry **ret)
{
	uint64_t tag = key->hash >> 48;

	/* Once around at most: in a small table every bucket may have been passed. */
	for (uint64_t n = 0; n <= table->mask; n++) {
		struct bucket *bucket = &table->buckets[(key->hash + n) & table->mask];
		uint64_t words[BUCKET_WORDS];
		unsigned found = 0;

		for (unsigned k = 0; k < BUCKET_WORDS; k++) {
			words[k] = atomic_load_explicit(&bucket->words[k], memory_order_acquire);
			found |= (unsigned)(words[k] >> 48 == tag) << k;
		}
		for (; found; found &= found - 1) {
			unsigned k = (unsigned)__builtin_ctz(found);
			struct entry *entry = word_entry(words[k]);

			entry_read_ahead(entry, key);
			if (entry && entry_is(entry, key)) {
				*ret = entry;
				return &bucket->words[k];
			}
		}
		if (atomic_load_explicit(&bucket->passed, memory_order_acquire) == 0)
			break;
	}
	return NULL;
}

/* For walking over all words, under the lock; NULL where there is no entry. */
static inline uint64_t table_words(const struct table *table)
{
	return (table->mask + 1) * BUCKET_WORDS;
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
