/* The files of the database, between SQLite and the system. */
#ifndef TIERS_SQLITE_VFS_H
#define TIERS_SQLITE_VFS_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes at the end of each page that SQLite leaves alone. */
enum { PAGE_SUM_BYTES = 8 };
/*
 * The seed of their sums, and the page's number. It goes up when rows come to be found
 * otherwise: an older database then counts as damaged.
 */
#define PAGE_SUM_SEED (UINT64_C(1) << 56)

/* For sqlite3_open_v2(); NULL: there is no other one beneath it. */
const char *terrace__vfs(void);

/* Before the first table is made: leave room for the sums. False when SQLite cannot. */
bool terrace__vfs_make(sqlite3 *db);

/*
 * What the thread has read from databases lately, the last 16 of `count`; who wants to
 * know sets it to 0 before.
 */
enum { VFS_READS = 16 };
/* Of an address: it is in the log. Its pages lie so far apart. */
#define VFS_IN_LOG (UINT64_C(1) << 46)
enum { VFS_LOG_STEP = 24 + 4096 };
struct vfs_reads {
	uint64_t count;
	struct vfs_read {
		uint64_t at; /* 0: it was no page, or the first */
		/* In SQLite's memory, which may hold another by now; NULL: part of a page. */
		const uint8_t *page;
	} last[VFS_READS];
};
extern _Thread_local struct vfs_reads terrace__vfs_reads;

/* The last but `back`; all zero where that is not known. */
static inline struct vfs_read vfs_read_before(uint64_t back)
{
	const struct vfs_reads *reads = &terrace__vfs_reads;

	return back < reads->count && back < VFS_READS ?
	           reads->last[(reads->count - 1 - back) % VFS_READS] :
	           (struct vfs_read){ 0 };
}

/* From the database's file or its log, whatever their pages are. False: it cannot be read, or ends
 * before that. */
bool terrace__vfs_read(sqlite3 *db, void *ret, size_t size, uint64_t at);

/* Have the database take no readers' locks from now on, or take them again; nothing where it cannot. */
void terrace__vfs_unlock(sqlite3 *db, bool unlocked);
bool terrace__vfs_can_unlock(sqlite3 *db);

#endif
