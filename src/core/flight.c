#include "core/flight.h"

#include "core/behind.h"
#include "core/entries.h"
#include "core/locks.h"
#include "core/lookup.h"
#include "core/sources.h"
#include "util/lock.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* How soon another process's death is noticed. */
enum { LOOK_AGAIN_MS = 20 };

__attribute__((tls_model("initial-exec"))) _Thread_local struct terrace_lease *terrace__leases_held;

static bool same_key(const struct terrace_cache *cache, terrace_slice key,
                     const struct terrace_cache *other, terrace_slice other_key)
{
	return cache == other && key.size == other_key.size &&
	       memcmp(key.data, other_key.data, key.size) == 0;
}

static bool holds(const struct terrace_cache *cache, terrace_slice key)
{
	for (struct terrace_lease *lease = terrace__leases_held; lease; lease = lease->outer) {
		if (same_key(cache, key, lease->cache, lease->key))
			return true;
	}
	return false;
}

/* --- flights: the list is guarded by flights.lock ------------------------------------------------ */

static struct flight *flight_find(struct flights *flights, struct terrace_cache *cache,
                                  terrace_slice key)
{
	struct flight *flight = flights->first;

	while (flight && !same_key(cache, key, flight->cache, flight->key.key))
		flight = flight->next;
	return flight;
}

static struct flight *flight_new(struct flights *flights, struct terrace_cache *cache,
                                 terrace_slice key)
{
	struct flight *flight = calloc(1, sizeof *flight + key.size);

	if (!flight)
		return NULL;
	memcpy(flight + 1, key.data, key.size);
	flight->cache = cache;
	flight->key.key = terrace_bytes(flight + 1, key.size);
	flight->users = 1;
	flight->next = flights->first;
	flights->first = flight;
	return flight;
}

/*
 * What it had, when nobody uses it any more; may be NULL. To be let go of without the lock: it
 * may be the last one to hold an object.
 */
static struct entry *flight_leave(struct flight *flight)
{
	struct entry *entry = flight->entry;

	if (--flight->users > 0)
		return NULL;
	free(flight);
	return entry;
}

/* Nobody finds it from now on; those who wait see what came out. */
static void flight_land(struct flights *flights, struct flight *flight, struct entry *entry,
                        int code, const char *message)
{
	struct flight **at = &flights->first;
	struct entry *left;

	pthread_mutex_lock(&flights->lock);
	while (*at != flight)
		at = &(*at)->next;
	*at = flight->next;
	flight->landed = true;
	flight->entry = entry ? entry_ref(entry) : NULL;
	flight->code = code;
	snprintf(flight->message, sizeof flight->message, "%s", message ? message : "");
	left = flight_leave(flight);
	pthread_cond_broadcast(&flights->landed);
	pthread_mutex_unlock(&flights->lock);
	entry_unref(left);
}

static void wait_until(struct flights *flights, int64_t deadline)
{
	struct timespec until = { deadline / 1000, (long)(deadline % 1000) * 1000000 };

	pthread_cond_timedwait(&flights->landed, &flights->lock, &until);
}

/* What waiting for a flight came to. */
enum wait_outcome {
	WAIT_VALUE, /* the entry */
	WAIT_CODE,  /* the loader's, or TERRACE_ABSENT */
	WAIT_AGAIN, /* nothing of use: look again */
	WAIT_LATE,  /* the deadline */
};

/*
 * Wait for somebody else's flight. Who joins after the key was invalidated must
 * not be given what was computed before; for them it is as if it failed. The lock is let
 * go of at the end.
 */
static enum wait_outcome flight_join(struct flights *flights, struct flight *flight,
                                     const struct write_lease *mine, int64_t deadline,
                                     struct entry **ret_entry, unsigned *ret_tier, int *ret_code)
{
	/* In memory alone a version may stand still; the owner's lease is told instead. */
	bool outdated = flight->lease.outdated && atomic_load(flight->lease.outdated);
	bool same = !outdated && mine->version == flight->lease.version &&
	            mine->bulk == flight->lease.bulk;
	enum wait_outcome outcome = WAIT_AGAIN;
	struct entry *left;

	flight->users++;
	while (!flight->landed && terrace__clock_ms(CLOCK_MONOTONIC) < deadline)
		wait_until(flights, deadline);
	if (!flight->landed) {
		outcome = WAIT_LATE;
	} else if (same && flight->entry) {
		*ret_entry = entry_ref(flight->entry);
		*ret_tier = flight->code && terrace__is_expired(flight->cache, flight->entry) ?
		                FOUND_STALE :
		                0;
		outcome = WAIT_VALUE;
	} else if (same && flight->code) {
		terrace__message_set("%s", flight->message);
		*ret_code = flight->code;
		outcome = WAIT_CODE;
	}
	left = flight_leave(flight);
	pthread_mutex_unlock(&flights->lock);
	entry_unref(left);
	return outcome;
}

