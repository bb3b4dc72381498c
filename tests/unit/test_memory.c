/* L1 itself: the table that readers search without a lock, and what is evicted. */
#include "support/support.h"

#include "tiers/memory/evict_trials.h"
#include "tiers/memory/memory.h"
#include "tiers/memory/table.h"
#include "util/epoch.h"
#include "util/hash.h"
#include "util/util.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct tier_key key_of(const char *text)
{
	uint64_t hash = terrace__hash64(text, strlen(text), 0);

	return (struct tier_key){ .key = terrace_str(text), .hash = hash };
}

static struct memory *open_memory(const char *policy, unsigned shards)
{
	struct evict_setting setting = { .by_count = true };
	struct memory *memory;

	assert_ok(
	    terrace__memory_open(terrace__evict_find(policy), &setting, shards, NULL, &memory));
	return memory;
}

static void put(struct memory *memory, const char *text, const void *value, size_t size)
{
	struct tier_put put = { .key = key_of(text) };

	put.entry = terrace__entry_new(put.key.key, size, terrace_bytes(NULL, 0));
	assert_non_null(put.entry);
	put.entry->hash = put.key.hash;
	memcpy(entry_value(put.entry), value, size);
	assert_ok(terrace__memory_ops.put(memory, &put));
	entry_unref(put.entry);
}

static bool has(struct memory *memory, const char *text)
{
	struct tier_key key = key_of(text);
	struct entry *entry;

	if (terrace__memory_ops.get(memory, &key, false, &entry) != TERRACE_OK)
		return false;
	entry_unref(entry);
	return true;
}

static void hit(struct memory *memory, const char *text)
{
	struct tier_key key = key_of(text);
	struct entry *entry;

	assert_ok(terrace__memory_ops.get(memory, &key, true, &entry));
	entry_unref(entry);
}

static void evict(struct memory *memory, uint64_t entries)
{
	struct tier_evicted evicted = { 0 };

	assert_ok(terrace__memory_ops.evict(memory, 0, 0, entries, NULL, &evicted));
	assert_int_equal(evicted.entries_l1, entries);
	entry_unlinked_all(evicted.chain);
}

static void test_memory__many_entries_are_all_found(void **state)
{
	enum { COUNT = 50000 };
	struct memory *memory = open_memory("hits", 4);
	char text[16];

	(void)state;
	for (int i = 0; i < COUNT; i++) {
		snprintf(text, sizeof text, "%d", i);
		put(memory, text, &i, sizeof i);
	}
	assert_int_equal(terrace__memory_entries(memory), COUNT);
	/* every other one away, and the rest must still be found past the holes */
	for (int i = 0; i < COUNT; i += 2) {
		struct tier_key key;

		snprintf(text, sizeof text, "%d", i);
		key = key_of(text);
		assert_ok(terrace__memory_ops.remove(memory, &key, NULL));
		assert_status(terrace__memory_ops.remove(memory, &key, NULL), TERRACE_MISS);
	}
	for (int i = 0; i < COUNT; i++) {
		snprintf(text, sizeof text, "%d", i);
		assert_int_equal(has(memory, text), i % 2);
	}
	assert_int_equal(terrace__memory_entries(memory), COUNT / 2);
	terrace__memory_ops.close(memory);
}

static void test_memory__keys_of_one_hash_are_told_apart(void **state)
{
	struct memory *memory = open_memory("hits", 1);
	struct tier_put puts[20];
	char texts[20][8];

	(void)state;
	/* more than a bucket holds, all in the same one */
	for (int i = 0; i < 20; i++) {
		snprintf(texts[i], sizeof texts[i], "k%d", i);
		puts[i] = (struct tier_put){ .key = { .key = terrace_str(texts[i]), .hash = 42 } };
		puts[i].entry = terrace__entry_new(puts[i].key.key, 1, terrace_bytes(NULL, 0));
		puts[i].entry->hash = 42;
		*entry_value(puts[i].entry) = (uint8_t)i;
		assert_ok(terrace__memory_ops.put(memory, &puts[i]));
		entry_unref(puts[i].entry);
	}
	for (int i = 0; i < 20; i++) {
		struct entry *entry;

		assert_ok(terrace__memory_ops.get(memory, &puts[i].key, true, &entry));
		assert_int_equal(*entry_value(entry), i);
		entry_unref(entry);
	}
	terrace__memory_ops.close(memory);
}

/* The same hash for all, so that the bytes alone decide. */
static void test_memory__keys_that_differ_in_one_byte_are_told_apart(void **state)
{
	enum { LONGEST = 200 };
	struct memory *memory = open_memory("hits", 1);
	uint8_t bytes[LONGEST];
	struct entry *entry;

	(void)state;
	for (size_t size = 1; size <= LONGEST; size++) {
		struct tier_put put = { .key = { .key = terrace_bytes(bytes, size), .hash = 42 } };

		memset(bytes, 'a', sizeof bytes);
		put.entry = terrace__entry_new(put.key.key, 1, terrace_bytes(NULL, 0));
		put.entry->hash = 42;
		assert_ok(terrace__memory_ops.put(memory, &put));
		entry_unref(put.entry);
		assert_ok(terrace__memory_ops.get(memory, &put.key, false, &entry));
		entry_unref(entry);
		for (size_t at = 0; at < size; at++) {
			bytes[at] = 'b';
			if (terrace__memory_ops.get(memory, &put.key, false, &entry) !=
			    TERRACE_MISS)
				fail_msg("byte %zu of %zu does not count", at, size);
			bytes[at] = 'a';
		}
		assert_ok(terrace__memory_ops.remove(memory, &put.key, NULL));
	}
	terrace__memory_ops.close(memory);
}

