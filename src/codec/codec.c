#include "codec/codec.h"

#include "codec/contexts.h"
#include "util/message.h"
#include "util/util.h"

#include <lz4.h>
#include <pthread.h>
#include <zstd.h>
#include <zstd_errors.h>

/* Below this, neither codec earns its header and the time. */
enum { ENCODE_MIN_BYTES = 64 };

static const char *const names[] = { "default", "none", "lz4", "zstd", "auto", "dictionary" };

const char *terrace__codec_name(unsigned codec)
{
	return codec < ARRAY_LEN(names) ? names[codec] : NULL;
}

bool terrace__codec_parse(const char *name, terrace_codec *ret)
{
	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		if (strcmp(name, names[i]) == 0 && i != TERRACE_CODEC_DICTIONARY) {
			*ret = (terrace_codec)i;
			return true;
		}
	}
	return false;
}

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

ZSTD_CCtx *terrace__zstd_compressor(void)
{
	struct contexts *mine = contexts_get();

	if (!mine->compress)
		mine->compress = ZSTD_createCCtx();
	return mine->compress;
}

ZSTD_DCtx *terrace__zstd_decompressor(void)
{
	struct contexts *mine = contexts_get();

	if (!mine->decompress)
		mine->decompress = ZSTD_createDCtx();
	return mine->decompress;
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
	ZSTD_CCtx *context = terrace__zstd_compressor();
	size_t size;

	if (!context)
		return 0;
	size = ZSTD_compressCCtx(context, out, capacity, raw.data, raw.size, ZSTD_LEVEL);
	return ZSTD_isError(size) ? 0 : size;
}

terrace_codec terrace__codec_encode(terrace_codec codec, struct dictionary *dictionary,
                                    terrace_slice raw, struct buf *out)
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
	else if (codec == TERRACE_CODEC_DICTIONARY)
		size = terrace__dictionary_encode(dictionary, raw, out->data + out->size, capacity);
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

static int no_memory(void)
{
	terrace__message_set("out of memory for zstd");
	return TERRACE_ENOMEM;
}

static int decode_zstd(terrace_slice encoded, void *raw, size_t raw_size)
{
	ZSTD_DCtx *context = terrace__zstd_decompressor();
	size_t size;

	/*
	 * Ours say how much they hold. In one go, straight into the value: no
	 * window is allocated, whatever size the frame asks for.
	 */
	if (ZSTD_getFrameContentSize(encoded.data, encoded.size) != raw_size)
		return TERRACE_ECORRUPT;
	if (!context)
		return no_memory();
	size = ZSTD_decompressDCtx(context, raw, raw_size, encoded.data, encoded.size);
	if (ZSTD_isError(size) && ZSTD_getErrorCode(size) == ZSTD_error_memory_allocation)
		return no_memory();
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
	case TERRACE_CODEC_DICTIONARY:
		return terrace__dictionary_decode(encoded, raw, raw_size);
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
	case TERRACE_CODEC_DICTIONARY:
	case TERRACE_CODEC_ZSTD: /* a block of 128 KiB takes at least 4 bytes */
		return raw_size / 32768 <= encoded_size;
	}
	return false;
}
