/* Opening and closing stores and caches: what the api counts handles of. */
#ifndef CORE_CACHES_H
#define CORE_CACHES_H

#include "core/store.h"

/*
 * Copy a caller's struct of another age: what it lacks becomes zero, what it
 * has beyond ours must be zero. Both begin with their size. TERRACE_EINVAL, and
 * the message says it of `what`.
 */
int terrace__struct_in(void *ours, size_t our_size, const void *theirs, const char *what);

/*
 * Open the directory (absolute). The store has its settings, log and clock; on
 * failure the caller closes it all the same.
 */
int terrace__attach(struct terrace *store);
/* Parts of that: the database, and what is shared filled from it. */
int terrace__attach_database(struct terrace *store, const char *path);
int terrace__attach_restore(struct terrace *store);
/* Accepts what was opened half. Caches are closed before. */
void terrace__detach(struct terrace *store);

/* Names and floors that the database knows, where the shared file has none that are whole. */
int terrace__caches_restore(struct terrace *store);

/* Get or make the open cache and count a handle. `own`: a name that begins with '.'. */
int terrace__cache_open(struct terrace *store, const char *name, const terrace_policy *policy,
                        bool own, struct terrace_cache **ret);
/* One handle less; all of them with `force`. */
void terrace__cache_close(struct terrace_cache *cache, bool force);

/* Handles on all that are open, so that nobody closes one meanwhile; how many. */
size_t terrace__caches_hold(struct terrace *store, struct terrace_cache *ret[CACHES_MAX]);

/* Add this process's statistics of a cache to the store's. */
void terrace__stats_fold(struct terrace_cache *cache);

#endif
