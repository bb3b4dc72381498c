/*
 * What every tier must do, and the stack of all three: the same cases run
 * unchanged on L1, on L2 (rows), on L3 (files) and on a store with all of them.
 */
#include "support/support.h"

#include "core/tiers.h"
#include "tiers/extra.h"
#include "util/hash.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

/* One tier under test, behind the few verbs that all of them have. */
struct tier {
	const char *name;
	void (*open)(struct tier *t);
	void (*close)(struct tier *t);
	/* tag may be NULL */
	int (*put)(struct tier *t, const char *key, terrace_slice value, const char *tag);
	/* A copy, to be freed. */
	int (*get)(struct tier *t, const char *key, struct buf *ret);
	int (*remove)(struct tier *t, const char *key);
	/* The keys that match, one a line, sorted. */
	void (*list)(struct tier *t, const terrace_match *match, char *ret, size_t size);
	void (*usage)(struct tier *t, struct tier_usage *ret);
	/* Make room for so many entries. */
	void (*evict)(struct tier *t, uint64_t entries);

	struct scratch scratch;
	const struct tier_ops *ops;
	const struct disk_ops *disk_ops;
	void *tier;
	uint64_t seq;
	struct disk_shared shared;
	int dir_fd;
	bool files;
	struct fixture fixture;
	terrace_cache *cache;
};

/* --- L1, L2, L3 on their tables of functions ------------------------------------------------------ */

enum { CACHE = 3, OTHERS = 64 };

static const char *hashed_as; /* NULL: keys have their own hashes */

static struct tier_key key_of(const char *key)
{
	const char *text = hashed_as ? hashed_as : key;
	uint64_t hash = terrace__hash64(text, strlen(text), CACHE);

	return (struct tier_key){ .key = terrace_str(key), .hash = hash, .cache = CACHE };
}

static void open_memory(struct tier *t)
{
	assert_ok(terrace__tiers_memory("hits", true, false, 1, NULL, &t->ops, &t->tier));
}

static void close_memory(struct tier *t)
{
	t->ops->close(t->tier);
}

static int commit(struct tier *t)
{
	uint64_t seq;

	return t->disk_ops->commit(t->tier, &seq);
}

static void open_disk(struct tier *t)
{
	scratch_make(&t->scratch);
	t->dir_fd = open(t->scratch.path, O_DIRECTORY | O_RDONLY);
	t->shared = (struct disk_shared){ .generation = 1 };
	assert_ok(terrace__tiers_disk(t->dir_fd, t->scratch.path, &t->shared, false, 1 << 20, 0,
	                              &t->disk_ops, &t->tier));
	assert_status(t->disk_ops->look(t->tier), TERRACE_MISS);
	assert_ok(t->disk_ops->create(t->tier));
	assert_ok(t->disk_ops->look(t->tier));
	t->ops = &t->disk_ops->tier;
	assert_ok(t->disk_ops->begin(t->tier, t->seq));
	assert_ok(t->disk_ops->cache_add(t->tier, CACHE, "tested"));
	assert_ok(commit(t));
}

static void open_files(struct tier *t)
{
	open_disk(t);
	t->files = true;
}

static void close_disk(struct tier *t)
{
	t->ops->close(t->tier);
	close(t->dir_fd);
	scratch_remove(&t->scratch);
}

static struct entry *entry_of(const struct tier_key *key, terrace_slice value, const char *tag)
{
	struct buf extra = { 0 };
	struct entry *entry;

	if (tag) {
		terrace__extra_counts(&extra, 1, 0);
		terrace__extra_tag(&extra, terrace_str(tag));
	}
	entry = terrace__entry_new(key->key, value.size, terrace_bytes(extra.data, extra.size));
	assert_non_null(entry);
	entry->hash = key->hash;
	if (value.size)
		memcpy(entry_value(entry), value.data, value.size);
	terrace__buf_done(&extra);
	return entry;
}

