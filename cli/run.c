/* The verb run: its options, for systems/builds. */
#include "cli.h"

#include "builds/run.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { NO_MEMORY = -1 };

static int parse(struct cli *cli, const struct args *args, struct run_spec *ret)
{
	const char *ttl = args_value(args, "ttl");
	const char **outputs;
	size_t count;

	ret->command = args->operands;
	args_values(args, "in", (const char ***)(uintptr_t)&ret->inputs);
	args_values(args, "list", (const char ***)(uintptr_t)&ret->listings);
	args_values(args, "env", (const char ***)(uintptr_t)&ret->env);
	count = args_values(args, "out", &outputs);
	ret->outputs = outputs;
	ret->depfile = args_value(args, "depfile");
	ret->base = args_value(args, "base");
	ret->cache = args_value(args, "cache");
	ret->use_stdin = args_has(args, "stdin");
	ret->cache_failures = args_has(args, "cache-failures");
	ret->explain = args_has(args, "explain");
	if (!ret->cache)
		ret->cache = "run";
	if (!ret->inputs || !ret->listings || !ret->env || !outputs)
		return NO_MEMORY;
	if (ttl) {
		ret->has_ttl = true;
		if (terrace_parse_duration(ttl, &ret->ttl_ms) != TERRACE_OK)
			return usage(cli, "--ttl: %s", terrace_error_message());
	}
	for (size_t i = 0; ret->env[i]; i++) {
		if (!*ret->env[i] || strchr(ret->env[i], '='))
			return usage(cli, "--env takes the name of a variable, without '=': \"%s\"",
			             ret->env[i]);
	}
	for (size_t i = 0; i < count; i++) {
		if (!*outputs[i])
			return usage(cli, "--out needs the name of a file");
	}
	return STATUS_DONE;
}

int verb_run(struct cli *cli, const struct args *args)
{
	struct run_spec spec = { 0 };
	terrace_options options = TERRACE_OPTIONS_INIT;
	terrace *store = NULL;
	int status = parse(cli, args, &spec);

	options.config_path = cli->config;
	if (status == NO_MEMORY) {
		complain("run: warning: out of memory; running uncached");
		status = builds_run(NULL, &spec);
	} else if (status == STATUS_DONE) {
		/* What is cached is a help; that it cannot be is no reason to stop. */
		if (terrace_open(cli->dir, &options, &store) != TERRACE_OK)
			complain("run: warning: %s; running uncached", terrace_error_message());
		status = builds_run(store, &spec);
		terrace_close(store);
	}
	free((void *)(uintptr_t)spec.inputs);
	free((void *)(uintptr_t)spec.listings);
	free((void *)(uintptr_t)spec.outputs);
	free((void *)(uintptr_t)spec.env);
	if (status == RUN_INTERRUPTED) {
		signal(SIGINT, SIG_DFL);
		raise(SIGINT);
		status = 128 + SIGINT;
	}
	return status;
}
