/*
 * terrace slides bench: the tile cache beside libjpeg-turbo alone, libvips,
 * OpenSlide and a plain file server, over the same tiles, in one run. Rounds of
 * the two sides alternate, and the median of the rounds is what counts.
 */
#include "slides/commands.h"

#include "slides/bench_parts.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <turbojpeg.h>
#include <unistd.h>

enum { GRID = 16, PAN = 200, ROUNDS = 7, HITS = 200000, MEGA = 1 << 20 };

struct bench {
	char dir[256], folder[512], store[512], scan[512];
	bool has_scan;
	json_t *results; /* [{name, value, unit, peer, peer_value, ratio}] */
};

uint64_t bench_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int compare_numbers(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

double bench_quantile(double *values, size_t count, double q)
{
	size_t at = (size_t)(q * (double)count);

	qsort(values, count, sizeof *values, compare_numbers);
	return values[at < count ? at : count - 1];
}

static void add_result(struct bench *bench, const char *name, double value, const char *unit,
                       const char *peer, double peer_value)
{
	json_t *result = json_pack("{s:s, s:f, s:s}", "name", name, "value", value, "unit", unit);

	if (peer) {
		json_object_set_new(result, "peer", json_string(peer));
		json_object_set_new(result, "peer_value", json_real(peer_value));
		json_object_set_new(result, "ratio", json_real(value / peer_value));
	}
	json_array_append_new(bench->results, result);
}

/* --- a slide to measure on: 16 x 16 tiles of 512 pixels, and the levels above --------------------- */

static void paint(uint8_t *rgb, unsigned seed)
{
	uint32_t noise = seed * 2654435761u + 1;

	for (unsigned y = 0; y < 512; y++) {
		for (unsigned x = 0; x < 512; x++, rgb += 3) {
			noise = noise * 1664525 + 1013904223;
			rgb[0] = (uint8_t)(200 + (x * seed / 7 + y) % 40 - (noise >> 28));
			rgb[1] = (uint8_t)(130 + (x / 3 + y * seed / 5) % 80 - (noise >> 27 & 15));
			rgb[2] = (uint8_t)(190 + (x + y) / 16 % 50 - (noise >> 26 & 15));
		}
	}
}

static int write_file(const char *path, const void *bytes, size_t size)
{
	FILE *file = fopen(path, "we");
	size_t written = file ? fwrite(bytes, 1, size, file) : 0;

	if (!file || fclose(file) != 0 || written != size)
		return terrace_fail(TERRACE_EIO, "cannot write %s: %s", path, strerror(errno));
	return TERRACE_OK;
}

static int make_tile(struct bench *bench, uint8_t *rgb, unsigned level, unsigned col, unsigned row)
{
	char path[700];
	size_t size;
	void *jpeg;
	int rc;

	paint(rgb, 1 + level * 1000 + row * 31 + col);
	rc = jpeg_encode(rgb, 512, 512, 80, &jpeg, &size);
	if (rc != TERRACE_OK)
		return rc;
	snprintf(path, sizeof path, "%s/tiles_files/%u/%u_%u.jpg", bench->folder, level, col, row);
	rc = write_file(path, jpeg, size);
	free(jpeg);
	return rc;
}

static int make_slide(struct bench *bench)
{
	uint8_t *rgb = malloc(512 * 512 * 3);
	char path[700], text[1024];
	int rc = rgb ? TERRACE_OK : TERRACE_ENOMEM, at;

	mkdir(bench->folder, 0700);
	snprintf(path, sizeof path, "%s/tiles_files", bench->folder);
	mkdir(path, 0700);
	at = snprintf(text, sizeof text,
	              "{\"tile_size\": 512, \"dimensions\": [%d, %d], \"levels\": [", GRID * 512,
	              GRID * 512);
	for (unsigned level = 0; level < 5; level++) {
		unsigned edge = 1u << level;

		snprintf(path, sizeof path, "%s/tiles_files/%u", bench->folder, level);
		mkdir(path, 0700);
		for (unsigned i = 0; i < edge * edge && rc == TERRACE_OK; i++)
			rc = make_tile(bench, rgb, level, i % edge, i / edge);
		at += snprintf(text + at, sizeof text - (size_t)at,
		               "%s{\"level\": %u, \"downsample\": %u, \"cols\": %u, \"rows\": %u}",
		               level ? ", " : "", level, 16 >> level, edge, edge);
	}
	at += snprintf(text + at, sizeof text - (size_t)at, "]}\n");
	snprintf(path, sizeof path, "%s/metadata.json", bench->folder);
	free(rgb);
	return rc == TERRACE_OK ? write_file(path, text, (size_t)at) : rc;
}

static void remove_tree(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)) != NULL) {
		char below[1024];
		struct stat st;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
		if (lstat(below, &st) == 0 && S_ISDIR(st.st_mode))
			remove_tree(below);
		else
			unlink(below);
	}
	if (dir)
		closedir(dir);
	rmdir(path);
}

