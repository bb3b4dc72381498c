/* Opening stores: the registry, the directory, settings, disabled stores. */
#include "core/locks.h"
#include "support/support.h"

#include "util/message.h"
#include "util/lock.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	fixture_open(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fixture_close(f);
	free(f);
	return 0;
}

static const char *dir_of(const struct fixture *f)
{
	return scratch_path(&f->scratch, "store");
}

static void test_open__the_same_directory_is_the_same_store(void **state)
{
	struct fixture *f = *state;
	terrace *again, *spelled;
	char path[600];

	snprintf(path, sizeof path, "%s/../store/.", dir_of(f));
	assert_ok(terrace_open(dir_of(f), &f->options, &again));
	assert_ok(terrace_open(path, NULL, &spelled));
	assert_ptr_equal(again, f->store);
	assert_ptr_equal(spelled, f->store);
	terrace_close(again);
	terrace_close(spelled);
	/* the last handle has not been closed yet */
	assert_ok(put_text(fixture_cache(f, "a", NULL), "k", "v"));
}

static void test_cache__the_same_name_is_the_same_handle(void **state)
{
	struct fixture *f = *state;
	terrace_cache *a = fixture_cache(f, "a", NULL), *again = fixture_cache(f, "a", NULL);
	terrace_cache *b = fixture_cache(f, "b", NULL), *unnamed = fixture_cache(f, NULL, NULL);

	assert_ptr_equal(a, again);
	assert_ptr_not_equal(a, b);
	assert_string_equal(terrace_cache_name(unnamed), "default");
	assert_ok(put_text(a, "k", "of a"));
	assert_ok(put_text(b, "k", "of b"));
	assert_gives(a, "k", "of a");
	assert_gives(b, "k", "of b");
	assert_ok(terrace_delete(a, TERRACE_KEY("k")));
	assert_gives(b, "k", "of b");
	terrace_cache_close(again);
	assert_misses(a, "k"); /* still open */
	terrace_cache_close(a);
	terrace_cache_close(b);
	terrace_cache_close(unnamed);
}

static int count_open(void *ctx, const terrace_open_cache *open)
{
	char *names = ctx;

	strcat(names, open->name);
	strcat(names, open->memory_entries ? "+ " : " ");
	return 0;
}

static void test_registry__lists_and_resets(void **state)
{
	struct fixture *f = *state;
	terrace_cache *a = fixture_cache(f, "a", NULL);
	char names[100] = "";

	fixture_cache(f, "b", NULL);
	assert_ok(put_text(a, "k", "v"));
	assert_int_equal(terrace_registry_each(count_open, names), 2);
	assert_string_equal(names, "b a+ ");
	terrace_registry_reset();
	assert_int_equal(terrace_registry_each(NULL, NULL), 0);
	assert_ok(terrace_open(dir_of(f), &f->options, &f->store));
	a = fixture_cache(f, "a", NULL);
	assert_gives(a, "k", "v"); /* what was stored is */
	terrace_cache_close(a);
}

static void test_reopen__one_after_the_other_keeps_the_log_short(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	for (int i = 0; i < 200; i++) {
		terrace_cache *cache = fixture_cache(f, "c", NULL);

		assert_ok(put_text(cache, "k", i % 2 ? "odd" : "even"));
		terrace_cache_close(cache);
		fixture_reopen(f);
	}
	assert_int_equal(stat(scratch_path(&f->scratch, "store/v2/db-1-wal"), &st), 0);
	print_message("the log has %lld bytes\n", (long long)st.st_size);
	assert_true(st.st_size < 512 << 10);
}

