/*
 * Strategies: what is put into memory alone leaves nothing older behind, and what is
 * read ahead is what a get would have read.
 */
#include "support/peer.h"

#include "core/ahead.h"
#include "core/order.h"
#include "core/store.h"

#include <pthread.h>
#include <unistd.h>

static terrace_cache *with_strategy(struct fixture *f, terrace_strategy strategy)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.strategy = strategy;
	return fixture_cache(f, "a", &policy);
}

static int put_by(terrace_cache *cache, const char *key, const char *text,
                  terrace_strategy strategy)
{
	terrace_put_options options = TERRACE_PUT_INIT;

	options.strategy = strategy;
	return terrace_put(cache, terrace_str(key), terrace_str(text), &options);
}

static int put_immediate(terrace_cache *cache, const char *key, const char *text)
{
	return put_by(cache, key, text, TERRACE_STRATEGY_IMMEDIATE);
}

static terrace_stats stats_of(terrace_cache *cache)
{
	terrace_stats stats = TERRACE_STATS_INIT;

	assert_ok(terrace_cache_stats(cache, &stats));
	return stats;
}

static uint64_t on_disk(terrace_cache *cache)
{
	terrace_usage usage;

	assert_ok(terrace_cache_usage(cache, &usage));
	return usage.entries;
}

/* The tier that a get of it is served by; 0: it misses. */
static unsigned tier_of(terrace_cache *cache, const char *key)
{
	terrace_value *value;
	unsigned tier;

	if (terrace_get(cache, terrace_str(key), &value) != TERRACE_OK)
		return 0;
	tier = terrace_value_tier(value);
	terrace_release(value);
	return tier;
}

/* --- immediate -------------------------------------------------------------------------------- */

/* As eviction would, but all of it. */
static void lose_memory(terrace_cache *cache)
{
	assert_ok(terrace_clear(cache, TERRACE_L1, NULL));
}

static void test_immediate__leaves_nothing_older_in_any_process(void **state)
{
	static const unsigned tiers[] = { TERRACE_L1 | TERRACE_L2, TERRACE_L1 | TERRACE_L3, 0 };

	for (int t = 0; t < 6; t++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		terrace_cache *cache;
		struct fixture *f;
		struct peer peer;

		fixture_teardown(state);
		fixture_setup(state);
		f = *state;
		policy.tiers = tiers[t % 3];
		policy.write = t < 3 ? TERRACE_WRITE_THROUGH : TERRACE_WRITE_BEHIND;
		terrace_close(f->store);
		peer = peer_start(f, &policy);
		assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
		cache = fixture_cache(f, "a", &policy);
		/* over a row, which the other process has in its memory too */
		assert_ok(put_text(cache, "k", "old"));
		assert_ok(terrace_flush(f->store));
		assert_peer(&peer, "g k", "old");
		assert_ok(put_immediate(cache, "k", "new"));
		assert_gives(cache, "k", "new");
		assert_peer(&peer, "g k", "(miss)");
		lose_memory(cache);
		assert_misses(cache, "k");
		assert_peer(&peer, "g k", "(miss)");
		/* over nothing, and over itself */
		assert_ok(put_immediate(cache, "k", "newer"));
		assert_ok(put_immediate(cache, "k", "newest"));
		assert_gives(cache, "k", "newest");
		assert_peer(&peer, "g k", "(miss)");
		/* the other one puts, and deletes */
		assert_peer(&peer, "p k theirs", "ok");
		assert_peer(&peer, "f", "ok");
		assert_gives(cache, "k", "theirs");
		assert_ok(put_immediate(cache, "k", "ours"));
		assert_gives(cache, "k", "ours");
		assert_peer(&peer, "d k", "ok");
		assert_misses(cache, "k");
		lose_memory(cache);
		assert_misses(cache, "k");
		/* over a value of either that waits to be written */
		assert_ok(put_text(cache, "k", "waits"));
		assert_ok(put_immediate(cache, "k", "at once"));
		assert_ok(terrace_flush(f->store));
		assert_gives(cache, "k", "at once");
		lose_memory(cache);
		assert_misses(cache, "k");
		assert_peer(&peer, "p k waits", "ok");
		assert_ok(put_immediate(cache, "k", "here"));
		assert_peer(&peer, "f", "ok");
		assert_peer(&peer, "g k", "(miss)");
		lose_memory(cache);
		assert_misses(cache, "k");
		terrace_cache_close(cache);
		peer_end(&peer);
	}
}

/* Two processes do what comes to mind; nobody ever reads what was replaced or removed. */
static void test_immediate__beside_every_other_verb_in_two_processes(void **state)
{
	enum { KEYS = 5, STEPS = 1500 };
	static const char *const verbs[] = { "g", "p", "d", "i", "c" };
	struct rng rng = { test_seed() };
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	char model[KEYS][16] = { "" };
	int served = 0, immediate = 0;
	terrace_cache *cache;
	struct peer peer;

	policy.strategy = TERRACE_STRATEGY_IMMEDIATE; /* the peer's puts */
	terrace_close(f->store);
	peer = peer_start(f, &policy);
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	cache = fixture_cache(f, "a", NULL);
	for (int step = 0; step < STEPS; step++) {
		int k = (int)rng_below(&rng, KEYS);
		char key[16], text[16], order[64];
		terrace_match match;
		terrace_value *value;
		bool there, ours = rng_below(&rng, 2);

		snprintf(key, sizeof key, "k%d", k);
		snprintf(text, sizeof text, "v%d", step);
		match = terrace_match_text(TERRACE_MATCH_PREFIX, key);
		if (!ours) {
			const char *verb = verbs[rng_below(&rng, step % 50 ? 3 : 5)];

			snprintf(order, sizeof order, "%s %s %s", verb, key, text);
			tell(&peer, order);
			if (verb[0] == 'g') {
				const char *heard = hear(&peer);

				served += strcmp(heard, "(miss)") != 0;
				if (strcmp(heard, "(miss)") != 0 && strcmp(heard, model[k]) != 0)
					fail_msg("step %d: the peer got %s of %s, not %s", step,
					         heard, key, model[k]);
				continue;
			}
			assert_string_equal(hear(&peer), "ok");
			if (verb[0] == 'c')
				memset(model, 0, sizeof model);
			else
				snprintf(model[k], sizeof model[k], "%s",
				         verb[0] == 'p' ? text : "");
			continue;
		}
		switch (rng_below(&rng, 9)) {
		case 0:
		case 1:
			assert_ok(put_immediate(cache, key, text));
			immediate++;
			strcpy(model[k], text);
			break;
		case 2:
			assert_ok(put_text(cache, key, text));
			strcpy(model[k], text);
			break;
		case 3:
			terrace_delete(cache, terrace_str(key));
			model[k][0] = '\0';
			break;
		case 4:
			lose_memory(cache);
			break;
		case 5:
			if (terrace_add(cache, terrace_str(key), terrace_str(text), NULL) ==
			    TERRACE_OK)
				strcpy(model[k], text);
			break;
		case 6:
			if (step % 10 == 0) {
				assert_ok(terrace_invalidate(cache, &match, NULL));
				model[k][0] = '\0';
			}
			break;
		default:
			there = terrace_get(cache, terrace_str(key), &value) == TERRACE_OK;
			if (there && (terrace_size(value) != strlen(model[k]) ||
			              memcmp(terrace_data(value), model[k], strlen(model[k])) != 0))
				fail_msg("step %d: %s gives %.*s, not %s", step, key,
				         (int)terrace_size(value),
				         (const char *)terrace_data(value), model[k]);
			served += there;
			if (there)
				terrace_release(value);
		}
	}
	print_message("%d gets served, %d immediate puts\n", served, immediate);
	assert_true(served > 50 && immediate > 50);
	terrace_cache_close(cache);
	peer_end(&peer);
}

