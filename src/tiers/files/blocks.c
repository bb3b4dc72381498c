#include "tiers/files/blocks.h"

#include "codec/codec.h"
#include "tiers/files/files.h"
#include "tiers/status.h"
#include "util/fs.h"
#include "util/util.h"

#include <stdlib.h>
#include <unistd.h>

enum { GROUP_BLOCKS = 1024 };
enum { TABLE_ENTRY = 24, ROOT_ENTRY = 24 };

static void append_sum(struct buf *out, terrace_slice bytes)
{
	uint8_t sum[16];

	terrace__record_sum(bytes, sum);
	terrace__buf_append(out, sum, sizeof sum);
}

static bool sum_holds(terrace_slice bytes, const uint8_t *expected)
{
	uint8_t sum[16];

	terrace__record_sum(bytes, sum);
	return memcmp(sum, expected, sizeof sum) == 0;
}

static terrace_slice slice_of(const struct buf *buf)
{
	return terrace_bytes(buf->data, buf->size);
}

/* --- writing ------------------------------------------------------------------- */

int terrace__block_writer_new(int fd, uint64_t number, terrace_codec codec,
                              struct block_writer **ret)
{
	struct block_writer *writer = calloc(1, sizeof *writer);

	if (!writer)
		return no_memory("a value in blocks");
	writer->fd = fd;
	writer->number = number;
	writer->codec = codec;
	*ret = writer;
	return TERRACE_OK;
}

static int write_at(struct block_writer *writer, terrace_slice bytes, uint64_t at)
{
	int rc = terrace__write_full(writer->fd, bytes.data, bytes.size, (off_t)at);

	return rc < 0 ? terrace__files_failed(-rc, "write", writer->number) : TERRACE_OK;
}

static int end_group(struct block_writer *writer)
{
	terrace_slice table = slice_of(&writer->table);
	int rc = write_at(writer, table, writer->at);

	if (rc != TERRACE_OK)
		return rc;
	terrace__buf_u64(&writer->root, writer->at);
	append_sum(&writer->root, table);
	writer->at += table.size;
	writer->table.size = 0;
	return writer->root.failed ? no_memory("a file of blocks") : TERRACE_OK;
}

int terrace__block_writer_add(struct block_writer *writer, terrace_slice bytes)
{
	terrace_codec codec;
	int rc = TERRACE_OK;

	if (writer->table.size == GROUP_BLOCKS * TABLE_ENTRY)
		rc = end_group(writer);
	if (rc != TERRACE_OK)
		return rc;
	writer->encoded.size = 0;
	codec = terrace__codec_encode(writer->codec, NULL, bytes, &writer->encoded);
	if (codec != TERRACE_CODEC_NONE) {
		bytes = slice_of(&writer->encoded);
		writer->shrunk = true;
	}
	rc = write_at(writer, bytes, writer->at);
	if (rc != TERRACE_OK)
		return rc;
	writer->at += bytes.size;
	terrace__buf_u32(&writer->table, (uint32_t)bytes.size);
	terrace__buf_u32(&writer->table, codec);
	append_sum(&writer->table, bytes);
	return writer->table.failed ? no_memory("a file of blocks") : TERRACE_OK;
}

uint64_t terrace__block_writer_stored(const struct block_writer *writer)
{
	return writer->at;
}

int terrace__block_writer_end(struct block_writer *writer, struct record *record)
{
	CLEANUP(terrace__buf_done) struct buf head = { 0 };
	int rc = writer->table.size ? end_group(writer) : TERRACE_OK;

	if (rc == TERRACE_OK)
		rc = write_at(writer, slice_of(&writer->root), writer->at);
	if (rc != TERRACE_OK)
		return rc;
	record->flags |= RECORD_BLOCKS;
	record->codec = (uint8_t)(writer->shrunk ? writer->codec : TERRACE_CODEC_NONE);
	record->payload_size = writer->at + writer->root.size;
	terrace__record_sum(slice_of(&writer->root), record->payload_sum);
	terrace__record_write(record, &head);
	if (head.failed)
		return no_memory("a value in blocks");
	return write_at(writer, slice_of(&head), record->payload_size);
}

void terrace__block_writer_free(struct block_writer *writer)
{
	if (!writer)
		return;
	terrace__fd_done(&writer->fd);
	terrace__buf_done(&writer->encoded);
	terrace__buf_done(&writer->table);
	terrace__buf_done(&writer->root);
	free(writer);
}

/* --- reading ------------------------------------------------------------------- */

