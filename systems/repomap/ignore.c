/*
 * .gitignore, where there is no git to ask: the rules of gitignore(5). The last
 * rule of the nearest file that matches decides; what lies in an ignored folder
 * is ignored, because nobody looks there.
 */
#include "repomap/parts.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <unistd.h>

struct rule {
	char *pattern;
	bool negated, dirs_only, anchored;
};

struct ignore {
	const struct ignore *parent;
	char *folder; /* "" or "a/b/" */
	struct rule *rules;
	size_t count, capacity;
};

/* Spaces at the end do not count unless a backslash says so. */
static size_t trimmed(const char *line, size_t size)
{
	while (size > 0 && (line[size - 1] == '\r' || line[size - 1] == '\n'))
		size--;
	while (size > 0 && line[size - 1] == ' ' && (size < 2 || line[size - 2] != '\\'))
		size--;
	return size;
}

static void add_rule(struct ignore *ignore, const char *line, size_t size)
{
	struct rule rule = { 0 };

	size = trimmed(line, size);
	if (size == 0 || *line == '#')
		return;
	if (*line == '!') {
		rule.negated = true;
		line++;
		size--;
	}
	if (size > 0 && line[size - 1] == '/') {
		rule.dirs_only = true;
		size--;
	}
	rule.anchored = memchr(line, '/', size) != NULL;
	if (size > 0 && *line == '/') {
		line++;
		size--;
	}
	if (size == 0)
		return;
	rule.pattern = rm_take(size + 1, 1);
	memcpy(rule.pattern, line, size);
	ignore->rules = rm_grow(ignore->rules, &ignore->capacity, ignore->count + 1,
	                        sizeof *ignore->rules);
	ignore->rules[ignore->count++] = rule;
}

struct ignore *ignore_read(int dir_fd, const char *folder, const struct ignore *parent)
{
	int fd = openat(dir_fd, ".gitignore", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	FILE *file = fd >= 0 ? fdopen(fd, "r") : NULL;
	struct ignore *ignore;
	char *line = NULL;
	size_t capacity = 0;
	ssize_t size;

	if (!file) {
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	ignore = rm_take(1, sizeof *ignore);
	ignore->parent = parent;
	ignore->folder = rm_take(strlen(folder) + 2, 1);
	snprintf(ignore->folder, strlen(folder) + 2, *folder ? "%s/" : "%s", folder);
	while ((size = getline(&line, &capacity, file)) >= 0)
		add_rule(ignore, line, (size_t)size);
	free(line);
	fclose(file);
	return ignore;
}

void ignore_free(struct ignore *ignore)
{
	if (!ignore)
		return;
	for (size_t i = 0; i < ignore->count; i++)
		free(ignore->rules[i].pattern);
	free(ignore->rules);
	free(ignore->folder);
	free(ignore);
}

/* `path` against a pattern whose parts may be "**": any number of folders, none included. */
static bool path_matches(const char *pattern, const char *path)
{
	size_t size = strcspn(pattern, "/");
	bool last = !pattern[size];

	if (size == 2 && memcmp(pattern, "**", 2) == 0) {
		if (last)
			return *path != '\0'; /* all that is inside */
		for (;;) {
			if (path_matches(pattern + 3, path))
				return true;
			path = strchr(path, '/');
			if (!path)
				return false;
			path++;
		}
	}
	{
		size_t length = strcspn(path, "/");
		char *part = strndup(pattern, size), *name = strndup(path, length);
		bool same = part && name && fnmatch(part, name, 0) == 0;

		free(part);
		free(name);
		if (!same || last)
			return same && !path[length];
		return path[length] == '/' && path_matches(pattern + size + 1, path + length + 1);
	}
}

bool ignore_matches(const struct ignore *ignore, const char *path, bool is_dir)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;

	for (; ignore; ignore = ignore->parent) {
		const char *below = path + strlen(ignore->folder);

		for (size_t i = ignore->count; i-- > 0;) {
			const struct rule *rule = &ignore->rules[i];

			if (rule->dirs_only && !is_dir)
				continue;
			if (rule->anchored ? path_matches(rule->pattern, below) :
			                     fnmatch(rule->pattern, name, 0) == 0)
				return !rule->negated;
		}
	}
	return false;
}
