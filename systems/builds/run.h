/*
 * Cached commands: run any command once per state of its inputs, and give back
 * its output, its exit status and its files the next time.
 *
 * On Terrace's public headers alone. Two caches hold what is known: NAME has
 * the results, by the content of everything that went into them; NAME.inputs
 * has, for each command line, which files it was seen to read.
 */
#ifndef BUILDS_RUN_H
#define BUILDS_RUN_H

#include <terrace/terrace.h>

enum {
	RUN_USAGE = 2,          /* called wrongly */
	RUN_CANNOT_START = 125, /* Terrace itself could not start the command */
	RUN_LOST = 125,         /* or write what the command wrote to standard output */
	/* SIGINT ended the command. Who ran us and looks how we end (a shell's loop) wants us
	 * to end by it, too; whoever closes the store does that. */
	RUN_INTERRUPTED = -1,
};

struct run_spec {
	const char *const *command;  /* ends with NULL */
	const char *const *inputs;   /* patterns; ends with NULL */
	const char *const *listings; /* as of terrace_sources_listing(); ends with NULL */
	const char *const *outputs;  /* files; ends with NULL */
	const char *const *env;      /* names; ends with NULL */
	const char *depfile;         /* NULL: none */
	const char *base;            /* NULL: none */
	const char *cache;           /* name */
	bool has_ttl;
	int64_t ttl_ms;
	bool use_stdin;
	bool cache_failures;
	bool explain;
};

/*
 * Run it or replay it; the command's exit status, RUN_CANNOT_START, RUN_LOST or RUN_INTERRUPTED. Messages
 * go to standard error as "terrace: run: …". store may be NULL: the command
 * takes this process's place.
 */
int builds_run(terrace *store, const struct run_spec *spec);

#endif
