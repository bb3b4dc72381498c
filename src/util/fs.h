/*
 * Files, the careful way: EINTR and short transfers are finished, links are
 * not followed, and everything is close-on-exec. Functions return 0 or a
 * negative errno.
 */
#ifndef UTIL_FS_H
#define UTIL_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

void terrace__fd_done(int *fd); /* close when >= 0 */

int terrace__read_full(int fd, void *data, size_t size, off_t offset, size_t *ret_read);
int terrace__write_full(int fd, const void *data, size_t size, off_t offset);
/* Writes all of it at the file's position; changes the vector. */
int terrace__writev_full(int fd, struct iovec *vector, int count);
/* Reads from there at least so much of the vector, which changes, or until the file ends. */
int terrace__readv_full(int fd, struct iovec *vector, int count, size_t least, size_t *ret_read);

/*
 * Between the two, a write beyond the limit of file sizes (RLIMIT_FSIZE) fails
 * with EFBIG and sends this thread no SIGXFSZ, which would end a program that
 * knows nothing of us. May be nested; what writes above does it by itself.
 */
void terrace__limit_enter(void);
void terrace__limit_leave(void);
void terrace__limit_leave_all(void); /* however often it was entered */
/* Has it been met since we are within? */
bool terrace__limit_meets(void);
/* Was that limit met on this thread since it was last asked? */
bool terrace__limit_met(void);

/*
 * Open a file below a directory, "dir/name": neither of them may be a link. A
 * descriptor or a negative errno.
 */
int terrace__open_below(int dir_fd, const char *path, int flags, mode_t mode);
int terrace__unlink_below(int dir_fd, const char *path);

/* Make a directory and its missing parents; those that it makes get `mode`. */
int terrace__make_dirs(const char *path, mode_t mode);

/*
 * A local file system of which we know that it stamps every change of a file or
 * directory, and tells inotify of it.
 */
bool terrace__fs_tells(int fd);
bool terrace__fs_is_overlay(int fd);

/*
 * The absolute path of `path`: "." and "//" taken out, and ".." with what is before it,
 * but where that is a link: above what it leads to is somewhere else.
 */
int terrace__absolute_path(const char *path, char *ret, size_t ret_size);

#endif
