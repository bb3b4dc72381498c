/* Both names of a function are stood before, each under its own. */
#undef _FILE_OFFSET_BITS

#include "shim.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

static _Atomic int armed = -1; /* the kind */
static _Atomic uint64_t calls, at;
static _Atomic bool ever;
static _Atomic int64_t live;
static _Thread_local bool spared; /* this thread is where no allocation may fail */
static const char *report;        /* a file to make when the k-th call comes */

void fault_arm(enum fault_kind kind, uint64_t k, bool for_ever)
{
	atomic_store(&calls, 0);
	atomic_store(&at, k);
	atomic_store(&ever, for_ever);
	atomic_store(&armed, (int)kind);
}

bool fault_disarm(void)
{
	atomic_store(&armed, -1);
	return atomic_load(&calls) >= atomic_load(&at);
}

static _Atomic bool forbids_writing;

void fault_forbid_writing(bool forbid)
{
	atomic_store(&forbids_writing, forbid);
}

int64_t fault_live(void)
{
	return atomic_load(&live);
}

/* Who preloads wants to know whether the call came. */
static void tell(void)
{
	long fd = syscall(SYS_openat, AT_FDCWD, report, O_CREAT | O_WRONLY, 0600);

	if (fd >= 0)
		syscall(SYS_close, fd);
}

/* Is it this call that fails? */
static bool fails(enum fault_kind kind)
{
	uint64_t call;

	if (atomic_load_explicit(&armed, memory_order_relaxed) != (int)kind)
		return false;
	call = atomic_fetch_add(&calls, 1) + 1;
	if (call == atomic_load(&at) && report)
		tell();
	if (call < atomic_load(&at) || !atomic_load(&ever))
		return call == atomic_load(&at);
	/* Nothing is interrupted each time that it is tried. */
	return kind != FAULT_EINTR || (call - atomic_load(&at)) % 2 == 0;
}

/* The error of a call that may fail in these ways; 0: none. */
static int error_of(unsigned kinds)
{
	static const int errors[] = {
		[FAULT_EIO] = EIO,     [FAULT_ENOSPC] = ENOSPC, [FAULT_EMFILE] = EMFILE,
		[FAULT_EINTR] = EINTR, [FAULT_KERNEL] = ENOMEM,
	};

	for (unsigned kind = FAULT_EIO; kind < FAULT_COUNT; kind++) {
		if (kind != FAULT_SHORT && kinds & 1u << kind && fails(kind))
			return errors[kind];
	}
	return 0;
}

enum {
	IO = 1 << FAULT_EIO,
	SPACE = 1 << FAULT_ENOSPC,
	FILES = 1 << FAULT_EMFILE,
	INTR = 1 << FAULT_EINTR,
	KERNEL = 1 << FAULT_KERNEL,
};

/*
 * A macro that makes a function asks for a semicolon: what reads C without
 * knowing the macro then sees a declaration, not the head of the next function.
 */

/* The function that we stand before. */
#define REAL(name)                     \
	static __typeof__(name) *real; \
	if (!real)                     \
	*(void **)&real = dlsym(RTLD_NEXT, #name)

#define FAIL(kinds, failure)                 \
	do {                                 \
		int error = error_of(kinds); \
		if (error) {                 \
			errno = error;       \
			return failure;      \
		}                            \
	} while (0)

/* --- preloaded ------------------------------------------------------------------------------- */

static void in_child(void)
{
	atomic_store(&armed, -1);
}

__attribute__((constructor)) static void start(void)
{
	const char *kind = getenv("FAULT_KIND"), *k = getenv("FAULT_AT");

	/* What the program runs is not to fail. */
	pthread_atfork(NULL, NULL, in_child);
	if (!kind || !k)
		return;
	unsetenv("LD_PRELOAD");
	report = getenv("FAULT_REPORT");
	fault_arm((enum fault_kind)atoi(kind), strtoull(k, NULL, 10), getenv("FAULT_EVER") != NULL);
}

/* --- memory ------------------------------------------------------------------------------------ */

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *memory);

static void *counted(void *memory)
{
	if (memory)
		atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
	return memory;
}

static bool no_memory(void)
{
	if (spared || !fails(FAULT_MEMORY))
		return false;
	errno = ENOMEM;
	return true;
}

void *malloc(size_t size)
{
	return no_memory() ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
	return no_memory() ? NULL : counted(__libc_calloc(count, size));
}

