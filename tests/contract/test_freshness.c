/* How long a value is good, and what may be given instead of a good one. */
#include "support/peer.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const unsigned all_tiers[] = { TERRACE_L1, TERRACE_L2, 0 };

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

static void pass(struct fixture *f, int64_t ms)
{
	atomic_fetch_add(&f->clock.now, ms);
}

struct loader {
	_Atomic int calls, releases;
	int code;
	bool absent;
	const char *text;
	terrace_cache *puts_into; /* before it fails, it puts the value itself */
	bool waits;
	sem_t started, go_on;
};

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct loader *loader = ctx;

	(void)key;
	atomic_fetch_add(&loader->calls, 1);
	if (loader->waits) {
		sem_post(&loader->started);
		while (sem_wait(&loader->go_on) < 0 && errno == EINTR)
			;
	}
	if (loader->puts_into)
		assert_ok(put_text(loader->puts_into, "k", loader->text));
	if (loader->code)
		return terrace_fail(loader->code, "the loader's own words");
	if (loader->absent) {
		terrace_loaded_absent(loaded);
		return 0;
	}
	return terrace_loaded_copy(loaded, terrace_str(loader->text));
}

static void release(void *ctx)
{
	struct loader *loader = ctx;

	atomic_fetch_add(&loader->releases, 1);
}

/* What fetch_with gives, as "text", "text (stale)" or the status. */
static const char *fetched(terrace_cache *cache, struct loader *loader,
                           const terrace_fetch_options *options)
{
	static _Thread_local char text[64];
	terrace_value *value;
	int rc = options ?
	             terrace_fetch_with(cache, TERRACE_KEY("k"), load, loader, options, &value) :
	             terrace_fetch(cache, TERRACE_KEY("k"), load, loader, &value);

	if (rc != TERRACE_OK) {
		snprintf(text, sizeof text, "%s", terrace_status_name(rc));
		return text;
	}
	snprintf(text, sizeof text, "%.*s%s", (int)terrace_size(value),
	         (const char *)terrace_data(value), terrace_value_stale(value) ? " (stale)" : "");
	terrace_release(value);
	return text;
}

/* --- jitter ------------------------------------------------------------------------------------------ */

static void test_freshness__jitter_shortens_each_time_to_live_by_its_own_part(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	int64_t least = INT64_MAX, most = 0, now = atomic_load(&f->clock.now);
	terrace_cache *cache;

	policy.ttl_ms = 100000;
	policy.jitter_percent = 20;
	policy.tiers = TERRACE_L2;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < 200; i++) {
		terrace_info info = TERRACE_INFO_INIT;
		char key[16];

		snprintf(key, sizeof key, "%d", i);
		assert_ok(put_text(cache, key, "value"));
		assert_ok(terrace_inspect(cache, terrace_str(key), &info));
		assert_true(info.expires_ms > now + 80000 - 1 && info.expires_ms <= now + 100000);
		least = info.expires_ms < least ? info.expires_ms : least;
		most = info.expires_ms > most ? info.expires_ms : most;
		terrace_info_free(&info);
	}
	/* spread over most of the range */
	assert_true(most - least > 15000);
	terrace_cache_close(cache);
}

/* Processes that begin alike and put one value each, as those of a command do. */
static void test_freshness__jitter_differs_between_processes(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	int64_t least = INT64_MAX, most = 0;
	terrace_cache *cache;

	policy.ttl_ms = 100000;
	policy.jitter_percent = 20;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < 20; i++) {
		struct peer peer = peer_start(f, &policy);
		terrace_info info = TERRACE_INFO_INIT;
		char order[32];

		snprintf(order, sizeof order, "p %d value", i);
		assert_peer(&peer, order, "ok");
		peer_end(&peer);
		assert_ok(terrace_inspect(cache, terrace_str(strtok(order + 2, " ")), &info));
		least = info.expires_ms < least ? info.expires_ms : least;
		most = info.expires_ms > most ? info.expires_ms : most;
		terrace_info_free(&info);
	}
	assert_true(most - least > 5000);
	terrace_cache_close(cache);
}

