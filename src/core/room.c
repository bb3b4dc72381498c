/* Making room on disk: expired entries first, then by value. */
#include "core/lane.h"
#include "core/power.h"
#include "core/write.h"

#include "util/fs.h"
#include "util/util.h"

/* Rows that one transaction removes: others wait no longer than for that, 1 to 2 ms. */
enum { ROWS_AT_ONCE = 64 };
/* Of these, rows that one that evicts spares at most: in a small cache all may be hit all the time. */
enum { SPARED_AT_ONCE = ROWS_AT_ONCE / 2 };
/* And how often it looks: some have gone since they were chosen, and in a damaged database all may have. */
enum { LOOKS_AT_ONCE = 4 * ROWS_AT_ONCE };

struct rows {
	struct tier_row rows[ROWS_AT_ONCE]; /* without their slices */
	size_t count, most;
};

static bool collect(void *ctx, const struct tier_row *row)
{
	struct rows *rows = ctx;

	rows->rows[rows->count++] = *row;
	return rows->count < rows->most;
}

static void mark_rowless(struct terrace *store, uint32_t cache)
{
	if (cache < CACHES_MAX)
		atomic_store(&store->shared->caches[cache].rows, ROWS_LACK);
}

/* Up to ROWS_AT_ONCE of the rows that `where` finds, in a transaction of their own. */
static int remove_some(struct terrace *store, const struct disk_where *where, uint64_t most,
                       const struct tier_note *note, uint64_t *ret_count)
{
	struct rows rows = { .most = (size_t)min_u64(most, ROWS_AT_ONCE) };
	struct transaction transaction;
	int rc = store->disk_ops->select(store->disk, where, collect, &rows);

	*ret_count = 0;
	if (rc != TERRACE_OK || rows.count == 0)
		return rc;
	rc = terrace__transaction_begin(store, &transaction);
	if (rc != TERRACE_OK)
		return rc;
	for (size_t i = 0; i < rows.count && rc == TERRACE_OK; i++) {
		mark_rowless(store, rows.rows[i].cache);
		rc = store->disk_ops->remove_row(store->disk, &rows.rows[i], note);
		if (rc == TERRACE_OK)
			++*ret_count;
		else if (rc == TERRACE_MISS)
			rc = TERRACE_OK;
	}
	if (rc != TERRACE_OK) {
		terrace__transaction_rollback(&transaction);
		return rc;
	}
	return terrace__transaction_commit(&transaction);
}

int terrace__expire(struct terrace *store, uint64_t most, uint64_t *ret_count)
{
	struct disk_where where = { .kind = DISK_EXPIRED, .until = (uint64_t)terrace__now(store) };
	struct tier_note note = { .reason = TERRACE_REASON_EXPIRED, .when = (int64_t)where.until };

	return remove_some(store, &where, most, &note, ret_count);
}

int terrace__sweep(struct terrace *store, struct terrace_cache *cache, uint64_t *ret_count)
{
	struct disk_where where = { .kind = DISK_CLEARED,
		                    .cache = cache->number,
		                    .until = terrace__floor(store->shared, cache->shared) };
	struct tier_note note = { .reason = TERRACE_REASON_CLEARED, .when = terrace__now(store) };

	if (where.until == 0 || where.until == UINT64_MAX)
		return TERRACE_OK;
	return remove_some(store, &where, UINT64_MAX, &note, ret_count);
}

/* --- how much there is ------------------------------------------------------------------------- */

/*
 * Below this a store's limit counts rows and files by their charges, as a
 * cache's does: what the store itself needs would leave no room for them.
 */
enum { REAL_BYTES = 16 << 20 };
/* SQLite's shared memory, the statistics, and the directories of L3. */
enum { SMALL_FILES = (256 << 10) + (1 << 20) };

static bool counts_pages(const struct terrace *store, uint32_t cache)
{
	return cache == DISK_ANY_CACHE && store->disk_bytes >= REAL_BYTES;
}

