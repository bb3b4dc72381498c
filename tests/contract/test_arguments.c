/*
 * What callers can do wrong, for every verb alike: a status and a message that
 * says what is wrong, nothing written to the outputs, nothing changed.
 */
#include "support/support.h"

#include <limits.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static terrace *store_of_test; /* for the verbs that take the store */

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	fixture_open(f);
	store_of_test = f->store;
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

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)key;
	*(int *)ctx += 1;
	return terrace_loaded_copy(loaded, terrace_str("loaded"));
}

static int load_many(void *ctx, const terrace_slice *keys, size_t count,
                     terrace_loaded *const *loaded)
{
	return load_each(load, ctx, keys, count, loaded);
}

/* --- every verb ------------------------------------------------------------------------------ */

/* What verbs write to; untouched where they fail. */
static struct outputs {
	terrace_value *value;
	terrace_keys *keys;
	terrace_lease *lease;
	int64_t number;
	uint64_t count;
	size_t hits;
	int loads;
} out, untouched;

/* X(name, call); c: a cache, k: a key. Those that take a key come first. */
#define KEY_VERBS(X)                                                                              \
	X(get, terrace_get(c, k, &out.value))                                                     \
	X(get_or, terrace_get_or(c, k, terrace_str("else"), &out.value))                          \
	X(get_many, terrace_get_many(c, &k, 1, &out.value, &out.hits))                            \
	X(get_encoded, terrace_get_encoded(c, k, &out.value))                                     \
	X(exists, terrace_exists(c, k))                                                           \
	X(put, terrace_put(c, k, terrace_str("v"), NULL))                                         \
	X(put_many, terrace_put_many(c, &(terrace_item){ k, terrace_str("v") }, 1, NULL))         \
	X(add, terrace_add(c, k, terrace_str("v"), NULL))                                         \
	X(incr, terrace_incr(c, k, 1, 0, &out.number))                                            \
	X(delete, terrace_delete(c, k))                                                           \
	X(delete_many, terrace_delete_many(c, &k, 1, &out.count))                                 \
	X(touch, terrace_touch(c, k, 1000))                                                       \
	X(invalidate_key,                                                                         \
	  terrace_invalidate(c, &(terrace_match){ TERRACE_MATCH_KEY, k }, &out.count))            \
	X(keys_of_key, terrace_keys_open(c, &(terrace_match){ TERRACE_MATCH_KEY, k }, &out.keys)) \
	X(inspect, terrace_inspect(c, k, &(terrace_info){ .size = sizeof(terrace_info) }))        \
	X(explain, terrace_explain(c, k, &(terrace_why){ .size = sizeof(terrace_why) }))          \
	X(fetch, terrace_fetch(c, k, load, &out.loads, &out.value))                               \
	X(fetch_with, terrace_fetch_with(c, k, load, &out.loads, NULL, &out.value))               \
	X(fetch_encoded, terrace_fetch_encoded(c, k, load, &out.loads, &out.value))               \
	X(fetch_many, terrace_fetch_many(c, &k, 1, load_many, &out.loads, &out.value))            \
	X(lease_begin, terrace_lease_begin(c, k, 0, &out.lease, &out.value))

#define CACHE_VERBS(X)                                                                      \
	X(clear, terrace_clear(c, 0, &out.count))                                           \
	X(clear_one, terrace_clear(c, TERRACE_L2, &out.count))                              \
	X(invalidate, terrace_invalidate(c, NULL, &out.count))                              \
	X(keys_open, terrace_keys_open(c, NULL, &out.keys))                                 \
	X(keys_open_newest, terrace_keys_open_newest(c, NULL, &out.keys))                   \
	X(check_sources, terrace_check_sources(c, &out.count))                              \
	X(cleanup_cache, terrace_cleanup(store_of_test, c, &out.count))                     \
	X(cache_resize, terrace_cache_resize(c, 1 << 20))                                   \
	X(evict, terrace_evict(c, 1, &out.count))                                           \
	X(stats, terrace_cache_stats(c, &(terrace_stats){ .size = sizeof(terrace_stats) })) \
	X(usage, terrace_cache_usage(c, &(terrace_usage){ 0 }))

static int visit_nothing(void *ctx, const terrace_process *process)
{
	(void)ctx, (void)process;
	return 0;
}

