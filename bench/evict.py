"""
Replay traces on L1 and set what it answers beside what others would.

usage: evict.py BUILD_FOLDER TRACES_FOLDER RESULT.tsv

TRACES_FOLDER holds NAME.txt.zst (a request a line: key, size and, where known,
cost) and baseline.tsv with the hit ratios of other policies.
"""

import collections
import concurrent.futures
import csv
import os
import subprocess
import sys

PEERS = ("LRU", "ARC", "S3-FIFO", "SIEVE", "W-TinyLFU", "GDQ", "BeladySize")
COLUMNS = ("trace", "fraction", "policy", "hits", "bytes", "cost")


def baseline(folder):
    """{(trace, fraction): {policy: (hits, bytes)}}, and which traces have sizes."""
    table = collections.defaultdict(dict)
    sized = set()
    with open(os.path.join(folder, "baseline.tsv"), newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["source"] != "evict_sim":
                continue
            hits, size = float(row["request_hit_ratio"]), float(row["byte_hit_ratio"])
            table[row["trace"], float(row["cache_fraction"])][row["algo"]] = (hits, size)
            if hits != size:
                sized.add(row["trace"])
    return table, sized


def replay(build, folder, trace, policy, sized):
    command = [os.path.join(build, "bench/bench_evict"), policy, "sized" if sized else "counted"]
    command += [os.path.join(folder, name + ".txt.zst") for name in trace.split("+")]
    out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return [(trace, float(fields[0]), policy) + tuple(map(float, fields[1:]))
            for fields in (line.split("\t") for line in out.splitlines())]


def jobs(traces, sized):
    for trace in traces:
        yield trace, "hits", trace in sized
        if trace in sized:
            yield trace, "bytes", True
        if trace in ("devbuild-zstd", "address-gcc-penalties"):
            yield trace, "cost", trace in sized


def mean(values):
    values = list(values)
    return 100 * sum(values) / len(values) if values else float("nan")


def summary(rows, table, sized):
    def average(title, policy, column, wanted):
        cells = [row for row in rows if row[2] == policy and wanted(row[0]) and row[:2] in table]
        peers = " ".join("%s %.2f" % (peer, mean(table[row[:2]][peer][column] for row in cells))
                         for peer in PEERS)
        print("%-22s terrace %.2f  %s" % (title, mean(row[3 + column] for row in cells), peers))

    average("hits, with sizes", "hits", 0, lambda trace: trace in sized)
    average("hits, without sizes", "hits", 0, lambda trace: trace not in sized)
    average("bytes, with sizes", "bytes", 1, lambda trace: trace in sized)
    worst = sorted((row[3] - table[row[:2]]["LRU"][0], row[0], row[1])
                   for row in rows if row[2] == "hits" and row[:2] in table)[:3]
    print("furthest under LRU     " + ", ".join("%.1f points (%s at %g)" % (100 * d, t, f) for d, t, f in worst))
    for row in rows:
        if row[2] == "cost":
            print("cost saved             %s at %g: %.2f %%" % (row[0], row[1], 100 * row[5]))


def main():
    build, folder, result = sys.argv[1:4]
    table, sized = baseline(folder)
    traces = sorted({trace for trace, _ in table})
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(lambda job: replay(build, folder, *job), jobs(traces, sized))
        rows = [row for part in parts for row in part]
    os.makedirs(os.path.dirname(os.path.abspath(result)), exist_ok=True)
    with open(result, "w", newline="") as file:
        file.write("\t".join(COLUMNS) + "\n")
        for row in rows:
            file.write("\t".join(str(field) for field in row) + "\n")
    summary(rows, table, sized)


main()