/* Its pages were moved into the database just before the store was closed. */
static void test_close__leaves_no_long_log_behind_a_large_write(void **state)
{
	enum { COUNT = 2000 };
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "c", NULL);
	static char keys[COUNT][16], value[4000];
	static terrace_item items[COUNT];
	struct stat st;

	for (int i = 0; i < COUNT; i++) {
		snprintf(keys[i], sizeof keys[i], "%d", i);
		items[i] = (terrace_item){ terrace_str(keys[i]),
			                   terrace_bytes(value, sizeof value) };
	}
	assert_ok(terrace_put_many(cache, items, COUNT, NULL));
	assert_int_equal(stat(scratch_path(&f->scratch, "store/v2/db-1-wal"), &st), 0);
	assert_true(st.st_size > COUNT * (off_t)sizeof value); /* there is something to leave */
	terrace_cache_close(cache);
	fixture_reopen(f);
	assert_int_equal(stat(scratch_path(&f->scratch, "store/v2/db-1-wal"), &st), 0);
	print_message("the log has %lld bytes\n", (long long)st.st_size);
	assert_true(st.st_size < 512 << 10);
}

static void test_reopen__what_was_stored_survives(void **state)
{
	struct fixture *f = *state;
	terrace_cache *a = fixture_cache(f, "a", NULL);

	assert_ok(put_text(a, "k", "v"));
	terrace_cache_close(a);
	fixture_reopen(f);
	a = fixture_cache(f, "a", NULL);
	assert_gives(a, "k", "v");
	terrace_cache_close(a);
}

/* Tables that came later than the rest: a database that is older gets them. */
static void test_reopen__an_older_database_gets_what_it_lacks(void **state)
{
	static const char *const later[] = { "immutable", "named" };
	struct fixture *f = *state;
	char path[600], sql[100];
	terrace_cache *a;
	sqlite3 *db;

	f->options.boot_id_path = "/nonexistent"; /* a new boot each time that it is opened */
	for (size_t i = 0; i < sizeof later / sizeof *later; i++) {
		fixture_reopen(f);
		a = fixture_cache(f, "a", NULL);
		assert_ok(put_text(a, "k", "v"));
		terrace_cache_close(a);
		terrace_close(f->store);
		snprintf(path, sizeof path, "%s/v2/db-1", dir_of(f));
		snprintf(sql, sizeof sql, "DROP TABLE %s", later[i]);
		/* Ours, so that what is written is sound as pages go. */
		assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "terrace"),
		                 SQLITE_OK);
		assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
		sqlite3_close(db);
		assert_ok(terrace_open(dir_of(f), &f->options, &f->store));
		a = fixture_cache(f, "a", NULL);
		assert_gives(a, "k", "v");
		terrace_cache_close(a);
		assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, "terrace"),
		                 SQLITE_OK);
		assert_int_equal(sqlite3_table_column_metadata(db, "main", later[i], NULL, NULL,
		                                               NULL, NULL, NULL, NULL),
		                 SQLITE_OK);
		sqlite3_close(db);
	}
}

static void test_cache__bad_names_are_refused(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = (void *)1;
	char longest[TERRACE_NAME_MAX + 2];

	memset(longest, 'n', sizeof longest);
	longest[TERRACE_NAME_MAX] = '\0';
	assert_ok(terrace_cache_open(f->store, longest, NULL, &cache));
	terrace_cache_close(cache);
	longest[TERRACE_NAME_MAX] = 'n';
	longest[TERRACE_NAME_MAX + 1] = '\0';
	cache = (void *)1;
	assert_status(terrace_cache_open(f->store, longest, NULL, &cache), TERRACE_EINVAL);
	assert_status(terrace_cache_open(f->store, "", NULL, &cache), TERRACE_EINVAL);
	assert_status(terrace_cache_open(f->store, "a/b", NULL, &cache), TERRACE_EINVAL);
	assert_status(terrace_cache_open(f->store, "a\nb", NULL, &cache), TERRACE_EINVAL);
	assert_status(terrace_cache_open(f->store, ".files", NULL, &cache), TERRACE_EINVAL);
	assert_ptr_equal(cache, (void *)1); /* untouched on failure */
}

