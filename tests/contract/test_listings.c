/* Listings and variables as sources. */
#include "support/support.h"

#include "core/listing.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int setup(void **state)
{
	struct fixture *f;

	fixture_setup(state);
	f = *state;
	assert_int_equal(mkdir(scratch_path(&f->scratch, "dir"), 0700), 0);
	assert_int_equal(mkdir(scratch_path(&f->scratch, "dir/sub"), 0700), 0);
	write_file(scratch_path(&f->scratch, "dir/one.c"), "1");
	write_file(scratch_path(&f->scratch, "dir/two.h"), "2");
	write_file(scratch_path(&f->scratch, "dir/sub/three.c"), "3");
	return 0;
}

static const char *at(const struct fixture *f, const char *name)
{
	return scratch_path(&f->scratch, name);
}

static terrace_cache *cache_of(struct fixture *f, unsigned tiers)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.tiers = tiers;
	return fixture_cache(f, "a", &policy);
}

static void assert_why(terrace_cache *cache, const char *key, const char *what)
{
	terrace_why why = TERRACE_WHY_INIT;

	assert_status(terrace_explain(cache, terrace_str(key), &why), TERRACE_MISS);
	assert_int_equal(why.reason, TERRACE_REASON_SOURCE);
	if (!strstr(why.detail, what))
		fail_msg("\"%s\" does not say \"%s\"", why.detail, what);
}

/* --- listings ------------------------------------------------------------------------------------ */

static void add_c(struct fixture *f)
{
	write_file(at(f, "dir/new.c"), "");
}

static void add_hidden_c(struct fixture *f)
{
	write_file(at(f, "dir/.new.c"), "");
}

static void add_h(struct fixture *f)
{
	write_file(at(f, "dir/new.h"), "");
}

static void add_below(struct fixture *f)
{
	write_file(at(f, "dir/sub/new.c"), "");
}

static void add_dir_below(struct fixture *f)
{
	assert_int_equal(mkdir(at(f, "dir/sub/deep"), 0700), 0);
}

static void remove_c(struct fixture *f)
{
	assert_int_equal(unlink(at(f, "dir/one.c")), 0);
}

static void rename_c(struct fixture *f)
{
	assert_int_equal(rename(at(f, "dir/one.c"), at(f, "dir/ace.c")), 0);
}

static void become_dir(struct fixture *f)
{
	assert_int_equal(unlink(at(f, "dir/one.c")), 0);
	assert_int_equal(mkdir(at(f, "dir/one.c"), 0700), 0);
}

static void swap(struct fixture *f)
{
	assert_int_equal(rename(at(f, "dir/one.c"), at(f, "dir/x")), 0);
	assert_int_equal(rename(at(f, "dir/sub/three.c"), at(f, "dir/one.c")), 0);
	assert_int_equal(rename(at(f, "dir/x"), at(f, "dir/sub/three.c")), 0);
}

static void rewrite(struct fixture *f)
{
	write_file(at(f, "dir/one.c"), "other words");
}

static void test_listing__ends_with_the_names_that_count_and_no_others(void **state)
{
	/* Of "dir", "dir/PATTERN", deep, deep with a pattern: does it change? */
	static const char *const listings[] = { "dir", "dir/*.c", "dir/**", "dir/**/*.c" };
	static const struct {
		void (*change)(struct fixture *f);
		bool ends[4];
	} changes[] = {
		{ add_c, { true, true, true, true } },
		{ add_hidden_c, { true, true, true, true } },
		{ add_h, { true, false, true, false } },
		{ add_below, { false, false, true, true } },
		{ add_dir_below, { false, false, true, false } },
		{ remove_c, { true, true, true, true } },
		{ rename_c, { true, true, true, true } },
		{ become_dir, { true, true, true, true } },
		{ swap, { false, false, false, false } },
		{ rewrite, { false, false, false, false } },
	};
	static const unsigned tiers[] = { TERRACE_L1, TERRACE_L2, 0 };

	for (size_t t = 0; t < 3; t++) {
		for (size_t c = 0; c < sizeof changes / sizeof *changes; c++) {
			struct fixture *f;
			terrace_cache *cache;

			fixture_teardown(state);
			setup(state);
			f = *state;
			cache = cache_of(f, tiers[t]);
			for (size_t l = 0; l < 4; l++)
				put_sourced(cache, listings[l], terrace_sources_listing,
				            at(f, listings[l]));
			for (size_t l = 0; l < 4; l++)
				assert_gives(cache, listings[l], "v");
			changes[c].change(f);
			for (size_t l = 0; l < 4; l++) {
				if (!changes[c].ends[l]) {
					assert_gives(cache, listings[l], "v");
					continue;
				}
				assert_misses(cache, listings[l]);
				assert_why(cache, listings[l], at(f, listings[l]));
				assert_why(cache, listings[l], "lists other names");
			}
			terrace_cache_close(cache);
		}
	}
}

