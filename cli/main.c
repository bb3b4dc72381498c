/* The command: `terrace [--dir DIR] VERB …`. */
#include "cli.h"

#include <stdlib.h>

const struct option_spec global_options[] = {
	{ "dir", "DIR", "the store's directory; default: TERRACE_DIR, or ~/.cache/terrace" },
	{ "config", "FILE", "the configuration; default: TERRACE_CONFIG, or DIR/terrace.ini" },
	{ "json", NULL, "report as JSON" },
	{ "help", NULL, "say how a verb is called" },
	{ "version", NULL, "say the version" },
	{ NULL, NULL, NULL },
};

static const struct option_spec no_options[] = { { NULL, NULL, NULL } };

static const struct option_spec get_options[] = {
	{ "range", "OFFSET:LENGTH", "only this part; to the end without LENGTH" },
	{ NULL, NULL, NULL },
};

static const struct option_spec put_options[] = {
	{ "ttl", "T", "how long it lives: 90s, 2h, forever; 0 is dead at once" },
	{ "idle", "T", "dies when nobody gets it for so long" },
	{ "tag", "TAG", "a tag, to invalidate by; may be given again" },
	{ "source", "FILE", "dies when this file changes, or comes to be; may be given again" },
	{ "list", "DIR", "dies when the names in DIR, DIR/PATTERN, DIR/**, ... change" },
	{ "env", "NAME", "dies where this variable has another value" },
	{ NULL, NULL, NULL },
};

static const struct option_spec ls_options[] = {
	{ "prefix", "P", "only keys that begin with P" },
	{ "glob", "G", "only keys that match G" },
	{ "tag", "TAG", "only keys with this tag" },
	{ NULL, NULL, NULL },
};

static const struct option_spec invalidate_options[] = {
	{ "key", "KEY", "this key" },
	{ "glob", "G", "keys that match G: * ? [a-z]" },
	{ "prefix", "P", "keys that begin with P" },
	{ "tag", "TAG", "entries with this tag" },
	{ "source", "FILE", "entries that were made from this file" },
	{ "changed", NULL, "entries of which a source has changed" },
	{ "all", NULL, "everything in the cache" },
	{ NULL, NULL, NULL },
};

static const struct option_spec clear_options[] = {
	{ "all", NULL, "every cache of the store" },
	{ "tier", "l2|l3", "only this tier; may be given again" },
	{ NULL, NULL, NULL },
};

static const struct option_spec verify_options[] = {
	{ "repair", NULL, "remove what is damaged" },
	{ "rate", "SIZE", "read so much a second at most: entries alone, beside the store's work" },
	{ NULL, NULL, NULL },
};

static const struct option_spec run_options[] = {
	{ "in", "GLOB", "an input by its content: * ? [a-z] **; may be given again" },
	{ "depfile", "FILE", "inputs that COMMAND writes down there, in make's syntax" },
	{ "out", "FILE", "an output to keep and bring back; may be given again" },
	{ "list", "DIR", "the names in DIR, DIR/PATTERN, DIR/**, ... matter; may be given again" },
	{ "env", "NAME", "a variable that matters; may be given again" },
	{ "base", "DIR", "paths count from here, so that two checkouts share" },
	{ "cache", "CACHE", "the cache; default: run" },
	{ "ttl", "T", "how long a result lives; default: forever with inputs, else 60s" },
	{ "stdin", NULL, "standard input is an input; without this it is empty" },
	{ "cache-failures", NULL, "keep results of a COMMAND that fails too" },
	{ "explain", NULL, "say on standard error why it ran or not" },
	{ NULL, NULL, NULL },
};

static const struct option_spec slides_options[] = {
	{ "jpeg", NULL, "tile: write it as it is stored" },
	{ "rgb", NULL, "tile: write rows of width x 3 bytes" },
	{ "viewport", "V", "view: X,Y,W,H,SCALE,VX,VY" },
	{ "current", "NAME", "preload, serve: the slide to begin with" },
	{ "level", "L", "preload: from this level up to the coarsest; default: all" },
	{ "rate", "N", "preload, serve: at most N tiles a second" },
	{ "port", "N", "serve: on loopback; 0: one that is free; default: 8417" },
	{ "no-preload", NULL, "serve: load nothing ahead" },
	{ NULL, NULL, NULL },
};

