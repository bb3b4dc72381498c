/* The verb slides: its options, for systems/slides. */
#include "cli.h"

#include "slides/commands.h"
#include "slides/viewer.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

static int complain_of(int rc)
{
	const char *message = terrace_error_message();

	complain("slides: %s", *message ? message : terrace_status_name(rc));
	switch (rc) {
	case TERRACE_MISS:
	case TERRACE_EXISTS:
	case TERRACE_ECORRUPT:
	case TERRACE_ETOOBIG:
		return STATUS_MISS;
	case TERRACE_EINVAL:
	case TERRACE_ECONFIG:
		return STATUS_USAGE;
	}
	return STATUS_FAILED;
}

static void warn(const char *message)
{
	complain("slides: warning: %s; nothing is cached", message);
}

static int open_tiles(const struct cli *cli, struct tiles **ret)
{
	struct tiles_budget budget;
	int rc = tiles_budget(&budget);

	if (rc == TERRACE_OK)
		rc = tiles_open(cli->dir, cli->config, &budget, warn, ret);
	return rc == TERRACE_OK ? STATUS_DONE : complain_of(rc);
}

static bool whole_number(const char *text, uint32_t *ret)
{
	char *end;
	unsigned long value;

	if (!text || *text < '0' || *text > '9')
		return false;
	errno = 0;
	value = strtoul(text, &end, 10);
	*ret = (uint32_t)value;
	return *end == '\0' && errno == 0 && value <= UINT32_MAX;
}

/* --- info -------------------------------------------------------------------------------------- */

static json_t *levels_json(const struct slide *slide)
{
	json_t *levels = json_array();

	for (unsigned i = 0; i < slide->level_count; i++) {
		const struct slide_level *level = &slide->levels[i];
		double whole = (double)(int64_t)level->downsample;
		json_t *downsample = level->downsample == whole ? json_integer((json_int_t)whole) :
		                                                  json_real(level->downsample);

		json_array_append_new(levels, json_pack("{s:i, s:o, s:i, s:i}", "level",
		                                        level->level, "downsample", downsample,
		                                        "cols", level->cols, "rows", level->rows));
	}
	return levels;
}

static json_t *slide_json(const struct slide *slide)
{
	json_t *info = json_pack(
	    "{s:o, s:s, s:o, s:[i,i], s:i, s:i, s:o, s:I, s:[i,i,i]}", "name",
	    json_bytes(terrace_str(slide->name)), "format", slide_kind_name(slide->kind), "path",
	    json_bytes(terrace_str(slide->path)), "dimensions", slide->width, slide->height,
	    "tile_size", slide->tile_size, "overlap", slide->overlap, "levels", levels_json(slide),
	    "tiles", (json_int_t)slide_tile_count(slide), "background_color", slide->background[0],
	    slide->background[1], slide->background[2]);

	json_object_set_new(info, "mpp", slide->mpp > 0 ? json_real(slide->mpp) : json_null());
	json_object_set_new(info, "magnification",
	                    slide->magnification > 0 ? json_real(slide->magnification) :
	                                               json_null());
	return info;
}

static int slides_info(struct cli *cli, const struct args *args)
{
	struct slide *slide;
	int rc = slide_open(args->operands[1], &slide);

	if (rc != TERRACE_OK)
		return complain_of(rc);
	if (cli->json) {
		int status = print_json(slide_json(slide));

		slide_unref(slide);
		return status;
	}
	printf(
	    "%s\n  format      %s\n  dimensions  %u x %u\n  tile size   %u\n  tiles       %" PRIu64
	    "\n",
	    slide->name, slide_kind_name(slide->kind), slide->width, slide->height,
	    slide->tile_size, slide_tile_count(slide));
	if (slide->mpp > 0)
		printf("  resolution  %g um a pixel\n", slide->mpp);
	printf("  level  downsample   cols   rows\n");
	for (unsigned i = 0; i < slide->level_count; i++)
		printf("  %5u  %10g  %5u  %5u\n", slide->levels[i].level,
		       slide->levels[i].downsample, slide->levels[i].cols, slide->levels[i].rows);
	slide_unref(slide);
	return STATUS_DONE;
}

/* --- tile ----------------------------------------------------------------------------------------- */

