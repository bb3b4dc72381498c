/* Memory that is short, limits that move, and what a cache is promised. */
#include "support/support.h"

#include "core/keeper.h"
#include "core/store.h"

#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define KB UINT64_C(1024)
#define MB (1024 * KB)

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

/* --- what is read ------------------------------------------------------------------------------- */

static void stalled(const struct fixture *f, const char *avg10)
{
	char text[256];

	snprintf(text, sizeof text,
	         "some avg10=%s avg60=0.00 avg300=0.00 total=0\n"
	         "full avg10=99.00 avg60=0.00 avg300=0.00 total=0\n",
	         avg10);
	write_file(scratch_path(&f->scratch, "stall"), text);
}

static enum pressure_level level_of(struct fixture *f, struct pressure *pressure)
{
	pressure->stall_path = scratch_path(&f->scratch, "stall");
	pressure->group_path = scratch_path(&f->scratch, "group");
	return terrace__pressure_read(pressure);
}

static void group_file(const struct fixture *f, const char *name, const char *text)
{
	char path[64];

	mkdir(scratch_path(&f->scratch, "group"), 0700);
	snprintf(path, sizeof path, "group/%s", name);
	write_file(scratch_path(&f->scratch, path), text);
}

static void test_pressure__stalls_are_read(void **state)
{
	static const struct {
		const char *avg10;
		enum pressure_level level;
	} cases[] = {
		{ "0.00", PRESSURE_CALM },    { "0.99", PRESSURE_CALM },
		{ "1.00", PRESSURE_NEITHER }, { "9.99", PRESSURE_NEITHER },
		{ "10.00", PRESSURE_TIGHT },  { "100.00", PRESSURE_TIGHT },
		{ "rubbish", PRESSURE_CALM },
	};
	struct pressure pressure = { 0 };

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		stalled(*state, cases[i].avg10);
		assert_int_equal(level_of(*state, &pressure), cases[i].level);
	}
	write_file(scratch_path(&((struct fixture *)*state)->scratch, "stall"), "");
	assert_int_equal(level_of(*state, &pressure), PRESSURE_CALM);
}

static void test_pressure__a_group_is_measured_without_its_files(void **state)
{
	struct fixture *f = *state;
	struct pressure pressure = { 0 };

	group_file(f, "memory.current", "950\n");
	group_file(f, "memory.max", "max\n");
	assert_int_equal(level_of(f, &pressure), PRESSURE_CALM);
	group_file(f, "memory.max", "1000\n");
	assert_int_equal(level_of(f, &pressure), PRESSURE_TIGHT);
	group_file(f, "memory.stat", "anon 900\ninactive_file 50\nactive_file 1\n");
	assert_int_equal(level_of(f, &pressure), PRESSURE_NEITHER);
	group_file(f, "memory.stat", "anon 900\ninactive_file 200\n");
	assert_int_equal(level_of(f, &pressure), PRESSURE_CALM);
	/* What slows a process down counts before what kills it. */
	group_file(f, "memory.high", "760\n");
	assert_int_equal(level_of(f, &pressure), PRESSURE_TIGHT);
}

static void test_pressure__a_group_of_version_1(void **state)
{
	struct fixture *f = *state;
	struct pressure pressure = { 0 };

	group_file(f, "memory.usage_in_bytes", "1000\n");
	assert_int_equal(level_of(f, &pressure), PRESSURE_CALM); /* without a limit */
	group_file(f, "memory.limit_in_bytes", "9223372036854771712\n");
	assert_int_equal(level_of(f, &pressure), PRESSURE_CALM);
	group_file(f, "memory.limit_in_bytes", "1000\n");
	assert_int_equal(level_of(f, &pressure), PRESSURE_TIGHT);
	group_file(f, "memory.stat", "inactive_file 0\ntotal_inactive_file 500\n");
	assert_int_equal(level_of(f, &pressure), PRESSURE_CALM);
}

/* --- what follows -------------------------------------------------------------------------------- */

