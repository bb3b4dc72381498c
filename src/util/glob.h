/*
 * Glob patterns over bytes: '*' any bytes, '?' one byte, [abc] [a-z] [!a-z],
 * '\' takes the next byte as it is. In linear memory, and in time bounded by
 * pattern times text.
 */
#ifndef UTIL_GLOB_H
#define UTIL_GLOB_H

#include <stdbool.h>
#include <stddef.h>

/* False when a '[' is never closed or the pattern ends in a lone '\'. */
bool terrace__glob_valid(const char *pattern, size_t pattern_size);

bool terrace__glob_match(const char *pattern, size_t pattern_size, const char *text,
                         size_t text_size);

#endif
