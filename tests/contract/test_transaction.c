/* Transactions, through the public headers but for what SQLite does by itself. */
#include "support/peer.h"

#include "core/store.h"
#include "tiers/sqlite/connection.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
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
	fixture_close(*state);
	free(*state);
	return 0;
}

/* --- what another thread sees and does ---------------------------------------------------------- */

struct other {
	terrace_cache *cache;
	const char *key;
	char text[64]; /* what a get gave; "" for a miss */
	size_t keys;   /* how many it could list */
	uint64_t entries;
	int put;
};

static size_t count_keys(terrace_cache *cache)
{
	terrace_keys *keys;
	terrace_slice key;
	size_t count = 0;

	assert_ok(terrace_keys_open(cache, NULL, &keys));
	while (terrace_keys_next(keys, &key) == TERRACE_OK)
		count++;
	terrace_keys_close(keys);
	return count;
}

static void *look(void *ctx)
{
	struct other *other = ctx;
	terrace_usage usage;
	terrace_value *value;

	other->text[0] = '\0';
	if (terrace_get(other->cache, terrace_str(other->key), &value) == TERRACE_OK) {
		snprintf(other->text, sizeof other->text, "%.*s", (int)terrace_size(value),
		         (const char *)terrace_data(value));
		terrace_release(value);
	}
	other->keys = count_keys(other->cache);
	assert_ok(terrace_cache_usage(other->cache, &usage));
	other->entries = usage.entries;
	return NULL;
}

static void *put_theirs(void *ctx)
{
	struct other *other = ctx;

	other->put = put_text(other->cache, other->key, "theirs");
	return NULL;
}

static void in_another_thread(void *(*run)(void *ctx), struct other *other)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, run, other), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
}

static void test_commit__shows_everything_at_once(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct other other = { .cache = cache, .key = "k" };

	assert_ok(put_text(cache, "k", "old"));
	assert_ok(terrace_begin(f->store, 0));
	assert_ok(put_text(cache, "k", "new"));
	assert_ok(put_text(cache, "added", "new"));
	assert_gives(cache, "k", "new");
	assert_int_equal(count_keys(cache), 2);
	in_another_thread(look, &other);
	assert_string_equal(other.text, "old");
	assert_int_equal(other.keys, 1);
	assert_int_equal(other.entries, 1);
	assert_ok(terrace_commit(f->store));
	in_another_thread(look, &other);
	assert_string_equal(other.text, "new");
	assert_int_equal(other.keys, 2);
	assert_gives(cache, "added", "new");
	terrace_cache_close(cache);
}

static size_t count_files(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *item;
	size_t count = 0;

	assert_non_null(dir);
	while ((item = readdir(dir))) {
		char below[600];

		if (item->d_name[0] == '.')
			continue;
		snprintf(below, sizeof below, "%s/%s", path, item->d_name);
		count += item->d_type == DT_DIR ? count_files(below) : 1;
	}
	closedir(dir);
	return count;
}

static void test_rollback__leaves_nothing(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	char *large = calloc(1, 200000);
	struct rng rng = { 7 };
	int64_t number;
	size_t files;

	for (int i = 0; i < 200000; i++)
		large[i] = (char)rng_next(&rng);
	assert_ok(put_text(cache, "kept", "old"));
	assert_ok(put_text(cache, "changed", "old"));
	assert_ok(terrace_incr(cache, TERRACE_KEY("n"), 5, 0, NULL));
	assert_ok(terrace_begin(f->store, 0));
	assert_ok(terrace_put(cache, TERRACE_KEY("first"), terrace_bytes(large, 200000), NULL));
	terrace_rollback(f->store); /* now the folders of files are there */
	files = count_files(f->scratch.path);
	assert_ok(terrace_begin(f->store, 0));
	assert_ok(terrace_delete(cache, TERRACE_KEY("kept")));
	assert_misses(cache, "kept");
	assert_ok(put_text(cache, "changed", "new"));
	assert_status(terrace_add(cache, TERRACE_KEY("changed"), terrace_str("x"), NULL),
	              TERRACE_EXISTS);
	assert_ok(terrace_add(cache, TERRACE_KEY("kept"), terrace_str("again"), NULL));
	assert_ok(terrace_incr(cache, TERRACE_KEY("n"), 1, 0, &number));
	assert_int_equal(number, 6);
	assert_ok(terrace_put(cache, TERRACE_KEY("large"), terrace_bytes(large, 200000), NULL));
	assert_ok(terrace_clear(cache, 0, NULL));
	assert_int_equal(count_keys(cache), 0);
	assert_ok(put_text(cache, "after", "the clear"));
	assert_gives(cache, "after", "the clear");
	terrace_rollback(f->store);
	assert_gives(cache, "kept", "old");
	assert_gives(cache, "changed", "old");
	assert_gives(cache, "n", "5");
	assert_misses(cache, "after");
	assert_misses(cache, "large");
	assert_int_equal(count_keys(cache), 3);
	assert_int_equal(count_files(f->scratch.path), files);
	terrace_rollback(f->store); /* without one: nothing */
	terrace_cache_close(cache);
	free(large);
}