static int visit_no_name(void *ctx, const char *name)
{
	(void)ctx, (void)name;
	return 0;
}

/* Of a store; c and k say nothing. */
#define STORE_VERBS(X)                                                                             \
	X(cache_open, terrace_cache_open(store_of_test, "new", NULL, &(terrace_cache *){ 0 }))     \
	X(cleanup, terrace_cleanup(store_of_test, NULL, &out.count))                               \
	X(flush, terrace_flush(store_of_test))                                                     \
	X(begin, terrace_begin(store_of_test, 0))                                                  \
	X(commit, terrace_commit(store_of_test))                                                   \
	X(resize, terrace_resize(store_of_test, 1 << 20))                                          \
	X(memory_usage, terrace_memory_usage(store_of_test,                                        \
	                                     &(terrace_memory){ .size = sizeof(terrace_memory) })) \
	X(processes_each, terrace_processes_each(store_of_test, visit_nothing, NULL))              \
	X(caches_each, terrace_caches_each(store_of_test, visit_no_name, NULL))                    \
	X(verify,                                                                                  \
	  terrace_verify(store_of_test, false, NULL, NULL,                                         \
	                 &(terrace_verify_report){ .size = sizeof(terrace_verify_report) }))

struct verb {
	const char *name;
	int (*call)(terrace_cache *c, terrace_slice k);
};

#define X(name, expression)                                       \
	static int call_##name(terrace_cache *c, terrace_slice k) \
	{                                                         \
		(void)c, (void)k;                                 \
		return expression;                                \
	}
KEY_VERBS(X)
CACHE_VERBS(X)
STORE_VERBS(X)
#undef X

#define X(name, expression) { #name, call_##name },
static const struct verb key_verbs[] = { KEY_VERBS(X) };
static const struct verb cache_verbs[] = { CACHE_VERBS(X) };
static const struct verb store_verbs[] = { STORE_VERBS(X) };
#undef X

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Verbs that do not give this status with a message, or that wrote something; told. */
static int wrong(const struct verb *verbs, size_t count, terrace_cache *cache, terrace_slice key,
                 int expected, const char *says)
{
	int bad = 0;

	for (size_t i = 0; i < count; i++) {
		int rc;

		out = untouched;
		terrace_fail(0, "none");
		rc = verbs[i].call(cache, key);
		if (rc == expected && strstr(terrace_error_message(), says) &&
		    memcmp(&out, &untouched, sizeof out) == 0)
			continue;
		fprintf(stderr, "%s: %s, \"%s\"%s\n", verbs[i].name, terrace_status_name(rc),
		        terrace_error_message(),
		        memcmp(&out, &untouched, sizeof out) ? ", and it wrote" : "");
		bad++;
	}
	return bad;
}

static void test_key__that_is_none_is_refused_by_every_verb(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	char *long_key = malloc(TERRACE_KEY_MAX + 1);
	const terrace_slice bad[] = {
		terrace_bytes("", 0),
		terrace_bytes(NULL, 3),
		terrace_bytes(long_key, TERRACE_KEY_MAX + 1),
	};

	memset(long_key, 'k', TERRACE_KEY_MAX + 1);
	for (size_t i = 0; i < COUNT(bad); i++) {
		/* a cache that holds nothing checks no less */
		assert_int_equal(wrong(key_verbs, COUNT(key_verbs), cache, bad[i], TERRACE_EINVAL,
		                       "a key has 1 to"),
		                 0);
	}
	assert_ok(terrace_put(cache, terrace_bytes(long_key, TERRACE_KEY_MAX), terrace_str("v"),
	                      NULL)); /* the longest that there is */
	free(long_key);
	terrace_cache_close(cache);
}

