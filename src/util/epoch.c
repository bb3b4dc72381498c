#include "util/epoch.h"

#include "util/util.h"

#include <limits.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Asking the kernel is worth it for so many. They are freed as they came, some at a
 * time, so that nobody who retires one has to wait for all, and what the thread's slab
 * keeps at hand is handed out again; faster where many have gathered.
 */
enum { RECLAIM_EVERY = 512, FREE_EVERY = 16, FREE_AT_ONCE = 16, READY_MANY = 2048 };

_Atomic uint64_t terrace__epoch_now = 1;
_Atomic int terrace__epoch_fences = 1;

static _Atomic(struct epoch_slot *) all_slots;
__attribute__((tls_model("initial-exec"))) _Thread_local struct epoch_slot *terrace__epoch_mine;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t slot_key;

/* Retired by threads without a slot, see epoch_slot. */
static _Atomic(struct epoch_node *) retired;
/* `pending` and `ready`, which nobody can hold any more, belong to whoever has the lock. */
static pthread_mutex_t reclaim_lock = PTHREAD_MUTEX_INITIALIZER;
static struct epoch_node *pending, *ready;
static uint32_t ready_count;
/* Retired, and out of reach but for those who hold it, some of them in a place. */
static struct epoch_node *held;
/* What the places of all threads name, in order of address; NULL when that could not be found out. */
static struct epoch_node **named;
static size_t named_count, named_room;

/* What the thread held is in the slot still, for whoever takes that next. */
static void slot_release(void *slot)
{
	terrace__epoch_mine = NULL;
	atomic_store(&((struct epoch_slot *)slot)->used, 0);
}

/* Fork finds nobody reclaiming; in the child the other readers are gone, wherever they were. */
static void before_fork(void)
{
	pthread_mutex_lock(&reclaim_lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&reclaim_lock);
}

static void in_child(void)
{
	for (struct epoch_slot *slot = atomic_load(&all_slots); slot; slot = slot->next) {
		if (slot == terrace__epoch_mine)
			continue;
		atomic_store(&slot->entered, 0);
		atomic_store(&slot->used, 0);
	}
	pthread_mutex_unlock(&reclaim_lock);
}

static void start(void)
{
	pthread_key_create(&slot_key, slot_release);
	pthread_atfork(before_fork, after_fork, in_child);
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0)
		atomic_store(&terrace__epoch_fences, 0);
}

static struct epoch_slot *slot_take(void)
{
	struct epoch_slot *slot = atomic_load(&all_slots);

	for (; slot; slot = slot->next) {
		int unused = 0;

		if (atomic_compare_exchange_strong(&slot->used, &unused, 1))
			return slot;
	}
	slot = aligned_alloc(64, sizeof *slot);
	if (!slot)
		return NULL;
	memset(slot, 0, sizeof *slot);
	atomic_init(&slot->used, 1);
	slot->next = atomic_load(&all_slots);
	while (!atomic_compare_exchange_weak(&all_slots, &slot->next, slot))
		;
	return slot;
}

/* Which places are taken. */
static void look_over(struct epoch_slot *slot)
{
	slot->taken = 0;
	for (unsigned i = 0; i < EPOCH_PLACES; i++)
		slot->taken |= (unsigned)(atomic_load(&slot->places[i]) != NULL) << i;
}

struct epoch_slot *terrace__epoch_join(void)
{
	pthread_once(&once, start);
	terrace__epoch_mine = slot_take();
	if (terrace__epoch_mine) {
		look_over(terrace__epoch_mine);
		pthread_setspecific(slot_key, terrace__epoch_mine);
	}
	return terrace__epoch_mine;
}

/* The oldest epoch that a reader is still in. */
static uint64_t horizon(void)
{
	uint64_t oldest = UINT64_MAX;

#ifndef EPOCH_TSAN
	atomic_thread_fence(memory_order_seq_cst);
#endif
	if (!atomic_load(&terrace__epoch_fences) &&
	    syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) != 0) {
		/* Forbidden since we began. Readers that do not know yet may be under way:
		 * this time nothing is free. */
		atomic_store(&terrace__epoch_fences, 1);
		return 0;
	}
	for (struct epoch_slot *slot = atomic_load(&all_slots); slot; slot = slot->next) {
		uint64_t entered = atomic_load(&slot->entered);

		if (entered)
			oldest = min_u64(oldest, entered);
	}
	return oldest;
}

static void push(struct epoch_node **list, struct epoch_node *node)
{
	node->next = *list;
	*list = node;
}

/* --- what is held ----------------------------------------------------------------------- */

static int by_address(const void *a, const void *b)
{
	uintptr_t left = (uintptr_t) * (struct epoch_node *const *)a,
		  right = (uintptr_t) * (struct epoch_node *const *)b;

	return left < right ? -1 : left > right;
}

/* False when out of memory: then anything may be held. */
static bool name_all(void)
{
	/* Threads that come from now on find nothing that was retired before. */
	struct epoch_slot *first = atomic_load(&all_slots);
	size_t room = 0;

	for (struct epoch_slot *slot = first; slot; slot = slot->next)
		room += EPOCH_PLACES;
	if (room > named_room) {
		struct epoch_node **grown = realloc(named, room * sizeof *grown);

		if (!grown)
			return false;
		named = grown;
		named_room = room;
	}
	named_count = 0;
	for (struct epoch_slot *slot = first; slot; slot = slot->next) {
		for (unsigned i = 0; i < EPOCH_PLACES; i++) {
			struct epoch_node *node = atomic_load_explicit(&slot->places[i],
			                                               memory_order_acquire);

			if (node)
				named[named_count++] = node;
		}
	}
	if (named_count > 1)
		qsort(named, named_count, sizeof *named, by_address);
	return true;
}

