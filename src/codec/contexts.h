/* zstd's contexts are dear to make, so each thread keeps its own; NULL when out of memory. */
#ifndef CODEC_CONTEXTS_H
#define CODEC_CONTEXTS_H

#include <zstd.h>

enum { ZSTD_LEVEL = 3 };

ZSTD_CCtx *terrace__zstd_compressor(void);
ZSTD_DCtx *terrace__zstd_decompressor(void);

#endif
