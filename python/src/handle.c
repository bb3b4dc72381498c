/* Open stores and caches: counted, and made anew after a fork. */
#include "common.h"

#include <stdlib.h>

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

static int core_open(const struct cache_object *self, struct core *core)
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	int rc;

	options.wait_ms = self->wait_ms;
	/* Each cache has a limit of its own, or none; the store shall not have a smaller one. */
	options.disk_bytes = INT64_MAX / 2;
	rc = terrace_open(self->directory, &options, &core->store);
	if (rc == TERRACE_OK)
		rc = terrace_cache_open(core->store, self->name, &self->policy, &core->cache);
	return rc;
}

static struct core *core_new(const struct cache_object *self)
{
	struct core *core = calloc(1, sizeof *core);
	int rc;

	if (!core) {
		PyErr_NoMemory();
		return NULL;
	}
	atomic_init(&core->refs, 1);
	core->forks = atomic_load(&forks_seen);
	UNLOCKED(rc = core_open(self, core));
	if (rc == TERRACE_OK)
		return core;
	raise_status(rc);
	core_release(core);
	return NULL;
}

/* Put another handle in the place of `old`; returns what is there now, with a reference. */
static struct core *swap_core(struct cache_object *self, struct core *old, struct core *fresh)
{
	struct core *now;

	pthread_mutex_lock(&self->lock);
	if (self->core == old) {
		self->core = fresh;
		fresh = old; /* to be released */
	}
	now = self->core;
	if (now)
		atomic_fetch_add(&now->refs, 1);
	pthread_mutex_unlock(&self->lock);
	if (fresh)
		core_release(fresh);
	return now;
}

struct core *cache_acquire(struct cache_object *self)
{
	struct core *core, *fresh;

	pthread_mutex_lock(&self->lock);
	core = self->core;
	if (core && core->forks == atomic_load(&forks_seen)) {
		atomic_fetch_add(&core->refs, 1);
		pthread_mutex_unlock(&self->lock);
		return core;
	}
	pthread_mutex_unlock(&self->lock);
	if (!self->directory) {
		PyErr_SetString(PyExc_ValueError, "this cache was not initialised");
		return NULL;
	}
	fresh = core_new(self);
	return fresh ? swap_core(self, core, fresh) : NULL;
}
