/* One cached command, from its key to its exit status. */
#include "builds/parts.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A command without inputs may depend on anything: its result is good for this long. */
enum { UNKNOWN_TTL_MS = 60 * 1000 };
/* Sets of discovered inputs that are tried for one command line, the latest first. */
enum { SETS_MAX = 8 };
/* Whoever computes is alive, or replaced: there is nothing to time out. */
#define WAIT_FOR_EVER (INT64_MAX / 4)
/* Bytes of the command line that a key shows. */
enum { KEY_TEXT_MAX = 100 };

/* Everything about one call. */
struct run {
	const struct run_spec *spec;
	terrace *store;
	terrace_cache *results; /* by content */
	terrace_cache *known;   /* by command line: the inputs that it was seen to have */
	struct place place;
	struct file_set inputs;   /* of --in, with their digests before the run */
	struct file_set listings; /* of --list, the same */
	terrace_digest program;
	bool has_program;
	int input_fd; /* of --stdin: a file in memory with all of it, or -1 */
	void *input;  /* it, mapped */
	size_t input_size;
	terrace_slice command_key; /* the command line, whatever its inputs hold */
	terrace_slice state_key;   /* and what they hold, as far as it is known beforehand */
	bool has_inputs;
};

static void run_done(struct run *run)
{
	terrace_cache_close(run->results);
	terrace_cache_close(run->known);
	file_set_done(&run->inputs);
	file_set_done(&run->listings);
	if (run->input)
		munmap(run->input, run->input_size);
	if (run->input_fd >= 0)
		close(run->input_fd);
	terrace_key_free(run->command_key);
	terrace_key_free(run->state_key);
}

static void explain(const struct run *run, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void explain(const struct run *run, const char *format, ...)
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

/* --- keys ----------------------------------------------------------------------------------------- */

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
		    terrace_bytes(&run->program, run->has_program ? sizeof run->program : 0));
	if (rc == TERRACE_OK)
		rc = terrace_key_builder_field(key, "input", terrace_bytes(&input, sizeof input));
	if (rc == TERRACE_OK)
		rc = add_files(key, "inputs", &run->inputs);
	if (rc == TERRACE_OK && run->listings.count)
		rc = add_files(key, "listings", &run->listings);
	return rc;
}

/* The key of the command, of its state, or of its state with discovered inputs. */
static int make_key(const struct run *run, bool state, const struct file_set *discovered,
                    terrace_slice *ret)
{
	char text[KEY_TEXT_MAX + 1];
	terrace_key_builder *key;
	int rc;

	command_text(run->spec, text);
	rc = terrace_key_builder_new(text, &key);
	if (rc != TERRACE_OK)
		return rc;
	rc = state ? add_state(key, run) : add_command(key, run);
	if (rc == TERRACE_OK && discovered)
		rc = add_files(key, "discovered", discovered);
	if (rc == TERRACE_OK)
		rc = terrace_key_builder_finish(key, ret);
	terrace_key_builder_free(key);
	return rc;
}

/* --- what a command line was seen to read ------------------------------------------------------------- */

/* Under the state's key: sets of names, packed, the latest first. */
static void pack_names(FILE *out, const struct file_set *set)
{
	pack_u64(out, set->count);
	for (size_t i = 0; i < set->count; i++)
		pack_bytes(out, set->files[i].name, strlen(set->files[i].name));
}

static bool unpack_names(struct unpack *in, struct file_set *ret)
{
	uint64_t count = unpack_u64(in);

	*ret = (struct file_set){ 0 };
	for (uint64_t i = 0; i < count && !in->failed; i++) {
		char name[PATH_MAX];

		if (!unpack_path(in, name) || file_set_add(ret, name) < 0)
			in->failed = true;
	}
	if (in->failed)
		file_set_done(ret);
	return !in->failed;
}

static bool same_names(const struct file_set *a, const struct file_set *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++) {
		if (strcmp(a->files[i].name, b->files[i].name) != 0)
			return false;
	}
	return true;
}

