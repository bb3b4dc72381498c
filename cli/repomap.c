/* The verb repomap: its options and variables, for systems/repomap. */
#include "cli.h"

#include "repomap/bench.h"
#include "repomap/repomap.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static int parse_number(struct cli *cli, const char *name, const char *text, uint64_t most,
                        uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || *ret > most)
		return usage(cli, "%s: \"%s\" is not a number from 0 to %" PRIu64, name, text,
		             most);
	return STATUS_DONE;
}

static int parse_refresh(struct cli *cli, const struct args *args, struct repomap_spec *ret)
{
	static const char variable[] = "REPO_MAP_CACHE_REFRESH_MODE";
	const char *given = args_value(args, "refresh"), *from = getenv(variable);
	int refresh = REPOMAP_AUTO;

	if (given || (from && *from))
		refresh = repomap_parse_refresh(given ? given : from);
	if (refresh < 0)
		return usage(cli, "%s: \"%s\" is none of auto, files, manual, always",
		             given ? "--refresh" : variable, given ? given : from);
	ret->refresh = (enum repomap_refresh)refresh;
	return STATUS_DONE;
}

static int parse_spec(struct cli *cli, const struct args *args, struct repomap_spec *ret)
{
	const char *threads = args_value(args, "threads");
	uint64_t number = 0;
	int status = parse_refresh(cli, args, ret);

	if (status == STATUS_DONE && threads)
		status = parse_number(cli, "--threads", threads, 64, &number);
	ret->threads = (unsigned)number;
	ret->dir = args->operand_count ? args->operands[0] : ".";
	ret->tokenizer = args_value(args, "tokenizer");
	ret->want_tags = cli->json;
	return status;
}

/* --- the store -------------------------------------------------------------------------------- */

/* A number of the older names of settings; 0 when it is not set. */
static int number_of(struct cli *cli, const char *variable, uint64_t most, uint64_t *ret)
{
	const char *text = getenv(variable);

	*ret = 0;
	return text && *text ? parse_number(cli, variable, text, most, ret) : STATUS_DONE;
}

static int open_map_store(struct cli *cli, terrace **ret)
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	const char *dir = getenv("REPO_MAP_CACHE_DIR");
	uint64_t megabytes, entries;
	int status = number_of(cli, "REPO_MAP_CACHE_SIZE_MB", UINT32_MAX, &megabytes);

	if (status == STATUS_DONE)
		status = number_of(cli, "REPO_MAP_CACHE_L1_SIZE", UINT32_MAX, &entries);
	if (status != STATUS_DONE)
		return status;
	options.config_path = cli->config;
	options.disk_bytes = megabytes << 20;
	options.memory_entries = entries;
	if (cli->dir || !dir || !*dir)
		dir = cli->dir;
	/* What is cached is a help; that it cannot be is no reason to stop. */
	*ret = NULL;
	if (terrace_open(dir, &options, ret) != TERRACE_OK)
		complain("repomap: warning: %s; going on uncached", terrace_error_message());
	return STATUS_DONE;
}

/* --- contexts ----------------------------------------------------------------------------------- */

struct contexts {
	struct repomap_context *list;
	size_t count;
	json_t *json; /* what the list points into */
	const char ***arrays;
	size_t array_count;
};

static void contexts_done(struct contexts *contexts)
{
	for (size_t i = 0; i < contexts->array_count; i++)
		free(contexts->arrays[i]);
	free(contexts->arrays);
	free(contexts->list);
	json_decref(contexts->json);
}

static int one_context(struct cli *cli, const struct args *args, struct contexts *ret)
{
	const char *tokens = args_value(args, "tokens");
	struct repomap_context *context = calloc(1, sizeof *context);
	const char ***arrays = calloc(3, sizeof(char **));

	*ret = (struct contexts){ .list = context, .count = 1, .arrays = arrays };
	if (!context || !arrays)
		return failed(TERRACE_ENOMEM);
	context->chat_count = args_values(args, "chat", &arrays[0]);
	context->mention_file_count = args_values(args, "mention-file", &arrays[1]);
	context->mention_count = args_values(args, "mention", &arrays[2]);
	ret->array_count = 3;
	context->chat = arrays[0];
	context->mention_files = arrays[1];
	context->mentions = arrays[2];
	if (!arrays[0] || !arrays[1] || !arrays[2])
		return failed(TERRACE_ENOMEM);
	context->has_tokens = tokens != NULL;
	return tokens ? parse_number(cli, "--tokens", tokens, UINT32_MAX, &context->tokens) :
	                STATUS_DONE;
}

