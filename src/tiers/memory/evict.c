#include "tiers/memory/evict.h"

#include "util/util.h"

#include <string.h>

void terrace__queue_add(struct evict_queue *queue, struct entry *entry)
{
	entry->prev = NULL;
	entry->next = queue->newest;
	if (queue->newest)
		queue->newest->prev = entry;
	else
		queue->oldest = entry;
	queue->newest = entry;
	queue->bytes += terrace__entry_charge(entry);
	queue->entries++;
}

void terrace__queue_remove(struct evict_queue *queue, struct entry *entry)
{
	if (entry->prev)
		entry->prev->next = entry->next;
	else
		queue->newest = entry->next;
	if (entry->next)
		entry->next->prev = entry->prev;
	else
		queue->oldest = entry->prev;
	queue->bytes -= terrace__entry_charge(entry);
	queue->entries--;
}

unsigned terrace__evict_new_hits(struct entry *entry)
{
	uint8_t hits = (uint8_t)entry_hits(entry), fresh = (uint8_t)(hits - entry->seen);

	entry->seen = hits;
	return fresh < 3 ? fresh : 3;
}

static const struct evict_ops *const policies[] = {
	&terrace__evict_hits,
	&terrace__evict_cost,
	&terrace__evict_bytes,
};

const struct evict_ops *terrace__evict_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(policies); i++) {
		if (strcmp(policies[i]->name, name) == 0)
			return policies[i];
	}
	return NULL;
}
