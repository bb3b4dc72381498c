/*
 * Values written and read piece by piece, beside others who write, delete, read
 * and die: nothing comes after what came later, nobody sees half of a value.
 */
#include "support/peer.h"

#include "tiers/record.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LARGE = 3 * BLOCK_BYTES + 100 };

static char *letters(char letter)
{
	static char text[LARGE];

	memset(text, letter, sizeof text);
	return text;
}

static terrace_writer *begin(terrace_cache *cache, const char *key, char letter)
{
	terrace_writer *writer;

	assert_ok(terrace_writer_open(cache, terrace_str(key), NULL, &writer));
	assert_ok(terrace_writer_write(writer, terrace_bytes(letters(letter), LARGE - 9)));
	return writer;
}

static int end(terrace_writer *writer, char letter)
{
	assert_ok(terrace_writer_write(writer, terrace_bytes(letters(letter), 9)));
	return terrace_writer_commit(writer);
}

static void assert_letters(terrace_reader *reader, char letter)
{
	char *bytes = malloc(LARGE);
	size_t got;

	assert_ok(terrace_reader_read(reader, 0, bytes, LARGE, &got));
	assert_int_equal(got, LARGE);
	assert_memory_equal(bytes, letters(letter), LARGE);
	free(bytes);
}

/* The store's files, and those that are being written. */
static int files_below(const struct fixture *f, const char *folder)
{
	char command[700];
	int count = -1;
	FILE *list;

	snprintf(command, sizeof command, "find %s/v2/files/%s -type f 2>/dev/null | wc -l",
	         scratch_path(&f->scratch, "store"), folder);
	list = popen(command, "r");
	assert_int_equal(fscanf(list, "%d", &count), 1);
	pclose(list);
	return count;
}

/* --- what comes later stays ------------------------------------------------------- */

struct where {
	const char *name;
	unsigned tiers;
	terrace_write write;
};

static const struct where wheres[] = {
	{ "memory", TERRACE_L1, TERRACE_WRITE_THROUGH },
	{ "files", TERRACE_L3, TERRACE_WRITE_THROUGH },
	{ "all", 0, TERRACE_WRITE_THROUGH },
	{ "all, behind", 0, TERRACE_WRITE_BEHIND },
};

enum change { PUT, DELETE, CLEAR, PREFIX, ADD_AND_DELETE, CHANGES };

static void change(terrace_cache *cache, enum change what)
{
	terrace_match match = terrace_match_text(TERRACE_MATCH_PREFIX, "k");

	switch (what) {
	case PUT:
		assert_ok(put_text(cache, "k", "newer"));
		return;
	case DELETE:
		assert_status(terrace_delete(cache, TERRACE_KEY("k")), TERRACE_MISS);
		return;
	case CLEAR:
		assert_ok(terrace_clear(cache, 0, NULL));
		return;
	case PREFIX:
		assert_ok(terrace_invalidate(cache, &match, NULL));
		return;
	default:
		assert_ok(terrace_add(cache, TERRACE_KEY("k"), terrace_str("newer"), NULL));
		assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
	}
}

/* A small value and a large one, overtaken in this process. */
static void test_order__a_stream_that_was_overtaken_is_not_stored(void **state)
{
	(void)state;
	for (size_t w = 0; w < sizeof wheres / sizeof *wheres; w++) {
		for (int what = 0; what < CHANGES * 2; what++) {
			terrace_policy policy = TERRACE_POLICY_INIT;
			struct fixture f = { 0 };
			terrace_cache *cache;
			terrace_writer *writer;
			bool large = what >= CHANGES;
			int rc;

			fixture_open(&f);
			policy.tiers = wheres[w].tiers;
			policy.write = wheres[w].write;
			cache = fixture_cache(&f, "a", &policy);
			assert_ok(terrace_writer_open(cache, TERRACE_KEY("k"), NULL, &writer));
			if (large)
				assert_ok(terrace_writer_write(writer,
				                               terrace_bytes(letters('a'), LARGE)));
			change(cache, what % CHANGES);
			rc = end(writer, 'a');
			if (rc != TERRACE_MISS)
				fail_msg("%s, change %d: %s", wheres[w].name, what,
				         terrace_status_name(rc));
			if (what % CHANGES == PUT)
				assert_gives(cache, "k", "newer");
			else
				assert_misses(cache, "k");
			assert_ok(terrace_clear(cache, 0, NULL));
			assert_ok(terrace_cleanup(f.store, cache, NULL));
			assert_int_equal(files_below(&f, ""), 0);
			/* And one that was not, is. */
			assert_ok(end(begin(cache, "k", 'b'), 'b'));
			assert_ok(terrace_exists(cache, TERRACE_KEY("k")));
			terrace_cache_close(cache);
			fixture_close(&f);
		}
	}
}

