#!/bin/sh
# Formatting, static checks, who may include whom. Each failure says how to mend it.
set -eu
cd "$(dirname "$0")/.."
status=0

fail() {
	echo "lint: $1" >&2
	status=1
}

sources=$(git ls-files '*.c' '*.h')

# shellcheck disable=SC2086
clang-format-14 --dry-run --Werror $sources 2>/tmp/lint.$$ || {
	head -20 /tmp/lint.$$ >&2
	fail "the files above are not formatted; make format mends that"
}
rm -f /tmp/lint.$$

# Functions with safer relatives, or that are not for threads.
banned='\b(strcat|gets|sprintf|strtok|tmpnam|asctime|ctime|gmtime|localtime|atoi|system|popen|usleep|sleep|rand|srand)\('
if git ls-files 'src/*.c' 'src/*.h' 'systems/*.c' | xargs grep -nE "$banned"; then
	fail "the library does not use the functions above"
fi

# Everything that other files of the library see is marked as internal.
if grep -nE '^[a-z][a-z0-9_ ]*\*?\b(entry|terrace|disk|memory|codec)_[a-z_]+\([^;]*\);' \
	$(git ls-files 'src/*.h') | grep -vE 'terrace__|static'; then
	fail "internal functions that cross files are named terrace__x"
fi

if git ls-files '*.c' '*.h' '*.py' '*.sh' '*.md' '*.build' Makefile | xargs grep -nE '[[:space:]]+$'; then
	fail "trailing white space"
fi

# A second compiler, with what would be too strict for everybody's.
for file in $(git ls-files 'src/*.c' 'cli/*.c' 'systems/*.c' 'examples/*.c'); do
	clang-14 -fsyntax-only -std=gnu17 -Werror -Wall -Wextra -Wshadow -Wconversion \
		-Wno-sign-conversion -Wimplicit-fallthrough -Wcomma -Wassign-enum \
		-Wunreachable-code -Wundef -Wformat=2 -Wno-format-nonliteral \
		-Wstrict-prototypes -Wmissing-prototypes -Wno-missing-field-initializers \
		-D_GNU_SOURCE '-DTERRACE_VERSION="0"' -Iinclude -Isrc -Isystems "$file" ||
		fail "clang does not like $file"
done

python3 tests/house/test_includes.py >/tmp/lint.$$ 2>&1 || {
	cat /tmp/lint.$$ >&2
	fail "a folder includes what it must not"
}
rm -f /tmp/lint.$$

[ $status -eq 0 ] && echo "lint: clean"
exit $status
