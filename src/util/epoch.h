/*
 * Epoch-based reclamation (Fraser, "Practical lock-freedom", 2004), with the
 * cost on the side of those who free: a reader stores to a line of its own and
 * passes no fence; who frees asks the kernel for a barrier on every running
 * thread of the process (membarrier(2)).
 *
 * A reader may look at shared objects between enter and exit. A writer unlinks
 * an object so that no new reader can find it, then retires it; it is freed
 * when every reader that could have found it has left.
 *
 * Sections do not nest, must be short, and must not block.
 */
#ifndef UTIL_EPOCH_H
#define UTIL_EPOCH_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Embedded in what is to be freed. */
struct epoch_node {
	struct epoch_node *next;
	uint64_t epoch;
	void (*free)(struct epoch_node *node);
};

struct epoch_slot {
	_Alignas(64) _Atomic uint64_t entered; /* 0: not reading */
	_Atomic int used;
	struct epoch_slot *next;
};

extern _Atomic uint64_t terrace__epoch_now;

extern
    __attribute__((tls_model("initial-exec"))) _Thread_local struct epoch_slot *terrace__epoch_mine;

struct epoch_slot *terrace__epoch_join(void);

/* The calling thread's slot; NULL when out of memory. */
static inline struct epoch_slot *terrace__epoch_slot(void)
{
	struct epoch_slot *slot = terrace__epoch_mine;

	return __builtin_expect(slot != NULL, 1) ? slot : terrace__epoch_join();
}

#if defined(__SANITIZE_THREAD__)
#define EPOCH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define EPOCH_TSAN 1
#endif
#endif

extern int terrace__epoch_fences; /* no membarrier here: readers fence themselves */

static inline void terrace__epoch_enter(struct epoch_slot *slot)
{
	uint64_t now = atomic_load_explicit(&terrace__epoch_now, memory_order_acquire);

#ifdef EPOCH_TSAN /* which knows neither fences nor membarrier */
	atomic_exchange(&slot->entered, now);
#else
	atomic_store_explicit(&slot->entered, now, memory_order_release);
	if (__builtin_expect(terrace__epoch_fences, 0))
		atomic_thread_fence(memory_order_seq_cst);
	else
		atomic_signal_fence(memory_order_seq_cst);
#endif
}

static inline void terrace__epoch_exit(struct epoch_slot *slot)
{
	atomic_store_explicit(&slot->entered, 0, memory_order_release);
}

/* Free `node` with its function as soon as no reader can hold it. Any thread. */
void terrace__epoch_retire(struct epoch_node *node);

/* Wait for the readers of now, and free everything retired before the call. */
void terrace__epoch_drain(void);

#endif
