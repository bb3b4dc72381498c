#include "core/store.h"
#include "util/fs.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <stdlib.h>

/* A wider step between the two clocks than slewing and ticks explain. */
enum { APART_MS = 50 };

void terrace__clock_settle(struct shared *shared)
{
	/* The date may be wrong after a boot; what was written is not younger than that. */
	int64_t now = terrace__clock_ms(CLOCK_REALTIME);
	uint64_t last = atomic_load(&shared->last_time);

	if (word_holds(shared, PLACE_TIME, last) && now < (int64_t)word_value(last))
		now = (int64_t)word_value(last);
	shared->head.clock_base = now - terrace__clock_ms(CLOCK_BOOTTIME);
}

static void calibrate(struct terrace *store)
{
	int64_t mono = terrace__clock_ms(CLOCK_MONOTONIC);
	/* CLOCK_BOOTTIME goes on while the machine sleeps. */
	int64_t boot = terrace__clock_ms(CLOCK_BOOTTIME);
	int64_t base = store->shared ? store->head.clock_base :
	                               terrace__clock_ms(CLOCK_REALTIME) - boot;

	atomic_store(&store->clock.offset, base + boot - mono);
	atomic_store(&store->clock.apart, terrace__clock_ms(CLOCK_REALTIME_COARSE) -
	                                      terrace__clock_ms(CLOCK_MONOTONIC_COARSE));
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