static void test_fork__every_verb_tells_the_child(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	int status;
	pid_t child;

	assert_ok(put_text(cache, "k", "v"));
	child = fork();
	if (child == 0) {
		terrace_slice key = TERRACE_KEY("k");
		int bad = wrong(key_verbs, COUNT(key_verbs), cache, key, TERRACE_EFORK, "fork()");

		bad += wrong(cache_verbs, COUNT(cache_verbs), cache, key, TERRACE_EFORK, "fork()");
		bad += wrong(store_verbs, COUNT(store_verbs), cache, key, TERRACE_EFORK, "fork()");
		_exit(bad);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_gives(cache, "k", "v");
	terrace_cache_close(cache);
}

/* --- structs of other versions ------------------------------------------------------------------ */

/* A struct of ours, and what a newer version might have behind it. */
#define WITH_MORE(type)         \
	struct {                \
		type ours;      \
		uint64_t newer; \
	}

static void test_struct__that_asks_for_what_is_not_known_is_refused(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL), *other;
	WITH_MORE(terrace_put_options) put = { TERRACE_PUT_INIT, 1 };
	WITH_MORE(terrace_fetch_options) fetch = { TERRACE_FETCH_INIT, 1 };
	WITH_MORE(terrace_options) options = { f->options, 1 };
	WITH_MORE(terrace_policy) policy = { TERRACE_POLICY_INIT, 1 };
	WITH_MORE(terrace_jobs_options) jobs_options = { TERRACE_JOBS_INIT, 1 };
	terrace_jobs *jobs;
	terrace_value *value;
	terrace *store;
	int loads = 0;

	put.ours.size = sizeof put;
	fetch.ours.size = sizeof fetch;
	options.ours.size = sizeof options;
	policy.ours.size = sizeof policy;
	jobs_options.ours.size = sizeof jobs_options;
	for (int i = 0; i < 2; i++) {
		assert_status(terrace_put(cache, TERRACE_KEY("k"), terrace_str("v"), &put.ours),
		              TERRACE_EINVAL);
		assert_status(
		    terrace_fetch_with(cache, TERRACE_KEY("k"), load, &loads, &fetch.ours, &value),
		    TERRACE_EINVAL);
		assert_status(
		    terrace_open(scratch_path(&f->scratch, "other"), &options.ours, &store),
		    TERRACE_EINVAL);
		assert_status(terrace_cache_open(f->store, "b", &policy.ours, &other),
		              TERRACE_EINVAL);
		assert_status(terrace_jobs_open(&jobs_options.ours, &jobs), TERRACE_EINVAL);
		/* and without the macro that sets its size */
		put.ours.size = fetch.ours.size = options.ours.size = policy.ours.size = 0;
		jobs_options.ours.size = 0;
		assert_non_null(strstr(terrace_error_message(), i ? "_INIT" : "not know"));
	}
	assert_int_equal(loads, 0);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void test_struct__of_an_older_version_is_not_written_beyond(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_memory memory = TERRACE_MEMORY_INIT;

	stats.size -= 8;
	assert_status(terrace_cache_stats(cache, &stats), TERRACE_EINVAL);
	memory.size -= 8;
	assert_status(terrace_memory_usage(f->store, &memory), TERRACE_EINVAL);
	terrace_cache_close(cache);
}

/* --- values of arguments ------------------------------------------------------------------------- */

static int decode_nothing(void *ctx, terrace_slice bytes, void **ret_object, size_t *ret_weight)
{
	(void)ctx;
	(void)bytes;
	*ret_object = NULL;
	*ret_weight = 0;
	return 0;
}

static void test_policy__each_field_is_checked(void **state)
{
	struct fixture *f = *state;
	const struct {
		terrace_policy policy;
		const char *says;
	} bad[] = {
		{ { .ttl_ms = -3 }, "ttl_ms" },
		{ { .codec = TERRACE_CODEC_DICTIONARY }, "codec" }, /* of entries alone */
		{ { .codec = (terrace_codec)6 }, "codec" },
		{ { .check = (terrace_check)5 }, "check" },
		{ { .write = (terrace_write)3 }, "write" },
		{ { .stale_ms = -2 }, "duration" },
		{ { .stale_on_error_ms = -2 }, "duration" },
		{ { .absent_ttl_ms = -2 }, "duration" },
		{ { .idle_ms = -2 }, "duration" },
		{ { .strategy = (terrace_strategy)5 }, "strategy" },
		{ { .jitter_percent = 101 }, "jitter_percent" },
		{ { .form = &(terrace_form){ 0 } }, "form" },
		{ { .form = &(terrace_form){ .decode = decode_nothing } }, "form" },
		{ { .tiers = 8 }, "tiers" },
		{ { .check = TERRACE_CHECK_INTERVAL }, "check_interval_ms" },
		{ { .eviction = "none" }, "eviction" },
	};

	for (size_t i = 0; i < COUNT(bad); i++) {
		terrace_policy policy = bad[i].policy;
		terrace_cache *cache = NULL;

		policy.size = sizeof policy;
		assert_status(terrace_cache_open(f->store, "a", &policy, &cache), TERRACE_EINVAL);
		assert_null(cache);
		if (!strstr(terrace_error_message(), bad[i].says))
			fail_msg("\"%s\" does not say %s", terrace_error_message(), bad[i].says);
	}
	assert_status(terrace_cache_open(f->store, "a", NULL, NULL), TERRACE_EINVAL);
	assert_status(terrace_open(NULL, NULL, NULL), TERRACE_EINVAL);
}

static void test_match__that_is_none_removes_nothing(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	char large[PATH_MAX + 1];
	const terrace_match bad[] = {
		{ (terrace_match_kind)9, { "k", 1 } },
		{ TERRACE_MATCH_GLOB, { "[k", 2 } },
		{ TERRACE_MATCH_TAG, { "", 0 } },
		{ TERRACE_MATCH_TAG, { large, TERRACE_TAG_MAX + 1 } },
		{ TERRACE_MATCH_SOURCE, { large, PATH_MAX } },
		{ TERRACE_MATCH_SOURCE, { "", 0 } },
		{ TERRACE_MATCH_SOURCE, { large, PATH_MAX - 1 } },
	};

	memset(large, 'x', sizeof large);
	assert_ok(put_text(cache, "k", "v"));
	for (size_t i = 0; i < COUNT(bad); i++) {
		uint64_t count = 7;
		terrace_keys *keys = NULL;

		assert_status(terrace_invalidate(cache, &bad[i], &count), TERRACE_EINVAL);
		assert_status(terrace_keys_open(cache, &bad[i], &keys), TERRACE_EINVAL);
		assert_int_equal(count, 7);
		assert_null(keys);
	}
	assert_gives(cache, "k", "v");
	terrace_cache_close(cache);
}

static void test_options__with_values_that_cannot_be(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL), *other = fixture_cache(f, "b", NULL);
	terrace_put_options put = TERRACE_PUT_INIT;
	terrace_fetch_options fetch = TERRACE_FETCH_INIT;
	terrace_item items[2] = { { TERRACE_KEY("k"), terrace_str("v") },
		                  { TERRACE_KEY("l"), terrace_str("w") } };
	terrace_lease *lease;
	terrace_value *value;
	int64_t number;
	int loads = 0;

	put.ttl_ms = -3;
	assert_status(terrace_put(cache, TERRACE_KEY("k"), terrace_str("v"), &put), TERRACE_EINVAL);
	put = (terrace_put_options)TERRACE_PUT_INIT;
	put.strategy = (terrace_strategy)5;
	assert_status(terrace_put(cache, TERRACE_KEY("k"), terrace_str("v"), &put), TERRACE_EINVAL);
	fetch.strategy = (terrace_strategy)5;
	assert_status(terrace_fetch_with(cache, TERRACE_KEY("k"), load, &loads, &fetch, &value),
	              TERRACE_EINVAL);
	fetch.strategy = TERRACE_STRATEGY_DEFAULT;
	assert_status(terrace_touch(cache, TERRACE_KEY("k"), -3), TERRACE_EINVAL);
	fetch.soft_ms = -1;
	assert_status(terrace_fetch_with(cache, TERRACE_KEY("k"), load, &loads, &fetch, &value),
	              TERRACE_EINVAL);
	fetch.soft_ms = 0;
	fetch.hard_ms = -1;
	assert_status(terrace_fetch_with(cache, TERRACE_KEY("k"), load, &loads, &fetch, &value),
	              TERRACE_EINVAL);
	assert_int_equal(loads, 0);

	/* a lease is for one value of its own cache */
	assert_status(terrace_lease_begin(cache, TERRACE_KEY("k"), 0, &lease, &value),
	              TERRACE_MISS);
	put = (terrace_put_options)TERRACE_PUT_INIT;
	put.lease = lease;
	assert_status(terrace_put(other, TERRACE_KEY("k"), terrace_str("v"), &put), TERRACE_EINVAL);
	assert_status(terrace_put_many(cache, items, 2, &put), TERRACE_EINVAL);
	put.ttl_ms = -3;
	assert_status(terrace_lease_put(lease, terrace_str("v"), &put, NULL), TERRACE_EINVAL);
	terrace_lease_drop(lease);
	assert_misses(cache, "k");
	assert_misses(other, "k");

	/* a first number that has no room for what is added */
	assert_status(terrace_incr(cache, TERRACE_KEY("n"), 1, INT64_MAX, &number), TERRACE_EINVAL);
	assert_misses(cache, "n");
	assert_status(terrace_lease_begin(NULL, TERRACE_KEY("k"), 0, &lease, &value),
	              TERRACE_EINVAL);
	terrace_cache_close(cache);
	terrace_cache_close(other);
}

