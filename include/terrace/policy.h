/*
 * Policies: what a cache keeps, where, for how long and how it is encoded.
 *
 * A policy is put together from four places. The nearest to the caller wins:
 * code (the fields set in the struct), then the environment, then the
 * configuration file, then the built-in default. docs/CONFIGURATION.md has the
 * file's grammar; terrace_config_each() shows where each value came from.
 */
#ifndef TERRACE_POLICY_H
#define TERRACE_POLICY_H

#include <terrace/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A time to live that never ends. */
#define TERRACE_TTL_FOREVER ((int64_t)-1)
/** A time to live of nothing: the entry is dead at once. */
#define TERRACE_TTL_NONE ((int64_t)-2)

/** How the bytes of L2 and L3 are compressed; remembered for each entry. */
typedef enum terrace_codec {
	TERRACE_CODEC_DEFAULT = 0, /* none for rows, lz4 for files */
	TERRACE_CODEC_NONE = 1,
	TERRACE_CODEC_LZ4 = 2,
	TERRACE_CODEC_ZSTD = 3, /* with a dictionary of the cache's values, when that pays */
	TERRACE_CODEC_AUTO = 4, /* what is cheapest by what was measured; see terrace_codec_stats */
	TERRACE_CODEC_DICTIONARY = 5, /* of entries alone: zstd with a dictionary */
} terrace_codec;

/** When an entry's sources are looked at again. */
typedef enum terrace_check {
	TERRACE_CHECK_DEFAULT = 0,  /* as ON_HIT */
	TERRACE_CHECK_ON_HIT = 1,   /* on every hit, in L1 too */
	TERRACE_CHECK_INTERVAL = 2, /* on a hit, at most every check_interval_ms */
	TERRACE_CHECK_MANUAL = 3,   /* only by terrace_check_sources() */
	/*
	 * On a hit, after inotify has told of something. A hit of an entry whose
	 * sources were found unchanged before, while nothing that is watched has
	 * changed, costs a look at a clock and two loads, and no system call: one
	 * is made in each tick of the kernel's clock, for all entries together.
	 * After a change of any source, each entry is looked at once more.
	 *
	 * Promised is: what was changed before this tick of the clock began, so 1
	 * to 10 ms ago, as the kernel was built, is seen by a get. Who needs what
	 * was changed just now takes ON_HIT.
	 *
	 * As with ON_HIT go: a source on a file system that does not tell of every
	 * change (network, FUSE, overlay, proc), in a directory that may not be
	 * read, or one too many for the system's limits; a source whose directory
	 * was moved, or that was replaced, once; everything after more events came
	 * than the kernel keeps, once. A variable is looked at on every hit.
	 *
	 * What inotify tells nobody is not seen: writing through a mapping, until
	 * it is taken away; and mounting something over a directory of a path.
	 */
	TERRACE_CHECK_WATCH = 4,
} terrace_check;

/** When a put reaches the disk. */
typedef enum terrace_write {
	TERRACE_WRITE_DEFAULT = 0, /* as THROUGH */
	/*
	 * Before the put returns, or, single values of at most 64 KiB of a process that
	 * puts many, as with BEHIND. When it returns, every process gets the value, and it
	 * survives this one, either way.
	 */
	TERRACE_WRITE_THROUGH = 1,
	/*
	 * The put returns when the value stands in a file that all processes have
	 * mapped; it becomes a row within a tenth of a second, many in one transaction, or at
	 * terrace_flush(). What then cannot be written is a miss, where THROUGH may
	 * have said so at once.
	 */
	TERRACE_WRITE_BEHIND = 2,
} terrace_write;

/** Where values are put, and what is brought into memory besides what was asked for. */
typedef enum terrace_strategy {
	TERRACE_STRATEGY_DEFAULT = 0, /* of a call: the cache's; of a cache: STANDARD */
	/*
	 * Into L1 alone, whatever tiers the cache has, of this process. What was
	 * there before under the key is gone, in all tiers and processes, as by a
	 * delete; others miss, and so does everybody once the value has left L1.
	 * keys does not list it; clear and any invalidate but of a key drop all such
	 * values of the cache. Within a transaction, which could not be rolled back
	 * otherwise, as STANDARD.
	 */
	TERRACE_STRATEGY_IMMEDIATE = 1,
	TERRACE_STRATEGY_STANDARD = 2, /* into all tiers; what is asked for, and nothing else */
	/*
	 * As STANDARD; and where a key was not in L1, or was there because it had been
	 * predicted, what is likely to be asked for next is brought there from below by
	 * a thread of its own: what terrace_policy.next names, or where that names
	 * nothing, what came after the key before, as far as that was more often than
	 * not right. What it reads leaves L1 before anything that was asked for more
	 * often, counts as no use of an entry, and is held to the same checks.
	 * Values over 256 KiB are not read ahead. Takes up to 8 MiB besides L1.
	 */
	TERRACE_STRATEGY_PREEMPTIVE = 3,
	/*
	 * As STANDARD; and a get that finds its key below L1 brings the others of the
	 * key's range with it: those that terrace_policy.next names, or where there is
	 * no such function and the key ends in a number, those of the 16 numbers from
	 * the last multiple of 16 on. To compute many keys at once: terrace_fetch_many().
	 */
	TERRACE_STRATEGY_BATCH = 4,
} terrace_strategy;

