/*
 * The verb complete: what could stand in the place of the last word. The
 * shells' scripts ask it, so that completion comes from the tables of the verbs
 * and from the store, and there is one of it.
 *
 * A line each: the word, a tab, what it is. A line that begins with a tab asks
 * the shell for what it knows itself: "files", "dirs" or "command".
 */
#include "cli.h"

#include <stdlib.h>
#include <unistd.h>

enum { KEYS_MOST = 200 };

struct completion {
	struct cli *cli;
	const char *prefix; /* of the word itself */
	const char *front;  /* what stands before it in the word: "--tier=" */
	size_t front_size;
	const char *cache; /* the first operand, where the verb takes a cache */
};

static void offer(const struct completion *c, const char *word, size_t size, const char *what)
{
	size_t prefix = strlen(c->prefix);

	if (size < prefix || strncmp(word, c->prefix, prefix) != 0)
		return;
	/* What would break the lines, or the shell's own, is not offered. */
	for (size_t i = 0; i < size; i++) {
		if ((unsigned char)word[i] < 0x20 || word[i] == 0x7f)
			return;
	}
	printf("%.*s%.*s\t%s\n", (int)c->front_size, c->front, (int)size, word, what);
}

static void offer_options(const struct completion *c, const struct option_spec *options)
{
	char word[64];

	for (; options && options->name; options++) {
		snprintf(word, sizeof word, "--%s", options->name);
		offer(c, word, strlen(word), options->help);
	}
}

static void offer_verbs(const struct completion *c)
{
	for (const struct verb *verb = verbs; verb->name; verb++)
		offer(c, verb->name, strlen(verb->name), verb->help);
}

/* --- from the store ---------------------------------------------------------------------------- */

/* Pressing a key makes no store: whether there is one. */
static bool store_exists(const struct cli *cli)
{
	const char *dir = cli->dir ? cli->dir : getenv("TERRACE_DIR"),
		   *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	char path[4096];

	if (dir)
		snprintf(path, sizeof path, "%s", dir);
	else if (cache && *cache == '/')
		snprintf(path, sizeof path, "%s/terrace", cache);
	else
		snprintf(path, sizeof path, "%s/.cache/terrace", home ? home : "");
	return access(path, F_OK) == 0;
}

static int open_quietly(const struct completion *c, terrace **ret)
{
	terrace_options options = TERRACE_OPTIONS_INIT;

	options.config_path = c->cli->config;
	options.wait_ms = 200; /* somebody waits at the keyboard */
	return store_exists(c->cli) ? terrace_open(c->cli->dir, &options, ret) : TERRACE_MISS;
}

static void offer_caches(const struct completion *c)
{
	struct names names;
	terrace *store;

	if (open_quietly(c, &store) != TERRACE_OK)
		return;
	cache_names(store, &names);
	for (size_t i = 0; i < names.count; i++)
		offer(c, names.names[i], strlen(names.names[i]), "cache");
	names_done(&names);
	terrace_close(store);
}

static void offer_keys_of(const struct completion *c, terrace_cache *cache)
{
	terrace_match match = terrace_match_text(TERRACE_MATCH_PREFIX, c->prefix);
	terrace_keys *keys;
	terrace_slice key;

	if (terrace_keys_open(cache, &match, &keys) != TERRACE_OK)
		return;
	for (int i = 0; i < KEYS_MOST && terrace_keys_next(keys, &key) == TERRACE_OK; i++)
		offer(c, key.data, key.size, "key");
	terrace_keys_close(keys);
}

static void offer_keys(const struct completion *c)
{
	terrace_cache *cache;
	struct names names;
	terrace *store;
	bool found = false;

	if (!c->cache || open_quietly(c, &store) != TERRACE_OK)
		return;
	cache_names(store, &names);
	for (size_t i = 0; i < names.count; i++)
		found = found || strcmp(names.names[i], c->cache) == 0;
	names_done(&names);
	if (found && terrace_cache_open(store, c->cache, NULL, &cache) == TERRACE_OK) {
		offer_keys_of(c, cache);
		terrace_cache_close(cache);
	}
	terrace_close(store);
}

/* --- by what a word of the tables says ------------------------------------------------------------ */

struct kind {
	const char *word;
	const char *shell; /* what the shell completes by itself */
	void (*offer)(const struct completion *c);
};

static const struct kind kinds[] = {
	{ "FILE", "files", NULL },      { "IMAGE", "files", NULL },
	{ "GLOB", "files", NULL },      { "DIR", "dirs", NULL },
	{ "COMMAND", "command", NULL }, { "CACHE", NULL, offer_caches },
	{ "KEY", NULL, offer_keys },    { "VERB", NULL, offer_verbs },
};

