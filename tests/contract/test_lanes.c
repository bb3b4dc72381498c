/* Lanes: whose they are, what the dead leave in them, and what damage to them does. */
#include "support/peer.h"

#include "core/behind.h"
#include "core/locks.h"
#include "util/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <unistd.h>

static terrace_policy behind(void)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.write = TERRACE_WRITE_BEHIND;
	policy.tiers = TERRACE_L2;
	return policy;
}

/* --- whose a lane is ------------------------------------------------------------------------------------ */

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
	/* Some want the row of what the dead one left, while others take its lane. */
	if (starter->number % 2)
		terrace_delete(starter->cache, TERRACE_KEY("k"));
	else
		put_text(starter->cache, key, "v");
	return NULL;
}

/*
 * A process died with values waiting; the threads of another put their first
 * ones at the same time, or need what waits. Nobody may then take that process for dead.
 */
static void put_after_a_death(struct fixture *f)
{
	enum { STARTERS = 8 };
	terrace_policy policy = behind();
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
	fd = open(scratch_path(&f->scratch, "store/v2/shared"), O_RDWR | O_CLOEXEC);
	assert_int_equal(terrace__lock_try(fd, LOCK_LANES + (uint64_t)lane, true), -EAGAIN);
	close(fd);
	assert_ok(terrace_clear(cache, 0, NULL));
	terrace_cache_close(cache);
}

static void test_lanes__a_lane_stays_locked_when_threads_begin_together(void **state)
{
	for (int round = 0; round < 30; round++)
		put_after_a_death(*state);
}

/* What stands in a lane for a moment, and is taken out again, must not leave the mark on. */
static void test_lanes__a_mark_that_nobody_has_comes_off(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind();
	struct peer peer = peer_start(f, &policy);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	int writer, fd = open(scratch_path(&f->scratch, "store/v2/shared"), O_RDWR | O_CLOEXEC);
	struct lane_item item = { 0 };
	uint64_t bytes;

	assert_peer(&peer, "g k", "(miss)");
	writer = hold_writers(f);
	assert_peer(&peer, "p k newer", "ok");
	peer_kill(&peer);
	close(writer);
	/* A third process is about to find that the slot is not to be had. */
	assert_int_equal(terrace__lock_try(fd, LOCK_LANES + LANES - 1, true), 0);
	assert_ok(terrace__lane_make(f->store, LANES - 1, &bytes));
	assert_true(terrace__lane_head(f->store->shared, LANES - 1, &item.at));
	item.slot = cache_key(cache, TERRACE_KEY("k")).slot;
	terrace__lane_write(f->store, LANES - 1, &item, terrace_str("head"), terrace_str("v"));
	terrace__lane_tail_set(f->store->shared, LANES - 1, item.at + 1);
	assert_ok(terrace_delete(cache, TERRACE_KEY("k"))); /* and writes what the dead one left */
	terrace__lane_tail_set(f->store->shared, LANES - 1, item.at);
	close(fd);
	assert_ok(put_text(cache, "k", "last"));
	assert_ok(terrace_flush(f->store));
	assert_gives(cache, "k", "last");
	terrace_cache_close(cache);
}

/* --- what the dead leave, and what waits elsewhere ---------------------------------------------------- */

/* What a lane takes on the device is counted once, however many die with one. */
static void test_lanes__what_the_dead_leave_is_counted_once(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind();

	for (int i = 0; i < 4; i++) {
		struct peer peer;

		fixture_reopen(f);
		peer = peer_start(f, &policy);
		assert_peer(&peer, "p k v", "ok");
		peer_kill(&peer);
		assert_int_equal(terrace__lanes_bytes(f->store->shared), LANE_BYTES);
	}
	/* and not at all when there is none */
	assert_int_equal(unlink(scratch_path(&f->scratch, "store/v2/shared")), 0);
	fixture_reopen(f);
	assert_int_equal(terrace__lanes_bytes(f->store->shared), 0);
	assert_int_equal(access(scratch_path(&f->scratch, "store/v2/lanes"), F_OK), -1);
}

