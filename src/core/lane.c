#include "core/lane.h"

#include "util/fs.h"
#include "util/message.h"
#include "util/util.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LANES_NAME "lanes"

/* Of the least of limits, which lets a few values wait; a lane counts as room taken. */
enum { LANE_BYTES_MIN = 64 << 10, LANE_PART = 256 };

/* `waiting`: the lane, the lower bits of the mark's number, and a check of them and the slot. */
enum { LANE_BITS = 5, WAITING_CHECK_BITS = 32 - LANE_BITS - AT_BITS };
#define AT_MASK (((uint32_t)1 << AT_BITS) - 1)
_Static_assert(LANES <= 1 << LANE_BITS && MARKS <= 1 << AT_BITS, "waiting has no room");

static struct shared_mark *mark_at(const struct shared *shared, int lane, uint64_t at)
{
	return (struct shared_mark *)(uintptr_t)&shared->lanes[lane].marks[at % MARKS];
}

/* --- from where to where ---------------------------------------------------------------------- */

bool terrace__lane_head(const struct shared *shared, int lane, uint64_t *ret)
{
	uint64_t head = atomic_load(&shared->lanes[lane].head);

	*ret = word_value(head);
	return LIKELY(word_holds(shared, PLACE_HEADS + (uint32_t)lane, head));
}

static bool tail_of(const struct shared *shared, int lane, uint64_t *ret)
{
	uint64_t tail = atomic_load(&shared->lanes[lane].tail);

	*ret = word_value(tail);
	return LIKELY(word_holds(shared, PLACE_TAILS + (uint32_t)lane, tail));
}

bool terrace__lane_span(const struct shared *shared, int lane, uint64_t *ret_head,
                        uint64_t *ret_tail)
{
	/* The head first: it only moves up to where the tail has been. */
	bool holds = terrace__lane_head(shared, lane, ret_head);

	holds &= tail_of(shared, lane, ret_tail);
	return holds && *ret_tail - *ret_head <= MARKS;
}

bool terrace__lane_is_empty(const struct shared *shared, int lane)
{
	uint64_t head, tail;

	return terrace__lane_span(shared, lane, &head, &tail) && head == tail;
}

static void head_set(struct shared *shared, int lane, uint64_t head)
{
	atomic_store(&shared->lanes[lane].head,
	             word_make(shared, PLACE_HEADS + (uint32_t)lane, head));
}

void terrace__lane_tail_set(struct shared *shared, int lane, uint64_t tail)
{
	atomic_store(&shared->lanes[lane].tail,
	             word_make(shared, PLACE_TAILS + (uint32_t)lane, tail));
}

void terrace__lane_pass(struct shared *shared, int lane, uint64_t to)
{
	uint64_t head;

	/* One that is damaged is mended by the next who makes rows. */
	if (terrace__lane_head(shared, lane, &head) && head < to)
		head_set(shared, lane, to);
}

void terrace__lane_mend(struct shared *shared, int lane)
{
	uint64_t head, tail, damaged = atomic_load(&shared->lanes[lane].tail);

	if (tail_of(shared, lane, &tail)) {
		head_set(shared, lane, tail);
		return;
	}
	if (!terrace__lane_head(shared, lane, &head))
		head_set(shared, lane, head);
	/* Unless its owner has just set it. */
	atomic_compare_exchange_strong(&shared->lanes[lane].tail, &damaged,
	                               word_make(shared, PLACE_TAILS + (uint32_t)lane, head));
}

/* --- marks ------------------------------------------------------------------------------------ */

static uint32_t waiting_make(const struct shared *shared, uint32_t slot, int lane, uint64_t at)
{
	uint32_t value = (uint32_t)lane << AT_BITS | ((uint32_t)at & AT_MASK);
	uint64_t mixed = ((uint64_t)slot << (LANE_BITS + AT_BITS) | value) ^ shared->head.salt;

	/* See word_make(). */
	mixed = mixed * UINT64_C(0x9e3779b97f4a7c15) >> (64 - WAITING_CHECK_BITS);
	return value << WAITING_CHECK_BITS | (uint32_t)mixed;
}

