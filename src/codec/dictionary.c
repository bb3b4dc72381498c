#include "codec/dictionary.h"

#include "codec/contexts.h"
#include "util/fs.h"
#include "util/hash.h"
#include "util/message.h"
#include "util/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zdict.h>
#include <zstd_errors.h>

#define DIR_NAME "dictionaries"

struct dictionary {
	_Atomic unsigned refs;
	struct dictionary *next; /* among those that are loaded */
	int dir_fd;              /* where it was found */
	uint32_t cache, version;
	uint64_t id;
	size_t size;
	ZSTD_CDict *compress;
	ZSTD_DDict *decompress;
	uint8_t bytes[];
};

/* Directories that are open, and what was loaded from them. */
struct directory {
	struct directory *next;
	int fd;
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct directory *directories;
static struct dictionary *loaded;

/* A child must not find the lock taken by a thread that it does not have. */
static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&lock);
}

static void watch_forks(void)
{
	pthread_atfork(before_fork, after_fork, after_fork);
}

static int no_memory(void)
{
	terrace__message_set("out of memory for a dictionary");
	return TERRACE_ENOMEM;
}

static int failed(const char *what, int error)
{
	terrace__message_set("cannot %s a dictionary: %s", what, strerror(error));
	return TERRACE_EIO;
}

/* --- one of them ------------------------------------------------------------------------------- */

static void dictionary_free(struct dictionary *d)
{
	ZSTD_freeCDict(d->compress);
	ZSTD_freeDDict(d->decompress);
	free(d);
}

void terrace__dictionary_ref(struct dictionary *dictionary)
{
	atomic_fetch_add(&dictionary->refs, 1);
}

void terrace__dictionary_unref(struct dictionary *dictionary)
{
	if (dictionary && atomic_fetch_sub(&dictionary->refs, 1) == 1)
		dictionary_free(dictionary);
}

static struct dictionary *dictionary_new(const void *bytes, size_t size)
{
	struct dictionary *d = calloc(1, sizeof *d + size);

	if (!d)
		return NULL;
	atomic_init(&d->refs, 1);
	memcpy(d->bytes, bytes, size);
	d->size = size;
	d->id = terrace__hash64(bytes, size, 0);
	d->dir_fd = -1;
	d->compress = ZSTD_createCDict(d->bytes, size, ZSTD_LEVEL);
	d->decompress = ZSTD_createDDict(d->bytes, size);
	if (!d->compress || !d->decompress) {
		dictionary_free(d);
		return NULL;
	}
	return d;
}

uint64_t terrace__dictionary_id(const struct dictionary *dictionary)
{
	return dictionary->id;
}

uint32_t terrace__dictionary_version(const struct dictionary *dictionary)
{
	return dictionary->version;
}

size_t terrace__dictionary_size(const struct dictionary *dictionary)
{
	return dictionary->size;
}

/* --- in directories ---------------------------------------------------------------------------- */

struct name {
	uint32_t cache, version;
	uint64_t id;
	char text[48];
};

static void make_name(struct name *name)
{
	snprintf(name->text, sizeof name->text, "%" PRIx32 "-%" PRIx32 "-%016" PRIx64, name->cache,
	         name->version, name->id);
}

static bool parse_name(const char *text, struct name *ret)
{
	struct name name = { 0 };

	if (sscanf(text, "%8" SCNx32 "-%8" SCNx32 "-%16" SCNx64, &name.cache, &name.version,
	           &name.id) != 3)
		return false;
	make_name(&name);
	if (strcmp(name.text, text) != 0)
		return false;
	*ret = name;
	return true;
}

/* Call `fn` with each name until it returns false. TERRACE_OK also where there are none. */
static int each_name(int dir_fd, bool (*fn)(void *ctx, const struct name *name), void *ctx)
{
	int fd = openat(dir_fd, DIR_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *entry;
	struct name name;

	if (!dir) {
		int error = errno;

		terrace__fd_done(&fd);
		return error == ENOENT ? TERRACE_OK : failed("open the folder of", error);
	}
	while ((entry = readdir(dir))) {
		if (parse_name(entry->d_name, &name) && !fn(ctx, &name))
			break;
	}
	closedir(dir);
	return TERRACE_OK;
}

/*
 * TERRACE_MISS when it is not there or damaged, which is for good; any other
 * failure passes, and must not cost what was encoded with it.
 */
static int read_file(int dir_fd, const struct name *name, struct dictionary **ret)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	struct dictionary *d = NULL;
	int rc = TERRACE_MISS;
	char path[64];
	uint8_t *bytes;
	struct stat st;
	size_t got = 0;

	snprintf(path, sizeof path, DIR_NAME "/%s", name->text);
	fd = openat(dir_fd, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT || errno == ELOOP ? TERRACE_MISS : failed("open", errno);
	if (fstat(fd, &st) < 0)
		return failed("look at", errno);
	if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > DICTIONARY_BYTES_MAX)
		return TERRACE_MISS;
	bytes = malloc((size_t)st.st_size);
	if (!bytes)
		return no_memory();
	rc = terrace__read_full(fd, bytes, (size_t)st.st_size, 0, &got);
	if (rc < 0) {
		rc = failed("read", -rc);
	} else if (terrace__hash64(bytes, got, 0) != name->id) {
		rc = TERRACE_MISS;
	} else {
		d = dictionary_new(bytes, got);
		rc = d ? TERRACE_OK : no_memory();
	}
	free(bytes);
	if (rc != TERRACE_OK)
		return rc;
	d->dir_fd = dir_fd;
	d->cache = name->cache;
	d->version = name->version;
	*ret = d;
	return TERRACE_OK;
}