/* Exactly so many bytes of the payload, whose sum is known. */
static int read_checked(struct block_reader *reader, void *ret, uint64_t size, uint64_t at,
                        const uint8_t *sum)
{
	size_t got = 0;
	int rc;

	if (at > reader->payload_size || size > reader->payload_size - at)
		return TERRACE_ECORRUPT;
	rc = terrace__read_full(reader->fd, ret, (size_t)size, (off_t)at, &got);
	if (rc < 0)
		return terrace__files_failed(-rc, "read", reader->number);
	return got == size && sum_holds(terrace_bytes(ret, got), sum) ? TERRACE_OK :
	                                                                TERRACE_ECORRUPT;
}

/* The same into a buffer in place of what it holds. */
static int load(struct block_reader *reader, struct buf *buf, uint64_t size, uint64_t at,
                const uint8_t *sum)
{
	int rc;

	buf->size = 0;
	if (!terrace__buf_reserve(buf, (size_t)size)) {
		buf->failed = false;
		return no_memory("a value in blocks");
	}
	rc = read_checked(reader, buf->data, size, at, sum);
	buf->size = rc == TERRACE_OK ? (size_t)size : 0;
	return rc;
}

int terrace__block_reader_new(int fd, uint64_t number, const struct record *record,
                              struct block_reader **ret)
{
	struct block_reader *reader = calloc(1, sizeof *reader);
	uint64_t groups, root_size;
	int rc = TERRACE_ECORRUPT;

	if (!reader)
		return no_memory("a value in blocks");
	reader->fd = fd;
	reader->number = number;
	reader->group = UINT64_MAX;
	reader->value_size = record->value_size;
	reader->payload_size = record->payload_size;
	reader->count = terrace__record_blocks(record);
	groups = (reader->count + GROUP_BLOCKS - 1) / GROUP_BLOCKS;
	root_size = groups * ROOT_ENTRY;
	if (root_size <= record->payload_size)
		rc = load(reader, &reader->root, root_size, record->payload_size - root_size,
		          record->payload_sum);
	if (rc != TERRACE_OK) {
		reader->fd = -1; /* is still the caller's */
		terrace__block_reader_free(reader);
		return rc;
	}
	*ret = reader;
	return TERRACE_OK;
}

static uint64_t table_at(const struct block_reader *reader, uint64_t group)
{
	struct reader entry = terrace__reader(reader->root.data + group * ROOT_ENTRY, ROOT_ENTRY);

	return terrace__read_u64(&entry);
}

static int load_table(struct block_reader *reader, uint64_t group)
{
	uint64_t blocks = min_u64(reader->count - group * GROUP_BLOCKS, GROUP_BLOCKS);
	int rc;

	if (reader->group == group)
		return TERRACE_OK;
	reader->group = UINT64_MAX;
	rc = load(reader, &reader->table, blocks * TABLE_ENTRY, table_at(reader, group),
	          reader->root.data + group * ROOT_ENTRY + 8);
	if (rc == TERRACE_OK)
		reader->group = group;
	return rc;
}

uint64_t terrace__block_reader_size(const struct block_reader *reader)
{
	return reader->value_size;
}

int terrace__block_reader_read(struct block_reader *reader, uint64_t index, void *ret)
{
	uint64_t group = index / GROUP_BLOCKS, within = index % GROUP_BLOCKS;
	size_t size = (size_t)min_u64(reader->value_size - index * BLOCK_BYTES, BLOCK_BYTES);
	uint64_t at = 0, stored = 0;
	struct reader entries;
	uint32_t codec = 0;
	int rc = load_table(reader, group);

	if (rc != TERRACE_OK)
		return rc;
	if (group > 0)
		at = table_at(reader, group - 1) + GROUP_BLOCKS * TABLE_ENTRY;
	entries = terrace__reader(reader->table.data, reader->table.size);
	for (uint64_t i = 0; i < within; i++) {
		at += terrace__read_u32(&entries);
		terrace__read_bytes(&entries, TABLE_ENTRY - 4);
	}
	stored = terrace__read_u32(&entries);
	codec = terrace__read_u32(&entries);
	if (stored > BLOCK_BYTES || (codec == TERRACE_CODEC_NONE && stored != size))
		return TERRACE_ECORRUPT;
	if (codec == TERRACE_CODEC_NONE)
		return read_checked(reader, ret, size, at, entries.at);
	rc = load(reader, &reader->encoded, stored, at, entries.at);
	if (rc != TERRACE_OK)
		return rc;
	return terrace__codec_decode(codec, slice_of(&reader->encoded), ret, size);
}

void terrace__block_reader_free(struct block_reader *reader)
{
	if (!reader)
		return;
	terrace__fd_done(&reader->fd);
	terrace__buf_done(&reader->root);
	terrace__buf_done(&reader->table);
	terrace__buf_done(&reader->encoded);
	free(reader);
}
