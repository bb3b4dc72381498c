/* Invalidations of many keys, and what others do meanwhile. */
#include "support/support.h"

#include "core/store.h"

#include <pthread.h>

static terrace_match prefix(const char *text)
{
	return terrace_match_text(TERRACE_MATCH_PREFIX, text);
}

/* --- between looking for rows and removing them -------------------------------------------------- */

/* Operations on the disk that let something happen once, when rows have been looked for. */
static struct {
	struct disk_ops ops;
	const struct disk_ops *real;
	void (*once)(void);
	terrace_cache *cache;
	terrace_lease *lease;
	terrace_value *part;
} between;

static int select_and_more(void *disk, const struct disk_where *where, tier_visit_fn *visit,
                           void *ctx)
{
	int rc = between.real->select(disk, where, visit, ctx);
	void (*once)(void) = between.once;

	between.once = NULL;
	if (once)
		once();
	return rc;
}

static void happen_between(struct fixture *f, terrace_cache *cache, void (*once)(void))
{
	between.real = f->store->disk_ops;
	between.ops = *between.real;
	between.ops.select = select_and_more;
	between.cache = cache;
	between.once = once;
	f->store->disk_ops = &between.ops;
}

static void let_another_have_the_row(void)
{
	assert_ok(terrace_delete(between.cache, terrace_str("a1")));
	assert_ok(put_text(between.cache, "b1", "old"));
}

/*
 * The last row of a cache is looked at, deleted, and its place taken by another key: that one
 * is not invalidated. If it were, without a word, its copies in memory would be found by nobody.
 */
static void test_invalidation__a_row_that_has_become_anothers_stays(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_rows(f, "a", NULL);
	terrace_match first = prefix("a"), second = prefix("b");
	uint64_t count;

	assert_ok(put_text(cache, "a1", "v"));
	happen_between(f, cache, let_another_have_the_row);
	assert_ok(terrace_invalidate(cache, &first, &count));
	assert_gives(cache, "b1", "old");
	assert_ok(terrace_invalidate(cache, &second, &count));
	assert_misses(cache, "b1");
	assert_int_equal(count, 1);
	f->store->disk_ops = between.real;
	terrace_cache_close(cache);
}

static void begin_to_compute(void)
{
	terrace_value *value;

	assert_status(
	    terrace_lease_begin(between.cache, terrace_str("page"), 0, &between.lease, &value),
	    TERRACE_MISS);
	assert_ok(terrace_get(between.cache, terrace_str("part"), &between.part));
}

/* Who began to compute while a part was still to be had does not store what it made of it. */
static void test_invalidation__outdates_what_is_computed_of_what_still_goes(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_rows(f, "a", NULL);
	terrace_match pages_and_parts = prefix("pa");
	terrace_value *value = NULL;
	uint64_t count;

	assert_ok(put_text(cache, "part", "old"));
	happen_between(f, cache, begin_to_compute);
	assert_ok(terrace_invalidate(cache, &pages_and_parts, &count));
	assert_int_equal(count, 1);
	assert_ok(terrace_lease_put(
	    between.lease, terrace_bytes(terrace_data(between.part), terrace_size(between.part)),
	    NULL, &value));
	assert_misses(cache, "part");
	assert_misses(cache, "page");
	terrace_release(value);
	terrace_release(between.part);
	f->store->disk_ops = between.real;
	terrace_cache_close(cache);
}

static void compute_at_once(void)
{
	terrace_value *value = NULL;

	begin_to_compute();
	assert_ok(terrace_lease_put(
	    between.lease, terrace_bytes(terrace_data(between.part), terrace_size(between.part)),
	    NULL, &value));
	terrace_release(value);
	terrace_release(between.part);
}

/* Nor does it stay where it was stored, too, before the part went, but behind who looked for rows. */
static void test_invalidation__looks_again_where_somebody_has_put(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_rows(f, "a", NULL);
	terrace_match pages_and_parts = prefix("pa");

	assert_ok(put_text(cache, "part", "old"));
	happen_between(f, cache, compute_at_once);
	assert_ok(terrace_invalidate(cache, &pages_and_parts, NULL));
	assert_misses(cache, "part");
	assert_misses(cache, "page");
	f->store->disk_ops = between.real;
	terrace_cache_close(cache);
}

