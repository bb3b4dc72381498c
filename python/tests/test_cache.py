"""What python-diskcache's Cache documents, and what Terrace adds."""

import ctypes
import io
import os
import pickle
import shutil
import subprocess
import time
import warnings

import pytest

import terrace
from terrace import Cache


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return self.x == other.x


# --- values ------------------------------------------------------------------------------

NATIVE = [
    b"", b"\x00\xff", b"x" * 100_000, "", "text", "\0", "grüße \U0001f600", "half \ud800", "x" * 100_000,
    0, 1, -1, 2**63 - 1, -(2**63), 2**63, 10**30, -(10**4000), 0.0, -0.0, 1.5, 1e300, float("inf"),
    True, False, None, (), (1, "a", b"b", None, 2.5, True, (3, ())), ([1, 2], {"k": [None]}),
    [], [1, [2.5, "x", None, True]], {}, {"a": {"b": [1]}},
]


@pytest.mark.parametrize("value", NATIVE, ids=lambda value: repr(value)[:30])
def test_set__gives_back_the_same_value_of_the_same_type(cache, value):
    assert cache.set("key", value) is True
    cache.close()  # nothing in memory
    found = cache["key"]
    assert found == value and type(found) is type(value) and repr(found) == repr(value)


@pytest.mark.parametrize("value", [Point(1), {1: 2}, [(1, 2)], [b"x"], {"a": (1,)}, bytearray(b"x"), {1}, object()])
def test_set__refuses_what_would_come_back_otherwise(cache, value):
    cache["key"] = "before"
    with pytest.raises(TypeError, match="pickle=True"):
        cache.set("key", value)
    with pytest.raises(TypeError, match="pickle=True"):
        cache.set("other", (1, value))
    assert cache["key"] == "before" and "other" not in cache


def test_pickle__only_where_it_was_asked_for(directory):
    with Cache(directory, pickle=True) as open_to_all:
        for value in (Point(3), {1: 2}, [(1, 2)], (1, Point(2)), {1, 2}):
            open_to_all["key"] = value
            assert open_to_all["key"] == value
        open_to_all[frozenset([1])] = "by a pickled key"
        assert open_to_all[frozenset([1])] == "by a pickled key"
    with Cache(directory) as careful:
        assert careful.get("key", "default") == "default"
        assert list(careful) == ["key"]
        with pytest.raises(TypeError):
            careful[frozenset([1])]


def terrace_command(cache, *args, stdin=b""):
    if not os.environ.get("TERRACE_BIN"):
        pytest.skip("TERRACE_BIN does not name the command")
    command = [os.environ["TERRACE_BIN"], "--dir", cache.directory, *args]
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize(
    "stored", [b"j{", b"j[", b"q", b"f123", b"(\0\0\0\x09s", b"(\0\0", b"x", b"12a", b"-", b"s\xff", b"(" * 5000]
)
def test_get__what_no_python_wrote_is_a_miss(cache, stored):
    terrace_command(cache, "put", "default", "key", stdin=stored)
    assert cache.get("key", "default") == "default"
    assert cache.pop("key", "default") == "default"
    cache["key"] = 1
    assert cache["key"] == 1


def test_set__the_command_reads_text_and_numbers(cache):
    cache["key"], cache["n"] = "text", -17
    cache.flush()
    assert terrace_command(cache, "get", "default", "key") == b"stext"
    assert terrace_command(cache, "get", "default", "n") == b"-17"


# --- get, set and the like ------------------------------------------------------------------


def test_get__default_expire_time_and_tag(cache):
    assert cache.get("missing") is None
    assert cache.get("missing", 7) == 7
    assert cache.get("missing", 7, expire_time=True) == (7, None)
    assert cache.get("missing", 7, tag=True) == (7, None)
    assert cache.get("missing", 7, expire_time=True, tag=True) == (7, None, None)
    before = time.time()
    cache.set("key", "v", expire=100, tag="t")
    value, expire_time, tag = cache.get("key", expire_time=True, tag=True)
    assert (value, tag) == ("v", "t") and before + 99 < expire_time < time.time() + 101
    cache.set("key", "v")
    assert cache.get("key", expire_time=True, tag=True) == ("v", None, None)


def test_set__replaces_value_expiry_and_tag(cache):
    cache.set("key", 1, expire=100, tag="old")
    cache.set("key", 2, tag="new")
    assert cache.evict("old") == 0
    assert cache.get("key", expire_time=True, tag=True) == (2, None, "new")


