/* Opening a store's directory: who may use it, and what lies in it. */
#include "core/caches.h"

#include "core/behind.h"
#include "core/idle.h"
#include "core/locks.h"
#include "core/power.h"
#include "core/present.h"
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
static int refuse_network(const char *path, int fd)
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
		return failed(path, errno);
	for (size_t i = 0; i < ARRAY_LEN(magics); i++) {
		if ((uint32_t)fs.f_type == magics[i])
			return refuse(path, "it lies on a network file system; choose a local one "
			                    "with --dir or TERRACE_DIR");
	}
	return TERRACE_OK;
}

/* Whoever else may write there could put anything into our place. */
static int check_owner(const char *path, const struct stat *st)
{
	if (st->st_uid != geteuid())
		return refuse(path, "it belongs to another user");
	if (st->st_mode & (S_IWGRP | S_IWOTH))
		return refuse(path, "others may write to it; chmod go-w, or choose another");
	return TERRACE_OK;
}

static int open_dir(struct terrace *store, int *ret_fd)
{
	const char *path = store->dir;
	struct stat st;
	int err, fd, rc;

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
	rc = check_owner(path, &st);
	if (rc == TERRACE_OK)
		rc = refuse_network(path, fd);
	if (rc != TERRACE_OK)
		return rc;
	if (faccessat(fd, ".", X_OK, AT_EACCESS) < 0)
		return refuse(path, "it may not be searched");
	store->device = st.st_dev;
	store->inode = st.st_ino;
	return TERRACE_OK;
}

