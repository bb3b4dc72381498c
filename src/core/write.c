#include "core/write.h"

#include "core/behind.h"
#include "core/entries.h"
#include "core/flight.h"
#include "core/idle.h"
#include "core/locks.h"
#include "core/power.h"
#include "core/present.h"
#include "util/lock.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Keys whose hits a transaction writes down besides its own work, when there are many. */
enum { ACCESSES_AT_ONCE = 32 };

/* How long to sleep before looking whether a dead process let go of the lock. */
enum { LOOK_AGAIN_MS = 5 };

/* How long to look before sleeping. */
enum { SPIN_NS = 30000 };

/* How long who comes again and again waits for another process to take its turn. */
enum { GIVE_WAY_MS = 1 };

static void spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* --- the writers' lock ---------------------------------------------------------------- */

static int busy(int64_t wait_ms)
{
	terrace__message_set("others have been writing to the store for %" PRId64
	                     " ms; try again, or raise wait",
	                     wait_ms);
	return TERRACE_EBUSY;
}

/*
 * Most transactions are over sooner than a process that sleeps is awake again:
 * look for that long first. False when that was not enough.
 */
static bool lock_comes_free(const struct shared *shared, uint32_t turn)
{
	uint64_t until = terrace__now_ns() + SPIN_NS;

	do {
		for (int i = 0; i < 32; i++) {
			if (atomic_load_explicit(&shared->writer_turn, memory_order_relaxed) !=
			    turn)
				return true;
			spin_pause();
		}
	} while (terrace__now_ns() < until);
	return false;
}

static int lock_processes(struct terrace *store, int64_t wait_ms)
{
	struct shared *shared = store->shared;
	int64_t deadline = add_sat_i64(terrace__clock_ms(CLOCK_MONOTONIC), wait_ms);

	for (;;) {
		uint32_t turn = atomic_load(&shared->writer_turn);
		int rc = terrace__lock_try(store->lock_fd, LOCK_WRITER, true);

		if (rc == 0)
			break;
		if (rc != -EAGAIN) {
			terrace__message_set("cannot lock the store for writing: %s",
			                     strerror(-rc));
			return TERRACE_EIO;
		}
		if (terrace__clock_ms(CLOCK_MONOTONIC) >= deadline)
			return busy(wait_ms);
		if (lock_comes_free(shared, turn))
			continue;
		atomic_fetch_add(&shared->writer_waiters, 1);
		terrace__futex_wait(&shared->writer_turn, turn, LOOK_AGAIN_MS);
		atomic_fetch_sub(&shared->writer_waiters, 1);
	}
	if (UNLIKELY(atomic_load(&shared->writing)))
		terrace__log(store, TERRACE_LOG_INFO, "a writer died in the middle; mending");
	terrace__attach_tend(store->dir_fd, store->attach_fd, &store->attach_seen);
	if (UNLIKELY(terrace__shared_tend(shared, store->lock_fd, &store->head)))
		terrace__log(store, TERRACE_LOG_WARN, "the shared file is damaged; mending");
	return TERRACE_OK;
}

/*
 * Whoever sleeps for the lock of the processes is awake only after we have taken
 * it again. So who had it last, and alone, sees to it that one of them has it in
 * between. One that has died as it slept costs a moment each time.
 */
static void give_way(struct terrace *store)
{
	struct shared *shared = store->shared;
	uint32_t turn = atomic_load(&shared->writer_turn);

	if (turn != store->writer.turn || atomic_load(&shared->writer_waiters) == 0)
		return;
	atomic_fetch_add(&shared->writer_waiters, 1);
	terrace__futex_wait(&shared->writer_turn, turn, GIVE_WAY_MS);
	atomic_fetch_sub(&shared->writer_waiters, 1);
}

static void unlock_processes(struct terrace *store)
{
	if (UNLIKELY(store->disk_ops->suspected(store->disk)))
		terrace__database_renew(store, false);
	terrace__unlock(store->lock_fd, LOCK_WRITER);
	atomic_fetch_add(&store->shared->writer_turn, 1);
	if (atomic_load(&store->shared->writer_waiters))
		terrace__futex_wake_all(&store->shared->writer_turn);
}

