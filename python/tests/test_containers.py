"""FanoutCache, Deque and Index."""

import operator
import pickle
import threading
from collections import OrderedDict, deque

import pytest

from terrace import Cache, Deque, FanoutCache, Index, Timeout


# --- Deque -------------------------------------------------------------------------------------


@pytest.fixture
def made(directory):
    return Deque(directory=directory)


def test_deque__does_what_a_deque_does(made):
    model = deque()
    for name, args in [
        ("extend", ("abcde",)), ("appendleft", ("z",)), ("append", ("y",)), ("rotate", (2,)), ("rotate", (-3,)),
        ("pop", ()), ("popleft", ()), ("extendleft", ("mn",)), ("reverse", ()), ("remove", ("c",)), ("rotate", (99,)),
    ]:
        assert getattr(made, name)(*args) == getattr(model, name)(*args), name
        assert list(made) == list(model), name
    assert list(reversed(made)) == list(reversed(model)) and len(made) == len(model)
    assert made.count("b") == 1 and made.count("?") == 0 and "b" in made and "?" not in made
    assert made[0] == model[0] and made[-1] == model[-1] and made[2] == model[2]
    made[1] = "new"
    del made[0]
    assert made[0] == "new" and made.peekleft() == "new" and made.peek() == model[-1]
    made += [1]
    assert made.pop() == 1


def test_deque__empty_or_out_of_range(made):
    for name in ("pop", "popleft", "peek", "peekleft"):
        with pytest.raises(IndexError, match="empty deque"):
            getattr(made, name)()
    made.rotate(5)
    made.append(1)
    for index in (1, -2):
        with pytest.raises(IndexError):
            made[index]
        with pytest.raises(IndexError):
            made[index] = 0
        with pytest.raises(IndexError):
            del made[index]
    with pytest.raises(ValueError, match="value not in deque"):
        made.remove(2)
    with pytest.raises(TypeError):
        made.rotate("1")
    made.clear()
    assert list(made) == []


def test_deque__has_no_slices(made):
    made.extend([1, 2, 3])
    with pytest.raises(TypeError):
        made[0:2]
    with pytest.raises(TypeError):
        made[0:2] = 4
    with pytest.raises(TypeError):
        del made[0:2]
    assert list(made) == [1, 2, 3]


@pytest.mark.parametrize("other", [[], [1], [1, 2, 3], [1, 2, 4], [1, 2, 3, 4], [0, 9]])
def test_deque__compares_as_a_sequence(made, other):
    made.extend([1, 2, 3])
    for relation in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge):
        assert relation(made, other) == relation([1, 2, 3], other)
    assert made != {1, 2, 3}


def test_deque__lives_in_its_directory(made, directory):
    made.extend([1, 2])
    assert list(Deque(directory=directory)) == [1, 2]
    copy = pickle.loads(pickle.dumps(made))
    copy.append(3)
    assert list(made) == [1, 2, 3] and directory in repr(made)
    with Cache(directory) as cache:
        assert cache.eviction_policy == "none"
        same = Deque.fromcache(cache, [4])
        assert same.cache is cache and list(same) == [1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError):
        with made.transact():
            made.pop()
            1 / 0
    assert len(made) == 4


# --- Index ---------------------------------------------------------------------------------------


def test_index__does_what_an_ordered_dict_does(directory):
    index, model = Index(directory, [("b", 1), ("a", 2)], c=3), OrderedDict([("b", 1), ("a", 2), ("c", 3)])
    assert index == model and index == dict(model) and not index != model
    assert index != OrderedDict([("a", 2), ("b", 1), ("c", 3)])
    assert list(index.items()) == list(model.items()) and list(reversed(index)) == ["c", "a", "b"]
    assert "b" in index.keys() and 3 in index.values() and list(index.keys()) == ["b", "a", "c"]
    assert index.setdefault("b", 9) == 1 and index.setdefault("d", 9) == 9
    assert index.popitem() == ("d", 9) and index.popitem(last=False) == ("b", 1)
    assert index.pop("a") == 2 and index.pop("a", 0) == 0
    for call in (lambda: index.pop("a"), lambda: index["a"], lambda: index.__delitem__("a")):
        with pytest.raises(KeyError):
            call()
    assert index.peekitem() == index.peekitem(last=False) == ("c", 3) and len(index) == 1
    index.clear()
    with pytest.raises(KeyError, match="dictionary is empty"):
        index.popitem()
    with pytest.raises(KeyError):
        index.peekitem()


