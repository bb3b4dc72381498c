/*
 * Structured and composite keys. The first byte says what the rest is: 'p' the
 * text of a key; 'f' parts, a line each; anything else: fields and items of a
 * composite key, a line each.
 */
#include "fuzz.h"

enum { LINES_MAX = 16 };

static bool same_parts(const terrace_key_parts *a, const terrace_key_parts *b)
{
	return same_bytes(a->name_space, b->name_space) && same_bytes(a->category, b->category) &&
	       same_bytes(a->identifier, b->identifier) && !a->version.data == !b->version.data &&
	       same_bytes(a->version, b->version);
}

/* What can be read is printed as it was. */
static void check_text(terrace_slice text)
{
	terrace_key_parts parts;
	terrace_slice again;

	if (terrace_key_parse(text, &parts) != TERRACE_OK) {
		must(*terrace_error_message() != '\0', "a refusal has a message");
		return;
	}
	if (text.size <= TERRACE_KEY_MAX) {
		must(terrace_key_format(&parts, &again) == TERRACE_OK, "what was read is written");
		must(same_bytes(text, again), "parse and format give the same text");
		terrace_key_free(again);
	}
	terrace_key_parts_free(&parts);
}

/* Any parts are read as they were printed. */
static void check_parts(const terrace_slice *lines, size_t count)
{
	terrace_key_parts parts = { .name_space = lines[0], .category = lines[1] }, again;
	terrace_slice text;

	parts.identifier = lines[2];
	if (count > 3)
		parts.version = lines[3];
	if (terrace_key_format(&parts, &text) != TERRACE_OK)
		return;
	must(terrace_key_parse(text, &again) == TERRACE_OK, "what was written is read");
	must(same_parts(&parts, &again), "format and parse give the same parts");
	terrace_key_parts_free(&again);
	terrace_key_free(text);
}

/* Two fields named by the first two lines; the others are a set, from front or back. */
static int compose(const terrace_slice *lines, size_t count, bool backward, terrace_slice *ret)
{
	terrace_slice items[2 * LINES_MAX];
	terrace_key_builder *key;
	char names[2][64];
	int rc;

	for (size_t i = 0; i < 2; i++)
		snprintf(names[i], sizeof names[i], "%.*s", (int)lines[i].size,
		         (const char *)lines[i].data);
	for (size_t i = 0; i < count; i++)
		items[i] = items[2 * count - 1 - i] = lines[backward ? count - 1 - i : i];
	must(terrace_key_builder_new("fuzz", &key) == TERRACE_OK, "memory");
	terrace_key_builder_field(key, names[backward], lines[backward]);
	terrace_key_builder_set(key, "the set", items, backward ? 2 * count : count);
	terrace_key_builder_field(key, names[!backward], lines[!backward]);
	rc = terrace_key_builder_finish(key, ret);
	terrace_key_builder_free(key);
	return rc;
}

/* Order and repetition say nothing; one byte more in one item does. */
static void check_composite(terrace_slice *lines, size_t count)
{
	static char longer[4096];
	terrace_slice forth, back, other;
	int rc = compose(lines, count, false, &forth);

	must(compose(lines, count, true, &back) == rc, "order does not decide whether it works");
	if (rc != TERRACE_OK)
		return;
	must(same_bytes(forth, back), "order and repetition are not in the key");
	if (lines[1].size && lines[1].size < sizeof longer) {
		memcpy(longer, lines[1].data, lines[1].size);
		longer[lines[1].size] = '+';
		lines[1] = terrace_bytes(longer, lines[1].size + 1);
		if (compose(lines, count, false, &other) == TERRACE_OK) {
			must(!same_bytes(forth, other), "other fields, another key");
			terrace_key_free(other);
		}
	}
	terrace_key_free(forth);
	terrace_key_free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	terrace_slice lines[LINES_MAX] = { { 0 } };
	size_t count = 0;
	uint8_t what = take_u8(&in);

	if (what == 'p') {
		check_text(terrace_bytes(in.at, (size_t)(in.end - in.at)));
		return 0;
	}
	while (in.at < in.end && count < LINES_MAX)
		lines[count++] = take_until(&in, '\n');
	if (what == 'f')
		check_parts(lines, count);
	else if (count >= 2)
		check_composite(lines, count);
	return 0;
}
