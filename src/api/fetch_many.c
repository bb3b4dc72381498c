/* Fetching many keys, of which one call computes what is missing. */
#include "api/loaded.h"

#include "core/flight.h"
#include "util/time.h"
#include "util/util.h"

#include <stdlib.h>

enum { KEYS_MOST = 4096 };

/* A key that is nowhere. */
struct missing {
	size_t at;                   /* which of the caller's */
	struct terrace_lease *lease; /* NULL: it is for this caller alone */
	struct entry *entry;         /* what came of it */
};

struct many {
	struct terrace_cache *cache;
	const terrace_slice *keys;
	size_t count;
	terrace_value **values;
	size_t *twin; /* behind `missing`: which of those is the same key; count: none */
	struct missing *missing;
	terrace_slice *missing_keys;
	struct terrace_loaded *loaded;
	terrace_loaded **loaded_at;
	size_t missing_count;
};

static void many_done(struct many *many)
{
	for (size_t i = 0; i < many->count && many->values; i++)
		terrace_release(many->values[i]);
	for (size_t i = 0; i < many->missing_count; i++) {
		if (many->missing[i].lease)
			terrace__lease_end(many->missing[i].lease, NULL, 0);
		entry_unref(many->missing[i].entry);
		if (many->loaded)
			terrace__loaded_done(&many->loaded[i]);
	}
	free(many->values);
	free(many->twin);
	free(many->missing);
	free(many->missing_keys);
	free(many->loaded);
	free(many->loaded_at);
}

/* One that this very call is about to compute; missing_count: none. */
static size_t find_twin(const struct many *many, terrace_slice key)
{
	size_t i = 0;

	while (i < many->missing_count &&
	       (many->missing_keys[i].size != key.size ||
	        memcmp(many->missing_keys[i].data, key.data, key.size) != 0))
		i++;
	return i;
}

static void add_missing(struct many *many, size_t at, struct terrace_lease *lease)
{
	many->missing[many->missing_count] = (struct missing){ .at = at, .lease = lease };
	many->missing_keys[many->missing_count++] = many->keys[at];
}

/* What is there, and leases for what is not. */
static void look(struct many *many)
{
	struct terrace_cache *cache = many->cache;

	for (size_t i = 0; i < many->count; i++) {
		struct terrace_lease *lease = NULL;
		struct entry *entry;
		unsigned tier = 0;
		int rc = TERRACE_MISS, code; /* of others: these are computed here */

		if (cache)
			rc = terrace__lease_begin(cache, many->keys[i], cache->store->wait_ms,
			                          FLIGHT_OBJECT, &lease, &entry, &tier, &code);
		many->twin[i] = many->count;
		if (rc == TERRACE_OK) {
			many->values[i] = value_of(entry, tier);
			asked_for(cache, many->keys[i], TERRACE_STRATEGY_DEFAULT, rc, tier);
		} else if (rc != TERRACE_ABSENT) {
			size_t twin = find_twin(many, many->keys[i]);

			lease = rc == TERRACE_MISS ? lease : NULL;
			if (twin == many->missing_count) {
				add_missing(many, i, lease);
				continue;
			}
			many->twin[i] = twin;
			/* Whoever computed it the first time has failed by now. */
			if (lease)
				many->missing[twin].lease = lease;
		}
	}
}

static int load_missing(struct many *many, terrace_load_many_fn *load, void *ctx, uint64_t *ret_us)
{
	struct terrace_cache *cache = many->cache;
	uint64_t start = terrace__now_ns(), ns;
	int rc;

	many->loaded = calloc(many->missing_count, sizeof *many->loaded);
	many->loaded_at = calloc(many->missing_count, sizeof *many->loaded_at);
	if (!many->loaded || !many->loaded_at)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for %zu values",
		                    many->missing_count);
	for (size_t i = 0; i < many->missing_count; i++)
		many->loaded_at[i] = &many->loaded[i];
	rc = load(ctx, many->missing_keys, many->missing_count, many->loaded_at);
	ns = terrace__now_ns() - start;
	*ret_us = ns / 1000 / many->missing_count;
	if (cache) {
		count_add(&cache->counts, COUNT_loads, many->missing_count);
		terrace__count_time(&cache->counts, TIME_load, ns);
		count_add(&cache->counts, COUNT_load_errors, rc != 0);
	}
	return rc;
}

/* With nothing of its own that its transaction could not share. */
static bool is_plain(const struct terrace_loaded *loaded)
{
	return loaded->given && !loaded->absent && !loaded->keep_out && !loaded->ttl_ms &&
	       !loaded->idle_ms && !loaded->has_cost && !loaded->strategy && !loaded->tag_count &&
	       !loaded->sources.count;
}

