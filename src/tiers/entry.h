/*
 * The entry: what tiers hand to each other and, pinned, to callers (it is the
 * terrace_value of the public headers). One allocation: the fields that a hit
 * looks at, in a line, the key, the value, then what is rarely looked at.
 *
 * An entry is immutable once it is shared, but for the fields that are atomic and
 * those of the eviction policy. It lives while it has references. The table that
 * holds it has one; a reader of the table takes its own without a lock, which is
 * why an entry that was in a table is freed by epochs.
 */
#ifndef TIERS_ENTRY_H
#define TIERS_ENTRY_H

#include "tiers/status.h"
#include "util/epoch.h"

#include <terrace/base.h>
#include <terrace/policy.h>

#include <stdatomic.h>
#include <stddef.h>

/* meta: references, which may be less than none (see below), above marks. */
#define ENTRY_UNLINKED UINT32_C(1) /* in no table */
#define ENTRY_RETIRED  UINT32_C(2) /* given to the epochs */
#define ENTRY_SHARED   UINT32_C(4) /* has been in a table */
#define ENTRY_REF      UINT32_C(16)

enum entry_kind {
	ENTRY_BYTES = 0,
	ENTRY_OBJECT = 1, /* the value is a struct entry_object */
	ENTRY_ABSENT = 2, /* a loader found that there is no value */
};

struct entry {
	union {
		struct {
			struct entry *prev,
			    *next;   /* the eviction policy's; next: also of a chain */
			double rank; /* the eviction policy's */
		};
		struct epoch_node node; /* in no table, nor chain */
	};
	int64_t created;
	uint64_t hash; /* of cache and key */
	uint64_t value_size;
	/* From here to the key: what a hit looks at. */
	_Atomic uint32_t meta;
	_Atomic uint32_t hits;   /* two readers in the same moment may count as one */
	_Atomic uint64_t stamp;  /* the key's version when this was read or written */
	_Atomic uint64_t epoch;  /* the cache's epoch then */
	_Atomic int64_t expires; /* store clock; INT64_MAX: never */
	uint32_t key_size;
	uint8_t kind : 2; /* enum entry_kind */
	uint8_t has_sources : 1;
	uint8_t plain : 1; /* there is no rest */
	uint8_t tier : 3;  /* where the bytes came from: TERRACE_L2, _L3; 0: from a caller */
	uint8_t queue;     /* the eviction policy's, like the two below */
	uint8_t frequency;
	uint8_t seen;  /* hits that it has counted, in their lowest bits */
	uint8_t key[]; /* then the value, struct entry_rest, extra */
};

