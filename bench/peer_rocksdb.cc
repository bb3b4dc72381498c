#include "peer_rocksdb.h"

#include <rocksdb/cache.h>
#include <rocksdb/version.h>

#include <cstring>
#include <memory>

#include <xxhash.h>

struct peer {
	std::shared_ptr<rocksdb::Cache> cache;
	size_t value_bytes;
	const struct bench_keys *keys;
	bool hashed; /* it takes hashes for keys */
};

namespace
{

thread_local volatile char sink;

/*
 * HyperClockCache takes keys of 16 bytes and compares nothing else, so who has other
 * keys hashes them; LRUCache takes them as they are.
 */
rocksdb::Slice given(const peer *peer, const char *key, size_t size, XXH128_hash_t *hash)
{
	if (!peer->hashed)
		return rocksdb::Slice(key, size);
	*hash = XXH3_128bits(key, size);
	return rocksdb::Slice(reinterpret_cast<const char *>(hash), sizeof *hash);
}

void delete_value(const rocksdb::Slice &, void *value)
{
	delete[] static_cast<char *>(value);
}

void insert(peer *peer, const char *key, size_t size)
{
	XXH128_hash_t hash;
	char *value = new char[peer->value_bytes];

	memset(value, 0, peer->value_bytes);
	bench_require(
	    peer->cache
		->Insert(given(peer, key, size, &hash), value, peer->value_bytes, delete_value)
		.ok());
}

} // namespace

struct peer *peer_open(bool hyper_clock, size_t capacity, size_t value_bytes,
                       const struct bench_keys *keys)
{
	return new peer{ hyper_clock ?
		             rocksdb::HyperClockCacheOptions(capacity, value_bytes + 64)
		                 .MakeSharedCache() :
		             rocksdb::NewLRUCache(capacity),
		         value_bytes, keys, hyper_clock };
}

void peer_close(struct peer *peer)
{
	delete peer;
}

void peer_fill(struct peer *peer)
{
	for (uint64_t i = 0; i < peer->keys->count; i++)
		insert(peer, peer->keys->text[i], peer->keys->size[i]);
}

void peer_get(void *ctx, uint64_t i)
{
	peer *peer = static_cast<struct peer *>(ctx);
	XXH128_hash_t hash;
	rocksdb::Cache::Handle *handle = peer->cache->Lookup(
	    given(peer, peer->keys->text[i], peer->keys->size[i], &hash));

	bench_require(handle);
	sink = *static_cast<char *>(peer->cache->Value(handle));
	peer->cache->Release(handle);
}

/* The keys of our puts. */
void peer_put(void *ctx, uint64_t i)
{
	char key[24] = "new:";

	for (int at = sizeof key - 1; at >= 4; at--, i >>= 4)
		key[at] = "0123456789abcdef"[i & 15];
	insert(static_cast<peer *>(ctx), key, sizeof key);
}
