#include "core/events.h"

#include "core/caches.h"
#include "core/hit.h"
#include "util/thread.h"
#include "util/time.h"
#include "util/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE = 1024, STATISTICS_MS = 5000 };

/* One that waits: the key lies behind it, then the detail. */
struct queued {
	struct queued *next;
	terrace_event event;
};

struct terrace_subscription {
	terrace_subscription *next; /* of the store's */
	struct terrace *store;      /* NULL: it has been closed */
	uint64_t number;            /* in order of their beginning */
	struct terrace_cache *cache;
	terrace_event_fn *fn;
	void *ctx;
	unsigned kinds;
	size_t most;
	int64_t statistics_ms;
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t some;
	struct queued *first, **last;
	size_t count;
	uint64_t lost;  /* since the last one that was taken out */
	bool ending;    /* when the queue is empty */
	bool abandoned; /* by its own thread, which is to end at once */
	bool detached;  /* and then to free it */
};

/* --- the queue ----------------------------------------------------------------------------------- */

static struct queued *make(struct terrace_cache *cache, terrace_event_kind kind,
                           const struct event_facts *facts)
{
	const char *detail = facts->detail ? facts->detail : "";
	size_t detail_size = strlen(detail) + 1;
	struct queued *queued = malloc(sizeof *queued + facts->key.size + detail_size);
	char *behind;

	if (!queued)
		return NULL;
	behind = (char *)(queued + 1);
	if (facts->key.size)
		memcpy(behind, facts->key.data, facts->key.size);
	memcpy(behind + facts->key.size, detail, detail_size);
	*queued = (struct queued){
		.event = {
			.size = sizeof queued->event,
			.kind = kind,
			.cache = cache->name,
			.key = terrace_bytes(behind, facts->key.size),
			.tier = facts->tier,
			.count = facts->count,
			.detail = behind + facts->key.size,
			.when_ms = terrace__now(cache->store),
		},
	};
	return queued;
}

/* Under its lock; NULL when there is none. */
static struct queued *take(terrace_subscription *subscription)
{
	struct queued *queued = subscription->first;

	if (!queued)
		return NULL;
	subscription->first = queued->next;
	if (!queued->next)
		subscription->last = &subscription->first;
	subscription->count--;
	return queued;
}

/* Takes `queued` over; NULL: it could not be made. */
static void append(terrace_subscription *subscription, struct queued *queued)
{
	struct queued *oldest = NULL;

	pthread_mutex_lock(&subscription->lock);
	if (!queued || subscription->count == subscription->most) {
		oldest = queued ? take(subscription) : NULL;
		subscription->lost++;
	}
	if (queued) {
		*subscription->last = queued;
		subscription->last = &queued->next;
		subscription->count++;
		pthread_cond_signal(&subscription->some);
	}
	pthread_mutex_unlock(&subscription->lock);
	free(oldest);
}

void terrace__event(struct terrace_cache *cache, terrace_event_kind kind,
                    const struct event_facts *facts)
{
	struct terrace *store = cache->store;

	pthread_mutex_lock(&store->events_lock);
	for (terrace_subscription *at = store->subscriptions; at; at = at->next) {
		if (at->cache == cache && at->kinds & kind)
			append(at, make(cache, kind, facts));
	}
	pthread_mutex_unlock(&store->events_lock);
}

/* --- the thread ---------------------------------------------------------------------------------- */

static void subscription_free(terrace_subscription *subscription)
{
	struct queued *queued;

	while ((queued = take(subscription)))
		free(queued);
	pthread_mutex_destroy(&subscription->lock);
	pthread_cond_destroy(&subscription->some);
	free(subscription);
}

static void tell_statistics(terrace_subscription *subscription)
{
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_event event = {
		.size = sizeof event,
		.kind = TERRACE_EVENT_STATISTICS,
		.cache = subscription->cache->name,
		.detail = "",
		.when_ms = terrace__now(subscription->cache->store),
		.statistics = &stats,
	};

	if (terrace_cache_stats(subscription->cache, &stats) == TERRACE_OK)
		subscription->fn(subscription->ctx, &event);
}

/* Until there is something to tell; false at the end. Under the lock. */
static bool await(terrace_subscription *subscription, int64_t statistics_at)
{
	struct timespec at = { statistics_at / 1000, (long)(statistics_at % 1000) * 1000000 };

	while (!subscription->first && !subscription->ending && !subscription->abandoned) {
		if (!(subscription->kinds & TERRACE_EVENT_STATISTICS))
			pthread_cond_wait(&subscription->some, &subscription->lock);
		else if (pthread_cond_timedwait(&subscription->some, &subscription->lock, &at) ==
		         ETIMEDOUT)
			return true;
	}
	return !subscription->abandoned && (subscription->first || !subscription->ending);
}

static void *run(void *arg)
{
	terrace_subscription *subscription = arg;
	int64_t statistics_at = terrace__clock_ms(CLOCK_MONOTONIC) + subscription->statistics_ms;

	pthread_mutex_lock(&subscription->lock);
	while (await(subscription, statistics_at)) {
		int64_t now = terrace__clock_ms(CLOCK_MONOTONIC);
		struct queued *queued = take(subscription);

		if (queued) {
			queued->event.lost = subscription->lost;
			subscription->lost = 0;
		}
		pthread_mutex_unlock(&subscription->lock);
		if (queued)
			subscription->fn(subscription->ctx, &queued->event);
		free(queued);
		if (!subscription->abandoned && now >= statistics_at &&
		    subscription->kinds & TERRACE_EVENT_STATISTICS) {
			tell_statistics(subscription);
			statistics_at = now + subscription->statistics_ms;
		}
		pthread_mutex_lock(&subscription->lock);
	}
	pthread_mutex_unlock(&subscription->lock);
	if (subscription->detached)
		subscription_free(subscription);
	return NULL;
}

