/* Opening a store's directory: who may use it, and what lies in it. */
#include "core/caches.h"

#include "core/behind.h"
#include "core/locks.h"
#include "core/write.h"
#include "util/fs.h"
#include "util/lock.h"
#include "util/message.h"
#include "util/util.h"

#include <errno.h>
#include <limits.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

/* --- the directory ---------------------------------------------------------------------------- */

static int refuse(const char *path, const char *why)
{
	terrace__message_set("cannot use %s as a cache directory: %s", path, why);
	return TERRACE_EACCESS;
}

static int failed(const char *path, int err)
{
	terrace__message_set("cannot open the cache directory %s: %s", path, strerror(err));
	switch (err) {
	case EACCES:
	case EPERM:
	case EROFS:
	case ENOTDIR:
	case ELOOP:
		return TERRACE_EACCESS;
	case ENOSPC:
	case EDQUOT:
		return TERRACE_EFULL;
	case ENOMEM:
		return TERRACE_ENOMEM;
	}
	return TERRACE_EIO;
}

/* SQLite's locks and shared memory do not work between machines. */
static bool is_network(int fd)
{
	static const uint32_t magics[] = {
		0x6969,     /* NFS */
		0x517b,     /* SMB */
		0xff534d42, /* CIFS */
		0xfe534d42, /* SMB2 */
		0x5346414f, /* AFS */
		0x01021997, /* 9p */
		0x00c36400, /* Ceph */
		0x47504653, /* GPFS */
		0x0bd00bd0, /* Lustre */
	};
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(magics); i++) {
		if ((uint32_t)fs.f_type == magics[i])
			return true;
	}
	return false;
}

static int open_dir(struct terrace *store, int *ret_fd)
{
	const char *path = store->dir;
	struct stat st;
	int err, fd;

	if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
		return refuse(path, "it is a symbolic link; name the directory itself");
	err = terrace__make_dirs(path, 0700);
	if (err < 0)
		return failed(path, -err);
	fd = open(path, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		err = errno;
		terrace__fd_done(&fd);
		return failed(path, err);
	}
	*ret_fd = fd;
	if (st.st_uid != geteuid())
		return refuse(path, "it belongs to another user");
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return refuse(path, "others may write to it; chmod go-w, or choose another");
	if (is_network(fd))
		return refuse(path, "it lies on a network file system; choose a local one with "
		                    "--dir or TERRACE_DIR");
	if (faccessat(fd, ".", W_OK | X_OK, AT_EACCESS) < 0)
		return refuse(path, "it is not writable");
	store->device = st.st_dev;
	store->inode = st.st_ino;
	return TERRACE_OK;
}

