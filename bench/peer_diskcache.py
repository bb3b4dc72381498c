"""python-diskcache, as a Python program would use it."""

import multiprocessing
import os
import random
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


def mix(directory, seed, operations, ready, results):
    """Nine gets to a put, in a process of its own."""
    cache = diskcache.Cache(directory, eviction_policy="none", disk_min_file_size=1 << 20)
    keys = ["key:%015d/abcdefghij" % i for i in range(ENTRIES)]
    values = [os.urandom(1024) for _ in range(16)]
    choose = random.Random(seed)
    samples = []
    clock = time.perf_counter_ns
    for key in keys:  # what a process has in memory that has run for a while
        cache.get(key)
    ready.wait()
    start = clock()
    for i in range(operations):
        key = keys[choose.randrange(ENTRIES)]
        before = clock()
        if i % 10:
            cache.get(key)
        else:
            cache.set(key, values[i % 16])
        samples.append(clock() - before)
    results.put((start, clock(), samples))


def measure_mix(directory):
    processes, operations = 2, 10000
    ready, results = multiprocessing.Barrier(processes), multiprocessing.Queue()
    workers = [multiprocessing.Process(target=mix, args=(directory, seed, operations, ready, results))
               for seed in range(processes)]
    for worker in workers:
        worker.start()
    parts = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    total = max(end for _, end, _ in parts) - min(start for start, _, _ in parts)
    p50, p99 = percentiles([sample for _, _, samples in parts for sample in samples])
    print("l2", "python-diskcache", "mix of two processes", 1024, processes, p50, p99,
          int(processes * operations * 1e9 / total), sep="\t")


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
        if value_bytes == 1024:
            measure_mix(directory)
        shutil.rmtree(directory)


main()
