/* The parts of a repository map, for the files of this folder. */
#ifndef REPOMAP_PARTS_H
#define REPOMAP_PARTS_H

#include "repomap/repomap.h"

/* One warning for people on standard error. */
void rm_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- memory.c ------------------------------------------------------------------------------ */

/* For measuring how long something takes. */
uint64_t rm_clock_ns(void);

/* Never NULL: where memory ends, so does the process, with a message. Zeroed. */
void *rm_take(size_t count, size_t item);
/* Room for at least `needed` items, doubling. */
void *rm_grow(void *array, size_t *capacity, size_t needed, size_t item);

struct text {
	char *data;
	size_t size, capacity;
};
void text_add(struct text *text, const void *data, size_t size);
void text_str(struct text *text, const char *string);
void text_u32(struct text *text, uint32_t value);
void text_done(struct text *text);

/* Interned strings; the bytes are borrowed unless they were copied by words_copy(). */
struct words {
	terrace_slice *list;
	uint32_t count;
	uint32_t *table; /* of indices + 1; 0 is empty */
	uint32_t mask;
	size_t capacity;
	struct text **chunks; /* of copies */
	size_t chunk_count, chunk_capacity;
};
/* The number of a string, added where it is new; copied when `copy`. */
uint32_t words_add(struct words *names, terrace_slice name, bool copy);
/* UINT32_MAX when it is not there. */
uint32_t words_find(const struct words *names, terrace_slice name);
/* Add without looking: the list is known to have no duplicates. words_index() must follow. */
void words_append(struct words *names, terrace_slice name);
void words_index(struct words *names);
void words_done(struct words *names);

/* How many code points; the size of the first `count` of them. */
size_t utf8_count(const char *data, size_t size);
size_t utf8_prefix(const char *data, size_t size, size_t count);
/* Write '?' over each byte that is not UTF-8. Was there any? */
bool utf8_mend(char *data, size_t size);

/* --- language.c ------------------------------------------------------------------------------ */

enum { LANGUAGES = 10 }; /* number 0 is none */

struct grammars;
struct grammar; /* grammar.h */
/* What extensions mean; opens nothing. */
struct grammars *grammars_new(void);
void grammars_free(struct grammars *grammars);
/* The language of a file by its name: 0 for none that we know. */
unsigned language_of(const char *path);
const char *language_name(unsigned language);
/* Changes when the grammar does; 0: there is none here. */
uint64_t language_id(const struct grammars *grammars, unsigned language);
/* TERRACE_OK, or why there is no parsing this language, said once to people. */
int grammar_get(struct grammars *grammars, unsigned language, const struct grammar **ret);

/* --- tags.c ------------------------------------------------------------------------------------ */

/*
 * The tags of a file, packed: what the tag cache holds. All that a map ever shows
 * of the file is in it, so that rendering reads no file and no later state.
 */
struct tag_item {
	uint32_t name_at, name_size;
	uint32_t line_kind; /* twice the line from 0, and 1 for a reference */
};
struct tag_scope {
	uint32_t start, header_end, end; /* lines */
};
struct tag_line {
	uint32_t line, at, size;
};
enum { TAGS_VERSION = 1 }; /* changes with the layout, and with what tags are */
struct tags {
	terrace_digest digest; /* of the file's content */
	bool mended;           /* it is not UTF-8 */
	uint32_t line_count, tag_count, scope_count, shown_count;
	const struct tag_item *items;   /* by place in the file */
	const struct tag_scope *scopes; /* by start */
	const struct tag_line *shown;   /* every line that a map could show, by line */
	const char *names, *texts;
};
/* False for bytes that are no packed tags. What *ret points to is in `packed`, aligned to 4. */
bool tags_unpack(terrace_slice packed, struct tags *ret);

/* A parser for one thread. */
struct tagger;
struct tagger *tagger_new(void);
void tagger_free(struct tagger *tagger);
/* TERRACE_OK with packed tags; TERRACE_EBUSY when it takes too long. */
int tagger_run(struct tagger *tagger, const struct grammar *grammar, const char *source,
               size_t size, const terrace_digest *digest, bool mended, struct text *ret);

/* --- files.c --------------------------------------------------------------------------------- */

/* The names of a repository's files, each ended by NUL, sorted or not. */
struct listing {
	struct text names;
	terrace_digest digest;
};
/* Ask git, or walk: begin early, finish later. */
struct lister;
struct lister *listing_begin(const char *root);
/* 0, or an errno. */
int listing_finish(struct lister *lister, struct listing *ret);

/* --- ignore.c --- what .gitignore says, where there is no git ------------------------------------ */

