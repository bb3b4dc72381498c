/*
 * Rows are read where they were seen: what comes from there is what SQLite would give,
 * or nothing, whatever was written meanwhile.
 */
#include "support/support.h"

#include "core/coherence.h"
#include "core/idle.h"
#include "core/store.h"
#include "tiers/sqlite/connection.h"
#include "util/util.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static terrace_cache *cache_on(struct fixture *f, unsigned tiers)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.tiers = tiers;
	policy.codec = TERRACE_CODEC_NONE;
	return fixture_rows(f, "a", &policy);
}

/* So that a page is read before a row of it is given. */
static void forget_pages(struct fixture *f)
{
	struct disk *disk = f->store->disk;

	while (disk->readers) {
		struct connection *reader = disk->readers;

		disk->readers = reader->next;
		terrace__connection_close(reader);
	}
}

/* Tests of rows are run twice: where the log has them, and where they will stay. */
static bool in_log;

static void settle(struct fixture *f)
{
	if (!in_log)
		assert_true(f->store->disk_ops->checkpoint(f->store->disk, CHECKPOINT_NOW));
	forget_pages(f);
}

static int leave_in_log(void **state)
{
	(void)state;
	in_log = true;
	return 0;
}

static struct tier_stamp stamp_of(terrace_cache *cache, const struct tier_key *key)
{
	return (struct tier_stamp){ version_load(cache->store->shared, key->slot),
		                    atomic_load(&cache->shared->epoch),
		                    atomic_load(&cache->shared->cleared) };
}

/*
 * What is remembered of where a key's row was, and lies there; NULL: nothing. `blind`: by a
 * connection that sees no database, so that only a file that does without its row is found.
 */
static struct entry *look_at_place(terrace_cache *cache, const char *text, bool blind)
{
	struct disk *disk = cache->store->disk;
	struct tier_key key = cache_key(cache, terrace_str(text));
	struct tier_stamp stamp = stamp_of(cache, &key);
	struct connection *reader = terrace__reader_take(disk), other;
	struct entry *entry = NULL;

	assert_non_null(reader);
	other = *reader;
	if (blind)
		assert_int_equal(sqlite3_open(":memory:", &other.db), SQLITE_OK);
	if (terrace__place_get(disk, &other, &key, &stamp, &entry) != TERRACE_OK)
		entry = NULL;
	if (blind)
		sqlite3_close(other.db);
	terrace__reader_give(disk, reader);
	return entry;
}

static struct entry *at_place(terrace_cache *cache, const char *text)
{
	return look_at_place(cache, text, false);
}

static bool has_place(terrace_cache *cache, const char *text)
{
	struct entry *entry = at_place(cache, text);

	entry_unref(entry);
	return entry != NULL;
}

static bool has_file_alone(terrace_cache *cache, const char *text)
{
	struct entry *entry = look_at_place(cache, text, true);

	entry_unref(entry);
	return entry != NULL;
}

/* --- rows of all sizes ----------------------------------------------------------------- */

static size_t fill(uint8_t *value, size_t size)
{
	struct rng rng = { size + 1 };

	for (size_t i = 0; i < size; i++)
		value[i] = (uint8_t)rng_next(&rng);
	return size;
}

static void assert_there(struct fixture *f, terrace_cache *cache, size_t size, int *found)
{
	static uint8_t wanted[70000];
	struct entry *entry;
	terrace_value *value;
	char key[24];

	snprintf(key, sizeof key, "%zu", size);
	fill(wanted, size);
	forget_pages(f);
	assert_ok(terrace_get(cache, terrace_str(key), &value));
	assert_int_equal(terrace_size(value), size);
	assert_memory_equal(terrace_data(value), wanted, size);
	terrace_release(value);
	entry = at_place(cache, key);
	if (entry) {
		assert_int_equal(entry->value_size, size);
		assert_memory_equal(entry_value(entry), wanted, size);
		++*found;
	}
	entry_unref(entry);
}

/* A row goes on elsewhere from some 3,900 bytes on, and where that is depends on its size. */
static void test_place__is_found_for_rows_of_every_size(void **state)
{
	static const struct {
		size_t from, until, step;
	} sizes[] = { { 0, 200, 7 }, { 3700, 4100, 3 }, { 7600, 8500, 11 }, { 11900, 40000, 611 } };
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	uint8_t *bytes = malloc(70000);
	int found = 0, all = 0;
	char key[24];

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		for (size_t size = sizes[i].from; size < sizes[i].until; size += sizes[i].step) {
			snprintf(key, sizeof key, "%zu", size);
			assert_ok(terrace_put(cache, terrace_str(key),
			                      terrace_bytes(bytes, fill(bytes, size)), NULL));
		}
	}
	settle(f);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		for (size_t size = sizes[i].from; size < sizes[i].until; size += sizes[i].step) {
			assert_there(f, cache, size, &found);
			all++;
		}
	}
	/* All: they take fewer pages than lie between two of SQLite's own. */
	assert_int_equal(found, all);
	free(bytes);
	terrace_cache_close(cache);
}

