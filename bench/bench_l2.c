/* Rows: get and put, beside SQLite with prepared statements and nothing else. */
#include "harness.h"

#include <terrace/terrace.h>

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ENTRIES = 20000 };
/* Of a mix: one of so many is a put. */
enum { MIX_PROCESSES = 2, MIX_OPERATIONS = 50000, MIX_PUT = 10 };

static struct bench_keys keys;
static size_t value_bytes;
static char *value;

/* --- ours ---------------------------------------------------------------------------------------- */

static void get(void *ctx, uint64_t i)
{
	terrace_value *got;

	bench_require(terrace_get(ctx, terrace_bytes(keys.text[i], keys.size[i]), &got) ==
	              TERRACE_OK);
	bench_require(terrace_size(got) == value_bytes);
	terrace_release(got);
}

static void put(void *ctx, uint64_t i)
{
	i %= ENTRIES;
	value[i % value_bytes]++; /* SQLite writes no page that has not changed */
	bench_require(terrace_put(ctx, terrace_bytes(keys.text[i], keys.size[i]),
	                          terrace_bytes(value, value_bytes), NULL) == TERRACE_OK);
}

static void put_many(terrace_cache *cache)
{
	enum { BATCH = 1000 };
	terrace_item items[BATCH];
	struct bench bench = { .group = "l2",
		               .name = "terrace",
		               .operation = "put 1000 at once",
		               .value_bytes = value_bytes,
		               .threads = 1 };
	uint64_t samples[ENTRIES / BATCH], start = bench_ns(), p50, p99;

	for (uint64_t from = 0; from < ENTRIES; from += BATCH) {
		uint64_t before = bench_ns();

		value[from % value_bytes]++;
		for (uint64_t i = 0; i < BATCH; i++)
			items[i] = (terrace_item){ terrace_bytes(keys.text[from + i],
				                                 keys.size[from + i]),
				                   terrace_bytes(value, value_bytes) };
		bench_require(terrace_put_many(cache, items, BATCH, NULL) == TERRACE_OK);
		samples[from / BATCH] = (bench_ns() - before) / BATCH;
	}
	start = bench_ns() - start;
	bench_percentiles(samples, ENTRIES / BATCH, &p50, &p99);
	bench_print(&bench, p50, p99, ENTRIES * 1e9 / (double)start);
}

/* --- the peer: what people write by hand ------------------------------------------------------------ */

struct raw {
	sqlite3 *db;
	sqlite3_stmt *get, *put, *begin, *commit;
};

static void exec(sqlite3 *db, const char *sql)
{
	bench_require(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK);
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *statement;

	bench_require(sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement,
	                                 NULL) == SQLITE_OK);
	return statement;
}

static void raw_open(struct raw *raw, const char *dir)
{
	char path[512];

	snprintf(path, sizeof path, "%s/db", dir);
	bench_require(
	    sqlite3_open_v2(path, &raw->db,
	                    SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
	                    NULL) == SQLITE_OK);
	sqlite3_busy_timeout(raw->db, 5000);
	exec(raw->db,
	     "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; "
	     "CREATE TABLE IF NOT EXISTS cache(key TEXT NOT NULL UNIQUE, value BLOB NOT NULL)");
	raw->get = prepare(raw->db, "SELECT value FROM cache WHERE key = ?1");
	raw->put = prepare(raw->db, "INSERT INTO cache(key, value) VALUES(?1, ?2) "
	                            "ON CONFLICT(key) DO UPDATE SET value = excluded.value");
	raw->begin = prepare(raw->db, "BEGIN IMMEDIATE");
	raw->commit = prepare(raw->db, "COMMIT");
}

static void raw_close(struct raw *raw)
{
	sqlite3_finalize(raw->get);
	sqlite3_finalize(raw->put);
	sqlite3_finalize(raw->begin);
	sqlite3_finalize(raw->commit);
	sqlite3_close(raw->db);
}

static void raw_step(sqlite3_stmt *statement)
{
	bench_require(sqlite3_step(statement) == SQLITE_DONE);
	sqlite3_reset(statement);
}

static void raw_get(void *ctx, uint64_t i)
{
	struct raw *raw = ctx;
	void *copy;

	sqlite3_bind_text(raw->get, 1, keys.text[i], (int)keys.size[i], SQLITE_STATIC);
	bench_require(sqlite3_step(raw->get) == SQLITE_ROW);
	bench_require((size_t)sqlite3_column_bytes(raw->get, 0) == value_bytes);
	copy = malloc(value_bytes); /* the row is gone after the reset */
	__builtin_memcpy(copy, sqlite3_column_blob(raw->get, 0), value_bytes);
	sqlite3_reset(raw->get);
	free(copy);
}

