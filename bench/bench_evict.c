/*
 * What share of a trace's requests, bytes and cost L1 answers: the trace is
 * replayed on a real cache through the public headers, a miss is followed by a
 * put. Sizes are weights of a form, so that no trace needs its bytes.
 *
 * usage: bench_evict POLICY sized|counted TRACE.txt.zst...
 *
 * Several traces are interleaved, each in proportion to its length. Prints for
 * each size of the cache: fraction of the working set, and hits, bytes and cost
 * saved as fractions.
 */
#include "harness.h"

#include <terrace/terrace.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum { TRACES_MAX = 16 };

struct request {
	uint32_t key, size, cost;
};

struct trace {
	struct request *requests;
	uint64_t count, keys;
	uint64_t at; /* while they are interleaved */
};

/* --- reading ------------------------------------------------------------------- */

static char *whole_file(const char *path, size_t *ret_size)
{
	FILE *file = fopen(path, "rb");
	char *data;

	if (!file) {
		fprintf(stderr, "bench_evict: cannot open %s\n", path);
		exit(2);
	}
	fseek(file, 0, SEEK_END);
	*ret_size = (size_t)ftell(file);
	rewind(file);
	data = malloc(*ret_size);
	bench_require(data && fread(data, 1, *ret_size, file) == *ret_size);
	fclose(file);
	return data;
}

/* Not all of them say their size. */
static char *unpack(const char *packed, size_t size)
{
	ZSTD_DStream *stream = ZSTD_createDStream();
	ZSTD_inBuffer in = { packed, size, 0 };
	ZSTD_outBuffer out = { NULL, 0, 0 };
	size_t left = 1;

	while (in.pos < in.size || (left > 0 && out.pos == out.size)) {
		if (out.pos == out.size)
			out.dst = realloc(out.dst, (out.size = out.size * 2 + (1 << 20)) + 1);
		left = ZSTD_decompressStream(stream, &out, &in);
		bench_require(!ZSTD_isError(left));
	}
	((char *)out.dst)[out.pos] = '\0';
	ZSTD_freeDStream(stream);
	return out.dst;
}

static void trace_read(const char *path, bool sized, struct trace *ret)
{
	size_t size, room = 0;
	char *packed = whole_file(path, &size), *text = unpack(packed, size), *line = text;

	*ret = (struct trace){ 0 };
	while (*line) {
		struct request *request;

		if (ret->count == room)
			ret->requests = realloc(ret->requests,
			                        (room = room * 2 + 1024) * sizeof *request);
		request = &ret->requests[ret->count++];
		request->key = (uint32_t)strtoul(line, &line, 10);
		request->size = (uint32_t)strtoul(line, &line, 10);
		request->cost = *line == ' ' ? (uint32_t)strtoul(line, &line, 10) : 0;
		if (!sized)
			request->size = 1;
		if (request->key >= ret->keys)
			ret->keys = request->key + 1u;
		while (*line == '\n' || *line == '\r')
			line++;
	}
	free(text);
	free(packed);
}

/* One trace of several: the next request is of the one that is furthest behind. */
static void interleave(struct trace *traces, int count, struct trace *ret)
{
	uint64_t base[TRACES_MAX];

	*ret = (struct trace){ 0 };
	for (int i = 0; i < count; i++) {
		base[i] = ret->keys;
		ret->keys += traces[i].keys;
		ret->count += traces[i].count;
	}
	ret->requests = malloc(ret->count * sizeof *ret->requests);
	for (uint64_t n = 0; n < ret->count; n++) {
		struct trace *next = NULL;
		double least = 2;

		for (int i = 0; i < count; i++) {
			double done = (double)traces[i].at / (double)traces[i].count;

			if (traces[i].at < traces[i].count && done < least) {
				least = done;
				next = &traces[i];
			}
		}
		ret->requests[n] = next->requests[next->at++];
		ret->requests[n].key += (uint32_t)base[next - traces];
	}
}

/* --- replaying ------------------------------------------------------------------- */

/* A value is its size as a number; its form weighs that much. */
static int decode(void *ctx, terrace_slice bytes, void **ret_object, size_t *ret_weight)
{
	uint32_t size;

	memcpy(&size, bytes.data, sizeof size);
	*ret_object = ctx;
	*ret_weight = size;
	return 0;
}

static void destroy(void *ctx, void *object)
{
	(void)ctx;
	(void)object;
}

struct score {
	uint64_t hits, bytes, cost;
};

