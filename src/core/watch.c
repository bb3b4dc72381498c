#include "core/watch.h"

#include "core/listing.h"
#include "util/fs.h"
#include "util/time.h"
#include "util/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <unistd.h>

enum {
	BUCKET_COUNT = 4096,
	PATHS_MAX = 64 * 1024, /* then the least that is right: start again */
	LINKS_MAX = 40,        /* as the kernel has it */
	AGAIN_MS = 60 * 1000,  /* until what could not be watched is tried again */
};

/* Of everything on the way; of files; of directories whose names count. */
#define MASK_WAY   (IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF | IN_DONT_FOLLOW | IN_MASK_ADD)
#define MASK_FILE  (IN_MODIFY | IN_CLOSE_WRITE)
#define MASK_NAMES (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO)

struct watched {
	struct watched *next;
	struct hash128 hash; /* of path and kind */
	int64_t again_at; /* it could not be watched, and is tried again then; 0: it is watched */
	size_t count;
	int wds[]; /* of all that its path depends on */
};

struct watch {
	_Atomic uint64_t epoch; /* even; see watch.h */
	_Atomic uint64_t tick;  /* up to which the queue has been read */
	pthread_mutex_t lock;
	struct terrace *store;
	int fd; /* -1: not yet */
	size_t paths;
	int64_t restarted_at;
	bool warned;
	struct watched *buckets[BUCKET_COUNT];
};

struct watch *terrace__watch_new(struct terrace *store)
{
	struct watch *watch = calloc(1, sizeof *watch);

	if (!watch)
		return NULL;
	watch->store = store;
	watch->fd = -1;
	watch->restarted_at = terrace__clock_ms(CLOCK_MONOTONIC);
	atomic_init(&watch->epoch, 2);
	pthread_mutex_init(&watch->lock, NULL);
	return watch;
}

static void forget_all(struct watch *watch)
{
	for (size_t i = 0; i < BUCKET_COUNT; i++) {
		while (watch->buckets[i]) {
			struct watched *path = watch->buckets[i];

			watch->buckets[i] = path->next;
			free(path);
		}
	}
	watch->paths = 0;
}

void terrace__watch_free(struct watch *watch)
{
	if (!watch)
		return;
	forget_all(watch);
	terrace__fd_done(&watch->fd);
	pthread_mutex_destroy(&watch->lock);
	free(watch);
}

size_t terrace__watch_count(struct watch *watch)
{
	size_t count = 0;

	pthread_mutex_lock(&watch->lock);
	for (size_t i = 0; i < BUCKET_COUNT; i++) {
		for (struct watched *path = watch->buckets[i]; path; path = path->next)
			count += path->again_at == 0;
	}
	pthread_mutex_unlock(&watch->lock);
	return count;
}

/* --- what has happened ---------------------------------------------------------------------- */

/* Of one reading of the queue: what is no longer watched as it was. */
struct lost {
	bool changed;
	bool all;
	int *wds;
	size_t count, capacity;
};

static void lose(struct lost *lost, int wd)
{
	int *grown;

	if (lost->count > 0 && lost->wds[lost->count - 1] == wd)
		return;
	if (lost->count == lost->capacity) {
		lost->capacity = lost->capacity ? 2 * lost->capacity : 64;
		grown = realloc(lost->wds, lost->capacity * sizeof *grown);
		if (!grown) {
			lost->all = true;
			lost->capacity = lost->count;
			return;
		}
		lost->wds = grown;
	}
	lost->wds[lost->count++] = wd;
}

static void note_event(struct lost *lost, const struct inotify_event *event)
{
	/* A directory tells of the modes and times of what is in it as well. */
	if (event->mask & IN_ATTRIB && event->len > 0)
		return;
	lost->changed = true;
	if (event->mask & IN_Q_OVERFLOW)
		lost->all = true;
	else if (event->mask & ~(uint32_t)MASK_FILE) /* more than another content */
		lose(lost, event->wd);
}

static void read_queue(const struct watch *watch, struct lost *lost)
{
	char events[8192] __attribute__((aligned(__alignof__(struct inotify_event))));

	for (;;) {
		ssize_t n = read(watch->fd, events, sizeof events);
		const struct inotify_event *event;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			/* It cannot be read: nothing is known. */
			if (n == 0 || errno != EAGAIN)
				lost->changed = lost->all = true;
			return;
		}
		for (char *at = events; at < events + n; at += sizeof *event + event->len) {
			event = (const struct inotify_event *)(const void *)at;
			note_event(lost, event);
		}
	}
}

