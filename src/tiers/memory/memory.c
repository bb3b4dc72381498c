#include "tiers/memory/memory.h"

#include "tiers/memory/find.h"
#include "util/slab.h"
#include "util/util.h"

#include <pthread.h>
#include <stdlib.h>

/* Notes of what was evicted last, in all shards together; a lower tier has better ones. */
enum { GONE = 512 };

struct gone {
	uint64_t hash;
	int64_t when;
};

struct shard {
	_Alignas(64) pthread_mutex_t lock; /* two lines in all */
	_Atomic(struct table *) *table;    /* among the memory_tables */
	uint64_t entries, bytes;
	/* What the counters that all shards share have not been told yet. */
	uint64_t new_entries, new_bytes;
	uint64_t gone;
	struct memory_counts counts; /* hits: of entries that have left */
};

struct memory {
	struct memory_tables tables;
	const struct evict_ops *evict;
	char *policies; /* the state of each shard's, so many bytes from one to the next */
	size_t policy_bytes;
	struct tier_pool *pool;
	unsigned shard_count;
	bool by_count;     /* the limit is on entries */
	struct gone *gone; /* each shard's part of them; NULL where there are none */
	/* On a line that readers leave alone. */
	_Alignas(64) struct tier_pool own;
	_Atomic unsigned hand; /* the shard to evict from next */
	struct shard shards[];
};

static struct shard *shard_of(struct memory *memory, uint64_t hash)
{
	return &memory->shards[memory_shard(&memory->tables, hash)];
}

static void *policy_of(const struct memory *memory, const struct shard *shard)
{
	return memory->policies + (size_t)(shard - memory->shards) * memory->policy_bytes;
}

static void memory_close(void *tier);

/* A thread that holds the lock works on one entry: who sleeps meanwhile wakes much too late. */
static void lock_init(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
	pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
}

int terrace__memory_open(const struct evict_ops *evict, const struct evict_setting *setting,
                         unsigned shards, struct tier_pool *pool, struct memory **ret)
{
	size_t size = sizeof(struct memory) + shards * sizeof(struct shard);
	struct memory *memory = aligned_alloc(64, (size + 63) & ~(size_t)63);

	if (!memory)
		return no_memory("a cache in memory");
	memset(memory, 0, size);
	memory->evict = evict;
	memory->pool = pool;
	memory->by_count = setting->by_count;
	memory->tables.tables = aligned_alloc(64, (shards * sizeof(void *) + 63) & ~(size_t)63);
	memory->tables.mask = shards - 1;
	memory->policy_bytes = (evict->size + 63) & ~(size_t)63;
	memory->policies = aligned_alloc(64, shards * memory->policy_bytes);
	memory->gone = setting->backed ? NULL : calloc(GONE, sizeof *memory->gone);
	if (!memory->tables.tables || !memory->policies || !(memory->gone || setting->backed)) {
		memory_close(memory);
		return no_memory("a cache in memory");
	}
	memset(memory->policies, 0, shards * memory->policy_bytes);
	for (unsigned i = 0; i < shards; i++) {
		struct shard *shard = &memory->shards[i];
		struct table *table = terrace__table_new(1);

		lock_init(&shard->lock);
		shard->table = &memory->tables.tables[i];
		atomic_init(shard->table, table);
		if (!table) {
			pthread_mutex_destroy(&shard->lock);
			memory_close(memory);
			return no_memory("a cache in memory");
		}
		evict->start(policy_of(memory, shard), setting);
		memory->shard_count = i + 1;
	}
	*ret = memory;
	return TERRACE_OK;
}

static int memory_get(void *tier, const struct tier_key *key, bool hit, struct entry **ret)
{
	struct entry *entry = memory_find(tier, key->key, key->hash);
	struct shard *shard = shard_of(tier, key->hash);
	struct epoch_slot *slot = terrace__epoch_slot();

	if (UNLIKELY(!slot))
		return no_memory("a thread that reads a cache in memory");
	if (!entry) {
		bool found;

		terrace__epoch_enter(slot);
		do
			found = table_find(atomic_load_explicit(shard->table, memory_order_acquire),
			                   key, &entry);
		while (found && !entry_pin(slot, entry)); /* just replaced or removed: look again */
		terrace__epoch_exit(slot);
		if (!found)
			return TERRACE_MISS;
	}
	if (hit)
		entry_hit(entry);
	*ret = entry;
	return TERRACE_OK;
}

