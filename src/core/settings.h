/*
 * Settings: what a store and its caches are to do, put together from code,
 * environment, file and defaults, and where each value came from. One table
 * each feeds the parser, the environment, the struct and `terrace config`.
 */
#ifndef CORE_SETTINGS_H
#define CORE_SETTINGS_H

#include <terrace/base.h>
#include <terrace/policy.h>
#include <terrace/store.h>

/* X(name, type, default) */
#define STORE_SETTINGS(X)             \
	X(disk_bytes, SIZE, "2G")     \
	X(disk_entries, COUNT, "0")   \
	X(memory_bytes, SIZE, "64M")  \
	X(memory_entries, COUNT, "0") \
	X(encoded_bytes, SIZE, "0")   \
	X(pressure, FLAG, "yes")      \
	X(wait, DURATION, "30s")      \
	X(disabled, FLAG, "no")

#define CACHE_SETTINGS(X)                 \
	X(tiers, TIERS, "l1+l2+l3")       \
	X(ttl, DURATION, "forever")       \
	X(idle, DURATION, "0")            \
	X(codec, CODEC, "default")        \
	X(inline_bytes, SIZE, "32K")      \
	X(memory_bytes, SIZE, "0")        \
	X(memory_min_bytes, SIZE, "0")    \
	X(memory_entries, COUNT, "0")     \
	X(encoded_bytes, SIZE, "0")       \
	X(disk_bytes, SIZE, "0")          \
	X(disk_entries, COUNT, "0")       \
	X(check, CHECK, "hit")            \
	X(eviction, EVICTION, "hits")     \
	X(write, WRITE, "through")        \
	X(strategy, STRATEGY, "standard") \
	X(stale, DURATION, "0")           \
	X(stale_on_error, DURATION, "0")  \
	X(absent_ttl, DURATION, "0")      \
	X(jitter, PERCENT, "0")           \
	X(immutable, FLAG, "no")          \
	X(disabled, FLAG, "no")           \
	X(description, TEXT, "")

enum store_setting {
#define X(name, type, fallback) STORE_##name,
	STORE_SETTINGS(X)
#undef X
	    STORE_SETTING_COUNT
};

enum cache_setting {
#define X(name, type, fallback) CACHE_##name,
	CACHE_SETTINGS(X)
#undef X
	    CACHE_SETTING_COUNT
};

enum check_number { CHECK_MANUALLY = -1, CHECK_WATCHED = -2 };

/* A value in the form that its type has: bytes, a count, ms, a set of tiers, … */
struct setting {
	int64_t number; /* check: 0 on hit, see enum check_number, else the interval in ms */
	char *text;     /* as it was written, in its usual spelling */
	char *origin;
};

/* What a configuration file says. */
struct config_file;

/* The file's settings, checked; TERRACE_ECONFIG with a message that says what would be right. */
int terrace__config_read(const char *path, struct config_file **ret);
void terrace__config_free(struct config_file *file); /* accepts NULL */

/* Fill all settings; the caller frees them with terrace__settings_free(). */
int terrace__settings_store(const struct config_file *file, const terrace_options *code,
                            struct setting ret[STORE_SETTING_COUNT]);
int terrace__settings_cache(const struct config_file *file, const char *cache,
                            const terrace_policy *code, struct setting ret[CACHE_SETTING_COUNT]);
void terrace__settings_free(struct setting *settings, size_t count);

const char *terrace__store_setting_name(size_t setting);
const char *terrace__cache_setting_name(size_t setting);

/* The names of the caches that the file has a section for; return nonzero to stop. */
void terrace__config_caches(const struct config_file *file, int (*fn)(void *ctx, const char *cache),
                            void *ctx);

#endif
