/* Verbs on caches and the store: clear, invalidate, cleanup, verify, config. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>

int each_cache(terrace *store, const char *only,
               int (*fn)(void *ctx, const char *name, terrace_cache *cache), void *ctx)
{
	struct names names = { NULL, 0 };
	int status = STATUS_DONE;

	if (!only)
		cache_names(store, &names);
	for (size_t i = 0; i < (only ? 1 : names.count) && status == STATUS_DONE; i++) {
		const char *name = only ? only : names.names[i];
		terrace_cache *cache;

		status = open_cache(store, name, &cache);
		if (status == STATUS_DONE && !cache) {
			complain("there is no cache %s; terrace ls lists those that there are",
			         name);
			status = STATUS_MISS;
		}
		if (status != STATUS_DONE)
			break;
		status = fn(ctx, name, cache);
		terrace_cache_close(cache);
	}
	names_done(&names);
	return status;
}

/* How many entries went: a number for scripts, JSON for programs. */
static int print_count(struct cli *cli, const char *what, uint64_t count)
{
	if (cli->json)
		return print_json(json_pack("{s:I}", what, (json_int_t)count));
	printf("%" PRIu64 "\n", count);
	return STATUS_DONE;
}

/* --- clear, cleanup ---------------------------------------------------------------------------- */

struct work {
	uint64_t count;
	unsigned tiers;
	terrace *store;
};

static int clear_one(void *ctx, const char *name, terrace_cache *cache)
{
	struct work *work = ctx;
	uint64_t count = 0;
	int rc = terrace_clear(cache, work->tiers, &count);

	(void)name;
	work->count += count;
	return rc == TERRACE_OK ? STATUS_DONE : failed(rc);
}

static int parse_tiers(struct cli *cli, const struct args *args, unsigned *ret)
{
	const char **names;
	size_t count = args_values(args, "tier", &names);
	int status = STATUS_DONE;

	*ret = 0;
	for (size_t i = 0; i < count && status == STATUS_DONE; i++) {
		if (strcmp(names[i], "l2") == 0)
			*ret |= TERRACE_L2;
		else if (strcmp(names[i], "l3") == 0)
			*ret |= TERRACE_L3;
		else if (strcmp(names[i], "l1") == 0)
			status = usage(cli, "l1 is the memory of each process, which no other can "
			                    "clear alone; leave --tier out to clear everything");
		else
			status = usage(cli, "there is no tier \"%s\" to clear; there are l2 and l3",
			               names[i]);
	}
	free(names);
	return status;
}

int verb_clear(struct cli *cli, const struct args *args)
{
	const char *only = args->operand_count ? args->operands[0] : NULL;
	struct work work = { 0 };
	int status = parse_tiers(cli, args, &work.tiers);

	if (status != STATUS_DONE)
		return status;
	if (!only && !args_has(args, "all"))
		return usage(cli, "name the cache to clear, or say --all for every cache");
	if (only && args_has(args, "all"))
		return usage(cli, "name a cache or say --all, not both");
	status = open_store(cli, &work.store);
	if (status != STATUS_DONE)
		return status;
	status = each_cache(work.store, only, clear_one, &work);
	terrace_close(work.store);
	return status == STATUS_DONE ? print_count(cli, "cleared", work.count) : status;
}

static int cleanup_one(void *ctx, const char *name, terrace_cache *cache)
{
	struct work *work = ctx;
	uint64_t count = 0;
	int rc = terrace_cleanup(work->store, cache, &count);

	(void)name;
	work->count += count;
	return rc == TERRACE_OK ? STATUS_DONE : failed(rc);
}

int verb_cleanup(struct cli *cli, const struct args *args)
{
	struct work work = { 0 };
	int status = open_store(cli, &work.store);

	if (status != STATUS_DONE)
		return status;
	status = each_cache(work.store, args->operand_count ? args->operands[0] : NULL, cleanup_one,
	                    &work);
	terrace_close(work.store);
	return status == STATUS_DONE ? print_count(cli, "removed", work.count) : status;
}

/* --- invalidate ---------------------------------------------------------------------------------- */

