/*
 * What an operation costs as the store grows: beside SQLite with a table, an
 * index of keys and one of tags, as people write it by hand. A line's value
 * bytes are the number of entries.
 *
 *   bench_curves ENTRIES
 *
 * Keys are "group 00001/item 00", a hundred to a group, each with the tag of
 * its group; values have 100 bytes. What goes is the oldest.
 */
#include "harness.h"

#include <terrace/terrace.h>

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	GROUP = 100,
	BATCH = 1000,
	VALUE_BYTES = 100,
	MOST_SAMPLES = 20000,
	LEAST_SAMPLES = 3,
	LOOKS = 64
};
#define ENOUGH_NS UINT64_C(1500000000)

static uint64_t entries, random_state = 11;
static char value[VALUE_BYTES];

static terrace_slice key_of(char text[32], uint64_t i)
{
	return terrace_bytes(text, (size_t)snprintf(text, 32, "group %08llu/item %02llu",
	                                            (unsigned long long)(i / GROUP),
	                                            (unsigned long long)(i % GROUP)));
}

static terrace_slice group_of(char text[32], uint64_t group)
{
	return terrace_bytes(
	    text, (size_t)snprintf(text, 32, "group %08llu/", (unsigned long long)group));
}

static uint64_t somewhere(void)
{
	return bench_random(&random_state) % entries;
}

/* `one` is done so many times, or until that took long enough. */
static void measure(const char *name, const char *operation, uint64_t count,
                    void (*one)(void *ctx, uint64_t turn), void *ctx)
{
	static uint64_t samples[MOST_SAMPLES];
	struct bench bench = { .group = "curve",
		               .name = name,
		               .operation = operation,
		               .value_bytes = entries,
		               .threads = 1 };
	uint64_t start = bench_ns(), p50, p99, done = 0;

	bench_require(count >= LEAST_SAMPLES && count <= MOST_SAMPLES);
	while (done < count && (done < LEAST_SAMPLES || bench_ns() - start < ENOUGH_NS)) {
		uint64_t before = bench_ns();

		one(ctx, done);
		samples[done++] = bench_ns() - before;
	}
	bench_percentiles(samples, done, &p50, &p99);
	bench_print(&bench, p50, p99, 1e9 / (double)p50);
}

/* The same things in the same order, of both. */
struct side {
	const char *name;
	void *ctx;
	void (*open)(void *ctx, uint64_t turn), (*get)(void *ctx, uint64_t turn);
	void (*put)(void *ctx, uint64_t turn), (*list)(void *ctx, uint64_t turn);
	void (*evict)(void *ctx, uint64_t turn), (*invalidate)(void *ctx, uint64_t turn);
};

static void measure_all(const struct side *side)
{
	uint64_t few = entries / 20 < 2000 ? entries / 20 : 2000;

	measure(side->name, "get", MOST_SAMPLES, side->get, side->ctx);
	measure(side->name, "put", 5000, side->put, side->ctx);
	/* What an index is made for is looked for often: the first looks make it. */
	for (uint64_t turn = 0; turn < LOOKS; turn++)
		side->list(side->ctx, turn);
	measure(side->name, "list 100 keys by prefix", 200, side->list, side->ctx);
	measure(side->name, "put with eviction", few, side->evict, side->ctx);
	measure(side->name, "invalidate 100 entries by tag", 20, side->invalidate, side->ctx);
}

/* --- ours ----------------------------------------------------------------------------------------------- */

struct ours {
	const char *dir;
	terrace *store;
	terrace_cache *cache;
};

static void ours_open(struct ours *ours)
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	terrace_policy policy = TERRACE_POLICY_INIT;

	options.disk_bytes = UINT64_C(1) << 40;
	policy.tiers = TERRACE_L2;
	policy.disk_entries = entries;
	bench_require(terrace_open(ours->dir, &options, &ours->store) == TERRACE_OK);
	bench_require(terrace_cache_open(ours->store, "bench", &policy, &ours->cache) ==
	              TERRACE_OK);
}

static void ours_close(struct ours *ours)
{
	terrace_cache_close(ours->cache);
	terrace_close(ours->store);
}

static void ours_put_at(struct ours *ours, uint64_t i)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	char key[32], tag[32];
	const char *tags[] = { tag };

	group_of(tag, i / GROUP);
	options.tags = tags;
	options.tag_count = 1;
	value[i % sizeof value]++;
	bench_require(terrace_put(ours->cache, key_of(key, i), terrace_bytes(value, sizeof value),
	                          &options) == TERRACE_OK);
}

