/* A result as it is stored: exit status, output in order, files with their modes. */
#include "builds/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESULT_MAGIC UINT64_C(0x325452554e525254) /* changes with the layout */
/* More than a command line names; so that no damage asks for more memory than there is. */
enum { OUTPUTS_MAX = 1 << 20 };

/* --- packing ------------------------------------------------------------------------------------ */

void pack_u64(FILE *out, uint64_t value)
{
	for (int i = 0; i < 8; i++)
		fputc((int)(value >> (8 * i) & 255), out);
}

void pack_bytes(FILE *out, const void *data, size_t size)
{
	pack_u64(out, size);
	if (size)
		fwrite(data, 1, size, out);
}

struct unpack unpack_value(terrace_value *value)
{
	/* Of no bytes there is no file, which is the same. */
	FILE *file = fmemopen((void *)(uintptr_t)terrace_data(value), terrace_size(value), "r");

	return (struct unpack){ .file = file, .failed = !file };
}

void unpack_done(struct unpack *in)
{
	if (in->file)
		fclose(in->file);
}

bool unpack_more(struct unpack *in)
{
	int c = in->failed ? EOF : getc(in->file);

	return c != EOF && ungetc(c, in->file) != EOF;
}

bool unpack_exactly(struct unpack *in, void *ret, size_t size)
{
	if (!in->failed && size > 0)
		in->failed = fread(ret, 1, size, in->file) != size;
	return !in->failed;
}

uint64_t unpack_u64(struct unpack *in)
{
	unsigned char bytes[8];
	uint64_t value = 0;

	if (!unpack_exactly(in, bytes, sizeof bytes))
		return 0;
	for (int i = 0; i < 8; i++)
		value |= (uint64_t)bytes[i] << (8 * i);
	return value;
}

bool unpack_path(struct unpack *in, char ret[PATH_MAX])
{
	uint64_t size = unpack_u64(in);

	in->failed = in->failed || size == 0 || size >= PATH_MAX;
	if (!unpack_exactly(in, ret, (size_t)size))
		return false;
	ret[size] = '\0';
	in->failed = strlen(ret) != size;
	return !in->failed;
}

static ssize_t writer_write(void *cookie, const char *data, size_t size)
{
	return terrace_writer_write(cookie, terrace_bytes(data, size)) == TERRACE_OK ?
	           (ssize_t)size :
	           0;
}

FILE *result_writer(terrace_writer *writer)
{
	return fopencookie(writer, "w", (cookie_io_functions_t){ .write = writer_write });
}

struct reading {
	terrace_reader *reader;
	uint64_t at;
};

static ssize_t reader_read(void *cookie, char *ret, size_t size)
{
	struct reading *reading = cookie;
	size_t got;

	if (terrace_reader_read(reading->reader, reading->at, ret, size, &got) != TERRACE_OK)
		return -1;
	reading->at += got;
	return (ssize_t)got;
}

static int reader_done(void *cookie)
{
	free(cookie);
	return 0;
}

FILE *result_reader(terrace_reader *reader)
{
	struct reading *reading = malloc(sizeof *reading);
	FILE *file;

	if (!reading)
		return NULL;
	*reading = (struct reading){ reader, 0 };
	file = fopencookie(reading, "r",
	                   (cookie_io_functions_t){ .read = reader_read, .close = reader_done });
	if (!file)
		free(reading);
	return file;
}

/* --- storing -------------------------------------------------------------------------------------- */

int outputs_init(struct outputs *outputs, const struct run_spec *spec)
{
	size_t count = spec->depfile ? 1 : 0;

	for (size_t i = 0; spec->outputs[i]; i++)
		count++;
	*outputs = (struct outputs){ .paths = calloc(count + 1, sizeof *outputs->paths),
		                     .before = calloc(count + 1, sizeof *outputs->before),
		                     .links = calloc(count + 1, sizeof *outputs->links),
		                     .count = count };
	if (!outputs->paths || !outputs->before || !outputs->links) {
		outputs_done(outputs);
		return -1;
	}
	for (size_t i = 0; i < count; i++) {
		outputs->paths[i] = spec->outputs[i] ? spec->outputs[i] : spec->depfile;
		stamp_take(outputs->paths[i], &outputs->before[i]);
		stamp_link(outputs->paths[i], &outputs->links[i]);
	}
	return 0;
}

void outputs_done(struct outputs *outputs)
{
	free(outputs->paths);
	free(outputs->before);
	free(outputs->links);
	*outputs = (struct outputs){ 0 };
}

/* What lies there from before says nothing of the command. */
static bool was_written(const struct outputs *outputs, size_t i)
{
	struct stamp now;

	stamp_take(outputs->paths[i], &now);
	return !stamp_same(&now, &outputs->before[i]);
}