/* What room is welcome beyond need, so that not every put must make some. */
static uint64_t slack(uint64_t limit)
{
	return limit / 256;
}

static int charges_of(const struct terrace *store, uint32_t cache, struct tier_usage *ret_l2,
                      struct tier_usage *ret_l3)
{
	const struct tier_ops *ops = &store->disk_ops->tier;
	int rc = ops->usage(store->disk, cache, TERRACE_L2, ret_l2);

	return rc == TERRACE_OK ? ops->usage(store->disk, cache, TERRACE_L3, ret_l3) : rc;
}

/* What a cache holds, or all of them; *ret_free (may be NULL) of it is free pages of the database. */
static int usage_of(struct terrace *store, uint32_t cache, struct tier_usage *ret,
                    uint64_t *ret_free)
{
	uint64_t database, free_pages = 0;
	struct tier_usage l2 = { 0 }, l3 = { 0 };
	uint64_t charged;
	int rc = charges_of(store, cache, &l2, &l3);

	if (rc == TERRACE_OK && counts_pages(store, cache)) {
		rc = store->disk_ops->size(store->disk, &database, &free_pages);
		charged = l2.bytes;
		l2.bytes = database - free_pages + sizeof *store->shared + SMALL_FILES +
		           atomic_load(&store->shared->aside_bytes) +
		           terrace__lanes_bytes(store->shared);
		if (rc == TERRACE_OK)
			atomic_store(&store->beside, l2.bytes - min_u64(charged, l2.bytes));
	}
	if (rc == TERRACE_OK)
		*ret = (struct tier_usage){ l2.entries + l3.entries, l2.bytes + l3.bytes };
	if (ret_free)
		*ret_free = free_pages;
	return rc;
}

uint64_t terrace__room_used(const struct terrace *store, uint32_t cache)
{
	struct tier_usage l2 = { 0 }, l3 = { 0 };
	uint64_t beside = sizeof *store->shared + SMALL_FILES;

	if (charges_of(store, cache, &l2, &l3) != TERRACE_OK)
		return UINT64_MAX / 2;
	beside = max_u64(beside, atomic_load(&store->beside));
	return l2.bytes + l3.bytes + (counts_pages(store, cache) ? beside : 0);
}

/* By how much a limit is passed; a limit of 0 is none. */
static uint64_t above(uint64_t used, uint64_t limit)
{
	return limit && used > limit ? used - limit : 0;
}

/* What every row and file takes beside its payload, and more. */
enum { OVERHEAD = 512, BLOCK = 4096 };

static void count_put(struct terrace *store, const struct tier_put *put)
{
	const struct record *record = put->record;
	uint64_t bytes = record->payload_size + record->key.size + record->extra.size + OVERHEAD;

	atomic_fetch_add(&store->shared->put_bytes, put->file ? bytes + BLOCK : bytes);
	atomic_fetch_add(&store->shared->put_entries, 1);
}

int terrace__row_put(struct terrace *store, struct tier_put *put)
{
	uint32_t displaced = UINT32_MAX;
	int rc;

	count_put(store, put);
	put->displaced = &displaced;
	rc = store->disk_ops->tier.put(store->disk, put);
	put->displaced = NULL;
	if (UNLIKELY(displaced != UINT32_MAX))
		mark_rowless(store, displaced);
	return rc;
}

/* Pages are emptier than rows are long, but not by more than this. */
enum { EMPTINESS = 4 };

/* Nobody can pass the limit before so much was put; a limit of 0 is none. */
static void set_room(const struct shared *shared, struct room *room, uint64_t bytes_left,
                     uint64_t entries_left)
{
	atomic_store(&room->bytes, atomic_load(&shared->put_bytes) + bytes_left / EMPTINESS);
	atomic_store(&room->entries, atomic_load(&shared->put_entries) + entries_left);
}

