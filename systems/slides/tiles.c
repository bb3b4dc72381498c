#include "slides/tiles.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { KEY_SIZE = 16 + 3 * 4, SLIDES_MAX = 4096 };

struct pooled {
	struct slide *slide;
	char *path; /* as it was asked for */
	int64_t looked_ms;
	uint64_t used;
};

struct tiles {
	terrace *store;
	terrace_cache *plain, *made;
	struct tiles_budget budget;

	pthread_mutex_t lock; /* the pool */
	struct pooled *pool;
	size_t pooled;
	uint64_t turn;
	_Atomic uint64_t parsed;

	_Atomic uint64_t served[FROMS], failed, read_bytes;
};

const char *tiles_from_name(enum tiles_from from)
{
	static const char *const names[] = { "decoded", "memory", "disk", "source" };

	return names[from];
}

/* --- budgets ------------------------------------------------------------------------------------ */

/* Of this machine, or of the control group that this process is in. */
static uint64_t memory_of_machine(void)
{
	uint64_t bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	char path[PATH_MAX], line[PATH_MAX - 64] = "", *end;
	unsigned long long limit;
	FILE *file = fopen("/proc/self/cgroup", "re");

	if (file && fgets(line, sizeof line, file) && strncmp(line, "0::", 3) == 0) {
		line[strcspn(line, "\n")] = '\0';
		for (;;) {
			FILE *max;

			snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", line + 3);
			max = fopen(path, "re");
			if (max && fscanf(max, "%llu", &limit) == 1 && limit < bytes)
				bytes = limit;
			if (max)
				fclose(max);
			end = strrchr(line + 3, '/');
			if (!end)
				break;
			*end = '\0';
		}
	}
	if (file)
		fclose(file);
	return bytes;
}

static int megabytes(const char *variable, uint64_t least, uint64_t *bytes)
{
	const char *text = getenv(variable);
	unsigned long long value;
	char *end;

	if (!text || !*text)
		return TERRACE_OK;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || value > UINT64_MAX >> 20 ||
	    value < least)
		return terrace_fail(TERRACE_ECONFIG,
		                    "environment %s: \"%s\" is no number of megabytes; write 512",
		                    variable, text);
	*bytes = (uint64_t)value << 20;
	return TERRACE_OK;
}

int tiles_budget(struct tiles_budget *ret)
{
	struct tiles_budget budget = { UINT64_C(512) << 20, UINT64_C(32768) << 20 };
	uint64_t memory = memory_of_machine();
	int rc = megabytes("FASTPATH_L1_CACHE_MB", 1, &budget.decoded_bytes);

	if (rc == TERRACE_OK)
		rc = megabytes("FASTPATH_L2_CACHE_MB", 0, &budget.jpeg_bytes);
	if (rc != TERRACE_OK)
		return rc;
	if (budget.decoded_bytes > memory / 4)
		budget.decoded_bytes = memory / 4;
	if (budget.jpeg_bytes > memory / 2)
		budget.jpeg_bytes = memory / 2;
	*ret = budget;
	return TERRACE_OK;
}

/* --- opening --------------------------------------------------------------------------------------- */

/* Tells a picture that was in memory from one that has just been made of its JPEG. */
static _Thread_local bool has_decoded;

static int decode(void *ctx, terrace_slice bytes, void **ret_object, size_t *ret_weight)
{
	struct picture *picture;
	int rc = jpeg_decode(bytes, SLIDE_TILE_MAX + 2 * SLIDE_OVERLAP_MAX, &picture);

	has_decoded = true;
	(void)ctx;
	if (rc != TERRACE_OK)
		return rc;
	*ret_object = picture;
	*ret_weight = picture_weight(picture);
	return 0;
}

static void destroy(void *ctx, void *object)
{
	(void)ctx;
	free(object);
}

/* A tile goes in before another goes out: leave room for those of all threads. */
static uint64_t below(uint64_t budget)
{
	return budget - (budget / 16 < 8 << 20 ? budget / 16 : 8 << 20);
}

static int open_caches(struct tiles *tiles)
{
	terrace_form form = TERRACE_FORM_INIT;
	terrace_policy policy = TERRACE_POLICY_INIT;
	int rc;

	form.decode = decode;
	form.destroy = destroy;
	policy.form = &form;
	policy.check = TERRACE_CHECK_MANUAL; /* keys name the state of the files */
	policy.memory_bytes = below(tiles->budget.decoded_bytes);
	policy.encoded_bytes = below(tiles->budget.jpeg_bytes);
	policy.codec = TERRACE_CODEC_NONE; /* they are compressed already */
	policy.tiers = TERRACE_L1;
	policy.description = "tiles of slides that lie in files";
	rc = terrace_cache_open(tiles->store, "slides", &policy, &tiles->plain);
	if (rc != TERRACE_OK)
		return rc;
	policy.tiers = TERRACE_L1 | TERRACE_L2 | TERRACE_L3;
	policy.description = "tiles cut from scanners' files";
	return terrace_cache_open(tiles->store, "slides.made", &policy, &tiles->made);
}

