/*
 * Damage to every kind of file of a store: bits that flip, ranges that are
 * zeroed or become noise, files that are cut, grown, swapped (two of them, or
 * two parts of one), removed or replaced. In turns the store is closed when that
 * happens, or open in two processes, with copies in their memory, to which a
 * third comes afterwards.
 *
 * What was written stands in a log, and everything is asked for one after the
 * other, so a get gives the last value of its key, or misses; an older value is
 * as wrong as other bytes. Afterwards a new value of every key is stored, and
 * found, by each process.
 *
 * Not tried, because nothing can be done about it: cutting, while processes have
 * them mapped, the files "shared", "lanes" and "-shm", which kills with SIGBUS; and
 * other damage to "-shm" then, which is memory of SQLite's; and taking "shared"
 * from them when "lock" is gone already, for that is a store that was removed.
 * docs/COHERENCE.md has more.
 *
 *   ROUNDS  how many damages    ONLY  of the file (db, wal, l3, shared, …)
 *   FIRST   of these rounds; those before are not run
 */
#include "proofs/proofs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum {
	KEYS = 16,
	GROUPS = 4, /* of keys: a tag and a prefix each */
	VALUE_MAX = 6000,
	INLINE_MAX = 1000,
	OPERATIONS = 40, /* before each damage */
	FRESH = 24,      /* rounds after which a store is begun anew */
	FILES_MAX = 512,
	ANSWER_MS = 120000,
};

static char directory[256], store_path[300], format_path[320];

/* --- what was written ------------------------------------------------------------------------------ */

struct kind {
	const char *name;
	unsigned tiers;
	terrace_write write;
	terrace_codec codec;
};

