/* SQLite connections and their statements, for the files of this folder. */
#ifndef SQLITE_CONNECTION_H
#define SQLITE_CONNECTION_H

#include "tiers/files/files.h"
#include "tiers/tier.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

/* X(name, SQL): prepared when first used, kept with the connection. */
#define DISK_STATEMENTS(X)                                                                     \
	X(HOLD, "BEGIN")                                                                       \
	X(BEGIN, "BEGIN IMMEDIATE")                                                            \
	X(COMMIT, "COMMIT")                                                                    \
	X(ROLLBACK, "ROLLBACK")                                                                \
	X(GET, "SELECT id, seq, file, head, value FROM entry WHERE hash = ?1")                 \
	X(DESCRIBE, "SELECT id, seq, file, head, accessed, hits FROM entry WHERE hash = ?1")   \
	X(LAST_ID, "SELECT max(id) FROM entry WHERE id < ?1")                                  \
	X(INSERT, "INSERT INTO entry(id, hash, seq, expires, rank, bytes, file, accessed, "    \
	          "hits, head, value, cache) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?9, "   \
	          "?10, ?11) ON CONFLICT(hash) DO NOTHING")                                    \
	X(UPDATE, "UPDATE entry SET seq = ?3, expires = ?4, rank = ?5, "                       \
	          "bytes = ?6, file = ?7, accessed = ?8, hits = 0, head = ?9, value = ?10 "    \
	          "WHERE id = ?1")                                                             \
	/* The same of what takes no more: see disk_renew.c. Where it never expires, and  \
	 * never did, no index changes. */    \
	X(RENEW, "UPDATE entry SET seq = ?3, rank = ?5, bytes = ?6, file = ?7, "               \
	         "accessed = ?8, hits = 0, head = ?9, value = ?10 "                            \
	         "WHERE hash = ?2 AND renews(id, cache, bytes, file, expires, head)")          \
	X(RENEW_TIMED,                                                                         \
	  "UPDATE entry SET seq = ?3, expires = ?4, rank = ?5, bytes = ?6, file = ?7, "        \
	  "accessed = ?8, hits = 0, head = ?9, value = ?10 "                                   \
	  "WHERE hash = ?2 AND renews(id, cache, bytes, file, expires, head)")                 \
	X(TOUCH, "UPDATE entry SET seq = ?2, expires = ?3, head = ?4 WHERE id = ?1")           \
	X(USED, "UPDATE entry SET expires = ?2, head = ?3 WHERE id = ?1")                      \
	X(ACCESSED, "UPDATE entry SET hits = hits + ?2, accessed = max(accessed, ?3) "         \
	            "WHERE hash = ?1")                                                         \
	X(FIND, "SELECT id, seq, bytes, file, cache, head, expires FROM entry "                \
	        "WHERE hash = ?1")                                                             \
	X(FILES, "SELECT file FROM entry WHERE file != 0")                                     \
	X(FIND_ID, "SELECT hash, seq, bytes, file, cache, head, expires FROM entry "           \
	           "WHERE id = ?1")                                                            \
	X(DELETE, "DELETE FROM entry WHERE id = ?1")                                           \
	X(LINK, "INSERT OR IGNORE INTO link(name, entry) VALUES(?1, ?2)")                      \
	X(UNLINK, "DELETE FROM link WHERE name = ?1 AND entry = ?2")                           \
	X(IS_LINKED, "SELECT 1 FROM link WHERE name = ?1 AND entry = ?2")                      \
	X(LINKED, "SELECT id, hash, cache, seq, bytes, expires, file, head FROM link "         \
	          "CROSS JOIN entry ON id = link.entry WHERE name = ?1 AND link.entry > ?2 "   \
	          "ORDER BY link.entry")                                                       \
	X(MATCHING, "SELECT id, hash, cache, seq, bytes, expires, file, head FROM entry "      \
	            "WHERE id > ?1 AND id < ?2 ORDER BY id")                                   \
	X(LINKED_BACK, "SELECT id, hash, cache, seq, bytes, expires, file, head FROM link "    \
	               "CROSS JOIN entry ON id = link.entry WHERE name = ?1 AND "              \
	               "link.entry < ?2 ORDER BY link.entry DESC")                             \
	X(MATCHING_BACK, "SELECT id, hash, cache, seq, bytes, expires, file, head FROM entry " \
	                 "WHERE id > ?1 AND id < ?2 ORDER BY id DESC")                         \
	X(EXPIRED, "SELECT id, hash, cache, seq, bytes, expires, file, head FROM entry "       \
	           "WHERE expires <= ?1 ORDER BY expires")                                     \
	X(NAMED, "SELECT upto FROM named WHERE cache = ?1")                                    \
	X(NAMED_SET, "INSERT INTO named(cache, upto) VALUES(?1, ?2) "                          \
	             "ON CONFLICT(cache) DO UPDATE SET upto = ?2")                             \
	X(NAMES, "SELECT entry FROM name WHERE cache = ?1 AND key >= ?2 AND key < ?3")         \
	X(IS_NAMED, "SELECT 1 FROM name WHERE cache = ?1 AND key = ?2 AND entry = ?3")         \
	X(NAME_ADD, "INSERT OR IGNORE INTO name(cache, key, entry) VALUES(?1, ?2, ?3)")        \
	X(NAME_REMOVE, "DELETE FROM name WHERE cache = ?1 AND key = ?2 AND entry = ?3")        \
	X(CLEARED, "SELECT id, hash, cache, seq, bytes, expires, file, head FROM entry "       \
	           "WHERE id > ?1 AND id < ?2 AND seq <= ?3 ORDER BY id")                      \
	X(SAMPLE, "SELECT id, seq, bytes, file, hash, hits, rank, cache, head FROM entry "     \
	          "WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3")                           \
	X(ENDS, "SELECT (SELECT min(id) FROM entry WHERE id > ?1 AND id < ?2), "               \
	        "(SELECT max(id) FROM entry WHERE id > ?1 AND id < ?2)")                       \
	X(SIZES, "SELECT id, l2_entries + l3_entries FROM cache")                              \
	X(ALL, "SELECT id, hash, cache, seq, bytes, expires, file, head, value FROM entry "    \
	       "WHERE id > ?1 ORDER BY id LIMIT 64")                                           \
	X(USAGE, "SELECT l2_bytes, l2_entries, l3_bytes, l3_entries FROM cache WHERE id = ?1") \
	X(USAGE_ALL, "SELECT sum(l2_bytes), sum(l2_entries), sum(l3_bytes), "                  \
	             "sum(l3_entries) FROM cache")                                             \
	X(USAGE_ADD, "UPDATE cache SET l2_bytes = l2_bytes + ?2, "                             \
	             "l2_entries = l2_entries + ?3, l3_bytes = l3_bytes + ?4, "                \
	             "l3_entries = l3_entries + ?5, seq = max(seq, ?6) WHERE id = ?1")         \
	X(CACHE_ADD, "INSERT OR IGNORE INTO cache(id, name) VALUES(?1, ?2)")                   \
	X(CACHE_FLOOR, "UPDATE cache SET floor = max(floor, ?2) WHERE id = ?1")                \
	X(CACHE_IMMUTABLE, "INSERT OR IGNORE INTO immutable(cache) VALUES(?1)")                \
	X(CACHES, "SELECT id, name, floor, id IN (SELECT cache FROM immutable) FROM cache "    \
	          "ORDER BY id")                                                               \
	X(PAGES, "PRAGMA page_count")                                                          \
	X(FREE_PAGES, "PRAGMA freelist_count")                                                 \
	X(NOTE_PUT, "INSERT INTO note(hash, made, reason, detail) VALUES(?1, ?2, ?3, ?4)")     \
	X(NOTE_TRIM, "DELETE FROM note WHERE id <= ?1")                                        \
	X(NOTE_CLEAR, "DELETE FROM note")                                                      \
	X(NOTE_GET, "SELECT made, reason, detail FROM note WHERE hash = ?1 "                   \
	            "ORDER BY id DESC LIMIT 1")                                                \
	X(STATE, "SELECT (SELECT max(seq) FROM cache), seed FROM state")                       \
	X(SET_SEED, "UPDATE state SET seed = ?1")

