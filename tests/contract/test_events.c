/* Events: what happens is told, in order, and nobody waits for who listens. */
#include "support/support.h"

#include "core/store.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>

/* What came, a line each: "put k", "hit k l1". */
struct listener {
	pthread_mutex_t lock;
	pthread_cond_t came;
	char text[4096];
	size_t size;
	unsigned events;
	uint64_t lost;
	bool held; /* it takes its time */
	terrace_stats last;
	unsigned statistics;
	terrace_subscription *own; /* to be ended by itself */
	struct terrace_cache *cache;
};

#define LISTENER                                                                    \
	{                                                                           \
		.lock = PTHREAD_MUTEX_INITIALIZER, .came = PTHREAD_COND_INITIALIZER \
	}

static void listen(void *ctx, const terrace_event *event)
{
	struct listener *listener = ctx;
	char line[256];
	int size = snprintf(line, sizeof line, "%s%s%.*s%s%s", terrace_event_name(event->kind),
	                    event->key.size ? " " : "", (int)event->key.size,
	                    (const char *)event->key.data, event->tier ? " " : "",
	                    event->tier ? terrace_tier_name(event->tier) : "");

	if (!event->key.size && event->count)
		size += snprintf(line + size, sizeof line - (size_t)size, " %u",
		                 (unsigned)event->count);
	pthread_mutex_lock(&listener->lock);
	while (listener->held)
		pthread_cond_wait(&listener->came, &listener->lock);
	if (listener->size + (size_t)size + 2 < sizeof listener->text)
		listener->size += (size_t)sprintf(listener->text + listener->size, "%s\n", line);
	listener->events++;
	listener->lost += event->lost;
	if (event->kind == TERRACE_EVENT_STATISTICS) {
		listener->statistics++;
		listener->last = *event->statistics;
	}
	pthread_cond_broadcast(&listener->came);
	pthread_mutex_unlock(&listener->lock);
}

static terrace_subscription *subscribe(terrace_cache *cache, unsigned kinds, size_t queue,
                                       terrace_event_fn *fn, struct listener *listener)
{
	terrace_subscribe_options options = TERRACE_SUBSCRIBE_INIT;
	terrace_subscription *subscription;

	options.kinds = kinds;
	options.queue = queue;
	assert_ok(terrace_subscribe(cache, &options, fn, listener, &subscription));
	return subscription;
}

static void hold(struct listener *listener, bool held)
{
	pthread_mutex_lock(&listener->lock);
	listener->held = held;
	pthread_cond_broadcast(&listener->came);
	pthread_mutex_unlock(&listener->lock);
}

static const unsigned no_statistics = TERRACE_EVENT_ALL & ~TERRACE_EVENT_STATISTICS;

static void test_event__each_kind_is_told(void **state)
{
	struct fixture *f = *state;
	struct listener listener = LISTENER;
	terrace_cache *cache = fixture_cache(f, "a", NULL), *other = fixture_cache(f, "b", NULL);
	terrace_put_options short_lived = TERRACE_PUT_INIT;
	terrace_item items[] = { { TERRACE_KEY("x"), terrace_str("1") },
		                 { TERRACE_KEY("y"), terrace_str("2") } };
	terrace_subscription *subscription = subscribe(cache, no_statistics, 0, listen, &listener);
	terrace_value *values[2];
	terrace_slice keys[] = { TERRACE_KEY("x"), TERRACE_KEY("none") };
	uint64_t count;

	assert_misses(cache, "k");
	assert_ok(put_text(cache, "k", "v"));
	assert_gives(cache, "k", "v");
	assert_ok(terrace_evict(cache, 1, NULL));
	assert_gives(cache, "k", "v");
	assert_ok(terrace_incr(cache, TERRACE_KEY("n"), 1, 0, NULL));
	assert_ok(terrace_put_many(cache, items, 2, NULL));
	assert_ok(terrace_get_many(cache, keys, 2, values, NULL));
	terrace_release(values[0]);
	short_lived.ttl_ms = 5;
	assert_ok(terrace_put(cache, TERRACE_KEY("s"), terrace_str("v"), &short_lived));
	atomic_fetch_add(&f->clock.now, 5);
	assert_misses(cache, "s");
	assert_ok(terrace_cleanup(f->store, cache, &count));
	assert_ok(put_text(other, "elsewhere", "v"));
	terrace_unsubscribe(subscription);
	/* not any more */
	assert_ok(put_text(cache, "late", "v"));
	assert_string_equal(
	    listener.text,
	    "miss k\nput k\nhit k l1\nevict k l1\nhit k l2\nput n\nput x\nput y\nbatch 2\n"
	    "hit x l1\nmiss none\nput s\nexpire s l2\n"
	    "miss s\nexpire 1\n");
	assert_int_equal(listener.lost, 0);
	terrace_cache_close(other);
	terrace_cache_close(cache);
}

