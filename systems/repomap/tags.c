/* Tags of one file: parse, query, and pack with all that a map could show of it. */
#include "repomap/grammar.h"

#include <stdlib.h>

enum {
	TAGS_MAGIC = 0x53475400 + TAGS_VERSION,
	NAME_MAX_BYTES = 200, /* what is longer is code that stands where a name could */
	HEADER_MAX = 10,      /* lines */
	SHOWN_MAX = 100,      /* code points of a line */
	TIMEOUT_US = 30 * 1000 * 1000,
};

struct head {
	uint32_t magic;
	terrace_digest digest;
	uint32_t line_count, tag_count, scope_count, shown_count, names_size, texts_size, mended;
};

/* --- packed ---------------------------------------------------------------------------------- */

static bool items_fit(const struct tags *tags, const struct head *head)
{
	for (uint32_t i = 0; i < tags->tag_count; i++) {
		const struct tag_item *item = &tags->items[i];

		if (item->name_at > head->names_size ||
		    item->name_size > head->names_size - item->name_at)
			return false;
	}
	for (uint32_t i = 0; i < tags->shown_count; i++) {
		const struct tag_line *line = &tags->shown[i];

		if (line->at > head->texts_size || line->size > head->texts_size - line->at)
			return false;
	}
	return true;
}

bool tags_unpack(terrace_slice packed, struct tags *ret)
{
	const struct head *head = packed.data;
	const char *at = packed.data;
	uint64_t size = sizeof *head;

	if (packed.size < sizeof *head || (uintptr_t)packed.data % 4 != 0 ||
	    head->magic != TAGS_MAGIC)
		return false;
	size += (uint64_t)head->tag_count * sizeof *ret->items;
	size += (uint64_t)head->scope_count * sizeof *ret->scopes;
	size += (uint64_t)head->shown_count * sizeof *ret->shown;
	if (size + head->names_size + head->texts_size != packed.size)
		return false;
	*ret = (struct tags){ .digest = head->digest,
		              .mended = head->mended != 0,
		              .line_count = head->line_count,
		              .tag_count = head->tag_count,
		              .scope_count = head->scope_count,
		              .shown_count = head->shown_count };
	at += sizeof *head;
	ret->items = (const void *)at;
	at += head->tag_count * sizeof *ret->items;
	ret->scopes = (const void *)at;
	at += head->scope_count * sizeof *ret->scopes;
	ret->shown = (const void *)at;
	at += head->shown_count * sizeof *ret->shown;
	ret->names = at;
	ret->texts = at + head->names_size;
	return items_fit(ret, head);
}

/* --- finding ----------------------------------------------------------------------------------- */

/* A name as found, before the order and the doubles are seen to. */
struct found {
	uint32_t start, end, line;
	uint32_t kind; /* 1 for a reference */
	const void *node;
};

struct level {
	uint32_t start, end, last_end; /* lines of a node; where its latest child ends */
	bool is_extra;                 /* a comment: no part of a header */
};

struct tagger {
	TSParser *parser;
	TSQueryCursor *cursor;
	struct found *found;
	size_t found_count, found_capacity;
	struct tag_scope *scopes;
	size_t scope_count, scope_capacity;
	struct level *levels;
	size_t level_capacity;
	const char **lines; /* where each begins, and the end */
	size_t line_count, line_capacity;
};

struct tagger *tagger_new(void)
{
	struct tagger *tagger = rm_take(1, sizeof *tagger);

	tagger->parser = ts_parser_new();
	tagger->cursor = ts_query_cursor_new();
	ts_parser_set_timeout_micros(tagger->parser, TIMEOUT_US);
	return tagger;
}

void tagger_free(struct tagger *tagger)
{
	if (!tagger)
		return;
	ts_query_cursor_delete(tagger->cursor);
	ts_parser_delete(tagger->parser);
	free(tagger->found);
	free(tagger->scopes);
	free(tagger->levels);
	free(tagger->lines);
	free(tagger);
}

