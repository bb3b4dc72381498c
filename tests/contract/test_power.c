/*
 * What a store does when the machine went down while it was in use. The boot is
 * another one when the file says so that stands for the kernel's; nothing is
 * lost here, so what is dropped shows the rule, and not the power cut
 * (tests/proofs/power has those).
 */
#include "core/store.h"
#include "support/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	fixture_open(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fixture_close(f);
	free(f);
	return 0;
}

static struct fixture *in_boot(void **state, int number)
{
	struct fixture *f = *state;

	fixture_boot(f, number);
	fixture_reopen(f);
	return f;
}

static const terrace_policy *policy_of(unsigned tiers, bool immutable)
{
	static terrace_policy policy;

	policy = (terrace_policy)TERRACE_POLICY_INIT;
	policy.tiers = tiers;
	policy.inline_bytes = tiers == TERRACE_L3 ? 1 : 0;
	policy.immutable = immutable;
	return &policy;
}

/* A process writes "k" and dies; the store is closed here meanwhile, so that it is alone. */
static void put_and_die(struct fixture *f, const terrace_policy *policy)
{
	struct peer peer;

	terrace_close(f->store);
	f->store = NULL;
	peer = peer_start(f, policy);
	assert_peer(&peer, "p k old", "ok");
	assert_peer(&peer, "p k new", "ok");
	peer_kill(&peer);
}

static terrace_cache *open_again(struct fixture *f, const terrace_policy *policy)
{
	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	return fixture_cache(f, "a", policy);
}

/* Does the store say that a power cut would take something back? */
static bool is_marked(const struct fixture *f)
{
	static const char none[16];
	char path[600], bytes[16];
	int fd;

	snprintf(path, sizeof path, "%s/v2/unsynced", scratch_path(&f->scratch, "store"));
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, bytes, sizeof bytes, 8), sizeof bytes);
	close(fd);
	return memcmp(bytes, none, sizeof none) != 0;
}

static const unsigned disk_tiers[] = { TERRACE_L2, TERRACE_L3, 0 };
enum { DISK_TIERS = sizeof disk_tiers / sizeof *disk_tiers };

static void test_power__after_a_crash_of_the_machine_what_can_change_is_dropped(void **state)
{
	struct fixture *f = in_boot(state, 1);

	for (int i = 0; i < DISK_TIERS; i++) {
		const terrace_policy *policy = policy_of(disk_tiers[i], false);
		terrace_cache *cache;

		put_and_die(f, policy);
		fixture_boot(f, 2 + i);
		cache = open_again(f, policy);
		assert_misses(cache, "k");
		/* and the cache goes on */
		assert_ok(put_text(cache, "k", "newer"));
		terrace_clear(cache, TERRACE_L1, NULL);
		assert_gives(cache, "k", "newer");
		terrace_cache_close(cache);
	}
}

static void test_power__what_is_immutable_is_kept(void **state)
{
	struct fixture *f = in_boot(state, 1);

	for (int i = 0; i < DISK_TIERS; i++) {
		const terrace_policy *policy = policy_of(disk_tiers[i], true);
		terrace_cache *cache, *other = fixture_cache(f, "other", NULL);

		assert_ok(put_text(other, "k", "v"));
		terrace_cache_close(other);
		put_and_die(f, policy);
		fixture_boot(f, 2 + i);
		/* it was recorded: who opens the cache now need not know */
		cache = open_again(f, policy_of(disk_tiers[i], false));
		assert_gives(cache, "k", "new");
		terrace_cache_close(cache);
	}
}

static void test_power__a_crash_of_the_process_drops_nothing(void **state)
{
	struct fixture *f = in_boot(state, 1);
	terrace_cache *cache;

	put_and_die(f, policy_of(0, false));
	cache = open_again(f, policy_of(0, false));
	assert_gives(cache, "k", "new");
	terrace_cache_close(cache);
}

