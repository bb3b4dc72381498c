/* Sources: an entry lives while the files that it was made from are as they were. */
#include "support/peer.h"

#include "core/coherence.h"
#include "core/sources.h"
#include "core/store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* For a file whose times do not count as young: see terrace__source_grain_ms. */
static int setup_old(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	terrace__source_grain_ms = INT64_MIN / 2;
	fixture_open(f);
	*state = f;
	return 0;
}

static int setup_young(void **state)
{
	int rc = setup_old(state);

	/* Every file is younger than this. */
	terrace__source_grain_ms = INT64_MAX / 2;
	return rc;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fixture_close(f);
	free(f);
	return 0;
}

static const char *source_path(const struct fixture *f)
{
	return scratch_path(&f->scratch, "source");
}

static void put_from(terrace_cache *cache, const char *key, const char *path, unsigned flags)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_sources *sources;

	assert_ok(terrace_sources_new(&sources));
	assert_ok(terrace_sources_file(sources, path, flags));
	options.sources = sources;
	assert_ok(terrace_put(cache, terrace_str(key), terrace_str("v"), &options));
	terrace_sources_free(sources);
}

static void assert_why_source(terrace_cache *cache, const char *key, const char *path,
                              const char *how)
{
	terrace_why why = TERRACE_WHY_INIT;

	assert_status(terrace_explain(cache, terrace_str(key), &why), TERRACE_MISS);
	assert_int_equal(why.reason, TERRACE_REASON_SOURCE);
	if (strncmp(why.detail, path, strlen(path)) != 0 || !strstr(why.detail, how))
		fail_msg("\"%s\" names neither %s nor \"%s\"", why.detail, path, how);
}

static terrace_cache *cache_with(struct fixture *f, unsigned tiers, terrace_check check,
                                 int64_t interval)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.tiers = tiers;
	policy.check = check;
	policy.check_interval_ms = interval;
	return fixture_cache(f, "a", &policy);
}

/* The ways in which a file can change. */
static void rewrite(const char *path)
{
	write_file(path, "other words");
}

static void same_size(const char *path)
{
	write_file(path, "2");
}

static void replace_by_rename(const char *path)
{
	char other[600];

	snprintf(other, sizeof other, "%s.new", path);
	write_file(other, "1");
	assert_int_equal(rename(other, path), 0);
}

static void vanish(const char *path)
{
	assert_int_equal(unlink(path), 0);
}

static void become_directory(const char *path)
{
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
}

/* Contents and modification time as before: the change time tells. */
static void restore_times(const char *path)
{
	struct timespec times[2];
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	write_file(path, "3");
	times[0] = st.st_atim;
	times[1] = st.st_mtim;
	assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void test_source__any_change_is_a_miss_in_every_tier(void **state)
{
	static const struct {
		void (*change)(const char *path);
		const char *how;
	} changes[] = {
		{ rewrite, "size" },
		{ same_size, "modified" },
		{ replace_by_rename, "replaced" },
		{ vanish, "gone" },
		{ become_directory, "no longer" },
		{ restore_times, "modified" },
	};
	static const unsigned tiers[] = { TERRACE_L1, TERRACE_L2, TERRACE_L3,
		                          TERRACE_L1 | TERRACE_L2 | TERRACE_L3 };
	struct fixture *f = *state;
	const char *path = source_path(f);

	for (size_t t = 0; t < sizeof tiers / sizeof *tiers; t++) {
		terrace_cache *cache = cache_with(f, tiers[t], TERRACE_CHECK_DEFAULT, 0);

		for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
			unlink(path);
			rmdir(path);
			write_file(path, "1");
			put_from(cache, "k", path, 0);
			assert_gives(cache, "k", "v");
			assert_gives(cache, "k", "v");
			changes[i].change(path);
			assert_misses(cache, "k");
			assert_why_source(cache, "k", path, changes[i].how);
			assert_misses(cache, "k"); /* gone, not only hidden */
		}
		terrace_cache_close(cache);
	}
}

