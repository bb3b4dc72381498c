/* Reading the catalogue: every function may run beside a writer. */
#include "tiers/sqlite/connection.h"

#include "tiers/extra.h"
#include "tiers/sqlite/vfs.h"
#include "util/fs.h"
#include "util/message.h"
#include "util/util.h"

#include <stdio.h>

/*
 * The entry of a GET row, or with `ret_blocks` what tier.h says of open.
 * TERRACE_MISS for another key with the same hash; `*ret_lost` is its file when
 * that is not there.
 */
static int row_entry(struct disk *disk, sqlite3_stmt *row, const struct tier_key *key,
                     struct entry **ret, struct block_reader **ret_blocks,
                     struct file_seen *ret_file, uint64_t *ret_lost)
{
	uint64_t file = (uint64_t)sqlite3_column_int64(row, 2);
	struct record record;
	int rc = terrace__record_read(column_slice(row, 3), &record);

	if (rc != TERRACE_OK)
		return rc;
	if (!record_is_of(&record, key))
		return TERRACE_MISS;
	/* The columns decide which write is newer, and what an invalidation finds:
	 * they must be the head's. */
	if (record.seq != (uint64_t)sqlite3_column_int64(row, 1) ||
	    (uint64_t)sqlite3_column_int64(row, 0) >> DISK_ID_SHIFT != record.cache)
		return TERRACE_ECORRUPT;
	/* Put by a program that may have more. */
	if (record.value_size > disk->value_max)
		return TERRACE_MISS;
	if (!file)
		return terrace__record_entry(&record, column_slice(row, 4), key->hash, TERRACE_L2,
		                             ret);
	if (ret_blocks)
		rc = terrace__files_open_value(disk->files, file, &record, key->hash, ret,
		                               ret_blocks);
	else
		rc = terrace__files_read(disk->files, file, &record, key->hash, ret, ret_file);
	if (rc != TERRACE_MISS)
		return rc;
	*ret_lost = file;
	return TERRACE_ECORRUPT;
}

/* Where the row is that a GET is at, or the file that does without it. */
static void see_row(struct connection *connection, sqlite3_stmt *row, const struct file_seen *file,
                    struct seen_row *ret)
{
	int size = sqlite3_column_bytes(row, 3) + sqlite3_column_bytes(row, 4);

	ret->id = (uint64_t)sqlite3_column_int64(row, 0);
	ret->seq = (uint64_t)sqlite3_column_int64(row, 1);
	ret->file = *file;
	ret->at = ret->rest = 0;
	ret->beside_count = 0;
	/* Then SQLite has read the schema's pages, too. */
	if (sqlite3_stmt_status(row, SQLITE_STMTSTATUS_REPREPARE, 1) == 0 && !file->sum)
		terrace__place_find(connection, (uint64_t)size, ret);
}

/*
 * With a snapshot that may not stand an error says nothing: TERRACE_EBUSY. `ret_seen`
 * may be NULL.
 */
static int get_with(struct disk *disk, struct connection *connection, const struct tier_key *key,
                    bool sure, struct entry **ret, struct block_reader **ret_blocks,
                    struct seen_row *ret_seen)
{
	CLEANUP(terrace__statement_done) sqlite3_stmt *get = terrace__statement(connection, DO_GET);
	struct file_seen file;
	uint64_t lost = 0, before;
	int rc = TERRACE_MISS;

	if (!get)
		return sure ? terrace__sqlite_failed(disk, connection->db, "prepare a read") :
		              TERRACE_EBUSY;
	/* A file may go between reading its row and opening it; the next look sees what
	 * took its place. It is missing when the row still says so. */
	do {
		before = lost;
		lost = 0;
		file = (struct file_seen){ 0 };
		terrace__vfs_reads.count = 0;
		sqlite3_reset(get);
		sqlite3_bind_int64(get, 1, (sqlite3_int64)terrace__row_hash(key));
		switch (sqlite3_step(get)) {
		case SQLITE_ROW:
			rc = row_entry(disk, get, key, ret, ret_blocks, &file, &lost);
			if (rc == TERRACE_OK && ret_seen)
				see_row(connection, get, &file, ret_seen);
			break;
		case SQLITE_DONE:
			rc = TERRACE_MISS;
			break;
		default:
			return sure ? terrace__sqlite_failed(disk, connection->db, "read a row") :
			              TERRACE_EBUSY;
		}
	} while (lost != before && lost);
	if (rc == TERRACE_EFORMAT)
		rc = TERRACE_MISS; /* a newer version's entry: leave it to that */
	return rc;
}

