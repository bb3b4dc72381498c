/*
 * Reads without SQLite's locks, beside another process that writes, starts its
 * log anew and empties it: none is older than what was written before it began,
 * none is a mixture, none is missed.
 */
#include "support/support.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KEYS = 8, READERS = 2, WRITES = 6000, VALUE_BYTES = 6000 };

struct board {
	_Atomic uint64_t written[KEYS]; /* the turn whose put has returned */
	_Atomic bool done;
	_Atomic uint64_t reads, older, mixed, missed;
};

static terrace_cache *open_rows(const struct fixture *f, terrace **ret_store)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	policy.tiers = TERRACE_L2;
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, ret_store));
	assert_ok(terrace_cache_open(*ret_store, "rows", &policy, &cache));
	return cache;
}

static terrace_slice name_of(unsigned key, char text[16])
{
	snprintf(text, 16, "key %u", key);
	return terrace_str(text);
}

/* All of a value is its turn, over and over. */
static void look(terrace_cache *cache, struct board *board, unsigned key)
{
	uint64_t before = atomic_load(&board->written[key]);
	const uint64_t *turns;
	terrace_value *value;
	char name[16];

	if (terrace_get(cache, name_of(key, name), &value) != TERRACE_OK) {
		atomic_fetch_add(&board->missed, 1);
		return;
	}
	turns = terrace_data(value);
	if (turns[0] < before)
		atomic_fetch_add(&board->older, 1);
	for (size_t i = 1; i < terrace_size(value) / sizeof *turns; i++) {
		if (turns[i] != turns[0]) {
			atomic_fetch_add(&board->mixed, 1);
			break;
		}
	}
	atomic_fetch_add(&board->reads, 1);
	terrace_release(value);
}

static void read_on(const struct fixture *f, struct board *board, uint64_t seed)
{
	struct rng rng = { seed };
	terrace *store;
	terrace_cache *cache = open_rows(f, &store);

	while (!atomic_load(&board->done))
		look(cache, board, (unsigned)rng_below(&rng, KEYS));
	terrace_cache_close(cache);
	terrace_close(store);
}

static void put_turn(terrace_cache *cache, struct board *board, unsigned key, uint64_t turn)
{
	uint64_t value[VALUE_BYTES / sizeof(uint64_t)];
	char name[16];

	for (size_t i = 0; i < VALUE_BYTES / sizeof *value; i++)
		value[i] = turn;
	assert_ok(terrace_put(cache, name_of(key, name), terrace_bytes(value, sizeof value), NULL));
	atomic_store(&board->written[key], turn);
}

static void test_snapshot__beside_a_writer_is_whole_and_of_now(void **state)
{
	struct fixture *f = *state;
	struct board *board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE,
	                           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t seed = test_seed();
	struct rng rng = { seed };
	pid_t readers[READERS];
	terrace *store;
	terrace_cache *cache;

	assert_ptr_not_equal(board, MAP_FAILED);
	terrace_close(f->store);
	f->store = NULL;
	f->options.disk_bytes = 16 << 20; /* a short log: it starts anew all the time */
	cache = open_rows(f, &store);
	for (unsigned key = 0; key < KEYS; key++)
		put_turn(cache, board, key, 1);
	terrace_cache_close(cache);
	terrace_close(store);
	for (int i = 0; i < READERS; i++) {
		readers[i] = fork();
		if (readers[i] == 0) {
			read_on(f, board, seed + (uint64_t)i + 1);
			_exit(0);
		}
	}
	cache = open_rows(f, &store);
	for (uint64_t turn = 2; turn < WRITES; turn++) {
		uint64_t reads = atomic_load(&board->reads);

		put_turn(cache, board, (unsigned)rng_below(&rng, KEYS), turn);
		/* Some go unseen, others are read again and again. */
		if (turn % 3 == 0) {
			for (int i = 0; i < 20000 && atomic_load(&board->reads) < reads + 20; i++)
				;
		}
		if (turn % 100 == 0) {
			terrace_cache_close(cache);
			terrace_close(store);
			cache = open_rows(f, &store);
		}
	}
	atomic_store(&board->done, true);
	for (int i = 0; i < READERS; i++) {
		int status;

		assert_int_equal(waitpid(readers[i], &status, 0), readers[i]);
		assert_int_equal(status, 0);
	}
	terrace_cache_close(cache);
	terrace_close(store);
	print_message("%llu reads\n", (unsigned long long)atomic_load(&board->reads));
	assert_int_equal(atomic_load(&board->older), 0);
	assert_int_equal(atomic_load(&board->mixed), 0);
	assert_int_equal(atomic_load(&board->missed), 0);
	assert_true(atomic_load(&board->reads) > WRITES);
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	munmap(board, sizeof *board);
}

static int setup(void **state)
{
	static struct fixture f;

	fixture_open(&f);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	fixture_close(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_snapshot__beside_a_writer_is_whole_and_of_now,
		                                setup, teardown),
	};

	return cmocka_run_group_tests_name("snapshot", tests, NULL, NULL);
}
