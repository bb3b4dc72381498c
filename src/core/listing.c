#include "core/listing.h"

#include "util/fs.h"
#include "util/glob.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* How often a directory may change while it is read. */
enum { TRIES = 8 };

/* --- what the path says ------------------------------------------------------------------------- */

static bool is_wild(const char *text, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (strchr("*?[\\", text[i]))
			return true;
	}
	return false;
}

static bool is_dir(const char *path, size_t size)
{
	char dir[SOURCE_PATH_MAX + 1];
	struct stat st;

	memcpy(dir, size ? path : "/", size ? size : 1);
	dir[size ? size : 1] = '\0';
	return stat(dir, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Up to the last part, without its '/'; 0 for the root. */
static size_t parent_size(const char *path, size_t size)
{
	while (size > 0 && path[--size] != '/')
		;
	return size;
}

static bool ends_deep(const char *path, size_t size)
{
	return size >= 3 && memcmp(path + size - 3, "/**", 3) == 0;
}

/* What is a directory is meant as one, whatever its name looks like. */
static int parse(const char *path, unsigned *ret_flags)
{
	size_t size = strlen(path), front;

	*ret_flags = 0;
	if (is_dir(path, size))
		return TERRACE_OK;
	front = parent_size(path, size);
	if (!ends_deep(path, size) && is_wild(path + front, size - front)) {
		if (!terrace__glob_valid(path + front + 1, size - front - 1)) {
			terrace__message_set("the pattern of the listing %s has a '[' that is not "
			                     "closed, or ends in '\\'",
			                     path);
			return TERRACE_EINVAL;
		}
		*ret_flags |= SOURCE_PATTERN;
		size = front;
	}
	if (ends_deep(path, size) && !is_dir(path, size)) {
		*ret_flags |= SOURCE_DEEP;
		size -= 3;
	}
	if (is_wild(path, size) && !is_dir(path, size)) {
		terrace__message_set(
		    "the listing %s has wildcards before its last part; only \"**\" "
		    "may stand there, just before it",
		    path);
		return TERRACE_EINVAL;
	}
	return TERRACE_OK;
}

void terrace__listing_split(const char *path, unsigned flags, struct listing *ret)
{
	size_t size = strlen(path);

	ret->pattern = NULL;
	ret->deep = flags & SOURCE_DEEP;
	if (flags & SOURCE_PATTERN) {
		size = parent_size(path, size);
		ret->pattern = path + size + 1;
	}
	if (ret->deep && ends_deep(path, size))
		size -= 3;
	if (size == 0)
		path = "/";
	size += size == 0;
	memcpy(ret->dir, path, size);
	ret->dir[size] = '\0';
}

/* --- going through it ---------------------------------------------------------------------------- */

/* Directories below that wait to be read. */
struct walk {
	const struct listing *listing;
	const struct listing_visitor *visitor;
	int root;
	char **dirs;
	size_t count, capacity;
};

static int wait_for(struct walk *walk, const char *below)
{
	if (walk->count == walk->capacity) {
		size_t capacity = walk->capacity ? 2 * walk->capacity : 16;
		char **grown = realloc(walk->dirs, capacity * sizeof *grown);

		if (!grown)
			return no_memory("a listing");
		walk->dirs = grown;
		walk->capacity = capacity;
	}
	walk->dirs[walk->count] = strdup(below);
	return walk->dirs[walk->count] && ++walk->count ? TERRACE_OK : no_memory("a listing");
}

static int visit_name(struct walk *walk, DIR *stream, const struct dirent *item, const char *below)
{
	const struct listing *listing = walk->listing;
	char path[SOURCE_PATH_MAX + 1];
	bool is_sub = item->d_type == DT_DIR;
	struct stat st;
	int rc = TERRACE_OK, size;

	if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0)
		return TERRACE_OK;
	if (item->d_type == DT_UNKNOWN) {
		if (fstatat(dirfd(stream), item->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return errno == ENOENT ? TERRACE_EBUSY :
			                         terrace__source_failed(errno, listing->dir);
		is_sub = S_ISDIR(st.st_mode);
	}
	size = snprintf(path, sizeof path, "%s%s%s", below, item->d_name, is_sub ? "/" : "");
	if (size > SOURCE_PATH_MAX)
		return terrace__source_failed(ENAMETOOLONG, listing->dir);
	if (walk->visitor->name &&
	    (!listing->pattern || terrace__glob_match(listing->pattern, strlen(listing->pattern),
	                                              item->d_name, strlen(item->d_name))))
		rc = walk->visitor->name(walk->visitor->ctx, path, (size_t)size);
	if (rc == TERRACE_OK && is_sub && listing->deep)
		rc = wait_for(walk, path);
	return rc;
}

/* One directory; takes the descriptor. */
static int visit_dir(struct walk *walk, int fd, const char *below)
{
	struct source_mark before = { 0 }, after = { 0 };
	struct dirent *item;
	struct stat st;
	DIR *stream;
	int rc = TERRACE_OK;

	if (walk->visitor->dir)
		rc = walk->visitor->dir(walk->visitor->ctx, fd, below);
	stream = rc == TERRACE_OK ? fdopendir(fd) : NULL;
	if (!stream) {
		rc = rc == TERRACE_OK ? terrace__source_failed(errno, walk->listing->dir) : rc;
		close(fd);
		return rc;
	}
	if (fstat(fd, &st) == 0)
		terrace__source_stat(&st, 0, &before);
	while (rc == TERRACE_OK) {
		errno = 0;
		item = readdir(stream);
		if (!item) {
			rc = errno ? terrace__source_failed(errno, walk->listing->dir) : TERRACE_OK;
			break;
		}
		rc = visit_name(walk, stream, item, below);
	}
	if (fstat(fd, &st) == 0)
		terrace__source_stat(&st, 0, &after);
	closedir(stream);
	/* What was read is of no one moment. */
	if (rc == TERRACE_OK && !terrace__source_same_stat(&before, &after))
		rc = TERRACE_EBUSY;
	return rc;
}

int terrace__listing_walk(const struct listing *listing, const struct listing_visitor *visitor)
{
	struct walk walk = { .listing = listing, .visitor = visitor };
	int fd, rc;

	walk.root = open(listing->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (walk.root < 0)
		return terrace__source_failed(errno, listing->dir);
	fd = fcntl(walk.root, F_DUPFD_CLOEXEC, 0);
	rc = fd < 0 ? terrace__source_failed(errno, listing->dir) : visit_dir(&walk, fd, "");
	while (rc == TERRACE_OK && walk.count > 0) {
		char *below = walk.dirs[--walk.count], *slash = below + strlen(below) - 1;

		*slash = '\0'; /* before one, a link would be followed */
		fd = openat(walk.root, below,
		            O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		*slash = '/';
		if (fd >= 0)
			rc = visit_dir(&walk, fd, below);
		else if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)
			rc = TERRACE_EBUSY; /* it was there a moment ago */
		else
			rc = terrace__source_failed(errno, listing->dir);
		free(below);
	}
	while (walk.count > 0)
		free(walk.dirs[--walk.count]);
	free(walk.dirs);
	close(walk.root);
	return rc;
}

/* --- fingerprints ---------------------------------------------------------------------------------- */

/* In whatever order the names come: their hashes are added up. */
struct sum {
	struct hash128 hash;
	uint64_t names;
};

static int add_name(void *ctx, const char *below, size_t size)
{
	struct hash128 hash = terrace__hash128(below, size, 0);
	struct sum *sum = ctx;

	sum->hash.low += hash.low;
	sum->hash.high += hash.high + (sum->hash.low < hash.low);
	sum->names++;
	return TERRACE_OK;
}

/* Does the time of the directory tell of every change? Not of those below it. */
static int mark_dir(const struct listing *listing, struct source_mark *ret)
{
	int64_t before = terrace__clock_ms(CLOCK_REALTIME);
	CLEANUP(terrace__fd_done) int fd = open(listing->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return terrace__source_failed(errno, listing->dir);
	terrace__source_stat(&st, before, ret);
	if (listing->deep || !terrace__fs_tells(fd))
		ret->flags |= SOURCE_RACY;
	return TERRACE_OK;
}

static int take(const struct listing *listing, struct source_mark *ret)
{
	struct sum sum;
	struct listing_visitor visitor = { .name = add_name, .ctx = &sum };
	int rc = TERRACE_EBUSY;

	for (int i = 0; i < TRIES && rc == TERRACE_EBUSY; i++) {
		sum = (struct sum){ 0 };
		rc = mark_dir(listing, ret); /* before it is read */
		if (rc == TERRACE_OK)
			rc = terrace__listing_walk(listing, &visitor);
	}
	if (rc == TERRACE_EBUSY) {
		terrace__message_set("the listing of %s does not stop changing", listing->dir);
		return TERRACE_EIO;
	}
	if (rc != TERRACE_OK)
		return rc;
	ret->size = sum.names;
	ret->flags |= SOURCE_HASHED;
	terrace__hash128_bytes(sum.hash, ret->hash);
	return TERRACE_OK;
}

int terrace__listing_mark(const char *path, struct source_mark *ret)
{
	struct listing listing;
	struct stat st;
	unsigned flags;
	int rc;

	rc = parse(path, &flags);
	if (rc != TERRACE_OK)
		return rc;
	*ret = (struct source_mark){ .kind = SOURCE_LISTING, .flags = (uint8_t)flags };
	terrace__listing_split(path, flags, &listing);
	if (stat(listing.dir, &st) < 0) {
		rc = terrace__source_failed(errno, listing.dir);
		if (rc == TERRACE_MISS)
			terrace__message_set("the directory %s does not exist", listing.dir);
		return rc;
	}
	if (!S_ISDIR(st.st_mode)) {
		terrace__message_set("the source %s is no directory; a file is a source by itself",
		                     listing.dir);
		return TERRACE_EINVAL;
	}
	return take(&listing, ret);
}

enum source_state terrace__listing_check(const struct source_mark *mark, const char *path,
                                         char *why, size_t why_size)
{
	struct source_mark now = { 0 };
	struct listing listing;
	char how[80];
	int rc;

	terrace__listing_split(path, mark->flags, &listing);
	rc = mark_dir(&listing, &now);
	if (rc == TERRACE_OK && !(mark->flags & SOURCE_RACY)) {
		now.size = mark->size;
		if (terrace__source_same_stat(&now, mark))
			return SOURCE_SAME;
	}
	if (rc == TERRACE_OK)
		rc = take(&listing, &now);
	if (rc == TERRACE_MISS)
		return terrace__source_changed(why, why_size, listing.dir, "is gone");
	if (rc != TERRACE_OK)
		return SOURCE_UNKNOWN;
	if (now.size == mark->size && memcmp(now.hash, mark->hash, sizeof now.hash) == 0)
		return SOURCE_SAME;
	if (now.size == mark->size)
		snprintf(how, sizeof how, "lists other names");
	else
		snprintf(how, sizeof how, "lists other names (%" PRIu64 ", and not %" PRIu64 ")",
		         now.size, mark->size);
	return terrace__source_changed(why, why_size, path, how);
}