/* --- among processes ---------------------------------------------------------------------------------- */

static uint64_t byte_of(uint64_t hash)
{
	return LOCK_FLIGHTS + (hash & (LOCK_FLIGHTS - 1));
}

static struct shared_outcome *outcome_of(struct terrace *store, uint64_t hash)
{
	return &store->shared->outcomes[hash % OUTCOMES];
}

/*
 * Two keys may be written to one place at a time, so that the code of one would stand beside
 * the hash of the other. What stands for the hash goes by the code as well.
 */
static uint64_t sealed(uint64_t hash, int code)
{
	return hash ^ (uint32_t)code * UINT64_C(0x9e3779b97f4a7c15);
}

/* For those in other processes who waited: this is how it failed. */
static void publish_outcome(struct terrace *store, uint64_t hash, int code)
{
	struct shared_outcome *outcome = outcome_of(store, hash);

	atomic_store(&outcome->code, code);
	atomic_store(&outcome->hash, sealed(hash, code));
	atomic_store(&outcome->made, terrace__now(store));
	atomic_fetch_add(&outcome->turn, 1);
}

/* The code with which the key's loader failed since `turn`; 0: it did not. */
static int outcome_since(struct terrace *store, uint64_t hash, uint64_t turn)
{
	struct shared_outcome *outcome = outcome_of(store, hash);
	int code;

	if (atomic_load(&outcome->turn) == turn)
		return 0;
	code = atomic_load(&outcome->code);
	return atomic_load(&outcome->hash) == sealed(hash, code) ? code : 0;
}

/*
 * Take the key's byte: TERRACE_OK; FLIGHT_FAILED when another process's computation
 * failed while we waited; TERRACE_EBUSY at the deadline.
 */
static int take_byte(struct terrace *store, uint64_t hash, int64_t deadline, int *ret_code)
{
	_Atomic uint32_t *word = &store->shared->flight_turn;
	uint64_t turn = atomic_load(&outcome_of(store, hash)->turn);

	for (;;) {
		uint32_t seen = atomic_load(word);
		int64_t left = deadline - terrace__clock_ms(CLOCK_MONOTONIC);
		int code, rc = terrace__lock_try(store->lock_fd, byte_of(hash), true);

		if (rc != -EAGAIN && rc != 0) {
			terrace__message_set("cannot lock a key: %s", strerror(-rc));
			terrace__swallow(store, NULL, "single flight");
			return TERRACE_EBUSY;
		}
		code = outcome_since(store, hash, turn);
		if (rc == 0 && code) {
			terrace__unlock(store->lock_fd, byte_of(hash));
			terrace__message_set("the computation failed in another process with %d",
			                     code);
			*ret_code = code;
			return FLIGHT_FAILED;
		}
		if (rc == 0)
			return TERRACE_OK;
		if (left <= 0)
			return TERRACE_EBUSY;
		terrace__futex_wait(word, seen, left < LOOK_AGAIN_MS ? left : LOOK_AGAIN_MS);
	}
}

/* Let others take a key's byte. */
static void give_byte(struct terrace *store, uint64_t hash)
{
	terrace__unlock(store->lock_fd, byte_of(hash));
	atomic_fetch_add(&store->shared->flight_turn, 1);
	terrace__futex_wake_all(&store->shared->flight_turn);
}

/* --- leases -------------------------------------------------------------------------------------------- */

bool terrace__lease_holds(struct terrace_cache *cache, const struct tier_key *key,
                          const struct write_lease *lease)
{
	const struct shared *shared = cache->store->shared;

	return version_stands(shared, key->slot, lease->version, version_load(shared, key->slot)) &&
	       atomic_load(&cache->shared->bulk) == lease->bulk &&
	       !(lease->outdated && atomic_load(lease->outdated));
}

void terrace__lease_outdate_others(struct terrace_cache *cache, terrace_slice key,
                                   const struct write_lease *own)
{
	for (struct terrace_lease *lease = cache->store->flights.leases; lease;
	     lease = lease->next) {
		if (same_key(cache, key, lease->cache, lease->key) &&
		    (!own || &lease->outdated != own->outdated))
			atomic_store(&lease->outdated, true);
	}
}

