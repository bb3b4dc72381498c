/*
 * Tags and sources of an entry, packed: what a record carries behind its key,
 * and what an entry in memory keeps behind its value. Empty when there are
 * neither. All integers little-endian.
 *
 *   u32 tags, u32 sources
 *   a tag:    u8 size, bytes
 *   a source: u8 kind, u8 flags, u16 path size, u64 size, i64 mtime ns,
 *             i64 ctime ns, u64 inode, 16 bytes content hash, path
 */
#ifndef TIERS_EXTRA_H
#define TIERS_EXTRA_H

#include "util/buf.h"
#include "util/hash.h"

#include <terrace/base.h>

enum {
	SOURCE_FILE = 1,
	SOURCE_ABSENT = 2,
	SOURCE_LISTING = 3,  /* size: how many names; hash: over them */
	SOURCE_VARIABLE = 4, /* path: its name; size and hash: of its value, where it is set */
};

enum {
	SOURCE_HASHED = 1,     /* the content hash is there */
	SOURCE_BY_CONTENT = 2, /* same content is no change, whatever the times say */
	SOURCE_RACY = 4,       /* too young when hashed: its times alone prove nothing */
	SOURCE_DEEP = 8,       /* a listing: of all directories below, "/" "**" in its path */
	SOURCE_PATTERN = 16,   /* a listing: the last part of its path is a pattern for names */
};

/* The fingerprint of a source. */
struct source_mark {
	uint8_t kind;
	uint8_t flags;
	uint64_t size;
	int64_t mtime_ns;
	int64_t ctime_ns;
	uint64_t inode;
	uint8_t hash[16];
	terrace_slice path; /* absolute; a listing's with its pattern */
};

enum { TAGS_MAX = 64 };

void terrace__extra_counts(struct buf *out, uint32_t tags, uint32_t sources);
void terrace__extra_tag(struct buf *out, terrace_slice tag);
void terrace__extra_source(struct buf *out, const struct source_mark *mark);

/* Walks what was packed; every function returns false at the end or on bytes that make no sense. */
struct extra_walk {
	struct reader reader;
	uint32_t tags;
	uint32_t sources;
};

bool terrace__extra_start(struct extra_walk *walk, terrace_slice extra);
bool terrace__extra_next_tag(struct extra_walk *walk, terrace_slice *ret);
/* After the last tag. */
bool terrace__extra_next_source(struct extra_walk *walk, struct source_mark *ret);
/* All of it makes sense, and nothing is left over. */
bool terrace__extra_valid(terrace_slice extra);

#endif
