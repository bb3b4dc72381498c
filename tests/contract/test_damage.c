/* Bytes on disk that are not what was written: a counted miss, and never a wrong value. */
#include "support/support.h"

#include <dirent.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/mount.h>
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

static terrace_cache *cache_on(struct fixture *f, unsigned tiers)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.tiers = tiers;
	policy.codec = TERRACE_CODEC_NONE;
	return fixture_rows(f, "a", &policy);
}

static uint64_t damaged(terrace_cache *cache)
{
	terrace_stats stats = TERRACE_STATS_INIT;

	assert_ok(terrace_cache_stats(cache, &stats));
	return stats.damaged;
}

static void assert_damaged(terrace_cache *cache, uint64_t before)
{
	terrace_why why = TERRACE_WHY_INIT;

	assert_misses(cache, "k");
	assert_int_equal(damaged(cache), before + 1);
	assert_status(terrace_explain(cache, TERRACE_KEY("k"), &why), TERRACE_MISS);
	assert_int_equal(why.reason, TERRACE_REASON_DAMAGED);
	assert_misses(cache, "k"); /* it was removed: no second time */
	assert_int_equal(damaged(cache), before + 1);
}

static void test_file__every_flipped_byte_is_a_counted_miss(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L3);
	struct stat st;
	char path[600];

	assert_ok(put_text(cache, "k", "some words that lie in a file"));
	fixture_file(f, path);
	assert_int_equal(stat(path, &st), 0);
	for (off_t at = 0; at < st.st_size; at++) {
		assert_ok(put_text(cache, "k", "some words that lie in a file"));
		fixture_file(f, path);
		flip_bit(path, at, (int)at % 8);
		assert_damaged(cache, (uint64_t)at);
	}
	terrace_cache_close(cache);
}

static void test_file__truncated_grown_swapped_or_gone(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L3);
	char path[600], other[600];
	uint64_t count = 0;

	for (off_t size = 0; size < 100; size += 33) {
		assert_ok(put_text(cache, "k", "some words that lie in a file"));
		fixture_file(f, path);
		assert_int_equal(truncate(path, size), 0);
		assert_damaged(cache, count++);
	}
	assert_ok(put_text(cache, "k", "some words that lie in a file"));
	fixture_file(f, path);
	assert_int_equal(truncate(path, 1000), 0);
	assert_damaged(cache, count++);

	assert_ok(put_text(cache, "k", "some words that lie in a file"));
	fixture_file(f, path);
	assert_int_equal(unlink(path), 0);
	assert_damaged(cache, count++);

	/* another entry's file in its place: whole, and not this one */
	assert_ok(put_text(cache, "k", "some words that lie in a file"));
	fixture_file(f, path);
	snprintf(other, sizeof other, "%s.kept", scratch_path(&f->scratch, "file"));
	assert_int_equal(rename(path, other), 0);
	assert_ok(terrace_clear(cache, 0, NULL));
	assert_ok(put_text(cache, "k", "other words of the same size!"));
	fixture_file(f, path);
	assert_int_equal(rename(other, path), 0);
	assert_damaged(cache, count++);

	/* a link or a pipe is no file */
	assert_ok(put_text(cache, "k", "some words that lie in a file"));
	fixture_file(f, path);
	assert_int_equal(rename(path, other), 0);
	assert_int_equal(symlink(other, path), 0);
	assert_damaged(cache, count++);
	terrace_cache_close(cache);
}

static void change_row(const struct fixture *f, const char *sql)
{
	sqlite3 *db;
	char path[600], *error = NULL;

	snprintf(path, sizeof path, "%s/v2/db-1", scratch_path(&f->scratch, "store"));
	/* Ours, so that what is written is sound as pages go. */
	assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "terrace"), SQLITE_OK);
	if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK)
		fail_msg("%s: %s", sql, error);
	assert_int_equal(sqlite3_changes(db), 1);
	sqlite3_close(db);
}

