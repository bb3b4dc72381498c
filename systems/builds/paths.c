#include "builds/parts.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

void note(const char *format, ...)
{
	va_list args;

	fflush(stdout);
	fputs("terrace: run: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

/* --- names ------------------------------------------------------------------------------------ */

/* What is above it is not what its text says: a link, or itself above one. */
static bool leads_elsewhere(const char *path, size_t size)
{
	struct stat st;

	return (size >= 3 && memcmp(path + size - 3, "/..", 3) == 0) ||
	       (size > 0 && lstat(path, &st) == 0 && S_ISLNK(st.st_mode));
}

/* "." and "//" taken out of cwd/path, and ".." with what is before it, unless that is a link. */
static int absolute(const char *cwd, const char *path, char ret[PATH_MAX])
{
	size_t size = 0;

	if (*path != '/') {
		size = strlen(cwd);
		memcpy(ret, cwd, size);
		if (size == 1)
			size = 0;
	}
	while (*path) {
		size_t length = strcspn(path, "/");
		bool up = length == 2 && path[0] == '.' && path[1] == '.';

		ret[size] = '\0';
		if (up && !leads_elsewhere(ret, size)) {
			while (size > 0 && ret[--size] != '/')
				;
		} else if (length > 0 && !(length == 1 && path[0] == '.')) {
			if (size + length + 2 > PATH_MAX)
				return -1;
			ret[size++] = '/';
			memcpy(ret + size, path, length);
			size += length;
		}
		path += length;
		path += strspn(path, "/");
	}
	if (size == 0)
		ret[size++] = '/';
	ret[size] = '\0';
	return 0;
}

int place_init(struct place *place, const char *base)
{
	struct stat st;

	place->base[0] = '\0';
	if (!getcwd(place->cwd, sizeof place->cwd)) {
		note("warning: cannot find the working directory: %s; running uncached",
		     strerror(errno));
		return TERRACE_EIO;
	}
	if (!base)
		return TERRACE_OK;
	if (absolute(place->cwd, base, place->base) < 0 || stat(place->base, &st) < 0 ||
	    !S_ISDIR(st.st_mode)) {
		note("--base: %s is no directory", base);
		return TERRACE_EINVAL;
	}
	return TERRACE_OK;
}

/* The part of a path below the base; NULL when it lies elsewhere. */
static const char *below_base(const struct place *place, const char *path)
{
	size_t size = strlen(place->base);

	if (size == 0 || strncmp(path, place->base, size) != 0)
		return NULL;
	if (size == 1)
		return path + 1;
	if (path[size] == '/')
		return path + size + 1;
	return path[size] == '\0' ? path + size : NULL;
}

int place_name(const struct place *place, const char *path, char ret[PATH_MAX])
{
	char full[PATH_MAX];
	const char *below;

	if (absolute(place->cwd, path, full) < 0)
		return -1;
	below = below_base(place, full);
	if (below)
		return snprintf(ret, PATH_MAX, "//%s", below) < PATH_MAX ? 0 : -1;
	strcpy(ret, full);
	return 0;
}

int place_path(const struct place *place, const char *name, char ret[PATH_MAX])
{
	if (strncmp(name, "//", 2) != 0)
		return snprintf(ret, PATH_MAX, "%s", name) < PATH_MAX ? 0 : -1;
	return snprintf(ret, PATH_MAX, "%s/%s", place->base, name + 2) < PATH_MAX ? 0 : -1;
}

/* --- stamps --------------------------------------------------------------------------------------- */

static struct stamp stamp_of(const struct stat *st)
{
	return (struct stamp){ { (int64_t)st->st_dev, (int64_t)st->st_ino, st->st_size,
		                 st->st_mtim.tv_sec, st->st_mtim.tv_nsec, st->st_ctim.tv_sec,
		                 st->st_ctim.tv_nsec } };
}

void stamp_take(const char *path, struct stamp *ret)
{
	struct stat st;

	*ret = stat(path, &st) == 0 ? stamp_of(&st) : (struct stamp){ { 0 } };
}

void stamp_link(const char *path, struct stamp *ret)
{
	struct stat st;

	*ret = lstat(path, &st) == 0 && S_ISLNK(st.st_mode) ? stamp_of(&st) :
	                                                      (struct stamp){ { 0 } };
}

bool stamp_same(const struct stamp *a, const struct stamp *b)
{
	return memcmp(a, b, sizeof *a) == 0;
}

/* --- sets of files -------------------------------------------------------------------------------- */

void file_set_done(struct file_set *set)
{
	for (size_t i = 0; i < set->count; i++)
		free(set->files[i].name);
	free(set->files);
	*set = (struct file_set){ 0 };
}

int file_set_add(struct file_set *set, const char *name)
{
	if (set->count == set->capacity) {
		size_t capacity = set->capacity ? 2 * set->capacity : 32;
		void *grown = realloc(set->files, capacity * sizeof *set->files);

		if (!grown)
			return -1;
		set->files = grown;
		set->capacity = capacity;
	}
	set->files[set->count] = (struct file){ .name = strdup(name) };
	if (!set->files[set->count].name)
		return -1;
	set->count++;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct file *)a)->name, ((const struct file *)b)->name);
}