static int waiting_lane(uint32_t waiting)
{
	return (int)(waiting >> (AT_BITS + WAITING_CHECK_BITS)) % LANES;
}

static uint32_t waiting_at(uint32_t waiting)
{
	return waiting >> WAITING_CHECK_BITS & AT_MASK;
}

static bool waiting_holds(const struct shared *shared, uint32_t slot, uint32_t waiting)
{
	return waiting_make(shared, slot, waiting_lane(waiting), waiting_at(waiting)) == waiting;
}

static uint64_t check_of(const struct shared *shared, const struct lane_item *item)
{
	uint64_t parts[] = { item->hash, (uint64_t)item->offset << 32 | item->size, item->at,
		             item->prev };

	return terrace__hash64(parts, sizeof parts, shared->head.salt);
}

bool terrace__lane_read(const struct shared *shared, int lane, uint64_t at, struct lane_item *ret)
{
	const struct shared_mark *mark = mark_at(shared, lane, at);
	uint64_t place;
	bool holds;

	*ret = (struct lane_item){ .at = at };
	/* Last written, first read: with it, the rest is there. */
	holds = terrace__mark_seq(shared, mark, &ret->seq);
	holds &= terrace__mark_where(shared, mark, &ret->slot, &ret->cache);
	ret->version = atomic_load(&mark->version);
	ret->epoch = atomic_load(&mark->epoch);
	ret->hash = atomic_load(&mark->hash);
	ret->prev = atomic_load(&mark->prev);
	place = atomic_load(&mark->place);
	ret->offset = (uint32_t)(place >> 32);
	ret->size = (uint32_t)place;
	return holds && atomic_load(&mark->check) == check_of(shared, ret) &&
	       (uint64_t)ret->offset + ret->size <= LANE_BYTES;
}

void terrace__lane_soon(const struct shared *shared, int lane, uint64_t at)
{
	uint32_t slot, cache;

	if (terrace__mark_where(shared, mark_at(shared, lane, at), &slot, &cache))
		slot_soon(shared, slot);
}

static bool find_named(const struct shared *shared, uint32_t slot, uint32_t waiting, int *ret_lane,
                       struct lane_item *ret)
{
	int lane = waiting_lane(waiting);
	uint64_t head, tail, at;

	if (!waiting_holds(shared, slot, waiting) ||
	    !terrace__lane_span(shared, lane, &head, &tail))
		return false;
	at = head + ((waiting_at(waiting) - (uint32_t)head) & AT_MASK);
	*ret_lane = lane;
	return at < tail && terrace__lane_read(shared, lane, at, ret) && ret->slot == slot;
}

bool terrace__lane_find(const struct shared *shared, uint32_t slot, int *ret_lane,
                        struct lane_item *ret)
{
	uint32_t waiting, now = atomic_load(&shared->waiting[slot]);
	bool found;

	/* A later one, put as we read, may have given it its own version. */
	do {
		waiting = now;
		found = find_named(shared, slot, waiting, ret_lane, ret);
		now = atomic_load(&shared->waiting[slot]);
	} while (now != waiting);
	return found;
}

bool terrace__lane_prev(const struct shared *shared, int lane, struct lane_item *item)
{
	uint32_t slot = item->slot;
	uint64_t prev = item->prev, head;

	return terrace__lane_head(shared, lane, &head) && prev > head &&
	       terrace__lane_read(shared, lane, prev - 1, item) && item->slot == slot;
}

bool terrace__lane_is_current(const struct shared *shared, int lane, const struct lane_item *item)
{
	return item->seq &&
	       version_load(shared, item->slot) ==
	           atomic_load(&mark_at(shared, lane, item->at)->version) &&
	       atomic_load(&shared->caches[item->cache].epoch) == item->epoch;
}

bool terrace__lanes_any(struct terrace *store, const struct terrace_cache *cache)
{
	const struct shared *shared = store->shared;
	uint32_t slot, number;
	uint64_t at, tail;

	for (int i = 0; i < LANES; i++) {
		if (!terrace__lane_span(shared, i, &at, &tail))
			return true;
		for (; at < tail; at++) {
			if (!cache ||
			    !terrace__mark_where(shared, mark_at(shared, i, at), &slot, &number) ||
			    number == cache->number)
				return true;
		}
	}
	return false;
}

