/* Every public call, as something that can fail anywhere. What it allocates itself it must not. */
#include "proofs/faults.h"

#include <terrace/jobs.h>
#include <terrace/library.h>

int expect(const char *what, int rc, const terrace_value *value, const char *letters)
{
	if (rc == TERRACE_OK && !strchr(letters, letter_of_value(value)))
		lie(what, "it gave a wrong value");
	return rc;
}

int release(int rc, terrace_value *value)
{
	if (rc == TERRACE_OK)
		terrace_release(value);
	return rc;
}

/* --- writing ------------------------------------------------------------------------------------ */

static int put_key(struct opened *o)
{
	return put(o, "key", 'n');
}

static int put_immediate(struct opened *o)
{
	terrace_put_options options = TERRACE_PUT_INIT;

	options.strategy = TERRACE_STRATEGY_IMMEDIATE;
	return terrace_put(o->cache, TERRACE_KEY("key"), letter_bytes('n', size_in(o->place)),
	                   &options);
}

static int put_and_flush(struct opened *o)
{
	int rc = put(o, "key", 'n'), flushed = terrace_flush(o->store);

	return rc == TERRACE_OK ? flushed : rc;
}

static int put_with_all(struct opened *o)
{
	static const char *const tags[] = { "one", "two" };
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_sources *sources;
	char path[300];
	int rc = terrace_sources_new(&sources);

	if (rc != TERRACE_OK)
		return rc;
	snprintf(path, sizeof path, "%s/source", o->dir);
	rc = terrace_sources_file(sources, path, TERRACE_SOURCE_CONTENT);
	if (rc == TERRACE_OK)
		rc = terrace_sources_absent(sources, "/nonexistent/file");
	options.tags = tags;
	options.tag_count = 2;
	options.sources = sources;
	options.ttl_ms = 3600000;
	if (rc == TERRACE_OK)
		rc = terrace_put(o->cache, TERRACE_KEY("key"), letter_bytes('n', size_in(o->place)),
		                 &options);
	terrace_sources_free(sources);
	return rc;
}

static int put_many(struct opened *o)
{
	terrace_slice value = letter_bytes('n', size_in(o->place));
	terrace_item items[] = {
		{ TERRACE_KEY("many 1"), value },
		{ TERRACE_KEY("key"), value },
		{ TERRACE_KEY("many 2"), value },
	};

	return terrace_put_many(o->cache, items, 3, NULL);
}

static int add(struct opened *o)
{
	int rc = terrace_add(o->cache, TERRACE_KEY("key"), letter_bytes('n', size_in(o->place)),
	                     NULL);

	if (rc == TERRACE_EXISTS)
		lie("add", "it found what is not there");
	return rc;
}

static int add_over(struct opened *o)
{
	return terrace_add(o->cache, TERRACE_KEY("key"), letter_bytes('n', size_in(o->place)),
	                   NULL);
}

static int incr(struct opened *o)
{
	int64_t number = 0;
	int rc = terrace_incr(o->cache, TERRACE_KEY("number"), 1, 100, &number);

	if (rc == TERRACE_OK && number != 6 && !(number == 101 && may_evict()))
		lie("incr", "it forgot what was counted");
	return rc;
}

static int delete_key(struct opened *o)
{
	return terrace_delete(o->cache, TERRACE_KEY("key"));
}

static int delete_many(struct opened *o)
{
	terrace_slice keys[] = { TERRACE_KEY("none"), TERRACE_KEY("key") };

	return terrace_delete_many(o->cache, keys, 2, NULL);
}

static int touch(struct opened *o)
{
	return terrace_touch(o->cache, TERRACE_KEY("key"), 1000000);
}

static int clear_all(struct opened *o)
{
	return terrace_clear(o->cache, 0, NULL);
}

static int clear_memory(struct opened *o)
{
	return terrace_clear(o->cache, TERRACE_L1, NULL);
}

static int clear_disk(struct opened *o)
{
	return terrace_clear(o->cache, TERRACE_L2 | TERRACE_L3, NULL);
}

static int invalidate(struct opened *o, terrace_match_kind kind, const char *text)
{
	terrace_match match = terrace_match_text(kind, text);

	return terrace_invalidate(o->cache, &match, NULL);
}

static int invalidate_key(struct opened *o)
{
	return invalidate(o, TERRACE_MATCH_KEY, "key");
}

