/* Caches in memory alone that several processes have open: who holds entries of them. */
#include "support/peer.h"

#include "core/locks.h"
#include "core/store.h"
#include "util/lock.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

static terrace_policy memory_alone(void)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.tiers = TERRACE_L1;
	return policy;
}

/* --- closing beside opening --------------------------------------------------------------------- */

static void *close_cache(void *cache)
{
	terrace_cache_close(cache);
	return NULL;
}

/* Another thread closes it: it is no longer found, though that may take longer. */
static bool is_open(terrace *store)
{
	bool open;

	pthread_mutex_lock(&store->caches_lock);
	open = store->caches != NULL;
	pthread_mutex_unlock(&store->caches_lock);
	return open;
}

/*
 * The lock that says who has entries belongs to the process: who closes a cache must not take
 * it from who has opened it again, or another process would think that it were alone.
 */
static void test_holders__closing_beside_opening_leaves_the_cache_held(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = memory_alone();
	struct peer peer = peer_start(f, &policy);
	terrace_cache *cache;
	pthread_t closing;
	int fd;

	assert_peer(&peer, "g k", "(miss)"); /* it has opened the store */
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "k", "first"));
	/* Closing adds to the statistics, which somebody else is at. */
	fd = open(scratch_path(&f->scratch, "store/v2/shared"), O_RDWR | O_CLOEXEC);
	assert_int_equal(terrace__lock_wait(fd, LOCK_STATS + cache->number, true), 0);
	assert_int_equal(pthread_create(&closing, NULL, close_cache, cache), 0);
	while (is_open(f->store))
		usleep(1000);
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "k", "older"));
	close(fd);
	pthread_join(closing, NULL);
	assert_gives(cache, "k", "older");
	assert_peer(&peer, "p k newer", "ok");
	assert_misses(cache, "k");
	terrace_cache_close(cache);
	peer_end(&peer);
}

/* --- invalidations of two processes ---------------------------------------------------------------- */

struct invalidator {
	terrace_cache *cache;
	_Atomic bool stop;
};

static void *invalidate_others(void *ctx)
{
	struct invalidator *invalidator = ctx;
	terrace_match match = terrace_match_text(TERRACE_MATCH_PREFIX, "other");

	while (!atomic_load(&invalidator->stop))
		terrace_invalidate(invalidator->cache, &match, NULL);
	return NULL;
}

/* What another process has invalidated does not come back with what an invalidation here leaves. */
static void test_holders__invalidations_of_two_processes_add_up(void **state)
{
	enum { ROUNDS = 5000 };
	struct fixture *f = *state;
	terrace_policy policy = memory_alone();
	struct peer peer = peer_start(f, &policy);
	struct invalidator invalidator = { 0 };
	pthread_t thread;

	assert_peer(&peer, "g k", "(miss)");
	invalidator.cache = fixture_cache(f, "a", &policy);
	assert_int_equal(pthread_create(&thread, NULL, invalidate_others, &invalidator), 0);
	for (int i = 0; i < ROUNDS; i++) {
		assert_ok(put_text(invalidator.cache, "k", "v"));
		assert_peer(&peer, "i k", "ok");
		assert_misses(invalidator.cache, "k");
	}
	atomic_store(&invalidator.stop, true);
	pthread_join(thread, NULL);
	terrace_cache_close(invalidator.cache);
	peer_end(&peer);
}

/* --- counting beside a delete ------------------------------------------------------------------------ */

struct tally {
	terrace_cache *cache;
	_Atomic bool stop;
	_Atomic int64_t begun, done;
};

static void *count_up(void *ctx)
{
	struct tally *tally = ctx;
	int64_t sum;

	while (!atomic_load(&tally->stop)) {
		atomic_fetch_add(&tally->begun, 1);
		assert_ok(terrace_incr(tally->cache, terrace_str("n"), 1, 0, &sum));
		atomic_fetch_add(&tally->done, 1);
	}
	return NULL;
}

/* A number that another process has deleted is not counted on from what it was. */
static void deletes_are_not_counted_over(struct fixture *f, bool many)
{
	enum { ROUNDS = 20000 };
	terrace_policy policy = memory_alone();
	struct peer peer = peer_start(f, &policy);
	struct tally tally = { 0 };
	pthread_t thread;

	if (many)
		assert_peer(&peer, "p other v", "ok");
	tally.cache = fixture_cache(f, "a", &policy);
	assert_int_equal(pthread_create(&thread, NULL, count_up, &tally), 0);
	for (int i = 0; i < ROUNDS; i++) {
		int64_t before = atomic_load(&tally.done), sum = 0;
		terrace_value *value;

		assert_peer(&peer, "d n", "ok");
		if (terrace_get(tally.cache, terrace_str("n"), &value) == TERRACE_OK) {
			char text[32];

			snprintf(text, sizeof text, "%.*s", (int)terrace_size(value),
			         (const char *)terrace_data(value));
			sum = strtoll(text, NULL, 10);
			terrace_release(value);
		}
		assert_true(sum <= atomic_load(&tally.begun) - before);
	}
	atomic_store(&tally.stop, true);
	pthread_join(thread, NULL);
	terrace_cache_close(tally.cache);
	peer_end(&peer);
}

static void test_holders__a_delete_elsewhere_is_not_counted_over(void **state)
{
	deletes_are_not_counted_over(*state, false);
}

static void test_holders__a_delete_is_not_counted_over_where_many_put(void **state)
{
	deletes_are_not_counted_over(*state, true);
}

int main(void)
{
#define test(name) \
	cmocka_unit_test_setup_teardown(test_holders__##name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		test(closing_beside_opening_leaves_the_cache_held),
		test(invalidations_of_two_processes_add_up),
		test(a_delete_elsewhere_is_not_counted_over),
		test(a_delete_is_not_counted_over_where_many_put),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
