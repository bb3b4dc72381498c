/*
 * Counters, latencies, and the story of a single entry.
 *
 * One table each (the X macros) feeds the structs, `terrace stat` and its JSON.
 * Counters outlive processes: each process adds its own to the store's when it
 * closes a cache, and every five seconds while it works.
 */
#ifndef TERRACE_STATS_H
#define TERRACE_STATS_H

#include <terrace/base.h>
#include <terrace/cache.h>
#include <terrace/policy.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * X(name, what it counts). Hits in memory are counted without waiting for other
 * threads: two that hit one entry in the same moment may count as one.
 */
#define TERRACE_COUNTERS(X)                                                    \
	X(gets, "look-ups of a key, by get, get_many and fetch")               \
	X(hits_l1, "served from memory")                                       \
	X(hits_l2, "served from SQLite")                                       \
	X(hits_l3, "served from files")                                        \
	X(hits_encoded, "decoded again from bytes kept in memory")             \
	X(misses, "not served")                                                \
	X(puts, "values stored")                                               \
	X(deletes, "entries deleted by key")                                   \
	X(invalidated, "entries removed by clear and invalidate")              \
	X(evicted_l1, "entries that made room in memory")                      \
	X(evicted_l2, "entries that made room in SQLite")                      \
	X(evicted_l3, "entries that made room in files")                       \
	X(expired, "entries removed, or found, past their time to live")       \
	X(source_checks, "sources looked at")                                  \
	X(source_changes, "entries removed because a source changed")          \
	X(damaged, "entries removed because their bytes were damaged")         \
	X(loads, "values computed by loaders")                                 \
	X(load_errors, "loaders that failed")                                  \
	X(shared_loads, "callers served by another caller's computation")      \
	X(outdated_loads, "computed values not stored: invalidated meanwhile") \
	X(stale, "expired values given by fetch")                              \
	X(rejected, "values too large for any tier of the cache")              \
	X(errors, "failures of a tier: those that no caller saw, and puts")    \
	X(saved_us, "microseconds of computing that hits saved")               \
	X(raw_bytes, "bytes of values that went to disk")                      \
	X(stored_bytes, "what they became there")                              \
	X(stored_plain, "values stored as they are")                           \
	X(stored_lz4, "values stored by lz4")                                  \
	X(stored_zstd, "values stored by zstd")                                \
	X(stored_dictionary, "values stored by zstd with a dictionary")        \
	X(measured, "values that codec auto measured")                         \
	X(measured_bytes, "their bytes")                                       \
	X(measured_lz4_bytes, "what lz4 made of them")                         \
	X(measured_lz4_ns, "... and its time to encode and decode them")       \
	X(measured_zstd_bytes, "what zstd made of them")                       \
	X(measured_zstd_ns, "... and its time")                                \
	X(predicted, "entries brought into memory before they were asked for") \
	X(predicted_used, "... that were asked for then")                      \
	X(predicted_wasted, "... that went, or became old, before")            \
	X(in_bulk, "entries brought into memory with another of their range")

/* X(name, what is timed) */
#define TERRACE_LATENCIES(X)                                      \
	X(hit_l1, "a hit in memory (one key in 1,024 is timed)")  \
	X(hit_l2, "a hit in SQLite")                              \
	X(hit_l3, "a hit in files")                               \
	X(miss, "a miss")                                         \
	X(put, "a put (one in 16 where it is into memory alone)") \
	X(load, "a loader")

/** Four buckets an octave from 1 ns to 18 minutes: quantiles are within 19 %. */
#define TERRACE_LATENCY_BUCKETS 160

typedef struct terrace_latency {
	uint64_t count;
	uint64_t sum_ns;
	uint32_t buckets[TERRACE_LATENCY_BUCKETS];
} terrace_latency;

