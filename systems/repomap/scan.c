/*
 * What the repository holds now, at the price of one look at each file: a
 * manifest remembers size, times, inode and content of every file, and a
 * snapshot the tags of all of them; a file that is not as it was gets its tags
 * from the tag cache, or is parsed.
 */
#include "repomap/scan.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A file changed twice within the grain of its time stamps looks unchanged. */
enum { GRAIN_MS = 2000 };

static int64_t ns_of(struct timespec time)
{
	return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return ns_of(now);
}

static bool same_mark(const struct mark *a, const struct mark *b)
{
	return a->size == b->size && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns &&
	       a->inode == b->inode;
}

/* --- looking -------------------------------------------------------------------------------- */

static void look(int root_fd, int64_t now, struct file *file)
{
	struct stat st;
	int64_t youngest;

	file->flags = 0;
	file->mark = (struct mark){ 0 };
	/* Links are left out: what they lead to is in the repository, or is not of it. */
	if (fstatat(root_fd, file->path, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode)) {
		file->flags = FILE_ABSENT;
		return;
	}
	if (!file->language)
		return;
	file->mark = (struct mark){ (uint64_t)st.st_size, ns_of(st.st_mtim), ns_of(st.st_ctim),
		                    st.st_ino };
	youngest = file->mark.mtime_ns > file->mark.ctime_ns ? file->mark.mtime_ns :
	                                                       file->mark.ctime_ns;
	if (now - youngest < (int64_t)GRAIN_MS * 1000000)
		file->flags |= FILE_RACY;
}

/* --- the list of names ------------------------------------------------------------------------- */

