/* Two forms: an object in L1, and its encoded bytes in memory under a budget of their own. */
#include "support/support.h"

#include "core/flight.h"
#include "core/store.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

/* The object is the bytes behind their count; the form counts what it does. */
struct form_counts {
	_Atomic int decodes, destroys;
};

struct object {
	struct form_counts *counts;
	size_t size;
	char bytes[];
};

static int decode(void *ctx, terrace_slice bytes, void **ret_object, size_t *ret_weight)
{
	struct form_counts *counts = ctx;
	struct object *object;

	atomic_fetch_add(&counts->decodes, 1);
	if (bytes.size >= 3 && memcmp(bytes.data, "bad", 3) == 0)
		return -1;
	object = malloc(sizeof *object + bytes.size + 1);
	object->counts = counts;
	object->size = bytes.size;
	memcpy(object->bytes, bytes.data, bytes.size);
	object->bytes[bytes.size] = '\0';
	*ret_object = object;
	*ret_weight = 10 * bytes.size;
	return 0;
}

static void destroy(void *ctx, void *object)
{
	atomic_fetch_add(&((struct form_counts *)ctx)->destroys, 1);
	free(object);
}

struct forms {
	struct fixture fixture;
	struct form_counts counts;
	terrace_cache *cache;
	_Atomic int loads;
};

static void open_forms_writing(struct forms *f, unsigned tiers, uint64_t memory, uint64_t encoded,
                               terrace_write write)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_form form = TERRACE_FORM_INIT;

	memset(f, 0, sizeof *f);
	fixture_open(&f->fixture);
	form.decode = decode;
	form.destroy = destroy;
	form.ctx = &f->counts;
	policy.form = &form;
	policy.tiers = tiers;
	policy.memory_bytes = memory;
	policy.encoded_bytes = encoded;
	policy.absent_ttl_ms = 1000000;
	policy.write = write;
	f->cache = fixture_cache(&f->fixture, "forms", &policy);
}

static void open_forms(struct forms *f, unsigned tiers, uint64_t memory, uint64_t encoded)
{
	open_forms_writing(f, tiers, memory, encoded, TERRACE_WRITE_THROUGH);
}

static void close_forms(struct forms *f)
{
	fixture_close(&f->fixture);
}

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct forms *f = ctx;

	atomic_fetch_add(&f->loads, 1);
	return terrace_loaded_copy(loaded, key);
}

static void expect_object(terrace_value *value, const char *text)
{
	const struct object *object = terrace_object(value);

	assert_non_null(object);
	assert_string_equal(object->bytes, text);
	terrace_release(value);
}

static void expect_bytes(terrace_value *value, const char *text)
{
	assert_null(terrace_object(value));
	assert_int_equal(terrace_size(value), strlen(text));
	assert_memory_equal(terrace_data(value), text, strlen(text));
	terrace_release(value);
}

static const unsigned both[] = { TERRACE_L1, TERRACE_L1 | TERRACE_L2 | TERRACE_L3 };

static void test_fetch__decodes_once_and_keeps_the_object(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct forms f;
		terrace_value *value;

		open_forms(&f, both[i], 1 << 20, 1 << 20);
		assert_ok(terrace_fetch(f.cache, TERRACE_KEY("one"), load, &f, &value));
		expect_object(value, "one");
		assert_ok(terrace_fetch(f.cache, TERRACE_KEY("one"), load, &f, &value));
		assert_int_equal(terrace_value_tier(value), TERRACE_L1);
		expect_object(value, "one");
		assert_int_equal(f.loads, 1);
		assert_int_equal(f.counts.decodes, 1);
		close_forms(&f);
		assert_int_equal(f.counts.destroys, 1);
	}
}

/* Every other key has no value. */
static int load_half(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	if (((const char *)key.data)[key.size - 1] % 2 == 0)
		return load(ctx, key, loaded);
	atomic_fetch_add(&((struct forms *)ctx)->loads, 1);
	terrace_loaded_absent(loaded);
	return 0;
}

static void fetch_half(struct forms *f, int i)
{
	char key[16];
	terrace_value *value = NULL;

	snprintf(key, sizeof key, "%d", i);
	if (i % 2 == 0) {
		assert_ok(terrace_fetch(f->cache, terrace_str(key), load_half, f, &value));
		expect_object(value, key);
	} else {
		assert_status(terrace_fetch(f->cache, terrace_str(key), load_half, f, &value),
		              TERRACE_ABSENT);
	}
}

