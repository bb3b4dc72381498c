/*
 * Where rows were seen.
 *
 * SQLite finds a row by two B-trees, and reads its page, and what is larger page
 * by page. Who has read one remembers where its bytes lay in the database's file or its log,
 * and takes them from there the next time, in a read or two. That is believed
 * as a copy in L1 would be: while the version of the key, the epoch of its cache
 * and the database are those under which SQLite gave the row; and, as it is no
 * copy in memory, while no tier of the cache was cleared. And what lies there says
 * itself what it is: its head has a sum, the key, the number of the write and the
 * sum of the payload. So it does no harm that the log begins anew and another page lies
 * there. Of anything else SQLite is asked.
 *
 * A value in a file needs no row: the file says itself what the row does, but for the
 * number of the write, which is drawn after it was written. So that number and the sum
 * of the file's head are remembered, wherever the row lay. A touch changes the row
 * alone: then the row is needed.
 *
 * A page has other rows, too, and where those are is remembered with the one that was asked
 * for: by keys that differ in a number, neighbours are what is asked for next. Of them
 * the version is loaded after SQLite has read the page, and so is believed only if
 * nobody has committed since: then a write that gave that version was there before.
 *
 * The table is the process's own, and nothing of it is locked: a place that two
 * wrote at once does not have its check.
 *
 * SQLite, "Database File Format", is where the layout of a page is from: 1.6 (leaves
 * of tables, cells, overflow) and 2.1 (records).
 */
#include "tiers/sqlite/connection.h"

#include "tiers/sqlite/vfs.h"
#include "util/hash.h"
#include "util/util.h"

#include <stdlib.h>
#include <sys/mman.h>

enum {
	USABLE = PAGE_BYTES - PAGE_SUM_BYTES,
	OVERFLOW_BYTES = USABLE - 4, /* of a page behind the number of the next */
	LOCAL_MOST = USABLE - 35,    /* of a cell, if it is all */
	LOCAL_LEAST = (USABLE - 12) * 32 / 255 - 23,
	LEAF = 13,        /* the type of a table's leaf */
	CELLS_AT = 8,     /* where the places of its cells begin */
	COLUMN_HEAD = 10, /* of a row; the value is the next */
	SIZE_BITS = 16,
	/* Of a record beside head and value: 14 to 20 bytes say what its columns are; ten
	 * are numbers, of up to eight bytes each. */
	RECORD_LEAST = 14,
	RECORD_MOST = 100,
	HEAD_BITS = 26,
	LAYOUT_BITS = 2,
};
static const uint64_t in_file = UINT64_C(1) << 63;

/* In the database or its log; or, with `file`, that file alone. */
struct spot {
	uint64_t at;   /* of the head, and how much lies there; of a file alone its sizes */
	uint64_t rest; /* where the value goes on; or `in_file` and the file's number */
	uint64_t file; /* the sum of its head, where that says all that the row does */
	uint64_t seq;
};

struct place {
	_Atomic uint64_t at, rest, file, seq; /* as in a spot */
	_Atomic uint64_t check;               /* of these, and of what they stand under */
};
enum { PLACES = 1 << 17 };
/* They are found by a row's hash and by its key's. */
_Static_assert(PLACES <= 1ull << ROW_HASH_BITS, "those bits are the same");

static struct place *places_of(struct disk *disk, bool make)
{
	struct place *places = atomic_load(&disk->places), *seen = NULL;