static int by_number(const void *a, const void *b)
{
	const int *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static bool depends(const struct watched *path, const struct lost *lost)
{
	for (size_t i = 0; i < path->count; i++) {
		if (bsearch(&path->wds[i], lost->wds, lost->count, sizeof *lost->wds, by_number))
			return true;
	}
	return false;
}

static void forget_lost(struct watch *watch, struct lost *lost)
{
	qsort(lost->wds, lost->count, sizeof *lost->wds, by_number);
	for (size_t i = 0; i < BUCKET_COUNT; i++) {
		struct watched **at = &watch->buckets[i];

		while (*at) {
			struct watched *path = *at;

			if (!depends(path, lost)) {
				at = &path->next;
				continue;
			}
			*at = path->next;
			watch->paths--;
			free(path);
		}
	}
}

/* Under the lock. */
static void take_note(struct watch *watch)
{
	struct lost lost = { 0 };

	if (watch->fd >= 0)
		read_queue(watch, &lost);
	if (!lost.changed)
		return;
	if (lost.all)
		forget_all(watch);
	else if (lost.count > 0)
		forget_lost(watch, &lost);
	free(lost.wds);
	atomic_fetch_add(&watch->epoch, 2);
}

/* The epoch, with all in it that happened before this tick. */
static uint64_t epoch_now(struct watch *watch)
{
	uint64_t tick = terrace__tick();

	if (UNLIKELY(atomic_load_explicit(&watch->tick, memory_order_acquire) != tick)) {
		pthread_mutex_lock(&watch->lock);
		if (atomic_load(&watch->tick) != tick) {
			take_note(watch);
			atomic_store_explicit(&watch->tick, tick, memory_order_release);
		}
		pthread_mutex_unlock(&watch->lock);
	}
	return atomic_load_explicit(&watch->epoch, memory_order_acquire);
}

/* --- watching -------------------------------------------------------------------------------- */

/* A path on its way into the table. */
struct adding {
	struct watch *watch;
	struct watched *path;
	size_t capacity;
	int links;
	const struct listing *listing;
};

/* Too many, or none may be had: once in the log. */
static void warn(struct watch *watch, int err)
{
	bool warned;

	if (err != ENOSPC && err != EMFILE)
		return;
	pthread_mutex_lock(&watch->lock);
	warned = watch->warned;
	watch->warned = true;
	pthread_mutex_unlock(&watch->lock);
	if (!warned)
		terrace__log(watch->store, TERRACE_LOG_WARN,
		             "cannot watch more sources: %s; those are looked at on every hit; "
		             "fs.inotify.max_user_%s may be raised",
		             strerror(err), err == EMFILE ? "instances" : "watches");
}

/* False with errno. */
static bool add_watch(struct adding *adding, const char *path, uint32_t mask)
{
	struct watched *grown;
	int wd = inotify_add_watch(adding->watch->fd, path, mask), err = errno;

	if (wd < 0) {
		warn(adding->watch, err);
		errno = err;
		return false;
	}
	if (adding->path->count == adding->capacity) {
		adding->capacity *= 2;
		grown = realloc(adding->path, sizeof *grown + adding->capacity * sizeof(int));
		if (!grown)
			return false;
		adding->path = grown;
	}
	adding->path->wds[adding->path->count++] = wd;
	return true;
}

/* Will we hear of what happens to it? `way`: that it is moved or removed is enough. */
static bool tells(const char *path, bool way)
{
	CLEANUP(terrace__fd_done) int fd = open(path, O_PATH | O_CLOEXEC);

	return fd >= 0 && (terrace__fs_tells(fd) || (way && terrace__fs_is_overlay(fd)));
}

enum way { WAY_WHOLE, WAY_ENDS, WAY_FAILED };

static enum way add_way(struct adding *adding, const char *path, char parent[PATH_MAX]);

/* The way to what a link means. */
static enum way add_link(struct adding *adding, const char *path, char parent[PATH_MAX])
{
	char target[PATH_MAX], full[PATH_MAX];
	const char *slash = strrchr(path, '/');
	ssize_t n = readlink(path, target, sizeof target - 1);

	if (n <= 0 || ++adding->links > LINKS_MAX)
		return WAY_FAILED;
	target[n] = '\0';
	if (*target == '/')
		memcpy(full, target, (size_t)n + 1);
	else if (snprintf(full, sizeof full, "%.*s/%s", (int)(slash - path), path, target) >=
	         PATH_MAX)
		return WAY_FAILED;
	return add_way(adding, full, parent);
}

/*
 * Everything on the way to an absolute path, from the root on, itself included;
 * links with what they mean. WAY_ENDS: something is not there, and `parent` is
 * the directory in which it is not.
 */
static enum way add_way(struct adding *adding, const char *path, char parent[PATH_MAX])
{
	enum way way = WAY_WHOLE;
	size_t size = strlen(path);
	struct stat st;

	strcpy(parent, "/");
	if (!tells(parent, true) || !add_watch(adding, parent, MASK_WAY))
		return WAY_FAILED;
	for (size_t at = 1; at <= size && way == WAY_WHOLE; at++) {
		char part[PATH_MAX];

		if ((path[at] && path[at] != '/') || path[at - 1] == '/')
			continue;
		if (at >= sizeof part)
			return WAY_FAILED;
		memcpy(part, path, at);
		part[at] = '\0';
		if (!add_watch(adding, part, MASK_WAY))
			return errno == ENOENT || errno == ENOTDIR ? WAY_ENDS : WAY_FAILED;
		if (lstat(part, &st) < 0)
			return WAY_FAILED; /* it was there a moment ago */
		if (S_ISLNK(st.st_mode))
			way = add_link(adding, part, parent);
		if (way != WAY_WHOLE || stat(part, &st) < 0 || !S_ISDIR(st.st_mode))
			break;
		if (!tells(part, true))
			return WAY_FAILED;
		memcpy(parent, part, at + 1);
	}
	return way;
}

static bool watch_file(struct adding *adding, const char *path)
{
	char parent[PATH_MAX];

	return add_way(adding, path, parent) == WAY_WHOLE && tells(path, false) &&
	       add_watch(adding, path, (MASK_WAY & ~(uint32_t)IN_DONT_FOLLOW) | MASK_FILE);
}

/*
 * The directory in which something would have to appear. It may have appeared
 * between finding out and watching: so it is found out again.
 */
static bool watch_absent(struct adding *adding, const char *path)
{
	char parent[PATH_MAX], again[PATH_MAX];

	return add_way(adding, path, parent) == WAY_ENDS && tells(parent, false) &&
	       add_watch(adding, parent,
	                 (MASK_WAY & ~(uint32_t)IN_DONT_FOLLOW) | MASK_NAMES | IN_ONLYDIR) &&
	       add_way(adding, path, again) == WAY_ENDS && strcmp(parent, again) == 0;
}

static int watch_dir(void *ctx, int fd, const char *below)
{
	struct adding *adding = ctx;
	char path[PATH_MAX];

	if (snprintf(path, sizeof path, "%s/%s", adding->listing->dir, below) >= PATH_MAX ||
	    !terrace__fs_tells(fd) ||
	    !add_watch(adding, path,
	               (MASK_WAY & ~(uint32_t)IN_DONT_FOLLOW) | MASK_NAMES | IN_ONLYDIR))
		return TERRACE_EIO;
	return TERRACE_OK;
}

static bool watch_listing(struct adding *adding, const char *path, unsigned flags)
{
	struct listing_visitor visitor = { .dir = watch_dir, .ctx = adding };
	struct listing listing;
	char parent[PATH_MAX];

	terrace__listing_split(path, flags, &listing);
	adding->listing = &listing;
	return add_way(adding, listing.dir, parent) == WAY_WHOLE &&
	       terrace__listing_walk(&listing, &visitor) == TERRACE_OK;
}

static struct watched *path_make(struct watch *watch, const struct source_mark *mark,
                                 struct hash128 hash)
{
	struct adding adding = { .watch = watch, .capacity = 16 };
	char path[SOURCE_PATH_MAX + 1];
	bool watched = false;

	adding.path = malloc(sizeof *adding.path + adding.capacity * sizeof(int));
	if (!adding.path || mark->path.size > SOURCE_PATH_MAX) {
		free(adding.path);
		return NULL;
	}
	*adding.path = (struct watched){ .hash = hash };
	memcpy(path, mark->path.data, mark->path.size);
	path[mark->path.size] = '\0';
	if (mark->kind == SOURCE_FILE)
		watched = watch_file(&adding, path);
	else if (mark->kind == SOURCE_ABSENT)
		watched = watch_absent(&adding, path);
	else if (mark->kind == SOURCE_LISTING)
		watched = watch_listing(&adding, path, mark->flags);
	if (!watched) {
		adding.path->again_at = terrace__clock_ms(CLOCK_MONOTONIC) + AGAIN_MS;
		adding.path->count = 0;
	}
	return adding.path;
}

/* --- the table ------------------------------------------------------------------------------- */

/* Under the lock. Watches of what nobody asks for any more go with it. */
static void restart(struct watch *watch, int64_t now)
{
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

	if (fd < 0)
		return;
	/* At once: other threads may be adding to the old one. */
	if (dup3(fd, watch->fd, O_CLOEXEC) >= 0) {
		forget_all(watch);
		watch->restarted_at = now;
		watch->warned = false;
		atomic_fetch_add(&watch->epoch, 2);
	}
	close(fd);
}

/* Under the lock. */
static bool is_open(struct watch *watch)
{
	if (watch->fd < 0)
		watch->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	return watch->fd >= 0;
}

/* Under the lock: the path, or what is in the way of its being added. */
static struct watched *path_find(struct watch *watch, struct hash128 hash)
{
	struct watched **at = &watch->buckets[hash.low % BUCKET_COUNT];

	while (*at && ((*at)->hash.low != hash.low || (*at)->hash.high != hash.high))
		at = &(*at)->next;
	if (*at && (*at)->again_at && terrace__clock_ms(CLOCK_MONOTONIC) >= (*at)->again_at) {
		struct watched *path = *at;

		*at = path->next;
		watch->paths--;
		free(path);
		return NULL;
	}
	return *at;
}

/* Under the lock. A path that was watched while something happened may not be watched whole. */
static bool path_keep(struct watch *watch, struct watched *path, uint64_t epoch)
{
	int64_t now = terrace__clock_ms(CLOCK_MONOTONIC);
	bool watched = path->again_at == 0, crowded;

	take_note(watch);
	if (atomic_load(&watch->epoch) != epoch || path_find(watch, path->hash)) {
		free(path);
		return false;
	}
	crowded = watch->paths >= PATHS_MAX || (!watched && watch->warned);
	if (crowded && now - watch->restarted_at > AGAIN_MS) {
		free(path);
		restart(watch, now);
		return false;
	}
	if (watch->paths >= PATHS_MAX) {
		free(path);
		return false;
	}
	path->next = watch->buckets[path->hash.low % BUCKET_COUNT];
	watch->buckets[path->hash.low % BUCKET_COUNT] = path;
	watch->paths++;
	return watched;
}

static bool watch_source(struct watch *watch, const struct source_mark *mark, uint64_t epoch)
{
	const uint64_t kind = mark->kind | (uint64_t)(mark->flags & (SOURCE_DEEP | SOURCE_PATTERN))
	                                       << 8;
	struct hash128 hash = terrace__hash128(mark->path.data, mark->path.size, kind);
	struct watched *path;
	bool watched, open;
	int err;

	pthread_mutex_lock(&watch->lock);
	open = is_open(watch);
	err = errno;
	path = open ? path_find(watch, hash) : NULL;
	watched = path && path->again_at == 0;
	pthread_mutex_unlock(&watch->lock);
	if (!open)
		warn(watch, err);
	if (!open || path)
		return watched;
	path = path_make(watch, mark, hash);
	if (!path)
		return false;
	pthread_mutex_lock(&watch->lock);
	watched = path_keep(watch, path, epoch);
	pthread_mutex_unlock(&watch->lock);
	return watched;
}

/* --- entries --------------------------------------------------------------------------------- */

static void sources_start(struct extra_walk *walk, const struct entry *entry)
{
	terrace_slice tag;

	terrace__extra_start(walk, entry_extra(entry));
	while (terrace__extra_next_tag(walk, &tag))
		;
}

/* Nobody tells of changes of the environment. */
enum { HAS_VARIABLES = 1 };

static bool variables_hold(struct watch *watch, const struct entry *entry)
{
	struct source_mark mark;
	struct extra_walk walk;

	sources_start(&walk, entry);
	while (terrace__extra_next_source(&walk, &mark)) {
		if (mark.kind == SOURCE_VARIABLE &&
		    terrace__source_check(watch->store, &mark, NULL, 0) != SOURCE_SAME)
			return false;
	}
	return true;
}

bool terrace__watch_quiet(struct watch *watch, const struct entry *entry)
{
	uint64_t epoch = epoch_now(watch);
	uint64_t checked = (uint64_t)atomic_load_explicit(&entry_rest(entry)->checked,
	                                                  memory_order_acquire);

	return checked == epoch ||
	       (checked == (epoch | HAS_VARIABLES) && variables_hold(watch, entry));
}

int64_t terrace__watch_sources(struct watch *watch, const struct entry *entry)
{
	uint64_t epoch = epoch_now(watch);
	struct source_mark mark;
	struct extra_walk walk;
	int64_t checked = (int64_t)epoch;

	sources_start(&walk, entry);
	while (terrace__extra_next_source(&walk, &mark)) {
		if (mark.kind == SOURCE_VARIABLE)
			checked |= HAS_VARIABLES;
		else if (!watch_source(watch, &mark, epoch))
			return 0;
	}
	return checked;
}
