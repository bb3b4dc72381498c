#include "core/behind.h"

#include "core/entries.h"
#include "core/flight.h"
#include "core/locks.h"
#include "core/power.h"
#include "util/lock.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

enum {
	FLUSH_AFTER_MS = 10,   /* how long a value waits for company */
	RETRY_AFTER_MS = 1000, /* after a flush that failed */
	REAP_AFTER_MS = 100,   /* how often a marked slot has the lanes looked at */
};

/* How many bytes of values may wait: one transaction writes them, so they count in its size. */
static uint64_t bytes_max(const struct terrace *store)
{
	enum { LEAST = 256 << 10, MOST = 16 << 20 };

	if (!store->disk_bytes)
		return MOST;
	return max_u64(LEAST, min_u64(MOST, store->disk_bytes / 256));
}

/* --- the lanes ---------------------------------------------------------------------------------- */

static uint64_t lane_byte(int lane)
{
	return LOCK_LANES + (uint64_t)lane;
}

static bool lane_is_empty(const struct shared_lane *lane)
{
	return atomic_load(&lane->head) == atomic_load(&lane->tail);
}

/* From *ret_head to *ret_tail; false when that is damaged. */
static bool lane_span(const struct shared_lane *lane, uint64_t *ret_head, uint64_t *ret_tail)
{
	/* The head first: it only moves up to where the tail has been. */
	*ret_head = atomic_load(&lane->head);
	*ret_tail = atomic_load(&lane->tail);
	return *ret_tail - *ret_head <= MARKS;
}

/* What stood in it is lost; it can be used on. Its owner, or under its lock. */
static void lane_mend(struct shared_lane *lane)
{
	uint64_t head, tail;

	if (UNLIKELY(!lane_span(lane, &head, &tail)))
		atomic_store(&lane->head, tail);
}

/* Is a value waiting for the slot, in another lane than this one (NULL: in any)? */
static bool waits_elsewhere(struct shared *shared, const struct shared_lane *but, uint32_t slot)
{
	for (int i = 0; i < LANES; i++) {
		struct shared_lane *lane = &shared->lanes[i];
		uint64_t at, tail;

		if (lane == but)
			continue;
		if (!lane_span(lane, &at, &tail))
			return true;
		for (; at < tail; at++) {
			uint32_t marked, cache;

			if (!terrace__mark_where(shared, &lane->marks[at % MARKS], &marked,
			                         &cache) ||
			    marked == slot)
				return true;
		}
	}
	return false;
}

/* The rows are gone: take the mark off, unless it is another process's as well. */
static void unmark(struct shared *shared, const struct shared_lane *lane, uint32_t slot)
{
	uint64_t version, new;

	do {
		version = version_look(shared, slot, version_load(shared, slot));
		if (!version_is_behind(version) || waits_elsewhere(shared, lane, slot))
			return;
		new = word_make(shared, slot, word_value(version) & ~VERSION_BEHIND);
	} while (!atomic_compare_exchange_weak(&shared->versions[slot], &version, new));
}

static bool lane_is_whole(struct shared *shared, const struct shared_lane *lane, uint64_t *ret_head,
                          uint64_t *ret_tail)
{
	bool whole = lane_span(lane, ret_head, ret_tail);
	uint32_t slot, cache;

	for (uint64_t at = *ret_head; whole && at < *ret_tail; at++)
		whole = terrace__mark_where(shared, &lane->marks[at % MARKS], &slot, &cache);
	return whole;
}