static void put_hashed(struct memory *memory, const char *text, uint64_t hash)
{
	struct tier_put put = { .key = { .key = terrace_str(text), .hash = hash } };

	put.entry = terrace__entry_new(put.key.key, 1, terrace_bytes(NULL, 0));
	put.entry->hash = hash;
	assert_ok(terrace__memory_ops.put(memory, &put));
	entry_unref(put.entry);
}

/* Of the n-th bucket, of as many as there are. */
static uint64_t bucket_hash(uint64_t n)
{
	return n * sizeof(struct bucket);
}

/*
 * Four buckets of seven: eight entries of each of them, of which four go again,
 * so that in the end every bucket was passed by one that lies further on.
 */
static void test_memory__a_search_ends_where_all_buckets_were_passed(void **state)
{
	struct memory *memory = open_memory("hits", 1);
	struct tier_key key = { .key = terrace_str("absent") };
	char texts[4][8][8];
	struct entry *entry;

	(void)state;
	for (uint64_t bucket = 0; bucket < 4; bucket++) {
		for (uint64_t i = 0; i < 8; i++) {
			snprintf(texts[bucket][i], sizeof texts[bucket][i], "%d-%d", (int)bucket,
			         (int)i);
			put_hashed(memory, texts[bucket][i], bucket_hash(bucket + 4 * i));
		}
		for (uint64_t i = 0; i < 4; i++) {
			key.key = terrace_str(texts[bucket][i]);
			key.hash = bucket_hash(bucket + 4 * i);
			assert_ok(terrace__memory_ops.remove(memory, &key, NULL));
		}
	}
	key.key = terrace_str("absent");
	assert_status(terrace__memory_ops.get(memory, &key, true, &entry), TERRACE_MISS);
	for (uint64_t bucket = 0; bucket < 4; bucket++) {
		for (uint64_t i = 4; i < 8; i++) {
			key.key = terrace_str(texts[bucket][i]);
			key.hash = bucket_hash(bucket + 4 * i);
			assert_ok(terrace__memory_ops.get(memory, &key, true, &entry));
			entry_unref(entry);
		}
	}
	terrace__memory_ops.close(memory);
}

static void test_memory__a_conditional_put_replaces_only_what_was_seen(void **state)
{
	struct memory *memory = open_memory("hits", 1);
	struct tier_put again = { .key = key_of("k"), .conditional = true };
	struct entry *seen;

	(void)state;
	put(memory, "k", "1", 1);
	assert_ok(terrace__memory_ops.get(memory, &again.key, false, &seen));
	again.entry = terrace__entry_new(again.key.key, 1, terrace_bytes(NULL, 0));
	again.entry->hash = again.key.hash;
	assert_status(terrace__memory_ops.put(memory, &again), TERRACE_EXISTS); /* not nothing */
	put(memory, "k", "2", 1);
	again.expected = seen;
	assert_status(terrace__memory_ops.put(memory, &again), TERRACE_EXISTS); /* not that one */
	entry_unref(seen);
	assert_ok(terrace__memory_ops.get(memory, &again.key, false, &seen));
	again.expected = seen;
	assert_ok(terrace__memory_ops.put(memory, &again));
	entry_unref(seen);
	entry_unref(again.entry);
	terrace__memory_ops.close(memory);
}

static void test_memory__counts_hits_and_what_they_saved(void **state)
{
	struct memory *memory = open_memory("hits", 1);
	struct tier_put costly = { .key = key_of("costly") };
	struct memory_counts counts;

	(void)state;
	costly.entry = terrace__entry_new(costly.key.key, 1, terrace_bytes(NULL, 0));
	costly.entry->hash = costly.key.hash;
	entry_rest(costly.entry)->cost_us = 100;
	assert_ok(terrace__memory_ops.put(memory, &costly));
	entry_unref(costly.entry);
	put(memory, "free", "1", 1);
	hit(memory, "costly");
	hit(memory, "costly");
	hit(memory, "free");
	has(memory, "free"); /* no hit */
	counts = terrace__memory_counts(memory);
	assert_int_equal(counts.hits, 3);
	assert_int_equal(counts.saved_us, 200);
	evict(memory, 2); /* and they stay counted; nobody is told that they went */
	counts = terrace__memory_counts(memory);
	assert_int_equal(counts.evicted, 0);
	assert_int_equal(counts.hits, 3);
	assert_int_equal(counts.saved_us, 200);
	terrace__memory_ops.close(memory);
}

/* --- eviction ------------------------------------------------------------------------------------- */

static void fill(struct memory *memory, const char *prefix, int count)
{
	char text[16];

	for (int i = 0; i < count; i++) {
		snprintf(text, sizeof text, "%s%d", prefix, i);
		put(memory, text, "v", 1);
	}
}

static int count_of(struct memory *memory, const char *prefix, int count)
{
	char text[16];
	int found = 0;

	for (int i = 0; i < count; i++) {
		snprintf(text, sizeof text, "%s%d", prefix, i);
		found += has(memory, text);
	}
	return found;
}

static void test_evict__a_queue_knows_its_ends(void **state)
{
	struct evict_queue queue = { 0 };
	struct entry *entries[3];

	(void)state;
	for (int i = 0; i < 3; i++) {
		entries[i] = terrace__entry_new_plain(terrace_str("k"), (uint64_t)(100 << i));
		assert_non_null(entries[i]);
		queue_add(&queue, entries[i]);
	}
	queue_remove(&queue, entries[1]);
	assert_ptr_equal(queue.oldest, entries[0]);
	assert_ptr_equal(queue.newest, entries[2]);
	queue_remove(&queue, entries[0]);
	queue_remove(&queue, entries[2]);
	assert_null(queue.oldest);
	assert_null(queue.newest);
	for (int i = 0; i < 3; i++)
		entry_unref(entries[i]);
}

