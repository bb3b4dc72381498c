#include "core/sources.h"

#include "api/api.h"
#include "core/entries.h"
#include "core/listing.h"
#include "util/fs.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

int terrace_sources_new(terrace_sources **ret)
{
	terrace_sources *sources = calloc(1, sizeof *sources);

	if (!sources)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for sources");
	*ret = sources;
	return TERRACE_OK;
}

void terrace_sources_free(terrace_sources *sources)
{
	if (!sources)
		return;
	terrace__buf_done(&sources->marks);
	free(sources);
}

size_t terrace_sources_count(const terrace_sources *sources)
{
	return sources ? sources->count : 0;
}

static int absolute(const char *path, char ret[SOURCE_PATH_MAX + 1])
{
	int err = terrace__absolute_path(path, ret, SOURCE_PATH_MAX + 1);

	if (err < 0)
		return terrace_fail(TERRACE_EINVAL, "the source \"%s\": %s", path, strerror(-err));
	return TERRACE_OK;
}

static int add(terrace_sources *sources, const struct source_mark *mark)
{
	terrace__extra_source(&sources->marks, mark);
	if (sources->marks.failed)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a source");
	sources->count++;
	return TERRACE_OK;
}

int terrace_sources_file(terrace_sources *sources, const char *path, unsigned flags)
{
	char name[SOURCE_PATH_MAX + 1];
	struct source_mark mark;
	int rc = absolute(path, name);

	if (rc == TERRACE_OK)
		rc = terrace__source_mark(NULL, name, flags, &mark);
	if (rc == TERRACE_MISS)
		terrace_fail(rc, "the source %s does not exist", name);
	if (rc != TERRACE_OK)
		return rc;
	mark.path = terrace_str(name);
	return add(sources, &mark);
}

int terrace_sources_absent(terrace_sources *sources, const char *path)
{
	struct source_mark mark = { .kind = SOURCE_ABSENT };
	char name[SOURCE_PATH_MAX + 1];
	struct stat st;
	int rc = absolute(path, name);

	if (rc != TERRACE_OK)
		return rc;
	if (lstat(name, &st) == 0)
		return TERRACE_EXISTS;
	if (errno != ENOENT && errno != ENOTDIR)
		return terrace_fail(errno == EACCES ? TERRACE_EACCESS : TERRACE_EIO,
		                    "cannot look at the source %s: %s", name, strerror(errno));
	mark.path = terrace_str(name);
	return add(sources, &mark);
}

int terrace_sources_listing(terrace_sources *sources, const char *listing)
{
	char name[SOURCE_PATH_MAX + 1];
	struct source_mark mark;
	int rc = absolute(listing, name);

	if (rc == TERRACE_OK)
		rc = terrace__listing_mark(name, &mark);
	if (rc != TERRACE_OK)
		return rc;
	mark.path = terrace_str(name);
	return add(sources, &mark);
}

int terrace_sources_variable(terrace_sources *sources, const char *name)
{
	struct source_mark mark;
	size_t size = strlen(name);

	if (size == 0 || size > VARIABLE_MAX || strchr(name, '='))
		return terrace_fail(TERRACE_EINVAL,
		                    "\"%s\" names no variable: 1 to %d bytes without '='", name,
		                    VARIABLE_MAX);
	terrace__variable_mark(name, &mark);
	mark.path = terrace_bytes(name, size);
	return add(sources, &mark);
}

int terrace_listing_digest(const char *listing, terrace_digest *ret)
{
	char name[SOURCE_PATH_MAX + 1];
	struct source_mark mark;
	int rc = absolute(listing, name);

	if (rc == TERRACE_OK)
		rc = terrace__listing_mark(name, &mark);
	if (rc == TERRACE_OK)
		memcpy(ret->bytes, mark.hash, sizeof ret->bytes);
	return rc;
}

int terrace_file_digest(terrace *store, const char *path, terrace_digest *ret)
{
	char name[SOURCE_PATH_MAX + 1];
	struct source_mark mark;
	int rc = store ? terrace__check_store(store) : TERRACE_OK;

	if (rc == TERRACE_OK)
		rc = absolute(path, name);
	if (rc == TERRACE_OK)
		rc = terrace__file_digest(store, name, &mark);
	if (rc == TERRACE_MISS)
		terrace_fail(rc, "%s does not exist", name);
	if (rc == TERRACE_OK)
		memcpy(ret->bytes, mark.hash, sizeof ret->bytes);
	return rc;
}