static void test_pressure__a_limit_falls_at_once_and_rises_slowly(void **state)
{
	struct pressure p = { .calm_since = -1 };
	const uint64_t most = 1600;

	(void)state;
	/* From what is in use, not from what could be. */
	assert_int_equal(terrace__pressure_limit(&p, PRESSURE_TIGHT, 0, most, 800, 0, most), 600);
	assert_int_equal(terrace__pressure_limit(&p, PRESSURE_TIGHT, 0, 600, 600, 0, most), 450);
	assert_int_equal(terrace__pressure_limit(&p, PRESSURE_TIGHT, 0, 450, 450, 400, most), 400);
	/* Never up because it is tight. */
	assert_int_equal(terrace__pressure_limit(&p, PRESSURE_TIGHT, 0, 300, 300, 400, most), 300);
	assert_int_equal(terrace__pressure_limit(&p, PRESSURE_NEITHER, 0, 300, 300, 0, most), 300);
	/* Ten seconds of calm without a break. */
	assert_int_equal(terrace__pressure_limit(&p, PRESSURE_CALM, 1000, 300, 300, 0, most), 300);
	assert_int_equal(terrace__pressure_limit(&p, PRESSURE_CALM, 10999, 300, 300, 0, most), 300);
	terrace__pressure_limit(&p, PRESSURE_NEITHER, 11000, 300, 300, 0, most);
	assert_int_equal(terrace__pressure_limit(&p, PRESSURE_CALM, 11500, 300, 300, 0, most), 300);
	assert_int_equal(terrace__pressure_limit(&p, PRESSURE_CALM, 21500, 300, 300, 0, most), 500);
	assert_int_equal(terrace__pressure_limit(&p, PRESSURE_CALM, 22000, 500, 300, 0, most), 500);
	assert_int_equal(terrace__pressure_limit(&p, PRESSURE_CALM, 31500, 1500, 0, 0, most), most);
}

static void open_watched(struct fixture *f, uint64_t memory_bytes)
{
	f->options.pressure_path = scratch_path(&f->scratch, "stall");
	f->options.memory_bytes = memory_bytes;
	stalled(f, "0.00");
	fixture_reopen(f);
}

static void put_sized(terrace_cache *cache, const char *prefix, int i)
{
	static const char value[1000];
	char key[32];
	int size = snprintf(key, sizeof key, "%s%d", prefix, i);

	assert_ok(terrace_put(cache, (terrace_slice){ key, (size_t)size },
	                      (terrace_slice){ value, sizeof value }, NULL));
}

static bool in_memory(terrace_cache *cache, const char *prefix, int i)
{
	char key[32];
	int size = snprintf(key, sizeof key, "%s%d", prefix, i);
	terrace_value *value;
	bool found;

	if (terrace_get(cache, (terrace_slice){ key, (size_t)size }, &value) != TERRACE_OK)
		return false;
	found = terrace_value_tier(value) == TERRACE_L1;
	terrace_release(value);
	return found;
}

static terrace_memory memory_of(const struct fixture *f)
{
	terrace_memory memory = TERRACE_MEMORY_INIT;

	assert_ok(terrace_memory_usage(f->store, &memory));
	return memory;
}

static void test_pressure__l1_gives_what_is_worth_least_and_grows_again(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	uint64_t before;
	int64_t now = 0;
	int hot = 0;

	open_watched(f, 8 * MB);
	policy.tiers = TERRACE_L1;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < 1000; i++)
		put_sized(cache, "k", i);
	for (int round = 0; round < 5; round++)
		for (int i = 0; i < 100; i++)
			assert_true(in_memory(cache, "k", 10 * i));
	before = memory_of(f).bytes;
	terrace__keeper_tick(f->store, now);
	assert_int_equal(memory_of(f).bytes, before); /* nothing is short */
	stalled(f, "40.00");
	for (int i = 0; i < 3; i++)
		terrace__keeper_tick(f->store, now += 1000);
	assert_true(memory_of(f).tight);
	assert_in_range(memory_of(f).bytes, 1, before / 2);
	assert_true(memory_of(f).bytes <= memory_of(f).limit_bytes);
	for (int i = 0; i < 100; i++)
		hot += in_memory(cache, "k", 10 * i);
	assert_in_range(hot, 90, 100);
	/* A sixteenth is left to it, however long that lasts. */
	for (int i = 0; i < 30; i++)
		terrace__keeper_tick(f->store, now += 1000);
	assert_int_equal(memory_of(f).limit_bytes, 8 * MB / 16);
	stalled(f, "0.00");
	for (int i = 0; i < 9; i++)
		terrace__keeper_tick(f->store, now += 1000);
	assert_int_equal(memory_of(f).limit_bytes, 8 * MB / 16);
	for (int i = 0; i < 80; i++)
		terrace__keeper_tick(f->store, now += 1000);
	assert_int_equal(memory_of(f).limit_bytes, 8 * MB);
	assert_false(memory_of(f).tight);
	terrace_cache_close(cache);
}