/* Bytes that are nowhere, of a match of each kind. */
static void test_match__of_text_that_is_nowhere_is_refused(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	for (int kind = TERRACE_MATCH_KEY; kind <= TERRACE_MATCH_SOURCE; kind++) {
		terrace_match match = { (terrace_match_kind)kind, { NULL, 5 } };
		uint64_t count;

		assert_status(terrace_invalidate(cache, &match, &count), TERRACE_EINVAL);
		assert_non_null(strstr(terrace_error_message(), "NULL"));
	}
	terrace_cache_close(cache);
}

/* --- what holds nothing -------------------------------------------------------------------------- */

static void test_null__every_verb_works_and_keeps_nothing(void **state)
{
	static const char *const reads[] = { "get",   "get_encoded", "exists",  "delete",
		                             "touch", "inspect",     "explain", NULL };

	(void)state;
	for (size_t i = 0; i < COUNT(key_verbs); i++) {
		int expected = TERRACE_OK, rc;

		for (size_t k = 0; reads[k]; k++) {
			if (strcmp(reads[k], key_verbs[i].name) == 0)
				expected = TERRACE_MISS;
		}
		if (strcmp(key_verbs[i].name, "lease_begin") == 0)
			continue; /* there is nothing to compute for */
		out = untouched;
		rc = key_verbs[i].call(NULL, TERRACE_KEY("k"));
		if (rc != expected)
			fail_msg("%s: %s", key_verbs[i].name, terrace_status_name(rc));
		assert_int_equal(out.count + out.hits, 0);
		terrace_keys_close(out.keys);
		terrace_release(out.value);
	}
	for (size_t i = 0; i < COUNT(cache_verbs); i++) {
		out = untouched;
		store_of_test = NULL;
		if (cache_verbs[i].call(NULL, TERRACE_KEY("k")) != TERRACE_OK)
			fail_msg("%s: %s", cache_verbs[i].name, terrace_error_message());
		assert_int_equal(out.count, 0);
		terrace_keys_close(out.keys);
	}
	for (size_t i = 0; i < COUNT(store_verbs); i++) {
		if (store_verbs[i].call(NULL, TERRACE_KEY("k")) != TERRACE_OK)
			fail_msg("%s: %s", store_verbs[i].name, terrace_error_message());
	}
	assert_string_equal(terrace_cache_name(NULL), "");
	assert_int_equal(terrace_slice_of(NULL).size, 0);
	assert_null(terrace_object(NULL));
	terrace_keys_close(NULL);
	terrace_info_free(NULL);
	terrace_sources_free(NULL);
	terrace_jobs_close(NULL);
	terrace_library_free(NULL);
	assert_int_equal(terrace_sources_count(NULL), 0);
}