static void test_order__overtaken_by_another_process(void **state)
{
	static const char *const orders[] = { "p k newer", "d k", "i k", "c" };

	(void)state;
	for (size_t w = 0; w < sizeof wheres / sizeof *wheres; w++) {
		for (size_t i = 0; i < 4; i++) {
			terrace_policy policy = TERRACE_POLICY_INIT;
			struct fixture f = { 0 };
			terrace_cache *cache;
			terrace_writer *writer;
			struct peer peer;

			fixture_open(&f);
			policy.tiers = wheres[w].tiers;
			policy.write = wheres[w].write;
			peer = peer_start(&f, &policy);
			cache = fixture_cache(&f, "a", &policy);
			assert_peer(&peer, "g k", "(miss)");
			writer = begin(cache, "k", 'a');
			assert_peer(&peer, orders[i], "ok");
			assert_status(end(writer, 'a'), TERRACE_MISS);
			assert_peer(&peer, "f", "ok");
			if (i == 0 && wheres[w].tiers != TERRACE_L1)
				assert_gives(cache, "k", "newer");
			else
				assert_misses(cache, "k");
			terrace_cache_close(cache);
			peer_end(&peer);
			fixture_close(&f);
		}
	}
}

/* Under a lease it is what was true when that began that counts. */
static void test_order__under_a_lease(void **state)
{
	struct fixture f = { 0 };
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_cache *cache;
	terrace_writer *writer;
	terrace_lease *lease;
	terrace_value *value;

	(void)state;
	fixture_open(&f);
	cache = fixture_cache(&f, "a", NULL);
	for (int overtaken = 0; overtaken < 2; overtaken++) {
		assert_status(terrace_lease_begin(cache, TERRACE_KEY("k"), 0, &lease, &value),
		              TERRACE_MISS);
		if (overtaken)
			assert_status(terrace_delete(cache, TERRACE_KEY("k")), TERRACE_MISS);
		options.lease = lease;
		assert_ok(terrace_writer_open(cache, TERRACE_KEY("k"), &options, &writer));
		assert_ok(terrace_writer_write(writer, terrace_bytes(letters('l'), LARGE)));
		assert_status(terrace_writer_commit(writer), overtaken ? TERRACE_MISS : TERRACE_OK);
		terrace_lease_drop(lease);
		assert_status(terrace_exists(cache, TERRACE_KEY("k")),
		              overtaken ? TERRACE_MISS : TERRACE_OK);
		assert_ok(terrace_clear(cache, 0, NULL));
	}
	terrace_cache_close(cache);
	fixture_close(&f);
}

