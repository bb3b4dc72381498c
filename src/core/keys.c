/* Listing keys, and checking everything. */
#include "core/bulk.h"

#include "core/behind.h"
#include "core/entries.h"
#include "core/present.h"
#include "core/write.h"
#include "util/message.h"
#include "util/time.h"
#include "util/util.h"

#include <time.h>

enum { KEYS_AT_ONCE = 256 };

struct batch {
	struct key_list *list;
	unsigned count;
};

static bool take_key(void *ctx, const struct tier_row *row)
{
	struct batch *batch = ctx;
	struct key_list *list = batch->list;

	list->after_id = row->id;
	if (row->key.size == 0 || row->absent || (row->entry && row->entry->kind == ENTRY_ABSENT) ||
	    terrace__times_reason(list->cache, 0, row->expires, row->seq) != TERRACE_REASON_LIVE)
		return true;
	/* What memory alone holds may be out of date by other marks. */
	if (row->entry &&
	    atomic_load(&row->entry->epoch) != atomic_load(&list->cache->shared->epoch))
		return true;
	terrace__buf_sized(&list->keys, row->key.data, (uint32_t)row->key.size);
	batch->count++;
	return row->entry || batch->count < KEYS_AT_ONCE;
}

int terrace__keys_start(struct terrace_cache *cache, const terrace_match *match, bool newest_first,
                        struct key_list *ret)
{
	*ret = (struct key_list){ .cache = cache, .newest_first = newest_first };
	if (match) {
		terrace__buf_append(&ret->match_text, match->text.data, match->text.size);
		if (ret->match_text.failed)
			return no_memory("a listing");
		ret->match.kind = match->kind;
		ret->match.text = terrace_bytes(ret->match_text.data, ret->match_text.size);
	}
	if (cache->on_disk)
		terrace__behind_settle_all(cache->store); /* to be listed, it must be there */
	if (cache->on_disk && terrace__present(cache->store))
		cache->store->disk_ops->names(cache->store->disk, cache->number, &ret->match,
		                              &ret->names);
	ret->at_end = cache->tiers == 0;
	return TERRACE_OK;
}

/* Behind the keys of objects, those of which memory has the bytes alone. */
static int add_encoded(struct key_list *list, struct batch *batch)
{
	CLEANUP(terrace__buf_done) struct buf objects = list->keys;
	struct terrace_cache *cache = list->cache;
	struct reader reader;
	int rc;

	list->keys = (struct buf){ 0 };
	rc = cache->memory_ops->each(cache->encoded, cache->number, &list->match, take_key, batch);
	reader = terrace__reader(list->keys.data, list->keys.size);
	while (rc == TERRACE_OK && reader.at < reader.end) {
		size_t size = terrace__read_u32(&reader);
		terrace_slice key = terrace_bytes(terrace__read_bytes(&reader, size), size);
		struct tier_key hashed = cache_key(cache, key);
		struct entry *object;

		if (cache->memory_ops->get(cache->memory, &hashed, false, &object) == TERRACE_OK) {
			entry_unref(object);
			continue;
		}
		terrace__buf_sized(&objects, key.data, (uint32_t)size);
	}
	objects.failed |= list->keys.failed;
	terrace__buf_done(&list->keys);
	list->keys = objects;
	objects = (struct buf){ 0 };
	return rc;
}

/* The next batch of keys into list->keys. Memory is listed in one go. */
static int fill(struct key_list *list)
{
	struct terrace_cache *cache = list->cache;
	struct terrace *store = cache->store;
	struct batch batch = { .list = list };
	int rc = TERRACE_OK;

	list->keys.size = 0;
	if (cache->on_disk && !terrace__present(store)) {
		list->at_end = true;
	} else if (cache->on_disk) {
		struct disk_where where = {
			.kind = DISK_MATCHING,
			.cache = cache->number,
			.newest_first = list->newest_first,
			.after_id = list->after_id,
			.match = &list->match,
			.names = &list->names,
		};

		rc = store->disk_ops->select(store->disk, &where, take_key, &batch);
		list->at_end = batch.count < KEYS_AT_ONCE;
	} else {
		rc = cache->memory_ops->each(cache->memory, cache->number, &list->match, take_key,
		                             &batch);
		if (rc == TERRACE_OK && cache->encoded)
			rc = add_encoded(list, &batch);
		list->at_end = true;
	}
	list->reader = terrace__reader(list->keys.data, list->keys.size);
	return list->keys.failed ? no_memory("a listing") : rc;
}

