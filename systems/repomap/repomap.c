/* Maps: from the cache where their files are as they were, else made. */
#include "repomap/parts.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

enum { MAP_MAGIC = 0x314d4d52, TOKENS = 1024, TOKENS_WITHOUT_CHAT = 8 * TOKENS };

/* --- opening ----------------------------------------------------------------------------------- */

static terrace_cache *open_cache(terrace *store, const char *name, const char *description)
{
	terrace_policy policy = TERRACE_POLICY_INIT;
	terrace_cache *cache = NULL;

	policy.description = description;
	if (terrace_cache_open(store, name, &policy, &cache) != TERRACE_OK)
		rm_note("warning: %s; going on without it", terrace_error_message());
	return cache;
}

/* The part of an absolute path below the root; NULL when it lies elsewhere. */
static const char *below_root(const struct repomap *map, const char *path)
{
	size_t size = strlen(map->root);

	if (size == 1)
		return path + 1;
	return strncmp(path, map->root, size) == 0 && path[size] == '/' ? path + size + 1 : NULL;
}

int repomap_open(terrace *store, const struct repomap_spec *spec, repomap **ret)
{
	struct repomap *map = rm_take(1, sizeof *map);
	const char *below;

	map->started_ns = rm_clock_ns();
	map->spec = *spec;
	map->root = realpath(spec->dir, NULL);
	if (!map->root) {
		int rc = errno == ENOENT || errno == ENOTDIR ? TERRACE_EINVAL : TERRACE_EACCESS;

		terrace_fail(rc, "cannot open the directory %s: %s", spec->dir, strerror(errno));
		free(map);
		return rc;
	}
	if (store) {
		map->files_cache = open_cache(store, "repomap.files", "what repositories hold");
		map->tags_cache = open_cache(store, "repomap.tags", "tags of source files");
		map->maps_cache = open_cache(store, "repomap.maps", "repository maps");
		map->trees_cache = open_cache(store, "repomap.trees", "lines of files in maps");
		below = terrace_enabled(store) ? below_root(map, terrace_dir(store)) : NULL;
		map->store_below = below ? strdup(below) : NULL;
	}
	map->grammars = grammars_new();
	*ret = map;
	return TERRACE_OK;
}

void repomap_close(repomap *map)
{
	if (!map)
		return;
	scan_forget(map);
	grammars_free(map->grammars);
	terrace_cache_close(map->files_cache);
	terrace_cache_close(map->tags_cache);
	terrace_cache_close(map->maps_cache);
	terrace_cache_close(map->trees_cache);
	free(map->store_below);
	free(map->root);
	free(map);
}

int repomap_scan(repomap *map, struct repomap_progress *progress)
{
	return map->scanned ? TERRACE_OK : scan(map, progress);
}

const struct repomap_counters *repomap_counted(repomap *map)
{
	map->counters.milliseconds = (double)(rm_clock_ns() - map->started_ns) / 1e6;
	return &map->counters;
}

int repomap_parse_refresh(const char *word)
{
	static const char *const words[] = { "auto", "files", "manual", "always" };

	for (int i = 0; i < 4; i++) {
		if (strcmp(word, words[i]) == 0)
			return i;
	}
	return -1;
}

/* --- what was asked for -------------------------------------------------------------------------- */

/* A context with its files named as the repository names them. */
struct request {
	char **chat, **mention_files;
	const struct repomap_context *context;
	uint64_t budget;
	terrace_slice key, last_key; /* the map of this state; the last one of any state */
};

/* A file as it is given, from the root or from here, as the repository names it. */
static char *name_in_root(const struct repomap *map, const char *path)
{
	char full[2 * PATH_MAX], *real = NULL;
	const char *below;

	if (*path != '/' && strlen(path) < PATH_MAX) {
		snprintf(full, sizeof full, "%s/%s", map->root, path);
		real = realpath(full, NULL);
	}
	if (!real)
		real = realpath(path, NULL);
	below = real ? below_root(map, real) : NULL;
	if (!below) {
		below = path;
		while (strncmp(below, "./", 2) == 0)
			below += 2;
	}
	below = strdup(below);
	free(real);
	if (!below) {
		rm_note("out of memory");
		exit(3);
	}
	return (char *)(uintptr_t)below;
}

