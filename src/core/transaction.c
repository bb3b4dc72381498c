/* Transactions that a program holds open over several calls. */
#include "core/behind.h"
#include "core/caches.h"
#include "core/lane.h"
#include "core/locks.h"
#include "core/write.h"

#include "util/lock.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <inttypes.h>
#include <stdlib.h>

/* How long to let others write what waits before looking again. */
enum { LOOK_AGAIN_MS = 2 };

struct open_transaction {
	struct transaction transaction; /* first, so that one is the other */
	struct open_transaction *next;  /* of this thread, on another store */
	int broken;                     /* the failure after which only rollback is left */
	uint64_t *files;                /* that its writes have made */
	size_t file_count, file_capacity;
	bool bulk[CACHES_MAX]; /* caches that were invalidated as a whole, or in part */
};

/* In a forked child this still names the parent's store, which no call of the child does. */
static _Thread_local struct open_transaction *open_here;

struct transaction *terrace__transaction_mine(const struct terrace *store)
{
	struct open_transaction *mine = open_here;

	while (mine && mine->transaction.store != store)
		mine = mine->next;
	return mine ? &mine->transaction : NULL;
}

static struct open_transaction *whole(struct transaction *mine)
{
	return (struct open_transaction *)mine;
}

void terrace__transaction_break(struct transaction *mine, int rc)
{
	if (whole(mine)->broken == TERRACE_OK)
		whole(mine)->broken = rc;
}

void terrace__transaction_bulk(struct transaction *mine, uint32_t cache)
{
	whole(mine)->bulk[cache] = true;
}

int terrace__transaction_broken(const struct transaction *mine)
{
	int rc = ((const struct open_transaction *)mine)->broken;

	if (rc != TERRACE_OK)
		terrace__message_set("an earlier write of this transaction failed (%s); roll it "
		                     "back and begin again",
		                     terrace_status_name(rc));
	return rc;
}

int terrace__transaction_resume(struct transaction *mine)
{
	struct terrace *store = mine->store;
	int rc = terrace__transaction_broken(mine), resumed;

	resumed = store->disk_ops->resume(store->disk);
	return rc == TERRACE_OK ? resumed : rc;
}

int terrace__transaction_file(struct transaction *mine, uint64_t file)
{
	struct open_transaction *open = whole(mine);

	if (open->file_count == open->file_capacity) {
		size_t capacity = open->file_capacity ? 2 * open->file_capacity : 16;
		void *grown = realloc(open->files, capacity * sizeof *open->files);

		if (!grown)
			return no_memory("a transaction");
		open->files = grown;
		open->file_capacity = capacity;
	}
	open->files[open->file_count++] = file;
	return TERRACE_OK;
}

/* --- values that wait to be written ------------------------------------------------------ */

void terrace__transaction_forget(struct terrace *store)
{
	if (atomic_load(&store->beginning) ||
	    terrace__lock_try(store->lock_fd, LOCK_BEGINNER, true) != 0)
		return;
	atomic_store(&store->shared->transaction, 0);
	terrace__unlock(store->lock_fd, LOCK_BEGINNER);
}

/*
 * The writers' lock, with nothing waiting to be written behind in any process,
 * and nobody adding to it: they see the mark, or we see their value in a lane.
 */
static int lock_all(struct terrace *store, int64_t wait_ms)
{
	struct shared *shared = store->shared;
	int64_t deadline = add_sat_i64(terrace__clock_ms(CLOCK_MONOTONIC), wait_ms);

	for (;;) {
		uint32_t turn = atomic_load(&shared->writer_turn);
		int64_t left = deadline - terrace__clock_ms(CLOCK_MONOTONIC);
		int rc = terrace__writer_lock(store, left > 0 ? left : 0);

		if (rc != TERRACE_OK)
			return rc;
		/* So that others can tell whether we live. */
		terrace__lock_try(store->lock_fd, LOCK_BEGINNER, true);
		atomic_store(&shared->transaction, 1);
		if (!terrace__lanes_any(store, NULL))
			return TERRACE_OK;
		if (left <= 0)
			atomic_store(&shared->transaction, 0);
		terrace__writer_unlock(store);
		if (left <= 0) {
			terrace__message_set("values of another process were still not written "
			                     "after %" PRId64 " ms; try again, or raise wait",
			                     wait_ms);
			return TERRACE_EBUSY;
		}
		terrace__behind_settle_all(store);
		terrace__futex_wait(&shared->writer_turn, turn, LOOK_AGAIN_MS);
	}
}

