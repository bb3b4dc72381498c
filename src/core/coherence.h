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
 * `behind` says that a value of the slot waits in a lane to be written (see
 * lane.h): it is read there, and its row is not to be trusted. In one lane at a
 * time values wait for a slot. They stand there before the slot is marked, so
 * that whoever finds the mark can write them down, their process alive or dead.
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
#include <time.h>

enum {
	FORMAT_VERSION = 2,
	CACHES_MAX = 1024,
#ifndef TERRACE_CROWDED
	VERSIONS = 1 << 19,        /* slots of keys that are on disk */
	MEMORY_VERSIONS = 1 << 17, /* behind them, slots of keys in memory alone */
	OUTCOMES = 256,
	LANES = 16,           /* processes whose values wait at the same time */
	MARKS = 2048,         /* values that may wait in each */
	AT_BITS = 16,         /* of their numbers, in `waiting` */
	LANE_BYTES = 4 << 20, /* at most; see lane.c */
	ACCESSES = 1024,
#else /* for a proof: so little of each that all of it is shared, full and come round */
	VERSIONS = 64,
	MEMORY_VERSIONS = 16,
	OUTCOMES = 4,
	LANES = 3,
	MARKS = 32,
	AT_BITS = 6,
	LANE_BYTES = 64 << 10,
	ACCESSES = 16,
#endif
};

/* A version: its number in steps, and the marks. */
#define VERSION_WRITING UINT64_C(1)
#define VERSION_BEHIND  UINT64_C(2)
#define VERSION_STEP    UINT64_C(4)

/* Several processes hold entries of a cache that is in memory alone. */
#define HELD_BY_MANY UINT64_MAX

/*
 * A word of the file that must not be believed when its bits have changed: a
 * value of 44 bits, and a check of value, place and file. One flipped bit never
 * makes a word that holds, so that a version or an epoch that is damaged is not
 * one that any copy was ever made under; more damage does so once in a million.
 * The value is above, so that of two words of a place the later one is greater.
 */
enum { WORD_BITS = 44, CHECK_BITS = 64 - WORD_BITS };
#define WORD_MASK (((uint64_t)1 << WORD_BITS) - 1)

/* Places; the versions come first. */
enum {
	PLACE_EPOCHS = VERSIONS + MEMORY_VERSIONS,
	PLACE_FLOORS = PLACE_EPOCHS + CACHES_MAX,
	PLACE_MARKS = PLACE_FLOORS + CACHES_MAX,
	PLACE_MARK_SEQS = PLACE_MARKS + LANES * MARKS,
	PLACE_IMMUTABLE = PLACE_MARK_SEQS + LANES * MARKS,
	PLACE_SEQ = PLACE_IMMUTABLE + CACHES_MAX,
	PLACE_COMMITS,
	PLACE_COMMITTED,
	PLACE_TIME,
	PLACE_UNSYNCED,
	PLACE_LOOSE,
	PLACE_HEADS,
	PLACE_TAILS = PLACE_HEADS + LANES,
	PLACES = PLACE_TAILS + LANES,
};
_Static_assert(PLACES <= 1 << CHECK_BITS, "a place must fit beside a value");

/* No flipped bit makes it zero. */
#define SOMEBODY_WRITES UINT64_MAX

/* The rows of a cache; anything else than WHOLE, damage too, means that some may lack. */
enum { ROWS_LACK = 0, ROWS_WHOLE = 0x5aa5c33c };

struct shared_cache {
	_Alignas(64) _Atomic uint64_t epoch; /* word */
	_Atomic uint64_t bulk;
	_Atomic uint64_t floor; /* word; see terrace__floor() */
	_Atomic uint64_t named; /* check of the name below, which is whole; 0: none */
	/* Rows went without their slots being marked (eviction, damage), so
	 * memory may hold copies that no row leads to. */
	_Atomic uint32_t rows;
	/* Moves when tiers of the disk were cleared: copies in memory are good, and where
	 * rows were seen is not. */
	_Atomic uint32_t cleared;
	/* In memory alone: the process that has entries of it; see below. */
	_Atomic uint64_t holder;
	char name[TERRACE_NAME_MAX + 1];
	_Atomic uint64_t immutable; /* word: 1, its values follow from their keys */
};

