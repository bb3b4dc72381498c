#include "core/caches.h"

#include <stdio.h>
#include <string.h>

enum { NOTE_LIFE_MS = 24 * 3600 * 1000 };

void terrace__note_put(struct terrace *store, uint64_t hash, terrace_reason reason, int64_t when,
                       const char *detail)
{
	struct notes *notes = &store->notes;
	struct note *note;

	pthread_mutex_lock(&notes->lock);
	note = &notes->items[notes->next++ % NOTES];
	note->hash = hash;
	note->reason = reason;
	note->when = when;
	memccpy(note->detail, detail ? detail : "", '\0', sizeof note->detail - 1);
	note->detail[sizeof note->detail - 1] = '\0';
	pthread_mutex_unlock(&notes->lock);
}

static bool note_find(struct terrace *store, uint64_t hash, terrace_why *ret)
{
	struct notes *notes = &store->notes;
	bool found = false;

	pthread_mutex_lock(&notes->lock);
	for (uint64_t back = 1; back <= NOTES && back <= notes->next && !found; back++) {
		const struct note *note = &notes->items[(notes->next - back) % NOTES];

		if (note->hash != hash)
			continue;
		ret->reason = note->reason;
		ret->when_ms = note->when;
		snprintf(ret->detail, sizeof ret->detail, "%s", note->detail);
		found = true;
	}
	pthread_mutex_unlock(&notes->lock);
	return found;
}

/* What memory alone held and evicted says so itself, unless something came after that. */
static bool note_in_memory(struct terrace_cache *cache, uint64_t hash, bool other, terrace_why *ret)
{
	int64_t when;

	if (!cache->memory || !terrace__tiers_memory_gone(cache->memory, hash, &when) ||
	    (other && ret->when_ms >= when))
		return false;
	ret->reason = TERRACE_REASON_EVICTED;
	ret->when_ms = when;
	snprintf(ret->detail, sizeof ret->detail, "to keep memory within its limit");
	return true;
}

static bool note_on_disk(struct terrace *store, uint64_t hash, terrace_why *ret)
{
	struct tier_note note;

	if (!store->disk || store->disk_ops->note_get(store->disk, hash, &note, ret->detail,
	                                              sizeof ret->detail) != TERRACE_OK)
		return false;
	ret->reason = note.reason;
	ret->when_ms = note.when;
	return true;
}

bool terrace__note_get(struct terrace_cache *cache, terrace_slice key, terrace_why *ret)
{
	const struct tier_key hashed = cache_key(cache, key);
	struct terrace *store = cache->store;
	terrace_why why = *ret;
	bool found = note_find(store, hashed.hash, &why);

	found = note_in_memory(cache, hashed.hash, found, &why) || found;
	found = note_on_disk(store, terrace__row_hash(&hashed), &why) || found ||
	        (cache->on_disk && note_on_disk(store, NOTE_ON_ALL, &why));
	if (!found || terrace__now(store) - why.when_ms > NOTE_LIFE_MS)
		return false;
	*ret = why;
	return true;
}
