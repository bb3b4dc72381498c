/*
 * What prediction is worth: a loop over five times what L1 holds, in the order of
 * before, with a pause between gets and without; "terrace" is strategy preemptive,
 * beside it standard.
 */
#include "harness.h"

#include <terrace/terrace.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { KEYS = 5000, IN_MEMORY = 1000, ROUNDS = 2, VALUE = 1024, PAUSE_US = 100 };

static terrace_slice key_text(int number, char text[16])
{
	return terrace_bytes(text, (size_t)snprintf(text, 16, "k%05d", number));
}

static void pause_for(uint64_t us)
{
	const struct timespec time = { 0, (long)us * 1000 };

	if (us > 0)
		nanosleep(&time, NULL);
}

/* One round to learn, the others are measured. */
static void measure(terrace *store, const char *name, terrace_strategy strategy, uint64_t pause_us)
{
	static uint64_t samples[KEYS * ROUNDS];
	static terrace_item items[KEYS];
	static char value[VALUE], texts[KEYS][16];
	struct bench row = { "ahead", name, pause_us ? "loop, pauses" : "loop", VALUE, 1, 0, 0,
		             NULL,    NULL };
	terrace_policy policy = TERRACE_POLICY_INIT;
	uint64_t hits = 0, sum = 0, p50, p99;
	char cache_name[32];
	terrace_cache *cache;

	policy.memory_entries = IN_MEMORY;
	policy.strategy = strategy;
	snprintf(cache_name, sizeof cache_name, "%d-%d", (int)strategy, pause_us > 0);
	bench_require(terrace_cache_open(store, cache_name, &policy, &cache) == TERRACE_OK);
	bench_fill(value, sizeof value, 1);
	for (int i = 0; i < KEYS; i++)
		items[i] = (terrace_item){ key_text(i, texts[i]), terrace_bytes(value, VALUE) };
	bench_require(terrace_put_many(cache, items, KEYS, NULL) == TERRACE_OK);
	for (int i = 0; i < KEYS * (ROUNDS + 1); i++) {
		uint64_t start = bench_ns();
		terrace_value *got;

		bench_require(terrace_get(cache, items[i % KEYS].key, &got) == TERRACE_OK);
		if (i >= KEYS) {
			samples[i - KEYS] = bench_ns() - start;
			sum += samples[i - KEYS];
			hits += terrace_value_tier(got) == TERRACE_L1;
		}
		terrace_release(got);
		pause_for(pause_us);
	}
	bench_percentiles(samples, KEYS * ROUNDS, &p50, &p99);
	bench_print(&row, p50, p99, 1e9 * KEYS * ROUNDS / (double)sum);
	row.operation = pause_us ? "pauses: hits in L1, %" : "hits in L1, %";
	hits = hits * 100 / (KEYS * ROUNDS);
	bench_print(&row, hits, hits, (double)hits);
	terrace_cache_close(cache);
}

int main(void)
{
	terrace *store;

	bench_require(terrace_open(bench_directory("ahead"), NULL, &store) == TERRACE_OK);
	for (uint64_t pause_us = 0; pause_us <= PAUSE_US; pause_us += PAUSE_US) {
		measure(store, "terrace", TERRACE_STRATEGY_PREEMPTIVE, pause_us);
		measure(store, "standard", TERRACE_STRATEGY_STANDARD, pause_us);
	}
	terrace_close(store);
	return 0;
}
