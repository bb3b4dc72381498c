/* Which files a repository has: ask git, or walk. */
#include "repomap/parts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

struct lister {
	char *root;
	pid_t git; /* 0: there is none to ask */
	int out;
};

/* --- walking ------------------------------------------------------------------------------- */

enum { DEPTH_MAX = 200 };

struct walk {
	struct text *names;
	char path[PATH_MAX];
};

static void walk_folder(struct walk *walk, int parent, const char *name, size_t size,
                        const struct ignore *above, int depth);

static void walk_entry(struct walk *walk, int fd, const struct dirent *entry, size_t size,
                       const struct ignore *ignore, int depth)
{
	unsigned char type = entry->d_type;
	size_t length = strlen(entry->d_name), start = size ? size + 1 : 0;

	if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
	    strcmp(entry->d_name, ".git") == 0 || start + length >= sizeof walk->path)
		return;
	if (type == DT_UNKNOWN) {
		struct stat st;

		if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			type = S_ISDIR(st.st_mode) ? DT_DIR : S_ISREG(st.st_mode) ? DT_REG : DT_LNK;
	}
	if (type != DT_DIR && type != DT_REG) /* links are not followed: no loops, no doubles */
		return;
	if (size)
		walk->path[size] = '/';
	memcpy(walk->path + start, entry->d_name, length + 1);
	if (ignore_matches(ignore, walk->path, type == DT_DIR))
		return;
	if (type == DT_REG)
		text_add(walk->names, walk->path, start + length + 1);
	else if (depth < DEPTH_MAX)
		walk_folder(walk, fd, entry->d_name, start + length, ignore, depth + 1);
}

/* walk->path[0 .. size) is the folder; a folder that cannot be opened holds nothing for us. */
static void walk_folder(struct walk *walk, int parent, const char *name, size_t size,
                        const struct ignore *above, int depth)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
	struct ignore *own;
	struct dirent *entry;

	if (!stream) {
		if (fd >= 0)
			close(fd);
		return;
	}
	walk->path[size] = '\0';
	own = ignore_read(fd, walk->path, above);
	while ((entry = readdir(stream)))
		walk_entry(walk, fd, entry, size, own ? own : above, depth);
	closedir(stream);
	ignore_free(own);
}

/* --- git ------------------------------------------------------------------------------------- */

/* Is a folder on the way up a repository? Saves starting git where it would only say no. */
static bool in_repository(const char *root)
{
	char path[PATH_MAX + 8];
	size_t size = strlen(root);

	if (getenv("GIT_DIR"))
		return true;
	if (size >= PATH_MAX)
		return false;
	memcpy(path, root, size + 1);
	for (;;) {
		strcpy(path + size, "/.git");
		if (access(path, F_OK) == 0)
			return true;
		if (size == 0)
			return false;
		do
			size--;
		while (size > 0 && path[size] != '/');
	}
}

static void start_git(struct lister *lister)
{
	/* fsmonitor would run a program that the repository names. */
	const char *const argv[] = {
		"git",      "-C", lister->root, "-c",       "core.fsmonitor=false",
		"ls-files", "-z", "--cached",   "--others", "--exclude-standard",
		NULL
	};
	posix_spawn_file_actions_t actions;
	int pipes[2];

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, pipes[1], 1);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
	if (posix_spawnp(&lister->git, "git", &actions, NULL, (char **)(uintptr_t)argv, environ) !=
	    0)
		lister->git = 0;
	posix_spawn_file_actions_destroy(&actions);
	close(pipes[1]);
	lister->out = pipes[0];
	if (!lister->git)
		close(pipes[0]);
}

/* False when git failed, or knows of nothing here: a folder that is itself ignored. */
static bool finish_git(struct lister *lister, struct text *names)
{
	int status = 0;
	ssize_t n;

	do {
		names->data = rm_grow(names->data, &names->capacity, names->size + (64 << 10), 1);
		n = read(lister->out, names->data + names->size, names->capacity - names->size);
		if (n > 0)
			names->size += (size_t)n;
	} while (n > 0 || (n < 0 && errno == EINTR));
	close(lister->out);
	while (waitpid(lister->git, &status, 0) < 0 && errno == EINTR)
		;
	if (n == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 && names->size > 0 &&
	    names->data[names->size - 1] == '\0')
		return true;
	names->size = 0;
	return false;
}

struct lister *listing_begin(const char *root)
{
	struct lister *lister = rm_take(1, sizeof *lister);

	lister->root = strdup(root);
	if (lister->root && in_repository(root))
		start_git(lister);
	return lister;
}

int listing_finish(struct lister *lister, struct listing *ret)
{
	int err = 0;

	if (!lister->git || !finish_git(lister, &ret->names)) {
		struct walk walk = { .names = &ret->names };
		int fd = lister->root ? open(lister->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

		if (fd < 0)
			err = errno;
		else
			walk_folder(&walk, fd, ".", 0, NULL, 0);
		if (fd >= 0)
			close(fd);
	}
	ret->digest = terrace_digest_bytes(terrace_bytes(ret->names.data, ret->names.size));
	free(lister->root);
	free(lister);
	return err;
}
