/* Writing: put, add, count up, delete, touch. */
#include "core/lookup.h"

#include "core/alone.h"
#include "core/behind.h"
#include "core/entries.h"
#include "core/events.h"
#include "core/flight.h"
#include "core/immediate.h"
#include "core/keeper.h"
#include "core/spool.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <stdio.h>
#include <stdlib.h>

struct write_lease terrace__lease_take(struct terrace_cache *cache, terrace_slice key)
{
	struct tier_key hashed = cache_key(cache, key);

	/* Nothing will be stored, but others may join what is computed. */
	if (!cache->tiers)
		return (struct write_lease){ .bulk = atomic_load(&cache->unkept) };
	return (struct write_lease){
		.version = version_load(cache->store->shared, hashed.slot),
		.bulk = atomic_load(&cache->shared->bulk),
		.epoch = atomic_load(&cache->shared->epoch),
	};
}

/* --- put ----------------------------------------------------------------------------------------- */

static terrace_reason rejected_reason(int rc)
{
	return rc == TERRACE_ETOOBIG || rc == TERRACE_EFULL ? TERRACE_REASON_REJECTED :
	                                                      TERRACE_REASON_DELETED;
}

/* The value could not be stored: at least the older one must not stay. */
static void as_delete(struct terrace_cache *cache, struct write *write, int rc)
{
	struct tier_key key = write->put.key;

	terrace__write_done(write);
	*write = (struct write){
		.kind = WRITE_DELETE,
		.cache = cache,
		.put.key = key,
		.file_fd = -1,
		.note = { .reason = rejected_reason(rc),
		          .when = terrace__now(cache->store),
		          .detail = rc == TERRACE_ETOOBIG ? "too large" : "could not be written" },
	};
}

/* Make a write of an item; its rc says when it cannot be one. */
static void prepare(struct terrace_cache *cache, struct put_item *item, struct write *write)
{
	*write = (struct write){
		.kind = item->kind,
		.cache = cache,
		.put.key = cache_key(cache, item->key),
		.file_fd = -1,
		.lease = item->lease,
	};
	terrace__count_what_waits(cache, item->entry->value_size);
	item->rc = terrace__entry_encode(cache, entry_ref(item->entry), write);
	if (item->rc == TERRACE_ETOOBIG)
		count_add(&cache->counts, COUNT_rejected, 1);
	if (item->rc != TERRACE_OK)
		as_delete(cache, write, item->rc);
}

/* After the commit: the copy in memory. */
static void keep_copy(struct terrace_cache *cache, const struct write *write, struct entry *entry,
                      uint64_t epoch, enum put_shape shape, struct entry **ret_decoded)
{
	const struct tier_key *key = &write->put.key;

	/* What its lease was outdated by may be there alone. */
	if (write->lease && write->rc == TERRACE_MISS)
		return;
	if (!write->stamp || write->kind == WRITE_DELETE) {
		terrace__memory_forget(cache, key);
		return;
	}
	atomic_store(&entry->stamp, write->stamp);
	atomic_store(&entry->epoch, epoch);
	if (cache->has_form) {
		terrace__memory_forget(cache, key);
		if (cache->encoded)
			terrace__encoded_keep(cache, key, entry, NULL);
		/* Who computed it goes on with the object: it is decoded once, here. */
		if (shape == SHAPE_DECODED &&
		    terrace__entry_in_form(cache, entry, ret_decoded) == TERRACE_OK) {
			struct tier_put put = { .key = *key, .entry = *ret_decoded };

			if (put.entry == entry)
				entry_ref(entry);
			if (cache->memory)
				terrace__memory_keep(cache, &put, NULL);
		}
	} else if (cache->memory) {
		struct tier_put put = { .key = *key, .entry = entry };

		terrace__memory_keep(cache, &put, NULL);
	}
}

/* As many as there may be files open; how many. */
static size_t prepare_some(struct terrace_cache *cache, struct put_item *items,
                           struct write *writes, size_t count)
{
	size_t done = 0, files = 0;

	while (done < count && files < FILES_AT_ONCE) {
		prepare(cache, &items[done], &writes[done]);
		files += writes[done++].file_fd >= 0;
	}
	return done;
}

/* How many of them are done; in one transaction. */
static size_t disk_put_some(struct terrace_cache *cache, struct put_item *items,
                            struct write *writes, size_t count)
{
	uint64_t epoch = atomic_load(&cache->shared->epoch);
	bool failed = false;