/** The q-quantile (0..1) in nanoseconds; 0 without samples. */
TERRACE_API uint64_t terrace_latency_quantile(const terrace_latency *latency, double q);
/** The mean in nanoseconds; 0 without samples. */
TERRACE_API uint64_t terrace_latency_mean(const terrace_latency *latency);

/** What a tier holds now. */
typedef struct terrace_usage {
	uint64_t entries;
	uint64_t bytes;       /* with overhead */
	uint64_t limit_bytes; /* what it may hold; 0 = no limit of its own */
} terrace_usage;

typedef struct terrace_stats {
	size_t size; /* set by TERRACE_STATS_INIT */
#define X(name, what) uint64_t name;
	TERRACE_COUNTERS(X)
#undef X
#define X(name, what) terrace_latency name##_time;
	TERRACE_LATENCIES(X)
#undef X
	terrace_usage l1;      /* of this process */
	terrace_usage encoded; /* of this process: encoded bytes beside forms */
	terrace_usage l2;
	terrace_usage l3;
	unsigned tiers;    /* set of terrace_tier that the cache uses */
	bool low_hit_rate; /* an alert: under 0.5 with more than 10 keys */
} terrace_stats;
TERRACE_DEFINE_INIT(terrace_stats)
#define TERRACE_STATS_INIT terrace_stats_init()

/**
 * All that is known of a cache: this process's counters and those that were
 * added to the store.
 *
 * Returns: TERRACE_OK, TERRACE_EINVAL, TERRACE_ENOMEM.
 * Cost:    looks at every entry of L1, and first makes rows of the values that
 *          wait to be written, in a transaction, so that they are counted.
 */
TERRACE_API int terrace_cache_stats(terrace_cache *cache, terrace_stats *ret);

/**
 * How much the cache holds: on disk, or in memory where it lives in memory
 * alone. Entries that are dead and not swept yet count.
 *
 * Returns: TERRACE_OK, TERRACE_EINVAL.
 * Cost:    two look-ups in SQLite.
 */
TERRACE_API int terrace_cache_usage(terrace_cache *cache, terrace_usage *ret);

/** How a cache encodes what goes to disk. */
typedef struct terrace_codec_info {
	size_t size;               /* set by TERRACE_CODEC_INFO_INIT */
	terrace_codec codec;       /* that the policy asks for */
	terrace_codec chosen;      /* with AUTO: what is cheapest by the counters measured_*, at
	                            * 20 ns for a byte on disk; DEFAULT before eight values */
	uint64_t dictionary_bytes; /* of the latest dictionary; 0 = none */
	unsigned dictionary_version;
} terrace_codec_info;
TERRACE_DEFINE_INIT(terrace_codec_info)
#define TERRACE_CODEC_INFO_INIT terrace_codec_info_init()

/**
 * How values of the cache are encoded now. What came of it is in the counters.
 *
 * Returns: TERRACE_OK, TERRACE_EINVAL.
 * Cost:    reads a directory, and the statistics.
 */
TERRACE_API int terrace_cache_codec(terrace_cache *cache, terrace_codec_info *ret);

/** hits / gets over all tiers, 0 without gets. */
TERRACE_API double terrace_hit_rate(const terrace_stats *stats);

/* --- one entry ---------------------------------------------------------------- */

typedef enum terrace_source_kind {
	TERRACE_SOURCE_FILE = 1,
	TERRACE_SOURCE_ABSENT = 2,
	TERRACE_SOURCE_LISTING = 3,
	TERRACE_SOURCE_VARIABLE = 4,
} terrace_source_kind;

typedef struct terrace_source_info {
	terrace_source_kind kind;
	const char *path; /* of a listing with its pattern; of a variable its name */
	bool changed;     /* it is no longer what it was */
} terrace_source_info;

/** "file", "absent", "listing", "variable"; "unknown" for what a newer version wrote. Static. */
TERRACE_API const char *terrace_source_kind_name(terrace_source_kind kind);

