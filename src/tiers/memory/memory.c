#include "tiers/memory/memory.h"

#include "tiers/memory/table.h"
#include "util/util.h"

#include <pthread.h>
#include <stdlib.h>

struct shard {
	_Alignas(64) _Atomic(struct table *) table;
	pthread_mutex_t lock;
	uint64_t entries;
	void *policy;  /* of the evict_ops */
	uint64_t hits; /* of entries that have left */
	uint64_t saved_us;
};

struct memory {
	const struct evict_ops *evict;
	unsigned shard_count;
	_Atomic unsigned hand; /* the shard to evict from next */
	struct tier_pool own;
	struct tier_pool *pool;
	struct shard shards[];
};

static struct shard *shard_of(struct memory *memory, uint64_t hash)
{
	/* Bits that neither buckets nor tags are found by. */
	return &memory->shards[(hash >> 36) & (memory->shard_count - 1)];
}

static void memory_close(void *tier);

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
	for (unsigned i = 0; i < shards; i++) {
		struct shard *shard = &memory->shards[i];
		struct table *table = terrace__table_new(1);

		pthread_mutex_init(&shard->lock, NULL);
		shard->policy = calloc(1, evict->size);
		atomic_init(&shard->table, table);
		if (!table || !shard->policy) {
			free(table);
			free(shard->policy);
			pthread_mutex_destroy(&shard->lock);
			memory_close(memory);
			return no_memory("a cache in memory");
		}
		evict->start(shard->policy, setting);
		memory->shard_count = i + 1;
	}
	*ret = memory;
	return TERRACE_OK;
}

/* Within the epoch: all candidates, and again. */
static __attribute__((noinline)) int find_and_pin(struct epoch_slot *slot, struct shard *shard,
                                                  const struct tier_key *key, struct entry **ret)
{
	for (;;) {
		struct table *table = atomic_load_explicit(&shard->table, memory_order_acquire);
		struct entry *entry;

		if (!table_find(table, key, &entry))
			return TERRACE_MISS;
		if (entry_pin(slot, entry)) {
			*ret = entry;
			return TERRACE_OK;
		}
		/* Just replaced or removed: look again. */
	}
}

static int memory_get(void *tier, const struct tier_key *key, bool hit, struct entry **ret)
{
	struct shard *shard = shard_of(tier, key->hash);
	struct epoch_slot *slot = terrace__epoch_slot();
	struct table *table;
	struct entry *entry;
	int rc = TERRACE_OK;

	if (UNLIKELY(!slot))
		return no_memory("a thread that reads a cache in memory");
	terrace__epoch_enter(slot);
	table = atomic_load_explicit(&shard->table, memory_order_acquire);
	if (LIKELY(table_find_fast(table, key, &entry)) && LIKELY(entry_hold(slot, entry)))
		*ret = entry;
	else
		rc = find_and_pin(slot, shard, key, ret);
	terrace__epoch_exit(slot);
	if (hit && rc == TERRACE_OK)
		entry_hit(*ret);
	return rc;
}

/* The bucket of a key's hash, to be read ahead. */
static struct bucket *bucket_of(void *tier, const struct tier_key *key)
{
	struct shard *shard = shard_of(tier, key->hash);
	struct table *table = atomic_load_explicit(&shard->table, memory_order_acquire);

	return &table->buckets[key->hash & table->mask];
}

static void memory_soon(void *tier, const struct tier_key *key)
{
	struct epoch_slot *slot = terrace__epoch_slot();

	if (UNLIKELY(!slot))
		return;
	terrace__epoch_enter(slot);
	__builtin_prefetch(bucket_of(tier, key));
	terrace__epoch_exit(slot);
}

static void memory_sooner(void *tier, const struct tier_key *key)
{
	struct epoch_slot *slot = terrace__epoch_slot();

	if (UNLIKELY(!slot))
		return;
	terrace__epoch_enter(slot);
	bucket_read_ahead(bucket_of(tier, key), key);
	terrace__epoch_exit(slot);
}

/* Twice the room, when the next entry would not fit. Under the lock. */
static int shard_fit(struct shard *shard)
{
	struct table *old = atomic_load_explicit(&shard->table, memory_order_relaxed), *grown;

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
	atomic_store_explicit(&shard->table, grown, memory_order_release);
	terrace__table_retire(old);
	return TERRACE_OK;
}

static void count_in(struct tier_pool *pool, int64_t entries, uint64_t bytes)
{
	/* Unsigned arithmetic wraps, which is what subtracting is. */
	atomic_fetch_add_explicit(&pool->entries, (uint64_t)entries, memory_order_relaxed);
	atomic_fetch_add_explicit(&pool->bytes, bytes, memory_order_relaxed);
}

static void count(struct memory *memory, int sign, uint64_t charge)
{
	uint64_t bytes = sign < 0 ? -charge : charge;

	count_in(&memory->own, sign, bytes);
	if (memory->pool)
		count_in(memory->pool, sign, bytes);
}

