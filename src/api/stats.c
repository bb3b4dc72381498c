#include "api/api.h"

#include "core/behind.h"
#include "core/bulk.h"
#include "core/caches.h"
#include "core/entries.h"
#include "core/sources.h"
#include "core/stream.h"
#include "util/histogram.h"
#include "util/message.h"
#include "util/util.h"

#include <inttypes.h>
#include <stdlib.h>

/* --- latencies ------------------------------------------------------------------------------- */

uint64_t terrace_latency_quantile(const terrace_latency *latency, double q)
{
	uint64_t rank = (uint64_t)(q * (double)latency->count), seen = 0;

	if (latency->count == 0)
		return 0;
	for (unsigned i = 0; i < TERRACE_LATENCY_BUCKETS; i++) {
		seen += latency->buckets[i];
		if (seen > rank || seen == latency->count)
			return terrace__histogram_value(i);
	}
	return terrace__histogram_value(TERRACE_LATENCY_BUCKETS - 1);
}

uint64_t terrace_latency_mean(const terrace_latency *latency)
{
	return latency->count ? latency->sum_ns / latency->count : 0;
}

/* --- a cache ----------------------------------------------------------------------------------- */

enum { ALERT_KEYS = 10 };

static void usage_of(struct terrace_cache *cache, terrace_tier tier, uint64_t limit,
                     terrace_usage *ret)
{
	struct terrace *store = cache->store;
	struct tier_usage usage = { 0 };

	if (store->disk_ops->tier.usage(store->disk, cache->number, tier, &usage) != TERRACE_OK)
		terrace__swallow(store, cache, "reading the usage");
	*ret = (terrace_usage){ usage.entries, usage.bytes, limit };
}

static void memory_usage_of(void *tier, uint64_t limit, terrace_usage *ret)
{
	*ret = (terrace_usage){ terrace__tiers_memory_entries(tier),
		                terrace__tiers_memory_bytes(tier), limit };
}

int terrace_cache_stats(terrace_cache *cache, terrace_stats *ret)
{
	terrace_stats stats = TERRACE_STATS_INIT;
	struct terrace *store;
	uint64_t entries;
	int rc = terrace__check_cache(cache);

	if (rc != TERRACE_OK)
		return rc;
	if (ret->size < sizeof stats)
		return terrace_fail(TERRACE_EINVAL, "the statistics struct is of an older version");
	if (!holds_nothing(cache)) {
		store = cache->store;
		if (cache->on_disk)
			terrace__behind_settle_all(store); /* to be counted, it must be there */
		terrace__stats_fold(cache);
		pthread_mutex_lock(&store->stats_lock);
		terrace__stats_file_read(store->dir_fd, store->lock_fd, cache->number, &stats);
		/* What could not be added to the file, or came since. */
		terrace__counts_read(&cache->counts, &stats);
		pthread_mutex_unlock(&store->stats_lock);
		stats.gets = stats.hits_l1 + stats.hits_l2 + stats.hits_l3 + stats.hits_encoded +
		             stats.misses;
		stats.tiers = cache->tiers;
		if (cache->memory)
			memory_usage_of(cache->memory, cache->memory_bytes, &stats.l1);
		if (cache->encoded)
			memory_usage_of(cache->encoded, cache->encoded_bytes, &stats.encoded);
		if (cache->on_disk) {
			usage_of(cache, TERRACE_L2, cache->disk_bytes, &stats.l2);
			usage_of(cache, TERRACE_L3, cache->disk_bytes, &stats.l3);
		}
	}
	entries = cache && cache->on_disk ? stats.l2.entries + stats.l3.entries : stats.l1.entries;
	stats.low_hit_rate = entries > ALERT_KEYS && stats.gets > 0 &&
	                     terrace_hit_rate(&stats) < 0.5;
	*ret = stats;
	return TERRACE_OK;
}

int terrace_cache_codec(terrace_cache *cache, terrace_codec_info *ret)
{
	terrace_codec_info info = TERRACE_CODEC_INFO_INIT;
	terrace_stats stats = TERRACE_STATS_INIT;
	int rc = terrace_cache_stats(cache, &stats);

	if (rc != TERRACE_OK)
		return rc;
	if (ret->size < sizeof info)
		return terrace_fail(TERRACE_EINVAL, "the codec struct is of an older version");
	if (!holds_nothing(cache))
		terrace__codecs_describe(cache, &stats, &info);
	*ret = info;
	return TERRACE_OK;
}

