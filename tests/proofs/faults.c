/*
 * Every public call, with the k-th allocation or the k-th system call of it
 * failing, once and for ever, for k = 1, 2, 3, … until it makes no k-th: on rows
 * and on files, written through and behind, in memory and with a form. It must
 * return, with a status and a message or done; nothing may leak; what was there
 * is there afterwards, in this process and in another that looks on, and what
 * is newer is not followed by what is older; and the next call works.
 *
 *   faults [OPERATION [PLACE [KIND]]]   only those; a part of a name will do
 *
 * STEP: try every STEP-th allocation and every STEP/4-th system call only; which
 * ones depends on SEED. FIRST: leave out so many of the operations, as when a run
 * was cut short. WORKERS: processes.
 */
#include "proofs/faults.h"

#include "proofs/shim.h"
#include "util/epoch.h"

#include <dirent.h>
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum {
	TIMEOUT_S = 20,    /* for one k: nothing takes so long that is not stuck */
	VERIFY_EVERY = 32, /* looking at everything takes longer than all else */
	FAILURES_MAX = 4,  /* of one operation in one place that are told */
};

static const char *const kind_names[] = {
#define X(name, text) text,
	FAULT_KINDS(X)
#undef X
};
static const char *const place_names[] = {
#define X(name, text) text,
	PLACES_OF(X)
#undef X
};

/* An operation in a place, and how far it is; shared with the process that watches. */
struct progress {
	size_t operation;
	enum place place;
	bool warm; /* memory has copies, and the connections are open */
	enum fault_kind kind;
	bool ever;
	uint64_t k;
	const char *doing;
	_Atomic uint64_t runs, failures;
};

static char directory[256];
static struct progress *here; /* of this worker */
static struct totals {
	_Atomic size_t next; /* case that nobody works on */
	_Atomic uint64_t runs, failures;
} * totals;
static uint64_t seed, step;
static const char *wanted[3];

static const struct operation_table *const tables[] = {
	&basic_operations,  &more_operations,   &own_operations,
	&stream_operations, &damage_operations,
};
enum { TABLES = sizeof tables / sizeof *tables };

static size_t count_operations(void)
{
	size_t count = 0;

	for (size_t i = 0; i < TABLES; i++)
		count += tables[i]->count;
	return count;
}

static const struct operation *operation_of(size_t number)
{
	size_t i = 0;

	while (number >= tables[i]->count)
		number -= tables[i++]->count;
	return &tables[i]->operations[number];
}

void lie(const char *what, const char *detail)
{
	if (atomic_fetch_add(&here->failures, 1) < FAILURES_MAX)
		fprintf(stderr, "faults: %s, %s%s: %s %s, k = %llu: %s: %s\n",
		        operation_of(here->operation)->name, place_names[here->place],
		        here->warm ? " (warm)" : "", kind_names[here->kind],
		        here->ever ? "for ever" : "once", (unsigned long long)here->k, what,
		        detail);
}

bool may_evict(void)
{
	return here->kind == FAULT_ENOSPC;
}

static void lie_with(const char *what, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void lie_with(const char *what, const char *format, ...)
{
	char detail[700];
	va_list args;

	va_start(args, format);
	vsnprintf(detail, sizeof detail, format, args);
	va_end(args);
	lie(what, detail);
}

/* --- stores ------------------------------------------------------------------------------------- */

size_t size_in(enum place place)
{
	if (place == BLOCKS)
		return IN_TWO_BLOCKS;
	return place == FILES || place == FILES_BEHIND ? LARGE : SMALL;
}

terrace_slice value_in(enum place place, char letter)
{
	static _Thread_local char bytes[IN_TWO_BLOCKS];

	if (place != BLOCKS)
		return letter_bytes(letter, size_in(place));
	for (size_t at = 0; at < sizeof bytes; at += LARGE)
		memcpy(bytes + at, letter_bytes(letter, LARGE).data,
		       sizeof bytes - at < LARGE ? sizeof bytes - at : LARGE);
	return terrace_bytes(bytes, sizeof bytes);
}

char letter_of_bytes(terrace_slice bytes)
{
	const char *data = bytes.data;

	if (bytes.size != IN_TWO_BLOCKS)
		return letter_of(bytes);
	if (memcmp(data, data + LARGE, bytes.size - LARGE) != 0)
		return '?';
	return letter_of(terrace_bytes(data, LARGE));
}

const char *other(int i, char ret[16])
{
	snprintf(ret, 16, "other %d", i);
	return ret;
}

struct object {
	size_t size;
	char bytes[];
};

static int decode(void *ctx, terrace_slice bytes, void **ret_object, size_t *ret_weight)
{
	struct object *object = malloc(sizeof *object + bytes.size);

	(void)ctx;
	if (!object)
		return TERRACE_ENOMEM;
	object->size = bytes.size;
	memcpy(object->bytes, bytes.data, bytes.size);
	*ret_object = object;
	*ret_weight = bytes.size;
	return 0;
}

static void destroy(void *ctx, void *object)
{
	(void)ctx;
	free(object);
}

char letter_of_value(const terrace_value *value)
{
	struct object *object = terrace_object(value);

	return letter_of_bytes(object ? terrace_bytes(object->bytes, object->size) :
	                                terrace_slice_of(value));
}

int open_store(struct opened *o)
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	char path[300];

	snprintf(path, sizeof path, "%s/store", o->dir);
	options.wait_ms = 2000;
	return terrace_open(path, &options, &o->store);
}