static void test_event__only_the_kinds_that_were_asked_for(void **state)
{
	struct fixture *f = *state;
	struct listener puts = LISTENER, misses_ = LISTENER;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_subscription *one = subscribe(cache, TERRACE_EVENT_PUT, 0, listen, &puts),
			     *two = subscribe(cache, TERRACE_EVENT_MISS, 0, listen, &misses_);

	assert_misses(cache, "k");
	assert_ok(put_text(cache, "k", "v"));
	assert_gives(cache, "k", "v");
	terrace_unsubscribe(one);
	assert_ok(put_text(cache, "k", "v"));
	assert_misses(cache, "l");
	terrace_unsubscribe(two);
	assert_string_equal(puts.text, "put k\n");
	assert_string_equal(misses_.text, "miss k\nmiss l\n");
	terrace_cache_close(cache);
}

static void test_event__each_cache_has_its_own(void **state)
{
	struct fixture *f = *state;
	struct listener here = LISTENER, there = LISTENER;
	terrace_cache *a = fixture_cache(f, "a", NULL), *b = fixture_cache(f, "b", NULL);
	terrace_subscription *one = subscribe(a, TERRACE_EVENT_PUT, 0, listen, &here),
			     *two = subscribe(b, no_statistics, 0, listen, &there);

	assert_ok(put_text(a, "k", "v"));
	assert_ok(put_text(b, "l", "v"));
	terrace_unsubscribe(two);
	assert_ok(put_text(a, "m", "v"));
	assert_ok(put_text(b, "n", "v"));
	terrace_unsubscribe(one);
	assert_string_equal(here.text, "put k\nput m\n");
	assert_string_equal(there.text, "put l\n");
	terrace_cache_close(a);
	terrace_cache_close(b);
}

static void test_event__damage_is_an_error_with_its_reason(void **state)
{
	struct fixture *f = *state;
	struct listener listener = LISTENER;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_subscription *subscription;
	terrace_cache *cache;
	char command[400];

	policy.tiers = TERRACE_L3;
	policy.codec = TERRACE_CODEC_NONE;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "k", "some value"));
	snprintf(command, sizeof command, "find %s/store/v2/files -type f -exec truncate -s 0 {} +",
	         f->scratch.path);
	assert_int_equal(system(command), 0);
	subscription = subscribe(cache, TERRACE_EVENT_ERROR, 0, listen, &listener);
	assert_misses(cache, "k");
	terrace_unsubscribe(subscription);
	assert_string_equal(listener.text, "error k\n");
	terrace_cache_close(cache);
}

static void test_event__who_is_slow_loses_the_oldest_and_is_told(void **state)
{
	enum { EVENTS = 1000, QUEUE = 10 };
	struct fixture *f = *state;
	struct listener listener = LISTENER;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_subscription *subscription;
	char key[16];

	hold(&listener, true);
	subscription = subscribe(cache, TERRACE_EVENT_MISS, QUEUE, listen, &listener);
	/* none of these waits for it */
	for (int i = 0; i < EVENTS; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_misses(cache, key);
	}
	hold(&listener, false);
	terrace_unsubscribe(subscription);
	/* one may have been on its way, and the last ones waited */
	assert_in_range(listener.events, QUEUE, QUEUE + 1);
	assert_int_equal(listener.events + listener.lost, EVENTS);
	assert_non_null(strstr(listener.text, "miss 990\n"));
	assert_non_null(strstr(listener.text, "miss 999\n"));
	assert_null(strstr(listener.text, "miss 989\n"));
	terrace_cache_close(cache);
}

static void test_event__statistics_come_by_themselves(void **state)
{
	struct fixture *f = *state;
	struct listener listener = LISTENER;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_subscribe_options options = TERRACE_SUBSCRIBE_INIT;
	terrace_subscription *subscription;

	options.kinds = TERRACE_EVENT_STATISTICS;
	options.statistics_ms = 1;
	assert_ok(put_text(cache, "k", "v"));
	assert_gives(cache, "k", "v");
	assert_ok(terrace_subscribe(cache, &options, listen, &listener, &subscription));
	pthread_mutex_lock(&listener.lock);
	while (listener.statistics < 3)
		pthread_cond_wait(&listener.came, &listener.lock);
	assert_int_equal(listener.last.puts, 1);
	assert_int_equal(listener.last.hits_l1, 1);
	pthread_mutex_unlock(&listener.lock);
	terrace_unsubscribe(subscription);
	terrace_cache_close(cache);
}

