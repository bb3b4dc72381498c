/*
 * A million random operations against a plain model: an array with a clock.
 * The model forgets nothing, so the cache has limits that it never reaches,
 * but for L1, which is too small for all.
 *
 * TEST_SEED and TEST_OPERATIONS choose another run.
 */
#include "support/support.h"

#include "core/store.h"

enum { KEYS = 400, TAGS = 5 };

struct model_entry {
	bool there;
	bool is_number;
	int64_t number;
	uint32_t version;
	int64_t expires; /* INT64_MAX: never */
	int tag;         /* -1: none */
};

struct run {
	struct fixture f;
	struct rng rng;
	terrace_policy policy;
	terrace_cache *cache;
	char name[16];
	struct model_entry model[KEYS];
	uint32_t version;
	uint64_t operations, hits;
};

static void key_text(int k, char ret[16])
{
	/* three prefixes, so that some operations mean many keys */
	snprintf(ret, 16, "%c:%d", "abc"[k % 3], k);
}

/* What put stores: the version, then as many bytes as that says. */
static size_t value_text(uint32_t version, char *ret)
{
	size_t size = 10 + version * 2654435761u % 3000;
	int head = snprintf(ret, 16, "%u ", version);

	memset(ret + head, 'a' + (int)(version % 26), size - (size_t)head);
	/* not everything may compress to nothing */
	for (size_t i = (size_t)head; i + 3 < size; i += 4)
		ret[i] = (char)('!' + (version * 31 + i * 17) % 90);
	return size;
}

static bool alive(const struct run *run, int k)
{
	const struct model_entry *entry = &run->model[k];

	return entry->there && entry->expires > atomic_load(&run->f.clock.now);
}

static void assert_model(struct run *run, int k, terrace_value *value)
{
	const struct model_entry *entry = &run->model[k];
	char expected[4096];
	size_t size;

	if (!alive(run, k))
		fail_msg("operation %llu: key %d gives a value, and has none",
		         (unsigned long long)run->operations, k);
	size = entry->is_number ?
	           (size_t)snprintf(expected, sizeof expected, "%lld", (long long)entry->number) :
	           value_text(entry->version, expected);
	if (terrace_size(value) != size || memcmp(terrace_data(value), expected, size) != 0)
		fail_msg("operation %llu: key %d gives \"%.20s…\", not \"%.20s…\"",
		         (unsigned long long)run->operations, k, (const char *)terrace_data(value),
		         expected);
}

static void do_get(struct run *run, int k)
{
	terrace_value *value;
	char key[16];
	int rc;

	key_text(k, key);
	rc = terrace_get(run->cache, terrace_str(key), &value);
	if (rc == TERRACE_OK) {
		assert_model(run, k, value);
		terrace_release(value);
		run->hits++;
	} else if (rc != TERRACE_MISS || alive(run, k)) {
		fail_msg("operation %llu: key %d is lost: %s", (unsigned long long)run->operations,
		         k, terrace_status_name(rc));
	}
}

static void do_put(struct run *run, int k, bool add)
{
	struct model_entry *entry = &run->model[k];
	terrace_put_options options = TERRACE_PUT_INIT;
	int64_t now = atomic_load(&run->f.clock.now), ttl = (int64_t)rng_below(&run->rng, 4) * 500;
	int tag = (int)rng_below(&run->rng, TAGS + 1) - 1;
	char key[16], value[4096], name[16];
	const char *tags[] = { name };
	size_t size;
	int rc;

	key_text(k, key);
	size = value_text(++run->version, value);
	snprintf(name, sizeof name, "t%d", tag);
	options.ttl_ms = ttl ? ttl : TERRACE_TTL_FOREVER;
	options.tags = tags;
	options.tag_count = tag >= 0;
	rc = add ? terrace_add(run->cache, terrace_str(key), terrace_bytes(value, size), &options) :
	           terrace_put(run->cache, terrace_str(key), terrace_bytes(value, size), &options);
	if (add && alive(run, k)) {
		assert_status(rc, TERRACE_EXISTS);
		return;
	}
	assert_ok(rc);
	*entry = (struct model_entry){ .there = true,
		                       .version = run->version,
		                       .expires = ttl ? now + ttl : INT64_MAX,
		                       .tag = tag };
}