/* The i-th tile of a pan: row by row, to and fro, over the finest level; then again. */
struct tile bench_tile(const struct slide *slide, unsigned i)
{
	const struct slide_level *level = &slide->levels[slide->level_count - 1];
	unsigned at = i % (level->cols * level->rows), row = at / level->cols;
	unsigned col = at % level->cols;

	return (struct tile){ level->level, row % 2 ? level->cols - 1 - col : col, row };
}

/* --- what is measured --------------------------------------------------------------------------------- */

static int open_with(const struct bench *bench, uint64_t decoded, const char *path,
                     struct tiles **ret_tiles, struct slide **ret_slide)
{
	struct tiles_budget budget = { decoded, (uint64_t)512 * MEGA };
	int rc = tiles_open(bench->store, NULL, &budget, NULL, ret_tiles);

	if (rc == TERRACE_OK)
		rc = tiles_slide(*ret_tiles, path, 0, ret_slide);
	return rc;
}

static void close_with(struct tiles *tiles, struct slide *slide)
{
	slide_unref(slide);
	tiles_close(tiles);
}

static int picture_once(struct tiles *tiles, struct slide *slide, const struct tile *tile,
                        const struct picture **ret)
{
	terrace_value *value;
	int rc = tiles_picture(tiles, slide, tile, NULL, NULL, &value, NULL);

	if (rc == TERRACE_OK) {
		*ret = terrace_object(value);
		terrace_release(value);
	}
	return rc;
}

static int measure_hits(struct bench *bench)
{
	const struct picture *first[16], *again = NULL;
	static double ns[HITS / 16];
	struct tiles *tiles;
	struct slide *slide;
	uint64_t copies = 0;
	int rc = open_with(bench, (uint64_t)256 * MEGA, bench->folder, &tiles, &slide);

	for (unsigned i = 0; i < 16 && rc == TERRACE_OK; i++) {
		struct tile tile = bench_tile(slide, i);

		rc = picture_once(tiles, slide, &tile, &first[i]);
	}
	for (unsigned n = 0; n < HITS / 16 && rc == TERRACE_OK; n++) {
		uint64_t start = bench_ns();

		for (unsigned i = 0; i < 16 && rc == TERRACE_OK; i++) {
			struct tile tile = bench_tile(slide, i);

			rc = picture_once(tiles, slide, &tile, &again);
			copies += again != first[i];
		}
		ns[n] = (double)(bench_ns() - start) / 16;
	}
	if (rc != TERRACE_OK)
		return rc;
	add_result(bench, "hit on a decoded tile, median", bench_quantile(ns, HITS / 16, 0.5), "ns",
	           NULL, 0);
	add_result(bench, "hit on a decoded tile, p99", bench_quantile(ns, HITS / 16, 0.99), "ns",
	           NULL, 0);
	add_result(bench, "bytes copied by a hit", (double)copies, "bytes", NULL, 0);
	close_with(tiles, slide);
	return TERRACE_OK;
}

/* Memory for a few pictures only: all of these are compressed hits. */
static int measure_compressed(struct bench *bench)
{
	enum { TILES = 64 };
	double ours[ROUNDS * 3], bare[ROUNDS * 3], ratios[ROUNDS * 3];
	tjhandle turbo = tjInitDecompress();
	uint8_t *rgb = malloc(512 * 512 * 3);
	terrace_value *jpegs[TILES];
	const struct picture *picture;
	struct tiles *tiles;
	struct slide *slide;
	int rc = open_with(bench, (uint64_t)8 * MEGA, bench->folder, &tiles, &slide);

	for (unsigned i = 0; i < TILES && rc == TERRACE_OK; i++) {
		struct tile tile = bench_tile(slide, i);

		rc = tiles_jpeg(tiles, slide, &tile, NULL, NULL, &jpegs[i], NULL);
	}
	for (unsigned round = 0; round < ROUNDS * 3 && rc == TERRACE_OK; round++) {
		uint64_t mine = 0, theirs = 0;

		for (unsigned i = 0; i < TILES && rc == TERRACE_OK; i++) {
			struct tile tile = bench_tile(slide, i);
			uint64_t start = bench_ns(), middle;

			rc = picture_once(tiles, slide, &tile, &picture);
			middle = bench_ns();
			tjDecompress2(turbo, terrace_data(jpegs[i]), terrace_size(jpegs[i]), rgb,
			              512, 0, 512, TJPF_RGB, 0);
			mine += middle - start;
			theirs += bench_ns() - middle;
		}
		ours[round] = (double)mine / TILES / 1000;
		bare[round] = (double)theirs / TILES / 1000;
		ratios[round] = (double)mine / (double)theirs;
	}
	if (rc != TERRACE_OK)
		return rc;
	for (unsigned i = 0; i < TILES; i++)
		terrace_release(jpegs[i]);
	add_result(bench, "hit on a compressed tile", bench_quantile(ours, ROUNDS * 3, 0.5), "us",
	           "libjpeg-turbo alone", bench_quantile(bare, ROUNDS * 3, 0.5));
	add_result(bench, "hit on a compressed tile / libjpeg-turbo, median of rounds",
	           bench_quantile(ratios, ROUNDS * 3, 0.5), "x", NULL, 0);
	free(rgb);
	tjDestroy(turbo);
	close_with(tiles, slide);
	return TERRACE_OK;
}