int terrace_cache_usage(terrace_cache *cache, terrace_usage *ret)
{
	terrace_usage l2 = { 0 }, l3 = { 0 };
	int rc = terrace__check_cache(cache);

	if (rc != TERRACE_OK)
		return rc;
	if (!holds_nothing(cache) && cache->on_disk) {
		terrace__behind_settle_all(cache->store); /* to be counted, it must be there */
		usage_of(cache, TERRACE_L2, cache->disk_bytes, &l2);
		usage_of(cache, TERRACE_L3, cache->disk_bytes, &l3);
		l2.entries += l3.entries;
		l2.bytes += l3.bytes;
	} else if (!holds_nothing(cache)) {
		memory_usage_of(cache->memory, cache->memory_bytes, &l2);
	}
	*ret = l2;
	return TERRACE_OK;
}

double terrace_hit_rate(const terrace_stats *stats)
{
	uint64_t hits = stats->hits_l1 + stats->hits_l2 + stats->hits_l3 + stats->hits_encoded;

	return stats->gets ? (double)hits / (double)stats->gets : 0;
}

/* --- an entry ------------------------------------------------------------------------------------ */

/* What terrace_info's arrays point into: one allocation each. */
struct info_parts {
	const char **tags;
	terrace_source_info *sources;
	struct buf text;
};

static void parts_free(struct info_parts *parts)
{
	if (!parts)
		return;
	free(parts->tags);
	free(parts->sources);
	terrace__buf_done(&parts->text);
	free(parts);
}

/* A terminated copy; the address is fixed up when the text has stopped growing. */
static size_t keep_text(struct buf *text, terrace_slice slice)
{
	size_t at = text->size;

	terrace__buf_append(text, slice.data, slice.size);
	terrace__buf_u8(text, 0);
	return at;
}

static int fill_parts(struct terrace *store, terrace_slice extra, terrace_info *ret)
{
	struct info_parts *parts = calloc(1, sizeof *parts);
	struct extra_walk walk;
	struct source_mark mark;
	terrace_slice tag;
	size_t i;

	if (!parts)
		return no_memory("the facts of an entry");
	terrace__extra_start(&walk, extra);
	ret->tag_count = walk.tags;
	ret->source_count = walk.sources;
	parts->tags = calloc(walk.tags + 1, sizeof *parts->tags);
	parts->sources = calloc(walk.sources + 1, sizeof *parts->sources);
	if (!parts->tags || !parts->sources ||
	    !terrace__buf_reserve(&parts->text, 2 * extra.size + 1)) {
		parts_free(parts);
		return no_memory("the facts of an entry");
	}
	for (i = 0; terrace__extra_next_tag(&walk, &tag); i++)
		parts->tags[i] = (const char *)parts->text.data + keep_text(&parts->text, tag);
	for (i = 0; terrace__extra_next_source(&walk, &mark); i++) {
		parts->sources[i] = (terrace_source_info){
			.kind = (terrace_source_kind)mark.kind,
			.path = (const char *)parts->text.data + keep_text(&parts->text, mark.path),
			.changed = terrace__source_check(store, &mark, NULL, 0) != SOURCE_SAME,
		};
	}
	ret->tags = parts->tags;
	ret->sources = parts->sources;
	ret->owned = parts;
	return TERRACE_OK;
}

static int fill_info(struct terrace_cache *cache, const struct tier_facts *facts, terrace_info *ret)
{
	int64_t now = terrace__now(cache->store);
	terrace_info info = TERRACE_INFO_INIT;
	int rc;

	info.tier = facts->tier;
	info.bytes = facts->value_size;
	info.stored_bytes = cache->on_disk ? facts->stored_size : 0;
	info.codec = (terrace_codec)facts->codec;
	info.created_ms = facts->created;
	info.stored_ms = facts->stored;
	info.accessed_ms = facts->accessed;
	info.access_count = facts->hits;
	info.age_ms = now > facts->created ? now - facts->created : 0;
	info.ttl_ms = facts->ttl;
	info.expires_ms = facts->expires == INT64_MAX ? 0 : facts->expires;
	info.left_ms = facts->expires == INT64_MAX ? TERRACE_TTL_FOREVER :
	               facts->expires > now        ? facts->expires - now :
	                                             0;
	info.cost_us = facts->cost_us;
	info.idle_ms = facts->idle;
	rc = facts->extra.failed ?
	         TERRACE_ENOMEM :
	         fill_parts(cache->store, terrace_bytes(facts->extra.data, facts->extra.size),
	                    &info);
	if (rc != TERRACE_OK)
		return terrace_fail(rc, "out of memory for the facts of an entry");
	*ret = info;
	return TERRACE_OK;
}

