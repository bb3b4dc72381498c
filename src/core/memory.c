/* What the core does with L1: admission, limits, forgetting. */
#include "core/lookup.h"

#include "core/ahead.h"
#include "core/events.h"
#include "core/flight.h"
#include "core/keeper.h"
#include "core/locks.h"
#include "util/lock.h"
#include "util/message.h"
#include "util/util.h"

#include <errno.h>

static void note_hits(struct terrace_cache *cache, const struct entry *entry, int64_t now)
{
	const struct tier_key key = { .key = entry_key_slice(entry),
		                      .hash = entry->hash,
		                      .cache = cache->number };

	terrace__access_note(cache->store, terrace__row_hash(&key), entry_hits(entry), now);
}

/* Tell of what eviction has taken out, and the catalogue of its hits. */
static void note_evicted(struct terrace_cache *cache, const struct tier_evicted *evicted)
{
	int64_t now = evicted->chain && cache->on_disk ? terrace__now(cache->store) : 0;

	for (struct entry *entry = evicted->chain; entry; entry = entry->next) {
		if (cache->on_disk && entry_hits(entry))
			note_hits(cache, entry, now);
		event_of_key(cache, TERRACE_EVENT_EVICT, entry_key_slice(entry), TERRACE_L1);
		ahead_evicted(cache, entry->hash);
	}
}

static uint64_t limit_load(const struct memory_limit *limit)
{
	return atomic_load_explicit(&limit->now, memory_order_relaxed);
}

static uint64_t above(uint64_t used, uint64_t limit)
{
	return limit && used > limit ? used - limit : 0;
}

/*
 * The open cache that has borrowed most, of L1 or of encoded bytes, beyond what it
 * is promised: it gives when the store is over its limit. *ret_lent is how much.
 */
static struct terrace_cache *borrower(struct terrace *store, bool encoded, uint64_t *ret_lent)
{
	struct terrace_cache *found = NULL;

	*ret_lent = 0;
	for (struct terrace_cache *cache = store->caches; cache; cache = cache->next) {
		void *tier = encoded ? cache->encoded : cache->memory;
		uint64_t bytes = tier ? terrace__tiers_memory_bytes(tier) : 0;
		uint64_t promised = encoded ? 0 : cache->memory_min_bytes;

		if (bytes > promised && bytes - promised > *ret_lent) {
			*ret_lent = bytes - promised;
			found = cache;
		}
	}
	return found;
}

/* From L1, with a note of each. */
static void evict(struct terrace_cache *cache, uint64_t bytes, uint64_t entries,
                  struct tier_evicted *ret)
{
	const struct tier_note note = { .when = terrace__now(cache->store) };

	cache->memory_ops->evict(cache->memory, cache->number, bytes, entries, &note, ret);
	note_evicted(cache, ret);
}

/* From the one that has borrowed most; false when nobody has. */
static bool take_back(struct terrace *store, uint64_t bytes, uint64_t entries)
{
	struct tier_evicted evicted = { 0 };
	struct terrace_cache *victim;
	uint64_t lent;

	/* Under the lock, so that the victim is not closed meanwhile; what
	 * it lets go may run a program's destructor, so that comes after. */
	pthread_mutex_lock(&store->caches_lock);
	victim = borrower(store, false, &lent);
	atomic_store_explicit(&store->giver, victim, memory_order_relaxed);
	if (victim) {
		evict(victim, min_u64(bytes, lent), entries, &evicted);
	}
	pthread_mutex_unlock(&store->caches_lock);
	entry_unlinked_all(evicted.chain);
	return evicted.entries_l1 > 0;
}

/* Until the store is within its limits, or nobody has borrowed. */
static void take_all_back(struct terrace *store)
{
	uint64_t bytes, entries;

	do {
		bytes = above(atomic_load(&store->pool.bytes), limit_load(&store->memory));
		entries = above(atomic_load(&store->pool.entries), store->memory_entries);
	} while ((bytes || entries) && take_back(store, bytes, entries));
}

/* What went as the put went on, and what must go besides. */
static void keep_within(struct terrace_cache *cache, const struct tier_evicted *evicted)
{
	uint64_t bytes = above(terrace__tiers_memory_bytes(cache->memory), cache->memory_bytes);
	uint64_t entries = above(terrace__tiers_memory_entries(cache->memory),
	                         cache->memory_entries);

	if (evicted->chain) {
		note_evicted(cache, evicted);
		entry_unlinked_all(evicted->chain);
	}
	if (bytes || entries)
		terrace__memory_evict(cache, bytes, entries);
	take_all_back(cache->store);
}