static const struct kind kinds[] = {
	{ .name = "rows", .tiers = TERRACE_L2 },
	{ .name = "files", .tiers = TERRACE_L3, .codec = TERRACE_CODEC_ZSTD },
	{ .name = "all" },
	{ .name = "behind", .write = TERRACE_WRITE_BEHIND },
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* Shared with the processes, of which one works at a time. */
static struct log {
	uint32_t latest[KINDS][KEYS]; /* version that a get may give; 0: none */
	uint32_t versions;
	uint64_t gets, hits, puts, retries, refused;
	bool
	    may_refuse; /* "shared" is another file than that of those who are in: see round_open() */
	char failure[600];
} * written;

static char story[300]; /* what was done in this round */

static void fail(const char *what, int kind, int key, const char *detail)
{
	if (!*written->failure)
		snprintf(written->failure, sizeof written->failure, "%s: cache %s, key %d: %.440s",
		         what, kind < 0 ? "-" : kinds[kind].name, key, detail);
}

struct value {
	uint32_t kind, key, version, size;
};

/* The value of a version: who and which in front, then bytes that follow from that. */
static uint32_t make_value(int kind, int key, uint32_t version, char *ret)
{
	struct random random = { (uint64_t)version << 16 | (uint64_t)kind << 8 | (uint64_t)key };
	uint32_t size = (uint32_t)(sizeof(struct value) +
	                           random_below(&random, version % 3 ? 300 : VALUE_MAX - 64));
	struct value head = { (uint32_t)kind, (uint32_t)key, version, size };

	memcpy(ret, &head, sizeof head);
	for (uint32_t i = sizeof head; i < size; i++)
		ret[i] = (char)random_next(&random);
	return size;
}

static terrace_slice key_text(int key, char ret[16])
{
	snprintf(ret, 16, "g%d/%d", key % GROUPS, key);
	return terrace_str(ret);
}

/* --- a process that has the store open ----------------------------------------------------------------- */

struct opened {
	terrace *store;
	terrace_cache *caches[KINDS];
};

static void open_all(struct opened *o)
{
	int rc;

	*o = (struct opened){ .store = NULL };
	rc = terrace_open(store_path, NULL, &o->store);
	if (rc == TERRACE_EBUSY && written->may_refuse)
		written->refused++;
	else if (rc != TERRACE_OK)
		fail("open", -1, 0, terrace_error_message());
	if (rc != TERRACE_OK)
		return;
	for (int kind = 0; kind < KINDS; kind++) {
		terrace_policy policy = TERRACE_POLICY_INIT;

		policy.tiers = kinds[kind].tiers;
		policy.write = kinds[kind].write;
		policy.codec = kinds[kind].codec;
		policy.inline_bytes = INLINE_MAX;
		if (terrace_cache_open(o->store, kinds[kind].name, &policy, &o->caches[kind]) !=
		    TERRACE_OK) {
			fail("open cache", kind, 0, terrace_error_message());
			o->caches[kind] = NULL;
		}
	}
}

static void close_all(struct opened *o)
{
	for (int kind = 0; kind < KINDS; kind++)
		terrace_cache_close(o->caches[kind]);
	terrace_close(o->store);
}

static int put(struct opened *o, int kind, int key)
{
	char text[16], tag[8], value[VALUE_MAX];
	const char *tags[] = { tag };
	terrace_put_options options = TERRACE_PUT_INIT;
	uint32_t version = ++written->versions, size = make_value(kind, key, version, value);
	int rc;

	snprintf(tag, sizeof tag, "t%d", key % GROUPS);
	options.tags = tags;
	options.tag_count = 1;
	written->puts++;
	rc = terrace_put(o->caches[kind], key_text(key, text), terrace_bytes(value, size),
	                 &options);
	/* What failed may be there, or the older one: neither is promised. */
	written->latest[kind][key] = rc == TERRACE_OK ? version : 0;
	if (rc != TERRACE_OK)
		terrace_delete(o->caches[kind], key_text(key, text));
	return rc;
}

/* Is what a get gives the last value, or nothing? */
static int get(struct opened *o, int kind, int key)
{
	char text[16], expected[VALUE_MAX], why[120];
	struct value head = { 0 };
	terrace_value *value;
	uint32_t latest = written->latest[kind][key];
	int rc = terrace_get(o->caches[kind], key_text(key, text), &value);

	written->gets++;
	if (rc != TERRACE_OK)
		return rc;
	written->hits++;
	if (terrace_size(value) >= sizeof head)
		memcpy(&head, terrace_data(value), sizeof head);
	snprintf(why, sizeof why,
	         "%zu bytes say version %u of cache %u, key %u; the last is %u (%s)",
	         terrace_size(value), head.version, head.kind, head.key, latest,
	         terrace_value_tier(value) == TERRACE_L1 ? "L1" :
	         terrace_value_tier(value) == TERRACE_L2 ? "L2" :
	                                                   "L3");
	if (latest == 0 || make_value(kind, key, latest, expected) != terrace_size(value) ||
	    memcmp(expected, terrace_data(value), terrace_size(value)) != 0)
		fail("wrong value", kind, key, why);
	terrace_release(value);
	return TERRACE_OK;
}

static void forget_group(int kind, int group)
{
	for (int key = 0; key < KEYS; key++) {
		if (group < 0 || key % GROUPS == group)
			written->latest[kind][key] = 0;
	}
}

static void invalidate(struct opened *o, int kind, struct random *random)
{
	int group = (int)random_below(random, GROUPS);
	terrace_match match;
	char text[16];
	int rc;

	if (random_below(random, 4) == 0) {
		rc = terrace_clear(o->caches[kind], 0, NULL);
		group = -1;
	} else {
		snprintf(text, sizeof text, "g%d/", group);
		match = terrace_match_text(TERRACE_MATCH_PREFIX, text);
		rc = terrace_invalidate(o->caches[kind], &match, NULL);
	}
	if (rc < 0)
		fail("invalidate", kind, group, terrace_error_message());
	forget_group(kind, group);
}

/* Before the damage: what is to be damaged. */
static void work(struct opened *o, struct random *random)
{
	for (int i = 0; i < OPERATIONS; i++) {
		int kind = (int)random_below(random, KINDS), key = (int)random_below(random, KEYS);
		uint64_t what = random_below(random, 20);
		char text[16];

		if (what < 10) {
			put(o, kind, key);
		} else if (what < 16) {
			get(o, kind, key);
		} else if (what < 19) {
			if (terrace_delete(o->caches[kind], key_text(key, text)) < 0)
				fail("delete", kind, key, terrace_error_message());
			written->latest[kind][key] = 0;
		} else {
			invalidate(o, kind, random);
		}
	}
	if (random_below(random, 2))
		terrace_flush(o->store);
}

/* After it: some first write, some first read. */
static void look(struct opened *o, struct random *random)
{
	if (random_below(random, 3) == 0)
		put(o, (int)random_below(random, KINDS), (int)random_below(random, KEYS));
	if (random_below(random, 4) == 0)
		invalidate(o, (int)random_below(random, KINDS), random);
	for (int kind = 0; kind < KINDS; kind++) {
		for (int key = 0; key < KEYS; key++)
			get(o, kind, key);
	}
}

/*
 * The store works: what is put is found. A write into a database whose damage
 * nobody has met yet may be lost once; damage is met by then.
 */
static void use(struct opened *o, struct random *random)
{
	int kind = (int)random_below(random, KINDS), rc = TERRACE_OK;

	for (int tries = 0; tries < 4; tries++) {
		int missing = -1;

		for (int key = 0; key < KEYS && rc == TERRACE_OK; key++)
			rc = put(o, kind, key);
		if (kinds[kind].write == TERRACE_WRITE_BEHIND)
			terrace_flush(o->store);
		for (int key = 0; key < KEYS; key++) {
			if (get(o, kind, key) != TERRACE_OK)
				missing = key;
		}
		if (rc == TERRACE_OK && missing < 0)
			return;
		written->retries++;
		if (tries == 3)
			fail("the store does not work on", kind, missing, terrace_error_message());
		rc = TERRACE_OK;
	}
}

static void check_repair(struct opened *o)
{
	if (terrace_verify(o->store, true, NULL, NULL, NULL) != TERRACE_OK &&
	    terrace_verify(o->store, true, NULL, NULL, NULL) != TERRACE_OK)
		fail("verify --repair", -1, 0, terrace_error_message());
}

/* --- orders -------------------------------------------------------------------------------------------- */

struct order {
	char verb; /* w, l, u, r, q */
	uint64_t seed;
};

struct process {
	pid_t pid;
	int fd;
};

static void obey(int fd)
{
	struct opened o;
	struct order order;

	open_all(&o);
	while (read(fd, &order, sizeof order) == sizeof order && order.verb != 'q') {
		struct random random = { order.seed };

		if (!o.store)
			;
		else if (order.verb == 'w')
			work(&o, &random);
		else if (order.verb == 'l')
			look(&o, &random);
		else if (order.verb == 'u')
			use(&o, &random);
		else if (order.verb == 'r')
			check_repair(&o);
		if (write(fd, "", 1) != 1)
			break;
	}
	if (o.store)
		close_all(&o);
	_exit(0);
}

static struct process start(void)
{
	struct process process;
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
		perror("socketpair");
		exit(1);
	}
	process.pid = fork();
	if (process.pid == 0) {
		close(fds[0]);
		obey(fds[1]);
	}
	close(fds[1]);
	process.fd = fds[0];
	return process;
}

