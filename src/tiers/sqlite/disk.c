#include "tiers/sqlite/disk.h"

#include "tiers/sqlite/connection.h"
#include "tiers/sqlite/vfs.h"

#include "util/message.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* "TRRC", so that file(1) can tell. */
#define APPLICATION_ID "0x54525243"

static const char schema[] =
    /* So that pages can be given back; it must come before anything is written. */
    "PRAGMA auto_vacuum = INCREMENTAL;"
    "PRAGMA application_id = " APPLICATION_ID ";"
    "PRAGMA journal_mode = WAL;"
    "BEGIN IMMEDIATE;"
    "CREATE TABLE IF NOT EXISTS entry("
    "  id INTEGER PRIMARY KEY," /* the cache's number, then arrival */
    "  hash INTEGER NOT NULL,"
    "  cache INTEGER NOT NULL,"
    "  seq INTEGER NOT NULL,"
    "  expires INTEGER,"        /* NULL: never */
    "  rank INTEGER NOT NULL,"  /* what a hit is worth: tier_put's */
    "  bytes INTEGER NOT NULL," /* what it is charged with */
    "  file INTEGER NOT NULL,"  /* 0: the payload is in value */
    "  accessed INTEGER NOT NULL,"
    "  hits INTEGER NOT NULL,"
    "  head BLOB NOT NULL,"
    "  value BLOB) STRICT;"
    "CREATE UNIQUE INDEX IF NOT EXISTS entry_hash ON entry(hash);"
    "CREATE INDEX IF NOT EXISTS entry_expires ON entry(expires) WHERE expires IS NOT NULL;"
    "CREATE TABLE IF NOT EXISTS link(" /* tags and sources, by hash, to rows */
    "  name INTEGER NOT NULL,"
    "  entry INTEGER NOT NULL,"
    "  PRIMARY KEY(name, entry)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS name(" /* see disk_names.c */
    "  cache INTEGER NOT NULL,"
    "  key BLOB NOT NULL,"
    "  entry INTEGER NOT NULL,"
    "  PRIMARY KEY(cache, key, entry)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS named(cache INTEGER PRIMARY KEY, upto INTEGER NOT NULL) STRICT;"
    "CREATE TABLE IF NOT EXISTS cache("
    "  id INTEGER PRIMARY KEY,"
    "  name TEXT NOT NULL UNIQUE,"
    "  floor INTEGER NOT NULL DEFAULT 0," /* rows with seq <= floor are dead */
    "  seq INTEGER NOT NULL DEFAULT 0,"   /* none has a higher one */
    "  l2_bytes INTEGER NOT NULL DEFAULT 0,"
    "  l2_entries INTEGER NOT NULL DEFAULT 0,"
    "  l3_bytes INTEGER NOT NULL DEFAULT 0,"
    "  l3_entries INTEGER NOT NULL DEFAULT 0) STRICT;"
    "CREATE TABLE IF NOT EXISTS immutable(cache INTEGER PRIMARY KEY) STRICT;"
    "CREATE TABLE IF NOT EXISTS note(" /* why what is gone is gone */
    "  id INTEGER PRIMARY KEY,"
    "  hash INTEGER NOT NULL,"
    "  made INTEGER NOT NULL,"
    "  reason INTEGER NOT NULL,"
    "  detail TEXT) STRICT;"
    "CREATE INDEX IF NOT EXISTS note_hash ON note(hash);"
    "CREATE TABLE IF NOT EXISTS state(seed INTEGER NOT NULL) STRICT;" /* of the hashes; one row */
    "INSERT INTO state(seed) SELECT random() WHERE NOT EXISTS (SELECT 1 FROM state);"
    "COMMIT";

/*
 * The empty file first, because SQLite gives its companions the mode of the
 * database. No connection of this process has it open yet, so closing it drops
 * nobody's lock.
 */
