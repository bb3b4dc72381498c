/*
 * The oracle: processes and threads do everything to a few caches at once, and
 * every value that a read gives is held against a log that they share.
 *
 * A value says which key it belongs to and which write made it; its bytes
 * follow from the two. The log has a clock (a counter) and for each write when
 * it began and ended. A read that began at r and gives write v lies when some
 * other write of the key (a delete or an invalidation among them) began after v
 * had ended, and ended before r: nothing allows v to be there any more. What is
 * fetched counts as written in the moment before its loader began.
 *
 * The store's clock is a number in the log, too, and moves with the operations:
 * a value that is read after its time to live has ended lies as well.
 *
 *   oracle              load: OPERATIONS in PROCESSES x THREADS
 *   oracle kill         the same load, while a process is killed every few ms,
 *                       ROUNDS times; then a look at everything
 */
#include "proofs/proofs.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>

enum {
	KEYS = 160, /* of a cache */
	GROUPS = 4, /* of keys: a prefix, a tag and a source each */
	VERSIONS = 1 << 13,
	PROCESSES_MAX = 8,
	THREADS_MAX = 8,
	VALUE_MAX = 6000,
	PUT_AT_ONCE = 4,
	STEPS_PER_MS = 16, /* how fast the store's clock goes */
};

/* --- what is tried ------------------------------------------------------------------------------- */

struct kind {
	const char *name;
	unsigned tiers;
	terrace_write write;
	uint64_t memory_bytes;
	uint64_t disk_entries;
	terrace_codec codec;
};