/* One that has more than becomes rows in one transaction. */
static void test_lanes__all_that_the_dead_leave_becomes_rows(void **state)
{
	enum { MANY = 1500 };
	struct fixture *f = *state;
	terrace_policy policy = behind();
	struct peer peer = peer_start(f, &policy);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	terrace_keys *keys;
	terrace_slice key;
	char order[32];
	int writer, count = 0;

	assert_peer(&peer, "g k", "(miss)"); /* it is there */
	writer = hold_writers(f);
	for (int i = 0; i < MANY; i++) {
		snprintf(order, sizeof order, "p %d v", i);
		assert_peer(&peer, order, "ok");
	}
	peer_kill(&peer);
	close(writer);
	assert_ok(terrace_keys_open(cache, NULL, &keys));
	while (terrace_keys_next(keys, &key) == TERRACE_OK)
		count++;
	terrace_keys_close(keys);
	assert_int_equal(count, MANY);
	terrace_cache_close(cache);
}

/* Without being asked for any of them. */
static void test_lanes__who_comes_makes_rows_of_what_the_dead_left(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind();
	struct peer peer = peer_start(f, &policy);
	int writer;

	assert_peer(&peer, "g k", "(miss)"); /* it is there */
	writer = hold_writers(f);
	assert_peer(&peer, "p k v", "ok");
	peer_kill(&peer);
	close(writer);
	assert_true(terrace__lanes_any(f->store, NULL));
	fixture_reopen(f);
	assert_false(terrace__lanes_any(f->store, NULL));
}

/* A disk at which another process reads the key before each transaction. */
static struct {
	const struct disk_ops *real;
	struct disk_ops ops;
	struct peer peer;
	int begun, older;
} watched_disk;

static int begin_watched(void *disk, uint64_t seq)
{
	watched_disk.begun++;
	tell(&watched_disk.peer, "g k");
	watched_disk.older += strcmp(hear(&watched_disk.peer), "(miss)") != 0;
	return watched_disk.real->begin(disk, seq);
}

/*
 * Who made rows died when that was done but for saying so. What was written since stands
 * when it is done again, in smaller pieces: of the two values the later one is in another.
 */
static void test_lanes__what_was_made_rows_twice_does_not_come_back(void **state)
{
	enum { BETWEEN = 600 };
	struct fixture *f = *state;
	terrace_policy policy = behind();
	struct peer owner = peer_start(f, &policy), reader = peer_start(f, &policy);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	struct shared *shared = f->store->shared;
	uint32_t slot = cache_key(cache, TERRACE_KEY("k")).slot;
	struct lane_item item;
	int writer, lane;
	uint64_t head;
	char order[32];

	/* They have opened the store, which waits for other writers. */
	assert_peer(&owner, "g k", "(miss)");
	assert_peer(&reader, "g k", "(miss)");
	writer = hold_writers(f);
	assert_peer(&owner, "p k older", "ok");
	for (int i = 0; i < BETWEEN; i++) {
		snprintf(order, sizeof order, "p f%d v", i);
		assert_peer(&owner, order, "ok");
	}
	assert_peer(&owner, "p k newer", "ok");
	peer_kill(&owner);
	close(writer);
	assert_true(terrace__lane_find(shared, slot, &lane, &item));
	head = atomic_load(&shared->lanes[lane].head);
	assert_ok(terrace__writer_lock(f->store, 10000));
	terrace__behind_settle_now(f->store, slot);
	terrace__writer_unlock(f->store);
	assert_true(terrace__lane_is_empty(shared, lane));
	atomic_store(&shared->lanes[lane].head, head);
	assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
	assert_peer(&reader, "g k", "(miss)");
	watched_disk.peer = reader;
	watched_disk.begun = watched_disk.older = 0;
	watched_disk.real = f->store->disk_ops;
	watched_disk.ops = *watched_disk.real;
	watched_disk.ops.begin = begin_watched;
	f->store->disk_ops = &watched_disk.ops;
	terrace__behind_settle_all(f->store);
	f->store->disk_ops = watched_disk.real;
	assert_true(watched_disk.begun > 1);
	assert_int_equal(watched_disk.older, 0);
	assert_peer(&reader, "g k", "(miss)");
	terrace_cache_close(cache);
	peer_end(&reader);
}

static struct {
	const struct disk_ops *real;
	struct disk_ops ops;
	_Atomic uint64_t *_Atomic tail; /* what is damaged next, if anything */
} damaging;

