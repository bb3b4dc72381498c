/*
 * What is put in our way on purpose: links where files should be, a database
 * that does things of its own, bytes that grow without end, keys that look like
 * paths, directories of others, and a limit of file sizes that would end the
 * program. SECURITY.md says what is promised.
 */
#include "support/support.h"

#include "codec/codec.h"
#include "core/behind.h"
#include "tiers/sqlite/connection.h"
#include "tiers/sqlite/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

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

static terrace_cache *cache_on(struct fixture *f, unsigned tiers)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.tiers = tiers;
	return fixture_cache(f, "a", &policy);
}

static void shell(const struct fixture *f, const char *command)
{
	char line[1200];

	snprintf(line, sizeof line, "cd '%s' && %s", f->scratch.path, command);
	assert_int_equal(system(line), 0);
}

/* --- links ------------------------------------------------------------------------------------------- */

/* Instead of each of our files, one that leads to a good copy elsewhere: not to be touched. */
static void test_links__no_part_of_a_store_may_be_one(void **state)
{
	static const struct {
		const char *name;
		bool replaced; /* as a damaged one is; else the store cannot be opened */
	} parts[] = {
		{ "v2", false },       { "v2/files", false }, { "v2/lock", true },
		{ "v2/shared", true }, { "v2/db-1", true },
	};
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, 0);
	char command[600];

	assert_ok(put_text(cache, "k", "v"));
	terrace_cache_close(cache);
	terrace_close(f->store);
	f->store = NULL;
	shell(f, "cp -a store good");
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		const char *name = parts[i].name;
		int rc;

		snprintf(command, sizeof command,
		         "mv store/%s elsewhere && ln -s '%s/elsewhere' store/%s && "
		         "cp -a elsewhere before",
		         name, f->scratch.path, name);
		shell(f, command);
		rc = terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store);
		if ((rc == TERRACE_OK) != parts[i].replaced)
			fail_msg("%s is a link: %d", name, rc);
		if (rc == TERRACE_OK)
			terrace_close(f->store);
		else
			assert_true(strlen(terrace_error_message()) > 10);
		snprintf(command, sizeof command, "diff -r before elsewhere%s%s",
		         parts[i].replaced ? " && test ! -L store/" : "",
		         parts[i].replaced ? name : "");
		shell(f, command);
		shell(f, "rm -r store before elsewhere && cp -a good store");
	}
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	cache = cache_on(f, 0);
	assert_gives(cache, "k", "v");
	terrace_cache_close(cache);
}

/* The user's own: ~/.cache on another disk, say. */
static void test_links__the_directorys_parents_may_be_links(void **state)
{
	struct fixture *f = *state;
	char dir[300];
	terrace_cache *cache;
	terrace *store;

	shell(f, "mkdir disk && ln -s disk cache");
	snprintf(dir, sizeof dir, "%s/cache/store", f->scratch.path);
	for (int i = 0; i < 2; i++) {
		assert_ok(terrace_open(dir, &f->options, &store));
		assert_ok(terrace_cache_open(store, "a", NULL, &cache));
		if (i == 0)
			assert_ok(put_text(cache, "k", "v"));
		assert_gives(cache, "k", "v");
		terrace_cache_close(cache);
		terrace_close(store);
		snprintf(dir, sizeof dir, "%s/disk/store", f->scratch.path);
	}
}

/* Nothing is read, written or removed through it. */
static void test_links__a_directory_of_files_may_not_be_one(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L3);
	terrace_stats stats = TERRACE_STATS_INIT;

	for (int i = 0; i < 20; i++) {
		char key[8];

		snprintf(key, sizeof key, "%d", i);
		assert_ok(put_text(cache, key, "some words that lie in a file"));
	}
	shell(f, "cp -r store/v2/files elsewhere && cd store/v2/files && "
	         "for d in ??; do rm -r $d; ln -s ../../../elsewhere/$d $d; done && cd - && "
	         "find elsewhere -type f | sort >before");
	for (int i = 0; i < 20; i++) {
		char key[8];

		snprintf(key, sizeof key, "%d", i);
		assert_misses(cache, key);
	}
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_int_equal(stats.damaged, 20);
	terrace_clear(cache, 0, NULL);
	terrace_verify(f->store, true, NULL, NULL, NULL);
	shell(f, "find elsewhere -type f | sort | cmp - before");
	terrace_cache_close(cache);
}

