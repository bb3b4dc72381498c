/* Reading: nearest tier first, and what makes a copy good. */
#include "core/hit.h"

#include "core/keeper.h"

#include "core/behind.h"
#include "core/entries.h"
#include "core/events.h"
#include "core/idle.h"
#include "core/immediate.h"
#include "core/present.h"
#include "core/sources.h"
#include "core/watch.h"
#include "util/time.h"
#include "util/util.h"

#include <sched.h>

bool terrace__is_expired(struct terrace_cache *cache, const struct entry *entry)
{
	int64_t expires = atomic_load_explicit(&entry->expires, memory_order_relaxed);

	return expires != INT64_MAX && expires <= terrace__now(cache->store);
}

/* Remove a dead entry, with a note; this write of it alone, as WRITE_DROP or WRITE_DELETE. */
static void drop_by(enum write_kind kind, struct terrace_cache *cache, const struct tier_key *key,
                    uint64_t seq, terrace_reason reason, const char *detail)
{
	struct write write = {
		.kind = kind,
		.cache = cache,
		.put.key = *key,
		.file_fd = -1,
		.until = seq,
		.note = { .reason = reason,
		          .when = terrace__now(cache->store),
		          .detail = detail,
		          .only_seq = seq },
	};

	terrace__memory_forget(cache, key);
	if (cache->store->read_only)
		return;
	if (!cache->on_disk)
		terrace__note_put(cache->store, key->hash, reason, write.note.when, detail);
	else if (terrace__write(cache->store, &write, 1) != TERRACE_OK)
		terrace__swallow(cache->store, cache, "removing a dead entry");
}

/* Copies that others have in memory stay: they find out by themselves. */
static void drop(struct terrace_cache *cache, const struct tier_key *key, uint64_t seq,
                 terrace_reason reason, const char *detail)
{
	drop_by(WRITE_DROP, cache, key, seq, reason, detail);
}

/* Sources as the cache's policy has them checked. False: it is a miss. */
static bool sources_hold(struct terrace_cache *cache, const struct tier_key *key,
                         const struct entry *entry)
{
	struct entry_rest *rest = entry_rest(entry);
	char why[512] = "";
	enum source_state state;
	uint64_t looked_at;
	int64_t now = 0, watched = 0;

	if (cache->check_ms < 0)
		return true;
	if (cache->watches) {
		if (LIKELY(terrace__watch_quiet(cache->store->watch, entry)))
			return true;
		watched = terrace__watch_sources(cache->store->watch, entry);
	}
	if (cache->check_ms > 0) {
		int64_t since;

		now = terrace__now(cache->store);
		since = now - atomic_load(&rest->checked);
		/* A program's own clock may go back: then nobody knows. */
		if (since >= 0 && since < cache->check_ms)
			return true;
	}
	state = terrace__sources_check(cache->store, entry_extra(entry), &looked_at, why,
	                               sizeof why);
	count_add(&cache->counts, COUNT_source_checks, looked_at);
	if (state == SOURCE_CHANGED) {
		count_add(&cache->counts, COUNT_source_changes, 1);
		drop(cache, key, rest->seq, TERRACE_REASON_SOURCE, why);
	} else if (state == SOURCE_UNKNOWN) {
		terrace__swallow(cache->store, cache, "looking at a source");
	} else if (cache->check_ms > 0) {
		atomic_store(&rest->checked, now);
	} else if (watched) {
		atomic_store(&rest->checked, watched);
	}
	return state == SOURCE_SAME;
}

/* What is expired may be wanted still. */
static bool may_serve_stale(const struct terrace_cache *cache)
{
	return cache->stale_ms > 0 || cache->stale_error_ms > 0;
}

/* Or what waited then is a row by now; it is the same value. */
static bool still_stands(struct terrace_cache *cache, const struct tier_key *key,
                         struct entry *entry)
{
	uint64_t stamp = atomic_load(&entry->stamp),
		 version = version_load(cache->store->shared, key->slot);

