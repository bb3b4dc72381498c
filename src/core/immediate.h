/*
 * Values that are put into memory alone, in a cache that has a disk. What the
 * disk had under the key is removed first, so that no older value comes back when
 * the new one has left L1, or in another process. See docs/COHERENCE.md.
 */
#ifndef CORE_IMMEDIATE_H
#define CORE_IMMEDIATE_H

#include "core/lookup.h"

/* Is a put by this strategy (0: the cache's) for memory alone, and a disk there that it passes by? */
bool terrace__is_immediate(const struct terrace_cache *cache, terrace_strategy strategy);

/* One put or add; fills in its rc. item->hashed and item->entry are there. */
void terrace__immediate_put(struct terrace_cache *cache, struct put_item *item);

/* An add for the disk, which does not know what is in memory alone. */
void terrace__immediate_add_beside(struct terrace_cache *cache, struct put_item *item,
                                   void (*add)(struct terrace_cache *cache, struct put_item *item));

/* The good entry of L1 that has no row; NULL when there is none. The caller drops it. */
struct entry *terrace__immediate_find(struct terrace_cache *cache, const struct tier_key *key);

/* TERRACE_MISS when the number is the disk's to keep. */
int terrace__immediate_incr(struct terrace_cache *cache, struct write *write);

#endif
