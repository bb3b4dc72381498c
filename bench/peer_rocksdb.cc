/* RocksDB's HyperClockCache and LRUCache, as a block cache would use them. */
#include "harness.h"

#include <rocksdb/cache.h>
#include <rocksdb/version.h>

#include <memory>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace
{

constexpr uint64_t entries = 100000;

struct Peer {
	std::shared_ptr<rocksdb::Cache> cache;
	size_t value_bytes;
};

thread_local volatile char sink;

/* HyperClockCache takes keys of 16 bytes and compares nothing else. */
rocksdb::Slice key_of(uint64_t i, char text[16])
{
	uint64_t random = i, low = bench_random(&random), high = bench_random(&random);

	memcpy(text, &low, 8);
	memcpy(text + 8, &high, 8);
	return rocksdb::Slice(text, 16);
}

void delete_value(const rocksdb::Slice &, void *value)
{
	delete[] static_cast<char *>(value);
}

void insert(Peer *peer, uint64_t i)
{
	char text[16], *value = new char[peer->value_bytes];

	bench_fill(value, peer->value_bytes < 64 ? peer->value_bytes : 64, 1);
	bench_require(
	    peer->cache->Insert(key_of(i, text), value, peer->value_bytes, delete_value).ok());
}

void get(void *ctx, uint64_t i)
{
	Peer *peer = static_cast<Peer *>(ctx);
	char text[16];
	rocksdb::Cache::Handle *handle = peer->cache->Lookup(key_of(i, text));

	if (handle) {
		sink = *static_cast<char *>(peer->cache->Value(handle));
		peer->cache->Release(handle);
	}
}

void put(void *ctx, uint64_t i)
{
	insert(static_cast<Peer *>(ctx), i);
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
	for (const char *name : { "HyperClockCache", "LRUCache" }) {
		std::string shown = std::string("RocksDB ") + name;

		for (unsigned threads = 1; threads <= 2; threads++) {
			for (size_t bytes : { size_t(100), size_t(4096) }) {
				if (!bench_wanted("get pinned"))
					break;
				Peer peer = { make(name, entries * (bytes + 300) * 2, bytes),
					      bytes };
				struct bench bench = { "l1",    shown.c_str(), "get pinned",
					               bytes,   threads,       2000000,
					               entries, get,           &peer };

				for (uint64_t i = 0; i < entries; i++)
					insert(&peer, i);
				bench_run(&bench);
			}
			if (!bench_wanted("put with eviction"))
				continue;
			Peer peer = { make(name, entries * 164, 100), 100 };
			struct bench bench = { "l1", shown.c_str(), "put with eviction",
				               100,  threads,       1000000,
				               0,    put,           &peer };
			bench_run(&bench);
		}
	}
	return 0;
}
