/* What the files of the command have in common. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <terrace/terrace.h>

#include <jansson.h>
#include <stdio.h>

/* Exit status; scripts rely on it. */
enum {
	STATUS_DONE = 0,   /* done, or a hit */
	STATUS_MISS = 1,   /* a miss, absent, or damage found */
	STATUS_USAGE = 2,  /* called wrongly */
	STATUS_FAILED = 3, /* it could not be done */
};

struct option_spec {
	const char *name; /* without the dashes */
	/*
	 * What it takes, for people and for the shell's completion; NULL: nothing.
	 * FILE, DIR, CACHE, KEY, VERB and COMMAND complete; so do "auto|files".
	 */
	const char *value;
	const char *help;
};

struct args {
	const struct option_spec *options; /* of the verb */
	struct given {
		const struct option_spec *option;
		const char *value;
	} few[16], *more; /* more: those beyond, where there are any */
	size_t given_count;
	const char **operands; /* in argv itself: run must start its command without memory */
	size_t operand_count;
};

struct cli {
	const char *dir;    /* NULL: the default */
	const char *config; /* NULL: the default */
	bool json;
	const struct verb *verb;
	char **argv; /* as it was called; NULL: no memory for it */
};

/* One line of the command: its parser, its help and its work come from here. */
struct verb {
	const char *name;
	const char *operands; /* in the same words: "CACHE KEY [FILE]" */
	size_t least, most;   /* operands */
	const char *help;
	const struct option_spec *options; /* ends with a NULL name */
	int (*run)(struct cli *cli, const struct args *args);
	bool options_first; /* what follows the first operand is not ours to read */
};

extern const struct verb verbs[]; /* ends with a NULL name */
extern const struct option_spec global_options[];
const struct verb *find_verb(const char *name);

/* --- args.c ----------------------------------------------------------------------------- */

/* STATUS_DONE, or STATUS_USAGE with a message printed. */
int args_parse(struct cli *cli, int argc, char **argv, struct args *ret);
void args_done(struct args *args);

bool args_has(const struct args *args, const char *name);
/* The last one given; NULL without any. */
const char *args_value(const struct args *args, const char *name);
/* All of them, in order; the caller frees the array. */
size_t args_values(const struct args *args, const char *name, const char ***ret);

/* --- output.c --------------------------------------------------------------------------- */

/* "terrace: …" on standard error. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same with what to look at; returns STATUS_USAGE. */
int usage(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The library's message; the status that its code means. */
int failed(int rc);

/* Prints and frees. */
int print_json(json_t *value);
/* A string of any bytes: as text where it is UTF-8, else {"hex": …}. */
json_t *json_bytes(terrace_slice bytes);
json_t *json_text(const char *text);
/* Add a member under a name of any bytes: where it is not UTF-8, under "hex:…". */
void json_set_named(json_t *object, const char *name, json_t *value);
json_t *json_time(int64_t ms);
/* "2026-11-21 14:03:07", local time. */
const char *time_text(int64_t ms, char text[32]);
/* "lz4" */
const char *codec_name(terrace_codec codec);
/* "350 ns", "1.2 us", "3.4 ms", "5.6 s", "12m" */
const char *nanoseconds_text(uint64_t ns, char text[32]);

/* --- store.c ------------------------------------------------------------------------------ */

/* The store, open; STATUS_DONE or a status with a message printed. */
int open_store(const struct cli *cli, terrace **ret);
/* A cache that exists already; *ret is NULL when it does not. */
int open_cache(terrace *store, const char *name, terrace_cache **ret);
/* The same, made where it does not. */
int make_cache(terrace *store, const char *name, terrace_cache **ret);
/* The names of the store's caches, without Terrace's own; any bytes but '/' and controls. */
struct names {
	char **names;
	size_t count;
};
void cache_names(terrace *store, struct names *ret);
void names_done(struct names *names);

/*
 * Work on one named cache, or on each of the store, until a status is not
 * STATUS_DONE. A cache that was named and does not exist is STATUS_MISS.
 */
int each_cache(terrace *store, const char *only,
               int (*fn)(void *ctx, const char *name, terrace_cache *cache), void *ctx);

/* --- entries.c ---------------------------------------------------------------------------- */

/* Store and cache of "CACHE KEY"; the cache is NULL when it does not exist. */
int open_both(struct cli *cli, const struct args *args, bool make, terrace **ret_store,
              terrace_cache **ret_cache);
void close_both(terrace *store, terrace_cache *cache);

/* --- verbs --------------------------------------------------------------------------------- */

int verb_get(struct cli *cli, const struct args *args);
int verb_put(struct cli *cli, const struct args *args);
int verb_rm(struct cli *cli, const struct args *args);
int verb_ls(struct cli *cli, const struct args *args);
int verb_inspect(struct cli *cli, const struct args *args);
int verb_why(struct cli *cli, const struct args *args);
int verb_stat(struct cli *cli, const struct args *args);
int verb_clear(struct cli *cli, const struct args *args);
int verb_invalidate(struct cli *cli, const struct args *args);
int verb_cleanup(struct cli *cli, const struct args *args);
int verb_verify(struct cli *cli, const struct args *args);
int verb_config(struct cli *cli, const struct args *args);
int verb_repomap(struct cli *cli, const struct args *args);
int verb_run(struct cli *cli, const struct args *args);
int verb_slides(struct cli *cli, const struct args *args);
int verb_top(struct cli *cli, const struct args *args);
int verb_help(struct cli *cli, const struct args *args);
int verb_complete(struct cli *cli, const struct args *args);

#endif