static void test_evict__bytes_remembers_what_it_evicted_too_early(void **state)
{
	struct memory *memory = open_memory("bytes", 1);

	(void)state;
	fill(memory, "hot", 50);
	for (int i = 0; i < 50; i++) {
		char text[16];

		snprintf(text, sizeof text, "hot%d", i);
		hit(memory, text);
	}
	evict(memory, 1); /* moves the hot ones on */
	put(memory, "again", "v", 1);
	fill(memory, "scan", 20);
	evict(memory, 15);
	assert_false(has(memory, "again"));
	put(memory, "again", "v", 1); /* a ghost: straight to the main queue */
	fill(memory, "other", 20);
	evict(memory, 20);
	assert_true(has(memory, "again"));
	terrace__memory_ops.close(memory);
}

/* How many of 100 that are used are left when many times the capacity has passed by, once each. */
static int hot_after_scans(const char *policy)
{
	struct memory *memory = open_memory(policy, 1);
	char text[24];
	int hot;

	fill(memory, "hot", 100);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 100; i++) {
			snprintf(text, sizeof text, "hot%d", i);
			if (has(memory, text))
				hit(memory, text);
		}
		for (int i = 0; i < 1000; i++) {
			snprintf(text, sizeof text, "scan%d-%d", round, i);
			put(memory, text, "v", 1);
			if (terrace__memory_entries(memory) > 120)
				evict(memory, 1);
		}
	}
	hot = count_of(memory, "hot", 100);
	terrace__memory_ops.close(memory);
	return hot;
}

static void test_evict__a_scan_does_not_push_out_what_is_used(void **state)
{
	static const char *const names[] = { "hits", "bytes", "cost" };

	(void)state;
	for (int i = 0; i < 3; i++)
		assert_true(hot_after_scans(names[i]) >= 95);
}

/* A clock or a FIFO would have thrown each of them out just before its turn. */
static void test_evict__hits_keeps_a_part_of_a_loop_that_does_not_fit(void **state)
{
	struct memory *memory = open_memory("hits", 1);
	int hits = 0;

	(void)state;
	for (int i = 0; i < 20 * 500; i++) {
		char text[16];

		snprintf(text, sizeof text, "%d", i % 500);
		if (has(memory, text)) {
			hit(memory, text);
			hits++;
			continue;
		}
		put(memory, text, "v", 1);
		if (terrace__memory_entries(memory) > 100)
			evict(memory, 1);
	}
	assert_true(hits > 20 * 500 / 10);
	terrace__memory_ops.close(memory);
}

/* One of two stays, and perhaps they are wanted again, in this order; what is learned of it. */
static double learned_when(const char *order, enum trial_kind kind, double worth_kept)
{
	struct trials *trials = calloc(1, sizeof *trials);
	struct entry *kept = terrace__entry_new_plain(terrace_str("kept"), 0);
	struct entry *gone = terrace__entry_new_plain(terrace_str("gone"), 0);
	double learned;

	trials->learned[kind] = kind == TRIAL_POWER; /* within its limits */
	gone->hash = 1;
	assert_true(trial_is_due(trials, kind, gone, 1));
	terrace__trial_start(trials, kind, kept, gone, (double[]){ worth_kept, 1 }, 1);
	for (; *order; order++) {
		if (*order == 'k')
			entry_hit(kept);
		else if (*order == 'g')
			terrace__trial_back(trials, gone);
		else
			terrace__trial_left(trials, kept);
	}
	learned = trials->learned[kind] - (kind == TRIAL_POWER);
	entry_unref(kept);
	entry_unref(gone);
	free(trials);
	return learned;
}

static void test_evict__a_trial_is_won_by_who_is_wanted_first(void **state)
{
	(void)state;
	for (enum trial_kind kind = 0; kind < TRIAL_KINDS; kind++) {
		assert_true(learned_when("kg", kind, 1) >= 0.02);
		assert_true(learned_when("kl", kind, 1) >= 0.02);
		assert_true(learned_when("l", kind, 1) == 0);
		/* a hit that is worth more counts for more */
		assert_true(learned_when("kg", kind, 3) > learned_when("kg", kind, 1));
	}
	assert_true(learned_when("g", TRIAL_STRICT, 1) < 0);
	assert_true(learned_when("lg", TRIAL_STRICT, 1) < 0);
	/* of two that were about to go, only in the other's time */
	assert_true(learned_when("gl", TRIAL_POWER, 1) < 0);
	assert_true(learned_when("gkl", TRIAL_POWER, 1) == 0);
	assert_true(learned_when("lg", TRIAL_POWER, 1) == 0);
}

static void put_within(struct memory *memory, const char *text, uint64_t entries)
{
	put(memory, text, "v", 1);
	if (terrace__memory_entries(memory) > entries)
		evict(memory, 1);
}

/* Whatever is asked for between them once: how many of those that always come back were there? */
static int regulars_among_others(const char *policy, int rounds)
{
	enum { REGULARS = 150, ROOM_FOR = 100 };
	struct memory *memory = open_memory(policy, 1);
	int hits = 0;

	for (int i = 0; i < rounds * REGULARS; i++) {
		char text[24];

		snprintf(text, sizeof text, "regular%d", i % REGULARS);
		if (i % REGULARS == 0)
			hits = 0;
		if (has(memory, text)) {
			hit(memory, text);
			hits++;
		} else {
			put_within(memory, text, ROOM_FOR);
		}
		snprintf(text, sizeof text, "once%d", i);
		put_within(memory, text, ROOM_FOR);
	}
	terrace__memory_ops.close(memory);
	return hits;
}

/* Without learning from what came back it is none of them by cost: each is out just before its turn. */
static void test_evict__learns_who_is_wanted_again(void **state)
{
	static const char *const names[] = { "hits", "bytes", "cost" };

	(void)state;
	for (int i = 0; i < 3; i++)
		assert_in_range(regulars_among_others(names[i], 100), 80, 100);
}