static void test_pressure__a_store_without_a_limit_has_one_while_memory_is_short(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	uint64_t before;

	setenv("TERRACE_MEMORY_BYTES", "0", 1);
	open_watched(f, 0);
	unsetenv("TERRACE_MEMORY_BYTES");
	policy.tiers = TERRACE_L1;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < 4000; i++)
		put_sized(cache, "k", i);
	before = memory_of(f).bytes;
	assert_int_equal(memory_of(f).limit_bytes, 0);
	stalled(f, "40.00");
	terrace__keeper_tick(f->store, 1000);
	assert_in_range(memory_of(f).bytes, 1, before / 4 * 3);
	stalled(f, "0.00");
	for (int i = 2; i < 200; i++)
		terrace__keeper_tick(f->store, 1000 * i);
	assert_int_equal(memory_of(f).limit_bytes, 0);
	terrace_cache_close(cache);
}

static int decode_as_it_is(void *ctx, terrace_slice bytes, void **ret_object, size_t *ret_weight)
{
	(void)ctx;
	*ret_object = memcpy(malloc(bytes.size), bytes.data, bytes.size);
	*ret_weight = bytes.size;
	return 0;
}

static void destroy_it(void *ctx, void *object)
{
	(void)ctx;
	free(object);
}

/* Of two limits one is back where it was long before the other, which goes on as before. */
static void test_pressure__each_limit_rises_by_itself(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_form form = TERRACE_FORM_INIT;
	terrace_cache *cache;
	int64_t now = 0;

	open_watched(f, 64 * MB);
	form.decode = decode_as_it_is;
	form.destroy = destroy_it;
	policy.form = &form;
	policy.tiers = TERRACE_L1;
	policy.encoded_bytes = 16 * MB;
	cache = fixture_cache(f, "forms", &policy);
	for (int i = 0; i < 3000; i++)
		put_sized(cache, "k", i);
	stalled(f, "40.00");
	terrace__keeper_tick(f->store, now += 1000);
	assert_int_equal(memory_of(f).limit_bytes, 64 * MB / 16);
	assert_int_not_equal(memory_of(f).encoded_limit_bytes, 0);
	/* After three of its steps the bytes beside the objects have no limit again. */
	stalled(f, "0.00");
	for (int i = 0; i < 31; i++)
		terrace__keeper_tick(f->store, now += 1000);
	assert_int_equal(memory_of(f).encoded_limit_bytes, 0);
	assert_int_equal(memory_of(f).limit_bytes, 64 * MB / 16 * 7);
	for (int i = 0; i < 9; i++)
		terrace__keeper_tick(f->store, now += 1000);
	assert_int_equal(memory_of(f).limit_bytes, 64 * MB / 16 * 7);
	for (int i = 0; i < 2; i++) {
		terrace__keeper_tick(f->store, now += 1000);
		assert_int_equal(memory_of(f).limit_bytes, 64 * MB / 16 * 9);
	}
	stalled(f, "5.00"); /* neither tight nor calm */
	terrace__keeper_tick(f->store, now += 1000);
	stalled(f, "0.00");
	for (int i = 0; i < 40; i++)
		terrace__keeper_tick(f->store, now += 1000);
	assert_int_equal(memory_of(f).limit_bytes, 64 * MB / 16 * 15);
	terrace_cache_close(cache);
}

