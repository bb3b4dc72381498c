#include "tiers/sqlite/connection.h"

#include "tiers/sqlite/disk.h"

#include "tiers/extra.h"
#include "tiers/sqlite/vfs.h"
#include "util/fs.h"
#include "util/lock.h"
#include "util/message.h"
#include "util/util.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const sql[] = {
#define X(name, text) text,
	DISK_STATEMENTS(X)
#undef X
};

int terrace__sqlite_status(int code)
{
	/* The log has lost its end; we make no links. */
	if (code == SQLITE_IOERR_SHORT_READ || code == SQLITE_CANTOPEN_SYMLINK)
		return TERRACE_ECORRUPT;
	switch (code & 0xff) {
	case SQLITE_FULL:
		return TERRACE_EFULL;
	case SQLITE_NOMEM:
		return TERRACE_ENOMEM;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return TERRACE_EBUSY;
	case SQLITE_READONLY:
	case SQLITE_PERM:
	case SQLITE_AUTH:
		return TERRACE_EACCESS;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_CONSTRAINT: /* what we write breaks none */
	case SQLITE_MISMATCH:
	case SQLITE_ERROR: /* no such table, for one */
		return TERRACE_ECORRUPT;
	case SQLITE_TOOBIG:
		return TERRACE_ETOOBIG;
	}
	return TERRACE_EIO;
}

struct database_name terrace__database_name(uint32_t generation)
{
	struct database_name name;

	snprintf(name.text, sizeof name.text, "db-%" PRIu32, generation);
	return name;
}

/* The number at the end of the name of the database that a connection has open. */
static uint32_t generation_of(sqlite3 *db)
{
	const char *name = sqlite3_db_filename(db, "main");
	const char *dash = name ? strrchr(name, '-') : NULL;

	return dash ? (uint32_t)strtoul(dash + 1, NULL, 10) : 0;
}

/*
 * This may be the database's fault. A failing disk or a lack of memory or of
 * descriptors has codes of its own, and says nothing about the database.
 */
void terrace__suspect(struct disk *disk, sqlite3 *db, int code)
{
	uint32_t generation = generation_of(db);

	if (generation != disk_generation(disk))
		return;
	atomic_store(&disk->suspected, true);
	if (code != SQLITE_ERROR && code != SQLITE_IOERR_SHORT_READ && code != SQLITE_CANTOPEN)
		atomic_fetch_add(&disk->verdicts, 1);
}

int terrace__sqlite_failed(struct disk *disk, sqlite3 *db, const char *what)
{
	int code = db ? sqlite3_extended_errcode(db) : SQLITE_NOMEM;
	int rc = terrace__sqlite_status(code);
	int err = db && (code & 0xff) == SQLITE_CANTOPEN ? sqlite3_system_errno(db) : 0;

	if (err == ELOOP)
		rc = TERRACE_ECORRUPT; /* a link in the place of the log */
	if (db && (rc == TERRACE_ECORRUPT || err == ENOENT))
		terrace__suspect(disk, db, code & 0xff);
	terrace__message_set(
	    "l2 cannot %s in %s: %s (SQLite %d)", what,
	    db && sqlite3_db_filename(db, "main") ? sqlite3_db_filename(db, "main") : disk->path,
	    db ? sqlite3_errmsg(db) : "out of memory", code);
	/* Beyond the limit of file sizes, which SQLite takes for any other failure. */
	if ((code & 0xff) == SQLITE_IOERR && rc != TERRACE_ECORRUPT && terrace__limit_meets())
		return TERRACE_EFULL;
	return rc;
}

static void harden(sqlite3 *db)
{
	sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
	/* We make none: whatever is there is somebody else's. */
	sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
	sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
	sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0, NULL);
	/* Checkpoints happen under the writers' lock alone: SQLite 3.40 can lose
	 * a transaction when one races a writer (fixed in 3.51.3). */
	sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	sqlite3_wal_autocheckpoint(db, 0);
	sqlite3_busy_timeout(db, BUSY_MS);
	/* Look at a page before believing it; and never map the file, which could
	 * shrink beneath us. These two read nothing themselves. */
	sqlite3_exec(db, "PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0", NULL, NULL, NULL);
#ifdef TERRACE_CROWDED /* for a proof: pages are read each time they are used */
	sqlite3_exec(db, "PRAGMA cache_size = 8", NULL, NULL, NULL);
#endif
}

