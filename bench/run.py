"""
Run the benchmarks several times, one after the other so that a noisy moment
hits all of them, and set the medians beside each other.

usage: run.py BUILD_FOLDER RESULT.tsv
"""

import os
import shutil
import statistics
import subprocess
import sys

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
COLUMNS = ("group", "name", "operation", "value_bytes", "threads", "p50_ns", "p99_ns", "ops_per_s",
           "peer", "ratio", "ratio_low", "ratio_high", "p50_ns_rounds", "p99_ns_rounds", "ops_per_s_rounds")
OURS = "terrace"


def programs(build):
    """What there is to run; a peer that is not installed is left out, and said so."""
    yield [build + "/bench/bench_l1"]
    yield [build + "/bench/bench_fetch"]
    yield [build + "/bench/bench_l2"]
    python = "/usr/bin/python3"
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peer_diskcache.py")
    if subprocess.run([python, "-c", "import diskcache"], stderr=subprocess.DEVNULL).returncode == 0:
        yield [python, script]
    else:
        print("python3-diskcache is not installed: its rows are missing", file=sys.stderr)
    yield [build + "/bench/bench_l3"]
    yield [build + "/bench/bench_codec"]
    yield [build + "/bench/bench_ahead"]
    # As it is installed: half of what the linker wrote lies in memory in single pages, which takes a start 0.1 ms.
    yield [build + "/bench/bench_open", shutil.copy(build + "/cli/terrace", build + "/bench/terrace")]


def long_programs(build):
    """What takes half a minute, and asks for the worst of many: once is enough."""
    yield [build + "/bench/bench_expire"]
    yield [build + "/bench/bench_log"]


def collect(build):
    """{(group, name, operation, bytes, threads): [(p50, p99, ops), ...]}"""
    results = {}
    commands = list(programs(build))
    for turn in range(ROUNDS):
        for command in commands + (list(long_programs(build)) if turn == 0 else []):
            print("round %d of %d: %s" % (turn + 1, ROUNDS, os.path.basename(command[-1])), file=sys.stderr)
            out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
            for line in out.splitlines():
                group, name, operation, size, threads, *numbers = line.split("\t")
                key = (group, name, operation, int(size), int(threads))
                results.setdefault(key, []).append(tuple(float(number) for number in numbers))
    return results


def rows(results):
    medians = {key: tuple(statistics.median(column) for column in zip(*samples))
               for key, samples in results.items()}
    for key, (p50, p99, ops) in medians.items():
        group, name, operation, size, threads = key
        base = [group, name, operation, size, threads, int(p50), int(p99), int(ops)]
        rounds = [" ".join("%d" % figure for figure in column) for column in zip(*results[key])]
        peers = [other for other in medians
                 if other[0] == group and other[2:] == key[2:] and other[1] != OURS]
        if name != OURS or not peers:
            yield base + ["-"] * 4 + rounds, None
            continue
        for peer in peers:
            # Of the same round, so that what disturbs one disturbs both.
            ratios = [ours[2] / theirs[2] if theirs[2] else 0 for ours, theirs in zip(results[key], results[peer])]
            low, high = min(ratios), max(ratios)
            yield base + [peer[1], "%.2f" % statistics.median(ratios), "%.2f" % low, "%.2f" % high] + rounds, (low, high)


def show(row, spread):
    group, name, operation, size, threads, p50, p99, ops, peer, ratio = row[:10]
    text = "%-8s %-24s %-20s %8d %2d %10d %10d %12d" % (group, name, operation, size, threads, p50, p99, ops)
    if spread:
        text += "  %sx %s (%.2f to %.2f)" % (ratio, peer, *spread)
    print(text)


def main():
    build, result = sys.argv[1:3]
    table = list(rows(collect(build)))
    table.sort(key=lambda item: (item[0][0], item[0][2], item[0][3], item[0][4], item[0][1] != OURS))
    print("%-8s %-24s %-20s %8s %2s %10s %10s %12s  %s"
          % ("group", "name", "operation", "bytes", "th", "p50 ns", "p99 ns", "ops/s", "throughput beside a peer"))
    os.makedirs(os.path.dirname(os.path.abspath(result)), exist_ok=True)
    with open(result, "w") as file:
        file.write("\t".join(COLUMNS) + "\n")
        for row, spread in table:
            file.write("\t".join(str(field) for field in row) + "\n")
            show(row, spread)
    print("\n%s has these rows; medians of %d rounds, and the spread of the ratios." % (result, ROUNDS))


main()
