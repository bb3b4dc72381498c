#include "core/behind.h"

#include "core/drain.h"
#include "core/entries.h"
#include "core/locks.h"
#include "core/power.h"
#include "core/spool.h"
#include "util/lock.h"
#include "util/message.h"
#include "util/thread.h"
#include "util/time.h"
#include "util/util.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum {
	FLUSH_AFTER_MS = 50,     /* how long a value waits for company */
	BATCH = 512,             /* become rows in one transaction, at most, */
	BATCH_BYTES = 320 << 10, /* and so much of them: its pages fit into SQLite's memory */
	SMALL_BATCH = 16,        /* where room must be made, which who puts may wait for; */
	SMALL_BATCHES = 256,     /* and that often after it was made last */
	RETRY_AFTER_MS = 1000,   /* after a flush that failed */
	LARGE = 16 << 10,        /* see is_worth_waiting() */
	REAP_AFTER_MS = 100,     /* how often a mark that leads nowhere is looked at */
};

static uint64_t lane_byte(int lane)
{
	return LOCK_LANES + (uint64_t)lane;
}

static int my_lane(const struct terrace *store)
{
	return atomic_load_explicit(&store->behind.lane, memory_order_acquire);
}

/* How many values wait; a lane that is damaged counts as full. */
static uint64_t count_of(struct terrace *store)
{
	uint64_t head, tail;

	return terrace__lane_span(store->shared, my_lane(store), &head, &tail) ? tail - head :
	                                                                         MARKS;
}

/* --- lanes of others, alive or dead ------------------------------------------------------------- */

/* What is to become rows next, of what is before `end`. The tail is returned, or that. */
static uint64_t find_batch(struct drain *drain, uint64_t end)
{
	uint64_t tail;

	drain->damaged = !terrace__lane_span(drain->store->shared, drain->lane, &drain->from,
	                                     &tail);
	tail = max_u64(drain->from, min_u64(tail, end));
	drain->to = min_u64(tail, drain->from + BATCH);
	drain->most = BATCH_BYTES;
	return tail;
}

/* What waits in it now before `goal`; `still`: nobody adds to it. */
static int drain_until(struct terrace *store, int lane, uint64_t goal, bool still)
{
	struct drain drain;
	int rc;

	do {
		drain = (struct drain){ .store = store, .lane = lane, .still = still };
		goal = find_batch(&drain, goal);
		rc = terrace__drain(&drain, NULL);
	} while (rc == TERRACE_OK && drain.from < drain.to && drain.to < goal);
	return rc;
}

/*
 * Of a dead process, or of any. Under behind.lanes: while we waited for that, the lane may
 * have become our own, and its lock, to be had again and let go of below, with it.
 */
static void drain_other(struct terrace *store, int lane, uint64_t goal, bool dead_alone)
{
	bool still;

	if (lane == my_lane(store) || terrace__lane_is_empty(store->shared, lane))
		return;
	still = terrace__lock_try(store->lock_fd, lane_byte(lane), true) == 0;
	if (dead_alone && !still)
		return;
	if (still) {
		terrace__log(store, TERRACE_LOG_INFO, "a process died with values unwritten");
		goal = UINT64_MAX;
	}
	if (drain_until(store, lane, goal, still) != TERRACE_OK)
		terrace__swallow(store, NULL, "writing what waits in another process");
	if (still)
		terrace__unlock(store->lock_fd, lane_byte(lane));
}

static void drain_others(struct terrace *store, bool dead_alone)
{
	for (int i = 0; i < LANES; i++)
		drain_other(store, i, UINT64_MAX, dead_alone);
}

void terrace__behind_reap(struct terrace *store)
{
	/* Each lies on pages of its own: who only comes to get one value looks at none that
	 * nobody has had. */
	uint32_t taken = atomic_load(&store->shared->lanes_taken);

	pthread_mutex_lock(&store->behind.lanes);
	for (int i = 0; i < LANES; i++) {
		if (taken & 1u << i)
			drain_other(store, i, UINT64_MAX, true);
	}
	pthread_mutex_unlock(&store->behind.lanes);
}

