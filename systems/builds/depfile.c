/*
 * Dependency files in make's syntax, as gcc -MD and clang -MD write them:
 * "target: prerequisite prerequisite \". A space in a name is "\ ", '#' is
 * "\#" and '$' is "$$".
 */
#include "builds/parts.h"

#include <errno.h>
#include <stdlib.h>

enum { DEPFILE_MAX = 64 << 20 };

static char *read_file(const char *path, size_t *ret_size)
{
	FILE *file = fopen(path, "re");
	char *data = NULL;
	size_t size = 0, capacity = 0, n;

	if (!file)
		return NULL;
	do {
		if (capacity - size < 65536) {
			char *grown = realloc(data, capacity + 131072);

			if (!grown)
				break;
			data = grown;
			capacity += 131072;
		}
		n = fread(data + size, 1, capacity - size - 1, file);
		size += n;
	} while (n > 0 && size < DEPFILE_MAX);
	if (data)
		data[size] = '\0';
	fclose(file);
	*ret_size = size;
	return data;
}

/*
 * Backslashes before a space, as compilers write them: 2n+1 are n of them and a
 * space of the name, 2n are n of them at its end. Returns how many stand there;
 * 0 when no space follows.
 */
static size_t backslashes_before_space(const char *p)
{
	size_t count = strspn(p, "\\");

	return p[count] == ' ' || p[count] == '\t' ? count : 0;
}

/* The next word; false at the end of a line that is not continued (`*at` behind it). */
static bool next_word(const char **at, char *word, size_t word_size, bool *ret_target)
{
	const char *p = *at;
	size_t size = 0;

	*ret_target = false;
	for (;;) {
		if (p[0] == '\\' && p[1] == '\n')
			p += 2;
		else if (p[0] == '\\' && p[1] == '\r' && p[2] == '\n')
			p += 3;
		else if (*p == ' ' || *p == '\t' || *p == '\r')
			p++;
		else
			break;
	}
	while (*p && !strchr(" \t\r\n", *p)) {
		size_t slashes = backslashes_before_space(p);
		char c = *p;

		for (size_t i = 0; i < slashes / 2 && size + 1 < word_size; i++)
			word[size++] = '\\';
		if (slashes) {
			p += slashes;
			if (slashes % 2 == 0)
				break;
			if (size + 1 < word_size)
				word[size++] = *p;
			p++;
			continue;
		}
		if (c == '\\' && (p[1] == '\n' || p[1] == '\r'))
			break;
		if (c == '\\' && (p[1] == '#' || p[1] == ':'))
			c = *++p;
		else if (c == '$' && p[1] == '$')
			p++;
		else if (c == ':' && (p[1] == '\0' || strchr(" \t\r\n", p[1]))) {
			p++;
			*ret_target = true;
			break;
		}
		if (size + 1 < word_size)
			word[size++] = c;
		p++;
	}
	word[size] = '\0';
	*at = p;
	return size > 0 || *ret_target;
}

int depfile_read(struct file_set *set, const struct place *place, const char *path)
{
	char word[PATH_MAX], name[PATH_MAX];
	bool seen_target = false, is_target;
	size_t size;
	char *data = read_file(path, &size);
	const char *at = data;

	if (!data) {
		note("the command did not write the depfile %s: %s; its result is not kept", path,
		     strerror(errno));
		return -1;
	}
	while (*at) {
		if (!next_word(&at, word, sizeof word, &is_target)) {
			if (*at == '#') {
				at += strcspn(at, "\n");
			} else if (*at == '\n') {
				seen_target = false;
				at++;
			} else if (*at) {
				at++;
			}
			continue;
		}
		if (is_target) {
			seen_target = true;
			continue;
		}
		/* Words before the colon are further targets. */
		if (!seen_target || place_name(place, word, name) < 0)
			continue;
		if (file_set_add(set, name) < 0) {
			free(data);
			return -1;
		}
	}
	free(data);
	file_set_sort(set);
	return 0;
}