int open_cache(struct opened *o)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_form form = terrace_form_init();

	policy.inline_bytes = 4000;
	policy.tiers = o->place == MEMORY ? TERRACE_L1 : 0;
	if (1 << o->place & BEHIND)
		policy.write = TERRACE_WRITE_BEHIND;
	if (o->place == FORM) {
		form.decode = decode;
		form.destroy = destroy;
		policy.form = &form;
		policy.encoded_bytes = 1 << 20;
	}
	return terrace_cache_open(o->store, place_names[o->place], &policy, &o->cache);
}

void close_store(struct opened *o)
{
	terrace_cache_close(o->cache);
	terrace_close(o->store);
	o->cache = NULL;
	o->store = NULL;
}

int put(struct opened *o, const char *key, char letter)
{
	static const char *const tags[] = { "tag" };
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_slice value;

	options.tags = tags;
	options.tag_count = key[0] == 'k';
	/* Of a large value one is enough. */
	value = options.tag_count || o->place != BLOCKS ? value_in(o->place, letter) :
	                                                  letter_bytes(letter, SMALL);
	return terrace_put(o->cache, terrace_str(key), value, &options);
}

int open_and_put(struct opened *o)
{
	int rc = open_store(o);

	if (rc == TERRACE_OK)
		rc = open_cache(o);
	if (rc == TERRACE_OK)
		rc = put(o, "key", 'n');
	close_store(o);
	return rc;
}

static char look(struct opened *o, const char *key)
{
	terrace_value *value;
	char letter;

	if (terrace_get(o->cache, terrace_str(key), &value) != TERRACE_OK)
		return ' ';
	letter = letter_of_value(value);
	terrace_release(value);
	return letter;
}

static int number_of(struct opened *o)
{
	terrace_value *value;
	int number = -1;

	if (terrace_get(o->cache, TERRACE_KEY("number"), &value) != TERRACE_OK)
		return -1;
	if (o->place != FORM && terrace_size(value) == 1)
		number = *(const char *)terrace_data(value) - '0';
	terrace_release(value);
	return number;
}

/* --- another process ---------------------------------------------------------------------------------- */

static struct {
	pid_t pid;
	int ask, answer;
} peer;

/* It looks at keys, and keeps copies in its own memory. */
static void be_peer(struct opened *o, int ask, int answer)
{
	char key[16], letter;

	if (open_store(o) != TERRACE_OK || open_cache(o) != TERRACE_OK)
		_exit(1);
	while (read(ask, key, sizeof key) == sizeof key) {
		letter = look(o, key);
		if (write(answer, &letter, 1) != 1)
			break;
	}
	close_store(o);
	_exit(0);
}

static void peer_start(const struct opened *o)
{
	int ask[2], answer[2];

	if (pipe(ask) < 0 || pipe(answer) < 0) {
		perror("pipe");
		_exit(1);
	}
	peer.pid = fork();
	if (peer.pid == 0) {
		struct opened own = *o;

		alarm(0);
		close(ask[1]);
		close(answer[0]);
		be_peer(&own, ask[0], answer[1]);
	}
	close(ask[0]);
	close(answer[1]);
	peer.ask = ask[1];
	peer.answer = answer[0];
}

static void peer_stop(void)
{
	if (!peer.pid)
		return;
	close(peer.ask);
	close(peer.answer);
	waitpid(peer.pid, NULL, 0);
	peer.pid = 0;
}

