/* The files that are not as they were: their tags from the cache, or parsed, by several threads. */
#include "repomap/scan.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 32, THREADS_MAX = 64 };

struct crew {
	struct scan *scan;
	_Atomic size_t next;
	struct repomap_progress *progress;
	_Atomic uint64_t parsed, from_l1, from_l2, from_l3;
};

void scan_add_work(struct scan *s, size_t index, enum work work)
{
	s->work = rm_grow(s->work, &s->work_capacity, s->work_count + 1, sizeof *s->work);
	s->work[s->work_count++] = (struct task){ .index = index, .work = work };
}

/* --- reading ----------------------------------------------------------------------------------- */

/* TERRACE_OK with the bytes; what else is in file->skip or file->flags. */
static int read_source(struct scan *s, struct file *file, struct text *ret)
{
	int fd = openat(s->root_fd, file->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;
	ssize_t n = 0;

	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)) {
		file->flags = FILE_ABSENT; /* gone since we looked */
		return TERRACE_MISS;
	}
	file->skip = SKIP_UNREADABLE;
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		if (fd >= 0)
			close(fd);
		return TERRACE_EIO;
	}
	do {
		ret->data = rm_grow(ret->data, &ret->capacity, ret->size + (16 << 10), 1);
		n = read(fd, ret->data + ret->size, ret->capacity - ret->size);
		if (n > 0)
			ret->size += (size_t)n;
	} while ((n > 0 && ret->size <= SOURCE_MAX) || (n < 0 && errno == EINTR));
	close(fd);
	if (n < 0)
		return TERRACE_EIO;
	file->skip = SKIP_NONE;
	if (ret->size > SOURCE_MAX) {
		file->skip = SKIP_LARGE;
		return TERRACE_ETOOBIG;
	}
	file->digest = terrace_digest_bytes(terrace_bytes(ret->data, ret->size));
	return TERRACE_OK;
}

/* --- one file ------------------------------------------------------------------------------------ */

static terrace_slice tags_key(const struct repomap *map, const struct file *file)
{
	char path[PATH_MAX + 2], id[20];

	snprintf(id, sizeof id, "%016llx",
	         (unsigned long long)language_id(map->grammars, file->language));
	snprintf(path, sizeof path, "%s/%s", map->root, file->path);
	return key_of("tags", terrace_str(path), id);
}

static void store_tags(struct scan *s, const struct file *file, terrace_sources *sources,
                       const struct text *packed, uint64_t cost_us)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_slice key = tags_key(s->map, file);

	options.sources = sources;
	options.cost_us = cost_us;
	/* That it cannot be kept is nobody's loss but the next one's. */
	if (key.data && sources)
		terrace_put(s->map->tags_cache, key, terrace_bytes(packed->data, packed->size),
		            &options);
	terrace_key_free(key);
}

/* The fingerprint comes before the reading: what changes in between is a miss. */
static terrace_sources *fingerprint(struct scan *s, const struct file *file)
{
	terrace_sources *sources = NULL;
	char path[PATH_MAX + 2];

	snprintf(path, sizeof path, "%s/%s", s->map->root, file->path);
	if (!s->map->tags_cache || terrace_sources_new(&sources) != TERRACE_OK)
		return NULL;
	if (terrace_sources_file(sources, path, 0) == TERRACE_OK)
		return sources;
	terrace_sources_free(sources);
	return NULL;
}

static void parse(struct scan *s, struct crew *crew, struct tagger *tagger, struct task *task)
{
	struct file *file = &s->files[task->index];
	terrace_sources *sources = fingerprint(s, file);
	const struct grammar *grammar;
	struct text source = { 0 };
	uint64_t start = rm_clock_ns();
	int rc;

	rc = read_source(s, file, &source);
	file->flags |= FILE_FRESH;
	if (rc == TERRACE_OK && source.size && memchr(source.data, '\0', source.size)) {
		file->skip = SKIP_BINARY;
		rc = TERRACE_EFORMAT;
	}
	if (rc == TERRACE_OK) {
		rc = grammar_get(s->map->grammars, file->language, &grammar);
		if (rc != TERRACE_OK)
			file->skip = SKIP_GRAMMAR;
	}
	if (rc == TERRACE_OK) {
		if (utf8_mend(source.data, source.size))
			file->flags |= FILE_MENDED;
		atomic_fetch_add(&crew->parsed, 1);
		rc = tag_source(tagger, grammar, &source, file, &task->text);
		if (rc != TERRACE_OK)
			file->skip = rc == TERRACE_EBUSY ? SKIP_SLOW : SKIP_CRASHED;
	}
	if (rc == TERRACE_OK) {
		task->has_tags = tags_unpack(terrace_bytes(task->text.data, task->text.size),
		                             &task->tags);
		store_tags(s, file, sources, &task->text, (rm_clock_ns() - start) / 1000);
	}
	terrace_sources_free(sources);
	text_done(&source);
}