static void test_pressure__it_can_be_switched_off(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	uint64_t before;

	setenv("TERRACE_PRESSURE", "no", 1);
	open_watched(f, 8 * MB);
	unsetenv("TERRACE_PRESSURE");
	policy.tiers = TERRACE_L1;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < 100; i++)
		put_sized(cache, "k", i);
	before = memory_of(f).bytes;
	stalled(f, "40.00");
	terrace__keeper_tick(f->store, 1000);
	assert_int_equal(memory_of(f).bytes, before);
	terrace_cache_close(cache);
}

/* --- by hand --------------------------------------------------------------------------------------- */

static void test_memory__resized(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	uint64_t count;

	for (int i = 0; i < 500; i++)
		put_sized(cache, "k", i);
	assert_ok(terrace_resize(f->store, 200 * KB));
	assert_in_range(memory_of(f).bytes, 100 * KB, 200 * KB);
	put_sized(cache, "more", 1);
	assert_in_range(memory_of(f).bytes, 100 * KB, 200 * KB);
	assert_ok(terrace_cache_resize(cache, 50 * KB));
	assert_in_range(memory_of(f).bytes, 1, 50 * KB);
	assert_ok(terrace_cache_resize(cache, 0));
	assert_ok(terrace_resize(f->store, 10 * MB));
	for (int i = 0; i < 500; i++)
		put_sized(cache, "k", i);
	assert_in_range(memory_of(f).bytes, 500 * KB, 10 * MB);
	assert_status(terrace_resize(f->store, 0), TERRACE_EINVAL);
	count = memory_of(f).entries;
	assert_ok(terrace_evict(cache, 7, &count));
	assert_int_equal(count, 7);
	assert_ok(terrace_evict(cache, UINT64_MAX, &count));
	assert_int_equal(memory_of(f).entries, 0);
	assert_int_not_equal(misses(cache, "k1"), TERRACE_MISS); /* it is below */
	terrace_cache_close(cache);
}

/* --- quotas ------------------------------------------------------------------------------------------ */

static void test_memory__a_cache_keeps_what_it_is_promised(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *kept, *flood;
	int left = 0;

	assert_ok(terrace_resize(f->store, MB));
	policy.tiers = TERRACE_L1;
	flood = fixture_cache(f, "flood", &policy);
	policy.memory_min_bytes = 700 * KB;
	kept = fixture_cache(f, "kept", &policy);
	/* Nobody wants it: the other borrows it. */
	for (int i = 0; i < 2000; i++)
		put_sized(flood, "f", i);
	assert_in_range(memory_of(f).bytes, 900 * KB, MB);
	/* It comes back before anything of the promised goes. */
	for (int i = 0; i < 500; i++)
		put_sized(kept, "k", i);
	for (int i = 0; i < 2000; i++)
		put_sized(flood, "g", i);
	for (int i = 0; i < 500; i++)
		left += in_memory(kept, "k", i);
	assert_int_equal(left, 500);
	assert_in_range(memory_of(f).bytes, 900 * KB, MB);
	assert_status(terrace_resize(f->store, 600 * KB), TERRACE_EINVAL);
	assert_status(terrace_cache_resize(kept, 600 * KB), TERRACE_EINVAL);
	terrace_cache_close(kept);
	terrace_cache_close(flood);
}

/* Up to so many bytes, with as many values of 1000. */
static void fill_to(terrace_cache *cache, const char *prefix, uint64_t bytes)
{
	for (int i = 0; terrace__tiers_memory_bytes(cache->memory) < bytes; i++)
		put_sized(cache, prefix, i);
}

