#include "core/entries.h"

#include "codec/codec.h"
#include "core/idle.h"
#include "core/sources.h"
#include "core/spool.h"
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
	return ret->failed ? no_memory("tags and sources") : TERRACE_OK;
}

/* So that what was stored together does not die together, whoever stored it. */
static int64_t jittered(const struct terrace_cache *cache, const struct tier_key *key,
                        int64_t ttl_ms)
{
	static _Atomic uint64_t turn;
	uint64_t number[] = { atomic_fetch_add(&turn, 1), key->hash };
	double part = (double)(terrace__hash64(number, sizeof number, 0) >> 32) / 4294967296.0;

	return ttl_ms - (int64_t)((double)ttl_ms * cache->jitter / 100 * part);
}

int64_t terrace__expires(const struct terrace_cache *cache, const struct tier_key *key, int64_t now,
                         int64_t ttl_ms, int64_t *ret_ttl)
{
	if (ttl_ms == 0)
		ttl_ms = cache->ttl_ms;
	else if (ttl_ms == TERRACE_TTL_NONE)
		ttl_ms = 0;
	*ret_ttl = ttl_ms;
	if (cache->jitter && ttl_ms > 0)
		ttl_ms = jittered(cache, key, ttl_ms);
	return ttl_ms < 0 ? INT64_MAX : add_sat_i64(now, ttl_ms);
}

int terrace__entry_make(struct terrace_cache *cache, const struct tier_key *key,
                        terrace_slice value, terrace_slice extra, int64_t ttl_ms, int64_t idle_ms,
                        uint64_t cost_us, struct entry **ret)
{
	int64_t ttl, now = terrace__now(cache->store);
	int64_t expires = terrace__expires(cache, key, now, ttl_ms, &ttl);
	int64_t idle = terrace__idle_ms(cache, idle_ms);
	/* What a row has to say of an entry is kept with it; else there may be nothing. */
	bool plain = !cache->on_disk && ttl == TERRACE_TTL_FOREVER && idle == 0 && cost_us == 0 &&
	             extra.size == 0;
	struct entry *entry = plain ? terrace__entry_new_plain(key->key, value.size) :
	                              terrace__entry_new(key->key, value.size, extra);
	struct extra_walk walk;
	struct entry_rest *rest;

	if (!entry) {
		terrace__message_set("out of memory for a value of %zu bytes", value.size);
		return TERRACE_ENOMEM;
	}
	entry->hash = key->hash;
	entry->created = now;
	atomic_init(&entry->expires, expires);
	if (value.size)
		memcpy(entry_value(entry), value.data, value.size);
	*ret = entry;
	if (plain)
		return TERRACE_OK;
	terrace__extra_start(&walk, extra);
	entry->has_sources = walk.sources > 0;
	rest = entry_rest(entry);
	rest->codec = TERRACE_CODEC_NONE;
	rest->stored = now;
	rest->cost_us = cost_us;
	atomic_init(&rest->ttl, ttl);
	terrace__idle_begin(cache, entry, idle, now);
	return TERRACE_OK;
}

void terrace__record_fill(uint32_t cache, const struct entry *entry, struct record *ret)
{
	const struct entry_rest *rest = entry_rest(entry);

	*ret = (struct record){
		.cache = cache,
		.flags = (uint8_t)((entry->kind == ENTRY_ABSENT ? RECORD_ABSENT : 0) |
		                   (rest->idle ? RECORD_IDLE : 0)),
		.created = entry->created,
		.stored = rest->stored,
		.expires = entry_idle_to_row(rest->idle, atomic_load(&entry->expires),
		                             atomic_load(&rest->deadline)),
		.ttl = rest->ttl,
		.idle = rest->idle,
		.deadline = atomic_load(&rest->deadline),
		.value_size = entry->value_size,
		.cost_us = rest->cost_us,
		.key = entry_key_slice(entry),
		.extra = entry_extra(entry),
	};
}

/*
 * What a hit is worth for the room that it takes, as L1 sees it (evict_value.c):
 * of two caches with different policies, values of 1 KiB that cost 1 ms are
 * worth the same.
 */