static int tier_put(struct tier *t, const char *key, terrace_slice value, const char *tag)
{
	struct tier_put put = { .key = key_of(key) };
	struct record record = { .codec = TERRACE_CODEC_NONE, .expires = INT64_MAX };
	struct buf head = { 0 };
	int fd = -1, rc;

	put.entry = entry_of(&put.key, value, tag);
	put.record = &record;
	put.payload = value;
	record.seq = ++t->seq;
	record.cache = CACHE;
	record.stored = (int64_t)t->seq;
	record.value_size = record.payload_size = value.size;
	record.key = put.key.key;
	record.extra = entry_extra(put.entry);
	terrace__record_sum(value, record.payload_sum);
	if (t->files) {
		put.file = t->seq;
		terrace__record_write(&record, &head);
		assert_ok(t->disk_ops->file_write(t->tier, put.file,
		                                  terrace_bytes(head.data, head.size), value, &fd));
	}
	if (t->disk_ops)
		assert_ok(t->disk_ops->begin(t->tier, t->seq));
	rc = t->ops->put(t->tier, &put);
	if (t->disk_ops)
		assert_ok(commit(t));
	if (fd >= 0)
		close(fd);
	terrace__buf_done(&head);
	entry_unref(put.entry);
	return rc;
}

static int tier_get(struct tier *t, const char *key, struct buf *ret)
{
	struct tier_key hashed = key_of(key);
	struct entry *entry;
	int rc = t->ops->get(t->tier, &hashed, true, &entry);

	*ret = (struct buf){ 0 };
	if (rc != TERRACE_OK)
		return rc;
	terrace__buf_append(ret, entry_value(entry), (size_t)entry->value_size);
	entry_unref(entry);
	return rc;
}

static int tier_remove(struct tier *t, const char *key)
{
	struct tier_key hashed = key_of(key);
	int rc;

	if (t->disk_ops)
		assert_ok(t->disk_ops->begin(t->tier, t->seq));
	rc = t->ops->remove(t->tier, &hashed, NULL);
	if (t->disk_ops)
		assert_ok(commit(t));
	return rc;
}

struct lines {
	char *text[64];
	size_t count;
};

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void join_lines(struct lines *lines, char *ret, size_t size)
{
	size_t at = 0;

	qsort(lines->text, lines->count, sizeof *lines->text, by_text);
	ret[0] = '\0';
	for (size_t i = 0; i < lines->count; i++) {
		at += (size_t)snprintf(ret + at, size - at, "%s\n", lines->text[i]);
		free(lines->text[i]);
	}
}

static bool take_line(void *ctx, const struct tier_row *row)
{
	struct lines *lines = ctx;

	lines->text[lines->count++] = strndup(row->key.data, row->key.size);
	return true;
}

static void tier_list(struct tier *t, const terrace_match *match, char *ret, size_t size)
{
	struct lines lines = { .count = 0 };

	assert_ok(t->ops->each(t->tier, CACHE, match, take_line, &lines));
	join_lines(&lines, ret, size);
}

static void tier_usage(struct tier *t, struct tier_usage *ret)
{
	assert_ok(t->ops->usage(t->tier, CACHE,
	                        t->files    ? TERRACE_L3 :
	                        t->disk_ops ? TERRACE_L2 :
	                                      TERRACE_L1,
	                        ret));
}

static void tier_evict(struct tier *t, uint64_t entries)
{
	struct tier_evicted evicted = { 0 };

	assert_ok(t->ops->evict(t->tier, CACHE, 0, entries, NULL, &evicted));
	assert_int_equal(evicted.entries_l1, entries);
	entry_unlinked_all(evicted.chain);
}

/* Its caller removes the rows that it names. */
static void disk_evict(struct tier *t, uint64_t entries)
{
	assert_ok(t->disk_ops->begin(t->tier, t->seq));
	for (uint64_t i = 0; i < entries; i++) {
		struct tier_row row;
		size_t found;

		assert_ok(t->disk_ops->victims(t->tier, CACHE, 1000000, &row, 1, &found));
		assert_int_equal(found, 1);
		assert_ok(t->disk_ops->remove_row(t->tier, &row, NULL));
	}
	assert_ok(commit(t));
}

/* --- the stack, on the public headers ---------------------------------------------------------------- */

static void open_stack(struct tier *t)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	fixture_open(&t->fixture);
	policy.inline_bytes = 1000; /* so that the cases use rows and files */
	t->cache = fixture_cache(&t->fixture, "tested", &policy);
}

