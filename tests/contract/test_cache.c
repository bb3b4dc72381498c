/* The verbs of a cache, through the public headers. */
#include "support/support.h"

#include "core/store.h"

#include <ftw.h>
#include <sys/stat.h>

#include <dirent.h>
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

static terrace_cache *cache_with_tiers(struct fixture *f, const char *name, unsigned tiers)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.tiers = tiers;
	return fixture_cache(f, name, &policy);
}

static int put_tagged(terrace_cache *cache, const char *key, const char *text, const char *tag)
{
	terrace_put_options options = TERRACE_PUT_INIT;

	options.tags = &tag;
	options.tag_count = 1;
	return terrace_put(cache, terrace_str(key), terrace_str(text), &options);
}

static int put_for(terrace_cache *cache, const char *key, int64_t ttl_ms)
{
	terrace_put_options options = TERRACE_PUT_INIT;

	options.ttl_ms = ttl_ms;
	return terrace_put(cache, terrace_str(key), terrace_str("v"), &options);
}

static unsigned tier_of(terrace_cache *cache, const char *key)
{
	terrace_value *value;
	unsigned tier;

	assert_ok(terrace_get(cache, terrace_str(key), &value));
	tier = terrace_value_tier(value);
	terrace_release(value);
	return tier;
}

/* Run a case on a cache in memory alone and on one with a disk. */
#define ON_BOTH(f, cache)                                                            \
	for (unsigned both_ = 0; both_ < 2; both_++)                                 \
		for (terrace_cache *cache = cache_with_tiers(                        \
			 (f), both_ ? "disk" : "memory",                             \
			 both_ ? TERRACE_L1 | TERRACE_L2 | TERRACE_L3 : TERRACE_L1); \
		     cache; terrace_cache_close(cache), cache = NULL)

/* --- reading and writing ------------------------------------------------------------------------- */

static void test_get__says_which_tier_served(void **state)
{
	struct fixture *f = *state;
	char *large = calloc(1, 300000);
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	struct rng rng = { 1 };

	for (int i = 0; i < 300000; i++)
		large[i] = (char)rng_next(&rng);
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "small", "v"));
	assert_ok(terrace_put(cache, TERRACE_KEY("large"), terrace_bytes(large, 300000), NULL));
	assert_int_equal(tier_of(cache, "small"), TERRACE_L1);
	assert_int_equal(tier_of(cache, "large"), TERRACE_L1);
	assert_ok(terrace_clear(cache, TERRACE_L1, NULL));
	assert_int_equal(tier_of(cache, "small"), TERRACE_L2);
	assert_int_equal(tier_of(cache, "small"), TERRACE_L1); /* copied up */
	assert_int_equal(tier_of(cache, "large"), TERRACE_L3);
	assert_int_equal(tier_of(cache, "large"), TERRACE_L1);
	terrace_cache_close(cache);
	free(large);
}

static void test_value__outlives_replacement_cache_and_store(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_value *value, *same;

	assert_ok(put_text(cache, "k", "pinned"));
	assert_ok(terrace_get(cache, TERRACE_KEY("k"), &value));
	assert_ok(terrace_get(cache, TERRACE_KEY("k"), &same));
	assert_ptr_equal(terrace_data(value), terrace_data(same)); /* nothing is copied */
	assert_int_equal((uintptr_t)terrace_data(value) % 16, 0);
	terrace_release(same);
	assert_ok(put_text(cache, "k", "newer"));
	assert_memory_equal(terrace_data(value), "pinned", 6);
	assert_ok(terrace_clear(cache, 0, NULL));
	terrace_cache_close(cache);
	fixture_reopen(f);
	assert_int_equal(terrace_size(value), 6);
	assert_memory_equal(terrace_data(value), "pinned", 6);
	terrace_release(value);
}

static int not_to_be_asked(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)ctx;
	(void)key;
	(void)loaded;
	fail_msg("a loader was asked for what is there");
	return -1;
}

static void test_keys__of_any_bytes_up_to_64_KiB(void **state)
{
	struct fixture *f = *state;
	char *key = malloc(TERRACE_KEY_MAX + 1);

	memset(key, 'k', TERRACE_KEY_MAX + 1);
	ON_BOTH (f, cache) {
		terrace_value *value;

		assert_ok(terrace_put(cache, terrace_bytes("\0a\n", 3), terrace_str("nul"), NULL));
		assert_ok(terrace_put(cache, terrace_bytes("\0a", 2), terrace_str("other"), NULL));
		assert_ok(terrace_put(cache, terrace_bytes(key, TERRACE_KEY_MAX),
		                      terrace_str("long"), NULL));
		assert_ok(terrace_get(cache, terrace_bytes("\0a\n", 3), &value));
		assert_memory_equal(terrace_data(value), "nul", 3);
		terrace_release(value);
		assert_ok(terrace_get(cache, terrace_bytes(key, TERRACE_KEY_MAX), &value));
		assert_memory_equal(terrace_data(value), "long", 4);
		terrace_release(value);
		assert_status(terrace_get(cache, terrace_bytes(key, TERRACE_KEY_MAX - 1), &value),
		              TERRACE_MISS);
		assert_status(terrace_put(cache, terrace_bytes(key, TERRACE_KEY_MAX + 1),
		                          terrace_str("x"), NULL),
		              TERRACE_EINVAL);
		assert_non_null(strstr(terrace_error_message(), "65536"));
		assert_status(terrace_get(cache, terrace_bytes("", 0), &value), TERRACE_EINVAL);
	}
	free(key);
}

/* Whoever hashes a key in place and whoever calls for it say the same. */
static void test_keys__of_every_size_are_hit_in_memory(void **state)
{
	enum { LONGEST = 300 };
	struct fixture *f = *state;
	char key[LONGEST];

	for (size_t i = 0; i < sizeof key; i++)
		key[i] = (char)('a' + i % 23);
	ON_BOTH (f, cache) {
		for (size_t size = 1; size <= LONGEST; size++) {
			terrace_slice slice = terrace_bytes(key, size);
			terrace_value *value;
			size_t hits;

			assert_ok(terrace_put(cache, slice, slice, NULL));
			assert_ok(terrace_get(cache, slice, &value));
			assert_int_equal(terrace_value_tier(value), TERRACE_L1);
			assert_int_equal(terrace_size(value), size);
			terrace_release(value);
			assert_ok(terrace_fetch(cache, slice, not_to_be_asked, NULL, &value));
			assert_int_equal(terrace_value_tier(value), TERRACE_L1);
			terrace_release(value);
			assert_ok(terrace_get_many(cache, &slice, 1, &value, &hits));
			assert_int_equal(hits, 1);
			assert_int_equal(terrace_value_tier(value), TERRACE_L1);
			terrace_release(value);
		}
	}
}

