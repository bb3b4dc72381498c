/*
 * What is written, read and computed piece by piece, as something that can fail
 * anywhere; what else a loader can say; and what needs no store.
 * What an operation needs for itself it asks the kernel for: that does not fail.
 */
#include "proofs/faults.h"

#include <sys/syscall.h>
#include <terrace/jobs.h>
#include <terrace/library.h>

/* The code of a callback that fails. */
enum { OWN_CODE = 42 };
/* A piece is never a block. */
enum { PIECE = 100000 };

static terrace_slice piece_of(terrace_slice bytes, size_t at)
{
	size_t most = bytes.size < PIECE ? bytes.size / 3 + 1 : PIECE, left = bytes.size - at;

	return terrace_bytes((const char *)bytes.data + at, left < most ? left : most);
}

/* What was given, at the end of which it is looked at. */
static struct {
	size_t size;
	char bytes[IN_TWO_BLOCKS];
} given;

static int take(void *ctx, terrace_slice bytes)
{
	(void)ctx;
	if (bytes.size > sizeof given.bytes - given.size) {
		lie("sink", "it got more than there is");
		return OWN_CODE;
	}
	memcpy(given.bytes + given.size, bytes.data, bytes.size);
	given.size += bytes.size;
	return 0;
}

static int take_nothing(void *ctx, terrace_slice bytes)
{
	(void)ctx;
	(void)bytes;
	return terrace_fail(OWN_CODE, "this sink always fails");
}

/* Was it from `offset` on one of these values, and with TERRACE_OK `length` bytes of it? */
static int check_given(const char *what, const struct opened *o, int rc, size_t offset,
                       size_t length, const char *letters)
{
	if (rc == TERRACE_MISS && given.size > 0)
		lie(what, "it gave something, and says that it did not");
	if (given.size > length || (rc == TERRACE_OK && given.size != length))
		lie(what, "it gave too much or too little");
	for (; *letters; letters++) {
		const char *value = value_in(o->place, *letters).data;

		if (memcmp(given.bytes, value + offset, given.size) == 0)
			return rc;
	}
	lie(what, "it gave a wrong value");
	return rc;
}

/* --- descriptors ---------------------------------------------------------------------------------- */

static int descriptor_with(terrace_slice bytes)
{
	int fd = (int)syscall(SYS_memfd_create, "value", 0);

	if (fd < 0 || syscall(SYS_write, fd, bytes.data, bytes.size) != (long)bytes.size)
		lie("memfd", "the machine has no memory");
	syscall(SYS_lseek, fd, 0, SEEK_SET);
	return fd;
}

/* What is in it is what was given; and it is closed. */
static void take_from(int fd)
{
	long size = syscall(SYS_pread64, fd, given.bytes, sizeof given.bytes, 0);

	given.size = size > 0 ? (size_t)size : 0;
	syscall(SYS_close, fd);
}

/* --- writing -------------------------------------------------------------------------------------- */

static int write_all(terrace_writer *writer, terrace_slice bytes)
{
	int rc = TERRACE_OK;

	for (size_t at = 0; at < bytes.size && rc == TERRACE_OK;) {
		terrace_slice piece = piece_of(bytes, at);

		rc = terrace_writer_write(writer, piece);
		at += piece.size;
	}
	return rc;
}

static int write_stream(struct opened *o)
{
	static const char *const tags[] = { "one", "two" };
	terrace_put_options options = TERRACE_PUT_INIT;
	terrace_writer *writer;
	int rc, written;

	options.tags = tags;
	options.tag_count = 2;
	options.ttl_ms = 3600000;
	rc = terrace_writer_open(o->cache, TERRACE_KEY("key"), &options, &writer);
	if (rc != TERRACE_OK)
		return rc;
	written = write_all(writer, value_in(o->place, 'n'));
	rc = terrace_writer_commit(writer);
	if (written != TERRACE_OK && rc != written)
		lie("writer_commit", "it gave another code than the write that failed");
	return rc;
}

static int drop_stream(struct opened *o)
{
	terrace_writer *writer;
	int rc = terrace_writer_open(o->cache, TERRACE_KEY("key"), NULL, &writer);

	if (rc != TERRACE_OK)
		return rc;
	rc = write_all(writer, value_in(o->place, 'n'));
	terrace_writer_drop(writer);
	return rc;
}

struct source {
	const struct opened *o;
	size_t at, fails_at;
};

static int give(void *ctx, void *buffer, size_t size, size_t *ret)
{
	struct source *source = ctx;
	terrace_slice piece = piece_of(value_in(source->o->place, 'n'), source->at);

	if (source->at >= source->fails_at)
		return terrace_fail(OWN_CODE, "this source always fails");
	*ret = piece.size < size ? piece.size : size;
	memcpy(buffer, piece.data, *ret);
	source->at += *ret;
	return 0;
}

