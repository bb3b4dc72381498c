/*
 * Dictionaries: what JSON records of 1 KB become, and how long that and back
 * takes, beside zstd's own at the same level.
 *
 * Ours is what the library counts of a cache with codec auto: what it stored,
 * and of one value in 64 how long encoding and decoding took, the better of
 * two, contexts and memory from before. zstd is measured in the same way,
 * between the puts.
 */
#include "harness.h"

#include <terrace/terrace.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <zstd.h>

enum { RECORD_MAX = 4096, TRAIN = 4000, MEASURED = 32000, EVERY = 64, LEVEL = 3 };

/* --- records: orders of a shop, as an interface would give them --------------------------------- */

static const char *word(uint64_t *random, const char *const *words, size_t count)
{
	return words[bench_random(random) % count];
}

#define WORD(...)                                          \
	word(random, (const char *const[]){ __VA_ARGS__ }, \
	     sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *))

static unsigned below(uint64_t *random, unsigned bound)
{
	return (unsigned)(bench_random(random) % bound);
}

static size_t make_items(char *out, size_t size, uint64_t *random)
{
	unsigned count = 3 + below(random, 3);
	size_t at = 0;

	for (unsigned i = 0; i < count; i++)
		at += (size_t)snprintf(
		    out + at, size - at,
		    "%s{\"sku\":\"%c%c-%05u\",\"title\":\"%s %s, %s\",\"quantity\":%u,"
		    "\"unit_price\":%u.%02u,\"tax_rate\":%s}",
		    i ? "," : "", 'A' + (int)below(random, 26), 'A' + (int)below(random, 26),
		    below(random, 100000), WORD("Garden", "Kitchen", "Travel", "Office", "Winter"),
		    WORD("chair", "lamp", "kettle", "bag", "jacket", "table", "knife", "shelf"),
		    WORD("blue", "red", "green", "black", "oak", "steel", "linen"),
		    1 + below(random, 5), below(random, 400), below(random, 100),
		    WORD("0.07", "0.19"));
	return at;
}

static size_t make_record(char *out, uint64_t i)
{
	uint64_t state = i * 977 + 5, *random = &state;
	const char *first = WORD("Anna", "Jonas", "Mia", "Paul", "Lea", "Noah", "Ida", "Emil");
	const char *last = WORD("Weber", "Novak", "Rossi", "Dubois", "Larsen", "Silva", "Kowalski");
	char items[RECORD_MAX / 2];

	make_items(items, sizeof items, random);
	return (size_t)snprintf(
	    out, RECORD_MAX,
	    "{\"id\":%" PRIu64 ",\"uuid\":\"%08x-%04x-4%03x-9%03x-%08x%04x\","
	    "\"created_at\":\"2026-%02u-%02uT%02u:%02u:%02uZ\",\"status\":\"%s\",\"currency\":\"%s\","
	    "\"customer\":{\"id\":%u,\"first_name\":\"%s\",\"last_name\":\"%s\","
	    "\"email\":\"%s.%s%u@%s\",\"loyalty\":%s},\"items\":[%s],"
	    "\"shipping\":{\"street\":\"%s %u\",\"postal_code\":\"%05u\",\"city\":\"%s\","
	    "\"country\":\"%s\",\"carrier\":\"%s\",\"tracking\":\"%016" PRIx64 "\"},"
	    "\"payment\":{\"method\":\"%s\",\"last_digits\":\"%04u\",\"captured\":%s},"
	    "\"links\":{\"self\":\"https://api.shop.example/v2/orders/%" PRIu64 "\","
	    "\"invoice\":\"https://api.shop.example/v2/orders/%" PRIu64 "/invoice.pdf\"}}",
	    UINT64_C(70000000) + i * 13, below(random, UINT32_MAX), below(random, 65536),
	    below(random, 4096), below(random, 4096), below(random, UINT32_MAX),
	    below(random, 65536), 1 + below(random, 12), 1 + below(random, 28), below(random, 24),
	    below(random, 60), below(random, 60), WORD("pending", "paid", "shipped", "returned"),
	    WORD("EUR", "EUR", "CHF", "USD"), below(random, 900000), first, last, first, last,
	    below(random, 100), WORD("mail.example", "post.example", "web.example"),
	    WORD("true", "false"), items, WORD("Hauptstrasse", "Via Roma", "Rue Neuve", "Storgata"),
	    1 + below(random, 200), below(random, 100000),
	    WORD("Berlin", "Milano", "Lyon", "Oslo", "Krakow", "Wien", "Basel"),
	    WORD("DE", "IT", "FR", "NO", "PL", "AT", "CH"), WORD("dhl", "ups", "dpd", "post"),
	    bench_random(random), WORD("card", "transfer", "wallet"), below(random, 10000),
	    WORD("true", "false"), UINT64_C(70000000) + i * 13, UINT64_C(70000000) + i * 13);
}