	count = prepare_some(cache, items, writes, count);
	terrace__write(cache->store, writes, count);
	for (size_t i = 0; i < count; i++) {
		if (writes[i].kind != WRITE_DELETE)
			items[i].rc = writes[i].rc;
		keep_copy(cache, &writes[i], items[i].entry, epoch, items[i].shape,
		          &items[i].decoded);
		/* Who could not get the lock has changed nothing, and would only wait again. */
		if (writes[i].rc < 0 && writes[i].rc != TERRACE_EBUSY) {
			as_delete(cache, &writes[i], writes[i].rc);
			failed = true;
		}
	}
	/* Once more, for what failed alone; the others are no longer there to fail with. */
	for (size_t i = 0; i < count && failed; i++) {
		if (writes[i].kind == WRITE_DELETE && items[i].rc < 0)
			terrace__write(cache->store, &writes[i], 1);
	}
	return count;
}

static void disk_put(struct terrace_cache *cache, struct put_item *items, struct write *writes,
                     size_t count)
{
	for (size_t done = 0; done < count;)
		done += disk_put_some(cache, items + done, writes + done, count - done);
}

/* Let it wait. False when it has to be written through. */
static bool behind_put(struct terrace_cache *cache, struct put_item *item, bool single)
{
	struct tier_key key = cache_key(cache, item->key);
	int rc;

	if (item->kind != WRITE_PUT || !(single || cache->write_behind))
		return false;
	rc = terrace__behind_put(cache, &key, item->entry, item->lease);
	if (rc == TERRACE_EXISTS)
		return false;
	item->rc = rc;
	if (rc != TERRACE_OK)
		return true;
	if (cache->has_form)
		terrace__memory_forget(cache, &key);
	if (cache->has_form && cache->encoded) {
		terrace__encoded_keep(cache, &key, item->entry, NULL);
	} else if (!cache->has_form && cache->memory) {
		struct tier_put put = { .key = key, .entry = item->entry };

		terrace__memory_keep(cache, &put, NULL);
	}
	return true;
}

static void add_to_disk(struct terrace_cache *cache, struct put_item *item)
{
	struct write write;

	disk_put(cache, item, &write, 1);
	terrace__write_done(&write);
}

static void store_items(struct terrace_cache *cache, struct put_item *items, struct write *writes,
                        size_t count)
{
	bool single = count == 1;

	if (UNLIKELY(count > 0 && items->immediate)) {
		for (size_t i = 0; i < count; i++)
			terrace__immediate_put(cache, &items[i]);
		return;
	}
	if (UNLIKELY(atomic_load_explicit(&cache->has_immediate, memory_order_relaxed)) &&
	    count > 0 && items->kind == WRITE_ADD && !items->lease) {
		terrace__immediate_add_beside(cache, items, add_to_disk);
		return;
	}
	/* What is written through comes after what waits: its slots are looked at. */
	while (count > 0 && cache->on_disk && behind_put(cache, items, single)) {
		items++;
		count--;
	}
	if (count > 0 && cache->on_disk) {
		atomic_fetch_add(&cache->store->behind.through, 1);
		disk_put(cache, items, writes, count);
		atomic_fetch_sub(&cache->store->behind.through, 1);
		for (size_t i = 0; i < count; i++)
			terrace__write_done(&writes[i]);
		return;
	}
	for (size_t i = 0; i < count; i++) {
		items[i].rc = terrace__alone_put(cache, &items[i]);
		if (items[i].rc == TERRACE_ETOOBIG) {
			count_add(&cache->counts, COUNT_rejected, 1);
			terrace__note_put(cache->store, items[i].hashed.hash,
			                  TERRACE_REASON_REJECTED, terrace__now(cache->store),
			                  "too large");
		}
	}
}

/* Looking at the clock twice is a good part of a put into memory: one of 16 is timed. */
bool terrace__put_is_timed(const struct terrace_cache *cache)
{
	static __attribute__((tls_model("initial-exec"))) _Thread_local unsigned turn;

	return cache->on_disk || turn++ % 16 == 0;
}

int terrace__put_many(struct terrace_cache *cache, struct put_item *items, size_t count,
                      const terrace_put_options *options)
{
	static const terrace_put_options none;
	CLEANUP(terrace__buf_done) struct buf extra = { 0 };
	bool immediate;
	int rc;

	if (!options)
		options = &none;
	immediate = terrace__is_immediate(cache, options->strategy);
	for (size_t i = 0; i < count; i++) {
		items[i].entry = items[i].decoded = NULL;
		items[i].immediate = immediate;
	}
	rc = terrace__extra_pack(options, &extra);
	if (rc != TERRACE_OK)
		return rc;
	return terrace__put_packed(cache, items, count, terrace_bytes(extra.data, extra.size),
	                           options->ttl_ms, options->idle_ms, options->cost_us);
}

