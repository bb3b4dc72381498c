/*
 * Every public call on a store that was inherited over fork(), that may only be
 * read, or whose directory was removed. The table below is held against the
 * headers, so a new function has to come here.
 */
#include "support/peer.h"

#include "core/store.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the calls are made on. */
struct subject {
	terrace *store;
	terrace_cache *cache; /* has "k", and no "absent" */
	terrace_keys *keys;
	terrace_lease *lease;
	terrace_jobs *jobs;
	terrace_job *job;
	terrace_value *value;
};

/* --- every call ------------------------------------------------------------------------------------ */

static terrace_slice k(void)
{
	return TERRACE_KEY("k");
}

/* By its address: what is in it is known after the call alone. */
static int release(int rc, terrace_value **value)
{
	if (rc == TERRACE_OK)
		terrace_release(*value);
	return rc;
}

static int call_add(struct subject *s)
{
	return terrace_add(s->cache, TERRACE_KEY("absent"), terrace_str("v"), NULL);
}

static int call_begin(struct subject *s)
{
	int rc = terrace_begin(s->store, 0);

	if (rc == TERRACE_OK)
		terrace_rollback(s->store);
	return rc;
}

static int call_cache_codec(struct subject *s)
{
	terrace_codec_info info = TERRACE_CODEC_INFO_INIT;

	return terrace_cache_codec(s->cache, &info);
}

static int call_cache_open(struct subject *s)
{
	terrace_cache *cache;
	int rc = terrace_cache_open(s->store, "new", NULL, &cache);

	if (rc == TERRACE_OK)
		terrace_cache_close(cache);
	return rc;
}

static int call_cache_resize(struct subject *s)
{
	return terrace_cache_resize(s->cache, 1 << 20);
}

static int call_cache_stats(struct subject *s)
{
	terrace_stats stats = TERRACE_STATS_INIT;

	return terrace_cache_stats(s->cache, &stats);
}

static int call_cache_usage(struct subject *s)
{
	terrace_usage usage;

	return terrace_cache_usage(s->cache, &usage);
}

static int ignore_name(void *ctx, const char *name)
{
	(void)ctx;
	(void)name;
	return 0;
}

static int call_caches_each(struct subject *s)
{
	return terrace_caches_each(s->store, ignore_name, NULL);
}

static int call_check_sources(struct subject *s)
{
	return terrace_check_sources(s->cache, NULL);
}

static int call_cleanup(struct subject *s)
{
	return terrace_cleanup(s->store, NULL, NULL);
}

static int call_clear(struct subject *s)
{
	return terrace_clear(s->cache, 0, NULL);
}

static int call_commit(struct subject *s)
{
	return terrace_commit(s->store);
}

static int call_delete(struct subject *s)
{
	return terrace_delete(s->cache, k());
}

static int call_delete_many(struct subject *s)
{
	terrace_slice key = k();

	return terrace_delete_many(s->cache, &key, 1, NULL);
}

static int call_evict(struct subject *s)
{
	return terrace_evict(s->cache, 1, NULL);
}

static int call_exists(struct subject *s)
{
	return terrace_exists(s->cache, k());
}

static int call_explain(struct subject *s)
{
	terrace_why why = TERRACE_WHY_INIT;

	return terrace_explain(s->cache, k(), &why);
}

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	(void)ctx;
	(void)key;
	return terrace_loaded_copy(loaded, terrace_str("loaded"));
}

static int call_fetch(struct subject *s)
{
	terrace_value *value;

	return release(terrace_fetch(s->cache, TERRACE_KEY("fetched"), load, NULL, &value), &value);
}

static int call_fetch_encoded(struct subject *s)
{
	terrace_value *value;

	return release(terrace_fetch_encoded(s->cache, TERRACE_KEY("fetched"), load, NULL, &value),
	               &value);
}

static int load_many(void *ctx, const terrace_slice *keys, size_t count,
                     terrace_loaded *const *loaded)
{
	return load_each(load, ctx, keys, count, loaded);
}

static int call_fetch_many(struct subject *s)
{
	terrace_slice keys[] = { k(), TERRACE_KEY("fetched") };
	terrace_value *values[2];
	int rc = terrace_fetch_many(s->cache, keys, 2, load_many, NULL, values);

	for (int i = 0; i < 2 && rc == TERRACE_OK; i++)
		terrace_release(values[i]);
	return rc;
}

static int call_fetch_with(struct subject *s)
{
	terrace_value *value;

	return release(
	    terrace_fetch_with(s->cache, TERRACE_KEY("fetched"), load, NULL, NULL, &value), &value);
}

static int call_file_digest(struct subject *s)
{
	terrace_digest digest;

	return terrace_file_digest(s->store, "/proc/self/exe", &digest);
}

static int call_flush(struct subject *s)
{
	return terrace_flush(s->store);
}

static int call_get(struct subject *s)
{
	terrace_value *value;

	return release(terrace_get(s->cache, k(), &value), &value);
}

