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
	return terrace__dictionaries_open(store->dir_fd);
}

/*
 * Take the lock of those who attach. Its file is nothing but that: when it was
 * removed or replaced meanwhile, another process may hold another one.
 */
static int lock_attach(struct terrace *store)
{
	enum { FLAGS = O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC };
	struct stat ours, there;

	for (int tries = 0; tries < 10; tries++) {
		int rc;

		store->attach_fd = openat(store->dir_fd, "lock", FLAGS, 0600);
		if (store->attach_fd < 0 && errno == ELOOP) {
			unlinkat(store->dir_fd, "lock", 0); /* we make no links */
			continue;
		}
		if (store->attach_fd < 0)
			return failed(store->dir, errno);
		rc = terrace__lock_wait(store->attach_fd, LOCK_ATTACH, true);
		if (rc < 0)
			return failed(store->dir, -rc);
		if (fstat(store->attach_fd, &ours) == 0 &&
		    fstatat(store->dir_fd, "lock", &there, AT_SYMLINK_NOFOLLOW) == 0 &&
		    ours.st_ino == there.st_ino)
			return TERRACE_OK;
		terrace__fd_done(&store->attach_fd);
	}
	return failed(store->dir, ELOOP);
}

/* --- the database and what is shared beside it -------------------------------------------------- */

/* What the database knows of a cache, where the shared file does not. */
static bool restore_cache(void *ctx, uint32_t number, const char *name, uint64_t floor)
{
	struct shared *shared = ctx;
	struct shared_cache *cache;

	if (number >= CACHES_MAX || !name || !*name || strlen(name) > TERRACE_NAME_MAX ||
	    terrace__cache_is_named(shared, number))
		return true;
	cache = &shared->caches[number];
	terrace__cache_name(shared, number, name);
	if (terrace__floor(shared, cache) < floor)
		terrace__floor_set(shared, cache, floor);
	return true;
}

int terrace__caches_restore(struct terrace *store)
{
	return store->disk_ops->caches(store->disk, restore_cache, store->shared);
}

/*
 * What was waiting to be written stood in the shared file, and is not known any
 * more: where the database was in use, any row may be one that was to be
 * replaced, and all of them are dead.
 */
static int restore(struct terrace *store)
{
	struct shared *shared = store->shared;
	uint64_t seq = 0;
	int rc = store->disk_ops->state(store->disk, &seq, &shared->head.seed);

	if (rc == TERRACE_OK)
		rc = terrace__caches_restore(store);
	if (rc != TERRACE_OK)
		return rc;
	atomic_store(&shared->seq, word_make(shared, PLACE_SEQ, seq + 1));
	if (seq > 0) {
		terrace__floors_raise(shared);
		terrace__log(store, TERRACE_LOG_WARN,
		             "the shared file was missing or damaged: the store is empty now");
	}
	return TERRACE_OK;
}

/* How long SQLite's log may get: it counts as well. */
static uint64_t log_bytes(const struct terrace *store)
{
	enum { LEAST = 256 << 10, MOST = 4 << 20 };

	if (!store->disk_bytes)
		return MOST;
	return max_u64(LEAST, min_u64(MOST, store->disk_bytes / 64));
}

static int renew_surely(struct terrace *store, void *ctx)
{
	(void)ctx;
	return terrace__database_renew(store, true);
}

static int open_or_create(struct terrace *store)
{
	int rc = store->disk_ops->look(store->disk);

	/* None yet; or who was to make it has died half-way. */
	if (rc == TERRACE_MISS)
		rc = store->disk_ops->create(store->disk);
	return rc == TERRACE_OK ? restore(store) : rc;
}

/* A shared file that is new takes what the database knows, and makes one where there is none. */
static int open_fresh(struct terrace *store)
{
	struct disk_shared *shared = &store->shared->disk;
	const struct disk_ops *ops = store->disk_ops;
	int rc;

	atomic_store(&shared->generation, (uint32_t)max_u64(ops->latest(store->disk), 1));
	rc = open_or_create(store);
	if (rc == TERRACE_ECORRUPT) {
		terrace__log(store, TERRACE_LOG_WARN, "the database is damaged: %s",
		             terrace__message());
		ops->set_aside(store->disk, atomic_fetch_add(&shared->generation, 1),
		               terrace__now(store));
		rc = open_or_create(store);
	}
	return rc;
}

