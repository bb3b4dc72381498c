/* Sizes and durations as people write them; see <terrace/text.h> for the grammar. */
#ifndef UTIL_TEXT_H
#define UTIL_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_FOREVER ((int64_t)-1)

bool terrace__text_size(const char *text, uint64_t *ret_bytes);
bool terrace__text_duration(const char *text, int64_t *ret_ms);
void terrace__text_put_size(uint64_t bytes, char *ret, size_t ret_size);
void terrace__text_put_duration(int64_t ms, char *ret, size_t ret_size);

#endif