	if (places || !make)
		return places;
	places = mmap(NULL, PLACES * sizeof *places, PROT_READ | PROT_WRITE,
	              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (places == MAP_FAILED)
		return NULL;
	if (atomic_compare_exchange_strong(&disk->places, &seen, places))
		return places;
	munmap(places, PLACES * sizeof *places);
	return seen;
}

void terrace__places_free(struct disk *disk)
{
	struct place *places = atomic_load(&disk->places);

	if (places)
		munmap(places, PLACES * sizeof *places);
}

static uint64_t check_of(const struct tier_key *key, const struct tier_stamp *stamp,
                         uint32_t generation, const struct spot *spot)
{
	uint64_t all[] = { key->hash,  key->cache, stamp->version, stamp->epoch, stamp->cleared,
		           generation, spot->at,   spot->rest,     spot->file,   spot->seq };

	return terrace__hash64(all, sizeof all, 0);
}

/* The sizes of a file that is read without its row; 0: larger than any. */
static uint64_t sizes_pack(const struct file_seen *file)
{
	if (file->payload_size >> (64 - HEAD_BITS - LAYOUT_BITS))
		return 0;
	return (file->payload_size << HEAD_BITS | file->head_size) << LAYOUT_BITS | file->layout;
}

static struct file_seen file_of(const struct spot *spot)
{
	return (struct file_seen){
		.number = spot->rest & ~in_file,
		.sum = spot->file,
		.head_size = spot->at >> LAYOUT_BITS & ((1 << HEAD_BITS) - 1),
		.payload_size = spot->at >> (HEAD_BITS + LAYOUT_BITS),
		.layout = spot->at & ((1 << LAYOUT_BITS) - 1),
	};
}

/* --- a page -------------------------------------------------------------------------------------- */

/* Of a cell with one row. */
struct cell {
	const uint8_t *bytes; /* its record, as much of it as is here */
	uint64_t size, id;
	size_t local;
};

/* One to nine bytes, seven bits of each but the ninth. 0 bytes: it does not end before `end`. */
static size_t varint(const uint8_t *at, const uint8_t *end, uint64_t *ret)
{
	*ret = 0;
	for (size_t i = 0; i < 9 && at + i < end; i++) {
		if (i == 8) {
			*ret = *ret << 8 | at[i];
			return 9;
		}
		*ret = *ret << 7 | (at[i] & 127);
		if (at[i] < 128)
			return i + 1;
	}
	return 0;
}

/* How much of a record lies in its cell. */
static size_t local_bytes(uint64_t size)
{
	size_t local;

	if (size <= LOCAL_MOST)
		return (size_t)size;
	local = LOCAL_LEAST + (size - LOCAL_LEAST) % OVERFLOW_BYTES;
	return local <= LOCAL_MOST ? local : LOCAL_LEAST;
}

/* How many pages the rest takes. */
static uint64_t overflow_pages(uint64_t size)
{
	return (size - local_bytes(size) + OVERFLOW_BYTES - 1) / OVERFLOW_BYTES;
}

static bool cell_read(const uint8_t *page, size_t at, struct cell *ret)
{
	const uint8_t *from = page + at, *end = page + USABLE;
	size_t size = at < USABLE ? varint(from, end, &ret->size) : 0;
	size_t id = size ? varint(from + size, end, &ret->id) : 0;

	if (!id)
		return false;
	ret->bytes = from + size + id;
	ret->local = local_bytes(ret->size);
	return ret->local + (ret->size > ret->local ? 4 : 0) <= (size_t)(end - ret->bytes);
}

/* Of a leaf; 0 of what is none. */
static size_t cell_count(const uint8_t *page)
{
	size_t count = (size_t)page[3] << 8 | page[4];

	return page[0] == LEAF && CELLS_AT + 2 * count <= USABLE ? count : 0;
}

static bool cell_at(const uint8_t *page, size_t i, struct cell *ret)
{
	const uint8_t *at = page + CELLS_AT + 2 * i;

	return cell_read(page, (size_t)at[0] << 8 | at[1], ret);
}

/* The cell of a row, where the page is a leaf that has it. */
static bool cell_find(const uint8_t *page, uint64_t id, struct cell *ret, size_t *ret_i)
{
	size_t count = cell_count(page);

	for (*ret_i = 0; *ret_i < count; ++*ret_i) {
		if (!cell_at(page, *ret_i, ret))
			return false;
		if (ret->id == id)
			return true;
	}
	return false;
}

/* Of a column of that serial type. */
static uint64_t column_bytes(uint64_t type)
{
	static const uint8_t numbers[12] = { 0, 1, 2, 3, 4, 6, 8, 8 };

	return type < 12 ? numbers[type] : (type - 12) / 2;
}

/* Where in the record the head begins; 0 when it cannot be told. */
static size_t head_offset(const struct cell *cell)
{
	const uint8_t *end = cell->bytes + cell->local;
	uint64_t header, type, offset;
	size_t at = varint(cell->bytes, end, &header), step;

	offset = header;
	for (int column = 0; column < COLUMN_HEAD; column++) {
		step = at ? varint(cell->bytes + at, end, &type) : 0;
		if (!step)
			return 0;
		at += step;
		offset += column_bytes(type);
	}
	return at < header && offset < cell->local ? (size_t)offset : 0;
}

/* --- remembering ----------------------------------------------------------------------------------- */

/* From one page to the next. */
static uint64_t step_at(uint64_t at)
{
	return at & VFS_IN_LOG ? VFS_LOG_STEP : PAGE_BYTES;
}

/* Did the last `pages` reads follow each other in a file? Then where the first of them was. */
static bool were_in_a_row(uint64_t pages, uint64_t *ret)
{
	for (uint64_t i = 1; i < pages; i++) {
		uint64_t at = vfs_read_before(i).at;

		if (at + step_at(at) != vfs_read_before(i - 1).at)
			return false;
	}
	*ret = pages ? vfs_read_before(pages - 1).at : 0;
	return true;
}

static uint64_t at_of(const struct vfs_read *read, const uint8_t *page, const struct cell *cell,
                      size_t head)
{
	return (read->at + (uint64_t)(cell->bytes - page) + head) << SIZE_BITS |
	       (cell->local - head);
}

/* A row that lies there whole, and may be remembered as it is. */
static bool row_beside(const struct cell *cell, size_t head, uint32_t cache, struct record *ret)
{
	const uint8_t *bytes = cell->bytes + head;
	size_t size = cell->local - head, of_head;

	if (!head || cell->size > cell->local || cell->id >> DISK_ID_SHIFT != cache ||
	    size < RECORD_HEAD_FIXED)
		return false;
	of_head = terrace__record_head_size(bytes);
	return of_head && of_head <= size &&
	       terrace__record_read(terrace_bytes(bytes, of_head), ret) == TERRACE_OK &&
	       ret->cache == cache && !ret->idle && ret->payload_size == size - of_head;
}

static void see_beside(const struct vfs_read *read, const uint8_t *page, size_t i,
                       struct seen_row *row)
{
	const struct tier_stamp *stamp = row->stamp;
	struct record record;
	struct tier_key key;
	struct cell cell;
	uint64_t version;
	size_t head;

