#include "util/slab.h"

#include "util/heap.h"
#include "util/region.h"
#include "util/util.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

enum {
	SPANS = 32, /* of a region, each of objects of one size */
	SPAN = REGION / SPANS,
	STEP = 16, /* between sizes up to FINE, and what objects are aligned to */
	FINE = 512,
	COARSE = 32, /* between those above */
	CLASSES = FINE / STEP + (SLAB_MOST - FINE) / COARSE + 1,
	AT_HAND = 16 * 1024, /* bytes of a size that a thread keeps, */
	AT_HAND_MOST = 64,   /* and objects */
	SMALL_REGIONS = 2,   /* on small pages: each size takes a span at once */
	AHEAD = 256,         /* bytes of the next one that are asked for */
};

struct object {
	struct object *next;
};

struct span {
	struct span *prev, *next; /* of those of its size that have room */
	struct object *free;
	uint16_t room;        /* objects that fit */
	uint16_t used, fresh; /* that are out, and that ever were */
	uint8_t size_class;
};

struct region {
	struct region *prev, *next; /* of those that have free spans */
	uint32_t taken;             /* a bit for each span */
	struct span spans[SPANS];
};

/* What a thread has at hand. */
struct hand {
	struct {
		struct object *free;
		uint32_t count, most;
	} of[CLASSES];
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t hand_key;
static bool has_key;
static __attribute__((tls_model("initial-exec"))) _Thread_local struct hand *mine;

/* All below is of whoever has the lock. */
static pthread_mutex_t lock = PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;
static struct span *roomy[CLASSES];
static struct region *open_regions;
static size_t regions;

/* --- sizes ---------------------------------------------------------------------------------- */

/* 1 to CLASSES - 1. */
static inline unsigned class_of(size_t size)
{
	if (LIKELY(size <= FINE))
		return (unsigned)((size + STEP - 1) / STEP);
	return (unsigned)(FINE / STEP + (size - FINE + COARSE - 1) / COARSE);
}

static inline size_t size_of(unsigned size_class)
{
	if (size_class <= FINE / STEP)
		return size_class * STEP;
	return FINE + (size_t)(size_class - FINE / STEP) * COARSE;
}

/* --- regions and spans, under the lock ----------------------------------------------------------- */

static struct region *region_of(const void *at)
{
	return (struct region *)((uintptr_t)at & ~(uintptr_t)(REGION - 1));
}

static char *span_start(struct region *region, const struct span *span)
{
	size_t n = (size_t)(span - region->spans);

	/* The region's own part is in front of the first. */
	return (char *)region + (n ? n * SPAN : (sizeof *region + 63) & ~(size_t)63);
}

static bool span_is_full(const struct span *span)
{
	return !span->free && span->fresh == span->room;
}

static void region_show(struct region *region)
{
	region->prev = NULL;
	region->next = open_regions;
	if (open_regions)
		open_regions->prev = region;
	open_regions = region;
}

static void region_hide(struct region *region)
{
	if (region->prev)
		region->prev->next = region->next;
	else
		open_regions = region->next;
	if (region->next)
		region->next->prev = region->prev;
}

static struct region *region_new(void)
{
	struct region *region = terrace__region_map(regions >= SMALL_REGIONS);

	if (!region)
		return NULL;
	regions++;
	region_show(region);
	return region;
}

/* It stays where the kernel cannot. */
static void region_free(struct region *region)
{
	region_hide(region);
	if (terrace__region_unmap(region))
		regions--;
	else
		region_show(region);
}

static void span_show(struct span *span)
{
	struct span **first = &roomy[span->size_class];

	span->prev = NULL;
	span->next = *first;
	if (*first)
		(*first)->prev = span;
	*first = span;
}

static void span_hide(struct span *span)
{
	if (span->prev)
		span->prev->next = span->next;
	else
		roomy[span->size_class] = span->next;
	if (span->next)
		span->next->prev = span->prev;
}

static struct span *span_new(unsigned size_class)
{
	struct region *region = open_regions ? open_regions : region_new();
	struct span *span;
	size_t size;
	unsigned n;

	if (!region)
		return NULL;
	n = (unsigned)__builtin_ctz(~region->taken);
	region->taken |= 1u << n;
	if (region->taken == UINT32_MAX)
		region_hide(region);
	span = &region->spans[n];
	size = (size_t)((char *)region + (n + 1) * (size_t)SPAN - span_start(region, span));
	*span = (struct span){ .room = (uint16_t)(size / size_of(size_class)),
		               .size_class = (uint8_t)size_class };
	span_show(span);
	return span;
}

/* One region that is empty stays, for who gives and takes the last again and again. */
static void span_free(struct region *region, struct span *span)
{
	span_hide(span);
	if (region->taken == UINT32_MAX)
		region_show(region);
	region->taken &= ~(1u << (span - region->spans));
	if (region->taken == 0 && (region->prev || region->next))
		region_free(region);
}

static struct object *object_new(unsigned size_class)
{
	struct span *span = roomy[size_class] ? roomy[size_class] : span_new(size_class);
	struct object *object;