/* A handle that was closed, or never was one, ends the program by name. */
static void test_handle__that_is_none_aborts_and_says_so(void **state)
{
	static uint64_t nothing[512];

	(void)state;
	for (int i = 0; i < 2; i++) {
		char said[200] = "";
		int ends[2], status;
		pid_t child;

		assert_int_equal(pipe(ends), 0);
		child = fork();
		if (child == 0) {
			terrace_value *value;

			dup2(ends[1], STDERR_FILENO);
			signal(SIGABRT, SIG_DFL);
			if (i == 0)
				terrace_flush((terrace *)nothing);
			else
				terrace_get((terrace_cache *)nothing, TERRACE_KEY("k"), &value);
			_exit(0);
		}
		close(ends[1]);
		assert_true(read(ends[0], said, sizeof said - 1) > 0);
		close(ends[0]);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
		assert_non_null(strstr(said, i ? "no terrace cache" : "no terrace store"));
	}
}

/* --- names ------------------------------------------------------------------------------------------ */

static void test_names__of_statuses_tiers_and_reasons(void **state)
{
	(void)state;
#define assert_name(status) assert_string_equal(terrace_status_name(status), #status)
	assert_name(TERRACE_OK);
	assert_name(TERRACE_MISS);
	assert_name(TERRACE_EXISTS);
	assert_name(TERRACE_ABSENT);
	assert_name(TERRACE_EINVAL);
	assert_name(TERRACE_ENOMEM);
	assert_name(TERRACE_EIO);
	assert_name(TERRACE_EFULL);
	assert_name(TERRACE_EACCESS);
	assert_name(TERRACE_ECONFIG);
	assert_name(TERRACE_EBUSY);
	assert_name(TERRACE_ECYCLE);
	assert_name(TERRACE_EFORK);
	assert_name(TERRACE_EFORMAT);
	assert_name(TERRACE_ECORRUPT);
	assert_name(TERRACE_ETOOBIG);
#undef assert_name
	assert_string_equal(terrace_status_name(-99), "TERRACE_UNKNOWN");
	assert_string_equal(terrace_tier_name(TERRACE_L1), "l1");
	assert_string_equal(terrace_tier_name(TERRACE_L2), "l2");
	assert_string_equal(terrace_tier_name(TERRACE_L3), "l3");
	assert_string_equal(terrace_tier_name(0), "none");
	assert_string_equal(terrace_reason_name((terrace_reason)99), "unknown");
}