static void test_row__what_was_changed_behind_our_back_is_a_counted_miss(void **state)
{
	static const char *const changes[] = {
		"UPDATE entry SET value = CAST('other words in a row' AS BLOB)",
		"UPDATE entry SET value = NULL",
		"UPDATE entry SET value = x''",
		"UPDATE entry SET head = x'00'",
		"UPDATE entry SET head = CAST(substr(head, 1, 20) || x'ff' || substr(head, 22) AS BLOB)",
		"UPDATE entry SET seq = seq + 1",
		"UPDATE entry SET file = 12345",
	};
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);

	for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
		assert_ok(put_text(cache, "k", "some words in a row!"));
		change_row(f, changes[i]);
		assert_damaged(cache, i);
		/* and a new value takes its place */
		assert_ok(put_text(cache, "k", "new words"));
		assert_gives(cache, "k", "new words");
		assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
	}
	terrace_cache_close(cache);
}

static void test_row__a_damaged_row_can_be_written_over_and_deleted(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	uint64_t count;

	assert_ok(put_text(cache, "k", "v"));
	change_row(f, "UPDATE entry SET head = x'00'");
	assert_ok(put_text(cache, "k", "w"));
	assert_gives(cache, "k", "w");
	change_row(f, "UPDATE entry SET head = x'00'");
	assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
	assert_misses(cache, "k");
	assert_ok(put_text(cache, "k", "v"));
	change_row(f, "UPDATE entry SET head = x'00'");
	assert_ok(terrace_add(cache, TERRACE_KEY("k"), terrace_str("added"), NULL));
	assert_gives(cache, "k", "added");
	change_row(f, "UPDATE entry SET head = x'00'");
	assert_ok(terrace_clear(cache, 0, &count));
	assert_int_equal(count, 1);
	terrace_cache_close(cache);
}

/* In a row, or with a file. */
static void leave_newer_alone(struct fixture *f, unsigned tier)
{
	terrace_cache *cache = cache_on(f, tier);
	terrace_verify_report report = TERRACE_VERIFY_INIT;
	sqlite3_stmt *count;
	sqlite3 *db;
	char path[600];

	assert_ok(put_text(cache, "k", "v"));
	{
		/* a flag that this version does not know, with a checksum that holds */
		extern uint64_t terrace__hash64(const void *data, size_t size, uint64_t seed);
		unsigned char head[512];
		sqlite3_stmt *read, *write;
		int size;
		uint64_t sum;

		snprintf(path, sizeof path, "%s/v2/db-1", scratch_path(&f->scratch, "store"));
		assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "terrace"),
		                 SQLITE_OK);
		sqlite3_prepare_v2(db, "SELECT head FROM entry", -1, &read, NULL);
		assert_int_equal(sqlite3_step(read), SQLITE_ROW);
		size = sqlite3_column_bytes(read, 0);
		memcpy(head, sqlite3_column_blob(read, 0), (size_t)size);
		sqlite3_finalize(read);
		head[29] = 0x80;
		sum = terrace__hash64(head + 16, (size_t)size - 16, 0);
		for (int i = 0; i < 8; i++)
			head[8 + i] = (unsigned char)(sum >> (8 * i));
		sqlite3_prepare_v2(db, "UPDATE entry SET head = ?1", -1, &write, NULL);
		sqlite3_bind_blob(write, 1, head, size, SQLITE_STATIC);
		assert_int_equal(sqlite3_step(write), SQLITE_DONE);
		sqlite3_finalize(write);
	}
	assert_misses(cache, "k");
	assert_int_equal(damaged(cache), 0);
	assert_ok(terrace_verify(f->store, true, NULL, NULL, &report));
	assert_int_equal(report.damaged, 0);
	sqlite3_prepare_v2(db, "SELECT count(*) FROM entry", -1, &count, NULL);
	assert_int_equal(sqlite3_step(count), SQLITE_ROW);
	assert_int_equal(sqlite3_column_int(count, 0), 1);
	sqlite3_finalize(count);
	sqlite3_close(db);
	terrace_cache_close(cache);
}

