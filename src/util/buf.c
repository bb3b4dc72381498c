#include "util/buf.h"

#include "util/util.h"

#include <endian.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void terrace__buf_done(struct buf *buf)
{
	free(buf->data);
	*buf = (struct buf){ 0 };
}

bool terrace__buf_reserve(struct buf *buf, size_t more)
{
	size_t need, capacity;
	uint8_t *data;

	if (buf->failed || __builtin_add_overflow(buf->size, more, &need)) {
		buf->failed = true;
		return false;
	}
	if (need <= buf->capacity)
		return true;
	capacity = buf->capacity + buf->capacity / 2;
	if (capacity < need)
		capacity = need < 64 ? 64 : need;
	data = realloc(buf->data, capacity);
	if (!data) {
		buf->failed = true;
		return false;
	}
	buf->data = data;
	buf->capacity = capacity;
	return true;
}

void terrace__buf_append(struct buf *buf, const void *data, size_t size)
{
	if (size == 0 || !terrace__buf_reserve(buf, size))
		return;
	memcpy(buf->data + buf->size, data, size);
	buf->size += size;
}

void terrace__buf_printf(struct buf *buf, const char *format, ...)
{
	va_list args, again;
	int size;

	va_start(args, format);
	va_copy(again, args);
	size = vsnprintf(NULL, 0, format, args);
	if (size >= 0 && terrace__buf_reserve(buf, (size_t)size + 1)) {
		vsnprintf((char *)buf->data + buf->size, (size_t)size + 1, format, again);
		buf->size += (size_t)size;
	}
	va_end(again);
	va_end(args);
}

static void append_le(struct buf *buf, uint64_t value, size_t size)
{
	uint8_t bytes[8];

	terrace__store_u64(bytes, value);
	terrace__buf_append(buf, bytes, size);
}

void terrace__buf_u8(struct buf *buf, uint8_t value)
{
	append_le(buf, value, 1);
}

void terrace__buf_u16(struct buf *buf, uint16_t value)
{
	append_le(buf, value, 2);
}

void terrace__buf_u32(struct buf *buf, uint32_t value)
{
	append_le(buf, value, 4);
}

void terrace__buf_u64(struct buf *buf, uint64_t value)
{
	append_le(buf, value, 8);
}

void terrace__buf_sized(struct buf *buf, const void *data, uint32_t size)
{
	if (!terrace__buf_reserve(buf, sizeof size + (size_t)size))
		return;
	terrace__buf_u32(buf, size);
	terrace__buf_append(buf, data, size);
}

const uint8_t *terrace__read_bytes(struct reader *reader, size_t size)
{
	const uint8_t *at = reader->at;

	if (reader->failed || size > (size_t)(reader->end - at)) {
		reader->failed = true;
		return NULL;
	}
	reader->at += size;
	return at;
}

static uint64_t read_le(struct reader *reader, size_t size)
{
	const uint8_t *at = terrace__read_bytes(reader, size);
	uint64_t value = 0;

	if (at)
		memcpy(&value, at, size);
	return le64toh(value);
}

uint8_t terrace__read_u8(struct reader *reader)
{
	return (uint8_t)read_le(reader, 1);
}

uint16_t terrace__read_u16(struct reader *reader)
{
	return (uint16_t)read_le(reader, 2);
}

uint32_t terrace__read_u32(struct reader *reader)
{
	return (uint32_t)read_le(reader, 4);
}

uint64_t terrace__read_u64(struct reader *reader)
{
	return read_le(reader, 8);
}