/* What is absent has neither bytes nor object: it is known among both, and both let go of it. */
static void test_fetch__knows_what_is_absent_among_objects(void **state)
{
	enum { KEYS = 200 };

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct forms f;

		open_forms(&f, both[i], 1 << 20, 1 << 20);
		for (int k = 0; k < KEYS; k++)
			fetch_half(&f, k);
		for (int k = KEYS - 1; k >= 0; k--)
			fetch_half(&f, k);
		/* now and then two keys share a version, and one voids the other */
		assert_in_range(f.loads, KEYS, KEYS + KEYS / 10);
		for (int k = 0; k < KEYS; k += 3) {
			char key[16];

			snprintf(key, sizeof key, "%d", k);
			terrace_delete(f.cache, terrace_str(key));
		}
		for (int k = 0; k < KEYS; k++)
			fetch_half(&f, k);
		assert_in_range(f.loads, KEYS + (KEYS + 2) / 3, KEYS + KEYS / 2);
		close_forms(&f);
		assert_int_equal(f.counts.destroys, f.counts.decodes);
	}
}

static void test_fetch_encoded__decodes_nothing(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct forms f;
		terrace_value *value;

		open_forms(&f, both[i], 1 << 20, 1 << 20);
		assert_ok(terrace_fetch_encoded(f.cache, TERRACE_KEY("one"), load, &f, &value));
		expect_bytes(value, "one");
		assert_ok(terrace_fetch_encoded(f.cache, TERRACE_KEY("one"), load, &f, &value));
		assert_int_equal(terrace_value_tier(value), TERRACE_L1);
		expect_bytes(value, "one");
		assert_int_equal(f.counts.decodes, 0);
		assert_ok(terrace_exists(f.cache, TERRACE_KEY("one")));
		/* Now somebody wants the object: no load, one decode, then a hit. */
		assert_ok(terrace_fetch(f.cache, TERRACE_KEY("one"), load, &f, &value));
		expect_object(value, "one");
		assert_ok(terrace_get(f.cache, TERRACE_KEY("one"), &value));
		expect_object(value, "one");
		assert_int_equal(f.loads, 1);
		assert_int_equal(f.counts.decodes, 1);
		close_forms(&f);
	}
}

/* The budgets are two: what leaves the one stays in the other. */
static void test_budgets__hold_each_for_itself(void **state)
{
	enum { MANY = 400, TEXT = 1000 };
	struct forms f;
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_value *value;
	char text[TEXT + 1];

	(void)state;
	open_forms(&f, TERRACE_L1, 200 << 10, 2 << 20);
	for (int i = 0; i < MANY; i++) {
		memset(text, 'a' + i % 26, TEXT);
		snprintf(text, sizeof text, "%d", i);
		text[strlen(text)] = ' ';
		text[TEXT] = '\0';
		assert_ok(terrace_fetch(f.cache, terrace_str(text), load, &f, &value));
		terrace_release(value);
		assert_ok(terrace_cache_stats(f.cache, &stats));
		assert_true(stats.l1.bytes <= 200 << 10);
		assert_true(stats.encoded.bytes <= 2 << 20);
	}
	assert_int_equal(stats.encoded.entries, MANY); /* 400 KB of bytes: all of them */
	assert_true(stats.l1.entries < 30);            /* 10 KB an object */
	assert_int_equal(f.loads, MANY);
	for (int i = 0; i < MANY; i++) {
		memset(text, 'a' + i % 26, TEXT);
		snprintf(text, sizeof text, "%d", i);
		text[strlen(text)] = ' ';
		text[TEXT] = '\0';
		assert_ok(terrace_get(f.cache, terrace_str(text), &value));
		expect_object(value, text);
	}
	assert_int_equal(f.loads, MANY);
	close_forms(&f);
}

