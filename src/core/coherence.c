#include "core/coherence.h"

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
	uint64_t fields[] = { shared->format, shared->size, shared->seed };

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

static struct shared *map(int fd)
{
	struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
	                             0);

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
	err = posix_fallocate(fd, 0, sizeof *shared);
	if (err)
		return failed(err, "allocate");
	shared = map(fd);
	if (!shared)
		return failed(errno, "map");
	memcpy(shared->magic, magic, sizeof magic);
	shared->format = FORMAT_VERSION;
	shared->size = sizeof *shared;
	*ret = shared;
	return TERRACE_OK;
}

int terrace__shared_open(int dir_fd, struct shared **ret, bool *ret_fresh)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct shared *shared;
	struct stat st;

	fd = openat(dir_fd, SHARED_NAME, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno != ENOENT)
		return failed(errno, "open");
	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size == sizeof *shared) {
		shared = map(fd);
		if (!shared)
			return failed(errno, "map");
		if (is_whole(shared)) {
			*ret = shared;
			*ret_fresh = false;
			return TERRACE_OK;
		}
		munmap(shared, sizeof *shared);
	}
	*ret_fresh = true;
	return make(dir_fd, ret);
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
