/* Small things that every file wants. */
#ifndef UTIL_UTIL_H
#define UTIL_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ARRAY_LEN(array) (sizeof(array) / sizeof((array)[0]))

#define LIKELY(condition)   __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* Runs `destructor(&variable)` when the variable leaves its scope. */
#define CLEANUP(destructor) __attribute__((cleanup(destructor)))

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Ask for a line that will be written, so that no other processor has it then. */
static inline void prefetch_to_write(const void *at)
{
#ifdef __x86_64__
	/* Compilers take the one for reading unless they are told of the processor; where this
	 * one is not known it does nothing. */
	__asm__ volatile("prefetchw %0" : : "m"(*(const char *)at));
#else
	__builtin_prefetch(at, 1);
#endif
}

/* In sixteenths; straight between powers of two (Mitchell, 1962). */
static inline int log2_16(uint64_t number)
{
	float f = (float)number;
	uint32_t bits;

	memcpy(&bits, &f, sizeof bits);
	return (int)(bits >> 19) - (127 << 4);
}

/* Adding times that may be "for ever" (INT64_MAX) must not wrap. */
static inline int64_t add_sat_i64(int64_t a, int64_t b)
{
	int64_t sum;

	if (__builtin_add_overflow(a, b, &sum))
		return b > 0 ? INT64_MAX : INT64_MIN;
	return sum;
}

#endif