int terrace__keys_next(struct key_list *list, terrace_slice *ret)
{
	size_t size;

	while (list->reader.at == list->reader.end) {
		int rc;

		if (list->at_end) {
			/* Here, and not when it is closed: that may be anywhere, and fails never. */
			if (list->cache->on_disk)
				terrace__names_add(list->cache, &list->names);
			return TERRACE_MISS;
		}
		rc = fill(list);
		if (rc != TERRACE_OK)
			return rc;
	}
	size = terrace__read_u32(&list->reader);
	*ret = terrace_bytes(terrace__read_bytes(&list->reader, size), size);
	return TERRACE_OK;
}

/* --- names ------------------------------------------------------------------------------------- */

/*
 * Fewer are passed by in half a millisecond. A name takes as long as passing by four to
 * twenty rows, so of so many one gets it; and who waits for the writers' lock waits for a batch.
 */
enum { NAMES_LEAST = 512, NAMES_PART = 8, NAMES_AT_ONCE = 128 };
enum { NAMES_WAIT_MS = 10 };

/* Under the writers' lock. *ret: how many; none are left when it is 0. */
static int name_some(struct terrace *store, struct terrace_cache *cache, size_t *ret)
{
	struct transaction transaction;
	int rc = terrace__transaction_begin(store, &transaction);

	*ret = 0;
	if (rc != TERRACE_OK)
		return rc;
	rc = store->disk_ops->names_add(store->disk, cache->number, NAMES_AT_ONCE, ret);
	if (rc == TERRACE_OK && *ret > 0)
		return terrace__transaction_commit(&transaction);
	terrace__transaction_rollback(&transaction);
	return rc;
}

void terrace__names_add(struct terrace_cache *cache, struct disk_names *names)
{
	struct terrace *store = cache->store;
	uint64_t left = names->passed / NAMES_PART;
	size_t count;

	if (!names->wanted || names->passed < NAMES_LEAST || store->read_only ||
	    terrace__write_leads(store))
		return;
	names->passed = 0; /* once is enough */
	do {
		/* It is nobody's wish: who has the lock goes first, and failing is no news. */
		if (terrace__writer_lock(store, NAMES_WAIT_MS) != TERRACE_OK)
			return;
		if (name_some(store, cache, &count) != TERRACE_OK)
			count = 0;
		terrace__writer_unlock(store);
		left -= min_u64(left, count);
	} while (count > 0 && left > 0);
}

void terrace__keys_done(struct key_list *list)
{
	terrace__buf_done(&list->names.ids);
	terrace__buf_done(&list->keys);
	terrace__buf_done(&list->match_text);
}

/* --- verify ---------------------------------------------------------------------------------------- */

struct verify {
	struct terrace *store;
	bool repair;
	int (*fn)(void *ctx, const terrace_fault *fault);
	void *ctx;
	terrace_verify_report *report;
	const struct disk_fault *fault; /* to be repaired */
	bool stopped;                   /* by fn */
};

static const char *name_of(struct terrace *store, const struct disk_fault *fault)
{
	if (fault->row.id == 0 || fault->row.cache >= CACHES_MAX ||
	    !terrace__cache_is_named(store->shared, fault->row.cache))
		return "";
	return store->shared->caches[fault->row.cache].name;
}

/* Under the writers' lock. */
static int repair_row(struct terrace *store, void *ctx)
{
	const struct disk_fault *fault = ctx;
	struct tier_note note = { .reason = TERRACE_REASON_DAMAGED,
		                  .when = terrace__now(store),
		                  .detail = fault->detail };
	struct transaction transaction;
	int rc = terrace__transaction_begin(store, &transaction);

	if (rc != TERRACE_OK)
		return rc;
	if (fault->row.cache < CACHES_MAX)
		atomic_store(&store->shared->caches[fault->row.cache].rows, ROWS_LACK);
	rc = store->disk_ops->remove_row(store->disk, &fault->row, &note);
	if (rc == TERRACE_OK)
		return terrace__transaction_commit(&transaction);
	terrace__transaction_rollback(&transaction);
	return rc == TERRACE_MISS ? TERRACE_OK : rc; /* gone already */
}

/* Nothing that SQLite's own check complains of can be mended in place. */
static int renew(struct terrace *store, void *ctx)
{
	(void)ctx;
	return terrace__database_renew(store, true);
}

static bool repair(struct terrace *store, const struct disk_fault *fault)
{
	switch (fault->kind) {
	case TERRACE_FAULT_ENTRY:
	case TERRACE_FAULT_NO_FILE:
		return terrace__write_alone(store, repair_row, (void *)(uintptr_t)fault) ==
		       TERRACE_OK;
	case TERRACE_FAULT_ORPHAN:
		return store->disk_ops->file_remove_path(store->disk, fault->path) == TERRACE_OK;
	case TERRACE_FAULT_DATABASE:
		return terrace__write_alone(store, renew, NULL) == TERRACE_OK;
	}
	return false;
}