/* --- what may be left out ---------------------------------------------------------------------------- */

static void test_outputs__may_be_left_out(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	const terrace_match prefix = terrace_match_text(TERRACE_MATCH_PREFIX, "k");
	terrace_slice keys[2] = { TERRACE_KEY("k1"), TERRACE_KEY("none") };
	terrace_value *values[2];

	for (int i = 0; i < 2; i++) {
		terrace_cache *either = i ? NULL : cache;

		assert_ok(put_text(cache, "k1", "v"));
		assert_ok(terrace_get_many(either, keys, 2, values, NULL));
		assert_int_equal(terrace_size(values[0]), i ? 0 : 1);
		assert_null(values[1]);
		terrace_release(values[0]);
		assert_ok(terrace_get_many(either, keys, 0, NULL, NULL));
		assert_ok(terrace_put_many(either, NULL, 0, NULL));
		assert_ok(terrace_delete_many(either, NULL, 0, NULL));
		assert_ok(terrace_delete_many(either, keys, 2, NULL));
		assert_misses(cache, i ? "none" : "k1");
		assert_ok(terrace_incr(either, TERRACE_KEY("n"), 2, 5, NULL));
		assert_status(terrace_incr(either, TERRACE_KEY("m"), INT64_MIN, -1, NULL),
		              TERRACE_EINVAL);
		assert_ok(terrace_invalidate(either, &prefix, NULL));
		assert_ok(terrace_evict(either, 1, NULL));
		assert_ok(terrace_check_sources(either, NULL));
		assert_ok(terrace_clear(either, TERRACE_L1 | TERRACE_L2 | TERRACE_L3, NULL));
		assert_misses(cache, "n");
		assert_ok(terrace_cleanup(f->store, either, NULL));
	}
	terrace_cache_close(cache);
}

static void test_get_or__of_nothing_is_an_empty_value(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_value *value;

	assert_ok(terrace_get_or(cache, TERRACE_KEY("k"), terrace_str(""), &value));
	assert_non_null(value);
	assert_int_equal(terrace_size(value), 0);
	assert_int_equal(terrace_value_tier(value), 0);
	terrace_release(value);
	terrace_cache_close(cache);
}

