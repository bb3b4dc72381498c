/*
 * Which rows go when there is no room: those of the lowest value. What a hit is
 * worth stands in the row; together with how often it was hit, and how long it
 * has been there, that is its value (Blankstein, Sen, Freedman, "Hyperbolic
 * Caching: Flexible Caching for Web Applications", 2017):
 *
 *     worth x uses^1.5 / age
 *
 * As it changes all the time there is no index of it, which every put and hit
 * would have to keep: of some hundred rows, taken at random, the lowest go. A
 * cache that has no more than that is looked at as a whole.
 */
#include "tiers/sqlite/connection.h"

#include "util/util.h"

#include <math.h>
#include <stdlib.h>

enum {
	WHOLE = 512,      /* so many rows are all looked at */
	RUNS = 16,        /* else as many places as this, at random, */
	RUN = 8,          /* and rows at each: neighbours lie on one page */
	TAKE = 8,         /* the lowest of these and of those that were left go */
	STALE_MS = 10000, /* what was looked at longer ago than this is looked at anew */
};

struct range {
	uint32_t cache;
	uint64_t entries; /* as far as is known, or 1 */
	uint64_t first, last;
};

static double value_of(sqlite3_stmt *row, const struct record *record, int64_t now)
{
	double uses = (double)sqlite3_column_int64(row, 5) + 1;
	double worth = (double)sqlite3_column_int64(row, 6) / 16;
	double age = now > record->stored ? (double)(now - record->stored) + 1 : 1;

	if (fabs(worth) > 64)
		worth = 0; /* nonsense */
	return uses * sqrt(uses) * exp2(worth) / age;
}

/* The lowest are kept, in order, the very lowest last. */
static void consider(struct candidates *candidates, sqlite3_stmt *row, int64_t now)
{
	struct candidate new = { .row = {
				     .id = (uint64_t)sqlite3_column_int64(row, 0),
				     .seq = (uint64_t)sqlite3_column_int64(row, 1),
				     .charge = (uint64_t)sqlite3_column_int64(row, 2),
				     .file = (uint64_t)sqlite3_column_int64(row, 3),
				     .tier = sqlite3_column_int64(row, 3) ? TERRACE_L3 : TERRACE_L2,
				     .hash = (uint64_t)sqlite3_column_int64(row, 4),
				     .cache = (uint32_t)sqlite3_column_int64(row, 7),
				 } };
	struct record record;
	size_t at;

	/* What is damaged goes first. */
	if (terrace__record_read(column_slice(row, 8), &record) == TERRACE_OK)
		new.value = value_of(row, &record, now);
	for (at = 0; at < candidates->count; at++) {
		if (candidates->items[at].row.id == new.row.id)
			return;
	}
	if (candidates->count == CANDIDATES) {
		if (new.value >= candidates->items[0].value)
			return;
		candidates->count--;
		memmove(candidates->items, candidates->items + 1, candidates->count * sizeof new);
	}
	for (at = candidates->count; at > 0 && candidates->items[at - 1].value < new.value; at--)
		candidates->items[at] = candidates->items[at - 1];
	candidates->items[at] = new;
	candidates->count++;
}

static int look(struct disk *disk, uint64_t from, uint64_t end, uint64_t most, int64_t now)
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *rows = terrace__statement(disk->writer, DO_SAMPLE);
	int rc;

	if (!rows)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare a sample");
	sqlite3_bind_int64(rows, 1, (sqlite3_int64)from);
	sqlite3_bind_int64(rows, 2, (sqlite3_int64)end);
	sqlite3_bind_int64(rows, 3, (sqlite3_int64)most);
	while ((rc = sqlite3_step(rows)) == SQLITE_ROW)
		consider(&disk->candidates, rows, now);
	return rc == SQLITE_DONE ? TERRACE_OK :
	                           terrace__sqlite_failed(disk, disk->writer->db, "take a sample");
}

/* The ids of its first and last row; 0 when it has none. */
static int find_ends(struct disk *disk, struct range *range)
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *ends = terrace__statement(disk->writer, DO_ENDS);

	if (ends) {
		sqlite3_bind_int64(ends, 1,
		                   (sqlite3_int64)((uint64_t)range->cache << DISK_ID_SHIFT));
		sqlite3_bind_int64(ends, 2,
		                   (sqlite3_int64)((uint64_t)(range->cache + 1) << DISK_ID_SHIFT));
	}
	if (!ends || sqlite3_step(ends) != SQLITE_ROW)
		return terrace__sqlite_failed(disk, disk->writer->db, "find the rows of a cache");
	range->first = (uint64_t)sqlite3_column_int64(ends, 0);
	range->last = (uint64_t)sqlite3_column_int64(ends, 1);
	return TERRACE_OK;
}