/* What an entry weighs besides its size, as the cache itself counts it. */
static uint64_t overhead(terrace *store)
{
	static const terrace_form form = { sizeof form, decode, destroy, NULL };
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	terrace_stats stats = TERRACE_STATS_INIT;
	uint32_t size = 0;

	policy.tiers = TERRACE_L1;
	policy.form = &form;
	bench_require(terrace_cache_open(store, "overhead", &policy, &cache) == TERRACE_OK);
	bench_require(terrace_put(cache, terrace_bytes(&size, sizeof size),
	                          terrace_bytes(&size, sizeof size), NULL) == TERRACE_OK);
	bench_require(terrace_cache_stats(cache, &stats) == TERRACE_OK);
	terrace_cache_close(cache);
	return stats.l1.bytes;
}

static void request(terrace_cache *cache, const struct request *request, struct score *score)
{
	terrace_slice key = terrace_bytes(&request->key, sizeof request->key);
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_value *value;
	int rc;

	if (terrace_get(cache, key, &value) == TERRACE_OK) {
		terrace_release(value);
		score->hits++;
		score->bytes += request->size;
		score->cost += request->cost;
		return;
	}
	options.cost_us = request->cost;
	rc = terrace_put(cache, key, terrace_bytes(&request->size, sizeof request->size), &options);
	bench_require(rc == TERRACE_OK || rc == TERRACE_ETOOBIG);
}

static struct score replay(terrace *store, const struct trace *trace, const char *eviction,
                           uint64_t bytes, uint64_t entries)
{
	static const terrace_form form = { sizeof form, decode, destroy, NULL };
	static int turn;
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct score score = { 0 };
	terrace_cache *cache;
	char name[32];

	snprintf(name, sizeof name, "evict-%d", turn++);
	policy.tiers = TERRACE_L1;
	policy.eviction = eviction;
	policy.memory_bytes = bytes;
	policy.memory_entries = entries;
	policy.form = &form;
	bench_require(terrace_cache_open(store, name, &policy, &cache) == TERRACE_OK);
	for (uint64_t i = 0; i < trace->count; i++)
		request(cache, &trace->requests[i], &score);
	terrace_cache_close(cache);
	return score;
}

static struct score total_of(const struct trace *trace, struct score *ret_unique)
{
	bool *seen = calloc(trace->keys, sizeof *seen);
	struct score total = { 0 };

	*ret_unique = total;
	for (uint64_t i = 0; i < trace->count; i++) {
		const struct request *request = &trace->requests[i];

		total.hits++;
		total.bytes += request->size;
		total.cost += request->cost;
		if (!seen[request->key]) {
			seen[request->key] = true;
			ret_unique->hits++;
			ret_unique->bytes += request->size;
		}
	}
	free(seen);
	return total;
}

int main(int argc, char **argv)
{
	static const double fractions[] = { 0.001, 0.01, 0.03, 0.1, 0.3 };
	terrace_options options = TERRACE_OPTIONS_INIT;
	struct trace traces[TRACES_MAX], trace;
	struct score total, unique;
	uint64_t weight;
	terrace *store;
	bool sized;

	if (argc < 4 || argc > 3 + TRACES_MAX) {
		fprintf(stderr, "usage: bench_evict POLICY sized|counted TRACE.txt.zst...\n");
		return 2;
	}
	sized = strcmp(argv[2], "sized") == 0;
	for (int i = 3; i < argc; i++)
		trace_read(argv[i], sized, &traces[i - 3]);
	interleave(traces, argc - 3, &trace);
	total = total_of(&trace, &unique);
	options.memory_bytes = UINT64_C(1) << 40;
	bench_require(terrace_open(bench_directory("evict"), &options, &store) == TERRACE_OK);
	weight = overhead(store);
	for (size_t i = 0; i < sizeof fractions / sizeof *fractions; i++) {
		double part = fractions[i];
		uint64_t entries = (uint64_t)((double)unique.hits * part);
		uint64_t bytes =
		    (uint64_t)(((double)unique.bytes + (double)(unique.hits * weight)) * part);
		struct score score;

		if (entries < 2)
			continue;
		score = replay(store, &trace, argv[1], sized ? bytes : 0, sized ? 0 : entries);
		printf("%g\t%.4f\t%.4f\t%.4f\n", part, (double)score.hits / (double)total.hits,
		       (double)score.bytes / (double)total.bytes,
		       total.cost ? (double)score.cost / (double)total.cost : 0);
		fflush(stdout);
	}
	terrace_close(store);
	return 0;
}
