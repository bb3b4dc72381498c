#include "core/settings.h"

#include "codec/codec.h"
#include "core/tiers.h"
#include "util/message.h"
#include "util/text.h"
#include "util/util.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum type {
	SIZE,
	COUNT,
	DURATION,
	TIERS,
	CODEC,
	CHECK,
	EVICTION,
	WRITE,
	STRATEGY,
	PERCENT,
	FLAG,
	TEXT,
};

struct field {
	const char *name;
	enum type type;
	const char *fallback;
};

static const struct field store_fields[] = {
#define X(name, type, fallback) { #name, type, fallback },
	STORE_SETTINGS(X)
#undef X
};

static const struct field cache_fields[] = {
#define X(name, type, fallback) { #name, type, fallback },
	CACHE_SETTINGS(X)
#undef X
};

const char *terrace__store_setting_name(size_t setting)
{
	return store_fields[setting].name;
}

const char *terrace__cache_setting_name(size_t setting)
{
	return cache_fields[setting].name;
}

/* --- values -------------------------------------------------------------------- */

static bool parse_tiers(const char *text, int64_t *ret)
{
	int64_t tiers = 0;

	while (*text) {
		size_t length = strcspn(text, "+, ");

		if (length == 2 && strncmp(text, "l1", 2) == 0)
			tiers |= TERRACE_L1;
		else if (length == 2 && strncmp(text, "l2", 2) == 0)
			tiers |= TERRACE_L2;
		else if (length == 2 && strncmp(text, "l3", 2) == 0)
			tiers |= TERRACE_L3;
		else if (length)
			return false;
		text += length;
		text += strspn(text, "+, ");
	}
	*ret = tiers;
	return tiers != 0;
}

static bool parse_flag(const char *text, int64_t *ret)
{
	static const char *const yes[] = { "yes", "true", "on", "1" };
	static const char *const no[] = { "no", "false", "off", "0" };

	for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
		if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
			*ret = strcmp(text, yes[i]) == 0;
			return true;
		}
	}
	return false;
}

static bool parse_count(const char *text, int64_t *ret)
{
	uint64_t count;

	/* A size without a unit is a count. */
	if (!isdigit((unsigned char)text[strlen(text) ? strlen(text) - 1 : 0]) ||
	    strchr(text, '.') || !terrace__text_size(text, &count))
		return false;
	*ret = (int64_t)count;
	return true;
}

static bool parse_check(const char *text, int64_t *ret)
{
	if (strcmp(text, "hit") == 0)
		*ret = 0;
	else if (strcmp(text, "manual") == 0)
		*ret = CHECK_MANUALLY;
	else if (strcmp(text, "watch") == 0)
		*ret = CHECK_WATCHED;
	else
		return terrace__text_duration(text, ret) && *ret > 0;
	return true;
}

static bool parse_write(const char *text, int64_t *ret)
{
	*ret = strcmp(text, "behind") == 0 ? TERRACE_WRITE_BEHIND : TERRACE_WRITE_THROUGH;
	return *ret == TERRACE_WRITE_BEHIND || strcmp(text, "through") == 0;
}

static const char *const strategies[] = {
	[TERRACE_STRATEGY_IMMEDIATE] = "immediate",
	[TERRACE_STRATEGY_STANDARD] = "standard",
	[TERRACE_STRATEGY_PREEMPTIVE] = "preemptive",
	[TERRACE_STRATEGY_BATCH] = "batch",
};

static bool parse_strategy(const char *text, int64_t *ret)
{
	for (size_t i = TERRACE_STRATEGY_IMMEDIATE; i < ARRAY_LEN(strategies); i++) {
		if (strcmp(text, strategies[i]) == 0) {
			*ret = (int64_t)i;
			return true;
		}
	}
	return false;
}

static bool parse(enum type type, const char *text, int64_t *ret)
{
	terrace_codec codec;
	uint64_t bytes;

	*ret = 0;
	switch (type) {
	case SIZE:
		if (!terrace__text_size(text, &bytes))
			return false;
		*ret = (int64_t)bytes;
		return true;
	case COUNT:
		return parse_count(text, ret);
	case DURATION:
		return terrace__text_duration(text, ret);
	case TIERS:
		return parse_tiers(text, ret);
	case CODEC:
		if (!terrace__codec_parse(text, &codec))
			return false;
		*ret = codec;
		return true;
	case CHECK:
		return parse_check(text, ret);
	case EVICTION:
		return terrace__tiers_evictions(text) != NULL;
	case WRITE:
		return parse_write(text, ret);
	case STRATEGY:
		return parse_strategy(text, ret);
	case PERCENT:
		return parse_count(text, ret) && *ret <= 100;
	case FLAG:
		return parse_flag(text, ret);
	case TEXT:
		return true;
	}
	return false;
}