static void test_power__after_an_orderly_end_nothing_is_dropped(void **state)
{
	struct fixture *f = in_boot(state, 1);
	terrace_cache *cache;

	/* the last to leave is another than who wrote, and one has died before */
	put_and_die(f, policy_of(0, false));
	cache = open_again(f, policy_of(0, false));
	terrace_cache_close(cache);
	assert_true(is_marked(f));
	terrace_close(f->store);
	assert_false(is_marked(f));
	for (int i = 2; i < 4; i++) {
		fixture_boot(f, i);
		cache = open_again(f, policy_of(0, false));
		assert_gives(cache, "k", "new");
		terrace_cache_close(cache);
		terrace_close(f->store);
	}
	cache = open_again(f, NULL);
	terrace_cache_close(cache);
}

static void test_power__who_is_not_the_last_leaves_the_mark(void **state)
{
	struct fixture *f = in_boot(state, 1);
	terrace_cache *cache;
	struct peer first, second;

	terrace_close(f->store);
	first = peer_start(f, policy_of(0, false));
	second = peer_start(f, policy_of(0, false));
	assert_peer(&first, "p k v", "ok");
	assert_peer(&second, "g k", "v");
	peer_end(&first);
	assert_true(is_marked(f));
	peer_kill(&second);
	fixture_boot(f, 2);
	cache = open_again(f, NULL);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

/* A store that, when it has left and has still to close its database, waits for another to go. */
static struct {
	struct disk_ops ops;
	const struct disk_ops *real;
	struct peer other;
} together;

static void close_the_other_first(void *tier)
{
	peer_end(&together.other);
	together.real->tier.close(tier);
}

static void test_power__of_two_that_leave_together_one_is_the_last(void **state)
{
	struct fixture *f = in_boot(state, 1);
	terrace_cache *cache;

	terrace_close(f->store);
	together.other = peer_start(f, policy_of(0, false));
	assert_peer(&together.other, "p k v", "ok");
	cache = open_again(f, NULL);
	terrace_cache_close(cache);
	assert_true(is_marked(f));
	together.real = f->store->disk_ops;
	together.ops = *together.real;
	together.ops.tier.close = close_the_other_first;
	f->store->disk_ops = &together.ops;
	terrace_close(f->store);
	f->store = NULL;
	assert_false(is_marked(f));
	fixture_boot(f, 2);
	cache = open_again(f, NULL);
	assert_gives(cache, "k", "v");
	terrace_cache_close(cache);
}

/* Whether the process dies as soon as the file says that there is nothing unsynced. */
static bool dies_at_none;

/* In the place of the C library's. */
ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
	static const char none[16];
	ssize_t n = syscall(SYS_pwrite64, fd, data, size, at);

	if (dies_at_none && size == 32 && memcmp((const char *)data + 8, none, sizeof none) == 0)
		raise(SIGKILL);
	return n;
}

