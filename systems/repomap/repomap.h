/*
 * Repository maps: what matters in a code base, in milliseconds the second time.
 *
 * Tags (definitions and references) of every file by tree-sitter, files ranked
 * by personalised PageRank over who references whom, and the definitions that
 * rank highest as a tree of source lines within a budget of tokens.
 *
 * On Terrace's public headers alone. Caches: repomap.files has what each
 * repository looked like, repomap.tags the tags of each file, repomap.maps maps
 * and ranks, repomap.trees the lines of a file as they stand in maps.
 */
#ifndef REPOMAP_REPOMAP_H
#define REPOMAP_REPOMAP_H

#include <terrace/terrace.h>

#include <stdatomic.h>
#include <stdio.h>

/* When a map that was made before is good enough. */
enum repomap_refresh {
	REPOMAP_AUTO,   /* as FILES, and mentions make another map */
	REPOMAP_FILES,  /* until a file changes; mentions are not looked at */
	REPOMAP_MANUAL, /* always, without a look at any file */
	REPOMAP_ALWAYS, /* never */
};

/* What a map is for. Everything is borrowed. */
struct repomap_context {
	const char *const *chat; /* files in the conversation; from DIR, or from here */
	size_t chat_count;
	const char *const *mention_files;
	size_t mention_file_count;
	const char *const *mentions; /* identifiers */
	size_t mention_count;
	bool has_tokens;
	uint64_t tokens; /* the budget; default: 1,024, or 8,192 without chat */
};

struct repomap_spec {
	const char *dir;
	enum repomap_refresh refresh;
	unsigned threads;      /* 0: as many as processors */
	const char *tokenizer; /* a shell command that counts the tokens of its input; NULL */
	bool want_tags;        /* repomap_write_json() will be called */
};

/* What happened. X(name, what) */
#define REPOMAP_COUNTERS(X)                                                       \
	X(files, "files looked at")                                               \
	X(parsed, "files parsed")                                                 \
	X(from_l1, "files whose tags came from memory")                           \
	X(from_l2, "files whose tags came from SQLite")                           \
	X(from_l3, "files whose tags came from files")                            \
	X(skipped, "files that could be no part of the map: all of the next six") \
	X(too_large, "over 4 MiB")                                                \
	X(binary, "with NUL bytes")                                               \
	X(unreadable, "that could not be opened or read")                         \
	X(no_grammar, "whose grammar did not load")                               \
	X(too_slow, "that took over 30 s to parse")                               \
	X(crashed, "that the parser could not survive")                           \
	X(not_utf8, "files read with '?' for bytes that are not UTF-8")

struct repomap_counters {
#define X(name, what) uint64_t name;
	REPOMAP_COUNTERS(X)
#undef X
	double milliseconds;
	bool map_cached; /* the map itself was not made anew */
};

/* How far a scan is; written by it, read by anybody. */
struct repomap_progress {
	_Atomic uint64_t total, done; /* files to look into */
	_Atomic bool cancel;          /* set it, and the scan ends soon */
};

struct repomap_map {
	char *text;
	size_t size;
	uint64_t tokens;
	struct repomap_rank {
		const char *file;
		double rank;
	} * ranks; /* by name */
	size_t rank_count;
	bool cached;
	void *owned;
};

typedef struct repomap repomap;

/*
 * Look at a repository. store may be NULL: nothing is cached.
 *
 * Returns: TERRACE_OK; TERRACE_EINVAL, TERRACE_EACCESS, TERRACE_EIO with
 *          terrace_error_message(). Memory running out ends the process.
 */
int repomap_open(terrace *store, const struct repomap_spec *spec, repomap **ret);
void repomap_close(repomap *map);

/*
 * Bring the tags up to date: repomap_maps() does it where it must; by itself it
 * warms the cache. TERRACE_MISS when it was cancelled.
 */
int repomap_scan(repomap *map, struct repomap_progress *progress);

/*
 * The maps of many contexts; what is cached is got in one call. The caller frees
 * each with repomap_map_free(). TERRACE_OK or as repomap_open().
 */
int repomap_maps(repomap *map, const struct repomap_context *contexts, size_t count,
                 struct repomap_map *ret);
void repomap_map_free(struct repomap_map *map);

/* After repomap_maps(): tags, ranks, map, tokens and counters, as one JSON object. */
int repomap_write_json(repomap *map, const struct repomap_map *maps, size_t count, bool batch,
                       FILE *out);

const struct repomap_counters *repomap_counted(repomap *map);

/* "auto", ... ; -1 for another word. */
int repomap_parse_refresh(const char *word);

#endif
