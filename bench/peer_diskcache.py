"""python-diskcache, as a Python program would use it."""

import os
import shutil
import sys
import tempfile
import time

import diskcache

ENTRIES = 20000


def percentiles(samples):
    samples.sort()
    return samples[len(samples) // 2], samples[len(samples) * 99 // 100]


def measure(operation, value_bytes, count, call):
    samples = []
    clock = time.perf_counter_ns
    start = clock()
    for i in range(count):
        before = clock()
        call(i)
        samples.append(clock() - before)
    total = clock() - start
    p50, p99 = percentiles(samples)
    print("l2", "python-diskcache", operation, value_bytes, 1, p50, p99, int(count * 1e9 / total), sep="\t")


def main():
    for value_bytes in (100, 1024, 16384):
        directory = tempfile.mkdtemp(prefix="terrace-bench-diskcache-", dir=os.environ.get("BENCH_DIR"))
        # Values stay in SQLite, as ours do.
        cache = diskcache.Cache(directory, eviction_policy="none", disk_min_file_size=1 << 20)
        keys = ["key:%015d/abcdefghij" % i for i in range(ENTRIES)]
        value = os.urandom(value_bytes)
        for key in keys:
            cache[key] = value
        measure("get", value_bytes, 20000, lambda i: cache.get(keys[i * 7919 % ENTRIES]))
        values = [os.urandom(value_bytes) for _ in range(16)]
        measure("put", value_bytes, 2000, lambda i: cache.set(keys[i], values[i % 16]))
        cache.close()
        shutil.rmtree(directory)


main()
