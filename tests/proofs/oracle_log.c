/* The oracle's log: what was written when, and whether what a read gave may be. */
#include "proofs/oracle.h"

#include <stdarg.h>

const struct kind kinds[KINDS] = {
	{ .name = "memory", .tiers = TERRACE_L1, .light = 4 },
	{ .name = "memory, small", .tiers = TERRACE_L1, .memory_bytes = 30000, .light = 4 },
	{ .name = "rows", .tiers = TERRACE_L2 },
	{ .name = "files", .tiers = TERRACE_L3, .codec = TERRACE_CODEC_ZSTD },
	{ .name = "all", .light = 2 },
	{ .name = "all, behind", .write = TERRACE_WRITE_BEHIND, .light = 2 },
	{ .name = "rows, behind", .tiers = TERRACE_L2, .write = TERRACE_WRITE_BEHIND },
	{ .name = "small", .memory_bytes = 40000, .disk_entries = 60 },
	{ .name = "small, behind",
	  .memory_bytes = 40000,
	  .disk_entries = 60,
	  .write = TERRACE_WRITE_BEHIND,
	  .light = 1 },
};

static const char *const verb_names[] = { "put",   "add",    "put_many",    "tagged put",
	                                  "fetch", "delete", "delete_many", "clear",
	                                  "glob",  "prefix", "invalidate" };

struct log *log_;
struct asked asked;
int process_number = -1;

uint64_t tick(void)
{
	return atomic_fetch_add(&log_->clock, 1) + 1;
}

void raise_to(_Atomic uint64_t *where, uint64_t value)
{
	uint64_t old = atomic_load(where);

	while (old < value && !atomic_compare_exchange_weak(where, &old, value))
		;
}

uint32_t author(int process, enum verb verb)
{
	return (uint32_t)process << 4 | verb;
}

uint64_t signed_time(uint64_t time, uint32_t who)
{
	return time << 8 | who;
}

struct version *version_of(struct key_log *key, uint32_t number)
{
	return &key->versions[number % REMEMBERED];
}

uint32_t begin(struct key_log *key, uint32_t who)
{
	uint32_t number = atomic_fetch_add(&key->next, 1) + 1;
	struct version *version = version_of(key, number);

	atomic_store(&version->ended, 0);
	atomic_store(&version->expires, 0);
	atomic_store(&version->number, number);
	atomic_store(&version->author, who);
	atomic_store(&version->began, tick());
	return number;
}

void end(struct key_log *key, uint32_t number, bool done)
{
	struct version *version = version_of(key, number);

	atomic_store(&version->ended, tick());
	if (done)
		raise_to(&key->overwritten,
		         signed_time(atomic_load(&version->began), atomic_load(&version->author)));
}

/* --- values ------------------------------------------------------------------------------------------ */

size_t make_value(uint32_t cache, uint32_t key, uint32_t number, uint8_t *ret)
{
	struct random random = { (uint64_t)cache << 52 ^ (uint64_t)key << 32 ^ number };
	struct head head = { cache, key, number, 0 };
	bool plain = number % 3 == 0;          /* compresses */
	bool in_memory = cache < MEMORY_KINDS; /* where most of the work is to be the cache's */
	bool large = number % (in_memory ? 32 : 8) == 0;
	uint64_t limit = large ? VALUE_MAX - 600 : in_memory ? 300 : 600;

	head.size = (uint32_t)(sizeof head + random_below(&random, limit));
	memcpy(ret, &head, sizeof head);
	for (size_t at = sizeof head; at < head.size; at += sizeof(uint64_t)) {
		uint64_t word = plain ? number : random_next(&random);

		memcpy(ret + at, &word, sizeof word);
	}
	return head.size;
}

void fail(const char *format, ...)
{
	va_list args;

	if (atomic_exchange(&log_->failed, 1) == 0) {
		va_start(args, format);
		fprintf(stderr, "oracle: ");
		vfprintf(stderr, format, args);
		fprintf(stderr, " (SEED=%llu)\n", (unsigned long long)asked.seed);
		va_end(args);
	}
	atomic_store(&log_->stop, 1);
}

struct moment moment_of(uint32_t cache, uint32_t key)
{
	return (struct moment){ atomic_load(&log_->keys[cache][key].overwritten),
		                atomic_load(&log_->now_ms) };
}

void check(uint32_t cache, uint32_t key, struct moment moment, terrace_value *value,
           const char *verb)
{
	uint64_t overwritten = moment.overwritten;
	uint8_t expected[VALUE_MAX];
	struct key_log *log = &log_->keys[cache][key];
	struct version *version;
	struct head head;
	uint64_t ended;
	int64_t expires;

	if (terrace_size(value) < sizeof head) {
		fail("%s in %s: a value of %zu bytes", verb, kinds[cache].name,
		     terrace_size(value));
		return;
	}
	memcpy(&head, terrace_data(value), sizeof head);
	if (head.cache != cache || head.key != key) {
		fail("%s in %s: key %u gives a value of cache %u, key %u", verb, kinds[cache].name,
		     key, head.cache, head.key);
		return;
	}
	if (head.number == 0 || head.number > atomic_load(&log->next)) {
		fail("%s in %s: key %u gives version %u, which nobody wrote", verb,
		     kinds[cache].name, key, head.number);
		return;
	}
	if (terrace_size(value) != make_value(cache, key, head.number, expected) ||
	    memcmp(terrace_data(value), expected, terrace_size(value)) != 0) {
		fail("%s in %s: key %u, version %u has foreign bytes", verb, kinds[cache].name, key,
		     head.number);
		return;
	}
	version = version_of(log, head.number);
	ended = atomic_load(&version->ended);
	expires = atomic_load(&version->expires);
	if (atomic_load(&version->began) < atomic_load(&log->touched) ||
	    atomic_load(&log->touching))
		expires = 0;
	if (atomic_load(&version->number) != head.number) {
		ended = 1; /* thousands of writes ago */
		expires = 0;
	}
	if (expires && expires <= moment.now_ms)
		fail("%s in %s: key %u, version %u is there %lld ms after its time to live", verb,
		     kinds[cache].name, key, head.number, (long long)(moment.now_ms - expires));
	if (ended && ended < overwritten >> 8)
		fail("%s in %s: process %d reads of key %u version %u, of a %s in process %u "
		     "that ended at %llu; a %s in process %llu, begun at %llu, had ended before",
		     verb, kinds[cache].name, process_number, key, head.number,
		     verb_names[atomic_load(&version->author) & 15],
		     atomic_load(&version->author) >> 4, (unsigned long long)ended,
		     verb_names[overwritten & 15], (unsigned long long)(overwritten >> 4 & 15),
		     (unsigned long long)(overwritten >> 8));
}
