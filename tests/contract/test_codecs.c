/* Dictionaries: trained, versioned, damaged; and what codec auto chooses. */
#include "support/support.h"

#include "core/keeper.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	fixture_open(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fixture_close(f);
	free(f);
	return 0;
}

static terrace_cache *cache_of(struct fixture *f, const char *name, terrace_codec codec)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.codec = codec;
	policy.tiers = TERRACE_L2 | TERRACE_L3;
	return fixture_rows(f, name, &policy);
}

/* About 1 KB of JSON: every field once, named and filled as `kind` says, so that a record tells
 * little of itself and much of the others. */
static size_t make_record(char *out, size_t size, const char *kind, unsigned i)
{
	static const char *const words[] = { "available", "temporary",  "measured", "delivered",
		                             "upstream",  "calibrated", "returned", "exported" };
	struct rng rng = { i + 1 }, names = { 0 };
	size_t at = (size_t)snprintf(out, size, "{\"id\":%u", i);

	for (const char *c = kind; *c; c++)
		names.state = names.state * 31 + (unsigned char)*c;
	for (int field = 0; field < 22; field++) {
		const char *first = words[rng_below(&names, 8)];

		at += (size_t)snprintf(out + at, size - at, ",\"%s_%s_%05x\":", first, kind,
		                       (unsigned)rng_below(&names, 1 << 20));
		if (field % 2)
			at += (size_t)snprintf(out + at, size - at, "%u",
			                       (unsigned)rng_below(&rng, 100000));
		else
			at += (size_t)snprintf(out + at, size - at, "\"%s %s\"",
			                       words[rng_below(&rng, 8)],
			                       words[rng_below(&rng, 8)]);
	}
	return at + (size_t)snprintf(out + at, size - at, "}");
}

static void put_records(terrace_cache *cache, const char *kind, unsigned from, unsigned count)
{
	char key[32], value[4096];

	for (unsigned i = from; i < from + count; i++) {
		size_t size = make_record(value, sizeof value, kind, i);

		snprintf(key, sizeof key, "%s:%u", kind, i);
		assert_ok(terrace_put(cache, terrace_str(key), terrace_bytes(value, size), NULL));
	}
}

/* How many of them are there; those that are must be right. */
static unsigned count_records(terrace_cache *cache, const char *kind, unsigned from, unsigned count)
{
	char key[32], expected[4096];
	unsigned found = 0;

	for (unsigned i = from; i < from + count; i++) {
		size_t size = make_record(expected, sizeof expected, kind, i);
		terrace_value *value;

		snprintf(key, sizeof key, "%s:%u", kind, i);
		if (terrace_get(cache, terrace_str(key), &value) != TERRACE_OK)
			continue;
		assert_int_equal(terrace_size(value), size);
		assert_memory_equal(terrace_data(value), expected, size);
		terrace_release(value);
		found++;
	}
	return found;
}

static terrace_stats stats_of(terrace_cache *cache)
{
	terrace_stats stats = TERRACE_STATS_INIT;

	assert_ok(terrace_cache_stats(cache, &stats));
	return stats;
}

static terrace_codec_info codec_of(terrace_cache *cache)
{
	terrace_codec_info info = TERRACE_CODEC_INFO_INIT;

	assert_ok(terrace_cache_codec(cache, &info));
	return info;
}

static int64_t tick_time;

/* An hour later: after a tick that took long, as with a training in it, the next is put off. */
static void tick(struct fixture *f)
{
	terrace__keeper_tick(f->store, tick_time += 3600000);
}

/* The files of dictionaries; the path of the last one seen. */
static int dictionaries(const struct fixture *f, char path[512])
{
	const char *folder = scratch_path(&f->scratch, "store/v2/dictionaries");
	DIR *dir = opendir(folder);
	struct dirent *entry;
	int count = 0;

	while (dir && (entry = readdir(dir))) {
		if (*entry->d_name == '.')
			continue;
		snprintf(path, 512, "%s/%.100s", folder, entry->d_name);
		count++;
	}
	if (dir)
		closedir(dir);
	return count;
}

/* --- dictionaries ---------------------------------------------------------------------------------- */

