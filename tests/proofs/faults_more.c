/* Operations on caches that have more than rows and files: sources, idle time, strategies, listeners. */
#include "proofs/faults.h"

#include <terrace/events.h>

#include "core/ahead.h"
#include "util/time.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>

/* A cache of the operation's own, which `prepare` opens and the operation closes. */
static terrace_cache *mine;

void must(const char *what, int rc)
{
	if (rc < 0)
		lie(what, terrace_error_message());
}

static void open_mine(struct opened *o, const char *name, terrace_policy policy)
{
	mine = NULL;
	must("opening a cache", terrace_cache_open(o->store, name, &policy, &mine));
}

static int close_mine(int rc)
{
	terrace_cache_close(mine);
	mine = NULL;
	return rc;
}

/* What a get gives is one of these, or nothing. */
static int look(terrace_cache *cache, const char *key, const char *letters)
{
	terrace_value *value;
	int rc = terrace_get(cache, terrace_str(key), &value);

	return release(expect(key, rc, value, letters), value);
}

const char *in_dir(const struct opened *o, const char *name)
{
	static char paths[4][300];
	static unsigned next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof paths[0], "%s/%s", o->dir, name);
	return path;
}

void write_text(const char *path, off_t at, const char *text)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC | (at ? 0 : O_TRUNC), 0600);
	bool written = fd >= 0 && pwrite(fd, text, strlen(text), at) == (ssize_t)strlen(text);

	if (!written)
		lie(path, strerror(errno));
	close(fd);
}

/* --- sources ------------------------------------------------------------------------------------ */

static void make_sources(struct opened *o)
{
	mkdir(in_dir(o, "listed"), 0700);
	mkdir(in_dir(o, "listed/below"), 0700);
	write_text(in_dir(o, "listed/below/one"), 0, "1");
	write_text(in_dir(o, "listed/file"), 0, "as it was");
	if (symlink("file", in_dir(o, "listed/link")) < 0 && errno != EEXIST)
		lie("symlink", strerror(errno));
	unlink(in_dir(o, "listed/new"));
	unsetenv("FAULTS_VARIABLE"); /* as the process that looks on has it */
}

/* One of each kind. */
static int add_sources(const struct opened *o, terrace_sources *sources)
{
	int rc = terrace_sources_file(sources, in_dir(o, "listed/link"), 0);

	if (rc == TERRACE_OK)
		rc = terrace_sources_absent(sources, in_dir(o, "listed/new/file"));
	if (rc == TERRACE_OK)
		rc = terrace_sources_listing(sources, in_dir(o, "listed/**"));
	if (rc == TERRACE_OK)
		rc = terrace_sources_listing(sources, in_dir(o, "listed/f*"));
	if (rc == TERRACE_OK)
		rc = terrace_sources_variable(sources, "FAULTS_VARIABLE");
	if (rc == TERRACE_OK && terrace_sources_count(sources) != 5)
		lie("sources_count", "it is not how many were added");
	if (rc == TERRACE_MISS || rc == TERRACE_EXISTS)
		lie("sources", "what is there is not found, or what is not is");
	return rc;
}

static int put_with_sources(const struct opened *o, terrace_cache *cache, char letter)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_sources *sources;
	int rc = terrace_sources_new(&sources);

	if (rc != TERRACE_OK)
		return rc;
	rc = add_sources(o, sources);
	options.sources = sources;
	if (rc == TERRACE_OK)
		rc = terrace_put(cache, TERRACE_KEY("key"), letter_bytes(letter, size_in(o->place)),
		                 &options);
	terrace_sources_free(sources);
	return rc;
}

static int put_sourced(struct opened *o)
{
	return put_with_sources(o, o->cache, 'n');
}

static void prepare_sourced(struct opened *o, terrace_check check)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.check = check;
	make_sources(o);
	open_mine(o, check == TERRACE_CHECK_WATCH ? "watched" : "checked", policy);
	must("putting what has sources", put_with_sources(o, mine, 'o'));
}

static void prepare_checked(struct opened *o)
{
	prepare_sourced(o, TERRACE_CHECK_ON_HIT);
}

static void prepare_watched(struct opened *o)
{
	prepare_sourced(o, TERRACE_CHECK_WATCH);
}

/* As the header says, a watch knows of what was before this tick of the clock. */
static void await_tick(void)
{
	uint64_t before = terrace__tick();

	while (terrace__tick() == before)
		sched_yield();
}

static void prepare_seen(struct opened *o)
{
	prepare_watched(o);
	must("looking at what has sources", look(mine, "key", "o"));
	await_tick();
}

/* Each time another one of the sources. */
static void change_one(struct opened *o)
{
	static unsigned turn;

	switch (turn++ % 4) {
	case 0:
		write_text(in_dir(o, "listed/file"), 0, "and now it is longer");
		break;
	case 1:
		write_text(in_dir(o, "listed/new"), 0, "");
		break;
	case 2:
		unlink(in_dir(o, "listed/below/one"));
		break;
	default:
		setenv("FAULTS_VARIABLE", "something", 1);
	}
	await_tick();
}