void file_set_sort(struct file_set *set)
{
	size_t kept = 0;

	if (set->count == 0)
		return;
	qsort(set->files, set->count, sizeof *set->files, by_name);
	for (size_t i = 0; i < set->count; i++) {
		if (kept > 0 && strcmp(set->files[kept - 1].name, set->files[i].name) == 0)
			free(set->files[i].name);
		else
			set->files[kept++] = set->files[i];
	}
	set->count = kept;
}

static size_t skip_own(const struct file_set *set, size_t i)
{
	while (i < set->count && set->files[i].own)
		i++;
	return i;
}

bool file_set_same_names(const struct file_set *a, const struct file_set *b)
{
	size_t i = skip_own(a, 0), j = skip_own(b, 0);

	while (i < a->count && j < b->count && strcmp(a->files[i].name, b->files[j].name) == 0) {
		i = skip_own(a, i + 1);
		j = skip_own(b, j + 1);
	}
	return i == a->count && j == b->count;
}

/* All of it but the name. What a directory's stamp says is of more than its names. */
static int digest_one(const struct file_set *set, const char *name, const struct place *place,
                      terrace *store, struct file *ret)
{
	char path[PATH_MAX];
	int rc;

	*ret = (struct file){ .name = ret->name, .own = ret->own };
	if (place_path(place, name, path) < 0)
		return -1;
	if (!set->listings && !ret->own)
		stamp_take(path, &ret->stamp);
	rc = set->listings ? terrace_listing_digest(path, &ret->digest) :
	                     terrace_file_digest(store, path, &ret->digest);
	ret->absent = rc == TERRACE_MISS;
	return rc == TERRACE_OK || rc == TERRACE_MISS ? 0 : -1;
}

int file_set_digest(struct file_set *set, const struct place *place, terrace *store)
{
	for (size_t i = 0; i < set->count; i++) {
		struct file *file = &set->files[i];

		if (digest_one(set, file->name, place, store, file) < 0)
			return -1;
	}
	return 0;
}

int file_set_check(const struct file_set *set, const struct place *place, terrace *store,
                   const char **ret_changed)
{
	for (size_t i = 0; i < set->count; i++) {
		const struct file *file = &set->files[i];
		struct file now = { .own = file->own };

		*ret_changed = file->name;
		if (digest_one(set, file->name, place, store, &now) < 0)
			return -1;
		/* One that is as it was may have been another meanwhile: its times say so. */
		if (now.absent != file->absent || !stamp_same(&now.stamp, &file->stamp) ||
		    memcmp(&now.digest, &file->digest, sizeof now.digest) != 0)
			return 1;
	}
	return 0;
}

/* --- patterns -------------------------------------------------------------------------------------- */

struct expansion {
	struct file_set *set;
	const struct place *place;
	int err;
};

static bool is_wild(const char *text, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (strchr("*?[\\", text[i]))
			return true;
	}
	return false;
}

static void expand(struct expansion *e, const char *dir, const char *rest);

static void add_file(struct expansion *e, const char *path)
{
	char name[PATH_MAX];

	if (place_name(e->place, path, name) < 0)
		e->err = ENAMETOOLONG;
	else if (file_set_add(e->set, name) < 0)
		e->err = ENOMEM;
}

