#include "core/power.h"

#include "core/lane.h"
#include "core/locks.h"
#include "core/write.h"
#include "util/fs.h"
#include "util/hash.h"
#include "util/lock.h"
#include "util/message.h"
#include "util/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define UNSYNCED_NAME "unsynced"

/* The whole file, within a sector: it is there as it was written or as it was before. */
struct unsynced {
	char magic[8];
	uint8_t boot[16]; /* zeros: none */
	uint64_t check;
};

static const char magic[8] = { 'T', 'r', 'b', 'o', 'o', 't', '1', '\n' };

static const uint8_t none[16];

/* The bytes of a boot that is not known: it is not even the same as itself. */
enum { UNKNOWN = 0xff };

/* --- the boot ----------------------------------------------------------------------------------- */

static int cannot_tell(const char *path, int err)
{
	terrace__message_set("cannot read %s: %s", path, strerror(err));
	return err == ENOMEM ? TERRACE_ENOMEM : TERRACE_EIO;
}

int terrace__boot_id(const char *path, uint8_t ret[16])
{
	CLEANUP(terrace__fd_done) int fd = -1;
	char text[37] = "";
	size_t got = 0;
	int at = 0, rc;

	memset(ret, UNKNOWN, 16);
	path = path ? path : "/proc/sys/kernel/random/boot_id";
	fd = open(path, O_RDONLY | O_CLOEXEC);
	/* That it cannot be read just now does not make it another boot. */
	if (fd < 0)
		return errno == ENOENT || errno == EACCES ? TERRACE_OK : cannot_tell(path, errno);
	rc = terrace__read_full(fd, text, 36, 0, &got);
	if (rc < 0)
		return cannot_tell(path, -rc);
	if (got != 36)
		return TERRACE_OK;
	memset(ret, 0, 16);
	for (const char *c = text; *c && at < 32; c++) {
		char digit[2] = { *c, '\0' };

		if (*c == '-')
			continue;
		ret[at / 2] = (uint8_t)(ret[at / 2] << 4 | strtoul(digit, NULL, 16));
		at++;
	}
	return TERRACE_OK;
}

bool terrace__boot_same(const uint8_t a[16], const uint8_t b[16])
{
	static const uint8_t unknown[] = { UNKNOWN, UNKNOWN };

	return memcmp(a, b, 16) == 0 && memcmp(a, unknown, sizeof unknown) != 0;
}

/* --- the file ----------------------------------------------------------------------------------- */

static uint64_t check_of(const struct unsynced *unsynced)
{
	return terrace__hash64(unsynced, offsetof(struct unsynced, check), 0);
}

/* That it cannot be read just now does not make it another boot's. */
static bool may_pass(int err)
{
	return err == EMFILE || err == ENFILE || err == ENOMEM || err == EIO;
}

/* *ret_whole: it is there, and whole. */
static int unsynced_read(const struct terrace *store, struct unsynced *ret, bool *ret_whole)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	size_t got = 0;
	int rc;

	fd = openat(store->dir_fd, UNSYNCED_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	rc = fd < 0 ? -errno : terrace__read_full(fd, ret, sizeof *ret, 0, &got);
	if (may_pass(-rc)) {
		terrace__message_set("cannot read %s/v%d/" UNSYNCED_NAME ": %s; try again, or "
		                     "remove it, and with it what the store has",
		                     store->dir, FORMAT_VERSION, strerror(-rc));
		return rc == -ENOMEM ? TERRACE_ENOMEM : TERRACE_EIO;
	}
	*ret_whole = rc == 0 && got == sizeof *ret &&
	             memcmp(ret->magic, magic, sizeof magic) == 0 && ret->check == check_of(ret);
	return TERRACE_OK;
}

/*
 * In its place, so that syncing it is one write. Whether its name survives does
 * not matter: without the file everything is dropped.
 */
