/*
 * What the core knows of a tier: a table of functions. A tier stores bytes; it
 * has no policy, writes no log and calls nobody back but the visitor it was
 * given.
 */
#ifndef TIERS_TIER_H
#define TIERS_TIER_H

#include "tiers/entry.h"
#include "tiers/record.h"

#include <terrace/base.h>
#include <terrace/cache.h>
#include <terrace/stats.h>

#include <stdatomic.h>

struct block_reader;
struct block_writer;

/* A key, hashed once. */
struct tier_key {
	terrace_slice key;
	uint64_t hash;  /* of cache and key; finds it in memory */
	uint32_t slot;  /* of the version table; see core/coherence.h */
	uint32_t cache; /* its number */
};

/*
 * What finds a key's row, and all else that a database has by key. Keys that differ in
 * the last two digits of their last number are near each other, in its order, so that tiles, blocks
 * and records that are put one after the other change few pages of an index, and those that
 * expire together do; any others are as far apart as their hashes. The lowest bits are the
 * hash's. Two keys that have one are one row: who comes takes the other's place.
 */
enum { ROW_HASH_BITS = 45 };
uint64_t terrace__row_hash(const struct tier_key *key);

/* What a copy that is read from disk will be good under: loaded before it is read. */
struct tier_stamp {
	uint64_t version; /* of the key's slot */
	uint64_t epoch;   /* of the cache */
	uint32_t cleared; /* how often a tier of it was; of what is read where it was seen */
	/*
	 * Another key of the cache, whose row lies beside: hashed, and its version as it is now.
	 * False where nothing may be remembered under that. NULL: nobody asks.
	 */
	bool (*beside)(const void *ctx, terrace_slice key, struct tier_key *ret,
	               uint64_t *ret_version);
	const void *ctx;
};

/* What memory may hold, alone and together with its like; 0: as much as it likes. */
struct tier_limits {
	uint64_t bytes, entries;
	uint64_t pool_bytes, pool_entries;
	uint64_t promised; /* bytes that the pool's limits leave to it */
};

/* What is to be stored, in both shapes; a tier takes the one it keeps. */
struct tier_put {
	struct tier_key key;
	struct entry *entry;   /* memory takes a reference */
	struct record *record; /* disk writes head and payload */
	terrace_slice payload;
	uint64_t file; /* the payload lies in this file already; 0: in the row */
	int worth;     /* disk: log2 of what a hit is worth, in sixteenths */
	/* Disk: set to the cache of a row that had to go and was another key's; its copies in memory
	 * have none to be found by. NULL: nobody asks. */
	uint32_t *displaced;
	/* Memory: only in the place of `expected` (NULL: of nothing). */
	bool conditional;
	struct entry *expected;
	/*
	 * Memory: what has to go for it, where that is cheap to find, goes to `evicted`;
	 * more may have to. NULL: nothing goes.
	 */
	const struct tier_limits *limits;
	struct tier_evicted *evicted;
	/*
	 * Memory: where what it takes the place of goes, for who holds a lock to drop it after
	 * that with entry_unlinked(); NULL: it is dropped.
	 */
	struct entry **replaced;
	/*
	 * Memory: it is all there is to a program's put, of a new entry, and not `conditional`.
	 * With TERRACE_OK the caller's reference has gone with it, and memory has counted it.
	 */
	bool whole;
};

/* An entry of a tier, as the visitor of `each` and the notes see it. */
struct tier_row {
	uint64_t id;   /* disk: of the row */
	uint64_t file; /* disk: of the payload; 0: none */
	uint64_t hash; /* disk: terrace__row_hash() */
	uint32_t cache;
	uint8_t tier;
	uint64_t seq;
	uint64_t charge;
	int64_t expires;
	terrace_slice key;
	terrace_slice extra;
	bool absent;         /* there is no value: see RECORD_ABSENT */
	struct entry *entry; /* memory: itself */
};

/* Why something is removed: what a note says. */
struct tier_note {
	terrace_reason reason;
	int64_t when;
	const char *detail; /* NULL: none */
	uint64_t only_seq;  /* removing by key: this write alone; 0: whichever is there */
};

/* What evict has removed. */
struct tier_evicted {
	uint64_t entries_l1, entries_l2, entries_l3;
	uint64_t bytes;
	struct entry *chain; /* memory: the entries, linked by next; the caller drops them */
};

/* What memory has counted by itself, ever. */
struct memory_counts {
	uint64_t hits, saved_us;
	uint64_t puts;    /* that were whole */
	uint64_t evicted; /* with a note */
};

/* What several tiers hold together. */
struct tier_pool {
	_Atomic uint64_t bytes;
	_Atomic uint64_t entries;
};

