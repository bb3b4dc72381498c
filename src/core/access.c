#include "core/store.h"
#include "util/util.h"

enum {
	TRIES = 8,                     /* places in which a hash may stand */
	SAMPLE_FROM = ACCESSES / 2,    /* places taken from which on one hit in so many counts, */
	SAMPLE = 16,                   /* for as many */
	WRITE_FROM = ACCESSES / 4 * 3, /* from which on transactions write some down */
};

/* Few write down the hits of many: each is a page of the database that changes. */
static bool is_sampled(const struct shared *shared, uint64_t *count)
{
	static _Thread_local uint32_t random;

	if (atomic_load_explicit(&shared->access_count, memory_order_relaxed) < SAMPLE_FROM)
		return true;
	random = random * 1664525 + 1013904223; /* Numerical Recipes, 7.1: quick and dirty */
	*count *= SAMPLE;
	return (random >> 16) % SAMPLE == 0;
}

/*
 * Hits are gathered by key, and dropped when there is no more room: losing some
 * only makes eviction a little less well informed. Nothing here is locked: two
 * that come to a place at once may count a hit for the other's key, or with the
 * other's time.
 */
void terrace__access_note(struct terrace *store, uint64_t hash, uint64_t count, int64_t when)
{
	struct shared *shared = store->shared;

	if (store->read_only || !is_sampled(shared, &count))
		return;
	for (uint64_t i = 0; i < TRIES; i++) {
		struct shared_access *access = &shared->accesses[(hash + i) % ACCESSES];
		uint64_t there = atomic_load_explicit(&access->hash, memory_order_relaxed);

		if (there != hash) {
			if (atomic_load_explicit(&access->count, memory_order_relaxed) ||
			    !atomic_compare_exchange_strong(&access->hash, &there, hash))
				continue;
		}
		if (atomic_fetch_add_explicit(&access->count, count, memory_order_relaxed) == 0)
			atomic_fetch_add_explicit(&shared->access_count, 1, memory_order_relaxed);
		atomic_store_explicit(&access->when, when, memory_order_relaxed);
		break;
	}
}

bool terrace__access_crowded(const struct terrace *store)
{
	return atomic_load_explicit(&store->shared->access_count, memory_order_relaxed) >
	       WRITE_FROM;
}

void terrace__access_find(const struct terrace *store, uint64_t hash, uint64_t *ret_count,
                          int64_t *ret_when)
{
	*ret_count = 0;
	for (uint64_t i = 0; i < TRIES; i++) {
		const struct shared_access *access =
		    &store->shared->accesses[(hash + i) % ACCESSES];

		if (atomic_load(&access->hash) != hash)
			continue;
		*ret_count += atomic_load(&access->count);
		*ret_when = atomic_load(&access->when);
	}
}

/* *ret_count goes up by what is written down of a place. */
static int write_one(struct terrace *store, struct shared_access *access, unsigned *ret_count)
{
	struct shared *shared = store->shared;
	uint64_t hash = atomic_load(&access->hash), count;
	int64_t when = atomic_load(&access->when), now;

	if (atomic_load_explicit(&access->count, memory_order_relaxed) == 0)
		return TERRACE_OK;
	count = atomic_exchange(&access->count, 0);
	if (count == 0)
		return TERRACE_OK;
	atomic_fetch_sub_explicit(&shared->access_count, 1, memory_order_relaxed);
	++*ret_count;
	now = terrace__now(store);
	return store->disk_ops->accessed(store->disk, hash, count, when < now ? when : now);
}

int terrace__access_flush(struct terrace *store, unsigned most)
{
	struct shared *shared = store->shared;
	unsigned count = 0;
	int rc = TERRACE_OK;

	for (unsigned i = 0; i < ACCESSES && count < most && rc == TERRACE_OK; i++)
		rc = write_one(store, &shared->accesses[shared->access_turn++ % ACCESSES], &count);
	return rc;
}

int terrace__access_flush_of(struct terrace *store, uint64_t hash, unsigned *ret_count)
{
	struct shared *shared = store->shared;
	int rc = TERRACE_OK;

	*ret_count = 0;
	for (uint64_t i = 0; i < TRIES && rc == TERRACE_OK; i++) {
		struct shared_access *access = &shared->accesses[(hash + i) % ACCESSES];

		if (atomic_load(&access->hash) == hash)
			rc = write_one(store, access, ret_count);
	}
	return rc;
}