/* Under the writers' lock, and the lane's. */
static int reap_lane(struct terrace *store, void *ctx)
{
	struct shared_lane *lane = ctx;
	struct transaction transaction;
	uint32_t slot, cache;
	uint64_t head, tail;
	int rc;

	if (!lane_is_whole(store->shared, lane, &head, &tail)) {
		/* It cannot be told which rows were to be replaced. */
		rc = terrace__floors_raise(store);
		if (rc == TERRACE_OK)
			atomic_store(&lane->head, tail);
		return rc;
	}
	rc = terrace__transaction_begin(store, &transaction);
	if (rc != TERRACE_OK)
		return rc;
	for (uint64_t at = head; at < tail && (rc == TERRACE_OK || rc == TERRACE_MISS); at++) {
		struct shared_mark *mark = &lane->marks[at % MARKS];

		terrace__mark_where(store->shared, mark, &slot, &cache);
		rc = terrace__transaction_mark(&transaction, slot);
		if (rc == TERRACE_OK)
			rc = store->disk_ops->remove_hash(store->disk, atomic_load(&mark->hash),
			                                  atomic_load(&mark->seq));
	}
	if (rc != TERRACE_OK && rc != TERRACE_MISS) {
		terrace__transaction_rollback(&transaction);
		return rc;
	}
	rc = terrace__transaction_commit(&transaction);
	if (rc != TERRACE_OK)
		return rc;
	for (uint64_t at = head; at < tail; at++) {
		terrace__mark_where(store->shared, &lane->marks[at % MARKS], &slot, &cache);
		unmark(store->shared, lane, slot);
	}
	atomic_store(&lane->head, tail);
	return TERRACE_OK;
}

/* Under behind.lanes. */
static void reap(struct terrace *store)
{
	for (int i = 0; i < LANES; i++) {
		struct shared_lane *lane = &store->shared->lanes[i];

		if (lane_is_empty(lane) || i == atomic_load(&store->behind.lane) ||
		    terrace__lock_try(store->lock_fd, lane_byte(i), true) != 0)
			continue;
		terrace__log(store, TERRACE_LOG_INFO, "a process died with values unwritten");
		if (terrace__write_alone(store, reap_lane, lane) != TERRACE_OK)
			terrace__swallow(store, NULL,
			                 "removing what a dead process meant to replace");
		terrace__unlock(store->lock_fd, lane_byte(i));
	}
}

void terrace__behind_reap(struct terrace *store)
{
	pthread_mutex_lock(&store->behind.lanes);
	reap(store);
	pthread_mutex_unlock(&store->behind.lanes);
}

/*
 * The slot is marked, and not by us. A mark that was left on because of what
 * stood in another lane, and stands there no longer, is nobody's.
 */
static void reap_slot(struct terrace *store, uint32_t slot)
{
	pthread_mutex_lock(&store->behind.lanes);
	reap(store);
	unmark(store->shared, NULL, slot);
	pthread_mutex_unlock(&store->behind.lanes);
}

bool terrace__behind_any(struct terrace *store, const struct terrace_cache *cache)
{
	for (int i = 0; i < LANES; i++) {
		struct shared_lane *lane = &store->shared->lanes[i];
		uint32_t slot, number;
		uint64_t at, tail;

		if (!lane_span(lane, &at, &tail))
			return true;
		for (; at < tail; at++) {
			if (!terrace__mark_where(store->shared, &lane->marks[at % MARKS], &slot,
			                         &number) ||
			    !cache || number == cache->number)
				return true;
		}
	}
	return false;
}

/* --- what waits, by slot: under behind.lock ------------------------------------------------------- */

static struct pending **bucket(struct behind *behind, uint32_t slot)
{
	return &behind->buckets[slot % ARRAY_LEN(behind->buckets)];
}

static struct pending *find(struct behind *behind, const struct terrace_cache *cache,
                            const struct tier_key *key)
{
	struct pending *pending = *bucket(behind, key->slot);

	for (; pending; pending = pending->next_in_slot) {
		const struct entry *entry = pending->entry;

		if (pending->cache == cache && entry->hash == key->hash &&
		    entry->key_size == key->key.size &&
		    memcmp(entry_key(entry), key->key.data, key->key.size) == 0)
			return pending;
	}
	return NULL;
}

static bool waits_here(struct behind *behind, uint32_t slot)
{
	struct pending *pending = *bucket(behind, slot);

	while (pending && pending->slot != slot)
		pending = pending->next_in_slot;
	return pending != NULL;
}

static void unlink_slot(struct behind *behind, struct pending *pending)
{
	struct pending **at = bucket(behind, pending->slot);

	while (*at && *at != pending)
		at = &(*at)->next_in_slot;
	if (*at)
		*at = pending->next_in_slot;
}

static bool is_current(const struct pending *pending)
{
	struct terrace_cache *cache = pending->cache;

	return !pending->dead &&
	       version_number(version_load(cache->store->shared, pending->slot)) ==
	           pending->number &&
	       atomic_load(&cache->shared->epoch) == pending->epoch;
}

