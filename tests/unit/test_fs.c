/* Files and paths: reading and writing whole, what fails, and where a limit of sizes stands. */
#include "support/support.h"

#include "util/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct scratch scratch;

static int setup(void **state)
{
	(void)state;
	scratch_make(&scratch);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	scratch_remove(&scratch);
	return 0;
}

/* --- whole ------------------------------------------------------------------------------------------ */

static void test_fs__what_fails_says_its_error(void **state)
{
	struct iovec part = { (char *)"x", 1 };
	size_t got = 77;
	char byte;

	(void)state;
	assert_int_equal(terrace__read_full(-1, &byte, 1, 0, &got), -EBADF);
	assert_int_equal(got, 77);
	assert_int_equal(terrace__write_full(-1, "x", 1, 0), -EBADF);
	assert_int_equal(terrace__writev_full(-1, &part, 1), -EBADF);
	/* nor is it taken for a file system that tells of changes */
	assert_false(terrace__fs_tells(-1));
	assert_false(terrace__fs_is_overlay(-1));
}

static void test_fs__empty_parts_are_nothing(void **state)
{
	struct iovec parts[] = {
		{ NULL, 0 }, { (char *)"ab", 2 }, { NULL, 0 }, { (char *)"c", 1 }, { NULL, 0 }
	};
	char text[8] = "";
	size_t got;
	int fd = open(scratch_path(&scratch, "file"), O_CREAT | O_RDWR | O_CLOEXEC, 0600);

	(void)state;
	assert_int_equal(terrace__writev_full(fd, parts, 5), 0);
	assert_int_equal(terrace__read_full(fd, text, sizeof text, 0, &got), 0);
	assert_int_equal(got, 3);
	assert_string_equal(text, "abc");
	close(fd);
}

/* --- a limit of file sizes ---------------------------------------------------------------------------- */

static void limit_to(rlim_t bytes)
{
	struct rlimit limit = { bytes, RLIM_INFINITY };

	if (setrlimit(RLIMIT_FSIZE, &limit) < 0)
		_exit(90);
}