static void test_keys__none_becomes_a_path(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L3);
	static const char *const keys[] = { "../../../outside", "/etc/passwd", "a/b", "..", ".",
		                            "%2e%2e/x" };

	shell(f, "ls | grep -v before >before");
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		assert_ok(put_text(cache, keys[i], "a value in a file"));
		assert_gives(cache, keys[i], "a value in a file");
	}
	/* files are numbers */
	shell(f, "ls | grep -v before | cmp - before");
	shell(f, "test $(find store/v2/files -type f | wc -l) = 6");
	shell(f, "! find store/v2/files -type f | grep -vE '/[0-9a-f]{2}/[0-9a-f]{16}$'");
	terrace_cache_close(cache);
}

/* --- others' directories -------------------------------------------------------------------------------- */

static void assert_refused(struct fixture *f, const char *says)
{
	terrace_close(f->store);
	f->store = NULL;
	assert_status(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store),
	              TERRACE_EACCESS);
	if (!strstr(terrace_error_message(), says))
		fail_msg("\"%s\" does not say \"%s\"", terrace_error_message(), says);
}

static void test_owner__the_formats_directory_is_looked_at_as_well(void **state)
{
	struct fixture *f = *state;

	shell(f, "chmod 0777 store/v2");
	assert_refused(f, "others may write");
	shell(f, "chmod 0700 store/v2");
	if (geteuid() == 0) {
		assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
		shell(f, "chown 12345 store/v2");
		assert_refused(f, "another user");
		shell(f, "chown 0 store/v2");
	}
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
}

/* Whatever the umask is, and for all that is made while one works. */
static void test_modes__everything_is_its_owners_alone(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	mode_t before = umask(0);
	terrace_cache *cache;

	terrace_close(f->store);
	f->store = NULL;
	shell(f, "rm -r store");
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	policy.inline_bytes = 5;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "k", "v"));
	assert_ok(put_text(cache, "l", "a value in a file"));
	terrace_cache_close(cache); /* writes the statistics */
	umask(before);
	shell(f, "test -f store/v2/unsynced && test -f store/v2/db-1-shm");
	shell(f, "! find store -type f ! -perm 0600 | grep .");
	shell(f, "! find store -type d ! -perm 0700 | grep .");
}

/* --- the database ------------------------------------------------------------------------------------------ */

static int64_t pragma(sqlite3 *db, const char *name)
{
	char sql[64];
	sqlite3_stmt *row;
	int64_t value;

	snprintf(sql, sizeof sql, "PRAGMA %s", name);
	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &row, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(row), SQLITE_ROW);
	value = sqlite3_column_int64(row, 0);
	sqlite3_finalize(row);
	return value;
}

static void test_database__connections_are_opened_defensively(void **state)
{
	struct fixture *f = *state;
	static const struct {
		int option, expected;
	} wanted[] = {
		{ SQLITE_DBCONFIG_DEFENSIVE, 1 },
		{ SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0 },
		{ SQLITE_DBCONFIG_ENABLE_TRIGGER, 0 },
		{ SQLITE_DBCONFIG_ENABLE_VIEW, 0 },
		{ SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0 },
	};
	struct disk_shared shared = { .generation = 1 };
	char dir[600];
	struct disk *disk;
	int fd;

	snprintf(dir, sizeof dir, "%s/v2", scratch_path(&f->scratch, "store"));
	terrace_close(f->store);
	f->store = NULL;
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	assert_ok(terrace__disk_open(fd, dir, &shared, false, 1 << 20, 0, &disk));
	assert_ok(terrace__disk_begin(disk, 1));
	for (int reader = 0; reader < 2; reader++) {
		struct connection *connection = disk->writer;

		if (reader) {
			terrace__disk_rollback(disk);
			connection = terrace__reader_take(disk);
		}
		for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
			int is = -1;

			assert_int_equal(
			    sqlite3_db_config(connection->db, wanted[i].option, -1, &is),
			    SQLITE_OK);
			if (is != wanted[i].expected)
				fail_msg("option %d is %d", wanted[i].option, is);
		}
		assert_int_equal(pragma(connection->db, "cell_size_check"), 1);
		assert_int_equal(pragma(connection->db, "mmap_size"), 0);
		if (reader)
			terrace__reader_give(disk, connection);
	}
	terrace__disk_ops.tier.close(disk);
	close(fd);
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
}