/* The limit has just become lower: what all are over is not for it alone to give. */
static void test_memory__who_gave_last_keeps_what_it_is_promised(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *giver, *others;

	assert_ok(terrace_resize(f->store, MB));
	policy.tiers = TERRACE_L1;
	policy.memory_min_bytes = 585 * KB;
	others = fixture_cache(f, "others", &policy);
	policy.memory_min_bytes = 400 * KB;
	giver = fixture_cache(f, "giver", &policy);
	fill_to(others, "k", 600 * KB);
	for (int i = 0; i < 500; i++)
		put_sized(giver, "k", i);
	assert_ptr_equal(atomic_load(&f->store->giver), giver);
	assert_in_range(terrace__tiers_memory_bytes(giver->memory), 402 * KB, 430 * KB);
	atomic_store(&f->store->memory.now, 985 * KB); /* as the keeper, before it takes back */
	put_sized(giver, "last", 0);
	assert_in_range(terrace__tiers_memory_bytes(giver->memory), 398 * KB, MB);
	assert_in_range(memory_of(f).bytes, 975 * KB, 985 * KB);
	terrace_cache_close(giver);
	terrace_cache_close(others);
}

/* Three that have borrowed little each, and one that claims more than any of them. */
static void test_memory__several_give_where_one_has_not_borrowed_enough(void **state)
{
	static const uint64_t promised[] = { 400 * KB, 200 * KB, 100 * KB, 300 * KB };
	static const char *const names[] = { "a", "b", "c", "poor" };
	static const char large[100 << 10];
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *caches[4];

	assert_ok(terrace_resize(f->store, MB));
	policy.tiers = TERRACE_L1;
	for (int i = 0; i < 4; i++) {
		policy.memory_min_bytes = promised[i];
		caches[i] = fixture_cache(f, names[i], &policy);
		fill_to(caches[i], "k", i < 3 ? promised[i] + 38 * KB : 198 * KB);
	}
	assert_in_range(memory_of(f).bytes, 1010 * KB, MB);
	assert_ok(terrace_put(caches[3], TERRACE_KEY("large"),
	                      (terrace_slice){ large, sizeof large }, NULL));
	assert_in_range(memory_of(f).bytes, 900 * KB, MB);
	for (int i = 0; i < 4; i++)
		terrace_cache_close(caches[i]);
}

static void test_memory__touching_stays_within_the_limit(void **state)
{
	enum { MANY = 3000 };
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	char key[16];

	policy.tiers = TERRACE_L1;
	policy.memory_bytes = 400 * KB;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < MANY; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(put_text(cache, key, "v"));
	}
	for (int i = 0; i < MANY; i++) {
		snprintf(key, sizeof key, "%d", i);
		terrace_touch(cache, terrace_str(key), 1000000);
	}
	assert_in_range(terrace__tiers_memory_bytes(cache->memory), 300 * KB, 400 * KB);
	terrace_cache_close(cache);
}

static void *open_and_close(void *ctx)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	int rc = TERRACE_OK;

	policy.tiers = TERRACE_L1;
	policy.memory_min_bytes = 700 * KB;
	for (int i = 0; i < 40000 && rc == TERRACE_OK; i++) {
		rc = terrace_cache_open(ctx, "a", &policy, &cache);
		if (rc == TERRACE_OK)
			terrace_cache_close(cache);
	}
	return (void *)(intptr_t)rc;
}

/* Two threads that open the same cache want one promise, not two. */
static void test_memory__a_promise_counts_once(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[2];
	void *rc;

	assert_ok(terrace_resize(f->store, MB));
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, open_and_close, f->store);
	for (int i = 0; i < 2; i++) {
		pthread_join(threads[i], &rc);
		assert_ok((int)(intptr_t)rc);
	}
}

static void test_memory__more_than_there_is_cannot_be_promised(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *a, *b;

	assert_ok(terrace_resize(f->store, MB));
	policy.memory_min_bytes = 600 * KB;
	a = fixture_cache(f, "a", &policy);
	assert_status(terrace_cache_open(f->store, "b", &policy, &b), TERRACE_ECONFIG);
	assert_non_null(strstr(terrace_error_message(), "other caches are promised 614400"));
	policy.memory_min_bytes = UINT64_MAX - 500 * KB; /* the sum of both is little */
	assert_status(terrace_cache_open(f->store, "b", &policy, &b), TERRACE_ECONFIG);
	policy.memory_min_bytes = 600 * KB;
	terrace_cache_close(a);
	b = fixture_cache(f, "b", &policy);
	terrace_cache_close(b);
	/* nor more than the cache itself may have */
	policy.memory_bytes = 500 * KB;
	assert_status(terrace_cache_open(f->store, "c", &policy, &b), TERRACE_ECONFIG);
	assert_non_null(strstr(terrace_error_message(), "memory_bytes of the cache is 512000"));
	policy.memory_bytes = 700 * KB;
	b = fixture_cache(f, "c", &policy);
	terrace_cache_close(b);
}

