/* Write-behind: there at once, never older elsewhere, written in the end, gone with its process. */
#include "support/peer.h"

#include "core/lane.h"
#include "core/locks.h"
#include "core/store.h"
#include "util/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
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

static void test_behind__other_processes_read_what_waits(void **state)
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
	assert_ok(put_text(cache, "l", "new"));
	assert_peer(&peer, "g k", "newer");
	assert_peer(&peer, "g l", "new");
	assert_ok(put_text(cache, "k", "newest"));
	assert_peer(&peer, "g k", "newest");
	assert_peer(&peer, "g l", "new");
	assert_gives(cache, "k", "newest");
	close(writer);
	assert_ok(terrace_flush(f->store));
	assert_peer(&peer, "g k", "newest");
	assert_peer(&peer, "g l", "new");
	terrace_cache_close(cache);
	peer_end(&peer);
}

static void test_behind__what_waits_outlives_its_process(void **state)
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
	assert_gives(cache, "k", "newer");
	assert_gives(cache, "l", "new");
	close(writer);
	assert_gives(cache, "untouched", "value");
	terrace_cache_close(cache);
	fixture_reopen(f);
	cache = fixture_cache(f, "a", &policy);
	assert_gives(cache, "k", "newer");
	assert_gives(cache, "l", "new");
	/* the slot is good again, for this process and others */
	assert_ok(put_text(cache, "k", "again"));
	assert_ok(terrace_flush(f->store));
	peer = peer_start(f, &policy);
	assert_peer(&peer, "g k", "again");
	assert_peer(&peer, "g untouched", "value");
	terrace_cache_close(cache);
	peer_end(&peer);
}

/* Nobody can write a row, and yet the key is put in turns: the latest is what all read. */
static void test_behind__what_waits_elsewhere_is_replaced(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(TERRACE_L2);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	struct peer peer = peer_start(f, &policy);
	char order[32], text[16];
	int writer;

	assert_ok(put_text(cache, "k", "older"));
	assert_ok(terrace_flush(f->store));
	writer = hold_writers(f);
	for (int round = 0; round < 10; round++) {
		snprintf(order, sizeof order, "p k theirs%d", round);
		assert_peer(&peer, order, "ok");
		assert_gives(cache, "k", order + 4);
		snprintf(text, sizeof text, "ours%d", round);
		assert_ok(put_text(cache, "k", text));
		assert_peer(&peer, "g k", text);
		assert_gives(cache, "k", text);
	}
	close(writer);
	/* the older one becomes a row, or not, before and after the newer */
	assert_peer(&peer, "f", "ok");
	assert_peer(&peer, "g k", "ours9");
	assert_ok(terrace_flush(f->store));
	assert_peer(&peer, "f", "ok");
	assert_gives(cache, "k", "ours9");
	assert_peer(&peer, "g k", "ours9");
	peer_kill(&peer);
	terrace_cache_close(cache);
	fixture_reopen(f);
	cache = fixture_cache(f, "a", &policy);
	assert_gives(cache, "k", "ours9");
	terrace_cache_close(cache);
}

/*
 * Some keys of so many share a slot, and some of those are put while the one before is
 * becoming a row.
 */
static void test_behind__nothing_is_lost_among_neighbours(void **state)
{
	enum { ROUNDS = 8, PUTS = 6000 };
	struct fixture *f = *state;
	terrace_policy policy = behind(TERRACE_L2);
	char name[16], key[16];

	for (int round = 0; round < ROUNDS; round++) {
		terrace_cache *cache;

		snprintf(name, sizeof name, "round %d", round);
		cache = fixture_cache(f, name, &policy);
		for (int i = 0; i < PUTS; i++) {
			snprintf(key, sizeof key, "%d", i);
			assert_ok(put_text(cache, key, key));
		}
		for (int i = 0; i < PUTS; i++) {
			snprintf(key, sizeof key, "%d", i);
			assert_gives(cache, key, key);
		}
		terrace_cache_close(cache);
	}
}