static void tell(struct process *process, char verb, uint64_t seed)
{
	struct order order = { verb, seed };
	struct pollfd ready = { .fd = process->fd, .events = POLLIN };
	char answer;

	if (process->pid == 0)
		return;
	if (write(process->fd, &order, sizeof order) == sizeof order &&
	    poll(&ready, 1, ANSWER_MS) > 0 && read(process->fd, &answer, 1) == 1)
		return;
	fail("a process hangs or died", -1, verb, strerror(errno));
}

static void end(struct process *process, bool killed)
{
	struct order order = { 'q', 0 };
	int status;

	if (process->pid == 0)
		return;
	if (killed || *written->failure)
		kill(process->pid, SIGKILL);
	else if (write(process->fd, &order, sizeof order) != sizeof order)
		fail("a process died", -1, 0, "");
	close(process->fd);
	waitpid(process->pid, &status, 0);
	if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL) {
		*written->failure = '\0';
		fail("a process died of a signal", -1, WTERMSIG(status),
		     strsignal(WTERMSIG(status)));
		fprintf(stderr, "damage: %s\n", written->failure);
	}
	process->pid = 0;
}

/* --- files ----------------------------------------------------------------------------------------------- */

enum file_kind { DB, WAL, SHM, SHARED, WAITING, LOCK, STATS, L3, OTHER, FILE_KINDS };
static const char *const file_names[] = { "db",   "wal",   "shm", "shared", "lanes",
	                                  "lock", "stats", "l3",  "other" };

