/* The allocator of entries: objects do not overlap, and memory comes back. */
#include "support/support.h"

#include "util/heap.h"
#include "util/region.h"
#include "util/slab.h"
#include "util/util.h"

#include <pthread.h>
#include <stdio.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* All of it is written, so that what overlaps shows. */
static void *take_filled(size_t size, uint8_t byte)
{
	void *object = terrace__slab_take(size);

	assert_non_null(object);
	assert_int_equal((uintptr_t)object % 16, 0);
	memset(object, byte, size);
	return object;
}

static bool is_filled(const uint8_t *object, size_t size, uint8_t byte)
{
	size_t i = 0;

	while (i < size && object[i] == byte)
		i++;
	return i == size;
}

static void take_all(void **objects, size_t count, size_t size, uint8_t byte)
{
	for (size_t k = 0; k < count; k++)
		objects[k] = take_filled(size, byte);
}

static void give_all(void **objects, size_t count, size_t size)
{
	for (size_t k = 0; k < count; k++)
		terrace__slab_give(objects[k], size);
}

static void test_every_size_has_its_room(void **state)
{
	enum { EACH = 3 };
	static uint8_t *objects[SLAB_MOST + 64][EACH];

	(void)state;
	for (size_t size = 1; size < ARRAY_LEN(objects); size++) {
		for (size_t i = 0; i < EACH; i++)
			objects[size][i] = take_filled(size, (uint8_t)(size * EACH + i));
	}
	for (size_t size = 1; size < ARRAY_LEN(objects); size++) {
		for (size_t i = 0; i < EACH; i++) {
			assert_true(is_filled(objects[size][i], size, (uint8_t)(size * EACH + i)));
			terrace__slab_give(objects[size][i], size);
		}
	}
}

/* Distance of neighbours that were never out before, less what was asked for. */
static void test_little_is_wasted(void **state)
{
	static const size_t sizes[] = { 17, 89, 225, 513, 545, 1000, SLAB_MOST };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		size_t before, mapped, count = 8 * REGION / sizes[i];
		void **objects = calloc(count, sizeof *objects);

		terrace__slab_trim();
		before = terrace__slab_mapped();
		for (size_t k = 0; k < count; k++)
			objects[k] = terrace__slab_take(sizes[i]);
		mapped = terrace__slab_mapped() - before;
		/* A sixteenth, steps of sixteen bytes, and what is left at the end of a span. */
		assert_in_range(mapped, 7 * REGION,
		                (count * (sizes[i] + sizes[i] / 16 + 16)) * 9 / 8 + 2 * REGION);
		give_all(objects, count, sizes[i]);
		/* But for one, and what is at hand. */
		assert_true(terrace__slab_mapped() <= before + 2 * REGION);
		terrace__slab_trim();
		assert_true(terrace__slab_mapped() <= before);
		free(objects);
	}
}

/* Of spans that were full one here and one there is given, and taken again. */
static void test_what_is_given_is_taken_again(void **state)
{
	enum { COUNT = 20000 };
	static void *objects[COUNT];
	size_t mapped;

	(void)state;
	take_all(objects, COUNT, 256, 1);
	mapped = terrace__slab_mapped();
	for (size_t k = 0; k < COUNT; k += 2)
		terrace__slab_give(objects[k], 256);
	for (size_t k = 0; k < COUNT; k += 2)
		objects[k] = take_filled(256, 2);
	assert_int_equal(terrace__slab_mapped(), mapped);
	for (size_t k = 0; k < COUNT; k++) {
		assert_true(is_filled(objects[k], 256, k % 2 ? 1 : 2));
		terrace__slab_give(objects[k], 256);
	}
}

static size_t resident(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	unsigned long total, pages = 0;

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%lu %lu", &total, &pages), 2);
	fclose(file);
	return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* A region stays for the one object that is in it; all other spans of it need not. */
static void test_trim__takes_what_nothing_is_in_and_nothing_else(void **state)
{
	enum { COUNT = 80000, KEPT = 4000 };
	static void *objects[COUNT];
	size_t full;

	(void)state;
	for (size_t k = 0; k < COUNT; k++)
		objects[k] = take_filled(512, (uint8_t)k);
	full = resident();
	for (size_t k = 0; k < COUNT; k++) {
		if (k % KEPT)
			terrace__slab_give(objects[k], 512);
	}
	terrace__slab_trim();
	assert_true(resident() + 30000 * (size_t)512 < full);
	for (size_t k = 0; k < COUNT; k += KEPT) {
		assert_true(is_filled(objects[k], 512, (uint8_t)k));
		terrace__slab_give(objects[k], 512);
	}
	/* And what went can be had again. */
	take_all(objects, COUNT, 512, 3);
	for (size_t k = 0; k < COUNT; k++)
		assert_true(is_filled(objects[k], 512, 3));
	give_all(objects, COUNT, 512);
}

/* What one size gave back another takes. */
static void test_a_span_changes_its_size(void **state)
{
	enum { COUNT = 20000 };
	static void *objects[COUNT];
	size_t mapped;

	(void)state;
	take_all(objects, COUNT, 256, 1);
	mapped = terrace__slab_mapped();
	give_all(objects, COUNT, 256);
	take_all(objects, COUNT / 2, 512, 2);
	assert_true(terrace__slab_mapped() <= mapped + REGION);
	give_all(objects, COUNT / 2, 512);
}

static void no_memory_is_said(size_t size)
{
	struct rlimit all, little = { .rlim_cur = 64 << 20, .rlim_max = RLIM_INFINITY };
	void **objects = calloc(1 << 20, sizeof *objects);
	size_t count = 0;

	assert_int_equal(getrlimit(RLIMIT_AS, &all), 0);
	little.rlim_max = all.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_AS, &little), 0);
	while (count < 1 << 20 && (objects[count] = terrace__slab_take(size)))
		count++;
	assert_int_equal(setrlimit(RLIMIT_AS, &all), 0);
	assert_in_range(count, 1, (1 << 20) - 1);
	/* And it goes on where there is memory again. */
	objects[count] = terrace__slab_take(size);
	assert_non_null(objects[count]);
	give_all(objects, count + 1, size);
	free(objects);
}

