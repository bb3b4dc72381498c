#include "core/immediate.h"

#include "core/entries.h"
#include "core/present.h"
#include "util/message.h"
#include "util/util.h"

/* How often others may come in between before we give up. */
enum { TRIES = 100 };

bool terrace__is_immediate(const struct terrace_cache *cache, terrace_strategy strategy)
{
	if (strategy == TERRACE_STRATEGY_DEFAULT)
		strategy = cache->strategy;
	return strategy == TERRACE_STRATEGY_IMMEDIATE && cache->on_disk && cache->memory &&
	       !terrace__transaction_mine(cache->store);
}

struct entry *terrace__immediate_find(struct terrace_cache *cache, const struct tier_key *key)
{
	struct entry *entry;

	if (LIKELY(!atomic_load_explicit(&cache->has_immediate, memory_order_relaxed)) ||
	    cache->memory_ops->get(cache->memory, key, false, &entry) != TERRACE_OK)
		return NULL;
	if (entry_rest(entry)->seq == 0 &&
	    atomic_load(&entry->stamp) == version_load(cache->store->shared, key->slot) &&
	    atomic_load(&entry->epoch) == atomic_load(&cache->shared->epoch) &&
	    terrace__entry_alive(cache, entry))
		return entry;
	entry_unref(entry);
	return NULL;
}

/* --- room for it ----------------------------------------------------------------------------- */

static bool is_vacant(struct terrace_cache *cache, const struct tier_key *key)
{
	struct terrace *store = cache->store;
	struct block_reader *blocks = NULL;
	struct entry *entry = NULL;
	/* As a get does, of whichever database there is now, but no large value. */
	int rc = store->disk_ops->open(store->disk, key, &entry, &blocks);

	if (rc == TERRACE_OK) {
		store->disk_ops->blocks_close(blocks);
		entry_unref(entry);
	}
	return rc == TERRACE_MISS;
}

/* Under this version we have put a value in memory alone, so nobody has written a row since. */
static bool known_vacant(struct terrace_cache *cache, const struct tier_key *key, uint64_t version)
{
	struct entry *entry;
	bool known;

	if (cache->memory_ops->get(cache->memory, key, false, &entry) != TERRACE_OK)
		return false;
	known = entry_rest(entry)->seq == 0 && atomic_load(&entry->stamp) == version;
	entry_unref(entry);
	return known;
}

/*
 * Nothing lies below, and nobody writes there: then a version that moves by
 * compare-and-swap is all that has to be done, and the writers' lock is not needed.
 * A writer marks the slot before it writes, so it either came before we loaded
 * the version, and its row is seen, or the swap fails; or it comes afterwards, and
 * voids our entry. Returns the stamp; 0 when that is not so.
 */
static uint64_t move_version(struct terrace_cache *cache, const struct tier_key *key,
                             const struct write_lease *lease)
{
	struct shared *shared = cache->store->shared;
	uint64_t version = lease ? lease->version : version_load(shared, key->slot), moved;

	if (!word_holds(shared, key->slot, version) || version_is_writing(version) ||
	    version_is_behind(version) || !terrace__present(cache->store) ||
	    (!known_vacant(cache, key, version) && !is_vacant(cache, key)) ||
	    (lease && atomic_load(&cache->shared->bulk) != lease->bulk))
		return 0;
	moved = word_make(shared, key->slot, word_value(version) + VERSION_STEP);
	return atomic_compare_exchange_strong(&shared->versions[key->slot], &version, moved) ?
	           moved :
	           0;
}

/* Otherwise what is below is removed in a transaction, under the lease. */
static int vacate(struct terrace_cache *cache, const struct tier_key *key,
                  const struct write_lease *lease, uint64_t *ret_stamp)
{
	struct write write = {
		.kind = WRITE_VACATE,
		.cache = cache,
		.put.key = *key,
		.file_fd = -1,
		.lease = lease,
		.note = { .reason = TERRACE_REASON_DELETED,
		          .when = terrace__now(cache->store),
		          .detail = "for a value in memory alone, which is no longer there" },
	};

	terrace__write(cache->store, &write, 1);
	*ret_stamp = write.stamp; /* 0: somebody else was there since; as if it was evicted */
	return write.rc;
}

/* --- put -------------------------------------------------------------------------------------- */

static bool needs_form(const struct terrace_cache *cache, const struct put_item *item)
{
	return cache->has_form && item->entry->kind != ENTRY_ABSENT;
}

/* The bytes, and with a form what they decode to, under the stamp. */
static int keep(struct terrace_cache *cache, const struct tier_key *key, struct put_item *item,
                uint64_t stamp, uint64_t epoch)
{
	struct tier_put put = { .key = *key, .entry = item->decoded ? item->decoded : item->entry };
	int rc = TERRACE_OK, kept;

	if (!stamp) {
		terrace__memory_forget(cache, key);
		return TERRACE_OK;
	}
	atomic_store(&put.entry->stamp, stamp);
	atomic_store(&put.entry->epoch, epoch);
	if (needs_form(cache, item) && !item->decoded)
		cache->memory_ops->remove(cache->memory, key, NULL); /* of another value */
	else
		rc = terrace__memory_keep(cache, &put, NULL);
	if (!cache->encoded)
		return rc;
	atomic_store(&item->entry->stamp, stamp);
	atomic_store(&item->entry->epoch, epoch);
	kept = terrace__encoded_keep(cache, key, item->entry, NULL);
	return rc == TERRACE_OK ? TERRACE_OK : kept;
}