/* A group at a time has the same tag: tags are of the whole batch. */
static void ours_fill(struct ours *ours)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	static char texts[GROUP][32];
	terrace_item items[GROUP];
	char tag[32];
	const char *tags[] = { tag };

	options.tags = tags;
	options.tag_count = 1;
	bench_require(terrace_begin(ours->store, 10000) == TERRACE_OK);
	for (uint64_t from = 0; from < entries; from += GROUP) {
		group_of(tag, from / GROUP);
		for (uint64_t i = 0; i < GROUP; i++)
			items[i] = (terrace_item){ key_of(texts[i], from + i),
				                   terrace_bytes(value, sizeof value) };
		bench_require(terrace_put_many(ours->cache, items, GROUP, &options) == TERRACE_OK);
		if (from % (BATCH * 10) == 0) {
			bench_require(terrace_commit(ours->store) == TERRACE_OK);
			bench_require(terrace_begin(ours->store, 10000) == TERRACE_OK);
		}
	}
	bench_require(terrace_commit(ours->store) == TERRACE_OK);
}

static void ours_get(void *ctx, uint64_t turn)
{
	struct ours *ours = ctx;
	terrace_value *got;
	char key[32];

	(void)turn;
	bench_require(terrace_get(ours->cache, key_of(key, somewhere()), &got) == TERRACE_OK);
	terrace_release(got);
}

static void ours_put(void *ctx, uint64_t turn)
{
	(void)turn;
	ours_put_at(ctx, somewhere());
}

static void ours_evict(void *ctx, uint64_t turn)
{
	ours_put_at(ctx, entries + turn);
}

static void ours_open_and_get(void *ctx, uint64_t turn)
{
	struct ours ours = { .dir = ((struct ours *)ctx)->dir };

	ours_open(&ours);
	ours_get(&ours, turn);
	ours_close(&ours);
}

static void ours_list(void *ctx, uint64_t turn)
{
	struct ours *ours = ctx;
	char prefix[32];
	terrace_match match = { .kind = TERRACE_MATCH_PREFIX,
		                .text = group_of(prefix, somewhere() / GROUP) };
	terrace_keys *keys;
	terrace_slice key;
	unsigned count = 0;

	(void)turn;
	bench_require(terrace_keys_open(ours->cache, &match, &keys) == TERRACE_OK);
	while (terrace_keys_next(keys, &key) == TERRACE_OK)
		count++;
	terrace_keys_close(keys);
	bench_require(count == GROUP);
}

static void ours_invalidate(void *ctx, uint64_t turn)
{
	struct ours *ours = ctx;
	char tag[32];
	terrace_match match = { .kind = TERRACE_MATCH_TAG,
		                .text = group_of(tag, turn * (entries / GROUP / 20)) };

	bench_require(terrace_invalidate(ours->cache, &match, NULL) == TERRACE_OK);
}

static void bench_ours(void)
{
	struct ours ours = { .dir = bench_directory("curves") };
	struct side side = {
		.name = "terrace",
		.ctx = &ours,
		.open = ours_open_and_get,
		.get = ours_get,
		.put = ours_put,
		.list = ours_list,
		.evict = ours_evict,
		.invalidate = ours_invalidate,
	};

	ours_open(&ours);
	ours_fill(&ours);
	ours_close(&ours); /* what is measured is opened by nobody else */
	measure(side.name, "open and get", 100, side.open, side.ctx);
	ours_open(&ours);
	measure_all(&side);
	ours_close(&ours);
}

/* --- SQLite, by hand -------------------------------------------------------------------------------------- */

enum { RAW_GET, RAW_PUT, RAW_LIST, RAW_EVICT, RAW_INVALIDATE, RAW_STATEMENTS };

static const char *const raw_sql[] = {
	[RAW_GET] = "SELECT value FROM cache WHERE key = ?1",
	[RAW_PUT] = "INSERT INTO cache(key, tag, value) VALUES(?1, ?2, ?3) "
		    "ON CONFLICT(key) DO UPDATE SET tag = excluded.tag, value = excluded.value",
	[RAW_LIST] = "SELECT key FROM cache WHERE key >= ?1 AND key < ?2",
	[RAW_EVICT] = "DELETE FROM cache WHERE rowid = (SELECT min(rowid) FROM cache)",
	[RAW_INVALIDATE] = "DELETE FROM cache WHERE tag = ?1",
};

struct raw {
	char path[512];
	sqlite3 *db;
	sqlite3_stmt *statements[RAW_STATEMENTS];
};

static void exec(sqlite3 *db, const char *sql)
{
	bench_require(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK);
}

static void raw_open(struct raw *raw)
{
	bench_require(sqlite3_open(raw->path, &raw->db) == SQLITE_OK);
	exec(raw->db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; "
	              "CREATE TABLE IF NOT EXISTS cache(key TEXT NOT NULL UNIQUE, "
	              "tag TEXT NOT NULL, value BLOB NOT NULL); "
	              "CREATE INDEX IF NOT EXISTS by_tag ON cache(tag)");
	for (int i = 0; i < RAW_STATEMENTS; i++)
		bench_require(sqlite3_prepare_v3(raw->db, raw_sql[i], -1, SQLITE_PREPARE_PERSISTENT,
		                                 &raw->statements[i], NULL) == SQLITE_OK);
}

