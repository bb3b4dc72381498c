/*
 * A store whose database is not what was written: the first byte is 'w' where
 * the rest is the whole file, else a list of changes to a good one; with 'm' the
 * pages get the sums of what they hold then, as no damage does. Then the store
 * is opened, read, written, verified, repaired and opened again.
 *
 * Whatever the bytes: a get gives what was put under that key, or nothing; a
 * delete that succeeded leaves nothing; what was repaired is in order. With 'm' a
 * get may give what was put there before.
 */
#include "fuzz.h"

#include "tiers/sqlite/vfs.h"
#include "util/buf.h"
#include "util/hash.h"

#include <ftw.h>
#include <sqlite3.h>

enum { KEYS = 12, CACHES = 3, CHANGES_MAX = 64 };

static const char *const cache_names[CACHES] = { "rows", "files", "both" };
static const unsigned cache_tiers[CACHES] = {
	TERRACE_L2,
	TERRACE_L3,
	TERRACE_L1 | TERRACE_L2 | TERRACE_L3,
};

static char store_dir[256], template_dir[256], database[256];
static uint8_t *good; /* the database, as it was closed */
static size_t good_size;
static bool mended;

/* No setting of whoever runs this, and a clock that stands. */
static int64_t stand_still(void *ctx)
{
	(void)ctx;
	return INT64_C(1700000000000);
}

static int open_store(terrace **ret, terrace_cache **caches)
{
	terrace_options options = TERRACE_OPTIONS_INIT;
	int rc;

	options.clock = stand_still;
	options.pressure_path = options.cgroup_path = "";
	rc = terrace_open(store_dir, &options, ret);
	if (rc != TERRACE_OK)
		return rc;
	for (int i = 0; i < CACHES; i++) {
		terrace_policy policy = TERRACE_POLICY_INIT;

		policy.tiers = cache_tiers[i];
		policy.inline_bytes = 300;
		policy.codec = i == 2 ? TERRACE_CODEC_ZSTD : TERRACE_CODEC_LZ4;
		if (terrace_cache_open(*ret, cache_names[i], &policy, &caches[i]) != TERRACE_OK)
			caches[i] = NULL;
	}
	return TERRACE_OK;
}

/* What is put under a key: who reads something else was lied to. */
static terrace_slice value_of(int cache, int key, const char *when, char text[1024])
{
	size_t size = (size_t)snprintf(text, 1024, "%s: key %d of %s;", when, key,
	                               cache_names[cache]);

	while (size < (size_t)key * 60)
		size += (size_t)snprintf(text + size, 1024 - size, " %d", key);
	return terrace_bytes(text, size);
}

static terrace_slice key_of(int key, char text[32])
{
	return terrace_bytes(text, (size_t)snprintf(text, 32, "key %d", key));
}

static int put(terrace_cache *cache, int which, int key, const char *when)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	static const char *const tags[] = { "red" };
	char text[1024], name[32];

	options.tags = tags;
	options.tag_count = key % 2;
	return terrace_put(cache, key_of(key, name), value_of(which, key, when, text), &options);
}

/* One get: nothing, or what was put there then or now. */
static void check_get(terrace_cache *cache, int which, int key, const char *then, const char *now)
{
	char text[1024], name[32];
	terrace_value *value;
	terrace_slice got;

	if (terrace_get(cache, key_of(key, name), &value) != TERRACE_OK)
		return;
	got = terrace_bytes(terrace_data(value), terrace_size(value));
	if (mended)
		then = "then";
	must((then && same_bytes(got, value_of(which, key, then, text))) ||
	         ((now || mended) && same_bytes(got, value_of(which, key, "now", text))),
	     "a get gives what was put under its key");
	terrace_release(value);
}

static void check_gets(terrace_cache **caches, const char *then, const char *now)
{
	for (int i = 0; i < CACHES; i++) {
		for (int key = 0; caches[i] && key < KEYS; key++)
			check_get(caches[i], i, key, then, now);
	}
}