static int call_get_encoded(struct subject *s)
{
	terrace_value *value;

	return release(terrace_get_encoded(s->cache, k(), &value), &value);
}

static int call_get_many(struct subject *s)
{
	terrace_slice key = k();
	terrace_value *value = NULL;
	int rc = terrace_get_many(s->cache, &key, 1, &value, NULL);

	terrace_release(rc == TERRACE_OK ? value : NULL);
	return rc;
}

static int call_get_or(struct subject *s)
{
	terrace_value *value;

	return release(terrace_get_or(s->cache, k(), terrace_str("other"), &value), &value);
}

static int call_incr(struct subject *s)
{
	return terrace_incr(s->cache, TERRACE_KEY("number"), 1, 0, NULL);
}

static int call_inspect(struct subject *s)
{
	terrace_info info = TERRACE_INFO_INIT;
	int rc = terrace_inspect(s->cache, k(), &info);

	if (rc == TERRACE_OK)
		terrace_info_free(&info);
	return rc;
}

static int call_inspect_value(struct subject *s)
{
	terrace_info info = TERRACE_INFO_INIT;
	int rc = terrace_inspect_value(s->cache, s->value, &info);

	if (rc == TERRACE_OK)
		terrace_info_free(&info);
	return rc;
}

static int call_invalidate(struct subject *s)
{
	terrace_match match = terrace_match_text(TERRACE_MATCH_PREFIX, "k");

	return terrace_invalidate(s->cache, &match, NULL);
}

static int call_job_progress(struct subject *s)
{
	terrace_progress progress = TERRACE_PROGRESS_INIT;

	return terrace_job_progress(s->job, &progress);
}

static int call_job_wait(struct subject *s)
{
	return terrace_job_wait(s->job, -1);
}

static int do_nothing(void *ctx, uint64_t item)
{
	(void)ctx;
	(void)item;
	return TERRACE_OK;
}

static int call_jobs_submit(struct subject *s)
{
	terrace_job_spec spec = TERRACE_JOB_INIT;

	spec.items = 1;
	spec.run = do_nothing;
	return terrace_jobs_submit(s->jobs, &spec, NULL);
}

static int call_keys_next(struct subject *s)
{
	terrace_slice key;

	return terrace_keys_next(s->keys, &key);
}

static int open_keys(struct subject *s, bool newest)
{
	terrace_keys *keys;
	terrace_slice key;
	int rc = newest ? terrace_keys_open_newest(s->cache, NULL, &keys) :
	                  terrace_keys_open(s->cache, NULL, &keys);

	if (rc != TERRACE_OK)
		return rc;
	rc = terrace_keys_next(keys, &key);
	terrace_keys_close(keys);
	return rc;
}

static int call_keys_open(struct subject *s)
{
	return open_keys(s, false);
}

static int call_keys_open_newest(struct subject *s)
{
	return open_keys(s, true);
}

static int call_lease_begin(struct subject *s)
{
	terrace_lease *lease;
	terrace_value *value;
	int rc = terrace_lease_begin(s->cache, TERRACE_KEY("leased"), 0, &lease, &value);

	if (rc == TERRACE_MISS)
		terrace_lease_drop(lease);
	return release(rc, &value);
}

/* Of an inherited lease; elsewhere of one that is begun here. */
static terrace_lease *lease_of(struct subject *s)
{
	terrace_lease *lease = s->lease;
	terrace_value *value;

	if (!lease)
		assert_status(
		    terrace_lease_begin(s->cache, TERRACE_KEY("leased"), 0, &lease, &value),
		    TERRACE_MISS);
	return lease;
}

static int call_lease_absent(struct subject *s)
{
	return terrace_lease_absent(lease_of(s));
}

static int call_lease_put(struct subject *s)
{
	return terrace_lease_put(lease_of(s), terrace_str("v"), NULL, NULL);
}

static int call_memory_usage(struct subject *s)
{
	terrace_memory memory = TERRACE_MEMORY_INIT;

	return terrace_memory_usage(s->store, &memory);
}

static int ignore_process(void *ctx, const terrace_process *process)
{
	(void)ctx;
	(void)process;
	return 0;
}

static int call_processes_each(struct subject *s)
{
	return terrace_processes_each(s->store, ignore_process, NULL);
}

static int call_put(struct subject *s)
{
	return put_text(s->cache, "k", "w");
}

static int call_put_many(struct subject *s)
{
	terrace_item items[] = { { k(), terrace_str("w") }, { TERRACE_KEY("l"), k() } };

	return terrace_put_many(s->cache, items, 2, NULL);
}

static int call_resize(struct subject *s)
{
	return terrace_resize(s->store, 1 << 22);
}

static void ignore_event(void *ctx, const terrace_event *event)
{
	(void)ctx;
	(void)event;
}