static void raw_put(void *ctx, uint64_t i)
{
	struct raw *raw = ctx;

	i %= ENTRIES;
	value[i % value_bytes]++;
	sqlite3_bind_text(raw->put, 1, keys.text[i], (int)keys.size[i], SQLITE_STATIC);
	sqlite3_bind_blob(raw->put, 2, value, (int)value_bytes, SQLITE_STATIC);
	raw_step(raw->put);
}

static void raw_put_many(struct raw *raw)
{
	enum { BATCH = 1000 };
	struct bench bench = { .group = "l2",
		               .name = "raw SQLite",
		               .operation = "put 1000 at once",
		               .value_bytes = value_bytes,
		               .threads = 1 };
	uint64_t samples[ENTRIES / BATCH], start = bench_ns(), p50, p99;

	for (uint64_t from = 0; from < ENTRIES; from += BATCH) {
		uint64_t before = bench_ns();

		raw_step(raw->begin);
		for (uint64_t i = 0; i < BATCH; i++)
			raw_put(raw, from + i);
		raw_step(raw->commit);
		samples[from / BATCH] = (bench_ns() - before) / BATCH;
	}
	start = bench_ns() - start;
	bench_percentiles(samples, ENTRIES / BATCH, &p50, &p99);
	bench_print(&bench, p50, p99, ENTRIES * 1e9 / (double)start);
}

/* Gets are run in turns; puts are not, for what waits becomes rows in the other's turn. */
static void bench_both(void)
{
	struct bench ours = { .group = "l2",
		              .name = "terrace",
		              .operation = "get",
		              .value_bytes = value_bytes,
		              .threads = 1,
		              .operations = 100000,
		              .limit = ENTRIES,
		              .fn = get };
	struct bench theirs = ours;
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct raw raw;
	terrace *store;
	terrace_cache *cache;

	policy.tiers = TERRACE_L2;
	bench_require(terrace_open(bench_directory("l2"), NULL, &store) == TERRACE_OK);
	bench_require(terrace_cache_open(store, "bench", &policy, &cache) == TERRACE_OK);
	raw_open(&raw, bench_directory("raw"));
	put_many(cache);
	raw_put_many(&raw);
	theirs.name = "raw SQLite";
	theirs.fn = raw_get;
	theirs.ctx = &raw;
	ours.ctx = cache;
	bench_run((struct bench[]){ ours, theirs }, 2);
	ours.operation = theirs.operation = "put";
	ours.limit = theirs.limit = 0;
	ours.operations = theirs.operations = 5000;
	ours.fn = put;
	theirs.fn = raw_put;
	bench_run(&ours, 1);
	terrace_cache_close(cache);
	terrace_close(store);
	bench_run(&theirs, 1);
	raw_close(&raw);
}

/* --- put, write-behind: until the last value is committed ---------------------------------------------- */

static void bench_behind(void)
{
	enum { PUTS = 100000 };
	struct bench bench = { .group = "l2",
		               .name = "terrace",
		               .operation = "put behind",
		               .value_bytes = value_bytes,
		               .threads = 1 };
	uint64_t *samples = calloc(PUTS, sizeof *samples), start, p50, p99;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace *store;
	terrace_cache *cache;

	policy.tiers = TERRACE_L2;
	policy.write = TERRACE_WRITE_BEHIND;
	bench_require(terrace_open(bench_directory("behind"), NULL, &store) == TERRACE_OK);
	bench_require(terrace_cache_open(store, "bench", &policy, &cache) == TERRACE_OK);
	put(cache, 0);
	start = bench_ns();
	for (uint64_t i = 0; i < PUTS; i++) {
		uint64_t before = bench_ns();

		put(cache, i);
		samples[i] = bench_ns() - before;
	}
	bench_require(terrace_flush(store) == TERRACE_OK);
	start = bench_ns() - start;
	bench_percentiles(samples, PUTS, &p50, &p99);
	bench_print(&bench, p50, p99, PUTS * 1e9 / (double)start);
	terrace_cache_close(cache);
	terrace_close(store);
	free(samples);
}

/* --- two processes, nine gets to a put -------------------------------------------------------------------- */