/* Of as many large entries as small ones, the large ones wanted again: how many stay when some must go? */
static int large_that_stay(const char *policy)
{
	static const char value[10000];
	struct evict_setting setting = { 0 };
	struct memory *memory;
	struct tier_evicted evicted = { 0 };
	char text[16];
	int large;

	assert_ok(terrace__memory_open(terrace__evict_find(policy), &setting, 1, NULL, &memory));
	for (int i = 0; i < 100; i++) {
		snprintf(text, sizeof text, i % 2 ? "large%d" : "small%d", i / 2);
		put(memory, text, value, i % 2 ? sizeof value : 1000);
		if (i % 2)
			hit(memory, text);
	}
	assert_ok(terrace__memory_ops.evict(memory, 0, 20000, 0, NULL, &evicted));
	entry_unlinked_all(evicted.chain);
	large = count_of(memory, "large", 50);
	terrace__memory_ops.close(memory);
	return large;
}

static void test_evict__bytes_keeps_large_entries_that_hits_gives_up(void **state)
{
	(void)state;
	assert_in_range(large_that_stay("hits"), 0, 49);
	assert_int_equal(large_that_stay("bytes"), 50);
}

static void test_evict__cost_keeps_what_is_expensive(void **state)
{
	struct memory *memory = open_memory("cost", 1);

	(void)state;
	for (int i = 0; i < 200; i++) {
		char text[16];
		struct tier_put costly;

		snprintf(text, sizeof text, "%s%d", i % 2 ? "cheap" : "dear", i / 2);
		costly = (struct tier_put){ .key = key_of(text) };
		costly.entry = terrace__entry_new(costly.key.key, 1, terrace_bytes(NULL, 0));
		costly.entry->hash = costly.key.hash;
		entry_rest(costly.entry)->cost_us = i % 2 ? 100 : 10000;
		assert_ok(terrace__memory_ops.put(memory, &costly));
		entry_unref(costly.entry);
	}
	evict(memory, 100);
	assert_true(count_of(memory, "dear", 100) >= 95);
	terrace__memory_ops.close(memory);
}

enum { FEW = 4, ROOM = 400 };

/* The n-th key of a shard of FEW, put under a limit of ROOM entries; how many went for it. */
static uint64_t put_into_shard(struct memory *memory, uint64_t shard, uint64_t n)
{
	const struct tier_limits limits = { .entries = ROOM };
	struct tier_evicted evicted = { 0 };
	struct tier_put put = { .key.hash = n | shard << 36 | n << 48,
		                .limits = &limits,
		                .evicted = &evicted };
	char text[32];

	snprintf(text, sizeof text, "%d of %d", (int)n, (int)shard);
	put.key.key = terrace_str(text);
	put.entry = terrace__entry_new(put.key.key, 1, terrace_bytes(NULL, 0));
	put.entry->hash = put.key.hash;
	assert_ok(terrace__memory_ops.put(memory, &put));
	entry_unref(put.entry);
	for (const struct entry *entry = evicted.chain; entry; entry = entry->next)
		assert_int_equal(entry->hash >> 36 & (FEW - 1), shard);
	entry_unlinked_all(evicted.chain);
	return evicted.entries_l1;
}

/* Full, each put makes its own room; a shard that lacks what others have does not. */
static void test_evict__a_put_makes_room_in_its_own_shard_but_not_in_a_poor_one(void **state)
{
	struct memory *memory = open_memory("hits", FEW);
	uint64_t n;

	(void)state;
	for (n = 0; n < ROOM; n++)
		assert_int_equal(put_into_shard(memory, n % FEW, n), 0);
	for (; n < 3 * ROOM; n++) {
		assert_int_equal(put_into_shard(memory, n % FEW, n), 1);
		assert_int_equal(terrace__memory_entries(memory), ROOM);
	}
	/* Shard 0 becomes rich, by what went elsewhere. */
	for (; terrace__memory_entries(memory) > ROOM / 2; n++)
		evict(memory, 1);
	for (; terrace__memory_entries(memory) < ROOM; n++)
		assert_int_equal(put_into_shard(memory, 0, n), 0);
	assert_int_equal(put_into_shard(memory, 1, n++), 0);
	assert_int_equal(terrace__memory_entries(memory), ROOM + 1);
	/* Which has put it over by one: both of them go here. */
	assert_int_equal(put_into_shard(memory, 0, n++), 2);
	assert_int_equal(terrace__memory_entries(memory), ROOM);
	terrace__memory_ops.close(memory);
}

static void test_evict__everything_goes_when_everything_must(void **state)
{
	static const char *const names[] = { "hits", "bytes", "cost" };

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct memory *memory = open_memory(names[i], 4);
		struct tier_evicted evicted = { 0 };

		fill(memory, "k", 1000);
		for (int k = 0; k < 10; k++)
			hit(memory, "k7");
		assert_ok(terrace__memory_ops.evict(memory, 0, UINT64_MAX, 0, NULL, &evicted));
		assert_int_equal(evicted.entries_l1, 1000);
		assert_int_equal(terrace__memory_bytes(memory), 0);
		entry_unlinked_all(evicted.chain);
		terrace__memory_ops.close(memory);
	}
}

enum { REFILLED_KEYS = 2000, REFILLERS = 3 };

struct refill {
	struct memory *memory;
	_Atomic bool stop;
};

static void *refill(void *ctx)
{
	struct refill *r = ctx;

	while (!atomic_load(&r->stop))
		fill(r->memory, "k", REFILLED_KEYS);
	return NULL;
}