static struct dictionary *find_loaded(uint64_t id)
{
	struct dictionary *d = loaded;

	while (d && d->id != id)
		d = d->next;
	return d;
}

/* Load it, unless it is; as read_file(). Under the lock. */
static int load(int dir_fd, const struct name *name, struct dictionary **ret)
{
	int rc = TERRACE_OK;

	*ret = find_loaded(name->id);
	if (!*ret) {
		rc = read_file(dir_fd, name, ret);
		if (rc == TERRACE_OK) {
			(*ret)->next = loaded;
			loaded = *ret;
		}
	}
	return rc;
}

struct search {
	uint64_t id;    /* one by its id … */
	uint32_t cache; /* … or those of a cache */
	bool found;
	struct name name;
	unsigned count;
	struct name oldest;
};

static bool is_id(void *ctx, const struct name *name)
{
	struct search *search = ctx;

	if (name->id != search->id)
		return true;
	search->name = *name;
	search->found = true;
	return false;
}

static bool of_cache(void *ctx, const struct name *name)
{
	struct search *search = ctx;

	if (name->cache != search->cache)
		return true;
	if (search->count == 0 || name->version > search->name.version)
		search->name = *name;
	if (search->count == 0 || name->version < search->oldest.version)
		search->oldest = *name;
	search->count++;
	return true;
}

int terrace__dictionaries_open(int dir_fd)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct directory *directory = malloc(sizeof *directory);

	if (!directory)
		return no_memory();
	pthread_once(&once, watch_forks);
	directory->fd = dir_fd;
	pthread_mutex_lock(&lock);
	directory->next = directories;
	directories = directory;
	pthread_mutex_unlock(&lock);
	return TERRACE_OK;
}

void terrace__dictionaries_close(int dir_fd)
{
	pthread_mutex_lock(&lock);
	for (struct directory **at = &directories; *at;) {
		struct directory *directory = *at;

		if (directory->fd != dir_fd) {
			at = &directory->next;
			continue;
		}
		*at = directory->next;
		free(directory);
	}
	for (struct dictionary **at = &loaded; *at;) {
		struct dictionary *d = *at;

		if (d->dir_fd != dir_fd) {
			at = &d->next;
			continue;
		}
		*at = d->next;
		terrace__dictionary_unref(d);
	}
	pthread_mutex_unlock(&lock);
}

struct dictionary *terrace__dictionary_latest(int dir_fd, uint32_t cache)
{
	struct search search = { .cache = cache };
	struct dictionary *d = NULL;

	pthread_mutex_lock(&lock);
	each_name(dir_fd, of_cache, &search);
	if (search.count && load(dir_fd, &search.name, &d) != TERRACE_OK)
		d = NULL;
	if (d)
		atomic_fetch_add(&d->refs, 1);
	pthread_mutex_unlock(&lock);
	return d;
}

/* As read_file(), with a reference. */
static int by_id(uint64_t id, struct dictionary **ret)
{
	struct search search = { .id = id };
	int rc = TERRACE_MISS;

	pthread_mutex_lock(&lock);
	*ret = find_loaded(id);
	if (*ret)
		rc = TERRACE_OK;
	for (struct directory *at = directories; at && rc == TERRACE_MISS; at = at->next) {
		rc = each_name(at->fd, is_id, &search);
		if (search.found)
			rc = load(at->fd, &search.name, ret);
		else if (rc == TERRACE_OK)
			rc = TERRACE_MISS;
		search.found = false;
	}
	if (rc == TERRACE_OK)
		atomic_fetch_add(&(*ret)->refs, 1);
	pthread_mutex_unlock(&lock);
	return rc;
}

/* --- making one ----------------------------------------------------------------------------------- */

int terrace__dictionary_train(const void *samples, const size_t *sizes, unsigned count,
                              struct dictionary **ret)
{
	uint8_t *bytes = malloc(DICTIONARY_BYTES);
	struct dictionary *d = NULL;
	size_t size;

