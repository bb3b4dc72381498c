/* Writing the catalogue: one thread of one process at a time. */
#include "tiers/sqlite/connection.h"

#include "tiers/extra.h"
#include "util/message.h"
#include "util/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* A row's share of pages and indexes, beside head and payload. */
enum { ROW_OVERHEAD = 100 };

/* --- transactions ------------------------------------------------------------- */

static int on_wal(void *ctx, sqlite3 *db, const char *name, int pages)
{
	struct disk *disk = ctx;

	(void)db;
	(void)name;
	disk->wal_pages = disk->all_pages = pages;
	return SQLITE_OK;
}

static int writer_open(struct disk *disk)
{
	uint32_t generation = disk->making ? disk->making : disk_generation(disk);
	char pragmas[160];
	int rc, chunk = PAGE_BYTES; /* for reserve() */

	if (disk->writer && disk->writer->generation == generation)
		return TERRACE_OK;
	if (disk->writer) /* another process has set that one aside */
		atomic_store(&disk->verdicts, 0);
	terrace__connection_close(disk->writer);
	disk->writer = NULL;
	disk->wal_pages = disk->all_pages = 0;
	rc = terrace__connection_open(disk, generation, SQLITE_OPEN_READWRITE, &disk->writer);
	if (rc != TERRACE_OK)
		return rc;
	if (sqlite3_db_readonly(disk->writer->db, "main") == 1) {
		terrace__message_set("l2 cannot open %s for writing", disk->path);
		terrace__connection_close(disk->writer);
		disk->writer = NULL;
		return TERRACE_EACCESS;
	}
	terrace__snapshot_write(disk->writer);
	/* NORMAL: no fsync for a commit; a power cut may take the last ones back. */
	snprintf(pragmas, sizeof pragmas,
	         "PRAGMA synchronous = NORMAL; PRAGMA secure_delete = OFF;"
	         "PRAGMA journal_size_limit = %d",
	         disk->log_pages * PAGE_BYTES);
	sqlite3_exec(disk->writer->db, pragmas, NULL, NULL, NULL);
	sqlite3_wal_hook(disk->writer->db, on_wal, disk);
	sqlite3_file_control(disk->writer->db, "main", SQLITE_FCNTL_CHUNK_SIZE, &chunk);
	/* Now, because there may be no memory for it when it is needed. */
	terrace__statement(disk->writer, DO_ROLLBACK);
	return TERRACE_OK;
}

static int simple(struct disk *disk, enum statement which, const char *what)
{
	return terrace__run(disk, disk->writer, terrace__statement(disk->writer, which), what);
}

void terrace__disk_loosen(void *tier, bool loose)
{
	((struct disk *)tier)->loose = loose;
}

/* Before a transaction, in which SQLite does not let it be changed. */
static int writer_settle(struct disk *disk, bool loose)
{
	struct connection *writer = disk->writer;

	if (writer->loose == loose)
		return TERRACE_OK;
	if (sqlite3_exec(writer->db,
	                 loose ? "PRAGMA synchronous = OFF" : "PRAGMA synchronous = NORMAL", NULL,
	                 NULL, NULL) != SQLITE_OK)
		return terrace__sqlite_failed(disk, writer->db, "say what is to be synced");
	writer->loose = loose;
	return TERRACE_OK;
}

static int begin(struct disk *disk)
{
	int rc = TERRACE_OK;

	if (!disk->making && terrace__disk_moved(disk)) {
		terrace__message_set("l2 cannot write: the database's files in %s were removed "
		                     "or replaced",
		                     disk->path);
		return TERRACE_ECORRUPT;
	}
	for (int tries = 0; tries < 2; tries++) {
		rc = writer_open(disk);
		if (rc == TERRACE_OK)
			rc = writer_settle(disk, disk->loose);
		if (rc == TERRACE_OK)
			rc = simple(disk, DO_BEGIN, "begin a transaction");
		if (rc != TERRACE_EACCESS)
			break;
		terrace__connections_renew(disk);
	}
	return rc;
}

int terrace__disk_begin(void *tier, uint64_t seq)
{
	struct disk *disk = tier;
	int rc;

	terrace__sqlite_enter(); /* until it ends */
	rc = begin(disk);
	if (rc != TERRACE_OK)
		terrace__sqlite_leave();
	atomic_store(&disk->inside, rc == TERRACE_OK ? (uintptr_t)&terrace__thread : 0);
	disk->change_count = 0;
	disk->doomed_count = 0;
	disk->last_id = 0;
	disk->named_cache = DISK_ANY_CACHE;
	disk->seq = seq;
	return rc;
}

