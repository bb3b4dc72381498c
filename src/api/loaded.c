/* What a loader fills in. */
#include "api/loaded.h"

#include "core/stream.h"
#include "util/util.h"

#include <stdlib.h>

void terrace__loaded_done(struct terrace_loaded *loaded)
{
	free(loaded->data);
	for (size_t i = 0; i < loaded->tag_count; i++)
		free(loaded->tags[i]);
	terrace__buf_done(&loaded->sources.marks);
}

int terrace_loaded_copy(terrace_loaded *loaded, terrace_slice bytes)
{
	void *data = malloc(bytes.size ? bytes.size : 1);

	if (!data)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a value of %zu bytes",
		                    bytes.size);
	if (bytes.size)
		memcpy(data, bytes.data, bytes.size);
	return terrace_loaded_take(loaded, data, bytes.size);
}

int terrace_loaded_take(terrace_loaded *loaded, void *data, size_t size)
{
	free(loaded->data);
	loaded->data = data;
	loaded->size = loaded->capacity = size;
	loaded->given = true;
	return TERRACE_OK;
}

/* At the end of what is there. */
static int append(terrace_loaded *loaded, terrace_slice bytes)
{
	struct buf buf = { loaded->data, loaded->size, loaded->capacity, false };

	terrace__buf_append(&buf, bytes.data, bytes.size);
	loaded->data = buf.data;
	loaded->size = buf.size;
	loaded->capacity = buf.capacity;
	loaded->given = true;
	if (!buf.failed)
		return TERRACE_OK;
	return terrace_fail(TERRACE_ENOMEM, "out of memory for a value of %zu bytes",
	                    loaded->size + bytes.size);
}

int terrace_loaded_write(terrace_loaded *loaded, terrace_slice bytes)
{
	if (!loaded->sink)
		return append(loaded, bytes);
	loaded->given = true;
	if (bytes.size > 0 && loaded->sink_rc == 0)
		loaded->sink_rc = loaded->sink(loaded->sink_ctx, bytes);
	if (loaded->writer && loaded->sink_rc == 0)
		terrace__writer_write(loaded->writer, bytes); /* its failure is not the loader's */
	return loaded->sink_rc;
}

void terrace_loaded_absent(terrace_loaded *loaded)
{
	loaded->absent = true;
}

void terrace_loaded_ttl(terrace_loaded *loaded, int64_t ttl_ms)
{
	loaded->ttl_ms = ttl_ms;
}

void terrace_loaded_idle(terrace_loaded *loaded, int64_t idle_ms)
{
	loaded->idle_ms = idle_ms;
}

int terrace_loaded_tag(terrace_loaded *loaded, const char *tag)
{
	if (loaded->tag_count == TAGS_MAX)
		return terrace_fail(TERRACE_EINVAL, "an entry takes at most %d tags", TAGS_MAX);
	loaded->tags[loaded->tag_count] = strdup(tag);
	if (!loaded->tags[loaded->tag_count])
		return terrace_fail(TERRACE_ENOMEM, "out of memory for a tag");
	loaded->tag_count++;
	return TERRACE_OK;
}

int terrace_loaded_source(terrace_loaded *loaded, const char *path, unsigned flags)
{
	/* Asked again where it came to be in between. */
	for (int i = 0; i < 2; i++) {
		int rc = terrace_sources_file(&loaded->sources, path, flags);

		if (rc != TERRACE_MISS)
			return rc;
		rc = terrace_sources_absent(&loaded->sources, path);
		if (rc != TERRACE_EXISTS)
			return rc == TERRACE_OK ? TERRACE_MISS : rc;
	}
	return terrace_fail(TERRACE_EINVAL,
	                    "the source %s is a link to nothing; name what it is to lead to", path);
}

terrace_sources *terrace_loaded_sources(terrace_loaded *loaded)
{
	return &loaded->sources;
}

void terrace_loaded_strategy(terrace_loaded *loaded, terrace_strategy strategy)
{
	loaded->strategy = strategy;
}

void terrace_loaded_cost(terrace_loaded *loaded, uint64_t cost_us)
{
	loaded->cost_us = cost_us;
	loaded->has_cost = true;
}

void terrace_loaded_keep_out(terrace_loaded *loaded)
{
	loaded->keep_out = true;
}

void terrace__loaded_options(const struct terrace_loaded *loaded, terrace_put_options *ret)
{
	ret->ttl_ms = loaded->ttl_ms;
	ret->idle_ms = loaded->idle_ms;
	ret->cost_us = loaded->cost_us;
	ret->strategy = loaded->strategy;
	ret->tags = (const char *const *)loaded->tags;
	ret->tag_count = loaded->tag_count;
	ret->sources = &loaded->sources;
}

void terrace__loaded_check(const struct terrace_cache *cache, struct terrace_loaded *loaded)
{
	terrace_put_options options = TERRACE_PUT_INIT, ours;

	terrace__loaded_options(loaded, &options);
	if (terrace__check_put_options(cache, &options, &ours) != TERRACE_OK)
		loaded->keep_out = true;
}