/* --- what makes it void ------------------------------------------------------------------ */

/* The key's row is in the database, and is known to be there. */
static void put_and_see(struct fixture *f, terrace_cache *cache, const char *key, const char *text)
{
	assert_ok(put_text(cache, key, text));
	settle(f);
	assert_gives(cache, key, text);
	assert_true(has_place(cache, key));
}

/* What was there before lies where it lay, whole. */
static void test_place__is_void_when_the_key_is_put_again(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);

	put_and_see(f, cache, "k", "of before");
	assert_ok(put_text(cache, "k", "of after!"));
	assert_false(has_place(cache, "k"));
	assert_gives(cache, "k", "of after!");
	settle(f);
	assert_gives(cache, "k", "of after!");
	assert_true(has_place(cache, "k"));
	terrace_cache_close(cache);
}

/* In another process, with a store and a cache of its own; true: it was as it should be. */
static void elsewhere(struct fixture *f, bool (*act)(terrace *store, terrace_cache *cache))
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		terrace_cache *cache;
		terrace *store;
		bool good = terrace_open(scratch_path(&f->scratch, "store"), &f->options, &store) ==
		                TERRACE_OK &&
		            terrace_cache_open(store, "a", NULL, &cache) == TERRACE_OK &&
		            act(store, cache);

		if (good) {
			terrace_cache_close(cache);
			terrace_close(store);
		}
		_exit(!good);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static bool put_and_delete(terrace *store, terrace_cache *cache)
{
	(void)store;
	return put_text(cache, "put", "of the child!") == TERRACE_OK &&
	       terrace_delete(cache, TERRACE_KEY("deleted")) == TERRACE_OK;
}

static void test_place__is_void_when_another_process_writes(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);

	put_and_see(f, cache, "put", "of the parent");
	put_and_see(f, cache, "deleted", "of the parent");
	elsewhere(f, put_and_delete);
	assert_gives(cache, "put", "of the child!");
	assert_misses(cache, "deleted");
	terrace_cache_close(cache);
}

