/*
 * What an eviction policy cannot know it tries: of two entries either may go, one
 * does, and which of them is wanted first says whether that was right. What is
 * learned from it is a number for each kind of choice.
 *
 * After LeCaR (Vietri et al., "Driving cache replacement with ML-based LeCaR",
 * 2018), which regrets an eviction when the entry comes back. Here it is weighed
 * against the one that stayed for it.
 */
#ifndef MEMORY_EVICT_TRIALS_H
#define MEMORY_EVICT_TRIALS_H

#include "tiers/entry.h"

enum trial_kind { TRIAL_STRICT, TRIAL_POWER, TRIAL_KINDS };

enum {
	TRIALS = 64,      /* at a time, of each kind */
	TRIAL_EVERY = 4,  /* evictions, at most, and where there are many entries less often: */
	TRIAL_PART = 256, /* of them are evicted in between */
};

struct trial {
	struct entry *kept; /* NULL when it has left, too */
	uint64_t gone;      /* its hash; 0 where there is no trial */
	uint32_t hits;      /* of the one that stayed, when it began */
	uint32_t turn;      /* when it began, in evictions */
	float share;        /* of what a hit of either is worth, of the one that stayed */
	int8_t way;         /* where the number goes when it was right */
	bool back;          /* the one that went was wanted meanwhile */
};

struct trials {
	double learned[TRIAL_KINDS];
	uint32_t turn;
	struct trial of[TRIAL_KINDS][TRIALS];
};

/* Marks in the frequency of the two entries of a trial; a ghost takes them along. */
enum { TRIAL_KEPT = 0x80, TRIAL_GONE = 0x40, TRIAL_MARKS = TRIAL_KEPT | TRIAL_GONE };

/* Of bits of the hash that tell apart what is in a shard. */
static inline unsigned trial_place(const struct entry *gone)
{
	return gone->hash >> 40 & (TRIALS - 1);
}

/*
 * Is it time for a trial, and a place for one of this entry's going? It lasts while
 * `entries` others go. Most of the time nothing of the places is read.
 */
static inline bool trial_is_due(const struct trials *trials, enum trial_kind kind,
                                const struct entry *gone, uint64_t entries)
{
	const struct trial *trial = &trials->of[kind][trial_place(gone)];

	return trials->turn % (TRIAL_EVERY + (uint32_t)entries / TRIAL_PART) == 0 &&
	       (!trial->gone || (uint32_t)(trials->turn - trial->turn) >= entries);
}

/* Where it is due. `gone` goes after that; `worth`: of a hit of each, for its room. */
void terrace__trial_start(struct trials *trials, enum trial_kind kind, struct entry *kept,
                          struct entry *gone, const double worth[2], int way);
/* One that is marked as gone was wanted again. */
void terrace__trial_back(struct trials *trials, const struct entry *entry);
/* One that is marked as kept leaves. */
void terrace__trial_left(struct trials *trials, const struct entry *entry);

#endif