static void test_clear__within_a_transaction_can_be_committed(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	uint64_t count;

	assert_ok(put_text(cache, "before", "x"));
	assert_ok(terrace_begin(f->store, 0));
	assert_ok(put_text(cache, "inside", "x"));
	assert_ok(terrace_clear(cache, 0, &count));
	assert_int_equal(count, 2);
	assert_ok(put_text(cache, "after", "x"));
	assert_ok(terrace_commit(f->store));
	assert_misses(cache, "before");
	assert_misses(cache, "inside");
	assert_gives(cache, "after", "x");
	terrace_cache_close(cache);
}

/* What went of L2 alone is read by others until the commit, and not to be found by its tag. */
static void test_invalidate__reaches_what_others_read_before_the_commit(void **state)
{
	static const char *const tags[] = { "red" };
	struct fixture *f = *state;
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_match red = terrace_match_text(TERRACE_MATCH_TAG, "red");
	terrace_cache *cache = fixture_rows(f, "a", NULL);
	struct peer peer = peer_start(f, NULL);

	options.tags = tags;
	options.tag_count = 1;
	assert_ok(terrace_put(cache, TERRACE_KEY("k"), terrace_str("v"), &options));
	assert_ok(terrace_begin(f->store, 0));
	assert_ok(terrace_clear(cache, TERRACE_L2, NULL));
	assert_ok(terrace_invalidate(cache, &red, NULL));
	assert_peer(&peer, "g k", "v");
	assert_ok(terrace_commit(f->store));
	assert_peer(&peer, "g k", "(miss)");
	peer_end(&peer);
	terrace_cache_close(cache);
}

/* --- others wait ------------------------------------------------------------------------------------ */

static void test_begin__keeps_other_threads_from_writing(void **state)
{
	struct fixture *f = *state;
	struct other other = { .key = "k" };
	terrace_cache *cache;

	f->options.wait_ms = 50;
	fixture_reopen(f);
	cache = other.cache = fixture_cache(f, "a", NULL);
	assert_ok(terrace_begin(f->store, 0));
	assert_ok(put_text(cache, "k", "ours"));
	in_another_thread(put_theirs, &other);
	assert_status(other.put, TERRACE_EBUSY);
	assert_ok(terrace_commit(f->store));
	assert_gives(cache, "k", "ours");
	in_another_thread(put_theirs, &other);
	assert_ok(other.put);
	assert_gives(cache, "k", "theirs");
	terrace_cache_close(cache);
}

/* A thread that came while the transaction was open goes on when it ends. */
static void test_commit__lets_those_go_on_who_waited(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct other other = { .cache = cache, .key = "k" };
	pthread_t thread;

	assert_ok(terrace_begin(f->store, 0));
	assert_int_equal(pthread_create(&thread, NULL, put_theirs, &other), 0);
	assert_ok(put_text(cache, "k", "ours"));
	assert_ok(terrace_commit(f->store));
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_ok(other.put);
	assert_gives(cache, "k", "theirs"); /* it can only have come after us */
	terrace_cache_close(cache);
}

/* In a child: put into the cache, and answer with the status. */
static int put_in_a_process(struct fixture *f, int64_t wait_ms, const terrace_policy *policy)
{
	int status;
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		terrace_options options = f->options;
		terrace_cache *cache;
		terrace *store;
		int rc;

		options.wait_ms = wait_ms;
		rc = terrace_open(terrace_dir(f->store), &options, &store);
		if (rc == TERRACE_OK)
			rc = terrace_cache_open(store, "a", policy, &cache);
		if (rc == TERRACE_OK)
			rc = put_text(cache, "k", "theirs");
		if (rc == TERRACE_OK)
			rc = terrace_flush(store);
		_exit(rc == TERRACE_OK ? 0 : -rc);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return -WEXITSTATUS(status);
}

static void test_begin__keeps_other_processes_from_writing(void **state)
{
	struct fixture *f = *state;
	terrace_policy behind = TERRACE_POLICY_INIT;
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	behind.write = TERRACE_WRITE_BEHIND;
	assert_ok(put_text(cache, "k", "old"));
	assert_ok(terrace_begin(f->store, 0));
	assert_ok(put_text(cache, "k", "ours"));
	assert_status(put_in_a_process(f, 50, NULL), TERRACE_EBUSY);
	assert_status(put_in_a_process(f, 50, &behind), TERRACE_EBUSY);
	terrace_rollback(f->store);
	assert_gives(cache, "k", "old");
	assert_ok(put_in_a_process(f, 5000, NULL));
	assert_gives(cache, "k", "theirs");
	assert_ok(put_text(cache, "k", "ours"));
	assert_ok(put_in_a_process(f, 5000, &behind));
	assert_gives(cache, "k", "theirs");
	terrace_cache_close(cache);
}

