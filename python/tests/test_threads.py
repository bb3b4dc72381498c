"""Many threads on one object, and nothing left behind by any call."""

import asyncio
import gc
import io
import sys
import threading
import time

import pytest

import terrace
from terrace import Cache


@pytest.fixture(autouse=True)
def restless():
    """Threads take turns as often as the interpreter can, so that nothing holds by luck between two steps."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run_in_threads(count, work):
    """`work(number)` in so many threads at once; the first failure is raised."""
    failures = []
    start = threading.Barrier(count)

    def run(number):
        try:
            start.wait()
            work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_threads__count_exactly(cache):
    def work(number):
        for i in range(100):
            cache.incr("native", retry=True)
            cache.incr("float", 0.5, retry=True)
            with cache.transact(retry=True):
                cache["read, then written"] = cache.get("read, then written", 0) + 1

    run_in_threads(4, work)
    assert (cache["native"], cache["float"], cache["read, then written"]) == (400, 200.0, 400)


def test_threads__every_item_of_a_queue_once(cache):
    taken = []

    def work(number):
        for i in range(50):
            cache.push((number, i), retry=True)
        for i in range(50):
            taken.append(cache.pull(retry=True)[1])

    run_in_threads(4, work)
    assert sorted(taken) == [(number, i) for number in range(4) for i in range(50)]
    assert cache.pull() == (None, None)


def test_threads__compute_once(cache):
    calls = []

    def load():
        calls.append(1)
        time.sleep(0.02)  # so that the others come meanwhile
        return "computed"

    run_in_threads(8, lambda number: cache.fetch("key", load))
    assert calls == [1]
    function = cache.memoize(name="f")(load)
    run_in_threads(8, lambda number: function())
    assert len(calls) == 2


def test_threads__everything_at_once_while_it_closes(cache):
    """What is found is always whole, whatever others do, closing included."""

    def work(number):
        for i in range(60):
            key = "key%d" % (i % 5)
            if number == 0:
                cache.close()
            elif number == 1:
                cache.clear(retry=True)
            elif number == 2:
                assert all(isinstance(found, str) for found in cache)
            else:
                cache.set(key, (key, number, b"x" * 50_000), tag=key, retry=True)
            found = cache.get(key)
            assert found is None or (found[0] == key and len(found[2]) == 50_000)
            view = cache.view(key + "bytes")
            cache.set(key + "bytes", key.encode() * 1000, retry=True)
            assert view is None or bytes(view) == key.encode() * 1000

    run_in_threads(6, work)


def test_threads__on_one_iterator_get_every_key_once(directory):
    """It is one thread's at a time, as a generator is: another one is told so."""
    cache = Cache(directory, write_behind=True)
    for number in range(5000):
        cache[number] = number
    keys, found = iter(cache), []

    def work(number):
        while True:
            try:
                found.append(next(keys))
            except ValueError as failure:
                assert "another thread" in str(failure)
            except StopIteration:
                break

    run_in_threads(4, work)
    cache.close()
    assert sorted(found) == list(range(5000))


def test_threads__settings_change_while_others_open(directory):
    """Who opens the cache has where it is, and how, from one moment, whatever others set meanwhile."""
    cache = Cache(directory, name="a name that is no other" * 2)
    cache["key"] = "value"
    done = threading.Event()

    def work(number):
        try:
            for turn in range(1, 20000 if number == 0 else 10**9):
                if done.is_set():
                    break
                if number < 2:
                    cache.reset("size_limit", 2**30 + 2 * turn + number, update=False)
                else:
                    assert cache["key"] == "value"
        finally:
            done.set()

    run_in_threads(4, work)
    cache.close()
    with Cache(directory, name=cache.name) as again:
        assert again["key"] == "value"


def test_gil__is_free_while_a_call_waits(directory):
    """One thread waits for a transaction to end; another one can end it only if it gets to run."""
    one, other = Cache(directory, timeout=20), Cache(directory, timeout=20)
    waiting = threading.Event()

    def wait():
        waiting.set()
        other["key"] = "theirs"

    with one.transact():
        one["key"] = "ours"
        thread = threading.Thread(target=wait)
        thread.start()
        waiting.wait(20)
        time.sleep(0.02)  # it should be within the call by now; if not, nothing is lost
    thread.join()
    assert one["key"] == "theirs"


def test_transaction__belongs_to_its_thread(cache):
    with cache.transact():
        transaction = cache._begin  # a second one, by the extension itself
        with pytest.raises(ValueError, match="open already"):
            transaction()
    lease = cache._lease("key")
    failures = []

    def end():
        try:
            lease.put(1, None, None, None, None)
        except ValueError as failure:
            failures.append(failure)

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    assert "thread where it began" in str(failures[0])
    lease.put(1, None, None, None, None)
    lease.drop()
    with pytest.raises(ValueError, match="ended"):
        lease.put(1, None, None, None, None)


def test_transaction__left_on_another_thread_is_undone(cache):
    def change():
        with cache.transact():
            cache["key"] = 1
            yield

    left = change()
    next(left)
    thread = threading.Thread(target=left.close)
    thread.start()
    thread.join()
    with cache.transact():
        assert "key" not in cache  # undone by now
    assert cache.add("other", 2)


