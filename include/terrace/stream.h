/*
 * Large values: written and read piece by piece, up to the disk's size, with no
 * more memory than a few blocks take.
 *
 * A value over 256 KiB lies in a file of L3 in blocks, each compressed and
 * hashed for itself, whether it was put whole or written here; so any of them
 * can be read whole, in pieces, or a part of it. Smaller ones are kept where a
 * put keeps them; and a cache in memory alone keeps all of them in one piece.
 *
 * Common to all functions here: what cache.h says of all of its own. The cache
 * must stay open as long as its writers and readers are.
 */
#ifndef TERRACE_STREAM_H
#define TERRACE_STREAM_H

#include <terrace/base.h>
#include <terrace/cache.h>
#include <terrace/fetch.h>
#include <terrace/stats.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- writing ------------------------------------------------------------------ */

/** A value on its way into a cache. NULL is a writer of a cache that keeps nothing. */
typedef struct terrace_writer terrace_writer;

/**
 * Begin to write the value of `key`. Nobody sees it before
 * terrace_writer_commit(); who reads an older value goes on reading that.
 *
 * What is written to the key from now on, by anybody, comes later than this
 * value, which is then not stored.
 *
 * options: as for terrace_put(); may be NULL; nothing of it is needed later.
 * Owns:    the caller ends *ret with terrace_writer_commit() or
 *          terrace_writer_drop(). A process that dies leaves a file that is
 *          swept when the store is next opened or cleaned up.
 * Returns: TERRACE_OK; TERRACE_EACCESS where the store may only be read;
 *          TERRACE_EINVAL, TERRACE_ENOMEM.
 * Threads: a writer belongs to one thread at a time.
 */
TERRACE_API int terrace_writer_open(terrace_cache *cache, terrace_slice key,
                                    const terrace_put_options *options, terrace_writer **ret);

/**
 * Append bytes. After a failure the writer takes no more: end it.
 *
 * Returns: TERRACE_OK; TERRACE_ETOOBIG, as soon as it is clear (see
 *          terrace_put()); TERRACE_EFULL, TERRACE_EIO, TERRACE_ENOMEM.
 * Cost:    256 KiB at a time are compressed, hashed and written.
 */
TERRACE_API int terrace_writer_write(terrace_writer *writer, terrace_slice bytes);

/**
 * Store what was written, and end the writer, whatever is returned.
 *
 * Returns: as terrace_put(), of which it is one for a value of at most 256 KiB;
 *          after a write that failed, its code; TERRACE_MISS when the key was
 *          written or invalidated since the writer was opened (or, now and then,
 *          a key that shares its version): nothing is stored.
 */
TERRACE_API int terrace_writer_commit(terrace_writer *writer);

/** End the writer and forget what was written; what the key had, stays. NULL is fine. */
TERRACE_API void terrace_writer_drop(terrace_writer *writer);

/**
 * Gives up to `size` bytes into `buffer`: *ret of them, 0 at the end. Anything
 * but 0 that it returns is a failure, and ends the transfer.
 */
typedef int terrace_source_fn(void *ctx, void *buffer, size_t size, size_t *ret);

/**
 * Store what `source` gives until its end.
 *
 * Returns: as terrace_writer_commit(); what `source` returned when that was not
 *          0: nothing is stored then, and what the key had, stays.
 */
TERRACE_API int terrace_put_from(terrace_cache *cache, terrace_slice key, terrace_source_fn *source,
                                 void *ctx, const terrace_put_options *options);

/** The same with what is read from a file descriptor; TERRACE_EIO when that fails. */
TERRACE_API int terrace_put_fd(terrace_cache *cache, terrace_slice key, int fd,
                               const terrace_put_options *options);

/* --- reading ------------------------------------------------------------------ */

/** A value that is open for reading, as it was when it was opened. */
typedef struct terrace_reader terrace_reader;

/**
 * Open the value of `key`. It stays readable when it is replaced, deleted or
 * evicted meanwhile. A value in blocks is not copied into L1.
 *
 * Owns:    the caller closes *ret with terrace_reader_close().
 * Returns: as terrace_get(), and counts as one.
 * Threads: a reader belongs to one thread at a time.
 * Cost:    on an L1 hit that of terrace_get() and an allocation; else that of
 *          reading a row, and of a value that is not in blocks its bytes.
 */
