/* A value in blocks, byte for byte as blocks.h says, and what a reader makes of other bytes. */
#include "support/support.h"

#include "tiers/files/blocks.h"

#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

enum { TAIL = 100, VALUE = 2 * BLOCK_BYTES + TAIL };

static struct record record_of(uint64_t value_size)
{
	return (struct record){
		.seq = 7,
		.cache = 3,
		.created = 1,
		.stored = 1,
		.expires = INT64_MAX,
		.value_size = value_size,
		.key = terrace_str("key"),
	};
}

/* The middle block is noise, which no codec shrinks. */
static uint8_t *value(void)
{
	uint8_t *bytes = malloc(VALUE);
	struct rng rng = { 11 };

	memset(bytes, 'a', VALUE);
	for (int i = 0; i < BLOCK_BYTES; i++)
		bytes[BLOCK_BYTES + i] = (uint8_t)rng_next(&rng);
	return bytes;
}

static int write_blocks(const uint8_t *bytes, terrace_codec codec, struct record *record)
{
	int fd = memfd_create("blocks", 0);
	struct block_writer *writer;

	*record = record_of(VALUE);
	assert_ok(terrace__block_writer_new(dup(fd), 1, codec, &writer));
	for (uint64_t at = 0; at < VALUE; at += BLOCK_BYTES) {
		size_t size = VALUE - at < BLOCK_BYTES ? VALUE - at : BLOCK_BYTES;

		assert_ok(terrace__block_writer_add(writer, terrace_bytes(bytes + at, size)));
	}
	assert_ok(terrace__block_writer_end(writer, record));
	terrace__block_writer_free(writer);
	return fd;
}

static void put_u32(uint8_t *at, uint32_t number)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(number >> 8 * i);
}

static void put_sum(uint8_t *at, const void *bytes, size_t size)
{
	XXH128_canonical_t sum;

	XXH128_canonicalFromHash(&sum, XXH3_128bits(bytes, size));
	memcpy(at, sum.digest, 16);
}

static void test_blocks__byte_for_byte(void **state)
{
	uint8_t *bytes = value(), *expected = calloc(1, VALUE + 1000), *file = malloc(VALUE + 1000);
	uint8_t *table = expected + VALUE, *root = table + 3 * 24;
	struct buf head = { 0 };
	struct record record;
	int fd = write_blocks(bytes, TERRACE_CODEC_NONE, &record);
	ssize_t size;

	(void)state;
	memcpy(expected, bytes, VALUE);
	for (int i = 0; i < 3; i++) {
		uint32_t stored = i < 2 ? BLOCK_BYTES : TAIL;

		put_u32(table + 24 * i, stored);
		table[24 * i + 4] = 1; /* TERRACE_CODEC_NONE */
		put_sum(table + 24 * i + 8, bytes + i * BLOCK_BYTES, stored);
	}
	put_u32(root, VALUE);
	put_sum(root + 8, table, 3 * 24);
	assert_int_equal(record.flags, 2);
	assert_int_equal(record.codec, TERRACE_CODEC_NONE);
	assert_int_equal(record.payload_size, VALUE + 3 * 24 + 24);
	put_sum(root + 24, root, 24);
	assert_memory_equal(record.payload_sum, root + 24, 16);
	terrace__record_write(&record, &head);
	memcpy(root + 24, head.data, head.size);
	size = pread(fd, file, VALUE + 1000, 0);
	assert_int_equal(size, VALUE + 3 * 24 + 24 + head.size);
	assert_memory_equal(file, expected, (size_t)size);
	terrace__buf_done(&head);
	free(bytes);
	free(expected);
	free(file);
	close(fd);
}

static void test_blocks__each_has_the_codec_that_is_of_use(void **state)
{
	static const terrace_codec codecs[] = { TERRACE_CODEC_LZ4, TERRACE_CODEC_ZSTD };
	uint8_t *bytes = value(), *block = malloc(BLOCK_BYTES);

	(void)state;
	for (int c = 0; c < 2; c++) {
		struct block_reader *reader;
		struct record record;
		int fd = write_blocks(bytes, codecs[c], &record);

		assert_int_equal(record.codec, codecs[c]);
		assert_true(record.payload_size < BLOCK_BYTES + BLOCK_BYTES / 16);
		assert_ok(terrace__block_reader_new(fd, 1, &record, &reader));
		assert_int_equal(terrace__block_reader_size(reader), VALUE);
		for (uint64_t i = 3; i-- > 0;) { /* in any order */
			assert_ok(terrace__block_reader_read(reader, i, block));
			assert_memory_equal(block, bytes + i * BLOCK_BYTES,
			                    i < 2 ? BLOCK_BYTES : TAIL);
		}
		terrace__block_reader_free(reader);
	}
	free(bytes);
	free(block);
}

/* Sizes in the head that are not the file's, and tables that lead out of it. */
static void test_blocks__what_cannot_be_is_damage(void **state)
{
	uint8_t *bytes = value(), *block = malloc(BLOCK_BYTES);
	struct block_reader *reader;
	struct record record, forged;
	int fd = write_blocks(bytes, TERRACE_CODEC_NONE, &record);
	uint8_t root[24], table[72];

	(void)state;
	forged = record;
	forged.payload_size = 5;
	assert_status(terrace__block_reader_new(fd, 1, &forged, &reader), TERRACE_ECORRUPT);
	forged = record;
	forged.value_size = UINT64_MAX;
	assert_status(terrace__block_reader_new(fd, 1, &forged, &reader), TERRACE_ECORRUPT);
	forged = record;
	forged.value_size += UINT64_C(1024) * BLOCK_BYTES;
	assert_status(terrace__block_reader_new(fd, 1, &forged, &reader), TERRACE_ECORRUPT);
	/* Right sums all the way, over a block that is larger than one may be. */
	assert_int_equal(pread(fd, table, 72, VALUE), 72);
	put_u32(table, BLOCK_BYTES + 1);
	assert_int_equal(pwrite(fd, table, 72, VALUE), 72);
	memset(root, 0, sizeof root);
	put_u32(root, VALUE);
	put_sum(root + 8, table, 72);
	assert_int_equal(pwrite(fd, root, 24, VALUE + 72), 24);
	forged = record;
	put_sum(forged.payload_sum, root, 24);
	assert_ok(terrace__block_reader_new(dup(fd), 1, &forged, &reader));
	assert_status(terrace__block_reader_read(reader, 0, block), TERRACE_ECORRUPT);
	terrace__block_reader_free(reader);
	/* A table behind the end. */
	memset(root, 0xff, 8);
	assert_int_equal(pwrite(fd, root, 24, VALUE + 72), 24);
	put_sum(forged.payload_sum, root, 24);
	assert_ok(terrace__block_reader_new(dup(fd), 1, &forged, &reader));
	assert_status(terrace__block_reader_read(reader, 0, block), TERRACE_ECORRUPT);
	terrace__block_reader_free(reader);
	close(fd);
	free(bytes);
	free(block);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blocks__byte_for_byte),
		cmocka_unit_test(test_blocks__each_has_the_codec_that_is_of_use),
		cmocka_unit_test(test_blocks__what_cannot_be_is_damage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