struct file {
	enum file_kind kind;
	char path[400];
	uint64_t size;
};

static struct {
	struct file files[FILES_MAX];
	size_t count;
} found;

static enum file_kind kind_of(const char *name, bool below)
{
	size_t size = strlen(name);

	if (below)
		return L3;
	if (strncmp(name, "db-", 3) == 0) {
		if (size > 4 && strcmp(name + size - 4, "-wal") == 0)
			return WAL;
		return size > 4 && strcmp(name + size - 4, "-shm") == 0 ? SHM : DB;
	}
	for (int kind = SHARED; kind <= STATS; kind++) {
		if (strcmp(name, file_names[kind]) == 0)
			return (enum file_kind)kind;
	}
	return OTHER;
}

static void find_files(const char *path, int depth)
{
	DIR *dir = opendir(path);
	struct dirent *item;

	while (dir && (item = readdir(dir)) && found.count < FILES_MAX) {
		struct file *file = &found.files[found.count];
		struct stat st;

		if (item->d_name[0] == '.')
			continue;
		snprintf(file->path, sizeof file->path, "%s/%.60s", path, item->d_name);
		if (lstat(file->path, &st) < 0)
			continue;
		if (S_ISDIR(st.st_mode)) {
			char below[400];

			snprintf(below, sizeof below, "%s", file->path);
			find_files(below, depth + 1);
		} else if (S_ISREG(st.st_mode)) { /* not a link that we have put there */
			file->kind = kind_of(item->d_name, depth > 0);
			file->size = (uint64_t)st.st_size;
			found.count++;
		}
	}
	if (dir)
		closedir(dir);
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct file *)a)->path, ((const struct file *)b)->path);
}

/* One kind is as likely as another, however many files there are of it. */
static struct file *choose_file(struct random *random, const char *only, bool is_open)
{
	for (int tries = 0; tries < 1000; tries++) {
		enum file_kind kind = (enum file_kind)random_below(random, FILE_KINDS);
		size_t from = (size_t)random_below(random, found.count ? found.count : 1);

		if ((*only && strcmp(only, file_names[kind]) != 0) || (is_open && kind == SHM))
			continue;
		for (size_t i = 0; i < found.count; i++) {
			struct file *file = &found.files[(from + i) % found.count];

			if (file->kind == kind)
				return file;
		}
	}
	return NULL;
}

/* --- damage --------------------------------------------------------------------------------------------------- */

static char *load(const struct file *file)
{
	char *bytes = malloc(file->size + 1);
	int fd = open(file->path, O_RDONLY | O_NOFOLLOW);

	if (fd < 0 || pread(fd, bytes, file->size, 0) != (ssize_t)file->size)
		memset(bytes, 0, file->size);
	if (fd >= 0)
		close(fd);
	return bytes;
}

static void store(const struct file *file, uint64_t at, const void *bytes, uint64_t size)
{
	int fd = open(file->path, O_WRONLY | O_NOFOLLOW);

	if (fd < 0 || pwrite(fd, bytes, size, (off_t)at) != (ssize_t)size)
		fail("cannot damage", -1, 0, file->path);
	if (fd >= 0)
		close(fd);
}