static void test_power__who_is_killed_as_it_leaves_does_not_keep_others_from_marking(void **state)
{
	struct fixture *f = in_boot(state, 1);
	terrace_cache *cache;
	int status;
	pid_t pid;

	terrace_close(f->store);
	f->store = NULL;
	pid = fork();
	if (pid == 0) {
		cache = open_again(f, policy_of(0, false));
		assert_ok(put_text(cache, "k", "old"));
		dies_at_none = true;
		terrace_close(f->store);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	cache = open_again(f, policy_of(0, false));
	assert_gives(cache, "k", "old");
	assert_false(is_marked(f));
	assert_false(shared_is_loose(f->store->shared));
	assert_ok(put_text(cache, "k", "new"));
	assert_true(is_marked(f));
	terrace_cache_close(cache);
}

/* --- a database that is not synced ------------------------------------------------------------- */

/* Enough for the log to be moved; the store is small so that this takes little. */
static void fill_the_log(terrace_cache *cache)
{
	char value[4000], key[16];

	memset(value, 'x', sizeof value);
	for (int i = 0; i < 300; i++) {
		snprintf(key, sizeof key, "%d", i);
		assert_ok(
		    terrace_put(cache, terrace_str(key), terrace_bytes(value, sizeof value), NULL));
	}
}

static bool has_file(const struct fixture *f, const char *name)
{
	char path[600];

	snprintf(path, sizeof path, "%s/v2/%s", scratch_path(&f->scratch, "store"), name);
	return access(path, F_OK) == 0;
}

/* A process that is killed has done this in boot 1: it is written, but it has not left. */
static struct fixture *killed_after(void **state, void (*what)(struct fixture *f))
{
	struct fixture *f = in_boot(state, 1);
	pid_t pid;
	int status;

	f->options.disk_bytes = 16 << 20;
	terrace_close(f->store);
	f->store = NULL;
	pid = fork();
	if (pid == 0) {
		assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
		what(f);
		raise(SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	return f;
}

static void fill_loosely(struct fixture *f)
{
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	assert_ok(put_text(cache, "k", "old"));
	fill_the_log(cache);
	assert_ok(put_text(cache, "k", "new"));
	terrace_cache_close(cache);
	cache = fixture_cache(f, "files", policy_of(TERRACE_L3, false));
	assert_ok(put_text(cache, "k", "file"));
	terrace_cache_close(cache);
}

static void test_power__a_database_that_was_not_synced_is_dropped_whole(void **state)
{
	struct fixture *f = killed_after(state, fill_loosely);
	terrace_cache *cache;

	fixture_boot(f, 2);
	cache = open_again(f, NULL);
	assert_misses(cache, "k");
	assert_misses(cache, "7");
	assert_false(has_file(f, "db-1"));
	assert_true(has_file(f, "db-2"));
	assert_ok(put_text(cache, "k", "newer"));
	terrace_clear(cache, TERRACE_L1, NULL);
	assert_gives(cache, "k", "newer");
	terrace_cache_close(cache);
}

static void test_power__of_a_database_that_lost_everything_no_file_stays(void **state)
{
	struct fixture *f = killed_after(state, fill_loosely);
	terrace_cache *cache;
	char path[600];

	snprintf(path, sizeof path, "%s/v2/db-1", scratch_path(&f->scratch, "store"));
	assert_int_equal(truncate(path, 0), 0);
	strcat(path, "-wal");
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(fixture_files(f), 1);
	fixture_boot(f, 2);
	cache = open_again(f, NULL);
	assert_misses(cache, "k");
	assert_int_equal(fixture_files(f), 0);
	terrace_cache_close(cache);
}

static void test_power__in_the_same_boot_it_is_kept(void **state)
{
	struct fixture *f = killed_after(state, fill_loosely);
	terrace_cache *cache;

	cache = open_again(f, NULL);
	assert_gives(cache, "k", "new");
	/* and left in order, it is synced */
	terrace_cache_close(cache);
	terrace_close(f->store);
	fixture_boot(f, 2);
	cache = open_again(f, NULL);
	assert_gives(cache, "k", "new");
	assert_true(has_file(f, "db-1"));
	terrace_cache_close(cache);
}

static void fill_and_keep(struct fixture *f)
{
	terrace_cache *cache;

	fill_loosely(f);
	cache = fixture_cache(f, "fixed", policy_of(0, true));
	assert_ok(put_text(cache, "f", "v"));
	cache = fixture_cache(f, "a", NULL);
	fill_the_log(cache);
}

static void test_power__what_becomes_immutable_later_is_kept(void **state)
{
	struct fixture *f = killed_after(state, fill_and_keep);
	terrace_cache *cache;

	fixture_boot(f, 2);
	cache = open_again(f, NULL);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
	cache = fixture_cache(f, "fixed", NULL);
	assert_gives(cache, "f", "v");
	terrace_cache_close(cache);
}

static struct {
	struct disk_ops ops;
	const struct disk_ops *real;
	char order[8];
} seen;

static int see_sync(void *disk)
{
	strcat(seen.order, "s");
	return seen.real->sync(disk);
}

static int see_immutable(void *disk, uint32_t cache)
{
	strcat(seen.order, "i");
	return seen.real->cache_immutable(disk, cache);
}

static void test_power__what_becomes_immutable_finds_all_synced(void **state)
{
	struct fixture *f = in_boot(state, 1);

	f->options.disk_bytes = 16 << 20;
	fixture_reopen(f);
	seen.real = f->store->disk_ops;
	seen.ops = *seen.real;
	seen.ops.sync = see_sync;
	seen.ops.cache_immutable = see_immutable;
	f->store->disk_ops = &seen.ops;
	fill_loosely(f);
	assert_string_equal(seen.order, "");
	assert_true(shared_is_loose(f->store->shared));
	terrace_cache_close(fixture_cache(f, "fixed", policy_of(0, true)));
	assert_string_equal(seen.order, "si");
	fill_loosely(f);
	assert_false(shared_is_loose(f->store->shared));
	f->store->disk_ops = seen.real;
}

static int die_after_commit(void *disk, uint64_t *ret_seq)
{
	seen.real->commit(disk, ret_seq);
	raise(SIGKILL);
	return TERRACE_EIO;
}

static void declare_and_die(struct fixture *f)
{
	terrace_cache_close(fixture_cache(f, "fixed", NULL));
	seen.real = f->store->disk_ops;
	seen.ops = *seen.real;
	seen.ops.commit = die_after_commit;
	f->store->disk_ops = &seen.ops;
	fixture_cache(f, "fixed", policy_of(0, true));
}

/* The database knows it by then, so it must survive a power cut. */
static void test_power__who_is_killed_making_a_cache_immutable_leaves_all_to_be_synced(void **state)
{
	struct fixture *f = killed_after(state, declare_and_die);

	assert_ok(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store));
	fill_loosely(f);
	assert_false(shared_is_loose(f->store->shared));
}

/* A word that does not hold is not believed when it seems to say that none is immutable. */
static void test_power__where_it_cannot_be_told_what_is_immutable_all_is_synced(void **state)
{
	struct fixture *f = in_boot(state, 1);
	struct terrace *store;
	terrace_cache *cache;

	f->options.disk_bytes = 16 << 20;
	fixture_reopen(f);
	cache = fixture_cache(f, "fixed", policy_of(0, true));
	store = f->store;
	atomic_fetch_xor(&store->shared->caches[0].immutable, 1);
	fill_loosely(f);
	assert_false(shared_is_loose(store->shared));
	terrace_cache_close(cache);
}

static void test_power__a_boot_that_is_not_known_is_another_one(void **state)
{
	struct fixture *f = in_boot(state, 1);
	terrace_cache *cache;

	f->options.boot_id_path = "/nonexistent";
	put_and_die(f, policy_of(0, false));
	cache = open_again(f, NULL);
	assert_misses(cache, "k");
	assert_ok(put_text(cache, "k", "v"));
	terrace_cache_close(cache);
	fixture_reopen(f); /* in order: all is on the device */
	cache = fixture_cache(f, "a", NULL);
	assert_gives(cache, "k", "v");
	terrace_cache_close(cache);
}

/* "k" after a crash in this boot, as one opens it who is said to be in the same. */
static void assert_unknown(struct fixture *f, const char *boot)
{
	terrace_cache *cache;

	write_file(scratch_path(&f->scratch, "boot_id"), boot);
	put_and_die(f, policy_of(0, false));
	cache = open_again(f, NULL);
	assert_misses(cache, "k");
	terrace_cache_close(cache);
}

static void test_power__a_file_that_names_no_boot_names_none(void **state)
{
	struct fixture *f = in_boot(state, 1);

	assert_unknown(f, "");
	assert_unknown(f, "00000002-1111-4222");
}

/* It may be the same boot: who cannot know must neither drop nor keep. */
static void test_power__a_boot_that_cannot_be_read_now_opens_nothing(void **state)
{
	struct fixture *f = in_boot(state, 1);
	const char *good = f->options.boot_id_path;
	char link[600];
	terrace_cache *cache;

	put_and_die(f, policy_of(0, false));
	snprintf(link, sizeof link, "%s", scratch_path(&f->scratch, "loop"));
	assert_int_equal(symlink(link, link), 0);
	f->options.boot_id_path = link;
	assert_status(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store),
	              TERRACE_EIO);
	assert_non_null(strstr(terrace_error_message(), link));
	f->options.boot_id_path = f->scratch.path; /* a directory */
	assert_status(terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store),
	              TERRACE_EIO);
	f->options.boot_id_path = good;
	cache = open_again(f, NULL);
	assert_gives(cache, "k", "new");
	terrace_cache_close(cache);
}