TERRACE_API int terrace_reader_open(terrace_cache *cache, terrace_slice key, terrace_reader **ret);

/** How long the value is. */
TERRACE_API uint64_t terrace_reader_size(const terrace_reader *reader);

/** Which tier serves it. */
TERRACE_API unsigned terrace_reader_tier(const terrace_reader *reader);

/**
 * Copy up to `size` bytes from `offset` on; *ret says how many: fewer than
 * `size` only at the end of the value.
 *
 * Every block is checked before any of it is given. A damaged one is an error
 * here, and the entry is removed: the next one who asks for the key misses.
 *
 * Returns: TERRACE_OK; TERRACE_ECORRUPT; TERRACE_EIO, TERRACE_ENOMEM.
 * Cost:    reads and decodes the blocks that the range touches; those of 256
 *          KiB that it covers go straight to `buffer`.
 */
TERRACE_API int terrace_reader_read(terrace_reader *reader, uint64_t offset, void *buffer,
                                    size_t size, size_t *ret);

/**
 * Describe the value: what terrace_inspect() would have said when it was opened.
 *
 * Owns, returns: as terrace_inspect_value().
 */
TERRACE_API int terrace_inspect_reader(terrace_reader *reader, terrace_info *ret);

/** NULL is fine. */
TERRACE_API void terrace_reader_close(terrace_reader *reader);

/** Takes bytes. Anything but 0 that it returns is a failure, and ends the transfer. */
typedef int terrace_sink_fn(void *ctx, terrace_slice bytes);

/**
 * Give a value, or the part of it from `offset` on of at most `length` bytes
 * (UINT64_MAX: all), to `sink`. A part that lies behind the value's end is empty.
 *
 * Returns: TERRACE_OK with what was given in *ret (may be NULL); TERRACE_MISS,
 *          nothing was given; TERRACE_ECORRUPT, what was given is right, but it is
 *          not all; what `sink` returned when that was not 0; TERRACE_EIO,
 *          TERRACE_ENOMEM, TERRACE_EINVAL.
 */
TERRACE_API int terrace_get_to(terrace_cache *cache, terrace_slice key, uint64_t offset,
                               uint64_t length, terrace_sink_fn *sink, void *ctx, uint64_t *ret);

/** The same into a file descriptor; TERRACE_EIO when that cannot be written. */
TERRACE_API int terrace_get_fd(terrace_cache *cache, terrace_slice key, uint64_t offset,
                               uint64_t length, int fd, uint64_t *ret);

/* --- computing ---------------------------------------------------------------- */

/**
 * For a loader: give the next bytes of the value. Under the other ways to fetch
 * they are gathered; so a loader serves all of them. Not together with
 * terrace_loaded_copy() and _take().
 *
 * Returns: TERRACE_OK; TERRACE_ENOMEM; what the sink of terrace_fetch_to()
 *          returned when that was not 0, which the loader should return too.
 */
TERRACE_API int terrace_loaded_write(terrace_loaded *loaded, terrace_slice bytes);

/**
 * Give the value of `key` to `sink`; if it is not there, have it computed by
 * `load`, while everybody else who wants it waits. What that writes with
 * terrace_loaded_write() goes to `sink` and into the cache at once, and whatever
 * becomes of it in the cache, `sink` gets all of it. Time to live, tags and
 * sources may be said until `load` returns.
 *
 * After a failure `sink` may have got a part of the value. What had expired is
 * not given (see stale_ms).
 *
 * Returns: TERRACE_OK; TERRACE_ABSENT; what `sink` or `load` returned when that
 *          was not 0; TERRACE_ECORRUPT, what was given is right, but it is not
 *          all; TERRACE_ECYCLE, TERRACE_EIO, TERRACE_EINVAL, TERRACE_ENOMEM.
 * Threads: safe; `load` and `sink` run on the calling thread.
 * Cost:    on a hit that of terrace_get_to().
 */
TERRACE_API int terrace_fetch_to(terrace_cache *cache, terrace_slice key, terrace_load_fn *load,
                                 void *ctx, terrace_sink_fn *sink, void *sink_ctx);

#ifdef __cplusplus
}
#endif
#endif
