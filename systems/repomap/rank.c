/*
 * Who references whom, and what that makes important: PageRank with
 * personalisation (Brin and Page 1998; Haveliwala 2002) over files.
 *
 * An identifier makes an edge from every file that references it to every file
 * that defines it, with a weight that depends on the referencing file alone. So
 * no edge is ever written down: a round gathers, for each identifier, what its
 * references give, and hands that to each of its definers. That is linear in
 * the tags, where edges would be quadratic in a popular name.
 */
#include "repomap/parts.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <wctype.h>

static const double damping = 0.85, tolerance = 1e-6, self_weight = 0.1;
enum { ROUNDS_MAX = 100, POPULAR = 5, LONG_NAME = 8 };

/* A file and an identifier. */
struct pair {
	uint32_t file, name;
	uint32_t count; /* of tags */
	uint32_t first; /* of a definition: its place in `lines` */
};

struct graph {
	struct pair *refs, *defs; /* by file; refs only of names that somebody defines */
	size_t ref_count, def_count, ref_capacity, def_capacity;
	uint32_t *definers;  /* of each name: how many files */
	uint8_t *referenced; /* of each name */
	uint8_t *member;     /* of each file: it is in the graph */
	double *multiplier;  /* of each name, mentions aside */
	size_t members;
	uint32_t *lines; /* of all definitions, pair by pair */
};

/* --- names ------------------------------------------------------------------------------------ */

static uint32_t next_code_point(const uint8_t **at)
{
	uint32_t first = *(*at)++, value = first;
	int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : first >= 0xC0 ? 1 : 0;

	if (more)
		value = first & (0x3Fu >> more);
	while (more-- > 0)
		value = value << 6 | (*(*at)++ & 0x3F);
	return value;
}

/* Snake, kebab or camel case, of eight or more characters. */
static bool is_telling(terrace_slice name, locale_t locale)
{
	const uint8_t *at = name.data, *end = at + name.size;
	bool alpha = false, upper = false, lower = false, joint = false;
	size_t length = 0;

	for (; at < end; length++) {
		wint_t c = next_code_point(&at);

		joint |= c == '_' || c == '-';
		if (c < 128) {
			upper |= c >= 'A' && c <= 'Z';
			lower |= c >= 'a' && c <= 'z';
		} else {
			alpha |= iswalpha_l(c, locale) != 0;
			upper |= iswupper_l(c, locale) != 0;
			lower |= iswlower_l(c, locale) != 0;
		}
	}
	alpha |= upper || lower;
	return length >= LONG_NAME && ((joint && alpha) || (upper && lower));
}

static void weigh_names(struct repomap *map, struct graph *graph)
{
	locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);

	if (!locale)
		locale = newlocale(LC_CTYPE_MASK, "C", (locale_t)0);
	for (uint32_t i = 0; i < map->names.count; i++) {
		terrace_slice name = map->names.list[i];
		double m = 1;

		if (!graph->definers[i] || !graph->referenced[i])
			continue;
		if (is_telling(name, locale))
			m *= 10;
		if (name.size && *(const char *)name.data == '_')
			m *= 0.1;
		if (graph->definers[i] > POPULAR)
			m *= 0.1;
		graph->multiplier[i] = m;
	}
	freelocale(locale);
}

/* --- the graph ------------------------------------------------------------------------------------ */

static void add_pair(struct pair **pairs, size_t *count, size_t *capacity, size_t *last,
                     uint32_t file, uint32_t name)
{
	/* last[name] is one more than the index of the name's latest pair. */
	if (last[name] && (*pairs)[last[name] - 1].file == file) {
		(*pairs)[last[name] - 1].count++;
		return;
	}
	*pairs = rm_grow(*pairs, capacity, *count + 1, sizeof **pairs);
	(*pairs)[(*count)++] = (struct pair){ file, name, 1, 0 };
	last[name] = *count;
}

static void find_members(struct repomap *map, struct graph *graph)
{
	size_t kept = 0;

	for (size_t i = 0; i < graph->def_count; i++)
		graph->member[graph->defs[i].file] = 1;
	for (size_t i = 0; i < graph->ref_count; i++) {
		if (!graph->definers[graph->refs[i].name])
			continue;
		graph->member[graph->refs[i].file] = 1;
		graph->refs[kept++] = graph->refs[i];
	}
	graph->ref_count = kept;
	for (size_t i = 0; i < map->file_count; i++)
		graph->members += graph->member[i];
}

