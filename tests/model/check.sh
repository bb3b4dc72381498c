#!/bin/sh
# Check the model exhaustively, then models with a step left out, each of which
# must be caught. MODEL=short leaves the whole model to MODEL=long.
set -u
dir=$(cd "$(dirname "$0")" && pwd)
if ! command -v spin >/dev/null || ! command -v gcc >/dev/null; then
	echo "model: skipped: spin is not installed (apt install spin)"
	exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

# name, then flags: prints what spin found
check() {
	name=$1
	shift
	spin "$@" -a "$dir/coherence.pml" >spin.out 2>&1 || { cat spin.out; exit 1; }
	gcc -O2 -DSAFETY -DCOLLAPSE -DMEMLIM=${MEMORY:-6000} -DVECTORSZ=2048 -w -o pan pan.c || exit 1
	./pan -m200000 >pan.out 2>&1
	errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.out | head -1)
	states=$(sed -n 's/ *\([0-9.e+]*\) states, stored.*/\1/p' pan.out | head -1)
	if grep -q "max search depth too small\|out of memory\|memory limit" pan.out; then
		echo "model: $name: cut short"
		exit 1
	fi
	echo "model: $name: $states states, $errors errors"
}

failed=0
# The whole takes some minutes and 6 GiB; the steps left out are found sooner.
if [ "${MODEL:-short}" = long ]; then sizes="1,1,1"; else sizes=""; fi
for size in $sizes; do
	f=${size%%,*} rest=${size#*,}
	flags="-DFIRST=$f -DSECOND=${rest%,*} -DREADS=${rest#*,} -DDEATH"
	check "whole, writes and reads $size" $flags
	[ "$errors" = 0 ] || failed=1
done
for step in MARK BEHIND COMPARE REAP LOOK EPOCH; do
	for size in 1,1,1; do
		f=${size%%,*} rest=${size#*,}
		check "without $step, $size" -DFIRST=$f -DSECOND=${rest%,*} -DREADS=${rest#*,} \
			-DDEATH -DLEAVE_$step
		[ "$errors" = 0 ] || break
	done
	if [ "$errors" = 0 ]; then
		echo "model: without $step nothing was found: the model does not see that step"
		failed=1
	fi
done
exit $failed
