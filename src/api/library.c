/* Shared libraries, opened when they are needed. */
#include "api/api.h"
#include "util/time.h"

#include <terrace/library.h>

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct terrace_library {
	/* Written under the lock; read without it once it says OPEN or FAILED,
	 * after which nothing below changes. */
	_Atomic int state;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t opener;  /* while OPENING */
	unsigned preloads; /* threads that still hold a pointer to this */

	char *file;
	char **folders;
	terrace_library **needs;
	size_t need_count;
	int (*ready)(void *ctx, terrace_library *library, void **ret_object);
	void (*done)(void *ctx, void *object);
	void *ctx;

	void *handle;
	void *object;
	int status;
	uint64_t open_us, ready_us;
	char path[PATH_MAX];
	char error[PATH_MAX + 1024];
};

static uint64_t now_us(void)
{
	return terrace__now_ns() / 1000;
}

static void free_description(terrace_library *library)
{
	for (size_t i = 0; library->folders && library->folders[i]; i++)
		free(library->folders[i]);
	free(library->folders);
	free(library->needs);
	free(library->file);
	pthread_cond_destroy(&library->changed);
	pthread_mutex_destroy(&library->lock);
	free(library);
}

static bool copy_description(terrace_library *library, const terrace_library_options *options)
{
	size_t folders = 0;

	while (options->folders && options->folders[folders])
		folders++;
	library->file = strdup(options->file);
	library->folders = calloc(folders + 1, sizeof *library->folders);
	library->needs = calloc(options->need_count + 1, sizeof(terrace_library *));
	if (!library->file || !library->folders || !library->needs)
		return false;
	for (size_t i = 0; i < folders; i++) {
		library->folders[i] = strdup(options->folders[i]);
		if (!library->folders[i])
			return false;
	}
	for (size_t i = 0; i < options->need_count; i++)
		library->needs[i] = options->needs[i];
	library->need_count = options->need_count;
	library->ready = options->ready;
	library->done = options->done;
	library->ctx = options->ctx;
	return true;
}

int terrace_library_new(const terrace_library_options *options, terrace_library **ret)
{
	terrace_library *library;

	if (!options || !options->file || !*options->file || options->size != sizeof *options)
		return terrace_fail(TERRACE_EINVAL, "a library needs the name of a file");
	library = calloc(1, sizeof *library);
	if (!library)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a library");
	pthread_mutex_init(&library->lock, NULL);
	pthread_cond_init(&library->changed, NULL);
	if (!copy_description(library, options)) {
		free_description(library);
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a library");
	}
	*ret = library;
	return TERRACE_OK;
}

void terrace_library_free(terrace_library *library)
{
	if (!library)
		return;
	pthread_mutex_lock(&library->lock);
	while (library->preloads > 0)
		pthread_cond_wait(&library->changed, &library->lock);
	pthread_mutex_unlock(&library->lock);
	if (library->done && library->object)
		library->done(library->ctx, library->object);
	if (library->handle)
		dlclose(library->handle);
	free_description(library);
}

/* --- opening ------------------------------------------------------------------------ */

/* The first folder that has the file; else the name itself, for the system's search. */
static int find(terrace_library *library)
{
	size_t size = 0;

	if (strchr(library->file, '/')) {
		snprintf(library->path, sizeof library->path, "%s", library->file);
		if (access(library->path, F_OK) == 0)
			return TERRACE_OK;
		snprintf(library->error, sizeof library->error,
		         "the library %s does not exist; install it, or say where it is",
		         library->file);
		library->path[0] = '\0';
		return TERRACE_MISS;
	}
	for (size_t i = 0; library->folders[i]; i++) {
		snprintf(library->path, sizeof library->path, "%s/%s", library->folders[i],
		         library->file);
		if (access(library->path, F_OK) == 0)
			return TERRACE_OK;
	}
	snprintf(library->path, sizeof library->path, "%s", library->file);
	size = (size_t)snprintf(library->error, sizeof library->error, "there is no library %s%s",
	                        library->file, library->folders[0] ? " in " : " ");
	for (size_t i = 0; library->folders[i] && size < sizeof library->error; i++)
		size += (size_t)snprintf(library->error + size, sizeof library->error - size,
		                         "%s, ", library->folders[i]);
	if (size < sizeof library->error)
		snprintf(library->error + size, sizeof library->error - size,
		         "%swhere the system looks; install it", library->folders[0] ? "nor " : "");
	return TERRACE_OK;
}

static int open_file(terrace_library *library)
{
	int rc = find(library);

	if (rc != TERRACE_OK)
		return rc;
	library->handle = dlopen(library->path, RTLD_NOW | RTLD_LOCAL);
	if (library->handle) {
		library->error[0] = '\0';
		return TERRACE_OK;
	}
	/* A bare name was the system's to find: what find() wrote says where we looked. */
	if (!strchr(library->path, '/')) {
		library->path[0] = '\0';
		return TERRACE_MISS;
	}
	snprintf(library->error, sizeof library->error, "cannot open the library %s: %s",
	         library->path, dlerror());
	return TERRACE_EFORMAT;
}