static void test_cache__contradictory_policies_are_refused(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	struct {
		terrace_policy policy;
		uint64_t newer;
	} newer = { TERRACE_POLICY_INIT, 0 };

	policy.eviction = "lru";
	assert_status(terrace_cache_open(f->store, "a", &policy, &cache), TERRACE_EINVAL);
	policy.eviction = NULL;
	policy.check = TERRACE_CHECK_INTERVAL;
	assert_status(terrace_cache_open(f->store, "a", &policy, &cache), TERRACE_EINVAL);
	policy.check = TERRACE_CHECK_DEFAULT;
	policy.tiers = 8;
	assert_status(terrace_cache_open(f->store, "a", &policy, &cache), TERRACE_EINVAL);
	/* a struct of a newer version is understood while it asks nothing new */
	newer.policy.size = sizeof newer;
	assert_ok(terrace_cache_open(f->store, "a", &newer.policy, &cache));
	terrace_cache_close(cache);
	newer.newer = 1;
	assert_status(terrace_cache_open(f->store, "b", &newer.policy, &cache), TERRACE_EINVAL);
}

/* --- directories that must not be used ----------------------------------------------------------- */

static void assert_refused(const char *dir, const char *says)
{
	terrace *store = (void *)1;

	assert_status(terrace_open(dir, NULL, &store), TERRACE_EACCESS);
	assert_ptr_equal(store, (void *)1);
	if (!strstr(terrace_error_message(), says) || !strstr(terrace_error_message(), dir))
		fail_msg("\"%s\" does not say \"%s\"", terrace_error_message(), says);
}

static void test_open__a_link_is_not_followed(void **state)
{
	struct fixture *f = *state;
	const char *link = scratch_path(&f->scratch, "link");

	assert_int_equal(symlink(dir_of(f), link), 0);
	assert_refused(link, "symbolic link");
}

static void test_open__what_others_may_write_is_refused(void **state)
{
	struct fixture *f = *state;
	const char *open_to_all = scratch_path(&f->scratch, "open");

	assert_int_equal(mkdir(open_to_all, 0700), 0);
	assert_int_equal(chmod(open_to_all, 0777), 0);
	assert_refused(open_to_all, "others may write");
	assert_int_equal(chmod(open_to_all, 0770), 0);
	assert_refused(open_to_all, "others may write");
}

static void test_open__another_users_is_refused(void **state)
{
	struct fixture *f = *state;
	const char *theirs = scratch_path(&f->scratch, "theirs");

	if (geteuid() != 0) {
		print_message("skipped: only root can give a directory away\n");
		skip();
	}
	assert_int_equal(mkdir(theirs, 0700), 0);
	assert_int_equal(chown(theirs, 12345, 12345), 0);
	assert_refused(theirs, "another user");
}

static void test_open__what_cannot_be_made_or_written_is_refused(void **state)
{
	struct fixture *f = *state;
	const char *file = scratch_path(&f->scratch, "file");
	char below[600];
	pid_t child;
	int status;

	write_file(file, "");
	assert_refused(file, "Not a directory");
	snprintf(below, sizeof below, "%s/below", file);
	assert_refused(below, "Not a directory");
	if (geteuid() != 0)
		return;
	/* root writes everywhere: become somebody else for a moment */
	child = fork();
	if (child == 0) {
		terrace *store;
		int rc;

		if (setgid(12345) || setuid(12345))
			_exit(1);
		rc = terrace_open("/usr/share/terrace-test", NULL, &store);
		_exit(rc == TERRACE_EACCESS &&
		              strstr(terrace_error_message(), "Permission denied") ?
		          0 :
		          2);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void test_open__files_are_for_their_owner_alone(void **state)
{
	struct fixture *f = *state;
	static const char *const names[] = { "v2",        "v2/db-1", "v2/db-1-wal",
		                             "v2/shared", "v2/lock", "v2/files" };
	char path[600];
	struct stat st;

	terrace_cache_close(fixture_cache(f, "a", NULL));
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		snprintf(path, sizeof path, "%s/%s", dir_of(f), names[i]);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 077, 0);
	}
}

