/* What a thread of the oracle does: the operations, and which of them how often. */
#include "proofs/oracle.h"

#include <terrace/events.h>

/* What any thread has pinned, for any other to let go of. */
static _Atomic(terrace_value *) pinned[KINDS][KEYS];

const char *source_path(uint32_t group, char ret[300])
{
	snprintf(ret, 300, "%s/source-%u", asked.directory, group);
	return ret;
}

/* One more key of the write under way. */
static uint32_t work_begin(struct worker *w, uint32_t key, enum verb verb)
{
	uint32_t number = begin(&log_->keys[w->cache][key], author(w->process, verb));
	int at = atomic_load(&w->log->count);

	atomic_store(&w->log->cache, w->cache);
	atomic_store(&w->log->keys[at], key);
	atomic_store(&w->log->versions[at], number);
	atomic_store(&w->log->count, at + 1);
	atomic_fetch_add(&log_->tally[w->cache].writes, 1);
	return number;
}

/* All of it has ended. */
void work_end(struct worker_log *w, bool done)
{
	for (int i = 0; i < atomic_load(&w->count); i++)
		end(&log_->keys[atomic_load(&w->cache)][atomic_load(&w->keys[i])],
		    atomic_load(&w->versions[i]), done);
	atomic_store(&w->count, 0);
}

void do_get(struct worker *w)
{
	struct moment moment = moment_of(w->cache, w->key);
	terrace_value *value;

	atomic_fetch_add(&log_->tally[w->cache].gets, 1);
	if (terrace_get(w->caches[w->cache], key_text(w->cache, w->key), &value) != TERRACE_OK)
		return;
	atomic_fetch_add(&log_->tally[w->cache].hits, 1);
	check(w->cache, w->key, moment, value, "get");
	if (random_below(&w->random, 16) == 0) {
		/* as it was, whatever has happened to the entry */
		value = atomic_exchange(&pinned[w->cache][w->key], value);
		if (value)
			check(w->cache, w->key, (struct moment){ 0 }, value, "a pinned value");
	}
	terrace_release(value);
}

void unpin_all(void)
{
	for (uint32_t cache = 0; cache < KINDS; cache++) {
		for (uint32_t key = 0; key < KEYS; key++)
			terrace_release(atomic_exchange(&pinned[cache][key], NULL));
	}
}

enum { MANY = 8 };

static void do_get_many(struct worker *w)
{
	terrace_value *values[MANY];
	terrace_slice keys[MANY];
	struct moment moments[MANY];

	for (uint32_t i = 0; i < MANY; i++) {
		uint32_t key = (w->key + i * 3) % KEYS;

		keys[i] = key_text(w->cache, key);
		moments[i] = moment_of(w->cache, key);
	}
	if (terrace_get_many(w->caches[w->cache], keys, MANY, values, NULL) != TERRACE_OK)
		return;
	for (uint32_t i = 0; i < MANY; i++) {
		if (values[i])
			check(w->cache, (w->key + i * 3) % KEYS, moments[i], values[i], "get_many");
		terrace_release(values[i]);
	}
}

/* Each thread has its own set of sources; they never change, but can be invalidated. */
static void options_of(struct worker *w, uint32_t key, terrace_put_options *options,
                       const char **tag, char tag_text[8], terrace_sources **sources)
{
	char path[300];

	*options = TERRACE_PUT_INIT;
	*sources = NULL;
	snprintf(tag_text, 8, "t%u", key % GROUPS);
	*tag = tag_text;
	options->tags = tag;
	options->tag_count = 1;
	if (random_below(&w->random, 8) == 0 && terrace_sources_new(sources) == TERRACE_OK) {
		terrace_sources_file(*sources, source_path(key % GROUPS, path), 0);
		options->sources = *sources;
	}
	if (random_below(&w->random, w->light && !kinds[w->cache].tiers ? 200 : 20) == 0)
		options->ttl_ms = 1 + (int64_t)random_below(&w->random, 30);
	if (!kinds[w->cache].tiers && (w->light ? kinds[w->cache].write != TERRACE_WRITE_BEHIND :
	                                          random_below(&w->random, 6) == 0))
		options->strategy = TERRACE_STRATEGY_IMMEDIATE;
}

