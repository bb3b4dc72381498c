#include "tiers/memory/evict_trials.h"

#include "util/util.h"

static const struct {
	double step, least, most;
} limits[TRIAL_KINDS] = {
	[TRIAL_STRICT] = { 0.15, -1, 1 },
	[TRIAL_POWER] = { 0.06, 0.5, 2.5 },
};

static bool was_hit(const struct trial *trial)
{
	return trial->kept && entry_hits(trial->kept) != trial->hits;
}

/*
 * Over. Where a hit of one is worth more for its room than a hit of the other, the
 * other must be wanted as much more often: so the steps are in that proportion, and
 * balance where it does not matter who stays.
 */
static void learn(struct trials *trials, enum trial_kind kind, struct trial *trial, bool right)
{
	double step = limits[kind].step * (right ? trial->share : trial->share - 1);
	double learned = trials->learned[kind] + step * trial->way;

	learned = learned < limits[kind].least ? limits[kind].least : learned;
	trials->learned[kind] = learned > limits[kind].most ? limits[kind].most : learned;
	*trial = (struct trial){ 0 };
}

void terrace__trial_start(struct trials *trials, enum trial_kind kind, struct entry *kept,
                          struct entry *gone, const double worth[2], int way)
{
	struct trial *trial = &trials->of[kind][trial_place(gone)];

	/* The one before was long enough; that nobody wanted either says nothing. */
	if (trial->gone && was_hit(trial) != trial->back)
		learn(trials, kind, trial, was_hit(trial));
	*trial = (struct trial){ .kept = kept,
		                 .gone = gone->hash,
		                 .hits = entry_hits(kept),
		                 .turn = trials->turn,
		                 .share = (float)(worth[0] / (worth[0] + worth[1])),
		                 .way = (int8_t)way };
	kept->frequency |= TRIAL_KEPT;
	gone->frequency |= TRIAL_GONE;
}

void terrace__trial_back(struct trials *trials, const struct entry *entry)
{
	for (enum trial_kind kind = 0; kind < TRIAL_KINDS; kind++) {
		struct trial *trial = &trials->of[kind][trial_place(entry)];

		if (trial->gone != entry->hash)
			continue;
		/* Of two that were about to go the one that stayed has little time left. */
		if (kind == TRIAL_POWER && !was_hit(trial))
			trial->back = true;
		else
			learn(trials, kind, trial, was_hit(trial));
	}
}

/*
 * One that was about to go either way has had its time. But who stayed where a new
 * one went may have made room for the next new one at once, and the one that went
 * might have been there still.
 */
void terrace__trial_left(struct trials *trials, const struct entry *entry)
{
	for (enum trial_kind kind = 0; kind < TRIAL_KINDS; kind++) {
		for (unsigned i = 0; i < TRIALS; i++) {
			struct trial *trial = &trials->of[kind][i];

			if (trial->kept != entry)
				continue;
			if (was_hit(trial) != trial->back)
				learn(trials, kind, trial, was_hit(trial));
			else if (kind == TRIAL_POWER || trial->back)
				*trial = (struct trial){ 0 };
			trial->kept = NULL;
		}
	}
}
