#include "api/api.h"

#include "core/behind.h"
#include "core/events.h"
#include "core/idle.h"
#include "core/keeper.h"
#include "core/watch.h"
#include "util/fs.h"
#include "util/message.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- the registry: what this process has open ---------------------------------------------- */

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct terrace *registry;
/* That is being opened, and not in it yet. */
static _Atomic(struct terrace *) opening;

_Atomic unsigned terrace__forks;

/*
 * The child has the parent's descriptors, and with them its locks: those fall
 * only when both have closed them, so the child must.
 */
static void let_go(struct terrace *store)
{
	if (store->attach_fd >= 0)
		close(store->attach_fd);
	if (store->lock_fd >= 0)
		close(store->lock_fd);
	store->lock_fd = store->attach_fd = -1;
}

static void in_child(void)
{
	struct terrace *unfinished = atomic_exchange(&opening, NULL);

	atomic_fetch_add(&terrace__forks, 1);
	for (struct terrace *store = registry; store; store = store->next)
		let_go(store);
	if (unfinished)
		let_go(unfinished);
	/* Another thread may have held it; nobody else is left to let go. */
	pthread_mutex_init(&registry_lock, NULL);
}

static void watch(void)
{
	pthread_atfork(NULL, NULL, in_child);
	terrace__tiers_watch_forks();
}

void terrace__watch_forks(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, watch);
}

static bool is_ours(const struct terrace *store)
{
	return store->forks == atomic_load(&terrace__forks);
}

/* --- where, and with what settings ------------------------------------------------------------ */

static int default_dir(char *ret, size_t ret_size)
{
	const char *dir = getenv("TERRACE_DIR"), *base;
	int size;

	if (dir && *dir) {
		size = snprintf(ret, ret_size, "%s", dir);
	} else if ((base = getenv("XDG_CACHE_HOME")) && base[0] == '/') {
		size = snprintf(ret, ret_size, "%s/terrace", base);
	} else if ((base = getenv("HOME")) && *base) {
		size = snprintf(ret, ret_size, "%s/.cache/terrace", base);
	} else {
		return terrace_fail(TERRACE_EACCESS,
		                    "there is no cache directory: set TERRACE_DIR, "
		                    "XDG_CACHE_HOME or HOME");
	}
	if ((size_t)size >= ret_size)
		return terrace_fail(TERRACE_EACCESS, "the cache directory's path is too long");
	return TERRACE_OK;
}

static bool readable(const char *path)
{
	return access(path, R_OK) == 0;
}

/* The first that there is; one that was named must be there. */
static int read_config(struct terrace *store, const char *given)
{
	const char *named = given ? given : getenv("TERRACE_CONFIG");
	const char *base = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
	char path[PATH_MAX];

	if (named && *named)
		return terrace__config_read(named, &store->config);
	snprintf(path, sizeof path, "%s/terrace.ini", store->dir);
	if (readable(path))
		return terrace__config_read(path, &store->config);
	if (base && base[0] == '/')
		snprintf(path, sizeof path, "%s/terrace/terrace.ini", base);
	else
		snprintf(path, sizeof path, "%s/.config/terrace/terrace.ini", home ? home : "");
	if (readable(path))
		return terrace__config_read(path, &store->config);
	return TERRACE_OK;
}

static terrace_log_level stderr_level;

static void log_to_stderr(void *ctx, terrace_log_level level, const char *line)
{
	static const char *const names[] = { "error", "warning", "info", "debug" };

	(void)ctx;
	if (level <= stderr_level)
		fprintf(stderr, "terrace: %s: %s\n", names[level], line);
}

/* TERRACE_LOG=debug, for people; a program's own callback goes before. */
static void start_log(struct terrace *store, const terrace_options *options)
{
	static const char *const names[] = { "error", "warn", "info", "debug" };
	const char *wanted = getenv("TERRACE_LOG");

	store->log = options->log;
	store->log_ctx = options->log_ctx;
	for (unsigned i = 0; !store->log && wanted && i < 4; i++) {
		if (strcmp(wanted, names[i]) == 0) {
			stderr_level = (terrace_log_level)i;
			store->log = log_to_stderr;
		}
	}
}

static void apply_settings(struct terrace *store)
{
	const struct setting *settings = store->settings;

	store->disk_bytes = (uint64_t)settings[STORE_disk_bytes].number;
	store->disk_entries = (uint64_t)settings[STORE_disk_entries].number;
	store->memory.now = store->memory.most = (uint64_t)settings[STORE_memory_bytes].number;
	store->memory_entries = (uint64_t)settings[STORE_memory_entries].number;
	store->encoded.now = store->encoded.most = (uint64_t)settings[STORE_encoded_bytes].number;
	store->watches_memory = settings[STORE_pressure].number;
	store->wait_ms = settings[STORE_wait].number;
	if (store->wait_ms < 0)
		store->wait_ms = INT64_MAX / 4;
	store->disabled = settings[STORE_disabled].number;
}