void terrace__lease_outdate(struct terrace_cache *cache, terrace_slice key)
{
	struct flights *flights = &cache->store->flights;

	if (atomic_load(&flights->lease_count) == 0)
		return;
	pthread_mutex_lock(&flights->lock);
	terrace__lease_outdate_others(cache, key, NULL);
	pthread_mutex_unlock(&flights->lock);
}

static void lease_register(struct terrace_lease *lease)
{
	struct flights *flights = &lease->cache->store->flights;

	pthread_mutex_lock(&flights->lock);
	lease->next = flights->leases;
	flights->leases = lease;
	atomic_fetch_add(&flights->lease_count, 1);
	pthread_mutex_unlock(&flights->lock);
}

static void lease_unregister(struct terrace_lease *lease)
{
	struct flights *flights = &lease->cache->store->flights;
	struct terrace_lease **at = &flights->leases;

	pthread_mutex_lock(&flights->lock);
	while (*at != lease)
		at = &(*at)->next;
	*at = lease->next;
	atomic_fetch_sub(&flights->lease_count, 1);
	pthread_mutex_unlock(&flights->lock);
}

static int lease_new(struct terrace_cache *cache, terrace_slice key, struct flight *flight,
                     enum flight_shape shape, struct terrace_lease **ret)
{
	struct terrace_lease *lease = malloc(sizeof *lease + key.size);

	*ret = NULL;
	if (!lease) { /* it is computed all the same, and not kept */
		no_memory("a lease");
		return TERRACE_MISS;
	}
	memcpy(lease + 1, key.data, key.size);
	*lease = (struct terrace_lease){
		.cache = cache,
		.key = terrace_bytes(lease + 1, key.size),
		.flight = flight,
		.shape = shape,
		.outer = terrace__leases_held,
		.started_ns = terrace__now_ns(),
	};
	/* Known to those who write before it looks at what is there. */
	lease_register(lease);
	lease->lease = terrace__lease_take(cache, key);
	lease->lease.outdated = &lease->outdated;
	terrace__leases_held = lease;
	*ret = lease;
	return TERRACE_MISS;
}

/* --- what has expired, while somebody computes it anew ------------------------------------------------- */

unsigned terrace__found_stale(struct terrace_cache *cache, const struct entry *entry)
{
	if (!terrace__is_expired(cache, entry))
		return 0;
	count_add(&cache->counts, COUNT_stale, 1);
	return FOUND_STALE;
}

static bool give_stale(struct terrace_cache *cache, terrace_slice key, struct entry **ret_entry,
                       unsigned *ret_tier)
{
	if (terrace__get_stale(cache, key, cache->stale_ms, ret_entry) != TERRACE_OK)
		return false;
	*ret_tier = terrace__found_stale(cache, *ret_entry);
	return true;
}

static bool may_give_stale(struct terrace_cache *cache, terrace_slice key)
{
	struct entry *entry;

	if (terrace__get_stale(cache, key, cache->stale_ms, &entry) != TERRACE_OK)
		return false;
	entry_unref(entry);
	return true;
}

/* Is it there? It may be too large to be read for an answer. */
static int look_only(struct terrace_cache *cache, terrace_slice key, struct entry **ret_entry)
{
	struct tier_facts facts = { 0 };
	terrace_reason reason;
	int rc = terrace__describe(cache, key, &facts, &reason);

	terrace__buf_done(&facts.extra);
	*ret_entry = NULL;
	return rc == TERRACE_OK ? TERRACE_OK : TERRACE_MISS;
}

/* What is there, in the shape that the caller wants; a miss is counted the first time. */
static int look(struct terrace_cache *cache, terrace_slice key, enum flight_shape shape, bool first,
                struct entry **ret_entry, unsigned *ret_tier)
{
	if (shape == FLIGHT_STREAM)
		return look_only(cache, key, ret_entry);
	if (shape == FLIGHT_ENCODED)
		return terrace__get_encoded(cache, key, first, ret_entry, ret_tier);
	if (first)
		return terrace__get(cache, key, ret_entry, ret_tier);
	return terrace__look_again(cache, key, ret_entry, ret_tier);
}

/*
 * Nobody has written the key since `before`, and nobody else can be computing it:
 * what was not there then is not there now. In memory alone a version may stand
 * still all the same.
 */
static bool is_untouched(const struct terrace_cache *cache, const struct tier_key *key,
                         const struct write_lease *before)
{
	uint64_t version = version_load(cache->store->shared, key->slot);

	return version == before->version && !version_is_writing(version) &&
	       !version_is_behind(version);
}