static char **names_in_root(const struct repomap *map, const char *const *paths, size_t count)
{
	char **names = rm_take(count, sizeof(char *));

	for (size_t i = 0; i < count; i++)
		names[i] = name_in_root(map, paths[i]);
	return names;
}

static void add_set(terrace_key_builder *builder, const char *name, const char *const *texts,
                    size_t count)
{
	terrace_slice *items = rm_take(count, sizeof *items);

	for (size_t i = 0; i < count; i++)
		items[i] = terrace_str(texts[i]);
	terrace_key_builder_set(builder, name, items, count);
	free(items);
}

/*
 * The key of a map: the files in the conversation, the others, the mentioned
 * files and identifiers, and the budget. `others` NULL: whatever they are.
 */
static terrace_slice make_key(const struct repomap *map, const struct request *r,
                              const terrace_digest *others, bool mentions)
{
	terrace_key_builder *builder = NULL;
	terrace_slice key = { NULL, 0 };

	if (terrace_key_builder_new(others ? "repomap:map" : "repomap:last", &builder) !=
	    TERRACE_OK)
		return key;
	terrace_key_builder_field(builder, "root", terrace_str(map->root));
	terrace_key_builder_field(builder, "tokens", terrace_bytes(&r->budget, sizeof r->budget));
	terrace_key_builder_field(builder, "tokenizer", terrace_str(map->spec.tokenizer));
	add_set(builder, "chat", (const char *const *)r->chat, r->context->chat_count);
	/* All files less those in the conversation are the others. */
	if (others)
		terrace_key_builder_field(builder, "files", terrace_bytes(others, sizeof *others));
	if (mentions) {
		add_set(builder, "mentioned files", (const char *const *)r->mention_files,
		        r->context->mention_file_count);
		add_set(builder, "mentions", r->context->mentions, r->context->mention_count);
	}
	terrace_key_builder_finish(builder, &key);
	terrace_key_builder_free(builder);
	return key;
}

static void request_init(const struct repomap *map, const struct repomap_context *context,
                         struct request *ret)
{
	*ret = (struct request){ .context = context };
	ret->chat = names_in_root(map, context->chat, context->chat_count);
	ret->mention_files = names_in_root(map, context->mention_files,
	                                   context->mention_file_count);
	ret->budget = context->has_tokens     ? context->tokens :
	              context->chat_count > 0 ? TOKENS :
	                                        TOKENS_WITHOUT_CHAT;
	ret->last_key = make_key(map, ret, NULL, false);
	if (map->spec.refresh != REPOMAP_MANUAL)
		ret->key = make_key(map, ret, &map->paths, map->spec.refresh != REPOMAP_FILES);
}

static void request_done(struct request *r)
{
	for (size_t i = 0; i < r->context->chat_count; i++)
		free(r->chat[i]);
	for (size_t i = 0; i < r->context->mention_file_count; i++)
		free(r->mention_files[i]);
	free(r->chat);
	free(r->mention_files);
	terrace_key_free(r->key);
	terrace_key_free(r->last_key);
}

/* --- maps as they are stored -------------------------------------------------------------------------- */

struct map_head {
	uint32_t magic, rank_count, paths_size, unused;
	terrace_digest state;
	uint64_t tokens, size;
	/* then: double[rank_count], the files' names each ended by NUL, the text */
};

static void pack_map(const struct repomap *map, const struct repomap_map *made, struct text *ret)
{
	struct map_head head = { .magic = MAP_MAGIC,
		                 .rank_count = (uint32_t)made->rank_count,
		                 .state = map->state,
		                 .tokens = made->tokens,
		                 .size = made->size };
	struct text paths = { 0 };

	for (size_t i = 0; i < made->rank_count; i++)
		text_add(&paths, made->ranks[i].file, strlen(made->ranks[i].file) + 1);
	head.paths_size = (uint32_t)paths.size;
	text_add(ret, &head, sizeof head);
	for (size_t i = 0; i < made->rank_count; i++)
		text_add(ret, &made->ranks[i].rank, sizeof made->ranks[i].rank);
	text_add(ret, paths.data, paths.size);
	text_add(ret, made->text, made->size);
	text_done(&paths);
}

