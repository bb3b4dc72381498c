/* The parts of a repository map that the command does not show: one process twice, damage, fuzz. */
#include "support/support.h"

#include "repomap/scan.h"

#include <sys/stat.h>
#include <unistd.h>

struct repo {
	struct scratch scratch;
	terrace *store;
};

static int repo_setup(void **state)
{
	struct repo *repo = calloc(1, sizeof *repo);

	if (!getenv("TERRACE_GRAMMARS") || access(getenv("TERRACE_GRAMMARS"), R_OK) < 0) {
		printf("SKIP: no grammars: make repomap builds them\n");
		exit(77);
	}
	scratch_make(&repo->scratch);
	mkdir(scratch_path(&repo->scratch, "r"), 0700);
	write_file(scratch_path(&repo->scratch, "r/a.py"),
	           "class A:\n    def method_of_a(self):\n        helper_of_b()\n");
	write_file(scratch_path(&repo->scratch, "r/b.py"), "def helper_of_b():\n    pass\n");
	assert_ok(terrace_open(scratch_path(&repo->scratch, "store"), NULL, &repo->store));
	*state = repo;
	return 0;
}

static int repo_teardown(void **state)
{
	struct repo *repo = *state;

	terrace_close(repo->store);
	scratch_remove(&repo->scratch);
	free(repo);
	return 0;
}

/* The whole report but its counters; the counters in *ret. The caller frees it. */
static char *map_of(struct repo *repo, struct repomap_counters *ret)
{
	struct repomap_spec spec = { .dir = scratch_path(&repo->scratch, "r"), .want_tags = true };
	struct repomap_context context = { 0 };
	struct repomap_map made;
	repomap *map;
	char *text = NULL, *counters;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	assert_ok(repomap_open(repo->store, &spec, &map));
	assert_ok(repomap_maps(map, &context, 1, &made));
	assert_ok(repomap_write_json(map, &made, 1, false, out));
	*ret = *repomap_counted(map);
	repomap_map_free(&made);
	repomap_close(map);
	fclose(out);
	counters = strstr(text, "\"counters\"");
	assert_non_null(counters);
	*counters = '\0';
	return text;
}

static void test_map__from_memory_is_the_same(void **state)
{
	struct repomap_counters counters;
	struct repo *repo = *state;
	struct repomap_spec spec = { .dir = scratch_path(&repo->scratch, "r") };
	char *first, *again;
	repomap *held;

	/* This one holds the caches open: what the second finds is in memory. */
	assert_ok(repomap_open(repo->store, &spec, &held));
	first = map_of(repo, &counters);
	assert_int_equal(counters.parsed, 2);
	again = map_of(repo, &counters);
	assert_int_equal(counters.parsed, 0);
	assert_int_equal(counters.from_l1, 2);
	assert_true(counters.map_cached);
	assert_string_equal(first, again);
	free(again);

	/* The tags one by one, where the manifest is gone. */
	{
		terrace_cache *files;

		assert_ok(terrace_cache_open(repo->store, "repomap.files", NULL, &files));
		assert_ok(terrace_clear(files, 0, NULL));
		terrace_cache_close(files);
	}
	again = map_of(repo, &counters);
	assert_int_equal(counters.parsed, 0);
	assert_int_equal(counters.from_l1, 2);
	assert_string_equal(first, again);
	free(first);
	free(again);
	repomap_close(held);
}