static void put(struct worker *w, bool add)
{
	terrace_put_options options;
	terrace_sources *sources;
	uint8_t value[VALUE_MAX];
	const char *tag;
	char tag_text[8];
	uint32_t number;
	terrace_slice bytes;
	int rc;

	options_of(w, w->key, &options, &tag, tag_text, &sources);
	number = work_begin(w, w->key, add ? ADD : PUT);
	bytes = terrace_bytes(value, make_value(w->cache, w->key, number, value));
	rc = add ? terrace_add(w->caches[w->cache], key_text(w->cache, w->key), bytes, &options) :
	           terrace_put(w->caches[w->cache], key_text(w->cache, w->key), bytes, &options);
	work_end(w->log, rc == TERRACE_OK);
	/* No earlier than it says itself. */
	if (options.ttl_ms)
		atomic_store(&version_of(&log_->keys[w->cache][w->key], number)->expires,
		             atomic_load(&log_->now_ms) + options.ttl_ms);
	terrace_sources_free(sources);
	/* Memory alone may have no room for it. */
	if (rc < 0 && rc != TERRACE_EBUSY &&
	    !(rc == TERRACE_ETOOBIG && (options.strategy == TERRACE_STRATEGY_IMMEDIATE ||
	                                kinds[w->cache].tiers == TERRACE_L1)))
		fail("put in %s: %s: %s", kinds[w->cache].name, terrace_status_name(rc),
		     terrace_error_message());
}

static void do_put(struct worker *w)
{
	put(w, false);
}

static void do_add(struct worker *w)
{
	put(w, true);
}

static void do_put_many(struct worker *w)
{
	uint8_t values[PUT_AT_ONCE][VALUE_MAX];
	terrace_item items[PUT_AT_ONCE];
	int rc;

	for (uint32_t i = 0; i < PUT_AT_ONCE; i++) {
		uint32_t key = (w->key + i) % KEYS, number = work_begin(w, key, PUT_MANY);

		items[i].key = key_text(w->cache, key);
		items[i].value = terrace_bytes(values[i],
		                               make_value(w->cache, key, number, values[i]));
	}
	rc = terrace_put_many(w->caches[w->cache], items, PUT_AT_ONCE, NULL);
	work_end(w->log, rc == TERRACE_OK);
}

static void do_touch(struct worker *w)
{
	struct key_log *log = &log_->keys[w->cache][w->key];

	atomic_fetch_add(&log->touching, 1);
	terrace_touch(w->caches[w->cache], key_text(w->cache, w->key),
	              random_below(&w->random, 2) ? TERRACE_TTL_FOREVER : 40);
	raise_to(&log->touched, tick());
	atomic_fetch_sub(&log->touching, 1);
}

static void delete_some(struct worker *w, uint32_t count)
{
	terrace_slice keys[MANY];
	uint64_t began = tick();
	int rc;

	for (uint32_t i = 0; i < count; i++)
		keys[i] = key_text(w->cache, (w->key + i) % KEYS);
	rc = count == 1 ? terrace_delete(w->caches[w->cache], keys[0]) :
	                  terrace_delete_many(w->caches[w->cache], keys, count, NULL);
	for (uint32_t i = 0; i < count && rc >= 0; i++)
		raise_to(&log_->keys[w->cache][(w->key + i) % KEYS].overwritten,
		         signed_time(began, author(w->process, count == 1 ? DELETE : DELETE_MANY)));
}

static void do_delete(struct worker *w)
{
	delete_some(w, 1);
}

static void do_delete_many(struct worker *w)
{
	delete_some(w, 1 + (uint32_t)random_below(&w->random, MANY));
}