	if (!cell_at(page, i, &cell))
		return;
	head = head_offset(&cell);
	if (!row_beside(&cell, head, (uint32_t)(row->id >> DISK_ID_SHIFT), &record) ||
	    !stamp->beside(stamp->ctx, record.key, &key, &version))
		return;
	row->beside[row->beside_count++] = (struct seen_beside){
		.hash = key.hash,
		.version = version,
		.at = at_of(read, page, &cell, head),
		.seq = record.seq,
	};
}

/* The row in the page that was read before so many others. */
static bool found_in(const struct vfs_read *read, const uint8_t *page, uint64_t behind,
                     struct seen_row *row)
{
	struct cell cell;
	size_t head, i;

	if (!cell_find(page, row->id, &cell, &i) || overflow_pages(cell.size) != behind)
		return false;
	head = head_offset(&cell);
	row->at = at_of(read, page, &cell, head);
	if (!head || !were_in_a_row(behind, &row->rest))
		return false;
	/* An index that is damaged in the log, where pages have no sums, may have lost a row, and a
	 * newer one was put beside it: of the older SQLite knows nothing any more. */
	if (!row->stamp || !row->stamp->beside || read->at & VFS_IN_LOG)
		return true;
	for (size_t n = 1; n <= SEEN_BESIDE / 2; n++) {
		if (n <= i)
			see_beside(read, page, i - n, row);
		if (i + n < cell_count(page))
			see_beside(read, page, i + n, row);
	}
	return true;
}

/*
 * A row's leaf is read before what its cell does not hold. A record has 14 to 100 bytes
 * beside head and value; so there are one or two numbers of pages that it may have beside the
 * leaf. With one, the page is in SQLite's memory: it is the leaf, or one above it, which
 * the statement holds as long as it is at the row. Else it may have been a page of the value,
 * which nobody holds, and is read again.
 */
void terrace__place_find(struct connection *connection, uint64_t size, struct seen_row *row)
{
	uint64_t least = overflow_pages(size + RECORD_LEAST),
		 most = overflow_pages(size + RECORD_MOST);
	uint8_t again[PAGE_BYTES];
	bool found = false;

	for (uint64_t behind = least; behind <= most && !found; behind++) {
		struct vfs_read read = vfs_read_before(behind);
		const uint8_t *page = read.page;

		if (!read.at || !read.page)
			continue;
		if (least != most)
			page = terrace__vfs_read(connection->db, again, PAGE_BYTES, read.at) ?
			           again :
			           NULL;
		found = page && found_in(&read, page, behind, row);
	}
	if (!found)
		row->at = 0;
}

void terrace__place_forget(struct disk *disk, uint64_t hash)
{
	struct place *places = places_of(disk, false);

	if (places)
		atomic_store_explicit(&places[hash % PLACES].check, 0, memory_order_relaxed);
}

static void place_set(struct place *place, const struct spot *spot, uint64_t check)
{
	atomic_store_explicit(&place->at, spot->at, memory_order_relaxed);
	atomic_store_explicit(&place->rest, spot->rest, memory_order_relaxed);
	atomic_store_explicit(&place->file, spot->file, memory_order_relaxed);
	atomic_store_explicit(&place->seq, spot->seq, memory_order_relaxed);
	atomic_store_explicit(&place->check, check, memory_order_relaxed);
}

/* Nobody has asked for it yet: what somebody has asked for stays in its place, until it is forgotten. */
static void note_beside(struct place *places, uint32_t generation, uint32_t cache,
                        const struct tier_stamp *stamp, const struct seen_beside *seen)
{
	struct place *place = &places[seen->hash % PLACES];
	const struct spot spot = { .at = seen->at, .seq = seen->seq };
	const struct tier_key key = { .hash = seen->hash, .cache = cache };
	struct tier_stamp its = *stamp;

	its.version = seen->version;
	if (atomic_load_explicit(&place->check, memory_order_relaxed) == 0)
		place_set(place, &spot, check_of(&key, &its, generation, &spot));
}

void terrace__place_note(struct disk *disk, struct connection *connection,
                         const struct tier_key *key, const struct tier_stamp *stamp,
                         const struct seen_row *row)
{
	const struct spot spot = {
		.at = row->file.sum ? sizes_pack(&row->file) : row->at,
		.rest = row->file.number ? in_file | row->file.number : row->rest,
		.file = row->file.sum,
		.seq = row->seq,
	};
	struct place *places = spot.at ? places_of(disk, true) : NULL;

	if (!places)
		return;
	place_set(&places[key->hash % PLACES], &spot,
	          check_of(key, stamp, connection->generation, &spot));
	for (size_t i = 0; i < row->beside_count; i++)
		note_beside(places, connection->generation, key->cache, stamp, &row->beside[i]);
}

/* --- reading --------------------------------------------------------------------------------------- */

/* What does not lie beside the head: pages in a row, of which each but the number of the next counts. */
static bool read_rest(struct connection *connection, uint64_t from, uint8_t *ret, size_t size)
{
	size_t pages = (size + OVERFLOW_BYTES - 1) / OVERFLOW_BYTES, step = step_at(from);

	if (!terrace__vfs_read(connection->db, ret, (pages - 1) * step + PAGE_BYTES, from))
		return false;
	for (size_t i = 0; i < pages; i++) {
		size_t part = min_u64(size - i * OVERFLOW_BYTES, OVERFLOW_BYTES);

		memmove(ret + i * OVERFLOW_BYTES, ret + i * step + 4, part);
	}
	return true;
}

static int value_at(struct disk *disk, struct connection *connection, const struct record *record,
                    terrace_slice beside, uint64_t rest, uint64_t hash, struct entry **ret)
{
	CLEANUP(terrace__buf_done) struct buf payload = { 0 };
	size_t more;

	if (rest & in_file)
		return terrace__files_read(disk->files, rest & ~in_file, record, hash, ret, NULL);
	if (record->payload_size <= beside.size)
		return terrace__record_entry(record, beside, hash, TERRACE_L2, ret);
	more = (size_t)record->payload_size - beside.size;
	if (!rest || more > VFS_READS * OVERFLOW_BYTES ||
	    !terrace__buf_reserve(&payload, beside.size + more + VFS_READS * VFS_LOG_STEP))
		return TERRACE_MISS;
	memcpy(payload.data, beside.data, beside.size);
	if (!read_rest(connection, rest, payload.data + beside.size, more))
		return TERRACE_MISS;
	return terrace__record_entry(record, terrace_bytes(payload.data, beside.size + more), hash,
	                             TERRACE_L2, ret);
}

static int row_get(struct disk *disk, struct connection *connection, const struct tier_key *key,
                   const struct spot *spot, struct entry **ret)
{
	size_t size = spot->at & ((1 << SIZE_BITS) - 1), head;
	uint8_t bytes[PAGE_BYTES];
	struct record record;

	if (!terrace__vfs_read(connection->db, bytes, size, spot->at >> SIZE_BITS))
		return TERRACE_MISS;
	head = size > RECORD_HEAD_FIXED ? terrace__record_head_size(bytes) : 0;
	if (!head || head > size ||
	    terrace__record_read(terrace_bytes(bytes, head), &record) != TERRACE_OK ||
	    record.seq != spot->seq || !record_is_of(&record, key) ||
	    record.value_size > disk->value_max)
		return TERRACE_MISS;
	return value_at(disk, connection, &record, terrace_bytes(bytes + head, size - head),
	                spot->rest, key->hash, ret);
}

/* It was given before, and so is no larger than may be. */
static int file_get(struct disk *disk, const struct tier_key *key, const struct spot *spot,
                    struct entry **ret)
{
	struct file_seen file = file_of(spot);
	int rc = terrace__files_read_seen(disk->files, &file, key->hash, ret);