struct board {
	_Atomic unsigned ready;
	uint64_t start[MIX_PROCESSES], end[MIX_PROCESSES];
	uint64_t samples[MIX_PROCESSES * MIX_OPERATIONS];
};

/* `one` does a get, or a put when `write` is set. */
static void mix(struct board *board, unsigned which, void *ctx,
                void (*one)(void *ctx, uint64_t i, bool write))
{
	uint64_t state = which + 1, *samples = board->samples + (size_t)which * MIX_OPERATIONS;

	/* What a process has in memory that has run for a while. */
	for (uint64_t i = 0; i < ENTRIES; i++)
		one(ctx, i, false);
	atomic_fetch_add(&board->ready, 1);
	while (atomic_load(&board->ready) < MIX_PROCESSES)
		usleep(100);
	board->start[which] = bench_ns();
	for (unsigned i = 0; i < MIX_OPERATIONS; i++) {
		uint64_t random = bench_random(&state), before = bench_ns();

		one(ctx, random % ENTRIES, i % MIX_PUT == 0);
		samples[i] = bench_ns() - before;
	}
	board->end[which] = bench_ns();
}

static void one_of_ours(void *ctx, uint64_t i, bool write)
{
	if (write)
		put(ctx, i);
	else
		get(ctx, i);
}

static void one_of_raw(void *ctx, uint64_t i, bool write)
{
	if (write)
		raw_put(ctx, i);
	else
		raw_get(ctx, i);
}

static void mix_ours(const char *dir, unsigned tiers, struct board *board, unsigned which)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace *store;
	terrace_cache *cache;

	policy.tiers = tiers;
	bench_require(terrace_open(dir, NULL, &store) == TERRACE_OK);
	bench_require(terrace_cache_open(store, "bench", &policy, &cache) == TERRACE_OK);
	for (uint64_t i = 0; i < ENTRIES && !board; i++)
		put(cache, i);
	if (board)
		mix(board, which, cache, one_of_ours);
	terrace_cache_close(cache);
	terrace_close(store);
}

static void mix_raw(const char *dir, unsigned unused, struct board *board, unsigned which)
{
	struct raw raw;

	(void)unused;
	raw_open(&raw, dir);
	for (uint64_t i = 0; i < ENTRIES && !board; i++)
		raw_put(&raw, i);
	if (board)
		mix(board, which, &raw, one_of_raw);
	raw_close(&raw);
}

static void bench_mix(const char *name, unsigned tiers,
                      void (*run)(const char *dir, unsigned tiers, struct board *board,
                                  unsigned which))
{
	struct bench bench = { .group = "l2",
		               .name = name,
		               .operation = "mix of two processes",
		               .value_bytes = value_bytes,
		               .threads = MIX_PROCESSES };
	const char *dir = bench_directory("mix");
	struct board *board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE,
	                           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t children[MIX_PROCESSES];
	uint64_t start = UINT64_MAX, end = 0, p50, p99;

	bench_require(board != MAP_FAILED);
	run(dir, tiers, NULL, 0);
	for (unsigned i = 0; i < MIX_PROCESSES; i++) {
		children[i] = fork();
		bench_require(children[i] >= 0);
		if (children[i] == 0) {
			run(dir, tiers, board, i);
			_exit(0);
		}
	}
	for (unsigned i = 0; i < MIX_PROCESSES; i++) {
		int status;

		bench_require(waitpid(children[i], &status, 0) == children[i] && status == 0);
		start = board->start[i] < start ? board->start[i] : start;
		end = board->end[i] > end ? board->end[i] : end;
	}
	bench_percentiles(board->samples, MIX_PROCESSES * MIX_OPERATIONS, &p50, &p99);
	bench_print(&bench, p50, p99, MIX_PROCESSES * MIX_OPERATIONS * 1e9 / (double)(end - start));
	munmap(board, sizeof *board);
}

int main(void)
{
	static const size_t sizes[] = { 100, 1024, 16384 };

	bench_keys_make(&keys, ENTRIES);
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		value_bytes = sizes[i];
		value = malloc(value_bytes);
		bench_fill(value, value_bytes, 1);
		bench_both();
		if (value_bytes == 1024) {
			bench_behind();
			bench_mix("terrace", TERRACE_L2, mix_ours);
			bench_mix("terrace with L1", TERRACE_L1 | TERRACE_L2, mix_ours);
			bench_mix("raw SQLite", 0, mix_raw);
		}
		free(value);
	}
	bench_keys_free(&keys);
	return 0;
}
