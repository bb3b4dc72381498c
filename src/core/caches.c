#include "core/caches.h"

#include "core/ahead.h"
#include "core/behind.h"
#include "core/hit.h"
#include "core/idle.h"
#include "core/keeper.h"
#include "core/lookup.h"
#include "core/power.h"
#include "core/watch.h"
#include "util/message.h"
#include "util/util.h"

#include <ctype.h>
#include <stdlib.h>

int terrace__struct_in(void *ours, size_t our_size, const void *theirs, const char *what)
{
	size_t their_size;

	memset(ours, 0, our_size);
	if (theirs) {
		memcpy(&their_size, theirs, sizeof their_size);
		if (their_size < sizeof their_size) {
			terrace__message_set("%s has %zu as its size: begin with what "
			                     "its _INIT gives",
			                     what, their_size);
			return TERRACE_EINVAL;
		}
		memcpy(ours, theirs, their_size < our_size ? their_size : our_size);
		for (size_t i = our_size; i < their_size; i++) {
			if (!((const char *)theirs)[i])
				continue;
			terrace__message_set("%s has fields that this version does not know", what);
			return TERRACE_EINVAL;
		}
	}
	memcpy(ours, &our_size, sizeof our_size);
	return TERRACE_OK;
}

/* --- names and numbers ------------------------------------------------------------------------ */

static int check_name(const char *name, bool own)
{
	size_t size = strlen(name);

	if (size == 0 || size > TERRACE_NAME_MAX) {
		terrace__message_set("a cache's name has 1 to %u bytes; \"%.70s\" has %zu",
		                     TERRACE_NAME_MAX, name, size);
		return TERRACE_EINVAL;
	}
	if (name[0] == '.' && !own) {
		terrace__message_set("cache names that begin with '.' are Terrace's own: \"%s\"",
		                     name);
		return TERRACE_EINVAL;
	}
	for (const char *c = name; *c; c++) {
		if (*c == '/' || iscntrl((unsigned char)*c)) {
			terrace__message_set(
			    "a cache's name holds no '/' and no control characters: "
			    "\"%s\"",
			    name);
			return TERRACE_EINVAL;
		}
	}
	return TERRACE_OK;
}

/* The number of a name; TERRACE_MISS with the first free one. */
static int find_number(const struct shared *shared, const char *name, uint32_t *ret)
{
	uint32_t free_number = CACHES_MAX;

	for (uint32_t i = 0; i < CACHES_MAX; i++) {
		const struct shared_cache *cache = &shared->caches[i];

		if (terrace__cache_is_named(shared, i) && strcmp(cache->name, name) == 0) {
			*ret = i;
			return TERRACE_OK;
		}
		if (free_number == CACHES_MAX && !atomic_load(&cache->named))
			free_number = i;
	}
	*ret = free_number;
	if (free_number < CACHES_MAX)
		return TERRACE_MISS;
	terrace__message_set("the store has %d caches already; cache %s cannot be made", CACHES_MAX,
	                     name);
	return TERRACE_EFULL;
}

struct new_number {
	const char *name;
	uint32_t number;
};

/* Under the writers' lock. */
static int take_number(struct terrace *store, void *ctx)
{
	struct new_number *new = ctx;
	struct transaction transaction;
	/* The file may have lost names that the database knows. */
	int rc = terrace__caches_restore(store);

	if (rc == TERRACE_OK)
		rc = find_number(store->shared, new->name, &new->number);
	if (rc != TERRACE_MISS)
		return rc;
	if (terrace__transaction_mine(store)) {
		terrace__message_set("cache %s is new; open it before the transaction", new->name);
		return TERRACE_EINVAL;
	}
	rc = terrace__transaction_begin(store, &transaction);
	if (rc != TERRACE_OK)
		return rc;
	rc = store->disk_ops->cache_add(store->disk, new->number, new->name);
	if (rc != TERRACE_OK) {
		terrace__transaction_rollback(&transaction);
		return rc;
	}
	rc = terrace__transaction_commit(&transaction);
	if (rc != TERRACE_OK)
		return rc;
	terrace__cache_name(store->shared, new->number, new->name);
	return TERRACE_OK;
}

