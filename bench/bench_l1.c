/*
 * Memory: a hit, pinned, among 100,000 entries, beside a table that does nothing else
 * and RocksDB's caches; puts with eviction; many gets at once. What is compared is run in turns.
 */
#include "harness.h"
#include "peer_rocksdb.h"
#include "unlocked.h"

#include <terrace/terrace.h>

#include <poll.h>
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
	struct bench together = { .group = "l1",
		                  .name = "terrace",
		                  .operation = "get 16 of 2 million",
		                  .value_bytes = 100,
		                  .threads = 1,
		                  .operations = 100000,
		                  .limit = MANY_ENTRIES,
		                  .fn = get_sixteen_together };
	struct bench singly = together;
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
	singly.name = "single gets";
	singly.fn = get_sixteen_singly;
	singly.ctx = together.ctx = cache;
	bench_run((struct bench[]){ together, singly }, 2);
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
	uint64_t next, random = 5;

	bench_pin(1);
	next = bench_ns();
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

static void beside_writer(void *ctx, bool begin)
{
	struct writer *writer = ctx;

	writer->stop = !begin;
	if (begin)
		bench_require(pthread_create(&writer->thread, NULL, write_steadily, writer) == 0);
	else
		pthread_join(writer->thread, NULL);
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

/* --- beside another process that writes the cache --------------------------------------------------- */

struct other {
	pid_t pid;
	int said; /* each byte that is written here starts it or stops it; closed, it ends */
};

/* 1,000 puts a second of keys of its own, each committed. */
static void write_in_process(const char *dir, int said)
{
	char value[100] = "", key[48], byte;
	terrace *store;
	terrace_cache *cache;

	if (read(said, &byte, 1) != 1)
		_exit(0);
	bench_require(terrace_open(dir, NULL, &store) == TERRACE_OK);
	bench_require(terrace_cache_open(store, "shared", NULL, &cache) == TERRACE_OK);
	for (unsigned i = 0;; i++) {
		struct pollfd ready = { .fd = said, .events = POLLIN };

		/* Told to stop, it waits until it is told to go on. */
		if (poll(&ready, 1, 1) == 1 &&
		    (read(said, &byte, 1) != 1 || read(said, &byte, 1) != 1))
			break;
		snprintf(key, sizeof key, "other:%u", i % 10000);
		terrace_put(cache, terrace_str(key), terrace_bytes(value, sizeof value), NULL);
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
	other.said = ends[1];
	return other;
}

static void other_end(const struct other *other)
{
	int status;

	close(other->said);
	bench_require(waitpid(other->pid, &status, 0) == other->pid && status == 0);
}

static void beside_process(void *ctx, bool begin)
{
	const struct other *other = ctx;

	(void)begin;
	bench_require(write(other->said, "", 1) == 1);
}

/* Of a cache that is on disk too, so that the other process can void what is here. */
static void bench_beside_process(terrace *store, struct other *other)
{
	struct bench alone = { .group = "l1",
		               .name = "terrace",
		               .operation = "get of a shared cache",
		               .value_bytes = 100,
		               .threads = 1,
		               .operations = 1000000,
		               .limit = ENTRIES / 10,
		               .fn = get };
	struct bench beside = alone;
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
	beside.ctx = alone.ctx = cache;
	beside.operation = "get beside a process";
	beside.beside = beside_process;
	beside.beside_ctx = other;
	bench_run((struct bench[]){ alone, beside }, 2);
	terrace_cache_close(cache);
}

/* --- one beside the other ----------------------------------------------------------------------- */

/* What is run in turns. */
struct set {
	struct bench benches[16];
	size_t count;
};

static void set_add(struct set *set, const struct bench *like, const char *name, bench_fn *fn,
                    void *ctx)
{
	struct bench *bench = &set->benches[set->count++];

	*bench = *like;
	bench->name = name;
	bench->fn = fn;
	bench->ctx = ctx;
}

static terrace_cache *open_cache(terrace *store, const char *name, uint64_t entries)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	policy.tiers = TERRACE_L1;
	policy.memory_entries = entries;
	bench_require(terrace_cache_open(store, name, &policy, &cache) == TERRACE_OK);
	return cache;
}

static terrace_cache *open_filled(terrace *store, const char *name, size_t value_bytes)
{
	terrace_cache *cache = open_cache(store, name, 0);
	char *value = malloc(value_bytes);

	bench_fill(value, value_bytes, 1);
	for (uint64_t i = 0; i < ENTRIES; i++)
		bench_require(terrace_put(cache, terrace_bytes(keys.text[i], keys.size[i]),
		                          terrace_bytes(value, value_bytes), NULL) == TERRACE_OK);
	free(value);
	return cache;
}

enum { PEERS = 2 };

static void open_peers(size_t capacity, size_t value_bytes, struct peer *ret[PEERS])
{
	for (unsigned i = 0; i < PEERS; i++)
		ret[i] = peer_open(i == 0, capacity, value_bytes, &keys);
}

static void close_peers(struct peer *peers[PEERS])
{
	for (unsigned i = 0; i < PEERS; i++)
		if (peers[i])
			peer_close(peers[i]);
}

static void add_peers(struct set *set, const struct bench *like, bench_fn *fn,
                      struct peer *peers[PEERS])
{
	static const char *const names[PEERS] = { "RocksDB HyperClockCache", "RocksDB LRUCache" };

	for (unsigned i = 0; i < PEERS; i++)
		if (peers[i])
			set_add(set, like, names[i], fn, peers[i]);
}

static void bench_gets(terrace *store, size_t value_bytes)
{
	struct bench like = { .group = "l1",
		              .operation = "get pinned",
		              .value_bytes = value_bytes,
		              .operations = 2000000,
		              .limit = ENTRIES };
	terrace_cache *cache = open_filled(store, value_bytes == 100 ? "small" : "large",
	                                   value_bytes);
	struct writer writer = { .cache = cache };
	struct unlocked *unlocked = unlocked_open(value_bytes, &keys);
	struct set set = { .count = 0 };
	struct peer *peers[PEERS];

	open_peers(ENTRIES * (value_bytes + 300) * 2, value_bytes, peers);
	for (unsigned i = 0; i < PEERS; i++)
		if (peers[i])
			peer_fill(peers[i]);
	for (like.threads = 1; like.threads <= 2; like.threads++) {
		set_add(&set, &like, "terrace", get, cache);
		set_add(&set, &like, "unlocked table", unlocked_get, unlocked);
		add_peers(&set, &like, peer_get, peers);
	}
	if (value_bytes == 100) {
		like.threads = 1;
		like.operation = "get beside a writer";
		like.beside = beside_writer;
		like.beside_ctx = &writer;
		set_add(&set, &like, "terrace", get, cache);
		like.beside = NULL;
		like.group = "fetch";
		like.operation = "hit";
		set_add(&set, &like, "terrace", fetch, cache);
	}
	bench_run(set.benches, set.count);
	close_peers(peers);
	unlocked_close(unlocked);
	terrace_cache_close(cache);
}

static void bench_puts(terrace *store)
{
	struct bench like = { .group = "l1",
		              .operation = "put with eviction",
		              .value_bytes = 100,
		              .operations = 1000000 };
	terrace_cache *caches[2] = { open_cache(store, "put 1", ENTRIES),
		                     open_cache(store, "put 2", ENTRIES) };
	struct set set = { .count = 0 };
	struct peer *peers[2][PEERS];

	for (like.threads = 1; like.threads <= 2; like.threads++) {
		unsigned at = like.threads - 1;

		set_add(&set, &like, "terrace", put, caches[at]);
		open_peers((size_t)ENTRIES * 164, 100, peers[at]);
		add_peers(&set, &like, peer_put, peers[at]);
	}
	bench_run(set.benches, set.count);
	for (unsigned at = 0; at < 2; at++) {
		close_peers(peers[at]);
		terrace_cache_close(caches[at]);
	}
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
	if (bench_wanted("get pinned")) {
		bench_gets(store, 100);
		bench_gets(store, 4096);
	}
	if (bench_wanted("put with eviction"))
		bench_puts(store);
	if (bench_wanted("get beside a process"))
		bench_beside_process(store, &other);
	if (bench_wanted("get 16 of 2 million"))
		bench_many(store);
	other_end(&other);
	bench_keys_free(&keys);
	terrace_close(store);
	return 0;
}