static int store(struct terrace_cache *cache, struct put_item *item,
                 const struct write_lease *lease)
{
	const struct tier_key *key = &item->hashed;
	/*
	 * The epoch before the mark: an invalidation that takes the mark away moves
	 * the epoch afterwards, and one that comes later finds the mark.
	 */
	uint64_t epoch = lease ? lease->epoch : atomic_load(&cache->shared->epoch), stamp;
	int rc = TERRACE_OK;

	atomic_store(&cache->has_immediate, true);
	atomic_store(&cache->shared->rows, ROWS_LACK);
	stamp = move_version(cache, key, lease);
	if (!stamp)
		rc = vacate(cache, key, lease, &stamp);
	if (rc != TERRACE_OK)
		return rc;
	return keep(cache, key, item, stamp, epoch);
}

static int decode(struct terrace_cache *cache, struct put_item *item)
{
	int rc;

	if (!needs_form(cache, item) || item->shape == SHAPE_ENCODED)
		return TERRACE_OK;
	rc = terrace__entry_decode(cache, item->entry, &item->decoded);
	if (rc != TERRACE_ECORRUPT)
		return rc;
	terrace__message_set("cache %s cannot decode the value that was put", cache->name);
	return TERRACE_EINVAL;
}

/* TERRACE_EXISTS where there is a live entry, in memory or below. */
static int add_once(struct terrace_cache *cache, struct put_item *item)
{
	struct write_lease lease = terrace__lease_take(cache, item->key);
	struct tier_facts facts = { 0 };
	terrace_reason reason;
	int rc = terrace__describe(cache, item->key, &facts, &reason);

	terrace__buf_done(&facts.extra);
	if (rc == TERRACE_OK)
		return TERRACE_EXISTS;
	return rc == TERRACE_MISS || rc == TERRACE_ECORRUPT ? store(cache, item, &lease) : rc;
}

void terrace__immediate_put(struct terrace_cache *cache, struct put_item *item)
{
	int tries = 0;

	item->rc = decode(cache, item);
	if (item->rc != TERRACE_OK) {
		uint64_t deleted;
		int rc = item->rc;

		/* As after every put that failed, the older value must not stay. */
		terrace__delete_many(cache, &item->key, 1, &deleted);
		item->rc = rc;
	} else if (item->kind == WRITE_PUT || item->lease) {
		item->rc = store(cache, item, item->lease);
	} else {
		do {
			item->rc = add_once(cache, item);
		} while (item->rc == TERRACE_MISS && ++tries < TRIES);
		if (item->rc == TERRACE_MISS)
			item->rc = TERRACE_EBUSY;
	}
	if (item->rc == TERRACE_ETOOBIG)
		count_add(&cache->counts, COUNT_rejected, 1);
	/* Only who goes on with the object is given it. */
	if (item->decoded && item->shape != SHAPE_DECODED) {
		entry_unref(item->decoded);
		item->decoded = NULL;
	}
}

void terrace__immediate_add_beside(struct terrace_cache *cache, struct put_item *item,
                                   void (*add)(struct terrace_cache *cache, struct put_item *item))
{
	struct write_lease lease;
	int tries = 0;

	do {
		struct entry *entry;

		lease = terrace__lease_take(cache, item->key);
		item->lease = &lease;
		entry = terrace__immediate_find(cache, &item->hashed);
		entry_unref(entry);
		item->rc = TERRACE_EXISTS;
		if (!entry)
			add(cache, item);
	} while (item->rc == TERRACE_MISS && ++tries < TRIES);
	item->lease = NULL;
	if (item->rc == TERRACE_MISS)
		item->rc = TERRACE_EBUSY;
}

/* --- numbers ----------------------------------------------------------------------------------- */

/* What there is to count up from; the caller drops it. */
static struct entry *number_now(struct terrace_cache *cache, const struct tier_key *key)
{
	struct entry *entry = terrace__immediate_find(cache, key);
	unsigned tier;

	if (!entry && terrace__look_again(cache, key->key, &entry, &tier) != TERRACE_OK)
		return NULL;
	return entry;
}

int terrace__immediate_incr(struct terrace_cache *cache, struct write *write)
{
	const struct tier_key key = write->put.key;
	struct entry *old = terrace__immediate_find(cache, &key);
	bool ours = old || terrace__is_immediate(cache, TERRACE_STRATEGY_DEFAULT);
	int rc = TERRACE_MISS;

	entry_unref(old);
	if (!ours || terrace__transaction_mine(cache->store))
		return TERRACE_MISS;
	write->in_memory = true;
	for (int tries = 0; rc == TERRACE_MISS && tries < TRIES; tries++) {
		struct write_lease lease = terrace__lease_take(cache, key.key);
		struct put_item item = { .key = key.key, .hashed = key };

		terrace__write_done(write);
		old = number_now(cache, &key);
		rc = terrace__number_write(write, old);
		entry_unref(old);
		item.entry = write->put.entry;
		if (rc == TERRACE_OK)
			rc = store(cache, &item, &lease);
	}
	return rc == TERRACE_MISS ? TERRACE_EBUSY : rc;
}