struct ignore;
/* The rules of a .gitignore of `folder` (relative, "" for the root), before those of its parent. */
struct ignore *ignore_read(int dir_fd, const char *folder, const struct ignore *parent);
void ignore_free(struct ignore *ignore);
bool ignore_matches(const struct ignore *ignore, const char *path, bool is_dir);

/* --- scan.c -------------------------------------------------------------------------------------- */

enum skip {
	SKIP_NONE,
	SKIP_LARGE,
	SKIP_BINARY,
	SKIP_UNREADABLE,
	SKIP_GRAMMAR,
	SKIP_SLOW,
	SKIP_CRASHED
};
enum { FILE_RACY = 1, FILE_ABSENT = 2, FILE_MENDED = 4 };

struct mark {
	uint64_t size;
	int64_t mtime_ns, ctime_ns;
	uint64_t inode;
};

struct tag {
	uint32_t name;
	uint32_t line_kind;
};

/* Packed tags that this process has had in hand. */
struct held_tags {
	struct tags tags;
	terrace_value *value; /* they are in here, */
	struct text text;     /* or here */
	void *aligned;        /* or here */
};

struct file {
	const char *path;
	uint32_t path_size;
	uint8_t language, flags, skip;
	struct mark mark;
	terrace_digest digest;
	const struct tag *tags;
	uint32_t tag_count;
	struct held_tags *held; /* NULL: in the cache */
};

struct repomap {
	struct repomap_spec spec;
	char *root; /* absolute, links resolved */
	terrace_cache *files_cache, *tags_cache, *maps_cache, *trees_cache;
	char *store_below; /* the store's directory, relative, when it lies within the root */
	struct grammars *grammars;
	struct repomap_counters counters;
	uint64_t started_ns;

	bool scanned;
	struct file *files; /* by name */
	size_t file_count;
	terrace_digest state; /* of all that maps are made from */
	terrace_digest paths; /* of the names alone */

	bool has_tags; /* files[].tags and names are there */
	struct words names;
	struct graph *graph;
	/* What files and names point into. */
	terrace_value *manifest, *snapshot;
	void *manifest_copy, *snapshot_copy;
	const struct tag *snapshot_tags;
	uint32_t snapshot_tag_count;
	struct text path_bytes;
	struct tag *own_tags;
	struct held_tags **held;
	size_t held_count, held_capacity;
	bool unstable; /* a file changed between its tags and its lines: keep nothing */
};

int scan(struct repomap *map, struct repomap_progress *progress);
/* Files and tags as the last scan of any process left them. False where there are none. */
bool scan_recall(struct repomap *map);
/* After a scan that found nothing changed and was not asked for the tags: give the files theirs. */
int scan_need_tags(struct repomap *map);
void scan_forget(struct repomap *map);
/*
 * The packed tags of one file as it was scanned: as this process had them, from
 * the cache, or parsed again. NULL when it has changed since. The map's.
 */
const struct tags *scan_tags_of(struct repomap *map, struct file *file);
size_t find_file(const struct repomap *map, const char *path, size_t size);

/* --- child.c -------------------------------------------------------------------------------------- */

/* As tagger_run(); in a child process where the file is large. TERRACE_EFORMAT: it did not survive. */
int tag_source(struct tagger *tagger, const struct grammar *grammar, const struct text *source,
               const struct file *file, struct text *ret);

/* --- rank.c ---------------------------------------------------------------------------------------- */

struct marks {
	uint8_t *chat;      /* for each file */
	uint8_t *mentioned; /* for each file: 1 file, 2 by identifier */
	const char *const *mentions;
	size_t mention_count;
};

/* A definition in order of rank; a whole file when line is UINT32_MAX. */
struct item {
	uint32_t file, line;
};

struct ranking {
	double *ranks; /* for each file; negative: not in the graph */
	struct item *items;
	size_t item_count, sorted_count;
	struct scored *scored; /* what items come from, beyond what is sorted */
	size_t scored_count, scored_sorted;
	struct repomap *map;
	const struct marks *marks;
	struct item *tail; /* whole files */
	size_t tail_count;
};

void graph_free(struct graph *graph);
void rank(struct repomap *map, const struct marks *marks, struct ranking *ret);
/* Make items[0 .. count) stand; count is at most item_count. */
void ranking_sort(struct ranking *ranking, size_t count);
void ranking_done(struct ranking *ranking);

/* --- render.c ------------------------------------------------------------------------------------- */

/* The lines of a file with the headers around them, as in a map. */
void render_lines(const struct tags *tags, const uint32_t *lines, size_t count, struct text *ret);
/* The best map within the budget. */
void render_map(struct repomap *map, struct ranking *ranking, uint64_t budget, struct text *ret,
                uint64_t *ret_tokens);
uint64_t count_tokens(const struct repomap *map, const char *text, size_t size);

#endif
