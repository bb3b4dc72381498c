#include "core/coherence.h"

#include "util/hash.h"
#include "util/util.h"

#include <time.h>

/* Beyond whatever may have been drawn since the last number that is known. */
#define FAR_BEYOND (UINT64_C(1) << 24)

/*
 * A number above all that the slot may have had: the upper half of numbers is
 * for such, and the later is the greater for a year.
 */
static uint64_t fresh_number(void)
{
	const uint64_t half = (WORD_MASK + 1) / VERSION_STEP / 2;
	struct timespec now;
	uint64_t ns;

	clock_gettime(CLOCK_BOOTTIME, &now);
	ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	return half + (ns >> 14) % half;
}

/* --- numbers that are drawn -------------------------------------------------------- */

/* The last number drawn is damaged: go on where none can have been. */
static uint64_t known_seq(const struct shared *shared)
{
	uint64_t known = atomic_load(&shared->committed), most = 0;

	if (word_holds(shared, PLACE_COMMITTED, known))
		most = word_value(known);
	for (uint32_t i = 0; i < CACHES_MAX; i++) {
		uint64_t floor = atomic_load(&shared->caches[i].floor);

		if (word_holds(shared, PLACE_FLOORS + i, floor))
			most = max_u64(most, word_value(floor));
	}
	return most + FAR_BEYOND;
}

uint64_t terrace__draw(struct shared *shared)
{
	uint64_t old = atomic_load(&shared->seq), value;

	do {
		value = LIKELY(word_holds(shared, PLACE_SEQ, old)) ? word_value(old) :
		                                                     known_seq(shared);
		value++;
	} while (
	    !atomic_compare_exchange_weak(&shared->seq, &old, word_make(shared, PLACE_SEQ, value)));
	return value;
}

void terrace__commits_count(struct shared *shared)
{
	uint64_t commits = atomic_load(&shared->commits);

	commits = LIKELY(word_holds(shared, PLACE_COMMITS, commits)) ? word_value(commits) + 1 :
	                                                               fresh_number();
	atomic_store(&shared->commits, word_make(shared, PLACE_COMMITS, commits));
}

void terrace__unsynced_set(struct shared *shared, bool unsynced)
{
	atomic_store(&shared->unsynced, word_make(shared, PLACE_UNSYNCED, unsynced));
}

void terrace__loose_set(struct shared *shared, bool loose)
{
	atomic_store(&shared->loose, word_make(shared, PLACE_LOOSE, loose));
}

/* --- versions ------------------------------------------------------------------------ */

/* Damaged: both marks, because either may have been on. See shared->hurt. */
static uint64_t mended(struct shared *shared, uint32_t slot)
{
	uint64_t marks = slot < VERSIONS ? VERSION_WRITING | VERSION_BEHIND : 0;

	atomic_store(&shared->hurt, 1);
	return fresh_number() * VERSION_STEP | marks;
}

uint64_t terrace__version_mend(struct shared *shared, uint32_t slot, uint64_t version)
{
	while (!word_holds(shared, slot, version)) {
		uint64_t new = word_make(shared, slot, mended(shared, slot));

		if (atomic_compare_exchange_strong(&shared->versions[slot], &version, new))
			return new;
	}
	return version;
}

uint64_t terrace__version_mark(struct shared *shared, uint32_t slot, bool always)
{
	uint64_t old = version_load(shared, slot), new;

	/* No copy can carry the next number, even if the write fails. */
	do {
		old = version_look(shared, slot, old);
		if (version_is_behind(old) && !always)
			return 0;
		new = word_make(shared, slot, (word_value(old) + VERSION_STEP) | VERSION_WRITING);
	} while (!atomic_compare_exchange_weak(&shared->versions[slot], &old, new));
	return new;
}

/* Take marks off; what the version was. */
static uint64_t unmark(struct shared *shared, uint32_t slot, uint64_t marks)
{
	uint64_t old = version_load(shared, slot), new;

	do {
		old = version_look(shared, slot, old);
		new = word_make(shared, slot, word_value(old) & ~marks);
	} while (!atomic_compare_exchange_weak(&shared->versions[slot], &old, new));
	return old;
}

bool terrace__version_clear(struct shared *shared, uint32_t slot, uint64_t number, uint64_t *ret)
{
	uint64_t old = unmark(shared, slot, VERSION_WRITING);

	*ret = version_number(old) == number ?
	           word_make(shared, slot, word_value(old) & ~VERSION_WRITING) :
	           0;
	return version_is_writing(old);
}

uint64_t terrace__version_move(struct shared *shared, uint32_t slot)
{
	uint64_t old = version_load(shared, slot), new;

	do {
		old = version_look(shared, slot, old);
		new = word_make(shared, slot, word_value(old) + VERSION_STEP);
	} while (!atomic_compare_exchange_weak(&shared->versions[slot], &old, new));
	return new;
}

/* --- caches ---------------------------------------------------------------------------- */

static uint32_t number_of(const struct shared *shared, const struct shared_cache *cache)
{
	return (uint32_t)(cache - shared->caches);
}

uint64_t terrace__epoch_move(struct shared *shared, struct shared_cache *cache, uint64_t *ret_old)
{
	uint64_t epoch = word_make(shared, PLACE_EPOCHS + number_of(shared, cache),
	                           terrace__draw(shared)),
		 old = atomic_exchange(&cache->epoch, epoch);

	atomic_store(&cache->bulk, epoch);
	if (ret_old)
		*ret_old = old;
	return epoch;
}

