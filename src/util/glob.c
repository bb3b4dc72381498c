#include "util/glob.h"

/*
 * The end of the bracket expression that starts behind '[' at `p`, or `end`
 * when it is never closed. A ']' that comes first stands for itself.
 */
static const char *bracket_end(const char *p, const char *end)
{
	if (p < end && (*p == '!' || *p == '^'))
		p++;
	if (p < end && *p == ']')
		p++;
	while (p < end && *p != ']') {
		if (*p == '\\' && p + 1 < end)
			p++;
		p++;
	}
	return p;
}

bool terrace__glob_valid(const char *pattern, size_t pattern_size)
{
	const char *p = pattern, *end = pattern + pattern_size;

	while (p < end) {
		if (*p == '[') {
			p = bracket_end(p + 1, end);
			if (p == end)
				return false;
		} else if (*p == '\\') {
			p++;
			if (p == end)
				return false;
		}
		p++;
	}
	return true;
}

/* One byte of a bracket expression, past an escape. */
static unsigned char bracket_byte(const char **p)
{
	if (**p == '\\')
		(*p)++;
	return (unsigned char)*(*p)++;
}

static bool bracket_match(const char *p, const char *close, unsigned char c)
{
	bool negate = *p == '!' || *p == '^';
	bool found = false;

	if (negate)
		p++;
	while (p < close) {
		unsigned char low = bracket_byte(&p), high = low;

		if (p + 1 < close && *p == '-') {
			p++;
			high = bracket_byte(&p);
		}
		if (low <= c && c <= high)
			found = true;
	}
	return found != negate;
}

/* Match one element of the pattern against one byte; NULL when it does not. */
static const char *step(const char *p, const char *end, char c)
{
	const char *close;

	switch (*p) {
	case '?':
		return p + 1;
	case '[':
		close = bracket_end(p + 1, end);
		if (close == end)
			return NULL;
		return bracket_match(p + 1, close, (unsigned char)c) ? close + 1 : NULL;
	case '\\':
		if (p + 1 == end)
			return NULL;
		p++;
		break;
	}
	return *p == c ? p + 1 : NULL;
}

bool terrace__glob_match(const char *pattern, size_t pattern_size, const char *text,
                         size_t text_size)
{
	const char *p = pattern, *p_end = pattern + pattern_size;
	const char *t = text, *t_end = text + text_size;
	const char *star = NULL, *star_text = NULL;

	while (t < t_end) {
		const char *next;

		if (p < p_end && *p == '*') {
			star = ++p;
			star_text = t;
			continue;
		}
		next = p < p_end ? step(p, p_end, *t) : NULL;
		if (next) {
			p = next;
			t++;
		} else if (star) {
			/* Only the last star needs another try: what an earlier
			 * one could take, this one can leave to it. */
			p = star;
			t = ++star_text;
		} else {
			return false;
		}
	}
	while (p < p_end && *p == '*')
		p++;
	return p == p_end;
}
