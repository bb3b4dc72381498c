/*
 * Instead of libFuzzer: give the target every file of a folder, and what one
 * changed or missing byte makes of each. usage: fuzz_NAME FOLDER-OR-FILE...
 */
#include "fuzz.h"

#include <dirent.h>

/* Larger inputs are given as they are alone. */
enum { CHANGED_MAX = 400 };

static uint8_t *read_whole(const char *path, size_t *ret_size)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data;
	long size;

	must(file && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0, path);
	rewind(file);
	/* Exactly so large, for the address sanitizer. */
	data = malloc(size ? (size_t)size : 1);
	must(data && fread(data, 1, (size_t)size, file) == (size_t)size, path);
	fclose(file);
	*ret_size = (size_t)size;
	return data;
}

static size_t replay(const char *path)
{
	size_t size, runs = 1, step;
	uint8_t *data = read_whole(path, &size);

	fprintf(stderr, "%s\n", path); /* the last one is who did it */
	LLVMFuzzerTestOneInput(data, size);
	step = getenv("FUZZ_CHANGES") ? 1 : 16;
	for (size_t i = 0; i < size && size <= CHANGED_MAX; i += step, runs += 2) {
		data[i] ^= (uint8_t)(1u << i % 8);
		LLVMFuzzerTestOneInput(data, size);
		data[i] ^= (uint8_t)(1u << i % 8);
		LLVMFuzzerTestOneInput(data, i);
	}
	free(data);
	return runs;
}

int main(int argc, char **argv)
{
	size_t files = 0, runs = 0;

	for (int i = 1; i < argc; i++) {
		struct dirent **items;
		int count = scandir(argv[i], &items, NULL, alphasort);

		if (count < 0) {
			runs += replay(argv[i]);
			files++;
		}
		for (int k = 0; k < count; k++) {
			char path[4096];

			snprintf(path, sizeof path, "%s/%s", argv[i], items[k]->d_name);
			if (items[k]->d_name[0] != '.') {
				runs += replay(path);
				files++;
			}
			free(items[k]);
		}
		if (count >= 0)
			free(items);
	}
	printf("%zu inputs, %zu runs with their changes\n", files, runs);
	return files ? 0 : 1;
}