/* --- transactions ----------------------------------------------------------------------- */

int terrace__transaction_begin(struct terrace *store, struct transaction *ret)
{
	struct transaction *mine = terrace__transaction_mine(store);
	int rc;

	*ret = (struct transaction){ .store = store, .within = mine };
	if (mine) {
		ret->seq = mine->seq;
		return terrace__transaction_broken(mine);
	}
	ret->seq = terrace__draw(store->shared);
	store->disk_ops->loosen(store->disk, shared_is_loose(store->shared));
	rc = store->disk_ops->begin(store->disk, ret->seq);
	if (rc != TERRACE_OK)
		return rc;
	atomic_store(&store->shared->writing, SOMEBODY_WRITES);
	return TERRACE_OK;
}

static bool reserve_slot(struct transaction *transaction)
{
	size_t capacity = transaction->slot_capacity ? 2 * transaction->slot_capacity : 64;
	void *grown;

	if (transaction->slot_count < transaction->slot_capacity)
		return true;
	grown = realloc(transaction->slots, capacity * sizeof *transaction->slots);
	if (!grown)
		return false;
	transaction->slots = grown;
	transaction->slot_capacity = capacity;
	return true;
}

static void remember_slot(struct transaction *transaction, uint32_t slot, uint64_t number)
{
	transaction->slots[transaction->slot_count++] = (struct marked_slot){ slot, number };
}

int terrace__transaction_mark(struct transaction *transaction, uint32_t slot)
{
	struct shared *shared = transaction->store->shared;
	uint64_t version;

	if (transaction->within)
		return terrace__transaction_mark(transaction->within, slot);
	if (version_is_writing(version_look(shared, slot, version_load(shared, slot))))
		return TERRACE_OK; /* by this transaction: we hold the lock */
	if (!reserve_slot(transaction))
		return no_memory("a transaction");
	version = terrace__version_mark(shared, slot, !transaction->yields);
	if (!version)
		return WRITE_SETTLE;
	remember_slot(transaction, slot, version_number(version));
	return TERRACE_OK;
}

static void transaction_end(struct transaction *transaction, bool committed)
{
	struct shared *shared = transaction->store->shared;
	uint64_t stamp;

	terrace__idle_flushed(transaction->store, committed);
	for (size_t i = 0; i < transaction->slot_count; i++)
		terrace__version_clear(shared, transaction->slots[i].slot,
		                       transaction->slots[i].number, &stamp);
	atomic_store(&shared->writing, 0);
	free(transaction->slots);
	transaction->slots = NULL;
	transaction->slot_count = 0;
}

static int commit(struct transaction *transaction)
{
	struct terrace *store = transaction->store;
	struct shared *shared = store->shared;
	uint64_t seq;
	int rc = store->disk_ops->commit(store->disk, &seq);

	/* It may have written before it failed. */
	terrace__commits_count(shared);
	if (rc != TERRACE_OK)
		return rc;
	if (seq)
		atomic_store(&shared->committed, word_make(shared, PLACE_COMMITTED, seq));
	atomic_store(&store->wrote, true);
	atomic_store(&shared->last_time,
	             word_make(shared, PLACE_TIME, (uint64_t)terrace__now(store)));
	return TERRACE_OK;
}

int terrace__transaction_commit(struct transaction *transaction)
{
	int rc;

	if (transaction->within)
		return TERRACE_OK; /* when that one is */
	rc = commit(transaction);
	transaction_end(transaction, rc == TERRACE_OK);
	return rc;
}

void terrace__transaction_rollback(struct transaction *transaction)
{
	if (transaction->within) {
		terrace__transaction_break(transaction->within, TERRACE_EIO);
		return;
	}
	transaction->store->disk_ops->rollback(transaction->store->disk);
	terrace__commits_count(transaction->store->shared);
	transaction_end(transaction, false);
}

/* --- single writes ------------------------------------------------------------------------ */

