#include "support/support.h"

#include "core/store.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* --- files ------------------------------------------------------------------------------------ */

void scratch_make(struct scratch *scratch)
{
	const char *base = getenv("TMPDIR");

	snprintf(scratch->path, sizeof scratch->path, "%s/terrace-test-XXXXXX",
	         base && strlen(base) < 80 ? base : "/tmp");
	assert_non_null(mkdtemp(scratch->path));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void scratch_remove(struct scratch *scratch)
{
	nftw(scratch->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *scratch_path(const struct scratch *scratch, const char *name)
{
	static char paths[4][512];
	static unsigned next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof paths[0], "%s/%s", scratch->path, name);
	return path;
}

void write_file(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
	assert_int_equal(fclose(file), 0);
}

/* --- time --------------------------------------------------------------------------------------- */

int64_t test_clock_now(void *ctx)
{
	return atomic_load(&((struct test_clock *)ctx)->now);
}

/* --- stores --------------------------------------------------------------------------------------- */

/* The keeper of one that takes over a second would do what tests do themselves, or not at all. */
static void open_store(struct fixture *f)
{
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	atomic_store(&f->store->keeper.due_ns, UINT64_MAX);
}

void fixture_open(struct fixture *f)
{
	terrace_options options = TERRACE_OPTIONS_INIT;

	/* No setting of whoever runs the tests may change them. */
	setenv("XDG_CONFIG_HOME", "/nonexistent", 1);
	unsetenv("TERRACE_DIR");
	unsetenv("TERRACE_CONFIG");
	scratch_make(&f->scratch);
	atomic_store(&f->clock.now, INT64_C(1700000000000));
	options.clock = test_clock_now;
	options.clock_ctx = &f->clock;
	/* Nor may the machine's. */
	options.pressure_path = options.cgroup_path = "";
	f->options = options;
	open_store(f);
}

void fixture_reopen(struct fixture *f)
{
	terrace_close(f->store);
	open_store(f);
}

void fixture_close(struct fixture *f)
{
	terrace_close(f->store);
	scratch_remove(&f->scratch);
}

int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	assert_non_null(f);
	fixture_open(f);
	*state = f;
	return 0;
}

int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	fixture_close(f);
	free(f);
	return 0;
}

void fixture_boot(struct fixture *f, int number)
{
	static char path[512];
	char text[64];

	snprintf(path, sizeof path, "%s", scratch_path(&f->scratch, "boot_id"));
	snprintf(text, sizeof text, "%08x-1111-4222-8333-444444444444\n", (unsigned)number);
	write_file(path, text);
	f->options.boot_id_path = path;
}

terrace_cache *fixture_cache(struct fixture *f, const char *name, const terrace_policy *policy)
{
	terrace_cache *cache;

	assert_ok(terrace_cache_open(f->store, name, policy, &cache));
	return cache;
}

terrace_cache *fixture_rows(struct fixture *f, const char *name, const terrace_policy *policy)
{
	/* As if a lane had been looked for, and none found. */
	atomic_store(&f->store->behind.started, true);
	return fixture_cache(f, name, policy);
}

/* --- files of L3 ------------------------------------------------------------------------------------- */

void fixture_file(const struct fixture *f, char ret[600])
{
	char command[700];
	FILE *list;

	snprintf(command, sizeof command, "find %s/v2/files -type f",
	         scratch_path(&f->scratch, "store"));
	list = popen(command, "r");
	ret[0] = '\0';
	if (fgets(ret, 600, list))
		ret[strcspn(ret, "\n")] = '\0';
	pclose(list);
}

void flip_bit(const char *path, off_t at, int bit)
{
	unsigned char byte;
	int fd = open(path, O_RDWR);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= (unsigned char)(1 << bit);
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

/* --- chance ------------------------------------------------------------------------------------------ */

/* splitmix64 (Steele, Lea, Flood, OOPSLA 2014) */
uint64_t rng_next(struct rng *rng)
{
	uint64_t z = rng->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint64_t rng_below(struct rng *rng, uint64_t limit)
{
	return rng_next(rng) % limit;
}

uint64_t test_seed(void)
{
	const char *given = getenv("TEST_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) :
	                        (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();

	print_message("TEST_SEED=%llu\n", (unsigned long long)seed);
	return seed;
}

/* --- assertions ------------------------------------------------------------------------------------- */

void assert_status_at(int status, int expected, const char *what, const char *file, int line)
{
	if (status == expected)
		return;
	print_error("%s: %s, not %s: %s\n", what, terrace_status_name(status),
	            terrace_status_name(expected), terrace_error_message());
	_fail(file, line);
}

void assert_gives_at(terrace_cache *cache, const char *key, const char *text, const char *file,
                     int line)
{
	terrace_value *value;
	int rc = terrace_get(cache, terrace_str(key), &value);

	assert_status_at(rc, TERRACE_OK, key, file, line);
	if (terrace_size(value) != strlen(text) ||
	    memcmp(terrace_data(value), text, strlen(text)) != 0) {
		print_error("%s gives \"%.*s\", not \"%s\"\n", key, (int)terrace_size(value),
		            (const char *)terrace_data(value), text);
		_fail(file, line);
	}
	terrace_release(value);
}

int misses(terrace_cache *cache, const char *key)
{
	terrace_value *value;
	int rc = terrace_get(cache, terrace_str(key), &value);

	if (rc == TERRACE_OK)
		terrace_release(value);
	return rc;
}

int put_text(terrace_cache *cache, const char *key, const char *text)
{
	return terrace_put(cache, terrace_str(key), terrace_str(text), NULL);
}

int load_each(terrace_load_fn *load, void *ctx, const terrace_slice *keys, size_t count,
              terrace_loaded *const *loaded)
{
	int rc = 0;

	for (size_t i = 0; i < count && rc == 0; i++)
		rc = load(ctx, keys[i], loaded[i]);
	return rc;
}

void put_sourced(terrace_cache *cache, const char *key,
                 int (*add)(terrace_sources *sources, const char *what), const char *what)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_sources *sources;

	assert_ok(terrace_sources_new(&sources));
	assert_ok(add(sources, what));
	options.sources = sources;
	assert_ok(terrace_put(cache, terrace_str(key), terrace_str("v"), &options));
	terrace_sources_free(sources);
}

int fixture_files(const struct fixture *f)
{
	char command[700];
	int count = 0;
	FILE *list;

	snprintf(command, sizeof command, "find %s/v2/files -type f | wc -l",
	         scratch_path(&f->scratch, "store"));
	list = popen(command, "r");
	assert_int_equal(fscanf(list, "%d", &count), 1);
	pclose(list);
	return count;
}