int terrace__behind_get(struct terrace_cache *cache, const struct tier_key *key, struct entry **ret)
{
	struct behind *behind = &cache->store->behind;
	int64_t now = terrace__clock_ms(CLOCK_MONOTONIC);
	struct pending *pending;
	bool look = false;
	int rc = TERRACE_MISS;

	pthread_mutex_lock(&behind->lock);
	pending = find(behind, cache, key);
	if (pending && is_current(pending)) {
		*ret = entry_ref(pending->entry);
		rc = TERRACE_OK;
	} else if (!pending && waits_here(behind, key->slot)) {
		rc = TERRACE_EXISTS;
	} else if (!pending && !cache->store->read_only && now - behind->reaped >= REAP_AFTER_MS) {
		behind->reaped = now;
		look = true;
	}
	pthread_mutex_unlock(&behind->lock);
	if (look) /* its process may be dead */
		reap_slot(cache->store, key->slot);
	return rc;
}

/* --- putting --------------------------------------------------------------------------------------- */

static void *run(void *ctx);

/* A lane of our own, and the thread. Without behind.lock. */
static void start(struct terrace *store)
{
	struct behind *behind = &store->behind;
	sigset_t all, before;

	pthread_mutex_lock(&behind->lanes);
	reap(store);
	pthread_mutex_lock(&behind->lock);
	for (int i = 0; i < LANES && !behind->started; i++) {
		if (terrace__lock_try(store->lock_fd, lane_byte(i), true) != 0)
			continue;
		if (lane_is_empty(&store->shared->lanes[i])) {
			sigfillset(&all);
			pthread_sigmask(SIG_SETMASK, &all, &before);
			behind->running = pthread_create(&behind->thread, NULL, run, store) == 0;
			pthread_sigmask(SIG_SETMASK, &before, NULL);
			atomic_store(&behind->lane, behind->running ? i : -1);
			behind->started = true;
		}
		if (atomic_load(&behind->lane) != i)
			terrace__unlock(store->lock_fd, lane_byte(i));
	}
	behind->started = true;
	pthread_mutex_unlock(&behind->lock);
	pthread_mutex_unlock(&behind->lanes);
}

static uint64_t weight(const struct entry *entry)
{
	return entry->value_size + entry->key_size + entry_extra(entry).size;
}

/* Under the lock. False when it stays full. */
static bool wait_room(struct terrace *store, uint64_t bytes)
{
	struct behind *behind = &store->behind;
	int64_t deadline = terrace__clock_ms(CLOCK_MONOTONIC) + store->wait_ms;
	struct timespec until = { deadline / 1000, (long)(deadline % 1000) * 1000000 };
	struct shared_lane *lane = &store->shared->lanes[atomic_load(&behind->lane)];

	lane_mend(lane);
	while (atomic_load(&lane->tail) - atomic_load(&lane->head) >= MARKS ||
	       behind->bytes + bytes > bytes_max(store)) {
		if (behind->failing)
			return false;
		behind->hurry = true;
		pthread_cond_signal(&behind->work);
		if (pthread_cond_timedwait(&behind->done, &behind->lock, &until) == ETIMEDOUT)
			return false;
	}
	return true;
}

/*
 * Mark the slot as ours. The value stands in the lane already, so that a bulk
 * change that we do not see has seen it. TERRACE_OK with the version's number,
 * and a sequence number that is above that of every row which we are to
 * replace: a transaction draws its own before it marks a slot, so it has to be
 * drawn after our mark. Until then the one in the lane may be too low, but
 * nobody has been promised anything yet.
 */
static int take_slot(struct terrace_cache *cache, struct shared_mark *mark, uint32_t slot,
                     const struct write_lease *lease, uint64_t *ret_version, uint64_t *ret_seq)
{
	struct terrace *store = cache->store;
	_Atomic uint64_t *version = &store->shared->versions[slot];
	uint64_t old = lease ? lease->version : atomic_load(version), new;

	do {
		if (UNLIKELY(!word_holds(store->shared, slot, old)))
			return TERRACE_EXISTS;
		if (lease &&
		    (old != lease->version || atomic_load(&cache->shared->bulk) != lease->bulk))
			return TERRACE_MISS;
		if (version_is_behind(old) && !waits_here(&store->behind, slot))
			return TERRACE_EXISTS;
		new = word_make(store->shared, slot,
		                (word_value(old) + VERSION_STEP) | VERSION_BEHIND);
	} while (!atomic_compare_exchange_strong(version, &old, new));
	*ret_version = new;
	*ret_seq = terrace__draw(store->shared);
	atomic_store(&mark->seq, *ret_seq);
	return TERRACE_OK;
}

