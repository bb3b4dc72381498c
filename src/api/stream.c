#include "api/api.h"

#include "core/stream.h"
#include "util/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- writing --------------------------------------------------------------------- */

int terrace_writer_open(terrace_cache *cache, terrace_slice key, const terrace_put_options *options,
                        terrace_writer **ret)
{
	terrace_put_options ours;
	int rc = terrace__check_writing(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc == TERRACE_OK)
		rc = terrace__check_put_options(cache, options, &ours);
	if (rc == TERRACE_OK && ours.lease && ours.lease->cache != cache)
		rc = terrace_fail(TERRACE_EINVAL,
		                  "a lease is for puts into the cache that gave it");
	if (rc != TERRACE_OK)
		return rc;
	if (!holds_nothing(cache))
		return terrace__writer_open(cache, key, &ours, ret);
	*ret = NULL;
	return TERRACE_OK;
}

int terrace_writer_write(terrace_writer *writer, terrace_slice bytes)
{
	int rc = writer ? terrace__check_cache(writer->cache) : TERRACE_OK;

	return rc == TERRACE_OK && writer ? terrace__writer_write(writer, bytes) : rc;
}

int terrace_writer_commit(terrace_writer *writer)
{
	int rc = writer ? terrace__check_cache(writer->cache) : TERRACE_OK;

	if (rc != TERRACE_OK)
		terrace__writer_forget(writer);
	else if (writer)
		rc = terrace__writer_commit(writer);
	return rc;
}

void terrace_writer_drop(terrace_writer *writer)
{
	if (writer && terrace__check_cache(writer->cache) == TERRACE_OK)
		terrace__writer_drop(writer);
	else if (writer)
		terrace__writer_forget(writer);
}

enum { PIECE_BYTES = 256 << 10 };

/* Until the source ends, or either side fails; *ret_source is the source's failure. */
static int pump(terrace_writer *writer, terrace_source_fn *source, void *ctx, int *ret_source)
{
	void *piece = malloc(PIECE_BYTES);
	size_t size = piece ? 1 : 0;
	int rc = piece ? TERRACE_OK : terrace_fail(TERRACE_ENOMEM, "out of memory for a buffer");

	*ret_source = 0;
	while (rc == TERRACE_OK && size > 0) {
		size = 0;
		*ret_source = source(ctx, piece, PIECE_BYTES, &size);
		if (*ret_source != 0)
			break;
		if (size > PIECE_BYTES) {
			*ret_source = terrace_fail(
			    TERRACE_EINVAL, "a source gave %zu bytes where %d were asked for", size,
			    PIECE_BYTES);
			break;
		}
		rc = terrace_writer_write(writer, terrace_bytes(piece, size));
	}
	free(piece);
	return rc;
}

int terrace_put_from(terrace_cache *cache, terrace_slice key, terrace_source_fn *source, void *ctx,
                     const terrace_put_options *options)
{
	terrace_writer *writer;
	int rc, source_rc;

	rc = terrace_writer_open(cache, key, options, &writer);
	if (rc != TERRACE_OK)
		return rc;
	rc = pump(writer, source, ctx, &source_rc);
	if (source_rc == 0 && rc != TERRACE_ENOMEM)
		return terrace_writer_commit(writer);
	terrace_writer_drop(writer);
	return source_rc ? source_rc : rc;
}

