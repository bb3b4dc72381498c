/*
 * A database that is damaged, and the one that takes its place. Databases are
 * numbered: which one is in use stands in the store's shared file, and every
 * connection remembers which one it has open. The old one is renamed only when
 * the new one is in use, and nobody opens SQLite's files by hand: closing one
 * would drop the locks that SQLite has on it in this process.
 *
 * Everything here happens under the writers' lock, or that of attaching.
 */
#include "tiers/sqlite/connection.h"

#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ASIDE_PREFIX "damaged-"

enum {
	VERDICTS = 3, /* "malformed", that a check does not confirm: it cannot see everything */
	KEPT = 2,     /* databases that were set aside */
};

static const char *const parts[] = { "", "-wal", "-shm" };

/* --- is it damaged? --------------------------------------------------------------------------- */

/* 0 when it is not there; false when that cannot be said. */
static bool inode_of(const struct disk *disk, uint32_t generation, int part, uint64_t *ret)
{
	char name[32];
	struct stat st;

	snprintf(name, sizeof name, "%s%s", terrace__database_name(generation).text, parts[part]);
	*ret = 0;
	if (fstatat(disk->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT;
	*ret = st.st_ino;
	return true;
}

void terrace__disk_settle(void *tier)
{
	struct disk *disk = tier;
	uint64_t inode;

	for (int part = 0; part < 3; part++) {
		inode_of(disk, disk_generation(disk), part, &inode);
		atomic_store(&disk->shared->inodes[part], inode);
	}
}

bool terrace__disk_moved(void *tier)
{
	struct disk *disk = tier;
	struct timespec now = terrace__file_clock();
	uint64_t inode;
	struct stat st;

	if (fstat(disk->dir_fd, &st) < 0)
		return false;
	/* Its names have not changed since the last look. */
	if (time_is_same(st.st_mtim, disk->dir_changed))
		return false;
	for (int part = 0; part < 3; part++) {
		uint64_t known = atomic_load(&disk->shared->inodes[part]);

		if (!inode_of(disk, disk_generation(disk), part, &inode))
			return false;
		if (known && inode != known) {
			atomic_store(&disk->suspected, true);
			return true;
		}
	}
	if (time_is_before(st.st_mtim, now))
		disk->dir_changed = st.st_mtim;
	return false;
}

bool terrace__disk_suspected(void *tier)
{
	return atomic_load(&((struct disk *)tier)->suspected);
}

static int check_text(const char *text)
{
	if (!text || terrace__could_not_read(text)) {
		terrace__message_set("l2 cannot check the database: %s",
		                     text ? text : "out of memory");
		return text ? TERRACE_EIO : TERRACE_ENOMEM;
	}
	if (strcmp(text, "ok") == 0)
		return TERRACE_OK;
	terrace__message_set("l2's database is damaged: %s", text);
	return TERRACE_ECORRUPT;
}

static int check_all(struct disk *disk, struct connection *connection)
{
	sqlite3_stmt *check = NULL, *state;
	int rc = TERRACE_OK;

	for (int i = 0; i < STATEMENTS; i++) {
		if (!terrace__statement(connection, (enum statement)i))
			return terrace__sqlite_failed(disk, connection->db, "read the tables");
	}
	state = terrace__statement(connection, DO_STATE);
	if (sqlite3_step(state) != SQLITE_ROW)
		rc = sqlite3_errcode(connection->db) == SQLITE_DONE ?
		         TERRACE_ECORRUPT :
		         terrace__sqlite_failed(disk, connection->db, "read the state");
	terrace__statement_done(&state);
	if (rc != TERRACE_OK)
		return rc;
	if (sqlite3_prepare_v2(connection->db, "PRAGMA integrity_check(1)", -1, &check, NULL) !=
	        SQLITE_OK ||
	    sqlite3_step(check) != SQLITE_ROW)
		rc = terrace__sqlite_failed(disk, connection->db, "check the database");
	else
		rc = check_text((const char *)sqlite3_column_text(check, 0));
	sqlite3_finalize(check);
	return rc;
}

int terrace__disk_check(struct disk *disk)
{
	struct connection *connection = NULL;
	int rc;

	terrace__sqlite_enter();
	rc = terrace__connection_open(
	    disk, disk_generation(disk),
	    disk->read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE, &connection);
	if (rc == TERRACE_OK)
		rc = check_all(disk, connection);
	terrace__connection_close(connection);
	terrace__sqlite_leave();
	return rc;
}

/* Surely: not that it could not be looked at. */
static bool is_no_file(const struct disk *disk)
{
	struct stat st;

	if (fstatat(disk->dir_fd, terrace__database_name(disk_generation(disk)).text, &st,
	            AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT;
	return !S_ISREG(st.st_mode);
}

bool terrace__disk_malformed(void *tier)
{
	struct disk *disk = tier;
	bool malformed = is_no_file(disk) || terrace__disk_moved(disk) ||
	                 atomic_load(&disk->verdicts) >= VERDICTS ||
	                 terrace__disk_check(disk) == TERRACE_ECORRUPT;

	if (!malformed)
		atomic_store(&disk->suspected, false);
	return malformed;
}

/* --- making another one ------------------------------------------------------------------------- */

static void remove_parts(struct disk *disk, uint32_t generation)
{
	char name[32];

	for (size_t part = 0; part < ARRAY_LEN(parts); part++) {
		snprintf(name, sizeof name, "%s%s", terrace__database_name(generation).text,
		         parts[part]);
		unlinkat(disk->dir_fd, name, 0);
	}
}

int terrace__disk_make(void *tier, uint32_t generation)
{
	struct disk *disk = tier;
	int rc;

	terrace__sqlite_enter();
	terrace__connection_close(disk->writer);
	terrace__sqlite_leave();
	disk->writer = NULL;
	/* Nobody has used it: one who was making it has died. */
	remove_parts(disk, generation);
	rc = terrace__disk_create(disk, generation);
	disk->making = rc == TERRACE_OK ? generation : 0;
	return rc;
}

void terrace__disk_made(void *tier, bool used)
{
	struct disk *disk = tier;

	if (!used) {
		terrace__sqlite_enter();
		terrace__connection_close(disk->writer);
		terrace__sqlite_leave();
		disk->writer = NULL;
		remove_parts(disk, disk->making);
	}
	disk->making = 0;
	if (!used)
		return;
	atomic_store(&disk->suspected, false);
	atomic_store(&disk->verdicts, 0);
	terrace__disk_settle(disk);
}

/* --- what was set aside ----------------------------------------------------------------------------- */

struct listing {
	char names[64][64];
	size_t count;
	uint32_t latest; /* database */
	uint32_t unused[32];
	size_t unused_count;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(b, a);
}

/* A file of a database, or what is left of one. */
static void list_part(const struct disk *disk, const char *name, struct listing *ret)
{
	uint32_t number = (uint32_t)strtoul(name + (strlen(name) > 3 ? 3 : 0), NULL, 10);
	struct database_name database = terrace__database_name(number);
	size_t size = strlen(database.text), part = 0;

	if (strncmp(name, database.text, size) != 0)
		return;
	while (part < ARRAY_LEN(parts) && strcmp(name + size, parts[part]) != 0)
		part++;
	if (part == 0 && number > ret->latest)
		ret->latest = number;
	if (part < ARRAY_LEN(parts) && number != disk_generation(disk) &&
	    ret->unused_count < ARRAY_LEN(ret->unused))
		ret->unused[ret->unused_count++] = number;
}

/* At the end NULL, and errno is zero. */
static struct dirent *next_in(DIR *dir)
{
	errno = 0;
	return readdir(dir);
}

/*
 * What was set aside, the latest first; and the databases, whose latest is in use or
 * to be. An error where that cannot be said of all.
 */
static int list(const struct disk *disk, struct listing *ret)
{
	int fd = openat(disk->dir_fd, ".", O_DIRECTORY | O_RDONLY | O_CLOEXEC), err;
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *item;

	*ret = (struct listing){ .count = 0 };
	err = errno;
	if (!dir && fd >= 0)
		close(fd);
	while (dir && (item = next_in(dir))) {
		const char *name = item->d_name;
		size_t size = strlen(name);

		list_part(disk, name, ret);
		if (strncmp(name, ASIDE_PREFIX, strlen(ASIDE_PREFIX)) == 0 &&
		    size < sizeof ret->names[0] && ret->count < ARRAY_LEN(ret->names))
			memcpy(ret->names[ret->count++], name, size + 1);
	}
	if (dir) {
		err = errno;
		closedir(dir);
	}
	qsort(ret->names, ret->count, sizeof ret->names[0], by_name);
	if (err == 0)
		return TERRACE_OK;
	terrace__message_set("l2 cannot look which database is in use: %s", strerror(err));
	return err == ENOMEM ? TERRACE_ENOMEM : TERRACE_EIO;
}

int terrace__disk_latest(void *tier, uint32_t *ret)
{
	struct listing listing;
	int rc = list(tier, &listing);

	*ret = listing.latest;
	return rc;
}

static uint64_t size_of(const struct disk *disk, const char *name)
{
	struct stat st;

	if (fstatat(disk->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	return (uint64_t)st.st_blocks * 512;
}

static bool is_log(const char *name)
{
	size_t size = strlen(name);

	return size > 4 && strcmp(name + size - 4, "-wal") == 0;
}

uint64_t terrace__disk_aside(void *tier, uint64_t most_bytes)
{
	struct disk *disk = tier;
	struct listing listing;
	uint64_t bytes = 0;
	unsigned kept = 0;

	list(disk, &listing);
	/* Left by who died while it made another one, or could not remove it. */
	for (size_t i = 0; i < listing.unused_count; i++)
		remove_parts(disk, listing.unused[i]);
	/* By name, latest first, a log comes just before its database. */
	for (size_t i = 0; i < listing.count; i++) {
		const char *name = listing.names[i];
		uint64_t size = size_of(disk, name);

		if (kept >= KEPT || bytes + size > most_bytes) {
			unlinkat(disk->dir_fd, name, 0);
			continue;
		}
		bytes += size;
		kept += !is_log(name);
	}
	return bytes;
}

void terrace__disk_set_aside(void *tier, uint32_t generation, int64_t when)
{
	struct disk *disk = tier;
	time_t seconds = (time_t)(when / 1000);
	char date[32] = "", old[32], new[64];
	struct tm utc;

	if (gmtime_r(&seconds, &utc))
		strftime(date, sizeof date, "%Y%m%dT%H%M%SZ", &utc);
	/* The log first: without it the database would read as an older one. */
	for (int part = 1; part >= 0; part--) {
		snprintf(old, sizeof old, "%s%s", terrace__database_name(generation).text,
		         parts[part]);
		snprintf(new, sizeof new, ASIDE_PREFIX "%s-%s", date, old);
		renameat(disk->dir_fd, old, disk->dir_fd, new);
	}
	remove_parts(disk, generation);
}
