/* The files beside the values are damaged: the store goes on, and no older value comes back. */
#include "support/peer.h"
#include "support/support.h"

#include "core/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *file_of(const struct fixture *f, const char *name)
{
	char below[100];

	snprintf(below, sizeof below, "store/v2/%s", name);
	return scratch_path(&f->scratch, below);
}

/* How many files of the format's directory have names that begin like this. */
static int count_files(const struct fixture *f, const char *prefix)
{
	DIR *dir = opendir(scratch_path(&f->scratch, "store/v2"));
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
	return fixture_rows(f, "a", &policy);
}

/* A peer that has the store open before this process has. */
static struct peer first_peer(struct fixture *f)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	fixture_open(f);
	fixture_close(f);
	scratch_make(&f->scratch);
	return peer_start(f, &policy);
}

/* --- the database, while it is open ------------------------------------------------------------------ */

static void test_database__malformed_under_a_reader_is_set_aside(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_alone(f);
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_why why = TERRACE_WHY_INIT;

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
	assert_status(terrace_explain(cache, TERRACE_KEY("k7"), &why), TERRACE_MISS);
	assert_int_equal(why.reason, TERRACE_REASON_DAMAGED);
	assert_non_null(strstr(why.detail, "set aside"));
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

/* What is missing may be no more than the end of a value: SQLite opens, and its check cannot read. */
static void test_database__a_log_that_lost_its_end_is_set_aside(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_alone(f);
	static char value[40000];
	struct stat st;

	put_keys(cache, "value");
	assert_ok(terrace_flush(f->store));
	assert_ok(
	    terrace_put(cache, TERRACE_KEY("large"), terrace_bytes(value, sizeof value), NULL));
	assert_ok(terrace_flush(f->store));
	assert_int_equal(stat(file_of(f, "db-1-wal"), &st), 0);
	cut(file_of(f, "db-1-wal"), st.st_size - 1);
	assert_misses(cache, "large");
	assert_true(terrace_delete(cache, TERRACE_KEY("large")) >= 0);
	assert_int_equal(count_files(f, "db-2"), 3);
	put_keys(cache, "new");
	assert_int_equal(count_gives(cache, "new"), KEYS);
	terrace_cache_close(cache);
}

static void test_database__another_process_moves_with_it(void **state)
{
	struct fixture f;
	struct peer peer;
	terrace_cache *cache;

	(void)state;
	peer = first_peer(&f);
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
	terrace_cache *cache = fixture_rows(f, "a", NULL);
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

static void test_database__a_new_one_knows_what_is_immutable(void **state)
{
	terrace_policy immutable = TERRACE_POLICY_INIT;
	struct fixture *f = *state;
	terrace_cache *cache, *other;

	fixture_boot(f, 1);
	fixture_reopen(f);
	immutable.immutable = true;
	cache = fixture_cache(f, "fixed", &immutable);
	other = fixture_cache(f, "other", NULL);
	assert_int_equal(unlink(file_of(f, "db-1")), 0);
	assert_ok(put_text(other, "k", "v"));
	assert_int_equal(count_files(f, "db-2"), 3);
	assert_ok(put_text(cache, "k", "v"));
	terrace_cache_close(cache);
	terrace_cache_close(other);
	terrace_close(f->store);
	/* the machine went down, as far as anybody can tell */
	assert_int_equal(unlink(file_of(f, "unsynced")), 0);
	fixture_boot(f, 2);
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	cache = fixture_cache(f, "fixed", NULL);
	other = fixture_cache(f, "other", NULL);
	assert_gives(cache, "k", "v");
	assert_misses(other, "k");
	terrace_cache_close(cache);
	terrace_cache_close(other);
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

/* One that was being made when the disk failed, or its process died, stays behind with a higher number. */
static void test_closed__one_that_was_never_used_goes(void **state)
{
	static const char *const names[] = { "db-2", "db-2-wal", "db-2-shm", "db-7", "db-9-wal" };
	struct fixture *f = *state;
	terrace_cache *cache = rows_alone(f);

	put_keys(cache, "value");
	close_store(f, cache);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		write_file(file_of(f, names[i]), "half made");
	cache = open_store(f);
	assert_int_equal(count_files(f, "db-"), 3);
	assert_int_equal(count_files(f, "db-1"), 3);
	assert_int_equal(count_gives(cache, "value"), KEYS);
	terrace_cache_close(cache);
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

/* --- the shared file and the lock file ------------------------------------------------------------------- */

static void flip_word(_Atomic uint64_t *word, int bit)
{
	atomic_fetch_xor(word, UINT64_C(1) << bit);
}

/* A version whose bit flips must not be that of an older copy, nor lose its mark. */
static void test_shared__no_flipped_bit_of_a_version_brings_a_copy_back(void **state)
{
	struct fixture f;
	struct peer peer;
	terrace_cache *cache;

	(void)state;
	peer = first_peer(&f);
	assert_ok(terrace_open(scratch_path(&f.scratch, "store"), &f.options, &f.store));
	cache = fixture_rows(&f, "a", NULL);
	for (int bit = 0; bit < 64; bit++) {
		struct shared *shared = f.store->shared;
		char text[16], order[32];

		snprintf(text, sizeof text, "v%d", bit);
		snprintf(order, sizeof order, "p k w%d", bit);
		assert_ok(put_text(cache, "k", text));
		assert_gives(cache, "k", text);
		tell(&peer, order);
		assert_string_equal(hear(&peer), "ok");
		flip_word(&shared->versions[cache_key(cache, TERRACE_KEY("k")).slot], bit);
		text[0] = 'w';
		if (misses(cache, "k") == TERRACE_OK)
			assert_gives(cache, "k", text);
		/* the next write makes it whole */
		assert_ok(put_text(cache, "other", "x"));
		assert_int_equal(atomic_load(&shared->hurt), 0);
		assert_ok(put_text(cache, "k", text));
		assert_gives(cache, "k", text);
	}
	terrace_cache_close(cache);
	peer_end(&peer);
	fixture_close(&f);
}

static void test_shared__a_damaged_floor_brings_nothing_cleared_back(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_alone(f);

	for (int bit = 0; bit < 64; bit++) {
		put_keys(cache, "old");
		assert_ok(terrace_clear(cache, 0, NULL));
		assert_ok(put_text(cache, "k1", "new"));
		flip_word(&cache->shared->floor, bit);
		assert_int_equal(count_gives(cache, "new"), 0);
		assert_ok(put_text(cache, "k2", "new"));
		assert_gives(cache, "k2", "new");
	}
	terrace_cache_close(cache);
}

static void test_shared__numbers_that_go_back_are_made_good(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_alone(f);

	put_keys(cache, "old");
	for (int bit = 0; bit < 64; bit += 3) {
		flip_word(&f->store->shared->seq, bit);
		assert_ok(terrace_clear(cache, 0, NULL));
		assert_int_equal(count_gives(cache, "old"), 0);
		assert_ok(put_text(cache, "k1", "old"));
		assert_gives(cache, "k1", "old");
	}
	terrace_cache_close(cache);
}

static void test_shared__damaged_or_gone_while_closed_is_made_anew(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_alone(f);

	for (int i = 0; i < 4; i++) {
		put_keys(cache, "old");
		close_store(f, cache);
		if (i == 0)
			assert_int_equal(unlink(file_of(f, "shared")), 0);
		else if (i == 1)
			cut(file_of(f, "shared"), 100000);
		else if (i == 2)
			overwrite(file_of(f, "shared"), 0, 0, (size_t)1 << 23);
		else /* one head of two */
			overwrite(file_of(f, "shared"), 0, 0, 64);
		cache = open_store(f);
		assert_int_equal(count_gives(cache, "old"), i == 3 ? KEYS : 0);
		put_keys(cache, "new");
		assert_int_equal(count_gives(cache, "new"), KEYS);
	}
	terrace_cache_close(cache);
}

/* An older copy of the file does not know what was cleared since. */
static void test_shared__an_older_one_is_not_believed(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_alone(f);
	char command[1500];

	put_keys(cache, "old");
	close_store(f, cache);
	snprintf(command, sizeof command, "cp %s %s", file_of(f, "shared"), file_of(f, "older"));
	assert_int_equal(system(command), 0);
	cache = open_store(f);
	put_keys(cache, "new");
	close_store(f, cache);
	assert_int_equal(rename(file_of(f, "older"), file_of(f, "shared")), 0);
	cache = open_store(f);
	assert_int_equal(count_gives(cache, "new"), 0);
	put_keys(cache, "newer");
	assert_ok(terrace_clear(cache, 0, NULL));
	assert_int_equal(count_gives(cache, "newer"), 0);
	terrace_cache_close(cache);
}

/* Who comes then could not see what the others write, nor they what it does. */
static void test_shared__gone_while_open_keeps_others_out_until_it_is_closed(void **state)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct fixture f;
	struct peer peer;
	terrace_cache *cache;
	terrace *store;

	(void)state;
	peer = first_peer(&f);
	tell(&peer, "p k v");
	assert_string_equal(hear(&peer), "ok");
	assert_int_equal(unlink(file_of(&f, "shared")), 0);
	assert_status(terrace_open(scratch_path(&f.scratch, "store"), &f.options, &store),
	              TERRACE_EBUSY);
	tell(&peer, "p k w");
	assert_string_equal(hear(&peer), "ok");
	tell(&peer, "g k");
	assert_string_equal(hear(&peer), "w");
	peer_end(&peer);
	assert_ok(terrace_open(scratch_path(&f.scratch, "store"), &f.options, &f.store));
	cache = fixture_cache(&f, "a", &policy);
	assert_misses(cache, "k");
	assert_ok(put_text(cache, "k", "x"));
	assert_gives(cache, "k", "x");
	terrace_cache_close(cache);
	fixture_close(&f);
}

/* What waited then is not known in a later boot either. */
static void test_shared__what_was_dropped_with_it_stays_so_after_a_boot(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache;

	fixture_boot(f, 1);
	fixture_reopen(f);
	cache = rows_alone(f);
	put_keys(cache, "old");
	close_store(f, cache);
	assert_int_equal(unlink(file_of(f, "shared")), 0);
	cache = open_store(f);
	assert_int_equal(count_gives(cache, "old"), 0);
	assert_ok(put_text(cache, "k1", "new"));
	close_store(f, cache);
	fixture_boot(f, 2);
	cache = open_store(f);
	assert_int_equal(count_gives(cache, "new"), 1);
	terrace_cache_close(cache);
}

/* Nobody who comes would find the processes that have it: it is another store by then. */
static void test_shared__gone_with_the_lock_file_it_is_a_store_that_was_removed(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL), *anew;
	terrace *store;

	assert_ok(put_text(cache, "k", "v"));
	assert_int_equal(unlink(file_of(f, "lock")), 0);
	assert_ok(put_text(cache, "k", "w"));
	assert_gives(cache, "k", "w");
	assert_int_equal(unlink(file_of(f, "shared")), 0);
	assert_status(put_text(cache, "k", "x"), TERRACE_EIO);
	assert_misses(cache, "k");
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &store));
	assert_ok(terrace_cache_open(store, "a", NULL, &anew));
	assert_misses(anew, "k");
	assert_ok(put_text(anew, "k", "y"));
	assert_gives(anew, "k", "y");
	assert_misses(cache, "k");
	terrace_cache_close(anew);
	terrace_close(store);
	terrace_cache_close(cache);
}

