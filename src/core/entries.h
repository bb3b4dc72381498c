/* Making entries: from a caller's bytes, for the disk, and decoded. */
#ifndef CORE_ENTRIES_H
#define CORE_ENTRIES_H

#include "core/write.h"

/* The public set: packed marks. */
struct terrace_sources {
	struct buf marks;
	uint32_t count;
};

/* Check options and pack their tags and sources. */
int terrace__extra_pack(const terrace_put_options *options, struct buf *ret);

/* When an entry of this age-to-be dies; a time to live as in the public headers, 0: the cache's. */
int64_t terrace__expires(const struct terrace_cache *cache, const struct tier_key *key, int64_t now,
                         int64_t ttl_ms, int64_t *ret_ttl);

/* An entry of a caller's bytes, copied. */
int terrace__entry_make(struct terrace_cache *cache, const struct tier_key *key,
                        terrace_slice value, terrace_slice extra, int64_t ttl_ms, int64_t idle_ms,
                        uint64_t cost_us, struct entry **ret);

/* What it is worth when room is made, once its record is filled. */
void terrace__write_weigh(struct write *write);
/* What the entry says, without codec, payload and sum. */
void terrace__record_fill(uint32_t cache, const struct entry *entry, struct record *ret);

/* TERRACE_ETOOBIG when a value of that size could not be read again: see terrace__value_max(). */
int terrace__value_fits(const struct terrace *store, uint64_t size);

/*
 * Fill in a put: its record, encoded payload and place; a file is written at
 * once. TERRACE_ETOOBIG when the disk of this cache does not take it.
 */
int terrace__entry_encode(struct terrace_cache *cache, struct entry *entry, struct write *write);
/* The same for a cache that is not open here: into a row, as it is. */
void terrace__entry_raw(uint32_t cache, struct entry *entry, struct write *write);
void terrace__write_done(struct write *write);

/* Expired, from the future, or cleared; LIVE when neither. Sources are another matter. */
terrace_reason terrace__times_reason(struct terrace_cache *cache, int64_t created, int64_t expires,
                                     uint64_t seq);
terrace_reason terrace__entry_reason(struct terrace_cache *cache, const struct entry *entry);
/* All of it, sources included. */
bool terrace__entry_alive(struct terrace_cache *cache, const struct entry *entry);

/* Fill in the put of a number: the sum of the old value (may be NULL) and the delta. */
int terrace__number_write(struct write *write, const struct entry *old);

/* Decode with the cache's form. TERRACE_ECORRUPT when it refuses. */
int terrace__entry_decode(struct terrace_cache *cache, const struct entry *bytes,
                          struct entry **ret);
/*
 * What is put: the bytes themselves, or with a form what they decode to, because nothing
 * else has them; that is the caller's, to be dropped.
 */
int terrace__entry_in_form(struct terrace_cache *cache, struct entry *entry, struct entry **ret);

#endif
