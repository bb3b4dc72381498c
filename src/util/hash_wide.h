/* For hash.c alone. */
#ifndef UTIL_HASH_WIDE_H
#define UTIL_HASH_WIDE_H

#include "util/hash.h"

struct hash128 terrace__hash128_wide(const void *data, size_t size, uint64_t seed);

#endif
