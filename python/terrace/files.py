"""Values as files: what set(read=True) reads, and get(read=True) gives."""

import io
from typing import Any

from ._terrace import Reader

# What is asked of a program's file at a time, and read ahead for it.
PIECE = 1 << 20
AHEAD = 1 << 18


class _Stored(io.RawIOBase):
    """The bytes of a value behind its first `skip`, as they were when it was opened."""

    def __init__(self, reader: Reader, skip: int) -> None:
        self._reader = reader
        self._skip = skip
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._reader.read(self._skip + self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._reader.size - self._skip}
        if whence not in start:
            raise ValueError("whence is 0, 1 or 2, not %r" % (whence,))
        at = start[whence] + offset
        if at < 0:
            raise ValueError("a file has no byte %d" % at)
        self._at = at
        return at


def opened(reader: Reader, skip: int) -> io.BufferedReader:
    """A file on the value of `reader`."""
    return io.BufferedReader(_Stored(reader, skip), AHEAD)
