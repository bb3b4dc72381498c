/* RocksDB's HyperClockCache and LRUCache, as a block cache would use them. */
#include "harness.h"

#include <rocksdb/cache.h>
#include <rocksdb/version.h>

#include <memory>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include <xxhash.h>

namespace
{

constexpr uint64_t entries = 100000;

struct Peer {
	std::shared_ptr<rocksdb::Cache> cache;
	size_t value_bytes;
	bool hashed; /* it takes hashes for keys */
};

thread_local volatile char sink;

struct bench_keys keys;

/*
 * HyperClockCache takes keys of 16 bytes and compares nothing else, so who has other
 * keys hashes them; LRUCache takes them as they are.
 */
rocksdb::Slice given(const Peer *peer, const char *key, size_t size, XXH128_hash_t *hash)
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

void insert(Peer *peer, const char *key, size_t size)
{
	XXH128_hash_t hash;
	char *value = new char[peer->value_bytes];

	memset(value, 0, peer->value_bytes);
	bench_require(
	    peer->cache
		->Insert(given(peer, key, size, &hash), value, peer->value_bytes, delete_value)
		.ok());
}

void get(void *ctx, uint64_t i)
{
	Peer *peer = static_cast<Peer *>(ctx);
	XXH128_hash_t hash;
	rocksdb::Cache::Handle *handle = peer->cache->Lookup(
	    given(peer, keys.text[i], keys.size[i], &hash));

	bench_require(handle);
	sink = *static_cast<char *>(peer->cache->Value(handle));
	peer->cache->Release(handle);
}

/* The keys of bench_l1's puts. */
void put(void *ctx, uint64_t i)
{
	char key[24] = "new:";

	for (int at = sizeof key - 1; at >= 4; at--, i >>= 4)
		key[at] = "0123456789abcdef"[i & 15];
	insert(static_cast<Peer *>(ctx), key, sizeof key);
}

std::shared_ptr<rocksdb::Cache> make(const std::string &name, size_t capacity, size_t value_bytes)
{
	if (name == "HyperClockCache")
		return rocksdb::HyperClockCacheOptions(capacity, value_bytes + 64)
		    .MakeSharedCache();
	return rocksdb::NewLRUCache(capacity);
}

} // namespace

int main()
{
	bench_keys_make(&keys, entries);
	for (const char *name : { "HyperClockCache", "LRUCache" }) {
		std::string shown = std::string("RocksDB ") + name;
		bool hashed = strcmp(name, "HyperClockCache") == 0;

		for (unsigned threads = 1; threads <= 2; threads++) {
			for (size_t bytes : { size_t(100), size_t(4096) }) {
				if (!bench_wanted("get pinned"))
					break;
				Peer peer = { make(name, entries * (bytes + 300) * 2, bytes), bytes,
					      hashed };
				struct bench bench = { "l1",    shown.c_str(), "get pinned",
					               bytes,   threads,       2000000,
					               entries, get,           &peer };

				for (uint64_t i = 0; i < entries; i++)
					insert(&peer, keys.text[i], keys.size[i]);
				bench_run(&bench);
			}
			if (!bench_wanted("put with eviction"))
				continue;
			Peer peer = { make(name, entries * 164, 100), 100, hashed };
			struct bench bench = { "l1", shown.c_str(), "put with eviction",
				               100,  threads,       1000000,
				               0,    put,           &peer };
			bench_run(&bench);
		}
	}
	bench_keys_free(&keys);
	return 0;
}