int terrace__connection_open(struct disk *disk, uint32_t generation, int flags,
                             struct connection **ret)
{
	struct connection *connection = calloc(1, sizeof *connection);
	struct database_name name = terrace__database_name(generation);
	char path[PATH_MAX];
	int rc;

	if (!connection)
		return no_memory("a connection");
	connection->generation = generation;
	snprintf(path, sizeof path, "%s/%s", disk->path, name.text);
	rc = sqlite3_open_v2(path, &connection->db,
	                     flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE |
	                         SQLITE_OPEN_NOFOLLOW,
	                     terrace__vfs());
	if (rc != SQLITE_OK) {
		rc = terrace__sqlite_failed(disk, connection->db, "open the database");
		terrace__connection_close(connection);
		return rc;
	}
	harden(connection->db);
	rc = terrace__renew_prepare(disk, connection->db);
	if (rc != TERRACE_OK) {
		terrace__connection_close(connection);
		return rc;
	}
	connection->round = atomic_load(&disk->round);
	*ret = connection;
	return TERRACE_OK;
}

void terrace__connection_close(struct connection *connection)
{
	if (!connection)
		return;
	for (int i = 0; i < STATEMENTS; i++)
		sqlite3_finalize(connection->statements[i]);
	sqlite3_close(connection->db);
	free(connection);
}

sqlite3_stmt *terrace__statement(struct connection *connection, enum statement which)
{
	sqlite3_stmt **statement = &connection->statements[which];

	if (!*statement)
		sqlite3_prepare_v3(connection->db, sql[which], -1, SQLITE_PREPARE_PERSISTENT,
		                   statement, NULL);
	return *statement;
}

void terrace__statement_done(sqlite3_stmt **statement)
{
	if (*statement) {
		sqlite3_reset(*statement);
		sqlite3_clear_bindings(*statement);
	}
}

int terrace__run(struct disk *disk, struct connection *connection, sqlite3_stmt *statement,
                 const char *what)
{
	int rc = statement ? sqlite3_step(statement) : SQLITE_ERROR;

	if (rc == SQLITE_DONE || rc == SQLITE_ROW)
		rc = TERRACE_OK;
	else
		rc = terrace__sqlite_failed(disk, connection->db, what);
	terrace__statement_done(&statement);
	return rc;
}

_Thread_local char terrace__thread;

/* --- fork ------------------------------------------------------------------------------- */

/* How long fork() waits for other threads: longer than any of their calls should take. */
enum { QUIET_MS = 10000 };

static _Atomic uint32_t users; /* threads within SQLite */
static _Atomic uint32_t forks; /* under way; a futex */
static _Thread_local unsigned within;
static _Thread_local bool was_quiet;
static bool quiet; /* when this process came about */

static void files_enter(void)
{
	uint32_t seen;

	if (within++ > 0)
		return;
	for (;;) {
		/* Whoever forks sees us, or we see that. */
		atomic_fetch_add(&users, 1);
		seen = atomic_load(&forks);
		if (LIKELY(seen == 0))
			return;
		atomic_fetch_sub(&users, 1);
		terrace__futex_wait(&forks, seen, 1);
	}
}

static void files_leave(void)
{
	if (--within == 0)
		atomic_fetch_sub(&users, 1);
}

void terrace__sqlite_enter(void)
{
	terrace__limit_enter();
	files_enter();
}

void terrace__sqlite_leave(void)
{
	files_leave();
	terrace__limit_leave();
}

static void before_fork(void)
{
	uint32_t ours = within > 0, seen;

	atomic_fetch_add(&forks, 1);
	for (int ms = 0; (seen = atomic_load(&users)) > ours && ms < QUIET_MS; ms++)
		terrace__futex_wait(&users, seen, 1);
	was_quiet = seen == ours;
}

static void after_fork(void)
{
	atomic_fetch_sub(&forks, 1);
	terrace__futex_wake_all(&forks);
}

static void in_child(void)
{
	quiet = was_quiet;
	terrace__limit_leave_all();
	atomic_store(&users, 0);
	atomic_store(&forks, 0);
	within = 0;
}

int terrace__disk_watch_forks(void)
{
	return pthread_atfork(before_fork, after_fork, in_child) == 0 ? TERRACE_OK : TERRACE_ENOMEM;
}

bool terrace__disk_fork_was_quiet(void)
{
	return quiet;
}

/* --- readers ------------------------------------------------------------------------------ */

