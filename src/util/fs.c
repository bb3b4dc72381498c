#include "util/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

void terrace__fd_done(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

int terrace__read_full(int fd, void *data, size_t size, off_t offset, size_t *ret_read)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = pread(fd, (char *)data + done, size - done, offset + (off_t)done);

		if (n == 0)
			break;
		if (n > 0)
			done += (size_t)n;
		else if (errno != EINTR)
			return -errno;
	}
	*ret_read = done;
	return 0;
}

/* --- writing ------------------------------------------------------------------------------------ */

static _Thread_local struct {
	unsigned depth;
	bool blocks; /* the signal, for as long as we are within */
	bool met;
	sigset_t before;
} limit;

void terrace__limit_enter(void)
{
	struct rlimit most;
	sigset_t size;

	if (limit.depth++ > 0)
		return;
	limit.blocks = getrlimit(RLIMIT_FSIZE, &most) == 0 && most.rlim_cur != RLIM_INFINITY;
	if (!limit.blocks)
		return;
	sigemptyset(&size);
	sigaddset(&size, SIGXFSZ);
	pthread_sigmask(SIG_BLOCK, &size, &limit.before);
}

void terrace__limit_leave(void)
{
	static const struct timespec at_once;
	int err = errno;
	sigset_t size;

	if (--limit.depth > 0 || !limit.blocks)
		return;
	sigemptyset(&size);
	sigaddset(&size, SIGXFSZ);
	/* A program that blocks it itself waits for it itself. */
	if (!sigismember(&limit.before, SIGXFSZ)) {
		while (sigtimedwait(&size, NULL, &at_once) == SIGXFSZ)
			limit.met = true;
		pthread_sigmask(SIG_SETMASK, &limit.before, NULL);
	}
	errno = err;
}

void terrace__limit_leave_all(void)
{
	if (limit.depth > 0) {
		limit.depth = 1;
		terrace__limit_leave();
	}
}

bool terrace__limit_meets(void)
{
	sigset_t pending;

	return limit.depth > 0 && limit.blocks && sigpending(&pending) == 0 &&
	       sigismember(&pending, SIGXFSZ);
}

bool terrace__limit_met(void)
{
	bool met = limit.met;

	limit.met = false;
	return met;
}

static int write_all(int fd, const void *data, size_t size, off_t offset)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = pwrite(fd, (const char *)data + done, size - done,
		                   offset + (off_t)done);

		if (n >= 0)
			done += (size_t)n;
		else if (errno != EINTR)
			return -errno;
	}
	return 0;
}

int terrace__write_full(int fd, const void *data, size_t size, off_t offset)
{
	int rc;

	terrace__limit_enter();
	rc = write_all(fd, data, size, offset);
	terrace__limit_leave();
	return rc;
}

/* At least so much of the vector, which changes, or until nothing more comes. */
static int transfer(ssize_t (*call)(int, const struct iovec *, int), int fd, struct iovec *vector,
                    int count, size_t least, size_t *ret_done)
{
	*ret_done = 0;
	while (*ret_done < least) {
		ssize_t n = call(fd, vector, count);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 0;
		*ret_done += (size_t)n;
		while (count > 0 && (size_t)n >= vector->iov_len) {
			n -= (ssize_t)vector->iov_len;
			vector++;
			count--;
		}
		if (count > 0) {
			vector->iov_base = (char *)vector->iov_base + n;
			vector->iov_len -= (size_t)n;
		}
	}
	return 0;
}

int terrace__writev_full(int fd, struct iovec *vector, int count)
{
	size_t done, size = 0;
	int rc;

	for (int i = 0; i < count; i++)
		size += vector[i].iov_len;
	terrace__limit_enter();
	rc = transfer(writev, fd, vector, count, size, &done);
	terrace__limit_leave();
	return rc == 0 && done < size ? -EIO : rc;
}

int terrace__readv_full(int fd, struct iovec *vector, int count, size_t least, size_t *ret_read)
{
	return transfer(readv, fd, vector, count, least, ret_read);
}

/* --- below a directory -------------------------------------------------------------------------- */

/* A file descriptor, or a negative errno. */
static int open_at(int dir_fd, const char *path, int flags, mode_t mode)
{
	int fd;

	do
		fd = openat(dir_fd, path, flags | O_NOFOLLOW | O_CLOEXEC, mode);
	while (fd < 0 && errno == EINTR);
	return fd < 0 ? -errno : fd;
}

/* Behind the directory of "dir/name"; NULL where it has none. */
static const char *slash_of(const char *path)
{
	const char *slash = strchr(path, '/');

	return slash && slash - path <= NAME_MAX ? slash : NULL;
}

/* The directory of "dir/name", and where the name begins. */
static int open_parent(int dir_fd, const char *path, const char **ret_name)
{
	const char *slash = slash_of(path);
	char dir[NAME_MAX + 1];

	if (!slash)
		return -EINVAL;
	memcpy(dir, path, (size_t)(slash - path));
	dir[slash - path] = '\0';
	*ret_name = slash + 1;
	return open_at(dir_fd, dir, O_PATH | O_DIRECTORY, 0);
}