/* The bucket of a key's hash, to be read ahead. */
static struct bucket *bucket_ahead(void *tier, const struct tier_key *key)
{
	const struct memory_tables *tables = tier;
	_Atomic(struct table *) *table = &tables->tables[memory_shard(tables, key->hash)];

	return bucket_of(atomic_load_explicit(table, memory_order_acquire), key->hash);
}

/* First all buckets, then, when those should be there, the entries that they may be. */
static void memory_soon_get(void *tier, const struct tier_key *keys, size_t count)
{
	struct epoch_slot *slot = terrace__epoch_slot();

	if (UNLIKELY(!slot))
		return;
	terrace__epoch_enter(slot);
	for (size_t i = 0; i < count; i++)
		__builtin_prefetch(bucket_ahead(tier, &keys[i]));
	/* A single one would only be waited for. */
	for (size_t i = 0; i < count && count > 1; i++)
		bucket_read_ahead(bucket_ahead(tier, &keys[i]), &keys[i]);
	terrace__epoch_exit(slot);
}

/* One processor's lines are another's after every other put; so all of them are asked for at once. */
static void memory_soon_put(void *tier, const struct tier_key *key)
{
	struct epoch_slot *slot = terrace__epoch_slot();
	struct memory *memory = tier;
	const struct shard *shard = shard_of(memory, key->hash);

	if (UNLIKELY(!slot))
		return;
	terrace__epoch_enter(slot);
	__builtin_prefetch(bucket_ahead(tier, key));
	terrace__epoch_exit(slot);
	prefetch_to_write(&shard->lock);
	prefetch_to_write(&shard->counts);
	memory->evict->ahead(policy_of(memory, shard));
}

/* Twice the room, when the next entry would not fit. Under the lock. */
static int shard_fit(struct shard *shard)
{
	struct table *old = atomic_load_explicit(shard->table, memory_order_relaxed), *grown;

	if (shard->entries < terrace__table_capacity(old))
		return TERRACE_OK;
	grown = terrace__table_new(shard->entries + shard->entries / 2 + BUCKET_WORDS);
	if (!grown)
		return no_memory("a cache in memory");
	for (uint64_t at = 0; at < table_words(old); at++) {
		struct entry *entry = table_at(old, at);

		if (entry)
			terrace__table_insert(grown, entry);
	}
	atomic_store_explicit(shard->table, grown, memory_order_release);
	terrace__table_retire(old);
	return TERRACE_OK;
}

/* --- books, all under the lock ------------------------------------------------- */

/* Unsigned arithmetic wraps, which is what subtracting is. */
static void count(struct shard *shard, uint64_t entries, uint64_t bytes)
{
	shard->entries += entries;
	shard->bytes += bytes;
	shard->new_entries += entries;
	shard->new_bytes += bytes;
}

static void pool_tell(struct tier_pool *pool, const struct shard *shard)
{
	if (shard->new_entries)
		atomic_fetch_add_explicit(&pool->entries, shard->new_entries, memory_order_relaxed);
	if (shard->new_bytes)
		atomic_fetch_add_explicit(&pool->bytes, shard->new_bytes, memory_order_relaxed);
}

/* What came for what went, which is what a full cache does, is no news. */
static void shard_unlock(struct memory *memory, struct shard *shard)
{
	pool_tell(&memory->own, shard);
	if (memory->pool)
		pool_tell(memory->pool, shard);
	shard->new_entries = shard->new_bytes = 0;
	pthread_mutex_unlock(&shard->lock);
}

/* The books when an entry has left the table. */
static void shard_left(struct shard *shard, struct entry *entry)
{
	uint64_t hits = entry_hits(entry);

	shard->counts.hits += hits;
	shard->counts.saved_us += hits * entry_rest(entry)->cost_us;
	count(shard, -UINT64_C(1), -entry_charge(entry));
}