struct hammer {
	terrace_cache *cache;
	pthread_mutex_t lock;
	uint64_t next;         /* guarded by it */
	_Atomic uint64_t done; /* this number's put has returned */
	_Atomic bool stop;
	_Atomic uint64_t hits, lies;
};

static void *hammer_write(void *ctx)
{
	struct hammer *h = ctx;

	for (int i = 0; i < 500; i++) {
		terrace_put_options options = TERRACE_PUT_INIT;

		options.strategy = i % 3 ? TERRACE_STRATEGY_IMMEDIATE : TERRACE_STRATEGY_STANDARD;
		pthread_mutex_lock(&h->lock);
		h->next++;
		if (terrace_put(h->cache, TERRACE_KEY("k"), terrace_bytes(&h->next, sizeof h->next),
		                &options) != TERRACE_OK)
			atomic_fetch_add(&h->lies, 1);
		atomic_store(&h->done, h->next);
		pthread_mutex_unlock(&h->lock);
		if (i % 7 == 0)
			terrace_clear(h->cache, TERRACE_L1, NULL);
	}
	return NULL;
}

static void *hammer_read(void *ctx)
{
	struct hammer *h = ctx;

	while (!atomic_load(&h->stop)) {
		uint64_t before = atomic_load(&h->done), number;
		terrace_value *value;

		if (terrace_get(h->cache, TERRACE_KEY("k"), &value) != TERRACE_OK)
			continue;
		memcpy(&number, terrace_data(value), sizeof number);
		atomic_fetch_add(&h->lies, number < before);
		atomic_fetch_add(&h->hits, 1);
		terrace_release(value);
	}
	return NULL;
}

static void test_immediate__threads_never_read_what_was_replaced(void **state)
{
	struct fixture *f = *state;
	struct hammer h = { .cache = fixture_cache(f, "a", NULL),
		            .lock = PTHREAD_MUTEX_INITIALIZER };
	pthread_t writers[2], readers[2];

	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&readers[i], NULL, hammer_read, &h), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&writers[i], NULL, hammer_write, &h), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(writers[i], NULL);
	atomic_store(&h.stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(readers[i], NULL);
	print_message("%llu hits\n", (unsigned long long)h.hits);
	assert_int_equal(h.lies, 0);
	terrace_cache_close(h.cache);
}

static void test_immediate__nothing_of_it_reaches_the_disk(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = with_strategy(f, TERRACE_STRATEGY_IMMEDIATE);
	terrace_item items[] = { { TERRACE_KEY("a"), terrace_str("1") },
		                 { TERRACE_KEY("b"), terrace_str("2") } };
	char *large = calloc(1, 1 << 20), file[600];
	terrace_writer *writer;
	terrace_info info = TERRACE_INFO_INIT;
	uint64_t commits = word_value(atomic_load(&f->store->shared->commits));

	assert_ok(terrace_put_many(cache, items, 2, NULL));
	assert_ok(terrace_put(cache, TERRACE_KEY("large"), terrace_bytes(large, 100000), NULL));
	assert_ok(terrace_writer_open(cache, TERRACE_KEY("stream"), NULL, &writer));
	assert_ok(terrace_writer_write(writer, terrace_bytes(large, 1 << 20)));
	assert_ok(terrace_writer_commit(writer));
	for (int i = 0; i < 100; i++)
		assert_ok(put_text(cache, "a", "again"));
	/* no file, no row, no transaction */
	fixture_file(f, file);
	assert_string_equal(file, "");
	assert_int_equal(on_disk(cache), 0);
	assert_int_equal(word_value(atomic_load(&f->store->shared->commits)), commits);
	assert_int_equal(tier_of(cache, "a"), TERRACE_L1);
	assert_int_equal(tier_of(cache, "stream"), TERRACE_L1);
	assert_ok(terrace_inspect(cache, TERRACE_KEY("b"), &info));
	assert_int_equal(info.tier, TERRACE_L1);
	terrace_info_free(&info);
	/* a call may ask for more */
	assert_ok(put_by(cache, "kept", "v", TERRACE_STRATEGY_STANDARD));
	assert_int_equal(on_disk(cache), 1);
	terrace_cache_close(cache);
	fixture_reopen(f);
	cache = fixture_cache(f, "a", NULL);
	assert_gives(cache, "kept", "v");
	assert_misses(cache, "a");
	free(large);
	terrace_cache_close(cache);
}

