/*
 * The record: an entry as it lies on disk. A row of L2 holds head and payload
 * in two columns; a file of L3 holds them one behind the other. Format 1, all
 * integers little-endian:
 *
 *   0   4  "TRC1"
 *   4   4  head size, everything up to the payload
 *   8   8  XXH3-64 of the head from byte 16 on
 *   16  8  sequence number of the write
 *   24  4  cache number
 *   28  1  codec of the payload
 *   29  1  flags: 1 there is no value, a loader found that; 2 the payload is in
 *          blocks (see files/blocks.h), and lies in a file before the head; 4 it
 *          dies when it is not used; an unknown one makes the entry a miss
 *   30  2  zero
 *   32  8  created, ms
 *   40  8  stored, ms
 *   48  8  expires, ms; 2^63-1: never
 *   56  8  time to live as given, ms
 *   64  8  value size
 *   72  8  payload size
 *   80  8  cost, us
 *   88 16  XXH3-128 of the payload (canonical); of the root where it is in blocks
 *   104 4  key size
 *   108 4  extra size
 *   112    with flag 4: 8 how long it may go unused, ms; 8 when it dies in any case, ms
 *          key, extra (see extra.h)
 */
#ifndef TIERS_RECORD_H
#define TIERS_RECORD_H

#include "tiers/entry.h"
#include "util/buf.h"

enum { RECORD_HEAD_FIXED = 112 };
enum { RECORD_HEAD_MAX = 16 << 20 };
enum { RECORD_ABSENT = 1, RECORD_BLOCKS = 2, RECORD_IDLE = 4 };
enum { RECORD_HEAD_IDLE = 16 }; /* more, with RECORD_IDLE */
/* How much of a value lies in a block. */
enum { BLOCK_BYTES = 256 << 10 };

struct record {
	uint64_t seq;
	uint32_t cache;
	uint8_t codec;
	uint8_t flags;
	int64_t created;
	int64_t stored;
	int64_t expires;
	int64_t ttl;
	int64_t idle, deadline; /* with RECORD_IDLE */
	uint64_t value_size;
	uint64_t payload_size;
	uint64_t cost_us;
	uint8_t payload_sum[16];
	terrace_slice key;
	terrace_slice extra;
};

/* The size of the head. */
static inline size_t record_size(const struct record *record)
{
	return RECORD_HEAD_FIXED + (record->flags & RECORD_IDLE ? RECORD_HEAD_IDLE : 0) +
	       record->key.size + record->extra.size;
}

/* Append the head. The payload's sum and size are the caller's to set. */
void terrace__record_write(const struct record *record, struct buf *out);

/*
 * Read a head; slices point into it. TERRACE_OK; TERRACE_ECORRUPT when the
 * checksum or the sizes do not hold; TERRACE_EFORMAT for what a newer version
 * wrote.
 */
int terrace__record_read(terrace_slice head, struct record *ret);

/* The size of the head that starts with these RECORD_HEAD_FIXED bytes; 0 for nonsense. */
size_t terrace__record_head_size(const uint8_t *bytes);

/* In how many blocks its value would lie. */
static inline uint64_t terrace__record_blocks(const struct record *record)
{
	return record->value_size / BLOCK_BYTES + (record->value_size % BLOCK_BYTES != 0);
}

void terrace__record_sum(terrace_slice payload, uint8_t ret[16]);

/* Is this the payload that the head describes? */
bool terrace__record_holds(const struct record *record, terrace_slice payload);

/*
 * An entry with everything but its value and its bookkeeping (stamp, epoch).
 * TERRACE_OK, TERRACE_ECORRUPT when the sizes cannot be, TERRACE_ENOMEM.
 */
int terrace__record_shell(const struct record *record, uint64_t hash, unsigned tier,
                          struct entry **ret);

/*
 * Check the payload and make an entry of it: one allocation, one copy or
 * decode. TERRACE_OK, TERRACE_ECORRUPT, TERRACE_ENOMEM.
 */
int terrace__record_entry(const struct record *record, terrace_slice payload, uint64_t hash,
                          unsigned tier, struct entry **ret);

#endif