/* What comes while it goes on is not run after: each key goes once at most. */
static void test_evict__everything_goes_once_while_others_put(void **state)
{
	struct refill r = { .memory = open_memory("hits", 16) };
	pthread_t threads[REFILLERS];

	(void)state;
	for (int i = 0; i < REFILLERS; i++)
		pthread_create(&threads[i], NULL, refill, &r);
	for (int i = 0; i < 50; i++) {
		struct tier_evicted evicted = { 0 };

		while (terrace__memory_entries(r.memory) < REFILLED_KEYS / 2)
			;
		/* All, or more than there is. */
		assert_ok(terrace__memory_ops.evict(
		    r.memory, 0, 0, i % 2 ? UINT64_MAX : 1000 * REFILLED_KEYS, NULL, &evicted));
		entry_unlinked_all(evicted.chain);
		assert_in_range(evicted.entries_l1, 0, REFILLED_KEYS);
	}
	atomic_store(&r.stop, true);
	for (int i = 0; i < REFILLERS; i++)
		pthread_join(threads[i], NULL);
	terrace__memory_ops.close(r.memory);
}

/* --- what is held ------------------------------------------------------------------------------- */

/* Something that says when it is freed. */
struct thing {
	struct epoch_node node;
	int counted;
	bool unlinked, retired, freed;
};

static unsigned looked_at;

static void thing_free(struct epoch_node *node)
{
	((struct thing *)node)->freed = true;
}

static int thing_references(struct epoch_node *node)
{
	struct thing *thing = (struct thing *)node;

	looked_at++;
	if (thing->counted > 0)
		thing->retired = false;
	return thing->counted;
}

static void thing_refer(struct epoch_node *node)
{
	((struct thing *)node)->counted++;
}

static const struct epoch_kind things = {
	.free = thing_free,
	.references = thing_references,
	.refer = thing_refer,
};

static void hold(struct thing *thing)
{
	struct epoch_slot *slot = terrace__epoch_slot();

	terrace__epoch_enter(slot);
	if (!terrace__epoch_hold(slot, &thing->node)) {
		terrace__epoch_spill(slot, &things);
		assert_true(terrace__epoch_hold(slot, &thing->node));
	}
	terrace__epoch_exit(slot);
}

static void retire(struct thing *thing)
{
	thing->unlinked = thing->retired = true;
	thing->node.kind = &things;
	terrace__epoch_retire(&thing->node);
	terrace__epoch_drain();
}

static void let_go(struct thing *thing)
{
	if (terrace__epoch_let_go(&thing->node))
		return;
	thing->counted--;
	if (thing->counted <= 0 && thing->unlinked && !thing->retired)
		retire(thing);
}

static void test_held__nothing_is_freed_before_all_let_go(void **state)
{
	static struct thing things_held[3 * EPOCH_PLACES];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(things_held); i++)
		hold(&things_held[i]); /* most of them are counted in the end */
	hold(&things_held[0]);
	for (size_t i = 0; i < ARRAY_LEN(things_held); i++)
		retire(&things_held[i]);
	for (size_t i = 0; i < ARRAY_LEN(things_held); i++) {
		assert_false(things_held[i].freed);
		let_go(&things_held[i]);
		terrace__epoch_drain();
		assert_int_equal(things_held[i].freed, i > 0);
	}
	let_go(&things_held[0]);
	terrace__epoch_drain();
	assert_true(things_held[0].freed);
}

/* As many as there are can be had again, in whichever order they were given back. */
static void test_held__places_come_back_in_any_order(void **state)
{
	static struct thing held[EPOCH_PLACES];

	(void)state;
	for (size_t step = 1; step < EPOCH_PLACES; step += 2) {
		struct epoch_slot *slot = terrace__epoch_slot();

		terrace__epoch_enter(slot);
		for (size_t i = 0; i < EPOCH_PLACES; i++)
			assert_true(terrace__epoch_hold(slot, &held[i].node));
		assert_false(terrace__epoch_hold(slot, &held[0].node));
		terrace__epoch_exit(slot);
		/* An odd step meets each once. */
		for (size_t i = 0; i < EPOCH_PLACES; i++)
			let_go(&held[i * step % EPOCH_PLACES]);
	}
	for (size_t i = 0; i < EPOCH_PLACES; i++)
		assert_int_equal(held[i].counted, 0);
}

/* Who holds the last one until he has the next needs two places for ever. */
static void test_held__one_after_the_other_needs_two_places(void **state)
{
	static struct thing held[2];

	(void)state;
	hold(&held[0]);
	for (int i = 1; i < 10 * EPOCH_PLACES; i++) {
		struct epoch_slot *slot = terrace__epoch_slot();

		terrace__epoch_enter(slot);
		assert_true(terrace__epoch_hold(slot, &held[i % 2].node));
		terrace__epoch_exit(slot);
		let_go(&held[(i + 1) % 2]);
	}
	let_go(&held[1]);
	assert_int_equal(held[0].counted + held[1].counted, 0);
}

static void *hold_elsewhere(void *ctx)
{
	hold(ctx);
	return NULL;
}

/* In that thread's place, which outlives it and must not be taken for the next one at the address. */
static void test_held__others_may_let_go(void **state)
{
	static struct thing thing;

	(void)state;
	for (int round = 0; round < 3; round++) {
		pthread_t thread;

		thing = (struct thing){ 0 };
		pthread_create(&thread, NULL, hold_elsewhere, &thing);
		pthread_join(thread, NULL);
		retire(&thing);
		assert_false(thing.freed);
		let_go(&thing);
		assert_int_equal(thing.counted, -1);
		terrace__epoch_drain();
		assert_true(thing.freed);
	}
	thing = (struct thing){ 0 };
	retire(&thing);
	assert_true(thing.freed);
}

enum { HELD_BY_ONE = 3 * EPOCH_PLACES };

