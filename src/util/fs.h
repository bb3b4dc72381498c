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

/* Make a directory and its missing parents; those that it makes get `mode`. */
int terrace__make_dirs(const char *path, mode_t mode);

/*
 * A local file system of which we know that it stamps every change of a file or
 * directory, and tells inotify of it.
 */
bool terrace__fs_tells(int fd);
bool terrace__fs_is_overlay(int fd);

/* The absolute path of `path`, by text alone: "." and ".." and "//" taken out. */
int terrace__absolute_path(const char *path, char *ret, size_t ret_size);

#endif