enum statement {
#define X(name, sql) DO_##name,
	DISK_STATEMENTS(X)
#undef X
	    STATEMENTS
};

struct connection {
	sqlite3 *db;
	sqlite3_stmt *statements[STATEMENTS];
	uint32_t generation;     /* of the database that it has open */
	struct connection *next; /* in the pool */
	unsigned round;          /* see terrace__connections_renew() */
	bool loose;              /* it syncs nothing */
	bool held;               /* it is within a transaction of snapshot.c */
	uint64_t commits;        /* when that began */
};

/* What a transaction has changed of one cache's usage. */
struct usage_change {
	uint32_t cache;
	int64_t bytes[2], entries[2]; /* l2, l3 */
};

enum { NOTES_MAX = 10000 };
enum { PAGE_BYTES = 4096 };
/* How long SQLite waits for its own locks. */
enum { BUSY_MS = 2000 };

/* disk_evict.c: rows that may go, the one of the lowest value last. */
enum { CANDIDATES = 64 };
struct candidates {
	uint32_t cache; /* of which they are; DISK_ANY_CACHE */
	int64_t made;
	size_t count, take; /* how many of them are to go before others are looked at */
	struct candidate {
		struct tier_row row;
		double value;
	} items[CANDIDATES];
};

/* What disk_renew.c asks, and answers. */
struct renewal {
	const struct tier_put *put;
	bool found; /* there is a row of that hash */
	uint64_t id, bytes;
};

