#include "core/codecs.h"

#include "core/caches.h"
#include "core/locks.h"
#include "core/lookup.h"
#include "util/lock.h"
#include "util/time.h"
#include "util/util.h"

#include <stdlib.h>

/* Values that a dictionary is for: with more, zstd learns from the value itself. */
enum { SMALL_LEAST = 64, SMALL_MOST = 16 << 10 };
/* The first training, and what it looks at. */
enum { TRAIN_AT = 1000, SAMPLES_LEAST = 200, SAMPLES_MOST = 8000 };
enum { SAMPLE_BYTES = 8 << 20 };
enum { STRIDE = 8191 }; /* a prime over SAMPLES_MOST: comes by all of them once */
/* It pays when what it makes of values that it has not seen is a seventh smaller. */
#define PAYS 0.85
/* A quarter worse than it was: values have changed. */
#define WORSE 1.25
enum { WINDOW = 1000 };

/* AUTO: one value in 64 is measured, and eight make a choice. */
enum { MEASURE_EVERY = 64, MEASURED_LEAST = 8, MEASURED_MOST = 256 };
enum { MEASURE_BYTES_MOST = 1 << 20 };
/* What a byte on disk is worth, in ns: it is written, read, and in the place of another. */
#define BYTE_NS 20.0

void terrace__codecs_init(struct codecs *codecs)
{
	pthread_mutex_init(&codecs->lock, NULL);
	codecs->train_at = TRAIN_AT;
}

void terrace__codecs_done(struct codecs *codecs)
{
	terrace__dictionary_unref(codecs->dictionary);
	pthread_mutex_destroy(&codecs->lock);
}

static bool is_small(uint64_t size)
{
	return size >= SMALL_LEAST && size <= SMALL_MOST;
}

/* --- what is cheapest ---------------------------------------------------------------------------- */

terrace_codec terrace__codec_cheapest(const struct codec_cost *cost)
{
	terrace_codec best = TERRACE_CODEC_NONE;
	double least = cost->bytes * BYTE_NS;

	if (cost->values < MEASURED_LEAST)
		return TERRACE_CODEC_DEFAULT;
	for (terrace_codec c = TERRACE_CODEC_LZ4; c <= TERRACE_CODEC_ZSTD; c++) {
		double ns = cost->of[c].bytes * BYTE_NS + cost->of[c].ns;

		if (ns < least) {
			least = ns;
			best = c;
		}
	}
	return best;
}

/* Older values weigh less and less. */
static void fade(struct codec_cost *cost)
{
	if (cost->values < MEASURED_MOST)
		return;
	cost->values /= 2;
	cost->bytes /= 2;
	for (terrace_codec c = TERRACE_CODEC_LZ4; c <= TERRACE_CODEC_ZSTD; c++) {
		cost->of[c].bytes /= 2;
		cost->of[c].ns /= 2;
	}
}

static void cost_of_stats(const terrace_stats *stats, struct codec_cost *ret)
{
	*ret = (struct codec_cost){ (double)stats->measured,
		                    (double)stats->measured_bytes,
		                    { { 0 } } };
	ret->of[TERRACE_CODEC_LZ4].bytes = (double)stats->measured_lz4_bytes;
	ret->of[TERRACE_CODEC_LZ4].ns = (double)stats->measured_lz4_ns;
	ret->of[TERRACE_CODEC_ZSTD].bytes = (double)stats->measured_zstd_bytes;
	ret->of[TERRACE_CODEC_ZSTD].ns = (double)stats->measured_zstd_ns;
}

/* Encode and decode once; as zstd, with the dictionary where there is one. */
static void measure_one(struct terrace_cache *cache, terrace_codec codec,
                        struct dictionary *dictionary, terrace_slice value, void *room)
{
	CLEANUP(terrace__buf_done) struct buf out = { 0 };
	const bool with = codec == TERRACE_CODEC_ZSTD && dictionary && is_small(value.size);
	uint64_t ns = UINT64_MAX, bytes = 0;

