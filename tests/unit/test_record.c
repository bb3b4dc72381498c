/* What lies on disk: records byte for byte, codecs, packed tags and sources. */
#include "support/support.h"

#include "codec/codec.h"
#include "tiers/extra.h"
#include "tiers/record.h"
#include "util/hash.h"

#include <pthread.h>

/* A record with every field different, so that no two can be mistaken for each other. */
static struct record sample(void)
{
	struct record record = {
		.seq = UINT64_C(0x0102030405060708),
		.cache = 0x11121314,
		.codec = TERRACE_CODEC_LZ4,
		.created = INT64_C(0x2122232425262728),
		.stored = INT64_C(0x3132333435363738),
		.expires = INT64_C(0x4142434445464748),
		.ttl = INT64_C(0x5152535455565758),
		.value_size = 0x6162,
		.payload_size = 5,
		.cost_us = UINT64_C(0x8182838485868788),
		.key = { "key", 3 },
	};

	for (int i = 0; i < 16; i++)
		record.payload_sum[i] = (uint8_t)(0xa0 + i);
	return record;
}

static const uint8_t sample_bytes[] = {
	'T',  'R',  'C',  '1',                          /* magic */
	127,  0,    0,    0,                            /* 112 + 3 + 12 */
	0,    0,    0,    0,    0,    0,    0,    0,    /* the checksum, filled in below */
	0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, /* seq */
	0x14, 0x13, 0x12, 0x11,                         /* cache */
	2,                                              /* lz4 */
	0,    0,    0,                                  /* flags, zero */
	0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21, /* created */
	0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31, /* stored */
	0x48, 0x47, 0x46, 0x45, 0x44, 0x43, 0x42, 0x41, /* expires */
	0x58, 0x57, 0x56, 0x55, 0x54, 0x53, 0x52, 0x51, /* ttl */
	0x62, 0x61, 0,    0,    0,    0,    0,    0,    /* value size */
	5,    0,    0,    0,    0,    0,    0,    0,    /* payload size */
	0x88, 0x87, 0x86, 0x85, 0x84, 0x83, 0x82, 0x81, /* cost */
	0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, /* payload sum */
	0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 3, 0,   0,   0,   /* key size */
	12,   0,    0,    0,                                              /* extra size */
	'k',  'e',  'y',                                                  /* key */
	1,    0,    0,    0,    0,    0,    0,    0,    3, 'r', 'e', 'd', /* one tag, no source */
};

static void test_record__format_1_byte_for_byte(void **state)
{
	uint8_t expected[sizeof sample_bytes];
	struct record record = sample(), read;
	struct buf extra = { 0 }, out = { 0 };

	(void)state;
	memcpy(expected, sample_bytes, sizeof expected);
	terrace__store_u64(expected + 8, terrace__hash64(expected + 16, sizeof expected - 16, 0));
	terrace__extra_counts(&extra, 1, 0);
	terrace__extra_tag(&extra, terrace_str("red"));
	record.extra = terrace_bytes(extra.data, extra.size);
	terrace__record_write(&record, &out);
	assert_int_equal(out.size, sizeof expected);
	assert_memory_equal(out.data, expected, sizeof expected);

	assert_ok(terrace__record_read(terrace_bytes(expected, sizeof expected), &read));
	assert_int_equal(read.seq, record.seq);
	assert_int_equal(read.cache, record.cache);
	assert_int_equal(read.codec, record.codec);
	assert_int_equal(read.created, record.created);
	assert_int_equal(read.stored, record.stored);
	assert_int_equal(read.expires, record.expires);
	assert_int_equal(read.ttl, record.ttl);
	assert_int_equal(read.value_size, record.value_size);
	assert_int_equal(read.payload_size, record.payload_size);
	assert_int_equal(read.cost_us, record.cost_us);
	assert_memory_equal(read.payload_sum, record.payload_sum, 16);
	assert_int_equal(read.key.size, 3);
	assert_memory_equal(read.key.data, "key", 3);
	terrace__buf_done(&extra);
	terrace__buf_done(&out);
}