static void test_many__put_get_delete(void **state)
{
	enum { COUNT = 3000 };
	struct fixture *f = *state;
	terrace_item *items = calloc(COUNT + 1, sizeof *items);
	terrace_slice *keys = calloc(COUNT + 1, sizeof *keys);
	terrace_value **values = calloc(COUNT + 1, sizeof *values);
	char(*texts)[16] = calloc(COUNT, sizeof *texts);

	for (int i = 0; i < COUNT; i++) {
		snprintf(texts[i], sizeof texts[i], "key %d", i);
		keys[i] = terrace_str(texts[i]);
		items[i] = (terrace_item){ keys[i], keys[i] };
	}
	/* one key twice: the last wins */
	items[COUNT] = (terrace_item){ keys[7], terrace_str("again") };
	keys[COUNT] = terrace_str("not there");
	ON_BOTH (f, cache) {
		uint64_t count = 0;
		size_t hits = 0;

		assert_ok(terrace_put_many(cache, items, COUNT + 1, NULL));
		for (int round = 0; round < 2; round++) {
			assert_ok(terrace_get_many(cache, keys, COUNT + 1, values, &hits));
			assert_int_equal(hits, COUNT);
			assert_null(values[COUNT]);
			for (int i = 0; i < COUNT; i++) {
				const char *expected = i == 7 ? "again" : texts[i];

				assert_int_equal(terrace_size(values[i]), strlen(expected));
				assert_memory_equal(terrace_data(values[i]), expected,
				                    strlen(expected));
				terrace_release(values[i]);
			}
			if (both_)
				terrace_clear(cache, TERRACE_L1, NULL);
		}
		assert_ok(terrace_delete_many(cache, keys, COUNT + 1, &count));
		assert_int_equal(count, COUNT);
		assert_ok(terrace_get_many(cache, keys, COUNT + 1, values, &hits));
		assert_int_equal(hits, 0);
	}
	free(items);
	free(keys);
	free(values);
	free(texts);
}

static void test_get_or__gives_a_copy_of_the_default(void **state)
{
	struct fixture *f = *state;

	ON_BOTH (f, cache) {
		char fallback[] = "default";
		terrace_value *value;

		assert_ok(terrace_get_or(cache, TERRACE_KEY("k"), terrace_str(fallback), &value));
		fallback[0] = 'X';
		assert_memory_equal(terrace_data(value), "default", 7);
		assert_int_equal(terrace_value_tier(value), 0);
		terrace_release(value);
		assert_misses(cache, "k"); /* and stores nothing */
		assert_ok(put_text(cache, "k", "v"));
		assert_ok(terrace_get_or(cache, TERRACE_KEY("k"), terrace_str(fallback), &value));
		assert_memory_equal(terrace_data(value), "v", 1);
		terrace_release(value);
	}
}

static void test_add__only_where_nothing_lives(void **state)
{
	struct fixture *f = *state;

	ON_BOTH (f, cache) {
		assert_ok(terrace_add(cache, TERRACE_KEY("k"), terrace_str("first"), NULL));
		assert_status(terrace_add(cache, TERRACE_KEY("k"), terrace_str("second"), NULL),
		              TERRACE_EXISTS);
		assert_gives(cache, "k", "first");
		assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
		assert_ok(terrace_add(cache, TERRACE_KEY("k"), terrace_str("third"), NULL));
		assert_gives(cache, "k", "third");
		/* what is dead is not there */
		assert_ok(put_for(cache, "old", 10));
		atomic_fetch_add(&f->clock.now, 10);
		assert_ok(terrace_add(cache, TERRACE_KEY("old"), terrace_str("new"), NULL));
		assert_gives(cache, "old", "new");
	}
}

static void test_incr__counts_and_keeps_what_the_entry_has(void **state)
{
	struct fixture *f = *state;

	ON_BOTH (f, cache) {
		terrace_info info = TERRACE_INFO_INIT;
		int64_t n = 0;

		assert_ok(terrace_incr(cache, TERRACE_KEY("n"), 5, 100, &n));
		assert_int_equal(n, 105);
		assert_ok(terrace_incr(cache, TERRACE_KEY("n"), -6, 100, &n));
		assert_int_equal(n, 99);
		assert_gives(cache, "n", "99");
		/* time to live and tags stand */
		{
			const char *tag = "red";
			terrace_put_options options = TERRACE_PUT_INIT;

			options.ttl_ms = 50;
			options.tags = &tag;
			options.tag_count = 1;
			assert_ok(terrace_put(cache, TERRACE_KEY("t"), terrace_str("7"), &options));
		}
		atomic_fetch_add(&f->clock.now, 30);
		assert_ok(terrace_incr(cache, TERRACE_KEY("t"), 1, 0, &n));
		assert_int_equal(n, 8);
		assert_ok(terrace_inspect(cache, TERRACE_KEY("t"), &info));
		assert_int_equal(info.left_ms, 20);
		assert_int_equal(info.tag_count, 1);
		assert_string_equal(info.tags[0], "red");
		terrace_info_free(&info);
		/* a dead one starts again */
		atomic_fetch_add(&f->clock.now, 20);
		assert_ok(terrace_incr(cache, TERRACE_KEY("t"), 1, 0, &n));
		assert_int_equal(n, 1);
		/* what is no number stays */
		assert_ok(put_text(cache, "x", "abc"));
		n = 42;
		assert_status(terrace_incr(cache, TERRACE_KEY("x"), 1, 0, &n), TERRACE_EINVAL);
		assert_int_equal(n, 42);
		assert_gives(cache, "x", "abc");
		assert_ok(put_text(cache, "x", "9223372036854775807"));
		assert_status(terrace_incr(cache, TERRACE_KEY("x"), 1, 0, &n), TERRACE_EINVAL);
		assert_gives(cache, "x", "9223372036854775807");
	}
}

static void test_delete__says_whether_it_was_there(void **state)
{
	struct fixture *f = *state;

	ON_BOTH (f, cache) {
		assert_status(terrace_delete(cache, TERRACE_KEY("k")), TERRACE_MISS);
		assert_ok(put_text(cache, "k", "v"));
		assert_ok(terrace_exists(cache, TERRACE_KEY("k")));
		assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
		assert_misses(cache, "k");
		assert_status(terrace_exists(cache, TERRACE_KEY("k")), TERRACE_MISS);
		assert_status(terrace_delete(cache, TERRACE_KEY("k")), TERRACE_MISS);
		/* what is dead was not there */
		assert_ok(put_for(cache, "k", 10));
		atomic_fetch_add(&f->clock.now, 10);
		assert_status(terrace_delete(cache, TERRACE_KEY("k")), TERRACE_MISS);
	}
}

/* --- time ---------------------------------------------------------------------------------------------- */

static void test_ttl__ends_to_the_millisecond(void **state)
{
	struct fixture *f = *state;

	ON_BOTH (f, cache) {
		assert_ok(put_for(cache, "short", 1000));
		assert_ok(put_for(cache, "none", TERRACE_TTL_NONE));
		assert_ok(put_for(cache, "forever", TERRACE_TTL_FOREVER));
		assert_misses(cache, "none");
		atomic_fetch_add(&f->clock.now, 999);
		assert_gives(cache, "short", "v");
		atomic_fetch_add(&f->clock.now, 1);
		assert_misses(cache, "short");
		assert_status(terrace_exists(cache, TERRACE_KEY("short")), TERRACE_MISS);
		atomic_fetch_add(&f->clock.now, INT64_C(100) * 365 * 24 * 3600 * 1000);
		assert_gives(cache, "forever", "v");
	}
}

static void test_ttl__of_the_cache_is_the_default(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	policy.ttl_ms = 500;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "k", "v"));
	assert_ok(put_for(cache, "longer", 1000));
	assert_ok(put_for(cache, "forever", TERRACE_TTL_FOREVER));
	atomic_fetch_add(&f->clock.now, 500);
	assert_misses(cache, "k");
	assert_gives(cache, "longer", "v");
	atomic_fetch_add(&f->clock.now, 500);
	assert_misses(cache, "longer");
	assert_gives(cache, "forever", "v");
	terrace_cache_close(cache);
}