/* Write a third of the keys, delete a third. */
static void check_writes(terrace_cache **caches)
{
	char name[32];

	for (int i = 0; i < CACHES; i++) {
		for (int key = 0; caches[i] && key < KEYS; key++) {
			if (key % 3 == 0)
				check_get(caches[i], i, key,
				          put(caches[i], i, key, "now") == TERRACE_OK ? NULL :
				                                                        "then",
				          "now");
			else if (key % 3 == 1 &&
			         terrace_delete(caches[i], key_of(key, name)) >= TERRACE_OK)
				check_get(caches[i], i, key, NULL, NULL);
		}
	}
}

static void look_at_everything(terrace *store, terrace_cache **caches)
{
	const terrace_match red = { TERRACE_MATCH_TAG, terrace_str("red") };

	for (int i = 0; i < CACHES; i++) {
		terrace_stats stats = TERRACE_STATS_INIT;
		terrace_why why = TERRACE_WHY_INIT;
		uint64_t count;

		if (!caches[i])
			continue;
		terrace_cache_stats(caches[i], &stats);
		terrace_explain(caches[i], terrace_str("key 5"), &why);
		terrace_info_free(&why.info);
		terrace_cleanup(store, caches[i], &count);
		terrace_invalidate(caches[i], &red, &count);
	}
}

static void check_verify(terrace *store)
{
	terrace_verify_report report = TERRACE_VERIFY_INIT;

	terrace_verify(store, false, NULL, NULL, &report);
	if (terrace_verify(store, true, NULL, NULL, &report) != TERRACE_OK)
		return;
	must(terrace_verify(store, false, NULL, NULL, &report) == TERRACE_OK,
	     "what was repaired is in order");
}

static void close_store(terrace *store, terrace_cache **caches)
{
	for (int i = 0; i < CACHES; i++)
		terrace_cache_close(caches[i]);
	terrace_close(store);
}

/* --- the database --------------------------------------------------------------------------- */

static uint8_t *read_whole(const char *path, size_t size)
{
	FILE *file = fopen(path, "rb");
	uint8_t *bytes = malloc(size ? size : 1);

	must(file && bytes && fread(bytes, 1, size, file) == size, path);
	fclose(file);
	return bytes;
}

/* What is below the template, below the store. */
static int copy_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	char copy[600];

	(void)ftw;
	snprintf(copy, sizeof copy, "%s%s", store_dir, path + strlen(template_dir));
	if (type == FTW_D) {
		must(mkdir(copy, 0700) == 0, "a folder can be made");
	} else {
		size_t size = (size_t)st->st_size;
		uint8_t *bytes = read_whole(path, size);

		fuzz_write(copy, terrace_bytes(bytes, size));
		free(bytes);
	}
	return 0;
}

/* Everything into the one file: SQLite does that when the last connection closes. */
static void fold_wal(void)
{
	char wal[300];
	sqlite3 *db;

	must(sqlite3_open_v2(database, &db, SQLITE_OPEN_READWRITE, "terrace") == SQLITE_OK &&
	         sqlite3_exec(db, "SELECT count(*) FROM entry", NULL, NULL, NULL) == SQLITE_OK,
	     "SQLite reads it");
	sqlite3_close(db);
	snprintf(wal, sizeof wal, "%s-wal", database);
	must(access(wal, F_OK) != 0, "there is one file");
}

/* A good store, closed; what each run begins with. */
static void make_template(void)
{
	terrace_cache *caches[CACHES];
	char path[256];
	struct stat st;
	terrace *store;

	setenv("XDG_CONFIG_HOME", "/nonexistent", 1);
	unsetenv("TERRACE_DIR");
	unsetenv("TERRACE_CONFIG");
	fuzz_path("store", store_dir);
	fuzz_path("template", template_dir);
	snprintf(database, sizeof database, "%.200s/v2/db-1", store_dir);
	must(open_store(&store, caches) == TERRACE_OK, terrace_error_message());
	for (int i = 0; i < CACHES; i++) {
		for (int key = 0; key < KEYS; key++)
			must(put(caches[i], i, key, "then") == TERRACE_OK, "a good store takes it");
	}
	close_store(store, caches);
	fold_wal();
	/* Large, and made where it is missing. */
	snprintf(path, sizeof path, "%.200s/v2/shared", store_dir);
	unlink(path);
	must(stat(database, &st) == 0, "there is a database");
	good_size = (size_t)st.st_size;
	good = read_whole(database, good_size);
	must(rename(store_dir, template_dir) == 0, "it can be kept");
}

