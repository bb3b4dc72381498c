# For people. `make run` and `make test` need nothing before them: they install
# the Debian packages that are missing (through sudo where you are not root).
#
#   make run       build, and show what it does in a minute
#   make test      build, and run all tests
#   make repomap   build terrace repomap, with the grammars that it reads code by
#   make bench     measure, beside peers (build/bench.tsv)
#   make python    the package for Python: its tests, and a wheel in build/wheel
#   make bench-python   measure it beside python-diskcache (build/bench-python.tsv)
#   make bench-curves  what operations cost from 10,000 entries to a million (build/curves.tsv)
#   make bench-plot  draw that: docs/curves.svg
#   make bench-check  does the last make bench reach bench/targets.tsv?
#   make bench-evict TRACES=FOLDER  what L1 keeps of real traces, beside other policies
#   make proofs    many processes, killed writers, damaged files, the protocol's model: ten minutes
#   make soak      the same, for hours
#   make lint      formatting, static checks, who may include whom
#   make asan      the tests under the address and undefined-behaviour sanitizers
#   make tsan      the tests under the thread sanitizer
#   make coverage  which lines and branches of the core the tests reach
#   make slides    terrace slides with all its parts and its page
#   make fuzz-slides  what it reads from outside, at random, for a minute
#   make fuzz      records, database, settings, keys, patterns, words, at random
#   make install   to PREFIX (default /usr/local)

BUILD  ?= build
PREFIX ?= /usr/local

.PHONY: all run test bench python bench-python lint asan tsan coverage slides fuzz-slides install format clean bench-evict bench-check bench-curves bench-plot repomap fuzz-repomap fuzz proofs soak

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	tools/setup.sh build
	meson setup $(BUILD) --prefix $(PREFIX) >/dev/null

run: all
	@examples/demo.sh $(BUILD)

# The tests of the build folder come with cmocka: look again when that is new.
test:
	@tools/setup.sh test
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) --prefix $(PREFIX) >/dev/null
	@test -f $(BUILD)/tests/test_cache || meson setup --reconfigure $(BUILD) >/dev/null
	ninja -C $(BUILD)
	meson test -C $(BUILD) --print-errorlogs --no-rebuild

# The grammars come from the npm registry, once, into the build folder.
repomap:
	@tools/setup.sh build repomap
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) --prefix $(PREFIX) >/dev/null
	@grep -qs TERRACE_REPOMAP $(BUILD)/build.ninja || \
		meson setup --reconfigure $(BUILD) >/dev/null
	python3 tools/grammars.py $(BUILD) --packages
	ninja -C $(BUILD)

FUZZ_SECONDS ?= 60
fuzz-repomap: all
	@tools/setup.sh fuzz
	tools/fuzz_repomap.sh $(BUILD) $(FUZZ_SECONDS)

bench:
	@tools/setup.sh bench
	@test -f $(BUILD)-bench/build.ninja || \
		meson setup $(BUILD)-bench --buildtype release --prefix $(PREFIX) >/dev/null
	ninja -C $(BUILD)-bench
	python3 bench/run.py $(BUILD)-bench $(BUILD)/bench.tsv

# The wheel is built by meson-python, which pip fetches.
python:
	@tools/setup.sh python
	@test -f $(BUILD)-python/build.ninja || meson setup $(BUILD)-python -Dpython=enabled >/dev/null
	ninja -C $(BUILD)-python
	meson test -C $(BUILD)-python --print-errorlogs --no-rebuild --suite python
	python3 -m pip wheel --quiet --no-deps --wheel-dir $(BUILD)/wheel .
	@ls $(BUILD)/wheel

bench-python:
	@tools/setup.sh bench python
	@test -f $(BUILD)-bench/build.ninja || \
		meson setup $(BUILD)-bench --buildtype release --prefix $(PREFIX) >/dev/null
	ninja -C $(BUILD)-bench
	/usr/bin/python3 bench/python.py $(BUILD)-bench/python $(BUILD)/bench-python.tsv

bench-check:
	python3 bench/check.py $(BUILD)/bench.tsv bench/targets.tsv

