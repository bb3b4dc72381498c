/*
 * S3-FIFO (Yang, Zhang, Qiu, Yue, Vigfusson, "FIFO queues are all you need for
 * cache eviction", SOSP 2023): new entries pass through a small queue of a
 * tenth of the bytes; only those hit there, or remembered from an eviction not
 * long ago, reach the main queue, which is a clock with two bits.
 */
#include "tiers/memory/evict.h"

#include "util/util.h"

#include <stdlib.h>

enum { SMALL = 1, MAIN = 2 };

/*
 * The ghosts: hashes of what left the small queue, as many as the main queue
 * has entries. A slot remembers a hash and when it was put there; one that was
 * overwritten is forgotten early, which costs at most a second chance.
 */
struct ghost {
	uint32_t tag;
	uint32_t time;
};

struct s3fifo {
	struct evict_queue small, main;
	struct ghost *ghosts;
	uint32_t ghost_mask;
	uint32_t time; /* counts evictions from the small queue */
};

static void ghosts_fit(struct s3fifo *s)
{
	uint64_t wanted = 2 * (s->main.entries + s->small.entries);
	uint32_t count = s->ghosts ? s->ghost_mask + 1 : 0;
	struct ghost *grown;

	if (wanted <= count || count >= 1u << 30)
		return;
	count = 64;
	while (count < wanted)
		count *= 2;
	grown = calloc(count, sizeof *grown);
	if (!grown)
		return; /* fewer ghosts will do */
	for (uint32_t i = 0; s->ghosts && i <= s->ghost_mask; i++) {
		if (s->ghosts[i].tag)
			grown[s->ghosts[i].tag & (count - 1)] = s->ghosts[i];
	}
	free(s->ghosts);
	s->ghosts = grown;
	s->ghost_mask = count - 1;
}

static uint32_t ghost_tag(const struct entry *entry)
{
	return (uint32_t)(entry->hash >> 8) | 1;
}

static void ghost_add(struct s3fifo *s, const struct entry *entry)
{
	uint32_t tag = ghost_tag(entry);

	ghosts_fit(s);
	s->time++;
	if (s->ghosts)
		s->ghosts[tag & s->ghost_mask] = (struct ghost){ tag, s->time };
}

static bool ghost_take(struct s3fifo *s, const struct entry *entry)
{
	uint32_t tag = ghost_tag(entry);
	struct ghost *ghost;

	if (!s->ghosts)
		return false;
	ghost = &s->ghosts[tag & s->ghost_mask];
	if (ghost->tag != tag || s->time - ghost->time > s->main.entries)
		return false;
	ghost->tag = 0;
	return true;
}

static struct evict_queue *queue_of(struct s3fifo *s, const struct entry *entry)
{
	return entry->queue == SMALL ? &s->small : &s->main;
}

static void enqueue(struct s3fifo *s, struct entry *entry, uint8_t queue)
{
	entry->queue = queue;
	terrace__queue_add(queue_of(s, entry), entry);
}

static void s3fifo_added(void *state, struct entry *entry)
{
	struct s3fifo *s = state;

	entry->frequency = 0;
	enqueue(s, entry, ghost_take(s, entry) ? MAIN : SMALL);
}

static void s3fifo_removed(void *state, struct entry *entry)
{
	terrace__queue_remove(queue_of(state, entry), entry);
}

/* The small queue's oldest moves on to the main queue, or is the victim. */
static struct entry *small_step(struct s3fifo *s)
{
	struct entry *entry = s->small.oldest;

	terrace__queue_remove(&s->small, entry);
	if (terrace__evict_new_hits(entry) > 0) {
		enqueue(s, entry, MAIN);
		return NULL;
	}
	ghost_add(s, entry);
	return entry;
}

static struct entry *main_step(struct s3fifo *s)
{
	struct entry *entry = s->main.oldest;

	terrace__queue_remove(&s->main, entry);
	entry->frequency = (uint8_t)min_u64(entry->frequency + terrace__evict_new_hits(entry), 3);
	if (entry->frequency > 0) {
		entry->frequency--;
		enqueue(s, entry, MAIN);
		return NULL;
	}
	return entry;
}

static struct entry *s3fifo_victim(void *state)
{
	struct s3fifo *s = state;
	/* Hits go on while we look; do not run after them for ever. */
	uint64_t tries = 2 * (s->small.entries + s->main.entries);

	while (s->small.entries + s->main.entries > 0) {
		bool small = s->small.entries > 0 &&
		             (s->main.entries == 0 || s->small.bytes * 9 >= s->main.bytes);
		struct entry *victim = small ? small_step(s) : main_step(s);

		if (victim)
			return victim;
		if (tries-- == 0) {
			struct evict_queue *queue = s->main.entries ? &s->main : &s->small;

			victim = queue->oldest;
			terrace__queue_remove(queue, victim);
			return victim;
		}
	}
	return NULL;
}

static void s3fifo_start(void *state, const struct evict_setting *setting)
{
	(void)state;
	(void)setting;
}

static void s3fifo_done(void *state)
{
	struct s3fifo *s = state;

	free(s->ghosts);
}

const struct evict_ops terrace__evict_bytes = {
	.name = "bytes",
	.size = sizeof(struct s3fifo),
	.start = s3fifo_start,
	.added = s3fifo_added,
	.removed = s3fifo_removed,
	.victim = s3fifo_victim,
	.done = s3fifo_done,
};
