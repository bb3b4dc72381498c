/*
 * The bytes of the store's shared file, far behind its end: each is a lock of its
 * own. LOCK_ATTACH is of the lock file, LOCK_ATTACHED of both.
 */
#ifndef CORE_LOCKS_H
#define CORE_LOCKS_H

#include <stdint.h>

#define LOCK_ATTACH   UINT64_C(0)         /* opening the store: one at a time */
#define LOCK_WRITER   UINT64_C(1)         /* transactions and checkpoints: one at a time */
#define LOCK_BEGINNER UINT64_C(2)         /* who begins, or has open, a transaction of a program */
#define LOCK_ATTACHED UINT64_C(3)         /* shared, by every process that has the store open */
#define LOCK_LANES    UINT64_C(1024)      /* + number: a process's values that wait */
#define LOCK_STATS    UINT64_C(4096)      /* + cache number */
#define LOCK_HOLDERS  UINT64_C(8192)      /* + cache number: who has entries in memory alone */
#define LOCK_TRAINERS UINT64_C(16384)     /* + cache number: who trains a dictionary */
#define LOCK_FLIGHTS  (UINT64_C(1) << 62) /* + 62 bits of a key's hash: who computes it */

#endif