static void raw_close(struct raw *raw)
{
	for (int i = 0; i < RAW_STATEMENTS; i++)
		sqlite3_finalize(raw->statements[i]);
	sqlite3_close(raw->db);
}

static void bind(sqlite3_stmt *statement, int at, terrace_slice text)
{
	sqlite3_bind_text(statement, at, text.data, (int)text.size, SQLITE_TRANSIENT);
}

static void run(sqlite3_stmt *statement)
{
	bench_require(sqlite3_step(statement) == SQLITE_DONE);
	sqlite3_reset(statement);
}

static void raw_put_at(struct raw *raw, uint64_t i)
{
	sqlite3_stmt *put = raw->statements[RAW_PUT];
	char key[32], tag[32];

	value[i % sizeof value]++;
	bind(put, 1, key_of(key, i));
	bind(put, 2, group_of(tag, i / GROUP));
	sqlite3_bind_blob(put, 3, value, sizeof value, SQLITE_STATIC);
	run(put);
}

static void raw_get(void *ctx, uint64_t turn)
{
	struct raw *raw = ctx;
	sqlite3_stmt *get = raw->statements[RAW_GET];
	char key[32];

	(void)turn;
	bind(get, 1, key_of(key, somewhere()));
	bench_require(sqlite3_step(get) == SQLITE_ROW);
	bench_require(sqlite3_column_bytes(get, 0) == VALUE_BYTES);
	sqlite3_reset(get);
}

static void raw_put(void *ctx, uint64_t turn)
{
	(void)turn;
	raw_put_at(ctx, somewhere());
}

static void raw_evict(void *ctx, uint64_t turn)
{
	struct raw *raw = ctx;

	exec(raw->db, "BEGIN IMMEDIATE");
	run(raw->statements[RAW_EVICT]);
	raw_put_at(raw, entries + turn);
	exec(raw->db, "COMMIT");
}

static void raw_open_and_get(void *ctx, uint64_t turn)
{
	struct raw *raw = calloc(1, sizeof *raw);

	bench_require(raw);
	snprintf(raw->path, sizeof raw->path, "%s", ((struct raw *)ctx)->path);
	raw_open(raw);
	raw_get(raw, turn);
	raw_close(raw);
	free(raw);
}

static void raw_list(void *ctx, uint64_t turn)
{
	struct raw *raw = ctx;
	sqlite3_stmt *list = raw->statements[RAW_LIST];
	char from[32], until[32];
	terrace_slice prefix = group_of(from, somewhere() / GROUP);
	unsigned count = 0;

	(void)turn;
	bind(list, 1, prefix);
	group_of(until, strtoull(from + 6, NULL, 10));
	until[prefix.size - 1]++;
	bind(list, 2, terrace_bytes(until, prefix.size));
	while (sqlite3_step(list) == SQLITE_ROW)
		count += sqlite3_column_bytes(list, 0) > 0;
	sqlite3_reset(list);
	bench_require(count == GROUP);
}

static void raw_invalidate(void *ctx, uint64_t turn)
{
	struct raw *raw = ctx;
	sqlite3_stmt *invalidate = raw->statements[RAW_INVALIDATE];
	char tag[32];

	bind(invalidate, 1, group_of(tag, turn * (entries / GROUP / 20)));
	run(invalidate);
}

static void bench_raw(void)
{
	struct raw raw = { .path = "" };
	struct side side = {
		.name = "raw SQLite",
		.ctx = &raw,
		.open = raw_open_and_get,
		.get = raw_get,
		.put = raw_put,
		.list = raw_list,
		.evict = raw_evict,
		.invalidate = raw_invalidate,
	};

	snprintf(raw.path, sizeof raw.path, "%s/db", bench_directory("raw"));
	raw_open(&raw);
	for (uint64_t i = 0; i < entries; i++) {
		if (i % (BATCH * 10) == 0)
			exec(raw.db, i ? "COMMIT; BEGIN" : "BEGIN");
		raw_put_at(&raw, i);
	}
	exec(raw.db, "COMMIT");
	raw_close(&raw);
	measure(side.name, "open and get", 100, side.open, side.ctx);
	raw_open(&raw);
	measure_all(&side);
	raw_close(&raw);
}

int main(int argc, char **argv)
{
	entries = argc == 2 ? strtoull(argv[1], NULL, 10) : 0;
	bench_require(entries >= 10000 && entries % BATCH == 0);
	bench_fill(value, sizeof value, 1);
	bench_ours();
	bench_raw();
	return 0;
}
