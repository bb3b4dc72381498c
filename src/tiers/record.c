#include "tiers/record.h"

#include "codec/codec.h"
#include "tiers/extra.h"
#include "util/hash.h"

static const uint8_t magic[4] = { 'T', 'R', 'C', '1' };

void terrace__record_write(const struct record *record, struct buf *out)
{
	size_t start = out->size;
	const bool idle = record->flags & RECORD_IDLE;
	size_t size = record_size(record);

	if (!terrace__buf_reserve(out, size))
		return;
	terrace__buf_append(out, magic, sizeof magic);
	terrace__buf_u32(out, (uint32_t)size);
	terrace__buf_u64(out, 0); /* the checksum, below */
	terrace__buf_u64(out, record->seq);
	terrace__buf_u32(out, record->cache);
	terrace__buf_u8(out, record->codec);
	terrace__buf_u8(out, record->flags);
	terrace__buf_u16(out, 0);
	terrace__buf_u64(out, (uint64_t)record->created);
	terrace__buf_u64(out, (uint64_t)record->stored);
	terrace__buf_u64(out, (uint64_t)record->expires);
	terrace__buf_u64(out, (uint64_t)record->ttl);
	terrace__buf_u64(out, record->value_size);
	terrace__buf_u64(out, record->payload_size);
	terrace__buf_u64(out, record->cost_us);
	terrace__buf_append(out, record->payload_sum, sizeof record->payload_sum);
	terrace__buf_u32(out, (uint32_t)record->key.size);
	terrace__buf_u32(out, (uint32_t)record->extra.size);
	if (idle) {
		terrace__buf_u64(out, (uint64_t)record->idle);
		terrace__buf_u64(out, (uint64_t)record->deadline);
	}
	terrace__buf_append(out, record->key.data, record->key.size);
	terrace__buf_append(out, record->extra.data, record->extra.size);
	terrace__store_u64(out->data + start + 8,
	                   terrace__hash64(out->data + start + 16, size - 16, 0));
}

size_t terrace__record_head_size(const uint8_t *bytes)
{
	struct reader reader = terrace__reader(bytes, RECORD_HEAD_FIXED);
	uint32_t size;

	if (memcmp(terrace__read_bytes(&reader, 4), magic, 4) != 0)
		return 0;
	size = terrace__read_u32(&reader);
	return size > RECORD_HEAD_FIXED && size <= RECORD_HEAD_MAX ? size : 0;
}

int terrace__record_read(terrace_slice head, struct record *ret)
{
	struct reader reader;
	uint32_t key_size, extra_size, idle_size;

	if (head.size <= RECORD_HEAD_FIXED || terrace__record_head_size(head.data) != head.size)
		return TERRACE_ECORRUPT;
	reader = terrace__reader((const uint8_t *)head.data + 8, head.size - 8);
	if (terrace__read_u64(&reader) !=
	    terrace__hash64((const uint8_t *)head.data + 16, head.size - 16, 0))
		return TERRACE_ECORRUPT;
	ret->seq = terrace__read_u64(&reader);
	ret->cache = terrace__read_u32(&reader);
	ret->codec = terrace__read_u8(&reader);
	ret->flags = terrace__read_u8(&reader);
	if (ret->flags & ~(RECORD_ABSENT | RECORD_BLOCKS | RECORD_IDLE) ||
	    terrace__read_u16(&reader) != 0 || !terrace__codec_name(ret->codec))
		return TERRACE_EFORMAT;
	ret->created = (int64_t)terrace__read_u64(&reader);
	ret->stored = (int64_t)terrace__read_u64(&reader);
	ret->expires = (int64_t)terrace__read_u64(&reader);
	ret->ttl = (int64_t)terrace__read_u64(&reader);
	ret->value_size = terrace__read_u64(&reader);
	ret->payload_size = terrace__read_u64(&reader);
	ret->cost_us = terrace__read_u64(&reader);
	memcpy(ret->payload_sum, terrace__read_bytes(&reader, 16), 16);
	key_size = terrace__read_u32(&reader);
	extra_size = terrace__read_u32(&reader);
	idle_size = ret->flags & RECORD_IDLE ? RECORD_HEAD_IDLE : 0;
	if (key_size == 0 || key_size > TERRACE_KEY_MAX ||
	    (uint64_t)key_size + extra_size + idle_size != head.size - RECORD_HEAD_FIXED)
		return TERRACE_ECORRUPT;
	ret->idle = idle_size ? (int64_t)terrace__read_u64(&reader) : 0;
	ret->deadline = idle_size ? (int64_t)terrace__read_u64(&reader) : ret->expires;
	if (idle_size && (ret->idle <= 0 || ret->deadline < ret->expires))
		return TERRACE_ECORRUPT;
	ret->key = terrace_bytes(terrace__read_bytes(&reader, key_size), key_size);
	ret->extra = terrace_bytes(terrace__read_bytes(&reader, extra_size), extra_size);
	return terrace__extra_valid(ret->extra) ? TERRACE_OK : TERRACE_ECORRUPT;
}

