/*
 * In which order keys are asked for: after each key, which came next and how
 * often. Prediction from pairs of successive requests: Griffioen and Appleton,
 * "Reducing File System Latency using a Predictive Approach" (1994), for files;
 * Joseph and Grunwald, "Prefetching using Markov Predictors" (1997), for lines of
 * memory, from where the few successors of each are. Which of those stay is by
 * Misra and Gries, "Finding repeated elements" (1982).
 *
 * It holds 65,536 keys of up to 256 bytes in up to 8 MiB; of four that share a
 * place the one goes that was not asked for longest. Not for several threads.
 */
#ifndef CORE_ORDER_H
#define CORE_ORDER_H

#include <terrace/base.h>

enum { ORDER_KEY_MAX = 256 };

struct order;

struct order *terrace__order_new(void); /* NULL without memory */
void terrace__order_free(struct order *order);

/* `key` was asked for, after the one with the hash `before` (0: after nothing). */
void terrace__order_learn(struct order *order, uint64_t before, uint64_t hash, terrace_slice key);

/*
 * What came next after this one at least every second time, and `least` times. The
 * key is the table's, until something is learnt. False: nothing did.
 */
bool terrace__order_next(struct order *order, uint64_t hash, unsigned least, uint64_t *ret_hash,
                         terrace_slice *ret_key);

#endif