/* --- stale while revalidate ----------------------------------------------------------------------------- */

struct caller {
	pthread_t thread;
	terrace_cache *cache;
	struct loader *loader;
	const terrace_fetch_options *options;
	char text[64];
};

static void *call_fetch(void *ctx)
{
	struct caller *caller = ctx;

	snprintf(caller->text, sizeof caller->text, "%s",
	         fetched(caller->cache, caller->loader, caller->options));
	return NULL;
}

static void test_freshness__others_get_the_expired_value_while_one_computes(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < 3; i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		struct loader loader = { .text = "newer", .waits = true };
		terrace_stats stats = TERRACE_STATS_INIT;
		struct caller owner = { .loader = &loader };
		terrace_cache *cache;
		char name[16];

		snprintf(name, sizeof name, "cache %zu", i);
		policy.tiers = all_tiers[i];
		policy.ttl_ms = 1000;
		policy.stale_ms = 500;
		owner.cache = cache = fixture_cache(f, name, &policy);
		sem_init(&loader.started, 0, 0);
		sem_init(&loader.go_on, 0, 0);
		assert_ok(put_text(cache, "k", "older"));
		pass(f, 1499);
		assert_misses(cache, "k"); /* get is as strict as ever */
		assert_int_equal(pthread_create(&owner.thread, NULL, call_fetch, &owner), 0);
		sem_wait(&loader.started);
		assert_string_equal(fetched(cache, &loader, NULL), "older (stale)");
		assert_string_equal(fetched(cache, &loader, NULL), "older (stale)");
		sem_post(&loader.go_on);
		assert_int_equal(pthread_join(owner.thread, NULL), 0);
		assert_string_equal(owner.text, "newer");
		assert_string_equal(fetched(cache, &loader, NULL), "newer");
		assert_int_equal(loader.calls, 1);
		assert_ok(terrace_cache_stats(cache, &stats));
		assert_int_equal(stats.stale, 2);
		terrace_cache_close(cache);
	}
}

static void test_freshness__what_is_expired_too_long_or_removed_is_not_given(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < 3; i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		struct loader loader = { .code = 77 };
		const char *path = scratch_path(&f->scratch, "source");
		terrace_put_options options = TERRACE_PUT_INIT;
		terrace_sources *sources;
		terrace_cache *cache;
		char name[16];

		snprintf(name, sizeof name, "cache %zu", i);
		policy.tiers = all_tiers[i];
		policy.ttl_ms = 1000;
		policy.stale_on_error_ms = 500;
		cache = fixture_cache(f, name, &policy);
		assert_ok(put_text(cache, "k", "older"));
		pass(f, 1499);
		assert_string_equal(fetched(cache, &loader, NULL), "older (stale)");
		pass(f, 1);
		assert_string_equal(fetched(cache, &loader, NULL), "TERRACE_UNKNOWN");
		assert_string_equal(terrace_error_message(), "the loader's own words");
		assert_ok(put_text(cache, "k", "older"));
		pass(f, 1200);
		terrace_delete(cache, TERRACE_KEY("k"));
		assert_string_equal(fetched(cache, &loader, NULL), "TERRACE_UNKNOWN");
		assert_ok(put_text(cache, "k", "older"));
		pass(f, 1200);
		assert_ok(terrace_clear(cache, 0, NULL));
		assert_string_equal(fetched(cache, &loader, NULL), "TERRACE_UNKNOWN");
		/* its source changed: it is not old, it is wrong */
		write_file(path, "1");
		assert_ok(terrace_sources_new(&sources));
		assert_ok(terrace_sources_file(sources, path, 0));
		options.sources = sources;
		assert_ok(terrace_put(cache, TERRACE_KEY("k"), terrace_str("older"), &options));
		pass(f, 1200);
		assert_string_equal(fetched(cache, &loader, NULL), "older (stale)");
		write_file(path, "22");
		assert_string_equal(fetched(cache, &loader, NULL), "TERRACE_UNKNOWN");
		terrace_sources_free(sources);
		terrace_cache_close(cache);
	}
}

