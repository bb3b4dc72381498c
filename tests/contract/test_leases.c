/*
 * What was computed before a change is not stored after it, when the change was
 * made in another process: for every tier, and every way to change.
 */
#include "support/peer.h"

#include "core/lookup.h"

struct meanwhile {
	struct peer *peer;
	const char *order;
	const char *text;
};

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct meanwhile *meanwhile = ctx;

	(void)key;
	if (meanwhile->order)
		assert_peer(meanwhile->peer, meanwhile->order, "ok");
	return terrace_loaded_copy(loaded, terrace_str(meanwhile->text));
}

static void fetch(terrace_cache *cache, struct meanwhile *meanwhile)
{
	terrace_value *value;

	assert_ok(terrace_fetch(cache, TERRACE_KEY("k"), load, meanwhile, &value));
	/* Its caller gets what it has waited for. */
	assert_int_equal(terrace_size(value), strlen(meanwhile->text));
	assert_memory_equal(terrace_data(value), meanwhile->text, terrace_size(value));
	terrace_release(value);
}

struct where {
	const char *name;
	unsigned tiers;
	terrace_write write;
	uint64_t inline_bytes;
};

static const struct where wheres[] = {
	{ "memory", TERRACE_L1, TERRACE_WRITE_THROUGH, 0 },
	{ "rows", TERRACE_L2, TERRACE_WRITE_THROUGH, 0 },
	{ "files", TERRACE_L3, TERRACE_WRITE_THROUGH, 1 },
	{ "all", 0, TERRACE_WRITE_THROUGH, 0 },
	{ "rows, behind", TERRACE_L2, TERRACE_WRITE_BEHIND, 0 },
	{ "all, behind", 0, TERRACE_WRITE_BEHIND, 0 },
};

static void try_one(struct fixture *f, const struct where *where, const char *order)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	struct peer peer;
	struct meanwhile meanwhile = { .peer = &peer, .order = order, .text = "outdated" };
	char mine[64] = "", theirs[64];
	terrace_value *value;

	policy.tiers = where->tiers;
	policy.write = where->write;
	policy.inline_bytes = where->inline_bytes;
	peer = peer_start(f, &policy);
	cache = fixture_cache(f, "a", &policy);
	assert_peer(&peer, "g k", "(miss)"); /* it has opened the store */
	fetch(cache, &meanwhile);
	assert_ok(terrace_flush(f->store));
	if (terrace_get(cache, TERRACE_KEY("k"), &value) == TERRACE_OK) {
		snprintf(mine, sizeof mine, "%.*s", (int)terrace_size(value),
		         (const char *)terrace_data(value));
		terrace_release(value);
	}
	tell(&peer, "g k");
	snprintf(theirs, sizeof theirs, "%s", hear(&peer));
	if (strcmp(mine, "outdated") == 0 || strcmp(theirs, "outdated") == 0)
		fail_msg("%s: computed before \"%s\", stored after it", where->name, order);
	/* What is computed after it is kept, once nobody's value waits for the key. */
	assert_peer(&peer, "f", "ok");
	meanwhile = (struct meanwhile){ .text = "computed" };
	assert_ok(terrace_clear(cache, 0, NULL));
	fetch(cache, &meanwhile);
	assert_gives(cache, "k", "computed");
	assert_ok(terrace_clear(cache, 0, NULL));
	terrace_cache_close(cache);
	peer_end(&peer);
}

static void test_lease__another_process_outdates_what_is_being_computed(void **state)
{
	static const char *const orders[] = { "p k newer", "d k", "i k", "c" };

	(void)state;
	for (size_t w = 0; w < sizeof wheres / sizeof *wheres; w++) {
		for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
			struct fixture f;

			memset(&f, 0, sizeof f);
			fixture_open(&f);
			try_one(&f, &wheres[w], orders[i]);
			fixture_close(&f);
		}
	}
}

/* --- what was stored under a condition itself ------------------------------------------------- */

static terrace_writer *writer_of(terrace_cache *cache, const char *text)
{
	terrace_writer *writer;

	assert_ok(terrace_writer_open(cache, TERRACE_KEY("k"), NULL, &writer));
	assert_ok(terrace_writer_write(writer, terrace_str(text)));
	return writer;
}

/* So much that it is on its way to the disk before it ends. */
static terrace_writer *large_writer(terrace_cache *cache)
{
	enum { PIECES = 100, PIECE = 4096 };
	terrace_writer *writer = writer_of(cache, "older");
	char piece[PIECE];

	memset(piece, 'o', sizeof piece);
	for (int i = 0; i < PIECES; i++)
		assert_ok(terrace_writer_write(writer, terrace_bytes(piece, sizeof piece)));
	return writer;
}

/* Is begun before `newer` is there, and ended after it. */
enum older { OLDER_WRITER, OLDER_LARGE, OLDER_LEASE, OLDERS };
enum newer { NEWER_WRITER, NEWER_FETCH, NEWER_IMMEDIATE, NEWERS };

static void store_newer(terrace_cache *cache, enum newer newer)
{
	struct meanwhile meanwhile = { .text = "newer" };
	terrace_put_options options = TERRACE_PUT_INIT;

	options.strategy = TERRACE_STRATEGY_IMMEDIATE;
	if (newer == NEWER_FETCH)
		fetch(cache, &meanwhile);
	else if (newer == NEWER_IMMEDIATE)
		assert_ok(terrace_put(cache, TERRACE_KEY("k"), terrace_str("newer"), &options));
	else
		assert_ok(terrace_writer_commit(writer_of(cache, "newer")));
}

