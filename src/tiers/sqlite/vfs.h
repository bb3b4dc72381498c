/* The files of the database, between SQLite and the system. */
#ifndef TIERS_SQLITE_VFS_H
#define TIERS_SQLITE_VFS_H

#include <sqlite3.h>
#include <stdbool.h>

/* Bytes at the end of each page that SQLite leaves alone. */
enum { PAGE_SUM_BYTES = 8 };

/* For sqlite3_open_v2(); NULL: there is no other one beneath it. */
const char *terrace__vfs(void);

/* Before the first table is made: leave room for the sums. False when SQLite cannot. */
bool terrace__vfs_make(sqlite3 *db);

/* Have the database take no readers' locks from now on, or take them again; nothing where it cannot. */
void terrace__vfs_unlock(sqlite3 *db, bool unlocked);
bool terrace__vfs_can_unlock(sqlite3 *db);

#endif
