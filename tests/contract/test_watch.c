/* Sources that are watched: as good as looking at them, but for a tick of the clock. */
#include "support/support.h"

#include "core/store.h"
#include "core/watch.h"
#include "util/fs.h"
#include "util/time.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int setup(void **state)
{
	struct fixture *f;

	fixture_setup(state);
	f = *state;
	assert_int_equal(mkdir(scratch_path(&f->scratch, "dir"), 0700), 0);
	assert_int_equal(mkdir(scratch_path(&f->scratch, "dir/sub"), 0700), 0);
	write_file(scratch_path(&f->scratch, "dir/sub/file"), "1");
	return 0;
}

static const char *at(const struct fixture *f, const char *name)
{
	return scratch_path(&f->scratch, name);
}

static terrace_cache *watching(struct fixture *f)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.check = TERRACE_CHECK_WATCH;
	return fixture_cache(f, "a", &policy);
}

/* What the header promises begins with the next tick. */
static void await_tick(void)
{
	uint64_t before = terrace__tick();

	while (terrace__tick() == before)
		sched_yield();
}

static int add_file(terrace_sources *sources, const char *path)
{
	return terrace_sources_file(sources, path, 0);
}

static uint64_t checks(terrace_cache *cache)
{
	terrace_stats stats = TERRACE_STATS_INIT;

	assert_ok(terrace_cache_stats(cache, &stats));
	return stats.source_checks;
}

/* Does the file system of the tests tell, and does the kernel have inotify? */
static void need_watching(struct fixture *f)
{
	int fd = open(f->scratch.path, O_RDONLY | O_CLOEXEC);
	bool tells = fd >= 0 && terrace__fs_tells(fd);

	close(fd);
	if (!tells) {
		print_message("%s is on no file system that tells of all changes\n",
		              f->scratch.path);
		skip();
	}
}

static void test_watch__looks_at_nothing_while_nothing_happens(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = watching(f);
	uint64_t before;

	need_watching(f);
	put_sourced(cache, "file", add_file, at(f, "dir/sub/file"));
	put_sourced(cache, "absent", terrace_sources_absent, at(f, "dir/sub/none/x"));
	put_sourced(cache, "listing", terrace_sources_listing, at(f, "dir/**"));
	for (int i = 0; i < 2; i++) {
		assert_gives(cache, "file", "v");
		assert_gives(cache, "absent", "v");
		assert_gives(cache, "listing", "v");
	}
	before = checks(cache);
	for (int i = 0; i < 50; i++) {
		assert_gives(cache, "file", "v");
		assert_gives(cache, "absent", "v");
		assert_gives(cache, "listing", "v");
		if (i % 10 == 0)
			await_tick();
	}
	assert_int_equal(checks(cache), before);
	/* what happens elsewhere in its directories is nothing */
	write_file(at(f, "elsewhere"), "1");
	assert_int_equal(chmod(at(f, "elsewhere"), 0600), 0);
	await_tick();
	assert_gives(cache, "file", "v");
	assert_int_equal(checks(cache), before);
	terrace_cache_close(cache);
}

/* --- everything that can happen to a source ---------------------------------------------------------- */

static void rewrite(struct fixture *f)
{
	write_file(at(f, "dir/sub/file"), "other words");
}

static void append(struct fixture *f)
{
	int fd = open(at(f, "dir/sub/file"), O_WRONLY | O_APPEND | O_CLOEXEC);

	assert_int_equal(write(fd, "x", 1), 1);
	close(fd);
}

static void cut(struct fixture *f)
{
	assert_int_equal(truncate(at(f, "dir/sub/file"), 0), 0);
}

static void write_mapped(struct fixture *f)
{
	int fd = open(at(f, "dir/sub/file"), O_RDWR | O_CLOEXEC);
	char *map = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	assert_ptr_not_equal(map, MAP_FAILED);
	close(fd);
	*map = '2';
	munmap(map, 1);
}

