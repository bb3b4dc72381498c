/*
 * A growable byte buffer whose failure sticks: append freely, then check
 * `failed` once. Integers are little-endian on every machine, because these
 * bytes end up on disk.
 */
#ifndef UTIL_BUF_H
#define UTIL_BUF_H

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
void terrace__buf_append(struct buf *buf, const void *data, size_t size);
/* The size in four bytes, and the bytes; or, when there is no memory, nothing of it. */
void terrace__buf_sized(struct buf *buf, const void *data, uint32_t size);
void terrace__buf_printf(struct buf *buf, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void terrace__buf_u8(struct buf *buf, uint8_t value);
void terrace__buf_u16(struct buf *buf, uint16_t value);
void terrace__buf_u32(struct buf *buf, uint32_t value);
void terrace__buf_u64(struct buf *buf, uint64_t value);

static inline void terrace__store_u64(uint8_t *at, uint64_t value)
{
	for (int i = 0; i < 8; i++)
		at[i] = (uint8_t)(value >> (8 * i));
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

const uint8_t *terrace__read_bytes(struct reader *reader, size_t size);
uint8_t terrace__read_u8(struct reader *reader);
uint16_t terrace__read_u16(struct reader *reader);
uint32_t terrace__read_u32(struct reader *reader);
uint64_t terrace__read_u64(struct reader *reader);

#endif
