/*
 * What comes from outside, at random: the first byte says whether the rest is a
 * JPEG, metadata.json, a Deep Zoom file or a pack's index. Built and run by
 * `make fuzz-slides`, with clang's libFuzzer and the address sanitizer.
 */
#include "slides/jpeg.h"
#include "slides/view.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void write_part(const char *name, const uint8_t *data, size_t size)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	file = fopen(path, "wb");
	if (!file)
		abort();
	fwrite(data, 1, size, file);
	fclose(file);
}

static void make_dirs(void)
{
	static const char *const below[] = { "", "/s.fastpath", "/s.fastpath/tiles", "/d_files" };
	static const char metadata[] =
	    "{\"tile_size\": 64, \"dimensions\": [128, 64], \"levels\": [{\"level\": 0, "
	    "\"downsample\": 1, \"cols\": 2, \"rows\": 1}]}";
	char path[128];

	snprintf(dir, sizeof dir, "/tmp/terrace-fuzz-%d", (int)getpid());
	for (size_t i = 0; i < 4; i++) {
		snprintf(path, sizeof path, "%s%s", dir, below[i]);
		mkdir(path, 0700);
	}
	write_part("s.fastpath/metadata.json", (const uint8_t *)metadata, sizeof metadata - 1);
	write_part("s.fastpath/tiles/level_0.pack", (const uint8_t *)"\xff\xd8\xff\xd9", 4);
}

static void open_and_use(const char *name)
{
	struct view view = { 3, 4, 300, 200, 0.3, 60, -60 };
	struct view_plan plan;
	struct slide *slide;
	char path[128];
	size_t size;
	void *bytes;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	if (slide_open(path, &slide) != TERRACE_OK)
		return;
	if (view_plan(slide, &view, &plan) == TERRACE_OK)
		view_plan_free(&plan);
	for (uint32_t col = 0; col < 3; col++) {
		if (slide_read(slide, slide->levels[0].level, col, 0, &bytes, &size) == TERRACE_OK)
			free(bytes);
	}
	slide_unref(slide);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct picture *picture;

	if (!*dir)
		make_dirs();
	if (size < 1)
		return 0;
	switch (data[0] % 4) {
	case 0:
		if (jpeg_decode(terrace_bytes(data + 1, size - 1), 1024, &picture) == TERRACE_OK)
			free(picture);
		break;
	case 1:
		write_part("s.fastpath/tiles/level_0.idx", data + 1, size - 1);
		open_and_use("s.fastpath");
		break;
	case 2:
		write_part("d.dzi", data + 1, size - 1);
		open_and_use("d.dzi");
		break;
	case 3:
		write_part("s.fastpath/metadata.json", data + 1, size - 1);
		open_and_use("s.fastpath");
		make_dirs();
		break;
	}
	return 0;
}
