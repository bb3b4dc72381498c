#include "core/stream.h"

#include "core/entries.h"
#include "core/flight.h"
#include "core/immediate.h"
#include "core/lookup.h"
#include "tiers/status.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <inttypes.h>
#include <stdlib.h>

/* --- writing --------------------------------------------------------------------- */

/*
 * What a value computed under a lease depends on is older than the writer: the
 * cache's, and where it is the lease's own key also that key's.
 */
static void take_over(struct terrace_lease *watch, const struct terrace_lease *lease)
{
	watch->lease.bulk = lease->lease.bulk;
	watch->lease.epoch = lease->lease.epoch;
	if (watch->key.size != lease->key.size ||
	    memcmp(watch->key.data, lease->key.data, lease->key.size) != 0)
		return;
	watch->lease.version = lease->lease.version;
	if (atomic_load(&lease->outdated))
		atomic_store(&watch->outdated, true);
}

int terrace__writer_open(struct terrace_cache *cache, terrace_slice key,
                         const terrace_put_options *options, struct terrace_writer **ret)
{
	struct terrace_writer *writer = calloc(1, sizeof *writer);
	int rc;

	if (!writer)
		return no_memory("a value");
	writer->cache = writer->spool.cache = cache;
	rc = terrace__writer_carry(writer, options);
	if (rc == TERRACE_OK)
		rc = terrace__lease_watch(cache, key, &writer->watch);
	if (rc != TERRACE_OK) {
		terrace__writer_drop(writer);
		return rc;
	}
	if (cache->on_disk)
		writer->watch->lease.since = terrace__draw(cache->store->shared);
	if (options->lease)
		take_over(writer->watch, options->lease);
	*ret = writer;
	return TERRACE_OK;
}

int terrace__writer_carry(struct terrace_writer *writer, const terrace_put_options *options)
{
	writer->ttl_ms = options->ttl_ms;
	writer->idle_ms = options->idle_ms;
	writer->cost_us = options->cost_us;
	writer->extra.size = 0;
	writer->immediate = terrace__is_immediate(writer->cache, options->strategy);
	if (writer->immediate && writer->spool.blocks) {
		terrace__message_set(
		    "a value over %d KiB was on its way to the disk when its loader "
		    "asked for memory alone; say so before",
		    BLOCK_BYTES >> 10);
		return TERRACE_ETOOBIG;
	}
	return terrace__extra_pack(options, &writer->extra);
}

static bool has_disk(const struct terrace_writer *writer)
{
	return writer->cache->on_disk && !writer->immediate;
}

static int gather(struct terrace_writer *writer, terrace_slice bytes)
{
	struct terrace_cache *cache = writer->cache;

	/* What will not fit need not be gathered; what a form makes of it nobody knows. */
	if (!has_disk(writer) && !cache->has_form && !terrace__memory_fits(cache, writer->size))
		return TERRACE_ETOOBIG;
	terrace__buf_append(&writer->gathered, bytes.data, bytes.size);
	if (!writer->gathered.failed)
		return TERRACE_OK;
	terrace__message_set("out of memory for a value of %" PRIu64 " bytes", writer->size);
	return TERRACE_ENOMEM;
}

/* A block goes to the file when there is more behind it: one alone is put as any value is. */
static int take(struct terrace_writer *writer, terrace_slice bytes)
{
	int rc = TERRACE_OK;

	writer->size += bytes.size;
	if (!has_disk(writer))
		return gather(writer, bytes);
	/* However small it becomes, nobody could read it. */
	rc = terrace__value_fits(writer->cache->store, writer->size);
	while (bytes.size > 0 && rc == TERRACE_OK) {
		size_t size = (size_t)min_u64(bytes.size, BLOCK_BYTES - writer->gathered.size);

		if (size == BLOCK_BYTES && bytes.size > size) {
			rc = terrace__spool_add(&writer->spool, terrace_bytes(bytes.data, size));
		} else if (size == 0) {
			rc = terrace__spool_add(&writer->spool,
			                        terrace_bytes(writer->gathered.data, BLOCK_BYTES));
			writer->gathered.size = 0;
		} else {
			rc = gather(writer, terrace_bytes(bytes.data, size));
		}
		bytes = terrace_bytes((const char *)bytes.data + size, bytes.size - size);
	}
	return rc;
}

int terrace__writer_write(struct terrace_writer *writer, terrace_slice bytes)
{
	if (writer->failed == TERRACE_OK)
		writer->failed = take(writer, bytes);
	return writer->failed;
}

/* The rest of the file, and its row. */
static int commit_spooled(struct terrace_writer *writer)
{
	struct terrace_cache *cache = writer->cache;
	struct write write = {
		.kind = WRITE_PUT,
		.cache = cache,
		.put.key = cache_key(cache, writer->watch->key),
		.file_fd = -1,
		.lease = &writer->watch->lease,
	};
	uint64_t start = terrace__now_ns();
	int rc = terrace__spool_add(&writer->spool,
	                            terrace_bytes(writer->gathered.data, writer->gathered.size));

	if (rc == TERRACE_OK)
		rc = terrace__entry_make(cache, &write.put.key, terrace_bytes(NULL, 0),
		                         terrace_bytes(writer->extra.data, writer->extra.size),
		                         writer->ttl_ms, writer->idle_ms, writer->cost_us,
		                         &write.put.entry);
	if (rc == TERRACE_OK) {
		terrace__record_fill(cache->number, write.put.entry, &write.record);
		write.record.value_size = writer->size;
		rc = terrace__spool_keep(&writer->spool, &write);
	}
	if (rc == TERRACE_OK) {
		terrace__write_weigh(&write);
		rc = terrace__put_written(cache, &write);
	} else
		writer->failed = rc;
	terrace__write_done(&write);
	if (rc == TERRACE_OK)
		terrace__count_time(&cache->counts, TIME_put, terrace__now_ns() - start);
	return rc;
}

