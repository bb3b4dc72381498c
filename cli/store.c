#include "cli.h"

#include <stdlib.h>

int open_store(const struct cli *cli, terrace **ret)
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	int rc;

	options.config_path = cli->config;
	rc = terrace_open(cli->dir, &options, ret);
	return rc == TERRACE_OK ? STATUS_DONE : failed(rc);
}

static int add_name(void *ctx, const char *name)
{
	struct names *names = ctx;
	char **grown;

	if (*name == '.')
		return 0;
	grown = realloc(names->names, (names->count + 1) * sizeof *grown);
	if (!grown)
		return 0;
	names->names = grown;
	grown[names->count] = strdup(name);
	names->count += grown[names->count] != NULL;
	return 0;
}

void cache_names(terrace *store, struct names *ret)
{
	*ret = (struct names){ NULL, 0 };
	terrace_caches_each(store, add_name, ret);
}

void names_done(struct names *names)
{
	for (size_t i = 0; i < names->count; i++)
		free(names->names[i]);
	free(names->names);
}

struct search {
	const char *name;
	bool found;
};

static int compare_name(void *ctx, const char *name)
{
	struct search *search = ctx;

	search->found = strcmp(name, search->name) == 0;
	return search->found;
}

int make_cache(terrace *store, const char *name, terrace_cache **ret)
{
	int rc = terrace_cache_open(store, name, NULL, ret);

	return rc == TERRACE_OK ? STATUS_DONE : failed(rc);
}

int open_cache(terrace *store, const char *name, terrace_cache **ret)
{
	struct search search = { .name = name };

	*ret = NULL;
	terrace_caches_each(store, compare_name, &search);
	/* A name that cannot be is to be complained of, not to be missed. */
	if (!search.found && *name && strlen(name) <= TERRACE_NAME_MAX && !strchr(name, '/') &&
	    *name != '.')
		return STATUS_DONE;
	return make_cache(store, name, ret);
}
