/*
 * Single flight: one computation of a key at a time, among the threads of this
 * process (a list) and among processes (a lock on a byte of the shared file,
 * which falls when its holder dies).
 */
#ifndef CORE_FLIGHT_H
#define CORE_FLIGHT_H

#include "core/write.h"

#include <terrace/fetch.h>

/* What a caller wants of a cache with a form. Both take part in the same flight. */
enum flight_shape {
	FLIGHT_OBJECT,  /* what a get gives */
	FLIGHT_ENCODED, /* what terrace_get_encoded() gives */
	/* That it is there: the entry is NULL then, and for the caller to open; but
	 * what another thread has just computed is given. */
	FLIGHT_STREAM,
};

/* One computation under way in this process, and those who wait for it. */
struct flight {
	struct flight *next;
	struct terrace_cache *cache;
	struct tier_key key;
	uint8_t *key_bytes;
	unsigned users; /* the owner and everybody who waits */
	bool landed;
	/* What came out: a value, a loader's code, or neither (the next one tries);
	 * with a code, the value had expired. */
	struct entry *entry;
	int code;
	char message[256];
	struct write_lease lease; /* what was true when it began */
};

/* Instead of a tier: the value had expired, and somebody is computing it anew. */
enum { FOUND_STALE = 8 };

/*
 * Instead of a status: another caller's loader failed, with a code of its own, which
 * may be any number, that of a status too.
 */
enum { FLIGHT_FAILED = 100 };

/* FOUND_STALE for what terrace__get_stale() gave, or 0: it was made anew meanwhile. */
unsigned terrace__found_stale(struct terrace_cache *cache, const struct entry *entry);

struct terrace_lease {
	struct terrace_cache *cache;
	terrace_slice key;         /* points behind this struct */
	struct flight *flight;     /* NULL: alongside another one, waiting for nobody */
	enum flight_shape shape;   /* what the caller wants */
	bool has_byte;             /* holds the lock among processes */
	bool for_one;              /* who joined cannot tell whether it still holds: not for them */
	terrace_strategy strategy; /* of the call, for what is computed; 0: the cache's */
	struct write_lease lease;
	_Atomic bool outdated;       /* in memory alone: the key was written since */
	struct terrace_lease *next;  /* of all */
	struct terrace_lease *outer; /* of this thread */
	uint64_t started_ns;
};

/*
 * As terrace_lease_begin(), on entries. TERRACE_OK with *ret_entry and its
 * tier; TERRACE_ABSENT; TERRACE_MISS with *ret_lease, or NULL where there is no memory for
 * one; FLIGHT_FAILED with *ret_code, and its message set; TERRACE_ECYCLE.
 */
int terrace__lease_begin(struct terrace_cache *cache, terrace_slice key, int64_t wait_ms,
                         enum flight_shape shape, struct terrace_lease **ret_lease,
                         struct entry **ret_entry, unsigned *ret_tier, int *ret_code);

/*
 * A lease that nobody waits for: it only notes what is true now, and whether the
 * key is written from now on. terrace__lease_end() ends it, on any thread.
 */
int terrace__lease_watch(struct terrace_cache *cache, terrace_slice key,
                         struct terrace_lease **ret);

/* It goes to another thread, which takes it; the loader will run there. */
void terrace__lease_leave(struct terrace_lease *lease);
void terrace__lease_enter(struct terrace_lease *lease);

/*
 * End it, and free it: hand `entry` (may be NULL) or `code` (0: none) to those
 * who wait; with both, the value had expired.
 */
void terrace__lease_end(struct terrace_lease *lease, struct entry *entry, int code);

/* The leases that this thread holds, innermost first: what it computes. */
extern __attribute__((
    tls_model("initial-exec"))) _Thread_local struct terrace_lease *terrace__leases_held;

/* Was nothing invalidated since it began? Under flights.lock where it has `outdated`. */
bool terrace__lease_holds(struct terrace_cache *cache, const struct tier_key *key,
                          const struct write_lease *lease);

/*
 * In memory alone: the key is about to be written, so what is being computed
 * for it now must not be stored afterwards.
 */
void terrace__lease_outdate(struct terrace_cache *cache, terrace_slice key);
/* The same, under flights.lock, where it is written under a lease: that one goes on. */
void terrace__lease_outdate_others(struct terrace_cache *cache, terrace_slice key,
                                   const struct write_lease *own);

#endif
