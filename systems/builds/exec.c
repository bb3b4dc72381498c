/* Running the command: its output streams through and is kept. */
#include "builds/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* More than this is passed on, but not kept. */
enum { CAPTURE_MAX = 256 << 20 };
/* How long what the command left behind may still write to its output. */
enum { GRACE_MS = 100 };

void capture_done(struct capture *capture)
{
	for (size_t i = 0; i < capture->count; i++)
		free(capture->chunks[i].data);
	free(capture->chunks);
	*capture = (struct capture){ 0 };
}

/* Keep what was read; joins what comes from one stream at a time. */
static void keep(struct capture *capture, int stream, const char *data, size_t size)
{
	struct chunk *chunk = capture->count ? &capture->chunks[capture->count - 1] : NULL;
	char *grown;

	if (!capture->whole)
		return;
	if (capture->bytes + size > CAPTURE_MAX) {
		capture->whole = false;
		return;
	}
	if (!chunk || chunk->stream != stream) {
		if (capture->count == capture->capacity) {
			size_t capacity = capture->capacity ? 2 * capture->capacity : 16;
			void *more = realloc(capture->chunks, capacity * sizeof *chunk);

			if (!more) {
				capture->whole = false;
				return;
			}
			capture->chunks = more;
			capture->capacity = capacity;
		}
		chunk = &capture->chunks[capture->count++];
		*chunk = (struct chunk){ .stream = stream };
	}
	grown = realloc(chunk->data, chunk->size + size);
	if (!grown) {
		capture->whole = false;
		return;
	}
	memcpy(grown + chunk->size, data, size);
	chunk->data = grown;
	chunk->size += size;
	capture->bytes += size;
}

int output_lost(int status, int err)
{
	note("cannot write to standard output: %s", strerror(err));
	return status ? status : RUN_LOST;
}

/* --- signals -------------------------------------------------------------------------------------- */

static volatile sig_atomic_t child;

/* What somebody sent us is for the command. What the terminal sends it has already. */
static void forward(int number, siginfo_t *info, void *context)
{
	int saved = errno;

	(void)context;
	if (info->si_code <= 0 && child > 0)
		kill((pid_t)child, number);
	errno = saved;
}

static const int forwarded[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 };
enum { FORWARDED = sizeof forwarded / sizeof *forwarded };

static void forward_signals(struct sigaction old[FORWARDED])
{
	struct sigaction action = { .sa_flags = SA_SIGINFO | SA_RESTART };

	action.sa_sigaction = forward;
	sigemptyset(&action.sa_mask);
	for (int i = 0; i < FORWARDED; i++) {
		sigaction(forwarded[i], NULL, &old[i]);
		/* Who has us ignore a signal (nohup) means the command too. */
		if (old[i].sa_handler != SIG_IGN)
			sigaction(forwarded[i], &action, NULL);
	}
}

static void restore_signals(const struct sigaction old[FORWARDED])
{
	for (int i = 0; i < FORWARDED; i++)
		sigaction(forwarded[i], &old[i], NULL);
}

/* --- the child --------------------------------------------------------------------------------------- */

struct pipes {
	int out[2], err[2], failure[2]; /* read, write */
	int input;
};

static void cannot_start(const char *command, int err)
{
	note("cannot start %s: %s", command, strerror(err));
}

static void become(const char *const *command)
{
	execvp(command[0], (char *const *)(uintptr_t)command);
}

/* To where the command looks for it, and stays open there. */
static int move(int fd, int to)
{
	return fd == to ? fcntl(fd, F_SETFD, 0) : dup2(fd, to);
}