static void test_record__an_idle_time_lies_before_the_key(void **state)
{
	static const uint8_t behind[] = {
		0x98, 0x97, 0x96, 0x95, 0x94, 0x93, 0x92, 0x11, /* how long unused */
		0xf8, 0xf7, 0xf6, 0xf5, 0xf4, 0xf3, 0xf2, 0x71, /* dead in any case */
		'k',  'e',  'y',
	};
	struct record record = sample(), read;
	struct buf out = { 0 };

	(void)state;
	record.flags = RECORD_IDLE;
	record.idle = INT64_C(0x1192939495969798);
	record.deadline = INT64_C(0x71f2f3f4f5f6f7f8);
	terrace__record_write(&record, &out);
	assert_int_equal(out.size, RECORD_HEAD_FIXED + sizeof behind);
	assert_int_equal(out.size, record_size(&record));
	assert_int_equal(out.data[29], 4);
	assert_memory_equal(out.data + RECORD_HEAD_FIXED, behind, sizeof behind);
	assert_ok(terrace__record_read(terrace_bytes(out.data, out.size), &read));
	assert_int_equal(read.idle, record.idle);
	assert_int_equal(read.deadline, record.deadline);
	assert_int_equal(read.key.size, 3);
	assert_memory_equal(read.key.data, "key", 3);
	out.size = 0;
	record.deadline = record.expires - 1; /* it would outlive its end */
	terrace__record_write(&record, &out);
	assert_status(terrace__record_read(terrace_bytes(out.data, out.size), &read),
	              TERRACE_ECORRUPT);
	terrace__buf_done(&out);
}

static void test_record__checksum_is_pinned(void **state)
{
	/* XXH3-64 of these bytes as the xxhsum command gives it, so that the hash
	 * cannot change with a library's version unseen. */
	static const uint8_t expected[16] = { 0x3e, 0x95, 0x8e, 0xa3, 0x47, 0x84, 0x7e, 0xaf,
		                              0xdb, 0x4b, 0x91, 0x5d, 0x0d, 0x34, 0x47, 0x0b };
	uint8_t hash[16];

	(void)state;
	assert_int_equal(terrace__hash64("terrace", 7, 0), UINT64_C(0xcddc9e8ef76ed303));
	terrace__hash128_bytes(terrace__hash128("terrace", 7, 0), hash);
	assert_memory_equal(hash, expected, sizeof expected);
}

static void test_record__every_flipped_bit_of_the_head_is_noticed(void **state)
{
	struct record record = sample(), read;
	struct buf out = { 0 };

	(void)state;
	terrace__record_write(&record, &out);
	for (size_t bit = 0; bit < out.size * 8; bit++) {
		out.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_status(terrace__record_read(terrace_bytes(out.data, out.size), &read),
		              TERRACE_ECORRUPT);
		out.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t size = 0; size < out.size; size++)
		assert_status(terrace__record_read(terrace_bytes(out.data, size), &read),
		              TERRACE_ECORRUPT);
	assert_ok(terrace__record_read(terrace_bytes(out.data, out.size), &read));
	terrace__buf_done(&out);
}

static void resum(struct buf *head)
{
	terrace__store_u64(head->data + 8, terrace__hash64(head->data + 16, head->size - 16, 0));
}

static void test_record__an_unknown_flag_or_codec_is_a_newer_format(void **state)
{
	struct record record = sample(), read;
	struct buf out = { 0 };

	(void)state;
	terrace__record_write(&record, &out);
	out.data[29] = 0x80;
	resum(&out);
	assert_status(terrace__record_read(terrace_bytes(out.data, out.size), &read),
	              TERRACE_EFORMAT);
	out.data[29] = 0;
	out.data[28] = 99;
	resum(&out);
	assert_status(terrace__record_read(terrace_bytes(out.data, out.size), &read),
	              TERRACE_EFORMAT);
	terrace__buf_done(&out);
}

static void test_record__a_forged_size_asks_for_no_memory(void **state)
{
	struct record record = sample();
	struct entry *entry;

	(void)state;
	for (unsigned codec = TERRACE_CODEC_NONE; codec <= TERRACE_CODEC_ZSTD; codec++) {
		record.codec = (uint8_t)codec;
		record.payload_size = 100;
		record.value_size = UINT64_C(1) << 50;
		assert_status(terrace__record_shell(&record, 1, TERRACE_L2, &entry),
		              TERRACE_ECORRUPT);
	}
}