/* How many places name it. */
static int places_of(const struct epoch_node *node)
{
	size_t low = 0, high = named_count;
	int count = 0;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if ((uintptr_t)named[middle] < (uintptr_t)node)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < named_count && named[low] == node; low++)
		count++;
	return count;
}

/* Its address may come back as another's. Nobody holds it, so nobody else writes these. */
static void unname(struct epoch_node *node)
{
	for (struct epoch_slot *slot = atomic_load(&all_slots); slot; slot = slot->next) {
		for (unsigned i = 0; i < EPOCH_PLACES; i++) {
			if (atomic_load_explicit(&slot->places[i], memory_order_relaxed) == node)
				atomic_store_explicit(&slot->places[i], NULL, memory_order_relaxed);
		}
	}
}

/* What nobody can find any more: is it to be freed, looked at again, or retired again by others? */
static void sort_out(struct epoch_node *node, bool known)
{
	int places, references;

	if (!node->kind->references) {
		push(&ready, node);
		ready_count++;
		return;
	}
	places = known ? places_of(node) : 1;
	references = node->kind->references(node);
	if (references > 0)
		return;
	if (!known || places + references != 0) {
		push(&held, node);
		return;
	}
	if (places)
		unname(node);
	push(&ready, node);
	ready_count++;
}

void terrace__epoch_spill(struct epoch_slot *slot, const struct epoch_kind *kind)
{
	/* While it is ours nothing is freed, so that what a place names is there. */
	if (pthread_mutex_trylock(&reclaim_lock) != 0)
		return;
	for (unsigned i = 0; i < EPOCH_PLACES; i++) {
		struct epoch_node *node = atomic_load(&slot->places[i]);

		if (!node)
			continue;
		kind->refer(node);
		atomic_store(&slot->places[i], NULL);
	}
	slot->taken = 0;
	pthread_mutex_unlock(&reclaim_lock);
}

/* --- freeing -------------------------------------------------------------------------------- */

/* From one list onto another. */
static void take_all(_Atomic(struct epoch_node *) *from, struct epoch_node **to)
{
	struct epoch_node *node, *next;

	if (!atomic_load_explicit(from, memory_order_relaxed))
		return;
	for (node = atomic_exchange(from, NULL); node; node = next) {
		next = node->next;
		push(to, node);
	}
}

/* Find out what can be freed. Holds reclaim_lock. */
static void reclaim(void)
{
	struct epoch_node *node = NULL, *next;
	struct epoch_node *were_pending = pending, *were_held = held;
	uint64_t oldest, epoch;
	bool known;

	if (terrace__epoch_mine)
		terrace__epoch_mine->retirements = 0;
	take_all(&retired, &node);
	for (struct epoch_slot *slot = atomic_load(&all_slots); slot; slot = slot->next)
		take_all(&slot->retired, &node);
	if (!node && !were_pending && !were_held)
		return;
	pending = held = NULL;
	/* Who enters from now on finds none of these: the epoch moves after they were taken. */
	epoch = atomic_fetch_add(&terrace__epoch_now, 1);
	for (; node; node = next) {
		next = node->next;
		node->epoch = epoch;
		push(&were_pending, node);
	}
	oldest = horizon();
	known = name_all();
	for (node = were_pending; node; node = next) {
		next = node->next;
		if (node->epoch >= oldest)
			push(&pending, node);
		else
			sort_out(node, known);
	}
	for (node = were_held; node; node = next) {
		next = node->next;
		sort_out(node, known);
	}
}

static void free_ready(unsigned most)
{
	for (; ready && most > 0; most--) {
		struct epoch_node *node = ready;

		ready = node->next;
		ready_count--;
		node->kind->free(node);
	}
}

static void free_some(void)
{
	free_ready(ready_count > READY_MANY ? 4 * FREE_AT_ONCE : FREE_AT_ONCE);
}

static void retire_on(_Atomic(struct epoch_node *) *list, struct epoch_node *node)
{
	node->next = atomic_load_explicit(list, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(list, &node->next, node, memory_order_release,
	                                              memory_order_relaxed))
		;
}

void terrace__epoch_retire(struct epoch_node *node)
{
	struct epoch_slot *slot = terrace__epoch_slot();

	if (UNLIKELY(!slot)) {
		retire_on(&retired, node);
		return;
	}
	retire_on(&slot->retired, node);
	slot->retirements++;
	if (slot->retirements % FREE_EVERY || pthread_mutex_trylock(&reclaim_lock) != 0)
		return;
	free_some();
	if (slot->retirements >= RECLAIM_EVERY)
		reclaim();
	pthread_mutex_unlock(&reclaim_lock);
}

void terrace__epoch_nudge(void)
{
	if (pthread_mutex_trylock(&reclaim_lock) != 0)
		return;
	reclaim();
	free_some();
	pthread_mutex_unlock(&reclaim_lock);
}

void terrace__epoch_drain(void)
{
	uint64_t before = 0;

	for (;;) {
		bool done = true;

		pthread_mutex_lock(&reclaim_lock);
		reclaim();
		if (!before) /* the first time, all that was retired is of an earlier epoch */
			before = atomic_load(&terrace__epoch_now);
		for (struct epoch_node *node = pending; node; node = node->next)
			done = done && node->epoch >= before;
		free_ready(UINT_MAX);
		pthread_mutex_unlock(&reclaim_lock);
		if (done)
			return;
		sched_yield();
	}
}