/* The slot is marked, and nothing that waits explains it. */
static void look_for_stray(struct terrace *store, uint32_t slot)
{
	pthread_mutex_lock(&store->behind.lanes);
	drain_others(store, true);
	terrace__lane_unmark_stray(store->shared, slot);
	pthread_mutex_unlock(&store->behind.lanes);
}

/* --- our own: under behind.lock, but while a drain runs --------------------------------------------- */

/* The first failure is told by the next flush. */
static void tell(struct behind *behind, int rc)
{
	if (behind->rc == TERRACE_OK)
		behind->rc = rc;
}

/* What to write next. */
static void plan(struct terrace *store, struct drain *drain, struct terrace_cache **ret_caches)
{
	struct behind *behind = &store->behind;

	*drain = (struct drain){ .store = store, .lane = my_lane(store), .still = true };
	find_batch(drain, UINT64_MAX);
	if (behind->small)
		drain->to = min_u64(drain->to, drain->from + SMALL_BATCH);
	drain->give_up = drain->from < behind->given_up;
	if (drain->give_up && drain->to > behind->given_up)
		drain->to = behind->given_up;
	memcpy(ret_caches, behind->caches, sizeof behind->caches);
}

static void planned(struct behind *behind, const struct drain *drain, int rc)
{
	if (rc != TERRACE_OK)
		terrace__swallow(drain->store, NULL, "writing values that waited");
	if (rc != TERRACE_OK || drain->rc != TERRACE_OK)
		tell(behind, rc != TERRACE_OK ? rc : drain->rc);
	/* Who could not get the lock may still write; else the value is lost. */
	if (rc != TERRACE_OK && rc != TERRACE_EBUSY)
		behind->given_up = drain->to;
	behind->failing = rc != TERRACE_OK;
	if (drain->full)
		behind->small = SMALL_BATCHES;
	else if (behind->small)
		behind->small--;
}

/* Whose batch this thread writes. */
static _Thread_local const struct terrace *flushes;

bool terrace__behind_flushes(const struct terrace *store)
{
	return flushes == store;
}

/* One batch. Called and returns under the lock, but lets go of it. */
static int flush_once(struct terrace *store)
{
	struct behind *behind = &store->behind;
	struct terrace_cache *caches[MARKS];
	struct drain drain;
	int rc;

	plan(store, &drain, caches);
	behind->kept = drain.damaged ? UINT64_MAX : drain.from;
	behind->flushing = true;
	pthread_mutex_unlock(&behind->lock);
	flushes = store;
	rc = terrace__drain(&drain, caches);
	flushes = NULL;
	pthread_mutex_lock(&behind->lock);
	planned(behind, &drain, rc);
	behind->flushing = false;
	behind->flushed++;
	pthread_cond_broadcast(&behind->done);
	return rc;
}

/* Or there is nothing more: a tail that was damaged and is mended may be before the goal. */
static bool has_passed(struct terrace *store, uint64_t goal)
{
	uint64_t head, tail;

	return terrace__lane_span(store->shared, my_lane(store), &head, &tail) &&
	       (head >= goal || head == tail);
}

/* Until what waits now before `goal` is written or given up, or a flush has failed twice in turn. */
static void flush(struct terrace *store, uint64_t goal)
{
	struct behind *behind = &store->behind;
	uint64_t head, tail;
	int failures = 0;

	/* One that is damaged: until it is mended. */
	goal = terrace__lane_span(store->shared, my_lane(store), &head, &tail) ?
	           min_u64(goal, tail) :
	           0;
	while (!has_passed(store, goal) && failures < 2) {
		if (behind->flushing)
			pthread_cond_wait(&behind->done, &behind->lock);
		else
			failures = flush_once(store) == TERRACE_OK ? 0 : failures + 1;
	}
}

int terrace__behind_flush(struct terrace *store)
{
	struct behind *behind = &store->behind;
	int rc;

	if (my_lane(store) < 0)
		return TERRACE_OK;
	pthread_mutex_lock(&behind->lock);
	flush(store, UINT64_MAX);
	rc = behind->rc;
	behind->rc = TERRACE_OK;
	pthread_mutex_unlock(&behind->lock);
	return rc;
}

bool terrace__behind_any_mine(const struct terrace *store)
{
	return my_lane(store) >= 0 && !terrace__lane_is_empty(store->shared, my_lane(store));
}

