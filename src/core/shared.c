/* The coherence file: found, made, and looked after. */
#include "core/coherence.h"

#include "core/locks.h"
#include "util/fs.h"
#include "util/hash.h"
#include "util/lock.h"
#include "util/message.h"
#include "util/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHARED_NAME     "shared"
#define SHARED_NEW_NAME "shared.new"

static const char magic[8] = { 'T', 'e', 'r', 'r', 'a', 'c', 'e', '\n' };

static uint64_t check_of(const struct shared_head *head)
{
	return terrace__hash64(head, offsetof(struct shared_head, check), 0);
}

static bool is_head(const struct shared_head *head)
{
	return memcmp(head->magic, magic, sizeof magic) == 0 && head->format == FORMAT_VERSION &&
	       head->size == sizeof(struct shared) && head->check == check_of(head);
}

static int failed(int err, const char *what)
{
	terrace__message_set("cannot %s the store's shared file: %s", what, strerror(err));
	if (err == ENOSPC || err == EDQUOT || err == EFBIG)
		return TERRACE_EFULL;
	if (err == EACCES || err == EPERM || err == EROFS || err == ELOOP)
		return TERRACE_EACCESS;
	return err == ENOMEM ? TERRACE_ENOMEM : TERRACE_EIO;
}

/*
 * By a description of its own: a child of fork() inherits the mapping, which
 * keeps what was mapped open, and the locks of our descriptor must fall without
 * it. NULL with errno; 0 there means that it is another file by now.
 */
static struct shared *map(int dir_fd, const char *name, int fd)
{
	CLEANUP(terrace__fd_done) int own = -1;
	struct shared *shared;
	struct stat ours, theirs;

	own = openat(dir_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (own < 0 || fstat(own, &ours) < 0 || fstat(fd, &theirs) < 0)
		return NULL;
	errno = 0;
	if (ours.st_ino != theirs.st_ino)
		return NULL;
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);
	return shared == MAP_FAILED ? NULL : shared;
}

/* Words that hold, and say nothing. */
static void fill(struct shared *shared)
{
	for (uint32_t i = 0; i < VERSIONS + MEMORY_VERSIONS; i++)
		atomic_init(&shared->versions[i], word_make(shared, i, 0));
	for (uint32_t i = 0; i < CACHES_MAX; i++) {
		struct shared_cache *cache = &shared->caches[i];

		atomic_init(&cache->epoch, word_make(shared, PLACE_EPOCHS + i, 0));
		atomic_init(&cache->floor, word_make(shared, PLACE_FLOORS + i, 0));
		atomic_init(&cache->rows, ROWS_WHOLE);
	}
	atomic_init(&shared->seq, word_make(shared, PLACE_SEQ, 0));
	atomic_init(&shared->committed, word_make(shared, PLACE_COMMITTED, 0));
	atomic_init(&shared->last_time, word_make(shared, PLACE_TIME, 0));
}

/* A new file under a temporary name: nobody maps it before it is whole. */
static int make(int dir_fd, struct shared **ret, int *ret_fd)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct shared *shared;
	int err;

	unlinkat(dir_fd, SHARED_NEW_NAME, 0);
	fd = openat(dir_fd, SHARED_NEW_NAME, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC,
	            0600);
	if (fd < 0)
		return failed(errno, "make");
	/* Every block now: a full disk later would be a SIGBUS. */
	err = posix_fallocate(fd, 0, sizeof *shared);
	if (err)
		return failed(err, "allocate");
	shared = map(dir_fd, SHARED_NEW_NAME, fd);
	if (!shared)
		return failed(errno, "map");
	memcpy(shared->head.magic, magic, sizeof magic);
	shared->head.format = FORMAT_VERSION;
	shared->head.size = sizeof *shared;
	if (getrandom(&shared->head.salt, sizeof shared->head.salt, 0) < 0) {
		err = errno;
		munmap(shared, sizeof *shared);
		return failed(err, "salt");
	}
	fill(shared);
	*ret = shared;
	*ret_fd = fd;
	fd = -1;
	return TERRACE_OK;
}

