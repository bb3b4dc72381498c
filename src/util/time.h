/* The machine's clocks. Coarse ones are exact to a scheduler tick and cost 5 ns. */
#ifndef UTIL_TIME_H
#define UTIL_TIME_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

static inline int64_t terrace__clock_ms(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* For measuring how long something takes. */
static inline uint64_t terrace__now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A number that changes with every tick of the kernel's clock, every 1 to 10 ms. */
static inline uint64_t terrace__tick(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/*
 * The clock of files' times, which stands still for a tick (Linux, current_time()).
 * Read before a file's time is: when it is later than that, every later change of
 * the file shows.
 */
static inline struct timespec terrace__file_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	return now;
}

static inline bool time_is_before(struct timespec a, struct timespec b)
{
	return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec);
}

static inline bool time_is_same(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

#endif