static uint64_t left(uint64_t used, uint64_t limit)
{
	if (!limit)
		return UINT64_MAX / 4;
	return limit > used ? limit - used : 0;
}

bool terrace__over_limits(struct terrace *store, struct terrace_cache *cache)
{
	uint64_t bytes = cache ? cache->disk_bytes : store->disk_bytes;
	uint64_t entries = cache ? cache->disk_entries : store->disk_entries, free_pages;
	const struct shared *shared = store->shared;
	struct room *room = cache ? &cache->room : &store->room;
	struct tier_usage used;

	if (!bytes && !entries)
		return false;
	if (atomic_load(&shared->put_bytes) < atomic_load(&room->bytes) &&
	    atomic_load(&shared->put_entries) < atomic_load(&room->entries))
		return false;
	if (usage_of(store, cache ? cache->number : DISK_ANY_CACHE, &used, &free_pages) !=
	    TERRACE_OK)
		return true; /* making room will say what is wrong */
	set_room(shared, room, left(used.bytes + free_pages, bytes), left(used.entries, entries));
	return above(used.bytes, bytes) || above(used.entries, entries) ||
	       above(used.bytes + free_pages, bytes + slack(bytes));
}

/* --- eviction ------------------------------------------------------------------------------------ */

/* One row, which may have gone already; rc as the transaction's. */
static int evict_row(struct terrace *store, const struct tier_row *row,
                     const struct tier_note *note, struct tier_evicted *total)
{
	bool l3 = row->tier == TERRACE_L3;
	struct tier_evicted one = { .entries_l2 = !l3, .entries_l3 = l3, .bytes = row->charge };
	int rc;

	mark_rowless(store, row->cache);
	rc = store->disk_ops->remove_row(store->disk, row, note);
	if (rc != TERRACE_OK)
		return rc == TERRACE_MISS ? TERRACE_OK : rc;
	terrace__count_evicted(store, row->cache, &one);
	total->entries_l2 += one.entries_l2;
	total->entries_l3 += one.entries_l3;
	total->bytes += one.bytes;
	return TERRACE_OK;
}

/* One transaction's worth, of one cache or of all, with notes that say why, or none; TERRACE_MISS when there is nothing left. */
static int evict(struct terrace *store, uint32_t number, uint64_t bytes, uint64_t entries,
                 const char *why)
{
	struct tier_note note = { .reason = TERRACE_REASON_EVICTED,
		                  .when = terrace__now(store),
		                  .detail = why };
	struct tier_evicted evicted = { 0 };
	struct transaction transaction;
	uint64_t gone = 0;
	unsigned spared = 0, looks = 0;
	size_t found = 1;
	int rc = terrace__transaction_begin(store, &transaction);

	if (rc != TERRACE_OK)
		return rc;
	while (rc == TERRACE_OK && found && gone + spared < ROWS_AT_ONCE &&
	       looks++ < LOOKS_AT_ONCE && (evicted.bytes < bytes || gone < entries)) {
		struct tier_row row;
		unsigned hit = 0;

		rc = store->disk_ops->victims(store->disk, number, note.when, &row, 1, &found);
		/* Now it matters what its row does not say yet. Nobody else's hits are written
		 * down: each is a page, and on a full disk every page of the log matters. */
		if (rc == TERRACE_OK && found && why && spared < SPARED_AT_ONCE)
			rc = terrace__access_flush_of(store, row.hash, &hit);
		if (rc == TERRACE_OK && found && !hit)
			rc = evict_row(store, &row, why ? &note : NULL, &evicted);
		spared += hit > 0;
		gone = evicted.entries_l2 + evicted.entries_l3;
	}
	if (rc != TERRACE_OK) {
		terrace__transaction_rollback(&transaction);
		return rc;
	}
	rc = terrace__transaction_commit(&transaction);
	return rc == TERRACE_OK && gone == 0 ? TERRACE_MISS : rc;
}

