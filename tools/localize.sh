#!/bin/sh
# Make a static library of one object that shows public symbols alone.
# usage: localize.sh OUTPUT OBJECT...
set -eu
out=$1
shift
tmp=$out.tmp.o
trap 'rm -f "$tmp"' EXIT
ld -r -o "$tmp" "$@"
objcopy --localize-hidden "$tmp"
rm -f "$out"
ar rcsD "$out" "$tmp"