/** The keys that go with another one; see terrace_policy.next. */
typedef struct terrace_next terrace_next;

/**
 * Add a key, which is copied. At most 256 are taken, of at most 64 KiB together.
 *
 * Returns: TERRACE_OK; TERRACE_EFULL when no more are taken; TERRACE_EINVAL.
 */
TERRACE_API int terrace_next_add(terrace_next *next, terrace_slice key);

/**
 * Name keys that go with `key` by terrace_next_add(): with PREEMPTIVE what is
 * likely to be asked for next, the soonest first; with BATCH the key's range.
 * PREEMPTIVE calls it on a thread of the cache, BATCH on the one that gets; several at a time.
 * It must not close the cache.
 */
typedef void terrace_next_fn(void *ctx, terrace_slice key, terrace_next *next);

/**
 * What L1 holds for an entry when that is not its bytes: a decoded picture, a
 * parsed tree. L2 and L3 keep the encoded bytes.
 *
 * decode runs once per L1 miss and sets *ret_object and its weight in bytes,
 * and returns 0. TERRACE_ENOMEM means that it could not now, and is a miss; any
 * other code, that the bytes cannot be decoded, and the entry counts as damaged.
 * destroy runs when the last pin of an object that L1
 * has let go is released. Both may run on any thread, several at a time.
 */
typedef struct terrace_form {
	size_t size; /* set by TERRACE_FORM_INIT */
	int (*decode)(void *ctx, terrace_slice bytes, void **ret_object, size_t *ret_weight);
	void (*destroy)(void *ctx, void *object);
	void *ctx; /* borrowed until the cache and every value of it are released */
} terrace_form;
TERRACE_DEFINE_INIT(terrace_form)
#define TERRACE_FORM_INIT terrace_form_init()

/** Fields left at zero mean the default of the next place down. */
typedef struct terrace_policy {
	size_t size;    /* set by TERRACE_POLICY_INIT; new fields come last */
	unsigned tiers; /* set of terrace_tier; 0 = all three */
	int64_t ttl_ms; /* TERRACE_TTL_FOREVER, _NONE or milliseconds; 0 = for ever */
	terrace_codec codec;
	uint64_t inline_bytes;   /* larger stored values become files, as do values over this and
	                          * 256 KiB whatever they shrink to; 0 = 32 KiB */
	uint64_t memory_bytes;   /* L1 of this cache, keys, values and overhead; 0 = the store's */
	uint64_t memory_entries; /* 0 = no limit */
	uint64_t encoded_bytes;  /* with a form: memory for encoded bytes besides; 0 = none */
	uint64_t disk_bytes;     /* L2 and L3 of this cache; 0 = the store's */
	uint64_t disk_entries;   /* 0 = no limit */
	terrace_check check;
	int64_t check_interval_ms; /* with TERRACE_CHECK_INTERVAL */
	/*
	 * What is kept when there is no room for all: "hits" answers most requests,
	 * "bytes" serves most bytes, "cost" saves most time, by cost_us of what was
	 * put, or in L1 by what a fetch from a lower tier takes. NULL = "hits"
	 */
	const char *eviction;
	bool disabled;            /* every call works and nothing is kept */
	const char *description;  /* for people; NULL = "" */
	const terrace_form *form; /* code only; copied; NULL = plain bytes */
	terrace_write write;
	int64_t stale_ms; /* terrace_fetch() may give what expired no longer ago, while one caller
	                   * computes it anew */
	int64_t stale_on_error_ms; /* … and when computing fails */
	int64_t absent_ttl_ms;     /* how long "there is none" is remembered; 0 = not at all */
	unsigned jitter_percent;   /* each time to live is shortened by up to so much */
	/* Of L1, guaranteed: what others borrow comes back before this cache gives. */
	uint64_t memory_min_bytes;
	/*
	 * What a key holds follows from the key alone, as where it is a hash of
	 * all that the value was made from: then an older value is as good as a
	 * newer one, and the cache keeps its entries over a power cut. Recorded in
	 * the store: once a program has said so, it is so for everybody and for good.
	 * A power cut may bring back what was deleted shortly before.
	 */
	bool immutable;
	/*
	 * Idle time: how long an entry lives that nobody gets; 0 or TERRACE_TTL_FOREVER =
	 * as long as its time to live. Any get of its value counts, in every process
	 * and tier; exists, keys and inspect do not.
	 *
	 * An entry never dies before its idle time is over, and when that is over
	 * within another eighth of it, at least a second. Other processes know of a get
	 * after up to 5 s, the row with it: only an entry that had not been used for
	 * all of its idle time before can be missed there in between, and is lost if
	 * the process is killed, or cannot write, before it has written that down.
	 *
	 * Costs nothing for other entries; of these, one get in an eighth of the idle
	 * time is written down, many in one transaction.
	 */
	int64_t idle_ms;
	terrace_strategy strategy;
	terrace_next_fn *next; /* code only; NULL: see terrace_strategy */
	void *next_ctx;        /* borrowed until the cache is closed */
} terrace_policy;
TERRACE_DEFINE_INIT(terrace_policy)
#define TERRACE_POLICY_INIT terrace_policy_init()

#ifdef __cplusplus
}
#endif
#endif