int terrace__put_packed(struct terrace_cache *cache, struct put_item *items, size_t count,
                        terrace_slice extra, int64_t ttl_ms, int64_t idle_ms, uint64_t cost_us)
{
	bool timed = terrace__put_is_timed(cache);
	uint64_t start = timed ? terrace__now_ns() : 0;
	struct write single, *writes = &single;
	uint64_t stored = 0;
	int rc = TERRACE_OK;

	if (count > 1) {
		writes = calloc(count, sizeof *writes);
		rc = writes ? TERRACE_OK : no_memory("a batch of writes");
	}
	for (size_t i = 0; i < count && rc == TERRACE_OK; i++) {
		items[i].hashed = cache_key_soon(cache, items[i].key);
		if (cache->memory)
			cache->memory_ops->soon_put(cache->memory, &items[i].hashed);
		rc = terrace__entry_make(cache, &items[i].hashed, items[i].value, extra, ttl_ms,
		                         idle_ms, cost_us, &items[i].entry);
		if (rc == TERRACE_OK && items[i].absent)
			items[i].entry->kind = ENTRY_ABSENT;
	}
	if (rc == TERRACE_OK)
		store_items(cache, items, writes, count);
	if (timed)
		keeper_at(cache->store, start);
	for (size_t i = 0; i < count && rc >= 0; i++) {
		if (items[i].rc == TERRACE_OK) {
			count_add(&cache->counts, COUNT_puts, 1);
			event_of_key(cache, TERRACE_EVENT_PUT, items[i].key, 0);
			stored++;
			if (timed)
				terrace__count_time(&cache->counts, TIME_put,
				                    (terrace__now_ns() - start) / count);
		} else if (items[i].rc < 0) {
			rc = items[i].rc;
			if (rc != TERRACE_ETOOBIG && rc != TERRACE_EINVAL)
				terrace__swallow(cache->store, cache, "storing");
		}
	}
	if (count > 1)
		event_of_many(cache, TERRACE_EVENT_BATCH, 0, stored);
	if (writes != &single)
		free(writes);
	return rc;
}

void terrace__put_failed(struct terrace_cache *cache, terrace_slice key,
                         const struct write_lease *lease, int rc)
{
	struct write write = { .put.key = cache_key(cache, key) };
	uint64_t deleted;

	if (rc == TERRACE_ETOOBIG)
		count_add(&cache->counts, COUNT_rejected, 1);
	else
		terrace__swallow(cache->store, cache, "storing");
	if (!cache->on_disk) {
		if (!atomic_load(lease->outdated))
			terrace__delete_many(cache, &key, 1, &deleted);
		return;
	}
	as_delete(cache, &write, rc);
	write.until = lease->since;
	terrace__write(cache->store, &write, 1);
	terrace__memory_forget(cache, &write.put.key);
}

int terrace__put_written(struct terrace_cache *cache, struct write *write)
{
	int rc;

	terrace__write(cache->store, write, 1);
	rc = write->rc;
	/* What is newer than it may be there alone. */
	if (rc != TERRACE_MISS)
		terrace__memory_forget(cache, &write->put.key);
	if (rc == TERRACE_OK) {
		count_add(&cache->counts, COUNT_puts, 1);
		event_of_key(cache, TERRACE_EVENT_PUT, write->put.key.key, 0);
	} else if (rc < 0 && rc != TERRACE_EBUSY) {
		terrace__put_failed(cache, write->put.key.key, write->lease, rc);
	}
	return rc;
}

int terrace__put_absent(struct terrace_cache *cache, terrace_slice key,
                        const terrace_put_options *options, const struct write_lease *lease)
{
	struct put_item item = { .key = key, .lease = lease, .kind = WRITE_PUT, .absent = true };
	int rc = terrace__put_many(cache, &item, 1, options);

	entry_unref(item.entry);
	return rc == TERRACE_OK ? item.rc : rc;
}

int terrace__put_shaped(struct terrace_cache *cache, terrace_slice key, terrace_slice value,
                        const terrace_put_options *options, const struct write_lease *lease,
                        enum put_shape shape, struct entry **ret)
{
	struct put_item item = {
		.key = key,
		.value = value,
		.lease = lease,
		.kind = WRITE_PUT,
		.shape = shape,
	};
	int rc = terrace__put_many(cache, &item, 1, options);

