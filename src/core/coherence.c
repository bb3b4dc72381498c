#include "core/coherence.h"

#include "core/power.h"
#include "util/fs.h"
#include "util/hash.h"
#include "util/message.h"
#include "util/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHARED_NAME     "shared"
#define SHARED_NEW_NAME "shared.new"

static const char magic[8] = { 'T', 'e', 'r', 'r', 'a', 'c', 'e', '\n' };

/* No copy can carry the next number, even if the write fails. */
static uint64_t marked(uint64_t version)
{
	return (version + VERSION_STEP) | VERSION_WRITING;
}

uint64_t terrace__version_mark(struct shared *shared, uint32_t slot)
{
	uint64_t old = version_load(shared, slot);

	while (!atomic_compare_exchange_weak(&shared->versions[slot], &old, marked(old)))
		;
	return marked(old);
}

uint64_t terrace__version_mark_if(struct shared *shared, uint32_t slot, uint64_t number)
{
	uint64_t old = version_load(shared, slot);

	do {
		if (version_number(old) != number)
			return 0;
	} while (!atomic_compare_exchange_weak(&shared->versions[slot], &old, marked(old)));
	return marked(old);
}

bool terrace__version_clear(struct shared *shared, uint32_t slot, uint64_t number, uint64_t *ret)
{
	uint64_t old = atomic_fetch_and(&shared->versions[slot], ~VERSION_WRITING);

	*ret = version_number(old) == number ? old & ~VERSION_WRITING : 0;
	return version_is_writing(old);
}

uint64_t terrace__version_move(struct shared *shared, uint32_t slot)
{
	return atomic_fetch_add(&shared->versions[slot], VERSION_STEP) + VERSION_STEP;
}

void terrace__versions_repair(struct shared *shared)
{
	for (uint32_t slot = 0; slot < VERSIONS; slot++) {
		_Atomic uint64_t *version = &shared->versions[slot];

		if (version_is_writing(atomic_load_explicit(version, memory_order_relaxed)))
			atomic_fetch_and(version, ~VERSION_WRITING);
	}
	/* It may have committed: readers must not go on with an older snapshot. */
	atomic_fetch_add(&shared->commits, 1);
	atomic_store(&shared->writing, 0);
}

uint64_t terrace__epoch_move(struct shared *shared, struct shared_cache *cache)
{
	uint64_t epoch = shared_draw(shared);

	atomic_store(&cache->epoch, epoch);
	atomic_store(&cache->bulk, epoch);
	return epoch;
}

void terrace__bulk_move(struct shared *shared, struct shared_cache *cache)
{
	atomic_store(&cache->bulk, shared_draw(shared));
}

/* --- the file ------------------------------------------------------------------- */

static uint64_t check_of(const struct shared *shared)
{
	uint64_t fields[] = { shared->format, shared->size, shared->seed, shared->generation };

	return terrace__hash64(fields, sizeof fields, 0);
}

static bool is_whole(const struct shared *shared)
{
	return memcmp(shared->magic, magic, sizeof magic) == 0 &&
	       shared->format == FORMAT_VERSION && shared->size == sizeof *shared &&
	       shared->check == check_of(shared);
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

static int no_room(int err, size_t size)
{
	int rc = failed(err, "allocate");

	if (rc == TERRACE_EFULL)
		terrace__message_set("cannot make the store's shared file, which takes %.1f MiB: "
		                     "%s; make room, or choose another directory",
		                     (double)size / (1 << 20), strerror(err));
	return rc;
}

static struct shared *map(int fd, int access)
{
	struct shared *shared = mmap(NULL, sizeof *shared, access, MAP_SHARED, fd, 0);

	return shared == MAP_FAILED ? NULL : shared;
}

/* A new file under a temporary name: nobody maps it before it is whole. */
static int make(int dir_fd, struct shared **ret)
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
	terrace__limit_enter();
	do
		err = posix_fallocate(fd, 0, sizeof *shared);
	while (err == EINTR);
	terrace__limit_leave();
	if (err) {
		unlinkat(dir_fd, SHARED_NEW_NAME, 0); /* what it has may be the last of the disk */
		return no_room(err, sizeof *shared);
	}
	shared = map(fd, PROT_READ | PROT_WRITE);
	if (!shared)
		return failed(errno, "map");
	memcpy(shared->magic, magic, sizeof magic);
	shared->format = FORMAT_VERSION;
	shared->size = sizeof *shared;
	*ret = shared;
	return TERRACE_OK;
}

int terrace__shared_open(int dir_fd, const uint8_t boot[16], bool alone, struct shared **ret,
                         bool *ret_fresh)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	uint32_t generation = 1;
	int64_t last_time = 0;
	struct shared *shared;
	struct stat st;
	int rc;

	fd = openat(dir_fd, SHARED_NAME, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno != ENOENT)
		return failed(errno, "open");
	/* A failure that passes must not have a file replaced that others use. */
	if (fd >= 0 && fstat(fd, &st) < 0)
		return failed(errno, "look at");
	if (fd >= 0 && st.st_size == sizeof *shared) {
		shared = map(fd, PROT_READ | PROT_WRITE);
		if (!shared)
			return failed(errno, "map");
		if (is_whole(shared) && (!alone || terrace__boot_same(shared->boot_id, boot))) {
			*ret = shared;
			*ret_fresh = false;
			return TERRACE_OK;
		}
		/* Of another boot: the rest of it may be older than what the database says. */
		if (is_whole(shared)) {
			generation = shared->generation;
			last_time = atomic_load(&shared->last_time);
		}
		munmap(shared, sizeof *shared);
	}
	rc = make(dir_fd, ret);
	if (rc != TERRACE_OK)
		return rc;
	(*ret)->generation = generation;
	atomic_store(&(*ret)->last_time, last_time);
	memcpy((*ret)->boot_id, boot, sizeof(*ret)->boot_id);
	*ret_fresh = true;
	return TERRACE_OK;
}

int terrace__shared_look(int dir_fd, struct shared **ret, ino_t *ret_inode)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct shared *shared;
	struct stat st;

	*ret = NULL;
	*ret_inode = 0;
	fd = openat(dir_fd, SHARED_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return TERRACE_OK;
	if (fd < 0 || fstat(fd, &st) < 0)
		return failed(errno, "open");
	*ret_inode = st.st_ino;
	if (st.st_size != sizeof *shared)
		return TERRACE_OK;
	shared = map(fd, PROT_READ);
	if (!shared)
		return failed(errno, "map");
	if (is_whole(shared))
		*ret = shared;
	else
		munmap(shared, sizeof *shared);
	return TERRACE_OK;
}

int terrace__shared_publish(int dir_fd, struct shared *shared)
{
	shared->check = check_of(shared);
	if (renameat(dir_fd, SHARED_NEW_NAME, dir_fd, SHARED_NAME) < 0)
		return failed(errno, "publish");
	return TERRACE_OK;
}

void terrace__shared_close(struct shared *shared)
{
	if (shared)
		munmap(shared, sizeof *shared);
}