static void close_stack(struct tier *t)
{
	terrace_cache_close(t->cache);
	fixture_close(&t->fixture);
}

static int stack_put(struct tier *t, const char *key, terrace_slice value, const char *tag)
{
	terrace_put_options options = TERRACE_PUT_INIT;

	options.tags = &tag;
	options.tag_count = tag != NULL;
	atomic_fetch_add(&t->fixture.clock.now, 1);
	return terrace_put(t->cache, terrace_str(key), value, &options);
}

static int stack_get(struct tier *t, const char *key, struct buf *ret)
{
	terrace_value *value;
	int rc = terrace_get(t->cache, terrace_str(key), &value);

	*ret = (struct buf){ 0 };
	if (rc != TERRACE_OK)
		return rc;
	terrace__buf_append(ret, terrace_data(value), terrace_size(value));
	terrace_release(value);
	return rc;
}

static int stack_remove(struct tier *t, const char *key)
{
	return terrace_delete(t->cache, terrace_str(key));
}

static void stack_list(struct tier *t, const terrace_match *match, char *ret, size_t size)
{
	struct lines lines = { .count = 0 };
	terrace_keys *keys;
	terrace_slice key;

	assert_ok(terrace_keys_open(t->cache, match, &keys));
	while (terrace_keys_next(keys, &key) == TERRACE_OK)
		lines.text[lines.count++] = strndup(key.data, key.size);
	terrace_keys_close(keys);
	join_lines(&lines, ret, size);
}

static void stack_usage(struct tier *t, struct tier_usage *ret)
{
	terrace_stats stats = TERRACE_STATS_INIT;

	assert_ok(terrace_cache_stats(t->cache, &stats));
	ret->entries = stats.l2.entries + stats.l3.entries;
	ret->bytes = stats.l2.bytes + stats.l3.bytes;
}

static struct tier tiers[] = {
	{ .name = "l1",
	  .open = open_memory,
	  .close = close_memory,
	  .put = tier_put,
	  .get = tier_get,
	  .remove = tier_remove,
	  .list = tier_list,
	  .usage = tier_usage,
	  .evict = tier_evict },
	{ .name = "l2",
	  .open = open_disk,
	  .close = close_disk,
	  .put = tier_put,
	  .get = tier_get,
	  .remove = tier_remove,
	  .list = tier_list,
	  .usage = tier_usage,
	  .evict = disk_evict },
	{ .name = "l3",
	  .open = open_files,
	  .close = close_disk,
	  .put = tier_put,
	  .get = tier_get,
	  .remove = tier_remove,
	  .list = tier_list,
	  .usage = tier_usage,
	  .evict = disk_evict },
	{ .name = "stack",
	  .open = open_stack,
	  .close = close_stack,
	  .put = stack_put,
	  .get = stack_get,
	  .remove = stack_remove,
	  .list = stack_list,
	  .usage = stack_usage,
	  .evict = NULL },
};

/* --- the cases ------------------------------------------------------------------------------------------ */

#define assert_holds(t, key, value) assert_holds_at((t), (key), (value), __LINE__)
static void assert_holds_at(struct tier *t, const char *key, terrace_slice value, int line)
{
	struct buf got;
	int rc = t->get(t, key, &got);

	assert_status_at(rc, TERRACE_OK, t->name, __FILE__, line);
	if (got.size != value.size ||
	    (value.size && memcmp(got.data, value.data, value.size) != 0)) {
		print_error("%s: %s has other bytes than were put\n", t->name, key);
		_fail(__FILE__, line);
	}
	terrace__buf_done(&got);
}

static void assert_lacks(struct tier *t, const char *key)
{
	struct buf got;

	assert_status(t->get(t, key, &got), TERRACE_MISS);
}

static void case_put_get(struct tier *t)
{
	assert_lacks(t, "a");
	assert_ok(t->put(t, "a", terrace_str("1"), NULL));
	assert_holds(t, "a", terrace_str("1"));
	assert_lacks(t, "b");
	assert_lacks(t, "aa");
	assert_lacks(t, "A");
}

static void assert_lists(struct tier *t, terrace_match_kind kind, const char *text,
                         const char *expected)
{
	terrace_match match = terrace_match_text(kind, text);
	char lines[1024];

	t->list(t, &match, lines, sizeof lines);
	if (strcmp(lines, expected) != 0)
		fail_msg("%s lists \"%s\" for \"%s\", not \"%s\"", t->name, lines, text, expected);
}