static int64_t ns_of(struct timespec time)
{
	return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/*
 * A file written twice within the grain of its time stamps: the manifest is made to
 * say what such a file system would have it say, the times of the second writing.
 */
static void test_scan__an_edit_that_no_time_stamp_shows_is_seen(void **state)
{
	struct repo *repo = *state;
	struct repomap_counters counters;
	terrace_cache *files;
	terrace_value *value;
	terrace_keys *keys;
	terrace_slice key;
	bool patched = false;
	char *text;

	free(map_of(repo, &counters));
	write_file(scratch_path(&repo->scratch, "r/b.py"), "def helper_of_c():\n    pass\n");
	assert_ok(terrace_cache_open(repo->store, "repomap.files", NULL, &files));
	assert_ok(terrace_keys_open(files, NULL, &keys));
	while (terrace_keys_next(keys, &key) == TERRACE_OK && !patched) {
		struct manifest_head head;
		struct record record;
		struct stat st;
		size_t at = sizeof head + sizeof record; /* of b.py, the second */
		char *copy, name[4096];

		if (!memmem(key.data, key.size, ":files:", 7))
			continue;
		memcpy(name, key.data, key.size);
		key.data = name;
		assert_ok(terrace_get(files, key, &value));
		copy = malloc(terrace_size(value));
		memcpy(copy, terrace_data(value), terrace_size(value));
		memcpy(&record, copy + at, sizeof record);
		assert_int_equal(stat(scratch_path(&repo->scratch, "r/b.py"), &st), 0);
		assert_int_equal(record.mark.size, st.st_size);
		assert_true(record.flags & FILE_RACY);
		record.mark = (struct mark){ (uint64_t)st.st_size, ns_of(st.st_mtim),
			                     ns_of(st.st_ctim), st.st_ino };
		memcpy(copy + at, &record, sizeof record);
		assert_ok(terrace_put(files, key, terrace_bytes(copy, terrace_size(value)), NULL));
		terrace_release(value);
		free(copy);
		patched = true;
	}
	assert_true(patched);
	terrace_keys_close(keys);
	terrace_cache_close(files);
	text = map_of(repo, &counters);
	assert_int_equal(counters.parsed, 1);
	assert_non_null(strstr(text, "helper_of_c"));
	free(text);
}

static int spoil(terrace_cache *cache, uint64_t seed)
{
	struct rng rng = { seed };
	terrace_keys *keys;
	terrace_slice key;
	int count = 0;

	assert_ok(terrace_keys_open(cache, NULL, &keys));
	while (terrace_keys_next(keys, &key) == TERRACE_OK) {
		terrace_value *value;
		char *copy, name[4096];
		size_t size;

		assert_ok(terrace_get(cache, key, &value));
		size = terrace_size(value);
		copy = malloc(size + 1);
		memcpy(copy, terrace_data(value), size);
		terrace_release(value);
		if (rng_below(&rng, 3) == 0)
			size = rng_below(&rng, size + 1);
		for (int i = 0; i < 4 && size; i++)
			copy[rng_below(&rng, size)] ^= (char)(1 + rng_below(&rng, 255));
		assert_true(key.size < sizeof name);
		memcpy(name, key.data, key.size);
		assert_ok(terrace_put(cache, terrace_bytes(name, key.size),
		                      terrace_bytes(copy, size), NULL));
		free(copy);
		count++;
	}
	terrace_keys_close(keys);
	return count;
}

/* Bytes that the store vouches for and that are not ours all the same: no crash. */
static void test_map__from_values_that_somebody_else_wrote(void **state)
{
	static const char *const names[] = { "repomap.files", "repomap.tags", "repomap.maps" };
	uint64_t seed = test_seed();
	struct repomap_counters counters;
	struct repo *repo = *state;

	for (int round = 0; round < 300; round++) {
		terrace_cache *cache;

		free(map_of(repo, &counters));
		assert_ok(terrace_cache_open(repo->store, names[round % 3], NULL, &cache));
		assert_true(spoil(cache, seed + (uint64_t)round) > 0);
		free(map_of(repo, &counters));
		assert_ok(terrace_clear(cache, 0, NULL));
		terrace_cache_close(cache);
	}
}

static void test_scan__that_is_cancelled_keeps_what_it_did(void **state)
{
	struct repo *repo = *state;
	struct repomap_spec spec = { .dir = scratch_path(&repo->scratch, "r") };
	struct repomap_progress progress = { 0 };
	struct repomap_counters counters;
	repomap *map;
	char *text;

	progress.cancel = true;
	assert_ok(repomap_open(repo->store, &spec, &map));
	assert_status(repomap_scan(map, &progress), TERRACE_MISS);
	assert_int_equal(progress.total, 2);
	assert_int_equal(progress.done, 0);
	repomap_close(map);
	text = map_of(repo, &counters);
	assert_int_equal(counters.parsed, 2);
	free(text);
}

static void test_utf8__only_what_is_wrong_is_mended(void **state)
{
	static const struct {
		const char *bytes, *mended;
	} samples[] = {
		{ "plain", "plain" },
		{ "é€😀", "é€😀" },
		{ "\xff", "?" },
		{ "a\xc3", "a?" },
		{ "\xc0\xaf", "??" },           /* too long a form */
		{ "\xed\xa0\x80", "???" },      /* a surrogate */
		{ "\xf4\x90\x80\x80", "????" }, /* beyond the last */
		{ "\xe2\x82x", "??x" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
		char text[16];
		bool is_wrong = strcmp(samples[i].bytes, samples[i].mended) != 0;

		strcpy(text, samples[i].bytes);
		assert_int_equal(utf8_mend(text, strlen(text)), is_wrong);
		assert_string_equal(text, samples[i].mended);
	}
	assert_int_equal(utf8_count("é€😀x", strlen("é€😀x")), 4);
	assert_int_equal(utf8_prefix("é€😀x", strlen("é€😀x"), 2), 5);
	assert_int_equal(utf8_prefix("ab", 2, 9), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_map__from_memory_is_the_same, repo_setup,
		                                repo_teardown),
		cmocka_unit_test_setup_teardown(test_scan__an_edit_that_no_time_stamp_shows_is_seen,
		                                repo_setup, repo_teardown),
		cmocka_unit_test_setup_teardown(test_map__from_values_that_somebody_else_wrote,
		                                repo_setup, repo_teardown),
		cmocka_unit_test_setup_teardown(test_scan__that_is_cancelled_keeps_what_it_did,
		                                repo_setup, repo_teardown),
		cmocka_unit_test(test_utf8__only_what_is_wrong_is_mended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
