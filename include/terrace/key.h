/*
 * Keys: structured, composite and content-hash keys.
 */
#ifndef TERRACE_KEY_H
#define TERRACE_KEY_H

#include <terrace/base.h>
#include <terrace/sources.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * The parts of a structured key, "namespace:category:identifier[:version]".
 * Any bytes may stand in a part; ':' '%' and control characters are written as
 * %XX, so that text and parts map onto each other one to one.
 */
typedef struct terrace_key_parts {
	terrace_slice name_space;
	terrace_slice category;
	terrace_slice identifier;
	terrace_slice version; /* data == NULL: no version; size 0 otherwise: an empty one */
} terrace_key_parts;

/**
 * Write the parts as text.
 *
 * Owns:    the caller frees *ret with terrace_key_free().
 * Returns: TERRACE_OK; TERRACE_ETOOBIG over TERRACE_KEY_MAX; TERRACE_ENOMEM.
 */
TERRACE_API int terrace_key_format(const terrace_key_parts *parts, terrace_slice *ret);

/**
 * Read the parts of a text.
 *
 * Owns:    the slices of *ret point into one allocation: free it with
 *          terrace_key_parts_free().
 * Returns: TERRACE_OK; TERRACE_EINVAL for text that terrace_key_format() does
 *          not write (two or five parts, a bad escape, an unescaped control
 *          character, an escape that was not needed); TERRACE_ENOMEM.
 */
TERRACE_API int terrace_key_parse(terrace_slice text, terrace_key_parts *ret);

TERRACE_API void terrace_key_free(terrace_slice key);
TERRACE_API void terrace_key_parts_free(terrace_key_parts *parts);

/**
 * A composite key: named fields and sets, put together into one key. Order of
 * calls does not matter between fields of different names; order and
 * repetition do not matter within a set. No two different compositions give
 * the same bytes unless their hashes (XXH3, 128 bit) collide.
 */
typedef struct terrace_key_builder terrace_key_builder;

/** prefix: kept readable at the key's front; may be NULL. */
TERRACE_API int terrace_key_builder_new(const char *prefix, terrace_key_builder **ret);
TERRACE_API int terrace_key_builder_field(terrace_key_builder *builder, const char *name,
                                          terrace_slice value);
TERRACE_API int terrace_key_builder_set(terrace_key_builder *builder, const char *name,
                                        const terrace_slice *items, size_t count);
/**
 * The key: the prefix, '@' where there is one, and 32 hexadecimal digits.
 *
 * Owns:    the caller frees *ret with terrace_key_free().
 * Returns: TERRACE_OK; TERRACE_EINVAL when a field name was given twice;
 *          TERRACE_ETOOBIG; TERRACE_ENOMEM (also for an earlier call's failure).
 */
TERRACE_API int terrace_key_builder_finish(terrace_key_builder *builder, terrace_slice *ret);
TERRACE_API void terrace_key_builder_free(terrace_key_builder *builder);

/** The content hash of bytes: XXH3, 128 bit. */
TERRACE_API terrace_digest terrace_digest_bytes(terrace_slice bytes);
/** 32 hexadecimal digits and a terminator. */
TERRACE_API void terrace_digest_text(const terrace_digest *digest, char ret_text[33]);

#ifdef __cplusplus
}
#endif
#endif