/* How a loader failed, for those in other processes who waited for it. */
struct shared_outcome {
	_Atomic uint64_t hash; /* of the key, mixed with the code */
	_Atomic uint64_t turn; /* moves with each outcome written here */
	_Atomic int64_t made;
	_Atomic int32_t code;
};

/*
 * A value that waits; see lane.h. A cache line, because whoever reads one of
 * another process waits for it.
 */
struct shared_mark {
	_Alignas(64) _Atomic uint64_t seq; /* word: rows up to it are out of date; 0: unfinished */
	_Atomic uint64_t where;            /* word: slot, and the cache's number above it */
	_Atomic uint64_t version;          /* of the slot, as a word: good while that is so */
	_Atomic uint64_t epoch;            /* of the cache, the same */
	_Atomic uint64_t hash;
	_Atomic uint64_t place; /* of the record: where in the lane's part of the file, and size */
	_Atomic uint64_t prev;  /* 1 + the number of the one before it for the slot; 0: none */
	_Atomic uint64_t check; /* of hash, place, prev and number */
};

/* The values of one process that wait, from head to tail, round and round. Its
 * lock is a byte of this file. */
struct shared_lane {
	_Alignas(64) _Atomic uint64_t head; /* word */
	_Atomic uint64_t bytes;             /* that its part of the file has on the device */
	_Alignas(64) _Atomic uint64_t tail; /* word */
	struct shared_mark marks[MARKS];
};

/* Hits of a key below L1 that its row does not say yet; see access.c. */
struct shared_access {
	_Atomic uint64_t hash;  /* of its row */
	_Atomic uint64_t count; /* 0: the place is free */
	_Atomic int64_t when;   /* the last */
};

/* What does not change while anybody is attached; each of them has a copy. */
struct shared_head {
	char magic[8];
	uint32_t format;
	uint32_t size;
	uint64_t seed; /* of the hashes; the database has it too */
	uint64_t salt; /* of the words' checks */
	uint8_t boot_id[16];
	int64_t clock_base; /* store clock = time since boot + this */
	uint64_t check;     /* of the fields above */
};

struct shared {
	struct shared_head head;
	_Atomic uint64_t last_time; /* word: the latest that anybody has written */

	_Alignas(64) _Atomic uint64_t seq;         /* word: the last number drawn */
	_Alignas(64) _Atomic uint64_t commits;     /* word: finished transactions */
	_Atomic uint64_t committed;                /* word: the database knows of this number */
	_Atomic uint64_t writing;                  /* a transaction is under way: SOMEBODY_WRITES */
	_Atomic uint32_t hurt;                     /* a word did not hold: look at all of them */
	_Alignas(64) _Atomic uint32_t writer_turn; /* futex: the writers' lock came free */
	_Atomic uint32_t writer_waiters;
	/* A program begins, or has open, a transaction: nobody writes behind.
	 * Cleared under the writers' lock alone. */
	_Atomic uint32_t transaction;
	/* A bit for each lane that a process has had: another has nothing for who comes. Who
	 * needs rows looks at all of them, whatever it says. */
	_Atomic uint32_t lanes_taken;
	_Alignas(64) _Atomic uint32_t flight_turn; /* futex: a flight has landed */
	_Atomic uint64_t unsynced; /* word: 1, the file says that this boot writes; see power.h */
	_Atomic uint64_t loose;    /* word: 1, the database is not synced either */

	struct disk_shared disk;
	_Atomic uint64_t aside_bytes; /* of databases that were set aside */

	struct shared_cache caches[CACHES_MAX];
	struct shared_outcome outcomes[OUTCOMES];
	/* What all processes together have put, ever: see room.c. */
	_Alignas(64) _Atomic uint64_t put_bytes;
	_Atomic uint64_t put_entries;
	_Alignas(64) _Atomic uint32_t access_count; /* places taken, or nearly */
	uint32_t access_turn; /* the next to be written down; under the writers' lock */
	struct shared_access accesses[ACCESSES];
	struct shared_lane lanes[LANES];
	_Atomic uint32_t
	    waiting[VERSIONS]; /* lane and place of what waits, if it does; see lane.c */
	_Alignas(64) _Atomic uint64_t versions[VERSIONS + MEMORY_VERSIONS];
	struct shared_head spare; /* the head once more, far from it */
};