static void assert_newer_stays(terrace_cache *cache, enum older older, enum newer newer)
{
	terrace_writer *writer = NULL;
	terrace_lease *lease = NULL;
	terrace_value *value;

	/* Who has the lease would be told that it asks for what it computes. */
	if (older == OLDER_LEASE && newer == NEWER_FETCH)
		return;
	if (newer == NEWER_IMMEDIATE && cache->tiers && !cache->memory)
		return;
	if (older == OLDER_WRITER)
		writer = writer_of(cache, "older");
	else if (older == OLDER_LARGE)
		writer = large_writer(cache);
	else
		assert_status(terrace_lease_begin(cache, TERRACE_KEY("k"), 0, &lease, &value),
		              TERRACE_MISS);
	store_newer(cache, newer);
	if (writer)
		assert_status(terrace_writer_commit(writer), TERRACE_MISS);
	else
		assert_ok(terrace_lease_put(lease, terrace_str("older"), NULL, NULL));
	assert_gives(cache, "k", "newer");
	assert_ok(terrace_delete(cache, TERRACE_KEY("k")));
}

static void test_lease__what_another_stored_meanwhile_counts(void **state)
{
	(void)state;
	for (size_t w = 0; w < sizeof wheres / sizeof *wheres; w++) {
		terrace_policy policy = TERRACE_POLICY_INIT;
		terrace_cache *cache;
		struct fixture f;

		memset(&f, 0, sizeof f);
		fixture_open(&f);
		policy.tiers = wheres[w].tiers;
		policy.write = wheres[w].write;
		policy.inline_bytes = wheres[w].inline_bytes;
		cache = fixture_cache(&f, "a", &policy);
		for (unsigned i = 0; i < OLDERS * NEWERS; i++)
			assert_newer_stays(cache, i / NEWERS, i % NEWERS);
		terrace_cache_close(cache);
		fixture_close(&f);
	}
}

/* A change that happened in between, and was replaced again, leaves no trace but the version. */
static void test_lease__a_value_that_came_and_went_counts(void **state)
{
	struct fixture f;
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache;
	struct peer peer;
	terrace_lease *lease;
	terrace_value *value;

	(void)state;
	memset(&f, 0, sizeof f);
	fixture_open(&f);
	peer = peer_start(&f, &policy);
	cache = fixture_cache(&f, "a", &policy);
	assert_peer(&peer, "g k", "(miss)");
	assert_status(terrace_lease_begin(cache, TERRACE_KEY("k"), 1000, &lease, &value),
	              TERRACE_MISS);
	assert_peer(&peer, "p k newer", "ok");
	assert_peer(&peer, "d k", "ok");
	assert_ok(terrace_lease_put(lease, terrace_str("outdated"), NULL, NULL));
	assert_misses(cache, "k");
	assert_peer(&peer, "g k", "(miss)");
	terrace_cache_close(cache);
	peer_end(&peer);
	fixture_close(&f);
}

/* A disk at which another process puts a value as we are about to write ours. */
static struct {
	const struct disk_ops *real;
	struct disk_ops ops;
	struct peer peer;
} overtaken;

static int get_inside_overtaken(void *disk, const struct tier_key *key, bool whole,
                                struct entry **ret)
{
	assert_peer(&overtaken.peer, "p k newer", "ok");
	return overtaken.real->get_inside(disk, key, whole, ret);
}

/* Who puts into memory alone has no lock to wait for: it may come when the lease was looked at. */
static void test_lease__a_put_without_a_lock_outdates_it_to_the_last(void **state)
{
	struct fixture f;
	terrace_policy policy = TERRACE_POLICY_INIT;
	struct write_lease lease;
	struct put_item item = { .key = TERRACE_KEY("k"),
		                 .value = terrace_str("outdated"),
		                 .lease = &lease,
		                 .kind = WRITE_ADD };
	terrace_cache *cache;

	(void)state;
	memset(&f, 0, sizeof f);
	fixture_open(&f);
	policy.strategy = TERRACE_STRATEGY_IMMEDIATE;
	overtaken.peer = peer_start(&f, &policy);
	policy.strategy = TERRACE_STRATEGY_STANDARD;
	cache = fixture_cache(&f, "a", &policy);
	assert_peer(&overtaken.peer, "g k", "(miss)");
	overtaken.real = f.store->disk_ops;
	overtaken.ops = *overtaken.real;
	overtaken.ops.get_inside = get_inside_overtaken;
	lease = terrace__lease_take(cache, TERRACE_KEY("k"));
	f.store->disk_ops = &overtaken.ops;
	terrace__put_many(cache, &item, 1, NULL);
	f.store->disk_ops = overtaken.real;
	entry_unref(item.entry);
	assert_status(item.rc, TERRACE_MISS);
	assert_misses(cache, "k");
	tell(&overtaken.peer, "g k");
	assert_string_not_equal(hear(&overtaken.peer), "outdated");
	terrace_cache_close(cache);
	peer_end(&overtaken.peer);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lease__another_process_outdates_what_is_being_computed),
		cmocka_unit_test(test_lease__what_another_stored_meanwhile_counts),
		cmocka_unit_test(test_lease__a_value_that_came_and_went_counts),
		cmocka_unit_test(test_lease__a_put_without_a_lock_outdates_it_to_the_last),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
