#include "core/idle.h"

/*
 * Hits are folded by key and dropped when there is no more room: losing some
 * only makes eviction a little less well informed.
 */
void terrace__access_note(struct terrace *store, uint64_t hash, uint64_t count, int64_t when)
{
	struct accesses *accesses = &store->accesses;
	uint64_t at = hash % ACCESSES;

	pthread_mutex_lock(&accesses->lock);
	for (int tries = 0; tries < 8; tries++) {
		struct access *access = &accesses->items[(at + (uint64_t)tries) % ACCESSES];

		if (access->count && access->hash != hash)
			continue;
		accesses->count += access->count == 0;
		access->hash = hash;
		access->count += count;
		access->when = when;
		break;
	}
	pthread_mutex_unlock(&accesses->lock);
}

bool terrace__access_pending(struct terrace *store)
{
	bool pending;

	pthread_mutex_lock(&store->accesses.lock);
	pending = store->accesses.count > 0;
	pthread_mutex_unlock(&store->accesses.lock);
	return pending || terrace__idle_pending(store);
}

int terrace__access_flush(struct terrace *store, unsigned most)
{
	struct accesses *accesses = &store->accesses;
	int rc = TERRACE_OK;

	if (!terrace__access_pending(store))
		return TERRACE_OK;
	rc = terrace__idle_flush(store, most);
	for (unsigned i = 0; i < ACCESSES && most > 0 && rc == TERRACE_OK; i++) {
		struct access access;

		pthread_mutex_lock(&accesses->lock);
		access = accesses->items[i];
		if (access.count) {
			accesses->items[i].count = 0;
			accesses->count--;
		}
		pthread_mutex_unlock(&accesses->lock);
		if (!access.count)
			continue;
		most--;
		rc = store->disk_ops->accessed(store->disk, access.hash, access.count, access.when);
	}
	return rc;
}