static struct shared_mark *mark_of(struct terrace *store, const struct pending *pending)
{
	struct shared_lane *lane = &store->shared->lanes[atomic_load(&store->behind.lane)];

	return &lane->marks[pending->mark % MARKS];
}

static void write_mark(struct shared *shared, struct shared_mark *mark, const struct tier_key *key)
{
	atomic_store(&mark->hash, key->hash);
	atomic_store(&mark->seq, 0);
	terrace__mark_set(shared, mark, key->slot, key->cache);
}

static void enqueue(struct behind *behind, struct pending *pending)
{
	struct pending **at = bucket(behind, pending->slot);

	*behind->last = pending;
	behind->last = &pending->next;
	pending->next_in_slot = *at;
	*at = pending;
	atomic_fetch_add(&behind->count, 1);
}

/* A value of a key that has none waiting which could be replaced. */
static int add(struct terrace_cache *cache, const struct tier_key *key, struct entry *entry,
               const struct write_lease *lease, uint64_t epoch, struct pending *older)
{
	struct terrace *store = cache->store;
	struct behind *behind = &store->behind;
	struct shared_lane *lane = &store->shared->lanes[atomic_load(&behind->lane)];
	struct pending *pending = calloc(1, sizeof *pending);
	uint64_t version;
	int rc;

	if (!pending)
		return TERRACE_EXISTS;
	pending->cache = cache;
	pending->slot = key->slot;
	pending->epoch = epoch;
	pending->mark = atomic_load(&lane->tail);
	write_mark(store->shared, mark_of(store, pending), key);
	atomic_store(&lane->tail, pending->mark + 1);
	/* Who begins a transaction sees the value in the lane, or we see that. */
	rc = atomic_load(&store->shared->transaction) ?
	         TERRACE_EXISTS :
	         take_slot(cache, mark_of(store, pending), key->slot, lease, &version,
	                   &pending->seq);
	if (rc != TERRACE_OK) {
		atomic_store(&lane->tail, pending->mark);
		free(pending);
		return rc;
	}
	if (older) {
		older->superseded = true;
		unlink_slot(behind, older);
	}
	entry_rest(entry)->seq = pending->seq;
	atomic_store(&entry->stamp, version);
	atomic_store(&entry->epoch, epoch);
	pending->number = version_number(version);
	pending->entry = entry_ref(entry);
	enqueue(behind, pending);
	behind->bytes += weight(entry);
	return TERRACE_OK;
}

/* A later value of a key whose value still waits takes its place. */
static int replace(struct pending *pending, struct entry *entry, const struct write_lease *lease,
                   uint64_t epoch)
{
	struct terrace_cache *cache = pending->cache;
	struct terrace *store = cache->store;
	struct behind *behind = &store->behind;
	uint64_t version;
	int rc = take_slot(cache, mark_of(store, pending), pending->slot, lease, &version,
	                   &pending->seq);

	if (rc != TERRACE_OK)
		return rc;
	entry_rest(entry)->seq = pending->seq;
	atomic_store(&entry->stamp, version);
	atomic_store(&entry->epoch, epoch);
	behind->bytes += weight(entry) - weight(pending->entry);
	entry_unref(pending->entry);
	pending->entry = entry_ref(entry);
	pending->number = version_number(version);
	pending->epoch = epoch;
	pending->dead = false;
	return TERRACE_OK;
}

int terrace__behind_put(struct terrace_cache *cache, const struct tier_key *key,
                        struct entry *entry, const struct write_lease *lease)
{
	struct terrace *store = cache->store;
	struct behind *behind = &store->behind;
	uint64_t epoch = lease ? lease->epoch : atomic_load(&cache->shared->epoch);
	struct pending *older;
	int rc;

