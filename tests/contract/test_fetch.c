/* Get or compute: once among threads, once among processes. */
#include "support/support.h"

#include "core/flight.h"
#include "core/sources.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	terrace__source_grain_ms = INT64_MIN / 2;
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

/* A loader that counts, and does what its test wants meanwhile. */
struct loader {
	_Atomic int calls;
	int code; /* != 0: fail with it */
	const char *text;
	void (*meanwhile)(struct loader *loader, terrace_loaded *loaded);
	terrace_cache *cache;
	sem_t started, go_on;
	bool waits;
	const char *path;
	bool reads; /* its source, before it waits */
	bool absent;
};

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct loader *loader = ctx;

	(void)key;
	atomic_fetch_add(&loader->calls, 1);
	if (loader->reads)
		assert_ok(terrace_loaded_source(loaded, loader->path, 0));
	if (loader->waits) {
		sem_post(&loader->started);
		while (sem_wait(&loader->go_on) < 0 && errno == EINTR)
			;
	}
	if (loader->meanwhile)
		loader->meanwhile(loader, loaded);
	if (loader->code)
		return terrace_fail(loader->code, "the loader's own words");
	if (loader->absent) {
		terrace_loaded_absent(loaded);
		return 0;
	}
	return terrace_loaded_copy(loaded, terrace_str(loader->text));
}

static int load_many(void *ctx, const terrace_slice *keys, size_t count,
                     terrace_loaded *const *loaded)
{
	return load_each(load, ctx, keys, count, loaded);
}

static void assert_fetches(terrace_cache *cache, const char *key, struct loader *loader,
                           const char *text)
{
	terrace_value *value;

	assert_ok(terrace_fetch(cache, terrace_str(key), load, loader, &value));
	assert_int_equal(terrace_size(value), strlen(text));
	assert_memory_equal(terrace_data(value), text, strlen(text));
	terrace_release(value);
}

static void test_fetch__computes_once_and_keeps(void **state)
{
	struct fixture *f = *state;
	static const unsigned tiers[] = { TERRACE_L1, TERRACE_L2, 0 };

	for (size_t i = 0; i < 3; i++) {
		struct loader loader = { .text = "computed" };
		terrace_policy policy = TERRACE_POLICY_INIT;
		terrace_stats stats = TERRACE_STATS_INIT;
		terrace_cache *cache;
		char name[16];

		snprintf(name, sizeof name, "cache %zu", i);
		policy.tiers = tiers[i];
		cache = fixture_cache(f, name, &policy);
		assert_fetches(cache, "k", &loader, "computed");
		assert_fetches(cache, "k", &loader, "computed");
		assert_gives(cache, "k", "computed");
		assert_int_equal(loader.calls, 1);
		assert_ok(terrace_cache_stats(cache, &stats));
		assert_int_equal(stats.loads, 1);
		assert_int_equal(stats.misses, 1);
		assert_int_equal(stats.gets, 3);
		terrace_cache_close(cache);
	}
}

static void test_fetch__the_loaders_failure_is_the_callers(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct loader loader = { .text = "computed", .code = 4711 };
	terrace_value *value = (void *)1;

	assert_int_equal(terrace_fetch(cache, TERRACE_KEY("k"), load, &loader, &value), 4711);
	assert_string_equal(terrace_error_message(), "the loader's own words");
	assert_ptr_equal(value, (void *)1);
	assert_misses(cache, "k"); /* a failure is not kept */
	loader.code = 0;
	assert_fetches(cache, "k", &loader, "computed");
	assert_int_equal(loader.calls, 2);
	terrace_cache_close(cache);
}

static void say_more(struct loader *loader, terrace_loaded *loaded)
{
	assert_ok(terrace_loaded_tag(loaded, "red"));
	terrace_loaded_ttl(loaded, 1000);
	terrace_loaded_cost(loaded, 77);
	assert_ok(terrace_loaded_source(loaded, loader->path, 0));
	assert_status(terrace_loaded_source(loaded, "/nonexistent/file", 0), TERRACE_MISS);
}

static void test_fetch__the_loader_says_tags_sources_and_time_to_live(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct loader loader = { .text = "computed", .meanwhile = say_more };
	terrace_info info = TERRACE_INFO_INIT;

	loader.path = scratch_path(&f->scratch, "source");
	write_file(loader.path, "1");
	assert_fetches(cache, "k", &loader, "computed");
	assert_ok(terrace_inspect(cache, TERRACE_KEY("k"), &info));
	assert_int_equal(info.ttl_ms, 1000);
	assert_int_equal(info.cost_us, 77);
	assert_int_equal(info.tag_count, 1);
	assert_int_equal(info.source_count, 2);
	assert_int_equal(info.sources[1].kind, TERRACE_SOURCE_ABSENT);
	terrace_info_free(&info);
	write_file(loader.path, "22");
	assert_fetches(cache, "k", &loader, "computed");
	assert_int_equal(loader.calls, 2);
	terrace_cache_close(cache);
}

