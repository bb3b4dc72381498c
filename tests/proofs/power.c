/*
 * Power cuts: two processes write on a loop-mounted file system, and in the
 * middle of it the file system is shut down, with its journal flushed or
 * dropped, as a power cut would leave it. It is mounted again, the boot is
 * another one, and everything is looked at: no foreign byte, no value that
 * nobody wrote, and of what can change none that is older than a write which had
 * ended; what is immutable is kept, unless its bytes are gone. Some rounds end
 * in order before the cut: then nothing may be dropped that was synced. A second
 * store has nothing immutable, and so syncs nothing before it is left.
 *
 *   power [ext4] [xfs]      ROUNDS each; as root
 *   SAME_BOOT=1             the boot stays the same: nobody can know of the cut,
 *                           and this program must find lies
 */
#include "proofs/proofs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* The same number for ext4 and xfs; linux/fs.h has it only since 6.16. */
#define GOING_DOWN _IOR('X', 125, uint32_t)
enum { FLUSH_LOG = 1, FLUSH_NOTHING = 2 };

enum { PROCESSES = 2, KEYS = 48, VALUE_MAX = 6000, PATH_SIZE = 300 };

struct kind {
	const char *name;
	unsigned tiers;
	terrace_write write;
	bool immutable;
	int store;
};

static const struct kind kinds[] = {
	{ .name = "rows", .tiers = TERRACE_L2 },
	{ .name = "files", .tiers = TERRACE_L3 },
	{ .name = "all" },
	{ .name = "behind", .write = TERRACE_WRITE_BEHIND },
	{ .name = "fixed rows", .tiers = TERRACE_L2, .immutable = true },
	{ .name = "fixed files", .tiers = TERRACE_L3, .immutable = true },
	{ .name = "loose rows", .tiers = TERRACE_L2, .store = 1 },
	{ .name = "loose files", .tiers = TERRACE_L3, .store = 1 },
	{ .name = "loose, behind", .write = TERRACE_WRITE_BEHIND, .store = 1 },
};
enum { STORES = 2 };
enum { KINDS = sizeof kinds / sizeof *kinds };

/* Each key has one process that writes it, so its writes are in order. */
struct key_log {
	_Atomic uint32_t begun, finished; /* numbers of writes, deletes among them */
};

static struct log {
	_Atomic int failed, stop;
	_Atomic uint64_t writes;
	_Atomic uint64_t kept, kept_loose, kept_fixed, damaged; /* of all looks */
	struct key_log keys[KINDS][PROCESSES][KEYS];
} * log_;

static uint64_t seed;
static char scratch[PATH_SIZE - 100];

static void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void fail(const char *format, ...)
{
	va_list args;

	if (atomic_fetch_add(&log_->failed, 1) < 5) {
		va_start(args, format);
		fprintf(stderr, "power: ");
		vfprintf(stderr, format, args);
		fprintf(stderr, " (SEED=%llu)\n", (unsigned long long)seed);
		va_end(args);
	}
}

static bool run(const char *format, ...) __attribute__((format(printf, 1, 2)));

static bool run(const char *format, ...)
{
	char command[3 * PATH_SIZE];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof command, format, args);
	va_end(args);
	return system(command) == 0;
}

static const char *path_of(const char *name)
{
	static char paths[4][PATH_SIZE];
	static unsigned next;
	char *path = paths[next++ % 4];

	snprintf(path, PATH_SIZE, "%s/%s", scratch, name);
	return path;
}

/* --- values ------------------------------------------------------------------------------------ */

struct head {
	uint32_t kind, process, key, number, size;
};

static size_t make_value(struct head head, uint8_t *ret)
{
	struct random random;

	if (kinds[head.kind].immutable)
		head.number = 0; /* it follows from the key */
	random.state = (uint64_t)head.kind << 56 ^ (uint64_t)head.process << 48 ^
	               (uint64_t)head.key << 32 ^ head.number;
	head.size = (uint32_t)(sizeof head + random_below(&random, VALUE_MAX - sizeof head));
	memcpy(ret, &head, sizeof head);
	for (size_t at = sizeof head; at < head.size; at++)
		ret[at] = (uint8_t)random_next(&random);
	return head.size;
}