void terrace__disk_rollback(void *tier)
{
	struct disk *disk = tier;

	/* SQLite may have done so itself, after a full disk for one. */
	if (is_inside(disk) && !sqlite3_get_autocommit(disk->writer->db) &&
	    simple(disk, DO_ROLLBACK, "roll back") != TERRACE_OK) {
		/* Left open, it would hold the database for ever; closing it drops it. */
		terrace__connection_close(disk->writer);
		disk->writer = NULL;
	}
	if (is_inside(disk))
		terrace__sqlite_leave();
	atomic_store(&disk->inside, 0);
	disk->doomed_count = 0;
}

void terrace__disk_rest(void *tier)
{
	(void)tier;
	terrace__sqlite_leave();
}

int terrace__disk_resume(void *tier)
{
	const struct disk *disk = tier;

	terrace__sqlite_enter();
	return terrace__transaction_stands(disk) ? TERRACE_OK : TERRACE_EIO;
}

static int usage_write(struct disk *disk)
{
	for (size_t i = 0; i < disk->change_count; i++) {
		const struct usage_change *change = &disk->changes[i];
		sqlite3_stmt *add = terrace__statement(disk->writer, DO_USAGE_ADD);
		int rc;

		if (!add)
			return terrace__sqlite_failed(disk, disk->writer->db, "prepare the usage");
		sqlite3_bind_int64(add, 1, change->cache);
		sqlite3_bind_int64(add, 2, change->bytes[0]);
		sqlite3_bind_int64(add, 3, change->entries[0]);
		sqlite3_bind_int64(add, 4, change->bytes[1]);
		sqlite3_bind_int64(add, 5, change->entries[1]);
		sqlite3_bind_int64(add, 6, (sqlite3_int64)disk->seq);
		rc = terrace__run(disk, disk->writer, add, "write the usage");
		if (rc != TERRACE_OK)
			return rc;
	}
	disk->change_count = 0;
	return TERRACE_OK;
}

static int ask(struct disk *disk, enum statement which, uint64_t *ret);

/*
 * The database's file gets its blocks before the commit: else a disk that fills
 * up finds the log full of pages that cannot be moved, and no way to delete
 * anything. The blocks are written to by SQLite, through its own descriptor.
 */
static int reserve(struct disk *disk)
{
	sqlite3 *db = disk->writer->db;
	uint64_t pages = 0;
	sqlite3_int64 bytes;
	int err = 0, rc = ask(disk, DO_PAGES, &pages);

	if (rc != TERRACE_OK)
		return rc;
	bytes = (sqlite3_int64)(pages * PAGE_BYTES);
	if (sqlite3_file_control(db, "main", SQLITE_FCNTL_SIZE_HINT, &bytes) == SQLITE_OK)
		return TERRACE_OK;
	sqlite3_file_control(db, "main", SQLITE_FCNTL_LAST_ERRNO, &err);
	terrace__message_set("l2 cannot make %s longer: %s", disk->path, strerror(err));
	return err == ENOSPC || err == EDQUOT || err == EFBIG ? TERRACE_EFULL : TERRACE_EIO;
}

int terrace__disk_commit(void *tier, uint64_t *ret_seq)
{
	struct disk *disk = tier;
	uint64_t seq = disk->change_count ? disk->seq : 0;
	int rc = usage_write(disk);

	if (rc == TERRACE_OK)
		rc = reserve(disk);
	if (rc == TERRACE_OK)
		rc = simple(disk, DO_COMMIT, "commit");
	if (rc != TERRACE_OK) {
		terrace__disk_rollback(disk);
		return rc;
	}
	atomic_store(&disk->inside, 0);
	terrace__sqlite_leave();
	for (size_t i = 0; i < disk->doomed_count; i++)
		terrace__files_remove(disk->files, disk->doomed[i]);
	disk->doomed_count = 0;
	*ret_seq = seq;
	return TERRACE_OK;
}

/* Remember that the transaction changes a cache, and by how much its usage. */
static int charge(struct disk *disk, uint32_t cache, bool l3, int64_t bytes, int64_t entries)
{
	struct usage_change *change;
	size_t at = 0;

	while (at < disk->change_count && disk->changes[at].cache != cache)
		at++;
	if (at == disk->change_count) {
		if (disk->change_count == disk->change_capacity) {
			size_t capacity = disk->change_capacity ? 2 * disk->change_capacity : 8;
			void *grown = realloc(disk->changes, capacity * sizeof *change);

			if (!grown)
				return no_memory("a transaction");
			disk->changes = grown;
			disk->change_capacity = capacity;
		}
		disk->changes[disk->change_count++] = (struct usage_change){ .cache = cache };
	}
	change = &disk->changes[at];
	change->bytes[l3] += bytes;
	change->entries[l3] += entries;
	return TERRACE_OK;
}