/* Under the writers' lock. */
static int declare_immutable(struct terrace *store, void *ctx)
{
	struct terrace_cache *cache = ctx;
	struct transaction transaction;
	int rc;

	if (terrace__transaction_mine(store)) {
		terrace__message_set("cache %s becomes immutable; open it before the transaction",
		                     cache->name);
		return TERRACE_EINVAL;
	}
	rc = terrace__power_tighten(store);
	if (rc == TERRACE_OK)
		rc = terrace__transaction_begin(store, &transaction);
	if (rc != TERRACE_OK)
		return rc;
	/* Before the database knows it: if we die in between, all is synced all the same. */
	terrace__immutable_set(store->shared, cache->shared, true);
	rc = store->disk_ops->cache_immutable(store->disk, cache->number);
	if (rc == TERRACE_OK)
		rc = terrace__transaction_commit(&transaction);
	else
		terrace__transaction_rollback(&transaction);
	if (rc != TERRACE_OK)
		terrace__immutable_set(store->shared, cache->shared, false);
	return rc;
}

static int number_cache(struct terrace *store, struct terrace_cache *cache)
{
	struct new_number new = { .name = cache->name };
	int rc = find_number(store->shared, cache->name, &new.number);

	if (rc == TERRACE_MISS && store->read_only) {
		terrace__message_set("the store %s is read-only and has no cache %s", store->dir,
		                     cache->name);
		return TERRACE_EACCESS;
	}
	if (rc == TERRACE_MISS)
		rc = terrace__write_alone(store, take_number, &new);
	if (rc != TERRACE_OK)
		return rc;
	cache->number = new.number;
	cache->shared = &store->shared->caches[new.number];
	cache->first_slot = cache->on_disk ? 0 : VERSIONS;
	cache->slot_mask = (cache->on_disk ? VERSIONS : MEMORY_VERSIONS) - 1;
	cache->versions = &store->shared->versions[cache->first_slot];
	cache->seed = seed_of(store, new.number);
	if (cache->settings[CACHE_immutable].number && !store->read_only &&
	    !cache_is_immutable(store->shared, cache->shared))
		return terrace__write_alone(store, declare_immutable, cache);
	return TERRACE_OK;
}

/* --- policy --------------------------------------------------------------------------------------- */

static int check_policy(const terrace_policy *policy)
{
	const char *what = NULL;

	if (policy->tiers & ~(unsigned)(TERRACE_L1 | TERRACE_L2 | TERRACE_L3))
		what = "tiers holds an unknown tier";
	else if (policy->ttl_ms < TERRACE_TTL_NONE)
		what = "ttl_ms is negative";
	else if (policy->codec > TERRACE_CODEC_AUTO)
		what = "codec is unknown";
	else if (policy->check > TERRACE_CHECK_WATCH)
		what = "check is unknown";
	else if (policy->write > TERRACE_WRITE_BEHIND)
		what = "write is unknown";
	else if (policy->strategy > TERRACE_STRATEGY_BATCH)
		what = "strategy is unknown";
	else if (policy->stale_ms < TERRACE_TTL_FOREVER ||
	         policy->stale_on_error_ms < TERRACE_TTL_FOREVER ||
	         policy->absent_ttl_ms < TERRACE_TTL_FOREVER ||
	         policy->idle_ms < TERRACE_TTL_FOREVER)
		what = "a duration is negative";
	else if (policy->jitter_percent > 100)
		what = "jitter_percent is over 100";
	else if (policy->check == TERRACE_CHECK_INTERVAL && policy->check_interval_ms <= 0)
		what = "check_interval_ms must be set with TERRACE_CHECK_INTERVAL";
	else if (policy->eviction && !terrace__tiers_evictions(policy->eviction))
		what = "eviction is not one of hits, bytes, cost";
	else if (policy->form && (!policy->form->decode || !policy->form->destroy))
		what = "a form needs decode and destroy";
	if (!what)
		return TERRACE_OK;
	terrace__message_set("the cache's policy: %s", what);
	return TERRACE_EINVAL;
}