static void by_another_name(struct fixture *f)
{
	assert_int_equal(link(at(f, "dir/sub/file"), at(f, "other")), 0);
	write_file(at(f, "other"), "other words");
}

static void rename_over(struct fixture *f)
{
	write_file(at(f, "new"), "2");
	assert_int_equal(rename(at(f, "new"), at(f, "dir/sub/file")), 0);
}

/* The old one lives on, under another name. */
static void rename_over_one_that_lives(struct fixture *f)
{
	assert_int_equal(link(at(f, "dir/sub/file"), at(f, "other")), 0);
	rename_over(f);
}

static void vanish(struct fixture *f)
{
	assert_int_equal(unlink(at(f, "dir/sub/file")), 0);
}

static void move_dir(struct fixture *f)
{
	assert_int_equal(rename(at(f, "dir/sub"), at(f, "dir/aside")), 0);
}

static void move_grandparent(struct fixture *f)
{
	assert_int_equal(rename(at(f, "dir"), at(f, "aside")), 0);
}

static void replace_grandparent(struct fixture *f)
{
	move_grandparent(f);
	assert_int_equal(mkdir(at(f, "dir"), 0700), 0);
	assert_int_equal(mkdir(at(f, "dir/sub"), 0700), 0);
	write_file(at(f, "dir/sub/file"), "2");
}

static void exchange_dirs(struct fixture *f)
{
	assert_int_equal(mkdir(at(f, "twin"), 0700), 0);
	write_file(at(f, "twin/file"), "2");
	assert_int_equal(
	    renameat2(AT_FDCWD, at(f, "twin"), AT_FDCWD, at(f, "dir/sub"), RENAME_EXCHANGE), 0);
}

static void test_watch__every_change_of_a_file_is_seen_again_and_again(void **state)
{
	static void (*const changes[])(struct fixture * f) = {
		rewrite,
		append,
		cut,
		write_mapped,
		by_another_name,
		rename_over,
		rename_over_one_that_lives,
		vanish,
		move_dir,
		move_grandparent,
		replace_grandparent,
		exchange_dirs,
	};

	for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
		struct fixture *f;
		terrace_cache *cache;

		fixture_teardown(state);
		setup(state);
		f = *state;
		cache = watching(f);
		/* after a change that is over, what is put then is watched again */
		for (int again = 0; again < 2; again++) {
			put_sourced(cache, "k", add_file, at(f, "dir/sub/file"));
			for (int hit = 0; hit < 3; hit++) {
				assert_gives(cache, "k", "v");
				await_tick();
			}
			if (again == 0)
				append(f);
			else
				changes[i](f);
			await_tick();
			if (misses(cache, "k") != TERRACE_MISS)
				fail_msg("change %zu is not seen", i);
		}
		terrace_cache_close(cache);
	}
}

static void test_watch__links_on_the_way_are_watched_and_what_they_mean(void **state)
{
	/* link -> dir; short -> link/sub/file; dir moves away, then each link changes */
	for (int i = 0; i < 8; i++) {
		struct fixture *f;
		terrace_cache *cache;
		bool absolute = i >= 4;

		fixture_teardown(state);
		setup(state);
		f = *state;
		cache = watching(f);
		assert_int_equal(symlink(absolute ? at(f, "dir/") : "dir", at(f, "link")), 0);
		assert_int_equal(symlink(absolute ? at(f, "link/sub/file") : "../link/sub/file",
		                         at(f, "dir/short")),
		                 0);
		assert_int_equal(mkdir(at(f, "twin"), 0700), 0);
		assert_int_equal(mkdir(at(f, "twin/sub"), 0700), 0);
		write_file(at(f, "twin/sub/file"), "2");
		put_sourced(cache, "k", add_file, at(f, "dir/short"));
		assert_gives(cache, "k", "v");
		assert_gives(cache, "k", "v");
		await_tick();
		if (i % 4 == 0) {
			append(f);
		} else if (i % 4 == 1) {
			assert_int_equal(unlink(at(f, "link")), 0);
			assert_int_equal(symlink("twin", at(f, "link")), 0);
		} else if (i % 4 == 2) {
			assert_int_equal(symlink("twin", at(f, "new")), 0);
			assert_int_equal(rename(at(f, "new"), at(f, "link")), 0);
		} else {
			assert_int_equal(symlink("../twin/sub/file", at(f, "new")), 0);
			assert_int_equal(rename(at(f, "new"), at(f, "dir/short")), 0);
		}
		await_tick();
		assert_misses(cache, "k");
		terrace_cache_close(cache);
	}
}