#ifdef TERRACE_REPOMAP
static const struct option_spec repomap_options[] = {
	{ "chat", "FILE", "a file in the conversation; may be given again" },
	{ "mention-file", "FILE", "a file that was mentioned; may be given again" },
	{ "mention", "WORD", "an identifier that was mentioned; may be given again" },
	{ "tokens", "N", "the budget; default: 1024, or 8192 without --chat" },
	{ "refresh", "auto|files|manual|always", "when to make it anew; default: auto" },
	{ "tokenizer", "COMMAND", "counts the tokens of its input; default: 4 characters each" },
	{ "batch", "FILE", "many maps: a JSON array of chat, mention_files, mentions, tokens" },
	{ "warm", NULL, "bring the cache up to date, with progress; make no map" },
	{ "threads", "N", "how many parse; default: one for each processor" },
	{ NULL, NULL, NULL },
};
#endif

#ifdef TERRACE_TOP
static const struct option_spec top_options[] = {
	{ "interval", "T", "how often to look; default: 1s" },
	{ NULL, NULL, NULL },
};
#endif

const struct verb verbs[] = {
	{ "get", "CACHE KEY", 2, 2, "write an entry's bytes to standard output", get_options,
	  verb_get, false },
	{ "put", "CACHE KEY [FILE]", 2, 3, "store a file, or standard input", put_options, verb_put,
	  false },
	{ "rm", "CACHE KEY...", 2, SIZE_MAX, "remove entries", no_options, verb_rm, false },
	{ "ls", "[CACHE]", 0, 1, "list the keys of a cache, or the caches", ls_options, verb_ls,
	  false },
	{ "stat", "[CACHE]", 0, 1, "show what each cache and tier has done and holds", no_options,
	  verb_stat, false },
#ifdef TERRACE_TOP
	{ "top", "", 0, 0, "watch the caches, live", top_options, verb_top, false },
#endif
	{ "inspect", "CACHE KEY", 2, 2, "describe an entry", no_options, verb_inspect, false },
	{ "why", "CACHE KEY", 2, 2, "say why an entry is there, or is not", no_options, verb_why,
	  false },
	{ "clear", "[CACHE]", 0, 1, "remove everything from a cache", clear_options, verb_clear,
	  false },
	{ "invalidate", "CACHE", 1, 1, "remove what matches, and print how many",
	  invalidate_options, verb_invalidate, false },
	{ "cleanup", "[CACHE]", 0, 1, "remove what has expired, and keep the limits", no_options,
	  verb_cleanup, false },
	{ "verify", "", 0, 0, "check every checksum, file and row", verify_options, verb_verify,
	  false },
	{ "config", "[CACHE]", 0, 1, "show each setting and where it came from", no_options,
	  verb_config, false },
	{ "run", "-- COMMAND [ARG...]", 1, SIZE_MAX, "run a command once per state of its inputs",
	  run_options, verb_run, true },
	{ "slides", "add|info|tile|view|preload|serve|bench [FILE]...", 1, SIZE_MAX,
	  "whole-slide images: tiles, and a viewer in the browser", slides_options, verb_slides,
	  false },

#ifdef TERRACE_REPOMAP
	{ "repomap", "[DIR|bench] [DIR]", 0, 2, "what matters in a code base, within a budget",
	  repomap_options, verb_repomap, false },
#endif
	{ "help", "[VERB]", 0, 1, "say how a verb is called", no_options, verb_help, false },
	{ "complete", "[WORD]...", 0, SIZE_MAX, "say what the last word could be, for shells",
	  no_options, verb_complete, false },
	{ NULL, NULL, 0, 0, NULL, NULL, NULL, false },
};

const struct verb *find_verb(const char *name)
{
	for (const struct verb *verb = verbs; verb->name; verb++) {
		if (strcmp(verb->name, name) == 0)
			return verb;
	}
	return NULL;
}