def test_index__lives_in_its_directory(directory):
    index = Index(directory)
    index["a"] = 1
    assert Index(directory)["a"] == 1 and pickle.loads(pickle.dumps(index)) == index
    assert index.push("x") == 500_000_000_000_000 and index.pull() == (500_000_000_000_000, "x")
    assert index.memoize(name="f")(lambda x: x + 1)(1) == 2
    with index.transact():
        index["total"] = index.get("total", 0) + 1
    assert index["total"] == 1 and directory in repr(index) and index.directory == directory
    assert Index.fromcache(index.cache, b=2)["b"] == 2


# --- FanoutCache -----------------------------------------------------------------------------------


def test_fanout__is_a_cache_with_parts(directory):
    with FanoutCache(directory, shards=4, timeout=1, size_limit=10**6) as cache:
        assert cache.set("key", 1, expire=100, tag="t") and cache["key"] == 1 and cache.incr("n") == 1
        assert cache.size_limit == 10**6 and cache.directory == directory
        assert cache.incr("f", 0.5) == 0.5 and cache.decr("n", default=None) == 0
        assert cache.pop("f") == 0.5 and cache.pop("f", "d") == "d"
        assert cache.push("x") and cache.pull()[1] == "x" and cache.peek() == (None, None)
        cache.set("dead", 1, expire=-1)
        assert cache.expire() == 1 and cache.cull() == 0 and cache.evict("t") == 1 and cache.clear() == 1
        cache["key"] = 1
        part = cache.cache("some/part")
        part["key"] = 2
        assert cache.cache("some/part") is part and cache["key"] == 1
        queue, index = cache.deque("q"), cache.index("i")
        queue.append(1)
        index["a"] = 1
        assert cache.deque("q") == [1] and cache.index("i") == {"a": 1}
        copy = pickle.loads(pickle.dumps(cache))
        assert copy["key"] == 1 and copy.timeout == 1 and copy.deque("q") == [1]
        assert cache.memoize(name="f")(lambda: 5)() == 5
        with cache.transact():
            cache["n"] = 7
        with pytest.raises(AssertionError):
            with cache.transact(retry=False):
                pass


def test_timeout__is_raised_or_swallowed(directory):
    """While another thread has a transaction open."""
    plain, fanout = Cache(directory, timeout=0.02), FanoutCache(directory)
    plain["key"] = 1
    holding, enough = threading.Event(), threading.Event()

    def hold():
        with plain.transact():
            holding.set()
            enough.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait(20)
    try:
        for call in (
            lambda: plain.set("key", 2), lambda: plain.add("new", 2), lambda: plain.delete("key"),
            lambda: plain.touch("key"), lambda: plain.incr("n"), lambda: plain.pop("key"),
            lambda: plain.push(1), lambda: plain.pull(), lambda: plain.evict("t"), lambda: plain.clear(),
            lambda: plain.expire(), lambda: plain.transact().__enter__(),
        ):
            with pytest.raises(Timeout):
                call()
        assert fanout.set("key", 2) is False and fanout.add("new", 2) is False and fanout.delete("key") is False
        assert fanout.touch("key") is False and fanout.incr("n") is None and fanout.pop("key", "d") == "d"
        assert plain["key"] == fanout["key"] == 1  # reading goes on
        waiting = threading.Thread(target=lambda: plain.set("key", "retried", retry=True))
        waiting.start()
    finally:
        enough.set()
        thread.join()
    waiting.join()
    assert plain["key"] == "retried"
