/* A scan under way; for the files that work on it. */
#ifndef REPOMAP_SCAN_H
#define REPOMAP_SCAN_H

#include "repomap/parts.h"

enum { SOURCE_MAX = 4 << 20 }; /* larger files are no source that people wrote */

enum { FILE_FRESH = 8 }; /* counted already: parsed, or from the tag cache */

/* A file as the manifest knows it. Host byte order: a store does not leave its machine. */
struct record {
	struct mark mark;
	terrace_digest digest;
	uint32_t path_at, path_size;
	uint32_t first_tag, tag_count; /* in the snapshot */
	uint8_t language, flags, skip, unused[5];
};

struct manifest_head {
	uint32_t magic, file_count, paths_size, unused;
	uint64_t languages[LANGUAGES];
	terrace_digest listing, state, paths;
};

struct manifest {
	const struct manifest_head *head;
	const struct record *records;
	const char *paths;
};

enum work {
	WORK_NONE,
	WORK_CHECK, /* read it: its times say too little */
	WORK_TAGS,  /* from the tag cache, or by parsing */
};

struct scan {
	struct repomap *map;
	int root_fd;
	int64_t now;
	bool has_old, changed;
	struct manifest old;
	struct listing listing;
	struct file *files; /* absent ones included */
	const struct record **olds;
	size_t count, adopted;

	struct task {
		size_t index;
		enum work work;
		terrace_value *value; /* the packed tags: from the cache, */
		struct text text;     /* or as parsed */
		struct tags tags;
		void *aligned;
		bool has_tags, checked; /* the file was read: its digest is known */
	} * work;
	size_t work_count, work_capacity;
};

/* --- work.c ---------------------------------------------------------------------------- */

void scan_add_work(struct scan *s, size_t index, enum work work);
/* Do it all, with threads, and give every file its tags. TERRACE_MISS: cancelled. */
int scan_work(struct scan *s, struct repomap_progress *progress);
void scan_done(struct scan *s);

/* --- manifest.c -------------------------------------------------------------------------- */

bool manifest_load(struct repomap *map, struct manifest *ret);
void manifest_store(struct scan *s);
/* The tags of every file of the manifest; false where the snapshot is not of its state. */
bool snapshot_load(struct repomap *map, const terrace_digest *state);
/* What a record's tags are, in a loaded snapshot. */
bool snapshot_tags(const struct repomap *map, const struct record *record, struct file *file);

/* "repomap:CATEGORY:IDENTIFIER[:VERSION]"; free with terrace_key_free(). */
terrace_slice key_of(const char *category, terrace_slice identifier, const char *version);
/* The bytes of a value, aligned to 8: in place, or in *ret_copy. */
terrace_slice aligned_bytes(terrace_value *value, void **ret_copy);

#endif