/* Uses the cache, holds nothing up, and ends itself. */
static void meddle(void *ctx, const terrace_event *event)
{
	struct listener *listener = ctx;
	terrace_subscription *own = NULL;
	char key[16];

	snprintf(key, sizeof key, "%u", listener->events);
	assert_ok(put_text(listener->cache, key, "v"));
	pthread_mutex_lock(&listener->lock);
	if (++listener->events == 3)
		own = listener->own;
	pthread_cond_broadcast(&listener->came);
	pthread_mutex_unlock(&listener->lock);
	(void)event;
	terrace_unsubscribe(own);
}

static void test_event__a_subscriber_may_use_the_cache_and_end_itself(void **state)
{
	struct fixture *f = *state;
	struct listener listener = LISTENER;
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	listener.cache = cache;
	pthread_mutex_lock(&listener.lock); /* until `own` is known */
	listener.own = subscribe(cache, TERRACE_EVENT_PUT, 0, meddle, &listener);
	pthread_mutex_unlock(&listener.lock);
	assert_ok(put_text(cache, "first", "v"));
	pthread_mutex_lock(&listener.lock);
	while (listener.events < 3)
		pthread_cond_wait(&listener.came, &listener.lock);
	pthread_mutex_unlock(&listener.lock);
	assert_gives(cache, "0", "v");
	assert_gives(cache, "2", "v");
	terrace_cache_close(cache);
}

/* Ends itself when its cache has no subscribers any more: the store is being closed. */
static void end_too_late(void *ctx, const terrace_event *event)
{
	struct listener *listener = ctx;

	pthread_mutex_lock(&listener->lock);
	pthread_mutex_unlock(&listener->lock);
	while (listener->cache->events)
		sched_yield();
	listener->events++;
	(void)event;
	terrace_unsubscribe(listener->own);
}

static void test_event__a_subscriber_may_end_itself_while_the_store_is_closed(void **state)
{
	struct fixture *f = *state;
	struct listener listener = LISTENER;

	listener.cache = fixture_cache(f, "a", NULL);
	pthread_mutex_lock(&listener.lock); /* until `own` is known */
	listener.own = subscribe(listener.cache, TERRACE_EVENT_PUT, 0, end_too_late, &listener);
	pthread_mutex_unlock(&listener.lock);
	assert_ok(put_text(listener.cache, "k", "v"));
	assert_ok(put_text(listener.cache, "l", "v"));
	terrace_close(f->store);
	assert_int_equal(listener.events, 1);
	f->store = NULL;
}

static void end_at_once(void *ctx, const terrace_event *event)
{
	struct listener *listener = ctx;

	pthread_mutex_lock(&listener->lock);
	pthread_mutex_unlock(&listener->lock);
	(void)event;
	terrace_unsubscribe(listener->own);
}

static void test_event__a_store_that_is_closed_waits_for_who_has_just_ended_itself(void **state)
{
	enum { ROUNDS = 50 };
	struct fixture *f = *state;

	for (int i = 0; i < ROUNDS; i++) {
		struct listener listener = LISTENER;
		terrace_cache *cache = fixture_cache(f, "a", NULL);

		pthread_mutex_lock(&listener.lock); /* until `own` is known */
		listener.own = subscribe(cache, TERRACE_EVENT_PUT, 0, end_at_once, &listener);
		pthread_mutex_unlock(&listener.lock);
		assert_ok(put_text(cache, "k", "v"));
		while (cache->events)
			sched_yield();
		terrace_close(f->store); /* the thread may have the cache open still */
		f->store = NULL;
		assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	}
}

static void test_event__keeps_its_cache_open_and_may_outlive_the_store(void **state)
{
	struct fixture *f = *state;
	struct listener listener = LISTENER;
	terrace_cache *cache = fixture_cache(f, "a", NULL), *again;
	terrace_subscription *subscription = subscribe(cache, TERRACE_EVENT_PUT, 0, listen,
	                                               &listener);

	terrace_cache_close(cache);
	again = fixture_cache(f, "a", NULL);
	assert_ptr_equal(again, cache);
	assert_ok(put_text(again, "k", "v"));
	terrace_close(f->store);
	assert_string_equal(listener.text, "put k\n"); /* before the store was closed */
	terrace_unsubscribe(subscription);
	f->store = NULL;
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
}