/* Two caches under the store's budget for encoded bytes. */
static void test_store_budget__is_shared(void **state)
{
	struct form_counts counts = { 0 };
	struct fixture fixture = { 0 };
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_form form = TERRACE_FORM_INIT;
	terrace_stats stats = TERRACE_STATS_INIT, other = TERRACE_STATS_INIT;
	terrace_cache *caches[2];
	struct forms f = { 0 };
	terrace_value *value;
	char text[1024];

	(void)state;
	fixture_open(&fixture);
	fixture.options.encoded_bytes = 1 << 20;
	fixture_reopen(&fixture);
	form.decode = decode;
	form.destroy = destroy;
	form.ctx = &counts;
	policy.form = &form;
	policy.tiers = TERRACE_L1;
	policy.encoded_bytes = 16 << 20;
	caches[0] = fixture_cache(&fixture, "one", &policy);
	caches[1] = fixture_cache(&fixture, "two", &policy);
	for (int i = 0; i < 3000; i++) {
		memset(text, 'x', sizeof text);
		snprintf(text, sizeof text, "%d", i);
		assert_ok(terrace_fetch_encoded(caches[i % 2], terrace_bytes(text, sizeof text),
		                                load, &f, &value));
		terrace_release(value);
	}
	assert_ok(terrace_cache_stats(caches[0], &stats));
	assert_ok(terrace_cache_stats(caches[1], &other));
	assert_true(stats.encoded.bytes + other.encoded.bytes <= 1 << 20);
	assert_true(stats.encoded.bytes + other.encoded.bytes > 900 << 10);
	fixture_close(&fixture);
}

/* An object over the limit of L1 is given and not kept; its bytes are. */
static void test_large_object__leaves_its_bytes(void **state)
{
	struct forms f;
	terrace_value *value;
	static char text[20001];

	(void)state;
	memset(text, 'l', sizeof text - 1);
	open_forms(&f, TERRACE_L1, 100 << 10, 1 << 20); /* the object weighs 200,000 */
	for (int i = 0; i < 3; i++) {
		assert_ok(terrace_fetch(f.cache, terrace_str(text), load, &f, &value));
		expect_object(value, text);
	}
	assert_int_equal(f.loads, 1);
	assert_int_equal(f.counts.decodes, 3);
	close_forms(&f);
}

static void test_put__replaces_both_forms(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct forms f;
		terrace_value *value;

		open_forms(&f, both[i], 1 << 20, 1 << 20);
		assert_ok(terrace_fetch(f.cache, TERRACE_KEY("k"), load, &f, &value));
		terrace_release(value);
		assert_ok(terrace_put(f.cache, TERRACE_KEY("k"), terrace_str("newer"), NULL));
		assert_ok(terrace_get(f.cache, TERRACE_KEY("k"), &value));
		expect_object(value, "newer");
		assert_ok(terrace_get_encoded(f.cache, TERRACE_KEY("k"), &value));
		expect_bytes(value, "newer");
		assert_ok(terrace_delete(f.cache, TERRACE_KEY("k")));
		assert_status(terrace_get(f.cache, TERRACE_KEY("k"), &value), TERRACE_MISS);
		assert_status(terrace_get_encoded(f.cache, TERRACE_KEY("k"), &value), TERRACE_MISS);
		close_forms(&f);
	}
}

/* Of so many keys some share a slot: nothing is below them that a lost one could be read from. */
static void test_put__voids_no_object_that_shares_its_slot(void **state)
{
	enum { COUNT = 4000 };
	struct forms f;
	int lost = 0;

	(void)state;
	open_forms(&f, TERRACE_L1, 0, 0);
	for (int i = 0; i < COUNT; i++)
		assert_ok(
		    terrace_put(f.cache, terrace_bytes(&i, sizeof i), terrace_str("v"), NULL));
	for (int i = 0; i < COUNT; i++) {
		terrace_value *value;

		if (terrace_get(f.cache, terrace_bytes(&i, sizeof i), &value) == TERRACE_OK)
			terrace_release(value);
		else
			lost++;
	}
	assert_int_equal(lost, 0);
	close_forms(&f);
}

static void expect_both(struct forms *f, const char *key, const char *text)
{
	terrace_value *value;

	assert_ok(terrace_get(f->cache, terrace_str(key), &value));
	expect_object(value, text);
	assert_ok(terrace_get_encoded(f->cache, terrace_str(key), &value));
	expect_bytes(value, text);
}