int tiles_open(const char *dir, const char *config_path, const struct tiles_budget *budget,
               void (*warn)(const char *message), struct tiles **ret)
{
	struct tiles *tiles = calloc(1, sizeof *tiles);
	terrace_options options = TERRACE_OPTIONS_INIT;
	int rc;

	if (!tiles)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a tile cache");
	tiles->budget = *budget;
	pthread_mutex_init(&tiles->lock, NULL);
	options.config_path = config_path;
	options.memory_bytes = below(budget->decoded_bytes);
	options.encoded_bytes = below(budget->jpeg_bytes);
	/* What is cached is a help; that it cannot be is no reason to show nothing. */
	rc = terrace_open(dir, &options, &tiles->store);
	if (rc != TERRACE_OK) {
		if (warn)
			warn(terrace_error_message());
		options.disabled = true;
		rc = terrace_open(dir, &options, &tiles->store);
	}
	if (rc == TERRACE_OK)
		rc = open_caches(tiles);
	if (rc != TERRACE_OK) {
		tiles_close(tiles);
		return rc;
	}
	*ret = tiles;
	return TERRACE_OK;
}

void tiles_close(struct tiles *tiles)
{
	if (!tiles)
		return;
	for (size_t i = 0; i < tiles->pooled; i++) {
		slide_unref(tiles->pool[i].slide);
		free(tiles->pool[i].path);
	}
	free(tiles->pool);
	terrace_cache_close(tiles->plain);
	terrace_cache_close(tiles->made);
	terrace_close(tiles->store);
	pthread_mutex_destroy(&tiles->lock);
	free(tiles);
}

/* --- the pool of slides: under its lock --------------------------------------------------------------- */

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct pooled *find_pooled(struct tiles *tiles, const char *path)
{
	for (size_t i = 0; i < tiles->pooled; i++) {
		if (strcmp(tiles->pool[i].path, path) == 0)
			return &tiles->pool[i];
	}
	return NULL;
}

static void drop_pooled(struct tiles *tiles, struct pooled *pooled)
{
	slide_unref(pooled->slide);
	free(pooled->path);
	*pooled = tiles->pool[--tiles->pooled];
}

/* A place for one more; the one that was used longest ago gives its own. */
static struct pooled *add_pooled(struct tiles *tiles, const char *path)
{
	struct pooled *grown, *oldest;
	char *copy = strdup(path);

	if (tiles->pooled == SLIDES_MAX) {
		oldest = &tiles->pool[0];
		for (size_t i = 1; i < tiles->pooled; i++) {
			if (tiles->pool[i].used < oldest->used)
				oldest = &tiles->pool[i];
		}
		drop_pooled(tiles, oldest);
	}
	grown = realloc(tiles->pool, (tiles->pooled + 1) * sizeof *grown);
	if (!grown || !copy) {
		if (grown)
			tiles->pool = grown;
		free(copy);
		return NULL;
	}
	tiles->pool = grown;
	grown[tiles->pooled] = (struct pooled){ .path = copy };
	return &grown[tiles->pooled++];
}

static bool is_unchanged(struct pooled *pooled, int64_t age_ms)
{
	int64_t now = now_ms();
	terrace_digest stamp;

	if (age_ms > 0 && now - pooled->looked_ms < age_ms)
		return true;
	if (slide_stamp_now(pooled->slide->path, &stamp) != TERRACE_OK ||
	    memcmp(&stamp, &pooled->slide->stamp, sizeof stamp) != 0)
		return false;
	pooled->looked_ms = now;
	return true;
}

int tiles_slide(struct tiles *tiles, const char *path, int64_t age_ms, struct slide **ret)
{
	struct pooled *pooled;
	struct slide *slide;
	int rc = TERRACE_OK;

	pthread_mutex_lock(&tiles->lock);
	pooled = find_pooled(tiles, path);
	if (pooled && !is_unchanged(pooled, age_ms)) {
		drop_pooled(tiles, pooled);
		pooled = NULL;
	}
	if (!pooled) {
		/* Under the lock, so that many who want it parse it once. */
		rc = slide_open(path, &slide);
		atomic_fetch_add(&tiles->parsed, 1);
		if (rc == TERRACE_OK) {
			pooled = add_pooled(tiles, path);
			if (pooled) {
				pooled->slide = slide;
				pooled->looked_ms = now_ms();
			} else {
				slide_unref(slide);
				rc = terrace_fail(TERRACE_ENOMEM, "out of memory for a slide");
			}
		}
	}
	if (rc == TERRACE_OK) {
		pooled->used = ++tiles->turn;
		*ret = slide_ref(pooled->slide);
	}
	pthread_mutex_unlock(&tiles->lock);
	return rc;
}

uint64_t tiles_parsed(const struct tiles *tiles)
{
	return atomic_load(&tiles->parsed);
}

/* --- tiles ------------------------------------------------------------------------------------------------ */

static void put_u32(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 24);
	at[1] = (uint8_t)(value >> 16);
	at[2] = (uint8_t)(value >> 8);
	at[3] = (uint8_t)value;
}