static int unsynced_write(struct terrace *store, const uint8_t boot[16], bool sync)
{
	enum { FLAGS = O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC };
	CLEANUP(terrace__fd_done) int fd = -1;
	struct unsynced unsynced = { 0 };
	int rc;

	memcpy(unsynced.magic, magic, sizeof magic);
	memcpy(unsynced.boot, boot, sizeof unsynced.boot);
	unsynced.check = check_of(&unsynced);
	fd = openat(store->dir_fd, UNSYNCED_NAME, FLAGS, 0600);
	if (fd < 0 && errno == ELOOP && unlinkat(store->dir_fd, UNSYNCED_NAME, 0) == 0)
		fd = openat(store->dir_fd, UNSYNCED_NAME, FLAGS, 0600); /* we make no links */
	rc = fd < 0 ? -errno : terrace__write_full(fd, &unsynced, sizeof unsynced, 0);
	if (rc == 0 && sync && fdatasync(fd) < 0)
		rc = -errno;
	if (rc == 0)
		return TERRACE_OK;
	terrace__message_set("cannot write %s/v%d/" UNSYNCED_NAME ", without which a power cut "
	                     "would go unnoticed: %s",
	                     store->dir, FORMAT_VERSION, strerror(-rc));
	return rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG ? TERRACE_EFULL : TERRACE_EIO;
}

int terrace__power_mark(struct terrace *store)
{
	/* Several may do it at once: they write the same. */
	int rc = unsynced_write(store, store->head.boot_id, true);

	if (rc == TERRACE_OK)
		terrace__unsynced_set(store->shared, true);
	return rc;
}

/* --- syncing ------------------------------------------------------------------------------------ */

/* Is any, or may one be? A word that is damaged does not say that it is not. */
static bool has_immutable(const struct shared *shared)
{
	for (uint32_t i = 0; i < CACHES_MAX; i++) {
		if (atomic_load(&shared->caches[i].immutable) !=
		    word_make(shared, PLACE_IMMUTABLE + i, 0))
			return true;
	}
	return false;
}

bool terrace__power_checkpoint(struct terrace *store, enum disk_checkpoint when)
{
	struct shared *shared = store->shared;
	const struct disk_ops *ops = store->disk_ops;

	if (!ops->checkpoint_due(store->disk, when))
		return false;
	/* With the mark, and nothing that outlives it, the next boot drops all there is. */
	if (shared_is_unsynced(shared) && !shared_is_loose(shared) && !has_immutable(shared))
		terrace__loose_set(shared, true);
	ops->loosen(store->disk, shared_is_loose(shared));
	return ops->checkpoint(store->disk, when);
}

int terrace__power_tighten(struct terrace *store)
{
	/* Whatever the word says: it may have been damaged. */
	int rc = store->disk_ops->sync(store->disk);

	if (rc == TERRACE_OK)
		terrace__loose_set(store->shared, false);
	return rc;
}

/* --- dropping --------------------------------------------------------------------------------------- */

int terrace__floor_raise(struct terrace *store, uint32_t cache, uint64_t floor)
{
	int rc = store->disk_ops->cache_floor(store->disk, cache, floor);

	terrace__floor_set(store->shared, &store->shared->caches[cache], floor);
	return rc;
}

int terrace__floors_raise(struct terrace *store)
{
	struct transaction transaction;
	uint64_t floor;
	int rc = terrace__transaction_begin(store, &transaction);

	if (rc != TERRACE_OK)
		return rc;
	floor = terrace__draw(store->shared);
	/* Those without a name too: it may be what was damaged. */
	for (uint32_t i = 0; i < CACHES_MAX && rc == TERRACE_OK; i++) {
		if (!cache_is_immutable(store->shared, &store->shared->caches[i]))
			rc = terrace__floor_raise(store, i, floor);
	}
	if (rc != TERRACE_OK) {
		terrace__transaction_rollback(&transaction);
		return rc;
	}
	return terrace__transaction_commit(&transaction);
}

static int drop(struct terrace *store, void *ctx)
{
	int rc = terrace__floors_raise(store);

	(void)ctx;
	return rc == TERRACE_OK ? store->disk_ops->sync(store->disk) : rc;
}

int terrace__power_drop(struct terrace *store, const char *why)
{
	terrace__log(store, TERRACE_LOG_WARN, "%s: what is not immutable is dropped", why);
	return terrace__write_alone(store, drop, NULL);
}

/* What may be lost. */
struct losses {
	bool any;       /* the latest writes */
	bool this_boot; /* nothing, but it is not synced either */
	bool all;       /* with nothing that is immutable, all that there is; without a mark, a
	                   database that has no caches is a new one */
};