	if (!version_stands(cache->store->shared, key->slot, stamp, version) ||
	    atomic_load(&entry->epoch) != atomic_load(&cache->shared->epoch))
		return false;
	/* Nobody gives it another stamp but to the same end. */
	if (stamp != version)
		atomic_store(&entry->stamp, version);
	return true;
}

/* A copy that was found, and that its head alone does not say to be good. */
static __attribute__((noinline)) bool is_good_after_all(struct terrace_cache *cache,
                                                        const struct tier_key *key,
                                                        struct entry *entry)
{
	if (!still_stands(cache, key, entry))
		return false;
	if (!terrace__is_expired(cache, entry)) {
		if (entry->has_sources && !sources_hold(cache, key, entry))
			return false;
		idle_hit(cache, key, entry);
		return true;
	}
	if (!cache->on_disk && !may_serve_stale(cache)) {
		count_add(&cache->counts, COUNT_expired, 1);
		event_of_key(cache, TERRACE_EVENT_EXPIRE, key->key, TERRACE_L1);
		drop(cache, key, 0, TERRACE_REASON_EXPIRED, NULL);
	}
	return false;
}

/* A copy that was found and is not counted as a hit yet; let go of when it is not good. */
static inline int memory_found(struct terrace_cache *cache, const struct tier_key *key,
                               struct entry *entry, struct entry **ret)
{
	if (LIKELY(is_current(cache, version_load(cache->store->shared, key->slot), entry) &&
	           never_ends(entry)) ||
	    is_good_after_all(cache, key, entry)) {
		entry_hit(entry);
		*ret = entry;
		return TERRACE_OK;
	}
	entry_unref(entry);
	return TERRACE_MISS;
}

/* A copy in one of the memory tiers that is good; hits that are not are not counted. */
static int memory_get(struct terrace_cache *cache, void *tier, const struct tier_key *key,
                      struct entry **ret)
{
	struct entry *entry;

	if (cache->memory_ops->get(tier, key, false, &entry) != TERRACE_OK)
		return TERRACE_MISS;
	return memory_found(cache, key, entry, ret);
}

void terrace__damaged(struct terrace_cache *cache, const struct tier_key *key, uint64_t seq,
                      const char *how)
{
	struct event_facts facts = { .key = key->key, .count = 1, .detail = how };

	count_add(&cache->counts, COUNT_damaged, 1);
	if (events_wanted(cache, TERRACE_EVENT_ERROR))
		terrace__event(cache, TERRACE_EVENT_ERROR, &facts);
	terrace__log(cache->store, TERRACE_LOG_WARN, "%s: a damaged entry is removed: %s",
	             cache->name, how);
	drop(cache, key, seq, TERRACE_REASON_DAMAGED, how);
}

/* --- below L1 --------------------------------------------------------------------------------- */

/* What is read from disk, and under which version a copy of it may be kept. */
struct found {
	struct entry *entry;
	bool keep; /* a copy in memory would be good */
	/* A value in blocks may stay on disk, and then does: `entry` is without it. */
	bool may_open;
	struct block_reader *blocks;
	bool ahead; /* nobody has asked for it: it is no use of the entry */
};

static void found_drop(struct terrace_cache *cache, struct found *found)
{
	entry_unref(found->entry);
	if (found->blocks)
		cache->store->disk_ops->blocks_close(found->blocks);
	found->blocks = NULL;
}

/* Of a version that does not hold, who may not write leaves the mending to others. */
static uint64_t look_at(struct terrace *store, uint32_t slot, uint64_t version)
{
	return UNLIKELY(store->read_only) ? version_see(store->shared, slot, version) :
	                                    version_look(store->shared, slot, version);
}

static bool beside(const void *ctx, terrace_slice key, struct tier_key *ret, uint64_t *ret_version)
{
	const struct terrace_cache *cache = ctx;

	*ret = cache_key(cache, key);
	*ret_version = version_load(cache->store->shared, ret->slot);
	return !version_is_writing(*ret_version) && !version_is_behind(*ret_version);
}