static void test_lock__gone_while_open_divides_nobody(void **state)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct fixture f;
	struct peer peer;
	terrace_cache *cache;

	(void)state;
	peer = first_peer(&f);
	tell(&peer, "p k theirs");
	assert_string_equal(hear(&peer), "ok");
	assert_int_equal(unlink(file_of(&f, "lock")), 0);
	assert_ok(terrace_open(scratch_path(&f.scratch, "store"), &f.options, &f.store));
	cache = fixture_cache(&f, "a", &policy);
	assert_gives(cache, "k", "theirs");
	assert_ok(put_text(cache, "k", "ours"));
	tell(&peer, "g k");
	assert_string_equal(hear(&peer), "ours");
	terrace_cache_close(cache);
	terrace_close(f.store);
	/* it is known in the new lock file, too, that they are there */
	tell(&peer, "p k again");
	assert_string_equal(hear(&peer), "ok");
	assert_int_equal(unlink(file_of(&f, "shared")), 0);
	assert_status(terrace_open(scratch_path(&f.scratch, "store"), &f.options, &f.store),
	              TERRACE_EBUSY);
	peer_end(&peer);
	scratch_remove(&f.scratch);
}

static void test_lock__replaced_again_within_a_tick_is_noticed_too(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_rows(f, "a", NULL);

	/* Many of them in each tick of the clock that files' times are taken from. */
	for (int i = 0; i < 300; i++) {
		int fd = open(file_of(f, "new"), O_CREAT | O_RDWR, 0600);

		assert_true(fd >= 0);
		close(fd);
		assert_int_equal(rename(file_of(f, "new"), file_of(f, "lock")), 0);
		assert_ok(put_text(cache, "k", "v"));
		assert_true(terrace__attach_is_named(f->store->dir_fd, f->store->attach_fd));
	}
	terrace_cache_close(cache);
}

