/*
 * Writing to the disk. One transaction at a time among all processes, guarded
 * by the writers' lock; threads of a process that write at the same time share
 * one: the first becomes the leader and commits what the others have queued.
 */
#ifndef CORE_WRITE_H
#define CORE_WRITE_H

#include "core/store.h"
#include "util/buf.h"

enum write_kind {
	WRITE_PUT,
	WRITE_ADD,    /* put, unless a live entry is there */
	WRITE_NUMBER, /* see terrace_incr() */
	WRITE_DELETE,
	WRITE_TOUCH,
	WRITE_DROP,   /* a dead or damaged entry: remove this write of it, marking nothing */
	WRITE_VACATE, /* whatever is there goes, for a copy in memory alone; see immediate.h */
};

/* What was true before a value was computed. */
struct write_lease {
	uint64_t version;
	uint64_t bulk;
	uint64_t epoch;
	const _Atomic bool
	    *outdated;  /* in memory alone: somebody here wrote the key; may be NULL */
	uint64_t since; /* what has a higher number came later; 0: that is not known */
};

struct write {
	enum write_kind kind;
	struct terrace_cache *cache;
	struct tier_put put; /* the key, and for puts the entry */
	struct record record;
	struct buf payload;              /* encoded, where that is not the entry's value */
	int file_fd;                     /* the file is being written while this is open */
	const struct write_lease *lease; /* store only if it still holds; may be NULL */
	bool held;                       /* the lease did when it was last tried … */
	uint64_t marked;                 /* … and this version is that try's own mark; 0: none */
	uint64_t until;                  /* delete: nothing that came later; 0: whatever is there */
	int64_t expires, ttl, now;       /* touch */
	int64_t initial, delta, sum;     /* number: what an absent one is, and the sum after */
	struct tier_note note;           /* delete, drop */
	bool in_memory;                  /* number: no row is made of it */
	uint64_t number;                 /* of the version that the slot was marked with */

	int rc;
	uint64_t stamp; /* for the copy in memory; 0: keep none */
};

/*
 * Do all of them in one transaction, or in one each where that fails; every
 * write has its own rc. Returns TERRACE_OK or the first failure.
 */
int terrace__write(struct terrace *store, struct write *writes, size_t count);

/*
 * Run `fn` alone: under the writers' lock, with no transaction open; once more
 * when it found the disk full and room could be made. Its return value is
 * passed on.
 */
int terrace__write_alone(struct terrace *store, int (*fn)(struct terrace *store, void *ctx),
                         void *ctx);

/*
 * Is this thread in the middle of one of the two above? It must not call them
 * again: it would wait for itself, and every process for it.
 */
bool terrace__write_leads(const struct terrace *store);

/* Within the core: what waits for a slot has to be written first, then all of it again. */
enum { WRITE_SETTLE = -1000 };

/*
 * For `fn` above: a transaction whose slots are marked as they change. Many
 * rows may go in several of them, so that others get their turn.
 */
struct transaction {
	struct terrace *store;
	struct transaction *within; /* what belongs to this thread's open one goes to that */
	bool yields;                /* marking a slot that a value waits for is WRITE_SETTLE */
	uint64_t seq;
	struct marked_slot {
		uint32_t slot;
		uint64_t number; /* of the version that it was marked with */
	} * slots;
	size_t slot_count, slot_capacity;
};

int terrace__transaction_begin(struct terrace *store, struct transaction *ret);
/* The slot's copies in memory are no longer good when this commits. */
int terrace__transaction_mark(struct transaction *transaction, uint32_t slot);
int terrace__transaction_commit(struct transaction *transaction);
void terrace__transaction_rollback(struct transaction *transaction);

/*
 * What comes with every transaction that writes rows, besides the rows: within it, uses
 * that nobody has written down yet, and whether the caches of these writes, in runs, hold
 * more than they may (the store is another question); after it, room for them.
 */
