"""
python-diskcache as it grows: the operations of bench_curves.c, as far as it has
them. It lists by looking at every key; its iterkeys(), which sorts them, takes a
hundred times as long for ten times as many.

usage: peer_curves.py ENTRIES
"""

import os
import random
import shutil
import sys
import tempfile
import time

import diskcache

GROUP, ENOUGH_NS, LEAST = 100, 1500000000, 3


def key_of(i):
    return "group %08d/item %02d" % (i // GROUP, i % GROUP)


def tag_of(i):
    return "group %08d/" % (i // GROUP)


def measure(entries, operation, count, one):
    samples, clock = [], time.perf_counter_ns
    start = clock()
    while len(samples) < count and (len(samples) < LEAST or clock() - start < ENOUGH_NS):
        before = clock()
        one(len(samples))
        samples.append(clock() - before)
    samples.sort()
    p50 = samples[len(samples) // 2]
    print("curve", "python-diskcache", operation, entries, 1, p50, samples[len(samples) * 99 // 100],
          1000000000 // p50, sep="\t", flush=True)


def main():
    entries = int(sys.argv[1])
    directory = tempfile.mkdtemp(prefix="terrace-bench-diskcache-", dir=os.environ.get("BENCH_DIR"))
    settings = {"eviction_policy": "least-recently-stored", "disk_min_file_size": 1 << 20,
                "size_limit": 1 << 40, "tag_index": True}
    value, choose = os.urandom(100), random.Random(5)

    def somewhere():
        return choose.randrange(entries)

    def put(i):
        cache.set(key_of(i), value, tag=tag_of(i))

    def open_and_get(_):
        with diskcache.Cache(directory, **settings) as other:
            other.get(key_of(somewhere()))

    def list_group(_):
        prefix = tag_of(somewhere())
        assert sum(key.startswith(prefix) for key in cache) == GROUP

    def put_and_evict(turn):
        put(entries + turn)

    try:
        cache = diskcache.Cache(directory, **settings)
        for start in range(0, entries, 10000):
            with cache.transact():
                for i in range(start, start + 10000):
                    put(i)
        measure(entries, "open and get", 100, open_and_get)
        measure(entries, "get", 5000, lambda _: cache.get(key_of(somewhere())))
        measure(entries, "put", 2000, lambda _: put(somewhere()))
        measure(entries, "list 100 keys by prefix", 3, list_group)
        cache.reset("cull_limit", 1)
        cache.reset("size_limit", cache.volume() - 1)
        measure(entries, "put with eviction", 200, put_and_evict)
        cache.reset("size_limit", 1 << 40)
        measure(entries, "invalidate 100 entries by tag", 20,
                lambda turn: cache.evict(tag_of(entries // 2 + turn * GROUP)))
        cache.close()
    finally:
        shutil.rmtree(directory)


main()