static void test_row__a_newer_versions_entry_is_a_miss_and_left_alone(void **state)
{
	leave_newer_alone(*state, TERRACE_L2);
}

static void test_file__a_newer_versions_entry_is_a_miss_and_left_alone(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	char path[600];

	leave_newer_alone(f, TERRACE_L3);
	fixture_file(f, path);
	assert_int_equal(stat(path, &st), 0);
}

/* --- verify ------------------------------------------------------------------------------------------ */

static int note_fault(void *ctx, const terrace_fault *fault)
{
	static const char letters[] = "?EFOD";
	char *seen = ctx;

	assert_true(strlen(fault->detail) > 5);
	if (fault->kind != TERRACE_FAULT_ORPHAN)
		assert_string_equal(fault->cache, "a");
	sprintf(seen + strlen(seen), "%c", letters[fault->kind]);
	return 0;
}

static void test_verify__finds_and_repairs(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_verify_report report = TERRACE_VERIFY_INIT;
	char path[600], stray[700], seen[16] = "", large[2000];
	terrace_cache *cache;

	policy.inline_bytes = 100;
	policy.codec = TERRACE_CODEC_NONE;
	policy.tiers = TERRACE_L2 | TERRACE_L3;
	cache = fixture_cache(f, "a", &policy);
	memset(large, 'x', sizeof large);
	large[sizeof large - 1] = '\0';
	assert_ok(put_text(cache, "row", "v"));
	assert_ok(put_text(cache, "good row", "v"));
	assert_ok(put_text(cache, "file", large));
	assert_ok(terrace_verify(f->store, false, note_fault, seen, &report));
	assert_int_equal(report.entries, 3);
	assert_string_equal(seen, "");

	fixture_file(f, path);
	flip_bit(path, 500, 3);
	assert_ok(put_text(cache, "lost", large));
	change_row(f, "UPDATE entry SET value = x'77' WHERE id = (SELECT min(id) FROM entry)");
	{
		char command[1400];

		/* the other file goes, a stray one comes */
		snprintf(command, sizeof command,
		         "cd %s/v2/files && rm $(ls */* | grep -v %s) && mkdir -p 00 && echo x > "
		         "00/stray-of-a-name-that-is-longer-than-any-that-we-give-to-our-own-files",
		         scratch_path(&f->scratch, "store"), strrchr(path, '/') + 1);
		assert_int_equal(system(command), 0);
	}
	for (int repair = 0; repair < 2; repair++) {
		seen[0] = '\0';
		assert_status(terrace_verify(f->store, repair, note_fault, seen, &report),
		              repair ? TERRACE_OK : TERRACE_ECORRUPT);
		assert_int_equal(report.damaged, 2);
		assert_int_equal(report.missing_files, 1);
		assert_int_equal(report.orphans, 1);
		assert_int_equal(report.database_errors, 0);
		assert_int_equal(report.repaired, repair ? 4 : 0);
		assert_string_equal(seen, "EEFO");
	}
	seen[0] = '\0';
	assert_ok(terrace_verify(f->store, false, note_fault, seen, &report));
	assert_string_equal(seen, "");
	assert_int_equal(fixture_files(f), 0);
	assert_int_equal(report.entries, 1);
	assert_gives(cache, "good row", "v");
	assert_misses(cache, "row");
	snprintf(stray, sizeof stray, "%s/v2/files/00/stray", scratch_path(&f->scratch, "store"));
	assert_int_not_equal(access(stray, F_OK), 0);
	terrace_cache_close(cache);
}