/* Put `set` before the others that are known, without a second copy of it. */
static void remember_set(struct run *run, const struct file_set *set)
{
	terrace_value *value = NULL;
	size_t size = 0, kept = 1;
	char *text = NULL;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return;
	pack_names(out, set);
	if (terrace_exists(run->known, run->state_key) == TERRACE_OK &&
	    terrace_get(run->known, run->state_key, &value) == TERRACE_OK) {
		struct unpack in = { terrace_data(value),
			             (const unsigned char *)terrace_data(value) +
			                 terrace_size(value),
			             false };
		struct file_set other;

		while (in.at < in.end && kept < SETS_MAX && unpack_names(&in, &other)) {
			if (!same_names(set, &other)) {
				pack_names(out, &other);
				kept++;
			}
			file_set_done(&other);
		}
		terrace_release(value);
	}
	fclose(out);
	if (text)
		terrace_put(run->known, run->state_key, terrace_bytes(text, size), NULL);
	free(text);
}

/* --- looking for a result -------------------------------------------------------------------------------- */

/* With discovered inputs: any known set of them under whose content there is a result. */
static int find_discovered(struct run *run, terrace_value **ret)
{
	terrace_value *sets;
	struct unpack in;
	struct file_set set;
	int rc = terrace_get(run->known, run->state_key, &sets);

	if (rc != TERRACE_OK)
		return TERRACE_MISS;
	rc = TERRACE_MISS;
	in = (struct unpack){ terrace_data(sets),
		              (const unsigned char *)terrace_data(sets) + terrace_size(sets),
		              false };
	while (rc != TERRACE_OK && in.at < in.end && unpack_names(&in, &set)) {
		terrace_slice key;

		if (file_set_digest(&set, &run->place, run->store) == 0 &&
		    make_key(run, true, &set, &key) == TERRACE_OK) {
			rc = terrace_get(run->results, key, ret);
			terrace_key_free(key);
		}
		file_set_done(&set);
	}
	terrace_release(sets);
	return rc == TERRACE_OK ? rc : TERRACE_MISS;
}

/*
 * What a run was made from, by name and digest, so that the next one can say
 * what differs: paths as they are; the rest under names that are no paths.
 */
#define MARK_PROGRAM "//program"
#define MARK_INPUT   "//input"
#define MARK_ENV     "//env/"
#define MARK_LISTING "//list/"

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
		*ret = run->program;
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
static bool explain_mark(const struct run *run, const char *mark, terrace_slice then)
{
	char text[PATH_MAX + 32];
	terrace_digest now;
	const char *what;
	int rc = mark_now(run, mark, &now);

	if (rc == TERRACE_MISS && then.size > 0)
		what = "is gone";
	else if (rc == TERRACE_OK && then.size == 0)
		what = "has appeared";
	else if (rc == TERRACE_OK && memcmp(&now, then.data, sizeof now) != 0)
		what = "changed";
	else
		return false;
	if (strncmp(mark, MARK_ENV, strlen(MARK_ENV)) == 0)
		what = "changed"; /* nobody speaks of variables that appear */
	mark_text(run, mark, text, sizeof text);
	explain(run, "miss: %s %s", text, what);
	return true;
}

/* Say what differs from the last time, where there was one. */
static void explain_miss(struct run *run)
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
	in = (struct unpack){ terrace_data(last),
		              (const unsigned char *)terrace_data(last) + terrace_size(last),
		              false };
	while (in.at < in.end) {
		char mark[PATH_MAX];
		terrace_slice then;

		if (!unpack_path(&in, mark))
			break;
		then = unpack_bytes(&in);
		if (in.failed || (then.size && then.size != sizeof(terrace_digest)))
			break;
		said = explain_mark(run, mark, then) || said;
	}
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

