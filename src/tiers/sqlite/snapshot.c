/*
 * Reading without SQLite's locks.
 *
 * A reader of SQLite takes a lock before each transaction, so that nobody writes
 * over what it reads, and gives it back afterwards: two system calls, and half
 * the time of a get. Held on to, the lock would stop the log from ever starting
 * anew. But nobody here writes to the database, or starts its log anew, without
 * saying so to all processes, before and after (`writing` and `commits` of
 * core/coherence.h). So a reader leaves the lock, keeps its transaction while
 * neither has moved, and looks at both again before it believes what it read:
 * a seqlock. And at the database's number: one that was set aside is written to
 * no more, and says so by nothing else. Moving the log into the database is no change: a reader takes from
 * the database only what was there before it began.
 *
 * The writer needs no reader's lock either: it has the writers' lock, without
 * which nobody starts the log anew.
 *
 * A reader that is idle holds up nobody. What it read in vain is thrown away,
 * errors included, and read again with locks.
 */
#include "tiers/sqlite/connection.h"

#include "util/util.h"

/* The locks of a reader come behind those of writer, checkpoint and recovery (SQLite,
 * "WAL-mode file format", section 2.3.1). */
enum { FIRST_READER = 3 };

/* Lies behind SQLite's own part of the file. */
struct guard {
	sqlite3_io_methods methods;
	const sqlite3_io_methods *real;
	bool unlocked;
};

static sqlite3_vfs ours;
static sqlite3_vfs *real;
static int guard_at;

static struct guard *guard_of(sqlite3_file *file)
{
	return (struct guard *)(void *)((char *)file + guard_at);
}

static int shm_lock(sqlite3_file *file, int offset, int count, int flags)
{
	struct guard *guard = guard_of(file);

	if (guard->unlocked && flags & SQLITE_SHM_SHARED && offset >= FIRST_READER)
		return SQLITE_OK;
	return guard->real->xShmLock(file, offset, count, flags);
}

/* SQLite takes EIO for damage (unixRead): it may pass, and must not cost a database. */
static int read_file(sqlite3_file *file, void *ret, int size, sqlite3_int64 at)
{
	int rc = guard_of(file)->real->xRead(file, ret, size, at);

	return rc == SQLITE_IOERR_CORRUPTFS ? SQLITE_IOERR_READ : rc;
}

static int open_file(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *ret)
{
	int rc = real->xOpen(real, name, file, flags, ret);

	(void)vfs;
	if (rc == SQLITE_OK && flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL) &&
	    file->pMethods->iVersion >= 2 && file->pMethods->xShmLock) {
		struct guard *guard = guard_of(file);

		guard->real = file->pMethods;
		guard->methods = *file->pMethods;
		guard->methods.xShmLock = shm_lock;
		guard->methods.xRead = read_file;
		guard->unlocked = false;
		file->pMethods = &guard->methods;
	}
	return rc;
}

static void make_vfs(void)
{
	real = sqlite3_vfs_find(NULL);
	if (!real)
		return;
	guard_at = (real->szOsFile + 15) & ~15;
	ours = *real;
	ours.zName = "terrace";
	ours.xOpen = open_file;
	ours.szOsFile = guard_at + (int)sizeof(struct guard);
	sqlite3_vfs_register(&ours, 0);
}

/* A program that has opened this library may close it, and SQLite stays. */
__attribute__((destructor)) static void forget_vfs(void)
{
	if (real)
		sqlite3_vfs_unregister(&ours);
}

const char *terrace__snapshot_vfs(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, make_vfs);
	return real ? ours.zName : NULL;
}

static struct guard *guard_in(struct connection *connection)
{
	sqlite3_file *file = NULL;

	sqlite3_file_control(connection->db, "main", SQLITE_FCNTL_FILE_POINTER, (void *)&file);
	return file && file->pMethods && file->pMethods->xShmLock == shm_lock ? guard_of(file) :
	                                                                        NULL;
}

void terrace__snapshot_write(struct connection *writer)
{
	struct guard *guard = guard_in(writer);

	if (guard)
		guard->unlocked = true;
}

bool terrace__snapshot_drop(struct disk *disk, struct connection *connection)
{
	struct guard *guard;

	if (!connection->held)
		return true;
	/* After a failure SQLite may have done so itself. */
	if (!sqlite3_get_autocommit(connection->db) &&
	    terrace__run(disk, connection, terrace__statement(connection, DO_ROLLBACK),
	                 "stop reading") != TERRACE_OK)
		return false;
	guard = guard_in(connection);
	if (guard)
		guard->unlocked = false;
	connection->held = false;
	return true;
}

bool terrace__snapshot_hold(struct disk *disk, struct connection *connection)
{
	struct guard *guard;
	uint64_t commits;

	/* In this order: what was committed before has counted up, or still writes. */
	if (!disk->commits || atomic_load(disk->writing))
		return false;
	commits = atomic_load(disk->commits);
	if (connection->held && connection->commits == commits)
		return true;
	guard = guard_in(connection);
	/* What ends it at once: there may be no memory for that when it is needed. */
	if (!guard || !terrace__snapshot_drop(disk, connection) ||
	    !terrace__statement(connection, DO_ROLLBACK) ||
	    terrace__run(disk, connection, terrace__statement(connection, DO_HOLD),
	                 "begin to read") != TERRACE_OK)
		return false;
	/* SQLite looks where the database stands with the first row that is asked for. */
	guard->unlocked = true;
	connection->held = true;
	connection->commits = commits;
	return true;
}

bool terrace__snapshot_stands(const struct disk *disk, const struct connection *connection)
{
	atomic_thread_fence(memory_order_acquire);
	return atomic_load(disk->writing) == 0 &&
	       atomic_load(disk->commits) == connection->commits &&
	       connection->generation == disk_generation(disk);
}