/* As on disk: what is over an eighth of the limit may have what is free. */
bool terrace__memory_fits(struct terrace_cache *cache, uint64_t bytes)
{
	struct terrace *store = cache->store;
	uint64_t own = cache->memory_bytes, all = limit_load(&store->memory);

	if ((!own || bytes <= own / 8 ||
	     terrace__tiers_memory_bytes(cache->memory) + bytes <= own) &&
	    (!all || bytes <= all / 8 || atomic_load(&store->pool.bytes) + bytes <= all))
		return true;
	terrace__message_set("a value of %llu bytes is over an eighth of the memory limit of cache "
	                     "%s, and that much is not free; raise memory_bytes",
	                     (unsigned long long)bytes, cache->name);
	return false;
}

/*
 * Under flights.lock no thread of ours can write the key between the look and
 * the put; that no other process has is for the version to say. What is replaced
 * may run a program's destructor, so that comes after.
 */
static int put_leased(struct terrace_cache *cache, void *tier, struct tier_put *put,
                      const struct write_lease *lease)
{
	struct terrace *store = cache->store;
	_Atomic uint64_t *version = &store->shared->versions[put->key.slot];
	/*
	 * With a form, what is computed takes no new version either: it is what
	 * another process would have computed, and caches with forms hold so much
	 * that moving a slot's version would void entries that only share it.
	 */
	bool alone = cache->has_form || atomic_load(&cache->shared->holder) == store->token;
	uint64_t seen = lease->version;
	uint64_t stamp = alone ? seen :
	                         word_make(store->shared, put->key.slot,
	                                   word_value(seen) + VERSION_STEP);
	struct entry *replaced = NULL;
	int rc = TERRACE_MISS;

	put->replaced = &replaced;
	pthread_mutex_lock(&store->flights.lock);
	if (terrace__lease_holds(cache, &put->key, lease) &&
	    (alone || atomic_compare_exchange_strong(version, &seen, stamp))) {
		atomic_store(&put->entry->stamp, stamp);
		rc = cache->memory_ops->put(tier, put);
		terrace__lease_outdate_others(cache, put->key.key, lease);
	}
	pthread_mutex_unlock(&store->flights.lock);
	put->replaced = NULL;
	entry_unlinked(replaced);
	return rc;
}

/* See terrace__memory_keep_decoded(): while the bytes are there, under the lock of who replaces them. */
static int put_decoded(struct terrace_cache *cache, struct tier_put *put, const struct entry *bytes)
{
	struct flights *flights = &cache->store->flights;
	struct entry *now = NULL, *replaced = NULL;
	int rc;

	put->replaced = &replaced;
	pthread_mutex_lock(&flights->lock);
	rc = cache->memory_ops->get(cache->encoded, &put->key, false, &now);
	if (rc == TERRACE_OK)
		rc = now == bytes ? cache->memory_ops->put(cache->memory, put) : TERRACE_MISS;
	pthread_mutex_unlock(&flights->lock);
	put->replaced = NULL;
	entry_unref(now);
	entry_unlinked(replaced);
	return rc;
}

/* Of the store's limits alone when the cache would be the one to give. */
static struct tier_limits limits_of(const struct terrace_cache *cache)
{
	struct terrace *store = cache->store;
	struct tier_limits limits = { .bytes = cache->memory_bytes,
		                      .entries = cache->memory_entries,
		                      .promised = cache->memory_min_bytes };

	if (atomic_load_explicit(&store->giver, memory_order_relaxed) == cache) {
		limits.pool_bytes = limit_load(&store->memory);
		limits.pool_entries = store->memory_entries;
	}
	return limits;
}

static int keep(struct terrace_cache *cache, struct tier_put *put, const struct write_lease *lease,
                const struct entry *bytes)
{
	struct tier_limits limits = limits_of(cache);
	struct tier_evicted evicted = { 0 };
	int rc;

	if (!terrace__memory_fits(cache, entry_charge(put->entry))) {
		/* An older one must not stay in its place. */
		cache->memory_ops->remove(cache->memory, &put->key, NULL);
		return TERRACE_ETOOBIG;
	}
	put->limits = &limits;
	put->evicted = &evicted;
	if (lease)
		rc = put_leased(cache, cache->memory, put, lease);
	else if (bytes)
		rc = put_decoded(cache, put, bytes);
	else
		rc = cache->memory_ops->put(cache->memory, put);
	put->limits = NULL;
	keep_within(cache, &evicted);
	if (UNLIKELY(atomic_load_explicit(&cache->store->pool.bytes, memory_order_relaxed) >
	             KEEPER_BYTES))
		keeper_at(cache->store, UINT64_MAX - 1);
	return rc;
}