static void flush_mine(struct terrace *store, uint64_t goal)
{
	if (!terrace__behind_any_mine(store))
		return;
	pthread_mutex_lock(&store->behind.lock);
	flush(store, goal);
	pthread_mutex_unlock(&store->behind.lock);
}

void terrace__behind_settle_all(struct terrace *store)
{
	bool others = false;

	if (store->read_only)
		return;
	flush_mine(store, UINT64_MAX);
	for (int i = 0; i < LANES; i++)
		others |= i != my_lane(store) && !terrace__lane_is_empty(store->shared, i);
	if (!others)
		return;
	pthread_mutex_lock(&store->behind.lanes);
	drain_others(store, false);
	pthread_mutex_unlock(&store->behind.lanes);
}

void terrace__behind_settle(struct terrace *store, uint32_t slot)
{
	uint64_t goal = UINT64_MAX;
	struct lane_item item;
	int lane;

	if (store->read_only || !version_is_behind(version_load(store->shared, slot)))
		return;
	if (terrace__lane_find(store->shared, slot, &lane, &item)) {
		goal = item.at + 1; /* what came later is for its owner to write */
		if (lane != my_lane(store)) {
			pthread_mutex_lock(&store->behind.lanes);
			drain_other(store, lane, goal, false);
			pthread_mutex_unlock(&store->behind.lanes);
			goal = UINT64_MAX;
		}
	}
	if (version_is_behind(version_load(store->shared, slot)))
		flush_mine(store, goal);
	if (version_is_behind(version_load(store->shared, slot)))
		look_for_stray(store, slot);
}

void terrace__behind_settle_now(struct terrace *store, uint32_t slot)
{
	struct drain drain = { .store = store };
	struct lane_item item;

	if (!version_is_behind(version_load(store->shared, slot)))
		return;
	if (terrace__lane_find(store->shared, slot, &drain.lane, &item) &&
	    terrace__lane_span(store->shared, drain.lane, &drain.from, &drain.to) &&
	    item.at >= drain.from) {
		drain.to = min_u64(drain.to, item.at + 1);
		if (terrace__drain_now(&drain, NULL) != TERRACE_OK)
			terrace__swallow(store, NULL, "writing what waits");
	}
	if (version_is_behind(version_load(store->shared, slot)))
		terrace__lane_unmark_stray(store->shared, slot);
}

void terrace__behind_settle_mine_now(struct terrace *store)
{
	struct behind *behind = &store->behind;
	struct terrace_cache *caches[MARKS];
	struct drain drain;
	uint64_t head, goal;
	int rc;

	if (!terrace__behind_any_mine(store) ||
	    !terrace__lane_span(store->shared, my_lane(store), &head, &goal))
		return;
	while (!has_passed(store, goal)) {
		pthread_mutex_lock(&behind->lock);
		plan(store, &drain, caches);
		behind->settling = true;
		pthread_mutex_unlock(&behind->lock);
		rc = terrace__drain_now(&drain, caches);
		/* What fails here may succeed when the thread has made room. */
		if (rc != TERRACE_OK)
			terrace__swallow(store, NULL, "writing values that waited");
		pthread_mutex_lock(&behind->lock);
		if (rc == TERRACE_OK)
			planned(behind, &drain, rc);
		behind->settling = false;
		behind->settled++;
		pthread_cond_broadcast(&behind->done);
		pthread_mutex_unlock(&behind->lock);
		if (rc != TERRACE_OK)
			return;
	}
}

int terrace__behind_value(struct terrace *store, int lane, const struct lane_item *item,
                          struct entry **ret)
{
	int rc;

	/* The places of a batch are nobody's until it is written. */
	if (lane != my_lane(store) || terrace__behind_flushes(store))
		return terrace__lane_value(store, lane, item, ret);
	pthread_mutex_lock(&store->behind.lock);
	rc = terrace__lane_value(store, lane, item, ret);
	pthread_mutex_unlock(&store->behind.lock);
	return rc;
}