static void test_freshness__what_came_while_computing_failed_is_not_stale(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < 3; i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		struct loader loader = { .code = 77, .text = "newer" };
		terrace_stats stats = TERRACE_STATS_INIT;
		terrace_cache *cache;
		char name[16];

		snprintf(name, sizeof name, "cache %zu", i);
		policy.tiers = all_tiers[i];
		policy.ttl_ms = 1000;
		policy.stale_on_error_ms = 500;
		cache = fixture_cache(f, name, &policy);
		assert_ok(put_text(cache, "k", "older"));
		pass(f, 1200);
		loader.puts_into = cache;
		assert_string_equal(fetched(cache, &loader, NULL), "newer");
		assert_ok(terrace_cache_stats(cache, &stats));
		assert_int_equal(stats.stale, 0);
		terrace_cache_close(cache);
	}
}

/* --- absent values ---------------------------------------------------------------------------------------- */

static void test_freshness__that_there_is_nothing_is_remembered(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < 3; i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		struct loader loader = { .absent = true, .text = "at last" };
		terrace_why why = TERRACE_WHY_INIT;
		terrace_keys *keys;
		terrace_slice key;
		terrace_cache *cache;
		char name[16];

		snprintf(name, sizeof name, "cache %zu", i);
		policy.tiers = all_tiers[i];
		policy.absent_ttl_ms = 1000;
		cache = fixture_cache(f, name, &policy);
		assert_string_equal(fetched(cache, &loader, NULL), "TERRACE_ABSENT");
		assert_string_equal(fetched(cache, &loader, NULL), "TERRACE_ABSENT");
		assert_int_equal(loader.calls, 1);
		assert_misses(cache, "k");
		assert_status(terrace_exists(cache, TERRACE_KEY("k")), TERRACE_MISS);
		assert_status(terrace_explain(cache, TERRACE_KEY("k"), &why), TERRACE_MISS);
		assert_int_equal(why.reason, TERRACE_REASON_ABSENT);
		/* there is nothing to keep for longer, nor to delete, but it ends that */
		assert_status(terrace_touch(cache, TERRACE_KEY("k"), 5000), TERRACE_MISS);
		assert_status(terrace_delete(cache, TERRACE_KEY("k")), TERRACE_MISS);
		assert_string_equal(fetched(cache, &loader, NULL), "TERRACE_ABSENT");
		assert_int_equal(loader.calls, 2);
		assert_ok(terrace_keys_open(cache, NULL, &keys));
		assert_status(terrace_keys_next(keys, &key), TERRACE_MISS);
		terrace_keys_close(keys);
		if (policy.tiers != TERRACE_L1) {
			/* other processes and later ones know it too */
			terrace_cache_close(cache);
			fixture_reopen(f);
			cache = fixture_cache(f, name, &policy);
			assert_string_equal(fetched(cache, &loader, NULL), "TERRACE_ABSENT");
			assert_int_equal(loader.calls, 2);
		}
		pass(f, 1000);
		loader.absent = false;
		assert_string_equal(fetched(cache, &loader, NULL), "at last");
		assert_gives(cache, "k", "at last");
		/* a put, or an add, ends it too */
		assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
		loader.absent = true;
		assert_string_equal(fetched(cache, &loader, NULL), "TERRACE_ABSENT");
		assert_ok(terrace_add(cache, TERRACE_KEY("k"), terrace_str("added"), NULL));
		assert_gives(cache, "k", "added");
		terrace_cache_close(cache);
	}
}