static bool on_fault(void *ctx, const struct disk_fault *fault)
{
	struct verify *verify = ctx;
	terrace_fault seen = { .size = sizeof seen };
	CLEANUP(terrace__buf_done) struct buf detail = { 0 };

	seen.kind = fault->kind;
	seen.cache = name_of(verify->store, fault);
	seen.key = fault->row.key;
	terrace__buf_printf(&detail, "%s%s%s", fault->path ? fault->path : "",
	                    fault->path ? ": " : "", fault->detail);
	seen.detail = detail.data ? (const char *)detail.data : fault->detail;
	if (verify->repair)
		seen.repaired = repair(verify->store, fault);
	switch (fault->kind) {
	case TERRACE_FAULT_ENTRY:
		verify->report->damaged++;
		break;
	case TERRACE_FAULT_NO_FILE:
		verify->report->missing_files++;
		break;
	case TERRACE_FAULT_ORPHAN:
		verify->report->orphans++;
		break;
	case TERRACE_FAULT_DATABASE:
		verify->report->database_errors++;
		break;
	}
	verify->report->repaired += seen.repaired;
	verify->stopped = verify->fn && verify->fn(verify->ctx, &seen) != 0;
	if (verify->stopped)
		return false;
	/* The rest of a database that is in use no more is nobody's. */
	return fault->kind != TERRACE_FAULT_DATABASE || !seen.repaired;
}

/* Under the writers' lock: who began one may have died, and nobody have written since. */
static int forget_transaction(struct terrace *store, void *ctx)
{
	(void)ctx;
	terrace__transaction_forget(store);
	return TERRACE_OK;
}

int terrace__verify(struct terrace *store, bool mend,
                    int (*fn)(void *ctx, const terrace_fault *fault), void *ctx,
                    terrace_verify_report *report)
{
	struct verify verify = {
		.store = store, .repair = mend, .fn = fn, .ctx = ctx, .report = report
	};
	const _Atomic uint32_t *open = &store->shared->transaction;
	int rc;

	/* Another's has its time to end. */
	if (atomic_load(open) && !store->read_only && !terrace__transaction_mine(store))
		terrace__write_alone(store, forget_transaction, NULL);
	rc = store->disk_ops->verify(store->disk, open, on_fault, &verify, &report->entries,
	                             &report->bytes);

	if (rc == TERRACE_ECORRUPT) { /* SQLite could not even read it all */
		struct disk_fault fault = { .kind = TERRACE_FAULT_DATABASE,
			                    .detail = terrace__message() };

		on_fault(&verify, &fault);
		rc = TERRACE_OK;
	}
	return rc;
}

/* --- scrub ------------------------------------------------------------------------------------------ */

/* A batch is read at once, so this is how even the rate is: 20 times a second. */
enum { BATCHES_PER_SECOND = 20, BATCH_BYTES = 8 << 20 };

/* So many bytes were to take until now. */
static void keep_rate(uint64_t start_ns, uint64_t bytes, uint64_t bytes_per_second)
{
	double seconds = (double)bytes / (double)bytes_per_second;
	uint64_t until = start_ns + (uint64_t)(seconds * 1e9), now = terrace__now_ns();
	struct timespec left;

	if (now >= until)
		return;
	left.tv_sec = (time_t)((until - now) / 1000000000);
	left.tv_nsec = (long)((until - now) % 1000000000);
	nanosleep(&left, NULL);
}

int terrace__scrub(struct terrace *store, const terrace_scrub_options *options,
                   int (*fn)(void *ctx, const terrace_fault *fault), void *ctx,
                   terrace_verify_report *report, uint64_t *ret_position)
{
	struct verify verify = {
		.store = store, .repair = options->repair, .fn = fn, .ctx = ctx, .report = report
	};
	uint64_t rate = options->bytes_per_second, start = terrace__now_ns();
	uint64_t batch = rate ? max_u64(rate / BATCHES_PER_SECOND, 1) : BATCH_BYTES;
	uint64_t most = options->most_bytes ? options->most_bytes : UINT64_MAX;
	int rc;

	*ret_position = options->position;
	do {
		rc = store->disk_ops->scrub(store->disk, ret_position,
		                            min_u64(batch, most - report->bytes), on_fault, &verify,
		                            &report->entries, &report->bytes);
		if (rc == TERRACE_OK && rate)
			keep_rate(start, report->bytes, rate);
	} while (rc == TERRACE_OK && report->bytes < most);
	if (rc == TERRACE_ECORRUPT) {
		report->database_errors++;
		report->repaired += options->repair && terrace__database_mend(store);
		rc = TERRACE_MISS;
	}
	if (rc == TERRACE_MISS && !verify.stopped)
		*ret_position = 0;
	return rc == TERRACE_MISS ? TERRACE_OK : rc;
}
