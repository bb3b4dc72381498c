#include "api/api.h"

#include "util/hash.h"
#include "util/util.h"

#include <stdlib.h>

/* --- structured keys -------------------------------------------------------------------------- */

static bool must_escape(uint8_t c)
{
	return c == ':' || c == '%' || c < 0x20 || c == 0x7f;
}

static void put_part(struct buf *out, terrace_slice part)
{
	const uint8_t *bytes = part.data;

	for (size_t i = 0; i < part.size; i++) {
		if (must_escape(bytes[i]))
			terrace__buf_printf(out, "%%%02X", bytes[i]);
		else
			terrace__buf_u8(out, bytes[i]);
	}
}

int terrace_key_format(const terrace_key_parts *parts, terrace_slice *ret)
{
	struct buf text = { 0 };

	put_part(&text, parts->name_space);
	terrace__buf_u8(&text, ':');
	put_part(&text, parts->category);
	terrace__buf_u8(&text, ':');
	put_part(&text, parts->identifier);
	if (parts->version.data) {
		terrace__buf_u8(&text, ':');
		put_part(&text, parts->version);
	}
	if (text.failed || text.size > TERRACE_KEY_MAX) {
		bool failed = text.failed;

		terrace__buf_done(&text);
		return failed ? terrace_fail(TERRACE_ENOMEM, "out of memory for a key") :
		                terrace_fail(TERRACE_ETOOBIG, "the key is over %u bytes",
		                             TERRACE_KEY_MAX);
	}
	*ret = terrace_bytes(text.data, text.size);
	return TERRACE_OK;
}

