#include "core/idle.h"

#include "core/keeper.h"
#include "core/write.h"
#include "util/util.h"

#include <stdlib.h>
#include <string.h>

/* More than anybody's second brings; beyond, an entry's next use says it again. */
enum { USES_MAX = 256 * 1024, LOCK_WAIT_MS = 500 };

int64_t terrace__idle_ms(const struct terrace_cache *cache, int64_t idle_ms)
{
	int64_t idle = idle_ms ? idle_ms : cache->idle_ms;

	return idle > 0 ? idle : 0;
}

void terrace__idle_begin(struct terrace_cache *cache, struct entry *entry, int64_t idle,
                         int64_t now)
{
	struct entry_rest *rest = entry_rest(entry);
	int64_t deadline = atomic_load(&entry->expires);

	rest->idle = idle;
	atomic_store(&rest->deadline, deadline);
	if (idle == 0)
		return;
	atomic_store(&entry->expires, entry_idle_expires(idle, deadline, now));
	atomic_store(&cache->has_idle, true);
}

/* False when there is no room. */
static bool note_use(struct terrace *store, uint64_t hash, int64_t now)
{
	struct uses *uses = &store->uses;
	bool noted = false;

	pthread_mutex_lock(&uses->lock);
	if (uses->count == uses->capacity && uses->capacity < USES_MAX) {
		size_t capacity = uses->capacity ? 2 * uses->capacity : 64;
		struct use *grown = realloc(uses->items, capacity * sizeof *grown);

		if (grown) {
			uses->items = grown;
			uses->capacity = capacity;
		}
	}
	if (uses->count < uses->capacity) {
		uses->items[uses->count++] = (struct use){ hash, now };
		noted = true;
	}
	pthread_mutex_unlock(&uses->lock);
	return noted;
}

void terrace__idle_used(struct terrace_cache *cache, const struct tier_key *key,
                        struct entry *entry)
{
	struct entry_rest *rest = entry_rest(entry);
	bool written = cache->on_disk && !cache->store->read_only;
	int64_t now = terrace__now(cache->store), expires = atomic_load(&entry->expires),
		next = entry_idle_expires(rest->idle, atomic_load(&rest->deadline), now);

	if (expires - now >= rest->idle || next <= expires)
		return;
	if (written && !note_use(cache->store, terrace__row_hash(key), now))
		return;
	/* One of those who use it now is enough. */
	atomic_compare_exchange_strong(&entry->expires, &expires, next);
	/* What is noted must not wait for a write that may never come. */
	if (written)
		terrace__keeper_start(cache->store);
}

static bool is_pending(struct terrace *store)
{
	bool pending;

	pthread_mutex_lock(&store->uses.lock);
	pending = store->uses.count > 0;
	pthread_mutex_unlock(&store->uses.lock);
	return pending;
}

/* The next one that waits; false when there is none. */
static bool take_use(struct uses *uses, struct use *ret)
{
	bool waits;

	pthread_mutex_lock(&uses->lock);
	waits = uses->taken < uses->count;
	if (waits)
		*ret = uses->items[uses->taken++];
	pthread_mutex_unlock(&uses->lock);
	return waits;
}

/* The one that was taken last cannot be written: it must not fail the next transaction, too. */
static void forget_use(struct uses *uses)
{
	pthread_mutex_lock(&uses->lock);
	uses->items[--uses->taken] = uses->items[--uses->count];
	pthread_mutex_unlock(&uses->lock);
}

int terrace__idle_flush(struct terrace *store, size_t most)
{
	int rc = TERRACE_OK;
	struct use use;

	while (most-- > 0 && rc == TERRACE_OK && take_use(&store->uses, &use)) {
		rc = store->disk_ops->used(store->disk, use.hash, use.when);
		if (rc == TERRACE_MISS)
			rc = TERRACE_OK; /* it went in between */
		if (rc != TERRACE_OK)
			forget_use(&store->uses);
	}
	return rc;
}

void terrace__idle_flushed(struct terrace *store, bool committed)
{
	struct uses *uses = &store->uses;
	size_t left, moved;

	pthread_mutex_lock(&uses->lock);
	if (committed && uses->taken > 0) {
		/* Their order says nothing: the last take the places of the first. */
		left = uses->count - uses->taken;
		moved = left < uses->taken ? left : uses->taken;
		memcpy(uses->items, uses->items + uses->count - moved, moved * sizeof *uses->items);
		uses->count = left;
	}
	uses->taken = 0;
	pthread_mutex_unlock(&uses->lock);
}

static int settle(struct terrace *store)
{
	struct transaction transaction;
	int rc = terrace__transaction_begin(store, &transaction);

	if (rc != TERRACE_OK)
		return rc;
	rc = terrace__idle_flush(store, USES_MAX);
	if (rc == TERRACE_OK)
		return terrace__transaction_commit(&transaction);
	terrace__transaction_rollback(&transaction);
	return rc;
}

void terrace__idle_settle(struct terrace *store)
{
	int rc;

	if (!store->disk || !is_pending(store))
		return;
	rc = terrace__writer_lock(store, LOCK_WAIT_MS);
	if (rc == TERRACE_EBUSY)
		return; /* who writes now does it, or the next tick */
	if (rc == TERRACE_OK) {
		rc = settle(store);
		terrace__writer_unlock(store);
	}
	if (rc != TERRACE_OK)
		terrace__swallow(store, NULL, "writing down what was used");
}

void terrace__idle_done(struct terrace *store)
{
	free(store->uses.items);
	pthread_mutex_destroy(&store->uses.lock);
}
