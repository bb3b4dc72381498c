/*
 * A configuration file, with what it settles for a store and two caches: every
 * number is one that its setting can have, and what is named as its origin is
 * the line that says it. The first line is besides read as a size and as a
 * duration.
 */
#include "fuzz.h"

#include "core/settings.h"
#include "util/text.h"

#define TIB (INT64_C(1) << 40)

/* The line of a number, without its end; empty when there is none. */
static terrace_slice line_of(terrace_slice text, long wanted)
{
	struct input in = { text.data, (const uint8_t *)text.data + text.size };
	terrace_slice line = { 0 };

	for (long i = 0; i < wanted; i++) {
		if (in.at == in.end)
			return (terrace_slice){ 0 };
		line = take_until(&in, '\n');
	}
	return line;
}

static void check_origin(const struct setting *setting, terrace_slice text, const char *path)
{
	size_t length = strlen(path);
	terrace_slice line;

	must(setting->text && setting->origin, "a setting has text and origin");
	if (strcmp(setting->origin, "default") == 0)
		return;
	must(strncmp(setting->origin, path, length) == 0 && setting->origin[length] == ':',
	     "it comes from the file");
	line = line_of(text, atol(setting->origin + length + 1));
	must(memmem(line.data, line.size, setting->text, strlen(setting->text)) != NULL,
	     "it stands on the line that is named");
}

static void check_range(const struct setting *setting, int64_t least, int64_t most)
{
	must(setting->number >= least && setting->number <= most, "a number in its range");
}

static void check_settings(const struct config_file *file, terrace_slice text, const char *path)
{
	static const char *const caches[] = { "tiles", "other" };
	terrace_options options = TERRACE_OPTIONS_INIT;
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct setting store[STORE_SETTING_COUNT], cache[CACHE_SETTING_COUNT];

	must(terrace__settings_store(file, &options, store) == TERRACE_OK, "a store settles");
	for (size_t i = 0; i < STORE_SETTING_COUNT; i++) {
		check_origin(&store[i], text, path);
		check_range(&store[i], i == STORE_wait ? -1 : 0, INT64_MAX);
	}
	check_range(&store[STORE_disabled], 0, 1);
	terrace__settings_free(store, STORE_SETTING_COUNT);
	for (size_t k = 0; k < 2; k++) {
		must(terrace__settings_cache(file, caches[k], &policy, cache) == TERRACE_OK,
		     "a cache settles");
		for (size_t i = 0; i < CACHE_SETTING_COUNT; i++) {
			check_origin(&cache[i], text, path);
			check_range(&cache[i], -1, INT64_MAX);
		}
		check_range(&cache[CACHE_tiers], 1, 7);
		check_range(&cache[CACHE_codec], 0, TERRACE_CODEC_AUTO);
		check_range(&cache[CACHE_jitter], 0, 100);
		check_range(&cache[CACHE_memory_bytes], 0, INT64_MAX);
		check_range(&cache[CACHE_disk_entries], 0, INT64_MAX);
		terrace__settings_free(cache, CACHE_SETTING_COUNT);
	}
}

/* A refusal names the file and a line of it, in one line. */
static void check_message(terrace_slice text, const char *path)
{
	const char *message = terrace_error_message();
	size_t length = strlen(path);
	long line, lines = 1;

	must(strncmp(message, path, length) == 0 && message[length] == ':', "it names the file");
	line = atol(message + length + 1);
	for (size_t i = 0; i < text.size; i++)
		lines += ((const char *)text.data)[i] == '\n';
	must(line >= 1 && line <= lines, "it names a line of the file");
	must(!strchr(message, '\n'), "it is one line");
}

/* Printed and read again, a number stays near, and what is printed stays as it is. */
static void check_numbers(const char *word)
{
	char printed[64], again[64];
	int64_t ms, ms_again;
	uint64_t bytes;

	if (terrace__text_size(word, &bytes)) {
		must(bytes <= INT64_MAX, "a size fits");
		terrace__text_put_size(bytes, printed, sizeof printed);
		/* which the next whole number may be too large for */
		must(terrace__text_size(printed, &bytes) || bytes > INT64_MAX - TIB,
		     "a printed size is one");
	}
	if (!terrace__text_duration(word, &ms))
		return;
	must(ms >= 0 || ms == TEXT_FOREVER, "a duration is not negative");
	terrace__text_put_duration(ms, printed, sizeof printed);
	must(terrace__text_duration(printed, &ms_again), "a printed duration is one");
	must(ms_again == ms || (ms_again < ms && ms_again >= ms / 2),
	     "the two largest units are most of it");
	terrace__text_put_duration(ms_again, again, sizeof again);
	must(strcmp(printed, again) == 0, "it is printed as it was");
}

static int visit(void *ctx, const char *cache)
{
	size_t *count = ctx;

	must(*cache && strlen(cache) <= TERRACE_NAME_MAX && !strchr(cache, '/'), "a name is one");
	++*count;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	terrace_slice text = terrace_bytes(data, size);
	struct config_file *file;
	char path[256], word[64];
	size_t count = 0;

	snprintf(word, sizeof word, "%.*s", (int)(size < 63 ? size : 63), (const char *)data);
	word[strcspn(word, "\n")] = '\0';
	check_numbers(word);
	fuzz_path("terrace.ini", path);
	fuzz_write(path, text);
	if (terrace__config_read(path, &file) != TERRACE_OK) {
		check_message(text, path);
		return 0;
	}
	check_settings(file, text, path);
	terrace__config_caches(file, visit, &count);
	terrace__config_free(file);
	return 0;
}
