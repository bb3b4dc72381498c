/* The parts of a cached command, for the files of this folder. */
#ifndef BUILDS_PARTS_H
#define BUILDS_PARTS_H

#include "builds/run.h"

#include <limits.h>
#include <stdio.h>
#include <sys/types.h>

void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- paths.c ----------------------------------------------------------------------------- */

/*
 * The name of a path in keys and results: below the base where there is one and
 * the path lies in it, so that two checkouts agree; else absolute.
 */
struct place {
	char cwd[PATH_MAX];
	char base[PATH_MAX]; /* "": none */
};

/* TERRACE_EINVAL, with a note, when the base is no directory. */
int place_init(struct place *place, const char *base);
/* 0, or -1 when it is too long. */
int place_name(const struct place *place, const char *path, char ret[PATH_MAX]);
/* The absolute path that a name means here. */
int place_path(const struct place *place, const char *name, char ret[PATH_MAX]);

/* What the system says of a file: after a write it is another, whatever was written. */
struct stamp {
	int64_t is[7]; /* nothing: the file is absent */
};
void stamp_take(const char *path, struct stamp *ret);
/* Of a link itself; of anything else as if it were absent. */
void stamp_link(const char *path, struct stamp *ret);
bool stamp_same(const struct stamp *a, const struct stamp *b);

/* Files and what they hold, or listings and their names, sorted by name. */
struct file_set {
	bool listings;
	struct file {
		char *name; /* of place_name() */
		bool absent;
		bool own;           /* the command writes it, too: its times say nothing */
		struct stamp stamp; /* of any other file, from before it was read */
		terrace_digest digest;
	} * files;
	size_t count, capacity;
};

void file_set_done(struct file_set *set);
/* Add a name once; the digest is taken later. */
int file_set_add(struct file_set *set, const char *name);
void file_set_sort(struct file_set *set);
/* But for those of the command's own. */
bool file_set_same_names(const struct file_set *a, const struct file_set *b);
/*
 * Take or check the digests: 0; 1 when a file was written since, be it with what it held;
 * -1 when one cannot be read.
 */
int file_set_digest(struct file_set *set, const struct place *place, terrace *store);
int file_set_check(const struct file_set *set, const struct place *place, terrace *store,
                   const char **ret_changed);

/*
 * Add the files that a pattern means, or is the very name of; a name without wildcards counts
 * even when it is absent. 0, or an errno where that cannot be said.
 */
int inputs_expand(struct file_set *set, const struct place *place, const char *pattern);

/* --- program.c ------------------------------------------------------------------------------ */

/* Its path, content and times; the name is for free() in any case. 0, or -1 when there is none. */
int program_digest(const char *name, terrace *store, struct file *ret);
/* Is it the same file, unwritten since? */
bool program_is_same(const char *name, terrace *store, const struct file *program);

/* --- depfile.c ------------------------------------------------------------------------------ */

/* Add the prerequisites that a file in make's syntax lists. 0, or -1 with a note. */
int depfile_read(struct file_set *set, const struct place *place, const char *path);

/* --- exec.c ---------------------------------------------------------------------------------- */

/* What a command wrote, in order of arrival. */
struct capture {
	struct chunk {
		int stream; /* 1 or 2 */
		size_t size;
		char *data;
	} * chunks;
	size_t count, capacity, bytes;
	bool whole; /* nothing was left out */
	int lost;   /* errno of standard output that could not be written; 0: it could */
	int exit_status;
	int killed; /* by this signal: exit_status is 128 + it; 0: by none */
};

void capture_done(struct capture *capture);
/* Say that standard output could not be written; what to exit with instead of `status`. */
int output_lost(int status, int err);
/*
 * Run it, streaming, with all of the file `input` to read, or COMMAND_NOTHING. 0; -1 with a
 * note when it could not be started; or COMMAND_UNTRIED when there was no pipe or process to try it with.
 */
enum { COMMAND_UNTRIED = -2 };
int command_run(const char *const *command, int input, struct capture *ret);
/*
 * Have another process write to what becomes our standard input: the first `held_size`
 * bytes of a file, a chunk, and what our standard input still has. 0, or -1 with errno.
 */