/* An object that was decoded from what waits is not found behind what replaces that. */
static void test_put_behind__replaces_both_forms(void **state)
{
	static const uint64_t encoded[] = { 0, 1 << 20 };

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct forms f;

		open_forms_writing(&f, 0, 1 << 20, encoded[i], TERRACE_WRITE_BEHIND);
		for (int turn = 0; turn < 50; turn++) {
			char text[16];

			snprintf(text, sizeof text, "%d", turn);
			assert_ok(put_text(f.cache, "k", text));
			expect_both(&f, "k", text);
		}
		assert_ok(terrace_flush(f.fixture.store));
		expect_both(&f, "k", "49");
		assert_ok(terrace_clear(f.cache, TERRACE_L1, NULL));
		expect_both(&f, "k", "49");
		assert_ok(terrace_delete(f.cache, TERRACE_KEY("k")));
		assert_misses(f.cache, "k");
		terrace_cache_close(f.cache);
		close_forms(&f);
		assert_int_equal(atomic_load(&f.counts.decodes), atomic_load(&f.counts.destroys));
	}
}

/* Where no memory keeps it, each caller has an object of its own. */
static void test_without_l1__every_get_decodes(void **state)
{
	struct forms f;
	terrace_value *first, *second;

	(void)state;
	open_forms(&f, TERRACE_L2, 0, 0);
	assert_ok(terrace_fetch(f.cache, TERRACE_KEY("one"), load, &f, &first));
	assert_ok(terrace_get(f.cache, TERRACE_KEY("one"), &second));
	assert_ptr_not_equal(terrace_object(first), terrace_object(second));
	expect_object(first, "one");
	expect_object(second, "one");
	assert_int_equal(atomic_load(&f.loads), 1);
	assert_int_equal(atomic_load(&f.counts.decodes), 2);
	assert_int_equal(atomic_load(&f.counts.destroys), 2);
	assert_int_equal(terrace_evict(f.cache, UINT64_MAX, NULL), TERRACE_OK);
	expect_both(&f, "one", "one");
	terrace_cache_close(f.cache);
	close_forms(&f);
}

static void test_bytes_alone__are_listed_and_invalidated(void **state)
{
	struct forms f;
	terrace_value *value;
	terrace_keys *keys;
	terrace_slice key;
	uint64_t count = 0;

	(void)state;
	open_forms(&f, TERRACE_L1, 1 << 20, 1 << 20);
	assert_ok(terrace_fetch_encoded(f.cache, TERRACE_KEY("a"), load, &f, &value));
	terrace_release(value);
	assert_ok(terrace_fetch(f.cache, TERRACE_KEY("b"), load, &f, &value));
	terrace_release(value);
	assert_ok(terrace_keys_open(f.cache, NULL, &keys));
	while (terrace_keys_next(keys, &key) == TERRACE_OK)
		count++;
	terrace_keys_close(keys);
	assert_int_equal(count, 2);
	assert_ok(terrace_touch(f.cache, TERRACE_KEY("a"), 60 * 1000));
	assert_ok(terrace_invalidate(f.cache, NULL, &count));
	assert_int_equal(count, 2);
	assert_status(terrace_get_encoded(f.cache, TERRACE_KEY("a"), &value), TERRACE_MISS);
	assert_status(terrace_get(f.cache, TERRACE_KEY("b"), &value), TERRACE_MISS);
	close_forms(&f);
}

static void test_bytes_that_do_not_decode__fail_for_themselves(void **state)
{
	struct forms f;
	terrace_value *value;

	(void)state;
	open_forms(&f, TERRACE_L1, 1 << 20, 1 << 20);
	assert_status(terrace_fetch(f.cache, TERRACE_KEY("bad one"), load, &f, &value),
	              TERRACE_EINVAL);
	assert_ok(terrace_fetch(f.cache, TERRACE_KEY("good"), load, &f, &value));
	expect_object(value, "good");
	close_forms(&f);
}

/* --- both shapes share a computation ----------------------------------------------------------- */

struct slow {
	struct forms *f;
	sem_t started, go_on;
	bool encoded; /* what the second caller wants */
	terrace_value *value;
	int rc;
};

static int slow_load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct slow *slow = ctx;

	sem_post(&slow->started);
	sem_wait(&slow->go_on);
	return load(slow->f, key, loaded);
}

static void *second_caller(void *arg)
{
	struct slow *slow = arg;

	slow->rc = slow->encoded ? terrace_fetch_encoded(slow->f->cache, TERRACE_KEY("shared"),
	                                                 load, slow->f, &slow->value) :
	                           terrace_fetch(slow->f->cache, TERRACE_KEY("shared"), load,
	                                         slow->f, &slow->value);
	return NULL;
}