	if (UNLIKELY(!atomic_load(&behind->started)))
		start(store);
	if (atomic_load(&behind->lane) < 0 || weight(entry) > bytes_max(store) / 4 ||
	    atomic_load(&store->shared->transaction))
		return TERRACE_EXISTS;
	rc = terrace__power_note(cache);
	if (rc != TERRACE_OK)
		return rc;
	rc = TERRACE_EXISTS;
	pthread_mutex_lock(&behind->lock);
	if (wait_room(store, weight(entry))) {
		older = find(behind, cache, key);
		rc = older && !older->flushing ? replace(older, entry, lease, epoch) :
		                                 add(cache, key, entry, lease, epoch, older);
	}
	if (rc == TERRACE_OK) {
		behind->turn++;
		if (!behind->awake || atomic_load(&behind->count) == MARKS / 2) {
			behind->awake = true;
			pthread_cond_signal(&behind->work);
		}
	}
	pthread_mutex_unlock(&behind->lock);
	return rc;
}

/* --- flushing ------------------------------------------------------------------------------------------ */

int terrace__behind_apply(struct transaction *transaction, struct write *write)
{
	struct terrace *store = transaction->store;
	struct pending *pending = write->pending;
	struct tier_row row;
	int rc = TERRACE_MISS;

	/* Together, so that nobody finds the value out of date in between. */
	pthread_mutex_lock(&store->behind.lock);
	if (pending->superseded) {
		pthread_mutex_unlock(&store->behind.lock);
		return TERRACE_MISS;
	}
	if (is_current(pending))
		rc = terrace__transaction_mark_if(transaction, pending->slot, pending->number,
		                                  &write->number);
	if (rc == TERRACE_OK)
		pending->number = write->number;
	pthread_mutex_unlock(&store->behind.lock);
	if (rc == TERRACE_OK) {
		write->record.seq = transaction->seq;
		write->put.record = &write->record;
		terrace__room_taken(store, &write->put);
		return store->disk_ops->tier.put(store->disk, &write->put);
	}
	if (rc != TERRACE_MISS)
		return rc;
	/* Out of date itself. What it was to replace must not come back either. */
	rc = store->disk_ops->peek(store->disk, &write->put.key, &row);
	if (rc == TERRACE_OK && row.seq <= pending->seq)
		rc = store->disk_ops->tier.remove(store->disk, &write->put.key, NULL);
	return rc == TERRACE_OK ? TERRACE_MISS : rc;
}

/* Everything that waits, as one batch. Under the lock; NULL when there is no memory. */
static struct write *take_all(struct behind *behind, size_t *ret_count)
{
	struct write *writes;
	size_t count = 0;

	for (struct pending *pending = behind->first; pending; pending = pending->next)
		count++;
	writes = count ? calloc(count, sizeof *writes) : NULL;
	*ret_count = writes ? count : 0;
	for (size_t i = 0; writes && i < count; i++) {
		struct pending *pending = behind->first;

		behind->first = pending->next;
		pending->next = NULL;
		pending->flushing = true;
		writes[i].pending = pending;
	}
	if (writes)
		behind->last = &behind->first;
	return writes;
}

/* The first failure is told by the next flush. Under the lock. */
static void tell(struct behind *behind, int rc)
{
	if (behind->rc == TERRACE_OK)
		behind->rc = rc;
}

static void prepare(struct write *write)
{
	struct pending *pending = write->pending;
	struct terrace_cache *cache = pending->cache;
	struct entry *entry = pending->entry;
	int rc = TERRACE_OK;

	write->kind = WRITE_BEHIND;
	write->cache = cache;
	write->file_fd = -1;
	write->put.key = cache_key(cache, entry_key_slice(entry));
	if (!pending->dead)
		rc = terrace__entry_encode(cache, entry_ref(entry), write);
	if (rc == TERRACE_OK)
		return;
	if (rc == TERRACE_ETOOBIG)
		count_add(&cache->counts, COUNT_rejected, 1);
	else
		terrace__swallow(cache->store, cache, "preparing a value to be written");
	pthread_mutex_lock(&cache->store->behind.lock);
	pending->dead = true;
	tell(&cache->store->behind, rc);
	pthread_mutex_unlock(&cache->store->behind.lock);
}