struct disk {
	struct files *files;
	int dir_fd; /* borrowed, like the next */
	struct disk_shared *shared;
	char *path; /* of the directory */
	bool read_only;
	uint64_t value_max;        /* bytes of a value, decoded */
	_Atomic bool suspected;    /* SQLite spoke ill of the database that is in use */
	_Atomic uint32_t verdicts; /* how often it called it malformed */
	pthread_mutex_t lock;      /* over the pool */
	struct connection *readers;
	_Atomic unsigned round;
	/* What says that somebody writes; NULL: nothing does. See snapshot.c. */
	const _Atomic uint64_t *commits, *writing;
	struct place *_Atomic places; /* see disk_places.c; NULL: there are none yet */

	/* The rest belongs to the writer. */
	struct connection *writer;
	uint32_t making;             /* the generation that is being made; 0: none */
	struct timespec dir_changed; /* when its files were last found to be there */
	/* Whose transaction is open: the address of that thread's `terrace__thread`;
	 * 0: nobody's. Other threads read it to learn that it is not theirs. */
	_Atomic uintptr_t inside;
	uint64_t seq;  /* of the transaction: the caches that it changes take it */
	int log_pages; /* how long the log may grow */
	int wal_pages; /* how long it is, without what was moved into the database */
	int all_pages; /* how long it was left: who comes when nobody is there reads all of it */
	int waited_at; /* how long it was when readers were last waited for */
	bool loose;    /* nothing is synced but by sync() */
	struct usage_change *changes;
	size_t change_count, change_capacity;
	uint64_t *doomed; /* files to remove after the commit */
	size_t doomed_count, doomed_capacity;
	struct candidates candidates;
	uint32_t last_id_cache; /* the cache whose last id is known */
	uint64_t last_id;
	uint32_t named_cache; /* and that of which it is known which rows have names */
	uint64_t named_upto;
	bool expect_new; /* the last row that was put was new */
	struct renewal renewal;
};

