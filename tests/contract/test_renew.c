/* The files beside the values are damaged: the store goes on, and no older value comes back. */
#include "support/peer.h"
#include "support/support.h"

#include <dirent.h>
#include <fcntl.h>
#include <sqlite3.h>
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

static const char *file_of(const struct fixture *f, const char *name)
{
	char below[100];

	snprintf(below, sizeof below, "store/v1/%s", name);
	return scratch_path(&f->scratch, below);
}

/* How many files of the format's directory have names that begin like this. */
static int count_files(const struct fixture *f, const char *prefix)
{
	DIR *dir = opendir(scratch_path(&f->scratch, "store/v1"));
	struct dirent *item;
	int count = 0;

	assert_non_null(dir);
	while ((item = readdir(dir)))
		count += strncmp(item->d_name, prefix, strlen(prefix)) == 0;
	closedir(dir);
	return count;
}

/*
 * Write over a part of a file. It is SQLite's, so not in this process while the
 * store is open: closing it would drop SQLite's locks on it.
 */
static void overwrite(const char *path, off_t at, char byte, size_t size)
{
	char command[700];

	snprintf(command, sizeof command,
	         "head -c %zu /dev/zero | tr '\\0' '\\%03o' | "
	         "dd of=%s bs=64k seek=%lld oflag=seek_bytes conv=notrunc status=none",
	         size, (unsigned char)byte, path, (long long)at);
	assert_int_equal(system(command), 0);
}

static void cut(const char *path, off_t size)
{
	assert_int_equal(truncate(path, size), 0);
}

/* All but the first page, and the log. */
static void ruin(const struct fixture *f)
{
	overwrite(file_of(f, "db-1-wal"), 0, 0, 2000000);
	overwrite(file_of(f, "db-1"), 4096, 0x55, 200000);
}

enum { KEYS = 300 };

static void put_keys(terrace_cache *cache, const char *text)
{
	for (int i = 0; i < KEYS; i++) {
		char key[16];

		snprintf(key, sizeof key, "k%d", i);
		assert_ok(put_text(cache, key, text));
	}
}

/* Every key gives this or misses; how many do. */
static int count_gives(terrace_cache *cache, const char *text)
{
	int count = 0;

	for (int i = 0; i < KEYS; i++) {
		char key[16];

		snprintf(key, sizeof key, "k%d", i);
		if (misses(cache, key) == TERRACE_OK) {
			assert_gives(cache, key, text);
			count++;
		}
	}
	return count;
}

static terrace_cache *rows_alone(struct fixture *f)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.tiers = TERRACE_L2;
	return fixture_cache(f, "a", &policy);
}

/* --- the database, while it is open ------------------------------------------------------------------ */

static void test_database__malformed_under_a_reader_is_set_aside(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_alone(f);
	terrace_stats stats = TERRACE_STATS_INIT;

	put_keys(cache, "value");
	terrace_cache_close(cache);
	fixture_reopen(f); /* so that no connection has its pages */
	cache = rows_alone(f);
	ruin(f);
	assert_int_equal(count_gives(cache, "value"), 0);
	assert_int_equal(count_files(f, "db-1"), 0);
	assert_int_equal(count_files(f, "db-2"), 3);
	assert_int_equal(count_files(f, "damaged-20231114T221320Z-db-1"), 2);
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_true(stats.damaged > 0);
	put_keys(cache, "new");
	assert_int_equal(count_gives(cache, "new"), KEYS);
	assert_ok(terrace_verify(f->store, false, NULL, NULL, NULL));
	terrace_cache_close(cache);
}

static void test_database__malformed_under_a_writer_is_set_aside_and_the_write_succeeds(
    void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_alone(f);

	put_keys(cache, "value");
	terrace_cache_close(cache);
	fixture_reopen(f);
	cache = rows_alone(f);
	ruin(f);
	put_keys(cache, "new");
	assert_int_equal(count_gives(cache, "new"), KEYS);
	assert_int_equal(count_files(f, "db-2"), 3);
	terrace_cache_close(cache);
}

static void test_database__another_process_moves_with_it(void **state)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct fixture f;
	struct peer peer;
	terrace_cache *cache;

	(void)state;
	fixture_open(&f);
	fixture_close(&f);
	scratch_make(&f.scratch);
	peer = peer_start(&f, &policy);
	assert_ok(terrace_open(scratch_path(&f.scratch, "store"), &f.options, &f.store));
	cache = fixture_cache(&f, "a", NULL);
	put_keys(cache, "value");
	terrace_cache_close(cache);
	fixture_reopen(&f);
	cache = fixture_cache(&f, "a", NULL);
	tell(&peer, "g k1");
	assert_string_equal(hear(&peer), "value");
	/* It has a copy of k1 in memory, and the database open. */
	ruin(&f);
	assert_ok(put_text(cache, "k2", "new"));
	assert_int_equal(count_files(&f, "db-2"), 3);
	tell(&peer, "g k2");
	assert_string_equal(hear(&peer), "new");
	tell(&peer, "g k3");
	assert_string_equal(hear(&peer), "(miss)");
	/* what has no row any more can still be invalidated */
	assert_true(terrace_delete(cache, TERRACE_KEY("k1")) >= 0);
	tell(&peer, "g k1");
	assert_string_equal(hear(&peer), "(miss)");
	tell(&peer, "p k4 theirs");
	assert_string_equal(hear(&peer), "ok");
	assert_gives(cache, "k4", "theirs");
	peer_end(&peer);
	terrace_cache_close(cache);
	fixture_close(&f);
}

