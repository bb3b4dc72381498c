/*
 * An index of keys, for who looks for those with a prefix. No put changes it: rows get
 * their names in order of their ids, some after each look that had to pass by many
 * without one. So who never looks pays nothing, and who looks again and again pays
 * for each row once (the idea of database cracking: Idreos, Kersten and Manegold, 2007).
 *
 * Every row of a cache with an id up to named.upto has its name: a row keeps id and key
 * while it lives and loses the name with its life, and no new one gets an id up to there.
 */
#include "tiers/sqlite/connection.h"

#include "tiers/record.h"
#include "util/message.h"
#include "util/util.h"

#include <stdlib.h>

/* What of a key its name holds; and a few more, so that there is one behind all names. */
enum { NAME_BYTES = 255 };
/* Of rows with names so many times as few have to match: finding a row takes longer than passing by. */
enum { FEW = 8 };

static terrace_slice cut(terrace_slice text)
{
	return terrace_bytes(text.data, min_u64(text.size, NAME_BYTES));
}

/* What every key that matches begins with. */
static terrace_slice prefix_of(const terrace_match *match)
{
	const char *text = match->text.data;
	size_t size = 0;

	if (match->kind == TERRACE_MATCH_PREFIX)
		return cut(match->text);
	while (match->kind == TERRACE_MATCH_GLOB && size < match->text.size &&
	       !strchr("*?[\\", text[size]))
		size++;
	return cut(terrace_bytes(text, size));
}

/* The first text behind all that begin with it. */
static terrace_slice behind(terrace_slice prefix, uint8_t room[NAME_BYTES + 1])
{
	size_t size = prefix.size;

	memcpy(room, prefix.data, size);
	while (size > 0 && room[size - 1] == UINT8_MAX)
		size--;
	if (size == 0) {
		memset(room, UINT8_MAX, NAME_BYTES + 1);
		return terrace_bytes(room, NAME_BYTES + 1);
	}
	room[size - 1]++;
	return terrace_bytes(room, size);
}

static int upto_of(struct disk *disk, struct connection *connection, uint32_t cache, uint64_t *ret)
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *named = terrace__statement(connection, DO_NAMED);
	int rc;

	if (named)
		sqlite3_bind_int64(named, 1, cache);
	rc = named ? sqlite3_step(named) : SQLITE_ERROR;
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		return terrace__sqlite_failed(disk, connection->db, "ask which rows have names");
	*ret = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(named, 0) :
	                          (uint64_t)cache << DISK_ID_SHIFT;
	return TERRACE_OK;
}

/* --- reading ------------------------------------------------------------------------ */

static int by_number(const void *a, const void *b)
{
	uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;

	return (one > other) - (one < other);
}

/* False where it is no help. */
static bool read_names(struct disk *disk, struct connection *connection, uint32_t cache,
                       terrace_slice prefix, struct disk_names *ret)
{
	CLEANUP(terrace__statement_done) sqlite3_stmt *names = NULL;
	uint8_t room[NAME_BYTES + 1];
	terrace_slice until = behind(prefix, room);
	uint64_t upto, most;
	int rc;

	/* First, so that what is named meanwhile is found twice and not never. */
	if (upto_of(disk, connection, cache, &upto) != TERRACE_OK)
		return false;
	ret->upto = upto;
	most = (upto - ((uint64_t)cache << DISK_ID_SHIFT)) / FEW;
	names = terrace__statement(connection, DO_NAMES);
	if (!names || most == 0)
		return false;
	sqlite3_bind_int64(names, 1, cache);
	sqlite3_bind_blob64(names, 2, prefix.data, prefix.size, SQLITE_STATIC);
	sqlite3_bind_blob64(names, 3, until.data, until.size, SQLITE_STATIC);
	while ((rc = sqlite3_step(names)) == SQLITE_ROW) {
		uint64_t id = (uint64_t)sqlite3_column_int64(names, 0);

		if (id <= upto)
			terrace__buf_append(&ret->ids, &id, sizeof id);
		if (ret->ids.failed || ret->ids.size / sizeof id > most)
			return false;
	}
	if (rc != SQLITE_DONE)
		terrace__sqlite_failed(disk, connection->db, "read the names of rows");
	ret->generation = connection->generation;
	return rc == SQLITE_DONE;
}

void terrace__disk_names(void *tier, uint32_t cache, const terrace_match *match,
                         struct disk_names *ret)
{
	terrace_slice prefix = prefix_of(match);
	struct connection *reader;

	*ret = (struct disk_names){ 0 };
	ret->wanted = prefix.size > 0;
	reader = ret->wanted ? terrace__reader_take(tier) : NULL;
	if (!reader)
		return;
	ret->known = read_names(tier, reader, cache, prefix, ret);
	if (!ret->known)
		terrace__buf_done(&ret->ids);
	if (ret->ids.size)
		qsort(ret->ids.data, ret->ids.size / sizeof(uint64_t), sizeof(uint64_t), by_number);
	terrace__reader_give(tier, reader);
}