static int begin_damaging(void *disk, uint64_t seq)
{
	_Atomic uint64_t *tail = atomic_exchange(&damaging.tail, NULL);

	if (tail)
		atomic_fetch_xor(tail, 1);
	return damaging.real->begin(disk, seq);
}

/*
 * The lane's end is damaged while a first part of it becomes rows. It is mended to be where
 * that part ends: a flush does not wait for what it knew of.
 */
static void test_lanes__a_flush_ends_though_the_end_is_damaged_meanwhile(void **state)
{
	enum { MORE_THAN_A_BATCH = 600 };
	struct fixture *f = *state;
	terrace_policy policy = behind();
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	struct shared *shared = f->store->shared;
	char key[16];
	int writer, lane;

	/* Before there is a thread that writes. */
	damaging.real = f->store->disk_ops;
	damaging.ops = *damaging.real;
	damaging.ops.begin = begin_damaging;
	f->store->disk_ops = &damaging.ops;
	assert_ok(put_text(cache, "first", "v"));
	assert_ok(terrace_flush(f->store));
	lane = atomic_load(&f->store->behind.lane);
	writer = hold_writers(f);
	for (int i = 0; i < MORE_THAN_A_BATCH; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(put_text(cache, key, "v"));
	}
	damaging.tail = &shared->lanes[lane].tail;
	close(writer);
	assert_ok(terrace_flush(f->store));
	assert_null(atomic_load(&damaging.tail));
	assert_true(terrace__lane_is_empty(shared, lane));
	/* What was to be replaced by what is lost cannot be told, so all of it is. */
	snprintf(key, sizeof key, "%d", MORE_THAN_A_BATCH - 1);
	assert_misses(cache, key);
	assert_ok(put_text(cache, key, "again"));
	assert_ok(terrace_flush(f->store));
	assert_gives(cache, key, "again");
	f->store->disk_ops = damaging.real;
	terrace_cache_close(cache);
}

/* Counted are entries, in a lane or in rows. */
static void test_lanes__what_waits_elsewhere_is_counted(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind();
	struct peer peer = peer_start(f, &policy);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_usage usage;
	char order[32];

	for (int i = 1; i <= 20; i++) {
		snprintf(order, sizeof order, "p %d v", i);
		assert_peer(&peer, order, "ok");
		if (i % 2) {
			assert_ok(terrace_cache_usage(cache, &usage));
			assert_int_equal(usage.entries, i);
		} else {
			assert_ok(terrace_cache_stats(cache, &stats));
			assert_int_equal(stats.l2.entries, i);
		}
	}
	terrace_cache_close(cache);
	peer_end(&peer);
}

