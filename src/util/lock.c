#include "util/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int lock_byte(int fd, int command, short type, uint64_t byte)
{
	struct flock lock = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1
	};

	for (;;) {
		if (fcntl(fd, command, &lock) == 0)
			return 0;
		if (errno == EACCES)
			return -EAGAIN;
		if (errno != EINTR)
			return -errno;
	}
}

int terrace__lock_try(int fd, uint64_t byte, bool exclusive)
{
	return lock_byte(fd, F_OFD_SETLK, exclusive ? F_WRLCK : F_RDLCK, byte);
}

int terrace__lock_wait(int fd, uint64_t byte, bool exclusive)
{
	return lock_byte(fd, F_OFD_SETLKW, exclusive ? F_WRLCK : F_RDLCK, byte);
}

bool terrace__lock_held(int fd, uint64_t byte)
{
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1
	};

	return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

void terrace__unlock(int fd, uint64_t byte)
{
	lock_byte(fd, F_OFD_SETLK, F_UNLCK, byte);
}

void terrace__futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t ms)
{
	struct timespec timeout = { ms / 1000, (long)(ms % 1000) * 1000000 };

	syscall(SYS_futex, word, FUTEX_WAIT, seen, &timeout, NULL, 0);
}

void terrace__futex_wake_all(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