/* Its row goes with this transaction, so its file goes after it. */
static int doom(struct disk *disk, uint64_t file)
{
	if (disk->doomed_count == disk->doomed_capacity) {
		size_t capacity = disk->doomed_capacity ? 2 * disk->doomed_capacity : 16;
		void *grown = realloc(disk->doomed, capacity * sizeof *disk->doomed);

		if (!grown)
			return no_memory("a transaction");
		disk->doomed = grown;
		disk->doomed_capacity = capacity;
	}
	disk->doomed[disk->doomed_count++] = file;
	return TERRACE_OK;
}

/* --- rows ----------------------------------------------------------------------- */

/* The row that is there, as far as writing needs it. */
struct old_row {
	uint64_t id, hash, seq;
	uint32_t cache;
	uint64_t bytes, file;
	int64_t expires;
	bool has_key; /* the head could be read */
	bool is_key;  /* and is of the key that was asked for */
	bool absent;  /* there is no value */
	struct buf head;
};

static void old_row_done(struct old_row *row)
{
	terrace__buf_done(&row->head);
}

/* FIND or FIND_ID. */
static int find(struct disk *disk, enum statement which, uint64_t value, const struct tier_key *key,
                struct old_row *ret)
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *row = terrace__statement(disk->writer, which);
	struct record record;
	terrace_slice head;
	int rc;

	if (row)
		sqlite3_bind_int64(row, 1, (sqlite3_int64)value);
	rc = row ? sqlite3_step(row) : SQLITE_ERROR;
	if (rc == SQLITE_DONE)
		return TERRACE_MISS;
	if (rc != SQLITE_ROW)
		return terrace__sqlite_failed(disk, disk->writer->db, "find a row");
	ret->id = which == DO_FIND ? (uint64_t)sqlite3_column_int64(row, 0) : value;
	ret->hash = which == DO_FIND ? value : (uint64_t)sqlite3_column_int64(row, 0);
	ret->seq = (uint64_t)sqlite3_column_int64(row, 1);
	ret->bytes = (uint64_t)sqlite3_column_int64(row, 2);
	ret->file = (uint64_t)sqlite3_column_int64(row, 3);
	ret->cache = (uint32_t)sqlite3_column_int64(row, 4);
	ret->expires = sqlite3_column_type(row, 6) == SQLITE_NULL ? INT64_MAX :
	                                                            sqlite3_column_int64(row, 6);
	head = column_slice(row, 5);
	terrace__buf_append(&ret->head, head.data, head.size);
	if (ret->head.failed)
		return no_memory("a row");
	ret->has_key = terrace__record_read(head, &record) == TERRACE_OK;
	ret->is_key = ret->has_key && key && record.cache == key->cache &&
	              record.key.size == key->key.size &&
	              memcmp(record.key.data, key->key.data, key->key.size) == 0;
	ret->absent = ret->has_key && record.flags & RECORD_ABSENT;
	return TERRACE_OK;
}

static int find_key(struct disk *disk, const struct tier_key *key, struct old_row *ret)
{
	return find(disk, DO_FIND, terrace__row_hash(key), key, ret);
}

static int link_one(struct disk *disk, enum statement which, uint64_t name, uint64_t id)
{
	sqlite3_stmt *link = terrace__statement(disk->writer, which);

	if (!link)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare a link");
	sqlite3_bind_int64(link, 1, (sqlite3_int64)name);
	sqlite3_bind_int64(link, 2, (sqlite3_int64)id);
	return terrace__run(disk, disk->writer, link, "link tags and sources");
}

/* LINK or UNLINK the row to its tags and sources. */
static int links(struct disk *disk, enum statement which, uint64_t id, uint32_t cache,
                 terrace_slice extra)
{
	struct extra_walk walk;
	struct source_mark mark;
	terrace_slice tag;
	int rc = TERRACE_OK;

	terrace__extra_start(&walk, extra);
	while (rc == TERRACE_OK && terrace__extra_next_tag(&walk, &tag))
		rc = link_one(disk, which, terrace__link_name(cache, LINK_TAG, tag), id);
	while (rc == TERRACE_OK && terrace__extra_next_source(&walk, &mark))
		rc = link_one(disk, which, terrace__link_name(cache, LINK_SOURCE, mark.path), id);
	return rc;
}

/* Undo what the old row has beside itself: links, file, usage. */
static int detach(struct disk *disk, const struct old_row *old)
{
	struct record record;
	int rc = TERRACE_OK;

	if (old->has_key) {
		terrace__record_read(terrace_bytes(old->head.data, old->head.size), &record);
		rc = links(disk, DO_UNLINK, old->id, old->cache, record.extra);
	}
	if (rc == TERRACE_OK && old->file)
		rc = doom(disk, old->file);
	if (rc == TERRACE_OK)
		rc = charge(disk, old->cache, old->file != 0, -(int64_t)old->bytes, -1);
	return rc;
}