/* For explain_miss(): the inputs of this run. */
static void remember_last(struct run *run, const struct file_set *discovered)
{
	terrace_digest digest;
	size_t size = 0;
	char *text = NULL;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return;
	digest = terrace_digest_bytes(terrace_bytes(run->input, run->input_size));
	pack_digest(out, MARK_PROGRAM, &run->program);
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

/* --- running and keeping ------------------------------------------------------------------------------------ */

static int64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/*
 * A moment that every stamp of a file before is below, and none after. File systems
 * stamp with the coarse clock, which is some ticks behind the exact one, and from Linux
 * 6.13 with the exact one where the file had been looked at: so the coarse clock has to
 * pass what the exact one says.
 */
static int64_t start_mark(void)
{
	const struct timespec pause = { 0, 500000 };
	int64_t before = clock_ns(CLOCK_REALTIME), now;

	while ((now = clock_ns(CLOCK_REALTIME_COARSE)) <= before &&
	       clock_ns(CLOCK_REALTIME) >= before) /* nobody has set the date back */
		nanosleep(&pause, NULL);
	return now;
}

/* A discovered input that changed while the command ran may not be what it read. */
static bool changed_since(const struct run *run, const struct file_set *set, int64_t start)
{
	for (size_t i = 0; i < set->count; i++) {
		char path[PATH_MAX];
		struct stat st;

		if (place_path(&run->place, set->files[i].name, path) < 0 || stat(path, &st) < 0)
			return true;
		if ((int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec >= start ||
		    (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec >= start) {
			explain(run, "%s changed while the command ran; the result is not kept",
			        path);
			return true;
		}
	}
	return false;
}

/* What the command itself has made is no input of it. */
static void drop_outputs(struct run *run, struct file_set *set)
{
	size_t kept = 0;

	for (size_t i = 0; i < set->count; i++) {
		bool output = false;

		for (size_t o = 0; run->spec->outputs[o] && !output; o++) {
			char name[PATH_MAX];

			output = place_name(&run->place, run->spec->outputs[o], name) == 0 &&
			         strcmp(name, set->files[i].name) == 0;
		}
		if (output)
			free(set->files[i].name);
		else
			set->files[kept++] = set->files[i];
	}
	set->count = kept;
}

/* The inputs that the command wrote down, with their content. */
static int discover(struct run *run, int64_t start, struct file_set *ret)
{
	*ret = (struct file_set){ 0 };
	if (!run->spec->depfile)
		return 0;
	if (depfile_read(ret, &run->place, run->spec->depfile) < 0)
		return -1;
	drop_outputs(run, ret);
	if (changed_since(run, ret, start))
		return -1;
	if (file_set_digest(ret, &run->place, run->store) < 0) {
		note("%s; the result is not kept", terrace_error_message());
		return -1;
	}
	return 0;
}

static bool worth_keeping(const struct run *run, const struct capture *capture)
{
	if (capture->killed) {
		explain(run, "not kept: the command was killed by a signal");
	} else if (capture->exit_status != 0 && !run->spec->cache_failures) {
		explain(run, "not kept: the command failed with %d", capture->exit_status);
	} else if (capture->lost) {
		explain(run, "not kept: its output could not be written");
	} else if (!capture->whole) {
		explain(run, "not kept: its output was too large, or is still being written");
	} else {
		return true;
	}
	return false;
}

static void keep_options(const struct run *run, int64_t cost_us, terrace_lease *lease,
                         terrace_put_options *ret)
{
	ret->cost_us = (uint64_t)cost_us;
	ret->lease = lease;
	if (run->spec->has_ttl)
		ret->ttl_ms = run->spec->ttl_ms ? run->spec->ttl_ms : TERRACE_TTL_NONE;
	else
		ret->ttl_ms = run->has_inputs ? TERRACE_TTL_FOREVER : UNKNOWN_TTL_MS;
}

/* Store the result; a failure is a warning. Ends nothing. */
static void keep(struct run *run, const struct capture *capture, int64_t start, int64_t cost_us,
                 terrace_lease *lease)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	struct file_set discovered = { 0 };
	const char *changed;
	terrace_slice key = { NULL, 0 };
	char *packed = NULL;
	size_t size;
	int rc;

	if (!worth_keeping(run, capture))
		return;
	if (file_set_check(&run->inputs, &run->place, run->store, &changed) != 0 ||
	    file_set_check(&run->listings, &run->place, run->store, &changed) != 0) {
		explain(run, "not kept: the input %s changed while the command ran", changed);
		return;
	}
	if (discover(run, start, &discovered) == 0 &&
	    result_pack(capture, &run->place, run->spec->outputs, run->spec->depfile, &packed,
	                &size) == 0 &&
	    make_key(run, true, run->spec->depfile ? &discovered : NULL, &key) == TERRACE_OK) {
		keep_options(run, cost_us, lease, &options);
		rc = terrace_put(run->results, key, terrace_bytes(packed, size), &options);
		if (rc == TERRACE_MISS)
			explain(run, "not kept: the cache was invalidated meanwhile");
		else if (rc != TERRACE_OK)
			note("warning: the result is not kept: %s", terrace_error_message());
		if (rc == TERRACE_OK && run->spec->depfile)
			remember_set(run, &discovered);
		if (rc == TERRACE_OK)
			remember_last(run, run->spec->depfile ? &discovered : NULL);
	}
	free(packed);
	terrace_key_free(key);
	file_set_done(&discovered);
}

static int64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* As if there were no cache. */
static int run_uncached(struct run *run)
{
	if (run->input_fd >= 0) {
		lseek(run->input_fd, 0, SEEK_SET);
		dup2(run->input_fd, STDIN_FILENO);
	}
	command_become(run->spec->command);
	return RUN_CANNOT_START;
}

/* Run it under the lease, keep what came out, and end the lease. */
static int run_and_keep(struct run *run, terrace_lease *lease)
{
	int64_t start = run->spec->depfile ? start_mark() : 0, began = now_us();
	struct capture capture;
	int status;

	status = command_run(run->spec->command, run->input_fd, &capture);
	if (status < 0) {
		terrace_lease_drop(lease);
		return status == COMMAND_UNTRIED ? run_uncached(run) : RUN_CANNOT_START;
	}
	keep(run, &capture, start, now_us() - began, lease);
	terrace_lease_drop(lease);
	status = capture.lost ? output_lost(capture.exit_status, capture.lost) :
	                        capture.exit_status;
	capture_done(&capture);
	return status;
}

static bool replay(struct run *run, terrace_value *value, int *ret_status)
{
	int rc = result_replay(terrace_slice_of(value), &run->place, ret_status);

	if (rc == 0)
		explain(run, "hit, from %s", terrace_tier_name(terrace_value_tier(value)));
	terrace_release(value);
	return rc == 0;
}

/* --- putting it together --------------------------------------------------------------------------------------- */

/* The file that a command's name means; false when there is none. */
static bool find_program(const char *name, char ret[PATH_MAX])
{
	const char *path = getenv("PATH");
	struct stat st;

	if (strchr(name, '/'))
		return snprintf(ret, PATH_MAX, "%s", name) < PATH_MAX;
	for (path = path ? path : "/usr/local/bin:/bin:/usr/bin"; *path;) {
		size_t size = strcspn(path, ":");

		if (snprintf(ret, PATH_MAX, "%.*s%s%s", (int)size, path, size ? "/" : "./", name) <
		        PATH_MAX &&
		    stat(ret, &st) == 0 && S_ISREG(st.st_mode) && access(ret, X_OK) == 0)
			return true;
		path += size;
		path += *path == ':';
	}
	return false;
}

static int hold_input(struct run *run)
{
	char chunk[65536];
	ssize_t n;

	while ((n = read(STDIN_FILENO, chunk, sizeof chunk)) != 0) {
		if (n < 0 && errno != EINTR)
			return TERRACE_EIO;
		if (n > 0 && write_whole(run->input_fd, terrace_bytes(chunk, (size_t)n)) < 0) {
			n = command_feed(run->input_fd, run->input_size, chunk, (size_t)n);
			close(run->input_fd);
			run->input_fd = -1;
			return n < 0 ? TERRACE_EIO : TERRACE_MISS;
		}
		run->input_size += n > 0 ? (size_t)n : 0;
	}
	return TERRACE_OK;
}

/*
 * All of standard input, in a file in memory: the command can have it from there
 * whatever fails later. TERRACE_MISS when it cannot be looked at; the command has
 * it all the same then, as its standard input. TERRACE_EIO when it cannot be read.
 */
static int read_input(struct run *run)
{
	/* A limit on the size of files is for those of the command. */
	struct sigaction ignore = { .sa_handler = SIG_IGN }, old;
	int rc;

	run->input_fd = memfd_create("stdin", MFD_CLOEXEC);
	if (run->input_fd < 0)
		return TERRACE_MISS;
	sigaction(SIGXFSZ, &ignore, &old);
	rc = hold_input(run);
	sigaction(SIGXFSZ, &old, NULL);
	if (rc != TERRACE_OK || run->input_size == 0)
		return rc;
	run->input = mmap(NULL, run->input_size, PROT_READ, MAP_SHARED, run->input_fd, 0);
	if (run->input != MAP_FAILED)
		return TERRACE_OK;
	run->input = NULL;
	return TERRACE_MISS;
}

static int open_caches(struct run *run)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	const int longest = TERRACE_NAME_MAX - (int)strlen(".inputs");
	char name[TERRACE_NAME_MAX + 1];
	int rc;

	if (strlen(run->spec->cache) > (size_t)longest)
		return terrace_fail(TERRACE_EINVAL,
		                    "the name of a cache of results has at most %d bytes, because "
		                    "NAME.inputs is a cache too; \"%.70s\" has %zu",
		                    longest, run->spec->cache, strlen(run->spec->cache));
	/* A process runs one command: what it keeps in memory serves nobody. */
	policy.tiers = TERRACE_L2 | TERRACE_L3;
	policy.description = "results of commands, by the content of their inputs";
	snprintf(name, sizeof name, "%s.inputs", run->spec->cache);
	rc = terrace_cache_open(run->store, run->spec->cache, &policy, &run->results);
	policy.description = "which inputs commands were seen to have";
	if (rc == TERRACE_OK)
		rc = terrace_cache_open(run->store, name, &policy, &run->known);
	return rc;
}

/*
 * What the program is. One that may be run but not read is told by what the
 * system says of it; false when not even that is known.
 */
static bool digest_program(terrace *store, const char *path, terrace_digest *ret)
{
	struct stat st;

	if (terrace_file_digest(store, path, ret) == TERRACE_OK)
		return true;
	if (stat(path, &st) < 0)
		return false;
	*ret = terrace_digest_bytes(terrace_bytes(
	    (int64_t[]){ (int64_t)st.st_dev, (int64_t)st.st_ino, st.st_size, st.st_mtim.tv_sec,
	                 st.st_mtim.tv_nsec, st.st_ctim.tv_sec, st.st_ctim.tv_nsec },
	    7 * sizeof(int64_t)));
	return true;
}

/* A directory that is absent is a state, too; one that is none is wrong usage. */
static int prepare_listings(struct run *run)
{
	const char *const *listings = run->spec->listings;

	run->listings.listings = true;
	for (size_t i = 0; listings[i]; i++) {
		char name[PATH_MAX];

		if (place_name(&run->place, listings[i], name) < 0 ||
		    file_set_add(&run->listings, name) < 0)
			return terrace_fail(TERRACE_ENOMEM, "cannot add the listing %s",
			                    listings[i]);
	}
	file_set_sort(&run->listings);
	return file_set_digest(&run->listings, &run->place, run->store) < 0 ? TERRACE_EIO :
	                                                                      TERRACE_OK;
}

/* Keys and digests. TERRACE_OK, TERRACE_EINVAL for a bad cache name, or another failure. */
static int prepare(struct run *run)
{
	const struct run_spec *spec = run->spec;
	char program[PATH_MAX];
	int rc = open_caches(run);

	if (rc == TERRACE_EINVAL)
		return rc;
	for (size_t i = 0; spec->inputs[i] && rc == TERRACE_OK; i++) {
		if (inputs_expand(&run->inputs, &run->place, spec->inputs[i]) < 0)
			rc = terrace_fail(TERRACE_ENOMEM, "cannot list the inputs %s",
			                  spec->inputs[i]);
	}
	run->has_inputs = spec->inputs[0] || spec->listings[0] || spec->depfile || spec->use_stdin;
	if (rc == TERRACE_OK) {
		file_set_sort(&run->inputs);
		if (file_set_digest(&run->inputs, &run->place, run->store) < 0)
			rc = TERRACE_EIO;
	}
	if (rc == TERRACE_OK)
		rc = prepare_listings(run);
	if (rc == TERRACE_OK && find_program(spec->command[0], program))
		run->has_program = digest_program(run->store, program, &run->program);
	if (rc == TERRACE_OK)
		rc = make_key(run, false, NULL, &run->command_key);
	if (rc == TERRACE_OK)
		rc = make_key(run, true, NULL, &run->state_key);
	return rc == TERRACE_EINVAL ? TERRACE_EIO : rc;
}

/*
 * Once, whoever else wants the same. With discovered inputs the result lies
 * under a key that is not known yet; then the lease is for a key that never
 * has a value, and who gets it looks again.
 */
static int run_cached(struct run *run)
{
	const bool discovers = run->spec->depfile != NULL;
	terrace_value *value;
	terrace_lease *lease;
	int rc, status;

	if (discovers && find_discovered(run, &value) == TERRACE_OK)
		return replay(run, value, &status) ? status : run_uncached(run);
	rc = terrace_lease_begin(run->results, run->state_key, WAIT_FOR_EVER, &lease, &value);
	if (rc == TERRACE_OK)
		return replay(run, value, &status) ? status : run_uncached(run);
	if (rc != TERRACE_MISS) {
		note("warning: %s; running uncached", terrace_error_message());
		return run_uncached(run);
	}
	/* Where we had to wait, somebody has stored it meanwhile; asked so, a miss is not counted. */
	if (discovers && terrace_exists(run->known, run->state_key) == TERRACE_OK &&
	    find_discovered(run, &value) == TERRACE_OK) {
		terrace_lease_drop(lease);
		return replay(run, value, &status) ? status : run_uncached(run);
	}
	explain_miss(run);
	return run_and_keep(run, lease);
}

int builds_run(terrace *store, const struct run_spec *spec)
{
	struct run run = { .spec = spec, .store = store, .input_fd = -1 };
	int rc, status;

	if (!terrace_enabled(store))
		return run_uncached(&run);
	rc = place_init(&run.place, spec->base);
	if (rc != TERRACE_OK)
		return rc == TERRACE_EINVAL ? RUN_CANNOT_START : run_uncached(&run);
	rc = spec->use_stdin ? read_input(&run) : TERRACE_OK;
	if (rc == TERRACE_EIO) {
		note("cannot read standard input: %s", strerror(errno));
		run_done(&run);
		return RUN_CANNOT_START;
	}
	if (rc != TERRACE_OK) {
		note("warning: no room for a copy of standard input; running uncached");
		return run_uncached(&run);
	}
	rc = prepare(&run);
	if (rc == TERRACE_OK) {
		status = run_cached(&run);
	} else if (rc == TERRACE_EINVAL) {
		note("--cache: %s", terrace_error_message());
		status = RUN_USAGE;
	} else {
		note("warning: %s; running uncached", terrace_error_message());
		status = run_uncached(&run);
	}
	run_done(&run);
	return status;
}