	if (!span)
		return NULL;
	object = span->free;
	if (object)
		span->free = object->next;
	else
		object = (struct object *)(span_start(region_of(span), span) +
		                           span->fresh++ * size_of(size_class));
	span->used++;
	if (span_is_full(span))
		span_hide(span);
	return object;
}

static void object_free(struct object *object)
{
	struct region *region = region_of(object);
	struct span *span = &region->spans[(size_t)((char *)object - (char *)region) / SPAN];

	if (span_is_full(span))
		span_show(span);
	object->next = span->free;
	span->free = object;
	if (--span->used == 0)
		span_free(region, span);
}

/* --- threads ----------------------------------------------------------------------------------- */

static void hand_empty(struct hand *hand, unsigned size_class, uint32_t keep)
{
	pthread_mutex_lock(&lock);
	while (hand->of[size_class].count > keep) {
		struct object *object = hand->of[size_class].free;

		hand->of[size_class].free = object->next;
		hand->of[size_class].count--;
		object_free(object);
	}
	pthread_mutex_unlock(&lock);
}

static void hand_release(void *ended)
{
	for (unsigned i = 0; i < CLASSES; i++)
		hand_empty(ended, i, 0);
	free(ended);
	mine = NULL;
}

static void hold_lock(void)
{
	pthread_mutex_lock(&lock);
}

static void let_go_of_lock(void)
{
	pthread_mutex_unlock(&lock);
}

/*
 * In a child what other threads had at hand is lost. Before anybody else in the process says what
 * he does for a fork: handlers run in the other order, and whoever waits in his for
 * threads that take something here must not wait for what waits for him.
 */
static __attribute__((constructor)) void watch_forks(void)
{
	pthread_atfork(hold_lock, let_go_of_lock, let_go_of_lock);
}

static void start(void)
{
	has_key = pthread_key_create(&hand_key, hand_release) == 0;
}

static struct hand *hand_new(void)
{
	struct hand *hand;

	pthread_once(&once, start);
	hand = has_key ? calloc(1, sizeof *hand) : NULL;
	if (!hand || pthread_setspecific(hand_key, hand) != 0) {
		free(hand);
		return NULL;
	}
	for (unsigned i = 1; i < CLASSES; i++) {
		size_t fit = AT_HAND / size_of(i);

		hand->of[i].most = fit > AT_HAND_MOST ? AT_HAND_MOST : (uint32_t)fit;
	}
	mine = hand;
	return hand;
}

static bool hand_fill(struct hand *hand, unsigned size_class)
{
	pthread_mutex_lock(&lock);
	while (hand->of[size_class].count < hand->of[size_class].most / 2) {
		struct object *object = object_new(size_class);

		if (!object)
			break;
		object->next = hand->of[size_class].free;
		hand->of[size_class].free = object;
		hand->of[size_class].count++;
	}
	pthread_mutex_unlock(&lock);
	return hand->of[size_class].count > 0;
}

/* What is taken next: it was full of something that nobody has looked at for long. */
static inline void read_ahead(const struct object *next)
{
	for (uintptr_t at = 0; at < AHEAD; at += 64)
		__builtin_prefetch((const void *)((uintptr_t)next + at));
}

void *terrace__slab_take(size_t size)
{
	struct hand *hand = mine;
	unsigned size_class = class_of(size);
	struct object *object;

	if (UNLIKELY(size > SLAB_MOST))
		return terrace__heap_take(size);
	if (UNLIKELY(!hand) && !(hand = hand_new())) {
		pthread_mutex_lock(&lock);
		object = object_new(size_class);
		pthread_mutex_unlock(&lock);
		return object;
	}
	object = hand->of[size_class].free;
	if (UNLIKELY(!object)) {
		if (!hand_fill(hand, size_class))
			return NULL;
		object = hand->of[size_class].free;
	}
	hand->of[size_class].free = object->next;
	hand->of[size_class].count--;
	read_ahead(object->next);
	return object;
}

void terrace__slab_give(void *given, size_t size)
{
	struct hand *hand = mine;
	unsigned size_class = class_of(size);
	struct object *object = given;

	if (UNLIKELY(size > SLAB_MOST) || UNLIKELY(!object)) {
		terrace__heap_give(object, size);
		return;
	}
	if (UNLIKELY(!hand) && !(hand = hand_new())) {
		pthread_mutex_lock(&lock);
		object_free(object);
		pthread_mutex_unlock(&lock);
		return;
	}
	object->next = hand->of[size_class].free;
	hand->of[size_class].free = object;
	if (UNLIKELY(++hand->of[size_class].count > hand->of[size_class].most))
		hand_empty(hand, size_class, hand->of[size_class].most / 2);
}

/* --- as a whole -------------------------------------------------------------------------------- */

static void spans_trim(struct region *region)
{
	/* The first has the region's own part. */
	for (unsigned n = 1; n < SPANS; n++) {
		if (!(region->taken & 1u << n))
			terrace__region_give_back((char *)region + n * (size_t)SPAN, SPAN);
	}
}

void terrace__slab_let_go(void)
{
	for (unsigned i = 1; i < CLASSES && mine; i++)
		hand_empty(mine, i, 0);
}

void terrace__slab_trim(void)
{
	struct region *next;

	terrace__slab_let_go();
	terrace__heap_trim();
	pthread_mutex_lock(&lock);
	for (struct region *region = open_regions; region; region = next) {
		next = region->next;
		if (region->taken == 0)
			region_free(region);
		else
			spans_trim(region);
	}
	pthread_mutex_unlock(&lock);
}

size_t terrace__slab_mapped(void)
{
	size_t mapped;

	pthread_mutex_lock(&lock);
	mapped = regions * (size_t)REGION;
	pthread_mutex_unlock(&lock);
	return mapped;
}

void *terrace__slab_table(size_t size)
{
	void *table = aligned_alloc(size < REGION ? 64 : REGION,
	                            size < REGION ? (size + 63) & ~(size_t)63 :
	                                            (size + REGION - 1) & ~(size_t)(REGION - 1));

	if (table && size >= REGION)
		madvise(table, size & ~(size_t)(REGION - 1), MADV_HUGEPAGE);
	return table;
}
