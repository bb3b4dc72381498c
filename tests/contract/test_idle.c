/* Idle time: what nobody gets dies, and nothing that somebody gets. */
#include "support/peer.h"

#include "core/idle.h"
#include "core/store.h"

#include <sys/wait.h>
#include <unistd.h>

/* The idle time here, and by how much an entry may outlive it. */
enum { IDLE = 16000, LATE = IDLE / 8 };

static terrace_cache *idling(struct fixture *f, unsigned tiers)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.tiers = tiers;
	policy.idle_ms = IDLE;
	return fixture_rows(f, "a", &policy);
}

static void pass(struct fixture *f, int64_t ms)
{
	atomic_fetch_add(&f->clock.now, ms);
}

/* What the keeper does within a second, or is doing: uses are written down. */
static void settle(struct fixture *f)
{
	terrace_cache *other = fixture_cache(f, "other", NULL);

	terrace__idle_settle(f->store);
	assert_ok(put_text(other, "k", "v")); /* waits for whoever is at it */
	terrace_cache_close(other);
}

static int put_idle(terrace_cache *cache, const char *key, int64_t ttl_ms, int64_t idle_ms)
{
	terrace_put_options options = TERRACE_PUT_INIT;

	options.ttl_ms = ttl_ms;
	options.idle_ms = idle_ms;
	return terrace_put(cache, terrace_str(key), terrace_str("v"), &options);
}

static const unsigned all_tiers[] = { TERRACE_L1, TERRACE_L2, TERRACE_L3, TERRACE_L1 | TERRACE_L2,
	                              TERRACE_L1 | TERRACE_L2 | TERRACE_L3 };

static void test_idle__lives_while_it_is_used_and_dies_in_time_when_not(void **state)
{
	for (size_t t = 0; t < sizeof all_tiers / sizeof *all_tiers; t++) {
		struct fixture *f;
		terrace_cache *cache;
		terrace_why why = TERRACE_WHY_INIT;

		fixture_teardown(state);
		fixture_setup(state);
		f = *state;
		cache = idling(f, all_tiers[t]);
		assert_ok(put_text(cache, "used/12", "v"));
		assert_ok(put_text(cache, "unused", "v"));
		/* uses at all distances up to the idle time */
		for (int64_t step = 1; step < IDLE; step += step / 2 + 1) {
			pass(f, step);
			assert_gives(cache, "used/12", "v");
			settle(f);
		}
		assert_misses(cache, "unused");
		pass(f, IDLE - 1);
		assert_gives(cache, "used/12", "v");
		settle(f);
		/* exactly in time, and at the latest when it may be late */
		pass(f, IDLE - 1);
		assert_ok(terrace_exists(cache, TERRACE_KEY("used/12")));
		pass(f, 1 + LATE);
		assert_misses(cache, "used/12");
		assert_status(terrace_explain(cache, TERRACE_KEY("used/12"), &why), TERRACE_MISS);
		assert_int_equal(why.reason, TERRACE_REASON_EXPIRED);
		terrace_cache_close(cache);
	}
}

