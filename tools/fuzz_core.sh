#!/bin/sh
# Fuzz the core, each target for so long, two at a time. What was found to be new
# stays in the build folder and is where the next run begins; what failed is named
# at the end. usage: fuzz_core.sh BUILD SECONDS [TARGET...]
set -eu
cd "$(dirname "$0")/.."
build=$1 seconds=$2
shift 2
[ $# -gt 0 ] || set -- record database config key glob run
if ! echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
	clang-14 -fsanitize=fuzzer,address,undefined -x c - -o /dev/null 2>/dev/null; then
	echo "fuzz: skipped: there is no clang-14 with libFuzzer (apt install clang-14 libclang-rt-14-dev)"
	exit 77
fi
if [ ! -f "$build/build.ninja" ]; then
	CC=clang-14 meson setup "$build" -Dfuzz=true -Db_sanitize=address,undefined \
		-Db_lundef=false -Dslides=disabled -Drepomap=disabled -Dpython=disabled \
		-Dtop=disabled >/dev/null
fi
targets=
for name in "$@"; do
	targets="$targets tests/fuzz/fuzz_$name"
done
# shellcheck disable=SC2086
ninja -C "$build" $targets >"$build/ninja.log" || { tail -30 "$build/ninja.log"; exit 1; }

# On a file system in memory where there is one: hundreds of files come and go.
memory=/dev/shm
[ -w "$memory" ] || memory=/tmp
FUZZ_FOLDER=$(mktemp -d "$memory/fuzz-XXXXXX")
export FUZZ_FOLDER
trap 'rm -rf "$FUZZ_FOLDER"' EXIT

# The targets say on standard error what users would read: not here.
fuzz() {
	target="$build/tests/fuzz/fuzz_$1" work="$build/corpus/$1" length=4096
	[ "$1" = database ] && length=600 # a list of changes
	mkdir -p "$work"
	if "$target" -max_total_time="$seconds" -max_len=$length -len_control=20 -timeout=20 \
		-rss_limit_mb=3000 -close_fd_mask=2 -print_final_stats=1 \
		-artifact_prefix="$build/found-$1-" "$work" "tests/fuzz/corpus/$1" >"$work.log" 2>&1; then
		awk -v name="$1" '/number_of_executed/ { runs = $2 } /DONE/ { cover = $4 }
			END { printf "fuzz %s: %d runs, %d places reached\n", name, runs, cover }' "$work.log"
		return
	fi
	echo "fuzz $1: FAILED"
	touch "$work.failed"
	for found in "$build/found-$1-"*; do
		[ -f "$found" ] || { tail -5 "$work.log"; continue; }
		echo "  $target $found"
		UBSAN_OPTIONS=print_stacktrace=1 timeout 60 "$target" -timeout=20 "$found" 2>&1 |
			grep -aE 'does not hold|runtime error|ERROR:|^ +#[0-9]+ .*(src|tests)/' | head -12
	done
}

rm -f "$build"/corpus/*.failed
while [ $# -gt 0 ]; do
	fuzz "$1" &
	[ $# -lt 2 ] || fuzz "$2"
	wait
	shift
	[ $# -eq 0 ] || shift
done
set -- "$build"/corpus/*.failed
[ ! -e "$1" ]
