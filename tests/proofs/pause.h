/*
 * Before every file of an engine to be tried (-include): a pause now and then before an atomic
 * operation, so that what may come between two of them comes. With gcc alone, whose
 * <stdatomic.h> this follows.
 */
#ifndef PROOFS_PAUSE_H
#define PROOFS_PAUSE_H

#include <stdatomic.h>

void terrace__pause(void);

#undef atomic_load
#undef atomic_load_explicit
#undef atomic_store
#undef atomic_store_explicit
#undef atomic_exchange
#undef atomic_fetch_add
#undef atomic_compare_exchange_strong
#undef atomic_compare_exchange_weak

#define atomic_load_explicit(place, order)             \
	__extension__({                                \
		__auto_type place_ = (place);          \
		__typeof__((void)0, *place_) value_;   \
		terrace__pause();                      \
		__atomic_load(place_, &value_, order); \
		value_;                                \
	})
#define atomic_store_explicit(place, value, order)              \
	__extension__({                                         \
		__auto_type place_ = (place);                   \
		__typeof__((void)0, *place_) stored_ = (value); \
		terrace__pause();                               \
		__atomic_store(place_, &stored_, order);        \
	})
#define atomic_load(place)         atomic_load_explicit(place, memory_order_seq_cst)
#define atomic_store(place, value) atomic_store_explicit(place, value, memory_order_seq_cst)
#define atomic_exchange(place, value) \
	(terrace__pause(), atomic_exchange_explicit(place, value, memory_order_seq_cst))
#define atomic_fetch_add(place, value) \
	(terrace__pause(), atomic_fetch_add_explicit(place, value, memory_order_seq_cst))
#define atomic_compare_exchange_strong(place, expected, value)                                 \
	(terrace__pause(),                                                                     \
	 atomic_compare_exchange_strong_explicit(place, expected, value, memory_order_seq_cst, \
	                                         memory_order_seq_cst))
#define atomic_compare_exchange_weak(place, expected, value)                                 \
	(terrace__pause(),                                                                   \
	 atomic_compare_exchange_weak_explicit(place, expected, value, memory_order_seq_cst, \
	                                       memory_order_seq_cst))

#endif