static int worth_of(const struct terrace_cache *cache, uint64_t size, uint64_t cost_us)
{
	int by_size = (log2_16(1024) - log2_16(size + 1)) * 6 / 5;
	const char *eviction = cache ? cache->settings[CACHE_eviction].text : "";

	if (strcmp(eviction, "bytes") == 0)
		return 0;
	if (strcmp(eviction, "cost") == 0)
		return by_size + log2_16(cost_us + 1) - log2_16(1000);
	return by_size;
}

void terrace__write_weigh(struct write *write)
{
	const struct record *record = &write->record;

	write->put.worth = worth_of(write->cache,
	                            record->payload_size + record->key.size + record->extra.size,
	                            record->cost_us);
}

/* In one piece: the payload, and a file where it is too large for a row. */
static int encode_whole(struct terrace_cache *cache, terrace_slice value, struct write *write)
{
	struct record *record = &write->record;
	terrace_codec codec = terrace__codecs_encode(cache, value, &write->payload);

	write->put.payload = codec == TERRACE_CODEC_NONE ?
	                         value :
	                         terrace_bytes(write->payload.data, write->payload.size);
	record->codec = (uint8_t)codec;
	record->payload_size = write->put.payload.size;
	terrace__record_sum(write->put.payload, record->payload_sum);
	if (terrace__too_big_for_disk(cache, record->payload_size))
		return TERRACE_ETOOBIG;
	if (cache->tiers & TERRACE_L2 && record->payload_size <= cache->inline_bytes)
		return TERRACE_OK;
	return terrace__spool_whole(cache, write);
}

static int encode_blocks(struct terrace_cache *cache, terrace_slice value, struct write *write)
{
	struct spool spool = { .cache = cache };
	int rc = TERRACE_OK;

	for (size_t at = 0; at < value.size && rc == TERRACE_OK; at += BLOCK_BYTES) {
		size_t size = (size_t)min_u64(value.size - at, BLOCK_BYTES);

		rc = terrace__spool_add(&spool, terrace_bytes((const char *)value.data + at, size));
	}
	if (rc == TERRACE_OK)
		rc = terrace__spool_keep(&spool, write);
	terrace__spool_drop(&spool);
	return rc;
}

int terrace__value_fits(const struct terrace *store, uint64_t size)
{
	uint64_t most = terrace__value_max(store);

	if (most == 0 || size <= most)
		return TERRACE_OK;
	terrace__message_set("a value of %" PRIu64 " bytes is over the limits of memory and disk; "
	                     "raise memory_bytes or disk_bytes",
	                     size);
	return TERRACE_ETOOBIG;
}

int terrace__entry_encode(struct terrace_cache *cache, struct entry *entry, struct write *write)
{
	terrace_slice value = terrace_bytes(entry_value(entry), (size_t)entry->value_size);
	uint64_t in_row = cache->tiers & TERRACE_L2 ? cache->inline_bytes : 0;
	int rc;

	write->put.entry = entry;
	write->file_fd = -1;
	rc = terrace__value_fits(cache->store, value.size);
	if (rc != TERRACE_OK)
		return rc;
	terrace__record_fill(cache->number, entry, &write->record);
	if (value.size > max_u64(BLOCK_BYTES, in_row))
		rc = encode_blocks(cache, value, write);
	else
		rc = encode_whole(cache, value, write);
	terrace__write_weigh(write);
	entry_rest(entry)->codec = write->record.codec;
	entry_rest(entry)->stored_size = write->record.payload_size;
	return rc;
}

void terrace__entry_raw(uint32_t cache, struct entry *entry, struct write *write)
{
	write->put.entry = entry;
	write->put.payload = terrace_bytes(entry_value(entry), (size_t)entry->value_size);
	terrace__record_fill(cache, entry, &write->record);
	write->record.codec = TERRACE_CODEC_NONE;
	write->record.payload_size = entry->value_size;
	terrace__record_sum(write->put.payload, write->record.payload_sum);
	terrace__write_weigh(write);
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
	struct terrace *store = cache->store;
	int64_t now = terrace__now(store);
	uint64_t floor;

	if (expires <= now || created > now + FUTURE_MS)
		return TERRACE_REASON_EXPIRED;
	floor = terrace__floor(store->shared, cache->shared);
	if (UNLIKELY(floor == UINT64_MAX) && !store->read_only)
		atomic_store(&store->shared->hurt, 1);
	return seq && seq <= floor ? TERRACE_REASON_CLEARED : TERRACE_REASON_LIVE;
}

