/*
 * What the parts of the oracle share: what is tried, the log of what was written,
 * and the check of what is read. oracle.c says how it works.
 */
#ifndef PROOFS_ORACLE_H
#define PROOFS_ORACLE_H

#include "proofs/proofs.h"

enum {
	KEYS = 160,         /* of a cache; a multiple of 8 */
	CANDIDATES = 30000, /* numbers that they may have */
	GROUPS = 4,         /* of keys: a prefix, a tag and a source each */
	REMEMBERED = 1 << 13,
	PROCESSES_MAX = 8,
	THREADS_MAX = 8,
	VALUE_MAX = 6000,
	PUT_AT_ONCE = 4,
	ACTIONS_MAX = 20,
	STEPS_PER_MS = 16, /* how fast the store's clock goes */
	FULL_OF_1000 = 10, /* operations of the mix in memory that are of the full one */
};

/* --- what is tried ------------------------------------------------------------------------------- */

struct kind {
	const char *name;
	unsigned tiers;
	terrace_write write;
	uint64_t memory_bytes;
	uint64_t disk_entries;
	terrace_codec codec;
	unsigned light; /* how many of the operations in memory it has, beside the others */
};

enum {
	KINDS = 9,
	MEMORY_KINDS = 2, /* the first ones: in memory alone */
	TOLD = 1,         /* the one whose events are listened to: it evicts most */
};
extern const struct kind kinds[KINDS];

/* What was asked for. */
extern struct asked {
	char directory[256];
	uint64_t seed, operations;
	int processes, threads;
	bool mostly_memory;
} asked;
extern int process_number; /* of this one; -1: the one that looks at the end */

/* --- the log: shared -------------------------------------------------------------------------------- */

enum verb { PUT, ADD, PUT_MANY, PUT_TAGGED, FETCH, DELETE, DELETE_MANY, CLEAR, GLOB, PREFIX, ALL };

struct version {
	_Atomic uint32_t number; /* which of those that fall on this place */
	_Atomic uint32_t author;
	_Atomic uint64_t began, ended;
	_Atomic int64_t expires; /* 0: never, or not known yet */
};

struct key_log {
	_Atomic uint32_t next; /* version */
	/* The latest beginning of a write that has ended, and its author below. */
	_Atomic uint64_t overwritten;
	/* A touch gives whatever it finds another time to live. */
	_Atomic uint64_t touched;
	_Atomic int touching;
	struct version versions[REMEMBERED];
};

/* What a thread is writing, so that its end can be noted for it when it is killed. */
struct worker_log {
	_Atomic uint32_t cache;
	_Atomic int count;
	_Atomic uint32_t keys[PUT_AT_ONCE], versions[PUT_AT_ONCE];
};

struct tally {
	_Atomic uint64_t gets, hits, fetches, writes;
};

extern struct log {
	_Atomic uint64_t clock;
	_Atomic uint64_t operations;
	_Atomic int64_t now_ms; /* the store's clock */
	_Atomic int failed, stop;
	struct worker_log workers[PROCESSES_MAX][THREADS_MAX];
	struct tally tally[KINDS];
	_Atomic uint64_t done[2][ACTIONS_MAX]; /* of the full mix; in memory */
	_Atomic uint64_t events[9];            /* by the bit of their kind; lost */
	char key_texts[KINDS][KEYS][8];
	uint8_t known[KINDS][GROUPS][CANDIDATES]; /* 1: one of them has this number */
	struct key_log keys[KINDS][KEYS];
} * log_;

uint64_t tick(void);
void raise_to(_Atomic uint64_t *where, uint64_t value);
/* Which process, doing what: for messages. */
uint32_t author(int process, enum verb verb);
/* A time and an author in one word, ordered by time. */
uint64_t signed_time(uint64_t time, uint32_t who);
struct version *version_of(struct key_log *key, uint32_t number);
/* A new write of a key begins: its number. */
uint32_t begin(struct key_log *key, uint32_t who);
void end(struct key_log *key, uint32_t number, bool done);

void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- values ------------------------------------------------------------------------------------------ */

struct head {
	uint32_t cache, key, number, size;
};

/* Its bytes, and how many. */
size_t make_value(uint32_t cache, uint32_t key, uint32_t number, uint8_t *ret);

/* What was true of a key when a read began. */
struct moment {
	uint64_t overwritten;
	int64_t now_ms;
};
struct moment moment_of(uint32_t cache, uint32_t key);
/* A read of the key, begun at `moment`, has given this. */
void check(uint32_t cache, uint32_t key, struct moment moment, terrace_value *value,
           const char *verb);

/* --- a thread ------------------------------------------------------------------------------------------ */

struct worker {
	int process, number;
	struct random random;
	terrace *store;
	terrace_cache **caches;
	struct worker_log *log;
	bool light;          /* the operation under way stays in memory, if it can; */
	uint32_t cache, key; /* what it is about */
};

/* In an engine with so few slots that each key shares one with others: it hits seldom. */
bool slots_are_few(void);
/* Before there are processes that use them. */
void make_keys(terrace_cache *const *caches);
terrace_slice key_text(uint32_t cache, uint32_t key);
bool is_key(uint32_t cache, terrace_slice text);
const char *source_path(uint32_t group, char ret[300]);

/* A thread: until it is told to stop. */
void *work(void *worker);
/* What it was writing has ended. */
void work_end(struct worker_log *w, bool done);
void do_get(struct worker *w);
/* What the threads of this process have pinned. */
void unpin_all(void);
/* How often what was done. */
void print_actions(void);

#endif
