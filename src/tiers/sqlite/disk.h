/*
 * L2 and L3 behind one catalogue: a SQLite database in WAL mode whose rows hold
 * the entry's head and either its payload (L2) or the number of the file that
 * has it (L3).
 *
 * Rows come in order of arrival within their cache, whose number is the front
 * of the id. Lookup goes by a 64-bit hash (terrace__row_hash()); the key is compared in the
 * head. A second key with the same hash replaces the first, which costs a miss, and is told
 * (tier_put.displaced).
 */
#ifndef SQLITE_DISK_H
#define SQLITE_DISK_H

#include "tiers/files/files.h"
#include "tiers/tier.h"

struct disk;

/* Let fork() wait, for a moment, until no thread is within SQLite. Once a process. */
int terrace__disk_watch_forks(void);
/* In a child: was that so, and may what it inherited be closed? */
bool terrace__disk_fork_was_quiet(void);

extern const struct disk_ops terrace__disk_ops;

/*
 * The disk, with its database not looked at yet. Borrows dir_fd and shared.
 *
 * value_max: larger ones are not decoded: nobody could have put them here; 0: any
 * path: of the directory, for SQLite and for messages; it is not followed
 *       through links by the caller's choice of it.
 */
int terrace__disk_open(int dir_fd, const char *path, struct disk_shared *shared, bool read_only,
                       uint64_t log_bytes, uint64_t value_max, struct disk **ret);

#endif
