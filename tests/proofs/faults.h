/* What faults.c, which lets calls fail and looks at what is left, has of the operations. */
#ifndef PROOFS_FAULTS_H
#define PROOFS_FAULTS_H

#include "proofs/letters.h"

enum { SMALL = 200, LARGE = 6000, IN_TWO_BLOCKS = (256 << 10) + 20000, OTHERS = 4 };

/* X(name, what people call it): a cache for each */
#define PLACES_OF(X)                    \
	X(ROWS, "rows")                 \
	X(FILES, "files")               \
	X(ROWS_BEHIND, "rows behind")   \
	X(FILES_BEHIND, "files behind") \
	X(MEMORY, "memory")             \
	X(FORM, "form")                 \
	X(BLOCKS, "blocks")

enum place {
#define X(name, text) name,
	PLACES_OF(X)
#undef X
	    PLACE_COUNT
};

enum {
	IN_ROWS = 1 << ROWS,
	IN_FILES = 1 << FILES,
	IN_BLOCKS = 1 << BLOCKS,
	THROUGH = IN_ROWS | IN_FILES,
	BEHIND = 1 << ROWS_BEHIND | 1 << FILES_BEHIND,
	DISK = THROUGH | BEHIND,
	ALL = DISK | 1 << MEMORY | 1 << FORM, /* but the large one, which is slower */
};

struct opened {
	const char *dir;  /* of the case: the store, a source, whatever an operation wants */
	enum place place; /* of the cache */
	terrace *store;
	terrace_cache *cache;
};

struct operation {
	const char *name;
	int (*run)(struct opened *o);
	const char *done; /* the letters that "key" may have when it did not fail; ' ': none */
	unsigned places;
	char before; /* what "key" has before: 'o', or 0: it is not there */
	bool drops_others;
	bool counts;    /* "number" is 6 afterwards, not 5 */
	bool must;      /* a system call that fails must not make it fail */
	bool waits;     /* behind, what it puts is written later, or cannot be */
	bool opens;     /* it opens and closes the store itself */
	bool new_store; /* one that has never been there */
	bool damages;   /* what it prepares is damaged, and may be so still */
	/* Before anything fails: what it needs, and warm or not is up to it. */
	void (*prepare)(struct opened *o);
};

/* A file's operations. */
struct operation_table {
	const struct operation *operations;
	size_t count;
};
extern const struct operation_table basic_operations, more_operations, own_operations,
    stream_operations, damage_operations;

/* Say what a read gave: it may miss, it may not lie. */
int expect(const char *what, int rc, const terrace_value *value, const char *letters);
int release(int rc, terrace_value *value);

/* Is it a full disk that is tried, where anything may go? */
bool may_evict(void);

/* A lie, or another broken promise: what is said and where we are. */
void lie(const char *what, const char *detail);

int open_store(struct opened *o);
int open_cache(struct opened *o);
void close_store(struct opened *o);
int put(struct opened *o, const char *key, char letter);
/* Open both, put "key" anew, and close. */
int open_and_put(struct opened *o);
size_t size_in(enum place place);
/* The value of "key" with this letter; what is in blocks repeats itself after LARGE bytes. */
terrace_slice value_in(enum place place, char letter);
char letter_of_bytes(terrace_slice bytes);
char letter_of_value(const terrace_value *value);
const char *other(int i, char ret[16]);

/* For what prepares an operation: it may not fail. */
void must(const char *what, int rc);
/* A path in the case's directory; four of them are good at a time. */
const char *in_dir(const struct opened *o, const char *name);
/* All of a file, or what it has there. */
void write_text(const char *path, off_t at, const char *text);

#endif
