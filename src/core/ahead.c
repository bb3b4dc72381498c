#include "core/ahead.h"

#include "core/order.h"
#include "util/thread.h"
#include "util/util.h"

#include <ctype.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	PREDICTED = 4096, /* that are remembered until they are asked for, or go */
	WAYS = 4,
	ASKED = 64,     /* that wait to be looked at; the oldest goes */
	CHAIN_MOST = 8, /* keys in a row that order predicts */
	CHAIN_LEAST = 2,
	CHAIN_PART = 200, /* one for so many entries of L1: its window is a hundredth of it */
	TRUST_MOST = 64,
	TRUST_LEAST = 8, /* below, what came next once is no reason, and one in so many is tried: */
	SELDOM = 16,
	RANGE = 16, /* numbers that are a range, where nobody says what is */
};

struct asked {
	uint64_t before; /* the hash of what the same thread asked for before */
	size_t size;
	uint8_t key[ORDER_KEY_MAX];
};

struct ahead {
	struct terrace_cache *cache;
	uint64_t id; /* of all there ever were, for the threads' memory */
	pthread_mutex_t lock;
	pthread_cond_t work, idle;
	pthread_t thread;
	bool started, running, stopping;
	bool asleep;
	unsigned patience;   /* hits of what was predicted that the thread is not woken for */
	struct asked *asked; /* a ring */
	unsigned first, count;
	struct order *order; /* the thread's alone, as turns is */
	unsigned turns;
	_Atomic int trust; /* in what order has predicted */
	/* Hashes of what was brought in and not asked for since; 0: none. */
	_Atomic uint64_t predicted[PREDICTED];
};

/* --- what was predicted ------------------------------------------------------------------------ */

/* The four places of which it may have one. */
static _Atomic uint64_t *places_of(struct ahead *ahead, uint64_t hash)
{
	return &ahead->predicted[(hash >> 8) % (PREDICTED / WAYS) * WAYS];
}

/* A hash of 0 would be none. */
static uint64_t name_of(uint64_t hash)
{
	return hash | 1;
}

static void trust(struct ahead *ahead, int more)
{
	int now = atomic_load_explicit(&ahead->trust, memory_order_relaxed) + more;

	/* Two at the same moment may count as one. */
	atomic_store_explicit(&ahead->trust,
	                      now < 0          ? 0 :
	                      now > TRUST_MOST ? TRUST_MOST :
	                                         now,
	                      memory_order_relaxed);
}

static void wasted(struct ahead *ahead)
{
	count_add(&ahead->cache->counts, COUNT_predicted_wasted, 1);
	trust(ahead, -1);
}

static void note_prediction(struct ahead *ahead, uint64_t hash)
{
	_Atomic uint64_t *places = places_of(ahead, hash);

	for (unsigned i = 0; i < WAYS; i++) {
		uint64_t none = 0;

		if (atomic_compare_exchange_strong(&places[i], &none, name_of(hash)))
			return;
	}
	/* Too many wait to be asked for: nobody will know whether this one was. */
	if (atomic_exchange(&places[hash % WAYS], name_of(hash)))
		wasted(ahead);
}

/* True for the one who takes it. */
static bool take_prediction(struct ahead *ahead, uint64_t hash)
{
	_Atomic uint64_t *places = places_of(ahead, hash);

	for (unsigned i = 0; i < WAYS; i++) {
		uint64_t name = name_of(hash);

		if (atomic_load_explicit(&places[i], memory_order_relaxed) == name &&
		    atomic_compare_exchange_strong(&places[i], &name, 0))
			return true;
	}
	return false;
}

void terrace__ahead_evicted(struct ahead *ahead, uint64_t hash)
{
	if (take_prediction(ahead, hash))
		wasted(ahead);
}

/* --- bringing it in ---------------------------------------------------------------------------- */

