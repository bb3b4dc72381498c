#include "core/drain.h"

#include "core/behind.h"
#include "core/entries.h"
#include "core/power.h"
#include "core/spool.h"
#include "util/message.h"
#include "util/util.h"

#include <stdlib.h>

enum { SOON = 8 }; /* values whose slots are asked for before they are looked at */

/* Beside its write, which has the same index. */
struct drained {
	struct lane_item item;
	bool whole; /* there is a value, and it can be written */
	bool done;  /* and was, in the place of an older one of the key */
};

/* A later value of the key, which another process has put, sees to what this one was to replace. */
static bool is_taken_over(const struct shared *shared, int lane, const struct lane_item *item)
{
	struct lane_item latest;
	int where;

	return terrace__lane_find(shared, item->slot, &where, &latest) && where != lane &&
	       latest.seq > item->seq && latest.hash == item->hash &&
	       terrace__lane_is_current(shared, where, &latest);
}

/*
 * The latest value of the key, if that waits in the same lane and is another. One that is out of
 * date is none: whoever wrote since may trust the row, and died before the lane's head moved.
 */
static bool find_later(const struct shared *shared, int lane, const struct lane_item *item,
                       uint64_t *ret_at)
{
	struct lane_item later;
	int where;

	if (!terrace__lane_find(shared, item->slot, &where, &later) || where != lane)
		return false;
	while (later.at > item->at) {
		*ret_at = later.at;
		if (later.seq && later.hash == item->hash)
			return terrace__lane_is_current(shared, lane, &later);
		if (!terrace__lane_prev(shared, lane, &later))
			return false;
	}
	return false;
}

/*
 * Is it to be written? So is what has been replaced since this batch was begun: rows come
 * in the order in which their keys did, and nobody trusts this one before the other is there.
 */
static bool is_wanted(const struct drain *drain, const struct lane_item *item)
{
	const struct shared *shared = drain->store->shared;
	uint64_t later;

	if (drain->give_up || !item->seq)
		return false;
	if (terrace__lane_is_current(shared, drain->lane, item))
		return true;
	return find_later(shared, drain->lane, item, &later) && later >= drain->to;
}

/* Copied and encoded; what cannot be is dropped. */
static int prepare(struct drain *drain, size_t i, struct terrace_cache *cache)
{
	struct drained *drained = &drain->items[i];
	const struct lane_item *item = &drained->item;
	struct write *write = &drain->writes[i];
	struct entry *entry;
	int rc;

	write->file_fd = -1;
	write->rc = TERRACE_MISS;
	if (!is_wanted(drain, item))
		return TERRACE_OK;
	rc = terrace__behind_value(drain->store, drain->lane, item, &entry);
	if (rc != TERRACE_OK)
		return rc == TERRACE_ENOMEM ? rc : TERRACE_OK;
	write->kind = WRITE_PUT;
	write->cache = cache;
	write->put.key = (struct tier_key){ entry_key_slice(entry), item->hash, item->slot,
		                            item->cache };
	if (cache)
		rc = terrace__entry_encode(cache, entry, write);
	else
		terrace__entry_raw(item->cache, entry, write);
	/* It stays where it is, until somebody who may has made room. */
	if (rc == TERRACE_EFULL && terrace__write_leads(drain->store))
		return rc;
	drained->whole = rc == TERRACE_OK;
	if (rc == TERRACE_ETOOBIG && cache)
		count_add(&cache->counts, COUNT_rejected, 1);
	else if (rc != TERRACE_OK)
		terrace__swallow(drain->store, cache, "preparing a value to be written");
	if (drain->rc == TERRACE_OK)
		drain->rc = rc;
	return TERRACE_OK;
}

/* caches: whose the values are, by mark; NULL where that is not open here. */
static int prepare_all(struct drain *drain, struct terrace_cache *const *caches)
{
	uint64_t bytes = 0;
	size_t most, files = 0;
	int rc = TERRACE_OK;

	if (drain->damaged)
		drain->from = drain->to = 0; /* nothing of it can be told */
	most = (size_t)(drain->to - drain->from);
	drain->items = calloc(most ? most : 1, sizeof *drain->items);
	drain->writes = calloc(most ? most : 1, sizeof *drain->writes);
	if (!drain->items || !drain->writes)
		return no_memory("values that wait");
	for (size_t i = 0; i < most && rc == TERRACE_OK; i++) {
		struct drained *drained = &drain->items[drain->count];
		uint64_t at = drain->from + i;

		bool holds = terrace__lane_read(drain->store->shared, drain->lane, at,
		                                &drained->item);

		terrace__lane_soon(drain->store->shared, drain->lane, at + SOON);

		/* The last one may be unfinished, or be taken out and written anew. */
		if (!drain->still && at + 1 == drain->to && (!holds || !drained->item.seq)) {
			drain->to = at;
			break;
		}
		drain->damaged = !holds;
		if (drain->damaged)
			return TERRACE_OK;
		bytes += drained->item.size;
		if (files == FILES_AT_ONCE || (drain->most && bytes > drain->most && i > 0)) {
			drain->to = at;
			break;
		}
		rc = prepare(drain, drain->count++, caches ? caches[at % MARKS] : NULL);
		files += drain->writes[drain->count - 1].file_fd >= 0;
	}
	return rc;
}

/*
 * Whose row that is nobody can tell: all of the cache with a lower number is dead, be it immutable,
 * for it may have become so since. What others know of the floor the database may not: the try
 * before was taken back.
 */
static int void_older(struct terrace *store, const struct lane_item *item)
{
	struct shared_cache *cache = &store->shared->caches[item->cache];
	uint64_t floor = terrace__floor(store->shared, cache);

	floor = floor == UINT64_MAX ? terrace__draw(store->shared) : /* damaged */
	                              max_u64(floor, item->seq);
	return terrace__floor_raise(store, item->cache, floor);
}

