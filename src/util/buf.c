#include "util/buf.h"

#include "util/util.h"

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

void terrace__buf_sized(struct buf *buf, const void *data, uint32_t size)
{
	if (!terrace__buf_reserve(buf, sizeof size + (size_t)size))
		return;
	terrace__buf_u32(buf, size);
	terrace__buf_append(buf, data, size);
}