/* Its times say too little: does it hold what it held? */
static void check(struct scan *s, struct task *task)
{
	struct file *file = &s->files[task->index];
	terrace_digest was = file->digest;
	uint8_t skip = file->skip, flags = file->flags;
	struct text source = { 0 };
	int rc = read_source(s, file, &source);

	if (rc == TERRACE_OK && memcmp(&was, &file->digest, sizeof was) == 0) {
		file->skip = skip;
		file->flags = flags;
		task->work = WORK_NONE;
	} else if (file->flags & FILE_ABSENT) {
		task->work = WORK_NONE;
	} else {
		file->skip = SKIP_NONE;
		file->flags &= (uint8_t)~FILE_MENDED;
		task->work = WORK_TAGS;
		task->checked = rc == TERRACE_OK;
	}
	text_done(&source);
}

static void take_hit(struct scan *s, struct crew *crew, struct task *task, terrace_value *value)
{
	struct file *file = &s->files[task->index];
	unsigned tier = terrace_value_tier(value);

	task->value = value;
	task->has_tags = tags_unpack(aligned_bytes(value, &task->aligned), &task->tags);
	if (task->checked && memcmp(&file->digest, &task->tags.digest, sizeof file->digest) != 0)
		task->has_tags = false;
	if (!task->has_tags)
		return;
	file->digest = task->tags.digest;
	file->flags |= FILE_FRESH;
	if (task->tags.mended)
		file->flags |= FILE_MENDED;
	atomic_fetch_add(tier == TERRACE_L1 ? &crew->from_l1 :
	                 tier == TERRACE_L2 ? &crew->from_l2 :
	                                      &crew->from_l3,
	                 1);
}

/* --- the crew --------------------------------------------------------------------------------------- */

static bool cancelled(const struct crew *crew)
{
	return crew->progress && atomic_load(&crew->progress->cancel);
}

/* Up to CHUNK files: what the tag cache has is got in one call. */
static void work_chunk(struct scan *s, struct crew *crew, struct tagger *tagger, struct task *tasks,
                       size_t count)
{
	terrace_value *values[CHUNK] = { NULL };
	terrace_slice keys[CHUNK];
	struct task *asked[CHUNK];
	size_t asked_count = 0;

	for (size_t i = 0; i < count; i++) {
		if (tasks[i].work == WORK_CHECK)
			check(s, &tasks[i]);
		if (tasks[i].work != WORK_TAGS || !s->map->tags_cache)
			continue;
		keys[asked_count] = tags_key(s->map, &s->files[tasks[i].index]);
		asked[asked_count] = &tasks[i];
		asked_count += keys[asked_count].data != NULL;
	}
	if (asked_count)
		terrace_get_many(s->map->tags_cache, keys, asked_count, values, NULL);
	for (size_t i = 0; i < asked_count; i++) {
		terrace_key_free(keys[i]);
		if (values[i])
			take_hit(s, crew, asked[i], values[i]);
	}
	for (size_t i = 0; i < count; i++) {
		if (tasks[i].work == WORK_TAGS && !tasks[i].has_tags && !cancelled(crew))
			parse(s, crew, tagger, &tasks[i]);
		if (crew->progress)
			atomic_fetch_add(&crew->progress->done, 1);
	}
}

static void *work(void *arg)
{
	struct crew *crew = arg;
	struct scan *s = crew->scan;
	struct tagger *tagger = tagger_new();

	while (!cancelled(crew)) {
		size_t at = atomic_fetch_add(&crew->next, CHUNK);
		size_t left = at < s->work_count ? s->work_count - at : 0;

		if (left == 0)
			break;
		work_chunk(s, crew, tagger, s->work + at, left < CHUNK ? left : CHUNK);
	}
	tagger_free(tagger);
	return NULL;
}

static void run_crew(struct scan *s, struct crew *crew)
{
	pthread_t threads[THREADS_MAX];
	size_t wanted = s->map->spec.threads, started = 0;
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	if (wanted == 0)
		wanted = processors > 0 ? (size_t)processors : 1;
	if (wanted > THREADS_MAX)
		wanted = THREADS_MAX;
	if (wanted > (s->work_count + CHUNK - 1) / CHUNK)
		wanted = (s->work_count + CHUNK - 1) / CHUNK;
	while (started + 1 < wanted && pthread_create(&threads[started], NULL, work, crew) == 0)
		started++;
	work(crew); /* this thread too; alone where no other could be had */
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
}

/* --- the tags of all ---------------------------------------------------------------------------------- */

/* Of files that are as they were; where the snapshot is not to be had, they are work too. */
static void adopt_tags(struct scan *s)
{
	bool loaded = s->adopted == 0 || snapshot_load(s->map, &s->old.head->state);
	size_t busy = 0, known = s->work_count;

	for (size_t i = 0; i < s->count; i++) {
		struct file *file = &s->files[i];
		bool is_work = busy < known && s->work[busy].index == i;

		busy += is_work;
		if (!file->language || file->flags & FILE_ABSENT || file->skip != SKIP_NONE ||
		    (is_work && s->work[busy - 1].work == WORK_TAGS))
			continue;
		if (loaded && snapshot_tags(s->map, s->olds[i], file))
			continue;
		if (is_work)
			s->work[busy - 1].work = WORK_TAGS;
		else
			scan_add_work(s, i, WORK_TAGS);
	}
}