static int write_tile(struct tiles *tiles, struct slide *slide, const struct tile *tile, bool rgb)
{
	terrace_value *value;
	int rc = rgb ? tiles_picture(tiles, slide, tile, NULL, NULL, &value, NULL) :
	               tiles_jpeg(tiles, slide, tile, NULL, NULL, &value, NULL);

	if (rc != TERRACE_OK)
		return complain_of(rc);
	if (rgb) {
		const struct picture *picture = terrace_object(value);

		fwrite(picture->rgb, 3, (size_t)picture->width * picture->height, stdout);
	} else {
		fwrite(terrace_data(value), 1, terrace_size(value), stdout);
	}
	terrace_release(value);
	return STATUS_DONE;
}

static int slides_tile(struct cli *cli, const struct args *args)
{
	bool rgb = args_has(args, "rgb");
	struct tiles *tiles;
	struct slide *slide;
	struct tile tile;
	int rc, status;

	if (rgb == args_has(args, "jpeg"))
		return usage(cli, "tile: say either --jpeg or --rgb");
	if (!whole_number(args->operands[2], &tile.level) ||
	    !whole_number(args->operands[3], &tile.col) ||
	    !whole_number(args->operands[4], &tile.row))
		return usage(cli, "tile: LEVEL, COL and ROW are whole numbers");
	status = open_tiles(cli, &tiles);
	if (status != STATUS_DONE)
		return status;
	rc = tiles_slide(tiles, args->operands[1], 0, &slide);
	if (rc == TERRACE_OK) {
		status = write_tile(tiles, slide, &tile, rgb);
		slide_unref(slide);
	} else {
		status = complain_of(rc);
	}
	tiles_close(tiles);
	return status;
}

/* --- view ------------------------------------------------------------------------------------------- */

static bool parse_view(const char *text, struct view *view)
{
	double *const fields[] = { &view->x,     &view->y,          &view->width,     &view->height,
		                   &view->scale, &view->velocity_x, &view->velocity_y };

	for (size_t i = 0; i < 7; i++) {
		char *end;

		*fields[i] = strtod(text, &end);
		if (end == text || *end != (i < 6 ? ',' : '\0'))
			return false;
		text = end + 1;
	}
	return true;
}

static json_t *tiles_json(const struct tile *tiles, size_t count)
{
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(
		    list, json_pack("[i,i,i]", tiles[i].level, tiles[i].col, tiles[i].row));
	return list;
}

static void print_tiles(const char *what, const struct tile *tiles, size_t count)
{
	for (size_t i = 0; i < count; i++)
		printf("%s %u %u %u\n", what, tiles[i].level, tiles[i].col, tiles[i].row);
}

static int slides_view(struct cli *cli, const struct args *args)
{
	const char *viewport = args_value(args, "viewport");
	struct view_plan plan;
	struct slide *slide;
	struct view view;
	int rc, status = STATUS_DONE;

	if (!viewport || !parse_view(viewport, &view))
		return usage(cli, "view: --viewport takes seven numbers, X,Y,W,H,SCALE,VX,VY");
	rc = slide_open(args->operands[1], &slide);
	if (rc != TERRACE_OK)
		return complain_of(rc);
	rc = view_plan(slide, &view, &plan);
	slide_unref(slide);
	if (rc != TERRACE_OK)
		return complain_of(rc);
	if (cli->json) {
		status = print_json(json_pack("{s:i, s:o, s:o}", "level", plan.level, "visible",
		                              tiles_json(plan.visible, plan.visible_count),
		                              "prefetched",
		                              tiles_json(plan.prefetch, plan.prefetch_count)));
	} else {
		printf("level %u\n", plan.level);
		print_tiles("visible", plan.visible, plan.visible_count);
		print_tiles("prefetched", plan.prefetch, plan.prefetch_count);
	}
	view_plan_free(&plan);
	return status;
}

/* --- add ----------------------------------------------------------------------------------------------- */

