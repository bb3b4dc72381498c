/* Configuration: by file, environment and code, and where each value came from. */
#include "support/support.h"

#include "core/settings.h"
#include "util/message.h"

#define KB      INT64_C(1024)
#define MB      (1024 * KB)
#define MINUTES INT64_C(60000)

static struct scratch scratch;

static int setup(void **state)
{
	(void)state;
	scratch_make(&scratch);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	scratch_remove(&scratch);
	return 0;
}

static int read_text(const char *text, struct config_file **ret)
{
	const char *path = scratch_path(&scratch, "t.ini");

	write_file(path, text);
	return terrace__config_read(path, ret);
}

static void cache_settings(const struct config_file *file, const char *name,
                           struct setting settings[CACHE_SETTING_COUNT])
{
	terrace_policy none = TERRACE_POLICY_INIT;

	assert_ok(terrace__settings_cache(file, name, &none, settings));
}

static void test_config__the_example_has_the_nine_rules(void **state)
{
	static const struct {
		const char *name;
		unsigned tiers;
		int64_t ttl, memory, disk;
		terrace_codec codec;
	} rules[] = {
		{ "ui_state", TERRACE_L1, 5 * MINUTES, MB, 0, TERRACE_CODEC_DEFAULT },
		{ "user_preferences", TERRACE_L1, 60 * MINUTES, 100 * KB, 0,
		  TERRACE_CODEC_DEFAULT },
		{ "current_week", TERRACE_L1, 30 * MINUTES, 500 * KB, 0, TERRACE_CODEC_DEFAULT },
		{ "week_data", TERRACE_L1 | TERRACE_L2, 120 * MINUTES, 0, 0,
		  TERRACE_CODEC_DEFAULT },
		{ "task_lists", TERRACE_L1 | TERRACE_L2, 60 * MINUTES, 0, 0,
		  TERRACE_CODEC_DEFAULT },
		{ "aggregated_stats", TERRACE_L1 | TERRACE_L2, 30 * MINUTES, 0, 0,
		  TERRACE_CODEC_DEFAULT },
		{ "analytics_results", TERRACE_L1 | TERRACE_L3, 1440 * MINUTES, 0, 100 * MB,
		  TERRACE_CODEC_LZ4 },
		{ "chart_data", TERRACE_L1 | TERRACE_L3, 60 * MINUTES, 0, 50 * MB,
		  TERRACE_CODEC_LZ4 },
		{ "export_data", TERRACE_L1 | TERRACE_L3, 30 * MINUTES, 0, 20 * MB,
		  TERRACE_CODEC_ZSTD },
	};
	struct setting settings[CACHE_SETTING_COUNT];
	struct config_file *file;

	(void)state;
	assert_ok(terrace__config_read(EXAMPLES_DIR "/terrace.ini", &file));
	for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
		cache_settings(file, rules[i].name, settings);
		assert_int_equal(settings[CACHE_tiers].number, rules[i].tiers);
		assert_int_equal(settings[CACHE_ttl].number, rules[i].ttl);
		assert_int_equal(settings[CACHE_memory_bytes].number, rules[i].memory);
		assert_int_equal(settings[CACHE_disk_bytes].number, rules[i].disk);
		assert_int_equal(settings[CACHE_codec].number, rules[i].codec);
		assert_true(strlen(settings[CACHE_description].text) > 10);
		terrace__settings_free(settings, CACHE_SETTING_COUNT);
	}
	terrace__config_free(file);
}