static void test_immediate__verbs_see_it(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_match prefix = terrace_match_text(TERRACE_MATCH_PREFIX, "x");
	terrace_why why = TERRACE_WHY_INIT;
	int64_t number;

	assert_ok(put_immediate(cache, "k", "v"));
	assert_ok(terrace_exists(cache, TERRACE_KEY("k")));
	assert_status(terrace_add(cache, TERRACE_KEY("k"), terrace_str("w"), NULL), TERRACE_EXISTS);
	assert_gives(cache, "k", "v");
	assert_ok(terrace_explain(cache, TERRACE_KEY("k"), &why));
	assert_int_equal(why.reason, TERRACE_REASON_LIVE);
	terrace_info_free(&why.info);
	assert_ok(terrace_touch(cache, TERRACE_KEY("k"), 1000));
	assert_gives(cache, "k", "v");
	atomic_fetch_add(&f->clock.now, 1000);
	assert_misses(cache, "k");
	/* an expired one is no reason not to add */
	assert_ok(terrace_add(cache, TERRACE_KEY("k"), terrace_str("w"), NULL));
	assert_gives(cache, "k", "w");
	assert_int_equal(on_disk(cache), 1);

	assert_ok(put_immediate(cache, "n", "41"));
	assert_ok(terrace_incr(cache, TERRACE_KEY("n"), 1, 0, &number));
	assert_int_equal(number, 42);
	assert_gives(cache, "n", "42");
	assert_int_equal(on_disk(cache), 1);
	lose_memory(cache);
	assert_misses(cache, "n");
	assert_ok(terrace_incr(cache, TERRACE_KEY("n"), 1, 0, &number));
	assert_int_equal(number, 1);
	assert_int_equal(on_disk(cache), 2);

	assert_ok(put_immediate(cache, "k", "v"));
	assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
	assert_misses(cache, "k");
	assert_status(terrace_delete(cache, TERRACE_KEY("k")), TERRACE_MISS);
	assert_ok(put_immediate(cache, "k", "v"));
	assert_ok(
	    terrace_invalidate(cache, &prefix, NULL)); /* drops it, though it does not match */
	assert_misses(cache, "k");
	assert_ok(put_immediate(cache, "x", "v"));
	assert_ok(terrace_invalidate(cache, &prefix, NULL));
	assert_misses(cache, "x");
	assert_ok(put_immediate(cache, "k", "v"));
	assert_ok(terrace_clear(cache, 0, NULL));
	assert_misses(cache, "k");
	assert_ok(put_immediate(cache, "k", "w"));
	assert_gives(cache, "k", "w");
	terrace_cache_close(cache);
}

static void test_immediate__an_add_or_a_number_in_memory_alone(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = with_strategy(f, TERRACE_STRATEGY_IMMEDIATE);
	int64_t number;

	assert_ok(put_by(cache, "k", "row", TERRACE_STRATEGY_STANDARD));
	assert_status(terrace_add(cache, TERRACE_KEY("k"), terrace_str("v"), NULL), TERRACE_EXISTS);
	assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
	assert_ok(terrace_add(cache, TERRACE_KEY("k"), terrace_str("v"), NULL));
	assert_status(terrace_add(cache, TERRACE_KEY("k"), terrace_str("w"), NULL), TERRACE_EXISTS);
	assert_gives(cache, "k", "v");
	/* from a row on, which goes */
	assert_ok(put_by(cache, "n", "7", TERRACE_STRATEGY_STANDARD));
	assert_ok(terrace_incr(cache, TERRACE_KEY("n"), 1, 0, &number));
	assert_int_equal(number, 8);
	assert_ok(terrace_incr(cache, TERRACE_KEY("n"), 1, 0, &number));
	assert_int_equal(number, 9);
	assert_int_equal(on_disk(cache), 0);
	lose_memory(cache);
	assert_misses(cache, "n");
	terrace_cache_close(cache);
}

struct loading {
	terrace_cache *cache;
	terrace_strategy strategy;
	bool invalidate;
	int loads;
};

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct loading *loading = ctx;

	loading->loads++;
	if (loading->strategy)
		terrace_loaded_strategy(loaded, loading->strategy);
	if (loading->invalidate)
		assert_int_not_equal(terrace_delete(loading->cache, key), TERRACE_EIO);
	return terrace_loaded_copy(loaded, key);
}

static void fetch(terrace_cache *cache, const char *key, struct loading *loading,
                  terrace_strategy strategy)
{
	terrace_fetch_options options = TERRACE_FETCH_INIT;
	terrace_value *value;

	options.strategy = strategy;
	loading->cache = cache;
	assert_ok(terrace_fetch_with(cache, terrace_str(key), load, loading, &options, &value));
	assert_memory_equal(terrace_data(value), key, strlen(key));
	terrace_release(value);
}

static void test_immediate__what_is_computed(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct loading plain = { 0 }, says = { .strategy = TERRACE_STRATEGY_IMMEDIATE };
	struct loading late = { .invalidate = true };
	terrace_put_options short_lived = TERRACE_PUT_INIT;

	fetch(cache, "call", &plain, TERRACE_STRATEGY_IMMEDIATE);
	fetch(cache, "loader", &says, 0);
	assert_int_equal(on_disk(cache), 0);
	assert_gives(cache, "call", "call");
	assert_gives(cache, "loader", "loader");
	fetch(cache, "call", &plain, TERRACE_STRATEGY_IMMEDIATE);
	assert_int_equal(plain.loads, 1);
	/* over an expired row */
	short_lived.ttl_ms = 1;
	assert_ok(terrace_put(cache, TERRACE_KEY("old"), terrace_str("x"), &short_lived));
	atomic_fetch_add(&f->clock.now, 10);
	fetch(cache, "old", &plain, TERRACE_STRATEGY_IMMEDIATE);
	assert_gives(cache, "old", "old");
	assert_int_equal(on_disk(cache), 0);
	/* what was deleted while it was computed is not kept */
	fetch(cache, "late", &late, TERRACE_STRATEGY_IMMEDIATE);
	assert_misses(cache, "late");
	fetch(cache, "kept", &plain, TERRACE_STRATEGY_STANDARD);
	assert_int_equal(on_disk(cache), 1);
	terrace_cache_close(cache);
}

static int decode(void *ctx, terrace_slice bytes, void **ret_object, size_t *ret_weight)
{
	(void)ctx;
	if (bytes.size == 0 || *(const char *)bytes.data == '!')
		return 1;
	*ret_object = strndup(bytes.data, bytes.size);
	*ret_weight = bytes.size;
	return 0;
}

