/*
 * What the processes of a store share beside the database: a file that each of
 * them maps. It says which copies in memory are still good. Everything in it
 * can be made anew from the database when no process is attached.
 *
 * Every key falls on one of VERSIONS slots. An entry in L1 remembers the slot's
 * version from before its row was read and is good only while the two are
 * equal, so that one load tells a hit that nobody has written the key since.
 * Two keys on one slot cost a miss, never a wrong hit.
 *
 * A version is a number and two marks. `writing` says that a transaction that
 * changes the slot is under way. A writer, who holds the writers' lock (see
 * write.h):
 *
 *     1  marks the slot: a higher number, and writing
 *     2  commits
 *     3  counts up `commits`
 *     4  takes the mark off
 *     5  returns to its caller
 *
 * A reader loads version and epoch first, then reads the row, and puts it into
 * L1 under what it loaded, unless that was marked. What it read before step 2
 * carries a version from before step 1, or is not kept; so after step 5 no L1
 * anywhere gives it. A writer that dies on the way leaves marked slots:
 * everybody reads the database, which has the transaction or has it not; the
 * next writer sees `writing` below and takes the marks off.
 *
 * `behind` says that a value of the slot waits to be written (see behind.h):
 * the row is not to be trusted, and who has not the value itself misses. One
 * process at a time has values waiting for a slot. What they are stands in its
 * lane before the slot is marked, so that when it dies, the rows that it meant
 * to replace are removed before the mark comes off.
 *
 * A cache's epoch moves when more changes than can be named by key: then all
 * copies of the cache in memory are void. `bulk` moves with every such change,
 * and tells a loader that its value was computed before one. Rows with a
 * sequence number up to `floor` are dead, though they may still be there.
 *
 * A cache in memory alone has no rows to read again, so a collision would lose
 * a value. While one process holds all its entries (`holder`), that process
 * orders its own writes by its table and moves no version; other processes move
 * them when they delete. A second process that wants to put makes the holder
 * "many" and moves the epoch; from then on all of them move versions.
 *
 * docs/COHERENCE.md has the whole protocol and the reasons.
 */
#ifndef CORE_COHERENCE_H
#define CORE_COHERENCE_H

#include "tiers/tier.h"

#include <terrace/base.h>

#include <stdatomic.h>

enum {
	FORMAT_VERSION = 1,
	CACHES_MAX = 1024,
	VERSIONS = 1 << 19,        /* slots of keys that are on disk */
	MEMORY_VERSIONS = 1 << 17, /* behind them, slots of keys in memory alone */
	OUTCOMES = 256,
	LANES = 32,   /* processes that write behind at the same time */
	MARKS = 2048, /* values that may wait in each */
};

/* A version: its number in steps, and the marks. */
#define VERSION_WRITING UINT64_C(1)
#define VERSION_BEHIND  UINT64_C(2)
#define VERSION_STEP    UINT64_C(4)

/* Several processes hold entries of a cache that is in memory alone. */
#define HELD_BY_MANY UINT64_MAX

struct shared_cache {
	_Alignas(64) _Atomic uint64_t epoch;
	_Atomic uint64_t bulk;
	_Atomic uint64_t floor;
	_Atomic uint32_t in_use; /* the name below is whole */
	/* Rows went without their slots being marked (eviction, damage), so
	 * memory may hold copies that no row leads to. */
	_Atomic uint32_t rowless;
	/* In memory alone: the process that has entries of it; see below. */
	_Atomic uint64_t holder;
	char name[TERRACE_NAME_MAX + 1];
};

/* How a loader failed, for those in other processes who waited for it. */
struct shared_outcome {
	_Atomic uint64_t hash; /* of the key; 0: none */
	_Atomic uint64_t turn; /* moves with each outcome written here */
	_Atomic int64_t made;
	_Atomic int32_t code;
};

/* A value that waits: the rows of the hash up to `seq` are out of date. */
struct shared_mark {
	_Atomic uint64_t hash;
	_Atomic uint64_t seq;
	_Atomic uint32_t slot;
	_Atomic uint32_t cache;
};

