/*
 * The place for bytes of L3: one file an entry, named by a number that is never
 * used twice, in 256 directories. A file is head and payload (see record.h), or
 * a payload in blocks and the head, and does not change once it is written. Its
 * row in the catalogue comes after it and goes before it, so a crash leaves a
 * file without a row, never the reverse.
 *
 * What is written piece by piece lies in the directory "new" until it is whole,
 * locked by who writes it: what is not locked there is swept.
 *
 * Functions return a terrace_status and set the thread's message.
 */
#ifndef FILES_FILES_H
#define FILES_FILES_H

#include "tiers/files/blocks.h"

struct files;

/* dir_fd: where "files" lies or is to be made; duplicated. */
int terrace__files_open(int dir_fd, struct files **ret);
void terrace__files_close(struct files *files); /* accepts NULL */

/*
 * Write a new file. *ret_fd holds a lock that says "being written" until it is
 * closed, which is for the caller to do when the row is there.
 * TERRACE_EXISTS when the number is taken.
 */
int terrace__files_write(struct files *files, uint64_t number, terrace_slice head,
                         terrace_slice payload, int *ret_fd);

/* How head and payload lie, and whether the payload is the value. */
enum file_layout { FILE_ENCODED, FILE_PLAIN, FILE_BLOCKS };

/* What is remembered of a file, to read it without its row. */
struct file_seen {
	uint64_t number;
	uint64_t sum; /* its head's; 0: that does not say all that the row says */
	uint64_t head_size, payload_size;
	enum file_layout layout;
};

/*
 * Read the file of a row. TERRACE_MISS when it is not there, TERRACE_ECORRUPT
 * when it is not what the row says. `ret_seen` may be NULL.
 */
int terrace__files_read(struct files *files, uint64_t number, const struct record *row,
                        uint64_t hash, struct entry **ret, struct file_seen *ret_seen);

/*
 * Read a file again: it is the one that was seen, whole. What it does not know
 * is the number of the write: the entry's is for the caller to set.
 */
int terrace__files_read_seen(struct files *files, const struct file_seen *seen, uint64_t hash,
                             struct entry **ret);

/*
 * As terrace__files_read(), but a value in blocks is opened: *ret is an entry of
 * no bytes, and *ret_blocks reads them, also after the file was removed. NULL
 * where the value is not in blocks, and *ret all of it.
 */
int terrace__files_open_value(struct files *files, uint64_t number, const struct record *row,
                              uint64_t hash, struct entry **ret, struct block_reader **ret_blocks);

/* Check all of it as terrace__files_read() does, with no more memory than a block takes. */
int terrace__files_check(struct files *files, uint64_t number, const struct record *row,
                         uint64_t hash);

/* A new file for a value in blocks. TERRACE_EXISTS when the number is taken. */
int terrace__files_blocks_new(struct files *files, uint64_t number, terrace_codec codec,
                              struct block_writer **ret);
/*
 * Complete it, and give it its place. On success the writer is gone, and *ret_fd
 * holds the lock as that of terrace__files_write() does.
 */
int terrace__files_blocks_keep(struct files *files, struct block_writer *writer,
                               struct record *record, int *ret_fd);
/* Give it up; accepts NULL. */
void terrace__files_blocks_drop(struct files *files, struct block_writer *writer);
/* Remove what dead writers left half written. */
void terrace__files_sweep(struct files *files);

void terrace__files_remove(struct files *files, uint64_t number);

/*
 * Everything that lies in our directories, with its path below them. The number
 * is 0 for what we did not name. Return false to stop.
 */
typedef bool files_visit_fn(void *ctx, const char *path, uint64_t number, uint64_t bytes);
int terrace__files_each(struct files *files, files_visit_fn *visit, void *ctx);
/* By a path that the visitor was given. */
bool terrace__files_has(struct files *files, const char *path);
int terrace__files_remove_path(struct files *files, const char *path);

/* Is somebody writing it just now? */
bool terrace__files_busy(struct files *files, uint64_t number);

/* The status for an errno, with a message. */
int terrace__files_failed(int err, const char *what, uint64_t number);

/* What a file of this size takes on disk. */
uint64_t terrace__files_charge(uint64_t bytes);

#endif