static void destroy(void *ctx, void *object)
{
	(void)ctx;
	free(object);
}

static void test_immediate__objects_and_their_bytes(void **state)
{
	static const terrace_form form = { sizeof form, decode, destroy, NULL };
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	terrace_value *value;
	struct loading loading = { 0 };

	policy.form = &form;
	policy.encoded_bytes = 1 << 20;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "k", "old"));
	assert_ok(put_immediate(cache, "k", "new"));
	assert_ok(terrace_get(cache, TERRACE_KEY("k"), &value));
	assert_string_equal(terrace_object(value), "new");
	terrace_release(value);
	assert_ok(terrace_get_encoded(cache, TERRACE_KEY("k"), &value));
	assert_memory_equal(terrace_data(value), "new", 3);
	terrace_release(value);
	assert_int_equal(on_disk(cache), 0);
	/* bytes alone that are computed leave no older object beside them */
	assert_ok(terrace_touch(cache, TERRACE_KEY("k"), 1000));
	atomic_fetch_add(&f->clock.now, 1000);
	cache->strategy = TERRACE_STRATEGY_IMMEDIATE;
	assert_ok(terrace_fetch_encoded(cache, TERRACE_KEY("k"), load, &loading, &value));
	terrace_release(value);
	assert_ok(terrace_get(cache, TERRACE_KEY("k"), &value));
	assert_string_equal(terrace_object(value), "k");
	terrace_release(value);
	assert_int_equal(on_disk(cache), 0);
	/* a value that cannot be decoded leaves nothing */
	assert_status(put_immediate(cache, "k", "!"), TERRACE_EINVAL);
	assert_status(terrace_get(cache, TERRACE_KEY("k"), &value), TERRACE_MISS);
	terrace_cache_close(cache);
}

static void test_immediate__within_a_transaction_it_can_be_rolled_back(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	assert_ok(put_text(cache, "k", "before"));
	assert_ok(terrace_begin(f->store, 0));
	assert_ok(put_immediate(cache, "k", "within"));
	assert_ok(put_immediate(cache, "new", "within"));
	assert_gives(cache, "k", "within");
	assert_gives(cache, "new", "within");
	terrace_rollback(f->store);
	assert_gives(cache, "k", "before");
	assert_misses(cache, "new");
	terrace_cache_close(cache);
}

static void test_immediate__needs_memory(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	policy.tiers = TERRACE_L2;
	cache = fixture_cache(f, "rows", &policy);
	assert_status(put_immediate(cache, "k", "v"), TERRACE_EINVAL);
	assert_non_null(strstr(terrace_error_message(), "l1"));
	assert_misses(cache, "k");
	policy.strategy = TERRACE_STRATEGY_IMMEDIATE;
	terrace_cache_close(cache);
	cache = NULL;
	assert_status(terrace_cache_open(f->store, "rows", &policy, &cache), TERRACE_ECONFIG);
	assert_null(cache);
	/* in a cache of memory alone there is nothing to it */
	policy.tiers = TERRACE_L1;
	cache = fixture_cache(f, "memory", &policy);
	assert_ok(put_text(cache, "k", "v"));
	assert_gives(cache, "k", "v");
	terrace_cache_close(cache);
}

/* --- preemptive ------------------------------------------------------------------------------- */

static void fill(terrace_cache *cache, int keys)
{
	char key[16];

	for (int i = 0; i < keys; i++) {
		snprintf(key, sizeof key, "k%05d", i);
		assert_ok(put_text(cache, key, key));
	}
}

static void ask(terrace_cache *cache, int number)
{
	char key[16];

	snprintf(key, sizeof key, "k%05d", number);
	assert_gives(cache, key, key);
	terrace__ahead_settle(cache);
}

/*
 * Nobody who asks waits for the thread that predicts, and the first one may find it
 * at its beginning: what it asked for is not noted then.
 */
static terrace_cache *with_thread(terrace_cache *cache)
{
	terrace__ahead_asked(cache, TERRACE_KEY("none"), TERRACE_STRATEGY_PREEMPTIVE, TERRACE_L1);
	terrace__ahead_settle(cache);
	return cache;
}

/* L1 holds `entries`. */
static terrace_cache *small(struct fixture *f, const char *name, uint64_t entries,
                            terrace_strategy strategy, terrace_next_fn *next)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.memory_entries = entries;
	policy.strategy = strategy;
	policy.next = next;
	return with_thread(fixture_cache(f, name, &policy));
}

static double loop(terrace_cache *cache, int keys, int rounds)
{
	uint64_t hits = stats_of(cache).hits_l1;

	for (int i = 0; i < keys * rounds; i++)
		ask(cache, i % keys);
	return (double)(stats_of(cache).hits_l1 - hits) / (keys * rounds);
}

static void test_preemptive__the_order_of_before_is_what_comes(void **state)
{
	enum { KEYS = 300, ENTRIES = 100 };
	struct fixture *f = *state;
	terrace_cache *standard = small(f, "standard", ENTRIES, TERRACE_STRATEGY_STANDARD, NULL);
	terrace_cache *cache = small(f, "a", ENTRIES, TERRACE_STRATEGY_PREEMPTIVE, NULL);
	double without, with;
	terrace_stats stats;

	fill(standard, KEYS);
	fill(cache, KEYS);
	loop(standard, KEYS, 1);
	loop(cache, KEYS, 1);
	without = loop(standard, KEYS, 2);
	with = loop(cache, KEYS, 2);
	stats = stats_of(cache);
	print_message("in L1: %.2f, standard %.2f; %llu predicted, %llu used, %llu wasted\n", with,
	              without, (unsigned long long)stats.predicted,
	              (unsigned long long)stats.predicted_used,
	              (unsigned long long)stats.predicted_wasted);
	assert_true(without < 0.5 && with > 0.95);
	assert_true(stats.predicted_used > 0.9 * (double)stats.predicted);
	assert_true(stats.predicted_used + stats.predicted_wasted <= stats.predicted);
	assert_int_equal(stats_of(standard).predicted, 0);
	/* What was read ahead counts as no get of its own. */
	assert_int_equal(stats.gets, 3 * KEYS);
	assert_int_equal(stats.misses, 0);
	terrace_cache_close(standard);
	terrace_cache_close(cache);
}

