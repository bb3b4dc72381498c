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
 *
 * What was found in a section may be held beyond it. A thread notes it in a place
 * of its own, as with hazard pointers (Michael, "Hazard pointers: safe memory
 * reclamation for lock-free objects", 2004), which writes to no line that
 * others write; but found it is within a section, so that nothing has to be
 * looked at twice. Any thread may let go of it: one that does not find it among
 * its own counts the object's references down, below zero if need be. Who frees
 * adds up both: a retired object whose readers have left is free when the
 * places that name it and its own count come to zero, and stays so. The places are
 * read before the count; by then they can only become fewer. While the count alone
 * is above zero, nothing here knows the object: who counts down to none retires it
 * again. So there are never more to look at again and again than there are places.
 */
#ifndef UTIL_EPOCH_H
#define UTIL_EPOCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct epoch_node;

struct epoch_kind {
	void (*free)(struct epoch_node *node);
	/*
	 * Of what may be held; NULL for what never is. The references beside the places of
	 * threads. When there are any (more than none), the node is no longer retired.
	 */
	int (*references)(struct epoch_node *node);
	void (*refer)(struct epoch_node *node); /* one more */
};

/* Embedded in what is to be freed. */
struct epoch_node {
	struct epoch_node *next;
	uint64_t epoch; /* in which it was last in reach */
	const struct epoch_kind *kind;
};

enum { EPOCH_PLACES = 16, EPOCH_FULL = (1 << EPOCH_PLACES) - 1 };

struct epoch_slot {
	_Alignas(64) _Atomic uint64_t entered; /* 0: not reading */
	_Atomic int used;
	uint32_t taken; /* places, as the thread itself knows */
	struct epoch_slot *next;
	/* What the thread holds. It alone writes here, but for names of what is free. */
	_Alignas(64) _Atomic(struct epoch_node *) places[EPOCH_PLACES];
	/* What it has retired, newest first; whoever frees takes all of it. */
	_Alignas(64) _Atomic(struct epoch_node *) retired;
	uint32_t retirements; /* as the thread itself has counted since it last freed */
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

extern _Atomic int terrace__epoch_fences; /* no membarrier here: readers fence themselves */

static inline void terrace__epoch_enter(struct epoch_slot *slot)
{
	uint64_t now = atomic_load_explicit(&terrace__epoch_now, memory_order_acquire);

#ifdef EPOCH_TSAN /* which knows neither fences nor membarrier */
	atomic_exchange(&slot->entered, now);
#else
	atomic_store_explicit(&slot->entered, now, memory_order_release);
	if (__builtin_expect(atomic_load_explicit(&terrace__epoch_fences, memory_order_relaxed), 0))
		atomic_thread_fence(memory_order_seq_cst);
	else
		atomic_signal_fence(memory_order_seq_cst);
#endif
}

static inline void terrace__epoch_exit(struct epoch_slot *slot)
{
	atomic_store_explicit(&slot->entered, 0, memory_order_release);
}

/* Make room in a thread's places, by counting what it holds, which all is of `kind`, instead. */
void terrace__epoch_spill(struct epoch_slot *slot, const struct epoch_kind *kind);

/* Within the section in which the node was found; false when there is no place for it. */
static inline bool terrace__epoch_hold(struct epoch_slot *slot, struct epoch_node *node)
{
	unsigned at;

	if (__builtin_expect(slot->taken == EPOCH_FULL, 0))
		return false;
	at = (unsigned)__builtin_ctz(~slot->taken);
	slot->taken |= 1u << at;
	/* Seen by who frees not later than that the section has ended. */
	atomic_store_explicit(&slot->places[at], node, memory_order_relaxed);
	return true;
}

/* False when the calling thread does not hold it in one of its places. */
static inline bool terrace__epoch_let_go(const struct epoch_node *node)
{
	struct epoch_slot *slot = terrace__epoch_mine;

	if (!slot)
		return false;
	for (unsigned taken = slot->taken; taken; taken &= taken - 1) {
		unsigned at = (unsigned)__builtin_ctz(taken);

		if (atomic_load_explicit(&slot->places[at], memory_order_relaxed) == node) {
			slot->taken &= ~(1u << at);
			atomic_store_explicit(&slot->places[at], NULL, memory_order_release);
			return true;
		}
	}
	return false;
}

/* Free `node` as soon as no reader can find it and nobody holds it. Any thread. */
void terrace__epoch_retire(struct epoch_node *node);

/* Somebody has let go of something retired: look whether it can be freed now. */
void terrace__epoch_nudge(void);

/* Wait for the readers of now, and free everything retired before the call that nobody holds. */
void terrace__epoch_drain(void);

#endif
