/* One cached command, from its key to its exit status. */
#include "builds/parts.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A command without inputs may depend on anything: its result is good for this long. */
enum { UNKNOWN_TTL_MS = 60 * 1000 };
/* Sets of discovered inputs that are tried for one command line, the latest first. */
enum { SETS_MAX = 8 };

static void run_done(struct run *run)
{
	terrace_cache_close(run->results);
	terrace_cache_close(run->known);
	file_set_done(&run->inputs);
	file_set_done(&run->listings);
	free(run->program.name);
	if (run->input)
		munmap(run->input, run->input_size);
	if (run->input_fd >= 0)
		close(run->input_fd);
	terrace_key_free(run->command_key);
	terrace_key_free(run->state_key);
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
		struct unpack in = unpack_value(value);
		struct file_set other;

		while (kept < SETS_MAX && unpack_more(&in) && unpack_names(&in, &other)) {
			if (!file_set_same_names(set, &other)) {
				pack_names(out, &other);
				kept++;
			}
			file_set_done(&other);
		}
		unpack_done(&in);
		terrace_release(value);
	}
	fclose(out);
	if (text)
		terrace_put(run->known, run->state_key, terrace_bytes(text, size), NULL);
	free(text);
}

/* --- looking for a result -------------------------------------------------------------------------------- */

/* TERRACE_EIO when it is there and cannot be given back. */
static int replay(struct run *run, FILE *file, unsigned tier, int *ret_status)
{
	int rc = file ? result_replay(file, &run->place, ret_status) : -1;

	if (file)
		fclose(file);
	if (rc == 0)
		explain(run, "hit, from %s", terrace_tier_name(tier));
	return rc == 0 ? TERRACE_OK : TERRACE_EIO;
}

/* Who says how long a result lives does not want an older one. */
static bool is_too_old(struct run *run, terrace_reader *reader)
{
	terrace_info info = TERRACE_INFO_INIT;
	bool old;

	if (!run->spec->has_ttl || run->spec->ttl_ms < 0 ||
	    terrace_inspect_reader(reader, &info) != TERRACE_OK)
		return false;
	old = info.age_ms >= run->spec->ttl_ms;
	if (old)
		explain(run, "the result that is kept is %lld s old",
		        (long long)(info.age_ms / 1000));
	terrace_info_free(&info);
	return old;
}

/* Asked so, a miss is not counted: who then waits for the right to compute it counts. */
static int look_at(struct run *run, terrace_slice key, int *ret_status)
{
	terrace_reader *reader;
	int rc;

	if (terrace_exists(run->results, key) != TERRACE_OK ||
	    terrace_reader_open(run->results, key, &reader) != TERRACE_OK)
		return TERRACE_MISS;
	if (is_too_old(run, reader)) {
		terrace_delete(run->results, key);
		rc = TERRACE_MISS;
	} else {
		rc = replay(run, result_reader(reader), terrace_reader_tier(reader), ret_status);
	}
	terrace_reader_close(reader);
	return rc;
}

/* What is kept under the state, with these discovered inputs (may be NULL). */
static int look_under(struct run *run, enum key_kind kind, const struct file_set *discovered,
                      int *ret_status)
{
	terrace_slice key;
	int rc;

	if (make_key(run, kind, discovered, &key) != TERRACE_OK)
		return TERRACE_MISS;
	rc = look_at(run, key, ret_status);
	terrace_key_free(key);
	return rc;
}

/* With discovered inputs: any known set of them under whose content there is a result. */
static int look_discovered(struct run *run, enum key_kind kind, int *ret_status)
{
	int rc = TERRACE_MISS;
	terrace_value *sets;
	struct file_set set;
	struct unpack in;

	if (terrace_exists(run->known, run->state_key) != TERRACE_OK ||
	    terrace_get(run->known, run->state_key, &sets) != TERRACE_OK)
		return TERRACE_MISS;
	in = unpack_value(sets);
	while (rc == TERRACE_MISS && unpack_more(&in) && unpack_names(&in, &set)) {
		if (file_set_digest(&set, &run->place, run->store) == 0)
			rc = look_under(run, kind, &set, ret_status);
		file_set_done(&set);
	}
	unpack_done(&in);
	terrace_release(sets);
	return rc;
}