static void test_source__the_removed_entry_can_be_put_again(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_with(f, 0, TERRACE_CHECK_DEFAULT, 0);
	terrace_stats stats = TERRACE_STATS_INIT;

	write_file(source_path(f), "1");
	put_from(cache, "k", source_path(f), 0);
	put_from(cache, "other", source_path(f), 0);
	rewrite(source_path(f));
	assert_misses(cache, "k");
	put_from(cache, "k", source_path(f), 0);
	assert_gives(cache, "k", "v");
	assert_misses(cache, "other");
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_int_equal(stats.source_changes, 2);
	assert_int_equal(stats.l2.entries, 1);
	terrace_cache_close(cache);
}

static void test_source__an_absent_file_must_stay_absent(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_with(f, 0, TERRACE_CHECK_DEFAULT, 0);
	terrace_put_options options = TERRACE_PUT_INIT;
	const char *path = source_path(f);
	terrace_sources *sources;

	assert_ok(terrace_sources_new(&sources));
	assert_ok(terrace_sources_absent(sources, path));
	options.sources = sources;
	assert_ok(terrace_put(cache, TERRACE_KEY("k"), terrace_str("v"), &options));
	assert_gives(cache, "k", "v");
	write_file(path, "");
	assert_misses(cache, "k");
	assert_why_source(cache, "k", path, "appeared");
	/* it is there now */
	assert_status(terrace_sources_absent(sources, path), TERRACE_EXISTS);
	assert_int_equal(terrace_sources_count(sources), 1);
	/* a dangling link is there, too */
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/nonexistent", path), 0);
	assert_status(terrace_sources_absent(sources, path), TERRACE_EXISTS);
	terrace_sources_free(sources);
	terrace_cache_close(cache);
}

static void test_source__what_cannot_be_one_is_refused(void **state)
{
	struct fixture *f = *state;
	terrace_sources *sources;
	char longest[5000];

	assert_ok(terrace_sources_new(&sources));
	assert_status(terrace_sources_file(sources, source_path(f), 0), TERRACE_MISS);
	assert_non_null(strstr(terrace_error_message(), "source does not exist"));
	assert_status(terrace_sources_file(sources, f->scratch.path, 0), TERRACE_EINVAL);
	assert_non_null(strstr(terrace_error_message(), "not a regular file"));
	assert_status(terrace_sources_file(sources, "/dev/null", 0), TERRACE_EINVAL);
	assert_status(terrace_sources_file(sources, "", 0), TERRACE_EINVAL);
	memset(longest, 'x', sizeof longest - 1);
	longest[sizeof longest - 1] = '\0';
	assert_status(terrace_sources_file(sources, longest, 0), TERRACE_EINVAL);
	assert_int_equal(terrace_sources_count(sources), 0);
	terrace_sources_free(sources);
}

static void test_source__by_content_the_same_bytes_are_no_change(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_with(f, 0, TERRACE_CHECK_DEFAULT, 0);
	const char *path = source_path(f);

	write_file(path, "1");
	put_from(cache, "k", path, TERRACE_SOURCE_CONTENT);
	replace_by_rename(path); /* with the same content */
	assert_gives(cache, "k", "v");
	terrace_clear(cache, TERRACE_L1, NULL);
	assert_gives(cache, "k", "v");
	same_size(path);
	assert_misses(cache, "k");
	assert_why_source(cache, "k", path, "other content");
	terrace_cache_close(cache);
}

