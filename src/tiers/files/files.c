#include "tiers/files/files.h"

#include "codec/codec.h"
#include "util/fs.h"
#include "util/lock.h"
#include "util/message.h"
#include "util/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DIRECTORIES = 256 };

struct files {
	int dir_fd;
};

struct file_name {
	char text[24]; /* "ab/0123456789abcdef" */
};

static struct file_name name_of(uint64_t number)
{
	static const char digits[] = "0123456789abcdef";
	struct file_name name = { "ab/" };

	/* As printf() would in a thousand instructions. */
	for (int i = 0; i < 16; i++)
		name.text[3 + i] = digits[number >> (60 - 4 * i) & 15];
	memcpy(name.text, name.text + 17, 2);
	return name;
}

static int failed(int err, const char *what, const char *name)
{
	terrace__message_set("cannot %s l3 file files/%s: %s", what, name, strerror(err));
	switch (err) {
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return TERRACE_EFULL;
	case ENOMEM:
		return TERRACE_ENOMEM;
	case EACCES:
	case EPERM:
	case EROFS:
		return TERRACE_EACCESS;
	}
	return TERRACE_EIO;
}

int terrace__files_failed(int err, const char *what, uint64_t number)
{
	return failed(err, what, name_of(number).text);
}

int terrace__files_open(int dir_fd, struct files **ret)
{
	struct files *files;
	int fd;

	if (mkdirat(dir_fd, "files", 0700) < 0 && errno != EEXIST)
		return failed(errno, "make the directory of", "");
	fd = openat(dir_fd, "files", O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return failed(errno, "open the directory of", "");
	files = calloc(1, sizeof *files);
	if (!files) {
		close(fd);
		return no_memory("the files");
	}
	files->dir_fd = fd;
	*ret = files;
	return TERRACE_OK;
}

void terrace__files_close(struct files *files)
{
	if (!files)
		return;
	close(files->dir_fd);
	free(files);
}

/* The directory of a path is made where it is missing. */
static int make(struct files *files, const struct file_name *name, unsigned directory_size)
{
	const int flags = O_CREAT | O_EXCL | O_RDWR;
	int fd = terrace__open_below(files->dir_fd, name->text, flags, 0600);
	struct file_name directory = *name;

	if (fd != -ENOENT)
		return fd;
	directory.text[directory_size] = '\0';
	if (mkdirat(files->dir_fd, directory.text, 0700) < 0 && errno != EEXIST)
		return -errno;
	return terrace__open_below(files->dir_fd, name->text, flags, 0600);
}

/*
 * 0, or -errno; -EEXIST: who sweeps or verifies was faster than our lock, so another
 * name has to be tried.
 */
static int hold(int fd)
{
	struct stat st;
	int rc = terrace__lock_try(fd, 0, true);

	if (rc == -EAGAIN)
		return -EEXIST;
	if (rc == 0 && fstat(fd, &st) < 0)
		return -errno;
	return rc == 0 && st.st_nlink == 0 ? -EEXIST : rc;
}

int terrace__files_write(struct files *files, uint64_t number, terrace_slice head,
                         terrace_slice payload, int *ret_fd)
{
	struct file_name name = name_of(number);
	struct iovec parts[] = {
		{ (void *)(uintptr_t)head.data, head.size },
		{ (void *)(uintptr_t)payload.data, payload.size },
	};
	CLEANUP(terrace__fd_done) int fd = make(files, &name, 2);
	int rc;

	if (fd < 0)
		return fd == -EEXIST ? TERRACE_EXISTS : failed(-fd, "make", name.text);
	rc = hold(fd);
	if (rc == 0)
		rc = terrace__writev_full(fd, parts, ARRAY_LEN(parts));
	if (rc < 0) {
		rc = rc == -EEXIST ? TERRACE_EXISTS : failed(-rc, "write", name.text);
		terrace__unlink_below(files->dir_fd, name.text);
		return rc;
	}
	*ret_fd = fd;
	fd = -1;
	return TERRACE_OK;
}

/* Does a head say what else a row does, but for the number of the write, which comes after the file? */
static bool says_all(const struct record *own, const struct record *row)
{
	return own->cache == row->cache && own->created == row->created &&
	       own->stored == row->stored && own->expires == row->expires && own->ttl == row->ttl &&
	       own->idle == row->idle && own->deadline == row->deadline &&
	       own->cost_us == row->cost_us && own->extra.size == row->extra.size &&
	       (row->extra.size == 0 ||
	        memcmp(own->extra.data, row->extra.data, row->extra.size) == 0);
}

static uint64_t sum_of_head(terrace_slice head)
{
	struct reader reader = terrace__reader((const uint8_t *)head.data + 8, 8);

	return terrace__read_u64(&reader);
}

/*
 * The head of the file: its own checksum holds, and it is the row's entry. Where it says all
 * that the row does, it can be read without that from now on.
 */
static bool is_head_of(terrace_slice head, const struct record *row, struct file_seen *seen)
{
	struct record own;

	/* Time to live and sequence may differ: a touch changes the row alone. */
	if (terrace__record_read(head, &own) != TERRACE_OK || own.key.size != row->key.size ||
	    memcmp(own.key.data, row->key.data, row->key.size) != 0 || own.codec != row->codec ||
	    own.flags != row->flags || own.value_size != row->value_size ||
	    own.payload_size != row->payload_size ||
	    memcmp(own.payload_sum, row->payload_sum, sizeof row->payload_sum) != 0)
		return false;
	seen->sum = says_all(&own, row) ? sum_of_head(head) : 0;
	return true;
}

/* The head of the file that was seen, to the last bit. */
static bool is_head_seen(terrace_slice head, const struct file_seen *seen, struct record *ret)
{
	return head.size == seen->head_size && terrace__record_read(head, ret) == TERRACE_OK &&
	       sum_of_head(head) == seen->sum && ret->payload_size == seen->payload_size;
}

/* Open the file of a row. */
static int open_file(struct files *files, uint64_t number, int *ret)
{
	struct file_name name = name_of(number);
	int fd = terrace__open_below(files->dir_fd, name.text, O_RDONLY | O_NONBLOCK, 0);

	if (fd == -ELOOP || fd == -ENOTDIR)
		return TERRACE_ECORRUPT; /* we write no links */
	if (fd < 0)
		return fd == -ENOENT ? TERRACE_MISS : failed(-fd, "open", name.text);
	*ret = fd;
	return TERRACE_OK;
}

static struct file_seen seen_of(uint64_t number, const struct record *row)
{
	enum file_layout layout = FILE_ENCODED;

	if (row->flags & RECORD_BLOCKS)
		layout = FILE_BLOCKS;
	else if (row->codec == TERRACE_CODEC_NONE)
		layout = FILE_PLAIN;
	/* Tags and sources of the file are those of the row: the head's size stands. */
	return (struct file_seen){ .number = number,
		                   .layout = layout,
		                   .head_size = record_size(row),
		                   .payload_size = row->payload_size };
}

/*
 * The parts of a file in one read. That nothing comes behind them is asked by a byte more,
 * which says what fstat() would, and what is no file cannot be read like one. The last of
 * the parts is for that byte.
 */
static int read_parts(int fd, uint64_t number, struct iovec *parts, int count, size_t size)
{
	struct stat st;
	size_t got;
	int rc = terrace__readv_full(fd, parts, count, size, &got);

	if (rc < 0 && fstat(fd, &st) == 0 && !S_ISREG(st.st_mode))
		return TERRACE_ECORRUPT;
	if (rc < 0)
		return terrace__files_failed(-rc, "read", number);
	return got == size ? TERRACE_OK : TERRACE_ECORRUPT;
}

/* Straight into the entry where the payload is the value. */
static int read_plain(int fd, struct file_seen *seen, const struct record *row, uint64_t hash,
                      struct entry **ret)
{
	CLEANUP(terrace__buf_done) struct buf head = { 0 };
	size_t size = (size_t)row->payload_size;
	struct entry *entry;
	char behind;
	int rc = terrace__record_shell(row, hash, TERRACE_L3, &entry);

	if (rc != TERRACE_OK)
		return rc;
	if (terrace__buf_reserve(&head, seen->head_size)) {
		struct iovec parts[] = { { head.data, seen->head_size },
			                 { entry_value(entry), size },
			                 { &behind, 1 } };

		rc = read_parts(fd, seen->number, parts, ARRAY_LEN(parts), seen->head_size + size);
	} else {
		rc = no_memory("a file");
	}
	if (rc == TERRACE_OK &&
	    (!is_head_of(terrace_bytes(head.data, seen->head_size), row, seen) ||
	     !terrace__record_holds(row, terrace_bytes(entry_value(entry), size))))
		rc = TERRACE_ECORRUPT;
	if (rc == TERRACE_OK)
		*ret = entry;
	else
		entry_unref(entry);
	return rc;
}

/* Of its row, or where that is NULL by what was seen. */
static int read_encoded(int fd, struct file_seen *seen, const struct record *row, uint64_t hash,
                        struct entry **ret)
{
	CLEANUP(terrace__buf_done) struct buf bytes = { 0 };
	size_t size = seen->head_size + (size_t)seen->payload_size;
	terrace_slice head, payload;
	struct iovec part;
	struct record own;
	struct stat st;
	int rc;

	/* Before allocating what may be any number: encoding makes little larger. */
	if (row && row->payload_size > row->value_size &&
	    (fstat(fd, &st) < 0 || (uint64_t)st.st_size != size))
		return TERRACE_ECORRUPT;
	if (seen->payload_size > SIZE_MAX / 2 || !terrace__buf_reserve(&bytes, size + 1))
		return no_memory("a file");
	part = (struct iovec){ bytes.data, size + 1 };
	rc = read_parts(fd, seen->number, &part, 1, size);
	if (rc != TERRACE_OK)
		return rc;
	head = terrace_bytes(bytes.data, seen->head_size);
	payload = terrace_bytes(bytes.data + head.size, (size_t)seen->payload_size);
	if (row ? !is_head_of(head, row, seen) : !is_head_seen(head, seen, &own))
		return TERRACE_ECORRUPT;
	return terrace__record_entry(row ? row : &own, payload, hash, TERRACE_L3, ret);
}

/* Of one in blocks: its size and its head, which is behind them, are right. */
static int check_blocks(int fd, struct file_seen *seen, const struct record *row)
{
	CLEANUP(terrace__buf_done) struct buf head = { 0 };
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return terrace__files_failed(errno, "look at", seen->number);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != seen->head_size + row->payload_size)
		return TERRACE_ECORRUPT;
	if (!terrace__buf_reserve(&head, seen->head_size))
		return no_memory("a file");
	rc = terrace__read_full(fd, head.data, seen->head_size, (off_t)row->payload_size,
	                        &head.size);
	if (rc < 0)
		return terrace__files_failed(-rc, "read", seen->number);
	return is_head_of(terrace_bytes(head.data, head.size), row, seen) ? TERRACE_OK :
	                                                                    TERRACE_ECORRUPT;
}