static const struct kind kinds[] = {
	{ .name = "memory", .tiers = TERRACE_L1 },
	{ .name = "rows", .tiers = TERRACE_L2 },
	{ .name = "files", .tiers = TERRACE_L3, .codec = TERRACE_CODEC_ZSTD },
	{ .name = "all" },
	{ .name = "all, behind", .write = TERRACE_WRITE_BEHIND },
	{ .name = "rows, behind", .tiers = TERRACE_L2, .write = TERRACE_WRITE_BEHIND },
	{ .name = "small", .memory_bytes = 40000, .disk_entries = 60 },
	{ .name = "small, behind",
	  .memory_bytes = 40000,
	  .disk_entries = 60,
	  .write = TERRACE_WRITE_BEHIND },
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* --- the log: shared -------------------------------------------------------------------------------- */

enum verb { PUT, ADD, PUT_MANY, PUT_TAGGED, FETCH, DELETE, DELETE_MANY, CLEAR, GLOB, PREFIX, ALL };
static const char *const verb_names[] = { "put",   "add",    "put_many",    "tagged put",
	                                  "fetch", "delete", "delete_many", "clear",
	                                  "glob",  "prefix", "invalidate" };

struct version {
	_Atomic uint32_t number; /* which of those that fall on this place */
	_Atomic uint32_t author;
	_Atomic uint64_t began, ended;
	_Atomic int64_t expires; /* 0: never, or not known yet */
};

struct key_log {
	_Atomic uint32_t next; /* version */
	/* The latest beginning of a write that has ended, and its author below. */
	_Atomic uint64_t overwritten;
	/* A touch gives whatever it finds another time to live. */
	_Atomic uint64_t touched;
	_Atomic int touching;
	struct version versions[VERSIONS];
};

/* What a thread is writing, so that its end can be noted for it when it is killed. */
struct worker_log {
	_Atomic uint32_t cache;
	_Atomic int count;
	_Atomic uint32_t keys[PUT_AT_ONCE], versions[PUT_AT_ONCE];
};

struct tally {
	_Atomic uint64_t gets, hits, fetches, writes;
};

static struct log {
	_Atomic uint64_t clock;
	_Atomic uint64_t operations;
	_Atomic int64_t now_ms; /* the store's clock */
	_Atomic int failed, stop;
	struct worker_log workers[PROCESSES_MAX][THREADS_MAX];
	struct tally tally[KINDS];
	struct key_log keys[KINDS][KEYS];
} * log_;

static char directory[256];
static uint64_t seed, operations;
static int processes, threads;
static int process_number = -1; /* of this one; -1: the one that looks at the end */

static uint64_t tick(void)
{
	return atomic_fetch_add(&log_->clock, 1) + 1;
}

static void raise_to(_Atomic uint64_t *where, uint64_t value)
{
	uint64_t old = atomic_load(where);

	while (old < value && !atomic_compare_exchange_weak(where, &old, value))
		;
}

/* Which process, doing what: for messages. */
static uint32_t author(int process, enum verb verb)
{
	return (uint32_t)process << 4 | verb;
}

/* A time and an author in one word, ordered by time. */
static uint64_t signed_time(uint64_t time, uint32_t who)
{
	return time << 8 | who;
}

static struct version *version_of(struct key_log *key, uint32_t number)
{
	return &key->versions[number % VERSIONS];
}

/* A new write of a key begins. */
static uint32_t begin(struct key_log *key, uint32_t who)
{
	uint32_t number = atomic_fetch_add(&key->next, 1) + 1;
	struct version *version = version_of(key, number);

	atomic_store(&version->ended, 0);
	atomic_store(&version->expires, 0);
	atomic_store(&version->number, number);
	atomic_store(&version->author, who);
	atomic_store(&version->began, tick());
	return number;
}

static void end(struct key_log *key, uint32_t number, bool done)
{
	struct version *version = version_of(key, number);

	atomic_store(&version->ended, tick());
	if (done)
		raise_to(&key->overwritten,
		         signed_time(atomic_load(&version->began), atomic_load(&version->author)));
}

/* --- values ------------------------------------------------------------------------------------------ */

struct head {
	uint32_t cache, key, number, size;
};

static size_t make_value(uint32_t cache, uint32_t key, uint32_t number, uint8_t *ret)
{
	struct random random = { (uint64_t)cache << 52 ^ (uint64_t)key << 32 ^ number };
	struct head head = { cache, key, number, 0 };
	bool plain = number % 3 == 0; /* compresses */

	head.size = (uint32_t)(sizeof head +
	                       random_below(&random, number % 8 ? 600 : VALUE_MAX - 600));
	memcpy(ret, &head, sizeof head);
	for (size_t at = sizeof head; at < head.size; at++)
		ret[at] = (uint8_t)(plain ? number : random_next(&random));
	return head.size;
}

static void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void fail(const char *format, ...)
{
	va_list args;

	if (atomic_exchange(&log_->failed, 1) == 0) {
		va_start(args, format);
		fprintf(stderr, "oracle: ");
		vfprintf(stderr, format, args);
		fprintf(stderr, " (SEED=%llu)\n", (unsigned long long)seed);
		va_end(args);
	}
	atomic_store(&log_->stop, 1);
}

/* What was true of a key when a read began. */
struct moment {
	uint64_t overwritten;
	int64_t now_ms;
};

static struct moment moment_of(uint32_t cache, uint32_t key)
{
	return (struct moment){ atomic_load(&log_->keys[cache][key].overwritten),
		                atomic_load(&log_->now_ms) };
}

/* A read of the key, begun at `moment`, has given this. */
static void check(uint32_t cache, uint32_t key, struct moment moment, terrace_value *value,
                  const char *verb)
{
	uint64_t overwritten = moment.overwritten;
	uint8_t expected[VALUE_MAX];
	struct key_log *log = &log_->keys[cache][key];
	struct version *version;
	struct head head;
	uint64_t ended;
	int64_t expires;

	if (terrace_size(value) < sizeof head) {
		fail("%s in %s: a value of %zu bytes", verb, kinds[cache].name,
		     terrace_size(value));
		return;
	}
	memcpy(&head, terrace_data(value), sizeof head);
	if (head.cache != cache || head.key != key) {
		fail("%s in %s: key %u gives a value of cache %u, key %u", verb, kinds[cache].name,
		     key, head.cache, head.key);
		return;
	}
	if (head.number == 0 || head.number > atomic_load(&log->next)) {
		fail("%s in %s: key %u gives version %u, which nobody wrote", verb,
		     kinds[cache].name, key, head.number);
		return;
	}
	if (terrace_size(value) != make_value(cache, key, head.number, expected) ||
	    memcmp(terrace_data(value), expected, terrace_size(value)) != 0) {
		fail("%s in %s: key %u, version %u has foreign bytes", verb, kinds[cache].name, key,
		     head.number);
		return;
	}
	version = version_of(log, head.number);
	ended = atomic_load(&version->ended);
	expires = atomic_load(&version->expires);
	if (atomic_load(&version->began) < atomic_load(&log->touched) ||
	    atomic_load(&log->touching))
		expires = 0;
	if (atomic_load(&version->number) != head.number) {
		ended = 1; /* thousands of writes ago */
		expires = 0;
	}
	if (expires && expires <= moment.now_ms)
		fail("%s in %s: key %u, version %u is there %lld ms after its time to live", verb,
		     kinds[cache].name, key, head.number, (long long)(moment.now_ms - expires));
	if (ended && ended < overwritten >> 8)
		fail("%s in %s: process %d reads of key %u version %u, of a %s in process %u "
		     "that ended at %llu; a %s in process %llu, begun at %llu, had ended before",
		     verb, kinds[cache].name, process_number, key, head.number,
		     verb_names[atomic_load(&version->author) & 15],
		     atomic_load(&version->author) >> 4, (unsigned long long)ended,
		     verb_names[overwritten & 15], (unsigned long long)(overwritten >> 4 & 15),
		     (unsigned long long)(overwritten >> 8));
}

/* --- a thread ------------------------------------------------------------------------------------------ */

struct worker {
	int process, number;
	struct random random;
	terrace *store;
	terrace_cache **caches;
	struct worker_log *log;
	uint32_t cache, key; /* of the operation under way */
};

static terrace_slice key_text(uint32_t key, char ret[32])
{
	snprintf(ret, 32, "%c:%u", "abcd"[key % GROUPS], key);
	return terrace_str(ret);
}

static const char *source_path(uint32_t group, char ret[300])
{
	snprintf(ret, 300, "%s/source-%u", directory, group);
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
static void work_end(struct worker_log *w, bool done)
{
	for (int i = 0; i < atomic_load(&w->count); i++)
		end(&log_->keys[atomic_load(&w->cache)][atomic_load(&w->keys[i])],
		    atomic_load(&w->versions[i]), done);
	atomic_store(&w->count, 0);
}

static void do_get(struct worker *w)
{
	struct moment moment = moment_of(w->cache, w->key);
	terrace_value *value;
	char text[32];

	atomic_fetch_add(&log_->tally[w->cache].gets, 1);
	if (terrace_get(w->caches[w->cache], key_text(w->key, text), &value) != TERRACE_OK)
		return;
	atomic_fetch_add(&log_->tally[w->cache].hits, 1);
	check(w->cache, w->key, moment, value, "get");
	if (random_below(&w->random, 16) == 0) {
		/* pinned: as it was, whatever happens to the entry */
		sched_yield();
		check(w->cache, w->key, (struct moment){ 0 }, value, "a pinned value");
	}
	terrace_release(value);
}

enum { MANY = 8 };

static void do_get_many(struct worker *w)
{
	terrace_value *values[MANY];
	terrace_slice keys[MANY];
	struct moment moments[MANY];
	char texts[MANY][32];

	for (uint32_t i = 0; i < MANY; i++) {
		uint32_t key = (w->key + i * 3) % KEYS;

		keys[i] = key_text(key, texts[i]);
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
	if (random_below(&w->random, 20) == 0)
		options->ttl_ms = 1 + (int64_t)random_below(&w->random, 30);
	if (!kinds[w->cache].tiers && random_below(&w->random, 6) == 0)
		options->strategy = TERRACE_STRATEGY_IMMEDIATE;
}

static void do_put(struct worker *w, bool add)
{
	terrace_put_options options;
	terrace_sources *sources;
	uint8_t value[VALUE_MAX];
	const char *tag;
	char text[32], tag_text[8];
	uint32_t number;
	terrace_slice bytes;
	int rc;

	options_of(w, w->key, &options, &tag, tag_text, &sources);
	number = work_begin(w, w->key, add ? ADD : PUT);
	bytes = terrace_bytes(value, make_value(w->cache, w->key, number, value));
	rc = add ? terrace_add(w->caches[w->cache], key_text(w->key, text), bytes, &options) :
	           terrace_put(w->caches[w->cache], key_text(w->key, text), bytes, &options);
	work_end(w->log, rc == TERRACE_OK);
	/* No earlier than it says itself. */
	if (options.ttl_ms)
		atomic_store(&version_of(&log_->keys[w->cache][w->key], number)->expires,
		             atomic_load(&log_->now_ms) + options.ttl_ms);
	terrace_sources_free(sources);
	/* Memory alone may have no room for it. */
	if (rc < 0 && rc != TERRACE_EBUSY &&
	    !(rc == TERRACE_ETOOBIG && options.strategy == TERRACE_STRATEGY_IMMEDIATE))
		fail("put in %s: %s: %s", kinds[w->cache].name, terrace_status_name(rc),
		     terrace_error_message());
}

static void do_put_many(struct worker *w)
{
	uint8_t values[PUT_AT_ONCE][VALUE_MAX];
	terrace_item items[PUT_AT_ONCE];
	char texts[PUT_AT_ONCE][32];
	int rc;

	for (uint32_t i = 0; i < PUT_AT_ONCE; i++) {
		uint32_t key = (w->key + i) % KEYS, number = work_begin(w, key, PUT_MANY);

		items[i].key = key_text(key, texts[i]);
		items[i].value = terrace_bytes(values[i],
		                               make_value(w->cache, key, number, values[i]));
	}
	rc = terrace_put_many(w->caches[w->cache], items, PUT_AT_ONCE, NULL);
	work_end(w->log, rc == TERRACE_OK);
}

static void do_touch(struct worker *w)
{
	struct key_log *log = &log_->keys[w->cache][w->key];
	char text[32];

	atomic_fetch_add(&log->touching, 1);
	terrace_touch(w->caches[w->cache], key_text(w->key, text),
	              random_below(&w->random, 2) ? TERRACE_TTL_FOREVER : 40);
	raise_to(&log->touched, tick());
	atomic_fetch_sub(&log->touching, 1);
}

static void do_delete(struct worker *w, uint32_t count)
{
	terrace_slice keys[MANY];
	uint64_t began = tick();
	char texts[MANY][32];
	int rc;

	for (uint32_t i = 0; i < count; i++)
		keys[i] = key_text((w->key + i) % KEYS, texts[i]);
	rc = count == 1 ? terrace_delete(w->caches[w->cache], keys[0]) :
	                  terrace_delete_many(w->caches[w->cache], keys, count, NULL);
	for (uint32_t i = 0; i < count && rc >= 0; i++)
		raise_to(&log_->keys[w->cache][(w->key + i) % KEYS].overwritten,
		         signed_time(began, author(w->process, count == 1 ? DELETE : DELETE_MANY)));
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
	char text[32], tag_text[32];
	const char *tag = tag_text;
	terrace_match match;
	uint32_t number = work_begin(w, w->key, PUT_TAGGED);
	struct version *version = version_of(&log_->keys[w->cache][w->key], number);
	terrace_value *seen;
	int rc;

	snprintf(tag_text, sizeof tag_text, "own %u", number);
	options.tags = &tag;
	options.tag_count = 1;
	rc = terrace_put(w->caches[w->cache], key_text(w->key, text),
	                 terrace_bytes(value, make_value(w->cache, w->key, number, value)),
	                 &options);
	work_end(w->log, rc == TERRACE_OK);
	match = terrace_match_text(TERRACE_MATCH_TAG, tag_text);
	if (rc != TERRACE_OK || terrace_invalidate(w->caches[w->cache], &match, NULL) != TERRACE_OK)
		return;
	if (terrace_get(w->caches[w->cache], key_text(w->key, text), &seen) != TERRACE_OK)
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
	char text[32];
	int rc;

	atomic_fetch_add(&log_->tally[w->cache].fetches, 1);
	rc = terrace_fetch(w->caches[w->cache], key_text(w->key, text), load, w, &value);
	if (rc == TERRACE_OK) {
		check(w->cache, w->key, moment, value, "fetch");
		terrace_release(value);
	} else if (rc != 4711) {
		fail("fetch in %s: %s: %s", kinds[w->cache].name, terrace_status_name(rc),
		     terrace_error_message());
	}
}

static void step(struct worker *w)
{
	uint64_t what = random_below(&w->random, 10000);
	char text[32];

	w->cache = (uint32_t)random_below(&w->random, KINDS);
	/* a few keys are hot */
	w->key = (uint32_t)random_below(&w->random, random_below(&w->random, 2) ? KEYS : 12);
	if (what < 6500)
		do_get(w);
	else if (what < 6900)
		do_get_many(w);
	else if (what < 7800)
		do_put(w, false);
	else if (what < 7950)
		do_put_many(w);
	else if (what < 8150)
		do_put(w, true);
	else if (what < 8450)
		do_delete(w, 1);
	else if (what < 8500)
		do_delete(w, 1 + (uint32_t)random_below(&w->random, MANY));
	else if (what < 8600)
		do_touch(w);
	else if (what < 8700)
		terrace_exists(w->caches[w->cache], key_text(w->key, text));
	else if (what < 9950)
		do_fetch(w);
	else if (what < 9980)
		do_tagged(w);
	else if (what < 9990)
		do_bulk(w);
	else if (what < 9994)
		terrace_flush(w->store);
	else if (what < 9998)
		terrace_clear(w->caches[w->cache], TERRACE_L1, NULL);
	else
		terrace_cleanup(w->store, w->caches[w->cache], NULL);
}

static void *work(void *ctx)
{
	struct worker *w = ctx;

	while (!atomic_load_explicit(&log_->stop, memory_order_relaxed)) {
		uint64_t count;

		step(w);
		count = atomic_fetch_add(&log_->operations, 1) + 1;
		if (count % STEPS_PER_MS == 0)
			atomic_fetch_add(&log_->now_ms, 1);
		if (count >= operations)
			atomic_store(&log_->stop, 1);
	}
	return NULL;
}

/* --- a process --------------------------------------------------------------------------------------------- */

static int64_t log_clock(void *ctx)
{
	(void)ctx;
	return atomic_load(&log_->now_ms);
}

static void open_all(terrace **ret_store, terrace_cache *caches[KINDS])
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	char path[300];

	snprintf(path, sizeof path, "%s/store", directory);
	options.clock = log_clock;
	if (terrace_open(path, &options, ret_store) != TERRACE_OK) {
		fail("open: %s", terrace_error_message());
		_exit(1);
	}
	for (int i = 0; i < KINDS; i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;

		policy.tiers = kinds[i].tiers;
		policy.write = kinds[i].write;
		policy.memory_bytes = kinds[i].memory_bytes;
		policy.disk_entries = kinds[i].disk_entries;
		policy.codec = kinds[i].codec;
		policy.inline_bytes = kinds[i].tiers == TERRACE_L3 ? 1 : 2000;
		if (terrace_cache_open(*ret_store, kinds[i].name, &policy, &caches[i]) !=
		    TERRACE_OK) {
			fail("open %s: %s", kinds[i].name, terrace_error_message());
			_exit(1);
		}
	}
}

static void run_process(int number, uint64_t life)
{
	struct worker workers[THREADS_MAX];
	pthread_t handles[THREADS_MAX];
	terrace_cache *caches[KINDS];
	terrace *store;

	process_number = number;
	open_all(&store, caches);
	for (int i = 0; i < threads; i++) {
		workers[i] = (struct worker){
			.process = number,
			.number = i,
			.random = { seed ^ (uint64_t)(number * 64 + i) << 40 ^ life << 8 },
			.store = store,
			.caches = caches,
			.log = &log_->workers[number][i],
		};
		pthread_create(&handles[i], NULL, work, &workers[i]);
	}
	for (int i = 0; i < threads; i++)
		pthread_join(handles[i], NULL);
	for (int i = 0; i < KINDS; i++)
		terrace_cache_close(caches[i]);
	terrace_close(store);
}

static pid_t start_process(int number, uint64_t life)
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		run_process(number, life);
		_exit(atomic_load(&log_->failed) ? 1 : 0);
	}
	return pid;
}

