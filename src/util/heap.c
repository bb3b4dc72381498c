#include "util/heap.h"

#include "util/region.h"
#include "util/util.h"

#include <pthread.h>
#include <stdlib.h>

enum {
	UNIT = 16,       /* blocks are so many bytes long, and objects aligned to it */
	LEAST = 32,      /* a block that is free has to have room for its links */
	FIRST_LEVEL = 5, /* of blocks of LEAST bytes */
	LEVELS = 21 - FIRST_LEVEL,
	LISTS_BITS = 5, /* of a level, each for a part of it */
	LISTS = 1 << LISTS_BITS,
	SMALL_REGIONS = 2,             /* on small pages: who has little shall not pay for more */
	TRIM_LEVEL = 16 - FIRST_LEVEL, /* less is not worth a large page */
};

/*
 * Before each object, and at a region's end. Blocks lie one after the other, each an odd
 * number of words from the region's start.
 */
struct block {
	uint32_t before; /* how long the block before this one is; 0: there is none */
	uint32_t size;   /* with IS_FREE; 0 at the end */
};

enum { IS_FREE = 1 };

/* What is where the object would be. */
struct links {
	struct block *prev, *next;
};

/* Of a region: where its first block is, so that objects are aligned, and how long it can be. */
enum { FIRST = UNIT - sizeof(struct block), ROOM = REGION - FIRST - sizeof(struct block) };

_Static_assert(ROOM % UNIT == 0, "blocks fill it");

/* All below is of whoever has the lock. */
static pthread_mutex_t lock = PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;
static uint32_t levels;        /* a bit for each that has a list with a block */
static uint32_t lists[LEVELS]; /* a bit for each list that has one */
static struct block *free_blocks[LEVELS][LISTS];
static size_t regions, empty_regions;

static void hold_lock(void)
{
	pthread_mutex_lock(&lock);
}

static void let_go_of_lock(void)
{
	pthread_mutex_unlock(&lock);
}

/* As early as the slab's, and for the same reason. */
static __attribute__((constructor)) void watch_forks(void)
{
	pthread_atfork(hold_lock, let_go_of_lock, let_go_of_lock);
}

/* --- blocks -------------------------------------------------------------------------------- */

static uint32_t size_of(const struct block *block)
{
	return block->size & ~(uint32_t)IS_FREE;
}

static bool is_free(const struct block *block)
{
	return block->size & IS_FREE;
}

static struct block *at_offset(struct block *block, ptrdiff_t offset)
{
	return (struct block *)(void *)((char *)block + offset);
}

static struct block *behind(struct block *block)
{
	return at_offset(block, (ptrdiff_t)size_of(block));
}

static struct links *links_of(struct block *block)
{
	return (struct links *)(void *)(block + 1);
}

/* It is all of its region. */
static bool is_whole(const struct block *block)
{
	return size_of(block) == ROOM;
}

/* --- lists of what is free --------------------------------------------------------------------- */

struct place {
	unsigned level, list;
};

/* Of a block of this size. */
static struct place place_of(uint32_t size)
{
	unsigned log = 31 - (unsigned)__builtin_clz(size);

	return (struct place){ log - FIRST_LEVEL, size >> (log - LISTS_BITS) & (LISTS - 1) };
}

static void show(struct block *block)
{
	struct place at = place_of(size_of(block));
	struct block **first = &free_blocks[at.level][at.list];

	*links_of(block) = (struct links){ .next = *first };
	if (*first)
		links_of(*first)->prev = block;
	*first = block;
	lists[at.level] |= 1u << at.list;
	levels |= 1u << at.level;
	block->size |= IS_FREE;
	empty_regions += is_whole(block);
}

static void hide(struct block *block)
{
	struct place at = place_of(size_of(block));
	struct links *links = links_of(block);

	empty_regions -= is_whole(block);
	block->size &= ~(uint32_t)IS_FREE;
	if (links->next)
		links_of(links->next)->prev = links->prev;
	if (links->prev) {
		links_of(links->prev)->next = links->next;
		return;
	}
	free_blocks[at.level][at.list] = links->next;
	if (links->next)
		return;
	lists[at.level] &= ~(1u << at.list);
	if (!lists[at.level])
		levels &= ~(1u << at.level);
}

/* Of the list for this size, which all fit that are in it, or of the next longer one that has any. */
static struct block *find(uint32_t size)
{
	struct place at = place_of(size);
	uint32_t fit = lists[at.level] & ~0u << at.list;

	if (!fit) {
		uint32_t longer = levels & ~1u << at.level;

		if (!longer)
			return NULL;
		at.level = (unsigned)__builtin_ctz(longer);
		fit = lists[at.level];
	}
	return free_blocks[at.level][__builtin_ctz(fit)];
}

/* --- regions -------------------------------------------------------------------------------------- */

static void region_add(struct block *whole)
{
	regions++;
	show(whole);
}