static void print_options(const struct option_spec *options)
{
	for (; options->name; options++) {
		char left[64];

		snprintf(left, sizeof left, "--%s%s%s", options->name, options->value ? " " : "",
		         options->value ? options->value : "");
		if (strlen(left) > 20)
			printf("  %s\n", left);
		printf("  %-20s %s\n", strlen(left) > 20 ? "" : left, options->help);
	}
}

static void print_verb(const struct verb *verb)
{
	const bool fits = strlen(verb->operands) <= 21;

	printf("  %-11s %-21s %s%s\n", verb->name, verb->operands,
	       fits ? "" : "\n                                    ", verb->help);
}

static int print_help(const struct verb *verb)
{
	if (verb) {
		printf("terrace %s%s%s%s\n  %s\n", verb->name,
		       verb->options->name ? " [OPTION]..." : "", *verb->operands ? " " : "",
		       verb->operands, verb->help);
		if (verb->options->name)
			printf("\n");
		print_options(verb->options);
	} else {
		printf("terrace [--dir DIR] VERB ...\n"
		       "  a cache in memory, SQLite and files, shared by all processes\n\n");
		for (verb = verbs; verb->name; verb++)
			print_verb(verb);
	}
	printf("\nEverywhere:\n");
	print_options(global_options);
	printf("\nExit status: 0 done or hit, 1 miss, absent or damage found, 2 wrong usage, "
	       "3 failed.\n");
	return STATUS_DONE;
}

int verb_help(struct cli *cli, const struct args *args)
{
	const struct verb *verb = NULL;

	if (args->operand_count) {
		verb = find_verb(args->operands[0]);
		if (!verb)
			return usage(cli, "there is no verb \"%s\"", args->operands[0]);
	}
	return print_help(verb);
}

/* Options before the verb; the index of the verb, or a negative status. */
static int parse_front(struct cli *cli, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		struct args front;
		int status, count = 1;

		if (argv[i][0] != '-')
			return i;
		if (strcmp(argv[i], "--dir") == 0 || strcmp(argv[i], "--config") == 0)
			count = 2;
		if (i + count > argc)
			count = argc - i;
		status = args_parse(cli, count, argv + i, &front);
		if (status == STATUS_DONE && args_has(&front, "help"))
			status = -(10 + print_help(NULL));
		else if (status == STATUS_DONE && args_has(&front, "version"))
			status = printf("terrace %s\n", terrace_version()) > 0 ? -10 :
			                                                         STATUS_FAILED;
		args_done(&front);
		if (status > 0)
			return -status;
		if (status < 0)
			return status;
		i += count - 1;
	}
	return argc;
}

/* A full disk behind standard output is a failure, not a success. */
static int finish(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	complain("cannot write to standard output");
	return STATUS_FAILED;
}

static int act(struct cli *cli, int argc, char **argv)
{
	struct args args;
	int at = parse_front(cli, argc, argv), status;

	if (at <= -10)
		return finish(STATUS_DONE);
	if (at < 0)
		return -at;
	if (at >= argc)
		return usage(cli, "say what to do: get, put, rm, ls, stat, why, run, ...");
	cli->verb = find_verb(argv[at]);
	if (!cli->verb)
		return usage(cli, "there is no verb \"%s\"", argv[at]);
	status = args_parse(cli, argc - at - 1, argv + at + 1, &args);
	if (status == STATUS_DONE && args_has(&args, "help"))
		status = print_help(cli->verb);
	else if (status == STATUS_DONE)
		status = cli->verb->run(cli, &args);
	args_done(&args);
	return finish(status);
}

/* Parsing puts the operands together in their place. NULL: there is no memory. */
static char **copied(int argc, char **argv)
{
	char **copy = calloc((size_t)argc + 1, sizeof *copy);

	if (copy)
		memcpy(copy, argv, (size_t)argc * sizeof *copy);
	return copy;
}

int main(int argc, char **argv)
{
	struct cli cli = { .argv = copied(argc, argv) };
	int status = act(&cli, argc, argv);

	free(cli.argv);
	return status;
}
