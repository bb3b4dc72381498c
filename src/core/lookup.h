/*
 * The verbs of a cache, on entries: what the api wraps, and what the core
 * itself uses to keep things in a cache of its own.
 *
 * `cache` is never NULL and its keys are of a valid size.
 */
#ifndef CORE_LOOKUP_H
#define CORE_LOOKUP_H

#include "core/write.h"

/*
 * TERRACE_OK with a pinned entry and the tier that gave it, TERRACE_MISS, or
 * TERRACE_ABSENT when it is there and says that there is nothing.
 */
int terrace__get(struct terrace_cache *cache, terrace_slice key, struct entry **ret,
                 unsigned *ret_tier);
/* The same of L1 alone, where no miss is counted: one that counts is to follow. */
int terrace__get_near(struct terrace_cache *cache, terrace_slice key, struct entry **ret,
                      unsigned *ret_tier);
/* The same of a key that is hashed. With `found`, pinned, L1 is not asked again; it may be NULL. */
int terrace__get_hashed(struct terrace_cache *cache, terrace_slice key, uint64_t hash,
                        struct entry *found, struct entry **ret, unsigned *ret_tier);
int terrace__get_near_hashed(struct terrace_cache *cache, terrace_slice key, uint64_t hash,
                             struct entry *found, struct entry **ret, unsigned *ret_tier);
/* As many gets, at most GET_AT_ONCE, that wait for memory together; NULL where there is none. */
enum { GET_AT_ONCE = 16 };
void terrace__get_some(struct terrace_cache *cache, const terrace_slice *keys, size_t count,
                       struct entry **ret, unsigned *ret_tiers);
/* The same after a miss that was counted: another miss is not. */
int terrace__look_again(struct terrace_cache *cache, terrace_slice key, struct entry **ret,
                        unsigned *ret_tier);
bool terrace__is_expired(struct terrace_cache *cache, const struct entry *entry);
/*
 * One that expired less than `window` ms ago, or that is there again by now, and
 * is otherwise good, or TERRACE_MISS.
 */
int terrace__get_stale(struct terrace_cache *cache, terrace_slice key, int64_t window,
                       struct entry **ret);
/* The bytes of a cache with a form; a miss is counted where the caller says so. */
int terrace__get_encoded(struct terrace_cache *cache, terrace_slice key, bool count_miss,
                         struct entry **ret, unsigned *ret_tier);

/*
 * As terrace__get_encoded() with the miss counted, but a value in blocks is
 * opened and not read: *ret is then an entry of no bytes, and *ret_blocks reads
 * them; else that is NULL. *ret_size is the value's.
 */
int terrace__get_opened(struct terrace_cache *cache, terrace_slice key, struct entry **ret,
                        struct block_reader **ret_blocks, uint64_t *ret_size, unsigned *ret_tier);
/*
 * For L1, before anybody asks for it: read and decoded, and counted as no use.
 * TERRACE_EXISTS when a good copy is there; *ret_old is one that is not, or NULL.
 * TERRACE_MISS also for a value in blocks, and one that cannot be kept.
 */
int terrace__look_ahead(struct terrace_cache *cache, const struct tier_key *key, struct entry **ret,
                        struct entry **ret_old);
/* A damaged entry: counted, logged and removed. seq: which write; 0: look at it again. */
void terrace__damaged(struct terrace_cache *cache, const struct tier_key *key, uint64_t seq,
                      const char *how);

/* Facts without a value; TERRACE_MISS with the reason when it is there but dead. */
int terrace__describe(struct terrace_cache *cache, terrace_slice key, struct tier_facts *ret,
                      terrace_reason *ret_reason);

/* What an entry itself says. */
void terrace__entry_facts(const struct entry *entry, struct tier_facts *ret);

/* Look at an entry's sources now, whatever the policy; true when it was removed. */
bool terrace__check_entry(struct terrace_cache *cache, terrace_slice key);

/* What memory is to hold of a value in a cache with a form. */
enum put_shape {
	SHAPE_ANY, /* decoded where nothing but memory has it, else when it is first asked for */
	SHAPE_DECODED, /* the caller goes on with the object */
	SHAPE_ENCODED, /* the caller goes on with the bytes: decode nothing */
};

/* Is this one to be timed? */
bool terrace__put_is_timed(const struct terrace_cache *cache);

/* One put of terrace__put_many(). */
struct put_item {
	terrace_slice key, value;
	const struct write_lease *lease; /* may be NULL */
	enum write_kind kind;            /* PUT or ADD */
	bool absent;                     /* that there is no value is what is stored */
	bool immediate;                  /* into memory alone, past the disk that there is */
	enum put_shape shape;
	int rc;
	struct entry *entry;   /* what was stored, pinned; the caller's */
	struct entry *decoded; /* the same decoded, where that was done; the caller's */
	struct tier_key hashed;
};

/* options and cost may be NULL. Fills in every rc; the first failure is returned. */
int terrace__put_many(struct terrace_cache *cache, struct put_item *items, size_t count,
                      const terrace_put_options *options);