/* What an invalidation by tag, source or prefix goes by, each cut off from its row. */
static void put_linked(terrace_cache *cache, const char *key, const char *tag, const char *path)
{
	terrace_put_options options = TERRACE_PUT_INIT;

	options.tags = &tag;
	options.tag_count = tag != NULL;
	if (path) {
		terrace_sources *sources;

		assert_ok(terrace_sources_new(&sources));
		assert_ok(terrace_sources_file(sources, path, 0));
		options.sources = sources;
		assert_ok(terrace_put(cache, terrace_str(key), TERRACE_KEY("v"), &options));
		terrace_sources_free(sources);
		return;
	}
	assert_ok(terrace_put(cache, terrace_str(key), TERRACE_KEY("v"), &options));
}

static void test_verify__finds_rows_that_nothing_leads_to(void **state)
{
	static const char *const cuts[] = {
		"DELETE FROM link WHERE entry = (SELECT min(entry) FROM link)",
		"DELETE FROM link WHERE entry = (SELECT max(entry) FROM link)",
		"DELETE FROM name WHERE entry = (SELECT min(entry) FROM name)",
	};
	enum { ROWS = 600 }; /* so many that a look names some */
	struct fixture *f = *state;
	terrace_match nothing = terrace_match_text(TERRACE_MATCH_PREFIX, "x/");
	terrace_verify_report report = TERRACE_VERIFY_INIT;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	char seen[16] = "", key[16], path[600];
	uint64_t count;

	for (int i = 0; i < ROWS; i++) {
		snprintf(key, sizeof key, "row %d", i);
		assert_ok(put_text(cache, key, "v"));
	}
	assert_ok(terrace_invalidate(cache, &nothing, &count));
	put_linked(cache, "tagged", "tag", NULL);
	snprintf(path, sizeof path, "%s", scratch_path(&f->scratch, "source"));
	write_file(path, "what it was made from");
	put_linked(cache, "of a file", NULL, path);
	assert_ok(terrace_verify(f->store, false, note_fault, seen, &report));
	for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
		change_row(f, cuts[i]);
		for (int repair = 0; repair < 2; repair++) {
			seen[0] = '\0';
			assert_status(terrace_verify(f->store, repair, note_fault, seen, &report),
			              repair ? TERRACE_OK : TERRACE_ECORRUPT);
			assert_string_equal(seen, "E");
		}
	}
	assert_ok(terrace_verify(f->store, false, note_fault, seen, &report));
	assert_int_equal(report.entries, ROWS - 1);
	assert_misses(cache, "tagged");
	assert_misses(cache, "of a file");
	assert_misses(cache, "row 0");
	assert_gives(cache, "row 1", "v");
	terrace_cache_close(cache);
}

/* --- a full disk -------------------------------------------------------------------------------------- */

/* A store on a file system of 8 MiB; false where that cannot be mounted. */
static bool open_small(struct fixture *f, const char *mount_point, terrace **store,
                       terrace_cache **cache)
{
	char dir[600];

	if (geteuid() != 0 || mkdir(mount_point, 0700) < 0 ||
	    mount("none", mount_point, "tmpfs", 0, "size=11m") < 0) {
		print_message("skipped: a small file system cannot be mounted here\n");
		return false;
	}
	snprintf(dir, sizeof dir, "%s/store", mount_point);
	assert_ok(terrace_open(dir, &f->options, store));
	assert_ok(terrace_cache_open(*store, "a", NULL, cache));
	return true;
}

static void fill_noise(char *bytes, size_t size)
{
	struct rng rng = { 5 };

	for (size_t i = 0; i < size; i++)
		bytes[i] = (char)('!' + rng_below(&rng, 90));
	bytes[size - 1] = '\0';
}