static void test_watch__what_is_absent_may_come_to_be_in_many_ways(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = watching(f);

	/* the last part alone */
	put_sourced(cache, "k", terrace_sources_absent, at(f, "dir/none"));
	assert_gives(cache, "k", "v");
	write_file(at(f, "dir/none"), "");
	await_tick();
	assert_misses(cache, "k");
	/* its directories too */
	put_sourced(cache, "k", terrace_sources_absent, at(f, "dir/a/b/none"));
	assert_gives(cache, "k", "v");
	assert_int_equal(mkdir(at(f, "dir/a"), 0700), 0);
	await_tick();
	assert_gives(cache, "k", "v");
	await_tick();
	assert_gives(cache, "k", "v");
	assert_int_equal(mkdir(at(f, "dir/x"), 0700), 0);
	write_file(at(f, "dir/x/none"), "");
	assert_int_equal(rename(at(f, "dir/x"), at(f, "dir/a/b")), 0);
	await_tick();
	assert_misses(cache, "k");
	/* what a link on the way would mean */
	assert_int_equal(symlink("sub/later", at(f, "dir/link")), 0);
	put_sourced(cache, "k", terrace_sources_absent, at(f, "dir/link/none"));
	assert_gives(cache, "k", "v");
	await_tick();
	assert_gives(cache, "k", "v");
	assert_int_equal(mkdir(at(f, "dir/y"), 0700), 0);
	write_file(at(f, "dir/y/none"), "");
	assert_int_equal(rename(at(f, "dir/y"), at(f, "dir/sub/later")), 0);
	await_tick();
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void test_watch__directories_that_come_to_be_below_a_listing(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = watching(f);

	put_sourced(cache, "k", terrace_sources_listing, at(f, "dir/**/*.c"));
	assert_gives(cache, "k", "v");
	assert_int_equal(mkdir(at(f, "dir/sub/new"), 0700), 0);
	await_tick();
	assert_gives(cache, "k", "v"); /* no name that counts */
	await_tick();
	assert_gives(cache, "k", "v");
	write_file(at(f, "dir/sub/new/x.h"), "");
	await_tick();
	assert_gives(cache, "k", "v");
	write_file(at(f, "dir/sub/new/x.c"), "");
	await_tick();
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void test_watch__a_variable_is_looked_at_on_every_hit(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = watching(f);

	setenv("TERRACE_TEST_SOURCE", "1", 1);
	put_sourced(cache, "k", terrace_sources_variable, "TERRACE_TEST_SOURCE");
	assert_gives(cache, "k", "v");
	assert_gives(cache, "k", "v");
	setenv("TERRACE_TEST_SOURCE", "2", 1);
	assert_misses(cache, "k");
	unsetenv("TERRACE_TEST_SOURCE");
	terrace_cache_close(cache);
}

/* --- what cannot be watched --------------------------------------------------------------------------- */

static void test_watch__where_the_file_system_tells_nothing_every_hit_looks(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = watching(f);
	uint64_t before;

	if (access("/proc/self/comm", R_OK) < 0)
		skip();
	put_sourced(cache, "k", add_file, "/proc/self/comm");
	assert_gives(cache, "k", "v");
	before = checks(cache);
	assert_gives(cache, "k", "v");
	assert_gives(cache, "k", "v");
	assert_int_equal(checks(cache), before + 2);
	assert_int_equal(terrace__watch_count(f->store->watch), 0);
	terrace_cache_close(cache);
}

static void test_watch__more_events_than_the_kernel_keeps(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = watching(f);
	uint64_t before;
	int fds[2];

	need_watching(f);
	write_file(at(f, "a"), "");
	write_file(at(f, "b"), "");
	put_sourced(cache, "a", add_file, at(f, "a"));
	put_sourced(cache, "b", add_file, at(f, "b"));
	put_sourced(cache, "k", add_file, at(f, "dir/sub/file"));
	put_sourced(cache, "still", add_file, at(f, "dir/sub/file"));
	assert_gives(cache, "a", "v");
	assert_gives(cache, "b", "v");
	assert_gives(cache, "k", "v");
	assert_int_equal(terrace__watch_count(f->store->watch), 3);
	fds[0] = open(at(f, "a"), O_WRONLY | O_CLOEXEC);
	fds[1] = open(at(f, "b"), O_WRONLY | O_CLOEXEC);
	/* Two in turn, or the kernel makes one of them. */
	for (int i = 0; i < 40000; i++)
		assert_int_equal(write(fds[i % 2], "x", 1), 1);
	rename_over(f); /* nobody is told of this one */
	close(fds[0]);
	close(fds[1]);
	await_tick();
	assert_misses(cache, "k");
	assert_misses(cache, "a");
	assert_misses(cache, "still");
	/* and it goes on watching */
	put_sourced(cache, "k", add_file, at(f, "dir/sub/file"));
	assert_gives(cache, "k", "v");
	before = checks(cache);
	await_tick();
	assert_gives(cache, "k", "v");
	assert_int_equal(checks(cache), before);
	rewrite(f);
	await_tick();
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void count_warnings(void *ctx, terrace_log_level level, const char *message)
{
	if (level == TERRACE_LOG_WARN && strstr(message, "fs.inotify.max_user_watches"))
		++*(int *)ctx;
}

/* In a name space of users of its own, where the limit can be lowered. 77: it cannot. */
static int with_few_watches(void)
{
	int fd, warnings = 0, failed = 0;
	void *state = NULL;
	struct fixture *f;
	terrace_cache *cache;
	uint64_t before;

	if (unshare(CLONE_NEWUSER) < 0)
		return 77;
	fd = open("/proc/sys/user/max_inotify_watches", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "8", 1) != 1)
		return 77;
	setup(&state);
	f = state;
	f->options.log = count_warnings;
	f->options.log_ctx = &warnings;
	fixture_reopen(f);
	cache = watching(f);
	for (int i = 0; i < 8; i++) {
		char name[16];

		snprintf(name, sizeof name, "f%d", i);
		write_file(at(f, name), "1");
		put_sourced(cache, name, add_file, at(f, name));
	}
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 8; i++) {
			char name[16];

			snprintf(name, sizeof name, "f%d", i);
			assert_gives(cache, name, "v");
		}
	}
	/* f7 came when there were no more */
	before = checks(cache);
	assert_gives(cache, "f0", "v");
	failed |= checks(cache) != before;
	assert_gives(cache, "f7", "v");
	failed |= (checks(cache) != before + 1) << 3;
	failed |= (warnings != 1) << 1;
	for (int i = 0; i < 8; i++) {
		char name[16];

		snprintf(name, sizeof name, "f%d", i);
		write_file(at(f, name), "22");
		await_tick();
		failed |= (misses(cache, name) != TERRACE_MISS) << 2;
	}
	terrace_cache_close(cache);
	fixture_teardown(&state);
	return failed;
}