/* How many rows the table has, in a database of rows. */
static int rows_of(struct tier *t, const char *table)
{
	char sql[64];
	sqlite3_stmt *row;
	sqlite3 *db;
	int count;

	snprintf(sql, sizeof sql, "SELECT count(*) FROM %s", table);
	assert_int_equal(sqlite3_open(scratch_path(&t->scratch, "db-1"), &db), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &row, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(row), SQLITE_ROW);
	count = sqlite3_column_int(row, 0);
	sqlite3_finalize(row);
	sqlite3_close(db);
	return count;
}

/* Enter the rows into the index of keys, and as many others as make that worth a look. */
static void name_rows(struct tier *t)
{
	size_t count;
	char key[16];

	for (int i = 0; i < OTHERS; i++) {
		snprintf(key, sizeof key, "other %d", i);
		assert_ok(t->put(t, key, terrace_str("x"), NULL));
	}
	assert_ok(t->disk_ops->begin(t->tier, t->seq));
	assert_ok(t->disk_ops->names_add(t->tier, CACHE, 100, &count));
	assert_ok(commit(t));
}

/* The same as assert_lists() of a prefix, by that index. */
static void assert_finds_named(struct tier *t, const char *prefix, const char *expected)
{
	const terrace_match match = terrace_match_text(TERRACE_MATCH_PREFIX, prefix);
	struct lines lines = { .count = 0 };
	struct disk_names names;
	const struct disk_where where = {
		.kind = DISK_MATCHING, .cache = CACHE, .match = &match, .names = &names
	};
	char text[100];

	t->disk_ops->names(t->tier, CACHE, &match, &names);
	assert_true(names.known);
	assert_ok(t->disk_ops->select(t->tier, &where, take_line, &lines));
	terrace__buf_done(&names.ids);
	join_lines(&lines, text, sizeof text);
	assert_string_equal(text, expected);
}

/* Two keys of one hash are rare, and still two keys. */
static void case_collision(struct tier *t)
{
	struct tier_key other = key_of("a");
	struct tier_usage usage;
	struct entry *entry;

	if (!t->ops)
		return; /* the stack of all hashes for itself */
	assert_ok(t->put(t, "a", terrace_str("1"), NULL));
	other.key = terrace_str("b");
	assert_status(t->ops->get(t->tier, &other, true, &entry), TERRACE_MISS);
	if (t->disk_ops)
		assert_ok(t->disk_ops->begin(t->tier, t->seq));
	assert_status(t->ops->remove(t->tier, &other, NULL), TERRACE_MISS);
	if (t->disk_ops)
		assert_ok(commit(t));
	assert_holds(t, "a", terrace_str("1"));
	/* on disk the second takes the place of the first */
	if (t->disk_ops)
		name_rows(t);
	hashed_as = "a";
	assert_ok(t->put(t, "b", terrace_str("2"), NULL));
	assert_holds(t, "b", terrace_str("2"));
	hashed_as = NULL;
	if (t->disk_ops) {
		assert_lacks(t, "a");
		assert_finds_named(t, "a", "");
		assert_finds_named(t, "b", "b\n");
	} else {
		assert_holds(t, "a", terrace_str("1"));
	}
	t->usage(t, &usage);
	assert_int_equal(usage.entries, t->disk_ops ? 1 + OTHERS : 2);
}

static void case_replace(struct tier *t)
{
	static const char *const tags[] = { NULL, "red" };

	for (int i = 0; i < 4; i++) {
		const char *before = tags[i / 2], *after = tags[i % 2];
		struct tier_usage once, again;

		assert_ok(t->put(t, "a", terrace_str("newer"), after));
		t->usage(t, &once);
		assert_ok(t->remove(t, "a"));
		assert_ok(t->put(t, "a", terrace_str("what is older is longer"), before));
		assert_ok(t->put(t, "a", terrace_str("newer"), after));
		t->usage(t, &again);
		assert_holds(t, "a", terrace_str("newer"));
		assert_int_equal(again.entries, 1);
		assert_int_equal(again.bytes, once.bytes);
		assert_lists(t, TERRACE_MATCH_TAG, "red", after ? "a\n" : "");
		assert_ok(t->remove(t, "a"));
		if (t->disk_ops)
			assert_int_equal(rows_of(t, "link"), 0);
	}
}