int terrace__behind_get(struct terrace_cache *cache, const struct tier_key *key, uint64_t version,
                        struct entry **ret)
{
	struct terrace *store = cache->store;
	struct behind *behind = &store->behind;
	struct lane_item item;
	uint64_t head;
	int lane, rc = TERRACE_MISS;
	bool found = terrace__lane_find(store->shared, key->slot, &lane, &item) && item.seq &&
	             item.version == version;

	if (!found) {
		int64_t now = terrace__clock_ms(CLOCK_MONOTONIC);

		if (!store->read_only && now - atomic_load(&behind->looked) >= REAP_AFTER_MS) {
			atomic_store(&behind->looked, now);
			look_for_stray(store, key->slot);
		}
		return TERRACE_EBUSY;
	}
	while (item.hash != key->hash || item.cache != key->cache) {
		if (!terrace__lane_head(store->shared, lane, &head))
			return TERRACE_EBUSY;
		if (item.prev <= head)
			return TERRACE_EXISTS; /* the key's own is a row, if it has one */
		if (!terrace__lane_prev(store->shared, lane, &item) || item.version != version)
			return TERRACE_EBUSY;
	}
	if (item.epoch != atomic_load(&cache->shared->epoch))
		return TERRACE_MISS;
	rc = terrace__behind_value(store, lane, &item, ret);
	if (rc == TERRACE_MISS)
		return TERRACE_EBUSY; /* it has just become a row */
	if (rc == TERRACE_OK && ((*ret)->key_size != key->key.size ||
	                         memcmp(entry_key(*ret), key->key.data, key->key.size) != 0)) {
		entry_unref(*ret);
		rc = TERRACE_MISS;
	}
	if (rc == TERRACE_ECORRUPT)
		count_add(&cache->counts, COUNT_damaged, 1);
	return rc == TERRACE_OK ? TERRACE_OK : TERRACE_MISS;
}

/* --- putting --------------------------------------------------------------------------------------- */

static void *run(void *ctx);

/* Lane i, whose lock we have, which is free. Under behind.lock. */
static void take_lane(struct terrace *store, int i)
{
	struct behind *behind = &store->behind;

	atomic_store(&behind->started, true);
	atomic_fetch_or(&store->shared->lanes_taken, 1u << i);
	if (terrace__lane_make(store, i, &behind->ring) != TERRACE_OK)
		terrace__swallow(store, NULL, "making a lane");
	else if (terrace__thread_start(&behind->thread, run, store))
		atomic_store(&behind->lane, i); /* it waits for the lock to look at it */
}

/* A lane of our own, and the thread. Without behind.lock. */
static void start_lane(struct terrace *store)
{
	struct behind *behind = &store->behind;

	pthread_mutex_lock(&behind->lanes);
	drain_others(store, true);
	pthread_mutex_lock(&behind->lock);
	for (int i = 0; i < LANES && !atomic_load(&behind->started); i++) {
		if (terrace__lock_try(store->lock_fd, lane_byte(i), true) != 0)
			continue;
		if (terrace__lane_is_empty(store->shared, i))
			take_lane(store, i);
		if (my_lane(store) != i)
			terrace__unlock(store->lock_fd, lane_byte(i));
	}
	atomic_store(&behind->started, true);
	pthread_mutex_unlock(&behind->lock);
	pthread_mutex_unlock(&behind->lanes);
}

static size_t record_bytes(const struct entry *entry)
{
	size_t size = RECORD_HEAD_FIXED + RECORD_HEAD_IDLE + entry->key_size +
	              entry_extra(entry).size + (size_t)entry->value_size;

	return (size + 63) & ~(size_t)63;
}

/* For a value to be put: its number, and where in the ring its record begins. */
struct place {
	uint64_t at, start;
};

/*
 * Where so many bytes would go, in one piece; false when that is not free. Large values have a
 * quarter of the ring: who needs rows encodes and writes all that waits.
 */
static bool find_place(struct terrace *store, uint64_t size, bool large, struct place *ret)
{
	struct behind *behind = &store->behind;
	uint64_t first, tail, start, used;

	/* A lane that is damaged is full, until a flush has seen to it. */
	if (!terrace__lane_span(store->shared, my_lane(store), &first, &tail))
		return false;
	/* A batch is read where it lies, though another process may have written it meanwhile. */
	if (behind->flushing)
		first = min_u64(first, behind->kept);
	if (tail - first >= MARKS)
		return false;
	if (first == tail)
		behind->end = 0;
	start = behind->end;
	if (start % behind->ring + size > behind->ring)
		start += behind->ring - start % behind->ring;
	used = first == tail ? start : behind->starts[first % MARKS];
	*ret = (struct place){ tail, start };
	return start + size - used <= (large ? behind->ring / 4 : behind->ring);
}