static void shard_joined(struct memory *memory, struct shard *shard, struct entry *entry)
{
	count(shard, 1, entry_charge(entry));
	memory->evict->added(policy_of(memory, shard), entry);
}

static struct gone *gone_of(const struct memory *memory, const struct shard *shard)
{
	return &memory->gone[(uint64_t)(shard - memory->shards) * (GONE / memory->shard_count)];
}

/* Evict one entry; false when there is none. */
static bool shard_evict(struct memory *memory, struct shard *shard, const struct tier_note *note,
                        struct tier_evicted *ret)
{
	struct entry *victim = memory->evict->victim(policy_of(memory, shard));

	if (!victim)
		return false;
	terrace__table_remove(atomic_load_explicit(shard->table, memory_order_relaxed), victim);
	shard_left(shard, victim);
	shard->counts.evicted += note != NULL;
	if (note && memory->gone)
		gone_of(memory, shard)[shard->gone++ % (GONE / memory->shard_count)] =
		    (struct gone){ victim->hash, note->when };
	victim->next = ret->chain;
	ret->chain = victim;
	ret->bytes += entry_charge(victim);
	ret->entries_l1++;
	return true;
}

static bool is_above(const _Atomic uint64_t *counter, uint64_t news, uint64_t limit)
{
	return limit && atomic_load_explicit(counter, memory_order_relaxed) + news > limit;
}

static bool is_over(const struct memory *memory, const struct shard *shard,
                    const struct tier_limits *limits)
{
	const struct tier_pool *own = &memory->own, *pool = memory->pool;
	uint64_t bytes = atomic_load_explicit(&own->bytes, memory_order_relaxed);

	return is_above(&own->bytes, shard->new_bytes, limits->bytes) ||
	       is_above(&own->entries, shard->new_entries, limits->entries) ||
	       (pool && bytes + shard->new_bytes > limits->promised &&
	        (is_above(&pool->bytes, shard->new_bytes, limits->pool_bytes) ||
	         is_above(&pool->entries, shard->new_entries, limits->pool_entries)));
}

/*
 * What an entry displaces is of its own shard, so that one lock does for both; but not
 * where that has less than seven eighths of its share: then all of them give in turn.
 */
static bool may_give(const struct memory *memory, const struct shard *shard)
{
	uint64_t has = memory->by_count ? shard->entries : shard->bytes;
	uint64_t all = atomic_load_explicit(
	    memory->by_count ? &memory->own.entries : &memory->own.bytes, memory_order_relaxed);

	return has * memory->shard_count * 8 >= all * 7;
}

static void make_room(struct memory *memory, struct shard *shard, const struct tier_put *put)
{
	const struct tier_note note = { .when = entry_stored(put->entry) };

	while (put->limits && is_over(memory, shard, put->limits) && may_give(memory, shard) &&
	       shard_evict(memory, shard, &note, put->evicted))
		;
}

/* What is waited for in between would be waited for by the lock's end, one after the other. */
static void shard_soon(const struct memory *memory, struct shard *shard, const struct tier_put *put)
{
	struct table *table = atomic_load_explicit(shard->table, memory_order_relaxed);
	const struct entry *may_go[EVICT_MAY_GO];

	memory->evict->soon(policy_of(memory, shard), put->key.hash, may_go);
	for (unsigned i = 0; i < EVICT_MAY_GO; i++) {
		if (may_go[i])
			__builtin_prefetch(bucket_of(table, may_go[i]->hash));
	}
}

