/* The coherence file: found, made, and looked after. */
#include "core/coherence.h"

#include "core/locks.h"
#include "core/power.h"
#include "util/fs.h"
#include "util/hash.h"
#include "util/lock.h"
#include "util/message.h"
#include "util/time.h"
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
#define LOCK_NAME       "lock"

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

static int no_room(int err)
{
	int rc = failed(err, "allocate");

	if (rc == TERRACE_EFULL)
		terrace__message_set("cannot make the store's shared file, which takes %.1f MiB: "
		                     "%s; make room, or choose another directory",
		                     (double)sizeof(struct shared) / (1 << 20), strerror(err));
	return rc;
}

/*
 * By a description of its own: a child of fork() inherits the mapping, which
 * keeps what was mapped open, and the locks of our descriptor must fall without
 * it. NULL with errno; 0 there means that it is another file by now.
 */
static struct shared *map(int dir_fd, const char *name, int fd, bool write)
{
	CLEANUP(terrace__fd_done) int own = -1;
	struct shared *shared;
	struct stat ours, theirs;

	own = openat(dir_fd, name, (write ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC);
	if (own < 0 || fstat(own, &ours) < 0 || fstat(fd, &theirs) < 0)
		return NULL;
	errno = 0;
	if (ours.st_ino != theirs.st_ino)
		return NULL;
	shared = mmap(NULL, sizeof *shared, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
	              own, 0);
	return shared == MAP_FAILED ? NULL : shared;
}

void terrace__shared_fill(struct shared *shared)
{
	for (uint32_t i = 0; i < VERSIONS + MEMORY_VERSIONS; i++)
		atomic_init(&shared->versions[i], word_make(shared, i, 0));
	for (uint32_t i = 0; i < CACHES_MAX; i++) {
		struct shared_cache *cache = &shared->caches[i];

		atomic_init(&cache->epoch, word_make(shared, PLACE_EPOCHS + i, 0));
		atomic_init(&cache->floor, word_make(shared, PLACE_FLOORS + i, 0));
		atomic_init(&cache->immutable, word_make(shared, PLACE_IMMUTABLE + i, 0));
		atomic_init(&cache->rows, ROWS_WHOLE);
	}
	for (uint32_t i = 0; i < LANES; i++) {
		atomic_init(&shared->lanes[i].head, word_make(shared, PLACE_HEADS + i, 0));
		atomic_init(&shared->lanes[i].tail, word_make(shared, PLACE_TAILS + i, 0));
	}
	atomic_init(&shared->seq, word_make(shared, PLACE_SEQ, 0));
	atomic_init(&shared->commits, word_make(shared, PLACE_COMMITS, 0));
	atomic_init(&shared->committed, word_make(shared, PLACE_COMMITTED, 0));
	atomic_init(&shared->last_time, word_make(shared, PLACE_TIME, 0));
	atomic_init(&shared->unsynced, word_make(shared, PLACE_UNSYNCED, 0));
	atomic_init(&shared->loose, word_make(shared, PLACE_LOOSE, 0));
}

/* Every block now: a full disk later would be a SIGBUS. */
static int allocate(int fd)
{
	int err;

	terrace__limit_enter();
	do
		err = posix_fallocate(fd, 0, sizeof(struct shared));
	while (err == EINTR);
	terrace__limit_leave();
	return err;
}

/* A new file under a temporary name: nobody maps it before it is whole. */
static int make(int dir_fd, const uint8_t boot[16], struct shared **ret, int *ret_fd)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct shared *shared;
	int err;

