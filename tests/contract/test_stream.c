/* Values written and read piece by piece: their bytes, their memory, damage, limits. */
#include "support/support.h"

#include "core/store.h"
#include "util/message.h"

#include "tiers/record.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* --- values whose every byte is known ------------------------------------------- */

/* Words that compress, and that tell where in the value they lie and of which value. */
static void fill(uint8_t *out, uint64_t offset, size_t size, uint64_t salt)
{
	for (size_t i = 0; i < size; i++) {
		uint64_t at = offset + i, word = (at / 8 + salt) * UINT64_C(0x9e3779b97f4a7c15);

		out[i] = at % 8 < 3 ? (uint8_t)(word >> 56 >> at % 8) : (uint8_t)(salt + at % 8);
	}
}

static void assert_bytes(const uint8_t *bytes, uint64_t offset, size_t size, uint64_t salt)
{
	uint8_t expected[4096];

	for (size_t at = 0; at < size; at += sizeof expected) {
		size_t part = size - at < sizeof expected ? size - at : sizeof expected;

		fill(expected, offset + at, part, salt);
		assert_memory_equal(bytes + at, expected, part);
	}
}

/* In pieces of about `piece` bytes. */
static int write_value(terrace_cache *cache, const char *key, uint64_t size, size_t piece,
                       uint64_t salt, const terrace_put_options *options)
{
	uint8_t *bytes = malloc(piece);
	terrace_writer *writer;
	int rc = terrace_writer_open(cache, terrace_str(key), options, &writer);

	assert_int_equal(rc, TERRACE_OK);
	for (uint64_t at = 0; at < size && rc == TERRACE_OK;) {
		size_t part = size - at < piece ? (size_t)(size - at) : piece;

		fill(bytes, at, part, salt);
		rc = terrace_writer_write(writer, terrace_bytes(bytes, part));
		at += part;
	}
	free(bytes);
	return terrace_writer_commit(writer);
}

static void assert_reads(terrace_cache *cache, const char *key, uint64_t size, size_t piece,
                         uint64_t salt)
{
	uint8_t *bytes = malloc(piece + 1);
	terrace_reader *reader;
	size_t got;

	assert_ok(terrace_reader_open(cache, terrace_str(key), &reader));
	assert_int_equal(terrace_reader_size(reader), size);
	for (uint64_t at = 0; at < size; at += got) {
		assert_ok(terrace_reader_read(reader, at, bytes, piece, &got));
		assert_int_equal(got, size - at < piece ? size - at : piece);
		assert_bytes(bytes, at, got, salt);
	}
	assert_ok(terrace_reader_read(reader, size, bytes, piece, &got));
	assert_int_equal(got, 0);
	assert_ok(terrace_reader_read(reader, UINT64_MAX, bytes, piece, &got));
	assert_int_equal(got, 0);
	terrace_reader_close(reader);
	free(bytes);
}

static const uint64_t sizes[] = {
	0,
	1,
	1000,
	BLOCK_BYTES - 1,
	BLOCK_BYTES,
	BLOCK_BYTES + 1,
	2 * BLOCK_BYTES,
	3 * BLOCK_BYTES + 12345,
};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void test_stream__any_size_comes_back_however_it_was_written(void **state)
{
	static const struct {
		unsigned tiers;
		terrace_codec codec;
		terrace_write write;
	} kinds[] = {
		{ 0, TERRACE_CODEC_DEFAULT, TERRACE_WRITE_THROUGH },
		{ 0, TERRACE_CODEC_DEFAULT, TERRACE_WRITE_BEHIND },
		{ TERRACE_L1, TERRACE_CODEC_DEFAULT, TERRACE_WRITE_THROUGH },
		{ TERRACE_L2, TERRACE_CODEC_NONE, TERRACE_WRITE_THROUGH },
		{ TERRACE_L3, TERRACE_CODEC_NONE, TERRACE_WRITE_THROUGH },
		{ TERRACE_L3, TERRACE_CODEC_ZSTD, TERRACE_WRITE_BEHIND },
		{ TERRACE_L3, TERRACE_CODEC_AUTO, TERRACE_WRITE_THROUGH },
	};
	static const size_t pieces[] = { 1 << 20, BLOCK_BYTES, 100001 };
	struct fixture *f = *state;

	for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		terrace_cache *cache;
		char name[16];

		policy.tiers = kinds[k].tiers;
		policy.codec = kinds[k].codec;
		policy.write = kinds[k].write;
		snprintf(name, sizeof name, "kind%zu", k);
		cache = fixture_cache(f, name, &policy);
		for (size_t i = 0; i < SIZES * 3; i++) {
			uint64_t size = sizes[i / 3];
			terrace_value *value;

			assert_ok(write_value(cache, "k", size, pieces[i % 3], i, NULL));
			assert_reads(cache, "k", size, pieces[(i + 1) % 3], i);
			assert_ok(terrace_get(cache, TERRACE_KEY("k"), &value));
			assert_int_equal(terrace_size(value), size);
			assert_bytes(terrace_data(value), 0, size, i);
			/* The other way round: put whole, read in pieces. */
			assert_ok(
			    terrace_put(cache, TERRACE_KEY("p"), terrace_slice_of(value), NULL));
			terrace_release(value);
			assert_ok(terrace_flush(f->store));
			if (kinds[k].tiers != TERRACE_L1)
				assert_ok(terrace_clear(cache, TERRACE_L1, NULL));
			assert_reads(cache, "p", size, pieces[(i + 2) % 3], i);
		}
		terrace_cache_close(cache);
	}
}

