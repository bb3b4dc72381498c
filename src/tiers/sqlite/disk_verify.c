/* Check everything that lies on disk, beside readers and writers. */
#include "tiers/sqlite/connection.h"

#include "codec/codec.h"
#include "tiers/extra.h"
#include "util/message.h"
#include "util/util.h"

#include <stdio.h>
#include <stdlib.h>

struct verify {
	struct disk *disk;
	struct connection *connection;
	const _Atomic uint32_t *open; /* see tier.h */
	bool (*fault)(void *ctx, const struct disk_fault *fault);
	void *ctx;
	bool go_on;
	uint64_t entries, bytes;
	uint64_t most_bytes; /* of one batch of rows */
	bool scrub;          /* the files are not listed */
	uint64_t *files;     /* numbers of the files that rows have */
	size_t file_count, file_capacity;
	int unread; /* the first failure to look at a row, which says nothing about it */
	char why[256];
};

static void report(struct verify *v, terrace_fault_kind kind, const struct tier_row *row,
                   const char *path, const char *detail)
{
	struct disk_fault fault = { .kind = kind, .path = path, .detail = detail };

	if (row)
		fault.row = *row;
	if (v->go_on)
		v->go_on = v->fault(v->ctx, &fault);
}

static int remember_file(struct verify *v, uint64_t file)
{
	if (v->file_count == v->file_capacity) {
		size_t capacity = v->file_capacity ? 2 * v->file_capacity : 256;
		void *grown = realloc(v->files, capacity * sizeof *v->files);

		if (!grown)
			return no_memory("a list of files");
		v->files = grown;
		v->file_capacity = capacity;
	}
	v->files[v->file_count++] = file;
	return TERRACE_OK;
}

static void keep_failure(struct verify *v, int rc, const char *why)
{
	if (v->unread != TERRACE_OK)
		return;
	v->unread = rc;
	snprintf(v->why, sizeof v->why, "%s", why);
}

static bool is_linked(struct verify *v, uint64_t name, uint64_t id)
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *link = terrace__statement(v->connection, DO_IS_LINKED);
	int step = SQLITE_ERROR;

	if (link) {
		sqlite3_bind_int64(link, 1, (sqlite3_int64)name);
		sqlite3_bind_int64(link, 2, (sqlite3_int64)id);
		step = sqlite3_step(link);
	}
	if (step == SQLITE_ROW || step == SQLITE_DONE)
		return step == SQLITE_ROW;
	keep_failure(v, terrace__sqlite_failed(v->disk, v->connection->db, "look for a link"),
	             terrace__message());
	return true;
}

/*
 * Who removes by tag, source or prefix goes by these: a row that they do not lead to would
 * outlive it. SQLite knows nothing of that. What is wrong; NULL when nothing is.
 */
static const char *lead_fault(struct verify *v, const struct tier_row *row, terrace_slice extra)
{
	struct extra_walk walk;
	struct source_mark mark;
	terrace_slice tag;
	bool leads;

	terrace__extra_start(&walk, extra);
	while (terrace__extra_next_tag(&walk, &tag)) {
		if (!is_linked(v, terrace__link_name(row->cache, LINK_TAG, tag), row->id))
			return "it is not found by one of its tags";
	}
	while (terrace__extra_next_source(&walk, &mark)) {
		if (!is_linked(v, terrace__link_name(row->cache, LINK_SOURCE, mark.path), row->id))
			return "it is not found by one of its sources";
	}
	if (terrace__name_leads(v->disk, v->connection, row, &leads) == TERRACE_OK)
		return leads ? NULL : "it is not found by its key's beginning";
	keep_failure(v, TERRACE_EIO, terrace__message());
	return NULL;
}