/* What waited is lost with the file that says so; what it replaced must not come back. */
static void test_lanes__without_the_shared_file_nothing_older_comes_back(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind();
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	struct peer peer;
	int writer;

	assert_ok(put_text(cache, "k", "older"));
	terrace_cache_close(cache);
	terrace_close(f->store); /* who leaves would make a row of what waits */
	f->store = NULL;
	peer = peer_start(f, &policy);
	assert_peer(&peer, "g k", "older");
	writer = hold_writers(f);
	assert_peer(&peer, "p k newer", "ok");
	peer_kill(&peer);
	close(writer);
	assert_int_equal(unlink(scratch_path(&f->scratch, "store/v2/shared")), 0);
	fixture_reopen(f);
	cache = fixture_cache(f, "a", &policy);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

/* --- damage --------------------------------------------------------------------------------------------- */

/*
 * A record that is damaged while it waits is a miss, and what it replaced is gone: with all that
 * was put into its cache before it where its key cannot be told, and else alone.
 */
static void test_lanes__a_damaged_record_is_a_miss(void **state)
{
	struct fixture *f = *state;
	enum { HEAD = RECORD_HEAD_FIXED + 7, VALUE = 5 };
	terrace_policy policy = behind();
	terrace_cache *cache = fixture_cache(f, "a", &policy), *apart;
	struct peer peer = peer_start(f, &policy);

	assert_ok(terrace_cache_open(f->store, "apart", &policy, &apart));
	assert_ok(put_text(apart, "k", "apart"));
	/* head with the key, and value; the rest of its place is not looked at */
	for (off_t at = 0; at < HEAD + VALUE; at++) {
		struct lane_item item;
		terrace_value *value;
		uint64_t head;
		int lane;
		int writer;
		bool met;

		assert_ok(put_text(cache, "tile/12", "older"));
		assert_ok(put_text(cache, "l", "other"));
		assert_ok(terrace_flush(f->store));
		lane = atomic_load(&f->store->behind.lane);
		writer = hold_writers(f);
		assert_ok(put_text(cache, "tile/12", "newer"));
		assert_ok(put_text(cache, "m", "later"));
		assert_true(terrace__lane_head(f->store->shared, lane, &head));
		assert_true(terrace__lane_read(f->store->shared, lane, head, &item));
		flip_bit(scratch_path(&f->scratch, "store/v2/lanes"),
		         (off_t)lane * LANE_BYTES + item.offset + at, (int)at % 8);
		assert_peer(&peer, "g tile/12", "(miss)");
		close(writer);
		assert_ok(terrace_flush(f->store));
		/* unless the thread had read it before */
		tell(&peer, "g tile/12");
		met = strcmp("newer", hear(&peer)) != 0;
		if (met)
			assert_peer(&peer, "g tile/12", "(miss)");
		assert_peer(&peer, "g l", met && at < HEAD ? "(miss)" : "other");
		assert_peer(&peer, "g m", "later");
		assert_ok(terrace_evict(apart, UINT64_MAX, NULL));
		assert_ok(terrace_get(apart, TERRACE_KEY("k"), &value));
		assert_memory_equal(terrace_data(value), "apart", 5);
		terrace_release(value);
	}
	terrace_cache_close(apart);
	terrace_cache_close(cache);
	peer_end(&peer);
}

static struct {
	const struct disk_ops *real;
	struct disk_ops ops;
	_Atomic bool fails;
} committing;

static int commit_or_fail(void *disk, uint64_t *ret_seq)
{
	if (!atomic_exchange(&committing.fails, false))
		return committing.real->commit(disk, ret_seq);
	committing.real->rollback(disk);
	return TERRACE_EIO;
}

static int64_t ask(const struct fixture *f, const char *sql)
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

/* What a try that was taken back has told all processes, the database is told by the next one. */
static void test_lanes__a_damaged_record_voids_what_is_older_though_a_try_fails(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = behind();
	terrace_cache *cache;
	struct lane_item item;
	uint64_t head;
	int lane, writer;

	committing.real = f->store->disk_ops;
	committing.ops = *committing.real;
	committing.ops.commit = commit_or_fail;
	f->store->disk_ops = &committing.ops;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "k", "older"));
	assert_ok(terrace_flush(f->store));
	lane = atomic_load(&f->store->behind.lane);
	writer = hold_writers(f);
	assert_ok(put_text(cache, "k", "newer"));
	assert_true(terrace__lane_head(f->store->shared, lane, &head));
	assert_true(terrace__lane_read(f->store->shared, lane, head, &item));
	flip_bit(scratch_path(&f->scratch, "store/v2/lanes"),
	         (off_t)lane * LANE_BYTES + item.offset + RECORD_HEAD_FIXED, 0);
	committing.fails = true;
	close(writer);
	terrace_flush(f->store);
	assert_false(committing.fails);
	terrace_flush(f->store);
	assert_misses(cache, "k");
	assert_true(ask(f, "SELECT floor FROM cache WHERE name = 'a'") >= (int64_t)item.seq);
	terrace_cache_close(cache);
	fixture_reopen(f);
}

static void assert_not_older(const struct fixture *f, terrace_cache *cache, const struct peer *peer)
{
	terrace_value *value;

	tell(peer, "g k");
	assert_string_not_equal(hear(peer), "older");
	/* from below L1, and by somebody who may take marks off at once */
	assert_ok(terrace_evict(cache, UINT64_MAX, NULL));
	atomic_store(&f->store->behind.looked, 0);
	if (terrace_get(cache, TERRACE_KEY("k"), &value) != TERRACE_OK)
		return;
	assert_memory_not_equal(terrace_data(value), "older", 5);
	terrace_release(value);
}