/* `state`: what it must be of; NULL: any. Takes its own copy of everything. */
static bool unpack_map(terrace_slice packed, const terrace_digest *state, struct repomap_map *ret)
{
	struct map_head head;
	const char *at = packed.data;
	char *owned;
	size_t from = 0;

	if (packed.size < sizeof head)
		return false;
	memcpy(&head, at, sizeof head);
	at += sizeof head;
	if (head.magic != MAP_MAGIC || (state && memcmp(&head.state, state, sizeof *state) != 0) ||
	    head.size > packed.size ||
	    sizeof head + (uint64_t)head.rank_count * sizeof(double) + head.paths_size +
	            head.size !=
	        packed.size)
		return false;
	*ret = (struct repomap_map){ .tokens = head.tokens, .size = head.size, .cached = true };
	ret->ranks = rm_take(head.rank_count, sizeof *ret->ranks);
	ret->owned = owned = rm_take((size_t)head.paths_size + 1, 1);
	ret->text = rm_take(head.size + 1, 1);
	memcpy(owned, at + head.rank_count * sizeof(double), head.paths_size);
	memcpy(ret->text, at + head.rank_count * sizeof(double) + head.paths_size, head.size);
	for (; ret->rank_count < head.rank_count && from < head.paths_size; ret->rank_count++) {
		ret->ranks[ret->rank_count].file = owned + from;
		memcpy(&ret->ranks[ret->rank_count].rank, at + ret->rank_count * sizeof(double),
		       sizeof(double));
		from += strlen(owned + from) + 1;
	}
	return true;
}

void repomap_map_free(struct repomap_map *map)
{
	free(map->text);
	free(map->ranks);
	free(map->owned);
	*map = (struct repomap_map){ 0 };
}

/* --- making one ------------------------------------------------------------------------------------------ */

/* A part of the path or the name without its extension is among the mentions. */
static bool is_mentioned(const struct file *file, const struct repomap_context *context)
{
	const char *slash = strrchr(file->path, '/');
	const char *base = slash ? slash + 1 : file->path;
	const char *dot = strrchr(base, '.');
	size_t stem = strlen(base);

	/* Dots at the front are no extension's. */
	if (dot && (size_t)(dot - base) >= strspn(base, "."))
		stem = (size_t)(dot - base);
	for (size_t i = 0; i < context->mention_count; i++) {
		const char *word = context->mentions[i];
		size_t size = strlen(word);

		if (size == stem && memcmp(base, word, size) == 0)
			return true;
		for (const char *part = file->path; part; part = strchr(part, '/')) {
			part += *part == '/';
			if (strcspn(part, "/") == size && memcmp(part, word, size) == 0)
				return true;
		}
	}
	return false;
}

static void set_marks(struct repomap *map, const struct request *r, struct marks *ret)
{
	const struct repomap_context *context = r->context;

	*ret = (struct marks){ .chat = rm_take(map->file_count, 1),
		               .mentioned = rm_take(map->file_count, 1),
		               .mentions = context->mentions,
		               .mention_count = context->mention_count };
	for (size_t i = 0; i < context->chat_count; i++) {
		size_t at = find_file(map, r->chat[i], strlen(r->chat[i]));

		if (at == SIZE_MAX)
			rm_note("warning: --chat %s: the repository has no such file",
			        context->chat[i]);
		else
			ret->chat[at] = 1;
	}
	for (size_t i = 0; i < context->mention_file_count; i++) {
		size_t at = find_file(map, r->mention_files[i], strlen(r->mention_files[i]));

		if (at != SIZE_MAX)
			ret->mentioned[at] |= 1;
	}
	for (size_t i = 0; i < map->file_count && context->mention_count; i++) {
		if (is_mentioned(&map->files[i], context))
			ret->mentioned[i] |= 2;
	}
}