static int delete_old(struct disk *disk, const struct old_row *old)
{
	sqlite3_stmt *delete = terrace__statement(disk->writer, DO_DELETE);
	struct record record;
	int rc;

	if (!delete)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare a delete");
	sqlite3_bind_int64(delete, 1, (sqlite3_int64)old->id);
	rc = terrace__run(disk, disk->writer, delete, "delete a row");
	terrace__place_forget(disk, old->hash);
	if (rc == TERRACE_OK && old->has_key) {
		terrace__record_read(terrace_bytes(old->head.data, old->head.size), &record);
		rc = terrace__name_remove(disk, old->cache, record.key, old->id);
	}
	return rc == TERRACE_OK ? detach(disk, old) : rc;
}

/* The next id of a cache: one behind its last row, and behind all that had a name. */
static int next_id(struct disk *disk, uint32_t cache, uint64_t *ret)
{
	uint64_t upto;
	int rc;

	if (!disk->last_id || disk->last_id_cache != cache) {
		CLEANUP(terrace__statement_done)
		sqlite3_stmt *last = terrace__statement(disk->writer, DO_LAST_ID);

		if (last)
			sqlite3_bind_int64(last, 1,
			                   (sqlite3_int64)((uint64_t)(cache + 1) << DISK_ID_SHIFT));
		if (!last || sqlite3_step(last) != SQLITE_ROW)
			return terrace__sqlite_failed(disk, disk->writer->db, "number a row");
		rc = terrace__named_upto(disk, cache, &upto);
		if (rc != TERRACE_OK)
			return rc;
		disk->last_id = max_u64((uint64_t)sqlite3_column_int64(last, 0), upto);
		disk->last_id_cache = cache;
	}
	*ret = ++disk->last_id;
	return TERRACE_OK;
}

/* INSERT, UPDATE, or RENEW and RENEW_TIMED, of which nobody knows the id yet: 0. */
static int write_row(struct disk *disk, uint64_t id, enum statement which,
                     const struct tier_put *put, terrace_slice head, uint64_t bytes)
{
	const struct record *record = put->record;
	sqlite3_stmt *row = terrace__statement(disk->writer, which);

	if (!row)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare a write");
	if (id)
		sqlite3_bind_int64(row, 1, (sqlite3_int64)id);
	if (which != DO_UPDATE)
		sqlite3_bind_int64(row, 2, (sqlite3_int64)terrace__row_hash(&put->key));
	sqlite3_bind_int64(row, 3, (sqlite3_int64)record->seq);
	if (record->expires == INT64_MAX)
		sqlite3_bind_null(row, 4);
	else
		sqlite3_bind_int64(row, 4, record->expires);
	sqlite3_bind_int64(row, 5, put->worth);
	sqlite3_bind_int64(row, 6, (sqlite3_int64)bytes);
	sqlite3_bind_int64(row, 7, (sqlite3_int64)put->file);
	sqlite3_bind_int64(row, 8, record->stored);
	sqlite3_bind_blob64(row, 9, head.data, head.size, SQLITE_STATIC);
	if (put->file)
		sqlite3_bind_null(row, 10);
	else
		sqlite3_bind_blob64(row, 10, put->payload.size ? put->payload.data : "",
		                    put->payload.size, SQLITE_STATIC);
	if (which == DO_INSERT)
		sqlite3_bind_int64(row, 11, put->key.cache);
	return terrace__run(disk, disk->writer, row, "write a row");
}

/* TERRACE_EXISTS when there is a row of this hash. */
static int insert_row(struct disk *disk, const struct tier_put *put, terrace_slice head,
                      uint64_t bytes, uint64_t *ret_id)
{
	int rc = next_id(disk, put->key.cache, ret_id);

	if (rc == TERRACE_OK)
		rc = write_row(disk, *ret_id, DO_INSERT, put, head, bytes);
	if (rc != TERRACE_OK || sqlite3_changes(disk->writer->db) > 0)
		return rc;
	disk->last_id--;
	return TERRACE_EXISTS;
}

/*
 * In the place of a row that has nothing beside itself. TERRACE_MISS when there is none,
 * TERRACE_EXISTS when there is more to it.
 */
static int renew_row(struct disk *disk, const struct tier_put *put, terrace_slice head,
                     uint64_t bytes, uint64_t *ret_id)
{
	int rc;

	disk->renewal = (struct renewal){ .put = put };
	rc = write_row(disk, 0, put->record->expires == INT64_MAX ? DO_RENEW : DO_RENEW_TIMED, put,
	               head, bytes);
	if (rc != TERRACE_OK)
		return rc;
	if (!disk->renewal.found)
		return TERRACE_MISS;
	if (sqlite3_changes(disk->writer->db) == 0)
		return TERRACE_EXISTS;
	*ret_id = disk->renewal.id;
	return charge(disk, put->key.cache, false, -(int64_t)disk->renewal.bytes, -1);
}