static void *hold_many(void *ctx)
{
	for (int i = 0; i < HELD_BY_ONE; i++)
		hold((struct thing *)ctx + i);
	return NULL;
}

/* Places and counts of a thread that is gone, whose slot the next ones have had. */
static void test_held__what_it_holds_outlives_a_thread(void **state)
{
	static struct thing held[4][HELD_BY_ONE];

	(void)state;
	for (int i = 0; i < 4; i++) {
		pthread_t thread;

		pthread_create(&thread, NULL, hold_many, held[i]);
		pthread_join(thread, NULL);
	}
	for (int i = 0; i < 4; i++) {
		for (int k = 0; k < HELD_BY_ONE; k++) {
			retire(&held[i][k]);
			assert_false(held[i][k].freed);
		}
	}
	for (int i = 0; i < 4; i++) {
		for (int k = 0; k < HELD_BY_ONE; k++) {
			assert_false(held[i][k].freed);
			let_go(&held[i][k]);
			terrace__epoch_drain();
			assert_true(held[i][k].freed);
		}
	}
}

/* What freeing costs does not grow with what is held meanwhile. */
static void test_held__much_that_is_held_is_in_nobodys_way(void **state)
{
	enum { MANY = 20000, MORE = 1000 };
	static struct thing held[MANY], more[MORE];

	(void)state;
	for (int i = 0; i < MANY; i++)
		hold(&held[i]);
	for (int i = 0; i < MANY; i++) {
		held[i].unlinked = held[i].retired = true;
		held[i].node.kind = &things;
		terrace__epoch_retire(&held[i].node);
	}
	terrace__epoch_drain();
	looked_at = 0;
	for (int i = 0; i < MORE; i++) {
		retire(&more[i]);
		assert_true(more[i].freed);
	}
	assert_in_range(looked_at, MORE, MORE * (EPOCH_PLACES + 1));
	for (int i = 0; i < MANY; i++) {
		assert_false(held[i].freed);
		let_go(&held[i]);
	}
	terrace__epoch_drain();
	for (int i = 0; i < MANY; i++)
		assert_true(held[i].freed);
}

struct holder {
	struct memory *memory;
	struct entry *pinned;
	sem_t has, go_on;
	pthread_t thread;
};

static struct entry *pin(struct memory *memory, const char *text)
{
	struct tier_key key = key_of(text);
	struct entry *entry;

	assert_ok(terrace__memory_ops.get(memory, &key, true, &entry));
	return entry;
}

static void *pin_and_wait(void *ctx)
{
	struct holder *holder = ctx;

	holder->pinned = pin(holder->memory, "theirs");
	sem_post(&holder->has);
	while (sem_wait(&holder->go_on) < 0 && errno == EINTR)
		;
	entry_unref(holder->pinned);
	return NULL;
}

static bool says(const struct entry *entry, const char *text)
{
	return entry->value_size == strlen(text) &&
	       memcmp(entry_value(entry), text, strlen(text)) == 0;
}

/* The child has what its own thread held, and the others' for as long as it lives. */
static int child_of_fork(struct memory *memory, struct entry *mine, struct entry *theirs)
{
	struct entry *again = pin(memory, "there");
	bool good = says(mine, "held by me") && says(again, "in the table");

	evict(memory, 1);
	entry_unref(mine);
	terrace__epoch_drain();
	good = good && says(theirs, "held by them") && says(again, "in the table");
	entry_unref(again);
	terrace__epoch_drain();
	terrace__memory_ops.close(memory);
	return good && says(theirs, "held by them") ? 0 : 1;
}

static void test_held__a_fork_takes_along_what_is_held(void **state)
{
	struct holder holder = { .memory = open_memory("hits", 1) };
	struct entry *mine;
	int status;
	pid_t pid;

	(void)state;
	sem_init(&holder.has, 0, 0);
	sem_init(&holder.go_on, 0, 0);
	put(holder.memory, "mine", "held by me", strlen("held by me"));
	put(holder.memory, "theirs", "held by them", strlen("held by them"));
	mine = pin(holder.memory, "mine");
	pthread_create(&holder.thread, NULL, pin_and_wait, &holder);
	while (sem_wait(&holder.has) < 0 && errno == EINTR)
		;
	evict(holder.memory, 2);
	put(holder.memory, "there", "in the table", strlen("in the table"));
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(child_of_fork(holder.memory, mine, holder.pinned));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(says(mine, "held by me"));
	assert_true(says(holder.pinned, "held by them"));
	sem_post(&holder.go_on);
	pthread_join(holder.thread, NULL);
	entry_unref(mine);
	terrace__memory_ops.close(holder.memory);
}

/* From now on; false when this cannot be had. */
static bool forbid_membarrier(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { ARRAY_LEN(code), code };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

enum { CANNOT_FORBID = 77 };

static int child_without_membarrier(void)
{
	static struct thing first, second;

	if (!forbid_membarrier())
		return CANNOT_FORBID;
	hold(&first);
	retire(&first);
	retire(&second);
	if (first.freed || !second.freed)
		return 1;
	let_go(&first);
	terrace__epoch_drain();
	return first.freed && atomic_load(&terrace__epoch_fences) ? 0 : 1;
}

/* A program may shut itself in once it has opened what it needs. */
static void test_held__readers_fence_themselves_where_nobody_can_ask_for_it(void **state)
{
	struct thing thing = { 0 };
	int status;
	pid_t pid;

	(void)state;
	hold(&thing);
	let_go(&thing);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(child_without_membarrier());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT_FORBID) {
		print_message("this system lets no process forbid itself a call\n");
		skip();
	}
	assert_int_equal(status, 0);
}