/* Nothing is there, or it leads nowhere: that is no failure, and no match. */
static bool is_nothing(int err)
{
	return err == ENOENT || err == ENOTDIR || err == ELOOP;
}

/* False where there is nothing, and where nobody can say. */
static bool look_at(struct expansion *e, const char *path, struct stat *ret)
{
	if (stat(path, ret) == 0)
		return true;
	if (!is_nothing(errno))
		e->err = errno;
	return false;
}

/* NULL where there is no directory. One that may not be listed may hold anything. */
static DIR *open_dir(struct expansion *e, const char *dir)
{
	DIR *stream = opendir(*dir ? dir : ".");

	if (!stream && !is_nothing(errno))
		e->err = errno;
	return stream;
}

static struct dirent *read_dir(struct expansion *e, DIR *stream)
{
	struct dirent *item;

	errno = 0;
	item = readdir(stream);
	if (!item && errno)
		e->err = errno;
	return item;
}

/* One entry of a directory, by its name or because a wildcard has matched it. */
static void expand_match(struct expansion *e, const char *path, const char *rest)
{
	struct stat st;

	if (!look_at(e, path, &st))
		return;
	if (*rest && S_ISDIR(st.st_mode))
		expand(e, path, rest);
	else if (!*rest && S_ISREG(st.st_mode))
		add_file(e, path);
}

static bool join(struct expansion *e, char ret[PATH_MAX], const char *dir, const char *name,
                 size_t name_size)
{
	bool slash = *dir && dir[strlen(dir) - 1] != '/';

	if (snprintf(ret, PATH_MAX, "%s%s%.*s", dir, slash ? "/" : "", (int)name_size, name) <
	    PATH_MAX)
		return true;
	e->err = ENAMETOOLONG;
	return false;
}

/* "**": the rest here, and in every directory below; links are not descended. */
static void expand_deep(struct expansion *e, const char *dir, const char *rest)
{
	DIR *stream;
	struct dirent *item;

	expand(e, dir, *rest ? rest : "*");
	stream = open_dir(e, dir);
	while (stream && (item = read_dir(e, stream))) {
		char path[PATH_MAX];
		struct stat st;

		if (item->d_name[0] == '.')
			continue;
		if (join(e, path, dir, item->d_name, strlen(item->d_name)) &&
		    lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
			expand_deep(e, path, rest);
	}
	if (stream)
		closedir(stream);
}

static void expand_wild(struct expansion *e, const char *dir, const char *part, size_t size,
                        const char *rest)
{
	char pattern[NAME_MAX + 1], path[PATH_MAX];
	struct dirent *item;
	DIR *stream;

	if (size > NAME_MAX)
		return;
	memcpy(pattern, part, size);
	pattern[size] = '\0';
	stream = open_dir(e, dir);
	while (stream && (item = read_dir(e, stream))) {
		/* "[id].c" may be a name, too. */
		bool is_name = strcmp(pattern, item->d_name) == 0;

		if ((!is_name && fnmatch(pattern, item->d_name, FNM_PERIOD) != 0) ||
		    strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0)
			continue;
		if (join(e, path, dir, item->d_name, strlen(item->d_name)))
			expand_match(e, path, rest);
	}
	if (stream)
		closedir(stream);
}

/* `rest` is what is left of the pattern, below `dir` ("" for the working directory). */
static void expand(struct expansion *e, const char *dir, const char *rest)
{
	size_t size = strcspn(rest, "/");
	const char *next = rest + size + strspn(rest + size, "/");
	char path[PATH_MAX];

	if (size == 2 && rest[0] == '*' && rest[1] == '*')
		expand_deep(e, dir, next);
	else if (is_wild(rest, size))
		expand_wild(e, dir, rest, size, next);
	else if (join(e, path, dir, rest, size))
		expand_match(e, path, next);
}

int inputs_expand(struct file_set *set, const struct place *place, const char *pattern)
{
	struct expansion e = { .set = set, .place = place };

	if (!is_wild(pattern, strlen(pattern)))
		add_file(&e, pattern);
	else if (*pattern == '/')
		expand(&e, "/", pattern + strspn(pattern, "/"));
	else
		expand(&e, "", pattern);
	return e.err;
}