static void apply_settings(struct terrace_cache *cache)
{
	const struct setting *settings = cache->settings;

	cache->tiers = (unsigned)settings[CACHE_tiers].number;
	if (settings[CACHE_disabled].number || cache->store->disabled)
		cache->tiers = 0;
	if (cache->store->snapshot.taken)
		cache->tiers &= ~(unsigned)TERRACE_L1; /* its copies could not be kept good */
	cache->on_disk = cache->tiers & (TERRACE_L2 | TERRACE_L3);
	cache->ttl_ms = settings[CACHE_ttl].number;
	cache->idle_ms = settings[CACHE_idle].number > 0 ? settings[CACHE_idle].number : 0;
	cache->codec = (terrace_codec)settings[CACHE_codec].number;
	cache->inline_bytes = (uint64_t)settings[CACHE_inline_bytes].number;
	cache->memory_bytes = (uint64_t)settings[CACHE_memory_bytes].number;
	cache->memory_min_bytes = (uint64_t)settings[CACHE_memory_min_bytes].number;
	cache->memory_entries = (uint64_t)settings[CACHE_memory_entries].number;
	cache->encoded_bytes = (uint64_t)settings[CACHE_encoded_bytes].number;
	cache->disk_bytes = (uint64_t)settings[CACHE_disk_bytes].number;
	cache->disk_entries = (uint64_t)settings[CACHE_disk_entries].number;
	cache->watches = settings[CACHE_check].number == CHECK_WATCHED;
	cache->check_ms = cache->watches ? 0 : settings[CACHE_check].number;
	cache->write_behind = settings[CACHE_write].number == TERRACE_WRITE_BEHIND;
	cache->strategy = (terrace_strategy)settings[CACHE_strategy].number;
	cache->stale_ms = settings[CACHE_stale].number;
	cache->stale_error_ms = settings[CACHE_stale_on_error].number;
	cache->absent_ttl_ms = settings[CACHE_absent_ttl].number;
	cache->jitter = (unsigned)settings[CACHE_jitter].number;
}

/* Small limits are kept to the entry, large ones by many threads at once. */
static unsigned shards_for(const struct terrace_cache *cache)
{
	uint64_t bytes = cache->memory_bytes ? cache->memory_bytes : cache->store->memory.most;
	unsigned shards = 16;

	while (shards > 1 && ((cache->memory_entries && cache->memory_entries / 4096 < shards) ||
	                      (bytes && bytes / (16 << 20) < shards)))
		shards /= 2;
	return shards;
}

static int open_memory(struct terrace_cache *cache)
{
	const char *eviction = cache->settings[CACHE_eviction].text;
	struct tier_pool *pool = &cache->store->pool;
	bool by_count = cache->memory_entries && !cache->memory_bytes;
	int rc = TERRACE_OK;

	if (cache->tiers & TERRACE_L1)
		rc = terrace__tiers_memory(eviction, by_count, cache->on_disk, shards_for(cache),
		                           pool, &cache->memory_ops, &cache->memory);
	if (rc == TERRACE_OK && cache->memory && cache->has_form && cache->encoded_bytes)
		rc = terrace__tiers_memory(
		    eviction, false, cache->on_disk, cache->encoded_bytes < 8 << 20 ? 1 : 16,
		    &cache->store->encoded_pool, &cache->memory_ops, &cache->encoded);
	return rc;
}

/* What is promised must be there: to this cache, and to all of them. */
static int check_promise(const struct terrace_cache *cache)
{
	struct terrace *store = cache->store;
	uint64_t wanted = cache->memory_min_bytes, others, all = atomic_load(&store->memory.most);

	if (wanted == 0)
		return TERRACE_OK;
	/* Another thread may have opened this very one meanwhile. */
	others = terrace__memory_promised(store, cache->name);
	if ((all == 0 || (wanted <= all && others <= all - wanted)) &&
	    (cache->memory_bytes == 0 || wanted <= cache->memory_bytes))
		return TERRACE_OK;
	terrace__message_set("cache %s: memory_min_bytes %llu cannot be promised: memory_bytes of "
	                     "the cache is %llu (0: any), of the store %llu, of which other "
	                     "caches are promised %llu",
	                     cache->name, (unsigned long long)wanted,
	                     (unsigned long long)cache->memory_bytes, (unsigned long long)all,
	                     (unsigned long long)others);
	return TERRACE_ECONFIG;
}