/* --- zstd's own ------------------------------------------------------------------------------------ */

struct measured {
	double values, raw, encoded, ns;
};

static void measure_zstd(const char *record, size_t size, struct measured *sum)
{
	static ZSTD_CCtx *compress;
	static ZSTD_DCtx *decompress;
	static char packed[RECORD_MAX * 2], unpacked[RECORD_MAX];
	uint64_t best = UINT64_MAX;
	size_t got = 0;

	if (!compress) {
		compress = ZSTD_createCCtx();
		decompress = ZSTD_createDCtx();
	}
	for (int i = 0; i < 2; i++) {
		uint64_t start = bench_ns(), ns;

		got = ZSTD_compressCCtx(compress, packed, sizeof packed, record, size, LEVEL);
		bench_require(ZSTD_decompressDCtx(decompress, unpacked, sizeof unpacked, packed,
		                                  got) == size);
		ns = bench_ns() - start;
		best = ns < best ? ns : best;
	}
	sum->values++;
	sum->raw += (double)size;
	sum->encoded += (double)got;
	sum->ns += (double)best;
}

/* --- ours ------------------------------------------------------------------------------------------ */

static void put(terrace_cache *cache, uint64_t i, struct measured *zstd)
{
	char key[24], record[RECORD_MAX];
	size_t size = make_record(record, i);

	snprintf(key, sizeof key, "%" PRIu64, i);
	bench_require(terrace_put(cache, TERRACE_KEY(key), terrace_bytes(record, size), NULL) ==
	              TERRACE_OK);
	if (zstd && i % EVERY == 0)
		measure_zstd(record, size, zstd);
}

/* Trained in the background, from what is on the disk, of a store that is in use. */
static void await_dictionary(terrace_cache *cache)
{
	terrace_codec_info info = TERRACE_CODEC_INFO_INIT;
	terrace_value *value;

	for (int i = 0; i < 600 && info.dictionary_bytes == 0; i++) {
		nanosleep(&(struct timespec){ 0, 50000000 }, NULL);
		bench_require(terrace_get(cache, TERRACE_KEY("0"), &value) == TERRACE_OK);
		terrace_release(value);
		bench_require(terrace_cache_codec(cache, &info) == TERRACE_OK);
	}
	bench_require(info.dictionary_bytes > 0);
}

static terrace_stats stats_of(terrace_cache *cache)
{
	terrace_stats stats = TERRACE_STATS_INIT;

	bench_require(terrace_cache_stats(cache, &stats) == TERRACE_OK);
	return stats;
}

static void measure_ours(struct measured *ours, struct measured *zstd)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_stats before, after;
	terrace *store;
	terrace_cache *cache;

	policy.tiers = TERRACE_L2 | TERRACE_L3;
	policy.codec = TERRACE_CODEC_AUTO;
	policy.write = TERRACE_WRITE_BEHIND;
	bench_require(terrace_open(bench_directory("codec"), NULL, &store) == TERRACE_OK);
	bench_require(terrace_cache_open(store, "bench", &policy, &cache) == TERRACE_OK);
	for (uint64_t i = 0; i < TRAIN; i++)
		put(cache, i, NULL);
	bench_require(terrace_flush(store) == TERRACE_OK);
	await_dictionary(cache);
	before = stats_of(cache);
	for (uint64_t i = TRAIN; i < TRAIN + MEASURED; i++)
		put(cache, i, zstd);
	bench_require(terrace_flush(store) == TERRACE_OK);
	after = stats_of(cache);
	*ours = (struct measured){
		.values = (double)(after.measured - before.measured),
		.raw = (double)(after.raw_bytes - before.raw_bytes),
		.encoded = (double)(after.stored_bytes - before.stored_bytes),
		.ns = (double)(after.measured_zstd_ns - before.measured_zstd_ns),
	};
	terrace_cache_close(cache);
	terrace_close(store);
}

static void print(const char *name, const struct measured *sum)
{
	struct bench bench = { .group = "codec",
		               .name = name,
		               .operation = "encode and decode JSON",
		               .value_bytes = 1024,
		               .threads = 1 };
	uint64_t ns = (uint64_t)(sum->ns / sum->values);

	bench_print(&bench, ns, ns, 1e9 * sum->values / sum->ns);
	/* In bytes, of 1,000 of JSON. */
	bench.operation = "1,000 bytes of JSON";
	bench_print(&bench, (uint64_t)(1000 * sum->encoded / sum->raw),
	            (uint64_t)(1000 * sum->encoded / sum->raw), 0);
}

int main(void)
{
	struct measured ours, zstd = { 0 };

	measure_ours(&ours, &zstd);
	print("terrace", &ours);
	print("zstd", &zstd);
	return 0;
}
