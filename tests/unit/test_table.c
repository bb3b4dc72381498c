/* The search of a table as processors without SSE2 have it, beside looking at each byte. */
#define TABLE_PORTABLE 1

#include "tiers/memory/table.h"

#include "support/support.h"

enum { ROUNDS = 100000 };

/* Few tags, so that often there are several. */
static void test_table__tags_are_found(void **state)
{
	struct rng rng = { test_seed() };

	(void)state;
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t tags = rng_next(&rng) & UINT64_C(0xff83838383838383);
		uint64_t tag = rng_next(&rng) & 0x83, first = BUCKET_WORDS;
		uint64_t found = tags_find(tags, tag);

		for (uint64_t k = 0; k < BUCKET_WORDS && first == BUCKET_WORDS; k++) {
			if ((tags >> 8 * k & 255) == tag)
				first = k;
		}
		if (first == BUCKET_WORDS)
			assert_true(found == 0);
		else
			assert_int_equal(tag_word(found), first);
	}
}

static void test_table__every_byte_counts(void **state)
{
	enum { LONGEST = 100 };
	uint8_t a[LONGEST], b[LONGEST];

	(void)state;
	memset(a, 'a', sizeof a);
	memset(b, 'a', sizeof b);
	for (size_t size = 1; size <= LONGEST; size++) {
		assert_true(same_bytes(a, b, size));
		for (size_t at = 0; at < size; at++) {
			b[at] = 'b';
			assert_false(same_bytes(a, b, size));
			b[at] = 'a';
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table__tags_are_found),
		cmocka_unit_test(test_table__every_byte_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
