/*
 * What we have SQLite do otherwise with its files.
 *
 * Each page of the database ends with a sum over itself and its number. SQLite
 * finds damage that its structures cannot have; a page of an index that lost a
 * row, or an older page in the place of another, is none for it, and a get would
 * find the row that an insert had not found. So a page that does not have its
 * sum is malformed as it is read. Pages get their sums when they are written to
 * the database, and have none in the log, which is read in the same boot.
 *
 * A reader that holds on to a snapshot takes no locks: see snapshot.c.
 */
#include "tiers/sqlite/vfs.h"

#include "tiers/sqlite/connection.h"
#include "util/buf.h"
#include "util/hash.h"

/* The locks of a reader come behind those of writer, checkpoint and recovery (SQLite,
 * "WAL-mode file format", section 2.3.1). */
enum { FIRST_READER = 3 };

/* Where the first page says how many bytes of each are left alone ("Database File Format", 1.3). */
enum { RESERVED_AT = 20 };

enum { SUM_AT = PAGE_BYTES - PAGE_SUM_BYTES };

/* Each page of the log has a head in front of it (same place, section 4.2). */
_Static_assert((int)VFS_LOG_STEP == 24 + (int)PAGE_BYTES, "pages of the log lie so far apart");

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

/* --- pages -------------------------------------------------------------------------------------- */

/* The head of the file is read in parts, too, and as a page before anything of it counts. */
static bool is_page(int size, sqlite3_int64 at)
{
	return size == PAGE_BYTES && at % PAGE_BYTES == 0;
}

static void sum(const uint8_t *page, sqlite3_int64 at, uint8_t ret[PAGE_SUM_BYTES])
{
	terrace__store_u64(
	    ret, terrace__hash64(page, SUM_AT, PAGE_SUM_SEED + (uint64_t)(at / PAGE_BYTES)));
}

_Thread_local struct vfs_reads terrace__vfs_reads;

static void note_read(sqlite3_int64 at, const void *page)
{
	terrace__vfs_reads.last[terrace__vfs_reads.count++ % VFS_READS] =
	    (struct vfs_read){ (uint64_t)at, page };
}

/* SQLite takes EIO for damage (unixRead): it may pass, and must not cost a database. */
static int read_bytes(sqlite3_file *file, void *data, int size, sqlite3_int64 at)
{
	int rc = guard_of(file)->real->xRead(file, data, size, at);

	return rc == SQLITE_IOERR_CORRUPTFS ? SQLITE_IOERR_READ : rc;
}

static int read_log(sqlite3_file *file, void *data, int size, sqlite3_int64 at)
{
	note_read(size == PAGE_BYTES ? at | (sqlite3_int64)VFS_IN_LOG : 0, data);
	return read_bytes(file, data, size, at);
}

static int read_page(sqlite3_file *file, void *data, int size, sqlite3_int64 at)
{
	int rc = read_bytes(file, data, size, at);
	const uint8_t *page = data;
	uint8_t is[PAGE_SUM_BYTES];

	/* Parts go to buffers that are no longer than that. */
	note_read(at, size == PAGE_BYTES ? data : NULL);
	if (rc != SQLITE_OK || !is_page(size, at))
		return rc;
	sum(page, at, is);
	return memcmp(page + SUM_AT, is, sizeof is) == 0 ? SQLITE_OK : SQLITE_CORRUPT;
}

static int write_page(sqlite3_file *file, const void *data, int size, sqlite3_int64 at)
{
	/* SQLite does not look at what it leaves alone: its copy may have the sum, too. */
	uint8_t *page = (uint8_t *)(uintptr_t)data;

	if (!is_page(size, at) || (at == 0 && page[RESERVED_AT] != PAGE_SUM_BYTES))
		return SQLITE_IOERR_WRITE;
	sum(page, at, page + SUM_AT);
	return guard_of(file)->real->xWrite(file, data, size, at);
}

bool terrace__vfs_make(sqlite3 *db)
{
	int bytes = PAGE_SUM_BYTES;

	return sqlite3_file_control(db, "main", SQLITE_FCNTL_RESERVE_BYTES, &bytes) == SQLITE_OK;
}

/* --- locks -------------------------------------------------------------------------------------- */

static int lock(sqlite3_file *file, int offset, int count, int flags)
{
	struct guard *guard = guard_of(file);

	if (guard->unlocked && flags & SQLITE_SHM_SHARED && offset >= FIRST_READER)
		return SQLITE_OK;
	return guard->real->xShmLock(file, offset, count, flags);
}

/* NULL: it is not open, or not as ours. */
static sqlite3_file *file_of(sqlite3 *db)
{
	sqlite3_file *file = NULL;

	sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, (void *)&file);
	return file && file->pMethods && file->pMethods->xShmLock == lock ? file : NULL;
}

/* NULL: there is none yet. */
static sqlite3_file *log_of(sqlite3 *db)
{
	sqlite3_file *file = NULL;

	sqlite3_file_control(db, "main", SQLITE_FCNTL_JOURNAL_POINTER, (void *)&file);
	return file && file->pMethods && file->pMethods->xRead == read_log ? file : NULL;
}

bool terrace__vfs_can_unlock(sqlite3 *db)
{
	return file_of(db) != NULL;
}

void terrace__vfs_unlock(sqlite3 *db, bool unlocked)
{
	sqlite3_file *file = file_of(db);

	if (file)
		guard_of(file)->unlocked = unlocked;
}

bool terrace__vfs_read(sqlite3 *db, void *ret, size_t size, uint64_t at)
{
	sqlite3_file *file = at & VFS_IN_LOG ? log_of(db) : file_of(db);
	sqlite3_int64 from = (sqlite3_int64)(at & ~VFS_IN_LOG);

	return file && guard_of(file)->real->xRead(file, ret, (int)size, from) == SQLITE_OK;
}

/* --- the VFS ------------------------------------------------------------------------------------ */

static int open_file(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *ret)
{
	int rc = real->xOpen(real, name, file, flags, ret);
	struct guard *guard = guard_of(file);

	(void)vfs;
	if (rc != SQLITE_OK || !(flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL)))
		return rc;
	guard->real = file->pMethods;
	guard->methods = *file->pMethods;
	guard->methods.xRead = read_log;
	if (flags & SQLITE_OPEN_MAIN_DB) {
		guard->methods.xRead = read_page;
		guard->methods.xWrite = write_page;
		if (guard->methods.iVersion >= 2 && guard->methods.xShmLock)
			guard->methods.xShmLock = lock;
		if (guard->methods.iVersion > 2)
			guard->methods.iVersion = 2; /* pages are read, and not mapped */
	}
	guard->unlocked = false;
	file->pMethods = &guard->methods;
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

const char *terrace__vfs(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, make_vfs);
	return real ? ours.zName : NULL;
}