/* What came later is not removed either, where the stream's own value is not to be had. */
static void test_order__a_stream_that_failed_leaves_what_came_later(void **state)
{
	(void)state;
	for (size_t w = 0; w < sizeof wheres / sizeof *wheres; w++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		struct fixture f = { 0 };
		terrace_cache *cache;
		terrace_writer *writer;

		fixture_open(&f);
		policy.tiers = wheres[w].tiers;
		policy.write = wheres[w].write;
		policy.codec = TERRACE_CODEC_NONE;
		policy.memory_bytes = policy.disk_bytes = 1 << 20;
		cache = fixture_cache(&f, "a", &policy);
		assert_ok(terrace_writer_open(cache, TERRACE_KEY("k"), NULL, &writer));
		for (int i = 0; i < 4; i++)
			terrace_writer_write(writer, terrace_bytes(letters('a'), LARGE));
		assert_ok(put_text(cache, "k", "newer"));
		assert_status(terrace_writer_commit(writer), TERRACE_ETOOBIG);
		assert_gives(cache, "k", "newer");
		terrace_cache_close(cache);
		fixture_close(&f);
	}
}

/* --- what is seen, and when --------------------------------------------------------- */

static void test_sight__nothing_before_the_commit_and_all_of_it_after(void **state)
{
	struct fixture f = { 0 };
	terrace_cache *cache;
	terrace_reader *reader, *again;
	terrace_writer *writer;
	struct peer peer;

	(void)state;
	fixture_open(&f);
	peer = peer_start(&f, NULL);
	cache = fixture_cache(&f, "a", NULL);
	assert_ok(end(begin(cache, "k", 'a'), 'a'));
	assert_ok(terrace_reader_open(cache, TERRACE_KEY("k"), &reader));
	writer = begin(cache, "k", 'b');
	assert_ok(terrace_reader_open(cache, TERRACE_KEY("k"), &again));
	assert_letters(again, 'a');
	terrace_reader_close(again);
	assert_ok(end(writer, 'b'));
	assert_ok(terrace_reader_open(cache, TERRACE_KEY("k"), &again));
	assert_letters(again, 'b');
	/* Whoever has it open goes on with what it opened. */
	assert_letters(reader, 'a');
	assert_peer(&peer, "d k", "ok");
	assert_letters(again, 'b');
	assert_letters(reader, 'a');
	assert_misses(cache, "k");
	assert_int_equal(files_below(&f, ""), 0);
	terrace_reader_close(reader);
	terrace_reader_close(again);
	terrace_cache_close(cache);
	peer_end(&peer);
	fixture_close(&f);
}

static void test_sight__a_writer_that_is_dropped_changes_nothing(void **state)
{
	struct fixture f = { 0 };
	terrace_cache *cache;
	terrace_reader *reader;

	(void)state;
	fixture_open(&f);
	cache = fixture_cache(&f, "a", NULL);
	assert_ok(end(begin(cache, "k", 'a'), 'a'));
	assert_int_equal(files_below(&f, ""), 1);
	terrace_writer_drop(begin(cache, "k", 'b'));
	terrace_writer_drop(begin(cache, "other", 'b'));
	assert_ok(terrace_reader_open(cache, TERRACE_KEY("k"), &reader));
	assert_letters(reader, 'a');
	terrace_reader_close(reader);
	assert_int_equal(files_below(&f, ""), 1);
	terrace_cache_close(cache);
	fixture_close(&f);
}

/* A transaction that is rolled back takes the value with it. */
static void test_sight__within_a_transaction(void **state)
{
	struct fixture f = { 0 };
	terrace_cache *cache;
	terrace_reader *reader;

	(void)state;
	fixture_open(&f);
	cache = fixture_cache(&f, "a", NULL);
	assert_ok(terrace_begin(f.store, 0));
	assert_ok(end(begin(cache, "k", 'a'), 'a'));
	assert_ok(terrace_reader_open(cache, TERRACE_KEY("k"), &reader));
	assert_letters(reader, 'a');
	terrace_reader_close(reader);
	terrace_rollback(f.store);
	assert_misses(cache, "k");
	assert_int_equal(files_below(&f, ""), 0);
	assert_ok(terrace_begin(f.store, 0));
	assert_ok(end(begin(cache, "k", 'b'), 'b'));
	assert_ok(terrace_commit(f.store));
	assert_ok(terrace_reader_open(cache, TERRACE_KEY("k"), &reader));
	assert_letters(reader, 'b');
	terrace_reader_close(reader);
	terrace_cache_close(cache);
	fixture_close(&f);
}

