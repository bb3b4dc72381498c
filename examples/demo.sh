#!/bin/sh
# The first minute: what Terrace does, on this project's own sources.
# usage: demo.sh BUILD_FOLDER
set -eu

build=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
export TERRACE_DIR="$build/demo/store"
terrace=$build/cli/terrace
files=$(cd "$root" && ls src/*/*.c src/*/*/*.c)

rm -rf "$build/demo"
mkdir -p "$build/demo"
cd "$root"

# One file, as a build would do it; the depfile names the headers.
analyse() {
	name=$(echo "$1" | tr / -)
	"$terrace" run --in "$1" --depfile "$build/demo/$name.d" --out "$build/demo/$name.o" -- \
		gcc -std=gnu17 -O2 -fanalyzer -w -D_GNU_SOURCE -DTERRACE_VERSION='"0"' -Iinclude -Isrc \
		-MD -MF "$build/demo/$name.d" -c "$1" -o "$build/demo/$name.o"
}

pass() {
	start=$(date +%s%N)
	for file in $files; do
		analyse "$file"
	done
	printf '  %-42s %6d ms\n' "$1" $((($(date +%s%N) - start) / 1000000))
}

count=$(echo $files | wc -w)
command -v gcc >/dev/null || { echo "demo.sh: gcc is missing; make run installs it" >&2; exit 1; }
printf '\n1. terrace run: gcc -fanalyzer over %d files of this project\n\n' "$count"
pass "cold: every file is analysed"
pass "warm: new processes, nothing to do"
rm -f "$build"/demo/*.o
pass "warm, after the objects were deleted"
ls "$build"/demo/*.o >/dev/null

printf '\n2. examples/first.c: two processes, one cache\n\n'
"$build/examples/first" "$TERRACE_DIR" | sed "s|$build/||; s/^/  /"

printf '\n3. terrace stat: which tier served what, and what it saved\n\n'
"$terrace" stat | sed 's/^/  /'
printf '\nThe store is %s; read README.md for more.\n' "$TERRACE_DIR"