/* The descriptor goes over to it on success. */
static int open_blocks(int *fd, struct file_seen *seen, const struct record *row,
                       struct block_reader **ret)
{
	int rc = check_blocks(*fd, seen, row);

	if (rc == TERRACE_OK)
		rc = terrace__block_reader_new(*fd, seen->number, row, ret);
	if (rc == TERRACE_OK)
		*fd = -1;
	return rc;
}

static int read_blocks(int *fd, struct file_seen *seen, const struct record *row, uint64_t hash,
                       struct entry **ret)
{
	struct block_reader *blocks;
	struct entry *entry;
	int rc = open_blocks(fd, seen, row, &blocks);

	if (rc != TERRACE_OK)
		return rc;
	rc = terrace__record_shell(row, hash, TERRACE_L3, &entry);
	for (uint64_t i = 0; i < blocks->count && rc == TERRACE_OK; i++) {
		rc = terrace__block_reader_read(blocks, i, entry_value(entry) + i * BLOCK_BYTES);
		if (rc != TERRACE_OK)
			entry_unref(entry);
	}
	terrace__block_reader_free(blocks);
	if (rc == TERRACE_OK)
		*ret = entry;
	return rc;
}

static int read_by_row(int *fd, struct file_seen *seen, const struct record *row, uint64_t hash,
                       struct entry **ret)
{
	switch (seen->layout) {
	case FILE_BLOCKS:
		return read_blocks(fd, seen, row, hash, ret);
	case FILE_PLAIN:
		return read_plain(*fd, seen, row, hash, ret);
	case FILE_ENCODED:
		break;
	}
	return read_encoded(*fd, seen, row, hash, ret);
}