static void round_trip(terrace_codec codec, const uint8_t *raw, size_t size, terrace_codec expected)
{
	struct buf encoded = { 0 };
	uint8_t *back = malloc(size + 1);
	terrace_codec used = terrace__codec_encode(codec, NULL, terrace_bytes(raw, size), &encoded);

	assert_int_equal(used, expected);
	if (used == TERRACE_CODEC_NONE) {
		assert_int_equal(encoded.size, 0);
	} else {
		assert_true(encoded.size < size);
		assert_true(terrace__codec_plausible(used, encoded.size, size));
		back[size] = 0x5a;
		assert_ok(terrace__codec_decode(used, terrace_bytes(encoded.data, encoded.size),
		                                back, size));
		assert_memory_equal(back, raw, size);
		assert_int_equal(back[size], 0x5a);
		/* another size is damage, not an overrun */
		assert_status(terrace__codec_decode(used, terrace_bytes(encoded.data, encoded.size),
		                                    back, size - 1),
		              TERRACE_ECORRUPT);
		assert_status(terrace__codec_decode(
				  used, terrace_bytes(encoded.data, encoded.size / 2), back, size),
		              TERRACE_ECORRUPT);
	}
	terrace__buf_done(&encoded);
	free(back);
}

static void test_codec__round_trips_and_skips_what_does_not_shrink(void **state)
{
	enum { SIZE = 100000 };
	uint8_t *text = malloc(SIZE), *noise = malloc(SIZE), *zeros = calloc(1, 4 << 20);
	struct rng rng = { 1 };

	(void)state;
	for (size_t i = 0; i < SIZE; i++) {
		text[i] = (uint8_t)("abcabcabd"[i % 9] + i / 5000);
		noise[i] = (uint8_t)rng_next(&rng);
	}
	for (unsigned codec = TERRACE_CODEC_LZ4; codec <= TERRACE_CODEC_ZSTD; codec++) {
		round_trip((terrace_codec)codec, text, SIZE, (terrace_codec)codec);
		round_trip((terrace_codec)codec, zeros, 4 << 20, (terrace_codec)codec);
		round_trip((terrace_codec)codec, noise, SIZE, TERRACE_CODEC_NONE);
		round_trip((terrace_codec)codec, text, 10, TERRACE_CODEC_NONE);
		round_trip((terrace_codec)codec, text, 0, TERRACE_CODEC_NONE);
	}
	round_trip(TERRACE_CODEC_NONE, text, SIZE, TERRACE_CODEC_NONE);
	free(text);
	free(noise);
	free(zeros);
}

static void test_extra__packs_and_walks_tags_and_sources(void **state)
{
	struct source_mark mark = { .kind = SOURCE_FILE,
		                    .flags = SOURCE_HASHED,
		                    .size = 7,
		                    .mtime_ns = -3,
		                    .ctime_ns = 4,
		                    .inode = 5 },
			   read;
	struct extra_walk walk;
	struct buf extra = { 0 };
	terrace_slice tag;

	(void)state;
	memset(mark.hash, 0xcd, sizeof mark.hash);
	mark.path = terrace_str("/a/b");
	terrace__extra_counts(&extra, 2, 1);
	terrace__extra_tag(&extra, terrace_str("x"));
	terrace__extra_tag(&extra, terrace_str("yy"));
	terrace__extra_source(&extra, &mark);
	assert_int_equal(extra.size, 8 + 2 + 3 + 4 + 32 + 16 + 4);
	assert_true(terrace__extra_valid(terrace_bytes(extra.data, extra.size)));
	assert_false(terrace__extra_valid(terrace_bytes(extra.data, extra.size - 1)));
	terrace__buf_u8(&extra, 0);
	assert_false(terrace__extra_valid(terrace_bytes(extra.data, extra.size)));

	assert_true(terrace__extra_start(&walk, terrace_bytes(extra.data, extra.size - 1)));
	assert_true(terrace__extra_next_tag(&walk, &tag));
	assert_memory_equal(tag.data, "x", 1);
	assert_true(terrace__extra_next_tag(&walk, &tag));
	assert_int_equal(tag.size, 2);
	assert_false(terrace__extra_next_tag(&walk, &tag));
	assert_true(terrace__extra_next_source(&walk, &read));
	assert_int_equal(read.mtime_ns, -3);
	assert_int_equal(read.inode, 5);
	assert_memory_equal(read.hash, mark.hash, 16);
	assert_int_equal(read.path.size, 4);
	assert_false(terrace__extra_next_source(&walk, &read));
	terrace__buf_done(&extra);
}

static void test_extra__counts_that_lie_are_refused(void **state)
{
	static const uint8_t many_tags[] = { 65, 0, 0, 0, 0, 0, 0, 0 };
	static const uint8_t no_such_source[] = { 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff };

	(void)state;
	assert_false(terrace__extra_valid(terrace_bytes(many_tags, sizeof many_tags)));
	assert_false(terrace__extra_valid(terrace_bytes(no_such_source, sizeof no_such_source)));
	assert_true(terrace__extra_valid(terrace_bytes(NULL, 0)));
}

