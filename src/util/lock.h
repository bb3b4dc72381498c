/*
 * Locks among processes: open-file-description locks on byte ranges, which the
 * kernel drops when their holder dies however it dies. Threads of a process
 * that share the description do not exclude each other; that is for a mutex.
 */
#ifndef UTIL_LOCK_H
#define UTIL_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* 0, -EAGAIN when somebody else holds it, or another negative errno. */
int terrace__lock_try(int fd, uint64_t byte, bool exclusive);
int terrace__lock_wait(int fd, uint64_t byte, bool exclusive);
/* Does somebody else hold it, shared or not? */
bool terrace__lock_held(int fd, uint64_t byte);
void terrace__unlock(int fd, uint64_t byte);

/* A futex in memory that processes share. */
void terrace__futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t ms);
void terrace__futex_wake_all(_Atomic uint32_t *word);

#endif
