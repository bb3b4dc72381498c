/*
 * What the fuzz targets of the core share. Each target is one file with one
 * LLVMFuzzerTestOneInput(); with libFuzzer it runs by `make fuzz`, and in an
 * ordinary build replay.c gives it what is kept in tests/fuzz/corpus.
 */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include <terrace/terrace.h>

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define must(holds, what) must_at((holds), (what), __FILE__, __LINE__)
static inline void must_at(bool holds, const char *what, const char *file, int line)
{
	if (holds)
		return;
	fprintf(stderr, "%s:%d: this does not hold: %s\n", file, line, what);
	abort();
}

static inline bool same_bytes(terrace_slice a, terrace_slice b)
{
	return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* The input, taken piece by piece; what is not there is zero or empty. */
struct input {
	const uint8_t *at, *end;
};

static inline uint8_t take_u8(struct input *in)
{
	return in->at < in->end ? *in->at++ : 0;
}

static inline uint32_t take_u24(struct input *in)
{
	uint32_t low = take_u8(in), middle = take_u8(in);

	return low | middle << 8 | (uint32_t)take_u8(in) << 16;
}

static inline terrace_slice take_bytes(struct input *in, size_t size)
{
	size_t there = (size_t)(in->end - in->at);
	terrace_slice bytes = terrace_bytes(in->at, size < there ? size : there);

	in->at += bytes.size;
	return bytes;
}

/* Up to the separator, which goes too, or the end. */
static inline terrace_slice take_until(struct input *in, uint8_t separator)
{
	const uint8_t *start = in->at;
	const uint8_t *found = in->at < in->end ?
	                           memchr(in->at, separator, (size_t)(in->end - in->at)) :
	                           NULL;
	terrace_slice bytes;

	in->at = found ? found : in->end;
	bytes = terrace_bytes(start, (size_t)(in->at - start));
	in->at += found != NULL;
	return bytes;
}

static inline int fuzz_remove_one(const char *path, const struct stat *st, int type,
                                  struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static inline void fuzz_remove(const char *path)
{
	nftw(path, fuzz_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static char fuzz_folder_path[64];

static inline void fuzz_at_exit(void)
{
	fuzz_remove(fuzz_folder_path);
}

/* A folder of this process: in FUZZ_FOLDER, or on a file system in memory where there is one. */
static inline const char *fuzz_folder(void)
{
	char *path = fuzz_folder_path;

	if (!*path) {
		const char *base = getenv("FUZZ_FOLDER");

		if (!base)
			base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
		snprintf(path, sizeof fuzz_folder_path, "%.40s/terrace-fuzz-XXXXXX", base);
		must(mkdtemp(path) != NULL, "a folder can be made");
		atexit(fuzz_at_exit);
	}
	return path;
}

static inline void fuzz_path(const char *name, char ret[256])
{
	snprintf(ret, 256, "%s/%s", fuzz_folder(), name);
}

static inline void fuzz_write(const char *path, terrace_slice bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	must(fd >= 0 && write(fd, bytes.data, bytes.size) == (ssize_t)bytes.size,
	     "a file can be written");
	close(fd);
}

#endif
