#include "core/entries.h"

#include "codec/codec.h"
#include "core/sources.h"
#include "util/message.h"
#include "util/util.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* A clock that went back by less than this is no reason to doubt an entry. */
enum { FUTURE_MS = 1000 };

int terrace__extra_pack(const terrace_put_options *options, struct buf *ret)
{
	uint32_t sources = options->sources ? options->sources->count : 0;

	if (options->tag_count == 0 && sources == 0)
		return TERRACE_OK;
	if (options->tag_count > TAGS_MAX) {
		terrace__message_set("an entry takes at most %d tags, not %zu", TAGS_MAX,
		                     options->tag_count);
		return TERRACE_EINVAL;
	}
	terrace__extra_counts(ret, (uint32_t)options->tag_count, sources);
	for (size_t i = 0; i < options->tag_count; i++) {
		terrace_slice tag = terrace_str(options->tags[i]);

		if (tag.size == 0 || tag.size > TERRACE_TAG_MAX) {
			terrace__message_set("a tag has 1 to %u bytes, not %zu", TERRACE_TAG_MAX,
			                     tag.size);
			return TERRACE_EINVAL;
		}
		terrace__extra_tag(ret, tag);
	}
	if (sources)
		terrace__buf_append(ret, options->sources->marks.data,
		                    options->sources->marks.size);
	if (ret->size > RECORD_HEAD_MAX / 2) {
		terrace__message_set("the sources of one entry take at most %d MiB of names",
		                     RECORD_HEAD_MAX / 2 >> 20);
		return TERRACE_EINVAL;
	}
	return ret->failed ? TERRACE_ENOMEM : TERRACE_OK;
}

/* So that what was stored together does not die together. */
static int64_t jittered(const struct terrace_cache *cache, int64_t ttl_ms)
{
	static _Atomic uint64_t turn;
	uint64_t number[] = { atomic_fetch_add(&turn, 1), cache->seed };
	double part = (double)(terrace__hash64(number, sizeof number, 0) >> 32) / 4294967296.0;

	return ttl_ms - (int64_t)((double)ttl_ms * cache->jitter / 100 * part);
}

int64_t terrace__expires(const struct terrace_cache *cache, int64_t now, int64_t ttl_ms,
                         int64_t *ret_ttl)
{
	if (ttl_ms == 0)
		ttl_ms = cache->ttl_ms;
	else if (ttl_ms == TERRACE_TTL_NONE)
		ttl_ms = 0;
	*ret_ttl = ttl_ms;
	if (cache->jitter && ttl_ms > 0)
		ttl_ms = jittered(cache, ttl_ms);
	return ttl_ms < 0 ? INT64_MAX : add_sat_i64(now, ttl_ms);
}

int terrace__entry_make(struct terrace_cache *cache, const struct tier_key *key,
                        terrace_slice value, terrace_slice extra, int64_t ttl_ms, uint64_t cost_us,
                        struct entry **ret)
{
	struct entry *entry = terrace__entry_new(key->key, value.size, extra);
	struct extra_walk walk;
	struct entry_rest *rest;
	int64_t now, ttl;

	if (!entry) {
		terrace__message_set("out of memory for a value of %zu bytes", value.size);
		return TERRACE_ENOMEM;
	}
	now = terrace__now(cache->store);
	terrace__extra_start(&walk, extra);
	entry->hash = key->hash;
	entry->codec = TERRACE_CODEC_NONE;
	entry->source_count = walk.sources;
	if (value.size)
		memcpy(entry_value(entry), value.data, value.size);
	rest = entry_rest(entry);
	rest->created = rest->stored = now;
	rest->cost_us = cost_us;
	rest->tag_count = (uint16_t)walk.tags;
	atomic_init(&rest->accessed, now);
	atomic_init(&entry->expires, terrace__expires(cache, now, ttl_ms, &ttl));
	atomic_init(&rest->ttl, ttl);
	*ret = entry;
	return TERRACE_OK;
}

/*
 * An object over an eighth of the disk must not push everything else out: it
 * may have what is free.
 */