static int invalidate_prefix(struct opened *o)
{
	return invalidate(o, TERRACE_MATCH_PREFIX, "ke");
}

static int invalidate_glob(struct opened *o)
{
	return invalidate(o, TERRACE_MATCH_GLOB, "k?y");
}

static int invalidate_tag(struct opened *o)
{
	return invalidate(o, TERRACE_MATCH_TAG, "tag");
}

static int invalidate_source(struct opened *o)
{
	char path[300];

	snprintf(path, sizeof path, "%s/source", o->dir);
	return invalidate(o, TERRACE_MATCH_SOURCE, path);
}

static int evict(struct opened *o)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	int rc;

	policy.disk_entries = 3;
	rc = terrace_cache_open(o->store, "small", &policy, &cache);
	if (rc != TERRACE_OK)
		return rc;
	for (int i = 0; i < 6 && rc == TERRACE_OK; i++) {
		char key[16];

		rc = terrace_put(cache, terrace_str(other(i, key)),
		                 letter_bytes((char)('A' + i), SMALL), NULL);
	}
	terrace_cache_close(cache);
	return rc;
}

/* --- reading --------------------------------------------------------------------------------------- */

static int get(struct opened *o)
{
	terrace_value *value;
	int rc = terrace_get(o->cache, TERRACE_KEY("key"), &value);

	return release(expect("get", rc, value, "o"), value);
}

static int get_nothing(struct opened *o)
{
	terrace_value *value;
	int rc = terrace_get(o->cache, TERRACE_KEY("nothing"), &value);

	if (rc == TERRACE_OK)
		lie("get", "it found what is not there");
	return release(rc, value);
}

static int get_or(struct opened *o)
{
	terrace_value *value;
	int rc = terrace_get_or(o->cache, TERRACE_KEY("key"), letter_bytes('f', SMALL), &value);

	return release(expect("get_or", rc, value, "of"), value);
}

static int get_encoded(struct opened *o)
{
	terrace_value *value;
	int rc = terrace_get_encoded(o->cache, TERRACE_KEY("key"), &value);

	if (rc == TERRACE_OK && letter_of(terrace_slice_of(value)) != 'o')
		lie("get_encoded", "it gave a wrong value");
	return release(rc, value);
}

static int get_many(struct opened *o)
{
	terrace_slice keys[] = { TERRACE_KEY("other 0"), TERRACE_KEY("key"), TERRACE_KEY("none") };
	terrace_value *values[3];
	int rc = terrace_get_many(o->cache, keys, 3, values, NULL);

	for (int i = 0; i < 3 && rc == TERRACE_OK; i++) {
		if (!values[i])
			continue;
		if (i == 2 || letter_of_value(values[i]) != "Ao"[i])
			lie("get_many", "it gave a wrong value");
		terrace_release(values[i]);
	}
	return rc;
}

static int exists(struct opened *o)
{
	if (terrace_exists(o->cache, TERRACE_KEY("nothing")) == TERRACE_OK)
		lie("exists", "it found what is not there");
	return terrace_exists(o->cache, TERRACE_KEY("key"));
}

static int list(struct opened *o,
                int (*open)(terrace_cache *cache, const terrace_match *match, terrace_keys **ret))
{
	terrace_match match = terrace_match_text(TERRACE_MATCH_GLOB, "*");
	terrace_keys *keys;
	terrace_slice key;
	int rc = open(o->cache, &match, &keys), seen = 0;

	if (rc != TERRACE_OK)
		return rc;
	while ((rc = terrace_keys_next(keys, &key)) == TERRACE_OK) {
		if (key.size == 0 || key.size > 10 || !strchr("okn", *(const char *)key.data))
			lie("keys", "it gave a key that is none");
		seen++;
	}
	/* Listed are "key", "number" and the others. */
	if (rc == TERRACE_MISS && seen < OTHERS + 2)
		lie("keys", "it left some out without a word");
	terrace_keys_close(keys);
	return rc;
}

static int keys(struct opened *o)
{
	return list(o, terrace_keys_open);
}

static int keys_newest(struct opened *o)
{
	return list(o, terrace_keys_open_newest);
}

/* --- computing --------------------------------------------------------------------------------------- */

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct opened *o = ctx;

	(void)key;
	return terrace_loaded_copy(loaded, value_in(o->place, 'n'));
}