static void test_freshness__without_a_policy_nothing_is_remembered_as_absent(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct loader loader = { .absent = true };

	assert_string_equal(fetched(cache, &loader, NULL), "TERRACE_ABSENT");
	assert_string_equal(fetched(cache, &loader, NULL), "TERRACE_ABSENT");
	assert_int_equal(loader.calls, 2);
	assert_string_equal(fetched(NULL, &loader, NULL), "TERRACE_ABSENT");
	terrace_cache_close(cache);
}

static void test_freshness__a_lease_can_end_with_nothing(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	terrace_lease *lease;
	terrace_value *value;

	policy.absent_ttl_ms = 1000;
	cache = fixture_cache(f, "a", &policy);
	assert_status(terrace_lease_begin(cache, TERRACE_KEY("k"), 0, &lease, &value),
	              TERRACE_MISS);
	assert_ok(terrace_lease_absent(lease));
	assert_status(terrace_lease_begin(cache, TERRACE_KEY("k"), 0, &lease, &value),
	              TERRACE_ABSENT);
	terrace_cache_close(cache);
}

/* --- limits on the waiting ----------------------------------------------------------------------------------- */

static void wait_for(_Atomic int *count, int at_least)
{
	while (atomic_load(count) < at_least)
		sched_yield();
}

static void test_freshness__past_the_hard_limit_the_caller_goes_and_the_loader_goes_on(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct loader loader = { .text = "late", .waits = true };
	terrace_fetch_options options = TERRACE_FETCH_INIT;

	sem_init(&loader.started, 0, 0);
	sem_init(&loader.go_on, 0, 0);
	options.hard_ms = 20;
	options.release = release;
	assert_string_equal(fetched(cache, &loader, &options), "TERRACE_EBUSY");
	sem_wait(&loader.started);
	/* who joins it waits no longer either */
	assert_string_equal(fetched(cache, &loader, &options), "TERRACE_EBUSY");
	assert_int_equal(loader.calls, 1);
	assert_int_equal(loader.releases, 1); /* the second caller's */
	sem_post(&loader.go_on);
	wait_for(&loader.releases, 2);
	options.hard_ms = 0;
	assert_string_equal(fetched(cache, &loader, &options), "late");
	assert_int_equal(loader.calls, 1);
	assert_int_equal(loader.releases, 3);
	/* and of a call that is refused */
	options.hard_ms = -1;
	assert_string_equal(fetched(cache, &loader, &options), "TERRACE_EINVAL");
	assert_int_equal(loader.releases, 4);
	terrace_cache_close(cache);
}

static int64_t seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static void test_freshness__a_hard_limit_below_the_soft_one_is_kept(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct loader loader = { .text = "late", .waits = true };
	struct caller owner = { .cache = cache, .loader = &loader };
	terrace_fetch_options options = TERRACE_FETCH_INIT;
	int64_t start;

	sem_init(&loader.started, 0, 0);
	sem_init(&loader.go_on, 0, 0);
	assert_int_equal(pthread_create(&owner.thread, NULL, call_fetch, &owner), 0);
	sem_wait(&loader.started);
	options.soft_ms = 10000;
	options.hard_ms = 20;
	start = seconds();
	assert_string_equal(fetched(cache, &loader, &options), "TERRACE_EBUSY");
	assert_true(seconds() - start < 5);
	sem_post(&loader.go_on);
	assert_int_equal(pthread_join(owner.thread, NULL), 0);
	terrace_cache_close(cache);
}

/* Its thread would wait for the end of the transaction, and that for the thread. */
static void test_freshness__within_a_transaction_the_loader_runs_on_its_thread(void **state)
{
	struct fixture *f = *state;
	struct loader loader = { .text = "value" };
	terrace_fetch_options options = TERRACE_FETCH_INIT;
	terrace_cache *cache;

	f->options.wait_ms = 200;
	fixture_reopen(f);
	cache = fixture_rows(f, "a", NULL);
	assert_ok(terrace_begin(f->store, 0));
	assert_string_equal(fetched(cache, &loader, &options), "value");
	assert_ok(terrace_commit(f->store));
	assert_gives(cache, "k", "value");
	assert_int_equal(loader.calls, 1);
	terrace_cache_close(cache);
}