struct tier_usage {
	uint64_t entries;
	uint64_t bytes;
};

/* What is known of an entry, without its value. */
struct tier_facts {
	unsigned tier;
	uint8_t codec;
	bool absent;
	uint64_t seq;
	int64_t created, stored, expires, ttl, accessed, idle;
	uint64_t value_size, stored_size, cost_us, hits;
	struct buf extra; /* a copy */
};

/* Return false to stop. */
typedef bool tier_visit_fn(void *ctx, const struct tier_row *row);

struct tier_ops {
	const char *name;

	/*
	 * TERRACE_OK with a reference, TERRACE_MISS, TERRACE_ECORRUPT, or a
	 * failure. With `hit` the entry's count goes up.
	 */
	int (*get)(void *tier, const struct tier_key *key, bool hit, struct entry **ret);
	/* Memory: gets of these will come, or a put: start reading what they look at first. */
	void (*soon_get)(void *tier, const struct tier_key *keys, size_t count);
	void (*soon_put)(void *tier, const struct tier_key *key);
	/* Replaces what is there; TERRACE_EXISTS when a condition did not hold. */
	int (*put)(void *tier, const struct tier_put *put);
	/* TERRACE_OK, or TERRACE_MISS when it was not there. */
	int (*remove)(void *tier, const struct tier_key *key, const struct tier_note *note);
	/* Visits what matches, dead entries included, in no promised order. */
	int (*each)(void *tier, uint32_t cache, const terrace_match *match, tier_visit_fn *visit,
	            void *ctx);
	int (*usage)(void *tier, uint32_t cache, terrace_tier which, struct tier_usage *ret);
	/* Memory makes room: at least so many bytes and entries, or all there is. */
	int (*evict)(void *tier, uint32_t cache, uint64_t bytes, uint64_t entries,
	             const struct tier_note *note, struct tier_evicted *ret);
	void (*close)(void *tier); /* accepts NULL */
};

/* Which rows of the catalogue. */
struct disk_where {
	enum {
		DISK_MATCHING, /* of a cache, in order of arrival */
		DISK_EXPIRED,  /* of all caches: expires <= until */
		DISK_CLEARED,  /* of a cache: seq <= until */
	} kind;
	uint32_t cache;
	uint64_t until;
	bool newest_first; /* MATCHING: the latest arrival first */
	uint64_t after_id; /* MATCHING, CLEARED: go on behind this row; 0: from the start */
	const terrace_match *match; /* MATCHING; never of kind KEY: there is get for that */
	struct disk_names *names;   /* MATCHING: what `names` said of it; may be NULL */
};

/* Rows that are known to match, so that others need no look. The ids are freed by who asked. */
struct disk_names {
	bool wanted;         /* it is a question that names could answer */
	bool known;          /* it was asked, and it helps: */
	struct buf ids;      /* u64 each, rising: no other row up to `upto` matches */
	uint64_t upto;       /* rows up to there have names */
	uint32_t generation; /* of the database that they are of */
	uint64_t passed;     /* select: rows without a name that were looked at */
};

/* A cache's number is the front of its rows' ids. */
enum { DISK_ID_SHIFT = 44 };
/* For usage and victims: all of them together. */
#define DISK_ANY_CACHE UINT32_MAX

enum disk_checkpoint {
	CHECKPOINT_WORKING, /* when it is worth the two fsyncs */
	CHECKPOINT_CLOSING, /* when the next process would have to read much of it */
	CHECKPOINT_NOW,
};

/*
 * What the processes of a store share of its database, in the coherence file:
 * which one is in use, and the inodes of its file, log and shared memory, by
 * which one that was removed or replaced shows.
 */
struct disk_shared {
	_Atomic uint32_t generation;
	_Atomic uint64_t inodes[3];
};

struct disk_fault {
	terrace_fault_kind kind;
	struct tier_row row; /* id 0: none */
	const char *path;    /* of a file without a row */
	const char *detail;
};

/* A cache of the catalogue. Return false to stop. */
typedef bool disk_visit_cache_fn(void *ctx, uint32_t cache, const char *name, uint64_t floor,
                                 bool immutable);

/*
 * The disk: L2 and L3 behind one catalogue. Its get reads either; usage tells
 * them apart. What changes something happens within a transaction; that there
 * is one writer at a time, threads and processes alike, is the caller's to see
 * to. Reading goes on beside it.
 */
struct disk_ops {
	struct tier_ops tier;

