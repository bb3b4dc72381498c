/*
 * Parts that need no store, with each of their allocations and system calls
 * failing in turn, once and for ever: they fail with a status and a message or do
 * what they are for, and nothing leaks. And opening a store without descriptors.
 */
#include "support/support.h"

#include "proofs/shim.h"
#include "tiers/entry.h"
#include "tiers/files/blocks.h"
#include "tiers/files/files.h"
#include "util/message.h"

#include <fcntl.h>
#include <terrace/library.h>
#include <unistd.h>

static struct scratch scratch;
static int dir_fd;
static uint8_t big[BLOCK_BYTES + 5000];

typedef int part_fn(void);

/* Once with nothing failing comes first: what is kept for later is no leak. */
static void sweep(part_fn *part)
{
	assert_ok(part());
	for (int kind = 0; kind < FAULT_COUNT; kind++) {
		for (int ever = 0; ever < 2; ever++) {
			bool reached = true;

			for (uint64_t k = 1; reached; k++) {
				int64_t live = fault_live();
				int rc;

				terrace_fail(TERRACE_OK, "%s", "");
				fault_arm((enum fault_kind)kind, k, ever);
				rc = part();
				reached = fault_disarm();
				if (fault_live() != live)
					fail_msg("kind %d, k = %d: %d allocations are left", kind,
					         (int)k, (int)(fault_live() - live));
				if (rc < 0 && (!reached || strlen(terrace_error_message()) < 10))
					fail_msg("kind %d, k = %d: %s, and \"%s\"", kind, (int)k,
					         terrace_status_name(rc), terrace_error_message());
			}
		}
	}
}

/* --- keys ----------------------------------------------------------------------------------------- */

static int make_key(void)
{
	terrace_slice items[] = { TERRACE_KEY("b"), TERRACE_KEY("a"), TERRACE_KEY("b") };
	terrace_key_builder *builder;
	terrace_slice key;
	int rc = terrace_key_builder_new("prefix", &builder), added = TERRACE_OK;

	if (rc != TERRACE_OK)
		return rc;
	/* More than there is room for at first. */
	for (int i = 0; i < 20; i++) {
		char name[8];

		snprintf(name, sizeof name, "%d", i);
		rc = i % 2 ? terrace_key_builder_field(builder, name, TERRACE_KEY("y")) :
		             terrace_key_builder_set(builder, name, items, 3);
		added = added == TERRACE_OK ? rc : added;
	}
	rc = terrace_key_builder_finish(builder, &key);
	/* What was not added is not left out in silence. */
	if (added != TERRACE_OK)
		assert_status(rc, TERRACE_ENOMEM);
	if (rc == TERRACE_OK) {
		assert_int_equal(key.size, strlen("prefix@") + 32);
		terrace_key_free(key);
	}
	terrace_key_builder_free(builder);
	return rc;
}

static int read_key(void)
{
	terrace_key_parts parts = { TERRACE_KEY("a:b"), TERRACE_KEY("c"), TERRACE_KEY("d"),
		                    TERRACE_KEY("e") };
	terrace_slice key;
	int rc = terrace_key_format(&parts, &key);

	if (rc != TERRACE_OK)
		return rc;
	rc = terrace_key_parse(key, &parts);
	terrace_key_free(key);
	if (rc != TERRACE_OK)
		return rc;
	assert_int_equal(parts.name_space.size, 3);
	assert_memory_equal(parts.name_space.data, "a:b", 3);
	terrace_key_parts_free(&parts);
	return TERRACE_OK;
}

static void test_failing__keys(void **state)
{
	(void)state;
	sweep(make_key);
	sweep(read_key);
}

/* --- libraries ------------------------------------------------------------------------------------ */

static int describe_library(void)
{
	static const char *const folders[] = { "/no/such/folder", "/nor/this", NULL };
	terrace_library_options options = terrace_library_options_init();
	terrace_library *needed, *library;
	int rc;

	options.file = "no-such-library.so";
	options.folders = folders;
	rc = terrace_library_new(&options, &needed);
	if (rc != TERRACE_OK)
		return rc;
	options.needs = &needed;
	options.need_count = 1;
	rc = terrace_library_new(&options, &library);
	if (rc == TERRACE_OK)
		terrace_library_free(library);
	terrace_library_free(needed);
	return rc;
}

static void test_failing__libraries(void **state)
{
	(void)state;
	sweep(describe_library);
}

/* --- files ---------------------------------------------------------------------------------------- */

static int write_blocks(struct files *files, struct record *record)
{
	struct block_writer *writer;
	int fd = -1, rc = terrace__files_blocks_new(files, 77, TERRACE_CODEC_LZ4, &writer);

	assert_int_not_equal(rc, TERRACE_EXISTS); /* another name would be tried for ever */
	if (rc != TERRACE_OK)
		return rc;
	rc = terrace__block_writer_add(writer, terrace_bytes(big, BLOCK_BYTES));
	if (rc == TERRACE_OK)
		rc = terrace__block_writer_add(writer, terrace_bytes(big + BLOCK_BYTES, 5000));
	if (rc == TERRACE_OK)
		rc = terrace__files_blocks_keep(files, writer, record, &fd);
	if (rc != TERRACE_OK)
		terrace__files_blocks_drop(files, writer);
	else
		close(fd);
	return rc;
}

