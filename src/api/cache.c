#include "api/api.h"

#include "core/alone.h"
#include "core/bulk.h"
#include "core/flight.h"
#include "core/hit.h"
#include "util/message.h"

#include <stdlib.h>

int terrace_cache_open(terrace *store, const char *name, const terrace_policy *policy,
                       terrace_cache **ret)
{
	int rc;

	if (!ret)
		return terrace_fail(TERRACE_EINVAL,
		                    "terrace_cache_open() needs a place for the cache");
	if (!store) {
		*ret = NULL;
		return TERRACE_OK;
	}
	rc = terrace__check_store(store);
	if (rc != TERRACE_OK)
		return rc;
	return terrace__cache_open(store, name ? name : "default", policy, false, ret);
}

void terrace_cache_close(terrace_cache *cache)
{
	if (cache && terrace__check_cache(cache) == TERRACE_OK)
		terrace__cache_close(cache, false);
}

const char *terrace_cache_name(const terrace_cache *cache)
{
	return cache ? cache->name : "";
}

/* --- values -------------------------------------------------------------------------------- */

const void *terrace_data(const terrace_value *value)
{
	struct entry *entry = value_entry(value);

	return entry && !entry_is_object(entry) ? entry_value(entry) : NULL;
}

size_t terrace_size(const terrace_value *value)
{
	struct entry *entry = value_entry(value);

	if (!entry)
		return 0;
	return entry->kind == ENTRY_OBJECT ? entry_object(entry)->weight :
	                                     (size_t)entry->value_size;
}

terrace_slice terrace_slice_of(const terrace_value *value)
{
	const void *data = terrace_data(value);

	return terrace_bytes(data, data ? terrace_size(value) : 0);
}

void *terrace_object(const terrace_value *value)
{
	struct entry *entry = value_entry(value);

	return entry && entry->kind == ENTRY_OBJECT ? entry_object(entry)->object : NULL;
}

unsigned terrace_value_tier(const terrace_value *value)
{
	return (unsigned)((uintptr_t)value & 7);
}

bool terrace_value_stale(const terrace_value *value)
{
	return (uintptr_t)value & VALUE_STALE;
}

void terrace_release(terrace_value *value)
{
	entry_unref(value_entry(value));
}

/* --- reading --------------------------------------------------------------------------------- */

static int got(terrace_cache *cache, terrace_slice key, int rc, struct entry *entry, unsigned tier,
               terrace_value **ret)
{
	asked_for(cache, key, TERRACE_STRATEGY_DEFAULT, rc, tier);
	if (rc == TERRACE_OK)
		*ret = value_of(entry, tier);
	return rc == TERRACE_ABSENT ? TERRACE_MISS : rc;
}

static __attribute__((noinline)) int get_long(terrace_cache *cache, terrace_slice key,
                                              terrace_value **ret)
{
	struct entry *entry = NULL;
	unsigned tier = 0;
	int rc = terrace__check_cache(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc != TERRACE_OK)
		return rc;
	if (holds_nothing(cache))
		return TERRACE_MISS;
	rc = terrace__get(cache, key, &entry, &tier);
	return got(cache, key, rc, entry, tier, ret);
}

/* No simple hit. In the order of the registers that they are in already. */
static __attribute__((noinline)) int get_hashed(terrace_cache *cache, terrace_slice key,
                                                terrace_value **ret, uint64_t hash,
                                                struct entry *found)
{
	struct entry *entry = NULL;
	unsigned tier = 0;
	int rc = terrace__get_hashed(cache, key, hash, found, &entry, &tier);

	return got(cache, key, rc, entry, tier, ret);
}

int terrace_get(terrace_cache *cache, terrace_slice key, terrace_value **ret)
{
	uint64_t hash, version;
	struct entry *entry;

	if (UNLIKELY(!cache) || UNLIKELY(!hits_are_simple(cache)) || UNLIKELY(!hit_is_usual(key)))
		return get_long(cache, key, ret);
	hash = hash_key(key.data, key.size, cache->seed);
	version = hit_version(cache, hash);
	entry = hit_look(cache, key, hash);
	if (UNLIKELY(!hit_is_good(cache, version, entry)))
		return get_hashed(cache, key, ret, hash, entry);
	*ret = value_of(entry, TERRACE_L1);
	return TERRACE_OK;
}