static int put_from(struct opened *o)
{
	struct source source = { o, 0, SIZE_MAX };

	return terrace_put_from(o->cache, TERRACE_KEY("key"), give, &source, NULL);
}

static int put_from_failing(struct opened *o)
{
	struct source source = { o, 0, 1 };
	int rc = terrace_put_from(o->cache, TERRACE_KEY("key"), give, &source, NULL);

	if (rc >= 0 && rc != OWN_CODE)
		lie("put_from", "it stored a part, or gave another code than the source");
	return rc < 0 ? rc : TERRACE_OK;
}

static int put_fd(struct opened *o)
{
	int fd = descriptor_with(value_in(o->place, 'n'));
	int rc = terrace_put_fd(o->cache, TERRACE_KEY("key"), fd, NULL);

	syscall(SYS_close, fd);
	return rc;
}

/* --- reading -------------------------------------------------------------------------------------- */

static int read_all(terrace_reader *reader, uint64_t size)
{
	size_t got = 1;
	int rc = TERRACE_OK;

	while (rc == TERRACE_OK && got > 0) {
		size_t most = size - given.size < PIECE ? size - given.size : PIECE;

		rc = terrace_reader_read(reader, given.size, given.bytes + given.size, most, &got);
		if (rc == TERRACE_OK)
			given.size += got;
	}
	return rc;
}

static int read_stream(struct opened *o)
{
	terrace_info info = TERRACE_INFO_INIT;
	size_t size = size_in(o->place);
	terrace_reader *reader;
	int rc = terrace_reader_open(o->cache, TERRACE_KEY("key"), &reader), inspected;

	if (rc != TERRACE_OK)
		return rc;
	given.size = 0;
	if (terrace_reader_size(reader) != size || !terrace_reader_tier(reader))
		lie("reader", "it has another size, or no tier");
	inspected = terrace_inspect_reader(reader, &info);
	if (inspected == TERRACE_OK) {
		if (info.bytes != size || info.tag_count != 1 || strcmp(info.tags[0], "tag") != 0)
			lie("inspect_reader", "it describes something else");
		terrace_info_free(&info);
	}
	rc = check_given("reader_read", o, read_all(reader, size), 0, size, "o");
	terrace_reader_close(reader);
	return rc == TERRACE_OK ? inspected : rc;
}

static int get_to(struct opened *o)
{
	given.size = 0;
	return check_given(
	    "get_to", o,
	    terrace_get_to(o->cache, TERRACE_KEY("key"), 0, UINT64_MAX, take, NULL, NULL), 0,
	    size_in(o->place), "o");
}

/* The end of a block and the beginning of the next. */
static int get_range(struct opened *o)
{
	size_t offset = size_in(o->place) - 20100, length = 200;
	uint64_t told = 0;
	int rc;

	given.size = 0;
	rc = terrace_get_to(o->cache, TERRACE_KEY("key"), offset, length, take, NULL, &told);
	if (rc == TERRACE_OK && told != given.size)
		lie("get_to", "it gave something else than it says");
	return check_given("get_to", o, rc, offset, length, "o");
}

static int get_to_failing(struct opened *o)
{
	int rc = terrace_get_to(o->cache, TERRACE_KEY("key"), 0, UINT64_MAX, take_nothing, NULL,
	                        NULL);

	if (rc == TERRACE_OK)
		lie("get_to", "it gave another code than the sink");
	return rc < 0 ? rc : TERRACE_OK;
}

static int get_fd(struct opened *o)
{
	int fd = descriptor_with(terrace_bytes(NULL, 0));
	int rc = terrace_get_fd(o->cache, TERRACE_KEY("key"), 0, UINT64_MAX, fd, NULL);

	take_from(fd);
	return check_given("get_fd", o, rc, 0, size_in(o->place), "o");
}

/* --- computing ------------------------------------------------------------------------------------ */

static int load_pieces(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	const struct opened *o = ctx;
	terrace_slice value = value_in(o->place, 'n');
	int rc = TERRACE_OK;

	(void)key;
	for (size_t at = 0; at < value.size && rc == TERRACE_OK;) {
		terrace_slice piece = piece_of(value, at);

		rc = terrace_loaded_write(loaded, piece);
		at += piece.size;
	}
	return rc;
}

