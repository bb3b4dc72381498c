/*
 * Keys with a prefix are found by an index that is made for who looks: it says what a
 * look at every row says, in the same order, whatever came and went meanwhile.
 */
#include "support/support.h"

#include "core/store.h"
#include "tiers/sqlite/connection.h"

#include <sqlite3.h>

/* Each look names some of the rows that it passes by, if they are many; so many name half of them. */
enum { ROWS = 6000, GROUPS = 50, BATCH = 100, LOOKS = 8 };

static terrace_match prefix(const char *text)
{
	return terrace_match_text(TERRACE_MATCH_PREFIX, text);
}

static void name_of(int i, char ret[32])
{
	snprintf(ret, 32, "g%02d/%d", i % GROUPS, i);
}

static void fill(terrace_cache *cache, int from, int count)
{
	char keys[BATCH][32];
	terrace_item items[BATCH];

	for (int i = 0; i < count; i++) {
		name_of(from + i, keys[i % BATCH]);
		items[i % BATCH] = (terrace_item){ terrace_str(keys[i % BATCH]), TERRACE_KEY("v") };
		if (i % BATCH == BATCH - 1)
			assert_ok(terrace_put_many(cache, items, BATCH, NULL));
	}
}

/* How many keys match; without looking at which. */
static int look(terrace_cache *cache, const char *text)
{
	terrace_match match = prefix(text);
	terrace_keys *keys;
	terrace_slice key;
	int count = 0;

	assert_ok(terrace_keys_open(cache, &match, &keys));
	while (terrace_keys_next(keys, &key) == TERRACE_OK)
		count++;
	terrace_keys_close(keys);
	return count;
}

static struct disk_names names_of(terrace_cache *cache, const terrace_match *match)
{
	struct disk_names names;

	cache->store->disk_ops->names(cache->store->disk, cache->number, match, &names);
	return names;
}

static uint64_t named_rows(terrace_cache *cache)
{
	terrace_match match = prefix("g00/");
	struct disk_names names = names_of(cache, &match);
	uint64_t upto = names.upto;

	terrace__buf_done(&names.ids);
	return upto ? upto - ((uint64_t)cache->number << DISK_ID_SHIFT) : 0;
}

static int64_t ask(struct fixture *f, const char *sql)
{
	sqlite3_stmt *row;
	sqlite3 *db;
	int64_t ret;

	assert_int_equal(sqlite3_open(scratch_path(&f->scratch, "store/v2/db-1"), &db), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &row, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(row), SQLITE_ROW);
	ret = sqlite3_column_int64(row, 0);
	sqlite3_finalize(row);
	sqlite3_close(db);
	return ret;
}

static terrace_cache *on_disk(struct fixture *f, const char *name)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.tiers = TERRACE_L2;
	return fixture_rows(f, name, &policy);
}

static terrace_cache *rows_without_names(struct fixture *f, const char *name)
{
	terrace_cache *cache = on_disk(f, name);

	fill(cache, 0, ROWS);
	return cache;
}

static terrace_cache *rows_with_names(struct fixture *f)
{
	terrace_cache *cache = rows_without_names(f, "a");

	for (int i = 0; i < LOOKS; i++)
		assert_int_equal(look(cache, "g07/"), ROWS / GROUPS);
	return cache;
}

/* --- what a look costs ----------------------------------------------------------------- */

static bool ignore(void *ctx, const struct tier_row *row)
{
	(void)row;
	++*(int *)ctx;
	return true;
}

static void test_names__a_look_gets_shorter(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_with_names(f);
	terrace_match match = prefix("g07/");
	struct disk_names names = names_of(cache, &match);
	struct disk_where where = {
		.kind = DISK_MATCHING, .cache = cache->number, .match = &match, .names = &names
	};
	int found = 0;

	assert_int_equal(names.ids.size / sizeof(uint64_t),
	                 (named_rows(cache) + GROUPS - 8) / GROUPS);
	assert_ok(cache->store->disk_ops->select(cache->store->disk, &where, ignore, &found));
	assert_int_equal(found, ROWS / GROUPS);
	assert_int_equal(names.passed, ROWS - named_rows(cache));
	assert_in_range(names.passed, 1, ROWS / 2);
	terrace__buf_done(&names.ids);
	terrace_cache_close(cache);
}

