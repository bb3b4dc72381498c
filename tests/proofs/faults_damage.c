/* Dictionaries, and stores of which something is damaged. */
#include "proofs/faults.h"

#include "core/caches.h"
#include "core/codecs.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>

/* --- dictionaries --------------------------------------------------------------------------------- */

/* As few values as one is made of, like each other and not like themselves. */
enum { RECORDS = 240 };

static terrace_slice record_of(unsigned i, char ret[320])
{
	static const char *const words[] = { "available", "measured", "upstream", "calibrated" };
	struct random random = { i };
	int size = 0;

	for (int field = 0; field < 8; field++)
		size += snprintf(ret + size, 320 - (size_t)size, "\"%c_%s_of_field\":\"%s %llu\",",
		                 'a' + field, words[field % 4], words[random_below(&random, 4)],
		                 (unsigned long long)random_below(&random, 1000));
	return terrace_bytes(ret, (size_t)size);
}

static int open_records(struct opened *o, terrace_codec codec, terrace_cache **ret)
{
	terrace_policy policy = TERRACE_POLICY_INIT;

	policy.codec = codec;
	policy.tiers = TERRACE_L2;
	return terrace_cache_open(o->store, "records", &policy, ret);
}

/* They are there, and no dictionary is. */
static void prepare_records(struct opened *o)
{
	static char texts[RECORDS][320], keys[RECORDS][16];
	terrace_item items[RECORDS];
	terrace_cache *cache;
	char path[300];

	snprintf(path, sizeof path, "%s/store/v2/dictionaries", o->dir);
	if (access(path, F_OK) == 0)
		remove_dir(path);
	if (open_records(o, TERRACE_CODEC_ZSTD, &cache) != TERRACE_OK) {
		lie("records", terrace_error_message());
		return;
	}
	if (terrace_exists(cache, terrace_str("0")) != TERRACE_OK) {
		for (unsigned i = 0; i < RECORDS; i++) {
			snprintf(keys[i], sizeof keys[i], "%u", i);
			items[i].key = terrace_str(keys[i]);
			items[i].value = record_of(i, texts[i]);
		}
		terrace_put_many(cache, items, RECORDS, NULL);
	}
	terrace_cache_close(cache);
}

static int put_record(terrace_cache *cache)
{
	char text[320];

	return terrace_put(cache, TERRACE_KEY("0"), record_of(0, text), NULL);
}

static int get_record(terrace_cache *cache)
{
	char text[320];
	terrace_slice record = record_of(0, text);
	terrace_value *value;
	int rc = terrace_get(cache, TERRACE_KEY("0"), &value);

	if (rc != TERRACE_OK)
		return rc;
	if (terrace_size(value) != record.size ||
	    memcmp(terrace_data(value), record.data, record.size) != 0)
		lie("get", "it gave a wrong value");
	terrace_release(value);
	return rc;
}

/* A dictionary becomes due, and what is put then is encoded with it. */
static int train(struct opened *o)
{
	terrace_codec_info info = TERRACE_CODEC_INFO_INIT;
	terrace_cache *cache;
	int rc = open_records(o, TERRACE_CODEC_ZSTD, &cache), got;

	if (rc != TERRACE_OK)
		return rc;
	cache->codecs.train_at = 1; /* not after a thousand puts */
	rc = put_record(cache);
	terrace__codecs_tick(cache);
	if (rc == TERRACE_OK)
		rc = put_record(cache);
	got = get_record(cache);
	terrace_cache_codec(cache, &info);
	terrace_cache_close(cache);
	return rc == TERRACE_OK && got < 0 ? got : rc;
}

/* … and one is there. */
static void prepare_trained(struct opened *o)
{
	static const char key[] = "0";
	terrace_codec_info info = TERRACE_CODEC_INFO_INIT;
	terrace_cache *cache;

	if (open_records(o, TERRACE_CODEC_ZSTD, &cache) == TERRACE_OK) {
		terrace_cache_codec(cache, &info);
		if (info.dictionary_version &&
		    terrace_exists(cache, terrace_str(key)) == TERRACE_OK) {
			terrace_cache_close(cache);
			return;
		}
		terrace_cache_close(cache);
	}
	prepare_records(o);
	if (train(o) != TERRACE_OK)
		lie("training", terrace_error_message());
}

static int use_dictionary(struct opened *o)
{
	terrace_codec_info info = TERRACE_CODEC_INFO_INIT;
	terrace_cache *cache;
	int rc = open_records(o, TERRACE_CODEC_AUTO, &cache), got;

	if (rc != TERRACE_OK)
		return rc;
	got = get_record(cache);
	rc = put_record(cache);
	terrace_cache_codec(cache, &info);
	terrace_cache_close(cache);
	return rc == TERRACE_OK && got < 0 ? got : rc;
}

/* --- damage --------------------------------------------------------------------------------------- */

