/* Threads of the library. */
#ifndef UTIL_THREAD_H
#define UTIL_THREAD_H

#include <pthread.h>
#include <stdbool.h>

/* With all signals blocked: those of the program are for the program's threads. */
bool terrace__thread_start(pthread_t *thread, void *(*run)(void *), void *ctx);

#endif
