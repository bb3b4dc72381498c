/* The allocator of larger entries: objects do not overlap, what is free is joined, memory comes back. */
#include "support/support.h"

#include "util/heap.h"
#include "util/region.h"
#include "util/util.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *take_filled(size_t size, uint8_t byte)
{
	void *object = terrace__heap_take(size);

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

static void give_filled(void *object, size_t size, uint8_t byte)
{
	assert_true(is_filled(object, size, byte));
	terrace__heap_give(object, size);
}

static void test_every_size_has_its_room(void **state)
{
	enum { STEP = 119, COUNT = HEAP_MOST / STEP + 2 };
	static void *objects[COUNT];

	(void)state;
	/* Down from the two that the border lies between. */
	for (size_t i = 0; i < COUNT; i++)
		objects[i] = take_filled(i ? HEAP_MOST - (i - 1) * STEP : HEAP_MOST + 1,
		                         (uint8_t)i);
	for (size_t i = 0; i < COUNT; i++)
		give_filled(objects[i], i ? HEAP_MOST - (i - 1) * STEP : HEAP_MOST + 1, (uint8_t)i);
	terrace__heap_give(NULL, 5000);
	terrace__heap_trim();
	assert_int_equal(terrace__heap_mapped(), 0);
}

/* Beside the objects: a word for each, and what is left at a region's end. */
static void test_little_is_wasted(void **state)
{
	static const size_t sizes[] = { 1025, 4096, 16384, 40000, HEAP_MOST };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		size_t count = 16 * REGION / sizes[i];
		void **objects = calloc(count, sizeof *objects);

		for (size_t k = 0; k < count; k++)
			objects[k] = take_filled(sizes[i], (uint8_t)k);
		assert_true(terrace__heap_mapped() <= 17 * REGION);
		for (size_t k = 0; k < count; k++)
			give_filled(objects[k], sizes[i], (uint8_t)k);
		/* But for one. */
		assert_int_equal(terrace__heap_mapped(), REGION);
		terrace__heap_trim();
		assert_int_equal(terrace__heap_mapped(), 0);
		free(objects);
	}
}

/* Where neighbours went large ones fit, in whatever order they went; and then small ones again. */
static void test_what_some_sizes_leave_others_take(void **state)
{
	enum { SMALL = 2000, COUNT = 16 * REGION / 2048, RUN = 32, LARGE = 60000 };
	static void *small[COUNT], *large[COUNT / RUN];
	size_t mapped;

	(void)state;
	for (size_t k = 0; k < COUNT; k++)
		small[k] = take_filled(SMALL, (uint8_t)k);
	mapped = terrace__heap_mapped();
	/* Of each run one stays; of the others the odd ones go first, from the last one on. */
	for (size_t odd = 2; odd-- > 0;) {
		for (size_t k = COUNT; k-- > 0;) {
			if (k % RUN && k % 2 == odd)
				give_filled(small[k], SMALL, (uint8_t)k);
		}
	}
	/* A run that lies in two regions has no room for one. */
	for (size_t k = 0; k < ARRAY_LEN(large) - 16; k++)
		large[k] = take_filled(LARGE, (uint8_t)~k);
	assert_int_equal(terrace__heap_mapped(), mapped);
	for (size_t k = 0; k < ARRAY_LEN(large) - 16; k++)
		give_filled(large[k], LARGE, (uint8_t)~k);
	for (size_t k = 0; k < COUNT; k++) {
		if (k % RUN)
			small[k] = take_filled(SMALL, (uint8_t)k);
	}
	assert_int_equal(terrace__heap_mapped(), mapped);
	for (size_t k = 0; k < COUNT; k++)
		give_filled(small[k], SMALL, (uint8_t)k);
	terrace__heap_trim();
	assert_int_equal(terrace__heap_mapped(), 0);
}

/* Objects of all sizes come and go in any order: none meets another's bytes, and all room comes back. */
static void test_any_order(void **state)
{
	enum { PLACES = 1024, ROUNDS = 50000 };
	static struct {
		void *object;
		size_t size;
		uint8_t byte;
	} places[PLACES];
	uint32_t random = 7;

	(void)state;
	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned at;

		random = random * 1664525 + 1013904223;
		at = (random >> 20) % PLACES;
		if (places[at].object)
			give_filled(places[at].object, places[at].size, places[at].byte);
		/* Most are small, as values are. */
		places[at].size = 1 + (random >> 4) % (HEAP_MOST >> (random >> 14) % 8);
		places[at].byte = (uint8_t)random;
		places[at].object = take_filled(places[at].size, places[at].byte);
	}
	for (unsigned at = 0; at < PLACES; at++) {
		if (places[at].object)
			give_filled(places[at].object, places[at].size, places[at].byte);
	}
	assert_int_equal(terrace__heap_mapped(), REGION);
	terrace__heap_trim();
	assert_int_equal(terrace__heap_mapped(), 0);
}