static terrace_slice key_text(uint32_t process, uint32_t key, char ret[32])
{
	snprintf(ret, 32, "%u:%u", process, key);
	return terrace_str(ret);
}

/* What was read, against what had ended when the read began. */
static void check(uint32_t kind, uint32_t process, uint32_t key, uint32_t finished,
                  terrace_value *value)
{
	struct key_log *log = &log_->keys[kind][process][key];
	uint8_t expected[VALUE_MAX];
	struct head head;

	if (terrace_size(value) < sizeof head) {
		fail("%s: a value of %zu bytes", kinds[kind].name, terrace_size(value));
		return;
	}
	memcpy(&head, terrace_data(value), sizeof head);
	if (head.kind != kind || head.process != process || head.key != key)
		fail("%s: key %u:%u gives a value of another key", kinds[kind].name, process, key);
	else if (head.number > atomic_load(&log->begun))
		fail("%s: key %u:%u gives write %u, which never was", kinds[kind].name, process,
		     key, head.number);
	else if (terrace_size(value) != make_value(head, expected) ||
	         memcmp(terrace_data(value), expected, terrace_size(value)) != 0)
		fail("%s: key %u:%u, write %u has foreign bytes", kinds[kind].name, process, key,
		     head.number);
	else if (!kinds[kind].immutable && head.number < finished)
		fail("%s: key %u:%u gives write %u, but write %u had ended", kinds[kind].name,
		     process, key, head.number, finished);
}

/* --- the store ------------------------------------------------------------------------------------ */

static bool open_all(terrace *stores[STORES], terrace_cache *caches[KINDS])
{
	static const char *const names[STORES] = { "mount/store", "mount/loose" };
	terrace_options options = TERRACE_OPTIONS_INIT;

	options.boot_id_path = path_of("boot_id");
	options.disk_bytes = 16 << 20; /* a small store moves its log often */
	for (int i = 0; i < STORES; i++) {
		if (terrace_open(path_of(names[i]), &options, &stores[i]) != TERRACE_OK)
			return false;
	}
	for (int i = 0; i < KINDS; i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;

		policy.tiers = kinds[i].tiers;
		policy.write = kinds[i].write;
		policy.immutable = kinds[i].immutable;
		policy.inline_bytes = kinds[i].tiers == TERRACE_L3 ? 1 : 2000;
		if (terrace_cache_open(stores[kinds[i].store], kinds[i].name, &policy,
		                       &caches[i]) != TERRACE_OK)
			return false;
	}
	return true;
}

static void close_all(terrace *stores[STORES])
{
	for (int i = 0; i < STORES; i++)
		terrace_close(stores[i]);
}

/* --- a process that writes ------------------------------------------------------------------------- */

static void get(uint32_t kind, uint32_t process, uint32_t key, terrace_cache *cache, bool *ret_hit)
{
	uint32_t finished = atomic_load(&log_->keys[kind][process][key].finished);
	terrace_value *value;
	char text[32];

	*ret_hit = terrace_get(cache, key_text(process, key, text), &value) == TERRACE_OK;
	if (!*ret_hit)
		return;
	check(kind, process, key, finished, value);
	terrace_release(value);
}

static void write_one(uint32_t kind, uint32_t process, uint32_t key, terrace_cache *cache, bool put)
{
	struct key_log *log = &log_->keys[kind][process][key];
	struct head head = { kind, process, key, atomic_fetch_add(&log->begun, 1) + 1, 0 };
	uint8_t value[VALUE_MAX];
	char text[32];
	int rc;

	if (put)
		rc = terrace_put(cache, key_text(process, key, text),
		                 terrace_bytes(value, make_value(head, value)), NULL);
	else
		rc = terrace_delete(cache, key_text(process, key, text));
	if (rc >= 0)
		atomic_store(&log->finished, head.number);
	atomic_fetch_add(&log_->writes, 1);
}