static int by_path(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool below_store(const struct repomap *map, const char *path)
{
	size_t size = map->store_below ? strlen(map->store_below) : 0;

	return size && strncmp(path, map->store_below, size) == 0 && path[size] == '/';
}

/* The names of the listing, sorted, each once, without the store's own. */
static void take_names(struct scan *s)
{
	const char *at = s->listing.names.data, *end = at + s->listing.names.size;
	const char **paths = NULL;
	size_t count = 0, capacity = 0;
	bool sorted = true;

	for (; at < end; at += strlen(at) + 1) {
		if (!*at || below_store(s->map, at))
			continue;
		paths = rm_grow(paths, &capacity, count + 1, sizeof *paths);
		sorted = sorted && (count == 0 || strcmp(paths[count - 1], at) < 0);
		paths[count++] = at;
	}
	if (!sorted)
		qsort(paths, count, sizeof *paths, by_path);
	s->files = rm_take(count, sizeof *s->files);
	for (size_t i = 0; i < count; i++) {
		struct file *file = &s->files[s->count];

		if (i > 0 && strcmp(paths[i - 1], paths[i]) == 0)
			continue;
		file->path = paths[i];
		file->path_size = (uint32_t)strlen(paths[i]);
		file->language = (uint8_t)language_of(paths[i]);
		s->count++;
	}
	free(paths);
}

/* Files of the old manifest, looked at while git lists what there is. */
static void look_at_old(struct scan *s)
{
	s->count = s->has_old ? s->old.head->file_count : 0;
	s->files = rm_take(s->count, sizeof *s->files);
	for (size_t i = 0; i < s->count; i++) {
		const struct record *record = &s->old.records[i];

		s->files[i].path = s->old.paths + record->path_at;
		s->files[i].path_size = record->path_size;
		s->files[i].language = record->language;
		look(s->root_fd, s->now, &s->files[i]);
	}
}

/* --- what is as it was ----------------------------------------------------------------------------- */

static bool is_settled(const struct scan *s, const struct record *old, const struct file *file)
{
	return old && !(old->flags & FILE_ABSENT) && same_mark(&old->mark, &file->mark) &&
	       s->old.head->languages[file->language] ==
	           language_id(s->map->grammars, file->language) &&
	       old->skip != SKIP_UNREADABLE && old->skip != SKIP_GRAMMAR && old->skip != SKIP_SLOW;
}

/* Adopt what is known of a file, or put it on the list of work. */
static void judge(struct scan *s, size_t index, const struct record *old)
{
	struct file *file = &s->files[index];
	enum work work = WORK_NONE;

	s->olds[index] = old;
	s->changed |= !old || (old->flags & FILE_ABSENT) != (file->flags & FILE_ABSENT);
	if (file->flags & FILE_ABSENT || !file->language)
		return;
	if (file->mark.size > SOURCE_MAX) {
		file->skip = SKIP_LARGE;
		s->changed |= !old || old->skip != SKIP_LARGE ||
		              !same_mark(&old->mark, &file->mark);
		return;
	}
	if (!is_settled(s, old, file))
		work = WORK_TAGS;
	else if (old->flags & FILE_RACY)
		work = WORK_CHECK;
	if (work != WORK_TAGS) {
		file->digest = old->digest;
		file->skip = old->skip;
		file->flags |= old->flags & FILE_MENDED;
		s->adopted++;
	}
	if (work != WORK_NONE)
		scan_add_work(s, index, work);
}

static void judge_all(struct scan *s, bool same_names)
{
	size_t at = 0, olds = s->has_old ? s->old.head->file_count : 0;

	s->olds = rm_take(s->count, sizeof(struct record *));
	for (size_t i = 0; i < s->count; i++) {
		const struct record *old = NULL;

		if (same_names) {
			old = &s->old.records[i];
		} else {
			int order = 1;

			while (at < olds) {
				order = strcmp(s->old.paths + s->old.records[at].path_at,
				               s->files[i].path);
				if (order >= 0)
					break;
				at++;
			}
			if (at < olds && order == 0)
				old = &s->old.records[at];
			look(s->root_fd, s->now, &s->files[i]);
		}
		judge(s, i, old);
	}
}

/* --- one scan ----------------------------------------------------------------------------------------- */

static void digest_state(struct repomap *map)
{
	struct text state = { 0 }, paths = { 0 };

	for (size_t i = 0; i < map->file_count; i++) {
		const struct file *file = &map->files[i];
		uint64_t id = language_id(map->grammars, file->language);

		text_add(&paths, file->path, file->path_size + 1);
		text_add(&state, &file->skip, 1);
		if (file->language) {
			text_add(&state, &id, sizeof id);
			text_add(&state, &file->digest, sizeof file->digest);
		}
	}
	map->paths = terrace_digest_bytes(terrace_bytes(paths.data, paths.size));
	text_add(&state, &map->paths, sizeof map->paths);
	map->state = terrace_digest_bytes(terrace_bytes(state.data, state.size));
	text_done(&state);
	text_done(&paths);
}

static void count_files(struct scan *s)
{
	struct repomap_counters *c = &s->map->counters;
	unsigned tier = s->map->has_tags && s->map->snapshot ?
	                    terrace_value_tier(s->map->snapshot) :
	                    terrace_value_tier(s->map->manifest);

	c->files = s->map->file_count;
	for (size_t i = 0; i < s->map->file_count; i++) {
		const struct file *file = &s->map->files[i];

		c->too_large += file->skip == SKIP_LARGE;
		c->binary += file->skip == SKIP_BINARY;
		c->unreadable += file->skip == SKIP_UNREADABLE;
		c->no_grammar += file->skip == SKIP_GRAMMAR;
		c->too_slow += file->skip == SKIP_SLOW;
		c->crashed += file->skip == SKIP_CRASHED;
		c->skipped += file->skip != SKIP_NONE;
		c->not_utf8 += (file->flags & FILE_MENDED) != 0;
		if (file->language && file->skip == SKIP_NONE && !(file->flags & FILE_FRESH)) {
			c->from_l1 += tier == TERRACE_L1;
			c->from_l2 += tier == TERRACE_L2;
			c->from_l3 += tier == TERRACE_L3;
		}
	}
}

/* The files that are there, with their tags where those were worked out. */
static void keep_present(struct scan *s)
{
	struct repomap *map = s->map;

	map->files = rm_take(s->count, sizeof *map->files);
	for (size_t i = 0; i < s->count; i++) {
		if (!(s->files[i].flags & FILE_ABSENT))
			map->files[map->file_count++] = s->files[i];
	}
}

static int run(struct scan *s, struct repomap_progress *progress)
{
	struct lister *lister = listing_begin(s->map->root);
	bool same_names;
	int err;

	s->has_old = manifest_load(s->map, &s->old);
	look_at_old(s);
	err = listing_finish(lister, &s->listing);
	if (err)
		return terrace_fail(TERRACE_EIO, "cannot list the directory %s: %s", s->map->root,
		                    strerror(err));
	same_names = s->has_old && memcmp(&s->listing.digest, &s->old.head->listing,
	                                  sizeof s->listing.digest) == 0;
	if (!same_names) {
		free(s->files);
		s->count = 0;
		take_names(s);
		s->changed = true;
	}
	judge_all(s, same_names);
	s->changed |= s->work_count > 0;
	return scan_work(s, progress);
}

int scan(struct repomap *map, struct repomap_progress *progress)
{
	struct scan s = { .map = map, .now = now_ns() };
	int rc;

	s.root_fd = open(map->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s.root_fd < 0)
		return terrace_fail(TERRACE_EIO, "cannot open the directory %s: %m", map->root);
	rc = run(&s, progress);
	if (rc == TERRACE_OK) {
		keep_present(&s);
		digest_state(map);
		if (s.changed)
			manifest_store(&s);
		count_files(&s);
		map->path_bytes = s.listing.names; /* the files' names point into it */
		s.listing.names = (struct text){ 0 };
		map->scanned = true;
	}
	text_done(&s.listing.names);
	close(s.root_fd);
	scan_done(&s);
	return rc;
}

size_t find_file(const struct repomap *map, const char *path, size_t size)
{
	size_t low = 0, high = map->file_count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		const struct file *file = &map->files[middle];
		size_t least = size < file->path_size ? size : file->path_size;
		int order = memcmp(file->path, path, least);

		if (order == 0)
			order = file->path_size < size ? -1 : file->path_size > size;
		if (order == 0)
			return middle;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return SIZE_MAX;
}
