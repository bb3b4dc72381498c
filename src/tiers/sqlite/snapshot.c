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
 * no more, and says so by nothing else. Moving the log into the database is no
 * change: a reader takes from the database only what was there before it began.
 *
 * The writer needs no reader's lock either: it has the writers' lock, without
 * which nobody starts the log anew.
 *
 * A reader that is idle holds up nobody. What it read in vain is thrown away,
 * errors included, and read again with locks.
 */
#include "tiers/sqlite/connection.h"

#include "tiers/sqlite/vfs.h"

void terrace__snapshot_write(struct connection *writer)
{
	terrace__vfs_unlock(writer->db, true);
}

bool terrace__snapshot_drop(struct disk *disk, struct connection *connection)
{
	if (!connection->held)
		return true;
	/* After a failure SQLite may have done so itself. */
	if (!sqlite3_get_autocommit(connection->db) &&
	    terrace__run(disk, connection, terrace__statement(connection, DO_ROLLBACK),
	                 "stop reading") != TERRACE_OK)
		return false;
	terrace__vfs_unlock(connection->db, false);
	connection->held = false;
	return true;
}

bool terrace__snapshot_hold(struct disk *disk, struct connection *connection)
{
	uint64_t commits;

	/* In this order: what was committed before has counted up, or still writes. */
	if (!disk->commits || atomic_load(disk->writing))
		return false;
	commits = atomic_load(disk->commits);
	if (connection->held && connection->commits == commits)
		return true;
	/* What ends it at once: there may be no memory for that when it is needed. */
	if (!terrace__vfs_can_unlock(connection->db) || !terrace__snapshot_drop(disk, connection) ||
	    !terrace__statement(connection, DO_ROLLBACK) ||
	    terrace__run(disk, connection, terrace__statement(connection, DO_HOLD),
	                 "begin to read") != TERRACE_OK)
		return false;
	/* SQLite looks where the database stands with the first row that is asked for. */
	terrace__vfs_unlock(connection->db, true);
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