static void make_map(struct repomap *map, const struct request *r, struct repomap_map *ret)
{
	struct ranking ranking;
	struct text text = { 0 };
	struct marks marks;

	*ret = (struct repomap_map){ 0 };
	set_marks(map, r, &marks);
	rank(map, &marks, &ranking);
	render_map(map, &ranking, r->budget, &text, &ret->tokens);
	ret->size = text.size;
	text_add(&text, "", 1);
	ret->text = text.data;
	ret->ranks = rm_take(map->file_count, sizeof *ret->ranks);
	for (size_t i = 0; i < map->file_count; i++) {
		if (ranking.ranks[i] >= 0)
			ret->ranks[ret->rank_count++] = (struct repomap_rank){ map->files[i].path,
				                                               ranking.ranks[i] };
	}
	ranking_done(&ranking);
	free(marks.chat);
	free(marks.mentioned);
}

static void keep_map(struct repomap *map, const struct request *r, const struct repomap_map *made)
{
	struct text packed = { 0 };
	terrace_item items[2];
	size_t count = 0;

	if (!map->maps_cache || map->unstable)
		return;
	pack_map(map, made, &packed);
	if (r->key.data)
		items[count++] = (terrace_item){ r->key, terrace_bytes(packed.data, packed.size) };
	if (r->last_key.data)
		items[count++] = (terrace_item){ r->last_key,
			                         terrace_bytes(packed.data, packed.size) };
	if (count)
		terrace_put_many(map->maps_cache, items, count, NULL);
	text_done(&packed);
}

/* --- many ----------------------------------------------------------------------------------------------------- */

/* The maps that are there; how many. */
static size_t get_maps(struct repomap *map, const struct request *requests, size_t count, bool last,
                       struct repomap_map *ret)
{
	terrace_slice *keys = rm_take(count, sizeof *keys);
	terrace_value **values = rm_take(count, sizeof(terrace_value *));
	size_t hits = 0;

	for (size_t i = 0; i < count; i++)
		keys[i] = last ? requests[i].last_key : requests[i].key;
	terrace_get_many(map->maps_cache, keys, count, values, NULL);
	for (size_t i = 0; i < count; i++) {
		if (values[i] &&
		    unpack_map(terrace_slice_of(values[i]), last ? NULL : &map->state, &ret[i]))
			hits++;
		terrace_release(values[i]);
	}
	free(keys);
	free(values);
	return hits;
}

static int make_maps(struct repomap *map, struct request *requests, size_t count,
                     struct repomap_map *ret)
{
	int rc = scan_need_tags(map);

	for (size_t i = 0; i < count && rc == TERRACE_OK; i++) {
		if (ret[i].text)
			continue;
		if (!requests[i].key.data)
			requests[i].key = make_key(map, &requests[i], &map->paths, true);
		make_map(map, &requests[i], &ret[i]);
		keep_map(map, &requests[i], &ret[i]);
	}
	return rc;
}

int repomap_maps(repomap *map, const struct repomap_context *contexts, size_t count,
                 struct repomap_map *ret)
{
	struct request *requests = rm_take(count, sizeof *requests);
	bool manual = map->spec.refresh == REPOMAP_MANUAL;
	size_t hits = 0;
	int rc = TERRACE_OK;

	memset(ret, 0, count * sizeof *ret);
	if (!manual)
		rc = repomap_scan(map, NULL);
	for (size_t i = 0; i < count; i++)
		request_init(map, &contexts[i], &requests[i]);
	if (rc == TERRACE_OK && map->spec.refresh != REPOMAP_ALWAYS)
		hits = get_maps(map, requests, count, manual, ret);
	/* The tags that go with a map from before any look are those from before. */
	if (rc == TERRACE_OK && manual && hits == count && map->spec.want_tags && !map->scanned)
		scan_recall(map);
	if (rc == TERRACE_OK && !map->scanned && (hits < count || map->spec.want_tags))
		rc = repomap_scan(map, NULL);
	if (rc == TERRACE_OK && hits < count)
		rc = make_maps(map, requests, count, ret);
	map->counters.map_cached = hits == count;
	for (size_t i = 0; i < count; i++)
		request_done(&requests[i]);
	free(requests);
	return rc;
}
