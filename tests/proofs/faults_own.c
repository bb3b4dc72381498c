/* Operations on a store of their own, whose clock, boot, configuration and files they choose. */
#include "proofs/faults.h"

#include "core/idle.h"
#include "proofs/shim.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

/* What the operation has open, and its clock, which moves on only. */
static terrace *store;
static terrace_cache *cache;
static _Atomic int64_t now;

static int64_t tell_time(void *ctx)
{
	(void)ctx;
	return atomic_load(&now);
}

/* As of this boot: "boot a" or "boot b". */
static int open_own(const struct opened *o, const char *boot, const char *config,
                    const terrace_policy *policy)
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	int rc;

	options.wait_ms = 2000;
	options.clock = tell_time;
	options.boot_id_path = in_dir(o, boot);
	options.config_path = config;
	rc = terrace_open(in_dir(o, "own"), &options, &store);
	return rc == TERRACE_OK ? terrace_cache_open(store, "own", policy, &cache) : rc;
}

static int close_own(int rc)
{
	terrace_cache_close(cache);
	terrace_close(store);
	cache = NULL;
	store = NULL;
	return rc;
}

static int look(const char *key, const char *letters)
{
	terrace_value *value;
	int rc = terrace_get(cache, terrace_str(key), &value);

	return release(expect(key, rc, value, letters), value);
}

/* Rows and a file, all 'o'; left open. */
static void fill(struct opened *o, const terrace_policy *policy)
{
	if (!now) {
		now = INT64_C(1700000000000);
		write_text(in_dir(o, "boot a"), 0, "0000000a-1111-4222-8333-444444444444\n");
		write_text(in_dir(o, "boot b"), 0, "0000000b-1111-4222-8333-444444444444\n");
	}
	must("opening", open_own(o, "boot a", NULL, policy));
	must("filling", terrace_put(cache, TERRACE_KEY("key"), letter_bytes('o', SMALL), NULL));
	must("filling", terrace_put(cache, TERRACE_KEY("file"), letter_bytes('o', 64 << 10), NULL));
}

static int look_at_both(const char *letters)
{
	int rc = look("key", letters), file = look("file", letters);

	return rc < 0 ? rc : file;
}

/* --- a store that may only be read ------------------------------------------------------------- */

/* The one that others have open, too. */
static int read_beside_others(struct opened *o)
{
	int rc;

	fault_forbid_writing(true);
	rc = open_store(o);
	if (rc == TERRACE_OK)
		rc = open_cache(o);
	for (int i = 0; i < 2 && rc == TERRACE_OK; i++) {
		terrace_value *value;

		rc = terrace_get(o->cache, TERRACE_KEY("key"), &value);
		release(expect("key", rc, value, "o"), value);
	}
	if (rc == TERRACE_OK && put(o, "key", 'n') >= 0)
		lie("put", "it wrote to what may only be read");
	close_store(o);
	fault_forbid_writing(false);
	return rc;
}

static void prepare_alone(struct opened *o)
{
	fill(o, NULL);
	close_own(0);
}

static void prepare_unshared(struct opened *o)
{
	prepare_alone(o);
	unlink(in_dir(o, "own/v2/shared"));
}

/* Each time at another place; the fifth time it is cut short. */
static void prepare_beheaded(struct opened *o)
{
	static unsigned turn;
	const unsigned at = turn++ % 5;
	const char *shared;

	prepare_alone(o);
	shared = in_dir(o, "own/v2/shared");
	if (at < 4)
		write_text(shared, 8 * (off_t)at + 1, "no head!");
	else if (truncate(shared, 4096) < 0)
		lie(shared, strerror(errno));
}

/* Of another boot, and nobody writes: as it is now. */
static int read_alone(struct opened *o)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *new;
	terrace_digest digest;
	int rc;

	/* It needs no memory, and nobody is told that it is immutable. */
	policy.strategy = TERRACE_STRATEGY_IMMEDIATE;
	policy.immutable = true;
	fault_forbid_writing(true);
	rc = open_own(o, "boot b", NULL, &policy);
	if (rc == TERRACE_OK)
		rc = look_at_both("o");
	if (rc >= 0 && terrace_cache_open(store, "new", NULL, &new) >= 0)
		lie("cache_open", "it made a cache in what may only be read");
	if (rc >= 0)
		rc = terrace_file_digest(store, in_dir(o, "boot a"), &digest);
	if (rc >= 0 && terrace_put(cache, TERRACE_KEY("key"), letter_bytes('n', SMALL), NULL) >= 0)
		lie("put", "it wrote to what may only be read");
	fault_forbid_writing(false);
	return close_own(rc);
}

/* --- what a crash leaves ------------------------------------------------------------------------- */

/* It says that in "boot a" values were written, and not that they were synced. */
static void prepare_cut(struct opened *o)
{
	const char *path;
	char unsynced[64];
	ssize_t size;
	int fd;

	fill(o, NULL);
	path = in_dir(o, "own/v2/unsynced");
	fd = open(path, O_RDWR | O_CLOEXEC);
	size = pread(fd, unsynced, sizeof unsynced, 0);
	close_own(0);
	if (size <= 0 || pwrite(fd, unsynced, (size_t)size, 0) != size)
		lie(path, "it cannot be kept");
	close(fd);
}