static int call_subscribe(struct subject *s)
{
	terrace_subscription *subscription = NULL;
	int rc = terrace_subscribe(s->cache, NULL, ignore_event, NULL, &subscription);

	terrace_unsubscribe(subscription);
	return rc;
}

static int call_touch(struct subject *s)
{
	return terrace_touch(s->cache, k(), 1000);
}

static int call_verify(struct subject *s)
{
	return terrace_verify(s->store, true, NULL, NULL, NULL);
}

static int call_scrub(struct subject *s)
{
	terrace_scrub_options options = TERRACE_SCRUB_INIT;

	options.repair = true;
	return terrace_scrub(s->store, &options, NULL, NULL, NULL, NULL);
}

static int give_one_byte(void *ctx, void *buffer, size_t size, size_t *ret)
{
	bool *given = ctx;

	*ret = !*given && size > 0;
	memset(buffer, 'w', *ret);
	*given = true;
	return 0;
}

static int call_put_from(struct subject *s)
{
	bool given = false;

	return terrace_put_from(s->cache, k(), give_one_byte, &given, NULL);
}

static int with_null(struct subject *s, int (*run)(struct subject *s, int fd))
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC), rc = run(s, fd);

	close(fd);
	return rc;
}

static int put_null(struct subject *s, int fd)
{
	return terrace_put_fd(s->cache, k(), fd, NULL);
}

static int call_put_fd(struct subject *s)
{
	return with_null(s, put_null);
}

static int get_null(struct subject *s, int fd)
{
	return terrace_get_fd(s->cache, k(), 0, UINT64_MAX, fd, NULL);
}

static int call_get_fd(struct subject *s)
{
	return with_null(s, get_null);
}

static int ignore_bytes(void *ctx, terrace_slice bytes)
{
	(void)ctx;
	(void)bytes;
	return 0;
}

static int call_get_to(struct subject *s)
{
	return terrace_get_to(s->cache, k(), 0, UINT64_MAX, ignore_bytes, NULL, NULL);
}

static int call_fetch_to(struct subject *s)
{
	return terrace_fetch_to(s->cache, TERRACE_KEY("fetched"), load, NULL, ignore_bytes, NULL);
}

static int call_reader_open(struct subject *s)
{
	terrace_reader *reader;
	int rc = terrace_reader_open(s->cache, k(), &reader);

	if (rc == TERRACE_OK)
		terrace_reader_close(reader);
	return rc;
}

static int call_writer_open(struct subject *s)
{
	terrace_writer *writer;
	int rc = terrace_writer_open(s->cache, k(), NULL, &writer);

	if (rc == TERRACE_OK)
		terrace_writer_drop(writer);
	return rc;
}

/* What a call comes to where the store may only be read, and where it was removed. */
struct call {
	const char *name;
	int (*run)(struct subject *s);
	int read_only, removed;
};

/* Any outcome that is no failure. */
enum { FINE = 1000, ANY = 1001 };

