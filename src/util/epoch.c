#include "util/epoch.h"

#include "util/util.h"

#include <limits.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Asking the kernel is worth it for so many; they are freed a few at a time, so
 * that nobody who retires one has to wait for all. */
enum { RECLAIM_EVERY = 128, FREE_EVERY = 8, FREE_AT_ONCE = 12 };

_Atomic uint64_t terrace__epoch_now = 1;
int terrace__epoch_fences = 1;

static _Atomic(struct epoch_slot *) all_slots;
__attribute__((tls_model("initial-exec"))) _Thread_local struct epoch_slot *terrace__epoch_mine;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t slot_key;

/* Retired, newest first; `pending` and `ready`, which nobody can hold any more,
 * belong to whoever has the lock. */
static _Atomic(struct epoch_node *) retired;
static _Atomic uint32_t retired_count;
static pthread_mutex_t reclaim_lock = PTHREAD_MUTEX_INITIALIZER;
static struct epoch_node *pending, *ready;

static void slot_release(void *slot)
{
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
		terrace__epoch_fences = 0;
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
	atomic_init(&slot->entered, 0);
	atomic_init(&slot->used, 1);
	slot->next = atomic_load(&all_slots);
	while (!atomic_compare_exchange_weak(&all_slots, &slot->next, slot))
		;
	return slot;
}

struct epoch_slot *terrace__epoch_join(void)
{
	pthread_once(&once, start);
	terrace__epoch_mine = slot_take();
	if (terrace__epoch_mine)
		pthread_setspecific(slot_key, terrace__epoch_mine);
	return terrace__epoch_mine;
}

/* The oldest epoch that a reader is still in. */
static uint64_t horizon(void)
{
	uint64_t oldest = UINT64_MAX;

#ifndef EPOCH_TSAN
	atomic_thread_fence(memory_order_seq_cst);
#endif
	if (!terrace__epoch_fences)
		syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
	for (struct epoch_slot *slot = atomic_load(&all_slots); slot; slot = slot->next) {
		uint64_t entered = atomic_load(&slot->entered);

		if (entered)
			oldest = min_u64(oldest, entered);
	}
	return oldest;
}

/* Find out what can be freed; the number that must wait. Holds reclaim_lock. */
static size_t reclaim(void)
{
	struct epoch_node *node = atomic_exchange(&retired, NULL), *next, *kept = NULL;
	uint64_t oldest;
	size_t waiting = 0;

	atomic_store(&retired_count, 0);
	for (; node; node = next) {
		next = node->next;
		node->next = pending;
		pending = node;
	}
	if (!pending)
		return 0;
	oldest = horizon();
	for (node = pending; node; node = next) {
		next = node->next;
		if (node->epoch < oldest) {
			node->next = ready;
			ready = node;
		} else {
			node->next = kept;
			kept = node;
			waiting++;
		}
	}
	pending = kept;
	return waiting;
}

static void free_ready(unsigned most)
{
	for (; ready && most > 0; most--) {
		struct epoch_node *node = ready;

		ready = node->next;
		node->free(node);
	}
}

void terrace__epoch_retire(struct epoch_node *node)
{
	uint32_t count;

	node->epoch = atomic_fetch_add(&terrace__epoch_now, 1);
	node->next = atomic_load(&retired);
	while (!atomic_compare_exchange_weak(&retired, &node->next, node))
		;
	count = atomic_fetch_add(&retired_count, 1) + 1;
	if (count % FREE_EVERY || pthread_mutex_trylock(&reclaim_lock) != 0)
		return;
	free_ready(FREE_AT_ONCE);
	if (count >= RECLAIM_EVERY)
		reclaim();
	pthread_mutex_unlock(&reclaim_lock);
}

void terrace__epoch_drain(void)
{
	uint64_t before = atomic_load(&terrace__epoch_now);

	for (;;) {
		bool done = true;

		pthread_mutex_lock(&reclaim_lock);
		if (reclaim() > 0) {
			for (struct epoch_node *node = pending; node; node = node->next)
				done = done && node->epoch >= before;
		}
		free_ready(UINT_MAX);
		pthread_mutex_unlock(&reclaim_lock);
		if (done)
			return;
		sched_yield();
	}
}
