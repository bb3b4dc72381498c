/* The words that processes share: numbers go on above all that were, whatever was damaged. */
#include "support/support.h"

#include "core/coherence.h"

#include <sys/mman.h>

enum { NONSENSE = 0x6f6e6f77 };

static int setup(void **state)
{
	struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
	                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED)
		return -1;
	shared->head.salt = 4711;
	terrace__shared_fill(shared);
	*state = shared;
	return 0;
}

static int teardown(void **state)
{
	return munmap(*state, sizeof(struct shared));
}

static void test_draw__goes_on_above_all_that_is_known(void **state)
{
	struct shared *shared = *state;
	uint64_t drawn = terrace__draw(shared), next;

	assert_int_equal(terrace__draw(shared), drawn + 1);
	/* the last commit's number is known */
	atomic_store(&shared->committed, word_make(shared, PLACE_COMMITTED, 1000));
	atomic_store(&shared->seq, NONSENSE);
	next = terrace__draw(shared);
	assert_true(next > 1000);
	assert_int_equal(terrace__draw(shared), next + 1);
	/* that is damaged too: a floor has not been passed before it was drawn */
	terrace__floor_set(shared, &shared->caches[3], next + 5);
	atomic_store(&shared->caches[4].floor, NONSENSE);
	atomic_store(&shared->committed, NONSENSE);
	atomic_store(&shared->seq, NONSENSE);
	assert_true(terrace__draw(shared) > next + 5);
}

static void test_commits__a_damaged_count_becomes_one_that_never_was(void **state)
{
	struct shared *shared = *state;
	uint64_t before, after;

	terrace__commits_count(shared);
	before = word_value(atomic_load(&shared->commits));
	terrace__commits_count(shared);
	assert_int_equal(word_value(atomic_load(&shared->commits)), before + 1);
	atomic_store(&shared->commits, NONSENSE);
	terrace__commits_count(shared);
	after = atomic_load(&shared->commits);
	assert_true(word_holds(shared, PLACE_COMMITS, after));
	assert_true(word_value(after) > before + 1);
}

static void test_version__is_marked_when_nothing_waits(void **state)
{
	struct shared *shared = *state;
	uint64_t version = version_load(shared, 7), marked, cleared;

	uint64_t waits = word_make(shared, 7, word_value(version) | VERSION_BEHIND);

	/* not while a value waits, but where that cannot be helped */
	atomic_store(&shared->versions[7], waits);
	assert_int_equal(terrace__version_mark(shared, 7, false), 0);
	assert_int_equal(version_load(shared, 7), waits);
	marked = terrace__version_mark(shared, 7, true);
	assert_true(version_is_writing(marked) && version_is_behind(marked));
	atomic_store(&shared->versions[7], version);
	marked = terrace__version_mark(shared, 7, false);
	assert_true(version_is_writing(marked));
	assert_true(version_number(marked) > version_number(version));
	/* who cleared it after another mark knows that the number is not its own */
	assert_true(terrace__version_clear(shared, 7, version_number(version), &cleared));
	assert_int_equal(cleared, 0);
	assert_false(terrace__version_clear(shared, 7, version_number(marked), &cleared));
	assert_int_equal(version_number(cleared), version_number(marked));
}

/* That what waited has become a row takes a mark off; any other write moves the number. */
static void test_version__stands_while_nothing_else_is_written(void **state)
{
	struct shared *shared = *state;
	uint64_t version = version_load(shared, 8), moved = terrace__version_move(shared, 8);
	uint64_t waits = word_make(shared, 8, word_value(moved) | VERSION_BEHIND);

	assert_true(version_stands(shared, 8, moved, moved));
	assert_true(version_stands(shared, 8, waits, moved));
	assert_false(version_stands(shared, 8, moved, waits));
	assert_false(version_stands(shared, 8, version, moved));
	assert_false(version_stands(
	    shared, 8, word_make(shared, 8, word_value(version) | VERSION_BEHIND), moved));
	/* a flipped bit does not make it stand */
	for (int bit = 0; bit < 64; bit++)
		assert_false(version_stands(shared, 8, waits, moved ^ UINT64_C(1) << bit));
}

/* A copy that was made before carries no number that comes after. */
static void test_version__damage_is_mended_above_and_with_both_marks(void **state)
{
	struct shared *shared = *state;
	uint64_t before = version_load(shared, 9), mended;

	atomic_store(&shared->versions[9], NONSENSE);
	mended = terrace__version_mend(shared, 9, atomic_load(&shared->versions[9]));
	assert_true(version_is_writing(mended) && version_is_behind(mended));
	assert_true(version_number(mended) > version_number(before));
	assert_int_equal(atomic_load(&shared->hurt), 1);
	/* who finds it mended leaves it */
	assert_int_equal(terrace__version_mend(shared, 9, NONSENSE), mended);
	/* of memory alone: nobody writes it, and nothing waits */
	atomic_store(&shared->versions[VERSIONS + 2], NONSENSE);
	mended = terrace__version_mend(shared, VERSIONS + 2, NONSENSE);
	assert_false(version_is_writing(mended));
}

static void test_repair__leaves_no_mark_of_writing_and_no_damage(void **state)
{
	struct shared *shared = *state;
	uint64_t epoch, floor;

	terrace__version_mark(shared, 1, false);
	atomic_store(&shared->versions[2], NONSENSE);
	atomic_store(&shared->versions[VERSIONS + 1], NONSENSE);
	terrace__floor_set(shared, &shared->caches[0], 12);
	atomic_store(&shared->caches[1].epoch, NONSENSE);
	atomic_store(&shared->caches[1].floor, NONSENSE);
	atomic_store(&shared->writing, 1);
	assert_true(terrace__floor(shared, &shared->caches[1]) == UINT64_MAX);
	terrace__shared_repair(shared);
	for (uint32_t slot = 0; slot < VERSIONS + MEMORY_VERSIONS; slot++) {
		uint64_t version = atomic_load(&shared->versions[slot]);

		if (!word_holds(shared, slot, version) || version_is_writing(version))
			fail_msg("slot %u is left as %llx", slot, (unsigned long long)version);
	}
	epoch = atomic_load(&shared->caches[1].epoch);
	floor = terrace__floor(shared, &shared->caches[1]);
	assert_true(word_holds(shared, PLACE_EPOCHS + 1, epoch));
	assert_true(floor != UINT64_MAX && floor > 0);
	assert_int_equal(terrace__floor(shared, &shared->caches[0]), 12);
	assert_int_equal(atomic_load(&shared->writing), 0);
	assert_int_equal(atomic_load(&shared->hurt), 0);
}

static void test_names__a_damaged_name_is_none(void **state)
{
	struct shared *shared = *state;

	assert_false(terrace__cache_is_named(shared, 5));
	terrace__cache_name(shared, 5, "five");
	assert_true(terrace__cache_is_named(shared, 5));
	shared->caches[5].name[0] = 'h';
	assert_false(terrace__cache_is_named(shared, 5));
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_draw__goes_on_above_all_that_is_known),
		TEST(test_commits__a_damaged_count_becomes_one_that_never_was),
		TEST(test_version__is_marked_when_nothing_waits),
		TEST(test_version__stands_while_nothing_else_is_written),
		TEST(test_version__damage_is_mended_above_and_with_both_marks),
		TEST(test_repair__leaves_no_mark_of_writing_and_no_damage),
		TEST(test_names__a_damaged_name_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