static void region_take_out(struct block *whole)
{
	regions--;
	hide(whole);
}

/* Without the lock meanwhile: the kernel fills all of a large page, and may have to look for it. */
static struct block *region_new(void)
{
	bool large = regions >= SMALL_REGIONS;
	struct block *whole = NULL;
	char *region;

	pthread_mutex_unlock(&lock);
	region = terrace__region_map(large);
	if (region) {
		whole = (struct block *)(void *)(region + FIRST);
		*whole = (struct block){ .size = ROOM };
		*behind(whole) = (struct block){ .before = ROOM };
	}
	pthread_mutex_lock(&lock);
	if (whole)
		region_add(whole);
	return whole;
}

/* Of one that was taken out; without the lock. It stays where the kernel cannot. NULL is fine. */
static void region_free(struct block *whole)
{
	if (!whole || terrace__region_unmap((char *)whole - FIRST))
		return;
	terrace__region_give_back(whole + 1, ROOM - sizeof *whole);
	pthread_mutex_lock(&lock);
	region_add(whole);
	pthread_mutex_unlock(&lock);
}

/* --- take and give ---------------------------------------------------------------------------------- */

/*
 * As long as the shortest of a list: where one of its size went another fits, and nothing in
 * the list has to be looked at. That takes a thirty-second at most.
 */
static uint32_t block_size(size_t object)
{
	uint32_t size = (uint32_t)(sizeof(struct block) + object), step;

	if (size < LEAST)
		return LEAST;
	step = 1u << (31 - (unsigned)__builtin_clz(size) - LISTS_BITS);
	if (step < UNIT)
		step = UNIT;
	return (size + step - 1) & ~(step - 1);
}

/* What the block has beyond that is a block of its own. */
static void cut(struct block *block, uint32_t size)
{
	uint32_t left = block->size - size;
	struct block *rest;

	if (left < LEAST)
		return;
	block->size = size;
	rest = behind(block);
	*rest = (struct block){ .before = size, .size = left };
	behind(rest)->before = left;
	show(rest);
}

/* With what is free on either side. Both are out of the lists, and so is the one that comes of it. */
static struct block *join(struct block *block)
{
	struct block *next = behind(block);

	if (is_free(next)) {
		hide(next);
		block->size += next->size;
	}
	if (block->before && is_free(at_offset(block, -(ptrdiff_t)block->before))) {
		struct block *before = at_offset(block, -(ptrdiff_t)block->before);

		hide(before);
		before->size += block->size;
		block = before;
	}
	behind(block)->before = block->size;
	return block;
}

void *terrace__heap_take(size_t size)
{
	struct block *block;

	if (size > HEAP_MOST)
		return malloc(size);
	pthread_mutex_lock(&lock);
	block = find(block_size(size));
	if (!block)
		block = region_new();
	if (block) {
		hide(block);
		cut(block, block_size(size));
	}
	pthread_mutex_unlock(&lock);
	return block ? block + 1 : NULL;
}

void terrace__heap_give(void *object, size_t size)
{
	struct block *block, *empty = NULL;

	if (size > HEAP_MOST || !object) {
		free(object);
		return;
	}
	pthread_mutex_lock(&lock);
	block = join((struct block *)object - 1);
	show(block);
	/* One that is empty stays, for who gives and takes the last again and again. */
	if (is_whole(block) && empty_regions > 1) {
		empty = block;
		region_take_out(empty);
	}
	pthread_mutex_unlock(&lock);
	region_free(empty);
}

/* --- as a whole -------------------------------------------------------------------------------------- */

/* What is in use is not looked at: it may be on disk by now. Returns the regions that are empty. */
static struct block *list_trim(struct block *first)
{
	struct block *empty = NULL;

	for (struct block *block = first, *next; block; block = next) {
		struct links *links = links_of(block);

		next = links->next;
		if (is_whole(block)) {
			region_take_out(block);
			links->next = empty;
			empty = block;
		} else {
			terrace__region_give_back(links + 1,
			                          size_of(block) - sizeof *block - sizeof *links);
		}
	}
	return empty;
}

void terrace__heap_trim(void)
{
	/* A list at a time: who puts meanwhile does not wait for all of it. */
	for (unsigned at = TRIM_LEVEL * LISTS; at < LEVELS * LISTS; at++) {
		struct block *empty, *next;

		pthread_mutex_lock(&lock);
		empty = list_trim(free_blocks[at / LISTS][at % LISTS]);
		pthread_mutex_unlock(&lock);
		for (; empty; empty = next) {
			next = links_of(empty)->next;
			region_free(empty);
		}
	}
}

size_t terrace__heap_mapped(void)
{
	size_t mapped;

	pthread_mutex_lock(&lock);
	mapped = regions * (size_t)REGION;
	pthread_mutex_unlock(&lock);
	return mapped;
}