/* From below, unless it is there. With `ahead`, as a prediction. */
static int bring(struct terrace_cache *cache, struct ahead *ahead, const struct tier_key *key)
{
	struct tier_put put = { .key = *key, .conditional = true };
	int rc = terrace__look_ahead(cache, key, &put.entry, &put.expected);

	if (rc != TERRACE_OK)
		return rc;
	if (ahead) {
		note_prediction(ahead, key->hash);
		count_add(&cache->counts, COUNT_predicted, 1);
	}
	rc = terrace__memory_keep_weak(cache, &put);
	if (rc != TERRACE_OK && ahead && take_prediction(ahead, key->hash))
		count_add(&cache->counts, COUNT_predicted, -UINT64_C(1));
	entry_unref(put.expected);
	entry_unref(put.entry);
	return rc;
}

/* What the program's function names; how many of it. */
static size_t bring_named(struct terrace_cache *cache, struct ahead *ahead, terrace_slice key,
                          size_t *ret_brought)
{
	struct terrace_next next = { { 0 }, 0 };
	struct reader reader;
	size_t named;

	*ret_brought = 0;
	cache->name_next(cache->next_ctx, key, &next);
	named = next.keys.failed ? 0 : next.count;
	reader = terrace__reader(next.keys.data, next.keys.failed ? 0 : next.keys.size);
	while (reader.at < reader.end) {
		size_t size = terrace__read_u32(&reader);
		struct tier_key hashed = cache_key(
		    cache, terrace_bytes(terrace__read_bytes(&reader, size), size));

		*ret_brought += bring(cache, ahead, &hashed) == TERRACE_OK;
	}
	terrace__buf_done(&next.keys);
	return named;
}

/* --- prediction, on the thread ------------------------------------------------------------- */

static unsigned chain_length(struct terrace_cache *cache)
{
	uint64_t part = terrace__tiers_memory_entries(cache->memory) / CHAIN_PART;

	return (unsigned)max_u64(CHAIN_LEAST, min_u64(part, CHAIN_MOST));
}

static void bring_by_order(struct ahead *ahead, uint64_t hash)
{
	bool trusted = atomic_load_explicit(&ahead->trust, memory_order_relaxed) >= TRUST_LEAST;
	unsigned length = chain_length(ahead->cache);
	uint64_t start = hash;
	terrace_slice key;

	if (!trusted && ahead->turns++ % SELDOM != 0)
		return;
	for (unsigned i = 0; i < length; i++) {
		struct tier_key hashed;

		if (!terrace__order_next(ahead->order, hash, trusted ? 1 : 2, &hash, &key) ||
		    hash == start)
			return;
		hashed = cache_key(ahead->cache, key);
		bring(ahead->cache, ahead, &hashed);
	}
}

/* `latest`: nobody has asked for anything since, so it is not too late to predict. */
static void work_off(struct ahead *ahead, const struct asked *asked, bool latest)
{
	terrace_slice key = terrace_bytes(asked->key, asked->size);
	uint64_t hash = cache_key(ahead->cache, key).hash;
	size_t brought;

	terrace__order_learn(ahead->order, asked->before, hash, key);
	if (!latest)
		return;
	if (!ahead->cache->name_next || bring_named(ahead->cache, ahead, key, &brought) == 0)
		bring_by_order(ahead, hash);
}

static void *run(void *ctx)
{
	struct ahead *ahead = ctx;
	struct sched_param none = { 0 };
	struct asked asked;
	bool latest;

	/* Whoever wakes it has something to do, and goes on before it. Best effort. */
	(void)pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
	pthread_mutex_lock(&ahead->lock);
	while (!ahead->stopping) {
		if (ahead->count == 0) {
			ahead->asleep = true;
			pthread_cond_broadcast(&ahead->idle);
			pthread_cond_wait(&ahead->work, &ahead->lock);
			continue;
		}
		asked = ahead->asked[ahead->first];
		ahead->first = (ahead->first + 1) % ASKED;
		ahead->count--;
		ahead->asleep = false;
		ahead->patience = chain_length(ahead->cache) / 2;
		latest = ahead->count == 0;
		pthread_mutex_unlock(&ahead->lock);
		work_off(ahead, &asked, latest);
		pthread_mutex_lock(&ahead->lock);
	}
	pthread_mutex_unlock(&ahead->lock);
	return NULL;
}

