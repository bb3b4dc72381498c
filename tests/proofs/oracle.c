/*
 * The oracle: processes and threads do everything to a few caches at once, and
 * every value that a read gives is held against a log that they share.
 *
 * A value says which key it belongs to and which write made it; its bytes
 * follow from the two. The log has a clock (a counter) and for each write when
 * it began and ended. A read that began at r and gives write v lies when some
 * other write of the key (a delete or an invalidation among them) began after v
 * had ended, and ended before r: nothing allows v to be there any more. What is
 * fetched counts as written in the moment before its loader began.
 *
 * The store's clock is a number in the log, too, and moves with the operations:
 * a value that is read after its time to live has ended lies as well.
 *
 * There are two mixes of operations. The full one does everything everywhere. Of
 * the other one, 99 % stay in memory, where an operation costs a microsecond:
 * hits, puts into memory or into the queue of what waits, evictions, joined
 * computations; the rest is of the full mix. What was done is printed.
 *
 *   oracle [memory]     load: OPERATIONS in PROCESSES x THREADS
 *   oracle [memory] kill   the same load, while a process is killed every few ms (EVERY_MS
 *                       at most), ROUNDS times; then a look at everything
 */
#include "proofs/oracle.h"

#include <terrace/events.h>

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

/* --- a process --------------------------------------------------------------------------------------------- */

static int64_t log_clock(void *ctx)
{
	(void)ctx;
	return atomic_load(&log_->now_ms);
}

static void open_all(terrace **ret_store, terrace_cache *caches[KINDS])
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	char path[300];

	snprintf(path, sizeof path, "%s/store", asked.directory);
	options.clock = log_clock;
	if (terrace_open(path, &options, ret_store) != TERRACE_OK) {
		fail("open: %s", terrace_error_message());
		_exit(1);
	}
	for (int i = 0; i < KINDS; i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;

		policy.tiers = kinds[i].tiers;
		policy.write = kinds[i].write;
		policy.memory_bytes = kinds[i].memory_bytes;
		policy.disk_entries = kinds[i].disk_entries;
		policy.codec = kinds[i].codec;
		policy.inline_bytes = kinds[i].tiers == TERRACE_L3 ? 1 : 2000;
		if (terrace_cache_open(*ret_store, kinds[i].name, &policy, &caches[i]) !=
		    TERRACE_OK) {
			fail("open %s: %s", kinds[i].name, terrace_error_message());
			_exit(1);
		}
	}
}

static void on_event(void *ctx, const terrace_event *event)
{
	const char *name = kinds[TOLD].name;

	(void)ctx;
	if (strcmp(event->cache, name) != 0)
		fail("an event of %s came from %s", name, event->cache);
	if (event->key.size && !is_key(TOLD, event->key))
		fail("an event of %s has a key that nobody used", name);
	atomic_fetch_add(&log_->events[__builtin_ctz(event->kind) % 8], 1);
	atomic_fetch_add(&log_->events[8], event->lost);
}

static void run_process(int number, uint64_t life)
{
	struct worker workers[THREADS_MAX];
	pthread_t handles[THREADS_MAX];
	terrace_cache *caches[KINDS];
	terrace_subscription *events = NULL;
	terrace *store;

	process_number = number;
	open_all(&store, caches);
	if (terrace_subscribe(caches[TOLD], NULL, on_event, NULL, &events) != TERRACE_OK)
		fail("subscribe: %s", terrace_error_message());
	for (int i = 0; i < asked.threads; i++) {
		workers[i] = (struct worker){
			.process = number,
			.number = i,
			.random = { asked.seed ^ (uint64_t)(number * 64 + i) << 40 ^ life << 8 },
			.store = store,
			.caches = caches,
			.log = &log_->workers[number][i],
		};
		pthread_create(&handles[i], NULL, work, &workers[i]);
	}
	for (int i = 0; i < asked.threads; i++)
		pthread_join(handles[i], NULL);
	unpin_all();
	terrace_unsubscribe(events);
	for (int i = 0; i < KINDS; i++)
		terrace_cache_close(caches[i]);
	terrace_close(store);
}