static void do_incr(struct run *run, int k)
{
	struct model_entry *entry = &run->model[k];
	bool live = alive(run, k);
	int64_t sum;
	char key[16];
	int rc;

	key_text(k, key);
	rc = terrace_incr(run->cache, terrace_str(key), 3, 100, &sum);
	if (live && !entry->is_number) {
		assert_status(rc, TERRACE_EINVAL);
		return;
	}
	assert_ok(rc);
	if (!live)
		*entry = (struct model_entry){ .there = true,
			                       .is_number = true,
			                       .number = 100,
			                       .expires = INT64_MAX,
			                       .tag = -1 };
	entry->number += 3;
	assert_int_equal(sum, entry->number);
}

static void do_delete(struct run *run, int k)
{
	char key[16];

	key_text(k, key);
	assert_status(terrace_delete(run->cache, terrace_str(key)),
	              alive(run, k) ? TERRACE_OK : TERRACE_MISS);
	run->model[k].there = false;
}

static void do_touch(struct run *run, int k)
{
	int64_t ttl = 1 + (int64_t)rng_below(&run->rng, 2000);
	char key[16];

	key_text(k, key);
	assert_status(terrace_touch(run->cache, terrace_str(key), ttl),
	              alive(run, k) ? TERRACE_OK : TERRACE_MISS);
	if (alive(run, k))
		run->model[k].expires = atomic_load(&run->f.clock.now) + ttl;
}

static void do_exists(struct run *run, int k)
{
	char key[16];

	key_text(k, key);
	assert_status(terrace_exists(run->cache, terrace_str(key)),
	              alive(run, k) ? TERRACE_OK : TERRACE_MISS);
}

/* Remove those that `fits` says, dead ones too; how many were there (dead ones may count). */
static void forget(struct run *run, bool (*fits)(const struct run *run, int k, int n), int n,
                   uint64_t *ret_live, uint64_t *ret_all)
{
	*ret_live = *ret_all = 0;
	for (int k = 0; k < KEYS; k++) {
		if (!run->model[k].there || !fits(run, k, n))
			continue;
		*ret_live += alive(run, k);
		++*ret_all;
		run->model[k].there = false;
	}
}

static bool fits_prefix(const struct run *run, int k, int n)
{
	(void)run;
	return k % 3 == n;
}

static bool fits_tag(const struct run *run, int k, int n)
{
	return run->model[k].tag == n;
}

static bool fits_all(const struct run *run, int k, int n)
{
	(void)run;
	(void)k;
	(void)n;
	return true;
}

static void do_many(struct run *run)
{
	uint64_t count, live, all;
	terrace_match match;
	char text[8];
	int n;

	switch (rng_below(&run->rng, 4)) {
	case 0:
		n = (int)rng_below(&run->rng, 3);
		snprintf(text, sizeof text, "%c:", "abc"[n]);
		match = terrace_match_text(TERRACE_MATCH_PREFIX, text);
		forget(run, fits_prefix, n, &live, &all);
		break;
	case 1:
		n = (int)rng_below(&run->rng, 3);
		snprintf(text, sizeof text, "%c*", "abc"[n]);
		match = terrace_match_text(TERRACE_MATCH_GLOB, text);
		forget(run, fits_prefix, n, &live, &all);
		break;
	case 2:
		n = (int)rng_below(&run->rng, TAGS);
		snprintf(text, sizeof text, "t%d", n);
		match = terrace_match_text(TERRACE_MATCH_TAG, text);
		forget(run, fits_tag, n, &live, &all);
		break;
	default:
		match = terrace_match_text(TERRACE_MATCH_ALL, NULL);
		forget(run, fits_all, 0, &live, &all);
	}
	assert_ok(terrace_invalidate(run->cache, &match, &count));
	assert_true(count >= live && count <= all);
}

static void do_cleanup(struct run *run)
{
	uint64_t count, dead = 0;

	assert_ok(terrace_cleanup(run->f.store, run->cache, &count));
	for (int k = 0; k < KEYS; k++) {
		if (run->model[k].there && !alive(run, k)) {
			run->model[k].there = false;
			dead++;
		}
	}
	assert_true(count <= dead);
}

static void do_list(struct run *run)
{
	terrace_keys *keys;
	terrace_slice key;
	int live = 0, listed = 0;

	for (int k = 0; k < KEYS; k++)
		live += alive(run, k);
	assert_ok(terrace_keys_open(run->cache, NULL, &keys));
	while (terrace_keys_next(keys, &key) == TERRACE_OK) {
		char text[16];

		snprintf(text, sizeof text, "%.*s", (int)key.size, (const char *)key.data);
		assert_true(alive(run, atoi(text + 2)));
		listed++;
	}
	terrace_keys_close(keys);
	assert_int_equal(listed, live);
}