static terrace_slice key_of(const struct slide *slide, const struct tile *tile,
                            uint8_t key[KEY_SIZE])
{
	memcpy(key, slide->id.bytes, 16);
	put_u32(key + 16, tile->level);
	put_u32(key + 20, tile->col);
	put_u32(key + 24, tile->row);
	return terrace_bytes(key, KEY_SIZE);
}

static terrace_cache *cache_of(struct tiles *tiles, const struct slide *slide)
{
	return slide->kind == SLIDE_OPENSLIDE ? tiles->made : tiles->plain;
}

struct load {
	struct tiles *tiles;
	struct slide *slide;
	const struct tile *tile;
	tiles_guard *guard;
	void *ctx;
};

static int load(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	struct load *load = ctx;
	const struct tile *tile = load->tile;
	size_t size;
	void *bytes;
	int rc = load->guard ? load->guard(load->ctx) : TERRACE_OK;

	(void)key;
	if (rc == TERRACE_OK)
		rc = slide_read(load->slide, tile->level, tile->col, tile->row, &bytes, &size);
	if (rc != TERRACE_OK)
		return rc;
	atomic_fetch_add(&load->tiles->read_bytes, size);
	return terrace_loaded_take(loaded, bytes, size);
}

typedef int fetch_fn(terrace_cache *cache, terrace_slice key, terrace_load_fn *load, void *ctx,
                     terrace_value **ret);

static int get(struct tiles *tiles, struct slide *slide, const struct tile *tile,
               tiles_guard *guard, void *ctx, fetch_fn *fetch, terrace_value **ret,
               enum tiles_from *ret_from)
{
	struct load from = { tiles, slide, tile, guard, ctx };
	uint8_t key[KEY_SIZE];
	enum tiles_from where;
	int rc;

	has_decoded = false;
	rc = fetch(cache_of(tiles, slide), key_of(slide, tile, key), load, &from, ret);

	if (rc != TERRACE_OK) {
		if (rc < 0)
			atomic_fetch_add_explicit(&tiles->failed, 1, memory_order_relaxed);
		return rc;
	}
	switch (terrace_value_tier(*ret)) {
	case TERRACE_L1:
		where = terrace_object(*ret) && !has_decoded ? FROM_DECODED : FROM_MEMORY;
		break;
	case TERRACE_L2:
	case TERRACE_L3:
		where = FROM_DISK;
		break;
	default:
		where = FROM_SOURCE;
	}
	if (ret_from) {
		*ret_from = where;
		atomic_fetch_add_explicit(&tiles->served[where], 1, memory_order_relaxed);
	}
	return TERRACE_OK;
}

int tiles_picture(struct tiles *tiles, struct slide *slide, const struct tile *tile,
                  tiles_guard *guard, void *ctx, terrace_value **ret, enum tiles_from *ret_from)
{
	int rc = get(tiles, slide, tile, guard, ctx, terrace_fetch, ret, ret_from);

	/* The one thing that may be wrong with the call is that the tile does not decode. */
	return rc == TERRACE_EINVAL ? TERRACE_ECORRUPT : rc;
}

int tiles_jpeg(struct tiles *tiles, struct slide *slide, const struct tile *tile,
               tiles_guard *guard, void *ctx, terrace_value **ret, enum tiles_from *ret_from)
{
	return get(tiles, slide, tile, guard, ctx, terrace_fetch_encoded, ret, ret_from);
}

bool tiles_has(struct tiles *tiles, const struct slide *slide, const struct tile *tile)
{
	uint8_t key[KEY_SIZE];

	return terrace_exists(cache_of(tiles, slide), key_of(slide, tile, key)) == TERRACE_OK;
}

bool tiles_full(const struct tiles *tiles)
{
	return atomic_load(&tiles->read_bytes) >= tiles->budget.jpeg_bytes / 10 * 9;
}

static void add_cache(terrace_cache *cache, struct tiles_stats *ret)
{
	terrace_stats stats = TERRACE_STATS_INIT;

	if (!cache || terrace_cache_stats(cache, &stats) != TERRACE_OK)
		return;
	ret->decoded_bytes += stats.l1.bytes;
	ret->decoded_entries += stats.l1.entries;
	ret->jpeg_bytes += stats.encoded.bytes;
	ret->jpeg_entries += stats.encoded.entries;
	ret->disk_bytes += stats.l2.bytes + stats.l3.bytes;
	ret->disk_entries += stats.l2.entries + stats.l3.entries;
}

void tiles_stats(struct tiles *tiles, struct tiles_stats *ret)
{
	*ret = (struct tiles_stats){
		.failed = atomic_load(&tiles->failed),
		.decoded_limit = tiles->budget.decoded_bytes,
		.jpeg_limit = tiles->budget.jpeg_bytes,
	};
	for (int i = 0; i < FROMS; i++)
		ret->served[i] = atomic_load(&tiles->served[i]);
	add_cache(tiles->plain, ret);
	add_cache(tiles->made, ret);
}
