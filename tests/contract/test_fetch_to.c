/* Values that are computed piece by piece, and go to the caller and into the cache at once. */
#include "support/support.h"

#include "core/store.h"
#include "tiers/record.h"

#include <pthread.h>

enum { LARGE = 3 * BLOCK_BYTES + 100, SMALL = 1000 };

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

/* Writes `size` letters, half of them after `half_way`. */
struct work {
	size_t size;
	char letter;
	_Atomic int runs;
	int (*half_way)(struct work *work, terrace_slice key, terrace_loaded *loaded);
	terrace_cache *cache;
	const char *path;
	bool in_one;
};

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct work *work = ctx;
	char *bytes = malloc(work->size);
	size_t half = work->size / 2;
	int rc;

	atomic_fetch_add(&work->runs, 1);
	memset(bytes, work->letter, work->size);
	if (work->in_one) {
		rc = terrace_loaded_copy(loaded, terrace_bytes(bytes, work->size));
	} else {
		rc = terrace_loaded_write(loaded, terrace_bytes(bytes, half));
		if (rc == 0 && work->half_way)
			rc = work->half_way(work, key, loaded);
		if (rc == 0)
			rc = terrace_loaded_write(loaded,
			                          terrace_bytes(bytes + half, work->size - half));
	}
	free(bytes);
	return rc;
}

struct received {
	size_t size;
	char letter;
	bool wrong;
	int fail_at; /* the call that fails */
	int code;    /* with this; 0: 4713 */
	int calls;
};

static int receive(void *ctx, terrace_slice bytes)
{
	struct received *received = ctx;

	if (++received->calls == received->fail_at)
		return received->code ? received->code : 4713;
	for (size_t i = 0; i < bytes.size; i++)
		received->wrong |= ((const char *)bytes.data)[i] != received->letter;
	received->size += bytes.size;
	return 0;
}

static int fetch(terrace_cache *cache, struct work *work, struct received *received)
{
	*received = (struct received){ .letter = work->letter,
		                       .fail_at = received->fail_at,
		                       .code = received->code };
	return terrace_fetch_to(cache, TERRACE_KEY("k"), load, work, receive, received);
}

static void assert_all(const struct received *received, const struct work *work)
{
	assert_int_equal(received->size, work->size);
	assert_false(received->wrong);
}

static void test_fetch__computes_once_and_gives_to_all(void **state)
{
	static const struct {
		unsigned tiers;
		terrace_write write;
	} kinds[] = {
		{ 0, TERRACE_WRITE_THROUGH },
		{ 0, TERRACE_WRITE_BEHIND },
		{ TERRACE_L1, TERRACE_WRITE_THROUGH },
		{ TERRACE_L3, TERRACE_WRITE_THROUGH },
	};
	struct fixture *f = *state;

	for (int i = 0; i < 12; i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		struct work work = { .size = i % 3 ? LARGE : SMALL,
			             .letter = 'a',
			             .in_one = i % 3 == 2 };
		struct received received = { 0 };
		terrace_cache *cache;
		terrace_value *value;
		char name[16];

		policy.tiers = kinds[i / 3].tiers;
		policy.write = kinds[i / 3].write;
		snprintf(name, sizeof name, "kind%d", i);
		cache = fixture_cache(f, name, &policy);
		for (int again = 0; again < 3; again++) {
			assert_ok(fetch(cache, &work, &received));
			assert_all(&received, &work);
		}
		/* The same loader serves a fetch of the whole value. */
		assert_ok(terrace_fetch(cache, TERRACE_KEY("k"), load, &work, &value));
		assert_int_equal(terrace_size(value), work.size);
		terrace_release(value);
		assert_int_equal(work.runs, 1);
		assert_ok(terrace_clear(cache, 0, NULL));
		assert_ok(terrace_fetch(cache, TERRACE_KEY("k"), load, &work, &value));
		assert_int_equal(terrace_size(value), work.size);
		assert_int_equal(*((const char *)terrace_data(value) + work.size - 1), 'a');
		terrace_release(value);
		assert_int_equal(work.runs, 2);
		terrace_cache_close(cache);
	}
}