static void do_reopen(struct run *run)
{
	terrace_cache_close(run->cache);
	fixture_reopen(&run->f);
	run->cache = fixture_cache(&run->f, run->name, &run->policy);
	if (run->policy.tiers == TERRACE_L1) {
		for (int k = 0; k < KEYS; k++)
			run->model[k].there = false;
	}
}

static void step(struct run *run)
{
	int k = (int)rng_below(&run->rng, KEYS);
	uint64_t what = rng_below(&run->rng, 10000);

	run->operations++;
	if (what < 7500)
		do_get(run, k);
	else if (what < 8600)
		do_put(run, k, false);
	else if (what < 8900)
		do_put(run, k, true);
	else if (what < 9200)
		do_incr(run, k);
	else if (what < 9500)
		do_delete(run, k);
	else if (what < 9650)
		do_touch(run, k);
	else if (what < 9850)
		do_exists(run, k);
	else if (what < 9990)
		atomic_fetch_add(&run->f.clock.now, (int64_t)rng_below(&run->rng, 100));
	else if (what < 9993)
		do_many(run);
	else if (what < 9996)
		do_cleanup(run);
	else if (what < 9998)
		do_list(run);
	else if (rng_below(&run->rng, 10) == 0)
		do_reopen(run);
	else
		terrace_clear(run->cache, run->policy.tiers == TERRACE_L1 ? 0 : TERRACE_L1, NULL);
	if (what >= 9998 && run->policy.tiers == TERRACE_L1) {
		for (int k2 = 0; k2 < KEYS; k2++)
			run->model[k2].there = false;
	}
}

static bool slots_differ(const struct run *run)
{
	uint32_t slots[KEYS];
	char key[16];

	for (int k = 0; k < KEYS; k++) {
		key_text(k, key);
		slots[k] = cache_key(run->cache, terrace_str(key)).slot;
		for (int other = 0; other < k; other++) {
			if (slots[other] == slots[k])
				return false;
		}
	}
	return true;
}

/*
 * Of two keys on one slot, what waits may be dropped: such a cache forgets more
 * than the model does. Each cache has other slots.
 */
static void open_cache(struct run *run)
{
	for (int i = 0; !run->cache; i++) {
		snprintf(run->name, sizeof run->name, "model%d", i);
		run->cache = fixture_cache(&run->f, run->name, &run->policy);
		if (run->policy.write != TERRACE_WRITE_BEHIND || slots_differ(run))
			break;
		terrace_cache_close(run->cache);
		run->cache = NULL;
	}
}

static void run_model(unsigned tiers, terrace_write write, uint64_t memory_bytes,
                      uint64_t operations)
{
	struct run *run = calloc(1, sizeof *run);

	run->rng.state = test_seed();
	run->policy = TERRACE_POLICY_INIT;
	run->policy.tiers = tiers;
	run->policy.write = write;
	run->policy.memory_bytes = memory_bytes;
	run->policy.inline_bytes = 1500; /* rows and files */
	fixture_open(&run->f);
	open_cache(run);
	while (run->operations < operations)
		step(run);
	print_message("%llu operations, %llu hits\n", (unsigned long long)run->operations,
	              (unsigned long long)run->hits);
	/* a cache that always misses would have passed, but for this */
	assert_true(run->hits > operations / 10);
	terrace_cache_close(run->cache);
	fixture_close(&run->f);
	free(run);
}

static uint64_t operations(void)
{
	const char *given = getenv("TEST_OPERATIONS");

	return given ? strtoull(given, NULL, 0) : 1000000;
}

static void test_model__all_tiers(void **state)
{
	(void)state;
	run_model(0, TERRACE_WRITE_THROUGH, 200000, operations() * 5 / 10);
}

static void test_model__all_tiers_behind(void **state)
{
	(void)state;
	run_model(0, TERRACE_WRITE_BEHIND, 200000, operations() / 10);
}

static void test_model__disk_alone(void **state)
{
	(void)state;
	run_model(TERRACE_L2 | TERRACE_L3, TERRACE_WRITE_THROUGH, 0, operations() / 10);
}

static void test_model__memory_alone(void **state)
{
	(void)state;
	run_model(TERRACE_L1, TERRACE_WRITE_THROUGH, 0, operations() * 3 / 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model__all_tiers),
		cmocka_unit_test(test_model__all_tiers_behind),
		cmocka_unit_test(test_model__disk_alone),
		cmocka_unit_test(test_model__memory_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
