/*
 * Eviction by value: what an entry's next hit is worth for the room it takes, in
 * requests (`hits`), in time (`cost`) or in bytes (`bytes`).
 * GreedyDual-Size-Frequency (Cherkasova, "Improving WWW proxies performance
 * with GreedyDual-Size-Frequency caching policy", 1998) on FIFO queues, one for
 * each half octave of value, so that a hit moves nothing: an entry that was hit
 * is counted and ranked anew when it reaches its queue's end, as in CLOCK.
 *
 *     rank = level + value        level: the rank of what was last evicted
 *
 * A new entry passes through a window of 1 % of the room. At its end it
 * must be worth more than the lowest ranked entry to take that one's place; a
 * tie is for who is there. So neither a scan nor a loop that is larger than the
 * cache pushes out what is used. What leaves is remembered for a while with
 * its count, and comes back with it; the memory fades by half while three times as
 * many entries are evicted as there are.
 *
 * Two numbers differ so much from one program to the next that they are learned
 * as it runs (evict_trials.h): how much of what it was worth when it was ranked
 * the lowest entry still has against a new one, from none, as in LRU, to all of
 * it, as in TinyLFU (Einziger et al., 2017); and by which power of its frequency
 * an entry is valued.
 *
 * docs/PERFORMANCE.md has what the parameters were chosen on.
 */
#include "tiers/memory/evict.h"

#include "tiers/memory/evict_trials.h"
#include "util/util.h"

#include <stdlib.h>

enum {
	WINDOW = 0,         /* the queue of new entries; the others are ranks */
	CLASSES = 160,      /* half octaves of value, from 2^-36 to 2^44 */
	CLASS_OF_ONE = 72,  /* the class of the value 1 */
	WINDOW_PART = 100,  /* of all */
	WINDOW_LEAST = 2,   /* entries that it holds anyway */
	FREQUENCY_MAX = 15, /* four bits in a ghost */
	TRIES = 32,         /* entries looked at for one victim, at most */
	GHOST_WAYS = 4,     /* slots that a ghost may be in */
	GHOST_TICKS = 8, /* of the ghosts' clock, while as many are evicted as there are entries */
	GHOST_HALF = 24, /* ticks in which their frequency halves */
};

#define TIE    1.1   /* by so much a new entry must be worth more */
#define AGEING 0.002 /* what the others lose while as many new ones as there are are turned away */
#define CLOSE  0.25  /* ranks of two that are about to go are no further apart, in their value */

/* What a policy counts: the power of frequency it begins with, of size in tenths, and cost. */
struct aim {
	double power;
	uint8_t size;
	bool cost;
};

/*
 * As many requests for the room as size allows, or as many bytes. Small entries are
 * wanted a little more often than large ones: that is the two tenths.
 */
static const struct aim for_hits = { 1.5, 12, false }, for_cost = { 1, 12, true },
			for_bytes = { 2.25, 2, false };

/* A key that was here: 16 bits of its hash, when it left, and its frequency; 0: nobody. */
struct ghost {
	uint16_t tag;
	uint8_t left;
	uint8_t frequency;
};

struct value_state {
	/* What a put into a full cache writes lies together. */
	struct evict_setting setting;
	bool full;    /* something was evicted already */
	uint8_t last; /* the queue that was found the lowest, the last time */
	uint8_t ghost_clock;
	const struct aim *aim;
	uint64_t entries, bytes;
	uint64_t window_entries, window_bytes; /* of them, in the window */
	double level;
	struct ghost *ghosts;
	uint64_t used[(CLASSES + 63) / 64]; /* a bit for each queue that is not empty */
	uint32_t ghost_mask;
	uint32_t ghost_fill; /* evictions since it ticked */
	struct evict_queue queues[CLASSES];
	struct trials trials;
};

/* --- ghosts ----------------------------------------------------------------- */

/* Twice as many slots as entries; it never shrinks. */
static void ghosts_fit(struct value_state *s)
{
	uint32_t count = s->ghosts ? s->ghost_mask + 1 : 0;
	uint32_t wanted = count ? count * 2 : 64;
	struct ghost *grown;

	if (2 * s->entries <= count || count >= 1u << 30)
		return;
	while (wanted < 2 * s->entries)
		wanted *= 2;
	grown = calloc(wanted, sizeof *grown);
	if (!grown)
		return; /* fewer ghosts will do */
	/* A ghost may be looked for in several places now; its tag says whose it is. */
	for (uint32_t i = 0; i < wanted && count; i++)
		grown[i] = s->ghosts[i & s->ghost_mask];
	free(s->ghosts);
	s->ghosts = grown;
	s->ghost_mask = wanted - 1;
}