static int load_with_all(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct opened *o = ctx;
	char path[300];
	int rc;

	snprintf(path, sizeof path, "%s/source", o->dir);
	/* A loader that cannot say what it depends on must not be kept; its value is good. */
	rc = terrace_loaded_source(loaded, path, 0);
	if (rc == TERRACE_OK)
		rc = terrace_loaded_tag(loaded, "tag");
	if (rc != TERRACE_OK)
		terrace_loaded_keep_out(loaded);
	return load(ctx, key, loaded);
}

static int load_nothing(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)ctx;
	(void)key;
	terrace_loaded_absent(loaded);
	return 0;
}

static int load_error(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)ctx;
	(void)key;
	(void)loaded;
	return terrace_fail(42, "this loader always fails");
}

static int fetch(struct opened *o)
{
	terrace_value *value;
	int rc = terrace_fetch(o->cache, TERRACE_KEY("key"), load, o, &value);

	return release(expect("fetch", rc, value, "n"), value);
}

static int fetch_with_all(struct opened *o)
{
	terrace_value *value;
	int rc = terrace_fetch(o->cache, TERRACE_KEY("key"), load_with_all, o, &value);

	return release(expect("fetch", rc, value, "n"), value);
}

/* What is there may be given, and computed anew where it cannot be read. */
static int fetch_kept(struct opened *o)
{
	terrace_value *value;
	int rc = terrace_fetch(o->cache, TERRACE_KEY("key"), load, o, &value);

	return release(expect("fetch", rc, value, "on"), value);
}

static int load_many(void *ctx, const terrace_slice *keys, size_t count,
                     terrace_loaded *const *loaded)
{
	int rc = 0;

	for (size_t i = 0; i < count && rc == 0; i++)
		rc = load(ctx, keys[i], loaded[i]);
	return rc;
}

static int fetch_many(struct opened *o)
{
	terrace_slice keys[] = { TERRACE_KEY("key"), TERRACE_KEY("another") };
	terrace_value *values[2] = { NULL, NULL };
	int rc = terrace_fetch_many(o->cache, keys, 2, load_many, o, values);

	terrace_release(rc == TERRACE_OK ? values[1] : NULL);
	return release(expect("fetch_many", rc, values[0], "n"), values[0]);
}

static int fetch_encoded(struct opened *o)
{
	terrace_value *value;
	int rc = terrace_fetch_encoded(o->cache, TERRACE_KEY("key"), load, o, &value);

	if (rc == TERRACE_OK && letter_of(terrace_slice_of(value)) != 'n')
		lie("fetch_encoded", "it gave a wrong value");
	return release(rc, value);
}

static int fetch_aside(struct opened *o)
{
	terrace_fetch_options options = terrace_fetch_options_init();
	terrace_value *value;
	int rc;

	options.hard_ms = 10000;
	options.soft_ms = 5000;
	rc = terrace_fetch_with(o->cache, TERRACE_KEY("key"), load, o, &options, &value);
	return release(expect("fetch_with", rc, value, "n"), value);
}

static int fetch_nothing(struct opened *o)
{
	terrace_value *value;
	int rc = terrace_fetch(o->cache, TERRACE_KEY("nothing"), load_nothing, o, &value);

	if (rc == TERRACE_OK)
		lie("fetch", "it found what is not there");
	return release(rc, value);
}

static int fetch_error(struct opened *o)
{
	terrace_value *value;
	int rc = terrace_fetch(o->cache, TERRACE_KEY("nothing"), load_error, o, &value);

	if (rc != 42)
		lie("fetch", "it gave another code than the loader");
	return TERRACE_OK;
}

static int lease(struct opened *o)
{
	terrace_value *value = NULL;
	terrace_lease *lease;
	int rc = terrace_lease_begin(o->cache, TERRACE_KEY("key"), 0, &lease, &value);

	if (rc == TERRACE_OK)
		lie("lease_begin", "it found what is not there");
	if (rc != TERRACE_MISS)
		return release(rc, value);
	rc = terrace_lease_put(lease, letter_bytes('n', size_in(o->place)), NULL, &value);
	return release(expect("lease_put", rc, value, "n"), value);
}