static void test_keys__of_one_key_are_that_key_or_none(void **state)
{
	struct fixture *f = *state;
	static const unsigned tiers[] = { TERRACE_L1, TERRACE_L2, TERRACE_L1 | TERRACE_L3 };

	for (size_t i = 0; i < COUNT(tiers); i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		const terrace_match one = terrace_match_text(TERRACE_MATCH_KEY, "k*"),
				    none = terrace_match_text(TERRACE_MATCH_KEY, "k");
		terrace_cache *cache;
		terrace_keys *keys;
		terrace_slice key;
		char name[8];

		snprintf(name, sizeof name, "c%zu", i);
		policy.tiers = tiers[i];
		cache = fixture_cache(f, name, &policy);
		assert_ok(put_text(cache, "k*", "v"));
		assert_ok(put_text(cache, "kk", "v")); /* a key is no pattern */
		assert_ok(terrace_keys_open(cache, &one, &keys));
		assert_ok(terrace_keys_next(keys, &key));
		assert_int_equal(key.size, 2);
		assert_memory_equal(key.data, "k*", 2);
		assert_status(terrace_keys_next(keys, &key), TERRACE_MISS);
		assert_status(terrace_keys_next(keys, &key), TERRACE_MISS);
		terrace_keys_close(keys);
		assert_ok(terrace_keys_open_newest(cache, &none, &keys));
		assert_status(terrace_keys_next(keys, &key), TERRACE_MISS);
		terrace_keys_close(keys);
		terrace_cache_close(cache);
	}
}

static int count_settings(void *ctx, const terrace_setting *setting)
{
	(void)setting;
	return ++*(int *)ctx == 3;
}

static int count_caches(void *ctx, const char *name)
{
	(void)name;
	return ++*(int *)ctx == 2;
}

static int count_open(void *ctx, const terrace_open_cache *open)
{
	(void)open;
	return ++*(int *)ctx == 2;
}

/* A callback that has seen enough is not called again. */
static void test_each__stops_when_told(void **state)
{
	struct fixture *f = *state;
	char ini[600];
	terrace_cache *caches[3];
	int count = 0;

	snprintf(ini, sizeof ini, "%s/terrace.ini", scratch_path(&f->scratch, "store"));
	write_file(ini, "[cache only configured]\nttl = 1s\n[cache b]\nttl = 2s\n");
	fixture_reopen(f);
	caches[0] = fixture_cache(f, "a", NULL);
	caches[1] = fixture_cache(f, "b", NULL);
	caches[2] = fixture_cache(f, "c", NULL);
	terrace_config_each(f->store, count_settings, &count);
	assert_int_equal(count, 3);
	count = 100; /* all: one table of the store, one for each of four caches */
	terrace_config_each(f->store, count_settings, &count);
	assert_int_equal((count - 100 - 8) % 4, 0);
	assert_true(count > 150);
	count = 0;
	assert_ok(terrace_caches_each(f->store, count_caches, &count));
	assert_int_equal(count, 2);
	count = 0;
	assert_int_equal(terrace_registry_each(count_open, &count), 2);
	assert_int_equal(terrace_registry_each(NULL, NULL), 3);
	for (int i = 0; i < 3; i++)
		terrace_cache_close(caches[i]);

	/* without a store there is nothing to call for */
	terrace_config_each(NULL, count_settings, &count);
	assert_ok(terrace_caches_each(NULL, count_caches, &count));
	assert_ok(terrace_flush(NULL));
	assert_int_equal(count, 2);
	assert_string_equal(terrace_dir(NULL), "");
	assert_status(terrace_processes_each(f->store, NULL, NULL), TERRACE_EINVAL);
}

static int run_nothing(void *ctx, uint64_t item)
{
	(void)item;
	atomic_fetch_add((_Atomic int *)ctx, 1);
	return TERRACE_OK;
}

