/* Trees of lines, and the most of them that fit a budget. */
#include "repomap/parts.h"

#include <errno.h>
#include <math.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { LINE_MAX_POINTS = 100, TOKENS_PER_ITEM = 25, POINTS_PER_TOKEN = 4 };
static const double near_enough = 0.15;

/* --- one file --------------------------------------------------------------------------------- */

static const struct tag_line *find_line(const struct tags *tags, uint32_t line)
{
	uint32_t low = 0, high = tags->shown_count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (tags->shown[middle].line < line)
			low = middle + 1;
		else
			high = middle;
	}
	return low < tags->shown_count && tags->shown[low].line == line ? &tags->shown[low] : NULL;
}

void render_lines(const struct tags *tags, const uint32_t *lines, size_t count, struct text *ret)
{
	uint8_t *show = rm_take((size_t)tags->line_count + 2, 1);
	bool gap = true; /* one may be announced */

	for (size_t i = 0; i < count; i++) {
		if (lines[i] < tags->line_count)
			show[lines[i]] = 1;
	}
	for (uint32_t i = 0; i < tags->scope_count; i++) {
		const struct tag_scope *scope = &tags->scopes[i];
		bool used = false;

		for (size_t n = 0; n < count && !used; n++)
			used = lines[n] >= scope->start && lines[n] <= scope->end;
		for (uint32_t n = scope->start; used && n <= scope->header_end; n++) {
			if (n < tags->line_count)
				show[n] |= 2;
		}
	}
	for (uint32_t i = 0; i < tags->line_count; i++) {
		bool is_shown = show[i] || (i > 0 && show[i - 1] && show[i + 1]);
		const struct tag_line *line = is_shown ? find_line(tags, i) : NULL;

		if (line) {
			text_str(ret, "│");
			text_add(ret, tags->texts + line->at, line->size);
			text_str(ret, "\n");
			gap = true;
		} else if (gap) {
			text_str(ret, "⋮\n");
			gap = false;
		}
	}
	free(show);
}

/* --- tokens ------------------------------------------------------------------------------------- */

/* What the command prints when it reads the text; -1 when that is no number. */
static long long ask_tokenizer(const char *command, const char *text, size_t size)
{
	const char *const argv[] = { "sh", "-c", command, NULL };
	int in = memfd_create("map", MFD_CLOEXEC), out = memfd_create("tokens", MFD_CLOEXEC);
	posix_spawn_file_actions_t actions;
	char answer[64] = "", *end = answer;
	long long tokens = -1;
	int status = 0;
	pid_t pid = 0;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in, 0);
	posix_spawn_file_actions_adddup2(&actions, out, 1);
	if (in >= 0 && out >= 0 && write(in, text, size) == (ssize_t)size &&
	    lseek(in, 0, SEEK_SET) == 0 &&
	    posix_spawnp(&pid, "sh", &actions, NULL, (char **)(uintptr_t)argv, environ) == 0) {
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0 &&
		    pread(out, answer, sizeof answer - 1, 0) > 0)
			tokens = strtoll(answer, &end, 10);
		if (end == answer || tokens < 0)
			tokens = -1;
	}
	posix_spawn_file_actions_destroy(&actions);
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return tokens;
}

uint64_t count_tokens(const struct repomap *map, const char *text, size_t size)
{
	static bool told;
	long long answer;

	if (map->spec.tokenizer) {
		answer = ask_tokenizer(map->spec.tokenizer, text, size);
		if (answer >= 0)
			return (uint64_t)answer;
		if (!told)
			rm_note("the tokenizer \"%s\" gives no number; a token is taken to be 4 "
			        "characters",
			        map->spec.tokenizer);
		told = true;
	}
	return (utf8_count(text, size) + POINTS_PER_TOKEN - 1) / POINTS_PER_TOKEN;
}

/* --- trees ---------------------------------------------------------------------------------------- */

/* The definitions of one file in a map. */
struct group {
	uint32_t file;
	uint32_t *lines; /* in the sorter's array; none: the name alone */
	uint32_t count;
	uint32_t tree; /* its number */
};

struct trees {
	struct repomap *map;
	struct words known; /* file and lines, as bytes */
	struct tree {
		struct text text;
		bool made, fresh;
		struct group group; /* its lines are its own copy */
	} * list;
	size_t capacity;
	struct group *groups;
	size_t group_count, group_capacity;
	struct item *sorted;
	uint32_t *lines;
};

static int by_file(const void *one, const void *two)
{
	const struct item *a = one, *b = two;

	if (a->file != b->file)
		return a->file < b->file ? -1 : 1;
	return a->line < b->line ? -1 : a->line > b->line;
}