/* --- transactions -------------------------------------------------------------------------------- */

/* Somebody who computes "page" of what "part" holds, in steps. */
struct computing {
	terrace_cache *cache;
	terrace_strategy strategy;
	pthread_barrier_t step;
};

static void *compute(void *ctx)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	struct computing *computing = ctx;
	terrace_value *value = NULL, *part;
	terrace_lease *lease;

	assert_status(terrace_lease_begin(computing->cache, terrace_str("page"), 0, &lease, &value),
	              TERRACE_MISS);
	assert_ok(terrace_get(computing->cache, terrace_str("part"), &part));
	pthread_barrier_wait(&computing->step);
	pthread_barrier_wait(&computing->step);
	options.strategy = computing->strategy;
	assert_ok(terrace_lease_put(lease, terrace_bytes(terrace_data(part), terrace_size(part)),
	                            &options, &value));
	terrace_release(value);
	terrace_release(part);
	return NULL;
}

/* What is computed before a commit, of what was there before it, is not stored after it. */
static void commit_while_somebody_computes(struct fixture *f, terrace_strategy strategy)
{
	struct computing computing = { .cache = fixture_rows(f, "a", NULL), .strategy = strategy };
	terrace_match pages = prefix("page");
	pthread_t thread;

	pthread_barrier_init(&computing.step, NULL, 2);
	assert_ok(put_text(computing.cache, "part", "old"));
	assert_ok(terrace_begin(f->store, 0));
	assert_ok(terrace_invalidate(computing.cache, &pages, NULL));
	assert_int_equal(pthread_create(&thread, NULL, compute, &computing), 0);
	pthread_barrier_wait(&computing.step);
	assert_ok(put_text(computing.cache, "part", "new"));
	assert_ok(terrace_commit(f->store));
	pthread_barrier_wait(&computing.step);
	pthread_join(thread, NULL);
	assert_gives(computing.cache, "part", "new");
	assert_misses(computing.cache, "page");
	pthread_barrier_destroy(&computing.step);
	terrace_cache_close(computing.cache);
}

static void test_invalidation__in_a_transaction_counts_from_its_commit(void **state)
{
	commit_while_somebody_computes(*state, TERRACE_STRATEGY_STANDARD);
}

static void test_invalidation__in_a_transaction_counts_for_memory_alone(void **state)
{
	commit_while_somebody_computes(*state, TERRACE_STRATEGY_IMMEDIATE);
}

/* --- two keys of one hash --------------------------------------------------------------------------- */

static int put_of_one_hash(void *disk, const struct tier_put *put)
{
	struct tier_put same = *put;

	same.key.hash = 7;
	return between.real->tier.put(disk, &same);
}

/* The row of the second takes the place of the first one's, whose copy in memory is good all the same. */
static void test_invalidation__reaches_what_lost_its_row_to_another_key(void **state)
{
	static const char *const tags[] = { "red" };
	struct fixture *f = *state;
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_match red = terrace_match_text(TERRACE_MATCH_TAG, "red");
	terrace_cache *cache = fixture_rows(f, "a", NULL);

	between.real = f->store->disk_ops;
	between.ops = *between.real;
	between.ops.tier.put = put_of_one_hash;
	f->store->disk_ops = &between.ops;
	options.tags = tags;
	options.tag_count = 1;
	assert_ok(terrace_put(cache, TERRACE_KEY("a"), terrace_str("v"), &options));
	assert_ok(put_text(cache, "b", "v"));
	assert_gives(cache, "a", "v");
	assert_ok(terrace_invalidate(cache, &red, NULL));
	assert_misses(cache, "a");
	f->store->disk_ops = between.real;
	terrace_cache_close(cache);
}

int main(void)
{
#define test(name) \
	cmocka_unit_test_setup_teardown(test_invalidation__##name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		test(a_row_that_has_become_anothers_stays),
		test(outdates_what_is_computed_of_what_still_goes),
		test(looks_again_where_somebody_has_put),
		test(in_a_transaction_counts_from_its_commit),
		test(in_a_transaction_counts_for_memory_alone),
		test(reaches_what_lost_its_row_to_another_key),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