static void test_event__what_is_wrong_is_refused(void **state)
{
	struct fixture *f = *state;
	struct listener listener = LISTENER;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	terrace_subscribe_options options = TERRACE_SUBSCRIBE_INIT;
	terrace_subscription *subscription = (terrace_subscription *)&options;

	assert_status(terrace_subscribe(cache, NULL, NULL, NULL, &subscription), TERRACE_EINVAL);
	options.kinds = 256;
	assert_status(terrace_subscribe(cache, &options, listen, &listener, &subscription),
	              TERRACE_EINVAL);
	options.kinds = 0;
	options.queue = (size_t)-1;
	assert_status(terrace_subscribe(cache, &options, listen, &listener, &subscription),
	              TERRACE_EINVAL);
	options.queue = 0;
	options.statistics_ms = -1;
	assert_status(terrace_subscribe(cache, &options, listen, &listener, &subscription),
	              TERRACE_EINVAL);
	/* a cache that is not there tells nothing */
	assert_ok(terrace_subscribe(NULL, NULL, listen, &listener, &subscription));
	assert_null(subscription);
	terrace_unsubscribe(subscription);
	terrace_cache_close(cache);
}

/* --- order --------------------------------------------------------------------------------------------- */

enum { THREADS = 4, TURNS = 2000 };

struct turns {
	terrace_cache *cache;
	int number;
	uint64_t seen[THREADS]; /* by the subscriber: the last turn of each key */
	uint64_t disorder, events;
};

/* Keys are of one thread each: "thread/turn of its", so that its calls follow each other. */
static void check_order(void *ctx, const terrace_event *event)
{
	struct turns *counter = ctx;
	unsigned thread;
	unsigned long long turn;

	assert_int_equal(sscanf((const char *)event->key.data, "%u/%llu", &thread, &turn), 2);
	counter->events++;
	/* a miss and then a put of each turn */
	counter->disorder += 2 * turn + (event->kind == TERRACE_EVENT_PUT) !=
	                     counter->seen[thread]++;
}

static void *work(void *ctx)
{
	struct turns *counter = ctx;
	char key[32];

	for (int i = 0; i < TURNS; i++) {
		snprintf(key, sizeof key, "%d/%d", counter->number, i);
		assert_misses(counter->cache, key);
		assert_ok(put_text(counter->cache, key, "v"));
	}
	return NULL;
}

static void test_event__come_in_the_order_of_the_calls(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_subscribe_options options = TERRACE_SUBSCRIBE_INIT;
	struct turns counter = { 0 }, workers[THREADS];
	terrace_subscription *subscription;
	pthread_t threads[THREADS];
	terrace_cache *cache;

	policy.tiers = TERRACE_L1;
	cache = fixture_cache(f, "a", &policy);
	options.kinds = TERRACE_EVENT_MISS | TERRACE_EVENT_PUT;
	options.queue = 2 * THREADS * TURNS;
	assert_ok(terrace_subscribe(cache, &options, check_order, &counter, &subscription));
	for (int i = 0; i < THREADS; i++) {
		workers[i] = (struct turns){ .cache = cache, .number = i };
		assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	terrace_unsubscribe(subscription);
	assert_int_equal(counter.events, 2 * THREADS * TURNS);
	assert_int_equal(counter.disorder, 0);
	terrace_cache_close(cache);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_event__each_kind_is_told),
		TEST(test_event__only_the_kinds_that_were_asked_for),
		TEST(test_event__each_cache_has_its_own),
		TEST(test_event__damage_is_an_error_with_its_reason),
		TEST(test_event__who_is_slow_loses_the_oldest_and_is_told),
		TEST(test_event__statistics_come_by_themselves),
		TEST(test_event__a_subscriber_may_use_the_cache_and_end_itself),
		TEST(test_event__a_subscriber_may_end_itself_while_the_store_is_closed),
		TEST(test_event__a_store_that_is_closed_waits_for_who_has_just_ended_itself),
		TEST(test_event__keeps_its_cache_open_and_may_outlive_the_store),
		TEST(test_event__what_is_wrong_is_refused),
		TEST(test_event__come_in_the_order_of_the_calls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