static void test_listing__says_how_many_names_and_that_a_directory_is_gone(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of(f, 0);

	put_sourced(cache, "k", terrace_sources_listing, at(f, "dir"));
	add_c(f);
	assert_misses(cache, "k");
	assert_why(cache, "k", "(4, and not 3)");
	put_sourced(cache, "k", terrace_sources_listing, at(f, "dir/sub/*.c"));
	unlink(at(f, "dir/sub/three.c"));
	rmdir(at(f, "dir/sub"));
	assert_misses(cache, "k");
	assert_why(cache, "k", "/dir/sub is gone");
	terrace_cache_close(cache);
}

static void test_listing__outlives_the_process(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of(f, 0);
	terrace_match match;
	terrace_info info = TERRACE_INFO_INIT;
	uint64_t count;

	put_sourced(cache, "k", terrace_sources_listing, at(f, "dir/**/*.c"));
	put_sourced(cache, "other", terrace_sources_listing, at(f, "dir/*.c"));
	terrace_cache_close(cache);
	fixture_reopen(f);
	cache = cache_of(f, 0);
	assert_gives(cache, "k", "v");
	assert_ok(terrace_inspect(cache, TERRACE_KEY("k"), &info));
	assert_int_equal(info.source_count, 1);
	assert_int_equal(info.sources[0].kind, TERRACE_SOURCE_LISTING);
	assert_string_equal(terrace_source_kind_name(info.sources[0].kind), "listing");
	assert_string_equal(info.sources[0].path, at(f, "dir/**/*.c"));
	assert_false(info.sources[0].changed);
	terrace_info_free(&info);
	match = terrace_match_text(TERRACE_MATCH_SOURCE, at(f, "dir/**/*.c"));
	assert_ok(terrace_invalidate(cache, &match, &count));
	assert_int_equal(count, 1);
	assert_misses(cache, "k");
	assert_gives(cache, "other", "v");
	terrace_cache_close(cache);
}

/* What exists under a name is what the name means. */
static void test_listing__of_a_directory_whose_name_looks_like_a_pattern(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of(f, 0);

	assert_int_equal(mkdir(at(f, "dir/[x]*"), 0700), 0);
	put_sourced(cache, "plain", terrace_sources_listing, at(f, "dir/[x]*"));
	put_sourced(cache, "pattern", terrace_sources_listing, at(f, "dir/[x]*/*.c"));
	write_file(at(f, "dir/[x]*/a.h"), "");
	assert_misses(cache, "plain");
	assert_gives(cache, "pattern", "v");
	write_file(at(f, "dir/[x]*/a.c"), "");
	assert_misses(cache, "pattern");
	terrace_cache_close(cache);
}

