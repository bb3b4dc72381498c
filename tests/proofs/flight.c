/*
 * Single flight among processes: many callers in several processes want one
 * key at once. The loader runs once, and its result or its error reaches all of
 * them. Then the process whose loader runs is killed, ROUNDS times: another one
 * takes its place, long before anybody's patience (a minute) ends.
 */
#include "proofs/proofs.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { PROCESSES = 4, CALLERS = 16, FAILURE = 4711 };

enum task { COMPUTE, FAIL, HANG_FIRST };

static char directory[256];

static struct board {
	_Atomic int task, round, ready, go;
	_Atomic int loads, values, errors, wrong;
	_Atomic int owner; /* whose loader runs */
	_Atomic int entered, threads[PROCESSES * CALLERS];
	_Atomic uint64_t began_ns;
} * board;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL);
}

/* Does the thread sleep, or live no more? */
static bool sleeps(int thread)
{
	char path[40], line[256] = "";
	const char *name_end;
	FILE *file;

	snprintf(path, sizeof path, "/proc/%d/stat", thread);
	file = fopen(path, "r");
	if (!file)
		return true;
	if (!fgets(line, sizeof line, file))
		line[0] = '\0';
	fclose(file);
	name_end = strrchr(line, ')');
	return !name_end || strchr("SZX", name_end[2]);
}

/* Who has not come to wait when a loader fails runs it once more, and rightly. */
static bool all_wait(void)
{
	int self = (int)syscall(SYS_gettid);

	if (atomic_load(&board->entered) < PROCESSES * CALLERS)
		return false;
	for (int i = 0; i < PROCESSES * CALLERS; i++) {
		int thread = atomic_load(&board->threads[i]);

		if (thread == 0 || (thread != self && !sleeps(thread)))
			return false;
	}
	return true;
}

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	int calls = atomic_fetch_add(&board->loads, 1) + 1;
	char text[32];

	(void)key;
	(void)ctx;
	atomic_store(&board->began_ns, now_ns());
	atomic_store(&board->owner, getpid());
	if (atomic_load(&board->task) == HANG_FIRST && calls == 1)
		pause_ms(600000); /* killed before that */
	while (atomic_load(&board->task) != HANG_FIRST && !all_wait())
		pause_ms(1);
	if (atomic_load(&board->task) == FAIL)
		return terrace_fail(FAILURE, "it cannot be computed");
	snprintf(text, sizeof text, "value %d", atomic_load(&board->round));
	return terrace_loaded_copy(loaded, terrace_str(text));
}

struct caller {
	pthread_t thread;
	terrace_cache *cache;
};

static void *call(void *ctx)
{
	struct caller *caller = ctx;
	terrace_value *value;
	char key[32], text[32];
	int rc;

	snprintf(key, sizeof key, "key %d", atomic_load(&board->round));
	atomic_fetch_add(&board->ready, 1);
	while (!atomic_load(&board->go))
		sched_yield();
	atomic_store(&board->threads[atomic_fetch_add(&board->entered, 1)],
	             (int)syscall(SYS_gettid));
	rc = terrace_fetch(caller->cache, terrace_str(key), load, NULL, &value);
	if (rc == FAILURE) {
		atomic_fetch_add(&board->errors, 1);
	} else if (rc == TERRACE_OK) {
		snprintf(text, sizeof text, "value %d", atomic_load(&board->round));
		if (terrace_size(value) == strlen(text) &&
		    memcmp(terrace_data(value), text, strlen(text)) == 0)
			atomic_fetch_add(&board->values, 1);
		else
			atomic_fetch_add(&board->wrong, 1);
		terrace_release(value);
	} else {
		fprintf(stderr, "flight: %s\n", terrace_error_message());
		atomic_fetch_add(&board->wrong, 1);
	}
	return NULL;
}

