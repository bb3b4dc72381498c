/* The keys of a cached command: what is asked, and what it was made from. */
#include "builds/parts.h"

#include <stdlib.h>

/* Bytes of the command line that a key shows. */
enum { KEY_TEXT_MAX = 100 };
/* Changes with what result.c writes, and with what counts: what is older is not looked for. */
#define FORMAT "2"

/* "gcc -c a.c", cut where it grows long. */
static void command_text(const struct run_spec *spec, char ret[KEY_TEXT_MAX + 1])
{
	size_t at = 0;

	ret[0] = '\0';
	for (size_t i = 0; spec->command[i] && at < KEY_TEXT_MAX; i++)
		at += (size_t)snprintf(ret + at, KEY_TEXT_MAX + 1 - at, "%s%s", i ? " " : "",
		                       spec->command[i]);
	for (char *c = ret; *c; c++) {
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = ' ';
	}
}

/* A list in which order and repetition count. */
static int add_list(terrace_key_builder *key, const char *name, const char *const *items)
{
	size_t size = 0;
	char *text = NULL;
	FILE *out = open_memstream(&text, &size);
	int rc;

	if (!out)
		return TERRACE_ENOMEM;
	for (size_t i = 0; items[i]; i++)
		pack_bytes(out, items[i], strlen(items[i]));
	fclose(out);
	rc = text ? terrace_key_builder_field(key, name, terrace_bytes(text, size)) :
	            TERRACE_ENOMEM;
	free(text);
	return rc;
}

static int add_env(terrace_key_builder *key, const char *const *names)
{
	int rc = TERRACE_OK;

	for (size_t i = 0; names[i] && rc == TERRACE_OK; i++) {
		const char *value = getenv(names[i]);
		char field[PATH_MAX];
		bool again = false;

		for (size_t before = 0; before < i; before++)
			again = again || strcmp(names[before], names[i]) == 0;
		if (again)
			continue;
		/* Unset and empty are different to the command. */
		snprintf(field, sizeof field, "env%s %s", value ? "" : "-unset", names[i]);
		rc = terrace_key_builder_field(key, field, terrace_str(value));
	}
	return rc;
}

/* Paths and patterns by their names: from another checkout they are the same. */
static int add_names(terrace_key_builder *key, const struct run *run, const char *what,
                     const char *const *paths)
{
	int rc = TERRACE_OK;

	for (size_t i = 0; paths[i] && rc == TERRACE_OK; i++) {
		char name[PATH_MAX], field[32];

		if (place_name(&run->place, paths[i], name) < 0)
			return TERRACE_EINVAL;
		snprintf(field, sizeof field, "%s %zu", what, i);
		rc = terrace_key_builder_field(key, field, terrace_str(name));
	}
	return rc;
}

/* What is asked, without the content of anything. */
static int add_command(terrace_key_builder *key, const struct run *run)
{
	const struct run_spec *spec = run->spec;
	const char *const depfile[] = { spec->depfile, NULL };
	char cwd[PATH_MAX];
	int rc;

	if (place_name(&run->place, ".", cwd) < 0)
		return TERRACE_EINVAL;
	rc = add_list(key, "command", spec->command);
	if (rc == TERRACE_OK)
		rc = terrace_key_builder_field(key, "format", terrace_str(FORMAT));
	if (rc == TERRACE_OK)
		rc = terrace_key_builder_field(key, "cwd", terrace_str(cwd));
	if (rc == TERRACE_OK)
		rc = add_names(key, run, "in", spec->inputs);
	if (rc == TERRACE_OK)
		rc = add_names(key, run, "list", spec->listings);
	if (rc == TERRACE_OK)
		rc = add_names(key, run, "out", spec->outputs);
	if (rc == TERRACE_OK)
		rc = add_names(key, run, "depfile", depfile);
	if (rc == TERRACE_OK)
		rc = terrace_key_builder_field(key, "stdin",
		                               terrace_str(spec->use_stdin ? "yes" : "no"));
	return rc;
}

static int add_files(terrace_key_builder *key, const char *field, const struct file_set *set)
{
	size_t size = 0;
	char *text = NULL;
	FILE *out = open_memstream(&text, &size);
	int rc;

	if (!out)
		return TERRACE_ENOMEM;
	for (size_t i = 0; i < set->count; i++) {
		const struct file *file = &set->files[i];

		pack_bytes(out, file->name, strlen(file->name));
		pack_u64(out, file->absent);
		pack_bytes(out, &file->digest, sizeof file->digest);
	}
	fclose(out);
	rc = text ? terrace_key_builder_field(key, field, terrace_bytes(text, size)) :
	            TERRACE_ENOMEM;
	free(text);
	return rc;
}

static int add_state(terrace_key_builder *key, const struct run *run)
{
	terrace_digest input = terrace_digest_bytes(terrace_bytes(run->input, run->input_size));
	int rc = add_command(key, run);

	if (rc == TERRACE_OK)
		rc = add_env(key, run->spec->env);
	if (rc == TERRACE_OK)
		rc = terrace_key_builder_field(
		    key, "program",
		    terrace_bytes(&run->program.digest, sizeof run->program.digest));
	if (rc == TERRACE_OK)
		rc = terrace_key_builder_field(key, "input", terrace_bytes(&input, sizeof input));
	if (rc == TERRACE_OK)
		rc = add_files(key, "inputs", &run->inputs);
	if (rc == TERRACE_OK && run->listings.count)
		rc = add_files(key, "listings", &run->listings);
	return rc;
}

int make_key(const struct run *run, enum key_kind kind, const struct file_set *discovered,
             terrace_slice *ret)
{
	char text[KEY_TEXT_MAX + 1];
	terrace_key_builder *key;
	int rc;

	command_text(run->spec, text);
	rc = terrace_key_builder_new(text, &key);
	if (rc != TERRACE_OK)
		return rc;
	rc = kind == KEY_COMMAND ? add_command(key, run) : add_state(key, run);
	if (rc == TERRACE_OK && kind == KEY_FAILURE)
		rc = terrace_key_builder_field(key, "failed", terrace_str("yes"));
	if (rc == TERRACE_OK && discovered)
		rc = add_files(key, "discovered", discovered);
	if (rc == TERRACE_OK)
		rc = terrace_key_builder_finish(key, ret);
	terrace_key_builder_free(key);
	return rc;
}