void terrace__bulk_move(struct shared *shared, struct shared_cache *cache)
{
	atomic_store(&cache->bulk, terrace__draw(shared));
}

uint64_t terrace__floor(const struct shared *shared, const struct shared_cache *cache)
{
	uint64_t floor = atomic_load(&cache->floor);

	if (LIKELY(word_holds(shared, PLACE_FLOORS + number_of(shared, cache), floor)))
		return word_value(floor);
	return UINT64_MAX;
}

void terrace__floor_set(struct shared *shared, struct shared_cache *cache, uint64_t floor)
{
	uint32_t place = PLACE_FLOORS + number_of(shared, cache);

	atomic_store(&cache->floor, word_make(shared, place, floor));
}

void terrace__immutable_set(struct shared *shared, struct shared_cache *cache, bool immutable)
{
	uint32_t place = PLACE_IMMUTABLE + number_of(shared, cache);

	atomic_store(&cache->immutable, word_make(shared, place, immutable));
}

static uint64_t name_check(const struct shared *shared, uint32_t number, const char *name)
{
	uint64_t check = terrace__hash64(name, strnlen(name, TERRACE_NAME_MAX + 1),
	                                 shared->head.salt + number);

	return check ? check : 1;
}

bool terrace__cache_is_named(const struct shared *shared, uint32_t number)
{
	const struct shared_cache *cache = &shared->caches[number];
	uint64_t named = atomic_load_explicit(&cache->named, memory_order_acquire);

	return named && named == name_check(shared, number, cache->name);
}

void terrace__cache_name(struct shared *shared, uint32_t number, const char *name)
{
	struct shared_cache *cache = &shared->caches[number];

	atomic_store(&cache->named, 0);
	memset(cache->name, 0, sizeof cache->name);
	memcpy(cache->name, name, strlen(name));
	atomic_store_explicit(&cache->named, name_check(shared, number, name),
	                      memory_order_release);
}

/* --- marks of lanes ------------------------------------------------------------------------ */

static uint32_t index_of(const struct shared *shared, const struct shared_mark *mark)
{
	size_t lane = (size_t)((const char *)mark - (const char *)shared->lanes) /
	              sizeof shared->lanes[0];

	return (uint32_t)lane * MARKS + (uint32_t)(mark - shared->lanes[lane].marks);
}

bool terrace__mark_where(const struct shared *shared, const struct shared_mark *mark,
                         uint32_t *ret_slot, uint32_t *ret_cache)
{
	uint64_t where = atomic_load(&mark->where);

	*ret_slot = (uint32_t)word_value(where) & (VERSIONS - 1);
	*ret_cache = (uint32_t)(word_value(where) / VERSIONS) % CACHES_MAX;
	return word_holds(shared, PLACE_MARKS + index_of(shared, mark), where);
}

void terrace__mark_set(struct shared *shared, struct shared_mark *mark, uint32_t slot,
                       uint32_t cache)
{
	uint64_t where = (uint64_t)cache * VERSIONS + slot;

	atomic_store_explicit(&mark->where,
	                      word_make(shared, PLACE_MARKS + index_of(shared, mark), where),
	                      memory_order_release);
}

bool terrace__mark_seq(const struct shared *shared, const struct shared_mark *mark,
                       uint64_t *ret_seq)
{
	uint64_t seq = atomic_load(&mark->seq);

	*ret_seq = word_value(seq);
	return seq == 0 || word_holds(shared, PLACE_MARK_SEQS + index_of(shared, mark), seq);
}

void terrace__mark_seq_set(struct shared *shared, struct shared_mark *mark, uint64_t seq)
{
	uint32_t place = PLACE_MARK_SEQS + index_of(shared, mark);

	atomic_store_explicit(&mark->seq, word_make(shared, place, seq), memory_order_release);
}

/* --- repair -------------------------------------------------------------------------------- */

static void repair_versions(struct shared *shared)
{
	for (uint32_t slot = 0; slot < VERSIONS + MEMORY_VERSIONS; slot++) {
		uint64_t version = atomic_load_explicit(&shared->versions[slot],
		                                        memory_order_relaxed);

		/* What was damaged keeps the other mark, until it is found in no lane. */
		if (UNLIKELY(!word_holds(shared, slot, version)) ||
		    (version_is_writing(version) && slot < VERSIONS))
			unmark(shared, slot, slot < VERSIONS ? VERSION_WRITING : 0);
	}
}

static void repair_caches(struct shared *shared)
{
	for (uint32_t i = 0; i < CACHES_MAX; i++) {
		struct shared_cache *cache = &shared->caches[i];

		if (!word_holds(shared, PLACE_EPOCHS + i, atomic_load(&cache->epoch)))
			terrace__epoch_move(shared, cache, NULL);
		/* It may have been higher: what was cleared must not come back. */
		if (terrace__floor(shared, cache) == UINT64_MAX)
			terrace__floor_set(shared, cache, terrace__draw(shared));
	}
}

void terrace__shared_repair(struct shared *shared)
{
	/* Before the look: who finds damage from now on asks for another one. */
	atomic_store(&shared->hurt, 0);
	repair_versions(shared);
	repair_caches(shared);
	atomic_store(&shared->hurt, 0);
	/* It may have committed: readers must not go on with an older snapshot. */
	terrace__commits_count(shared);
	atomic_store(&shared->writing, 0);
}