/* Without locks: TERRACE_EBUSY where nothing can be said. */
static int get_held(struct disk *disk, struct connection *reader, const struct tier_key *key,
                    struct entry **ret, struct seen_row *ret_seen)
{
	int rc;

	if (is_inside(disk) || !terrace__snapshot_hold(disk, reader))
		return TERRACE_EBUSY;
	rc = get_with(disk, reader, key, false, ret, NULL, ret_seen);
	if ((rc == TERRACE_OK || rc == TERRACE_MISS) && terrace__snapshot_stands(disk, reader))
		return rc;
	if (rc == TERRACE_OK)
		entry_unref(*ret);
	return TERRACE_EBUSY;
}

/* With locks. False when another database was made meanwhile: once more. */
static bool get_locked(struct disk *disk, struct connection *reader, const struct tier_key *key,
                       struct entry **ret, struct block_reader **ret_blocks,
                       struct seen_row *ret_seen, int *ret_rc)
{
	if (!terrace__snapshot_drop(disk, reader)) {
		*ret_rc = TERRACE_EIO;
		return true;
	}
	*ret_rc = get_with(disk, reader, key, true, ret, ret_blocks, ret_seen);
	if (LIKELY(!terrace__reader_is_late(disk, reader)))
		return true;
	if (*ret_rc == TERRACE_OK)
		entry_unref(*ret);
	if (*ret_rc == TERRACE_OK && ret_blocks) {
		terrace__block_reader_free(*ret_blocks);
		*ret_blocks = NULL;
	}
	return false;
}

/* By SQLite. False when another database was made meanwhile: once more. */
static bool get_found(struct disk *disk, struct connection *reader, const struct tier_key *key,
                      const struct tier_stamp *stamp, struct entry **ret, int *ret_rc)
{
	struct seen_row seen;
	bool done = true;

	seen.stamp = stamp;
	terrace__limit_enter();
	*ret_rc = get_held(disk, reader, key, ret, stamp ? &seen : NULL);
	/* With locks what was read is of before the writes that others have done meanwhile. */
	seen.stamp = NULL;
	if (*ret_rc == TERRACE_EBUSY)
		done = get_locked(disk, reader, key, ret, NULL, stamp ? &seen : NULL, ret_rc);
	/* Of one that dies unused the head changes with its use, under the same version. */
	if (stamp && done && *ret_rc == TERRACE_OK && !entry_rest(*ret)->idle)
		terrace__place_note(disk, reader, key, stamp, &seen);
	terrace__limit_leave();
	return done;
}

int terrace__disk_get_under(void *tier, const struct tier_key *key, const struct tier_stamp *stamp,
                            struct entry **ret)
{
	struct disk *disk = tier;
	bool done;
	int rc;

	if (is_inside(disk))
		stamp = NULL;
	do {
		struct connection *reader = terrace__reader_take_held(disk);

		if (!reader)
			return TERRACE_EIO;
		rc = stamp ? terrace__place_get(disk, reader, key, stamp, ret) : TERRACE_MISS;
		done = rc == TERRACE_OK || get_found(disk, reader, key, stamp, ret, &rc);
		terrace__reader_give_held(disk, reader);
	} while (UNLIKELY(!done));
	return rc;
}

int terrace__disk_get(void *tier, const struct tier_key *key, bool hit, struct entry **ret)
{
	(void)hit;
	return terrace__disk_get_under(tier, key, NULL, ret);
}