static unsigned ghost_age(const struct value_state *s, const struct ghost *ghost)
{
	return (uint8_t)(s->ghost_clock - ghost->left);
}

static struct ghost *ghost_ways(const struct value_state *s, uint64_t hash)
{
	return &s->ghosts[hash >> 16 & s->ghost_mask & ~(uint64_t)(GHOST_WAYS - 1)];
}

/* NULL when it has none. */
static struct ghost *ghost_of(const struct value_state *s, const struct entry *entry)
{
	struct ghost *ways = ghost_ways(s, entry->hash);

	for (unsigned i = 0; i < GHOST_WAYS; i++) {
		if (ways[i].tag == (uint16_t)entry->hash && ways[i].frequency)
			return &ways[i];
	}
	return NULL;
}

static void ghost_add(struct value_state *s, const struct entry *entry)
{
	ghosts_fit(s);
	if (++s->ghost_fill * GHOST_TICKS >= s->entries) {
		s->ghost_fill = 0;
		s->ghost_clock++;
	}
	/* In whichever slot is next, so that none has to be waited for; it was taken from all. */
	if (s->ghosts)
		ghost_ways(s, entry->hash)[s->ghost_fill % GHOST_WAYS] =
		    (struct ghost){ .tag = (uint16_t)entry->hash,
			            .left = s->ghost_clock,
			            .frequency = entry->frequency };
}

/* What is still known of the entry's past, and no longer needed. */
static unsigned ghost_take(struct value_state *s, const struct entry *entry)
{
	struct ghost *ghost;
	unsigned frequency;

	ghost = s->ghosts ? ghost_of(s, entry) : NULL;
	if (!ghost)
		return 0;
	if (ghost->frequency & TRIAL_GONE)
		terrace__trial_back(&s->trials, entry);
	frequency = (ghost->frequency & ~(unsigned)TRIAL_MARKS) >> ghost_age(s, ghost) / GHOST_HALF;
	*ghost = (struct ghost){ 0 };
	return frequency;
}

/* --- value and rank ----------------------------------------------------------- */

/* What it costs when it is not there: to make, or where a tier has it, to fetch, in ns. */
static uint64_t cost_of(const struct value_state *s, const struct entry *entry)
{
	if (!s->setting.backed)
		return entry_rest(entry)->cost_us + 1;
	if (entry->kind == ENTRY_OBJECT)
		return 4000 + entry_object(entry)->weight;
	return 2000 + entry->value_size / 4;
}

static unsigned frequency_of(const struct entry *entry)
{
	return entry->frequency & ~(unsigned)TRIAL_MARKS;
}

static void count_hits(struct entry *entry, unsigned hits)
{
	if (hits > 0 && frequency_of(entry) < FREQUENCY_MAX)
		entry->frequency++;
}

/* The class of a value, if the entry was wanted that often. */
static uint8_t class_at(const struct value_state *s, const struct entry *entry, unsigned frequency)
{
	int value = (int)(log2_16(frequency) * s->trials.learned[TRIAL_POWER]);

	if (s->aim->cost)
		value += log2_16(cost_of(s, entry));
	if (!s->setting.by_count)
		value -= log2_16(entry_charge(entry)) * s->aim->size / 10;
	value = (value >> 3) + CLASS_OF_ONE;
	return (uint8_t)(value < 1 ? 1 : value >= CLASSES ? CLASSES - 1 : value);
}

static uint8_t class_of(const struct value_state *s, const struct entry *entry)
{
	return class_at(s, entry, frequency_of(entry));
}

static double value_of_class(unsigned class)
{
	uint64_t bits = (uint64_t)(1023 + (int)class / 2 - CLASS_OF_ONE / 2) << 52;
	double value;

	memcpy(&value, &bits, sizeof value);
	return class % 2 ? value * 1.4142135623730951 : value;
}

/* Unsigned arithmetic wraps, which is what subtracting is. */
static void window_count(struct value_state *s, uint64_t entries, uint64_t bytes)
{
	s->window_entries += entries;
	s->window_bytes += bytes;
}

static void enqueue(struct value_state *s, struct entry *entry, uint8_t class)
{
	struct evict_queue *queue = &s->queues[class];

	entry->queue = class;
	if (class == WINDOW)
		window_count(s, 1, entry_charge(entry));
	if (!queue->oldest) {
		s->queues[class].first = entry->rank;
		s->used[class / 64] |= UINT64_C(1) << class % 64;
	}
	queue_add(queue, entry);
}