/* For SQLite's code, extended. */
int terrace__sqlite_status(int code);
/* The status of what has just failed, with a message. What may be the database's fault is noted. */
int terrace__sqlite_failed(struct disk *disk, sqlite3 *db, const char *what);
/* On every connection: whoever looks whether a database is sound prepares all statements. */
int terrace__renew_prepare(struct disk *disk, sqlite3 *db);
/* That is noted: SQLite's code, without what extends it. */
void terrace__suspect(struct disk *disk, sqlite3 *db, int code);

/* The generation of the database that is in use; the writer may be making another. */
static inline uint32_t disk_generation(const struct disk *disk)
{
	return atomic_load(&disk->shared->generation);
}

/* The name of its file. */
struct database_name {
	char text[24];
};
struct database_name terrace__database_name(uint32_t generation);

/* Of the database of a generation. */
int terrace__connection_open(struct disk *disk, uint32_t generation, int flags,
                             struct connection **ret);
void terrace__connection_close(struct connection *connection); /* accepts NULL */

/*
 * Close the writer and all readers, those that are in use when they are given
 * back. Where a file cannot be opened for writing, SQLite opens it for reading
 * and says nothing; what was no more than a lack of descriptors would last.
 */
void terrace__connections_renew(struct disk *disk);

/* A reset statement; NULL when it cannot be prepared. */
sqlite3_stmt *terrace__statement(struct connection *connection, enum statement which);

/* Reset and forget the bindings: nothing may point into the caller's bytes afterwards. */
void terrace__statement_done(sqlite3_stmt **statement);

/* Run a statement that gives no rows. */
int terrace__run(struct disk *disk, struct connection *connection, sqlite3_stmt *statement,
                 const char *what);

/*
 * Around all use of SQLite, so that fork() finds no thread within it: the child
 * would wait for ever for what such a thread has locked. May be nested.
 */
void terrace__sqlite_enter(void);
void terrace__sqlite_leave(void);

/* An address for each thread. */
extern _Thread_local char terrace__thread;

/* Is a transaction open, and this thread's? */
static inline bool is_inside(const struct disk *disk)
{
	return atomic_load(&disk->inside) == (uintptr_t)&terrace__thread;
}

/* Is it open still? SQLite may have taken it back by itself. This thread's, with a message. */
bool terrace__transaction_stands(const struct disk *disk);

/*
 * A connection to read with: within a transaction the writer, which sees what
 * that has changed. Give it back after use; NULL when none can be opened.
 */
struct connection *terrace__reader_take(struct disk *disk);
/* Was another database made while it was used? Then what it read is not to be relied on. */
bool terrace__reader_is_late(const struct disk *disk, const struct connection *connection);
void terrace__reader_give(struct disk *disk, struct connection *connection);

/*
 * The same for one get alone: it may be in the middle of a snapshot's transaction; and nothing
 * of SQLite but a read of its file, before terrace__limit_enter().
 */
struct connection *terrace__reader_take_held(struct disk *disk);
void terrace__reader_give_held(struct disk *disk, struct connection *connection);

/* --- snapshot.c ------------------------------------------------------------------------- */

/*
 * Begin to read, or go on with what the connection began, without locks: it
 * sees all that was committed before. False when somebody writes just now.
 */
bool terrace__snapshot_hold(struct disk *disk, struct connection *connection);
/* Has nobody written meanwhile? Else nothing that was read is to be believed. */
bool terrace__snapshot_stands(const struct disk *disk, const struct connection *connection);
/* Read with locks from now on; false when that cannot be: then not at all. */
bool terrace__snapshot_drop(struct disk *disk, struct connection *connection);
/* This one is used under the writers' lock alone. */
void terrace__snapshot_write(struct connection *writer);

/* The row of a statement that selects the columns of MATCHING. False for nonsense. */
bool terrace__row_read(sqlite3_stmt *statement, struct tier_row *ret);

enum { LINK_TAG = 't', LINK_SOURCE = 's' };

/* The name under which tags and sources are linked to rows. */
uint64_t terrace__link_name(uint32_t cache, char kind, terrace_slice text);

