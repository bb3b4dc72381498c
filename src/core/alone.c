#include "core/alone.h"

#include "core/entries.h"
#include "core/events.h"
#include "core/flight.h"
#include "core/keeper.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

/* Good, whatever was found in the table. */
static bool is_good(struct terrace_cache *cache, const struct tier_key *key,
                    const struct entry *entry)
{
	return atomic_load(&entry->stamp) == version_load(cache->store->shared, key->slot) &&
	       atomic_load(&entry->epoch) == atomic_load(&cache->shared->epoch) &&
	       terrace__entry_alive(cache, entry);
}

/* The entry of a table, good or not, without counting a hit; NULL when there is none. */
static struct entry *peek(struct terrace_cache *cache, void *tier, const struct tier_key *key)
{
	struct entry *entry;

	if (!tier || cache->memory_ops->get(tier, key, false, &entry) != TERRACE_OK)
		return NULL;
	return entry;
}

static bool has_good(struct terrace_cache *cache, void *tier, const struct tier_key *key)
{
	struct entry *entry = peek(cache, tier, key);
	bool good = entry && is_good(cache, key, entry);

	entry_unref(entry);
	return good;
}

/* --- put and count ------------------------------------------------------------------------------ */

/* The bytes beside a form; TERRACE_OK where none are kept. */
static int keep_bytes(struct terrace_cache *cache, const struct tier_key *key, struct entry *bytes,
                      uint64_t stamp, uint64_t epoch, const struct write_lease *lease)
{
	if (!cache->encoded)
		return TERRACE_OK;
	atomic_store(&bytes->stamp, stamp);
	atomic_store(&bytes->epoch, epoch);
	return terrace__encoded_keep(cache, key, bytes, lease);
}

/*
 * Put under the stamp of now. `put` has key and condition, and the bytes as
 * its entry; epoch was loaded before anything else was looked at, and so was *seen,
 * where what was there went into it: TERRACE_EXISTS when somebody has written since.
 */
static int store(struct terrace_cache *cache, struct tier_put *put, uint64_t epoch,
                 const uint64_t *seen, const struct write_lease *lease, struct entry **ret_decoded)
{
	struct entry *bytes = put->entry, *entry;
	uint64_t stamp = 0;
	int kept = TERRACE_OK, rc = terrace__entry_in_form(cache, bytes, &entry);

	if (rc != TERRACE_OK) {
		terrace__memory_forget(cache, &put->key);
		return rc;
	}
	if (ret_decoded && cache->has_form)
		*ret_decoded = entry_ref(entry);
	if (!lease)
		terrace__lease_outdate(cache, put->key.key);
	/* With a lease the stamp is given when it is seen to hold. */
	if (lease)
		stamp = lease->version;
	else if (!seen)
		stamp = terrace__memory_stamp(cache, &put->key);
	else if (!terrace__memory_stamp_from(cache, &put->key, *seen, &stamp)) {
		if (entry != bytes)
			entry_unref(entry);
		return TERRACE_EXISTS;
	}
	/* Nobody sees it yet, and the table shows it whole: nothing here has to wait. */
	atomic_store_explicit(&entry->stamp, stamp, memory_order_relaxed);
	atomic_store_explicit(&entry->epoch, epoch, memory_order_relaxed);
	/* First the bytes, where the version stays: see terrace__memory_keep_decoded(). */
	if (lease)
		kept = keep_bytes(cache, &put->key, bytes, stamp, epoch, lease);
	put->entry = entry;
	rc = kept == TERRACE_MISS ? TERRACE_MISS : terrace__memory_keep(cache, put, lease);
	if (!lease && (rc == TERRACE_OK || rc == TERRACE_ETOOBIG))
		kept = keep_bytes(cache, &put->key, bytes, stamp, epoch, NULL);
	/* An object that is too large for memory leaves bytes that may not be. */
	if (rc == TERRACE_ETOOBIG && cache->encoded)
		rc = kept;
	put->entry = bytes;
	if (entry != bytes)
		entry_unref(entry);
	return rc;
}

/*
 * The bytes alone, for a caller that computed them and wants no object. An
 * object of what was there before must not stay beside them.
 */
static int store_encoded(struct terrace_cache *cache, const struct tier_key *key,
                         struct entry *bytes, uint64_t epoch, const struct write_lease *lease)
{
	int rc;

	if (!cache->encoded)
		return TERRACE_OK;
	atomic_store(&bytes->epoch, epoch);
	rc = terrace__encoded_keep(cache, key, bytes, lease);
	cache->memory_ops->remove(cache->memory, key, NULL);
	return rc;
}

static int add(struct terrace_cache *cache, struct tier_put *put, uint64_t epoch)
{
	int rc;

	do {
		struct entry *old = peek(cache, cache->memory, &put->key);

		if ((old && is_good(cache, &put->key, old)) ||
		    has_good(cache, cache->encoded, &put->key)) {
			entry_unref(old);
			return TERRACE_EXISTS;
		}
		put->conditional = true;
		put->expected = old;
		rc = store(cache, put, epoch, NULL, NULL, NULL);
		entry_unref(old);
	} while (rc == TERRACE_EXISTS); /* somebody was faster: look again */
	return rc;
}