/* TERRACE_MISS: who puts without the lock was there since the lease was looked at. */
static int mark(struct transaction *transaction, struct write *write)
{
	uint32_t slot = write->put.key.slot;
	uint64_t expected = write->number;
	int rc = terrace__transaction_mark(transaction, slot);

	write->number = version_number(version_load(transaction->store->shared, slot));
	if (rc != TERRACE_OK || !write->held || write->number == expected)
		return rc;
	write->held = false;
	return TERRACE_MISS;
}

/* A later value of another process waits: what the row says is out of date. */
static bool is_outdated(struct transaction *transaction, const struct write *write)
{
	struct shared *shared = transaction->store->shared;
	uint32_t slot = write->put.key.slot;

	return version_is_behind(version_look(shared, slot, version_load(shared, slot)));
}

static int put_inside(struct transaction *transaction, struct write *write)
{
	struct terrace *store = transaction->store;
	int rc = mark(transaction, write);

	if (rc != TERRACE_OK)
		return rc;
	write->record.seq = transaction->seq;
	entry_rest(write->put.entry)->seq = transaction->seq;
	write->put.record = &write->record;
	return terrace__row_put(store, &write->put);
}

/* The live entry, as the transaction sees it; written on TERRACE_OK alone. */
static int live_inside(struct transaction *transaction, struct write *write, struct entry **ret)
{
	struct terrace *store = transaction->store;
	struct entry *entry;
	int rc = store->disk_ops->get_inside(store->disk, &write->put.key, false, &entry);

	if (rc == TERRACE_ECORRUPT)
		return TERRACE_MISS; /* what comes takes its place */
	if (rc == TERRACE_OK && is_outdated(transaction, write)) {
		entry_unref(entry);
		return TERRACE_MISS;
	}
	if (rc != TERRACE_OK)
		return rc;
	if (terrace__entry_alive(write->cache, entry)) {
		*ret = entry;
		return TERRACE_OK;
	}
	entry_unref(entry);
	return TERRACE_MISS;
}

static int add_inside(struct transaction *transaction, struct write *write)
{
	struct entry *old;
	int rc = live_inside(transaction, write, &old);

	if (rc == TERRACE_OK) {
		entry_unref(old);
		return TERRACE_EXISTS;
	}
	return rc == TERRACE_MISS ? put_inside(transaction, write) : rc;
}

/* What a transaction that was rolled back has left of a number. */
static void number_again(struct terrace *store, struct write *write)
{
	if (write->file_fd >= 0)
		close(write->file_fd);
	write->file_fd = -1;
	if (write->put.file)
		store->disk_ops->file_remove(store->disk, write->put.file);
	write->put.file = 0;
	terrace__write_done(write);
}

static int number_inside(struct transaction *transaction, struct write *write)
{
	struct entry *old = NULL;
	int rc;

	number_again(transaction->store, write);
	rc = live_inside(transaction, write, &old);

	if (rc != TERRACE_OK && rc != TERRACE_MISS)
		return rc;
	if (rc == TERRACE_MISS && transaction->yields &&
	    terrace__behind_any_mine(transaction->store))
		return WRITE_SETTLE; /* a new row, which comes behind those */
	rc = terrace__number_write(write, old);
	if (rc == TERRACE_OK)
		rc = put_inside(transaction, write);
	entry_unref(old);
	return rc;
}

/* Delete or touch; TERRACE_MISS when what is there was dead already, or says that there is nothing. */
static int change_inside(struct transaction *transaction, struct write *write)
{
	struct terrace *store = transaction->store;
	const struct disk_ops *ops = store->disk_ops;
	const struct tier_key *key = &write->put.key;
	struct tier_row row;
	bool dead;
	/* A copy in memory may have outlived its row: mark in any case. */
	int rc = mark(transaction, write);

	if (rc != TERRACE_OK)
		return rc;
	rc = ops->peek(store->disk, key, &row);
	if (rc == TERRACE_MISS && write->kind == WRITE_DELETE)
		return ops->tier.remove(store->disk, key, NULL); /* a damaged row of the key */
	if (rc != TERRACE_OK)
		return rc;
	if (write->until && row.seq > write->until)
		return TERRACE_MISS;
	dead = row.absent || is_outdated(transaction, write) ||
	       terrace__times_reason(write->cache, 0, row.expires, row.seq) != TERRACE_REASON_LIVE;
	if (write->kind == WRITE_DELETE)
		rc = ops->tier.remove(store->disk, key, &write->note);
	else if (!dead)
		rc = ops->touch(store->disk, key, transaction->seq, write->expires, write->ttl,
		                write->now);
	return rc == TERRACE_OK && dead ? TERRACE_MISS : rc;
}