	if (rc == TERRACE_OK)
		rc = item.rc;
	if (item.decoded) {
		entry_unref(item.entry);
		item.entry = item.decoded;
	}
	if (ret && item.entry)
		*ret = item.entry;
	else
		entry_unref(item.entry);
	return rc;
}

int terrace__put(struct terrace_cache *cache, terrace_slice key, terrace_slice value,
                 const terrace_put_options *options, const struct write_lease *lease,
                 struct entry **ret)
{
	return terrace__put_shaped(cache, key, value, options, lease, SHAPE_ANY, ret);
}

int terrace__incr(struct terrace_cache *cache, terrace_slice key, int64_t delta, int64_t initial,
                  int64_t *ret)
{
	struct write write = {
		.kind = WRITE_NUMBER,
		.cache = cache,
		.put.key = cache_key(cache, key),
		.file_fd = -1,
		.delta = delta,
		.initial = initial,
	};
	uint64_t epoch = atomic_load(&cache->shared->epoch);
	int rc;

	rc = cache->on_disk ? terrace__immediate_incr(cache, &write) : TERRACE_MISS;
	if (cache->on_disk && rc == TERRACE_MISS) {
		write.in_memory = false;
		terrace__write(cache->store, &write, 1);
		rc = write.rc;
		if (rc == TERRACE_OK)
			keep_copy(cache, &write, write.put.entry, epoch, SHAPE_ANY, NULL);
	} else if (!cache->on_disk) {
		rc = terrace__alone_incr(cache, &write);
	}
	if (rc == TERRACE_OK) {
		count_add(&cache->counts, COUNT_puts, 1);
		event_of_key(cache, TERRACE_EVENT_PUT, key, 0);
		if (ret)
			*ret = write.sum;
	}
	terrace__write_done(&write);
	return rc;
}

/* --- delete, touch ---------------------------------------------------------------------------------- */

static int disk_delete(struct terrace_cache *cache, const terrace_slice *keys, size_t count,
                       uint64_t *ret_deleted)
{
	struct write single, *writes = &single;
	int64_t now = terrace__now(cache->store);
	struct entry *alone;
	int rc;

	if (count > 1) {
		writes = calloc(count, sizeof *writes);
		if (!writes)
			return no_memory("a batch of writes");
	}
	for (size_t i = 0; i < count; i++) {
		writes[i] = (struct write){
			.kind = WRITE_DELETE,
			.cache = cache,
			.put.key = cache_key(cache, keys[i]),
			.file_fd = -1,
			.note = { .reason = TERRACE_REASON_DELETED, .when = now },
		};
		alone = terrace__immediate_find(cache, &writes[i].put.key);
		*ret_deleted += alone != NULL;
		entry_unref(alone);
	}
	rc = terrace__write(cache->store, writes, count);
	for (size_t i = 0; i < count; i++) {
		terrace__memory_forget(cache, &writes[i].put.key);
		*ret_deleted += writes[i].rc == TERRACE_OK;
	}
	if (writes != &single)
		free(writes);
	return rc;
}

int terrace__delete_many(struct terrace_cache *cache, const terrace_slice *keys, size_t count,
                         uint64_t *ret_count)
{
	uint64_t deleted = 0;
	int rc = TERRACE_OK;

	if (cache->on_disk)
		rc = disk_delete(cache, keys, count, &deleted);
	else
		deleted = terrace__alone_delete(cache, keys, count);
	count_add(&cache->counts, COUNT_deletes, deleted);
	*ret_count = deleted;
	return rc;
}

int terrace__touch(struct terrace_cache *cache, terrace_slice key, int64_t ttl_ms)
{
	struct write write = {
		.kind = WRITE_TOUCH,
		.cache = cache,
		.put.key = cache_key(cache, key),
		.file_fd = -1,
	};
	struct entry *alone;

	write.now = terrace__now(cache->store);
	write.expires = terrace__expires(cache, &write.put.key, write.now, ttl_ms, &write.ttl);
	alone = cache->on_disk ? terrace__immediate_find(cache, &write.put.key) : NULL;
	entry_unref(alone);
	if (cache->on_disk && !alone) {
		terrace__write(cache->store, &write, 1);
		terrace__memory_forget(cache, &write.put.key);
		return write.rc;
	}
	return terrace__alone_touch(cache, &write);
}