/* More than a group of blocks, and so two tables. */
static void test_stream__ranges_of_a_value_of_many_blocks(void **state)
{
	const uint64_t size = UINT64_C(1026) * BLOCK_BYTES + 77;
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct rng rng = { test_seed() };
	uint8_t *bytes = malloc(600000);
	terrace_reader *reader;
	size_t got;

	assert_ok(write_value(cache, "k", size, 1 << 20, 3, NULL));
	assert_ok(terrace_reader_open(cache, TERRACE_KEY("k"), &reader));
	assert_int_equal(terrace_reader_tier(reader), TERRACE_L3);
	for (int i = 0; i < 300; i++) {
		/* half of them around the end of the first group */
		uint64_t offset = i % 2 ? rng_below(&rng, size) :
		                          UINT64_C(1023) * BLOCK_BYTES +
		                              rng_below(&rng, 3 * BLOCK_BYTES);
		size_t length = (size_t)rng_below(&rng, 600000);
		uint64_t left = size - offset;

		assert_ok(terrace_reader_read(reader, offset, bytes, length, &got));
		assert_int_equal(got, left < length ? left : length);
		assert_bytes(bytes, offset, got, 3);
	}
	terrace_reader_close(reader);
	free(bytes);
	terrace_cache_close(cache);
}

/* --- damage ------------------------------------------------------------------------ */

static terrace_cache *plain_cache(struct fixture *f)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.codec = TERRACE_CODEC_NONE;
	return fixture_cache(f, "a", &policy);
}

static uint64_t damaged(terrace_cache *cache)
{
	terrace_stats stats = TERRACE_STATS_INIT;

	assert_ok(terrace_cache_stats(cache, &stats));
	return stats.damaged;
}

static void assert_removed_as_damaged(terrace_cache *cache, uint64_t before)
{
	terrace_why why = TERRACE_WHY_INIT;
	terrace_reader *reader;

	assert_int_equal(damaged(cache), before + 1);
	assert_status(terrace_reader_open(cache, TERRACE_KEY("k"), &reader), TERRACE_MISS);
	assert_misses(cache, "k");
	assert_status(terrace_explain(cache, TERRACE_KEY("k"), &why), TERRACE_MISS);
	assert_int_equal(why.reason, TERRACE_REASON_DAMAGED);
	assert_int_equal(damaged(cache), before + 1);
}

static void test_damage__in_a_block_is_an_error_there_and_a_miss_to_the_next(void **state)
{
	const uint64_t size = 4 * BLOCK_BYTES + 10;
	struct fixture *f = *state;
	terrace_cache *cache = plain_cache(f);
	uint8_t *bytes = malloc(size);
	char path[600];

	for (uint64_t block = 0; block < 5; block++) {
		terrace_reader *reader;
		size_t got = 99;

		assert_ok(write_value(cache, "k", size, 1 << 20, 1, NULL));
		fixture_file(f, path);
		flip_bit(path, (off_t)(block * BLOCK_BYTES + 5), (int)block);
		assert_ok(terrace_reader_open(cache, TERRACE_KEY("k"), &reader));
		/* A range that does not touch it is good; and one that does gives nothing. */
		assert_ok(
		    terrace_reader_read(reader, (block + 1) % 5 * BLOCK_BYTES, bytes, 10, &got));
		assert_bytes(bytes, (block + 1) % 5 * BLOCK_BYTES, 10, 1);
		got = 99;
		assert_status(terrace_reader_read(reader, 0, bytes, size, &got), TERRACE_ECORRUPT);
		assert_int_equal(got, 99);
		assert_non_null(strstr(terrace_error_message(), "damaged"));
		assert_status(terrace_reader_read(reader, block * BLOCK_BYTES + 9, bytes, 1, &got),
		              TERRACE_ECORRUPT);
		terrace_reader_close(reader);
		assert_removed_as_damaged(cache, block);
	}
	free(bytes);
	terrace_cache_close(cache);
}

