/*
 * Who works with the store, and how much memory each has: a small file with a
 * record for each process, which its keeper renews. A record that is not renewed
 * is of nobody. These are figures for people; nothing depends on them.
 */
#ifndef CORE_PROCESSES_H
#define CORE_PROCESSES_H

#include "core/store.h"

enum { PROCESSES_MAX = 64 };

/* What a process says of itself. */
struct process_record {
	uint64_t check; /* of all that follows */
	uint64_t token; /* of the process and its store */
	int64_t seen;   /* the store's clock */
	int64_t pid;
	uint64_t bytes, entries, limit, encoded;
	uint64_t tight;
};

/* Renew this process's record; errors are nobody's business. */
void terrace__process_renew(struct terrace *store);
/* Take it out, where there is one. */
void terrace__process_leave(struct terrace *store);
/* Those that were renewed lately; the number. */
size_t terrace__processes_read(struct terrace *store, struct process_record ret[PROCESSES_MAX]);

#endif