static void test_listing__what_cannot_be_one_is_refused(void **state)
{
	struct fixture *f = *state;
	terrace_sources *sources;
	terrace_digest digest;

	assert_ok(terrace_sources_new(&sources));
	assert_status(terrace_sources_listing(sources, at(f, "none")), TERRACE_MISS);
	assert_non_null(strstr(terrace_error_message(), "none does not exist"));
	assert_status(terrace_sources_listing(sources, at(f, "none/*.c")), TERRACE_MISS);
	assert_status(terrace_sources_listing(sources, at(f, "dir/one.c")), TERRACE_EINVAL);
	assert_non_null(strstr(terrace_error_message(), "no directory"));
	assert_status(terrace_sources_listing(sources, at(f, "d*/one.c")), TERRACE_EINVAL);
	assert_non_null(strstr(terrace_error_message(), "wildcards before its last part"));
	assert_status(terrace_sources_listing(sources, at(f, "dir/[a")), TERRACE_EINVAL);
	assert_non_null(strstr(terrace_error_message(), "not closed"));
	assert_status(terrace_sources_listing(sources, ""), TERRACE_EINVAL);
	assert_int_equal(terrace_sources_count(sources), 0);
	assert_status(terrace_listing_digest(at(f, "none"), &digest), TERRACE_MISS);
	terrace_sources_free(sources);
}

/* It leads in a circle: nobody can say which names there are. */
static void test_listing__that_cannot_be_read_is_a_miss_and_nobodys_end(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of(f, 0);

	put_sourced(cache, "k", terrace_sources_listing, at(f, "dir"));
	assert_int_equal(rename(at(f, "dir"), at(f, "aside")), 0);
	assert_int_equal(symlink(at(f, "dir"), at(f, "dir")), 0);
	assert_misses(cache, "k");
	assert_misses(cache, "k");
	assert_int_equal(unlink(at(f, "dir")), 0);
	assert_int_equal(rename(at(f, "aside"), at(f, "dir")), 0);
	assert_gives(cache, "k", "v");
	terrace_cache_close(cache);
}

/* As somebody who may not: not by root, whom nothing is forbidden. */
static void test_listing__of_what_may_not_be_read_is_refused_and_later_a_miss(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of(f, 0);
	const bool root = geteuid() == 0;
	terrace_sources *sources;
	int flat, deep, gets;

	put_sourced(cache, "k", terrace_sources_listing, at(f, "dir/**"));
	assert_int_equal(chmod(f->scratch.path, 0755), 0);
	assert_int_equal(chmod(at(f, "dir"), 0755), 0);
	assert_int_equal(chmod(at(f, "dir/sub"), 0), 0);
	assert_ok(terrace_sources_new(&sources));
	if (root)
		assert_int_equal(seteuid(65534), 0);
	flat = terrace_sources_listing(sources, at(f, "dir/sub"));
	if (!strstr(terrace_error_message(), at(f, "dir/sub")))
		flat = TERRACE_OK;
	deep = terrace_sources_listing(sources, at(f, "dir/**/*.c"));
	gets = misses(cache, "k");
	if (root)
		assert_int_equal(seteuid(0), 0);
	assert_status(flat, TERRACE_EACCESS);
	assert_status(deep, TERRACE_EACCESS);
	assert_status(gets, TERRACE_MISS);
	assert_int_equal(terrace_sources_count(sources), 0);
	terrace_sources_free(sources);
	/* nobody's end */
	assert_int_equal(chmod(at(f, "dir/sub"), 0700), 0);
	assert_gives(cache, "k", "v");
	terrace_cache_close(cache);
}

/* Its time says that nothing changed, but only when it is old enough to say anything. */
static void test_listing__of_an_old_directory_is_not_read_again(void **state)
{
	struct fixture *f = *state;
	struct source_mark mark;

	terrace__source_grain_ms = INT64_MAX / 2;
	assert_ok(terrace__listing_mark(at(f, "dir"), &mark));
	mark.hash[0] ^= 1; /* as if it had changed, and kept its marks */
	assert_int_equal(terrace__listing_check(&mark, at(f, "dir"), NULL, 0), SOURCE_CHANGED);
	terrace__source_grain_ms = INT64_MIN / 2;
	assert_ok(terrace__listing_mark(at(f, "dir"), &mark));
	mark.hash[0] ^= 1;
	assert_int_equal(terrace__listing_check(&mark, at(f, "dir"), NULL, 0), SOURCE_SAME);
	/* what lies below does not move its time */
	assert_ok(terrace__listing_mark(at(f, "dir/**"), &mark));
	mark.hash[0] ^= 1;
	assert_int_equal(terrace__listing_check(&mark, at(f, "dir/**"), NULL, 0), SOURCE_CHANGED);
	terrace__source_grain_ms = 2000;
}