static void *let_go(void *arg)
{
	struct slow *slow = arg;

	sem_wait(&slow->started);
	sem_post(&slow->go_on);
	return NULL;
}

/* As after any other argument that is wrong: who holds it ends it. */
static void test_lease__goes_on_when_its_value_does_not_decode(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct forms f;
		terrace_lease *lease;
		terrace_value *value;

		open_forms(&f, both[i], 0, 0);
		assert_status(terrace_lease_begin(f.cache, TERRACE_KEY("k"), 0, &lease, &value),
		              TERRACE_MISS);
		assert_status(terrace_lease_put(lease, terrace_str("bad"), NULL, NULL),
		              TERRACE_EINVAL);
		assert_int_equal(f.cache->store->flights.lease_count, 1);
		terrace_lease_drop(lease);
		assert_int_equal(f.cache->store->flights.lease_count, 0);
		terrace_cache_close(f.cache);
		close_forms(&f);
	}
}

static void test_both_shapes__share_one_computation(void **state)
{
	(void)state;
	for (int i = 0; i < 4; i++) {
		struct forms f;
		struct slow slow = { .f = &f, .encoded = i & 1 };
		pthread_t other, gate;
		terrace_value *value;

		open_forms(&f, both[i >> 1], 1 << 20, 1 << 20);
		sem_init(&slow.started, 0, 0);
		sem_init(&slow.go_on, 0, 0);
		pthread_create(&gate, NULL, let_go, &slow);
		pthread_create(&other, NULL, second_caller, &slow);
		if (slow.encoded)
			assert_ok(terrace_fetch(f.cache, TERRACE_KEY("shared"), slow_load, &slow,
			                        &value));
		else
			assert_ok(terrace_fetch_encoded(f.cache, TERRACE_KEY("shared"), slow_load,
			                                &slow, &value));
		sem_post(&slow.started); /* where the other one was first, the gate still waits */
		pthread_join(other, NULL);
		pthread_join(gate, NULL);
		assert_int_equal(f.loads, 1);
		assert_ok(slow.rc);
		if (slow.encoded) {
			expect_object(value, "shared");
			expect_bytes(slow.value, "shared");
		} else {
			expect_bytes(value, "shared");
			expect_object(slow.value, "shared");
		}
		close_forms(&f);
	}
}

static int decode_endless(void *ctx, terrace_slice bytes, void **ret_object, size_t *ret_weight)
{
	int rc = decode(ctx, bytes, ret_object, ret_weight);

	*ret_weight = SIZE_MAX - 10;
	return rc;
}

/* What weighs more than there can be fits nowhere; the sum with its key is not little. */
static void test_object__of_any_weight_is_weighed(void **state)
{
	struct fixture f = { .store = NULL };
	struct form_counts counts = { 0, 0 };
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_form form = TERRACE_FORM_INIT;
	terrace_memory memory = TERRACE_MEMORY_INIT;
	terrace_cache *cache;

	(void)state;
	fixture_open(&f);
	form.decode = decode_endless;
	form.destroy = destroy;
	form.ctx = &counts;
	policy.form = &form;
	policy.tiers = TERRACE_L1;
	cache = fixture_cache(&f, "objects", &policy);
	assert_status(put_text(cache, "k", "v"), TERRACE_ETOOBIG);
	assert_ok(terrace_memory_usage(f.store, &memory));
	assert_int_equal(memory.entries, 0);
	assert_int_equal(atomic_load(&counts.destroys), 1);
	terrace_cache_close(cache);
	fixture_close(&f);
}

/* --- bytes that are replaced while they are decoded --------------------------------------------- */

struct gate {
	sem_t within, go_on;
	_Atomic bool shut;
	terrace_cache *cache;
};

static int decode_at_gate(void *ctx, terrace_slice bytes, void **ret_object, size_t *ret_weight)
{
	struct gate *gate = ctx;

	if (atomic_exchange(&gate->shut, false)) {
		sem_post(&gate->within);
		sem_wait(&gate->go_on);
	}
	*ret_object = strndup(bytes.data, bytes.size);
	*ret_weight = bytes.size;
	return *ret_object ? 0 : TERRACE_ENOMEM;
}

static void destroy_copy(void *ctx, void *object)
{
	(void)ctx;
	free(object);
}