/* --- statistics ---------------------------------------------------------------------------------------- */

/* However long it took to write statistics down, they are due again then. */
#define LATER (INT64_MAX / 2)

static void test_keeper__others_see_what_a_process_does_while_it_works(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_stats stats = TERRACE_STATS_INIT;

	put_text(cache, "k", "v");
	for (int i = 0; i < 10; i++)
		assert_gives(cache, "k", "v");
	terrace__keeper_tick(f->store, 0);
	assert_int_equal(
	    terrace__stats_file_read(f->store->dir_fd, f->store->lock_fd, cache->number, &stats),
	    0);
	assert_int_equal(stats.hits_l1, 10);
	assert_gives(cache, "k", "v");
	terrace__keeper_tick(f->store, 4999); /* not yet */
	terrace__keeper_tick(f->store, LATER);
	stats = terrace_stats_init();
	terrace__stats_file_read(f->store->dir_fd, f->store->lock_fd, cache->number, &stats);
	assert_int_equal(stats.hits_l1, 11);
	terrace_cache_close(cache);
}

static bool has_keeper(struct fixture *f)
{
	struct keeper *keeper = &f->store->keeper;
	bool has;

	pthread_mutex_lock(&keeper->lock);
	has = keeper->running;
	pthread_mutex_unlock(&keeper->lock);
	return has;
}

static void test_keeper__begins_where_a_process_only_puts(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	put_text(cache, "k", "v");
	assert_false(has_keeper(f));
	atomic_store(&f->store->keeper.due_ns, 0); /* it has been in use for a while */
	put_text(cache, "k", "v");
	assert_true(has_keeper(f));
	terrace_cache_close(cache);
}

struct seen {
	size_t count;
	terrace_process last;
};

static int see(void *ctx, const terrace_process *process)
{
	struct seen *seen = ctx;

	seen->count++;
	seen->last = *process;
	return 0;
}

static struct seen processes_of(struct fixture *f)
{
	struct seen seen = { 0 };

	assert_ok(terrace_processes_each(f->store, see, &seen));
	return seen;
}

static void test_keeper__processes_are_seen_until_they_go_or_are_silent(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct seen seen;
	pid_t child;
	int status;

	assert_int_equal(processes_of(f).count, 0);
	child = fork();
	if (child == 0) {
		/* One that is killed. */
		if (terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store) !=
		    TERRACE_OK)
			_exit(1);
		terrace__keeper_tick(f->store, 0);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	put_sized(cache, "k", 1);
	terrace__keeper_tick(f->store, 0);
	seen = processes_of(f);
	assert_int_equal(seen.count, 2);
	assert_int_equal(seen.last.pid, getpid());
	assert_int_equal(seen.last.memory_entries, 1);
	assert_in_range(seen.last.memory_bytes, 1000, 2000);
	atomic_fetch_add(&f->clock.now, 15000);
	terrace__keeper_tick(f->store, LATER); /* in the same place */
	assert_int_equal(processes_of(f).count, 2);
	atomic_fetch_add(&f->clock.now, 6000);
	assert_int_equal(processes_of(f).count, 1);
	terrace_cache_close(cache);
	fixture_reopen(f);
	assert_int_equal(processes_of(f).count, 0);
}

struct closer {
	struct fixture *f;
	_Atomic bool stop;
};

static void *tick_on(void *ctx)
{
	struct closer *closer = ctx;

	for (int64_t now = 0; !atomic_load(&closer->stop); now += 100000)
		terrace__keeper_tick(closer->f->store, now);
	return NULL;
}

