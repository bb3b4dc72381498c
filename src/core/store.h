/*
 * The store and the cache, as the core and the api see them.
 *
 * Locks, in the order in which one may be taken inside the other:
 *   registry (api/store.c) > caches_lock > behind.lock
 *   writer.lock > nothing; the writers' lock among processes is held by the
 *   leader without it
 *   caches_lock > events_lock > a subscription's lock
 *   bulk_lock > a shard's lock
 *   a cache's codecs.lock > stats_lock
 *   behind.lock > flights.lock
 *   keeper.lock > caches_lock
 *   flights.lock, uses.lock, note_lock, stats_lock, watch.lock, a shard's lock: leaves
 */
#ifndef CORE_STORE_H
#define CORE_STORE_H

#include "core/codecs.h"
#include "core/coherence.h"
#include "core/pressure.h"
#include "core/settings.h"
#include "core/stats.h"
#include "core/tiers.h"
#include "util/hash.h"

#include <terrace/cache.h>
#include <terrace/store.h>

#include <pthread.h>
#include <sys/types.h>

#define STORE_MAGIC UINT32_C(0x54737472)
#define CACHE_MAGIC UINT32_C(0x54636163)

/* --- what belongs to one job of the core, kept in the store ----------------------- */

/* write.c: threads that write at the same time share a transaction. */
struct write_queue {
	struct write_batch *first, **last;
};
struct writer {
	pthread_mutex_t lock;
	pthread_cond_t done;
	struct write_queue waiting;
	struct write_queue alone; /* who waits with nothing to be written */
	uint64_t arrived, taken;  /* batches that waited, ever; of those, how many were taken up */
	uint32_t turn;            /* the lock's when it was let go by who leads alone */
	bool leading;             /* a thread is working the queue */
	_Atomic uintptr_t leader; /* which; see terrace__write_leads() */
};

/* behind.c: values that wait to be written */
struct behind {
	/* The lanes' locks are the process's, not a thread's: one thread at a time
	 * takes them or gives them back. Before the writers' lock, and `lock`. */
	pthread_mutex_t lanes;
	pthread_mutex_t lock;
	pthread_cond_t work, done;
	pthread_t thread;
	_Atomic bool started; /* a lane was looked for */
	_Atomic int lane;     /* -1: none */
	bool stopping;
	bool awake;       /* the thread knows that there is something */
	bool flushing;    /* a batch is being written, */
	uint64_t kept;    /* whose places, from here on, are not taken meanwhile */
	uint64_t flushed; /* how many have been */
	bool settling;    /* the same under the writers' lock, by who leads */
	uint64_t settled;
	bool failing;             /* the last one could not be */
	bool large_waits;         /* somebody waits for room for a large value */
	unsigned small;           /* so many more are to be small ones: room had to be made */
	int rc;                   /* the first failure that nobody has been told of */
	uint64_t given_up;        /* marks below it are not written any more */
	_Atomic unsigned alone;   /* puts that were written through, each in a transaction */
	_Atomic unsigned through; /* threads that write values through just now */
	_Atomic int64_t looked;   /* when the lanes were last looked at for a stray mark */

	/* The lane's part of the file: a ring, whose places are counted on and on. */
	uint64_t ring, end;
	uint64_t starts[MARKS];
	struct terrace_cache *caches[MARKS]; /* whose values they are; NULL: closed since */
	struct buf head;                     /* of a record, for a moment */

	/* lane.c: the file of all lanes, mapped; NULL until it is needed */
	_Atomic(uint8_t *) values;
	_Atomic ino_t values_inode;
};

/* flight.c: who computes which key, in this process. */
struct flights {
	pthread_mutex_t lock;
	pthread_cond_t landed;
	struct flight *first;
	struct terrace_lease *leases; /* all that are held */
	_Atomic unsigned lease_count;
};

