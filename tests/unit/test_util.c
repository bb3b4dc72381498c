/* The tools below everything: buffers, patterns, sizes and durations, paths, histograms. */
#include "support/support.h"

#include "util/buf.h"
#include "util/fs.h"
#include "util/glob.h"
#include "util/hash.h"
#include "util/histogram.h"
#include "util/text.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static void test_buf__numbers_are_little_endian(void **state)
{
	static const uint8_t expected[] = { 0x01, 0x03, 0x02, 0x07, 0x06, 0x05, 0x04, 0x0f,
		                            0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 0x09, 0x08 };
	struct buf buf = { 0 };
	struct reader reader;

	(void)state;
	terrace__buf_u8(&buf, 1);
	terrace__buf_u16(&buf, 0x0203);
	terrace__buf_u32(&buf, 0x04050607);
	terrace__buf_u64(&buf, UINT64_C(0x08090a0b0c0d0e0f));
	assert_int_equal(buf.size, sizeof expected);
	assert_memory_equal(buf.data, expected, sizeof expected);
	reader = terrace__reader(buf.data, buf.size);
	assert_int_equal(terrace__read_u8(&reader), 1);
	assert_int_equal(terrace__read_u16(&reader), 0x0203);
	assert_int_equal(terrace__read_u32(&reader), 0x04050607);
	assert_int_equal(terrace__read_u64(&reader), UINT64_C(0x08090a0b0c0d0e0f));
	assert_false(reader.failed);
	assert_int_equal(terrace__read_u8(&reader), 0);
	assert_true(reader.failed);
	terrace__buf_done(&buf);
}

static void test_reader__never_reads_past_the_end(void **state)
{
	const uint8_t three[3] = { 1, 2, 3 };
	struct reader reader = terrace__reader(three, sizeof three);

	(void)state;
	assert_int_equal(terrace__read_u32(&reader), 0);
	assert_true(reader.failed);
	/* and stays failed, though a byte would be there */
	assert_int_equal(terrace__read_u8(&reader), 0);
	assert_null(terrace__read_bytes(&reader, 1));
}

static void test_buf__a_size_that_overflows_fails(void **state)
{
	struct buf buf = { 0 };

	(void)state;
	terrace__buf_u8(&buf, 1);
	assert_false(terrace__buf_reserve(&buf, SIZE_MAX));
	assert_true(buf.failed);
	assert_int_equal(buf.size, 1);
	terrace__buf_done(&buf);
}

static bool glob(const char *pattern, const char *text)
{
	return terrace__glob_match(pattern, strlen(pattern), text, strlen(text));
}

static void test_glob__matches_what_shells_match(void **state)
{
	(void)state;
	assert_true(glob("", ""));
	assert_false(glob("", "a"));
	assert_true(glob("*", ""));
	assert_true(glob("*", "a/b:c"));
	assert_true(glob("a*c", "ac"));
	assert_true(glob("a*c", "abbbc"));
	assert_false(glob("a*c", "abbb"));
	assert_true(glob("*a*b*", "xxaxxbxx"));
	assert_false(glob("*a*b*", "xxbxxaxx"));
	assert_true(glob("a?c", "abc"));
	assert_false(glob("a?c", "ac"));
	assert_true(glob("[abc]x", "bx"));
	assert_false(glob("[abc]x", "dx"));
	assert_true(glob("[a-c]", "b"));
	assert_false(glob("[a-c]", "d"));
	assert_true(glob("[!a-c]", "d"));
	assert_false(glob("[!a-c]", "b"));
	assert_true(glob("[]a]", "]"));
	assert_true(glob("[a-]", "-"));
	assert_true(glob("\\*", "*"));
	assert_false(glob("\\*", "a"));
	assert_true(glob("[\\]]", "]"));
	assert_true(glob("tile:*:3_[0-9].jpg", "tile:cmu:3_7.jpg"));
}

static void test_glob__bytes_are_unsigned_and_nul_is_a_byte(void **state)
{
	(void)state;
	assert_true(terrace__glob_match("a?c", 3, "a\0c", 3));
	assert_true(terrace__glob_match("[\x80-\xff]", 5, "\xe9", 1));
	assert_false(terrace__glob_match("[\x80-\xff]", 5, "a", 1));
}