int terrace__write_uses(struct terrace *store);
bool terrace__caches_need_room(struct terrace *store, const struct write *writes, size_t count);
void terrace__caches_make_room(struct terrace *store, const struct write *writes, size_t count);
/* Of a write that is over: a file without a row is of no use. */
void terrace__write_file_done(struct terrace *store, struct write *write);

/*
 * The writers' lock, among threads and then among processes. TERRACE_EBUSY
 * after wait_ms. Whoever holds it has a transaction open or may begin one.
 */
int terrace__writer_lock(struct terrace *store, int64_t wait_ms);
void terrace__writer_unlock(struct terrace *store);

/*
 * SQLite said something that damage would explain: look at it, under the
 * writers' lock. True when there is another database now: try again.
 */
bool terrace__database_mend(struct terrace *store);

/* --- renew.c: under the writers' lock, no transaction open ------------------------------ */

/*
 * Another database in the place of this one, if it is damaged: TERRACE_MISS if
 * not. `surely`: it was found to be.
 */
int terrace__database_renew(struct terrace *store, bool surely);
/* The same with what is whole, but out of date: it is removed. Alone, while attaching. */
int terrace__database_discard(struct terrace *store);
/* Keep a few of those that were set aside, and count them. */
void terrace__database_aside(struct terrace *store);

/* --- transaction.c: transactions that programs hold open ------------------------------- */

/* This thread's on this store; NULL: none. */
struct transaction *terrace__transaction_mine(const struct terrace *store);
/* A part of it failed: it can only be rolled back. */
void terrace__transaction_break(struct transaction *mine, int rc);
/* Many entries of the cache change or go with it. */
void terrace__transaction_bulk(struct transaction *mine, uint32_t cache);
/* Why it can only be rolled back; TERRACE_OK: it is whole. */
int terrace__transaction_broken(const struct transaction *mine);
/* Go on with it; the failure after which it cannot, but it has to rest or end all the same. */
int terrace__transaction_resume(struct transaction *mine);
/* A file that is of no use if it is rolled back. */
int terrace__transaction_file(struct transaction *mine, uint64_t file);
/* Under the writers' lock, and none is open: has who began one died? */
void terrace__transaction_forget(struct terrace *store);
int terrace__begin(struct terrace *store, int64_t wait_ms);
int terrace__commit(struct terrace *store);
void terrace__rollback(struct terrace *store);

/* --- room.c --------------------------------------------------------------------------- */

/* Does the cache, or the store (NULL), hold more than its limits? */
bool terrace__over_limits(struct terrace *store, struct terrace_cache *cache);
/*
 * The same without the writers' lock, of a cache or of all (DISK_ANY_CACHE), in bytes: what
 * a store takes beside its entries is what this process saw last.
 */
uint64_t terrace__room_used(const struct terrace *store, uint32_t cache);
/* Put a row, and count it for that. Within a transaction. */
int terrace__row_put(struct terrace *store, struct tier_put *put);
/* Down to the limits of the cache and the store. Under the writers' lock, no transaction open. */
int terrace__make_room(struct terrace *store, struct terrace_cache *cache);
/*
 * The disk is full, and without space not even a row can be deleted: give the
 * log's space back to itself, and the coldest files back to the disk; with
 * none, where a row is what has to fit, the pages of the coldest rows. True when
 * that may have helped: the log alone the first time (`tries` is 0), entries
 * the second. Under the writers' lock, no transaction open.
 */
bool terrace__free_space(struct terrace *store, bool for_row, unsigned tries);
/* Count what was evicted from a cache, if it is open here. */
void terrace__count_evicted(struct terrace *store, uint32_t number,
                            const struct tier_evicted *evicted);
/* Remove expired rows of all caches; up to `most`. */
int terrace__expire(struct terrace *store, uint64_t most, uint64_t *ret_count);
/* Remove what was cleared from a cache and lies there still. */
int terrace__sweep(struct terrace *store, struct terrace_cache *cache, uint64_t *ret_count);

#endif
