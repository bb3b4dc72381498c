/*
 * Sizes and durations as people write them: "64M", "1.5 GiB", "2h", "90s".
 */
#ifndef TERRACE_TEXT_H
#define TERRACE_TEXT_H

#include <terrace/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Read a size in bytes: digits, a fraction where a unit of K or more follows, and an
 * optional unit of B, K, M, G, T (powers of 1,024; "KB" and "KiB" mean the same).
 *
 * Returns: TERRACE_OK; TERRACE_EINVAL for anything else, or from 2^63 on.
 */
TERRACE_API int terrace_parse_size(const char *text, uint64_t *ret_bytes);

/**
 * Read a duration in milliseconds: one or more numbers, each with a unit of
 * ms, s, m, h, d or w ("1h30m"); "0"; or "forever" (TERRACE_TTL_FOREVER).
 *
 * Returns: TERRACE_OK; TERRACE_EINVAL for anything else, a number without a
 *          unit included.
 */
TERRACE_API int terrace_parse_duration(const char *text, int64_t *ret_ms);

/** Room for any text that the functions below write. */
#define TERRACE_TEXT_MAX 32

/** "0 B", "640 B", "1.5 KiB", "64 MiB". Returns `text`. */
TERRACE_API const char *terrace_format_size(uint64_t bytes, char text[TERRACE_TEXT_MAX]);
/** "0", "250ms", "90s", "2h", "1h30m", "3d4h", "forever". Returns `text`. */
TERRACE_API const char *terrace_format_duration(int64_t ms, char text[TERRACE_TEXT_MAX]);

#ifdef __cplusplus
}
#endif
#endif
