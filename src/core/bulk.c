#include "core/bulk.h"

#include "core/behind.h"
#include "core/events.h"
#include "core/lane.h"
#include "core/power.h"
#include "core/sources.h"
#include "util/util.h"

#include <stdio.h>
#include <stdlib.h>

/* Rows that go in one transaction: others wait no longer than for that. */
enum { ROWS_AT_ONCE = 64 };

/* --- rows of the disk, some at a time --------------------------------------------------------- */

struct doomed {
	struct terrace_cache *cache;
	unsigned tiers; /* of the rows to take */
	bool mark;      /* void the copies in memory */
	struct tier_note note;
	const terrace_match *match;
	uint64_t after_id; /* the last row looked at */

	struct doomed_row {
		struct tier_row row; /* without its slices */
		uint32_t slot;
		uint32_t key_at, key_size;
	} rows[ROWS_AT_ONCE];
	size_t count;
	struct buf keys;
	uint64_t removed;
};

static bool take_row(void *ctx, const struct tier_row *row)
{
	struct doomed *doomed = ctx;
	struct doomed_row *taken = &doomed->rows[doomed->count];

	doomed->after_id = row->id;
	if (!(row->tier & doomed->tiers))
		return true;
	*taken = (struct doomed_row){ .row = *row, .key_at = (uint32_t)doomed->keys.size };
	taken->row.seq = 0;
	if (row->key.size) {
		taken->slot = cache_key(doomed->cache, row->key).slot;
		taken->key_size = (uint32_t)row->key.size;
		terrace__buf_append(&doomed->keys, row->key.data, row->key.size);
	}
	doomed->count++;
	return doomed->count < ROWS_AT_ONCE && !doomed->keys.failed;
}

static int remove_taken(struct doomed *doomed, struct transaction *transaction)
{
	struct terrace *store = doomed->cache->store;
	int rc = TERRACE_OK;

	for (size_t i = 0; i < doomed->count && rc == TERRACE_OK; i++) {
		struct doomed_row *taken = &doomed->rows[i];

		if (taken->key_size && doomed->mark)
			rc = terrace__transaction_mark(transaction, taken->slot);
		else
			atomic_store(&doomed->cache->shared->rows, ROWS_LACK);
		if (rc == TERRACE_OK)
			rc = store->disk_ops->remove_row(store->disk, &taken->row, &doomed->note);
		if (rc == TERRACE_OK)
			doomed->removed++;
		else if (rc == TERRACE_MISS)
			rc = TERRACE_OK;
	}
	return rc;
}

/* Under the writers' lock. */
static int remove_batch(struct terrace *store, void *ctx)
{
	struct doomed *doomed = ctx;
	uint64_t removed = doomed->removed;
	struct transaction transaction;
	int rc = terrace__power_note(doomed->cache);

	if (rc == TERRACE_OK)
		rc = terrace__transaction_begin(store, &transaction);
	if (rc != TERRACE_OK)
		return rc;
	rc = remove_taken(doomed, &transaction);
	if (rc == TERRACE_OK)
		rc = terrace__transaction_commit(&transaction);
	else
		terrace__transaction_rollback(&transaction);
	if (rc != TERRACE_OK)
		doomed->removed = removed;
	else if (doomed->mark) /* these could be read until now, and others be made of them */
		terrace__bulk_move(store->shared, doomed->cache->shared);
	return rc;
}

static void forget_taken(struct doomed *doomed)
{
	for (size_t i = 0; i < doomed->count; i++) {
		const struct doomed_row *taken = &doomed->rows[i];
		struct tier_key key;

		if (!taken->key_size || !doomed->mark)
			continue;
		key = cache_key(doomed->cache,
		                terrace_bytes(doomed->keys.data + taken->key_at, taken->key_size));
		terrace__memory_forget(doomed->cache, &key);
	}
}

/*
 * Looking for rows needs no lock; removing a batch of them takes it for a
 * moment. A row that was touched or put again in between goes all the same: it
 * may hold what was there before we were called.
 */