/* A bar on a terminal, a line every quarter in a pipe. */
static void print_progress(const char *what, int percent, int *last)
{
	char bar[41];

	if (percent <= *last)
		return;
	if (isatty(STDERR_FILENO)) {
		memset(bar, ' ', 40);
		memset(bar, '#', (size_t)(percent * 40 / 100));
		bar[40] = '\0';
		fprintf(stderr, "\r%s [%s] %3d %%%s", what, bar, percent,
		        percent >= 100 ? "\n" : "");
		*last = percent;
	} else if (percent / 25 > *last / 25 || *last < 0) {
		fprintf(stderr, "%s: %d %%\n", what, percent);
		*last = percent;
	}
}

static void add_progress(void *ctx, int percent)
{
	print_progress("tiles", percent, ctx);
}

static int slides_add_verb(struct cli *cli, const struct args *args)
{
	const char *folder = args->operand_count > 2 ? args->operands[2] : ".";
	char path[4096];
	int last = -1, status;
	struct slide *slide;
	int rc = slides_add(args->operands[1], folder, cli->json ? NULL : add_progress, &last, path,
	                    sizeof path);

	if (rc != TERRACE_OK) {
		if (last > 0 && last < 100 && isatty(STDERR_FILENO))
			fputc('\n', stderr);
		return complain_of(rc);
	}
	rc = slide_open(path, &slide);
	if (rc != TERRACE_OK)
		return complain_of(rc);
	status = STATUS_DONE;
	if (cli->json)
		status = print_json(slide_json(slide));
	else
		printf("%s\n", slide->path);
	slide_unref(slide);
	return status;
}

/* --- preload --------------------------------------------------------------------------------------------- */

static json_t *status_json(const struct preload_status *status)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:b, s:I}", "slides",
	                 (json_int_t)status->slides, "slides_done", (json_int_t)status->slides_done,
	                 "slides_failed", (json_int_t)status->slides_failed, "tiles",
	                 (json_int_t)status->tiles, "tiles_done", (json_int_t)status->tiles_done,
	                 "tiles_failed", (json_int_t)status->tiles_failed, "tiles_skipped",
	                 (json_int_t)status->tiles_skipped, "running", status->running, "cancelled",
	                 status->cancelled, "full", status->full, "elapsed_ms",
	                 (json_int_t)status->elapsed_ms);
}

static int report_preload(struct cli *cli, struct preload *preload)
{
	struct preload_status status;
	int last = -1;

	do {
		uint64_t tiles;

		(void)preload_wait(preload, 100);
		preload_status(preload, &status);
		tiles = status.tiles_done + status.tiles_failed + status.tiles_skipped;
		if (!cli->json)
			print_progress(
			    "tiles", status.tiles ? (int)(tiles * 100 / status.tiles) : 100, &last);
	} while (status.running);
	if (*status.last_error)
		complain("slides: %s", status.last_error);
	if (cli->json) {
		int rc = print_json(status_json(&status));

		if (rc != STATUS_DONE)
			return rc;
	} else {
		printf("%" PRIu64 " of %" PRIu64 " slides, %" PRIu64 " tiles loaded, %" PRIu64
		       " there already, %" PRIu64 " failed, in %.1f s\n",
		       status.slides_done, status.slides, status.tiles_done, status.tiles_skipped,
		       status.tiles_failed, (double)status.elapsed_ms / 1000);
	}
	return status.tiles_failed || status.slides_failed ? STATUS_MISS : STATUS_DONE;
}

/* The place of a slide among others, by its name; 0 when it was not named. */
static int find_current(struct cli *cli, const struct folder *folder, const char *name, size_t *ret)
{
	for (*ret = 0; name && *ret < folder->count; ++*ret) {
		const char *base = strrchr(folder->paths[*ret], '/');
		size_t size = strlen(name);

		base = base ? base + 1 : folder->paths[*ret];
		if (strncmp(base, name, size) == 0 && (base[size] == '\0' || base[size] == '.'))
			return STATUS_DONE;
	}
	return name ? usage(cli, "--current: there is no slide \"%s\" in the folder", name) :
	              STATUS_DONE;
}

