/* Opening a store's directory: who may use it, and what lies in it. */
#include "core/caches.h"

#include "core/behind.h"
#include "core/idle.h"
#include "core/lane.h"
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
	return terrace__dictionaries_open(store->dir_fd);
}

/*
 * Take the lock of those who attach. Its file is nothing but that: when it was
 * removed or replaced meanwhile, another process may hold another one.
 */
static int lock_attach(struct terrace *store)
{
	enum { FLAGS = O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC };

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
		if (terrace__attach_is_named(store->dir_fd, store->attach_fd))
			return TERRACE_OK;
		terrace__fd_done(&store->attach_fd);
	}
	return failed(store->dir, ELOOP);
}

/* --- the database and what is shared beside it -------------------------------------------------- */

/* What the database knows of a cache, where the shared file does not. */
static bool restore_cache(void *ctx, uint32_t number, const char *name, uint64_t floor,
                          bool immutable)
{
	struct shared *shared = ctx;
	struct shared_cache *cache;

	if (number >= CACHES_MAX || !name || !*name || strlen(name) > TERRACE_NAME_MAX ||
	    terrace__cache_is_named(shared, number))
		return true;
	cache = &shared->caches[number];
	terrace__cache_name(shared, number, name);
	terrace__immutable_set(shared, cache, immutable);
	if (terrace__floor(shared, cache) < floor)
		terrace__floor_set(shared, cache, floor);
	return true;
}

int terrace__caches_restore(struct terrace *store)
{
	return store->disk_ops->caches(store->disk, restore_cache, store->shared);
}

int terrace__attach_restore(struct terrace *store)
{
	struct shared *shared = store->shared;
	uint64_t seq = 0;
	int rc = store->disk_ops->state(store->disk, &seq, &shared->head.seed);

	if (rc == TERRACE_OK)
		rc = terrace__caches_restore(store);
	if (rc != TERRACE_OK)
		return rc;
	atomic_store(&shared->seq, word_make(shared, PLACE_SEQ, seq + 1));
	store->head = shared->head;
	return TERRACE_OK;
}

/* How long SQLite's log may get: it counts as well. */
static uint64_t log_bytes(const struct terrace *store)
{
#ifndef TERRACE_CROWDED
	enum { LEAST = 256 << 10, MOST = 4 << 20 };
#else /* for a proof: rows are soon where they stay */
	enum { LEAST = 16 << 10, MOST = 32 << 10 };
#endif

	if (!store->disk_bytes)
		return MOST;
	return max_u64(LEAST, min_u64(MOST, store->disk_bytes / 64));
}

int terrace__attach_database(struct terrace *store, const char *path)
{
	int rc = terrace__tiers_disk(store->dir_fd, path, &store->shared->disk, store->read_only,
	                             log_bytes(store), terrace__value_max(store), &store->disk_ops,
	                             &store->disk);

	if (rc == TERRACE_OK && !store->read_only)
		store->disk_ops->follow(store->disk, &store->shared->commits,
		                        &store->shared->writing);
	return rc;
}

static int open_or_create(struct terrace *store)
{
	int rc = store->disk_ops->look(store->disk);

	/* None yet; or who was to make it has died half-way. */
	if (rc == TERRACE_MISS)
		rc = store->disk_ops->create(store->disk);
	return rc == TERRACE_OK ? terrace__attach_restore(store) : rc;
}

/*
 * A shared file that was made anew takes what the database knows, and makes one
 * where there is none. Which one is in use, the directory says.
 */
static int open_fresh(struct terrace *store)
{
	struct disk_shared *shared = &store->shared->disk;
	const struct disk_ops *ops = store->disk_ops;
	uint32_t latest;
	int rc = ops->latest(store->disk, &latest);

	if (rc != TERRACE_OK)
		return rc;
	atomic_store(&shared->generation, (uint32_t)max_u64(latest, 1));
	rc = open_or_create(store);
	if (rc == TERRACE_ECORRUPT && ops->malformed(store->disk)) {
		terrace__log(store, TERRACE_LOG_WARN, "the database is damaged: %s",
		             terrace__message());
		ops->set_aside(store->disk, atomic_fetch_add(&shared->generation, 1),
		               terrace__now(store));
		rc = open_or_create(store);
	}
	return rc;
}

/*
 * Is the database the one that the shared file speaks of? TERRACE_ECORRUPT where
 * it is not. One that has a lower number than was committed has lost writes, by
 * a damaged log for one: older values must not come back.
 */
static int check_known(struct terrace *store, uint64_t *ret_seq)
{
	const struct disk_ops *ops = store->disk_ops;
	/* Before the database is asked: others may be writing to it. */
	uint64_t committed = atomic_load(&store->shared->committed), seed = 0;
	int rc = ops->look(store->disk);

	if (rc == TERRACE_MISS)
		return TERRACE_ECORRUPT;
	if (rc == TERRACE_OK)
		rc = ops->state(store->disk, ret_seq, &seed);
	if (rc != TERRACE_OK)
		return rc;
	if (seed != store->head.seed || (word_holds(store->shared, PLACE_COMMITTED, committed) &&
	                                 *ret_seq < word_value(committed))) {
		terrace__message_set("it is not what was last written");
		return TERRACE_ECORRUPT;
	}
	if (!ops->moved(store->disk))
		return TERRACE_OK;
	terrace__message_set("its files were replaced");
	return TERRACE_ECORRUPT;
}

