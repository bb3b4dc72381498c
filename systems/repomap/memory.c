/* Memory, growing text, interned names, UTF-8. */
#include "repomap/parts.h"

#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

void rm_note(const char *format, ...)
{
	va_list args;

	fputs("terrace: repomap: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

uint64_t rm_clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void *have(void *memory)
{
	if (!memory) {
		rm_note("out of memory");
		exit(3);
	}
	return memory;
}

void *rm_take(size_t count, size_t item)
{
	return have(calloc(count ? count : 1, item));
}

void *rm_grow(void *array, size_t *capacity, size_t needed, size_t item)
{
	size_t larger = *capacity ? *capacity : 16;

	if (needed <= *capacity)
		return array;
	while (larger < needed)
		larger *= 2;
	array = have(realloc(array, larger * item));
	*capacity = larger;
	return array;
}

void text_add(struct text *text, const void *data, size_t size)
{
	if (size == 0)
		return;
	text->data = rm_grow(text->data, &text->capacity, text->size + size, 1);
	memcpy(text->data + text->size, data, size);
	text->size += size;
}

void text_str(struct text *text, const char *string)
{
	text_add(text, string, strlen(string));
}

void text_u32(struct text *text, uint32_t value)
{
	text_add(text, &value, sizeof value);
}

void text_done(struct text *text)
{
	free(text->data);
	*text = (struct text){ 0 };
}

/* --- names ---------------------------------------------------------------------------------- */

enum { CHUNK = 256 << 10 };

static uint32_t hash(terrace_slice name)
{
	const uint8_t *at = name.data;
	uint64_t value = name.size * UINT64_C(0x9E3779B97F4A7C15);
	size_t left = name.size;

	for (; left >= 8; at += 8, left -= 8) {
		uint64_t word;

		memcpy(&word, at, 8);
		value = (value ^ word) * UINT64_C(0xD6E8FEB86659FD93);
		value ^= value >> 32;
	}
	for (; left > 0; at++, left--)
		value = (value ^ *at) * UINT64_C(0x100000001B3);
	value = (value ^ value >> 29) * UINT64_C(0xBF58476D1CE4E5B9);
	return (uint32_t)(value >> 32);
}

static bool equal(terrace_slice a, terrace_slice b)
{
	return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

/* Where it is in the table, or would be. */
static uint32_t *slot_of(const struct words *names, terrace_slice name)
{
	uint32_t at = hash(name) & names->mask;

	while (names->table[at] && !equal(names->list[names->table[at] - 1], name))
		at = (at + 1) & names->mask;
	return &names->table[at];
}

void words_append(struct words *names, terrace_slice name)
{
	names->list = rm_grow(names->list, &names->capacity, names->count + 1, sizeof name);
	names->list[names->count++] = name;
}

void words_index(struct words *names)
{
	size_t size = 64;

	while (size < 2 * (size_t)names->count + 2)
		size *= 2;
	free(names->table);
	names->table = rm_take(size, sizeof *names->table);
	names->mask = (uint32_t)(size - 1);
	for (uint32_t i = 0; i < names->count; i++)
		*slot_of(names, names->list[i]) = i + 1;
}

uint32_t words_find(const struct words *names, terrace_slice name)
{
	return names->table ? *slot_of(names, name) - 1 : UINT32_MAX;
}

static terrace_slice keep(struct words *names, terrace_slice name)
{
	struct text *chunk = names->chunk_count ? names->chunks[names->chunk_count - 1] : NULL;

	if (!chunk || chunk->size + name.size > chunk->capacity) {
		names->chunks = rm_grow(names->chunks, &names->chunk_capacity,
		                        names->chunk_count + 1, sizeof(struct text *));
		chunk = rm_take(1, sizeof *chunk);
		chunk->capacity = name.size > CHUNK ? name.size : CHUNK;
		chunk->data = rm_take(chunk->capacity, 1);
		names->chunks[names->chunk_count++] = chunk;
	}
	text_add(chunk, name.data, name.size);
	return terrace_bytes(chunk->data + chunk->size - name.size, name.size);
}

uint32_t words_add(struct words *names, terrace_slice name, bool copy)
{
	uint32_t *slot;

	if (!names->table || 2 * (size_t)names->count > names->mask)
		words_index(names);
	slot = slot_of(names, name);
	if (!*slot) {
		words_append(names, copy ? keep(names, name) : name);
		*slot = names->count;
	}
	return *slot - 1;
}

void words_done(struct words *names)
{
	for (size_t i = 0; i < names->chunk_count; i++) {
		text_done(names->chunks[i]);
		free(names->chunks[i]);
	}
	free(names->chunks);
	free(names->list);
	free(names->table);
	*names = (struct words){ 0 };
}

/* --- UTF-8 ------------------------------------------------------------------------------------ */

size_t utf8_count(const char *data, size_t size)
{
	size_t count = 0;

	for (size_t i = 0; i < size; i++)
		count += ((uint8_t)data[i] & 0xC0) != 0x80;
	return count;
}

size_t utf8_prefix(const char *data, size_t size, size_t count)
{
	size_t i = 0;

	while (i < size && (((uint8_t)data[i] & 0xC0) == 0x80 || count-- > 0))
		i++;
	return i;
}

/* The length of the sequence at `at`; 0 when it is none (RFC 3629: no surrogates, none too long). */
static size_t sequence(const uint8_t *at, size_t left)
{
	static const struct {
		uint8_t first, last, low, high; /* bounds of the first and second byte */
		uint8_t size;
	} forms[] = {
		{ 0xC2, 0xDF, 0x80, 0xBF, 2 }, { 0xE0, 0xE0, 0xA0, 0xBF, 3 },
		{ 0xE1, 0xEC, 0x80, 0xBF, 3 }, { 0xED, 0xED, 0x80, 0x9F, 3 },
		{ 0xEE, 0xEF, 0x80, 0xBF, 3 }, { 0xF0, 0xF0, 0x90, 0xBF, 4 },
		{ 0xF1, 0xF3, 0x80, 0xBF, 4 }, { 0xF4, 0xF4, 0x80, 0x8F, 4 },
	};

	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
		if (at[0] < forms[i].first || at[0] > forms[i].last)
			continue;
		if (left < forms[i].size || at[1] < forms[i].low || at[1] > forms[i].high)
			return 0;
		for (size_t n = 2; n < forms[i].size; n++) {
			if ((at[n] & 0xC0) != 0x80)
				return 0;
		}
		return forms[i].size;
	}
	return 0;
}

bool utf8_mend(char *data, size_t size)
{
	bool mended = false;

	for (size_t i = 0; i < size;) {
		size_t length = (uint8_t)data[i] < 0x80 ? 1 :
		                                          sequence((uint8_t *)data + i, size - i);

		if (length == 0) {
			data[i] = '?';
			mended = true;
			length = 1;
		}
		i += length;
	}
	return mended;
}