/* Within the grain of a file system's time, a second change leaves no other mark. */
static void test_source__a_young_file_is_compared_by_content(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_with(f, 0, TERRACE_CHECK_DEFAULT, 0);
	const char *path = source_path(f);
	struct source_mark mark;

	write_file(path, "1");
	assert_ok(terrace__source_mark(NULL, path, 0, &mark));
	assert_true(mark.flags & SOURCE_RACY);
	assert_true(mark.flags & SOURCE_HASHED);
	mark.path = terrace_str(path);
	assert_int_equal(terrace__source_check(f->store, &mark, NULL, 0), SOURCE_SAME);
	/* as if the file had changed and kept its marks */
	mark.hash[0] ^= 1;
	assert_int_equal(terrace__source_check(f->store, &mark, NULL, 0), SOURCE_CHANGED);
	terrace_cache_close(cache);
}

/*
 * An add looks at what is there in the middle of its write, and so at the
 * content of a file that was young when it was noted down and no longer is.
 * What is then known of the file cannot be written down at that point.
 */
static void test_source__add_over_a_file_that_was_young_comes_to_an_end(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_with(f, 0, TERRACE_CHECK_DEFAULT, 0);
	const char *path = source_path(f);

	write_file(path, "1");
	put_from(cache, "k", path, 0);
	terrace__source_grain_ms = INT64_MIN / 2;
	alarm(30); /* it would wait for itself */
	assert_status(terrace_add(cache, TERRACE_KEY("k"), terrace_str("w"), NULL), TERRACE_EXISTS);
	alarm(0);
	assert_gives(cache, "k", "v");
	terrace_cache_close(cache);
}

static void test_source__is_checked_as_the_policy_says(void **state)
{
	struct fixture *f = *state;
	const char *path = source_path(f);
	terrace_cache *cache = cache_with(f, 0, TERRACE_CHECK_INTERVAL, 1000);
	uint64_t count;

	write_file(path, "1");
	put_from(cache, "k", path, 0);
	assert_gives(cache, "k", "v");
	rewrite(path);
	atomic_fetch_add(&f->clock.now, 999);
	assert_gives(cache, "k", "v"); /* was looked at less than a second ago */
	atomic_fetch_add(&f->clock.now, 1);
	assert_misses(cache, "k");
	/* nor for as long as a clock went back */
	put_from(cache, "k", path, 0);
	assert_gives(cache, "k", "v");
	same_size(path);
	atomic_fetch_sub(&f->clock.now, 500000);
	assert_misses(cache, "k");
	terrace_cache_close(cache);

	cache = cache_with(f, TERRACE_L1 | TERRACE_L2, TERRACE_CHECK_MANUAL, 0);
	put_from(cache, "k", path, 0);
	assert_ok(put_text(cache, "unrelated", "v"));
	same_size(path);
	assert_gives(cache, "k", "v");
	terrace_clear(cache, TERRACE_L1, NULL);
	assert_gives(cache, "k", "v");
	assert_ok(terrace_check_sources(cache, &count));
	assert_int_equal(count, 1);
	assert_misses(cache, "k");
	assert_why_source(cache, "k", path, "");
	assert_gives(cache, "unrelated", "v");
	assert_ok(terrace_check_sources(cache, &count));
	assert_int_equal(count, 0);
	terrace_cache_close(cache);
}

/* As core/room.c does it. */
static void evict_all(terrace *store, terrace_cache *cache)
{
	const struct disk_ops *ops = store->disk_ops;
	struct tier_row row;
	uint64_t seq;
	size_t found = 1;

	atomic_store(&cache->shared->rows, ROWS_LACK);
	assert_ok(ops->begin(store->disk, 0));
	while (found) {
		assert_ok(ops->victims(store->disk, cache->number, 0, &row, 1, &found));
		if (found)
			assert_ok(ops->remove_row(store->disk, &row, NULL));
	}
	assert_ok(ops->commit(store->disk, &seq));
	terrace__commits_count(store->shared);
}