static terrace_slice tree_key(const struct repomap *map, const struct group *group)
{
	const struct file *file = &map->files[group->file];
	uint64_t id = language_id(map->grammars, file->language);
	terrace_slice *lines = rm_take(group->count, sizeof *lines), key = { NULL, 0 };
	terrace_key_builder *builder = NULL;

	for (uint32_t i = 0; i < group->count; i++)
		lines[i] = terrace_bytes(&group->lines[i], sizeof *group->lines);
	if (terrace_key_builder_new("repomap:tree", &builder) == TERRACE_OK) {
		terrace_key_builder_field(builder, "root", terrace_str(map->root));
		terrace_key_builder_field(builder, "file",
		                          terrace_bytes(file->path, file->path_size));
		terrace_key_builder_field(builder, "content",
		                          terrace_bytes(&file->digest, sizeof file->digest));
		terrace_key_builder_field(builder, "grammar", terrace_bytes(&id, sizeof id));
		terrace_key_builder_set(builder, "lines", lines, group->count);
		terrace_key_builder_finish(builder, &key);
	}
	terrace_key_builder_free(builder);
	free(lines);
	return key;
}

static void make_tree(struct trees *trees, struct tree *tree)
{
	struct file *file = &trees->map->files[tree->group.file];
	const struct tags *tags = scan_tags_of(trees->map, file);

	tree->made = tree->fresh = true;
	if (tags)
		render_lines(tags, tree->group.lines, tree->group.count, &tree->text);
	else
		trees->map->unstable = true;
}

/* All trees of the groups: from the cache in one call, or made. */
static void need_trees(struct trees *trees, uint32_t known)
{
	size_t count = trees->known.count - known;
	terrace_slice *keys = rm_take(count, sizeof *keys);
	terrace_value **values = rm_take(count, sizeof(terrace_value *));

	for (size_t i = 0; i < count; i++)
		keys[i] = tree_key(trees->map, &trees->list[known + i].group);
	if (count)
		terrace_get_many(trees->map->trees_cache, keys, count, values, NULL);
	for (size_t i = 0; i < count; i++) {
		struct tree *tree = &trees->list[known + i];

		if (values[i]) {
			text_add(&tree->text, terrace_data(values[i]), terrace_size(values[i]));
			tree->made = true;
		} else {
			make_tree(trees, tree);
		}
		terrace_release(values[i]);
		terrace_key_free(keys[i]);
	}
	free(keys);
	free(values);
}

static void number_tree(struct trees *trees, struct group *group)
{
	struct text key = { 0 };
	uint32_t known = trees->known.count;

	text_add(&key, &group->file, sizeof group->file);
	text_add(&key, group->lines, group->count * sizeof *group->lines);
	group->tree = words_add(&trees->known, terrace_bytes(key.data, key.size), true);
	text_done(&key);
	if (group->tree < known)
		return;
	trees->list = rm_grow(trees->list, &trees->capacity, group->tree + 1, sizeof *trees->list);
	trees->list[group->tree] = (struct tree){ .group = *group };
	trees->list[group->tree].group.lines = rm_take(group->count, sizeof *group->lines);
	memcpy(trees->list[group->tree].group.lines, group->lines,
	       group->count * sizeof *group->lines);
}

/* The map of the first `count` items. */
static void render_items(struct trees *trees, const struct ranking *ranking, size_t count,
                         struct text *ret)
{
	uint32_t known = trees->known.count;
	size_t lines = 0;

	memcpy(trees->sorted, ranking->items, count * sizeof *trees->sorted);
	qsort(trees->sorted, count, sizeof *trees->sorted, by_file);
	trees->group_count = 0;
	for (size_t i = 0; i < count;) {
		struct group group = { .file = trees->sorted[i].file,
			               .lines = trees->lines + lines };

		for (; i < count && trees->sorted[i].file == group.file; i++) {
			uint32_t line = trees->sorted[i].line;

			if (line != UINT32_MAX &&
			    (group.count == 0 || group.lines[group.count - 1] != line))
				group.lines[group.count++] = line;
		}
		lines += group.count;
		if (group.count)
			number_tree(trees, &group);
		trees->groups = rm_grow(trees->groups, &trees->group_capacity,
		                        trees->group_count + 1, sizeof group);
		trees->groups[trees->group_count++] = group;
	}
	need_trees(trees, known);
	ret->size = 0;
	for (size_t i = 0; i < trees->group_count; i++) {
		const struct group *group = &trees->groups[i];
		const struct file *file = &trees->map->files[group->file];
		struct text name = { 0 };

		text_add(&name, file->path, file->path_size);
		if (group->count)
			text_str(&name, ":");
		text_str(ret, "\n");
		text_add(ret, name.data, utf8_prefix(name.data, name.size, LINE_MAX_POINTS));
		text_str(ret, "\n");
		if (group->count)
			text_add(ret, trees->list[group->tree].text.data,
			         trees->list[group->tree].text.size);
		text_done(&name);
	}
}

