/* Whoever else runs the same: waiting for him, unless he waits for us. */
#include "builds/parts.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* Whoever computes is alive, or replaced: there is nothing to time out. */
#define WAIT_FOR_EVER (INT64_MAX / 4)
/* After this long it is said what is waited for. */
enum { SAY_AFTER_S = 3 };

/* --- ancestors ------------------------------------------------------------------------------------ */

static FILE *open_proc(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
	return fopen(path, "re");
}

/* 0 when nobody can say. */
static pid_t parent_of(pid_t pid)
{
	FILE *file = open_proc(pid, "stat");
	char text[1024] = "", *end;
	int parent = 0;

	if (!file)
		return 0;
	/* A name may hold anything, parentheses too. */
	text[fread(text, 1, sizeof text - 1, file)] = '\0';
	fclose(file);
	end = strrchr(text, ')');
	return end && sscanf(end + 1, " %*c %d", &parent) == 1 ? (pid_t)parent : 0;
}

static bool same_command(pid_t pid)
{
	FILE *ours = open_proc(getpid(), "cmdline"), *theirs = open_proc(pid, "cmdline");
	bool same = ours && theirs;
	int c = 0;

	while (same && c != EOF) {
		c = getc(ours);
		same = getc(theirs) == c;
	}
	if (ours)
		fclose(ours);
	if (theirs)
		fclose(theirs);
	return same;
}

static bool same_directory(pid_t pid, const char *cwd)
{
	char path[64], theirs[PATH_MAX];
	ssize_t size;

	snprintf(path, sizeof path, "/proc/%d/cwd", (int)pid);
	size = readlink(path, theirs, sizeof theirs - 1);
	return size > 0 && (size_t)size == strlen(cwd) && memcmp(theirs, cwd, (size_t)size) == 0;
}

bool runs_above(const struct run *run)
{
	for (pid_t pid = parent_of(getpid()); pid > 1; pid = parent_of(pid)) {
		if (same_command(pid) && same_directory(pid, run->place.cwd))
			return true;
	}
	return false;
}

/* --- waiting -------------------------------------------------------------------------------------- */

struct patience {
	pthread_mutex_t lock;
	pthread_cond_t over;
	bool done;
};

static void *lose_patience(void *ctx)
{
	struct patience *patience = ctx;
	struct timespec until;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += SAY_AFTER_S;
	pthread_mutex_lock(&patience->lock);
	while (!patience->done && rc != ETIMEDOUT)
		rc = pthread_cond_clockwait(&patience->over, &patience->lock, CLOCK_MONOTONIC,
		                            &until);
	if (!patience->done)
		note("waiting for a process that runs this command with the same inputs");
	pthread_mutex_unlock(&patience->lock);
	return NULL;
}

int wait_for_lease(struct run *run, terrace_lease **ret_lease, terrace_value **ret_value)
{
	struct patience patience = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false };
	pthread_t thread;
	bool started = pthread_create(&thread, NULL, lose_patience, &patience) == 0;
	int rc = terrace_lease_begin(run->results, run->state_key, WAIT_FOR_EVER, ret_lease,
	                             ret_value);

	pthread_mutex_lock(&patience.lock);
	patience.done = true;
	pthread_cond_signal(&patience.over);
	pthread_mutex_unlock(&patience.lock);
	if (started)
		pthread_join(thread, NULL);
	return rc;
}