@pytest.mark.parametrize("expire", [0, -1, 0.0005])
def test_set__that_has_expired_is_not_there(cache, expire):
    cache.set("key", 1, expire=expire)
    while expire > 0 and "key" in cache:
        time.sleep(0.001)  # the store's clock ticks every few milliseconds
    assert cache.get("key") is None and "key" not in cache
    assert cache.why("key").reason == "expired"
    assert cache.add("key", 2) is True


def test_set__refuses_a_wrong_expiry_or_tag(cache):
    for wrong in ("1", float("nan"), [], object()):
        with pytest.raises((TypeError, ValueError)):
            cache.set("key", 1, expire=wrong)
    for wrong in ("x" * 256, "a\0b", object(), [["x"]], ["t"] * 0 + list(range(65))):
        with pytest.raises((TypeError, ValueError)):
            cache.set("key", 1, tag=wrong)
    assert len(cache) == 0


def test_items__as_a_dict_has_them(cache):
    cache["a"] = 1
    assert cache["a"] == 1 and "a" in cache and "b" not in cache and len(cache) == 1
    del cache["a"]
    for call in (lambda: cache["a"], lambda: cache.__delitem__("a")):
        with pytest.raises(KeyError) as raised:
            call()
        assert raised.value.args == ("a",)
    with pytest.raises(KeyError) as raised:
        cache[(1, 2)]
    assert raised.value.args == ((1, 2),)


def test_add__stores_once(cache):
    assert cache.add("key", 1, expire=100, tag="t") is True
    assert cache.add("key", 2) is False
    assert cache.get("key", tag=True) == (1, "t")


def test_touch__gives_a_new_life(cache):
    assert cache.touch("key") is False
    cache.set("key", 1, expire=-1)
    assert cache.touch("key", 100) is False
    cache.set("key", 1, expire=50, tag="t")
    assert cache.touch("key", 500) is True
    value, expire_time, tag = cache.get("key", expire_time=True, tag=True)
    assert expire_time > time.time() + 400 and tag == "t"
    assert cache.touch("key") is True
    assert cache.get("key", expire_time=True) == (1, None)


def test_delete__says_whether_it_was_there(cache):
    cache["key"] = 1
    assert cache.delete("key") is True
    assert cache.delete("key") is False
    assert cache.why("key").reason == "deleted"


def test_pop__takes_it_out(cache):
    assert cache.pop("key") is None
    assert cache.pop("key", "d", expire_time=True, tag=True) == ("d", None, None)
    cache.set("key", [1], expire=100, tag="t")
    value, expire_time, tag = cache.pop("key", expire_time=True, tag=True)
    assert value == [1] and expire_time > time.time() and tag == "t"
    assert "key" not in cache


def test_incr__counts_numbers_of_all_kinds(cache):
    assert cache.incr("n") == 1
    assert cache.incr("n", 10) == 11
    assert cache.decr("n", 20) == -9
    assert cache.incr("m", default=100) == 101
    assert cache.incr("f", 0.5) == 0.5
    assert cache.incr("f") == 1.5
    assert cache.incr("n", 0.5) == -8.5
    cache["big"] = 2**63 - 1
    assert cache.incr("big") == 2**63
    assert cache.incr("big") == cache["big"] == 2**63 + 1
    assert cache.decr("big", 2**64) < 0
    with pytest.raises(KeyError):
        cache.incr("missing", default=None)
    cache["text"] = "x"
    with pytest.raises(TypeError):
        cache.incr("text")
    assert cache["text"] == "x"


@pytest.mark.parametrize("delta", [1, 0.5])
def test_incr__keeps_expiry_and_tag(cache, delta):
    cache.set("n", 1, expire=100, tag="t")
    cache.incr("n", delta)
    value, expire_time, tag = cache.get("n", expire_time=True, tag=True)
    assert value == 1 + delta and tag == "t" and abs(expire_time - time.time() - 100) < 2


def test_read__gives_a_file(cache):
    content = os.urandom(100_000)
    assert cache.set("file", io.BytesIO(content), read=True) is True
    assert cache.add("added", io.BytesIO(b"small"), read=True) is True
    with cache.read("file") as file:
        assert file.read() == content
    assert cache.get("added", read=True).read() == b"small"
    assert cache["file"] == content
    with pytest.raises(KeyError):
        cache.read("missing")
    with pytest.raises(TypeError):
        cache.set("key", io.StringIO("text"), read=True)