static void prepare_changed(struct opened *o)
{
	prepare_seen(o);
	change_one(o);
}

static void prepare_checked_changed(struct opened *o)
{
	prepare_checked(o);
	change_one(o);
}

static int get_twice(struct opened *o)
{
	int rc = look(mine, "key", "o");

	(void)o;
	return close_mine(rc < 0 ? rc : look(mine, "key", "o"));
}

/* Found to be the same, or to have changed, or neither: then it is not served. */
static int get_changed(struct opened *o)
{
	int rc = look(mine, "key", "");

	(void)o;
	return close_mine(rc < 0 ? rc : look(mine, "key", ""));
}

static int listing_digest(struct opened *o)
{
	terrace_digest first, second;
	int rc = terrace_listing_digest(in_dir(o, "listed/**"), &first);

	if (rc == TERRACE_OK)
		rc = terrace_listing_digest(in_dir(o, "listed/**"), &second);
	if (rc == TERRACE_OK && memcmp(&first, &second, sizeof first) != 0)
		lie("listing_digest", "it gave two for the same names");
	if (rc == TERRACE_MISS)
		lie("listing_digest", "it did not find a directory");
	return rc;
}

/* --- strategies ------------------------------------------------------------------------------------ */

static void name_next(void *ctx, terrace_slice key, terrace_next *next)
{
	char name[16];

	(void)ctx;
	(void)key;
	for (int i = 0; i < OTHERS; i++)
		terrace_next_add(next, terrace_str(other(i, name)));
}

static void prepare_strategy(struct opened *o, const char *name, terrace_strategy strategy,
                             terrace_next_fn *next)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	char key[16];

	policy.strategy = strategy;
	policy.next = next;
	open_mine(o, name, policy);
	for (int i = 0; i < OTHERS; i++)
		must("filling", terrace_put(mine, terrace_str(other(i, key)),
		                            letter_bytes((char)('A' + i), SMALL), NULL));
	terrace_clear(mine, TERRACE_L1, NULL);
}

static void prepare_preemptive(struct opened *o)
{
	prepare_strategy(o, "preemptive", TERRACE_STRATEGY_PREEMPTIVE, name_next);
}

static void prepare_in_order(struct opened *o)
{
	prepare_strategy(o, "in order", TERRACE_STRATEGY_PREEMPTIVE, NULL);
}

static void prepare_batch(struct opened *o)
{
	prepare_strategy(o, "batch", TERRACE_STRATEGY_BATCH, name_next);
}

static void prepare_numbers(struct opened *o)
{
	prepare_strategy(o, "numbers", TERRACE_STRATEGY_BATCH, NULL);
}

static int get_others(struct opened *o)
{
	int rc = TERRACE_OK;

	(void)o;
	for (int i = 0; i < 2 * OTHERS && rc >= 0; i++) {
		char key[16], letter[2] = { (char)('A' + i % OTHERS), 0 };

		rc = look(mine, other(i % OTHERS, key), letter);
		terrace__ahead_settle(mine);
	}
	return close_mine(rc);
}

/* On the disk is an older one, which must not come back. */
static void prepare_immediate(struct opened *o)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_put_options options = TERRACE_PUT_INIT;

	policy.strategy = TERRACE_STRATEGY_IMMEDIATE;
	open_mine(o, "immediate", policy);
	options.strategy = TERRACE_STRATEGY_STANDARD;
	must("filling", terrace_put(mine, TERRACE_KEY("key"), letter_bytes('o', SMALL), &options));
}

static int immediate(struct opened *o)
{
	terrace_match match = terrace_match_text(TERRACE_MATCH_PREFIX, "k");
	terrace_item items[] = { { TERRACE_KEY("key"), letter_bytes('n', SMALL) },
		                 { TERRACE_KEY("another"), letter_bytes('n', SMALL) } };
	int64_t number;
	int rc = terrace_put(mine, TERRACE_KEY("key"), letter_bytes('n', SMALL), NULL);

	(void)o;
	look(mine, "key", rc == TERRACE_OK ? "n" : "on");
	if (rc == TERRACE_OK)
		rc = terrace_put_many(mine, items, 2, NULL);
	if (rc == TERRACE_OK)
		rc = terrace_touch(mine, TERRACE_KEY("key"), 60000);
	if (rc >= 0)
		rc = terrace_incr(mine, TERRACE_KEY("number"), 1, 1, &number);
	if (rc >= 0)
		rc = terrace_invalidate(mine, &match, NULL);
	if (rc >= 0) {
		look(mine, "key", "");
		rc = terrace_add(mine, TERRACE_KEY("key"), letter_bytes('m', SMALL), NULL);
	}
	if (rc >= 0) {
		look(mine, "key", "m");
		rc = terrace_delete(mine, TERRACE_KEY("key"));
	}
	if (rc >= 0)
		look(mine, "key", "");
	return close_mine(rc);
}

/* --- memory ------------------------------------------------------------------------------------------- */

static int on_process(void *ctx, const terrace_process *process)
{
	(void)ctx;
	return process->pid <= 0;
}