static int open_after_cut(struct opened *o)
{
	int rc = open_own(o, "boot b", NULL, NULL);

	if (rc == TERRACE_OK)
		rc = look_at_both(""); /* it may be out of date */
	return close_own(rc);
}

static int open_in_same_boot(struct opened *o)
{
	int rc = open_own(o, "boot a", NULL, NULL);

	if (rc == TERRACE_OK)
		rc = look_at_both("o");
	if (rc >= 0)
		rc = terrace_put(cache, TERRACE_KEY("key"), letter_bytes('n', SMALL), NULL);
	if (rc >= 0)
		look("key", "n");
	return close_own(rc);
}

/* --- idle time ----------------------------------------------------------------------------------- */

enum { IDLE = 80000 };

static void prepare_idle(struct opened *o)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_put_options options = TERRACE_PUT_INIT;

	policy.idle_ms = IDLE;
	options.idle_ms = IDLE / 2;
	fill(o, &policy);
	must("filling",
	     terrace_put(cache, TERRACE_KEY("half"), letter_bytes('o', SMALL), &options));
	now += IDLE / 4;
}

/* Once from memory and once from below; the use has to be written down. */
static int get_idle(struct opened *o)
{
	int rc = look_at_both("o"), half = look("half", "o");

	(void)o;
	rc = rc < 0 ? rc : half;
	terrace__idle_settle(store); /* as the keeper does within a second */
	terrace_clear(cache, TERRACE_L1, NULL);
	now += IDLE / 4;
	if (rc >= 0)
		rc = look_at_both("o");
	now += 2 * IDLE;
	if (rc >= 0)
		rc = look_at_both("");
	if (rc >= 0)
		rc = look("half", "");
	return close_own(rc);
}

/* --- what has expired ------------------------------------------------------------------------------- */

static void prepare_stale(struct opened *o)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.ttl_ms = 1000;
	policy.stale_ms = 1000000;
	policy.stale_on_error_ms = 1000000;
	policy.absent_ttl_ms = 1000;
	fill(o, &policy);
	now += 2000;
}

static int load_new(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)ctx;
	(void)key;
	return terrace_loaded_copy(loaded, letter_bytes('n', SMALL));
}

static int load_error(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)ctx;
	(void)key;
	(void)loaded;
	return terrace_fail(42, "this loader always fails");
}

/* What had expired is marked as such, and what is new is not. */
static void check_age(int rc, terrace_value *value)
{
	expect("fetch", rc, value, "on");
	if (rc == TERRACE_OK && terrace_value_stale(value) != (letter_of_value(value) == 'o'))
		lie("value_stale", letter_of_value(value) == 'o' ? "it takes the old for new" :
		                                                   "it takes the new for old");
	if (rc == TERRACE_OK && terrace_value_tier(value) > TERRACE_L3)
		lie("value_tier", "there is no such tier");
	release(rc, value);
}

static int fetch_on_error(struct opened *o)
{
	terrace_value *value;
	int rc = terrace_fetch(cache, TERRACE_KEY("key"), load_error, NULL, &value);

	(void)o;
	check_age(rc, value);
	if (rc != TERRACE_OK && rc != 42 && rc != TERRACE_ENOMEM)
		lie("fetch", "it gave neither the stale value nor the loader's code");
	look("key", "");
	return close_own(rc == 42 ? TERRACE_OK : rc);
}

static int fetch_stale(struct opened *o)
{
	terrace_value *value;
	int rc = terrace_fetch(cache, TERRACE_KEY("key"), load_new, NULL, &value);

	(void)o;
	check_age(rc, value);
	look("key", "n");
	return close_own(rc);
}

static int fetch_in_background(struct opened *o)
{
	terrace_fetch_options options = TERRACE_FETCH_INIT;
	terrace_value *value;
	int rc;

	(void)o;
	options.background = true;
	rc = terrace_fetch_with(cache, TERRACE_KEY("key"), load_new, NULL, &options, &value);
	check_age(rc, value);
	look("key", "n");
	return close_own(rc);
}

/* --- configuration ---------------------------------------------------------------------------------- */

static void prepare_configured(struct opened *o)
{
	prepare_alone(o);
	write_text(in_dir(o, "settings.ini"), 0,
	           "[store]\nmemory_bytes = 8M\n[caches]\nttl = 2h\nwrite = through\n"
	           "[cache own]\ntiers = l1+l2+l3\ncodec = zstd\neviction = cost\n"
	           "[cache other]\njitter = 10\n");
}

static int on_setting(void *ctx, const terrace_setting *setting)
{
	int *found = ctx;

	*found += strcmp(setting->name, "codec") == 0 &&
	          strcmp(setting->section, "cache own") == 0 && strcmp(setting->value, "zstd") == 0;
	return 0;
}