static void run_sql(const struct fixture *f, const char *sql)
{
	char path[600], *error = NULL;
	sqlite3 *db;

	snprintf(path, sizeof path, "%s/v2/db-1", scratch_path(&f->scratch, "store"));
	/* Ours, so that what is written is sound as pages go. */
	assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "terrace"), SQLITE_OK);
	if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK)
		fail_msg("%s: %s", sql, error);
	sqlite3_close(db);
}

/* A schema that does more than ours: it is data, and does nothing. */
static void test_database__its_triggers_do_not_run(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);

	assert_ok(put_text(cache, "k", "v"));
	terrace_cache_close(cache);
	terrace_close(f->store);
	f->store = NULL;
	run_sql(f, "CREATE TRIGGER evil AFTER INSERT ON entry BEGIN DELETE FROM entry; END;"
	           "CREATE TRIGGER worse AFTER UPDATE ON cache BEGIN UPDATE cache SET floor = 99; "
	           "END");
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	cache = cache_on(f, TERRACE_L2);
	assert_ok(put_text(cache, "l", "w"));
	assert_gives(cache, "k", "v");
	assert_gives(cache, "l", "w");
	terrace_cache_close(cache);
}

static int64_t ask(const struct fixture *f, const char *store, const char *sql)
{
	char path[700];
	sqlite3 *db;
	sqlite3_stmt *row;
	int64_t value;

	snprintf(path, sizeof path, "%s/v2/db-1", scratch_path(&f->scratch, store));
	assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "terrace"), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &row, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(row), SQLITE_ROW);
	value = sqlite3_column_int64(row, 0);
	sqlite3_finalize(row);
	sqlite3_close(db);
	return value;
}

/* Who knows the hash of one store knows nothing of another's. */
static void test_seed__each_store_hashes_in_its_own_way(void **state)
{
	struct fixture *f = *state;
	int64_t seeds[3], hashes[3];

	for (int i = 0; i < 3; i++) {
		static const char *const names[] = { "one", "two", "three" };
		terrace_cache *cache;
		terrace *store;

		assert_ok(terrace_open(scratch_path(&f->scratch, names[i]), &f->options, &store));
		assert_ok(terrace_cache_open(store, "a", NULL, &cache));
		assert_ok(put_text(cache, "k", "v"));
		terrace_cache_close(cache);
		terrace_close(store);
		seeds[i] = ask(f, names[i], "SELECT seed FROM state");
		hashes[i] = ask(f, names[i], "SELECT hash FROM entry");
		for (int before = 0; before < i; before++) {
			assert_true(seeds[i] != seeds[before]);
			assert_true(hashes[i] != hashes[before]);
		}
	}
}

/* --- bytes that grow ------------------------------------------------------------------------------------- */

static size_t frame(const void *raw, size_t size, bool says, uint8_t *out, size_t capacity)
{
	ZSTD_CCtx *context = ZSTD_createCCtx();
	size_t written;

	ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, says);
	written = ZSTD_compress2(context, out, capacity, raw, size);
	ZSTD_freeCCtx(context);
	assert_false(ZSTD_isError(written));
	return written;
}

static void test_zstd__holds_what_is_recorded_and_no_more(void **state)
{
	enum { SIZE = 100000 };
	uint8_t *raw = calloc(1, SIZE), *out = calloc(1, SIZE), encoded[2000];
	/* a window of 2 GiB, and one block that repeats a byte */
	static const uint8_t huge[] = { 0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x03, 0x00, 0x00, 'x' };
	size_t size = frame(raw, SIZE, true, encoded, sizeof encoded);

	(void)state;
	assert_ok(
	    terrace__codec_decode(TERRACE_CODEC_ZSTD, terrace_bytes(encoded, size), out, SIZE));
	/* the record says less, or more, than the frame */
	assert_status(
	    terrace__codec_decode(TERRACE_CODEC_ZSTD, terrace_bytes(encoded, size), out, SIZE - 1),
	    TERRACE_ECORRUPT);
	assert_status(
	    terrace__codec_decode(TERRACE_CODEC_ZSTD, terrace_bytes(encoded, size), out, SIZE + 1),
	    TERRACE_ECORRUPT);
	/* the frame does not say; or two of them together hold as much */
	size = frame(raw, SIZE, false, encoded, sizeof encoded);
	assert_status(
	    terrace__codec_decode(TERRACE_CODEC_ZSTD, terrace_bytes(encoded, size), out, SIZE),
	    TERRACE_ECORRUPT);
	size = frame(raw, SIZE / 2, true, encoded, sizeof encoded);
	size += frame(raw, SIZE / 2, true, encoded + size, sizeof encoded - size);
	assert_status(
	    terrace__codec_decode(TERRACE_CODEC_ZSTD, terrace_bytes(encoded, size), out, SIZE),
	    TERRACE_ECORRUPT);
	assert_status(
	    terrace__codec_decode(TERRACE_CODEC_ZSTD, terrace_bytes(huge, sizeof huge), out, SIZE),
	    TERRACE_ECORRUPT);
	free(raw);
	free(out);
}