/* How much too much there is. */
static int excess(struct terrace *store, uint32_t number, uint64_t bytes_limit,
                  uint64_t entries_limit, uint64_t *ret_bytes, uint64_t *ret_entries)
{
	struct tier_usage used;
	int rc = usage_of(store, number, &used, NULL);

	*ret_bytes = above(used.bytes, bytes_limit);
	*ret_entries = above(used.entries, entries_limit);
	return rc;
}

/*
 * Of one cache, or of all. Who puts waits for it: no more than a batch goes
 * beyond need, however much room to spare would be welcome.
 */
static int shrink(struct terrace *store, uint32_t number, uint64_t bytes_limit,
                  uint64_t entries_limit, const char *why)
{
	bool expired_first = true;

	for (;;) {
		uint64_t bytes, entries, count = 0;
		int rc = excess(store, number, bytes_limit, entries_limit, &bytes, &entries);

		if (rc != TERRACE_OK || (bytes == 0 && entries == 0))
			return rc;
		if (counts_pages(store, number) && bytes)
			bytes += slack(bytes_limit);
		if (expired_first) {
			rc = terrace__expire(store, ROWS_AT_ONCE, &count);
			expired_first = rc == TERRACE_OK && count > 0;
			if (rc != TERRACE_OK || count > 0)
				continue;
		}
		rc = evict(store, number, bytes, entries, why);
		if (rc != TERRACE_OK)
			return rc == TERRACE_MISS ? TERRACE_OK : rc; /* nothing left to evict */
	}
}

/* Who puts waits while pages move. */
enum { GIVE_BACK_BYTES = 1 << 20 };

/* Files have grown where rows were before: the database's free pages go back to the system. */
static int give_pages_back(struct terrace *store)
{
	struct transaction transaction;
	struct tier_usage used;
	uint64_t free_pages, bytes;
	int rc;

	if (!counts_pages(store, DISK_ANY_CACHE))
		return TERRACE_OK;
	rc = usage_of(store, DISK_ANY_CACHE, &used, &free_pages);
	bytes = above(used.bytes + free_pages, store->disk_bytes);
	if (rc != TERRACE_OK || bytes <= slack(store->disk_bytes))
		return rc;
	rc = terrace__transaction_begin(store, &transaction);
	if (rc != TERRACE_OK)
		return rc;
	/* Back to where nothing is done, and some more: it takes a move of the log. */
	bytes = bytes - slack(store->disk_bytes) + GIVE_BACK_BYTES;
	rc = store->disk_ops->give_back(store->disk, min_u64(bytes, free_pages));
	if (rc != TERRACE_OK) {
		terrace__transaction_rollback(&transaction);
		return rc;
	}
	rc = terrace__transaction_commit(&transaction);
	/* The database's file shrinks when the log is moved into it. */
	terrace__power_checkpoint(store, CHECKPOINT_NOW);
	return rc;
}

int terrace__make_room(struct terrace *store, struct terrace_cache *cache)
{
	int rc = TERRACE_OK;

	if (cache->disk_bytes || cache->disk_entries)
		rc = shrink(store, cache->number, cache->disk_bytes, cache->disk_entries,
		            "to keep the cache within its limit");
	if (rc == TERRACE_OK && (store->disk_bytes || store->disk_entries))
		rc = shrink(store, DISK_ANY_CACHE, store->disk_bytes, store->disk_entries,
		            "to keep the store within its limit");
	return rc == TERRACE_OK ? give_pages_back(store) : rc;
}

/* --- a full disk ------------------------------------------------------------------------------ */

enum { FREE_BYTES = 8 << 20, FREE_FILES = 64 };
enum { FREE_ROWS_BYTES = 256 << 10, FREE_ROWS = 64 };

struct sacrifice {
	struct tier_row rows[FREE_FILES];
	size_t count;
	uint64_t bytes;
};