/*
 * This thread owns the flight. With others at work on the same key in another
 * process, wait for them; then look again before computing, unless nothing
 * happened since the key was missed, which was after `before`.
 */
static int own_flight(struct terrace_cache *cache, struct flight *flight,
                      const struct write_lease *before, int64_t deadline, enum flight_shape shape,
                      struct terrace_lease **ret_lease, struct entry **ret_entry,
                      unsigned *ret_tier, int *ret_code)
{
	struct terrace *store = cache->store;
	struct tier_key hashed = cache_key(cache, flight->key.key);
	bool has_byte = false;
	int rc = TERRACE_MISS;

	if (cache->on_disk && !store->read_only) {
		/* Two processes that each hold what the other wants would wait for ever. */
		rc = take_byte(
		    store, hashed.hash,
		    terrace__leases_held || may_give_stale(cache, flight->key.key) ? 0 : deadline,
		    ret_code);
		has_byte = rc == TERRACE_OK;
		if (rc == FLIGHT_FAILED) {
			flight_land(&store->flights, flight, NULL, *ret_code, terrace__message());
			return rc;
		}
		if (rc == TERRACE_EBUSY && shape == FLIGHT_OBJECT &&
		    give_stale(cache, flight->key.key, ret_entry, ret_tier)) {
			flight_land(&store->flights, flight, *ret_entry, TERRACE_EBUSY, NULL);
			return TERRACE_OK;
		}
	}
	if (cache->tiers && !(has_byte && is_untouched(cache, &hashed, before)))
		rc = look(cache, flight->key.key, shape, false, ret_entry, ret_tier);
	else
		rc = TERRACE_MISS;
	if (cache->tiers && (rc == TERRACE_OK || rc == TERRACE_ABSENT)) {
		if (has_byte)
			give_byte(store, hashed.hash);
		/* In memory alone nobody tells us, who have no lease, that it is written: a
		 * version may stand still. Who has joined looks for itself. */
		if (cache->on_disk)
			flight_land(&store->flights, flight, rc == TERRACE_OK ? *ret_entry : NULL,
			            rc, NULL);
		else
			flight_land(&store->flights, flight, NULL, 0, NULL);
		return rc;
	}
	lease_new(cache, flight->key.key, flight, shape, ret_lease);
	if (!*ret_lease) {
		if (has_byte)
			give_byte(store, hashed.hash);
		flight_land(&store->flights, flight, NULL, 0, NULL);
		return TERRACE_MISS;
	}
	(*ret_lease)->has_byte = has_byte;
	/* Who joins from now on compares with this. */
	pthread_mutex_lock(&store->flights.lock);
	flight->lease = (*ret_lease)->lease;
	pthread_mutex_unlock(&store->flights.lock);
	return TERRACE_MISS;
}

/* Who joined may have come after a source changed; as a hit, it is looked at. */
static bool sources_stand(struct terrace_cache *cache, struct entry *entry)
{
	uint64_t looked_at;

	if (!entry_extra(entry).size || cache->check_ms < 0 ||
	    terrace__sources_check(cache->store, entry_extra(entry), &looked_at, NULL, 0) ==
	        SOURCE_SAME)
		return true;
	entry_unref(entry);
	return false;
}

/* The entry of a flight that this caller joined, in the shape that it wants. */
static bool reshape(struct terrace_cache *cache, enum flight_shape shape, struct entry **entry)
{
	struct entry *decoded;
	bool is_object = (*entry)->kind == ENTRY_OBJECT;
	int rc = TERRACE_MISS;

	if (!cache->has_form || is_object == (shape == FLIGHT_OBJECT))
		return true;
	/* Bytes cannot be had of an object: they are looked for where they are kept. */
	if (!is_object)
		rc = terrace__entry_decode(cache, *entry, &decoded);
	entry_unref(*entry);
	if (rc == TERRACE_OK)
		*entry = decoded;
	return rc == TERRACE_OK;
}

int terrace__lease_begin(struct terrace_cache *cache, terrace_slice key, int64_t wait_ms,
                         enum flight_shape shape, struct terrace_lease **ret_lease,
                         struct entry **ret_entry, unsigned *ret_tier, int *ret_code)
{
	struct flights *flights = &cache->store->flights;
	bool looked = false; /* for an expired value */
	int64_t deadline;
	int rc;