/* In the place of any row that is there; TERRACE_MISS when none is. */
static int replace_row(struct disk *disk, const struct tier_put *put, terrace_slice head,
                       uint64_t bytes, uint64_t *ret_id)
{
	CLEANUP(old_row_done) struct old_row old = { 0 };
	int rc = find_key(disk, &put->key, &old);

	if (rc != TERRACE_OK)
		return rc;
	/* A row keeps its key, and lies in its cache's range of ids. */
	if (!old.is_key || old.cache != put->key.cache ||
	    old.id >> DISK_ID_SHIFT != put->key.cache) {
		if (put->displaced)
			*put->displaced = old.cache;
		rc = delete_old(disk, &old);
		return rc == TERRACE_OK ? insert_row(disk, put, head, bytes, ret_id) : rc;
	}
	*ret_id = old.id;
	rc = detach(disk, &old);
	return rc == TERRACE_OK ? write_row(disk, old.id, DO_UPDATE, put, head, bytes) : rc;
}

static int put_row(struct disk *disk, const struct tier_put *put, terrace_slice head,
                   uint64_t bytes, uint64_t *ret_id)
{
	int rc = TERRACE_EXISTS;

	/* What came last was new, or was not: so will this be. */
	if (disk->expect_new)
		rc = insert_row(disk, put, head, bytes, ret_id);
	if (rc != TERRACE_EXISTS)
		return rc;
	/* What has a file, tags or sources now mostly had some before. */
	if (!put->file && put->record->extra.size == 0)
		rc = renew_row(disk, put, head, bytes, ret_id);
	if (rc == TERRACE_EXISTS)
		rc = replace_row(disk, put, head, bytes, ret_id);
	disk->expect_new = rc == TERRACE_MISS;
	return rc == TERRACE_MISS ? insert_row(disk, put, head, bytes, ret_id) : rc;
}

int terrace__disk_put(void *tier, const struct tier_put *put)
{
	struct disk *disk = tier;
	const struct record *record = put->record;
	CLEANUP(terrace__buf_done) struct buf head = { 0 };
	uint64_t id = 0, bytes;
	int rc;

	terrace__record_write(record, &head);
	if (head.failed)
		return no_memory("a row");
	bytes = head.size + ROW_OVERHEAD;
	bytes += put->file ? terrace__files_charge(head.size + record->payload_size) :
	                     put->payload.size;
	rc = put_row(disk, put, terrace_bytes(head.data, head.size), bytes, &id);
	if (rc == TERRACE_OK)
		rc = links(disk, DO_LINK, id, put->key.cache, record->extra);
	if (rc == TERRACE_OK)
		rc = charge(disk, put->key.cache, put->file != 0, (int64_t)bytes, 1);
	return rc;
}

int terrace__disk_remove(void *tier, const struct tier_key *key, const struct tier_note *note)
{
	struct disk *disk = tier;
	CLEANUP(old_row_done) struct old_row old = { 0 };
	int rc = find_key(disk, key, &old);

	/* Where another process has removed the row, too. */
	terrace__place_forget(disk, key->hash);
	if (rc != TERRACE_OK)
		return rc;
	/* A row whose head is damaged may well be this key's: it goes too. */
	if (old.has_key && !old.is_key)
		return TERRACE_MISS;
	if (note && note->only_seq && note->only_seq != old.seq)
		return TERRACE_MISS;
	rc = delete_old(disk, &old);
	if (rc == TERRACE_OK && note)
		rc = terrace__disk_note_put(disk, old.hash, note);
	return rc;
}

int terrace__disk_peek(void *tier, const struct tier_key *key, struct tier_row *ret)
{
	CLEANUP(old_row_done) struct old_row old = { 0 };
	int rc = find_key(tier, key, &old);

	if (rc != TERRACE_OK)
		return rc;
	if (!old.is_key)
		return TERRACE_MISS;
	*ret = (struct tier_row){
		.id = old.id,
		.hash = old.hash,
		.cache = old.cache,
		.tier = old.file ? TERRACE_L3 : TERRACE_L2,
		.seq = old.seq,
		.charge = old.bytes,
		.expires = old.expires,
		.absent = old.absent,
	};
	return TERRACE_OK;
}

int terrace__disk_remove_row(void *tier, const struct tier_row *row, const struct tier_note *note)
{
	struct disk *disk = tier;
	CLEANUP(old_row_done) struct old_row old = { 0 };
	int rc = find(disk, DO_FIND_ID, row->id, NULL, &old);

	if (rc != TERRACE_OK)
		return rc;
	/* An id behind all others is given again when its row has gone. */
	if ((row->hash && old.hash != row->hash) || (row->seq && old.seq != row->seq))
		return TERRACE_MISS;
	rc = delete_old(disk, &old);
	if (rc == TERRACE_OK && note)
		rc = terrace__disk_note_put(disk, old.hash, note);
	return rc;
}

