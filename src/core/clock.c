#include "core/store.h"
#include "util/time.h"
#include "util/util.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* A wider step between the two clocks than slewing and ticks explain. */
enum { APART_MS = 50 };

/* The boot's own id; zeros where the kernel does not say. */
static void boot_id(uint8_t ret[16])
{
	char text[37] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC), at = 0;

	memset(ret, 0, 16);
	if (fd < 0)
		return;
	if (read(fd, text, 36) == 36) {
		for (const char *c = text; *c && at < 32; c++) {
			char digit[2] = { *c, '\0' };

			if (*c == '-')
				continue;
			ret[at / 2] = (uint8_t)(ret[at / 2] << 4 | strtoul(digit, NULL, 16));
			at++;
		}
	}
	close(fd);
}

void terrace__clock_settle(struct shared *shared)
{
	uint8_t boot[16];
	uint64_t last;
	int64_t now;

	boot_id(boot);
	if (memcmp(boot, shared->head.boot_id, sizeof boot) == 0)
		return;
	/* The date may be wrong after a boot; what was written is not younger than that. */
	now = terrace__clock_ms(CLOCK_REALTIME);
	last = atomic_load(&shared->last_time);
	if (word_holds(shared, PLACE_TIME, last) && now < (int64_t)word_value(last))
		now = (int64_t)word_value(last);
	shared->head.clock_base = now - terrace__clock_ms(CLOCK_BOOTTIME);
	memcpy(shared->head.boot_id, boot, sizeof boot);
	terrace__shared_seal(shared);
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