static void test_preemptive__what_has_no_order_is_soon_left_alone(void **state)
{
	enum { KEYS = 500, GETS = 4000 };
	struct fixture *f = *state;
	terrace_cache *cache = small(f, "a", 50, TERRACE_STRATEGY_PREEMPTIVE, NULL);
	struct rng rng = { test_seed() };
	terrace_stats stats;

	fill(cache, KEYS);
	for (int i = 0; i < GETS; i++)
		ask(cache, (int)rng_below(&rng, KEYS));
	stats = stats_of(cache);
	print_message("%d gets, %llu predicted, %llu used, %llu wasted\n", GETS,
	              (unsigned long long)stats.predicted, (unsigned long long)stats.predicted_used,
	              (unsigned long long)stats.predicted_wasted);
	assert_true(stats.predicted < GETS / 10);
	assert_true(stats.predicted_wasted > 0);
	terrace_cache_close(cache);
}

static int named; /* how often the function below was called */

static void name_two(void *ctx, terrace_slice key, terrace_next *next)
{
	char name[16];
	int number = atoi((const char *)key.data + 1);

	(void)ctx;
	named++;
	for (int i = 1; i <= 2; i++) {
		snprintf(name, sizeof name, "k%05d", number + i);
		assert_ok(terrace_next_add(next, terrace_str(name)));
	}
}

static void test_preemptive__the_programs_function_names_what_comes(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = small(f, "a", 0, TERRACE_STRATEGY_PREEMPTIVE, name_two);
	terrace_stats stats;

	named = 0;
	fill(cache, 100);
	lose_memory(cache);
	for (int i = 0; i < 100; i++)
		ask(cache, i);
	stats = stats_of(cache);
	assert_int_equal(stats.predicted, 99); /* there is no k00100 */
	assert_int_equal(stats.predicted_used, 99);
	assert_int_equal(stats.hits_l1, 99);
	assert_int_equal(named, 100);
	/* nothing is predicted from a hit of what was not, and all of it is in memory */
	ask(cache, 50);
	assert_int_equal(named, 100);
	terrace_cache_close(cache);
}

static void test_preemptive__a_call_may_ask_for_it_or_not(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = small(f, "a", 0, TERRACE_STRATEGY_STANDARD, name_two);
	struct loading loading = { 0 };

	fill(cache, 100);
	lose_memory(cache);
	named = 0;
	fetch(cache, "k00000", &loading, 0);
	terrace__ahead_settle(cache);
	assert_int_equal(named, 0);
	fetch(cache, "k00010", &loading, TERRACE_STRATEGY_PREEMPTIVE);
	terrace__ahead_settle(cache);
	assert_int_equal(named, 1);
	assert_int_equal(stats_of(cache).predicted, 2);
	assert_int_equal(tier_of(cache, "k00011"), TERRACE_L1);
	assert_int_equal(tier_of(cache, "k00001"), TERRACE_L2);
	/* a loader runs for what was asked for, never for what was predicted */
	fetch(cache, "k00500", &loading, TERRACE_STRATEGY_PREEMPTIVE);
	terrace__ahead_settle(cache);
	assert_int_equal(loading.loads, 1);
	terrace_cache_close(cache);
}

static void test_preemptive__others_writes_void_what_was_predicted(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	struct peer peer;

	policy.strategy = TERRACE_STRATEGY_PREEMPTIVE;
	policy.next = name_two;
	terrace_close(f->store);
	peer = peer_start(f, NULL);
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	cache = with_thread(fixture_cache(f, "a", &policy));
	fill(cache, 10);
	lose_memory(cache);
	ask(cache, 0);
	assert_peer(&peer, "p k00001 theirs", "ok");
	assert_peer(&peer, "d k00002", "ok");
	assert_gives(cache, "k00001", "theirs");
	terrace__ahead_settle(cache);
	assert_misses(cache, "k00002");
	/* what is old in memory is predicted anew */
	assert_gives(cache, "k00003", "k00003");
	assert_peer(&peer, "p k00003 again", "ok");
	assert_peer(&peer, "p k00002 back", "ok"); /* void here, and still in memory */
	terrace__ahead_settle(cache);
	assert_gives(cache, "k00002", "back");
	terrace__ahead_settle(cache);
	assert_int_equal(tier_of(cache, "k00003"), TERRACE_L1);
	assert_gives(cache, "k00003", "again");
	assert_peer(&peer, "c", "ok");
	for (int i = 0; i < 10; i++) {
		char key[16];

		snprintf(key, sizeof key, "k%05d", i);
		assert_misses(cache, key);
		terrace__ahead_settle(cache);
	}
	terrace_cache_close(cache);
	peer_end(&peer);
}

static void test_preemptive__what_goes_unused_is_counted(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = small(f, "a", 0, TERRACE_STRATEGY_PREEMPTIVE, name_two);
	terrace_stats stats;
	uint64_t evicted;

	fill(cache, 100);
	lose_memory(cache);
	ask(cache, 10);
	assert_ok(terrace_evict(cache, 100, &evicted));
	assert_int_equal(evicted, 3);
	assert_int_equal(stats_of(cache).predicted_wasted, 2);
	ask(cache, 20);
	terrace_cache_close(cache);
	/* and what was not used when the cache is closed */
	cache = small(f, "a", 0, TERRACE_STRATEGY_STANDARD, NULL);
	stats = stats_of(cache);
	assert_int_equal(stats.predicted, 4);
	assert_int_equal(stats.predicted_wasted, 4);
	assert_int_equal(stats.predicted_used, 0);
	terrace_cache_close(cache);
}

static void test_preemptive__is_no_use_of_an_entry(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_info info = TERRACE_INFO_INIT;
	terrace_put_options idle = TERRACE_PUT_INIT;
	terrace_cache *cache;

	policy.strategy = TERRACE_STRATEGY_PREEMPTIVE;
	policy.next = name_two;
	cache = with_thread(fixture_cache(f, "a", &policy));
	fill(cache, 1);
	idle.idle_ms = 16000;
	assert_ok(terrace_put(cache, TERRACE_KEY("k00001"), terrace_str("v"), &idle));
	for (int i = 0; i < 4; i++) {
		lose_memory(cache);
		ask(cache, 0);
		atomic_fetch_add(&f->clock.now, 5000);
	}
	/* 20 s without a get */
	assert_misses(cache, "k00001");
	terrace__ahead_settle(cache);
	assert_ok(terrace_put(cache, TERRACE_KEY("k00001"), terrace_str("v"), NULL));
	lose_memory(cache);
	ask(cache, 0);
	assert_ok(terrace_inspect(cache, TERRACE_KEY("k00001"), &info));
	assert_int_equal(info.tier, TERRACE_L1);
	assert_int_equal(info.access_count, 0);
	terrace_info_free(&info);
	terrace_cache_close(cache);
}