/* What goes into memory alone needs memory. */
static int check_strategy(const struct terrace_cache *cache)
{
	if (cache->strategy != TERRACE_STRATEGY_IMMEDIATE || cache->tiers & TERRACE_L1 ||
	    cache->store->snapshot.taken)
		return TERRACE_OK;
	terrace__message_set("cache %s: strategy immediate keeps values in l1 alone, which is not "
	                     "among its tiers; add l1, or choose another strategy",
	                     cache->name);
	return TERRACE_ECONFIG;
}

/* One for all caches: an entry's epoch is that of the watch that it is in. */
static int have_watch(struct terrace *store)
{
	bool made;

	pthread_mutex_lock(&store->caches_lock);
	if (!store->watch)
		store->watch = terrace__watch_new(store);
	made = store->watch != NULL;
	pthread_mutex_unlock(&store->caches_lock);
	return made ? TERRACE_OK : no_memory("the watch on sources");
}

static int cache_make(struct terrace *store, const char *name, const terrace_policy *policy,
                      struct terrace_cache **ret)
{
	struct terrace_cache *cache = calloc(1, sizeof *cache);
	int rc;

	if (!cache)
		return no_memory("a cache");
	cache->magic = CACHE_MAGIC;
	cache->store = store;
	terrace__codecs_init(&cache->codecs);
	strcpy(cache->name, name);
	*ret = cache;
	rc = terrace__settings_cache(store->config, name, policy, cache->settings);
	if (rc != TERRACE_OK)
		return rc;
	apply_settings(cache);
	if (policy->form) {
		cache->has_form = true;
		cache->form = *policy->form;
	}
	if (cache->tiers == 0)
		return TERRACE_OK;
	cache->name_next = policy->next;
	cache->next_ctx = policy->next_ctx;
	if (cache->watches)
		rc = have_watch(store);
	if (rc == TERRACE_OK)
		rc = check_strategy(cache);
	if (rc == TERRACE_OK)
		rc = check_promise(cache);
	if (rc == TERRACE_OK)
		rc = number_cache(store, cache);
	if (rc == TERRACE_OK)
		rc = open_memory(cache);
	hits_settle(cache);
	cache->puts_simply = rc == TERRACE_OK && cache->memory && !cache->on_disk &&
	                     !cache->has_form && !store->read_only &&
	                     cache->ttl_ms == TERRACE_TTL_FOREVER &&
	                     terrace__idle_ms(cache, 0) == 0;
	return rc;
}

static void cache_free(struct terrace_cache *cache)
{
	if (!cache)
		return;
	if (cache->memory)
		cache->memory_ops->close(cache->memory);
	if (cache->encoded)
		cache->memory_ops->close(cache->encoded);
	terrace__codecs_done(&cache->codecs);
	terrace__settings_free(cache->settings, CACHE_SETTING_COUNT);
	cache->magic = 0;
	atomic_store(&cache->hits_simply, 0);
	free(cache);
}

static struct terrace_cache *find_open(struct terrace *store, const char *name)
{
	struct terrace_cache *cache = store->caches;

	while (cache && strcmp(cache->name, name) != 0)
		cache = cache->next;
	return cache;
}

int terrace__cache_open(struct terrace *store, const char *name, const terrace_policy *policy,
                        bool own, struct terrace_cache **ret)
{
	struct terrace_cache *cache, *made = NULL;
	terrace_policy ours;
	int rc = terrace__struct_in(&ours, sizeof ours, policy, "the policy");

	if (rc == TERRACE_OK)
		rc = check_name(name, own);
	if (rc == TERRACE_OK)
		rc = check_policy(&ours);
	if (rc != TERRACE_OK)
		return rc;
	pthread_mutex_lock(&store->caches_lock);
	cache = find_open(store, name);
	if (cache)
		cache->handles++;
	pthread_mutex_unlock(&store->caches_lock);
	if (!cache) {
		/* Outside the lock, because it may have to wait for writers. */
		rc = cache_make(store, name, &ours, &made);
		if (rc != TERRACE_OK) {
			cache_free(made);
			return rc;
		}
		pthread_mutex_lock(&store->caches_lock);
		cache = find_open(store, name); /* another thread may have been faster */
		if (!cache) {
			cache = made;
			made = NULL;
			cache->next = store->caches;
			store->caches = cache;
		}
		cache->handles++;
		pthread_mutex_unlock(&store->caches_lock);
		cache_free(made);
	}
	*ret = cache;
	return TERRACE_OK;
}