int terrace__files_read(struct files *files, uint64_t number, const struct record *row,
                        uint64_t hash, struct entry **ret, struct file_seen *ret_seen)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct file_seen seen = seen_of(number, row);
	int rc = open_file(files, number, &fd);

	if (rc == TERRACE_OK)
		rc = read_by_row(&fd, &seen, row, hash, ret);
	if (ret_seen)
		*ret_seen = seen;
	return rc;
}

int terrace__files_read_seen(struct files *files, const struct file_seen *seen, uint64_t hash,
                             struct entry **ret)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	CLEANUP(terrace__buf_done) struct buf head = { 0 };
	struct file_seen again = *seen;
	off_t at = seen->layout == FILE_BLOCKS ? (off_t)seen->payload_size : 0;
	struct record own;
	int rc = open_file(files, seen->number, &fd);

	if (rc != TERRACE_OK)
		return rc;
	if (seen->layout == FILE_ENCODED)
		return read_encoded(fd, &again, NULL, hash, ret);
	if (!terrace__buf_reserve(&head, seen->head_size))
		return no_memory("a file");
	rc = terrace__read_full(fd, head.data, seen->head_size, at, &head.size);
	if (rc < 0)
		return terrace__files_failed(-rc, "read", seen->number);
	if (!is_head_seen(terrace_bytes(head.data, head.size), seen, &own))
		return TERRACE_ECORRUPT;
	return read_by_row(&fd, &again, &own, hash, ret);
}