static void connection_end(struct connection *connection)
{
	terrace__limit_enter();
	terrace__connection_close(connection);
	terrace__limit_leave();
}

static struct connection *pop_reader(struct disk *disk)
{
	struct connection *connection;

	pthread_mutex_lock(&disk->lock);
	connection = disk->readers;
	if (connection)
		disk->readers = connection->next;
	pthread_mutex_unlock(&disk->lock);
	return connection;
}

bool terrace__transaction_stands(const struct disk *disk)
{
	if (!sqlite3_get_autocommit(disk->writer->db))
		return true;
	/* Because what a read needed memory for could not be written, for one. */
	terrace__message_set("the database could not go on with this transaction; begin it again");
	return false;
}

struct connection *terrace__reader_take_held(struct disk *disk)
{
	uint32_t generation = disk_generation(disk), now;
	struct connection *connection;

	files_enter();
	if (is_inside(disk)) {
		if (LIKELY(terrace__transaction_stands(disk)))
			return disk->writer;
		files_leave();
		return NULL;
	}
	while ((connection = pop_reader(disk)) && connection->generation != generation)
		connection_end(connection); /* that database was set aside */
	while (!connection) {
		terrace__limit_enter();
		terrace__connection_open(
		    disk, generation,
		    disk->read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE, &connection);
		terrace__limit_leave();
		now = disk_generation(disk);
		if (now == generation)
			break;
		generation = now;
	}
	if (!connection)
		files_leave();
	return connection;
}

struct connection *terrace__reader_take(struct disk *disk)
{
	struct connection *connection;

	terrace__limit_enter();
	connection = terrace__reader_take_held(disk);
	if (connection && !terrace__snapshot_drop(disk, connection)) {
		terrace__reader_give_held(disk, connection);
		connection = NULL;
	}
	if (!connection)
		terrace__limit_leave();
	return connection;
}

bool terrace__reader_is_late(const struct disk *disk, const struct connection *connection)
{
	return !is_inside(disk) && connection->generation != disk_generation(disk);
}

void terrace__reader_give_held(struct disk *disk, struct connection *connection)
{
	if (!is_inside(disk) && connection->round != atomic_load(&disk->round)) {
		connection_end(connection);
	} else if (!is_inside(disk)) {
		pthread_mutex_lock(&disk->lock);
		connection->next = disk->readers;
		disk->readers = connection;
		pthread_mutex_unlock(&disk->lock);
	}
	files_leave();
}

void terrace__reader_give(struct disk *disk, struct connection *connection)
{
	if (!connection)
		return;
	terrace__reader_give_held(disk, connection);
	terrace__limit_leave();
}

void terrace__connections_renew(struct disk *disk)
{
	struct connection *readers;

	atomic_fetch_add(&disk->round, 1);
	pthread_mutex_lock(&disk->lock);
	readers = disk->readers;
	disk->readers = NULL;
	pthread_mutex_unlock(&disk->lock);
	while (readers) {
		struct connection *connection = readers;

		readers = connection->next;
		terrace__connection_close(connection);
	}
	terrace__connection_close(disk->writer);
	disk->writer = NULL;
}

bool terrace__row_read(sqlite3_stmt *statement, struct tier_row *ret)
{
	struct record record;

	*ret = (struct tier_row){
		.id = (uint64_t)sqlite3_column_int64(statement, 0),
		.hash = (uint64_t)sqlite3_column_int64(statement, 1),
		.cache = (uint32_t)sqlite3_column_int64(statement, 2),
		.seq = (uint64_t)sqlite3_column_int64(statement, 3),
		.charge = (uint64_t)sqlite3_column_int64(statement, 4),
		.expires = sqlite3_column_type(statement, 5) == SQLITE_NULL ?
		               INT64_MAX :
		               sqlite3_column_int64(statement, 5),
		.file = (uint64_t)sqlite3_column_int64(statement, 6),
		.tier = sqlite3_column_int64(statement, 6) ? TERRACE_L3 : TERRACE_L2,
	};
	/* A damaged head leaves no key; the row can still be removed by its id. */
	if (terrace__record_read(column_slice(statement, 7), &record) != TERRACE_OK)
		return false;
	ret->absent = record.flags & RECORD_ABSENT;
	ret->key = record.key;
	ret->extra = record.extra;
	return true;
}

uint64_t terrace__link_name(uint32_t cache, char kind, terrace_slice text)
{
	return terrace__hash64(text.data, text.size, (uint64_t)cache << 8 | (uint8_t)kind);
}