static inline uint64_t word_make(const struct shared *shared, uint32_t place, uint64_t value)
{
	uint64_t mixed = ((value & WORD_MASK) | (uint64_t)place << WORD_BITS) ^ shared->head.salt;

	/* The odd constant of Fibonacci hashing (Knuth, volume 3, 6.4): of its
	 * product the upper bits depend on every bit below. */
	mixed = mixed * UINT64_C(0x9e3779b97f4a7c15) >> WORD_BITS;
	return value << CHECK_BITS | mixed;
}

static inline uint64_t word_value(uint64_t word)
{
	return word >> CHECK_BITS;
}

static inline bool word_holds(const struct shared *shared, uint32_t place, uint64_t word)
{
	return word_make(shared, place, word_value(word)) == word;
}

/* Of words that are 1 or 0: a damaged one is not 1. */
static inline bool word_is_one(const struct shared *shared, uint32_t place,
                               const _Atomic uint64_t *word)
{
	return atomic_load_explicit(word, memory_order_relaxed) == word_make(shared, place, 1);
}

static inline bool shared_is_unsynced(const struct shared *shared)
{
	return word_is_one(shared, PLACE_UNSYNCED, &shared->unsynced);
}

static inline bool shared_is_loose(const struct shared *shared)
{
	return word_is_one(shared, PLACE_LOOSE, &shared->loose);
}

static inline bool cache_is_immutable(const struct shared *shared, const struct shared_cache *cache)
{
	return word_is_one(shared, PLACE_IMMUTABLE + (uint32_t)(cache - shared->caches),
	                   &cache->immutable);
}

static inline uint64_t version_load(const struct shared *shared, uint32_t slot)
{
	return atomic_load_explicit(&shared->versions[slot], memory_order_acquire);
}

/* Its version, and what waits for it, will be looked at. */
static inline void slot_soon(const struct shared *shared, uint32_t slot)
{
	__builtin_prefetch((const void *)&shared->versions[slot]);
	__builtin_prefetch((const void *)&shared->waiting[slot]);
}

static inline bool version_is_writing(uint64_t version)
{
	return word_value(version) & VERSION_WRITING;
}

static inline bool version_is_behind(uint64_t version)
{
	return word_value(version) & VERSION_BEHIND;
}

static inline uint64_t version_number(uint64_t version)
{
	return word_value(version) / VERSION_STEP;
}

/* The next sequence number. */
uint64_t terrace__draw(struct shared *shared);

uint64_t terrace__version_mend(struct shared *shared, uint32_t slot, uint64_t version);

/*
 * The version of a slot, to go by its marks. One that does not hold is moved to
 * a new number, with both marks: until the next writer has looked at it, nobody
 * keeps a copy, and the row counts as waiting to be replaced.
 */
static inline uint64_t version_look(struct shared *shared, uint32_t slot, uint64_t version)
{
	return word_holds(shared, slot, version) ? version :
	                                           terrace__version_mend(shared, slot, version);
}

/* The same for who may only read: what does not hold counts as if it had both marks. */
static inline uint64_t version_see(const struct shared *shared, uint32_t slot, uint64_t version)
{
	return word_holds(shared, slot, version) ?
	           version :
	           word_make(shared, slot, VERSION_WRITING | VERSION_BEHIND);
}

/* Rows with a sequence number up to it are dead; all of them, UINT64_MAX, where that is damaged. */
uint64_t terrace__floor(const struct shared *shared, const struct shared_cache *cache);
void terrace__floor_set(struct shared *shared, struct shared_cache *cache, uint64_t floor);

void terrace__immutable_set(struct shared *shared, struct shared_cache *cache, bool immutable);
void terrace__unsynced_set(struct shared *shared, bool unsynced);
/* Under the writers' lock, or alone. */
void terrace__loose_set(struct shared *shared, bool loose);

/* A transaction has ended: step 3. Under the writers' lock. */
void terrace__commits_count(struct shared *shared);

/*
 * Has nothing but the row of what waited been written since? A number moves with
 * every write; that a value which waited under it has become its row takes a mark off.
 */