/* More than memory and disk may hold together is not even unpacked. */
static void test_size__a_value_over_all_limits_is_neither_put_nor_read(void **state)
{
	struct fixture *f = *state;
	const size_t size = 3 << 20;
	char *zeros = calloc(1, size);
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_value *value;
	terrace_cache *cache;

	policy.codec = TERRACE_CODEC_ZSTD;
	policy.tiers = TERRACE_L2 | TERRACE_L3;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(terrace_put(cache, TERRACE_KEY("k"), terrace_bytes(zeros, size), NULL));
	terrace_cache_close(cache);
	terrace_close(f->store);
	f->store = NULL;
	f->options.disk_bytes = f->options.memory_bytes = 2 << 20;
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	cache = fixture_cache(f, "a", &policy);
	assert_misses(cache, "k");
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_int_equal(stats.damaged, 0); /* it is good, for who may have it */
	assert_status(terrace_put(cache, TERRACE_KEY("l"), terrace_bytes(zeros, size), NULL),
	              TERRACE_ETOOBIG);
	terrace_cache_close(cache);
	terrace_close(f->store);
	f->store = NULL;
	f->options.disk_bytes = f->options.memory_bytes = 0;
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	cache = fixture_cache(f, "a", &policy);
	assert_ok(terrace_get(cache, TERRACE_KEY("k"), &value));
	assert_int_equal(terrace_size(value), size);
	terrace_release(value);
	terrace_cache_close(cache);
	free(zeros);
}

/* --- the limit of file sizes ------------------------------------------------------------------------------- */

static void limit_files(rlim_t bytes)
{
	struct rlimit limit = { bytes, RLIM_INFINITY };

	if (setrlimit(RLIMIT_FSIZE, &limit) != 0)
		_exit(90);
}

static bool is_blocked(void)
{
	sigset_t now;

	pthread_sigmask(SIG_SETMASK, NULL, &now);
	return sigismember(&now, SIGXFSZ);
}

#define CHECK(condition)                                                       \
	do {                                                                   \
		if (!(condition)) {                                            \
			print_error("line %d: %s: %s\n", __LINE__, #condition, \
			            terrace_error_message());                  \
			_exit(1);                                              \
		}                                                              \
	} while (0)

/*
 * A value waits that no file can be made for, and whoever has the writers' lock comes upon it:
 * he makes no room, for which he would wait for himself, and leaves it where it is.
 */
static void write_beside_what_has_no_file(const struct fixture *f)
{
	enum { LARGE = 60000, MANY = 40 };
	static char large[LARGE];
	terrace_options options = f->options;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	terrace *store;
	char key[16];

	policy.codec = TERRACE_CODEC_NONE;
	options.wait_ms = 600 * 1000; /* longer than we have */
	CHECK(terrace_open(scratch_path(&f->scratch, "store"), &options, &store) == TERRACE_OK);
	CHECK(terrace_cache_open(store, "a", &policy, &cache) == TERRACE_OK);
	for (int i = 0; i < MANY; i++) {
		snprintf(key, sizeof key, "%d", i);
		CHECK(put_text(cache, key, "v") == TERRACE_OK);
	}
	CHECK(terrace_flush(store) == TERRACE_OK);
	limit_files(LARGE - 1);
	CHECK(terrace__writer_lock(store, options.wait_ms) == TERRACE_OK);
	CHECK(terrace_put(cache, TERRACE_KEY("large"), terrace_bytes(large, LARGE), NULL) ==
	      TERRACE_OK);
	CHECK(terrace__behind_any_mine(store));
	terrace__behind_settle_mine_now(store);
	CHECK(terrace__behind_any_mine(store));
	terrace__writer_unlock(store);
	limit_files(RLIM_INFINITY);
	terrace_flush(store);
	terrace_cache_close(cache);
	terrace_close(store);
	_exit(0);
}

