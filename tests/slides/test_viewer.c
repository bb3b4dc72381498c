/* The viewer that programs embed: what is shown is of the slide that is shown, always. */
#include "support/support.h"

#include "slides/preload.h"
#include "slides/viewer.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TILE = 64, COLS = 5, ROWS = 4, SLIDES = 6 };

/* Every tile is of one colour, which says of which slide and place it is. */
static void colour_of(int slide, const struct tile *tile, uint8_t rgb[3])
{
	rgb[0] = (uint8_t)(20 + slide * 40);
	rgb[1] = (uint8_t)(20 + tile->level * 60 + tile->col * 10);
	rgb[2] = (uint8_t)(20 + tile->row * 50);
}

static bool is_of(const struct picture *picture, int slide, const struct tile *tile)
{
	uint8_t rgb[3];

	colour_of(slide, tile, rgb);
	for (int k = 0; k < 3; k++) {
		int off = picture->rgb[k] - rgb[k];

		if (off < -5 || off > 5) /* JPEG's own rounding; the next value is 10 away */
			return false;
	}
	return picture->width == TILE && picture->height == TILE;
}

static void write_bytes(const char *path, const void *bytes, size_t size)
{
	FILE *file = fopen(path, "wb");

	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, size, file), size);
	fclose(file);
}

static void write_tile(const char *folder, int slide, const struct tile *tile)
{
	uint8_t rgb[3], pixels[TILE * TILE * 3];
	char path[300];
	size_t size;
	void *jpeg;

	colour_of(slide, tile, rgb);
	for (size_t i = 0; i < sizeof pixels; i++)
		pixels[i] = rgb[i % 3];
	assert_ok(jpeg_encode(pixels, TILE, TILE, 95, &jpeg, &size));
	snprintf(path, sizeof path, "%s/tiles_files/%u/%u_%u.jpg", folder, tile->level, tile->col,
	         tile->row);
	write_bytes(path, jpeg, size);
	free(jpeg);
}

static void make_slide(const char *folder, int slide)
{
	static const char metadata[] =
	    "{\"tile_size\": 64, \"dimensions\": [320, 256], \"levels\": ["
	    "{\"level\": 0, \"downsample\": 8, \"cols\": 1, \"rows\": 1},"
	    "{\"level\": 1, \"downsample\": 1, \"cols\": 5, \"rows\": 4}]}";
	char path[300];
	struct tile tile = { 0, 0, 0 };

	mkdir(folder, 0700);
	for (int level = -1; level < 2; level++) {
		snprintf(path, sizeof path, level < 0 ? "%s/tiles_files" : "%s/tiles_files/%d",
		         folder, level);
		mkdir(path, 0700);
	}
	write_tile(folder, slide, &tile);
	for (tile.level = 1, tile.col = 0; tile.col < COLS; tile.col++) {
		for (tile.row = 0; tile.row < ROWS; tile.row++)
			write_tile(folder, slide, &tile);
	}
	snprintf(path, sizeof path, "%s/metadata.json", folder);
	write_bytes(path, metadata, sizeof metadata - 1);
}

struct stage {
	struct scratch scratch;
	char store[200], paths[SLIDES][256];
	struct tiles *tiles;
	terrace_jobs *jobs;
	struct viewer *viewer;
	_Atomic uint64_t arrived, wrong;
	_Atomic uint64_t shown_generation; /* and below it, which slide that is */
	_Atomic int shown;
};

static void arrived(void *ctx, uint64_t generation, const struct tile *tile,
                    const struct picture *picture)
{
	struct stage *stage = ctx;

	atomic_fetch_add(&stage->arrived, 1);
	/* Known once viewer_open() has returned; before that, any slide may be meant. */
	if (generation == atomic_load(&stage->shown_generation) &&
	    !is_of(picture, atomic_load(&stage->shown), tile) &&
	    generation == atomic_load(&stage->shown_generation))
		atomic_fetch_add(&stage->wrong, 1);
}