static void keep_trees(struct trees *trees)
{
	terrace_item *items = rm_take(trees->known.count, sizeof *items);
	size_t count = 0;

	for (uint32_t i = 0; i < trees->known.count; i++) {
		struct tree *tree = &trees->list[i];

		if (!tree->fresh || trees->map->unstable || !trees->map->trees_cache)
			continue;
		items[count].key = tree_key(trees->map, &tree->group);
		items[count].value = terrace_bytes(tree->text.data, tree->text.size);
		count += items[count].key.data != NULL;
	}
	if (count)
		terrace_put_many(trees->map->trees_cache, items, count, NULL);
	for (size_t i = 0; i < count; i++)
		terrace_key_free(items[i].key);
	free(items);
	for (uint32_t i = 0; i < trees->known.count; i++) {
		text_done(&trees->list[i].text);
		free(trees->list[i].group.lines);
	}
	free(trees->list);
	free(trees->groups);
	free(trees->sorted);
	free(trees->lines);
	words_done(&trees->known);
}

/* --- the budget --------------------------------------------------------------------------------------- */

static double error_of(uint64_t tokens, uint64_t budget)
{
	return fabs((double)tokens - (double)budget) / (double)budget;
}

/*
 * How many items could fit at best: each file costs its name, each line its bar.
 * What lies beyond needs no rendering to be known as too much.
 */
static size_t most_items(struct repomap *map, struct ranking *ranking, uint64_t budget)
{
	double room = (double)POINTS_PER_TOKEN * ((double)budget * (1 + near_enough) + 1);
	struct words seen = { 0 };
	double points = 0;
	size_t i;

	if (map->spec.tokenizer)
		return ranking->item_count;
	for (i = 0; i < ranking->item_count; i++) {
		struct item whole = { 0, UINT32_MAX };
		uint32_t known;

		if (i == ranking->sorted_count)
			ranking_sort(ranking, 2 * i + 1000 < ranking->item_count ?
			                          2 * i + 1000 :
			                          ranking->item_count);
		whole.file = ranking->items[i].file;
		known = seen.count;
		if (words_add(&seen, terrace_bytes(&whole, sizeof whole), true) == known) {
			size_t size = utf8_count(map->files[whole.file].path,
			                         map->files[whole.file].path_size);

			points += (double)(size < LINE_MAX_POINTS ? size : LINE_MAX_POINTS) + 2;
		}
		known = seen.count;
		if (words_add(&seen, terrace_bytes(&ranking->items[i], sizeof whole), true) ==
		    known)
			points += 2;
		if (points > room)
			break;
	}
	words_done(&seen);
	return i;
}

void render_map(struct repomap *map, struct ranking *ranking, uint64_t budget, struct text *ret,
                uint64_t *ret_tokens)
{
	size_t low = 0, high = ranking->item_count, middle, most;
	struct trees trees = { .map = map };
	struct text text = { 0 };
	uint64_t best = 0;

	ret->size = 0;
	*ret_tokens = 0;
	if (budget == 0 || high == 0)
		return;
	most = most_items(map, ranking, budget);
	trees.sorted = rm_take(most + 1, sizeof *trees.sorted);
	trees.lines = rm_take(most + 1, sizeof *trees.lines);
	middle = budget / TOKENS_PER_ITEM < high ? (size_t)(budget / TOKENS_PER_ITEM) : high;
	while (low <= high) {
		uint64_t tokens = UINT64_MAX;

		if (middle <= most) {
			ranking_sort(ranking, middle);
			render_items(&trees, ranking, middle, &text);
			tokens = count_tokens(map, text.data, text.size);
		}
		if ((tokens <= budget && tokens > best) ||
		    (middle <= most && error_of(tokens, budget) < near_enough)) {
			ret->size = 0;
			text_add(ret, text.data, text.size);
			best = *ret_tokens = tokens;
			if (error_of(tokens, budget) < near_enough)
				break;
		}
		if (tokens < budget) {
			low = middle + 1;
		} else {
			if (middle == 0)
				break;
			high = middle - 1;
		}
		middle = (low + high) / 2;
	}
	text_done(&text);
	keep_trees(&trees);
}