/* In a child, whose death by SIGXFSZ would show. */
static void put_beyond_the_limit(const struct fixture *f)
{
	enum { LARGE = 300000 };
	char *large = malloc(LARGE + 1), key[16];
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache, *behind;
	int rc = TERRACE_OK;
	terrace *store;

	memset(large, 'x', LARGE);
	large[LARGE] = '\0';
	for (int i = 0; i < LARGE; i += 2)
		large[i] = (char)('a' + i / 13 % 26);
	CHECK(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &store) == TERRACE_OK);
	policy.codec = TERRACE_CODEC_NONE;
	CHECK(terrace_cache_open(store, "a", &policy, &cache) == TERRACE_OK);
	policy.write = TERRACE_WRITE_BEHIND;
	CHECK(terrace_cache_open(store, "b", &policy, &behind) == TERRACE_OK);
	CHECK(put_text(cache, "row", "v") == TERRACE_OK);
	CHECK(put_text(cache, "file", large) == TERRACE_OK);
	CHECK(put_text(behind, "first", "v") == TERRACE_OK);
	limit_files(200000);
	/* a file */
	CHECK(put_text(cache, "large", large) == TERRACE_EFULL);
	CHECK(strstr(terrace_error_message(), "File too large"));
	/* the database's log; two at once, which do not wait */
	for (int i = 0; i < 100 && rc == TERRACE_OK; i++) {
		terrace_item items[] = {
			{ .value = terrace_bytes(large, 20000) },
			{ TERRACE_KEY("beside"), TERRACE_KEY("v") },
		};

		snprintf(key, sizeof key, "%06d", i);
		items[0].key = terrace_str(key);
		rc = terrace_put_many(cache, items, 2, NULL);
	}
	CHECK(rc == TERRACE_EFULL);
	/* and by a thread of the store */
	terrace_put(behind, TERRACE_KEY("k"), terrace_bytes(large, 30000), NULL);
	CHECK(terrace_flush(store) == TERRACE_EFULL);
	CHECK(!is_blocked());
	/* nothing had to go for what goes nowhere */
	terrace_clear(cache, TERRACE_L1, NULL);
	CHECK(misses(cache, "row") == TERRACE_OK);
	CHECK(misses(cache, "file") == TERRACE_OK);
	limit_files(RLIM_INFINITY);
	CHECK(put_text(cache, "large", large) == TERRACE_OK);
	limit_files(1000);
	terrace_cache_close(behind);
	terrace_cache_close(cache);
	terrace_close(store);
	CHECK(terrace_open(scratch_path(&f->scratch, "new"), &f->options, &store) == TERRACE_EFULL);
	CHECK(!is_blocked());
	limit_files(RLIM_INFINITY); /* for what a build that counts coverage writes now */
	_exit(0);
}

static void ends_well(struct fixture *f, void (*fn)(const struct fixture *f))
{
	pid_t child;
	int status;

	terrace_close(f->store);
	f->store = NULL;
	child = fork();
	if (child == 0) {
		signal(SIGXFSZ, SIG_DFL);
		alarm(60);
		fn(f);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFSIGNALED(status))
		fail_msg("signal %d", WTERMSIG(status));
	assert_int_equal(status, 0);
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
}

static void test_file_limit__is_a_status_and_no_signal(void **state)
{
	ends_well(*state, put_beyond_the_limit);
}

static void test_file_limit__what_has_no_file_holds_nobody_up(void **state)
{
	ends_well(*state, write_beside_what_has_no_file);
}

int main(void)
{
#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_STORE(test_links__no_part_of_a_store_may_be_one),
		WITH_STORE(test_links__the_directorys_parents_may_be_links),
		WITH_STORE(test_links__a_directory_of_files_may_not_be_one),
		WITH_STORE(test_keys__none_becomes_a_path),
		WITH_STORE(test_owner__the_formats_directory_is_looked_at_as_well),
		WITH_STORE(test_modes__everything_is_its_owners_alone),
		WITH_STORE(test_database__connections_are_opened_defensively),
		WITH_STORE(test_database__its_triggers_do_not_run),
		WITH_STORE(test_seed__each_store_hashes_in_its_own_way),
		cmocka_unit_test(test_zstd__holds_what_is_recorded_and_no_more),
		WITH_STORE(test_size__a_value_over_all_limits_is_neither_put_nor_read),
		WITH_STORE(test_file_limit__is_a_status_and_no_signal),
		WITH_STORE(test_file_limit__what_has_no_file_holds_nobody_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
