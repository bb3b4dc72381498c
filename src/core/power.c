#include "core/power.h"

#include "core/behind.h"
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

/* False when it is not there, or not whole. */
static bool unsynced_read(const struct terrace *store, struct unsynced *ret)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	size_t got = 0;

	fd = openat(store->dir_fd, UNSYNCED_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	return fd >= 0 && terrace__read_full(fd, ret, sizeof *ret, 0, &got) == 0 &&
	       got == sizeof *ret && memcmp(ret->magic, magic, sizeof magic) == 0 &&
	       ret->check == check_of(ret);
}

/*
 * In its place, so that syncing it is one write. Whether its name survives does
 * not matter: without the file everything is dropped.
 */
static int unsynced_write(struct terrace *store, const uint8_t boot[16], bool sync)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct unsynced unsynced = { 0 };
	int rc;

	memcpy(unsynced.magic, magic, sizeof magic);
	memcpy(unsynced.boot, boot, sizeof unsynced.boot);
	unsynced.check = check_of(&unsynced);
	fd = openat(store->dir_fd, UNSYNCED_NAME, O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
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
	int rc = unsynced_write(store, store->shared->boot_id, true);

	if (rc == TERRACE_OK)
		atomic_store(&store->shared->unsynced, 1);
	return rc;
}

/* --- dropping --------------------------------------------------------------------------------------- */

/* Under the writers' lock. Every row of these caches is dead in one stroke, as by a clear. */
static int drop(struct terrace *store, void *ctx)
{
	struct shared *shared = store->shared;
	struct transaction transaction;
	uint64_t floor;
	int rc = terrace__transaction_begin(store, &transaction);

	(void)ctx;
	if (rc != TERRACE_OK)
		return rc;
	floor = shared_draw(shared);
	for (uint32_t i = 0; i < CACHES_MAX && rc == TERRACE_OK; i++) {
		struct shared_cache *cache = &shared->caches[i];

		if (!atomic_load(&cache->in_use) || atomic_load(&cache->immutable))
			continue;
		rc = store->disk_ops->cache_floor(store->disk, i, floor);
		atomic_store(&cache->floor, floor);
	}
	if (rc != TERRACE_OK) {
		terrace__transaction_rollback(&transaction);
		return rc;
	}
	rc = terrace__transaction_commit(&transaction);
	return rc == TERRACE_OK ? store->disk_ops->sync(store->disk) : rc;
}

/* May the latest writes be lost? *ret_this_boot: no, but they are not synced either. */
static bool may_be_lost(const struct terrace *store, bool *ret_this_boot)
{
	struct unsynced unsynced;
	bool whole = unsynced_read(store, &unsynced);

	*ret_this_boot = whole && terrace__boot_same(unsynced.boot, store->shared->boot_id);
	return !*ret_this_boot && !(whole && memcmp(unsynced.boot, none, sizeof none) == 0);
}

void terrace__power_check_snapshot(struct terrace *store)
{
	bool this_boot, lost = may_be_lost(store, &this_boot);

	for (uint32_t i = 0; i < CACHES_MAX && lost; i++) {
		struct shared_cache *cache = &store->shared->caches[i];

		if (!atomic_load(&cache->immutable))
			atomic_store(&cache->floor, UINT64_MAX);
	}
}

int terrace__power_check(struct terrace *store)
{
	struct shared *shared = store->shared;
	bool this_boot, lost = may_be_lost(store, &this_boot);
	int rc;

	/* This boot's: what was written is still there, synced or not. */
	atomic_store(&shared->unsynced, this_boot);
	if (!lost)
		return TERRACE_OK;
	if (atomic_load(&shared->caches[0].in_use)) {
		terrace__log(store, TERRACE_LOG_WARN,
		             "the machine went down while the store was in use: what is not "
		             "immutable is dropped, because the latest writes may be lost");
		rc = terrace__write_alone(store, drop, NULL);
		if (rc != TERRACE_OK)
			return rc;
	}
	return unsynced_write(store, none, false);
}

/* --- leaving ------------------------------------------------------------------------------------------ */

static int sync_all(struct terrace *store, void *ctx)
{
	(void)ctx;
	return store->disk_ops->sync(store->disk);
}

void terrace__power_leave(struct terrace *store)
{
	struct shared *shared = store->shared;

	/* Who comes just now goes on with the store as it is. */
	if (!atomic_load(&shared->unsynced) ||
	    terrace__lock_try(store->lock_fd, LOCK_ATTACH, true) != 0)
		return;
	/* Values of a dead process that wait leave rows that are out of date. */
	if (terrace__lock_try(store->lock_fd, LOCK_ATTACHED, true) == 0 &&
	    !terrace__behind_any(store, NULL) &&
	    terrace__write_alone(store, sync_all, NULL) == TERRACE_OK &&
	    unsynced_write(store, none, false) == TERRACE_OK)
		atomic_store(&shared->unsynced, 0);
	terrace__unlock(store->lock_fd, LOCK_ATTACH);
}
