/* What finds a row: neighbours are near each other, and no two keys are taken for one. */
#include "support/support.h"

#include "tiers/tier.h"
#include "util/hash.h"
#include "util/util.h"

enum { LOW_BITS = ROW_HASH_BITS, SHARED_BITS = 12 };

static uint64_t row_of(uint32_t cache, const char *key)
{
	uint64_t hash = terrace__hash64(key, strlen(key), cache + 1);
	const struct tier_key hashed = { .key = terrace_str(key), .hash = hash, .cache = cache };
	uint64_t row = terrace__row_hash(&hashed);

	/* by which places in memory are found from rows */
	assert_int_equal((row ^ hash) << (64 - LOW_BITS), 0);
	return row;
}

/* With every number from `from` on, in the order of SQLite's signed integers. */
static void assert_in_order(const char *format, unsigned from, unsigned count)
{
	int64_t before = INT64_MIN;
	uint64_t shared = 0;
	char key[200];

	for (unsigned i = 0; i < count; i++) {
		uint64_t row;

		snprintf(key, sizeof key, format, from + i);
		row = row_of(7, key);
		if (i == 0)
			shared = row >> (64 - SHARED_BITS);
		assert_int_equal(row >> (64 - SHARED_BITS), shared);
		assert_true((int64_t)row > before);
		before = (int64_t)row;
	}
}

static void test_row__numbers_in_a_row_are_near(void **state)
{
	(void)state;
	assert_in_order("tile/3/%u.png", 1200, 100);
	assert_in_order("%u", 100, 100);
	assert_in_order("%u", 0, 10);
	assert_in_order("chunk:%015u", 0, 100);
	/* 62 bytes behind it: as far as is looked for one */
	assert_in_order("%02u-a-tail-of-sixty-two-bytes-in-which-there-is-no-single-numeral", 0,
	                100);
}

static void test_row__others_are_not(void **state)
{
	char key[32];
	unsigned same = 0;

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t first, second, apart;

		snprintf(key, sizeof key, "block/%u00", i);
		first = row_of(7, key) >> (64 - SHARED_BITS);
		apart = row_of(8, key) >> (64 - SHARED_BITS);
		snprintf(key, sizeof key, "block/%u00", i + 1);
		second = row_of(7, key) >> (64 - SHARED_BITS);
		same += (first == second) + (first == apart);
	}
	/* 2,000 pairs, of which one in 4,096 should be */
	assert_in_range(same, 0, 5);
}

static int compare(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return left < right ? -1 : left > right;
}

/* All of one number, all of one prefix, and numbers of one, two and three digits. */
static void test_row__no_two_keys_have_one(void **state)
{
	static const char *const formats[] = { "7/%c%c%c", "%c%c7%c", "x%c%c%c12", "%c%c%c" };
	enum { LETTERS = 40, EACH = LETTERS * LETTERS * LETTERS };
	uint64_t *rows = calloc(EACH * ARRAY_LEN(formats), sizeof *rows);
	size_t count = 0;
	char key[16];

	(void)state;
	for (size_t f = 0; f < ARRAY_LEN(formats); f++) {
		for (unsigned i = 0; i < EACH; i++) {
			snprintf(key, sizeof key, formats[f], '0' + i % LETTERS,
			         '0' + i / LETTERS % LETTERS, '0' + i / LETTERS / LETTERS);
			rows[count++] = row_of(7, key);
		}
	}
	qsort(rows, count, sizeof *rows, compare);
	for (size_t i = 1; i < count; i++)
		assert_int_not_equal(rows[i - 1], rows[i]);
	free(rows);
}

static void test_row__without_a_number_it_is_the_hash(void **state)
{
	static const char *const keys[] = { "a", "src/main.c", "",
		                            "9-and-a-tail-of-more-than-sixty-four-bytes-in-which-"
		                            "there-is-no-digit-at-all" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		assert_int_equal(row_of(7, keys[i]), terrace__hash64(keys[i], strlen(keys[i]), 8));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_row__numbers_in_a_row_are_near),
		cmocka_unit_test(test_row__others_are_not),
		cmocka_unit_test(test_row__no_two_keys_have_one),
		cmocka_unit_test(test_row__without_a_number_it_is_the_hash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
