/* What is written to SQLite's log: some frames at a time, and all of a transaction with its last. */
#include "support/support.h"

#include "tiers/sqlite/connection.h"
#include "tiers/sqlite/vfs.h"
#include "util/util.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

enum { HEAD = 24, FRAME = HEAD + PAGE_BYTES, FIRST = 32, SOME = 5, MANY = 70 };

struct log {
	struct scratch scratch;
	char path[600];
	sqlite3_file *file;
	int fd; /* what others see */
};

static int setup(void **state)
{
	struct log *log = calloc(1, sizeof *log);
	sqlite3_vfs *vfs;
	int flags;

	scratch_make(&log->scratch);
	/* SQLite makes a log with the rights of its database. */
	close(open(scratch_path(&log->scratch, "db"), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	snprintf(log->path, sizeof log->path, "%s/db-wal", log->scratch.path);
	assert_non_null(terrace__vfs());
	vfs = sqlite3_vfs_find(terrace__vfs());
	log->file = calloc(1, (size_t)vfs->szOsFile);
	assert_int_equal(vfs->xOpen(vfs, log->path, log->file,
	                            SQLITE_OPEN_WAL | SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
	                            &flags),
	                 SQLITE_OK);
	log->fd = open(log->path, O_RDONLY | O_CLOEXEC);
	assert_true(log->fd >= 0);
	*state = log;
	return 0;
}

static void log_close(struct log *log)
{
	if (log->file->pMethods)
		assert_int_equal(log->file->pMethods->xClose(log->file), SQLITE_OK);
	log->file->pMethods = NULL;
}

static int teardown(void **state)
{
	struct log *log = *state;

	log_close(log);
	close(log->fd);
	free(log->file);
	scratch_remove(&log->scratch);
	free(log);
	return 0;
}

static void put(struct log *log, const void *data, size_t size, size_t at)
{
	assert_int_equal(log->file->pMethods->xWrite(log->file, data, (int)size, (sqlite3_int64)at),
	                 SQLITE_OK);
}

static size_t at_of(size_t frame)
{
	return FIRST + frame * FRAME;
}

/* In the two pieces that SQLite writes. */
static void put_frame(struct log *log, size_t frame, char byte, bool commits)
{
	uint8_t head[HEAD] = { 0, 0, 0, 1 }, page[PAGE_BYTES];

	memset(page, byte, sizeof page);
	head[7] = commits;
	head[HEAD - 1] = (uint8_t)byte;
	put(log, head, sizeof head, at_of(frame));
	put(log, page, sizeof page, at_of(frame) + HEAD);
}

/* What another process would read there; '\0' where there is nothing, '?' where it is torn. */
static char seen(const struct log *log, size_t frame)
{
	uint8_t bytes[FRAME];
	ssize_t size = pread(log->fd, bytes, sizeof bytes, (off_t)at_of(frame));
	size_t i = HEAD - 1;

	if (size <= 0)
		return '\0';
	while (size == FRAME && i < FRAME && bytes[i] == bytes[HEAD - 1])
		i++;
	return i == FRAME ? (char)bytes[HEAD - 1] : '?';
}

static void test_commit__all_is_there_with_the_last_frame(void **state)
{
	struct log *log = *state;
	size_t at = 0;

	for (size_t count = 1; count <= MANY; count++) {
		for (size_t i = 0; i < count; i++)
			put_frame(log, at + i, (char)('a' + count % 26), i + 1 == count);
		for (size_t i = 0; i < count; i++)
			assert_int_equal(seen(log, at + i), 'a' + (int)(count % 26));
		at += count;
	}
}

/* What is put elsewhere comes after what waits, and neither is where the other was to be. */
static void test_put__elsewhere_than_behind_the_last(void **state)
{
	struct log *log = *state;

	for (size_t i = 0; i < SOME; i++)
		put_frame(log, 10 + i, 'a', false);
	put_frame(log, 3, 'b', false); /* as after a transaction that was taken back */
	put_frame(log, 4, 'b', true);
	assert_int_equal(seen(log, 3), 'b');
	assert_int_equal(seen(log, 4), 'b');
	assert_int_not_equal(seen(log, 5), 'a');
	for (size_t i = 0; i < SOME; i++)
		assert_int_equal(seen(log, 10 + i), 'a');
}

/* A page that is written again within its transaction, and what has no form that is known. */
static void test_put__in_the_place_of_what_waits(void **state)
{
	struct log *log = *state;
	uint8_t page[PAGE_BYTES], head[FIRST] = { 1 };

	put_frame(log, 0, 'a', false);
	put_frame(log, 1, 'b', false);
	memset(page, 'c', sizeof page);
	put(log, page, sizeof page, at_of(0) + HEAD);
	put_frame(log, 2, 'd', true);
	assert_int_equal(pread(log->fd, page, 1, (off_t)at_of(0) + HEAD), 1);
	assert_int_equal(page[0], 'c');
	assert_int_equal(seen(log, 1), 'b');
	assert_int_equal(seen(log, 2), 'd');
	put_frame(log, 3, 'e', false);
	put(log, head, sizeof head, 0); /* at once: it says where the log begins */
	assert_int_equal(pread(log->fd, page, 1, 0), 1);
	assert_int_equal(page[0], 1);
}

static void test_read__finds_what_waits(void **state)
{
	struct log *log = *state;
	uint8_t page[PAGE_BYTES];

	put_frame(log, 0, 'a', false);
	put_frame(log, 1, 'b', false);
	assert_int_equal(log->file->pMethods->xRead(log->file, page, sizeof page,
	                                            (sqlite3_int64)at_of(1) + HEAD),
	                 SQLITE_OK);
	assert_int_equal(page[0], 'b');
	assert_int_equal(page[sizeof page - 1], 'b');
}

static void test_size_sync_truncate__know_what_waits(void **state)
{
	struct log *log = *state;
	sqlite3_int64 size;

	put_frame(log, 0, 'a', false);
	assert_int_equal(log->file->pMethods->xFileSize(log->file, &size), SQLITE_OK);
	assert_int_equal(size, at_of(1));
	put_frame(log, 1, 'b', false);
	assert_int_equal(log->file->pMethods->xSync(log->file, SQLITE_SYNC_NORMAL), SQLITE_OK);
	assert_int_equal(seen(log, 1), 'b');
	put_frame(log, 2, 'c', false);
	assert_int_equal(log->file->pMethods->xTruncate(log->file, 0), SQLITE_OK);
	put_frame(log, 0, 'd', true);
	assert_int_equal(seen(log, 0), 'd');
	assert_int_equal(log->file->pMethods->xFileSize(log->file, &size), SQLITE_OK);
	assert_int_equal(size, at_of(1));
}

/* It is said before SQLite tells anybody of the transaction. */
static void test_put__what_cannot_be_written_is_said(void **state)
{
	struct log *log = *state;
	uint8_t head[HEAD] = { 0, 0, 0, 1, 0, 0, 0, 1 }, page[PAGE_BYTES] = { 0 };
	struct rlimit all, none;
	int rc;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &all), 0);
	none = (struct rlimit){ 0, all.rlim_max };
	put(log, head, sizeof head, at_of(0));
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	rc = log->file->pMethods->xWrite(log->file, page, sizeof page,
	                                 (sqlite3_int64)at_of(0) + HEAD);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &all), 0);
	assert_int_not_equal(rc, SQLITE_OK);
	/* Once: the next transaction does not fail for it. */
	put_frame(log, 0, 'a', true);
	assert_int_equal(seen(log, 0), 'a');
}

#define WITH_LOG(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_LOG(test_commit__all_is_there_with_the_last_frame),
		WITH_LOG(test_put__elsewhere_than_behind_the_last),
		WITH_LOG(test_put__in_the_place_of_what_waits),
		WITH_LOG(test_read__finds_what_waits),
		WITH_LOG(test_size_sync_truncate__know_what_waits),
		WITH_LOG(test_put__what_cannot_be_written_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