int terrace__files_open_value(struct files *files, uint64_t number, const struct record *row,
                              uint64_t hash, struct entry **ret, struct block_reader **ret_blocks)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct file_seen seen = seen_of(number, row);
	struct record empty = *row;
	struct block_reader *blocks;
	int rc;

	*ret_blocks = NULL;
	if (!(row->flags & RECORD_BLOCKS))
		return terrace__files_read(files, number, row, hash, ret, NULL);
	rc = open_file(files, number, &fd);
	if (rc == TERRACE_OK)
		rc = open_blocks(&fd, &seen, row, &blocks);
	if (rc != TERRACE_OK)
		return rc;
	empty.value_size = 0;
	rc = terrace__record_shell(&empty, hash, TERRACE_L3, ret);
	if (rc != TERRACE_OK) {
		terrace__block_reader_free(blocks);
		return rc;
	}
	*ret_blocks = blocks;
	return TERRACE_OK;
}

int terrace__files_check(struct files *files, uint64_t number, const struct record *row,
                         uint64_t hash)
{
	struct block_reader *blocks = NULL;
	struct entry *entry = NULL;
	int rc = terrace__files_open_value(files, number, row, hash, &entry, &blocks);
	void *block = NULL;

	if (rc == TERRACE_OK && blocks) {
		block = malloc(BLOCK_BYTES);
		rc = block ? TERRACE_OK : no_memory("a block");
	}
	for (uint64_t i = 0; blocks && i < blocks->count && rc == TERRACE_OK; i++)
		rc = terrace__block_reader_read(blocks, i, block);
	free(block);
	terrace__block_reader_free(blocks);
	entry_unref(entry);
	return rc;
}

/* --- in blocks ------------------------------------------------------------------ */

static struct file_name new_name_of(uint64_t number)
{
	struct file_name name;

	snprintf(name.text, sizeof name.text, "new/%016" PRIx64, number);
	return name;
}

int terrace__files_blocks_new(struct files *files, uint64_t number, terrace_codec codec,
                              struct block_writer **ret)
{
	struct file_name name = new_name_of(number);
	CLEANUP(terrace__fd_done) int fd = -1;
	int rc;

	if (faccessat(files->dir_fd, name_of(number).text, F_OK, 0) == 0)
		return TERRACE_EXISTS;
	fd = make(files, &name, 3);
	if (fd < 0)
		return fd == -EEXIST ? TERRACE_EXISTS : failed(-fd, "make", name.text);
	rc = hold(fd);
	if (rc == -EEXIST)
		return TERRACE_EXISTS;
	rc = rc < 0 ? failed(-rc, "lock", name.text) :
	              terrace__block_writer_new(fd, number, codec, ret);
	if (rc == TERRACE_OK)
		fd = -1;
	else
		unlinkat(files->dir_fd, name.text, 0);
	return rc;
}