/* Of one that checks by hand nobody else looks at what a process still has. */
static void test_source__that_was_checked_by_hand_is_so_for_all_processes(void **state)
{
	static const struct {
		unsigned tiers;
		bool evicted;
	} ways[] = { { TERRACE_L1 | TERRACE_L2, false },
		     { TERRACE_L1 | TERRACE_L2, true },
		     { TERRACE_L2, false },
		     { TERRACE_L2, true } };
	struct fixture *f = *state;
	const char *path = source_path(f);

	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		terrace_cache *cache;
		struct peer peer;
		uint64_t count;

		policy.tiers = ways[i].tiers;
		policy.check = TERRACE_CHECK_MANUAL;
		cache = fixture_rows(f, "a", &policy);
		write_file(path, "1");
		put_from(cache, "k", path, 0);
		assert_true(f->store->disk_ops->checkpoint(f->store->disk, CHECKPOINT_NOW));
		peer = peer_start(f, &policy);
		assert_peer(&peer, "g k", "v");
		if (ways[i].evicted)
			evict_all(f->store, cache);
		rewrite(path);
		assert_peer(&peer, "g k", "v");
		assert_ok(terrace_check_sources(cache, &count));
		assert_int_equal(count, !ways[i].evicted);
		assert_peer(&peer, "g k", "(miss)");
		peer_end(&peer);
		terrace_cache_close(cache);
	}
}

/* A path through links that lead in a circle: whether the file changed, nobody can say. */
static void become_unreadable(const char *path)
{
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink(path, path), 0);
}

static void test_source__that_cannot_be_looked_at_is_a_miss_each_time(void **state)
{
	static const struct {
		terrace_check check;
		int64_t interval;
	} checks[] = { { TERRACE_CHECK_ON_HIT, 0 }, { TERRACE_CHECK_INTERVAL, 1000 } };
	struct fixture *f = *state;
	const char *path = source_path(f);

	for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
		terrace_cache *cache = cache_with(f, 0, checks[i].check, checks[i].interval);

		write_file(path, "1");
		put_from(cache, "k", path, 0);
		assert_gives(cache, "k", "v");
		become_unreadable(path);
		atomic_fetch_add(&f->clock.now, 1000);
		/* also right after another look that could not tell */
		for (int again = 0; again < 3; again++)
			assert_misses(cache, "k");
		vanish(path);
		terrace_cache_close(cache);
	}
}

/* Above what a link leads to is not where the link is. */
static void test_source__dots_behind_a_link_go_where_the_link_does(void **state)
{
	static const char *const ways[] = { "link/../source", "link/./../../far/source",
		                            "link/../deep/../source" };
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	char far[600], other[600];

	snprintf(other, sizeof other, "%s", source_path(f));
	snprintf(far, sizeof far, "%s", scratch_path(&f->scratch, "far"));
	assert_int_equal(mkdir(far, 0700), 0);
	assert_int_equal(mkdir(scratch_path(&f->scratch, "far/deep"), 0700), 0);
	assert_int_equal(symlink("far/deep", scratch_path(&f->scratch, "link")), 0);
	snprintf(far, sizeof far, "%s", scratch_path(&f->scratch, "far/source"));
	write_file(other, "1");
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
		write_file(far, "1");
		put_from(cache, "k", scratch_path(&f->scratch, ways[i]), 0);
		assert_gives(cache, "k", "v");
		write_file(far, "other words");
		assert_misses(cache, "k");
	}
	terrace_cache_close(cache);
}

static int load_source(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)key;
	return terrace_loaded_source(loaded, ctx, 0);
}

/* It can neither be fingerprinted nor be said to be missing: the loader is told. */
static void test_source__a_link_that_leads_nowhere_is_no_source_of_a_loader(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	const char *link = scratch_path(&f->scratch, "link");
	terrace_value *value;

	assert_int_equal(symlink("nowhere", link), 0);
	assert_status(
	    terrace_fetch(cache, TERRACE_KEY("k"), load_source, (void *)(uintptr_t)link, &value),
	    TERRACE_EINVAL);
	assert_non_null(strstr(terrace_error_message(), "link to nothing"));
	assert_int_equal(unlink(link), 0);
	assert_status(
	    terrace_fetch(cache, TERRACE_KEY("k"), load_source, (void *)(uintptr_t)link, &value),
	    TERRACE_MISS);
	terrace_cache_close(cache);
}