static void test_power__a_link_in_place_of_the_mark_is_not_followed(void **state)
{
	struct fixture *f = in_boot(state, 1);
	terrace_cache *cache;
	char path[600];
	struct stat st;

	snprintf(path, sizeof path, "%s/v2/unsynced", scratch_path(&f->scratch, "store"));
	write_file(scratch_path(&f->scratch, "target"), "mine");
	unlink(path);
	assert_int_equal(symlink(scratch_path(&f->scratch, "target"), path), 0);
	cache = fixture_cache(f, "a", NULL);
	assert_ok(put_text(cache, "k", "v"));
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISREG(st.st_mode));
	assert_int_equal(stat(scratch_path(&f->scratch, "target"), &st), 0);
	assert_int_equal(st.st_size, 4);
	terrace_cache_close(cache);
}

static void test_power__while_others_are_attached_it_is_their_boot(void **state)
{
	struct fixture *f = in_boot(state, 1);
	struct peer peer;
	terrace_cache *cache = fixture_cache(f, "a", NULL);

	assert_ok(put_text(cache, "k", "v"));
	/* as in a container whose /proc says something else, or nothing */
	f->options.boot_id_path = "/nonexistent";
	peer = peer_start(f, policy_of(0, false));
	assert_peer(&peer, "g k", "v");
	assert_peer(&peer, "p k w", "ok");
	assert_gives(cache, "k", "w");
	peer_end(&peer);
	assert_gives(cache, "k", "w");
	terrace_cache_close(cache);
}