int terrace__open_below(int dir_fd, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)flags | O_NOFOLLOW | O_CLOEXEC,
		.mode = mode,
		.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
	};
	const char *name;
	int fd, parent;

	if (!slash_of(path))
		return -EINVAL;
	/* In one call where the kernel has it (Linux 5.6), and lets us. */
	fd = (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof how);
	if (fd >= 0)
		return fd;
	if (errno != ENOSYS && errno != EPERM && errno != EINTR && errno != EAGAIN)
		return -errno;
	parent = open_parent(dir_fd, path, &name);
	if (parent < 0)
		return parent;
	fd = open_at(parent, name, flags, mode);
	close(parent);
	return fd;
}

/* Without a descriptor, where there is none to be had: nobody would look for the file again. */
static int unlink_by_path(int dir_fd, const char *path)
{
	const char *slash = strchr(path, '/');
	char dir[NAME_MAX + 1] = "";
	struct stat st;

	memcpy(dir, path, (size_t)(slash - path));
	if (fstatat(dir_fd, dir, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	return unlinkat(dir_fd, path, 0) < 0 ? -errno : 0;
}

int terrace__unlink_below(int dir_fd, const char *path)
{
	const char *name;
	int parent = open_parent(dir_fd, path, &name), rc;

	if (parent == -EMFILE || parent == -ENFILE)
		return unlink_by_path(dir_fd, path);
	if (parent < 0)
		return parent;
	rc = unlinkat(parent, name, 0) < 0 ? -errno : 0;
	close(parent);
	return rc;
}

/* --- paths -------------------------------------------------------------------------------------- */

int terrace__make_dirs(const char *path, mode_t mode)
{
	char part[PATH_MAX];
	size_t size = strlen(path);

	if (size == 0 || size >= sizeof part)
		return size == 0 ? -ENOENT : -ENAMETOOLONG;
	memcpy(part, path, size + 1);
	for (char *slash = part + 1;; slash++) {
		bool last = *slash == '\0';

		if (!last && *slash != '/')
			continue;
		*slash = '\0';
		if (mkdir(part, mode) < 0 && errno != EEXIST) {
			/* A parent that exists may refuse for other reasons. */
			struct stat st;
			int err = errno;

			if (stat(part, &st) < 0 || !S_ISDIR(st.st_mode))
				return -err;
		}
		if (last)
			return 0;
		*slash = '/';
	}
}

bool terrace__fs_tells(int fd)
{
	static const uint32_t magics[] = {
		0xef53,     /* ext2, ext3, ext4 */
		0x58465342, /* XFS */
		0x9123683e, /* Btrfs */
		0x01021994, /* tmpfs */
		0xf2f52010, /* F2FS */
		0x2fc12fc1, /* ZFS */
		0xca451a4e, /* Bcachefs */
	};
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return false;
	for (size_t i = 0; i < sizeof magics / sizeof *magics; i++) {
		if ((uint32_t)fs.f_type == magics[i])
			return true;
	}
	return false;
}

bool terrace__fs_is_overlay(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && (uint32_t)fs.f_type == 0x794c7630;
}

/* What is above it is not what its text says: a link, or itself above one. */
static bool leads_elsewhere(const char *path, size_t size)
{
	struct stat st;

	return (size >= 3 && memcmp(path + size - 3, "/..", 3) == 0) ||
	       (size > 0 && lstat(path, &st) == 0 && S_ISLNK(st.st_mode));
}

int terrace__absolute_path(const char *path, char *ret, size_t ret_size)
{
	size_t size = 0;
	const char *part = path;

	if (*path == '\0')
		return -ENOENT;
	if (*path != '/') {
		if (!getcwd(ret, ret_size))
			return errno == ERANGE ? -ENAMETOOLONG : -errno;
		size = strlen(ret);
		if (size == 1)
			size = 0; /* the root */
	}
	while (*part) {
		size_t length = strcspn(part, "/");
		bool up = length == 2 && part[0] == '.' && part[1] == '.';

		ret[size] = '\0';
		if (length == 0 || (length == 1 && part[0] == '.')) {
			/* nothing to add */
		} else if (up && !leads_elsewhere(ret, size)) {
			while (size > 0 && ret[--size] != '/')
				;
		} else {
			if (size + 1 + length + 1 > ret_size)
				return -ENAMETOOLONG;
			ret[size++] = '/';
			memcpy(ret + size, part, length);
			size += length;
		}
		part += length;
		part += strspn(part, "/");
	}
	if (size == 0) {
		if (ret_size < 2)
			return -ENAMETOOLONG;
		ret[size++] = '/';
	}
	ret[size] = '\0';
	return 0;
}
