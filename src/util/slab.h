/*
 * Memory for a great many objects of up to a kilobyte that come and go: a slab
 * allocator (Bonwick, "The slab allocator: an object-caching kernel memory allocator",
 * 1994) with a stack of free objects of each size in each thread (Bonwick and Adams,
 * "Magazines and Vmem", 2001).
 *
 * What it is for is large pages. Entries that are asked for in any order lie on more pages
 * than the processor remembers the addresses of, and to look one up costs as much as
 * the entry. Objects are cut from regions that the kernel is asked to make of one page
 * each (util/region.h), from the third on, so that a program that caches little pays for nothing.
 *
 * A span of a region, 64 KiB, is of one size until nothing is in it. That is why larger
 * objects are the heap's (util/heap.h): one of them here and there would hold what all of them
 * took.
 * valgrind sees no objects in here, as a sanitizer would not (see tiers/entry.c).
 */
#ifndef UTIL_SLAB_H
#define UTIL_SLAB_H

#include <stddef.h>

enum { SLAB_MOST = 1024 }; /* larger objects are the heap's */

/* Aligned to 16 bytes; NULL when out of memory. Any thread. */
void *terrace__slab_take(size_t size);
/* `size`: what it was taken with. Any thread. NULL is fine. */
void terrace__slab_give(void *object, size_t size);

/* What this thread has at hand goes to where it is from: it may be the last of many regions. */
void terrace__slab_let_go(void);

/* That, and to the system what nothing is in; of the heap, too. */
void terrace__slab_trim(void);

/* Bytes that are mapped, whatever is in them; for tests. */
size_t terrace__slab_mapped(void);

/* A table that is asked in any order: on large pages, where it fills some. For free(). */
void *terrace__slab_table(size_t size);

#endif