static pid_t start_process(int number, uint64_t life)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		run_process(number, life);
		_exit(atomic_load(&log_->failed) ? 1 : 0);
	}
	return pid;
}

/* It is dead: what it was writing has ended, if not how. */
static void bury(int number)
{
	for (int i = 0; i < asked.threads; i++)
		work_end(&log_->workers[number][i], false);
}

/* --- the whole ------------------------------------------------------------------------------------------------ */

static bool count_fault(terrace_fault_kind kind)
{
	/* A process that was killed leaves files without rows. */
	return kind != TERRACE_FAULT_ORPHAN;
}

static int on_fault(void *ctx, const terrace_fault *fault)
{
	if (count_fault(fault->kind)) {
		++*(int *)ctx;
		fprintf(stderr, "oracle: damage in %s: %s\n", fault->cache, fault->detail);
	}
	return 0;
}

/*
 * As the store counts. One process is to have its hits, evictions and joined computations in
 * memory; of several, each goes to the disk for what the others have written.
 */
static void check_counters(terrace_cache **caches)
{
	bool demanding = asked.mostly_memory && asked.processes == 1 &&
	                 atomic_load(&log_->operations) >= 500000;
	uint64_t joined = 0;

	for (int i = 0; i < KINDS; i++) {
		terrace_stats stats = TERRACE_STATS_INIT;

		if (terrace_cache_stats(caches[i], &stats) != TERRACE_OK)
			fail("stats of %s: %s", kinds[i].name, terrace_error_message());
		printf("  %-14s %9llu hits in memory, %8llu below, %8llu evicted, %6llu expired, "
		       "%6llu joined, %6llu outdated\n",
		       kinds[i].name, (unsigned long long)stats.hits_l1,
		       (unsigned long long)(stats.hits_l2 + stats.hits_l3),
		       (unsigned long long)stats.evicted_l1, (unsigned long long)stats.expired,
		       (unsigned long long)stats.shared_loads,
		       (unsigned long long)stats.outdated_loads);
		joined += stats.shared_loads;
		if (demanding && kinds[i].light &&
		    (stats.hits_l1 < 5 * (stats.hits_l2 + stats.hits_l3) ||
		     (kinds[i].memory_bytes && !stats.evicted_l1)))
			fail("%s has too few hits or evictions in memory", kinds[i].name);
	}
	if (demanding && !joined)
		fail("nobody has joined a computation");
}

/* By a process that has seen nothing of it. */
static void look_at_everything(bool killed)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct worker w = { .random = { asked.seed } };
		terrace_cache *caches[KINDS];
		int faults = 0, rc;

		open_all(&w.store, caches);
		if (!killed)
			check_counters(caches);
		w.caches = caches;
		for (w.cache = 0; w.cache < KINDS; w.cache++) {
			for (w.key = 0; w.key < KEYS; w.key++)
				do_get(&w);
		}
		rc = terrace_verify(w.store, false, on_fault, &faults, NULL);
		if (faults || (rc < 0 && rc != TERRACE_ECORRUPT))
			fail("verify: %d faults: %s", faults, terrace_error_message());
		_exit(0);
	}
	waitpid(pid, &status, 0);
	if (status != 0)
		fail("the last look ended with status %#x", status);
}

static void end_all(pid_t *pids)
{
	for (int i = 0; i < asked.processes; i++) {
		int status;

		waitpid(pids[i], &status, 0);
		if (WIFSIGNALED(status))
			fail("a process died of signal %d", WTERMSIG(status));
		else if (WEXITSTATUS(status) != 0)
			fail("a process ended with %d", WEXITSTATUS(status));
	}
}

static void kill_some(pid_t *pids, uint64_t rounds)
{
	struct random random = { asked.seed };
	uint64_t every_us = amount("EVERY_MS", 12) * 1000;

	for (uint64_t round = 0; round < rounds && !atomic_load(&log_->failed); round++) {
		int victim = (int)random_below(&random, (uint64_t)asked.processes);
		int status;

		usleep((useconds_t)(500 + random_below(&random, every_us)));
		kill(pids[victim], SIGKILL);
		waitpid(pids[victim], &status, 0);
		bury(victim);
		pids[victim] = start_process(victim, round + 1);
	}
	atomic_store(&log_->stop, 1);
}