static void test_dictionary__small_records_become_half_of_what_zstd_makes(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of(f, "a", TERRACE_CODEC_ZSTD);
	terrace_stats before, after;
	double plain, with;

	put_records(cache, "item", 0, 2000);
	before = stats_of(cache);
	assert_int_equal(before.stored_zstd, 2000);
	plain = (double)before.raw_bytes / (double)before.stored_bytes;
	assert_int_equal(codec_of(cache).dictionary_bytes, 0);
	tick(f);
	assert_int_equal(codec_of(cache).dictionary_version, 1);
	assert_in_range(codec_of(cache).dictionary_bytes, 1000, 16384);
	put_records(cache, "item", 2000, 1000);
	after = stats_of(cache);
	assert_int_equal(after.stored_dictionary, 1000);
	with = (double)(after.raw_bytes - before.raw_bytes) /
	       (double)(after.stored_bytes - before.stored_bytes);
	print_message("ratio %.2f without, %.2f with a dictionary\n", plain, with);
	assert_true(with >= 1.9 * plain);
	assert_int_equal(count_records(cache, "item", 0, 3000), 3000);
	/* One that had no part in it. */
	terrace_cache_close(cache);
	fixture_reopen(f);
	cache = cache_of(f, "a", TERRACE_CODEC_ZSTD);
	assert_int_equal(count_records(cache, "item", 0, 3000), 3000);
	put_records(cache, "item", 3000, 10);
	assert_int_equal(stats_of(cache).stored_dictionary, 1010);
	terrace_cache_close(cache);
}

static void test_dictionary__values_that_change_get_a_new_one(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of(f, "a", TERRACE_CODEC_ZSTD);

	put_records(cache, "item", 0, 2000);
	tick(f);
	put_records(cache, "item", 2000, 1500);
	tick(f);
	assert_int_equal(codec_of(cache).dictionary_version, 1); /* it does as well as ever */
	put_records(cache, "star", 0, 6000);
	tick(f);
	assert_int_equal(codec_of(cache).dictionary_version, 2);
	put_records(cache, "star", 6000, 100);
	/* Those of the former one stay readable, in a process that finds both. */
	terrace_cache_close(cache);
	fixture_reopen(f);
	cache = cache_of(f, "a", TERRACE_CODEC_ZSTD);
	assert_int_equal(count_records(cache, "item", 0, 3500), 3500);
	assert_int_equal(count_records(cache, "star", 0, 6100), 6100);
	terrace_cache_close(cache);
}

static void test_dictionary__not_where_values_have_nothing_in_common(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of(f, "a", TERRACE_CODEC_ZSTD);
	struct rng rng = { 7 };
	char path[512], key[16];
	uint64_t noise[64];

	for (int i = 0; i < 1500; i++) {
		for (int k = 0; k < 64; k++)
			noise[k] = rng_next(&rng);
		snprintf(key, sizeof key, "%d", i);
		assert_ok(
		    terrace_put(cache, terrace_str(key), terrace_bytes(noise, sizeof noise), NULL));
	}
	tick(f);
	assert_int_equal(codec_of(cache).dictionary_bytes, 0);
	assert_int_equal(dictionaries(f, path), 0);
	terrace_cache_close(cache);
}

static void with_dictionary(struct fixture *f, char path[512])
{
	terrace_cache *cache = cache_of(f, "a", TERRACE_CODEC_ZSTD);

	put_records(cache, "item", 0, 1200);
	tick(f);
	put_records(cache, "item", 1200, 100);
	terrace_cache_close(cache);
	terrace_close(f->store);
	f->store = NULL;
	assert_int_equal(dictionaries(f, path), 1);
}

static void expect_only_the_first_1200(struct fixture *f)
{
	terrace_cache *cache;

	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	cache = cache_of(f, "a", TERRACE_CODEC_ZSTD);
	assert_int_equal(count_records(cache, "item", 0, 1300), 1200);
	put_records(cache, "item", 1250, 10);
	assert_int_equal(count_records(cache, "item", 1250, 10), 10);
	assert_in_range(stats_of(cache).damaged, 90, 100);
	terrace_cache_close(cache);
}

static void test_dictionary__damaged_is_misses(void **state)
{
	struct fixture *f = *state;
	char path[512], byte;
	int fd;

	with_dictionary(f, path);
	fd = open(path, O_RDWR);
	assert_int_equal(pread(fd, &byte, 1, 5000), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, 5000), 1);
	close(fd);
	expect_only_the_first_1200(f);
}

static void test_dictionary__gone_is_misses(void **state)
{
	struct fixture *f = *state;
	char path[512];

	with_dictionary(f, path);
	assert_int_equal(unlink(path), 0);
	expect_only_the_first_1200(f);
}

/* Good by itself, and not the one that it is named as. */
static void test_dictionary__another_ones_is_misses(void **state)
{
	struct fixture *f = *state;
	terrace_cache *other = cache_of(f, "other", TERRACE_CODEC_ZSTD);
	char path[512], aside[512], mine[512];

	put_records(other, "star", 0, 1200);
	tick(f);
	terrace_cache_close(other);
	assert_int_equal(dictionaries(f, path), 1);
	snprintf(aside, sizeof aside, "%s", scratch_path(&f->scratch, "aside"));
	assert_int_equal(rename(path, aside), 0);
	with_dictionary(f, mine);
	assert_int_equal(rename(aside, mine), 0);
	expect_only_the_first_1200(f);
}