	/* The better of two: the first finds nothing in the caches, or makes its context. */
	for (int i = 0; i < 2; i++) {
		uint64_t start = terrace__now_ns();
		terrace_codec used;

		out.size = 0;
		used = terrace__codec_encode(with ? TERRACE_CODEC_DICTIONARY : codec, dictionary,
		                             value, &out);
		bytes = used == TERRACE_CODEC_NONE ? value.size : out.size;
		if (used != TERRACE_CODEC_NONE)
			terrace__codec_decode(used, terrace_bytes(out.data, out.size), room,
			                      value.size);
		ns = min_u64(ns, terrace__now_ns() - start);
	}
	cache->codecs.cost.of[codec].bytes += (double)bytes;
	cache->codecs.cost.of[codec].ns += (double)ns;
	if (codec == TERRACE_CODEC_LZ4) {
		count_add(&cache->counts, COUNT_measured_lz4_bytes, bytes);
		count_add(&cache->counts, COUNT_measured_lz4_ns, ns);
	} else {
		count_add(&cache->counts, COUNT_measured_zstd_bytes, bytes);
		count_add(&cache->counts, COUNT_measured_zstd_ns, ns);
	}
}

/* Under the lock. */
static void measure(struct terrace_cache *cache, terrace_slice value)
{
	struct codecs *codecs = &cache->codecs;
	void *room = malloc(value.size);

	if (!room)
		return;
	fade(&codecs->cost);
	codecs->cost.values++;
	codecs->cost.bytes += (double)value.size;
	count_add(&cache->counts, COUNT_measured, 1);
	count_add(&cache->counts, COUNT_measured_bytes, value.size);
	measure_one(cache, TERRACE_CODEC_LZ4, NULL, value, room);
	measure_one(cache, TERRACE_CODEC_ZSTD, codecs->dictionary, value, room);
	codecs->chosen = terrace__codec_cheapest(&codecs->cost);
	free(room);
}

/* --- encoding ------------------------------------------------------------------------------------- */

static terrace_codec default_codec(const struct terrace_cache *cache, uint64_t value_size)
{
	bool row = cache->tiers & TERRACE_L2 && value_size <= cache->inline_bytes;

	return row ? TERRACE_CODEC_NONE : TERRACE_CODEC_LZ4;
}

/* What other processes, and this one before, have found out. Under the lock. */
static void look(struct terrace_cache *cache)
{
	struct codecs *codecs = &cache->codecs;
	struct terrace *store = cache->store;
	terrace_stats stats = TERRACE_STATS_INIT;
	int rc;

	codecs->looked = true;
	codecs->dictionary = terrace__dictionary_latest(store->dir_fd, cache->number);
	if (codecs->dictionary)
		codecs->train_at = UINT64_MAX; /* until it is worth less */
	if (cache->codec != TERRACE_CODEC_AUTO)
		return;
	/* The file's lock is the process's: a thread that adds to it must not lose it. */
	pthread_mutex_lock(&store->stats_lock);
	rc = terrace__stats_file_read(store->dir_fd, store->lock_fd, cache->number, &stats);
	pthread_mutex_unlock(&store->stats_lock);
	if (rc == 0)
		cost_of_stats(&stats, &codecs->cost);
	while (codecs->cost.values >= MEASURED_MOST)
		fade(&codecs->cost);
	codecs->chosen = terrace__codec_cheapest(&codecs->cost);
}

/* The first ones; then one in so many, wherever a process that does little begins to count. */
static bool is_turn(struct codecs *codecs, uint64_t token)
{
	return (codecs->calls++ + token) % MEASURE_EVERY == 0 ||
	       codecs->cost.values < MEASURED_LEAST;
}

/* *ret_dictionary: with a reference, where it is to be used. */
static terrace_codec choose(struct terrace_cache *cache, terrace_slice value,
                            struct dictionary **ret_dictionary)
{
	struct codecs *codecs = &cache->codecs;
	terrace_codec codec = cache->codec;

