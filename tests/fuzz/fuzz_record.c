/*
 * Entries as they lie on disk. The first byte says what the rest is: 'r' the
 * bytes of a file of L3; 'm' the same with sizes and sums made right, so that
 * what is behind them is reached; anything else: a key, a tag and a value, a
 * line each, with what happens to their record.
 *
 * What decodes has the size, the sum, the key and the tags that its head
 * promises, from memory as from a file; what was changed does not decode.
 */
#include "fuzz.h"

#include "codec/codec.h"
#include "tiers/extra.h"
#include "tiers/files/files.h"
#include "util/hash.h"

#include <lz4.h>
#include <xxhash.h>
#include <zstd.h>

enum { VALUE_MAX = 1 << 20 };

static struct files *files;
static struct dictionary *dictionary;
static uint64_t number;

/* Of records that resemble each other; the same each time. */
static void train_dictionary(int fd)
{
	enum { SAMPLES = 300, SAMPLE = 120 };
	static char samples[SAMPLES * SAMPLE];
	size_t sizes[SAMPLES], size = 0;

	for (unsigned i = 0; i < SAMPLES; i++) {
		sizes[i] = (size_t)snprintf(samples + size, SAMPLE,
		                            "{\"name\": \"item %u\", \"kind\": \"word %u\", "
		                            "\"again\": %u, \"some words\": \"that come\"}",
		                            i * 7919, i % 13, i * i);
		size += sizes[i];
	}
	must(terrace__dictionaries_open(fd) == TERRACE_OK &&
	         terrace__dictionary_train(samples, sizes, SAMPLES, &dictionary) == TERRACE_OK &&
	         terrace__dictionary_keep(dictionary, fd, 1) == 0,
	     "a dictionary is made");
}

static void open_files(void)
{
	int fd = open(fuzz_folder(), O_DIRECTORY | O_RDONLY); /* stays, for the dictionaries */

	must(fd >= 0 && terrace__files_open(fd, &files) == TERRACE_OK, "the tier opens");
	train_dictionary(fd);
}

/* The codec's own library, given more room, makes as many bytes. */
static void check_size(const struct record *record, terrace_slice payload)
{
	size_t room = (size_t)record->value_size + 64, size;
	char *raw = malloc(room);

	if (record->codec == TERRACE_CODEC_LZ4)
		size = (size_t)LZ4_decompress_safe(payload.data, raw, (int)payload.size, (int)room);
	else
		size = ZSTD_decompress(raw, room, payload.data, payload.size);
	must(size == record->value_size, "the value has the size that was promised");
	free(raw);
}

/* The entry that a head and a payload give, with all that can be said of it. */
static void check_entry(const struct record *record, terrace_slice payload,
                        const struct entry *entry)
{
	struct extra_walk walk;
	XXH128_canonical_t sum;

	XXH128_canonicalFromHash(&sum, XXH3_128bits(payload.data, payload.size));
	must(memcmp(sum.digest, record->payload_sum, 16) == 0, "the payload has its sum");
	must(entry->value_size == record->value_size, "the value has its size");
	must(same_bytes(entry_key_slice(entry), record->key), "the key is the record's");
	must(same_bytes(entry_extra(entry), record->extra), "tags and sources are the record's");
	terrace__extra_start(&walk, record->extra);
	must(entry->has_sources == (walk.sources > 0), "that there are sources is known");
	must(entry->kind == (record->flags & RECORD_ABSENT ? ENTRY_ABSENT : ENTRY_BYTES),
	     "what is absent is absent");
	if (record->codec == TERRACE_CODEC_NONE)
		must(same_bytes(payload, terrace_bytes(entry_value(entry), entry->value_size)),
		     "plain bytes are the value");
	else if (record->codec != TERRACE_CODEC_DICTIONARY)
		check_size(record, payload);
}

/* The same bytes as a file: it gives what memory gave. */
static void check_file(const struct record *record, terrace_slice head, terrace_slice payload,
                       int expected, const struct entry *from_memory)
{
	struct entry *entry;
	int fd, rc;

	must(terrace__files_write(files, ++number, head, payload, &fd) == TERRACE_OK, "written");
	close(fd);
	rc = terrace__files_read(files, number, record, 0, &entry, NULL);
	/* Blocks are for files alone. */
	if (record->flags & RECORD_BLOCKS)
		must(expected == TERRACE_ECORRUPT && (rc == TERRACE_OK || rc == expected),
		     "blocks are whole, or damaged");
	else
		must(rc == expected, "file and memory agree");
	if (rc == TERRACE_OK) {
		must(!from_memory ||
		         same_bytes(terrace_bytes(entry_value(entry), entry->value_size),
		                    terrace_bytes(entry_value(from_memory), entry->value_size)),
		     "file and memory give the same value");
		entry_unref(entry);
	}
	terrace__files_remove(files, number);
}

/* What a value was encoded to gives it back. */
static void check_again(const struct entry *entry, terrace_codec codec)
{
	terrace_slice value = terrace_bytes(entry_value(entry), entry->value_size);
	struct buf encoded = { 0 };
	uint8_t *raw = malloc(value.size ? value.size : 1);

	codec = terrace__codec_encode(codec, dictionary, value, &encoded);
	if (codec != TERRACE_CODEC_NONE) {
		must(terrace__codec_plausible(codec, encoded.size, value.size),
		     "no true size is refused");
		must(terrace__codec_decode(codec, terrace_bytes(encoded.data, encoded.size), raw,
		                           value.size) == TERRACE_OK &&
		         same_bytes(value, terrace_bytes(raw, value.size)),
		     "a codec gives back what it was given");
	}
	free(raw);
	terrace__buf_done(&encoded);
}