static void keep_out(struct loader *loader, terrace_loaded *loaded)
{
	(void)loader;
	terrace_loaded_keep_out(loaded);
}

static void test_fetch__a_value_can_be_kept_out(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct loader loader = { .text = "computed", .meanwhile = keep_out };

	assert_fetches(cache, "k", &loader, "computed");
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

/* --- computed before, stored after ---------------------------------------------------------------- */

static void put_newer(struct loader *loader, terrace_loaded *loaded)
{
	(void)loaded;
	assert_ok(put_text(loader->cache, "k", "newer"));
}

static void delete_key(struct loader *loader, terrace_loaded *loaded)
{
	(void)loaded;
	terrace_delete(loader->cache, TERRACE_KEY("k"));
}

static void clear_all(struct loader *loader, terrace_loaded *loaded)
{
	(void)loaded;
	assert_ok(terrace_clear(loader->cache, 0, NULL));
}

static void invalidate_tag(struct loader *loader, terrace_loaded *loaded)
{
	terrace_match match = terrace_match_text(TERRACE_MATCH_TAG, "whatever");

	(void)loaded;
	assert_ok(terrace_invalidate(loader->cache, &match, NULL));
}

static void change_source(struct loader *loader, terrace_loaded *loaded)
{
	assert_ok(terrace_loaded_source(loaded, loader->path, 0));
	write_file(loader->path, "changed while it was read");
}

static void test_fetch__what_was_outdated_meanwhile_is_not_stored(void **state)
{
	static const struct {
		void (*meanwhile)(struct loader *loader, terrace_loaded *loaded);
		const char *left; /* what a get gives afterwards; NULL: a miss */
	} cases[] = {
		{ put_newer, "newer" },   { delete_key, NULL },    { clear_all, NULL },
		{ invalidate_tag, NULL }, { change_source, NULL },
	};
	static const unsigned tiers[] = { TERRACE_L1, TERRACE_L2, 0, TERRACE_L2, 0 };
	struct fixture *f = *state;

	for (size_t t = 0; t < 5; t++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		char name[16];

		snprintf(name, sizeof name, "cache %zu", t);
		policy.tiers = tiers[t];
		policy.write = t >= 3 ? TERRACE_WRITE_BEHIND : TERRACE_WRITE_THROUGH;
		for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
			struct loader loader = { .text = "outdated",
				                 .meanwhile = cases[i].meanwhile };
			terrace_cache *cache = fixture_cache(f, name, &policy);

			loader.cache = cache;
			loader.path = scratch_path(&f->scratch, "source");
			write_file(loader.path, "1");
			terrace_clear(cache, 0, NULL);
			/* its caller gets it */
			assert_fetches(cache, "k", &loader, "outdated");
			if (cases[i].left)
				assert_gives(cache, "k", cases[i].left);
			else
				assert_misses(cache, "k");
			terrace_cache_close(cache);
		}
	}
}

/* --- threads -------------------------------------------------------------------------------------------- */

enum way { FETCH, FETCH_MANY, FETCH_TO };

struct caller {
	pthread_t thread;
	terrace_cache *cache;
	const char *key;
	struct loader *loader;
	enum way way;
	int code;
	char text[32];
};

static int take_text(void *ctx, terrace_slice bytes)
{
	struct caller *caller = ctx;

	snprintf(caller->text, sizeof caller->text, "%.*s", (int)bytes.size,
	         (const char *)bytes.data);
	return 0;
}

static void *call_fetch(void *ctx)
{
	struct caller *caller = ctx;
	terrace_slice key = terrace_str(caller->key), twice[] = { key, key };
	terrace_value *values[2] = { NULL, NULL };

	if (caller->way == FETCH)
		caller->code = terrace_fetch(caller->cache, key, load, caller->loader, values);
	else if (caller->way == FETCH_MANY)
		caller->code = terrace_fetch_many(caller->cache, twice, 2, load_many,
		                                  caller->loader, values);
	else
		caller->code = terrace_fetch_to(caller->cache, key, load, caller->loader, take_text,
		                                caller);
	if (values[0])
		take_text(caller, terrace_slice_of(values[0]));
	terrace_release(values[0]);
	terrace_release(values[1]);
	return NULL;
}

static void no_time_left(struct loader *loader, terrace_loaded *loaded)
{
	(void)loader;
	terrace_loaded_ttl(loaded, -350);
}

static void no_idle_time(struct loader *loader, terrace_loaded *loaded)
{
	(void)loader;
	terrace_loaded_idle(loaded, -350);
}

/* As put refuses it; a loader has nobody to tell. */
static void test_fetch__a_time_that_is_none_does_not_keep_a_value_for_ever(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	for (enum way way = FETCH; way <= FETCH_TO; way++) {
		struct loader loader = { .text = "computed", .meanwhile = no_time_left };
		struct caller caller = {
			.cache = cache, .key = "k", .loader = &loader, .way = way
		};

		for (int round = 0; round < 2; round++) {
			call_fetch(&caller);
			assert_int_equal(caller.code, 0);
			assert_string_equal(caller.text, "computed");
			assert_misses(cache, "k");
			loader.meanwhile = no_idle_time;
		}
	}
	terrace_cache_close(cache);
}