/* The lines of each pair's tags, in order: a file may define a name many times. */
static void place_lines(const struct repomap *map, struct graph *graph)
{
	size_t *pair_of = rm_take(map->names.count, sizeof *pair_of);
	uint32_t *filled = rm_take(graph->def_count, sizeof *filled), total = 0;
	size_t next = 0;

	for (size_t i = 0; i < graph->def_count; i++) {
		graph->defs[i].first = total;
		total += graph->defs[i].count;
	}
	graph->lines = rm_take(total, sizeof *graph->lines);
	for (uint32_t i = 0; i < map->file_count; i++) {
		size_t end = next;

		for (; end < graph->def_count && graph->defs[end].file == i; end++)
			pair_of[graph->defs[end].name] = end;
		for (uint32_t n = 0; n < map->files[i].tag_count; n++) {
			const struct tag *tag = &map->files[i].tags[n];
			size_t pair = pair_of[tag->name];

			if (!(tag->line_kind & 1))
				graph->lines[graph->defs[pair].first + filled[pair]++] =
				    tag->line_kind / 2;
		}
		next = end;
	}
	free(pair_of);
	free(filled);
}

static struct graph *graph_make(struct repomap *map)
{
	struct graph *graph = rm_take(1, sizeof *graph);
	size_t *last_ref = rm_take(map->names.count, sizeof *last_ref);
	size_t *last_def = rm_take(map->names.count, sizeof *last_def);

	for (uint32_t i = 0; i < map->file_count; i++) {
		const struct file *file = &map->files[i];

		for (uint32_t n = 0; n < file->tag_count; n++) {
			const struct tag *tag = &file->tags[n];

			if (tag->line_kind & 1)
				add_pair(&graph->refs, &graph->ref_count, &graph->ref_capacity,
				         last_ref, i, tag->name);
			else
				add_pair(&graph->defs, &graph->def_count, &graph->def_capacity,
				         last_def, i, tag->name);
		}
	}
	graph->definers = rm_take(map->names.count, sizeof *graph->definers);
	graph->referenced = rm_take(map->names.count, 1);
	graph->multiplier = rm_take(map->names.count, sizeof *graph->multiplier);
	graph->member = rm_take(map->file_count, 1);
	for (size_t i = 0; i < graph->def_count; i++)
		graph->definers[graph->defs[i].name]++;
	for (size_t i = 0; i < graph->ref_count; i++)
		graph->referenced[graph->refs[i].name] = 1;
	place_lines(map, graph);
	find_members(map, graph);
	weigh_names(map, graph);
	free(last_ref);
	free(last_def);
	return graph;
}

void graph_free(struct graph *graph)
{
	if (!graph)
		return;
	free(graph->refs);
	free(graph->defs);
	free(graph->definers);
	free(graph->referenced);
	free(graph->multiplier);
	free(graph->member);
	free(graph->lines);
	free(graph);
}

/* --- personalised weights ------------------------------------------------------------------------- */

struct weights {
	double *ref;    /* of each reference pair: what it gives to each definer */
	double *out;    /* of each file: all that goes out */
	double *person; /* of each file; sums to 1 over the graph */
	double *shares; /* of each name: what its references gather, to each definer */
	double *ranks;
};

static void add_self_edges(const struct graph *graph, double *out)
{
	for (size_t i = 0; i < graph->def_count; i++) {
		if (!graph->referenced[graph->defs[i].name])
			out[graph->defs[i].file] += self_weight;
	}
}

static void weigh(struct repomap *map, const struct marks *marks, struct weights *w)
{
	const struct graph *graph = map->graph;
	uint8_t *mentioned = rm_take(map->names.count, 1);

	for (size_t i = 0; i < marks->mention_count; i++) {
		uint32_t name = words_find(&map->names, terrace_str(marks->mentions[i]));

		if (name != UINT32_MAX)
			mentioned[name] = 1;
	}
	w->ref = rm_take(graph->ref_count, sizeof *w->ref);
	w->out = rm_take(map->file_count, sizeof *w->out);
	for (size_t i = 0; i < graph->ref_count; i++) {
		const struct pair *ref = &graph->refs[i];
		double m = graph->multiplier[ref->name];

		if (mentioned[ref->name])
			m *= 10;
		if (marks->chat[ref->file])
			m *= 50;
		w->ref[i] = m * sqrt(ref->count);
		w->out[ref->file] += w->ref[i] * graph->definers[ref->name];
	}
	add_self_edges(graph, w->out);
	free(mentioned);
}