/* Any bytes as a file. */
static int check_bytes(const uint8_t *bytes, size_t size)
{
	terrace_slice head, payload;
	struct buf again = { 0 };
	struct record record;
	struct entry *entry;
	size_t head_size;
	int rc;

	if (size < RECORD_HEAD_FIXED)
		return TERRACE_ECORRUPT;
	head_size = terrace__record_head_size(bytes);
	if (head_size == 0 || head_size > size)
		return TERRACE_ECORRUPT;
	head = terrace_bytes(bytes, head_size);
	payload = terrace_bytes(bytes + head_size, size - head_size);
	rc = terrace__record_read(head, &record);
	if (rc != TERRACE_OK)
		return rc;
	terrace__record_write(&record, &again);
	must(same_bytes(head, terrace_bytes(again.data, again.size)), "a head has one form");
	terrace__buf_done(&again);
	if (record.value_size > VALUE_MAX)
		return TERRACE_ECORRUPT; /* only memory, no more to learn */
	rc = terrace__record_entry(&record, payload, 0, TERRACE_L3, &entry);
	must(rc == TERRACE_OK || rc == TERRACE_ECORRUPT, "it is whole, or damaged");
	check_file(&record, head, payload, rc, rc == TERRACE_OK ? entry : NULL);
	if (rc == TERRACE_OK) {
		check_entry(&record, payload, entry);
		check_again(entry, record.codec);
		entry_unref(entry);
	}
	return rc;
}

static void put_u32(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> (8 * i));
}

/* Magic, sizes and sums as a writer would have made them; the rest as it comes. */
static void mend(uint8_t *bytes, size_t size)
{
	size_t key = bytes[104] % 32 + 1u, extra = bytes[108], head, payload;

	if (RECORD_HEAD_FIXED + key > size)
		key = size - RECORD_HEAD_FIXED;
	if (RECORD_HEAD_FIXED + key + extra > size)
		extra = size - RECORD_HEAD_FIXED - key;
	head = RECORD_HEAD_FIXED + key + extra;
	payload = size - head;
	memcpy(bytes, "TRC1", 4);
	put_u32(bytes + 4, (uint32_t)head);
	bytes[30] = bytes[31] = 0;
	if (bytes[28] == TERRACE_CODEC_NONE && !(bytes[64] & 1))
		terrace__store_u64(bytes + 64, payload);
	terrace__store_u64(bytes + 72, payload);
	if (bytes[28] == TERRACE_CODEC_DICTIONARY && payload >= DICTIONARY_ID_BYTES)
		terrace__store_u64(bytes + head, terrace__dictionary_id(dictionary));
	terrace__record_sum(terrace_bytes(bytes + head, payload), bytes + 88);
	put_u32(bytes + 104, (uint32_t)key);
	put_u32(bytes + 108, (uint32_t)extra);
	terrace__store_u64(bytes + 8, terrace__hash64(bytes + 16, head - 16, 0));
}

static void check_mended(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size);

	memcpy(copy, data, size);
	mend(copy, size);
	check_bytes(copy, size);
	free(copy);
}

/* A value, written as a tier would; then one bit of the whole changes. */
static void check_written(struct input *in, terrace_codec wanted)
{
	size_t repeat = take_u8(in), flip = take_u24(in);
	bool resum = take_u8(in) & 1;
	terrace_slice key = take_until(in, '\n'), tag = take_until(in, '\n'), part;
	struct buf value = { 0 }, extra = { 0 }, file = { 0 }, payload = { 0 };
	struct record record = { .seq = 7, .cache = 1, .expires = INT64_MAX };
	size_t head_size;

	if (key.size == 0)
		key = terrace_str("k");
	tag.size = tag.size < 200 ? tag.size : 200;
	part = take_bytes(in, 512);
	for (size_t i = 0; i <= repeat; i++)
		terrace__buf_append(&value, part.data, part.size);
	terrace__extra_counts(&extra, 1, 0);
	terrace__extra_tag(&extra, tag);
	record.codec = (uint8_t)terrace__codec_encode(
	    wanted, dictionary, terrace_bytes(value.data, value.size), &payload);
	if (record.codec == TERRACE_CODEC_NONE)
		terrace__buf_append(&payload, value.data, value.size);
	record.value_size = value.size;
	record.payload_size = payload.size;
	record.key = key;
	record.extra = terrace_bytes(extra.data, extra.size);
	terrace__record_sum(terrace_bytes(payload.data, payload.size), record.payload_sum);
	terrace__record_write(&record, &file);
	head_size = file.size;
	terrace__buf_append(&file, payload.data, payload.size);
	must(check_bytes(file.data, file.size) == TERRACE_OK, "what was written is read");

	flip %= 8 * file.size;
	file.data[flip / 8] ^= (uint8_t)(1u << flip % 8);
	must(check_bytes(file.data, file.size) != TERRACE_OK, "a changed bit is noticed");
	if (resum && flip / 8 >= head_size) {
		/* A payload that only its codec can refuse. */
		mend(file.data, file.size);
		check_bytes(file.data, file.size);
	}
	terrace__buf_done(&value);
	terrace__buf_done(&extra);
	terrace__buf_done(&file);
	terrace__buf_done(&payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	static const terrace_codec codecs[] = { TERRACE_CODEC_NONE, TERRACE_CODEC_LZ4,
		                                TERRACE_CODEC_ZSTD, TERRACE_CODEC_DICTIONARY };
	uint8_t what = take_u8(&in);

	if (!files)
		open_files();
	if (what == 'r')
		check_bytes(in.at, (size_t)(in.end - in.at));
	else if (what == 'm' && size > RECORD_HEAD_FIXED + 1)
		check_mended(in.at, (size_t)(in.end - in.at));
	else if (what != 'm')
		check_written(&in, codecs[what % 4]);
	return 0;
}