static char peer_look(const char *name)
{
	char key[16] = "", letter = '!';

	snprintf(key, sizeof key, "%s", name);
	if (write(peer.ask, key, sizeof key) != sizeof key || read(peer.answer, &letter, 1) != 1)
		lie("the other process", "it is gone");
	return letter;
}

/* --- one k --------------------------------------------------------------------------------------------- */

/* As it was before, from whatever was left. */
static void restore(struct opened *o, const struct operation *op)
{
	char key[16], path[300];

	if (op->before && look(o, "key") != op->before) {
		static const char *const tags[] = { "tag" };
		terrace_put_options options = TERRACE_PUT_INIT;
		terrace_sources *sources;

		snprintf(path, sizeof path, "%s/source", o->dir);
		terrace_sources_new(&sources);
		terrace_sources_file(sources, path, 0);
		options.tags = tags;
		options.tag_count = 1;
		options.sources = sources;
		terrace_put(o->cache, TERRACE_KEY("key"), value_in(o->place, op->before), &options);
		terrace_sources_free(sources);
	}
	if (!op->before)
		terrace_delete(o->cache, TERRACE_KEY("key"));
	for (int i = 0; i < OTHERS; i++) {
		if (look(o, other(i, key)) != 'A' + i)
			put(o, key, (char)('A' + i));
	}
	if (number_of(o) != 5)
		terrace_put(o->cache, TERRACE_KEY("number"), terrace_str("5"), NULL);
	if (terrace_flush(o->store) != TERRACE_OK ||
	    look(o, "key") != (op->before ? op->before : ' '))
		lie("what was there before", terrace_error_message());
}

/* The key's letters as this process, the other one, and the disk have them, in that order. */
static void check_key(struct opened *o, const char *allowed)
{
	char letters[3], newest = ' ';

	here->doing = "looking at the key";
	letters[0] = look(o, "key");
	if (1 << o->place & BEHIND)
		terrace_flush(o->store); /* what failed is told once */
	letters[1] = peer.pid ? peer_look("key") : letters[0];
	if (o->place != MEMORY)
		terrace_clear(o->cache, TERRACE_L1, NULL);
	letters[2] = look(o, "key");
	for (int i = 0; i < 3; i++) {
		if (!strchr(allowed, letters[i]))
			lie_with("key", "'%c' of \"%.3s\" where only \"%s\" may be", letters[i],
			         letters, allowed);
		if (newest == 'n' && letters[i] == 'o')
			lie_with("key", "the older value after the newer: \"%.3s\"", letters);
		if (letters[i] != ' ')
			newest = letters[i];
	}
}

static void check_others(struct opened *o, const struct operation *op, bool may_go, int rc)
{
	char key[16];
	int number = number_of(o);

	here->doing = "looking at the other keys";
	for (int i = 0; i < OTHERS; i++) {
		char letter = look(o, other(i, key));

		if (letter != 'A' + i && !(letter == ' ' && may_go))
			lie_with(key, "it is '%c'", letter);
	}
	if (o->place == FORM || (number < 0 && may_go))
		return;
	if (number != 5 + (op->counts && rc == TERRACE_OK) &&
	    !(op->counts && rc < 0 && number == 6))
		lie_with("number", "it is %d", number);
}

static int on_fault(void *ctx, const terrace_fault *fault)
{
	(void)ctx;
	/* A file that could not be removed is cleared away here and now. So is the
	 * row of one that went first, to make room for saying that it goes. */
	if (fault->kind != TERRACE_FAULT_ORPHAN &&
	    !(fault->kind == TERRACE_FAULT_NO_FILE && here->kind == FAULT_ENOSPC))
		lie("verify", fault->detail);
	return 0;
}

static void check_next_call(struct opened *o)
{
	int rc;

	here->doing = "the next call";
	rc = put(o, "key", 'z');
	if (rc == TERRACE_OK)
		rc = terrace_flush(o->store);
	if (rc != TERRACE_OK)
		lie_with("the next put", "%s: %s", terrace_status_name(rc),
		         terrace_error_message());
	if (look(o, "key") != 'z' || (peer.pid && peer_look("key") != 'z'))
		lie("the next get", "it does not give what was put");
}