/* api/fetch.c: loaders that run on threads of the store */
enum { JOBS_MAX = 64 };
struct loader_jobs {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a job is done, or one less runs */
	unsigned running;
};

/* idle.c: uses of entries with an idle time, until they are written down */
struct uses {
	pthread_mutex_t lock;
	size_t count, capacity;
	size_t taken; /* the first ones: written in the transaction that is open */
	struct use {
		uint64_t hash; /* of the row */
		int64_t when;
	} * items;
};

/* note.c: why entries of caches without a disk went. */
enum { NOTES = 1024 };
struct notes {
	pthread_mutex_t lock;
	uint64_t next;
	struct note {
		uint64_t hash;
		terrace_reason reason;
		int64_t when;
		char detail[112];
	} items[NOTES];
};

/* clock.c */
struct store_clock {
	terrace_clock_fn *fn; /* the program's own; NULL: the machine's */
	void *ctx;
	_Atomic int64_t offset; /* store clock - CLOCK_MONOTONIC */
	_Atomic int64_t apart;  /* CLOCK_REALTIME - CLOCK_MONOTONIC when that was found */
};

/* keeper.c: what is looked after now and then */
struct keeper {
	pthread_mutex_t lock;
	pthread_cond_t wake, folded;
	pthread_t thread;
	_Atomic uint64_t due_ns; /* from when on there should be the thread */
	bool started, running, stopping;
	int64_t fold_at;                     /* ms: when statistics go to the file */
	bool known;                          /* in the file of processes */
	const struct terrace_cache *folding; /* its statistics just now; caches_lock */
	struct pressure pressure;
};

/* Of L1, or of encoded bytes, in all caches; 0: none. */
struct memory_limit {
	_Atomic uint64_t now;  /* what may be held */
	_Atomic uint64_t most; /* … without pressure */
	uint64_t pressed;      /* without a limit: what was in use when memory became short */
};

/* present.c: a store that cannot be written to, as it was when it was opened */
struct snapshot {
	bool taken;
	const struct shared *watched; /* the shared file; NULL: there was none that is good */
	uint64_t seq;                 /* the last number drawn there */
	ino_t inode;                  /* of the file; 0: there was none */
};

/* room.c: how much has to be put before a limit is looked at again. */
struct room {
	_Atomic uint64_t bytes, entries; /* of the shared file's put_bytes, put_entries */
};

struct terrace {
	uint32_t magic;
	unsigned handles; /* guarded by the registry */
	unsigned forks;   /* see terrace__forks */
	bool disabled;
	struct terrace *next; /* in the registry */

	char *dir;
	dev_t device;
	ino_t inode;
	struct config_file *config;
	struct setting settings[STORE_SETTING_COUNT];
	int64_t wait_ms;
	uint64_t memory_entries, disk_bytes, disk_entries;
	struct room room;
	_Atomic uint64_t beside; /* on disk, besides what entries are charged with: room.c */
	struct memory_limit memory, encoded;
	bool watches_memory; /* gives memory back when the machine is short of it */

	terrace_log_fn *log;
	void *log_ctx;
	struct store_clock clock;

	int dir_fd;                  /* of the format's directory */
	int attach_fd;               /* the lock file: attaching, and who is attached */
	struct timespec attach_seen; /* when its directory had last changed; see shared.c */
	int lock_fd;                 /* the shared file: its bytes are all other locks */
	struct shared *shared;
	struct shared_head head;  /* what that of the shared file must be */
	const char *boot_id_path; /* NULL: the kernel's */
	uint64_t token;           /* of this process and store: what `holder` names */
	const struct disk_ops *disk_ops;
	void *disk;
	bool read_only;
	struct snapshot snapshot;
	_Atomic bool gone;          /* removed, or a snapshot that is no longer good */
	_Atomic bool wrote;         /* since it was opened */
	_Atomic unsigned beginning; /* transactions that this process begins, or has open */