static int slides_preload(struct cli *cli, const struct args *args)
{
	const char *level = args_value(args, "level"), *rate = args_value(args, "rate");
	struct folder folder = { 0 };
	struct preload_spec spec = { .folder = &folder, .finest_level = UINT32_MAX };
	struct preload *preload = NULL;
	struct tiles *tiles = NULL;
	terrace_jobs *jobs = NULL;
	int rc, status;

	if ((level && !whole_number(level, &spec.finest_level)) ||
	    (rate && !whole_number(rate, &spec.rate_limit)))
		return usage(cli, "preload: --level and --rate take whole numbers");
	rc = folder_list(args->operands[1], &folder);
	if (rc != TERRACE_OK)
		return complain_of(rc);
	status = find_current(cli, &folder, args_value(args, "current"), &spec.current);
	if (status == STATUS_DONE)
		status = open_tiles(cli, &tiles);
	if (status == STATUS_DONE) {
		rc = terrace_jobs_open(NULL, &jobs);
		if (rc == TERRACE_OK)
			rc = preload_start(tiles, jobs, &spec, &preload);
		status = rc == TERRACE_OK ? report_preload(cli, preload) : complain_of(rc);
	}
	preload_free(preload);
	terrace_jobs_close(jobs);
	tiles_close(tiles);
	folder_free(&folder);
	return status;
}

/* --- serve, bench -------------------------------------------------------------------------------------------- */

static void say_ready(void *ctx, const char *url, size_t slides)
{
	const struct cli *cli = ctx;

	if (cli->json)
		printf("{\"url\": \"%s\", \"slides\": %zu, \"pid\": %ld}\n", url, slides,
		       (long)getpid());
	else
		printf("%zu slides at %s\n", slides, url);
	fflush(stdout);
}

static int slides_serve_verb(struct cli *cli, const struct args *args)
{
	const char *port = args_value(args, "port"), *rate = args_value(args, "rate");
	uint32_t number = 8417;
	struct serve_spec spec = {
		.folder = args->operands[1],
		.current = args_value(args, "current"),
		.preload = !args_has(args, "no-preload"),
		.dir = cli->dir,
		.config = cli->config,
		.ready = say_ready,
		.warn = warn,
		.ctx = cli,
	};
	int rc;

	if (port && (!whole_number(port, &number) || number > 65535))
		return usage(cli, "serve: --port takes 0 to 65535");
	if (rate && !whole_number(rate, &spec.rate_limit))
		return usage(cli, "serve: --rate takes a whole number");
	spec.port = (uint16_t)number;
	rc = slides_serve(&spec);
	return rc == TERRACE_OK ? STATUS_DONE : complain_of(rc);
}

static int slides_bench_verb(struct cli *cli, const struct args *args)
{
	int rc = slides_bench(args->operand_count > 1 ? args->operands[1] : NULL, cli->dir,
	                      cli->json, stdout);

	return rc == TERRACE_OK ? STATUS_DONE : complain_of(rc);
}

/* --- which ------------------------------------------------------------------------------------------------------ */

static const struct {
	const char *name, *operands;
	size_t least, most; /* operands behind the name */
	int (*run)(struct cli *cli, const struct args *args);
} parts[] = {
	{ "add", "IMAGE [FOLDER]", 1, 2, slides_add_verb },
	{ "info", "SLIDE", 1, 1, slides_info },
	{ "tile", "SLIDE LEVEL COL ROW --jpeg|--rgb", 4, 4, slides_tile },
	{ "view", "SLIDE --viewport X,Y,W,H,SCALE,VX,VY", 1, 1, slides_view },
	{ "preload", "FOLDER", 1, 1, slides_preload },
	{ "serve", "FOLDER", 1, 1, slides_serve_verb },
	{ "bench", "[SLIDE]", 0, 1, slides_bench_verb },
};

int verb_slides(struct cli *cli, const struct args *args)
{
	const char *name = args->operands[0];

	/* Tiles come and go in sizes that malloc would map and unmap each time, and
	 * in the kernel threads wait for each other then, the foreground for bulk. */
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 256 << 20);
	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
		if (strcmp(parts[i].name, name) != 0)
			continue;
		if (args->operand_count - 1 < parts[i].least ||
		    args->operand_count - 1 > parts[i].most)
			return usage(cli, "it is: terrace slides %s %s", name, parts[i].operands);
		return parts[i].run(cli, args);
	}
	return usage(cli,
	             "there is no \"slides %s\": it is add, info, tile, view, preload, serve "
	             "or bench",
	             name);
}