/* --- asking -------------------------------------------------------------------------------------- */

static void ahead_free(struct ahead *ahead)
{
	pthread_mutex_lock(&ahead->lock);
	ahead->stopping = true;
	pthread_cond_signal(&ahead->work);
	pthread_mutex_unlock(&ahead->lock);
	if (ahead->running)
		pthread_join(ahead->thread, NULL);
	for (size_t i = 0; i < PREDICTED; i++) {
		if (atomic_load(&ahead->predicted[i]))
			wasted(ahead);
	}
	terrace__order_free(ahead->order);
	pthread_mutex_destroy(&ahead->lock);
	pthread_cond_destroy(&ahead->work);
	pthread_cond_destroy(&ahead->idle);
	free(ahead->asked);
	free(ahead);
}

static struct ahead *ahead_new(struct terrace_cache *cache)
{
	static _Atomic uint64_t ids;
	struct ahead *ahead = calloc(1, sizeof *ahead);

	if (!ahead)
		return NULL;
	ahead->cache = cache;
	ahead->id = atomic_fetch_add(&ids, 1) + 1;
	atomic_init(&ahead->trust, TRUST_MOST / 2);
	pthread_mutex_init(&ahead->lock, NULL);
	pthread_cond_init(&ahead->work, NULL);
	pthread_cond_init(&ahead->idle, NULL);
	return ahead;
}

/* Where no thread can be had, or no memory, nothing is predicted, and nobody misses it. */
static void start(struct ahead *ahead)
{
	pthread_mutex_lock(&ahead->lock);
	if (!ahead->started) {
		ahead->started = true;
		ahead->asked = calloc(ASKED, sizeof *ahead->asked);
		ahead->order = terrace__order_new();
		ahead->running = ahead->asked && ahead->order &&
		                 terrace__thread_start(&ahead->thread, run, ahead);
	}
	pthread_mutex_unlock(&ahead->lock);
}

/* Made when it is first needed; NULL without memory. */
static struct ahead *ahead_of(struct terrace_cache *cache)
{
	struct ahead *ahead = atomic_load_explicit(&cache->ahead, memory_order_acquire), *made;

	if (LIKELY(ahead != NULL))
		return ahead;
	made = ahead_new(cache);
	if (!made)
		return NULL;
	if (atomic_compare_exchange_strong(&cache->ahead, &ahead, made))
		ahead = made;
	else
		ahead_free(made); /* another thread was faster */
	start(ahead);
	return ahead;
}

/* What this thread asked of the same cache before; of a few caches. */
static uint64_t asked_before(const struct ahead *ahead, uint64_t hash)
{
	static _Thread_local struct {
		uint64_t id, hash;
	} last[4];
	uint64_t before = 0;
	size_t at = ahead->id % ARRAY_LEN(last);

	if (last[at].id == ahead->id)
		before = last[at].hash;
	last[at].id = ahead->id;
	last[at].hash = hash;
	return before;
}

/*
 * Nobody waits for the thread, nor for the lock: when that is taken, this is not
 * noted. Nor is the thread woken for each hit of what was predicted, while more of
 * that is there.
 */