static void *verify_and_repair(void *ctx)
{
	terrace_verify_report report = TERRACE_VERIFY_INIT;

	terrace_verify(ctx, true, NULL, NULL, &report);
	return (void *)(uintptr_t)report.orphans;
}

/* Files that a transaction has made, or will take away, have or get their rows. */
static void test_sight__verify_leaves_the_files_of_a_transaction_alone(void **state)
{
	(void)state;
	for (int i = 0; i < 4; i++) {
		bool commits = i % 2;
		struct fixture f = { 0 };
		terrace_cache *cache;
		terrace_reader *reader;
		pthread_t thread;
		void *orphans;

		fixture_open(&f);
		f.options.wait_ms = 20;
		fixture_reopen(&f);
		cache = fixture_cache(&f, "a", NULL);
		assert_ok(end(begin(cache, "old", 'a'), 'a'));
		assert_ok(terrace_begin(f.store, 0));
		assert_ok(end(begin(cache, "new", 'b'), 'b'));
		assert_ok(terrace_delete(cache, TERRACE_KEY("old")));
		if (i < 2) {
			orphans = verify_and_repair(f.store);
		} else {
			pthread_create(&thread, NULL, verify_and_repair, f.store);
			pthread_join(thread, &orphans);
		}
		assert_null(orphans);
		if (commits)
			assert_ok(terrace_commit(f.store));
		else
			terrace_rollback(f.store);
		assert_ok(
		    terrace_reader_open(cache, terrace_str(commits ? "new" : "old"), &reader));
		assert_letters(reader, commits ? 'b' : 'a');
		terrace_reader_close(reader);
		assert_int_equal(files_below(&f, ""), 1);
		terrace_cache_close(cache);
		fixture_close(&f);
	}
}

/* Runs before each of so many files of L3 is opened for reading. */
static struct {
	int times;
	terrace_cache *cache;
} overtaking;

/* In the place of the C library's; for the library that is tested as well. */
long syscall(long number, ...)
{
	static long (*real)(long number, ...);
	long argument[6];
	va_list rest;

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "syscall");
	va_start(rest, number);
	for (int i = 0; i < 6; i++)
		argument[i] = va_arg(rest, long);
	va_end(rest);
	if (number == SYS_openat2 && overtaking.times > 0 &&
	    ((const struct open_how *)argument[2])->flags & O_NONBLOCK) {
		overtaking.times--;
		assert_ok(end(begin(overtaking.cache, "k", 'n'), 'n'));
	}
	return real(number, argument[0], argument[1], argument[2], argument[3], argument[4],
	            argument[5]);
}

/* However often it is replaced between its row and its file: what is there is no damage. */
static void test_sight__a_reader_that_is_overtaken_looks_again(void **state)
{
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_reader *reader;
	struct fixture f = { 0 };

	(void)state;
	fixture_open(&f);
	overtaking.cache = fixture_cache(&f, "a", NULL);
	for (int times = 1; times <= 5; times++) {
		assert_ok(end(begin(overtaking.cache, "k", 'o'), 'o'));
		overtaking.times = times;
		assert_ok(terrace_reader_open(overtaking.cache, TERRACE_KEY("k"), &reader));
		assert_int_equal(overtaking.times, 0);
		assert_letters(reader, 'n');
		terrace_reader_close(reader);
	}
	assert_ok(terrace_cache_stats(overtaking.cache, &stats));
	assert_int_equal(stats.damaged, 0);
	terrace_cache_close(overtaking.cache);
	fixture_close(&f);
}

/* --- death ------------------------------------------------------------------------------ */

/* A process in the middle of writing "k"; it says so, and waits to be killed. */
static pid_t half_way(struct fixture *f)
{
	int says[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(says), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		terrace_cache *cache;
		terrace *store;

		assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &store));
		assert_ok(terrace_cache_open(store, "a", NULL, &cache));
		begin(cache, "k", 'c');
		if (write(says[1], "!", 1) == 1)
			pause();
		_exit(1);
	}
	assert_int_equal(read(says[0], &byte, 1), 1);
	close(says[0]);
	close(says[1]);
	return pid;
}