static int pan(struct tiles *tiles, struct slide *slide, double *ret_ms)
{
	uint64_t start = bench_ns();
	const struct picture *picture;
	int rc = TERRACE_OK;

	for (unsigned i = 0; i < PAN && rc == TERRACE_OK; i++) {
		struct tile tile = bench_tile(slide, i);

		rc = picture_once(tiles, slide, &tile, &picture);
	}
	*ret_ms = (double)(bench_ns() - start) / 1e6;
	return rc;
}

static int measure_pan(struct bench *bench, const char *path, const char *kind, const char *peer,
                       double (*peer_pan)(const char *path, const struct slide *slide))
{
	static const char *const names[] = { "cold", "warm", "after a restart" };
	double ms[3], other = peer_pan(path, NULL);
	struct tiles *tiles;
	struct slide *slide;
	char name[128];
	int rc = TERRACE_OK;

	for (int when = 0; when < 3 && rc == TERRACE_OK; when++) {
		if (when != 1)
			rc = open_with(bench, (uint64_t)512 * MEGA, path, &tiles, &slide);
		if (rc == TERRACE_OK)
			rc = pan(tiles, slide, &ms[when]);
		if (when == 1) {
			double now = peer_pan(path, slide);

			other = now > 0 ? now : other;
		}
		if (when != 0)
			close_with(tiles, slide);
	}
	for (int when = 0; when < 3 && rc == TERRACE_OK; when++) {
		snprintf(name, sizeof name, "pan over %d tiles of a %s, %s", PAN, kind,
		         names[when]);
		add_result(bench, name, ms[when], "ms", other > 0 ? peer : NULL, other);
	}
	return rc;
}

/* --- the foreground beside the preloader ----------------------------------------------------------------- */

/* Bursts of a view's new tiles, every 8 ms, as panning asks for them. */
static int burst_p99(struct tiles *tiles, terrace_jobs *jobs, struct slide *slide, double *ret)
{
	enum { BURSTS = 150, EACH = 4 };
	const struct timespec pause = { 0, 8000000 };
	static double ns[BURSTS * EACH];
	const struct picture *picture;
	int rc = TERRACE_OK;

	for (unsigned i = 0; i < BURSTS * EACH && rc == TERRACE_OK; i++) {
		struct tile tile = bench_tile(slide, i);
		uint64_t start = bench_ns();

		terrace_jobs_enter(jobs);
		rc = picture_once(tiles, slide, &tile, &picture);
		terrace_jobs_leave(jobs);
		ns[i] = (double)(bench_ns() - start);
		if (i % EACH == EACH - 1)
			nanosleep(&pause, NULL);
	}
	*ret = bench_quantile(ns, BURSTS * EACH, 0.99) / 1000;
	return rc;
}

