#!/bin/sh
# Install the grammars where they were built; without them there is nothing to do.
# usage: install_grammars.sh FROM TO
set -eu
[ -d "$1" ] || exit 0
mkdir -p "$2"
for file in "$1"/*.so "$1"/*.scm; do
	[ ! -f "$file" ] || install -m 644 "$file" "$2"
done