static void in_child(const char *const *command, const struct pipes *pipes,
                     const struct sigaction old[FORWARDED], const sigset_t *mask, pid_t parent)
{
	int err;

	restore_signals(old);
	sigprocmask(SIG_SETMASK, mask, NULL);
	/* A command whose Terrace was killed would race the one who takes over. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() == parent && move(pipes->input, 0) >= 0 && move(pipes->out[1], 1) >= 0 &&
	    move(pipes->err[1], 2) >= 0)
		become(command);
	err = errno;
	while (write(pipes->failure[1], &err, sizeof err) < 0 && errno == EINTR)
		;
	_exit(RUN_CANNOT_START);
}

/* The command's own descriptor of `input`, or of nothing. */
static int open_input(int input)
{
	int fd;

	if (input >= 0) {
		lseek(input, 0, SEEK_SET);
		return fcntl(input, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	}
	do {
		fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	} while (fd < 0 && errno == EINTR);
	/* Not in the place of a stream that we were started without. */
	if (fd >= 0 && fd <= STDERR_FILENO) {
		int low = fd;

		fd = fcntl(low, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
		close(low);
	}
	return fd;
}

void command_become(const char *const *command, int input)
{
	int fd = input == COMMAND_OURS ? -1 : open_input(input);

	if (fd >= 0)
		dup2(fd, STDIN_FILENO);
	else if (input == COMMAND_NOTHING)
		close(STDIN_FILENO); /* what is ours to read is not for the command */
	become(command);
	cannot_start(command[0], errno);
}

static int open_pipes(struct pipes *pipes, int input)
{
	*pipes = (struct pipes){ { -1, -1 }, { -1, -1 }, { -1, -1 }, -1 };
	pipes->input = open_input(input);
	if (pipes->input < 0 || pipe2(pipes->out, O_CLOEXEC) < 0 ||
	    pipe2(pipes->err, O_CLOEXEC) < 0 || pipe2(pipes->failure, O_CLOEXEC) < 0)
		return -errno;
	return 0;
}

static void close_one(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void close_pipes(struct pipes *pipes)
{
	for (int i = 0; i < 2; i++) {
		close_one(&pipes->out[i]);
		close_one(&pipes->err[i]);
		close_one(&pipes->failure[i]);
	}
	close_one(&pipes->input);
}

/* --- feeding -------------------------------------------------------------------------------------------- */

static void feed_on(int out, const char *data, size_t size)
{
	if (write_whole(out, terrace_bytes(data, size)) < 0)
		_exit(1);
}

/* Does not come back: ends at the end of the input, or when nobody reads it any more. */
static void feed(int out, int held, size_t held_size, const char *chunk, size_t size)
{
	char data[65536];
	ssize_t n;

	for (size_t at = 0; at < held_size; at += (size_t)n) {
		size_t most = held_size - at < sizeof data ? held_size - at : sizeof data;

		n = pread(held, data, most, (off_t)at);
		if (n <= 0)
			_exit(1);
		feed_on(out, data, (size_t)n);
	}
	feed_on(out, chunk, size);
	while ((n = read(STDIN_FILENO, data, sizeof data)) != 0) {
		if (n < 0 && errno != EINTR)
			_exit(1);
		if (n > 0)
			feed_on(out, data, (size_t)n);
	}
	_exit(0);
}

int command_feed(int held, size_t held_size, const char *chunk, size_t size)
{
	int ends[2], status = 1;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	/* Not a child of the command, which may wait for all of its own. */
	pid = fork();
	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			feed(ends[1], held, held_size, chunk, size);
		_exit(pid < 0);
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (status == 0)
		dup2(ends[0], STDIN_FILENO);
	close(ends[0]);
	close(ends[1]);
	return status == 0 ? 0 : -1;
}

/* --- streaming ------------------------------------------------------------------------------------------ */

/* What there is to read; false at the end of the stream. */
static bool drain(int *fd, int stream, struct capture *capture)
{
	char data[65536];
	ssize_t n = read(*fd, data, sizeof data);

	if (n < 0 && errno == EINTR)
		return true;
	if (n <= 0) {
		close_one(fd);
		return false;
	}
	/* Without us the command would be told. Few care whether their messages were read. */
	if (write_whole(stream, terrace_bytes(data, (size_t)n)) < 0 && stream == STDOUT_FILENO) {
		capture->lost = errno;
		capture->whole = false;
		close_one(fd);
		return false;
	}
	keep(capture, stream, data, (size_t)n);
	return true;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * Until both streams end. A command that leaves something running behind it
 * which holds them open is over when it exits; what came by then is passed on,
 * and not kept, because it may not be all.
 */
static void stream(struct pipes *pipes, int pid_fd, struct capture *capture)
{
	int64_t until = 0; /* when it has exited */
	bool exited = false;

	while (pipes->out[0] >= 0 || pipes->err[0] >= 0) {
		struct pollfd polls[] = { { pipes->out[0], POLLIN, 0 },
			                  { pipes->err[0], POLLIN, 0 },
			                  { exited ? -1 : pid_fd, POLLIN, 0 } };
		int64_t left = until - now_ms();
		int ready = poll(polls, 3, exited ? (int)(left > 0 ? left : 0) : -1);

		if (ready < 0 && errno == EINTR)
			continue;
		if (ready <= 0 || (exited && left <= 0)) {
			capture->whole = false;
			note("the command left something running that writes to its output; what "
			     "that writes from now on is lost");
			return;
		}
		if (polls[0].revents)
			drain(&pipes->out[0], 1, capture);
		if (polls[1].revents)
			drain(&pipes->err[0], 2, capture);
		if (polls[2].revents) {
			exited = true;
			until = now_ms() + GRACE_MS;
		}
	}
}

static void reap(pid_t pid, struct capture *capture)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	capture->killed = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	capture->exit_status = capture->killed ? 128 + capture->killed : WEXITSTATUS(status);
}

int command_run(const char *const *command, int input, struct capture *ret)
{
	struct sigaction old[FORWARDED];
	sigset_t all, mask;
	struct pipes pipes;
	pid_t parent = getpid(), pid;
	int pid_fd, err = open_pipes(&pipes, input);
	ssize_t n;

	*ret = (struct capture){ .whole = true };
	if (err < 0) {
		note("warning: nothing can be captured: %s; running uncached", strerror(-err));
		close_pipes(&pipes);
		return COMMAND_UNTRIED;
	}
	fflush(stdout);
	fflush(stderr);
	child = 0;
	/* What comes before we know for whom it is waits until we do. */
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &mask);
	forward_signals(old);
	pid = fork();
	if (pid == 0)
		in_child(command, &pipes, old, &mask, parent);
	child = (sig_atomic_t)pid;
	sigprocmask(SIG_SETMASK, &mask, NULL);
	close_one(&pipes.out[1]);
	close_one(&pipes.err[1]);
	close_one(&pipes.failure[1]);
	err = pid < 0 ? errno : 0;
	do {
		n = pid < 0 ? 0 : read(pipes.failure[0], &err, sizeof err);
	} while (n < 0 && errno == EINTR);
	if (err == 0) {
		pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
		stream(&pipes, pid_fd, ret);
		close_one(&pid_fd);
	} else if (pid < 0) {
		note("warning: there is no process to be had: %s; running uncached", strerror(err));
	} else {
		cannot_start(command[0], err);
	}
	if (pid > 0)
		reap(pid, ret);
	child = 0;
	restore_signals(old);
	close_pipes(&pipes);
	if (pid < 0)
		return COMMAND_UNTRIED;
	return err ? -1 : 0;
}
