/* What the environment decides: where a store is, its configuration, its log. */
#include "support/support.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
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

/* --- where a store is, and its settings, when nobody says ----------------------------------------- */

static void assert_dir(const char *expected)
{
	terrace *store;

	assert_ok(terrace_open(NULL, NULL, &store));
	assert_string_equal(terrace_dir(store), expected);
	terrace_close(store);
}

static void test_open__without_a_directory_takes_the_next_that_is_named(void **state)
{
	struct fixture *f = *state;
	char cache[300], expected[400], *long_dir,
	    *home = strdup(getenv("HOME") ? getenv("HOME") : "/");
	terrace *store;

	snprintf(cache, sizeof cache, "%s", scratch_path(&f->scratch, "home"));
	unsetenv("XDG_CACHE_HOME");
	setenv("HOME", cache, 1);
	snprintf(expected, sizeof expected, "%s/.cache/terrace", cache);
	assert_dir(expected);
	setenv("XDG_CACHE_HOME", "relative", 1); /* which the specification says to ignore */
	assert_dir(expected);
	snprintf(cache, sizeof cache, "%s", scratch_path(&f->scratch, "xdg"));
	setenv("XDG_CACHE_HOME", cache, 1);
	snprintf(expected, sizeof expected, "%s/terrace", cache);
	assert_dir(expected);
	setenv("TERRACE_DIR", "", 1); /* as if it were not set */
	assert_dir(expected);
	snprintf(cache, sizeof cache, "%s", scratch_path(&f->scratch, "own"));
	setenv("TERRACE_DIR", cache, 1);
	assert_dir(cache);

	long_dir = malloc(PATH_MAX + 10);
	memset(long_dir, 'x', PATH_MAX + 9);
	long_dir[0] = '/';
	long_dir[PATH_MAX + 9] = '\0';
	setenv("TERRACE_DIR", long_dir, 1);
	assert_status(terrace_open(NULL, NULL, &store), TERRACE_EACCESS);
	assert_status(terrace_open(long_dir, NULL, &store), TERRACE_EACCESS);
	free(long_dir);
	unsetenv("TERRACE_DIR");
	unsetenv("XDG_CACHE_HOME");
	setenv("HOME", "", 1);
	assert_status(terrace_open(NULL, NULL, &store), TERRACE_EACCESS);
	assert_non_null(strstr(terrace_error_message(), "TERRACE_DIR"));
	setenv("HOME", home, 1);
	free(home);
}

/* Value and origin, a hundred bytes apart. */
static int find_wait(void *ctx, const terrace_setting *setting)
{
	char *wait = ctx;

	if (strcmp(setting->name, "wait") != 0)
		return 0;
	snprintf(wait, 100, "%s", setting->value);
	snprintf(wait + 100, 400, "%s", setting->origin);
	return 1;
}

static void assert_wait(const struct fixture *f, const char *expected, const char *origin)
{
	terrace *store;
	char wait[500];

	assert_ok(terrace_open(scratch_path(&f->scratch, "settled"), NULL, &store));
	wait[0] = '\0';
	terrace_config_each(store, find_wait, wait);
	if (strcmp(wait, expected) != 0 || !strstr(wait + 100, origin))
		fail_msg("wait is %s of %s, not %s of %s", wait, wait + 100, expected, origin);
	terrace_close(store);
}