/* --- beginning and ending ------------------------------------------------------------------------- */

/* Which kinds anybody wants of the cache. Under events_lock. */
static void count_kinds(struct terrace_cache *cache)
{
	unsigned kinds = 0;

	for (terrace_subscription *at = cache->store->subscriptions; at; at = at->next)
		kinds |= at->cache == cache ? at->kinds : 0;
	atomic_store(&cache->events, kinds);
	hits_settle(cache);
}

int terrace__subscribe(struct terrace_cache *cache, const terrace_subscribe_options *options,
                       terrace_event_fn *fn, void *ctx, terrace_subscription **ret)
{
	struct terrace *store = cache->store;
	terrace_subscription *made = calloc(1, sizeof *made);
	pthread_condattr_t monotonic;

	if (!made)
		return no_memory("a subscription");
	made->store = store;
	made->cache = cache;
	made->fn = fn;
	made->ctx = ctx;
	made->kinds = options->kinds ? options->kinds : TERRACE_EVENT_ALL;
	made->most = options->queue ? options->queue : QUEUE;
	made->statistics_ms = options->statistics_ms ? options->statistics_ms : STATISTICS_MS;
	made->last = &made->first;
	pthread_mutex_init(&made->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&made->some, &monotonic);
	pthread_condattr_destroy(&monotonic);
	if (!terrace__thread_start(&made->thread, run, made)) {
		subscription_free(made);
		return TERRACE_EIO;
	}
	pthread_mutex_lock(&store->caches_lock);
	cache->handles++;
	pthread_mutex_unlock(&store->caches_lock);
	pthread_mutex_lock(&store->events_lock);
	made->number = ++store->subscribed;
	made->next = store->subscriptions;
	store->subscriptions = made;
	count_kinds(cache);
	pthread_mutex_unlock(&store->events_lock);
	*ret = made;
	return TERRACE_OK;
}

/* Nothing is added to its queue any more. False when that was so before. Under events_lock. */
static bool leave(terrace_subscription *subscription)
{
	terrace_subscription **at = &subscription->store->subscriptions;

	while (*at && *at != subscription)
		at = &(*at)->next;
	if (!*at)
		return false;
	*at = subscription->next;
	count_kinds(subscription->cache);
	return true;
}

/* What is queued is delivered still; the thread is over when this returns. */
static void finish(terrace_subscription *subscription)
{
	pthread_mutex_lock(&subscription->lock);
	subscription->ending = true;
	pthread_cond_signal(&subscription->some);
	pthread_mutex_unlock(&subscription->lock);
	pthread_join(subscription->thread, NULL);
}

/* By its own thread. Where the store is being closed, that sees to the rest. */
static void abandon(terrace_subscription *subscription)
{
	struct terrace *store = subscription->store;

	pthread_mutex_lock(&store->events_lock);
	subscription->abandoned = true;
	subscription->detached = leave(subscription);
	store->leaving += subscription->detached;
	pthread_mutex_unlock(&store->events_lock);
	if (!subscription->detached)
		return;
	pthread_detach(subscription->thread);
	terrace__cache_close(subscription->cache, false);
	pthread_mutex_lock(&store->events_lock);
	if (--store->leaving == 0)
		pthread_cond_broadcast(&store->left);
	pthread_mutex_unlock(&store->events_lock);
}

void terrace__unsubscribe(terrace_subscription *subscription)
{
	struct terrace *store = subscription->store;

	if (store && pthread_equal(subscription->thread, pthread_self())) {
		abandon(subscription);
		return;
	}
	if (store) {
		pthread_mutex_lock(&store->events_lock);
		leave(subscription);
		pthread_mutex_unlock(&store->events_lock);
		finish(subscription);
		terrace__cache_close(subscription->cache, false);
	}
	subscription_free(subscription);
}

bool terrace__events_any(struct terrace *store, uint64_t *ret_last)
{
	bool any;

	pthread_mutex_lock(&store->events_lock);
	any = store->subscriptions || store->leaving > 0;
	*ret_last = store->subscribed;
	pthread_mutex_unlock(&store->events_lock);
	return any;
}

/* Under events_lock. */
static terrace_subscription *one_until(const struct terrace *store, uint64_t last)
{
	terrace_subscription *at = store->subscriptions;

	while (at && at->number > last)
		at = at->next;
	return at;
}

void terrace__events_end(struct terrace *store, uint64_t last)
{
	terrace_subscription *subscription;

	pthread_mutex_lock(&store->events_lock);
	while ((subscription = one_until(store, last))) {
		leave(subscription);
		pthread_mutex_unlock(&store->events_lock);
		finish(subscription);
		subscription->store = NULL;
		if (subscription->abandoned)
			subscription_free(subscription);
		pthread_mutex_lock(&store->events_lock);
	}
	/* Who has just ended its own has the cache open until it has closed it. */
	while (store->leaving > 0)
		pthread_cond_wait(&store->left, &store->events_lock);
	pthread_mutex_unlock(&store->events_lock);
}