	*ret_dictionary = NULL;
	if (codec != TERRACE_CODEC_ZSTD && codec != TERRACE_CODEC_AUTO)
		return codec == TERRACE_CODEC_DEFAULT ? default_codec(cache, value.size) : codec;
	pthread_mutex_lock(&codecs->lock);
	if (!codecs->looked)
		look(cache);
	if (codec == TERRACE_CODEC_AUTO) {
		if (is_turn(codecs, cache->store->token) && value.size >= SMALL_LEAST &&
		    value.size <= MEASURE_BYTES_MOST)
			measure(cache, value);
		codec = codecs->chosen;
	}
	if (is_small(value.size))
		codecs->small++;
	if (codec == TERRACE_CODEC_ZSTD && is_small(value.size) && codecs->dictionary) {
		*ret_dictionary = codecs->dictionary;
		terrace__dictionary_ref(codecs->dictionary);
		codec = TERRACE_CODEC_DICTIONARY;
	}
	pthread_mutex_unlock(&codecs->lock);
	return codec == TERRACE_CODEC_DEFAULT ? default_codec(cache, value.size) : codec;
}

/* Is the dictionary still worth what it was? */
static void watch(struct codecs *codecs, size_t raw, size_t encoded)
{
	pthread_mutex_lock(&codecs->lock);
	codecs->raw += (double)raw;
	codecs->encoded += (double)encoded;
	if (++codecs->values >= WINDOW) {
		double now = codecs->encoded / codecs->raw;

		if (codecs->expected == 0 || now < codecs->expected)
			codecs->expected = now;
		else if (now > codecs->expected * WORSE)
			codecs->train_at = codecs->small;
		codecs->raw = codecs->encoded = 0;
		codecs->values = 0;
	}
	pthread_mutex_unlock(&codecs->lock);
}

void terrace__codecs_count(struct terrace_cache *cache, unsigned codec, uint64_t raw,
                           uint64_t encoded)
{
	static const enum counter counters[] = {
		[TERRACE_CODEC_NONE] = COUNT_stored_plain,
		[TERRACE_CODEC_LZ4] = COUNT_stored_lz4,
		[TERRACE_CODEC_ZSTD] = COUNT_stored_zstd,
		[TERRACE_CODEC_DICTIONARY] = COUNT_stored_dictionary,
	};

	count_add(&cache->counts, counters[codec], 1);
	count_add(&cache->counts, COUNT_raw_bytes, raw);
	count_add(&cache->counts, COUNT_stored_bytes, encoded);
}

terrace_codec terrace__codecs_for_blocks(struct terrace_cache *cache, terrace_slice first)
{
	struct dictionary *dictionary;
	terrace_codec codec;

	if (cache->codec == TERRACE_CODEC_DEFAULT)
		return TERRACE_CODEC_LZ4;
	codec = choose(cache, first, &dictionary); /* a block is too large for a dictionary */
	terrace__dictionary_unref(dictionary);
	return codec == TERRACE_CODEC_DICTIONARY ? TERRACE_CODEC_ZSTD : codec;
}

terrace_codec terrace__codecs_encode(struct terrace_cache *cache, terrace_slice value,
                                     struct buf *out)
{
	struct dictionary *dictionary;
	terrace_codec codec = choose(cache, value, &dictionary);
	size_t encoded;

	codec = terrace__codec_encode(codec, dictionary, value, out);
	encoded = codec == TERRACE_CODEC_NONE ? value.size : out->size;
	if (dictionary)
		watch(&cache->codecs, value.size, encoded);
	terrace__dictionary_unref(dictionary);
	terrace__codecs_count(cache, codec, value.size, encoded);
	return codec;
}

/* --- training --------------------------------------------------------------------------------------- */