static void stage_open(struct stage *stage, uint64_t decoded, uint64_t jpeg)
{
	struct tiles_budget budget = { decoded, jpeg };

	memset(stage, 0, sizeof *stage);
	scratch_make(&stage->scratch);
	snprintf(stage->store, sizeof stage->store, "%s/store", stage->scratch.path);
	for (int i = 0; i < SLIDES; i++) {
		snprintf(stage->paths[i], sizeof stage->paths[i], "%s/%d.fastpath",
		         stage->scratch.path, i);
		make_slide(stage->paths[i], i);
	}
	assert_ok(tiles_open(stage->store, NULL, &budget, NULL, &stage->tiles));
	assert_ok(terrace_jobs_open(NULL, &stage->jobs));
	assert_ok(
	    viewer_new(stage->tiles, stage->jobs, VIEWER_PICTURES, arrived, stage, &stage->viewer));
}

static void stage_close(struct stage *stage)
{
	viewer_close(stage->viewer);
	terrace_jobs_close(stage->jobs);
	tiles_close(stage->tiles);
	scratch_remove(&stage->scratch);
}

/* --- one thing after the other ------------------------------------------------------------------ */

static void test_open__asks_for_the_small_levels(void **state)
{
	struct stage stage;
	struct tile tile = { 1, 4, 3 };
	uint64_t generation;

	(void)state;
	stage_open(&stage, 16 << 20, 16 << 20);
	assert_ok(viewer_open(stage.viewer, stage.paths[0], &generation));
	viewer_wait(stage.viewer);
	assert_int_equal(stage.arrived, 21); /* both levels have 64 tiles or fewer */
	assert_true(viewer_has(stage.viewer, generation, &tile));
	assert_false(viewer_has(stage.viewer, generation + 1, &tile));
	stage_close(&stage);
}

static void test_hit__gives_the_same_bytes_each_time(void **state)
{
	struct stage stage;
	struct tile tile = { 1, 2, 1 };
	terrace_value *first, *second;
	enum tiles_from from;
	uint64_t generation;

	(void)state;
	stage_open(&stage, 16 << 20, 16 << 20);
	assert_ok(viewer_open(stage.viewer, stage.paths[3], &generation));
	viewer_wait(stage.viewer);
	assert_ok(viewer_tile(stage.viewer, generation, &tile, &first, &from));
	assert_int_equal(from, FROM_DECODED);
	assert_ok(viewer_tile(stage.viewer, generation, &tile, &second, &from));
	assert_ptr_equal(terrace_object(first), terrace_object(second)); /* no copy */
	assert_true(is_of(terrace_object(first), 3, &tile));
	terrace_release(first);
	terrace_release(second);
	stage_close(&stage);
}

/* Back at A with the pictures pushed out: their JPEGs are still there, whatever lies on disk. */
static void test_switching_back__needs_no_file(void **state)
{
	struct stage stage;
	struct tile tile = { 1, 0, 0 };
	terrace_value *value;
	enum tiles_from from;
	uint64_t generation;
	char path[300];

	(void)state;
	/* Memory for some ten pictures of 12 KB. */
	stage_open(&stage, 128 << 10, 16 << 20);
	for (int i = 0; i < 3; i++) {
		assert_ok(viewer_open(stage.viewer, stage.paths[i % 2], &generation));
		viewer_wait(stage.viewer);
		if (i == 1) {
			snprintf(path, sizeof path, "%s/tiles_files/1/0_0.jpg", stage.paths[0]);
			assert_int_equal(truncate(path, 0), 0); /* a second look would see it */
		}
	}
	for (tile.col = 0; tile.col < COLS; tile.col++) {
		for (tile.row = 0; tile.row < ROWS; tile.row++) {
			assert_ok(viewer_tile(stage.viewer, generation, &tile, &value, &from));
			assert_true(from == FROM_DECODED || from == FROM_MEMORY);
			assert_true(is_of(terrace_object(value), 0, &tile));
			terrace_release(value);
		}
	}
	assert_int_equal(tiles_parsed(stage.tiles), 2);
	stage_close(&stage);
}

static void test_failed_open__leaves_the_former_slide(void **state)
{
	struct stage stage;
	struct tile tile = { 1, 1, 1 };
	terrace_value *value;
	uint64_t generation, now;
	struct slide *slide;
	char path[300];

	(void)state;
	stage_open(&stage, 16 << 20, 16 << 20);
	assert_ok(viewer_open(stage.viewer, stage.paths[2], &generation));
	assert_status(viewer_open(stage.viewer, "/nowhere", NULL), TERRACE_MISS);
	snprintf(path, sizeof path, "%s/metadata.json", stage.paths[4]);
	write_bytes(path, "{", 1);
	assert_status(viewer_open(stage.viewer, stage.paths[4], NULL), TERRACE_ECORRUPT);
	slide = viewer_current(stage.viewer, &now);
	assert_int_equal(now, generation);
	assert_string_equal(slide->name, "2");
	slide_unref(slide);
	assert_ok(viewer_tile(stage.viewer, generation, &tile, &value, NULL));
	assert_true(is_of(terrace_object(value), 2, &tile));
	terrace_release(value);
	stage_close(&stage);
}

