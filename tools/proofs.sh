#!/bin/sh
# The long tests: `tools/proofs.sh short` in CI, `tools/proofs.sh long` at
# leisure. Each prints its seed and figures; a failure or a test that could not
# run is said again at the end.
#
#   BUILD   build folder (build)         TSAN_BUILD  of the thread sanitizer (build-tsan)
set -u
cd "$(dirname "$0")/.."
length=${1:-short}
build=${BUILD:-build}
tsan=${TSAN_BUILD:-build-tsan}
failed= skipped=

# name, amounts in short and long runs, command
proof() {
	name=$1 short=$2 long=$3
	shift 3
	if [ "$length" = long ]; then amounts=$long; else amounts=$short; fi
	printf '== %s (%s)\n' "$name" "$amounts"
	env $amounts "$@"
	case $? in
	0) ;;
	77) skipped="$skipped; $name" ;;
	*) failed="$failed; $name" ;;
	esac
}

proof "oracle" OPERATIONS=2000000 OPERATIONS=30000000 $build/tests/proofs/oracle
proof "oracle, in memory" OPERATIONS=2000000 OPERATIONS=30000000 $build/tests/proofs/oracle memory
proof "oracle, processes killed" ROUNDS=500 ROUNDS=10000 $build/tests/proofs/oracle kill
if [ -x "$build/tests/proofs/oracle_paused" ]; then
	proof "oracle, with pauses" OPERATIONS=300000 OPERATIONS=3000000 $build/tests/proofs/oracle_paused
	proof "oracle, with pauses, in memory" OPERATIONS=600000 OPERATIONS=6000000 \
		$build/tests/proofs/oracle_paused memory
	# Who mends what a killed process has left looks at all versions, with pauses.
	killed="EVERY_MS=4000"
	proof "oracle, with pauses, processes killed" "$killed ROUNDS=10" "$killed ROUNDS=300" \
		$build/tests/proofs/oracle_paused kill
	# Looking at all versions is nothing where there are eighty.
	for mix in "" memory kill; do
		proof "oracle, crowded${mix:+, $mix}" \
			"OPERATIONS=150000 ROUNDS=20 EVERY_MS=500" \
			"OPERATIONS=3000000 ROUNDS=1000 EVERY_MS=500" \
			$build/tests/proofs/oracle_crowded $mix
	done
else
	skipped="$skipped; oracle with pauses (not gcc, or a build with sanitizers)"
fi
proof "killed at every system call" STEP=1 STEP=1 $build/tests/proofs/killed
proof "calls that fail" STEP=48 STEP=1 $build/tests/proofs/faults
proof "terrace run, calls that fail" STEP=128 STEP=1 python3 tests/proofs/faults_run.py \
	$build/tests/proofs/terrace_loaded $build/tests/proofs/libterrace_proof_shim.so
proof "power cuts" ROUNDS=20 ROUNDS=200 $build/tests/proofs/power
proof "single flight, owners killed" ROUNDS=100 ROUNDS=1000 $build/tests/proofs/flight
proof "damage to every kind of file" ROUNDS=2000 ROUNDS=10000 $build/tests/proofs/damage
if [ -x "$tsan/tests/proofs/oracle" ]; then
	threads="PROCESSES=1 THREADS=8"
	export TSAN_OPTIONS=halt_on_error=1:die_after_fork=0
	proof "oracle, 8 threads, thread sanitizer" \
		"$threads OPERATIONS=200000" "$threads OPERATIONS=1000000" \
		"$tsan/tests/proofs/oracle"
	proof "oracle, in memory, 8 threads, thread sanitizer" \
		"$threads OPERATIONS=800000" "$threads OPERATIONS=100000000" \
		"$tsan/tests/proofs/oracle" memory
else
	skipped="$skipped; thread sanitizer (no $tsan: make tsan)"
fi
proof "model of the protocol" MODEL=short MODEL=long tests/model/check.sh

if command -v clang-14 >/dev/null; then
	proof "fuzzing, each of six targets" SECONDS_EACH=30 SECONDS_EACH=600 \
		sh -c 'tools/fuzz_core.sh "$1" "$SECONDS_EACH"' fuzz "$build-fuzz"
else
	skipped="$skipped; fuzzing (no clang-14)"
fi

[ -z "$skipped" ] || echo "proofs: could not run here:${skipped#;}"
if [ -n "$failed" ]; then
	echo "proofs: FAILED:${failed#;}"
	exit 1
fi
echo "proofs: passed"