/* Of the rows that it passes by it names an eighth, in batches that are written as a whole. */
static void test_names__the_first_look_names_an_eighth(void **state)
{
	enum { NAMED_AT_ONCE = 128, BATCHES = (ROWS / 8 + NAMED_AT_ONCE - 1) / NAMED_AT_ONCE };
	struct fixture *f = *state;
	terrace_cache *cache = rows_without_names(f, "a");

	assert_int_equal(look(cache, "g07/"), ROWS / GROUPS);
	assert_int_equal(ask(f, "SELECT count(*) FROM name"), BATCHES * NAMED_AT_ONCE);
	terrace_cache_close(cache);
}

/* An iterator may be closed anywhere: by a child that has inherited it, and behind its cache. */
static void test_names__closing_an_iterator_writes_nothing(void **state)
{
	struct fixture *f = *state;
	terrace_match match = prefix("g07/");
	terrace_cache *cache = rows_without_names(f, "a");
	terrace_keys *keys;
	terrace_slice key;
	uint32_t turns;

	assert_ok(terrace_keys_open(cache, &match, &keys));
	for (int i = 0; i < ROWS / GROUPS; i++)
		assert_ok(terrace_keys_next(keys, &key));
	turns = atomic_load(&f->store->shared->writer_turn);
	terrace_cache_close(cache);
	terrace_keys_close(keys);
	assert_int_equal(atomic_load(&f->store->shared->writer_turn), turns);
	assert_int_equal(ask(f, "SELECT count(*) FROM name"), 0);
}

/* Where too many match for names to be of use, those with names ask for none either. */
static void test_names__a_broad_look_writes_nothing_when_all_have_names(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_with_names(f);
	uint32_t turns;

	for (int i = 0; i < 8 * LOOKS; i++)
		look(cache, "g07/");
	turns = atomic_load(&f->store->shared->writer_turn);
	assert_int_equal(look(cache, "g"), ROWS);
	assert_int_equal(atomic_load(&f->store->shared->writer_turn), turns);
	terrace_cache_close(cache);
}

/* Whose keys nobody looks for pays nothing. */
static void test_names__are_given_to_who_looks_alone(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_without_names(f, "a");

	assert_ok(terrace_invalidate(cache, NULL, NULL));
	fill(cache, 0, ROWS);
	assert_int_equal(ask(f, "SELECT count(*) FROM name"), 0);
	assert_int_equal(look(cache, ""), ROWS); /* every key begins so */
	assert_int_equal(ask(f, "SELECT count(*) FROM name"), 0);
	terrace_cache_close(cache);
}

/* --- that it is right -------------------------------------------------------------------- */

/* A new row never takes the place in the order of one that had a name and went. */
static void test_names__a_new_row_is_found_where_named_ones_went(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache;
	uint64_t count;
	char key[32];

	cache = rows_with_names(f);
	for (int i = 0; i < ROWS; i++) {
		name_of(i, key);
		assert_ok(terrace_delete(cache, terrace_str(key)));
	}
	assert_int_equal(ask(f, "SELECT count(*) FROM name"), 0);
	assert_int_equal(look(cache, "g07/"), 0);
	assert_ok(put_text(cache, "g07/new", "v"));
	assert_int_equal(look(cache, "g07/"), 1);
	assert_ok(terrace_invalidate(
	    cache, &(terrace_match){ TERRACE_MATCH_PREFIX, terrace_str("g07/") }, &count));
	assert_int_equal(count, 1);
	assert_misses(cache, "g07/new");
	terrace_cache_close(cache);
}

