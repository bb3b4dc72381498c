/* Many entries at once: invalidate, clear, clean up, list, verify. */
#ifndef CORE_BULK_H
#define CORE_BULK_H

#include "core/lookup.h"

/* match: of any kind but KEY; a SOURCE is an absolute path. */
int terrace__invalidate(struct terrace_cache *cache, const terrace_match *match,
                        uint64_t *ret_count);
/* All tiers, in all processes. */
int terrace__clear(struct terrace_cache *cache, uint64_t *ret_count);
/* Some tiers; L1 of this process. */
int terrace__clear_tiers(struct terrace_cache *cache, unsigned tiers, uint64_t *ret_count);
/* Expired, cleared and too much of it. */
int terrace__cleanup(struct terrace_cache *cache, uint64_t *ret_count);
int terrace__check_sources(struct terrace_cache *cache, uint64_t *ret_count);

/* The keys that match and are alive, some hundred at a time. */
struct key_list {
	struct terrace_cache *cache;
	terrace_match match;
	struct buf match_text;
	bool newest_first;
	struct disk_names names;
	uint64_t after_id; /* the next batch starts behind this row */
	bool at_end;
	struct buf keys; /* u32 size, bytes */
	struct reader reader;
};

int terrace__keys_start(struct terrace_cache *cache, const terrace_match *match, bool newest_first,
                        struct key_list *ret);
int terrace__keys_next(struct key_list *list, terrace_slice *ret);
void terrace__keys_done(struct key_list *list);

/*
 * Who looked for a prefix had to pass by many rows without a name: give some of them
 * one, so that the next look is shorter. It takes less time than the look itself where
 * keys came in their order, and up to three times as much where they came at random.
 */
void terrace__names_add(struct terrace_cache *cache, struct disk_names *names);

int terrace__verify(struct terrace *store, bool repair,
                    int (*fn)(void *ctx, const terrace_fault *fault), void *ctx,
                    terrace_verify_report *report);
int terrace__scrub(struct terrace *store, const terrace_scrub_options *options,
                   int (*fn)(void *ctx, const terrace_fault *fault), void *ctx,
                   terrace_verify_report *report, uint64_t *ret_position);

#endif
