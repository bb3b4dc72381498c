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

/* Files and what they hold, or listings and their names, sorted by name. */
struct file_set {
	bool listings;
	struct file {
		char *name; /* of place_name() */
		bool absent;
		terrace_digest digest;
	} * files;
	size_t count, capacity;
};

void file_set_done(struct file_set *set);
/* Add a name once; the digest is taken later. */
int file_set_add(struct file_set *set, const char *name);
void file_set_sort(struct file_set *set);
/* Take or check the digests: 0; 1 when a file is not as it was before; -1 when one cannot be read. */
int file_set_digest(struct file_set *set, const struct place *place, terrace *store);
int file_set_check(const struct file_set *set, const struct place *place, terrace *store,
                   const char **ret_changed);

/* Add the files that a pattern means; a name without wildcards counts even when it is absent. */
int inputs_expand(struct file_set *set, const struct place *place, const char *pattern);

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
	bool killed; /* by a signal: exit_status is 128 + it */
};

void capture_done(struct capture *capture);
/* Say that standard output could not be written; what to exit with instead of `status`. */
int output_lost(int status, int err);
/*
 * Run it, streaming, with all of the file `input` to read, or nothing for -1. 0; -1 with a note when it could not be started; or
 * COMMAND_UNTRIED when there was no pipe or process to try it with.
 */
enum { COMMAND_UNTRIED = -2 };
int command_run(const char *const *command, int input, struct capture *ret);
/*
 * Have another process write to what becomes our standard input: the first `held_size`
 * bytes of a file, a chunk, and what our standard input still has. 0, or -1 with errno.
 */
int command_feed(int held, size_t held_size, const char *chunk, size_t size);
/* Become it; returns only on failure, with a note. */
void command_become(const char *const *command);

/* --- result.c ---------------------------------------------------------------------------------- */

/* Pack what a command wrote, its exit status and its files. 0, or -1 with a note. */
int result_pack(const struct capture *capture, const struct place *place,
                const char *const *outputs, const char *depfile, char **ret, size_t *ret_size);
/* Give it back: files, output, exit status. -1 when that cannot be done; nothing was written then. */
int result_replay(terrace_slice result, const struct place *place, int *ret_status);

/* 0, or -1 with errno. */
int write_whole(int fd, terrace_slice bytes);

/* Numbers and strings of a packed value. */
void pack_u64(FILE *out, uint64_t value);
void pack_bytes(FILE *out, const void *data, size_t size);
struct unpack {
	const unsigned char *at, *end;
	bool failed;
};
uint64_t unpack_u64(struct unpack *in);
terrace_slice unpack_bytes(struct unpack *in);
/* A copy that ends with NUL, of at most PATH_MAX - 1 bytes. */
bool unpack_path(struct unpack *in, char ret[PATH_MAX]);

#endif
