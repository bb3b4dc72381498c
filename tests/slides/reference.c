/*
 * The other way to a tile's pixels: libjpeg's own interface with nothing set.
 * usage: reference FILE.jpg > RGB; reference --make W H COMPONENTS SEED > FILE.jpg
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

static int decode(const char *path)
{
	struct jpeg_decompress_struct jpeg;
	struct jpeg_error_mgr errors;
	FILE *file = fopen(path, "rb");
	unsigned char *row;

	if (!file)
		return 1;
	jpeg.err = jpeg_std_error(&errors);
	jpeg_create_decompress(&jpeg);
	jpeg_stdio_src(&jpeg, file);
	jpeg_read_header(&jpeg, TRUE);
	jpeg_start_decompress(&jpeg);
	row = malloc((size_t)jpeg.output_width * 3);
	while (jpeg.output_scanline < jpeg.output_height) {
		jpeg_read_scanlines(&jpeg, &row, 1);
		/* A grey pixel is three equal ones. */
		for (unsigned x = jpeg.output_width; jpeg.output_components == 1 && x-- > 0;)
			memset(row + 3 * x, row[x], 3);
		fwrite(row, 3, jpeg.output_width, stdout);
	}
	jpeg_finish_decompress(&jpeg);
	jpeg_destroy_decompress(&jpeg);
	free(row);
	fclose(file);
	return 0;
}

/* Colour everywhere, different for each seed. */
static int make(unsigned width, unsigned height, int components, unsigned seed)
{
	struct jpeg_compress_struct jpeg;
	struct jpeg_error_mgr errors;
	unsigned char *row = malloc((size_t)width * 4);

	jpeg.err = jpeg_std_error(&errors);
	jpeg_create_compress(&jpeg);
	jpeg_stdio_dest(&jpeg, stdout);
	jpeg.image_width = width;
	jpeg.image_height = height;
	jpeg.input_components = components;
	jpeg.in_color_space = components == 1 ? JCS_GRAYSCALE :
	                      components == 3 ? JCS_RGB :
	                                        JCS_CMYK;
	jpeg_set_defaults(&jpeg);
	if (seed % 2)
		jpeg_simple_progression(&jpeg);
	jpeg_start_compress(&jpeg, TRUE);
	while (jpeg.next_scanline < height) {
		for (unsigned i = 0; i < width * (unsigned)components; i++)
			row[i] = (unsigned char)(seed * 37 + i * (seed + 3) / 5 +
			                         jpeg.next_scanline * 7);
		jpeg_write_scanlines(&jpeg, &row, 1);
	}
	jpeg_finish_compress(&jpeg);
	jpeg_destroy_compress(&jpeg);
	free(row);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 6 && strcmp(argv[1], "--make") == 0)
		return make((unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]), atoi(argv[4]),
		            (unsigned)atoi(argv[5]));
	return argc == 2 ? decode(argv[1]) : 2;
}
