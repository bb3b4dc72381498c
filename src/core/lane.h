/*
 * Lanes: values that wait to be written, where every process can read them.
 *
 * Each process that writes much has a lane: marks in the shared file, in order
 * of arrival, and for each its record in the lane's part of the file `lanes`. Its owner
 * alone adds to it; whoever holds the writers' lock makes rows of what waits and
 * moves the lane's head, the owner or another, whether the owner lives or not.
 *
 * A mark is read without a lock: it is good if its parts hold, and the head has
 * not passed it afterwards, because only then is its place used again.
 */
#ifndef CORE_LANE_H
#define CORE_LANE_H

#include "core/store.h"

/* A mark, read. */
struct lane_item {
	uint64_t at;  /* which of the lane's */
	uint64_t seq; /* 0: unfinished: nobody has been promised anything */
	uint64_t version, epoch;
	uint64_t hash;
	uint32_t slot, cache;
	uint32_t offset, size; /* of its record */
	uint64_t prev;         /* 1 + the number of the one before it for the slot; 0: none */
};

/* The first that waits, or the next that will; false when that is damaged. */
bool terrace__lane_head(const struct shared *shared, int lane, uint64_t *ret);
/* From *ret_head to *ret_tail; false when that is damaged. */
bool terrace__lane_span(const struct shared *shared, int lane, uint64_t *ret_head,
                        uint64_t *ret_tail);
/* One that is damaged is not. */
bool terrace__lane_is_empty(const struct shared *shared, int lane);
/* False when it is damaged. */
bool terrace__lane_read(const struct shared *shared, int lane, uint64_t at, struct lane_item *ret);
/* That one will be looked at: what is known of its slot is asked for. */
void terrace__lane_soon(const struct shared *shared, int lane, uint64_t at);
/* The latest that waits for the slot, if anything does, and in which lane. */
bool terrace__lane_find(const struct shared *shared, uint32_t slot, int *ret_lane,
                        struct lane_item *ret);
/* From one that was found to the one before it for the slot; false when there is none. */
bool terrace__lane_prev(const struct shared *shared, int lane, struct lane_item *item);
/* Nothing else was written to the slot, nor to the cache as a whole, since it was put. */
bool terrace__lane_is_current(const struct shared *shared, int lane, const struct lane_item *item);
/* Does a value of the cache (NULL: of any) wait in any lane? */
bool terrace__lanes_any(struct terrace *store, const struct terrace_cache *cache);

/*
 * The value itself, copied, as it was put; the stamps are the caller's to give.
 * TERRACE_MISS when it waits no longer, TERRACE_ECORRUPT, TERRACE_ENOMEM.
 */
int terrace__lane_value(struct terrace *store, int lane, const struct lane_item *item,
                        struct entry **ret);

/* Its key, where that lies; false when it cannot be told. Under the writers' lock. */
bool terrace__lane_key(struct terrace *store, int lane, const struct lane_item *item,
                       terrace_slice *ret);

/* Room on the device for a lane of ours; *ret_bytes is how much. */
int terrace__lane_make(struct terrace *store, int lane, uint64_t *ret_bytes);
/* It is empty: give that back. */
void terrace__lane_unmake(struct terrace *store, int lane);
/* What all of them have there. */
uint64_t terrace__lanes_bytes(const struct shared *shared);
/* Alone, while attaching, with a shared file that was made anew: nothing waits. */
void terrace__lanes_remove(int dir_fd);
/*
 * A record and its mark, unfinished; terrace__lane_finish() says under which version
 * it was put. By the owner, one thread at a time, into a place that is free.
 */
void terrace__lane_write(struct terrace *store, int lane, const struct lane_item *item,
                         terrace_slice head, terrace_slice value);
/* Its lines are asked for: they were written long ago, and a put ends with a fence. */
void terrace__lane_write_soon(struct terrace *store, int lane, const struct lane_item *item);
void terrace__lane_finish(struct shared *shared, int lane, const struct lane_item *item);
/* If it was good under one version it goes on being so under another. By the owner. */
void terrace__lane_restamp(struct shared *shared, int lane, uint64_t at, uint64_t old,
                           uint64_t new);
/* By the owner: the next one has this number. */
void terrace__lane_tail_set(struct shared *shared, int lane, uint64_t tail);
/* All up to `to` are done with. Under the writers' lock. */
void terrace__lane_pass(struct shared *shared, int lane, uint64_t to);
/* Its span is damaged, and with that all that waited is lost. The same. */
void terrace__lane_mend(struct shared *shared, int lane);
/*
 * What stood in the lane up to `to` for this version is done with: take the mark off,
 * unless a later value waits for the slot. Under the writers' lock.
 */
void terrace__lane_unmark(struct shared *shared, int lane, uint64_t to,
                          const struct lane_item *item);
/* The slot is marked, and nothing may wait for it: take the mark off if that is so. */
void terrace__lane_unmark_stray(struct shared *shared, uint32_t slot);

void terrace__lanes_close(struct terrace *store);

#endif