static int overtaken(struct work *work, terrace_slice key, terrace_loaded *loaded)
{
	(void)loaded;
	assert_status(terrace_delete(work->cache, key), TERRACE_MISS);
	return 0;
}

static int keep_out(struct work *work, terrace_slice key, terrace_loaded *loaded)
{
	(void)work;
	(void)key;
	terrace_loaded_keep_out(loaded);
	return 0;
}

/* Whatever becomes of it in the cache. */
static void test_fetch__gives_all_of_what_is_not_stored(void **state)
{
	struct fixture *f = *state;
	terrace_policy disabled = TERRACE_POLICY_INIT, small = TERRACE_POLICY_INIT;
	struct work work = { .size = LARGE, .letter = 'b' };
	struct received received = { 0 };
	terrace_cache *caches[4] = { NULL };

	disabled.disabled = true;
	small.disk_bytes = 400000;
	small.codec = TERRACE_CODEC_NONE;
	caches[1] = fixture_cache(f, "disabled", &disabled);
	caches[2] = fixture_cache(f, "small", &small);
	caches[3] = fixture_cache(f, "a", NULL);
	for (int i = 0; i < 4; i++) {
		work.cache = caches[i];
		work.half_way = i == 3 ? overtaken : NULL;
		atomic_store(&work.runs, 0);
		for (int again = 1; again <= 2; again++) {
			assert_ok(fetch(caches[i], &work, &received));
			assert_all(&received, &work);
			assert_int_equal(work.runs, again);
		}
		assert_misses(caches[i], "k");
	}
	work.half_way = keep_out;
	assert_ok(fetch(caches[3], &work, &received));
	assert_all(&received, &work);
	assert_misses(caches[3], "k");
	for (int i = 1; i < 4; i++)
		terrace_cache_close(caches[i]);
}

static int fails(struct work *work, terrace_slice key, terrace_loaded *loaded)
{
	(void)work;
	(void)key;
	(void)loaded;
	return terrace_fail(4714, "half of it is all there is");
}

static int is_absent(struct work *work, terrace_slice key, terrace_loaded *loaded)
{
	(void)work;
	(void)key;
	terrace_loaded_absent(loaded);
	return 0;
}

static int asks_for_itself(struct work *work, terrace_slice key, terrace_loaded *loaded)
{
	struct received received = { 0 };

	(void)loaded;
	return terrace_fetch_to(work->cache, key, load, work, receive, &received);
}

static void test_fetch__failures_are_the_callers_and_store_nothing(void **state)
{
	struct fixture *f = *state;
	struct work work = { .size = LARGE, .letter = 'c', .half_way = fails };
	struct received received = { 0 };
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	policy.absent_ttl_ms = 1000;
	cache = fixture_cache(f, "a", &policy);
	work.cache = cache;
	assert_status(fetch(cache, &work, &received), 4714);
	assert_string_equal(terrace_error_message(), "half of it is all there is");
	assert_misses(cache, "k");
	work.half_way = NULL;
	for (received.fail_at = 1; received.fail_at <= 2; received.fail_at++) {
		assert_status(fetch(cache, &work, &received), 4713);
		assert_misses(cache, "k");
	}
	received.fail_at = 0;
	work.half_way = asks_for_itself;
	assert_status(fetch(cache, &work, &received), TERRACE_ECYCLE);
	assert_misses(cache, "k");
	/* A hit whose taker fails stays a hit. */
	work.half_way = NULL;
	assert_ok(fetch(cache, &work, &received));
	received.fail_at = 2;
	assert_status(fetch(cache, &work, &received), 4713);
	/* What was half given is not given again, whatever it fails with. */
	received.code = TERRACE_MISS;
	atomic_store(&work.runs, 0);
	assert_int_equal(fetch(cache, &work, &received), TERRACE_MISS);
	assert_int_equal(received.calls, received.fail_at);
	received.fail_at = received.code = 0;
	assert_ok(fetch(cache, &work, &received));
	assert_int_equal(work.runs, 0);
	assert_ok(terrace_clear(cache, 0, NULL));
	work.half_way = is_absent;
	assert_status(fetch(cache, &work, &received), TERRACE_ABSENT);
	assert_status(fetch(cache, &work, &received), TERRACE_ABSENT);
	assert_int_equal(work.runs, 1); /* that is remembered */
	terrace_cache_close(cache);
}