static int open_configured(struct opened *o)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	int rc, found = 0;

	policy.tiers = TERRACE_L1 | TERRACE_L2;
	policy.memory_bytes = 1 << 20;
	policy.stale_ms = 1000;
	policy.check = TERRACE_CHECK_INTERVAL;
	policy.check_interval_ms = 1000;
	policy.strategy = TERRACE_STRATEGY_BATCH;
	policy.jitter_percent = 5;
	policy.description = "what the configuration's operation uses";
	rc = open_own(o, "boot a", in_dir(o, "settings.ini"), &policy);
	if (rc == TERRACE_OK) {
		terrace_config_each(store, on_setting, &found);
		if (found != 1)
			lie("configuration", "a setting of the file does not count");
		rc = look("key", "o");
	}
	return close_own(rc);
}

/* --- limits, and what is new ------------------------------------------------------------------------- */

static int put_own(const char *key, char letter, int64_t ttl_ms)
{
	terrace_put_options options = TERRACE_PUT_INIT;

	options.ttl_ms = ttl_ms;
	return terrace_put(cache, terrace_str(key), letter_bytes(letter, SMALL), &options);
}

/* As many as there may be, two of which have expired. */
static void prepare_crowded(struct opened *o)
{
	char key[16];

	prepare_alone(o);
	write_text(in_dir(o, "crowd.ini"), 0, "[store]\ndisk_entries = 4\n");
	must("opening", open_own(o, "boot a", in_dir(o, "crowd.ini"), NULL));
	must("clearing", terrace_clear(cache, 0, NULL));
	for (int i = 0; i < 4; i++)
		must("filling", put_own(other(i, key), 'o', i < 2 ? 1000 : TERRACE_TTL_FOREVER));
	now += 2000;
}

static int crowd(struct opened *o)
{
	char key[16];
	int rc = TERRACE_OK;

	(void)o;
	for (int i = 2; i < 10 && rc == TERRACE_OK; i++) {
		rc = put_own(other(i, key), 'n', TERRACE_TTL_FOREVER);
		look(other(i, key), i < 4 && rc < 0 ? "on" : "n");
	}
	if (rc == TERRACE_OK)
		rc = terrace_clear(cache, 0, NULL);
	if (rc == TERRACE_OK) {
		look(other(9, key), "");
		rc = terrace_cleanup(store, cache, NULL);
	}
	return close_own(rc);
}

static void prepare_new_cache(struct opened *o)
{
	remove_dir(in_dir(o, "own"));
	prepare_alone(o);
}

static int open_new_cache(struct opened *o)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *new;
	int rc = open_own(o, "boot a", NULL, NULL);

	policy.immutable = true;
	if (rc == TERRACE_OK)
		rc = terrace_cache_open(store, "new", &policy, &new);
	if (rc == TERRACE_OK) {
		rc = terrace_put(new, TERRACE_KEY("key"), letter_bytes('n', SMALL), NULL);
		terrace_cache_close(new);
	}
	if (rc == TERRACE_OK)
		rc = look_at_both("o"); /* of the other one */
	return close_own(rc);
}

static const struct operation operations[] = {
	{ "read only, beside others", read_beside_others, "o", THROUGH, 'o', .opens = true },
	{ "read only, of another boot", read_alone, "o", IN_ROWS, 'o', .opens = true,
	  .prepare = prepare_alone },
	{ "read only, never shared", read_alone, "o", IN_ROWS, 'o', .opens = true,
	  .prepare = prepare_unshared },
	{ "read only, damaged head", read_alone, "o", IN_ROWS, 'o', .opens = true,
	  .prepare = prepare_beheaded },
	{ "open a damaged head", open_in_same_boot, "o", IN_ROWS, 'o', .opens = true,
	  .prepare = prepare_beheaded },
	{ "open after a power cut", open_after_cut, "o", IN_ROWS, 'o', .opens = true,
	  .prepare = prepare_cut },
	{ "open after a crash", open_in_same_boot, "o", IN_ROWS, 'o', .opens = true,
	  .prepare = prepare_cut },
	{ "get, idle", get_idle, "o", IN_ROWS, 'o', .opens = true, .prepare = prepare_idle },
	{ "fetch, stale on error", fetch_on_error, "o", IN_ROWS, 'o', .opens = true,
	  .prepare = prepare_stale },
	{ "fetch, stale", fetch_stale, "o", IN_ROWS, 'o', .opens = true, .must = true,
	  .prepare = prepare_stale },
	{ "fetch, stale, in the background", fetch_in_background, "o", IN_ROWS, 'o', .opens = true,
	  .must = true, .prepare = prepare_stale },
	{ "crowd", crowd, "o", IN_ROWS, 'o', .opens = true, .prepare = prepare_crowded },
	{ "open a new cache", open_new_cache, "o", IN_ROWS, 'o', .opens = true,
	  .prepare = prepare_new_cache },
	{ "open with a configuration", open_configured, "o", IN_ROWS, 'o', .opens = true,
	  .prepare = prepare_configured },
};
const struct operation_table own_operations = { operations,
	                                        sizeof operations / sizeof *operations };
