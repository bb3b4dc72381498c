/* A hit in memory, pinned, among 100,000 entries, beside a table that does nothing else. */
#include "harness.h"

#include <terrace/terrace.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

static int not_to_be_asked(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)ctx;
	(void)key;
	(void)loaded;
	return -1;
}

static void fetch(void *ctx, uint64_t i)
{
	terrace_value *value;

	bench_require(terrace_fetch(ctx, terrace_bytes(keys.text[i], keys.size[i]), not_to_be_asked,
	                            NULL, &value) == TERRACE_OK);
	sink = *(const char *)terrace_data(value);
	terrace_release(value);
}

/* --- many at once, of a table that is larger than the processor's caches ------------------------ */

enum { MANY = 16, MANY_ENTRIES = 2000000 };

static terrace_slice many_key(uint64_t i, char *text)
{
	return terrace_bytes(text,
	                     (size_t)snprintf(text, 48, "many:%020llu", (unsigned long long)i));
}

/* The keys are made beforehand, by the same numbers that the harness draws. */
static char (*many_texts)[32];

static void get_sixteen_singly(void *ctx, uint64_t i)
{
	for (uint64_t k = 0; k < MANY; k++) {
		terrace_value *value;
		uint64_t at = (i + k * 104729) % MANY_ENTRIES;

		bench_require(terrace_get(ctx, terrace_bytes(many_texts[at], 25), &value) ==
		              TERRACE_OK);
		sink = *(const char *)terrace_data(value);
		terrace_release(value);
	}
}

static void get_sixteen_together(void *ctx, uint64_t i)
{
	terrace_value *values[MANY];
	terrace_slice slices[MANY];
	size_t hits;

	for (uint64_t k = 0; k < MANY; k++)
		slices[k] = terrace_bytes(many_texts[(i + k * 104729) % MANY_ENTRIES], 25);
	bench_require(terrace_get_many(ctx, slices, MANY, values, &hits) == TERRACE_OK);
	bench_require(hits == MANY);
	for (uint64_t k = 0; k < MANY; k++) {
		sink = *(const char *)terrace_data(values[k]);
		terrace_release(values[k]);
	}
}

static void bench_many(terrace *store)
{
	struct bench bench = { .group = "l1",
		               .name = "terrace",
		               .operation = "get 16 of 2 million",
		               .value_bytes = 100,
		               .threads = 1,
		               .operations = 100000,
		               .limit = MANY_ENTRIES,
		               .fn = get_sixteen_together };
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	char value[100] = "", text[48];

	policy.tiers = TERRACE_L1;
	many_texts = calloc(MANY_ENTRIES, sizeof *many_texts);
	bench_require(terrace_cache_open(store, "many", &policy, &cache) == TERRACE_OK);
	for (uint64_t i = 0; i < MANY_ENTRIES; i++) {
		terrace_slice key = many_key(i, text);

		memcpy(many_texts[i], text, 26);
		bench_require(terrace_put(cache, key, terrace_bytes(value, sizeof value), NULL) ==
		              TERRACE_OK);
	}
	bench.ctx = cache;
	bench_run(&bench);
	bench.name = "single gets";
	bench.fn = get_sixteen_singly;
	bench_run(&bench);
	terrace_cache_close(cache);
	free(many_texts);
}

/* --- beside a writer, and what an entry takes ----------------------------------------------------- */

struct writer {
	terrace_cache *cache;
	pthread_t thread;
	_Atomic bool stop;
};

/* 10,000 puts a second, of keys that are there. */
static void *write_steadily(void *ctx)
{
	struct writer *writer = ctx;
	char value[100] = "";
	uint64_t next = bench_ns(), random = 5;

	while (!writer->stop) {
		uint64_t i = bench_random(&random) % ENTRIES;
		struct timespec nap = { 0, 50000 };

		next += 100000;
		terrace_put(writer->cache, terrace_bytes(keys.text[i], keys.size[i]),
		            terrace_bytes(value, sizeof value), NULL);
		while (bench_ns() < next && !writer->stop)
			nanosleep(&nap, NULL);
	}
	return NULL;
}