/* An array of strings by its name; false for what is none. */
static bool read_strings(const json_t *object, const char *name, struct contexts *contexts,
                         const char *const **ret, size_t *ret_count)
{
	json_t *array = json_object_get(object, name), *item;
	const char **strings;
	size_t i;

	if (array && !json_is_array(array))
		return false;
	strings = calloc(json_array_size(array) + 1, sizeof *strings);
	if (!strings)
		return false;
	contexts->arrays[contexts->array_count++] = strings;
	json_array_foreach (array, i, item) {
		if (!json_is_string(item))
			return false;
		strings[i] = json_string_value(item);
	}
	*ret = strings;
	*ret_count = json_array_size(array);
	return true;
}

static int batch_contexts(struct cli *cli, const char *path, struct contexts *ret)
{
	json_error_t error;
	json_t *item;
	size_t i;

	*ret = (struct contexts){ .json = json_load_file(path, 0, &error) };
	if (!ret->json)
		return usage(cli, "--batch %s: line %d: %s", path, error.line, error.text);
	if (!json_is_array(ret->json))
		return usage(cli, "--batch %s: it must be an array of objects", path);
	ret->count = json_array_size(ret->json);
	ret->list = calloc(ret->count + 1, sizeof *ret->list);
	ret->arrays = calloc(3 * ret->count + 1, sizeof(char **));
	if (!ret->list || !ret->arrays)
		return failed(TERRACE_ENOMEM);
	json_array_foreach (ret->json, i, item) {
		struct repomap_context *c = &ret->list[i];
		json_t *tokens = json_object_get(item, "tokens");

		if (!json_is_object(item) ||
		    !read_strings(item, "chat", ret, &c->chat, &c->chat_count) ||
		    !read_strings(item, "mention_files", ret, &c->mention_files,
		                  &c->mention_file_count) ||
		    !read_strings(item, "mentions", ret, &c->mentions, &c->mention_count) ||
		    (tokens && (!json_is_integer(tokens) || json_integer_value(tokens) < 0)))
			return usage(cli,
			             "--batch %s: number %zu is no object with arrays of strings "
			             "chat, mention_files, mentions and a number tokens",
			             path, i + 1);
		c->has_tokens = tokens != NULL;
		c->tokens = tokens ? (uint64_t)json_integer_value(tokens) : 0;
	}
	return STATUS_DONE;
}

static int make_contexts(struct cli *cli, const struct args *args, struct contexts *ret)
{
	const char *batch = args_value(args, "batch");

	if (!batch)
		return one_context(cli, args, ret);
	*ret = (struct contexts){ 0 };
	if (args_has(args, "chat") || args_has(args, "mention") || args_has(args, "mention-file") ||
	    args_has(args, "tokens"))
		return usage(cli, "--batch has the contexts in its file; leave out the others");
	return batch_contexts(cli, batch, ret);
}

/* --- warming ---------------------------------------------------------------------------------------- */

static struct repomap_progress progress;

/* From before anything is begun, so that an interrupt never leaves a half. */
static void on_interrupt(int number)
{
	(void)number;
	atomic_store(&progress.cancel, true);
}