static void test_watch__too_many_watches_are_looked_at_instead(void **state)
{
	pid_t pid = fork();
	int status;

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(with_few_watches());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("no user name space with a limit of its own may be made\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* --- threads ------------------------------------------------------------------------------------------- */

enum { READERS = 3, FILES = 4, CHANGES = 150 };

struct race {
	struct fixture *f;
	terrace_cache *cache;
	_Atomic uint64_t written[FILES]; /* what the file says, since before this tick */
	_Atomic bool over;
	_Atomic uint64_t lies, hits;
};

static int load_number(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct race *race = ctx;
	char path[600], text[32] = "";
	int fd;

	snprintf(path, sizeof path, "%s/n%.*s", race->f->scratch.path, (int)key.size,
	         (const char *)key.data);
	assert_ok(terrace_loaded_source(loaded, path, 0));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_true(read(fd, text, sizeof text - 1) > 0);
	close(fd);
	return terrace_loaded_copy(loaded, terrace_str(text));
}

static void *read_numbers(void *ctx)
{
	struct race *race = ctx;

	for (unsigned i = 0; !atomic_load(&race->over); i++) {
		uint64_t least = atomic_load(&race->written[i % FILES]);
		char key[8];
		terrace_value *value;

		snprintf(key, sizeof key, "%u", i % FILES);
		if (terrace_fetch(race->cache, terrace_str(key), load_number, race, &value) !=
		    TERRACE_OK)
			continue;
		race->lies += strtoull(terrace_data(value), NULL, 10) < least;
		race->hits += terrace_value_tier(value) == TERRACE_L1;
		terrace_release(value);
	}
	return NULL;
}

/* One after the other, by writing or replacing; then, a tick later, readers may rely on it. */
static void test_watch__no_reader_gets_what_is_older_than_a_tick(void **state)
{
	struct fixture *f = *state;
	struct race race = { .f = f, .cache = watching(f) };
	pthread_t readers[READERS];

	for (int i = 0; i < FILES; i++) {
		char name[16];

		snprintf(name, sizeof name, "n%d", i);
		write_file(at(f, name), "0000000000");
	}
	for (int i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&readers[i], NULL, read_numbers, &race), 0);
	for (uint64_t n = 1; n <= CHANGES; n++) {
		char name[16], text[32];

		snprintf(name, sizeof name, "n%d", (int)(n % FILES));
		snprintf(text, sizeof text, "%010llu", (unsigned long long)n);
		/* always whole: nobody reads half a number */
		write_file(at(f, "next"), text);
		if (n % 3) {
			assert_int_equal(rename(at(f, "next"), at(f, name)), 0);
		} else {
			int fd = open(at(f, name), O_WRONLY | O_CLOEXEC);

			assert_int_equal(pwrite(fd, text, strlen(text), 0), (int)strlen(text));
			close(fd);
		}
		await_tick();
		atomic_store(&race.written[n % FILES], n);
	}
	atomic_store(&race.over, true);
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	print_message("%d changes, %llu hits in L1\n", CHANGES, (unsigned long long)race.hits);
	assert_int_equal(race.lies, 0);
	assert_true(race.hits > 0);
	terrace_cache_close(race.cache);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		/* forks, so before there are threads */
		TEST(test_watch__too_many_watches_are_looked_at_instead),
		TEST(test_watch__looks_at_nothing_while_nothing_happens),
		TEST(test_watch__every_change_of_a_file_is_seen_again_and_again),
		TEST(test_watch__links_on_the_way_are_watched_and_what_they_mean),
		TEST(test_watch__what_is_absent_may_come_to_be_in_many_ways),
		TEST(test_watch__directories_that_come_to_be_below_a_listing),
		TEST(test_watch__a_variable_is_looked_at_on_every_hit),
		TEST(test_watch__where_the_file_system_tells_nothing_every_hit_looks),
		TEST(test_watch__more_events_than_the_kernel_keeps),
		TEST(test_watch__no_reader_gets_what_is_older_than_a_tick),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