	struct writer writer;
	struct behind behind;
	struct flights flights;
	struct loader_jobs jobs;
	struct uses uses;
	struct notes notes;
	struct keeper keeper;
	struct tier_pool pool; /* L1 of all caches */
	/* Who gave last when that was over its limit; never looked into, it may be closed. */
	_Atomic(const struct terrace_cache *) giver;
	struct tier_pool encoded_pool; /* encoded bytes beside forms, of all caches */

	pthread_mutex_t caches_lock;
	struct terrace_cache *caches;  /* open ones */
	struct terrace_cache *digests; /* ".files"; NULL until it is needed */
	struct watch *watch;           /* NULL until a cache wants it; caches_lock */
	pthread_mutex_t events_lock;
	pthread_cond_t left;
	struct terrace_subscription *subscriptions; /* of all caches; events_lock */
	uint64_t subscribed;                        /* how often, ever; events_lock */
	unsigned leaving;           /* subscribers that are ending themselves; events_lock */
	pthread_mutex_t stats_lock; /* over the statistics file */
	pthread_mutex_t bulk_lock;  /* many entries of a cache in memory alone: one at a time */
};

struct terrace_cache {
	uint32_t magic;
	uint32_t number;
	unsigned handles; /* guarded by caches_lock */
	struct terrace *store;
	struct terrace_cache *next;
	struct shared_cache *shared;
	uint64_t seed;                  /* of its keys' hashes */
	uint32_t first_slot, slot_mask; /* of their versions */
	const _Atomic uint64_t *versions;
	_Atomic uint32_t hits_simply; /* see hit.h */
	bool puts_simply;             /* into memory alone, as it is, for good */

	/* L1: `memory` holds what get gives, decoded with a form; `encoded`
	 * holds the bytes of a cache with a form. NULL where not wanted. */
	const struct tier_ops *memory_ops;
	void *memory;
	void *encoded;
	bool on_disk;        /* L2 or L3 or both */
	_Atomic bool joined; /* in memory alone: this process may have entries */

	unsigned tiers; /* set of terrace_tier; 0: disabled */
	int64_t ttl_ms; /* TERRACE_TTL_FOREVER, 0 for nothing, or milliseconds */
	terrace_codec codec;
	uint64_t inline_bytes;
	_Atomic uint64_t memory_bytes;
	uint64_t memory_min_bytes; /* others do not push it below */
	uint64_t memory_entries, encoded_bytes, disk_bytes, disk_entries;
	struct room room;
	int64_t idle_ms;  /* 0: none */
	int64_t check_ms; /* 0: on every hit; -1: manual; else at most so often */
	bool watches;     /* on a hit after something happened to what is watched */
	bool write_behind;
	terrace_strategy strategy;
	terrace_next_fn *name_next;
	void *next_ctx;
	_Atomic(struct ahead *) ahead; /* NULL until something is read ahead; see ahead.h */
	int64_t stale_ms, stale_error_ms, absent_ttl_ms;
	unsigned jitter;
	bool has_form;
	terrace_form form;

	struct codecs codecs;
	struct counts counts;
	struct memory_counts folded; /* of L1, already in counts; stats_lock */
	_Atomic uint64_t sample;     /* which keys' hits are timed just now */
	_Atomic unsigned events;     /* kinds that somebody has subscribed to */
	_Atomic bool has_idle;       /* there may be entries with an idle time */
	_Atomic bool has_immediate;  /* there may be entries of memory without a row */
	_Atomic uint64_t unkept;     /* with no tiers: how often it was written, or invalidated */

	struct setting settings[CACHE_SETTING_COUNT];
	char name[TERRACE_NAME_MAX + 1];
};

/* Counts up in a child at fork: handles from before are no longer valid. */
extern _Atomic unsigned terrace__forks;
/* From now on it does. */
void terrace__watch_forks(void);

/* --- log.c ------------------------------------------------------------------------- */