static int hex_digit(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* One part, up to a ':' or the end; false for what put_part() does not write. */
static bool get_part(struct reader *reader, struct buf *out)
{
	while (reader->at < reader->end && *reader->at != ':') {
		uint8_t c = *reader->at++;

		if (c == '%') {
			int high, low;

			if (reader->end - reader->at < 2)
				return false;
			high = hex_digit(reader->at[0]);
			low = hex_digit(reader->at[1]);
			if (high < 0 || low < 0)
				return false;
			reader->at += 2;
			c = (uint8_t)(high << 4 | low);
			if (!must_escape(c))
				return false; /* two texts for the same parts */
		} else if (must_escape(c)) {
			return false;
		}
		terrace__buf_u8(out, c);
	}
	return true;
}

static size_t count_colons(terrace_slice text)
{
	size_t colons = 0;

	for (size_t i = 0; i < text.size; i++)
		colons += ((const char *)text.data)[i] == ':';
	return colons;
}

int terrace_key_parse(terrace_slice text, terrace_key_parts *ret)
{
	struct reader reader = terrace__reader(text.data, text.size);
	size_t count = count_colons(text) + 1, start = 0;
	terrace_slice parts[4] = { { NULL, 0 } };
	struct buf bytes = { 0 };
	bool good = count == 3 || count == 4;

	if (!terrace__buf_reserve(&bytes, text.size + 1)) /* so that nothing moves */
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a key");
	for (size_t i = 0; i < count && good; i++) {
		good = get_part(&reader, &bytes);
		reader.at += reader.at < reader.end; /* the ':' */
		parts[i] = terrace_bytes(bytes.data + start, bytes.size - start);
		start = bytes.size;
	}
	if (!good) {
		terrace__buf_done(&bytes);
		return terrace_fail(
		    TERRACE_EINVAL,
		    "a structured key is namespace:category:identifier or "
		    "namespace:category:identifier:version, with %%XX for ':', '%%' "
		    "and control characters");
	}
	*ret = (terrace_key_parts){ parts[0], parts[1], parts[2], parts[3] };
	return TERRACE_OK;
}

void terrace_key_free(terrace_slice key)
{
	free((void *)(uintptr_t)key.data);
}

void terrace_key_parts_free(terrace_key_parts *parts)
{
	/* The first part begins where the allocation does. */
	free((void *)(uintptr_t)parts->name_space.data);
	memset(parts, 0, sizeof *parts);
}

/* --- composite keys ------------------------------------------------------------------------------- */

struct part {
	char *name;
	struct buf value; /* u8 kind, then length-prefixed items */
};

struct terrace_key_builder {
	char *prefix;
	struct part *parts;
	size_t count, capacity;
	bool failed;
};

enum { PART_FIELD = 'f', PART_SET = 's' };

int terrace_key_builder_new(const char *prefix, terrace_key_builder **ret)
{
	terrace_key_builder *builder = calloc(1, sizeof *builder);

	if (builder && prefix)
		builder->prefix = strdup(prefix);
	if (!builder || (prefix && !builder->prefix)) {
		free(builder);
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a key");
	}
	*ret = builder;
	return TERRACE_OK;
}

static void put_item(struct buf *out, terrace_slice item)
{
	terrace__buf_u64(out, item.size);
	terrace__buf_append(out, item.data, item.size);
}

static struct part *add_part(terrace_key_builder *builder, const char *name, uint8_t kind)
{
	struct part *part;

	if (builder->count == builder->capacity) {
		size_t capacity = builder->capacity ? 2 * builder->capacity : 8;
		void *grown = realloc(builder->parts, capacity * sizeof *part);

		if (!grown)
			return NULL;
		builder->parts = grown;
		builder->capacity = capacity;
	}
	part = &builder->parts[builder->count];
	*part = (struct part){ .name = strdup(name) };
	if (!part->name)
		return NULL;
	builder->count++;
	terrace__buf_u8(&part->value, kind);
	return part;
}

static int added(terrace_key_builder *builder, const struct part *part)
{
	if (part && !part->value.failed)
		return TERRACE_OK;
	builder->failed = true;
	return terrace_fail(TERRACE_ENOMEM, "out of memory for a key");
}

int terrace_key_builder_field(terrace_key_builder *builder, const char *name, terrace_slice value)
{
	struct part *part = add_part(builder, name, PART_FIELD);

	if (part)
		put_item(&part->value, value);
	return added(builder, part);
}

static int compare_slices(const void *a, const void *b)
{
	const terrace_slice *left = a, *right = b;
	size_t size = left->size < right->size ? left->size : right->size;
	int order = size ? memcmp(left->data, right->data, size) : 0;

	if (order)
		return order;
	return left->size < right->size ? -1 : left->size > right->size;
}

int terrace_key_builder_set(terrace_key_builder *builder, const char *name,
                            const terrace_slice *items, size_t count)
{
	struct part *part = add_part(builder, name, PART_SET);
	terrace_slice *sorted = malloc(count ? count * sizeof *sorted : 1);

	if (part && sorted) {
		if (count)
			memcpy(sorted, items, count * sizeof *sorted);
		qsort(sorted, count, sizeof *sorted, compare_slices);
		for (size_t i = 0; i < count; i++) {
			if (i == 0 || compare_slices(&sorted[i - 1], &sorted[i]) != 0)
				put_item(&part->value, sorted[i]);
		}
	} else {
		part = NULL;
	}
	free(sorted);
	return added(builder, part);
}

static int compare_parts(const void *a, const void *b)
{
	return strcmp(((const struct part *)a)->name, ((const struct part *)b)->name);
}

int terrace_key_builder_finish(terrace_key_builder *builder, terrace_slice *ret)
{
	CLEANUP(terrace__buf_done) struct buf all = { 0 };
	struct buf key = { 0 };
	terrace_digest digest;
	char text[33];

	if (builder->failed)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a key");
	if (builder->count)
		qsort(builder->parts, builder->count, sizeof *builder->parts, compare_parts);
	for (size_t i = 0; i < builder->count; i++) {
		const struct part *part = &builder->parts[i];

		if (i > 0 && strcmp(builder->parts[i - 1].name, part->name) == 0)
			return terrace_fail(TERRACE_EINVAL,
			                    "the key's field \"%s\" was given twice", part->name);
		put_item(&all, terrace_str(part->name));
		put_item(&all, terrace_bytes(part->value.data, part->value.size));
	}
	digest = terrace_digest_bytes(terrace_bytes(all.data, all.size));
	terrace_digest_text(&digest, text);
	if (builder->prefix)
		terrace__buf_printf(&key, "%s@", builder->prefix);
	terrace__buf_append(&key, text, 32);
	if (all.failed || key.failed || key.size > TERRACE_KEY_MAX) {
		bool too_big = key.size > TERRACE_KEY_MAX;

		terrace__buf_done(&key);
		return too_big ? terrace_fail(TERRACE_ETOOBIG, "the key is over %u bytes",
		                              TERRACE_KEY_MAX) :
		                 terrace_fail(TERRACE_ENOMEM, "out of memory for a key");
	}
	*ret = terrace_bytes(key.data, key.size);
	return TERRACE_OK;
}

void terrace_key_builder_free(terrace_key_builder *builder)
{
	if (!builder)
		return;
	for (size_t i = 0; i < builder->count; i++) {
		free(builder->parts[i].name);
		terrace__buf_done(&builder->parts[i].value);
	}
	free(builder->parts);
	free(builder->prefix);
	free(builder);
}

/* --- content ------------------------------------------------------------------------------------------ */

terrace_digest terrace_digest_bytes(terrace_slice bytes)
{
	terrace_digest digest;

	terrace__hash128_bytes(terrace__hash128(bytes.data, bytes.size, 0), digest.bytes);
	return digest;
}

void terrace_digest_text(const terrace_digest *digest, char ret_text[33])
{
	static const char digits[] = "0123456789abcdef";

	for (int i = 0; i < 16; i++) {
		ret_text[2 * i] = digits[digest->bytes[i] >> 4];
		ret_text[2 * i + 1] = digits[digest->bytes[i] & 15];
	}
	ret_text[32] = '\0';
}
