#include "core/processes.h"

#include "util/fs.h"
#include "util/hash.h"
#include "util/util.h"

#include <fcntl.h>
#include <unistd.h>

#define PROCESSES_NAME "processes"

/* Three times what a keeper takes its time for, and more. */
enum { FORGOTTEN_MS = 20000 };

static uint64_t check_of(const struct process_record *record)
{
	return terrace__hash64((const char *)record + sizeof record->check,
	                       sizeof *record - sizeof record->check, 0);
}

static void read_all(int fd, struct process_record ret[PROCESSES_MAX])
{
	size_t got = 0;

	memset(ret, 0, PROCESSES_MAX * sizeof *ret);
	terrace__read_full(fd, ret, PROCESSES_MAX * sizeof *ret, 0, &got);
	for (int i = 0; i < PROCESSES_MAX; i++) {
		if (ret[i].check != check_of(&ret[i]))
			memset(&ret[i], 0, sizeof ret[i]);
	}
}

static bool is_there(const struct process_record *record, int64_t now)
{
	return record->token && record->seen <= now && now - record->seen < FORGOTTEN_MS;
}

/*
 * Ours, or one that is nobody's. Two processes may take the same at once: the
 * later one has it, and the other finds another when it comes again.
 */
static int find_place(const struct process_record all[PROCESSES_MAX], uint64_t token, int64_t now)
{
	int place = -1;

	for (int i = 0; i < PROCESSES_MAX; i++) {
		if (all[i].token == token)
			return i;
		if (place < 0 && !is_there(&all[i], now))
			place = i;
	}
	return place;
}

static void write_record(struct terrace *store, const struct process_record *record, bool leave)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct process_record all[PROCESSES_MAX];
	int place;

	fd = openat(store->dir_fd, PROCESSES_NAME,
	            (leave ? 0 : O_CREAT) | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	read_all(fd, all);
	place = find_place(all, store->token, record->seen);
	if (place < 0 || (leave && all[place].token != store->token))
		return;
	terrace__write_full(fd, record, sizeof *record, place * (off_t)sizeof *record);
}

void terrace__process_renew(struct terrace *store)
{
	struct process_record record = {
		.token = store->token,
		.seen = terrace__now(store),
		.pid = getpid(),
		.bytes = atomic_load(&store->pool.bytes),
		.entries = atomic_load(&store->pool.entries),
		.limit = atomic_load(&store->memory.now),
		.encoded = atomic_load(&store->encoded_pool.bytes),
		.tight = store->keeper.pressure.tight,
	};

	if (store->disabled)
		return;
	record.check = check_of(&record);
	write_record(store, &record, false);
	store->keeper.known = true;
}

void terrace__process_leave(struct terrace *store)
{
	struct process_record nobody = { .seen = 0 };

	if (store->keeper.known)
		write_record(store, &nobody, true);
	store->keeper.known = false;
}

size_t terrace__processes_read(struct terrace *store, struct process_record ret[PROCESSES_MAX])
{
	CLEANUP(terrace__fd_done) int fd = -1;
	int64_t now = terrace__now(store);
	size_t count = 0;

	fd = openat(store->dir_fd, PROCESSES_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return 0;
	read_all(fd, ret);
	for (size_t i = 0; i < PROCESSES_MAX; i++) {
		if (is_there(&ret[i], now))
			ret[count++] = ret[i];
	}
	return count;
}