static void test_listing__digest_is_the_names(void **state)
{
	struct fixture *f = *state;
	terrace_digest first, again;

	assert_ok(terrace_listing_digest(at(f, "dir"), &first));
	rewrite(f);
	assert_ok(terrace_listing_digest(at(f, "dir"), &again));
	assert_memory_equal(&first, &again, sizeof first);
	add_c(f);
	assert_ok(terrace_listing_digest(at(f, "dir"), &again));
	assert_memory_not_equal(&first, &again, sizeof first);
	unlink(at(f, "dir/new.c"));
	assert_ok(terrace_listing_digest(at(f, "dir"), &again));
	assert_memory_equal(&first, &again, sizeof first);
	/* names that are put together the same way are other names */
	assert_int_equal(rename(at(f, "dir/one.c"), at(f, "dir/one")), 0);
	assert_int_equal(rename(at(f, "dir/two.h"), at(f, "dir/.ctwo.h")), 0);
	assert_ok(terrace_listing_digest(at(f, "dir"), &again));
	assert_memory_not_equal(&first, &again, sizeof first);
}

/* --- variables ------------------------------------------------------------------------------------- */

static void test_variable__value_or_absence(void **state)
{
	static const struct {
		const char *then, *now, *how;
	} changes[] = {
		{ "1", "2", "has another value" },
		{ "1", "", "has another value" },
		{ "1", NULL, "is no longer set" },
		{ "", NULL, "is no longer set" },
		{ NULL, "1", "is set now" },
		{ NULL, "", "is set now" },
		{ "1", "1", NULL },
		{ NULL, NULL, NULL },
		{ "", "", NULL },
	};
	struct fixture *f = *state;
	terrace_cache *cache = cache_of(f, 0);

	for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
		unsetenv("TERRACE_TEST_SOURCE");
		if (changes[i].then)
			setenv("TERRACE_TEST_SOURCE", changes[i].then, 1);
		put_sourced(cache, "k", terrace_sources_variable, "TERRACE_TEST_SOURCE");
		assert_gives(cache, "k", "v");
		unsetenv("TERRACE_TEST_SOURCE");
		if (changes[i].now)
			setenv("TERRACE_TEST_SOURCE", changes[i].now, 1);
		if (!changes[i].how) {
			assert_gives(cache, "k", "v");
			continue;
		}
		assert_misses(cache, "k");
		assert_why(cache, "k", "the variable TERRACE_TEST_SOURCE");
		assert_why(cache, "k", changes[i].how);
	}
	unsetenv("TERRACE_TEST_SOURCE");
	terrace_cache_close(cache);
}

static void test_variable__what_names_none_is_refused(void **state)
{
	terrace_sources *sources;
	char longest[300];

	(void)state;
	memset(longest, 'X', sizeof longest - 1);
	longest[sizeof longest - 1] = '\0';
	assert_ok(terrace_sources_new(&sources));
	assert_status(terrace_sources_variable(sources, ""), TERRACE_EINVAL);
	assert_status(terrace_sources_variable(sources, "A=B"), TERRACE_EINVAL);
	assert_non_null(strstr(terrace_error_message(), "names no variable"));
	assert_status(terrace_sources_variable(sources, longest), TERRACE_EINVAL);
	longest[255] = '\0';
	assert_ok(terrace_sources_variable(sources, longest));
	assert_int_equal(terrace_sources_count(sources), 1);
	terrace_sources_free(sources);
}

/* --- by a loader ------------------------------------------------------------------------------------ */

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct fixture *f = ctx;

	(void)key;
	assert_ok(terrace_sources_listing(terrace_loaded_sources(loaded), at(f, "dir")));
	assert_ok(terrace_sources_variable(terrace_loaded_sources(loaded), "TERRACE_TEST_SOURCE"));
	return terrace_loaded_copy(loaded, terrace_str("loaded"));
}

