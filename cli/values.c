/* Verbs on values, which may be larger than memory: get, put. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

/* What our own callbacks return: no status of the library. */
enum { TRANSFER_FAILED = 1000 };

/* --- get ------------------------------------------------------------------------------------ */

static int write_all(void *ctx, terrace_slice bytes)
{
	const char *at = bytes.data;

	(void)ctx;
	for (size_t left = bytes.size; left > 0;) {
		ssize_t n = write(STDOUT_FILENO, at, left);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			complain("cannot write to standard output: %s", strerror(errno));
			return TRANSFER_FAILED;
		}
		at += n;
		left -= (size_t)n;
	}
	return 0;
}

/* "OFFSET:LENGTH", either of which may be left out. */
static int parse_range(struct cli *cli, const char *text, uint64_t *ret_offset,
                       uint64_t *ret_length)
{
	const char *colon = strchr(text, ':');
	char offset[32];

	*ret_offset = 0;
	*ret_length = UINT64_MAX;
	if (!colon || (size_t)(colon - text) >= sizeof offset)
		return usage(cli, "--range takes OFFSET:LENGTH, not \"%s\"", text);
	memcpy(offset, text, (size_t)(colon - text));
	offset[colon - text] = '\0';
	if ((offset[0] && terrace_parse_size(offset, ret_offset) != TERRACE_OK) ||
	    (colon[1] && terrace_parse_size(colon + 1, ret_length) != TERRACE_OK))
		return usage(cli, "--range: %s", terrace_error_message());
	return STATUS_DONE;
}

static int get(terrace_cache *cache, const struct args *args, uint64_t offset, uint64_t length)
{
	const char *name = args->operands[0], *key = args->operands[1];
	uint64_t given;
	int rc = terrace_get_to(cache, terrace_str(key), offset, length, write_all, NULL, &given);

	switch (rc) {
	case TERRACE_OK:
		return STATUS_DONE;
	case TRANSFER_FAILED:
		return STATUS_FAILED;
	case TERRACE_MISS:
		complain("cache %s has no live entry \"%s\"; terrace why says more", name, key);
		return STATUS_MISS;
	case TERRACE_ECORRUPT:
		complain("\"%s\" in cache %s is damaged: the %" PRIu64
		         " bytes that were written are right, but not all; it was removed",
		         key, name, given);
		return STATUS_MISS;
	default:
		return failed(rc);
	}
}

int verb_get(struct cli *cli, const struct args *args)
{
	uint64_t offset = 0, length = UINT64_MAX;
	const char *range = args_value(args, "range");
	terrace *store;
	terrace_cache *cache;
	int status = range ? parse_range(cli, range, &offset, &length) : STATUS_DONE;

	if (status == STATUS_DONE)
		status = open_both(cli, args, false, &store, &cache);
	if (status != STATUS_DONE)
		return status;
	status = get(cache, args, offset, length);
	close_both(store, cache);
	return status;
}

/* --- put ------------------------------------------------------------------------------------ */

struct input {
	const char *path; /* NULL: standard input */
	int fd;
};

static int cannot_read(const struct input *input)
{
	complain("cannot read %s: %s", input->path ? input->path : "standard input",
	         strerror(errno));
	return TRANSFER_FAILED;
}