static int lease_dropped(struct opened *o)
{
	terrace_value *value = NULL;
	terrace_lease *lease;
	int rc = terrace_lease_begin(o->cache, TERRACE_KEY("nothing"), 0, &lease, &value);

	if (rc == TERRACE_MISS)
		terrace_lease_drop(lease);
	if (rc != TERRACE_MISS)
		return release(rc, value);
	rc = terrace_lease_begin(o->cache, TERRACE_KEY("nothing"), 0, &lease, &value);
	return rc == TERRACE_MISS ? terrace_lease_absent(lease) : release(rc, value);
}

/* --- transactions ----------------------------------------------------------------------------------- */

static int transact(struct opened *o, bool commit)
{
	int rc = terrace_begin(o->store, 0);

	if (rc != TERRACE_OK)
		return rc;
	rc = put(o, "key", 'n');
	if (rc == TERRACE_OK)
		rc = put(o, "many 1", 'n');
	if (rc == TERRACE_OK)
		rc = terrace_delete(o->cache, TERRACE_KEY("many 1"));
	if (rc >= 0 && commit)
		return terrace_commit(o->store);
	terrace_rollback(o->store);
	return rc;
}

static int commit(struct opened *o)
{
	return transact(o, true);
}

static int roll_back(struct opened *o)
{
	return transact(o, false);
}

/* --- looking ---------------------------------------------------------------------------------------------- */

static int stats(struct opened *o)
{
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_usage usage;
	int rc = terrace_cache_stats(o->cache, &stats),
	    used = terrace_cache_usage(o->cache, &usage);

	return rc == TERRACE_OK ? used : rc;
}

static int inspect(struct opened *o)
{
	terrace_info info = TERRACE_INFO_INIT;
	int rc = terrace_inspect(o->cache, TERRACE_KEY("key"), &info);

	if (rc == TERRACE_OK)
		terrace_info_free(&info);
	return rc;
}

static int inspect_value(struct opened *o)
{
	terrace_info info = TERRACE_INFO_INIT;
	terrace_value *value;
	int rc = terrace_get(o->cache, TERRACE_KEY("key"), &value);

	if (rc != TERRACE_OK)
		return rc;
	rc = terrace_inspect_value(o->cache, value, &info);
	terrace_release(value);
	if (rc == TERRACE_OK)
		terrace_info_free(&info);
	return rc;
}

static int explain(struct opened *o)
{
	terrace_why why = TERRACE_WHY_INIT;
	int rc = terrace_explain(o->cache, TERRACE_KEY("nothing"), &why);

	if (rc == TERRACE_OK)
		lie("explain", "it found what is not there");
	rc = terrace_explain(o->cache, TERRACE_KEY("key"), &why);
	if (rc == TERRACE_OK)
		terrace_info_free(&why.info);
	return rc;
}

static int on_damage(void *ctx, const terrace_fault *fault)
{
	(void)ctx;
	lie("it took a failure for damage", fault->detail);
	return 0;
}

/* Nothing is wrong, so nothing may be found to be. */
static int verify(struct opened *o, bool repair)
{
	return terrace_verify(o->store, repair, on_damage, NULL, NULL);
}

static int verify_only(struct opened *o)
{
	return verify(o, false);
}

static int verify_repair(struct opened *o)
{
	return verify(o, true);
}

static int scrub(struct opened *o)
{
	terrace_scrub_options options = TERRACE_SCRUB_INIT;

	options.repair = true;
	return terrace_scrub(o->store, &options, on_damage, NULL, NULL, NULL);
}

static int clean_up(struct opened *o)
{
	return terrace_cleanup(o->store, NULL, NULL);
}

static int check_sources(struct opened *o)
{
	return terrace_check_sources(o->cache, NULL);
}

static int on_name(void *ctx, const char *name)
{
	(void)ctx;
	return *name == '\0';
}

static int on_setting(void *ctx, const terrace_setting *setting)
{
	(void)ctx;
	return !setting->value || !setting->origin;
}

static int listings(struct opened *o)
{
	terrace_config_each(o->store, on_setting, NULL);
	terrace_registry_each(NULL, NULL);
	return terrace_caches_each(o->store, on_name, NULL);
}

static int digest(struct opened *o)
{
	terrace_digest first, second;
	char path[300];
	int rc;

	snprintf(path, sizeof path, "%s/source", o->dir);
	rc = terrace_file_digest(o->store, path, &first);
	if (rc == TERRACE_OK && terrace_file_digest(o->store, path, &second) == TERRACE_OK &&
	    memcmp(&first, &second, sizeof first) != 0)
		lie("file_digest", "it gave two for one file");
	return rc;
}