enum { CALLERS = 16 };

static void start_callers(struct caller *callers, terrace_cache *cache, struct loader *loader)
{
	sem_init(&loader->started, 0, 0);
	sem_init(&loader->go_on, 0, 0);
	for (int i = 0; i < CALLERS; i++) {
		callers[i] = (struct caller){ .cache = cache, .key = "k", .loader = loader };
		assert_int_equal(pthread_create(&callers[i].thread, NULL, call_fetch, &callers[i]),
		                 0);
	}
}

static void test_fetch__threads_wait_for_one_loader(void **state)
{
	struct fixture *f = *state;
	static const unsigned tiers[] = { TERRACE_L1, TERRACE_L2, 0 };

	for (int round = 0; round < 8; round++) {
		struct loader loader = { .text = "computed", .waits = true };
		terrace_policy policy = TERRACE_POLICY_INIT;
		struct caller callers[CALLERS];
		terrace_cache *cache;
		char name[16];

		loader.code = round % 2 ? 99 : 0;
		policy.tiers = tiers[round % 3];
		policy.disabled = round >= 6; /* single flight all the same */
		snprintf(name, sizeof name, "cache %d", round);
		cache = fixture_cache(f, name, &policy);
		start_callers(callers, cache, &loader);
		sem_wait(&loader.started);
		sem_post(&loader.go_on);
		/* Who comes when it has landed computes again where nothing was kept. */
		for (int i = 0; i < CALLERS; i++)
			sem_post(&loader.go_on);
		for (int i = 0; i < CALLERS; i++) {
			assert_int_equal(pthread_join(callers[i].thread, NULL), 0);
			assert_int_equal(callers[i].code, loader.code);
			if (loader.code == 0)
				assert_string_equal(callers[i].text, "computed");
		}
		if (loader.code == 0 && !policy.disabled)
			assert_int_equal(loader.calls, 1);
		terrace_cache_close(cache);
	}
}

/* Until so many are at the one computation that is under way, its owner included. */
static void wait_for_users(terrace_cache *cache, unsigned users)
{
	struct flights *flights = &cache->store->flights;
	unsigned now = 0;

	while (now != users) {
		sched_yield();
		pthread_mutex_lock(&flights->lock);
		now = flights->first ? flights->first->users : 0;
		pthread_mutex_unlock(&flights->lock);
	}
}

/* Until its loader runs. */
static void begin_fetch(struct caller *caller)
{
	sem_init(&caller->loader->started, 0, 0);
	sem_init(&caller->loader->go_on, 0, 0);
	assert_int_equal(pthread_create(&caller->thread, NULL, call_fetch, caller), 0);
	sem_wait(&caller->loader->started);
}

/* The numbers of statuses are a loader's own to use as well. */
static void test_fetch__a_loaders_code_is_never_taken_for_a_status(void **state)
{
	static const int codes[] = { TERRACE_MISS,  TERRACE_EXISTS, TERRACE_ABSENT,
		                     TERRACE_EBUSY, TERRACE_ECYCLE, 100 };
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
		struct loader loader = { .waits = true, .code = codes[i] };
		struct caller owner = { .cache = cache, .key = "k", .loader = &loader };
		struct caller joins = owner;

		begin_fetch(&owner);
		assert_int_equal(pthread_create(&joins.thread, NULL, call_fetch, &joins), 0);
		wait_for_users(cache, 2);
		sem_post(&loader.go_on);
		assert_int_equal(pthread_join(owner.thread, NULL), 0);
		assert_int_equal(pthread_join(joins.thread, NULL), 0);
		assert_int_equal(owner.code, codes[i]);
		assert_int_equal(joins.code, codes[i]);
		assert_int_equal(loader.calls, 1);
	}
	terrace_cache_close(cache);
}

/* What `before` computes is out of date by now: `after`, who waits for it, computes for itself. */
static void join_after_a_change(struct caller *before, struct caller *after)
{
	struct loader *loader = after->loader;

	assert_int_equal(pthread_create(&after->thread, NULL, call_fetch, after), 0);
	wait_for_users(after->cache, 2);
	sem_post(&loader->go_on);
	assert_int_equal(pthread_join(before->thread, NULL), 0);
	assert_string_equal(before->text, "older");
	sem_wait(&loader->started);
	loader->text = "newer";
	sem_post(&loader->go_on);
	assert_int_equal(pthread_join(after->thread, NULL), 0);
	assert_string_equal(after->text, "newer");
}