/* A value that outlives its entry in the table, its place, and the table. */
static void test_held__a_value_outlives_its_table(void **state)
{
	enum { HELD = 20 * EPOCH_PLACES + 3 };
	struct memory *memory = open_memory("hits", 1);
	struct entry *pinned[HELD];
	char text[16];

	(void)state;
	for (int i = 0; i < HELD; i++) {
		struct tier_key key;

		snprintf(text, sizeof text, "%d", i);
		put(memory, text, &i, sizeof i);
		key = key_of(text);
		assert_ok(terrace__memory_ops.get(memory, &key, true, &pinned[i]));
	}
	evict(memory, HELD / 2);
	terrace__memory_ops.close(memory);
	for (int i = 0; i < HELD; i++) {
		assert_memory_equal(entry_value(pinned[i]), &i, sizeof i);
		entry_unref(pinned[i]);
	}
}

/* What malloc has given out. */
static uint64_t allocated(void)
{
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd;
}

/* What is replaced waits for the epochs, and counts for no limit: it must not wait long if it is large. */
static void test_held__large_values_do_not_wait_for_many(void **state)
{
	enum { LARGE = 1 << 20 };
	struct memory *memory = open_memory("hits", 1);
	uint8_t *value = calloc(1, LARGE);
	uint64_t before = allocated(), most = 0;

	(void)state;
	assert_non_null(value);
	for (int i = 0; i < 200; i++) {
		put(memory, "k", value, LARGE);
		if (allocated() > before + most)
			most = allocated() - before;
	}
	assert_in_range(most, 0, 16 * (uint64_t)LARGE);
	free(value);
	terrace__memory_ops.close(memory);
}

/* Whoever lets go last of what was evicted meanwhile frees it there and then, in whichever order. */
static void test_held__the_last_to_let_go_frees(void **state)
{
	enum { LARGE = 1 << 20, COUNT = 3 };
	static const int orders[2][COUNT] = { { 2, 1, 0 }, { 0, 1, 2 } };
	uint64_t none = allocated();
	void *volatile value = calloc(1, LARGE); /* no compiler may leave it out */

	(void)state;
	assert_non_null(value);
	if (allocated() == none) {
		free(value);
		print_message("skipped: this malloc does not say what it has given out\n");
		skip();
	}
	for (int turn = 0; turn < 2; turn++) {
		struct memory *memory = open_memory("hits", 1);
		uint64_t before = allocated();
		struct entry *pinned[COUNT];

		for (int i = 0; i < COUNT; i++) {
			char text[8];

			snprintf(text, sizeof text, "%d", i);
			put(memory, text, value, LARGE);
			pinned[i] = pin(memory, text);
		}
		evict(memory, COUNT);
		terrace__epoch_drain();
		for (int left = COUNT; left > 0; left--) {
			assert_in_range(allocated(), before + left * (uint64_t)LARGE,
			                before + (left + 1) * (uint64_t)LARGE - 1);
			entry_unref(pinned[orders[turn][COUNT - left]]);
		}
		assert_in_range(allocated(), 0, before + LARGE - 1);
		terrace__memory_ops.close(memory);
	}
	free(value);
}

/* --- threads --------------------------------------------------------------------------------------- */

enum { STRESS_KEYS = 200, STRESS_THREADS = 8, STRESS_HELD = 3 * EPOCH_PLACES };

struct stress {
	struct memory *memory;
	_Atomic(struct entry *) *passed; /* from any thread to any other */
	uint64_t seed;
	int operations;
	_Atomic uint64_t *hits;
	pthread_t thread;
};

/* A value that says which key it belongs to, eight times over: half of one would show. */
static void stress_put(struct stress *s, const char *text, uint64_t k)
{
	uint64_t value[8];

	for (int i = 0; i < 8; i++)
		value[i] = k * 1000003u;
	put(s->memory, text, value, sizeof value);
}

static void stress_check(const struct entry *entry)
{
	const uint64_t *value = (const uint64_t *)entry_value(entry);
	char text[16];
	uint64_t k;

	snprintf(text, sizeof text, "%.*s", (int)entry->key_size, (const char *)entry_key(entry));
	k = strtoull(text, NULL, 10);
	for (int i = 0; i < 8; i++) {
		if (value[i] != k * 1000003u)
			fail_msg("key %llu has another's value", (unsigned long long)k);
	}
}

static void stress_drop(struct entry *entry)
{
	if (entry)
		stress_check(entry);
	entry_unref(entry);
}

/* What is pinned is held for a while, now and then by another thread than the reader's. */
static void stress_get(struct stress *s, const char *text, struct rng *rng, struct entry **pinned)
{
	struct tier_key key = key_of(text);
	struct entry **place = &pinned[rng_below(rng, STRESS_HELD)], *entry;

	if (terrace__memory_ops.get(s->memory, &key, true, &entry) != TERRACE_OK)
		return;
	assert_memory_equal(entry_key(entry), text, entry->key_size);
	stress_check(entry);
	atomic_fetch_add(s->hits, 1);
	stress_drop(*place);
	*place = rng_below(rng, 4) == 0 ? atomic_exchange(s->passed, entry) : entry;
}

static void *stress_run(void *ctx)
{
	struct stress *s = ctx;
	struct rng rng = { s->seed };
	struct entry *pinned[STRESS_HELD] = { NULL };

	for (int i = 0; i < s->operations; i++) {
		uint64_t k = rng_below(&rng, STRESS_KEYS), what = rng_below(&rng, 100);
		struct tier_key key;
		char text[16];

		snprintf(text, sizeof text, "%llu", (unsigned long long)k);
		key = key_of(text);
		if (what < 70)
			stress_get(s, text, &rng, pinned);
		else if (what < 90)
			stress_put(s, text, k);
		else if (what < 95)
			terrace__memory_ops.remove(s->memory, &key, NULL);
		else if (terrace__memory_entries(s->memory) > STRESS_THREADS)
			evict(s->memory, 1);
	}
	for (int i = 0; i < STRESS_HELD; i++)
		stress_drop(pinned[i]);
	return NULL;
}

