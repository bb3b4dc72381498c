/*
 * Latency histograms: four buckets an octave from 1 ns on, so that a quantile
 * is at most 19 % off (as in HdrHistogram, with two significant bits).
 */
#ifndef UTIL_HISTOGRAM_H
#define UTIL_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BUCKETS 160

static inline unsigned terrace__histogram_bucket(uint64_t ns)
{
	unsigned octave, bucket;

	if (ns < 4)
		return (unsigned)ns;
	octave = 63u - (unsigned)__builtin_clzll(ns);
	bucket = (octave - 1) * 4 + (unsigned)((ns >> (octave - 2)) & 3);
	return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

/* The middle of a bucket, in nanoseconds. */
static inline uint64_t terrace__histogram_value(unsigned bucket)
{
	unsigned octave = bucket / 4 + 1;
	uint64_t low;

	if (bucket < 4)
		return bucket;
	low = (uint64_t)(4 + bucket % 4) << (octave - 2);
	return low + ((uint64_t)1 << (octave - 2)) / 2;
}

#endif