static int shard_put(struct memory *memory, const struct tier_put *put, struct entry *entry)
{
	struct shard *shard = shard_of(memory, put->key.hash);
	struct entry *old = NULL;
	struct table *table;
	_Atomic uint64_t *word;
	int rc;

	pthread_mutex_lock(&shard->lock);
	shard_soon(memory, shard, put);
	rc = shard_fit(shard);
	if (rc != TERRACE_OK) {
		pthread_mutex_unlock(&shard->lock);
		return rc;
	}
	table = atomic_load_explicit(shard->table, memory_order_relaxed);
	word = table_find(table, &put->key, &old);
	/* A slower thread must not put its older value over a newer one. */
	if (put->conditional ? old != put->expected :
	                       old && atomic_load(&old->stamp) > atomic_load(&entry->stamp)) {
		shard->counts.puts += put->whole;
		pthread_mutex_unlock(&shard->lock);
		if (put->whole)
			entry_unref(entry);
		return put->conditional ? TERRACE_EXISTS : TERRACE_OK;
	}
	shard->counts.puts += put->whole;
	entry_link(entry, put->whole);
	if (old) {
		memory->evict->removed(policy_of(memory, shard), old);
		atomic_store_explicit(word, word_of(entry), memory_order_release);
		shard_left(shard, old);
	} else {
		terrace__table_insert(table, entry);
	}
	shard_joined(memory, shard, entry);
	make_room(memory, shard, put);
	shard_unlock(memory, shard);
	if (put->replaced)
		*put->replaced = old;
	else
		entry_unlinked(old);
	return TERRACE_OK;
}

static int memory_put(void *tier, const struct tier_put *put)
{
	struct entry *copy;
	int rc;

	if (LIKELY(!entry_was_shared(put->entry)))
		return shard_put(tier, put, put->entry);
	/* It has links for one table alone: that nothing is there is kept as object and as bytes. */
	copy = terrace__entry_copy(put->entry);
	if (!copy)
		return no_memory("a cache in memory");
	rc = shard_put(tier, put, copy);
	entry_unref(copy);
	return rc;
}

static int memory_remove(void *tier, const struct tier_key *key, const struct tier_note *note)
{
	struct memory *memory = tier;
	struct shard *shard = shard_of(memory, key->hash);
	struct entry *old;

	(void)note;
	pthread_mutex_lock(&shard->lock);
	if (!table_find(atomic_load_explicit(shard->table, memory_order_relaxed), key, &old)) {
		pthread_mutex_unlock(&shard->lock);
		return TERRACE_MISS;
	}
	memory->evict->removed(policy_of(memory, shard), old);
	terrace__table_remove(atomic_load_explicit(shard->table, memory_order_relaxed), old);
	shard_left(shard, old);
	shard_unlock(memory, shard);
	entry_unlinked(old);
	return TERRACE_OK;
}

static void row_of(struct entry *entry, uint32_t cache, struct tier_row *ret)
{
	const struct entry_rest *rest = entry_rest(entry);

	*ret = (struct tier_row){
		.hash = entry->hash,
		.cache = cache,
		.tier = TERRACE_L1,
		.seq = rest->seq,
		.charge = entry_charge(entry),
		.expires = atomic_load_explicit(&entry->expires, memory_order_relaxed),
		.key = entry_key_slice(entry),
		.extra = entry_extra(entry),
		.entry = entry,
	};
}

/* The visitor runs under a shard's lock: it must not come back here. */
static int memory_each(void *tier, uint32_t cache, const terrace_match *match, tier_visit_fn *visit,
                       void *ctx)
{
	struct memory *memory = tier;
	bool go_on = true;

	for (unsigned i = 0; i < memory->shard_count && go_on; i++) {
		struct shard *shard = &memory->shards[i];
		struct table *table;

		pthread_mutex_lock(&shard->lock);
		table = atomic_load_explicit(shard->table, memory_order_relaxed);
		for (uint64_t at = 0; at < table_words(table) && go_on; at++) {
			struct entry *entry = table_at(table, at);
			struct tier_row row;

			if (!entry)
				continue;
			row_of(entry, cache, &row);
			if (terrace__match_fits(match, row.key, row.extra))
				go_on = visit(ctx, &row);
		}
		pthread_mutex_unlock(&shard->lock);
	}
	return TERRACE_OK;
}

static int memory_usage(void *tier, uint32_t cache, terrace_tier which, struct tier_usage *ret)
{
	(void)cache;
	(void)which;
	ret->entries = terrace__memory_entries(tier);
	ret->bytes = terrace__memory_bytes(tier);
	return TERRACE_OK;
}

/*
 * A shard at a time, each under its lock: who put meanwhile would be run after without end,
 * if there had to be a moment at which nothing is left.
 */