/* The file that is there: NULL when it is not whole. */
static struct shared *map_whole(int dir_fd, int fd)
{
	struct shared *shared;
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size < sizeof *shared)
		return NULL;
	shared = map(dir_fd, SHARED_NAME, fd);
	if (!shared)
		return NULL;
	if (!is_head(&shared->head) && is_head(&shared->spare))
		shared->head = shared->spare;
	if (is_head(&shared->head)) {
		if (memcmp(&shared->spare, &shared->head, sizeof shared->head) != 0)
			shared->spare = shared->head;
		return shared;
	}
	munmap(shared, sizeof *shared);
	errno = 0;
	return NULL;
}

static int busy(void)
{
	terrace__message_set("the store's shared file was damaged, removed or replaced while other "
	                     "processes have the store open; it is made anew when they have ended");
	return TERRACE_EBUSY;
}

int terrace__shared_open(int dir_fd, bool others, struct shared **ret, int *ret_fd, bool *ret_fresh,
                         bool *ret_alone)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct shared *shared = NULL;
	bool unused = true;

	fd = openat(dir_fd, SHARED_NAME, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno != ENOENT && errno != ELOOP)
		return failed(errno, "open");
	if (fd >= 0) {
		int rc = terrace__lock_try(fd, LOCK_PRESENT, true);

		if (rc < 0 && rc != -EAGAIN)
			return failed(-rc, "lock");
		unused = rc == 0;
		errno = 0;
		shared = map_whole(dir_fd, fd);
		if (!shared && errno != 0)
			return failed(errno, "map");
	}
	if (shared ? others && unused : others || !unused) {
		terrace__shared_close(shared);
		return busy();
	}
	*ret_fresh = !shared;
	*ret_alone = unused;
	if (!shared)
		return make(dir_fd, ret, ret_fd);
	*ret = shared;
	*ret_fd = fd;
	fd = -1;
	return TERRACE_OK;
}

void terrace__shared_seal(struct shared *shared)
{
	shared->head.check = check_of(&shared->head);
	shared->spare = shared->head;
}

int terrace__shared_publish(int dir_fd, struct shared *shared)
{
	terrace__shared_seal(shared);
	if (renameat(dir_fd, SHARED_NEW_NAME, dir_fd, SHARED_NAME) < 0)
		return failed(errno, "publish");
	return TERRACE_OK;
}

bool terrace__shared_tend(struct shared *shared, int fd, const struct shared_head *head)
{
	bool changed = false;
	struct stat st;

	/* Pages that are gone would be a SIGBUS; the new ones hold no word that does. */
	if (UNLIKELY(fstat(fd, &st) == 0 && (uint64_t)st.st_size < sizeof *shared)) {
		if (posix_fallocate(fd, 0, sizeof *shared) != 0)
			return false;
		atomic_store(&shared->hurt, 1);
		changed = true;
	}
	if (UNLIKELY(memcmp(&shared->head, head, sizeof *head) != 0)) {
		memcpy(&shared->head, head, sizeof *head);
		shared->spare = *head;
		atomic_store(&shared->hurt, 1);
		changed = true;
	}
	if (UNLIKELY(atomic_load(&shared->hurt)))
		changed = true;
	if (changed || UNLIKELY(atomic_load(&shared->writing)))
		terrace__shared_repair(shared);
	return changed;
}

void terrace__attach_tend(int dir_fd, int *attach_fd, struct timespec *seen)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct stat dir, ours, theirs;
	int rc;

	if (LIKELY(fstat(dir_fd, &dir) == 0 && dir.st_mtim.tv_sec == seen->tv_sec &&
	           dir.st_mtim.tv_nsec == seen->tv_nsec))
		return;
	fd = openat(dir_fd, "lock", O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 || fstat(fd, &theirs) < 0 || fstat(*attach_fd, &ours) < 0)
		return;
	if (ours.st_ino != theirs.st_ino) {
		rc = terrace__lock_try(fd, LOCK_PRESENT, false);
		if (rc < 0)
			return; /* somebody is attaching: next time */
		terrace__fd_done(attach_fd);
		*attach_fd = fd;
		fd = -1;
		if (fstat(dir_fd, &dir) < 0)
			return;
	}
	*seen = dir.st_mtim;
}

void terrace__shared_close(struct shared *shared)
{
	if (shared)
		munmap(shared, sizeof *shared);
}