# --- many ----------------------------------------------------------------------------------------


def test_iter__in_order_of_arrival_both_ways(cache):
    for key in ("c", "a", 3, b"x", "b"):
        cache[key] = key
    cache["a"] = "again"
    assert list(cache) == ["c", "a", 3, b"x", "b"]
    assert list(reversed(cache)) == ["b", b"x", 3, "a", "c"]
    assert cache.peekitem() == ("b", "b")
    assert cache.peekitem(last=False) == ("c", "c")


def test_iter__whatever_way_the_keys_came(cache):
    cache["first"] = 1
    cache.add("second", 2)
    cache["third"] = 3
    cache.incr("fourth")
    cache["fifth"] = 5
    cache["sixth"] = b"6" * 100000
    cache.push(7)
    assert list(cache) == ["first", "second", "third", "fourth", "fifth", "sixth", 500000000000000]


def test_iterkeys__in_order_of_keys(cache):
    keys = ["b", 10, b"a", 2.5, "a", -3, (2,), b"\xff", None]
    for key in keys:
        cache[key] = 0
    ordered = list(cache.iterkeys())
    assert ordered[:7] == [-3, 2.5, 10, "a", "b", b"a", b"\xff"]
    assert set(ordered[7:]) == {(2,), None}
    assert list(cache.iterkeys(reverse=True)) == ordered[::-1]


def test_peekitem__skips_what_has_expired(cache):
    with pytest.raises(KeyError, match="dictionary is empty"):
        cache.peekitem()
    cache.set("a", 1, tag="t")
    cache.set("b", 2, expire=-1)
    assert cache.peekitem(tag=True, expire_time=True) == (("a", 1), None, "t")


def test_evict__by_one_of_many_tags(cache):
    cache.set("a", 1, tag=("x", "y"))
    cache.set("b", 1, tag="y")
    cache.set("c", 1, tag=["z"])
    assert set(cache.get("a", tag=True)[1]) == {"x", "y"}
    assert cache.get("c", tag=True)[1] == "z"
    assert cache.evict("none") == 0
    assert cache.evict("y") == 2
    assert list(cache) == ["c"]


@pytest.mark.parametrize("tag", ["", "\x02x", "ü", 1, -5, 2.5, 10**30, b"\0\xff"])
def test_evict__tags_of_every_type(cache, tag):
    cache.set("a", 1, tag=tag)
    cache.set("b", 1, tag="other")
    found = cache.get("a", tag=True)[1]
    assert found == tag and type(found) is type(tag)
    assert cache.evict(tag) == 1 and list(cache) == ["b"]


def test_expire__removes_what_is_dead(cache):
    cache.set("dead", 1, expire=-1)
    cache.set("later", 1, expire=1000)
    cache.set("never", 1)
    assert len(cache) == 3
    assert cache.expire() == 1
    assert len(cache) == 2
    assert cache.expire(now=time.time() + 500) == 0
    assert cache.expire(now=time.time() + 2000) == 1
    assert list(cache) == ["never"]


def test_clear__removes_everything(cache):
    with cache.transact():  # written behind, one of so many might give way to another
        for i in range(300):
            cache[i] = i
        cache.push("queued")
    assert cache.clear() == 301
    assert len(cache) == 0 and list(cache) == []
    assert cache.push("again") == 500_000_000_000_000
    assert cache.why(7).reason == "cleared"


def test_cull__keeps_the_limit(directory):
    with Cache(directory, size_limit=200_000, cull_limit=0) as cache:
        for i in range(100):
            cache[i] = os.urandom(10_000)
        assert len(cache) == 100  # cull_limit=0: set() removes nothing
        removed = cache.cull()
        assert removed >= 80 and len(cache) == 100 - removed and cache.volume() <= 200_000
        cache.reset("cull_limit", 10)
        for i in range(100):
            cache[i] = os.urandom(10_000)
        assert cache.volume() <= 200_000
        assert cache.reset("eviction_policy", "none") == "none"
        for i in range(100):
            cache[i] = os.urandom(10_000)
        assert len(cache) == 100 and cache.cull() == 0


def test_set__of_what_cannot_be_kept_is_a_miss_and_no_error(directory):
    with Cache(directory, size_limit=10_000) as cache:
        cache["key"] = "small"
        assert cache.set("key", os.urandom(100_000)) is False
        cache["key"] = os.urandom(100_000)
        assert "key" not in cache
        assert cache.why("key").reason == "rejected"


