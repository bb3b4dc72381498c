/* In the place of peer_rocksdb.cc, where RocksDB is not installed. */
#include "peer_rocksdb.h"

#include <stdio.h>

struct peer *peer_open(bool hyper_clock, size_t capacity, size_t value_bytes,
                       const struct bench_keys *keys)
{
	static bool said;

	(void)hyper_clock;
	(void)capacity;
	(void)value_bytes;
	(void)keys;
	if (!said)
		fputs("RocksDB is not installed: its rows are missing\n", stderr);
	said = true;
	return NULL;
}

void peer_close(struct peer *peer)
{
	(void)peer;
}

void peer_fill(struct peer *peer)
{
	(void)peer;
}

void peer_get(void *ctx, uint64_t i)
{
	(void)ctx;
	(void)i;
}

void peer_put(void *ctx, uint64_t i)
{
	(void)ctx;
	(void)i;
}