# BENCH_MOST=10000000 goes on to ten million.
bench-curves:
	@tools/setup.sh bench
	@test -f $(BUILD)-bench/build.ninja || \
		meson setup $(BUILD)-bench --buildtype release --prefix $(PREFIX) >/dev/null
	ninja -C $(BUILD)-bench
	python3 bench/curves.py $(BUILD)-bench $(BUILD)/curves.tsv

bench-plot:
	@test -f $(BUILD)/curves.tsv || $(MAKE) --no-print-directory bench-curves
	python3 bench/plot.py $(BUILD)/curves.tsv docs/curves.svg

# TRACES: a folder of request traces; see bench/evict.py.
bench-evict:
	@tools/setup.sh bench
	@test -f $(BUILD)-bench/build.ninja || \
		meson setup $(BUILD)-bench --buildtype release --prefix $(PREFIX) >/dev/null
	@test -n "$(TRACES)" || { echo "say where the traces are: make bench-evict TRACES=FOLDER" >&2; exit 2; }
	ninja -C $(BUILD)-bench
	python3 bench/evict.py $(BUILD)-bench $(TRACES) $(BUILD)/evict.tsv

proofs: all
	@tools/setup.sh proofs
	@tools/proofs.sh short

soak: all
	@tools/setup.sh proofs
	@tools/proofs.sh long

lint:
	@tools/setup.sh lint
	@tools/lint.sh

# Fewer operations, because each takes ten times as long.
asan:
	@tools/setup.sh sanitize
	@test -f $(BUILD)-asan/build.ninja || \
		meson setup $(BUILD)-asan -Db_sanitize=address,undefined -Db_lundef=false >/dev/null
	ninja -C $(BUILD)-asan
	@ln -sfn ../$(BUILD)/grammars $(BUILD)-asan/grammars
	TEST_OPERATIONS=100000 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		meson test -C $(BUILD)-asan --print-errorlogs --no-rebuild --no-suite house

tsan:
	@tools/setup.sh sanitize
	@test -f $(BUILD)-tsan/build.ninja || \
		meson setup $(BUILD)-tsan -Db_sanitize=thread -Db_lundef=false >/dev/null
	ninja -C $(BUILD)-tsan
	@ln -sfn ../$(BUILD)/grammars $(BUILD)-tsan/grammars
	TEST_OPERATIONS=100000 TSAN_OPTIONS=halt_on_error=1:die_after_fork=0 \
		meson test -C $(BUILD)-tsan --print-errorlogs --no-rebuild --no-suite house

# Not optimized: branches are those of the source.
coverage:
	@tools/setup.sh coverage
	@test -f $(BUILD)-coverage/build.ninja || \
		meson setup $(BUILD)-coverage -Db_coverage=true -Doptimization=0 >/dev/null
	ninja -C $(BUILD)-coverage
	tools/coverage.sh $(BUILD)-coverage

# npm fetches OpenSeadragon for the page, and what drives the browser in its test.
slides:
	@tools/setup.sh build slides
	@cd systems/slides/page && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) --prefix $(PREFIX) >/dev/null
	@meson setup --reconfigure $(BUILD) -Dslides=enabled >/dev/null
	ninja -C $(BUILD)

fuzz-slides:
	@tools/setup.sh fuzz slides
	@tools/fuzz_slides.sh $(BUILD) $(FUZZ_SECONDS)

# 30 seconds each, two at a time. The targets are in tests/fuzz.
fuzz:
	@tools/setup.sh fuzz
	@tools/fuzz_core.sh $(BUILD)-fuzz $${FUZZ_SECONDS:-30}

install: all
	meson install -C $(BUILD)
	@tools/install_grammars.sh $(BUILD)/grammars $(DESTDIR)$(PREFIX)/lib/terrace/grammars
	@ldconfig 2>/dev/null || true  # only root has a cache of libraries to renew

format:
	git ls-files '*.c' '*.h' | xargs clang-format-14 -i

clean:
	rm -rf $(BUILD) $(BUILD)-python $(BUILD)-asan $(BUILD)-tsan $(BUILD)-bench $(BUILD)-coverage $(BUILD)-fuzz