static void test_damaged_tile__fails_alone(void **state)
{
	struct stage stage;
	struct tile tile = { 1, 0, 0 };
	terrace_value *value;
	uint64_t generation;
	char path[300];

	(void)state;
	stage_open(&stage, 16 << 20, 16 << 20);
	snprintf(path, sizeof path, "%s/tiles_files/1/2_2.jpg", stage.paths[0]);
	write_bytes(path, "\xff\xd8 no more", 10);
	assert_ok(viewer_open(stage.viewer, stage.paths[0], &generation));
	for (tile.col = 0; tile.col < COLS; tile.col++) {
		for (tile.row = 0; tile.row < ROWS; tile.row++) {
			int rc = viewer_tile(stage.viewer, generation, &tile, &value, NULL);

			assert_status(rc, tile.col == 2 && tile.row == 2 ? TERRACE_ECORRUPT :
			                                                   TERRACE_OK);
			if (rc == TERRACE_OK)
				terrace_release(value);
		}
	}
	stage_close(&stage);
}

static void test_old_generation__gets_nothing(void **state)
{
	struct stage stage;
	struct view view = { 0, 0, 320, 256, 1, 0, 0 };
	struct tile tile = { 1, 0, 0 };
	terrace_value *value;
	uint64_t old, now;

	(void)state;
	stage_open(&stage, 16 << 20, 16 << 20);
	assert_ok(viewer_open(stage.viewer, stage.paths[0], &old));
	assert_ok(viewer_open(stage.viewer, stage.paths[1], &now));
	assert_int_equal(viewer_tile(stage.viewer, old, &tile, &value, NULL), VIEWER_STALE);
	assert_int_equal(viewer_look(stage.viewer, old, &view), VIEWER_STALE);
	assert_ok(viewer_look(stage.viewer, now, &view));
	stage_close(&stage);
}

static void test_preload__fills_the_budget_for_jpegs_alone(void **state)
{
	struct stage stage;
	struct folder folder;
	struct preload_spec spec = { .folder = &folder, .current = 2, .finest_level = UINT32_MAX };
	struct preload_status status;
	struct preload *preload;
	struct tiles_stats stats;

	(void)state;
	stage_open(&stage, 16 << 20, 16 << 20);
	assert_ok(folder_list(stage.scratch.path, &folder));
	assert_int_equal(folder.count, SLIDES);
	assert_ok(preload_start(stage.tiles, stage.jobs, &spec, &preload));
	assert_ok(preload_wait(preload, -1));
	preload_status(preload, &status);
	assert_int_equal(status.tiles_done, SLIDES * 21);
	assert_int_equal(status.slides_done, SLIDES);
	tiles_stats(stage.tiles, &stats);
	assert_int_equal(stats.jpeg_entries, SLIDES * 21);
	assert_int_equal(stats.decoded_entries, 0);
	preload_free(preload);
	folder_free(&folder);
	stage_close(&stage);
}

static void test_preload_order__goes_outwards(void **state)
{
	static const size_t from_2_of_6[] = { 2, 3, 1, 4, 0, 5 }, from_0_of_3[] = { 0, 1, 2 };
	static const size_t from_3_of_4[] = { 3, 2, 1, 0 };
	size_t order[6];

	(void)state;
	preload_order(6, 2, order);
	assert_memory_equal(order, from_2_of_6, sizeof from_2_of_6);
	preload_order(3, 0, order);
	assert_memory_equal(order, from_0_of_3, sizeof from_0_of_3);
	preload_order(4, 3, order);
	assert_memory_equal(order, from_3_of_4, sizeof from_3_of_4);
	preload_order(0, 0, order);
}

/* --- 1,000 switches under load ---------------------------------------------------------------------- */

struct load {
	struct stage *stage;
	uint64_t seed;
	_Atomic bool *stop;
	_Atomic uint64_t *seen;
};

