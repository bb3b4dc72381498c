"""Values as files: set(read=True), get(read=True), read()."""

import glob
import io
import os
import subprocess
import sys

import pytest

import terrace

BLOCK = 256 * 1024


class Repeated(io.RawIOBase):
    """A file of `size` bytes that is nowhere in memory."""

    def __init__(self, size):
        self.left = size

    def readable(self):
        return True

    def read(self, size=-1):
        assert size >= 0, "a large file is read in pieces"
        size = min(size, self.left)
        self.left -= size
        return (b"0123456789abcdef" * (size // 16 + 1))[:size]


class Hooked(io.BytesIO):
    """Does something else before its last piece is read."""

    def __init__(self, content, hook):
        super().__init__(content)
        self.hook = hook

    def read(self, size=-1):
        if self.tell() > len(self.getvalue()) // 2 and self.hook:
            hook, self.hook = self.hook, None
            hook()
        return super().read(min(size, 100_000))


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, 5 * BLOCK + 3])
def test_set_read__comes_back_as_bytes_and_as_a_file(cache, size):
    content = os.urandom(size)
    assert cache.set("key", io.BytesIO(content), expire=100, read=True, tag=["a", "b"]) is True
    assert cache["key"] == content
    file, expire_time, tag = cache.get("key", read=True, expire_time=True, tag=True)
    assert file.read() == content and expire_time is not None and set(tag) == {"a", "b"}
    # Whole values are files as well.
    cache["whole"] = content
    with cache.read("whole") as file:
        assert file.read() == content
    assert file.closed


def test_read__is_a_file_like_any_other(cache, tmp_path):
    content = b"".join(b"line %d\n" % i for i in range(200_000))
    path = tmp_path / "same"
    path.write_bytes(content)
    cache.set("key", io.BytesIO(content), read=True)
    with cache.read("key") as ours, open(path, "rb") as theirs:
        assert isinstance(ours, type(theirs)) and ours.readable() and ours.seekable() and not ours.writable()
        for act in (
            lambda file: file.readline(),
            lambda file: file.read(1000),
            lambda file: (file.seek(BLOCK - 3), file.read(10), file.tell()),
            lambda file: (file.seek(-7, os.SEEK_END), file.read()),
            lambda file: (file.seek(10**9), file.read(5), file.tell()),
            lambda file: (file.seek(5), file.seek(6, os.SEEK_CUR), file.peek(1)[:1]),
            lambda file: (file.seek(0), sum(len(line) for line in file)),
            lambda file: (file.seek(3), file.readinto(bytearray(50)), file.tell()),
        ):
            assert act(ours) == act(theirs)
        with pytest.raises(ValueError):
            ours.seek(0, 9)
        with pytest.raises((ValueError, OSError)):
            ours.seek(-1)


def test_read__other_values_come_as_they_are(cache):
    cache["number"], cache["text"], cache["none"] = 7, "text", None
    assert cache.get("number", read=True) == 7
    assert cache.get("text", read=True) == "text"
    assert cache.get("none", "default", read=True) is None
    assert cache.get("missing", "default", read=True) == "default"
    with pytest.raises(KeyError):
        cache.read("missing")


def test_read__goes_on_when_the_value_is_replaced(cache):
    content = os.urandom(4 * BLOCK)
    cache.set("key", io.BytesIO(content), read=True)
    file = cache.read("key")
    assert file.read(10) == content[:10]
    cache.set("key", io.BytesIO(b"other"), read=True)
    cache.clear()
    assert file.read() == content[10:]


def test_set_read__what_is_set_meanwhile_stands(cache):
    file = Hooked(os.urandom(4 * BLOCK), lambda: cache.set("key", "newer"))
    assert cache.set("key", file, read=True) is False
    assert cache["key"] == "newer"
    file = Hooked(os.urandom(4 * BLOCK), lambda: cache.add("other", "newer"))
    assert cache.add("other", file, read=True) is False
    assert cache["other"] == "newer"


def test_add_read__leaves_what_is_there(cache):
    assert cache.add("key", io.BytesIO(b"first"), read=True) is True
    second = io.BytesIO(b"second")
    assert cache.add("key", second, read=True) is False
    assert second.tell() == 0 and cache["key"] == b"first"


def test_set_read__a_file_that_fails_changes_nothing(cache):
    def fail():
        raise OSError("no more")

    cache["key"] = "old"
    with pytest.raises(OSError, match="no more"):
        cache.set("key", Hooked(os.urandom(4 * BLOCK), fail), read=True)
    with pytest.raises(TypeError, match="reading bytes"):
        cache.set("key", io.StringIO("text"), read=True)
    with pytest.raises(AttributeError):
        cache.set("key", b"no file", read=True)
    assert cache["key"] == "old"
    assert glob.glob(os.path.join(cache.directory, "v2/files/new/*")) == []


def test_push_read(cache):
    cache.push(io.BytesIO(b"x" * (2 * BLOCK)), read=True)
    assert cache.pull()[1] == b"x" * (2 * BLOCK)


def test_read__damage_half_way_is_an_error_and_then_a_miss(cache):
    content = os.urandom(4 * BLOCK)
    cache.set("key", io.BytesIO(content), read=True)
    (path,) = glob.glob(os.path.join(cache.directory, "v2/files/*/*"))
    with open(path, "r+b") as stored:
        stored.seek(3 * BLOCK)
        byte = stored.read(1)
        stored.seek(3 * BLOCK)
        stored.write(bytes([byte[0] ^ 1]))
    with cache.read("key") as file:
        assert file.read(BLOCK) == content[:BLOCK]
        with pytest.raises(terrace.Error, match="damaged"):
            file.read()
    assert cache.get("key", "gone", read=True) == "gone"
    assert cache.why("key").reason == "damaged"


def test_memory__a_file_of_200_MB_takes_a_few(tmp_path):
    program = """
import resource, sys
import terrace
from test_files import Repeated

cache = terrace.Cache(sys.argv[1])
def through(size):
    assert cache.set("key", Repeated(size), read=True)
    left = size
    with cache.read("key") as file:
        while piece := file.read(1 << 20):
            left -= len(piece)
    assert left == 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
small = through(4 << 20)
large = through(200 << 20)
print(small, large)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "cache")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    print("MB at most: %d for 4 MB, %d for 200 MB" % (small, large))
    assert large < small + 8


def test_as_diskcache_does(cache, tmp_path):
    diskcache = pytest.importorskip("diskcache")
    content = os.urandom(100_000)

    def program(cache):
        yield cache.set("key", io.BytesIO(content), read=True, expire=60, tag="t")
        file, expire_time, tag = cache.get("key", read=True, expire_time=True, tag=True)
        yield file.read(10), file.tell(), file.seek(-5, 2), file.read(), expire_time is not None, tag
        yield type(file)
        yield cache["key"], cache.get("missing", 5, read=True)
        yield cache.add("key", io.BytesIO(b""), read=True), cache.add("new", io.BytesIO(content), read=True)
        yield cache.read("new").read()
        yield cache.get("number", read=True), cache.set("number", 5), cache.get("number", read=True)
        yield cache.pop("key"), cache.push(io.BytesIO(content), read=True), cache.pull()

    with diskcache.Cache(str(tmp_path / "theirs")) as theirs:
        assert list(program(cache)) == list(program(theirs))
