/* Open stores and caches: counted, and made anew after a fork. */
#include "common.h"

#include <stdlib.h>
#include <string.h>

_Atomic unsigned forks_seen;

void core_release(struct core *core)
{
	if (atomic_fetch_sub(&core->refs, 1) > 1)
		return;
	/* In a forked child the handles are the parent's, and stay as they are. */
	if (core->forks == atomic_load(&forks_seen)) {
		/* What the caller is about to raise is kept over the closing. */
		UNLOCKED(terrace_cache_close(core->cache); terrace_close(core->store));
	}
	free(core);
}

/* Where a cache is and how it is opened, as it was with the GIL. */
struct where {
	unsigned setups;
	char *directory, *name;
	int64_t wait_ms;
	terrace_policy policy;
};

/* 0; -1 with an exception. The caller calls where_done() in any case. */
static int where_from(const struct cache_object *self, struct where *where)
{
	*where = (struct where){ .setups = self->setups,
		                 .wait_ms = self->wait_ms,
		                 .policy = self->policy };
	if (!self->directory) {
		PyErr_SetString(PyExc_ValueError, "this cache was not initialised");
		return -1;
	}
	where->directory = strdup(self->directory);
	where->name = strdup(self->name);
	if (where->directory && where->name)
		return 0;
	PyErr_NoMemory();
	return -1;
}

static void where_done(struct where *where)
{
	free(where->directory);
	free(where->name);
}

static int core_open(const struct where *where, struct core *core)
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	int rc;

	options.wait_ms = where->wait_ms;
	/* Each cache has a limit of its own, or none; the store shall not have a smaller one. */
	options.disk_bytes = INT64_MAX / 2;
	rc = terrace_open(where->directory, &options, &core->store);
	if (rc == TERRACE_OK)
		rc = terrace_cache_open(core->store, where->name, &where->policy, &core->cache);
	return rc;
}

static struct core *core_new(const struct where *where)
{
	struct core *core = calloc(1, sizeof *core);
	int rc;

	if (!core) {
		PyErr_NoMemory();
		return NULL;
	}
	atomic_init(&core->refs, 1);
	core->forks = atomic_load(&forks_seen);
	UNLOCKED(rc = core_open(where, core));
	if (rc == TERRACE_OK)
		return core;
	raise_status(rc);
	core_release(core);
	return NULL;
}

/* What is there, with a reference; NULL when that is nothing, or a parent's. */
static struct core *core_there(struct cache_object *self)
{
	struct core *core;

	pthread_mutex_lock(&self->lock);
	core = self->core;
	if (core && core->forks != atomic_load(&forks_seen))
		core = NULL;
	if (core)
		atomic_fetch_add(&core->refs, 1);
	pthread_mutex_unlock(&self->lock);
	return core;
}

/*
 * `fresh` is taken over, where no other thread was faster. What is there now, with
 * a reference; NULL where the cache was set up otherwise meanwhile.
 */
static struct core *keep_core(struct cache_object *self, struct core *fresh, unsigned setups)
{
	struct core *now = NULL, *idle = fresh;

	pthread_mutex_lock(&self->lock);
	if (self->setups == setups) {
		now = self->core;
		if (!now || now->forks != fresh->forks) {
			idle = now;
			now = self->core = fresh;
		}
		atomic_fetch_add(&now->refs, 1);
	}
	pthread_mutex_unlock(&self->lock);
	if (idle)
		core_release(idle);
	return now;
}

struct core *cache_acquire(struct cache_object *self)
{
	struct core *core = core_there(self), *fresh;
	struct where where;

	while (!core) {
		fresh = where_from(self, &where) == 0 ? core_new(&where) : NULL;
		where_done(&where);
		if (!fresh)
			return NULL;
		core = keep_core(self, fresh, where.setups);
	}
	return core;
}