static void test_fetch__who_joins_after_an_invalidation_gets_a_new_value(void **state)
{
	struct fixture *f = *state;
	static const unsigned tiers[] = { TERRACE_L1, TERRACE_L2, 0 };

	for (int round = 0; round < 3; round++) {
		struct loader loader = { .text = "older", .waits = true };
		struct caller before = { .key = "k", .loader = &loader }, after = before;
		terrace_policy policy = TERRACE_POLICY_INIT;
		terrace_cache *cache;
		char name[16];

		policy.tiers = tiers[round];
		policy.disabled = round == 2;
		snprintf(name, sizeof name, "cache %d", round);
		cache = before.cache = after.cache = fixture_cache(f, name, &policy);
		assert_ok(put_text(cache, "other", "v")); /* this process alone has the cache */
		begin_fetch(&before);
		terrace_delete(cache, TERRACE_KEY("k"));
		join_after_a_change(&before, &after);
		if (!policy.disabled)
			assert_gives(cache, "k", "newer");
		terrace_cache_close(cache);
	}
}

/* A caller who comes after a file has changed, while one computes from what it was. */
static void test_fetch__who_joins_after_a_source_changed_gets_a_new_value(void **state)
{
	struct fixture *f = *state;
	static const unsigned tiers[] = { TERRACE_L1, TERRACE_L2, 0 };

	for (int round = 0; round < 3; round++) {
		struct loader loader = { .text = "older", .waits = true, .reads = true };
		struct caller before = { .key = "k", .loader = &loader }, after = before;
		terrace_policy policy = TERRACE_POLICY_INIT;
		terrace_cache *cache;
		char name[16], path[600];

		snprintf(path, sizeof path, "%s", scratch_path(&f->scratch, "source"));
		write_file(path, "older");
		loader.path = path;
		policy.tiers = tiers[round];
		policy.disabled = round == 2;
		snprintf(name, sizeof name, "cache %d", round);
		cache = before.cache = after.cache = fixture_cache(f, name, &policy);
		begin_fetch(&before);
		write_file(path, "newer");
		join_after_a_change(&before, &after);
		terrace_cache_close(cache);
	}
}

/* As above; what it computes is no value, and has no sources with it. */
static void test_fetch__who_joins_after_a_source_changed_is_not_told_what_came_of_the_older(
    void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	const char *path = scratch_path(&f->scratch, "source");

	for (int round = 0; round < 6; round++) {
		struct loader looks = { .waits = true, .reads = true };
		enum way way = (enum way)(round / 2);
		struct loader loader = { .text = "newer" };
		struct caller before = { .cache = cache, .key = "k", .loader = &looks, .way = way };
		struct caller after = { .cache = cache, .key = "k", .loader = &loader };

		looks.absent = round % 2;
		looks.code = looks.absent ? 0 : 99;
		looks.path = path;
		write_file(path, "older");
		begin_fetch(&before);
		write_file(path, "it is there by now");
		assert_int_equal(pthread_create(&after.thread, NULL, call_fetch, &after), 0);
		wait_for_users(cache, 2);
		sem_post(&looks.go_on);
		assert_int_equal(pthread_join(before.thread, NULL), 0);
		assert_int_equal(pthread_join(after.thread, NULL), 0);
		if (looks.code)
			assert_int_equal(before.code, 99);
		else
			assert_int_equal(before.code,
			                 way == FETCH_MANY ? TERRACE_OK : TERRACE_ABSENT);
		assert_int_equal(after.code, TERRACE_OK);
		assert_string_equal(after.text, "newer");
		assert_ok(terrace_clear(cache, 0, NULL));
	}
	terrace_cache_close(cache);
}

static void test_fetch__a_key_that_is_there_twice_leaves_no_lease_where_another_failed(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct flights *flights = &cache->store->flights;
	struct loader fails = { .code = 99, .waits = true }, loader = { .text = "value" };
	struct caller owner = { .cache = cache, .key = "k", .loader = &fails };
	struct caller many = { .cache = cache, .key = "k", .loader = &loader, .way = FETCH_MANY };

	begin_fetch(&owner);
	assert_int_equal(pthread_create(&many.thread, NULL, call_fetch, &many), 0);
	wait_for_users(cache, 2);
	sem_post(&fails.go_on);
	assert_int_equal(pthread_join(owner.thread, NULL), 0);
	assert_int_equal(pthread_join(many.thread, NULL), 0);
	assert_int_equal(owner.code, 99);
	assert_int_equal(many.code, 0);
	assert_string_equal(many.text, "value");
	assert_int_equal(loader.calls, 1);
	assert_null(flights->first);
	assert_int_equal(flights->lease_count, 0);
	assert_gives(cache, "k", "value");
	terrace_cache_close(cache);
}

/* What happens while a fetch looks at the clock, the first time and the second. */
struct between {
	int looks;
	terrace_cache *cache;
	struct caller *after;
};
static _Thread_local struct between *between;

static int64_t clock_between(void *ctx)
{
	struct between *now = between;

	between = NULL; /* not in what follows */
	if (now && ++now->looks == 1) {
		terrace_put_options options = TERRACE_PUT_INIT;

		options.ttl_ms = 1000;
		assert_ok(
		    terrace_put(now->cache, TERRACE_KEY("k"), terrace_str("older"), &options));
		between = now;
	} else if (now) {
		assert_ok(terrace_delete(now->cache, TERRACE_KEY("k")));
		assert_int_equal(pthread_create(&now->after->thread, NULL, call_fetch, now->after),
		                 0);
		wait_for_users(now->cache, 2);
	}
	return test_clock_now(ctx);
}