/* One row of ALL: what is wrong with it, NULL when nothing is. */
static const char *row_fault(struct verify *v, sqlite3_stmt *row, const struct tier_row *seen,
                             terrace_fault_kind *kind)
{
	uint64_t file = (uint64_t)sqlite3_column_int64(row, 6);
	struct entry *entry = NULL;
	struct record record;
	int rc;

	*kind = TERRACE_FAULT_ENTRY;
	rc = terrace__record_read(column_slice(row, 7), &record);
	if (rc == TERRACE_EFORMAT)
		return NULL; /* a newer version's */
	if (rc != TERRACE_OK)
		return "the head's checksum does not hold";
	if (record.seq != seen->seq || record.cache != seen->cache ||
	    record.expires != seen->expires || seen->id >> DISK_ID_SHIFT != seen->cache)
		return "the row's columns and its head differ";
	if (file)
		rc = terrace__files_check(v->disk->files, file, &record, seen->hash);
	else
		rc = terrace__record_entry(&record, column_slice(row, 8), seen->hash, TERRACE_L2,
		                           &entry);
	entry_unref(entry);
	v->bytes += record.payload_size;
	switch (rc) {
	case TERRACE_OK:
		return lead_fault(v, seen, record.extra);
	case TERRACE_MISS:
		*kind = TERRACE_FAULT_NO_FILE;
		return "its file is gone";
	case TERRACE_ECORRUPT:
		return file ? "its file's checksum does not hold" :
		              "the value's checksum does not hold";
	}
	/* No descriptor, no memory, a disk that fails: it may be as good as the others. */
	keep_failure(v, rc, terrace__message());
	return NULL;
}

static bool still_there_in(struct verify *v, struct connection *connection,
                           const struct tier_row *row)
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *find = terrace__statement(connection, DO_FIND_ID);
	int step = SQLITE_ERROR;

	if (find) {
		sqlite3_bind_int64(find, 1, (sqlite3_int64)row->id);
		step = sqlite3_step(find);
	}
	if (step == SQLITE_ROW)
		return (uint64_t)sqlite3_column_int64(find, 1) == row->seq;
	if (step != SQLITE_DONE) {
		int rc = terrace__sqlite_failed(v->disk, connection->db, "look again at a row");

		keep_failure(v, rc, terrace__message());
	}
	return false;
}

/*
 * Is the fault still there, now that the row is read again? By another connection:
 * ours is in the middle of a selection, and sees what was there when that began.
 */
static bool still_there(struct verify *v, const struct tier_row *row)
{
	struct connection *another = terrace__reader_take(v->disk);
	bool there = another && still_there_in(v, another, row);

	if (!another)
		keep_failure(v, TERRACE_EIO, terrace__message());
	terrace__reader_give(v->disk, another);
	return there;
}

/* Up to 64 rows behind `*after`; MISS at the end. */
static int verify_some(struct verify *v, uint64_t *after)
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *all = terrace__statement(v->connection, DO_ALL);
	int rc, step = SQLITE_ROW, rows = 0;

	if (!all)
		return terrace__sqlite_failed(v->disk, v->connection->db, "prepare a check");
	sqlite3_bind_int64(all, 1, (sqlite3_int64)*after);
	while (v->go_on && v->bytes < v->most_bytes && (step = sqlite3_step(all)) == SQLITE_ROW) {
		struct tier_row row;
		terrace_fault_kind kind;
		uint64_t file = (uint64_t)sqlite3_column_int64(all, 6);
		const char *what;

		terrace__row_read(all, &row);
		if (row.id <= *after)
			return terrace__rows_in_a_circle(v->disk, v->connection);
		what = row_fault(v, all, &row, &kind);
		rows++;
		v->entries++;
		*after = row.id;
		rc = file && !v->scrub ? remember_file(v, file) : TERRACE_OK;
		if (rc != TERRACE_OK)
			return rc;
		/* A file may have gone with its row while we looked. */
		if (what && (kind != TERRACE_FAULT_NO_FILE || still_there(v, &row)))
			report(v, kind, &row, NULL, what);
	}
	if (v->go_on && step != SQLITE_DONE && step != SQLITE_ROW)
		return terrace__sqlite_failed(v->disk, v->connection->db, "read the rows");
	return rows && v->go_on ? TERRACE_OK : TERRACE_MISS;
}

