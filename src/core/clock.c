#include "core/store.h"
#include "util/fs.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* A wider step between the two clocks than slewing and ticks explain. */
enum { APART_MS = 50 };

#define BOOT_ID "/proc/sys/kernel/random/boot_id"

static int failed(int err)
{
	terrace__message_set("cannot read %s: %s", BOOT_ID, strerror(err));
	return err == ENOMEM ? TERRACE_ENOMEM : TERRACE_EIO;
}

/*
 * The boot's own id; zeros where the kernel has none. That it cannot be read
 * just now does not make it another boot: the clock would jump.
 */
static int boot_id(uint8_t ret[16])
{
	CLEANUP(terrace__fd_done) int fd = open(BOOT_ID, O_RDONLY | O_CLOEXEC);
	char text[37] = "";
	size_t got = 0;
	int at = 0, rc;

	memset(ret, 0, 16);
	if (fd < 0)
		return errno == ENOENT || errno == EACCES ? TERRACE_OK : failed(errno);
	rc = terrace__read_full(fd, text, 36, 0, &got);
	if (rc < 0)
		return failed(-rc);
	for (const char *c = text; *c && at < 32; c++) {
		char digit[2] = { *c, '\0' };

		if (*c == '-')
			continue;
		ret[at / 2] = (uint8_t)(ret[at / 2] << 4 | strtoul(digit, NULL, 16));
		at++;
	}
	return TERRACE_OK;
}

int terrace__clock_settle(struct shared *shared)
{
	uint8_t boot[16];
	int64_t now;
	int rc = boot_id(boot);

	if (rc != TERRACE_OK || memcmp(boot, shared->boot_id, sizeof boot) == 0)
		return rc;
	/* The date may be wrong after a boot; what was written is not younger than that. */
	now = terrace__clock_ms(CLOCK_REALTIME);
	if (now < atomic_load(&shared->last_time))
		now = atomic_load(&shared->last_time);
	atomic_store(&shared->clock_base, now - terrace__clock_ms(CLOCK_BOOTTIME));
	memcpy(shared->boot_id, boot, sizeof boot);
	return TERRACE_OK;
}

static void calibrate(struct terrace *store)
{
	int64_t mono = terrace__clock_ms(CLOCK_MONOTONIC);
	/* CLOCK_BOOTTIME goes on while the machine sleeps. */
	int64_t boot = terrace__clock_ms(CLOCK_BOOTTIME);
	int64_t base = store->shared ? atomic_load(&store->shared->clock_base) :
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