static void test_jobs__that_cannot_be_are_refused(void **state)
{
	terrace_jobs_options options = TERRACE_JOBS_INIT;
	terrace_progress progress = TERRACE_PROGRESS_INIT;
	terrace_job_spec spec = TERRACE_JOB_INIT;
	_Atomic int runs = 0;
	terrace_jobs *jobs;
	terrace_job *job;

	(void)state;
	assert_status(terrace_jobs_open(NULL, NULL), TERRACE_EINVAL);
	options.workers = 65;
	assert_status(terrace_jobs_open(&options, &jobs), TERRACE_EINVAL);
	options.workers = 0;
	options.bulk_workers = 65;
	assert_status(terrace_jobs_open(&options, &jobs), TERRACE_EINVAL);
	assert_ok(terrace_jobs_open(NULL, &jobs));
	spec.ctx = &runs;
	spec.items = 3;
	assert_status(terrace_jobs_submit(jobs, &spec, &job), TERRACE_EINVAL); /* nothing to run */
	spec.run = run_nothing;
	spec.priority = (terrace_priority)(TERRACE_BULK + 1);
	assert_status(terrace_jobs_submit(jobs, &spec, &job), TERRACE_EINVAL);
	spec.priority = TERRACE_BULK;
	assert_status(terrace_jobs_submit(NULL, &spec, &job), TERRACE_EINVAL);
	assert_status(terrace_jobs_submit(jobs, NULL, &job), TERRACE_EINVAL);
	assert_ok(terrace_jobs_submit(jobs, &spec, &job));
	assert_ok(terrace_job_wait(job, -1));
	assert_int_equal(runs, 3);
	assert_status(terrace_job_progress(NULL, &progress), TERRACE_EINVAL);
	assert_status(terrace_job_progress(job, NULL), TERRACE_EINVAL);
	progress.size = 8;
	assert_status(terrace_job_progress(job, &progress), TERRACE_EINVAL);
	terrace_job_release(job);
	terrace_job_release(NULL);
	terrace_job_cancel(NULL);
	terrace_jobs_close(jobs);
}

static void test_sources__that_cannot_be_looked_at(void **state)
{
	struct fixture *f = *state;
	terrace_sources *sources;
	terrace_digest digest;
	char loop[300], below[400], long_name[300];

	assert_ok(terrace_sources_new(&sources));
	snprintf(loop, sizeof loop, "%s", scratch_path(&f->scratch, "loop"));
	snprintf(below, sizeof below, "%s/below", loop);
	assert_int_equal(symlink(loop, loop), 0);
	memset(long_name, 'x', sizeof long_name);
	long_name[0] = '/';
	long_name[sizeof long_name - 1] = '\0';
	assert_status(terrace_sources_absent(sources, below), TERRACE_EIO);
	assert_non_null(strstr(terrace_error_message(), below));
	assert_status(terrace_sources_absent(sources, long_name), TERRACE_EIO);
	assert_status(terrace_sources_absent(sources, ""), TERRACE_EINVAL);
	assert_status(terrace_sources_file(sources, below, 0), TERRACE_EIO);
	assert_status(terrace_sources_file(sources, f->scratch.path, 0), TERRACE_EINVAL);
	assert_status(terrace_file_digest(f->store, f->scratch.path, &digest), TERRACE_EINVAL);
	assert_status(terrace_file_digest(NULL, below, &digest), TERRACE_EIO);
	assert_int_equal(terrace_sources_count(sources), 0);
	terrace_sources_free(sources);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_key__that_is_none_is_refused_by_every_verb,
		                                setup, teardown),
		cmocka_unit_test_setup_teardown(test_fork__every_verb_tells_the_child, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(
		    test_struct__that_asks_for_what_is_not_known_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(
		    test_struct__of_an_older_version_is_not_written_beyond, setup, teardown),
		cmocka_unit_test_setup_teardown(test_policy__each_field_is_checked, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_match__that_is_none_removes_nothing, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_options__with_values_that_cannot_be, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_match__of_text_that_is_nowhere_is_refused,
		                                setup, teardown),
		cmocka_unit_test(test_null__every_verb_works_and_keeps_nothing),
		cmocka_unit_test(test_handle__that_is_none_aborts_and_says_so),
		cmocka_unit_test(test_names__of_statuses_tiers_and_reasons),
		cmocka_unit_test_setup_teardown(test_outputs__may_be_left_out, setup, teardown),
		cmocka_unit_test_setup_teardown(test_get_or__of_nothing_is_an_empty_value, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_keys__of_one_key_are_that_key_or_none, setup,
		                                teardown),
		cmocka_unit_test_setup_teardown(test_each__stops_when_told, setup, teardown),
		cmocka_unit_test(test_jobs__that_cannot_be_are_refused),
		cmocka_unit_test_setup_teardown(test_sources__that_cannot_be_looked_at, setup,
		                                teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
