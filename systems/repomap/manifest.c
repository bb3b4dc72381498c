/* The manifest and the snapshot of a repository, as the cache repomap.files holds them. */
#include "repomap/scan.h"

#include <stdlib.h>

enum { MANIFEST_MAGIC = 0x31464d52, SNAPSHOT_MAGIC = 0x31534d52 }; /* change with the layout */

struct snapshot_head {
	uint32_t magic, name_count, tag_count, names_size;
	terrace_digest state;
	/* then: uint32_t at[name_count + 1], struct tag[tag_count], the names */
};

terrace_slice key_of(const char *category, terrace_slice identifier, const char *version)
{
	terrace_key_parts parts = { terrace_str("repomap"), terrace_str(category), identifier,
		                    terrace_bytes(version, version ? strlen(version) : 0) };
	terrace_slice key = { NULL, 0 };

	terrace_key_format(&parts, &key);
	return key;
}

terrace_slice aligned_bytes(terrace_value *value, void **ret_copy)
{
	terrace_slice bytes = terrace_slice_of(value);

	*ret_copy = NULL;
	if ((uintptr_t)bytes.data % 8 == 0)
		return bytes;
	*ret_copy = rm_take(bytes.size, 1);
	memcpy(*ret_copy, bytes.data, bytes.size);
	return terrace_bytes(*ret_copy, bytes.size);
}

static terrace_value *get(struct repomap *map, const char *category)
{
	terrace_slice key = key_of(category, terrace_str(map->root), NULL);
	terrace_value *value = NULL;

	if (key.data)
		terrace_get(map->files_cache, key, &value);
	terrace_key_free(key);
	return value;
}

static void put(struct repomap *map, const char *category, const struct text *text)
{
	terrace_slice key = key_of(category, terrace_str(map->root), NULL);

	if (key.data)
		terrace_put(map->files_cache, key, terrace_bytes(text->data, text->size), NULL);
	terrace_key_free(key);
}

/* --- the manifest ---------------------------------------------------------------------------- */

static bool manifest_read(terrace_slice bytes, struct manifest *ret)
{
	const struct manifest_head *head = bytes.data;
	uint64_t size;

	if (bytes.size < sizeof *head || head->magic != MANIFEST_MAGIC)
		return false;
	size = sizeof *head + (uint64_t)head->file_count * sizeof(struct record);
	if (size + head->paths_size != bytes.size)
		return false;
	ret->head = head;
	ret->records = (const void *)(head + 1);
	ret->paths = (const char *)bytes.data + size;
	for (uint32_t i = 0; i < head->file_count; i++) {
		const struct record *record = &ret->records[i];

		if (record->path_at > head->paths_size || record->language >= LANGUAGES ||
		    record->path_size >= head->paths_size - record->path_at ||
		    ret->paths[record->path_at + record->path_size] != '\0')
			return false;
	}
	return true;
}

bool manifest_load(struct repomap *map, struct manifest *ret)
{
	map->manifest = get(map, "files");
	return map->manifest &&
	       manifest_read(aligned_bytes(map->manifest, &map->manifest_copy), ret);
}

/* --- the snapshot ----------------------------------------------------------------------------- */

bool snapshot_load(struct repomap *map, const terrace_digest *state)
{
	const struct snapshot_head *head;
	const uint32_t *at;
	const char *names;
	terrace_slice bytes;
	uint64_t size;

	map->snapshot = get(map, "snapshot");
	if (!map->snapshot)
		return false;
	bytes = aligned_bytes(map->snapshot, &map->snapshot_copy);
	head = bytes.data;
	if (bytes.size < sizeof *head || head->magic != SNAPSHOT_MAGIC ||
	    memcmp(&head->state, state, sizeof *state) != 0)
		return false;
	size = sizeof *head + ((uint64_t)head->name_count + 1) * sizeof *at +
	       (uint64_t)head->tag_count * sizeof(struct tag);
	if (size + head->names_size != bytes.size)
		return false;
	at = (const void *)(head + 1);
	map->snapshot_tags = (const void *)(at + head->name_count + 1);
	map->snapshot_tag_count = head->tag_count;
	names = (const char *)bytes.data + size;
	for (uint32_t i = 0; i < head->name_count; i++) {
		if (at[i] > at[i + 1] || at[i + 1] > head->names_size)
			return false;
		words_append(&map->names, terrace_bytes(names + at[i], at[i + 1] - at[i]));
	}
	for (uint32_t i = 0; i < head->tag_count; i++) {
		if (map->snapshot_tags[i].name >= head->name_count) {
			map->snapshot_tags = NULL;
			return false;
		}
	}
	return true;
}

bool snapshot_tags(const struct repomap *map, const struct record *record, struct file *file)
{
	if (record->first_tag > map->snapshot_tag_count ||
	    record->tag_count > map->snapshot_tag_count - record->first_tag)
		return false;
	file->tags = map->snapshot_tags + record->first_tag;
	file->tag_count = record->tag_count;
	return true;
}

/* --- storing ------------------------------------------------------------------------------------- */