static void no_event(void *ctx, const terrace_event *event)
{
	(void)ctx;
	(void)event;
}

/* It has missed, is about to compute, and finds what was put just then; that is deleted, too. */
static void test_fetch__who_joins_after_a_delete_is_not_given_what_was_found_before(void **state)
{
	struct fixture *f = *state;
	terrace_subscribe_options misses = TERRACE_SUBSCRIBE_INIT;
	struct loader loader = { .text = "newer" };
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct caller after = { .key = "k", .loader = &loader };
	struct between what = { .after = &after };
	terrace_subscription *subscription;
	terrace_cache *cache;

	f->options.clock = clock_between;
	fixture_reopen(f);
	policy.tiers = TERRACE_L1;
	cache = what.cache = after.cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "other", "v")); /* this process alone has the cache */
	misses.kinds = TERRACE_EVENT_MISS;        /* which says when it was */
	assert_ok(terrace_subscribe(cache, &misses, no_event, NULL, &subscription));
	between = &what;
	assert_fetches(cache, "k", &loader, "older");
	assert_int_equal(what.looks, 2);
	assert_int_equal(pthread_join(after.thread, NULL), 0);
	assert_string_equal(after.text, "newer");
	assert_gives(cache, "k", "newer");
	terrace_unsubscribe(subscription);
	terrace_cache_close(cache);
}

static int load_itself(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	terrace_value *value;
	int rc = terrace_fetch(ctx, key, load_itself, ctx, &value);

	if (rc == TERRACE_OK)
		terrace_release(value);
	(void)loaded;
	return rc;
}

static int load_through_other(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	terrace_value *value;
	int rc;

	if (key.size == 1)
		rc = terrace_fetch(ctx, TERRACE_KEY("k2"), load_through_other, ctx, &value);
	else
		rc = terrace_fetch(ctx, TERRACE_KEY("k"), load_through_other, ctx, &value);
	if (rc == TERRACE_OK)
		terrace_release(value);
	(void)loaded;
	return rc;
}

static int put_and_load_itself(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	assert_ok(terrace_put(ctx, key, TERRACE_KEY("in memory by now"), NULL));
	return load_itself(ctx, key, loaded);
}

static void test_fetch__a_cycle_is_an_error(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_value *value;

	assert_status(terrace_fetch(cache, TERRACE_KEY("k"), load_itself, cache, &value),
	              TERRACE_ECYCLE);
	assert_status(terrace_fetch(cache, TERRACE_KEY("k"), load_through_other, cache, &value),
	              TERRACE_ECYCLE);
	assert_status(terrace_fetch(cache, TERRACE_KEY("k"), put_and_load_itself, cache, &value),
	              TERRACE_ECYCLE);
	terrace_cache_close(cache);
}

/* Two threads, each loading what the other is loading: nobody waits for ever. */
struct crossing {
	terrace_cache *cache;
	sem_t *mine, *other;
	const char *key, *wants;
	pthread_t thread;
	int code;
};

static int load_plain(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)ctx;
	return terrace_loaded_copy(loaded, key);
}

static int load_crossing(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct crossing *c = ctx;
	terrace_value *value;
	int rc;

	sem_post(c->mine);
	sem_wait(c->other);
	rc = terrace_fetch(c->cache, terrace_str(c->wants), load_plain, NULL, &value);
	if (rc == TERRACE_OK)
		terrace_release(value);
	return rc ? rc : terrace_loaded_copy(loaded, key);
}

static void *call_crossing(void *ctx)
{
	struct crossing *c = ctx;
	terrace_value *value;

	c->code = terrace_fetch(c->cache, terrace_str(c->key), load_crossing, c, &value);
	if (c->code == 0)
		terrace_release(value);
	return NULL;
}

static void test_fetch__loaders_that_want_each_others_key_both_end(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	sem_t a, b;
	struct crossing one = { .cache = cache, .mine = &a, .other = &b, .key = "1", .wants = "2" };
	struct crossing two = { .cache = cache, .mine = &b, .other = &a, .key = "2", .wants = "1" };

	sem_init(&a, 0, 0);
	sem_init(&b, 0, 0);
	pthread_create(&one.thread, NULL, call_crossing, &one);
	pthread_create(&two.thread, NULL, call_crossing, &two);
	pthread_join(one.thread, NULL);
	pthread_join(two.thread, NULL);
	assert_int_equal(one.code, 0);
	assert_int_equal(two.code, 0);
	terrace_cache_close(cache);
}

/* --- leases ------------------------------------------------------------------------------------------------ */