/* Give a file that was worked on its tags, with the names numbered. */
static void take_tags(struct repomap *map, struct file *file, const struct tags *tags,
                      struct tag *room)
{
	for (uint32_t i = 0; i < tags->tag_count; i++) {
		const struct tag_item *item = &tags->items[i];

		room[i].name = words_add(
		    &map->names, terrace_bytes(tags->names + item->name_at, item->name_size), true);
		room[i].line_kind = item->line_kind;
	}
	file->tags = room;
	file->tag_count = tags->tag_count;
}

/* Rendering wants them again: they stay in hand. */
static struct held_tags *hold(struct repomap *map, struct task *task)
{
	struct held_tags *held = rm_take(1, sizeof *held);

	*held = (struct held_tags){ task->tags, task->value, task->text, task->aligned };
	task->value = NULL;
	task->text = (struct text){ 0 };
	task->aligned = NULL;
	map->held = rm_grow(map->held, &map->held_capacity, map->held_count + 1,
	                    sizeof(struct held_tags *));
	map->held[map->held_count++] = held;
	return held;
}

static void gather_tags(struct scan *s)
{
	size_t total = 0;

	for (size_t i = 0; i < s->work_count; i++)
		total += s->work[i].has_tags ? s->work[i].tags.tag_count : 0;
	s->map->own_tags = rm_take(total, sizeof *s->map->own_tags);
	total = 0;
	for (size_t i = 0; i < s->work_count; i++) {
		struct file *file = &s->files[s->work[i].index];

		if (s->work[i].work == WORK_NONE)
			continue;
		file->tags = NULL;
		file->tag_count = 0;
		if (!s->work[i].has_tags || file->flags & FILE_ABSENT)
			continue;
		take_tags(s->map, file, &s->work[i].tags, s->map->own_tags + total);
		total += s->work[i].tags.tag_count;
		file->held = hold(s->map, &s->work[i]);
	}
	s->map->has_tags = true;
}

int scan_work(struct scan *s, struct repomap_progress *progress)
{
	struct crew crew = { .scan = s, .progress = progress };
	struct repomap_counters *c = &s->map->counters;

	if (!s->changed && !s->map->spec.want_tags)
		return TERRACE_OK;
	adopt_tags(s);
	if (progress)
		atomic_store(&progress->total, s->work_count);
	if (s->work_count)
		run_crew(s, &crew);
	c->parsed += crew.parsed;
	c->from_l1 += crew.from_l1;
	c->from_l2 += crew.from_l2;
	c->from_l3 += crew.from_l3;
	if (cancelled(&crew))
		return terrace_fail(TERRACE_MISS, "cancelled");
	gather_tags(s);
	/* A damaged snapshot is mended though no file has changed. */
	s->changed |= s->work_count > 0;
	return TERRACE_OK;
}

void scan_done(struct scan *s)
{
	for (size_t i = 0; i < s->work_count; i++) {
		text_done(&s->work[i].text);
		free(s->work[i].aligned);
		terrace_release(s->work[i].value);
	}
	free(s->work);
	free(s->olds);
	free(s->files);
}

/* --- the packed tags of one file ------------------------------------------------------------------------ */

const struct tags *scan_tags_of(struct repomap *map, struct file *file)
{
	struct file copy = *file; /* what is found out about it now is not of the scan */
	struct scan s = { .map = map, .files = &copy, .count = 1 };
	struct crew crew = { .scan = &s };
	struct task task = { .work = WORK_TAGS };
	terrace_slice key;

	if (file->held)
		return &file->held->tags;
	key = tags_key(map, file);
	if (key.data && terrace_get(map->tags_cache, key, &task.value) == TERRACE_OK)
		task.has_tags = tags_unpack(aligned_bytes(task.value, &task.aligned), &task.tags);
	terrace_key_free(key);
	if (task.has_tags && memcmp(&task.tags.digest, &file->digest, sizeof file->digest) != 0)
		task.has_tags = false;
	s.root_fd = task.has_tags ? -1 : open(map->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s.root_fd >= 0) {
		struct tagger *tagger = tagger_new();

		parse(&s, &crew, tagger, &task);
		tagger_free(tagger);
		close(s.root_fd);
		map->counters.parsed += crew.parsed;
		/* Changed since the scan: its lines would be another state's. */
		if (memcmp(&copy.digest, &file->digest, sizeof file->digest) != 0)
			task.has_tags = false;
	}
	if (task.has_tags)
		file->held = hold(map, &task);
	terrace_release(task.value);
	text_done(&task.text);
	free(task.aligned);
	return task.has_tags ? &file->held->tags : NULL;
}