static void *get_slowly(void *ctx)
{
	struct gate *gate = ctx;
	terrace_value *value;

	assert_ok(terrace_get(gate->cache, TERRACE_KEY("k"), &value));
	assert_string_equal(terrace_object(value), "older");
	terrace_release(value);
	return NULL;
}

static void test_put__of_a_computation_is_not_undone_by_who_decodes_what_was_there(void **state)
{
	struct fixture f = { .store = NULL };
	struct gate gate = { .shut = false };
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_form form = TERRACE_FORM_INIT;
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_lease *lease;
	terrace_value *value;
	pthread_t thread;

	(void)state;
	fixture_open(&f);
	sem_init(&gate.within, 0, 0);
	sem_init(&gate.go_on, 0, 0);
	form.decode = decode_at_gate;
	form.destroy = destroy_copy;
	form.ctx = &gate;
	policy.form = &form;
	policy.tiers = TERRACE_L1;
	policy.encoded_bytes = 1 << 20;
	gate.cache = fixture_cache(&f, "objects", &policy);
	assert_ok(put_text(gate.cache, "k", "older"));
	assert_ok(terrace_evict(gate.cache, UINT64_MAX, NULL)); /* the bytes are left */
	atomic_store(&gate.shut, true);
	pthread_create(&thread, NULL, get_slowly, &gate);
	sem_wait(&gate.within);
	assert_status(terrace_lease_begin(gate.cache, TERRACE_KEY("l"), 0, &lease, &value),
	              TERRACE_MISS);
	options.lease = lease;
	assert_ok(terrace_put(gate.cache, TERRACE_KEY("k"), terrace_str("newer"), &options));
	terrace_lease_drop(lease);
	sem_post(&gate.go_on);
	pthread_join(thread, NULL);
	assert_ok(terrace_get(gate.cache, TERRACE_KEY("k"), &value));
	assert_string_equal(terrace_object(value), "newer");
	terrace_release(value);
	terrace_cache_close(gate.cache);
	fixture_close(&f);
}

/* --- a destructor may use the store ------------------------------------------------------------- */

struct deleter {
	struct fixture fixture;
	terrace_cache *cache, *other;
	_Atomic int destroys;
};

static int decode_copy(void *ctx, terrace_slice bytes, void **ret_object, size_t *ret_weight)
{
	(void)ctx;
	*ret_object = strndup(bytes.data, bytes.size);
	*ret_weight = bytes.size;
	return *ret_object ? 0 : TERRACE_ENOMEM;
}

static void destroy_and_delete(void *ctx, void *object)
{
	struct deleter *d = ctx;

	terrace_delete(d->other, terrace_str(object));
	free(object);
	atomic_fetch_add(&d->destroys, 1);
}

static void open_deleter(struct deleter *d)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_form form = TERRACE_FORM_INIT;

	memset(d, 0, sizeof *d);
	fixture_open(&d->fixture);
	policy.tiers = TERRACE_L1;
	d->other = fixture_cache(&d->fixture, "other", &policy);
	form.decode = decode_copy;
	form.destroy = destroy_and_delete;
	form.ctx = d;
	policy.form = &form;
	policy.ttl_ms = 1000;
	policy.stale_on_error_ms = 1000000; /* what has expired stays until it is replaced */
	d->cache = fixture_cache(&d->fixture, "objects", &policy);
}

static void close_deleter(struct deleter *d)
{
	terrace_cache_close(d->cache);
	terrace_cache_close(d->other);
	fixture_close(&d->fixture);
}

static void test_destructor__may_write_when_what_is_computed_replaces_its_object(void **state)
{
	struct deleter d;
	terrace_lease *lease;
	terrace_value *value;

	(void)state;
	open_deleter(&d);
	assert_ok(put_text(d.other, "older", "v"));
	assert_ok(put_text(d.cache, "k", "older"));
	atomic_fetch_add(&d.fixture.clock.now, 2000);
	assert_status(terrace_lease_begin(d.cache, TERRACE_KEY("k"), 0, &lease, &value),
	              TERRACE_MISS);
	assert_ok(terrace_lease_put(lease, terrace_str("newer"), NULL, NULL));
	assert_int_equal(atomic_load(&d.destroys), 1);
	assert_misses(d.other, "older");
	close_deleter(&d);
}

static void *fetch_beside(void *ctx)
{
	struct deleter *d = ctx;
	terrace_lease *lease;
	terrace_value *value;

	assert_status(terrace_lease_begin(d->cache, TERRACE_KEY("k"), 0, &lease, &value),
	              TERRACE_MISS);
	terrace_lease_drop(lease);
	return NULL;
}