int terrace_get_encoded(terrace_cache *cache, terrace_slice key, terrace_value **ret)
{
	struct entry *entry;
	unsigned tier;
	int rc = terrace__check_cache(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc != TERRACE_OK)
		return rc;
	if (holds_nothing(cache))
		return TERRACE_MISS;
	rc = terrace__get_encoded(cache, key, true, &entry, &tier);
	if (rc == TERRACE_OK)
		*ret = value_of(entry, tier);
	return rc == TERRACE_ABSENT ? TERRACE_MISS : rc;
}

int terrace_get_or(terrace_cache *cache, terrace_slice key, terrace_slice fallback,
                   terrace_value **ret)
{
	struct entry *entry;
	int rc = terrace_get(cache, key, ret);

	if (rc != TERRACE_MISS)
		return rc;
	entry = terrace__entry_new(key, fallback.size, terrace_bytes(NULL, 0));
	if (!entry)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a value");
	if (fallback.size)
		memcpy(entry_value(entry), fallback.data, fallback.size);
	*ret = value_of(entry, 0);
	return TERRACE_OK;
}

int terrace_get_many(terrace_cache *cache, const terrace_slice *keys, size_t count,
                     terrace_value **ret_values, size_t *ret_hits)
{
	size_t hits = 0;
	bool reads_ahead;
	int rc = terrace__check_cache(cache);

	for (size_t i = 0; i < count && rc == TERRACE_OK; i++)
		rc = terrace__check_key(keys[i]);
	if (rc != TERRACE_OK)
		return rc;
	reads_ahead = cache && cache->strategy > TERRACE_STRATEGY_STANDARD;
	for (size_t at = 0; at < count; at += GET_AT_ONCE) {
		size_t some = count - at < GET_AT_ONCE ? count - at : GET_AT_ONCE;
		struct entry *entries[GET_AT_ONCE] = { NULL };
		unsigned tiers[GET_AT_ONCE];

		if (!holds_nothing(cache))
			terrace__get_some(cache, &keys[at], some, entries, tiers);
		for (size_t i = 0; i < some && reads_ahead; i++)
			asked_for(cache, keys[at + i], TERRACE_STRATEGY_DEFAULT,
			          entries[i] ? TERRACE_OK : TERRACE_MISS,
			          entries[i] ? tiers[i] : 0);
		for (size_t i = 0; i < some; i++) {
			ret_values[at + i] = entries[i] ? value_of(entries[i], tiers[i]) : NULL;
			hits += entries[i] != NULL;
		}
	}
	if (ret_hits)
		*ret_hits = hits;
	return TERRACE_OK;
}

int terrace_exists(terrace_cache *cache, terrace_slice key)
{
	struct tier_facts facts = { 0 };
	terrace_reason reason;
	int rc = terrace__check_cache(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc != TERRACE_OK)
		return rc;
	if (holds_nothing(cache))
		return TERRACE_MISS;
	rc = terrace__describe(cache, key, &facts, &reason);
	terrace__buf_done(&facts.extra);
	if (rc == TERRACE_OK || rc == TERRACE_MISS)
		return rc;
	terrace__swallow(cache->store, cache, "looking for an entry");
	return TERRACE_MISS;
}

/* --- writing ------------------------------------------------------------------------------------- */

/* What must still hold for a value that was computed under a lease. */
static const struct write_lease *lease_for(terrace_cache *cache, terrace_slice key,
                                           const struct terrace_lease *lease,
                                           struct write_lease *ret)
{
	if (!lease)
		return NULL;
	/* The key may be another than the lease's, and was not known when that
	 * began: its own version counts from now. */
	*ret = terrace__lease_take(cache, key);
	ret->bulk = lease->lease.bulk;
	ret->epoch = lease->lease.epoch;
	ret->outdated = NULL;
	return ret;
}