/* A link that is a command's work would come back as a file, or be written through. */
static bool is_new_link(const struct outputs *outputs, size_t i)
{
	struct stamp now, none = { { 0 } };

	stamp_link(outputs->paths[i], &now);
	return !stamp_same(&now, &outputs->links[i]) && !stamp_same(&now, &none);
}

static int pack_file(FILE *out, const struct place *place, const char *path)
{
	char name[PATH_MAX], chunk[65536];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t left;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    place_name(place, path, name) < 0) {
		note("the command did not write the file %s: %s; its result is not kept", path,
		     fd < 0 ? strerror(errno) : "it is no regular file");
		if (fd >= 0)
			close(fd);
		return -1;
	}
	pack_bytes(out, name, strlen(name));
	pack_u64(out, st.st_mode & 07777);
	pack_u64(out, (uint64_t)st.st_size);
	for (left = (uint64_t)st.st_size; left > 0 && !ferror(out); left -= (uint64_t)n) {
		n = read(fd, chunk, left < sizeof chunk ? left : sizeof chunk);
		if (n < 0 && errno == EINTR)
			n = 0;
		else if (n <= 0)
			break;
		fwrite(chunk, 1, (size_t)n, out);
	}
	close(fd);
	if (left > 0 && !ferror(out)) {
		note("%s changed while it was read; the result is not kept", path);
		return -1;
	}
	return 0;
}

/* The files, in the order of their options. Which of them a command that failed wrote is its result. */
static int pack_files(FILE *out, const struct capture *capture, const struct place *place,
                      const struct outputs *outputs)
{
	for (size_t i = 0; i < outputs->count && !ferror(out); i++) {
		const char *path = outputs->paths[i];
		bool written = was_written(outputs, i), there = access(path, F_OK) == 0;

		if (is_new_link(outputs, i)) {
			note("the command made %s a link; its result is not kept", path);
			return -1;
		}
		/* Nothing is taken away when a result is given back. */
		if (!there && (written || capture->exit_status == 0)) {
			note("the command %s the file %s; its result is not kept",
			     written ? "removed" : "did not write", path);
			return -1;
		}
		if (!written && capture->exit_status == 0) {
			note("the command did not write the file %s: it is as it was before; its "
			     "result is not kept",
			     path);
			return -1;
		}
		pack_u64(out, written);
		if (written && pack_file(out, place, path) < 0)
			return -1;
	}
	return 0;
}

int result_pack(FILE *out, const struct capture *capture, const struct place *place,
                const struct outputs *outputs)
{
	pack_u64(out, RESULT_MAGIC);
	pack_u64(out, (uint64_t)capture->exit_status);
	pack_u64(out, outputs->count);
	if (pack_files(out, capture, place, outputs) < 0)
		return -1;
	pack_u64(out, capture->count);
	pack_u64(out, capture->bytes);
	for (size_t i = 0; i < capture->count && !ferror(out); i++) {
		pack_u64(out, (uint64_t)capture->chunks[i].stream);
		pack_bytes(out, capture->chunks[i].data, capture->chunks[i].size);
	}
	fflush(out);
	if (!ferror(out))
		return 0;
	note("warning: the result is not kept: %s", terrace_error_message());
	return -1;
}

/* --- replaying -------------------------------------------------------------------------------------- */

static int make_parents(char *path)
{
	for (char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
		int failed;

		*slash = '\0';
		failed = mkdir(path, 0777) < 0 && errno != EEXIST;
		*slash = '/';
		if (failed)
			return -1;
	}
	return 0;
}

int write_whole(int fd, terrace_slice bytes)
{
	const char *at = bytes.data;
	size_t left = bytes.size;

	while (left > 0) {
		ssize_t n = write(fd, at, left);

		if (n < 0 && errno != EINTR)
			return -1;
		if (n > 0) {
			at += n;
			left -= (size_t)n;
		}
	}
	return 0;
}

/* A command writes through a link; so do we. */
static void follow_links(char path[PATH_MAX])
{
	enum { LINKS_MAX = 40 }; /* as many as the kernel follows */

	for (int i = 0; i < LINKS_MAX; i++) {
		char target[PATH_MAX], joined[2 * PATH_MAX];
		ssize_t size = readlink(path, target, sizeof target - 1);
		const char *slash = strrchr(path, '/');

		if (size <= 0)
			return;
		target[size] = '\0';
		snprintf(joined, sizeof joined, "%.*s%s",
		         *target == '/' || !slash ? 0 : (int)(slash - path) + 1, path, target);
		if (strlen(joined) >= PATH_MAX)
			return;
		strcpy(path, joined);
	}
}

static int write_bytes(struct unpack *in, int fd, uint64_t size)
{
	char chunk[65536];

	while (size > 0) {
		size_t part = size < sizeof chunk ? (size_t)size : sizeof chunk;

		if (!unpack_exactly(in, chunk, part) ||
		    write_whole(fd, terrace_bytes(chunk, part)) < 0)
			return -1;
		size -= part;
	}
	return 0;
}

