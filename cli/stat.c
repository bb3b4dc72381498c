/* The verb stat: what each cache and tier has done and holds. */
#include "cli.h"

#include <inttypes.h>

static json_t *latency_json(const terrace_latency *latency)
{
	return json_pack("{s:I, s:I, s:I, s:I}", "count", (json_int_t)latency->count, "mean_ns",
	                 (json_int_t)terrace_latency_mean(latency), "p50_ns",
	                 (json_int_t)terrace_latency_quantile(latency, 0.5), "p99_ns",
	                 (json_int_t)terrace_latency_quantile(latency, 0.99));
}

static json_t *usage_json(const terrace_usage *usage)
{
	return json_pack("{s:I, s:I, s:o}", "entries", (json_int_t)usage->entries, "bytes",
	                 (json_int_t)usage->bytes, "limit_bytes",
	                 usage->limit_bytes ? json_integer((json_int_t)usage->limit_bytes) :
	                                      json_null());
}

static json_t *stats_json(const terrace_stats *stats, const terrace_codec_info *codec)
{
	json_t *json = json_object(), *latencies = json_object(), *tiers = json_object();

#define X(name, what) json_object_set_new(json, #name, json_integer((json_int_t)stats->name));
	TERRACE_COUNTERS(X)
#undef X
#define X(name, what) json_object_set_new(latencies, #name, latency_json(&stats->name##_time));
	TERRACE_LATENCIES(X)
#undef X
	if (stats->tiers & TERRACE_L1)
		json_object_set_new(tiers, "l1", usage_json(&stats->l1));
	if (stats->tiers & TERRACE_L2)
		json_object_set_new(tiers, "l2", usage_json(&stats->l2));
	if (stats->tiers & (TERRACE_L2 | TERRACE_L3))
		json_object_set_new(tiers, "l3", usage_json(&stats->l3));
	json_object_set_new(json, "hit_rate", json_real(terrace_hit_rate(stats)));
	json_object_set_new(json, "low_hit_rate", json_boolean(stats->low_hit_rate));
	json_object_set_new(json, "latency", latencies);
	json_object_set_new(json, "codec",
	                    json_pack("{s:s, s:s, s:I, s:I}", "asked", codec_name(codec->codec),
	                              "chosen", codec_name(codec->chosen), "dictionary_bytes",
	                              (json_int_t)codec->dictionary_bytes, "dictionary_version",
	                              (json_int_t)codec->dictionary_version));
	json_object_set_new(json, "tiers", tiers);
	return json;
}

/* --- for people --------------------------------------------------------------------------------- */

/* One line: what reached this tier, and what of that it served. */
struct line {
	const char *cache, *tier;
	uint64_t hits, reached;
	const terrace_usage *usage; /* NULL: none of its own */
	const terrace_latency *time;
};

static void print_line(const struct line *line)
{
	char rate[16] = "-", size[TERRACE_TEXT_MAX] = "-", entries[24] = "-", p50[32] = "-",
	     p99[32] = "-";

	if (line->reached)
		snprintf(rate, sizeof rate, "%.1f%%",
		         100.0 * (double)line->hits / (double)line->reached);
	if (line->usage) {
		terrace_format_size(line->usage->bytes, size);
		snprintf(entries, sizeof entries, "%" PRIu64, line->usage->entries);
	}
	if (line->time && line->time->count) {
		nanoseconds_text(terrace_latency_quantile(line->time, 0.5), p50);
		nanoseconds_text(terrace_latency_quantile(line->time, 0.99), p99);
	}
	printf("%-16s %-4s %9" PRIu64 " %9" PRIu64 " %7s %9s %9s %8s %8s", line->cache, line->tier,
	       line->hits, line->reached - line->hits, rate, entries, size, p50, p99);
}

struct report {
	json_t *json; /* NULL: a table */
	uint64_t saved_us, disk_bytes;
	bool alert;
};

static double ratio(uint64_t raw, uint64_t stored)
{
	return stored ? (double)raw / (double)stored : 1;
}

/* What became of values on disk, where something did. */
static void print_codec(const terrace_codec_info *codec, const terrace_stats *stats)
{
	const struct {
		uint64_t count;
		const char *how;
	} ways[] = { { stats->stored_plain, "as they are" },
		     { stats->stored_lz4, "by lz4" },
		     { stats->stored_zstd, "by zstd" },
		     { stats->stored_dictionary, "with a dictionary" } };
	const char *between = "";
	char size[TERRACE_TEXT_MAX];

	if (stats->stored_plain == 0 && stats->stored_lz4 + stats->stored_zstd == 0 &&
	    stats->stored_dictionary == 0)
		return;
	if (codec->codec == TERRACE_CODEC_DEFAULT && stats->stored_lz4 == 0)
		return;
	printf("%-16s codec %s", "", codec_name(codec->codec));
	if (codec->codec == TERRACE_CODEC_AUTO)
		printf(", now %s (of %" PRIu64 " measured: lz4 %.1f:1, zstd %.1f:1)",
		       codec_name(codec->chosen), stats->measured,
		       ratio(stats->measured_bytes, stats->measured_lz4_bytes),
		       ratio(stats->measured_bytes, stats->measured_zstd_bytes));
	printf(", %.1f:1; ", ratio(stats->raw_bytes, stats->stored_bytes));
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
		if (ways[i].count)
			printf("%s%" PRIu64 " %s", between, ways[i].count, ways[i].how);
		between = ways[i].count ? ", " : between;
	}
	if (codec->dictionary_bytes)
		printf(" of %s, version %u", terrace_format_size(codec->dictionary_bytes, size),
		       codec->dictionary_version);
	printf("\n");
}