static void test_loader__adds_any_source(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of(f, 0);
	terrace_value *value;

	for (int i = 0; i < 2; i++) {
		assert_ok(terrace_fetch(cache, TERRACE_KEY("k"), load, f, &value));
		terrace_release(value);
		assert_gives(cache, "k", "loaded");
		if (i == 0)
			add_c(f);
		else
			setenv("TERRACE_TEST_SOURCE", "1", 1);
		assert_misses(cache, "k");
	}
	unsetenv("TERRACE_TEST_SOURCE");
	terrace_cache_close(cache);
}

static void test_listing__of_the_root(void **state)
{
	struct fixture *f = *state;
	terrace_digest root, none, empty;

	assert_ok(terrace_listing_digest("/", &root));
	assert_ok(terrace_listing_digest("/no-such-name-*", &none));
	assert_int_equal(mkdir(at(f, "dir/empty"), 0700), 0);
	assert_ok(terrace_listing_digest(at(f, "dir/empty"), &empty));
	assert_memory_equal(&none, &empty, sizeof empty);
	assert_memory_not_equal(&root, &empty, sizeof empty);
}

static void test_listing__of_many_directories_leaves_none_out(void **state)
{
	struct fixture *f = *state;
	char name[32];

	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof name, "dir/sub/%d", i);
		assert_int_equal(mkdir(at(f, name), 0700), 0);
	}
	for (int i = 0; i < 40; i++) {
		terrace_digest before, after;

		assert_ok(terrace_listing_digest(at(f, "dir/**"), &before));
		snprintf(name, sizeof name, "dir/sub/%d/new", i);
		write_file(at(f, name), "");
		assert_ok(terrace_listing_digest(at(f, "dir/**"), &after));
		assert_memory_not_equal(&before, &after, sizeof after);
	}
}

