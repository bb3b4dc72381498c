"""Entries that die when what they were made from changes, or when nobody gets them."""

import math
import os
import time

import pytest

from support import in_child, wait_until
from terrace import Cache, Sources


def of(cache, key):
    return cache.why(key).info["sources"]


# --- listings ---------------------------------------------------------------------------------


def test_listing__another_name_is_a_miss_and_other_content_is_not(cache, tmp_path):
    (tmp_path / "a.py").write_text("1")
    sources = Sources()
    assert os.listdir(sources.add_listing(tmp_path)) == ["a.py"]
    assert len(sources) == 1
    cache.set("all", 1, sources=sources)
    some = Sources()
    pattern = str(tmp_path / "*.py")
    assert some.add_listing(pattern) is pattern
    cache.set("some", 1, sources=some)
    assert of(cache, "all") == [("listing", str(tmp_path), False)]
    (tmp_path / "a.py").write_text("22")
    assert cache["all"] == cache["some"] == 1
    (tmp_path / "b.txt").write_text("")
    assert "all" not in cache and cache["some"] == 1
    assert cache.why("all").reason == "source changed" and str(tmp_path) in cache.why("all").detail
    os.rename(tmp_path / "a.py", tmp_path / "c.py")
    assert cache.get("some") is None


def test_listing__of_all_below(cache, tmp_path):
    (tmp_path / "one" / "two").mkdir(parents=True)
    sources = Sources()
    sources.add_listing(os.fsencode(tmp_path) + b"/**/*.c")
    assert cache.fetch("key", lambda: 1, sources=sources) == 1
    (tmp_path / "one" / "two" / "x.h").write_text("")
    assert "key" in cache
    (tmp_path / "one" / "two" / "x.c").write_text("")
    assert "key" not in cache


def test_listing__that_cannot_be_taken(tmp_path):
    (tmp_path / "file").write_text("")
    sources = Sources()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        sources.add_listing(tmp_path / "none")
    for wrong, error in ((tmp_path / "file", ValueError), (str(tmp_path) + "/*/x", ValueError), (5, TypeError),
                         ("a\0b", ValueError), ("", ValueError)):
        with pytest.raises(error):
            sources.add_listing(wrong)
    assert len(sources) == 0


def test_listing__of_a_directory_that_may_not_be_read(directory):
    closed = os.path.join(directory, "closed")
    os.chmod(directory, 0o755)
    os.mkdir(closed, 0o311)

    def work():
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        os.stat(closed + "/.")
        with pytest.raises(PermissionError, match=closed):
            Sources().add_listing(closed)

    in_child(work)


# --- variables --------------------------------------------------------------------------------


def test_variable__another_value_is_a_miss(cache, monkeypatch):
    monkeypatch.setenv("TERRACE_TEST_LANG", "de")
    monkeypatch.delenv("TERRACE_TEST_NONE", raising=False)
    sources = Sources()
    assert os.environ[sources.add_variable("TERRACE_TEST_LANG")] == "de"
    sources.add_variable("TERRACE_TEST_NONE")
    cache.set("key", "hallo", sources=sources)
    assert cache["key"] == "hallo"
    assert of(cache, "key") == [("variable", "TERRACE_TEST_LANG", False), ("variable", "TERRACE_TEST_NONE", False)]
    monkeypatch.setenv("TERRACE_TEST_LANG", "en")
    assert cache.get("key") is None
    assert "TERRACE_TEST_LANG" in cache.why("key").detail
    sources = Sources()
    sources.add_variable("TERRACE_TEST_NONE")
    cache.set("key", "hello", sources=sources)
    monkeypatch.setenv("TERRACE_TEST_NONE", "")
    assert "key" not in cache
    for wrong, error in (("", ValueError), ("A=B", ValueError), ("x" * 256, ValueError), (5, TypeError), ("a\0", ValueError)):
        with pytest.raises(error):
            sources.add_variable(wrong)