static void test_lease__is_a_fetch_without_a_callback(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_lease *lease;
	terrace_value *value;

	assert_status(terrace_lease_begin(cache, TERRACE_KEY("k"), 0, &lease, &value),
	              TERRACE_MISS);
	terrace_lease_drop(lease);
	assert_status(terrace_lease_begin(cache, TERRACE_KEY("k"), 0, &lease, &value),
	              TERRACE_MISS);
	assert_ok(terrace_lease_put(lease, terrace_str("v"), NULL, &value));
	assert_memory_equal(terrace_data(value), "v", 1);
	terrace_release(value);
	assert_ok(terrace_lease_begin(cache, TERRACE_KEY("k"), 0, &lease, &value));
	terrace_release(value);
	/* for another key, while the cache stands */
	assert_status(terrace_lease_begin(cache, TERRACE_KEY("x"), 0, &lease, &value),
	              TERRACE_MISS);
	options.lease = lease;
	assert_ok(terrace_put(cache, TERRACE_KEY("y"), terrace_str("v"), &options));
	assert_ok(terrace_clear(cache, 0, NULL));
	assert_status(terrace_put(cache, TERRACE_KEY("y"), terrace_str("v"), &options),
	              TERRACE_MISS);
	assert_misses(cache, "y");
	terrace_lease_drop(lease);
	terrace_lease_drop(NULL);
	terrace_cache_close(cache);
}

/* --- processes ----------------------------------------------------------------------------------------------- */

/* What the processes of a test share. */
struct shared_counts {
	_Atomic int loads, started;
	sem_t loading;
};

static struct shared_counts *shared_counts(void)
{
	struct shared_counts *counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE,
	                                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(counts, MAP_FAILED);
	sem_init(&counts->loading, 1, 0);
	return counts;
}

struct process_loader {
	struct shared_counts *counts;
	bool dies; /* sleeps until it is killed */
	int code;
	int others; /* callers to wait for */
	terrace_cache *cache;
};

/* How many processes wait for a key of the store; they look again, and wait on. */
static long waiting(terrace_cache *cache)
{
	return syscall(SYS_futex, &cache->store->shared->flight_turn, FUTEX_WAKE, INT_MAX, NULL,
	               NULL, 0);
}

static int load_in_process(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct process_loader *loader = ctx;

	(void)key;
	atomic_fetch_add(&loader->counts->loads, 1);
	sem_post(&loader->counts->loading);
	while (loader->dies)
		pause();
	/* until everybody waits for us: who comes when we have failed computes for himself */
	while (waiting(loader->cache) < loader->others)
		usleep(1000);
	if (loader->code)
		return loader->code;
	return terrace_loaded_copy(loaded, terrace_str("computed"));
}

/* A process of its own with a store of its own: 0 when all went as expected. */
static pid_t start_process(const struct fixture *f, struct process_loader loader, int expect)
{
	pid_t child = fork();

	if (child == 0) {
		terrace *store;
		terrace_cache *cache;
		terrace_value *value;
		int rc;

		if (terrace_open(scratch_path(&f->scratch, "store"), &f->options, &store) ||
		    terrace_cache_open(store, "a", NULL, &cache))
			_exit(100);
		loader.cache = cache;
		atomic_fetch_add(&loader.counts->started, 1);
		rc = terrace_fetch(cache, TERRACE_KEY("k"), load_in_process, &loader, &value);
		if (rc != expect)
			_exit(101);
		if (rc == 0 && memcmp(terrace_data(value), "computed", 8) != 0)
			_exit(102);
		_exit(0);
	}
	return child;
}

