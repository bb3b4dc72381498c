/* What threads begin at the same time, or begin while another one ends. */
#include "support/support.h"

#include "core/store.h"

#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

struct opening {
	struct fixture *f;
	pthread_barrier_t *start;
	const char *name;
	terrace_cache *cache;
	struct watch *watch;
};

static void *open_watching(void *ctx)
{
	struct opening *opening = ctx;
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.check = TERRACE_CHECK_WATCH;
	pthread_barrier_wait(opening->start);
	opening->cache = fixture_cache(opening->f, opening->name, &policy);
	opening->watch = opening->f->store->watch;
	return NULL;
}

/* An entry that one watch knows counts as unchanged where another looks. */
static void test_open__caches_that_are_opened_together_share_a_watch(void **state)
{
	(void)state;
	for (int round = 0; round < 20; round++) {
		struct opening openings[] = { { .name = "a" }, { .name = "b" } };
		pthread_barrier_t start;
		pthread_t threads[2];
		struct fixture f;

		memset(&f, 0, sizeof f);
		fixture_open(&f);
		pthread_barrier_init(&start, NULL, 2);
		for (int i = 0; i < 2; i++) {
			openings[i].f = &f;
			openings[i].start = &start;
			assert_int_equal(
			    pthread_create(&threads[i], NULL, open_watching, &openings[i]), 0);
		}
		for (int i = 0; i < 2; i++)
			pthread_join(threads[i], NULL);
		assert_non_null(f.store->watch);
		for (int i = 0; i < 2; i++) {
			assert_ptr_equal(openings[i].watch, f.store->watch);
			terrace_cache_close(openings[i].cache);
		}
		pthread_barrier_destroy(&start);
		fixture_close(&f);
	}
}

/* --- a program's functions that still run when their store is closed --------------------------------- */

struct elsewhere {
	struct scratch scratch;
	sem_t begun, go_on;
};

/* A store of its own, for a moment: to be opened and closed while another one is being closed. */
static void use_another_store(struct elsewhere *elsewhere)
{
	terrace *store;

	sem_post(&elsewhere->begun);
	sem_wait(&elsewhere->go_on);
	assert_ok(terrace_open(scratch_path(&elsewhere->scratch, "other"), NULL, &store));
	terrace_close(store);
}

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)key;
	use_another_store(ctx);
	return terrace_loaded_copy(loaded, terrace_str("late"));
}

static void listen(void *ctx, const terrace_event *event)
{
	(void)event;
	use_another_store(ctx);
}

static void *close_store(void *store)
{
	terrace_close(store);
	return NULL;
}

/* Close it on another thread, and let go on what runs when that waits for it. */
static void close_meanwhile(struct fixture *f, struct elsewhere *elsewhere)
{
	pthread_t closing;

	assert_int_equal(pthread_create(&closing, NULL, close_store, f->store), 0);
	/* A moment for it to come as far; where it does not, nothing is lost. */
	usleep(20000);
	sem_post(&elsewhere->go_on);
	pthread_join(closing, NULL);
	f->store = NULL;
	scratch_remove(&elsewhere->scratch);
}

static void begin(struct fixture *f, struct elsewhere *elsewhere)
{
	memset(f, 0, sizeof *f);
	fixture_open(f);
	sem_init(&elsewhere->begun, 0, 0);
	sem_init(&elsewhere->go_on, 0, 0);
	scratch_make(&elsewhere->scratch);
}

static void test_close__waits_for_a_loader_that_opens_a_store(void **state)
{
	terrace_fetch_options options = TERRACE_FETCH_INIT;
	struct elsewhere elsewhere;
	terrace_value *value;
	terrace_cache *cache;
	struct fixture f;

	(void)state;
	begin(&f, &elsewhere);
	cache = fixture_cache(&f, "a", NULL);
	options.hard_ms = 1;
	assert_status(
	    terrace_fetch_with(cache, TERRACE_KEY("k"), load, &elsewhere, &options, &value),
	    TERRACE_EBUSY);
	sem_wait(&elsewhere.begun);
	terrace_cache_close(cache);
	close_meanwhile(&f, &elsewhere);
	fixture_close(&f);
}

static void test_close__waits_for_a_subscriber_that_opens_a_store(void **state)
{
	terrace_subscribe_options options = TERRACE_SUBSCRIBE_INIT;
	terrace_subscription *subscription;
	struct elsewhere elsewhere;
	terrace_cache *cache;
	struct fixture f;

	(void)state;
	begin(&f, &elsewhere);
	cache = fixture_cache(&f, "a", NULL);
	options.kinds = TERRACE_EVENT_MISS;
	assert_ok(terrace_subscribe(cache, &options, listen, &elsewhere, &subscription));
	assert_misses(cache, "k");
	sem_wait(&elsewhere.begun);
	terrace_cache_close(cache);
	close_meanwhile(&f, &elsewhere);
	terrace_unsubscribe(subscription);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open__caches_that_are_opened_together_share_a_watch),
		cmocka_unit_test(test_close__waits_for_a_loader_that_opens_a_store),
		cmocka_unit_test(test_close__waits_for_a_subscriber_that_opens_a_store),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
