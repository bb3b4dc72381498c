/*
 * Which codec a value gets: what the cache asks for, with a dictionary where that
 * pays, or what is cheapest by what was measured.
 */
#ifndef CORE_CODECS_H
#define CORE_CODECS_H

#include "codec/codec.h"

#include <terrace/stats.h>

#include <pthread.h>

struct terrace_cache;

/* What one value costs, by codec, in sums that fade. */
struct codec_cost {
	double values, bytes; /* measured, raw */
	struct {
		double bytes, ns; /* as stored; to encode and to decode */
	} of[TERRACE_CODEC_ZSTD + 1];
};

/* Of a cache. */
struct codecs {
	pthread_mutex_t lock;
	bool looked; /* for what the store knows already */
	struct dictionary *dictionary;
	uint64_t small;    /* values that a dictionary is for, since this process has the cache */
	uint64_t train_at; /* … when there are so many, one is trained */
	/* Since the dictionary came, or the last thousand of such values. */
	double raw, encoded, expected; /* expected: encoded / raw; 0: not known */
	uint64_t values;
	uint64_t calls; /* AUTO: of which some are measured */
	struct codec_cost cost;
	terrace_codec chosen; /* AUTO */
};

void terrace__codecs_init(struct codecs *codecs);
void terrace__codecs_done(struct codecs *codecs);

/* Append the encoded value to `out` and return the codec, as terrace__codec_encode(). */
terrace_codec terrace__codecs_encode(struct terrace_cache *cache, terrace_slice value,
                                     struct buf *out);

/* The codec for the blocks of a value that begins so. */
terrace_codec terrace__codecs_for_blocks(struct terrace_cache *cache, terrace_slice first);
/* A value was encoded. */
void terrace__codecs_count(struct terrace_cache *cache, unsigned codec, uint64_t raw,
                           uint64_t encoded);

/* For the keeper: train a dictionary when it is time to. */
void terrace__codecs_tick(struct terrace_cache *cache);

/* What is cheapest of what was measured; DEFAULT when that is too little. */
terrace_codec terrace__codec_cheapest(const struct codec_cost *cost);

void terrace__codecs_describe(struct terrace_cache *cache, const terrace_stats *stats,
                              terrace_codec_info *ret);

#endif