struct samples {
	struct terrace_cache *cache;
	terrace_slice *keys; /* `data`: where each begins in `text` */
	size_t key_count;
	struct buf text;
	struct buf values;
	size_t *sizes;
	unsigned count;
};

static bool add_key(void *ctx, const struct tier_row *row)
{
	struct samples *samples = ctx;

	if (row->absent)
		return true;
	samples->keys[samples->key_count++] = terrace_bytes((void *)samples->text.size,
	                                                    row->key.size);
	terrace__buf_append(&samples->text, row->key.data, row->key.size);
	return samples->key_count < SAMPLES_MOST && !samples->text.failed;
}

/* The latest values of the cache, from the disk. */
static void collect(struct samples *samples)
{
	struct terrace_cache *cache = samples->cache;
	struct terrace *store = cache->store;
	const terrace_match all = { TERRACE_MATCH_ALL, { NULL, 0 } };
	const struct disk_where where = {
		.kind = DISK_MATCHING, .cache = cache->number, .newest_first = true, .match = &all
	};

	if (store->disk_ops->select(store->disk, &where, add_key, samples) != TERRACE_OK ||
	    samples->text.failed)
		return;
	for (size_t i = 0; i < samples->key_count && samples->values.size < SAMPLE_BYTES; i++) {
		/* Out of order, so that those it is tried on are as old as the others. */
		terrace_slice text = samples->keys[i * STRIDE % samples->key_count];
		struct tier_key key = cache_key(
		    cache, terrace_bytes(samples->text.data + (uintptr_t)text.data, text.size));
		struct entry *entry;

		if (store->disk_ops->tier.get(store->disk, &key, false, &entry) != TERRACE_OK)
			continue;
		if (is_small(entry->value_size)) {
			terrace__buf_append(&samples->values, entry_value(entry),
			                    (size_t)entry->value_size);
			samples->sizes[samples->count++] = (size_t)entry->value_size;
		}
		entry_unref(entry);
		if (samples->values.failed)
			return;
	}
}

/* What the values behind the first `skip` ones take: with the dictionary, or without. */
static double encoded_size(const struct samples *samples, unsigned skip,
                           struct dictionary *dictionary, double *ret_raw)
{
	const uint8_t *at = samples->values.data;
	double sum = 0, raw = 0;

	for (unsigned i = 0; i < samples->count; i++) {
		CLEANUP(terrace__buf_done) struct buf out = { 0 };
		terrace_slice value = terrace_bytes(at, samples->sizes[i]);
		terrace_codec used;

		at += samples->sizes[i];
		if (i < skip)
			continue;
		used = terrace__codec_encode(dictionary ? TERRACE_CODEC_DICTIONARY :
		                                          TERRACE_CODEC_ZSTD,
		                             dictionary, value, &out);
		sum += (double)(used == TERRACE_CODEC_NONE ? value.size : out.size);
		raw += (double)value.size;
	}
	*ret_raw = raw;
	return sum;
}

/* A dictionary for what was collected, if it pays; from three quarters of it, tried on the rest. */
static struct dictionary *train(const struct samples *samples, double *ret_expected)
{
	unsigned learn = samples->count / 4 * 3;
	struct dictionary *dictionary = NULL;
	double with, without, raw;

	if (samples->count < SAMPLES_LEAST || samples->values.failed ||
	    terrace__dictionary_train(samples->values.data, samples->sizes, learn, &dictionary) !=
	        TERRACE_OK)
		return NULL;
	with = encoded_size(samples, learn, dictionary, &raw);
	without = encoded_size(samples, learn, NULL, &raw);
	*ret_expected = with / raw;
	if (with <= without * PAYS)
		return dictionary;
	terrace__dictionary_unref(dictionary);
	return NULL;
}