/* In a child, so that the limit is nobody else's. */
static void assert_child(int (*run)(int fd))
{
	int fd = open(scratch_path(&scratch, "limited"), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC,
	              0600),
	    status;
	pid_t child = fork();

	if (child == 0) {
		int rc;

		limit_to(10);
		rc = run(fd);
		limit_to(RLIM_INFINITY); /* for what leaving writes */
		_exit(rc);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	close(fd);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* The first six bytes and then four of six fit: half of a part is written, and then no more. */
static int write_parts(int fd)
{
	struct iovec parts[] = { { (char *)"abcdef", 6 }, { (char *)"ghijkl", 6 } };
	struct stat st;

	if (terrace__writev_full(fd, parts, 2) != -EFBIG)
		return 1;
	if (fstat(fd, &st) < 0 || st.st_size != 10)
		return 2;
	/* told once, and the process lives */
	return terrace__limit_met() && !terrace__limit_met() ? 0 : 3;
}

static int write_at_once(int fd)
{
	return terrace__write_full(fd, "abcdefghijkl", 12, 0) == -EFBIG && terrace__limit_met() ?
	           0 :
	           1;
}

static int meets_within(int fd)
{
	bool before, met;

	terrace__limit_enter();
	before = terrace__limit_meets();
	if (write(fd, "abcdefghijkl", 12) != 10 || write(fd, "k", 1) != -1)
		return 1;
	met = terrace__limit_meets();
	terrace__limit_leave();
	return !before && met && !terrace__limit_meets() && terrace__limit_met() ? 0 : 2;
}

/* A program that waits for the signal itself finds it waiting. */
static int leaves_what_the_program_blocks(int fd)
{
	sigset_t size, pending;

	sigemptyset(&size);
	sigaddset(&size, SIGXFSZ);
	sigprocmask(SIG_BLOCK, &size, NULL);
	if (terrace__write_full(fd, "abcdefghijkl", 12, 0) != -EFBIG)
		return 1;
	sigpending(&pending);
	return sigismember(&pending, SIGXFSZ) ? 0 : 2;
}

static void test_fs__a_limit_of_sizes_is_an_error_and_no_death(void **state)
{
	(void)state;
	assert_child(write_parts);
	assert_child(write_at_once);
	assert_child(meets_within);
	assert_child(leaves_what_the_program_blocks);
	assert_false(terrace__limit_meets());
	assert_false(terrace__limit_met());
}

/* --- below a directory ---------------------------------------------------------------------------------- */

static void test_fs__below_is_one_directory_deep(void **state)
{
	char longer[NAME_MAX + 8];
	int dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd;

	(void)state;
	memset(longer, 'd', sizeof longer);
	strcpy(longer + NAME_MAX + 1, "/file");
	assert_int_equal(mkdir(scratch_path(&scratch, "sub"), 0700), 0);
	fd = terrace__open_below(dir, "sub/file", O_CREAT | O_RDWR, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(terrace__open_below(dir, "file", O_RDONLY, 0), -EINVAL);
	assert_int_equal(terrace__open_below(dir, longer, O_RDONLY, 0), -EINVAL);
	assert_int_equal(terrace__open_below(dir, "none/file", O_RDONLY, 0), -ENOENT);
	assert_int_equal(terrace__unlink_below(dir, "file"), -EINVAL);
	assert_int_equal(terrace__unlink_below(dir, "sub/none"), -ENOENT);
	assert_int_equal(terrace__unlink_below(dir, "sub/file"), 0);
	/* never through a link */
	assert_int_equal(symlink("sub", scratch_path(&scratch, "link")), 0);
	assert_true(terrace__open_below(dir, "link/file", O_CREAT | O_RDWR, 0600) < 0);
	close(dir);
}

/* --- paths --------------------------------------------------------------------------------------------------- */

static void test_fs__directories_are_made_on_the_way(void **state)
{
	char longer[PATH_MAX + 8];
	struct stat st;

	(void)state;
	memset(longer, 'd', sizeof longer);
	longer[sizeof longer - 1] = '\0';
	assert_int_equal(terrace__make_dirs(scratch_path(&scratch, "one/two/three"), 0700), 0);
	assert_int_equal(stat(scratch_path(&scratch, "one/two/three"), &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(terrace__make_dirs(scratch_path(&scratch, "one/two/three"), 0700), 0);
	assert_int_equal(terrace__make_dirs("", 0700), -ENOENT);
	assert_int_equal(terrace__make_dirs(longer, 0700), -ENAMETOOLONG);
	write_file(scratch_path(&scratch, "one/file"), "");
	assert_int_equal(terrace__make_dirs(scratch_path(&scratch, "one/file/below"), 0700),
	                 -ENOTDIR);
	/* one that is there may refuse, and is there all the same */
	assert_int_equal(terrace__make_dirs("/proc/self", 0700), 0);
	assert_true(terrace__make_dirs("/proc/none", 0700) < 0);
}

/* The working directory is the process's. */
static int absolute_elsewhere(int fd)
{
	char path[PATH_MAX];

	(void)fd;
	if (chdir("/") < 0 || terrace__absolute_path("a/../b", path, sizeof path) != 0 ||
	    strcmp(path, "/b") != 0)
		return 1;
	if (chdir(scratch.path) < 0 || terrace__absolute_path("x", path, 4) != -ENAMETOOLONG)
		return 2;
	if (mkdir("gone", 0700) < 0 || chdir("gone") < 0 || rmdir("../gone") < 0)
		return 3;
	if (terrace__absolute_path("x", path, sizeof path) != -ENOENT)
		return 4;
	/* what is absolute needs none */
	return terrace__absolute_path("/../x//.", path, sizeof path) == 0 &&
	               strcmp(path, "/x") == 0 ?
	           0 :
	           5;
}

static void test_fs__absolute_paths_from_anywhere(void **state)
{
	char one[1];

	(void)state;
	assert_child(absolute_elsewhere);
	assert_int_equal(terrace__absolute_path("", one, sizeof one), -ENOENT);
	assert_int_equal(terrace__absolute_path("/", one, sizeof one), -ENAMETOOLONG);
}

/* The second half, when the first was read. */
static void *write_halves(void *ctx)
{
	int fd = *(int *)ctx, waiting = 1;

	assert_int_equal(write(fd, "abc", 3), 3);
	while (waiting > 0 && ioctl(fd, FIONREAD, &waiting) == 0)
		sched_yield();
	assert_int_equal(write(fd, "def", 3), 3);
	return NULL;
}

/* A read that gives less is gone on with, across the parts; and enough is enough: a pipe would give no more. */
static void test_fs__a_vector_is_read_until_it_has_enough(void **state)
{
	char bytes[8] = "";
	struct iovec parts[] = { { bytes, 2 }, { bytes + 2, 3 }, { bytes + 5, 2 } };
	pthread_t writer;
	int ends[2];
	size_t got;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(pthread_create(&writer, NULL, write_halves, &ends[1]), 0);
	assert_int_equal(terrace__readv_full(ends[0], parts, 3, 6, &got), 0);
	assert_int_equal(got, 6);
	assert_string_equal(bytes, "abcdef");
	pthread_join(writer, NULL);
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_fs__what_fails_says_its_error),
		TEST(test_fs__empty_parts_are_nothing),
		TEST(test_fs__a_limit_of_sizes_is_an_error_and_no_death),
		TEST(test_fs__below_is_one_directory_deep),
		TEST(test_fs__directories_are_made_on_the_way),
		TEST(test_fs__absolute_paths_from_anywhere),
		TEST(test_fs__a_vector_is_read_until_it_has_enough),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
