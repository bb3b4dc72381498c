/*
 * The date is set while a store is open, and while it is closed: nothing lives
 * for ever, and nothing dies early. The clock is the machine's, seen through a
 * clock_gettime() of this program, which the library calls as well.
 */
#include "support/peer.h"

#include "core/sources.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const int64_t hour = 3600 * 1000;

/* What is added to the date, to the time that has passed, and to that of the machine's sleep. */
static _Atomic int64_t set_ms, passed_ms, slept_ms;
/* What passes just before, and what the machine sleeps just after the next look at CLOCK_BOOTTIME. */
static _Atomic int64_t stops_before_ms, sleeps_after_ms;

int clock_gettime(clockid_t clock, struct timespec *ret)
{
	bool date = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
	bool boot = clock == CLOCK_BOOTTIME;
	int64_t add, ns;
	long rc;

	if (boot)
		atomic_fetch_add(&passed_ms, atomic_exchange(&stops_before_ms, 0));
	add = atomic_load(&passed_ms) + (date ? atomic_load(&set_ms) : 0) +
	      (date || boot ? atomic_load(&slept_ms) : 0);
	rc = syscall(SYS_clock_gettime, clock, ret);
	if (boot)
		atomic_fetch_add(&slept_ms, atomic_exchange(&sleeps_after_ms, 0));
	if (rc < 0)
		return -1;
	ns = (add % 1000) * 1000000 + ret->tv_nsec;
	ret->tv_sec += add / 1000 + (ns < 0 ? -1 : ns / 1000000000);
	ret->tv_nsec = ns < 0 ? ns + 1000000000 : ns % 1000000000;
	return 0;
}

/* The same just after the next look at a file. */
static _Atomic int64_t stops_after_ms;

int stat(const char *restrict path, struct stat *restrict ret)
{
	int rc = fstatat(AT_FDCWD, path, ret, 0);

	atomic_fetch_add(&passed_ms, atomic_exchange(&stops_after_ms, 0));
	return rc;
}

static const int64_t jumps[] = { 3600 * 1000, -3600 * 1000, INT64_C(10) * 365 * 24 * 3600 * 1000,
	                         -INT64_C(10) * 365 * 24 * 3600 * 1000 };
enum { JUMPS = sizeof jumps / sizeof *jumps };

static const unsigned tiers[] = { TERRACE_L1, TERRACE_L2, TERRACE_L3, 0 };

static void put_for(terrace_cache *cache, const char *key, int64_t ttl_ms)
{
	terrace_put_options options = TERRACE_PUT_INIT;

	options.ttl_ms = ttl_ms;
	assert_ok(terrace_put(cache, terrace_str(key), terrace_str("v"), &options));
}

static void open_with_real_clock(struct fixture *f)
{
	memset(f, 0, sizeof *f);
	atomic_store(&set_ms, 0);
	fixture_open(f);
	f->options.clock = NULL;
	f->options.clock_ctx = NULL;
	fixture_reopen(f);
}

static terrace_cache *cache_in(struct fixture *f, unsigned which)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.tiers = which;
	policy.inline_bytes = which == TERRACE_L3 ? 1 : 0;
	return fixture_cache(f, "a", &policy);
}

/* Two hours to live: there after one, gone after three, whatever the date is set to. */
static void live(struct fixture *f, unsigned which, int64_t jump, bool reopen)
{
	terrace_cache *cache = cache_in(f, which);

	put_for(cache, "k", 2 * hour);
	put_for(cache, "for ever", TERRACE_TTL_FOREVER);
	atomic_fetch_add(&set_ms, jump);
	if (reopen) {
		terrace_cache_close(cache);
		fixture_reopen(f);
		cache = cache_in(f, which);
	}
	assert_gives(cache, "k", "v");
	put_for(cache, "later", 2 * hour);
	atomic_fetch_add(&passed_ms, hour);
	assert_gives(cache, "k", "v");
	atomic_fetch_add(&passed_ms, hour + 1000);
	assert_misses(cache, "k");
	assert_misses(cache, "later");
	assert_gives(cache, "for ever", "v");
	terrace_cache_close(cache);
}

