/*
 * Every operation, killed at each of its system calls in turn: the process is
 * traced, and dies on entering call 1, 2, 3, … of those that touch files. What
 * is left is then opened by another process, which must find what was there
 * before, or after, or nothing, for the key that was being written; everything
 * else as it was; no damage; and a store that takes new values.
 *
 * STEP: try every STEP-th call only; which ones depends on SEED.
 */
#include "proofs/letters.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if !defined(__x86_64__)
int main(void)
{
	printf("killed: skipped: it reads system call numbers of x86-64\n");
	return EXIT_SKIPPED;
}
#else
#include <sys/user.h>

enum { OTHERS = 20, SMALL = 200, LARGE = 50000, BLOCKS = 600000, PIECE = 100000 };

static char directory[256];
static int first; /* call that is tried */
static struct progress {
	_Atomic int returned, failed;
	_Atomic uint64_t operations;
} * progress;

static void fail(const char *what, const char *detail)
{
	fprintf(stderr, "killed: %s: %s\n", what, detail);
	atomic_store(&progress->failed, 1);
}

/* --- a store -------------------------------------------------------------------------------------- */

struct opened {
	terrace *store;
	terrace_cache *cache;
};

static struct opened open_store(bool behind, uint64_t disk_entries)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct opened opened;
	char path[300];

	snprintf(path, sizeof path, "%s/store", directory);
	policy.write = behind ? TERRACE_WRITE_BEHIND : TERRACE_WRITE_THROUGH;
	policy.inline_bytes = 4000;
	policy.disk_entries = disk_entries;
	if (terrace_open(path, NULL, &opened.store) != TERRACE_OK ||
	    terrace_cache_open(opened.store, "a", &policy, &opened.cache) != TERRACE_OK) {
		fail("open", terrace_error_message());
		_exit(1);
	}
	return opened;
}

static void close_store(struct opened *opened)
{
	terrace_cache_close(opened->cache);
	terrace_close(opened->store);
}

static int put(struct opened *o, const char *key, char letter, size_t size)
{
	static const char *const tags[] = { "tag" };
	terrace_put_options options = TERRACE_PUT_INIT;

	options.tags = tags;
	options.tag_count = key[0] == 'k';
	return terrace_put(o->cache, terrace_str(key), letter_bytes(letter, size), &options);
}

static char look(struct opened *o, const char *key)
{
	return letter_look(o->cache, key);
}

static const char *other(int i, char ret[16])
{
	snprintf(ret, 16, "other %d", i);
	return ret;
}

static void fill(struct opened *o, size_t size)
{
	char key[16];

	if (size)
		put(o, "key", 'o', size);
	else
		terrace_delete(o->cache, TERRACE_KEY("key"));
	for (int i = 0; i < OTHERS; i++)
		put(o, other(i, key), (char)('A' + i), i % 2 ? SMALL : LARGE);
}

/* --- what is done, and what may be found afterwards ------------------------------------------------- */

struct operation {
	const char *name;
	size_t before; /* the size of the older value; 0: none */
	int (*run)(struct opened *o);
	const char *returned; /* the letters that may be found when it has returned; ' ': none */
	bool behind;
	uint64_t disk_entries;
	bool drops_others; /* it may */
};

static int put_small(struct opened *o)
{
	return put(o, "key", 'n', SMALL);
}

static int put_large(struct opened *o)
{
	return put(o, "key", 'n', LARGE);
}

/* In blocks, written at once and piece by piece. */
static int put_blocks(struct opened *o)
{
	return put(o, "key", 'n', BLOCKS);
}

static int stream(struct opened *o)
{
	terrace_slice bytes = letter_bytes('n', BLOCKS);
	terrace_writer *writer;
	int rc = terrace_writer_open(o->cache, TERRACE_KEY("key"), NULL, &writer);

	for (size_t at = 0; at < BLOCKS && rc == TERRACE_OK; at += PIECE)
		rc = terrace_writer_write(writer,
		                          terrace_bytes((const char *)bytes.data + at, PIECE));
	rc = terrace_writer_commit(writer);
	return rc == TERRACE_MISS ? TERRACE_EIO : rc;
}

static int put_flushed(struct opened *o)
{
	put(o, "key", 'n', SMALL);
	return terrace_flush(o->store);
}

static int put_waiting(struct opened *o)
{
	return put(o, "key", 'n', LARGE);
}

