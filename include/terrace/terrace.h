/*
 * Terrace: an embeddable multi-tier cache. This header includes all others.
 *
 *   terrace *store = NULL;
 *   terrace_cache *cache = NULL;
 *   terrace_value *value;
 *
 *   terrace_open(NULL, NULL, &store);
 *   terrace_cache_open(store, "reports", NULL, &cache);
 *   terrace_put(cache, TERRACE_KEY("week"), terrace_str("47"), NULL);
 *   if (terrace_get(cache, TERRACE_KEY("week"), &value) == TERRACE_OK) {
 *           fwrite(terrace_data(value), 1, terrace_size(value), stdout);
 *           terrace_release(value);
 *   }
 *   terrace_cache_close(cache);
 *   terrace_close(store);
 */
#ifndef TERRACE_TERRACE_H
#define TERRACE_TERRACE_H

#include <terrace/base.h>
#include <terrace/cache.h>
#include <terrace/events.h>
#include <terrace/fetch.h>
#include <terrace/jobs.h>
#include <terrace/key.h>
#include <terrace/library.h>
#include <terrace/memory.h>
#include <terrace/policy.h>
#include <terrace/sources.h>
#include <terrace/stats.h>
#include <terrace/store.h>
#include <terrace/stream.h>
#include <terrace/text.h>
#include <terrace/transaction.h>

#endif