static void assert_exits(pid_t child)
{
	int status;

	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void test_fetch__processes_wait_for_one_loader(void **state)
{
	enum { PROCESSES = 4 };
	static const int codes[] = { 0, 42, TERRACE_MISS, TERRACE_EBUSY };
	struct fixture *f = *state;

	for (size_t round = 0; round < 4; round++) {
		int code = codes[round];
		struct process_loader loader = { .counts = shared_counts(),
			                         .code = code,
			                         .others = PROCESSES - 1 };
		pid_t children[PROCESSES];

		for (int i = 0; i < PROCESSES; i++)
			children[i] = start_process(f, loader, code);
		for (int i = 0; i < PROCESSES; i++)
			assert_exits(children[i]);
		/* a failure, too, reaches everybody who waited */
		assert_int_equal(loader.counts->loads, 1);
		munmap(loader.counts, sizeof *loader.counts);
		if (code == 0) {
			terrace_cache *cache = fixture_cache(f, "a", NULL);

			assert_gives(cache, "k", "computed");
			terrace_clear(cache, 0, NULL);
			terrace_cache_close(cache);
		}
	}
}

static void test_fetch__a_failure_from_before_a_delete_is_not_for_who_came_after_it(void **state)
{
	struct fixture *f = *state;
	struct process_loader fails = { .counts = shared_counts(), .code = 99, .others = 1 };
	struct process_loader next = { .counts = fails.counts };
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	pid_t owner = start_process(f, fails, 99), waiter;

	sem_wait(&fails.counts->loading);
	terrace_delete(cache, TERRACE_KEY("k"));
	waiter = start_process(f, next, 0);
	assert_exits(owner);
	assert_exits(waiter);
	assert_gives(cache, "k", "computed");
	terrace_cache_close(cache);
	munmap(fails.counts, sizeof *fails.counts);
}

static void test_fetch__a_killed_owner_is_replaced(void **state)
{
	struct fixture *f = *state;

	for (int round = 0; round < 5; round++) {
		struct process_loader dying = { .counts = shared_counts(), .dies = true };
		struct process_loader next = { .counts = dying.counts };
		terrace_cache *cache = fixture_cache(f, "a", NULL);
		pid_t owner = start_process(f, dying, 0), waiter;
		int status;

		sem_wait(&dying.counts->loading);
		waiter = start_process(f, next, 0);
		while (atomic_load(&dying.counts->started) < 2)
			usleep(1000);
		usleep(5000);
		assert_int_equal(dying.counts->loads, 1); /* it waits */
		kill(owner, SIGKILL);
		assert_int_equal(waitpid(owner, &status, 0), owner);
		assert_exits(waiter);
		assert_int_equal(dying.counts->loads, 2);
		assert_gives(cache, "k", "computed");
		terrace_clear(cache, 0, NULL);
		terrace_cache_close(cache);
		munmap(dying.counts, sizeof *dying.counts);
	}
}

static void test_lease__the_deadline_is_kept_beside_a_stuck_owner(void **state)
{
	struct fixture *f = *state;
	struct process_loader stuck = { .counts = shared_counts(), .dies = true };
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	pid_t owner = start_process(f, stuck, 0);
	terrace_lease *lease;
	terrace_value *value;
	int status;

	sem_wait(&stuck.counts->loading);
	assert_status(terrace_lease_begin(cache, TERRACE_KEY("k"), 30, &lease, &value),
	              TERRACE_MISS);
	assert_ok(terrace_lease_put(lease, terrace_str("mine"), NULL, NULL));
	assert_gives(cache, "k", "mine");
	kill(owner, SIGKILL);
	assert_int_equal(waitpid(owner, &status, 0), owner);
	terrace_cache_close(cache);
	munmap(stuck.counts, sizeof *stuck.counts);
}

/* --- coherence, in short: the long story has tests of its own ------------------------------------------------ */

/* Run `fn` on the cache "a" in another process. */
static void elsewhere(const struct fixture *f, void (*fn)(terrace_cache *cache), unsigned tiers)
{
	pid_t child = fork();

	if (child == 0) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		terrace *store;
		terrace_cache *cache;

		policy.tiers = tiers;
		if (terrace_open(scratch_path(&f->scratch, "store"), &f->options, &store) ||
		    terrace_cache_open(store, "a", &policy, &cache))
			_exit(1);
		fn(cache);
		_exit(0);
	}
	assert_exits(child);
}

static void put_elsewhere(terrace_cache *cache)
{
	if (put_text(cache, "k", "newer") != TERRACE_OK)
		_exit(2);
}

static void delete_elsewhere(terrace_cache *cache)
{
	terrace_delete(cache, TERRACE_KEY("k"));
}

static void invalidate_elsewhere(terrace_cache *cache)
{
	terrace_match match = terrace_match_text(TERRACE_MATCH_GLOB, "k*");

	if (terrace_invalidate(cache, &match, NULL) != TERRACE_OK)
		_exit(2);
}

static void clear_elsewhere(terrace_cache *cache)
{
	if (terrace_clear(cache, 0, NULL) != TERRACE_OK)
		_exit(2);
}

static void touch_elsewhere(terrace_cache *cache)
{
	if (terrace_touch(cache, TERRACE_KEY("k"), TERRACE_TTL_NONE) != TERRACE_OK)
		_exit(2);
}

static void test_coherence__a_copy_in_memory_does_not_outlive_a_write_elsewhere(void **state)
{
	static const struct {
		void (*fn)(terrace_cache *cache);
		const char *left;
		bool on_disk_alone; /* memory elsewhere has nothing to touch */
	} cases[] = {
		{ put_elsewhere, "newer", false },     { delete_elsewhere, NULL, false },
		{ invalidate_elsewhere, NULL, false }, { clear_elsewhere, NULL, false },
		{ touch_elsewhere, NULL, true },
	};
	struct fixture *f = *state;

	for (unsigned both = 0; both < 2; both++) {
		unsigned tiers = both ? TERRACE_L1 | TERRACE_L2 : TERRACE_L1;
		terrace_policy policy = TERRACE_POLICY_INIT;
		terrace_cache *cache;

		policy.tiers = tiers;
		cache = fixture_cache(f, "a", &policy);
		for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
			if (cases[i].on_disk_alone && !both)
				continue;
			assert_ok(put_text(cache, "k", "older"));
			assert_ok(put_text(cache, "other", "stays"));
			assert_gives(cache, "k", "older");
			elsewhere(f, cases[i].fn, tiers);
			/* in memory alone, the newer value is in the other process */
			if (cases[i].left && both)
				assert_gives(cache, "k", cases[i].left);
			else
				assert_misses(cache, "k");
			if (cases[i].fn == delete_elsewhere)
				assert_gives(cache, "other", "stays");
		}
		terrace_cache_close(cache);
		fixture_reopen(f);
	}
}

