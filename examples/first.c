/*
 * Two processes, one cache: both hold the same entry, its input file changes,
 * one of them computes anew; then the one that computes is killed, and the
 * other finishes.
 *
 *   first [DIRECTORY]
 */
#include <terrace/terrace.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[4096];
static char input[4200];

/* --- the two workers ---------------------------------------------------------------------- */

struct worker {
	const char *name;
	int ask[2], answer[2]; /* pipes */
	pid_t pid;
	terrace_cache *cache;
};

static void say(const struct worker *worker, const char *what)
{
	printf("  %s: %s\n", worker->name, what);
	fflush(stdout);
}

/* Dear to make, from a file. */
static int load_report(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct worker *worker = ctx;
	char line[100];
	FILE *file;

	(void)key;
	say(worker, "computes the report (this takes a moment)");
	terrace_loaded_source(loaded, input, 0); /* before it is read */
	file = fopen(input, "r");
	if (!file || !fgets(line, sizeof line, file))
		return terrace_fail(1, "cannot read %s", input);
	fclose(file);
	usleep(300 * 1000);
	return terrace_loaded_copy(loaded, terrace_str(line));
}

static int load_for_ever(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct worker *worker = ctx;

	(void)key;
	(void)loaded;
	say(worker, "begins to compute, and will be killed");
	if (write(worker->answer[1], ".", 1) != 1)
		exit(1);
	for (;;)
		pause();
}

static void fetch(struct worker *worker, const char *key, terrace_load_fn *load)
{
	terrace_value *value;
	char line[200];

	if (terrace_fetch(worker->cache, TERRACE_KEY(key), load, worker, &value) != TERRACE_OK) {
		say(worker, terrace_error_message());
		return;
	}
	snprintf(line, sizeof line, "has \"%.*s\"%s%s", (int)terrace_size(value),
	         (const char *)terrace_data(value),
	         terrace_value_tier(value) ? " from " : ", just computed",
	         terrace_value_tier(value) ? terrace_tier_name(terrace_value_tier(value)) : "");
	say(worker, line);
	terrace_release(value);
}

static void get(struct worker *worker, const char *key)
{
	terrace_value *value;

	if (terrace_get(worker->cache, TERRACE_KEY(key), &value) == TERRACE_OK) {
		char line[100];

		snprintf(line, sizeof line, "hit, from %s",
		         terrace_tier_name(terrace_value_tier(value)));
		say(worker, line);
		terrace_release(value);
	} else {
		say(worker, "miss");
	}
}

static void work(struct worker *worker)
{
	terrace *store;
	char order;

	if (terrace_open(directory, NULL, &store) != TERRACE_OK ||
	    terrace_cache_open(store, "reports", NULL, &worker->cache) != TERRACE_OK) {
		say(worker, terrace_error_message());
		exit(1);
	}
	while (read(worker->ask[0], &order, 1) == 1) {
		switch (order) {
		case 'g':
			get(worker, "week");
			break;
		case 'f':
			fetch(worker, "week", load_report);
			break;
		case 'k':
			fetch(worker, "month", load_for_ever);
			break;
		case 'm':
			fetch(worker, "month", load_report);
			break;
		}
		if (write(worker->answer[1], ".", 1) != 1)
			break;
	}
	terrace_cache_close(worker->cache);
	terrace_close(store);
	exit(0);
}

/* --- the one who tells them what to do ---------------------------------------------------------- */

static void start(struct worker *worker, const char *name)
{
	worker->name = name;
	if (pipe(worker->ask) || pipe(worker->answer))
		exit(1);
	fflush(stdout);
	worker->pid = fork();
	if (worker->pid == 0) {
		close(worker->ask[1]);
		work(worker);
	}
	close(worker->ask[0]);
}

static void order(struct worker *worker, char what)
{
	if (write(worker->ask[1], &what, 1) != 1)
		exit(1);
}

static void wait_for(struct worker *worker)
{
	char dot;

	if (read(worker->answer[0], &dot, 1) != 1)
		exit(1);
}

static void both(struct worker *a, struct worker *b, char what)
{
	order(a, what);
	order(b, what);
	wait_for(a);
	wait_for(b);
}

static void write_input(const char *text)
{
	FILE *file = fopen(input, "w");

	if (!file || fputs(text, file) < 0 || fclose(file) != 0) {
		perror(input);
		exit(1);
	}
}

/* In a process of its own: this one has forked, and opens nothing. */
static void explain(void)
{
	pid_t child;

	fflush(stdout);
	child = fork();
	if (child == 0) {
		terrace_why why = TERRACE_WHY_INIT;
		terrace *store;
		terrace_cache *cache;

		if (terrace_open(directory, NULL, &store) == TERRACE_OK &&
		    terrace_cache_open(store, "reports", NULL, &cache) == TERRACE_OK) {
			terrace_explain(cache, TERRACE_KEY("week"), &why);
			printf("  why: %s: %s\n", terrace_reason_name(why.reason), why.detail);
			terrace_info_free(&why.info);
			terrace_cache_close(cache);
			terrace_close(store);
		}
		exit(0);
	}
	waitpid(child, NULL, 0);
}

int main(int argc, char **argv)
{
	struct worker a = { 0 }, b = { 0 };

	snprintf(directory, sizeof directory, "%s", argc > 1 ? argv[1] : "/tmp/terrace-first");
	snprintf(input, sizeof input, "%s-input.txt", directory);
	setvbuf(stdout, NULL, _IOLBF, 0);
	write_input("sales of week 47");
	start(&a, "A");
	start(&b, "B");

	printf("Two processes want the same report: one computes, both get it.\n");
	both(&a, &b, 'f');
	printf("Now each holds it in its own memory.\n");
	both(&a, &b, 'g');
	printf("%s is edited. Both miss, and one computes anew.\n", input);
	write_input("sales of week 47, corrected");
	both(&a, &b, 'g');
	explain();
	both(&a, &b, 'f');
	printf("A begins another report, B waits for it, A is killed: B finishes.\n");
	order(&a, 'k');
	wait_for(&a);
	order(&b, 'm');
	usleep(200 * 1000);
	kill(a.pid, SIGKILL);
	waitpid(a.pid, NULL, 0);
	wait_for(&b);

	close(b.ask[1]);
	waitpid(b.pid, NULL, 0);
	unlink(input);
	return 0;
}