static int vacate_inside(struct transaction *transaction, struct write *write)
{
	struct terrace *store = transaction->store;
	int rc = mark(transaction, write);

	if (rc != TERRACE_OK)
		return rc;
	rc = store->disk_ops->tier.remove(store->disk, &write->put.key, &write->note);
	return rc == TERRACE_MISS ? TERRACE_OK : rc;
}

static int drop_inside(struct transaction *transaction, struct write *write)
{
	struct terrace *store = transaction->store;
	struct entry *entry;

	/* Without a number that says which write was damaged: only if it still is. */
	if (!write->note.only_seq) {
		int rc = store->disk_ops->get_inside(store->disk, &write->put.key, true, &entry);

		if (rc == TERRACE_OK)
			entry_unref(entry);
		if (rc != TERRACE_ECORRUPT)
			return rc == TERRACE_OK ? TERRACE_MISS : rc;
	}
	atomic_store(&write->cache->shared->rows, ROWS_LACK);
	return store->disk_ops->tier.remove(store->disk, &write->put.key, &write->note);
}

/*
 * A batch is what one thread has brought; it waits on its stack until it is
 * done. It is empty when the thread wants the lead for something else.
 */
struct write_batch {
	struct write_batch *next;
	struct write *writes;
	size_t count;
	uint64_t before; /* how many batches arrived before it; of an empty one */
	bool taken;      /* a leader is at it */
	bool done;
};

/* What is tried again finds the version as its own first try has left it. */
static bool lease_holds(struct write *write)
{
	uint64_t version = version_load(write->cache->store->shared, write->put.key.slot);
	struct write_lease lease = *write->lease;

	if (write->marked && version_number(version) == write->marked &&
	    !version_is_writing(version))
		lease.version = version;
	/* What the slot is to be marked with, if nobody else comes. */
	write->number = version_number(version) + !version_is_writing(version);
	return terrace__lease_holds(write->cache, &write->put.key, &lease);
}

/* A transaction that is given up has moved the versions of what it tried to write. */
static void remember_marks(const struct transaction *transaction, struct write_batch *batches)
{
	for (; batches; batches = batches->next) {
		for (size_t i = 0; i < batches->count; i++) {
			struct write *write = &batches->writes[i];

			for (size_t j = 0; j < transaction->slot_count && write->held; j++) {
				if (transaction->slots[j].slot == write->put.key.slot)
					write->marked = transaction->slots[j].number;
			}
			write->held = false;
		}
	}
}

static int apply(struct transaction *transaction, struct write *write)
{
	int rc = write->kind == WRITE_DROP ? TERRACE_OK : terrace__power_note(write->cache);

	if (rc != TERRACE_OK)
		return rc;
	write->held = write->lease && lease_holds(write);
	if (write->lease && !write->held)
		return TERRACE_MISS;
	switch (write->kind) {
	case WRITE_PUT:
		return put_inside(transaction, write);
	case WRITE_ADD:
		return add_inside(transaction, write);
	case WRITE_NUMBER:
		return number_inside(transaction, write);
	case WRITE_DELETE:
	case WRITE_TOUCH:
		return change_inside(transaction, write);
	case WRITE_DROP:
		return drop_inside(transaction, write);
	case WRITE_VACATE:
		return vacate_inside(transaction, write);
	}
	return TERRACE_EINVAL;
}