/* Anywhere, or where there is something. */
static uint64_t place(struct random *random, const char *bytes, uint64_t size)
{
	uint64_t at = random_below(random, size);

	if (random_below(random, 3) == 0)
		return at;
	for (uint64_t i = 0; i < size; i++) {
		if (bytes[(at + i) % size])
			return (at + i) % size;
	}
	return at;
}

static uint64_t below(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void flip(struct random *random, const struct file *file, char *bytes, int count)
{
	for (int i = 0; i < count; i++) {
		uint64_t at = place(random, bytes, file->size);
		int bit = (int)random_below(random, 8);

		bytes[at] = (char)(bytes[at] ^ 1 << bit);
		store(file, at, bytes + at, 1);
		snprintf(story + strlen(story), sizeof story - strlen(story), " %llu.%d",
		         (unsigned long long)at, bit);
	}
}

static void fill_range(struct random *random, const struct file *file, char *bytes, bool noise)
{
	uint64_t at = place(random, bytes, file->size);
	uint64_t size = 1 + random_below(random, 1u << random_below(random, 15));

	if (random_below(random, 2))
		at = at / 4096 * 4096;
	size = below(size, file->size - at);
	for (uint64_t i = 0; i < size; i++)
		bytes[at + i] = noise ? (char)random_next(random) : 0;
	store(file, at, bytes + at, size);
	snprintf(story + strlen(story), sizeof story - strlen(story), " %llu+%llu",
	         (unsigned long long)at, (unsigned long long)size);
}

/* Pages of the database, frames of its log, or any two parts. */
static void swap_parts(struct random *random, const struct file *file, char *bytes)
{
	uint64_t step = file->kind == DB ? 4096 : file->kind == WAL ? 4120 : 8;
	uint64_t start = file->kind == WAL ? 32 : 0;
	uint64_t size = step == 8 ? 8 + random_below(random, 256) : step, steps, a, b;
	char *kept;

	if (file->size < start + 2 * size)
		return;
	steps = (file->size - start - size) / step + 1;
	a = start + random_below(random, steps) * step;
	b = start + random_below(random, steps) * step;
	kept = malloc(size);
	memcpy(kept, bytes + a, size);
	store(file, a, bytes + b, size);
	store(file, b, kept, size);
	free(kept);
	snprintf(story + strlen(story), sizeof story - strlen(story), " %llu and %llu+%llu",
	         (unsigned long long)a, (unsigned long long)b, (unsigned long long)size);
}

static void replace(struct random *random, const struct file *file)
{
	char other[450];

	snprintf(other, sizeof other, "%s/replaced", directory);
	remove(other);
	switch (random_below(random, 4)) {
	case 0: /* gone */
		unlink(file->path);
		break;
	case 1: /* another file, of nothing */
		close(open(other, O_CREAT | O_EXCL | O_RDWR, 0600));
		rename(other, file->path);
		break;
	case 2: /* a link */
		unlink(file->path);
		if (symlink("/dev/null", file->path) < 0)
			perror("symlink");
		break;
	case 3: { /* a copy of itself */
		char *bytes = load(file);
		struct file copy = *file;

		snprintf(copy.path, sizeof copy.path, "%.390s", other);
		close(open(other, O_CREAT | O_EXCL | O_RDWR, 0600));
		store(&copy, 0, bytes, file->size);
		rename(other, file->path);
		free(bytes);
		break;
	}
	}
}

/* Those that have the store open while it is damaged. */
static struct process pair[2];

/* By one of them; after files were swapped it may have another name by now. */
static bool is_mapped_elsewhere(const struct file *file)
{
	unsigned long inode;
	char path[64], line[600];
	bool found_it = false;
	struct stat st;

	if (stat(file->path, &st) < 0)
		return false;
	for (int i = 0; i < 2 && !found_it; i++) {
		FILE *maps;

		snprintf(path, sizeof path, "/proc/%d/maps", (int)pair[i].pid);
		maps = pair[i].pid ? fopen(path, "r") : NULL;
		while (maps && !found_it && fgets(line, sizeof line, maps))
			found_it = sscanf(line, "%*s %*s %*s %*s %lu", &inode) == 1 &&
			           inode == st.st_ino;
		if (maps)
			fclose(maps);
	}
	return found_it;
}

static bool is_mapped(const struct file *file)
{
	return file->kind == SHARED || file->kind == SHM || file->kind == WAITING ||
	       is_mapped_elsewhere(file);
}

/* Of the same kind where there is one. */
static void swap_files(struct random *random, const struct file *file, bool is_open)
{
	const struct file *with = file;
	char other[450];

	for (int tries = 0; tries < 50 && with == file; tries++) {
		const struct file *tried = &found.files[random_below(random, found.count)];

		if (tries > 40 || tried->kind == file->kind)
			with = tried;
	}
	if (is_open && is_mapped(with))
		return;
	snprintf(other, sizeof other, "%s/swapped", directory);
	rename(file->path, other);
	rename(with->path, file->path);
	rename(other, with->path);
	if (with->kind == SHARED)
		written->may_refuse = is_open;
	snprintf(story + strlen(story), sizeof story - strlen(story), " with %s",
	         with->path + strlen(format_path));
}

enum how { FLIP, FLIPS, ZERO, NOISE, CUT, GROW, SWAP_PARTS, SWAP_FILES, REPLACE, HOWS };
static const char *const how_names[] = { "flip", "flips",      "zero",       "noise",  "cut",
	                                 "grow", "swap parts", "swap files", "replace" };

static uint64_t done[FILE_KINDS][HOWS];

static bool has_lock(void)
{
	char path[450];
	struct stat st;

	snprintf(path, sizeof path, "%s/lock", format_path);
	return lstat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* What nothing can be done about: see above. */
static bool is_beyond_help(const struct file *file, enum how how)
{
	return (how == CUT && is_mapped(file)) ||
	       (file->kind == SHARED && (how == SWAP_FILES || how == REPLACE) && !has_lock());
}

static void damage(struct random *random, const char *only, bool is_open)
{
	struct file *file;
	char *bytes, extra[512];
	enum how how;
	uint64_t size;

	found.count = 0;
	find_files(format_path, 0);
	qsort(found.files, found.count, sizeof found.files[0], by_path);
	file = choose_file(random, only, is_open);
	if (!file)
		return;
	do {
		how = (enum how)random_below(random, HOWS);
	} while (is_open && is_beyond_help(file, how));
	snprintf(story, sizeof story, "%s, %s %s", is_open ? "open" : "closed", how_names[how],
	         file->path + strlen(format_path));
	done[file->kind][how]++;
	if (file->kind == SHARED && (how == SWAP_FILES || how == REPLACE))
		written->may_refuse = is_open;
	bytes = load(file);
	switch (how) {
	case FLIP:
	case FLIPS:
		if (file->size)
			flip(random, file, bytes, how == FLIP ? 1 : 8);
		break;
	case ZERO:
	case NOISE:
		if (file->size)
			fill_range(random, file, bytes, how == NOISE);
		break;
	case CUT:
		size = random_below(random, 4) ? random_below(random, file->size + 1) : 0;
		if (truncate(file->path, (off_t)size) < 0)
			perror("truncate");
		snprintf(story + strlen(story), sizeof story - strlen(story), " to %llu",
		         (unsigned long long)size);
		break;
	case GROW:
		for (size_t i = 0; i < sizeof extra; i++)
			extra[i] = (char)random_next(random);
		store(file, file->size, extra, 1 + random_below(random, sizeof extra));
		break;
	case SWAP_PARTS:
		swap_parts(random, file, bytes);
		break;
	case SWAP_FILES:
		swap_files(random, file, is_open);
		break;
	case REPLACE:
		replace(random, file);
		break;
	case HOWS:
		break;
	}
	free(bytes);
}

/* --- rounds ------------------------------------------------------------------------------------------------------ */

static void round_closed(struct random *random, const char *only)
{
	struct process process = start();

	tell(&process, 'w', random_next(random));
	end(&process, false);
	damage(random, only, false);
	process = start();
	tell(&process, 'l', random_next(random));
	tell(&process, 'u', random_next(random));
	if (random_below(random, 8) == 0)
		tell(&process, 'r', random_next(random));
	end(&process, false);
}

static void round_open(struct random *random, const char *only)
{
	struct process third = { 0 };

	for (int i = 0; i < 2; i++) {
		if (pair[i].pid == 0)
			pair[i] = start();
		tell(&pair[i], 'w', random_next(random));
	}
	tell(&pair[0], 'l', random_next(random));
	written->may_refuse = false;
	damage(random, only, true);
	if (random_below(random, 2)) {
		third = start();
		tell(&third, 'l', random_next(random));
		tell(&third, 'u', random_next(random));
	}
	for (int turn = 0; turn < 2; turn++) {
		for (int i = 0; i < 2; i++)
			tell(&pair[i], turn ? 'u' : 'l', random_next(random));
	}
	tell(&pair[0], 'l', random_next(random));
	tell(&third, 'l', random_next(random));
	if (random_below(random, 8) == 0)
		tell(&pair[1], 'r', random_next(random));
	end(&third, false);
	/* Nobody else can come in until they have gone; then everybody. */
	for (int i = 0; i < 2 && written->may_refuse; i++)
		end(&pair[i], false);
	written->may_refuse = false;
}

static void report(uint64_t rounds, double seconds, bool failed)
{
	printf("  %-8s", "");
	for (int how = 0; how < HOWS; how++)
		printf(" %10s", how_names[how]);
	printf("\n");
	for (int kind = 0; kind < FILE_KINDS; kind++) {
		printf("  %-8s", file_names[kind]);
		for (int how = 0; how < HOWS; how++)
			printf(" %10llu", (unsigned long long)done[kind][how]);
		printf("\n");
	}
	printf(
	    "damage: %llu damages, %llu gets, %llu hits, %llu puts, %llu rounds of puts that had "
	    "to be tried again, %llu processes that were refused, %.1f s: %s\n",
	    (unsigned long long)rounds, (unsigned long long)written->gets,
	    (unsigned long long)written->hits, (unsigned long long)written->puts,
	    (unsigned long long)written->retries, (unsigned long long)written->refused, seconds,
	    failed ? "FAILED" : "no lie, no crash, the store worked on");
}

int main(void)
{
	uint64_t rounds = amount("ROUNDS", 2000), first = amount("FIRST", 0), seed, n;
	const char *only = getenv("ONLY") ? getenv("ONLY") : "";
	double start_time = seconds_now();
	struct random random;

	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	setenv("XDG_CONFIG_HOME", "/nonexistent", 1);
	written = share(sizeof *written);
	scratch_dir(directory, sizeof directory);
	snprintf(store_path, sizeof store_path, "%s/store", directory);
	snprintf(format_path, sizeof format_path, "%s/v2", store_path);
	seed = proof_seed("damage");
	for (n = 0; n < rounds && !*written->failure; n++) {
		bool is_open;

		/* By the round, so that FIRST finds one again without those before. */
		if (n % FRESH == 0 && n < first) {
			n += FRESH - 1;
			continue;
		}
		if (n % FRESH == 0) {
			end(&pair[0], false);
			end(&pair[1], false);
			remove_dir(store_path);
			memset(written->latest, 0, sizeof written->latest);
			random.state = seed + n * UINT64_C(0x9e3779b97f4a7c15);
		}
		is_open = n / FRESH % 2;
		if (is_open)
			round_open(&random, only);
		else
			round_closed(&random, only);
		if (getenv("VERBOSE"))
			printf("  %llu: %s\n", (unsigned long long)n, story);
		if (*written->failure)
			fprintf(stderr, "damage: round %llu: %s\n  %s\n", (unsigned long long)n,
			        story, written->failure);
	}
	end(&pair[0], false);
	end(&pair[1], false);
	report(n, seconds_now() - start_time, *written->failure);
	if (*written->failure) {
		fprintf(stderr, "damage: what is left is in %s\n", directory);
		return 1;
	}
	remove_dir(directory);
	return 0;
}