static const char *expected(enum type type)
{
	switch (type) {
	case SIZE:
		return "a size such as 64M or 1.5G";
	case COUNT:
		return "a whole number";
	case DURATION:
		return "a duration such as 90s, 2h or forever";
	case TIERS:
		return "tiers such as l1 or l1+l2+l3";
	case CODEC:
		return "default, none, lz4 or zstd";
	case CHECK:
		return "hit, watch, manual or an interval such as 10s";
	case EVICTION:
		return "hits, bytes or cost";
	case WRITE:
		return "through or behind";
	case STRATEGY:
		return "immediate, standard, preemptive or batch";
	case PERCENT:
		return "a whole number up to 100";
	case FLAG:
		return "yes or no";
	case TEXT:
		break;
	}
	return "text";
}

/* --- the file ---------------------------------------------------------------------- */

struct config_item {
	struct config_item *next;
	const struct field *field;
	char *cache; /* "": every cache; NULL: the store */
	char *value;
	int line;
};

struct config_file {
	char *path;
	struct config_item *items, **end;
	char *problem;                       /* what is wrong with the first bad line */
	char section[TERRACE_NAME_MAX + 16]; /* as the last line of one has it */
	bool no_memory;
};

static const struct field *find_field(const struct field *fields, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++) {
		if (strcmp(fields[i].name, name) == 0)
			return &fields[i];
	}
	return NULL;
}

/* "disk_bytes, disk_entries, …" for people. */
static char *list_fields(const struct field *fields, size_t count)
{
	struct buf text = { 0 };

	for (size_t i = 0; i < count; i++)
		terrace__buf_printf(&text, "%s%s", i ? ", " : "", fields[i].name);
	return (char *)text.data;
}