/* What the process has of memory, whoever allocated it. */
static uint64_t resident(void)
{
	unsigned long long total, pages = 0;
	FILE *file = fopen("/proc/self/statm", "r");

	bench_require(file && fscanf(file, "%llu %llu", &total, &pages) == 2);
	fclose(file);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* So many that large pages do not show. In an empty process; a key is 30 bytes on the average. */
static void bench_weight(terrace *store)
{
	enum { WEIGHED = 1000000 };
	terrace_policy policy = TERRACE_POLICY_INIT;
	uint64_t before, payload = 0;
	char key[48], value[100] = "";
	terrace_cache *cache;

	policy.tiers = TERRACE_L1;
	bench_require(terrace_cache_open(store, "weight", &policy, &cache) == TERRACE_OK);
	before = resident();
	for (uint64_t i = 0; i < WEIGHED; i++) {
		size_t size = (size_t)snprintf(key, sizeof key, "key:%0*llu", (int)(16 + i % 21),
		                               (unsigned long long)i);

		payload += size + sizeof value;
		bench_require(terrace_put(cache, terrace_bytes(key, size),
		                          terrace_bytes(value, sizeof value), NULL) == TERRACE_OK);
	}
	bench_print(&(struct bench){ .group = "l1",
	                             .name = "terrace",
	                             .operation = "bytes beside an entry",
	                             .value_bytes = sizeof value,
	                             .threads = 1 },
	            (resident() - before - payload) / WEIGHED, 0, 0);
	terrace_cache_close(cache);
}

static void put(void *ctx, uint64_t i)
{
	char key[24] = "new:", value[100] = "";

	/* snprintf() would be a tenth of what is measured. */
	for (int at = sizeof key - 1; at >= 4; at--, i >>= 4)
		key[at] = "0123456789abcdef"[i & 15];
	bench_require(terrace_put(ctx, terrace_bytes(key, sizeof key),
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
	struct writer writer = { .stop = false };
	terrace_cache *cache;

	snprintf(name, sizeof name, "l1-%zu", value_bytes);
	policy.tiers = TERRACE_L1;
	bench_require(terrace_cache_open(store, name, &policy, &cache) == TERRACE_OK);
	bench_fill(value, value_bytes, 1);
	for (uint64_t i = 0; i < ENTRIES; i++)
		bench_require(terrace_put(cache, terrace_bytes(keys.text[i], keys.size[i]),
		                          terrace_bytes(value, value_bytes), NULL) == TERRACE_OK);
	bench.ctx = writer.cache = cache;
	bench_run(&bench);
	if (threads == 1 && value_bytes == 100) {
		bench.group = "fetch";
		bench.operation = "hit";
		bench.fn = fetch;
		bench_run(&bench);
		bench.group = "l1";
		bench.fn = get;
		pthread_create(&writer.thread, NULL, write_steadily, &writer);
		bench.operation = "get beside a writer";
		bench_run(&bench);
		writer.stop = true;
		pthread_join(writer.thread, NULL);
	}
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

/* --- beside another process that writes the cache --------------------------------------------------- */

struct other {
	pid_t pid;
	int go; /* what is written here starts it; closed, it ends */
};

/* 1,000 puts a second of keys of its own, each committed. */
static void write_in_process(const char *dir, int go)
{
	char value[100] = "", key[48], byte;
	terrace *store;
	terrace_cache *cache;

	if (read(go, &byte, 1) != 1)
		_exit(0);
	bench_require(terrace_open(dir, NULL, &store) == TERRACE_OK);
	bench_require(terrace_cache_open(store, "shared", NULL, &cache) == TERRACE_OK);
	fcntl(go, F_SETFL, O_NONBLOCK);
	for (unsigned i = 0; read(go, &byte, 1) != 0; i++) {
		struct timespec nap = { 0, 1000000 };

		snprintf(key, sizeof key, "other:%u", i % 10000);
		terrace_put(cache, terrace_str(key), terrace_bytes(value, sizeof value), NULL);
		nanosleep(&nap, NULL);
	}
	terrace_cache_close(cache);
	terrace_close(store);
	_exit(0);
}

/* Before this process has threads. */
static struct other other_start(const char *dir)
{
	struct other other;
	int ends[2];

	bench_require(pipe(ends) == 0);
	other.pid = fork();
	bench_require(other.pid >= 0);
	if (other.pid == 0) {
		close(ends[1]);
		write_in_process(dir, ends[0]);
	}
	close(ends[0]);
	other.go = ends[1];
	return other;
}

static void other_end(const struct other *other)
{
	int status;

	close(other->go);
	bench_require(waitpid(other->pid, &status, 0) == other->pid && status == 0);
}

/* Of a cache that is on disk too, so that the other process can void what is here. */
static void bench_beside_process(terrace *store, const struct other *other)
{
	struct bench bench = { .group = "l1",
		               .name = "terrace",
		               .operation = "get of a shared cache",
		               .value_bytes = 100,
		               .threads = 1,
		               .operations = 1000000,
		               .limit = ENTRIES / 10,
		               .fn = get };
	terrace_cache *cache;
	char value[100] = "";

	bench_require(terrace_cache_open(store, "shared", NULL, &cache) == TERRACE_OK);
	for (uint64_t i = 0; i < ENTRIES / 10; i += 100) {
		terrace_item items[100];

		for (uint64_t k = 0; k < 100; k++)
			items[k] = (terrace_item){ terrace_bytes(keys.text[i + k],
				                                 keys.size[i + k]),
				                   terrace_bytes(value, sizeof value) };
		bench_require(terrace_put_many(cache, items, 100, NULL) == TERRACE_OK);
	}
	bench.ctx = cache;
	bench_run(&bench);
	bench_require(write(other->go, "", 1) == 1);
	bench.operation = "get beside a process";
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
	const char *dir = bench_directory("l1");
	struct other other = other_start(dir);
	terrace *store;

	options.memory_bytes = UINT64_C(4) << 30;
	bench_require(terrace_open(dir, &options, &store) == TERRACE_OK);
	if (bench_wanted("bytes beside an entry"))
		bench_weight(store);
	bench_keys_make(&keys, ENTRIES);
	for (unsigned threads = 1; threads <= 2; threads++) {
		for (size_t bytes = 100; bytes <= 4096; bytes += 3996) {
			if (bench_wanted("get pinned")) {
				bench_ours(store, bytes, threads);
				bench_floor(bytes, threads);
			}
		}
		if (bench_wanted("put with eviction"))
			bench_put(store, threads);
	}
	if (bench_wanted("get beside a process"))
		bench_beside_process(store, &other);
	if (bench_wanted("get 16 of 2 million"))
		bench_many(store);
	other_end(&other);
	bench_keys_free(&keys);
	terrace_close(store);
	return 0;
}
