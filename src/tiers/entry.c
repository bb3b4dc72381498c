#include "tiers/entry.h"

#include "util/util.h"

#include <terrace/policy.h>

#include <stdlib.h>

_Static_assert(offsetof(struct entry, key) == 80, "no gaps");
_Static_assert(TERRACE_L3 < 8 && TERRACE_CODEC_ZSTD < 4, "they fit their bits");

/* malloc's own header and rounding, and the share of a table slot. */
enum { ENTRY_OVERHEAD = 16 + 16 };

struct entry *terrace__entry_new(terrace_slice key, uint64_t value_size, terrace_slice extra)
{
	const struct entry shape = { .key_size = (uint32_t)key.size, .value_size = value_size };
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
	memcpy(entry_key(entry), key.data, key.size);
	rest = entry_rest(entry);
	*rest = (struct entry_rest){ .extra_size = (uint32_t)extra.size };
	if (extra.size)
		memcpy(rest + 1, extra.data, extra.size);
	rest->charge = terrace__entry_charge(entry);
	return entry;
}

uint64_t terrace__entry_charge(const struct entry *entry)
{
	uint64_t charge = sizeof *entry + entry->key_size + entry->value_size +
	                  sizeof(struct entry_rest) + entry_rest(entry)->extra_size +
	                  ENTRY_OVERHEAD;

	if (entry->kind == ENTRY_OBJECT)
		charge += entry_object(entry)->weight;
	return charge;
}

/* --- the end ------------------------------------------------------------------------------- */

static struct entry *entry_of(const struct epoch_node *node)
{
	return (struct entry *)((char *)(uintptr_t)node - offsetof(struct entry, node));
}

static void free_retired(struct epoch_node *node)
{
	free(entry_of(node));
}

static int references(const struct epoch_node *node)
{
	return entry_counted(atomic_load_explicit(&entry_of(node)->meta, memory_order_acquire));
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
	/* Late readers look at the key, never at the object. */
	if (entry->kind == ENTRY_OBJECT) {
		struct entry_object *object = entry_object(entry);

		object->destroy(object->ctx, object->object);
	}
	if (!(atomic_load_explicit(&entry->meta, memory_order_relaxed) & ENTRY_SHARED)) {
		free(entry);
		return;
	}
	entry->node.kind = &entry_epochs;
	terrace__epoch_retire(&entry->node);
}

/* --- tables ---------------------------------------------------------------------------------- */

void terrace__entry_link(struct entry *entry)
{
	/* No reader of a table can see it yet, but who writes it behind may let go of it now. */
	uint32_t old = atomic_load_explicit(&entry->meta, memory_order_relaxed), meta;

	do
		meta = ((old + ENTRY_REF) & ~ENTRY_UNLINKED) | ENTRY_SHARED;
	while (!atomic_compare_exchange_weak_explicit(&entry->meta, &old, meta,
	                                              memory_order_relaxed, memory_order_relaxed));
}

bool terrace__entry_pin_counted(struct epoch_slot *slot, struct entry *entry)
{
	uint32_t old;

	if (entry->kind != ENTRY_OBJECT) {
		terrace__epoch_spill(slot, &entry_epochs);
		if (terrace__epoch_hold(slot, &entry->node))
			return true;
	}
	old = atomic_fetch_add_explicit(&entry->meta, ENTRY_REF, memory_order_acquire);
	if (!(old & ENTRY_UNLINKED))
		return true;
	entry_drop(entry, 0);
	return false;
}
