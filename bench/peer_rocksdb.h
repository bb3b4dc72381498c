/* RocksDB's caches, as a block cache would use them, beside ours. */
#ifndef BENCH_PEER_ROCKSDB_H
#define BENCH_PEER_ROCKSDB_H

#include "harness.h"

#ifdef __cplusplus
extern "C" {
#endif

struct peer;
/* NULL: it is not installed. */
struct peer *peer_open(bool hyper_clock, size_t capacity, size_t value_bytes,
                       const struct bench_keys *keys);
void peer_close(struct peer *peer);
/* Puts all keys. */
void peer_fill(struct peer *peer);

/* Of the i-th key, and of a new one. */
bench_fn peer_get, peer_put;

#ifdef __cplusplus
}
#endif
#endif