static void test_touch__gives_a_new_time_to_live(void **state)
{
	struct fixture *f = *state;

	ON_BOTH (f, cache) {
		assert_status(terrace_touch(cache, TERRACE_KEY("k"), 100), TERRACE_MISS);
		assert_ok(put_for(cache, "k", 100));
		atomic_fetch_add(&f->clock.now, 99);
		assert_ok(terrace_touch(cache, TERRACE_KEY("k"), 100));
		atomic_fetch_add(&f->clock.now, 99);
		assert_gives(cache, "k", "v");
		if (both_)
			terrace_clear(cache, TERRACE_L1, NULL);
		assert_ok(terrace_touch(cache, TERRACE_KEY("k"), TERRACE_TTL_FOREVER));
		atomic_fetch_add(&f->clock.now, 1000);
		assert_gives(cache, "k", "v");
		assert_ok(terrace_touch(cache, TERRACE_KEY("k"), TERRACE_TTL_NONE));
		assert_misses(cache, "k");
		/* the dead are not wakened */
		assert_status(terrace_touch(cache, TERRACE_KEY("k"), 100), TERRACE_MISS);
		assert_misses(cache, "k");
	}
}

static void test_clock__an_entry_from_the_future_is_dead(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	atomic_fetch_add(&f->clock.now, INT64_C(10) * 365 * 24 * 3600 * 1000);
	assert_ok(put_for(cache, "k", 1000));
	terrace_clear(cache, TERRACE_L1, NULL);
	atomic_fetch_sub(&f->clock.now, INT64_C(10) * 365 * 24 * 3600 * 1000);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void test_cleanup__removes_the_dead_and_counts_them(void **state)
{
	struct fixture *f = *state;

	ON_BOTH (f, cache) {
		terrace_stats stats = TERRACE_STATS_INIT;
		uint64_t count = 0;
		char key[16];

		for (int i = 0; i < 1000; i++) {
			snprintf(key, sizeof key, "%d", i);
			assert_ok(put_for(cache, key, i % 2 ? 100 : TERRACE_TTL_FOREVER));
		}
		atomic_fetch_add(&f->clock.now, 100);
		assert_ok(terrace_cleanup(f->store, cache, &count));
		assert_int_equal(count, 500);
		assert_ok(terrace_cache_stats(cache, &stats));
		assert_int_equal(both_ ? stats.l2.entries : stats.l1.entries, 500);
		assert_gives(cache, "0", "v");
		assert_ok(terrace_cleanup(f->store, cache, &count));
		assert_int_equal(count, 0);
	}
}

/* --- many at once ---------------------------------------------------------------------------------------- */

static void fill(terrace_cache *cache)
{
	assert_ok(put_tagged(cache, "tile:1", "v", "red"));
	assert_ok(put_tagged(cache, "tile:2", "v", "blue"));
	assert_ok(put_tagged(cache, "map:1", "v", "red"));
	assert_ok(put_text(cache, "map:2", "v"));
}

static uint64_t invalidate(terrace_cache *cache, terrace_match_kind kind, const char *text)
{
	terrace_match match = terrace_match_text(kind, text);
	uint64_t count = 99;

	assert_ok(terrace_invalidate(cache, &match, &count));
	return count;
}

static void test_invalidate__by_key_glob_prefix_tag_and_all(void **state)
{
	struct fixture *f = *state;

	ON_BOTH (f, cache) {
		terrace_cache *other = cache_with_tiers(f, "other", 0);
		terrace_match bad = terrace_match_text(TERRACE_MATCH_GLOB, "[a");

		assert_ok(put_tagged(other, "tile:1", "v", "red"));
		fill(cache);
		assert_int_equal(invalidate(cache, TERRACE_MATCH_KEY, "tile:1"), 1);
		assert_int_equal(invalidate(cache, TERRACE_MATCH_KEY, "tile:1"), 0);
		assert_misses(cache, "tile:1");
		assert_gives(cache, "tile:2", "v");
		fill(cache);
		assert_int_equal(invalidate(cache, TERRACE_MATCH_PREFIX, "tile:"), 2);
		assert_misses(cache, "tile:1");
		assert_misses(cache, "tile:2");
		assert_gives(cache, "map:1", "v");
		fill(cache);
		assert_int_equal(invalidate(cache, TERRACE_MATCH_GLOB, "*:2"), 2);
		assert_misses(cache, "map:2");
		assert_gives(cache, "map:1", "v");
		fill(cache);
		assert_int_equal(invalidate(cache, TERRACE_MATCH_TAG, "red"), 2);
		assert_misses(cache, "tile:1");
		assert_misses(cache, "map:1");
		assert_gives(cache, "tile:2", "v");
		assert_gives(cache, "map:2", "v");
		fill(cache);
		assert_int_equal(invalidate(cache, TERRACE_MATCH_ALL, NULL), 4);
		assert_misses(cache, "map:2");
		assert_int_equal(invalidate(cache, TERRACE_MATCH_TAG, "red"), 0);
		assert_status(terrace_invalidate(cache, &bad, NULL), TERRACE_EINVAL);
		/* another cache is none of its business */
		assert_gives(other, "tile:1", "v");
		terrace_cache_close(other);
	}
}

static void test_invalidate__reaches_copies_whose_row_was_evicted(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	policy.disk_entries = 1;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_tagged(cache, "k", "v", "red"));
	atomic_fetch_add(&f->clock.now, 1);
	assert_ok(put_text(cache, "other", "v")); /* pushes k's row out, not its copy in L1 */
	assert_int_equal(tier_of(cache, "k"), TERRACE_L1);
	invalidate(cache, TERRACE_MATCH_TAG, "red");
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

/* Looks for rows as the real one does, but another write pushes one out just before. */
static struct {
	const struct disk_ops *real;
	terrace_cache *cache;
	bool done;
} late_eviction;

static int select_late(void *tier, const struct disk_where *where, tier_visit_fn *visit, void *ctx)
{
	if (where->kind == DISK_MATCHING && !late_eviction.done) {
		late_eviction.done = true;
		put_text(late_eviction.cache, "other", "v");
	}
	return late_eviction.real->select(tier, where, visit, ctx);
}

static void test_invalidate__reaches_copies_whose_row_is_evicted_meanwhile(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct disk_ops ops = *f->store->disk_ops;
	terrace_cache *cache;

	policy.disk_entries = 1;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_tagged(cache, "k", "v", "red"));
	atomic_fetch_add(&f->clock.now, 1);
	late_eviction.real = f->store->disk_ops;
	late_eviction.cache = cache;
	late_eviction.done = false;
	ops.select = select_late;
	f->store->disk_ops = &ops;
	invalidate(cache, TERRACE_MATCH_TAG, "red");
	f->store->disk_ops = late_eviction.real;
	assert_true(late_eviction.done);
	assert_gives(cache, "other", "v");
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void test_clear__all_or_by_tier(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	uint64_t count;

	policy.inline_bytes = 100;
	policy.codec = TERRACE_CODEC_NONE;
	cache = fixture_cache(f, "a", &policy);
	for (int round = 0; round < 2; round++) {
		char large[5000];

		memset(large, 'x', sizeof large - 1);
		large[sizeof large - 1] = '\0';
		assert_ok(put_text(cache, "small", "v"));
		assert_ok(put_text(cache, "large", large));
		assert_ok(terrace_clear(cache, TERRACE_L1, &count));
		assert_int_equal(count, 2);
		assert_int_equal(tier_of(cache, "small"), TERRACE_L2);
		assert_int_equal(tier_of(cache, "large"), TERRACE_L3);
		if (round == 0) {
			assert_ok(terrace_clear(cache, 0, &count));
			assert_int_equal(count, 2);
			assert_misses(cache, "small");
			assert_misses(cache, "large");
		} else {
			assert_ok(terrace_clear(cache, TERRACE_L3 | TERRACE_L1, &count));
			assert_misses(cache, "large");
			assert_int_equal(tier_of(cache, "small"), TERRACE_L2);
		}
	}
	assert_status(terrace_clear(cache, 8, NULL), TERRACE_EINVAL);
	terrace_cache_close(cache);
}

static void test_clear__what_comes_after_stays(void **state)
{
	struct fixture *f = *state;

	ON_BOTH (f, cache) {
		uint64_t count;

		assert_ok(put_text(cache, "k", "old"));
		assert_ok(terrace_clear(cache, 0, &count));
		assert_ok(put_text(cache, "k", "new"));
		assert_gives(cache, "k", "new");
		if (both_) {
			terrace_cache_close(cache);
			fixture_reopen(f);
			cache = cache_with_tiers(f, "disk", 0);
			assert_gives(cache, "k", "new");
		}
	}
}

static void test_keys__more_than_one_batch(void **state)
{
	enum { COUNT = 1000 };
	struct fixture *f = *state;

	ON_BOTH (f, cache) {
		terrace_match match = terrace_match_text(TERRACE_MATCH_GLOB, "k[0-9]*[13579]");
		bool seen[COUNT] = { false };
		terrace_keys *keys;
		terrace_slice key;
		int count = 0;
		char text[16];

		for (int i = 0; i < COUNT; i++) {
			snprintf(text, sizeof text, "k%03d", i);
			assert_ok(put_for(cache, text, i % 4 == 1 ? 10 : 1000));
		}
		atomic_fetch_add(&f->clock.now, 10); /* a quarter is dead */
		assert_ok(terrace_keys_open(cache, &match, &keys));
		while (terrace_keys_next(keys, &key) == TERRACE_OK) {
			int i;

			assert_int_equal(key.size, 4);
			snprintf(text, sizeof text, "%.4s", (const char *)key.data);
			i = atoi(text + 1);
			assert_true(i % 2 == 1 && i % 4 != 1);
			assert_false(seen[i]);
			seen[i] = true;
			count++;
		}
		terrace_keys_close(keys);
		assert_int_equal(count, COUNT / 4);
	}
}

/* --- limits ------------------------------------------------------------------------------------------------ */

static int count_hits(terrace_cache *cache, int keys)
{
	int hits = 0;
	char key[16];

	for (int i = 0; i < keys; i++) {
		snprintf(key, sizeof key, "%d", i);
		hits += misses(cache, key) == TERRACE_OK;
	}
	return hits;
}

static void test_limits__entries_and_bytes_of_memory(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_cache *cache;
	char key[16], text[1001];

	memset(text, 'x', 1000);
	text[1000] = '\0';
	policy.tiers = TERRACE_L1;
	policy.memory_entries = 7;
	cache = fixture_cache(f, "entries", &policy);
	for (int i = 0; i < 100; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(put_text(cache, key, "v"));
	}
	assert_int_equal(count_hits(cache, 100), 7);
	terrace_cache_close(cache);

	policy.memory_entries = 0;
	policy.memory_bytes = 100000;
	cache = fixture_cache(f, "bytes", &policy);
	for (int i = 0; i < 200; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(put_text(cache, key, text));
		assert_ok(terrace_cache_stats(cache, &stats));
		assert_true(stats.l1.bytes <= 100000);
	}
	assert_true(count_hits(cache, 200) >= 75);
	assert_int_equal(stats.evicted_l1 + stats.l1.entries, 200);
	terrace_cache_close(cache);
}

static void test_limits__of_the_store_hold_over_all_caches(void **state)
{
	struct fixture *f = *state;
	terrace_stats a_stats = TERRACE_STATS_INIT, b_stats = TERRACE_STATS_INIT;
	terrace_cache *a, *b;
	char key[16], text[1001];

	memset(text, 'x', 1000);
	text[1000] = '\0';
	terrace_close(f->store);
	f->options.memory_bytes = 200000;
	f->options.disk_bytes = 100000;
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	a = fixture_cache(f, "a", NULL);
	b = fixture_cache(f, "b", NULL);
	for (int i = 0; i < 300; i++) {
		snprintf(key, sizeof key, "%d", i);
		atomic_fetch_add(&f->clock.now, 1);
		assert_ok(put_text(i % 3 ? a : b, key, text));
	}
	assert_ok(terrace_cache_stats(a, &a_stats));
	assert_ok(terrace_cache_stats(b, &b_stats));
	assert_true(a_stats.l1.bytes + b_stats.l1.bytes <= 200000);
	assert_true(a_stats.l1.bytes + b_stats.l1.bytes > 100000);
	assert_true(a_stats.l2.bytes + b_stats.l2.bytes <= 100000);
	assert_true(a_stats.l2.bytes + b_stats.l2.bytes > 80000);
	assert_true(a_stats.evicted_l2 > 0 && b_stats.evicted_l2 > 0);
	/* the coldest went, whichever cache's they were */
	assert_gives(a, "299", text);
	assert_status(terrace_exists(a, TERRACE_KEY("1")), TERRACE_MISS);
	terrace_cache_close(a);
	terrace_cache_close(b);
}

static void test_limits__what_a_closed_store_has_hit_stays(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	char key[16];

	policy.tiers = TERRACE_L2;
	policy.disk_entries = 10;
	cache = fixture_cache(f, "few", &policy);
	for (int i = 0; i < 10; i++) {
		snprintf(key, sizeof key, "%d", i);
		atomic_fetch_add(&f->clock.now, 1000);
		assert_ok(put_text(cache, key, "v"));
	}
	for (int turn = 0; turn < 2; turn++) {
		terrace_cache_close(cache);
		fixture_reopen(f);
		cache = fixture_cache(f, "few", &policy);
		atomic_fetch_add(&f->clock.now, 1000);
		if (turn == 0)
			assert_gives(cache, "3", "v");
	}
	for (int i = 10; i < 15; i++) {
		snprintf(key, sizeof key, "%d", i);
		atomic_fetch_add(&f->clock.now, 1000);
		assert_ok(put_text(cache, key, "v"));
	}
	assert_gives(cache, "3", "v");
	assert_status(terrace_exists(cache, TERRACE_KEY("2")), TERRACE_MISS);
	assert_status(terrace_exists(cache, TERRACE_KEY("4")), TERRACE_MISS);
	assert_gives(cache, "9", "v");
	terrace_cache_close(cache);
}

/* Put `count` values of a size, hit each so often, and say how many of the first `of` are there. */
static int put_some(terrace_cache *cache, const char *prefix, int count, size_t size, int hits)
{
	char *value = calloc(1, size + 1), key[24];
	int there = 0;

	memset(value, 'x', size);
	for (int i = 0; i < count; i++) {
		snprintf(key, sizeof key, "%s%d", prefix, i);
		if (size)
			assert_ok(put_text(cache, key, value));
		for (int hit = 0; hit < hits; hit++)
			assert_gives(cache, key, value);
		there += terrace_exists(cache, terrace_str(key)) == TERRACE_OK;
	}
	free(value);
	return there;
}

static void test_limits__of_disk_keep_what_is_small_and_used(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	int used, small, large;

	/* Many more than are looked at as a whole; there is room for about a third. */
	policy.tiers = TERRACE_L2;
	policy.disk_bytes = 2000000;
	cache = fixture_cache(f, "a", &policy);
	put_some(cache, "used", 300, 500, 3);
	for (int turn = 0; turn < 8; turn++) {
		char prefix[16];

		atomic_fetch_add(&f->clock.now, 1000);
		snprintf(prefix, sizeof prefix, "small%d-", turn);
		put_some(cache, prefix, 150, 500, 0);
		snprintf(prefix, sizeof prefix, "large%d-", turn);
		put_some(cache, prefix, 50, 10000, 0);
	}
	used = put_some(cache, "used", 300, 0, 0);
	small = put_some(cache, "small1-", 150, 0, 0);
	large = put_some(cache, "large6-", 50, 0, 0);
	print_message("%d of 300 used, %d of 150 small, %d of 50 large and younger\n", used, small,
	              large);
	assert_true(used > 290);
	assert_true(small > 100);
	assert_true(3 * large < small); /* in parts of all */
	terrace_cache_close(cache);
}

static int64_t on_device;

static int add_blocks(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)path;
	(void)type;
	(void)at;
	on_device += st->st_blocks * 512;
	return 0;
}