int terrace__name_leads(struct disk *disk, struct connection *connection,
                        const struct tier_row *row, bool *ret)
{
	CLEANUP(terrace__statement_done) sqlite3_stmt *name = NULL;
	terrace_slice text = cut(row->key);
	uint64_t upto;
	int rc = upto_of(disk, connection, row->cache, &upto), step = SQLITE_ERROR;

	*ret = rc == TERRACE_OK && row->id > upto;
	if (rc != TERRACE_OK || *ret)
		return rc;
	name = terrace__statement(connection, DO_IS_NAMED);
	if (name) {
		sqlite3_bind_int64(name, 1, row->cache);
		sqlite3_bind_blob64(name, 2, text.data, text.size, SQLITE_STATIC);
		sqlite3_bind_int64(name, 3, (sqlite3_int64)row->id);
		step = sqlite3_step(name);
	}
	*ret = step == SQLITE_ROW;
	return step == SQLITE_ROW || step == SQLITE_DONE ?
	           TERRACE_OK :
	           terrace__sqlite_failed(disk, connection->db, "look for the name of a row");
}

/* --- writing ------------------------------------------------------------------------- */

int terrace__named_upto(struct disk *disk, uint32_t cache, uint64_t *ret)
{
	int rc = TERRACE_OK;

	if (disk->named_cache != cache)
		rc = upto_of(disk, disk->writer, cache, &disk->named_upto);
	disk->named_cache = rc == TERRACE_OK ? cache : DISK_ANY_CACHE;
	*ret = disk->named_upto;
	return rc;
}

static int change_name(struct disk *disk, enum statement which, uint32_t cache, terrace_slice key,
                       uint64_t id)
{
	sqlite3_stmt *change = terrace__statement(disk->writer, which);
	terrace_slice name = cut(key);

	if (!change)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare a name");
	sqlite3_bind_int64(change, 1, cache);
	sqlite3_bind_blob64(change, 2, name.data, name.size, SQLITE_STATIC);
	sqlite3_bind_int64(change, 3, (sqlite3_int64)id);
	return terrace__run(disk, disk->writer, change, "name a row");
}

int terrace__name_remove(struct disk *disk, uint32_t cache, terrace_slice key, uint64_t id)
{
	uint64_t upto;
	int rc = terrace__named_upto(disk, cache, &upto);

	if (rc != TERRACE_OK || id > upto)
		return rc;
	return change_name(disk, DO_NAME_REMOVE, cache, key, id);
}

static int set_upto(struct disk *disk, uint32_t cache, uint64_t upto)
{
	sqlite3_stmt *set = terrace__statement(disk->writer, DO_NAMED_SET);

	if (!set)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare a name");
	sqlite3_bind_int64(set, 1, cache);
	sqlite3_bind_int64(set, 2, (sqlite3_int64)upto);
	disk->named_cache = DISK_ANY_CACHE;
	return terrace__run(disk, disk->writer, set, "say which rows have names");
}

int terrace__disk_names_add(void *tier, uint32_t cache, size_t most, size_t *ret_count)
{
	CLEANUP(terrace__statement_done) sqlite3_stmt *rows = NULL;
	struct disk *disk = tier;
	uint64_t upto;
	int rc = terrace__named_upto(disk, cache, &upto), step = SQLITE_ROW;

	*ret_count = 0;
	if (rc != TERRACE_OK)
		return rc;
	rows = terrace__statement(disk->writer, DO_MATCHING);
	if (!rows)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare a selection");
	sqlite3_bind_int64(rows, 1, (sqlite3_int64)upto);
	sqlite3_bind_int64(rows, 2, (sqlite3_int64)((uint64_t)(cache + 1) << DISK_ID_SHIFT));
	while (rc == TERRACE_OK && *ret_count < most && (step = sqlite3_step(rows)) == SQLITE_ROW) {
		struct tier_row row;

		/* A newer program may be able to read it. */
		if (!terrace__row_read(rows, &row))
			break;
		if (row.id <= upto)
			return terrace__rows_in_a_circle(disk, disk->writer);
		rc = change_name(disk, DO_NAME_ADD, cache, row.key, row.id);
		upto = row.id;
		++*ret_count;
	}
	if (rc == TERRACE_OK && step != SQLITE_ROW && step != SQLITE_DONE)
		rc = terrace__sqlite_failed(disk, disk->writer->db, "read rows to name");
	return rc == TERRACE_OK && *ret_count > 0 ? set_upto(disk, cache, upto) : rc;
}