static void test_full__put_makes_room_among_our_own(void **state)
{
	struct fixture *f = *state;
	const char *mount_point = scratch_path(&f->scratch, "small");
	char *large = malloc(300000);
	terrace_cache *cache;
	terrace *store;

	if (!open_small(f, mount_point, &store, &cache)) {
		free(large);
		skip();
	}
	fill_noise(large, 300000);
	assert_ok(put_text(cache, "row", "v"));
	/* four times what there is room for */
	for (int i = 0; i < 50; i++) {
		char key[16];

		snprintf(key, sizeof key, "%d", i);
		atomic_fetch_add(&f->clock.now, 1);
		large[0] = (char)('!' + i);
		assert_ok(put_text(cache, key, large));
		terrace_clear(cache, TERRACE_L1, NULL);
		assert_gives(cache, key, large);
	}
	assert_gives(cache, "row", "v");
	assert_misses(cache, "0");
	free(large);
	terrace_cache_close(cache);
	terrace_close(store);
	assert_int_equal(umount2(mount_point, MNT_DETACH), 0);
}

/* Room is made within the write, which then starts over: it must not count twice. */
static void test_full__a_number_is_counted_once(void **state)
{
	struct fixture *f = *state;
	char *large = malloc(300000);
	char mount_point[600], path[640];
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace *store;
	terrace_cache *cache, *numbers;
	int64_t number = 0;
	int fd;

	snprintf(mount_point, sizeof mount_point, "%s", scratch_path(&f->scratch, "small"));
	if (!open_small(f, mount_point, &store, &cache)) {
		free(large);
		skip();
	}
	fill_noise(large, 300000);
	assert_ok(put_text(cache, "large", large));
	policy.tiers = TERRACE_L3;
	assert_ok(terrace_cache_open(store, "numbers", &policy, &numbers));
	snprintf(path, sizeof path, "%s/theirs", mount_point);
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	while (write(fd, large, 4096) == 4096)
		;
	assert_ok(terrace_incr(numbers, TERRACE_KEY("n"), 5, 100, &number));
	assert_int_equal(number, 105);
	assert_gives(numbers, "n", "105");
	close(fd);
	free(large);
	terrace_cache_close(numbers);
	terrace_cache_close(cache);
	terrace_close(store);
	umount(mount_point);
}

/* Rows alone: there is no file whose space could be had. */
static void test_full__rows_make_room_for_rows(void **state)
{
	struct fixture *f = *state;
	char mount_point[600], path[640], text[2000];
	terrace_cache *cache;
	terrace *store;
	uint64_t count = 0;
	int fd;

	snprintf(mount_point, sizeof mount_point, "%s", scratch_path(&f->scratch, "small"));
	if (!open_small(f, mount_point, &store, &cache))
		skip();
	fill_noise(text, sizeof text);
	/* somebody else takes what is left, early or late */
	snprintf(path, sizeof path, "%s/theirs", mount_point);
	for (int i = 0; i < 400; i++) {
		char key[16];

		if (i == 20 || i == 200) {
			fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
			while (write(fd, text, sizeof text) == sizeof text)
				;
			close(fd);
		}
		snprintf(key, sizeof key, "%d", i);
		atomic_fetch_add(&f->clock.now, 1);
		text[0] = (char)('!' + i % 90);
		assert_ok(put_text(cache, key, text));
		terrace_clear(cache, TERRACE_L1, NULL);
		assert_gives(cache, key, text);
	}
	assert_misses(cache, "0");
	assert_ok(terrace_delete(cache, TERRACE_KEY("399")));
	assert_ok(terrace_clear(cache, 0, &count));
	assert_true(count > 0);
	terrace_cache_close(cache);
	terrace_close(store);
	umount(mount_point);
}

static int load_noise(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)key;
	return terrace_loaded_copy(loaded, terrace_str(ctx));
}