/* The one after the queue's oldest comes up soon. */
static void look_ahead(const struct entry *oldest)
{
	const char *next = (const char *)oldest->prev;

	if (!next)
		return;
	__builtin_prefetch(next);
	__builtin_prefetch(next + 64);
}

static void dequeue(struct value_state *s, struct entry *entry)
{
	unsigned class = entry->queue;
	struct evict_queue *queue = &s->queues[class];
	bool first = queue->oldest == entry;

	queue_remove(queue, entry);
	if (class == WINDOW)
		window_count(s, -UINT64_C(1), -entry_charge(entry));
	if (!queue->oldest) {
		s->used[class / 64] &= ~(UINT64_C(1) << class % 64);
	} else if (first) {
		s->queues[class].first = queue->oldest->rank;
		look_ahead(queue->oldest);
	}
}

static void settle(struct value_state *s, struct entry *entry, uint8_t class)
{
	entry->rank = s->level + value_of_class(class);
	enqueue(s, entry, class);
}

/* --- the policy ------------------------------------------------------------------ */

/* The window holds more than its part, or than `times` that. */
static bool window_is_over(const struct value_state *s, unsigned times)
{
	if (s->window_entries <= WINDOW_LEAST * times)
		return false;
	return s->setting.by_count ? s->window_entries * WINDOW_PART > s->entries * times :
	                             s->window_bytes * WINDOW_PART > s->bytes * times;
}

static void value_ahead(const void *state)
{
	const struct value_state *s = state;

	prefetch_to_write(s);
	prefetch_to_write(&s->queues[WINDOW]);
	prefetch_to_write(&s->trials);
}

/* The two that may have to fight for it were asked for when they came to their queues' ends. */
static void value_soon(const void *state, uint64_t hash, const struct entry *ret[EVICT_MAY_GO])
{
	const struct value_state *s = state;

	ret[0] = s->full ? s->queues[WINDOW].oldest : NULL;
	ret[1] = s->full ? s->queues[s->last].oldest : NULL;
	if (!s->ghosts)
		return;
	__builtin_prefetch(ghost_ways(s, hash));
	for (unsigned i = 0; i < EVICT_MAY_GO; i++) {
		if (ret[i])
			__builtin_prefetch(ghost_ways(s, ret[i]->hash));
	}
}

static void value_added(void *state, struct entry *entry)
{
	struct value_state *s = state;

	entry->frequency = (uint8_t)min_u64(1 + ghost_take(s, entry), FREQUENCY_MAX);
	entry->seen = (uint8_t)entry_hits(entry);
	s->entries++;
	s->bytes += entry_charge(entry);
	entry->rank = 0;
	enqueue(s, entry, WINDOW);
	/* Where there is room nobody has to be beaten for it. */
	for (int i = 0; i < 2 && window_is_over(s, s->full ? 2 : 1); i++) {
		struct entry *oldest = s->queues[WINDOW].oldest;

		dequeue(s, oldest);
		count_hits(oldest, evict_new_hits(oldest));
		settle(s, oldest, class_of(s, oldest));
	}
}

static void leave(struct value_state *s, struct entry *entry)
{
	if (entry->frequency & TRIAL_KEPT)
		terrace__trial_left(&s->trials, entry);
	dequeue(s, entry);
	s->entries--;
	s->bytes -= entry_charge(entry);
}

static void value_removed(void *state, struct entry *entry)
{
	leave(state, entry);
}

static struct entry *evicted(struct value_state *s, struct entry *entry)
{
	leave(s, entry);
	ghost_add(s, entry);
	s->trials.turn++;
	return entry;
}

/* The queue but one whose oldest ranks lowest; WINDOW when all are empty. */
static unsigned lowest_class(const struct value_state *s, unsigned but)
{
	unsigned lowest = WINDOW;

	for (unsigned word = 0; word < ARRAY_LEN(s->used); word++) {
		uint64_t used = word == 0 ? s->used[0] & ~UINT64_C(1) : s->used[word];

		for (; used; used &= used - 1) {
			unsigned class = word * 64 + (unsigned)__builtin_ctzll(used);

			if (class != but &&
			    (lowest == WINDOW || s->queues[class].first < s->queues[lowest].first))
				lowest = class;
		}
	}
	return lowest;
}

/* The lowest ranked that was not hit since it was ranked; NULL when the queues are empty. */
static struct entry *lowest(struct value_state *s)
{
	for (unsigned tries = 0;; tries++) {
		unsigned class = lowest_class(s, WINDOW), hits;
		struct entry *entry = s->queues[class].oldest;

		if (class == WINDOW)
			return NULL;
		hits = tries >= TRIES ? 0 : evict_new_hits(entry);
		if (hits == 0) {
			s->last = (uint8_t) class;
			return entry;
		}
		count_hits(entry, hits);
		dequeue(s, entry);
		settle(s, entry, class_of(s, entry));
	}
}