/* Those that are plain, in one transaction. */
static int store_plain(struct many *many, uint64_t cost_us)
{
	struct put_item *items = calloc(many->missing_count, sizeof *items);
	size_t *at = calloc(many->missing_count, sizeof *at), count = 0;
	terrace_put_options options = TERRACE_PUT_INIT;
	int rc = TERRACE_OK, stored = TERRACE_OK;

	for (size_t i = 0; items && at && i < many->missing_count; i++) {
		const struct terrace_loaded *loaded = &many->loaded[i];
		struct terrace_lease *lease = many->missing[i].lease;

		if (!lease || !is_plain(loaded))
			continue;
		at[count] = i;
		items[count++] = (struct put_item){
			.key = lease->key,
			.value = terrace_bytes(loaded->data, loaded->size),
			.lease = &lease->lease,
			.kind = WRITE_PUT,
			.shape = SHAPE_DECODED,
		};
	}
	options.cost_us = cost_us;
	if (count > 0)
		stored = terrace__put_many(many->cache, items, count, &options);
	for (size_t i = 0; i < count && rc == TERRACE_OK; i++) {
		struct missing *missing = &many->missing[at[i]];
		struct entry *entry = items[i].decoded ? items[i].decoded : items[i].entry, *given;

		if (items[i].decoded)
			entry_unref(items[i].entry);
		items[i].entry = items[i].decoded = NULL;
		/* Each has its own status, but for those that it did not come to. */
		rc = terrace__loaded_entry(missing->lease, items[i].value, &options,
		                           entry ? items[i].rc : stored, entry, &given);
		if (rc == TERRACE_OK)
			missing->entry = given;
	}
	for (size_t i = 0; i < count; i++) {
		entry_unref(items[i].entry);
		entry_unref(items[i].decoded);
	}
	free(items);
	free(at);
	return rc;
}

static int store_one(struct many *many, size_t i, uint64_t cost_us)
{
	struct terrace_loaded *loaded = &many->loaded[i];
	struct missing *missing = &many->missing[i];
	terrace_slice value = terrace_bytes(loaded->data, loaded->size);
	terrace_put_options options = TERRACE_PUT_INIT;
	struct entry *given;
	int rc;

	if (missing->entry)
		return TERRACE_OK;
	if (!loaded->has_cost)
		loaded->cost_us = cost_us;
	terrace__loaded_check(many->cache, loaded);
	terrace__loaded_options(loaded, &options);
	if (loaded->absent && missing->lease && !loaded->keep_out)
		terrace__store_absent(missing->lease, &options);
	if (loaded->absent || !loaded->given)
		return TERRACE_OK;
	if (!missing->lease || loaded->keep_out)
		rc = terrace__unstored(many->cache, many->keys[missing->at], value, &options,
		                       FLIGHT_OBJECT, &given);
	else
		rc = terrace__store_loaded(missing->lease, value, &options, &given);
	if (rc == TERRACE_OK)
		missing->entry = given;
	return rc;
}

/* To those who wait, and to the caller. `rc` is of the loader, or of what came after it. */
static void hand_out(struct many *many, int rc)
{
	for (size_t i = 0; i < many->missing_count; i++) {
		struct missing *missing = &many->missing[i];
		int code = rc == 0 && many->loaded[i].absent ? TERRACE_ABSENT : rc;

		if (missing->lease && many->loaded)
			terrace__load_shared(missing->lease, &many->loaded[i], rc);
		if (missing->lease)
			terrace__lease_end(missing->lease, rc == 0 ? missing->entry : NULL, code);
		missing->lease = NULL;
		if (missing->entry)
			many->values[missing->at] = value_of(entry_ref(missing->entry), 0);
	}
	for (size_t i = 0; i < many->count; i++) {
		struct entry *entry = many->twin[i] < many->count ?
		                          many->missing[many->twin[i]].entry :
		                          NULL;

		if (entry)
			many->values[i] = value_of(entry_ref(entry), 0);
	}
}

static int compute(struct many *many, terrace_load_many_fn *load, void *ctx)
{
	struct terrace_cache *cache = many->cache;
	uint64_t cost_us = 0;
	int rc = load_missing(many, load, ctx, &cost_us), loaded = rc;

	if (rc == 0 && cache && cache->tiers && !cache->store->read_only)
		rc = store_plain(many, cost_us);
	for (size_t i = 0; i < many->missing_count && rc == 0; i++)
		rc = store_one(many, i, cost_us);
	/* Only the loader's own failure is that of others who wait. */
	if (rc == 0 || loaded != 0)
		hand_out(many, rc);
	return rc;
}

int terrace_fetch_many(terrace_cache *cache, const terrace_slice *keys, size_t count,
                       terrace_load_many_fn *load, void *ctx, terrace_value **ret_values)
{
	struct many many = { .cache = cache, .keys = keys, .count = count };
	int rc = terrace__check_cache(cache);

	for (size_t i = 0; i < count && rc == TERRACE_OK; i++)
		rc = terrace__check_key(keys[i]);
	if (rc == TERRACE_OK && count > KEYS_MOST)
		rc = terrace_fail(TERRACE_EINVAL, "at most %d keys are fetched at once, not %zu",
		                  KEYS_MOST, count);
	if (rc != TERRACE_OK || count == 0)
		return rc;
	many.values = calloc(count, sizeof(terrace_value *));
	many.twin = calloc(count, sizeof *many.twin);
	many.missing = calloc(count, sizeof *many.missing);
	many.missing_keys = calloc(count, sizeof *many.missing_keys);
	if (!many.values || !many.twin || !many.missing || !many.missing_keys)
		rc = terrace_fail(TERRACE_ENOMEM, "out of memory for %zu keys", count);
	if (rc == TERRACE_OK) {
		look(&many);
		if (many.missing_count > 0)
			rc = compute(&many, load, ctx);
	}
	if (rc == TERRACE_OK) {
		memcpy(ret_values, many.values, count * sizeof *ret_values);
		memset(many.values, 0, count * sizeof *many.values);
	}
	many_done(&many);
	return rc;
}
