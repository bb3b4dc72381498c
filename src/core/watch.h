/*
 * Watching sources by inotify, for caches whose check policy is WATCH.
 *
 * A watched entry carries the epoch at which its sources were last found
 * unchanged; the epoch moves when anything that is watched may have changed. So
 * a hit compares two numbers, and after a change each entry is looked at once
 * more. Watches are in place before an entry's sources are looked at, and the
 * epoch is from before both: what changes in between moves it.
 *
 * The kernel queues an event before the call that changed the file returns. The
 * queue is read by whoever hits first in a tick of the kernel's clock, so what
 * happened before this tick is known. There is no thread.
 *
 * A path is watched with every directory and link on the way to it. When one of
 * these is moved, removed or changes its mode, or the file is replaced, the path
 * counts as not watched, and is watched anew at its entry's next hit. An
 * overflow, or too many watches, make that so for all paths. What cannot be
 * watched is looked at on every hit.
 */
#ifndef CORE_WATCH_H
#define CORE_WATCH_H

#include "core/store.h"

#include <time.h>

struct watch;

struct watch *terrace__watch_new(struct terrace *store); /* NULL: out of memory */
void terrace__watch_free(struct watch *watch);           /* accepts NULL */

/*
 * Were the entry's sources found unchanged, and has nothing happened since, up
 * to a tick ago?
 */
bool terrace__watch_quiet(struct watch *watch, const struct entry *entry);

/*
 * Before an entry's sources are looked at: watch them. What the entry's `checked`
 * is to be if they are unchanged; 0 when not all of them can be watched.
 */
int64_t terrace__watch_sources(struct watch *watch, const struct entry *entry);

/* How many paths are watched. */
size_t terrace__watch_count(struct watch *watch);

#endif