/* TERRACE_OK: it was given back; TERRACE_MISS: there is none; TERRACE_EIO: it cannot be. */
static int look(struct run *run, int *ret_status)
{
	int rc = TERRACE_MISS;

	for (int kind = KEY_STATE; rc == TERRACE_MISS && kind <= KEY_FAILURE; kind++) {
		if (kind == KEY_FAILURE && !run->spec->cache_failures)
			break;
		rc = run->spec->depfile ? look_discovered(run, kind, ret_status) :
		                          look_under(run, kind, NULL, ret_status);
	}
	return rc;
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

/* Its last moment, where the file system knows seconds alone. */
static int64_t changed_at(const struct stat *st)
{
	int64_t nanoseconds = st->st_ctim.tv_nsec ? st->st_ctim.tv_nsec : 999999999;

	return (int64_t)st->st_ctim.tv_sec * 1000000000 + nanoseconds;
}

/*
 * A discovered input that changed while the command ran may not be what it read. Every
 * write shows in this one of its times, which nobody can set.
 */
static bool changed_since(const struct run *run, const struct file_set *set, int64_t start)
{
	for (size_t i = 0; i < set->count; i++) {
		char path[PATH_MAX];
		struct stat st;

		if (place_path(&run->place, set->files[i].name, path) < 0 || stat(path, &st) < 0)
			return true;
		if (changed_at(&st) >= start) {
			explain(run, "%s changed while the command ran; the result is not kept",
			        path);
			return true;
		}
	}
	return false;
}

static bool is_named(const struct run *run, const char *path, const char *name)
{
	char its[PATH_MAX];

	return path && place_name(&run->place, path, its) == 0 && strcmp(its, name) == 0;
}

static bool is_output(const struct run *run, const char *name)
{
	bool output = is_named(run, run->spec->depfile, name);

	for (size_t i = 0; run->spec->outputs[i] && !output; i++)
		output = is_named(run, run->spec->outputs[i], name);
	return output;
}

/* What the command itself has made is no input of it. */
static void drop_outputs(struct run *run, struct file_set *set)
{
	size_t kept = 0;

	for (size_t i = 0; i < set->count; i++) {
		if (is_output(run, set->files[i].name))
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
	if (file_set_digest(ret, &run->place, run->store) < 0) {
		note("%s; the result is not kept", terrace_error_message());
		return -1;
	}
	/* Now, so that what was digested is what the command had. */
	return changed_since(run, ret, start) ? -1 : 0;
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

/* What the operator wants of the cache. */
struct configured {
	char section[TERRACE_NAME_MAX + 8];
	int64_t ttl_ms;
};

static int find_ttl(void *ctx, const terrace_setting *setting)
{
	struct configured *configured = ctx;

	return strcmp(setting->section, configured->section) == 0 &&
	       strcmp(setting->name, "ttl") == 0 &&
	       terrace_parse_duration(setting->value, &configured->ttl_ms) == TERRACE_OK;
}

/* For a put: 0 is the cache's. */
static int64_t ttl_of(const struct run *run)
{
	struct configured configured = { .ttl_ms = TERRACE_TTL_FOREVER };

	if (run->spec->has_ttl)
		return run->spec->ttl_ms ? run->spec->ttl_ms : TERRACE_TTL_NONE;
	if (run->has_inputs)
		return 0;
	snprintf(configured.section, sizeof configured.section, "cache %s", run->spec->cache);
	terrace_config_each(run->store, find_ttl, &configured);
	return configured.ttl_ms >= 0 && configured.ttl_ms < UNKNOWN_TTL_MS ? 0 : UNKNOWN_TTL_MS;
}

/* The files that the options mean, and how many of those mean none. */
static int expand_inputs(struct run *run, struct file_set *ret, size_t *ret_without)
{
	const char *const *inputs = run->spec->inputs;

	*ret = (struct file_set){ 0 };
	*ret_without = 0;
	for (size_t i = 0; inputs[i]; i++) {
		size_t before = ret->count;
		int err = inputs_expand(ret, &run->place, inputs[i]);

		if (err)
			return terrace_fail(err == ENOMEM ? TERRACE_ENOMEM : TERRACE_EIO,
			                    "cannot list the inputs %s: %s", inputs[i],
			                    strerror(err));
		*ret_without += ret->count == before;
	}
	file_set_sort(ret);
	for (size_t i = 0; i < ret->count; i++)
		ret->files[i].own = is_output(run, ret->files[i].name);
	return TERRACE_OK;
}

/* Is all that was looked at before the command ran as it was? Says what is not. */
static bool is_as_before(struct run *run)
{
	const char *changed = NULL;
	struct file_set now;
	size_t without;
	bool same = expand_inputs(run, &now, &without) == TERRACE_OK &&
	            file_set_same_names(&now, &run->inputs);

	file_set_done(&now);
	if (!same)
		explain(run, "not kept: there are other inputs than before the command ran");
	else if (!program_is_same(run->spec->command[0], run->store, &run->program))
		changed = run->program.name;
	else if (file_set_check(&run->inputs, &run->place, run->store, &changed) == 0 &&
	         file_set_check(&run->listings, &run->place, run->store, &changed) == 0)
		return true;
	if (changed)
		explain(run, "not kept: the input %s changed while the command ran", changed);
	return false;
}

/* Under its key; what could not be is a warning. */
static int put_result(struct run *run, const struct capture *capture, const struct outputs *outputs,
                      terrace_slice key, const terrace_put_options *options)
{
	terrace_writer *writer;
	int rc = terrace_writer_open(run->results, key, options, &writer), packed;
	FILE *out;

	if (rc == TERRACE_OK) {
		out = result_writer(writer);
		packed = out ? result_pack(out, capture, &run->place, outputs) : -1;
		if (out)
			fclose(out);
		if (packed < 0) {
			terrace_writer_drop(writer);
			return TERRACE_EIO; /* it was said why */
		}
		rc = terrace_writer_commit(writer);
	}
	if (rc == TERRACE_MISS)
		explain(run, "not kept: the cache was invalidated meanwhile");
	else if (rc != TERRACE_OK)
		note("warning: the result is not kept: %s", terrace_error_message());
	return rc;
}

/* Store the result; a failure is a warning. Ends nothing. */
static void keep(struct run *run, const struct capture *capture, const struct outputs *outputs,
                 int64_t start, int64_t cost_us, terrace_lease *lease)
{
	enum key_kind kind = capture->exit_status == 0 ? KEY_STATE : KEY_FAILURE;
	terrace_put_options options = TERRACE_PUT_INIT;
	struct file_set discovered = { 0 };
	const struct file_set *known = run->spec->depfile ? &discovered : NULL;
	terrace_slice key = { NULL, 0 };

	if (!worth_keeping(run, capture) || !is_as_before(run))
		return;
	options.cost_us = (uint64_t)cost_us;
	options.lease = lease;
	options.ttl_ms = ttl_of(run);
	if (discover(run, start, &discovered) == 0 &&
	    make_key(run, kind, known, &key) == TERRACE_OK &&
	    put_result(run, capture, outputs, key, &options) == TERRACE_OK) {
		if (known)
			remember_set(run, known);
		remember_last(run, known);
	}
	terrace_key_free(key);
	file_set_done(&discovered);
}

static int64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* As if there were no cache: with the input that the options promise. */
static int run_uncached(struct run *run)
{
	command_become(run->spec->command, run->input_fd >= 0   ? run->input_fd :
	                                   run->spec->use_stdin ? COMMAND_OURS :
	                                                          COMMAND_NOTHING);
	return RUN_CANNOT_START;
}

/* Run it under the lease, keep what came out, and end the lease. */
static int run_and_keep(struct run *run, terrace_lease *lease)
{
	struct outputs outputs;
	struct capture capture;
	int64_t start, began;
	int status;

	if (outputs_init(&outputs, run->spec) < 0) {
		terrace_lease_drop(lease);
		return run_uncached(run);
	}
	start = run->spec->depfile ? start_mark() : 0;
	began = now_us();
	status = command_run(run->spec->command, run->input_fd, &capture);
	if (status == 0)
		keep(run, &capture, &outputs, start, now_us() - began, lease);
	terrace_lease_drop(lease);
	outputs_done(&outputs);
	if (status < 0)
		return status == COMMAND_UNTRIED ? run_uncached(run) : RUN_CANNOT_START;
	status = capture.lost             ? output_lost(capture.exit_status, capture.lost) :
	         capture.killed == SIGINT ? RUN_INTERRUPTED :
	                                    capture.exit_status;
	capture_done(&capture);
	return status;
}

/* --- putting it together --------------------------------------------------------------------------------------- */

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

static int prepare_inputs(struct run *run)
{
	const struct run_spec *spec = run->spec;
	size_t without;
	int rc = expand_inputs(run, &run->inputs, &without);

	if (rc == TERRACE_OK && file_set_digest(&run->inputs, &run->place, run->store) < 0)
		rc = TERRACE_EIO;
	run->has_inputs = without == 0 && (spec->inputs[0] || spec->listings[0] || spec->depfile ||
	                                   spec->use_stdin);
	if (rc == TERRACE_OK && without > 0)
		note("warning: no file is what an --in says; the result is kept as one without "
		     "inputs is");
	return rc;
}

/*
 * Keys and digests. TERRACE_OK, TERRACE_MISS when there is no program, TERRACE_EINVAL for a bad
 * cache name, or another failure.
 */
static int prepare(struct run *run)
{
	int rc = open_caches(run);

	if (rc == TERRACE_EINVAL)
		return rc;
	if (rc == TERRACE_OK)
		rc = prepare_inputs(run);
	if (rc == TERRACE_OK)
		rc = prepare_listings(run);
	if (rc == TERRACE_OK &&
	    program_digest(run->spec->command[0], run->store, &run->program) < 0)
		return TERRACE_MISS;
	if (rc == TERRACE_OK)
		rc = make_key(run, KEY_COMMAND, NULL, &run->command_key);
	if (rc == TERRACE_OK)
		rc = make_key(run, KEY_STATE, NULL, &run->state_key);
	return rc == TERRACE_EINVAL ? TERRACE_EIO : rc;
}

/* What somebody else has stored while we waited for him. */
static int replay_value(struct run *run, terrace_value *value, int *ret_status)
{
	FILE *file = fmemopen((void *)(uintptr_t)terrace_data(value), terrace_size(value), "r");
	int rc = replay(run, file, terrace_value_tier(value), ret_status);

	terrace_release(value);
	return rc;
}

/*
 * Once, whoever else wants the same. With discovered inputs the result lies
 * under a key that is not known yet, as one of a failure does; then the lease is for a
 * key that has no value, and who gets it looks again.
 */
static int run_cached(struct run *run)
{
	terrace_lease *lease = NULL;
	terrace_value *value;
	int status, rc = look(run, &status);

	if (rc == TERRACE_MISS && runs_above(run)) {
		explain(run, "miss: this command runs itself, and waits for it");
		return run_uncached(run);
	}
	if (rc == TERRACE_MISS) {
		rc = wait_for_lease(run, &lease, &value);
		if (rc == TERRACE_OK)
			rc = replay_value(run, value, &status);
		else if (rc == TERRACE_MISS)
			rc = look(run, &status);
		else
			note("warning: %s; running uncached", terrace_error_message());
	}
	if (rc == TERRACE_MISS) {
		explain_miss(run);
		return run_and_keep(run, lease);
	}
	terrace_lease_drop(lease);
	return rc == TERRACE_OK ? status : run_uncached(run);
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
	} else if (rc == TERRACE_MISS) {
		status = run_uncached(&run); /* which says that there is no such program */
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