static void test_preemptive__takes_nothing_from_other_caches(void **state)
{
	struct fixture *f = *state;
	terrace_cache *other, *cache;
	terrace_policy policy = TERRACE_POLICY_INIT;

	f->options.memory_entries = 100;
	fixture_reopen(f);
	other = fixture_cache(f, "other", NULL);
	policy.strategy = TERRACE_STRATEGY_PREEMPTIVE;
	policy.next = name_two;
	cache = with_thread(fixture_cache(f, "a", &policy));
	fill(cache, 10);
	lose_memory(cache);
	fill(other, 99); /* has borrowed most, by far */
	for (int i = 0; i < 3; i++) {
		ask(cache, 3 * i % 6);
		assert_int_equal(stats_of(other).evicted_l1, 0);
		lose_memory(cache);
	}
	assert_true(stats_of(cache).predicted > 0);
	terrace_cache_close(cache);
	terrace_cache_close(other);
}

struct browse {
	terrace_cache *cache;
	uint64_t seed;
	int wrong;
};

static void *browse(void *ctx)
{
	struct browse *b = ctx;
	struct rng rng = { b->seed };
	char key[16];

	for (int i = 0; i < 1500; i++) {
		terrace_value *value;

		snprintf(key, sizeof key, "k%05d", i % 60);
		if (rng_below(&rng, 20) == 0)
			b->wrong += put_text(b->cache, key, key) != TERRACE_OK;
		if (terrace_get(b->cache, terrace_str(key), &value) != TERRACE_OK)
			continue;
		b->wrong += terrace_size(value) != strlen(key) ||
		            memcmp(terrace_data(value), key, strlen(key)) != 0;
		terrace_release(value);
	}
	return NULL;
}

/* For the sanitizers: it must be closed while it is at work, too. */
static void test_preemptive__threads_and_closing(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = test_seed();

	for (int round = 0; round < 3; round++) {
		terrace_cache *cache = small(f, "a", 20, TERRACE_STRATEGY_PREEMPTIVE, NULL);
		struct browse browses[3];
		pthread_t threads[3];

		fill(cache, 60);
		for (int i = 0; i < 3; i++) {
			browses[i] = (struct browse){ cache, seed + (uint64_t)i, 0 };
			assert_int_equal(pthread_create(&threads[i], NULL, browse, &browses[i]), 0);
		}
		for (int i = 0; i < 3; i++) {
			pthread_join(threads[i], NULL);
			assert_int_equal(browses[i].wrong, 0);
		}
		terrace_cache_close(cache);
	}
}

/* --- order ------------------------------------------------------------------------------------- */

static void learn(struct order *order, uint64_t before, uint64_t hash)
{
	terrace__order_learn(order, before, hash, terrace_bytes(&hash, sizeof hash));
}

static void test_order__what_comes_more_often_than_not(void **state)
{
	struct order *order = terrace__order_new();
	char long_key[ORDER_KEY_MAX + 1] = "long";
	uint64_t next = 0;
	terrace_slice key;

	(void)state;
	assert_non_null(order);
	learn(order, 0, 1);
	assert_false(terrace__order_next(order, 1, 1, &next, &key));
	for (uint64_t to = 2; to <= 4; to++) {
		learn(order, 0, 1);
		learn(order, 1, to);
	}
	/* of three, each came once */
	assert_false(terrace__order_next(order, 1, 1, &next, &key));
	learn(order, 1, 3);
	assert_true(terrace__order_next(order, 1, 2, &next, &key));
	assert_int_equal(next, 3);
	assert_int_equal(key.size, sizeof next);
	assert_memory_equal(key.data, &next, sizeof next);
	assert_false(terrace__order_next(order, 1, 3, &next, &key));
	/* what comes from now on takes its place */
	for (int i = 0; i < 1000; i++)
		learn(order, 1, 5);
	assert_true(terrace__order_next(order, 1, 1, &next, &key));
	assert_int_equal(next, 5);
	/* a key that is too long is not kept, and more than there is room for are not either */
	terrace__order_learn(order, 5, 6, terrace_bytes(long_key, sizeof long_key));
	assert_false(terrace__order_next(order, 5, 1, &next, &key));
	for (uint64_t i = 1; i < 300000; i++)
		learn(order, i << 20, (i + 1) << 20);
	assert_true(terrace__order_next(order, UINT64_C(299990) << 20, 1, &next, &key));
	assert_int_equal(next, UINT64_C(299991) << 20);
	assert_false(terrace__order_next(order, UINT64_C(10) << 20, 1, &next, &key));
	terrace__order_free(order);
	terrace__order_free(NULL);
}

/* --- batch --------------------------------------------------------------------------------------- */

static void test_batch__a_get_brings_its_range(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = small(f, "a", 0, TERRACE_STRATEGY_BATCH, name_two);

	fill(cache, 40);
	lose_memory(cache);
	assert_int_equal(tier_of(cache, "k00020"), TERRACE_L2);
	assert_int_equal(stats_of(cache).in_bulk, 2);
	assert_int_equal(tier_of(cache, "k00021"), TERRACE_L1);
	assert_int_equal(tier_of(cache, "k00022"), TERRACE_L1);
	assert_int_equal(tier_of(cache, "k00019"), TERRACE_L2); /* brings nothing that is there */
	assert_int_equal(stats_of(cache).in_bulk, 2);
	assert_int_equal(stats_of(cache).gets, 4);
	terrace_cache_close(cache);
}

