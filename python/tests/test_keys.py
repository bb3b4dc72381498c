"""Keys of every type that python-diskcache takes, and which of them are one."""

import datetime
import decimal
import shutil
import tempfile

import pytest

from terrace import Cache

KEYS = [
    "", "a", "1", "\x01", "\x05N", "\0", "grüße", b"", b"a", b"1", b"\x02\x31", 0, 1, -1, 2**63 - 1, -(2**63),
    2**63, -(10**40), 0.5, -2.5, 1e300, float("inf"), True, False, None, (), (1,), (1.0,), (True,), ("1",),
    (b"1",), (None,), ((1,),), (1, None), [1], [1, [2]], {"a": 1}, "half \ud800",
]
PICKLED = [frozenset([1]), datetime.date(2026, 1, 2), decimal.Decimal("1.0"), (datetime.date(2026, 1, 2),), {1: 2}]


def test_keys__each_is_its_own_and_comes_back(cache):
    with cache.transact():  # written behind, one of so many might give way to another
        for i, key in enumerate(KEYS):
            cache[key] = i
    cache.close()
    for i, key in enumerate(KEYS):
        assert cache[key] == i, key
        assert key in cache
    listed = list(cache)
    assert [(type(key), key) for key in listed] == [(type(key), key) for key in KEYS]
    for key in KEYS:
        assert cache.delete(key) is True
    assert len(cache) == 0


def test_keys__equal_numbers_are_one_key(cache):
    for one, other in ((1, 1.0), (0, -0.0), (2**53, 2.0**53), (-7.0, -7)):
        cache[one] = "first"
        cache[other] = "second"
        assert cache[one] == "second" and len(cache) == 1
        cache.clear()
    cache[1] = "int"
    cache[True] = "bool"
    cache["1"] = "str"
    cache[b"1"] = "bytes"
    assert [cache[key] for key in (1.0, True, "1", b"1")] == ["int", "bool", "str", "bytes"]


def test_keys__a_dict_is_the_same_in_any_order(cache):
    cache[{"a": 1, "b": 2}] = 1
    assert cache[{"b": 2, "a": 1}] == 1


@pytest.mark.parametrize("key", PICKLED, ids=repr)
def test_keys__others_only_with_pickle(cache, directory, key):
    for call in (cache.get, cache.delete, cache.touch, cache.why, cache.__contains__, cache.incr):
        with pytest.raises(TypeError, match="a key of type"):
            call(key)
    with Cache(directory, pickle=True) as pickling:
        pickling[key] = 1
        assert pickling[key] == 1 and list(pickling) == [key]


def test_keys__too_long_says_what_to_do(cache):
    cache["x" * 65536] = 1
    assert cache["x" * 65536] == 1
    with pytest.raises(ValueError, match="hash"):
        cache["x" * 65537] = 1


def test_keys__as_python_diskcache_has_them():
    """Which keys are one, beside the original, where it is installed."""
    diskcache = pytest.importorskip("diskcache")
    directories = [tempfile.mkdtemp() for _ in range(2)]
    theirs, ours = diskcache.Cache(directories[0]), Cache(directories[1], pickle=True)
    keys = [1, 1.0, True, "1", b"1", (1,), (1.0,), (True,), None, "None", 0, -0.0, False, "", b"", 2**63, 0.5]
    for i, key in enumerate(keys):
        theirs[key] = ours[key] = i
    assert [ours[key] for key in keys] == [theirs[key] for key in keys]
    assert len(ours) == len(theirs)
    theirs.close()
    ours.close()
    for directory in directories:
        shutil.rmtree(directory)