static int load_saying_all(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	terrace_loaded_ttl(loaded, 3600000);
	terrace_loaded_idle(loaded, 1800000);
	terrace_loaded_cost(loaded, 1000);
	terrace_loaded_strategy(loaded, TERRACE_STRATEGY_STANDARD);
	/* A value of which it is not known what it depends on must not be kept; it is good. */
	if (terrace_sources_variable(terrace_loaded_sources(loaded), "NO_SUCH_VARIABLE") !=
	        TERRACE_OK ||
	    terrace_loaded_tag(loaded, "tag") != TERRACE_OK)
		terrace_loaded_keep_out(loaded);
	return load_pieces(ctx, key, loaded);
}

static int load_taken(void *ctx, terrace_slice key, terrace_loaded *loaded)
{
	const struct opened *o = ctx;
	terrace_slice value = value_in(o->place, 'n');
	void *data = malloc(value.size);

	(void)key;
	if (!data)
		return terrace_fail(TERRACE_ENOMEM, "out of memory for what is computed");
	memcpy(data, value.data, value.size);
	return terrace_loaded_take(loaded, data, value.size);
}

static int fetch(struct opened *o, terrace_load_fn *load)
{
	terrace_value *value;
	int rc = terrace_fetch(o->cache, TERRACE_KEY("key"), load, o, &value);

	if (rc != TERRACE_OK)
		return rc;
	if (letter_of_value(value) != 'n')
		lie("fetch", "it gave a wrong value");
	terrace_release(value);
	return rc;
}

static int fetch_written(struct opened *o)
{
	return fetch(o, load_saying_all);
}

static int fetch_taken(struct opened *o)
{
	return fetch(o, load_taken);
}

static int fetch_to(struct opened *o, terrace_load_fn *load, const char *letters)
{
	given.size = 0;
	return check_given("fetch_to", o,
	                   terrace_fetch_to(o->cache, TERRACE_KEY("key"), load, o, take, NULL), 0,
	                   size_in(o->place), letters);
}

static int fetch_to_written(struct opened *o)
{
	return fetch_to(o, load_saying_all, "n");
}

static int fetch_to_taken(struct opened *o)
{
	return fetch_to(o, load_taken, "n");
}

static int fetch_to_kept(struct opened *o)
{
	return fetch_to(o, load_pieces, "on");
}

static int fetch_to_failing(struct opened *o)
{
	int rc = terrace_fetch_to(o->cache, TERRACE_KEY("key"), load_pieces, o, take_nothing, NULL);

	if (rc != OWN_CODE && rc >= 0)
		lie("fetch_to", "it gave another code than the sink");
	return rc < 0 ? rc : TERRACE_OK;
}

/* --- processes ------------------------------------------------------------------------------------ */

static int on_process(void *ctx, const terrace_process *process)
{
	(void)ctx;
	return process->pid == 0;
}

static int processes(struct opened *o)
{
	return terrace_processes_each(o->store, on_process, NULL);
}

/* What a test does that leaves closing to the one for all. */
static int reset(struct opened *o)
{
	int rc = open_store(o);

	if (rc == TERRACE_OK)
		rc = open_cache(o);
	if (rc == TERRACE_OK)
		rc = put(o, "key", 'n');
	terrace_registry_reset();
	o->cache = NULL;
	o->store = NULL;
	return rc;
}

/* --- jobs and libraries --------------------------------------------------------------------------- */

static int run_item(void *ctx, uint64_t item)
{
	(void)ctx;
	terrace_jobs_yield();
	return item % 2 ? TERRACE_OK : terrace_fail(OWN_CODE, "every other item fails");
}

static bool have_item(void *ctx, uint64_t item)
{
	(void)ctx;
	return item == 0;
}

static void on_finished(void *ctx)
{
	atomic_fetch_add((_Atomic int *)ctx, 1);
}

/* One that runs to its end, and one that is cancelled. */
static int run_jobs(terrace_jobs *jobs)
{
	terrace_job_spec spec = terrace_job_spec_init();
	terrace_progress progress = terrace_progress_init();
	static _Atomic int finished;
	terrace_job *job;
	int rc;

	atomic_store(&finished, 0);
	spec.priority = TERRACE_BULK;
	spec.items = 4;
	spec.run = run_item;
	spec.have = have_item;
	spec.finished = on_finished;
	spec.ctx = &finished;
	rc = terrace_jobs_submit(jobs, &spec, &job);
	if (rc != TERRACE_OK)
		return rc;
	rc = terrace_job_wait(job, 5000);
	if (rc == TERRACE_OK)
		rc = terrace_job_progress(job, &progress);
	if (rc == TERRACE_OK &&
	    (progress.done != 2 || progress.failed != 1 || progress.skipped != 1 ||
	     !progress.finished || atomic_load(&finished) != 1))
		lie("jobs", "it did more or less than it was asked for");
	terrace_job_release(job);
	terrace_jobs_enter(jobs);
	spec.priority = TERRACE_PREFETCH;
	spec.items = 1000000000;
	if (rc == TERRACE_OK)
		rc = terrace_jobs_submit(jobs, &spec, &job);
	terrace_jobs_leave(jobs);
	if (rc != TERRACE_OK)
		return rc;
	terrace_job_cancel(job);
	rc = terrace_job_wait(job, 5000);
	if (rc == TERRACE_OK)
		rc = terrace_job_progress(job, &progress);
	if (rc == TERRACE_OK && (!progress.cancelled || atomic_load(&finished) != 2))
		lie("jobs", "it went on after it was cancelled");
	terrace_job_release(job);
	return rc;
}