static int read_blocks(struct files *files, const struct record *record)
{
	static uint8_t block[BLOCK_BYTES];
	struct block_reader *blocks = NULL;
	struct entry *entry = NULL;
	int rc = terrace__files_open_value(files, 77, record, 5, &entry, &blocks);

	if (rc == TERRACE_OK)
		rc = terrace__block_reader_read(blocks, 1, block);
	if (rc == TERRACE_OK)
		assert_memory_equal(block, big + BLOCK_BYTES, 5000);
	terrace__block_reader_free(blocks);
	entry_unref(entry);
	return rc == TERRACE_OK ? terrace__files_check(files, 77, record, 5) : rc;
}

static int use_files(void)
{
	struct record record = { .seq = 7,
		                 .cache = 3,
		                 .created = 1,
		                 .stored = 1,
		                 .expires = INT64_MAX,
		                 .value_size = sizeof big,
		                 .key = terrace_str("key") };
	struct files *files;
	int rc = terrace__files_open(dir_fd, &files);

	if (rc != TERRACE_OK)
		return rc;
	rc = write_blocks(files, &record);
	if (rc == TERRACE_OK)
		rc = read_blocks(files, &record);
	terrace__files_sweep(files);
	terrace__files_remove(files, 77);
	terrace__files_close(files);
	if (fault_disarm())
		(void)unlinkat(dir_fd, "files/4d/000000000000004d", 0);
	(void)unlinkat(dir_fd, "files/new/000000000000004d", 0);
	return rc;
}

static void test_failing__files(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof big; i++)
		big[i] = (uint8_t)(i % 251 * (i / 1000));
	sweep(use_files);
}

/* --- opening a store ------------------------------------------------------------------------------ */

/* In the next boot, after it was closed in order, without the k-th descriptor; was there one? */
static bool open_without(struct fixture *f, uint64_t k)
{
	const char *path = scratch_path(&f->scratch, "store");
	bool reached;
	int rc;

	fault_arm(FAULT_EMFILE, k, false);
	rc = terrace_open(path, &f->options, &f->store);
	reached = fault_disarm();
	if (rc != TERRACE_OK) {
		assert_true(reached && strlen(terrace_error_message()) >= 10);
		assert_ok(terrace_open(path, &f->options, &f->store));
	}
	return reached;
}

static terrace_cache *in_next_boot(struct fixture *f, terrace_cache *cache, int boot)
{
	terrace_cache_close(cache);
	fixture_boot(f, boot);
	fixture_reopen(f);
	return fixture_cache(f, "a", NULL);
}

/* The directory says which of two databases is the one, which is not to be guessed. */
static void test_failing__an_older_database_does_not_come_back(void **state)
{
	bool reached = true;

	(void)state;
	for (uint64_t k = 1; reached; k++) {
		struct fixture f;
		terrace_cache *cache;

		memset(&f, 0, sizeof f);
		fixture_open(&f);
		cache = in_next_boot(&f, NULL, 1);
		assert_ok(put_text(cache, "k", "first"));
		terrace_cache_close(cache);
		terrace_close(f.store);
		/* The machine went down, as far as anybody can tell: another database is made. */
		assert_int_equal(unlink(scratch_path(&f.scratch, "store/v2/unsynced")), 0);
		fixture_boot(&f, 2);
		assert_ok(terrace_open(scratch_path(&f.scratch, "store"), &f.options, &f.store));
		cache = fixture_cache(&f, "a", NULL);
		assert_misses(cache, "k");
		assert_ok(put_text(cache, "k", "older"));
		terrace_cache_close(cache);
		terrace_close(f.store);
		fixture_boot(&f, 3);
		reached = open_without(&f, k);
		cache = fixture_cache(&f, "a", NULL);
		/* dropped, where it cannot be read whether the machine went down */
		if (misses(cache, "k") == TERRACE_OK)
			assert_gives(cache, "k", "older");
		assert_ok(put_text(cache, "k", "newer"));
		cache = in_next_boot(&f, cache, 4);
		assert_gives(cache, "k", "newer");
		terrace_cache_close(cache);
		fixture_close(&f);
	}
}

static int setup(void **state)
{
	(void)state;
	scratch_make(&scratch);
	dir_fd = open(scratch_path(&scratch, "."), O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	return dir_fd < 0;
}

static int teardown(void **state)
{
	(void)state;
	close(dir_fd);
	scratch_remove(&scratch);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_failing__keys),
		cmocka_unit_test(test_failing__libraries),
		cmocka_unit_test(test_failing__files),
		cmocka_unit_test(test_failing__an_older_database_does_not_come_back),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
