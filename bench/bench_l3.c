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

static terrace_cache *open_ours(const char *values, terrace **ret_store)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	policy.tiers = TERRACE_L3;
	policy.codec = TERRACE_CODEC_LZ4;
	bench_require(terrace_open(bench_directory("l3"), NULL, ret_store) == TERRACE_OK);
	bench_require(terrace_cache_open(*ret_store, "bench", &policy, &cache) == TERRACE_OK);
	for (uint64_t i = 0; i < entries; i++) {
		char key[24];

		snprintf(key, sizeof key, "%llu", (unsigned long long)i);
		bench_require(terrace_put(cache, TERRACE_KEY(key),
		                          terrace_bytes(values, value_bytes), NULL) == TERRACE_OK);
	}
	bench_require(terrace_flush(*ret_store) == TERRACE_OK);
	return cache;
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

static const char *open_hand(const char *values)
{
	const char *dir = bench_directory("hand");

	for (uint64_t i = 0; i < entries; i++)
		hand_write(dir, i, values);
	return dir;
}

/* Gets are run in turns; puts are not, for what waits becomes files in the other's turn. */
static void bench_both(const char *values)
{
	struct bench ours = { .group = "l3",
		              .name = "terrace",
		              .operation = "get lz4",
		              .value_bytes = value_bytes,
		              .threads = 1,
		              .operations = (UINT64_C(400) << 20) / value_bytes,
		              .limit = entries,
		              .fn = get };
	struct bench hand = ours;
	terrace *store;
	terrace_cache *cache = open_ours(values, &store);

	ours.ctx = cache;
	hand.name = "by hand";
	hand.fn = hand_get;
	hand.ctx = (void *)(uintptr_t)open_hand(values);
	bench_run((struct bench[]){ ours, hand }, 2);
	ours.operation = hand.operation = "put lz4";
	ours.limit = hand.limit = 0;
	ours.operations /= 8;
	hand.operations /= 8;
	ours.fn = put;
	hand.fn = hand_put;
	bench_run(&ours, 1);
	terrace_cache_close(cache);
	terrace_close(store);
	bench_run(&hand, 1);
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
		bench_both(values);
		free(values);
	}
	return 0;
}