int terrace__memory_keep(struct terrace_cache *cache, struct tier_put *put,
                         const struct write_lease *lease)
{
	return keep(cache, put, lease, NULL);
}

int terrace__memory_keep_decoded(struct terrace_cache *cache, struct tier_put *put,
                                 const struct entry *bytes)
{
	return keep(cache, put, NULL, bytes);
}

/*
 * A new entry stands in its policy's window, so that it goes before whatever was
 * asked for more often; but another cache, that has borrowed, must not give either.
 */
int terrace__memory_keep_weak(struct terrace_cache *cache, const struct tier_put *put)
{
	struct terrace *store = cache->store;
	uint64_t bytes, entries;
	int rc;

	if (!terrace__memory_fits(cache, entry_charge(put->entry)))
		return TERRACE_ETOOBIG;
	rc = cache->memory_ops->put(cache->memory, put);
	bytes = max_u64(above(terrace__tiers_memory_bytes(cache->memory), cache->memory_bytes),
	                above(atomic_load(&store->pool.bytes), limit_load(&store->memory)));
	entries = max_u64(
	    above(terrace__tiers_memory_entries(cache->memory), cache->memory_entries),
	    above(atomic_load(&store->pool.entries), store->memory_entries));
	if (bytes || entries)
		terrace__memory_evict(cache, bytes, entries);
	return rc;
}

int terrace__memory_join(struct terrace_cache *cache)
{
	struct terrace *store = cache->store;
	uint64_t byte = LOCK_HOLDERS + cache->number;
	int rc;

	if (atomic_load_explicit(&cache->joined, memory_order_relaxed))
		return TERRACE_OK;
	pthread_mutex_lock(&store->bulk_lock);
	if (atomic_load(&cache->joined)) { /* another thread was faster */
		pthread_mutex_unlock(&store->bulk_lock);
		return TERRACE_OK;
	}
	rc = terrace__lock_try(store->lock_fd, byte, true);
	if (rc == 0) {
		/* Nobody else has it: what a dead process left is void. */
		atomic_store(&cache->shared->holder, store->token);
		rc = terrace__lock_try(store->lock_fd, byte, false);
	} else if (rc == -EAGAIN) {
		rc = terrace__lock_wait(store->lock_fd, byte, false);
		if (rc == 0 && atomic_load(&cache->shared->holder) != HELD_BY_MANY) {
			/* Who was alone is told before it can lose a write to us:
			 * what it puts without moving a version carries the epoch
			 * that it read before it looked who holds the cache. */
			atomic_store(&cache->shared->holder, HELD_BY_MANY);
			terrace__epoch_move(store->shared, cache->shared, NULL);
		}
	}
	atomic_store(&cache->joined, rc == 0);
	pthread_mutex_unlock(&store->bulk_lock);
	if (rc == 0)
		return TERRACE_OK;
	terrace__message_set("cannot lock cache %s: %s", cache->name, strerror(-rc));
	return TERRACE_EIO;
}

void terrace__memory_leave(struct terrace_cache *cache)
{
	if (atomic_load(&cache->joined))
		terrace__unlock(cache->store->lock_fd, LOCK_HOLDERS + cache->number);
}

/*
 * May a write leave the version as it is? Where bytes are kept beside objects, some may be
 * being decoded that this write makes old: their object must not come in behind it under the
 * same stamp. Without need it must not move: that voids what shares the slot.
 */
static bool version_stays(const struct terrace_cache *cache)
{
	return !cache->encoded && atomic_load(&cache->shared->holder) == cache->store->token;
}

uint64_t terrace__memory_stamp(struct terrace_cache *cache, const struct tier_key *key)
{
	struct shared *shared = cache->store->shared;

	return version_stays(cache) ? version_load(shared, key->slot) :
	                              terrace__version_move(shared, key->slot);
}