def test_transaction__of_a_thread_that_ended_is_undone(cache, directory):
    def change():
        with cache.transact():
            cache["key"] = 1
            yield

    left = change()
    thread = threading.Thread(target=lambda: next(left))
    thread.start()
    thread.join()
    with terrace.Cache(directory, timeout=5) as other:
        assert other.add("other", 2)
    left.close()
    assert "key" not in cache
    with cache.transact():
        cache["key"] = 3
    assert cache["key"] == 3


def test_transact__tasks_of_a_thread_share_it(cache):
    async def count():
        with cache.transact():
            now = cache.get("count", 0)
            await asyncio.sleep(0)
            cache["count"] = now + 1

    async def all_of_them():
        await asyncio.gather(*(count() for _ in range(5)))

    asyncio.run(all_of_them())
    assert 1 <= cache["count"] <= 5  # none waits for the other
    assert cache.add("other", 2)


# --- what is left behind --------------------------------------------------------------------


def test_files__written_and_read_by_many_threads(directory):
    def content(number):
        return bytes([number % 256]) * 600_000

    with Cache(directory) as cache:
        cache.set("shared", io.BytesIO(content(0)), read=True)
        shared = cache.read("shared")

        def work(number):
            for turn in range(10):
                mine, several = content(10 * number + turn), content(turn)
                assert cache.set(number, io.BytesIO(mine), read=True)  # nobody else sets it
                assert cache.get(number, read=True).read() == mine
                cache.set("key", io.BytesIO(several), read=True)
                file = cache.get("key", read=True)
                if file:
                    data = file.read()
                    assert data == data[:1] * 600_000
                shared.seek(turn)
                assert set(shared.read(1000)) == {0}

        run_in_threads(6, work)


def use_everything(cache, source):
    key, value = ("k", 1), [1, {"a": "b" * 100}, None, 2.5]
    cache.set(key, value, expire=10, tag=("a", "b"), sources=[source])
    cache[key], cache.get(key, expire_time=True, tag=True), cache.why(key), key in cache
    cache[b"bytes"] = b"x" * 10_000
    memoryview(cache.view(b"bytes")).release()
    cache.read(b"bytes").close()
    cache.set("file", io.BytesIO(b"x" * 300_000), tag="a", read=True), cache.read("file").read()
    cache._writer("dropped", None, None, None, None).write(b"x" * 300_000), cache.get("missing", read=True)
    cache.touch(key, 5), cache.add(key, 1), cache.pop(key), cache.delete("missing")
    cache.incr("n"), cache.incr("n", 0.5), cache.decr("big", 2**70), cache.get(2**70), cache.get(1.5)
    cache.push(value, "q"), cache.peek("q"), cache.pull("q", tag=True)
    list(cache), list(reversed(cache)), list(cache.iterkeys()), len(cache), cache.peekitem()
    cache.fetch("f", lambda: (1, 2)), cache.memoize(name="m")(lambda x: x)(5)
    cache.stats(), cache.volume(), cache.check(), cache.expire(), cache.evict("a"), cache.flush()
    with cache.transact():
        cache["t"] = 1
    iter(cache), cache._lease("dropped")
    sources = terrace.Sources(source)
    sources.add_listing(source.parent), sources.add_variable("HOME"), sources.add(source, content=True)
    cache.set("sourced", 1, sources=sources, idle=5), cache.why("sourced"), cache.check_sources()
    for wrong in (
        lambda: cache[object()], lambda: cache.set("k", {1}), lambda: cache.set("k", (1, {2: 3})),
        lambda: cache["missing"], lambda: cache.__delitem__("missing"), lambda: cache.set("k", 1, expire="x"),
        lambda: cache.set("k", 1, tag=object()), lambda: cache.set("k", 1, sources=["/"]), lambda: cache.get(),
        lambda: cache.fetch("wrong", object), lambda: cache.fetch("wrong", lambda: 1 / 0), lambda: cache["x" * 70000],
        lambda: sources.add_listing("/none"), lambda: sources.add_listing(5), lambda: sources.add_variable("="),
        lambda: cache.set("k", 1, idle=-1), lambda: cache.fetch("wrong", lambda: 1, idle="x"),
        lambda: cache._incr("k", "x", 0), lambda: terrace.Sources(5), lambda: cache.set("k", source, read=True),
    ):
        with pytest.raises((TypeError, KeyError, ValueError, ZeroDivisionError, AttributeError, FileNotFoundError)):
            wrong()
    cache.clear()
    cache.close()


def test_calls__leave_nothing_behind(cache, tmp_path):
    source = tmp_path / "source"
    source.write_text("x")
    grown = [40]
    # Python's own stores fill up at first; a reference that a call loses shows in every round.
    while grown[-1] >= 20 and len(grown) < 30:
        before = sys.getallocatedblocks()
        for _ in range(40):
            use_everything(cache, source)
        gc.collect()
        grown.append(sys.getallocatedblocks() - before)
    assert grown[-1] < 20, grown


def test_calls__drop_their_references(cache):
    class Key(str):
        pass

    key, value, tag = "key" * 10, ("value" * 10, 10**30), "tag" * 10
    before = [sys.getrefcount(one) for one in (key, value, tag, value[1])]
    for _ in range(100):
        cache.set(key, value, tag=tag, expire=100)
        cache[key] = value
        cache.get(key, value), cache.pop(key, value), cache.add(key, value, tag=tag), key in cache
        cache.touch(key), cache.delete(key), cache.get((key, value), tag=True)
        with pytest.raises(TypeError):
            cache.set(Key(key), value)
    assert [sys.getrefcount(one) for one in (key, value, tag, value[1])] == before
