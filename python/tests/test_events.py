"""What happens in a cache, told to a function of the program."""

import gc
import os
import subprocess
import sys
import textwrap
import threading

import pytest

import terrace
from support import in_child
from terrace import Cache

WAIT = 30


@pytest.fixture
def seen(cache):
    """[the cache, a list of its events]; end() delivers them all."""
    events = []
    subscription = cache.subscribe(events.append)
    return cache, events, subscription.close


def test_events__tell_kind_key_tier_and_count(seen):
    cache, events, end = seen
    cache[("a", 1)] = 1
    cache[("a", 1)], cache.get("b")
    cache.set("dead", 1, expire=-1)
    cache.get("dead")
    end()
    told = [(event.kind, event.key, event.tier, event.entries, event.lost) for event in events]
    assert told[:3] == [("put", ("a", 1), None, 1, 0), ("hit", ("a", 1), "l1", 1, 0), ("miss", "b", None, 1, 0)]
    assert ("expire", "dead", told[-2][2], 1, 0) in told and ("miss", "dead", None, 1, 0) in told
    assert all(event.cache == "default" and event.when > 1e9 and event.statistics is None for event in events)
    before = len(events)
    cache["a"] = 1
    assert len(events) == before


@pytest.mark.parametrize("key", ["text", b"bytes", 5, 2.5, None, "", (1, ("x", None))])
def test_events__give_the_key_as_it_was(cache, key):
    events = []
    with cache.subscribe(events.append, "put"):
        cache[key] = 1
    assert [event.key for event in events] == [key] and type(events[0].key) is type(key)


def test_events__of_a_key_that_cannot_be_read(directory):
    events = []
    with Cache(directory, pickle=True) as writer, Cache(directory) as careful:
        with careful.subscribe(events.append, "put"):
            writer[frozenset([1])] = 1
    assert [event.key for event in events] == [terrace.UNKNOWN]


def test_events__of_the_kinds_that_were_asked_for(cache):
    events, statistics = [], threading.Event()
    with cache.subscribe(events.append, ["miss", "put"]):
        cache["a"] = 1
        cache["a"], cache.get("b")
    assert [event.kind for event in events] == ["put", "miss"]

    def tell(event):
        events.append(event)
        statistics.set()

    with cache.subscribe(tell, "statistics", statistics_every=0.001):
        assert statistics.wait(WAIT)
    assert events[-1].kind == "statistics" and events[-1].statistics["puts"] >= 1 and events[-1].key is None
    for wrong in ("hits", ["put", "x"], [], [1]):
        with pytest.raises(ValueError):
            cache.subscribe(print, wrong)
    for wrong in (0, -1, 2**21, True, "1"):
        with pytest.raises(ValueError):
            cache.subscribe(print, queue=wrong)
    for wrong in (0, -1, float("nan"), 1e12):
        with pytest.raises(ValueError):
            cache.subscribe(print, statistics_every=wrong)
    with pytest.raises(TypeError):
        cache.subscribe(5)


def test_events__in_order_for_each_key_over_threads(cache):
    orders = {}
    with cache.subscribe(lambda event: orders.setdefault(event.key, []).append(event.kind), ["put", "miss"], queue=4000):

        def work(number):
            for i in range(200):
                cache.set(number, i, retry=True)
                cache.delete(number, retry=True)
                assert cache.get(number) is None

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert orders == {number: ["put", "miss"] * 200 for number in range(4)}


def test_events__a_slow_function_loses_the_oldest_and_is_told(cache):
    entered, go_on, events = threading.Event(), threading.Event(), []

    def slow(event):
        events.append(event)
        entered.set()
        assert go_on.wait(WAIT)

    with cache.subscribe(slow, "miss", queue=4):
        cache.get("first")
        assert entered.wait(WAIT)
        for i in range(10):
            cache.get(i)  # does not wait for it
        go_on.set()
    assert [(event.key, event.lost) for event in events] == [("first", 0), (6, 6), (7, 0), (8, 0), (9, 0)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_events__what_the_function_raises_is_reported_and_nothing_else(cache, monkeypatch, error):
    reports = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reports.append((report.exc_type, report.object)))

    def fail(event):
        raise error("no")

    with cache.subscribe(fail, "miss"):
        assert cache.get("a") is None and cache.get("b") is None
    assert reports == [(error, fail)] * 2


def test_events__the_function_may_use_the_cache_and_end_it_all(cache):
    done, found = threading.Event(), []

    def use(event):
        found.append(cache.get("other"))
        cache["made"] = event.key
        subscription.close()
        subscription.close()
        cache.close()
        done.set()

    cache["other"] = 7
    ready = threading.Event()
    subscription = cache.subscribe(lambda event: ready.wait(WAIT) and use(event), "miss")
    cache.get("a"), cache.get("b")
    ready.set()
    assert done.wait(WAIT)
    assert found == [7] and cache["made"] == "a" and subscription.closed