/* A device or a pipe is written to, which is not for us; errno says so. */
static bool may_replace(const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0 || S_ISREG(st.st_mode))
		return true;
	errno = EEXIST;
	return false;
}

/* Beside its place, under a name of our own: nobody sees half of it. */
static int write_beside(struct unpack *in, char path[PATH_MAX], mode_t mode, uint64_t size,
                        char temporary[PATH_MAX])
{
	int fd;

	follow_links(path);
	if (!may_replace(path))
		return -1;
	if (snprintf(temporary, PATH_MAX, "%s.terrace-XXXXXX", path) >= PATH_MAX ||
	    make_parents(path) < 0)
		return -1;
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		return -1;
	if (write_bytes(in, fd, size) < 0 || fchmod(fd, mode) < 0) {
		close(fd);
		unlink(temporary);
		return -1;
	}
	return close(fd);
}

struct restored {
	char temporary[PATH_MAX], path[PATH_MAX];
};

static int restore_file(struct unpack *in, const struct place *place, struct restored *file)
{
	char name[PATH_MAX];
	mode_t mode;
	uint64_t size;

	unpack_path(in, name);
	mode = (mode_t)unpack_u64(in);
	size = unpack_u64(in);
	if (!in->failed && place_path(place, name, file->path) == 0 &&
	    write_beside(in, file->path, mode, size, file->temporary) == 0)
		return 0;
	note("cannot bring back %s: %s", in->failed ? "a file" : file->path,
	     in->failed ? "the result is damaged" : strerror(errno));
	return -1;
}

/* Until restored_end() they lie beside their places, so that a failure changes nothing. */
static int restore_files(struct unpack *in, const struct place *place, struct restored *files,
                         uint64_t count, uint64_t *ret_ready)
{
	for (uint64_t i = 0; i < count; i++) {
		uint64_t written = unpack_u64(in);

		if (in->failed || written > 1) {
			note("cannot bring back a file: the result is damaged");
			return -1;
		}
		if (written && restore_file(in, place, &files[*ret_ready]) < 0)
			return -1;
		*ret_ready += written;
	}
	return 0;
}

static int restored_end(const struct restored *files, uint64_t ready, int status)
{
	for (uint64_t i = 0; i < ready; i++) {
		if (status == 0 && rename(files[i].temporary, files[i].path) < 0) {
			note("cannot bring back %s: %s", files[i].path, strerror(errno));
			status = -1;
		}
		if (status < 0)
			unlink(files[i].temporary);
	}
	return status;
}

/* What the command wrote to its streams: all of it is here before any of it is given back. */
static int read_chunks(struct unpack *in, struct capture *ret)
{
	uint64_t count = unpack_u64(in), bytes = unpack_u64(in);

	if (in->failed || count > bytes || bytes > SIZE_MAX / 2 || count > SIZE_MAX / 64)
		return -1;
	ret->chunks = calloc((size_t)count + 1, sizeof *ret->chunks);
	for (; ret->chunks && ret->count < count && !in->failed; ret->count++) {
		struct chunk *chunk = &ret->chunks[ret->count];
		uint64_t size;

		chunk->stream = unpack_u64(in) == 2 ? STDERR_FILENO : STDOUT_FILENO;
		size = unpack_u64(in);
		if (in->failed || size > bytes - ret->bytes)
			return -1;
		chunk->size = (size_t)size;
		chunk->data = malloc(chunk->size + 1);
		if (!chunk->data)
			return -1;
		ret->bytes += chunk->size;
		unpack_exactly(in, chunk->data, chunk->size);
	}
	return ret->chunks && !in->failed ? 0 : -1;
}

static int give_back(const struct capture *capture, int status)
{
	for (size_t i = 0; i < capture->count; i++) {
		const struct chunk *chunk = &capture->chunks[i];

		if (write_whole(chunk->stream, terrace_bytes(chunk->data, chunk->size)) < 0 &&
		    chunk->stream == STDOUT_FILENO)
			return output_lost(status, errno);
	}
	return status;
}

int result_replay(FILE *file, const struct place *place, int *ret_status)
{
	struct unpack in = { .file = file };
	struct capture capture = { 0 };
	struct restored *files = NULL;
	uint64_t magic = unpack_u64(&in), status = unpack_u64(&in), count = unpack_u64(&in);
	uint64_t ready = 0;
	int rc = -1;

	if (!in.failed && magic == RESULT_MAGIC && status <= 255 && count <= OUTPUTS_MAX)
		files = calloc((size_t)count + 1, sizeof *files);
	if (files) {
		rc = restore_files(&in, place, files, count, &ready);
		if (rc == 0)
			rc = read_chunks(&in, &capture);
		rc = restored_end(files, ready, rc);
	}
	if (rc == 0)
		*ret_status = give_back(&capture, (int)status);
	capture_done(&capture);
	free(files);
	return rc;
}
