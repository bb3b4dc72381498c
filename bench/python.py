"""
Terrace for Python beside python-diskcache: the same calls in turns, several
rounds, medians and p99. "terrace" is written through, as diskcache is.

usage: python.py FOLDER_OF_THE_PACKAGE RESULT.tsv
"""

import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.abspath(sys.argv[1]))

import diskcache  # noqa: E402
import terrace  # noqa: E402

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
ENTRIES = 5000
SIZES = (100, 1024)
COLUMNS = ("operation", "value_bytes", "name", "p50_ns", "p99_ns", "ops_per_s", "ratio", "ratio_min", "ratio_max")

OPENERS = {
    "diskcache": lambda directory: diskcache.Cache(directory),
    "terrace": lambda directory: terrace.Cache(directory),
    "terrace, write-behind": lambda directory: terrace.Cache(directory, write_behind=True),
}
PEER = "diskcache"


def keys():
    return ["key:%015d/abcdefghij" % i for i in range(ENTRIES)]


def values(size):
    return [os.urandom(size) for _ in range(16)]


def measure(calls):
    """(p50, p99, operations a second) of calls that take no argument."""
    clock = time.perf_counter_ns
    samples = []
    start = clock()
    for call in calls:
        before = clock()
        call()
        samples.append(clock() - before)
    total = clock() - start
    samples.sort()
    return samples[len(samples) // 2], samples[len(samples) * 99 // 100], len(samples) * 1e9 / total


def single(name, size):
    directory = tempfile.mkdtemp(prefix="terrace-bench-", dir=os.environ.get("BENCH_DIR"))
    cache = OPENERS[name](directory)
    names, contents = keys(), values(size)
    for key in names:
        cache[key] = contents[0]
    rng = random.Random(size)
    chosen = [rng.choice(names) for _ in range(20000)]
    yield "get", measure([lambda key=key: cache.get(key) for key in chosen])
    writes = [lambda key=key, i=i: cache.set(key, contents[i % 16]) for i, key in enumerate(chosen[:4000])]
    start = time.perf_counter_ns()
    p50, p99, throughput = measure(writes)
    cache.close()  # what still waits to be written
    yield "set", (p50, p99, throughput)
    yield "set, until closed", (p50, p99, len(writes) * 1e9 / (time.perf_counter_ns() - start))
    shutil.rmtree(directory)


def mixed_worker(name, directory, size, seed, barrier, results):
    cache = OPENERS[name](directory)
    names, contents = keys(), values(size)
    rng = random.Random(seed)
    for key in names:  # what a process has that has run for a while
        cache.get(key)
    calls = []
    for i in range(20000):
        key = rng.choice(names)
        if rng.random() < 0.1:
            calls.append(lambda key=key, i=i: cache.set(key, contents[i % 16], retry=True))
        else:
            calls.append(lambda key=key: cache.get(key))
    barrier.wait()
    results.put(measure(calls))
    cache.close()


def mixed(name, size):
    """Two processes, nine gets to a set."""
    directory = tempfile.mkdtemp(prefix="terrace-bench-", dir=os.environ.get("BENCH_DIR"))
    with OPENERS[name](directory) as cache:
        for key in keys():
            cache[key] = b"x" * size
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=mixed_worker, args=(name, directory, size, seed, barrier, results)) for seed in (1, 2)
    ]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    shutil.rmtree(directory)
    return statistics.mean(one[0] for one in found), max(one[1] for one in found), sum(one[2] for one in found)


def collect():
    """{(operation, size): {name: [(p50, p99, ops), ...]}}"""
    found = {}
    for turn in range(ROUNDS):
        print("round %d of %d" % (turn + 1, ROUNDS), file=sys.stderr)
        for size in SIZES:
            for name in OPENERS:
                for operation, numbers in list(single(name, size)) + [("2 processes, 90/10", mixed(name, size))]:
                    found.setdefault((operation, size), {}).setdefault(name, []).append(numbers)
    return found


def rows(found):
    for (operation, size), by_name in sorted(found.items()):
        peers = by_name[PEER]
        for name, samples in by_name.items():
            p50, p99, ops = (statistics.median(column) for column in zip(*samples))
            # Of the same round, so that what disturbs one disturbs both.
            ratios = [ours[2] / theirs[2] for ours, theirs in zip(samples, peers)]
            numbers = ["%.2f" % ratio for ratio in (statistics.median(ratios), min(ratios), max(ratios))]
            yield [operation, str(size), name, "%d" % p50, "%d" % p99, "%d" % ops, *numbers]


def main():
    table = list(rows(collect()))
    os.makedirs(os.path.dirname(os.path.abspath(sys.argv[2])), exist_ok=True)
    with open(sys.argv[2], "w") as file:
        for row in [COLUMNS, *table]:
            file.write("\t".join(row) + "\n")
    print("%-20s %6s %-22s %9s %9s %10s  %s" % ("operation", "bytes", "name", "p50 ns", "p99 ns", "ops/s", "throughput beside diskcache"))
    for operation, size, name, p50, p99, ops, ratio, low, high in table:
        print("%-20s %6s %-22s %9s %9s %10s  x%s (%s to %s)" % (operation, size, name, p50, p99, ops, ratio, low, high))


if __name__ == "__main__":
    main()