static int resize(struct opened *o)
{
	enum { LITTLE = 64 << 10, MUCH = 64 << 20 };
	terrace_memory memory = TERRACE_MEMORY_INIT;
	terrace_codec_info codec = TERRACE_CODEC_INFO_INIT;
	uint64_t gone;
	int rc = terrace_cache_resize(o->cache, LITTLE);

	if (rc == TERRACE_OK)
		rc = terrace_resize(o->store, LITTLE);
	if (rc == TERRACE_OK)
		rc = terrace_evict(o->cache, 2, &gone);
	if (rc == TERRACE_OK && gone > 2)
		lie("evict", "more went than were to go");
	if (rc == TERRACE_OK)
		rc = terrace_memory_usage(o->store, &memory);
	if (rc == TERRACE_OK && (memory.limit_bytes != LITTLE || memory.bytes > LITTLE))
		lie("memory_usage", "it is more than it may be");
	/* These are for more than they were before: nothing goes, and nothing fails. */
	if (terrace_cache_resize(o->cache, 0) != TERRACE_OK ||
	    terrace_resize(o->store, MUCH) != TERRACE_OK)
		lie("resize", terrace_error_message());
	if (rc == TERRACE_OK)
		rc = terrace_cache_codec(o->cache, &codec);
	return rc == TERRACE_OK ? terrace_processes_each(o->store, on_process, NULL) : rc;
}

/* --- subscriptions --------------------------------------------------------------------------------------- */

/* Slow: it waits until all has happened. */
struct listener {
	_Atomic bool go, over;
	_Atomic unsigned told, statistics;
};

static void on_event(void *ctx, const terrace_event *event)
{
	struct listener *listener = ctx;

	for (int ms = 0; ms < 1000 && !atomic_load(&listener->go); ms++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	if (atomic_load(&listener->over))
		lie("subscription", "it was told of something after its end");
	if (!event->cache || !event->detail ||
	    (event->kind == TERRACE_EVENT_STATISTICS) != (event->statistics != NULL))
		lie("subscription", "what it is told is not whole");
	if (event->kind == TERRACE_EVENT_STATISTICS)
		atomic_fetch_add(&listener->statistics, 1);
	else if (event->kind != TERRACE_EVENT_ERROR) /* they may go on */
		atomic_fetch_add(&listener->told, 1);
}

static int subscribe(struct opened *o)
{
	static struct listener listener;
	terrace_subscribe_options options = TERRACE_SUBSCRIBE_INIT;
	terrace_subscription *subscription;
	int rc;

	listener = (struct listener){ 0 };
	options.queue = 2;
	options.statistics_ms = 1;
	rc = terrace_subscribe(o->cache, &options, on_event, &listener, &subscription);
	if (rc != TERRACE_OK)
		return rc;
	rc = put(o, "key", 'n');
	for (int i = 0; i < 4; i++)
		look(o->cache, "key", "on");
	atomic_store(&listener.go, true);
	for (int ms = 0; ms < 20 && !atomic_load(&listener.statistics); ms++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	terrace_unsubscribe(subscription);
	atomic_store(&listener.over, true);
	/* Two waited, and one was being told. */
	if (atomic_load(&listener.told) > 3)
		lie("subscription", "more was told than its queue may hold");
	return rc;
}

static const struct operation operations[] = {
	{ "put with every kind of source", put_sourced, "n", 1 << ROWS | 1 << ROWS_BEHIND, 'o',
	  .waits = true, .prepare = make_sources },
	{ "get with sources", get_twice, "o", IN_ROWS, 'o', .must = true,
	  .prepare = prepare_checked },
	{ "get with a source that changed", get_changed, "o", IN_ROWS, 'o', .must = true,
	  .prepare = prepare_checked_changed },
	{ "get and watch", get_twice, "o", IN_ROWS, 'o', .must = true, .prepare = prepare_watched },
	{ "get what is watched", get_twice, "o", IN_ROWS, 'o', .must = true,
	  .prepare = prepare_seen },
	{ "get what is watched and changed", get_changed, "o", IN_ROWS, 'o', .must = true,
	  .prepare = prepare_changed },
	{ "listing_digest", listing_digest, "o", IN_ROWS, 'o', .prepare = make_sources },
	{ "get, preemptive", get_others, "o", IN_ROWS, 'o', .must = true,
	  .prepare = prepare_preemptive },
	{ "get, preemptive by order", get_others, "o", IN_ROWS, 'o', .must = true,
	  .prepare = prepare_in_order },
	{ "get a batch", get_others, "o", IN_ROWS, 'o', .must = true, .prepare = prepare_batch },
	{ "get a batch of numbers", get_others, "o", IN_ROWS, 'o', .must = true,
	  .prepare = prepare_numbers },
	{ "immediate", immediate, "o", IN_ROWS, 'o', .prepare = prepare_immediate },
	{ "resize and evict", resize, "o", IN_ROWS | 1 << FORM, 'o' },
	{ "subscribe", subscribe, "n", IN_ROWS | 1 << FORM, 'o' },
};
const struct operation_table more_operations = { operations,
	                                         sizeof operations / sizeof *operations };
