/*
 * The entry: what tiers hand to each other and, pinned, to callers (it is the
 * terrace_value of the public headers). One allocation: the fields that a hit
 * looks at, the key, the value, then what is rarely looked at.
 *
 * An entry is immutable once it is shared, but for the fields that are atomic.
 * It lives while it has references. The table that holds it has one; a reader
 * of the table takes its own without a lock, which is why an entry that was in
 * a table is freed by epochs.
 */
#ifndef TIERS_ENTRY_H
#define TIERS_ENTRY_H

#include "tiers/status.h"
#include "util/epoch.h"

#include <terrace/base.h>
#include <terrace/policy.h>

#include <stdatomic.h>

/* meta: references in the low half, hits in the high half, marks between. */
#define ENTRY_REF      UINT64_C(1)
#define ENTRY_REFS     UINT64_C(0x0fffffff)
#define ENTRY_UNLINKED (UINT64_C(1) << 28) /* in no table */
#define ENTRY_RETIRED  (UINT64_C(1) << 29) /* given to the epochs */
#define ENTRY_SHARED   (UINT64_C(1) << 30) /* has been in a table */
#define ENTRY_HIT      (UINT64_C(1) << 32)

enum entry_kind {
	ENTRY_BYTES = 0,
	ENTRY_OBJECT = 1, /* the value is a struct entry_object */
	ENTRY_ABSENT = 2, /* a loader found that there is no value */
};

struct entry {
	_Atomic uint64_t meta;
	uint64_t hash;           /* of cache and key */
	_Atomic uint64_t stamp;  /* the key's version when this was read or written */
	_Atomic uint64_t epoch;  /* the cache's epoch then */
	_Atomic int64_t expires; /* store clock; INT64_MAX: never */
	uint64_t value_size;
	uint32_t key_size;
	uint32_t extra_size; /* tags and sources, packed as in a record */
	uint32_t source_count;
	uint8_t codec; /* of the stored bytes */
	uint8_t tier;  /* where the bytes came from: TERRACE_L2, _L3; 0: from a caller */
	uint8_t kind;  /* enum entry_kind */
	uint8_t queue; /* the eviction policy's */
		       /* 64 bytes; then key, value, struct entry_rest, extra */
};

struct entry_rest {
	union {
		struct {
			struct entry *prev, *next; /* the eviction policy's, or a chain */
		};
		struct epoch_node retired;
	};
	uint64_t seq; /* of the row; 0 when there is none */
	int64_t created;
	int64_t stored;
	_Atomic int64_t ttl;      /* as it was given */
	int64_t idle;             /* how long it may go unused, ms; 0: as long as it likes */
	_Atomic int64_t deadline; /* with idle: when it dies in any case */
	uint64_t stored_size;
	uint64_t cost_us;
	uint64_t charge;          /* what it weighs in memory */
	_Atomic int64_t checked;  /* when its sources were last found unchanged */
	_Atomic int64_t accessed; /* store clock, to the precision of a tick */
	double rank;              /* the eviction policy's, like the two below */
	uint8_t frequency;
	uint8_t seen; /* hits that it has counted, in their lowest bits */
	uint16_t tag_count;
};

/*
 * Idle time. An entry that was used lives for its idle time and an eighth of it
 * (a second at least) from then on, so that only a use that finds less than the
 * idle time left has to say so. Its row lives for some seconds more: so long
 * may it take until a use is written down.
 */
enum { IDLE_GRACE_MS = 5000 };

static inline int64_t entry_idle_expires(int64_t idle, int64_t deadline, int64_t now)
{
	int64_t expires;

	if (__builtin_add_overflow(now, idle, &expires) ||
	    __builtin_add_overflow(expires, idle / 8 > 1000 ? idle / 8 : 1000, &expires))
		return deadline;
	return expires < deadline ? expires : deadline;
}

/* When the row of an entry dies, and the other way round. */
static inline int64_t entry_idle_to_row(int64_t idle, int64_t expires, int64_t deadline)
{
	if (idle == 0)
		return expires;
	return deadline - expires <= IDLE_GRACE_MS ? deadline : expires + IDLE_GRACE_MS;
}