int terrace__alone_put(struct terrace_cache *cache, struct put_item *item)
{
	const struct tier_key *key = &item->hashed;
	struct tier_put put = { .key = *key, .entry = item->entry };
	uint64_t epoch;
	int rc = terrace__memory_join(cache);

	if (rc != TERRACE_OK)
		return rc;
	epoch = item->lease ? item->lease->epoch : atomic_load(&cache->shared->epoch);
	if (item->kind == WRITE_ADD)
		return add(cache, &put, epoch);
	if (item->shape == SHAPE_ENCODED && item->lease && cache->has_form)
		return store_encoded(cache, key, item->entry, epoch, item->lease);
	return store(cache, &put, epoch, NULL, item->lease,
	             item->shape == SHAPE_DECODED ? &item->decoded : NULL);
}

bool terrace__alone_put_simply(struct terrace_cache *cache, terrace_slice key, terrace_slice value)
{
	bool timed = terrace__put_is_timed(cache);
	uint64_t start = timed ? terrace__now_ns() : 0;
	struct tier_put put = { .key = cache_key_soon(cache, key), .whole = true };
	struct entry *entry;
	int rc;

	cache->memory_ops->soon_put(cache->memory, &put.key);
	if (terrace__memory_join(cache) != TERRACE_OK)
		return false;
	entry = put.entry = terrace__entry_new_plain(key, value.size);
	if (!entry)
		return false;
	entry->hash = put.key.hash;
	entry->created = terrace__now(cache->store);
	if (value.size)
		memcpy(entry_value(entry), value.data, value.size);
	atomic_store_explicit(&entry->epoch, atomic_load(&cache->shared->epoch),
	                      memory_order_relaxed);
	terrace__lease_outdate(cache, key);
	atomic_store_explicit(&entry->stamp, terrace__memory_stamp(cache, &put.key),
	                      memory_order_relaxed);
	rc = terrace__memory_keep(cache, &put, NULL);
	if (rc != TERRACE_OK) {
		entry_unref(entry);
		return false;
	}
	event_of_key(cache, TERRACE_EVENT_PUT, key, 0);
	if (timed) {
		keeper_at(cache->store, start);
		terrace__count_time(&cache->counts, TIME_put, terrace__now_ns() - start);
	}
	return true;
}

int terrace__alone_incr(struct terrace_cache *cache, struct write *write)
{
	const struct tier_key *key = &write->put.key;
	int rc = terrace__memory_join(cache);

	while (rc == TERRACE_OK) {
		uint64_t epoch = atomic_load(&cache->shared->epoch),
			 seen = version_load(cache->store->shared, key->slot);
		struct entry *old = peek(cache, cache->memory, key);

		rc = terrace__number_write(write, old && is_good(cache, key, old) ? old : NULL);
		if (rc == TERRACE_OK) {
			write->put.conditional = true;
			write->put.expected = old;
			rc = store(cache, &write->put, epoch, &seen, NULL, NULL);
		}
		entry_unref(old);
		if (rc != TERRACE_EXISTS)
			break;
		terrace__write_done(write);
		rc = TERRACE_OK;
	}
	return rc;
}

/* --- delete and touch ------------------------------------------------------------------------------ */

uint64_t terrace__alone_delete(struct terrace_cache *cache, const terrace_slice *keys, size_t count)
{
	uint64_t deleted = 0;

	for (size_t i = 0; i < count; i++) {
		struct tier_key key = cache_key(cache, keys[i]);
		bool was_there = has_good(cache, cache->memory, &key) ||
		                 has_good(cache, cache->encoded, &key);

		/* First what is being computed, then what is there. */
		terrace__lease_outdate(cache, keys[i]);
		terrace__memory_stamp(cache, &key);
		terrace__memory_forget(cache, &key);
		if (was_there) {
			deleted++;
			terrace__note_put(cache->store, key.hash, TERRACE_REASON_DELETED,
			                  terrace__now(cache->store), NULL);
		}
	}
	return deleted;
}

static void set_times(struct entry *entry, const struct write *write)
{
	struct entry_rest *rest = entry_rest(entry);

	atomic_store(&rest->ttl, write->ttl);
	atomic_store(&rest->deadline, write->expires);
	atomic_store(&entry->expires,
	             rest->idle ? entry_idle_expires(rest->idle, write->expires, write->now) :
	                          write->expires);
}

/* An entry that has no place for a time to live is replaced by one that has. */
static int touch_plain(struct terrace_cache *cache, void *tier, const struct write *write,
                       struct entry *entry)
{
	struct tier_put put = { .key = write->put.key, .conditional = true, .expected = entry };
	int rc;

	put.entry = terrace__entry_copy(entry);
	if (!put.entry)
		return no_memory("an entry");
	set_times(put.entry, write);
	rc = cache->memory_ops->put(tier, &put);
	entry_unref(put.entry);
	terrace__memory_keep_within(cache);
	return rc;
}

static int touch(struct terrace_cache *cache, void *tier, const struct write *write)
{
	int rc;

	do {
		struct entry *entry = peek(cache, tier, &write->put.key);

		rc = TERRACE_MISS;
		if (entry && is_good(cache, &write->put.key, entry)) {
			rc = TERRACE_OK;
			if (entry->plain)
				rc = touch_plain(cache, tier, write, entry);
			else
				set_times(entry, write);
		}
		entry_unref(entry);
	} while (rc == TERRACE_EXISTS); /* somebody was faster: look again */
	return rc;
}

int terrace__alone_touch(struct terrace_cache *cache, const struct write *write)
{
	int rc = touch(cache, cache->memory, write);

	/* Bytes beside an object, or without one. */
	return touch(cache, cache->encoded, write) == TERRACE_OK ? TERRACE_OK : rc;
}
