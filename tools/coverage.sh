#!/bin/sh
# Which lines and branches of the core (src/) the tests reach, and the proofs,
# run for some minutes; fails below the floor. usage: coverage.sh BUILD
set -eu
cd "$(dirname "$0")/.."
build=$1
# What holds now; raise it with every test that reaches more.
lines=95 branches=90

find "$build" -name '*.gcda' -delete
TEST_OPERATIONS=200000 meson test -C "$build" --print-errorlogs --no-rebuild --no-suite house
# Each says what failed elsewhere; here it is only about what it reaches.
proof() {
	name=$1 amount=$2
	[ -x "$build/tests/proofs/$name" ] || return 0
	printf '== %s (%s)\n' "$name" "$amount"
	env "$amount" nice "$build/tests/proofs/$name" >"$build/$name.log" 2>&1 ||
		echo "coverage.sh: $name failed, see $build/$name.log" >&2
}
proof oracle OPERATIONS=100000
proof flight ROUNDS=10
proof killed STEP=200
proof faults STEP=24
proof damage ROUNDS=100
gcovr --root . --filter src/ --object-directory "$build" --exclude-unreachable-branches \
	--print-summary --txt "$build/coverage.txt" \
	--fail-under-line $lines --fail-under-branch $branches