static void test_database__copies_without_rows_go_with_an_invalidation(void **state)
{
	terrace_match all = terrace_match_text(TERRACE_MATCH_PREFIX, "k");
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	uint64_t count;

	put_keys(cache, "value");
	assert_int_equal(unlink(file_of(f, "db-1")), 0);
	assert_ok(put_text(cache, "other", "new"));
	assert_int_equal(count_files(f, "db-2"), 3);
	assert_gives(cache, "k1", "value"); /* from memory, and true */
	assert_ok(terrace_invalidate(cache, &all, &count));
	assert_int_equal(count_gives(cache, "value"), 0);
	assert_gives(cache, "other", "new");
	terrace_cache_close(cache);
}

static void test_database__removed_or_replaced_under_a_writer(void **state)
{
	static const char *const names[] = { "db-1", "db-2-wal", "db-3-shm" };
	struct fixture *f = *state;
	terrace_cache *cache = rows_alone(f);

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		char command[700], text[16];

		snprintf(text, sizeof text, "value %zu", i);
		put_keys(cache, text);
		if (i < 2)
			assert_int_equal(unlink(file_of(f, names[i])), 0);
		snprintf(command, sizeof command, "cd %s && cp %s x && mv x %s", file_of(f, ""),
		         names[i], names[i]);
		if (i == 2)
			assert_int_equal(system(command), 0);
		assert_ok(put_text(cache, "k0", "new"));
		assert_gives(cache, "k0", "new");
		assert_int_equal(count_files(f, names[i]), 0);
		assert_ok(put_text(cache, "k0", text));
		assert_true(count_gives(cache, text) >= 1);
	}
	terrace_cache_close(cache);
}

static void test_database__few_are_kept(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_alone(f);

	for (int i = 1; i <= 5; i++) {
		char name[16];

		put_keys(cache, "value");
		atomic_fetch_add(&f->clock.now, 1000);
		snprintf(name, sizeof name, "db-%d-wal", i);
		assert_int_equal(unlink(file_of(f, name)), 0);
	}
	put_keys(cache, "value");
	assert_int_equal(count_files(f, "db-"), 3);
	assert_int_equal(count_files(f, "damaged-"), 2);
	terrace_cache_close(cache);
}

/* --- the database, while it is closed ------------------------------------------------------------------- */

static void close_store(struct fixture *f, terrace_cache *cache)
{
	terrace_cache_close(cache);
	terrace_close(f->store);
}

static terrace_cache *open_store(struct fixture *f)
{
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	return rows_alone(f);
}

/* What a killed process had written stands in the log alone. */
static void test_closed__a_log_that_lost_its_end_brings_no_older_value_back(void **state)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct fixture f;
	struct peer peer;
	terrace_cache *cache;

	(void)state;
	fixture_open(&f);
	cache = rows_alone(&f);
	put_keys(cache, "old");
	close_store(&f, cache);
	peer = peer_start(&f, &policy);
	tell(&peer, "p k1 new");
	assert_string_equal(hear(&peer), "ok");
	tell(&peer, "d k7");
	assert_string_equal(hear(&peer), "ok");
	peer_kill(&peer);
	cut(file_of(&f, "db-1-wal"), 2000);
	cache = open_store(&f);
	assert_misses(cache, "k1");
	assert_misses(cache, "k7");
	assert_misses(cache, "k8"); /* it cannot be told which are older */
	assert_int_equal(count_files(&f, "damaged-"), 2);
	put_keys(cache, "newer");
	assert_int_equal(count_gives(cache, "newer"), KEYS);
	terrace_cache_close(cache);
	fixture_close(&f);
}

static void test_closed__zeroed_cut_or_gone(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_alone(f);

	for (int i = 0; i < 4; i++) {
		char name[16];

		put_keys(cache, "value");
		close_store(f, cache);
		snprintf(name, sizeof name, "db-%d", i + 1);
		switch (i) {
		case 0:
			overwrite(file_of(f, name), 0, 0, 4096);
			break;
		case 1:
			cut(file_of(f, name), 0);
			break;
		case 2:
			cut(file_of(f, name), 5000);
			break;
		case 3:
			assert_int_equal(unlink(file_of(f, name)), 0);
			break;
		}
		if (i != 1) { /* of a log alone SQLite makes the database anew */
			char log[24];

			snprintf(log, sizeof log, "%s-wal", name);
			cut(file_of(f, log), 0);
		}
		cache = open_store(f);
		count_gives(cache, "value");
		put_keys(cache, "new");
		assert_int_equal(count_gives(cache, "new"), KEYS);
		assert_ok(terrace_verify(f->store, false, NULL, NULL, NULL));
		snprintf(name, sizeof name, "db-%d", i + 2);
		if (count_files(f, name) == 0) {
			/* it was whole after all: damage it for good */
			assert_int_equal(i, 1);
			close_store(f, cache);
			assert_int_equal(unlink(file_of(f, "db-2")), 0);
			cache = open_store(f);
		}
		assert_int_equal(count_files(f, name), 3);
	}
	terrace_cache_close(cache);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(test_database__malformed_under_a_reader_is_set_aside),
		TEST(test_database__malformed_under_a_writer_is_set_aside_and_the_write_succeeds),
		cmocka_unit_test(test_database__another_process_moves_with_it),
		TEST(test_database__copies_without_rows_go_with_an_invalidation),
		TEST(test_database__removed_or_replaced_under_a_writer),
		TEST(test_database__few_are_kept),
		cmocka_unit_test(test_closed__a_log_that_lost_its_end_brings_no_older_value_back),
		TEST(test_closed__zeroed_cut_or_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
