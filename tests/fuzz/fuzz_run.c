/*
 * The command line of `terrace run`, a word a line, as far as the caching of the
 * command, which is not run: what was understood, written out again in one way,
 * is understood the same. Where the first byte is 'd', the rest is a dependency
 * file; what it lists, written out again, lists the same.
 *
 * The linker gives us the calls that would open a store and run the command.
 */
#include "fuzz.h"

#include "builds/parts.h"
#include "cli/cli.h"

enum { WORDS_MAX = 64, WRITTEN_MAX = 4 * WORDS_MAX };

int __wrap_builds_run(terrace *store, const struct run_spec *spec);
int __wrap_terrace_open(const char *dir, const terrace_options *options, terrace **ret);

/* What reached the two, in a text. */
static char *seen;
static size_t seen_size;
static const char *seen_dir, *seen_config;
static char **words_end; /* behind the last word */

int __wrap_terrace_open(const char *dir, const terrace_options *options, terrace **ret)
{
	(void)ret;
	seen_dir = dir;
	seen_config = options->config_path;
	return TERRACE_EIO;
}

static void show(FILE *out, const char *name, const char *value)
{
	if (value)
		fprintf(out, "--%s\n%s\n", name, value);
}

static void show_list(FILE *out, const char *name, const char *const *list)
{
	for (size_t i = 0; list[i]; i++)
		show(out, name, list[i]);
}

/* As words again, in an order of ours. */
int __wrap_builds_run(terrace *store, const struct run_spec *spec)
{
	FILE *out = open_memstream(&seen, &seen_size);
	size_t length = 0;
	char ttl[32];

	must(out && !store, "memory");
	while (spec->command[length])
		length++;
	must(length > 0, "there is a command");
	/* What stands behind the command's name is the command's, whatever it looks like. */
	for (size_t i = 0; i < length; i++)
		must(spec->command[i] == words_end[(ptrdiff_t)i - (ptrdiff_t)length],
		     "it is what the words end with");
	show_list(out, "in", spec->inputs);
	show_list(out, "out", spec->outputs);
	show_list(out, "env", spec->env);
	show(out, "depfile", spec->depfile);
	show(out, "base", spec->base);
	show(out, "cache", spec->cache);
	show(out, "dir", seen_dir);
	show(out, "config", seen_config);
	if (spec->has_ttl) {
		must(spec->ttl_ms >= 0 || spec->ttl_ms == TERRACE_TTL_FOREVER ||
		         spec->ttl_ms == TERRACE_TTL_NONE,
		     "a time to live is one");
		snprintf(ttl, sizeof ttl, "%lldms", (long long)spec->ttl_ms);
		show(out, "ttl", spec->ttl_ms < 0 ? "forever" : ttl);
	}
	fputs(spec->use_stdin ? "--stdin\n" : "", out);
	fputs(spec->cache_failures ? "--cache-failures\n" : "", out);
	fputs(spec->explain ? "--explain\n" : "", out);
	fputs("--\n", out);
	for (size_t i = 0; spec->command[i]; i++)
		fprintf(out, "%s\n", spec->command[i]);
	fclose(out);
	return STATUS_DONE;
}

/* Is it understood? Then `seen` has how. */
static bool understood(char *text, size_t size, int most)
{
	struct cli cli = { .verb = find_verb("run") };
	/* The parser moves what it was given; as main() has it, a NULL comes last. */
	char *words[WRITTEN_MAX + 1], *given[WRITTEN_MAX];
	struct args args;
	int count = 0, status;

	for (size_t at = 0; at < size && count < most; count++) {
		char *end = memchr(text + at, '\n', size - at);

		words[count] = given[count] = text + at;
		at = end ? (size_t)(end - text) + 1 : size;
		if (end)
			*end = '\0';
	}
	words[count] = NULL;
	words_end = given + count;
	status = args_parse(&cli, count, words, &args);
	must(status == STATUS_DONE || status == STATUS_USAGE, "it is a command or wrong usage");
	if (status == STATUS_DONE && !args_has(&args, "help"))
		status = cli.verb->run(&cli, &args);
	else
		status = STATUS_USAGE;
	must((status == STATUS_DONE) == (seen != NULL), "it runs when it was understood");
	args_done(&args);
	return status == STATUS_DONE;
}

static void check_words(const uint8_t *data, size_t size)
{
	char *text = calloc(1, size + 1), *first, *copy;
	size_t first_size;

	memcpy(text, data, size);
	if (understood(text, size, WORDS_MAX)) {
		first = seen;
		first_size = seen_size;
		seen = NULL;
		copy = strndup(first, first_size);
		must(understood(copy, first_size, WRITTEN_MAX),
		     "what was understood is, written again");
		must(seen_size == first_size && memcmp(seen, first, first_size) == 0,
		     "and the same");
		free(first);
		free(copy);
		free(seen);
		seen = NULL;
	}
	free(text);
}

/* --- dependency files ------------------------------------------------------------------------ */

/* As compilers write a name. */
static void write_name(FILE *out, const char *name)
{
	for (const char *c = name; *c; c++) {
		size_t slashes = strspn(c, "\\");

		if (c[slashes] == ' ' || c[slashes] == '\t' || c[slashes] == '\0') {
			/* twice as many, before a space that belongs to it or ends it */
			for (size_t i = 0; i < slashes; i++)
				fputs("\\\\", out);
			c += slashes;
			if (!*c)
				return;
		}
		if (*c == ' ' || *c == '\t' || *c == '#' || *c == ':')
			fputc('\\', out);
		else if (*c == '$')
			fputc('$', out);
		fputc(*c, out);
	}
}

static void check_depfile(terrace_slice text)
{
	struct place place = { .cwd = "/build", .base = "/build" };
	struct file_set set = { 0 }, again = { 0 };
	char path[256];
	FILE *out;

	fuzz_path("rules.d", path);
	fuzz_write(path, text);
	if (depfile_read(&set, &place, path) < 0) {
		file_set_done(&set);
		return;
	}
	out = fopen(path, "w");
	must(out != NULL, "a depfile can be written");
	fputs("target:", out);
	for (size_t i = 0; i < set.count; i++) {
		const char *name = set.files[i].name;
		char full[PATH_MAX];

		must(i == 0 || strcmp(set.files[i - 1].name, name) < 0, "sorted, each once");
		must(name[0] == '/', "a name is absolute, or below the base");
		must(place_path(&place, name, full) == 0, "it is a path");
		fputs(" \\\n ", out);
		write_name(out, full);
	}
	fputs(" \n", out);
	fclose(out);
	must(depfile_read(&again, &place, path) == 0, "what was written is read");
	must(again.count == set.count, "it lists as many");
	for (size_t i = 0; i < set.count; i++)
		must(strcmp(set.files[i].name, again.files[i].name) == 0, "and the same names");
	file_set_done(&set);
	file_set_done(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size && data[0] == 'd')
		check_depfile(terrace_bytes(data + 1, size - 1));
	else
		check_words(data, size);
	return 0;
}