	/*
	 * Where all processes say that one of them writes: `writing` is not zero
	 * meanwhile, and `commits` has moved before it is zero again. Without it
	 * every get takes SQLite's locks. Both are borrowed until the disk is closed.
	 */
	void (*follow)(void *disk, const _Atomic uint64_t *commits,
	               const _Atomic uint64_t *writing);

	/*
	 * From now on transactions and checkpoints sync the database's files, or
	 * leave that to the kernel: then a power cut may leave it in pieces.
	 * Under the writers' lock, no transaction open.
	 */
	void (*loosen)(void *disk, bool loose);
	/* seq: of what it will write. */
	int (*begin)(void *disk, uint64_t seq);
	/* On failure it has rolled back. *ret_seq: what `state` will say; 0: as before. */
	int (*commit)(void *disk, uint64_t *ret_seq);
	void (*rollback)(void *disk);
	/*
	 * The transaction stays open while the thread does something else; and goes on. Where
	 * SQLite has taken it back by itself resume says TERRACE_EIO, and all that is left is to
	 * roll back.
	 */
	void (*rest)(void *disk);
	int (*resume)(void *disk);

	/*
	 * As get. Where the row was is remembered, and read again there as long as the
	 * stamp is the same; NULL: nobody can say.
	 */
	int (*get_under)(void *disk, const struct tier_key *key, const struct tier_stamp *stamp,
	                 struct entry **ret);
	/*
	 * As get, but a value in blocks is opened instead of read: *ret is then an
	 * entry of no bytes, and *ret_blocks gives them; else that is NULL.
	 */
	int (*open)(void *disk, const struct tier_key *key, struct entry **ret,
	            struct block_reader **ret_blocks);
	uint64_t (*blocks_size)(const struct block_reader *blocks); /* of the value */
	/* Decoded: BLOCK_BYTES, or what is left of the value; TERRACE_ECORRUPT. */
	int (*block_read)(struct block_reader *blocks, uint64_t index, void *ret);
	void (*blocks_close)(struct block_reader *blocks); /* accepts NULL */

	/*
	 * Within the transaction: as get, without the bytes of a value in blocks
	 * but with `whole`; and a look at the row without its slices.
	 */
	int (*get_inside)(void *disk, const struct tier_key *key, bool whole, struct entry **ret);
	int (*peek)(void *disk, const struct tier_key *key, struct tier_row *ret);
	/* A new time to live, and used now; TERRACE_MISS when there is no row. */
	int (*touch)(void *disk, const struct tier_key *key, uint64_t seq, int64_t expires,
	             int64_t ttl, int64_t now);
	/* Within a transaction or not. */
	int (*select)(void *disk, const struct disk_where *where, tier_visit_fn *visit, void *ctx);
	/*
	 * Names: rows that match a prefix, or a pattern that begins with one, for select.
	 * Whatever goes wrong, nothing is known. And within a transaction: give names to
	 * up to so many more rows of a cache.
	 */
	void (*names)(void *disk, uint32_t cache, const terrace_match *match,
	              struct disk_names *ret);
	int (*names_add)(void *disk, uint32_t cache, size_t most, size_t *ret_count);
	/*
	 * All hashes from here on are of rows: terrace__row_hash().
	 * Only if the row is still of that hash and seq; 0: of any.
	 */
	int (*remove_row)(void *disk, const struct tier_row *row, const struct tier_note *note);
	/* The key's, if it is not later than `seq`; or a damaged one in its place. */
	int (*remove_older)(void *disk, const struct tier_key *key, uint64_t seq);
	/*
	 * Within the transaction: which rows of a cache, or of all, should go first,
	 * in this order; remove_row says whether one is still there. None: there is
	 * nothing left.
	 */
	int (*victims)(void *disk, uint32_t cache, int64_t now, struct tier_row *ret, size_t most,
	               size_t *ret_count);
	/*
	 * What the database and its log take on the device, and how much of that
	 * is free pages. Within a transaction or under the writers' lock.
	 */
	int (*size)(void *disk, uint64_t *ret_bytes, uint64_t *ret_free);
	/* Within the transaction: give so many bytes of free pages back. */
	int (*give_back)(void *disk, uint64_t bytes);
	/* It served `count` times, last at `when`. */
	int (*accessed)(void *disk, uint64_t hash, uint64_t count, int64_t when);
	/* A row with an idle time was used then: it lives longer; TERRACE_MISS when there is none. */
	int (*used)(void *disk, uint64_t hash, int64_t when);