/* What was in a file is in its row alone. */
static void case_from_file_to_row(struct tier *t)
{
	struct tier_usage usage;

	if (!t->files)
		return;
	assert_ok(t->put(t, "a", terrace_str("older"), NULL));
	t->files = false;
	assert_ok(t->put(t, "a", terrace_str("newer"), NULL));
	t->usage(t, &usage);
	assert_int_equal(usage.entries, 1);
	t->files = true;
	t->usage(t, &usage);
	assert_int_equal(usage.entries, 0);
	assert_int_equal(usage.bytes, 0);
	assert_holds(t, "a", terrace_str("newer"));
}

static void case_any_bytes(struct tier *t)
{
	enum { LARGE = 3 << 20 };
	char *large = malloc(LARGE), all[256];
	struct rng rng = { 7 };

	for (int i = 0; i < 256; i++)
		all[i] = (char)i;
	for (int i = 0; i < LARGE; i++)
		large[i] = (char)rng_next(&rng);
	assert_ok(t->put(t, "empty", terrace_bytes("", 0), NULL));
	assert_ok(t->put(t, "all", terrace_bytes(all, sizeof all), NULL));
	assert_ok(t->put(t, "large", terrace_bytes(large, LARGE), NULL));
	assert_holds(t, "empty", terrace_bytes("", 0));
	assert_holds(t, "all", terrace_bytes(all, sizeof all));
	assert_holds(t, "large", terrace_bytes(large, LARGE));
	/* from large to small and back */
	assert_ok(t->put(t, "large", terrace_str("small"), NULL));
	assert_holds(t, "large", terrace_str("small"));
	assert_ok(t->put(t, "large", terrace_bytes(large, LARGE), NULL));
	assert_holds(t, "large", terrace_bytes(large, LARGE));
	free(large);
}

static void case_remove(struct tier *t)
{
	struct tier_usage usage;

	assert_status(t->remove(t, "a"), TERRACE_MISS);
	assert_ok(t->put(t, "a", terrace_str("1"), "red"));
	assert_ok(t->put(t, "b", terrace_str("2"), "red"));
	assert_ok(t->remove(t, "a"));
	assert_lacks(t, "a");
	assert_holds(t, "b", terrace_str("2"));
	assert_status(t->remove(t, "a"), TERRACE_MISS);
	assert_ok(t->remove(t, "b"));
	t->usage(t, &usage);
	assert_int_equal(usage.entries, 0);
	assert_int_equal(usage.bytes, 0);
}

static void case_list(struct tier *t)
{
	assert_lists(t, TERRACE_MATCH_ALL, "", "");
	assert_ok(t->put(t, "tile:1", terrace_str("x"), "red"));
	assert_ok(t->put(t, "tile:2", terrace_str("x"), "blue"));
	assert_ok(t->put(t, "map:1", terrace_str("x"), "red"));
	assert_ok(t->put(t, "gone", terrace_str("x"), "red"));
	assert_ok(t->remove(t, "gone"));
	assert_lists(t, TERRACE_MATCH_ALL, "", "map:1\ntile:1\ntile:2\n");
	assert_lists(t, TERRACE_MATCH_PREFIX, "tile:", "tile:1\ntile:2\n");
	assert_lists(t, TERRACE_MATCH_PREFIX, "tile:12", "");
	assert_lists(t, TERRACE_MATCH_GLOB, "*:1", "map:1\ntile:1\n");
	assert_lists(t, TERRACE_MATCH_TAG, "red", "map:1\ntile:1\n");
	assert_lists(t, TERRACE_MATCH_TAG, "re", "");
	/* who asks whether the database is damaged is told that it is not */
	assert_false(t->disk_ops && t->disk_ops->malformed(t->tier));
	/* another tag with a new value */
	assert_ok(t->put(t, "map:1", terrace_str("x"), "green"));
	assert_lists(t, TERRACE_MATCH_TAG, "red", "tile:1\n");
	assert_lists(t, TERRACE_MATCH_TAG, "green", "map:1\n");
}