static void test_glob__many_stars_take_no_exponential_time(void **state)
{
	char text[4097];

	(void)state;
	memset(text, 'a', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	/* 2^24 tries and more, if every star were tried everywhere */
	assert_false(glob("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", text));
}

static void test_glob__malformed_patterns_are_told(void **state)
{
	(void)state;
	assert_true(terrace__glob_valid("a*[b-c]\\*", 9));
	assert_false(terrace__glob_valid("[abc", 4));
	assert_false(terrace__glob_valid("[", 1));
	assert_false(terrace__glob_valid("[]", 2));
	assert_false(terrace__glob_valid("a\\", 2));
	/* and match nothing, rather than reading on */
	assert_false(glob("[abc", "a"));
	assert_false(glob("\\", "\\"));
}

static void assert_size(const char *text, uint64_t expected)
{
	uint64_t bytes = 0;

	if (!terrace__text_size(text, &bytes))
		fail_msg("%s is no size", text);
	assert_int_equal(bytes, expected);
}

static void assert_no_size(const char *text)
{
	uint64_t bytes;

	if (terrace__text_size(text, &bytes))
		fail_msg("%s is %llu", text, (unsigned long long)bytes);
}

static void test_text__sizes_as_people_write_them(void **state)
{
	(void)state;
	assert_size("0", 0);
	assert_size("1000", 1000);
	assert_size("640B", 640);
	assert_size("64K", 65536);
	assert_size("64k", 65536);
	assert_size("64KB", 65536);
	assert_size("64KiB", 65536);
	assert_size("64 MiB", UINT64_C(64) << 20);
	assert_size("1.5G", UINT64_C(3) << 29);
	assert_size("2T", UINT64_C(2) << 40);
	assert_no_size("");
	assert_no_size("M");
	assert_no_size("-1");
	assert_no_size("1.5");
	assert_no_size("1.M");
	assert_no_size("5X");
	assert_no_size("5 Mb/s");
	assert_no_size("64MiBs");
	assert_no_size("9223372036854775808");
	assert_no_size("9999999999T");
	/* digits behind the point that make one more: 2^63 */
	assert_no_size("8388607.99999999999999999999T");
}

static void assert_duration(const char *text, int64_t expected)
{
	int64_t ms = 0;

	if (!terrace__text_duration(text, &ms))
		fail_msg("%s is no duration", text);
	assert_int_equal(ms, expected);
}

static void assert_no_duration(const char *text)
{
	int64_t ms;

	if (terrace__text_duration(text, &ms))
		fail_msg("%s is %lld", text, (long long)ms);
}

static void test_text__durations_as_people_write_them(void **state)
{
	(void)state;
	assert_duration("0", 0);
	assert_duration("250ms", 250);
	assert_duration("90s", 90000);
	assert_duration("5m", 300000);
	assert_duration("2h", 7200000);
	assert_duration("1h30m", 5400000);
	assert_duration("7d", INT64_C(604800000));
	assert_duration("1w", INT64_C(604800000));
	assert_duration("forever", -1);
	assert_no_duration("");
	assert_no_duration("60");
	assert_no_duration("h");
	assert_no_duration("-1s");
	assert_no_duration("1.5h");
	assert_no_duration("1h 30m");
	assert_no_duration("1y");
	assert_no_duration("99999999999999999w");
	assert_no_duration("Forever");
}

static void test_text__what_is_written_can_be_read(void **state)
{
	static const int64_t durations[] = {
		0, 1, 999, 1000, 61000, 5400000, INT64_C(90061000), -1
	};
	static const uint64_t sizes[] = { 0, 1, 1023, 1024, 1536, 64 << 20, UINT64_C(3) << 40 };
	char text[TERRACE_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		uint64_t read = 1;

		terrace__text_put_size(sizes[i], text, sizeof text);
		assert_true(terrace__text_size(text, &read));
		assert_int_equal(read, sizes[i]);
	}
	for (size_t i = 0; i < sizeof durations / sizeof *durations; i++) {
		int64_t read = 1;

		terrace__text_put_duration(durations[i], text, sizeof text);
		assert_true(terrace__text_duration(text, &read));
		/* two units at the most: a day and a minute drop the second */
		assert_true(read <= durations[i] && read >= durations[i] - 61000);
	}
	terrace__text_put_size(1536, text, sizeof text);
	assert_string_equal(text, "1.5 KiB");
	terrace__text_put_duration(5400000, text, sizeof text);
	assert_string_equal(text, "1h30m");
}

static void test_path__is_made_absolute_by_text(void **state)
{
	char path[PATH_MAX], cwd[PATH_MAX], expected[PATH_MAX + 8];

	(void)state;
	assert_int_equal(terrace__absolute_path("/a/./b//c/../d", path, sizeof path), 0);
	assert_string_equal(path, "/a/b/d");
	assert_int_equal(terrace__absolute_path("/../..", path, sizeof path), 0);
	assert_string_equal(path, "/");
	assert_int_equal(terrace__absolute_path("/a/b/../..", path, sizeof path), 0);
	assert_string_equal(path, "/");
	assert_non_null(getcwd(cwd, sizeof cwd));
	snprintf(expected, sizeof expected, "%s/x", cwd);
	assert_int_equal(terrace__absolute_path("./x", path, sizeof path), 0);
	assert_string_equal(path, expected);
	assert_int_equal(terrace__absolute_path("/abcdef", path, 7), -ENAMETOOLONG);
	assert_int_equal(terrace__absolute_path("/abcdef", path, 8), 0);
	assert_int_equal(terrace__absolute_path("", path, sizeof path), -ENOENT);
}

static void test_histogram__buckets_are_within_their_bounds(void **state)
{
	(void)state;
	for (uint64_t ns = 1; ns < UINT64_C(1) << 38; ns += ns / 7 + 1) {
		uint64_t value = terrace__histogram_value(terrace__histogram_bucket(ns));
		double off = (double)value / (double)ns;

		if (off < 1 / 1.19 || off > 1.19)
			fail_msg("%llu ns are shown as %llu", (unsigned long long)ns,
			         (unsigned long long)value);
	}
	assert_int_equal(terrace__histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
	assert_int_equal(terrace__histogram_bucket(0), 0);
}

/* --- hashes ------------------------------------------------------------------------------ */

/* One way for each kind of processor, and one for pieces. */
static void test_hash__is_the_same_whichever_way_it_is_computed(void **state)
{
	enum { MOST = 70000 };
	uint8_t *data = malloc(MOST + 64);

	(void)state;
	assert_non_null(data);
	for (size_t i = 0; i < MOST + 64; i++)
		data[i] = (uint8_t)(i * 31 + i / 251);
	for (size_t size = 0; size <= MOST; size += size < 2100 ? 1 : 6133) {
		const uint8_t *from = data + size % 64;
		struct hash128 whole = terrace__hash128(from, size, 0), pieces;
		struct hasher *hasher = terrace__hasher_new();

		assert_non_null(hasher);
		terrace__hasher_add(hasher, from, size / 3);
		terrace__hasher_add(hasher, from + size / 3, size - size / 3);
		pieces = terrace__hasher_sum(hasher);
		terrace__hasher_free(hasher);
		assert_true(whole.low == pieces.low && whole.high == pieces.high);
	}
	/* What is on disk is known by this. */
	for (size_t size = 0; size <= MOST; size += size < 700 ? 1 : 6133)
		assert_true(terrace__hash64(data, size, 7) == XXH3_64bits_withSeed(data, size, 7));
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hash__is_the_same_whichever_way_it_is_computed),
		cmocka_unit_test(test_buf__numbers_are_little_endian),
		cmocka_unit_test(test_reader__never_reads_past_the_end),
		cmocka_unit_test(test_buf__a_size_that_overflows_fails),
		cmocka_unit_test(test_glob__matches_what_shells_match),
		cmocka_unit_test(test_glob__bytes_are_unsigned_and_nul_is_a_byte),
		cmocka_unit_test(test_glob__many_stars_take_no_exponential_time),
		cmocka_unit_test(test_glob__malformed_patterns_are_told),
		cmocka_unit_test(test_text__sizes_as_people_write_them),
		cmocka_unit_test(test_text__durations_as_people_write_them),
		cmocka_unit_test(test_text__what_is_written_can_be_read),
		cmocka_unit_test(test_path__is_made_absolute_by_text),
		cmocka_unit_test(test_histogram__buckets_are_within_their_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