void terrace_info_free(terrace_info *info)
{
	if (!info)
		return;
	parts_free(info->owned);
	info->owned = NULL;
	info->tags = NULL;
	info->sources = NULL;
	info->tag_count = info->source_count = 0;
}

int terrace_inspect(terrace_cache *cache, terrace_slice key, terrace_info *ret)
{
	CLEANUP(terrace__buf_done) struct buf extra = { 0 };
	struct tier_facts facts = { 0 };
	terrace_reason reason;
	int rc = terrace__check_cache(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc != TERRACE_OK)
		return rc;
	if (holds_nothing(cache))
		return TERRACE_MISS;
	rc = terrace__describe(cache, key, &facts, &reason);
	extra = facts.extra;
	return rc == TERRACE_OK ? fill_info(cache, &facts, ret) : rc;
}

int terrace_inspect_value(terrace_cache *cache, const terrace_value *value, terrace_info *ret)
{
	CLEANUP(terrace__buf_done) struct buf extra = { 0 };
	struct entry *entry = value_entry(value);
	struct tier_facts facts = { 0 };
	int rc = terrace__check_cache(cache);

	if (rc != TERRACE_OK)
		return rc;
	if (!cache || !entry)
		return terrace_fail(TERRACE_EINVAL, "there is no cache, or no value, to describe");
	terrace__entry_facts(entry, &facts);
	extra = facts.extra;
	facts.tier = terrace_value_tier(value);
	return fill_info(cache, &facts, ret);
}

int terrace_inspect_reader(terrace_reader *reader, terrace_info *ret)
{
	CLEANUP(terrace__buf_done) struct buf extra = { 0 };
	struct tier_facts facts = { 0 };
	int rc = terrace__check_cache(reader->cache);

	if (rc != TERRACE_OK)
		return rc;
	terrace__entry_facts(reader->entry, &facts);
	extra = facts.extra;
	facts.tier = reader->tier;
	facts.value_size = reader->size; /* in blocks, the entry is without it */
	return fill_info(reader->cache, &facts, ret);
}

const char *terrace_reason_name(terrace_reason reason)
{
	static const char *const names[] = {
		[TERRACE_REASON_LIVE] = "live",
		[TERRACE_REASON_NEVER] = "never stored",
		[TERRACE_REASON_EXPIRED] = "expired",
		[TERRACE_REASON_EVICTED] = "evicted",
		[TERRACE_REASON_CLEARED] = "cleared",
		[TERRACE_REASON_DELETED] = "deleted",
		[TERRACE_REASON_INVALIDATED] = "invalidated",
		[TERRACE_REASON_SOURCE] = "source changed",
		[TERRACE_REASON_DAMAGED] = "damaged",
		[TERRACE_REASON_REJECTED] = "rejected",
		[TERRACE_REASON_OUTDATED] = "outdated",
		[TERRACE_REASON_ABSENT] = "known to be absent",
	};

	return (unsigned)reason < ARRAY_LEN(names) ? names[reason] : "unknown";
}

const char *terrace_source_kind_name(terrace_source_kind kind)
{
	static const char *const names[] = {
		[TERRACE_SOURCE_FILE] = "file",
		[TERRACE_SOURCE_ABSENT] = "absent",
		[TERRACE_SOURCE_LISTING] = "listing",
		[TERRACE_SOURCE_VARIABLE] = "variable",
	};

	return (unsigned)kind < ARRAY_LEN(names) && names[kind] ? names[kind] : "unknown";
}