int terrace__disk_open_value(void *tier, const struct tier_key *key, struct entry **ret,
                             struct block_reader **ret_blocks)
{
	struct disk *disk = tier;
	bool done;
	int rc;

	*ret_blocks = NULL;
	do {
		struct connection *reader = terrace__reader_take(disk);

		if (!reader)
			return TERRACE_EIO;
		done = get_locked(disk, reader, key, ret, ret_blocks, NULL, &rc);
		terrace__reader_give(disk, reader);
	} while (UNLIKELY(!done));
	return rc;
}

int terrace__disk_get_inside(void *tier, const struct tier_key *key, bool whole, struct entry **ret)
{
	struct disk *disk = tier;
	struct block_reader *blocks = NULL;
	int rc = get_with(disk, disk->writer, key, true, ret, whole ? NULL : &blocks, NULL);

	terrace__block_reader_free(blocks);
	return rc;
}

static int describe_with(struct disk *disk, struct connection *connection,
                         const struct tier_key *key, struct tier_facts *ret)
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *row = terrace__statement(connection, DO_DESCRIBE);
	struct record record;
	int rc;

	if (!row)
		return terrace__sqlite_failed(disk, connection->db, "prepare a read");
	sqlite3_bind_int64(row, 1, (sqlite3_int64)terrace__row_hash(key));
	rc = sqlite3_step(row);
	if (rc == SQLITE_DONE)
		return TERRACE_MISS;
	if (rc != SQLITE_ROW)
		return terrace__sqlite_failed(disk, connection->db, "read a row");
	rc = terrace__record_read(column_slice(row, 3), &record);
	if (rc != TERRACE_OK)
		return rc == TERRACE_EFORMAT ? TERRACE_MISS : rc;
	if (!record_is_of(&record, key))
		return TERRACE_MISS;
	if (record.seq != (uint64_t)sqlite3_column_int64(row, 1))
		return TERRACE_ECORRUPT;
	*ret = (struct tier_facts){
		.tier = sqlite3_column_int64(row, 2) ? TERRACE_L3 : TERRACE_L2,
		.codec = record.codec,
		.absent = record.flags & RECORD_ABSENT,
		.seq = record.seq,
		.created = record.created,
		.stored = record.stored,
		.expires = entry_idle_from_row(record.idle, record.expires, record.deadline),
		.idle = record.idle,
		.ttl = record.ttl,
		.accessed = sqlite3_column_int64(row, 4),
		.value_size = record.value_size,
		.stored_size = record.payload_size,
		.cost_us = record.cost_us,
		.hits = (uint64_t)sqlite3_column_int64(row, 5),
	};
	terrace__buf_append(&ret->extra, record.extra.data, record.extra.size);
	return ret->extra.failed ? no_memory("the facts of an entry") : TERRACE_OK;
}

int terrace__disk_describe(void *tier, const struct tier_key *key, struct tier_facts *ret)
{
	struct connection *reader = terrace__reader_take(tier);
	int rc;

	if (!reader)
		return TERRACE_EIO;
	rc = describe_with(tier, reader, key, ret);
	terrace__reader_give(tier, reader);
	return rc;
}

/* --- many rows ---------------------------------------------------------------- */

/* The ids of a cache's rows lie between these two, both excluded. */
static uint64_t first_id(uint32_t cache)
{
	return (uint64_t)cache << DISK_ID_SHIFT;
}

static uint64_t end_id(uint32_t cache)
{
	return (uint64_t)(cache + 1) << DISK_ID_SHIFT;
}

/* Ids, both excluded. */
struct range {
	uint64_t from, until;
};

/* Of what is asked for: all of the cache, or what is behind the row of the last batch. */
static struct range range_of(const struct disk_where *where)
{
	struct range range = { first_id(where->cache), end_id(where->cache) };

	if (where->after_id && where->newest_first)
		range.until = where->after_id;
	else if (where->after_id)
		range.from = where->after_id;
	return range;
}

