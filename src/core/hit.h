/*
 * A hit in L1 as it mostly is, in one piece: the fewer its instructions, the more of them
 * the processor has under way while it waits for memory. Whatever is not so simple goes the
 * long way: terrace__get_long().
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

/* Nobody has written the key or voided the cache since this copy was made. */
static inline bool is_current(struct terrace_cache *cache, uint32_t slot, const struct entry *entry)
{
	return atomic_load_explicit(&entry->stamp, memory_order_relaxed) ==
	           version_load(cache->store->shared, slot) &&
	       atomic_load_explicit(&entry->epoch, memory_order_relaxed) ==
	           atomic_load_explicit(&cache->shared->epoch, memory_order_acquire);
}

/* Neither time nor a source ends it. */
static inline bool never_ends(const struct entry *entry)
{
	return !entry->has_sources &&
	       atomic_load_explicit(&entry->expires, memory_order_relaxed) == INT64_MAX;
}

/* Is L1 there, and does nobody but the caller want to know of hits? After each change of that. */
static inline void hits_settle(struct terrace_cache *cache)
{
	atomic_store(&cache->hits_simply, cache->memory &&
	                                      cache->strategy <= TERRACE_STRATEGY_STANDARD &&
	                                      !(atomic_load(&cache->events) & TERRACE_EVENT_HIT));
}

static inline bool hits_are_simple(const struct terrace_cache *cache)
{
	return atomic_load_explicit(&cache->hits_simply, memory_order_relaxed);
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
static inline bool hit_is_good(struct terrace_cache *cache, uint32_t slot, struct entry *entry)
{
	if (UNLIKELY(!entry) || UNLIKELY(!is_current(cache, slot, entry)) ||
	    UNLIKELY(entry->kind != ENTRY_BYTES) || UNLIKELY(!never_ends(entry)))
		return false;
	entry_hit(entry);
	return true;
}

static inline uint64_t hit_hash(const struct terrace_cache *cache, terrace_slice key)
{
	uint64_t hash = hash_key(key.data, key.size, cache->seed);

	__builtin_prefetch((const void *)&cache->store->shared->versions[cache_slot(cache, hash)]);
	return hash;
}

#endif