static void test_batch__numbers_are_their_own_range(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = small(f, "a", 0, TERRACE_STRATEGY_BATCH, NULL);

	fill(cache, 40); /* with leading zeros */
	assert_ok(put_text(cache, "9", "v"));
	assert_ok(put_text(cache, "15", "v"));
	assert_ok(put_text(cache, "16", "v"));
	assert_ok(put_text(cache, "none", "v"));
	lose_memory(cache);
	assert_int_equal(tier_of(cache, "k00020"), TERRACE_L2);
	assert_int_equal(stats_of(cache).in_bulk, 15);
	assert_int_equal(tier_of(cache, "k00016"), TERRACE_L1);
	assert_int_equal(tier_of(cache, "k00031"), TERRACE_L1);
	assert_int_equal(tier_of(cache, "k00015"), TERRACE_L2);
	assert_int_equal(tier_of(cache, "9"), TERRACE_L2);
	assert_int_equal(tier_of(cache, "15"), TERRACE_L1);
	assert_int_equal(tier_of(cache, "16"), TERRACE_L2);
	assert_int_equal(tier_of(cache, "none"), TERRACE_L2);
	terrace_cache_close(cache);
}

/* The last 18 digits count as the number; what would be too long a key has no range. */
static void test_batch__long_keys_and_numbers(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = small(f, "a", 0, TERRACE_STRATEGY_BATCH, NULL);
	char longer[300];

	memset(longer, 'k', sizeof longer);
	strcpy(longer + 280, "32");
	assert_ok(put_text(cache, longer, "v"));
	strcpy(longer + 280, "33");
	assert_ok(put_text(cache, longer, "v"));
	assert_ok(put_text(cache, "1234567890123456789012", "v"));
	assert_ok(put_text(cache, "1234567890123456789013", "v"));
	assert_ok(put_text(cache, "1111000000000000000007", "v"));
	assert_ok(put_text(cache, "1111000000000000000008", "v"));
	lose_memory(cache);
	assert_int_equal(tier_of(cache, longer), TERRACE_L2);
	assert_int_equal(stats_of(cache).in_bulk, 0);
	assert_int_equal(tier_of(cache, "1234567890123456789012"), TERRACE_L2);
	assert_int_equal(tier_of(cache, "1234567890123456789013"), TERRACE_L1);
	assert_int_equal(tier_of(cache, "1111000000000000000008"), TERRACE_L2);
	assert_int_equal(tier_of(cache, "1111000000000000000007"), TERRACE_L1);
	assert_int_equal(stats_of(cache).in_bulk, 2);
	terrace_cache_close(cache);
}

/* Where there is nothing below memory, or no memory, a strategy changes nothing. */
static void test_strategy__of_one_tier_alone_brings_nothing(void **state)
{
	static const unsigned tiers[] = { TERRACE_L1, TERRACE_L2 };
	struct fixture *f = *state;

	for (int i = 0; i < 4; i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		terrace_cache *cache;
		char name[16];

		snprintf(name, sizeof name, "cache %d", i);
		policy.tiers = tiers[i % 2];
		policy.strategy = i < 2 ? TERRACE_STRATEGY_PREEMPTIVE : TERRACE_STRATEGY_BATCH;
		policy.next = name_two;
		cache = fixture_cache(f, name, &policy);
		fill(cache, 5);
		ask(cache, 1);
		ask(cache, 2);
		assert_int_equal(tier_of(cache, "k00003"), tiers[i % 2]);
		assert_int_equal(stats_of(cache).predicted, 0);
		assert_int_equal(stats_of(cache).in_bulk, 0);
		terrace_cache_close(cache);
	}
}

/* A key that is too long to be remembered is served, and predicts nothing. */
static void test_preemptive__of_a_long_key_nothing_follows(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = small(f, "a", 0, TERRACE_STRATEGY_PREEMPTIVE, name_two);
	char longer[300];

	memset(longer, 'k', sizeof longer);
	longer[280] = '\0';
	assert_ok(put_text(cache, longer, "v"));
	fill(cache, 3);
	lose_memory(cache);
	assert_gives(cache, longer, "v");
	terrace__ahead_settle(cache);
	assert_int_equal(stats_of(cache).predicted, 0);
	assert_gives(cache, "k00000", "k00000");
	terrace__ahead_settle(cache);
	assert_int_equal(stats_of(cache).predicted, 2);
	terrace_cache_close(cache);
}

struct many {
	int calls;
	size_t keys;
	int fail;
	terrace_cache *cache;
	bool invalidate;
};

static int load_many(void *ctx, const terrace_slice *keys, size_t count,
                     terrace_loaded *const *loaded)
{
	struct many *many = ctx;

	many->calls++;
	many->keys += count;
	for (size_t i = 0; i < count && !many->fail; i++) {
		const char *name = keys[i].data;

		if (many->invalidate)
			terrace_delete(many->cache, keys[i]);
		if (name[0] == 'a')
			terrace_loaded_absent(loaded[i]);
		else if (name[0] == 't')
			terrace_loaded_ttl(loaded[i], 1000);
		if (name[0] != 'a' && name[0] != 'e')
			terrace_loaded_copy(loaded[i], keys[i]);
	}
	return many->fail ? terrace_fail(many->fail, "no such range") : 0;
}

static void test_many__one_call_computes_what_is_missing(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_slice keys[] = { TERRACE_KEY("there"), TERRACE_KEY("n1"), TERRACE_KEY("absent"),
		                 TERRACE_KEY("n1"),    TERRACE_KEY("n2"), TERRACE_KEY("empty"),
		                 TERRACE_KEY("ttl") };
	enum { COUNT = sizeof keys / sizeof *keys };
	terrace_value *values[COUNT];
	struct many many = { 0 };
	terrace_cache *cache;
	uint64_t commits;

	policy.absent_ttl_ms = 1000;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "there", "there"));
	commits = word_value(atomic_load(&f->store->shared->commits));
	for (int round = 0; round < 2; round++) {
		assert_ok(terrace_fetch_many(cache, keys, COUNT, load_many, &many, values));
		for (size_t i = 0; i < COUNT; i++) {
			const char *name = keys[i].data;

			if (name[0] == 'a' || name[0] == 'e') {
				assert_null(values[i]);
				continue;
			}
			assert_int_equal(terrace_size(values[i]), keys[i].size);
			assert_memory_equal(terrace_data(values[i]), name, keys[i].size);
			terrace_release(values[i]);
		}
		/* what was left empty is asked for again; nothing else is */
		assert_int_equal(many.calls, round + 1);
		assert_int_equal(many.keys, round == 0 ? 5 : 6);
		if (round == 0) /* the plain ones together; the absent one, the one with a time */
			assert_int_equal(word_value(atomic_load(&f->store->shared->commits)),
			                 commits + 3);
	}
	assert_gives(cache, "n1", "n1");
	assert_gives(cache, "n2", "n2");
	assert_gives(cache, "ttl", "ttl");
	atomic_fetch_add(&f->clock.now, 1000);
	assert_misses(cache, "ttl");
	terrace_cache_close(cache);
}