/* --- the file ------------------------------------------------------------------------------ */

static uint8_t *map(struct terrace *store, int fd)
{
	_Atomic(uint8_t *) *values = &store->behind.values;
	uint8_t *none = NULL, *mapped;
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < (off_t)LANES * LANE_BYTES)
		return NULL;
	mapped = mmap(NULL, (size_t)LANES * LANE_BYTES,
	              store->read_only ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mapped == MAP_FAILED)
		return NULL;
	if (atomic_compare_exchange_strong(values, &none, mapped)) {
		atomic_store(&store->behind.values_inode, st.st_ino);
		return mapped;
	}
	munmap(mapped, (size_t)LANES * LANE_BYTES);
	return none;
}

/* Where the records of a lane lie; NULL when that cannot be looked at. */
static uint8_t *values_of(struct terrace *store, int lane)
{
	uint8_t *values = atomic_load(&store->behind.values);

	if (UNLIKELY(!values)) {
		CLEANUP(terrace__fd_done)
		int fd = openat(store->dir_fd, LANES_NAME,
		                (store->read_only ? O_RDONLY : O_RDWR) | O_NOFOLLOW | O_CLOEXEC);

		values = fd < 0 ? NULL : map(store, fd);
	}
	return values ? values + (size_t)lane * LANE_BYTES : NULL;
}

void terrace__lanes_close(struct terrace *store)
{
	uint8_t *values = atomic_exchange(&store->behind.values, NULL);

	if (values)
		munmap(values, (size_t)LANES * LANE_BYTES);
}

/* Whole, so that no place in it is beyond its end, but with holes. */
static int open_file(struct terrace *store)
{
	int fd = openat(store->dir_fd, LANES_NAME, O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
	struct stat st;

	if (fd < 0)
		return -1;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    (st.st_size >= (off_t)LANES * LANE_BYTES ||
	     ftruncate(fd, (off_t)LANES * LANE_BYTES) == 0) &&
	    (atomic_load(&store->behind.values) || map(store, fd)) &&
	    atomic_load(&store->behind.values_inode) == st.st_ino)
		return fd;
	close(fd);
	return -1;
}

static uint64_t bytes_for(const struct terrace *store)
{
	uint64_t part = store->disk_bytes / LANE_PART & ~(uint64_t)4095;

	if (!store->disk_bytes)
		return LANE_BYTES;
	return max_u64(LANE_BYTES_MIN, min_u64(LANE_BYTES, part));
}

int terrace__lane_make(struct terrace *store, int lane, uint64_t *ret_bytes)
{
	CLEANUP(terrace__fd_done) int fd = -1;
	uint64_t bytes = bytes_for(store);
	int err = EIO;

	terrace__limit_enter();
	fd = open_file(store);
	if (fd >= 0) {
		/* Every block now: a full disk later would be a SIGBUS. */
		do
			err = posix_fallocate(fd, (off_t)lane * LANE_BYTES, (off_t)bytes);
		while (err == EINTR);
	}
	terrace__limit_leave();
	if (err) {
		terrace__message_set("cannot make room for values that wait: %s", strerror(err));
		return TERRACE_EIO;
	}
	/* A process that died may have left it more. */
	if (atomic_load(&store->shared->lanes[lane].bytes) < bytes)
		atomic_store(&store->shared->lanes[lane].bytes, bytes);
	*ret_bytes = bytes;
	return TERRACE_OK;
}

void terrace__lane_unmake(struct terrace *store, int lane)
{
	CLEANUP(terrace__fd_done) int fd = open_file(store);

	if (fd >= 0 && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	                         (off_t)lane * LANE_BYTES, LANE_BYTES) == 0)
		atomic_store(&store->shared->lanes[lane].bytes, 0);
}

uint64_t terrace__lanes_bytes(const struct shared *shared)
{
	uint64_t bytes = 0;

	/* Of what is damaged no more is believed than there can be. */
	for (int i = 0; i < LANES; i++)
		bytes += min_u64(atomic_load(&shared->lanes[i].bytes), LANE_BYTES);
	return bytes;
}

