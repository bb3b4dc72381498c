/*
 * Memory for small things in pieces that the kernel is asked to make one large page of
 * each: who asks for them in any order then waits for fewer addresses.
 */
#ifndef UTIL_REGION_H
#define UTIL_REGION_H

#include <stdbool.h>
#include <stddef.h>

enum { REGION = 2 << 20 }; /* a large page of most processors */

/*
 * Aligned to its size, and zeroed; NULL when out of memory. `large`: for who has many; whoever
 * needs little of one would pay for all of it.
 */
void *terrace__region_map(bool large);
/* False where the kernel cannot: to take out a part of a mapping takes memory, too. */
bool terrace__region_unmap(void *region);
/*
 * The pages that lie whole in it go back to the system; they are zeros when they are next asked
 * for. The region is of small pages from then on.
 */
void terrace__region_give_back(void *at, size_t size);

#endif