/* What an entry in memory alone, without time to live, cost, tags and sources, does not need. */
struct entry_rest {
	uint64_t seq; /* of the row; 0 when there is none */
	int64_t stored;
	_Atomic int64_t ttl;      /* as it was given */
	int64_t idle;             /* how long it may go unused, ms; 0: as long as it likes */
	_Atomic int64_t deadline; /* with idle: when it dies in any case */
	uint64_t stored_size;
	uint64_t cost_us;
	_Atomic int64_t checked; /* when its sources were last found unchanged */
	uint32_t extra_size;     /* tags and sources, packed as in a record */
	uint8_t codec;           /* of the stored bytes */
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
/* The same without a rest: reading it finds zeros, and nobody may write it. */
struct entry *terrace__entry_new_plain(terrace_slice key, uint64_t value_size);
/* To an entry with a rest that is not shared yet: what is known of another, but for key, value, tags. */
void terrace__entry_facts_of(struct entry *entry, const struct entry *from);
/* Of one that may be shared, but is no object: a copy that is not, and that has a rest. */
struct entry *terrace__entry_copy(const struct entry *entry);

extern const struct entry_rest terrace__entry_no_rest;

/* By its bit, which is one instruction. */
static inline bool entry_is_object(const struct entry *entry)
{
	return entry->kind & ENTRY_OBJECT;
}

static inline uint8_t *entry_key(const struct entry *entry)
{
	return (uint8_t *)(uintptr_t)entry->key;
}

/* 16, so that callers may put anything there. */
static inline size_t entry_value_behind(size_t key_size)
{
	return (offsetof(struct entry, key) + key_size + 15) & ~(size_t)15;
}

static inline size_t entry_value_offset(const struct entry *entry)
{
	return entry_value_behind(entry->key_size);
}

static inline uint8_t *entry_value(const struct entry *entry)
{
	return (uint8_t *)entry + entry_value_offset(entry);
}

static inline size_t entry_rest_offset(const struct entry *entry)
{
	size_t end = entry_value_offset(entry) + (size_t)entry->value_size;

	return entry->plain ? end : (end + 7) & ~(size_t)7;
}

static inline struct entry_rest *entry_rest(const struct entry *entry)
{
	if (entry->plain)
		return (struct entry_rest *)(uintptr_t)&terrace__entry_no_rest;
	return (struct entry_rest *)((uint8_t *)entry + entry_rest_offset(entry));
}

static inline int64_t entry_stored(const struct entry *entry)
{
	return entry->plain ? entry->created : entry_rest(entry)->stored;
}

static inline terrace_slice entry_extra(const struct entry *entry)
{
	return terrace_bytes(entry_rest(entry) + 1, entry_rest(entry)->extra_size);
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
	return atomic_load_explicit(&entry->hits, memory_order_relaxed);
}

/* Not an atomic addition: that would make every reader wait for memory. */
static inline void entry_hit(struct entry *entry)
{
	atomic_store_explicit(&entry->hits, entry_hits(entry) + 1, memory_order_relaxed);
}

/*
 * References. Most are counted in meta. A reader of a table takes his without
 * writing to the entry: he notes it in a place of his thread (util/epoch.h), and
 * whoever lets go of it later, on a thread that does not find it there, counts
 * down all the same. So meta alone may be short by as many as places name the
 * entry; the epochs add up both before they free. Objects are counted alone,
 * because their destructor is to run when the last reference goes.
 */
static inline int entry_counted(uint32_t meta)
{
	return (int32_t)meta >> 4;
}

static inline struct entry *entry_ref(struct entry *entry)
{
	atomic_fetch_add_explicit(&entry->meta, ENTRY_REF, memory_order_relaxed);
	return entry;
}

/* Nothing counted is left of an entry in no table: free it, now or by epochs. */
void terrace__entry_last(struct entry *entry);

/*
 * Drop a reference that is counted, or that another thread has noted. Whoever
 * finds none left marks the entry as retired in the same step: what other threads
 * have noted may still be counted down, and they must find that they are not the
 * ones who free.
 */
static inline void entry_drop(struct entry *entry, uint32_t mark)
{
	uint32_t old = atomic_load_explicit(&entry->meta, memory_order_relaxed), meta;
	bool last;

	do {
		meta = (old - ENTRY_REF) | mark;
		last = entry_counted(meta) <= 0 &&
		       (meta & (ENTRY_UNLINKED | ENTRY_RETIRED)) == ENTRY_UNLINKED;
		if (last)
			meta |= ENTRY_RETIRED;
	} while (!atomic_compare_exchange_weak_explicit(
	    &entry->meta, &old, meta, memory_order_acq_rel, memory_order_relaxed));
	if (__builtin_expect(last, 0))
		terrace__entry_last(entry);
	else if (__builtin_expect(old & ENTRY_RETIRED, 0))
		terrace__epoch_nudge();
}

/* NULL is fine. */
static inline void entry_unref(struct entry *entry)
{
	uint32_t meta;

	if (!entry)
		return;
	meta = atomic_load_explicit(&entry->meta, memory_order_relaxed);
	if (!terrace__epoch_let_go(&entry->node))
		entry_drop(entry, 0);
	else if (__builtin_expect(meta & ENTRY_RETIRED, 0))
		terrace__epoch_nudge();
}

/* It is in a table, or was. */
static inline bool entry_was_shared(const struct entry *entry)
{
	return atomic_load_explicit(&entry->meta, memory_order_relaxed) & ENTRY_SHARED;
}

/*
 * Before an entry becomes visible in a table; the table's reference included, which is the
 * caller's where that is given.
 */
static inline void entry_link(struct entry *entry, bool given)
{
	uint32_t old = atomic_load_explicit(&entry->meta, memory_order_relaxed), meta;
	uint32_t ref = given ? 0 : ENTRY_REF;

	if (__builtin_expect(entry_counted(old) == 1, 1)) { /* the caller's alone */
		atomic_store_explicit(&entry->meta, ((old + ref) & ~ENTRY_UNLINKED) | ENTRY_SHARED,
		                      memory_order_relaxed);
		return;
	}
	/* No reader of a table can see it yet, but who writes it behind may let go of it now. */
	do
		meta = ((old + ref) & ~ENTRY_UNLINKED) | ENTRY_SHARED;
	while (!atomic_compare_exchange_weak_explicit(&entry->meta, &old, meta,
	                                              memory_order_relaxed, memory_order_relaxed));
}

/* When it is out of its table and policy: drop the table's reference. NULL is fine. */
static inline void entry_unlinked(struct entry *entry)
{
	if (entry)
		entry_drop(entry, ENTRY_UNLINKED);
}

/* The same for a chain of them. */
static inline void entry_unlinked_all(struct entry *chain)
{
	while (chain) {
		struct entry *entry = chain;

		chain = entry->next;
		entry_unlinked(entry);
	}
}

bool terrace__entry_pin_counted(struct epoch_slot *slot, struct entry *entry);

/* As entry_pin(), when it needs no count. */
static inline bool entry_hold(struct epoch_slot *slot, struct entry *entry)
{
	return __builtin_expect(!entry_is_object(entry), 1) &&
	       terrace__epoch_hold(slot, &entry->node);
}

/*
 * From a table, within an epoch section: take a reference. False when the entry
 * has just left the table.
 */
static inline bool entry_pin(struct epoch_slot *slot, struct entry *entry)
{
	return entry_hold(slot, entry) || terrace__entry_pin_counted(slot, entry);
}

/* What is lost to rounding, and the share of a table. */
enum { ENTRY_OVERHEAD = 8 + 24 };

/* Of what has a rest, or is an object. */
uint64_t terrace__entry_charge_more(const struct entry *entry);

/* What an entry weighs in memory; that does not change. */
static inline uint64_t entry_charge(const struct entry *entry)
{
	uint64_t charge = offsetof(struct entry, key) + entry->key_size + entry->value_size +
	                  ENTRY_OVERHEAD;

	if (__builtin_expect(!entry->plain || entry->kind == ENTRY_OBJECT, 0))
		charge += terrace__entry_charge_more(entry);
	return charge;
}

#endif