/* All keys of this process at once. */
static void invalidate(uint32_t kind, uint32_t process, terrace_cache *cache)
{
	uint32_t numbers[KEYS];
	terrace_match match;
	char text[32];

	for (uint32_t key = 0; key < KEYS; key++)
		numbers[key] = atomic_fetch_add(&log_->keys[kind][process][key].begun, 1) + 1;
	snprintf(text, sizeof text, "%u:", process);
	match = terrace_match_text(TERRACE_MATCH_PREFIX, text);
	if (terrace_invalidate(cache, &match, NULL) != TERRACE_OK)
		return;
	for (uint32_t key = 0; key < KEYS; key++)
		atomic_store(&log_->keys[kind][process][key].finished, numbers[key]);
}

static void work(uint32_t process, uint64_t round)
{
	struct random random = { seed ^ round << 20 ^ (uint64_t)process << 8 };
	terrace_cache *caches[KINDS];
	terrace *stores[STORES];
	bool hit;

	if (!open_all(stores, caches)) {
		/* The cut may come first. */
		_exit(2);
	}
	while (!atomic_load(&log_->stop)) {
		uint32_t kind = (uint32_t)random_below(&random, KINDS);
		uint32_t key = (uint32_t)random_below(&random, KEYS);
		uint64_t what = random_below(&random, 1000);

		if (what < 650)
			write_one(kind, process, key, caches[kind], true);
		else if (what < 800)
			write_one(kind, process, key, caches[kind], false);
		else if (what < 803)
			invalidate(kind, process, caches[kind]);
		else
			get(kind, process, key, caches[kind], &hit);
	}
	close_all(stores);
	_exit(0);
}

/* --- the look afterwards --------------------------------------------------------------------------- */

static int on_fault(void *ctx, const terrace_fault *fault)
{
	(void)ctx;
	/* What a cut may leave; see the second verify. */
	if (fault->kind == TERRACE_FAULT_DATABASE)
		fail("the database: %s", fault->detail);
	return 0;
}

static int on_fault_left(void *ctx, const terrace_fault *fault)
{
	(void)ctx;
	fail("verify is not clean after a repair: %s", fault->detail);
	return 0;
}

static uint64_t damaged_in(terrace_cache *cache)
{
	terrace_stats stats = TERRACE_STATS_INIT;

	return terrace_cache_stats(cache, &stats) == TERRACE_OK ? stats.damaged : 0;
}

/* What is synced as it should be is in one piece. */
static bool was_set_aside(void)
{
	DIR *stream = opendir(path_of("mount/store/v2"));
	struct dirent *item;
	bool found = false;

	while (stream && (item = readdir(stream)))
		found |= strncmp(item->d_name, "damaged-", 8) == 0;
	if (stream)
		closedir(stream);
	return found;
}

static void look(uint64_t round)
{
	terrace_cache *caches[KINDS];
	terrace *stores[STORES];
	bool hit;

	if (!open_all(stores, caches)) {
		fail("round %llu: open: %s", (unsigned long long)round, terrace_error_message());
		_exit(0);
	}
	for (uint32_t kind = 0; kind < KINDS; kind++) {
		uint64_t damaged = damaged_in(caches[kind]);

		for (uint32_t at = 0; at < PROCESSES * KEYS; at++) {
			get(kind, at / KEYS, at % KEYS, caches[kind], &hit);
			if (hit)
				atomic_fetch_add(kinds[kind].immutable ? &log_->kept_fixed :
				                 kinds[kind].store     ? &log_->kept_loose :
				                                         &log_->kept,
				                 1);
		}
		atomic_fetch_add(&log_->damaged, damaged_in(caches[kind]) - damaged);
	}
	for (int i = 0; i < STORES; i++) {
		if (terrace_verify(stores[i], true, on_fault, NULL, NULL) < 0 ||
		    terrace_verify(stores[i], false, on_fault_left, NULL, NULL) < 0)
			fail("verify: %s", terrace_error_message());
	}
	if (was_set_aside())
		fail("the database was in pieces");
	close_all(stores);
	_exit(0);
}

