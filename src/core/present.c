#include "core/present.h"

#include "core/caches.h"
#include "core/locks.h"
#include "core/power.h"
#include "tiers/status.h"
#include "util/fs.h"
#include "util/lock.h"
#include "util/message.h"
#include "util/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool terrace__may_write(int dir_fd)
{
	static const char *const names[] = { ".", "lock", "shared" };

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		if (faccessat(dir_fd, names[i], W_OK, AT_EACCESS) < 0 && errno != ENOENT)
			return false;
	}
	return true;
}

/* --- attaching ---------------------------------------------------------------------------------- */

/*
 * The snapshot's own, to be filled from the database; what is watched may be
 * damaged, and all the same say that somebody writes.
 */
static int make_snapshot(struct terrace *store, const uint8_t boot[16], bool whole)
{
	struct snapshot *snapshot = &store->snapshot;
	struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
	                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t time = 0;

	if (shared == MAP_FAILED)
		return no_memory("a store that is read");
	terrace__shared_fill(shared);
	memcpy(shared->head.boot_id, boot, sizeof shared->head.boot_id);
	if (snapshot->watched) {
		snapshot->seq = atomic_load(&snapshot->watched->seq);
		time = atomic_load(&snapshot->watched->last_time);
	}
	if (whole && word_holds(snapshot->watched, PLACE_TIME, time))
		atomic_store(&shared->last_time, word_make(shared, PLACE_TIME, word_value(time)));
	terrace__clock_settle(shared);
	snapshot->taken = true;
	store->shared = shared;
	return TERRACE_OK;
}

/* What is shared, or what stands for it. */
static int open_shared(struct terrace *store)
{
	bool others = terrace__lock_held(store->attach_fd, LOCK_ATTACHED), whole;
	struct snapshot *snapshot = &store->snapshot;
	struct shared *shared;
	struct stat st;
	uint8_t boot[16];
	int rc = terrace__boot_id(store->boot_id_path, boot);

	if (rc == TERRACE_OK)
		rc = terrace__shared_look(store->dir_fd, &shared, &store->lock_fd, &whole);
	if (rc != TERRACE_OK)
		return rc;
	if (store->lock_fd >= 0 && fstat(store->lock_fd, &st) == 0)
		snapshot->inode = st.st_ino;
	if (!whole || !(others || terrace__boot_same(shared->head.boot_id, boot))) {
		snapshot->watched = shared;
		return make_snapshot(store, boot, whole);
	}
	store->shared = shared;
	/* Nobody takes it for that of another boot while we rely on it. */
	terrace__lock_try(store->attach_fd, LOCK_ATTACHED, false);
	terrace__lock_try(store->lock_fd, LOCK_ATTACHED, false);
	return TERRACE_OK;
}

static int open_parts(struct terrace *store, const char *path)
{
	uint32_t latest = 1;
	int rc = open_shared(store);

	if (rc != TERRACE_OK)
		return rc;
	store->head = store->shared->head;
	rc = terrace__attach_database(store, path);
	if (rc == TERRACE_OK && store->snapshot.taken)
		rc = store->disk_ops->latest(store->disk, &latest);
	if (rc == TERRACE_OK && store->snapshot.taken)
		atomic_store(&store->shared->disk.generation, (uint32_t)max_u64(latest, 1));
	if (rc == TERRACE_OK)
		rc = store->disk_ops->look(store->disk);
	if (rc == TERRACE_MISS)
		rc = TERRACE_ECORRUPT;
	if (rc == TERRACE_OK && store->snapshot.taken) {
		rc = terrace__attach_restore(store);
		if (rc == TERRACE_OK)
			rc = terrace__power_check_snapshot(store);
	}
	terrace__clock_start(store);
	return rc;
}

static int cannot_open(const struct terrace *store, int err)
{
	if (err == ENOENT)
		terrace__message_set("cannot use %s as a cache directory: it is not writable, and "
		                     "holds no whole store to read",
		                     store->dir);
	else
		terrace__message_set("cannot open the lock file of %s: %s", store->dir,
		                     strerror(err));
	if (err == ENOENT || err == EACCES || err == EPERM || err == ELOOP)
		return TERRACE_EACCESS;
	return err == ENOMEM ? TERRACE_ENOMEM : TERRACE_EIO;
}

int terrace__attach_read_only(struct terrace *store, const char *path)
{
	int rc;

	store->attach_fd = openat(store->dir_fd, "lock", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (store->attach_fd < 0)
		return cannot_open(store, errno);
	rc = terrace__lock_wait(store->attach_fd, LOCK_ATTACH, false);
	if (rc < 0) {
		terrace__message_set("cannot lock %s/lock: %s", path, strerror(-rc));
		return TERRACE_EIO;
	}
	rc = open_parts(store, path);
	terrace__unlock(store->attach_fd, LOCK_ATTACH);
	if (rc == TERRACE_OK)
		terrace__log(store, TERRACE_LOG_INFO, "%s is not writable: it is read alone%s",
		             store->dir, store->snapshot.taken ? ", as it is now" : "");
	return rc;
}

void terrace__detach_read_only(struct terrace *store)
{
	terrace__shared_close((struct shared *)(uintptr_t)store->snapshot.watched);
	store->snapshot.watched = NULL;
}

/* --- is it still there? ------------------------------------------------------------------------ */

static bool has_name(int fd)
{
	struct stat st;

	return fstat(fd, &st) < 0 || st.st_nlink > 0;
}

/*
 * Who writes draws a number in the shared file, or makes that anew. Before a
 * row is read, so that a write that has returned by then is seen.
 */
static bool snapshot_holds(const struct terrace *store)
{
	const struct snapshot *snapshot = &store->snapshot;
	struct stat st;
	ino_t inode = 0;

	if (snapshot->watched && atomic_load(&snapshot->watched->seq) != snapshot->seq)
		return false;
	if (fstatat(store->dir_fd, "shared", &st, AT_SYMLINK_NOFOLLOW) == 0)
		inode = st.st_ino;
	return inode == snapshot->inode;
}

/* Those that other processes of this directory have in memory as well. */
static void void_copies(struct terrace *store)
{
	for (uint32_t i = 0; i < CACHES_MAX && !store->read_only; i++) {
		if (terrace__cache_is_named(store->shared, i))
			terrace__epoch_move(store->shared, &store->shared->caches[i], NULL);
	}
}

bool terrace__present(struct terrace *store)
{
	bool there;

	if (UNLIKELY(atomic_load_explicit(&store->gone, memory_order_relaxed)))
		return false;
	if (UNLIKELY(store->snapshot.taken))
		there = snapshot_holds(store);
	else
		there = has_name(store->lock_fd) || has_name(store->attach_fd);
	if (LIKELY(there))
		return true;
	if (!atomic_exchange(&store->gone, true)) {
		terrace__log(
		    store, TERRACE_LOG_WARN,
		    store->snapshot.taken ?
			"%s is being written to: nothing is found until it is opened again" :
			"%s was removed: nothing is found until it is opened again",
		    store->dir);
		void_copies(store);
	}
	return false;
}

int terrace__check_writable(struct terrace *store)
{
	if (UNLIKELY(store->read_only)) {
		terrace__message_set("the store %s cannot be written to: its directory or files "
		                     "are read-only; change their mode, or choose another with "
		                     "--dir or TERRACE_DIR",
		                     store->dir);
		return TERRACE_EACCESS;
	}
	if (UNLIKELY(!terrace__present(store))) {
		terrace__message_set("the store %s was removed while it was in use; open it again",
		                     store->dir);
		return TERRACE_EIO;
	}
	return TERRACE_OK;
}