/* Which keys share a slot depends on the store. */
static void find_keys(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		terrace_cache *caches[KINDS];
		terrace *store;

		open_all(&store, caches);
		make_keys(caches);
		_exit(0);
	}
	waitpid(pid, &status, 0);
}

static void make_sources(void)
{
	char path[300];

	for (uint32_t group = 0; group < GROUPS; group++) {
		FILE *file = fopen(source_path(group, path), "w");

		if (file) {
			fprintf(file, "%u\n", group);
			fclose(file);
		}
	}
}

/* A cache that always misses would lie no more than a good one. */
static void check_tally(bool killed)
{
	for (int i = 0; i < KINDS; i++) {
		struct tally *tally = &log_->tally[i];
		double ratio = (double)tally->hits / (double)(tally->gets ? tally->gets : 1);

		printf("  %-14s %9llu gets, %4.1f %% hits, %8llu writes, %8llu fetches\n",
		       kinds[i].name, (unsigned long long)tally->gets, 100 * ratio,
		       (unsigned long long)tally->writes, (unsigned long long)tally->fetches);
		/* In memory alone processes have no values of each other; in a crowded engine
		 * every key's neighbours void it. */
		if (!killed && !slots_are_few() &&
		    (kinds[i].tiers != TERRACE_L1 ||
		     (asked.mostly_memory && asked.processes == 1)) &&
		    tally->gets > 10000 && ratio < 0.4)
			fail("%s hits too rarely", kinds[i].name);
	}
}

int main(int argc, char **argv)
{
	bool killing = argc > 1 && strcmp(argv[argc - 1], "kill") == 0;
	uint64_t rounds = amount("ROUNDS", 500);
	pid_t pids[PROCESSES_MAX];
	double start;

	setvbuf(stdout, NULL, _IOLBF, 0);
	asked.mostly_memory = argc > 1 && strcmp(argv[1], "memory") == 0;
	if (argc != 1 + killing + asked.mostly_memory) {
		fprintf(stderr, "usage: oracle [memory] [kill]\n");
		return 2;
	}
	asked.seed = proof_seed(killing ? "oracle kill" : "oracle");
	asked.operations = killing ? UINT64_MAX : amount("OPERATIONS", 2000000);
	asked.processes = (int)amount("PROCESSES", 4);
	asked.threads = (int)amount("THREADS", 4);
	if (asked.processes < 1 || asked.processes > PROCESSES_MAX || asked.threads < 1 ||
	    asked.threads > THREADS_MAX) {
		fprintf(stderr, "oracle: up to %d PROCESSES and %d THREADS\n", PROCESSES_MAX,
		        THREADS_MAX);
		return 2;
	}
	log_ = share(sizeof *log_);
	atomic_store(&log_->now_ms, INT64_C(1800000000000));
	scratch_dir(asked.directory, sizeof asked.directory);
	make_sources();
	find_keys();
	start = seconds_now();
	for (int i = 0; i < asked.processes; i++)
		pids[i] = start_process(i, 0);
	if (killing)
		kill_some(pids, rounds);
	end_all(pids);
	if (!atomic_load(&log_->failed))
		look_at_everything(killing);
	print_actions();
	check_tally(killing);
	printf("oracle: %llu operations, %d processes x %d threads%s, %.1f s: %s\n",
	       (unsigned long long)atomic_load(&log_->operations), asked.processes, asked.threads,
	       killing ? ", killed on and on" : "", seconds_now() - start,
	       atomic_load(&log_->failed) ? "FAILED" : "no lie");
	if (killing)
		printf("oracle: %llu kills\n", (unsigned long long)rounds);
	if (!atomic_load(&log_->failed))
		remove_dir(asked.directory);
	else
		fprintf(stderr, "oracle: the store is left in %s\n", asked.directory);
	return atomic_load(&log_->failed);
}
