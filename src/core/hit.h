/*
 * A hit in L1 as it mostly is, in one piece: the fewer its instructions, the more of them
 * the processor has under way while it waits for memory. Whatever is not so simple goes the
 * long way: terrace__get().
 */
#ifndef CORE_HIT_H
#define CORE_HIT_H

#include "core/events.h"
#include "core/lookup.h"
#include "tiers/memory/find.h"
#include "util/hash_key.h"
#include "util/util.h"

/* One key in so many has its hits in L1 timed. */
enum { SAMPLE_MASK = 1023 };

static inline bool hit_is_timed(struct terrace_cache *cache, uint64_t hash)
{
	return (hash & SAMPLE_MASK) == atomic_load_explicit(&cache->sample, memory_order_relaxed);
}

/*
 * The version of a key, from before its copy is looked for: a copy with that stamp was good in
 * that moment.
 */
static inline uint64_t hit_version(const struct terrace_cache *cache, uint64_t hash)
{
	return atomic_load_explicit(&cache->versions[slot_behind_first(cache, hash)],
	                            memory_order_acquire);
}

/* Nobody has written the key or voided the cache since this copy was made. */
static inline bool is_current(struct terrace_cache *cache, uint64_t version,
                              const struct entry *entry)
{
	return atomic_load_explicit(&entry->stamp, memory_order_relaxed) == version &&
	       atomic_load_explicit(&entry->epoch, memory_order_relaxed) ==
	           atomic_load_explicit(&cache->shared->epoch, memory_order_acquire);
}

/* Neither time nor a source ends it. */
static inline bool never_ends(const struct entry *entry)
{
	return !entry->has_sources &&
	       atomic_load_explicit(&entry->expires, memory_order_relaxed) == INT64_MAX;
}

/* What says so of a cache, in the process whose it is. */
static inline uint32_t hits_simple_mark(unsigned forks)
{
	return CACHE_MAGIC + forks;
}

/* Is L1 there, and does nobody but the caller want to know of hits? After each change of that. */
static inline void hits_settle(struct terrace_cache *cache)
{
	bool simple = cache->memory && cache->strategy <= TERRACE_STRATEGY_STANDARD &&
	              !(atomic_load(&cache->events) & TERRACE_EVENT_HIT);

	atomic_store(&cache->hits_simply, simple ? hits_simple_mark(cache->store->forks) : 0);
}

/* Then it is a handle, too, and of this process. */
static inline bool hits_are_simple(const struct terrace_cache *cache)
{
	return atomic_load_explicit(&cache->hits_simply, memory_order_relaxed) ==
	       hits_simple_mark(atomic_load_explicit(&terrace__forks, memory_order_relaxed));
}

/* Of the usual sizes, whose hash takes no call. */
static inline bool hit_is_usual(terrace_slice key)
{
	return key.data && key.size - 1 < HASH_KEY_MOST;
}

/*
 * What L1 has, pinned and not yet counted as a hit; NULL says nothing. Where hits are
 * simple.
 */
static inline struct entry *hit_look(struct terrace_cache *cache, terrace_slice key, uint64_t hash)
{
	return LIKELY(!hit_is_timed(cache, hash)) ? memory_find(cache->memory, key, hash) : NULL;
}

/* Is it a value, and good? Then it is counted as a hit. NULL is fine. */
static inline bool hit_is_good(struct terrace_cache *cache, uint64_t version, struct entry *entry)
{
	if (UNLIKELY(!entry) || UNLIKELY(!is_current(cache, version, entry)) ||
	    UNLIKELY(entry->kind != ENTRY_BYTES) || UNLIKELY(!never_ends(entry)))
		return false;
	entry_hit(entry);
	return true;
}

#endif
