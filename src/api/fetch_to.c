/* Fetching piece by piece: what is computed goes to the caller and into the cache at once. */
#include "api/loaded.h"

#include "core/flight.h"
#include "core/stream.h"
#include "util/message.h"
#include "util/util.h"

/* How often a value may go between being seen and being opened, before it is computed. */
enum { TRIES = 3 };

struct target {
	terrace_sink_fn *sink;
	void *ctx;
};

/* What a loader gave in one piece goes the way of all pieces. */
static int give_rest(struct terrace_loaded *loaded)
{
	if (loaded->absent || !loaded->data)
		return loaded->sink_rc;
	return terrace_loaded_write(loaded, terrace_bytes(loaded->data, loaded->size));
}

/* Whatever becomes of it in the cache, the caller has it. */
static void store(struct terrace_loaded *loaded, terrace_put_options *options)
{
	struct terrace_writer *writer = loaded->writer;
	struct terrace_cache *cache = writer->cache;
	int rc = TERRACE_MISS;

	loaded->writer = NULL;
	if (terrace__sources_stand(cache, options->sources)) {
		rc = terrace__writer_carry(writer, options);
		if (rc == TERRACE_OK)
			rc = terrace__writer_commit(writer);
		else
			terrace__writer_drop(writer);
	} else {
		terrace__writer_drop(writer);
	}
	if (rc == TERRACE_MISS)
		count_add(&cache->counts, COUNT_outdated_loads, 1);
	else if (rc != TERRACE_OK)
		terrace__swallow(cache->store, cache, "storing a computed value");
}

static int compute(struct terrace_lease *lease, terrace_load_fn *load, void *ctx,
                   const struct target *target)
{
	CLEANUP(terrace__loaded_done)
	struct terrace_loaded loaded = { .sink = target->sink, .sink_ctx = target->ctx };
	terrace_put_options options = TERRACE_PUT_INIT;
	int rc;

	options.lease = lease;
	if (lease->cache->tiers && !lease->cache->store->read_only &&
	    terrace__writer_open(lease->cache, lease->key, &options, &loaded.writer) != TERRACE_OK)
		loaded.writer = NULL; /* out of memory: it is computed all the same */
	rc = terrace__load(lease, load, ctx, &loaded);
	if (rc == 0)
		rc = give_rest(&loaded);
	terrace__loaded_options(&loaded, &options);
	if (rc == 0 && loaded.absent && !loaded.keep_out)
		terrace__store_absent(lease, &options);
	if (rc == 0 && !loaded.absent && !loaded.keep_out && loaded.writer)
		store(&loaded, &options);
	if (loaded.writer)
		terrace__writer_drop(loaded.writer);
	if (rc == 0 && loaded.absent)
		rc = TERRACE_ABSENT;
	/* That this caller's sink failed is nobody else's failure. */
	terrace__lease_end(lease, NULL, loaded.sink_rc ? 0 : rc);
	return rc;
}

static int load_alone(terrace_slice key, terrace_load_fn *load, void *ctx,
                      const struct target *target)
{
	CLEANUP(terrace__loaded_done)
	struct terrace_loaded loaded = { .sink = target->sink, .sink_ctx = target->ctx };
	int rc = load(ctx, key, &loaded);

	if (rc == 0 && !loaded.given && !loaded.absent)
		rc = terrace__no_value(key);
	if (rc == 0)
		rc = give_rest(&loaded);
	return rc == 0 && loaded.absent ? TERRACE_ABSENT : rc;
}

/* What another thread has just computed. */
static int give_entry(struct entry *entry, const struct target *target)
{
	int rc = target->sink(target->ctx,
	                      terrace_bytes(entry_value(entry), (size_t)entry->value_size));

	entry_unref(entry);
	return rc;
}

int terrace_fetch_to(terrace_cache *cache, terrace_slice key, terrace_load_fn *load, void *ctx,
                     terrace_sink_fn *sink, void *sink_ctx)
{
	struct target target = { sink, sink_ctx };
	struct terrace_lease *lease;
	struct entry *entry;
	unsigned tier;
	int rc = terrace__check_cache(cache), code;

	if (rc == TERRACE_OK)
		rc = terrace__check_key(key);
	if (rc == TERRACE_OK && !sink)
		rc = terrace_fail(TERRACE_EINVAL, "there is no function to give the value to");
	if (rc != TERRACE_OK)
		return rc;
	if (!cache)
		return load_alone(key, load, ctx, &target);
	for (int i = 0; i < TRIES; i++) {
		uint64_t given = 0;
		int sink_rc = 0;

		rc = cache->tiers ? terrace__give_to(cache, key, 0, UINT64_MAX, sink, sink_ctx,
		                                     &given, &sink_rc) :
		                    TERRACE_MISS;
		if (sink_rc != 0)
			return sink_rc;
		/* What cannot be read, not even its beginning, is computed. */
		if (rc != TERRACE_MISS && (rc >= 0 || given > 0))
			return rc;
		rc = terrace__lease_begin(cache, key, cache->store->wait_ms, FLIGHT_STREAM, &lease,
		                          &entry, &tier, &code);
		if (rc == TERRACE_MISS && !lease)
			break; /* out of memory: it is computed all the same */
		if (rc == TERRACE_MISS)
			return compute(lease, load, ctx, &target);
		if (rc != TERRACE_OK)
			return rc == FLIGHT_FAILED ? code : rc;
		if (entry)
			return give_entry(entry, &target);
	}
	return load_alone(key, load, ctx, &target);
}
