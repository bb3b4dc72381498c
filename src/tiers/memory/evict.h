/*
 * Eviction policies of L1: which entry of a shard goes next. Called under the
 * shard's lock. A hit never calls a policy: it counts up in the entry, and the
 * policy looks at the count when the entry comes up for a decision.
 *
 * An entry's prev, next, queue, rank, frequency and seen belong to the policy
 * while it is between added and removed.
 */
#ifndef MEMORY_EVICT_H
#define MEMORY_EVICT_H

#include "tiers/entry.h"

/* Doubly linked, newest first. */
struct evict_queue {
	struct entry *newest, *oldest;
	double first; /* the rank of the oldest, as its policy keeps it */
};

static inline void queue_add(struct evict_queue *queue, struct entry *entry)
{
	entry->prev = NULL;
	entry->next = queue->newest;
	if (queue->newest)
		queue->newest->prev = entry;
	else
		queue->oldest = entry;
	queue->newest = entry;
}

static inline void queue_remove(struct evict_queue *queue, struct entry *entry)
{
	if (entry->prev)
		entry->prev->next = entry->next;
	else
		queue->newest = entry->next;
	if (entry->next)
		entry->next->prev = entry->prev;
	else
		queue->oldest = entry->prev;
}

/* How often the entry was hit since the policy last asked, 3 at most. */
static inline unsigned evict_new_hits(struct entry *entry)
{
	uint8_t hits = (uint8_t)entry_hits(entry), fresh = (uint8_t)(hits - entry->seen);

	entry->seen = hits;
	return fresh < 3 ? fresh : 3;
}

/* What there is too little of, and what a miss costs. */
struct evict_setting {
	bool by_count; /* the limit is on entries, so that all of them weigh the same */
	bool backed;   /* a lower tier has what goes: it is fetched again, not made again */
};

enum { EVICT_MAY_GO = 2 };

struct evict_ops {
	const char *name;
	size_t size; /* of the state, which starts zeroed */
	void (*start)(void *state, const struct evict_setting *setting);
	/* Without the lock: an entry will be added. Ask for the lines of the state that are written then. */
	void (*ahead)(const void *state);
	/*
	 * An entry of this hash may be added: ask for what is looked at then. The entries
	 * that may go for it: NULL where nobody can say.
	 */
	void (*soon)(const void *state, uint64_t hash, const struct entry *ret[EVICT_MAY_GO]);
	void (*added)(void *state, struct entry *entry);
	/* The entry leaves for another reason than being the victim. */
	void (*removed)(void *state, struct entry *entry);
	/* Take out and return the next victim; NULL when there is none. */
	struct entry *(*victim)(void *state);
	void (*done)(void *state);
};

extern const struct evict_ops terrace__evict_hits;  /* as many requests as possible */
extern const struct evict_ops terrace__evict_cost;  /* as much time as possible */
extern const struct evict_ops terrace__evict_bytes; /* as many bytes as possible */

/* By name; NULL when there is none. */
const struct evict_ops *terrace__evict_find(const char *name);

#endif