static int64_t device_bytes(const char *path)
{
	on_device = 0;
	assert_int_equal(nftw(path, add_blocks, 16, FTW_PHYS), 0);
	return on_device;
}

/* Rows, files, log and all: what du says. */
static void test_limits__of_the_store_are_what_lies_on_the_device(void **state)
{
	enum { LIMIT = 20 << 20, LARGEST = 150000 };
	struct fixture *f = *state;
	struct rng rng = { test_seed() };
	char key[16], *text = malloc(LARGEST);
	int64_t used, most = 0;
	terrace_cache *cache;

	for (int i = 0; i < LARGEST; i++)
		text[i] = (char)rng_next(&rng);
	terrace_close(f->store);
	f->options.disk_bytes = LIMIT;
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	cache = fixture_cache(f, "a", NULL);
	for (int i = 0; i < 4000; i++) {
		/* first rows, then files where the rows were, then both */
		uint64_t size = i < 1500 ? 8000 : i < 2500 ? 60000 : 20000;

		snprintf(key, sizeof key, "%d", i);
		size = size / 2 + rng_below(&rng, size);
		assert_ok(terrace_put(cache, terrace_str(key), terrace_bytes(text, size), NULL));
		if (i % 50 && i < 3990)
			continue;
		used = device_bytes(scratch_path(&f->scratch, "store"));
		most = used > most ? used : most;
		if (used > LIMIT + LIMIT / 100)
			fail_msg("put %d: %lld of %d bytes", i, (long long)used, LIMIT);
	}
	print_message("at most %lld of %d bytes\n", (long long)most, LIMIT);
	assert_true(most > LIMIT - LIMIT / 8); /* and no less than can be had */
	terrace_cache_close(cache);
	free(text);
}