/* Which of the verb's options was given; exactly one must be. */
static int parse_match(struct cli *cli, const struct args *args, terrace_match *ret,
                       bool *ret_changed)
{
	static const struct {
		const char *option;
		terrace_match_kind kind;
	} kinds[] = {
		{ "key", TERRACE_MATCH_KEY },       { "glob", TERRACE_MATCH_GLOB },
		{ "prefix", TERRACE_MATCH_PREFIX }, { "tag", TERRACE_MATCH_TAG },
		{ "source", TERRACE_MATCH_SOURCE }, { "all", TERRACE_MATCH_ALL },
	};
	size_t chosen = 0;

	*ret_changed = args_has(args, "changed");
	chosen += *ret_changed;
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		if (!args_has(args, kinds[i].option))
			continue;
		*ret = terrace_match_text(kinds[i].kind, args_value(args, kinds[i].option));
		chosen++;
	}
	if (chosen != 1)
		return usage(cli, "say what to invalidate by one of --key, --glob, --prefix, "
		                  "--tag, --source, --changed and --all");
	return STATUS_DONE;
}

int verb_invalidate(struct cli *cli, const struct args *args)
{
	terrace_match match = { TERRACE_MATCH_ALL, { NULL, 0 } };
	terrace *store;
	terrace_cache *cache;
	uint64_t count = 0;
	bool changed;
	int rc, status = parse_match(cli, args, &match, &changed);

	if (status == STATUS_DONE)
		status = open_store(cli, &store);
	if (status != STATUS_DONE)
		return status;
	status = open_cache(store, args->operands[0], &cache);
	if (status == STATUS_DONE) {
		rc = changed ? terrace_check_sources(cache, &count) :
		               terrace_invalidate(cache, &match, &count);
		status = rc == TERRACE_OK ? print_count(cli, "invalidated", count) : failed(rc);
	}
	terrace_cache_close(cache);
	terrace_close(store);
	return status;
}

/* --- verify ---------------------------------------------------------------------------------------- */

static const char *fault_name(terrace_fault_kind kind)
{
	switch (kind) {
	case TERRACE_FAULT_ENTRY:
		return "damaged";
	case TERRACE_FAULT_NO_FILE:
		return "missing file";
	case TERRACE_FAULT_ORPHAN:
		return "orphan";
	case TERRACE_FAULT_DATABASE:
		return "database";
	}
	return "unknown";
}

static int add_fault(void *ctx, const terrace_fault *fault)
{
	json_t *faults = ctx;

	if (faults) {
		json_array_append_new(
		    faults,
		    json_pack("{s:s, s:o, s:o, s:o, s:b}", "kind", fault_name(fault->kind), "cache",
		              json_text(fault->cache), "key", json_bytes(fault->key), "detail",
		              json_bytes(terrace_str(fault->detail)), "repaired", fault->repaired));
		return 0;
	}
	printf("%s", fault_name(fault->kind));
	if (*fault->cache)
		printf(": cache %s", fault->cache);
	if (fault->key.size) {
		printf(", key ");
		fwrite(fault->key.data, 1, fault->key.size, stdout);
	}
	printf(": %s%s\n", fault->detail, fault->repaired ? " (removed)" : "");
	return 0;
}

int verb_verify(struct cli *cli, const struct args *args)
{
	terrace_verify_report report = TERRACE_VERIFY_INIT;
	terrace_scrub_options scrub = TERRACE_SCRUB_INIT;
	const char *rate = args_value(args, "rate");
	bool repair = args_has(args, "repair");
	json_t *faults;
	uint64_t found;
	terrace *store;
	char text[TERRACE_TEXT_MAX];
	int rc, status;

	if (rate && terrace_parse_size(rate, &scrub.bytes_per_second) != TERRACE_OK)
		return usage(cli, "--rate: %s", terrace_error_message());
	status = open_store(cli, &store);
	if (status != STATUS_DONE)
		return status;
	faults = cli->json ? json_array() : NULL;
	scrub.repair = repair;
	rc = rate ? terrace_scrub(store, &scrub, add_fault, faults, &report, NULL) :
	            terrace_verify(store, repair, add_fault, faults, &report);
	terrace_close(store);
	found = report.damaged + report.missing_files + report.orphans + report.database_errors;
	if (rc != TERRACE_OK && (rc != TERRACE_ECORRUPT || found == 0)) {
		json_decref(faults);
		return failed(rc);
	}
	if (faults)
		print_json(json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "entries",
		                     (json_int_t)report.entries, "bytes", (json_int_t)report.bytes,
		                     "damaged", (json_int_t)report.damaged, "missing_files",
		                     (json_int_t)report.missing_files, "orphans",
		                     (json_int_t)report.orphans, "database_errors",
		                     (json_int_t)report.database_errors, "repaired",
		                     (json_int_t)report.repaired, "faults", faults));
	else
		printf("%" PRIu64 " entries, %s: %" PRIu64 " damaged, %" PRIu64
		       " without their file, %" PRIu64 " orphan files, %" PRIu64
		       " faults of the database%s\n",
		       report.entries, terrace_format_size(report.bytes, text), report.damaged,
		       report.missing_files, report.orphans, report.database_errors,
		       found == 0 ? "" :
		       repair     ? "; repaired" :
		                    "; --repair removes them");
	return found ? STATUS_MISS : STATUS_DONE;
}