/*
 * The row, or the value that waits to become it. *version was loaded before, and is loaded
 * again where something came in between.
 */
static int read_row(struct terrace_cache *cache, const struct tier_key *key, uint64_t *version,
                    uint64_t epoch, struct found *ret)
{
	struct terrace *store = cache->store;
	const struct disk_ops *ops = store->disk_ops;
	enum { TRIES = 50, NAPS = 20 };
	struct tier_stamp stamp = { .epoch = epoch,
		                    .cleared = atomic_load(&cache->shared->cleared),
		                    .beside = beside,
		                    .ctx = cache };
	int rc, tries = 0;

	if (!terrace__present(store))
		return TERRACE_MISS;
	*version = look_at(store, key->slot, *version);
	while (UNLIKELY(version_is_behind(*version))) {
		uint64_t before = *version;

		rc = terrace__behind_get(cache, key, before, &ret->entry);
		if (rc == TERRACE_OK)
			return TERRACE_OK;
		if (rc == TERRACE_EXISTS)
			break;
		if (rc != TERRACE_EBUSY)
			return TERRACE_MISS;
		*version = look_at(store, key->slot, version_load(store->shared, key->slot));
		if (*version != before)
			continue;
		/* Its owner is done in a moment, or when it runs again; if it lives. */
		if (++tries > TRIES + NAPS)
			return TERRACE_MISS;
		if (tries <= TRIES)
			sched_yield();
		else
			nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	stamp.version = *version;
	if (ret->may_open)
		rc = ops->open(store->disk, key, &ret->entry, &ret->blocks);
	else
		rc = ops->get_under(store->disk, key, version_is_writing(*version) ? NULL : &stamp,
		                    &ret->entry);
	if (UNLIKELY(rc < 0) && ops->suspected(store->disk)) {
		count_add(&cache->counts, COUNT_damaged, 1);
		terrace__swallow(store, cache, "reading");
		terrace__database_mend(store);
		rc = TERRACE_MISS;
	} else if (rc == TERRACE_ECORRUPT)
		terrace__damaged(cache, key, 0, "its checksum did not hold");
	else if (rc != TERRACE_OK && rc != TERRACE_MISS)
		terrace__swallow(store, cache, "reading");
	return rc;
}

static int disk_get(struct terrace_cache *cache, const struct tier_key *key, struct found *ret)
{
	struct terrace *store = cache->store;
	/* Before the row: what is written from now on must void what we read. */
	uint64_t version = version_load(store->shared, key->slot);
	uint64_t epoch = atomic_load(&cache->shared->epoch);
	terrace_reason reason;
	int rc = read_row(cache, key, &version, epoch, ret);

	if (rc != TERRACE_OK)
		return TERRACE_MISS;
	reason = terrace__entry_reason(cache, ret->entry);
	if (reason == TERRACE_REASON_EXPIRED && !ret->ahead) {
		count_add(&cache->counts, COUNT_expired, 1);
		event_of_key(cache, TERRACE_EVENT_EXPIRE, key->key, ret->entry->tier);
	}
	if (reason != TERRACE_REASON_LIVE ||
	    (ret->entry->has_sources && !sources_hold(cache, key, ret->entry))) {
		found_drop(cache, ret);
		return TERRACE_MISS;
	}
	if (entry_rest(ret->entry)->idle) {
		atomic_store(&cache->has_idle, true);
		if (!ret->ahead)
			terrace__idle_used(cache, key, ret->entry);
	}
	ret->keep = !version_is_writing(version) && !ret->blocks;
	atomic_init(&ret->entry->stamp, version);
	atomic_init(&ret->entry->epoch, epoch);
	return TERRACE_OK;
}

/* Bytes of an entry that L1 does not have: kept beside a form, or from disk. */
static int bytes_get(struct terrace_cache *cache, const struct tier_key *key, struct found *ret,
                     unsigned *ret_tier)
{
	int rc;

	if (cache->encoded && memory_get(cache, cache->encoded, key, &ret->entry) == TERRACE_OK) {
		ret->keep = true;
		*ret_tier = TERRACE_L1;
		return TERRACE_OK;
	}
	if (!cache->on_disk)
		return TERRACE_MISS;
	rc = disk_get(cache, key, ret);
	if (rc != TERRACE_OK)
		return rc;
	*ret_tier = ret->entry->tier;
	if (cache->encoded && ret->keep)
		terrace__encoded_keep(cache, key, ret->entry, NULL);
	terrace__access_note(cache->store, terrace__row_hash(key), 1, terrace__now(cache->store));
	return TERRACE_OK;
}

/* From bytes to what a get gives: the same, or decoded. Takes over found->entry. */
static int to_form(struct terrace_cache *cache, const struct tier_key *key, struct found *found)
{
	uint64_t seq = entry_rest(found->entry)->seq;
	struct entry *decoded;
	int rc;

	if (!cache->has_form || found->entry->kind == ENTRY_ABSENT)
		return TERRACE_OK;
	rc = terrace__entry_decode(cache, found->entry, &decoded);
	entry_unref(found->entry);
	if (rc == TERRACE_ECORRUPT)
		terrace__damaged(cache, key, seq, "it could not be decoded");
	else if (rc != TERRACE_OK)
		terrace__swallow(cache->store, cache, "decoding");
	if (rc != TERRACE_OK)
		return TERRACE_MISS;
	found->entry = decoded;
	return TERRACE_OK;
}

static void count_hit(struct terrace_cache *cache, const struct tier_key *key, unsigned tier,
                      uint64_t cost_us, uint64_t ns)
{
	event_of_key(cache, TERRACE_EVENT_HIT, key->key, tier);
	switch (tier) {
	case TERRACE_L1:
		count_add(&cache->counts, COUNT_hits_encoded, 1);
		break;
	case TERRACE_L2:
		count_add(&cache->counts, COUNT_hits_l2, 1);
		terrace__count_time(&cache->counts, TIME_hit_l2, ns);
		break;
	case TERRACE_L3:
		count_add(&cache->counts, COUNT_hits_l3, 1);
		terrace__count_time(&cache->counts, TIME_hit_l3, ns);
		break;
	}
	count_add(&cache->counts, COUNT_saved_us, cost_us);
}

static int get_below(struct terrace_cache *cache, const struct tier_key *key, bool count_miss,
                     struct entry **ret, unsigned *ret_tier)
{
	uint64_t start = terrace__now_ns();
	struct found found = { 0 };
	struct entry *bytes = NULL;
	int rc = bytes_get(cache, key, &found, ret_tier);

	keeper_at(cache->store, start);
	if (rc == TERRACE_OK && !cache->on_disk)
		bytes = entry_ref(found.entry); /* of a form: else there is nothing below L1 */
	if (rc == TERRACE_OK)
		rc = to_form(cache, key, &found);
	/* Another set of keys is timed from here on; not this key's, which is no longer cold. */
	atomic_store_explicit(&cache->sample, key->hash >> 32 & SAMPLE_MASK, memory_order_relaxed);
	if (rc != TERRACE_OK) {
		if (count_miss) {
			count_add(&cache->counts, COUNT_misses, 1);
			event_of_key(cache, TERRACE_EVENT_MISS, key->key, 0);
			terrace__count_time(&cache->counts, TIME_miss, terrace__now_ns() - start);
		}
		entry_unref(bytes);
		return rc;
	}
	if (cache->memory && found.keep) {
		struct tier_put put = { .key = *key, .entry = found.entry };

		if (bytes)
			terrace__memory_keep_decoded(cache, &put, bytes);
		else
			terrace__memory_keep(cache, &put, NULL);
	}
	entry_unref(bytes);
	count_hit(cache, key, *ret_tier, entry_rest(found.entry)->cost_us,
	          terrace__now_ns() - start);
	*ret = found.entry;
	return TERRACE_OK;
}

/* What is found may say that there is nothing. */
static inline int found_rc(struct entry *entry)
{
	if (LIKELY(entry->kind != ENTRY_ABSENT))
		return TERRACE_OK;
	entry_unref(entry);
	return TERRACE_ABSENT;
}

/* In L1 alone. With `found`, pinned, that is not asked again; it may be NULL. */
static int get_near(struct terrace_cache *cache, const struct tier_key *key, struct entry *found,
                    struct entry **ret, unsigned *ret_tier)
{
	bool timed = hit_is_timed(cache, key->hash);
	uint64_t start = UNLIKELY(timed) ? terrace__now_ns() : 0;
	int rc = TERRACE_MISS;

	if (found)
		rc = memory_found(cache, key, found, ret);
	else if (cache->memory)
		rc = memory_get(cache, cache->memory, key, ret);
	if (rc != TERRACE_OK)
		return TERRACE_MISS;
	if (UNLIKELY(timed)) {
		keeper_at(cache->store, start);
		terrace__count_time(&cache->counts, TIME_hit_l1, terrace__now_ns() - start);
	}
	event_of_key(cache, TERRACE_EVENT_HIT, key->key, TERRACE_L1);
	*ret_tier = TERRACE_L1;
	return found_rc(*ret);
}

static int get_hashed(struct terrace_cache *cache, const struct tier_key *key, struct entry *found,
                      struct entry **ret, unsigned *ret_tier)
{
	int rc = get_near(cache, key, found, ret, ret_tier);

	if (rc != TERRACE_MISS)
		return rc;
	rc = get_below(cache, key, true, ret, ret_tier);
	return rc == TERRACE_OK ? found_rc(*ret) : rc;
}

int terrace__get_near(struct terrace_cache *cache, terrace_slice key, struct entry **ret,
                      unsigned *ret_tier)
{
	const struct tier_key hashed = cache_key_soon(cache, key);

	return get_near(cache, &hashed, NULL, ret, ret_tier);
}

int terrace__get_near_hashed(struct terrace_cache *cache, terrace_slice key, uint64_t hash,
                             struct entry *found, struct entry **ret, unsigned *ret_tier)
{
	const struct tier_key hashed = { key, hash, cache_slot(cache, hash), cache->number };

	return get_near(cache, &hashed, found, ret, ret_tier);
}

int terrace__get(struct terrace_cache *cache, terrace_slice key, struct entry **ret,
                 unsigned *ret_tier)
{
	const struct tier_key hashed = cache_key_soon(cache, key);

	return get_hashed(cache, &hashed, NULL, ret, ret_tier);
}

int terrace__get_hashed(struct terrace_cache *cache, terrace_slice key, uint64_t hash,
                        struct entry *found, struct entry **ret, unsigned *ret_tier)
{
	const struct tier_key hashed = { key, hash, cache_slot(cache, hash), cache->number };

	return get_hashed(cache, &hashed, found, ret, ret_tier);
}

/* As cache_key_soon(), of the usual sizes without a call. */
static inline struct tier_key key_soon(const struct terrace_cache *cache, terrace_slice key)
{
	struct tier_key hashed;

	if (UNLIKELY(!hit_is_usual(key)))
		return cache_key_soon(cache, key);
	hashed = cache_key_of(cache, key, hash_key(key.data, key.size, cache->seed));
	__builtin_prefetch((const void *)&cache->store->shared->versions[hashed.slot]);
	return hashed;
}

void terrace__get_some(struct terrace_cache *cache, const terrace_slice *keys, size_t count,
                       struct entry **ret, unsigned *ret_tiers)
{
	struct tier_key hashed[GET_AT_ONCE];
	bool simple = hits_are_simple(cache);

	/* Keys lie anywhere, too: to hash one is to wait for it. */
	for (size_t i = 0; i < count; i++)
		__builtin_prefetch(keys[i].data);
	for (size_t i = 0; i < count; i++)
		hashed[i] = key_soon(cache, keys[i]);
	if (cache->memory && count > 0)
		cache->memory_ops->soon_get(cache->memory, hashed, count);
	for (size_t i = 0; i < count; i++) {
		uint64_t version = hit_version(cache, hashed[i].hash);
		struct entry *entry = simple ? hit_look(cache, keys[i], hashed[i].hash) : NULL;

		if (LIKELY(hit_is_good(cache, version, entry))) {
			ret[i] = entry;
			ret_tiers[i] = TERRACE_L1;
		} else if (get_hashed(cache, &hashed[i], entry, &ret[i], &ret_tiers[i]) !=
		           TERRACE_OK) {
			ret[i] = NULL;
		}
	}
}

int terrace__look_again(struct terrace_cache *cache, terrace_slice key, struct entry **ret,
                        unsigned *ret_tier)
{
	struct tier_key hashed = cache_key(cache, key);
	int rc;

	if (cache->memory && memory_get(cache, cache->memory, &hashed, ret) == TERRACE_OK) {
		event_of_key(cache, TERRACE_EVENT_HIT, key, TERRACE_L1);
		*ret_tier = TERRACE_L1;
		return found_rc(*ret);
	}
	rc = get_below(cache, &hashed, false, ret, ret_tier);
	return rc == TERRACE_OK ? found_rc(*ret) : rc;
}

int terrace__get_encoded(struct terrace_cache *cache, terrace_slice key, bool count_miss,
                         struct entry **ret, unsigned *ret_tier)
{
	struct tier_key hashed = cache_key(cache, key);
	uint64_t start = terrace__now_ns();
	struct found found = { 0 };
	int rc;

	if (!cache->has_form)
		return count_miss ? terrace__get(cache, key, ret, ret_tier) :
		                    terrace__look_again(cache, key, ret, ret_tier);
	rc = bytes_get(cache, &hashed, &found, ret_tier);
	if (rc != TERRACE_OK) {
		if (count_miss) {
			count_add(&cache->counts, COUNT_misses, 1);
			event_of_key(cache, TERRACE_EVENT_MISS, key, 0);
		}
		return rc;
	}
	count_hit(cache, &hashed, *ret_tier, entry_rest(found.entry)->cost_us,
	          terrace__now_ns() - start);
	*ret = found.entry;
	return found_rc(found.entry);
}

int terrace__get_opened(struct terrace_cache *cache, terrace_slice key, struct entry **ret,
                        struct block_reader **ret_blocks, uint64_t *ret_size, unsigned *ret_tier)
{
	struct tier_key hashed = cache_key_soon(cache, key);
	struct found found = { .may_open = true };
	uint64_t start = terrace__now_ns();
	int rc;

	/* A form is no bytes: those lie beside it, or below. */
	if (cache->memory && !cache->has_form &&
	    memory_get(cache, cache->memory, &hashed, ret) == TERRACE_OK) {
		event_of_key(cache, TERRACE_EVENT_HIT, key, TERRACE_L1);
		*ret_tier = TERRACE_L1;
		*ret_blocks = NULL;
		*ret_size = (*ret)->value_size;
		return found_rc(*ret);
	}
	rc = bytes_get(cache, &hashed, &found, ret_tier);
	if (rc != TERRACE_OK) {
		count_add(&cache->counts, COUNT_misses, 1);
		event_of_key(cache, TERRACE_EVENT_MISS, key, 0);
		return rc;
	}
	if (cache->memory && !cache->has_form && found.keep) {
		struct tier_put put = { .key = hashed, .entry = found.entry };

		terrace__memory_keep(cache, &put, NULL);
	}
	count_hit(cache, &hashed, *ret_tier, entry_rest(found.entry)->cost_us,
	          terrace__now_ns() - start);
	*ret = found.entry;
	*ret_blocks = found.blocks;
	*ret_size = found.blocks ? cache->store->disk_ops->blocks_size(found.blocks) :
	                           found.entry->value_size;
	return found_rc(found.entry);
}

int terrace__look_ahead(struct terrace_cache *cache, const struct tier_key *key, struct entry **ret,
                        struct entry **ret_old)
{
	struct found found = { .may_open = true, .ahead = true };
	struct entry *old = NULL;
	int rc;

	if (cache->memory_ops->get(cache->memory, key, false, &old) == TERRACE_OK &&
	    still_stands(cache, key, old) && !terrace__is_expired(cache, old)) {
		entry_unref(old);
		return TERRACE_EXISTS;
	}
	rc = disk_get(cache, key, &found);
	if (rc == TERRACE_OK && !found.keep) {
		found_drop(cache, &found);
		rc = TERRACE_MISS;
	}
	if (rc == TERRACE_OK)
		rc = to_form(cache, key, &found);
	if (rc != TERRACE_OK) {
		entry_unref(old);
		return rc;
	}
	*ret = found.entry;
	*ret_old = old;
	return TERRACE_OK;
}

/*
 * Expired for less than `window`, and otherwise good: nobody has written or
 * invalidated it, and its sources stand.
 */
static bool is_stale(struct terrace_cache *cache, const struct entry *entry, int64_t window)
{
	int64_t expires = atomic_load(&entry->expires);
	uint64_t looked_at;

	return entry->kind != ENTRY_ABSENT &&
	       add_sat_i64(expires, window) > terrace__now(cache->store) &&
	       terrace__times_reason(cache, entry->created, INT64_MAX, entry_rest(entry)->seq) ==
	           TERRACE_REASON_LIVE &&
	       (!entry->has_sources || terrace__sources_check(cache->store, entry_extra(entry),
	                                                      &looked_at, NULL, 0) == SOURCE_SAME);
}

int terrace__get_stale(struct terrace_cache *cache, terrace_slice key, int64_t window,
                       struct entry **ret)
{
	struct tier_key hashed = cache_key(cache, key);
	uint64_t version = version_load(cache->store->shared, hashed.slot);
	struct found found = { 0 };

	if (window <= 0 || cache->tiers == 0)
		return TERRACE_MISS;
	if (cache->memory &&
	    cache->memory_ops->get(cache->memory, &hashed, false, ret) == TERRACE_OK) {
		if (still_stands(cache, &hashed, *ret) && is_stale(cache, *ret, window))
			return TERRACE_OK;
		entry_unref(*ret);
	}
	if (!cache->on_disk || version_is_behind(version) || !terrace__present(cache->store) ||
	    cache->store->disk_ops->tier.get(cache->store->disk, &hashed, false, &found.entry) !=
	        TERRACE_OK)
		return TERRACE_MISS;
	if (!is_stale(cache, found.entry, window)) {
		entry_unref(found.entry);
		return TERRACE_MISS;
	}
	if (to_form(cache, &hashed, &found) != TERRACE_OK)
		return TERRACE_MISS;
	*ret = found.entry;
	return TERRACE_OK;
}

/* --- facts ------------------------------------------------------------------------------------- */

void terrace__entry_facts(const struct entry *entry, struct tier_facts *ret)
{
	const struct entry_rest *rest = entry_rest(entry);
	int64_t stored = entry_stored(entry);

	*ret = (struct tier_facts){
		.tier = TERRACE_L1,
		.codec = rest->codec,
		.absent = entry->kind == ENTRY_ABSENT,
		.seq = rest->seq,
		.created = entry->created,
		.stored = stored,
		.expires = atomic_load(&entry->expires),
		.ttl = atomic_load(&rest->ttl),
		.accessed = stored,
		.value_size = entry->kind == ENTRY_OBJECT ? entry_object(entry)->weight :
		                                            entry->value_size,
		.stored_size = rest->stored_size,
		.cost_us = rest->cost_us,
		.hits = entry_hits(entry),
		.idle = rest->idle,
	};
	terrace__buf_append(&ret->extra, entry_extra(entry).data, entry_extra(entry).size);
}

static terrace_reason reason_of(struct terrace_cache *cache, const struct tier_facts *facts)
{
	terrace_slice extra = terrace_bytes(facts->extra.data, facts->extra.size);
	terrace_reason reason = terrace__times_reason(cache, facts->created, facts->expires,
	                                              facts->seq);
	uint64_t looked_at;

	if (reason == TERRACE_REASON_LIVE && cache->check_ms >= 0 &&
	    terrace__sources_check(cache->store, extra, &looked_at, NULL, 0) != SOURCE_SAME)
		reason = TERRACE_REASON_SOURCE;
	if (reason == TERRACE_REASON_LIVE && facts->absent)
		reason = TERRACE_REASON_ABSENT;
	return reason;
}

int terrace__describe(struct terrace_cache *cache, terrace_slice key, struct tier_facts *ret,
                      terrace_reason *ret_reason)
{
	struct tier_key hashed = cache_key(cache, key);
	struct entry *entry, *alone;
	uint64_t hits = 0, unwritten;
	bool in_memory = false;
	int rc;

	*ret_reason = TERRACE_REASON_NEVER;
	if ((cache->memory &&
	     cache->memory_ops->get(cache->memory, &hashed, false, &entry) == TERRACE_OK) ||
	    (cache->encoded &&
	     cache->memory_ops->get(cache->encoded, &hashed, false, &entry) == TERRACE_OK)) {
		in_memory = still_stands(cache, &hashed, entry);
		hits = entry_hits(entry);
		if (in_memory && !cache->on_disk)
			terrace__entry_facts(entry, ret);
		entry_unref(entry);
	}
	alone = cache->on_disk ? terrace__immediate_find(cache, &hashed) : NULL;
	if (alone) {
		terrace__entry_facts(alone, ret);
		entry_unref(alone);
	} else if (cache->on_disk) {
		if (!terrace__present(cache->store))
			return TERRACE_MISS;
		terrace__behind_settle(cache->store, hashed.slot);
		if (version_is_behind(version_load(cache->store->shared, hashed.slot)))
			return TERRACE_MISS; /* it could not be written */
		rc = cache->store->disk_ops->describe(cache->store->disk, &hashed, ret);
		if (rc != TERRACE_OK)
			return rc;
		terrace__access_find(cache->store, terrace__row_hash(&hashed), &unwritten,
		                     &ret->accessed);
		ret->hits += unwritten + (in_memory ? hits : 0);
		if (in_memory)
			ret->tier = TERRACE_L1;
	} else if (!in_memory) {
		return TERRACE_MISS;
	}
	/* Without its sources it would be taken for good whatever became of them. */
	if (ret->extra.failed)
		return no_memory("the facts of an entry");
	*ret_reason = reason_of(cache, ret);
	return *ret_reason == TERRACE_REASON_LIVE ? TERRACE_OK : TERRACE_MISS;
}

bool terrace__check_entry(struct terrace_cache *cache, terrace_slice key)
{
	struct tier_facts facts = { 0 };
	struct tier_key hashed = cache_key(cache, key);
	terrace_reason reason;
	uint64_t looked_at = 0;
	char why[512] = "";
	bool changed = false;

	terrace__describe(cache, key, &facts, &reason);
	if (facts.extra.size &&
	    terrace__sources_check(cache->store, terrace_bytes(facts.extra.data, facts.extra.size),
	                           &looked_at, why, sizeof why) == SOURCE_CHANGED) {
		changed = true;
		count_add(&cache->counts, COUNT_source_changes, 1);
		/* A process that checks by hand does not look at its own copy. */
		drop_by(facts.seq ? WRITE_DELETE : WRITE_DROP, cache, &hashed, facts.seq,
		        TERRACE_REASON_SOURCE, why);
	}
	count_add(&cache->counts, COUNT_source_checks, looked_at);
	terrace__buf_done(&facts.extra);
	return changed;
}
