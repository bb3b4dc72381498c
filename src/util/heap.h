/*
 * Memory for objects of some kilobytes that come and go: two-level segregated fit
 * (Masmano, Ripoll, Crespo and Real, "TLSF: a new dynamic memory allocator for
 * real-time systems", 2004). What fits is found in lists by size, of which bits say
 * whether there is anything in them; what is given is joined with what is free on either
 * side, so that what some large ones leave small ones take, and the other way round.
 *
 * It is here, in malloc's place, for large pages (util/region.h); what is smaller is the slab's
 * (util/slab.h), where nothing has to be joined. As there, valgrind sees no objects.
 */
#ifndef UTIL_HEAP_H
#define UTIL_HEAP_H

#include <stddef.h>

/*
 * Values of 128 KiB, with what is around them; larger objects are malloc's, for of those so few
 * fit into a region that a seventh of it could be left.
 */
enum { HEAP_MOST = 132 * 1024 };

/* Aligned to 16 bytes; NULL when out of memory. Any thread. */
void *terrace__heap_take(size_t size);
/* `size`: what it was taken with. Any thread. NULL is fine. */
void terrace__heap_give(void *object, size_t size);

/* To the system, what nothing is in, where that is 64 KiB or more. */
void terrace__heap_trim(void);

/* Bytes that are mapped, whatever is in them; for tests. */
size_t terrace__heap_mapped(void);

#endif