/* The values of one process that wait, from head to tail, round and round. Its
 * lock is a byte of the lock file. */
struct shared_lane {
	_Alignas(64) _Atomic uint64_t head;
	_Atomic uint64_t tail;
	struct shared_mark marks[MARKS];
};

struct shared {
	char magic[8];
	uint32_t format;
	uint32_t size;
	uint64_t seed; /* of the hashes; the database has it too */
	uint8_t boot_id[16];
	_Atomic int64_t clock_base; /* store clock = time since boot + this */
	_Atomic int64_t last_time;  /* the latest that anybody has written */
	uint64_t check;             /* hash of the fields above that never change */

	_Alignas(64) _Atomic uint64_t seq;         /* the last number drawn */
	_Alignas(64) _Atomic uint64_t commits;     /* finished transactions */
	_Atomic uint64_t committed;                /* the database knows of this number */
	_Atomic uint64_t writing;                  /* a transaction is under way */
	_Alignas(64) _Atomic uint32_t writer_turn; /* futex: the writers' lock came free */
	_Atomic uint32_t writer_waiters;
	/* A program begins, or has open, a transaction: nobody writes behind.
	 * Cleared under the writers' lock alone. */
	_Atomic uint32_t transaction;
	_Alignas(64) _Atomic uint32_t flight_turn; /* futex: a flight has landed */

	struct disk_shared disk;
	_Atomic uint64_t aside_bytes; /* of databases that were set aside */

	struct shared_cache caches[CACHES_MAX];
	struct shared_outcome outcomes[OUTCOMES];
	struct shared_lane lanes[LANES];
	_Alignas(64) _Atomic uint64_t versions[VERSIONS + MEMORY_VERSIONS];
};

static inline uint64_t version_load(const struct shared *shared, uint32_t slot)
{
	return atomic_load_explicit(&shared->versions[slot], memory_order_acquire);
}

static inline bool version_is_writing(uint64_t version)
{
	return version & VERSION_WRITING;
}

static inline bool version_is_behind(uint64_t version)
{
	return version & VERSION_BEHIND;
}

static inline uint64_t version_number(uint64_t version)
{
	return version / VERSION_STEP;
}

/* The next sequence number. */
static inline uint64_t shared_draw(struct shared *shared)
{
	return atomic_fetch_add(&shared->seq, 1) + 1;
}

/* Step 1, giving the new version. Only under the writers' lock. */
uint64_t terrace__version_mark(struct shared *shared, uint32_t slot);
/* The same if the slot still has this number; 0 when it has not. */
uint64_t terrace__version_mark_if(struct shared *shared, uint32_t slot, uint64_t number);
/*
 * Step 4, of what was marked with the number; false when the mark was off
 * already. *ret is what a copy of this write may carry; 0 when a value that
 * waits has moved the slot on meanwhile.
 */
bool terrace__version_clear(struct shared *shared, uint32_t slot, uint64_t number, uint64_t *ret);
/* Of a key in memory alone, without the lock: the copies of other processes are void. */
uint64_t terrace__version_move(struct shared *shared, uint32_t slot);

/* The last writer died: take off the marks that it left. Under the writers' lock. */
void terrace__versions_repair(struct shared *shared);

/* Void all copies in memory of a cache's entries. */
uint64_t terrace__epoch_move(struct shared *shared, struct shared_cache *cache);
/* Many entries of the cache change or go: loads under way are outdated. */
void terrace__bulk_move(struct shared *shared, struct shared_cache *cache);

/*
 * Map the file, making it where it is missing or damaged; `*ret_fresh` then
 * says that the fields from the database are for the caller to fill in, before
 * terrace__shared_publish(). Under the attach lock.
 */
int terrace__shared_open(int dir_fd, struct shared **ret, bool *ret_fresh);
int terrace__shared_publish(int dir_fd, struct shared *shared);
void terrace__shared_close(struct shared *shared);

#endif