/* Under the lock. False when it stays full. */
static bool wait_room(struct terrace *store, uint64_t size, bool large, struct place *ret)
{
	struct behind *behind = &store->behind;
	bool found = false, late = false;
	int64_t deadline = terrace__clock_ms(CLOCK_MONOTONIC) + store->wait_ms;
	struct timespec until = { deadline / 1000, (long)(deadline % 1000) * 1000000 };

	if (large && behind->large_waits)
		return false;
	behind->large_waits |= large;
	while (!found && !late && !behind->failing) {
		/* The thread is busy, or not awake yet: then it is done sooner by who needs it. */
		if (!behind->flushing)
			flush_once(store);
		else
			pthread_cond_timedwait(&behind->done, &behind->lock, &until);
		late = terrace__clock_ms(CLOCK_MONOTONIC) >= deadline;
		found = find_place(store, size, large, ret);
	}
	if (large)
		behind->large_waits = false;
	return found;
}

/* What waits for the slot when a value is put; it is in one lane, if it is at all. */
enum { NEIGHBOURS = 8 };
struct neighbours {
	uint64_t version;        /* while this stands, it can be taken; 0: nothing waits */
	uint64_t prev;           /* see struct lane_item */
	uint64_t at[NEIGHBOURS]; /* of other keys, in our lane */
	size_t count;
};

/*
 * False when the slot is not to be had: too many wait for it, or one of another key in
 * another lane. What waits there for this key is replaced.
 */
static bool find_neighbours(struct terrace *store, const struct tier_key *key,
                            struct neighbours *ret)
{
	const struct shared *shared = store->shared;
	struct lane_item item;
	uint64_t head;
	int lane;
	bool more = terrace__lane_find(shared, key->slot, &lane, &item);

	*ret = (struct neighbours){ 0 };
	if (!more)
		return true;
	ret->version = item.version;
	if (lane != my_lane(store))
		return item.hash == key->hash && terrace__lane_head(shared, lane, &head) &&
		       item.prev <= head;
	/* A value that is replaced is passed by. */
	ret->prev = item.hash == key->hash ? item.prev : item.at + 1;
	while (more) {
		if (ret->count == NEIGHBOURS)
			return false;
		if (item.hash != key->hash)
			ret->at[ret->count++] = item.at;
		more = terrace__lane_prev(shared, lane, &item);
	}
	return true;
}

/*
 * Mark the slot as ours. The value stands in the lane already, so that a bulk
 * change that we do not see has seen it. TERRACE_OK with the version, and a sequence
 * number that is above that of every row which we are to replace: a transaction
 * draws its own before it marks a slot, so it has to be drawn after our mark.
 */
static int take_slot(struct terrace_cache *cache, struct lane_item *item,
                     struct neighbours *neighbours, const struct write_lease *lease)
{
	struct shared *shared = cache->store->shared;
	_Atomic uint64_t *version = &shared->versions[item->slot];
	uint64_t old = atomic_load(version), new;

	do {
		if (UNLIKELY(!word_holds(shared, item->slot, old)))
			return TERRACE_EXISTS;
		if (lease && (!version_stands(shared, item->slot, lease->version, old) ||
		              atomic_load(&cache->shared->bulk) != lease->bulk))
			return TERRACE_MISS;
		if (version_is_behind(old) && old != neighbours->version)
			return TERRACE_EXISTS;
		new = word_make(shared, item->slot,
		                (word_value(old) + VERSION_STEP) | VERSION_BEHIND);
	} while (!atomic_compare_exchange_strong(version, &old, new));
	if (!version_is_behind(old))
		neighbours->count = 0; /* none of them waited any more */
	item->version = new;
	item->seq = terrace__draw(shared);
	return TERRACE_OK;
}