static void evict_all(struct memory *memory, const struct tier_note *note, struct tier_evicted *ret)
{
	for (unsigned i = 0; i < memory->shard_count; i++) {
		struct shard *shard = &memory->shards[i];

		pthread_mutex_lock(&shard->lock);
		while (shard_evict(memory, shard, note, ret))
			;
		shard_unlock(memory, shard);
	}
}

static int memory_evict(void *tier, uint32_t cache, uint64_t bytes, uint64_t entries,
                        const struct tier_note *note, struct tier_evicted *ret)
{
	struct memory *memory = tier;
	unsigned empty = 0;

	(void)cache;
	if (bytes >= terrace__memory_bytes(memory) || entries >= terrace__memory_entries(memory)) {
		evict_all(memory, note, ret);
		return TERRACE_OK;
	}
	while ((ret->bytes < bytes || ret->entries_l1 < entries) && empty < memory->shard_count) {
		unsigned hand = atomic_fetch_add_explicit(&memory->hand, 1, memory_order_relaxed);
		struct shard *shard = &memory->shards[hand & (memory->shard_count - 1)];

		pthread_mutex_lock(&shard->lock);
		empty = shard_evict(memory, shard, note, ret) ? 0 : empty + 1;
		shard_unlock(memory, shard);
	}
	return TERRACE_OK;
}

static void memory_close(void *tier)
{
	struct memory *memory = tier;
	struct tier_evicted all = { 0 };

	if (!memory)
		return;
	memory_evict(memory, 0, UINT64_MAX, UINT64_MAX, NULL, &all);
	entry_unlinked_all(all.chain);
	for (unsigned i = 0; i < memory->shard_count; i++) {
		struct shard *shard = &memory->shards[i];

		memory->evict->done(policy_of(memory, shard));
		free(atomic_load(shard->table));
		pthread_mutex_destroy(&shard->lock);
	}
	free(memory->gone);
	free(memory->policies);
	free(memory->tables.tables);
	free(memory);
	terrace__epoch_drain();
	terrace__slab_let_go();
}

struct memory_counts terrace__memory_counts(struct memory *memory)
{
	struct memory_counts all = { 0 };

	for (unsigned i = 0; i < memory->shard_count; i++) {
		struct shard *shard = &memory->shards[i];
		struct table *table;

		pthread_mutex_lock(&shard->lock);
		table = atomic_load_explicit(shard->table, memory_order_relaxed);
		all.hits += shard->counts.hits;
		all.saved_us += shard->counts.saved_us;
		all.puts += shard->counts.puts;
		all.evicted += shard->counts.evicted;
		for (uint64_t at = 0; at < table_words(table); at++) {
			struct entry *entry = table_at(table, at);

			if (!entry)
				continue;
			all.hits += entry_hits(entry);
			all.saved_us += entry_hits(entry) * entry_rest(entry)->cost_us;
		}
		pthread_mutex_unlock(&shard->lock);
	}
	return all;
}

bool terrace__memory_gone(struct memory *memory, uint64_t hash, int64_t *ret_when)
{
	struct shard *shard = shard_of(memory, hash);
	const struct gone *gone = NULL;
	bool found = false;

	if (!memory->gone)
		return false;
	pthread_mutex_lock(&shard->lock);
	for (uint64_t back = 1; back <= GONE / memory->shard_count && back <= shard->gone && !found;
	     back++) {
		gone = &gone_of(memory, shard)[(shard->gone - back) % (GONE / memory->shard_count)];
		found = gone->hash == hash;
	}
	if (found)
		*ret_when = gone->when;
	pthread_mutex_unlock(&shard->lock);
	return found;
}

uint64_t terrace__memory_bytes(const struct memory *memory)
{
	return atomic_load_explicit(&memory->own.bytes, memory_order_relaxed);
}

uint64_t terrace__memory_entries(const struct memory *memory)
{
	return atomic_load_explicit(&memory->own.entries, memory_order_relaxed);
}

const struct tier_ops terrace__memory_ops = {
	.name = "l1",
	.get = memory_get,
	.soon_get = memory_soon_get,
	.soon_put = memory_soon_put,
	.put = memory_put,
	.remove = memory_remove,
	.each = memory_each,
	.usage = memory_usage,
	.evict = memory_evict,
	.close = memory_close,
};