static bool choose_file(void *ctx, const struct tier_row *row)
{
	struct sacrifice *sacrifice = ctx;

	if (row->file) {
		sacrifice->rows[sacrifice->count++] = *row;
		sacrifice->bytes += row->charge;
	}
	return sacrifice->count < FREE_FILES && sacrifice->bytes < FREE_BYTES;
}

/* The rows, and with them their files. */
static int remove_rows(struct terrace *store, const struct sacrifice *sacrifice)
{
	struct tier_note note = { .reason = TERRACE_REASON_EVICTED,
		                  .when = terrace__now(store),
		                  .detail = "because the disk was full" };
	struct transaction transaction;
	int rc = terrace__transaction_begin(store, &transaction);

	if (rc != TERRACE_OK)
		return rc;
	for (size_t i = 0; i < sacrifice->count && (rc == TERRACE_OK || rc == TERRACE_MISS); i++) {
		mark_rowless(store, sacrifice->rows[i].cache);
		rc = store->disk_ops->remove_row(store->disk, &sacrifice->rows[i], &note);
	}
	if (rc == TERRACE_OK || rc == TERRACE_MISS)
		return terrace__transaction_commit(&transaction);
	terrace__transaction_rollback(&transaction);
	return rc;
}

/* Why entries went is worth less than the entries that are left. */
static void forget_notes(struct terrace *store)
{
	struct transaction transaction;

	if (terrace__transaction_begin(store, &transaction) != TERRACE_OK)
		return;
	if (store->disk_ops->note_clear(store->disk) == TERRACE_OK)
		terrace__transaction_commit(&transaction);
	else
		terrace__transaction_rollback(&transaction);
}

/*
 * Rows give the disk nothing back, but their pages to the rows to come. What
 * says that they go must fit into the log as long as it is: a few, if not many.
 */
static bool free_rows(struct terrace *store)
{
	uint64_t bytes = FREE_ROWS_BYTES, entries = FREE_ROWS;
	int rc = TERRACE_EFULL;

	forget_notes(store);
	for (; rc == TERRACE_EFULL && entries > 0; bytes /= 8, entries /= 8) {
		rc = evict(store, DISK_ANY_CACHE, bytes, entries, NULL);
	}
	/* So that the log is as long again for what comes. */
	terrace__power_checkpoint(store, CHECKPOINT_NOW);
	return rc == TERRACE_OK;
}

bool terrace__free_space(struct terrace *store, bool for_row, unsigned tries)
{
	struct sacrifice sacrifice = { .count = 0 };

	/* A limit of file sizes is met whatever else goes. */
	if (tries > 1 || terrace__limit_met())
		return false;
	store->disk_ops->sweep(store->disk);
	if (terrace__power_checkpoint(store, CHECKPOINT_NOW) && for_row && tries == 0)
		return true;
	for (uint32_t i = 0; i < CACHES_MAX && sacrifice.count < FREE_FILES; i++) {
		terrace_match all = { .kind = TERRACE_MATCH_ALL };
		struct disk_where where = { .kind = DISK_MATCHING, .cache = i, .match = &all };

		if (!terrace__cache_is_named(store->shared, i) || sacrifice.bytes >= FREE_BYTES)
			break;
		store->disk_ops->select(store->disk, &where, choose_file, &sacrifice);
	}
	terrace__log(store, TERRACE_LOG_WARN, "the disk is full: %zu files are given up",
	             sacrifice.count);
	if (sacrifice.count == 0)
		return for_row && free_rows(store);
	if (remove_rows(store, &sacrifice) != TERRACE_EFULL)
		return true;
	/* No space even to say so: first the files, then their rows. */
	for (size_t i = 0; i < sacrifice.count; i++)
		store->disk_ops->file_remove(store->disk, sacrifice.rows[i].file);
	/* Not before there is space: the database may grow by what the log holds. */
	terrace__power_checkpoint(store, CHECKPOINT_NOW);
	remove_rows(store, &sacrifice);
	return true;
}