/* It is dead: what it was writing has ended, if not how. */
static void bury(int number)
{
	for (int i = 0; i < threads; i++)
		work_end(&log_->workers[number][i], false);
}

/* --- the whole ------------------------------------------------------------------------------------------------ */

static bool count_fault(terrace_fault_kind kind)
{
	/* A process that was killed leaves files without rows. */
	return kind != TERRACE_FAULT_ORPHAN;
}

static int on_fault(void *ctx, const terrace_fault *fault)
{
	if (count_fault(fault->kind)) {
		++*(int *)ctx;
		fprintf(stderr, "oracle: damage in %s: %s\n", fault->cache, fault->detail);
	}
	return 0;
}

/* By a process that has seen nothing of it. */
static void look_at_everything(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct worker w = { .random = { seed } };
		terrace_cache *caches[KINDS];
		int faults = 0, rc;

		open_all(&w.store, caches);
		w.caches = caches;
		for (w.cache = 0; w.cache < KINDS; w.cache++) {
			for (w.key = 0; w.key < KEYS; w.key++)
				do_get(&w);
		}
		rc = terrace_verify(w.store, false, on_fault, &faults, NULL);
		if (faults || (rc < 0 && rc != TERRACE_ECORRUPT))
			fail("verify: %d faults: %s", faults, terrace_error_message());
		_exit(0);
	}
	waitpid(pid, &status, 0);
	if (status != 0)
		fail("the last look ended with status %#x", status);
}

