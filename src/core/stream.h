/* Values that are written and read piece by piece: what terrace/stream.h promises. */
#ifndef CORE_STREAM_H
#define CORE_STREAM_H

#include "core/spool.h"

#include <terrace/stream.h>

struct terrace_writer {
	struct terrace_cache *cache;
	struct terrace_lease *watch; /* the key, and what was true when it began */
	struct buf extra;
	int64_t ttl_ms, idle_ms;
	uint64_t cost_us;
	bool immediate;      /* for memory alone, past the disk that there is */
	struct buf gathered; /* the block that is not full yet; in memory alone: all */
	struct spool spool;  /* begins when there is more than a block */
	uint64_t size;
	int failed; /* the first failure */
};

struct terrace_reader {
	struct terrace_cache *cache;
	struct entry *entry;         /* the value, but for one in blocks: that has no bytes */
	struct block_reader *blocks; /* NULL: entry has them */
	unsigned tier;
	uint64_t size;
	struct buf block; /* decoded */
	uint64_t index;   /* which */
	int failed;       /* it was found damaged */
};

/* `options` has been checked, and that the store may be written to; its lease may be NULL. */
int terrace__writer_open(struct terrace_cache *cache, terrace_slice key,
                         const terrace_put_options *options, struct terrace_writer **ret);
int terrace__writer_write(struct terrace_writer *writer, terrace_slice bytes);
/* In the place of what it was opened with; `options` has been checked. */
int terrace__writer_carry(struct terrace_writer *writer, const terrace_put_options *options);
/* Frees the writer. */
int terrace__writer_commit(struct terrace_writer *writer);
void terrace__writer_drop(struct terrace_writer *writer);
/* In a child that inherited it: nothing on disk is the child's. */
void terrace__writer_forget(struct terrace_writer *writer);

int terrace__reader_open(struct terrace_cache *cache, terrace_slice key,
                         struct terrace_reader **ret);
int terrace__reader_read(struct terrace_reader *reader, uint64_t offset, void *buffer, size_t size,
                         size_t *ret);
void terrace__reader_close(struct terrace_reader *reader);

#endif
