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

/* The snapshot's own: from the database. */
static int make_snapshot(struct terrace *store, const uint8_t boot[16])
{
	struct snapshot *snapshot = &store->snapshot;
	struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
	                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED)
		return no_memory("a store that is read");
	memcpy(shared->boot_id, boot, sizeof shared->boot_id);
	shared->generation = snapshot->watched ? snapshot->watched->generation : 1;
	if (snapshot->watched) {
		snapshot->seq = atomic_load(&snapshot->watched->seq);
		atomic_store(&shared->last_time, atomic_load(&snapshot->watched->last_time));
	}
	snapshot->taken = true;
	store->shared = shared;
	return TERRACE_OK;
}

static int open_parts(struct terrace *store, const char *path)
{
	struct snapshot *snapshot = &store->snapshot;
	struct shared *shared;
	uint8_t boot[16];
	bool others = terrace__lock_held(store->lock_fd, LOCK_ATTACHED);
	int rc = terrace__shared_look(store->dir_fd, &shared, &snapshot->inode);

	if (rc != TERRACE_OK)
		return rc;
	rc = terrace__boot_id(store->boot_id_path, boot);
	if (rc != TERRACE_OK) {
		terrace__shared_close(shared);
		return rc;
	}
	if (shared && (others || terrace__boot_same(shared->boot_id, boot))) {
		store->shared = shared;
		/* Nobody takes it for that of another boot while we rely on it. */
		terrace__lock_try(store->lock_fd, LOCK_ATTACHED, false);
	} else {
		snapshot->watched = shared;
		rc = make_snapshot(store, boot);
	}
	if (rc == TERRACE_OK)
		rc = terrace__attach_database(store, path);
	if (rc == TERRACE_OK && snapshot->taken) {
		rc = terrace__attach_restore(store);
		terrace__clock_settle(store->shared);
		terrace__power_check_snapshot(store);
	}
	terrace__clock_start(store);
	return rc;
}

int terrace__attach_read_only(struct terrace *store, const char *path)
{
	int rc = terrace__lock_wait(store->lock_fd, LOCK_ATTACH, false);

	if (rc < 0) {
		terrace__message_set("cannot lock %s/lock: %s", path, strerror(-rc));
		return TERRACE_EIO;
	}
	rc = open_parts(store, path);
	terrace__unlock(store->lock_fd, LOCK_ATTACH);
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
		if (atomic_load(&store->shared->caches[i].in_use))
			terrace__epoch_move(store->shared, &store->shared->caches[i]);
	}
}

bool terrace__present(struct terrace *store)
{
	struct stat st;
	bool there;

	if (UNLIKELY(atomic_load_explicit(&store->gone, memory_order_relaxed)))
		return false;
	if (UNLIKELY(store->snapshot.taken))
		there = snapshot_holds(store);
	else
		there = fstat(store->lock_fd, &st) < 0 || st.st_nlink > 0;
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