static int remove_all(struct doomed *doomed)
{
	struct terrace *store = doomed->cache->store;
	struct disk_names names;
	struct disk_where where = {
		.kind = DISK_MATCHING,
		.cache = doomed->cache->number,
		.match = doomed->match,
		.names = &names,
	};
	int rc;

	store->disk_ops->names(store->disk, where.cache, where.match, &names);
	do {
		doomed->count = 0;
		doomed->keys.size = 0;
		rc = store->disk_ops->select(store->disk, &where, take_row, doomed);
		/* In a new database there is nothing to remove; and the caches are rowless. */
		if (UNLIKELY(rc < 0) && terrace__database_mend(store)) {
			rc = TERRACE_OK;
			break;
		}
		if (rc == TERRACE_OK && doomed->keys.failed)
			rc = no_memory("keys to remove");
		if (rc == TERRACE_OK && doomed->count > 0)
			rc = terrace__write_alone(store, remove_batch, doomed);
		if (rc == TERRACE_OK)
			forget_taken(doomed);
		where.after_id = doomed->after_id;
	} while (rc == TERRACE_OK && doomed->count == ROWS_AT_ONCE);
	if (rc == TERRACE_OK)
		terrace__names_add(doomed->cache, &names);
	terrace__buf_done(&names.ids);
	terrace__buf_done(&doomed->keys);
	return rc;
}

/* --- entries of memory -------------------------------------------------------------------------- */

struct memory_match {
	struct terrace_cache *cache;
	const terrace_match *match;
	uint64_t old_epoch, new_epoch;
	struct buf keys; /* of those that match: u32 size, bytes */
};

/* Under a shard's lock. What stays moves to the new epoch, what goes is noted down. */
static bool sort_entry(void *ctx, const struct tier_row *row)
{
	struct memory_match *m = ctx;
	uint64_t old = m->old_epoch;

	if (!terrace__match_fits(m->match, row->key, row->extra)) {
		atomic_compare_exchange_strong(&row->entry->epoch, &old, m->new_epoch);
		return true;
	}
	terrace__buf_sized(&m->keys, row->key.data, (uint32_t)row->key.size);
	return true;
}

static const char *describe_match(const terrace_match *match, char *text, size_t size)
{
	static const char *const kinds[] = { "all", "key", "prefix", "glob", "tag", "source" };

	if (match->kind == TERRACE_MATCH_ALL)
		snprintf(text, size, "all");
	else
		snprintf(text, size, "%s %.*s", kinds[match->kind],
		         (int)min_u64(match->text.size, 200), (const char *)match->text.data);
	return text;
}

/*
 * Other processes cannot be told which of their entries match, so they lose
 * all of this cache's; ours that do not match stay.
 */
static int memory_invalidate(struct terrace_cache *cache, const terrace_match *match,
                             const struct tier_note *note, uint64_t *ret_count)
{
	static const terrace_match all = { TERRACE_MATCH_ALL, { NULL, 0 } };
	struct memory_match m = { .cache = cache, .match = match };
	struct terrace *store = cache->store;
	struct reader reader;

	pthread_mutex_lock(&store->bulk_lock);
	/* What was void before that, by another process, stays so. */
	m.new_epoch = terrace__epoch_move(store->shared, cache->shared, &m.old_epoch);
	cache->memory_ops->each(cache->memory, cache->number, &all, sort_entry, &m);
	if (cache->encoded)
		cache->memory_ops->each(cache->encoded, cache->number, &all, sort_entry, &m);
	pthread_mutex_unlock(&store->bulk_lock);
	reader = terrace__reader(m.keys.data, m.keys.size);
	while (reader.at < reader.end) {
		size_t size = terrace__read_u32(&reader);
		terrace_slice key = terrace_bytes(terrace__read_bytes(&reader, size), size);
		struct tier_key hashed = cache_key(cache, key);

		bool was = cache->memory_ops->remove(cache->memory, &hashed, NULL) == TERRACE_OK;

		/* The bytes may be there without the object, and the reverse. */
		if (cache->encoded)
			was |= cache->memory_ops->remove(cache->encoded, &hashed, NULL) ==
			       TERRACE_OK;
		if (was) {
			++*ret_count;
			terrace__note_put(store, hashed.hash, note->reason, note->when,
			                  note->detail);
		}
	}
	/* What could not be noted down is void all the same, but not counted. */
	terrace__buf_done(&m.keys);
	return TERRACE_OK;
}

