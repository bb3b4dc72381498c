/* Why a cached command ran, or did not: what has changed since its last run. */
#include "builds/parts.h"

#include <stdarg.h>
#include <stdlib.h>

void explain(const struct run *run, const char *format, ...)
{
	char text[PATH_MAX + 256];
	va_list args;

	if (!run->spec->explain)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	note("%s", text);
}

/*
 * What a run was made from, by name and digest, so that the next one can say
 * what differs: paths as they are, which begin with '/'; the rest under names that do not.
 */
#define MARK_PROGRAM "program"
#define MARK_INPUT   "input"
#define MARK_ENV     "env/"
#define MARK_LISTING "list/"

static void pack_digest(FILE *out, const char *name, const terrace_digest *digest)
{
	pack_bytes(out, name, strlen(name));
	pack_bytes(out, digest, digest ? sizeof *digest : 0);
}

/* What the mark stands for now: TERRACE_OK, TERRACE_MISS when there is none. */
static int mark_now(const struct run *run, const char *mark, terrace_digest *ret)
{
	char path[PATH_MAX];

	if (strcmp(mark, MARK_PROGRAM) == 0) {
		*ret = run->program.digest;
		return TERRACE_OK;
	}
	if (strcmp(mark, MARK_INPUT) == 0) {
		*ret = terrace_digest_bytes(terrace_bytes(run->input, run->input_size));
		return TERRACE_OK;
	}
	if (strncmp(mark, MARK_ENV, strlen(MARK_ENV)) == 0) {
		const char *value = getenv(mark + strlen(MARK_ENV));

		if (value)
			*ret = terrace_digest_bytes(terrace_str(value));
		return value ? TERRACE_OK : TERRACE_MISS;
	}
	if (strncmp(mark, MARK_LISTING, strlen(MARK_LISTING)) == 0)
		return place_path(&run->place, mark + strlen(MARK_LISTING), path) < 0 ?
		           TERRACE_EINVAL :
		           terrace_listing_digest(path, ret);
	if (place_path(&run->place, mark, path) < 0)
		return TERRACE_EINVAL;
	return terrace_file_digest(run->store, path, ret);
}

static void mark_text(const struct run *run, const char *mark, char *ret, size_t size)
{
	char path[PATH_MAX];

	if (strcmp(mark, MARK_PROGRAM) == 0)
		snprintf(ret, size, "the program %s", run->spec->command[0]);
	else if (strcmp(mark, MARK_INPUT) == 0)
		snprintf(ret, size, "the standard input");
	else if (strncmp(mark, MARK_ENV, strlen(MARK_ENV)) == 0)
		snprintf(ret, size, "the variable %s", mark + strlen(MARK_ENV));
	else if (strncmp(mark, MARK_LISTING, strlen(MARK_LISTING)) == 0)
		snprintf(ret, size, "the listing of %s",
		         place_path(&run->place, mark + strlen(MARK_LISTING), path) < 0 ? mark :
		                                                                          path);
	else
		snprintf(ret, size, "%s", place_path(&run->place, mark, path) < 0 ? mark : path);
}

/* True when it says what has happened to one mark. */
static bool explain_mark(const struct run *run, const char *mark, const terrace_digest *then)
{
	char text[PATH_MAX + 32];
	terrace_digest now;
	const char *what;
	int rc = mark_now(run, mark, &now);

	if (rc == TERRACE_MISS && then)
		what = "is gone";
	else if (rc == TERRACE_OK && !then)
		what = "has appeared";
	else if (rc == TERRACE_OK && memcmp(&now, then, sizeof now) != 0)
		what = "changed";
	else
		return false;
	if (strncmp(mark, MARK_ENV, strlen(MARK_ENV)) == 0)
		what = "changed"; /* nobody speaks of variables that appear */
	mark_text(run, mark, text, sizeof text);
	explain(run, "miss: %s %s", text, what);
	return true;
}

void explain_miss(struct run *run)
{
	terrace_value *last;
	struct unpack in;
	bool said = false;

	if (!run->spec->explain)
		return;
	if (terrace_exists(run->known, run->command_key) != TERRACE_OK ||
	    terrace_get(run->known, run->command_key, &last) != TERRACE_OK) {
		explain(run, "miss: this command has not been run before");
		return;
	}
	in = unpack_value(last);
	while (unpack_more(&in)) {
		char mark[PATH_MAX];
		terrace_digest then;
		uint64_t size;

		unpack_path(&in, mark);
		size = unpack_u64(&in);
		if (in.failed || (size && size != sizeof then) ||
		    (size && !unpack_exactly(&in, &then, sizeof then)))
			break;
		said = explain_mark(run, mark, size ? &then : NULL) || said;
	}
	unpack_done(&in);
	terrace_release(last);
	if (!said)
		explain(run,
		        "miss: the result was not kept, or is gone; inputs that were known are "
		        "as they were");
}

static void pack_file_marks(FILE *out, const struct file_set *set)
{
	for (size_t i = 0; i < set->count; i++) {
		const struct file *file = &set->files[i];
		char mark[PATH_MAX];

		if (snprintf(mark, sizeof mark, "%s%s", set->listings ? MARK_LISTING : "",
		             file->name) < PATH_MAX)
			pack_digest(out, mark, file->absent ? NULL : &file->digest);
	}
}

void remember_last(struct run *run, const struct file_set *discovered)
{
	terrace_digest digest;
	size_t size = 0;
	char *text = NULL;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return;
	digest = terrace_digest_bytes(terrace_bytes(run->input, run->input_size));
	pack_digest(out, MARK_PROGRAM, &run->program.digest);
	pack_digest(out, MARK_INPUT, &digest);
	for (size_t i = 0; run->spec->env[i]; i++) {
		const char *value = getenv(run->spec->env[i]);
		char mark[PATH_MAX];

		if (snprintf(mark, sizeof mark, MARK_ENV "%s", run->spec->env[i]) >= PATH_MAX)
			continue;
		if (value)
			digest = terrace_digest_bytes(terrace_str(value));
		pack_digest(out, mark, value ? &digest : NULL);
	}
	pack_file_marks(out, &run->inputs);
	pack_file_marks(out, &run->listings);
	if (discovered)
		pack_file_marks(out, discovered);
	fclose(out);
	if (text)
		terrace_put(run->known, run->command_key, terrace_bytes(text, size), NULL);
	free(text);
}