/* Another byte at this place of a file. */
static void change_byte(const char *path, long at)
{
	int fd = open(path, O_RDWR);
	char byte = 0;

	if (fd < 0 || pread(fd, &byte, 1, at) != 1)
		lie("damaging", path);
	byte = (char)~byte;
	if (pwrite(fd, &byte, 1, at) != 1)
		lie("damaging", path);
	close(fd);
}

/* The files of L3 that have this value, which is stored as it is: also what is left of earlier. */
static struct {
	terrace_slice value;
	bool remove;
	int found;
} search;

static int is_searched(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	static char bytes[4 * LARGE];
	int fd = type == FTW_F && st->st_size > LARGE ? open(path, O_RDONLY) : -1;
	ssize_t size = fd < 0 ? -1 : read(fd, bytes, sizeof bytes);

	(void)ftw;
	if (fd >= 0)
		close(fd);
	if (size < 0 || !memmem(bytes, (size_t)size, search.value.data, 64))
		return 0;
	search.found++;
	if (search.remove)
		unlink(path);
	else
		change_byte(path, LARGE / 2);
	return 0;
}

static bool damage_file(const char *dir, terrace_slice value, bool remove)
{
	char files[300];

	snprintf(files, sizeof files, "%s/store/v2/files", dir);
	search.value = value;
	search.remove = remove;
	search.found = 0;
	nftw(files, is_searched, 4, FTW_PHYS);
	return search.found > 0;
}

/* A value whose file is damaged, one whose file is gone, and a file that nobody has. */
static void prepare_damage(struct opened *o)
{
	static const char *const keys[] = { "damaged", "gone" };
	char path[512];

	for (int i = 0; i < 2; i++) {
		terrace_slice value = letter_bytes((char)('d' + i), LARGE);

		terrace_put(o->cache, terrace_str(keys[i]), value, NULL);
		if (!damage_file(o->dir, value, i == 1))
			lie("damaging", "its file is not there");
	}
	snprintf(path, sizeof path, "%s/store/v2/files/00", o->dir);
	mkdir(path, 0700);
	snprintf(path, sizeof path, "%s/store/v2/files/00/00000000000abc00", o->dir);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	terrace_clear(o->cache, TERRACE_L1, NULL);
}

static int on_damage(void *ctx, const terrace_fault *fault)
{
	int *seen = ctx;

	*seen += fault->kind == TERRACE_FAULT_ENTRY || fault->kind == TERRACE_FAULT_NO_FILE;
	if (strlen(fault->detail) < 5)
		lie("verify", "it does not say what is wrong");
	return 0;
}

/* Nothing of what was damaged is given, whatever became of mending it. */
static int check_damage(struct opened *o, int rc, int seen)
{
	terrace_value *value;

	if (rc == TERRACE_OK && seen < 2)
		lie("verify", "it has not seen what is damaged, and does not say so");
	for (int i = 0; i < 2; i++) {
		if (terrace_get(o->cache, terrace_str(i ? "gone" : "damaged"), &value) ==
		    TERRACE_OK) {
			lie("get", "it gave what is damaged");
			terrace_release(value);
		}
	}
	return rc;
}

static int verify_damage(struct opened *o)
{
	int seen = 0, rc = terrace_verify(o->store, true, on_damage, &seen, NULL);

	return check_damage(o, rc, seen);
}

static int scrub_damage(struct opened *o)
{
	terrace_scrub_options options = TERRACE_SCRUB_INIT;
	int seen = 0, rc;

	options.repair = true;
	rc = terrace_scrub(o->store, &options, on_damage, &seen, NULL, NULL);
	return check_damage(o, rc, seen);
}

/* A store whose database is none any more. */
static void prepare_wreck(struct opened *o)
{
	char path[300];

	if (open_store(o) == TERRACE_OK && open_cache(o) == TERRACE_OK)
		put(o, "key", 'o');
	close_store(o);
	snprintf(path, sizeof path, "%s/store/v2/db-1", o->dir);
	for (long at = 0; at < 64; at++)
		change_byte(path, at);
}

static const struct operation operations[] = {
	{ "train a dictionary", train, "o", IN_ROWS, 'o', .damages = true,
	  .prepare = prepare_records },
	{ "use a dictionary", use_dictionary, "o", IN_ROWS, 'o', .prepare = prepare_trained },
	{ "verify what is damaged", verify_damage, "o", IN_FILES, 'o', .damages = true,
	  .prepare = prepare_damage },
	{ "scrub what is damaged", scrub_damage, "o", IN_FILES, 'o', .damages = true,
	  .prepare = prepare_damage },
	{ "open a wreck", open_and_put, "n ", THROUGH, 'o', .opens = true, .new_store = true,
	  .prepare = prepare_wreck },
};
const struct operation_table damage_operations = { operations,
	                                           sizeof operations / sizeof *operations };