/* The file is gone, cut short, or of a sector that was never written. */
static void test_power__without_a_good_mark_it_is_taken_for_the_worst(void **state)
{
	struct fixture *f = in_boot(state, 1);
	char path[600];

	snprintf(path, sizeof path, "%s/v2/unsynced", scratch_path(&f->scratch, "store"));
	for (int how = 0; how < 4; how++) {
		terrace_cache *cache = fixture_cache(f, "a", NULL);

		assert_ok(put_text(cache, "k", "v"));
		terrace_cache_close(cache);
		terrace_close(f->store);
		if (how == 0)
			assert_int_equal(unlink(path), 0);
		else if (how == 1)
			assert_int_equal(truncate(path, 20), 0);
		else if (how == 2)
			write_file(path, "................................................");
		/* how == 3: as it was */
		fixture_boot(f, 10 + how);
		cache = open_again(f, NULL);
		if (how < 3)
			assert_misses(cache, "k");
		else
			assert_gives(cache, "k", "v");
		terrace_cache_close(cache);
	}
}

/* With what the file cannot be opened; 0: it can. */
static int mark_fails;

/* In the place of the C library's. */
int openat(int dir_fd, const char *path, int flags, ...)
{
	va_list more;
	mode_t mode;

	va_start(more, flags);
	mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
	va_end(more);
	if (mark_fails && strcmp(path, "unsynced") == 0) {
		errno = mark_fails;
		return -1;
	}
	return (int)syscall(SYS_openat, dir_fd, path, flags, mode);
}