static int delete_key(struct opened *o)
{
	return terrace_delete(o->cache, TERRACE_KEY("key"));
}

static int invalidate_tag(struct opened *o)
{
	terrace_match match = terrace_match_text(TERRACE_MATCH_TAG, "tag");

	return terrace_invalidate(o->cache, &match, NULL);
}

static int clear_all(struct opened *o)
{
	return terrace_clear(o->cache, 0, NULL);
}

static int promote(struct opened *o)
{
	look(o, "key");
	look(o, "other 0");
	return TERRACE_OK;
}

static int count_up(struct opened *o)
{
	return terrace_touch(o->cache, TERRACE_KEY("key"), 1000000);
}

static int clean(struct opened *o)
{
	return terrace_cleanup(o->store, NULL, NULL);
}

static const struct operation all[] = {
	{ "put a row", 0, put_small, "n", .behind = false },
	{ "put a row over a row", SMALL, put_small, "n" },
	{ "put a row over a file", LARGE, put_small, "n" },
	{ "put a file", 0, put_large, "n" },
	{ "put a file over a file", LARGE, put_large, "n" },
	{ "put blocks over a row", SMALL, put_blocks, "n" },
	{ "stream", 0, stream, "n" },
	{ "stream over blocks", BLOCKS, stream, "n" },
	{ "delete blocks", BLOCKS, delete_key, " " },
	{ "put and flush", SMALL, put_flushed, "n", .behind = true },
	{ "put behind", SMALL, put_waiting, "n ", .behind = true },
	{ "delete a row", SMALL, delete_key, " " },
	{ "delete a file", LARGE, delete_key, " " },
	{ "invalidate by tag", SMALL, invalidate_tag, " " },
	{ "clear", LARGE, clear_all, " ", .drops_others = true },
	{ "put and evict", SMALL, put_large, "n ", .disk_entries = 5, .drops_others = true },
	{ "promote", LARGE, promote, "o" },
	{ "touch", SMALL, count_up, "o" },
	{ "clean up", SMALL, clean, "o" },
};

/* --- processes ------------------------------------------------------------------------------------------ */

/* Run fn in a process of its own, untraced. */
static void apart(void (*fn)(const struct operation *op), const struct operation *op)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		fn(op);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	if (status != 0)
		fail(op->name, "the process that looked or prepared did not end well");
}

static void prepare(const struct operation *op)
{
	struct opened o = open_store(false, 0);

	fill(&o, op->before);
	close_store(&o);
}

static int on_fault(void *ctx, const terrace_fault *fault)
{
	if (fault->kind != TERRACE_FAULT_ORPHAN)
		fail(ctx, fault->detail);
	return 0;
}

static void inspect(const struct operation *op)
{
	struct opened o = open_store(false, 0);
	bool returned = atomic_load(&progress->returned);
	char path[300];
	char key[16], letter = look(&o, "key");
	const char *allowed = returned ? op->returned : "on ";

	/* What was half written is gone: it was swept when the store was opened. */
	snprintf(path, sizeof path, "%s/store/v2/files/new", directory);
	if (rmdir(path) != 0 && errno != ENOENT)
		fail(op->name, "something was left half written");
	if (!strchr(allowed, letter) || (letter == 'o' && !op->before))
		fail(op->name,
		     returned ? "the wrong value after it had returned" : "a wrong value");
	for (int i = 0; i < OTHERS && !op->drops_others; i++) {
		if (look(&o, other(i, key)) != 'A' + i)
			fail(op->name, "another key lost its value");
	}
	terrace_verify(o.store, false, on_fault, (void *)(uintptr_t)op->name, NULL);
	if (put(&o, "key", 'z', SMALL) != TERRACE_OK || look(&o, "key") != 'z')
		fail(op->name, "the store takes no new value");
	close_store(&o);
}

/* --- tracing ---------------------------------------------------------------------------------------------- */

static bool touches_files(uint64_t call)
{
	static const long calls[] = {
		SYS_open,      SYS_openat,
		SYS_write,     SYS_pwrite64,
		SYS_writev,    SYS_pwritev,
		SYS_fsync,     SYS_fdatasync,
		SYS_ftruncate, SYS_fallocate,
		SYS_unlink,    SYS_unlinkat,
		SYS_rename,    SYS_renameat,
		SYS_renameat2, SYS_mkdir,
		SYS_mkdirat,   SYS_fcntl,
		SYS_close,     SYS_mmap,
		SYS_munmap,    SYS_link,
		SYS_linkat,    SYS_fchmod,
		SYS_pread64,   SYS_sync_file_range,
		SYS_openat2,   SYS_readv,
	};

	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
		if ((uint64_t)calls[i] == call)
			return true;
	}
	return false;
}

