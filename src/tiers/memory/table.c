#include "tiers/memory/table.h"

#include "util/util.h"

#include <stdlib.h>

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
	table = aligned_alloc(64, (size + 63) & ~(size_t)63);
	if (!table)
		return NULL;
	memset(table, 0, size);
	table->mask = buckets - 1;
	return table;
}

uint64_t terrace__table_capacity(const struct table *table)
{
	return capacity_of(table->mask + 1);
}

void terrace__table_insert(struct table *table, struct entry *entry)
{
	for (uint64_t i = entry->hash & table->mask;; i = (i + 1) & table->mask) {
		struct bucket *bucket = &table->buckets[i];

		for (int k = 0; k < BUCKET_WORDS; k++) {
			if (atomic_load_explicit(&bucket->words[k], memory_order_relaxed) == 0) {
				atomic_store_explicit(&bucket->words[k], word_of(entry),
				                      memory_order_release);
				return;
			}
		}
		/* Counted before it can be found further on. */
		atomic_fetch_add_explicit(&bucket->passed, 1, memory_order_release);
	}
}

void terrace__table_remove(struct table *table, const struct entry *entry)
{
	uint64_t word = word_of(entry);

	for (uint64_t i = entry->hash & table->mask;; i = (i + 1) & table->mask) {
		struct bucket *bucket = &table->buckets[i];

		for (int k = 0; k < BUCKET_WORDS; k++) {
			if (atomic_load_explicit(&bucket->words[k], memory_order_relaxed) == word) {
				atomic_store_explicit(&bucket->words[k], 0, memory_order_release);
				return;
			}
		}
		atomic_fetch_sub_explicit(&bucket->passed, 1, memory_order_release);
	}
}

static void free_table(struct epoch_node *node)
{
	free((char *)node - offsetof(struct table, retired));
}

void terrace__table_retire(struct table *table)
{
	table->retired.free = free_table;
	terrace__epoch_retire(&table->retired);
}