static void run_process(bool behind)
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct caller callers[CALLERS];
	terrace_cache *cache;
	terrace *store;
	char path[300];

	snprintf(path, sizeof path, "%s/store", directory);
	options.wait_ms = 60000;
	policy.write = behind ? TERRACE_WRITE_BEHIND : TERRACE_WRITE_THROUGH;
	if (terrace_open(path, &options, &store) != TERRACE_OK ||
	    terrace_cache_open(store, behind ? "behind" : "through", &policy, &cache) !=
	        TERRACE_OK) {
		fprintf(stderr, "flight: %s\n", terrace_error_message());
		_exit(1);
	}
	for (int i = 0; i < CALLERS; i++) {
		callers[i].cache = cache;
		pthread_create(&callers[i].thread, NULL, call, &callers[i]);
	}
	for (int i = 0; i < CALLERS; i++)
		pthread_join(callers[i].thread, NULL);
	terrace_cache_close(cache);
	terrace_close(store);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* All callers at once; *ret_ns is how long after the kill the next loader began. */
static bool round_of(enum task task, bool behind, uint64_t *ret_ns)
{
	int all = PROCESSES * CALLERS, expected_loads = task == HANG_FIRST ? 2 : 1, killed = -1;
	uint64_t kill_ns = 0;
	pid_t pids[PROCESSES];
	bool good = true;

	atomic_fetch_add(&board->round, 1);
	atomic_store(&board->task, task);
	atomic_store(&board->ready, 0);
	atomic_store(&board->go, 0);
	atomic_store(&board->loads, 0);
	atomic_store(&board->values, 0);
	atomic_store(&board->errors, 0);
	atomic_store(&board->owner, 0);
	atomic_store(&board->entered, 0);
	for (int i = 0; i < PROCESSES * CALLERS; i++)
		atomic_store(&board->threads[i], 0);
	fflush(NULL);
	for (int i = 0; i < PROCESSES; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			run_process(behind);
			_exit(0);
		}
	}
	while (atomic_load(&board->ready) < all)
		pause_ms(1);
	atomic_store(&board->go, 1);
	if (task == HANG_FIRST) {
		while (!atomic_load(&board->owner))
			pause_ms(1);
		pause_ms(5);
		killed = atomic_load(&board->owner);
		kill_ns = now_ns();
		kill(killed, SIGKILL);
		all -= CALLERS;
	}
	for (int i = 0; i < PROCESSES; i++) {
		int status;

		waitpid(pids[i], &status, 0);
		if (status != 0 && pids[i] != killed) {
			fprintf(stderr, "flight: a process ended with status %#x\n", status);
			good = false;
		}
	}
	*ret_ns = atomic_load(&board->began_ns) - kill_ns;
	if (atomic_load(task == FAIL ? &board->errors : &board->values) != all ||
	    atomic_load(&board->loads) != expected_loads || atomic_load(&board->wrong))
		good = false;
	if (!good)
		fprintf(
		    stderr,
		    "flight: round %d%s: %d loads, not %d; %d values, %d errors, %d wrong of %d\n",
		    atomic_load(&board->round), behind ? " (behind)" : "",
		    atomic_load(&board->loads), expected_loads, atomic_load(&board->values),
		    atomic_load(&board->errors), atomic_load(&board->wrong), all);
	return good;
}

int main(void)
{
	uint64_t rounds = amount("ROUNDS", 100), *latencies = calloc(rounds, sizeof *latencies), ns;
	bool good = true;

	setvbuf(stdout, NULL, _IOLBF, 0);
	board = share(sizeof *board);
	scratch_dir(directory, sizeof directory);
	for (int i = 0; i < 10 && good; i++)
		good = round_of(i % 2 ? FAIL : COMPUTE, i % 4 >= 2, &ns);
	for (uint64_t i = 0; i < rounds && good; i++)
		good = round_of(HANG_FIRST, i % 2, &latencies[i]);
	qsort(latencies, rounds, sizeof *latencies, compare);
	if (rounds)
		printf("flight: an owner was replaced after %.1f ms (median), %.1f ms (most)\n",
		       (double)latencies[rounds / 2] / 1e6, (double)latencies[rounds - 1] / 1e6);
	printf("flight: %llu owners killed, %d callers in %d processes: %s\n",
	       (unsigned long long)rounds, PROCESSES * CALLERS, PROCESSES,
	       good ? "one loader each" : "FAILED");
	remove_dir(directory);
	return !good;
}