/* It may well say that nothing is lost. */
static void test_power__a_mark_that_cannot_be_read_now_opens_nothing(void **state)
{
	static const int failures[] = { EMFILE, ENFILE, ENOMEM, EIO };
	struct fixture *f = in_boot(state, 1);
	terrace_cache *cache = fixture_cache(f, "a", policy_of(0, false));

	assert_ok(put_text(cache, "k", "v"));
	for (int i = 0; i < 4; i++) {
		terrace_cache_close(cache);
		terrace_close(f->store);
		fixture_boot(f, 2 + i);
		mark_fails = failures[i];
		assert_status(
		    terrace_open(scratch_path(&f->scratch, "store"), &f->options, &f->store),
		    failures[i] == ENOMEM ? TERRACE_ENOMEM : TERRACE_EIO);
		mark_fails = 0;
		assert_non_null(strstr(terrace_error_message(), "unsynced"));
		cache = open_again(f, policy_of(0, false));
		assert_gives(cache, "k", "v");
	}
	terrace_cache_close(cache);
}

/* --- which calls mark ------------------------------------------------------------------------------ */

struct call {
	const char *name;
	void (*run)(terrace *store, terrace_cache *cache);
	bool marks;
};

static void do_put(terrace *store, terrace_cache *cache)
{
	(void)store;
	assert_ok(put_text(cache, "k", "w"));
}

static void do_add(terrace *store, terrace_cache *cache)
{
	(void)store;
	assert_ok(terrace_add(cache, TERRACE_KEY("fresh"), terrace_str("w"), NULL));
}

static void do_incr(terrace *store, terrace_cache *cache)
{
	(void)store;
	assert_ok(terrace_incr(cache, TERRACE_KEY("number"), 1, 0, NULL));
}

static void do_delete(terrace *store, terrace_cache *cache)
{
	(void)store;
	assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
}

static void do_touch(terrace *store, terrace_cache *cache)
{
	(void)store;
	assert_ok(terrace_touch(cache, TERRACE_KEY("k"), 1000));
}

static void do_invalidate(terrace *store, terrace_cache *cache)
{
	terrace_match match = terrace_match_text(TERRACE_MATCH_PREFIX, "k");

	(void)store;
	assert_ok(terrace_invalidate(cache, &match, NULL));
}

static void do_clear(terrace *store, terrace_cache *cache)
{
	(void)store;
	assert_ok(terrace_clear(cache, 0, NULL));
}

static void do_clear_disk(terrace *store, terrace_cache *cache)
{
	(void)store;
	assert_ok(terrace_clear(cache, TERRACE_L2 | TERRACE_L3, NULL));
}

static void do_transaction(terrace *store, terrace_cache *cache)
{
	assert_ok(terrace_begin(store, 0));
	assert_ok(put_text(cache, "k", "w"));
	assert_ok(terrace_commit(store));
}

static void do_get(terrace *store, terrace_cache *cache)
{
	(void)store;
	assert_gives(cache, "k", "v");
	assert_misses(cache, "absent");
	terrace_clear(cache, TERRACE_L1, NULL);
}

static const struct call calls[] = {
	{ "put", do_put, true },
	{ "add", do_add, true },
	{ "incr", do_incr, true },
	{ "delete", do_delete, true },
	{ "touch", do_touch, true },
	{ "invalidate", do_invalidate, true },
	{ "clear", do_clear, true },
	{ "clear of the disk", do_clear_disk, true },
	{ "transaction", do_transaction, true },
	{ "get", do_get, false },
};

/* When the call has returned: what waits to be written is already promised as well. */
static void run_calls(struct fixture *f, const terrace_policy *policy, bool ever)
{
	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
		terrace_cache *cache = fixture_cache(f, "a", policy);

		assert_ok(put_text(cache, "k", "v"));
		terrace_cache_close(cache);
		fixture_reopen(f);
		cache = fixture_cache(f, "a", policy);
		assert_false(is_marked(f));
		calls[i].run(f->store, cache);
		if (is_marked(f) != (ever && calls[i].marks))
			fail_msg("%s: the mark is %s", calls[i].name,
			         is_marked(f) ? "there" : "not there");
		terrace_cache_close(cache);
		fixture_reopen(f); /* hits are counted on leaving: that does not mark either */
		assert_false(is_marked(f));
	}
}