void terrace__lanes_remove(int dir_fd)
{
	unlinkat(dir_fd, LANES_NAME, 0);
}

/* --- one value ------------------------------------------------------------------------------- */

/* What it was written for: the place may hold an older one. */
static bool read_record(const struct terrace *store, const uint8_t *bytes,
                        const struct lane_item *item, struct record *ret,
                        terrace_slice *ret_payload)
{
	uint64_t seed = seed_of(store, item->cache);
	size_t head;

	if (item->size < RECORD_HEAD_FIXED)
		return false;
	head = terrace__record_head_size(bytes);
	if (head < RECORD_HEAD_FIXED || head > item->size ||
	    terrace__record_read(terrace_bytes(bytes, head), ret) != TERRACE_OK ||
	    ret->seq != item->at + 1 || ret->cache != item->cache ||
	    ret->payload_size > item->size - head ||
	    terrace__hash64(ret->key.data, ret->key.size, seed) != item->hash)
		return false;
	*ret_payload = terrace_bytes(bytes + head, (size_t)ret->payload_size);
	return true;
}

bool terrace__lane_key(struct terrace *store, int lane, const struct lane_item *item,
                       terrace_slice *ret)
{
	const uint8_t *values = values_of(store, lane);
	struct record record;
	terrace_slice payload;

	if (!values || !read_record(store, values + item->offset, item, &record, &payload))
		return false;
	*ret = record.key;
	return true;
}

static int read_value(const struct terrace *store, const uint8_t *bytes,
                      const struct lane_item *item, struct entry **ret)
{
	struct record record;
	terrace_slice payload;
	int rc;

	if (!read_record(store, bytes, item, &record, &payload))
		return TERRACE_ECORRUPT;
	rc = terrace__record_entry(&record, payload, item->hash, TERRACE_L2, ret);
	if (rc == TERRACE_OK)
		entry_rest(*ret)->seq = item->seq;
	return rc;
}

int terrace__lane_value(struct terrace *store, int lane, const struct lane_item *item,
                        struct entry **ret)
{
	const uint8_t *values = values_of(store, lane);
	uint64_t first;
	int rc = values ? read_value(store, values + item->offset, item, ret) : TERRACE_ECORRUPT;

	/* What was read before this holds if the place was not free yet. */
	atomic_thread_fence(memory_order_acquire);
	if (terrace__lane_head(store->shared, lane, &first) && first <= item->at)
		return rc;
	if (rc == TERRACE_OK)
		entry_unref(*ret);
	return TERRACE_MISS;
}

void terrace__lane_write_soon(struct terrace *store, int lane, const struct lane_item *item)
{
	enum { LINE = 64, SOON_MOST = 2048 };
	const uint8_t *bytes = atomic_load(&store->behind.values);

	bytes += (size_t)lane * LANE_BYTES + item->offset;
	for (uint32_t i = 0; i < item->size && i < SOON_MOST; i += LINE)
		__builtin_prefetch(bytes + i, 1);
	__builtin_prefetch(mark_at(store->shared, lane, item->at), 1);
}

void terrace__lane_write(struct terrace *store, int lane, const struct lane_item *item,
                         terrace_slice head, terrace_slice value)
{
	struct shared *shared = store->shared;
	struct shared_mark *mark = mark_at(shared, lane, item->at);
	uint8_t *bytes = atomic_load(&store->behind.values);

	terrace__mark_seq_set(shared, mark, 0);
	bytes += (size_t)lane * LANE_BYTES + item->offset;
	memcpy(bytes, head.data, head.size);
	if (value.size)
		memcpy(bytes + head.size, value.data, value.size);
	atomic_store_explicit(&mark->hash, item->hash, memory_order_release);
	atomic_store_explicit(&mark->place, (uint64_t)item->offset << 32 | item->size,
	                      memory_order_release);
	atomic_store_explicit(&mark->prev, item->prev, memory_order_release);
	atomic_store_explicit(&mark->check, check_of(shared, item), memory_order_release);
	terrace__mark_set(shared, mark, item->slot, item->cache);
}