/* What a hit of each of two is worth, for their room. */
static void try_it(struct value_state *s, enum trial_kind kind, struct entry *kept,
                   struct entry *gone, int way)
{
	const double worth[2] = { value_of_class(class_at(s, kept, 1)),
		                  value_of_class(class_at(s, gone, 1)) };

	terrace__trial_start(&s->trials, kind, kept, gone, worth, way);
}

/*
 * Where one that is wanted more often ranks no higher than another, because it was so
 * long ago, the power of frequency is right if the next hit is as likely to be of either.
 */
static void try_power(struct value_state *s, struct entry *gone)
{
	struct entry *kept;
	unsigned next;

	if (!trial_is_due(&s->trials, TRIAL_POWER, gone, s->entries))
		return;
	next = lowest_class(s, gone->queue);
	kept = s->queues[next].oldest;
	if (next == WINDOW || frequency_of(kept) == frequency_of(gone) ||
	    (uint8_t)entry_hits(kept) != kept->seen ||
	    kept->rank - gone->rank > CLOSE * value_of_class(kept->queue))
		return;
	try_it(s, TRIAL_POWER, kept, gone, frequency_of(kept) > frequency_of(gone) ? 1 : -1);
}

static struct entry *give_up(struct value_state *s, struct entry *entry)
{
	double rank = entry->rank;

	try_power(s, entry);
	if (rank > s->level)
		s->level = rank;
	return evicted(s, entry);
}

/* What a new one must be worth to take the place of one that ranks so low. */
static double price_of(const struct value_state *s, const struct entry *old)
{
	double left = old->rank - s->level, full = value_of_class(old->queue);
	double strict = s->trials.learned[TRIAL_STRICT], part = strict * strict;

	return strict < 0 ? left * (1 - part) : left + (full - left) * part;
}

/* The oldest of the window against the lowest of the others: who stays? */
static struct entry *duel(struct value_state *s, struct entry *old)
{
	struct entry *new = s->queues[WINDOW].oldest;
	double price = price_of(s, old), worth;
	uint8_t class;
	bool stays;

	count_hits(new, evict_new_hits(new));
	class = class_of(s, new);
	worth = value_of_class(class) / TIE;
	stays = worth <= price;
	/* The strictest would have kept the old one, the most lenient the new one. */
	if (worth <= value_of_class(old->queue) &&
	    trial_is_due(&s->trials, TRIAL_STRICT, stays ? new : old, s->entries))
		try_it(s, TRIAL_STRICT, stays ? old : new, stays ? new : old, stays ? 1 : -1);
	if (stays) {
		/* Who always wins ages too, only much slower. */
		s->level += price * AGEING / (double)s->entries;
		return evicted(s, new);
	}
	old = give_up(s, old);
	dequeue(s, new);
	settle(s, new, class);
	return old;
}

static struct entry *value_victim(void *state)
{
	struct value_state *s = state;
	struct entry *old = lowest(s);

	s->full = true;
	if (!old)
		return s->queues[WINDOW].oldest ? evicted(s, s->queues[WINDOW].oldest) : NULL;
	return window_is_over(s, 1) ? duel(s, old) : give_up(s, old);
}

static void value_done(void *state)
{
	struct value_state *s = state;

	free(s->ghosts);
}

static void start(struct value_state *s, const struct evict_setting *setting, const struct aim *aim)
{
	s->setting = *setting;
	s->aim = aim;
	s->trials.learned[TRIAL_POWER] = aim->power;
}

static void hits_start(void *state, const struct evict_setting *setting)
{
	start(state, setting, &for_hits);
}

static void cost_start(void *state, const struct evict_setting *setting)
{
	start(state, setting, &for_cost);
}

static void bytes_start(void *state, const struct evict_setting *setting)
{
	start(state, setting, &for_bytes);
}

#define BY_VALUE(its_name, its_start)                                                         \
	{                                                                                     \
		.name = (its_name), .size = sizeof(struct value_state), .start = (its_start), \
		.ahead = value_ahead, .soon = value_soon, .added = value_added,               \
		.removed = value_removed, .victim = value_victim, .done = value_done,         \
	}

const struct evict_ops terrace__evict_hits = BY_VALUE("hits", hits_start);
const struct evict_ops terrace__evict_cost = BY_VALUE("cost", cost_start);
const struct evict_ops terrace__evict_bytes = BY_VALUE("bytes", bytes_start);