/* One of "add|info|tile": a kind, or a word that stands for itself. */
static void offer_one(const struct completion *c, const char *word, size_t size)
{
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		if (strlen(kinds[i].word) != size || strncmp(kinds[i].word, word, size) != 0)
			continue;
		if (kinds[i].offer)
			kinds[i].offer(c);
		else
			printf("\t%s\n", kinds[i].shell);
		return;
	}
	if (*word >= 'a' && *word <= 'z')
		offer(c, word, size, "");
}

static void offer_value(const struct completion *c, const char *value)
{
	static const char marks[] = "[]|. ";

	while (*value && *value != ' ') {
		size_t size;

		value += *value == '.' ? 0 : strspn(value, "[]|");
		size = strcspn(value, marks);
		if (size == 0)
			break;
		offer_one(c, value, size);
		value += size;
	}
}

/* "CACHE KEY [FILE]", "CACHE KEY...": the last one may stand for all that follow. */
static const char *operand_at(const char *operands, size_t index)
{
	for (; index > 0; index--) {
		const char *space = strchr(operands, ' ');

		if (!space)
			return strstr(operands, "...") ? operands : "";
		operands = space + 1;
	}
	return operands;
}

/* --- where the last word stands --------------------------------------------------------------------- */

static const struct option_spec *find_option(const struct verb *verb, const char *word)
{
	const struct option_spec *tables[] = { verb ? verb->options : NULL, global_options };
	size_t size = strcspn(word, "=");

	for (size_t t = 0; t < 2; t++) {
		for (const struct option_spec *o = tables[t]; o && o->name; o++) {
			if (strlen(o->name) == size && strncmp(o->name, word, size) == 0)
				return o;
		}
	}
	return NULL;
}

struct place {
	const struct verb *verb;
	const struct option_spec *waiting; /* for its value */
	size_t operands;
	const char *first;
	bool options_over;
};

static void pass_option(struct completion *c, struct place *place, const char *word,
                        const char *next)
{
	const struct option_spec *option = find_option(place->verb, word + 2);

	if (!option || !option->value || strchr(word, '='))
		return;
	place->waiting = option;
	if (strcmp(option->name, "dir") == 0)
		c->cli->dir = next;
	else if (strcmp(option->name, "config") == 0)
		c->cli->config = next;
}

/* One word before the last; `next` follows it. */
static void pass(struct completion *c, struct place *place, const char *word, const char *next)
{
	if (place->waiting) {
		if (strcmp(word, "=") != 0) /* bash makes three words of --ttl=2h */
			place->waiting = NULL;
	} else if (!place->options_over && strcmp(word, "--") == 0) {
		place->options_over = true;
	} else if (!place->options_over && strncmp(word, "--", 2) == 0) {
		pass_option(c, place, word, next);
	} else if (!place->verb) {
		place->verb = find_verb(word);
		place->options_over = place->verb == NULL; /* nothing is known to follow */
	} else {
		if (place->operands++ == 0)
			place->first = word;
		place->options_over |= place->verb->options_first;
	}
}

static void offer_at(struct completion *c, const struct place *place, const char *word)
{
	const struct option_spec *option = NULL;
	const char *equals = strchr(word, '='), *operands;

	if (!place->options_over && strncmp(word, "--", 2) == 0 && equals)
		option = find_option(place->verb, word + 2);
	c->prefix = option ? equals + 1 : place->waiting && strcmp(word, "=") == 0 ? "" : word;
	c->front = word;
	c->front_size = option ? (size_t)(equals + 1 - word) : 0;
	option = option ? option : place->waiting;
	if (option) {
		offer_value(c, option->value ? option->value : "");
	} else if (!place->options_over && *word == '-') {
		offer_options(c, place->verb ? place->verb->options : NULL);
		offer_options(c, global_options);
	} else if (place->verb) {
		operands = place->verb->operands;
		operands += strncmp(operands, "-- ", 3) == 0 ? 3 : 0;
		offer_value(c, operand_at(operands, place->operands));
	} else if (!place->options_over) {
		offer_verbs(c);
	}
}

int verb_complete(struct cli *cli, const struct args *args)
{
	struct completion c = { .cli = cli };
	struct place place = { 0 };
	size_t count = args->operand_count;

	for (size_t i = 0; i + 1 < count; i++)
		pass(&c, &place, args->operands[i], args->operands[i + 1]);
	if (place.verb && strncmp(place.verb->operands, "CACHE", 5) == 0)
		c.cache = place.first;
	offer_at(&c, &place, count ? args->operands[count - 1] : "");
	return STATUS_DONE;
}
