/*
 * Codecs for the bytes that go to disk. Which one was used is remembered for
 * each entry; TERRACE_CODEC_NONE is chosen where another does not shrink.
 */
#ifndef CODEC_CODEC_H
#define CODEC_CODEC_H

#include "codec/dictionary.h"
#include "util/buf.h"

#include <terrace/base.h>
#include <terrace/policy.h>

/* "none", "lz4", "zstd", "default", "auto", "dictionary"; NULL for any other number. */
const char *terrace__codec_name(unsigned codec);
/* False when there is no codec of that name that can be asked for. */
bool terrace__codec_parse(const char *name, terrace_codec *ret);

/*
 * Append the encoded bytes to `out` and return the codec that was used: the
 * one asked for, or NONE with nothing appended when it would not save at least
 * a sixteenth, or failed. The dictionary is for TERRACE_CODEC_DICTIONARY alone.
 */
terrace_codec terrace__codec_encode(terrace_codec codec, struct dictionary *dictionary,
                                    terrace_slice raw, struct buf *out);

/*
 * Decode into exactly `raw_size` bytes, never writing beyond them.
 * TERRACE_OK, TERRACE_ECORRUPT when the bytes are not that, TERRACE_ENOMEM.
 */
int terrace__codec_decode(unsigned codec, terrace_slice encoded, void *raw, size_t raw_size);

/* Can so many encoded bytes be so many raw ones? Keeps a forged size from asking for memory. */
bool terrace__codec_plausible(unsigned codec, uint64_t encoded_size, uint64_t raw_size);

#endif