static void test_idle__exists_and_inspect_are_no_use(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = idling(f, 0);
	terrace_info info = TERRACE_INFO_INIT;

	assert_ok(put_text(cache, "k", "v"));
	pass(f, IDLE - 1);
	assert_ok(terrace_exists(cache, TERRACE_KEY("k")));
	assert_ok(terrace_inspect(cache, TERRACE_KEY("k"), &info));
	assert_int_equal(info.idle_ms, IDLE);
	assert_int_equal(info.ttl_ms, TERRACE_TTL_FOREVER);
	assert_int_equal(info.left_ms, LATE + 1);
	terrace_info_free(&info);
	settle(f);
	pass(f, LATE + 1);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void test_idle__the_time_to_live_ends_it_all_the_same(void **state)
{
	for (size_t t = 0; t < sizeof all_tiers / sizeof *all_tiers; t++) {
		struct fixture *f;
		terrace_cache *cache;

		fixture_teardown(state);
		fixture_setup(state);
		f = *state;
		cache = idling(f, all_tiers[t]);
		assert_ok(put_idle(cache, "k", 2 * IDLE, 0));
		for (int i = 0; i < 3; i++) {
			pass(f, IDLE / 2);
			assert_gives(cache, "k", "v");
			settle(f);
		}
		pass(f, IDLE / 2 - 1);
		assert_gives(cache, "k", "v");
		settle(f);
		pass(f, 1);
		assert_misses(cache, "k");
		terrace_cache_close(cache);
	}
}

static void test_idle__touch_is_a_use_and_moves_the_time_to_live(void **state)
{
	for (size_t t = 0; t < sizeof all_tiers / sizeof *all_tiers; t++) {
		struct fixture *f;
		terrace_cache *cache;

		fixture_teardown(state);
		fixture_setup(state);
		f = *state;
		cache = idling(f, all_tiers[t]);
		assert_ok(put_idle(cache, "k", IDLE, 0));
		pass(f, IDLE - 1);
		assert_ok(terrace_touch(cache, TERRACE_KEY("k"), 10 * IDLE));
		pass(f, IDLE - 1);
		assert_gives(cache, "k", "v");
		settle(f);
		pass(f, IDLE + LATE);
		assert_misses(cache, "k");
		terrace_cache_close(cache);
	}
}

static void test_idle__of_an_entry_goes_before_the_caches(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = idling(f, 0), *plain = fixture_cache(f, "plain", NULL);

	assert_ok(put_idle(cache, "none", 0, TERRACE_TTL_FOREVER));
	assert_ok(put_idle(cache, "longer", 0, 4 * IDLE));
	assert_ok(put_idle(plain, "own", 0, IDLE));
	assert_ok(put_text(plain, "for ever", "v"));
	assert_status(put_idle(plain, "k", 0, -2), TERRACE_EINVAL);
	assert_non_null(strstr(terrace_error_message(), "idle_ms"));
	pass(f, IDLE + LATE);
	assert_misses(plain, "own");
	assert_gives(plain, "for ever", "v");
	assert_gives(cache, "longer", "v");
	settle(f);
	pass(f, 5 * IDLE);
	assert_misses(cache, "longer");
	assert_gives(cache, "none", "v");
	terrace_cache_close(plain);
	terrace_cache_close(cache);
}

static void test_idle__a_number_keeps_it(void **state)
{
	for (size_t t = 0; t < 2; t++) {
		struct fixture *f = *state;
		terrace_cache *cache = idling(f, t ? 0 : TERRACE_L1);
		terrace_info info = TERRACE_INFO_INIT;
		int64_t number;

		terrace_clear(cache, 0, NULL);
		assert_ok(terrace_put(cache, TERRACE_KEY("n"), terrace_str("1"), NULL));
		pass(f, IDLE - 1);
		assert_ok(terrace_incr(cache, TERRACE_KEY("n"), 1, 0, &number));
		assert_int_equal(number, 2);
		pass(f, IDLE - 1);
		assert_gives(cache, "n", "2");
		assert_ok(terrace_inspect(cache, TERRACE_KEY("n"), &info));
		assert_int_equal(info.idle_ms, IDLE);
		terrace_info_free(&info);
		terrace_cache_close(cache);
	}
}

static int put_nothing(void *disk, const struct tier_put *put)
{
	(void)disk;
	(void)put;
	return TERRACE_EIO;
}

/* What shares a transaction with a put that fails is written down with the next. */
static void test_idle__a_use_is_not_lost_with_another_ones_transaction(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = idling(f, 0), *other = fixture_rows(f, "other", NULL);
	const struct disk_ops *real = f->store->disk_ops;
	struct disk_ops failing = *real;

	assert_ok(put_text(cache, "k", "v"));
	pass(f, IDLE - 1);
	assert_gives(cache, "k", "v");
	failing.tier.put = put_nothing;
	f->store->disk_ops = &failing;
	assert_status(put_text(other, "fails", "v"), TERRACE_EIO);
	f->store->disk_ops = real;
	settle(f);
	assert_ok(terrace_clear(cache, TERRACE_L1, NULL));
	pass(f, IDLE - 1);
	assert_gives(cache, "k", "v");
	terrace_cache_close(other);
	terrace_cache_close(cache);
}

static void test_idle__values_that_waited_to_be_written(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	policy.write = TERRACE_WRITE_BEHIND;
	policy.idle_ms = IDLE;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "k", "v"));
	assert_ok(terrace_flush(f->store));
	terrace_clear(cache, TERRACE_L1, NULL);
	pass(f, IDLE - 1);
	assert_gives(cache, "k", "v");
	settle(f);
	pass(f, IDLE + LATE);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

/* --- writing it down ----------------------------------------------------------------------------------- */

static struct {
	struct disk_ops ops;
	const struct disk_ops *real;
	unsigned used, commits;
} counted;

static int count_used(void *disk, uint64_t hash, int64_t when)
{
	counted.used++;
	return counted.real->used(disk, hash, when);
}

static int count_commit(void *disk, uint64_t *ret_seq)
{
	counted.commits++;
	return counted.real->commit(disk, ret_seq);
}