struct got {
	uint64_t size;
};

static int count_good(void *ctx, terrace_slice bytes)
{
	struct got *got = ctx;

	assert_bytes(bytes.data, got->size, bytes.size, 1);
	got->size += bytes.size;
	return 0;
}

/* Every region of the file: blocks, table, root, head, and its length. */
static void test_damage__anywhere_never_gives_a_wrong_byte(void **state)
{
	const uint64_t size = 2 * BLOCK_BYTES + 10;
	struct fixture *f = *state;
	terrace_cache *cache = plain_cache(f);
	struct rng rng = { test_seed() };
	struct stat st;
	char path[600];

	for (uint64_t i = 0; i < 300; i++) {
		struct got got = { 0 };
		uint64_t given = 0;
		int rc;

		assert_ok(write_value(cache, "k", size, 1 << 20, 1, NULL));
		fixture_file(f, path);
		assert_int_equal(stat(path, &st), 0);
		if (i % 100 == 99)
			assert_int_equal(truncate(path, st.st_size - 1 - (off_t)i), 0);
		else if (i % 2) /* behind the blocks */
			flip_bit(path, (off_t)(size + rng_below(&rng, (uint64_t)st.st_size - size)),
			         (int)i % 8);
		else
			flip_bit(path, (off_t)rng_below(&rng, size), (int)i % 8);
		rc = terrace_get_to(cache, TERRACE_KEY("k"), 0, UINT64_MAX, count_good, &got,
		                    &given);
		assert_true(rc == TERRACE_MISS || rc == TERRACE_ECORRUPT);
		assert_int_equal(rc == TERRACE_MISS, got.size == 0);
		assert_int_equal(given, got.size);
		assert_removed_as_damaged(cache, i);
	}
	/* Read whole, it is what any damaged entry is. */
	for (uint64_t i = 0; i < 20; i++) {
		assert_ok(write_value(cache, "k", size, 1 << 20, 1, NULL));
		fixture_file(f, path);
		flip_bit(path, (off_t)rng_below(&rng, size + 100), 3);
		assert_misses(cache, "k");
		assert_removed_as_damaged(cache, 300 + i);
	}
	terrace_cache_close(cache);
}