static void watch_interrupts(void)
{
	struct sigaction action = { .sa_handler = on_interrupt };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

struct warming {
	repomap *map;
	int rc;
	char message[512];
	_Atomic bool over;
};

static void *warm_thread(void *arg)
{
	struct warming *warming = arg;

	warming->rc = repomap_scan(warming->map, &progress);
	snprintf(warming->message, sizeof warming->message, "%s", terrace_error_message());
	atomic_store(&warming->over, true);
	return NULL;
}

static void show_progress(struct warming *warming)
{
	bool tty = isatty(2);
	uint64_t done = 0, total;

	while (!atomic_load(&warming->over)) {
		const struct timespec pause = { 0, 50 * 1000 * 1000 };

		nanosleep(&pause, NULL);
		total = atomic_load(&progress.total);
		if (tty && total && done != atomic_load(&progress.done)) {
			done = atomic_load(&progress.done);
			fprintf(stderr, "\r%" PRIu64 " of %" PRIu64 " files", done, total);
		}
	}
	if (tty && done)
		fputc('\n', stderr);
}

/* Bring the cache up to date in the background; an interrupt ends it, and what is done stays. */
static int warm(struct cli *cli, repomap *map)
{
	struct warming warming = { .map = map };
	const struct repomap_counters *counters;
	pthread_t thread;

	if (pthread_create(&thread, NULL, warm_thread, &warming) != 0)
		warm_thread(&warming);
	else {
		show_progress(&warming);
		pthread_join(thread, NULL);
	}
	counters = repomap_counted(map);
	if (warming.rc != TERRACE_OK && warming.rc != TERRACE_MISS) {
		complain("repomap: %s", warming.message);
		return STATUS_FAILED;
	}
	if (cli->json)
		return print_json(json_pack(
			   "{s:b, s:I, s:I, s:I, s:f}", "cancelled", warming.rc == TERRACE_MISS,
			   "total", (json_int_t)progress.total, "done", (json_int_t)progress.done,
			   "parsed", (json_int_t)counters->parsed, "milliseconds",
			   counters->milliseconds)) == STATUS_DONE &&
		               warming.rc == TERRACE_OK ?
		           STATUS_DONE :
		           STATUS_MISS;
	printf("%s%" PRIu64 " of %" PRIu64 " files looked into, %" PRIu64 " parsed, %.0f ms\n",
	       warming.rc == TERRACE_MISS ? "cancelled: " : "", (uint64_t)progress.done,
	       (uint64_t)progress.total, counters->parsed, counters->milliseconds);
	return warming.rc == TERRACE_OK ? STATUS_DONE : STATUS_MISS;
}

/* --- maps ---------------------------------------------------------------------------------------------- */

static int make(struct cli *cli, const struct args *args, repomap *map)
{
	struct contexts contexts;
	int status = make_contexts(cli, args, &contexts), rc = TERRACE_OK;
	struct repomap_map *maps = NULL;

	if (status == STATUS_DONE) {
		maps = calloc(contexts.count + 1, sizeof *maps);
		rc = maps ? repomap_maps(map, contexts.list, contexts.count, maps) : TERRACE_ENOMEM;
	}
	if (status == STATUS_DONE && rc == TERRACE_OK && cli->json)
		rc = repomap_write_json(map, maps, contexts.count, args_has(args, "batch"), stdout);
	for (size_t i = 0; maps && rc == TERRACE_OK && !cli->json && i < contexts.count; i++) {
		if (contexts.list[i].has_tokens && contexts.list[i].tokens == 0)
			complain("repomap: a budget of 0 tokens has no room for a map");
		fwrite(maps[i].text, 1, maps[i].size, stdout);
	}
	if (rc != TERRACE_OK) {
		complain("repomap: %s", terrace_error_message());
		status = STATUS_FAILED;
	}
	for (size_t i = 0; maps && i < contexts.count; i++)
		repomap_map_free(&maps[i]);
	free(maps);
	contexts_done(&contexts);
	return status;
}

int verb_repomap(struct cli *cli, const struct args *args)
{
	struct repomap_spec spec = { 0 };
	terrace *store = NULL;
	repomap *map = NULL;
	int status = parse_spec(cli, args, &spec);

	if (status == STATUS_DONE && args->operand_count && strcmp(args->operands[0], "bench") == 0)
		return repomap_bench(args->operand_count > 1 ? args->operands[1] : NULL, cli->json);
	if (status == STATUS_DONE && args->operand_count > 1)
		return usage(cli, "one directory at a time; \"%s\" is one too many",
		             args->operands[1]);
	if (args_has(args, "warm"))
		watch_interrupts();
	if (status == STATUS_DONE)
		status = open_map_store(cli, &store);
	if (status == STATUS_DONE && repomap_open(store, &spec, &map) != TERRACE_OK) {
		complain("repomap: %s", terrace_error_message());
		status = STATUS_FAILED;
	}
	if (status == STATUS_DONE)
		status = args_has(args, "warm") ? warm(cli, map) : make(cli, args, map);
	repomap_close(map);
	terrace_close(store);
	return status;
}