/* An object whose destructor says whether it ran while its thread looked at a table. */
static void destroy_object(void *ctx, void *object)
{
	struct epoch_slot *slot = terrace__epoch_mine;

	(void)object;
	if (slot && atomic_load(&slot->entered))
		atomic_store((_Atomic bool *)ctx, true);
}

static void put_object(struct memory *memory, const char *text, _Atomic bool *within)
{
	struct tier_put put = { .key = key_of(text) };

	put.entry = terrace__entry_new(put.key.key, sizeof(struct entry_object),
	                               terrace_bytes(NULL, 0));
	assert_non_null(put.entry);
	put.entry->hash = put.key.hash;
	put.entry->kind = ENTRY_OBJECT;
	*entry_object(put.entry) = (struct entry_object){ .destroy = destroy_object,
		                                          .ctx = (void *)(uintptr_t)within };
	assert_ok(terrace__memory_ops.put(memory, &put));
	entry_unref(put.entry);
}

struct looker {
	struct memory *memory;
	_Atomic bool stop;
};

static void *look_on(void *ctx)
{
	struct looker *looker = ctx;

	while (!atomic_load_explicit(&looker->stop, memory_order_relaxed))
		has(looker->memory, "k");
	return NULL;
}

/* It may do what it likes, look at tables as well; sections do not nest. */
static void test_threads__objects_are_not_destroyed_within_a_section(void **state)
{
	struct looker looker = { .memory = open_memory("hits", 1) };
	_Atomic bool within = false;
	pthread_t threads[3];

	(void)state;
	put_object(looker.memory, "k", &within);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_create(&threads[i], NULL, look_on, &looker);
	for (int i = 0; i < 100000 && !atomic_load(&within); i++)
		put_object(looker.memory, "k", &within);
	atomic_store(&looker.stop, true);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	assert_false(atomic_load(&within));
	terrace__memory_ops.close(looker.memory);
}

static void test_threads__readers_never_see_what_is_not_there(void **state)
{
	static const char *const names[] = { "hits", "bytes", "cost" };
	const char *given = getenv("TEST_OPERATIONS");
	int operations = given ? atoi(given) : 300000;
	uint64_t seed = test_seed();

	(void)state;
	for (int policy = 0; policy < 3; policy++) {
		struct stress threads[STRESS_THREADS];
		_Atomic uint64_t hits = 0;
		_Atomic(struct entry *) passed = NULL;
		struct memory *memory = open_memory(names[policy], 2);

		for (int i = 0; i < STRESS_THREADS; i++) {
			threads[i] = (struct stress){ .memory = memory,
				                      .passed = &passed,
				                      .seed = seed + (uint64_t)i,
				                      .operations = operations / STRESS_THREADS,
				                      .hits = &hits };
			pthread_create(&threads[i].thread, NULL, stress_run, &threads[i]);
		}
		for (int i = 0; i < STRESS_THREADS; i++)
			pthread_join(threads[i].thread, NULL);
		assert_true(hits > (uint64_t)operations / 4);
		terrace__memory_ops.close(memory);
		stress_drop(passed);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory__many_entries_are_all_found),
		cmocka_unit_test(test_memory__keys_of_one_hash_are_told_apart),
		cmocka_unit_test(test_memory__keys_that_differ_in_one_byte_are_told_apart),
		cmocka_unit_test(test_memory__a_search_ends_where_all_buckets_were_passed),
		cmocka_unit_test(test_memory__a_conditional_put_replaces_only_what_was_seen),
		cmocka_unit_test(test_memory__counts_hits_and_what_they_saved),
		cmocka_unit_test(test_evict__a_queue_knows_its_ends),
		cmocka_unit_test(test_evict__bytes_remembers_what_it_evicted_too_early),
		cmocka_unit_test(test_evict__a_scan_does_not_push_out_what_is_used),
		cmocka_unit_test(test_evict__hits_keeps_a_part_of_a_loop_that_does_not_fit),
		cmocka_unit_test(test_evict__a_trial_is_won_by_who_is_wanted_first),
		cmocka_unit_test(test_evict__learns_who_is_wanted_again),
		cmocka_unit_test(test_evict__bytes_keeps_large_entries_that_hits_gives_up),
		cmocka_unit_test(test_evict__cost_keeps_what_is_expensive),
		cmocka_unit_test(
		    test_evict__a_put_makes_room_in_its_own_shard_but_not_in_a_poor_one),
		cmocka_unit_test(test_evict__everything_goes_when_everything_must),
		cmocka_unit_test(test_evict__everything_goes_once_while_others_put),
		cmocka_unit_test(test_held__nothing_is_freed_before_all_let_go),
		cmocka_unit_test(test_held__places_come_back_in_any_order),
		cmocka_unit_test(test_held__one_after_the_other_needs_two_places),
		cmocka_unit_test(test_held__others_may_let_go),
		cmocka_unit_test(test_held__what_it_holds_outlives_a_thread),
		cmocka_unit_test(test_held__much_that_is_held_is_in_nobodys_way),
		cmocka_unit_test(test_held__a_fork_takes_along_what_is_held),
		cmocka_unit_test(test_held__readers_fence_themselves_where_nobody_can_ask_for_it),
		cmocka_unit_test(test_held__a_value_outlives_its_table),
		cmocka_unit_test(test_held__large_values_do_not_wait_for_many),
		cmocka_unit_test(test_held__the_last_to_let_go_frees),
		cmocka_unit_test(test_threads__objects_are_not_destroyed_within_a_section),
		cmocka_unit_test(test_threads__readers_never_see_what_is_not_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
