#!/bin/sh
# Fuzz the glue between tree-sitter and the map, with libFuzzer and both sanitizers.
# usage: fuzz_repomap.sh BUILD SECONDS
set -eu
cd "$(dirname "$0")/.."
build=$1
seconds=$2
if [ ! -f "$build/grammars/python.so" ]; then
	echo "SKIP: no grammars in $build/grammars: make repomap builds them"
	exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Real sources to begin with, each as a file of each of two languages.
mkdir "$work/corpus"
number=0
for file in systems/repomap/ignore.c tests/cli/support.py examples/first.c tests/cli/pagerank.py; do
	for language in 2 3 4 5 6 7 8 9 10; do
		number=$((number + 1))
		{
			printf '%b' "\\0$(printf %o $((language + 16)))\\0377"
			head -c 1500 "$file"
		} >"$work/corpus/$number"
	done
done
sources=""
for file in grammar ignore language memory render tags; do
	sources="$sources systems/repomap/$file.c"
done
# The rest of the map is not what is fuzzed; its two functions are never called.
cat >"$work/rest.c" <<'END'
#include "repomap/parts.h"
#include <stdlib.h>
const struct tags *scan_tags_of(struct repomap *map, struct file *file)
{
	(void)map, (void)file;
	abort();
}
void ranking_sort(struct ranking *ranking, size_t count)
{
	(void)ranking, (void)count;
}
END
# shellcheck disable=SC2086
clang-14 -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined \
	-fno-sanitize-recover=undefined -Iinclude -Isystems tests/fuzz/fuzz_repomap.c \
	"$work/rest.c" $sources -o "$work/fuzz" -L"$build/src" -Wl,-rpath,"$PWD/$build/src" \
	-lterrace -ltree-sitter -lm -pthread
TERRACE_GRAMMARS="$PWD/$build/grammars" "$work/fuzz" -max_total_time="$seconds" \
	-max_len=2000 -timeout=20 -rss_limit_mb=2000 -print_final_stats=1 \
	-artifact_prefix="$build/fuzz-repomap-" "$work/corpus" >"$work/log" 2>&1 || {
	tail -40 "$work/log"
	echo "fuzz: failed; what did it is in $build/fuzz-repomap-*" >&2
	exit 1
}
tail -7 "$work/log"