def test_volume_and_check(cache):
    before = cache.volume()
    for i in range(10):
        cache[i] = os.urandom(1000)
    assert cache.volume() - before >= 10_000
    assert cache.check() == []
    cache["large"] = os.urandom(100_000)
    cache.flush()
    for base, _, names in os.walk(os.path.join(cache.directory, "v2", "files")):
        for name in names:
            os.truncate(os.path.join(base, name), 100)
    found = cache.check()
    assert found and all(isinstance(one, warnings.WarningMessage) for one in found)
    cache.check(fix=True)
    assert cache.check() == []
    cache.close()
    assert "large" not in cache and cache[3]


def test_stats__while_they_are_on(directory):
    with Cache(directory) as cache:
        cache["a"] = 1
        cache["a"], cache.get("b")
        assert cache.stats() == (0, 0)  # they were off
        cache["a"], cache["a"], cache.get("b")
        assert cache.stats() == (2, 1)
        assert cache.reset("hits") == 2
        assert cache.stats(enable=False, reset=True) == (2, 1)
        cache["a"]
        assert cache.stats() == (0, 0)
    with Cache(directory) as cache:
        assert cache.statistics == 1
        cache["a"]
        assert cache.stats() == (1, 0)


# --- queues -----------------------------------------------------------------------------------------


def test_push__numbers_its_keys(cache):
    assert cache.pull() == (None, None)
    assert cache.push("a") == 500_000_000_000_000
    assert cache.push("b") == 500_000_000_000_001
    assert cache.push("c", side="front") == 499_999_999_999_999
    assert cache[500_000_000_000_001] == "b"
    assert cache.push("x", prefix="jobs") == "jobs-500000000000000"
    assert cache.push("y", "jobs", side="front") == "jobs-499999999999999"
    assert cache.peek() == (499_999_999_999_999, "c")
    assert cache.pull() == (499_999_999_999_999, "c")
    assert cache.pull(side="back") == (500_000_000_000_001, "b")
    assert cache.pull("jobs") == ("jobs-499999999999999", "y")
    assert cache.peek("jobs", side="back") == ("jobs-500000000000000", "x")
    assert cache.pull() == (500_000_000_000_000, "a")
    assert cache.pull(default=("none", 0)) == ("none", 0)
    assert cache.push("again") == 500_000_000_000_000
    assert len(cache) == 2


def test_pull__expiry_tags_and_gaps(cache):
    cache.push("dead", expire=-1)
    cache.push("deleted")
    cache.push("live", expire=100, tag="t")
    del cache[500_000_000_000_001]
    (key, value), expire_time, tag = cache.peek(expire_time=True, tag=True)
    assert (key, value, tag) == (500_000_000_000_002, "live", "t") and expire_time > time.time()
    assert cache.pull(tag=True) == ((key, "live"), "t")
    assert cache.pull(expire_time=True) == ((None, None), None)


def test_pull__finds_its_way_over_a_great_gap(cache):
    with cache.transact():
        for i in range(1000):
            cache.push(i, tag="gone" if i else "first")
        cache.push("last")
    cache.evict("first")
    cache.evict("gone")
    assert cache.pull() == (500_000_000_001_000, "last")
    assert cache.pull() == (None, None)


def test_push__goes_round_what_stands_in_its_way(cache):
    cache.push("a")
    cache[500_000_000_000_001] = "by hand"
    assert cache.push("b") == 500_000_000_000_002
    assert [cache.pull()[1] for _ in range(3)] == ["a", "by hand", "b"]
    with pytest.raises(ValueError):
        cache.push("x", side="middle")
    with pytest.raises(TypeError):
        cache.push("x", prefix=1)


def test_queue__stands_without_its_notes(directory):
    with Cache(directory) as cache:
        for letter in "abc":
            cache.push(letter)
        cache.push("z", prefix="\x01odd")
        assert cache._queue_notes._clear() == 2
        assert cache.pull() == (500_000_000_000_000, "a")
        assert cache.push("d") == 500_000_000_000_003
        assert cache.pull("\x01odd") == ("\x01odd-500000000000000", "z")


# --- transactions ----------------------------------------------------------------------------------