static void add_found(struct tagger *tagger, TSNode node, const char *source, uint32_t kind)
{
	uint32_t start = ts_node_start_byte(node), end = ts_node_end_byte(node);

	if (end <= start || end - start > NAME_MAX_BYTES ||
	    memchr(source + start, '\n', end - start))
		return;
	tagger->found = rm_grow(tagger->found, &tagger->found_capacity, tagger->found_count + 1,
	                        sizeof *tagger->found);
	tagger->found[tagger->found_count++] =
	    (struct found){ start, end, ts_node_start_point(node).row, kind, node.id };
}

static void run_query(struct tagger *tagger, const struct grammar *grammar, TSNode root,
                      const char *source)
{
	TSQueryMatch match;

	ts_query_cursor_exec(tagger->cursor, grammar->query, root);
	while (ts_query_cursor_next_match(tagger->cursor, &match)) {
		bool is_def = false, is_ref = false;

		for (uint16_t i = 0; i < match.capture_count; i++) {
			is_def |= grammar->roles[match.captures[i].index] == ROLE_DEFINITION;
			is_ref |= grammar->roles[match.captures[i].index] == ROLE_REFERENCE;
		}
		if ((!is_def && !is_ref) || !grammar_accepts(grammar, &match, source))
			continue;
		for (uint16_t i = 0; i < match.capture_count; i++) {
			if (grammar->roles[match.captures[i].index] != ROLE_NAME)
				continue;
			if (is_def)
				add_found(tagger, match.captures[i].node, source, 0);
			if (is_ref)
				add_found(tagger, match.captures[i].node, source, 1);
		}
	}
}

/* By place, a definition first. */
static int by_place(const void *one, const void *two)
{
	const struct found *a = one, *b = two;

	if (a->start != b->start)
		return a->start < b->start ? -1 : 1;
	if (a->end != b->end)
		return a->end < b->end ? -1 : 1;
	if (a->kind != b->kind)
		return a->kind < b->kind ? -1 : 1;
	return a->node < b->node ? -1 : a->node > b->node;
}

/* Each kind and node once, in order. */
static void settle(struct tagger *tagger)
{
	size_t kept = 0;

	if (tagger->found_count > 1)
		qsort(tagger->found, tagger->found_count, sizeof *tagger->found, by_place);
	for (size_t i = 0; i < tagger->found_count; i++) {
		if (kept == 0 || tagger->found[kept - 1].node != tagger->found[i].node ||
		    tagger->found[kept - 1].kind != tagger->found[i].kind)
			tagger->found[kept++] = tagger->found[i];
	}
	tagger->found_count = kept;
}

/* --- scopes -------------------------------------------------------------------------------------- */

static bool is_body(const char *field)
{
	return field && (strcmp(field, "body") == 0 || strcmp(field, "consequence") == 0);
}

static bool is_identifier(TSNode node)
{
	const char *type = ts_node_type(node);
	size_t size = strlen(type), suffix = strlen("identifier");

	return size >= suffix && strcmp(type + size - suffix, "identifier") == 0 &&
	       ts_node_is_named(node);
}

/*
 * What has a body is a scope. Its header ends where the last thing before the
 * body does, so that a signature over several lines is shown whole.
 */
static void add_scope(struct tagger *tagger, const struct level *level)
{
	uint32_t last = level->last_end;

	if (level->end <= level->start)
		return;
	if (last >= level->start + HEADER_MAX)
		last = level->start + HEADER_MAX - 1;
	tagger->scopes = rm_grow(tagger->scopes, &tagger->scope_capacity, tagger->scope_count + 1,
	                         sizeof *tagger->scopes);
	tagger->scopes[tagger->scope_count++] = (struct tag_scope){ level->start, last,
		                                                    level->end };
}