terrace_reason terrace__entry_reason(struct terrace_cache *cache, const struct entry *entry)
{
	return terrace__times_reason(cache, entry->created, atomic_load(&entry->expires),
	                             entry_rest(entry)->seq);
}

bool terrace__entry_alive(struct terrace_cache *cache, const struct entry *entry)
{
	uint64_t looked_at;

	if (entry->kind == ENTRY_ABSENT ||
	    terrace__entry_reason(cache, entry) != TERRACE_REASON_LIVE)
		return false;
	return !entry->has_sources || cache->check_ms < 0 ||
	       terrace__sources_check(cache->store, entry_extra(entry), &looked_at, NULL, 0) ==
	           SOURCE_SAME;
}

/* --- numbers --------------------------------------------------------------------------- */

/* TERRACE_EINVAL when the value is no number, or the sum none. */
static int sum_of(const struct entry *old, int64_t initial, int64_t delta, int64_t *ret)
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
	const struct entry_rest *was = old ? entry_rest(old) : NULL;
	int64_t ttl = was ? atomic_load(&was->ttl) : 0, idle = 0;
	struct entry *entry;
	char text[24];
	int rc = sum_of(old, write->initial, write->delta, &write->sum);

	if (rc != TERRACE_OK)
		return rc;
	snprintf(text, sizeof text, "%" PRId64, write->sum);
	if (was)
		idle = was->idle ? was->idle : TERRACE_TTL_FOREVER;
	rc = terrace__entry_make(cache, &write->put.key, terrace_str(text), extra, ttl, idle,
	                         was ? was->cost_us : 0, &entry);
	if (rc != TERRACE_OK)
		return rc;
	if (was && entry->plain) {
		struct entry *full = terrace__entry_copy(entry);

		entry_unref(entry);
		if (!full)
			return no_memory("a number");
		entry = full;
	}
	if (was) {
		/* The number changes; how long it is good for does not. */
		atomic_store(&entry->expires,
		             was->idle ? atomic_load(&was->deadline) : atomic_load(&old->expires));
		entry->created = old->created;
		terrace__idle_begin(cache, entry, was->idle, entry_rest(entry)->stored);
	}
	if (cache->on_disk && !write->in_memory)
		return terrace__entry_encode(cache, entry, write);
	write->put.entry = entry;
	return TERRACE_OK;
}

/* --- forms ------------------------------------------------------------------------------- */

int terrace__entry_decode(struct terrace_cache *cache, const struct entry *bytes,
                          struct entry **ret)
{
	struct entry_object decoded = { .destroy = cache->form.destroy, .ctx = cache->form.ctx };
	struct entry *entry;
	int rc = cache->form.decode(cache->form.ctx,
	                            terrace_bytes(entry_value(bytes), (size_t)bytes->value_size),
	                            &decoded.object, &decoded.weight);

	if (rc != 0)
		return rc == TERRACE_ENOMEM ? no_memory("a decoded value") : TERRACE_ECORRUPT;
	entry = terrace__entry_new(entry_key_slice(bytes), sizeof decoded, entry_extra(bytes));
	if (!entry) {
		decoded.destroy(decoded.ctx, decoded.object);
		return no_memory("a decoded value");
	}
	*entry_object(entry) = decoded;
	entry->kind = ENTRY_OBJECT;
	terrace__entry_facts_of(entry, bytes);
	*ret = entry;
	return TERRACE_OK;
}

int terrace__entry_in_form(struct terrace_cache *cache, struct entry *entry, struct entry **ret)
{
	int rc;

	if (!cache->has_form || entry->kind == ENTRY_ABSENT) {
		*ret = entry;
		return TERRACE_OK;
	}
	rc = terrace__entry_decode(cache, entry, ret);
	if (rc == TERRACE_ECORRUPT) {
		terrace__message_set("cache %s cannot decode the value that was put", cache->name);
		rc = TERRACE_EINVAL;
	}
	return rc;
}