	/* Bytes of L3 before their row: see files.h. */
	int (*file_write)(void *disk, uint64_t number, terrace_slice head, terrace_slice payload,
	                  int *ret_fd);
	void (*file_remove)(void *disk, uint64_t number);
	/* The same block by block, each but the last of BLOCK_BYTES: see files.h, blocks.h. */
	int (*blocks_new)(void *disk, uint64_t number, terrace_codec codec,
	                  struct block_writer **ret);
	int (*block_add)(struct block_writer *blocks, terrace_slice bytes);
	int (*blocks_keep)(void *disk, struct block_writer *blocks, struct record *record,
	                   int *ret_fd);
	void (*blocks_drop)(void *disk, struct block_writer *blocks); /* accepts NULL */
	/* In a child that has inherited it: the file is its parent's. */
	void (*blocks_forget)(struct block_writer *blocks);           /* accepts NULL */
	uint64_t (*blocks_stored)(const struct block_writer *blocks); /* bytes so far */
	/* Remove what dead writers left half written. */
	void (*sweep)(void *disk);

	/* The caller frees ret->extra. */
	int (*describe)(void *disk, const struct tier_key *key, struct tier_facts *ret);

	int (*note_put)(void *disk, uint64_t hash, const struct tier_note *note);
	int (*note_clear)(void *tier); /* all of them: for their room */
	/* TERRACE_MISS when there is none; the detail goes to `detail`. */
	int (*note_get)(void *disk, uint64_t hash, struct tier_note *ret, char *detail,
	                size_t detail_size);

	int (*cache_add)(void *disk, uint32_t cache, const char *name);
	int (*cache_immutable)(void *disk, uint32_t cache); /* for good */
	int (*cache_floor)(void *disk, uint32_t cache, uint64_t floor);
	int (*caches)(void *disk, disk_visit_cache_fn *visit, void *ctx);
	/* No row has a higher sequence number; the seed of all hashes. */
	int (*state)(void *disk, uint64_t *ret_seq, uint64_t *ret_seed);
	int (*set_seed)(void *disk, uint64_t seed);

	/* Has the log grown enough to be moved into the database? Under the writers' lock, like the next. */
	bool (*checkpoint_due)(void *disk, enum disk_checkpoint when);
	/* Move it, when that is due. True when all that was in it is moved: it starts anew. */
	bool (*checkpoint)(void *disk, enum disk_checkpoint when);
	/* The same, until what is committed survives a power cut, however loose it was written;
	 * TERRACE_EBUSY: a reader is in the way. */
	int (*sync)(void *disk);
	/*
	 * Check everything; the visitor returns false to stop. `open` is not zero while
	 * a transaction rests, whose files have no rows yet: then TERRACE_EBUSY where
	 * there are files that it may be about.
	 */
	int (*verify)(void *disk, const _Atomic uint32_t *open,
	              bool (*fault)(void *ctx, const struct disk_fault *fault), void *ctx,
	              uint64_t *ret_entries, uint64_t *ret_bytes);
	/* Some rows behind *after, and their files, up to about so many bytes; MISS at the end. */
	int (*scrub)(void *disk, uint64_t *after, uint64_t most_bytes,
	             bool (*fault)(void *ctx, const struct disk_fault *fault), void *ctx,
	             uint64_t *ret_entries, uint64_t *ret_bytes);
	int (*file_remove_path)(void *disk, const char *path);
	/* All files with a lower number, but for those that are being written. */
	void (*files_remove)(void *disk, uint64_t number);

	/*
	 * A database that is damaged and the one that takes its place, see
	 * disk_aside.c. All but `suspected` under the writers' lock, or that of
	 * attaching, with no transaction open.
	 *
	 * look: TERRACE_MISS where it is not there, or has no tables.
	 * settle: its files are those that are there now.
	 * moved: they have been removed or replaced, which is damage.
	 * suspected: SQLite said something that damage would explain.
	 * malformed: and it is so.
	 * latest: the highest number of one that is there; 0 for none.
	 * make: transactions are of a new one from now on, until `made`; `used`
	 *       when the core has made it the one that is in use.
	 * set_aside: keep one that was in use under a dated name.
	 * aside: remove the oldest of those, and what is not in use; the bytes of the rest.
	 */
	int (*look)(void *disk);
	int (*create)(void *disk);
	void (*settle)(void *disk);
	bool (*moved)(void *disk);
	bool (*suspected)(void *disk);
	bool (*malformed)(void *disk);
	int (*latest)(void *disk, uint32_t *ret);
	int (*make)(void *disk, uint32_t generation);
	void (*made)(void *disk, bool used);
	void (*set_aside)(void *disk, uint32_t generation, int64_t when);
	uint64_t (*aside)(void *disk, uint64_t most_bytes);
};

/* Does an entry's key, tags or sources fit? */
bool terrace__match_fits(const terrace_match *match, terrace_slice key, terrace_slice extra);

#endif