/* What was read before anybody asked for it, and how often that was right. */
static void print_ahead(const terrace_stats *stats)
{
	const uint64_t known = stats->predicted_used + stats->predicted_wasted;

	if (stats->predicted)
		printf("%-16s predicted %" PRIu64 ": %" PRIu64 " used, %" PRIu64 " wasted%s", "",
		       stats->predicted, stats->predicted_used, stats->predicted_wasted,
		       known ? "" : "\n");
	if (stats->predicted && known)
		printf("; right %.1f%%\n", 100.0 * (double)stats->predicted_used / (double)known);
	if (stats->in_bulk)
		printf("%-16s brought with others of their range: %" PRIu64 "\n", "",
		       stats->in_bulk);
}

static void print_cache(const char *name, const terrace_stats *stats)
{
	const uint64_t hits_l1 = stats->hits_l1 + stats->hits_encoded;
	const uint64_t below = stats->gets - hits_l1;
	struct line lines[] = {
		{ "", "l1", hits_l1, stats->gets, &stats->l1, &stats->hit_l1_time },
		{ "", "l2", stats->hits_l2, below, &stats->l2, &stats->hit_l2_time },
		{ "", "l3", stats->hits_l3, below - stats->hits_l2, &stats->l3,
		  &stats->hit_l3_time },
	};
	struct line all = { name, "all", stats->gets - stats->misses, stats->gets, NULL, NULL };
	char saved[32];

	print_line(&all);
	printf(" %9s%s\n", nanoseconds_text(stats->saved_us * 1000, saved),
	       stats->low_hit_rate ? "  low hit rate" : "");
	/* A tier that has done nothing and holds nothing is not worth a line. */
	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
		if (lines[i].hits == 0 && lines[i].usage->entries == 0)
			continue;
		print_line(&lines[i]);
		printf("\n");
	}
}

static int report_cache(void *ctx, const char *name, terrace_cache *cache)
{
	struct report *report = ctx;
	terrace_codec_info codec = TERRACE_CODEC_INFO_INIT;
	terrace_stats stats = TERRACE_STATS_INIT;
	int rc = terrace_cache_stats(cache, &stats);

	if (rc == TERRACE_OK)
		rc = terrace_cache_codec(cache, &codec);
	if (rc != TERRACE_OK)
		return failed(rc);
	report->saved_us += stats.saved_us;
	report->disk_bytes += stats.l2.bytes + stats.l3.bytes;
	if (report->json)
		json_set_named(report->json, name, stats_json(&stats, &codec));
	if (report->json)
		return STATUS_DONE;
	print_cache(name, &stats);
	print_codec(&codec, &stats);
	print_ahead(&stats);
	return STATUS_DONE;
}

int verb_stat(struct cli *cli, const struct args *args)
{
	const char *only = args->operand_count ? args->operands[0] : NULL;
	struct report report = { 0 };
	char size[TERRACE_TEXT_MAX], saved[32];
	terrace *store;
	int status = open_store(cli, &store);

	if (status != STATUS_DONE)
		return status;
	if (cli->json)
		report.json = json_object();
	else
		printf("%-16s %-4s %9s %9s %7s %9s %9s %8s %8s %9s\n", "CACHE", "TIER", "HITS",
		       "MISSES", "RATE", "ENTRIES", "SIZE", "P50", "P99", "SAVED");
	status = each_cache(store, only, report_cache, &report);
	if (status == STATUS_DONE && report.json)
		status = print_json(json_pack("{s:o, s:I, s:I, s:O}", "dir",
		                              json_text(terrace_dir(store)), "disk_bytes",
		                              (json_int_t)report.disk_bytes, "saved_us",
		                              (json_int_t)report.saved_us, "caches", report.json));
	else if (status == STATUS_DONE)
		printf("\n%s: %s on disk, %s saved\n", terrace_dir(store),
		       terrace_format_size(report.disk_bytes, size),
		       nanoseconds_text(report.saved_us * 1000, saved));
	json_decref(report.json);
	terrace_close(store);
	return status;
}