static void end_all(pid_t *pids)
{
	for (int i = 0; i < processes; i++) {
		int status;

		waitpid(pids[i], &status, 0);
		if (WIFSIGNALED(status))
			fail("a process died of signal %d", WTERMSIG(status));
		else if (WEXITSTATUS(status) != 0)
			fail("a process ended with %d", WEXITSTATUS(status));
	}
}

static void kill_some(pid_t *pids, uint64_t rounds)
{
	struct random random = { seed };

	for (uint64_t round = 0; round < rounds && !atomic_load(&log_->failed); round++) {
		int victim = (int)random_below(&random, (uint64_t)processes);
		int status;

		usleep((useconds_t)(500 + random_below(&random, 12000)));
		kill(pids[victim], SIGKILL);
		waitpid(pids[victim], &status, 0);
		bury(victim);
		pids[victim] = start_process(victim, round + 1);
	}
	atomic_store(&log_->stop, 1);
}

static void make_sources(void)
{
	char path[300];

	for (uint32_t group = 0; group < GROUPS; group++) {
		FILE *file = fopen(source_path(group, path), "w");

		if (file) {
			fprintf(file, "%u\n", group);
			fclose(file);
		}
	}
}

/* A cache that always misses would lie no more than a good one. */
static void check_tally(bool killed)
{
	for (int i = 0; i < KINDS; i++) {
		struct tally *tally = &log_->tally[i];
		double ratio = (double)tally->hits / (double)(tally->gets ? tally->gets : 1);

		printf("  %-14s %9llu gets, %4.1f %% hits, %8llu writes, %8llu fetches\n",
		       kinds[i].name, (unsigned long long)tally->gets, 100 * ratio,
		       (unsigned long long)tally->writes, (unsigned long long)tally->fetches);
		if (!killed && kinds[i].tiers != TERRACE_L1 && tally->gets > 10000 && ratio < 0.4)
			fail("%s hits too rarely", kinds[i].name);
	}
}

