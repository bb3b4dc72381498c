/* Parsing large files where a crash hurts nobody. */
#include "repomap/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * At most so many tokens are parsed in this process: libtree-sitter 0.20.7 counts a
 * node's children in 16 bits and writes over memory beyond that. What has more is
 * parsed in a child, which may crash.
 */
enum { TOKENS_HERE = 30000, CHILD_SECONDS = 60 };

static bool is_large(const struct text *source)
{
	size_t tokens = 0;
	bool in_word = false;

	for (size_t i = 0; i < source->size; i++) {
		uint8_t c = (uint8_t)source->data[i];
		bool is_word = c >= 0x80 || c == '_' || (c >= '0' && c <= '9') ||
		               (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');

		/* A newline can be a token, and an indentation that it ends. */
		tokens += (is_word && !in_word) || (!is_word && c > ' ') || c == '\n';
		in_word = is_word;
	}
	return tokens > TOKENS_HERE;
}

static void write_packed(int fd, const struct text *packed)
{
	size_t at = 0;

	while (at < packed->size) {
		ssize_t n = write(fd, packed->data + at, packed->size - at);

		if (n < 0 && errno != EINTR)
			_exit(1);
		at += n > 0 ? (size_t)n : 0;
	}
	_exit(0);
}

static bool read_packed(int fd, struct text *ret)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || st.st_size <= 0)
		return false;
	ret->data = rm_grow(ret->data, &ret->capacity, (size_t)st.st_size, 1);
	while (ret->size < (size_t)st.st_size) {
		ssize_t n = pread(fd, ret->data + ret->size, (size_t)st.st_size - ret->size,
		                  (off_t)ret->size);

		if (n == 0 || (n < 0 && errno != EINTR))
			return false;
		ret->size += n > 0 ? (size_t)n : 0;
	}
	return true;
}

static int tag_in_child(struct tagger *tagger, const struct grammar *grammar,
                        const struct text *source, const struct file *file, struct text *ret)
{
	int fd = memfd_create("tags", MFD_CLOEXEC), status = -1, rc = TERRACE_EFORMAT;
	pid_t pid = fd >= 0 ? fork() : -1;

	if (pid == 0) {
		const struct rlimit none = { 0, 0 };
		struct text packed = { 0 };
		int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);

		dup2(quiet, 2); /* the allocator's last words are of no use to people */
		setrlimit(RLIMIT_CORE, &none);
		alarm(CHILD_SECONDS); /* a query has no time-out of its own */
		if (tagger_run(tagger, grammar, source->data, source->size, &file->digest,
		               (file->flags & FILE_MENDED) != 0, &packed) != TERRACE_OK)
			_exit(2);
		write_packed(fd, &packed);
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid > 0 && ((WIFEXITED(status) && WEXITSTATUS(status) == 2) ||
	                (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)))
		rc = TERRACE_EBUSY;
	else if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 && read_packed(fd, ret))
		rc = TERRACE_OK;
	if (fd >= 0)
		close(fd);
	return rc;
}

int tag_source(struct tagger *tagger, const struct grammar *grammar, const struct text *source,
               const struct file *file, struct text *ret)
{
	if (is_large(source))
		return tag_in_child(tagger, grammar, source, file, ret);
	return tagger_run(tagger, grammar, source->size ? source->data : "", source->size,
	                  &file->digest, (file->flags & FILE_MENDED) != 0, ret);
}
