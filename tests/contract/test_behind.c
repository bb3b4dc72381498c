/* Write-behind: there at once, never older elsewhere, written in the end, gone with its process. */
#include "support/peer.h"

#include "core/locks.h"
#include "core/store.h"
#include "util/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- a store in which nothing is written until we say so ---------------------------------------- */

static terrace_policy behind(unsigned tiers)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.write = TERRACE_WRITE_BEHIND;
	policy.tiers = tiers;
	return policy;
}

/* Be a writer who takes long. */
static int hold_writers(const struct fixture *f)
{
	int fd = open(scratch_path(&f->scratch, "store/v1/shared"), O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(terrace__lock_wait(fd, LOCK_WRITER, true), 0);
	return fd;
}

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

/* --- tests -------------------------------------------------------------------------------------------- */

static void test_behind__a_value_is_there_at_once_and_in_the_end_on_disk(void **state)
{
	static const unsigned tiers[] = { 0, TERRACE_L2, TERRACE_L3 };
	struct fixture *f = *state;

	for (size_t i = 0; i < 3; i++) {
		terrace_policy policy = behind(tiers[i]);
		char name[16];
		terrace_cache *cache;
		int writer;

		snprintf(name, sizeof name, "cache %zu", i);
		cache = fixture_cache(f, name, &policy);
		writer = hold_writers(f);
		assert_ok(put_text(cache, "k", "value"));
		assert_gives(cache, "k", "value");
		assert_ok(put_text(cache, "k", "another"));
		assert_gives(cache, "k", "another");
		assert_misses(cache, "l");
		close(writer);
		assert_ok(terrace_flush(f->store));
		assert_gives(cache, "k", "another");
		terrace_cache_close(cache);
		fixture_reopen(f);
		cache = fixture_cache(f, name, &policy);
		assert_gives(cache, "k", "another");
		terrace_cache_close(cache);
	}
}

static void test_behind__closing_writes(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	terrace_cache *cache = fixture_cache(f, "a", &policy);

	assert_ok(put_text(cache, "k", "value"));
	terrace_cache_close(cache);
	fixture_reopen(f);
	cache = fixture_cache(f, "a", &policy);
	assert_gives(cache, "k", "value");
	terrace_cache_close(cache);
}

static void test_behind__other_processes_never_read_the_older_row(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	struct peer peer = peer_start(f, &policy);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	int writer;

	assert_ok(put_text(cache, "k", "older"));
	assert_ok(terrace_flush(f->store));
	assert_peer(&peer, "g k", "older"); /* and has a copy in its memory */
	writer = hold_writers(f);
	assert_ok(put_text(cache, "k", "newer"));
	assert_peer(&peer, "g k", "(miss)");
	assert_gives(cache, "k", "newer");
	close(writer);
	assert_ok(terrace_flush(f->store));
	assert_peer(&peer, "g k", "newer");
	terrace_cache_close(cache);
	peer_end(&peer);
}

static void test_behind__what_a_dead_process_meant_to_replace_is_gone(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	struct peer peer = peer_start(f, &policy);
	int writer;

	assert_ok(put_text(cache, "k", "older"));
	assert_ok(put_text(cache, "untouched", "value"));
	assert_ok(terrace_flush(f->store));
	writer = hold_writers(f);
	assert_peer(&peer, "p k newer", "ok");
	assert_peer(&peer, "p l new", "ok");
	peer_kill(&peer);
	close(writer);
	assert_misses(cache, "k");
	assert_misses(cache, "l");
	assert_gives(cache, "untouched", "value");
	terrace_cache_close(cache);
	fixture_reopen(f);
	cache = fixture_cache(f, "a", &policy);
	assert_misses(cache, "k");
	/* the slot is good again, for this process and others */
	assert_ok(put_text(cache, "k", "again"));
	assert_ok(terrace_flush(f->store));
	peer = peer_start(f, &policy);
	assert_peer(&peer, "g k", "again");
	assert_peer(&peer, "g untouched", "value");
	terrace_cache_close(cache);
	peer_end(&peer);
}

static void test_behind__what_was_flushed_survives_its_process(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	struct peer peer = peer_start(f, &policy);
	terrace_cache *cache = fixture_cache(f, "a", &policy);

	assert_peer(&peer, "p k value", "ok");
	assert_peer(&peer, "f", "ok");
	peer_kill(&peer);
	assert_gives(cache, "k", "value");
	terrace_cache_close(cache);
}

/* Two processes at once: whoever comes first, what is removed stays away. */
static void removed_beside_a_flush(struct fixture *f, const char *order)
{
	terrace_policy policy = behind(0);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	struct peer peer = peer_start(f, &policy);

	for (int round = 0; round < 20; round++) {
		int writer;

		assert_ok(put_text(cache, "k", "older"));
		assert_ok(terrace_flush(f->store));
		writer = hold_writers(f);
		assert_ok(put_text(cache, "k", "newer"));
		tell(&peer, order);
		close(writer);
		assert_string_equal(hear(&peer), "ok");
		/* A value that still waits is no excuse. */
		assert_misses(cache, "k");
		assert_peer(&peer, "g k", "(miss)");
		assert_ok(terrace_flush(f->store));
		assert_misses(cache, "k");
		assert_peer(&peer, "g k", "(miss)");
	}
	terrace_cache_close(cache);
	peer_end(&peer);
}

static void test_behind__a_delete_elsewhere_removes_what_waits(void **state)
{
	removed_beside_a_flush(*state, "d k");
}

static void test_behind__an_invalidation_elsewhere_removes_what_waits(void **state)
{
	removed_beside_a_flush(*state, "i k");
}

static void test_behind__a_clear_elsewhere_removes_what_waits(void **state)
{
	removed_beside_a_flush(*state, "c");
}

/* What has no row yet is found by no index, and must be void all the same. */
static void test_behind__an_invalidation_elsewhere_removes_what_has_no_row_yet(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	struct peer peer = peer_start(f, &policy);

	for (int round = 0; round < 20; round++) {
		int writer = hold_writers(f);
		char key[16];

		snprintf(key, sizeof key, "k%d", round);
		assert_ok(put_text(cache, key, "value"));
		tell(&peer, "i k");
		close(writer);
		assert_string_equal(hear(&peer), "ok");
		assert_misses(cache, key);
		assert_ok(terrace_flush(f->store));
		assert_misses(cache, key);
	}
	terrace_cache_close(cache);
	peer_end(&peer);
}

/* The row is out of date: touching it must not make it newer than what waits. */
static void test_behind__a_touch_elsewhere_revives_nothing(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	struct peer peer = peer_start(f, &policy);

	for (int round = 0; round < 40; round++) {
		int writer;

		assert_ok(put_text(cache, "k", "older"));
		assert_ok(terrace_flush(f->store));
		writer = hold_writers(f);
		assert_ok(put_text(cache, "k", "newer"));
		tell(&peer, "t k");
		close(writer);
		assert_string_equal(hear(&peer), "ok");
		assert_ok(terrace_flush(f->store));
		if (misses(cache, "k") == TERRACE_OK)
			assert_gives(cache, "k", "newer");
		tell(&peer, "g k");
		assert_int_not_equal(strcmp("older", hear(&peer)), 0);
	}
	terrace_cache_close(cache);
	peer_end(&peer);
}

/* Another key whose version is the same. */
static void find_neighbour(terrace_cache *cache, const char *key, char ret[16])
{
	uint32_t slot = cache_key(cache, terrace_str(key)).slot;
	int i = 0;

	do
		snprintf(ret, 16, "n%d", i++);
	while (cache_key(cache, terrace_str(ret)).slot != slot);
}

static void test_behind__a_write_to_a_neighbour_revives_nothing(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	struct peer peer = peer_start(f, &policy);
	char neighbour[16], order[64];

	find_neighbour(cache, "k", neighbour);
	snprintf(order, sizeof order, "p %s other", neighbour);
	for (int round = 0; round < 40; round++) {
		int writer;

		assert_ok(put_text(cache, "k", "older"));
		assert_ok(terrace_flush(f->store));
		writer = hold_writers(f);
		assert_ok(put_text(cache, "k", "newer"));
		tell(&peer, order);
		close(writer);
		assert_string_equal(hear(&peer), "ok");
		assert_ok(terrace_flush(f->store));
		assert_peer(&peer, "f", "ok");
		if (misses(cache, "k") == TERRACE_OK)
			assert_gives(cache, "k", "newer");
		tell(&peer, "g k");
		assert_int_not_equal(strcmp("older", hear(&peer)), 0);
	}
	terrace_cache_close(cache);
	peer_end(&peer);
}

static void test_behind__neighbours_can_both_wait(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(TERRACE_L2);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	char neighbour[16];

	find_neighbour(cache, "k", neighbour);
	assert_ok(put_text(cache, neighbour, "row"));
	assert_ok(terrace_flush(f->store));
	assert_ok(put_text(cache, "k", "waits"));
	assert_gives(cache, neighbour, "row"); /* its row is good: nobody but us has the slot */
	assert_ok(terrace_flush(f->store));
	assert_gives(cache, neighbour, "row");
	assert_gives(cache, "k", "waits");
	terrace_cache_close(cache);
}

/* A put of another process to a key that waits here is the later one. */
static void test_behind__the_last_put_wins_whoever_made_it(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	struct peer peer = peer_start(f, &policy);

	for (int round = 0; round < 20; round++) {
		int writer = hold_writers(f);

		assert_ok(put_text(cache, "k", "first"));
		tell(&peer, "p k second"); /* must go through: the slot is ours */
		close(writer);
		assert_string_equal(hear(&peer), "ok");
		assert_ok(terrace_flush(f->store));
		assert_peer(&peer, "f", "ok");
		assert_int_not_equal(strcmp("first", (tell(&peer, "g k"), hear(&peer))), 0);
		if (misses(cache, "k") == TERRACE_OK)
			assert_gives(cache, "k", "second");
	}
	terrace_cache_close(cache);
	peer_end(&peer);
}

static void test_behind__verbs_that_look_first_see_what_waits(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	terrace_info info = TERRACE_INFO_INIT;
	terrace_keys *keys;
	terrace_slice key;
	int64_t sum;

	assert_ok(put_text(cache, "n", "41"));
	assert_ok(terrace_incr(cache, TERRACE_KEY("n"), 1, 0, &sum));
	assert_int_equal(sum, 42);
	assert_ok(put_text(cache, "k", "value"));
	assert_status(terrace_add(cache, TERRACE_KEY("k"), terrace_str("other"), NULL),
	              TERRACE_EXISTS);
	assert_ok(put_text(cache, "k", "value2"));
	assert_ok(terrace_exists(cache, TERRACE_KEY("k")));
	assert_ok(put_text(cache, "k", "value3"));
	assert_ok(terrace_touch(cache, TERRACE_KEY("k"), 1000));
	assert_gives(cache, "k", "value3");
	assert_ok(put_text(cache, "k", "value4"));
	assert_ok(terrace_inspect(cache, TERRACE_KEY("k"), &info));
	assert_int_equal(info.bytes, 6);
	terrace_info_free(&info);
	assert_ok(put_text(cache, "listed", "x"));
	assert_ok(terrace_keys_open(cache, NULL, &keys));
	for (int i = 0; i < 3; i++)
		assert_ok(terrace_keys_next(keys, &key));
	assert_status(terrace_keys_next(keys, &key), TERRACE_MISS);
	terrace_keys_close(keys);
	assert_ok(put_text(cache, "k", "value5"));
	assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void test_behind__a_full_queue_makes_the_caller_wait_and_then_say_so(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(TERRACE_L2);
	terrace_cache *cache;
	int writer, rc = TERRACE_OK, count = 0;
	char key[16];

	f->options.wait_ms = 50;
	fixture_reopen(f);
	cache = fixture_cache(f, "a", &policy);
	writer = hold_writers(f);
	while (rc == TERRACE_OK && count <= 2 * MARKS) {
		snprintf(key, sizeof key, "k%d", count++);
		rc = put_text(cache, key, key);
	}
	assert_status(rc, TERRACE_EBUSY);
	assert_true(count > MARKS / 2);
	close(writer);
	while (terrace_flush(f->store) != TERRACE_OK)
		;
	fixture_reopen(f);
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < count - 1; i++) {
		snprintf(key, sizeof key, "k%d", i);
		/* two keys may share a slot; then the first is dropped */
		rc += misses(cache, key) == TERRACE_MISS;
	}
	assert_true(rc - TERRACE_EBUSY < 20);
	terrace_cache_close(cache);
}

struct hammer {
	pthread_t thread;
	terrace_cache *cache;
	int number;
};

static void *hammer(void *ctx)
{
	struct hammer *h = ctx;
	char key[16], text[32];

	for (int i = 0; i < 3000; i++) {
		terrace_value *value;
		int last = -1;

		/* Own keys and shared ones: of its own it must read what it wrote. */
		snprintf(key, sizeof key, "%d:%d", h->number, i % 50);
		snprintf(text, sizeof text, "%d", i);
		if (put_text(h->cache, key, text) != TERRACE_OK)
			return (void *)"a put failed";
		if (terrace_get(h->cache, terrace_str(key), &value) == TERRACE_OK) {
			snprintf(text, sizeof text, "%.*s", (int)terrace_size(value),
			         (const char *)terrace_data(value));
			last = atoi(text);
			terrace_release(value);
			if (last != i)
				return (void *)"an older value";
		}
		put_text(h->cache, "shared", text);
		if (i % 100 == 0)
			terrace_delete(h->cache, terrace_str(key));
		if (i % 100 == 0 && terrace_get(h->cache, terrace_str(key), &value) == TERRACE_OK) {
			terrace_release(value);
			return (void *)"a deleted value";
		}
	}
	return NULL;
}

static void test_behind__threads_read_their_own_writes(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	terrace_cache *cache;
	struct hammer hammers[4];

	policy.memory_bytes = 20000; /* most of them are not in L1 while they wait */
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < 4; i++) {
		hammers[i] = (struct hammer){ .cache = cache, .number = i };
		assert_int_equal(pthread_create(&hammers[i].thread, NULL, hammer, &hammers[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		void *problem;

		assert_int_equal(pthread_join(hammers[i].thread, &problem), 0);
		if (problem)
			fail_msg("%s", (char *)problem);
	}
	assert_ok(terrace_flush(f->store));
	assert_gives(cache, "0:49", "2999");
	assert_gives(cache, "shared", "2999");
	terrace_cache_close(cache);
}

/* --- which lane is whose ------------------------------------------------------------------------------ */

struct starter {
	pthread_t thread;
	pthread_barrier_t *barrier;
	terrace_cache *cache;
	int number;
};

static void *start_putting(void *ctx)
{
	struct starter *starter = ctx;
	char key[16];

	snprintf(key, sizeof key, "%d", starter->number);
	pthread_barrier_wait(starter->barrier);
	put_text(starter->cache, key, "v");
	return NULL;
}

/*
 * A process died with values waiting; the threads of another put their first
 * ones at the same time. Nobody may then take that process for dead.
 */
static void put_after_a_death(struct fixture *f)
{
	enum { STARTERS = 8 };
	terrace_policy policy = behind(TERRACE_L2);
	struct starter starters[STARTERS];
	pthread_barrier_t barrier;
	terrace_cache *cache;
	struct peer peer;
	int writer, fd, lane;

	fixture_reopen(f); /* a store that has no lane yet, and no thread: it is forked */
	peer = peer_start(f, &policy);
	assert_peer(&peer, "g k", "(miss)"); /* it is there */
	cache = fixture_cache(f, "a", &policy);
	writer = hold_writers(f);
	assert_peer(&peer, "p k newer", "ok");
	peer_kill(&peer);
	close(writer);
	pthread_barrier_init(&barrier, NULL, STARTERS);
	for (int i = 0; i < STARTERS; i++) {
		starters[i] = (struct starter){ .barrier = &barrier, .cache = cache, .number = i };
		assert_int_equal(
		    pthread_create(&starters[i].thread, NULL, start_putting, &starters[i]), 0);
	}
	for (int i = 0; i < STARTERS; i++)
		pthread_join(starters[i].thread, NULL);
	pthread_barrier_destroy(&barrier);
	lane = atomic_load(&f->store->behind.lane);
	assert_true(lane >= 0);
	fd = open(scratch_path(&f->scratch, "store/v1/shared"), O_RDWR | O_CLOEXEC);
	assert_int_equal(terrace__lock_try(fd, LOCK_LANES + (uint64_t)lane, true), -EAGAIN);
	close(fd);
	assert_ok(terrace_clear(cache, 0, NULL));
	terrace_cache_close(cache);
}

static void test_behind__a_lane_stays_locked_when_threads_begin_together(void **state)
{
	for (int round = 0; round < 30; round++)
		put_after_a_death(*state);
}

/* What stands in a lane for a moment, and is taken out again, must not leave the mark on. */
static void test_behind__a_mark_that_nobody_has_comes_off(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(TERRACE_L2);
	struct peer peer = peer_start(f, &policy);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	struct shared_lane *lane = &f->store->shared->lanes[LANES - 1];
	int writer, fd = open(scratch_path(&f->scratch, "store/v1/shared"), O_RDWR | O_CLOEXEC);

	assert_peer(&peer, "g k", "(miss)");
	writer = hold_writers(f);
	assert_peer(&peer, "p k newer", "ok");
	peer_kill(&peer);
	close(writer);
	/* A third process is about to find that the slot is not to be had. */
	assert_int_equal(terrace__lock_try(fd, LOCK_LANES + LANES - 1, true), 0);
	terrace__mark_set(f->store->shared, &lane->marks[atomic_load(&lane->head) % MARKS],
	                  cache_key(cache, TERRACE_KEY("k")).slot, 0);
	atomic_store(&lane->tail, atomic_load(&lane->head) + 1);
	assert_misses(cache, "k"); /* and reaps */
	atomic_store(&lane->tail, atomic_load(&lane->head));
	close(fd);
	assert_ok(put_text(cache, "k", "last"));
	assert_ok(terrace_flush(f->store));
	assert_gives(cache, "k", "last");
	terrace_cache_close(cache);
}

int main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(test_behind__##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		test(a_value_is_there_at_once_and_in_the_end_on_disk),
		test(closing_writes),
		test(other_processes_never_read_the_older_row),
		test(what_a_dead_process_meant_to_replace_is_gone),
		test(what_was_flushed_survives_its_process),
		test(a_delete_elsewhere_removes_what_waits),
		test(an_invalidation_elsewhere_removes_what_waits),
		test(a_clear_elsewhere_removes_what_waits),
		test(an_invalidation_elsewhere_removes_what_has_no_row_yet),
		test(a_touch_elsewhere_revives_nothing),
		test(a_write_to_a_neighbour_revives_nothing),
		test(neighbours_can_both_wait),
		test(the_last_put_wins_whoever_made_it),
		test(verbs_that_look_first_see_what_waits),
		test(a_full_queue_makes_the_caller_wait_and_then_say_so),
		test(threads_read_their_own_writes),
		test(a_lane_stays_locked_when_threads_begin_together),
		test(a_mark_that_nobody_has_comes_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