void terrace__record_sum(terrace_slice payload, uint8_t ret[16])
{
	terrace__hash128_bytes(terrace__hash128(payload.data, payload.size, 0), ret);
}

bool terrace__record_holds(const struct record *record, terrace_slice payload)
{
	uint8_t sum[16];

	if (payload.size != record->payload_size)
		return false;
	terrace__record_sum(payload, sum);
	return memcmp(sum, record->payload_sum, sizeof sum) == 0;
}

/* No codec of ours gains more, and a block has a line in a table. */
static bool is_plausible(const struct record *record)
{
	if (record->flags & RECORD_BLOCKS)
		return terrace__record_blocks(record) <= record->payload_size / 24;
	return terrace__codec_plausible(record->codec, record->payload_size, record->value_size);
}

int terrace__record_shell(const struct record *record, uint64_t hash, unsigned tier,
                          struct entry **ret)
{
	struct extra_walk walk;
	struct entry *entry;
	struct entry_rest *rest;

	if (!is_plausible(record)) /* before allocating */
		return TERRACE_ECORRUPT;
	entry = terrace__entry_new(record->key, record->value_size, record->extra);
	if (!entry)
		return no_memory("an entry");
	terrace__extra_start(&walk, record->extra);
	entry->hash = hash;
	entry->kind = record->flags & RECORD_ABSENT ? ENTRY_ABSENT : ENTRY_BYTES;
	entry->tier = (uint8_t)tier;
	entry->has_sources = walk.sources > 0;
	entry->created = record->created;
	atomic_init(&entry->expires,
	            entry_idle_from_row(record->idle, record->expires, record->deadline));
	rest = entry_rest(entry);
	rest->codec = record->codec;
	rest->idle = record->idle;
	atomic_init(&rest->deadline, record->deadline);
	rest->seq = record->seq;
	rest->stored = record->stored;
	rest->ttl = record->ttl;
	rest->stored_size = record->payload_size;
	rest->cost_us = record->cost_us;
	*ret = entry;
	return TERRACE_OK;
}

int terrace__record_entry(const struct record *record, terrace_slice payload, uint64_t hash,
                          unsigned tier, struct entry **ret)
{
	struct entry *entry;
	int rc;

	/* Blocks lie in files, and are read from there. */
	if (record->flags & RECORD_BLOCKS || !terrace__record_holds(record, payload))
		return TERRACE_ECORRUPT;
	rc = terrace__record_shell(record, hash, tier, &entry);
	if (rc != TERRACE_OK)
		return rc;
	rc = terrace__codec_decode(record->codec, payload, entry_value(entry),
	                           (size_t)record->value_size);
	if (rc != TERRACE_OK) {
		entry_unref(entry);
		return rc;
	}
	*ret = entry;
	return TERRACE_OK;
}
