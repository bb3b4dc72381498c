/*
 * How long SQLite's log gets: two processes put, get, delete and invalidate,
 * a third lists keys and reads all there is, and the store is at its limit.
 * For 20 seconds; BENCH_LOG_SECONDS for as many, BENCH_HOUR for an hour.
 */
#include "harness.h"

#include <terrace/terrace.h>

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WRITERS = 2, KEYS = 100000, LARGEST = 16384, SECONDS = 20, LOOK_US = 2000, PAUSE_US = 200 };

struct board {
	_Atomic bool stop;
	_Atomic uint64_t calls[WRITERS + 1], keys; /* keys: listed */
};

static struct board *board;
static const char *dir;

static void open_cache(terrace **ret_store, terrace_cache **ret_cache)
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	terrace_policy policy = TERRACE_POLICY_INIT;

	options.disk_bytes = 256 << 20;
	policy.tiers = TERRACE_L1 | TERRACE_L2;
	policy.memory_bytes = 8 << 20;
	bench_require(terrace_open(dir, &options, ret_store) == TERRACE_OK);
	bench_require(terrace_cache_open(*ret_store, "bench", &policy, ret_cache) == TERRACE_OK);
}

static void put(terrace_cache *cache, terrace_slice key, const char *value, uint64_t random)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	char tag[16];
	const char *tags[] = { tag };

	snprintf(tag, sizeof tag, "tag %u", (unsigned)(random >> 40) % 1000);
	options.tags = tags;
	options.tag_count = random >> 50 & 1;
	options.ttl_ms = random >> 51 & 1 ? 5000 : TERRACE_TTL_FOREVER;
	bench_require(
	    terrace_put(cache, key,
	                terrace_bytes(value, 100 + (random >> 52) * LARGEST / 4096 % LARGEST),
	                &options) == TERRACE_OK);
}

static void write_and_get(unsigned which)
{
	static char value[2 * LARGEST];
	uint64_t state = which;
	terrace *store;
	terrace_cache *cache;

	bench_fill(value, sizeof value, which);
	open_cache(&store, &cache);
	while (!board->stop) {
		uint64_t random = bench_random(&state);
		unsigned what = (unsigned)(random >> 20) % 1000;
		char text[16];
		terrace_slice key = terrace_bytes(
		    text, (size_t)snprintf(text, sizeof text, "%u", (unsigned)(random % KEYS)));
		terrace_value *got;

		if (what >= 200) {
			if (terrace_get(cache, key, &got) == TERRACE_OK)
				terrace_release(got);
		} else if (what >= 20) {
			put(cache, key, value, random);
			usleep(PAUSE_US);
		} else if (what >= 1) {
			bench_require(terrace_delete(cache, key) >= 0);
		} else {
			char tag[16];
			terrace_match match;

			snprintf(tag, sizeof tag, "tag %u", (unsigned)(random >> 40) % 1000);
			match = terrace_match_text(TERRACE_MATCH_TAG, tag);
			bench_require(terrace_invalidate(cache, &match, NULL) == TERRACE_OK);
		}
		board->calls[which]++;
	}
	terrace_cache_close(cache);
	terrace_close(store);
}

/* What keeps SQLite from starting the log anew: somebody who reads for long. */
static void read_all(void)
{
	terrace *store;
	terrace_cache *cache;

	open_cache(&store, &cache);
	while (!board->stop) {
		terrace_scrub_options scrub = TERRACE_SCRUB_INIT;
		terrace_verify_report report;
		terrace_keys *keys;
		terrace_slice key;

		bench_require(terrace_keys_open(cache, NULL, &keys) == TERRACE_OK);
		while (!board->stop && terrace_keys_next(keys, &key) == TERRACE_OK)
			board->keys++;
		terrace_keys_close(keys);
		scrub.most_bytes = 16 << 20;
		bench_require(terrace_scrub(store, &scrub, NULL, NULL, &report, NULL) ==
		              TERRACE_OK);
		board->calls[WRITERS]++;
		usleep(10000);
	}
	terrace_cache_close(cache);
	terrace_close(store);
}

static uint64_t log_bytes(void)
{
	char path[512];
	struct stat st;

	snprintf(path, sizeof path, "%s/v2/db-1-wal", dir);
	return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static unsigned seconds(void)
{
	const char *text = getenv("BENCH_LOG_SECONDS");

	if (getenv("BENCH_HOUR"))
		return 3600;
	return text ? (unsigned)strtoul(text, NULL, 10) : SECONDS;
}

int main(void)
{
	struct bench bench = {
		.group = "l2", .name = "terrace", .operation = "log after an hour", .threads = 1
	};
	uint64_t end = bench_ns() + seconds() * UINT64_C(1000000000), largest = 0, last = 0,
		 calls = 0;
	pid_t children[WRITERS + 1];

	dir = bench_directory("log");
	board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
	             0);
	bench_require(board != MAP_FAILED);
	for (unsigned i = 0; i <= WRITERS; i++) {
		children[i] = fork();
		bench_require(children[i] >= 0);
		if (children[i] == 0) {
			if (i < WRITERS)
				write_and_get(i);
			else
				read_all();
			_exit(0);
		}
	}
	while (bench_ns() < end) {
		last = log_bytes();
		largest = last > largest ? last : largest;
		usleep(LOOK_US);
	}
	board->stop = true;
	for (unsigned i = 0; i <= WRITERS; i++) {
		int status;

		bench_require(waitpid(children[i], &status, 0) == children[i] && status == 0);
		calls += board->calls[i];
	}
	bench_require(calls > 0 && board->keys > 0);
	fprintf(stderr,
	        "%u s: %llu calls, %llu keys listed; the log %llu bytes at most, %llu last\n",
	        seconds(), (unsigned long long)calls, (unsigned long long)board->keys,
	        (unsigned long long)largest, (unsigned long long)last);
	bench_print(&bench, largest, largest, (double)calls / seconds());
	return 0;
}