/* The format's own directory: another version of Terrace has another one. */
static int open_format(struct terrace *store, int dir_fd, char *name, size_t name_size)
{
	struct stat st;
	int rc;

	snprintf(name, name_size, "v%d", FORMAT_VERSION);
	if (mkdirat(dir_fd, name, 0700) < 0 && errno != EEXIST)
		return failed(store->dir, errno);
	store->dir_fd = openat(dir_fd, name, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
	if (store->dir_fd < 0 || fstat(store->dir_fd, &st) < 0)
		return failed(store->dir, errno);
	rc = check_owner(store->dir, &st);
	if (rc != TERRACE_OK)
		return rc;
	store->read_only = !terrace__may_write(store->dir_fd);
	store->lock_fd = openat(
	    store->dir_fd, "lock",
	    (store->read_only ? O_RDONLY : O_CREAT | O_RDWR) | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (store->lock_fd < 0 && errno == ENOENT)
		return refuse(store->dir, "it is not writable, and holds no whole store to read");
	if (store->lock_fd < 0)
		return failed(store->dir, errno);
	return terrace__dictionaries_open(store->dir_fd);
}

/* --- the database and what is shared beside it -------------------------------------------------- */

/* A store that is new to this machine's memory takes what the database knows. */
static bool restore_cache(void *ctx, uint32_t number, const char *name, uint64_t floor,
                          bool immutable)
{
	struct shared *shared = ctx;
	struct shared_cache *cache;

	if (number >= CACHES_MAX || strlen(name) > TERRACE_NAME_MAX)
		return true;
	cache = &shared->caches[number];
	strcpy(cache->name, name);
	atomic_store(&cache->floor, floor);
	atomic_store(&cache->immutable, immutable);
	atomic_store(&cache->in_use, 1);
	return true;
}

int terrace__attach_restore(struct terrace *store)
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
		if (rc == TERRACE_OK && atomic_load(&shared->caches[i].immutable))
			rc = store->disk_ops->cache_immutable(store->disk, i);
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

int terrace__attach_database(struct terrace *store, const char *path)
{
	char name[32];
	int rc;

	snprintf(name, sizeof name, "db-%u", store->shared->generation);
	rc = terrace__tiers_disk(store->dir_fd, path, name, !store->read_only, log_bytes(store),
	                         terrace__value_max(store), &store->disk_ops, &store->disk);
	if (rc == TERRACE_OK && !store->read_only)
		store->disk_ops->follow(store->disk, &store->shared->commits,
		                        &store->shared->writing);
	return rc;
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
	/* Locks fall when a machine does: with others attached, this is their boot. */
	bool alone = terrace__lock_try(store->lock_fd, LOCK_ATTACHED, true) == 0, fresh;
	uint8_t boot[16];
	int rc;

	rc = terrace__boot_id(store->boot_id_path, boot);
	if (rc == TERRACE_OK)
		rc = terrace__shared_open(store->dir_fd, boot, alone, &store->shared, &fresh);
	if (rc != TERRACE_OK)
		return rc;
	rc = terrace__attach_database(store, path);
	if (rc != TERRACE_OK)
		return rc;
	if (fresh) {
		rc = terrace__attach_restore(store);
		terrace__clock_settle(store->shared);
	}
	terrace__clock_start(store);
	if (fresh && alone && rc == TERRACE_OK)
		rc = terrace__power_check(store);
	if (fresh && rc == TERRACE_OK)
		rc = terrace__shared_publish(store->dir_fd, store->shared);
	else if (rc == TERRACE_OK)
		rc = refill_new(store);
	return rc;
}

/*
 * The path of the format's directory for SQLite, which opens by path and follows
 * no link on the way: parents of ours may well be links.
 */
static int real_path(struct terrace *store, const char *name, char **ret)
{
	char *real = realpath(store->dir, NULL);
	struct stat st;
	int rc;

	if (!real)
		return failed(store->dir, errno);
	if (stat(real, &st) < 0)
		rc = failed(store->dir, errno);
	else if (st.st_dev != store->device || st.st_ino != store->inode)
		rc = refuse(store->dir, "it is being moved");
	else
		rc = asprintf(ret, "%s/%s", real, name) < 0 ? TERRACE_ENOMEM : TERRACE_OK;
	free(real);
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
	rc = real_path(store, name, &path);
	if (rc != TERRACE_OK)
		return rc;
	if (store->read_only) {
		rc = terrace__attach_read_only(store, path);
		free(path);
		return rc;
	}
	while (store->token == 0 || store->token == HELD_BY_MANY) {
		if (getrandom(&store->token, sizeof store->token, 0) < 0)
			store->token = (uint64_t)getpid() << 32 | (uint32_t)time(NULL);
	}
	rc = terrace__lock_wait(store->lock_fd, LOCK_ATTACH, true);
	if (rc < 0) {
		rc = failed(store->dir, -rc);
	} else {
		rc = open_parts(store, path);
		terrace__lock_try(store->lock_fd, LOCK_ATTACHED, false);
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
	(void)ctx;
	/* Emptying the log is a change to those who read without locks. */
	atomic_store(&store->shared->writing, shared_draw(store->shared));
	store->disk_ops->checkpoint(store->disk, CHECKPOINT_CLOSING);
	atomic_fetch_add(&store->shared->commits, 1);
	atomic_store(&store->shared->writing, 0);
	return TERRACE_OK;
}

/* How long leaving waits for other writers: what it writes is of little weight. */
enum { LEAVE_WAIT_MS = 100 };

void terrace__detach(struct terrace *store)
{
	if (store->disk)
		terrace__behind_close(store);
	terrace__idle_settle(store);
	if (store->disk && !store->read_only && atomic_load(&store->wrote)) {
		store->wait_ms = LEAVE_WAIT_MS;
		if (terrace__write_alone(store, leave, NULL) != TERRACE_OK)
			terrace__swallow(store, NULL, "closing");
	}
	if (store->disk && !store->read_only)
		terrace__power_leave(store);
	if (store->disk)
		store->disk_ops->tier.close(store->disk);
	terrace__shared_close(store->shared);
	terrace__dictionaries_close(store->dir_fd);
	terrace__detach_read_only(store);
	terrace__fd_done(&store->dir_fd);
	terrace__fd_done(&store->lock_fd);
	store->disk = NULL;
	store->shared = NULL;
}
