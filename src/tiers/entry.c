#include "tiers/entry.h"

#include "util/util.h"

#include <stdlib.h>

_Static_assert(sizeof(struct entry) == 64, "what a hit looks at is one cache line");

/* malloc's own header and rounding, and the share of a table slot. */
enum { ENTRY_OVERHEAD = 16 + 16 };

struct entry *terrace__entry_new(terrace_slice key, uint64_t value_size, terrace_slice extra)
{
	struct entry shape = { .key_size = (uint32_t)key.size, .value_size = value_size };
	size_t value_at = entry_value_offset(&shape), rest_at, size;
	struct entry *entry;
	struct entry_rest *rest;

	if (value_size > SIZE_MAX / 2)
		return NULL;
	rest_at = (value_at + (size_t)value_size + 7) & ~(size_t)7;
	size = rest_at + sizeof *rest + extra.size;
	/* Not on a line of its own: what malloc has at hand is worth more. */
	entry = malloc(size);
	if (!entry)
		return NULL;
	*entry = shape;
	atomic_init(&entry->meta, ENTRY_REF | ENTRY_UNLINKED);
	atomic_init(&entry->expires, INT64_MAX);
	entry->extra_size = (uint32_t)extra.size;
	memcpy(entry_key(entry), key.data, key.size);
	rest = entry_rest(entry);
	*rest = (struct entry_rest){ 0 };
	if (extra.size)
		memcpy(rest + 1, extra.data, extra.size);
	rest->charge = terrace__entry_charge(entry);
	return entry;
}

uint64_t terrace__entry_charge(const struct entry *entry)
{
	uint64_t charge = sizeof *entry + entry->key_size + entry->value_size +
	                  sizeof(struct entry_rest) + entry->extra_size + ENTRY_OVERHEAD;

	if (entry->kind == ENTRY_OBJECT)
		charge += entry_object(entry)->weight;
	return charge;
}

static void free_retired(struct epoch_node *node)
{
	struct entry_rest *rest = (struct entry_rest *)node;

	free((void *)(uintptr_t)rest->seq); /* where terrace__entry_last() put it */
}

void terrace__entry_last(struct entry *entry)
{
	struct entry_rest *rest = entry_rest(entry);

	/* Late readers look at the key, never at the object. */
	if (entry->kind == ENTRY_OBJECT) {
		struct entry_object *object = entry_object(entry);

		object->destroy(object->ctx, object->object);
	}
	if (!(atomic_load_explicit(&entry->meta, memory_order_relaxed) & ENTRY_SHARED)) {
		free(entry);
		return;
	}
	rest->seq = (uint64_t)(uintptr_t)entry;
	rest->retired.free = free_retired;
	terrace__epoch_retire(&rest->retired);
}

void terrace__entry_link(struct entry *entry)
{
	/* No reader of a table can see it yet, but who writes it behind may let go of it now. */
	uint64_t old = atomic_load_explicit(&entry->meta, memory_order_relaxed), meta;

	do
		meta = ((old + ENTRY_REF) & ~ENTRY_UNLINKED) | ENTRY_SHARED;
	while (!atomic_compare_exchange_weak_explicit(&entry->meta, &old, meta,
	                                              memory_order_relaxed, memory_order_relaxed));
}

void terrace__entry_unlink(struct entry *entry)
{
	atomic_fetch_or_explicit(&entry->meta, ENTRY_UNLINKED, memory_order_acq_rel);
}