/* The caches to choose from: one, or all that there are. The caller frees them. */
static int find_ranges(struct disk *disk, uint32_t cache, struct range **ret, size_t *ret_count)
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *sizes = terrace__statement(disk->writer, DO_SIZES);
	struct range *ranges = NULL, *grown;
	size_t count = 0;
	int rc;

	if (!sizes)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare the sizes");
	while ((rc = sqlite3_step(sizes)) == SQLITE_ROW) {
		struct range range = { .cache = (uint32_t)sqlite3_column_int64(sizes, 0) };
		sqlite3_int64 entries = sqlite3_column_int64(sizes, 1);

		if (cache != DISK_ANY_CACHE && range.cache != cache)
			continue;
		range.entries = entries > 0 ? (uint64_t)entries : 1;
		grown = realloc(ranges, (count + 1) * sizeof *ranges);
		if (!grown) {
			free(ranges);
			return no_memory("a look at all caches");
		}
		ranges = grown;
		ranges[count++] = range;
	}
	*ret = ranges;
	*ret_count = count;
	if (rc == SQLITE_DONE)
		return TERRACE_OK;
	free(ranges);
	return terrace__sqlite_failed(disk, disk->writer->db, "read the sizes");
}

static uint64_t below(uint64_t limit)
{
	uint64_t number;

	sqlite3_randomness(sizeof number, &number);
	return number % limit;
}

/* One of the rows of all of them, and some of its neighbours. */
static int look_somewhere(struct disk *disk, struct range *ranges, uint64_t entries, int64_t now)
{
	uint64_t at = below(entries);
	struct range *range = ranges;
	int rc = TERRACE_OK;

	for (; at >= range->entries; range++)
		at -= range->entries;
	if (!range->last)
		rc = find_ends(disk, range);
	if (rc != TERRACE_OK || !range->last)
		return rc;
	at = range->first + below(range->last - range->first + 1);
	return look(disk, at, range->last + 1, RUN, now);
}

static int look_at_all(struct disk *disk, struct range *ranges, size_t count, int64_t now)
{
	int rc = TERRACE_OK;

	for (size_t i = 0; i < count && rc == TERRACE_OK; i++) {
		rc = find_ends(disk, &ranges[i]);
		if (rc == TERRACE_OK && ranges[i].last)
			rc = look(disk, ranges[i].first, ranges[i].last + 1, WHOLE, now);
	}
	return rc;
}

static int choose(struct disk *disk, uint32_t cache, int64_t now)
{
	struct candidates *candidates = &disk->candidates;
	uint64_t entries = 0;
	struct range *ranges = NULL;
	size_t count = 0;
	int rc = find_ranges(disk, cache, &ranges, &count);

	if (candidates->cache != cache || candidates->made > now ||
	    candidates->made < now - STALE_MS) {
		candidates->count = 0;
		candidates->cache = cache;
		candidates->made = now;
	}
	for (size_t i = 0; i < count; i++)
		entries += ranges[i].entries;
	for (int i = 0; i < RUNS && rc == TERRACE_OK && entries > WHOLE; i++)
		rc = look_somewhere(disk, ranges, entries, now);
	candidates->take = min_u64(candidates->count, TAKE);
	/* Or where the numbers are wrong. */
	if (rc == TERRACE_OK && candidates->count == 0) {
		rc = look_at_all(disk, ranges, count, now);
		candidates->take = candidates->count;
	}
	free(ranges);
	return rc;
}

int terrace__disk_victims(void *tier, uint32_t cache, int64_t now, struct tier_row *ret,
                          size_t most, size_t *ret_count)
{
	struct disk *disk = tier;
	struct candidates *candidates = &disk->candidates;
	int rc = TERRACE_OK;

	if (candidates->take == 0 || candidates->cache != cache)
		rc = choose(disk, cache, now);
	for (*ret_count = 0; *ret_count < most && candidates->take > 0; ++*ret_count) {
		candidates->take--;
		ret[*ret_count] = candidates->items[--candidates->count].row;
	}
	return rc;
}

void terrace__disk_spare(struct disk *disk, uint64_t hash)
{
	struct candidates *candidates = &disk->candidates;

	for (size_t i = 0; i < candidates->count; i++) {
		if (candidates->items[i].row.hash != hash)
			continue;
		candidates->count--;
		candidates->take = min_u64(candidates->take, candidates->count);
		memmove(candidates->items + i, candidates->items + i + 1,
		        (candidates->count - i) * sizeof *candidates->items);
		return;
	}
}