static void test_dictionary__only_some_are_kept(void **state)
{
	struct fixture *f = *state;
	char path[512];

	for (unsigned version = 1; version <= DICTIONARIES_KEPT + 3; version++) {
		static char samples[1000 * 64];
		size_t sizes[1000];
		struct dictionary *dictionary;

		for (int i = 0; i < 1000; i++) {
			char text[65];

			snprintf(text, sizeof text,
			         "of version %u: the same words but for %08d, and more", version,
			         i * 7919);
			memcpy(samples + 64L * i, text, 64);
			sizes[i] = 64;
		}
		assert_ok(terrace__dictionary_train(samples, sizes, 1000, &dictionary));
		assert_int_equal(terrace__dictionary_keep(dictionary, f->store->dir_fd, 3), 0);
		assert_int_equal(terrace__dictionary_version(dictionary), version);
		terrace__dictionary_unref(dictionary);
	}
	assert_int_equal(dictionaries(f, path), DICTIONARIES_KEPT);
}

/* --- auto ------------------------------------------------------------------------------------------- */

static void test_auto__the_cheapest_of_what_was_measured(void **state)
{
	struct codec_cost cost = { .values = 100, .bytes = 100000 };

	(void)state;
	cost.of[TERRACE_CODEC_LZ4].bytes = 60000;
	cost.of[TERRACE_CODEC_LZ4].ns = 200000;
	cost.of[TERRACE_CODEC_ZSTD].bytes = 40000;
	cost.of[TERRACE_CODEC_ZSTD].ns = 590000;
	assert_int_equal(terrace__codec_cheapest(&cost),
	                 TERRACE_CODEC_ZSTD); /* 1.39 of 1.40 and 2.00 ms */
	cost.of[TERRACE_CODEC_ZSTD].ns = 610000;
	assert_int_equal(terrace__codec_cheapest(&cost), TERRACE_CODEC_LZ4);
	cost.of[TERRACE_CODEC_LZ4].ns = 810000;
	cost.of[TERRACE_CODEC_ZSTD].ns = 1210000;
	assert_int_equal(terrace__codec_cheapest(&cost), TERRACE_CODEC_NONE);
	cost.values = 7;
	assert_int_equal(terrace__codec_cheapest(&cost), TERRACE_CODEC_DEFAULT);
}

static void test_auto__noise_is_stored_as_it_is(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of(f, "a", TERRACE_CODEC_AUTO);
	struct rng rng = { 7 };
	uint64_t noise[512];
	char key[16];

	for (int i = 0; i < 600; i++) {
		for (int k = 0; k < 512; k++)
			noise[k] = rng_next(&rng);
		snprintf(key, sizeof key, "%d", i);
		assert_ok(
		    terrace_put(cache, terrace_str(key), terrace_bytes(noise, sizeof noise), NULL));
	}
	assert_int_equal(codec_of(cache).codec, TERRACE_CODEC_AUTO);
	assert_int_equal(codec_of(cache).chosen, TERRACE_CODEC_NONE);
	assert_in_range(stats_of(cache).measured, 8 + 8, 8 + 10);
	assert_int_equal(stats_of(cache).stored_plain, 600);
	terrace_cache_close(cache);
}

static void test_auto__what_was_measured_is_known_to_the_next_process(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of(f, "a", TERRACE_CODEC_AUTO);
	static char zeros[100000]; /* whatever the machine: a thousandth of the bytes */
	terrace_stats stats;
	char key[16];

	for (int i = 0; i < 600; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(
		    terrace_put(cache, terrace_str(key), terrace_bytes(zeros, sizeof zeros), NULL));
	}
	assert_int_not_equal(codec_of(cache).chosen, TERRACE_CODEC_NONE);
	assert_int_not_equal(codec_of(cache).chosen, TERRACE_CODEC_DEFAULT);
	terrace_cache_close(cache);
	fixture_reopen(f);
	cache = cache_of(f, "a", TERRACE_CODEC_AUTO);
	assert_ok(
	    terrace_put(cache, TERRACE_KEY("more"), terrace_bytes(zeros, sizeof zeros), NULL));
	stats = stats_of(cache);
	assert_int_equal(stats.stored_plain, 0);
	assert_int_equal(stats.stored_lz4 + stats.stored_zstd, 601);
	terrace_cache_close(cache);
}

int main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		test(dictionary__small_records_become_half_of_what_zstd_makes),
		test(dictionary__values_that_change_get_a_new_one),
		test(dictionary__not_where_values_have_nothing_in_common),
		test(dictionary__damaged_is_misses),
		test(dictionary__gone_is_misses),
		test(dictionary__another_ones_is_misses),
		test(dictionary__only_some_are_kept),
		test(auto__the_cheapest_of_what_was_measured),
		test(auto__noise_is_stored_as_it_is),
		test(auto__what_was_measured_is_known_to_the_next_process),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