/* Names that no file uses any more are left out: numbers go by first use. */
static void store_snapshot(struct repomap *map)
{
	uint32_t *numbers = rm_take(map->names.count, sizeof *numbers); /* plus 1 */
	struct snapshot_head head = { .magic = SNAPSHOT_MAGIC, .state = map->state };
	struct text at = { 0 }, tags = { 0 }, names = { 0 }, all = { 0 };

	for (size_t i = 0; i < map->file_count; i++) {
		const struct file *file = &map->files[i];

		for (uint32_t n = 0; n < file->tag_count; n++) {
			struct tag tag = file->tags[n];
			terrace_slice name = map->names.list[tag.name];

			if (!numbers[tag.name]) {
				numbers[tag.name] = ++head.name_count;
				text_u32(&at, (uint32_t)names.size);
				text_add(&names, name.data, name.size);
			}
			tag.name = numbers[tag.name] - 1;
			text_add(&tags, &tag, sizeof tag);
			head.tag_count++;
		}
	}
	text_u32(&at, (uint32_t)names.size);
	head.names_size = (uint32_t)names.size;
	text_add(&all, &head, sizeof head);
	text_add(&all, at.data, at.size);
	text_add(&all, tags.data, tags.size);
	text_add(&all, names.data, names.size);
	if (names.size < UINT32_MAX && tags.size / sizeof(struct tag) < UINT32_MAX)
		put(map, "snapshot", &all);
	free(numbers);
	text_done(&at);
	text_done(&tags);
	text_done(&names);
	text_done(&all);
}

void manifest_store(struct scan *s)
{
	struct repomap *map = s->map;
	struct manifest_head head = { .magic = MANIFEST_MAGIC,
		                      .file_count = (uint32_t)s->count,
		                      .listing = s->listing.digest,
		                      .state = map->state,
		                      .paths = map->paths };
	struct text records = { 0 }, paths = { 0 };
	uint32_t first = 0;

	if (!map->files_cache)
		return;
	/* The snapshot first: a manifest without its own costs a reading of all tags. */
	if (map->has_tags && (!s->has_old || !map->snapshot_tags ||
	                      memcmp(&s->old.head->state, &map->state, sizeof map->state) != 0))
		store_snapshot(map);
	for (unsigned i = 0; i < LANGUAGES; i++)
		head.languages[i] = language_id(map->grammars, i);
	text_add(&records, &head, sizeof head);
	for (size_t i = 0; i < s->count; i++) {
		const struct file *file = &s->files[i];
		struct record record = { .mark = file->mark,
			                 .digest = file->digest,
			                 .path_at = (uint32_t)paths.size,
			                 .path_size = file->path_size,
			                 .first_tag = first,
			                 .tag_count = file->tag_count,
			                 .language = file->language,
			                 .flags = (uint8_t)(file->flags & ~FILE_FRESH),
			                 .skip = file->skip };

		first += file->tag_count;
		text_add(&paths, file->path, file->path_size + 1);
		text_add(&records, &record, sizeof record);
	}
	((struct manifest_head *)(void *)records.data)->paths_size = (uint32_t)paths.size;
	text_add(&records, paths.data, paths.size);
	put(map, "files", &records);
	text_done(&records);
	text_done(&paths);
}

/* --- without a look ------------------------------------------------------------------------------- */

bool scan_recall(struct repomap *map)
{
	struct manifest old;

	if (!manifest_load(map, &old) || !snapshot_load(map, &old.head->state))
		return false;
	map->files = rm_take(old.head->file_count, sizeof *map->files);
	for (uint32_t i = 0; i < old.head->file_count; i++) {
		const struct record *record = &old.records[i];
		struct file *file = &map->files[map->file_count];

		if (record->flags & FILE_ABSENT)
			continue;
		*file = (struct file){ .path = old.paths + record->path_at,
			               .path_size = record->path_size,
			               .language = record->language,
			               .flags = record->flags,
			               .skip = record->skip,
			               .digest = record->digest };
		if (!snapshot_tags(map, record, file))
			file->tag_count = 0;
		map->file_count++;
	}
	map->state = old.head->state;
	map->paths = old.head->paths;
	map->has_tags = map->scanned = true;
	return true;
}

void scan_forget(struct repomap *map)
{
	terrace_release(map->manifest);
	terrace_release(map->snapshot);
	free(map->manifest_copy);
	free(map->snapshot_copy);
	free(map->files);
	free(map->own_tags);
	words_done(&map->names);
	text_done(&map->path_bytes);
	graph_free(map->graph);
	for (size_t i = 0; i < map->held_count; i++) {
		terrace_release(map->held[i]->value);
		text_done(&map->held[i]->text);
		free(map->held[i]->aligned);
		free(map->held[i]);
	}
	free(map->held);
	map->held = NULL;
	map->held_count = map->held_capacity = 0;
	map->manifest = map->snapshot = NULL;
	map->manifest_copy = map->snapshot_copy = NULL;
	map->snapshot_tags = NULL;
	map->files = NULL;
	map->file_count = 0;
	map->own_tags = NULL;
	map->graph = NULL;
	map->has_tags = map->scanned = false;
}

int scan_need_tags(struct repomap *map)
{
	struct repomap_counters counted = map->counters;
	terrace_digest state = map->state;

	if (map->has_tags)
		return TERRACE_OK;
	/* Nothing had changed, so what the manifest and its snapshot say is how it is. */
	scan_forget(map);
	if (scan_recall(map) && memcmp(&state, &map->state, sizeof state) == 0)
		return TERRACE_OK;
	scan_forget(map);
	map->counters = (struct repomap_counters){ .parsed = counted.parsed };
	map->spec.want_tags = true;
	return scan(map, NULL);
}