	if (holds(cache, key)) {
		terrace__message_set("the loader of \"%.*s\" of cache %s asked for that very key",
		                     (int)min_u64(key.size, 100), (const char *)key.data,
		                     cache->name);
		return TERRACE_ECYCLE;
	}
	/* Most are here: before anything else that takes time. */
	if (cache->tiers && shape == FLIGHT_OBJECT) {
		rc = terrace__get_near(cache, key, ret_entry, ret_tier);
		if (rc == TERRACE_OK || rc == TERRACE_ABSENT)
			return rc;
	}
	deadline = add_sat_i64(terrace__clock_ms(CLOCK_MONOTONIC), wait_ms);
	for (;;) {
		struct write_lease mine = terrace__lease_take(cache, key);
		struct flight *flight;
		enum wait_outcome outcome;

		if (cache->tiers) {
			rc = look(cache, key, shape, true, ret_entry, ret_tier);
			if (rc == TERRACE_OK || rc == TERRACE_ABSENT)
				return rc;
		}
		/* Within a transaction all others wait for this thread, and must not
		 * be handed what may yet be rolled back. */
		if (terrace__transaction_mine(cache->store))
			return lease_new(cache, key, NULL, shape, ret_lease);
		pthread_mutex_lock(&flights->lock);
		flight = flight_find(flights, cache, key);
		if (!flight) {
			flight = flight_new(flights, cache, key);
			/* Until it owns the key, it computes for those who come now. */
			if (flight)
				flight->lease = mine;
			pthread_mutex_unlock(&flights->lock);
			return flight ? own_flight(cache, flight, &mine, deadline, shape, ret_lease,
			                           ret_entry, ret_tier, ret_code) :
			                lease_new(cache, key, NULL, shape, ret_lease);
		}
		if (cache->stale_ms > 0 && !looked && shape == FLIGHT_OBJECT) {
			pthread_mutex_unlock(&flights->lock);
			if (give_stale(cache, key, ret_entry, ret_tier))
				return TERRACE_OK;
			looked = true;
			continue;
		}
		/* Who holds one key and waits for another may wait for themselves in
		 * the end; they compute alongside. */
		if (terrace__leases_held) {
			pthread_mutex_unlock(&flights->lock);
			return lease_new(cache, key, NULL, shape, ret_lease);
		}
		outcome = flight_join(flights, flight, &mine, deadline, ret_entry, ret_tier,
		                      ret_code);
		if (outcome == WAIT_VALUE &&
		    (!sources_stand(cache, *ret_entry) || !reshape(cache, shape, ret_entry)))
			continue;
		if (outcome == WAIT_VALUE || outcome == WAIT_CODE)
			count_add(&cache->counts, COUNT_shared_loads, 1);
		if (outcome == WAIT_VALUE)
			return TERRACE_OK;
		if (outcome == WAIT_CODE)
			return *ret_code == TERRACE_ABSENT ? TERRACE_ABSENT : FLIGHT_FAILED;
		if (outcome == WAIT_LATE)
			return lease_new(cache, key, NULL, shape, ret_lease);
	}
}

void terrace__lease_leave(struct terrace_lease *lease)
{
	struct terrace_lease **at = &terrace__leases_held;

	while (*at && *at != lease)
		at = &(*at)->outer;
	if (*at)
		*at = lease->outer;
}

void terrace__lease_enter(struct terrace_lease *lease)
{
	lease->outer = terrace__leases_held;
	terrace__leases_held = lease;
}

int terrace__lease_watch(struct terrace_cache *cache, terrace_slice key, struct terrace_lease **ret)
{
	/* A value of ours that waits would change the version when it is written. */
	if (cache->on_disk)
		terrace__behind_settle(cache->store, cache_key(cache, key).slot);
	lease_new(cache, key, NULL, FLIGHT_ENCODED, ret);
	if (!*ret)
		return TERRACE_ENOMEM;
	terrace__lease_leave(*ret);
	return TERRACE_OK;
}

void terrace__lease_end(struct terrace_lease *lease, struct entry *entry, int code)
{
	struct terrace_cache *cache = lease->cache;
	struct terrace *store = cache->store;

	if (lease->has_byte) {
		struct tier_key key = cache_key(cache, lease->key);

		/* Those who came after an invalidation wait as well, and cannot tell. */
		if (code && code != TERRACE_ABSENT && !lease->for_one &&
		    terrace__lease_holds(cache, &key, &lease->lease))
			publish_outcome(store, key.hash, code);
		give_byte(store, key.hash);
	}
	if (lease->flight && lease->for_one)
		flight_land(&store->flights, lease->flight, NULL, 0, NULL);
	else if (lease->flight)
		flight_land(&store->flights, lease->flight, entry, code, terrace__message());
	terrace__lease_leave(lease);
	lease_unregister(lease);
	free(lease);
}