static void test_no_memory_is_said(void **state)
{
	(void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	print_message("skipped: a sanitizer maps more than any limit\n");
	(void)no_memory_is_said;
	skip();
#else
	no_memory_is_said(512);
	no_memory_is_said(5000);
#endif
}

/* --- threads ------------------------------------------------------------------------------------ */

enum { THREADS = 4, ROUNDS = 20000, PLACES = 256 };

/* Objects lie in places that all threads give from and take to; some are the heap's, or malloc's. */
struct held {
	uint8_t *object;
	uint32_t size;
	uint8_t byte;
};

static struct held places[PLACES];
static pthread_mutex_t places_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic unsigned overlaps;

static struct held swap(uint32_t at, struct held held)
{
	struct held old;

	pthread_mutex_lock(&places_lock);
	old = places[at];
	places[at] = held;
	pthread_mutex_unlock(&places_lock);
	return old;
}

static void give(const struct held *held)
{
	if (!held->object)
		return;
	overlaps += !is_filled(held->object, held->size, held->byte);
	terrace__slab_give(held->object, held->size);
}

static void *take_and_give(void *seed)
{
	uint32_t random = (uint32_t)(uintptr_t)seed;

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct held held, old;

		random = random * 1664525 + 1013904223;
		held.size = 64 + (random >> 8) % (random % 64 ? 2000 : 160000);
		held.byte = (uint8_t)random;
		held.object = terrace__slab_take(held.size);
		if (held.object)
			memset(held.object, held.byte, held.size);
		old = swap((random >> 20) % PLACES, held);
		give(&old);
	}
	return NULL;
}

static void test_threads_give_what_others_took(void **state)
{
	pthread_t threads[THREADS];
	size_t before;

	(void)state;
	terrace__slab_trim();
	before = terrace__slab_mapped();
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, take_and_give, (void *)(i + 1)),
		                 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (uint32_t i = 0; i < PLACES; i++) {
		struct held held = swap(i, (struct held){ 0 });

		give(&held);
	}
	assert_int_equal(overlaps, 0);
	/* Threads that ended have given back what they had at hand. */
	terrace__slab_trim();
	assert_true(terrace__slab_mapped() <= before);
	assert_int_equal(terrace__heap_mapped(), 0);
}

static _Atomic bool stop;
static pthread_mutex_t own_lock = PTHREAD_MUTEX_INITIALIZER;

/* Some of the heap among them. */
static void take_and_give_some(void)
{
	void *objects[200];

	for (unsigned i = 0; i < ARRAY_LEN(objects); i++)
		objects[i] = terrace__slab_take(i % 4 ? 300 : 3000);
	for (unsigned i = 0; i < ARRAY_LEN(objects); i++)
		terrace__slab_give(objects[i], i % 4 ? 300 : 3000);
}

static void *be_busy(void *unused)
{
	(void)unused;
	while (!stop)
		take_and_give_some();
	return NULL;
}

static void *be_busy_with_a_lock(void *unused)
{
	(void)unused;
	while (!stop) {
		pthread_mutex_lock(&own_lock);
		take_and_give_some();
		pthread_mutex_unlock(&own_lock);
	}
	return NULL;
}

static void take_own_lock(void)
{
	pthread_mutex_lock(&own_lock);
}

static void give_own_lock(void)
{
	pthread_mutex_unlock(&own_lock);
}

/*
 * Whatever another thread was doing, a child can go on: it would wait for ever otherwise. And so
 * would the parent, where a program waits before a fork for a lock that it holds around its calls.
 */
static void test_a_child_of_fork_goes_on(void **state)
{
	pthread_t threads[2];

	(void)state;
	stop = false;
	assert_int_equal(pthread_create(&threads[0], NULL, be_busy, NULL), 0);
	assert_int_equal(pthread_create(&threads[1], NULL, be_busy_with_a_lock, NULL), 0);
	alarm(60);
	for (unsigned i = 0; i < 200; i++) {
		pid_t pid = fork();
		int status;

		assert_true(pid >= 0);
		if (pid == 0) {
			alarm(20);
			take_and_give_some();
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
	stop = true;
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	alarm(0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_size_has_its_room),
		cmocka_unit_test(test_little_is_wasted),
		cmocka_unit_test(test_what_is_given_is_taken_again),
		cmocka_unit_test(test_trim__takes_what_nothing_is_in_and_nothing_else),
		cmocka_unit_test(test_a_span_changes_its_size),
		cmocka_unit_test(test_no_memory_is_said),
		cmocka_unit_test(test_threads_give_what_others_took),
		cmocka_unit_test(test_a_child_of_fork_goes_on),
	};

	/* Before anything is taken, as a program does it. */
	pthread_atfork(take_own_lock, give_own_lock, give_own_lock);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