static void make_store(void)
{
	if (!good)
		make_template();
	fuzz_remove(store_dir);
	nftw(template_dir, copy_one, 16, FTW_PHYS);
}

/* Where the n-th value begins that is stored as it is; NULL where there are fewer. */
static uint8_t *find_value(uint8_t *bytes, size_t size, size_t n)
{
	static const char start[] = "then: key";
	uint8_t *spot = memmem(bytes, size, start, strlen(start));

	while (spot && n-- > 0)
		spot = memmem(spot + 1, size - (size_t)(spot + 1 - bytes), start, strlen(start));
	return spot;
}

/* A list of small damages. */
static size_t change(struct input *in, uint8_t *bytes, size_t size)
{
	for (int i = 0; i < CHANGES_MAX && in->at < in->end && size > 0; i++) {
		uint8_t what = take_u8(in);
		size_t at = take_u24(in) % size, pages = size / 4096, length;
		uint8_t page[4096], *spot;
		terrace_slice part;

		switch (what % 8) {
		case 0: /* a bit */
			bytes[at] ^= (uint8_t)(1u << (what >> 5));
			break;
		case 1: /* bytes; the first page is where most is decided */
			at %= what & 128 ? size : 4096;
			part = take_bytes(in, 1u + what / 8 % 16);
			length = part.size < size - at ? part.size : size - at;
			memcpy(bytes + at, part.data, length);
			break;
		case 2: /* zeros */
			length = 1u << what / 8 % 14;
			memset(bytes + at, 0, length < size - at ? length : size - at);
			break;
		case 3: /* two pages swapped */
			if (pages < 2)
				break;
			length = take_u8(in) % pages;
			at = at / 4096 % pages;
			memcpy(page, bytes + 4096 * at, 4096);
			memcpy(bytes + 4096 * at, bytes + 4096 * length, 4096);
			memcpy(bytes + 4096 * length, page, 4096);
			break;
		case 4: /* shorter */
			size = what & 128 ? at : at / 4096 * 4096;
			break;
		case 5: /* a bit of a value, or close to one */
			spot = find_value(bytes, size, at % 64);
			if (spot)
				spot[at / 64 % 40] ^= (uint8_t)(1u << (what >> 5));
			break;
		case 6: /* a part of the file elsewhere */
			length = take_u24(in) % size;
			part = terrace_bytes(bytes + length, size - length);
			length = 1u << what / 8 % 12;
			if (length > part.size)
				length = part.size;
			if (length > size - at)
				length = size - at;
			memmove(bytes + at, part.data, length);
			break;
		}
	}
	return size;
}

static void replace_database(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	uint8_t what = take_u8(&in), *bytes;
	size_t changed;

	mended = false;
	if (what == 'w') {
		fuzz_write(database, terrace_bytes(in.at, (size_t)(in.end - in.at)));
		return;
	}
	bytes = malloc(good_size);
	memcpy(bytes, good, good_size);
	changed = change(&in, bytes, good_size);
	mended = what == 'm';
	for (size_t at = 0; mended && at + 4096 <= changed; at += 4096)
		terrace__store_u64(bytes + at + 4088,
		                   terrace__hash64(bytes + at, 4088, PAGE_SUM_SEED + at / 4096));
	fuzz_write(database, terrace_bytes(bytes, changed));
	free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	terrace_cache *caches[CACHES];
	terrace *store;

	make_store();
	replace_database(data, size);
	if (open_store(&store, caches) != TERRACE_OK) {
		must(*terrace_error_message() != '\0', "a refusal says why");
		return 0;
	}
	check_gets(caches, "then", NULL);
	check_writes(caches);
	check_gets(caches, "then", "now");
	look_at_everything(store, caches);
	check_verify(store);
	check_gets(caches, "then", "now");
	close_store(store, caches);
	if (open_store(&store, caches) == TERRACE_OK) {
		check_gets(caches, "then", "now");
		close_store(store, caches);
	}
	return 0;
}
