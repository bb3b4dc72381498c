/*
 * Who removes many rows takes turns with those who put: nobody waits for more
 * than a batch of them.
 */
#include "support/peer.h"

#include "core/store.h"
#include "core/write.h"
#include "tiers/sqlite/connection.h"

#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 100, TIMES = 20 };

static void put_rows(terrace_cache *cache, int count, int64_t ttl_ms)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	char keys[BATCH][16], value[100] = "";
	terrace_item items[BATCH];

	options.ttl_ms = ttl_ms;
	for (int from = 0; from < count; from += BATCH) {
		for (int i = 0; i < BATCH; i++) {
			snprintf(keys[i], sizeof keys[i], "%d", from + i);
			items[i] = (terrace_item){ terrace_str(keys[i]),
				                   terrace_bytes(value, sizeof value) };
		}
		assert_ok(terrace_put_many(cache, items, BATCH, &options));
	}
}

static uint64_t rows_of(terrace_cache *cache)
{
	terrace_usage usage;

	assert_ok(terrace_cache_usage(cache, &usage));
	return usage.entries;
}

/* --- a put makes room ------------------------------------------------------------------------------ */

static void test_room__a_put_removes_no_more_than_a_batch_beyond_need(void **state)
{
	enum { LIMIT = 32 << 20, NEWS = 2000, VALUE = 1024, MOST = 256 };
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	char key[16], value[VALUE] = "";
	uint64_t before, after, most = 0, removed = 0;
	terrace_cache *cache;

	policy.tiers = TERRACE_L2;
	terrace_close(f->store);
	f->options.disk_bytes = LIMIT;
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	cache = fixture_rows(f, "a", &policy);
	put_rows(cache, 100000, 1000);
	atomic_fetch_add(&f->clock.now, 2000);
	before = rows_of(cache);
	for (int i = 0; i < NEWS || removed == 0; i++) {
		snprintf(key, sizeof key, "new %d", i);
		assert_ok(terrace_put(cache, terrace_str(key), terrace_bytes(value, VALUE), NULL));
		after = rows_of(cache);
		if (before + 1 - after > most)
			most = before + 1 - after;
		removed += before + 1 - after;
		before = after;
	}
	print_message("%llu rows went, %llu at most for one put\n", (unsigned long long)removed,
	              (unsigned long long)most);
	assert_in_range(most, 1, MOST);
	terrace_cache_close(cache);
}

/* As where the tree of rows is out of order: who goes through it meets rows that nobody finds. */
static int find_no_row(void *disk, uint32_t cache, int64_t now, struct tier_row *ret, size_t most,
                       size_t *ret_count)
{
	(void)disk;
	(void)now;
	*ret = (struct tier_row){ .id = 1, .hash = 1, .cache = cache, .charge = 100 };
	*ret_count = most;
	return TERRACE_OK;
}

static void test_room__a_put_returns_where_no_victim_is_found(void **state)
{
	enum { LIMIT = 10, SECONDS = 20 };
	static struct disk_ops blind;
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	const struct disk_ops *whole = f->store->disk_ops;
	terrace_cache *cache;

	policy.tiers = TERRACE_L2;
	policy.disk_entries = LIMIT;
	cache = fixture_rows(f, "a", &policy);
	blind = *whole;
	blind.victims = find_no_row;
	f->store->disk_ops = &blind;
	alarm(SECONDS);
	put_rows(cache, BATCH, TERRACE_TTL_FOREVER);
	alarm(0);
	assert_int_equal(rows_of(cache), BATCH);
	f->store->disk_ops = whole;
	assert_ok(put_text(cache, "key", "v"));
	assert_int_equal(rows_of(cache), LIMIT);
	terrace_cache_close(cache);
}

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
}

static struct {
	_Atomic bool held, enough;
} holding;

static void *hold(void *ctx)
{
	assert_ok(terrace__writer_lock(ctx, 10000));
	holding.held = true;
	while (!holding.enough)
		nap();
	terrace__writer_unlock(ctx);
	return NULL;
}