static bool too_big_for_disk(const struct terrace_cache *cache, uint64_t size)
{
	struct terrace *store = cache->store;
	uint64_t limit = cache->disk_bytes ? cache->disk_bytes : store->disk_bytes;
	uint32_t whose = cache->disk_bytes ? cache->number : DISK_ANY_CACHE;
	struct tier_usage l2, l3;

	if (cache->disk_bytes && store->disk_bytes)
		limit = min_u64(cache->disk_bytes, store->disk_bytes);
	if (limit == 0 || size <= limit / 8)
		return false;
	if (store->disk_ops->tier.usage(store->disk, whose, TERRACE_L2, &l2) != TERRACE_OK ||
	    store->disk_ops->tier.usage(store->disk, whose, TERRACE_L3, &l3) != TERRACE_OK)
		return true;
	return l2.bytes + l3.bytes + size > limit;
}

static int try_file(struct terrace_cache *cache, struct write *write, terrace_slice head)
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

static int free_space(struct terrace *store, void *ctx)
{
	(void)ctx;
	return terrace__free_space(store) ? TERRACE_OK : TERRACE_MISS;
}

static int write_file(struct terrace_cache *cache, struct write *write)
{
	CLEANUP(terrace__buf_done) struct buf buf = { 0 };
	terrace_slice head;
	int rc;

	terrace__record_write(&write->record, &buf);
	if (buf.failed)
		return TERRACE_ENOMEM;
	head = terrace_bytes(buf.data, buf.size);
	rc = try_file(cache, write, head);
	/* On a full disk, make room once and try again. A number is written within
	 * a transaction, which is tried again as a whole. */
	if (rc == TERRACE_EFULL && write->kind != WRITE_NUMBER &&
	    terrace__write_alone(cache->store, free_space, NULL) == TERRACE_OK)
		rc = try_file(cache, write, head);
	return rc;
}

int terrace__entry_encode(struct terrace_cache *cache, struct entry *entry, struct write *write)
{
	struct entry_rest *rest = entry_rest(entry);
	terrace_slice value = terrace_bytes(entry_value(entry), (size_t)entry->value_size);
	terrace_codec codec;
	uint64_t stored_size;

	write->put.entry = entry;
	write->file_fd = -1;
	codec = terrace__codecs_encode(cache, value, &write->payload);
	write->put.payload = codec == TERRACE_CODEC_NONE ?
	                         value :
	                         terrace_bytes(write->payload.data, write->payload.size);
	stored_size = write->put.payload.size;
	/* What has waited is in memory already, and may be read as we speak. */
	if (!write->pending) {
		entry->codec = (uint8_t)codec;
		rest->stored_size = stored_size;
	}
	write->record = (struct record){
		.cache = cache->number,
		.codec = (uint8_t)codec,
		.flags = entry->kind == ENTRY_ABSENT ? RECORD_ABSENT : 0,
		.created = rest->created,
		.stored = rest->stored,
		.expires = atomic_load(&entry->expires),
		.ttl = rest->ttl,
		.value_size = entry->value_size,
		.payload_size = stored_size,
		.cost_us = rest->cost_us,
		.key = entry_key_slice(entry),
		.extra = entry_extra(entry),
	};
	terrace__record_sum(write->put.payload, write->record.payload_sum);
	if (too_big_for_disk(cache, stored_size)) {
		terrace__message_set("a value of %zu bytes is over an eighth of the disk limit of "
		                     "cache %s, and that much is not free; raise disk_bytes",
		                     write->put.payload.size, cache->name);
		return TERRACE_ETOOBIG;
	}
	if (cache->tiers & TERRACE_L2 && stored_size <= cache->inline_bytes)
		return TERRACE_OK;
	return write_file(cache, write);
}

void terrace__write_done(struct write *write)
{
	terrace__buf_done(&write->payload);
	entry_unref(write->put.entry);
	write->put.entry = NULL;
}

terrace_reason terrace__times_reason(struct terrace_cache *cache, int64_t created, int64_t expires,
                                     uint64_t seq)
{
	int64_t now = terrace__now(cache->store);

	if (expires <= now || created > now + FUTURE_MS)
		return TERRACE_REASON_EXPIRED;
	if (seq && seq <= terrace__floor(cache->store->shared, cache->shared))
		return TERRACE_REASON_CLEARED;
	return TERRACE_REASON_LIVE;
}

terrace_reason terrace__entry_reason(struct terrace_cache *cache, const struct entry *entry)
{
	const struct entry_rest *rest = entry_rest(entry);

	return terrace__times_reason(cache, rest->created, atomic_load(&entry->expires), rest->seq);
}