/* --- invalidate, clear ------------------------------------------------------------------------------ */

/*
 * Before rows are looked for: what is being computed is outdated; and what
 * waits to be written has no row to be found by, so all copies are void.
 */
static int void_unwritten(struct terrace *store, void *ctx)
{
	struct transaction *mine = terrace__transaction_mine(store);
	struct terrace_cache *cache = ctx;

	if (mine)
		terrace__transaction_bulk(mine, cache->number);
	terrace__bulk_move(store->shared, cache->shared);
	if (terrace__lanes_any(store, cache))
		terrace__epoch_move(store->shared, cache->shared, NULL);
	return TERRACE_OK;
}

/*
 * Copies of rows that were evicted are found by no index either. Only after
 * the rows were looked for: one may be evicted until then.
 */
static int void_rowless(struct terrace *store, void *ctx)
{
	struct terrace_cache *cache = ctx;

	/* Others read the rows that went in this transaction until it is committed: it is asked
	 * again then. */
	if (terrace__transaction_mine(store) ?
	        atomic_load(&cache->shared->rows) != ROWS_WHOLE :
	        atomic_exchange(&cache->shared->rows, ROWS_WHOLE) != ROWS_WHOLE)
		terrace__epoch_move(store->shared, cache->shared, NULL);
	return TERRACE_OK;
}

static int void_where_rows_lack(struct terrace_cache *cache)
{
	if (!cache->on_disk || atomic_load(&cache->shared->rows) == ROWS_WHOLE)
		return TERRACE_OK;
	return terrace__write_alone(cache->store, void_rowless, cache);
}

/* *ret_went: something that could be read until then. */
static int look_and_remove(struct doomed *doomed, bool *ret_went)
{
	struct terrace_cache *cache = doomed->cache;
	uint64_t removed = doomed->removed;
	int rc = terrace__write_alone(cache->store, void_unwritten, cache);

	if (rc == TERRACE_OK)
		rc = remove_all(doomed);
	*ret_went = doomed->removed > removed;
	if (rc == TERRACE_OK) {
		*ret_went |= atomic_load(&cache->shared->rows) != ROWS_WHOLE;
		rc = void_where_rows_lack(cache);
	}
	return rc;
}

/*
 * Until an entry has gone it can be read, and another be made of it and stored behind who
 * looked for rows. So where any went, and something was put meanwhile, rows are looked for again.
 */
static int remove_until_quiet(struct doomed *doomed)
{
	enum { TRIES = 4 };
	struct terrace *store = doomed->cache->store;
	bool again = true;
	int rc = TERRACE_OK;

	for (int tries = 0; again && rc == TERRACE_OK && tries < TRIES; tries++) {
		uint64_t put;

		terrace__behind_settle_all(store);
		put = atomic_load(&store->shared->put_entries);
		rc = look_and_remove(doomed, &again);
		again &= atomic_load(&store->shared->put_entries) != put ||
		         terrace__lanes_any(store, doomed->cache);
	}
	return rc;
}

/* Row by row, each key's version marked. */
static int remove_matching(struct terrace_cache *cache, const terrace_match *match,
                           const struct tier_note *note, uint64_t *ret_count)
{
	struct doomed *doomed = calloc(1, sizeof *doomed);
	int rc;

	if (!doomed)
		return no_memory("rows to remove");
	doomed->cache = cache;
	doomed->match = match;
	doomed->tiers = TERRACE_L2 | TERRACE_L3;
	doomed->mark = true;
	doomed->note = *note;
	rc = remove_until_quiet(doomed);
	*ret_count = doomed->removed;
	free(doomed);
	return rc;
}

int terrace__invalidate(struct terrace_cache *cache, const terrace_match *match,
                        uint64_t *ret_count)
{
	char detail[256];
	struct tier_note note = { .reason = TERRACE_REASON_INVALIDATED,
		                  .when = terrace__now(cache->store),
		                  .detail = describe_match(match, detail, sizeof detail) };
	int rc;

	*ret_count = 0;
	if (cache->on_disk)
		rc = remove_matching(cache, match, &note, ret_count);
	else
		rc = memory_invalidate(cache, match, &note, ret_count);
	count_add(&cache->counts, COUNT_invalidated, *ret_count);
	return rc;
}