/* Who puts may wait for what waits to be written, and for the room that is made for it. */
static void test_room__what_waits_is_written_in_small_parts_where_there_is_none(void **state)
{
	enum { LIMIT = 1000, VALUES = 400, PART = 16 };
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	char key[16];
	terrace_cache *cache;
	pthread_t holder;
	uint32_t turns;

	policy.tiers = TERRACE_L2;
	policy.write = TERRACE_WRITE_BEHIND;
	policy.disk_entries = LIMIT;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < 2 * LIMIT; i++) {
		snprintf(key, sizeof key, "old %d", i);
		assert_ok(put_text(cache, key, "v"));
	}
	assert_ok(terrace_flush(f->store));
	/* All of them wait until the lock is free. */
	pthread_create(&holder, NULL, hold, f->store);
	while (!holding.held)
		nap();
	for (int i = 0; i < VALUES; i++) {
		snprintf(key, sizeof key, "new %d", i);
		assert_ok(put_text(cache, key, "v"));
	}
	turns = atomic_load(&f->store->shared->writer_turn);
	holding.enough = true;
	pthread_join(holder, NULL);
	assert_ok(terrace_flush(f->store));
	assert_in_range(atomic_load(&f->store->shared->writer_turn) - turns, VALUES / PART / 2,
	                VALUES);
	assert_int_equal(misses(cache, "new 399"), TERRACE_OK);
	terrace_cache_close(cache);
}

static int put_nothing(void *tier, const struct tier_put *put)
{
	(void)tier;
	(void)put;
	return TERRACE_EIO;
}

/* What cannot be written is given up as a whole, in however small parts: gets and listings agree. */
static void test_room__what_cannot_be_written_is_given_up_part_by_part(void **state)
{
	enum { VALUES = 100 };
	static struct disk_ops broken;
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	const struct disk_ops *whole = f->store->disk_ops;
	terrace_cache *cache;
	char key[16];

	policy.tiers = TERRACE_L2;
	policy.write = TERRACE_WRITE_BEHIND;
	cache = fixture_cache(f, "a", &policy);
	broken = *whole;

	put_rows(cache, BATCH, TERRACE_TTL_FOREVER);
	assert_ok(terrace_flush(f->store));
	f->store->behind.small = 1000;
	broken.tier.put = put_nothing;
	f->store->disk_ops = &broken;
	for (int i = 0; i < VALUES; i++) {
		snprintf(key, sizeof key, "new %d", i);
		assert_ok(put_text(cache, key, "v"));
	}
	assert_status(terrace_flush(f->store), TERRACE_EIO);
	f->store->disk_ops = whole;
	for (int i = 0; i < VALUES; i++) {
		snprintf(key, sizeof key, "new %d", i);
		assert_misses(cache, key);
	}
	assert_int_equal(rows_of(cache), BATCH);
	terrace_cache_close(cache);
}

/* --- who takes the lock again and again ---------------------------------------------------------------- */

/*
 * How many of TIMES somebody has the lock who comes for it while we have it, and waits,
 * before we have it again.
 */
static int times_before_us(struct terrace *store, void *(*come)(void *ctx), void *ctx,
                           bool (*waits)(struct terrace *store))
{
	_Atomic uint32_t *turn = &store->shared->writer_turn;
	int before = 0;

	for (int i = 0; i < TIMES; i++) {
		pthread_t thread;
		uint32_t was;

		assert_ok(terrace__writer_lock(store, 10000));
		pthread_create(&thread, NULL, come, ctx);
		while (!waits(store))
			nap();
		was = atomic_load(turn);
		terrace__writer_unlock(store);
		assert_ok(terrace__writer_lock(store, 10000));
		before += atomic_load(turn) == was + 2; /* ours, and the other's */
		terrace__writer_unlock(store);
		pthread_join(thread, NULL);
	}
	print_message("%d of %d times\n", before, TIMES);
	return before;
}