	unlinkat(dir_fd, SHARED_NEW_NAME, 0);
	fd = openat(dir_fd, SHARED_NEW_NAME, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC,
	            0600);
	if (fd < 0)
		return failed(errno, "make");
	err = allocate(fd);
	if (err) {
		unlinkat(dir_fd, SHARED_NEW_NAME, 0); /* what it has may be the last of the disk */
		return no_room(err);
	}
	shared = map(dir_fd, SHARED_NEW_NAME, fd, true);
	if (!shared)
		return failed(errno, "map");
	memcpy(shared->head.magic, magic, sizeof magic);
	shared->head.format = FORMAT_VERSION;
	shared->head.size = sizeof *shared;
	memcpy(shared->head.boot_id, boot, sizeof shared->head.boot_id);
	if (getrandom(&shared->head.salt, sizeof shared->head.salt, 0) < 0) {
		err = errno;
		munmap(shared, sizeof *shared);
		return failed(err, "salt");
	}
	terrace__shared_fill(shared);
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
	shared = map(dir_fd, SHARED_NAME, fd, true);
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

/* The time that a file of another boot knew: what was written is not younger. */
static uint64_t time_of(const struct shared *shared)
{
	uint64_t time = atomic_load(&shared->last_time);

	return word_holds(shared, PLACE_TIME, time) ? word_value(time) : 0;
}

/* The file that is there, with a lock that says whether nobody has it; NULL: none that is whole. */
static int open_there(int dir_fd, struct shared **ret, int *ret_fd, bool *ret_unused)
{
	int rc;

	*ret = NULL;
	*ret_unused = true;
	*ret_fd = openat(dir_fd, SHARED_NAME, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (*ret_fd < 0)
		return errno == ENOENT || errno == ELOOP ? TERRACE_OK : failed(errno, "open");
	rc = terrace__lock_try(*ret_fd, LOCK_ATTACHED, true);
	if (rc < 0 && rc != -EAGAIN)
		return failed(-rc, "lock");
	*ret_unused = rc == 0;
	errno = 0;
	*ret = map_whole(dir_fd, *ret_fd);
	/* A failure that passes must not have a file replaced that others use. */
	return !*ret && errno != 0 ? failed(errno, "map") : TERRACE_OK;
}

int terrace__shared_open(int dir_fd, const uint8_t boot[16], bool others, struct shared **ret,
                         int *ret_fd, enum shared_state *ret_state)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct shared *there;
	uint64_t last_time = 0;
	bool unused;
	int rc = open_there(dir_fd, &there, &fd, &unused);

	if (rc != TERRACE_OK)
		return rc;
	if (there ? others && unused : others || !unused) {
		terrace__shared_close(there);
		return busy();
	}
	if (there && (!unused || terrace__boot_same(there->head.boot_id, boot))) {
		*ret = there;
		*ret_fd = fd;
		fd = -1;
		*ret_state = unused ? SHARED_KEPT : SHARED_JOINED;
		return TERRACE_OK;
	}
	*ret_state = there ? SHARED_REBOOT : SHARED_LOST;
	if (there)
		last_time = time_of(there);
	terrace__shared_close(there);
	rc = make(dir_fd, boot, ret, ret_fd);
	if (rc == TERRACE_OK)
		atomic_store(&(*ret)->last_time, word_make(*ret, PLACE_TIME, last_time));
	return rc;
}

int terrace__shared_look(int dir_fd, struct shared **ret, int *ret_fd, bool *ret_whole)
{
	struct stat st;

	*ret = NULL;
	*ret_whole = false;
	*ret_fd = openat(dir_fd, SHARED_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (*ret_fd < 0 && errno == ENOENT)
		return TERRACE_OK;
	if (*ret_fd < 0 || fstat(*ret_fd, &st) < 0)
		return failed(errno, "open");
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < sizeof(struct shared))
		return TERRACE_OK;
	*ret = map(dir_fd, SHARED_NAME, *ret_fd, false);
	if (!*ret)
		return failed(errno ? errno : EAGAIN, "map");
	*ret_whole = is_head(&(*ret)->head);
	return TERRACE_OK;
}

int terrace__shared_publish(int dir_fd, struct shared *shared)
{
	shared->head.check = check_of(&shared->head);
	shared->spare = shared->head;
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
		if (allocate(fd) != 0)
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

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev;
}

bool terrace__attach_is_named(int dir_fd, int attach_fd)
{
	struct stat ours, there;

	return fstat(attach_fd, &ours) == 0 &&
	       fstatat(dir_fd, LOCK_NAME, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	       same_file(&ours, &there);
}

void terrace__attach_tend(int dir_fd, int attach_fd, struct timespec *seen)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct timespec now = terrace__file_clock();
	struct stat dir;

	if (LIKELY(fstat(dir_fd, &dir) == 0 && time_is_same(dir.st_mtim, *seen)))
		return;
	if (!terrace__attach_is_named(dir_fd, attach_fd)) {
		fd = openat(dir_fd, LOCK_NAME, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return; /* who comes next makes one */
		/* Other threads may be looking at it: the number stays what it is. */
		if (terrace__lock_try(fd, LOCK_ATTACHED, false) < 0 ||
		    dup3(fd, attach_fd, O_CLOEXEC) < 0)
			return; /* somebody is attaching, for one: next time */
	}
	if (time_is_before(dir.st_mtim, now))
		*seen = dir.st_mtim;
}

void terrace__shared_close(struct shared *shared)
{
	if (shared)
		munmap(shared, sizeof *shared);
}