static void look_in_child(uint64_t round)
{
	pid_t pid;
	int status;

	fflush(NULL);
	pid = fork();
	if (pid == 0)
		look(round);
	waitpid(pid, &status, 0);
	if (status != 0)
		fail("round %llu: the look ended with status %#x", (unsigned long long)round,
		     status);
}

/* --- file systems ----------------------------------------------------------------------------------- */

static bool mount_image(void)
{
	return run("mount -o loop '%s' '%s' 2>'%s'", path_of("image"), path_of("mount"),
	           path_of("why"));
}

static bool unmount(void)
{
	for (int tries = 0; tries < 200; tries++) {
		if (run("umount '%s' 2>'%s'", path_of("mount"), path_of("why")))
			return true;
		usleep(10000);
	}
	return false;
}

/* False where it cannot be made or mounted; then `why` says so. */
static bool make_image(const char *type)
{
	bool xfs = strcmp(type, "xfs") == 0;

	mkdir(path_of("mount"), 0700);
	unlink(path_of("image"));
	return run("truncate -s %s '%s' 2>'%s'", xfs ? "320M" : "96M", path_of("image"),
	           path_of("why")) &&
	       run("PATH=$PATH:/sbin:/usr/sbin mkfs.%s -q %s '%s' >'%s' 2>&1", type,
	           xfs ? "-f" : "-F", path_of("image"), path_of("why")) &&
	       mount_image();
}

static void say_why(const char *type)
{
	char line[200] = "";
	FILE *why = fopen(path_of("why"), "r");

	if (why && fgets(line, sizeof line, why))
		line[strcspn(line, "\n")] = '\0';
	if (why)
		fclose(why);
	printf("power: SKIPPED %s: it cannot be made and mounted here: %s\n", type,
	       *line ? line : "no reason given");
}

