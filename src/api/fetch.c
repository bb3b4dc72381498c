#include "api/loaded.h"

#include "core/entries.h"
#include "core/flight.h"
#include "core/hit.h"
#include "core/sources.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <stdio.h>
#include <stdlib.h>

/* --- leases --------------------------------------------------------------------------------------- */

/* The entry as a get would give it: decoded where the cache has a form. */
static int in_form(struct terrace_cache *cache, struct entry **entry)
{
	struct entry *decoded;
	int rc;

	if (!cache->has_form)
		return TERRACE_OK;
	rc = terrace__entry_decode(cache, *entry, &decoded);
	if (rc != TERRACE_OK)
		return terrace_fail(rc == TERRACE_ECORRUPT ? TERRACE_EINVAL : rc,
		                    "cache %s cannot decode the value that was computed",
		                    cache->name);
	entry_unref(*entry);
	*entry = decoded;
	return TERRACE_OK;
}

static bool has_sources(const terrace_put_options *options)
{
	return options && options->sources && options->sources->count > 0;
}

int terrace__unstored(struct terrace_cache *cache, terrace_slice key, terrace_slice value,
                      const terrace_put_options *options, enum flight_shape shape,
                      struct entry **ret)
{
	CLEANUP(terrace__buf_done) struct buf extra = { 0 };
	struct entry *entry = NULL;
	int rc;

	if (!has_sources(options) || terrace__extra_pack(options, &extra) == TERRACE_OK)
		entry = terrace__entry_new(key, value.size, terrace_bytes(extra.data, extra.size));
	if (!entry)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a value of %zu bytes",
		                    value.size);
	if (value.size)
		memcpy(entry_value(entry), value.data, value.size);
	*ret = entry;
	if (!cache || shape == FLIGHT_ENCODED)
		return TERRACE_OK;
	rc = in_form(cache, ret);
	if (rc != TERRACE_OK)
		entry_unref(entry);
	return rc;
}

bool terrace__sources_stand(struct terrace_cache *cache, const terrace_sources *sources)
{
	CLEANUP(terrace__buf_done) struct buf packed = { 0 };
	uint64_t looked_at;

	if (!sources || sources->count == 0)
		return true;
	terrace__extra_counts(&packed, 0, sources->count);
	terrace__buf_append(&packed, sources->marks.data, sources->marks.size);
	return !packed.failed &&
	       terrace__sources_check(cache->store, terrace_bytes(packed.data, packed.size),
	                              &looked_at, NULL, 0) == SOURCE_SAME;
}

int terrace__loaded_entry(struct terrace_lease *lease, terrace_slice value,
                          const terrace_put_options *options, int rc, struct entry *entry,
                          struct entry **ret)
{
	enum flight_shape shape = lease->shape;
	struct terrace_cache *cache = lease->cache;

	if (rc == TERRACE_MISS) {
		count_add(&cache->counts, COUNT_outdated_loads, 1);
		terrace__log(cache->store, TERRACE_LOG_INFO,
		             "%s: a computed value was outdated before it could be stored",
		             cache->name);
	} else if (rc != TERRACE_OK) {
		terrace__swallow(cache->store, cache, "storing a computed value");
	}
	if (!entry)
		return terrace__unstored(cache, lease->key, value, options, shape, ret);
	*ret = entry;
	if (shape == FLIGHT_ENCODED || entry->kind == ENTRY_OBJECT)
		return TERRACE_OK;
	rc = in_form(cache, ret);
	if (rc != TERRACE_OK)
		entry_unref(entry);
	return rc;
}

int terrace__store_loaded(struct terrace_lease *lease, terrace_slice value,
                          const terrace_put_options *options, struct entry **ret)
{
	enum put_shape kept = lease->shape == FLIGHT_ENCODED ? SHAPE_ENCODED : SHAPE_DECODED;
	struct terrace_cache *cache = lease->cache;
	struct entry *entry = NULL;
	int rc = TERRACE_MISS;

	if (cache->tiers == 0 || cache->store->read_only)
		return terrace__unstored(cache, lease->key, value, options, lease->shape, ret);
	if (terrace__sources_stand(cache, options->sources))
		rc = terrace__put_shaped(cache, lease->key, value, options, &lease->lease, kept,
		                         &entry);
	return terrace__loaded_entry(lease, value, options, rc, entry, ret);
}