/** What is known of an entry. Times are in milliseconds since 1970. */
typedef struct terrace_info {
	size_t size;           /* set by TERRACE_INFO_INIT */
	unsigned tier;         /* the nearest one that holds it */
	uint64_t bytes;        /* of the value */
	uint64_t stored_bytes; /* on disk, encoded; 0 when only in memory */
	terrace_codec codec;
	int64_t created_ms;
	int64_t stored_ms;
	int64_t accessed_ms;
	/* How often it served; below L1 an estimate while hundreds of rows are hit (one hit in
	 * 16 counts, for 16), since each that is written down is a page that changes. */
	uint64_t access_count;
	int64_t age_ms;
	int64_t ttl_ms;     /* as it was given */
	int64_t expires_ms; /* 0 = never */
	int64_t left_ms;    /* until it expires; TERRACE_TTL_FOREVER; 0 when it is dead */
	uint64_t cost_us;
	size_t tag_count;
	const char *const *tags;
	size_t source_count;
	const terrace_source_info *sources;
	void *owned;     /* what the arrays point into */
	int64_t idle_ms; /* how long it may go unused; 0: as long as it likes. left_ms says how
	                  * long it would live from now on without being used */
} terrace_info;
TERRACE_DEFINE_INIT(terrace_info)
#define TERRACE_INFO_INIT terrace_info_init()

/**
 * Describe an entry without counting a hit.
 *
 * Owns:    the caller frees what *ret points to with terrace_info_free().
 * Returns: TERRACE_OK, TERRACE_MISS, TERRACE_EINVAL, TERRACE_EIO, TERRACE_ENOMEM.
 */
TERRACE_API int terrace_inspect(terrace_cache *cache, terrace_slice key, terrace_info *ret);
/**
 * Describe a pinned value of this cache: what terrace_inspect() would have said
 * when it was read, whatever became of its entry since.
 *
 * Owns, returns: as terrace_inspect(), but for TERRACE_MISS.
 */
TERRACE_API int terrace_inspect_value(terrace_cache *cache, const terrace_value *value,
                                      terrace_info *ret);
TERRACE_API void terrace_info_free(terrace_info *info);

/** Why an entry is not there. Every removal leaves a note for a day, 10,000 at most. */
typedef enum terrace_reason {
	TERRACE_REASON_LIVE = 0,  /* it is there */
	TERRACE_REASON_NEVER = 1, /* no trace of it */
	TERRACE_REASON_EXPIRED = 2,
	TERRACE_REASON_EVICTED = 3,
	TERRACE_REASON_CLEARED = 4,
	TERRACE_REASON_DELETED = 5,
	TERRACE_REASON_INVALIDATED = 6, /* detail: "tag x", "glob *", … */
	TERRACE_REASON_SOURCE = 7,      /* detail: the path that changed, and how */
	TERRACE_REASON_DAMAGED = 8,
	TERRACE_REASON_REJECTED = 9,  /* too large, or the disk was full */
	TERRACE_REASON_OUTDATED = 10, /* invalidated while it was computed */
	TERRACE_REASON_ABSENT = 11,   /* a loader found that there is no value, and that is kept */
} terrace_reason;

/** "live", "never stored", "expired", … Static. */
TERRACE_API const char *terrace_reason_name(terrace_reason reason);

typedef struct terrace_why {
	size_t size; /* set by TERRACE_WHY_INIT */
	terrace_reason reason;
	int64_t when_ms; /* when it went; 0 when live or unknown */
	char detail[512];
	terrace_info info; /* when live: free it with terrace_info_free() */
} terrace_why;
TERRACE_DEFINE_INIT(terrace_why)
#define TERRACE_WHY_INIT terrace_why_init()

/**
 * Say why a get of `key` would miss now, or describe the live entry.
 *
 * Returns: TERRACE_OK when live, TERRACE_MISS otherwise (both write *ret),
 *          TERRACE_EINVAL, TERRACE_EIO, TERRACE_ENOMEM.
 */