static void test_full__what_is_computed_reaches_its_caller(void **state)
{
	struct fixture *f = *state;
	char *large = malloc(300000), mount_point[600], path[640];
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_cache *cache;
	terrace_value *value;
	terrace *store;
	int fd;

	snprintf(mount_point, sizeof mount_point, "%s", scratch_path(&f->scratch, "small"));
	if (!open_small(f, mount_point, &store, &cache)) {
		free(large);
		skip();
	}
	fill_noise(large, 300000);
	snprintf(path, sizeof path, "%s/theirs", mount_point);
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	while (write(fd, large, 4096) == 4096)
		;
	close(fd);
	assert_ok(terrace_fetch(cache, TERRACE_KEY("k"), load_noise, large, &value));
	assert_int_equal(terrace_size(value), strlen(large));
	assert_memory_equal(terrace_data(value), large, strlen(large));
	terrace_release(value);
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_true(stats.errors > 0);
	free(large);
	terrace_cache_close(cache);
	terrace_close(store);
	umount(mount_point);
}

static void test_full__a_disk_that_is_too_small_for_a_store_says_so(void **state)
{
	struct fixture *f = *state;
	char mount_point[600], path[640];
	terrace *store;

	snprintf(mount_point, sizeof mount_point, "%s", scratch_path(&f->scratch, "small"));
	if (geteuid() != 0 || mkdir(mount_point, 0700) < 0 ||
	    mount("none", mount_point, "tmpfs", 0, "size=4m") < 0) {
		print_message("skipped: a small file system cannot be mounted here\n");
		skip();
	}
	snprintf(path, sizeof path, "%s/store", mount_point);
	assert_status(terrace_open(path, &f->options, &store), TERRACE_EFULL);
	assert_non_null(strstr(terrace_error_message(), "MiB"));
	/* and takes nothing away from those who have the disk */
	snprintf(path, sizeof path, "%s/store/v2/shared.new", mount_point);
	assert_int_not_equal(access(path, F_OK), 0);
	umount(mount_point);
}

static void test_full__of_others_files_put_says_so_and_get_goes_on(void **state)
{
	terrace_stats stats = TERRACE_STATS_INIT;
	struct fixture *f = *state;
	const char *mount_point = scratch_path(&f->scratch, "small");
	char *large = malloc(300000), path[600];
	terrace_cache *cache;
	terrace *store;
	int fd, failed = 0;

	if (!open_small(f, mount_point, &store, &cache)) {
		free(large);
		skip();
	}
	fill_noise(large, 300000);
	assert_ok(put_text(cache, "row", "v"));
	terrace_clear(cache, TERRACE_L1, NULL);
	/* somebody else takes all that is left */
	snprintf(path, sizeof path, "%s/theirs", mount_point);
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	while (write(fd, large, 4096) == 4096)
		;
	assert_status(put_text(cache, "large", large), TERRACE_EFULL);
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_true(stats.errors > 0);
	assert_true(strlen(terrace_error_message()) > 10);
	assert_misses(cache, "large");
	assert_gives(cache, "row", "v"); /* what it has would be of no use */
	for (int i = 0; i < 100 && !failed; i++) {
		char key[16], text[3000];
		int rc;

		snprintf(key, sizeof key, "%d", i);
		memset(text, 'x', sizeof text);
		rc = terrace_put(cache, terrace_str(key), terrace_bytes(text, sizeof text), NULL);
		if (rc != TERRACE_OK) {
			assert_status(rc, TERRACE_EFULL);
			assert_misses(cache, key);
			failed++;
		}
	}
	/* and with room again, all is well */
	assert_int_equal(ftruncate(fd, 0), 0);
	close(fd);
	assert_ok(put_text(cache, "large", large));
	assert_gives(cache, "large", large);
	free(large);
	terrace_cache_close(cache);
	terrace_close(store);
	assert_int_equal(umount2(mount_point, MNT_DETACH), 0);
}

/* --- pages ---------------------------------------------------------------------------------------- */

enum { PAGE = 4096 };

/* What SQLite says when it reads all of the database. */
static int read_all(const char *path)
{
	sqlite3_stmt *check;
	sqlite3 *db;
	int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "terrace");

	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &check, NULL);
	if (rc == SQLITE_OK) {
		rc = sqlite3_step(check);
		if (rc == SQLITE_ROW)
			rc = strcmp((const char *)sqlite3_column_text(check, 0), "ok") == 0 ?
			         SQLITE_OK :
			         SQLITE_CORRUPT;
		sqlite3_finalize(check);
	}
	sqlite3_close(db);
	return rc;
}