/* The statement that finds what a match means, by index where there is one. */
static sqlite3_stmt *matching(struct connection *connection, const struct disk_where *where,
                              struct range range)
{
	const terrace_match *match = where->match;
	bool back = where->newest_first;
	sqlite3_stmt *select;

	if (match->kind == TERRACE_MATCH_TAG || match->kind == TERRACE_MATCH_SOURCE) {
		char kind = match->kind == TERRACE_MATCH_TAG ? LINK_TAG : LINK_SOURCE;

		select = terrace__statement(connection, back ? DO_LINKED_BACK : DO_LINKED);
		if (select) {
			uint64_t name = terrace__link_name(where->cache, kind, match->text);

			sqlite3_bind_int64(select, 1, (sqlite3_int64)name);
			sqlite3_bind_int64(select, 2,
			                   (sqlite3_int64)(back ? range.until : range.from));
		}
		return select;
	}
	select = terrace__statement(connection, back ? DO_MATCHING_BACK : DO_MATCHING);
	if (select) {
		sqlite3_bind_int64(select, 1, (sqlite3_int64)range.from);
		sqlite3_bind_int64(select, 2, (sqlite3_int64)range.until);
	}
	return select;
}

static sqlite3_stmt *prepare_select(struct connection *connection, const struct disk_where *where,
                                    struct range range)
{
	sqlite3_stmt *select = NULL;

	switch (where->kind) {
	case DISK_MATCHING:
		return matching(connection, where, range);
	case DISK_EXPIRED:
		select = terrace__statement(connection, DO_EXPIRED);
		if (select)
			sqlite3_bind_int64(select, 1, (sqlite3_int64)where->until);
		break;
	case DISK_CLEARED:
		select = terrace__statement(connection, DO_CLEARED);
		if (select) {
			sqlite3_bind_int64(select, 1, (sqlite3_int64)range.from);
			sqlite3_bind_int64(select, 2, (sqlite3_int64)range.until);
			sqlite3_bind_int64(select, 3, (sqlite3_int64)where->until);
		}
		break;
	}
	return select;
}

int terrace__rows_in_a_circle(struct disk *disk, struct connection *connection)
{
	terrace__message_set("l2's rows are not in their order: the database is damaged");
	terrace__suspect(disk, connection->db, SQLITE_CORRUPT);
	return TERRACE_ECORRUPT;
}

/* Who visits the rows of a selection, until it has enough. */
struct visit {
	tier_visit_fn *fn;
	void *ctx;
	uint64_t named, passed; /* rows up to that id have names; how many have none */
	bool enough;
};

static int select_range(struct disk *disk, struct connection *connection,
                        const struct disk_where *where, struct range range, struct visit *visit)
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *select = prepare_select(connection, where, range);
	uint64_t last = where->newest_first ? range.until : range.from;
	int rc;

	if (!select)
		return terrace__sqlite_failed(disk, connection->db, "prepare a selection");
	while ((rc = sqlite3_step(select)) == SQLITE_ROW) {
		struct tier_row row;
		bool whole = terrace__row_read(select, &row);

		if (where->kind == DISK_MATCHING &&
		    (where->newest_first ? row.id >= last : row.id <= last))
			return terrace__rows_in_a_circle(disk, connection);
		last = row.id;
		visit->passed += row.id > visit->named;
		if (where->kind == DISK_MATCHING && row.id >> DISK_ID_SHIFT != where->cache)
			continue;
		/* What cannot be read matches "all", and is visited without a key. */
		if (where->match && where->match->kind != TERRACE_MATCH_ALL &&
		    (!whole || !terrace__match_fits(where->match, row.key, row.extra)))
			continue;
		visit->enough = !visit->fn(visit->ctx, &row);
		if (visit->enough)
			return TERRACE_OK;
	}
	if (rc != SQLITE_DONE)
		return terrace__sqlite_failed(disk, connection->db, "select rows");
	return TERRACE_OK;
}

static uint64_t id_at(const struct disk_names *names, size_t i)
{
	uint64_t id;

	memcpy(&id, names->ids.data + i * sizeof id, sizeof id);
	return id;
}