static void test_limits__of_disk_evict_expired_first_then_the_coldest(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_why why = TERRACE_WHY_INIT;
	terrace_cache *cache;
	char key[16];

	policy.tiers = TERRACE_L2;
	policy.disk_entries = 10;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < 10; i++) {
		snprintf(key, sizeof key, "%d", i);
		atomic_fetch_add(&f->clock.now, 1);
		assert_ok(put_for(cache, key, i == 5 ? 100 : TERRACE_TTL_FOREVER));
	}
	atomic_fetch_add(&f->clock.now, 100);
	assert_ok(put_text(cache, "new", "v"));
	assert_gives(cache, "0", "v"); /* cold, but alive: 5 was dead */
	atomic_fetch_add(&f->clock.now, 1);
	assert_ok(put_text(cache, "newer", "v"));
	atomic_fetch_add(&f->clock.now, 1);
	assert_ok(put_text(cache, "newest", "v"));
	assert_gives(cache, "0", "v"); /* was used just now */
	assert_misses(cache, "1");
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_int_equal(stats.l2.entries, 10);
	assert_status(terrace_explain(cache, TERRACE_KEY("1"), &why), TERRACE_MISS);
	assert_int_equal(why.reason, TERRACE_REASON_EVICTED);
	assert_status(terrace_explain(cache, TERRACE_KEY("5"), &why), TERRACE_MISS);
	assert_int_equal(why.reason, TERRACE_REASON_EXPIRED);
	terrace_cache_close(cache);
}

static void test_limits__a_large_object_pushes_nothing_out(void **state)
{
	struct fixture *f = *state;

	ON_BOTH (f, cache) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		terrace_stats stats = TERRACE_STATS_INIT;
		terrace_why why = TERRACE_WHY_INIT;
		char *large = malloc(900001), key[16];
		terrace_cache *small;
		struct rng rng = { 3 };

		for (int i = 0; i < 900000; i++)
			large[i] = (char)('!' + rng_below(&rng, 90));
		large[900000] = '\0';
		policy.tiers = both_ ? TERRACE_L2 | TERRACE_L3 : TERRACE_L1;
		policy.memory_bytes = policy.disk_bytes = 1000000;
		small = fixture_cache(f, both_ ? "small disk" : "small memory", &policy);
		assert_ok(put_text(small, "large", large)); /* there is room */
		assert_gives(small, "large", large);
		assert_ok(terrace_delete(small, TERRACE_KEY("large")));
		for (int i = 0; i < 1000; i++) {
			snprintf(key, sizeof key, "%d", i);
			assert_ok(put_text(small, key, "0123456789"));
		}
		assert_ok(put_text(small, "large", "older"));
		assert_status(put_text(small, "large", large), TERRACE_ETOOBIG);
		assert_misses(small, "large"); /* the older value is gone all the same */
		assert_int_equal(count_hits(small, 1000), 1000);
		assert_ok(terrace_cache_stats(small, &stats));
		assert_int_equal(stats.rejected, 1);
		assert_status(terrace_explain(small, TERRACE_KEY("large"), &why), TERRACE_MISS);
		assert_int_equal(why.reason, TERRACE_REASON_REJECTED);
		terrace_cache_close(small);
		free(large);
		(void)cache;
	}
}

/* --- what is known ------------------------------------------------------------------------------------------- */

static void test_keys_newest__gives_the_latest_arrival_first(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_match match = terrace_match_text(TERRACE_MATCH_TAG, "even");
	terrace_keys *keys;
	terrace_slice key;
	char expected[16];

	for (int i = 0; i < 600; i++) {
		snprintf(expected, sizeof expected, "k%d", i);
		assert_ok(put_tagged(cache, expected, "x", i % 2 ? "odd" : "even"));
	}
	assert_ok(put_text(cache, "k599", "again")); /* keeps its place */
	for (int step = 1; step <= 2; step++) {
		assert_ok(terrace_keys_open_newest(cache, step == 1 ? NULL : &match, &keys));
		for (int i = 600 - step; i >= 0; i -= step) {
			int size = snprintf(expected, sizeof expected, "k%d", i);

			assert_ok(terrace_keys_next(keys, &key));
			assert_int_equal(key.size, size);
			assert_memory_equal(key.data, expected, key.size);
		}
		assert_status(terrace_keys_next(keys, &key), TERRACE_MISS);
		terrace_keys_close(keys);
	}
	terrace_cache_close(cache);
}

static void test_usage__counts_what_is_dead_and_not_swept(void **state)
{
	struct fixture *f = *state;
	terrace_usage usage;

	ON_BOTH (f, cache) {
		assert_ok(terrace_cache_usage(cache, &usage));
		assert_int_equal(usage.entries, 0);
		assert_ok(put_text(cache, "k", "v"));
		assert_ok(put_for(cache, "short", 10));
		atomic_fetch_add(&f->clock.now, 20);
		assert_ok(terrace_cache_usage(cache, &usage));
		assert_int_equal(usage.entries, 2);
		assert_true(usage.bytes > 2);
		assert_ok(terrace_cleanup(f->store, cache, NULL));
		assert_ok(terrace_cache_usage(cache, &usage));
		assert_int_equal(usage.entries, 1);
	}
	assert_ok(terrace_cache_usage(NULL, &usage));
	assert_int_equal(usage.entries, 0);
}