/* Every node: the scopes, and with `identifiers` each identifier as a reference. */
static void walk(struct tagger *tagger, TSNode root, const char *source, bool identifiers)
{
	TSTreeCursor cursor = ts_tree_cursor_new(root);
	size_t depth = 0;
	bool more = true;

	while (more) {
		TSNode node = ts_tree_cursor_current_node(&cursor);
		uint32_t start = ts_node_start_point(node).row, end = ts_node_end_point(node).row;

		tagger->levels = rm_grow(tagger->levels, &tagger->level_capacity, depth + 1,
		                         sizeof *tagger->levels);
		if (depth > 0 && is_body(ts_tree_cursor_current_field_name(&cursor)))
			add_scope(tagger, &tagger->levels[depth - 1]);
		tagger->levels[depth] = (struct level){ start, end, start, ts_node_is_extra(node) };
		if (ts_tree_cursor_goto_first_child(&cursor)) {
			depth++;
			continue;
		}
		if (identifiers && is_identifier(node))
			add_found(tagger, node, source, 1);
		for (;;) {
			if (depth > 0 && !tagger->levels[depth].is_extra)
				tagger->levels[depth - 1].last_end = tagger->levels[depth].end;
			more = ts_tree_cursor_goto_next_sibling(&cursor);
			if (more || !ts_tree_cursor_goto_parent(&cursor))
				break;
			depth--;
		}
	}
	ts_tree_cursor_delete(&cursor);
}

static int by_start(const void *one, const void *two)
{
	const struct tag_scope *a = one, *b = two;

	if (a->start != b->start)
		return a->start < b->start ? -1 : 1;
	if (a->end != b->end)
		return a->end > b->end ? -1 : 1;
	return a->header_end < b->header_end ? -1 : a->header_end > b->header_end;
}

/* --- what a map could show ------------------------------------------------------------------------- */

static void split_lines(struct tagger *tagger, const char *source, size_t size)
{
	const char *at = source, *end = source + size;

	tagger->line_count = 0;
	while (at < end) {
		const char *newline = memchr(at, '\n', (size_t)(end - at));

		tagger->lines = rm_grow(tagger->lines, &tagger->line_capacity,
		                        tagger->line_count + 2, sizeof *tagger->lines);
		tagger->lines[tagger->line_count++] = at;
		at = newline ? newline + 1 : end;
	}
	if (tagger->line_count)
		tagger->lines[tagger->line_count] = end;
}

static void add_line_text(struct tagger *tagger, uint32_t line, struct text *shown,
                          struct text *texts)
{
	const char *start = tagger->lines[line];
	size_t size = (size_t)(tagger->lines[line + 1] - start), kept;
	struct tag_line entry = { line, (uint32_t)texts->size, 0 };

	while (size > 0 && (start[size - 1] == '\n' || start[size - 1] == '\r'))
		size--;
	/* One place is for the bar. */
	kept = utf8_prefix(start, size, SHOWN_MAX - 1);
	entry.size = (uint32_t)kept;
	text_add(texts, start, kept);
	text_add(shown, &entry, sizeof entry);
}

/*
 * The lines of all definitions, the headers around them, and the gaps of one
 * line: whichever definitions a map picks, what it shows of the file is here.
 * Scopes without a definition in them go.
 */
static void gather(struct tagger *tagger, struct text *scopes, struct text *shown,
                   struct text *texts)
{
	uint8_t *show = rm_take(tagger->line_count + 1, 1);