/* Outcomes are fine; failures end the transaction, which they may have broken. */
static bool is_failure(int rc)
{
	return rc < 0 && rc != TERRACE_EINVAL;
}

/* The writes of an open transaction; the first failure is returned. */
static int write_inside(struct transaction *transaction, struct write *writes, size_t count)
{
	int rc = TERRACE_OK;

	for (size_t i = 0; i < count && rc == TERRACE_OK; i++) {
		writes[i].rc = apply(transaction, &writes[i]);
		if (is_failure(writes[i].rc))
			rc = writes[i].rc;
	}
	return rc;
}

int terrace__write_uses(struct terrace *store)
{
	int rc = terrace__idle_flush(store, ACCESSES_AT_ONCE);

	if (rc == TERRACE_OK && terrace__access_crowded(store))
		rc = terrace__access_flush(store, ACCESSES_AT_ONCE);
	return rc;
}

static int apply_all(struct transaction *transaction, struct write_batch *batches)
{
	int rc = terrace__write_uses(transaction->store);

	for (struct write_batch *batch = batches; batch && rc == TERRACE_OK; batch = batch->next)
		rc = write_inside(transaction, batch->writes, batch->count);
	return rc;
}

/*
 * Step 4 of coherence.h. Of several writes to a slot only the last may leave a
 * copy in memory, so they are walked backwards: who finds the mark off comes
 * too early.
 */
static void stamp_batch(struct shared *shared, struct write_batch *batch)
{
	if (!batch)
		return;
	stamp_batch(shared, batch->next);
	for (size_t i = batch->count; i-- > 0;) {
		struct write *write = &batch->writes[i];
		uint64_t stamp;

		if (terrace__version_clear(shared, write->put.key.slot, write->number, &stamp) &&
		    write->rc == TERRACE_OK)
			write->stamp = stamp;
	}
}

/* Runs of writes to one cache need its limits looked at once; what is not open here has none. */
static bool is_first_of_cache(const struct write *writes, size_t i)
{
	return writes[i].cache && (i == 0 || writes[i].cache != writes[i - 1].cache);
}

bool terrace__caches_need_room(struct terrace *store, const struct write *writes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (is_first_of_cache(writes, i) && terrace__over_limits(store, writes[i].cache))
			return true;
	}
	return false;
}

void terrace__caches_make_room(struct terrace *store, const struct write *writes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (is_first_of_cache(writes, i) &&
		    terrace__make_room(store, writes[i].cache) != TERRACE_OK)
			terrace__swallow(store, writes[i].cache, "making room");
	}
}

/* Is there more than the limits allow? Asked within the transaction, where it costs no locks. */
static bool needs_room(struct terrace *store, struct write_batch *batches)
{
	bool needs = terrace__over_limits(store, NULL);

	for (; batches && !needs; batches = batches->next)
		needs = terrace__caches_need_room(store, batches->writes, batches->count);
	return needs;
}

/*
 * What this process has waiting, and values that came to wait for these slots since they
 * were looked at. No transaction is open.
 */
static void settle(struct terrace *store, struct write_batch *batches)
{
	terrace__behind_settle_mine_now(store);
	for (; batches; batches = batches->next) {
		for (size_t i = 0; i < batches->count; i++)
			terrace__behind_settle_now(store, batches->writes[i].put.key.slot);
	}
}

static int transact_once(struct terrace *store, struct write_batch *batches, bool yields,
                         bool *ret_needs_room)
{
	struct transaction transaction;
	int rc = terrace__transaction_begin(store, &transaction);

	if (rc != TERRACE_OK)
		return rc;
	transaction.yields = yields;
	rc = apply_all(&transaction, batches);
	if (rc != TERRACE_OK) {
		remember_marks(&transaction, batches);
		terrace__transaction_rollback(&transaction);
		return rc;
	}
	*ret_needs_room |= needs_room(store, batches);
	rc = commit(&transaction);
	if (rc == TERRACE_OK)
		stamp_batch(store->shared, batches);
	else
		remember_marks(&transaction, batches);
	transaction_end(&transaction, rc == TERRACE_OK);
	return rc;
}