static int fd_source(void *ctx, void *buffer, size_t size, size_t *ret)
{
	const int *fd = ctx;
	ssize_t n;

	do {
		n = read(*fd, buffer, size);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return terrace_fail(TERRACE_EIO, "cannot read the value from descriptor %d: %s",
		                    *fd, strerror(errno));
	*ret = (size_t)n;
	return 0;
}

int terrace_put_fd(terrace_cache *cache, terrace_slice key, int fd,
                   const terrace_put_options *options)
{
	return terrace_put_from(cache, key, fd_source, &fd, options);
}

/* --- reading ---------------------------------------------------------------------- */

int terrace_reader_open(terrace_cache *cache, terrace_slice key, terrace_reader **ret)
{
	int rc = terrace__check_cache(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc != TERRACE_OK)
		return rc;
	if (holds_nothing(cache))
		return TERRACE_MISS;
	rc = terrace__reader_open(cache, key, ret);
	return rc == TERRACE_ABSENT ? TERRACE_MISS : rc;
}

uint64_t terrace_reader_size(const terrace_reader *reader)
{
	return reader->size;
}

unsigned terrace_reader_tier(const terrace_reader *reader)
{
	return reader->tier;
}

int terrace_reader_read(terrace_reader *reader, uint64_t offset, void *buffer, size_t size,
                        size_t *ret)
{
	int rc = terrace__check_cache(reader->cache);

	return rc == TERRACE_OK ? terrace__reader_read(reader, offset, buffer, size, ret) : rc;
}

void terrace_reader_close(terrace_reader *reader)
{
	if (reader)
		terrace__reader_close(reader);
}

/* Piece by piece, along the blocks, until either side fails. */
static int give(terrace_reader *reader, uint64_t offset, uint64_t length, terrace_sink_fn *sink,
                void *ctx, uint64_t *ret_given, int *ret_sink)
{
	uint8_t *piece = malloc(PIECE_BYTES);
	size_t size = piece ? 1 : 0;
	int rc = piece ? TERRACE_OK : terrace_fail(TERRACE_ENOMEM, "out of memory for a buffer");

	while (rc == TERRACE_OK && size > 0 && length > 0) {
		uint64_t whole = PIECE_BYTES - offset % PIECE_BYTES;

		rc = terrace_reader_read(reader, offset, piece,
		                         (size_t)(length < whole ? length : whole), &size);
		/* Nothing was given: as any other damaged entry it was not there. */
		if (rc == TERRACE_ECORRUPT && *ret_given == 0)
			rc = TERRACE_MISS;
		if (rc == TERRACE_OK && size > 0)
			*ret_sink = sink(ctx, terrace_bytes(piece, size));
		if (rc != TERRACE_OK || *ret_sink != 0)
			break;
		*ret_given += size;
		offset += size;
		length -= size;
	}
	free(piece);
	return rc;
}

int terrace__give_to(terrace_cache *cache, terrace_slice key, uint64_t offset, uint64_t length,
                     terrace_sink_fn *sink, void *ctx, uint64_t *ret_given, int *ret_sink)
{
	terrace_reader *reader;
	int rc = terrace__reader_open(cache, key, &reader);

	*ret_given = 0;
	*ret_sink = 0;
	if (rc != TERRACE_OK)
		return rc;
	rc = give(reader, offset, length, sink, ctx, ret_given, ret_sink);
	terrace__reader_close(reader);
	return rc;
}

int terrace_get_to(terrace_cache *cache, terrace_slice key, uint64_t offset, uint64_t length,
                   terrace_sink_fn *sink, void *ctx, uint64_t *ret)
{
	uint64_t given;
	int rc = terrace__check_cache(cache), sink_rc;

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc != TERRACE_OK)
		return rc;
	if (holds_nothing(cache))
		return TERRACE_MISS;
	rc = terrace__give_to(cache, key, offset, length, sink, ctx, &given, &sink_rc);
	if (sink_rc != 0)
		return sink_rc;
	if (rc == TERRACE_ABSENT)
		return TERRACE_MISS;
	if (ret && (rc == TERRACE_OK || rc == TERRACE_ECORRUPT))
		*ret = given;
	return rc;
}

static int fd_sink(void *ctx, terrace_slice bytes)
{
	const int *fd = ctx;
	const char *at = bytes.data;

	for (size_t left = bytes.size; left > 0;) {
		ssize_t n = write(*fd, at, left);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return terrace_fail(TERRACE_EIO,
			                    "cannot write the value to descriptor %d: %s", *fd,
			                    strerror(errno));
		at += n;
		left -= (size_t)n;
	}
	return TERRACE_OK;
}

int terrace_get_fd(terrace_cache *cache, terrace_slice key, uint64_t offset, uint64_t length,
                   int fd, uint64_t *ret)
{
	return terrace_get_to(cache, key, offset, length, fd_sink, &fd, ret);
}