int terrace_lease_begin(terrace_cache *cache, terrace_slice key, int64_t wait_ms,
                        terrace_lease **ret_lease, terrace_value **ret_value)
{
	struct entry *entry;
	unsigned tier;
	int rc = terrace__check_cache(cache), code;

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc != TERRACE_OK)
		return rc;
	if (!cache)
		return terrace_fail(TERRACE_EINVAL,
		                    "a NULL cache gives no lease; use terrace_fetch()");
	/* A loader's code that looks like a lease is none: try again for one. */
	do
		rc = terrace__lease_begin(cache, key, wait_ms ? wait_ms : cache->store->wait_ms,
		                          FLIGHT_OBJECT, ret_lease, &entry, &tier, &code);
	while (rc == FLIGHT_FAILED && code == TERRACE_MISS);
	if (rc == TERRACE_OK)
		*ret_value = value_of(entry, tier);
	if (rc == FLIGHT_FAILED)
		return code;
	return rc == TERRACE_MISS && !*ret_lease ? TERRACE_ENOMEM : rc;
}

int terrace_lease_put(terrace_lease *lease, terrace_slice value, const terrace_put_options *options,
                      terrace_value **ret)
{
	CLEANUP(terrace__buf_done) struct buf extra = { 0 };
	terrace_put_options ours;
	struct entry *entry = NULL;
	int rc = terrace__check_cache(lease->cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_put_options(lease->cache, options, &ours);
	if (rc != TERRACE_OK)
		return rc;
	rc = terrace__extra_pack(&ours, &extra);
	if (!ours.cost_us)
		ours.cost_us = (terrace__now_ns() - lease->started_ns) / 1000;
	if (rc == TERRACE_OK)
		rc = terrace__store_loaded(lease, value, &ours, &entry);
	if (rc != TERRACE_OK) {
		if (rc != TERRACE_EINVAL)
			terrace__lease_end(lease, NULL, 0);
		return rc;
	}
	terrace__lease_end(lease, entry, 0);
	if (ret)
		*ret = value_of(entry, 0);
	else
		entry_unref(entry);
	return TERRACE_OK;
}

void terrace_lease_drop(terrace_lease *lease)
{
	if (lease && terrace__check_cache(lease->cache) == TERRACE_OK)
		terrace__lease_end(lease, NULL, 0);
}

/* --- fetch -------------------------------------------------------------------------------------------- */

int terrace__no_value(terrace_slice key)
{
	return terrace_fail(TERRACE_EINVAL, "the loader of \"%.*s\" returned 0 without a value",
	                    (int)min_u64(key.size, 100), (const char *)key.data);
}

int terrace__load_alone(struct terrace_cache *cache, terrace_slice key, enum flight_shape shape,
                        terrace_load_fn *load, void *ctx, terrace_value **ret)
{
	CLEANUP(terrace__loaded_done) struct terrace_loaded loaded = { 0 };
	struct entry *entry = NULL;
	int rc = load(ctx, key, &loaded);

	if (rc != 0)
		return rc;
	if (loaded.absent)
		return TERRACE_ABSENT;
	if (!loaded.given)
		return terrace__no_value(key);
	rc = terrace__unstored(cache, key, terrace_bytes(loaded.data, loaded.size), NULL, shape,
	                       &entry);
	if (rc == TERRACE_OK)
		*ret = value_of(entry, 0);
	return rc;
}

void terrace__load_shared(struct terrace_lease *lease, const struct terrace_loaded *loaded, int rc)
{
	if (rc != 0)
		lease->for_one = !terrace__sources_stand(lease->cache, &loaded->sources);
	else
		lease->for_one = loaded->absent && loaded->sources.count > 0;
}

int terrace__load(struct terrace_lease *lease, terrace_load_fn *load, void *ctx,
                  struct terrace_loaded *loaded)
{
	struct terrace_cache *cache = lease->cache;
	uint64_t start = terrace__now_ns(), ns;
	int rc = load(ctx, lease->key, loaded);

	ns = terrace__now_ns() - start;
	count_add(&cache->counts, COUNT_loads, 1);
	terrace__count_time(&cache->counts, TIME_load, ns);
	if (!loaded->has_cost)
		loaded->cost_us = ns / 1000;
	if (rc != 0)
		count_add(&cache->counts, COUNT_load_errors, 1);
	else if (!loaded->given && !loaded->absent)
		rc = terrace__no_value(lease->key);
	if (rc == 0)
		terrace__loaded_check(cache, loaded);
	terrace__load_shared(lease, loaded, rc);
	return rc;
}

void terrace__store_absent(struct terrace_lease *lease, terrace_put_options *options)
{
	struct terrace_cache *cache = lease->cache;

	if (cache->tiers == 0 || cache->store->read_only || cache->absent_ttl_ms == 0 ||
	    !terrace__sources_stand(cache, options->sources))
		return;
	if (!options->ttl_ms)
		options->ttl_ms = cache->absent_ttl_ms;
	if (terrace__put_absent(cache, lease->key, options, &lease->lease) < 0)
		terrace__swallow(cache->store, cache, "storing that a value is absent");
}

/* Instead of a failure. */
static int or_stale(struct terrace_cache *cache, terrace_slice key, int rc, struct entry **ret)
{
	char message[256];

	if (cache->stale_error_ms == 0)
		return rc;
	snprintf(message, sizeof message, "%s", terrace__message());
	if (terrace__get_stale(cache, key, cache->stale_error_ms, ret) == TERRACE_OK)
		return TERRACE_OK;
	terrace__message_set("%s", message);
	return rc;
}

int terrace__compute(struct terrace_lease *lease, terrace_load_fn *load, void *ctx,
                     terrace_value **ret)
{
	CLEANUP(terrace__loaded_done)
	struct terrace_loaded loaded = { .strategy = lease->strategy };
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_slice value;
	struct terrace_cache *cache = lease->cache;
	struct entry *entry = NULL;
	int rc = terrace__load(lease, load, ctx, &loaded), code;

	if (rc != 0) {
		code = rc;
		rc = or_stale(cache, lease->key, code, &entry);
		terrace__lease_end(lease, entry, code);
		if (rc == TERRACE_OK)
			*ret = value_of(entry, terrace__found_stale(cache, entry));
		return rc;
	}
	value = terrace_bytes(loaded.data, loaded.size);
	terrace__loaded_options(&loaded, &options);
	if (loaded.absent) {
		if (!loaded.keep_out)
			terrace__store_absent(lease, &options);
		terrace__lease_end(lease, NULL, TERRACE_ABSENT);
		return TERRACE_ABSENT;
	}
	if (loaded.keep_out)
		rc = terrace__unstored(lease->cache, lease->key, value, &options, lease->shape,
		                       &entry);
	else
		rc = terrace__store_loaded(lease, value, &options, &entry);
	terrace__lease_end(lease, rc == TERRACE_OK ? entry : NULL, 0);
	if (rc == TERRACE_OK)
		*ret = value_of(entry, 0);
	return rc;
}

int terrace__fetch_begin(struct terrace_cache *cache, terrace_slice key, int64_t wait_ms,
                         enum flight_shape shape, struct terrace_lease **ret_lease,
                         terrace_value **ret, int *ret_code)
{
	struct entry *entry;
	unsigned tier;
	int rc = terrace__lease_begin(cache, key, wait_ms, shape, ret_lease, &entry, &tier,
	                              ret_code);

	if (rc == TERRACE_OK) {
		*ret = value_of(entry, tier);
	} else if (rc == FLIGHT_FAILED && shape == FLIGHT_OBJECT &&
	           or_stale(cache, key, *ret_code, &entry) == TERRACE_OK) {
		*ret = value_of(entry, terrace__found_stale(cache, entry));
		return TERRACE_OK;
	}
	return rc;
}

static __attribute__((noinline)) int fetch_long(terrace_cache *cache, terrace_slice key,
                                                terrace_load_fn *load, void *ctx,
                                                enum flight_shape shape, terrace_value **ret)
{
	struct terrace_lease *lease;
	int rc, code;

	if (!cache)
		return terrace__load_alone(NULL, key, shape, load, ctx, ret);
	rc = terrace__fetch_begin(cache, key, cache->store->wait_ms, shape, &lease, ret, &code);
	if (UNLIKELY(cache->strategy > TERRACE_STRATEGY_STANDARD))
		asked_for(cache, key, TERRACE_STRATEGY_DEFAULT, rc,
		          rc == TERRACE_OK ? terrace_value_tier(*ret) : 0);
	if (rc != TERRACE_MISS)
		return rc == FLIGHT_FAILED ? code : rc;
	return lease ? terrace__compute(lease, load, ctx, ret) :
	               terrace__load_alone(cache, key, shape, load, ctx, ret);
}

/* No simple hit, but it may be in L1 all the same, as `found` is, which may be NULL. */
static __attribute__((noinline)) int fetch_hashed(terrace_cache *cache, terrace_slice key,
                                                  uint64_t hash, struct entry *found,
                                                  terrace_load_fn *load, void *ctx,
                                                  terrace_value **ret)
{
	struct entry *entry;
	unsigned tier;
	int rc = terrace__get_near_hashed(cache, key, hash, found, &entry, &tier);

	if (rc == TERRACE_MISS)
		return fetch_long(cache, key, load, ctx, FLIGHT_OBJECT, ret);
	if (rc == TERRACE_OK)
		*ret = value_of(entry, tier);
	return rc;
}

static __attribute__((noinline)) int fetch_checked(terrace_cache *cache, terrace_slice key,
                                                   terrace_load_fn *load, void *ctx,
                                                   terrace_value **ret)
{
	struct entry *entry;
	unsigned tier;
	int rc = terrace__check_cache(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc != TERRACE_OK)
		return rc;
	/* Who computes may ask for that very key, and is to be told. */
	if (!cache || !hits_are_simple(cache) || terrace__leases_held)
		return fetch_long(cache, key, load, ctx, FLIGHT_OBJECT, ret);
	rc = terrace__get_near(cache, key, &entry, &tier);
	if (rc == TERRACE_MISS)
		return fetch_long(cache, key, load, ctx, FLIGHT_OBJECT, ret);
	if (rc == TERRACE_OK)
		*ret = value_of(entry, tier);
	return rc;
}

int terrace_fetch(terrace_cache *cache, terrace_slice key, terrace_load_fn *load, void *ctx,
                  terrace_value **ret)
{
	uint64_t hash, version;
	struct entry *entry;

	if (UNLIKELY(!cache) || UNLIKELY(!hits_are_simple(cache)) || UNLIKELY(!hit_is_usual(key)) ||
	    UNLIKELY(terrace__leases_held))
		return fetch_checked(cache, key, load, ctx, ret);
	hash = hash_key(key.data, key.size, cache->seed);
	version = hit_version(cache, hash);
	entry = hit_look(cache, key, hash);
	if (UNLIKELY(!hit_is_good(cache, version, entry)))
		return fetch_hashed(cache, key, hash, entry, load, ctx, ret);
	*ret = value_of(entry, TERRACE_L1);
	return TERRACE_OK;
}

int terrace_fetch_encoded(terrace_cache *cache, terrace_slice key, terrace_load_fn *load, void *ctx,
                          terrace_value **ret)
{
	int rc = terrace__check_cache(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	return rc == TERRACE_OK ? fetch_long(cache, key, load, ctx, FLIGHT_ENCODED, ret) : rc;
}

int terrace_lease_absent(terrace_lease *lease)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	int rc = terrace__check_cache(lease->cache);

	if (rc != TERRACE_OK)
		return rc;
	terrace__store_absent(lease, &options);
	terrace__lease_end(lease, NULL, TERRACE_ABSENT);
	return TERRACE_OK;
}