static inline terrace_slice column_slice(sqlite3_stmt *statement, int column)
{
	const void *data = sqlite3_column_blob(statement, column);

	return terrace_bytes(data, (size_t)sqlite3_column_bytes(statement, column));
}

/* disk_read.c, disk_write.c, disk_evict.c, disk_verify.c */
int terrace__disk_get(void *tier, const struct tier_key *key, bool hit, struct entry **ret);
int terrace__disk_get_under(void *tier, const struct tier_key *key, const struct tier_stamp *stamp,
                            struct entry **ret);
int terrace__disk_open_value(void *tier, const struct tier_key *key, struct entry **ret,
                             struct block_reader **ret_blocks);
int terrace__disk_get_inside(void *tier, const struct tier_key *key, bool whole,
                             struct entry **ret);
int terrace__disk_describe(void *tier, const struct tier_key *key, struct tier_facts *ret);
int terrace__disk_each(void *tier, uint32_t cache, const terrace_match *match, tier_visit_fn *visit,
                       void *ctx);
int terrace__disk_select(void *tier, const struct disk_where *where, tier_visit_fn *visit,
                         void *ctx);
int terrace__disk_usage(void *tier, uint32_t cache, terrace_tier which, struct tier_usage *ret);
int terrace__disk_note_get(void *tier, uint64_t hash, struct tier_note *ret, char *detail,
                           size_t detail_size);
int terrace__disk_caches(void *tier, disk_visit_cache_fn *visit, void *ctx);
int terrace__disk_state(void *tier, uint64_t *ret_seq, uint64_t *ret_seed);

int terrace__disk_begin(void *tier, uint64_t seq);
int terrace__disk_commit(void *tier, uint64_t *ret_seq);
void terrace__disk_rollback(void *tier);
void terrace__disk_rest(void *tier);
int terrace__disk_resume(void *tier);
int terrace__disk_put(void *tier, const struct tier_put *put);
int terrace__disk_remove(void *tier, const struct tier_key *key, const struct tier_note *note);
int terrace__disk_peek(void *tier, const struct tier_key *key, struct tier_row *ret);
int terrace__disk_remove_row(void *tier, const struct tier_row *row, const struct tier_note *note);
int terrace__disk_remove_older(void *tier, const struct tier_key *key, uint64_t seq);
int terrace__disk_touch(void *tier, const struct tier_key *key, uint64_t seq, int64_t expires,
                        int64_t ttl, int64_t now);
int terrace__disk_used(void *tier, uint64_t hash, int64_t when);
int terrace__disk_size(void *tier, uint64_t *ret_bytes, uint64_t *ret_free);
int terrace__disk_give_back(void *tier, uint64_t bytes);
int terrace__disk_accessed(void *tier, uint64_t hash, uint64_t count, int64_t when);
int terrace__disk_victims(void *tier, uint32_t cache, int64_t now, struct tier_row *ret,
                          size_t most, size_t *ret_count);
/* It is worth more than it was: whatever was about to go, this is not. */
void terrace__disk_spare(struct disk *disk, uint64_t hash);
int terrace__disk_note_put(void *tier, uint64_t hash, const struct tier_note *note);
int terrace__disk_note_clear(void *tier);
int terrace__disk_cache_add(void *tier, uint32_t cache, const char *name);
int terrace__disk_cache_immutable(void *tier, uint32_t cache);
int terrace__disk_cache_floor(void *tier, uint32_t cache, uint64_t floor);
int terrace__disk_set_seed(void *tier, uint64_t seed);
void terrace__disk_loosen(void *tier, bool loose);
bool terrace__disk_checkpoint_due(void *tier, enum disk_checkpoint when);
bool terrace__disk_checkpoint(void *tier, enum disk_checkpoint when);
int terrace__disk_sync(void *tier);