/* Under the writers' lock: a new one, if it is still not. */
static int replace_known(struct terrace *store, void *ctx)
{
	uint64_t seq = 0;
	int rc = check_known(store, &seq);

	(void)ctx;
	return rc == TERRACE_ECORRUPT ? terrace__database_renew(store, true) : rc;
}

/* Is the shared file older than the database, which has `seq`? Then what it says is not to be
 * relied on. */
static bool is_older(struct terrace *store, uint64_t seq)
{
	uint64_t drawn = atomic_load(&store->shared->seq);

	/* A damaged number is drawn on from far beyond. */
	if (!word_holds(store->shared, PLACE_SEQ, drawn) || seq <= word_value(drawn))
		return false;
	atomic_store(&store->shared->seq, word_make(store->shared, PLACE_SEQ, seq));
	return true;
}

static int open_known(struct terrace *store, bool alone)
{
	uint64_t seq = 0;
	int rc;

	if (alone)
		store->disk_ops->settle(store->disk);
	rc = check_known(store, &seq);
	if (rc == TERRACE_ECORRUPT)
		rc = terrace__write_alone(store, replace_known, NULL);
	else if (rc == TERRACE_OK && alone && is_older(store, seq))
		rc = terrace__power_drop(store, "the shared file is older than the database");
	return rc;
}

/* Others see by it that there is somebody. On leaving, that of the lock file falls first. */
static int say_attached(struct terrace *store, int fd)
{
	int rc = terrace__lock_try(fd, LOCK_ATTACHED, false);

	return rc < 0 ? failed(store->dir, -rc) : TERRACE_OK;
}

static int try_shared(struct terrace *store, const uint8_t boot[16], enum shared_state *ret_state)
{
	int others = terrace__lock_try(store->attach_fd, LOCK_ATTACHED, true);
	int rc = others < 0 && others != -EAGAIN ? failed(store->dir, -others) :
	                                           say_attached(store, store->attach_fd);

	if (rc == TERRACE_OK)
		rc = terrace__shared_open(store->dir_fd, boot, others != 0, &store->shared,
		                          &store->lock_fd, ret_state);
	return rc == TERRACE_OK ? say_attached(store, store->lock_fd) : rc;
}

static int open_shared(struct terrace *store, enum shared_state *ret_state)
{
	static const struct timespec moment = { .tv_nsec = 1000000 };
	uint8_t boot[16];
	int rc = terrace__boot_id(store->boot_id_path, boot);

	if (rc == TERRACE_OK)
		rc = try_shared(store, boot, ret_state);
	/* Who is killed lets go of its locks in any order. */
	for (int tries = 0; rc == TERRACE_EBUSY && tries < 20; tries++) {
		nanosleep(&moment, NULL);
		rc = try_shared(store, boot, ret_state);
	}
	return rc;
}

/* Under the attach lock: nobody else looks at a store that is half made. */
static int open_parts(struct terrace *store, const char *path)
{
	enum shared_state state;
	bool fresh;
	int rc = open_shared(store, &state);

	if (rc != TERRACE_OK)
		return rc;
	fresh = state == SHARED_REBOOT || state == SHARED_LOST;
	if (fresh)
		terrace__clock_settle(store->shared);
	store->head = store->shared->head;
	terrace__clock_start(store);
	rc = terrace__attach_database(store, path);
	if (rc == TERRACE_OK)
		rc = fresh ? open_fresh(store) : open_known(store, state == SHARED_KEPT);
	if (rc == TERRACE_OK && fresh)
		rc = terrace__power_check(store, state == SHARED_LOST);
	if (rc == TERRACE_OK && state != SHARED_JOINED) {
		store->disk_ops->settle(store->disk);
		terrace__database_aside(store);
	}
	if (rc == TERRACE_OK && fresh) {
		terrace__lanes_remove(store->dir_fd); /* of processes that are no more */
		rc = terrace__shared_publish(store->dir_fd, store->shared);
	}
	store->head = store->shared->head;
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
		rc = asprintf(ret, "%s/%s", real, name) < 0 ? no_memory("a path") : TERRACE_OK;
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
	rc = lock_attach(store);
	if (rc == TERRACE_OK) {
		rc = open_parts(store, path);
		terrace__unlock(store->attach_fd, LOCK_ATTACH);
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
	atomic_store(&store->shared->writing, SOMEBODY_WRITES);
	terrace__power_checkpoint(store, CHECKPOINT_CLOSING);
	terrace__commits_count(store->shared);
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
	terrace__fd_done(&store->attach_fd);
	terrace__fd_done(&store->lock_fd);
	store->disk = NULL;
	store->shared = NULL;
}
