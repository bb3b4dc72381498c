/* The report for programs. Written by hand: a large repository has a million tags. */
#include "repomap/parts.h"

#include <inttypes.h>

static void add_json(struct text *out, const char *data, size_t size)
{
	size_t from = 0;

	text_add(out, "\"", 1);
	for (size_t i = 0; i < size; i++) {
		uint8_t c = (uint8_t)data[i];
		char escape[8];

		if (c >= 0x20 && c != '"' && c != '\\')
			continue;
		text_add(out, data + from, i - from);
		from = i + 1;
		if (c == '"' || c == '\\')
			snprintf(escape, sizeof escape, "\\%c", c);
		else if (c == '\n')
			snprintf(escape, sizeof escape, "\\n");
		else
			snprintf(escape, sizeof escape, "\\u%04x", c);
		text_str(out, escape);
	}
	text_add(out, data + from, size - from);
	text_add(out, "\"", 1);
}

/* A file's name need not be UTF-8; JSON must. */
static void add_name(struct text *out, const char *data, size_t size)
{
	struct text name = { 0 };

	text_add(&name, data, size);
	if (utf8_mend(name.data, name.size))
		add_json(out, name.data, name.size);
	else
		add_json(out, data, size);
	text_done(&name);
}

static void add_number(struct text *out, uint64_t number)
{
	char digits[24];
	size_t at = sizeof digits;

	do {
		digits[--at] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	text_add(out, digits + at, sizeof digits - at);
}

static void add_tags(const struct repomap *map, struct text *out)
{
	bool first = true;

	text_str(out, "{");
	for (size_t i = 0; i < map->file_count; i++) {
		const struct file *file = &map->files[i];

		if (!file->language || file->skip != SKIP_NONE)
			continue;
		text_str(out, first ? "\n    " : ",\n    ");
		first = false;
		add_name(out, file->path, file->path_size);
		text_str(out, ": [");
		for (uint32_t n = 0; n < file->tag_count; n++) {
			const struct tag *tag = &file->tags[n];
			terrace_slice name = map->names.list[tag->name];

			text_str(out, n ? ", [" : "[");
			text_str(out, tag->line_kind & 1 ? "\"ref\", " : "\"def\", ");
			add_json(out, name.data, name.size);
			text_str(out, ", ");
			add_number(out, tag->line_kind / 2 + 1);
			text_str(out, "]");
		}
		text_str(out, "]");
	}
	text_str(out, "\n  }");
}

static void add_map(const struct repomap_map *map, const char *indent, struct text *out)
{
	text_str(out, indent);
	text_str(out, "\"ranks\": {");
	for (size_t i = 0; i < map->rank_count; i++) {
		char number[40];

		text_str(out, i ? ",\n" : "\n");
		text_str(out, indent);
		text_str(out, "  ");
		add_name(out, map->ranks[i].file, strlen(map->ranks[i].file));
		snprintf(number, sizeof number, ": %.17g", map->ranks[i].rank);
		text_str(out, number);
	}
	text_str(out, "\n");
	text_str(out, indent);
	text_str(out, "},\n");
	text_str(out, indent);
	text_str(out, "\"map\": ");
	add_name(out, map->text, map->size);
	text_str(out, ",\n");
	text_str(out, indent);
	text_str(out, "\"tokens\": ");
	add_number(out, map->tokens);
}

static void add_counters(repomap *map, struct text *out)
{
	const struct repomap_counters *counters = repomap_counted(map);
	char number[40];

	text_str(out, "  \"counters\": {\n");
#define X(name, what)                         \
	text_str(out, "    \"" #name "\": "); \
	add_number(out, counters->name);      \
	text_str(out, ",\n");
	REPOMAP_COUNTERS(X)
#undef X
	text_str(out, "    \"map_cached\": ");
	text_str(out, counters->map_cached ? "true" : "false");
	snprintf(number, sizeof number, ",\n    \"milliseconds\": %.3f\n  }",
	         counters->milliseconds);
	text_str(out, number);
}

int repomap_write_json(repomap *map, const struct repomap_map *maps, size_t count, bool batch,
                       FILE *out)
{
	struct text text = { 0 };
	int rc = scan_need_tags(map);

	if (rc != TERRACE_OK)
		return rc;
	text_str(&text, "{\n  \"tags\": ");
	add_tags(map, &text);
	text_str(&text, ",\n");
	if (batch) {
		text_str(&text, "  \"maps\": [");
		for (size_t i = 0; i < count; i++) {
			text_str(&text, i ? ",\n    {\n" : "\n    {\n");
			add_map(&maps[i], "      ", &text);
			text_str(&text, "\n    }");
		}
		text_str(&text, "\n  ]");
	} else {
		add_map(&maps[0], "  ", &text);
	}
	text_str(&text, ",\n");
	add_counters(map, &text);
	text_str(&text, "\n}\n");
	fwrite(text.data, 1, text.size, out);
	text_done(&text);
	return TERRACE_OK;
}