static int count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;

	while (dir && readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static int64_t count_memory(void)
{
	terrace__epoch_drain();
	return fault_live();
}

static void open_both(struct opened *o)
{
	here->doing = "opening";
	if (open_store(o) != TERRACE_OK || open_cache(o) != TERRACE_OK) {
		lie("opening without a fault", terrace_error_message());
		_exit(1);
	}
}

static void remove_store(const struct opened *o)
{
	char path[300];

	snprintf(path, sizeof path, "%s/store", o->dir);
	remove_dir(path);
}

/* What rc the operation had; and whether there was a k-th call to fail. */
static int run_armed(struct opened *o, const struct operation *op, bool *ret_reached)
{
	int rc;

	terrace_fail(TERRACE_OK, "%s", "");
	here->doing = "at it";
	fault_arm(here->kind, here->k, here->ever);
	rc = op->run(o);
	*ret_reached = fault_disarm();
	if (rc < 0 && strlen(terrace_error_message()) < 10)
		lie_with("message", "%s, and \"%s\"", terrace_status_name(rc),
		         terrace_error_message());
	if (rc < 0 && (!*ret_reached || (op->must && here->kind != FAULT_MEMORY)))
		lie_with("status", "%s: %s", terrace_status_name(rc), terrace_error_message());
	return rc;
}

/* What may be found under the key. */
static const char *allowed_after(const struct opened *o, const struct operation *op, int rc,
                                 bool reached, char ret[8])
{
	bool waits = 1 << o->place & BEHIND && op->waits && reached;

	if (rc < 0)
		return op->before ? "on " : "n ";
	/* A value that waited and could not be written is a miss. On a full disk,
	 * anything may have made room. */
	snprintf(ret, 8, "%s%s", op->done, waits || may_evict() ? " " : "");
	return ret;
}

static bool run_once(struct opened *o, const struct operation *op)
{
	bool reached;
	char letters[8];
	int rc;

	if (op->new_store)
		remove_store(o);
	if (!op->opens)
		open_both(o);
	if (!op->opens && (here->warm || o->place == MEMORY))
		restore(o, op);
	here->doing = "preparing";
	if (op->prepare)
		op->prepare(o);
	rc = run_armed(o, op, &reached);
	if (op->opens)
		open_both(o);
	if (o->place != MEMORY || !op->opens) {
		check_key(o, allowed_after(o, op, rc, reached, letters));
		if (!op->new_store)
			check_others(
			    o, op, op->drops_others || (here->kind == FAULT_ENOSPC && reached), rc);
	}
	check_next_call(o);
	here->doing = "cleaning up";
	if (here->k % VERIFY_EVERY == 1 || !reached)
		terrace_verify(o->store, true, op->damages ? NULL : on_fault, NULL, NULL);
	if (!op->new_store)
		restore(o, op);
	if (peer.pid)
		peer_look("key");
	close_store(o);
	atomic_fetch_add(&here->runs, 1);
	return reached;
}

/* What grows each time that the same is done is lost; what grows once is kept for later. */
static bool run_and_count(struct opened *o, const struct operation *op)
{
	int64_t grown = 1;
	int opened = 1;
	bool reached = false;

	for (int tries = 0; tries < 3 && (grown > 0 || opened > 0); tries++) {
		int64_t memory = count_memory();
		int descriptors = count_descriptors();

		alarm(TIMEOUT_S);
		reached = run_once(o, op);
		alarm(0);
		grown = count_memory() - memory;
		opened = count_descriptors() - descriptors;
	}
	if (grown > 0)
		lie_with("leak", "%lld allocations", (long long)grown);
	if (opened > 0)
		lie_with("leak", "%d descriptors", opened);
	return reached;
}

/* --- a case ------------------------------------------------------------------------------------------------ */

static void write_source(const struct opened *o)
{
	struct timespec old[2] = { { 1000000000, 0 }, { 1000000000, 0 } };
	char path[300];
	int fd;

	snprintf(path, sizeof path, "%s/source", o->dir);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	if (fd < 0 || write(fd, "source", 6) != 6 || futimens(fd, old) < 0) {
		perror(path);
		_exit(1);
	}
	close(fd);
}

static void on_death(int number)
{
	void *frames[64];

	/* Where it was; the process that watches says the rest. */
	backtrace_symbols_fd(frames, backtrace(frames, 64), STDERR_FILENO);
	signal(number, SIG_DFL);
	raise(number);
}

static bool is_wanted(const char *wish, const char *name)
{
	return !wish || strstr(name, wish);
}

/* There are several times as many allocations as there are system calls. */
static uint64_t step_of(enum fault_kind kind)
{
	return kind == FAULT_MEMORY || step < 4 ? step : step / 4;
}

/* All that can fail, from where a worker that died has left off. */
static void work(const char *dir)
{
	const struct operation *op = operation_of(here->operation);
	struct opened o = { .dir = dir, .place = here->place };
	enum fault_kind kind = here->kind;
	bool ever = here->ever;
	uint64_t k = here->k;
	void *frames[1];

	backtrace(frames, 1); /* so that it loads what it needs now */
	signal(SIGSEGV, on_death);
	signal(SIGALRM, on_death);
	signal(SIGABRT, on_death);
	signal(SIGBUS, on_death);
	signal(SIGPIPE, SIG_IGN);
	mkdir(dir, 0700);
	write_source(&o);
	here->kind = FAULT_COUNT - 1;
	here->k = UINT64_MAX; /* never: this is what is done once and kept */
	if (!op->new_store && o.place != MEMORY)
		peer_start(&o);
	open_both(&o);
	restore(&o, op);
	close_store(&o);
	for (int i = 0; i < 2; i++)
		run_once(&o, op);
	for (; kind < FAULT_COUNT; kind++, ever = false) {
		for (int e = ever; e < 2; e++) {
			here->kind = kind;
			here->ever = e;
			if (!is_wanted(wanted[2], kind_names[kind]))
				continue;
			if (!k)
				k = 1 + (seed + here->operation) % step_of(kind);
			for (here->k = k; run_and_count(&o, op); here->k += step_of(kind))
				;
			k = 0;
		}
	}
	peer_stop();
	fflush(stderr);
	_exit(0);
}

/* Watch over one case; a worker that dies is followed by one that goes on behind it. */
static void watch(size_t operation, enum place place, bool warm)
{
	char dir[280];
	int status;

	*here = (struct progress){ .operation = operation, .place = place, .warm = warm };
	snprintf(dir, sizeof dir, "%s/%zu-%d-%d", directory, operation, (int)place, warm);
	for (;;) {
		pid_t pid = fork();

		if (pid == 0)
			work(dir);
		waitpid(pid, &status, 0);
		if (!WIFSIGNALED(status))
			break;
		lie_with("death", "%s while %s",
		         WTERMSIG(status) == SIGALRM ? "it did not return" :
		                                       strsignal(WTERMSIG(status)),
		         here->doing);
		remove_dir(dir);
		if (here->k == UINT64_MAX || atomic_load(&here->failures) >= FAILURES_MAX)
			break;
		here->k++;
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
		lie("worker", "it gave up");
	remove_dir(dir);
	atomic_fetch_add(&totals->runs, atomic_load(&here->runs));
	atomic_fetch_add(&totals->failures, atomic_load(&here->failures));
	if (getenv("VERBOSE"))
		printf("  %-28s %-14s %6llu\n", operation_of(operation)->name, place_names[place],
		       (unsigned long long)atomic_load(&here->runs));
}

static void take_cases(void)
{
	size_t cases = count_operations() * PLACE_COUNT * 2, next;

	here = share(sizeof *here);
	while ((next = atomic_fetch_add(&totals->next, 1)) < cases) {
		size_t operation = next / 2 / PLACE_COUNT;
		enum place place = next / 2 % PLACE_COUNT;
		const struct operation *op = operation_of(operation);

		if (op->places & 1u << place && is_wanted(wanted[0], op->name) &&
		    is_wanted(wanted[1], place_names[place]) &&
		    (!(next % 2) || !(op->opens || op->prepare || op->damages || place == MEMORY)))
			watch(operation, place, next % 2);
	}
}

int main(int argc, char **argv)
{
	int workers = (int)amount("WORKERS", 2);
	double start = seconds_now();

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc && i <= 3; i++)
		wanted[i - 1] = argv[i];
	step = amount("STEP", 1);
	seed = proof_seed("faults");
	totals = share(sizeof *totals);
	atomic_store(&totals->next, amount("FIRST", 0) * PLACE_COUNT * 2);
	scratch_dir(directory, sizeof directory);
	/* No setting of whoever runs this may change what is tried. */
	setenv("XDG_CONFIG_HOME", "/nonexistent", 1);
	for (int i = 0; i < workers; i++) {
		if (fork() == 0) {
			take_cases();
			_exit(0);
		}
	}
	while (wait(NULL) > 0)
		;
	printf("faults: %llu calls with a fault in them (every %llu), %zu operations, %.1f s: %s\n",
	       (unsigned long long)atomic_load(&totals->runs), (unsigned long long)step,
	       count_operations(), seconds_now() - start,
	       atomic_load(&totals->failures) ? "FAILED" : "no lie, nothing lost");
	remove_dir(directory);
	return atomic_load(&totals->failures) != 0;
}