static void personalise(struct repomap *map, const struct marks *marks, struct weights *w)
{
	double one = 100.0 / (double)map->file_count, sum = 0;

	w->person = rm_take(map->file_count, sizeof *w->person);
	for (size_t i = 0; i < map->file_count; i++) {
		if (!map->graph->member[i])
			continue;
		if (marks->chat[i] || marks->mentioned[i] & 1)
			w->person[i] += one;
		if (marks->mentioned[i] & 2)
			w->person[i] += one;
		sum += w->person[i];
	}
	for (size_t i = 0; i < map->file_count; i++) {
		if (sum > 0)
			w->person[i] /= sum;
		else if (map->graph->member[i])
			w->person[i] = 1.0 / (double)map->graph->members;
	}
}

/* What each name's references give when the files have these ranks. */
static void gather_shares(const struct repomap *map, struct weights *w)
{
	const struct graph *graph = map->graph;

	memset(w->shares, 0, map->names.count * sizeof *w->shares);
	for (size_t i = 0; i < graph->ref_count; i++) {
		const struct pair *ref = &graph->refs[i];

		w->shares[ref->name] += w->ranks[ref->file] * w->ref[i] / w->out[ref->file];
	}
}

/* What a definition gets: of the references, or of its own file where there are none. */
static double share_of(const struct graph *graph, const struct weights *w, const struct pair *def)
{
	if (graph->referenced[def->name])
		return w->shares[def->name];
	return w->ranks[def->file] * self_weight / w->out[def->file];
}

static void page_rank(const struct repomap *map, struct weights *w)
{
	const struct graph *graph = map->graph;
	double *next = rm_take(map->file_count, sizeof *next), error = 1;

	for (size_t i = 0; i < map->file_count; i++)
		w->ranks[i] = graph->member[i] ? 1.0 / (double)graph->members : 0;
	for (int round = 0; round < ROUNDS_MAX && error >= (double)graph->members * tolerance;
	     round++) {
		double dangling = 0;

		gather_shares(map, w);
		memset(next, 0, map->file_count * sizeof *next);
		for (size_t i = 0; i < graph->def_count; i++)
			next[graph->defs[i].file] += share_of(graph, w, &graph->defs[i]);
		for (size_t i = 0; i < map->file_count; i++) {
			if (graph->member[i] && w->out[i] == 0)
				dangling += w->ranks[i];
		}
		error = 0;
		for (size_t i = 0; i < map->file_count; i++) {
			double rank = damping * (next[i] + dangling * w->person[i]) +
			              (1 - damping) * w->person[i];

			error += fabs(rank - w->ranks[i]);
			w->ranks[i] = rank;
		}
	}
	free(next);
}

/* --- the order of definitions ------------------------------------------------------------------------- */

struct scored {
	int64_t score; /* the rank in units of 1e-10 */
	uint32_t file, name;
	uint32_t first, count; /* its lines in the graph's */
};

static int compare_names(const struct words *names, uint32_t a, uint32_t b)
{
	terrace_slice one = names->list[a], two = names->list[b];
	int order = memcmp(one.data, two.data, one.size < two.size ? one.size : two.size);

	return order ? order : one.size < two.size ? -1 : one.size > two.size;
}

/* Descending by score, file and name. Files are numbered by name. */
static int by_score(const void *one, const void *two, void *names)
{
	const struct scored *a = one, *b = two;

	if (a->score != b->score)
		return a->score > b->score ? -1 : 1;
	if (a->file != b->file)
		return a->file > b->file ? -1 : 1;
	return a->name == b->name ? 0 : -compare_names(names, a->name, b->name);
}

static void swap(struct scored *a, struct scored *b)
{
	struct scored kept = *a;

	*a = *b;
	*b = kept;
}

/* Move the `count` first in order to the front, themselves in no order (Hoare's find). */
static void select_first(struct scored *items, size_t size, size_t count, struct words *names)
{
	size_t low = 0, high = size;

	while (high - low > 1 && count > low && count < high) {
		struct scored pivot = items[low + (high - low) / 2];
		size_t i = low, j = high - 1;

		for (;;) {
			while (by_score(&items[i], &pivot, names) < 0)
				i++;
			while (by_score(&items[j], &pivot, names) > 0)
				j--;
			if (i >= j)
				break;
			swap(&items[i++], &items[j--]);
		}
		if (count <= i)
			high = i;
		else
			low = i == j ? i + 1 : i; /* where they meet is the pivot, in its place */
	}
}

