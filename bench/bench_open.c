/*
 * The whole: opening a store of 100,000 entries and getting the first one, and
 * what the command adds to a process that does nothing.
 *
 *   bench_open TERRACE_COMMAND
 */
#include "harness.h"

#include <terrace/terrace.h>

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ENTRIES = 100000, OPENS = 200, SPAWNS = 300 };

extern char **environ;

static void fill(const char *dir)
{
	terrace_item *items = calloc(ENTRIES, sizeof *items);
	struct bench_keys keys;
	char value[100];
	terrace *store;
	terrace_cache *cache;

	bench_fill(value, sizeof value, 1);
	bench_keys_make(&keys, ENTRIES);
	for (uint64_t i = 0; i < ENTRIES; i++)
		items[i] = (terrace_item){ terrace_bytes(keys.text[i], keys.size[i]),
			                   terrace_bytes(value, sizeof value) };
	bench_require(terrace_open(dir, NULL, &store) == TERRACE_OK);
	bench_require(terrace_cache_open(store, "bench", NULL, &cache) == TERRACE_OK);
	bench_require(terrace_put_many(cache, items, ENTRIES, NULL) == TERRACE_OK);
	bench_require(terrace_put(cache, TERRACE_KEY("k"), terrace_str("v"), NULL) == TERRACE_OK);
	terrace_cache_close(cache);
	terrace_close(store);
	bench_keys_free(&keys);
	free(items);
}

static void bench_opening(const char *dir)
{
	struct bench bench = { .group = "open",
		               .name = "terrace",
		               .operation = "open and first get",
		               .value_bytes = 100,
		               .threads = 1 };
	uint64_t samples[OPENS], p50, p99;

	for (int i = 0; i < OPENS; i++) {
		uint64_t before = bench_ns();
		terrace *store;
		terrace_cache *cache;
		terrace_value *value;

		bench_require(terrace_open(dir, NULL, &store) == TERRACE_OK);
		bench_require(terrace_cache_open(store, "bench", NULL, &cache) == TERRACE_OK);
		bench_require(terrace_get(cache, TERRACE_KEY("k"), &value) == TERRACE_OK);
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
	const char *dir = bench_directory("open");

	bench_require(argc == 2);
	fill(dir);
	bench_opening(dir);
	bench_command("terrace", "run warm",
	              (const char *[]){ argv[1], "--dir", dir, "run", "--ttl", "1h", "--",
	                                "/bin/true", NULL });
	bench_command("/bin/true", "run warm", (const char *[]){ "/bin/true", NULL });
	bench_command("terrace", "get",
	              (const char *[]){ argv[1], "--dir", dir, "get", "bench", "k", NULL });
	bench_command("/bin/true", "get", (const char *[]){ "/bin/true", NULL });
	return 0;
}
