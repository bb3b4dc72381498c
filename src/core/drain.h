/*
 * Making rows of what waits in a lane, ours or another's: the values are copied and
 * encoded first, then written in one transaction, each if it is still what its key
 * holds. No version moves by that: no key changes.
 */
#ifndef CORE_DRAIN_H
#define CORE_DRAIN_H

#include "core/lane.h"
#include "core/write.h"

struct drain {
	struct terrace *store;
	int lane;
	uint64_t from, to;
	uint64_t most; /* bytes of records; what is beyond is left for another time, as is what
	                * would have more files than FILES_AT_ONCE; 0: no limit */
	bool still;    /* none of it is being added just now */
	bool give_up;  /* only what is older is to go */
	bool damaged;  /* it cannot be told which rows were to be replaced */
	bool full;     /* room had to be made for it */
	int rc;        /* the first value that could not be prepared */
	struct drained *items;
	struct write *writes;
	size_t count; /* of both */
};

/*
 * What waits from `from` to `to`; caches: whose the values are, by mark, or NULL where
 * they are not open here. Items that somebody else has written meanwhile are left out.
 */
int terrace__drain(struct drain *drain, struct terrace_cache *const *caches);
/* The same under the writers' lock, no transaction open. */
int terrace__drain_now(struct drain *drain, struct terrace_cache *const *caches);

#endif