int terrace__disk_remove_older(void *tier, const struct tier_key *key, uint64_t seq)
{
	struct disk *disk = tier;
	CLEANUP(old_row_done) struct old_row old = { 0 };
	int rc = find_key(disk, key, &old);

	if (rc != TERRACE_OK)
		return rc;
	if (old.has_key && !old.is_key)
		return TERRACE_MISS;
	return old.seq <= seq ? delete_old(disk, &old) : TERRACE_MISS;
}

static void bind_expires(sqlite3_stmt *statement, int at, int64_t expires)
{
	if (expires == INT64_MAX)
		sqlite3_bind_null(statement, at);
	else
		sqlite3_bind_int64(statement, at, expires);
}

int terrace__disk_touch(void *tier, const struct tier_key *key, uint64_t seq, int64_t expires,
                        int64_t ttl, int64_t now)
{
	struct disk *disk = tier;
	CLEANUP(terrace__buf_done) struct buf head = { 0 };
	CLEANUP(old_row_done) struct old_row old = { 0 };
	struct record record;
	sqlite3_stmt *touch;
	int rc = find_key(disk, key, &old);

	if (rc != TERRACE_OK)
		return rc;
	if (!old.is_key)
		return TERRACE_MISS;
	terrace__record_read(terrace_bytes(old.head.data, old.head.size), &record);
	record.seq = seq;
	record.expires = record.deadline = expires;
	record.ttl = ttl;
	if (record.idle)
		record.expires = entry_idle_to_row(
		    record.idle, entry_idle_expires(record.idle, expires, now), expires);
	terrace__record_write(&record, &head);
	touch = terrace__statement(disk->writer, DO_TOUCH);
	if (head.failed)
		return no_memory("a row");
	if (!touch)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare a touch");
	sqlite3_bind_int64(touch, 1, (sqlite3_int64)old.id);
	sqlite3_bind_int64(touch, 2, (sqlite3_int64)seq);
	bind_expires(touch, 3, record.expires);
	sqlite3_bind_blob64(touch, 4, head.data, head.size, SQLITE_STATIC);
	rc = terrace__run(disk, disk->writer, touch, "touch a row");
	return rc == TERRACE_OK ? charge(disk, old.cache, false, 0, 0) : rc;
}

int terrace__disk_used(void *tier, uint64_t hash, int64_t when)
{
	struct disk *disk = tier;
	CLEANUP(terrace__buf_done) struct buf head = { 0 };
	CLEANUP(old_row_done) struct old_row old = { 0 };
	struct record record;
	sqlite3_stmt *used;
	int64_t expires;
	int rc = find(disk, DO_FIND, hash, NULL, &old);

	if (rc != TERRACE_OK)
		return rc;
	if (!old.has_key)
		return TERRACE_MISS;
	terrace__record_read(terrace_bytes(old.head.data, old.head.size), &record);
	if (!record.idle)
		return TERRACE_MISS; /* another one by now */
	expires = entry_idle_to_row(
	    record.idle, entry_idle_expires(record.idle, record.deadline, when), record.deadline);
	if (expires <= record.expires)
		return TERRACE_OK; /* another process was here */
	record.expires = expires;
	terrace__record_write(&record, &head);
	used = terrace__statement(disk->writer, DO_USED);
	if (head.failed)
		return no_memory("a row");
	if (!used)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare a use");
	sqlite3_bind_int64(used, 1, (sqlite3_int64)old.id);
	bind_expires(used, 2, expires);
	sqlite3_bind_blob64(used, 3, head.data, head.size, SQLITE_STATIC);
	return terrace__run(disk, disk->writer, used, "write down a use");
}

int terrace__disk_accessed(void *tier, uint64_t hash, uint64_t count, int64_t when)
{
	struct disk *disk = tier;
	sqlite3_stmt *accessed = terrace__statement(disk->writer, DO_ACCESSED);

	if (!accessed)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare an access");
	sqlite3_bind_int64(accessed, 1, (sqlite3_int64)hash);
	sqlite3_bind_int64(accessed, 2, (sqlite3_int64)count);
	sqlite3_bind_int64(accessed, 3, when);
	terrace__disk_spare(disk, hash);
	return terrace__run(disk, disk->writer, accessed, "count an access");
}

/* --- notes, caches, the log -------------------------------------------------------- */

