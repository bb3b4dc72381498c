#include "tiers/memory/evict.h"

#include "util/util.h"

#include <string.h>

void terrace__queue_add(struct evict_queue *queue, struct entry *entry)
{
	struct entry_rest *rest = entry_rest(entry);

	rest->prev = NULL;
	rest->next = queue->newest;
	if (queue->newest)
		entry_rest(queue->newest)->prev = entry;
	else
		queue->oldest = entry;
	queue->newest = entry;
	queue->bytes += rest->charge;
	queue->entries++;
}

void terrace__queue_remove(struct evict_queue *queue, struct entry *entry)
{
	struct entry_rest *rest = entry_rest(entry);

	if (rest->prev)
		entry_rest(rest->prev)->next = rest->next;
	else
		queue->newest = rest->next;
	if (rest->next)
		entry_rest(rest->next)->prev = rest->prev;
	else
		queue->oldest = rest->prev;
	queue->bytes -= rest->charge;
	queue->entries--;
}

unsigned terrace__evict_new_hits(struct entry *entry)
{
	struct entry_rest *rest = entry_rest(entry);
	uint8_t hits = (uint8_t)entry_hits(entry), fresh = (uint8_t)(hits - rest->seen);

	rest->seen = hits;
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