static void test_many__a_failure_stores_nothing(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_slice keys[] = { TERRACE_KEY("n1"), TERRACE_KEY("n2") };
	terrace_value *values[2] = { NULL, NULL };
	struct many many = { .fail = 77 };

	assert_int_equal(terrace_fetch_many(cache, keys, 2, load_many, &many, values), 77);
	assert_string_equal(terrace_error_message(), "no such range");
	assert_null(values[0]);
	assert_misses(cache, "n1");
	/* what was deleted meanwhile is the caller's, and not stored */
	many = (struct many){ .cache = cache, .invalidate = true };
	assert_ok(terrace_fetch_many(cache, keys, 2, load_many, &many, values));
	for (int i = 0; i < 2; i++) {
		assert_memory_equal(terrace_data(values[i]), keys[i].data, keys[i].size);
		terrace_release(values[i]);
	}
	assert_misses(cache, "n1");
	assert_misses(cache, "n2");
	terrace_cache_close(cache);
}

struct overlap {
	terrace_cache *cache;
	bool backwards;
	int wrong;
};

static void *overlap(void *ctx)
{
	struct overlap *o = ctx;

	for (int i = 0; i < 40; i++) {
		char names[8][16];
		terrace_slice keys[8];
		terrace_value *values[8];
		struct many many = { 0 };

		for (int k = 0; k < 8; k++) {
			snprintf(names[k], sizeof names[k], "n%d",
			         o->backwards ? 4 * i + 7 - k : 4 * i + k);
			keys[k] = terrace_str(names[k]);
		}
		if (terrace_fetch_many(o->cache, keys, 8, load_many, &many, values) != TERRACE_OK) {
			o->wrong++;
			continue;
		}
		for (int k = 0; k < 8; k++) {
			o->wrong += !values[k] || terrace_size(values[k]) != keys[k].size ||
			            memcmp(terrace_data(values[k]), names[k], keys[k].size) != 0;
			terrace_release(values[k]);
		}
	}
	return NULL;
}

static void test_many__ranges_that_overlap_wait_for_no_circle(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct overlap overlaps[4];
	pthread_t threads[4];

	for (int i = 0; i < 4; i++) {
		overlaps[i] = (struct overlap){ cache, i % 2, 0 };
		assert_int_equal(pthread_create(&threads[i], NULL, overlap, &overlaps[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(overlaps[i].wrong, 0);
	}
	terrace_cache_close(cache);
}

/* --- where it is said ------------------------------------------------------------------------------ */

static void test_strategy__from_the_environment_and_the_file(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache;

	write_file(scratch_path(&f->scratch, "store/terrace.ini"),
	           "[caches]\nstrategy = batch\n[cache b]\nstrategy = immediate\n");
	setenv("TERRACE_CACHE_C_STRATEGY", "preemptive", 1);
	fixture_reopen(f);
	cache = fixture_cache(f, "a", NULL);
	assert_int_equal(cache->strategy, TERRACE_STRATEGY_BATCH);
	terrace_cache_close(cache);
	cache = fixture_cache(f, "b", NULL);
	assert_int_equal(cache->strategy, TERRACE_STRATEGY_IMMEDIATE);
	assert_ok(put_text(cache, "k", "v"));
	assert_int_equal(on_disk(cache), 0);
	terrace_cache_close(cache);
	cache = fixture_cache(f, "c", NULL);
	assert_int_equal(cache->strategy, TERRACE_STRATEGY_PREEMPTIVE);
	terrace_cache_close(cache);
	setenv("TERRACE_CACHE_C_STRATEGY", "eager", 1);
	cache = NULL;
	assert_status(terrace_cache_open(f->store, "c", NULL, &cache), TERRACE_ECONFIG);
	assert_non_null(strstr(terrace_error_message(), "preemptive"));
	unsetenv("TERRACE_CACHE_C_STRATEGY");
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		/* these fork, so before there are threads */
		TEST(test_immediate__leaves_nothing_older_in_any_process),
		TEST(test_immediate__beside_every_other_verb_in_two_processes),
		TEST(test_preemptive__others_writes_void_what_was_predicted),
		TEST(test_immediate__threads_never_read_what_was_replaced),
		TEST(test_immediate__nothing_of_it_reaches_the_disk),
		TEST(test_immediate__verbs_see_it),
		TEST(test_immediate__an_add_or_a_number_in_memory_alone),
		TEST(test_immediate__what_is_computed),
		TEST(test_immediate__objects_and_their_bytes),
		TEST(test_immediate__within_a_transaction_it_can_be_rolled_back),
		TEST(test_immediate__needs_memory),
		TEST(test_preemptive__the_order_of_before_is_what_comes),
		TEST(test_preemptive__what_has_no_order_is_soon_left_alone),
		TEST(test_preemptive__the_programs_function_names_what_comes),
		TEST(test_preemptive__a_call_may_ask_for_it_or_not),
		TEST(test_preemptive__what_goes_unused_is_counted),
		TEST(test_preemptive__is_no_use_of_an_entry),
		TEST(test_preemptive__takes_nothing_from_other_caches),
		TEST(test_preemptive__threads_and_closing),
		cmocka_unit_test(test_order__what_comes_more_often_than_not),
		TEST(test_batch__a_get_brings_its_range),
		TEST(test_batch__numbers_are_their_own_range),
		TEST(test_batch__long_keys_and_numbers),
		TEST(test_strategy__of_one_tier_alone_brings_nothing),
		TEST(test_preemptive__of_a_long_key_nothing_follows),
		TEST(test_many__one_call_computes_what_is_missing),
		TEST(test_many__a_failure_stores_nothing),
		TEST(test_many__ranges_that_overlap_wait_for_no_circle),
		TEST(test_strategy__from_the_environment_and_the_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