static int add(struct terrace_cache *cache, const struct tier_key *key, struct entry *entry,
               const struct write_lease *lease, uint64_t epoch, struct place place)
{
	struct terrace *store = cache->store;
	struct behind *behind = &store->behind;
	terrace_slice value = terrace_bytes(entry_value(entry), (size_t)entry->value_size);
	struct lane_item item = {
		.at = place.at,
		.epoch = epoch,
		.hash = key->hash,
		.slot = key->slot,
		.cache = key->cache,
		.offset = (uint32_t)(place.start % behind->ring),
		.size = (uint32_t)record_bytes(entry),
	};
	struct neighbours neighbours;
	struct record record;
	int rc;

	terrace__lane_write_soon(store, my_lane(store), &item);
	if (!find_neighbours(store, key, &neighbours))
		return TERRACE_EXISTS;
	item.prev = neighbours.prev;
	terrace__record_fill(key->cache, entry, &record);
	record.seq = item.at + 1;
	record.codec = TERRACE_CODEC_NONE;
	record.payload_size = value.size;
	terrace__record_sum(value, record.payload_sum);
	behind->head.size = 0;
	terrace__record_write(&record, &behind->head);
	if (behind->head.failed) {
		terrace__buf_done(&behind->head);
		return TERRACE_EXISTS;
	}
	terrace__lane_write(store, my_lane(store), &item,
	                    terrace_bytes(behind->head.data, behind->head.size), value);
	behind->caches[item.at % MARKS] = cache;
	behind->starts[item.at % MARKS] = place.start;
	terrace__lane_tail_set(store->shared, my_lane(store), item.at + 1);
	/* Who begins a transaction sees the value in the lane, or we see that. */
	rc = atomic_load(&store->shared->transaction) ? TERRACE_EXISTS :
	                                                take_slot(cache, &item, &neighbours, lease);
	if (rc != TERRACE_OK) {
		terrace__lane_tail_set(store->shared, my_lane(store), item.at);
		return rc;
	}
	entry_rest(entry)->seq = item.seq;
	atomic_store(&entry->stamp, item.version);
	atomic_store(&entry->epoch, epoch);
	terrace__lane_finish(store->shared, my_lane(store), &item);
	/* Those that were good are so still. Not before ours can be found: who finds another key's
	 * value alone, under our version, takes the row of our key for good, and keeps it. */
	for (size_t i = 0; i < neighbours.count; i++)
		terrace__lane_restamp(store->shared, my_lane(store), neighbours.at[i],
		                      neighbours.version, item.version);
	behind->end = place.start + item.size;
	return TERRACE_OK;
}

/* There is something to write; it need not be at once. */
static void wake(struct terrace *store)
{
	struct behind *behind = &store->behind;

	if (behind->awake && count_of(store) != MARKS / 2)
		return;
	behind->awake = true;
	pthread_cond_signal(&behind->work);
}

/*
 * A transaction for each value pays for a few of them alone. A large one takes longer to encode
 * and write, and one thread does that for all that wait: where several threads put such values
 * each does its own, but where a program wants none to.
 */
static bool is_worth_waiting(struct terrace_cache *cache, const struct entry *entry)
{
	enum { PUTS_ALONE = 32, MOST = 64 << 10 };

	if (cache->write_behind)
		return true;
	if (entry->value_size > LARGE && (atomic_load(&cache->store->behind.through) ||
	                                  terrace__counts_what_waits(cache, entry->value_size)))
		return false;
	return entry->value_size <= MOST && !terrace__too_big_for_disk(cache, entry->value_size) &&
	       (my_lane(cache->store) >= 0 ||
	        atomic_fetch_add(&cache->store->behind.alone, 1) >= PUTS_ALONE);
}

int terrace__behind_put(struct terrace_cache *cache, const struct tier_key *key,
                        struct entry *entry, const struct write_lease *lease)
{
	struct terrace *store = cache->store;
	struct behind *behind = &store->behind;
	uint64_t epoch = lease ? lease->epoch : atomic_load(&cache->shared->epoch);
	bool large = entry->value_size > LARGE;
	struct place place;
	size_t size = record_bytes(entry);
	int rc;