/* How many are not above it. */
static size_t names_up_to(const struct disk_names *names, uint64_t id)
{
	size_t low = 0, high = names->ids.size / sizeof id;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (id_at(names, middle) <= id)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Of the rows with names those within the range that are known to match. */
static int select_named(struct disk *disk, struct connection *connection,
                        const struct disk_where *where, struct range range, struct visit *visit)
{
	size_t first = names_up_to(where->names, range.from);
	size_t count = names_up_to(where->names, range.until - 1) - first;
	int rc = TERRACE_OK;

	for (size_t i = 0; i < count && rc == TERRACE_OK && !visit->enough; i++) {
		size_t at = first + (where->newest_first ? count - 1 - i : i);
		uint64_t id = id_at(where->names, at);

		rc = select_range(disk, connection, where, (struct range){ id - 1, id + 1 }, visit);
	}
	return rc;
}

static int select_with(struct disk *disk, struct connection *connection,
                       const struct disk_where *where, tier_visit_fn *fn, void *ctx)
{
	struct range range = range_of(where), rest = range;
	struct disk_names *names = where->names;
	struct visit visit = { .fn = fn, .ctx = ctx, .named = names ? names->upto : 0 };
	/* Those of another database say nothing of this one. */
	bool named = names && names->known && names->generation == connection->generation;
	int rc = TERRACE_OK;

	if (named)
		rest.from = max_u64(rest.from, names->upto);
	if (named && !where->newest_first && range.from < rest.from)
		rc = select_named(disk, connection, where, range, &visit);
	if (rc == TERRACE_OK && !visit.enough && rest.from < rest.until)
		rc = select_range(disk, connection, where, rest, &visit);
	if (names)
		names->passed += visit.passed;
	if (rc == TERRACE_OK && !visit.enough && named && where->newest_first &&
	    range.from < rest.from)
		rc = select_named(disk, connection, where, range, &visit);
	return rc;
}

int terrace__disk_select(void *tier, const struct disk_where *where, tier_visit_fn *visit,
                         void *ctx)
{
	struct disk *disk = tier;
	struct connection *reader = terrace__reader_take(disk);
	int rc;

	if (!reader)
		return TERRACE_EIO;
	rc = select_with(disk, reader, where, visit, ctx);
	terrace__reader_give(disk, reader);
	return rc;
}

int terrace__disk_each(void *tier, uint32_t cache, const terrace_match *match, tier_visit_fn *visit,
                       void *ctx)
{
	struct disk_where where = { .kind = DISK_MATCHING, .cache = cache, .match = match };

	return terrace__disk_select(tier, &where, visit, ctx);
}

/* --- small questions ------------------------------------------------------------ */

static int usage_with(struct disk *disk, struct connection *connection, uint32_t cache,
                      struct tier_usage ret[2])
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *usage = terrace__statement(connection,
	                                         cache == DISK_ANY_CACHE ? DO_USAGE_ALL : DO_USAGE);
	int rc;

	if (usage && cache != DISK_ANY_CACHE)
		sqlite3_bind_int64(usage, 1, cache);
	rc = usage ? sqlite3_step(usage) : SQLITE_ERROR;
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		return terrace__sqlite_failed(disk, connection->db, "read the usage");
	for (int i = 0; i < 2; i++) {
		ret[i].bytes = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(usage, 2 * i) : 0;
		ret[i].entries = rc == SQLITE_ROW ?
		                     (uint64_t)sqlite3_column_int64(usage, 2 * i + 1) :
		                     0;
	}
	return TERRACE_OK;
}

/* What the transaction has changed and not written down yet. */
static void add_changes(const struct disk *disk, uint32_t cache, struct tier_usage ret[2])
{
	for (size_t c = 0; c < disk->change_count; c++) {
		const struct usage_change *change = &disk->changes[c];

		if (cache != DISK_ANY_CACHE && cache != change->cache)
			continue;
		for (int i = 0; i < 2; i++) {
			ret[i].bytes += (uint64_t)change->bytes[i];
			ret[i].entries += (uint64_t)change->entries[i];
		}
	}
}