static int put_items(terrace_cache *cache, const terrace_item *items, size_t count,
                     enum write_kind kind, const terrace_put_options *options)
{
	terrace_put_options ours;
	struct put_item single, *puts = &single;
	struct write_lease lease;
	int rc = terrace__check_writing(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_put_options(cache, options, &ours);
	if (rc == TERRACE_OK && ours.lease && (count != 1 || ours.lease->cache != cache))
		rc = terrace_fail(TERRACE_EINVAL,
		                  "a lease is for a single put into the cache that gave it");
	for (size_t i = 0; i < count && rc == TERRACE_OK; i++)
		rc = terrace__check_key(items[i].key);
	if (rc != TERRACE_OK || holds_nothing(cache) || count == 0)
		return rc;
	if (count > 1) {
		puts = calloc(count, sizeof *puts);
		if (!puts)
			return terrace_fail(TERRACE_ENOMEM, "out of memory for %zu puts", count);
	}
	for (size_t i = 0; i < count; i++)
		puts[i] = (struct put_item){
			.key = items[i].key,
			.value = items[i].value,
			.kind = kind,
			.lease = lease_for(cache, items[i].key, ours.lease, &lease),
		};
	rc = terrace__put_many(cache, puts, count, &ours);
	if (rc == TERRACE_OK && count == 1)
		rc = puts[0].rc;
	for (size_t i = 0; i < count; i++)
		entry_unref(puts[i].entry);
	if (puts != &single)
		free(puts);
	if (rc < 0)
		terrace__log(cache->store, TERRACE_LOG_WARN, "%s: put: %s", cache->name,
		             terrace__message());
	return rc;
}

int terrace_put(terrace_cache *cache, terrace_slice key, terrace_slice value,
                const terrace_put_options *options)
{
	terrace_item item = { key, value };

	if (!options && terrace__check_cache(cache) == TERRACE_OK && cache && cache->puts_simply &&
	    terrace__check_key(key) == TERRACE_OK && terrace__alone_put_simply(cache, key, value))
		return TERRACE_OK;
	return put_items(cache, &item, 1, WRITE_PUT, options);
}

int terrace_put_many(terrace_cache *cache, const terrace_item *items, size_t count,
                     const terrace_put_options *options)
{
	return put_items(cache, items, count, WRITE_PUT, options);
}

int terrace_add(terrace_cache *cache, terrace_slice key, terrace_slice value,
                const terrace_put_options *options)
{
	terrace_item item = { key, value };

	return put_items(cache, &item, 1, WRITE_ADD, options);
}

int terrace_incr(terrace_cache *cache, terrace_slice key, int64_t delta, int64_t initial,
                 int64_t *ret)
{
	int rc = terrace__check_writing(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc != TERRACE_OK)
		return rc;
	if (cache && cache->has_form)
		return terrace_fail(TERRACE_EINVAL,
		                    "cache %s has a form; its values are no numbers", cache->name);
	if (holds_nothing(cache)) {
		int64_t sum;

		if (__builtin_add_overflow(initial, delta, &sum))
			return terrace_fail(TERRACE_EINVAL, "the sum leaves 64 bits");
		if (ret)
			*ret = sum;
		return TERRACE_OK;
	}
	return terrace__incr(cache, key, delta, initial, ret);
}

int terrace_delete_many(terrace_cache *cache, const terrace_slice *keys, size_t count,
                        uint64_t *ret_count)
{
	uint64_t deleted = 0;
	int rc = terrace__check_writing(cache);

	for (size_t i = 0; i < count && rc == TERRACE_OK; i++)
		rc = terrace__check_key(keys[i]);
	if (rc == TERRACE_OK && !holds_nothing(cache) && count > 0)
		rc = terrace__delete_many(cache, keys, count, &deleted);
	if (rc == TERRACE_OK && ret_count)
		*ret_count = deleted;
	return rc;
}

int terrace_delete(terrace_cache *cache, terrace_slice key)
{
	uint64_t deleted = 0;
	int rc = terrace_delete_many(cache, &key, 1, &deleted);

	if (rc == TERRACE_OK && deleted == 0)
		return TERRACE_MISS;
	return rc;
}

int terrace_touch(terrace_cache *cache, terrace_slice key, int64_t ttl_ms)
{
	int rc = terrace__check_writing(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc == TERRACE_OK && ttl_ms < TERRACE_TTL_NONE)
		rc = terrace_fail(TERRACE_EINVAL, "ttl_ms is negative");
	if (rc != TERRACE_OK)
		return rc;
	return holds_nothing(cache) ? TERRACE_MISS : terrace__touch(cache, key, ttl_ms);
}

/* --- many ------------------------------------------------------------------------------------------- */

int terrace_clear(terrace_cache *cache, unsigned tiers, uint64_t *ret_count)
{
	const unsigned all = TERRACE_L1 | TERRACE_L2 | TERRACE_L3;
	uint64_t count = 0;
	int rc = tiers == TERRACE_L1 ? terrace__check_cache(cache) : terrace__check_writing(cache);

	if (rc == TERRACE_OK && tiers & ~all)
		rc = terrace_fail(TERRACE_EINVAL, "there is no such tier to clear");
	if (rc == TERRACE_OK && !holds_nothing(cache)) {
		if (tiers == 0 || tiers == all)
			rc = terrace__clear(cache, &count);
		else
			rc = terrace__clear_tiers(cache, tiers, &count);
	}
	if (rc == TERRACE_OK && ret_count)
		*ret_count = count;
	return rc;
}

int terrace_invalidate(terrace_cache *cache, const terrace_match *match, uint64_t *ret_count)
{
	char path[PATH_MAX];
	terrace_match ours;
	uint64_t count = 0;
	int rc = terrace__check_writing(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_match(match, &ours, path, sizeof path);
	if (rc != TERRACE_OK)
		return rc;
	if (!holds_nothing(cache)) {
		if (ours.kind == TERRACE_MATCH_KEY)
			rc = terrace__delete_many(cache, &ours.text, 1, &count);
		else if (ours.kind == TERRACE_MATCH_ALL)
			rc = terrace__clear(cache, &count);
		else
			rc = terrace__invalidate(cache, &ours, &count);
	}
	if (rc == TERRACE_OK && ret_count)
		*ret_count = count;
	return rc;
}

struct terrace_keys {
	struct key_list list;
	bool has_list;
	bool single; /* one key, in the list's match text */
};

static int keys_open(terrace_cache *cache, const terrace_match *match, bool newest_first,
                     terrace_keys **ret)
{
	char path[PATH_MAX];
	terrace_match ours;
	terrace_keys *keys;
	int rc = terrace__check_cache(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_match(match, &ours, path, sizeof path);
	if (rc != TERRACE_OK)
		return rc;
	keys = calloc(1, sizeof *keys);
	if (!keys)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a listing");
	if (!holds_nothing(cache)) {
		rc = terrace__keys_start(cache, &ours, newest_first, &keys->list);
		keys->has_list = true;
		keys->single = ours.kind == TERRACE_MATCH_KEY;
	}
	if (rc != TERRACE_OK) {
		terrace_keys_close(keys);
		return rc;
	}
	*ret = keys;
	return TERRACE_OK;
}

int terrace_keys_open(terrace_cache *cache, const terrace_match *match, terrace_keys **ret)
{
	return keys_open(cache, match, false, ret);
}

int terrace_keys_open_newest(terrace_cache *cache, const terrace_match *match, terrace_keys **ret)
{
	return keys_open(cache, match, true, ret);
}

int terrace_keys_next(terrace_keys *keys, terrace_slice *ret)
{
	int rc;

	if (!keys->has_list)
		return TERRACE_MISS;
	rc = terrace__check_cache(keys->list.cache);
	if (rc != TERRACE_OK)
		return rc;
	if (!keys->single)
		return terrace__keys_next(&keys->list, ret);
	if (keys->list.at_end)
		return TERRACE_MISS;
	keys->list.at_end = true;
	if (terrace_exists(keys->list.cache, keys->list.match.text) != TERRACE_OK)
		return TERRACE_MISS;
	*ret = keys->list.match.text;
	return TERRACE_OK;
}

void terrace_keys_close(terrace_keys *keys)
{
	if (!keys)
		return;
	if (keys->has_list)
		terrace__keys_done(&keys->list);
	free(keys);
}

int terrace_cleanup(terrace *store, terrace_cache *cache, uint64_t *ret_count)
{
	uint64_t count = 0, one = 0;
	struct terrace_cache *all[CACHES_MAX];
	size_t open;
	int rc = store ? terrace__check_store(store) : TERRACE_OK;

	if (rc == TERRACE_OK && store && store->read_only)
		rc = terrace__check_writable(store);

	if (rc == TERRACE_OK && cache) {
		rc = terrace__check_cache(cache);
		if (rc == TERRACE_OK && !holds_nothing(cache))
			rc = terrace__cleanup(cache, &count);
	} else if (rc == TERRACE_OK && store) {
		open = terrace__caches_hold(store, all);
		for (size_t i = 0; i < open; i++) {
			if (rc == TERRACE_OK && !holds_nothing(all[i]))
				rc = terrace__cleanup(all[i], &one);
			count += rc == TERRACE_OK ? one : 0;
			terrace__cache_close(all[i], false);
		}
	}
	if (rc == TERRACE_OK && ret_count)
		*ret_count = count;
	return rc;
}

int terrace_check_sources(terrace_cache *cache, uint64_t *ret_count)
{
	uint64_t count = 0;
	int rc = terrace__check_cache(cache);

	if (rc == TERRACE_OK && !holds_nothing(cache))
		rc = terrace__check_sources(cache, &count);
	if (rc == TERRACE_OK && ret_count)
		*ret_count = count;
	return rc;
}
