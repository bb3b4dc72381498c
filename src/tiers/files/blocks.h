/*
 * The payload of a large value (RECORD_BLOCKS in record.h): the value in blocks
 * of BLOCK_BYTES, each encoded and hashed for itself, under a hash tree (Merkle,
 * 1987) whose root's sum is the payload sum of the head. So a block can be read
 * and trusted without its neighbours, and a writer keeps one block, one table
 * and the root. All integers little-endian:
 *
 *   groups of 1,024 blocks, the last of fewer:
 *     the blocks' stored bytes, one behind the other
 *     a table; for each block:
 *       0  4  stored size
 *       4  1  codec
 *       5  3  zero
 *       8 16  XXH3-128 of the stored bytes (canonical)
 *   the root; for each group:
 *     0  8  where its table begins, from the start of the payload
 *     8 16  XXH3-128 of the table
 *
 * Functions return a terrace_status and set the thread's message.
 */
#ifndef FILES_BLOCKS_H
#define FILES_BLOCKS_H

#include "tiers/record.h"

/* A value on its way to a file. After TERRACE_EFULL the same call may be made again. */
struct block_writer {
	int fd;
	uint64_t number; /* the file's */
	terrace_codec codec;
	bool shrunk; /* the codec was of use for one of them */
	uint64_t at; /* where the next bytes go */
	struct buf encoded, table, root;
};

/* fd and number go over to it. */
int terrace__block_writer_new(int fd, uint64_t number, terrace_codec codec,
                              struct block_writer **ret);
/* The next BLOCK_BYTES of the value, or its end. */
int terrace__block_writer_add(struct block_writer *writer, terrace_slice bytes);
/* How long the file is so far. */
uint64_t terrace__block_writer_stored(const struct block_writer *writer);
/* After the last block: complete sizes and sum of `record`, and write the rest of the file. */
int terrace__block_writer_end(struct block_writer *writer, struct record *record);
void terrace__block_writer_free(struct block_writer *writer); /* accepts NULL; closes fd if >= 0 */

struct block_reader {
	int fd;
	uint64_t number; /* the file's */
	uint64_t value_size, payload_size;
	uint64_t count; /* of blocks */
	uint64_t group; /* whose table is there */
	struct buf root, table, encoded;
};

/* Does the root hold? fd goes over to it on success. TERRACE_ECORRUPT when not. */
int terrace__block_reader_new(int fd, uint64_t number, const struct record *record,
                              struct block_reader **ret);
/* Of the value. */
uint64_t terrace__block_reader_size(const struct block_reader *reader);
/*
 * Read, check and decode a block: BLOCK_BYTES, or what is left of the value.
 * TERRACE_ECORRUPT when it does not hold.
 */
int terrace__block_reader_read(struct block_reader *reader, uint64_t index, void *ret);
void terrace__block_reader_free(struct block_reader *reader); /* accepts NULL; closes fd */

#endif