static const struct call calls[] = {
#define CALL(name, read_only, removed)                            \
	{                                                         \
		"terrace_" #name, call_##name, read_only, removed \
	}
	CALL(add, TERRACE_EACCESS, TERRACE_EIO),
	CALL(begin, TERRACE_EACCESS, TERRACE_EIO),
	CALL(cache_codec, FINE, FINE),
	CALL(cache_open, TERRACE_EACCESS, TERRACE_EIO),
	CALL(cache_resize, FINE, FINE),
	CALL(cache_stats, FINE, FINE),
	CALL(cache_usage, FINE, ANY),
	CALL(caches_each, FINE, FINE),
	CALL(check_sources, FINE, FINE),
	CALL(cleanup, TERRACE_EACCESS, TERRACE_EIO),
	CALL(clear, TERRACE_EACCESS, TERRACE_EIO),
	CALL(commit, TERRACE_EINVAL, TERRACE_EINVAL),
	CALL(delete, TERRACE_EACCESS, TERRACE_EIO),
	CALL(delete_many, TERRACE_EACCESS, TERRACE_EIO),
	CALL(evict, FINE, FINE),
	CALL(exists, TERRACE_OK, TERRACE_MISS),
	CALL(explain, TERRACE_OK, TERRACE_MISS),
	CALL(fetch, TERRACE_OK, TERRACE_OK),
	CALL(fetch_encoded, TERRACE_OK, TERRACE_OK),
	CALL(fetch_many, TERRACE_OK, TERRACE_OK),
	CALL(fetch_to, TERRACE_OK, TERRACE_OK),
	CALL(fetch_with, TERRACE_OK, TERRACE_OK),
	CALL(file_digest, TERRACE_OK, TERRACE_OK),
	CALL(flush, TERRACE_OK, TERRACE_OK),
	CALL(get, TERRACE_OK, TERRACE_MISS),
	CALL(get_encoded, TERRACE_OK, TERRACE_MISS),
	CALL(get_fd, TERRACE_OK, TERRACE_MISS),
	CALL(get_many, TERRACE_OK, TERRACE_OK),
	CALL(get_or, TERRACE_OK, TERRACE_OK),
	CALL(get_to, TERRACE_OK, TERRACE_MISS),
	CALL(incr, TERRACE_EACCESS, TERRACE_EIO),
	CALL(inspect, TERRACE_OK, TERRACE_MISS),
	CALL(inspect_value, TERRACE_OK, TERRACE_OK),
	CALL(invalidate, TERRACE_EACCESS, TERRACE_EIO),
	CALL(job_progress, TERRACE_OK, TERRACE_OK),
	CALL(job_wait, TERRACE_OK, TERRACE_OK),
	CALL(jobs_submit, TERRACE_OK, TERRACE_OK),
	CALL(keys_next, FINE, FINE),
	CALL(keys_open, TERRACE_OK, TERRACE_MISS),
	CALL(keys_open_newest, TERRACE_OK, TERRACE_MISS),
	CALL(lease_absent, FINE, FINE),
	CALL(lease_begin, TERRACE_MISS, TERRACE_MISS),
	CALL(lease_put, TERRACE_OK, TERRACE_OK),
	CALL(memory_usage, TERRACE_OK, TERRACE_OK),
	CALL(processes_each, FINE, FINE),
	CALL(put, TERRACE_EACCESS, TERRACE_EIO),
	CALL(put_fd, TERRACE_EACCESS, TERRACE_EIO),
	CALL(put_from, TERRACE_EACCESS, TERRACE_EIO),
	CALL(put_many, TERRACE_EACCESS, TERRACE_EIO),
	CALL(reader_open, TERRACE_OK, TERRACE_MISS),
	CALL(resize, TERRACE_OK, TERRACE_OK),
	CALL(scrub, TERRACE_EACCESS, ANY),
	CALL(subscribe, TERRACE_OK, TERRACE_OK),
	CALL(touch, TERRACE_EACCESS, TERRACE_EIO),
	CALL(verify, TERRACE_EACCESS, ANY),
	CALL(writer_open, TERRACE_EACCESS, FINE),
#undef CALL
};
enum { CALLS = sizeof calls / sizeof *calls };

static bool is_listed(const char *name, size_t size)
{
	for (int i = 0; i < CALLS; i++) {
		if (strlen(calls[i].name) == size && memcmp(calls[i].name, name, size) == 0)
			return true;
	}
	return false;
}

/* Functions that give a status and take something that belongs to a store. */
static void test_calls__the_table_has_all_that_the_headers_have(void **state)
{
	static const char *const first[] = {
		"terrace *",       "terrace_cache *", "terrace_keys *",
		"terrace_lease *", "terrace_jobs *",  "terrace_job *"
	};
	FILE *headers = popen("cat " INCLUDE_DIR "/terrace/*.h", "r");
	char line[500];
	int found = 0;

	(void)state;
	assert_non_null(headers);
	while (fgets(line, sizeof line, headers)) {
		char *name = strstr(line, "TERRACE_API int "), *open;
		size_t size;

		if (!name)
			continue;
		name += strlen("TERRACE_API int ");
		open = strchr(name, '(');
		assert_non_null(open);
		size = (size_t)(open - name);
		for (size_t i = 0; i < sizeof first / sizeof *first; i++) {
			if (strncmp(open + 1, first[i], strlen(first[i])) != 0)
				continue;
			found++;
			if (!is_listed(name, size))
				fail_msg("%.*s is not in the table of calls: add it", (int)size,
				         name);
		}
	}
	pclose(headers);
	assert_int_equal(found, CALLS);
}

/* --- a store with something in it ------------------------------------------------------------------ */

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	fixture_open(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fixture_close(f);
	free(f);
	return 0;
}

static const char *dir_of(const struct fixture *f)
{
	return scratch_path(&f->scratch, "store");
}

/* Small values as rows, others as files; `l1`: and in memory. */
static terrace_cache *cache_of(terrace *store, bool l1)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	policy.tiers = TERRACE_L2 | TERRACE_L3 | (l1 ? (unsigned)TERRACE_L1 : 0);
	policy.inline_bytes = 100;
	assert_ok(terrace_cache_open(store, "a", &policy, &cache));
	return cache;
}

static char long_text[1000];

static void fill(terrace_cache *cache)
{
	memset(long_text, 'x', sizeof long_text - 1);
	assert_ok(put_text(cache, "k", "v"));
	assert_ok(put_text(cache, "file", long_text));
}

static void subject_open(struct subject *s, terrace *store, terrace_cache *cache)
{
	terrace_jobs_options options = TERRACE_JOBS_INIT;
	terrace_job_spec spec = TERRACE_JOB_INIT;

	*s = (struct subject){ .store = store, .cache = cache };
	options.workers = options.bulk_workers = 1;
	assert_ok(terrace_jobs_open(&options, &s->jobs));
	spec.items = 1;
	spec.run = do_nothing;
	assert_ok(terrace_jobs_submit(s->jobs, &spec, &s->job));
	assert_ok(terrace_job_wait(s->job, -1));
	assert_ok(terrace_get(cache, k(), &s->value));
	assert_ok(terrace_keys_open(cache, NULL, &s->keys));
}

