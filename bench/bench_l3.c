/* Files: get, beside reading and decompressing the same bytes by hand. */
#include "harness.h"

#include <terrace/terrace.h>

#include <fcntl.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t value_bytes;
static uint64_t entries;

/* --- ours ---------------------------------------------------------------------------------------- */

static void get(void *ctx, uint64_t i)
{
	terrace_value *value;
	char key[24];

	snprintf(key, sizeof key, "%llu", (unsigned long long)i);
	bench_require(terrace_get(ctx, TERRACE_KEY(key), &value) == TERRACE_OK);
	bench_require(terrace_size(value) == value_bytes);
	terrace_release(value);
}

static void put(void *ctx, uint64_t i)
{
	static char *value;
	char key[24];

	if (!value)
		value = malloc(8 << 20);
	snprintf(key, sizeof key, "%llu", (unsigned long long)i % entries);
	bench_fill(value, 64, i);
	bench_require(terrace_put(ctx, TERRACE_KEY(key), terrace_bytes(value, value_bytes), NULL) ==
	              TERRACE_OK);
}

static void bench_ours(const char *values)
{
	struct bench bench = { .group = "l3",
		               .name = "terrace",
		               .operation = "get lz4",
		               .value_bytes = value_bytes,
		               .threads = 1,
		               .limit = entries,
		               .fn = get };
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace *store;
	terrace_cache *cache;

	policy.tiers = TERRACE_L3;
	policy.codec = TERRACE_CODEC_LZ4;
	bench_require(terrace_open(bench_directory("l3"), NULL, &store) == TERRACE_OK);
	bench_require(terrace_cache_open(store, "bench", &policy, &cache) == TERRACE_OK);
	for (uint64_t i = 0; i < entries; i++) {
		char key[24];

		snprintf(key, sizeof key, "%llu", (unsigned long long)i);
		bench_require(terrace_put(cache, TERRACE_KEY(key),
		                          terrace_bytes(values, value_bytes), NULL) == TERRACE_OK);
	}
	bench.ctx = cache;
	bench.operations = (UINT64_C(400) << 20) / value_bytes;
	bench_run(&bench);
	bench.operation = "put lz4";
	bench.limit = 0;
	bench.operations /= 8;
	bench.fn = put;
	bench_run(&bench);
	terrace_cache_close(cache);
	terrace_close(store);
}

/* --- by hand --------------------------------------------------------------------------------------- */

static void file_name(const char *dir, uint64_t i, char path[600])
{
	snprintf(path, 600, "%s/%llu", dir, (unsigned long long)i);
}

static void hand_get(void *ctx, uint64_t i)
{
	char path[600], *packed, *value;
	struct stat st;
	int fd;

	file_name(ctx, i, path);
	fd = open(path, O_RDONLY);
	bench_require(fd >= 0 && fstat(fd, &st) == 0);
	packed = malloc((size_t)st.st_size);
	value = malloc(value_bytes);
	bench_require(read(fd, packed, (size_t)st.st_size) == st.st_size);
	bench_require(LZ4_decompress_safe(packed, value, (int)st.st_size, (int)value_bytes) ==
	              (int)value_bytes);
	close(fd);
	free(packed);
	free(value);
}

/* Written beside and renamed, so that nobody sees half of it. */
static void hand_write(const char *dir, uint64_t i, const char *value)
{
	char path[600], beside[610], *packed = malloc((size_t)LZ4_compressBound((int)value_bytes));
	int size = LZ4_compress_default(value, packed, (int)value_bytes,
	                                LZ4_compressBound((int)value_bytes));
	int fd;

	file_name(dir, i, path);
	snprintf(beside, sizeof beside, "%s.new", path);
	fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	bench_require(fd >= 0 && write(fd, packed, (size_t)size) == size);
	bench_require(close(fd) == 0 && rename(beside, path) == 0);
	free(packed);
}

static void hand_put(void *ctx, uint64_t i)
{
	static char *value;

	if (!value)
		value = malloc(8 << 20);
	bench_fill(value, 64, i);
	hand_write(ctx, i % entries, value);
}

static void bench_hand(const char *values)
{
	struct bench bench = { .group = "l3",
		               .name = "by hand",
		               .operation = "get lz4",
		               .value_bytes = value_bytes,
		               .threads = 1,
		               .limit = entries,
		               .fn = hand_get };
	const char *dir = bench_directory("hand");

	for (uint64_t i = 0; i < entries; i++)
		hand_write(dir, i, values);
	bench.ctx = (void *)(uintptr_t)dir;
	bench.operations = (UINT64_C(400) << 20) / value_bytes;
	bench_run(&bench);
	bench.operation = "put lz4";
	bench.limit = 0;
	bench.operations /= 8;
	bench.fn = hand_put;
	bench_run(&bench);
}

int main(void)
{
	static const size_t sizes[] = { 16 << 10, 64 << 10, 1 << 20, 8 << 20 };

	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		char *values;

		value_bytes = sizes[i];
		entries = (UINT64_C(64) << 20) / value_bytes;
		values = malloc(value_bytes);
		bench_fill(values, value_bytes, 1);
		bench_ours(values);
		bench_hand(values);
		free(values);
	}
	return 0;
}