def test_transact__all_or_nothing(cache):
    cache["n"] = 1
    with pytest.raises(ZeroDivisionError):
        with cache.transact():
            cache["n"] = 2
            cache["m"] = 2
            cache.push("queued")
            with cache.transact():
                cache.incr("n")
                assert cache["n"] == 3
            del cache["n"]
            cache.clear()
            1 / 0
    assert cache["n"] == 1 and list(cache) == ["n"]
    with cache.transact():
        cache["n"] += 1
        cache.push("queued")
    assert cache["n"] == 2 and cache.pull()[1] == "queued"


def test_transact__two_objects_of_one_store_nest(directory):
    with Cache(directory) as one, Cache(directory, name="other") as two:
        with one.transact():
            with two.transact():
                two["b"] = 1
            one["a"] = 1
        assert one["a"] == two["b"] == 1


# --- computing ----------------------------------------------------------------------------------------


def test_memoize__by_arguments(cache):
    calls = []

    @cache.memoize(expire=100, tag="fib")
    def fib(number):
        """Doc."""
        calls.append(number)
        return number if number < 2 else fib(number - 1) + fib(number - 2)

    assert fib(10) == 55 and len(calls) == 11
    assert cache[fib.__cache_key__(10)] == 55
    assert fib.__doc__ == "Doc." and fib.__wrapped__(1) == 1
    assert cache.evict("fib") == 11
    fib(3)
    assert len(calls) == 12 + 4


def test_memoize__names_types_and_what_is_ignored(cache):
    def function(*args, **kwargs):
        calls.append(args)
        return len(calls)

    calls = []
    plain = cache.memoize(name="plain")(function)
    typed = cache.memoize(name="typed", typed=True)(function)
    partly = cache.memoize(name="partly", ignore={1, "log"})(function)
    assert plain(1, a=2, b=3) == plain(1, b=3, a=2) == 1
    assert plain.__cache_key__(1, b=3, a=2) == ("plain", 1, None, "a", 2, "b", 3)
    assert typed(True) != typed("True")
    assert typed.__cache_key__(1) != typed.__cache_key__(1.0)
    assert partly(1, 2, log=3) == partly(1, 9, log=4)
    never = cache.memoize(name="never", expire=0)(function)
    assert never(1) != never(1)
    with pytest.raises(TypeError, match="name cannot be callable"):
        cache.memoize(function)


def test_memoize__none_is_a_result(cache):
    calls = []
    function = cache.memoize(name="f")(lambda: calls.append(1))
    assert function() is None and function() is None and len(calls) == 1


def test_fetch__computes_once_and_passes_on_failures(cache):
    assert cache.fetch("key", lambda: "computed", expire=100, tag="t") == "computed"
    assert cache.fetch("key", lambda: 1 / 0) == "computed"
    assert cache.get("key", tag=True) == ("computed", "t")
    with pytest.raises(ZeroDivisionError):
        cache.fetch("other", lambda: 1 / 0)
    with pytest.raises(TypeError, match="pickle=True"):
        cache.fetch("other", object)
    assert cache.fetch("other", lambda: 5) == 5  # nobody holds it
    assert cache.fetch("self", lambda: cache.fetch("self", lambda: 3)) == 3


def test_fetch__what_was_written_meanwhile_stands(cache):
    def load():
        cache["key"] = "written"
        return "computed"

    assert cache.fetch("key", load) == "computed"
    assert cache["key"] == "written"


def test_sources__a_change_is_a_miss(cache, tmp_path):
    source, absent = tmp_path / "source", tmp_path / "absent"
    source.write_text("one")
    assert cache.fetch("key", source.read_text, sources=[source, str(absent)]) == "one"
    assert cache["key"] == "one"
    assert cache.why("key").info["sources"] == [("file", str(source), False), ("absent", str(absent), False)]
    source.write_text("other")
    assert "key" not in cache and cache.get("key") is None
    assert cache.why("key").reason == "source changed" and str(source) in cache.why("key").detail
    sources = terrace.Sources()
    assert open(sources.add(source)).read() == "other"
    cache.set("key", "other", sources=sources)
    absent.write_text("no longer")
    assert len(sources) == 1 and cache["key"] == "other"
    assert cache.set("single", 1, sources=str(source)) and cache["single"] == 1
    for wrong in (tmp_path, 5, [None]):
        with pytest.raises((TypeError, ValueError)):
            cache.set("key", 1, sources=wrong)


