/* Values that are told by a letter: it comes first, and what follows is made from it. */
#ifndef PROOFS_LETTERS_H
#define PROOFS_LETTERS_H

#include "proofs/proofs.h"

enum { LETTERS_MAX = 1 << 20 };

/* The bytes, good until the next call on this thread; without an allocation. */
static inline terrace_slice letter_bytes(char letter, size_t size)
{
	static _Thread_local char bytes[LETTERS_MAX];
	struct random random = { (uint64_t)letter };

	bytes[0] = letter;
	for (size_t i = 1; i < size; i++)
		bytes[i] = (char)random_next(&random);
	return terrace_bytes(bytes, size);
}

/* The letter of these bytes; '?' when they are not what it makes. */
static inline char letter_of(terrace_slice slice)
{
	const char *bytes = slice.data;
	struct random random;

	if (slice.size == 0)
		return '?';
	random.state = (uint64_t)bytes[0];
	for (size_t i = 1; i < slice.size; i++) {
		if (bytes[i] != (char)random_next(&random))
			return '?';
	}
	return bytes[0];
}

/* The letter of a key's value; ' ' for none. */
static inline char letter_look(terrace_cache *cache, const char *key)
{
	terrace_value *value;
	char letter;

	if (terrace_get(cache, terrace_str(key), &value) != TERRACE_OK)
		return ' ';
	letter = letter_of(terrace_slice_of(value));
	terrace_release(value);
	return letter;
}

#endif