static int sink_says(void *ctx, terrace_slice bytes)
{
	(void)bytes;
	return *(int *)ctx;
}

static int gives_nothing(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)ctx, (void)key, (void)loaded;
	return 0;
}

/* A sink may fail with any number but 0, those of Terrace as well. */
static void test_fetch__a_sinks_failure_is_no_miss(void **state)
{
	static const int codes[] = { TERRACE_MISS, TERRACE_ABSENT, TERRACE_ECORRUPT, TERRACE_EIO };
	struct fixture *f = *state;
	struct work work = { .size = LARGE, .letter = 'c' };
	struct received received = { 0 };
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	assert_ok(fetch(cache, &work, &received));
	for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
		int code = codes[i];
		uint64_t given = 99;

		assert_status(
		    terrace_fetch_to(cache, TERRACE_KEY("k"), load, &work, sink_says, &code),
		    codes[i]);
		assert_int_equal(work.runs, 1);
		assert_status(terrace_get_to(cache, TERRACE_KEY("k"), 0, UINT64_MAX, sink_says,
		                             &code, &given),
		              codes[i]);
	}
	for (int i = 0; i < 2; i++)
		assert_status(terrace_fetch_to(i ? cache : NULL, TERRACE_KEY("none"), gives_nothing,
		                               NULL, sink_says, &(int){ 0 }),
		              TERRACE_EINVAL);
	/* Nobody takes it: then nothing is computed. */
	assert_status(terrace_fetch_to(cache, TERRACE_KEY("other"), load, &work, NULL, NULL),
	              TERRACE_EINVAL);
	assert_int_equal(work.runs, 1);
	terrace_cache_close(cache);
}

static struct {
	struct disk_ops ops;
	const struct disk_ops *real;
	uint64_t from; /* this block, and those behind it, cannot be read */
} failing;

static int block_fails(struct block_reader *blocks, uint64_t index, void *ret)
{
	if (index < failing.from)
		return failing.real->block_read(blocks, index, ret);
	return terrace_fail(TERRACE_EIO, "this disk is tired");
}

/* A disk that fails is the cache's trouble, as long as the caller has nothing yet. */
static void test_fetch__what_cannot_be_read_is_computed(void **state)
{
	struct fixture *f = *state;
	struct work work = { .size = LARGE, .letter = 'c' };
	struct received received = { 0 };
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	assert_ok(fetch(cache, &work, &received));
	failing.real = f->store->disk_ops;
	failing.ops = *failing.real;
	failing.ops.block_read = block_fails;
	f->store->disk_ops = &failing.ops;
	assert_ok(fetch(cache, &work, &received));
	assert_all(&received, &work);
	assert_int_equal(work.runs, 2);
	failing.from = 1;
	assert_status(fetch(cache, &work, &received), TERRACE_EIO);
	assert_int_equal(received.size, BLOCK_BYTES);
	assert_int_equal(work.runs, 2);
	f->store->disk_ops = failing.real;
	assert_ok(fetch(cache, &work, &received));
	assert_all(&received, &work);
	assert_int_equal(work.runs, 2);
	terrace_cache_close(cache);
}

static int says_more(struct work *work, terrace_slice key, terrace_loaded *loaded)
{
	(void)key;
	terrace_loaded_ttl(loaded, 5000);
	assert_ok(terrace_loaded_tag(loaded, "late"));
	return terrace_loaded_source(loaded, work->path, 0);
}

