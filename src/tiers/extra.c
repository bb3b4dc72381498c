#include "tiers/extra.h"

void terrace__extra_counts(struct buf *out, uint32_t tags, uint32_t sources)
{
	terrace__buf_u32(out, tags);
	terrace__buf_u32(out, sources);
}

void terrace__extra_tag(struct buf *out, terrace_slice tag)
{
	terrace__buf_u8(out, (uint8_t)tag.size);
	terrace__buf_append(out, tag.data, tag.size);
}

void terrace__extra_source(struct buf *out, const struct source_mark *mark)
{
	terrace__buf_u8(out, mark->kind);
	terrace__buf_u8(out, mark->flags);
	terrace__buf_u16(out, (uint16_t)mark->path.size);
	terrace__buf_u64(out, mark->size);
	terrace__buf_u64(out, (uint64_t)mark->mtime_ns);
	terrace__buf_u64(out, (uint64_t)mark->ctime_ns);
	terrace__buf_u64(out, mark->inode);
	terrace__buf_append(out, mark->hash, sizeof mark->hash);
	terrace__buf_append(out, mark->path.data, mark->path.size);
}

bool terrace__extra_start(struct extra_walk *walk, terrace_slice extra)
{
	*walk = (struct extra_walk){ 0 };
	if (extra.size == 0)
		return true;
	walk->reader = terrace__reader(extra.data, extra.size);
	walk->tags = terrace__read_u32(&walk->reader);
	walk->sources = terrace__read_u32(&walk->reader);
	return !walk->reader.failed && walk->tags <= TAGS_MAX;
}

bool terrace__extra_next_tag(struct extra_walk *walk, terrace_slice *ret)
{
	size_t size;
	const uint8_t *bytes;

	if (walk->tags == 0)
		return false;
	walk->tags--;
	size = terrace__read_u8(&walk->reader);
	bytes = terrace__read_bytes(&walk->reader, size);
	*ret = terrace_bytes(bytes, size);
	return bytes != NULL;
}

bool terrace__extra_next_source(struct extra_walk *walk, struct source_mark *ret)
{
	struct reader *reader = &walk->reader;
	const uint8_t *hash, *path;
	size_t path_size;

	if (walk->sources == 0)
		return false;
	walk->sources--;
	ret->kind = terrace__read_u8(reader);
	ret->flags = terrace__read_u8(reader);
	path_size = terrace__read_u16(reader);
	ret->size = terrace__read_u64(reader);
	ret->mtime_ns = (int64_t)terrace__read_u64(reader);
	ret->ctime_ns = (int64_t)terrace__read_u64(reader);
	ret->inode = terrace__read_u64(reader);
	hash = terrace__read_bytes(reader, sizeof ret->hash);
	path = terrace__read_bytes(reader, path_size);
	if (!path)
		return false;
	memcpy(ret->hash, hash, sizeof ret->hash);
	ret->path = terrace_bytes(path, path_size);
	return true;
}

bool terrace__extra_valid(terrace_slice extra)
{
	struct extra_walk walk;
	struct source_mark mark;
	terrace_slice tag;

	if (!terrace__extra_start(&walk, extra))
		return false;
	while (walk.tags) {
		if (!terrace__extra_next_tag(&walk, &tag))
			return false;
	}
	while (walk.sources) {
		if (!terrace__extra_next_source(&walk, &mark))
			return false;
	}
	return walk.reader.at == walk.reader.end;
}