	for (size_t i = 0; i < tagger->found_count; i++) {
		if (tagger->found[i].kind == 0 && tagger->found[i].line < tagger->line_count)
			show[tagger->found[i].line] = 1;
	}
	if (tagger->scope_count > 1)
		qsort(tagger->scopes, tagger->scope_count, sizeof *tagger->scopes, by_start);
	for (size_t i = 0; i < tagger->scope_count; i++) {
		const struct tag_scope *scope = &tagger->scopes[i];
		bool used = false;

		for (uint32_t n = scope->start; n <= scope->end && n < tagger->line_count; n++)
			used |= show[n] == 1;
		if (!used)
			continue;
		text_add(scopes, scope, sizeof *scope);
		for (uint32_t n = scope->start; n <= scope->header_end && n < tagger->line_count;
		     n++)
			show[n] |= 2;
	}
	for (uint32_t i = 0; i < tagger->line_count; i++) {
		if (show[i] || (i > 0 && show[i - 1] && show[i + 1]))
			add_line_text(tagger, i, shown, texts);
	}
	free(show);
}

/* --- all together ----------------------------------------------------------------------------------- */

static void pack(struct tagger *tagger, const char *source, const terrace_digest *digest,
                 bool mended, struct text *ret)
{
	struct text scopes = { 0 }, shown = { 0 }, texts = { 0 }, names_text = { 0 };
	struct head head = { .magic = TAGS_MAGIC, .digest = *digest, .mended = mended };
	struct words names = { 0 };
	uint32_t *at = NULL;
	size_t at_capacity = 0, placed = 0;

	gather(tagger, &scopes, &shown, &texts);
	head.line_count = (uint32_t)tagger->line_count;
	head.tag_count = (uint32_t)tagger->found_count;
	head.scope_count = (uint32_t)(scopes.size / sizeof(struct tag_scope));
	head.shown_count = (uint32_t)(shown.size / sizeof(struct tag_line));
	head.texts_size = (uint32_t)texts.size;
	text_add(ret, &head, sizeof head);
	for (size_t i = 0; i < tagger->found_count; i++) {
		const struct found *found = &tagger->found[i];
		terrace_slice name = terrace_bytes(source + found->start,
		                                   found->end - found->start);
		uint32_t number = words_add(&names, name, false);
		struct tag_item item = { 0, (uint32_t)name.size, found->line * 2 + found->kind };

		if (number == placed) { /* numbers are given in order */
			at = rm_grow(at, &at_capacity, ++placed, sizeof *at);
			at[number] = (uint32_t)names_text.size;
			text_add(&names_text, name.data, name.size);
		}
		item.name_at = at[number];
		text_add(ret, &item, sizeof item);
	}
	head.names_size = (uint32_t)names_text.size;
	memcpy(ret->data + ret->size - tagger->found_count * sizeof(struct tag_item) - sizeof head,
	       &head, sizeof head);
	text_add(ret, scopes.data, scopes.size);
	text_add(ret, shown.data, shown.size);
	text_add(ret, names_text.data, names_text.size);
	text_add(ret, texts.data, texts.size);
	free(at);
	words_done(&names);
	text_done(&scopes);
	text_done(&shown);
	text_done(&texts);
	text_done(&names_text);
}

int tagger_run(struct tagger *tagger, const struct grammar *grammar, const char *source,
               size_t size, const terrace_digest *digest, bool mended, struct text *ret)
{
	bool has_def = false, has_ref = false;
	TSNode root;
	TSTree *tree;

	tagger->found_count = tagger->scope_count = 0;
	if (!ts_parser_set_language(tagger->parser, grammar->language))
		return TERRACE_EFORMAT;
	/* What a file that took too long left behind is not for this one. */
	ts_parser_reset(tagger->parser);
	tree = ts_parser_parse_string(tagger->parser, NULL, source, (uint32_t)size);
	if (!tree)
		return TERRACE_EBUSY;
	root = ts_tree_root_node(tree);
	run_query(tagger, grammar, root, source);
	for (size_t i = 0; i < tagger->found_count; i++) {
		has_def |= tagger->found[i].kind == 0;
		has_ref |= tagger->found[i].kind == 1;
	}
	if (has_def)
		walk(tagger, root, source, !has_ref);
	settle(tagger);
	split_lines(tagger, source, size);
	pack(tagger, source, digest, mended, ret);
	ts_tree_delete(tree);
	return TERRACE_OK;
}