static int jobs(struct opened *o)
{
	terrace_jobs_options options = terrace_jobs_options_init();
	terrace_jobs *jobs;
	int rc;

	(void)o;
	options.workers = 2;
	options.bulk_workers = 1;
	rc = terrace_jobs_open(&options, &jobs);
	if (rc != TERRACE_OK)
		return rc;
	rc = run_jobs(jobs);
	terrace_jobs_close(jobs);
	return rc;
}

static int ready(void *ctx, terrace_library *library, void **ret)
{
	(void)ctx;
	return terrace_library_symbol(library, "plugin_answer", ret);
}

static int library(struct opened *o)
{
	terrace_library_options options = terrace_library_options_init();
	terrace_library_report report = terrace_library_report_init();
	terrace_library *library;
	void *object = NULL;
	int rc, begun;

	(void)o;
	options.file = PLUGIN;
	options.ready = ready;
	rc = terrace_library_new(&options, &library);
	if (rc != TERRACE_OK)
		return rc;
	begun = terrace_library_preload(&library, 1);
	rc = terrace_library_object(library, &object);
	if (rc == TERRACE_OK && ((int (*)(void))object)() != 42)
		lie("library", "it gave something else than it has");
	terrace_library_describe(library, &report);
	if (report.state != (rc == TERRACE_OK ? TERRACE_LIBRARY_OPEN : TERRACE_LIBRARY_FAILED) ||
	    (rc != TERRACE_OK && (report.status != rc || strlen(report.error) < 10)))
		lie("library", "the report says something else than the call");
	terrace_library_free(library);
	return rc == TERRACE_OK ? begun : rc;
}

static const struct operation operations[] = {
	{ "write a stream", write_stream, "n", ALL | IN_BLOCKS, 'o', .waits = true },
	{ "drop a stream", drop_stream, "o", IN_ROWS | IN_BLOCKS, 'o' },
	{ "put_from", put_from, "n", IN_ROWS | IN_BLOCKS, 'o' },
	{ "put_from a source that fails", put_from_failing, "o", IN_BLOCKS, 'o' },
	{ "put_fd", put_fd, "n", IN_BLOCKS, 'o' },
	{ "read a stream", read_stream, "o", DISK | IN_BLOCKS, 'o' },
	{ "get_to", get_to, "o", IN_ROWS | IN_BLOCKS, 'o' },
	{ "get_to, a range", get_range, "o", IN_BLOCKS, 'o' },
	{ "get_to a sink that fails", get_to_failing, "o", IN_BLOCKS, 'o' },
	{ "get_fd", get_fd, "o", IN_ROWS | IN_BLOCKS, 'o' },
	{ "fetch what is written", fetch_written, "n ", ALL | IN_BLOCKS, 0, .must = true },
	{ "fetch what is taken", fetch_taken, "n ", IN_ROWS | IN_BLOCKS, 0, .must = true },
	{ "fetch_to what is written", fetch_to_written, "n ", DISK | IN_BLOCKS, 0, .must = true },
	{ "fetch_to what is taken", fetch_to_taken, "n ", IN_ROWS | IN_BLOCKS, 0, .must = true },
	{ "fetch_to what is kept", fetch_to_kept, "on", IN_ROWS | IN_BLOCKS, 'o' },
	{ "fetch_to a sink that fails", fetch_to_failing, " ", IN_BLOCKS, 0 },
	{ "processes", processes, "o", IN_ROWS, 'o' },
	{ "reset", reset, "n ", DISK, 'o', .opens = true },
	{ "jobs of all kinds", jobs, "o", IN_ROWS, 'o' },
	{ "library that is there", library, "o", IN_ROWS, 'o' },
};
const struct operation_table stream_operations = { operations,
	                                           sizeof operations / sizeof *operations };
