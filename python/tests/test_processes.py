"""One store, many processes: other programs, and children that inherit a Cache."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from support import in_child
from terrace import Cache, Timeout


def start(directory, program):
    """Another Python on the same directory; it says "ready" before it waits for its input."""
    text = "import sys, os, time\nfrom terrace import Cache\ncache = Cache(%r, timeout=20)\n" % directory
    command = [sys.executable, "-c", text + textwrap.dedent(program)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def finish(process):
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out


def test_processes__count_and_queue_exactly(cache):
    program = """
        for i in range(100):
            cache.incr("n", retry=True)
            with cache.transact(retry=True):
                cache["m"] = cache.get("m", 0) + 1
            cache.push(i, retry=True)
    """
    processes = [start(cache.directory, program) for _ in range(3)]
    for process in processes:
        finish(process)
    assert cache["n"] == cache["m"] == 300
    assert sorted(cache.pull()[1] for _ in range(300)) == sorted(list(range(100)) * 3)


def test_processes__see_each_others_writes_at_once(directory):
    with Cache(directory) as cache:
        cache["key"] = 0
        other = start(directory, """
            for line in sys.stdin:
                assert cache["key"] == int(line), line
                cache["key"] += 1
                print("done", flush=True)
        """)
        for i in range(0, 200, 2):
            cache["key"] = i
            assert cache["key"] == i
            other.stdin.write(b"%d\n" % i)
            other.stdin.flush()
            assert other.stdout.readline() == b"done\n"
            assert cache["key"] == i + 1
        finish(other)


def test_processes__compute_once(cache):
    program = """
        def load():
            time.sleep(0.05)  # so that the others come meanwhile
            cache.incr("calls", retry=True)
            return "computed"
        print("ready", flush=True)
        sys.stdin.readline()
        assert cache.fetch("key", load) == "computed"
    """
    processes = [start(cache.directory, program) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        finish(process)
    assert cache["calls"] == 1


def test_transact__holds_against_processes_and_dies_with_its_own(directory):
    with Cache(directory, timeout=0.05) as cache:
        cache["key"] = "before"
        other = start(directory, """
            with cache.transact():
                cache["key"] = "half"
                print("ready", flush=True)
                time.sleep(60)
        """)
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(Timeout):
            cache.set("key", "mine")
        assert cache["key"] == "before"
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        other.stdin.close()
        other.stdout.close()
        assert cache["key"] == "before"
        assert cache.set("key", "mine", retry=True) and cache["key"] == "mine"


# --- fork ------------------------------------------------------------------------------------------


def test_fork__the_child_opens_by_itself(cache):
    cache["key"] = "parent"
    cache.flush()
    iterator, view = iter(cache), None
    cache["large"] = b"x" * 100_000
    cache.flush()
    view = cache.view("large")

    def work():
        assert cache["key"] == "parent"
        cache["key"] = "child"
        assert cache.incr("n") == 1
        cache.push("queued")
        cache.flush()
        assert bytes(view) == b"x" * 100_000
        with pytest.raises(RuntimeError, match="before a fork"):
            next(iterator)
        assert set(cache) >= {"key", "n"}
        cache.close()
        assert cache["key"] == "child"
        cache.close()

    in_child(work)
    assert cache["key"] == "child" and cache["n"] == 1 and cache.pull()[1] == "queued"
    assert next(iterator) == "key"


def test_fork__a_transaction_stays_with_the_parent(directory):
    cache = Cache(directory, timeout=0.05)
    cache["key"] = "before"

    def work():
        assert cache["key"] == "before"
        with pytest.raises(Timeout):
            cache.set("key", "child")
        with pytest.raises(Timeout):
            with cache.transact():
                pass

    with cache.transact():
        cache["key"] = "parent"
        in_child(work)
    assert cache["key"] == "parent"
    in_child(lambda: cache.set("key", "child"))
    assert cache["key"] == "child"


def test_fork__beside_busy_threads(cache):
    import threading

    stop = threading.Event()

    def write():
        while not stop.is_set():
            cache.set("busy", os.urandom(100), retry=True)
            cache.get("busy")

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for i in range(10):
            in_child(lambda: cache.set(i, i, retry=True) and cache.close())
            assert cache[i] == i
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def square(argument):
    cache, number = argument
    return cache.fetch(number, lambda: number * number)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pool__takes_the_object_along(cache, method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(square, [(cache, i % 10) for i in range(40)], chunksize=5)
        pool.close()
        pool.join()
    assert found == [(i % 10) ** 2 for i in range(40)]
    assert set(cache) == set(range(10))


def test_open__a_store_that_may_only_be_read(directory):
    """As the command made it: without what Python has besides."""
    store = os.path.join(directory, "store")
    put = [os.environ["TERRACE_BIN"], "--dir", store, "put", "default", "key"]
    subprocess.run(put, input=b"bytes", check=True)
    for path, _, names in os.walk(directory, topdown=False):
        for name in names:
            os.chmod(os.path.join(path, name), 0o400)
        os.chmod(path, 0o500)
        if os.geteuid() == 0:
            for name in [*names, ""]:
                os.chown(os.path.join(path, name), 65534, 65534)

    def work():
        if os.geteuid() == 0:
            os.setuid(65534)
        cache = Cache(store)
        assert len(cache) == 1 and "key" in cache and list(cache) == ["key"]
        with pytest.raises(PermissionError, match="read-only"):
            cache["key"] = 1
        with pytest.raises(PermissionError, match="read-only"):
            cache.push(1)

    in_child(work)
    for path, _, _ in os.walk(directory):
        os.chmod(path, 0o700)