static void do_bulk(struct worker *w)
{
	uint32_t group = w->key % GROUPS;
	char text[300];
	terrace_match match = { TERRACE_MATCH_ALL, { NULL, 0 } };
	uint64_t began = tick();
	enum verb verb = ALL;
	int rc;

	switch (random_below(&w->random, 6)) {
	case 0:
		group = GROUPS;
		verb = CLEAR;
		rc = terrace_clear(w->caches[w->cache], 0, NULL);
		break;
	case 1:
		snprintf(text, sizeof text, "%c:*", "abcd"[group]);
		match = terrace_match_text(TERRACE_MATCH_GLOB, text);
		verb = GLOB;
		rc = terrace_invalidate(w->caches[w->cache], &match, NULL);
		break;
	case 2:
		snprintf(text, sizeof text, "%c:", "abcd"[group]);
		match = terrace_match_text(TERRACE_MATCH_PREFIX, text);
		verb = PREFIX;
		rc = terrace_invalidate(w->caches[w->cache], &match, NULL);
		break;
	case 3:
		/* Only what has the tag must go: put_many gives none. */
		snprintf(text, sizeof text, "t%u", group);
		match = terrace_match_text(TERRACE_MATCH_TAG, text);
		terrace_invalidate(w->caches[w->cache], &match, NULL);
		return;
	case 4:
		match = terrace_match_text(TERRACE_MATCH_SOURCE, source_path(group, text));
		terrace_invalidate(w->caches[w->cache], &match, NULL);
		return;
	default:
		group = GROUPS;
		rc = terrace_invalidate(w->caches[w->cache], &match, NULL);
	}
	for (uint32_t key = 0; key < KEYS && rc == TERRACE_OK; key++) {
		if (group == GROUPS || key % GROUPS == group)
			raise_to(&log_->keys[w->cache][key].overwritten,
			         signed_time(began, author(w->process, verb)));
	}
}

/* A tag of its own for each write: invalidating it must remove that write, wherever it is. */
static void do_tagged(struct worker *w)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	uint8_t value[VALUE_MAX];
	char tag_text[32];
	const char *tag = tag_text;
	terrace_match match;
	uint32_t number = work_begin(w, w->key, PUT_TAGGED);
	struct version *version = version_of(&log_->keys[w->cache][w->key], number);
	terrace_value *seen;
	int rc;

	snprintf(tag_text, sizeof tag_text, "own %u", number);
	options.tags = &tag;
	options.tag_count = 1;
	rc = terrace_put(w->caches[w->cache], key_text(w->cache, w->key),
	                 terrace_bytes(value, make_value(w->cache, w->key, number, value)),
	                 &options);
	work_end(w->log, rc == TERRACE_OK);
	match = terrace_match_text(TERRACE_MATCH_TAG, tag_text);
	if (rc != TERRACE_OK || terrace_invalidate(w->caches[w->cache], &match, NULL) != TERRACE_OK)
		return;
	if (terrace_get(w->caches[w->cache], key_text(w->cache, w->key), &seen) != TERRACE_OK)
		return;
	if (terrace_size(seen) >= sizeof(struct head) &&
	    ((const struct head *)terrace_data(seen))->number == number &&
	    atomic_load(&version->number) == number)
		fail("%s: key %u, version %u is there after its tag was invalidated",
		     kinds[w->cache].name, w->key, number);
	terrace_release(seen);
}

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct worker *w = ctx;
	struct key_log *log = &log_->keys[w->cache][w->key];
	uint8_t value[VALUE_MAX];
	uint32_t number = begin(log, author(w->process, FETCH));

	(void)key;
	/* From now on every other write makes this one outdated. */
	atomic_store(&version_of(log, number)->ended, tick());
	if (random_below(&w->random, 16) == 0)
		usleep(300); /* long enough for others to write */
	if (random_below(&w->random, 50) == 0)
		return 4711;
	return terrace_loaded_copy(
	    loaded, terrace_bytes(value, make_value(w->cache, w->key, number, value)));
}

static void do_fetch(struct worker *w)
{
	struct moment moment = moment_of(w->cache, w->key);
	terrace_value *value;
	int rc;

	atomic_fetch_add(&log_->tally[w->cache].fetches, 1);
	rc = terrace_fetch(w->caches[w->cache], key_text(w->cache, w->key), load, w, &value);
	if (rc == TERRACE_OK) {
		check(w->cache, w->key, moment, value, "fetch");
		terrace_release(value);
	} else if (rc != 4711) {
		fail("fetch in %s: %s: %s", kinds[w->cache].name, terrace_status_name(rc),
		     terrace_error_message());
	}
}

static void do_exists(struct worker *w)
{
	terrace_exists(w->caches[w->cache], key_text(w->cache, w->key));
}