static int read_some(void *ctx, void *buffer, size_t size, size_t *ret)
{
	const struct input *input = ctx;
	ssize_t n;

	do {
		n = read(input->fd, buffer, size);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return cannot_read(input);
	*ret = (size_t)n;
	return 0;
}

static int put(terrace_cache *cache, const struct args *args, const terrace_put_options *options)
{
	const char *name = args->operands[0], *key = args->operands[1];
	struct input input = { args->operand_count > 2 ? args->operands[2] : NULL, STDIN_FILENO };
	int rc;

	if (input.path)
		input.fd = open(input.path, O_RDONLY | O_CLOEXEC);
	if (input.fd < 0) {
		cannot_read(&input);
		return STATUS_USAGE;
	}
	rc = terrace_put_from(cache, terrace_str(key), read_some, &input, options);
	if (input.path)
		close(input.fd);
	if (rc == TRANSFER_FAILED)
		return STATUS_FAILED;
	if (rc == TERRACE_MISS) {
		complain("not stored: \"%s\" in cache %s was written or invalidated while the "
		         "value was read; try again",
		         key, name);
		return STATUS_MISS;
	}
	return rc == TERRACE_OK ? STATUS_DONE : failed(rc);
}

/* What is not there must stay so. Asked again where it came to be in between. */
static int source_file(terrace_sources *sources, const char *path)
{
	for (int i = 0; i < 2; i++) {
		int rc = terrace_sources_file(sources, path, 0);

		if (rc == TERRACE_MISS)
			rc = terrace_sources_absent(sources, path);
		if (rc != TERRACE_EXISTS)
			return rc;
	}
	return terrace_fail(TERRACE_EINVAL,
	                    "the source %s is a link to nothing; name what it is to lead to", path);
}

/* Fingerprints first: what changes while the value is read makes a miss later. */
static int add_sources(const struct args *args, terrace_sources **ret)
{
	static const struct {
		const char *option;
		int (*add)(terrace_sources *sources, const char *what);
	} kinds[] = {
		{ "source", source_file },
		{ "list", terrace_sources_listing },
		{ "env", terrace_sources_variable },
	};
	int rc = terrace_sources_new(ret);

	if (rc != TERRACE_OK)
		return failed(rc);
	for (size_t k = 0; k < sizeof kinds / sizeof *kinds && rc == TERRACE_OK; k++) {
		const char **values;
		size_t count = args_values(args, kinds[k].option, &values);

		for (size_t i = 0; i < count && rc == TERRACE_OK; i++)
			rc = kinds[k].add(*ret, values[i]);
		free(values);
		if (rc != TERRACE_OK)
			complain("--%s: %s", kinds[k].option, terrace_error_message());
	}
	if (rc == TERRACE_OK)
		return STATUS_DONE;
	terrace_sources_free(*ret);
	*ret = NULL;
	return rc == TERRACE_ENOMEM ? STATUS_FAILED : STATUS_USAGE;
}

static int put_options(struct cli *cli, const struct args *args, terrace_put_options *ret,
                       terrace_sources **ret_sources, const char ***ret_tags)
{
	const char *ttl = args_value(args, "ttl"), *idle = args_value(args, "idle");
	int status;

	*ret_tags = NULL;
	*ret_sources = NULL;
	if (ttl) {
		if (terrace_parse_duration(ttl, &ret->ttl_ms) != TERRACE_OK)
			return usage(cli, "--ttl: %s", terrace_error_message());
		if (ret->ttl_ms == 0)
			ret->ttl_ms = TERRACE_TTL_NONE;
	}
	if (idle && terrace_parse_duration(idle, &ret->idle_ms) != TERRACE_OK)
		return usage(cli, "--idle: %s", terrace_error_message());
	if (idle && ret->idle_ms == 0)
		return usage(cli,
		             "--idle: what may not go unused at all is of no use; write 90s or 2h");
	ret->tag_count = args_values(args, "tag", ret_tags);
	ret->tags = *ret_tags;
	status = add_sources(args, ret_sources);
	ret->sources = *ret_sources;
	return status;
}

int verb_put(struct cli *cli, const struct args *args)
{
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace *store = NULL;
	terrace_cache *cache = NULL;
	terrace_sources *sources;
	const char **tags;
	int status = put_options(cli, args, &options, &sources, &tags);

	if (status == STATUS_DONE)
		status = open_both(cli, args, true, &store, &cache);
	if (status == STATUS_DONE) {
		status = put(cache, args, &options);
		close_both(store, cache);
	}
	free(tags);
	terrace_sources_free(sources);
	return status;
}