int command_feed(int held, size_t held_size, const char *chunk, size_t size);
/* Become it, with all of the file `input` to read; returns only on failure, with a note. */
enum { COMMAND_NOTHING = -1, COMMAND_OURS = -2 };
void command_become(const char *const *command, int input);

/* --- result.c ---------------------------------------------------------------------------------- */

/* The files that a command is to write, and what they were before. */
struct outputs {
	const char **paths; /* not owned */
	struct stamp *before;
	struct stamp *links; /* before, of those that are links: of the link itself */
	size_t count;
};

/* Of --out and --depfile, as they are now. 0, or -1 when out of memory. */
int outputs_init(struct outputs *outputs, const struct run_spec *spec);
void outputs_done(struct outputs *outputs);
/*
 * What a command wrote, its exit status and its files, which a command that succeeds
 * has to have written. 0, or -1 with a note.
 */
int result_pack(FILE *out, const struct capture *capture, const struct place *place,
                const struct outputs *outputs);
/* Give it back: files, output, exit status. -1 when that cannot be done; nothing was written then. */
int result_replay(FILE *in, const struct place *place, int *ret_status);

/* For packing and replaying, without a copy of all of it. NULL when out of memory. */
FILE *result_writer(terrace_writer *writer);
FILE *result_reader(terrace_reader *reader);

/* 0, or -1 with errno. */
int write_whole(int fd, terrace_slice bytes);

/* Numbers and strings of a packed value. */
void pack_u64(FILE *out, uint64_t value);
void pack_bytes(FILE *out, const void *data, size_t size);
struct unpack {
	FILE *file; /* NULL: there is nothing */
	bool failed;
};
struct unpack unpack_value(terrace_value *value); /* the file is for unpack_done() */
void unpack_done(struct unpack *in);
bool unpack_more(struct unpack *in);
uint64_t unpack_u64(struct unpack *in);
bool unpack_exactly(struct unpack *in, void *ret, size_t size);
/* A string that ends with NUL, of at most PATH_MAX - 1 bytes. */
bool unpack_path(struct unpack *in, char ret[PATH_MAX]);

/* --- run.c, key.c, explain.c --------------------------------------------------------------------- */

/* Everything about one call. */
struct run {
	const struct run_spec *spec;
	terrace *store;
	terrace_cache *results; /* by content */
	terrace_cache *known;   /* by command line: the inputs that it was seen to have */
	struct place place;
	struct file_set inputs;   /* of --in, with their digests before the run */
	struct file_set listings; /* of --list, the same */
	struct file program;      /* name: its path */
	int input_fd;             /* of --stdin: a file in memory with all of it, or -1 */
	void *input;              /* it, mapped */
	size_t input_size;
	terrace_slice command_key; /* the command line, whatever its inputs hold */
	terrace_slice state_key;   /* and what they hold, as far as it is known beforehand */
	bool has_inputs;           /* its result may depend on them alone */
};

/* Of the command, of its state, and of what is only kept for who asks for failures. */
enum key_kind { KEY_COMMAND, KEY_STATE, KEY_FAILURE };

/* `discovered`: the state with these inputs, too; may be NULL. The key is for terrace_key_free(). */
int make_key(const struct run *run, enum key_kind kind, const struct file_set *discovered,
             terrace_slice *ret);

/* Where --explain asks for it. */
void explain(const struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* What differs from the last time, where there was one. */
void explain_miss(struct run *run);
/* For that: the inputs of this run. */
void remember_last(struct run *run, const struct file_set *discovered);

/* --- wait.c ---------------------------------------------------------------------------------------- */

/* Is this very call among our ancestors? It waits for us: we must not wait for it. */
bool runs_above(const struct run *run);
/* As terrace_lease_begin() of the state's key, without end; where that takes long it says so. */
int wait_for_lease(struct run *run, terrace_lease **ret_lease, terrace_value **ret_value);

#endif
