#include "proofs/proofs.h"

void terrace__pause(void);

/* One of a hundred times up to 100 us, which is longer than a transaction. */
void terrace__pause(void)
{
	static _Thread_local struct random random;
	struct timespec now;

	if (!random.state) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		random.state = (uint64_t)now.tv_nsec ^ (uintptr_t)&random ^
		               (uint64_t)getpid() << 40;
	}
	if (random_below(&random, 100) == 0)
		usleep((useconds_t)random_below(&random, 100));
}