/* Are some of them likely to be of keys without a row? Numbers are mostly there already. */
static bool may_arrive(const struct write_batch *batches)
{
	for (; batches; batches = batches->next) {
		for (size_t i = 0; i < batches->count; i++) {
			if (batches->writes[i].kind == WRITE_PUT ||
			    batches->writes[i].kind == WRITE_ADD)
				return true;
		}
	}
	return false;
}

/*
 * One transaction for these batches. What waits for a slot has been put before us and is
 * written first: under our mark it would be out of date, and the key a miss meanwhile.
 */
static int transact(struct terrace *store, struct write_batch *batches, bool *ret_needs_room)
{
	enum { TRIES = 8 };
	int rc;

	if (may_arrive(batches))
		terrace__behind_settle_mine_now(store);
	rc = transact_once(store, batches, true, ret_needs_room);
	for (int tries = 1; rc == WRITE_SETTLE; tries++) {
		settle(store, batches);
		rc = transact_once(store, batches, tries < TRIES, ret_needs_room);
	}
	return rc;
}

static void fail_batch(struct write_batch *batch, int rc)
{
	for (size_t i = 0; i < batch->count; i++)
		batch->writes[i].rc = rc;
}

/* Every write of the list gets its rc. Holds the writers' lock. */
static void work(struct terrace *store, struct write_batch *batches, bool *ret_needs_room)
{
	int rc = transact(store, batches, ret_needs_room);

	/* On a full disk, make room and try again. */
	for (unsigned tries = 0; rc == TERRACE_EFULL && terrace__free_space(store, true, tries);
	     tries++)
		rc = transact(store, batches, ret_needs_room);
	/* Of a new database it is the first write. */
	if (is_failure(rc) && store->disk_ops->suspected(store->disk) &&
	    terrace__database_renew(store, false) == TERRACE_OK)
		rc = transact(store, batches, ret_needs_room);
	if (rc == TERRACE_OK)
		return;
	if (!batches->next) {
		fail_batch(batches, rc);
		return;
	}
	/* One of them does not fit: the others shall not pay for it. */
	for (struct write_batch *batch = batches; batch; batch = batch->next) {
		struct write_batch alone = *batch;

		alone.next = NULL;
		rc = transact(store, &alone, ret_needs_room);
		if (rc != TERRACE_OK)
			fail_batch(&alone, rc);
	}
}

static void tidy(struct terrace *store, struct write_batch *batches, bool needs_room)
{
	for (struct write_batch *batch = batches; batch && needs_room; batch = batch->next)
		terrace__caches_make_room(store, batch->writes, batch->count);
	terrace__power_checkpoint(store, CHECKPOINT_WORKING);
}

/* --- leader and followers -------------------------------------------------------------------- */

/* An address for each thread. */
static _Thread_local char here;

bool terrace__write_leads(const struct terrace *store)
{
	return atomic_load(&store->writer.leader) == (uintptr_t)&here;
}

static void enter_queue(struct write_queue *queue, struct write_batch *batch)
{
	*queue->last = batch;
	queue->last = &batch->next;
}

static void leave_queue(struct write_queue *queue, const struct write_batch *batch)
{
	struct write_batch **at = &queue->first;

	while (*at != batch)
		at = &(*at)->next;
	*at = batch->next;
	if (queue->last == &batch->next)
		queue->last = at;
}

/*
 * Who comes with an empty batch, as often as it has rows to remove, lets those go
 * first that were there before: else they might never be awake in time.
 */
static bool must_wait(const struct writer *writer, const struct write_batch *batch)
{
	if (batch->count > 0)
		return writer->leading && !batch->done;
	return writer->leading || writer->alone.first != batch ||
	       (writer->waiting.first && writer->taken < batch->before);
}

/*
 * Wait for the lead, with the lock held: TERRACE_OK; TERRACE_EXISTS when
 * `batch` was done by another leader; TERRACE_EBUSY when a transaction that a
 * program holds open lasted too long, and `batch` is to leave its queue.
 */