void terrace__lane_finish(struct shared *shared, int lane, const struct lane_item *item)
{
	struct shared_mark *mark = mark_at(shared, lane, item->at);
	struct lane_item found;
	uint32_t latest;
	int where;

	atomic_store_explicit(&mark->version, item->version, memory_order_release);
	atomic_store_explicit(&mark->epoch, item->epoch, memory_order_release);
	terrace__mark_seq_set(shared, mark, item->seq);
	/* Unless another process has put a later one meanwhile. */
	do {
		latest = atomic_load(&shared->waiting[item->slot]);
		if (terrace__lane_find(shared, item->slot, &where, &found) && found.seq &&
		    where != lane && version_number(found.version) >= version_number(item->version))
			return;
	} while (!atomic_compare_exchange_strong(&shared->waiting[item->slot], &latest,
	                                         waiting_make(shared, item->slot, lane, item->at)));
}

void terrace__lane_restamp(struct shared *shared, int lane, uint64_t at, uint64_t old, uint64_t new)
{
	_Atomic uint64_t *version = &mark_at(shared, lane, at)->version;

	if (atomic_load_explicit(version, memory_order_relaxed) == old)
		atomic_store_explicit(version, new, memory_order_release);
}

/* --- taking marks off ------------------------------------------------------------------------ */

/* Does a value wait for the slot, in this lane from `from` on or in another? */
static bool waits(const struct shared *shared, int lane, uint64_t from, uint32_t slot)
{
	for (int i = 0; i < LANES; i++) {
		uint64_t at, tail;

		if (!terrace__lane_span(shared, i, &at, &tail))
			return true;
		for (at = i == lane ? max_u64(at, from) : at; at < tail; at++) {
			uint32_t marked, cache;

			if (!terrace__mark_where(shared, mark_at(shared, i, at), &marked, &cache) ||
			    marked == slot)
				return true;
		}
	}
	return false;
}

static void unmark(struct shared *shared, int lane, uint64_t from, uint32_t slot)
{
	uint64_t version, new;

	do {
		version = version_look(shared, slot, version_load(shared, slot));
		if (!version_is_behind(version) || waits(shared, lane, from, slot))
			return;
		new = word_make(shared, slot, word_value(version) & ~VERSION_BEHIND);
	} while (!atomic_compare_exchange_weak(&shared->versions[slot], &version, new));
}

/*
 * Is something waiting that was put since, or just being put? One put at a time is under
 * way in a lane, and is its last; any other is named by `waiting`.
 */
static bool is_succeeded(const struct shared *shared, int lane, uint64_t to, uint32_t slot)
{
	struct lane_item latest;
	uint32_t marked, cache;
	uint64_t tail;
	int where;

	/* What is damaged does not say that nothing is. */
	if (!tail_of(shared, lane, &tail) ||
	    !waiting_holds(shared, slot, atomic_load(&shared->waiting[slot])))
		return true;
	if (tail > to &&
	    terrace__mark_where(shared, mark_at(shared, lane, tail - 1), &marked, &cache) &&
	    marked == slot)
		return true;
	return terrace__lane_find(shared, slot, &where, &latest) &&
	       (where != lane || latest.at >= to);
}

void terrace__lane_unmark(struct shared *shared, int lane, uint64_t to,
                          const struct lane_item *item)
{
	uint64_t version = item->version;
	struct lane_item latest;
	int where;

	/* A neighbour that was put beside it has given it its own version: then it is not the
	 * version alone that says whether something waits. */
	if (is_succeeded(shared, lane, to, item->slot))
		return;
	if (item->seq && word_holds(shared, item->slot, version) &&
	    atomic_compare_exchange_strong(
		&shared->versions[item->slot], &version,
		word_make(shared, item->slot, word_value(version) & ~VERSION_BEHIND)))
		return;
	/* Most often a later value of the same key is in this batch too. */
	if (terrace__lane_find(shared, item->slot, &where, &latest) && latest.at > item->at)
		return;
	unmark(shared, lane, to, item->slot);
}

void terrace__lane_unmark_stray(struct shared *shared, uint32_t slot)
{
	unmark(shared, -1, 0, slot);
}