/* --- scrub ------------------------------------------------------------------------------------------------ */

static void test_scrub__goes_on_where_it_stopped_and_removes_what_is_damaged(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_alone(f);
	terrace_scrub_options options = TERRACE_SCRUB_INIT;
	terrace_verify_report report = TERRACE_VERIFY_INIT;
	uint64_t entries = 0, damaged = 0, repaired = 0;
	sqlite3 *db;
	int calls = 0;

	put_keys(cache, "value");
	assert_int_equal(sqlite3_open_v2(file_of(f, "db-1"), &db, SQLITE_OPEN_READWRITE, "terrace"),
	                 SQLITE_OK);
	assert_int_equal(
	    sqlite3_exec(db, "UPDATE entry SET value = x'00' WHERE id % 10 = 0", NULL, NULL, NULL),
	    SQLITE_OK);
	sqlite3_close(db);
	options.most_bytes = 100;
	for (int repair = 0; repair < 2; repair++) {
		options.repair = repair;
		do {
			int rc = terrace_scrub(f->store, &options, NULL, NULL, &report,
			                       &options.position);

			if (rc != TERRACE_ECORRUPT)
				assert_ok(rc);
			assert_true(report.bytes <= 200);
			entries += report.entries;
			damaged += report.damaged;
			repaired += report.repaired;
			calls++;
		} while (options.position);
	}
	assert_int_equal(entries, 2 * KEYS);
	assert_int_equal(damaged, 2 * KEYS / 10);
	assert_int_equal(repaired, KEYS / 10);
	assert_true(calls > 20);
	options.most_bytes = 0;
	options.bytes_per_second = UINT64_MAX / 4;
	assert_ok(terrace_scrub(f->store, &options, NULL, NULL, &report, NULL));
	assert_int_equal(report.entries, KEYS - KEYS / 10);
	/* A place that is none costs nothing. */
	options.position = (uint64_t)INT64_MAX + 1;
	options.repair = true;
	assert_status(terrace_scrub(f->store, &options, NULL, NULL, &report, NULL), TERRACE_EINVAL);
	options.position = 0;
	assert_ok(terrace_scrub(f->store, &options, NULL, NULL, &report, NULL));
	assert_int_equal(report.entries, KEYS - KEYS / 10);
	terrace_cache_close(cache);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
		TEST(test_database__malformed_under_a_reader_is_set_aside),
		TEST(test_database__malformed_under_a_writer_is_set_aside_and_the_write_succeeds),
		TEST(test_database__a_log_that_lost_its_end_is_set_aside),
		cmocka_unit_test(test_database__another_process_moves_with_it),
		TEST(test_database__copies_without_rows_go_with_an_invalidation),
		TEST(test_database__removed_or_replaced_under_a_writer),
		TEST(test_database__a_new_one_knows_what_is_immutable),
		TEST(test_database__few_are_kept),
		cmocka_unit_test(test_closed__a_log_that_lost_its_end_brings_no_older_value_back),
		TEST(test_closed__one_that_was_never_used_goes),
		TEST(test_closed__zeroed_cut_or_gone),
		cmocka_unit_test(test_shared__no_flipped_bit_of_a_version_brings_a_copy_back),
		TEST(test_shared__a_damaged_floor_brings_nothing_cleared_back),
		TEST(test_shared__numbers_that_go_back_are_made_good),
		TEST(test_shared__damaged_or_gone_while_closed_is_made_anew),
		TEST(test_shared__an_older_one_is_not_believed),
		cmocka_unit_test(test_shared__gone_while_open_keeps_others_out_until_it_is_closed),
		TEST(test_shared__what_was_dropped_with_it_stays_so_after_a_boot),
		TEST(test_shared__gone_with_the_lock_file_it_is_a_store_that_was_removed),
		cmocka_unit_test(test_lock__gone_while_open_divides_nobody),
		TEST(test_lock__replaced_again_within_a_tick_is_noticed_too),
		TEST(test_scrub__goes_on_where_it_stopped_and_removes_what_is_damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
