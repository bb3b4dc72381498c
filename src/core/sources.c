#include "core/sources.h"

#include "core/listing.h"
#include "core/lookup.h"
#include "util/fs.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int64_t terrace__source_grain_ms = 2000;

static int64_t ns_of(struct timespec time)
{
	return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

void terrace__source_stat(const struct stat *st, int64_t before, struct source_mark *ret)
{
	int64_t youngest;

	ret->size = (uint64_t)st->st_size;
	ret->mtime_ns = ns_of(st->st_mtim);
	ret->ctime_ns = ns_of(st->st_ctim);
	ret->inode = st->st_ino;
	youngest = (ret->mtime_ns > ret->ctime_ns ? ret->mtime_ns : ret->ctime_ns) / 1000000;
	/* A time in the future says as little as one just now. */
	ret->flags &= (uint8_t)~SOURCE_RACY;
	if (before - youngest < terrace__source_grain_ms)
		ret->flags |= SOURCE_RACY;
}

bool terrace__source_same_stat(const struct source_mark *a, const struct source_mark *b)
{
	return a->size == b->size && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns &&
	       a->inode == b->inode;
}

int terrace__source_failed(int err, const char *path)
{
	if (err == ENOENT || err == ENOTDIR)
		return TERRACE_MISS;
	terrace__message_set("cannot look at the source %s: %s", path, strerror(err));
	if (err == EACCES || err == EPERM)
		return TERRACE_EACCESS;
	return err == ENOMEM ? TERRACE_ENOMEM : TERRACE_EIO;
}

enum source_state terrace__source_changed(char *why, size_t why_size, const char *what,
                                          const char *how)
{
	if (why)
		snprintf(why, why_size, "%s %s", what, how);
	return SOURCE_CHANGED;
}

static int not_a_file(const char *path)
{
	terrace__message_set("the source %s is not a regular file", path);
	return TERRACE_EINVAL;
}

/* --- content ------------------------------------------------------------------------ */

static int hash_fd(int fd, const char *path, uint8_t ret[16])
{
	enum { CHUNK = 128 * 1024 };
	struct hasher *hasher = terrace__hasher_new();
	uint8_t *chunk = malloc(CHUNK);
	off_t at = 0;
	size_t got = 0;
	int rc = hasher && chunk ? 0 : -ENOMEM;

	while (rc == 0) {
		rc = terrace__read_full(fd, chunk, CHUNK, at, &got);
		if (rc < 0 || got == 0)
			break;
		terrace__hasher_add(hasher, chunk, got);
		at += (off_t)got;
	}
	if (rc == 0)
		terrace__hash128_bytes(terrace__hasher_sum(hasher), ret);
	terrace__hasher_free(hasher);
	free(chunk);
	return rc < 0 ? terrace__source_failed(-rc, path) : TERRACE_OK;
}

/* Fingerprint and content of one moment: a file that changes while it is read is racy. */
static int read_file(const char *path, struct source_mark *ret)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	int64_t before = terrace__clock_ms(CLOCK_REALTIME);
	struct source_mark after;
	struct stat st;
	int rc;

	/* Not blocking, in case it is a pipe by now. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		return terrace__source_failed(errno, path);
	if (!S_ISREG(st.st_mode))
		return not_a_file(path);
	terrace__source_stat(&st, before, ret);
	rc = hash_fd(fd, path, ret->hash);
	if (rc != TERRACE_OK)
		return rc;
	ret->flags |= SOURCE_HASHED;
	if (fstat(fd, &st) < 0)
		return terrace__source_failed(errno, path);
	after = *ret;
	terrace__source_stat(&st, before, &after);
	if (!terrace__source_same_stat(ret, &after))
		ret->flags |= SOURCE_RACY;
	return TERRACE_OK;
}

/* What the cache ".files" keeps for a path: a packed mark without one. */
static bool recall(struct terrace_cache *digests, const char *path, struct source_mark *mark)
{
	struct source_mark kept;
	struct extra_walk walk;
	struct entry *entry;
	unsigned tier;
	bool found;

	if (terrace__get(digests, terrace_str(path), &entry, &tier) != TERRACE_OK)
		return false;
	found = terrace__extra_start(&walk, terrace_bytes(entry_value(entry), entry->value_size)) &&
	        terrace__extra_next_source(&walk, &kept) && terrace__source_same_stat(&kept, mark);
	if (found) {
		memcpy(mark->hash, kept.hash, sizeof mark->hash);
		mark->flags |= SOURCE_HASHED;
	}
	entry_unref(entry);
	return found;
}

static void remember(struct terrace_cache *digests, const char *path,
                     const struct source_mark *mark)
{
	CLEANUP(terrace__buf_done) struct buf packed = { 0 };
	struct source_mark bare = *mark;

	bare.path = terrace_bytes(NULL, 0);
	terrace__extra_counts(&packed, 0, 1);
	terrace__extra_source(&packed, &bare);
	if (!packed.failed)
		terrace__put(digests, terrace_str(path), terrace_bytes(packed.data, packed.size),
		             NULL, NULL, NULL);
}

int terrace__file_digest(struct terrace *store, const char *path, struct source_mark *ret)
{
	/* In the middle of a write (an add looks at what is there), nothing may be written. */
	bool may_write = store && !terrace__write_leads(store);
	struct terrace_cache *digests = may_write ? terrace__digests(store) : NULL;
	int64_t before = terrace__clock_ms(CLOCK_REALTIME);
	struct stat st;
	int rc;

	*ret = (struct source_mark){ .kind = SOURCE_FILE };
	if (stat(path, &st) < 0)
		return terrace__source_failed(errno, path);
	if (!S_ISREG(st.st_mode))
		return not_a_file(path);
	terrace__source_stat(&st, before, ret);
	/* The remembered hash was old enough when it was taken; the file has not
	 * been touched since. */
	if (digests && recall(digests, path, ret)) {
		ret->flags &= (uint8_t)~SOURCE_RACY;
		return TERRACE_OK;
	}
	rc = read_file(path, ret);
	if (rc == TERRACE_OK && digests && !(ret->flags & SOURCE_RACY))
		remember(digests, path, ret);
	return rc;
}

/* --- fingerprints --------------------------------------------------------------------- */

int terrace__source_mark(struct terrace *store, const char *path, unsigned flags,
                         struct source_mark *ret)
{
	int64_t before = terrace__clock_ms(CLOCK_REALTIME);
	struct stat st;
	int rc;

	*ret = (struct source_mark){ .kind = SOURCE_FILE };
	if (stat(path, &st) < 0)
		return terrace__source_failed(errno, path);
	if (!S_ISREG(st.st_mode))
		return not_a_file(path);
	terrace__source_stat(&st, before, ret);
	if (!(ret->flags & SOURCE_RACY) && !(flags & TERRACE_SOURCE_CONTENT))
		return TERRACE_OK;
	rc = terrace__file_digest(store, path, ret);
	if (flags & TERRACE_SOURCE_CONTENT)
		ret->flags |= SOURCE_BY_CONTENT;
	return rc;
}

static enum source_state check_content(struct terrace *store, const struct source_mark *mark,
                                       const char *path, char *why, size_t why_size)
{
	struct source_mark now;
	int rc = terrace__file_digest(store, path, &now);

	if (rc == TERRACE_MISS)
		return terrace__source_changed(why, why_size, path, "is gone");
	if (rc != TERRACE_OK)
		return SOURCE_UNKNOWN;
	if (memcmp(now.hash, mark->hash, sizeof now.hash) != 0)
		return terrace__source_changed(why, why_size, path, "has other content");
	return SOURCE_SAME;
}

static enum source_state check_file(struct terrace *store, const struct source_mark *mark,
                                    const char *path, char *why, size_t why_size)
{
	struct source_mark now = { 0 };
	struct stat st;

	if (stat(path, &st) < 0) {
		if (errno == ENOENT || errno == ENOTDIR)
			return terrace__source_changed(why, why_size, path, "is gone");
		return SOURCE_UNKNOWN;
	}
	if (!S_ISREG(st.st_mode))
		return terrace__source_changed(why, why_size, path, "is no longer a file");
	terrace__source_stat(&st, 0, &now); /* whatever its age */
	if (terrace__source_same_stat(mark, &now) && !(mark->flags & SOURCE_RACY))
		return SOURCE_SAME;
	if (mark->flags & SOURCE_HASHED &&
	    (terrace__source_same_stat(mark, &now) || mark->flags & SOURCE_BY_CONTENT))
		return check_content(store, mark, path, why, why_size);
	if (now.size != mark->size)
		return terrace__source_changed(why, why_size, path, "has another size");
	if (now.inode != mark->inode)
		return terrace__source_changed(why, why_size, path, "was replaced");
	return terrace__source_changed(why, why_size, path, "was modified");
}

static enum source_state check_absent(const char *path, char *why, size_t why_size)
{
	struct stat st;

	if (lstat(path, &st) == 0)
		return terrace__source_changed(why, why_size, path, "has appeared");
	return errno == ENOENT || errno == ENOTDIR ? SOURCE_SAME : SOURCE_UNKNOWN;
}

/* --- variables ---------------------------------------------------------------------------- */

void terrace__variable_mark(const char *name, struct source_mark *ret)
{
	const char *value = getenv(name);

	*ret = (struct source_mark){ .kind = SOURCE_VARIABLE };
	if (!value)
		return;
	ret->flags = SOURCE_HASHED;
	ret->size = strlen(value);
	terrace__hash128_bytes(terrace__hash128(value, ret->size, 0), ret->hash);
}

static enum source_state check_variable(const struct source_mark *mark, const char *name, char *why,
                                        size_t why_size)
{
	char what[SOURCE_PATH_MAX + 16];
	struct source_mark now;

	terrace__variable_mark(name, &now);
	if (now.flags == mark->flags && now.size == mark->size &&
	    memcmp(now.hash, mark->hash, sizeof now.hash) == 0)
		return SOURCE_SAME;
	snprintf(what, sizeof what, "the variable %s", name);
	return terrace__source_changed(why, why_size, what,
	                               !(now.flags & SOURCE_HASHED)   ? "is no longer set" :
	                               !(mark->flags & SOURCE_HASHED) ? "is set now" :
	                                                                "has another value");
}

enum source_state terrace__source_check(struct terrace *store, const struct source_mark *mark,
                                        char *why, size_t why_size)
{
	char path[SOURCE_PATH_MAX + 1];

	if (mark->path.size > SOURCE_PATH_MAX)
		return SOURCE_UNKNOWN;
	memcpy(path, mark->path.data, mark->path.size);
	path[mark->path.size] = '\0';
	switch (mark->kind) {
	case SOURCE_FILE:
		return check_file(store, mark, path, why, why_size);
	case SOURCE_ABSENT:
		return check_absent(path, why, why_size);
	case SOURCE_LISTING:
		return terrace__listing_check(mark, path, why, why_size);
	case SOURCE_VARIABLE:
		return check_variable(mark, path, why, why_size);
	}
	return SOURCE_UNKNOWN; /* of a kind that a newer version knows */
}

enum source_state terrace__sources_check(struct terrace *store, terrace_slice extra,
                                         uint64_t *ret_looked_at, char *why, size_t why_size)
{
	enum source_state state = SOURCE_SAME;
	struct source_mark mark;
	struct extra_walk walk;
	terrace_slice tag;

	*ret_looked_at = 0;
	terrace__extra_start(&walk, extra);
	while (terrace__extra_next_tag(&walk, &tag))
		;
	while (state == SOURCE_SAME && terrace__extra_next_source(&walk, &mark)) {
		++*ret_looked_at;
		state = terrace__source_check(store, &mark, why, why_size);
	}
	return state;
}