/* A key that is put again while it waits keeps its place in the order of arrival. */
static void test_behind__rows_come_in_order_of_arrival(void **state)
{
	static const char *const puts[] = { "c", "a", "b", "a", "c", "d", "b" };
	static const char *const order[] = { "c", "a", "b", "d" };
	struct fixture *f = *state;
	terrace_policy policy = behind(TERRACE_L2);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	int writer = hold_writers(f);
	terrace_keys *keys;
	terrace_slice key;

	for (size_t i = 0; i < sizeof puts / sizeof *puts; i++)
		assert_ok(put_text(cache, puts[i], "v"));
	close(writer);
	assert_ok(terrace_keys_open(cache, NULL, &keys));
	for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
		assert_ok(terrace_keys_next(keys, &key));
		assert_memory_equal(key.data, order[i], 1);
	}
	assert_status(terrace_keys_next(keys, &key), TERRACE_MISS);
	terrace_keys_close(keys);
	terrace_cache_close(cache);
}

/* What is written through comes behind what waits, whether its key was there or not. */
static void test_behind__what_is_written_through_arrives_later(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(TERRACE_L2);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	terrace_keys *keys;
	terrace_slice key;

	for (int round = 0; round < 20; round++) {
		assert_ok(terrace_clear(cache, 0, NULL));
		assert_ok(put_text(cache, "a", "v"));
		assert_ok(terrace_incr(cache, TERRACE_KEY("b"), 1, 0, NULL));
		assert_ok(put_text(cache, "c", "v"));
		assert_ok(terrace_add(cache, TERRACE_KEY("d"), TERRACE_KEY("v"), NULL));
		assert_ok(terrace_keys_open(cache, NULL, &keys));
		for (size_t i = 0; i < 4; i++) {
			assert_ok(terrace_keys_next(keys, &key));
			assert_memory_equal(key.data, &"abcd"[i], 1);
		}
		terrace_keys_close(keys);
	}
	terrace_cache_close(cache);
}

/* What counts, lists or changes what is there sees what waits elsewhere. */
static void test_behind__verbs_of_others_see_what_waits(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	struct peer peer = peer_start(f, &policy);
	terrace_keys *keys;
	terrace_slice key;
	int64_t sum;

	for (int round = 0; round < 20; round++) {
		assert_peer(&peer, "p n 41", "ok");
		assert_ok(terrace_incr(cache, TERRACE_KEY("n"), 1, 0, &sum));
		assert_int_equal(sum, 42);
		assert_peer(&peer, "g n", "42");
		assert_peer(&peer, "p k value", "ok");
		assert_status(terrace_add(cache, TERRACE_KEY("k"), terrace_str("other"), NULL),
		              TERRACE_EXISTS);
		assert_peer(&peer, "p k value2", "ok");
		assert_ok(terrace_touch(cache, TERRACE_KEY("k"), 1000));
		assert_gives(cache, "k", "value2");
		assert_peer(&peer, "p listed x", "ok");
		assert_ok(terrace_keys_open(cache, NULL, &keys));
		for (int i = 0; i < 3; i++)
			assert_ok(terrace_keys_next(keys, &key));
		assert_status(terrace_keys_next(keys, &key), TERRACE_MISS);
		terrace_keys_close(keys);
		assert_ok(terrace_clear(cache, 0, NULL));
		assert_peer(&peer, "g listed", "(miss)");
	}
	terrace_cache_close(cache);
	peer_end(&peer);
}

/* A disk at which another process puts a value, just as we have begun to write. */
static struct {
	const struct disk_ops *real;
	struct disk_ops ops;
	struct peer peer;
	bool put;
} overtaken;

static int begin_overtaken(void *disk, uint64_t seq)
{
	if (!overtaken.put) {
		overtaken.put = true;
		assert_peer(&overtaken.peer, "p n 41", "ok");
	}
	return overtaken.real->begin(disk, seq);
}

