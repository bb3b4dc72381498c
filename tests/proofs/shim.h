/*
 * A library that stands between a program and the C library, and lets the k-th
 * allocation or system call fail. Linked before everything else, or preloaded:
 * then FAULT_KIND, FAULT_AT and FAULT_EVER say what fails from the start.
 */
#ifndef PROOFS_SHIM_H
#define PROOFS_SHIM_H

#include <stdbool.h>
#include <stdint.h>

/* X(name, what people call it) */
#define FAULT_KINDS(X)                                                                     \
	X(MEMORY, "no memory")        /* malloc and its relatives */                       \
	X(EIO, "EIO")                 /* everything that touches files */                  \
	X(ENOSPC, "ENOSPC")           /* what may need space */                            \
	X(EMFILE, "EMFILE")           /* what makes descriptors */                         \
	X(EINTR, "EINTR")             /* what may be interrupted; for ever: every other */ \
	X(SHORT, "short")             /* reads and writes of half */                       \
	X(KERNEL, "no kernel memory") /* locks, mappings, threads, processes */

enum fault_kind {
#define X(name, text) FAULT_##name,
	FAULT_KINDS(X)
#undef X
	    FAULT_COUNT
};

/* From now on the k-th call of this process that can fail so does, and with `ever` all after it. */
void fault_arm(enum fault_kind kind, uint64_t k, bool ever);
/* No more of that. Did the k-th call come? */
bool fault_disarm(void);

/* While it is so, the directories and files that this process asks about may not be written to. */
void fault_forbid_writing(bool forbid);

/* Allocations that are not freed. */
int64_t fault_live(void);

#endif