static void do_flush(struct worker *w)
{
	terrace_flush(w->store);
}

static void do_forget(struct worker *w)
{
	terrace_clear(w->caches[w->cache], TERRACE_L1, NULL);
}

static void do_cleanup(struct worker *w)
{
	terrace_cleanup(w->store, w->caches[w->cache], NULL);
}

/* Of ten thousand operations of the full mix so many, and of those in memory. */
static const struct action {
	const char *name;
	void (*run)(struct worker *w);
	unsigned share[2];
	bool alone; /* light only in a cache in memory alone: elsewhere it is a transaction */
} actions[] = {
	{ "get", do_get, { 6500, 8308 } },
	{ "get_many", do_get_many, { 400, 100 } },
	{ "put", do_put, { 900, 800 } },
	{ "put_many", do_put_many, { 150, 50 }, .alone = true },
	{ "add", do_add, { 200, 100 }, .alone = true },
	{ "delete", do_delete, { 300, 130 }, .alone = true },
	{ "delete_many", do_delete_many, { 50, 10 }, .alone = true },
	{ "touch", do_touch, { 100, 50 }, .alone = true },
	{ "exists", do_exists, { 100, 40 }, .alone = true },
	{ "fetch", do_fetch, { 1250, 400 } },
	{ "tagged put", do_tagged, { 30, 10 }, .alone = true },
	{ "invalidate, clear", do_bulk, { 10, 1 }, .alone = true },
	{ "flush", do_flush, { 4, 0 } },
	{ "clear of memory", do_forget, { 4, 1 }, .alone = true },
	{ "cleanup", do_cleanup, { 2, 0 } },
};
enum { ACTIONS = sizeof actions / sizeof *actions };
_Static_assert(sizeof actions / sizeof *actions <= ACTIONS_MAX, "the log has a place for each");

static const struct action *pick_action(struct worker *w)
{
	uint64_t what = random_below(&w->random, 10000);
	const struct action *action = actions;

	for (; what >= action->share[w->light]; action++)
		what -= action->share[w->light];
	return action;
}

static uint32_t pick_kind(struct worker *w, bool alone)
{
	uint32_t count = alone ? MEMORY_KINDS : KINDS, all = 0, at = 0;
	uint64_t which;

	if (!w->light)
		return (uint32_t)random_below(&w->random, KINDS);
	for (uint32_t i = 0; i < count; i++)
		all += kinds[i].light;
	for (which = random_below(&w->random, all); which >= kinds[at].light; at++)
		which -= kinds[at].light;
	return at;
}

static void step(struct worker *w)
{
	const struct action *action;

	w->light = asked.mostly_memory && random_below(&w->random, 1000) >= FULL_OF_1000;
	action = pick_action(w);
	w->cache = pick_kind(w, action->alone);
	/* a few keys are hot */
	w->key = (uint32_t)random_below(&w->random,
	                                random_below(&w->random, w->light ? 4 : 2) ? 12 : KEYS);
	action->run(w);
	atomic_fetch_add(&log_->done[w->light][action - actions], 1);
}

void *work(void *ctx)
{
	struct worker *w = ctx;

	while (!atomic_load_explicit(&log_->stop, memory_order_relaxed)) {
		uint64_t count;

		step(w);
		count = atomic_fetch_add(&log_->operations, 1) + 1;
		if (count % STEPS_PER_MS == 0)
			atomic_fetch_add(&log_->now_ms, 1);
		if (count >= asked.operations)
			atomic_store(&log_->stop, 1);
	}
	return NULL;
}

void print_actions(void)
{
	printf("  %-18s %12s %12s\n", "what", "of the full mix", "in memory");
	for (uint32_t i = 0; i < ACTIONS; i++)
		printf("  %-18s %15llu %12llu\n", actions[i].name,
		       (unsigned long long)atomic_load(&log_->done[0][i]),
		       (unsigned long long)atomic_load(&log_->done[1][i]));
	printf("  events of %s:", kinds[TOLD].name);
	for (unsigned i = 0; i < 8; i++)
		printf(" %llu %s,", (unsigned long long)atomic_load(&log_->events[i]),
		       terrace_event_name(1u << i));
	printf(" %llu lost\n", (unsigned long long)atomic_load(&log_->events[8]));
}