static void test_idle__seldom_and_many_at_once(void **state)
{
	enum { KEYS = 100, ROUNDS = 64 };
	struct fixture *f = *state;
	terrace_cache *cache = idling(f, 0);
	char key[16];

	for (int i = 0; i < KEYS; i++) {
		snprintf(key, sizeof key, "k%d", i);
		assert_ok(put_text(cache, key, "v"));
	}
	counted.real = f->store->disk_ops;
	counted.ops = *counted.real;
	counted.ops.used = count_used;
	counted.ops.commit = count_commit;
	counted.used = counted.commits = 0;
	f->store->disk_ops = &counted.ops;
	/* over two idle times, every key twice every 32nd of it */
	for (int round = 0; round < ROUNDS; round++) {
		pass(f, IDLE / 32);
		for (int i = 0; i < 2 * KEYS; i++) {
			snprintf(key, sizeof key, "k%d", i % KEYS);
			assert_gives(cache, key, "v");
		}
		terrace__idle_settle(f->store);
	}
	print_message("%d gets, %u uses written down in %u transactions\n", 2 * KEYS * ROUNDS,
	              counted.used, counted.commits);
	/* once in an eighth of the idle time each, together */
	assert_in_range(counted.used, KEYS, 16 * KEYS);
	assert_in_range(counted.commits, 1, 16);
	terrace_cache_close(cache);
}

static void test_idle__a_short_process_writes_it_down_when_it_closes(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = idling(f, 0);
	int status;
	pid_t pid;

	assert_ok(put_text(cache, "tile/12", "v"));
	assert_ok(put_text(cache, "unused", "v"));
	terrace_cache_close(cache);
	terrace_close(f->store);
	pass(f, IDLE - 1);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		terrace *store;
		terrace_cache *own;
		int rc = terrace_open(scratch_path(&f->scratch, "store"), &f->options, &store);

		if (rc == TERRACE_OK)
			rc = terrace_cache_open(store, "a", NULL, &own);
		if (rc == TERRACE_OK)
			rc = misses(own, "tile/12"); /* a get, which is a hit */
		if (rc == TERRACE_OK)
			terrace_cache_close(own);
		terrace_close(store);
		_exit(rc == TERRACE_OK ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	pass(f, IDLE - 1);
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	cache = idling(f, 0);
	assert_gives(cache, "tile/12", "v");
	assert_misses(cache, "unused");
	terrace_cache_close(cache);
}

/* It is another entry by then, or none, or was used later: what is newer counts. */
static void test_idle__a_use_that_is_out_of_date_is_nothing(void **state)
{
	struct fixture *f = *state;
	terrace_policy forever = TERRACE_POLICY_INIT;
	struct peer peer = peer_start(f, &forever);
	terrace_cache *cache = idling(f, 0);

	assert_ok(put_text(cache, "gone", "v"));
	assert_ok(put_text(cache, "replaced", "v"));
	assert_ok(put_text(cache, "twice", "v"));
	pass(f, IDLE / 2);
	assert_gives(cache, "gone", "v");
	assert_gives(cache, "replaced", "v");
	assert_gives(cache, "twice", "v");
	pass(f, IDLE / 2);
	assert_gives(cache, "twice", "v"); /* which is written down first */
	assert_peer(&peer, "d gone", "ok");
	assert_peer(&peer, "p replaced another", "ok");
	settle(f);
	assert_misses(cache, "gone");
	assert_gives(cache, "replaced", "another");
	assert_ok(terrace_clear(cache, TERRACE_L1, NULL));
	pass(f, IDLE - 1);
	assert_gives(cache, "twice", "v");
	pass(f, 10 * IDLE);
	assert_gives(cache, "replaced", "another");
	peer_end(&peer);
	terrace_cache_close(cache);
}

static void test_idle__what_died_is_swept(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = idling(f, 0);
	uint64_t count = 0;

	assert_ok(put_text(cache, "k", "v"));
	assert_ok(put_idle(cache, "other", 0, TERRACE_TTL_FOREVER));
	pass(f, IDLE + LATE + IDLE_GRACE_MS - 1);
	assert_misses(cache, "k");
	/* Another process may have used it, and not yet written that down. */
	assert_ok(terrace_cleanup(f->store, cache, &count));
	assert_int_equal(count, 0);
	pass(f, 1);
	assert_ok(terrace_cleanup(f->store, cache, &count));
	assert_int_equal(count, 1);
	assert_gives(cache, "other", "v");
	terrace_cache_close(cache);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		/* forks, so before there are threads */
		TEST(test_idle__a_short_process_writes_it_down_when_it_closes),
		TEST(test_idle__lives_while_it_is_used_and_dies_in_time_when_not),
		TEST(test_idle__exists_and_inspect_are_no_use),
		TEST(test_idle__the_time_to_live_ends_it_all_the_same),
		TEST(test_idle__touch_is_a_use_and_moves_the_time_to_live),
		TEST(test_idle__of_an_entry_goes_before_the_caches),
		TEST(test_idle__a_number_keeps_it),
		TEST(test_idle__a_use_is_not_lost_with_another_ones_transaction),
		TEST(test_idle__values_that_waited_to_be_written),
		TEST(test_idle__seldom_and_many_at_once),
		TEST(test_idle__a_use_that_is_out_of_date_is_nothing),
		TEST(test_idle__what_died_is_swept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