static void test_source__invalidation_by_source(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_with(f, 0, TERRACE_CHECK_DEFAULT, 0);
	const char *path = source_path(f);
	terrace_match match = terrace_match_text(TERRACE_MATCH_SOURCE, path);
	terrace_info info = TERRACE_INFO_INIT;
	char spelled[700];
	uint64_t count;

	write_file(path, "1");
	put_from(cache, "a", path, 0);
	put_from(cache, "b", path, 0);
	assert_ok(put_text(cache, "c", "v"));
	assert_ok(terrace_inspect(cache, TERRACE_KEY("a"), &info));
	assert_int_equal(info.source_count, 1);
	assert_string_equal(info.sources[0].path, path);
	assert_false(info.sources[0].changed);
	terrace_info_free(&info);
	snprintf(spelled, sizeof spelled, "%s/./x/../source", f->scratch.path);
	match = terrace_match_text(TERRACE_MATCH_SOURCE, spelled);
	assert_ok(terrace_invalidate(cache, &match, &count));
	assert_int_equal(count, 2);
	assert_misses(cache, "a");
	assert_misses(cache, "b");
	assert_gives(cache, "c", "v");
	terrace_cache_close(cache);
}

static void test_digest__is_remembered_while_the_file_stands(void **state)
{
	struct fixture *f = *state;
	terrace_digest first, again, other;
	const char *path = source_path(f);
	terrace_digest of_words = terrace_digest_bytes(terrace_str("some words"));
	struct stat st;

	write_file(path, "some words");
	assert_ok(terrace_file_digest(f->store, path, &first));
	assert_memory_equal(&first, &of_words, sizeof first);
	assert_ok(terrace_file_digest(f->store, path, &again));
	assert_memory_equal(&first, &again, sizeof first);
	write_file(path, "some other words");
	assert_ok(terrace_file_digest(f->store, path, &other));
	assert_memory_not_equal(&first, &other, sizeof first);
	assert_ok(terrace_file_digest(NULL, path, &again));
	assert_memory_equal(&other, &again, sizeof first);
	/* remembered means not read: even when nobody may read it any more */
	if (geteuid() != 0) {
		assert_int_equal(chmod(path, 0), 0);
		assert_int_equal(stat(path, &st), 0);
	}
	assert_int_equal(unlink(path), 0);
	assert_status(terrace_file_digest(f->store, path, &again), TERRACE_MISS);
	assert_status(terrace_file_digest(f->store, f->scratch.path, &again), TERRACE_EINVAL);
}

int main(void)
{
#define OLD(test)   cmocka_unit_test_setup_teardown(test, setup_old, teardown)
#define YOUNG(test) cmocka_unit_test_setup_teardown(test, setup_young, teardown)
	const struct CMUnitTest tests[] = {
		OLD(test_source__any_change_is_a_miss_in_every_tier),
		OLD(test_source__the_removed_entry_can_be_put_again),
		OLD(test_source__an_absent_file_must_stay_absent),
		OLD(test_source__what_cannot_be_one_is_refused),
		OLD(test_source__by_content_the_same_bytes_are_no_change),
		YOUNG(test_source__a_young_file_is_compared_by_content),
		YOUNG(test_source__add_over_a_file_that_was_young_comes_to_an_end),
		OLD(test_source__is_checked_as_the_policy_says),
		OLD(test_source__that_was_checked_by_hand_is_so_for_all_processes),
		OLD(test_source__that_cannot_be_looked_at_is_a_miss_each_time),
		OLD(test_source__dots_behind_a_link_go_where_the_link_does),
		OLD(test_source__a_link_that_leads_nowhere_is_no_source_of_a_loader),
		OLD(test_source__invalidation_by_source),
		OLD(test_digest__is_remembered_while_the_file_stands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