static void test_config__code_wins_over_environment_over_file_over_default(void **state)
{
	terrace_policy code = TERRACE_POLICY_INIT;
	struct setting settings[CACHE_SETTING_COUNT];
	struct config_file *file;
	char origin[256];

	(void)state;
	assert_ok(read_text("[caches]\ncodec = zstd\n\n"
	                    "[cache my-data]\nttl = 1h\ndisk_bytes = 5M\ninline_bytes = 1K\n",
	                    &file));
	setenv("TERRACE_CACHE_MY_DATA_DISK_BYTES", "7M", 1);
	setenv("TERRACE_CACHE_MY_DATA_INLINE_BYTES", "2K", 1);
	code.inline_bytes = 4096;
	assert_ok(terrace__settings_cache(file, "my-data", &code, settings));
	unsetenv("TERRACE_CACHE_MY_DATA_DISK_BYTES");
	unsetenv("TERRACE_CACHE_MY_DATA_INLINE_BYTES");

	assert_int_equal(settings[CACHE_inline_bytes].number, 4096);
	assert_string_equal(settings[CACHE_inline_bytes].origin, "code");
	assert_string_equal(settings[CACHE_inline_bytes].text, "4 KiB");
	assert_int_equal(settings[CACHE_disk_bytes].number, 7 * MB);
	assert_string_equal(settings[CACHE_disk_bytes].origin,
	                    "environment TERRACE_CACHE_MY_DATA_DISK_BYTES");
	assert_int_equal(settings[CACHE_ttl].number, 60 * MINUTES);
	snprintf(origin, sizeof origin, "%s:5", scratch_path(&scratch, "t.ini"));
	assert_string_equal(settings[CACHE_ttl].origin, origin);
	assert_int_equal(settings[CACHE_codec].number, TERRACE_CODEC_ZSTD);
	snprintf(origin, sizeof origin, "%s:2", scratch_path(&scratch, "t.ini"));
	assert_string_equal(settings[CACHE_codec].origin, origin);
	assert_int_equal(settings[CACHE_tiers].number, TERRACE_L1 | TERRACE_L2 | TERRACE_L3);
	assert_string_equal(settings[CACHE_tiers].origin, "default");
	terrace__settings_free(settings, CACHE_SETTING_COUNT);
	terrace__config_free(file);
}

static void test_config__ttl_of_nothing_for_ever_and_unset(void **state)
{
	terrace_policy code = TERRACE_POLICY_INIT;
	struct setting settings[CACHE_SETTING_COUNT];
	struct config_file *file;

	(void)state;
	assert_ok(read_text("[cache a]\nttl = 0\n[cache b]\nttl = forever\n", &file));
	cache_settings(file, "a", settings);
	assert_int_equal(settings[CACHE_ttl].number, 0);
	terrace__settings_free(settings, CACHE_SETTING_COUNT);
	cache_settings(file, "b", settings);
	assert_int_equal(settings[CACHE_ttl].number, TERRACE_TTL_FOREVER);
	terrace__settings_free(settings, CACHE_SETTING_COUNT);
	code.ttl_ms = TERRACE_TTL_NONE;
	assert_ok(terrace__settings_cache(file, "b", &code, settings));
	assert_int_equal(settings[CACHE_ttl].number, 0);
	terrace__settings_free(settings, CACHE_SETTING_COUNT);
	terrace__config_free(file);
}

static void assert_refused(const char *text, int line, const char *says)
{
	struct config_file *file;
	char where[256];

	assert_status(read_text(text, &file), TERRACE_ECONFIG);
	snprintf(where, sizeof where, "%s:%d: ", scratch_path(&scratch, "t.ini"), line);
	if (strncmp(terrace__message(), where, strlen(where)) != 0 ||
	    !strstr(terrace__message(), says))
		fail_msg("\"%s\" does not say \"%s…%s\"", terrace__message(), where, says);
}

static void test_config__a_bad_line_is_named_with_what_would_be_right(void **state)
{
	(void)state;
	assert_refused("[store]\n\ndisk_bites = 1G\n", 3,
	               "unknown key \"disk_bites\" in [store]; known are disk_bytes");
	assert_refused(
	    "[cache x]\nttl = soon\n", 2,
	    "\"soon\" is no value for ttl in [cache x]; it takes a duration such as 90s");
	assert_refused("; a\n[cache x]\nmemory_bytes = 5 apples\n", 3, "a size such as 64M");
	assert_refused("[cache x]\ndisk_entries = 1.5\n", 2, "a whole number");
	assert_refused("[cache x]\ntiers = l4\n", 2, "l1+l2+l3");
	assert_refused("[cache x]\ntiers =\n", 2, "tiers");
	assert_refused("[cache x]\ncodec = gzip\n", 2, "lz4");
	assert_refused("[cache x]\ncheck = often\n", 2, "manual");
	assert_refused("[cache x]\neviction = lru\n", 2, "hits");
	assert_refused("[store]\ndisabled = maybe\n", 2, "yes or no");
	assert_refused("[stores]\ndisk_bytes = 1G\n", 2, "unknown section [stores]");
	assert_refused("[cache a/b]\nttl = 1s\n", 2, "unknown section [cache a/b]");
	assert_refused("[store]\nthis is nothing\n", 2, "neither");
	assert_refused("disk_bytes = 1G\n", 1, "unknown section []");
}