int terrace__disk_create(struct disk *disk, uint32_t generation)
{
	struct connection *connection;
	int fd = openat(disk->dir_fd, terrace__database_name(generation).text,
	                O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
	int rc;

	if (fd >= 0)
		close(fd);
	terrace__sqlite_enter();
	rc = terrace__connection_open(disk, generation, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
	                              &connection);
	if (rc == TERRACE_OK) {
		if (!terrace__vfs_make(connection->db) ||
		    sqlite3_exec(connection->db, schema, NULL, NULL, NULL) != SQLITE_OK)
			rc = terrace__sqlite_failed(disk, connection->db, "make the tables");
		terrace__connection_close(connection);
	}
	terrace__sqlite_leave();
	return rc;
}

static void disk_close(void *tier)
{
	struct disk *disk = tier;

	if (!disk)
		return;
	terrace__sqlite_enter();
	terrace__connection_close(disk->writer);
	while (disk->readers) {
		struct connection *connection = disk->readers;

		disk->readers = connection->next;
		terrace__connection_close(connection);
	}
	terrace__sqlite_leave();
	terrace__files_close(disk->files);
	terrace__places_free(disk);
	pthread_mutex_destroy(&disk->lock);
	free(disk->changes);
	free(disk->doomed);
	free(disk->path);
	free(disk);
}

/* SQLite has read what tables there are by then. */
static bool has_table(struct connection *reader, const char *name)
{
	return sqlite3_table_column_metadata(reader->db, "main", name, NULL, NULL, NULL, NULL, NULL,
	                                     NULL) == SQLITE_OK;
}

/* The first reader at once, so that a broken database shows. The two others came later than
 * the rest: a database may be older. */
static int try_tables(struct disk *disk)
{
	struct connection *reader = terrace__reader_take(disk);
	int rc = TERRACE_OK;

	if (!reader)
		return atomic_load(&disk->suspected) ? TERRACE_ECORRUPT : TERRACE_EIO;
	if (!terrace__statement(reader, DO_GET) || !has_table(reader, "immutable") ||
	    !has_table(reader, "named")) {
		rc = terrace__sqlite_failed(disk, reader->db, "read the tables");
		if (sqlite3_errcode(reader->db) == SQLITE_ERROR)
			rc = TERRACE_MISS; /* it has none */
	}
	terrace__reader_give(disk, reader);
	return rc;
}

static int disk_look(void *tier)
{
	struct disk *disk = tier;
	struct database_name name = terrace__database_name(disk_generation(disk));
	struct stat st;
	int rc;

	terrace__message_set("%s/%s is missing, empty, or no file", disk->path, name.text);
	if (fstatat(disk->dir_fd, name.text, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? TERRACE_MISS : TERRACE_EIO;
	if (!S_ISREG(st.st_mode))
		return TERRACE_ECORRUPT;
	if (st.st_size == 0)
		return TERRACE_MISS;
	rc = try_tables(disk);
	return rc == TERRACE_ECORRUPT ? terrace__disk_check(disk) : rc;
}

static int disk_create(void *tier)
{
	return terrace__disk_create(tier, disk_generation(tier));
}

int terrace__disk_open(int dir_fd, const char *path, struct disk_shared *shared, bool read_only,
                       uint64_t log_bytes, uint64_t value_max, struct disk **ret)
{
	struct disk *disk = calloc(1, sizeof *disk);
	int rc;

	if (!disk)
		return no_memory("a database");
	pthread_mutex_init(&disk->lock, NULL);
	disk->dir_fd = dir_fd;
	disk->shared = shared;
	disk->read_only = read_only;
	disk->value_max = value_max ? value_max : UINT64_MAX;
	disk->log_pages = (int)(log_bytes / PAGE_BYTES);
	disk->path = strdup(path);
	rc = disk->path ? terrace__files_open(dir_fd, &disk->files) : no_memory("a database");
	if (rc != TERRACE_OK) {
		disk_close(disk);
		return rc;
	}
	*ret = disk;
	return TERRACE_OK;
}

static void follow(void *tier, const _Atomic uint64_t *commits, const _Atomic uint64_t *writing)
{
	struct disk *disk = tier;

	disk->commits = commits;
	disk->writing = writing;
}

static int file_write(void *tier, uint64_t number, terrace_slice head, terrace_slice payload,
                      int *ret_fd)
{
	return terrace__files_write(((struct disk *)tier)->files, number, head, payload, ret_fd);
}

static void file_remove(void *tier, uint64_t number)
{
	terrace__files_remove(((struct disk *)tier)->files, number);
}

static int blocks_new(void *tier, uint64_t number, terrace_codec codec, struct block_writer **ret)
{
	return terrace__files_blocks_new(((struct disk *)tier)->files, number, codec, ret);
}

static int blocks_keep(void *tier, struct block_writer *blocks, struct record *record, int *ret_fd)
{
	return terrace__files_blocks_keep(((struct disk *)tier)->files, blocks, record, ret_fd);
}

static void blocks_drop(void *tier, struct block_writer *blocks)
{
	terrace__files_blocks_drop(((struct disk *)tier)->files, blocks);
}

static void sweep(void *tier)
{
	terrace__files_sweep(((struct disk *)tier)->files);
}

static int file_remove_path(void *tier, const char *path)
{
	return terrace__files_remove_path(((struct disk *)tier)->files, path);
}

struct files_before {
	struct files *files;
	uint64_t number;
};

static bool remove_before(void *ctx, const char *path, uint64_t number, uint64_t bytes)
{
	const struct files_before *before = ctx;

	(void)bytes;
	if (number < before->number && !terrace__files_busy(before->files, number))
		terrace__files_remove_path(before->files, path);
	return true;
}

static void files_remove(void *tier, uint64_t number)
{
	struct files_before before = { ((struct disk *)tier)->files, number };

	terrace__files_each(before.files, remove_before, &before);
}

const struct disk_ops terrace__disk_ops = {
	.tier = {
		.name = "disk",
		.get = terrace__disk_get,
		.put = terrace__disk_put,
		.remove = terrace__disk_remove,
		.each = terrace__disk_each,
		.usage = terrace__disk_usage,
		.close = disk_close,
	},
	.follow = follow,
	.loosen = terrace__disk_loosen,
	.begin = terrace__disk_begin,
	.commit = terrace__disk_commit,
	.rollback = terrace__disk_rollback,
	.rest = terrace__disk_rest,
	.resume = terrace__disk_resume,
	.get_under = terrace__disk_get_under,
	.open = terrace__disk_open_value,
	.blocks_size = terrace__block_reader_size,
	.block_read = terrace__block_reader_read,
	.blocks_close = terrace__block_reader_free,
	.get_inside = terrace__disk_get_inside,
	.peek = terrace__disk_peek,
	.touch = terrace__disk_touch,
	.select = terrace__disk_select,
	.names = terrace__disk_names,
	.names_add = terrace__disk_names_add,
	.remove_row = terrace__disk_remove_row,
	.remove_older = terrace__disk_remove_older,
	.victims = terrace__disk_victims,
	.size = terrace__disk_size,
	.give_back = terrace__disk_give_back,
	.accessed = terrace__disk_accessed,
	.used = terrace__disk_used,
	.file_write = file_write,
	.file_remove = file_remove,
	.blocks_new = blocks_new,
	.block_add = terrace__block_writer_add,
	.blocks_keep = blocks_keep,
	.blocks_drop = blocks_drop,
	.blocks_forget = terrace__block_writer_free,
	.blocks_stored = terrace__block_writer_stored,
	.sweep = sweep,
	.describe = terrace__disk_describe,
	.note_put = terrace__disk_note_put,
	.note_clear = terrace__disk_note_clear,
	.note_get = terrace__disk_note_get,
	.cache_add = terrace__disk_cache_add,
	.cache_immutable = terrace__disk_cache_immutable,
	.cache_floor = terrace__disk_cache_floor,
	.caches = terrace__disk_caches,
	.state = terrace__disk_state,
	.set_seed = terrace__disk_set_seed,
	.checkpoint_due = terrace__disk_checkpoint_due,
	.checkpoint = terrace__disk_checkpoint,
	.sync = terrace__disk_sync,
	.verify = terrace__disk_verify,
	.scrub = terrace__disk_scrub,
	.file_remove_path = file_remove_path,
	.files_remove = files_remove,
	.look = disk_look,
	.create = disk_create,
	.settle = terrace__disk_settle,
	.moved = terrace__disk_moved,
	.suspected = terrace__disk_suspected,
	.malformed = terrace__disk_malformed,
	.latest = terrace__disk_latest,
	.make = terrace__disk_make,
	.made = terrace__disk_made,
	.set_aside = terrace__disk_set_aside,
	.aside = terrace__disk_aside,
};