/* --- open and close ------------------------------------------------------------------------------ */

static void init_locks(struct terrace *store)
{
	pthread_condattr_t monotonic;
	pthread_mutexattr_t spinning;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&store->writer.lock, NULL);
	pthread_cond_init(&store->writer.done, &monotonic);
	store->writer.waiting.last = &store->writer.waiting.first;
	store->writer.alone.last = &store->writer.alone.first;
	pthread_mutex_init(&store->behind.lanes, NULL);
	/* Held for a value at a time: who sleeps for it is awake fifty times as much later. */
	pthread_mutexattr_init(&spinning);
	pthread_mutexattr_settype(&spinning, PTHREAD_MUTEX_ADAPTIVE_NP);
	pthread_mutex_init(&store->behind.lock, &spinning);
	pthread_mutexattr_destroy(&spinning);
	pthread_cond_init(&store->behind.work, &monotonic);
	pthread_cond_init(&store->behind.done, &monotonic);
	atomic_init(&store->behind.lane, -1);
	pthread_mutex_init(&store->flights.lock, NULL);
	pthread_cond_init(&store->flights.landed, &monotonic);
	pthread_mutex_init(&store->jobs.lock, NULL);
	pthread_cond_init(&store->jobs.changed, &monotonic);
	pthread_mutex_init(&store->uses.lock, NULL);
	pthread_mutex_init(&store->notes.lock, NULL);
	pthread_mutex_init(&store->caches_lock, NULL);
	pthread_mutex_init(&store->stats_lock, NULL);
	pthread_mutex_init(&store->events_lock, NULL);
	pthread_cond_init(&store->left, NULL);
	pthread_mutex_init(&store->bulk_lock, NULL);
	terrace__keeper_init(store);
	pthread_condattr_destroy(&monotonic);
}

/* Objects go with their caches, and their destructors may do anything. */
static bool has_objects(struct terrace *store)
{
	bool found = false;

	pthread_mutex_lock(&store->caches_lock);
	for (struct terrace_cache *cache = store->caches; cache; cache = cache->next)
		found |= cache->has_form && cache->memory &&
		         terrace__tiers_memory_entries(cache->memory) > 0;
	pthread_mutex_unlock(&store->caches_lock);
	return found;
}

static void drop_objects(struct terrace *store)
{
	struct terrace_cache *all[CACHES_MAX];
	size_t open = terrace__caches_hold(store, all);

	for (size_t i = 0; i < open; i++) {
		if (all[i]->has_form)
			terrace__memory_clear(all[i]);
		terrace__cache_close(all[i], false);
	}
}

/* Do a program's functions run, or may they? *ret_last is for settle(). */
static bool is_busy(struct terrace *store, uint64_t *ret_last)
{
	bool loads;

	pthread_mutex_lock(&store->jobs.lock);
	loads = store->jobs.running > 0;
	pthread_mutex_unlock(&store->jobs.lock);
	return terrace__events_any(store, ret_last) || loads || has_objects(store);
}

/* Until they have ended: loaders, and subscribers up to `last`. They have caches open. */
static void settle(struct terrace *store, uint64_t last)
{
	if (terrace__transaction_mine(store))
		terrace__rollback(store);
	pthread_mutex_lock(&store->jobs.lock);
	while (store->jobs.running)
		pthread_cond_wait(&store->jobs.changed, &store->jobs.lock);
	pthread_mutex_unlock(&store->jobs.lock);
	terrace__events_end(store, last);
}

static void store_free(struct terrace *store)
{
	if (!store)
		return;
	settle(store, UINT64_MAX);
	terrace__keeper_stop(store);
	while (store->caches)
		terrace__cache_close(store->caches, true);
	terrace__watch_free(store->watch);
	terrace__detach(store);
	terrace__settings_free(store->settings, STORE_SETTING_COUNT);
	terrace__config_free(store->config);
	pthread_mutex_destroy(&store->writer.lock);
	pthread_cond_destroy(&store->writer.done);
	pthread_mutex_destroy(&store->flights.lock);
	pthread_cond_destroy(&store->flights.landed);
	terrace__idle_done(store);
	pthread_mutex_destroy(&store->notes.lock);
	pthread_mutex_destroy(&store->caches_lock);
	pthread_mutex_destroy(&store->stats_lock);
	pthread_mutex_destroy(&store->events_lock);
	pthread_cond_destroy(&store->left);
	pthread_mutex_destroy(&store->bulk_lock);
	free(store->dir);
	store->magic = 0;
	free(store);
}