static int measure_beside(struct bench *bench, const char *what)
{
	enum { PAIRS = 5 };
	double without[PAIRS], with[PAIRS], ratios[PAIRS], loaded = 0;
	struct folder folder = { .count = 1, .paths = (char *[]){ (char *)(uintptr_t)what } };
	struct preload_spec spec = { .folder = &folder, .finest_level = UINT32_MAX };
	struct preload_status status;
	int rc = TERRACE_OK;

	for (unsigned i = 0; i < PAIRS && rc == TERRACE_OK; i++) {
		struct preload *preload = NULL;
		terrace_jobs *jobs = NULL;
		struct tiles *tiles;
		struct slide *slide;
		double warm;

		remove_tree(bench->store); /* so that there is everything to preload */
		rc = open_with(bench, (uint64_t)8 * MEGA, bench->folder, &tiles, &slide);
		if (rc == TERRACE_OK)
			rc = terrace_jobs_open(NULL, &jobs);
		if (rc == TERRACE_OK)
			rc = pan(tiles, slide, &warm);
		if (rc == TERRACE_OK)
			rc = burst_p99(tiles, jobs, slide, &without[i]);
		if (rc == TERRACE_OK)
			rc = preload_start(tiles, jobs, &spec, &preload);
		if (rc == TERRACE_OK)
			rc = burst_p99(tiles, jobs, slide, &with[i]);
		if (preload)
			preload_status(preload, &status);
		preload_free(preload);
		terrace_jobs_close(jobs);
		close_with(tiles, slide);
		ratios[i] = with[i] / without[i];
		loaded += (double)status.tiles_done / PAIRS;
	}
	if (rc != TERRACE_OK)
		return rc;
	add_result(bench, "foreground p99 while preloading", bench_quantile(with, PAIRS, 0.5), "us",
	           "without preloading", bench_quantile(without, PAIRS, 0.5));
	add_result(bench, "foreground p99 while preloading / without, median of pairs",
	           bench_quantile(ratios, PAIRS, 0.5), "x", NULL, 0);
	add_result(bench, "tiles preloaded meanwhile", loaded, "tiles", NULL, 0);
	return TERRACE_OK;
}

/* --- all of it ------------------------------------------------------------------------------------------------ */

static int measure(struct bench *bench)
{
	double ours, plain;
	int rc = measure_hits(bench);

	if (rc == TERRACE_OK)
		rc = measure_compressed(bench);
	if (rc == TERRACE_OK)
		rc = measure_pan(bench, bench->folder, "slide folder", "libvips reading the files",
		                 bench_pan_vips);
	if (rc == TERRACE_OK && bench->has_scan)
		rc = measure_pan(bench, bench->scan, "scanner's file", "OpenSlide reading regions",
		                 bench_pan_openslide);
	if (rc == TERRACE_OK)
		rc = measure_beside(bench, bench->has_scan ? bench->scan : bench->folder);
	if (rc == TERRACE_OK && bench_serve(bench->folder, bench->store, &ours, &plain))
		add_result(bench, "a tile from terrace slides serve, median", ours, "us",
		           "a plain file server", plain);
	return rc;
}

static void print_table(const json_t *results, FILE *out)
{
	const json_t *result;
	size_t i;

	json_array_foreach (results, i, result) {
		const char *peer = json_string_value(json_object_get(result, "peer"));

		fprintf(out, "%-62s %10.2f %s", json_string_value(json_object_get(result, "name")),
		        json_number_value(json_object_get(result, "value")),
		        json_string_value(json_object_get(result, "unit")));
		if (peer)
			fprintf(out, "   (%s: %.2f; %.2f x)", peer,
			        json_number_value(json_object_get(result, "peer_value")),
			        json_number_value(json_object_get(result, "ratio")));
		fputc('\n', out);
	}
}

int slides_bench(const char *slide, const char *dir, bool json, FILE *out)
{
	struct bench bench = { .results = json_array() };
	const char *base = getenv("TMPDIR");
	int rc;

	(void)dir; /* a store of its own, so that cold is cold */
	snprintf(bench.dir, sizeof bench.dir, "%.200s/terrace-slides-bench-XXXXXX",
	         base && *base ? base : "/tmp");
	if (!mkdtemp(bench.dir)) {
		json_decref(bench.results);
		return terrace_fail(TERRACE_EIO, "cannot make %s: %s", bench.dir, strerror(errno));
	}
	snprintf(bench.store, sizeof bench.store, "%s/store", bench.dir);
	snprintf(bench.folder, sizeof bench.folder, "%s/bench.fastpath", bench.dir);
	snprintf(bench.scan, sizeof bench.scan, "%s/bench.tif", bench.dir);
	if (slide) {
		snprintf(bench.folder, sizeof bench.folder, "%s", slide);
		rc = TERRACE_OK;
	} else {
		rc = make_slide(&bench);
	}
	if (rc == TERRACE_OK)
		bench.has_scan = bench_make_scan(bench.folder, bench.scan);
	if (rc == TERRACE_OK)
		rc = measure(&bench);
	if (rc == TERRACE_OK && json)
		json_dumpf(bench.results, out, JSON_INDENT(2));
	else if (rc == TERRACE_OK)
		print_table(bench.results, out);
	json_decref(bench.results);
	remove_tree(bench.dir);
	return rc;
}