static void test_coherence__in_memory_alone_two_holders_see_each_others_writes(void **state)
{
	struct fixture *f = *state;
	struct shared_counts *counts = shared_counts();
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	pid_t child;

	policy.tiers = TERRACE_L1;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "k", "of the parent"));
	child = fork();
	if (child == 0) {
		terrace *store;
		int bad = 0;

		bad |= terrace_open(scratch_path(&f->scratch, "store"), &f->options, &store) != 0;
		bad |= terrace_cache_open(store, "a", &policy, &cache) != 0;
		bad |= put_text(cache, "k", "of the child") != 0;
		bad |= put_text(cache, "mine", "stays") != 0;
		sem_post(&counts->loading);
		while (atomic_load(&counts->started) == 0)
			usleep(1000);
		bad |= misses(cache, "k") != TERRACE_MISS; /* the parent has written it again */
		bad |= misses(cache, "mine") != TERRACE_OK;
		_exit(bad);
	}
	sem_wait(&counts->loading);
	assert_misses(cache, "k");
	assert_ok(put_text(cache, "k", "of the parent again"));
	assert_gives(cache, "k", "of the parent again");
	atomic_store(&counts->started, 1);
	assert_exits(child);
	assert_gives(cache, "k", "of the parent again");
	terrace_cache_close(cache);
	munmap(counts, sizeof *counts);
}

static struct {
	struct disk_ops ops;
	const struct disk_ops *real;
	terrace_cache *cache; /* put into, right after the first miss; NULL: nobody does */
	int reads;
} watched;

static int get_watched(void *disk, const struct tier_key *key, const struct tier_stamp *stamp,
                       struct entry **ret)
{
	int rc = watched.real->get_under(disk, key, stamp, ret);

	if (watched.reads++ == 0 && watched.cache)
		assert_ok(put_text(watched.cache, "k", "of another"));
	return rc;
}

static void test_fetch__looks_again_only_where_something_was_written(void **state)
{
	struct fixture *f = *state;
	struct loader loader = { .text = "computed" };
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	terrace_value *value;

	policy.tiers = TERRACE_L2;
	cache = fixture_cache(f, "a", &policy);
	watched.real = f->store->disk_ops;
	watched.ops = *watched.real;
	watched.ops.get_under = get_watched;
	watched.reads = 0;
	watched.cache = cache;
	f->store->disk_ops = &watched.ops;
	assert_ok(terrace_fetch(cache, TERRACE_KEY("k"), load, &loader, &value));
	assert_memory_equal(terrace_data(value), "of another", 10);
	terrace_release(value);
	assert_int_equal(loader.calls, 0);
	watched.reads = 0;
	watched.cache = NULL;
	assert_ok(terrace_fetch(cache, TERRACE_KEY("other"), load, &loader, &value));
	terrace_release(value);
	assert_int_equal(loader.calls, 1);
	assert_int_equal(watched.reads, 1);
	f->store->disk_ops = watched.real;
	terrace_cache_close(cache);
}

int main(void)
{
#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_STORE(test_fetch__computes_once_and_keeps),
		WITH_STORE(test_fetch__the_loaders_failure_is_the_callers),
		WITH_STORE(test_fetch__the_loader_says_tags_sources_and_time_to_live),
		WITH_STORE(test_fetch__a_value_can_be_kept_out),
		WITH_STORE(test_fetch__a_time_that_is_none_does_not_keep_a_value_for_ever),
		WITH_STORE(test_fetch__what_was_outdated_meanwhile_is_not_stored),
		WITH_STORE(test_fetch__threads_wait_for_one_loader),
		WITH_STORE(test_fetch__a_loaders_code_is_never_taken_for_a_status),
		WITH_STORE(test_fetch__who_joins_after_an_invalidation_gets_a_new_value),
		WITH_STORE(test_fetch__who_joins_after_a_delete_is_not_given_what_was_found_before),
		WITH_STORE(test_fetch__looks_again_only_where_something_was_written),
		WITH_STORE(test_fetch__who_joins_after_a_source_changed_gets_a_new_value),
		WITH_STORE(
		    test_fetch__who_joins_after_a_source_changed_is_not_told_what_came_of_the_older),
		WITH_STORE(
		    test_fetch__a_key_that_is_there_twice_leaves_no_lease_where_another_failed),
		WITH_STORE(test_fetch__a_cycle_is_an_error),
		WITH_STORE(test_fetch__loaders_that_want_each_others_key_both_end),
		WITH_STORE(test_lease__is_a_fetch_without_a_callback),
		WITH_STORE(test_fetch__processes_wait_for_one_loader),
		WITH_STORE(test_fetch__a_failure_from_before_a_delete_is_not_for_who_came_after_it),
		WITH_STORE(test_fetch__a_killed_owner_is_replaced),
		WITH_STORE(test_lease__the_deadline_is_kept_beside_a_stuck_owner),
		WITH_STORE(test_coherence__a_copy_in_memory_does_not_outlive_a_write_elsewhere),
		WITH_STORE(test_coherence__in_memory_alone_two_holders_see_each_others_writes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