int terrace__disk_note_put(void *tier, uint64_t hash, const struct tier_note *note)
{
	struct disk *disk = tier;
	sqlite3_stmt *put = terrace__statement(disk->writer, DO_NOTE_PUT), *trim;
	sqlite3_int64 id;
	int rc;

	if (!put)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare a note");
	sqlite3_bind_int64(put, 1, (sqlite3_int64)hash);
	sqlite3_bind_int64(put, 2, note->when);
	sqlite3_bind_int64(put, 3, note->reason);
	sqlite3_bind_text(put, 4, note->detail, -1, SQLITE_STATIC);
	rc = terrace__run(disk, disk->writer, put, "write a note");
	id = sqlite3_last_insert_rowid(disk->writer->db);
	/* Not for every note: a few hundred too many do no harm. */
	if (rc != TERRACE_OK || id <= NOTES_MAX || id % 256)
		return rc;
	trim = terrace__statement(disk->writer, DO_NOTE_TRIM);
	if (!trim)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare a trim");
	sqlite3_bind_int64(trim, 1, id - NOTES_MAX);
	return terrace__run(disk, disk->writer, trim, "trim the notes");
}

int terrace__disk_note_clear(void *tier)
{
	return simple(tier, DO_NOTE_CLEAR, "forget the notes");
}

int terrace__disk_cache_add(void *tier, uint32_t cache, const char *name)
{
	struct disk *disk = tier;
	sqlite3_stmt *add = terrace__statement(disk->writer, DO_CACHE_ADD);

	if (!add)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare a cache");
	sqlite3_bind_int64(add, 1, cache);
	sqlite3_bind_text(add, 2, name, -1, SQLITE_STATIC);
	return terrace__run(disk, disk->writer, add, "add a cache");
}

int terrace__disk_cache_immutable(void *tier, uint32_t cache)
{
	struct disk *disk = tier;
	sqlite3_stmt *add = terrace__statement(disk->writer, DO_CACHE_IMMUTABLE);

	if (!add)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare an immutable cache");
	sqlite3_bind_int64(add, 1, cache);
	return terrace__run(disk, disk->writer, add, "make a cache immutable");
}

int terrace__disk_cache_floor(void *tier, uint32_t cache, uint64_t floor)
{
	struct disk *disk = tier;
	sqlite3_stmt *set = terrace__statement(disk->writer, DO_CACHE_FLOOR);
	int rc;

	if (!set)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare a clear");
	sqlite3_bind_int64(set, 1, cache);
	sqlite3_bind_int64(set, 2, (sqlite3_int64)floor);
	disk->seq = max_u64(disk->seq, floor);
	rc = terrace__run(disk, disk->writer, set, "clear a cache");
	return rc == TERRACE_OK ? charge(disk, cache, false, 0, 0) : rc;
}

int terrace__disk_set_seed(void *tier, uint64_t seed)
{
	struct disk *disk = tier;
	sqlite3_stmt *set = terrace__statement(disk->writer, DO_SET_SEED);

	if (!set)
		return terrace__sqlite_failed(disk, disk->writer->db, "prepare the seed");
	sqlite3_bind_int64(set, 1, (sqlite3_int64)seed);
	return terrace__run(disk, disk->writer, set, "write the seed");
}

/* The number that a pragma gives. */
static int ask(struct disk *disk, enum statement which, uint64_t *ret)
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *row = terrace__statement(disk->writer, which);

	if (!row || sqlite3_step(row) != SQLITE_ROW)
		return terrace__sqlite_failed(disk, disk->writer->db, "ask for its size");
	*ret = (uint64_t)sqlite3_column_int64(row, 0);
	return TERRACE_OK;
}

int terrace__disk_size(void *tier, uint64_t *ret_bytes, uint64_t *ret_free)
{
	struct disk *disk = tier;
	uint64_t pages = 0, free_pages = 0;
	int rc = writer_open(disk);

	if (rc == TERRACE_OK)
		rc = ask(disk, DO_PAGES, &pages);
	if (rc == TERRACE_OK)
		rc = ask(disk, DO_FREE_PAGES, &free_pages);
	/* The log, as long as it may get before it starts anew. */
	*ret_bytes = pages * PAGE_BYTES + (uint64_t)disk->log_pages * (PAGE_BYTES + 24);
	*ret_free = free_pages * PAGE_BYTES;
	return rc;
}

int terrace__disk_give_back(void *tier, uint64_t bytes)
{
	struct disk *disk = tier;
	char pragma[64];

	snprintf(pragma, sizeof pragma, "PRAGMA incremental_vacuum(%llu)",
	         (unsigned long long)(bytes / PAGE_BYTES + 1));
	if (sqlite3_exec(disk->writer->db, pragma, NULL, NULL, NULL) != SQLITE_OK)
		return terrace__sqlite_failed(disk, disk->writer->db, "give pages back");
	return TERRACE_OK;
}

