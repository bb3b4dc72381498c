#include "core/store.h"
#include "util/fs.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <stdlib.h>

/* A wider step between the two clocks than slewing and ticks explain. */
enum { APART_MS = 50 };

/* Two looks that are no further apart are of one moment; else they are tried again, so often. */
enum { MOMENT_MS = 1, TRIES = 8 };

/* By how much one clock is ahead of another. */
static int64_t ahead(clockid_t clock, clockid_t other)
{
	int64_t there, here;
	int tries = TRIES;

	do {
		there = terrace__clock_ms(other);
		here = terrace__clock_ms(clock);
	} while (terrace__clock_ms(other) - there > MOMENT_MS && --tries > 0);
	return here - there;
}

void terrace__clock_settle(struct shared *shared)
{
	/* The date may be wrong after a boot; what was written is not younger than that. */
	int64_t base = ahead(CLOCK_REALTIME, CLOCK_BOOTTIME), least;
	uint64_t last = atomic_load(&shared->last_time);

	if (word_holds(shared, PLACE_TIME, last)) {
		least = (int64_t)word_value(last) - terrace__clock_ms(CLOCK_BOOTTIME);
		base = base < least ? least : base;
	}
	shared->head.clock_base = base;
}

static void calibrate(struct terrace *store)
{
	/* First: if the machine sleeps from here on, the next look at the clock finds out. */
	int64_t apart = ahead(CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE);
	int64_t base = store->shared ? store->head.clock_base :
	                               ahead(CLOCK_REALTIME, CLOCK_BOOTTIME);

	/* CLOCK_BOOTTIME goes on while the machine sleeps. */
	atomic_store(&store->clock.offset, base + ahead(CLOCK_BOOTTIME, CLOCK_MONOTONIC));
	atomic_store(&store->clock.apart, apart);
}

void terrace__clock_start(struct terrace *store)
{
	if (!store->clock.fn)
		calibrate(store);
}

int64_t terrace__now(struct terrace *store)
{
	int64_t mono, apart;

	if (store->clock.fn)
		return store->clock.fn(store->clock.ctx);
	mono = terrace__clock_ms(CLOCK_MONOTONIC_COARSE);
	apart = terrace__clock_ms(CLOCK_REALTIME_COARSE) - mono;
	/* Two coarse clocks cost 10 ns, the one that counts sleep costs 20.
	 * They step apart when the machine slept or the date was set. */
	if (UNLIKELY(llabs(apart - atomic_load_explicit(&store->clock.apart,
	                                                memory_order_relaxed)) > APART_MS))
		calibrate(store);
	return mono + atomic_load_explicit(&store->clock.offset, memory_order_relaxed);
}
