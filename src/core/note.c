#include "core/store.h"

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

bool terrace__note_get(struct terrace *store, uint64_t hash, terrace_why *ret)
{
	terrace_why why = *ret;
	struct tier_note note;
	bool found = note_find(store, hash, &why);

	if (store->disk && store->disk_ops->note_get(store->disk, hash, &note, why.detail,
	                                             sizeof why.detail) == TERRACE_OK) {
		why.reason = note.reason;
		why.when_ms = note.when;
		found = true;
	}
	if (!found || terrace__now(store) - why.when_ms > NOTE_LIFE_MS)
		return false;
	*ret = why;
	return true;
}