static void test_config__a_long_line_is_refused_and_not_cut(void **state)
{
	char text[2048] = "[cache x]\ndescription = ";
	struct config_file *file;

	(void)state;
	memset(text + strlen(text), 'a', 1000);
	assert_status(read_text(text, &file), TERRACE_ECONFIG);
	assert_non_null(strstr(terrace__message(), ":2: this line is longer than"));
}

static void test_config__a_bad_variable_is_named(void **state)
{
	struct setting settings[STORE_SETTING_COUNT];
	terrace_options code = TERRACE_OPTIONS_INIT;

	(void)state;
	setenv("TERRACE_DISK_BYTES", "lots", 1);
	assert_status(terrace__settings_store(NULL, &code, settings), TERRACE_ECONFIG);
	unsetenv("TERRACE_DISK_BYTES");
	assert_non_null(strstr(terrace__message(), "TERRACE_DISK_BYTES"));
	assert_non_null(strstr(terrace__message(), "a size such as"));
}

static void test_config__a_file_that_is_named_must_be_there(void **state)
{
	struct config_file *file;

	(void)state;
	assert_status(terrace__config_read("/nonexistent/t.ini", &file), TERRACE_ECONFIG);
	assert_non_null(strstr(terrace__message(), "/nonexistent/t.ini"));
	/* it can be opened, and reading fails: that is no empty file */
	assert_status(terrace__config_read("/", &file), TERRACE_ECONFIG);
	assert_status(terrace__config_read("/proc/self/mem", &file), TERRACE_EIO);
	assert_non_null(strstr(terrace__message(), "/proc/self/mem"));
}

/* Every kind of value from code, in the spelling that the file takes. */
static void test_config__values_of_code_read_as_the_file_writes_them(void **state)
{
	struct setting settings[CACHE_SETTING_COUNT], again[CACHE_SETTING_COUNT];
	terrace_policy code = TERRACE_POLICY_INIT;
	struct config_file *file;
	char text[2000] = "[caches]\n";

	(void)state;
	code.tiers = TERRACE_L1 | TERRACE_L3;
	code.ttl_ms = TERRACE_TTL_FOREVER;
	code.codec = TERRACE_CODEC_LZ4;
	code.inline_bytes = 4096;
	code.memory_entries = 77;
	code.check = TERRACE_CHECK_INTERVAL;
	code.check_interval_ms = 90000;
	code.write = TERRACE_WRITE_BEHIND;
	code.jitter_percent = 100;
	code.disabled = true;
	code.eviction = "cost";
	for (int check = 0; check < 3; check++) {
		assert_ok(terrace__settings_cache(NULL, "a", &code, settings));
		for (size_t i = 0; i < CACHE_SETTING_COUNT; i++)
			snprintf(text + strlen(text), sizeof text - strlen(text), "%s = %s\n",
			         terrace__cache_setting_name(i), settings[i].text);
		assert_ok(read_text(text, &file));
		cache_settings(file, "a", again);
		for (size_t i = 0; i < CACHE_SETTING_COUNT; i++) {
			assert_int_equal(again[i].number, settings[i].number);
			assert_string_equal(again[i].text, settings[i].text);
		}
		assert_int_equal(settings[CACHE_tiers].number, TERRACE_L1 | TERRACE_L3);
		assert_int_equal(settings[CACHE_check].number, check == 0 ? 90000 :
		                                               check == 1 ? -1 :
		                                                            0);
		terrace__settings_free(settings, CACHE_SETTING_COUNT);
		terrace__settings_free(again, CACHE_SETTING_COUNT);
		terrace__config_free(file);
		code.check = check == 0 ? TERRACE_CHECK_MANUAL : TERRACE_CHECK_ON_HIT;
		snprintf(text, sizeof text, "[caches]\n");
	}
}

static void test_config__values_at_the_edge(void **state)
{
	(void)state;
	assert_refused("[cache x]\njitter = 101\n", 2, "a whole number up to 100");
	assert_refused("[cache x]\njitter = 5%\n", 2, "a whole number up to 100");
	assert_refused("[cache x]\nmemory_entries = 1K\n", 2, "a whole number");
	assert_refused("[cache x]\nmemory_entries =\n", 2, "a whole number");
	assert_refused("[cache x]\ncheck = 0\n", 2, "an interval");
	assert_refused("[cache x]\nwrite = around\n", 2, "through or behind");
	assert_refused("[cache ]\nttl = 1s\n", 2, "unknown section");
	assert_refused("[cache]\nttl = 1s\n", 2, "unknown section");
	assert_refused("[cache x]\nmemory_entries = 99999999999999999999\n", 2, "a whole number");
	assert_refused("[cache x]\nstrategy = none\n", 2, "preemptive");
}