static int problem(struct config_file *file, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Keep the first; inih goes on and tells us its line in the end. */
static int problem(struct config_file *file, const char *format, ...)
{
	va_list args;

	if (!file->problem) {
		va_start(args, format);
		if (vasprintf(&file->problem, format, args) < 0)
			file->problem = NULL;
		va_end(args);
	}
	return 0;
}

static bool section_fields(const char *section, const struct field **ret, size_t *ret_count,
                           const char **ret_cache)
{
	if (strcmp(section, "store") == 0) {
		*ret = store_fields;
		*ret_count = ARRAY_LEN(store_fields);
		*ret_cache = NULL;
		return true;
	}
	*ret = cache_fields;
	*ret_count = ARRAY_LEN(cache_fields);
	if (strcmp(section, "caches") == 0) {
		*ret_cache = "";
		return true;
	}
	if (strncmp(section, "cache ", 6) == 0 && section[6] && !strchr(section, '/') &&
	    strlen(section + 6) <= TERRACE_NAME_MAX) {
		*ret_cache = section + 6;
		return true;
	}
	return false;
}

static struct config_item *item_new(const struct field *field, const char *cache, const char *value)
{
	struct config_item *item = calloc(1, sizeof *item);

	if (!item)
		return NULL;
	item->field = field;
	item->cache = cache ? strdup(cache) : NULL;
	item->value = strdup(value);
	if (item->value && (!cache || item->cache))
		return item;
	free(item->cache);
	free(item->value);
	free(item);
	return NULL;
}

/* inih cuts names of sections, which would then be of another cache. */
static const char *whole_section(const struct config_file *file, const char *section)
{
	enum { INIH_KEEPS = 49 };

	if (strlen(section) < INIH_KEEPS)
		return section;
	return strncmp(file->section, section, strlen(section)) == 0 ? file->section : "too long";
}

static int on_item(void *ctx, const char *section, const char *name, const char *value)
{
	struct config_file *file = ctx;
	const struct field *fields, *field;
	const char *cache;
	struct config_item *item;
	size_t count;
	int64_t number;

	section = whole_section(file, section);
	if (!section_fields(section, &fields, &count, &cache))
		return problem(file,
		               "unknown section [%s]; there are [store], [caches] and [cache NAME]",
		               section);
	field = find_field(fields, count, name);
	if (!field) {
		char *known = list_fields(fields, count);

		problem(file, "unknown key \"%s\" in [%s]; known are %s", name, section,
		        known ? known : "others");
		free(known);
		return 0;
	}
	if (!parse(field->type, value, &number))
		return problem(file, "\"%s\" is no value for %s in [%s]; it takes %s", value, name,
		               section, expected(field->type));
	item = item_new(field, cache, value);
	if (!item) {
		file->no_memory = true;
		return 0;
	}
	*file->end = item;
	file->end = &item->next;
	return 1;
}

/*
 * inih says the line of a failure alone. To know the line of every item, each
 * is found again by reading line by line what inih has read as a whole.
 */
struct line_reader {
	FILE *stream;
	int line;
	struct config_file *file;
	struct config_item *numbered; /* the last item that has its line */
	int err;                      /* reading failed: what is missing must not be a default */
};

static void number_items(struct line_reader *reader)
{
	struct config_item *item = reader->numbered ? reader->numbered->next : reader->file->items;

	for (; item; item = item->next) {
		item->line = reader->line;
		reader->numbered = item;
	}
}

/* What inih will cut: see whole_section(). */
static void note_section(struct config_file *file, const char *line)
{
	/* A byte order mark may stand before the first. */
	const char *name = line + strspn(line, " \t\xef\xbb\xbf");

	if (*name++ == '[')
		snprintf(file->section, sizeof file->section, "%.*s", (int)strcspn(name, "]\n"),
		         name);
}

static char *read_line(char *text, int size, void *ctx)
{
	struct line_reader *reader = ctx;

	/* What came since the last line was on that line. */
	number_items(reader);
	reader->line++;
	if (!fgets(text, size, reader->stream)) {
		reader->err = ferror(reader->stream) ? errno : 0;
		return NULL;
	}
	if (!strchr(text, '\n') && !feof(reader->stream)) {
		int c;

		while ((c = getc(reader->stream)) != EOF && c != '\n')
			;
		problem(reader->file, "this line is longer than %d bytes", size - 2);
		snprintf(text, (size_t)size, "too long\n"); /* which inih refuses */
	}
	note_section(reader->file, text);
	return text;
}

/* A failure that passes is no mistake in the configuration. */
static int cannot_read(const char *path, int err)
{
	terrace__message_set("cannot read the configuration file %s: %s", path, strerror(err));
	if (err == ENOMEM)
		return TERRACE_ENOMEM;
	return err == EIO || err == EMFILE || err == ENFILE || err == EINTR ? TERRACE_EIO :
	                                                                      TERRACE_ECONFIG;
}

/* Of what inih has read, which stops at the first line that it was told is bad. */
static int check_read(const struct config_file *file, int line, int err)
{
	enum { INIH_NO_MEMORY = -2 };

	if (err)
		return cannot_read(file->path, err);
	if (file->no_memory || line == INIH_NO_MEMORY)
		return no_memory("the configuration");
	if (line == 0)
		return TERRACE_OK;
	terrace__message_set("%s:%d: %s", file->path, line,
	                     file->problem ? file->problem :
	                                     "this is neither [section] nor key = value");
	return TERRACE_ECONFIG;
}

int terrace__config_read(const char *path, struct config_file **ret)
{
	struct config_file *file;
	struct line_reader reader = { 0 };
	int line, rc;

	reader.stream = fopen(path, "re");
	if (!reader.stream)
		return cannot_read(path, errno);
	file = calloc(1, sizeof *file);
	if (!file || !(file->path = strdup(path))) {
		free(file);
		fclose(reader.stream);
		return no_memory("the configuration");
	}
	file->end = &file->items;
	reader.file = file;
	line = ini_parse_stream(read_line, &reader, on_item, file);
	number_items(&reader);
	fclose(reader.stream);
	rc = check_read(file, line, reader.err);
	if (rc != TERRACE_OK) {
		terrace__config_free(file);
		return rc;
	}
	*ret = file;
	return TERRACE_OK;
}

void terrace__config_free(struct config_file *file)
{
	if (!file)
		return;
	while (file->items) {
		struct config_item *item = file->items;

		file->items = item->next;
		free(item->cache);
		free(item->value);
		free(item);
	}
	free(file->path);
	free(file->problem);
	free(file);
}

static const struct config_item *find_item(const struct config_file *file,
                                           const struct field *field, const char *cache)
{
	const struct config_item *found = NULL;

	/* The last one of a name counts. */
	for (const struct config_item *item = file ? file->items : NULL; item; item = item->next) {
		if (item->field == field && (!cache == !item->cache) &&
		    (!cache || strcmp(cache, item->cache) == 0))
			found = item;
	}
	return found;
}

void terrace__config_caches(const struct config_file *file, int (*fn)(void *ctx, const char *cache),
                            void *ctx)
{
	for (const struct config_item *item = file ? file->items : NULL; item; item = item->next) {
		const struct config_item *before = file->items;

		if (!item->cache || !*item->cache)
			continue;
		while (before != item &&
		       !(before->cache && strcmp(before->cache, item->cache) == 0))
			before = before->next;
		if (before == item && fn(ctx, item->cache) != 0)
			return;
	}
}

/* --- putting it together --------------------------------------------------------------- */

static int set(struct setting *setting, int64_t number, const char *text, const char *origin)
{
	setting->number = number;
	setting->text = strdup(text);
	setting->origin = strdup(origin);
	return setting->text && setting->origin ? TERRACE_OK : no_memory("a setting");
}

/* TERRACE_DISK_BYTES, or TERRACE_CACHE_WEEK_DATA_TTL for [cache week_data] ttl. */
static void environment_name(const char *cache, const char *field, char *ret, size_t ret_size)
{
	if (cache)
		snprintf(ret, ret_size, "TERRACE_CACHE_%s_%s", cache, field);
	else
		snprintf(ret, ret_size, "TERRACE_%s", field);
	for (char *c = ret; *c; c++)
		*c = isalnum((unsigned char)*c) ? (char)toupper((unsigned char)*c) : '_';
}

/* From the environment, the file or the default; code has said nothing. */
static int resolve(const struct config_file *file, const struct field *field, const char *cache,
                   struct setting *ret)
{
	char name[TERRACE_NAME_MAX + 64], origin[1024];
	const struct config_item *item;
	const char *value;
	int64_t number;

	environment_name(cache, field->name, name, sizeof name);
	value = getenv(name);
	if (value && *value) {
		if (!parse(field->type, value, &number)) {
			terrace__message_set(
			    "environment %s: \"%s\" is no value for %s; it takes %s", name, value,
			    field->name, expected(field->type));
			return TERRACE_ECONFIG;
		}
		snprintf(origin, sizeof origin, "environment %s", name);
		return set(ret, number, value, origin);
	}
	item = find_item(file, field, cache);
	if (!item && cache)
		item = find_item(file, field, "");
	if (item) {
		parse(field->type, item->value, &number);
		snprintf(origin, sizeof origin, "%s:%d", file->path, item->line);
		return set(ret, number, item->value, origin);
	}
	parse(field->type, field->fallback, &number);
	return set(ret, number, field->fallback, "default");
}

/* What a program asks for by struct: nonzero (or non-NULL) wins over everything. */
static int from_code(const struct field *field, int64_t number, const char *text,
                     struct setting *ret)
{
	char value[128] = "";

	switch (field->type) {
	case SIZE:
		terrace__text_put_size((uint64_t)number, value, sizeof value);
		break;
	case COUNT:
	case PERCENT:
		snprintf(value, sizeof value, "%" PRId64, number);
		break;
	case DURATION:
		terrace__text_put_duration(number, value, sizeof value);
		break;
	case TIERS:
		snprintf(value, sizeof value, "%s%s%s%s%s", number & TERRACE_L1 ? "l1" : "",
		         number & TERRACE_L1 && number & ~TERRACE_L1 ? "+" : "",
		         number & TERRACE_L2 ? "l2" : "",
		         number & TERRACE_L2 && number & TERRACE_L3 ? "+" : "",
		         number & TERRACE_L3 ? "l3" : "");
		break;
	case CODEC:
		snprintf(value, sizeof value, "%s", terrace__codec_name((unsigned)number));
		break;
	case CHECK:
		if (number > 0)
			terrace__text_put_duration(number, value, sizeof value);
		else
			snprintf(value, sizeof value, "%s",
			         number == CHECK_WATCHED  ? "watch" :
			         number == CHECK_MANUALLY ? "manual" :
			                                    "hit");
		break;
	case WRITE:
		snprintf(value, sizeof value, "%s",
		         number == TERRACE_WRITE_BEHIND ? "behind" : "through");
		break;
	case STRATEGY:
		snprintf(value, sizeof value, "%s", strategies[number]);
		break;
	case FLAG:
		snprintf(value, sizeof value, "%s", number ? "yes" : "no");
		break;
	case EVICTION:
	case TEXT:
		return set(ret, 0, text, "code");
	}
	return set(ret, number, value, "code");
}

struct given {
	bool is_given;
	int64_t number;
	const char *text;
};

static int settle(const struct config_file *file, const struct field *fields,
                  const struct given *given, size_t count, const char *cache, struct setting *ret)
{
	memset(ret, 0, count * sizeof *ret);
	for (size_t i = 0; i < count; i++) {
		int rc = given[i].is_given ?
		             from_code(&fields[i], given[i].number, given[i].text, &ret[i]) :
		             resolve(file, &fields[i], cache, &ret[i]);

		if (rc != TERRACE_OK) {
			terrace__settings_free(ret, count);
			return rc;
		}
	}
	return TERRACE_OK;
}

static struct given given_number(int64_t number)
{
	return (struct given){ number != 0, number, NULL };
}

int terrace__settings_store(const struct config_file *file, const terrace_options *code,
                            struct setting ret[STORE_SETTING_COUNT])
{
	struct given given[STORE_SETTING_COUNT] = {
		[STORE_disk_bytes] = given_number((int64_t)code->disk_bytes),
		[STORE_disk_entries] = given_number((int64_t)code->disk_entries),
		[STORE_memory_bytes] = given_number((int64_t)code->memory_bytes),
		[STORE_memory_entries] = given_number((int64_t)code->memory_entries),
		[STORE_encoded_bytes] = given_number((int64_t)code->encoded_bytes),
		[STORE_wait] = given_number(code->wait_ms),
		[STORE_disabled] = given_number(code->disabled),
	};

	return settle(file, store_fields, given, STORE_SETTING_COUNT, NULL, ret);
}

/* The struct's ttl (0: not given, _NONE: nothing) is not the file's (0: nothing). */
static struct given given_ttl(int64_t ttl_ms)
{
	struct given given = given_number(ttl_ms);

	if (ttl_ms == TERRACE_TTL_NONE)
		given.number = 0;
	return given;
}

static struct given given_check(const terrace_policy *code)
{
	switch (code->check) {
	case TERRACE_CHECK_DEFAULT:
		break;
	case TERRACE_CHECK_ON_HIT:
		return (struct given){ true, 0, NULL };
	case TERRACE_CHECK_INTERVAL:
		return (struct given){ true, code->check_interval_ms, NULL };
	case TERRACE_CHECK_MANUAL:
		return (struct given){ true, CHECK_MANUALLY, NULL };
	case TERRACE_CHECK_WATCH:
		return (struct given){ true, CHECK_WATCHED, NULL };
	}
	return (struct given){ false, 0, NULL };
}

int terrace__settings_cache(const struct config_file *file, const char *cache,
                            const terrace_policy *code, struct setting ret[CACHE_SETTING_COUNT])
{
	struct given given[CACHE_SETTING_COUNT] = {
		[CACHE_tiers] = given_number(code->tiers),
		[CACHE_ttl] = given_ttl(code->ttl_ms),
		[CACHE_codec] = given_number(code->codec),
		[CACHE_inline_bytes] = given_number((int64_t)code->inline_bytes),
		[CACHE_memory_bytes] = given_number((int64_t)code->memory_bytes),
		[CACHE_memory_min_bytes] = given_number((int64_t)code->memory_min_bytes),
		[CACHE_memory_entries] = given_number((int64_t)code->memory_entries),
		[CACHE_encoded_bytes] = given_number((int64_t)code->encoded_bytes),
		[CACHE_disk_bytes] = given_number((int64_t)code->disk_bytes),
		[CACHE_disk_entries] = given_number((int64_t)code->disk_entries),
		[CACHE_check] = given_check(code),
		[CACHE_eviction] = { code->eviction != NULL, 0, code->eviction },
		[CACHE_write] = given_number(code->write),
		[CACHE_strategy] = given_number(code->strategy),
		[CACHE_idle] = given_number(code->idle_ms),
		[CACHE_stale] = given_number(code->stale_ms),
		[CACHE_stale_on_error] = given_number(code->stale_on_error_ms),
		[CACHE_absent_ttl] = given_number(code->absent_ttl_ms),
		[CACHE_jitter] = given_number(code->jitter_percent),
		[CACHE_immutable] = given_number(code->immutable),
		[CACHE_disabled] = given_number(code->disabled),
		[CACHE_description] = { code->description != NULL, 0, code->description },
	};

	return settle(file, cache_fields, given, CACHE_SETTING_COUNT, cache, ret);
}

void terrace__settings_free(struct setting *settings, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		free(settings[i].text);
		free(settings[i].origin);
	}
	memset(settings, 0, count * sizeof *settings);
}