/* The value is written or given up: under the lock, after the commit. */
static void finish(struct terrace *store, struct write *write)
{
	struct behind *behind = &store->behind;
	struct pending *pending = write->pending;
	struct shared *shared = store->shared;
	uint64_t now;

	if (!pending->superseded)
		unlink_slot(behind, pending);
	if (!waits_here(behind, pending->slot))
		terrace__version_unmark(shared, pending->slot, VERSION_BEHIND);
	now = version_load(shared, pending->slot);
	/* The copy in memory is as good as the row. */
	if (write->rc == TERRACE_OK && version_number(now) == pending->number)
		atomic_store(&pending->entry->stamp,
		             word_make(shared, pending->slot, word_value(now) & ~VERSION_WRITING));
	behind->bytes -= weight(pending->entry);
	atomic_fetch_sub(&behind->count, 1);
	entry_unref(pending->entry);
	free(pending);
}

/* It could not be written: what is to be tried again stands in front. Under the lock. */
static void put_back(struct behind *behind, struct write *writes, size_t count, bool give_up)
{
	struct pending *first = NULL, **last = &first;

	for (size_t i = 0; i < count; i++) {
		struct pending *pending = writes[i].pending;

		pending->flushing = false;
		pending->dead |= give_up;
		*last = pending;
		last = &pending->next;
	}
	*last = behind->first;
	if (!behind->first)
		behind->last = last;
	behind->first = first;
}

static void give_bytes(struct terrace *store, const uint64_t *hashes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		terrace__flight_byte_give(store, hashes[i]);
}

/* One batch. Called and returns under the lock, but lets go of it. */
static int flush_once(struct terrace *store)
{
	struct behind *behind = &store->behind;
	struct shared_lane *lane = &store->shared->lanes[atomic_load(&behind->lane)];
	uint64_t turn = behind->turn, tail = atomic_load(&lane->tail);
	uint64_t held[FLIGHT_BYTES];
	size_t count, held_count = behind->held_count;
	struct write *writes = take_all(behind, &count);
	int rc = behind->first ? no_memory("values that wait") : TERRACE_OK;

	memcpy(held, behind->held, held_count * sizeof *held);
	behind->held_count = 0;
	behind->flushing = true;
	behind->hurry = false;
	pthread_mutex_unlock(&behind->lock);
	for (size_t i = 0; i < count; i++)
		prepare(&writes[i]);
	if (count)
		rc = terrace__write(store, writes, count);
	for (size_t i = 0; i < count; i++)
		terrace__write_done(&writes[i]);
	if (rc != TERRACE_OK)
		terrace__swallow(store, NULL, "writing values that waited");
	pthread_mutex_lock(&behind->lock);
	if (rc == TERRACE_OK) {
		for (size_t i = 0; i < count; i++)
			finish(store, &writes[i]);
		if (count && !behind->abandoned)
			atomic_store(&lane->head, tail);
		behind->done_turn = turn;
	} else {
		/* Who could not get the lock may still write; else the value is lost. */
		put_back(behind, writes, count, rc != TERRACE_EBUSY);
		tell(behind, rc);
	}
	behind->failing = rc != TERRACE_OK;
	behind->flushing = false;
	pthread_cond_broadcast(&behind->done);
	pthread_mutex_unlock(&behind->lock);
	give_bytes(store, held, held_count);
	free(writes);
	pthread_mutex_lock(&behind->lock);
	return rc;
}

/* Until what waits now is written, or a flush has failed twice. Under the lock. */
static void flush(struct terrace *store)
{
	struct behind *behind = &store->behind;
	uint64_t turn = behind->turn;
	int failures = 0;

	while (behind->done_turn < turn && failures < 2) {
		if (behind->flushing)
			pthread_cond_wait(&behind->done, &behind->lock);
		else if (flush_once(store) != TERRACE_OK)
			failures++;
	}
}

int terrace__behind_flush(struct terrace *store)
{
	struct behind *behind = &store->behind;
	int rc;

	if (!atomic_load(&behind->started))
		return TERRACE_OK;
	pthread_mutex_lock(&behind->lock);
	flush(store);
	rc = behind->rc;
	behind->rc = TERRACE_OK;
	pthread_mutex_unlock(&behind->lock);
	return rc;
}