/* --- what needs no store ------------------------------------------------------------------------------------ */

static int make_keys(struct opened *o)
{
	terrace_slice items[] = { TERRACE_KEY("b"), TERRACE_KEY("a"), TERRACE_KEY("b") };
	terrace_key_parts parts = {
		TERRACE_KEY("a:b"), TERRACE_KEY("c"), TERRACE_KEY("d"), { NULL, 0 }
	};
	terrace_key_builder *builder;
	terrace_slice key;
	int rc = terrace_key_format(&parts, &key);

	(void)o;
	if (rc != TERRACE_OK)
		return rc;
	rc = terrace_key_parse(key, &parts);
	if (rc == TERRACE_OK)
		terrace_key_parts_free(&parts);
	terrace_key_free(key);
	if (rc != TERRACE_OK)
		return rc;
	rc = terrace_key_builder_new("prefix", &builder);
	if (rc != TERRACE_OK)
		return rc;
	terrace_key_builder_field(builder, "x", TERRACE_KEY("y"));
	terrace_key_builder_set(builder, "z", items, 3);
	rc = terrace_key_builder_finish(builder, &key);
	if (rc == TERRACE_OK)
		terrace_key_free(key);
	terrace_key_builder_free(builder);
	return rc;
}

static int run_item(void *ctx, uint64_t item)
{
	(void)ctx;
	(void)item;
	return TERRACE_OK;
}

static int jobs(struct opened *o)
{
	terrace_jobs_options options = terrace_jobs_options_init();
	terrace_job_spec spec = terrace_job_spec_init();
	terrace_jobs *jobs;
	terrace_job *job;
	int rc;

	(void)o;
	options.workers = 2;
	options.bulk_workers = 1;
	rc = terrace_jobs_open(&options, &jobs);
	if (rc != TERRACE_OK)
		return rc;
	spec.items = 10;
	spec.run = run_item;
	rc = terrace_jobs_submit(jobs, &spec, &job);
	if (rc == TERRACE_OK) {
		rc = terrace_job_wait(job, 5000);
		terrace_job_release(job);
	}
	terrace_jobs_close(jobs);
	return rc;
}

static int library(struct opened *o)
{
	static const char *const folders[] = { "/nonexistent", NULL };
	terrace_library_options options = terrace_library_options_init();
	terrace_library *library;
	int rc;

	(void)o;
	options.file = "no-such-library.so";
	options.folders = folders;
	rc = terrace_library_new(&options, &library);
	if (rc != TERRACE_OK)
		return rc;
	rc = terrace_library_object(library, NULL);
	if (rc == TERRACE_OK)
		lie("library", "it opened what is not there");
	terrace_library_free(library);
	return rc;
}

/* --- opening and closing -------------------------------------------------------------------------------------- */

static int open_and_get(struct opened *o)
{
	int rc = open_store(o);

	if (rc == TERRACE_OK)
		rc = open_cache(o);
	if (rc == TERRACE_OK)
		get(o);
	close_store(o);
	return rc;
}

/* What a program that does not look at any status gets. */
static int open_and_fetch(struct opened *o)
{
	int rc;

	open_store(o);
	open_cache(o);
	rc = fetch(o);
	close_store(o);
	return rc;
}

static int new_cache(struct opened *o)
{
	terrace_cache *cache;
	int rc = terrace_cache_open(o->store, "new", NULL, &cache);

	if (rc == TERRACE_OK)
		terrace_cache_close(cache);
	return rc;
}

