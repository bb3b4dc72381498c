/* Files of L3 as they are made: between its name and its lock nobody takes one away unnoticed. */
#include "support/support.h"

#include "tiers/files/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

static void (*before_lock)(void); /* runs once */

/* In the place of the C library's; for the library that is tested as well. */
int fcntl64(int fd, int command, ...);
int fcntl64(int fd, int command, ...)
{
	void (*run)(void) = before_lock;
	va_list rest;
	void *with;

	va_start(rest, command);
	with = va_arg(rest, void *);
	va_end(rest);
	if (run && command == F_OFD_SETLK) {
		before_lock = NULL;
		run();
	}
	return (int)syscall(SYS_fcntl, fd, command, with);
}

static struct scratch scratch;
static int looked_at = -1;

static const char *path_of_file(void)
{
	return scratch_path(&scratch, "files/05/0000000000000005");
}

static void removes_it(void)
{
	assert_int_equal(unlink(path_of_file()), 0);
}

/* As whoever asks whether it is busy. */
static void looks_at_it(void)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_len = 1 };

	looked_at = open(path_of_file(), O_RDONLY);
	assert_true(looked_at >= 0);
	assert_int_equal(fcntl(looked_at, F_OFD_SETLK, &lock), 0);
}

static void test_write__notices_who_was_faster_than_its_lock(void **state)
{
	void (*const faster[])(void) = { removes_it, looks_at_it, NULL };
	struct files *files;
	int dir_fd, fd;

	(void)state;
	scratch_make(&scratch);
	dir_fd = open(scratch.path, O_DIRECTORY | O_RDONLY);
	assert_ok(terrace__files_open(dir_fd, &files));
	for (size_t i = 0; i < sizeof faster / sizeof *faster; i++) {
		before_lock = faster[i];
		assert_status(terrace__files_write(files, 5, terrace_str("head"),
		                                   terrace_str("payload"), &fd),
		              faster[i] ? TERRACE_EXISTS : TERRACE_OK);
		/* Another number is next: nothing is left of this one. */
		assert_int_equal(access(path_of_file(), F_OK), faster[i] ? -1 : 0);
	}
	assert_true(terrace__files_busy(files, 5));
	close(fd);
	assert_false(terrace__files_busy(files, 5));
	close(looked_at);
	terrace__files_close(files);
	close(dir_fd);
	scratch_remove(&scratch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_write__notices_who_was_faster_than_its_lock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