bool terrace__disk_checkpoint_due(void *tier, enum disk_checkpoint when)
{
	const struct disk *disk = tier;
	/* Pages of log that are worth it: at work, on leaving, at once. */
	const int worth[] = { disk->log_pages, disk->log_pages / 32, 0 };

	return disk->writer && disk->writer->generation == disk_generation(disk) &&
	       (when == CHECKPOINT_CLOSING ? disk->all_pages : disk->wal_pages) >= worth[when];
}

/*
 * Readers who overlap, of whom one always has begun before the last commit, keep
 * the log from starting anew for ever. So when it is several times as long as it
 * may be, wait for those who read just now: who comes then reads the database
 * alone. Once for as much as the log may hold, and longer the longer it is.
 */
static bool wait_for_readers(struct disk *disk)
{
	enum { LONG = 4, VERY_LONG = 8, PATIENCE_MS = 5, MUCH_PATIENCE_MS = 50 };
	int much = disk->wal_pages / disk->log_pages, rc;

	if (disk->wal_pages < disk->waited_at)
		disk->waited_at = 0; /* it has begun anew */
	if (much < LONG || disk->wal_pages - disk->waited_at < disk->log_pages)
		return false;
	disk->waited_at = disk->wal_pages;
	sqlite3_busy_timeout(disk->writer->db, much < VERY_LONG ? PATIENCE_MS : MUCH_PATIENCE_MS);
	rc = sqlite3_wal_checkpoint_v2(disk->writer->db, NULL, SQLITE_CHECKPOINT_RESTART, NULL,
	                               NULL);
	sqlite3_busy_timeout(disk->writer->db, BUSY_MS);
	return rc == SQLITE_OK;
}

bool terrace__disk_checkpoint(void *tier, enum disk_checkpoint when)
{
	struct disk *disk = tier;
	int in_log = 0, moved = 0;
	bool done = false;

	terrace__sqlite_enter();
	/* PASSIVE waits for nobody; with all of it moved the next writer starts the log anew. */
	if (writer_settle(disk, disk->loose) == TERRACE_OK &&
	    sqlite3_wal_checkpoint_v2(disk->writer->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &in_log,
	                              &moved) == SQLITE_OK &&
	    moved == in_log) {
		done = in_log > 0;
		disk->wal_pages = 0;
	} else if (when == CHECKPOINT_WORKING && wait_for_readers(disk)) {
		done = true;
		disk->wal_pages = 0;
	}
	/*
	 * A writer that comes when nobody else is there does not know what was
	 * moved: it reads all of the log, and goes on at its end.
	 */
	if (when == CHECKPOINT_CLOSING && disk->wal_pages == 0) {
		sqlite3_busy_timeout(disk->writer->db, 0);
		if (sqlite3_wal_checkpoint_v2(disk->writer->db, NULL, SQLITE_CHECKPOINT_TRUNCATE,
		                              NULL, NULL) == SQLITE_OK)
			disk->all_pages = 0;
	}
	terrace__sqlite_leave();
	return done;
}

/* What was written while nothing was synced; through SQLite's own descriptors. */
static int sync_files(struct disk *disk)
{
	static const int files[] = { SQLITE_FCNTL_JOURNAL_POINTER, SQLITE_FCNTL_FILE_POINTER };

	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		sqlite3_file *file = NULL;

		sqlite3_file_control(disk->writer->db, "main", files[i], (void *)&file);
		if (!file || !file->pMethods ||
		    file->pMethods->xSync(file, SQLITE_SYNC_NORMAL) == SQLITE_OK)
			continue;
		terrace__message_set("l2 cannot sync the database in %s: %s", disk->path,
		                     strerror(errno));
		return TERRACE_EIO;
	}
	return TERRACE_OK;
}

int terrace__disk_sync(void *tier)
{
	struct disk *disk = tier;
	int in_log = 0, moved = 0, rc;

	terrace__sqlite_enter();
	rc = writer_open(disk);
	if (rc == TERRACE_OK)
		rc = writer_settle(disk, false);
	/* It syncs the log before it moves anything, and the database when all is moved. */
	if (rc == TERRACE_OK &&
	    sqlite3_wal_checkpoint_v2(disk->writer->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &in_log,
	                              &moved) != SQLITE_OK)
		rc = terrace__sqlite_failed(disk, disk->writer->db, "sync");
	else if (rc == TERRACE_OK && moved != in_log)
		rc = TERRACE_EBUSY;
	else if (rc == TERRACE_OK)
		rc = sync_files(disk);
	terrace__sqlite_leave();
	if (rc != TERRACE_OK)
		return rc;
	disk->wal_pages = 0;
	/* Which databases there are is news as well. */
	if (fsync(disk->dir_fd) == 0)
		return TERRACE_OK;
	terrace__message_set("l2 cannot sync %s: %s", disk->path, strerror(errno));
	return TERRACE_EIO;
}