#define FORTY "1234567890123456789012345678901234567890"

static void test_config__a_long_name_is_whole_or_refused(void **state)
{
	struct setting settings[CACHE_SETTING_COUNT];
	struct config_file *file;

	(void)state;
	assert_ok(read_text("\xef\xbb\xbf[cache " FORTY "1234]\nttl = 4s\n"
	                    "[cache " FORTY "123]\nttl = 1s\n"
	                    "[cache " FORTY "123456789012345678901234] ; the longest\nttl = 2s\n"
	                    "stale = 3s\n",
	                    &file));
	cache_settings(file, FORTY "1234", settings);
	assert_int_equal(settings[CACHE_ttl].number, 4000);
	terrace__settings_free(settings, CACHE_SETTING_COUNT);
	cache_settings(file, FORTY "123", settings);
	assert_int_equal(settings[CACHE_ttl].number, 1000);
	terrace__settings_free(settings, CACHE_SETTING_COUNT);
	cache_settings(file, FORTY "123456789012345678901234", settings);
	assert_int_equal(settings[CACHE_ttl].number, 2000);
	terrace__settings_free(settings, CACHE_SETTING_COUNT);
	terrace__config_free(file);
	/* one byte more than a name may have, and many */
	assert_refused("[cache " FORTY "1234567890123456789012345]\nttl = 1s\n", 2,
	               "unknown section [cache 1234");
	assert_refused("[cache " FORTY FORTY FORTY "]\nttl = 1s\n", 2, "unknown section");
}

static void test_config__spellings_that_are_good(void **state)
{
	struct setting settings[CACHE_SETTING_COUNT];
	struct config_file *file;

	(void)state;
	assert_ok(
	    read_text("[cache x]\ntiers = + l1, l2\ncheck = watch\nstrategy = batch\n", &file));
	/* a variable that is empty says nothing */
	setenv("TERRACE_CACHE_X_STRATEGY", "", 1);
	cache_settings(file, "x", settings);
	unsetenv("TERRACE_CACHE_X_STRATEGY");
	assert_int_equal(settings[CACHE_tiers].number, TERRACE_L1 | TERRACE_L2);
	assert_int_equal(settings[CACHE_check].number, CHECK_WATCHED);
	assert_int_equal(settings[CACHE_strategy].number, TERRACE_STRATEGY_BATCH);
	terrace__settings_free(settings, CACHE_SETTING_COUNT);
	terrace__config_free(file);
}

static int stop_at_two(void *ctx, const char *cache)
{
	char *seen = ctx;

	snprintf(seen + strlen(seen), 20, "%s ", cache);
	return strcmp(cache, "two") == 0;
}

static void test_config__names_each_cache_once_until_told_to_stop(void **state)
{
	struct config_file *file;
	char seen[100] = "";

	(void)state;
	assert_ok(read_text("[store]\nwait = 1s\n[caches]\nttl = 1s\n[cache one]\nttl = 1s\n"
	                    "[cache two]\nttl = 1s\n[cache one]\nstale = 1s\n[cache three]\n"
	                    "ttl = 1s\n",
	                    &file));
	terrace__config_caches(file, stop_at_two, seen);
	assert_string_equal(seen, "one two ");
	terrace__config_free(file);
	terrace__config_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config__the_example_has_the_nine_rules),
		cmocka_unit_test(test_config__code_wins_over_environment_over_file_over_default),
		cmocka_unit_test(test_config__ttl_of_nothing_for_ever_and_unset),
		cmocka_unit_test(test_config__a_bad_line_is_named_with_what_would_be_right),
		cmocka_unit_test(test_config__a_long_line_is_refused_and_not_cut),
		cmocka_unit_test(test_config__a_bad_variable_is_named),
		cmocka_unit_test(test_config__a_file_that_is_named_must_be_there),
		cmocka_unit_test(test_config__values_of_code_read_as_the_file_writes_them),
		cmocka_unit_test(test_config__values_at_the_edge),
		cmocka_unit_test(test_config__a_long_name_is_whole_or_refused),
		cmocka_unit_test(test_config__spellings_that_are_good),
		cmocka_unit_test(test_config__names_each_cache_once_until_told_to_stop),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
