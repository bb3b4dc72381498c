/* A hit in memory, pinned, among 100,000 entries, beside a table that does nothing else. */
#include "harness.h"

#include <terrace/terrace.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRIES = 100000 };

static struct bench_keys keys;

/* So that no compiler can leave the value unread. */
static _Thread_local volatile char sink;

/* --- ours -------------------------------------------------------------------------------------- */

static void get(void *ctx, uint64_t i)
{
	terrace_value *value;

	bench_require(terrace_get(ctx, terrace_bytes(keys.text[i], keys.size[i]), &value) ==
	              TERRACE_OK);
	sink = *(const char *)terrace_data(value);
	terrace_release(value);
}

static void put(void *ctx, uint64_t i)
{
	char key[48], value[100] = "";
	int size = snprintf(key, sizeof key, "new:%020llu", (unsigned long long)i);

	bench_require(terrace_put(ctx, terrace_bytes(key, (size_t)size),
	                          terrace_bytes(value, sizeof value), NULL) == TERRACE_OK);
}

static void bench_ours(terrace *store, size_t value_bytes, unsigned threads)
{
	struct bench bench = { .group = "l1",
		               .name = "terrace",
		               .operation = "get pinned",
		               .value_bytes = value_bytes,
		               .threads = threads,
		               .operations = 2000000,
		               .limit = ENTRIES,
		               .fn = get };
	terrace_policy policy = TERRACE_POLICY_INIT;
	char name[32], *value = malloc(value_bytes);
	terrace_cache *cache;

	snprintf(name, sizeof name, "l1-%zu", value_bytes);
	policy.tiers = TERRACE_L1;
	bench_require(terrace_cache_open(store, name, &policy, &cache) == TERRACE_OK);
	bench_fill(value, value_bytes, 1);
	for (uint64_t i = 0; i < ENTRIES; i++)
		bench_require(terrace_put(cache, terrace_bytes(keys.text[i], keys.size[i]),
		                          terrace_bytes(value, value_bytes), NULL) == TERRACE_OK);
	bench.ctx = cache;
	bench_run(&bench);
	terrace_cache_close(cache);
	free(value);
}

static void bench_put(terrace *store, unsigned threads)
{
	struct bench bench = { .group = "l1",
		               .name = "terrace",
		               .operation = "put with eviction",
		               .value_bytes = 100,
		               .threads = threads,
		               .operations = 1000000,
		               .fn = put };
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	policy.tiers = TERRACE_L1;
	policy.memory_entries = ENTRIES;
	bench_require(terrace_cache_open(store, "put", &policy, &cache) == TERRACE_OK);
	bench.ctx = cache;
	bench_run(&bench);
	terrace_cache_close(cache);
}

/* --- the floor: a table of the same layout, without lock, eviction or counts -------------------- */

struct floor_entry {
	uint64_t hash;
	uint32_t key_size;
	char bytes[];
};

struct floor {
	uint64_t mask;
	struct floor_entry **slots;
};

static uint64_t floor_hash(const char *key, size_t size)
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

static void floor_get(void *ctx, uint64_t i)
{
	const struct floor *floor = ctx;
	uint64_t hash = floor_hash(keys.text[i], keys.size[i]);

	for (uint64_t at = hash & floor->mask;; at = (at + 1) & floor->mask) {
		const struct floor_entry *entry = floor->slots[at];

		bench_require(entry);
		if (entry->hash == hash && entry->key_size == keys.size[i] &&
		    memcmp(entry->bytes, keys.text[i], keys.size[i]) == 0) {
			sink = entry->bytes[entry->key_size];
			return;
		}
	}
}

static void bench_floor(size_t value_bytes, unsigned threads)
{
	struct bench bench = { .group = "l1",
		               .name = "unlocked table",
		               .operation = "get pinned",
		               .value_bytes = value_bytes,
		               .threads = threads,
		               .operations = 2000000,
		               .limit = ENTRIES,
		               .fn = floor_get };
	struct floor floor = { .mask = (1 << 18) - 1 };

	floor.slots = calloc(floor.mask + 1, sizeof *floor.slots);
	for (uint64_t i = 0; i < ENTRIES; i++) {
		struct floor_entry *entry = malloc(sizeof *entry + keys.size[i] + value_bytes);
		uint64_t at;

		entry->hash = floor_hash(keys.text[i], keys.size[i]);
		entry->key_size = (uint32_t)keys.size[i];
		memcpy(entry->bytes, keys.text[i], keys.size[i]);
		bench_fill(entry->bytes + keys.size[i], value_bytes, 1);
		for (at = entry->hash & floor.mask; floor.slots[at]; at = (at + 1) & floor.mask)
			;
		floor.slots[at] = entry;
	}
	bench.ctx = &floor;
	bench_run(&bench);
	for (uint64_t at = 0; at <= floor.mask; at++)
		free(floor.slots[at]);
	free(floor.slots);
}

int main(void)
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	terrace *store;

	options.memory_bytes = UINT64_C(4) << 30;
	bench_require(terrace_open(bench_directory("l1"), &options, &store) == TERRACE_OK);
	bench_keys_make(&keys, ENTRIES);
	for (unsigned threads = 1; threads <= 2; threads++) {
		for (size_t bytes = 100; bytes <= 4096; bytes += 3996) {
			bench_ours(store, bytes, threads);
			bench_floor(bytes, threads);
		}
		bench_put(store, threads);
	}
	bench_keys_free(&keys);
	terrace_close(store);
	return 0;
}