static void test_behind__who_writes_counts_on_what_came_to_wait_meanwhile(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(TERRACE_L2);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	int64_t sum;

	overtaken.peer = peer_start(f, &policy);
	overtaken.put = false;
	overtaken.real = f->store->disk_ops;
	overtaken.ops = *overtaken.real;
	overtaken.ops.begin = begin_overtaken;
	assert_ok(put_text(cache, "n", "1"));
	assert_ok(terrace_flush(f->store));
	assert_peer(&overtaken.peer, "p other v", "ok"); /* it has a lane */
	assert_peer(&overtaken.peer, "f", "ok");
	f->store->disk_ops = &overtaken.ops;
	assert_ok(terrace_incr(cache, TERRACE_KEY("n"), 1, 0, &sum));
	f->store->disk_ops = overtaken.real;
	assert_true(overtaken.put);
	assert_int_equal(sum, 42);
	assert_peer(&overtaken.peer, "g n", "42");
	terrace_cache_close(cache);
	peer_end(&overtaken.peer);
}

/* The copy in memory is under a version that has been marked; its row is under the same. */
static void test_behind__a_copy_outlives_becoming_a_row(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	int writer = hold_writers(f);
	terrace_value *value;

	assert_ok(put_text(cache, "k", "v"));
	close(writer);
	for (int round = 0; round < 2; round++) {
		assert_ok(terrace_get(cache, TERRACE_KEY("k"), &value));
		assert_int_equal(terrace_value_tier(value), TERRACE_L1);
		terrace_release(value);
		assert_ok(terrace_flush(f->store));
	}
	/* One that was read while it waited, too. */
	writer = hold_writers(f);
	assert_ok(put_text(cache, "k", "w"));
	assert_ok(terrace_evict(cache, UINT64_MAX, NULL));
	assert_gives(cache, "k", "w");
	close(writer);
	assert_ok(terrace_flush(f->store));
	assert_ok(terrace_get(cache, TERRACE_KEY("k"), &value));
	assert_int_equal(terrace_value_tier(value), TERRACE_L1);
	terrace_release(value);
	terrace_cache_close(cache);
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

/* Another key whose version is the same, from the i-th on; where to look for the next. */
static int find_next_neighbour(terrace_cache *cache, const char *key, int i, char ret[16])
{
	uint32_t slot = cache_key(cache, terrace_str(key)).slot;

	do
		snprintf(ret, 16, "n%d", i++);
	while (cache_key(cache, terrace_str(ret)).slot != slot);
	return i;
}

static void find_neighbour(terrace_cache *cache, const char *key, char ret[16])
{
	find_next_neighbour(cache, key, 0, ret);
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
	struct peer peer = peer_start(f, &policy);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	char neighbour[16], neighbours_get[32];
	int writer;

	find_neighbour(cache, "k", neighbour);
	snprintf(neighbours_get, sizeof neighbours_get, "g %s", neighbour);
	assert_ok(put_text(cache, neighbour, "row"));
	assert_ok(terrace_flush(f->store));
	writer = hold_writers(f);
	assert_ok(put_text(cache, "k", "waits"));
	assert_gives(cache, neighbour, "row"); /* its row is good: nobody but us has the slot */
	assert_peer(&peer, neighbours_get, "row");
	assert_ok(put_text(cache, neighbour, "waits too"));
	assert_gives(cache, "k", "waits");
	assert_gives(cache, neighbour, "waits too");
	assert_peer(&peer, "g k", "waits");
	assert_peer(&peer, neighbours_get, "waits too");
	assert_ok(put_text(cache, "k", "later"));
	assert_peer(&peer, "g k", "later");
	assert_peer(&peer, neighbours_get, "waits too");
	close(writer);
	assert_ok(terrace_flush(f->store));
	assert_gives(cache, neighbour, "waits too");
	assert_gives(cache, "k", "later");
	assert_peer(&peer, neighbours_get, "waits too");
	terrace_cache_close(cache);
	peer_end(&peer);
}

/* What a process that reads all the time, and one that writes, tell each other. */
struct watched {
	_Atomic int put; /* the number of the last put of "k" that has returned */
	_Atomic int gets, stop, older;
};

static struct watched *watched_new(void)
{
	struct watched *watched = mmap(NULL, sizeof *watched, PROT_READ | PROT_WRITE,
	                               MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(watched != MAP_FAILED);
	return watched;
}

static pid_t start_watching(const struct fixture *f, const terrace_policy *policy,
                            struct watched *watched)
{
	pid_t pid = fork();
	terrace_cache *cache;
	terrace_value *value;
	terrace *store;
	char text[9] = "";

	if (pid != 0)
		return pid;
	if (terrace_open(scratch_path(&f->scratch, "store"), &f->options, &store) != TERRACE_OK ||
	    terrace_cache_open(store, "a", policy, &cache) != TERRACE_OK)
		_exit(1);
	while (!atomic_load(&watched->stop)) {
		int put = atomic_load(&watched->put);

		atomic_fetch_add(&watched->gets, 1);
		if (terrace_get(cache, TERRACE_KEY("k"), &value) != TERRACE_OK)
			continue;
		memcpy(text, terrace_data(value), sizeof text - 1);
		if (atoi(text) < put)
			atomic_fetch_add(&watched->older, 1);
		terrace_release(value);
	}
	terrace_close(store);
	_exit(0);
}

/*
 * A row may be read while its key is put beside a neighbour that waits: a copy of it must not
 * be good any more when that put has returned.
 */
static void test_behind__a_row_read_beside_a_put_is_not_kept(void **state)
{
	enum { ROUNDS = 10000, NEIGHBOURS = 5 };
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	struct watched *watched = watched_new();
	pid_t reader = start_watching(f, &policy, watched);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	char neighbours[NEIGHBOURS][16], text[16];
	int status;

	for (int i = 0, n = 0; n < NEIGHBOURS; n++)
		i = find_next_neighbour(cache, "k", i, neighbours[n]);
	while (!atomic_load(&watched->gets))
		usleep(1000);
	for (int i = 1; i <= ROUNDS && !atomic_load(&watched->older); i++) {
		snprintf(text, sizeof text, "%08d", i);
		for (int n = 0; n < NEIGHBOURS; n++)
			assert_ok(put_text(cache, neighbours[n], text));
		assert_ok(put_text(cache, "k", text));
		atomic_store(&watched->put, i);
		assert_ok(terrace_flush(f->store));
	}
	atomic_store(&watched->stop, 1);
	assert_int_equal(waitpid(reader, &status, 0), reader);
	assert_int_equal(status, 0);
	assert_int_equal(atomic_load(&watched->older), 0);
	munmap(watched, sizeof *watched);
	terrace_cache_close(cache);
}

static bool nothing_waits(const struct fixture *f)
{
	int lane = atomic_load(&f->store->behind.lane);

	return lane < 0 || terrace__lane_is_empty(f->store->shared, lane);
}

/*
 * Values of up to 64 KiB wait, too, where one thread puts them; what is larger, or is put
 * beside somebody who writes through, is encoded and written by its own thread.
 */
static void test_behind__large_values_wait_unless_others_write_theirs(void **state)
{
	enum { LARGE = 64 << 10, SMALL = 16 << 10, MANY = 40 };
	static char bytes[LARGE + 1];
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache, *limited;
	terrace_value *value;
	char key[16];
	int writer;

	f->options.wait_ms = 50;
	fixture_reopen(f);
	cache = fixture_cache(f, "a", NULL);
	policy.disk_bytes = 7 * LARGE;
	limited = fixture_cache(f, "limited", &policy);
	memset(bytes, 'b', sizeof bytes);
	for (int i = 0; i < MANY; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(put_text(cache, key, key));
	}
	assert_ok(terrace_flush(f->store));
	assert_ok(terrace_put(cache, TERRACE_KEY("larger"), terrace_bytes(bytes, LARGE + 1), NULL));
	assert_true(nothing_waits(f));
	assert_int_equal(atomic_load(&f->store->behind.through), 0);
	atomic_store(&f->store->behind.through, 1);
	assert_ok(terrace_put(cache, TERRACE_KEY("beside"), terrace_bytes(bytes, LARGE), NULL));
	assert_true(nothing_waits(f));
	writer = hold_writers(f);
	assert_ok(terrace_put(cache, TERRACE_KEY("small"), terrace_bytes(bytes, SMALL), NULL));
	atomic_store(&f->store->behind.through, 0);
	assert_ok(terrace_put(cache, TERRACE_KEY("alone"), terrace_bytes(bytes, LARGE), NULL));
	assert_false(nothing_waits(f));
	/* What is large for a limit would be refused too late. */
	assert_status(terrace_put(limited, TERRACE_KEY("k"), terrace_bytes(bytes, LARGE), NULL),
	              TERRACE_EBUSY);
	close(writer);
	while (terrace_flush(f->store) != TERRACE_OK)
		; /* of what failed while the lock was held it tells once */
	terrace_cache_close(limited);
	terrace_cache_close(cache);
	fixture_reopen(f);
	cache = fixture_cache(f, "a", NULL);
	assert_ok(terrace_get(cache, TERRACE_KEY("alone"), &value));
	assert_int_equal(terrace_size(value), LARGE);
	assert_memory_equal(terrace_data(value), bytes, LARGE);
	terrace_release(value);
	terrace_cache_close(cache);
}

/* Who needs rows encodes and writes all that waits: large values have a quarter of the lane. */
static void test_behind__large_values_leave_room_for_small_ones(void **state)
{
	enum { LARGE = 64 << 10, MOST = LANE_BYTES / 4 / LARGE };
	static char bytes[LARGE];
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	terrace_cache *cache;
	int writer, count = 0;
	char key[16];

	f->options.wait_ms = 50;
	fixture_reopen(f);
	cache = fixture_cache(f, "a", &policy);
	writer = hold_writers(f);
	do
		snprintf(key, sizeof key, "%d", count++);
	while (count <= 2 * MOST && terrace_put(cache, terrace_str(key),
	                                        terrace_bytes(bytes, LARGE), NULL) == TERRACE_OK);
	assert_in_range(count - 1, MOST / 2, MOST);
	assert_ok(put_text(cache, "small", "v"));
	close(writer);
	while (terrace_flush(f->store) != TERRACE_OK)
		;
	terrace_cache_close(cache);
}

/*
 * A value of several blocks that is large for its cache's limit: what waits is counted for that,
 * but not by who makes rows of it, who would wait for himself.
 */
static void test_behind__who_writes_does_not_wait_for_himself(void **state)
{
	enum { LIMIT = 4 << 20, LARGE = 600 << 10 };
	static uint8_t bytes[LARGE];
	struct fixture *f = *state;
	terrace_policy policy = behind(0);
	struct rng rng = { 5 };
	terrace_cache *cache;
	terrace_value *value;

	for (size_t i = 0; i < LARGE; i++)
		bytes[i] = (uint8_t)rng_next(&rng);
	policy.disk_bytes = LIMIT;
	cache = fixture_cache(f, "a", &policy);
	alarm(60);
	assert_ok(terrace_put(cache, TERRACE_KEY("k"), terrace_bytes(bytes, LARGE), NULL));
	assert_ok(terrace_flush(f->store));
	alarm(0);
	assert_ok(terrace_clear(cache, TERRACE_L1, NULL));
	assert_ok(terrace_get(cache, TERRACE_KEY("k"), &value));
	assert_int_equal(terrace_size(value), LARGE);
	assert_memory_equal(terrace_data(value), bytes, LARGE);
	terrace_release(value);
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
		assert_gives(cache, key, key);
	}
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

/* --- caches that are closed meanwhile --------------------------------------------------------------------- */

static struct {
	const struct disk_ops *real;
	struct disk_ops ops;
	terrace_cache *cache;
	_Atomic bool watched, making_room, closed, too_early;
} leaving;

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

static int victims_slowly(void *disk, uint32_t cache, int64_t now, struct tier_row *ret,
                          size_t most, size_t *ret_count)
{
	if (atomic_exchange(&leaving.watched, false)) {
		leaving.making_room = true;
		for (int i = 0; i < 100 && !leaving.closed; i++)
			nap();
		leaving.too_early = leaving.closed;
	}
	return leaving.real->victims(disk, cache, now, ret, most, ret_count);
}

static void *close_meanwhile(void *ctx)
{
	(void)ctx;
	for (int i = 0; i < 10000 && !leaving.making_room; i++)
		nap();
	terrace_cache_close(leaving.cache);
	leaving.closed = true;
	return NULL;
}

/* Who writes a value through writes first what waits, and makes room for the caches of that. */
static void test_behind__closing_waits_for_who_makes_room_for_the_cache(void **state)
{
	enum { LARGE = 100000 };
	struct fixture *f = *state;
	terrace_policy policy = behind(TERRACE_L2), through = TERRACE_POLICY_INIT;
	terrace_cache *other;
	pthread_t thread;
	char *large = calloc(1, LARGE);

	leaving.real = f->store->disk_ops;
	leaving.ops = *leaving.real;
	leaving.ops.victims = victims_slowly;
	f->store->disk_ops = &leaving.ops;
	through.write = TERRACE_WRITE_THROUGH;
	other = fixture_cache(f, "other", &through);
	policy.disk_entries = 1;
	leaving.cache = fixture_cache(f, "limited", &policy);
	assert_ok(put_text(leaving.cache, "k", "v"));
	assert_ok(terrace_flush(f->store));
	assert_int_equal(pthread_create(&thread, NULL, close_meanwhile, NULL), 0);
	leaving.watched = true;
	assert_ok(put_text(leaving.cache, "l", "v"));
	assert_ok(terrace_put(other, TERRACE_KEY("large"), terrace_bytes(large, LARGE), NULL));
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_false(leaving.watched);
	assert_false(leaving.too_early);
	terrace_cache_close(other);
	fixture_reopen(f);
	free(large);
}

int main(void)
{
#define test(name) \
	cmocka_unit_test_setup_teardown(test_behind__##name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		test(a_value_is_there_at_once_and_in_the_end_on_disk),
		test(closing_writes),
		test(other_processes_read_what_waits),
		test(what_waits_outlives_its_process),
		test(what_waits_elsewhere_is_replaced),
		test(nothing_is_lost_among_neighbours),
		test(rows_come_in_order_of_arrival),
		test(what_is_written_through_arrives_later),
		test(verbs_of_others_see_what_waits),
		test(who_writes_counts_on_what_came_to_wait_meanwhile),
		test(a_copy_outlives_becoming_a_row),
		test(what_was_flushed_survives_its_process),
		test(a_delete_elsewhere_removes_what_waits),
		test(an_invalidation_elsewhere_removes_what_waits),
		test(a_clear_elsewhere_removes_what_waits),
		test(an_invalidation_elsewhere_removes_what_has_no_row_yet),
		test(a_touch_elsewhere_revives_nothing),
		test(a_write_to_a_neighbour_revives_nothing),
		test(neighbours_can_both_wait),
		test(a_row_read_beside_a_put_is_not_kept),
		test(large_values_wait_unless_others_write_theirs),
		test(large_values_leave_room_for_small_ones),
		test(who_writes_does_not_wait_for_himself),
		test(the_last_put_wins_whoever_made_it),
		test(verbs_that_look_first_see_what_waits),
		test(a_full_queue_makes_the_caller_wait_and_then_say_so),
		test(threads_read_their_own_writes),
		test(closing_waits_for_who_makes_room_for_the_cache),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