static void test_codec__that_is_unknown_or_has_impossible_sizes(void **state)
{
	char raw[8] = "";

	(void)state;
	assert_null(terrace__codec_name(6));
	assert_status(terrace__codec_decode(6, terrace_str("abcd"), raw, 4), TERRACE_ECORRUPT);
	assert_status(terrace__codec_decode(TERRACE_CODEC_AUTO, terrace_str("abcd"), raw, 4),
	              TERRACE_ECORRUPT);
	assert_status(terrace__codec_decode(TERRACE_CODEC_DEFAULT, terrace_str("abcd"), raw, 4),
	              TERRACE_ECORRUPT);
	assert_false(terrace__codec_plausible(6, 4, 4));
	assert_status(terrace__codec_decode(TERRACE_CODEC_NONE, terrace_str("abcd"), raw, 3),
	              TERRACE_ECORRUPT);
	/* sizes that lz4's own numbers cannot hold are not cut down to ones they can */
	assert_status(terrace__codec_decode(TERRACE_CODEC_LZ4,
	                                    terrace_bytes(raw, (size_t)INT32_MAX + 2), raw, 1),
	              TERRACE_ECORRUPT);
	assert_status(terrace__codec_decode(TERRACE_CODEC_LZ4, terrace_bytes(raw, 1), raw,
	                                    (size_t)INT32_MAX + 2),
	              TERRACE_ECORRUPT);
}

static void *encode_and_decode(void *text)
{
	uint8_t back[4000];
	struct buf encoded = { 0 };
	bool good = terrace__codec_encode(TERRACE_CODEC_ZSTD, NULL, terrace_bytes(text, 4000),
	                                  &encoded) == TERRACE_CODEC_ZSTD;

	good = good &&
	       terrace__codec_decode(TERRACE_CODEC_ZSTD, terrace_bytes(encoded.data, encoded.size),
	                             back, 4000) == TERRACE_OK;
	good = good && memcmp(back, text, 4000) == 0;
	terrace__buf_done(&encoded);
	return good ? text : NULL;
}

/* Each thread has its own contexts; they go with it, or the leak checker says so. */
static void test_codec__of_threads_that_come_and_go(void **state)
{
	static char text[4000];
	pthread_t thread;
	void *result;

	(void)state;
	memset(text, 'a', sizeof text);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(pthread_create(&thread, NULL, encode_and_decode, text), 0);
		pthread_join(thread, &result);
		assert_ptr_equal(result, text);
	}
}

static void test_record__sizes_that_do_not_add_up(void **state)
{
	struct record record = sample(), read;
	struct buf out = { 0 };

	(void)state;
	terrace__record_write(&record, &out);
	out.data[104] = 2; /* the key's size, smaller: the rest would belong to nobody */
	resum(&out);
	assert_status(terrace__record_read(terrace_bytes(out.data, out.size), &read),
	              TERRACE_ECORRUPT);
	out.data[104] = 0;
	resum(&out);
	assert_status(terrace__record_read(terrace_bytes(out.data, out.size), &read),
	              TERRACE_ECORRUPT);
	out.data[104] = 3;
	out.data[30] = 1; /* where this version writes zero */
	resum(&out);
	assert_status(terrace__record_read(terrace_bytes(out.data, out.size), &read),
	              TERRACE_EFORMAT);
	terrace__buf_done(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_record__format_1_byte_for_byte),
		cmocka_unit_test(test_record__an_idle_time_lies_before_the_key),
		cmocka_unit_test(test_record__checksum_is_pinned),
		cmocka_unit_test(test_record__every_flipped_bit_of_the_head_is_noticed),
		cmocka_unit_test(test_record__an_unknown_flag_or_codec_is_a_newer_format),
		cmocka_unit_test(test_record__a_forged_size_asks_for_no_memory),
		cmocka_unit_test(test_codec__round_trips_and_skips_what_does_not_shrink),
		cmocka_unit_test(test_extra__packs_and_walks_tags_and_sources),
		cmocka_unit_test(test_extra__counts_that_lie_are_refused),
		cmocka_unit_test(test_codec__that_is_unknown_or_has_impossible_sizes),
		cmocka_unit_test(test_codec__of_threads_that_come_and_go),
		cmocka_unit_test(test_record__sizes_that_do_not_add_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
