#include "tiers/entry.h"

#include "util/slab.h"
#include "util/util.h"

#include <terrace/policy.h>

#include <stdlib.h>

_Static_assert(offsetof(struct entry, key) == 88, "no gaps");
_Static_assert(TERRACE_L3 < 8, "it fits its bits");

/* Some hundreds of what is smaller may wait to be freed; to copy this costs more than to ask the kernel. */
enum { LARGE = 16 * 1024 };

/* An object that says that it weighs more weighs so much: sums must not overflow. */
#define WEIGHT_MOST (UINT64_C(1) << 56)

const struct entry_rest terrace__entry_no_rest = {
	.ttl = TERRACE_TTL_FOREVER,
	.codec = TERRACE_CODEC_NONE,
};

/*
 * Whoever looks for errors sees each entry apart: what a sanitizer does not hand out it
 * does not watch.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(EPOCH_TSAN)
#define ENTRY_BY_MALLOC 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ENTRY_BY_MALLOC 1
#endif
#endif
#ifndef ENTRY_BY_MALLOC
#define ENTRY_BY_MALLOC 0
#endif

static void *memory_take(size_t size)
{
	return ENTRY_BY_MALLOC ? malloc(size) : terrace__slab_take(size);
}

static void memory_give(struct entry *entry)
{
	size_t size = entry_rest_offset(entry);

	if (!entry->plain)
		size += sizeof(struct entry_rest) + entry_rest(entry)->extra_size;
	if (ENTRY_BY_MALLOC)
		free(entry);
	else
		terrace__slab_give(entry, size);
}

/* With `behind` bytes after the value. */
static struct entry *entry_new(const struct entry *shape, terrace_slice key, size_t behind)
{
	struct entry *entry;

	if (shape->value_size > SIZE_MAX / 2)
		return NULL;
	/* Not on a line of its own: what is at hand is worth more. */
	entry = memory_take(entry_rest_offset(shape) + behind);
	if (!entry)
		return NULL;
	*entry = *shape;
	atomic_init(&entry->meta, ENTRY_REF | ENTRY_UNLINKED);
	atomic_init(&entry->expires, INT64_MAX);
	memcpy(entry_key(entry), key.data, key.size);
	return entry;
}

struct entry *terrace__entry_new_plain(terrace_slice key, uint64_t value_size)
{
	const struct entry shape = { .key_size = (uint32_t)key.size,
		                     .value_size = value_size,
		                     .plain = true };

	return entry_new(&shape, key, 0);
}

struct entry *terrace__entry_new(terrace_slice key, uint64_t value_size, terrace_slice extra)
{
	const struct entry shape = { .key_size = (uint32_t)key.size, .value_size = value_size };
	struct entry *entry = entry_new(&shape, key, sizeof(struct entry_rest) + extra.size);
	struct entry_rest *rest;

	if (!entry)
		return NULL;
	rest = entry_rest(entry);
	*rest = (struct entry_rest){ .extra_size = (uint32_t)extra.size };
	if (extra.size)
		memcpy(rest + 1, extra.data, extra.size);
	return entry;
}

void terrace__entry_facts_of(struct entry *entry, const struct entry *from)
{
	struct entry_rest *rest = entry_rest(entry);
	const struct entry_rest *other = entry_rest(from);

	entry->hash = from->hash;
	entry->created = from->created;
	entry->tier = from->tier;
	entry->has_sources = from->has_sources;
	atomic_init(&entry->stamp, atomic_load(&from->stamp));
	atomic_init(&entry->epoch, atomic_load(&from->epoch));
	atomic_init(&entry->expires, atomic_load(&from->expires));
	rest->seq = other->seq;
	rest->codec = other->codec;
	rest->stored = entry_stored(from);
	atomic_init(&rest->ttl, atomic_load(&other->ttl));
	rest->idle = other->idle;
	atomic_init(&rest->deadline, atomic_load(&other->deadline));
	rest->stored_size = other->stored_size;
	rest->cost_us = other->cost_us;
	atomic_init(&rest->checked, atomic_load(&other->checked));
}

struct entry *terrace__entry_copy(const struct entry *entry)
{
	struct entry *copy = terrace__entry_new(entry_key_slice(entry), entry->value_size,
	                                        entry_extra(entry));

	if (!copy)
		return NULL;
	memcpy(entry_value(copy), entry_value(entry), (size_t)entry->value_size);
	copy->kind = entry->kind;
	terrace__entry_facts_of(copy, entry);
	return copy;
}

uint64_t terrace__entry_charge_more(const struct entry *entry)
{
	uint64_t charge = 0;

	if (!entry->plain)
		charge += sizeof(struct entry_rest) + entry_rest(entry)->extra_size;
	if (entry->kind == ENTRY_OBJECT)
		charge += min_u64(entry_object(entry)->weight, WEIGHT_MOST);
	return charge;
}

/* --- the end ------------------------------------------------------------------------------- */

static struct entry *entry_of(const struct epoch_node *node)
{
	return (struct entry *)((char *)(uintptr_t)node - offsetof(struct entry, node));
}

static void free_retired(struct epoch_node *node)
{
	memory_give(entry_of(node));
}

static int references(struct epoch_node *node)
{
	struct entry *entry = entry_of(node);
	uint32_t meta = atomic_load_explicit(&entry->meta, memory_order_acquire);

	while (entry_counted(meta) > 0) {
		int counted = entry_counted(meta);

		/* From then on it may be retired again by another, and be gone. */
		if (atomic_compare_exchange_weak_explicit(
			&entry->meta, &meta, meta & ~ENTRY_RETIRED, memory_order_acq_rel,
			memory_order_acquire))
			return counted;
	}
	return entry_counted(meta);
}

static void refer(struct epoch_node *node)
{
	entry_ref(entry_of(node));
}

static const struct epoch_kind entry_epochs = {
	.free = free_retired,
	.references = references,
	.refer = refer,
};

void terrace__entry_last(struct entry *entry)
{
	bool large;

	/* Late readers look at the key, never at the object. */
	if (entry->kind == ENTRY_OBJECT) {
		struct entry_object *object = entry_object(entry);

		object->destroy(object->ctx, object->object);
	}
	if (!entry_was_shared(entry)) {
		memory_give(entry);
		return;
	}
	large = entry->value_size >= LARGE;
	entry->node.kind = &entry_epochs;
	terrace__epoch_retire(&entry->node);
	if (large)
		terrace__epoch_nudge();
}

/* --- tables ---------------------------------------------------------------------------------- */

bool terrace__entry_pin_counted(struct epoch_slot *slot, struct entry *entry)
{
	uint32_t old;

	if (entry->kind != ENTRY_OBJECT) {
		terrace__epoch_spill(slot, &entry_epochs);
		if (terrace__epoch_hold(slot, &entry->node))
			return true;
	}
	/*
	 * Not of one that has left its table: to let go of it again might be to let go of the
	 * last, and an object's destructor must not run within a section.
	 */
	old = atomic_load_explicit(&entry->meta, memory_order_relaxed);
	do {
		if (old & ENTRY_UNLINKED)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(
	    &entry->meta, &old, old + ENTRY_REF, memory_order_acquire, memory_order_relaxed));
	return true;
}
