/* Verbs on single entries: rm, ls, inspect, why. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>

/* A key on the command line is text; it is in the library that it may be any bytes. */
static int check_key(const struct cli *cli, const char *key)
{
	size_t size = strlen(key);

	if (size > 0 && size <= TERRACE_KEY_MAX)
		return STATUS_DONE;
	return usage(cli, "a key has 1 to %u bytes, not %zu", TERRACE_KEY_MAX, size);
}

int open_both(struct cli *cli, const struct args *args, bool make, terrace **ret_store,
              terrace_cache **ret_cache)
{
	int status = STATUS_DONE;

	for (size_t i = 1; i < args->operand_count && i < cli->verb->least; i++)
		status = check_key(cli, args->operands[i]);
	if (status == STATUS_DONE)
		status = open_store(cli, ret_store);
	if (status != STATUS_DONE)
		return status;
	status = make ? make_cache(*ret_store, args->operands[0], ret_cache) :
	                open_cache(*ret_store, args->operands[0], ret_cache);
	if (status != STATUS_DONE)
		terrace_close(*ret_store);
	return status;
}

void close_both(terrace *store, terrace_cache *cache)
{
	terrace_cache_close(cache);
	terrace_close(store);
}

/* --- rm, ls ----------------------------------------------------------------------------------- */

int verb_rm(struct cli *cli, const struct args *args)
{
	size_t count = args->operand_count - 1;
	terrace_slice *keys = calloc(count, sizeof *keys);
	terrace *store;
	terrace_cache *cache;
	uint64_t deleted = 0;
	int rc, status = STATUS_DONE;

	for (size_t i = 0; i < count && keys && status == STATUS_DONE; i++) {
		keys[i] = terrace_str(args->operands[i + 1]);
		status = check_key(cli, args->operands[i + 1]);
	}
	if (status == STATUS_DONE)
		status = open_both(cli, args, false, &store, &cache);
	if (status != STATUS_DONE) {
		free(keys);
		return status;
	}
	rc = keys ? terrace_delete_many(cache, keys, count, &deleted) : TERRACE_ENOMEM;
	free(keys);
	close_both(store, cache);
	if (rc != TERRACE_OK)
		return failed(rc);
	if (cli->json)
		print_json(json_pack("{s:I}", "deleted", (json_int_t)deleted));
	if (deleted == count)
		return STATUS_DONE;
	if (count == 1)
		complain("cache %s has no entry \"%s\"", args->operands[0], args->operands[1]);
	else
		complain("%zu of %zu entries were not there", count - (size_t)deleted, count);
	return STATUS_MISS;
}

static int list_caches(struct cli *cli)
{
	json_t *list;
	terrace *store;
	struct names names;
	int status = open_store(cli, &store);

	if (status != STATUS_DONE)
		return status;
	cache_names(store, &names);
	terrace_close(store);
	list = cli->json ? json_array() : NULL;
	for (size_t i = 0; i < names.count; i++) {
		if (list)
			json_array_append_new(list, json_text(names.names[i]));
		else
			printf("%s\n", names.names[i]);
	}
	names_done(&names);
	return list ? print_json(list) : STATUS_DONE;
}

static int list_keys(struct cli *cli, terrace_keys *keys)
{
	json_t *list = cli->json ? json_array() : NULL;
	terrace_slice key;
	int rc;

	while ((rc = terrace_keys_next(keys, &key)) == TERRACE_OK) {
		if (list) {
			json_array_append_new(list, json_bytes(key));
		} else {
			fwrite(key.data, 1, key.size, stdout);
			putchar('\n');
		}
	}
	if (rc != TERRACE_MISS) {
		json_decref(list);
		return failed(rc);
	}
	return list ? print_json(list) : STATUS_DONE;
}

int verb_ls(struct cli *cli, const struct args *args)
{
	static const struct {
		const char *option;
		terrace_match_kind kind;
	} kinds[] = { { "prefix", TERRACE_MATCH_PREFIX },
		      { "glob", TERRACE_MATCH_GLOB },
		      { "tag", TERRACE_MATCH_TAG } };
	terrace_match match = { TERRACE_MATCH_ALL, { NULL, 0 } };
	terrace *store;
	terrace_cache *cache;
	terrace_keys *keys;
	int rc, status, chosen = 0;

	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		if (!args_has(args, kinds[i].option))
			continue;
		match = terrace_match_text(kinds[i].kind, args_value(args, kinds[i].option));
		chosen++;
	}
	if (chosen > 1)
		return usage(cli, "give one of --prefix, --glob and --tag");
	if (args->operand_count == 0)
		return chosen ? usage(cli, "name the cache whose keys to list") : list_caches(cli);
	status = open_both(cli, args, false, &store, &cache);
	if (status != STATUS_DONE)
		return status;
	if (!cache && !cli->json)
		complain("there is no cache %s yet; terrace ls lists those that there are",
		         args->operands[0]);
	rc = terrace_keys_open(cache, &match, &keys);
	status = rc == TERRACE_OK ? list_keys(cli, keys) : failed(rc);
	if (rc == TERRACE_OK)
		terrace_keys_close(keys);
	close_both(store, cache);
	return status == STATUS_DONE && !cache ? STATUS_MISS : status;
}

/* --- inspect, why ------------------------------------------------------------------------------- */