def test_view__is_pinned_and_copies_nothing(cache):
    content = os.urandom(1_000_000)
    cache["key"] = content
    cache.flush()
    view, again = cache.view("key"), cache.view("key")
    assert view == content and view.readonly and view.nbytes == len(content)
    assert address(view) == address(again)
    cache["key"] = b"other"
    cache.clear()
    cache.close()
    assert view == content
    cache["text"] = "grün"
    assert bytes(cache.view("text")) == "grün".encode()
    assert cache.view("missing") is None and cache.view("missing", 5) == 5
    cache["number"] = 5
    with pytest.raises(TypeError):
        cache.view("number")


class Buffer(ctypes.Structure):
    _fields_ = [("buf", ctypes.c_void_p), ("rest", ctypes.c_byte * 128)]


def address(view):
    """Where the bytes of a read-only memoryview lie."""
    buffer = Buffer()
    get, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    get.argtypes = [ctypes.py_object, ctypes.POINTER(Buffer), ctypes.c_int]
    release.argtypes = [ctypes.POINTER(Buffer)]
    assert get(view, ctypes.byref(buffer), 0) == 0
    release(ctypes.byref(buffer))
    return buffer.buf


def test_why__tells_the_story(cache):
    assert cache.why("key") == ("never stored", None, "", None)
    cache.set("key", b"x" * 10, expire=100, tag="t")
    why = cache.why("key")
    assert why.reason == "live" and why.info["tag"] == "t" and why.info["expire_time"] > time.time()
    cache.evict("t")
    assert cache.why("key").reason == "invalidated" and cache.why("key").detail == "tag t"


# --- the object ------------------------------------------------------------------------------------------


def test_settings__persist_and_can_be_reset(directory):
    with Cache(directory, size_limit=12345, tag_index=True) as cache:
        assert cache.size_limit == 12345
    with Cache(directory) as cache, Cache(directory) as other:
        assert cache.size_limit == 12345 and cache.tag_index
        assert cache.reset("size_limit", 999_999) == 999_999
        assert other.size_limit == 12345
        assert other.reset("size_limit") == other.size_limit == 999_999
        cache.reset("cull_limit", 3, update=False)
        assert other.reset("cull_limit") == 10
        cache.drop_tag_index()
        assert other.reset("tag_index") == 0
        cache.create_tag_index()
        assert other.reset("tag_index") == 1
        assert cache.reset("count") == 0 and cache.reset("size") == 0
        for name, value in (("no_such", 1), ("eviction_policy", "random"), ("size_limit", -1), ("cull_limit", "x")):
            with pytest.raises((TypeError, ValueError)):
                cache.reset(name, value)
            with pytest.raises((TypeError, ValueError)):
                Cache(directory, **{name: value})
        with pytest.raises(KeyError):
            cache.reset("no_such")


def test_settings__of_two_caches_of_a_store_are_apart(directory):
    with Cache(directory, name="a", size_limit=1000), Cache(directory, name="b") as b:
        assert b.size_limit == 2**30
        b["key"] = 1
        assert Cache(directory, name="a").get("key") is None
        assert Cache(directory, name="b").get("key") == 1


def test_close__and_go_on(cache):
    cache["key"] = 1
    cache.close()
    cache.close()
    assert cache["key"] == 1
    with cache as same:
        assert same is cache
    assert cache["key"] == 1


def test_object__pickles_as_its_directory(directory):
    cache = Cache(directory, timeout=5, pickle=True, name="named")
    cache["key"] = Point(1)
    copy = pickle.loads(pickle.dumps(cache))
    assert copy["key"].x == 1 and copy.directory == directory and copy.timeout == 5 and copy.name == "named"
    assert pickle.loads(pickle.dumps(terrace.ENOVAL)) is terrace.ENOVAL


def test_directory__made_expanded_or_refused(directory, monkeypatch):
    monkeypatch.setenv("TERRACE_TEST", directory)
    with Cache("$TERRACE_TEST/made/below") as cache:
        assert cache.directory == directory + "/made/below" and os.path.isdir(cache.directory)
    os.symlink(directory + "/made", directory + "/link")
    with Cache(directory + "/link") as cache:
        cache["key"] = 1
    with Cache() as made:
        assert os.path.isdir(made.directory)
    shutil.rmtree(made.directory)
    os.chmod(directory, 0o777)
    with pytest.raises(PermissionError, match="others may write"):
        Cache(directory)
    open(directory + "/file", "w").close()
    with pytest.raises(OSError):
        Cache(directory + "/file")
    with pytest.raises(ValueError, match="disk is"):
        Cache(directory, disk=object)
    with pytest.raises(ValueError, match="not initialised"):
        Cache.__new__(Cache)["key"]