void terrace__cache_close(struct terrace_cache *cache, bool force)
{
	struct terrace *store = cache->store;
	struct terrace_cache **at;
	bool last;

	if (cache->on_disk)
		terrace__behind_leave(cache);
	pthread_mutex_lock(&store->caches_lock);
	last = force || --cache->handles == 0;
	if (last) {
		for (at = &store->caches; *at != cache; at = &(*at)->next)
			;
		*at = cache->next;
		/* At once: who opens it again has the same lock. */
		terrace__memory_leave(cache);
		terrace__keeper_await(store, cache);
	}
	pthread_mutex_unlock(&store->caches_lock);
	if (!last)
		return;
	terrace__ahead_close(cache);
	if (cache->tiers)
		terrace__stats_fold(cache);
	terrace__memory_clear(cache);
	cache_free(cache);
}

size_t terrace__caches_hold(struct terrace *store, struct terrace_cache *ret[CACHES_MAX])
{
	size_t count = 0;

	pthread_mutex_lock(&store->caches_lock);
	for (struct terrace_cache *cache = store->caches; cache && count < CACHES_MAX;
	     cache = cache->next) {
		cache->handles++;
		ret[count++] = cache;
	}
	pthread_mutex_unlock(&store->caches_lock);
	return count;
}

void terrace__stats_fold(struct terrace_cache *cache)
{
	struct terrace *store = cache->store;
	struct memory_counts now, *was = &cache->folded;
	int rc = 0;

	pthread_mutex_lock(&store->stats_lock);
	if (cache->memory) {
		now = terrace__tiers_memory_counts(cache->memory);
		count_add(&cache->counts, COUNT_hits_l1, now.hits - was->hits);
		count_add(&cache->counts, COUNT_saved_us, now.saved_us - was->saved_us);
		count_add(&cache->counts, COUNT_puts, now.puts - was->puts);
		count_add(&cache->counts, COUNT_evicted_l1, now.evicted - was->evicted);
		*was = now;
	}
	if (!store->read_only)
		rc = terrace__stats_file_add(store->dir_fd, store->lock_fd, cache->number,
		                             &cache->counts);
	pthread_mutex_unlock(&store->stats_lock);
	if (rc < 0)
		terrace__log(store, TERRACE_LOG_WARN, "%s: adding to the statistics: %s",
		             cache->name, strerror(-rc));
}

struct terrace_cache *terrace__digests(struct terrace *store)
{
	struct terrace_cache *cache = NULL;

	if (!store || store->disabled || store->read_only)
		return NULL;
	pthread_mutex_lock(&store->caches_lock);
	cache = store->digests;
	pthread_mutex_unlock(&store->caches_lock);
	if (cache)
		return cache;
	if (terrace__cache_open(store, ".files", NULL, true, &cache) != TERRACE_OK) {
		terrace__swallow(store, NULL, "opening the cache of file hashes");
		return NULL;
	}
	pthread_mutex_lock(&store->caches_lock);
	if (!store->digests)
		store->digests = cache;
	else
		cache->handles--; /* another thread was faster: the same cache, counted twice */
	pthread_mutex_unlock(&store->caches_lock);
	return cache;
}

void terrace__count_evicted(struct terrace *store, uint32_t number,
                            const struct tier_evicted *evicted)
{
	struct terrace_cache *cache;

	pthread_mutex_lock(&store->caches_lock);
	for (cache = store->caches; cache; cache = cache->next) {
		if (cache->number != number || !cache->tiers)
			continue;
		count_add(&cache->counts, COUNT_evicted_l2, evicted->entries_l2);
		count_add(&cache->counts, COUNT_evicted_l3, evicted->entries_l3);
		event_of_many(cache, TERRACE_EVENT_EVICT, TERRACE_L2, evicted->entries_l2);
		event_of_many(cache, TERRACE_EVENT_EVICT, TERRACE_L3, evicted->entries_l3);
	}
	pthread_mutex_unlock(&store->caches_lock);
}