static void test_listing__deeper_than_a_path_cannot_be_read(void **state)
{
	struct fixture *f = *state;
	terrace_digest digest;
	char name[201], command[600];
	int dir = open(at(f, "dir"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	memset(name, 'd', sizeof name - 1);
	name[sizeof name - 1] = '\0';
	for (int i = 0; i < SOURCE_PATH_MAX / (int)sizeof name + 1; i++) {
		int below;

		assert_int_equal(mkdirat(dir, name, 0700), 0);
		below = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(dir);
		dir = below;
	}
	close(dir);
	assert_status(terrace_listing_digest(at(f, "dir/**"), &digest), TERRACE_EIO);
	assert_non_null(strstr(terrace_error_message(), "too long"));
	assert_ok(terrace_listing_digest(at(f, "dir"), &digest));
	snprintf(command, sizeof command, "rm -r '%s'", at(f, "dir"));
	assert_int_equal(system(command), 0);
}

/* --- what changes while it is read --------------------------------------------------------------- */

struct meddler {
	const struct fixture *f;
	const char *at; /* the directory below, or the name, at which it does so */
	void (*meddle)(const struct fixture *f, const char *at);
	int rc;
};

static int meddle_at_dir(void *ctx, int fd, const char *below)
{
	struct meddler *meddler = ctx;

	(void)fd;
	if (meddler->at && strcmp(below, meddler->at) != 0 && *below) {
		meddler->meddle(meddler->f, meddler->at);
		meddler->at = NULL;
		return meddler->rc;
	}
	return TERRACE_OK;
}

static int meddle_at_name(void *ctx, const char *below, size_t size)
{
	struct meddler *meddler = ctx;

	if (strncmp(below, meddler->at, size) == 0)
		meddler->meddle(meddler->f, meddler->at);
	return meddler->rc;
}

static void nothing(const struct fixture *f, const char *name)
{
	(void)f;
	(void)name;
}

static void add_a_name(const struct fixture *f, const char *name)
{
	(void)name;
	write_file(at(f, "dir/during"), "");
}

static const char *below_dir(const struct fixture *f, const char *name)
{
	char path[64];

	snprintf(path, sizeof path, "dir/sub/%.1s", name + strlen(name) - 2);
	return at(f, path);
}

static void remove_it(const struct fixture *f, const char *name)
{
	assert_int_equal(rmdir(below_dir(f, name)), 0);
}

static void make_it_a_file(const struct fixture *f, const char *name)
{
	remove_it(f, name);
	write_file(below_dir(f, name), "");
}

static void make_it_a_link(const struct fixture *f, const char *name)
{
	remove_it(f, name);
	assert_int_equal(symlink("/", below_dir(f, name)), 0);
}

static void make_old(const struct fixture *f, const char *name)
{
	const struct timespec old[2] = { { 1000000000, 0 }, { 1000000000, 0 } };

	assert_int_equal(utimensat(AT_FDCWD, at(f, name), old, 0), 0);
}

/* What is found is of one moment, or it is told that it is not. */
static void test_listing__that_changes_while_it_is_read_is_told(void **state)
{
	void (*const ways[])(const struct fixture *f, const char *at) = {
		remove_it,
		make_it_a_file,
		make_it_a_link,
	};
	struct fixture *f = *state;
	struct meddler meddler = { .f = f, .at = "one.c", .meddle = add_a_name };
	struct listing_visitor visitor = { .name = meddle_at_name, .ctx = &meddler };
	struct listing listing;

	make_old(f, "dir");
	terrace__listing_split(at(f, "dir"), 0, &listing);
	assert_int_equal(terrace__listing_walk(&listing, &visitor), TERRACE_EBUSY);
	meddler.meddle = nothing;
	assert_int_equal(terrace__listing_walk(&listing, &visitor), TERRACE_OK);
	/* of two directories below, the one that is read later, whichever that is */
	terrace__listing_split(at(f, "dir/sub"), SOURCE_DEEP, &listing);
	visitor = (struct listing_visitor){ .dir = meddle_at_dir, .ctx = &meddler };
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
		static const char *const names[] = { "a/", "b/" };
		int busy = 0;

		for (int n = 0; n < 2; n++) {
			char command[600];

			snprintf(command, sizeof command, "rm -rf '%s' && mkdir -p '%s' '%s'",
			         at(f, "dir/sub"), at(f, "dir/sub/a"), at(f, "dir/sub/b"));
			assert_int_equal(system(command), 0);
			meddler.meddle = ways[i];
			meddler.at = names[n];
			busy += terrace__listing_walk(&listing, &visitor) == TERRACE_EBUSY;
		}
		assert_true(busy >= 1);
	}
}

/* Who looks may have enough, and is told nothing else. */
static void test_listing__ends_when_the_visitor_says_so(void **state)
{
	struct fixture *f = *state;
	struct meddler meddler = { .f = f, .at = "one.c", .meddle = nothing, .rc = 77 };
	struct listing_visitor visitor = { .name = meddle_at_name, .ctx = &meddler };
	struct listing listing;

	terrace__listing_split(at(f, "dir/**"), SOURCE_DEEP, &listing);
	assert_int_equal(terrace__listing_walk(&listing, &visitor), 77);
	assert_int_equal(mkdir(at(f, "dir/sub2"), 0700), 0);
	assert_int_equal(mkdir(at(f, "dir/sub3"), 0700), 0);
	visitor = (struct listing_visitor){ .dir = meddle_at_dir, .ctx = &meddler };
	meddler.at = "none/";
	assert_int_equal(terrace__listing_walk(&listing, &visitor), 77);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_listing__ends_with_the_names_that_count_and_no_others),
		TEST(test_listing__says_how_many_names_and_that_a_directory_is_gone),
		TEST(test_listing__outlives_the_process),
		TEST(test_listing__of_a_directory_whose_name_looks_like_a_pattern),
		TEST(test_listing__what_cannot_be_one_is_refused),
		TEST(test_listing__that_cannot_be_read_is_a_miss_and_nobodys_end),
		TEST(test_listing__of_what_may_not_be_read_is_refused_and_later_a_miss),
		TEST(test_listing__of_an_old_directory_is_not_read_again),
		TEST(test_listing__digest_is_the_names),
		TEST(test_listing__of_the_root),
		TEST(test_listing__of_many_directories_leaves_none_out),
		TEST(test_listing__deeper_than_a_path_cannot_be_read),
		TEST(test_listing__that_changes_while_it_is_read_is_told),
		TEST(test_listing__ends_when_the_visitor_says_so),
		TEST(test_variable__value_or_absence),
		TEST(test_variable__what_names_none_is_refused),
		TEST(test_loader__adds_any_source),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