static void test_inspect_value__tells_of_the_value_that_was_read(void **state)
{
	struct fixture *f = *state;
	terrace_info info = TERRACE_INFO_INIT;
	terrace_value *value;

	ON_BOTH (f, cache) {
		int64_t now = atomic_load(&f->clock.now);

		assert_ok(put_tagged(cache, "k", "older", "first"));
		assert_ok(terrace_touch(cache, TERRACE_KEY("k"), 5000));
		assert_ok(terrace_get(cache, TERRACE_KEY("k"), &value));
		assert_ok(put_tagged(cache, "k", "newer", "second"));
		assert_ok(terrace_inspect_value(cache, value, &info));
		assert_int_equal(info.tag_count, 1);
		assert_string_equal(info.tags[0], "first");
		assert_int_equal(info.expires_ms, now + 5000);
		assert_int_equal(info.bytes, 5);
		terrace_info_free(&info);
		terrace_release(value);
		assert_status(terrace_inspect_value(cache, NULL, &info), TERRACE_EINVAL);
	}
}

static void test_inspect__tells_all(void **state)
{
	struct fixture *f = *state;

	ON_BOTH (f, cache) {
		const char *const tags[] = { "red", "blue" };
		terrace_put_options options = TERRACE_PUT_INIT;
		terrace_info info = TERRACE_INFO_INIT;
		int64_t now = atomic_load(&f->clock.now);

		options.ttl_ms = 5000;
		options.tags = tags;
		options.tag_count = 2;
		options.cost_us = 1234;
		assert_ok(terrace_put(cache, TERRACE_KEY("k"), terrace_str("hello"), &options));
		assert_gives(cache, "k", "hello");
		assert_gives(cache, "k", "hello");
		atomic_fetch_add(&f->clock.now, 2000);
		assert_ok(terrace_inspect(cache, TERRACE_KEY("k"), &info));
		assert_int_equal(info.tier, TERRACE_L1);
		assert_int_equal(info.bytes, 5);
		assert_int_equal(info.stored_bytes, both_ ? 5 : 0);
		assert_int_equal(info.codec, TERRACE_CODEC_NONE);
		assert_int_equal(info.created_ms, now);
		assert_int_equal(info.access_count, 2);
		assert_int_equal(info.age_ms, 2000);
		assert_int_equal(info.ttl_ms, 5000);
		assert_int_equal(info.expires_ms, now + 5000);
		assert_int_equal(info.left_ms, 3000);
		assert_int_equal(info.cost_us, 1234);
		assert_int_equal(info.tag_count, 2);
		assert_string_equal(info.tags[1], "blue");
		assert_int_equal(info.source_count, 0);
		terrace_info_free(&info);
		assert_status(terrace_inspect(cache, TERRACE_KEY("x"), &info), TERRACE_MISS);
		/* looking is no hit */
		assert_ok(terrace_inspect(cache, TERRACE_KEY("k"), &info));
		assert_int_equal(info.access_count, 2);
		terrace_info_free(&info);
	}
}

static void assert_why(terrace_cache *cache, const char *key, terrace_reason reason,
                       const char *detail)
{
	terrace_why why = TERRACE_WHY_INIT;

	assert_status(terrace_explain(cache, terrace_str(key), &why),
	              reason == TERRACE_REASON_LIVE ? TERRACE_OK : TERRACE_MISS);
	if (why.reason != reason || !strstr(why.detail, detail))
		fail_msg("%s is %s (%s), not %s (%s)", key, terrace_reason_name(why.reason),
		         why.detail, terrace_reason_name(reason), detail);
	terrace_info_free(&why.info);
}

static void test_why__every_removal_leaves_a_note(void **state)
{
	struct fixture *f = *state;

	ON_BOTH (f, cache) {
		assert_why(cache, "k", TERRACE_REASON_NEVER, "");
		assert_ok(put_text(cache, "k", "v"));
		assert_why(cache, "k", TERRACE_REASON_LIVE, "");
		assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
		assert_why(cache, "k", TERRACE_REASON_DELETED, "");
		fill(cache);
		invalidate(cache, TERRACE_MATCH_TAG, "red");
		assert_why(cache, "tile:1", TERRACE_REASON_INVALIDATED, "tag red");
		invalidate(cache, TERRACE_MATCH_GLOB, "tile:?");
		assert_why(cache, "tile:2", TERRACE_REASON_INVALIDATED, "glob tile:?");
		assert_ok(terrace_clear(cache, 0, NULL));
		assert_why(cache, "map:2", TERRACE_REASON_CLEARED, "");
		/* the first note of an entry that died twice is not the last word */
		assert_why(cache, "map:1", TERRACE_REASON_INVALIDATED, "tag red");
		assert_ok(put_for(cache, "k", 10));
		atomic_fetch_add(&f->clock.now, 10);
		assert_why(cache, "k", TERRACE_REASON_EXPIRED, "");
		assert_ok(terrace_cleanup(f->store, cache, NULL));
		assert_why(cache, "k", TERRACE_REASON_EXPIRED, "");
		/* for a day */
		atomic_fetch_add(&f->clock.now, INT64_C(24) * 3600 * 1000 + 1);
		assert_why(cache, "k", TERRACE_REASON_NEVER, "");
	}
}

static void test_why__what_memory_alone_had_to_give_up(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	char key[16];
	int evicted = 0;

	policy.tiers = TERRACE_L1;
	policy.memory_entries = 5;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < 20; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(put_text(cache, key, "v"));
	}
	for (int i = 0; i < 20; i++) {
		snprintf(key, sizeof key, "%d", i);
		if (terrace_exists(cache, terrace_str(key)) == TERRACE_OK)
			continue;
		assert_why(cache, key, TERRACE_REASON_EVICTED, "memory");
		evicted++;
	}
	assert_true(evicted >= 15);
	terrace_cache_close(cache);
}

static void test_notes__are_bounded_in_number(void **state)
{
	enum { COUNT = 25000 };
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_item *items = calloc(COUNT, sizeof *items);
	char(*texts)[16] = calloc(COUNT, sizeof *texts);
	int known = 0;

	for (int i = 0; i < COUNT; i++) {
		snprintf(texts[i], sizeof texts[i], "%d", i);
		items[i] = (terrace_item){ terrace_str(texts[i]), terrace_str("v") };
	}
	assert_ok(terrace_put_many(cache, items, COUNT, NULL));
	assert_ok(terrace_clear(cache, 0, NULL));
	for (int i = 0; i < COUNT; i++) {
		terrace_why why = TERRACE_WHY_INIT;

		assert_status(terrace_explain(cache, terrace_str(texts[i]), &why), TERRACE_MISS);
		known += why.reason == TERRACE_REASON_CLEARED;
	}
	assert_true(known >= 9000 && known <= 10500);
	terrace_cache_close(cache);
	free(items);
	free(texts);
}