static int by_number(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return left < right ? -1 : left > right;
}

/* Files that were there before the rows were read, so that a new file is no orphan. */
struct listing {
	struct found {
		uint64_t number;
		char *path;
	} * found;
	size_t count, capacity;
	bool failed;
};

static bool list_file(void *ctx, const char *path, uint64_t number, uint64_t bytes)
{
	struct listing *listing = ctx;

	(void)bytes;
	if (listing->count == listing->capacity) {
		size_t capacity = listing->capacity ? 2 * listing->capacity : 256;
		void *grown = realloc(listing->found, capacity * sizeof *listing->found);

		if (!grown) {
			listing->failed = true;
			return false;
		}
		listing->found = grown;
		listing->capacity = capacity;
	}
	listing->found[listing->count] = (struct found){ number, strdup(path) };
	listing->failed = !listing->found[listing->count].path;
	listing->count += !listing->failed;
	return !listing->failed;
}

static void listing_done(struct listing *listing)
{
	for (size_t i = 0; i < listing->count; i++)
		free(listing->found[i].path);
	free(listing->found);
}

static bool has_row(const struct verify *v, uint64_t number)
{
	return v->file_count &&
	       bsearch(&number, v->files, v->file_count, sizeof *v->files, by_number) != NULL;
}

/* The numbers of the files that rows have now, instead of those seen on the way. */
static int refresh_files(struct verify *v)
{
	CLEANUP(terrace__statement_done)
	sqlite3_stmt *files = terrace__statement(v->connection, DO_FILES);
	int rc = TERRACE_OK, step = SQLITE_ERROR;

	v->file_count = 0;
	while (rc == TERRACE_OK && files && (step = sqlite3_step(files)) == SQLITE_ROW)
		rc = remember_file(v, (uint64_t)sqlite3_column_int64(files, 0));
	if (rc == TERRACE_OK && step != SQLITE_DONE)
		rc = terrace__sqlite_failed(v->disk, v->connection->db, "list the files");
	if (v->file_count)
		qsort(v->files, v->file_count, sizeof *v->files, by_number);
	return rc;
}

/*
 * A file without a row is an orphan, but for one that is being written. A row
 * may also have got its file after we passed it, or have gone with it; so what
 * looks like an orphan and is not busy is looked up once more, later than its
 * lock was. What a transaction writes is not busy, nor has it a row, until that
 * is committed; what it deletes has none, to itself.
 */
static int verify_orphans(struct verify *v, struct listing *listing)
{
	size_t suspects = 0;
	int rc;

	if (v->file_count)
		qsort(v->files, v->file_count, sizeof *v->files, by_number);
	for (size_t i = 0; i < listing->count; i++) {
		struct found *found = &listing->found[i], other = listing->found[suspects];

		if (found->number && (has_row(v, found->number) ||
		                      terrace__files_busy(v->disk->files, found->number)))
			continue;
		listing->found[suspects++] = *found;
		*found = other;
	}
	/* Later than the list: one that has made a file of it is open still, or its row is there. */
	if (suspects && atomic_load(v->open)) {
		keep_failure(v, TERRACE_EBUSY,
		             "a transaction is open, and files may be its own; try again");
		return TERRACE_OK;
	}
	rc = suspects ? refresh_files(v) : TERRACE_OK;
	for (size_t i = 0; i < suspects && rc == TERRACE_OK && v->go_on; i++) {
		const struct found *found = &listing->found[i];

		if (!found->number ||
		    (!has_row(v, found->number) && terrace__files_has(v->disk->files, found->path)))
			report(v, TERRACE_FAULT_ORPHAN, NULL, found->path, "no row has this file");
	}
	return rc;
}

/* SQLite's check takes a page that could not be read for a damaged one; but it says why. */
bool terrace__could_not_read(const char *text)
{
	static const char before[] = "error code=";

	while ((text = strstr(text, before))) {
		int code = (int)strtol(text + sizeof before - 1, NULL, 10);

		if (terrace__sqlite_status(code) != TERRACE_ECORRUPT)
			return true;
		text++;
	}
	return false;
}