/* It is there, but dead: say of what. */
static void explain_dead(struct terrace_cache *cache, const struct tier_facts *facts,
                         terrace_why *why)
{
	uint64_t looked_at;

	if (why->reason == TERRACE_REASON_EXPIRED)
		why->when_ms = facts->expires;
	if (why->reason == TERRACE_REASON_ABSENT)
		why->when_ms = facts->stored;
	if (why->reason == TERRACE_REASON_SOURCE)
		terrace__sources_check(cache->store,
		                       terrace_bytes(facts->extra.data, facts->extra.size),
		                       &looked_at, why->detail, sizeof why->detail);
}

int terrace_explain(terrace_cache *cache, terrace_slice key, terrace_why *ret)
{
	CLEANUP(terrace__buf_done) struct buf extra = { 0 };
	terrace_why why = TERRACE_WHY_INIT;
	struct tier_facts facts = { 0 };
	int rc = terrace__check_cache(cache);

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc != TERRACE_OK)
		return rc;
	why.info.size = sizeof why.info;
	why.reason = TERRACE_REASON_NEVER;
	if (!holds_nothing(cache)) {
		rc = terrace__describe(cache, key, &facts, &why.reason);
		extra = facts.extra;
	} else {
		rc = TERRACE_MISS;
	}
	if (rc == TERRACE_OK)
		rc = fill_info(cache, &facts, &why.info);
	else if (rc == TERRACE_ECORRUPT)
		why.reason = TERRACE_REASON_DAMAGED;
	else if (rc == TERRACE_MISS && why.reason != TERRACE_REASON_NEVER)
		explain_dead(cache, &facts, &why);
	else if (rc == TERRACE_MISS && !holds_nothing(cache))
		terrace__note_get(cache, key, &why);
	if (rc == TERRACE_ECORRUPT)
		rc = TERRACE_MISS;
	if (rc == TERRACE_OK || rc == TERRACE_MISS)
		*ret = why;
	return rc;
}

/* --- the store -------------------------------------------------------------------------------------- */

static int report_faults(const terrace_verify_report *report, terrace_verify_report *ret)
{
	uint64_t found = report->damaged + report->missing_files + report->orphans +
	                 report->database_errors;

	if (ret)
		*ret = *report;
	if (found == report->repaired)
		return TERRACE_OK;
	return terrace_fail(TERRACE_ECORRUPT, "%llu of %llu faults remain",
	                    (unsigned long long)(found - report->repaired),
	                    (unsigned long long)found);
}

int terrace_verify(terrace *store, bool repair, int (*fn)(void *ctx, const terrace_fault *fault),
                   void *ctx, terrace_verify_report *ret)
{
	terrace_verify_report report = TERRACE_VERIFY_INIT;
	int rc = TERRACE_OK;

	if (store && !store->disabled) {
		rc = terrace__check_store(store);
		if (rc == TERRACE_OK && repair && store->read_only)
			rc = terrace__check_writable(store);
		if (rc == TERRACE_OK)
			rc = terrace__verify(store, repair, fn, ctx, &report);
	}
	return rc == TERRACE_OK ? report_faults(&report, ret) : rc;
}

int terrace_scrub(terrace *store, const terrace_scrub_options *options,
                  int (*fn)(void *ctx, const terrace_fault *fault), void *ctx,
                  terrace_verify_report *ret, uint64_t *ret_position)
{
	terrace_verify_report report = TERRACE_VERIFY_INIT;
	terrace_scrub_options ours;
	uint64_t position = 0;
	int rc = terrace__struct_in(&ours, sizeof ours, options, "the scrub's struct of options");

	if (rc != TERRACE_OK)
		return rc;
	if (ours.position > INT64_MAX)
		return terrace_fail(TERRACE_EINVAL,
		                    "%" PRIu64 " is no position that a scrub stops at",
		                    ours.position);
	if (store && !store->disabled) {
		rc = terrace__check_store(store);
		if (rc == TERRACE_OK && ours.repair && store->read_only)
			rc = terrace__check_writable(store);
		if (rc == TERRACE_OK)
			rc = terrace__scrub(store, &ours, fn, ctx, &report, &position);
	}
	if (rc == TERRACE_OK && ret_position)
		*ret_position = position;
	return rc == TERRACE_OK ? report_faults(&report, ret) : rc;
}