/* --- settings ----------------------------------------------------------------------------------------- */

static int find_setting(void *ctx, const terrace_setting *setting)
{
	const char **wanted = ctx; /* section, name, value, origin's end */

	if (strcmp(setting->section, wanted[0]) != 0 || strcmp(setting->name, wanted[1]) != 0)
		return 0;
	assert_string_equal(setting->value, wanted[2]);
	if (!strstr(setting->origin, wanted[3]))
		fail_msg("%s comes from \"%s\", not \"%s\"", wanted[1], setting->origin, wanted[3]);
	wanted[0] = NULL;
	return 1;
}

static void assert_setting(terrace *store, const char *section, const char *name, const char *value,
                           const char *origin)
{
	const char *wanted[] = { section, name, value, origin };

	terrace_config_each(store, find_setting, wanted);
	if (wanted[0])
		fail_msg("there is no setting %s of %s", name, section);
}

static void test_config__of_the_directory_is_used_and_shown(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	char ini[600];
	terrace_cache *cache;

	snprintf(ini, sizeof ini, "%s/terrace.ini", dir_of(f));
	write_file(ini, "[store]\ndisk_bytes = 3G\n[cache short]\nttl = 1s\n");
	fixture_reopen(f);
	policy.codec = TERRACE_CODEC_ZSTD;
	cache = fixture_cache(f, "short", &policy);
	assert_setting(f->store, "store", "disk_bytes", "3G", "terrace.ini:2");
	assert_setting(f->store, "store", "memory_bytes", "64M", "default");
	assert_setting(f->store, "cache short", "ttl", "1s", "terrace.ini:4");
	assert_setting(f->store, "cache short", "codec", "zstd", "code");
	assert_ok(put_text(cache, "k", "v"));
	atomic_fetch_add(&f->clock.now, 999);
	assert_gives(cache, "k", "v");
	atomic_fetch_add(&f->clock.now, 1);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void test_config__a_bad_file_opens_no_store(void **state)
{
	struct fixture *f = *state;
	char dir[600], ini[700];
	terrace *store;

	snprintf(dir, sizeof dir, "%s", scratch_path(&f->scratch, "other"));
	assert_int_equal(mkdir(dir, 0700), 0);
	snprintf(ini, sizeof ini, "%s/terrace.ini", dir);
	write_file(ini, "[store]\nsize = 3G\n");
	assert_status(terrace_open(dir, NULL, &store), TERRACE_ECONFIG);
	assert_non_null(strstr(terrace_error_message(), "terrace.ini:2: unknown key \"size\""));
}

/* --- nothing at all --------------------------------------------------------------------------------------- */

static int load_text(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	int *count = ctx;

	(void)key;
	++*count;
	return terrace_loaded_copy(loaded, terrace_str("loaded"));
}

/* Every call works, and nothing is kept. */
static void assert_holds_nothing(terrace_cache *cache)
{
	terrace_item item = { TERRACE_KEY("a"), TERRACE_KEY("b") };
	terrace_slice key = TERRACE_KEY("k"), next;
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_info info = TERRACE_INFO_INIT;
	terrace_why why = TERRACE_WHY_INIT;
	terrace_value *value = NULL, *many[1];
	terrace_keys *keys;
	uint64_t count = 99;
	int64_t number = 0;
	size_t hits = 99;
	int loads = 0;

	assert_ok(put_text(cache, "k", "v"));
	assert_ok(terrace_put_many(cache, &item, 1, NULL));
	assert_ok(terrace_add(cache, key, terrace_str("v"), NULL));
	assert_misses(cache, "k");
	assert_status(terrace_exists(cache, key), TERRACE_MISS);
	assert_status(terrace_touch(cache, key, 1000), TERRACE_MISS);
	assert_status(terrace_delete(cache, key), TERRACE_MISS);
	assert_ok(terrace_get_or(cache, key, terrace_str("default"), &value));
	assert_memory_equal(terrace_data(value), "default", 7);
	terrace_release(value);
	assert_ok(terrace_get_many(cache, &key, 1, many, &hits));
	assert_int_equal(hits, 0);
	assert_null(many[0]);
	assert_ok(terrace_incr(cache, key, 5, 10, &number));
	assert_int_equal(number, 15);
	assert_ok(terrace_delete_many(cache, &key, 1, &count));
	assert_int_equal(count, 0);
	assert_ok(terrace_invalidate(cache, NULL, &count));
	assert_ok(terrace_clear(cache, 0, &count));
	assert_ok(terrace_check_sources(cache, &count));
	assert_int_equal(count, 0);
	assert_ok(terrace_keys_open(cache, NULL, &keys));
	assert_status(terrace_keys_next(keys, &next), TERRACE_MISS);
	terrace_keys_close(keys);
	assert_ok(terrace_cache_stats(cache, &stats));
	assert_int_equal(stats.gets, 0);
	assert_status(terrace_inspect(cache, key, &info), TERRACE_MISS);
	assert_status(terrace_explain(cache, key, &why), TERRACE_MISS);
	for (int i = 0; i < 2; i++) {
		assert_ok(terrace_fetch(cache, key, load_text, &loads, &value));
		assert_memory_equal(terrace_data(value), "loaded", 6);
		terrace_release(value);
	}
	assert_int_equal(loads, 2);
	/* arguments are checked all the same */
	assert_status(put_text(cache, "", "v"), TERRACE_EINVAL);
}

/* What is not there yet is made, and that is no failure to be told of. */
static void test_open__that_succeeds_leaves_the_message_alone(void **state)
{
	struct fixture *f = *state;
	terrace *store;

	for (int i = 0; i < 2; i++) {
		terrace__message_set("%s", i ? "what failed before" : "");
		assert_ok(terrace_open(scratch_path(&f->scratch, i ? "one" : "two"), &f->options,
		                       &store));
		assert_string_equal(terrace_error_message(), i ? "what failed before" : "");
		terrace_close(store);
	}
}

static void test_null__is_a_cache_that_holds_nothing(void **state)
{
	terrace_cache *cache = (void *)1;

	(void)state;
	assert_ok(terrace_cache_open(NULL, "a", NULL, &cache));
	assert_null(cache);
	assert_holds_nothing(NULL);
	assert_ok(terrace_cleanup(NULL, NULL, NULL));
	terrace_cache_close(NULL);
	terrace_close(NULL);
	terrace_release(NULL);
	assert_null(terrace_data(NULL));
	assert_false(terrace_enabled(NULL));
}

static void test_disabled__by_option_environment_file_or_policy(void **state)
{
	struct fixture *f = *state;
	terrace_options options = TERRACE_OPTIONS_INIT;
	terrace_policy policy = TERRACE_POLICY_INIT;
	const char *dir = scratch_path(&f->scratch, "disabled");
	terrace_verify_report report = TERRACE_VERIFY_INIT;
	terrace *store;
	terrace_cache *cache;
	struct stat st;
	char ini[600];

	options.disabled = true;
	assert_ok(terrace_open(dir, &options, &store));
	assert_false(terrace_enabled(store));
	assert_ok(terrace_cache_open(store, "a", NULL, &cache));
	assert_holds_nothing(cache);
	assert_ok(terrace_verify(store, false, NULL, NULL, &report));
	terrace_cache_close(cache);
	terrace_close(store);
	assert_int_not_equal(stat(dir, &st), 0); /* nothing was made */

	setenv("TERRACE_DISABLED", "1", 1);
	assert_ok(terrace_open(dir, NULL, &store));
	unsetenv("TERRACE_DISABLED");
	assert_false(terrace_enabled(store));
	terrace_close(store);

	snprintf(ini, sizeof ini, "%s/terrace.ini", dir_of(f));
	write_file(ini, "[cache off]\ndisabled = yes\n");
	fixture_reopen(f);
	cache = fixture_cache(f, "off", NULL);
	assert_holds_nothing(cache);
	terrace_cache_close(cache);
	policy.disabled = true;
	cache = fixture_cache(f, "on", &policy);
	assert_holds_nothing(cache);
	terrace_cache_close(cache);
}

/* --- the log -------------------------------------------------------------------------------------------- */

static void keep_line(void *ctx, terrace_log_level level, const char *line)
{
	(void)level;
	snprintf(ctx, 500, "%s", line);
}

static void test_log__says_what_no_caller_sees(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	char line[500] = "", command[700];
	terrace_cache *cache;

	terrace_close(f->store);
	f->options.log = keep_line;
	f->options.log_ctx = line;
	assert_ok(terrace_open(dir_of(f), &f->options, &f->store));
	policy.tiers = TERRACE_L3;
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "k", "some value"));
	assert_string_equal(line, "");
	snprintf(command, sizeof command, "for f in %s/v2/files/*/*; do : > $f; done", dir_of(f));
	assert_int_equal(system(command), 0);
	assert_misses(cache, "k");
	assert_non_null(strstr(line, "a: a damaged entry is removed"));
	terrace_cache_close(cache);
}

