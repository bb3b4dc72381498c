/* Another process with the same store, which does what it is told. */
#ifndef SUPPORT_PEER_H
#define SUPPORT_PEER_H

#include "support/support.h"

#include <sys/types.h>

struct peer {
	pid_t pid;
	int fd;
};

/* With the cache "a" of this policy open. */
struct peer peer_start(const struct fixture *f, const terrace_policy *policy);
void peer_end(struct peer *peer);
void peer_kill(struct peer *peer);

/*
 * An order: "g KEY" get (answers with the value, or "(miss)"), "p KEY VALUE"
 * put, "d KEY" delete, "t KEY" touch, "i PREFIX" invalidate, "c" clear, "f"
 * flush (all answer "ok", or "(failed)").
 */
void tell(const struct peer *peer, const char *order);
const char *hear(const struct peer *peer);

/* Be a writer who takes long, until the descriptor is closed. */
int hold_writers(const struct fixture *f);

#define assert_peer(peer, order, text)                   \
	do {                                             \
		tell((peer), (order));                   \
		assert_string_equal(hear(peer), (text)); \
	} while (0)

#endif