/* The same with tags and sources packed; the items begin without entries. */
int terrace__put_packed(struct terrace_cache *cache, struct put_item *items, size_t count,
                        terrace_slice extra, int64_t ttl_ms, int64_t idle_ms, uint64_t cost_us);
/* A put whose file is there: its row. TERRACE_MISS when the lease no longer held. */
int terrace__put_written(struct terrace_cache *cache, struct write *write);
/*
 * The value of a put could not be stored, for `rc`: at least the older one must not stay.
 * What came later than its lease does.
 */
void terrace__put_failed(struct terrace_cache *cache, terrace_slice key,
                         const struct write_lease *lease, int rc);
/* ret may be NULL. TERRACE_MISS when the lease no longer held. */
int terrace__put(struct terrace_cache *cache, terrace_slice key, terrace_slice value,
                 const terrace_put_options *options, const struct write_lease *lease,
                 struct entry **ret);
/* The same, of the knowledge that there is no value. */
int terrace__put_absent(struct terrace_cache *cache, terrace_slice key,
                        const terrace_put_options *options, const struct write_lease *lease);
/*
 * The same in a shape: *ret is the object with SHAPE_DECODED, where the bytes
 * could be decoded, and the bytes otherwise.
 */
int terrace__put_shaped(struct terrace_cache *cache, terrace_slice key, terrace_slice value,
                        const terrace_put_options *options, const struct write_lease *lease,
                        enum put_shape shape, struct entry **ret);
int terrace__incr(struct terrace_cache *cache, terrace_slice key, int64_t delta, int64_t initial,
                  int64_t *ret);
int terrace__delete_many(struct terrace_cache *cache, const terrace_slice *keys, size_t count,
                         uint64_t *ret_count);
int terrace__touch(struct terrace_cache *cache, terrace_slice key, int64_t ttl_ms);

/* What must still be true when a value computed from now on is stored. */
struct write_lease terrace__lease_take(struct terrace_cache *cache, terrace_slice key);

/* The cache of file hashes; NULL when the store keeps nothing. */
struct terrace_cache *terrace__digests(struct terrace *store);

/* --- memory.c ------------------------------------------------------------------------------ */

/* May an entry that weighs so much be kept in L1? The message says why not. */
bool terrace__memory_fits(struct terrace_cache *cache, uint64_t bytes);
/*
 * Put into L1, and keep cache and store within their limits. With a lease
 * (which may be NULL), only while that holds: else TERRACE_MISS. TERRACE_ETOOBIG
 * when it would push too much out; what was there is gone all the same.
 */
int terrace__memory_keep(struct terrace_cache *cache, struct tier_put *put,
                         const struct write_lease *lease);
/*
 * The same, in memory alone, of what was decoded from `bytes`, which are pinned: only while
 * those are the ones that are kept, else TERRACE_MISS. What replaces them under a lease takes
 * no new version, so that stamps would not tell the object of the older ones.
 */
int terrace__memory_keep_decoded(struct terrace_cache *cache, struct tier_put *put,
                                 const struct entry *bytes);
/* The same for what nobody has asked for: room is made in this cache alone. */
int terrace__memory_keep_weak(struct terrace_cache *cache, const struct tier_put *put);
/* Entries have become larger where they are: keep cache and store within their limits. */
void terrace__memory_keep_within(struct terrace_cache *cache);
/* In memory alone, before the first put: be a holder. */
int terrace__memory_join(struct terrace_cache *cache);
/* It is not used any more. Under caches_lock. */
void terrace__memory_leave(struct terrace_cache *cache);
/* In memory alone: the stamp of an entry that is about to be put; load the epoch before. */
uint64_t terrace__memory_stamp(struct terrace_cache *cache, const struct tier_key *key);
/* The same of what was made from an entry that was good at the version; false when it is not any more. */
bool terrace__memory_stamp_from(struct terrace_cache *cache, const struct tier_key *key,
                                uint64_t version, uint64_t *ret);
/* The bytes beside a form: as terrace__memory_keep(). */
int terrace__encoded_keep(struct terrace_cache *cache, const struct tier_key *key,
                          struct entry *entry, const struct write_lease *lease);
/* Drop what memory holds of a key, in this process. */
void terrace__memory_forget(struct terrace_cache *cache, const struct tier_key *key);
/* Drop a cache's copies in memory; how many the larger of its two tiers held. */
uint64_t terrace__memory_clear(struct terrace_cache *cache);
/* What is worth least, of L1 alone; the number of entries. */
uint64_t terrace__memory_evict(struct terrace_cache *cache, uint64_t bytes, uint64_t entries);
/* Down to the store's limits, where they have become lower. */
void terrace__memory_shrink(struct terrace *store);
/* The sum of what open caches are promised, but for the one of that name, which may be NULL. */
uint64_t terrace__memory_promised(struct terrace *store, const char *but);

#endif
