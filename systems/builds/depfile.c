/*
 * Dependency files in make's syntax, as gcc -MD and clang -MD write them:
 * "target: prerequisite prerequisite \". A space in a name is "\ ", '#' is
 * "\#" and '$' is "$$".
 */
#include "builds/parts.h"

#include <errno.h>
#include <stdlib.h>

enum { DEPFILE_MAX = 64 << 20 };

/* All of it, with a NUL behind; NULL with errno where it is not there, or is no text. */
static char *read_file(const char *path)
{
	FILE *file = fopen(path, "re");
	char *data = NULL;
	size_t size = 0, capacity = 0, n = 1;
	int err = 0;

	if (!file)
		return NULL;
	while (n > 0 && !err) {
		if (capacity - size < 65536) {
			char *grown = realloc(data, capacity + 131072);

			if (!grown) {
				err = ENOMEM;
				break;
			}
			data = grown;
			capacity += 131072;
		}
		n = fread(data + size, 1, capacity - size - 1, file);
		if (ferror(file))
			err = errno;
		else if (size + n > DEPFILE_MAX)
			err = EFBIG;
		else if (memchr(data + size, '\0', n))
			err = EILSEQ;
		size += n;
	}
	fclose(file);
	if (err) {
		free(data);
		errno = err;
		return NULL;
	}
	data[size] = '\0';
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

struct word {
	char text[PATH_MAX];
	size_t size; /* more than fits: the text is cut */
	bool is_target;
};

static void add_char(struct word *word, char c)
{
	if (word->size + 1 < sizeof word->text)
		word->text[word->size] = c;
	word->size++;
}

static const char *skip_blanks(const char *p)
{
	for (;;) {
		if (p[0] == '\\' && p[1] == '\n')
			p += 2;
		else if (p[0] == '\\' && p[1] == '\r' && p[2] == '\n')
			p += 3;
		else if (*p == ' ' || *p == '\t' || *p == '\r')
			p++;
		else
			return p;
	}
}

/*
 * The next word; false at the end of a line that is not continued (`*at` behind it). Before
 * the first colon of a line are targets, behind it colons are of names.
 */
static bool next_word(const char **at, bool seen_target, struct word *word)
{
	const char *p = skip_blanks(*at);

	word->size = 0;
	word->is_target = false;
	while (*p && !strchr(" \t\r\n", *p)) {
		size_t slashes = backslashes_before_space(p);
		char c = *p;

		for (size_t i = 0; i < slashes / 2; i++)
			add_char(word, '\\');
		if (slashes) {
			p += slashes;
			if (slashes % 2 == 0)
				break;
			add_char(word, *p++);
			continue;
		}
		if (c == '\\' && (p[1] == '\n' || p[1] == '\r'))
			break;
		if (c == '\\' && (p[1] == '#' || p[1] == ':'))
			c = *++p;
		else if (c == '$' && p[1] == '$')
			p++;
		else if (c == ':' && !seen_target) {
			p++;
			word->is_target = true;
			break;
		}
		add_char(word, c);
		p++;
	}
	if (word->size < sizeof word->text)
		word->text[word->size] = '\0';
	*at = p;
	return word->size > 0 || word->is_target;
}

static int add_prerequisite(struct file_set *set, const struct place *place,
                            const struct word *word)
{
	char name[PATH_MAX];

	if (word->size >= sizeof word->text || place_name(place, word->text, name) < 0) {
		note("the depfile has a name of over %d bytes; the result is not kept",
		     PATH_MAX - 1);
		return -1;
	}
	if (file_set_add(set, name) < 0) {
		note("out of memory for the names in the depfile; the result is not kept");
		return -1;
	}
	return 0;
}

int depfile_read(struct file_set *set, const struct place *place, const char *path)
{
	char *data = read_file(path);
	const char *at = data;
	bool seen_target = false, seen_rule = false;
	struct word word;
	int rc = 0;

	if (!data && errno == EILSEQ)
		note("the depfile %s is no text; the result is not kept", path);
	else if (!data && errno == ENOENT)
		note("the command did not write the depfile %s; its result is not kept", path);
	else if (!data)
		note("cannot read the depfile %s: %s; the result is not kept", path,
		     strerror(errno));
	if (!data)
		return -1;
	while (*at && rc == 0) {
		if (!next_word(&at, seen_target, &word)) {
			if (*at == '\n')
				seen_target = false;
			at += *at != '\0';
		} else if (word.is_target) {
			seen_target = seen_rule = true;
		} else if (seen_target) { /* words before the colon are further targets */
			rc = add_prerequisite(set, place, &word);
		}
	}
	if (rc == 0 && !seen_rule) {
		note("the depfile %s has no rule; the result is not kept", path);
		rc = -1;
	}
	free(data);
	file_set_sort(set);
	return rc;
}