static void test_begin__a_process_that_dies_has_changed_nothing(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	int status, ready[2];
	char byte;
	pid_t child;

	assert_ok(put_text(cache, "k", "old"));
	assert_int_equal(pipe(ready), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		terrace_cache *theirs;
		terrace *store;

		if (terrace_open(terrace_dir(f->store), &f->options, &store) != TERRACE_OK ||
		    terrace_cache_open(store, "a", NULL, &theirs) != TERRACE_OK ||
		    terrace_begin(store, 0) != TERRACE_OK ||
		    put_text(theirs, "k", "half") != TERRACE_OK || write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_gives(cache, "k", "old");
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_gives(cache, "k", "old");
	assert_ok(terrace_begin(f->store, 0));
	assert_ok(put_text(cache, "k", "new"));
	assert_ok(terrace_commit(f->store));
	assert_gives(cache, "k", "new");
	close(ready[0]);
	close(ready[1]);
	terrace_cache_close(cache);
}

/* --- write-behind ------------------------------------------------------------------------------------ */

static void test_begin__lets_nothing_wait_to_be_written(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct other other = { .key = "k" };
	terrace_cache *cache;

	policy.write = TERRACE_WRITE_BEHIND;
	f->options.wait_ms = 50;
	fixture_reopen(f);
	cache = other.cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "before", "v"));
	assert_ok(terrace_begin(f->store, 5000));
	assert_int_equal(count_keys(cache), 1);
	assert_ok(put_text(cache, "k", "ours"));
	in_another_thread(put_theirs, &other);
	assert_status(other.put, TERRACE_EBUSY);
	assert_gives(cache, "k", "ours");
	terrace_rollback(f->store);
	assert_misses(cache, "k");
	assert_gives(cache, "before", "v");
	in_another_thread(put_theirs, &other);
	assert_ok(other.put);
	terrace_cache_close(cache);
}

