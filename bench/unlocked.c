#include "unlocked.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS = 1 << 18 };

/* So that no compiler can leave the value unread. */
static _Thread_local volatile char sink;

struct entry {
	uint64_t hash;
	uint32_t key_size;
	char bytes[];
};

struct unlocked {
	const struct bench_keys *keys;
	uint64_t mask;
	struct entry **slots;
};

static uint64_t hash_of(const char *key, size_t size)
{
	uint64_t hash = UINT64_C(0x9e3779b97f4a7c15) ^ size;

	for (; size >= 8; size -= 8, key += 8) {
		uint64_t word;

		memcpy(&word, key, 8);
		hash = (hash ^ word) * UINT64_C(0xff51afd7ed558ccd);
		hash ^= hash >> 32;
	}
	while (size--)
		hash = (hash ^ (uint8_t)*key++) * UINT64_C(0xc4ceb9fe1a85ec53);
	return hash ^ hash >> 29;
}

void unlocked_get(void *ctx, uint64_t i)
{
	const struct unlocked *table = ctx;
	const struct bench_keys *keys = table->keys;
	uint64_t hash = hash_of(keys->text[i], keys->size[i]);

	for (uint64_t at = hash & table->mask;; at = (at + 1) & table->mask) {
		const struct entry *entry = table->slots[at];

		bench_require(entry);
		if (entry->hash == hash && entry->key_size == keys->size[i] &&
		    memcmp(entry->bytes, keys->text[i], keys->size[i]) == 0) {
			sink = entry->bytes[entry->key_size];
			return;
		}
	}
}

struct unlocked *unlocked_open(size_t value_bytes, const struct bench_keys *keys)
{
	struct unlocked *table = calloc(1, sizeof *table);

	table->keys = keys;
	table->mask = SLOTS - 1;
	table->slots = calloc(table->mask + 1, sizeof *table->slots);
	for (uint64_t i = 0; i < keys->count; i++) {
		struct entry *entry = malloc(sizeof *entry + keys->size[i] + value_bytes);
		uint64_t at;

		entry->hash = hash_of(keys->text[i], keys->size[i]);
		entry->key_size = (uint32_t)keys->size[i];
		memcpy(entry->bytes, keys->text[i], keys->size[i]);
		bench_fill(entry->bytes + keys->size[i], value_bytes, 1);
		for (at = entry->hash & table->mask; table->slots[at]; at = (at + 1) & table->mask)
			;
		table->slots[at] = entry;
	}
	return table;
}

void unlocked_close(struct unlocked *table)
{
	for (uint64_t at = 0; at <= table->mask; at++)
		free(table->slots[at]);
	free(table->slots);
	free(table);
}