/* All tags that define a name in a file, by line. */
static void put_items(struct ranking *ranking, const struct scored *scored)
{
	const uint32_t *lines = ranking->map->graph->lines + scored->first;

	for (uint32_t i = 0; i < scored->count; i++)
		ranking->items[ranking->sorted_count++] = (struct item){ scored->file, lines[i] };
}

void ranking_sort(struct ranking *ranking, size_t count)
{
	struct words *names = &ranking->map->names;

	while (ranking->sorted_count < count) {
		size_t from = ranking->scored_sorted, left = ranking->scored_count - from;
		size_t want = count - ranking->sorted_count;

		if (left == 0) {
			memcpy(ranking->items + ranking->sorted_count, ranking->tail,
			       ranking->tail_count * sizeof *ranking->tail);
			ranking->sorted_count += ranking->tail_count;
			return;
		}
		if (want > left)
			want = left;
		select_first(ranking->scored + from, left, want, names);
		qsort_r(ranking->scored + from, want, sizeof *ranking->scored, by_score, names);
		for (size_t i = 0; i < want; i++)
			put_items(ranking, &ranking->scored[from + i]);
		ranking->scored_sorted += want;
	}
}

static int tail_order(const void *one, const void *two)
{
	const struct scored *a = one, *b = two;

	if (a->score != b->score)
		return a->score > b->score ? -1 : 1;
	return a->score < 0 ? (a->file < b->file ? -1 : a->file > b->file) :
	                      (a->file > b->file ? -1 : a->file < b->file);
}

/* Files without a definition in the list: those in the graph by rank, the others by name. */
static void list_tail(struct ranking *ranking, const uint8_t *listed)
{
	const struct repomap *map = ranking->map;
	struct scored *files = rm_take(map->file_count, sizeof *files);
	size_t count = 0;

	for (uint32_t i = 0; i < map->file_count; i++) {
		double rank = ranking->ranks[i];

		if (listed[i] || ranking->marks->chat[i])
			continue;
		files[count++] = (struct scored){ .score = rank < 0 ? -1 :
			                                              (int64_t)rint(rank * 1e10),
			                          .file = i };
	}
	qsort(files, count, sizeof *files, tail_order);
	ranking->tail = rm_take(count, sizeof *ranking->tail);
	for (size_t i = 0; i < count; i++)
		ranking->tail[ranking->tail_count++] = (struct item){ files[i].file, UINT32_MAX };
	free(files);
}

static void list_definitions(struct ranking *ranking, const struct weights *w)
{
	const struct graph *graph = ranking->map->graph;
	uint8_t *listed = rm_take(ranking->map->file_count, 1);

	ranking->scored = rm_take(graph->def_count, sizeof *ranking->scored);
	for (size_t i = 0; i < graph->def_count; i++) {
		const struct pair *def = &graph->defs[i];

		if (ranking->marks->chat[def->file])
			continue;
		listed[def->file] = 1;
		ranking->scored[ranking->scored_count++] =
		    (struct scored){ (int64_t)rint(share_of(graph, w, def) * 1e10), def->file,
			             def->name, def->first, def->count };
		ranking->item_count += def->count;
	}
	list_tail(ranking, listed);
	ranking->item_count += ranking->tail_count;
	ranking->items = rm_take(ranking->item_count, sizeof *ranking->items);
	free(listed);
}

void rank(struct repomap *map, const struct marks *marks, struct ranking *ret)
{
	struct weights w = { 0 };

	if (!map->graph)
		map->graph = graph_make(map);
	*ret = (struct ranking){ .map = map, .marks = marks };
	w.ranks = rm_take(map->file_count, sizeof *w.ranks);
	w.shares = rm_take(map->names.count, sizeof *w.shares);
	if (map->names.count && !map->names.table)
		words_index(&map->names); /* mentions are looked up */
	weigh(map, marks, &w);
	personalise(map, marks, &w);
	page_rank(map, &w);
	gather_shares(map, &w);
	ret->ranks = w.ranks;
	for (size_t i = 0; i < map->file_count; i++) {
		if (!map->graph->member[i])
			ret->ranks[i] = -1;
	}
	list_definitions(ret, &w);
	free(w.ref);
	free(w.out);
	free(w.person);
	free(w.shares);
}

void ranking_done(struct ranking *ranking)
{
	free(ranking->ranks);
	free(ranking->items);
	free(ranking->scored);
	free(ranking->tail);
}