static void test_place__is_void_when_its_key_goes(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	terrace_match all = { .kind = TERRACE_MATCH_ALL };

	put_and_see(f, cache, "k", "deleted");
	assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
	assert_misses(cache, "k");
	put_and_see(f, cache, "k", "invalidated");
	assert_ok(terrace_invalidate(cache, &all, NULL));
	assert_misses(cache, "k");
	put_and_see(f, cache, "k", "cleared");
	assert_ok(terrace_clear(cache, 0, NULL));
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

/* As core/room.c does. */
static bool evict_one(terrace *store, terrace_cache *cache)
{
	const struct disk_ops *ops = store->disk_ops;
	struct tier_row row;
	uint64_t seq;
	size_t found;
	bool done;

	atomic_store(&cache->shared->rows, ROWS_LACK);
	done = ops->begin(store->disk, 0) == TERRACE_OK &&
	       ops->victims(store->disk, cache->number, 0, &row, 1, &found) == TERRACE_OK &&
	       found == 1 && ops->remove_row(store->disk, &row, NULL) == TERRACE_OK &&
	       ops->commit(store->disk, &seq) == TERRACE_OK;
	terrace__commits_count(store->shared);
	return done;
}

/* It would be right; but who has asked for less on disk has less. */
static void test_place__is_forgotten_with_an_evicted_row(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);

	put_and_see(f, cache, "k", "evicted");
	assert_true(evict_one(f->store, cache));
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static bool evict_and_invalidate(terrace *store, terrace_cache *cache)
{
	terrace_match tag = terrace_match_text(TERRACE_MATCH_TAG, "t");

	return evict_one(store, cache) && terrace_invalidate(cache, &tag, NULL) == TERRACE_OK;
}

/* Who invalidates by tag finds no row of it, and marks no version. */
static void test_place__is_void_when_what_another_process_evicted_is_invalidated(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	terrace_put_options options = TERRACE_PUT_INIT;
	const char *const tags[] = { "t" };

	options.tags = tags;
	options.tag_count = 1;
	assert_ok(terrace_put(cache, TERRACE_KEY("k"), TERRACE_KEY("tagged"), &options));
	settle(f);
	assert_gives(cache, "k", "tagged");
	assert_true(has_place(cache, "k"));
	elsewhere(f, evict_and_invalidate);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static bool clear_rows(terrace *store, terrace_cache *cache)
{
	(void)store;
	return terrace_clear(cache, TERRACE_L2, NULL) == TERRACE_OK;
}

static bool clear_rows_inside(terrace *store, terrace_cache *cache)
{
	return terrace_begin(store, 0) == TERRACE_OK && clear_rows(store, cache) &&
	       terrace_commit(store) == TERRACE_OK;
}

/* That removes rows and voids no copy in memory; but what lies in the tier is no such copy. */
static void test_place__is_void_when_another_process_clears_its_tier(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);

	put_and_see(f, cache, "k", "in l2");
	elsewhere(f, clear_rows);
	assert_misses(cache, "k");
	put_and_see(f, cache, "k", "in l2");
	elsewhere(f, clear_rows_inside);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

/* Else each get would find it anew, and take the writers' lock to remove what is not there. */
static void test_place__is_forgotten_when_its_source_has_changed(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	const char *path = scratch_path(&f->scratch, "source");
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_sources *sources;
	terrace_stats stats = TERRACE_STATS_INIT;

	write_file(path, "1");
	assert_ok(terrace_sources_new(&sources));
	assert_ok(terrace_sources_file(sources, path, 0));
	options.sources = sources;
	assert_ok(terrace_put(cache, TERRACE_KEY("k"), TERRACE_KEY("made"), &options));
	terrace_sources_free(sources);
	settle(f);
	assert_gives(cache, "k", "made");
	assert_true(has_place(cache, "k"));
	elsewhere(f, evict_one);
	write_file(path, "other words");
	assert_misses(cache, "k");
	assert_false(has_place(cache, "k"));
	assert_misses(cache, "k");
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_int_equal(stats.source_changes, 1);
	terrace_cache_close(cache);
}

/* Its head says until when it lives, and changes with each use, under one version. */
static void test_place__is_not_kept_of_what_dies_unused(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	terrace_put_options options = TERRACE_PUT_INIT;

	options.idle_ms = 1000;
	assert_ok(terrace_put(cache, TERRACE_KEY("k"), TERRACE_KEY("used"), &options));
	settle(f);
	assert_gives(cache, "k", "used");
	assert_false(has_place(cache, "k"));
	for (int i = 0; i < 5; i++) {
		atomic_fetch_add(&f->clock.now, 700);
		assert_gives(cache, "k", "used");
		terrace__idle_settle(f->store); /* what the keeper does within a second */
		assert_ok(put_text(cache, "other", "waits for it"));
	}
	terrace_cache_close(cache);
}

static void test_place__does_not_outlive_its_time(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	terrace_put_options options = TERRACE_PUT_INIT;

	options.ttl_ms = 1000;
	assert_ok(terrace_put(cache, TERRACE_KEY("k"), TERRACE_KEY("short"), &options));
	settle(f);
	assert_gives(cache, "k", "short");
	assert_true(has_place(cache, "k"));
	atomic_fetch_add(&f->clock.now, 999);
	assert_gives(cache, "k", "short");
	atomic_fetch_add(&f->clock.now, 1);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

/* --- rows of the same page ------------------------------------------------------------------- */

enum { MANY = 40, ASKED = 20 };

static const char *many_key(int i, char ret[16])
{
	snprintf(ret, 16, "many %d", i);
	return ret;
}

static void put_rows(terrace_cache *cache)
{
	char key[16];

	for (int i = 0; i < MANY; i++)
		assert_ok(put_text(cache, many_key(i, key), key));
}

/* Of the other rows those that are known where they are, which is said of each; how many. */
static int seen_beside(terrace_cache *cache, bool ret[MANY])
{
	char key[16];
	int count = 0;

	for (int i = 0; i < MANY; i++) {
		struct entry *entry = i == ASKED ? NULL : at_place(cache, many_key(i, key));

		ret[i] = entry != NULL;
		count += ret[i];
		if (entry)
			assert_true(entry->value_size == strlen(key) &&
			            memcmp(entry_value(entry), key, strlen(key)) == 0);
		entry_unref(entry);
	}
	return count;
}

static void ask(terrace_cache *cache)
{
	char key[16];

	assert_gives(cache, many_key(ASKED, key), key);
	assert_true(has_place(cache, key));
}

static bool put_others(terrace *store, terrace_cache *cache)
{
	bool good = true;
	char key[16];

	(void)store;
	for (int i = 0; i < MANY; i++)
		good = good && put_text(cache, many_key(i, key), "new") == TERRACE_OK;
	return good;
}

static void test_beside__rows_are_seen_with_the_one_that_is_asked_for(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	bool seen[MANY];
	char key[16];

	put_rows(cache);
	settle(f);
	ask(cache);
	assert_int_equal(seen_beside(cache, seen), SEEN_BESIDE);
	for (int i = 0; i < MANY; i++)
		assert_gives(cache, many_key(i, key), key);
	elsewhere(f, put_others);
	assert_int_equal(seen_beside(cache, seen), 0);
	for (int i = 0; i < MANY; i++)
		assert_gives(cache, many_key(i, key), "new");
	terrace_cache_close(cache);
}

/* Its pages have no sums: a row that an index has lost may lie there. */
static void test_beside__rows_in_the_log_are_not_seen(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	bool seen[MANY];

	put_rows(cache);
	settle(f);
	ask(cache);
	assert_int_equal(seen_beside(cache, seen), 0);
	terrace_cache_close(cache);
}

/* A writer is about to commit, or a value waits to become the row. */
static void test_beside__a_row_of_a_marked_version_is_not(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	struct shared *shared = f->store->shared;
	bool seen[MANY];
	char key[16];

	put_rows(cache);
	settle(f);
	for (int i = 0; i < MANY; i++) {
		uint32_t slot = cache_key(cache, terrace_str(many_key(i, key))).slot;
		uint64_t mark = i % 2 ? VERSION_WRITING : VERSION_BEHIND;
		uint64_t value = word_value(version_load(shared, slot));

		if (i != ASKED)
			atomic_store(&shared->versions[slot],
			             word_make(shared, slot, value | mark));
	}
	ask(cache);
	assert_int_equal(seen_beside(cache, seen), 0);
	terrace_cache_close(cache);
}

/* With locks SQLite reads what was there when it began, whatever has been written since. */
static void test_beside__rows_of_what_was_read_with_locks_are_not(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	struct disk *disk = f->store->disk;
	const _Atomic uint64_t *commits = disk->commits;
	bool seen[MANY];

	put_rows(cache);
	settle(f);
	disk->commits = NULL;
	ask(cache);
	disk->commits = commits;
	assert_int_equal(seen_beside(cache, seen), 0);
	terrace_cache_close(cache);
}

static void test_beside__what_dies_unused_is_not_seen(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	terrace_put_options options = TERRACE_PUT_INIT;
	bool seen[MANY];
	char key[16];

	options.idle_ms = 1000;
	for (int i = 0; i < MANY; i++) {
		many_key(i, key);
		assert_ok(terrace_put(cache, terrace_str(key), terrace_str(key),
		                      i == ASKED ? NULL : &options));
	}
	settle(f);
	ask(cache);
	assert_int_equal(seen_beside(cache, seen), 0);
	terrace_cache_close(cache);
}

/* Who asks here and there would lose what is asked for again and again. */
static void test_beside__what_was_asked_for_keeps_its_place(void **state)
{
	enum { SHARED_BY = 1 << 17 };
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	uint64_t wanted[MANY];
	bool seen[MANY];
	char key[16];
	int found = -1;

	put_rows(cache);
	settle(f);
	ask(cache);
	assert_true(seen_beside(cache, seen) > 0);
	for (int i = 0; i < MANY; i++)
		wanted[i] = cache_key(cache, terrace_str(many_key(i, key))).hash % SHARED_BY;
	/* One that shares its place with one of those. */
	for (int n = 0; found < 0; n++) {
		uint64_t at;

		snprintf(key, sizeof key, "far/%d", n);
		at = cache_key(cache, terrace_str(key)).hash % SHARED_BY;
		for (int i = 0; i < MANY && found < 0; i++)
			found = seen[i] && wanted[i] == at ? i : -1;
	}
	put_and_see(f, cache, key, "asked for");
	{
		char other[16];

		assert_ok(put_text(cache, many_key(ASKED, other), other));
	}
	settle(f);
	ask(cache);
	assert_true(has_place(cache, key));
	assert_false(has_place(cache, many_key(found, key)));
	terrace_cache_close(cache);
}

/* Each byte of the row in turn is another one: what is given is right, or nothing. */
static void test_place__of_damaged_bytes_gives_nothing(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	static char page[PAGE_BYTES];
	struct entry *entry;
	off_t at = in_log ? 32 + 24 : 0, step = in_log ? 24 + PAGE_BYTES : PAGE_BYTES, row = 0;
	int db, given = 0;

	put_and_see(f, cache, "k", "a value that is looked for");
	db = open(scratch_path(&f->scratch, in_log ? "store/v2/db-1-wal" : "store/v2/db-1"),
	          O_RDWR);
	/* In the log the last of them counts. */
	for (; pread(db, page, sizeof page, at) == sizeof page; at += step) {
		char *found = memmem(page, sizeof page, "a value that is", 15);

		row = found ? at + (found - page) : row;
	}
	assert_true(row > 0);
	for (off_t i = row - 140; i < row + 26; i++) {
		char byte, other;

		assert_int_equal(pread(db, &byte, 1, i), 1);
		other = (char)(byte ^ 4);
		assert_int_equal(pwrite(db, &other, 1, i), 1);
		entry = at_place(cache, "k");
		given += entry != NULL;
		if (entry)
			assert_memory_equal(entry_value(entry), "a value that is looked for", 26);
		entry_unref(entry);
		assert_int_equal(pwrite(db, &byte, 1, i), 1);
	}
	/* The columns before the head are not read. */
	assert_true(given < 40);
	assert_true(has_place(cache, "k"));
	/* No close(): that would take SQLite's locks of the file with it. */
	terrace_cache_close(cache);
}

/* --- values in files --------------------------------------------------------------------- */

/* What their files are like: the value, shorter, in blocks. */
static const struct {
	const char *name;
	terrace_codec codec;
	size_t size;
} layouts[] = {
	{ "plain", TERRACE_CODEC_NONE, 3000 },
	{ "encoded", TERRACE_CODEC_LZ4, 3000 },
	{ "blocks", TERRACE_CODEC_LZ4, 700000 },
};

static terrace_cache *cache_of_files(struct fixture *f, terrace_codec codec)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.tiers = TERRACE_L3;
	policy.codec = codec;
	return fixture_rows(f, "a", &policy);
}

static terrace_slice text_of(size_t size, char letter)
{
	static char text[700000];

	memset(text, letter, size);
	return terrace_bytes(text, size);
}

static void put_file_and_see(terrace_cache *cache, const char *key, const char *text)
{
	assert_ok(put_text(cache, key, text));
	assert_gives(cache, key, text);
	assert_true(has_file_alone(cache, key));
}

/* Under a second name, so that it can come back when it was removed. */
static void hold_file(struct fixture *f, char path[600], char held[600])
{
	fixture_file(f, path);
	snprintf(held, 600, "%s", scratch_path(&f->scratch, "held"));
	unlink(held);
	assert_int_equal(link(path, held), 0);
}

static void bring_back(const char *path, const char *held)
{
	unlink(path);
	assert_int_equal(link(held, path), 0);
}

static void assert_same(const struct entry *is, const struct entry *wanted)
{
	const struct entry_rest *a = entry_rest(is), *b = entry_rest(wanted);

	assert_int_equal(is->value_size, wanted->value_size);
	assert_memory_equal(entry_value(is), entry_value(wanted), (size_t)wanted->value_size);
	assert_int_equal(is->hash, wanted->hash);
	assert_int_equal(is->kind, wanted->kind);
	assert_int_equal(is->tier, wanted->tier);
	assert_int_equal(is->has_sources, wanted->has_sources);
	assert_int_equal(is->created, wanted->created);
	assert_int_equal(is->expires, wanted->expires);
	assert_int_equal(a->seq, b->seq);
	assert_int_equal(a->stored, b->stored);
	assert_int_equal(a->ttl, b->ttl);
	assert_int_equal(a->idle, b->idle);
	assert_int_equal(a->deadline, b->deadline);
	assert_int_equal(a->stored_size, b->stored_size);
	assert_int_equal(a->cost_us, b->cost_us);
	assert_int_equal(a->codec, b->codec);
	assert_int_equal(a->extra_size, b->extra_size);
	assert_memory_equal(entry_extra(is).data, entry_extra(wanted).data, a->extra_size);
}

static void test_file__says_what_its_row_does(void **state)
{
	struct fixture *f = *state;
	const char *const tags[] = { "t", "another" };

	for (size_t i = 0; i < ARRAY_LEN(layouts); i++) {
		terrace_cache *cache = cache_of_files(f, layouts[i].codec);
		const terrace_slice name = terrace_str(layouts[i].name);
		struct tier_key key = cache_key(cache, name);
		terrace_put_options options = TERRACE_PUT_INIT;
		struct entry *by_row, *by_file;
		terrace_value *value;

		options.tags = tags;
		options.tag_count = 2;
		options.ttl_ms = 5000;
		options.cost_us = 77;
		assert_ok(terrace_put(cache, name, text_of(layouts[i].size, 'v'), &options));
		assert_false(has_place(cache, layouts[i].name));
		assert_ok(terrace_get(cache, name, &value));
		terrace_release(value);
		by_file = look_at_place(cache, layouts[i].name, true);
		assert_non_null(by_file);
		assert_ok(f->store->disk_ops->tier.get(f->store->disk, &key, false, &by_row));
		assert_true(entry_rest(by_row)->seq > 0);
		assert_same(by_file, by_row);
		entry_unref(by_file);
		entry_unref(by_row);
		terrace_cache_close(cache);
	}
}

static void test_file__is_not_given_for_another_key_with_its_hash(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of_files(f, TERRACE_CODEC_NONE);
	struct tier_key key = cache_key(cache, TERRACE_KEY("k"));
	struct tier_stamp stamp;
	struct connection *reader;
	struct entry *entry;

	put_file_and_see(cache, "k", "of k");
	stamp = stamp_of(cache, &key);
	key.key = TERRACE_KEY("j");
	reader = terrace__reader_take(f->store->disk);
	assert_status(terrace__place_get(f->store->disk, reader, &key, &stamp, &entry),
	              TERRACE_MISS);
	terrace__reader_give(f->store->disk, reader);
	terrace_cache_close(cache);
}

static terrace_cache *put_file_for(struct fixture *f, const char *text, int64_t ttl_ms,
                                   int64_t idle_ms)
{
	terrace_cache *cache = cache_of_files(f, TERRACE_CODEC_NONE);
	terrace_put_options options = TERRACE_PUT_INIT;

	options.ttl_ms = ttl_ms;
	options.idle_ms = idle_ms;
	assert_ok(terrace_put(cache, TERRACE_KEY("k"), terrace_str(text), &options));
	assert_gives(cache, "k", text);
	return cache;
}

/* A touch changes the row alone: the file does not know until when it lives now. */
static void test_file__that_was_touched_does_not_do_without_its_row(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = put_file_for(f, "touched", 1000, 0);

	assert_true(has_file_alone(cache, "k"));
	assert_ok(terrace_touch(cache, TERRACE_KEY("k"), 5000));
	assert_false(has_place(cache, "k"));
	settle(f);
	assert_gives(cache, "k", "touched");
	assert_false(has_file_alone(cache, "k"));
	assert_true(has_place(cache, "k"));
	atomic_fetch_add(&f->clock.now, 4999);
	assert_gives(cache, "k", "touched");
	atomic_fetch_add(&f->clock.now, 1);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void test_file__does_not_outlive_its_time(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = put_file_for(f, "short", 1000, 0);

	assert_true(has_file_alone(cache, "k"));
	atomic_fetch_add(&f->clock.now, 1000);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

/* The row changes with each use, under one version, and the file does not. */
static void test_file__is_not_read_alone_where_it_dies_unused(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = put_file_for(f, "used", 0, 1000);

	assert_false(has_place(cache, "k"));
	terrace_cache_close(cache);
}

static bool write_elsewhere(terrace *store, terrace_cache *cache)
{
	(void)store;
	return put_text(cache, "k", "of the child!") == TERRACE_OK;
}

static bool delete_elsewhere(terrace *store, terrace_cache *cache)
{
	(void)store;
	return terrace_delete(cache, TERRACE_KEY("k")) == TERRACE_OK;
}

/* Its file comes back each time: it is whole, and is not asked. */
static void test_file__is_void_with_its_version(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of_files(f, TERRACE_CODEC_NONE);
	terrace_match all = { .kind = TERRACE_MATCH_ALL };
	char path[600], held[600];

	put_file_and_see(cache, "k", "of before");
	hold_file(f, path, held);
	assert_ok(put_text(cache, "k", "of after!"));
	bring_back(path, held);
	assert_false(has_place(cache, "k"));
	assert_gives(cache, "k", "of after!");
	unlink(path);

	hold_file(f, path, held);
	elsewhere(f, write_elsewhere);
	bring_back(path, held);
	assert_gives(cache, "k", "of the child!");
	unlink(path);

	put_file_and_see(cache, "k", "deleted");
	hold_file(f, path, held);
	elsewhere(f, delete_elsewhere);
	bring_back(path, held);
	assert_misses(cache, "k");
	unlink(path);

	put_file_and_see(cache, "k", "invalidated");
	hold_file(f, path, held);
	assert_ok(terrace_invalidate(cache, &all, NULL));
	bring_back(path, held);
	assert_misses(cache, "k");
	unlink(path);

	put_file_and_see(cache, "k", "cleared");
	hold_file(f, path, held);
	assert_ok(terrace_clear(cache, 0, NULL));
	bring_back(path, held);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static bool clear_files(terrace *store, terrace_cache *cache)
{
	(void)store;
	return terrace_clear(cache, TERRACE_L3, NULL) == TERRACE_OK;
}

static void test_file__is_void_when_another_process_clears_its_tier(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of_files(f, TERRACE_CODEC_NONE);
	char path[600], held[600];

	put_file_and_see(cache, "k", "in l3");
	hold_file(f, path, held);
	elsewhere(f, clear_files);
	bring_back(path, held);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void test_file__is_void_in_another_database(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of_files(f, TERRACE_CODEC_NONE);
	struct disk *disk = f->store->disk;
	struct connection *reader;

	put_file_and_see(cache, "k", "of this one");
	reader = terrace__reader_take(disk);
	assert_non_null(reader);
	terrace__reader_give(disk, reader);
	reader->generation++;
	atomic_fetch_add(&disk->shared->generation, 1);
	assert_false(has_place(cache, "k"));
	reader->generation--;
	atomic_fetch_sub(&disk->shared->generation, 1);
	assert_true(has_file_alone(cache, "k"));
	terrace_cache_close(cache);
}

static void test_file__is_forgotten_with_an_evicted_row(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of_files(f, TERRACE_CODEC_NONE);
	char path[600], held[600];

	put_file_and_see(cache, "k", "evicted");
	hold_file(f, path, held);
	assert_true(evict_one(f->store, cache));
	bring_back(path, held);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

/* That one removes the file, and moves no version. */
static void test_file__is_a_miss_when_another_process_evicts_it(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of_files(f, TERRACE_CODEC_NONE);
	terrace_stats stats = TERRACE_STATS_INIT;

	put_file_and_see(cache, "k", "evicted");
	elsewhere(f, evict_one);
	assert_int_equal(fixture_files(f), 0);
	assert_misses(cache, "k");
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_int_equal(stats.damaged, 0);
	terrace_cache_close(cache);
}

/* Who invalidates by tag what was evicted finds no row of it; and its file has come back. */
static void test_file__is_void_when_what_another_process_evicted_is_invalidated(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of_files(f, TERRACE_CODEC_NONE);
	char path[600], held[600];

	put_file_and_see(cache, "k", "evicted");
	hold_file(f, path, held);
	elsewhere(f, evict_and_invalidate);
	bring_back(path, held);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void assert_damaged(terrace_cache *cache, const char *key, uint64_t times)
{
	terrace_stats stats = TERRACE_STATS_INIT;

	assert_false(has_place(cache, key));
	assert_misses(cache, key);
	assert_misses(cache, key);
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_int_equal(stats.damaged, times);
}

static void test_file__that_is_gone_is_a_miss(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of_files(f, TERRACE_CODEC_NONE);
	char path[600];

	put_file_and_see(cache, "k", "in a file");
	fixture_file(f, path);
	assert_int_equal(unlink(path), 0);
	assert_damaged(cache, "k", 1);
	assert_ok(put_text(cache, "k", "in another"));
	assert_gives(cache, "k", "in another");
	terrace_cache_close(cache);
}

/* A file is whole, and of that key and size, but is not the one that was seen. */
static void test_file__in_the_place_of_another_is_not_taken_for_it(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of_files(f, TERRACE_CODEC_NONE);
	terrace_put_options options = TERRACE_PUT_INIT;
	char path[600], held[600];

	put_file_and_see(cache, "k", "of before");
	hold_file(f, path, held);
	put_file_and_see(cache, "k", "of after!");
	fixture_file(f, path);
	bring_back(path, held);
	assert_damaged(cache, "k", 1);

	/* Of the same value, put earlier: it says that it dies. */
	options.ttl_ms = 1000;
	assert_ok(terrace_put(cache, TERRACE_KEY("k"), TERRACE_KEY("same"), &options));
	hold_file(f, path, held);
	put_file_and_see(cache, "k", "same");
	fixture_file(f, path);
	bring_back(path, held);
	assert_false(has_place(cache, "k"));
	assert_gives(cache, "k", "same");

	/* Of another key. */
	assert_ok(terrace_clear(cache, 0, NULL));
	put_file_and_see(cache, "j", "of before");
	hold_file(f, path, held);
	assert_ok(terrace_delete(cache, TERRACE_KEY("j")));
	put_file_and_see(cache, "k", "of before");
	fixture_file(f, path);
	bring_back(path, held);
	assert_false(has_place(cache, "k"));
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static off_t file_size(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_size;
}

static void append_byte(const char *path)
{
	int fd = open(path, O_WRONLY | O_APPEND);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, "", 1), 1);
	close(fd);
}

/* Bits of the file in turn, and its length: what is given is right, or nothing. */
static void test_file__that_is_damaged_gives_nothing(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_LEN(layouts); i++) {
		terrace_cache *cache = cache_of_files(f, layouts[i].codec);
		const terrace_slice name = terrace_str(layouts[i].name);
		terrace_slice text = text_of(layouts[i].size, 'v');
		uint64_t damaged = i;
		terrace_value *value;
		char path[600];
		off_t size;

		assert_ok(terrace_put(cache, name, text, NULL));
		assert_ok(terrace_get(cache, name, &value));
		terrace_release(value);
		fixture_file(f, path);
		size = file_size(path);
		for (off_t at = 0; at < size; at += size < 700 ? 1 : 7) {
			flip_bit(path, at, (int)(at % 8));
			assert_false(has_place(cache, layouts[i].name));
			flip_bit(path, at, (int)(at % 8));
		}
		assert_true(has_file_alone(cache, layouts[i].name));
		append_byte(path);
		assert_false(has_place(cache, layouts[i].name));
		assert_int_equal(truncate(path, size), 0);
		assert_true(has_file_alone(cache, layouts[i].name));
		assert_int_equal(truncate(path, size - 1), 0);
		assert_damaged(cache, layouts[i].name, damaged + 1);
		terrace_cache_close(cache);
	}
}

/* --- the log -------------------------------------------------------------------------------- */

/* Whatever lies there next, row for row of the same size, is not the row that was seen there. */
static void test_log__that_begins_anew_does_not_give_what_lies_there(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	char key[24], text[24];

	for (int i = 0; i < 60; i++) {
		snprintf(key, sizeof key, "seen-%03d", i);
		snprintf(text, sizeof text, "value %03d", i);
		put_and_see(f, cache, key, text);
	}
	assert_true(f->store->disk_ops->checkpoint(f->store->disk, CHECKPOINT_NOW));
	for (int i = 0; i < 300; i++) {
		snprintf(key, sizeof key, "next-%03d", i);
		snprintf(text, sizeof text, "other %03d", i);
		assert_ok(put_text(cache, key, text));
		forget_pages(f);
		assert_gives(cache, key, text); /* it waits no longer */
		if (i % 7 == 0) /* other pages, so that the rows' come where others were */
			assert_ok(terrace_touch(cache, terrace_str(key), TERRACE_TTL_FOREVER));
	}
	for (int i = 0; i < 60; i++) {
		snprintf(key, sizeof key, "seen-%03d", i);
		snprintf(text, sizeof text, "value %03d", i);
		assert_gives(cache, key, text);
	}
	terrace_cache_close(cache);
}

/* What SQLite's memory did not hold of a transaction lies in the log, and never was. */
static void test_log__does_not_give_what_was_taken_back(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_on(f, TERRACE_L2);
	static char large[2000];
	char key[24];

	put_and_see(f, cache, "k", "of before");
	assert_ok(terrace_begin(f->store, 0));
	assert_ok(put_text(cache, "k", "of after!"));
	for (int i = 0; i < 4000; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(
		    terrace_put(cache, terrace_str(key), terrace_bytes(large, sizeof large), NULL));
	}
	assert_gives(cache, "k", "of after!");
	assert_false(has_place(cache, "k"));
	terrace_rollback(f->store);
	assert_gives(cache, "k", "of before");
	settle(f);
	assert_gives(cache, "k", "of before");
	terrace_cache_close(cache);
}

#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest rows[] = {
		WITH_STORE(test_place__is_found_for_rows_of_every_size),
		WITH_STORE(test_place__is_void_when_the_key_is_put_again),
		WITH_STORE(test_place__is_void_when_another_process_writes),
		WITH_STORE(test_place__is_void_when_its_key_goes),
		WITH_STORE(test_place__is_forgotten_with_an_evicted_row),
		WITH_STORE(test_place__is_void_when_what_another_process_evicted_is_invalidated),
		WITH_STORE(test_place__is_void_when_another_process_clears_its_tier),
		WITH_STORE(test_place__is_forgotten_when_its_source_has_changed),
		WITH_STORE(test_place__is_not_kept_of_what_dies_unused),
		WITH_STORE(test_place__does_not_outlive_its_time),
		WITH_STORE(test_place__of_damaged_bytes_gives_nothing),
	};
	const struct CMUnitTest beside[] = {
		WITH_STORE(test_beside__rows_are_seen_with_the_one_that_is_asked_for),
		WITH_STORE(test_beside__a_row_of_a_marked_version_is_not),
		WITH_STORE(test_beside__rows_of_what_was_read_with_locks_are_not),
		WITH_STORE(test_beside__what_dies_unused_is_not_seen),
		WITH_STORE(test_beside__what_was_asked_for_keeps_its_place),
	};
	const struct CMUnitTest logs[] = {
		WITH_STORE(test_beside__rows_in_the_log_are_not_seen),
		WITH_STORE(test_log__that_begins_anew_does_not_give_what_lies_there),
		WITH_STORE(test_log__does_not_give_what_was_taken_back),
	};
	const struct CMUnitTest files[] = {
		WITH_STORE(test_file__says_what_its_row_does),
		WITH_STORE(test_file__is_not_given_for_another_key_with_its_hash),
		WITH_STORE(test_file__that_was_touched_does_not_do_without_its_row),
		WITH_STORE(test_file__does_not_outlive_its_time),
		WITH_STORE(test_file__is_not_read_alone_where_it_dies_unused),
		WITH_STORE(test_file__is_void_with_its_version),
		WITH_STORE(test_file__is_void_when_another_process_clears_its_tier),
		WITH_STORE(test_file__is_void_in_another_database),
		WITH_STORE(test_file__is_forgotten_with_an_evicted_row),
		WITH_STORE(test_file__is_a_miss_when_another_process_evicts_it),
		WITH_STORE(test_file__is_void_when_what_another_process_evicted_is_invalidated),
		WITH_STORE(test_file__that_is_gone_is_a_miss),
		WITH_STORE(test_file__in_the_place_of_another_is_not_taken_for_it),
		WITH_STORE(test_file__that_is_damaged_gives_nothing),
	};

	return cmocka_run_group_tests_name("rows", rows, NULL, NULL) |
	       cmocka_run_group_tests_name("rows beside", beside, NULL, NULL) |
	       cmocka_run_group_tests_name("files", files, NULL, NULL) |
	       cmocka_run_group_tests_name("rows in the log", rows, leave_in_log, NULL) |
	       cmocka_run_group_tests_name("the log", logs, leave_in_log, NULL);
}