void terrace__log(const struct terrace *store, terrace_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * A failure that the caller will not see: counted, and logged with the
 * thread's message. `cache` may be NULL.
 */
void terrace__swallow(struct terrace *store, struct terrace_cache *cache, const char *what);

/* --- clock.c ----------------------------------------------------------------------- */

/*
 * The store's clock in milliseconds: 1970 plus what has passed since boot, from
 * a base that is set once a boot. Setting the machine's date does not move it.
 */
int64_t terrace__now(struct terrace *store);
void terrace__clock_start(struct terrace *store);
/* The base of a boot: for what is shared and was made anew. Under the attach lock. */
void terrace__clock_settle(struct shared *shared);

/* --- access.c, note.c ---------------------------------------------------------------- */

/*
 * Hits that the catalogue should know of before it evicts. They are gathered in
 * the shared file, by all processes together, so that a hit writes nothing else:
 * not even the last one of a process that is about to end. Hashes are those of rows.
 */
void terrace__access_note(struct terrace *store, uint64_t hash, uint64_t count, int64_t when);
/* Within a transaction: write down up to `most` keys' hits. */
int terrace__access_flush(struct terrace *store, unsigned most);
/* Those of one key; *ret_count is zero when there are none. */
int terrace__access_flush_of(struct terrace *store, uint64_t hash, unsigned *ret_count);
/* There is soon no room for more. */
bool terrace__access_crowded(const struct terrace *store);
/* What is not written down yet; *ret_when is left alone when that is nothing. */
void terrace__access_find(const struct terrace *store, uint64_t hash, uint64_t *ret_count,
                          int64_t *ret_when);

/* The hash of the note on every key that has none of its own. */
#define NOTE_ON_ALL 0

/* For entries of caches without a disk. */
void terrace__note_put(struct terrace *store, uint64_t hash, terrace_reason reason, int64_t when,
                       const char *detail);
/* Of both kinds, the latest. */
bool terrace__note_get(struct terrace_cache *cache, terrace_slice key, terrace_why *ret);

/* How large a value may be at most, decoded: larger than all of memory and disk is a bomb. 0: any. */
static inline uint64_t terrace__value_max(const struct terrace *store)
{
	int64_t disk = (int64_t)store->disk_bytes;
	int64_t memory = store->settings[STORE_memory_bytes].number;

	return disk && memory ? (uint64_t)(disk > memory ? disk : memory) : 0;
}

/* Where the version of a key stands. */
static inline uint32_t slot_behind_first(const struct terrace_cache *cache, uint64_t hash)
{
	return (uint32_t)(hash >> 20) & cache->slot_mask;
}

static inline uint32_t cache_slot(const struct terrace_cache *cache, uint64_t hash)
{
	return cache->first_slot + slot_behind_first(cache, hash);
}

/* Caches must not share hashes: their rows share an index. */
static inline uint64_t seed_of(const struct terrace *store, uint32_t cache)
{
	return terrace__hash64(&cache, sizeof cache, store->head.seed);
}

/* A key of a cache, hashed. */
static inline struct tier_key cache_key_of(const struct terrace_cache *cache, terrace_slice key,
                                           uint64_t hash)
{
	return (struct tier_key){
		.key = key,
		.hash = hash,
		.slot = cache_slot(cache, hash),
		.cache = cache->number,
	};
}

static inline struct tier_key cache_key(const struct terrace_cache *cache, terrace_slice key)
{
	return cache_key_of(cache, key, terrace__hash64(key.data, key.size, cache->seed));
}

/* The same, for who will look at its version: on its way while the entry is looked for. */
static inline struct tier_key cache_key_soon(const struct terrace_cache *cache, terrace_slice key)
{
	struct tier_key hashed = cache_key(cache, key);

	__builtin_prefetch((const void *)&cache->store->shared->versions[hashed.slot]);
	return hashed;
}

#endif
