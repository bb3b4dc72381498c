/*
 * The floor of a hit: a table of a layout like L1's, entries of one allocation behind
 * hashes, without lock, eviction, counts, or a way to change it.
 */
#ifndef BENCH_UNLOCKED_H
#define BENCH_UNLOCKED_H

#include "harness.h"

struct unlocked;
/* With all keys, of which as many fit as are used here. */
struct unlocked *unlocked_open(size_t value_bytes, const struct bench_keys *keys);
void unlocked_close(struct unlocked *table);
/* Of the i-th key. */
bench_fn unlocked_get;

#endif
