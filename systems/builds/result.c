/* A result as it is stored: exit status, output in order, files with their modes. */
#include "builds/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESULT_MAGIC UINT64_C(0x315452554e525254) /* changes with the layout */

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

uint64_t unpack_u64(struct unpack *in)
{
	uint64_t value = 0;

	if (in->failed || in->end - in->at < 8) {
		in->failed = true;
		return 0;
	}
	for (int i = 0; i < 8; i++)
		value |= (uint64_t)*in->at++ << (8 * i);
	return value;
}

terrace_slice unpack_bytes(struct unpack *in)
{
	uint64_t size = unpack_u64(in);
	terrace_slice bytes = { NULL, 0 };

	if (in->failed || size > (uint64_t)(in->end - in->at)) {
		in->failed = true;
		return bytes;
	}
	bytes = terrace_bytes(in->at, (size_t)size);
	in->at += size;
	return bytes;
}

bool unpack_path(struct unpack *in, char ret[PATH_MAX])
{
	terrace_slice bytes = unpack_bytes(in);

	if (in->failed || bytes.size == 0 || bytes.size >= PATH_MAX ||
	    memchr(bytes.data, 0, bytes.size)) {
		in->failed = true;
		return false;
	}
	memcpy(ret, bytes.data, bytes.size);
	ret[bytes.size] = '\0';
	return true;
}

/* --- storing -------------------------------------------------------------------------------------- */

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
	for (left = (uint64_t)st.st_size; left > 0; left -= (uint64_t)n) {
		n = read(fd, chunk, left < sizeof chunk ? left : sizeof chunk);
		if (n < 0 && errno == EINTR)
			n = 0;
		else if (n <= 0)
			break;
		fwrite(chunk, 1, (size_t)n, out);
	}
	close(fd);
	if (left > 0) {
		note("%s changed while it was read; the result is not kept", path);
		return -1;
	}
	return 0;
}

int result_pack(const struct capture *capture, const struct place *place,
                const char *const *outputs, const char *depfile, char **ret, size_t *ret_size)
{
	FILE *out = open_memstream(ret, ret_size);
	size_t count = depfile ? 1 : 0;
	int status = 0;

	if (!out)
		return -1;
	for (size_t i = 0; outputs[i]; i++)
		count++;
	pack_u64(out, RESULT_MAGIC);
	pack_u64(out, (uint64_t)capture->exit_status);
	pack_u64(out, count);
	for (size_t i = 0; outputs[i] && status == 0; i++)
		status = pack_file(out, place, outputs[i]);
	if (depfile && status == 0)
		status = pack_file(out, place, depfile);
	pack_u64(out, capture->count);
	for (size_t i = 0; i < capture->count; i++) {
		pack_u64(out, (uint64_t)capture->chunks[i].stream);
		pack_bytes(out, capture->chunks[i].data, capture->chunks[i].size);
	}
	if (ferror(out) && status == 0) {
		note("out of memory for the result; it is not kept");
		status = -1;
	}
	if (fclose(out) != 0)
		status = -1;
	if (status < 0) {
		free(*ret);
		*ret = NULL;
	}
	return status;
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

/* Beside its place, under a name of our own: nobody sees half of it. */
static int write_beside(char path[PATH_MAX], mode_t mode, terrace_slice bytes,
                        char temporary[PATH_MAX])
{
	int fd;

	if (snprintf(temporary, PATH_MAX, "%s.terrace-XXXXXX", path) >= PATH_MAX ||
	    make_parents(path) < 0)
		return -1;
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		return -1;
	if (write_whole(fd, bytes) < 0 || fchmod(fd, mode) < 0) {
		close(fd);
		unlink(temporary);
		return -1;
	}
	return close(fd);
}

struct restored {
	char temporary[PATH_MAX], path[PATH_MAX];
};

/* All of them beside their places first, so that a failure changes nothing. */
static int restore_files(struct unpack *in, const struct place *place)
{
	uint64_t count = unpack_u64(in), ready = 0;
	struct restored *files;
	int status = 0;

	if (in->failed || count > (uint64_t)(in->end - in->at))
		return -1;
	files = calloc(count + 1, sizeof *files);
	for (; files && ready < count && status == 0; ready++) {
		char name[PATH_MAX];
		mode_t mode;
		terrace_slice bytes;

		unpack_path(in, name);
		mode = (mode_t)unpack_u64(in);
		bytes = unpack_bytes(in);
		if (in->failed || place_path(place, name, files[ready].path) < 0 ||
		    write_beside(files[ready].path, mode, bytes, files[ready].temporary) < 0) {
			note("cannot bring back %s: %s", in->failed ? "a file" : files[ready].path,
			     in->failed ? "the result is damaged" : strerror(errno));
			status = -1;
			break;
		}
	}
	for (uint64_t i = 0; files && i < ready; i++) {
		if (status == 0 && rename(files[i].temporary, files[i].path) < 0) {
			note("cannot bring back %s: %s", files[i].path, strerror(errno));
			status = -1;
		}
		if (status < 0)
			unlink(files[i].temporary);
	}
	free(files);
	return files ? status : -1;
}

int result_replay(terrace_slice result, const struct place *place, int *ret_status)
{
	struct unpack in = { result.data, (const unsigned char *)result.data + result.size, false };
	uint64_t chunks, status;

	if (unpack_u64(&in) != RESULT_MAGIC)
		return -1;
	status = unpack_u64(&in);
	if (status > 255 || restore_files(&in, place) < 0)
		return -1;
	chunks = unpack_u64(&in);
	*ret_status = (int)status;
	for (uint64_t i = 0; i < chunks && !in.failed; i++) {
		uint64_t stream = unpack_u64(&in);
		terrace_slice bytes = unpack_bytes(&in);
		int fd = stream == 2 ? STDERR_FILENO : STDOUT_FILENO;

		if (!in.failed && write_whole(fd, bytes) < 0 && fd == STDOUT_FILENO) {
			*ret_status = output_lost((int)status, errno);
			break;
		}
	}
	return 0;
}
