/*
 * A row that is put again. To find it and to update it are two statements, each of which goes
 * down the tree of rows; here they are one: a function in the update's condition looks at
 * the row that is there, says whether nothing but its columns has to change, and keeps what
 * the books need to know of it.
 */
#include "tiers/sqlite/connection.h"

#include "util/util.h"

/* The function's columns, in the order of its arguments. */
enum { ID, CACHE, BYTES, FILE_NUMBER, EXPIRES, HEAD, ARGUMENTS };

/*
 * As it is: of that key, in its cache's range of ids, without tags, sources and a file; and
 * without a time at which it expires, where the new one has none.
 */
static bool is_plain(const struct tier_put *put, sqlite3_value **row)
{
	const void *bytes = sqlite3_value_blob(row[HEAD]); /* before its size: so SQLite wants it */
	terrace_slice head = terrace_bytes(bytes,
	                                   bytes ? (size_t)sqlite3_value_bytes(row[HEAD]) : 0);
	uint32_t cache = put->key.cache;
	struct record record;

	return sqlite3_value_int64(row[CACHE]) == cache &&
	       sqlite3_value_int64(row[ID]) >> DISK_ID_SHIFT == cache &&
	       sqlite3_value_int64(row[FILE_NUMBER]) == 0 &&
	       (put->record->expires != INT64_MAX ||
	        sqlite3_value_type(row[EXPIRES]) == SQLITE_NULL) &&
	       terrace__record_read(head, &record) == TERRACE_OK && record.extra.size == 0 &&
	       record.cache == cache && record.key.size == put->key.key.size &&
	       memcmp(record.key.data, put->key.key.data, record.key.size) == 0;
}

static void renews(sqlite3_context *context, int count, sqlite3_value **row)
{
	struct disk *disk = sqlite3_user_data(context);
	struct renewal *renewal = &disk->renewal;

	(void)count;
	if (renewal->found) { /* the index has a hash twice */
		sqlite3_result_error_code(context, SQLITE_CORRUPT);
		return;
	}
	renewal->found = true;
	renewal->id = (uint64_t)sqlite3_value_int64(row[ID]);
	renewal->bytes = (uint64_t)sqlite3_value_int64(row[BYTES]);
	sqlite3_result_int(context, is_plain(renewal->put, row));
}

int terrace__renew_prepare(struct disk *disk, sqlite3 *db)
{
	if (sqlite3_create_function_v2(db, "renews", ARGUMENTS, SQLITE_UTF8 | SQLITE_DIRECTONLY,
	                               disk, renews, NULL, NULL, NULL) == SQLITE_OK)
		return TERRACE_OK;
	return terrace__sqlite_failed(disk, db, "prepare for writing");
}