TERRACE_API int terrace_explain(terrace_cache *cache, terrace_slice key, terrace_why *ret);

/* --- the whole store ------------------------------------------------------------ */

typedef enum terrace_fault_kind {
	/* A row or file whose checksum does not hold; or one that is not found by its tags, its
	 * sources or the beginning of its key, and so would outlive an invalidation by those. */
	TERRACE_FAULT_ENTRY = 1,
	TERRACE_FAULT_NO_FILE = 2,  /* a row whose file is gone */
	TERRACE_FAULT_ORPHAN = 3,   /* a file without a row */
	TERRACE_FAULT_DATABASE = 4, /* what SQLite's own check says */
} terrace_fault_kind;

typedef struct terrace_fault {
	size_t size;
	terrace_fault_kind kind;
	const char *cache; /* its name; "" where unknown */
	terrace_slice key; /* empty where unknown */
	const char *detail;
	bool repaired;
} terrace_fault;

typedef struct terrace_verify_report {
	size_t size;      /* set by TERRACE_VERIFY_INIT */
	uint64_t entries; /* looked at */
	uint64_t bytes;   /* read */
	uint64_t damaged;
	uint64_t missing_files;
	uint64_t orphans;
	uint64_t database_errors;
	uint64_t repaired;
} terrace_verify_report;
TERRACE_DEFINE_INIT(terrace_verify_report)
#define TERRACE_VERIFY_INIT terrace_verify_report_init()

/**
 * Read every entry of L2 and L3, check every checksum, and whether tags, sources and
 * keys lead to it, while others go on working; with `repair`, remove what is damaged.
 *
 * fn:      called for each fault; may be NULL. Strings are valid during the call.
 * Returns: TERRACE_OK when nothing is wrong (any more), TERRACE_ECORRUPT when
 *          something is; TERRACE_EBUSY when a transaction is open for so long that
 *          it cannot be told which files are its own; TERRACE_EIO, TERRACE_EINVAL,
 *          TERRACE_ENOMEM.
 */
TERRACE_API int terrace_verify(terrace *store, bool repair,
                               int (*fn)(void *ctx, const terrace_fault *fault), void *ctx,
                               terrace_verify_report *ret);

/** Fields left at zero mean: no limit, from the start, to the end, remove nothing. */
typedef struct terrace_scrub_options {
	size_t size;               /* set by TERRACE_SCRUB_INIT; new fields come last */
	uint64_t bytes_per_second; /* of values read, on the average; 0 = as fast as it goes */
	uint64_t position;         /* where an earlier call has stopped; 0 = the start; anything
	                              else may be TERRACE_EINVAL, and does no harm */
	uint64_t most_bytes;       /* stop when so much was read; 0 = at the end */
	bool repair;               /* remove what is damaged */
} terrace_scrub_options;
TERRACE_DEFINE_INIT(terrace_scrub_options)
#define TERRACE_SCRUB_INIT terrace_scrub_options_init()

/**
 * Check the entries of L2 and L3 slowly, beside the store's work, some at a time:
 * what terrace_verify() does for rows and their files. It takes no lock but for
 * the moment in which a damaged entry is removed, and keeps no snapshot, so
 * that the log does not grow meanwhile. Files without a row, and the database
 * itself, are for terrace_verify(); a database that cannot be read is set aside.
 *
 * options: may be NULL.
 * fn:      called for each fault; may be NULL. Nonzero stops.
 * ret_position: where to go on; 0 when the end was reached. May be NULL.
 * Returns: as terrace_verify().
 * Threads: safe. Sleeps in the caller's thread to keep the rate.
 */
TERRACE_API int terrace_scrub(terrace *store, const terrace_scrub_options *options,
                              int (*fn)(void *ctx, const terrace_fault *fault), void *ctx,
                              terrace_verify_report *ret, uint64_t *ret_position);

#ifdef __cplusplus
}
#endif
#endif