/* UINT64_MAX where that is damaged: then the next draw goes far beyond. */
static uint64_t last_drawn(const struct shared *shared)
{
	uint64_t seq = atomic_load(&shared->seq);

	return word_holds(shared, PLACE_SEQ, seq) ? word_value(seq) : UINT64_MAX;
}

static bool lost_writes(const struct shared *shared, uint64_t seq)
{
	uint64_t committed = atomic_load(&shared->committed);

	return word_holds(shared, PLACE_COMMITTED, committed) && seq < word_value(committed);
}

/*
 * The database that the shared file speaks of. One that has a lower number than
 * was committed has lost writes, by a damaged log for one: older values must not
 * come back.
 */
static int open_known(struct terrace *store, bool alone)
{
	const struct disk_ops *ops = store->disk_ops;
	uint64_t seq = 0, seed = 0;
	int rc = ops->look(store->disk);
	bool damaged = rc == TERRACE_MISS || rc == TERRACE_ECORRUPT;

	if (rc == TERRACE_OK) {
		rc = ops->state(store->disk, &seq, &seed);
		damaged = rc == TERRACE_ECORRUPT;
	}
	if (rc == TERRACE_OK && alone)
		ops->settle(store->disk);
	if (rc == TERRACE_OK && (seed != store->head.seed || lost_writes(store->shared, seq))) {
		terrace__message_set("it is not what was last written");
		damaged = true;
	}
	if (!damaged && rc == TERRACE_OK && ops->moved(store->disk)) {
		terrace__message_set("its files were replaced");
		damaged = true;
	}
	if (!damaged && rc == TERRACE_OK && alone && seq > last_drawn(store->shared)) {
		/* An older copy: what was cleared since, or waits, it does not know. */
		terrace__log(store, TERRACE_LOG_WARN,
		             "the shared file is older than the database: the store is empty now");
		atomic_store(&store->shared->seq, word_make(store->shared, PLACE_SEQ, seq));
		terrace__floors_raise(store->shared);
	}
	return damaged ? terrace__write_alone(store, renew_surely, NULL) : rc;
}

/* Under the attach lock: nobody else looks at a store that is half made. */
static int open_parts(struct terrace *store, const char *path)
{
	bool fresh, alone, others = terrace__lock_try(store->attach_fd, LOCK_PRESENT, true) != 0;
	int rc;

	terrace__lock_try(store->attach_fd, LOCK_PRESENT, false);
	rc = terrace__shared_open(store->dir_fd, others, &store->shared, &store->lock_fd, &fresh,
	                          &alone);
	if (rc != TERRACE_OK)
		return rc;
	terrace__lock_try(store->lock_fd, LOCK_PRESENT, false);
	rc = terrace__tiers_disk(store->dir_fd, path, &store->shared->disk, log_bytes(store),
	                         &store->disk_ops, &store->disk);
	if (rc != TERRACE_OK)
		return rc;
	terrace__clock_settle(store->shared);
	store->head = store->shared->head;
	terrace__clock_start(store);
	rc = fresh ? open_fresh(store) : open_known(store, alone);
	if (rc == TERRACE_OK && alone) {
		store->disk_ops->settle(store->disk);
		terrace__database_aside(store);
	}
	if (rc == TERRACE_OK && fresh)
		rc = terrace__shared_publish(store->dir_fd, store->shared);
	store->head = store->shared->head;
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
	rc = lock_attach(store);
	if (rc == TERRACE_OK) {
		rc = open_parts(store, path);
		terrace__unlock(store->attach_fd, LOCK_ATTACH);
		if (rc == TERRACE_OK)
			terrace__behind_reap(store);
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
			rc = terrace__access_flush(store, ACCESSES);
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
	terrace__fd_done(&store->attach_fd);
	store->disk = NULL;
	store->shared = NULL;
}