void terrace__behind_settle(struct terrace *store, uint32_t slot)
{
	struct behind *behind = &store->behind;

	if (store->read_only || !version_is_behind(version_load(store->shared, slot)))
		return;
	pthread_mutex_lock(&behind->lock);
	if (waits_here(behind, slot))
		flush(store);
	pthread_mutex_unlock(&behind->lock);
	if (version_is_behind(version_load(store->shared, slot)))
		reap_slot(store, slot);
}

bool terrace__behind_hold_byte(struct terrace *store, uint64_t hash)
{
	struct behind *behind = &store->behind;
	bool held = false;

	if (atomic_load(&behind->count) == 0)
		return false;
	pthread_mutex_lock(&behind->lock);
	if (behind->held_count < FLIGHT_BYTES && behind->done_turn < behind->turn) {
		behind->held[behind->held_count++] = hash;
		held = true;
	}
	pthread_mutex_unlock(&behind->lock);
	return held;
}

/* --- the thread --------------------------------------------------------------------------------------- */

/* Let values gather, but not for long. Under the lock. */
static void gather(struct behind *behind, int64_t wait_ms)
{
	int64_t deadline = terrace__clock_ms(CLOCK_MONOTONIC) + wait_ms;
	struct timespec until = { deadline / 1000, (long)(deadline % 1000) * 1000000 };

	while (!behind->hurry && !behind->stopping && atomic_load(&behind->count) < MARKS / 2) {
		if (pthread_cond_timedwait(&behind->work, &behind->lock, &until) == ETIMEDOUT)
			return;
	}
}

static void *run(void *ctx)
{
	struct terrace *store = ctx;
	struct behind *behind = &store->behind;
	int64_t wait_ms = FLUSH_AFTER_MS;

	pthread_mutex_lock(&behind->lock);
	while (!behind->stopping) {
		if (behind->done_turn == behind->turn) {
			behind->awake = false;
			pthread_cond_wait(&behind->work, &behind->lock);
			continue;
		}
		gather(behind, wait_ms);
		if (behind->flushing)
			pthread_cond_wait(&behind->done, &behind->lock);
		else
			wait_ms = flush_once(store) == TERRACE_OK ? FLUSH_AFTER_MS : RETRY_AFTER_MS;
	}
	pthread_mutex_unlock(&behind->lock);
	return NULL;
}

/* Those of a cache, or all (NULL). Under the lock. What stays in the lane is another process's to remove. */
static void abandon(struct behind *behind, const struct terrace_cache *cache)
{
	struct pending **at = &behind->first, *pending;

	while ((pending = *at)) {
		if (cache && pending->cache != cache) {
			at = &pending->next;
			continue;
		}
		*at = pending->next;
		if (!pending->superseded)
			unlink_slot(behind, pending);
		behind->abandoned = true;
		atomic_fetch_sub(&behind->count, 1);
		entry_unref(pending->entry);
		free(pending);
	}
	behind->last = at;
}

void terrace__behind_leave(struct terrace_cache *cache, bool force)
{
	struct behind *behind = &cache->store->behind;

	if (!atomic_load(&behind->started))
		return;
	pthread_mutex_lock(&behind->lock);
	flush(cache->store);
	while (behind->flushing)
		pthread_cond_wait(&behind->done, &behind->lock);
	if (force)
		abandon(behind, cache);
	pthread_mutex_unlock(&behind->lock);
}

bool terrace__behind_waits(struct terrace_cache *cache)
{
	struct behind *behind = &cache->store->behind;
	struct pending *pending;

	pthread_mutex_lock(&behind->lock);
	pending = behind->first;
	while (pending && pending->cache != cache)
		pending = pending->next;
	pthread_mutex_unlock(&behind->lock);
	return pending != NULL;
}

void terrace__behind_close(struct terrace *store)
{
	struct behind *behind = &store->behind;

	if (!atomic_load(&behind->started))
		return;
	terrace__behind_flush(store);
	pthread_mutex_lock(&behind->lock);
	behind->stopping = true;
	pthread_cond_signal(&behind->work);
	pthread_mutex_unlock(&behind->lock);
	if (behind->running)
		pthread_join(behind->thread, NULL);
	abandon(behind, NULL);
}