static json_t *info_json(const terrace_info *info)
{
	json_t *tags = json_array(), *sources = json_array();

	for (size_t i = 0; i < info->tag_count; i++)
		json_array_append_new(tags, json_bytes(terrace_str(info->tags[i])));
	for (size_t i = 0; i < info->source_count; i++) {
		const terrace_source_info *source = &info->sources[i];

		json_array_append_new(sources,
		                      json_pack("{s:s, s:o, s:b}", "kind",
		                                terrace_source_kind_name(source->kind), "path",
		                                json_bytes(terrace_str(source->path)), "changed",
		                                source->changed));
	}
	return json_pack(
	    "{s:s, s:I, s:I, s:s, s:o, s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:I, s:o, s:o}",
	    "tier", terrace_tier_name(info->tier), "bytes", (json_int_t)info->bytes, "stored_bytes",
	    (json_int_t)info->stored_bytes, "codec", codec_name(info->codec), "created_ms",
	    json_time(info->created_ms), "stored_ms", json_time(info->stored_ms), "accessed_ms",
	    json_time(info->accessed_ms), "access_count", (json_int_t)info->access_count, "age_ms",
	    (json_int_t)info->age_ms, "ttl_ms",
	    info->ttl_ms < 0 ? json_null() : json_integer(info->ttl_ms), "expires_ms",
	    json_time(info->expires_ms), "idle_ms",
	    info->idle_ms ? json_integer(info->idle_ms) : json_null(), "left_ms",
	    info->left_ms < 0 ? json_null() : json_integer(info->left_ms), "cost_us",
	    (json_int_t)info->cost_us, "tags", tags, "sources", sources);
}

static void print_info(const terrace_info *info)
{
	char text[32], other[TERRACE_TEXT_MAX];

	printf("tier:     %s\n", terrace_tier_name(info->tier));
	printf("size:     %s (%" PRIu64 " bytes)\n", terrace_format_size(info->bytes, other),
	       info->bytes);
	if (info->stored_bytes)
		printf("stored:   %s, codec %s\n", terrace_format_size(info->stored_bytes, other),
		       codec_name(info->codec));
	printf("created:  %s (%s ago)\n", time_text(info->created_ms, text),
	       terrace_format_duration(info->age_ms, other));
	printf("accessed: %s\n", time_text(info->accessed_ms, text));
	printf("served:   %" PRIu64 " times\n", info->access_count);
	printf("ttl:      %s", terrace_format_duration(info->ttl_ms, other));
	if (info->left_ms >= 0)
		printf(" (%s left)", terrace_format_duration(info->left_ms, other));
	if (info->idle_ms)
		printf("\nidle:     %s", terrace_format_duration(info->idle_ms, other));
	printf("\ncost:     %s\n", nanoseconds_text(info->cost_us * 1000, text));
	for (size_t i = 0; i < info->tag_count; i++)
		printf("tag:      %s\n", info->tags[i]);
	for (size_t i = 0; i < info->source_count; i++)
		printf("source:   %s %s%s\n", terrace_source_kind_name(info->sources[i].kind),
		       info->sources[i].path, info->sources[i].changed ? " (changed)" : "");
}

int verb_inspect(struct cli *cli, const struct args *args)
{
	terrace_info info = TERRACE_INFO_INIT;
	terrace *store;
	terrace_cache *cache;
	int rc, status = open_both(cli, args, false, &store, &cache);

	if (status != STATUS_DONE)
		return status;
	rc = terrace_inspect(cache, terrace_str(args->operands[1]), &info);
	if (rc == TERRACE_OK && cli->json) {
		json_t *json = info_json(&info);

		json_object_set_new(json, "cache", json_text(args->operands[0]));
		json_object_set_new(json, "key", json_bytes(terrace_str(args->operands[1])));
		status = print_json(json);
	} else if (rc == TERRACE_OK) {
		print_info(&info);
	} else if (rc == TERRACE_MISS) {
		complain("cache %s has no live entry \"%s\"; terrace why says more",
		         args->operands[0], args->operands[1]);
		status = STATUS_MISS;
	} else {
		status = failed(rc);
	}
	terrace_info_free(&info);
	close_both(store, cache);
	return status;
}

static void print_why(const struct args *args, const terrace_why *why)
{
	char text[32];

	if (why->reason == TERRACE_REASON_LIVE) {
		printf("%s is live in cache %s\n", args->operands[1], args->operands[0]);
		print_info(&why->info);
		return;
	}
	printf("%s is not in cache %s: %s", args->operands[1], args->operands[0],
	       terrace_reason_name(why->reason));
	if (why->reason == TERRACE_REASON_NEVER)
		printf(", or gone for more than a day");
	if (*why->detail)
		printf(" (%s)", why->detail);
	if (why->when_ms)
		printf(" at %s", time_text(why->when_ms, text));
	printf("\n");
}

int verb_why(struct cli *cli, const struct args *args)
{
	terrace_why why = TERRACE_WHY_INIT;
	terrace *store;
	terrace_cache *cache;
	int rc, status = open_both(cli, args, false, &store, &cache);

	if (status != STATUS_DONE)
		return status;
	rc = terrace_explain(cache, terrace_str(args->operands[1]), &why);
	if (rc != TERRACE_OK && rc != TERRACE_MISS) {
		close_both(store, cache);
		return failed(rc);
	}
	if (cli->json) {
		bool live = why.reason == TERRACE_REASON_LIVE;

		print_json(json_pack(
		    "{s:o, s:o, s:s, s:o, s:o, s:o}", "cache", json_text(args->operands[0]), "key",
		    json_bytes(terrace_str(args->operands[1])), "reason",
		    terrace_reason_name(why.reason), "detail", json_text(why.detail), "when_ms",
		    json_time(why.when_ms), "entry", live ? info_json(&why.info) : json_null()));
	} else {
		print_why(args, &why);
	}
	terrace_info_free(&why.info);
	close_both(store, cache);
	return rc == TERRACE_OK ? STATUS_DONE : STATUS_MISS;
}