/* --- config ------------------------------------------------------------------------------------------ */

struct config_print {
	json_t *json; /* NULL: a table */
	const char *only;
	bool found;
	char section_name[TERRACE_NAME_MAX + 16];
	json_t *section; /* of that name, borrowed */
};

static int print_setting(void *ctx, const terrace_setting *setting)
{
	struct config_print *print = ctx;
	bool of_cache = strncmp(setting->section, "cache ", 6) == 0;
	json_t *section, *value;

	if (print->only && (!of_cache || strcmp(setting->section + 6, print->only) != 0))
		return 0;
	print->found = true;
	if (!print->json) {
		printf("%-24s %-15s %-16s %s\n", setting->section, setting->name, setting->value,
		       setting->origin);
		return 0;
	}
	value = json_pack("{s:o, s:o}", "value", json_text(setting->value), "origin",
	                  json_text(setting->origin));
	/* The settings of a section come one after the other. */
	if (strcmp(print->section_name, setting->section) == 0) {
		json_object_set_new(print->section, setting->name, value);
		return 0;
	}
	section = json_pack("{s:o}", setting->name, value);
	snprintf(print->section_name, sizeof print->section_name, "%s", setting->section);
	print->section = section;
	json_set_named(print->json, setting->section, section);
	return 0;
}

/* Which of the places that may name the directory did. */
static const char *dir_origin(const struct cli *cli)
{
	const char *xdg = getenv("XDG_CACHE_HOME"), *dir = getenv("TERRACE_DIR");

	if (cli->dir)
		return "option --dir";
	if (dir && *dir)
		return "environment TERRACE_DIR";
	return xdg && *xdg == '/' ? "environment XDG_CACHE_HOME" : "default";
}

int verb_config(struct cli *cli, const struct args *args)
{
	struct config_print print = { 0 };
	terrace_cache *cache = NULL;
	terrace *store;
	int status = open_store(cli, &store);

	if (status != STATUS_DONE)
		return status;
	print.json = cli->json ? json_object() : NULL;
	print.only = args->operand_count ? args->operands[0] : NULL;
	/* A cache that the file does not name has settings too; open, it shows them. */
	if (print.only)
		status = open_cache(store, print.only, &cache);
	if (status == STATUS_DONE) {
		if (!cli->json)
			printf("%-24s %-15s %-16s %s\n", "SECTION", "SETTING", "VALUE", "FROM");
		terrace_config_each(store, print_setting, &print);
		if (print.only && !print.found) {
			complain("cache %s is neither configured nor made yet; it would have the "
			         "defaults",
			         print.only);
			status = STATUS_MISS;
		}
	}
	terrace_cache_close(cache);
	if (cli->json && status == STATUS_DONE && !print.only) {
		json_object_set_new(print.json, "dir", json_text(terrace_dir(store)));
		json_object_set_new(print.json, "dir_origin", json_string(dir_origin(cli)));
	} else if (!cli->json && status == STATUS_DONE && !print.only) {
		printf("%-24s %-15s %-16s %s\n", "store", "dir", terrace_dir(store),
		       dir_origin(cli));
	}
	terrace_close(store);
	if (cli->json && status == STATUS_DONE)
		return print_json(print.json);
	json_decref(print.json);
	return status;
}