/* What a process has waiting is written before another one's transaction begins. */
static void test_begin__waits_for_what_waits_elsewhere(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	int status, ready[2];
	char byte;
	pid_t child;

	policy.write = TERRACE_WRITE_BEHIND;
	assert_int_equal(pipe(ready), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		terrace_cache *theirs;
		terrace *store;

		if (terrace_open(terrace_dir(f->store), &f->options, &store) != TERRACE_OK ||
		    terrace_cache_open(store, "a", &policy, &theirs) != TERRACE_OK ||
		    put_text(theirs, "k", "theirs") != TERRACE_OK || write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_ok(terrace_begin(f->store, 5000));
	assert_gives(cache, "k", "theirs");
	assert_ok(put_text(cache, "k", "ours"));
	assert_ok(terrace_commit(f->store));
	assert_gives(cache, "k", "ours");
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	close(ready[0]);
	close(ready[1]);
	terrace_cache_close(cache);
}

/* --- leases, limits, wrong usage ------------------------------------------------------------------------ */

static int load_text(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)key;
	return terrace_loaded_copy(loaded, terrace_str(ctx));
}

static void test_fetch__within_a_transaction_is_rolled_back_with_it(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct other other = { .cache = cache, .key = "k" };
	terrace_value *value;
	char text[] = "computed";

	assert_ok(terrace_begin(f->store, 0));
	assert_ok(terrace_fetch(cache, TERRACE_KEY("k"), load_text, text, &value));
	terrace_release(value);
	assert_gives(cache, "k", "computed");
	in_another_thread(look, &other);
	assert_string_equal(other.text, "");
	terrace_rollback(f->store);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void test_commit__keeps_the_limits(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	terrace_usage usage;
	char key[16];

	policy.disk_entries = 10;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(terrace_begin(f->store, 0));
	for (int i = 0; i < 50; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(put_text(cache, key, "x"));
	}
	assert_ok(terrace_cache_usage(cache, &usage));
	assert_int_equal(usage.entries, 50);
	assert_ok(terrace_commit(f->store));
	assert_ok(terrace_cache_usage(cache, &usage));
	assert_int_equal(usage.entries, 10);
	terrace_cache_close(cache);
}

static void test_begin__wrong_usage_is_refused(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL), *late;

	assert_status(terrace_commit(f->store), TERRACE_EINVAL);
	assert_status(terrace_begin(f->store, -1), TERRACE_EINVAL);
	assert_ok(terrace_begin(NULL, 0));
	assert_ok(terrace_commit(NULL));
	terrace_rollback(NULL);
	assert_ok(terrace_begin(f->store, 0));
	assert_status(terrace_begin(f->store, 0), TERRACE_EINVAL);
	assert_status(terrace_cache_open(f->store, "late", NULL, &late), TERRACE_EINVAL);
	assert_ok(terrace_commit(f->store));
	assert_status(terrace_commit(f->store), TERRACE_EINVAL);
	terrace_cache_close(cache);
}

enum { NUMBERS = 16000 };

static int put_number(terrace_cache *cache, unsigned i, unsigned number)
{
	char key[32], value[200] = "";

	snprintf(key, sizeof key, "number:%u", i);
	snprintf(value, sizeof value, "%u", number);
	return terrace_put(cache, terrace_str(key), terrace_bytes(value, sizeof value), NULL);
}

static void assert_number(terrace_cache *cache, unsigned i, unsigned number)
{
	char key[32], text[32];
	terrace_value *value;

	snprintf(key, sizeof key, "number:%u", i);
	snprintf(text, sizeof text, "%u", number);
	assert_ok(terrace_get(cache, terrace_str(key), &value));
	assert_int_equal(terrace_size(value), 200);
	assert_string_equal(terrace_data(value), text);
	terrace_release(value);
}

/* What SQLite's memory does not hold lies in the log before it is committed, and is read there. */
static void test_begin__more_than_sqlite_has_in_memory(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct rng rng = { 11 };
	terrace_cache *cache;

	policy.tiers = TERRACE_L2;
	cache = fixture_cache(f, "a", &policy);
	for (unsigned round = 0; round < 3; round++) {
		assert_ok(terrace_begin(f->store, 0));
		for (unsigned i = 0; i < NUMBERS; i++) {
			unsigned old = (unsigned)(rng_next(&rng) % (i + 1));

			assert_ok(put_number(cache, i, i + round));
			assert_number(cache, old, old + round);
		}
		if (round == 1)
			terrace_rollback(f->store);
		else
			assert_ok(terrace_commit(f->store));
		for (unsigned i = 0; i < NUMBERS; i += 7)
			assert_number(cache, i, i + (round == 1 ? 0 : round));
	}
	terrace_cache_close(cache);
}

/*
 * SQLite takes a transaction back by itself where it cannot go on, in a read as well. What comes
 * behind that within it is not stored, nor does it find what was there before.
 */
static void test_begin__what_sqlite_took_back_does_not_go_on_in_parts(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_match all = terrace_match_text(TERRACE_MATCH_PREFIX, "");
	const struct disk *disk = f->store->disk;
	terrace_cache *cache;

	policy.tiers = TERRACE_L2;
	cache = fixture_cache(f, "a", &policy);
	/* A put, a bulk change, nothing. */
	for (unsigned round = 0; round < 3; round++) {
		assert_ok(put_text(cache, "k", "before"));
		assert_ok(put_text(cache, "gone", "before"));
		assert_ok(terrace_flush(f->store));
		assert_ok(terrace_begin(f->store, 0));
		assert_ok(put_text(cache, "k", "first"));
		assert_int_equal(sqlite3_exec(disk->writer->db, "ROLLBACK", NULL, NULL, NULL),
		                 SQLITE_OK);
		assert_misses(cache, "k");
		if (round == 0)
			assert_status(put_text(cache, "k", "second"), TERRACE_EIO);
		if (round == 1)
			assert_status(terrace_invalidate(cache, &all, NULL), TERRACE_EIO);
		assert_status(terrace_commit(f->store), TERRACE_EIO);
		assert_gives(cache, "k", "before");
		assert_gives(cache, "gone", "before");
	}
	terrace_cache_close(cache);
}

#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_STORE(test_commit__shows_everything_at_once),
		WITH_STORE(test_rollback__leaves_nothing),
		WITH_STORE(test_clear__within_a_transaction_can_be_committed),
		WITH_STORE(test_invalidate__reaches_what_others_read_before_the_commit),
		WITH_STORE(test_begin__keeps_other_threads_from_writing),
		WITH_STORE(test_commit__lets_those_go_on_who_waited),
		WITH_STORE(test_begin__keeps_other_processes_from_writing),
		WITH_STORE(test_begin__a_process_that_dies_has_changed_nothing),
		WITH_STORE(test_begin__lets_nothing_wait_to_be_written),
		WITH_STORE(test_begin__waits_for_what_waits_elsewhere),
		WITH_STORE(test_fetch__within_a_transaction_is_rolled_back_with_it),
		WITH_STORE(test_commit__keeps_the_limits),
		WITH_STORE(test_begin__more_than_sqlite_has_in_memory),
		WITH_STORE(test_begin__what_sqlite_took_back_does_not_go_on_in_parts),
		WITH_STORE(test_begin__wrong_usage_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