	if (store->read_only || !is_worth_waiting(cache, entry))
		return TERRACE_EXISTS;
	if (UNLIKELY(!atomic_load(&behind->started)))
		start_lane(store);
	if (my_lane(store) < 0 || size > behind->ring / 4 ||
	    atomic_load(&store->shared->transaction))
		return TERRACE_EXISTS;
	rc = terrace__power_note(cache);
	if (rc != TERRACE_OK)
		return rc;
	rc = TERRACE_EXISTS;
	slot_soon(store->shared, key->slot);
	pthread_mutex_lock(&behind->lock);
	if (find_place(store, size, large, &place) || wait_room(store, size, large, &place))
		rc = add(cache, key, entry, lease, epoch, place);
	if (rc == TERRACE_OK)
		wake(store);
	pthread_mutex_unlock(&behind->lock);
	return rc;
}

/* --- the thread --------------------------------------------------------------------------------------- */

/* Let values gather, but not for long. Under the lock. */
static void gather(struct terrace *store, int64_t wait_ms)
{
	struct behind *behind = &store->behind;
	int64_t deadline = terrace__clock_ms(CLOCK_MONOTONIC) + wait_ms;
	struct timespec until = { deadline / 1000, (long)(deadline % 1000) * 1000000 };

	while (!behind->stopping && count_of(store) < MARKS / 2) {
		if (pthread_cond_timedwait(&behind->work, &behind->lock, &until) == ETIMEDOUT)
			return;
	}
}

/* A batch, be it in small parts. */
static int flush_batch(struct terrace *store)
{
	struct behind *behind = &store->behind;
	uint64_t head = 0, tail;
	int rc;

	terrace__lane_span(store->shared, my_lane(store), &head, &tail);
	do
		rc = flush_once(store);
	while (rc == TERRACE_OK && behind->small && !behind->flushing && !behind->stopping &&
	       !has_passed(store, head + BATCH));
	return rc;
}

static void *run(void *ctx)
{
	struct terrace *store = ctx;
	struct behind *behind = &store->behind;
	int64_t wait_ms = FLUSH_AFTER_MS;

	pthread_mutex_lock(&behind->lock);
	while (!behind->stopping) {
		if (terrace__lane_is_empty(store->shared, my_lane(store))) {
			behind->awake = false;
			pthread_cond_broadcast(&behind->done); /* another process has made room */
			pthread_cond_wait(&behind->work, &behind->lock);
			continue;
		}
		gather(store, wait_ms);
		if (behind->flushing)
			pthread_cond_wait(&behind->done, &behind->lock);
		else
			wait_ms = flush_batch(store) == TERRACE_OK ? FLUSH_AFTER_MS :
			                                             RETRY_AFTER_MS;
	}
	pthread_mutex_unlock(&behind->lock);
	return NULL;
}

void terrace__behind_leave(struct terrace_cache *cache)
{
	struct behind *behind = &cache->store->behind;
	uint64_t flushed, settled;

	if (my_lane(cache->store) < 0)
		return;
	pthread_mutex_lock(&behind->lock);
	flush(cache->store, UINT64_MAX);
	/* What could not be written is written later, by whom it may be. */
	for (size_t i = 0; i < MARKS; i++) {
		if (behind->caches[i] == cache)
			behind->caches[i] = NULL;
	}
	/* One that has begun may still know it; others may follow without end. */
	flushed = behind->flushed;
	settled = behind->settled;
	while ((behind->flushing && behind->flushed == flushed) ||
	       (behind->settling && behind->settled == settled))
		pthread_cond_wait(&behind->done, &behind->lock);
	pthread_mutex_unlock(&behind->lock);
}

void terrace__behind_close(struct terrace *store)
{
	struct behind *behind = &store->behind;

	if (my_lane(store) >= 0) {
		terrace__behind_flush(store);
		pthread_mutex_lock(&behind->lock);
		behind->stopping = true;
		pthread_cond_signal(&behind->work);
		pthread_mutex_unlock(&behind->lock);
		pthread_join(behind->thread, NULL);
		if (terrace__lane_is_empty(store->shared, my_lane(store)))
			terrace__lane_unmake(store, my_lane(store));
	}
	terrace__buf_done(&behind->head);
	terrace__lanes_close(store);
}
