/*
 * Dictionaries for zstd: what the values of a cache have in common, kept once.
 *
 * A dictionary is a file `dictionaries/CACHE-VERSION-ID` in the store's
 * directory, all three in hexadecimal: its cache's number, which of that cache's
 * it is, and the 64-bit hash of its bytes. Encoded bytes begin with that id, so
 * that those of former versions stay readable, and so that a damaged file, or one
 * that was put in another's place, is no dictionary at all: what was encoded with
 * it cannot be read, and is a miss.
 *
 * Training: COVER, as zstd's ZDICT has it ("Effective Construction of Relative
 * Lempel-Ziv Dictionaries", Liao, Petri, Moffat, Wirth, 2016).
 */
#ifndef CODEC_DICTIONARY_H
#define CODEC_DICTIONARY_H

#include <terrace/base.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DICTIONARY_BYTES = 16 << 10, DICTIONARY_BYTES_MAX = 128 << 10 };
/* What a cache has at most; with one more, the oldest goes. */
enum { DICTIONARIES_KEPT = 8 };
enum { DICTIONARY_ID_BYTES = 8 };

struct dictionary;

/*
 * From now on decoding finds the dictionaries of this directory. dir_fd is
 * borrowed until terrace__dictionaries_close(). TERRACE_OK, TERRACE_ENOMEM.
 */
int terrace__dictionaries_open(int dir_fd);
void terrace__dictionaries_close(int dir_fd);

/* The latest of a cache, with a reference; NULL when it has none that is good. */
struct dictionary *terrace__dictionary_latest(int dir_fd, uint32_t cache);
void terrace__dictionary_ref(struct dictionary *dictionary);
void terrace__dictionary_unref(struct dictionary *dictionary); /* accepts NULL */
uint64_t terrace__dictionary_id(const struct dictionary *dictionary);
uint32_t terrace__dictionary_version(const struct dictionary *dictionary);
size_t terrace__dictionary_size(const struct dictionary *dictionary);

/*
 * Train one from samples that lie behind each other. TERRACE_OK with a reference
 * and no file yet; TERRACE_MISS when they have nothing in common; TERRACE_ENOMEM.
 */
int terrace__dictionary_train(const void *samples, const size_t *sizes, unsigned count,
                              struct dictionary **ret);
/* Write it as the cache's next version, to stay. Negative errno, or 0. */
int terrace__dictionary_keep(struct dictionary *dictionary, int dir_fd, uint32_t cache);

/* Id and frame, into `out`; 0 when they do not fit or it failed. */
size_t terrace__dictionary_encode(struct dictionary *dictionary, terrace_slice raw, uint8_t *out,
                                  size_t capacity);
/* TERRACE_OK; TERRACE_ECORRUPT, also when there is no such dictionary; TERRACE_ENOMEM. */
int terrace__dictionary_decode(terrace_slice encoded, void *raw, size_t raw_size);

#endif
