/*
 * Events: what happens in a cache, told to those who subscribe.
 *
 * Each subscription has a queue and a thread of its own, on which the program's
 * function is called, one event at a time, while no lock of Terrace's is held:
 * it may use caches, and may take its time. Nobody waits for it. When its queue
 * is full, the oldest event goes, and the next one says how many went before it.
 *
 * Only what this process does is told. Of two calls for one key, of which one
 * had returned before the other began, the events come in that order; what
 * happened at the same time comes in any.
 */
#ifndef TERRACE_EVENTS_H
#define TERRACE_EVENTS_H

#include <terrace/cache.h>
#include <terrace/stats.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Also a bit in a set of kinds. */
typedef enum terrace_event_kind {
	TERRACE_EVENT_HIT = 1, /* tier: which one served it */
	TERRACE_EVENT_MISS = 2,
	TERRACE_EVENT_PUT = 4,   /* stored: put, add, count up, fetch */
	TERRACE_EVENT_EVICT = 8, /* tier: from where; of L1 by key, of the disk how many */
	TERRACE_EVENT_EXPIRE =
	    16, /* found dead by a get; or without a key, how many a cleanup removed */
	TERRACE_EVENT_ERROR = 32, /* a failure that no caller sees; detail: which */
	TERRACE_EVENT_BATCH = 64, /* many values were put at once and are there; count: how many */
	TERRACE_EVENT_STATISTICS = 128, /* now and then; statistics */
	TERRACE_EVENT_ALL = 255,
} terrace_event_kind;

/** "hit", "miss", …; "unknown" for what a newer version tells. Static. */
TERRACE_API const char *terrace_event_name(terrace_event_kind kind);

/** Pointers are good during the call. */
typedef struct terrace_event {
	size_t size;
	terrace_event_kind kind;
	const char *cache;               /* its name */
	terrace_slice key;               /* empty where it is of no one key */
	unsigned tier;                   /* a terrace_tier, or 0 */
	uint64_t count;                  /* of entries; 1 with a key */
	const char *detail;              /* for people; "" */
	int64_t when_ms;                 /* store clock */
	uint64_t lost;                   /* events that went unseen between the last one and this */
	const terrace_stats *statistics; /* with STATISTICS; else NULL */
} terrace_event;

typedef void terrace_event_fn(void *ctx, const terrace_event *event);

typedef struct terrace_subscribe_options {
	size_t size;           /* set by TERRACE_SUBSCRIBE_INIT */
	unsigned kinds;        /* set of terrace_event_kind; 0 = all */
	size_t queue;          /* events that may wait; 0 = 1,024; at most 1,048,576 */
	int64_t statistics_ms; /* how often STATISTICS comes; 0 = 5 s */
} terrace_subscribe_options;
TERRACE_DEFINE_INIT(terrace_subscribe_options)
#define TERRACE_SUBSCRIBE_INIT terrace_subscribe_options_init()

typedef struct terrace_subscription terrace_subscription;

/**
 * Have `fn` called with what happens in the cache from now on. A NULL or
 * disabled cache tells nothing.
 *
 * options: may be NULL.
 * ctx:     borrowed until terrace_unsubscribe() has returned.
 * Owns:    the caller ends *ret with terrace_unsubscribe(). Until then the cache
 *          stays open.
 * Returns: TERRACE_OK, TERRACE_EINVAL (no function, an unknown kind, a queue too
 *          long, a negative time), TERRACE_ENOMEM, TERRACE_EIO (no more threads).
 * Threads: safe.
 * Cost:    a thread. A call that something is told of copies its key and takes a
 *          lock that is held for that alone; caches that nobody has subscribed
 *          to pay for a load.
 */
TERRACE_API int terrace_subscribe(terrace_cache *cache, const terrace_subscribe_options *options,
                                  terrace_event_fn *fn, void *ctx, terrace_subscription **ret);

/**
 * Deliver what happened before this call, and end. `fn` is not called any more
 * when this has returned, but where `fn` itself calls it: then it is over with
 * that call, and what still waited goes. NULL is fine. To be called before the
 * store is closed; closing it first ends what its subscriptions deliver.
 */
TERRACE_API void terrace_unsubscribe(terrace_subscription *subscription);

#ifdef __cplusplus
}
#endif
#endif
