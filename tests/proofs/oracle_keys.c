/* Which keys the oracle uses: many of them share a slot, where they meet most of what may go wrong. */
#include "proofs/oracle.h"

#include "core/store.h"

static void write_key(uint32_t group, uint32_t number, char ret[8])
{
	snprintf(ret, 8, "%c:%05u", "abcd"[group], number % CANDIDATES);
}

static uint32_t slot_of(const terrace_cache *cache, uint32_t group, uint32_t number)
{
	char text[8];

	write_key(group, number, text);
	return cache_key(cache, terrace_str(text)).slot;
}

static void name_key(uint32_t cache, uint32_t key, uint32_t number)
{
	write_key(key % GROUPS, number, log_->key_texts[cache][key]);
	log_->known[cache][key % GROUPS][number] = 1;
}

bool slots_are_few(void)
{
	return (int)VERSIONS < (int)KEYS;
}

/* The last number of a group whose key falls on a slot. */
struct on_slot {
	uint32_t a, b;
};

/* What the two on a slot are from now on; which key is the next to be such. */
static uint32_t name_neighbours(uint32_t cache, struct on_slot *on, uint32_t slot, uint32_t key)
{
	name_key(cache, key, on[slot].a);
	name_key(cache, key + 1, on[slot].b);
	on[slot].b = 0;
	return key + 8;
}

/*
 * Of each eight keys three share a slot, two another, and three have their own: neighbours void
 * each other's copies, and wait beside each other, as so few keys would hardly ever.
 */
static void name_keys(uint32_t cache, const terrace_cache *handle, struct on_slot *on)
{
	uint32_t triple = 0, pair = 4;

	if (slots_are_few()) { /* neighbours enough */
		for (uint32_t key = 0; key < KEYS; key++)
			name_key(cache, key, key);
		return;
	}
	memset(on, 0, (VERSIONS + MEMORY_VERSIONS) * sizeof *on);
	for (uint32_t key = 0; key < KEYS; key++) {
		if (key % 8 == 3 || key % 8 > 5)
			name_key(cache, key, key);
	}
	for (uint32_t n = KEYS; n < CANDIDATES; n++)
		on[slot_of(handle, 0, n)].a = n;
	for (uint32_t n = KEYS, slot; n < CANDIDATES; n++) {
		slot = slot_of(handle, 1, n);
		on[slot].b = on[slot].a ? n : 0;
	}
	for (uint32_t n = KEYS, slot; n < CANDIDATES && triple < KEYS; n++) {
		slot = slot_of(handle, 2, n);
		if (!on[slot].b)
			continue;
		name_key(cache, triple + 2, n);
		triple = name_neighbours(cache, on, slot, triple);
	}
	for (uint32_t slot = 0; slot < VERSIONS + MEMORY_VERSIONS && pair < KEYS; slot++) {
		if (on[slot].b)
			pair = name_neighbours(cache, on, slot, pair);
	}
	if (triple < KEYS || pair < KEYS)
		fail("%s: too few keys on one slot were found", kinds[cache].name);
}

void make_keys(terrace_cache *const *caches)
{
	struct on_slot *on = calloc(VERSIONS + MEMORY_VERSIONS, sizeof *on);

	for (uint32_t cache = 0; on && cache < KINDS; cache++)
		name_keys(cache, caches[cache], on);
	free(on);
}

terrace_slice key_text(uint32_t cache, uint32_t key)
{
	return terrace_bytes(log_->key_texts[cache][key], 7);
}

bool is_key(uint32_t cache, terrace_slice text)
{
	const char *digits = text.data;
	uint32_t number = 0, group;

	if (text.size != 7)
		return false;
	group = (uint32_t)(digits[0] - 'a');
	for (int i = 2; i < 7; i++)
		number = number * 10 + (uint32_t)(digits[i] - '0');
	return group < GROUPS && number < CANDIDATES && log_->known[cache][group][number];
}