static void leave(struct terrace *store)
{
	if (atomic_fetch_sub(&store->beginning, 1) == 1)
		terrace__unlock(store->lock_fd, LOCK_BEGINNER);
}

static void unlock_all(struct terrace *store)
{
	atomic_store(&store->shared->transaction, 0);
	leave(store);
	terrace__writer_unlock(store);
}

/* --- begin and end --------------------------------------------------------------------------- */

int terrace__begin(struct terrace *store, int64_t wait_ms)
{
	struct open_transaction *open = calloc(1, sizeof *open);
	int rc;

	if (!open)
		return no_memory("a transaction");
	atomic_fetch_add(&store->beginning, 1);
	rc = lock_all(store, wait_ms);
	if (rc != TERRACE_OK) {
		leave(store); /* the next writer takes the mark off */
		free(open);
		return rc;
	}
	rc = terrace__transaction_begin(store, &open->transaction);
	if (rc != TERRACE_OK && store->disk_ops->suspected(store->disk) &&
	    terrace__database_renew(store, false) == TERRACE_OK)
		rc = terrace__transaction_begin(store, &open->transaction);
	if (rc != TERRACE_OK) {
		unlock_all(store);
		free(open);
		return rc;
	}
	store->disk_ops->rest(store->disk);
	open->next = open_here;
	open_here = open;
	return TERRACE_OK;
}

static struct open_transaction *take_mine(struct terrace *store)
{
	struct open_transaction **at = &open_here, *mine;

	while ((*at)->transaction.store != store)
		at = &(*at)->next;
	mine = *at;
	*at = mine->next;
	return mine;
}

static void rolled_back(struct open_transaction *mine)
{
	struct terrace *store = mine->transaction.store;

	for (size_t i = 0; i < mine->file_count; i++)
		store->disk_ops->file_remove(store->disk, mine->files[i]);
}

/*
 * Until it was committed everybody saw what was there before: what they have
 * computed of that since it was invalidated is outdated as well, and where it may
 * have been put past the writers' lock, all copies are void. With the lock still held.
 */
static void void_bulk(struct terrace *store, const struct open_transaction *mine)
{
	for (uint32_t i = 0; i < CACHES_MAX; i++) {
		struct shared_cache *cache = &store->shared->caches[i];

		if (!mine->bulk[i])
			continue;
		terrace__bulk_move(store->shared, cache);
		if (atomic_exchange(&cache->rows, ROWS_WHOLE) != ROWS_WHOLE)
			terrace__epoch_move(store->shared, cache, NULL);
	}
}

/* With the writers' lock still held. */
static void keep_limits(struct terrace *store, struct terrace_cache **caches, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (caches[i]->on_disk && terrace__make_room(store, caches[i]) != TERRACE_OK)
			terrace__swallow(store, caches[i], "making room");
	}
}

int terrace__commit(struct terrace *store)
{
	struct transaction *transaction = terrace__transaction_mine(store);
	struct terrace_cache *caches[CACHES_MAX];
	size_t count = terrace__caches_hold(store, caches);
	struct open_transaction *mine;
	int rc = terrace__transaction_resume(transaction); /* until it ends */

	mine = take_mine(store);
	if (rc == TERRACE_OK)
		rc = terrace__transaction_commit(transaction);
	else
		terrace__transaction_rollback(transaction);
	if (rc == TERRACE_OK)
		void_bulk(store, mine);
	if (rc == TERRACE_OK)
		keep_limits(store, caches, count);
	else
		rolled_back(mine);
	unlock_all(store);
	for (size_t i = 0; i < count; i++)
		terrace__cache_close(caches[i], false);
	free(mine->files);
	free(mine);
	return rc;
}

void terrace__rollback(struct terrace *store)
{
	struct open_transaction *mine = take_mine(store);

	store->disk_ops->resume(store->disk); /* until it ends */
	terrace__transaction_rollback(&mine->transaction);
	rolled_back(mine);
	unlock_all(store);
	free(mine->files);
	free(mine);
}
