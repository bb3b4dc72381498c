/* What a loader fills in, and what the ways to fetch do with it. */
#ifndef API_LOADED_H
#define API_LOADED_H

#include "api/api.h"

#include "core/entries.h"
#include "tiers/extra.h"

struct terrace_loaded {
	void *data;
	size_t size, capacity;
	bool given;
	bool absent;
	bool keep_out;
	int64_t ttl_ms, idle_ms;
	uint64_t cost_us;
	bool has_cost;
	terrace_strategy strategy;
	char *tags[TAGS_MAX];
	size_t tag_count;
	struct terrace_sources sources;

	/* Where what is given piece by piece goes; NULL: into data. */
	terrace_sink_fn *sink;
	void *sink_ctx;
	int sink_rc;                   /* its failure */
	struct terrace_writer *writer; /* the cache takes it too; may be NULL */
};

void terrace__loaded_done(struct terrace_loaded *loaded);
/* What it says besides the value; good while that is. */
void terrace__loaded_options(const struct terrace_loaded *loaded, terrace_put_options *ret);
/* A tier that is not there, or a time that is none: what put refuses is not kept. */
void terrace__loaded_check(const struct terrace_cache *cache, struct terrace_loaded *loaded);

/* --- fetch.c ---------------------------------------------------------------------------- */

/* Sets the message: a loader that returned 0 gave none. TERRACE_EINVAL. */
int terrace__no_value(terrace_slice key);
/* Run it, counted and timed; a loader that gave nothing has failed. */
int terrace__load(struct terrace_lease *lease, terrace_load_fn *load, void *ctx,
                  struct terrace_loaded *loaded);
/*
 * Is what a loader returned for those who joined, too? They may have come after a source
 * had changed, and of what has no value they cannot look at the sources themselves.
 */
void terrace__load_shared(struct terrace_lease *lease, const struct terrace_loaded *loaded, int rc);
/* None of the sources has changed since its fingerprint was taken. */
bool terrace__sources_stand(struct terrace_cache *cache, const terrace_sources *sources);
/*
 * Store what was computed under a lease; whatever becomes of that, *ret is the
 * value for the callers.
 */
int terrace__store_loaded(struct terrace_lease *lease, terrace_slice value,
                          const terrace_put_options *options, struct entry **ret);
/* The end of that: `rc` came of storing it, and `entry` (may be NULL), which it takes over. */
int terrace__loaded_entry(struct terrace_lease *lease, terrace_slice value,
                          const terrace_put_options *options, int rc, struct entry *entry,
                          struct entry **ret);
/* A value for the callers alone; its sources (options may be NULL) are for those who joined. */
int terrace__unstored(struct terrace_cache *cache, terrace_slice key, terrace_slice value,
                      const terrace_put_options *options, enum flight_shape shape,
                      struct entry **ret);
/* For those who come within absent_ttl_ms. */
void terrace__store_absent(struct terrace_lease *lease, terrace_put_options *options);

#endif