static void note_asked(struct ahead *ahead, terrace_slice key, uint64_t before, bool missed)
{
	struct asked *asked;
	bool wake;

	if (key.size > ORDER_KEY_MAX || pthread_mutex_trylock(&ahead->lock) != 0)
		return;
	if (!ahead->running) {
		pthread_mutex_unlock(&ahead->lock);
		return;
	}
	if (ahead->count == ASKED) {
		ahead->first = (ahead->first + 1) % ASKED;
		ahead->count--;
	}
	asked = &ahead->asked[(ahead->first + ahead->count++) % ASKED];
	asked->before = before;
	asked->size = key.size;
	memcpy(asked->key, key.data, key.size);
	wake = ahead->asleep && (missed || ahead->count >= ahead->patience);
	if (wake)
		ahead->asleep = false;
	pthread_mutex_unlock(&ahead->lock);
	if (wake)
		pthread_cond_signal(&ahead->work);
}

static void predict_from(struct terrace_cache *cache, terrace_slice key, unsigned tier)
{
	struct ahead *ahead = ahead_of(cache);
	uint64_t hash;

	if (!ahead)
		return;
	hash = cache_key(cache, key).hash;
	if (LIKELY(!take_prediction(ahead, hash))) {
		if (tier == TERRACE_L1)
			return;
	} else if (tier == TERRACE_L1) {
		count_add(&cache->counts, COUNT_predicted_used, 1);
		trust(ahead, +1);
	} else {
		wasted(ahead);
	}
	note_asked(ahead, key, asked_before(ahead, hash), tier != TERRACE_L1);
}

/* --- ranges ---------------------------------------------------------------------------------------- */

/* The numbers beside the one that the key ends in, written with as many digits. */
static size_t bring_numbers(struct terrace_cache *cache, terrace_slice key)
{
	const char *text = key.data;
	char name[ORDER_KEY_MAX + 32];
	size_t digits = 0, front, brought = 0;
	uint64_t number = 0;

	while (digits < key.size && digits < 18 &&
	       isdigit((unsigned char)text[key.size - 1 - digits]))
		digits++;
	front = key.size - digits;
	if (digits == 0 || front > ORDER_KEY_MAX)
		return 0;
	memcpy(name, text, front);
	for (size_t i = front; i < key.size; i++)
		number = number * 10 + (uint64_t)(text[i] - '0');
	for (uint64_t n = number / RANGE * RANGE, end = n + RANGE; n < end; n++) {
		int width = text[front] == '0' ? (int)digits : 1;
		int size = snprintf(name + front, sizeof name - front, "%0*" PRIu64, width, n);
		struct tier_key hashed = cache_key(cache,
		                                   terrace_bytes(name, front + (size_t)size));

		brought += bring(cache, NULL, &hashed) == TERRACE_OK;
	}
	return brought;
}

void terrace__ahead_asked(struct terrace_cache *cache, terrace_slice key, terrace_strategy strategy,
                          unsigned tier)
{
	size_t brought = 0;

	if (!cache->memory || !cache->on_disk)
		return;
	if (strategy == TERRACE_STRATEGY_PREEMPTIVE) {
		predict_from(cache, key, tier);
	} else if (strategy == TERRACE_STRATEGY_BATCH && tier & (TERRACE_L2 | TERRACE_L3)) {
		if (cache->name_next)
			bring_named(cache, NULL, key, &brought);
		else
			brought = bring_numbers(cache, key);
		count_add(&cache->counts, COUNT_in_bulk, brought);
	}
}

/* --- the end ----------------------------------------------------------------------------------------- */

void terrace__ahead_settle(struct terrace_cache *cache)
{
	struct ahead *ahead = atomic_load(&cache->ahead);

	if (!ahead)
		return;
	pthread_mutex_lock(&ahead->lock);
	while (ahead->running && (ahead->count > 0 || !ahead->asleep)) {
		pthread_cond_signal(&ahead->work);
		pthread_cond_wait(&ahead->idle, &ahead->lock);
	}
	pthread_mutex_unlock(&ahead->lock);
}

void terrace__ahead_close(struct terrace_cache *cache)
{
	struct ahead *ahead = atomic_exchange(&cache->ahead, NULL);

	if (ahead)
		ahead_free(ahead);
}