/* SQLite's own check; whether it finds something, and says it where it is to be said. */
static int check_database(struct verify *v, bool say, bool *ret_found)
{
	sqlite3_stmt *check = NULL;
	int step = SQLITE_DONE, rc = TERRACE_OK;

	*ret_found = false;
	if (sqlite3_prepare_v2(v->connection->db, "PRAGMA integrity_check(20)", -1, &check, NULL) !=
	    SQLITE_OK)
		return terrace__sqlite_failed(v->disk, v->connection->db, "check the database");
	while (v->go_on && (step = sqlite3_step(check)) == SQLITE_ROW) {
		const char *text = (const char *)sqlite3_column_text(check, 0);

		if (!text || strcmp(text, "ok") == 0)
			continue;
		if (terrace__could_not_read(text)) {
			keep_failure(v, TERRACE_EIO, text);
			continue;
		}
		*ret_found = true;
		if (say)
			report(v, TERRACE_FAULT_DATABASE, NULL, NULL, text);
	}
	if (step != SQLITE_DONE && step != SQLITE_ROW)
		rc = terrace__sqlite_failed(v->disk, v->connection->db, "check the database");
	sqlite3_finalize(check);
	return rc;
}

/* Damage is what is still there when it is looked at again. */
static int verify_database(struct verify *v)
{
	bool found;
	int rc = check_database(v, false, &found);

	return rc == TERRACE_OK && found ? check_database(v, true, &found) : rc;
}

static int all_was_read(const struct verify *v)
{
	if (v->unread != TERRACE_OK)
		terrace__message_set("not everything could be checked: %s", v->why);
	return v->unread;
}

int terrace__disk_verify(void *tier, const _Atomic uint32_t *open,
                         bool (*fault)(void *ctx, const struct disk_fault *fault), void *ctx,
                         uint64_t *ret_entries, uint64_t *ret_bytes)
{
	struct verify v = { .disk = tier,
		            .open = open,
		            .fault = fault,
		            .ctx = ctx,
		            .go_on = true,
		            .most_bytes = UINT64_MAX };
	struct listing listing = { 0 };
	uint64_t after = 0;
	int rc;

	v.connection = terrace__reader_take(tier);
	if (!v.connection)
		return TERRACE_EIO;
	rc = terrace__files_each(v.disk->files, list_file, &listing);
	if (listing.failed)
		rc = no_memory("a list of files");
	if (rc == TERRACE_OK)
		rc = verify_database(&v);
	while (rc == TERRACE_OK)
		rc = verify_some(&v, &after);
	if (rc == TERRACE_MISS) {
		rc = v.go_on ? verify_orphans(&v, &listing) : TERRACE_OK;
	}
	if (rc == TERRACE_OK)
		rc = all_was_read(&v);
	terrace__reader_give(tier, v.connection);
	*ret_entries = v.entries;
	*ret_bytes = v.bytes;
	listing_done(&listing);
	free(v.files);
	return rc;
}

int terrace__disk_scrub(void *tier, uint64_t *after, uint64_t most_bytes,
                        bool (*fault)(void *ctx, const struct disk_fault *fault), void *ctx,
                        uint64_t *ret_entries, uint64_t *ret_bytes)
{
	struct verify v = { .disk = tier,
		            .fault = fault,
		            .ctx = ctx,
		            .go_on = true,
		            .most_bytes = most_bytes,
		            .scrub = true };
	int rc;

	v.connection = terrace__reader_take(tier);
	if (!v.connection)
		return TERRACE_EIO;
	rc = verify_some(&v, after);
	if (v.unread != TERRACE_OK && (rc == TERRACE_OK || rc == TERRACE_MISS))
		rc = all_was_read(&v);
	terrace__reader_give(tier, v.connection);
	*ret_entries += v.entries;
	*ret_bytes += v.bytes;
	return rc;
}
