/*
 * What single flight adds to a miss: a fetch with a loader that gives 100 bytes,
 * beside a get that misses and a put of the same. Both in turns, so that what
 * disturbs one disturbs the other.
 */
#include "harness.h"

#include <terrace/terrace.h>

#include <stdio.h>
#include <stdlib.h>

enum { VALUE_BYTES = 100, OPERATIONS = 100000, DISK_OPERATIONS = 20000 };

static char value[VALUE_BYTES];

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)ctx;
	(void)key;
	return terrace_loaded_copy(loaded, terrace_bytes(value, sizeof value));
}

static uint64_t fetch_new(terrace_cache *cache, terrace_slice key)
{
	uint64_t before = bench_ns(), after;
	terrace_value *got;

	bench_require(terrace_fetch(cache, key, load, NULL, &got) == TERRACE_OK);
	after = bench_ns();
	terrace_release(got);
	return after - before;
}

static uint64_t get_and_put(terrace_cache *cache, terrace_slice key)
{
	uint64_t before = bench_ns();
	terrace_value *got;

	bench_require(terrace_get(cache, key, &got) == TERRACE_MISS);
	bench_require(terrace_put(cache, key, terrace_bytes(value, sizeof value), NULL) ==
	              TERRACE_OK);
	return bench_ns() - before;
}

static void bench_miss(terrace *store, const char *suffix, unsigned tiers, size_t count)
{
	struct bench bench = {
		.group = "fetch", .name = "terrace", .value_bytes = VALUE_BYTES, .threads = 1
	};
	uint64_t *fetches = calloc(count, sizeof *fetches), *puts = calloc(count, sizeof *puts);
	uint64_t fetch_p50, fetch_p99, put_p50, put_p99;
	terrace_policy policy = TERRACE_POLICY_INIT;
	char operation[3][48], text[32];
	terrace_cache *cache;

	policy.tiers = tiers;
	bench_require(terrace_cache_open(store, *suffix ? "disk" : "memory", &policy, &cache) ==
	              TERRACE_OK);
	for (size_t i = 0; i < 2 * count; i++) {
		terrace_slice key = terrace_bytes(
		    text, (size_t)snprintf(text, sizeof text, "key:%016zu", i));

		if (i % 2)
			puts[i / 2] = get_and_put(cache, key);
		else
			fetches[i / 2] = fetch_new(cache, key);
	}
	bench_percentiles(fetches, count, &fetch_p50, &fetch_p99);
	bench_percentiles(puts, count, &put_p50, &put_p99);
	snprintf(operation[0], sizeof operation[0], "a miss%s", suffix);
	snprintf(operation[1], sizeof operation[1], "get and put%s", suffix);
	snprintf(operation[2], sizeof operation[2], "added to a miss%s", suffix);
	bench.operation = operation[0];
	bench_print(&bench, fetch_p50, fetch_p99, 1e9 / (double)fetch_p50);
	bench.operation = operation[1];
	bench_print(&bench, put_p50, put_p99, 1e9 / (double)put_p50);
	bench.operation = operation[2];
	bench_print(&bench, fetch_p50 > put_p50 ? fetch_p50 - put_p50 : 0,
	            fetch_p99 > put_p99 ? fetch_p99 - put_p99 : 0, 0);
	terrace_cache_close(cache);
	free(fetches);
	free(puts);
}

int main(void)
{
	terrace *store;

	bench_fill(value, sizeof value, 1);
	bench_require(terrace_open(bench_directory("fetch"), NULL, &store) == TERRACE_OK);
	bench_miss(store, "", TERRACE_L1, OPERATIONS);
	bench_miss(store, " with disk", TERRACE_L1 | TERRACE_L2, DISK_OPERATIONS);
	terrace_close(store);
	return 0;
}