static int raise_floor(struct terrace *store, void *ctx)
{
	struct terrace_cache *cache = ctx;
	struct transaction transaction;
	uint64_t floor;
	int rc = terrace__power_note(cache);

	if (rc == TERRACE_OK)
		rc = terrace__transaction_begin(store, &transaction);
	if (rc != TERRACE_OK)
		return rc;
	floor = terrace__draw(store->shared);
	rc = store->disk_ops->cache_floor(store->disk, cache->number, floor);
	if (rc != TERRACE_OK) {
		terrace__transaction_rollback(&transaction);
		return rc;
	}
	rc = terrace__transaction_commit(&transaction);
	if (rc != TERRACE_OK)
		return rc;
	terrace__floor_set(store->shared, cache->shared, floor);
	atomic_store(&cache->shared->rows, ROWS_WHOLE);
	terrace__epoch_move(store->shared, cache->shared, NULL);
	return TERRACE_OK;
}

struct sweep {
	struct terrace_cache *cache;
	uint64_t count;
};

static int sweep_some(struct terrace *store, void *ctx)
{
	struct sweep *sweep = ctx;

	return terrace__sweep(store, sweep->cache, &sweep->count);
}

static int sweep_all(struct terrace_cache *cache, uint64_t *count)
{
	struct sweep sweep = { .cache = cache };
	int rc;

	do {
		rc = terrace__write_alone(cache->store, sweep_some, &sweep);
		*count += rc == TERRACE_OK ? sweep.count : 0;
	} while (rc == TERRACE_OK && sweep.count > 0);
	return rc;
}

int terrace__clear(struct terrace_cache *cache, uint64_t *ret_count)
{
	static const terrace_match all = { TERRACE_MATCH_ALL, { NULL, 0 } };
	struct tier_note note = { .reason = TERRACE_REASON_CLEARED,
		                  .when = terrace__now(cache->store) };
	int rc;

	*ret_count = 0;
	if (!cache->on_disk) {
		rc = memory_invalidate(cache, &all, &note, ret_count);
	} else if (terrace__transaction_mine(cache->store)) {
		/* A floor cannot be rolled back. */
		rc = remove_matching(cache, &all, &note, ret_count);
	} else {
		terrace__behind_settle_all(cache->store); /* so that it is counted */
		/* Dead in one stroke; then the rows are swept away, in turns with others. */
		rc = terrace__write_alone(cache->store, raise_floor, cache);
		if (rc == TERRACE_OK)
			rc = sweep_all(cache, ret_count);
		terrace__memory_clear(cache);
	}
	count_add(&cache->counts, COUNT_invalidated, *ret_count);
	return rc;
}

/* What is read where a row was seen, without the row, is no copy in memory. */
static void void_places(struct terrace_cache *cache)
{
	struct transaction *mine = terrace__transaction_mine(cache->store);

	/* Others see the rows until it is committed; as those lack then, the epoch moves. */
	if (mine)
		terrace__transaction_bulk(mine, cache->number);
	atomic_fetch_add(&cache->shared->cleared, 1);
}

int terrace__clear_tiers(struct terrace_cache *cache, unsigned tiers, uint64_t *ret_count)
{
	static const terrace_match all = { TERRACE_MATCH_ALL, { NULL, 0 } };
	uint64_t in_memory = 0;
	struct doomed *doomed;
	int rc = TERRACE_OK;

	if (tiers & TERRACE_L1)
		in_memory = terrace__memory_clear(cache);
	doomed = calloc(1, sizeof *doomed);
	if (!doomed)
		return no_memory("rows to remove");
	doomed->cache = cache;
	doomed->match = &all;
	doomed->tiers = tiers & (TERRACE_L2 | TERRACE_L3);
	doomed->note.reason = TERRACE_REASON_CLEARED;
	doomed->note.when = terrace__now(cache->store);
	if (cache->on_disk && doomed->tiers) {
		terrace__behind_settle_all(cache->store);
		rc = remove_all(doomed);
		void_places(cache);
	}
	*ret_count = max_u64(in_memory, doomed->removed);
	count_add(&cache->counts, COUNT_invalidated, *ret_count);
	free(doomed);
	return rc;
}