int main(int argc, char **argv)
{
	bool killing = argc > 1 && strcmp(argv[1], "kill") == 0;
	uint64_t rounds = amount("ROUNDS", 500);
	pid_t pids[PROCESSES_MAX];
	double start;

	setvbuf(stdout, NULL, _IOLBF, 0);
	seed = proof_seed(killing ? "oracle kill" : "oracle");
	operations = killing ? UINT64_MAX : amount("OPERATIONS", 2000000);
	processes = (int)amount("PROCESSES", 4);
	threads = (int)amount("THREADS", 4);
	if (processes < 1 || processes > PROCESSES_MAX || threads < 1 || threads > THREADS_MAX) {
		fprintf(stderr, "oracle: up to %d PROCESSES and %d THREADS\n", PROCESSES_MAX,
		        THREADS_MAX);
		return 2;
	}
	log_ = share(sizeof *log_);
	atomic_store(&log_->now_ms, INT64_C(1800000000000));
	scratch_dir(directory, sizeof directory);
	make_sources();
	start = seconds_now();
	for (int i = 0; i < processes; i++)
		pids[i] = start_process(i, 0);
	if (killing)
		kill_some(pids, rounds);
	end_all(pids);
	if (!atomic_load(&log_->failed))
		look_at_everything();
	check_tally(killing);
	printf("oracle: %llu operations, %d processes x %d threads%s, %.1f s: %s\n",
	       (unsigned long long)atomic_load(&log_->operations), processes, threads,
	       killing ? ", killed on and on" : "", seconds_now() - start,
	       atomic_load(&log_->failed) ? "FAILED" : "no lie");
	if (killing)
		printf("oracle: %llu kills\n", (unsigned long long)rounds);
	if (!atomic_load(&log_->failed))
		remove_dir(directory);
	else
		fprintf(stderr, "oracle: the store is left in %s\n", directory);
	return atomic_load(&log_->failed);
}
