/*
 * `terrace repomap bench`: what a map costs cold, warm in a new process, and
 * after one file has changed, beside universal-ctags and git grep on the same
 * tree in the same run. The trees are put together from packages.
 */
#include "repomap/bench.h"

#include "repomap/parts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { RUNS_MAX = 21, LARGEST = 1 << 20 };

struct bench {
	char work[64]; /* everything is below it */
	char self[PATH_MAX];
	char **sources; /* files of known languages, by name */
	size_t source_count, source_capacity;
	size_t base; /* the length of the packages' folder */
	bool json, first;
};

static void pause_ms(long ms)
{
	const struct timespec time = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

/* Milliseconds of wall time in a new process; negative when it failed. */
static double run(const char *const *argv)
{
	posix_spawn_file_actions_t actions;
	uint64_t start = rm_clock_ns();
	int status = -1;
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
	if (posix_spawnp(&pid, argv[0], &actions, NULL, (char **)(uintptr_t)argv, environ) == 0) {
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	posix_spawn_file_actions_destroy(&actions);
	/* git grep says 1 for nothing found */
	return WIFEXITED(status) && WEXITSTATUS(status) <= 1 ?
	           (double)(rm_clock_ns() - start) / 1e6 :
	           -1;
}

/* --- the trees ------------------------------------------------------------------------------ */

static struct bench *finding;

static int find_source(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)at;
	if (type != FTW_F || st->st_size > LARGEST || !language_of(path))
		return 0;
	finding->sources = rm_grow(finding->sources, &finding->source_capacity,
	                           finding->source_count + 1, sizeof(char *));
	finding->sources[finding->source_count++] = strdup(path);
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int copy_file(const char *from, const char *to)
{
	char chunk[65536], path[2 * PATH_MAX];
	int in, out, status = 0;
	ssize_t n;

	snprintf(path, sizeof path, "%s", to);
	for (char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = '\0';
		mkdir(path, 0777);
		*slash = '/';
	}
	in = open(from, O_RDONLY | O_CLOEXEC);
	out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	while (in >= 0 && out >= 0 && (n = read(in, chunk, sizeof chunk)) > 0) {
		if (write(out, chunk, (size_t)n) != n)
			status = -1;
	}
	status = in < 0 || out < 0 ? -1 : status;
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return status;
}

/* A repository of so many files: the packages one after another, and again where they end. */
static int make_tree(struct bench *b, const char *repo, size_t count)
{
	const char *const init[] = { "git", "-C", repo, "init", "-q", NULL };
	const char *const add[] = { "git", "-C", repo, "add", "-A", NULL };

	for (size_t i = 0; i < count; i++) {
		const char *from = b->sources[i % b->source_count];
		size_t again = i / b->source_count;
		char to[2 * PATH_MAX], part[32] = "";

		if (again)
			snprintf(part, sizeof part, "/again%zu", again);
		snprintf(to, sizeof to, "%s%s%s", repo, part, from + b->base);
		if (copy_file(from, to) < 0) {
			rm_note("bench: cannot copy %s to %s: %s", from, to, strerror(errno));
			return -1;
		}
	}
	if (run(init) < 0 || run(add) < 0)
		rm_note("bench: git does not work here; the files are found by walking");
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	remove(path);
	return 0;
}

/* --- figures ----------------------------------------------------------------------------------- */

static int by_time(const void *one, const void *two)
{
	const double *a = one, *b = two;

	return *a < *b ? -1 : *a > *b;
}

static void report(struct bench *b, size_t files, const char *what, double *times, int count,
                   double target)
{
	qsort(times, (size_t)count, sizeof *times, by_time);
	if (times[0] < 0) {
		if (!b->json)
			printf("%7zu  %-28s failed, or is not here\n", files, what);
		return;
	}
	if (b->json) {
		printf(
		    "%s\n  {\"files\": %zu, \"what\": \"%s\", \"runs\": %d, \"median_ms\": %.2f, "
		    "\"max_ms\": %.2f",
		    b->first ? "" : ",", files, what, count, times[count / 2], times[count - 1]);
		if (target > 0)
			printf(", \"target_ms\": %.0f, \"met\": %s", target,
			       times[count / 2] < target ? "true" : "false");
		printf("}");
	} else {
		printf("%7zu  %-28s %9.1f %9.1f", files, what, times[count / 2], times[count - 1]);
		if (target > 0)
			printf("  %s %.0f", times[count / 2] < target ? "under" : "OVER", target);
		printf("\n");
	}
	b->first = false;
	fflush(stdout);
}

/* One more function in one file, each time in another one. */
static void change(struct bench *b, const char *repo, int number)
{
	char path[2 * PATH_MAX];
	FILE *file;

	snprintf(path, sizeof path, "%s%s", repo, b->sources[number * 7] + b->base);
	file = fopen(path, "ae");
	if (file) {
		fprintf(file, "\nfunction added_by_the_benchmark_%d () {}\n", number);
		fclose(file);
	}
}

/* The runs of a command, each after `before` where that is not NULL. */
static void measure(struct bench *b, const char *repo, size_t files, const char *what,
                    const char *const *argv, int runs, bool with_change, double target)
{
	double times[RUNS_MAX];

	for (int i = 0; i < runs; i++) {
		if (with_change)
			change(b, repo, i);
		times[i] = run(argv);
	}
	report(b, files, what, times, runs, target);
}

static void bench_cold(struct bench *b, const char *repo, size_t files, int runs)
{
	double times[RUNS_MAX];

	for (int i = 0; i < runs; i++) {
		char store[128];
		const char *const argv[] = { b->self, "--dir", store, "repomap", repo, NULL };

		snprintf(store, sizeof store, "%s/cold-%zu-%d", b->work, files, i);
		times[i] = run(argv);
	}
	report(b, files, "map, cold", times, runs, 0);
}

static int bench_size(struct bench *b, size_t files, double warm_ms, double change_ms)
{
	char repo[128], store[128];
	const char *const map[] = { b->self, "--dir", store, "repomap", repo, NULL };
	const char *const json[] = { b->self, "--dir", store, "repomap", repo, "--json", NULL };
	const char *const ctags[] = { "ctags", "-R", "-f", "/dev/null", repo, NULL };
	const char *const grep[] = { "git", "-C", repo, "grep",
		                     "-c",  "-w", "-E", "function|def|class",
		                     NULL };

	snprintf(repo, sizeof repo, "%s/repository-%zu", b->work, files);
	snprintf(store, sizeof store, "%s/store-%zu", b->work, files);
	if (mkdir(repo, 0777) < 0 || make_tree(b, repo, files) < 0)
		return -1;
	/* A file that is younger than the time stamps' grain is read again each time. */
	pause_ms(2200);
	bench_cold(b, repo, files, 3);
	measure(b, repo, files, "universal-ctags", ctags, 3, false, 0);
	measure(b, repo, files, "git grep for a word", grep, 5, false, 0);
	run(map);
	measure(b, repo, files, "map, warm", map, RUNS_MAX, false, warm_ms);
	run(json);
	measure(b, repo, files, "map, tags and ranks, warm", json, 9, false, 0);
	measure(b, repo, files, "map, one file changed", map, 9, true, change_ms);
	return 0;
}

/* Where `make repomap` puts the packages: beside the program, in the build folder. */
static bool packages_folder(struct bench *b, const char *dir, char ret[PATH_MAX])
{
	char path[PATH_MAX + 16];
	char *slash, *real;

	snprintf(path, sizeof path, "%s", dir ? dir : b->self);
	if (!dir) {
		slash = strrchr(path, '/');
		snprintf(slash, sizeof path - (size_t)(slash - path), "/../npm");
	}
	real = realpath(path, NULL);
	if (real)
		snprintf(ret, PATH_MAX, "%s", real);
	free(real);
	return real != NULL;
}

static int prepare(struct bench *b, const char *dir)
{
	char folder[PATH_MAX];
	ssize_t size = readlink("/proc/self/exe", b->self, sizeof b->self - 1);
	const char *tmp = getenv("TMPDIR");

	if (size <= 0 || !packages_folder(b, dir, folder)) {
		rm_note("bench: there is no folder %s; make repomap fetches packages to measure "
		        "with, or name a tree",
		        dir ? dir : "of packages");
		return 2;
	}
	b->base = strlen(folder);
	finding = b;
	nftw(folder, find_source, 16, FTW_PHYS);
	if (b->source_count < 100) {
		rm_note("bench: %s has %zu source files; it takes 100", folder, b->source_count);
		return 2;
	}
	qsort(b->sources, b->source_count, sizeof(char *), by_name);
	snprintf(b->work, sizeof b->work, "%.40s/repomap-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(b->work)) {
		rm_note("bench: cannot make a folder %s: %s", b->work, strerror(errno));
		return 3;
	}
	return 0;
}

int repomap_bench(const char *dir, bool json)
{
	struct bench b = { .json = json, .first = true };
	int status = prepare(&b, dir);

	if (status == 0) {
		printf(json ? "[" : "  FILES  WHAT                         MEDIAN ms    MAX ms\n");
		if (bench_size(&b, 1000, 20, 50) < 0 || bench_size(&b, 10000, 100, 150) < 0)
			status = 3;
		if (json)
			printf("\n]\n");
		else if (b.source_count < 10000)
			printf("%zu different files; the others are copies\n", b.source_count);
		nftw(b.work, remove_one, 16, FTW_PHYS | FTW_DEPTH);
	}
	for (size_t i = 0; i < b.source_count; i++)
		free(b.sources[i]);
	free(b.sources);
	return status;
}
