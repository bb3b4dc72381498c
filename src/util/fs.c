#include "util/fs.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
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

int terrace__write_full(int fd, const void *data, size_t size, off_t offset)
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

int terrace__writev_full(int fd, struct iovec *vector, int count)
{
	while (count > 0) {
		ssize_t n;

		if (vector->iov_len == 0) {
			vector++;
			count--;
			continue;
		}
		n = writev(fd, vector, count);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
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

		if (length == 0 || (length == 1 && part[0] == '.')) {
			/* nothing to add */
		} else if (length == 2 && part[0] == '.' && part[1] == '.') {
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