static void test_stats__count_what_happened(void **state)
{
	struct fixture *f = *state;
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_put_options costly = TERRACE_PUT_INIT;
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	costly.cost_us = 1000;
	assert_ok(terrace_put(cache, TERRACE_KEY("k"), terrace_str("v"), &costly));
	assert_gives(cache, "k", "v"); /* l1 */
	terrace_clear(cache, TERRACE_L1, NULL);
	assert_gives(cache, "k", "v"); /* l2 */
	assert_gives(cache, "k", "v"); /* l1 */
	assert_misses(cache, "x");
	assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
	for (int round = 0; round < 2; round++) {
		assert_ok(terrace_cache_stats(cache, &stats));
		assert_int_equal(stats.gets, 4);
		assert_int_equal(stats.hits_l1, 2);
		assert_int_equal(stats.hits_l2, 1);
		assert_int_equal(stats.hits_l3, 0);
		assert_int_equal(stats.misses, 1);
		assert_int_equal(stats.puts, 1);
		assert_int_equal(stats.deletes, 1);
		assert_int_equal(stats.saved_us, 3000);
		assert_int_equal(stats.hit_l2_time.count, 1);
		assert_int_equal(stats.miss_time.count, 1);
		assert_int_equal(stats.put_time.count, 1);
		assert_true(terrace_latency_quantile(&stats.put_time, 0.5) > 0);
		assert_true(terrace_hit_rate(&stats) == 0.75);
		/* and outlive the process */
		terrace_cache_close(cache);
		fixture_reopen(f);
		cache = fixture_cache(f, "a", NULL);
	}
	terrace_cache_close(cache);
}

/* Puts into memory alone go a way of their own, and of 16 one is timed. */
static void test_stats__puts_into_memory_count(void **state)
{
	enum { PUTS = 64 };
	struct fixture *f = *state;
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	policy.tiers = TERRACE_L1;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < PUTS; i++)
		assert_ok(put_text(cache, "k", "v"));
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_int_equal(stats.puts, PUTS);
	assert_int_equal(stats.put_time.count, PUTS / 16);
	terrace_cache_close(cache);
}

static void test_stats__a_low_hit_rate_is_an_alert(void **state)
{
	struct fixture *f = *state;
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	char key[16];

	for (int i = 0; i < 10; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(put_text(cache, key, "v"));
		assert_misses(cache, "x");
	}
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_false(stats.low_hit_rate); /* ten keys are too few to say */
	assert_ok(put_text(cache, "10", "v"));
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_true(stats.low_hit_rate);
	for (int i = 0; i < 10; i++)
		assert_gives(cache, "1", "v");
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_false(stats.low_hit_rate);
	terrace_cache_close(cache);
}

/* --- forms -------------------------------------------------------------------------------------------------------- */

struct form_counts {
	int decoded, destroyed;
};

/* Decoded, a text is its length. */
static int decode_length(void *ctx, terrace_slice bytes, void **ret_object, size_t *ret_weight)
{
	struct form_counts *counts = ctx;
	size_t *length;

	if (bytes.size == 3 && memcmp(bytes.data, "bad", 3) == 0)
		return 1;
	length = malloc(sizeof *length);
	*length = bytes.size;
	*ret_object = length;
	*ret_weight = 10000;
	counts->decoded++;
	return 0;
}

static void destroy_length(void *ctx, void *object)
{
	((struct form_counts *)ctx)->destroyed++;
	free(object);
}

static size_t object_of(terrace_cache *cache, const char *key)
{
	terrace_value *value;
	size_t length;

	assert_ok(terrace_get(cache, terrace_str(key), &value));
	assert_null(terrace_data(value));
	assert_int_equal(terrace_size(value), 10000);
	length = *(size_t *)terrace_object(value);
	terrace_release(value);
	return length;
}

static void test_form__is_decoded_once_for_each_miss_of_L1(void **state)
{
	struct fixture *f = *state;
	struct form_counts counts = { 0 };
	terrace_form form = TERRACE_FORM_INIT;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_value *value, *pinned;
	terrace_cache *cache;
	char key[16];

	form.decode = decode_length;
	form.destroy = destroy_length;
	form.ctx = &counts;
	policy.form = &form;
	policy.memory_bytes = 100000; /* nine decoded ones */
	policy.encoded_bytes = 100000;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "k", "hello"));
	assert_int_equal(counts.decoded, 0);
	assert_int_equal(object_of(cache, "k"), 5);
	assert_int_equal(object_of(cache, "k"), 5);
	assert_int_equal(counts.decoded, 1);
	assert_ok(terrace_get(cache, TERRACE_KEY("k"), &pinned));
	for (int i = 0; i < 50; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(put_text(cache, key, key));
		assert_int_equal(object_of(cache, key), strlen(key));
	}
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_true(stats.l1.bytes <= 100000);
	assert_true(stats.l1.entries < 10);
	assert_int_equal(stats.encoded.entries, 51);
	assert_true(stats.encoded.bytes <= 100000);
	/* its decoded form has gone, its bytes have not: no look at the disk */
	assert_int_equal(object_of(cache, "0"), 1);
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_int_equal(stats.hits_l2, 0);
	assert_true(stats.hits_encoded > 0);
	/* a pinned object stays */
	assert_int_equal(*(size_t *)terrace_object(pinned), 5);
	/* the bytes themselves */
	assert_ok(terrace_get_encoded(cache, TERRACE_KEY("k"), &value));
	assert_memory_equal(terrace_data(value), "hello", 5);
	terrace_release(value);
	/* what cannot be decoded is damage */
	assert_ok(put_text(cache, "x", "bad"));
	assert_misses(cache, "x");
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_int_equal(stats.damaged, 1);
	assert_why(cache, "x", TERRACE_REASON_DAMAGED, "decoded");
	/* bytes have a budget of their own */
	for (int i = 0; i < 50; i++) {
		char text[5000] = { 0 };

		snprintf(key, sizeof key, "%d", i);
		memset(text, 'x', sizeof text - 1);
		assert_ok(put_text(cache, key, text));
		assert_ok(terrace_cache_stats(cache, &stats));
		assert_true(stats.encoded.bytes <= 100000);
	}
	assert_true(stats.encoded.entries >= 15);
	terrace_cache_close(cache);
	assert_int_equal(counts.destroyed, counts.decoded - 1);
	terrace_release(pinned);
	assert_int_equal(counts.destroyed, counts.decoded);
}

static void test_form__in_memory_alone(void **state)
{
	struct fixture *f = *state;
	struct form_counts counts = { 0 };
	terrace_form form = TERRACE_FORM_INIT;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	form.decode = decode_length;
	form.destroy = destroy_length;
	form.ctx = &counts;
	policy.form = &form;
	policy.tiers = TERRACE_L1;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "k", "hello"));
	assert_int_equal(object_of(cache, "k"), 5);
	assert_status(put_text(cache, "k", "bad"), TERRACE_EINVAL);
	assert_misses(cache, "k");
	assert_status(terrace_incr(cache, TERRACE_KEY("n"), 1, 0, NULL), TERRACE_EINVAL);
	terrace_cache_close(cache);
	assert_int_equal(counts.destroyed, counts.decoded);
}

/* --- codecs --------------------------------------------------------------------------------------------------------- */

static void test_codec__is_the_caches_choice_and_remembered(void **state)
{
	struct fixture *f = *state;
	static const terrace_codec codecs[] = { TERRACE_CODEC_NONE, TERRACE_CODEC_LZ4,
		                                TERRACE_CODEC_ZSTD };
	char *text = malloc(200001);

	for (int i = 0; i < 200000; i++)
		text[i] = "terrace"[i % 7];
	text[200000] = '\0';
	for (size_t i = 0; i < 3; i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		terrace_info info = TERRACE_INFO_INIT;
		terrace_cache *cache;

		policy.codec = codecs[i];
		policy.tiers = TERRACE_L2 | TERRACE_L3;
		cache = fixture_cache(f, "a", &policy);
		/* what an earlier codec stored is still read */
		if (i > 0)
			assert_gives(cache, "k", text);
		assert_ok(put_text(cache, "k", text));
		assert_ok(put_text(cache, "tiny", "abc"));
		assert_gives(cache, "k", text);
		assert_ok(terrace_inspect(cache, TERRACE_KEY("k"), &info));
		assert_int_equal(info.codec, codecs[i]);
		assert_true(i == 0 ? info.stored_bytes == 200000 : info.stored_bytes < 2000);
		terrace_info_free(&info);
		assert_ok(terrace_inspect(cache, TERRACE_KEY("tiny"), &info));
		assert_int_equal(info.codec, TERRACE_CODEC_NONE); /* it would not shrink */
		terrace_info_free(&info);
		terrace_cache_close(cache);
	}
	free(text);
}

