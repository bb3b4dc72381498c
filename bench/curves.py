"""
What operations cost from ten thousand entries on, beside peers: build/curves.tsv,
and whether a curve bends upward faster than it may.

usage: curves.py BUILD_FOLDER RESULT.tsv          measure; BENCH_MOST: up to so many entries
       curves.py --check RESULT.tsv               look at the last measurement alone

What goes by an index may grow as the logarithm of the entries does, or as SQLite with
such an index by hand, which has more than steps of a tree to pay for as it leaves the
processor's caches; a quarter more is noise.

Exit status: 0 when all hold, 1 when one bends faster.
"""

import csv
import math
import os
import subprocess
import sys

COLUMNS = ("name", "operation", "entries", "p50_ns", "p99_ns")
OURS, PEER = "terrace", "raw SQLite"
LEAST, MOST = 10000, 1000000
PEER_MOST = 1000000  # python-diskcache takes too long beyond
NOISE = 1.25


def commands(build, entries):
    yield [build + "/bench/bench_curves", str(entries)]
    python, folder = "/usr/bin/python3", os.path.dirname(os.path.abspath(__file__))
    if entries > PEER_MOST:
        return
    if subprocess.run([python, "-c", "import diskcache"], stderr=subprocess.DEVNULL).returncode == 0:
        yield [python, folder + "/peer_curves.py", str(entries)]
    else:
        print("python3-diskcache is not installed: its curves are missing", file=sys.stderr)


def measure(build, result):
    entries, most = LEAST, int(os.environ.get("BENCH_MOST", MOST))
    os.makedirs(os.path.dirname(os.path.abspath(result)), exist_ok=True)
    with open(result, "w") as file:
        file.write("\t".join(COLUMNS) + "\n")
        while entries <= most:
            for command in commands(build, entries):
                print("%s, %d entries" % (os.path.basename(command[-2]), entries), file=sys.stderr)
                out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
                for line in out.splitlines():
                    _, name, operation, count, _, p50, p99, _ = line.split("\t")
                    file.write("\t".join((name, operation, count, p50, p99)) + "\n")
                file.flush()
            entries *= 10


def curves(path):
    """{operation: {name: {entries: nanoseconds}}}"""
    found = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found.setdefault(row["operation"], {}).setdefault(row["name"], {})[int(row["entries"])] = \
                float(row["p50_ns"])
    return found


def growth(curve, low, high):
    return curve[high] / curve[low] if low in curve and high in curve else None


def check(path):
    """A line for each operation: how often as much it costs at the most entries as at the fewest."""
    bent = 0
    for operation, names in curves(path).items():
        ours = names[OURS]
        low, high = min(ours), max(ours)
        logarithm = math.log(high) / math.log(low)
        peers = {name: growth(curve, low, high) for name, curve in names.items() if name != OURS}
        times = growth(ours, low, high)
        bound = max(logarithm, peers.get(PEER) or 0) * NOISE
        verdict = "ok" if times <= bound else "BENDS"
        bent += times > bound
        print("%-6s  %-30s  %7.2f times from %d to %d entries; logarithm %.2f%s"
              % (verdict, operation, times, low, high, logarithm,
                 "".join("; %s %.2f" % item for item in peers.items() if item[1])))
    print("%d bend upward faster than a logarithm and than %s" % (bent, PEER))
    return 1 if bent else 0


def main():
    if sys.argv[1] == "--check":
        sys.exit(check(sys.argv[2]))
    measure(sys.argv[1], sys.argv[2])
    sys.exit(check(sys.argv[2]))


main()