int terrace__disk_usage(void *tier, uint32_t cache, terrace_tier which, struct tier_usage *ret)
{
	struct disk *disk = tier;
	struct connection *connection = terrace__reader_take(disk);
	struct tier_usage both[2];
	int rc;

	if (!connection)
		return TERRACE_EIO;
	rc = usage_with(disk, connection, cache, both);
	terrace__reader_give(disk, connection);
	if (rc == TERRACE_OK && is_inside(disk))
		add_changes(disk, cache, both);
	if (rc == TERRACE_OK)
		*ret = both[which == TERRACE_L3];
	return rc;
}

static int note_get_with(struct disk *disk, struct connection *connection, uint64_t hash,
                         struct tier_note *ret, char *detail, size_t detail_size)
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *note = terrace__statement(connection, DO_NOTE_GET);
	const char *text;
	int rc;

	if (note)
		sqlite3_bind_int64(note, 1, (sqlite3_int64)hash);
	rc = note ? sqlite3_step(note) : SQLITE_ERROR;
	if (rc == SQLITE_DONE)
		return TERRACE_MISS;
	if (rc != SQLITE_ROW)
		return terrace__sqlite_failed(disk, connection->db, "read a note");
	ret->when = sqlite3_column_int64(note, 0);
	ret->reason = (terrace_reason)sqlite3_column_int64(note, 1);
	text = (const char *)sqlite3_column_text(note, 2);
	snprintf(detail, detail_size, "%s", text ? text : "");
	ret->detail = detail;
	return TERRACE_OK;
}

int terrace__disk_note_get(void *tier, uint64_t hash, struct tier_note *ret, char *detail,
                           size_t detail_size)
{
	struct connection *reader = terrace__reader_take(tier);
	int rc;

	if (!reader)
		return TERRACE_EIO;
	rc = note_get_with(tier, reader, hash, ret, detail, detail_size);
	terrace__reader_give(tier, reader);
	return rc;
}

int terrace__disk_caches(void *tier, disk_visit_cache_fn *visit, void *ctx)
{
	struct disk *disk = tier;
	struct connection *reader = terrace__reader_take(disk);
	sqlite3_stmt *caches;
	int rc;

	if (!reader)
		return TERRACE_EIO;
	caches = terrace__statement(reader, DO_CACHES);
	while ((rc = caches ? sqlite3_step(caches) : SQLITE_ERROR) == SQLITE_ROW) {
		const char *name = (const char *)sqlite3_column_text(caches, 1);

		if (!name) { /* it is never NULL: there was no memory */
			rc = SQLITE_NOMEM;
			break;
		}
		if (!visit(ctx, (uint32_t)sqlite3_column_int64(caches, 0), name,
		           (uint64_t)sqlite3_column_int64(caches, 2),
		           sqlite3_column_int64(caches, 3) != 0)) {
			rc = SQLITE_DONE;
			break;
		}
	}
	rc = rc == SQLITE_DONE ? TERRACE_OK :
	                         terrace__sqlite_failed(disk, reader->db, "list the caches");
	terrace__statement_done(&caches);
	terrace__reader_give(disk, reader);
	return rc;
}

int terrace__disk_state(void *tier, uint64_t *ret_seq, uint64_t *ret_seed)
{
	struct disk *disk = tier;
	struct connection *reader = terrace__reader_take(disk);
	sqlite3_stmt *state;
	int rc = TERRACE_OK;

	if (!reader)
		return TERRACE_EIO;
	state = terrace__statement(reader, DO_STATE);
	if (state && sqlite3_step(state) == SQLITE_ROW) {
		*ret_seq = (uint64_t)sqlite3_column_int64(state, 0);
		*ret_seed = (uint64_t)sqlite3_column_int64(state, 1);
	} else {
		rc = terrace__sqlite_failed(disk, reader->db, "read the state");
	}
	terrace__statement_done(&state);
	terrace__reader_give(disk, reader);
	return rc;
}