static void test_time__the_date_is_set_while_the_store_is_open(void **state)
{
	(void)state;
	for (size_t t = 0; t < sizeof tiers / sizeof *tiers; t++) {
		for (int i = 0; i < JUMPS; i++) {
			struct fixture f;

			open_with_real_clock(&f);
			live(&f, tiers[t], jumps[i], false);
			fixture_close(&f);
		}
	}
}

static void test_time__the_date_is_set_while_the_store_is_closed(void **state)
{
	(void)state;
	for (size_t t = 1; t < sizeof tiers / sizeof *tiers; t++) {
		for (int i = 0; i < JUMPS; i++) {
			struct fixture f;

			open_with_real_clock(&f);
			live(&f, tiers[t], jumps[i], true);
			fixture_close(&f);
		}
	}
}

static void test_time__a_process_that_comes_after_the_date_was_set_agrees(void **state)
{
	(void)state;
	for (int i = 0; i < JUMPS; i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		struct peer peer;
		terrace_cache *cache;
		struct fixture f;

		open_with_real_clock(&f);
		cache = fixture_cache(&f, "a", &policy);
		put_for(cache, "k", 2 * hour);
		atomic_fetch_add(&set_ms, jumps[i]);
		atomic_fetch_add(&passed_ms, hour);
		peer = peer_start(&f, &policy);
		assert_peer(&peer, "g k", "v");
		peer_end(&peer);
		atomic_fetch_add(&passed_ms, hour + 1000);
		peer = peer_start(&f, &policy);
		assert_peer(&peer, "g k", "(miss)");
		peer_end(&peer);
		terrace_cache_close(cache);
		fixture_close(&f);
	}
}

/* A process is stopped, or its machine sleeps, between two looks at its clocks. */
static void test_time__it_passes_while_the_clock_is_set(void **state)
{
	(void)state;
	for (int round = 0; round < 2; round++) {
		struct fixture f;
		terrace_cache *cache;

		open_with_real_clock(&f);
		cache = cache_in(&f, TERRACE_L1);
		put_for(cache, "short", 2 * hour);
		put_for(cache, "long", 4 * hour);
		atomic_store(round ? &sleeps_after_ms : &stops_before_ms, 3 * hour);
		atomic_fetch_add(&set_ms, hour); /* so that it is */
		misses(cache, "long");
		assert_int_equal(atomic_load(&sleeps_after_ms) + atomic_load(&stops_before_ms), 0);
		assert_misses(cache, "short");
		assert_gives(cache, "long", "v");
		terrace_cache_close(cache);
		fixture_close(&f);
	}
}

/* Its process is stopped then: that the file was young when it was looked at is not forgotten. */
static void test_time__it_passes_while_a_source_is_fingerprinted(void **state)
{
	struct source_mark mark;
	struct scratch scratch;
	const char *path;

	(void)state;
	scratch_make(&scratch);
	path = scratch_path(&scratch, "source");
	atomic_store(&set_ms, 0);
	atomic_store(&passed_ms, 0);
	atomic_store(&slept_ms, 0);
	write_file(path, "1");
	atomic_store(&stops_after_ms, hour);
	assert_ok(terrace__source_mark(NULL, path, 0, &mark));
	assert_int_equal(atomic_load(&stops_after_ms), 0);
	assert_int_not_equal(mark.flags & SOURCE_HASHED, 0);
	scratch_remove(&scratch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_time__the_date_is_set_while_the_store_is_open),
		cmocka_unit_test(test_time__the_date_is_set_while_the_store_is_closed),
		cmocka_unit_test(test_time__it_passes_while_the_clock_is_set),
		cmocka_unit_test(test_time__it_passes_while_a_source_is_fingerprinted),
		cmocka_unit_test(test_time__a_process_that_comes_after_the_date_was_set_agrees),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