/* --- cleaning up --------------------------------------------------------------------------------------- */

struct expired {
	int64_t now;
	struct buf keys;
};

static bool note_expired(void *ctx, const struct tier_row *row)
{
	struct expired *expired = ctx;

	if (row->expires <= expired->now) {
		terrace__buf_sized(&expired->keys, row->key.data, (uint32_t)row->key.size);
	}
	return true;
}

/* Expired entries of L1; they count where there is no disk that has them too. */
static uint64_t expire_memory(struct terrace_cache *cache)
{
	static const terrace_match all = { TERRACE_MATCH_ALL, { NULL, 0 } };
	struct expired expired = { .now = terrace__now(cache->store) };
	struct reader reader;
	uint64_t count = 0;

	if (!cache->memory)
		return 0;
	cache->memory_ops->each(cache->memory, cache->number, &all, note_expired, &expired);
	reader = terrace__reader(expired.keys.data, expired.keys.size);
	while (reader.at < reader.end) {
		size_t size = terrace__read_u32(&reader);
		struct tier_key key = cache_key(
		    cache, terrace_bytes(terrace__read_bytes(&reader, size), size));

		terrace__memory_forget(cache, &key);
		count++;
		if (!cache->on_disk)
			terrace__note_put(cache->store, key.hash, TERRACE_REASON_EXPIRED,
			                  expired.now, NULL);
	}
	terrace__buf_done(&expired.keys);
	return cache->on_disk ? 0 : count;
}

static int expire_some(struct terrace *store, void *ctx)
{
	return terrace__expire(store, UINT64_MAX, ctx);
}

static int room_alone(struct terrace *store, void *ctx)
{
	return terrace__make_room(store, ctx);
}

static uint64_t rows_of(struct terrace_cache *cache)
{
	struct terrace *store = cache->store;
	struct tier_usage l2 = { 0 }, l3 = { 0 };

	store->disk_ops->tier.usage(store->disk, cache->number, TERRACE_L2, &l2);
	store->disk_ops->tier.usage(store->disk, cache->number, TERRACE_L3, &l3);
	return l2.entries + l3.entries;
}

int terrace__cleanup(struct terrace_cache *cache, uint64_t *ret_count)
{
	uint64_t count = expire_memory(cache), some, before, after;
	int rc = TERRACE_OK;

	*ret_count = count;
	if (!cache->on_disk) {
		event_of_many(cache, TERRACE_EVENT_EXPIRE, TERRACE_L1, count);
		return TERRACE_OK;
	}
	cache->store->disk_ops->sweep(cache->store->disk);
	terrace__behind_settle_all(cache->store); /* it may take the place of what is expired */
	before = rows_of(cache);
	do {
		rc = terrace__write_alone(cache->store, expire_some, &some);
	} while (rc == TERRACE_OK && some > 0);
	count_add(&cache->counts, COUNT_expired, count);
	if (rc == TERRACE_OK)
		rc = sweep_all(cache, &count);
	if (rc == TERRACE_OK)
		rc = terrace__write_alone(cache->store, room_alone, cache);
	after = rows_of(cache);
	*ret_count += before > after ? before - after : 0;
	event_of_many(cache, TERRACE_EVENT_EXPIRE, 0, *ret_count);
	return rc;
}

int terrace__check_sources(struct terrace_cache *cache, uint64_t *ret_count)
{
	struct key_list list;
	terrace_slice key;
	int rc = terrace__keys_start(cache, NULL, false, &list);

	*ret_count = 0;
	if (rc != TERRACE_OK)
		return rc;
	while ((rc = terrace__keys_next(&list, &key)) == TERRACE_OK)
		*ret_count += terrace__check_entry(cache, key);
	terrace__keys_done(&list);
	if (rc != TERRACE_MISS)
		return rc;
	return cache->store->read_only ? TERRACE_OK : void_where_rows_lack(cache);
}