static int look_at_losses(const struct terrace *store, struct losses *ret)
{
	struct unsynced unsynced;
	bool whole;
	int rc = unsynced_read(store, &unsynced, &whole);

	if (rc != TERRACE_OK)
		return rc;
	ret->this_boot = whole && terrace__boot_same(unsynced.boot, store->head.boot_id);
	ret->all = !has_immutable(store->shared) &&
	           (whole || terrace__cache_is_named(store->shared, 0));
	ret->any = !ret->this_boot && !(whole && memcmp(unsynced.boot, none, sizeof none) == 0);
	return TERRACE_OK;
}

/* What was not synced may be of any age, page by page: nothing in it is believed. */
static int discard(struct terrace *store, void *ctx)
{
	int rc = terrace__database_discard(store);

	(void)ctx;
	return rc == TERRACE_OK ? store->disk_ops->sync(store->disk) : rc;
}

static int drop_all(struct terrace *store)
{
	terrace__log(store, TERRACE_LOG_WARN,
	             "the machine went down while the store was in use: it begins anew");
	return terrace__write_alone(store, discard, NULL);
}

int terrace__power_check_snapshot(struct terrace *store)
{
	struct losses losses = { .any = false };
	int rc = look_at_losses(store, &losses);

	for (uint32_t i = 0; i < CACHES_MAX && losses.any; i++) {
		struct shared_cache *cache = &store->shared->caches[i];

		if (!cache_is_immutable(store->shared, cache))
			terrace__floor_set(store->shared, cache, WORD_MASK);
	}
	return rc;
}

int terrace__power_check(struct terrace *store, bool waiting_lost)
{
	struct shared *shared = store->shared;
	struct losses losses;
	int rc = look_at_losses(store, &losses);

	if (rc != TERRACE_OK)
		return rc;
	/* This boot's: what was written is still there, synced or not. */
	terrace__unsynced_set(shared, losses.this_boot);
	if (losses.any && losses.all)
		rc = drop_all(store);
	else if (terrace__cache_is_named(shared, 0) && losses.any)
		rc = terrace__power_drop(store, "the machine went down while the store was in use, "
		                                "so the latest writes may be lost");
	else if (terrace__cache_is_named(shared, 0) && waiting_lost)
		rc = terrace__power_drop(store, "the shared file was missing or damaged, so rows "
		                                "may be there that were to be replaced");
	if (rc == TERRACE_OK && losses.any)
		rc = unsynced_write(store, none, false);
	return rc;
}

/* --- leaving ------------------------------------------------------------------------------------------ */

static int sync_all(struct terrace *store, void *ctx)
{
	(void)ctx;
	return store->disk_ops->sync(store->disk);
}

/* With both, nobody else has the store open, nor can come before we have left. */
static bool is_last(struct terrace *store)
{
	/* Another lock file than the one that has the name keeps nobody out. */
	return terrace__attach_is_named(store->dir_fd, store->attach_fd) &&
	       terrace__lock_try(store->attach_fd, LOCK_ATTACHED, true) == 0 &&
	       terrace__lock_try(store->lock_fd, LOCK_ATTACHED, true) == 0;
}

/* How long leaving waits for others who come or leave: for the latter a moment. */
enum { LEAVE_MS = 100 };

static bool lock_attach(const struct terrace *store)
{
	int rc = terrace__lock_try(store->attach_fd, LOCK_ATTACH, true);

	for (int ms = 0; rc == -EAGAIN && ms < LEAVE_MS; ms++) {
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
		rc = terrace__lock_try(store->attach_fd, LOCK_ATTACH, true);
	}
	return rc == 0;
}

void terrace__power_leave(struct terrace *store)
{
	struct shared *shared = store->shared;

	/* Who comes just now goes on with the store as it is. */
	if (!shared_is_unsynced(shared) || !lock_attach(store))
		return;
	/* Values of a dead process that wait leave rows that are out of date. */
	if (is_last(store) && !terrace__lanes_any(store, NULL) &&
	    terrace__write_alone(store, sync_all, NULL) == TERRACE_OK) {
		/* Before the file says so: if we die in between, who comes next marks anew. */
		terrace__loose_set(shared, false);
		terrace__unsynced_set(shared, false);
		if (unsynced_write(store, none, false) != TERRACE_OK)
			terrace__unsynced_set(shared, true);
	}
	/* We write no more. Of several that leave together the one after us is last, if not we. */
	terrace__unlock(store->attach_fd, LOCK_ATTACHED);
	terrace__unlock(store->lock_fd, LOCK_ATTACHED);
	terrace__unlock(store->attach_fd, LOCK_ATTACH);
}