/* Reads tiles of whatever is shown, and checks that they are of it. */
static void *read_tiles(void *arg)
{
	struct load *load = arg;
	struct stage *stage = load->stage;
	struct rng rng = { load->seed };

	while (!atomic_load(load->stop)) {
		uint64_t generation;
		struct slide *slide = viewer_current(stage->viewer, &generation);
		struct tile tile = { 1, (uint32_t)rng_below(&rng, COLS),
			             (uint32_t)rng_below(&rng, ROWS) };
		struct view view = { (double)rng_below(&rng, 300),
			             (double)rng_below(&rng, 200),
			             150,
			             100,
			             1,
			             0,
			             60 };
		terrace_value *value;

		if (!slide)
			continue;
		if (viewer_tile(stage->viewer, generation, &tile, &value, NULL) == TERRACE_OK) {
			if (!is_of(terrace_object(value), slide->name[0] - '0', &tile))
				atomic_fetch_add(&stage->wrong, 1);
			terrace_release(value);
			atomic_fetch_add(load->seen, 1);
		}
		viewer_look(stage->viewer, generation, &view);
		slide_unref(slide);
	}
	return NULL;
}

static void test_switches__never_show_a_tile_of_another_slide(void **state)
{
	enum { DECODED = 400 << 10, JPEGS = 40 << 10, SWITCHES = 1000 };
	struct stage stage;
	struct folder folder;
	struct preload_spec spec = { .folder = &folder, .finest_level = UINT32_MAX };
	struct rng rng = { test_seed() };
	struct load loads[3];
	pthread_t threads[3];
	_Atomic bool stop = false;
	_Atomic uint64_t seen = 0;
	uint64_t most_decoded = 0, most_jpeg = 0;
	struct preload *preload;

	(void)state;
	stage_open(&stage, DECODED, JPEGS); /* both too small for all, so that much is evicted */
	assert_ok(folder_list(stage.scratch.path, &folder));
	assert_ok(preload_start(stage.tiles, stage.jobs, &spec, &preload));
	for (int i = 0; i < 3; i++) {
		loads[i] = (struct load){ &stage, rng_next(&rng), &stop, &seen };
		pthread_create(&threads[i], NULL, read_tiles, &loads[i]);
	}
	/* On a busy machine it takes longer until the threads have had their turns. */
	for (int i = 0; i < SWITCHES || atomic_load(&seen) <= 100; i++) {
		int slide = (int)rng_below(&rng, SLIDES);
		struct tiles_stats stats;
		uint64_t generation;

		atomic_store(&stage.shown_generation, 0);
		assert_ok(viewer_open(stage.viewer, stage.paths[slide], &generation));
		atomic_store(&stage.shown, slide);
		atomic_store(&stage.shown_generation, generation);
		if (i % 20)
			continue;
		tiles_stats(stage.tiles, &stats);
		most_decoded = stats.decoded_bytes > most_decoded ? stats.decoded_bytes :
		                                                    most_decoded;
		most_jpeg = stats.jpeg_bytes > most_jpeg ? stats.jpeg_bytes : most_jpeg;
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	preload_free(preload);
	folder_free(&folder);
	print_message("%d switches, %u tiles read, %u arrived; at most %u and %u KiB in memory\n",
	              SWITCHES, (unsigned)atomic_load(&seen), (unsigned)stage.arrived,
	              (unsigned)(most_decoded >> 10), (unsigned)(most_jpeg >> 10));
	assert_int_equal(stage.wrong, 0);
	/* What each thread has just put may be over for the moment until it has evicted. */
	assert_true(most_decoded <= DECODED + 8 * (TILE * TILE * 3 + 512));
	assert_true(most_jpeg <= JPEGS + 8 * 2048);
	stage_close(&stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open__asks_for_the_small_levels),
		cmocka_unit_test(test_hit__gives_the_same_bytes_each_time),
		cmocka_unit_test(test_switching_back__needs_no_file),
		cmocka_unit_test(test_failed_open__leaves_the_former_slide),
		cmocka_unit_test(test_damaged_tile__fails_alone),
		cmocka_unit_test(test_old_generation__gets_nothing),
		cmocka_unit_test(test_preload__fills_the_budget_for_jpegs_alone),
		cmocka_unit_test(test_preload_order__goes_outwards),
		cmocka_unit_test(test_switches__never_show_a_tile_of_another_slide),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