/* Into its directory. */
static int place(struct files *files, uint64_t number)
{
	struct file_name from = new_name_of(number), to = name_of(number);
	char directory[3] = { to.text[0], to.text[1], '\0' };

	if (mkdirat(files->dir_fd, directory, 0700) < 0 && errno != EEXIST)
		return failed(errno, "make the directory of", to.text);
	if (renameat(files->dir_fd, from.text, files->dir_fd, to.text) < 0)
		return failed(errno, "name", to.text);
	return TERRACE_OK;
}

int terrace__files_blocks_keep(struct files *files, struct block_writer *writer,
                               struct record *record, int *ret_fd)
{
	int rc = terrace__block_writer_end(writer, record);

	if (rc == TERRACE_OK)
		rc = place(files, writer->number);
	if (rc != TERRACE_OK)
		return rc;
	*ret_fd = writer->fd;
	writer->fd = -1;
	terrace__block_writer_free(writer);
	return TERRACE_OK;
}

void terrace__files_blocks_drop(struct files *files, struct block_writer *writer)
{
	if (!writer)
		return;
	unlinkat(files->dir_fd, new_name_of(writer->number).text, 0);
	terrace__block_writer_free(writer);
}

/* Locked, so that whoever has just made it sees that it is gone, or we leave it alone. */
static void sweep_one(int dir_fd, const char *name)
{
	CLEANUP(terrace__fd_done) int fd = -1;

	fd = openat(dir_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && terrace__lock_try(fd, 0, true) == 0)
		unlinkat(dir_fd, name, 0);
}

void terrace__files_sweep(struct files *files)
{
	int fd = openat(files->dir_fd, "new", O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
	struct dirent *item;
	DIR *dir;

	if (fd < 0)
		return; /* nothing was ever written there */
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return;
	}
	while ((item = readdir(dir))) {
		if (item->d_name[0] != '.')
			sweep_one(dirfd(dir), item->d_name);
	}
	closedir(dir);
}

void terrace__files_remove(struct files *files, uint64_t number)
{
	struct file_name name = name_of(number);

	terrace__unlink_below(files->dir_fd, name.text);
}

/* One directory: "." or one of the 256. */
static int each_in(struct files *files, const char *path, files_visit_fn *visit, void *ctx,
                   bool *go_on)
{
	struct dirent *item;
	DIR *dir;
	int fd;

	fd = openat(files->dir_fd, path, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? TERRACE_OK : failed(errno, "list", path);
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return no_memory("a directory");
	}
	while (*go_on && (item = readdir(dir))) {
		char below[300];
		uint64_t number;
		struct stat st;

		snprintf(below, sizeof below, "%s/%s", path, item->d_name);
		if (fstatat(files->dir_fd, below, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		    S_ISDIR(st.st_mode))
			continue;
		number = strtoull(item->d_name, NULL, 16);
		if (strcmp(name_of(number).text, below) != 0)
			number = 0;
		*go_on = visit(ctx, below, number, (uint64_t)st.st_size);
	}
	closedir(dir);
	return TERRACE_OK;
}

int terrace__files_each(struct files *files, files_visit_fn *visit, void *ctx)
{
	bool go_on = true;
	int rc = each_in(files, ".", visit, ctx, &go_on);

	for (unsigned i = 0; i < DIRECTORIES && go_on && rc == TERRACE_OK; i++) {
		char path[3];

		snprintf(path, sizeof path, "%02x", i & 255);
		rc = each_in(files, path, visit, ctx, &go_on);
	}
	return rc;
}

bool terrace__files_has(struct files *files, const char *path)
{
	return faccessat(files->dir_fd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
}

int terrace__files_remove_path(struct files *files, const char *path)
{
	int rc = terrace__unlink_below(files->dir_fd, path);

	if (rc < 0 && rc != -ENOENT)
		return failed(-rc, "remove", path);
	return TERRACE_OK;
}

bool terrace__files_busy(struct files *files, uint64_t number)
{
	struct file_name name = name_of(number);
	CLEANUP(terrace__fd_done) int fd = -1;

	fd = terrace__open_below(files->dir_fd, name.text, O_RDONLY | O_NONBLOCK, 0);
	/* Who cannot look must not say that it is not. */
	return fd >= 0 ? terrace__lock_try(fd, 0, false) != 0 : fd != -ENOENT;
}

uint64_t terrace__files_charge(uint64_t bytes)
{
	return (bytes + 4095) / 4096 * 4096;
}