static int wait_for_lead(struct writer *writer, const struct write_batch *batch, int64_t wait_ms)
{
	int64_t deadline = add_sat_i64(terrace__clock_ms(CLOCK_MONOTONIC), wait_ms);
	struct timespec until = { deadline / 1000, (long)(deadline % 1000) * 1000000 };

	while (must_wait(writer, batch)) {
		if (batch->taken) {
			pthread_cond_wait(&writer->done, &writer->lock);
		} else if (pthread_cond_timedwait(&writer->done, &writer->lock, &until) ==
		               ETIMEDOUT &&
		           must_wait(writer, batch) && !batch->taken) {
			/* Who let it go first need not any more. */
			pthread_cond_broadcast(&writer->done);
			return busy(wait_ms);
		}
	}
	if (batch->done)
		return TERRACE_EXISTS;
	writer->leading = true;
	atomic_store(&writer->leader, (uintptr_t)&here);
	return TERRACE_OK;
}

static int lead_alone(struct writer *writer, int64_t wait_ms)
{
	struct write_batch empty = { 0 };
	int rc;

	pthread_mutex_lock(&writer->lock);
	empty.before = writer->arrived;
	enter_queue(&writer->alone, &empty);
	rc = wait_for_lead(writer, &empty, wait_ms);
	leave_queue(&writer->alone, &empty);
	pthread_mutex_unlock(&writer->lock);
	return rc;
}

static void leave_lead(struct writer *writer)
{
	atomic_store(&writer->leader, 0);
	pthread_mutex_lock(&writer->lock);
	writer->leading = false;
	pthread_cond_broadcast(&writer->done);
	pthread_mutex_unlock(&writer->lock);
}

static void lead(struct terrace *store)
{
	struct writer *writer = &store->writer;
	struct write_batch *batches, *next;
	bool needs_room = false;
	int rc = lock_processes(store, store->wait_ms);

	pthread_mutex_lock(&writer->lock);
	batches = writer->waiting.first;
	writer->waiting.first = NULL;
	writer->waiting.last = &writer->waiting.first;
	writer->taken = writer->arrived;
	for (next = batches; next; next = next->next)
		next->taken = true;
	pthread_mutex_unlock(&writer->lock);
	if (rc == TERRACE_OK) {
		if (UNLIKELY(atomic_load(&store->shared->transaction)))
			terrace__transaction_forget(store);
		work(store, batches, &needs_room);
		tidy(store, batches, needs_room);
		unlock_processes(store);
	} else {
		for (struct write_batch *batch = batches; batch; batch = batch->next)
			fail_batch(batch, rc);
	}
	pthread_mutex_lock(&writer->lock);
	for (; batches; batches = next) {
		next = batches->next; /* its owner may return as soon as it is done */
		batches->done = true;
	}
	pthread_mutex_unlock(&writer->lock);
	leave_lead(writer);
}

static void write_queued(struct terrace *store, struct write *writes, size_t count)
{
	struct writer *writer = &store->writer;
	struct write_batch batch = { .writes = writes, .count = count };
	int rc;

	pthread_mutex_lock(&writer->lock);
	enter_queue(&writer->waiting, &batch);
	writer->arrived++;
	rc = wait_for_lead(writer, &batch, store->wait_ms);
	if (rc < 0)
		leave_queue(&writer->waiting, &batch);
	pthread_mutex_unlock(&writer->lock);
	if (rc == TERRACE_OK)
		lead(store);
	else if (rc < 0)
		fail_batch(&batch, rc);
}

/* In the transaction that this thread has open; nobody keeps a copy until that is committed. */
static void write_mine(struct transaction *mine, struct write *writes, size_t count)
{
	struct write_batch batch = { .writes = writes, .count = count };
	struct terrace *store = mine->store;
	int rc = terrace__transaction_resume(mine);

	if (rc == TERRACE_OK)
		rc = write_inside(mine, writes, count);
	store->disk_ops->rest(store->disk);
	for (size_t i = 0; i < count && rc == TERRACE_OK; i++) {
		if (writes[i].put.file && writes[i].rc == TERRACE_OK)
			rc = terrace__transaction_file(mine, writes[i].put.file);
	}
	if (rc == TERRACE_OK)
		return;
	fail_batch(&batch, rc);
	terrace__transaction_break(mine, rc);
}