static int store_new(const char *dir, const terrace_options *options, struct terrace **ret)
{
	struct terrace *store = calloc(1, sizeof *store);
	int rc;

	if (!store)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a store");
	store->magic = STORE_MAGIC;
	store->forks = atomic_load(&terrace__forks);
	store->dir_fd = store->attach_fd = store->lock_fd = -1;
	store->clock.fn = options->clock;
	store->clock.ctx = options->clock_ctx;
	store->boot_id_path = options->boot_id_path;
	init_locks(store);
	atomic_store(&opening, store);
	store->keeper.pressure.stall_path = options->pressure_path;
	store->keeper.pressure.group_path = options->cgroup_path;
	start_log(store, options);
	store->dir = strdup(dir);
	rc = store->dir ? read_config(store, options->config_path) : no_memory("a store");
	if (rc == TERRACE_OK)
		rc = terrace__settings_store(store->config, options, store->settings);
	if (rc == TERRACE_OK) {
		apply_settings(store);
		if (store->disabled)
			terrace__clock_start(store);
		else
			rc = terrace__attach(store);
	}
	if (rc != TERRACE_OK) {
		atomic_store(&opening, NULL);
		store_free(store);
		return rc;
	}
	*ret = store;
	return TERRACE_OK;
}

/*
 * A child inherits its parent's connections. SQLite knows the files of a process
 * by their inodes and would take the parent's locks for the child's own, so they
 * are closed before the child opens any. Where a thread was within SQLite when
 * the process forked, they cannot be.
 */
static void close_inherited(void)
{
	for (struct terrace *store = registry; store; store = store->next) {
		if (is_ours(store) || !store->disk || !terrace__tiers_fork_was_quiet())
			continue;
		store->disk_ops->tier.close(store->disk);
		store->disk = NULL;
	}
}

/* The open store of a directory, by what it is and not how it is spelled. */
static struct terrace *find_open(const char *dir)
{
	struct stat st;
	bool there = lstat(dir, &st) == 0; /* a link is refused, whatever it leads to */

	for (struct terrace *store = registry; store; store = store->next) {
		if (!is_ours(store) || atomic_load(&store->gone))
			continue;
		if (there && !store->disabled && store->device == st.st_dev &&
		    store->inode == st.st_ino)
			return store;
		if ((store->disabled || !there) && strcmp(store->dir, dir) == 0)
			return store;
	}
	return NULL;
}

int terrace_open(const char *dir, const terrace_options *options, terrace **ret)
{
	char given[PATH_MAX], path[PATH_MAX], before[512];
	terrace_options ours;
	struct terrace *store;
	int rc = TERRACE_OK;

	if (!ret)
		return terrace_fail(TERRACE_EINVAL, "terrace_open() needs a place for the store");
	rc = terrace__struct_in(&ours, sizeof ours, options, "the store's struct of options");
	if (rc != TERRACE_OK)
		return rc;
	terrace__watch_forks();
	if (!dir) {
		rc = default_dir(given, sizeof given);
		dir = given;
	}
	if (rc != TERRACE_OK)
		return rc;
	rc = terrace__absolute_path(dir, path, sizeof path);
	if (rc < 0)
		return terrace_fail(TERRACE_EACCESS, "cannot use \"%s\" as a cache directory: %s",
		                    dir, strerror(-rc));
	pthread_mutex_lock(&registry_lock);
	close_inherited();
	store = find_open(path);
	/* What is missing because nobody has made it yet has not failed. */
	snprintf(before, sizeof before, "%s", terrace__message());
	if (!store) {
		rc = store_new(path, &ours, &store);
		if (rc == TERRACE_OK) {
			store->next = registry;
			registry = store;
			atomic_store(&opening, NULL);
		}
	}
	if (rc == TERRACE_OK) {
		terrace__message_set("%s", before);
		store->handles++;
		*ret = store;
	}
	pthread_mutex_unlock(&registry_lock);
	return rc;
}

static void unlink_store(struct terrace *store)
{
	struct terrace **at = &registry;

	while (*at != store)
		at = &(*at)->next;
	*at = store->next;
}

void terrace_close(terrace *store)
{
	uint64_t last;

	if (!store || terrace__check_store(store) != TERRACE_OK)
		return; /* a forked child's: its parent closes it */
	pthread_mutex_lock(&registry_lock);
	/* What they do may be to open a store, or to close one: not under the lock, then. */
	while (store->handles == 1 && is_busy(store, &last)) {
		pthread_mutex_unlock(&registry_lock);
		settle(store, last);
		drop_objects(store);
		pthread_mutex_lock(&registry_lock);
	}
	if (--store->handles == 0) {
		unlink_store(store);
		store_free(store);
	}
	pthread_mutex_unlock(&registry_lock);
}