static off_t offset_in(const struct shared *shared, const void *place)
{
	return (const char *)place - (const char *)shared;
}

/* The mark of what was put last. */
static off_t last_mark(const struct shared *shared, int lane)
{
	uint64_t head, tail;

	assert_true(terrace__lane_span(shared, lane, &head, &tail));
	return offset_in(shared, &shared->lanes[lane].marks[(tail - 1) % MARKS]);
}

/* offset: in the shared file; -1: in the mark. */
static void flip_while_waiting(const struct fixture *f, terrace_cache *cache,
                               const struct peer *peer, off_t offset, int bit)
{
	int writer;

	assert_ok(put_text(cache, "k", "older"));
	assert_ok(put_text(cache, "l", "other"));
	assert_ok(terrace_flush(f->store));
	assert_peer(peer, "g k", "older");
	writer = hold_writers(f);
	assert_ok(put_text(cache, "l", "before"));
	assert_ok(put_text(cache, "k", "newer"));
	if (offset < 0)
		offset = last_mark(f->store->shared, atomic_load(&f->store->behind.lane));
	flip_bit(scratch_path(&f->scratch, "store/v2/shared"), offset + bit / 8, bit % 8);
	assert_not_older(f, cache, peer);
	close(writer);
	terrace_flush(f->store);
	assert_not_older(f, cache, peer);
	/* By everybody, and not only for once. */
	assert_peer(peer, "p k theirs", "ok");
	assert_gives(cache, "k", "theirs");
	assert_ok(put_text(cache, "k", "last"));
	assert_ok(terrace_flush(f->store));
	assert_peer(peer, "g k", "last");
}

/*
 * Bits of what says where values wait, flipped under processes that have it mapped: what
 * waits may be lost, but what it replaced does not come back, and putting goes on.
 */
static void test_lanes__damaged_places_are_misses(void **state)
{
	enum { MARK_BITS = 8 * sizeof(struct shared_mark), STEP = 11 };
	struct fixture *f = *state;
	terrace_policy policy = behind();
	struct peer peer = peer_start(f, &policy);
	terrace_cache *cache = fixture_cache(f, "a", &policy);
	const struct shared *shared = f->store->shared;
	uint32_t slot = cache_key(cache, TERRACE_KEY("k")).slot;
	const struct shared_lane *lane;

	assert_ok(put_text(cache, "k", "first"));
	lane = &shared->lanes[atomic_load(&f->store->behind.lane)];
	for (int bit = 0; bit < 64; bit++) {
		flip_while_waiting(f, cache, &peer, offset_in(shared, &lane->head), bit);
		flip_while_waiting(f, cache, &peer, offset_in(shared, &lane->tail), bit);
		if (bit < 32)
			flip_while_waiting(f, cache, &peer,
			                   offset_in(shared, &shared->waiting[slot]), bit);
		if (bit % 4 == 0)
			flip_while_waiting(f, cache, &peer,
			                   offset_in(shared, &shared->versions[slot]), bit);
	}
	/* Whether a flip leads up or down depends on the number. */
	for (int i = 0; i < 24; i++)
		flip_while_waiting(f, cache, &peer, offset_in(shared, &lane->head),
		                   CHECK_BITS + i % 3);
	for (int bit = 0; bit < MARK_BITS; bit += STEP)
		flip_while_waiting(f, cache, &peer, -1, bit);
	terrace_cache_close(cache);
	peer_end(&peer);
}

int main(void)
{
#define test(name) \
	cmocka_unit_test_setup_teardown(test_lanes__##name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		test(a_lane_stays_locked_when_threads_begin_together),
		test(a_mark_that_nobody_has_comes_off),
		test(what_the_dead_leave_is_counted_once),
		test(all_that_the_dead_leave_becomes_rows),
		test(who_comes_makes_rows_of_what_the_dead_left),
		test(what_was_made_rows_twice_does_not_come_back),
		test(a_flush_ends_though_the_end_is_damaged_meanwhile),
		test(what_waits_elsewhere_is_counted),
		test(without_the_shared_file_nothing_older_comes_back),
		test(a_damaged_record_is_a_miss),
		test(a_damaged_record_voids_what_is_older_though_a_try_fails),
		test(damaged_places_are_misses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