bool terrace__memory_stamp_from(struct terrace_cache *cache, const struct tier_key *key,
                                uint64_t version, uint64_t *ret)
{
	struct shared *shared = cache->store->shared;

	if (version_look(shared, key->slot, version) != version)
		return false;
	*ret = version;
	/* Who moves it from now on voids what is put under it. */
	if (version_stays(cache))
		return version_load(shared, key->slot) == version;
	*ret = word_make(shared, key->slot, word_value(version) + VERSION_STEP);
	return atomic_compare_exchange_strong(&shared->versions[key->slot], &version, *ret);
}

static void evict_encoded(struct terrace_cache *cache, uint64_t bytes)
{
	struct tier_evicted evicted = { 0 };

	cache->memory_ops->evict(cache->encoded, cache->number, bytes, 0, NULL, &evicted);
	entry_unlinked_all(evicted.chain); /* plain bytes: no destructor of a program runs */
}

/* False when there is nothing more. */
static bool take_back_encoded(struct terrace *store, uint64_t bytes)
{
	struct terrace_cache *victim;
	uint64_t lent;

	pthread_mutex_lock(&store->caches_lock);
	victim = borrower(store, true, &lent);
	if (victim)
		evict_encoded(victim, min_u64(bytes, lent));
	pthread_mutex_unlock(&store->caches_lock);
	return victim != NULL;
}

static void keep_encoded_within(struct terrace_cache *cache)
{
	struct terrace *store = cache->store;
	uint64_t bytes = above(terrace__tiers_memory_bytes(cache->encoded), cache->encoded_bytes);

	if (bytes)
		evict_encoded(cache, bytes);
	bytes = above(atomic_load(&store->encoded_pool.bytes), limit_load(&store->encoded));
	if (bytes)
		take_back_encoded(store, bytes);
}

void terrace__memory_keep_within(struct terrace_cache *cache)
{
	static const struct tier_evicted none;

	keep_within(cache, &none);
	if (cache->encoded)
		keep_encoded_within(cache);
}

int terrace__encoded_keep(struct terrace_cache *cache, const struct tier_key *key,
                          struct entry *entry, const struct write_lease *lease)
{
	struct tier_put put = { .key = *key, .entry = entry };
	int rc;

	if (entry_charge(entry) > cache->encoded_bytes / 8) {
		/* An older one must not stay in its place. */
		cache->memory_ops->remove(cache->encoded, key, NULL);
		return TERRACE_ETOOBIG;
	}
	rc = lease ? put_leased(cache, cache->encoded, &put, lease) :
	             cache->memory_ops->put(cache->encoded, &put);
	keep_encoded_within(cache);
	return rc;
}

void terrace__memory_forget(struct terrace_cache *cache, const struct tier_key *key)
{
	if (cache->memory)
		cache->memory_ops->remove(cache->memory, key, NULL);
	if (cache->encoded)
		cache->memory_ops->remove(cache->encoded, key, NULL);
}

static uint64_t clear_tier(struct terrace_cache *cache, void *tier)
{
	struct tier_evicted all = { 0 };

	if (!tier)
		return 0;
	cache->memory_ops->evict(tier, cache->number, UINT64_MAX, UINT64_MAX, NULL, &all);
	entry_unlinked_all(all.chain);
	return all.entries_l1;
}

uint64_t terrace__memory_clear(struct terrace_cache *cache)
{
	return max_u64(clear_tier(cache, cache->memory), clear_tier(cache, cache->encoded));
}

/* --- limits that move ------------------------------------------------------------------------- */

uint64_t terrace__memory_promised(struct terrace *store, const char *but)
{
	uint64_t promised = 0;

	pthread_mutex_lock(&store->caches_lock);
	for (struct terrace_cache *cache = store->caches; cache; cache = cache->next)
		promised += cache->memory && !(but && strcmp(cache->name, but) == 0) ?
		                cache->memory_min_bytes :
		                0;
	pthread_mutex_unlock(&store->caches_lock);
	return promised;
}

void terrace__memory_shrink(struct terrace *store)
{
	uint64_t bytes;

	take_all_back(store);
	while (
	    (bytes = above(atomic_load(&store->encoded_pool.bytes), limit_load(&store->encoded))) &&
	    take_back_encoded(store, bytes))
		;
}

uint64_t terrace__memory_evict(struct terrace_cache *cache, uint64_t bytes, uint64_t entries)
{
	struct tier_evicted evicted = { 0 };

	if (!cache->memory)
		return 0;
	evict(cache, bytes, entries, &evicted);
	entry_unlinked_all(evicted.chain);
	return evicted.entries_l1;
}