static void traced(const struct operation *op)
{
	struct opened o;
	int rc;

	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	raise(SIGSTOP);
	o = open_store(op->behind, op->disk_entries);
	rc = op->run(&o);
	atomic_store(&progress->returned, 1);
	if (rc < 0)
		fail(op->name, terrace_error_message());
	close_store(&o);
	_exit(0);
}

/* Kill it on entering call `which`; false when it ended before. */
static bool run_until(const struct operation *op, int which)
{
	pid_t pid = fork(), who;
	int status, calls = 0;
	bool entering[1 << 16 >> 4] = { 0 };

	if (pid == 0)
		traced(op);
	waitpid(pid, &status, 0);
	ptrace(PTRACE_SETOPTIONS, pid, NULL,
	       (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL));
	ptrace(PTRACE_SYSCALL, pid, NULL, NULL);
	while ((who = waitpid(-1, &status, __WALL)) > 0) {
		bool *inside = &entering[(unsigned)who % (sizeof entering / sizeof *entering)];
		struct user_regs_struct regs;

		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			if (who != pid)
				continue;
			if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
				fail(op->name, "it died of another signal");
			return WIFSIGNALED(status);
		}
		if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
			*inside = !*inside;
			if (*inside && ptrace(PTRACE_GETREGS, who, NULL, &regs) == 0 &&
			    touches_files(regs.orig_rax) && ++calls == which) {
				kill(pid, SIGKILL);
				continue;
			}
		}
		ptrace(PTRACE_SYSCALL, who, NULL, NULL);
	}
	return false;
}

static int try_all(const struct operation *op, int step)
{
	int which = first;
	bool killed = true;

	for (; killed && !atomic_load(&progress->failed); which += step) {
		apart(prepare, op);
		atomic_store(&progress->returned, 0);
		killed = run_until(op, which);
		apart(inspect, op);
		if (atomic_load(&progress->failed))
			fprintf(stderr, "killed: … at call %d\n", which);
	}
	return which - step;
}

/* The first open of all, killed while the store is made. */
static int try_making(int step)
{
	static const struct operation op = { "make a store", 0, put_small, "n" };
	int which = first;
	bool killed = true;

	for (; killed && !atomic_load(&progress->failed); which += step) {
		char path[300];

		snprintf(path, sizeof path, "%s/store", directory);
		remove_dir(path);
		atomic_store(&progress->returned, 0);
		killed = run_until(&op, which);
		pid_t pid = fork();
		int status;

		if (pid == 0) {
			struct opened o = open_store(false, 0);
			char letter = look(&o, "key");

			if (letter != 'n' && (letter != ' ' || atomic_load(&progress->returned)))
				fail(op.name, "a wrong value");
			if (put(&o, "key", 'z', SMALL) != TERRACE_OK || look(&o, "key") != 'z')
				fail(op.name, "the store takes no new value");
			close_store(&o);
			_exit(0);
		}
		waitpid(pid, &status, 0);
		if (status != 0 || atomic_load(&progress->failed))
			fail(op.name, "half made, it cannot be used");
		if (atomic_load(&progress->failed))
			fprintf(stderr, "killed: … at call %d\n", which);
	}
	return which - step;
}

int main(void)
{
	int step = (int)amount("STEP", 1), total = 0;
	double start = seconds_now();

	setvbuf(stdout, NULL, _IOLBF, 0);
	first = 1 + (int)(proof_seed("killed") % (uint64_t)step);
	progress = share(sizeof *progress);
	scratch_dir(directory, sizeof directory);
	total = try_making(step);
	printf("  %-24s %4d calls\n", "make a store", total);
	for (size_t i = 0; i < sizeof all / sizeof *all && !atomic_load(&progress->failed); i++) {
		int calls = try_all(&all[i], step);

		printf("  %-24s %4d calls\n", all[i].name, calls);
		total += calls;
	}
	printf("killed: %d kills, %.1f s: %s\n", total / step, seconds_now() - start,
	       atomic_load(&progress->failed) ? "FAILED" : "no lie, nothing lost");
	if (!atomic_load(&progress->failed))
		remove_dir(directory);
	return atomic_load(&progress->failed);
}
#endif