static inline bool version_stands(const struct shared *shared, uint32_t slot, uint64_t was,
                                  uint64_t now)
{
	return was == now || (word_value(was) == (word_value(now) | VERSION_BEHIND) &&
	                      word_holds(shared, slot, now));
}

/* A lane's mark; false where it is damaged, and may be of any slot. */
bool terrace__mark_where(const struct shared *shared, const struct shared_mark *mark,
                         uint32_t *ret_slot, uint32_t *ret_cache);
void terrace__mark_set(struct shared *shared, struct shared_mark *mark, uint32_t slot,
                       uint32_t cache);
/* Its sequence number, 0 while it is unfinished; false where that is damaged. */
bool terrace__mark_seq(const struct shared *shared, const struct shared_mark *mark,
                       uint64_t *ret_seq);
void terrace__mark_seq_set(struct shared *shared, struct shared_mark *mark, uint64_t seq);

/* Is the entry's name what it was when it was given? */
bool terrace__cache_is_named(const struct shared *shared, uint32_t number);
void terrace__cache_name(struct shared *shared, uint32_t number, const char *name);

/*
 * Step 1, giving the new version; 0 when a value waits for the slot, but `always`. Only
 * under the writers' lock.
 */
uint64_t terrace__version_mark(struct shared *shared, uint32_t slot, bool always);
/*
 * Step 4, of what was marked with the number; false when the mark was off
 * already. *ret is what a copy of this write may carry; 0 when a value that
 * waits has moved the slot on meanwhile.
 */
bool terrace__version_clear(struct shared *shared, uint32_t slot, uint64_t number, uint64_t *ret);
/* Of a key in memory alone, without the lock: the copies of other processes are void. */
uint64_t terrace__version_move(struct shared *shared, uint32_t slot);

/*
 * The last writer died, or a word was found damaged: take off the marks that are
 * left, and make all words whole. Under the writers' lock.
 */
void terrace__shared_repair(struct shared *shared);

/* Void all copies in memory of a cache's entries. *ret_old, which may be NULL: the epoch until then. */
uint64_t terrace__epoch_move(struct shared *shared, struct shared_cache *cache, uint64_t *ret_old);
/* Many entries of the cache change or go: loads under way are outdated. */
void terrace__bulk_move(struct shared *shared, struct shared_cache *cache);

/* --- shared.c: the file --------------------------------------------------------------- */

/* What became of the file that was to be opened. */
enum shared_state {
	SHARED_JOINED, /* others have it */
	SHARED_KEPT,   /* it is as it was left, in this boot */
	SHARED_REBOOT, /* made anew: it was of another boot, and may say less than the database;
	                  the time that it knew is kept */
	SHARED_LOST,   /* made anew: it was missing or damaged */
};

/*
 * Open and map the file, or make one where it is missing, damaged, or of
 * another boot than this. A file that was made anew says nothing but the boot:
 * the rest of the head and what the database knows are for the caller to fill
 * in, before terrace__shared_publish(). Under the attach lock.
 *
 * others: some process has the store open, as far as the lock file knows. A
 * file that is not the one that others have is TERRACE_EBUSY: we could not see
 * what they write.
 */
int terrace__shared_open(int dir_fd, const uint8_t boot[16], bool others, struct shared **ret,
                         int *ret_fd, enum shared_state *ret_state);
/*
 * For reading alone. *ret_fd is -1 where there is none, *ret NULL where it is
 * too short to be looked at; *ret_whole: and what it says may be believed.
 */
int terrace__shared_look(int dir_fd, struct shared **ret, int *ret_fd, bool *ret_whole);
/* Words that hold, and say nothing. */
void terrace__shared_fill(struct shared *shared);
/* Make it the store's; its head is what it will be. */
int terrace__shared_publish(int dir_fd, struct shared *shared);
/* Is it the lock file, of those that have had that name? */
bool terrace__attach_is_named(int dir_fd, int attach_fd);
/*
 * Under the writers' lock: when the lock file was replaced, say in the new one,
 * too, that we are there. *seen: when the directory was last looked at.
 */
void terrace__attach_tend(int dir_fd, int attach_fd, struct timespec *seen);
/* Under the writers' lock: put right what changed in the file behind our back. True when it did. */
bool terrace__shared_tend(struct shared *shared, int fd, const struct shared_head *head);
void terrace__shared_close(struct shared *shared);

#endif