	if (!bytes)
		return no_memory();
	size = ZDICT_trainFromBuffer(bytes, DICTIONARY_BYTES, samples, sizes, count);
	if (!ZDICT_isError(size))
		d = dictionary_new(bytes, size);
	free(bytes);
	if (ZDICT_isError(size))
		return TERRACE_MISS;
	*ret = d;
	return d ? TERRACE_OK : no_memory();
}

static int write_synced(int fd, const void *bytes, size_t size)
{
	int rc = terrace__write_full(fd, bytes, size, 0);

	return rc == 0 && fsync(fd) < 0 ? -errno : rc;
}

/* Whole and on the device before anything is encoded with it: no name without its bytes. */
static int write_file(int dir_fd, const struct name *name, const struct dictionary *d)
{
	CLEANUP(terrace__fd_done) int dir = -1;
	CLEANUP(terrace__fd_done) int fd = -1;
	char temporary[64];
	int rc;

	if (mkdirat(dir_fd, DIR_NAME, 0700) < 0 && errno != EEXIST)
		return -errno;
	dir = openat(dir_fd, DIR_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	snprintf(temporary, sizeof temporary, "%s.new", name->text);
	unlinkat(dir, temporary, 0); /* of one that died */
	fd = openat(dir, temporary, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	rc = write_synced(fd, d->bytes, d->size);
	if (rc == 0 && renameat(dir, temporary, dir, name->text) < 0)
		rc = -errno;
	if (rc < 0)
		unlinkat(dir, temporary, 0);
	else if (fsync(dir) < 0)
		rc = -errno;
	return rc;
}

int terrace__dictionary_keep(struct dictionary *dictionary, int dir_fd, uint32_t cache)
{
	struct search search = { .cache = cache };
	struct name name = { .cache = cache, .id = dictionary->id };
	char path[64];
	int rc;

	pthread_mutex_lock(&lock);
	each_name(dir_fd, of_cache, &search);
	name.version = search.count ? search.name.version + 1 : 1;
	make_name(&name);
	rc = write_file(dir_fd, &name, dictionary);
	if (rc == 0) {
		dictionary->cache = cache;
		dictionary->version = name.version;
		if (search.count >= DICTIONARIES_KEPT) {
			snprintf(path, sizeof path, DIR_NAME "/%s", search.oldest.text);
			unlinkat(dir_fd, path, 0);
		}
	}
	if (rc == 0 && !find_loaded(dictionary->id)) {
		dictionary->dir_fd = dir_fd;
		dictionary->next = loaded;
		loaded = dictionary;
		atomic_fetch_add(&dictionary->refs, 1);
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

/* --- using it ----------------------------------------------------------------------------------- */

size_t terrace__dictionary_encode(struct dictionary *dictionary, terrace_slice raw, uint8_t *out,
                                  size_t capacity)
{
	ZSTD_CCtx *context = terrace__zstd_compressor();
	size_t size;

	if (!context || capacity <= DICTIONARY_ID_BYTES)
		return 0;
	/* Size and dictionary are written down elsewhere, and bytes count where values are small. */
	ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
	ZSTD_CCtx_setParameter(context, ZSTD_c_dictIDFlag, 0);
	ZSTD_CCtx_refCDict(context, dictionary->compress);
	size = ZSTD_compress2(context, out + DICTIONARY_ID_BYTES, capacity - DICTIONARY_ID_BYTES,
	                      raw.data, raw.size);
	ZSTD_CCtx_reset(context, ZSTD_reset_session_and_parameters);
	if (ZSTD_isError(size))
		return 0;
	for (int i = 0; i < DICTIONARY_ID_BYTES; i++)
		out[i] = (uint8_t)(dictionary->id >> (8 * i));
	return DICTIONARY_ID_BYTES + size;
}

int terrace__dictionary_decode(terrace_slice encoded, void *raw, size_t raw_size)
{
	ZSTD_DCtx *context = terrace__zstd_decompressor();
	const uint8_t *bytes = encoded.data;
	struct dictionary *d;
	uint64_t id = 0;
	size_t size;
	int rc;

	if (!context)
		return no_memory();
	if (encoded.size < DICTIONARY_ID_BYTES)
		return TERRACE_ECORRUPT;
	for (int i = DICTIONARY_ID_BYTES; i-- > 0;)
		id = id << 8 | bytes[i];
	rc = by_id(id, &d);
	if (rc != TERRACE_OK)
		return rc == TERRACE_MISS ? TERRACE_ECORRUPT : rc;
	size = ZSTD_decompress_usingDDict(context, raw, raw_size, bytes + DICTIONARY_ID_BYTES,
	                                  encoded.size - DICTIONARY_ID_BYTES, d->decompress);
	terrace__dictionary_unref(d);
	if (ZSTD_isError(size) && ZSTD_getErrorCode(size) == ZSTD_error_memory_allocation)
		return no_memory();
	return !ZSTD_isError(size) && size == raw_size ? TERRACE_OK : TERRACE_ECORRUPT;
}
