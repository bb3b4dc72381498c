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
	uint32_t hits = entry_hits(entry), fresh = hits - rest->seen;

	rest->seen = hits;
	return fresh < 3 ? fresh : 3;
}

/* --- fifo: the oldest goes, whatever was hit -------------------------------- */

static void fifo_added(void *state, struct entry *entry)
{
	terrace__queue_add(state, entry);
}

static void fifo_removed(void *state, struct entry *entry)
{
	terrace__queue_remove(state, entry);
}

static struct entry *fifo_victim(void *state)
{
	struct evict_queue *queue = state;
	struct entry *entry = queue->oldest;

	if (entry)
		terrace__queue_remove(queue, entry);
	return entry;
}

static void fifo_done(void *state)
{
	(void)state;
}

const struct evict_ops terrace__evict_fifo = {
	.name = "fifo",
	.size = sizeof(struct evict_queue),
	.added = fifo_added,
	.removed = fifo_removed,
	.victim = fifo_victim,
	.done = fifo_done,
};

/* --- clock: the oldest goes, unless it was hit since it last came up
 *     (Corbató, "A paging experiment with the Multics system", 1968) ----------- */

static struct entry *clock_victim(void *state)
{
	struct evict_queue *queue = state;

	for (uint64_t left = 2 * queue->entries; left > 0; left--) {
		struct entry *entry = queue->oldest;

		terrace__queue_remove(queue, entry);
		if (terrace__evict_new_hits(entry) == 0)
			return entry;
		terrace__queue_add(queue, entry);
	}
	return fifo_victim(queue);
}

const struct evict_ops terrace__evict_clock = {
	.name = "clock",
	.size = sizeof(struct evict_queue),
	.added = fifo_added,
	.removed = fifo_removed,
	.victim = clock_victim,
	.done = fifo_done,
};

static const struct evict_ops *const policies[] = {
	&terrace__evict_s3fifo,
	&terrace__evict_clock,
	&terrace__evict_fifo,
};

const struct evict_ops *terrace__evict_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(policies); i++) {
		if (strcmp(policies[i]->name, name) == 0)
			return policies[i];
	}
	return NULL;
}
