/*
 * Transactions: several reads and writes of a store as one.
 *
 * Between begin and commit nobody else writes to the store, in no thread and no
 * process; they wait, each as long as its own store's wait_ms. Reading goes on
 * beside it: others see what was there before until the commit, and all of it
 * afterwards. The thread that began sees its own changes at once. A process
 * that dies in the middle has changed nothing. Nothing is written behind
 * meanwhile: begin waits for what waits, and puts of others for the end.
 *
 * For what has to look before it writes: a count with a condition, a queue, two
 * keys that belong together. A single write needs none (terrace_add and
 * terrace_incr look for themselves), and a value that is computed needs a
 * lease instead, which stops nobody else.
 */
#ifndef TERRACE_TRANSACTION_H
#define TERRACE_TRANSACTION_H

#include <terrace/base.h>
#include <terrace/store.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Begin a transaction of this thread over all caches of the store. Caches that
 * live in memory alone take no part: their writes count at once. A cache that
 * the store has never had is opened before. Keep it short.
 *
 * wait_ms: how long to wait for other writers; 0 = the store's wait_ms.
 * Returns: TERRACE_OK, to be ended on the same thread by terrace_commit() or
 *          terrace_rollback(), before the store is closed; TERRACE_EBUSY;
 *          TERRACE_EINVAL when this thread has one open already; TERRACE_EFULL,
 *          TERRACE_EIO, TERRACE_ENOMEM, TERRACE_EFORK. A NULL or disabled store
 *          gives TERRACE_OK, as if it had one.
 * Threads: safe.
 * Cost:    as a put; the writes inside cost no commit of their own.
 */
TERRACE_API int terrace_begin(terrace *store, int64_t wait_ms);

/**
 * Make what was written since terrace_begin() last, and end the transaction.
 *
 * Returns: TERRACE_OK; TERRACE_EINVAL when this thread has none; otherwise
 *          everything is as it was before: the failure of the commit, or of the
 *          write that failed before it.
 */
TERRACE_API int terrace_commit(terrace *store);

/** End the transaction, as if nothing had been written. Without one: nothing. */
TERRACE_API void terrace_rollback(terrace *store);

#ifdef __cplusplus
}
#endif
#endif
