/*
 * A pattern, a newline, a text: the matcher against a table that tries every
 * split, and what the pattern must and must not match by what it is.
 */
#include "fuzz.h"

#include "util/glob.h"

enum { ELEMENTS_MAX = 512 };

/* One element of a pattern: which bytes it takes. */
struct element {
	bool star;
	bool takes[256];
};

/* The bytes between '[' and its ']', by the words of glob.h. False when it is never closed. */
static bool read_bracket(struct input *in, struct element *ret)
{
	bool negate = false, members[256] = { false };

	if (in->at < in->end && (*in->at == '!' || *in->at == '^')) {
		negate = true;
		in->at++;
	}
	for (bool first = true;; first = false) {
		unsigned low, high;

		if (in->at == in->end)
			return false;
		if (*in->at == ']' && !first)
			break;
		if (*in->at == '\\' && ++in->at == in->end)
			return false;
		low = high = *in->at++;
		/* "a-z"; a '-' before the closing bracket stands for itself */
		if (in->end - in->at >= 2 && in->at[0] == '-' && in->at[1] != ']') {
			in->at++;
			if (*in->at == '\\' && ++in->at == in->end)
				return false;
			high = *in->at++;
		}
		for (unsigned c = low; c <= high; c++)
			members[c] = true;
	}
	in->at++;
	for (unsigned c = 0; c < 256; c++)
		ret->takes[c] = members[c] != negate;
	return true;
}

/* The number of elements; -1 for a pattern that is none. */
static int read_pattern(terrace_slice pattern, struct element *ret)
{
	struct input in = { pattern.data, (const uint8_t *)pattern.data + pattern.size };
	int count = 0;

	while (in.at < in.end) {
		struct element *element = &ret[count++];
		uint8_t c = *in.at++;

		*element = (struct element){ .star = c == '*' };
		if (c == '?')
			memset(element->takes, true, sizeof element->takes);
		else if (c == '[' && !read_bracket(&in, element))
			return -1;
		else if (c == '\\' && in.at == in.end)
			return -1;
		else if (c != '*' && c != '[')
			element->takes[c == '\\' ? *in.at++ : c] = true;
	}
	return count;
}

/* ends[i]: the elements so far can take the first i bytes. */
static bool slow_match(const struct element *elements, int count, terrace_slice text)
{
	const uint8_t *bytes = text.data;
	bool *ends = calloc(text.size + 1, 1), holds;

	ends[0] = true;
	for (int e = 0; e < count; e++) {
		if (elements[e].star) {
			for (size_t i = 1; i <= text.size; i++)
				ends[i] = ends[i] || ends[i - 1];
			continue;
		}
		for (size_t i = text.size; i > 0; i--)
			ends[i] = ends[i - 1] && elements[e].takes[bytes[i - 1]];
		ends[0] = false;
	}
	holds = ends[text.size];
	free(ends);
	return holds;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct element elements[ELEMENTS_MAX];
	struct input in = { data, data + size };
	terrace_slice pattern = take_until(&in, '\n');
	terrace_slice text = take_bytes(&in, 4096);
	int count;
	bool matched;

	if (pattern.size > ELEMENTS_MAX)
		return 0;
	count = read_pattern(pattern, elements);
	matched = terrace__glob_match(pattern.data, pattern.size, text.data, text.size);
	must(terrace__glob_valid(pattern.data, pattern.size) == (count >= 0),
	     "a pattern is valid exactly when it can be read");
	if (count >= 0)
		must(matched == slow_match(elements, count, text), "fast and slow matcher agree");
	return 0;
}