	if (rc != TERRACE_OK)
		return rc;
	if ((*ret)->key_size != key->key.size ||
	    memcmp(entry_key(*ret), key->key.data, key->key.size) != 0) {
		entry_unref(*ret);
		return TERRACE_MISS;
	}
	entry_rest(*ret)->seq = spot->seq;
	return TERRACE_OK;
}

int terrace__place_get(struct disk *disk, struct connection *connection, const struct tier_key *key,
                       const struct tier_stamp *stamp, struct entry **ret)
{
	const struct place *place = places_of(disk, false);
	struct spot spot;
	uint64_t check;
	int rc;

	if (!place)
		return TERRACE_MISS;
	place += key->hash % PLACES;
	spot.at = atomic_load_explicit(&place->at, memory_order_relaxed);
	spot.rest = atomic_load_explicit(&place->rest, memory_order_relaxed);
	spot.file = atomic_load_explicit(&place->file, memory_order_relaxed);
	spot.seq = atomic_load_explicit(&place->seq, memory_order_relaxed);
	check = atomic_load_explicit(&place->check, memory_order_relaxed);
	if (check != check_of(key, stamp, connection->generation, &spot))
		return TERRACE_MISS;
	rc = spot.file ? file_get(disk, key, &spot, ret) :
	                 row_get(disk, connection, key, &spot, ret);
	return rc == TERRACE_OK ? TERRACE_OK : TERRACE_MISS;
}