static void case_evict(struct tier *t)
{
	struct tier_usage usage;
	char key[16];
	int left = 0;

	if (!t->evict)
		return;
	for (int i = 0; i < 20; i++) {
		snprintf(key, sizeof key, "key %d", i);
		assert_ok(t->put(t, key, terrace_str("value"), NULL));
	}
	t->evict(t, 5);
	t->usage(t, &usage);
	assert_int_equal(usage.entries, 15);
	for (int i = 0; i < 20; i++) {
		struct buf got;

		snprintf(key, sizeof key, "key %d", i);
		if (t->get(t, key, &got) == TERRACE_OK) {
			left++;
			assert_true(i >= 5); /* the oldest went */
			terrace__buf_done(&got);
		}
	}
	assert_int_equal(left, 15);
}

/* Against a plain array, with few keys so that they meet often. */
static void case_random(struct tier *t)
{
	enum { KEYS = 40, STEPS = 1500 };
	int model[KEYS] = { 0 }, count = 0;
	struct rng rng = { test_seed() };
	struct tier_usage usage;

	for (int step = 1; step <= STEPS; step++) {
		int k = (int)rng_below(&rng, KEYS);
		char key[16], value[2048];

		snprintf(key, sizeof key, "k%d", k);
		memset(value, 'a' + k % 26, sizeof value);
		switch (rng_below(&rng, 4)) {
		case 0:
		case 1:
			model[k] = step;
			snprintf(value, sizeof value, "%d", step);
			value[strlen(value)] = ' ';
			assert_ok(t->put(t, key, terrace_bytes(value, 16 + (size_t)step % 2000),
			                 step % 3 ? "t" : NULL));
			break;
		case 2:
			assert_status(t->remove(t, key), model[k] ? TERRACE_OK : TERRACE_MISS);
			model[k] = 0;
			break;
		case 3:
			if (model[k]) {
				struct buf got;

				assert_ok(t->get(t, key, &got));
				assert_int_equal(atoi((const char *)got.data), model[k]);
				assert_int_equal(got.size, 16 + (size_t)model[k] % 2000);
				terrace__buf_done(&got);
			} else {
				assert_lacks(t, key);
			}
		}
	}
	for (int k = 0; k < KEYS; k++)
		count += model[k] != 0;
	t->usage(t, &usage);
	assert_int_equal(usage.entries, count);
}

/* --- every case on every tier ------------------------------------------------------------------------- */

static const struct {
	const char *name;
	void (*run)(struct tier *t);
} cases[] = {
	{ "put_get__gives_what_was_put", case_put_get },
	{ "get_remove__tell_keys_of_one_hash_apart", case_collision },
	{ "put__replaces_and_charges_once", case_replace },
	{ "put__takes_the_place_of_a_file", case_from_file_to_row },
	{ "put__takes_any_bytes_of_any_size", case_any_bytes },
	{ "remove__removes_that_entry_alone", case_remove },
	{ "list__finds_by_prefix_glob_and_tag", case_list },
	{ "evict__makes_as_much_room_as_was_asked", case_evict },
	{ "random__agrees_with_a_plain_array", case_random },
};

static void run_case(void **state)
{
	struct tier *t = ((void **)*state)[0];
	void (*run)(struct tier * t);

	memcpy(&run, &((void **)*state)[1], sizeof run);
	t->open(t);
	run(t);
	t->close(t);
}

int main(void)
{
	enum { TIERS = sizeof tiers / sizeof *tiers, CASES = sizeof cases / sizeof *cases };
	struct CMUnitTest tests[TIERS * CASES];
	void *states[TIERS * CASES][2];
	char names[TIERS * CASES][80];
	size_t at = 0;

	for (size_t i = 0; i < TIERS; i++) {
		for (size_t k = 0; k < CASES; k++, at++) {
			states[at][0] = &tiers[i];
			memcpy(&states[at][1], &cases[k].run, sizeof(void *));
			snprintf(names[at], sizeof names[at], "%s: test_%s", tiers[i].name,
			         cases[k].name);
			tests[at] = (struct CMUnitTest){ names[at], run_case, NULL, NULL,
				                         states[at] };
		}
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