static const struct operation operations[] = {
	{ "put", put_key, "n", ALL | IN_BLOCKS, 'o', .waits = true },
	{ "put what is new", put_key, "n", ALL, 0, .waits = true },
	{ "put into memory alone", put_immediate, "n ", ALL, 'o' },
	{ "put and flush", put_and_flush, "n", BEHIND, 'o' },
	{ "put with tags and sources", put_with_all, "n", DISK, 'o', .waits = true },
	{ "put_many", put_many, "n", ALL, 'o', .waits = true },
	{ "add", add, "n", ALL, 0 },
	{ "add over", add_over, "on", ALL, 'o' },
	{ "incr", incr, "o", DISK | 1 << MEMORY, 'o', .counts = true },
	{ "delete", delete_key, " ", ALL, 'o' },
	{ "delete_many", delete_many, " ", ALL, 'o' },
	{ "touch", touch, "o", ALL, 'o' },
	{ "clear", clear_all, " ", ALL, 'o', .drops_others = true },
	{ "clear L1", clear_memory, "o ", ALL, 'o', .drops_others = true },
	{ "clear L2 and L3", clear_disk, "o ", DISK, 'o', .drops_others = true },
	{ "invalidate a key", invalidate_key, " ", ALL, 'o' },
	{ "invalidate a prefix", invalidate_prefix, " ", ALL, 'o' },
	{ "invalidate a glob", invalidate_glob, " ", ALL, 'o' },
	{ "invalidate a tag", invalidate_tag, " ", ALL, 'o' },
	{ "invalidate a source", invalidate_source, " ", ALL, 'o' },
	{ "put and evict", evict, "o", THROUGH, 'o' },
	{ "get", get, "o", ALL | IN_BLOCKS, 'o', .must = true },
	{ "get nothing", get_nothing, "o", ALL, 'o', .must = true },
	{ "get_or", get_or, "o", ALL, 'o', .must = true },
	{ "get_encoded", get_encoded, "o", ALL, 'o', .must = true },
	{ "get_many", get_many, "o", ALL, 'o', .must = true },
	{ "exists", exists, "o", ALL, 'o', .must = true },
	{ "keys", keys, "o", ALL, 'o' },
	{ "keys, newest first", keys_newest, "o", DISK, 'o' },
	{ "fetch", fetch, "n ", ALL | IN_BLOCKS, 0, .must = true },
	{ "fetch with tags and sources", fetch_with_all, "n ", ALL, 0, .must = true },
	{ "fetch what is kept", fetch_kept, "on", ALL, 'o', .must = true },
	{ "fetch_many", fetch_many, "n ", ALL, 0, .must = true },
	{ "fetch_encoded", fetch_encoded, "n ", ALL, 0, .must = true },
	{ "fetch_with", fetch_aside, "n ", ALL, 0, .must = true },
	{ "fetch nothing", fetch_nothing, "o", DISK, 'o', .must = true },
	{ "fetch an error", fetch_error, "o", DISK, 'o', .must = true },
	{ "lease", lease, "n ", ALL, 0, .must = true },
	{ "lease, dropped", lease_dropped, "o", DISK, 'o', .must = true },
	{ "commit", commit, "n", DISK, 'o' },
	{ "roll back", roll_back, "o", DISK, 'o' },
	{ "stats and usage", stats, "o", ALL, 'o' },
	{ "inspect", inspect, "o", ALL, 'o' },
	{ "inspect a value", inspect_value, "o", ALL, 'o' },
	{ "explain", explain, "o", ALL, 'o' },
	{ "verify", verify_only, "o", THROUGH | IN_BLOCKS, 'o' },
	{ "verify and repair", verify_repair, "o", THROUGH | IN_BLOCKS, 'o' },
	{ "scrub and repair", scrub, "o", THROUGH, 'o' },
	{ "cleanup", clean_up, "o", DISK, 'o' },
	{ "check_sources", check_sources, "o", DISK, 'o' },
	{ "listings", listings, "o", IN_ROWS, 'o' },
	{ "file_digest", digest, "o", IN_ROWS, 'o' },
	{ "keys of parts", make_keys, "o", IN_ROWS, 'o' },
	{ "jobs", jobs, "o", IN_ROWS, 'o' },
	{ "library", library, "o", IN_ROWS, 'o' },
	{ "open and get", open_and_get, "o", ALL | IN_BLOCKS, 'o', .opens = true },
	{ "open and put", open_and_put, "n ", DISK, 'o', .opens = true },
	{ "open and fetch", open_and_fetch, "n ", DISK, 0, .opens = true, .must = true },
	{ "a new store", open_and_put, "n ", THROUGH, 0, .opens = true, .new_store = true },
	{ "a new store and fetch", open_and_fetch, "n ", THROUGH, 0, .opens = true,
	  .new_store = true, .must = true },
	{ "a new cache", new_cache, "o", IN_ROWS, 'o' },
};
const struct operation_table basic_operations = { operations,
	                                          sizeof operations / sizeof *operations };