static void subject_close(struct subject *s)
{
	terrace_release(s->value);
	terrace_keys_close(s->keys);
	terrace_job_release(s->job);
	terrace_jobs_close(s->jobs);
}

/* --- fork --------------------------------------------------------------------------------------------- */

/* How many calls did not say so. */
static int run_inherited(struct subject *s)
{
	int bad = 0;

	for (int i = 0; i < CALLS; i++) {
		int rc = calls[i].run(s);

		if (rc != TERRACE_EFORK || !strstr(terrace_error_message(), "fork()")) {
			print_error("%s: %s: %s\n", calls[i].name, terrace_status_name(rc),
			            terrace_error_message());
			bad++;
		}
	}
	/* These give no status: they do nothing, and harm nobody. */
	terrace_rollback(s->store);
	terrace_lease_drop(s->lease);
	terrace_config_each(s->store, NULL, NULL);
	terrace_job_cancel(s->job);
	terrace_registry_reset();
	bad += terrace_registry_each(NULL, NULL) != 0;
	subject_close(s);
	terrace_cache_close(s->cache);
	terrace_close(s->store);
	return bad;
}

static int run_own(const struct fixture *f)
{
	terrace_cache *cache;
	terrace *own;
	int bad = terrace_open(dir_of(f), &f->options, &own) != TERRACE_OK;

	if (bad)
		return bad;
	cache = cache_of(own, true);
	assert_gives(cache, "k", "v");
	bad |= put_text(cache, "k", "from the child") != TERRACE_OK;
	terrace_cache_close(cache);
	terrace_close(own);
	return bad;
}