void *realloc(void *memory, size_t size)
{
	if (!memory)
		return malloc(size);
	return no_memory() ? NULL : __libc_realloc(memory, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	return no_memory() ? NULL : counted(__libc_memalign(alignment, size));
}

int posix_memalign(void **ret, size_t alignment, size_t size)
{
	*ret = aligned_alloc(alignment, size);
	return *ret ? 0 : ENOMEM;
}

void free(void *memory)
{
	if (memory)
		atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
	__libc_free(memory);
}

/* libzstd until 1.5.5 reads through NULL where making a dictionary for compression has no memory. */
void *ZSTD_createCDict(const void *bytes, size_t size, int level);
size_t ZDICT_trainFromBuffer(void *bytes, size_t capacity, const void *samples, const size_t *sizes,
                             unsigned count);

void *ZSTD_createCDict(const void *bytes, size_t size, int level)
{
	void *dictionary;
	REAL(ZSTD_createCDict);

	spared = true;
	dictionary = real(bytes, size, level);
	spared = false;
	return dictionary;
}

/* It takes 40 ms: of the same samples as before it makes the same. */
size_t ZDICT_trainFromBuffer(void *bytes, size_t capacity, const void *samples, const size_t *sizes,
                             unsigned count)
{
	static _Thread_local struct {
		uint64_t of;
		size_t size;
		char bytes[64 << 10];
	} made;
	const unsigned char *byte = samples;
	uint64_t of = capacity;
	REAL(ZDICT_trainFromBuffer);

	for (unsigned i = 0; i < count; i++) {
		for (size_t j = 0; j < sizes[i]; j++)
			of = (of ^ *byte++) * 0x100000001b3;
	}
	if (made.of != of || capacity > sizeof made.bytes) {
		spared = true;
		made.size = real(bytes, capacity, samples, sizes, count);
		spared = false;
		made.of = of;
		if (made.size <= sizeof made.bytes)
			memcpy(made.bytes, bytes, made.size);
	} else if (made.size <= sizeof made.bytes) {
		memcpy(bytes, made.bytes, made.size);
	}
	return made.size;
}

/* --- opening and closing -------------------------------------------------------------------------- */

static mode_t mode_of(int flags, va_list args)
{
	return flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
}

static unsigned opening(int flags)
{
	return IO | FILES | INTR | (flags & O_CREAT ? SPACE : 0u);
}

#define OPEN(name)                                 \
	int name(const char *path, int flags, ...) \
	{                                          \
		va_list args;                      \
		mode_t mode;                       \
		REAL(name);                        \
		va_start(args, flags);             \
		mode = mode_of(flags, args);       \
		va_end(args);                      \
		FAIL(opening(flags), -1);          \
		return real(path, flags, mode);    \
	}                                          \
	_Static_assert(1, "a semicolon comes next")
OPEN(open);
OPEN(open64);

#define OPENAT(name)                                        \
	int name(int dir, const char *path, int flags, ...) \
	{                                                   \
		va_list args;                               \
		mode_t mode;                                \
		REAL(name);                                 \
		va_start(args, flags);                      \
		mode = mode_of(flags, args);                \
		va_end(args);                               \
		FAIL(opening(flags), -1);                   \
		return real(dir, path, flags, mode);        \
	}                                                   \
	_Static_assert(1, "a semicolon comes next")
OPENAT(openat);
OPENAT(openat64);

/* What glibc has no function for. */
long syscall(long number, ...)
{
	long argument[6];
	va_list args;
	REAL(syscall);

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		argument[i] = va_arg(args, long);
	va_end(args);
	if (number == SYS_openat2)
		FAIL(opening((int)((const struct open_how *)argument[2])->flags), -1);
	return real(number, argument[0], argument[1], argument[2], argument[3], argument[4],
	            argument[5]);
}

#define FOPEN(name)                                    \
	FILE *name(const char *path, const char *mode) \
	{                                              \
		REAL(name);                            \
		FAIL(opening(0), NULL);                \
		return real(path, mode);               \
	}                                              \
	_Static_assert(1, "a semicolon comes next")
FOPEN(fopen);
FOPEN(fopen64);

DIR *opendir(const char *path)
{
	REAL(opendir);
	FAIL(opening(0), NULL);
	return real(path);
}

int pipe2(int fds[2], int flags)
{
	REAL(pipe2);
	FAIL(FILES, -1);
	return real(fds, flags);
}

int memfd_create(const char *name, unsigned flags)
{
	REAL(memfd_create);
	FAIL(FILES | KERNEL, -1);
	return real(name, flags);
}

/* Whatever it says, the descriptor is closed. */
int close(int fd)
{
	int rc;
	REAL(close);

	rc = real(fd);
	FAIL(IO | INTR, -1);
	return rc;
}

/* --- reading and writing ----------------------------------------------------------------------------- */

/* A pipe or a terminal has no disk that could fail. */
static unsigned on_disk(int fd, unsigned kinds)
{
	struct stat st;
	int saved = errno;
	bool is_file;

	if (atomic_load_explicit(&armed, memory_order_relaxed) < 0)
		return 0;
	is_file = syscall(SYS_fstat, fd, &st) == 0 && S_ISREG(st.st_mode);
	errno = saved;
	return is_file ? kinds : kinds & ~(unsigned)(IO | SPACE);
}

static size_t shortened(size_t size)
{
	return size > 1 && fails(FAULT_SHORT) ? size / 2 : size;
}

ssize_t read(int fd, void *data, size_t size)
{
	REAL(read);
	FAIL(on_disk(fd, IO | INTR), -1);
	return real(fd, data, shortened(size));
}

ssize_t write(int fd, const void *data, size_t size)
{
	REAL(write);
	FAIL(on_disk(fd, IO | SPACE | INTR), -1);
	return real(fd, data, shortened(size));
}

#define PREAD(name, offset_type)                                          \
	ssize_t name(int fd, void *data, size_t size, offset_type offset) \
	{                                                                 \
		REAL(name);                                               \
		FAIL(IO | INTR, -1);                                      \
		return real(fd, data, shortened(size), offset);           \
	}                                                                 \
	_Static_assert(1, "a semicolon comes next")
PREAD(pread, off_t);
PREAD(pread64, off64_t);

#define PWRITE(name, offset_type)                                               \
	ssize_t name(int fd, const void *data, size_t size, offset_type offset) \
	{                                                                       \
		REAL(name);                                                     \
		FAIL(IO | SPACE | INTR, -1);                                    \
		return real(fd, data, shortened(size), offset);                 \
	}                                                                       \
	_Static_assert(1, "a semicolon comes next")
PWRITE(pwrite, off_t);
PWRITE(pwrite64, off64_t);

/* Is a call to be short? Then of the first part that is not empty alone. */
static bool shorten(const struct iovec *vector, int count, struct iovec *ret)
{
	for (int i = 0; i < count; i++) {
		if (vector[i].iov_len == 0)
			continue;
		*ret = vector[i];
		ret->iov_len = shortened(ret->iov_len);
		return ret->iov_len != vector[i].iov_len;
	}
	return false;
}

#define VECTOR(name, kinds)                                                     \
	ssize_t name(int fd, const struct iovec *vector, int count)             \
	{                                                                       \
		struct iovec half;                                              \
		REAL(name);                                                     \
		FAIL(kinds, -1);                                                \
		return shorten(vector, count, &half) ? real(fd, &half, 1) :     \
		                                       real(fd, vector, count); \
	}                                                                       \
	_Static_assert(1, "a semicolon comes next")
VECTOR(readv, IO | INTR);
VECTOR(writev, IO | SPACE | INTR);

#define SYNC(name)                           \
	int name(int fd)                     \
	{                                    \
		REAL(name);                  \
		FAIL(IO | SPACE | INTR, -1); \
		return real(fd);             \
	}                                    \
	_Static_assert(1, "a semicolon comes next")
SYNC(fsync);
SYNC(fdatasync);

#define TRUNCATE(name, offset_type)          \
	int name(int fd, offset_type size)   \
	{                                    \
		REAL(name);                  \
		FAIL(IO | SPACE | INTR, -1); \
		return real(fd, size);       \
	}                                    \
	_Static_assert(1, "a semicolon comes next")
TRUNCATE(ftruncate, off_t);
TRUNCATE(ftruncate64, off64_t);

/* These return their error. */
#define ALLOCATE(name, offset_type)                            \
	int name(int fd, offset_type offset, offset_type size) \
	{                                                      \
		int error = error_of(IO | SPACE | INTR);       \
		REAL(name);                                    \
		return error ? error : real(fd, offset, size); \
	}                                                      \
	_Static_assert(1, "a semicolon comes next")
ALLOCATE(posix_fallocate, off_t);
ALLOCATE(posix_fallocate64, off64_t);

/* --- names ------------------------------------------------------------------------------------------------ */

int mkdir(const char *path, mode_t mode)
{
	REAL(mkdir);
	FAIL(IO | SPACE, -1);
	return real(path, mode);
}

int mkdirat(int dir, const char *path, mode_t mode)
{
	REAL(mkdirat);
	FAIL(IO | SPACE, -1);
	return real(dir, path, mode);
}

int unlink(const char *path)
{
	REAL(unlink);
	FAIL(IO, -1);
	return real(path);
}

int unlinkat(int dir, const char *path, int flags)
{
	REAL(unlinkat);
	FAIL(IO, -1);
	return real(dir, path, flags);
}

int rename(const char *from, const char *to)
{
	REAL(rename);
	FAIL(IO | SPACE, -1);
	return real(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	REAL(renameat);
	FAIL(IO | SPACE, -1);
	return real(from_dir, from, to_dir, to);
}

#define STAT(name, type)                            \
	int name(const char *path, struct type *st) \
	{                                           \
		REAL(name);                         \
		FAIL(IO | KERNEL, -1);              \
		return real(path, st);              \
	}                                           \
	_Static_assert(1, "a semicolon comes next")
STAT(stat, stat);
STAT(stat64, stat64);
STAT(lstat, stat);
STAT(lstat64, stat64);

#define FSTAT(name, type)                 \
	int name(int fd, struct type *st) \
	{                                 \
		REAL(name);               \
		FAIL(IO | KERNEL, -1);    \
		return real(fd, st);      \
	}                                 \
	_Static_assert(1, "a semicolon comes next")
FSTAT(fstat, stat);
FSTAT(fstat64, stat64);
FSTAT(fstatfs, statfs);
FSTAT(fstatfs64, statfs64);

#define FSTATAT(name, type)                                             \
	int name(int dir, const char *path, struct type *st, int flags) \
	{                                                               \
		REAL(name);                                             \
		FAIL(IO | KERNEL, -1);                                  \
		return real(dir, path, st, flags);                      \
	}                                                               \
	_Static_assert(1, "a semicolon comes next")
FSTATAT(fstatat, stat);
FSTATAT(fstatat64, stat64);

int access(const char *path, int mode)
{
	REAL(access);
	FAIL(IO, -1);
	return real(path, mode);
}

int faccessat(int dir, const char *path, int mode, int flags)
{
	REAL(faccessat);
	FAIL(IO, -1);
	if (mode & W_OK && atomic_load(&forbids_writing)) {
		errno = EACCES;
		return -1;
	}
	return real(dir, path, mode, flags);
}

ssize_t readlink(const char *path, char *target, size_t size)
{
	REAL(readlink);
	FAIL(IO | KERNEL, -1);
	return real(path, target, size);
}

int inotify_init1(int flags)
{
	REAL(inotify_init1);
	FAIL(FILES | KERNEL, -1);
	return real(flags);
}

int inotify_add_watch(int fd, const char *path, uint32_t mask)
{
	REAL(inotify_add_watch);
	FAIL(SPACE | KERNEL, -1);
	return real(fd, path, mask);
}

char *getcwd(char *path, size_t size)
{
	REAL(getcwd);
	FAIL(KERNEL, NULL);
	return real(path, size);
}

#define READDIR(name, type)         \
	struct type *name(DIR *dir) \
	{                           \
		REAL(name);         \
		FAIL(IO, NULL);     \
		return real(dir);   \
	}                           \
	_Static_assert(1, "a semicolon comes next")
READDIR(readdir, dirent);
READDIR(readdir64, dirent64);

/* SQLite waits for a lock by sleeping; for one that cannot be had it need not. */
int usleep(useconds_t us)
{
	REAL(usleep);
	return atomic_load(&armed) >= 0 ? 0 : real(us);
}

/* --- the kernel's own memory -------------------------------------------------------------------------------- */

/* Taking a lock may fail for want of memory; letting go of one does not. */
static bool takes_lock(int command, const struct flock *lock)
{
	return (command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK ||
	        command == F_OFD_SETLKW) &&
	       lock->l_type != F_UNLCK;
}

/* Who does not wait is not interrupted. */
static unsigned waits(int command)
{
	return command == F_SETLKW || command == F_OFD_SETLKW ? INTR : 0u;
}

#define FCNTL(name)                                                       \
	int name(int fd, int command, ...)                                \
	{                                                                 \
		va_list args;                                             \
		void *argument;                                           \
		REAL(name);                                               \
		va_start(args, command);                                  \
		argument = va_arg(args, void *);                          \
		va_end(args);                                             \
		if (takes_lock(command, argument)) {                      \
			int error = error_of(KERNEL | waits(command));    \
			if (error) {                                      \
				errno = error == ENOMEM ? ENOLCK : error; \
				return -1;                                \
			}                                                 \
		}                                                         \
		return real(fd, command, argument);                       \
	}                                                                 \
	_Static_assert(1, "a semicolon comes next")
FCNTL(fcntl);
FCNTL(fcntl64);

#define MMAP(name, offset_type)                                                   \
	void *name(void *address, size_t size, int protection, int flags, int fd, \
	           offset_type offset)                                            \
	{                                                                         \
		REAL(name);                                                       \
		FAIL(KERNEL, MAP_FAILED);                                         \
		return real(address, size, protection, flags, fd, offset);        \
	}                                                                         \
	_Static_assert(1, "a semicolon comes next")
MMAP(mmap, off_t);
MMAP(mmap64, off64_t);

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                   void *ctx)
{
	REAL(pthread_create);
	return error_of(KERNEL) ? EAGAIN : real(thread, attributes, run, ctx);
}

pid_t fork(void)
{
	REAL(fork);
	FAIL(KERNEL, -1);
	return real();
}