def test_sources__of_every_kind_together(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("TERRACE_TEST_LANG", "de")
    (tmp_path / "file").write_text("1")
    sources = Sources([tmp_path / "file", tmp_path / "none"])
    sources.add_listing(tmp_path)
    sources.add_variable("TERRACE_TEST_LANG")
    assert len(sources) == 4
    cache.set("key", 1, sources=sources)
    assert [kind for kind, _, _ in of(cache, "key")] == ["file", "absent", "listing", "variable"]
    many = Sources(tmp_path / ("none%d" % i) for i in range(300))
    cache.set("many", 1, sources=many)
    assert len(of(cache, "many")) == 300


def test_source__a_link_to_nothing_is_refused(tmp_path):
    os.symlink("nowhere", tmp_path / "link")
    with pytest.raises(ValueError, match="a link to nothing"):
        Sources(tmp_path / "link")


# --- when they are looked at ------------------------------------------------------------------


def test_watch__sees_a_change_without_looking_every_time(directory, tmp_path):
    source = tmp_path / "source"
    source.write_text("1")
    with Cache(directory, check="watch") as cache:
        cache.set("key", 1, sources=source)
        assert cache["key"] == 1
        for _ in range(500):  # the file has to be older than the kernel's clock is coarse
            looks = looks_of(cache, 50)
            if looks == 0:
                break
            time.sleep(0.01)
        else:
            pytest.skip("no watch on this file system: %d looks in 50 gets" % looks)
        source.write_text("22")
        wait_until(lambda: cache.get("key") is None)
        assert cache.why("key").reason == "source changed"


def looks_of(cache, count):
    """How often sources were looked at in so many gets."""
    before = cache._stats()["source_checks"]
    for _ in range(count):
        assert cache["key"] == 1
    return cache._stats()["source_checks"] - before


def test_check__when_the_program_says_so(directory, tmp_path):
    source = tmp_path / "source"
    source.write_text("1")
    with Cache(directory, check="manual") as cache:
        cache.set("key", 1, sources=source)
        source.write_text("22")
        assert cache["key"] == 1
        assert cache.check_sources() == 1
        assert cache.get("key") is None and cache.check_sources() == 0
        cache.set("key", 1, sources=source)
        source.write_text("333")
        assert cache.reset("check", "hit") == "hit"
        assert "key" not in cache
        assert cache.reset("check", 3600) == 3600
        cache.set("key", 1, sources=source)
        assert cache["key"] == 1
        source.write_text("4444")
        assert cache["key"] == 1  # an hour has not passed
        assert callable(cache.check) and cache.check() == []
    with Cache(directory) as cache:
        assert cache.reset("check") == 3600
        for wrong in ("often", 0, -1, True, float("nan"), float("inf"), [], b"hit"):
            with pytest.raises((ValueError, TypeError)):
                cache.reset("check", wrong)
            with pytest.raises((ValueError, TypeError)):
                Cache(directory, check=wrong)


# --- idle time --------------------------------------------------------------------------------


def test_idle__of_a_cache_and_of_an_entry(directory):
    with Cache(directory, idle=0.2) as cache:
        cache.set("short", 1)
        cache.set("long", 1, idle=1000)
        cache.add("for ever", 1, idle=math.inf)
        assert cache.fetch("fetched", lambda: 1, idle=500) == 1
        assert cache.why("short").info["idle"] == 0.2
        assert cache.why("long").info["idle"] == 1000
        assert cache.why("for ever").info["idle"] is None
        assert cache.why("fetched").info["idle"] == 500
        cache.memoize(name="f", idle=300)(lambda: 5)()
        assert cache.why(("f", None)).info["idle"] == 300
        wait_until(lambda: "short" not in cache)
        assert cache.get("short") is None and cache["long"] == cache["for ever"] == 1
        assert cache.why("short").reason == "expired"
        assert cache.incr("long", 0.5) == 1.5
        assert cache.why("long").info["idle"] == 1000
        assert cache.get("long", expire_time=True) == (1.5, None)  # it lives on while it is used
        cache.set("both", 1, expire=500, idle=1000)
        assert cache.get("both", expire_time=True)[1] > time.time() + 400
        assert cache.reset("idle", None) is None
        cache.set("short", 1)
        assert cache.why("short").info["idle"] is None
    for wrong in (0, -1, float("nan"), "x", True, 10**9):
        with pytest.raises((ValueError, TypeError)):
            Cache(directory, idle=wrong)


def test_idle__that_is_none_is_refused(cache):
    for wrong in (0, -5, float("nan"), "1"):
        with pytest.raises((ValueError, TypeError)):
            cache.set("key", 1, idle=wrong)
    assert "key" not in cache
    assert cache.set("file", open(os.devnull, "rb"), read=True, idle=60)
    assert cache.why("file").info["idle"] == 60


def test_configuration__holds_where_python_says_nothing(directory, tmp_path):
    with open(os.path.join(directory, "terrace.ini"), "w") as file:
        file.write("[caches]\ncheck = manual\nidle = 1h\n")
    source = tmp_path / "source"
    source.write_text("1")
    with Cache(directory) as cache:
        cache.set("key", 1, sources=source)
        source.write_text("22")
        assert cache["key"] == 1 and cache.why("key").info["idle"] == 3600


def test_names__of_57_bytes_and_more_have_queues_of_their_own(directory):
    with Cache(directory, name="a" * 63 + "b") as one, Cache(directory, name="c" + "a" * 62 + "b") as two:
        one.push("one's")
        assert two.pull() == (None, None) and one.pull()[1] == "one's"
    with Cache(directory, name="ü" * 32) as cache:
        cache.push(1)
        assert cache.pull()[1] == 1
    with pytest.raises(ValueError, match="1 to 64"):
        Cache(directory, name="ü" * 33)