void terrace_registry_reset(void)
{
	pthread_mutex_lock(&registry_lock);
	for (struct terrace **at = &registry; *at;) {
		struct terrace *store = *at;

		if (!is_ours(store)) {
			at = &store->next;
			continue;
		}
		*at = store->next;
		store_free(store);
	}
	pthread_mutex_unlock(&registry_lock);
}

int terrace_flush(terrace *store)
{
	int rc = store ? terrace__check_store(store) : TERRACE_OK;

	if (rc != TERRACE_OK || !store || store->disabled)
		return rc;
	return terrace__behind_flush(store);
}

const char *terrace_dir(const terrace *store)
{
	return store ? store->dir : "";
}

bool terrace_enabled(const terrace *store)
{
	return store && !store->disabled;
}

/* --- listings ---------------------------------------------------------------------------------------- */

size_t terrace_registry_each(int (*fn)(void *ctx, const terrace_open_cache *open), void *ctx)
{
	size_t count = 0;
	bool go_on = true;

	pthread_mutex_lock(&registry_lock);
	for (struct terrace *store = registry; store && go_on; store = store->next) {
		if (!is_ours(store))
			continue;
		pthread_mutex_lock(&store->caches_lock);
		for (struct terrace_cache *cache = store->caches; cache && go_on;
		     cache = cache->next) {
			terrace_open_cache open = {
				.size = sizeof open,
				.dir = store->dir,
				.name = cache->name,
				.handles = cache->handles,
			};

			if (cache->memory) {
				open.memory_bytes = terrace__tiers_memory_bytes(cache->memory);
				open.memory_entries = terrace__tiers_memory_entries(cache->memory);
			}
			count++;
			go_on = !fn || fn(ctx, &open) == 0;
		}
		pthread_mutex_unlock(&store->caches_lock);
	}
	pthread_mutex_unlock(&registry_lock);
	return count;
}

struct config_walk {
	struct terrace *store;
	int (*fn)(void *ctx, const terrace_setting *setting);
	void *ctx;
	bool go_on;
};

static void visit_settings(struct config_walk *walk, const char *section,
                           const struct setting *settings, size_t count,
                           const char *(*name_of)(size_t setting))
{
	for (size_t i = 0; i < count && walk->go_on; i++) {
		terrace_setting setting = {
			.size = sizeof setting,
			.section = section,
			.name = name_of(i),
			.value = settings[i].text,
			.origin = settings[i].origin,
		};

		walk->go_on = walk->fn(walk->ctx, &setting) == 0;
	}
}

static void visit_cache(struct config_walk *walk, const char *name, const struct setting *settings)
{
	char section[TERRACE_NAME_MAX + 16];

	snprintf(section, sizeof section, "cache %.64s", name);
	visit_settings(walk, section, settings, CACHE_SETTING_COUNT, terrace__cache_setting_name);
}

static bool is_open(struct terrace *store, const char *name)
{
	struct terrace_cache *cache = store->caches;

	while (cache && strcmp(cache->name, name) != 0)
		cache = cache->next;
	return cache != NULL;
}

static int visit_configured(void *ctx, const char *name)
{
	struct config_walk *walk = ctx;
	struct setting settings[CACHE_SETTING_COUNT];
	terrace_policy none = TERRACE_POLICY_INIT;

	if (is_open(walk->store, name))
		return 0;
	if (terrace__settings_cache(walk->store->config, name, &none, settings) != TERRACE_OK)
		return 0;
	visit_cache(walk, name, settings);
	terrace__settings_free(settings, CACHE_SETTING_COUNT);
	return walk->go_on ? 0 : 1;
}

void terrace_config_each(terrace *store, int (*fn)(void *ctx, const terrace_setting *setting),
                         void *ctx)
{
	struct config_walk walk = { .store = store, .fn = fn, .ctx = ctx, .go_on = true };

	if (!store || terrace__check_store(store) != TERRACE_OK)
		return;
	visit_settings(&walk, "store", store->settings, STORE_SETTING_COUNT,
	               terrace__store_setting_name);
	pthread_mutex_lock(&store->caches_lock);
	for (struct terrace_cache *cache = store->caches; cache && walk.go_on; cache = cache->next)
		visit_cache(&walk, cache->name, cache->settings);
	if (walk.go_on)
		terrace__config_caches(store->config, visit_configured, &walk);
	pthread_mutex_unlock(&store->caches_lock);
}

int terrace_caches_each(terrace *store, int (*fn)(void *ctx, const char *name), void *ctx)
{
	int rc;

	if (!store || store->disabled)
		return TERRACE_OK;
	rc = terrace__check_store(store);
	for (uint32_t i = 0; i < CACHES_MAX && rc == TERRACE_OK; i++) {
		if (terrace__cache_is_named(store->shared, i) &&
		    fn(ctx, store->shared->caches[i].name) != 0)
			break;
	}
	return rc;
}
