#!/bin/sh
# Fuzz what terrace slides reads from outside. usage: fuzz_slides.sh BUILD SECONDS
set -eu
cd "$(dirname "$0")/.."
build=$1 seconds=$2
deps="libturbojpeg expat jansson sqlite3 liblz4 libzstd libxxhash inih"
if ! command -v clang-14 >/dev/null || ! pkg-config --exists $deps; then
	echo "fuzz_slides.sh: skipped: clang-14 or a library is missing; make slides installs them"
	exit 0
fi
mkdir -p "$build/fuzz/seeds"
# shellcheck disable=SC2046,SC2086
clang-14 -g -O1 -std=gnu17 -D_GNU_SOURCE '-DTERRACE_VERSION="0"' -Iinclude -Isrc -Isystems \
	-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
	$(pkg-config --cflags $deps) -o "$build/fuzz/fuzz_slides" tests/slides/fuzz_slides.c \
	systems/slides/jpeg.c systems/slides/slide.c systems/slides/folder.c \
	systems/slides/scanner.c systems/slides/view.c \
	$(find src -name '*.c') $(pkg-config --libs $deps) -lm -lpthread
# One to begin with of each kind.
python3 - "$build/fuzz/seeds" "$build" <<'PYTHON'
import os, struct, subprocess, sys
seeds, build = sys.argv[1:]
reference = os.path.join(build, "tests/slides/slides_reference")
for seed in (2, 3):
    if os.path.exists(reference):
        jpeg = subprocess.run([reference, "--make", "48", "40", "3", str(seed)],
                              check=True, stdout=subprocess.PIPE).stdout
        open(f"{seeds}/jpeg{seed}", "wb").write(b"\0" + jpeg)
open(f"{seeds}/index", "wb").write(b"\1FPLIDX1\0" + struct.pack("<IHH", 1, 2, 1) +
                                   struct.pack("<QI", 0, 4) + struct.pack("<QI", 4, 0))
open(f"{seeds}/dzi", "wb").write(b'\2<Image Format="jpg" Overlap="1" TileSize="254"><Size '
                                 b'Width="600" Height="400"/></Image>')
open(f"{seeds}/metadata", "wb").write(b'\3{"tile_size": 64, "dimensions": [128, 64], "levels": '
                                      b'[{"level": 0, "downsample": 1, "cols": 2, "rows": 1}]}')
PYTHON
"$build/fuzz/fuzz_slides" -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=1024 -timeout=10 \
	-print_final_stats=1 "$build/fuzz/seeds" 2>&1 | tail -12
