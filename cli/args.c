#include "cli.h"

#include <stdlib.h>

static const struct option_spec *find_in(const struct option_spec *options, const char *name,
                                         size_t size)
{
	for (; options && options->name; options++) {
		if (strlen(options->name) == size && strncmp(options->name, name, size) == 0)
			return options;
	}
	return NULL;
}

enum { FEW = sizeof((struct args *)0)->few / sizeof(struct given) };

static const struct given *given_at(const struct args *args, size_t i)
{
	return i < FEW ? &args->few[i] : &args->more[i - FEW];
}

static int add_given(struct args *args, const struct option_spec *option, const char *value)
{
	struct given *place = args->few, *grown;
	size_t at = args->given_count;

	if (at >= FEW) {
		at -= FEW;
		grown = realloc(args->more, (at + 1) * sizeof *grown);
		if (!grown)
			return failed(terrace_fail(TERRACE_ENOMEM, "out of memory for options"));
		place = args->more = grown;
	}
	place[at] = (struct given){ option, value };
	args->given_count++;
	return STATUS_DONE;
}

/* --name, --name=VALUE or --name VALUE at argv[*at]. */
static int parse_option(struct cli *cli, int argc, char **argv, int *at, struct args *args)
{
	const char *name = argv[*at] + 2;
	size_t size = strcspn(name, "=");
	const char *value = name[size] ? name + size + 1 : NULL;
	const struct option_spec *option = find_in(args->options, name, size);

	if (!option)
		option = find_in(global_options, name, size);
	if (!option)
		return usage(cli, "unknown option --%.*s", (int)size, name);
	if (!option->value && value)
		return usage(cli, "option --%s takes no value", option->name);
	if (option->value && !value) {
		if (*at + 1 >= argc)
			return usage(cli, "option --%s needs a value: --%s %s", option->name,
			             option->name, option->value);
		value = argv[++*at];
	}
	if (strcmp(option->name, "dir") == 0)
		cli->dir = value;
	else if (strcmp(option->name, "config") == 0)
		cli->config = value;
	else if (strcmp(option->name, "json") == 0)
		cli->json = true;
	return add_given(args, option, value);
}

int args_parse(struct cli *cli, int argc, char **argv, struct args *ret)
{
	const struct verb *verb = cli->verb;
	bool options = true;

	*ret = (struct args){ .options = verb ? verb->options : NULL };
	/* Operands move to the front, over what was read already. */
	ret->operands = (const char **)(uintptr_t)argv;
	for (int i = 0; i < argc; i++) {
		int status = STATUS_DONE;

		if (options && strcmp(argv[i], "--") == 0) {
			options = false;
		} else if (options && (strcmp(argv[i], "-h") == 0)) {
			status = add_given(ret, find_in(global_options, "help", 4), NULL);
		} else if (options && strncmp(argv[i], "--", 2) == 0) {
			status = parse_option(cli, argc, argv, &i, ret);
		} else if (options && argv[i][0] == '-' && argv[i][1]) {
			status = usage(cli, "unknown option %s", argv[i]);
		} else {
			ret->operands[ret->operand_count++] = argv[i];
			if (verb && verb->options_first)
				options = false;
		}
		if (status != STATUS_DONE)
			return status;
	}
	if (verb)
		ret->operands[ret->operand_count] = NULL;
	if (!verb || args_has(ret, "help"))
		return STATUS_DONE;
	if (ret->operand_count < verb->least)
		return usage(cli, "missing operand; it is: terrace %s %s", verb->name,
		             verb->operands);
	if (ret->operand_count > verb->most)
		return usage(cli, "one operand too many: \"%s\"", ret->operands[verb->most]);
	return STATUS_DONE;
}

void args_done(struct args *args)
{
	free(args->more);
}

bool args_has(const struct args *args, const char *name)
{
	for (size_t i = 0; i < args->given_count; i++) {
		if (strcmp(given_at(args, i)->option->name, name) == 0)
			return true;
	}
	return false;
}

const char *args_value(const struct args *args, const char *name)
{
	for (size_t i = args->given_count; i-- > 0;) {
		if (strcmp(given_at(args, i)->option->name, name) == 0)
			return given_at(args, i)->value;
	}
	return NULL;
}

size_t args_values(const struct args *args, const char *name, const char ***ret)
{
	const char **values = calloc(args->given_count + 1, sizeof *values);
	size_t count = 0;

	for (size_t i = 0; values && i < args->given_count; i++) {
		if (strcmp(given_at(args, i)->option->name, name) == 0)
			values[count++] = given_at(args, i)->value;
	}
	*ret = values;
	return count;
}
