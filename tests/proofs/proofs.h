/* What the proofs have in common: a seed, amounts, a directory, memory that processes share. */
#ifndef PROOFS_PROOFS_H
#define PROOFS_PROOFS_H

#include <terrace/terrace.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* meson's word for a test that could not run here */
enum { EXIT_SKIPPED = 77 };

struct random {
	uint64_t state;
};

/* splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014) */
static inline uint64_t random_next(struct random *random)
{
	uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static inline uint64_t random_below(struct random *random, uint64_t limit)
{
	return random_next(random) % limit;
}

/* A number from the environment. */
static inline uint64_t amount(const char *name, uint64_t fallback)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 0) : fallback;
}

/* SEED, or a new one; printed, so that a failure can be run again. */
static inline uint64_t proof_seed(const char *program)
{
	uint64_t seed = amount("SEED", (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid());

	printf("%s: SEED=%llu\n", program, (unsigned long long)seed);
	fflush(stdout);
	return seed;
}

static inline void *share(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return memory;
}

/* A directory of its own, under TMPDIR. */
static inline void scratch_dir(char *ret, size_t size)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(ret, size, "%s/terrace-proof-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(ret)) {
		perror(ret);
		exit(1);
	}
}

static inline void remove_dir(const char *path)
{
	char command[512];

	snprintf(command, sizeof command, "rm -rf '%s'", path);
	if (system(command) != 0)
		fprintf(stderr, "cannot remove %s\n", path);
}

static inline double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

#endif
