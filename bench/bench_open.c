/*
 * The whole: opening a store of 100,000 and of a million entries and getting the
 * first one, what memory that takes, and what the command adds to a process
 * that does nothing.
 *
 *   bench_open TERRACE_COMMAND
 *   bench_open memory DIR       how many bytes it takes; used by the first
 */
#include "harness.h"

#include <terrace/terrace.h>

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ENTRIES = 100000, MANY = 1000000, BATCH = 10000, OPENS = 200, SPAWNS = 300 };

extern char **environ;

static void fill(const char *dir, uint64_t count)
{
	terrace_item *items = calloc(BATCH, sizeof *items);
	struct bench_keys keys;
	char value[100];
	terrace *store;
	terrace_cache *cache;

	bench_fill(value, sizeof value, 1);
	bench_keys_make(&keys, count);
	bench_require(terrace_open(dir, NULL, &store) == TERRACE_OK);
	bench_require(terrace_cache_open(store, "bench", NULL, &cache) == TERRACE_OK);
	for (uint64_t from = 0; from < count; from += BATCH) {
		for (uint64_t i = 0; i < BATCH; i++)
			items[i] = (terrace_item){ terrace_bytes(keys.text[from + i],
				                                 keys.size[from + i]),
				                   terrace_bytes(value, sizeof value) };
		bench_require(terrace_put_many(cache, items, BATCH, NULL) == TERRACE_OK);
	}
	bench_require(terrace_put(cache, TERRACE_KEY("k"), terrace_str("v"), NULL) == TERRACE_OK);
	terrace_cache_close(cache);
	terrace_close(store);
	bench_keys_free(&keys);
	free(items);
}

/* The pages that this process has in memory, in bytes. */
static uint64_t resident(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	unsigned long long size, pages;

	bench_require(file && fscanf(file, "%llu %llu", &size, &pages) == 2);
	fclose(file);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* The caller releases the value, and closes both. */
static terrace_value *open_and_get(const char *dir, terrace **ret_store, terrace_cache **ret_cache)
{
	terrace_value *value;

	bench_require(terrace_open(dir, NULL, ret_store) == TERRACE_OK);
	bench_require(terrace_cache_open(*ret_store, "bench", NULL, ret_cache) == TERRACE_OK);
	bench_require(terrace_get(*ret_cache, TERRACE_KEY("k"), &value) == TERRACE_OK);
	return value;
}

/* In a process of its own, that has done nothing else. */
static int print_memory(const char *dir)
{
	uint64_t before = resident();
	terrace *store;
	terrace_cache *cache;
	terrace_value *value;

	value = open_and_get(dir, &store, &cache);
	printf("%llu\n", (unsigned long long)(resident() - before));
	terrace_release(value);
	terrace_cache_close(cache);
	terrace_close(store);
	return 0;
}

static void bench_memory(const char *dir)
{
	struct bench bench = { .group = "open",
		               .name = "terrace",
		               .operation = "memory after opening",
		               .value_bytes = MANY,
		               .threads = 1 };
	char self[512], command[1200];
	ssize_t size = readlink("/proc/self/exe", self, sizeof self - 1);
	unsigned long long bytes;
	FILE *child;

	bench_require(size > 0);
	self[size] = '\0';
	snprintf(command, sizeof command, "'%s' memory '%s'", self, dir);
	child = popen(command, "r");
	bench_require(child && fscanf(child, "%llu", &bytes) == 1 && pclose(child) == 0);
	bench_print(&bench, bytes, bytes, 0);
}

static void bench_opening(const char *dir, const char *operation, uint64_t value_bytes)
{
	struct bench bench = { .group = "open",
		               .name = "terrace",
		               .operation = operation,
		               .value_bytes = value_bytes,
		               .threads = 1 };
	uint64_t samples[OPENS], p50, p99;

	for (int i = 0; i < OPENS; i++) {
		uint64_t before = bench_ns();
		terrace *store;
		terrace_cache *cache;
		terrace_value *value;

		value = open_and_get(dir, &store, &cache);
		samples[i] = bench_ns() - before;
		terrace_release(value);
		terrace_cache_close(cache);
		terrace_close(store);
	}
	bench_percentiles(samples, OPENS, &p50, &p99);
	bench_print(&bench, p50, p99, 1e9 / (double)p50);
}

static void bench_command(const char *name, const char *operation, const char *const *command)
{
	struct bench bench = {
		.group = "command", .name = name, .operation = operation, .threads = 1
	};
	uint64_t samples[SPAWNS], p50, p99;
	posix_spawn_file_actions_t actions;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	for (int i = -3; i < SPAWNS; i++) { /* the first ones warm up */
		uint64_t before = bench_ns();
		pid_t pid;
		int status;

		bench_require(posix_spawn(&pid, command[0], &actions, NULL,
		                          (char *const *)(uintptr_t)command, environ) == 0);
		bench_require(waitpid(pid, &status, 0) == pid && status == 0);
		if (i >= 0)
			samples[i] = bench_ns() - before;
	}
	posix_spawn_file_actions_destroy(&actions);
	bench_percentiles(samples, SPAWNS, &p50, &p99);
	bench_print(&bench, p50, p99, 1e9 / (double)p50);
}

int main(int argc, char **argv)
{
	const char *dir, *large;

	if (argc == 3)
		return print_memory(argv[2]);
	bench_require(argc == 2);
	dir = bench_directory("open");
	large = bench_directory("large");
	fill(dir, ENTRIES);
	bench_opening(dir, "open and first get", 100);
	fill(large, MANY);
	bench_opening(large, "open and get", MANY);
	bench_memory(large);
	bench_command("terrace", "run warm",
	              (const char *[]){ argv[1], "--dir", dir, "run", "--ttl", "1h", "--",
	                                "/bin/true", NULL });
	bench_command("/bin/true", "run warm", (const char *[]){ "/bin/true", NULL });
	bench_command("terrace", "get",
	              (const char *[]){ argv[1], "--dir", dir, "get", "bench", "k", NULL });
	bench_command("/bin/true", "get", (const char *[]){ "/bin/true", NULL });
	return 0;
}
