/* What a map costs, beside others. */
#ifndef REPOMAP_BENCH_H
#define REPOMAP_BENCH_H

#include <stdbool.h>

/* An exit status. `dir`: a tree to take files from; NULL: what make repomap fetched. */
int repomap_bench(const char *dir, bool json);

#endif