static void test_files__go_with_their_entries(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_lease *lease;
	terrace_value *value;

	policy.tiers = TERRACE_L3;
	policy.disk_entries = 3;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < 5; i++) {
		char key[16];

		snprintf(key, sizeof key, "%d", i);
		atomic_fetch_add(&f->clock.now, 1);
		assert_ok(put_text(cache, key, "a value in a file"));
		assert_ok(put_text(cache, key, "another value in a file"));
	}
	assert_int_equal(fixture_files(f), 3); /* replaced and evicted ones are gone */
	assert_ok(terrace_delete(cache, TERRACE_KEY("4")));
	assert_int_equal(fixture_files(f), 2);
	assert_int_equal(invalidate(cache, TERRACE_MATCH_ALL, NULL), 2);
	assert_int_equal(fixture_files(f), 0);
	/* written before it was known that it must not be kept */
	assert_status(terrace_lease_begin(cache, TERRACE_KEY("k"), 0, &lease, &value),
	              TERRACE_MISS);
	options.lease = lease;
	assert_ok(terrace_clear(cache, 0, NULL));
	assert_status(terrace_put(cache, TERRACE_KEY("k"), terrace_str("too late"), &options),
	              TERRACE_MISS);
	terrace_lease_drop(lease);
	assert_int_equal(fixture_files(f), 0);
	terrace_cache_close(cache);
}

static struct {
	struct disk_ops ops;
	const struct disk_ops *real;
	unsigned accessed;
} watched;

static int count_accessed(void *disk, uint64_t hash, uint64_t count, int64_t when)
{
	watched.accessed++;
	return watched.real->accessed(disk, hash, count, when);
}

static void test_hits__of_many_rows_are_counted_without_writing_each(void **state)
{
	enum { KEYS = 3000, GETS = 12000, HOT = 8000 };
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_info info = TERRACE_INFO_INIT;
	terrace_cache *cache;
	char key[16];

	policy.tiers = TERRACE_L2;
	cache = fixture_rows(f, "rows", &policy);
	for (int i = 0; i < KEYS; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(put_text(cache, key, "v"));
	}
	watched.real = f->store->disk_ops;
	watched.ops = *watched.real;
	watched.ops.accessed = count_accessed;
	watched.accessed = 0;
	f->store->disk_ops = &watched.ops;
	for (int i = 0; i < GETS; i++) {
		snprintf(key, sizeof key, "%d", i % KEYS);
		assert_gives(cache, key, "v");
		if (i % 10 == 0)
			assert_ok(put_text(cache, "other", "v"));
	}
	assert_in_range(watched.accessed, 1, GETS / 8);
	/* and one that is used far more often is known for it */
	for (int i = 0; i < HOT; i++) {
		assert_gives(cache, "7", "v");
		if (i % 10 == 0)
			assert_ok(put_text(cache, "other", "v"));
	}
	assert_ok(terrace_inspect(cache, TERRACE_KEY("7"), &info));
	assert_in_range(info.access_count, HOT * 3 / 4, HOT * 5 / 4);
	terrace_info_free(&info);
	f->store->disk_ops = watched.real;
	terrace_cache_close(cache);
}

/* An entry that leaves memory tells its row how often it served there. */
static void test_hits__in_memory_count_when_the_entry_leaves_it(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_info info = TERRACE_INFO_INIT;
	terrace_cache *cache = fixture_rows(f, "rows", &policy);

	assert_ok(put_text(cache, "tile/12", "v"));
	for (int i = 0; i < 3; i++)
		assert_gives(cache, "tile/12", "v");
	assert_ok(terrace_evict(cache, UINT64_MAX, NULL));
	assert_ok(terrace_inspect(cache, TERRACE_KEY("tile/12"), &info));
	assert_int_equal(info.tier, TERRACE_L2);
	assert_int_equal(info.access_count, 3);
	terrace_info_free(&info);
	terrace_cache_close(cache);
}

int main(void)
{
#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_STORE(test_get__says_which_tier_served),
		WITH_STORE(test_value__outlives_replacement_cache_and_store),
		WITH_STORE(test_keys__of_any_bytes_up_to_64_KiB),
		WITH_STORE(test_keys__of_every_size_are_hit_in_memory),
		WITH_STORE(test_many__put_get_delete),
		WITH_STORE(test_get_or__gives_a_copy_of_the_default),
		WITH_STORE(test_add__only_where_nothing_lives),
		WITH_STORE(test_incr__counts_and_keeps_what_the_entry_has),
		WITH_STORE(test_delete__says_whether_it_was_there),
		WITH_STORE(test_ttl__ends_to_the_millisecond),
		WITH_STORE(test_ttl__of_the_cache_is_the_default),
		WITH_STORE(test_touch__gives_a_new_time_to_live),
		WITH_STORE(test_clock__an_entry_from_the_future_is_dead),
		WITH_STORE(test_cleanup__removes_the_dead_and_counts_them),
		WITH_STORE(test_invalidate__by_key_glob_prefix_tag_and_all),
		WITH_STORE(test_invalidate__reaches_copies_whose_row_was_evicted),
		WITH_STORE(test_invalidate__reaches_copies_whose_row_is_evicted_meanwhile),
		WITH_STORE(test_clear__all_or_by_tier),
		WITH_STORE(test_clear__what_comes_after_stays),
		WITH_STORE(test_keys__more_than_one_batch),
		WITH_STORE(test_limits__entries_and_bytes_of_memory),
		WITH_STORE(test_limits__of_the_store_hold_over_all_caches),
		WITH_STORE(test_limits__what_a_closed_store_has_hit_stays),
		WITH_STORE(test_limits__of_disk_keep_what_is_small_and_used),
		WITH_STORE(test_limits__of_the_store_are_what_lies_on_the_device),
		WITH_STORE(test_limits__of_disk_evict_expired_first_then_the_coldest),
		WITH_STORE(test_limits__a_large_object_pushes_nothing_out),
		WITH_STORE(test_keys_newest__gives_the_latest_arrival_first),
		WITH_STORE(test_usage__counts_what_is_dead_and_not_swept),
		WITH_STORE(test_inspect_value__tells_of_the_value_that_was_read),
		WITH_STORE(test_inspect__tells_all),
		WITH_STORE(test_why__every_removal_leaves_a_note),
		WITH_STORE(test_why__what_memory_alone_had_to_give_up),
		WITH_STORE(test_notes__are_bounded_in_number),
		WITH_STORE(test_stats__count_what_happened),
		WITH_STORE(test_stats__puts_into_memory_count),
		WITH_STORE(test_stats__a_low_hit_rate_is_an_alert),
		WITH_STORE(test_form__is_decoded_once_for_each_miss_of_L1),
		WITH_STORE(test_form__in_memory_alone),
		WITH_STORE(test_codec__is_the_caches_choice_and_remembered),
		WITH_STORE(test_files__go_with_their_entries),
		WITH_STORE(test_hits__of_many_rows_are_counted_without_writing_each),
		WITH_STORE(test_hits__in_memory_count_when_the_entry_leaves_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