static size_t read_file(const char *path, uint8_t **ret)
{
	FILE *file = fopen(path, "rb");
	struct stat st;

	assert_non_null(file);
	assert_int_equal(fstat(fileno(file), &st), 0);
	*ret = malloc((size_t)st.st_size);
	assert_int_equal(fread(*ret, 1, (size_t)st.st_size, file), st.st_size);
	fclose(file);
	return (size_t)st.st_size;
}

/* With these bytes in the place of those of the same size. */
static void assert_malformed(const char *path, size_t at, const void *bytes, size_t size)
{
	int fd = open(path, O_RDWR), rc;
	uint8_t *before = malloc(size);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, before, size, (off_t)at), size);
	assert_int_equal(pwrite(fd, bytes, size, (off_t)at), size);
	rc = read_all(path);
	if (rc == SQLITE_OK)
		fail_msg("%zu bytes of page %zu, from %zu on, are not missed", size, at / PAGE + 1,
		         at % PAGE);
	assert_int_equal(pwrite(fd, before, size, (off_t)at), size);
	free(before);
	close(fd);
}

static void test_page__each_change_of_it_is_found(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	char path[600], key[16], value[200];
	uint8_t *bytes;
	size_t size;

	memset(value, 'v', sizeof value);
	for (int i = 0; i < 100; i++) {
		snprintf(key, sizeof key, "key %d", i);
		assert_ok(
		    terrace_put(cache, terrace_str(key), terrace_bytes(value, sizeof value), NULL));
	}
	terrace_cache_close(cache);
	terrace_close(f->store);
	f->store = NULL;
	snprintf(path, sizeof path, "%s/v2/db-1", scratch_path(&f->scratch, "store"));
	assert_int_equal(read_all(path), SQLITE_OK);
	size = read_file(path, &bytes);
	assert_true(size > 10 * PAGE);
	for (size_t at = 0; at < size; at += 61) {
		uint8_t flipped = bytes[at] ^ (uint8_t)(1 << at % 8);

		assert_malformed(path, at, &flipped, 1);
	}
	for (size_t at = PAGE; at < size; at += PAGE) {
		static const uint8_t zeros[PAGE];

		assert_malformed(path, at, zeros, PAGE);
		assert_malformed(path, at, bytes + (at + PAGE < size ? at + PAGE : PAGE), PAGE);
	}
	assert_int_equal(read_all(path), SQLITE_OK);
	free(bytes);
}

int main(void)
{
#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_STORE(test_page__each_change_of_it_is_found),
		WITH_STORE(test_file__every_flipped_byte_is_a_counted_miss),
		WITH_STORE(test_file__truncated_grown_swapped_or_gone),
		WITH_STORE(test_row__what_was_changed_behind_our_back_is_a_counted_miss),
		WITH_STORE(test_row__a_damaged_row_can_be_written_over_and_deleted),
		WITH_STORE(test_row__a_newer_versions_entry_is_a_miss_and_left_alone),
		WITH_STORE(test_file__a_newer_versions_entry_is_a_miss_and_left_alone),
		WITH_STORE(test_verify__finds_and_repairs),
		WITH_STORE(test_verify__finds_rows_that_nothing_leads_to),
		WITH_STORE(test_full__put_makes_room_among_our_own),
		WITH_STORE(test_full__a_number_is_counted_once),
		WITH_STORE(test_full__rows_make_room_for_rows),
		WITH_STORE(test_full__what_is_computed_reaches_its_caller),
		WITH_STORE(test_full__a_disk_that_is_too_small_for_a_store_says_so),
		WITH_STORE(test_full__of_others_files_put_says_so_and_get_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
