/*
 * How short the machine is of memory, and what L1 may hold because of it.
 *
 * Two readings: the kernel's pressure stall information ("some avg10", the share
 * of the last ten seconds in which some task waited for memory), and how much of
 * its limit the process's control group, or one around it, has in use, without
 * the files that the kernel can drop at once. Control groups version 2 and 1.
 */
#ifndef CORE_PRESSURE_H
#define CORE_PRESSURE_H

#include <stdbool.h>
#include <stdint.h>

enum pressure_level {
	PRESSURE_CALM,    /* L1 may grow again */
	PRESSURE_NEITHER, /* as it is */
	PRESSURE_TIGHT,   /* L1 shrinks */
};

struct pressure {
	const char *stall_path; /* NULL: the kernel's; "": none. Borrowed */
	const char *group_path; /* the group's directory; NULL: the process's own; "": none */
	double stalled;         /* percent, as last read; 0 where there is none */
	double used;            /* of the group's limit, percent; 0 where there is none */
	bool tight;
	int64_t calm_since; /* ms; -1: it is not calm */
};

/* Read both; what is not there, or not to be read, is no pressure. */
enum pressure_level terrace__pressure_read(struct pressure *pressure);

/*
 * What a limit becomes: a quarter less than what is in use for each reading that is tight, but not
 * under `least`; an eighth of `most` more for every ten seconds of calm, up to
 * `most`. The thresholds of the two are apart, so that it does not swing.
 */
uint64_t terrace__pressure_limit(struct pressure *pressure, enum pressure_level level,
                                 int64_t now_ms, uint64_t limit, uint64_t used, uint64_t least,
                                 uint64_t most);

#endif