static void test_fetch__what_is_said_half_way_is_kept(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	const char *path = scratch_path(&f->scratch, "source");
	struct work work = { .size = LARGE, .letter = 'd', .half_way = says_more, .path = path };
	terrace_info info = TERRACE_INFO_INIT;
	struct received received = { 0 };

	write_file(path, "one");
	assert_ok(fetch(cache, &work, &received));
	assert_ok(terrace_inspect(cache, TERRACE_KEY("k"), &info));
	assert_int_equal(info.ttl_ms, 5000);
	assert_int_equal(info.tag_count, 1);
	assert_string_equal(info.tags[0], "late");
	assert_int_equal(info.source_count, 1);
	terrace_info_free(&info);
	write_file(path, "another");
	work.letter = 'e';
	assert_ok(fetch(cache, &work, &received));
	assert_all(&received, &work);
	assert_int_equal(work.runs, 2);
	terrace_cache_close(cache);
}

/* Damage at the front is a miss; further on it is too late for that. */
static void test_fetch__damage(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct work work = { .size = LARGE, .letter = 'f' };
	struct received received = { 0 };
	terrace_cache *cache;

	policy.codec = TERRACE_CODEC_NONE;
	cache = fixture_cache(f, "a", &policy);
	for (int block = 0; block < 2; block++) {
		char path[600];

		assert_ok(fetch(cache, &work, &received));
		fixture_file(f, path);
		flip_bit(path, block * BLOCK_BYTES, 1);
		assert_status(fetch(cache, &work, &received),
		              block ? TERRACE_ECORRUPT : TERRACE_OK);
		assert_int_equal(received.size, block ? BLOCK_BYTES : LARGE);
		assert_false(received.wrong);
		assert_int_equal(work.runs, 2);
	}
	assert_ok(fetch(cache, &work, &received));
	assert_all(&received, &work);
	terrace_cache_close(cache);
}

/* --- threads --------------------------------------------------------------------------- */

enum { THREADS = 8 };

static pthread_barrier_t start;

struct caller {
	terrace_cache *cache;
	struct work *work;
	struct received received;
	bool whole;
	int rc;
};

static void *call(void *ctx)
{
	struct caller *caller = ctx;

	pthread_barrier_wait(&start);
	if (caller->whole) {
		terrace_value *value = NULL;

		caller->rc = terrace_fetch(caller->cache, TERRACE_KEY("k"), load, caller->work,
		                           &value);
		caller->received.letter = caller->work->letter;
		if (caller->rc == TERRACE_OK)
			receive(&caller->received, terrace_slice_of(value));
		terrace_release(value);
	} else {
		caller->rc = fetch(caller->cache, caller->work, &caller->received);
	}
	return NULL;
}

static int lingers(struct work *work, terrace_slice key, terrace_loaded *loaded)
{
	struct timespec while_others_come = { 0, 20 * 1000000 };

	(void)work;
	(void)key;
	(void)loaded;
	nanosleep(&while_others_come, NULL);
	return 0;
}

static void test_fetch__one_computation_for_all_threads(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	for (int round = 0; round < 20; round++) {
		struct work work = { .size = LARGE, .letter = 'g', .half_way = lingers };
		struct caller callers[THREADS];
		pthread_t threads[THREADS];

		assert_int_equal(pthread_barrier_init(&start, NULL, THREADS), 0);
		for (int i = 0; i < THREADS; i++) {
			callers[i] = (struct caller){ cache, &work, { 0 }, i % 3 == 0, 0 };
			assert_int_equal(pthread_create(&threads[i], NULL, call, &callers[i]), 0);
		}
		for (int i = 0; i < THREADS; i++) {
			pthread_join(threads[i], NULL);
			assert_ok(callers[i].rc);
			assert_all(&callers[i].received, &work);
		}
		assert_int_equal(work.runs, 1);
		pthread_barrier_destroy(&start);
		assert_ok(terrace_clear(cache, 0, NULL));
	}
	terrace_cache_close(cache);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_fetch__computes_once_and_gives_to_all),
		TEST(test_fetch__gives_all_of_what_is_not_stored),
		TEST(test_fetch__failures_are_the_callers_and_store_nothing),
		TEST(test_fetch__a_sinks_failure_is_no_miss),
		TEST(test_fetch__what_cannot_be_read_is_computed),
		TEST(test_fetch__what_is_said_half_way_is_kept),
		TEST(test_fetch__damage),
		TEST(test_fetch__one_computation_for_all_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