bool terrace__entry_alive(struct terrace_cache *cache, const struct entry *entry)
{
	uint64_t looked_at;

	if (entry->kind == ENTRY_ABSENT ||
	    terrace__entry_reason(cache, entry) != TERRACE_REASON_LIVE)
		return false;
	return entry->source_count == 0 || cache->check_ms < 0 ||
	       terrace__sources_check(cache->store, entry_extra(entry), &looked_at, NULL, 0) ==
	           SOURCE_SAME;
}

/* --- numbers --------------------------------------------------------------------------- */

int terrace__number_sum(const struct entry *old, int64_t initial, int64_t delta, int64_t *ret)
{
	int64_t value = initial;

	if (old) {
		char text[24], *end;

		if (old->value_size == 0 || old->value_size >= sizeof text) {
			terrace__message_set("the value to count up is no number");
			return TERRACE_EINVAL;
		}
		memcpy(text, entry_value(old), (size_t)old->value_size);
		text[old->value_size] = '\0';
		errno = 0;
		value = strtoll(text, &end, 10);
		if (errno || *end || end == text) {
			terrace__message_set("the value to count up is no number: \"%s\"", text);
			return TERRACE_EINVAL;
		}
	}
	if (__builtin_add_overflow(value, delta, ret)) {
		terrace__message_set("the sum of %" PRId64 " and %" PRId64 " leaves 64 bits", value,
		                     delta);
		return TERRACE_EINVAL;
	}
	return TERRACE_OK;
}

int terrace__number_write(struct write *write, const struct entry *old)
{
	struct terrace_cache *cache = write->cache;
	terrace_slice extra = old ? entry_extra(old) : terrace_bytes(NULL, 0);
	struct entry *entry;
	char text[24];
	int rc = terrace__number_sum(old, write->initial, write->delta, &write->sum);

	if (rc != TERRACE_OK)
		return rc;
	snprintf(text, sizeof text, "%" PRId64, write->sum);
	rc = terrace__entry_make(cache, &write->put.key, terrace_str(text), extra, 0,
	                         old ? entry_rest(old)->cost_us : 0, &entry);
	if (rc != TERRACE_OK)
		return rc;
	if (old) {
		/* The number changes; how long it is good for does not. */
		atomic_store(&entry->expires, atomic_load(&old->expires));
		atomic_store(&entry_rest(entry)->ttl, atomic_load(&entry_rest(old)->ttl));
		entry_rest(entry)->created = entry_rest(old)->created;
	}
	if (cache->on_disk)
		return terrace__entry_encode(cache, entry, write);
	write->put.entry = entry;
	return TERRACE_OK;
}

/* --- forms ------------------------------------------------------------------------------- */

int terrace__entry_decode(struct terrace_cache *cache, const struct entry *bytes,
                          struct entry **ret)
{
	const struct entry_rest *from = entry_rest(bytes);
	struct entry_object decoded = { .destroy = cache->form.destroy, .ctx = cache->form.ctx };
	struct entry *entry;
	struct entry_rest *rest;

	if (cache->form.decode(cache->form.ctx,
	                       terrace_bytes(entry_value(bytes), (size_t)bytes->value_size),
	                       &decoded.object, &decoded.weight) != 0)
		return TERRACE_ECORRUPT;
	entry = terrace__entry_new(entry_key_slice(bytes), sizeof decoded, entry_extra(bytes));
	if (!entry) {
		decoded.destroy(decoded.ctx, decoded.object);
		return TERRACE_ENOMEM;
	}
	*entry_object(entry) = decoded;
	entry->kind = ENTRY_OBJECT;
	entry->hash = bytes->hash;
	entry->codec = bytes->codec;
	entry->tier = bytes->tier;
	entry->source_count = bytes->source_count;
	atomic_init(&entry->stamp, atomic_load(&bytes->stamp));
	atomic_init(&entry->epoch, atomic_load(&bytes->epoch));
	atomic_init(&entry->expires, atomic_load(&bytes->expires));
	rest = entry_rest(entry);
	rest->seq = from->seq;
	rest->created = from->created;
	rest->stored = from->stored;
	atomic_init(&rest->ttl, atomic_load(&from->ttl));
	rest->stored_size = from->stored_size;
	rest->cost_us = from->cost_us;
	rest->tag_count = from->tag_count;
	atomic_init(&rest->checked, atomic_load(&from->checked));
	atomic_init(&rest->accessed, atomic_load(&from->accessed));
	rest->charge = terrace__entry_charge(entry);
	*ret = entry;
	return TERRACE_OK;
}