/* The format's own directory: another version of Terrace has another one. */
static int open_format(struct terrace *store, int dir_fd, char *name, size_t name_size)
{
	snprintf(name, name_size, "v%d", FORMAT_VERSION);
	if (mkdirat(dir_fd, name, 0700) < 0 && errno != EEXIST)
		return failed(store->dir, errno);
	store->dir_fd = openat(dir_fd, name, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
	if (store->dir_fd < 0)
		return failed(store->dir, errno);
	store->lock_fd = openat(store->dir_fd, "lock", O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC,
	                        0600);
	if (store->lock_fd < 0)
		return failed(store->dir, errno);
	return terrace__dictionaries_open(store->dir_fd);
}

/* --- the database and what is shared beside it -------------------------------------------------- */

/* A store that is new to this machine's memory takes what the database knows. */
static bool restore_cache(void *ctx, uint32_t number, const char *name, uint64_t floor)
{
	struct shared *shared = ctx;
	struct shared_cache *cache;

	if (number >= CACHES_MAX || strlen(name) > TERRACE_NAME_MAX)
		return true;
	cache = &shared->caches[number];
	strcpy(cache->name, name);
	atomic_store(&cache->floor, floor);
	atomic_store(&cache->in_use, 1);
	return true;
}

static int restore(struct terrace *store)
{
	struct shared *shared = store->shared;
	uint64_t seq;
	int rc = store->disk_ops->state(store->disk, &seq, &shared->seed);

	if (rc == TERRACE_OK)
		rc = store->disk_ops->caches(store->disk, restore_cache, shared);
	atomic_store(&shared->seq, seq + 1);
	return rc;
}

/* The database is new, but the shared file knows caches and numbers. */
static int refill(struct terrace *store, void *ctx)
{
	struct shared *shared = store->shared;
	struct transaction transaction;
	int rc = terrace__transaction_begin(store, &transaction);

	(void)ctx;
	if (rc != TERRACE_OK)
		return rc;
	rc = store->disk_ops->set_seed(store->disk, shared->seed);
	for (uint32_t i = 0; i < CACHES_MAX && rc == TERRACE_OK; i++) {
		if (!atomic_load(&shared->caches[i].in_use))
			break;
		rc = store->disk_ops->cache_add(store->disk, i, shared->caches[i].name);
	}
	if (rc != TERRACE_OK) {
		terrace__transaction_rollback(&transaction);
		return rc;
	}
	return terrace__transaction_commit(&transaction);
}

/* How long SQLite's log may get: it counts as well. */
static uint64_t log_bytes(const struct terrace *store)
{
	enum { LEAST = 256 << 10, MOST = 4 << 20 };

	if (!store->disk_bytes)
		return MOST;
	return max_u64(LEAST, min_u64(MOST, store->disk_bytes / 64));
}

static int open_database(struct terrace *store, const char *path)
{
	char name[32];

	snprintf(name, sizeof name, "db-%u", store->shared->generation);
	return terrace__tiers_disk(store->dir_fd, path, name, true, log_bytes(store),
	                           &store->disk_ops, &store->disk);
}

/* A database that was made anew has another seed than what is shared, until it is filled. */
static int refill_new(struct terrace *store)
{
	uint64_t seq, seed;
	int rc = store->disk_ops->state(store->disk, &seq, &seed);

	if (rc != TERRACE_OK || seed == store->shared->seed)
		return rc;
	return terrace__write_alone(store, refill, NULL);
}

/* Under the attach lock: nobody else looks at a store that is half made. */
static int open_parts(struct terrace *store, const char *path)
{
	bool fresh;
	int rc = terrace__shared_open(store->dir_fd, &store->shared, &fresh);

	if (rc != TERRACE_OK)
		return rc;
	if (fresh)
		store->shared->generation = 1;
	rc = open_database(store, path);
	if (rc != TERRACE_OK)
		return rc;
	if (fresh)
		rc = restore(store);
	terrace__clock_settle(store->shared);
	terrace__clock_start(store);
	if (fresh && rc == TERRACE_OK)
		rc = terrace__shared_publish(store->dir_fd, store->shared);
	else if (rc == TERRACE_OK)
		rc = refill_new(store);
	return rc;
}

int terrace__attach(struct terrace *store)
{
	CLEANUP(terrace__fd_done) int dir_fd = -1;
	char name[16], *path;
	int rc = open_dir(store, &dir_fd);

	if (rc == TERRACE_OK)
		rc = open_format(store, dir_fd, name, sizeof name);
	if (rc != TERRACE_OK)
		return rc;
	if (asprintf(&path, "%s/%s", store->dir, name) < 0)
		return TERRACE_ENOMEM;
	while (store->token == 0 || store->token == HELD_BY_MANY) {
		if (getrandom(&store->token, sizeof store->token, 0) < 0)
			store->token = (uint64_t)getpid() << 32 | (uint32_t)time(NULL);
	}
	rc = terrace__lock_wait(store->lock_fd, LOCK_ATTACH, true);
	if (rc < 0) {
		rc = failed(store->dir, -rc);
	} else {
		rc = open_parts(store, path);
		terrace__unlock(store->lock_fd, LOCK_ATTACH);
		if (rc == TERRACE_OK) {
			terrace__behind_reap(store);
			store->disk_ops->sweep(store->disk);
		}
	}
	free(path);
	return rc;
}

/* --- leaving --------------------------------------------------------------------------------------- */

static int leave(struct terrace *store, void *ctx)
{
	struct transaction transaction;
	int rc = TERRACE_OK;

	(void)ctx;
	if (terrace__access_pending(store)) {
		rc = terrace__transaction_begin(store, &transaction);
		if (rc == TERRACE_OK) {
			rc = terrace__access_flush(store, UINT_MAX);
			if (rc == TERRACE_OK)
				rc = terrace__transaction_commit(&transaction);
			else
				terrace__transaction_rollback(&transaction);
		}
	}
	store->disk_ops->checkpoint(store->disk, CHECKPOINT_CLOSING);
	return rc;
}

/* How long leaving waits for other writers: what it writes is of little weight. */
enum { LEAVE_WAIT_MS = 100 };

void terrace__detach(struct terrace *store)
{
	if (store->disk)
		terrace__behind_close(store);
	if (store->disk && (atomic_load(&store->wrote) || terrace__access_pending(store))) {
		store->wait_ms = LEAVE_WAIT_MS;
		if (terrace__write_alone(store, leave, NULL) != TERRACE_OK)
			terrace__swallow(store, NULL, "closing");
	}
	if (store->disk)
		store->disk_ops->tier.close(store->disk);
	terrace__shared_close(store->shared);
	terrace__dictionaries_close(store->dir_fd);
	terrace__fd_done(&store->dir_fd);
	terrace__fd_done(&store->lock_fd);
	store->disk = NULL;
	store->shared = NULL;
}