static int commit(struct terrace_writer *writer)
{
	struct put_item item = {
		.key = writer->watch->key,
		.value = terrace_bytes(writer->gathered.data, writer->gathered.size),
		.lease = &writer->watch->lease,
		.kind = WRITE_PUT,
		.immediate = writer->immediate,
	};
	int rc;

	if (writer->failed)
		return writer->failed;
	if (writer->spool.blocks)
		return commit_spooled(writer);
	rc = terrace__put_packed(writer->cache, &item, 1,
	                         terrace_bytes(writer->extra.data, writer->extra.size),
	                         writer->ttl_ms, writer->idle_ms, writer->cost_us);
	entry_unref(item.entry);
	return rc == TERRACE_OK ? item.rc : rc;
}

int terrace__writer_commit(struct terrace_writer *writer)
{
	int rc = commit(writer);

	/* As after a put that failed, the older value must not stay; a newer one may. */
	if (writer->failed)
		terrace__put_failed(writer->cache, writer->watch->key, &writer->watch->lease, rc);
	terrace__writer_drop(writer);
	return rc;
}

static void writer_free(struct terrace_writer *writer)
{
	terrace__buf_done(&writer->gathered);
	terrace__buf_done(&writer->extra);
	free(writer);
}

void terrace__writer_drop(struct terrace_writer *writer)
{
	terrace__spool_drop(&writer->spool);
	if (writer->watch)
		terrace__lease_end(writer->watch, NULL, 0);
	writer_free(writer);
}

void terrace__writer_forget(struct terrace_writer *writer)
{
	writer->cache->store->disk_ops->blocks_forget(writer->spool.blocks);
	/* Nobody walks the list of leases that it is in: every call of the child's fails. */
	free(writer->watch);
	writer_free(writer);
}

/* --- reading ---------------------------------------------------------------------- */

int terrace__reader_open(struct terrace_cache *cache, terrace_slice key,
                         struct terrace_reader **ret)
{
	struct terrace_reader *reader = calloc(1, sizeof *reader);
	int rc;

	if (!reader)
		return no_memory("a value");
	reader->cache = cache;
	reader->index = UINT64_MAX;
	rc = terrace__get_opened(cache, key, &reader->entry, &reader->blocks, &reader->size,
	                         &reader->tier);
	if (rc != TERRACE_OK) {
		free(reader);
		return rc;
	}
	*ret = reader;
	return TERRACE_OK;
}

/* The entry is removed, this write of it alone. */
static int found_damaged(struct terrace_reader *reader, uint64_t index)
{
	struct tier_key key = cache_key(reader->cache, entry_key_slice(reader->entry));

	if (!reader->failed)
		terrace__damaged(reader->cache, &key, entry_rest(reader->entry)->seq,
		                 "the checksum of one of its blocks did not hold");
	reader->failed = TERRACE_ECORRUPT;
	terrace__message_set("the value is damaged from byte %" PRIu64 " on, and was removed from "
	                     "cache %s; make it anew",
	                     index * BLOCK_BYTES, reader->cache->name);
	return TERRACE_ECORRUPT;
}

static int read_block(struct terrace_reader *reader, uint64_t index, void *ret)
{
	int rc = reader->cache->store->disk_ops->block_read(reader->blocks, index, ret);

	return rc == TERRACE_ECORRUPT ? found_damaged(reader, index) : rc;
}

/* Into the reader's own block, of which a part is wanted. */
static int load_block(struct terrace_reader *reader, uint64_t index)
{
	int rc;

	if (reader->index == index)
		return TERRACE_OK;
	reader->index = UINT64_MAX;
	if (!terrace__buf_reserve(&reader->block, BLOCK_BYTES))
		return no_memory("a value");
	rc = read_block(reader, index, reader->block.data);
	if (rc == TERRACE_OK)
		reader->index = index;
	return rc;
}

int terrace__reader_read(struct terrace_reader *reader, uint64_t offset, void *buffer, size_t size,
                         size_t *ret)
{
	uint8_t *out = buffer;
	size_t done = 0;
	int rc = TERRACE_OK;

	size = offset < reader->size ? (size_t)min_u64(size, reader->size - offset) : 0;
	if (!reader->blocks && size > 0) {
		memcpy(out, entry_value(reader->entry) + offset, size);
		done = size;
	}
	while (done < size && rc == TERRACE_OK) {
		uint64_t index = (offset + done) / BLOCK_BYTES;
		size_t within = (size_t)((offset + done) % BLOCK_BYTES);
		size_t length = (size_t)min_u64(BLOCK_BYTES, reader->size - index * BLOCK_BYTES);
		size_t part = (size_t)min_u64(size - done, length - within);

		if (part == length) {
			rc = read_block(reader, index, out + done);
		} else {
			rc = load_block(reader, index);
			if (rc == TERRACE_OK)
				memcpy(out + done, reader->block.data + within, part);
		}
		done += part;
	}
	if (rc == TERRACE_OK)
		*ret = done;
	return rc;
}

void terrace__reader_close(struct terrace_reader *reader)
{
	if (reader->blocks)
		reader->cache->store->disk_ops->blocks_close(reader->blocks);
	terrace__buf_done(&reader->block);
	entry_unref(reader->entry);
	free(reader);
}