/* Of all that the process has mapped, or of what is in memory of that. */
static size_t process_bytes(bool resident)
{
	FILE *file = fopen("/proc/self/statm", "r");
	unsigned long total, pages = 0;

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%lu %lu", &total, &pages), 2);
	fclose(file);
	return (resident ? pages : total) * (size_t)sysconf(_SC_PAGESIZE);
}

static void test_trim__takes_what_nothing_is_in_and_nothing_else(void **state)
{
	enum { SIZE = 5000, COUNT = 12 * REGION / SIZE, KEPT = 50 };
	static void *objects[COUNT];
	size_t full;

	(void)state;
	for (size_t k = 0; k < COUNT; k++)
		objects[k] = take_filled(SIZE, (uint8_t)k);
	full = process_bytes(true);
	for (size_t k = 0; k < COUNT; k++) {
		if (k % KEPT)
			terrace__heap_give(objects[k],
			                   SIZE); /* to read it takes memory of a sanitizer */
	}
	terrace__heap_trim();
	assert_true(process_bytes(true) + 8 * (size_t)REGION < full);
	for (size_t k = 0; k < COUNT; k += KEPT)
		give_filled(objects[k], SIZE, (uint8_t)k);
	/* And what went can be had again. */
	for (size_t k = 0; k < COUNT; k++)
		objects[k] = take_filled(SIZE, (uint8_t)k);
	for (size_t k = 0; k < COUNT; k++)
		give_filled(objects[k], SIZE, (uint8_t)k);
	terrace__heap_trim();
	assert_int_equal(terrace__heap_mapped(), 0);
}

/*
 * The links by which what is free is found stay, where they are a page's first bytes, too: so lies
 * each 256th of 624 bytes, from the 105th of a region on.
 */
static void test_trim__leaves_what_is_free_to_be_taken(void **state)
{
	enum { SIZE = 616, COUNT = 4 * (REGION / 624), RUN = 256, FIRST = 105 };
	static void *objects[COUNT];
	size_t mapped;

	(void)state;
	for (size_t k = 0; k < COUNT; k++)
		objects[k] = take_filled(SIZE, (uint8_t)k);
	assert_int_equal((uintptr_t)objects[FIRST] % 4096, 0);
	mapped = terrace__heap_mapped();
	for (size_t k = 0; k < COUNT; k++) {
		if (k % RUN != FIRST - 1)
			give_filled(objects[k], SIZE, (uint8_t)k);
	}
	terrace__heap_trim();
	for (size_t k = 0; k < COUNT; k++) {
		if (k % RUN != FIRST - 1)
			objects[k] = take_filled(SIZE, (uint8_t)k);
	}
	assert_int_equal(terrace__heap_mapped(), mapped);
	for (size_t k = 0; k < COUNT; k++)
		give_filled(objects[k], SIZE, (uint8_t)k);
	terrace__heap_trim();
	assert_int_equal(terrace__heap_mapped(), 0);
}

static size_t mappings(void)
{
	FILE *file = fopen("/proc/self/maps", "r");
	size_t lines = 0;

	assert_non_null(file);
	for (int c; (c = getc(file)) != EOF;)
		lines += c == '\n';
	fclose(file);
	return lines;
}

/* A process may have some ten thousand mappings, and caches of many gigabytes. */
static void test_regions_lie_side_by_side(void **state)
{
	enum { COUNT = 40 * REGION / HEAP_MOST };
	static void *objects[COUNT];
	size_t bytes = process_bytes(false), count = mappings();

	(void)state;
	for (size_t k = 0; k < COUNT; k++)
		objects[k] = terrace__heap_take(HEAP_MOST);
	assert_true(process_bytes(false) >= bytes + 40 * (size_t)REGION);
	assert_true(mappings() < count + 20);
	for (size_t k = 0; k < COUNT; k++)
		terrace__heap_give(objects[k], HEAP_MOST);
	assert_true(process_bytes(false) < bytes + 8 * (size_t)REGION);
	terrace__heap_trim();
	assert_true(process_bytes(false) < bytes + REGION);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_size_has_its_room),
		cmocka_unit_test(test_little_is_wasted),
		cmocka_unit_test(test_what_some_sizes_leave_others_take),
		cmocka_unit_test(test_any_order),
		cmocka_unit_test(test_trim__takes_what_nothing_is_in_and_nothing_else),
		cmocka_unit_test(test_trim__leaves_what_is_free_to_be_taken),
		cmocka_unit_test(test_regions_lie_side_by_side),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
