/*
 * A growable byte buffer whose failure sticks: append freely, then check
 * `failed` once. Integers are little-endian on every machine, because these
 * bytes end up on disk.
 */
#ifndef UTIL_BUF_H
#define UTIL_BUF_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct buf {
	uint8_t *data;
	size_t size;
	size_t capacity;
	bool failed; /* out of memory; data so far is kept */
};

void terrace__buf_done(struct buf *buf);
bool terrace__buf_reserve(struct buf *buf, size_t more);
/* The size in four bytes, and the bytes; or, when there is no memory, nothing of it. */
void terrace__buf_sized(struct buf *buf, const void *data, uint32_t size);
void terrace__buf_printf(struct buf *buf, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Compiled in place: a record has some twenty parts, and every put has two records. */
static inline void terrace__buf_append(struct buf *buf, const void *data, size_t size)
{
	if (size == 0 ||
	    ((buf->failed || size > buf->capacity - buf->size) && !terrace__buf_reserve(buf, size)))
		return;
	memcpy(buf->data + buf->size, data, size);
	buf->size += size;
}

static inline void terrace__buf_u8(struct buf *buf, uint8_t value)
{
	terrace__buf_append(buf, &value, 1);
}

static inline void terrace__buf_u16(struct buf *buf, uint16_t value)
{
	value = htole16(value);
	terrace__buf_append(buf, &value, 2);
}

static inline void terrace__buf_u32(struct buf *buf, uint32_t value)
{
	value = htole32(value);
	terrace__buf_append(buf, &value, 4);
}

static inline void terrace__buf_u64(struct buf *buf, uint64_t value)
{
	value = htole64(value);
	terrace__buf_append(buf, &value, 8);
}

static inline void terrace__store_u64(uint8_t *at, uint64_t value)
{
	value = htole64(value);
	memcpy(at, &value, 8);
}

/* Reads what a buf wrote; `failed` sticks when the bytes run out. */
struct reader {
	const uint8_t *at;
	const uint8_t *end;
	bool failed;
};

static inline struct reader terrace__reader(const void *data, size_t size)
{
	const uint8_t *bytes = data;

	return (struct reader){ bytes, size ? bytes + size : bytes, false };
}

static inline const uint8_t *terrace__read_bytes(struct reader *reader, size_t size)
{
	const uint8_t *at = reader->at;

	if (reader->failed || size > (size_t)(reader->end - at)) {
		reader->failed = true;
		return NULL;
	}
	reader->at += size;
	return at;
}

static inline uint8_t terrace__read_u8(struct reader *reader)
{
	const uint8_t *at = terrace__read_bytes(reader, 1);

	return at ? *at : 0;
}

static inline uint16_t terrace__read_u16(struct reader *reader)
{
	const uint8_t *at = terrace__read_bytes(reader, 2);
	uint16_t value = 0;

	if (at)
		memcpy(&value, at, 2);
	return le16toh(value);
}

static inline uint32_t terrace__read_u32(struct reader *reader)
{
	const uint8_t *at = terrace__read_bytes(reader, 4);
	uint32_t value = 0;

	if (at)
		memcpy(&value, at, 4);
	return le32toh(value);
}

static inline uint64_t terrace__read_u64(struct reader *reader)
{
	const uint8_t *at = terrace__read_bytes(reader, 8);
	uint64_t value = 0;

	if (at)
		memcpy(&value, at, 8);
	return le64toh(value);
}

#endif