static bool cut(bool flush_log)
{
	uint32_t how = flush_log ? FLUSH_LOG : FLUSH_NOTHING;
	int fd = open(path_of("mount"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool done = fd >= 0 && ioctl(fd, GOING_DOWN, &how) == 0;

	if (!done)
		fprintf(stderr, "power: shutting the file system down: %s\n", strerror(errno));
	if (fd >= 0)
		close(fd);
	return done;
}

static void sync_mounted(void)
{
	int fd = open(path_of("mount"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0) {
		syncfs(fd);
		close(fd);
	}
}

/* A kernel writes what it likes first: all of one file, and nothing of the others. */
static void sync_one(struct random *random)
{
	const char *dir = path_of(random_below(random, 2) ? "mount/store/v2" : "mount/loose/v2");
	DIR *stream = opendir(dir);
	struct dirent *item;
	uint64_t skip = random_below(random, 8);

	while (stream && (item = readdir(stream))) {
		int fd;

		if (item->d_type != DT_REG || skip-- > 0)
			continue;
		fd = openat(dirfd(stream), item->d_name, O_RDONLY | O_CLOEXEC);
		if (fd >= 0) {
			fsync(fd);
			close(fd);
		}
		break;
	}
	if (stream)
		closedir(stream);
}

static void new_boot(uint64_t number)
{
	FILE *file = fopen(path_of("boot_id"), "w");

	if (file) {
		fprintf(file, "%08x-0000-4000-8000-%012llx\n", (unsigned)seed,
		        (unsigned long long)number);
		fclose(file);
	}
}

/* --- rounds --------------------------------------------------------------------------------------------- */

static bool round_once(struct random *random, uint64_t round)
{
	bool in_order = round % 4 == 3, flush_log = random_below(random, 2);
	pid_t pids[PROCESSES];
	int status;

	atomic_store(&log_->stop, 0);
	for (uint32_t i = 0; i < PROCESSES; i++) {
		fflush(NULL);
		pids[i] = fork();
		if (pids[i] == 0)
			work(i, round);
	}
	/* Now and then all is on the device, and the load goes on. */
	usleep((useconds_t)(5000 + random_below(random, 120000)));
	for (uint64_t syncs = random_below(random, 4); syncs > 0; syncs--) {
		if (random_below(random, 3))
			sync_one(random);
		else
			sync_mounted();
		usleep((useconds_t)random_below(random, 80000));
	}
	if (in_order) {
		atomic_store(&log_->stop, 1);
		for (int i = 0; i < PROCESSES; i++) {
			waitpid(pids[i], &status, 0);
			if (status != 0)
				fail("a process that writes ended with status %#x", status);
		}
		if (round % 8 == 3)
			sync_mounted();
		for (int i = 0; i < 4; i++)
			sync_one(random);
	}
	if (!cut(flush_log))
		return false;
	atomic_store(&log_->stop, 1);
	for (int i = 0; i < PROCESSES && !in_order; i++) {
		kill(pids[i], SIGKILL);
		waitpid(pids[i], &status, 0);
	}
	if (!unmount() || !mount_image()) {
		fail("round %llu: the file system could not be mounted again",
		     (unsigned long long)round);
		return false;
	}
	if (!amount("SAME_BOOT", 0))
		new_boot(round + 1);
	look_in_child(round);
	return true;
}

/* The number of rounds; 0 where it cannot run. */
static uint64_t run_on(const char *type, uint64_t rounds)
{
	struct random random = { seed ^ (uint64_t)type[0] << 32 };
	double start = seconds_now();
	uint64_t round = 0;

	memset(log_->keys, 0, sizeof log_->keys);
	atomic_store(&log_->writes, 0);
	atomic_store(&log_->kept, 0);
	atomic_store(&log_->kept_loose, 0);
	atomic_store(&log_->kept_fixed, 0);
	atomic_store(&log_->damaged, 0);
	new_boot(0);
	if (!make_image(type)) {
		say_why(type);
		return 0;
	}
	while (round < rounds && !atomic_load(&log_->failed) && round_once(&random, round))
		round++;
	unmount();
	printf("power: %s: %llu power cuts, %llu writes, %.1f s; kept %llu and %llu that can "
	       "change, %llu immutable; %llu counted as damaged: %s\n",
	       type, (unsigned long long)round, (unsigned long long)atomic_load(&log_->writes),
	       seconds_now() - start, (unsigned long long)atomic_load(&log_->kept),
	       (unsigned long long)atomic_load(&log_->kept_loose),
	       (unsigned long long)atomic_load(&log_->kept_fixed),
	       (unsigned long long)atomic_load(&log_->damaged),
	       atomic_load(&log_->failed) ? "FAILED" : "no lie");
	/* A store that drops everything would lie no more than a good one. */
	if (round >= 4 && !atomic_load(&log_->failed) &&
	    (!atomic_load(&log_->kept_fixed) || !atomic_load(&log_->kept) ||
	     !atomic_load(&log_->kept_loose)))
		fail("%s: nothing was ever kept", type);
	return round;
}

int main(int argc, char **argv)
{
	static const char *const all[] = { "ext4", "xfs" };
	uint64_t rounds = amount("ROUNDS", 20);
	int count = argc > 1 ? argc - 1 : 2, ran = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	seed = proof_seed("power");
	log_ = share(sizeof *log_);
	/* In memory, the device is fast and nothing of the machine's own is synced. */
	if (!getenv("TMPDIR") && access("/dev/shm", W_OK) == 0)
		setenv("TMPDIR", "/dev/shm", 1);
	scratch_dir(scratch, sizeof scratch);
	for (int i = 0; i < count; i++)
		ran += run_on(argc > 1 ? argv[i + 1] : all[i], rounds) > 0;
	if (!atomic_load(&log_->failed))
		remove_dir(scratch);
	else
		fprintf(stderr, "power: the image is left in %s\n", scratch);
	if (atomic_load(&log_->failed))
		return 1;
	return ran == count ? 0 : EXIT_SKIPPED;
}