static void test_freshness__past_the_soft_limit_the_expired_value_is_given(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct loader loader = { .text = "newer", .waits = true };
	terrace_fetch_options options = TERRACE_FETCH_INIT;
	terrace_cache *cache;

	policy.ttl_ms = 1000;
	policy.stale_on_error_ms = 500;
	cache = fixture_cache(f, "a", &policy);
	sem_init(&loader.started, 0, 0);
	sem_init(&loader.go_on, 0, 0);
	options.soft_ms = 10;
	options.release = release;
	assert_ok(put_text(cache, "k", "older"));
	pass(f, 1200);
	assert_string_equal(fetched(cache, &loader, &options), "older (stale)");
	sem_wait(&loader.started);
	assert_string_equal(fetched(cache, &loader, &options), "older (stale)");
	sem_post(&loader.go_on);
	wait_for(&loader.releases, 2);
	assert_string_equal(fetched(cache, &loader, &options), "newer");
	assert_int_equal(loader.calls, 1);
	terrace_cache_close(cache);
}

static void test_freshness__in_the_background_nobody_waits(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct loader loader = { .text = "newer", .waits = true };
	terrace_fetch_options options = TERRACE_FETCH_INIT;
	terrace_cache *cache;

	policy.ttl_ms = 1000;
	policy.stale_ms = 500;
	cache = fixture_cache(f, "a", &policy);
	sem_init(&loader.started, 0, 0);
	sem_init(&loader.go_on, 0, 0);
	options.background = true;
	options.release = release;
	assert_ok(put_text(cache, "k", "older"));
	pass(f, 1200);
	assert_string_equal(fetched(cache, &loader, &options), "older (stale)");
	sem_wait(&loader.started);
	/* closed while it runs: the store waits for it in the end */
	terrace_cache_close(cache);
	sem_post(&loader.go_on);
	fixture_reopen(f);
	assert_int_equal(loader.releases, 1);
	cache = fixture_cache(f, "a", &policy);
	assert_gives(cache, "k", "newer");
	terrace_cache_close(cache);
}

static void test_freshness__a_failing_loader_on_a_thread_says_so(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct loader loader = { .code = -4711 };
	terrace_fetch_options options = TERRACE_FETCH_INIT;
	terrace_value *value;

	options.hard_ms = 60000;
	assert_int_equal(
	    terrace_fetch_with(cache, TERRACE_KEY("k"), load, &loader, &options, &value), -4711);
	assert_string_equal(terrace_error_message(), "the loader's own words");
	loader.code = 0;
	loader.text = "value";
	assert_string_equal(fetched(cache, &loader, &options), "value");
	assert_string_equal(fetched(NULL, &loader, &options), "value");
	terrace_cache_close(cache);
}

int main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(test_freshness__##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		test(jitter_shortens_each_time_to_live_by_its_own_part),
		test(jitter_differs_between_processes),
		test(others_get_the_expired_value_while_one_computes),
		test(what_is_expired_too_long_or_removed_is_not_given),
		test(what_came_while_computing_failed_is_not_stale),
		test(that_there_is_nothing_is_remembered),
		test(without_a_policy_nothing_is_remembered_as_absent),
		test(a_lease_can_end_with_nothing),
		test(past_the_hard_limit_the_caller_goes_and_the_loader_goes_on),
		test(a_hard_limit_below_the_soft_one_is_kept),
		test(within_a_transaction_the_loader_runs_on_its_thread),
		test(past_the_soft_limit_the_expired_value_is_given),
		test(in_the_background_nobody_waits),
		test(a_failing_loader_on_a_thread_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
