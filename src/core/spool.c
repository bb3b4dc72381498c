#include "core/spool.h"

#include "core/behind.h"
#include "tiers/status.h"
#include "util/message.h"
#include "util/util.h"

/* The lower one; 0: none. */
static uint64_t limit_of(const struct terrace_cache *cache)
{
	const struct terrace *store = cache->store;

	if (cache->disk_bytes && store->disk_bytes)
		return min_u64(cache->disk_bytes, store->disk_bytes);
	return cache->disk_bytes ? cache->disk_bytes : store->disk_bytes;
}

bool terrace__counts_what_waits(const struct terrace_cache *cache, uint64_t size)
{
	uint64_t limit = limit_of(cache);

	return limit && size > limit / 8;
}

void terrace__count_what_waits(struct terrace_cache *cache, uint64_t size)
{
	/* Who makes rows of what waits would wait for himself. */
	if (terrace__counts_what_waits(cache, size) && !terrace__write_leads(cache->store) &&
	    !terrace__behind_flushes(cache->store))
		terrace__behind_settle_all(cache->store);
}

/* For a limit of one cache or of all of them; 0 is none. */
static bool is_too_big(const struct terrace *store, uint32_t whose, uint64_t limit, uint64_t size)
{
	return limit && size > limit / 8 && terrace__room_used(store, whose) + size > limit;
}

bool terrace__too_big_for_disk(const struct terrace_cache *cache, uint64_t stored_size)
{
	const struct terrace *store = cache->store;

	if (!is_too_big(store, cache->number, cache->disk_bytes, stored_size) &&
	    !is_too_big(store, DISK_ANY_CACHE, store->disk_bytes, stored_size))
		return false;
	terrace__message_set(
	    "a value of %llu bytes or more is over an eighth of the disk limit of cache "
	    "%s or of its store, and that much is not free; raise disk_bytes",
	    (unsigned long long)stored_size, cache->name);
	return true;
}

static int free_space(struct terrace *store, void *ctx)
{
	(void)ctx;
	return terrace__free_space(store, false, 0) ? TERRACE_OK : TERRACE_MISS;
}

/*
 * On a full disk: is it worth trying once more? Within a transaction files go when it ends, and
 * who has the writers' lock already would wait for himself.
 */
static bool made_room(struct terrace_cache *cache, int rc)
{
	return rc == TERRACE_EFULL && !terrace__transaction_mine(cache->store) &&
	       !terrace__write_leads(cache->store) &&
	       terrace__write_alone(cache->store, free_space, NULL) == TERRACE_OK;
}

/* --- whole ---------------------------------------------------------------------- */

static int try_whole(struct terrace_cache *cache, struct write *write, terrace_slice head)
{
	struct terrace *store = cache->store;
	int rc;

	do {
		write->put.file = terrace__draw(store->shared);
		rc = store->disk_ops->file_write(store->disk, write->put.file, head,
		                                 write->put.payload, &write->file_fd);
	} while (rc == TERRACE_EXISTS); /* left by a store that was set aside */
	if (rc != TERRACE_OK)
		write->put.file = 0;
	return rc;
}

int terrace__spool_whole(struct terrace_cache *cache, struct write *write)
{
	CLEANUP(terrace__buf_done) struct buf buf = { 0 };
	terrace_slice head;
	int rc;

	terrace__record_write(&write->record, &buf);
	if (buf.failed)
		return no_memory("a file");
	head = terrace_bytes(buf.data, buf.size);
	rc = try_whole(cache, write, head);
	/* A number is written within a transaction, which is tried again as a whole. */
	if (write->kind != WRITE_NUMBER && made_room(cache, rc))
		rc = try_whole(cache, write, head);
	return rc;
}

/* --- block by block --------------------------------------------------------------- */

static int try_open(struct spool *spool, terrace_codec codec)
{
	struct terrace *store = spool->cache->store;
	int rc;

	do {
		spool->file = terrace__draw(store->shared);
		rc = store->disk_ops->blocks_new(store->disk, spool->file, codec, &spool->blocks);
	} while (rc == TERRACE_EXISTS);
	return rc;
}

static int open_spool(struct spool *spool, terrace_slice first)
{
	terrace_codec codec = terrace__codecs_for_blocks(spool->cache, first);
	int rc = try_open(spool, codec);

	return made_room(spool->cache, rc) ? try_open(spool, codec) : rc;
}

int terrace__spool_add(struct spool *spool, terrace_slice bytes)
{
	const struct disk_ops *ops = spool->cache->store->disk_ops;
	int rc = spool->blocks ? TERRACE_OK : open_spool(spool, bytes);

	if (rc != TERRACE_OK)
		return rc;
	rc = ops->block_add(spool->blocks, bytes);
	if (made_room(spool->cache, rc))
		rc = ops->block_add(spool->blocks, bytes);
	if (rc == TERRACE_OK)
		terrace__count_what_waits(spool->cache, ops->blocks_stored(spool->blocks));
	if (rc == TERRACE_OK &&
	    terrace__too_big_for_disk(spool->cache, ops->blocks_stored(spool->blocks)))
		rc = TERRACE_ETOOBIG;
	return rc;
}

int terrace__spool_keep(struct spool *spool, struct write *write)
{
	struct terrace *store = spool->cache->store;
	int rc = store->disk_ops->blocks_keep(store->disk, spool->blocks, &write->record,
	                                      &write->file_fd);

	if (made_room(spool->cache, rc))
		rc = store->disk_ops->blocks_keep(store->disk, spool->blocks, &write->record,
		                                  &write->file_fd);
	if (rc != TERRACE_OK)
		return rc;
	spool->blocks = NULL;
	write->put.file = spool->file;
	terrace__codecs_count(spool->cache, write->record.codec, write->record.value_size,
	                      write->record.payload_size);
	return TERRACE_OK;
}

void terrace__spool_drop(struct spool *spool)
{
	struct terrace *store;

	if (!spool->blocks)
		return;
	store = spool->cache->store;
	store->disk_ops->blocks_drop(store->disk, spool->blocks);
	spool->blocks = NULL;
}