def test_close__ends_what_was_subscribed(cache):
    events = []
    subscription = cache.subscribe(events.append, "miss")
    cache.get("a")
    cache.close()
    assert [event.key for event in events] == ["a"] and subscription.closed
    cache.get("b")
    assert len(events) == 1


def test_reset__takes_effect_beside_subscriptions(directory):
    events = []
    with Cache(directory, eviction_policy="none") as cache:
        cache.subscribe(events.append, "miss")
        cache.get("before")
        cache.reset("eviction_policy", "least-recently-used")
        cache.reset("size_limit", 100_000)
        for i in range(100):
            cache[i] = os.urandom(10_000)
        assert cache.volume() <= 100_000
        cache.get("after")
    assert [event.key for event in events] == ["before", "after"]


def test_reset__ends_what_was_ended_meanwhile(cache):
    """Another thread may end a subscription while a change of the settings begins it anew."""
    begin, handles = cache._subscribe, []

    def ended_meanwhile(*asked):
        handles.append(begin(*asked))
        subscription.close()
        return handles[0]

    events = []
    subscription = cache.subscribe(events.append, "put")
    cache._subscribe = ended_meanwhile
    cache.reset("size_limit", 2**29, update=False)
    cache["key"] = 1
    handles[0].close()  # delivers what it had
    assert events == []


def test_fork__leaves_them_with_the_parent(cache):
    events = []
    subscription = cache.subscribe(events.append, "miss")

    def work():
        cache.get("child")
        subscription.close()
        assert not events
        with cache.subscribe(events.append, "miss"):
            cache.get("own")
        assert [event.key for event in events] == ["own"]
        cache.close()

    in_child(work)
    cache.get("parent")
    subscription.close()
    assert [event.key for event in events] == ["parent"]


ENDINGS = {
    "in the middle": "",
    "by an exception": "raise ValueError('on purpose')",
    "with a function that is slow": """
def slow(event):
    time.sleep(0.2)
    os.write(1, b"slow")
cache.subscribe(slow, "miss"), cache.get("slow")
""",
    "with a daemon that goes on": "start_daemon()",
    "with a function at exit": "import atexit; atexit.register(lambda: cache.get('late'))",
    "with a cycle": "Cache.loop = cache.subscribe(lambda event: Cache.loop); cache.get('k')",
}


@pytest.mark.parametrize("how", ENDINGS)
def test_exit__below_a_subscription_is_clean(directory, how):
    program = """
        import os, sys, threading, time
        from terrace import Cache
        cache = Cache(sys.argv[1])
        cache.subscribe(lambda event: os.write(1, b"." if event.kind == "miss" else b""))
        def start_daemon():
            def work():
                while True:
                    cache.get("daemon")
            threading.Thread(target=work, daemon=True).start()
        for i in range(100):
            cache.get(i)
    """
    text = textwrap.dedent(program) + ENDINGS[how] + "\n"
    done = subprocess.run([sys.executable, "-c", text, directory], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    raised = how == "by an exception"
    assert done.returncode == int(raised), done.stderr.decode()
    assert (b"on purpose" in done.stderr) if raised else done.stderr == b"", done.stderr.decode()
    assert done.stdout.count(b".") >= 100
    assert (b"slow" in done.stdout) == ("slow" in how)


def test_subscribe__when_the_program_ends_is_refused(directory):
    program = """
        import atexit, sys
        def late():
            try:
                cache.subscribe(print)
            except RuntimeError as error:
                print(error)
        atexit.register(late)
        from terrace import Cache
        cache = Cache(sys.argv[1])
    """
    command = [sys.executable, "-c", textwrap.dedent(program), directory]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    assert b"the program is ending" in done.stdout and done.returncode == 0


def test_subscriptions__leave_nothing_behind(cache, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda report: None)

    def fail(event):
        raise ValueError(event)

    def use_all():
        for function in (lambda event: None, fail):
            with cache.subscribe(function, statistics_every=0.001):
                cache[("k", 1)] = 1
                cache[("k", 1)], cache.get("missing"), cache.delete(("k", 1))
        cache.subscribe(lambda event: event)
        cache.get("missing")
        cache.close()

    grown = [40]
    # As with the other calls: a reference that is lost shows in every round.
    while grown[-1] >= 20 and len(grown) < 30:
        before = sys.getallocatedblocks()
        for _ in range(40):
            use_all()
        gc.collect()
        grown.append(sys.getallocatedblocks() - before)
    assert grown[-1] < 20, grown
    class Function:
        def __call__(self, event):
            pass

    function = Function()
    before = sys.getrefcount(function)
    for _ in range(50):
        with cache.subscribe(function):
            cache.get("missing")
    assert sys.getrefcount(function) == before