static inline int64_t entry_idle_from_row(int64_t idle, int64_t expires, int64_t deadline)
{
	return idle == 0 || expires >= deadline ? expires : expires - IDLE_GRACE_MS;
}

/* The value of an entry whose cache has a form. */
struct entry_object {
	void *object;
	void (*destroy)(void *ctx, void *object);
	void *ctx;
	size_t weight;
};

/*
 * An entry with room for its parts, one reference (the caller's) and zeroed
 * fields; the value is for the caller to fill. NULL when out of memory.
 */
struct entry *terrace__entry_new(terrace_slice key, uint64_t value_size, terrace_slice extra);

static inline uint8_t *entry_key(const struct entry *entry)
{
	return (uint8_t *)(entry + 1);
}

static inline size_t entry_value_offset(const struct entry *entry)
{
	/* 16, so that callers may put anything there */
	return (sizeof *entry + entry->key_size + 15) & ~(size_t)15;
}

static inline uint8_t *entry_value(const struct entry *entry)
{
	return (uint8_t *)entry + entry_value_offset(entry);
}

static inline struct entry_rest *entry_rest(const struct entry *entry)
{
	size_t end = entry_value_offset(entry) + (size_t)entry->value_size;

	return (struct entry_rest *)((uint8_t *)entry + ((end + 7) & ~(size_t)7));
}

static inline terrace_slice entry_extra(const struct entry *entry)
{
	return terrace_bytes(entry_rest(entry) + 1, entry->extra_size);
}

static inline terrace_slice entry_key_slice(const struct entry *entry)
{
	return terrace_bytes(entry_key(entry), entry->key_size);
}

static inline struct entry_object *entry_object(const struct entry *entry)
{
	return (struct entry_object *)entry_value(entry);
}

static inline uint32_t entry_hits(const struct entry *entry)
{
	return (uint32_t)(atomic_load_explicit(&entry->meta, memory_order_relaxed) >> 32);
}

static inline struct entry *entry_ref(struct entry *entry)
{
	atomic_fetch_add_explicit(&entry->meta, ENTRY_REF, memory_order_relaxed);
	return entry;
}

/* The last reference of an unlinked entry is gone: free it, now or by epochs. */
void terrace__entry_last(struct entry *entry);

/*
 * Drop a reference. Whoever drops the last one marks the entry as retired in
 * the same step: a reader that comes too late may still count up and down
 * again, and must find that it is not the one who frees.
 */
static inline void entry_drop(struct entry *entry, uint64_t what)
{
	uint64_t old = atomic_load_explicit(&entry->meta, memory_order_relaxed), meta;
	bool last;

	do {
		meta = old - what;
		last = (meta & (ENTRY_REFS | ENTRY_UNLINKED | ENTRY_RETIRED)) == ENTRY_UNLINKED;
		if (last)
			meta |= ENTRY_RETIRED;
	} while (!atomic_compare_exchange_weak_explicit(
	    &entry->meta, &old, meta, memory_order_acq_rel, memory_order_relaxed));
	if (__builtin_expect(last, 0))
		terrace__entry_last(entry);
}

/* NULL is fine. */
static inline void entry_unref(struct entry *entry)
{
	if (entry)
		entry_drop(entry, ENTRY_REF);
}

/* Before an entry becomes visible in a table; the table's reference included. */
void terrace__entry_link(struct entry *entry);

/* After it is out of the table: marks it; the table's reference is the caller's. */
void terrace__entry_unlink(struct entry *entry);

/*
 * From a table, within an epoch section: take a reference and count a hit.
 * False when the entry has just left the table.
 */
static inline bool entry_try_pin(struct entry *entry, uint64_t hit)
{
	uint64_t old = atomic_fetch_add_explicit(&entry->meta, ENTRY_REF | hit,
	                                         memory_order_acquire);

	if (__builtin_expect(!(old & ENTRY_UNLINKED), 1))
		return true;
	entry_drop(entry, ENTRY_REF | hit);
	return false;
}

/* What an entry of these sizes weighs in memory. */
uint64_t terrace__entry_charge(const struct entry *entry);

#endif