static void test_fork__the_child_gets_a_clear_error(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	pid_t child;
	int status;

	assert_ok(put_text(cache, "k", "v"));
	child = fork();
	if (child == 0) {
		terrace_value *value;
		terrace *own;
		terrace_cache *own_cache;
		int bad = 0;

		bad |= terrace_get(cache, TERRACE_KEY("k"), &value) != TERRACE_EFORK;
		bad |= !strstr(terrace_error_message(), "fork()");
		bad |= put_text(cache, "k", "w") != TERRACE_EFORK;
		bad |= terrace_cache_open(f->store, "b", NULL, &own_cache) != TERRACE_EFORK;
		bad |= terrace_open(dir_of(f), &f->options, &own) != TERRACE_OK || own == f->store;
		bad |= terrace_cache_open(own, "a", NULL, &own_cache) != TERRACE_OK;
		bad |= terrace_get(own_cache, TERRACE_KEY("k"), &value) != TERRACE_OK;
		bad |= put_text(own_cache, "k", "from the child") != TERRACE_OK;
		_exit(bad);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_gives(cache, "k", "from the child");
	assert_ok(put_text(cache, "k", "w"));
	terrace_cache_close(cache);
}

static void *open_store(void *ctx)
{
	struct fixture *f = ctx;

	return (void *)(intptr_t)terrace_open(dir_of(f), &f->options, &f->store);
}

/* Until this process has opened the file, besides `known`. */
static void wait_until_open(const char *path, int known)
{
	char name[32], is[600];

	for (int fd = 3;; fd = fd < 100 ? fd + 1 : 3) {
		ssize_t size;

		snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
		size = readlink(name, is, sizeof is - 1);
		is[size > 0 ? size : 0] = '\0';
		if (fd != known && strcmp(is, path) == 0)
			return;
		if (fd == 3)
			usleep(1000);
	}
}

/* It has no part in a store that a thread of its parent was just opening. */
static void test_fork__the_child_keeps_no_lock_of_a_store_that_is_being_opened(void **state)
{
	struct fixture *f = *state;
	char path[600];
	pthread_t thread;
	pid_t child;
	int fd, again;
	void *rc;

	terrace_close(f->store);
	f->store = NULL;
	snprintf(path, sizeof path, "%s/v2/lock", dir_of(f));
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(terrace__lock_wait(fd, LOCK_ATTACH, true), 0);
	assert_int_equal(pthread_create(&thread, NULL, open_store, f), 0);
	wait_until_open(path, fd);
	usleep(10000); /* and is about to wait for the lock */
	child = fork();
	if (child == 0) {
		close(fd);
		for (;;)
			pause();
	}
	terrace__unlock(fd, LOCK_ATTACH);
	close(fd);
	pthread_join(thread, &rc);
	terrace_close(f->store);
	f->store = NULL;
	again = terrace_open(dir_of(f), &f->options, &f->store);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_ok((int)(intptr_t)rc);
	assert_ok(again);
}

/* --- another format in the same directory ------------------------------------------------------------ */

/* Names, sizes and bytes of what lies in a directory. */
static uint64_t fingerprint(const struct fixture *f, const char *name)
{
	char command[600], line[65] = "";
	FILE *pipe;

	snprintf(command, sizeof command,
	         "cd '%s' && find . | sort | tar c --no-recursion --mtime=@0 -T - | cksum",
	         scratch_path(&f->scratch, name));
	pipe = popen(command, "r");
	assert_non_null(pipe);
	assert_non_null(fgets(line, sizeof line, pipe));
	assert_int_equal(pclose(pipe), 0);
	return strtoull(line, NULL, 10);
}

static void test_formats__another_versions_directory_is_left_alone(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	char command[600];
	uint64_t before;

	policy.inline_bytes = 1; /* files, too */
	cache = fixture_cache(f, "a", &policy);
	assert_ok(put_text(cache, "k", "a value in a file"));
	/* What a newer Terrace keeps may look like ours, or not at all. */
	snprintf(command, sizeof command, "cd '%s' && cp -a v2 v3 && mkdir v0 && echo x >v0/db-1",
	         dir_of(f));
	assert_int_equal(system(command), 0);
	before = fingerprint(f, "store/v3") ^ fingerprint(f, "store/v0") * 3;
	assert_ok(put_text(cache, "k", "another"));
	assert_ok(put_text(cache, "l", "one more"));
	assert_ok(terrace_clear(cache, 0, NULL));
	assert_ok(terrace_cleanup(f->store, NULL, NULL));
	assert_ok(terrace_verify(f->store, true, NULL, NULL, NULL));
	terrace_cache_close(cache);
	fixture_reopen(f);
	cache = fixture_cache(f, "a", &policy);
	assert_misses(cache, "k");
	assert_true(before == (fingerprint(f, "store/v3") ^ fingerprint(f, "store/v0") * 3));
	terrace_cache_close(cache);
}

int main(void)
{
#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_STORE(test_open__the_same_directory_is_the_same_store),
		WITH_STORE(test_cache__the_same_name_is_the_same_handle),
		WITH_STORE(test_registry__lists_and_resets),
		WITH_STORE(test_reopen__one_after_the_other_keeps_the_log_short),
		WITH_STORE(test_close__leaves_no_long_log_behind_a_large_write),
		WITH_STORE(test_reopen__what_was_stored_survives),
		WITH_STORE(test_reopen__an_older_database_gets_what_it_lacks),
		WITH_STORE(test_cache__bad_names_are_refused),
		WITH_STORE(test_cache__contradictory_policies_are_refused),
		WITH_STORE(test_open__a_link_is_not_followed),
		WITH_STORE(test_open__what_others_may_write_is_refused),
		WITH_STORE(test_open__another_users_is_refused),
		WITH_STORE(test_open__what_cannot_be_made_or_written_is_refused),
		WITH_STORE(test_open__files_are_for_their_owner_alone),
		WITH_STORE(test_config__of_the_directory_is_used_and_shown),
		WITH_STORE(test_config__a_bad_file_opens_no_store),
		WITH_STORE(test_null__is_a_cache_that_holds_nothing),
		WITH_STORE(test_open__that_succeeds_leaves_the_message_alone),
		WITH_STORE(test_disabled__by_option_environment_file_or_policy),
		WITH_STORE(test_log__says_what_no_caller_sees),
		WITH_STORE(test_fork__the_child_gets_a_clear_error),
		WITH_STORE(test_fork__the_child_keeps_no_lock_of_a_store_that_is_being_opened),
		WITH_STORE(test_formats__another_versions_directory_is_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