static void test_death__leaves_a_file_that_is_swept_and_not_before(void **state)
{
	struct fixture f = { 0 };
	terrace_cache *cache;
	terrace_writer *mine;
	pid_t pid;

	(void)state;
	fixture_open(&f);
	cache = fixture_cache(&f, "a", NULL);
	assert_ok(put_text(cache, "k", "old"));
	for (int reopened = 0; reopened < 2; reopened++) {
		pid = half_way(&f);
		mine = begin(cache, "mine", 'm');
		assert_int_equal(files_below(&f, "new"), 2);
		/* Both are alive: nobody sweeps them. */
		assert_ok(terrace_cleanup(f.store, cache, NULL));
		assert_int_equal(files_below(&f, "new"), 2);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		assert_gives(cache, "k", "old");
		if (reopened) {
			terrace_writer_drop(mine);
			fixture_reopen(&f);
			cache = fixture_cache(&f, "a", NULL);
			assert_int_equal(files_below(&f, "new"), 0);
		} else {
			assert_ok(terrace_cleanup(f.store, cache, NULL));
			assert_int_equal(files_below(&f, "new"), 1);
			assert_ok(end(mine, 'm'));
		}
	}
	assert_gives(cache, "k", "old");
	assert_ok(terrace_verify(f.store, false, NULL, NULL, NULL));
	terrace_cache_close(cache);
	fixture_close(&f);
}

static int open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;

	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/* What a child inherits is its parent's: it can end it, and changes nothing. */
static void test_fork__a_child_leaves_its_parents_streams_alone(void **state)
{
	struct fixture f = { 0 };
	terrace_cache *cache;
	terrace_writer *writer;
	terrace_reader *reader;
	int status;
	pid_t pid;

	(void)state;
	fixture_open(&f);
	cache = fixture_cache(&f, "a", NULL);
	assert_ok(end(begin(cache, "k", 'a'), 'a'));
	assert_ok(terrace_reader_open(cache, TERRACE_KEY("k"), &reader));
	writer = begin(cache, "k", 'b');
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		char byte;
		size_t got;
		bool right = terrace_reader_read(reader, 0, &byte, 1, &got) == TERRACE_EFORK &&
		             terrace_writer_write(writer, terrace_str("x")) == TERRACE_EFORK;
		int descriptors = open_descriptors();

		/* Nor does it keep anything of it. */
		terrace_reader_close(reader);
		terrace_writer_drop(writer);
		right &= open_descriptors() == descriptors - 2;
		_exit(right ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_letters(reader, 'a');
	terrace_reader_close(reader);
	assert_ok(end(writer, 'b'));
	assert_ok(terrace_reader_open(cache, TERRACE_KEY("k"), &reader));
	assert_letters(reader, 'b');
	terrace_reader_close(reader);
	terrace_cache_close(cache);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order__a_stream_that_was_overtaken_is_not_stored),
		cmocka_unit_test(test_order__overtaken_by_another_process),
		cmocka_unit_test(test_order__under_a_lease),
		cmocka_unit_test(test_order__a_stream_that_failed_leaves_what_came_later),
		cmocka_unit_test(test_sight__nothing_before_the_commit_and_all_of_it_after),
		cmocka_unit_test(test_sight__a_writer_that_is_dropped_changes_nothing),
		cmocka_unit_test(test_sight__within_a_transaction),
		cmocka_unit_test(test_sight__verify_leaves_the_files_of_a_transaction_alone),
		cmocka_unit_test(test_sight__a_reader_that_is_overtaken_looks_again),
		cmocka_unit_test(test_death__leaves_a_file_that_is_swept_and_not_before),
		cmocka_unit_test(test_fork__a_child_leaves_its_parents_streams_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