static void test_power__calls_that_change_values_mark_before_they_return(void **state)
{
	terrace_policy behind = TERRACE_POLICY_INIT;
	struct fixture *f = in_boot(state, 1);

	run_calls(f, policy_of(0, false), true);
	behind.write = TERRACE_WRITE_BEHIND;
	run_calls(f, &behind, true);
}

static void test_power__what_is_immutable_marks_nothing(void **state)
{
	struct fixture *f = in_boot(state, 1);

	run_calls(f, policy_of(0, true), false);
}

/* Its mark cannot be written, so neither can the value: nobody is promised what is not kept. */
/* It is so for good, whatever becomes of the transaction: it would wait for itself. */
static void test_power__a_cache_becomes_immutable_before_a_transaction(void **state)
{
	struct fixture *f = in_boot(state, 1);
	terrace_cache *cache = fixture_cache(f, "a", policy_of(0, false)), *again;

	terrace_cache_close(cache);
	assert_ok(terrace_begin(f->store, 0));
	assert_status(terrace_cache_open(f->store, "a", policy_of(0, true), &again),
	              TERRACE_EINVAL);
	assert_non_null(strstr(terrace_error_message(), "before the transaction"));
	terrace_rollback(f->store);
	again = fixture_cache(f, "a", policy_of(0, true));
	terrace_cache_close(again);
	/* then it is, and nothing has to be said any more */
	assert_ok(terrace_begin(f->store, 0));
	again = fixture_cache(f, "a", policy_of(0, true));
	assert_ok(put_text(again, "k", "v"));
	assert_ok(terrace_commit(f->store));
	terrace_cache_close(again);
}

static void test_power__without_the_mark_nothing_is_put(void **state)
{
	struct fixture *f = in_boot(state, 1);
	terrace_cache *cache = fixture_cache(f, "a", policy_of(0, false));
	char path[600];

	snprintf(path, sizeof path, "%s/v2/unsynced", scratch_path(&f->scratch, "store"));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_status(put_text(cache, "k", "v"), TERRACE_EIO);
	assert_non_null(strstr(terrace_error_message(), "unsynced"));
	assert_misses(cache, "k");
	assert_int_equal(rmdir(path), 0);
	assert_ok(put_text(cache, "k", "v"));
	assert_gives(cache, "k", "v");
	terrace_cache_close(cache);
}

int main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(test_power__##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		test(after_a_crash_of_the_machine_what_can_change_is_dropped),
		test(what_is_immutable_is_kept),
		test(a_crash_of_the_process_drops_nothing),
		test(after_an_orderly_end_nothing_is_dropped),
		test(who_is_not_the_last_leaves_the_mark),
		test(of_two_that_leave_together_one_is_the_last),
		test(who_is_killed_as_it_leaves_does_not_keep_others_from_marking),
		test(a_database_that_was_not_synced_is_dropped_whole),
		test(of_a_database_that_lost_everything_no_file_stays),
		test(in_the_same_boot_it_is_kept),
		test(what_becomes_immutable_later_is_kept),
		test(what_becomes_immutable_finds_all_synced),
		test(who_is_killed_making_a_cache_immutable_leaves_all_to_be_synced),
		test(where_it_cannot_be_told_what_is_immutable_all_is_synced),
		test(a_boot_that_is_not_known_is_another_one),
		test(a_file_that_names_no_boot_names_none),
		test(a_boot_that_cannot_be_read_now_opens_nothing),
		test(a_link_in_place_of_the_mark_is_not_followed),
		test(while_others_are_attached_it_is_their_boot),
		test(without_a_good_mark_it_is_taken_for_the_worst),
		test(a_mark_that_cannot_be_read_now_opens_nothing),
		test(calls_that_change_values_mark_before_they_return),
		test(what_is_immutable_marks_nothing),
		test(a_cache_becomes_immutable_before_a_transaction),
		test(without_the_mark_nothing_is_put),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