static void test_keeper__caches_close_while_it_works(void **state)
{
	struct closer closer = { .f = *state };
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_cache *cache;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, tick_on, &closer), 0);
	for (int i = 0; i < 300; i++) {
		cache = fixture_cache(*state, i % 2 ? "a" : "b", NULL);
		assert_misses(cache, "k");
		terrace_cache_close(cache);
	}
	atomic_store(&closer.stop, true);
	pthread_join(thread, NULL);
	cache = fixture_cache(*state, "a", NULL);
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_int_equal(stats.misses, 150);
	terrace_cache_close(cache);
}

/* --- without paths: the machine's and the process's own ------------------------------------------- */

/* The directory of this process's group, as the kernel names it; false where there is none. */
static bool own_directory(char ret[700])
{
	FILE *file = fopen("/proc/self/cgroup", "r");
	char line[600];
	bool found = false;

	while (file && !found && fgets(line, sizeof line, file)) {
		char *memory = strstr(line, ":memory:");

		line[strcspn(line, "\n")] = '\0';
		found = memory || strncmp(line, "0::", 3) == 0;
		if (memory)
			snprintf(ret, 700, "/sys/fs/cgroup/memory%s", memory + 8);
		else if (found)
			snprintf(ret, 700, "/sys/fs/cgroup%s", line + 3);
	}
	if (file)
		fclose(file);
	return found;
}

static void test_pressure__of_the_process_itself(void **state)
{
	struct pressure own = { 0 }, named = { .stall_path = "" };
	char directory[700];

	(void)state;
	terrace__pressure_read(&own);
	assert_true(own.stalled >= 0 && own.stalled <= 100);
	if (!own_directory(directory)) {
		assert_true(own.used == 0);
		return;
	}
	/* What is around the group may be tighter; nothing is looser than the group. */
	named.group_path = directory;
	terrace__pressure_read(&named);
	assert_true(own.used >= named.used * 0.9);
	assert_true(own.used <= 101);
}

static void test_pressure__what_makes_no_sense_is_none(void **state)
{
	static const char *const stalls[] = { "full avg10=99.00\n", "some avg60=99.00\n", "\n" };
	struct fixture *f = *state;
	struct pressure pressure = { 0 };

	for (size_t i = 0; i < sizeof stalls / sizeof *stalls; i++) {
		write_file(scratch_path(&f->scratch, "stall"), stalls[i]);
		assert_int_equal(level_of(f, &pressure), PRESSURE_CALM);
		assert_true(pressure.stalled == 0);
	}
	group_file(f, "memory.current", "1000\n");
	group_file(f, "memory.max", "0\n");
	assert_int_equal(level_of(f, &pressure), PRESSURE_CALM);
	group_file(f, "memory.max", "max\n");
	group_file(f, "memory.high", "1000\n");
	group_file(f, "memory.stat", "inactive_files 900\nanon 1\n"); /* another word */
	assert_int_equal(level_of(f, &pressure), PRESSURE_TIGHT);
}

int main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		test(pressure__stalls_are_read),
		test(pressure__a_group_is_measured_without_its_files),
		test(pressure__a_group_of_version_1),
		test(pressure__a_limit_falls_at_once_and_rises_slowly),
		test(pressure__l1_gives_what_is_worth_least_and_grows_again),
		test(pressure__a_store_without_a_limit_has_one_while_memory_is_short),
		test(pressure__each_limit_rises_by_itself),
		test(pressure__it_can_be_switched_off),
		test(memory__resized),
		test(memory__a_cache_keeps_what_it_is_promised),
		test(memory__who_gave_last_keeps_what_it_is_promised),
		test(memory__several_give_where_one_has_not_borrowed_enough),
		test(memory__touching_stays_within_the_limit),
		test(memory__a_promise_counts_once),
		test(memory__more_than_there_is_cannot_be_promised),
		test(keeper__others_see_what_a_process_does_while_it_works),
		test(keeper__begins_where_a_process_only_puts),
		test(keeper__processes_are_seen_until_they_go_or_are_silent),
		test(keeper__caches_close_while_it_works),
		test(pressure__of_the_process_itself),
		test(pressure__what_makes_no_sense_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