/* disk_places.c: a row that SQLite gave, and where it is. */
enum { SEEN_BESIDE = 8 };
struct seen_row {
	uint64_t id, seq;
	struct file_seen file; /* number 0: there is none */
	uint64_t at, rest;     /* as in a place; `at` 0: not known */
	/* Given where the snapshot is looked at again: rows of the same page are seen, too. */
	const struct tier_stamp *stamp;
	struct seen_beside {
		uint64_t hash, version, at, seq;
	} beside[SEEN_BESIDE];
	size_t beside_count;
};
/* A statement is at the row, and has read its pages: `size` is of head and value. */
void terrace__place_find(struct connection *connection, uint64_t size, struct seen_row *row);
/* Remember where it is; and those beside it, for which there must have been no write since. */
void terrace__place_note(struct disk *disk, struct connection *connection,
                         const struct tier_key *key, const struct tier_stamp *stamp,
                         const struct seen_row *row);
/* TERRACE_OK, or TERRACE_MISS when nothing is known, whatever the reason. */
int terrace__place_get(struct disk *disk, struct connection *connection, const struct tier_key *key,
                       const struct tier_stamp *stamp, struct entry **ret);
/* Its row goes: what still lies there would be right, but is to be gone. */
void terrace__place_forget(struct disk *disk, uint64_t hash);
void terrace__places_free(struct disk *disk);

/* Is it of that key, or of another with the same hash? */
static inline bool record_is_of(const struct record *record, const struct tier_key *key)
{
	return record->cache == key->cache && record->key.size == key->key.size &&
	       memcmp(record->key.data, key->key.data, key->key.size) == 0;
}

/* disk_aside.c */
void terrace__disk_settle(void *tier);
bool terrace__disk_moved(void *tier);
bool terrace__disk_suspected(void *tier);
/* What a connection says that has read nothing yet: TERRACE_ECORRUPT, or a failure. */
int terrace__disk_check(struct disk *disk);
bool terrace__disk_malformed(void *tier);
int terrace__disk_make(void *tier, uint32_t generation);
void terrace__disk_made(void *tier, bool used);
void terrace__disk_set_aside(void *tier, uint32_t generation, int64_t when);
uint64_t terrace__disk_aside(void *tier, uint64_t most_bytes);
int terrace__disk_latest(void *tier, uint32_t *ret);

/* disk.c: the tables, in a new file or an empty one. */
int terrace__disk_create(struct disk *disk, uint32_t generation);

int terrace__disk_scrub(void *tier, uint64_t *after, uint64_t most_bytes,
                        bool (*fault)(void *ctx, const struct disk_fault *fault), void *ctx,
                        uint64_t *ret_entries, uint64_t *ret_bytes);
int terrace__disk_verify(void *tier, const _Atomic uint32_t *open,
                         bool (*fault)(void *ctx, const struct disk_fault *fault), void *ctx,
                         uint64_t *ret_entries, uint64_t *ret_bytes);

/* disk_names.c. Within a transaction: up to which id rows have names. */
int terrace__named_upto(struct disk *disk, uint32_t cache, uint64_t *ret);
/* A row goes: so does its name, if it has one. */
int terrace__name_remove(struct disk *disk, uint32_t cache, terrace_slice key, uint64_t id);
/* Is a row found by its key, or need not be? Asked of a connection that reads. */
int terrace__name_leads(struct disk *disk, struct connection *connection,
                        const struct tier_row *row, bool *ret);
void terrace__disk_names(void *tier, uint32_t cache, const terrace_match *match,
                         struct disk_names *ret);
int terrace__disk_names_add(void *tier, uint32_t cache, size_t most, size_t *ret_count);

/*
 * Rows by ascending id that do not ascend: pages of a damaged database refer to
 * each other, and who goes on behind the last row would go on for ever. Sets the
 * message; TERRACE_ECORRUPT.
 */
int terrace__rows_in_a_circle(struct disk *disk, struct connection *connection);

/* Does SQLite's check say that it could not read a page, instead of what is wrong with it? */
bool terrace__could_not_read(const char *text);

#endif
