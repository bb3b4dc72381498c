/*
 * Values on their way to a file of L3: whole, or block by block for those that
 * are larger than a block. On a full disk room is made once.
 */
#ifndef CORE_SPOOL_H
#define CORE_SPOOL_H

#include "core/write.h"

/* Is it so large for a limit that what waits to be written has to be counted as well? */
bool terrace__counts_what_waits(const struct terrace_cache *cache, uint64_t size);
/* Then that is written, before the next is asked. */
void terrace__count_what_waits(struct terrace_cache *cache, uint64_t size);
/*
 * Would a value that takes so much push too much else out? An object over an
 * eighth of the disk may have what is free, and no more. The message is set.
 */
bool terrace__too_big_for_disk(const struct terrace_cache *cache, uint64_t stored_size);

/* Values whose files are made, and open, before their rows are written together. */
enum { FILES_AT_ONCE = 64 };

/* The file of a put whose record and payload are complete. */
int terrace__spool_whole(struct terrace_cache *cache, struct write *write);

struct spool {
	struct terrace_cache *cache; /* set by who begins, and nothing else */
	struct block_writer *blocks; /* NULL: there is nothing yet, or no more */
	uint64_t file;
};

/*
 * The next BLOCK_BYTES of the value, or its end; the first one says what codec is
 * of use. TERRACE_ETOOBIG as soon as the disk of this cache does not take it.
 */
int terrace__spool_add(struct spool *spool, terrace_slice bytes);
/* After the last block: the record of `write` gets sizes, sum and codec, and the put its file. */
int terrace__spool_keep(struct spool *spool, struct write *write);
/* Nothing is left of it. After keep, or on what was never opened, it does nothing. */
void terrace__spool_drop(struct spool *spool);

#endif
