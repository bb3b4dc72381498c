#include "codec/codec.h"

#include "util/util.h"

#include <lz4.h>
#include <pthread.h>
#include <zstd.h>

/* Below this, neither codec earns its header and the time. */
enum { ENCODE_MIN_BYTES = 64 };
enum { ZSTD_LEVEL = 3 };

static const char *const names[] = { "default", "none", "lz4", "zstd" };

const char *terrace__codec_name(unsigned codec)
{
	return codec < ARRAY_LEN(names) ? names[codec] : NULL;
}

bool terrace__codec_parse(const char *name, terrace_codec *ret)
{
	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		if (strcmp(name, names[i]) == 0) {
			*ret = (terrace_codec)i;
			return true;
		}
	}
	return false;
}

/* zstd's contexts are dear to make, so each thread keeps its own. */
struct contexts {
	ZSTD_CCtx *compress;
	ZSTD_DCtx *decompress;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t contexts_key;
static _Thread_local struct contexts contexts;

static void contexts_done(void *data)
{
	struct contexts *mine = data;

	ZSTD_freeCCtx(mine->compress);
	ZSTD_freeDCtx(mine->decompress);
	*mine = (struct contexts){ 0 };
}

static void contexts_start(void)
{
	pthread_key_create(&contexts_key, contexts_done);
}

static struct contexts *contexts_get(void)
{
	pthread_once(&once, contexts_start);
	pthread_setspecific(contexts_key, &contexts);
	return &contexts;
}

static size_t encode_lz4(terrace_slice raw, uint8_t *out, size_t capacity)
{
	int size;

	if (raw.size > LZ4_MAX_INPUT_SIZE)
		return 0;
	size = LZ4_compress_default(raw.data, (char *)out, (int)raw.size, (int)capacity);
	return size > 0 ? (size_t)size : 0;
}

static size_t encode_zstd(terrace_slice raw, uint8_t *out, size_t capacity)
{
	struct contexts *mine = contexts_get();
	size_t size;

	if (!mine->compress)
		mine->compress = ZSTD_createCCtx();
	if (!mine->compress)
		return 0;
	size = ZSTD_compressCCtx(mine->compress, out, capacity, raw.data, raw.size, ZSTD_LEVEL);
	return ZSTD_isError(size) ? 0 : size;
}

terrace_codec terrace__codec_encode(terrace_codec codec, terrace_slice raw, struct buf *out)
{
	/* Room for what is worth it and no more: a codec that needs more fails early. */
	size_t capacity = raw.size - raw.size / 16, size;

	if (raw.size < ENCODE_MIN_BYTES || codec == TERRACE_CODEC_NONE)
		return TERRACE_CODEC_NONE;
	if (!terrace__buf_reserve(out, capacity)) {
		out->failed = false; /* the bytes as they are will do */
		return TERRACE_CODEC_NONE;
	}
	if (codec == TERRACE_CODEC_LZ4)
		size = encode_lz4(raw, out->data + out->size, capacity);
	else
		size = encode_zstd(raw, out->data + out->size, capacity);
	if (size == 0)
		return TERRACE_CODEC_NONE;
	out->size += size;
	return codec;
}

static int decode_lz4(terrace_slice encoded, void *raw, size_t raw_size)
{
	int size;

	if (encoded.size > INT32_MAX || raw_size > INT32_MAX)
		return TERRACE_ECORRUPT;
	size = LZ4_decompress_safe(encoded.data, raw, (int)encoded.size, (int)raw_size);
	return size >= 0 && (size_t)size == raw_size ? TERRACE_OK : TERRACE_ECORRUPT;
}

static int decode_zstd(terrace_slice encoded, void *raw, size_t raw_size)
{
	struct contexts *mine = contexts_get();
	size_t size;

	if (!mine->decompress)
		mine->decompress = ZSTD_createDCtx();
	if (!mine->decompress)
		return TERRACE_ENOMEM;
	size = ZSTD_decompressDCtx(mine->decompress, raw, raw_size, encoded.data, encoded.size);
	return !ZSTD_isError(size) && size == raw_size ? TERRACE_OK : TERRACE_ECORRUPT;
}

int terrace__codec_decode(unsigned codec, terrace_slice encoded, void *raw, size_t raw_size)
{
	switch (codec) {
	case TERRACE_CODEC_NONE:
		if (encoded.size != raw_size)
			return TERRACE_ECORRUPT;
		if (raw_size)
			memcpy(raw, encoded.data, raw_size);
		return TERRACE_OK;
	case TERRACE_CODEC_LZ4:
		return decode_lz4(encoded, raw, raw_size);
	case TERRACE_CODEC_ZSTD:
		return decode_zstd(encoded, raw, raw_size);
	}
	return TERRACE_ECORRUPT;
}

bool terrace__codec_plausible(unsigned codec, uint64_t encoded_size, uint64_t raw_size)
{
	switch (codec) {
	case TERRACE_CODEC_NONE:
		return encoded_size == raw_size;
	case TERRACE_CODEC_LZ4: /* a length byte adds at most 255 */
		return raw_size / 256 <= encoded_size;
	case TERRACE_CODEC_ZSTD: /* a block of 128 KiB takes at least 4 bytes */
		return raw_size / 32768 <= encoded_size;
	}
	return false;
}