static unsigned waiting(struct deleter *d)
{
	struct flights *flights = &d->cache->store->flights;
	unsigned users;

	pthread_mutex_lock(&flights->lock);
	users = flights->first->users;
	pthread_mutex_unlock(&flights->lock);
	return users - 1;
}

/* Who joined after a delete gets nothing of it, and is mostly the last to let go of it. */
static void test_destructor__may_write_when_nobody_wants_what_was_computed(void **state)
{
	struct deleter d;
	terrace_lease *lease, *busy;
	terrace_value *value;
	pthread_t thread;

	(void)state;
	open_deleter(&d);
	assert_status(terrace_lease_begin(d.other, TERRACE_KEY("busy"), 0, &busy, &value),
	              TERRACE_MISS); /* so that a delete looks for leases */
	for (int i = 0; i < 20; i++) {
		assert_status(terrace_lease_begin(d.cache, TERRACE_KEY("k"), 0, &lease, &value),
		              TERRACE_MISS);
		assert_status(terrace_delete(d.cache, TERRACE_KEY("k")), TERRACE_MISS);
		pthread_create(&thread, NULL, fetch_beside, &d);
		while (waiting(&d) == 0)
			sched_yield();
		assert_ok(terrace_lease_put(lease, terrace_str("older"), NULL, &value));
		terrace_release(value);
		pthread_join(thread, NULL);
		assert_int_equal(atomic_load(&d.destroys), i + 1);
		assert_misses(d.cache, "k");
	}
	terrace_lease_drop(busy);
	close_deleter(&d);
}

struct opener {
	struct fixture fixture;
	char dir[200];
	int opened;
};

static void destroy_and_open(void *ctx, void *object)
{
	struct opener *opener = ctx;
	terrace *store;

	free(object);
	assert_ok(terrace_open(opener->dir, NULL, &store));
	terrace_close(store);
	opener->opened++;
}

static void test_destructor__may_open_and_close_stores(void **state)
{
	struct opener opener = { .opened = 0 };
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_form form = TERRACE_FORM_INIT;
	terrace_cache *cache;

	(void)state;
	fixture_open(&opener.fixture);
	snprintf(opener.dir, sizeof opener.dir, "%s",
	         scratch_path(&opener.fixture.scratch, "another"));
	form.decode = decode_copy;
	form.destroy = destroy_and_open;
	form.ctx = &opener;
	policy.form = &form;
	policy.tiers = TERRACE_L1;
	cache = fixture_cache(&opener.fixture, "objects", &policy);
	assert_ok(put_text(cache, "k", "v"));
	terrace_close(opener.fixture.store); /* and the cache with it */
	assert_int_equal(opener.opened, 1);
	opener.fixture.store = NULL;
	fixture_close(&opener.fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fetch__decodes_once_and_keeps_the_object),
		cmocka_unit_test(test_fetch__knows_what_is_absent_among_objects),
		cmocka_unit_test(test_fetch_encoded__decodes_nothing),
		cmocka_unit_test(test_budgets__hold_each_for_itself),
		cmocka_unit_test(test_store_budget__is_shared),
		cmocka_unit_test(test_large_object__leaves_its_bytes),
		cmocka_unit_test(test_object__of_any_weight_is_weighed),
		cmocka_unit_test(test_put__replaces_both_forms),
		cmocka_unit_test(test_put__voids_no_object_that_shares_its_slot),
		cmocka_unit_test(test_put_behind__replaces_both_forms),
		cmocka_unit_test(test_without_l1__every_get_decodes),
		cmocka_unit_test(test_bytes_alone__are_listed_and_invalidated),
		cmocka_unit_test(test_bytes_that_do_not_decode__fail_for_themselves),
		cmocka_unit_test(test_lease__goes_on_when_its_value_does_not_decode),
		cmocka_unit_test(test_both_shapes__share_one_computation),
		cmocka_unit_test(
		    test_put__of_a_computation_is_not_undone_by_who_decodes_what_was_there),
		cmocka_unit_test(
		    test_destructor__may_write_when_what_is_computed_replaces_its_object),
		cmocka_unit_test(test_destructor__may_write_when_nobody_wants_what_was_computed),
		cmocka_unit_test(test_destructor__may_open_and_close_stores),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
