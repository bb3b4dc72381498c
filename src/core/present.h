/*
 * Stores that may be read and not written, and stores that are gone.
 *
 * Where the directory or its files are not writable, what is shared is mapped
 * for reading: copies in memory are as good as anybody's, and all that would
 * write says TERRACE_EACCESS. What is shared may be of another boot, or missing,
 * and cannot be made anew. Then the store is a snapshot: nothing is kept in L1,
 * and as soon as somebody writes to the store, everything misses until it is
 * opened again.
 */
#ifndef CORE_PRESENT_H
#define CORE_PRESENT_H

#include "core/store.h"

/* Below the format's directory: may this process write here? */
bool terrace__may_write(int dir_fd);

/* Open for reading alone; `path` is of the format's directory. */
int terrace__attach_read_only(struct terrace *store, const char *path);
/* What that has mapped besides. */
void terrace__detach_read_only(struct terrace *store);

/* Does what was opened still lie there, as far as a read may go on? */
bool terrace__present(struct terrace *store);

/* Before anything that writes: TERRACE_EACCESS, TERRACE_EIO when it was removed. */
int terrace__check_writable(struct terrace *store);

#endif