/* The books when an entry has left the table. Under the lock. */
static void shard_left(struct memory *memory, struct shard *shard, struct entry *entry)
{
	struct entry_rest *rest = entry_rest(entry);
	uint64_t hits = entry_hits(entry);

	shard->hits += hits;
	shard->saved_us += hits * rest->cost_us;
	shard->entries--;
	count(memory, -1, terrace__entry_charge(entry));
}

static void shard_joined(struct memory *memory, struct shard *shard, struct entry *entry)
{
	shard->entries++;
	count(memory, +1, terrace__entry_charge(entry));
	memory->evict->added(shard->policy, entry);
}

static int shard_put(struct memory *memory, const struct tier_put *put, struct entry *entry)
{
	struct shard *shard = shard_of(memory, put->key.hash);
	struct entry *old = NULL;
	struct table *table;
	_Atomic uint64_t *word;
	int rc;

	pthread_mutex_lock(&shard->lock);
	rc = shard_fit(shard);
	if (rc != TERRACE_OK) {
		pthread_mutex_unlock(&shard->lock);
		return rc;
	}
	table = atomic_load_explicit(&shard->table, memory_order_relaxed);
	word = table_find(table, &put->key, &old);
	/* A slower thread must not put its older value over a newer one. */
	if (put->conditional ? old != put->expected :
	                       old && atomic_load(&old->stamp) > atomic_load(&entry->stamp)) {
		pthread_mutex_unlock(&shard->lock);
		return put->conditional ? TERRACE_EXISTS : TERRACE_OK;
	}
	terrace__entry_link(entry);
	if (old) {
		memory->evict->removed(shard->policy, old);
		atomic_store_explicit(word, word_of(entry), memory_order_release);
		shard_left(memory, shard, old);
	} else {
		terrace__table_insert(table, entry);
	}
	shard_joined(memory, shard, entry);
	pthread_mutex_unlock(&shard->lock);
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
	if (!table_find(atomic_load_explicit(&shard->table, memory_order_relaxed), key, &old)) {
		pthread_mutex_unlock(&shard->lock);
		return TERRACE_MISS;
	}
	memory->evict->removed(shard->policy, old);
	terrace__table_remove(atomic_load_explicit(&shard->table, memory_order_relaxed), old);
	shard_left(memory, shard, old);
	pthread_mutex_unlock(&shard->lock);
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
		.charge = terrace__entry_charge(entry),
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
		table = atomic_load_explicit(&shard->table, memory_order_relaxed);
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

/* Evict one entry of a shard; false when it is empty. */
static bool shard_evict(struct memory *memory, struct shard *shard, struct tier_evicted *ret)
{
	struct entry *victim;

	pthread_mutex_lock(&shard->lock);
	victim = memory->evict->victim(shard->policy);
	if (victim) {
		terrace__table_remove(atomic_load_explicit(&shard->table, memory_order_relaxed),
		                      victim);
		shard_left(memory, shard, victim);
		victim->next = ret->chain;
		ret->chain = victim;
		ret->bytes += terrace__entry_charge(victim);
		ret->entries_l1++;
	}
	pthread_mutex_unlock(&shard->lock);
	return victim != NULL;
}

static int memory_evict(void *tier, uint32_t cache, uint64_t bytes, uint64_t entries,
                        const struct tier_note *note, struct tier_evicted *ret)
{
	struct memory *memory = tier;
	unsigned empty = 0;

	(void)cache;
	(void)note;
	while ((ret->bytes < bytes || ret->entries_l1 < entries) && empty < memory->shard_count) {
		unsigned hand = atomic_fetch_add_explicit(&memory->hand, 1, memory_order_relaxed);
		struct shard *shard = &memory->shards[hand & (memory->shard_count - 1)];

		if (shard_evict(memory, shard, ret))
			empty = 0;
		else
			empty++;
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

		if (shard->policy)
			memory->evict->done(shard->policy);
		free(shard->policy);
		free(atomic_load(&shard->table));
		pthread_mutex_destroy(&shard->lock);
	}
	free(memory);
	terrace__epoch_drain();
}

void terrace__memory_hits(struct memory *memory, uint64_t *ret_hits, uint64_t *ret_saved_us)
{
	uint64_t hits = 0, saved_us = 0;

	for (unsigned i = 0; i < memory->shard_count; i++) {
		struct shard *shard = &memory->shards[i];
		struct table *table;

		pthread_mutex_lock(&shard->lock);
		table = atomic_load_explicit(&shard->table, memory_order_relaxed);
		hits += shard->hits;
		saved_us += shard->saved_us;
		for (uint64_t at = 0; at < table_words(table); at++) {
			struct entry *entry = table_at(table, at);

			if (!entry)
				continue;
			hits += entry_hits(entry);
			saved_us += entry_hits(entry) * entry_rest(entry)->cost_us;
		}
		pthread_mutex_unlock(&shard->lock);
	}
	*ret_hits = hits;
	*ret_saved_us = saved_us;
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
	.soon = memory_soon,
	.sooner = memory_sooner,
	.put = memory_put,
	.remove = memory_remove,
	.each = memory_each,
	.usage = memory_usage,
	.evict = memory_evict,
	.close = memory_close,
};
