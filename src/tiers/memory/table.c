#include "tiers/memory/table.h"

#include "util/slab.h"
#include "util/util.h"

#include <stdlib.h>

/* Some hundreds of what is smaller may wait to be freed. */
enum { LARGE_BUCKETS = 256 };

/* Above 3/4 searches grow long; the capacity keeps below that. */
static uint64_t capacity_of(uint64_t buckets)
{
	return buckets * BUCKET_WORDS * 3 / 4;
}

struct table *terrace__table_new(uint64_t entries)
{
	uint64_t buckets = 1;
	struct table *table;
	size_t size;

	while (capacity_of(buckets) < entries)
		buckets *= 2;
	size = sizeof *table + buckets * sizeof table->buckets[0];
	table = terrace__slab_table(size);
	if (!table)
		return NULL;
	memset(table, 0, size);
	table->mask = (buckets - 1) * sizeof(struct bucket);
	return table;
}

uint64_t terrace__table_capacity(const struct table *table)
{
	return capacity_of(table_buckets(table));
}

/* Which word of a bucket is this; BUCKET_WORDS when none is. */
static unsigned word_at(const struct bucket *bucket, uint64_t word)
{
	unsigned k = 0;

	while (k < BUCKET_WORDS &&
	       atomic_load_explicit(&bucket->words[k], memory_order_relaxed) != word)
		k++;
	return k;
}

static void bucket_passed(struct bucket *bucket, int change)
{
	uint64_t tags = atomic_load_explicit(&bucket->tags, memory_order_relaxed);

	if (tags >> PASSED_SHIFT == PASSED_MANY)
		return;
	tags += (uint64_t)change << PASSED_SHIFT;
	atomic_store_explicit(&bucket->tags, tags, memory_order_release);
}

void terrace__table_insert(struct table *table, struct entry *entry)
{
	struct bucket *bucket = bucket_of(table, entry->hash);

	for (;; bucket = bucket_next(table, bucket)) {
		unsigned k = word_at(bucket, 0);
		uint64_t tags;

		if (k < BUCKET_WORDS) {
			tags = atomic_load_explicit(&bucket->tags, memory_order_relaxed);
			tags &= ~(UINT64_C(255) << 8 * k);
			tags |= tag_of(entry->hash) << 8 * k;
			atomic_store_explicit(&bucket->words[k], word_of(entry),
			                      memory_order_release);
			atomic_store_explicit(&bucket->tags, tags, memory_order_release);
			return;
		}
		/* Counted before it can be found further on. */
		bucket_passed(bucket, +1);
	}
}

void terrace__table_remove(struct table *table, const struct entry *entry)
{
	struct bucket *bucket = bucket_of(table, entry->hash);
	uint64_t word = word_of(entry);

	for (;; bucket = bucket_next(table, bucket)) {
		unsigned k = word_at(bucket, word);

		if (k < BUCKET_WORDS) {
			atomic_store_explicit(&bucket->words[k], 0, memory_order_release);
			return;
		}
		bucket_passed(bucket, -1);
	}
}

static void free_table(struct epoch_node *node)
{
	free((char *)node - offsetof(struct table, retired));
}

void terrace__table_retire(struct table *table)
{
	static const struct epoch_kind kind = { .free = free_table };

	bool large = table_buckets(table) > LARGE_BUCKETS;

	table->retired.kind = &kind;
	terrace__epoch_retire(&table->retired);
	if (large)
		terrace__epoch_nudge();
}