static void adopt(struct terrace_cache *cache, struct dictionary *dictionary, double expected)
{
	struct codecs *codecs = &cache->codecs;

	pthread_mutex_lock(&codecs->lock);
	if (dictionary) {
		terrace__dictionary_unref(codecs->dictionary);
		codecs->dictionary = dictionary;
		codecs->expected = expected;
		codecs->raw = codecs->encoded = 0;
		codecs->values = 0;
		codecs->train_at = UINT64_MAX; /* until it is worth less */
		/* What zstd cost without it says nothing any more. */
		codecs->cost = (struct codec_cost){ 0 };
	} else {
		codecs->train_at = 2 * codecs->small;
	}
	pthread_mutex_unlock(&codecs->lock);
}

static void train_for(struct terrace_cache *cache)
{
	struct samples samples = { .cache = cache };
	struct dictionary *dictionary = NULL;
	double expected = 0;
	int rc;

	samples.keys = calloc(SAMPLES_MOST, sizeof *samples.keys);
	samples.sizes = calloc(SAMPLES_MOST, sizeof *samples.sizes);
	if (samples.keys && samples.sizes)
		collect(&samples);
	dictionary = samples.sizes ? train(&samples, &expected) : NULL;
	if (dictionary) {
		rc = terrace__dictionary_keep(dictionary, cache->store->dir_fd, cache->number);
		terrace__log(
		    cache->store, rc == 0 ? TERRACE_LOG_INFO : TERRACE_LOG_WARN,
		    "%s: a dictionary from %u values, which become %.0f %% of their size%s%s",
		    cache->name, samples.count, 100 * expected,
		    rc == 0 ? "" : "; it cannot be kept: ", rc == 0 ? "" : strerror(-rc));
		if (rc != 0) {
			terrace__dictionary_unref(dictionary);
			dictionary = NULL;
		}
	}
	adopt(cache, dictionary, expected);
	terrace__buf_done(&samples.text);
	terrace__buf_done(&samples.values);
	free(samples.keys);
	free(samples.sizes);
}

/* Another process may have trained one meanwhile. */
static bool take_newer(struct terrace_cache *cache)
{
	struct codecs *codecs = &cache->codecs;
	struct dictionary *latest = terrace__dictionary_latest(cache->store->dir_fd, cache->number);
	bool newer;

	pthread_mutex_lock(&codecs->lock);
	newer = latest && latest != codecs->dictionary;
	pthread_mutex_unlock(&codecs->lock);
	if (newer)
		adopt(cache, latest, 0);
	else
		terrace__dictionary_unref(latest);
	return newer;
}

void terrace__codecs_tick(struct terrace_cache *cache)
{
	struct terrace *store = cache->store;
	struct codecs *codecs = &cache->codecs;
	bool due;

	if (!cache->on_disk ||
	    (cache->codec != TERRACE_CODEC_ZSTD && cache->codec != TERRACE_CODEC_AUTO))
		return;
	pthread_mutex_lock(&codecs->lock);
	due = codecs->looked && codecs->small >= codecs->train_at;
	pthread_mutex_unlock(&codecs->lock);
	if (!due || terrace__lock_try(store->lock_fd, LOCK_TRAINERS + cache->number, true) != 0)
		return;
	if (!take_newer(cache))
		train_for(cache);
	terrace__unlock(store->lock_fd, LOCK_TRAINERS + cache->number);
}

void terrace__codecs_describe(struct terrace_cache *cache, const terrace_stats *stats,
                              terrace_codec_info *ret)
{
	struct codec_cost cost;
	struct dictionary *latest = NULL;

	cost_of_stats(stats, &cost);
	ret->codec = ret->chosen = cache->codec;
	if (cache->codec == TERRACE_CODEC_AUTO)
		ret->chosen = terrace__codec_cheapest(&cost);
	if (cache->on_disk)
		latest = terrace__dictionary_latest(cache->store->dir_fd, cache->number);
	if (!latest)
		return;
	ret->dictionary_bytes = terrace__dictionary_size(latest);
	ret->dictionary_version = terrace__dictionary_version(latest);
	terrace__dictionary_unref(latest);
}
