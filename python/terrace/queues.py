"""
Queues within a cache, as Cache.push() and Cache.pull() offer them.

The items are plain entries under numbered keys: 500000000000000 and up or down,
or "prefix-" and the number. Where a queue begins and ends is noted in a cache
beside, so that nobody looks for it; the note may go at any time and is then
made again from the keys.
"""

import hashlib
import re
from typing import TYPE_CHECKING, Any, Optional, Tuple

from ._terrace import CacheBase, Error, Value

if TYPE_CHECKING:
    from .cache import Cache

START = 500_000_000_000_000
LIMIT = 999_999_999_999_999
# A look at all keys costs as much as so many look-ups that find nothing.
GAP = 256


def notes_name(cache: str) -> str:
    """The name of the cache beside; names have at most 64 bytes."""
    stored = cache.encode("utf-8", "surrogatepass")
    if len(stored) > 64 - len(".queues"):
        return hashlib.sha256(stored).hexdigest()[:56] + ".queues"
    return cache + ".queues"


class Queue:
    """One queue. All calls but the constructor need an open transaction."""

    def __init__(self, cache: "Cache", notes: CacheBase, prefix: Optional[str]) -> None:
        if prefix is not None and not isinstance(prefix, str):
            raise TypeError("a queue's prefix is None or str, not %s" % type(prefix).__qualname__)
        self.cache = cache
        self.notes = notes
        self.prefix = prefix

    def key(self, number: int) -> Any:
        return number if self.prefix is None else "%s-%015d" % (self.prefix, number)

    def _scan(self) -> Tuple[int, int]:
        if self.prefix is None:
            stored = b"\x02"
            numbers = [key for key in self.cache._keys(False, stored) if 0 < key < LIMIT]
        else:
            text = self.prefix + "-"
            stored = (text if text[0] >= " " else "\x01" + text).encode("utf-8", "surrogatepass")
            form = re.compile(re.escape(text) + r"(\d{15})\Z")
            found = (form.match(key) for key in self.cache._keys(False, stored))
            numbers = [int(match.group(1)) for match in found if match]
        return (min(numbers), max(numbers)) if numbers else (START, START - 1)

    def _ends(self) -> Tuple[int, int]:
        """The first and the last number; the last before the first when it is empty."""
        noted = self.notes.get(self.prefix)
        if isinstance(noted, tuple) and len(noted) == 2:
            return noted[0], noted[1]
        return self._scan()

    def push(self, side: str, value: Any, **options: Any) -> Any:
        first, last = self._ends()
        for _ in range(2):
            if last < first:
                first, last = START, START - 1
            number = first - 1 if side == "front" and first <= last else last + 1
            if self.cache.add(self.key(number), value, **options):
                self.notes.set(self.prefix, (min(first, number), max(last, number)))
                return self.key(number)
            first, last = self._scan()  # somebody stored under that key by hand
        raise Error("the value could not be stored; Cache.why(%r) says why" % (self.key(number),))

    def end(self, side: str, take: bool) -> Optional[Tuple[Any, Value, Any]]:
        """Key, pin and value at one end, removed with `take`; None when it is empty."""
        noted = first, last = self._ends()
        misses = 0
        unreadable = False  # pickled, and this cache was not opened with pickle
        found = None
        while first <= last and not found:
            key = self.key(first if side == "front" else last)
            pinned = self.cache._pin(key, True)
            loaded = pinned.load() if pinned else ()
            unreadable |= bool(pinned and not loaded)
            if pinned and loaded:
                found = key, pinned, loaded[0]
                if take:
                    self.cache.delete(key)
                else:
                    break
            if side == "front":
                first += 1
            else:
                last -= 1
            misses += 1
            if misses == GAP and not found:
                first, last = self._scan()
        if (first, last) != noted and not unreadable:
            self.notes.set(self.prefix, (first, last) if first <= last else (START, START - 1))
        return found