/* Keys that differ behind what a name holds, and such as no text is behind. */
static void test_names__long_keys_and_the_last_bytes(void **state)
{
	struct fixture *f = *state;
	char text[400], high[4];
	terrace_match match = { TERRACE_MATCH_PREFIX, { high, 2 } };
	terrace_cache *cache = on_disk(f, "a");
	terrace_keys *keys;
	terrace_slice key;

	memset(text, 'l', sizeof text);
	memset(high, 0xff, sizeof high);
	for (size_t size = 240; size < 280; size++)
		assert_ok(terrace_put(cache, terrace_bytes(text, size), TERRACE_KEY("v"), NULL));
	for (size_t size = 1; size <= sizeof high; size++)
		assert_ok(terrace_put(cache, terrace_bytes(high, size), TERRACE_KEY("v"), NULL));
	fill(cache, 0, ROWS);
	for (int i = 0; i < LOOKS; i++)
		look(cache, "g07/");
	assert_true(named_rows(cache) > 44);
	for (size_t size = 235; size < 285; size++) {
		text[size] = '\0';
		assert_int_equal(look(cache, text), size < 240 ? 40 : size < 280 ? 280 - size : 0);
		text[size] = 'l';
	}
	assert_ok(terrace_keys_open(cache, &match, &keys));
	for (size_t size = 2; size <= sizeof high; size++) {
		assert_ok(terrace_keys_next(keys, &key));
		assert_int_equal(key.size, size);
	}
	assert_status(terrace_keys_next(keys, &key), TERRACE_MISS);
	terrace_keys_close(keys);
	terrace_cache_close(cache);
}

/* --- beside a model ----------------------------------------------------------------------- */

enum { MOST = 3 * ROWS, TURNS = 12 };

/* Which keys there are, in order of arrival. */
struct model {
	int rows[MOST];
	int count;
	int next; /* a key that never was */
};

static void model_remove(struct model *model, int at)
{
	memmove(&model->rows[at], &model->rows[at + 1],
	        (size_t)(model->count - at - 1) * sizeof *model->rows);
	model->count--;
}

static void change(struct rng *rng, terrace_cache *cache, struct model *model)
{
	int at = (int)rng_below(rng, (uint64_t)model->count), was = model->rows[at];
	char key[32];

	name_of(was, key);
	switch (rng_below(rng, 3)) {
	case 0: /* it goes, and may come back behind the others */
		assert_ok(terrace_delete(cache, terrace_str(key)));
		model_remove(model, at);
		if (rng_below(rng, 2))
			return;
		model->rows[model->count++] = was;
		break;
	case 1: /* in its place */
		break;
	case 2:
		model->rows[model->count++] = model->next;
		name_of(model->next++, key);
		break;
	}
	assert_ok(put_text(cache, key, "w"));
}

/* Few enough for names to be of use, too many, and a pattern that begins like a prefix. */
static const struct question {
	terrace_match_kind kind;
	const char *text;
	char last; /* what else the pattern says */
} questions[] = {
	{ TERRACE_MATCH_PREFIX, "g07/", 0 },
	{ TERRACE_MATCH_PREFIX, "g3", 0 },
	{ TERRACE_MATCH_PREFIX, "g430", 0 },
	{ TERRACE_MATCH_GLOB, "g43/*5", '5' },
};

static bool fits(const struct question *question, const char *key)
{
	return strncmp(key, question->text, strcspn(question->text, "*")) == 0 &&
	       (!question->last || key[strlen(key) - 1] == question->last);
}

static void assert_lists(terrace_cache *cache, const struct model *model,
                         const struct question *question, bool newest)
{
	terrace_match match = terrace_match_text(question->kind, question->text);
	terrace_keys *keys;
	terrace_slice key;
	char expected[32];

	assert_ok(newest ? terrace_keys_open_newest(cache, &match, &keys) :
	                   terrace_keys_open(cache, &match, &keys));
	for (int i = 0; i < model->count; i++) {
		name_of(model->rows[newest ? model->count - 1 - i : i], expected);
		if (!fits(question, expected))
			continue;
		assert_ok(terrace_keys_next(keys, &key));
		assert_int_equal(key.size, strlen(expected));
		assert_memory_equal(key.data, expected, key.size);
	}
	assert_status(terrace_keys_next(keys, &key), TERRACE_MISS);
	terrace_keys_close(keys);
}

static void assert_all_lists(terrace_cache *cache, const struct model *model)
{
	for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
		assert_lists(cache, model, &questions[i], false);
		assert_lists(cache, model, &questions[i], true);
	}
}