static bool is_queued(struct terrace *store)
{
	bool queued;

	pthread_mutex_lock(&store->writer.lock);
	queued = store->writer.waiting.first != NULL;
	pthread_mutex_unlock(&store->writer.lock);
	return queued;
}

static void *put_one(void *ctx)
{
	assert_ok(put_text(ctx, "key", "v"));
	return NULL;
}

static void test_lock__a_thread_that_waits_goes_before_who_takes_it_again(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	policy.tiers = TERRACE_L2;
	cache = fixture_cache(f, "a", &policy);
	assert_int_equal(times_before_us(f->store, put_one, cache, is_queued), TIMES);
	terrace_cache_close(cache);
}

static bool is_waiting_alone(struct terrace *store)
{
	bool waiting;

	pthread_mutex_lock(&store->writer.lock);
	waiting = store->writer.alone.first != NULL;
	pthread_mutex_unlock(&store->writer.lock);
	return waiting;
}

static void *lock_once(void *ctx)
{
	assert_ok(terrace__writer_lock(ctx, 10000));
	terrace__writer_unlock(ctx);
	return NULL;
}

static void *give_up(void *ctx)
{
	assert_status(terrace__writer_lock(ctx, 0), TERRACE_EBUSY);
	return NULL;
}

/* As does who writes what waits in a lane, beside who removes many rows. */
static void test_lock__who_waits_alone_goes_before_who_takes_it_again(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	pthread_t thread;

	assert_int_equal(times_before_us(f->store, lock_once, f->store, is_waiting_alone), TIMES);
	/* Who gives up is waited for no more. */
	assert_ok(terrace__writer_lock(f->store, 10000));
	pthread_create(&thread, NULL, give_up, f->store);
	pthread_join(thread, NULL);
	assert_false(is_waiting_alone(f->store));
	terrace__writer_unlock(f->store);
	assert_ok(terrace__writer_lock(f->store, 0));
	terrace__writer_unlock(f->store);
	terrace_cache_close(cache);
}

static bool is_waiting_elsewhere(struct terrace *store)
{
	return atomic_load(&store->shared->writer_waiters) > 0;
}

static void *put_elsewhere(void *peer)
{
	assert_peer(peer, "p key v", "ok");
	return NULL;
}

static void test_lock__a_process_that_waits_goes_before_who_takes_it_again(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct peer peer;
	int before;

	policy.tiers = TERRACE_L2;
	peer = peer_start(f, &policy);
	assert_peer(&peer, "p key v", "ok");
	before = times_before_us(f->store, put_elsewhere, &peer, is_waiting_elsewhere);
	peer_end(&peer);
	/* It may sleep longer than it is waited for, but not each time. */
	assert_in_range(before, TIMES / 2, TIMES);
}

/* --- the log, beside readers ------------------------------------------------------------------------- */

static struct {
	terrace_cache *cache;
	_Atomic bool stop;
} readers;

static bool look_slowly(void *ctx, const struct tier_row *row)
{
	(void)row;
	nap();
	return ++*(int *)ctx < 10;
}

/* Within one read transaction or the next. */
static void *read_on(void *ctx)
{
	struct terrace *store = readers.cache->store;
	terrace_match all = { .kind = TERRACE_MATCH_ALL };
	struct disk_where where = { .kind = DISK_MATCHING,
		                    .cache = readers.cache->number,
		                    .match = &all };

	(void)ctx;
	while (!atomic_load(&readers.stop)) {
		int count = 0;

		assert_ok(store->disk_ops->select(store->disk, &where, look_slowly, &count));
	}
	return NULL;
}

