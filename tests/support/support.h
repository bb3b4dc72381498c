/* What the tests have in common: a directory of their own, a clock, values. */
#ifndef SUPPORT_SUPPORT_H
#define SUPPORT_SUPPORT_H

/* cmocka wants these before it */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <terrace/terrace.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

/* A temporary directory, removed with everything in it. */
struct scratch {
	char path[128];
};

void scratch_make(struct scratch *scratch);
void scratch_remove(struct scratch *scratch);
/* A path in it; four of them are good at a time. */
const char *scratch_path(const struct scratch *scratch, const char *name);
void write_file(const char *path, const char *text);

/* A clock that stands until it is moved. */
struct test_clock {
	_Atomic int64_t now;
};
int64_t test_clock_now(void *ctx);

/* A store on a scratch directory and a standing clock. */
struct fixture {
	struct scratch scratch;
	struct test_clock clock;
	terrace_options options;
	terrace *store;
};
void fixture_open(struct fixture *f);
/* Close the store and open it again: nothing is left in memory. */
void fixture_reopen(struct fixture *f);
void fixture_close(struct fixture *f);
/* The stores that are opened from now on are of this boot. */
/* How many files its store has in L3. */
int fixture_files(const struct fixture *f);
void fixture_boot(struct fixture *f, int number);
/* One for each test, in *state. */
int fixture_setup(void **state);
int fixture_teardown(void **state);
terrace_cache *fixture_cache(struct fixture *f, const char *name, const terrace_policy *policy);
/* The same, and what this process puts is a row when put returns: for tests that look at rows. */
terrace_cache *fixture_rows(struct fixture *f, const char *name, const terrace_policy *policy);

/* The path of a file of L3; "" when there is none. */
void fixture_file(const struct fixture *f, char ret[600]);
/* Flip a bit of a file. */
void flip_bit(const char *path, off_t at, int bit);

/* Numbers that look random, the same for the same seed. */
struct rng {
	uint64_t state;
};
uint64_t rng_next(struct rng *rng);
uint64_t rng_below(struct rng *rng, uint64_t limit);
/* TEST_SEED from the environment, or a new one; printed, so that a failure can be run again. */
uint64_t test_seed(void);

#define assert_status(status, expected) \
	assert_status_at((status), (expected), #status, __FILE__, __LINE__)
void assert_status_at(int status, int expected, const char *what, const char *file, int line);
#define assert_ok(status) assert_status((status), TERRACE_OK)

/* A get gives these bytes, or misses. */
#define assert_gives(cache, key, text) assert_gives_at((cache), (key), (text), __FILE__, __LINE__)
void assert_gives_at(terrace_cache *cache, const char *key, const char *text, const char *file,
                     int line);
#define assert_misses(cache, key) assert_status(misses(cache, key), TERRACE_MISS)
int misses(terrace_cache *cache, const char *key);

int put_text(terrace_cache *cache, const char *key, const char *text);
/* For a loader of many keys that computes each alone. */
int load_each(terrace_load_fn *load, void *ctx, const terrace_slice *keys, size_t count,
              terrace_loaded *const *loaded);
/* "v", made from one source that `add` adds. */
void put_sourced(terrace_cache *cache, const char *key,
                 int (*add)(terrace_sources *sources, const char *what), const char *what);

#endif