/* Every row up to there has its name, and no row that went. */
static void assert_names(struct fixture *f)
{
	assert_int_equal(ask(f, "SELECT count(*) FROM name JOIN entry ON id = name.entry"),
	                 ask(f, "SELECT count(*) FROM name"));
	assert_int_equal(
	    ask(f, "SELECT count(*) FROM entry JOIN named USING(cache) WHERE id <= upto"),
	    ask(f, "SELECT count(*) FROM name"));
}

static void forget(terrace_cache *cache, struct model *model, const struct question *question)
{
	terrace_match match = terrace_match_text(question->kind, question->text);
	uint64_t count, gone = 0;
	char key[32];

	for (int i = model->count - 1; i >= 0; i--) {
		name_of(model->rows[i], key);
		if (fits(question, key)) {
			model_remove(model, i);
			gone++;
		}
	}
	assert_ok(terrace_invalidate(cache, &match, &count));
	assert_int_equal(count, gone);
}

static void test_names__say_what_the_rows_say(void **state)
{
	struct fixture *f = *state;
	struct rng rng = { test_seed() };
	struct model *model = calloc(1, sizeof *model);
	terrace_cache *cache, *beside;

	assert_non_null(model);
	beside = rows_without_names(f, "beside");
	look(beside, "g07/");
	cache = rows_without_names(f, "a");
	for (model->next = 0; model->next < ROWS; model->next++)
		model->rows[model->count++] = model->next;
	for (int turn = 0; turn < TURNS; turn++) {
		for (int i = 0; i < ROWS / TURNS; i++)
			change(&rng, cache, model);
		assert_all_lists(cache, model);
		assert_names(f);
		if (turn % 4 == 3)
			forget(cache, model, &questions[rng_below(&rng, 4)]);
	}
	assert_true(named_rows(cache) > 0);
	assert_int_equal(look(beside, "g07/"), ROWS / GROUPS);
	free(model);
	terrace_cache_close(beside);
	terrace_cache_close(cache);
}

/* --- who may not write --------------------------------------------------------------------- */

static void test_names__none_are_given_where_nothing_may_be_written(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_without_names(f, "a");

	f->store->read_only = true; /* as of a folder that is somebody else's */
	assert_int_equal(look(cache, "g07/"), ROWS / GROUPS);
	assert_int_equal(ask(f, "SELECT count(*) FROM name"), 0);
	f->store->read_only = false;
	terrace_cache_close(cache);
}

/* What it has put itself is found, and comes to nothing with it. */
static void test_names__within_a_transaction(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = rows_with_names(f);

	assert_ok(terrace_begin(f->store, 0));
	assert_ok(put_text(cache, "g07/mine", "v"));
	assert_ok(terrace_delete(cache, TERRACE_KEY("g07/7")));
	assert_int_equal(look(cache, "g07/"), ROWS / GROUPS);
	assert_ok(put_text(cache, "g07/more", "v"));
	assert_int_equal(look(cache, "g07/"), ROWS / GROUPS + 1);
	terrace_rollback(f->store);
	assert_int_equal(look(cache, "g07/"), ROWS / GROUPS);
	assert_names(f);
	terrace_cache_close(cache);
}

int main(void)
{
#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		WITH_STORE(test_names__a_look_gets_shorter),
		WITH_STORE(test_names__the_first_look_names_an_eighth),
		WITH_STORE(test_names__closing_an_iterator_writes_nothing),
		WITH_STORE(test_names__a_broad_look_writes_nothing_when_all_have_names),
		WITH_STORE(test_names__are_given_to_who_looks_alone),
		WITH_STORE(test_names__a_new_row_is_found_where_named_ones_went),
		WITH_STORE(test_names__long_keys_and_the_last_bytes),
		WITH_STORE(test_names__say_what_the_rows_say),
		WITH_STORE(test_names__none_are_given_where_nothing_may_be_written),
		WITH_STORE(test_names__within_a_transaction),
	};

	return cmocka_run_group_tests_name("names", tests, NULL, NULL);
}