static void test_log__stays_short_beside_readers_who_overlap(void **state)
{
	/* A 64th of it is the log's: 512 KiB. */
	enum { LIMIT = 32 << 20, PUTS = 6000, VALUE = 4000, READERS = 4, MOST = 20 << 19 };
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	char key[16], value[VALUE] = "";
	pthread_t threads[READERS];
	off_t largest = 0;
	struct stat st;

	policy.tiers = TERRACE_L2;
	terrace_close(f->store);
	f->options.disk_bytes = LIMIT;
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	readers.cache = fixture_cache(f, "a", &policy);
	readers.stop = false;
	put_rows(readers.cache, 100, TERRACE_TTL_FOREVER);
	for (int i = 0; i < READERS; i++)
		pthread_create(&threads[i], NULL, read_on, NULL);
	for (int i = 0; i < PUTS; i++) {
		snprintf(key, sizeof key, "%d", i % 1000);
		value[i % VALUE]++;
		assert_ok(terrace_put(readers.cache, terrace_str(key), terrace_bytes(value, VALUE),
		                      NULL));
		assert_int_equal(stat(scratch_path(&f->scratch, "store/v2/db-1-wal"), &st), 0);
		largest = st.st_size > largest ? st.st_size : largest;
	}
	atomic_store(&readers.stop, true);
	for (int i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	print_message("at most %lld bytes\n", (long long)largest);
	assert_true(largest < MOST);
	terrace_cache_close(readers.cache);
}

/* --- however many rows there are ----------------------------------------------------------------------- */

/* What looks at all rows on purpose. */
static bool may_scan(const char *name)
{
	return strcmp(name, "FILES") == 0 || strcmp(name, "NOTE_CLEAR") == 0;
}

/* One row of the plan: no look at all rows, nor at all of an index or a list again for each batch. */
static bool is_lean(const char *step)
{
	static const char *const costly[] = { "SCAN entry", "SCAN link", "SCAN note",
		                              "LIST SUBQUERY", "TEMP B-TREE" };

	for (size_t i = 0; i < sizeof costly / sizeof *costly; i++) {
		if (strstr(step, costly[i]))
			return false;
	}
	return true;
}

static void test_rows__are_found_by_index_alone(void **state)
{
	static const struct {
		const char *name, *sql;
	} statements[] = {
#define X(name, text) { #name, text },
		DISK_STATEMENTS(X)
#undef X
	};
	struct fixture *f = *state;
	sqlite3_stmt *plan;
	sqlite3 *db;
	char sql[1200];

	assert_int_equal(sqlite3_open(scratch_path(&f->scratch, "store/v2/db-1"), &db), SQLITE_OK);
	assert_ok(terrace__renew_prepare(NULL, db)); /* it is not called */
	for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
		snprintf(sql, sizeof sql, "EXPLAIN QUERY PLAN %s", statements[i].sql);
		assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &plan, NULL), SQLITE_OK);
		while (sqlite3_step(plan) == SQLITE_ROW) {
			const char *step = (const char *)sqlite3_column_text(plan, 3);

			if (!may_scan(statements[i].name) && !is_lean(step))
				fail_msg("%s: %s", statements[i].name, step);
		}
		sqlite3_finalize(plan);
	}
	sqlite3_close(db);
}

int main(void)
{
#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		WITH_STORE(test_room__a_put_removes_no_more_than_a_batch_beyond_need),
		WITH_STORE(test_room__a_put_returns_where_no_victim_is_found),
		WITH_STORE(test_room__what_waits_is_written_in_small_parts_where_there_is_none),
		WITH_STORE(test_room__what_cannot_be_written_is_given_up_part_by_part),
		WITH_STORE(test_lock__a_thread_that_waits_goes_before_who_takes_it_again),
		WITH_STORE(test_lock__who_waits_alone_goes_before_who_takes_it_again),
		WITH_STORE(test_lock__a_process_that_waits_goes_before_who_takes_it_again),
		WITH_STORE(test_log__stays_short_beside_readers_who_overlap),
		WITH_STORE(test_rows__are_found_by_index_alone),
	};

	return cmocka_run_group_tests_name("turns", tests, NULL, NULL);
}