void terrace__write_file_done(struct terrace *store, struct write *write)
{
	if (write->put.file && write->rc != TERRACE_OK)
		store->disk_ops->file_remove(store->disk, write->put.file);
	if (write->file_fd >= 0)
		close(write->file_fd);
	write->file_fd = -1;
}

int terrace__write(struct terrace *store, struct write *writes, size_t count)
{
	struct transaction *mine = terrace__transaction_mine(store);
	int rc = terrace__check_writable(store);

	for (size_t i = 0; i < count; i++) {
		writes[i].rc = rc ? rc : TERRACE_EIO;
		writes[i].stamp = 0;
		if (rc == TERRACE_OK)
			terrace__behind_settle(store, writes[i].put.key.slot);
	}
	if (count == 0)
		return TERRACE_OK;
	if (rc != TERRACE_OK)
		; /* each has it */
	else if (mine)
		write_mine(mine, writes, count);
	else
		write_queued(store, writes, count);
	for (size_t i = 0; i < count; i++)
		terrace__write_file_done(store, &writes[i]);
	for (size_t i = 0; i < count; i++) {
		if (writes[i].rc < 0)
			return writes[i].rc;
	}
	return TERRACE_OK;
}

int terrace__writer_lock(struct terrace *store, int64_t wait_ms)
{
	struct writer *writer = &store->writer;
	int rc = terrace__check_writable(store);

	if (rc != TERRACE_OK)
		return rc;
	rc = lead_alone(writer, wait_ms);
	if (rc != TERRACE_OK)
		return rc;
	give_way(store);
	rc = lock_processes(store, wait_ms);
	if (rc != TERRACE_OK)
		leave_lead(writer);
	return rc;
}

void terrace__writer_unlock(struct terrace *store)
{
	terrace__power_checkpoint(store, CHECKPOINT_WORKING);
	unlock_processes(store);
	store->writer.turn = atomic_load(&store->shared->writer_turn);
	leave_lead(&store->writer);
}

int terrace__write_alone(struct terrace *store, int (*fn)(struct terrace *store, void *ctx),
                         void *ctx)
{
	struct transaction *mine = terrace__transaction_mine(store);
	int rc;

	if (mine) {
		rc = store->disk_ops->resume(store->disk);
		if (rc == TERRACE_OK)
			rc = fn(store, ctx);
		else
			terrace__transaction_break(mine, rc);
		store->disk_ops->rest(store->disk);
		return rc;
	}
	rc = terrace__writer_lock(store, store->wait_ms);
	if (rc != TERRACE_OK)
		return rc;
	rc = fn(store, ctx);
	for (unsigned tries = 0; rc == TERRACE_EFULL && terrace__free_space(store, true, tries);
	     tries++)
		rc = fn(store, ctx);
	if (UNLIKELY(is_failure(rc)) && store->disk_ops->suspected(store->disk) &&
	    terrace__database_renew(store, false) == TERRACE_OK)
		rc = fn(store, ctx);
	terrace__writer_unlock(store);
	return rc;
}

/* --- a damaged database ---------------------------------------------------------------------- */

static int do_nothing(struct terrace *store, void *ctx)
{
	(void)store;
	(void)ctx;
	return TERRACE_OK;
}

bool terrace__database_mend(struct terrace *store)
{
	uint32_t generation = atomic_load(&store->shared->disk.generation);

	if (LIKELY(!store->disk_ops->suspected(store->disk)) || store->read_only ||
	    terrace__write_leads(store))
		return false;
	/* Whoever lets go of the writers' lock looks at what is suspected. */
	if (terrace__write_alone(store, do_nothing, NULL) != TERRACE_OK)
		terrace__swallow(store, NULL, "looking at a database that may be damaged");
	return atomic_load(&store->shared->disk.generation) != generation;
}