static void test_config__is_looked_for_in_one_place_after_the_other(void **state)
{
	struct fixture *f = *state;
	char xdg[300], home[300], path[400], named[400],
	    *old_home = strdup(getenv("HOME") ? getenv("HOME") : "/");
	terrace *store;

	snprintf(home, sizeof home, "%s", scratch_path(&f->scratch, "h"));
	snprintf(xdg, sizeof xdg, "%s", scratch_path(&f->scratch, "x"));
	setenv("HOME", home, 1);
	unsetenv("XDG_CONFIG_HOME");
	assert_wait(f, "30s", "default");
	assert_int_equal(mkdir(home, 0700), 0);
	snprintf(path, sizeof path, "%s/.config", home);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof path, "%s/.config/terrace", home);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof path, "%s/.config/terrace/terrace.ini", home);
	write_file(path, "[store]\nwait = 1s\n");
	assert_wait(f, "1s", ".config/terrace/terrace.ini:2");
	setenv("XDG_CONFIG_HOME", xdg, 1);
	assert_wait(f, "30s", "default");
	assert_int_equal(mkdir(xdg, 0700), 0);
	snprintf(path, sizeof path, "%s/terrace", xdg);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof path, "%s/terrace/terrace.ini", xdg);
	write_file(path, "[store]\n\nwait = forever\n");
	assert_wait(f, "forever", "x/terrace/terrace.ini:3");
	snprintf(path, sizeof path, "%s/terrace.ini", scratch_path(&f->scratch, "settled"));
	write_file(path, "[store]\nwait = 3s\n");
	assert_wait(f, "3s", "settled/terrace.ini:2");
	snprintf(named, sizeof named, "%s", scratch_path(&f->scratch, "named.ini"));
	setenv("TERRACE_CONFIG", named, 1);
	assert_status(terrace_open(scratch_path(&f->scratch, "settled"), NULL, &store),
	              TERRACE_ECONFIG); /* what is named must be there */
	write_file(named, "[store]\nwait = 4s\n");
	assert_wait(f, "4s", "named.ini:2");
	setenv("TERRACE_CONFIG", "", 1);
	assert_wait(f, "3s", "settled/terrace.ini:2");
	unsetenv("TERRACE_CONFIG");
	setenv("XDG_CONFIG_HOME", "/nonexistent", 1);
	setenv("HOME", old_home, 1);
	free(old_home);
}

static void empty_files(const char *store)
{
	char command[700];

	snprintf(command, sizeof command, "for f in %s/v2/files/*/*; do : > $f; done", store);
	assert_int_equal(system(command), 0);
}

/* What a store with TERRACE_LOG=level says when a file of L3 is damaged. */
static void test_log__of_the_environment_goes_to_standard_error(void **state)
{
	static const struct {
		const char *level, *says;
	} levels[] = { { "warn", "terrace: warning: " }, { "error", NULL }, { "loud", NULL } };
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
		char said[2000] = "", path[300];
		int ends[2], kept = dup(STDERR_FILENO);
		terrace_policy policy = TERRACE_POLICY_INIT;
		terrace_cache *cache;
		terrace *store;

		policy.tiers = TERRACE_L3;
		snprintf(path, sizeof path, "%s", scratch_path(&f->scratch, "quiet"));
		assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
		dup2(ends[1], STDERR_FILENO);
		setenv("TERRACE_LOG", levels[i].level, 1);
		assert_ok(terrace_open(path, NULL, &store));
		unsetenv("TERRACE_LOG");
		assert_ok(terrace_cache_open(store, "a", &policy, &cache));
		assert_ok(put_text(cache, "k", "v"));
		empty_files(path);
		assert_misses(cache, "k");
		terrace_cache_close(cache);
		terrace_close(store);
		dup2(kept, STDERR_FILENO);
		close(kept);
		if (read(ends[0], said, sizeof said - 1) < 0)
			said[0] = '\0';
		close(ends[0]);
		close(ends[1]);
		if (levels[i].says && !strstr(said, levels[i].says))
			fail_msg("at %s it said \"%s\"", levels[i].level, said);
		if (!levels[i].says)
			assert_string_equal(said, "");
	}
}

int main(void)
{
#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_STORE(test_open__without_a_directory_takes_the_next_that_is_named),
		WITH_STORE(test_config__is_looked_for_in_one_place_after_the_other),
		WITH_STORE(test_log__of_the_environment_goes_to_standard_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
