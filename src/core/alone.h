/*
 * Writing to caches in memory alone. There are no rows: a put is ordered by L1's table and
 * the key's version (COHERENCE.md, "Caches in memory alone").
 */
#ifndef CORE_ALONE_H
#define CORE_ALONE_H

#include "core/lookup.h"

/* PUT or ADD, of an item whose entry is made; its rc is returned. */
int terrace__alone_put(struct terrace_cache *cache, struct put_item *item);
/*
 * A put as it mostly is, in one piece, where `puts_simply` says so. False when it was not
 * done, and has to go the long way.
 */
bool terrace__alone_put_simply(struct terrace_cache *cache, terrace_slice key, terrace_slice value);
int terrace__alone_incr(struct terrace_cache *cache, struct write *write);
/* How many were there. */
uint64_t terrace__alone_delete(struct terrace_cache *cache, const terrace_slice *keys,
                               size_t count);
/* Also for what was put into memory alone by a cache that has a disk. */
int terrace__alone_touch(struct terrace_cache *cache, const struct write *write);

#endif