static int open_all(terrace_library *library)
{
	uint64_t start;
	int rc;

	for (size_t i = 0; i < library->need_count; i++) {
		rc = terrace_library_object(library->needs[i], NULL);
		if (rc != TERRACE_OK) {
			snprintf(library->error, sizeof library->error, "%s needs another: %s",
			         library->file, terrace_error_message());
			return rc;
		}
	}
	start = now_us();
	rc = open_file(library);
	library->open_us = now_us() - start;
	if (rc != TERRACE_OK || !library->ready)
		return rc;
	start = now_us();
	terrace_fail(TERRACE_OK, "%s could not be made ready", library->file);
	rc = library->ready(library->ctx, library, &library->object);
	library->ready_us = now_us() - start;
	if (rc != TERRACE_OK)
		snprintf(library->error, sizeof library->error, "%s", terrace_error_message());
	return rc;
}

static void open_once(terrace_library *library)
{
	int rc;

	pthread_mutex_lock(&library->lock);
	while (library->state == TERRACE_LIBRARY_OPENING)
		pthread_cond_wait(&library->changed, &library->lock);
	if (library->state != TERRACE_LIBRARY_CLOSED) {
		pthread_mutex_unlock(&library->lock);
		return;
	}
	library->opener = pthread_self();
	library->state = TERRACE_LIBRARY_OPENING;
	pthread_mutex_unlock(&library->lock);

	rc = open_all(library); /* calls out: not under the lock */

	pthread_mutex_lock(&library->lock);
	library->status = rc;
	library->state = rc == TERRACE_OK ? TERRACE_LIBRARY_OPEN : TERRACE_LIBRARY_FAILED;
	pthread_cond_broadcast(&library->changed);
	pthread_mutex_unlock(&library->lock);
}

/* Is this call from within `ready` of the same library? */
static bool is_opening_here(terrace_library *library)
{
	bool here;

	pthread_mutex_lock(&library->lock);
	here = library->state == TERRACE_LIBRARY_OPENING &&
	       pthread_equal(library->opener, pthread_self());
	pthread_mutex_unlock(&library->lock);
	return here;
}

static int opened(terrace_library *library)
{
	if (atomic_load_explicit(&library->state, memory_order_acquire) == TERRACE_LIBRARY_OPEN)
		return TERRACE_OK;
	if (is_opening_here(library))
		return terrace_fail(TERRACE_ECYCLE, "%s needs itself to be opened", library->file);
	open_once(library);
	if (library->status != TERRACE_OK)
		return terrace_fail(library->status, "%s", library->error);
	return TERRACE_OK;
}

int terrace_library_object(terrace_library *library, void **ret)
{
	int rc = opened(library);

	if (rc == TERRACE_OK && ret)
		*ret = library->object;
	return rc;
}

int terrace_library_symbol(terrace_library *library, const char *name, void **ret)
{
	void *symbol;

	if (!is_opening_here(library) || !library->handle) {
		int rc = opened(library);

		if (rc != TERRACE_OK)
			return rc;
	}
	symbol = dlsym(library->handle, name);
	if (!symbol)
		return terrace_fail(TERRACE_MISS, "the library %s has no %s", library->path, name);
	*ret = symbol;
	return TERRACE_OK;
}

/* --- in the background --------------------------------------------------------------- */

struct preload {
	size_t count;
	terrace_library *libraries[];
};

static void *preload_run(void *arg)
{
	struct preload *preload = arg;

	for (size_t i = 0; i < preload->count; i++) {
		terrace_library *library = preload->libraries[i];

		open_once(library);
		pthread_mutex_lock(&library->lock);
		library->preloads--;
		pthread_cond_broadcast(&library->changed);
		pthread_mutex_unlock(&library->lock);
	}
	free(preload);
	return NULL;
}

static void count_preload(const struct preload *preload, int by)
{
	for (size_t i = 0; i < preload->count; i++) {
		pthread_mutex_lock(&preload->libraries[i]->lock);
		preload->libraries[i]->preloads += (unsigned)by;
		pthread_mutex_unlock(&preload->libraries[i]->lock);
	}
}

int terrace_library_preload(terrace_library *const *libraries, size_t count)
{
	struct preload *preload = malloc(sizeof *preload + count * sizeof(terrace_library *));
	pthread_attr_t detached;
	pthread_t thread;
	int err;

	if (!preload)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a preload");
	preload->count = count;
	for (size_t i = 0; i < count; i++)
		preload->libraries[i] = libraries[i];
	count_preload(preload, 1);
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	err = pthread_create(&thread, &detached, preload_run, preload);
	pthread_attr_destroy(&detached);
	if (err == 0)
		return TERRACE_OK;
	count_preload(preload, -1);
	free(preload);
	return terrace_fail(TERRACE_EIO, "cannot start a thread to preload libraries: %s",
	                    strerror(err));
}

void terrace_library_describe(terrace_library *library, terrace_library_report *ret)
{
	int state = atomic_load_explicit(&library->state, memory_order_acquire);

	ret->state = (terrace_library_state)state;
	ret->status = TERRACE_OK;
	ret->open_us = ret->ready_us = 0;
	ret->path = ret->error = "";
	if (state == TERRACE_LIBRARY_OPEN || state == TERRACE_LIBRARY_FAILED) {
		ret->status = library->status;
		ret->open_us = library->open_us;
		ret->ready_us = library->ready_us;
		ret->path = library->path;
		ret->error = library->error;
	}
}