/* Out of date, or not to be had. What it was to replace must not come back
 * either. */
static int drop(struct drain *drain, const struct lane_item *item)
{
	struct terrace *store = drain->store;
	struct tier_key key = { .hash = item->hash, .cache = item->cache };
	int rc;

	if (!item->seq)
		return TERRACE_OK;
	/* Copies of it that are in memory have no row to be found by. */
	atomic_store(&store->shared->caches[item->cache].rows, ROWS_LACK);
	if (!terrace__lane_key(store, drain->lane, item, &key.key))
		return void_older(store, item);
	rc = store->disk_ops->remove_older(store->disk, &key, item->seq);
	return rc == TERRACE_MISS ? TERRACE_OK : rc;
}

/* No version is marked: what the key holds does not change. */
static int put_row(struct drain *drain, size_t i)
{
	struct terrace *store = drain->store;
	struct write *write = &drain->writes[i];

	drain->items[i].done = true;
	write->record.seq = drain->items[i].item.seq;
	write->put.record = &write->record;
	write->rc = TERRACE_OK;
	return terrace__row_put(store, &write->put);
}

static int write_item(struct drain *drain, size_t i)
{
	const struct shared *shared = drain->store->shared;
	const struct drained *drained = &drain->items[i];
	uint64_t later = 0;
	bool replaced = find_later(shared, drain->lane, &drained->item, &later);

	if (drained->done)
		return TERRACE_OK;
	if (drained->whole && (replaced || is_wanted(drain, &drained->item)))
		return put_row(drain, i);
	if (!replaced && is_taken_over(shared, drain->lane, &drained->item))
		return TERRACE_OK;
	if (!replaced)
		return drop(drain, &drained->item);
	/* The later one takes its place in the order, if it is here. */
	i += (size_t)(later - drained->item.at);
	if (i >= drain->count)
		return TERRACE_OK; /* whoever writes that one sees to it */
	drained = &drain->items[i];
	return drained->whole && !drained->done && is_wanted(drain, &drained->item) ?
	           put_row(drain, i) :
	           TERRACE_OK;
}

/* One transaction; items that somebody else has written meanwhile are left out. */
static int write_items(struct drain *drain, uint64_t head, bool *ret_needs_room)
{
	struct terrace *store = drain->store;
	struct transaction transaction;
	int rc = terrace__transaction_begin(store, &transaction);

	if (rc != TERRACE_OK)
		return rc;
	for (size_t i = 0; i < drain->count; i++) {
		drain->items[i].done = false; /* it may be a second try */
		drain->writes[i].rc = TERRACE_MISS;
	}
	rc = terrace__write_uses(store);
	for (size_t i = 0; i < drain->count && rc == TERRACE_OK; i++) {
		if (drain->items[i].item.at >= head)
			rc = write_item(drain, i);
	}
	if (rc != TERRACE_OK) {
		terrace__transaction_rollback(&transaction);
		return rc;
	}
	*ret_needs_room = terrace__over_limits(store, NULL) ||
	                  terrace__caches_need_room(store, drain->writes, drain->count);
	return terrace__transaction_commit(&transaction);
}

/* What the values that are lost were to replace must not come back: every row goes. */
static int give_up(struct drain *drain, bool whole)
{
	struct shared *shared = drain->store->shared;
	int rc = terrace__floors_raise(drain->store);

	if (rc == TERRACE_OK && whole)
		terrace__lane_pass(shared, drain->lane, drain->to);
	else if (rc == TERRACE_OK)
		terrace__lane_mend(shared, drain->lane);
	return rc;
}

/* Under the writers' lock. */
static int drain_lane(struct terrace *store, void *ctx)
{
	struct drain *drain = ctx;
	uint64_t head, tail;
	bool whole = terrace__lane_span(store->shared, drain->lane, &head, &tail), room = false;
	int rc;

	/* Unless somebody else has been there since. */
	if (!whole || (drain->damaged && head <= drain->from + drain->count && head < drain->to))
		return give_up(drain, whole);
	if (drain->damaged)
		return TERRACE_OK;
	rc = write_items(drain, head, &room);
	if (rc != TERRACE_OK)
		return rc;
	/* After the commit, and only then; and before the head moves, so that who finds a
	 * mark finds the value. */
	for (size_t i = 0; i < drain->count; i++)
		terrace__lane_unmark(store->shared, drain->lane, drain->to, &drain->items[i].item);
	terrace__lane_pass(store->shared, drain->lane, drain->to);
	drain->full = room;
	if (room)
		terrace__caches_make_room(store, drain->writes, drain->count);
	return TERRACE_OK;
}

/* `rc`: of all of them, where none was written. */
static int drain_done(struct drain *drain, int rc)
{
	for (size_t i = 0; i < drain->count; i++) {
		if (rc != TERRACE_OK)
			drain->writes[i].rc = rc;
		terrace__write_file_done(drain->store, &drain->writes[i]);
		terrace__write_done(&drain->writes[i]);
	}
	free(drain->items);
	free(drain->writes);
	return rc;
}

int terrace__drain(struct drain *drain, struct terrace_cache *const *caches)
{
	int rc = prepare_all(drain, caches);

	if (rc == TERRACE_OK && (drain->to > drain->from || drain->damaged))
		rc = terrace__write_alone(drain->store, drain_lane, drain);
	return drain_done(drain, rc);
}

int terrace__drain_now(struct drain *drain, struct terrace_cache *const *caches)
{
	int rc = prepare_all(drain, caches);

	if (rc == TERRACE_OK)
		rc = drain_lane(drain->store, drain);
	return drain_done(drain, rc);
}
