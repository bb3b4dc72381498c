/*
 * A new database in the place of a damaged one, while every process runs on.
 *
 * What coherence needs of it: copies in memory stay as good as they were, since
 * the versions of their keys go on; but no row leads to them any more, so every
 * cache is marked rowless. A reader that still has the old database open began
 * before the new one was in use, and so before anything was written to that:
 * what it reads was true when it loaded the version that it keeps it under.
 */
#include "core/write.h"

#include "util/message.h"
#include "util/util.h"

/* What was set aside may take that much of the store's limit. */
enum { ASIDE_SHARE = 8 };

/* Of every key that has no note: it may have been in there. */
static int note_on_all(struct terrace *store, const char *why)
{
	struct tier_note note = {
		.reason = TERRACE_REASON_DAMAGED,
		.when = terrace__now(store),
		.detail = why,
	};

	return store->disk_ops->note_put(store->disk, NOTE_ON_ALL, &note);
}

static int fill(struct terrace *store, const char *why)
{
	struct shared *shared = store->shared;
	const struct disk_ops *ops = store->disk_ops;
	struct transaction transaction;
	int rc = terrace__transaction_begin(store, &transaction);

	if (rc != TERRACE_OK)
		return rc;
	rc = ops->set_seed(store->disk, store->head.seed);
	for (uint32_t i = 0; i < CACHES_MAX && rc == TERRACE_OK; i++) {
		struct shared_cache *cache = &shared->caches[i];

		if (!terrace__cache_is_named(shared, i))
			continue;
		rc = ops->cache_add(store->disk, i, cache->name);
		if (rc == TERRACE_OK && cache_is_immutable(shared, cache))
			rc = ops->cache_immutable(store->disk, i);
		/* This also writes down the number that all later ones are above. */
		if (rc == TERRACE_OK)
			rc = ops->cache_floor(store->disk, i, terrace__floor(shared, cache));
	}
	if (rc == TERRACE_OK)
		rc = note_on_all(store, why);
	if (rc != TERRACE_OK) {
		terrace__transaction_rollback(&transaction);
		return rc;
	}
	return terrace__transaction_commit(&transaction);
}

/* No row leads to any copy in memory. */
static void mark_rowless(struct shared *shared)
{
	for (uint32_t i = 0; i < CACHES_MAX; i++)
		atomic_store(&shared->caches[i].rows, ROWS_LACK);
}

void terrace__database_aside(struct terrace *store)
{
	uint64_t most = store->disk_bytes ? store->disk_bytes / ASIDE_SHARE : UINT64_MAX;

	atomic_store(&store->shared->aside_bytes, store->disk_ops->aside(store->disk, most));
}

static int renew(struct terrace *store, bool keeps_old)
{
	struct shared *shared = store->shared;
	const struct disk_ops *ops = store->disk_ops;
	uint32_t old = atomic_load(&shared->disk.generation);
	uint64_t seq = terrace__draw(shared);
	uint32_t new;
	int rc = ops->latest(store->disk, &new);

	if (rc != TERRACE_OK)
		return rc;
	/* None that anybody may have open, whatever the shared file says. */
	new = (uint32_t)max_u64(old, new) + 1;
	rc = ops->make(store->disk, new);
	if (rc == TERRACE_OK)
		rc = fill(store, keeps_old ?
		                     "or never stored: the database was set aside, with all that "
		                     "it held" :
		                     "or never stored: the machine went down, and all was "
		                     "dropped");
	if (rc != TERRACE_OK) {
		ops->made(store->disk, false);
		return rc;
	}
	mark_rowless(shared);
	atomic_store(&shared->disk.generation, new);
	ops->made(store->disk, true);
	if (keeps_old)
		ops->set_aside(store->disk, old, terrace__now(store));
	terrace__database_aside(store);
	/* Its files have no rows any more; and where it is out of date, so are its numbers. */
	ops->files_remove(store->disk, keeps_old ? seq : UINT64_MAX);
	return TERRACE_OK;
}

int terrace__database_renew(struct terrace *store, bool surely)
{
	int rc;

	if (!surely && !store->disk_ops->malformed(store->disk))
		return TERRACE_MISS;
	terrace__log(store, TERRACE_LOG_WARN,
	             "the database is damaged (%s): it is set aside, and a new one made",
	             terrace__message());
	rc = renew(store, true);
	if (rc != TERRACE_OK)
		terrace__swallow(store, NULL, "making a new database");
	return rc;
}

int terrace__database_discard(struct terrace *store)
{
	return renew(store, false);
}