static void test_fork__every_call_on_the_inherited_store_says_so(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = cache_of(f->store, true);
	terrace_value *value;
	struct subject s;
	pid_t child;
	int status;

	fill(cache);
	subject_open(&s, f->store, cache);
	assert_status(terrace_lease_begin(cache, TERRACE_KEY("leased"), 0, &s.lease, &value),
	              TERRACE_MISS);
	child = fork();
	if (child == 0) {
		alarm(60);
		_exit(run_inherited(&s) || run_own(f));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	/* The parent's lease, listing, jobs and value are what they were. */
	assert_ok(terrace_lease_put(s.lease, terrace_str("leased here"), NULL, NULL));
	s.lease = NULL;
	assert_gives(cache, "leased", "leased here");
	assert_gives(cache, "k", "from the child");
	assert_ok(put_text(cache, "k", "v"));
	assert_memory_equal(terrace_data(s.value), "v", 1);
	for (int i = 0; i < CALLS; i++) {
		int rc = calls[i].run(&s);

		if (rc < 0 && calls[i].run != call_commit)
			fail_msg("%s in the parent: %s: %s", calls[i].name, terrace_status_name(rc),
			         terrace_error_message());
	}
	subject_close(&s);
	terrace_cache_close(cache);
}

/* --- a store that may only be read -------------------------------------------------------------------- */

/* Printed, and counted: a child cannot fail the test by itself. */
static int check_outcome(const struct call *call, int rc, int expected)
{
	bool right = expected == ANY || (expected == FINE ? rc >= 0 : rc == expected);

	if (right && (rc >= 0 || strlen(terrace_error_message()) > 10))
		return 0;
	print_error("%s: %s: %s\n", call->name, terrace_status_name(rc), terrace_error_message());
	return 1;
}

static bool has_value(terrace_cache *cache, const char *key, const char *text)
{
	terrace_value *value;
	bool has = terrace_get(cache, terrace_str(key), &value) == TERRACE_OK;

	if (!has)
		return false;
	has = terrace_size(value) == strlen(text) &&
	      memcmp(terrace_data(value), text, strlen(text)) == 0;
	terrace_release(value);
	return has;
}

static int read_only_calls(const struct fixture *f)
{
	terrace_cache *cache;
	struct subject s;
	terrace *store;
	int bad = 0;

	for (int l1 = 0; l1 < 2; l1++) {
		if (terrace_open(dir_of(f), &f->options, &store) != TERRACE_OK) {
			print_error("open: %s\n", terrace_error_message());
			return 1;
		}
		cache = cache_of(store, l1);
		subject_open(&s, store, cache);
		for (int i = 0; i < CALLS; i++)
			bad += check_outcome(&calls[i], calls[i].run(&s), calls[i].read_only);
		/* and all is there still */
		bad += !has_value(cache, "k", "v") || !has_value(cache, "file", long_text);
		subject_close(&s);
		terrace_cache_close(cache);
		terrace_close(store);
	}
	return bad;
}

/* As another user than root, who may write anywhere; -1 where that cannot be. */
static int as_owner(int (*run)(const struct fixture *f), const struct fixture *f, uid_t owner)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		alarm(60);
		if (owner && (setgroups(0, NULL) || setgid(owner) || setuid(owner)))
			_exit(99);
		_exit(run(f) ? 1 : 0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

/* The store's files now belong to this user; `mode` is of their write bits. */
static void give_away(const struct fixture *f, uid_t owner, const char *mode)
{
	char command[700];

	snprintf(command, sizeof command, "chown -R %u '%s' && chmod a+x '%s' && %s", owner,
	         dir_of(f), f->scratch.path, mode);
	if (chdir(dir_of(f)) != 0 || system(command) != 0)
		fail_msg("%s", command);
	assert_int_equal(chdir("/"), 0);
}

static int load_large(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	static const char block[1 << 20];

	(void)ctx;
	(void)key;
	return terrace_loaded_write(loaded, terrace_bytes(block, sizeof block));
}

static int count_bytes(void *ctx, terrace_slice bytes)
{
	*(size_t *)ctx += bytes.size;
	return 0;
}

static int give_blocks(void *ctx, void *buffer, size_t size, size_t *ret)
{
	int *left = ctx;

	*ret = --*left > 0 ? size : 0;
	memset(buffer, 'x', size);
	return 0;
}

/* What is too large for a row has no file to go to, either. */
static int read_only_streams(const struct fixture *f)
{
	terrace_stats stats = TERRACE_STATS_INIT;
	terrace_cache *cache;
	terrace *store;
	size_t got = 0;
	int bad = 0, left = 9;

	if (terrace_open(dir_of(f), &f->options, &store) != TERRACE_OK)
		return 1;
	cache = cache_of(store, true);
	bad += terrace_fetch_to(cache, TERRACE_KEY("large"), load_large, NULL, count_bytes, &got) !=
	       TERRACE_OK;
	bad += got != 1 << 20;
	bad += terrace_cache_stats(cache, &stats) != TERRACE_OK || stats.errors != 0;
	bad += terrace_put_from(cache, TERRACE_KEY("large"), give_blocks, &left, NULL) !=
	       TERRACE_EACCESS;
	bad += misses(cache, "large") != TERRACE_MISS;
	terrace_cache_close(cache);
	terrace_close(store);
	return bad;
}

static void test_read_only__directories_and_files_without_write_access(void **state)
{
	static const char *const modes[] = {
		"chmod -R a-w .",                   /* all of it */
		"find . -type d | xargs chmod a-w", /* the directories */
		"find . -type f | xargs chmod a-w", /* the files */
	};
	struct fixture *f = *state;
	const uid_t owner = 12345;

	if (geteuid() != 0) {
		print_message("skipped: only root can become another user\n");
		skip();
	}
	for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
		terrace_cache *cache = cache_of(f->store, true);

		fill(cache);
		terrace_cache_close(cache);
		terrace_close(f->store);
		give_away(f, owner, modes[i]);
		if (as_owner(read_only_calls, f, owner) != 0)
			fail_msg("\"%s\"", modes[i]);
		if (as_owner(read_only_streams, f, owner) != 0)
			fail_msg("streams, \"%s\"", modes[i]);
		give_away(f, 0, "chmod -R u+w .");
		assert_ok(terrace_open(dir_of(f), &f->options, &f->store));
	}
}

/* It is all misses, and what is mapped for reading is not written to. */
static int read_damaged(const struct fixture *f)
{
	terrace_cache *cache;
	terrace *store;
	int bad = 0;

	if (terrace_open(dir_of(f), &f->options, &store) != TERRACE_OK) {
		print_error("open: %s\n", terrace_error_message());
		return 1;
	}
	cache = cache_of(store, true);
	for (int i = 0; i < 2; i++)
		bad += misses(cache, "k") != TERRACE_MISS;
	bad += terrace_verify(store, false, NULL, NULL, NULL) != TERRACE_OK;
	terrace_cache_close(cache);
	terrace_close(store);
	return bad;
}

/* It may be too broken to be opened, or to give anything. */
static int read_broken(const struct fixture *f)
{
	terrace_cache *cache;
	terrace *store;

	if (terrace_open(dir_of(f), &f->options, &store) != TERRACE_OK)
		return 0;
	if (terrace_cache_open(store, "a", NULL, &cache) == TERRACE_OK) {
		misses(cache, "k");
		misses(cache, "file");
		terrace_cache_close(cache);
	}
	terrace_verify(store, false, NULL, NULL, NULL);
	terrace_close(store);
	return 0;
}

static void test_read_only__damage_is_left_to_who_may_write(void **state)
{
	struct fixture *f = *state;
	const uid_t owner = 12345;

	if (geteuid() != 0) {
		print_message("skipped: only root can become another user\n");
		skip();
	}
	for (int i = 0; i < 4; i++) {
		terrace_cache *cache = cache_of(f->store, true);
		const char *shared = (const char *)f->store->shared;
		const struct {
			const char *file;
			off_t at;
			int (*run)(const struct fixture *f);
		} damages[] = {
			{ "shared", /* the key's version */
			  (off_t)offsetof(struct shared, versions) +
			      8 * (off_t)cache_key(cache, k()).slot,
			  read_damaged },
			{ "shared", (const char *)&cache->shared->floor - shared, read_damaged },
			{ "shared", 8, read_only_calls }, /* its head: the rows are good */
			{ "db-1", 4096, read_broken },
		};
		char path[600];
		int fd;

		fill(cache);
		terrace_cache_close(cache);
		terrace_close(f->store);
		snprintf(path, sizeof path, "%s/v2/%s", dir_of(f), damages[i].file);
		fd = open(path, O_WRONLY);
		assert_true(fd >= 0);
		assert_int_equal(pwrite(fd, "no word!", 8, damages[i].at), 8);
		close(fd);
		give_away(f, owner, "chmod -R a-w .");
		if (as_owner(damages[i].run, f, owner) != 0)
			fail_msg("damage %d", i);
		give_away(f, 0, "chmod -R u+w .");
		assert_ok(terrace_open(dir_of(f), &f->options, &f->store));
		cache = cache_of(f->store, true);
		assert_ok(put_text(cache, "k", "anew"));
		assert_gives(cache, "k", "anew");
		terrace_cache_close(cache);
	}
}

/* In a container, say, while another process beyond it writes. */
static void test_read_only__a_mount_is_read_while_others_write(void **state)
{
	struct fixture *f = *state;
	struct fixture here = *f;
	char seen[300], line[64] = "";
	terrace_cache *cache = cache_of(f->store, true), *other;
	const char *dir = dir_of(f);
	int orders[2], answers[2], status;
	pid_t child;

	fill(cache);
	snprintf(seen, sizeof seen, "%s/seen", f->scratch.path);
	assert_int_equal(mkdir(seen, 0700), 0);
	if (mount(dir, seen, NULL, MS_BIND, NULL) != 0) {
		print_message("skipped: a directory cannot be mounted here: %s\n", strerror(errno));
		terrace_cache_close(cache);
		skip();
	}
	assert_int_equal(mount(NULL, seen, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), 0);
	assert_int_equal(pipe(orders), 0);
	assert_int_equal(pipe(answers), 0);
	child = fork();
	if (child == 0) {
		terrace *store;
		char order;

		alarm(60);
		close(orders[1]);
		if (terrace_open(seen, &here.options, &store) != TERRACE_OK)
			_exit(2);
		other = cache_of(store, true);
		while (read(orders[0], &order, 1) == 1) {
			terrace_value *value;
			char out[64] = "(miss)";

			/* the second time, the copy in memory is asked */
			for (int i = 0; i < 2; i++) {
				if (terrace_get(other, k(), &value) != TERRACE_OK)
					continue;
				snprintf(out, sizeof out, "%.*s from %s", (int)terrace_size(value),
				         (const char *)terrace_data(value),
				         terrace_tier_name(terrace_value_tier(value)));
				terrace_release(value);
			}
			if (put_text(other, "k", "no") != TERRACE_EACCESS ||
			    write(answers[1], out, sizeof out) != sizeof out)
				_exit(3);
		}
		terrace_cache_close(other);
		terrace_close(store);
		_exit(0);
	}
#define assert_seen(text)                                                           \
	do {                                                                        \
		assert_int_equal(write(orders[1], "g", 1), 1);                      \
		assert_int_equal(read(answers[0], line, sizeof line), sizeof line); \
		assert_string_equal(line, text);                                    \
	} while (0)
	assert_seen("v from l1");
	assert_ok(put_text(cache, "k", "w"));
	assert_seen("w from l1");
	assert_ok(terrace_delete(cache, k()));
	assert_seen("(miss)");
	assert_ok(put_text(cache, "k", "x"));
	assert_seen("x from l1");
	assert_ok(terrace_clear(cache, 0, NULL));
	assert_seen("(miss)");
	close(orders[1]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(umount2(seen, MNT_DETACH), 0);
	assert_ok(put_text(cache, "k", "unharmed"));
	assert_gives(cache, "k", "unharmed");
	terrace_cache_close(cache);
}

/* Between who reads and who says that there is something new. */
static int told[2], asked[2];

/* As after a boot, and nobody has written since. */
static int read_snapshot(const struct fixture *f)
{
	terrace_cache *cache;
	terrace *store;
	char byte = 0;
	int bad = 0;

	if (terrace_open(dir_of(f), &f->options, &store) != TERRACE_OK) {
		print_error("open: %s\n", terrace_error_message());
		return 1;
	}
	cache = cache_of(store, true);
	for (int i = 0; i < 2; i++) {
		terrace_value *value;

		/* never from L1, which could not be told of a write */
		if (terrace_get(cache, k(), &value) != TERRACE_OK)
			return 1;
		bad += terrace_value_tier(value) != TERRACE_L2;
		terrace_release(value);
	}
	bad += !has_value(cache, "file", long_text);
	bad += put_text(cache, "k", "w") != TERRACE_EACCESS;
	/* Somebody writes to it after all. */
	bad += write(asked[1], &byte, 1) != 1 || read(told[0], &byte, 1) != 1;
	bad += misses(cache, "k") != TERRACE_MISS || misses(cache, "file") != TERRACE_MISS;
	terrace_cache_close(cache);
	terrace_close(store);
	return bad;
}

static int write_anew(const struct fixture *f)
{
	terrace_cache *cache;
	terrace *store;
	int rc;

	if (terrace_open(dir_of(f), &f->options, &store) != TERRACE_OK)
		return 1;
	cache = cache_of(store, true);
	rc = put_text(cache, "k", "w");
	terrace_cache_close(cache);
	terrace_close(store);
	return rc;
}

static void test_read_only__of_another_boot_it_is_read_as_it_is(void **state)
{
	struct fixture *f = *state;
	const uid_t owner = 12345;
	static const char *const boots[] = { NULL, "/nonexistent" };
	char boot[600], byte = 0;
	pid_t reader;
	int status;

	if (geteuid() != 0) {
		print_message("skipped: only root can become another user\n");
		skip();
	}
	snprintf(boot, sizeof boot, "%s", scratch_path(&f->scratch, "boot_id"));
	write_file(boot, "00000002-1111-4222-8333-444444444444\n");
	/* The writer's boot is the reader's; and it is not: as in a container without /proc. */
	for (int same = 0; same < 2; same++) {
		terrace_cache *cache = cache_of(f->store, true);

		fill(cache);
		terrace_cache_close(cache);
		terrace_close(f->store);
		give_away(f, owner, "chmod -R a-w .");
		assert_int_equal(pipe(told), 0);
		assert_int_equal(pipe(asked), 0);
		f->options.boot_id_path = boots[same] ? boots[same] : boot;
		reader = fork();
		if (reader == 0) {
			close(asked[0]);
			_exit(as_owner(read_snapshot, f, owner) ? 1 : 0);
		}
		close(asked[1]);
		assert_int_equal(read(asked[0], &byte, 1), 1);
		give_away(f, owner, "chmod -R u+w .");
		f->options.boot_id_path = same ? NULL : boot;
		assert_int_equal(as_owner(write_anew, f, owner), 0);
		assert_int_equal(write(told[1], &byte, 1), 1);
		assert_int_equal(waitpid(reader, &status, 0), reader);
		assert_int_equal(status, 0);
		give_away(f, 0, "true");
		f->options.boot_id_path = NULL;
		assert_ok(terrace_open(dir_of(f), &f->options, &f->store));
	}
}

/* --- a store that was removed ---------------------------------------------------------------------------- */

static void test_removed__every_call_goes_on(void **state)
{
	struct fixture *f = *state;
	char command[600];

	for (int contents_alone = 0; contents_alone < 2; contents_alone++) {
		terrace_cache *cache = cache_of(f->store, true), *again;
		struct subject s;
		terrace *anew;
		int bad = 0;

		fill(cache);
		assert_gives(cache, "file", long_text); /* in L1, too */
		subject_open(&s, f->store, cache);
		snprintf(command, sizeof command, "rm -r '%s'%s", dir_of(f),
		         contents_alone ? "/v2" : "");
		assert_int_equal(system(command), 0);
		assert_status(put_text(cache, "other", "w"), TERRACE_EIO);
		assert_misses(cache, "file"); /* not from L1 either */
		for (int i = 0; i < CALLS; i++)
			bad += check_outcome(&calls[i], calls[i].run(&s), calls[i].removed);
		assert_int_equal(bad, 0);
		assert_misses(cache, "k");
		/* who opens it again has a new one */
		assert_ok(terrace_open(dir_of(f), &f->options, &anew));
		assert_ptr_not_equal(anew, f->store);
		again = cache_of(anew, true);
		assert_misses(again, "k");
		assert_ok(put_text(again, "k", "anew"));
		assert_gives(again, "k", "anew");
		assert_misses(cache, "k");
		subject_close(&s);
		terrace_cache_close(again);
		terrace_close(anew);
		terrace_cache_close(cache);
		fixture_reopen(f);
	}
}

int main(void)
{
#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_calls__the_table_has_all_that_the_headers_have),
		WITH_STORE(test_fork__every_call_on_the_inherited_store_says_so),
		WITH_STORE(test_read_only__directories_and_files_without_write_access),
		WITH_STORE(test_read_only__damage_is_left_to_who_may_write),
		WITH_STORE(test_read_only__a_mount_is_read_while_others_write),
		WITH_STORE(test_read_only__of_another_boot_it_is_read_as_it_is),
		WITH_STORE(test_removed__every_call_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