static void test_damage__is_found_by_verify_block_by_block(void **state)
{
	terrace_verify_report report = TERRACE_VERIFY_INIT;
	struct fixture *f = *state;
	terrace_cache *cache = plain_cache(f);
	char path[600];

	assert_ok(write_value(cache, "k", 3 * BLOCK_BYTES, 1 << 20, 1, NULL));
	assert_ok(terrace_verify(f->store, false, NULL, NULL, &report));
	fixture_file(f, path);
	flip_bit(path, 2 * BLOCK_BYTES, 0);
	assert_status(terrace_verify(f->store, false, NULL, NULL, &report), TERRACE_ECORRUPT);
	assert_int_equal(report.damaged, 1);
	assert_ok(terrace_verify(f->store, true, NULL, NULL, &report));
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

/* A row that goes while its neighbours are looked at has taken its file along. */
static int removes_another(void *ctx, const terrace_fault *fault)
{
	terrace_cache *cache = *(terrace_cache **)ctx;

	if (fault->kind == TERRACE_FAULT_ENTRY)
		assert_ok(terrace_delete(cache, TERRACE_KEY("goes")));
	return 0;
}

static void test_verify__what_goes_meanwhile_is_no_fault(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = plain_cache(f);
	char path[600];

	for (int between = 0; between < 200; between += 100) {
		terrace_verify_report report = TERRACE_VERIFY_INIT;

		assert_ok(write_value(cache, "k", 3 * BLOCK_BYTES, 1 << 20, 1, NULL));
		fixture_file(f, path);
		flip_bit(path, 0, 0);
		for (int i = 0; i < between; i++) {
			char key[8];

			snprintf(key, sizeof key, "%d", i);
			assert_ok(put_text(cache, key, "v"));
		}
		assert_ok(terrace_flush(f->store));
		assert_ok(write_value(cache, "goes", 3 * BLOCK_BYTES, 1 << 20, 1, NULL));
		assert_status(terrace_verify(f->store, false, removes_another, &cache, &report),
		              TERRACE_ECORRUPT);
		assert_int_equal(report.damaged, 1);
		assert_int_equal(report.missing_files, 0);
		assert_int_equal(report.orphans, 0);
		assert_ok(terrace_clear(cache, 0, NULL));
	}
	terrace_cache_close(cache);
}

/* --- memory -------------------------------------------------------------------------- */

static uint64_t address_space(void)
{
	unsigned long long pages = 0;
	FILE *file = fopen("/proc/self/statm", "r");

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%llu", &pages), 1);
	fclose(file);
	return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* A megabyte on top of what it has must do for a value of any size. */
static int write_and_read_within_limits(const struct fixture *f, uint64_t size)
{
	struct rlimit limit;
	terrace_cache *cache;
	terrace *store;

	assert_ok(terrace_open(scratch_path(&f->scratch, "small"), &f->options, &store));
	assert_ok(terrace_cache_open(store, "a", NULL, &cache));
	/* What the first of all calls keeps for later ones */
	assert_ok(write_value(cache, "k", 3 * BLOCK_BYTES, 1 << 18, 1, NULL));
	assert_reads(cache, "k", 3 * BLOCK_BYTES, 1 << 18, 1);
	limit.rlim_cur = limit.rlim_max = address_space() + (2 << 20);
	assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
	assert_ok(write_value(cache, "k", size, 1 << 18, 1, NULL));
	assert_reads(cache, "k", size, 1 << 18, 1);
	terrace_cache_close(cache);
	terrace_close(store);
	return 0;
}

static void test_memory__a_value_of_400_mb_takes_two_at_most(void **state)
{
	struct fixture *f = *state;
	int status;
	pid_t pid;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	print_message("skipped: a sanitizer needs more address space than the limit leaves\n");
	skip();
#endif
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(write_and_read_within_limits(f, 400 << 20));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* --- limits --------------------------------------------------------------------------- */

static void test_limit__what_is_too_large_pushes_nothing_out(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	char path[600];

	policy.tiers = TERRACE_L3;
	policy.codec = TERRACE_CODEC_NONE;
	policy.disk_bytes = 4 << 20;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < 6; i++) {
		char key[8];

		snprintf(key, sizeof key, "%d", i);
		assert_ok(write_value(cache, key, 2 * BLOCK_BYTES, 1 << 20, 1, NULL));
	}
	/* Over an eighth, and more than is free: the older value goes, nothing else. */
	assert_status(write_value(cache, "0", 6 * BLOCK_BYTES, 1 << 16, 1, NULL), TERRACE_ETOOBIG);
	assert_misses(cache, "0");
	for (int i = 1; i < 6; i++) {
		char key[8];

		snprintf(key, sizeof key, "%d", i);
		assert_reads(cache, key, 2 * BLOCK_BYTES, 1 << 20, 1);
	}
	/* What is free it may have. */
	assert_ok(write_value(cache, "0", 5 * BLOCK_BYTES, 1 << 16, 1, NULL));
	assert_reads(cache, "5", 2 * BLOCK_BYTES, 1 << 20, 1);
	assert_ok(terrace_clear(cache, 0, NULL));
	assert_ok(terrace_cleanup(f->store, cache, NULL));
	fixture_file(f, path);
	assert_string_equal(path, "");
	terrace_cache_close(cache);
	/* In memory alone. */
	policy = (terrace_policy)TERRACE_POLICY_INIT;
	policy.tiers = TERRACE_L1;
	policy.memory_bytes = 1 << 20;
	cache = fixture_cache(f, "memory", &policy);
	assert_ok(put_text(cache, "k", "old"));
	assert_status(write_value(cache, "k", 2 << 20, 1 << 16, 1, NULL), TERRACE_ETOOBIG);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

/* However they came: what is written piece by piece counts as well. */
static void test_limit__values_in_blocks_keep_within_it(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;

	policy.tiers = TERRACE_L3;
	policy.codec = TERRACE_CODEC_NONE;
	policy.disk_bytes = 64 * BLOCK_BYTES;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; i < 40; i++) {
		terrace_stats stats = TERRACE_STATS_INIT;
		char key[8];

		snprintf(key, sizeof key, "%d", i);
		assert_ok(write_value(cache, key, 4 * BLOCK_BYTES, 1 << 20, 1, NULL));
		assert_ok(terrace_cache_stats(cache, &stats));
		assert_in_range(stats.l3.bytes, 1, policy.disk_bytes);
	}
	terrace_cache_close(cache);
}

/* Each limit is asked whether there is room, not the lower one alone. */
static void test_limit__a_cache_with_room_takes_none_of_others(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache, *full;

	terrace_close(f->store);
	f->options.disk_bytes = 4 << 20;
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	policy.tiers = TERRACE_L3;
	policy.codec = TERRACE_CODEC_NONE;
	full = fixture_cache(f, "full", &policy);
	for (int i = 0; i < 7; i++) {
		char key[8];

		snprintf(key, sizeof key, "%d", i);
		assert_ok(write_value(full, key, 2 * BLOCK_BYTES - 8192, 1 << 20, 1, NULL));
	}
	for (int i = 0; i < 2; i++) {
		policy.disk_bytes = i ? 3 << 20 : 8 << 20;
		cache = fixture_cache(f, i ? "lower" : "higher", &policy);
		assert_status(write_value(cache, "k", 3 * BLOCK_BYTES, 1 << 20, 1, NULL),
		              TERRACE_ETOOBIG);
		assert_ok(terrace_exists(full, TERRACE_KEY("0")));
		terrace_cache_close(cache);
	}
	terrace_cache_close(full);
}

/* Nobody could read it: what decodes to more than that is taken for a bomb. */
static void test_limit__a_value_that_only_shrinks_below_it_is_too_large(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	char *zeros;
	terrace_writer *writer;

	terrace_close(f->store);
	f->options.memory_bytes = f->options.disk_bytes = 1 << 20;
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	policy.codec = TERRACE_CODEC_ZSTD;
	cache = fixture_cache(f, "a", &policy);
	zeros = calloc(1, 2 << 20);
	assert_ok(put_text(cache, "k", "old"));
	assert_ok(terrace_writer_open(cache, TERRACE_KEY("k"), NULL, &writer));
	assert_ok(terrace_writer_write(writer, terrace_bytes(zeros, 1 << 20)));
	assert_status(terrace_writer_write(writer, terrace_bytes(zeros, 1)), TERRACE_ETOOBIG);
	assert_status(terrace_writer_commit(writer), TERRACE_ETOOBIG);
	assert_misses(cache, "k");
	assert_status(terrace_put(cache, TERRACE_KEY("k"), terrace_bytes(zeros, 2 << 20), NULL),
	              TERRACE_ETOOBIG);
	assert_int_equal(fixture_files(f), 0);
	free(zeros);
	terrace_cache_close(cache);
}

static void test_limit__a_full_disk_leaves_no_part(void **state)
{
	struct fixture *f = *state;
	char mount_point[600], dir[640], command[700];
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	terrace *store;

	snprintf(mount_point, sizeof mount_point, "%s", scratch_path(&f->scratch, "small"));
	if (geteuid() != 0 || mkdir(mount_point, 0700) < 0 ||
	    mount("none", mount_point, "tmpfs", 0, "size=15m") < 0) {
		print_message("skipped: a small file system cannot be mounted here\n");
		skip();
	}
	snprintf(dir, sizeof dir, "%s/store", mount_point);
	assert_ok(terrace_open(dir, &f->options, &store));
	policy.codec = TERRACE_CODEC_NONE;
	assert_ok(terrace_cache_open(store, "a", &policy, &cache));
	assert_ok(put_text(cache, "row", "v"));
	assert_ok(write_value(cache, "k", 4 << 20, 1 << 16, 1, NULL));
	assert_status(write_value(cache, "k", 30 << 20, 1 << 16, 2, NULL), TERRACE_EFULL);
	assert_misses(cache, "k");
	assert_gives(cache, "row", "v");
	snprintf(command, sizeof command, "test -z \"$(find %s/v2/files -type f)\"", dir);
	assert_int_equal(system(command), 0);
	/* Room is made for what fits. */
	for (uint64_t i = 0; i < 8; i++) {
		assert_ok(write_value(cache, i % 2 ? "odd" : "even", 4 << 20, 1 << 16, i, NULL));
		assert_reads(cache, i % 2 ? "odd" : "even", 4 << 20, 1 << 16, i);
	}
	terrace_cache_close(cache);
	terrace_close(store);
	assert_int_equal(umount2(mount_point, MNT_DETACH), 0);
}

/* A row that goes takes its file along, whatever the process lacks. */
static void test_limit__without_a_descriptor_no_file_stays(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	struct rlimit before, none;
	int next;

	assert_ok(write_value(cache, "k", 3 * BLOCK_BYTES, 1 << 20, 1, NULL));
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = before;
	next = dup(0);
	close(next);
	none.rlim_cur = (rlim_t)next;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(fixture_files(f), 0);
	terrace_cache_close(cache);
}

/* Each has a file of its own, which is open until its row is there. */
static void test_limit__of_descriptors_is_no_limit_of_values(void **state)
{
	enum { VALUES = 300, DESCRIPTORS = 120 };
	static char names[VALUES][8];
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_item items[VALUES];
	terrace_cache *cache;
	struct rlimit before, few;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	few = before;
	few.rlim_cur = DESCRIPTORS;
	policy.tiers = TERRACE_L3;
	for (int behind = 0; behind < 2; behind++) {
		policy.write = behind ? TERRACE_WRITE_BEHIND : TERRACE_WRITE_THROUGH;
		cache = fixture_cache(f, behind ? "behind" : "through", &policy);
		for (int i = 0; i < VALUES; i++) {
			snprintf(names[i], sizeof names[i], "%d", i);
			items[i] = (terrace_item){ terrace_str(names[i]), terrace_str("value") };
		}
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
		assert_ok(terrace_put_many(cache, items, VALUES, NULL));
		assert_ok(terrace_flush(f->store));
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
		for (int i = 0; i < VALUES; i++)
			assert_gives(cache, names[i], "value");
		assert_int_equal(fixture_files(f), VALUES * (behind + 1));
		terrace_cache_close(cache);
	}
}

/* --- what a put carries ------------------------------------------------------------------ */

static struct {
	struct disk_ops ops;
	const struct disk_ops *real;
	unsigned puts; /* that find the disk full, so that room is made */
} full;

static int put_on_full(void *tier, const struct tier_put *put)
{
	if (full.puts > 0) {
		full.puts--;
		terrace__message_set("the disk is full");
		return TERRACE_EFULL;
	}
	return full.real->tier.put(tier, put);
}

/* The first try has moved the key's version, as any other write of it would have. */
static void test_limit__what_waited_for_room_is_not_taken_for_outdated(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_rows(f, "a", NULL);
	terrace_writer *late;
	terrace_value *value;
	terrace_lease *lease;

	for (int i = 0; i < 100; i++) { /* what room can be made of */
		char key[16];

		snprintf(key, sizeof key, "row %d", i);
		assert_ok(put_text(cache, key, "v"));
	}
	full.real = f->store->disk_ops;
	full.ops = *full.real;
	full.ops.tier.put = put_on_full;
	f->store->disk_ops = &full.ops;
	for (unsigned puts = 1; puts <= 2; puts++) {
		full.puts = puts;
		assert_ok(write_value(cache, "k", 3 * BLOCK_BYTES, 1 << 16, puts, NULL));
		assert_int_equal(full.puts, 0);
		assert_reads(cache, "k", 3 * BLOCK_BYTES, 1 << 16, puts);
		full.puts = puts;
		assert_status(terrace_lease_begin(cache, terrace_str(puts == 1 ? "l" : "m"), 0,
		                                  &lease, &value),
		              TERRACE_MISS);
		assert_ok(terrace_lease_put(lease, terrace_str("v"), NULL, NULL));
		assert_int_equal(full.puts, 0);
		assert_ok(terrace_clear(cache, TERRACE_L1, NULL));
		assert_gives(cache, puts == 1 ? "l" : "m", "v");
	}
	/* What really is outdated stays so, however often it is tried. */
	assert_ok(terrace_writer_open(cache, TERRACE_KEY("k"), NULL, &late));
	assert_ok(terrace_writer_write(late, terrace_str("late")));
	assert_ok(put_text(cache, "k", "v"));
	full.puts = 1;
	assert_status(terrace_writer_commit(late), TERRACE_MISS);
	f->store->disk_ops = full.real;
	assert_gives(cache, "k", "v");
	terrace_cache_close(cache);
}

static uint64_t evicted(terrace_cache *cache, uint64_t *ret_bytes)
{
	terrace_stats stats = TERRACE_STATS_INIT;

	assert_ok(terrace_cache_stats(cache, &stats));
	*ret_bytes = stats.l3.bytes;
	return stats.evicted_l3;
}

/* What the store needs for itself is not free either. */
static void test_limit__of_a_store_counts_what_it_needs_itself(void **state)
{
	const uint64_t large = 18 * BLOCK_BYTES; /* over an eighth */
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	uint64_t bytes = 0;
	terrace_cache *cache;
	char key[16];

	terrace_close(f->store);
	f->options.disk_bytes = 32 << 20;
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	policy.tiers = TERRACE_L3;
	policy.codec = TERRACE_CODEC_NONE;
	cache = fixture_cache(f, "a", &policy);
	for (int i = 0; bytes < 17 << 20; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(write_value(cache, key, 4 * BLOCK_BYTES, 1 << 20, 1, NULL));
		assert_int_equal(evicted(cache, &bytes), 0);
	}
	assert_status(write_value(cache, "k", large, 1 << 20, 1, NULL), TERRACE_ETOOBIG);
	assert_int_equal(evicted(cache, &bytes), 0);
	for (int i = 0; i < 10; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(terrace_delete(cache, terrace_str(key)));
	}
	assert_ok(write_value(cache, "k", large, 1 << 20, 1, NULL));
	assert_int_equal(evicted(cache, &bytes), 0);
	terrace_cache_close(cache);
}

static int no_room(void *tier, uint64_t number, terrace_codec codec, struct block_writer **ret)
{
	(void)tier;
	(void)number;
	(void)codec;
	(void)ret;
	terrace__message_set("the disk is full");
	return TERRACE_EFULL;
}

/* Files go when it is committed: that is no room for what is put before. */
static void test_limit__a_full_disk_in_a_transaction_costs_no_others(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	assert_ok(write_value(cache, "other", 3 * BLOCK_BYTES, 1 << 20, 1, NULL));
	full.real = f->store->disk_ops;
	full.ops = *full.real;
	full.ops.blocks_new = no_room;
	f->store->disk_ops = &full.ops;
	assert_ok(terrace_begin(f->store, 0));
	assert_status(write_value(cache, "k", 3 * BLOCK_BYTES, 1 << 20, 1, NULL), TERRACE_EFULL);
	assert_ok(terrace_commit(f->store));
	f->store->disk_ops = full.real;
	assert_reads(cache, "other", 3 * BLOCK_BYTES, 1 << 20, 1);
	terrace_cache_close(cache);
}

static void test_options__ttl_tags_sources_and_cost_are_kept(void **state)
{
	const char *tags[] = { "red", "large" };
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_info info = TERRACE_INFO_INIT;
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	const char *path = scratch_path(&f->scratch, "source");
	terrace_sources *sources;
	uint64_t count;

	write_file(path, "one");
	for (int i = 0; i < 3; i++) {
		uint64_t size = i == 2 ? 100 : 3 * BLOCK_BYTES;

		assert_ok(terrace_sources_new(&sources));
		assert_ok(terrace_sources_file(sources, path, 0));
		options.ttl_ms = 5000;
		options.tags = tags;
		options.tag_count = 2;
		options.sources = sources;
		options.cost_us = 777;
		assert_ok(write_value(cache, "k", size, 1 << 20, 1, &options));
		terrace_sources_free(sources);
		assert_ok(terrace_inspect(cache, TERRACE_KEY("k"), &info));
		assert_int_equal(info.bytes, size);
		assert_int_equal(info.ttl_ms, 5000);
		assert_int_equal(info.cost_us, 777);
		assert_int_equal(info.tag_count, 2);
		assert_int_equal(info.source_count, 1);
		terrace_info_free(&info);
		if (i == 0) {
			atomic_fetch_add(&f->clock.now, 5001);
		} else if (i == 1) {
			terrace_match match = terrace_match_text(TERRACE_MATCH_TAG, "large");

			assert_ok(terrace_invalidate(cache, &match, &count));
			assert_int_equal(count, 1);
		} else {
			write_file(path, "another");
		}
		assert_status(terrace_exists(cache, TERRACE_KEY("k")), TERRACE_MISS);
		assert_misses(cache, "k");
	}
	terrace_cache_close(cache);
}

static void test_stream__other_verbs_know_values_in_blocks(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	assert_ok(write_value(cache, "k", 3 * BLOCK_BYTES, 1 << 20, 1, NULL));
	assert_status(terrace_add(cache, TERRACE_KEY("k"), terrace_str("new"), NULL),
	              TERRACE_EXISTS);
	assert_status(terrace_incr(cache, TERRACE_KEY("k"), 1, 0, NULL), TERRACE_EINVAL);
	assert_ok(terrace_touch(cache, TERRACE_KEY("k"), 9000));
	assert_reads(cache, "k", 3 * BLOCK_BYTES, 1 << 20, 1);
	fixture_reopen(f);
	cache = fixture_cache(f, "a", NULL);
	assert_reads(cache, "k", 3 * BLOCK_BYTES, 1 << 20, 1);
	atomic_fetch_add(&f->clock.now, 9001);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

/* --- descriptors and callbacks ------------------------------------------------------------ */

static int short_pieces(void *ctx, void *buffer, size_t size, size_t *ret)
{
	uint64_t *at = ctx, total = 2 * BLOCK_BYTES + 5;

	*ret = size < 70001 ? size : 70001;
	if (*ret > total - *at)
		*ret = (size_t)(total - *at);
	fill(buffer, *at, *ret, 1);
	*at += *ret;
	return 0;
}

static int fails_half_way(void *ctx, void *buffer, size_t size, size_t *ret)
{
	uint64_t *at = ctx;

	return *at > BLOCK_BYTES ? 4711 : short_pieces(ctx, buffer, size, ret);
}

/* More than there is room for. */
static int overdoes(void *ctx, void *buffer, size_t size, size_t *ret)
{
	(void)ctx;
	memset(buffer, 'x', size);
	*ret = size + 1;
	return 0;
}

static int sink_fails(void *ctx, terrace_slice bytes)
{
	(void)bytes;
	return ++*(int *)ctx == 2 ? 4712 : 0;
}

static void test_transfer__descriptors_and_callbacks(void **state)
{
	struct fixture *f = *state;
	terrace_cache *cache = fixture_cache(f, "a", NULL);
	uint64_t at = 0, given, size = 2 * BLOCK_BYTES + 5;
	struct got got = { 0 };
	uint8_t bytes[100];
	int fd, calls = 0;

	assert_ok(terrace_put_from(cache, TERRACE_KEY("k"), short_pieces, &at, NULL));
	assert_ok(terrace_get_to(cache, TERRACE_KEY("k"), 0, UINT64_MAX, count_good, &got, &given));
	assert_int_equal(given, size);
	/* A source that fails changes nothing; a sink's failure is the caller's. */
	at = 0;
	assert_status(terrace_put_from(cache, TERRACE_KEY("k"), fails_half_way, &at, NULL), 4711);
	assert_reads(cache, "k", size, 1 << 20, 1);
	assert_status(terrace_put_from(cache, TERRACE_KEY("k"), overdoes, NULL, NULL),
	              TERRACE_EINVAL);
	assert_reads(cache, "k", size, 1 << 20, 1);
	assert_status(
	    terrace_get_to(cache, TERRACE_KEY("k"), 0, UINT64_MAX, sink_fails, &calls, NULL), 4712);
	fd = open(scratch_path(&f->scratch, "copy"), O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_ok(terrace_get_fd(cache, TERRACE_KEY("k"), BLOCK_BYTES - 10, 100, fd, &given));
	assert_int_equal(given, 100);
	assert_int_equal(pread(fd, bytes, 100, 0), 100);
	assert_bytes(bytes, BLOCK_BYTES - 10, 100, 1);
	assert_ok(terrace_get_fd(cache, TERRACE_KEY("k"), size - 10, 100, fd, &given));
	assert_int_equal(given, 10);
	assert_ok(terrace_get_fd(cache, TERRACE_KEY("k"), size + 10, 100, fd, &given));
	assert_int_equal(given, 0);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_ok(terrace_put_fd(cache, TERRACE_KEY("part"), fd, NULL));
	assert_ok(terrace_get_to(cache, TERRACE_KEY("part"), 0, 0, sink_fails, &calls, &given));
	assert_status(terrace_get_fd(cache, TERRACE_KEY("absent"), 0, 1, fd, &given), TERRACE_MISS);
	close(fd);
	assert_status(terrace_put_fd(cache, TERRACE_KEY("part"), fd, NULL), TERRACE_EIO);
	assert_status(terrace_get_fd(cache, TERRACE_KEY("part"), 0, 9, fd, &given), TERRACE_EIO);
	terrace_cache_close(cache);
}

static void test_stream__without_a_cache_everything_works_and_nothing_is_kept(void **state)
{
	struct fixture *f = *state;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *caches[2] = { NULL };
	terrace_reader *reader;
	terrace_writer *writer;

	policy.disabled = true;
	caches[1] = fixture_cache(f, "off", &policy);
	for (int i = 0; i < 2; i++) {
		assert_ok(write_value(caches[i], "k", 3 * BLOCK_BYTES, 1 << 20, 1, NULL));
		assert_status(terrace_reader_open(caches[i], TERRACE_KEY("k"), &reader),
		              TERRACE_MISS);
		assert_ok(terrace_writer_open(caches[i], TERRACE_KEY("k"), NULL, &writer));
		terrace_writer_drop(writer);
	}
	assert_status(terrace_writer_open(caches[0], terrace_str(""), NULL, &writer),
	              TERRACE_EINVAL);
	terrace_reader_close(NULL);
	terrace_cache_close(caches[1]);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_stream__any_size_comes_back_however_it_was_written),
		TEST(test_stream__ranges_of_a_value_of_many_blocks),
		TEST(test_damage__in_a_block_is_an_error_there_and_a_miss_to_the_next),
		TEST(test_damage__anywhere_never_gives_a_wrong_byte),
		TEST(test_damage__is_found_by_verify_block_by_block),
		TEST(test_verify__what_goes_meanwhile_is_no_fault),
		TEST(test_memory__a_value_of_400_mb_takes_two_at_most),
		TEST(test_limit__what_is_too_large_pushes_nothing_out),
		TEST(test_limit__values_in_blocks_keep_within_it),
		TEST(test_limit__a_cache_with_room_takes_none_of_others),
		TEST(test_limit__a_value_that_only_shrinks_below_it_is_too_large),
		TEST(test_limit__a_full_disk_leaves_no_part),
		TEST(test_limit__what_waited_for_room_is_not_taken_for_outdated),
		TEST(test_limit__of_a_store_counts_what_it_needs_itself),
		TEST(test_limit__a_full_disk_in_a_transaction_costs_no_others),
		TEST(test_limit__without_a_descriptor_no_file_stays),
		TEST(test_limit__of_descriptors_is_no_limit_of_values),
		TEST(test_options__ttl_tags_sources_and_cost_are_kept),
		TEST(test_stream__other_verbs_know_values_in_blocks),
		TEST(test_transfer__descriptors_and_callbacks),
		TEST(test_stream__without_a_cache_everything_works_and_nothing_is_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
