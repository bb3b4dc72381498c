"""Deque and Index: persistent containers on a Cache."""

import contextlib
import operator
from collections import OrderedDict
from collections.abc import ItemsView, KeysView, MutableMapping, Sequence, ValuesView
from typing import Any, Callable, Iterable, Iterator, Optional, Tuple, Type, TypeVar

from .cache import ENOVAL, Cache

Self = TypeVar("Self")


def _compare(relation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def compare(self: "Deque", that: Any) -> Any:
        if not isinstance(that, Sequence):
            return NotImplemented
        if len(self) != len(that) and relation in (operator.eq, operator.ne):
            return relation is operator.ne
        for ours, theirs in zip(self, that):
            if ours != theirs:
                return relation(ours, theirs)
        return relation(len(self), len(that))

    return compare


class Deque(Sequence):  # type: ignore[type-arg]
    """A sequence with two ends that lives in a directory."""

    _cache: Cache

    def __init__(self, iterable: Iterable[Any] = (), directory: Optional[str] = None) -> None:
        self._cache = Cache(directory, eviction_policy="none")
        self.extend(iterable)

    @classmethod
    def fromcache(cls: Type[Self], cache: Cache, iterable: Iterable[Any] = ()) -> Self:
        """A Deque on a cache, which should hold nothing else."""
        self = cls.__new__(cls)
        self._cache = cache  # type: ignore[attr-defined]
        self.extend(iterable)  # type: ignore[attr-defined]
        return self

    @property
    def cache(self) -> Cache:
        return self._cache

    @property
    def directory(self) -> str:
        return self._cache.directory

    def __repr__(self) -> str:
        return "%s(directory=%r)" % (type(self).__name__, self.directory)

    def __getstate__(self) -> Any:
        return self._cache

    def __setstate__(self, state: Any) -> None:
        self._cache = state

    def _key_at(self, index: int) -> Any:
        index = operator.index(index)  # TypeError for a slice
        keys = list(self._cache.iterkeys())
        try:
            return keys[index]
        except IndexError:
            raise IndexError("deque index out of range") from None

    def __getitem__(self, index: Any) -> Any:
        return self._cache[self._key_at(index)]

    def __setitem__(self, index: int, value: Any) -> None:
        self._cache[self._key_at(index)] = value

    def __delitem__(self, index: int) -> None:
        del self._cache[self._key_at(index)]

    def __len__(self) -> int:
        return len(self._cache)

    def _items(self, reverse: bool) -> Iterator[Tuple[Any, Any]]:
        for key in self._cache.iterkeys(reverse):
            value = self._cache.get(key, ENOVAL)
            if value is not ENOVAL:  # gone since the keys were listed
                yield key, value

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._items(False))

    def __reversed__(self) -> Iterator[Any]:
        return (value for _, value in self._items(True))

    __eq__ = _compare(operator.eq)
    __ne__ = _compare(operator.ne)
    __lt__ = _compare(operator.lt)
    __gt__ = _compare(operator.gt)
    __le__ = _compare(operator.le)
    __ge__ = _compare(operator.ge)
    __hash__ = None  # type: ignore[assignment]

    def append(self, value: Any) -> None:
        self._cache.push(value, retry=True)

    def appendleft(self, value: Any) -> None:
        self._cache.push(value, side="front", retry=True)

    def extend(self, iterable: Iterable[Any]) -> None:
        for value in iterable:
            self.append(value)

    def extendleft(self, iterable: Iterable[Any]) -> None:
        for value in iterable:
            self.appendleft(value)

    def __iadd__(self: Self, iterable: Iterable[Any]) -> Self:
        self.extend(iterable)  # type: ignore[attr-defined]
        return self

    def _end(self, call: Callable[..., Any], side: str, what: str) -> Any:
        _, value = call(default=(None, ENOVAL), side=side, retry=True)
        if value is ENOVAL:
            raise IndexError("%s from an empty deque" % what)
        return value

    def peek(self) -> Any:
        return self._end(self._cache.peek, "back", "peek")

    def peekleft(self) -> Any:
        return self._end(self._cache.peek, "front", "peek")

    def pop(self) -> Any:
        return self._end(self._cache.pull, "back", "pop")

    def popleft(self) -> Any:
        return self._end(self._cache.pull, "front", "pop")

    def clear(self) -> None:
        self._cache.clear(retry=True)

    def count(self, value: Any) -> int:
        return sum(1 for item in self if item == value)

    def remove(self, value: Any) -> None:
        """Remove the first item that is equal; ValueError when there is none."""
        for key, item in self._items(False):
            if item == value and self._cache.delete(key, retry=True):
                return
        raise ValueError("deque.remove(value): value not in deque")

    def reverse(self) -> None:
        with self.transact():
            items = list(self)
            self.clear()
            self.extendleft(items)

    def rotate(self, steps: int = 1) -> None:
        """To the right; to the left with negative steps."""
        if not isinstance(steps, int):
            raise TypeError("integer argument expected, got %s" % type(steps).__name__)
        with self.transact():
            if not len(self):
                return
            for _ in range(abs(steps) % len(self)):
                if steps > 0:
                    self.appendleft(self.pop())
                else:
                    self.append(self.popleft())

    @contextlib.contextmanager
    def transact(self) -> Iterator[None]:
        with self._cache.transact(retry=True):
            yield


class Index(MutableMapping):  # type: ignore[type-arg]
    """A mapping in order of arrival that lives in a directory."""

    _cache: Cache

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        directory = None
        if args and (args[0] is None or isinstance(args[0], (bytes, str))):
            directory, args = args[0], args[1:]
        if isinstance(directory, bytes):
            directory = directory.decode()
        self._cache = Cache(directory, eviction_policy="none")
        self.update(*args, **kwargs)

    @classmethod
    def fromcache(cls: Type[Self], cache: Cache, *args: Any, **kwargs: Any) -> Self:
        """An Index on a cache."""
        self = cls.__new__(cls)
        self._cache = cache  # type: ignore[attr-defined]
        self.update(*args, **kwargs)  # type: ignore[attr-defined]
        return self

    @property
    def cache(self) -> Cache:
        return self._cache

    @property
    def directory(self) -> str:
        return self._cache.directory

    def __repr__(self) -> str:
        return "%s(%r)" % (type(self).__name__, self.directory)

    def __getstate__(self) -> Any:
        return self._cache

    def __setstate__(self, state: Any) -> None:
        self._cache = state

    def __getitem__(self, key: Any) -> Any:
        return self._cache[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._cache[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._cache[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cache)

    def __reversed__(self) -> Iterator[Any]:
        return reversed(self._cache)

    def __len__(self) -> int:
        return len(self._cache)

    def __contains__(self, key: Any) -> bool:
        return key in self._cache

    def setdefault(self, key: Any, default: Any = None) -> Any:
        while True:
            value = self._cache.get(key, ENOVAL)
            if value is not ENOVAL:
                return value
            self._cache.add(key, default, retry=True)

    def peekitem(self, last: bool = True) -> Any:
        return self._cache.peekitem(last, retry=True)

    def pop(self, key: Any, default: Any = ENOVAL) -> Any:
        value = self._cache.pop(key, default, retry=True)
        if value is ENOVAL:
            raise KeyError(key)
        return value

    def popitem(self, last: bool = True) -> Any:
        with self.transact():
            key, value = self._cache.peekitem(last)
            del self._cache[key]
        return key, value

    def push(self, value: Any, prefix: Optional[str] = None, side: str = "back") -> Any:
        return self._cache.push(value, prefix, side, retry=True)

    def pull(self, prefix: Optional[str] = None, default: Any = (None, None), side: str = "front") -> Any:
        return self._cache.pull(prefix, default, side, retry=True)

    def clear(self) -> None:
        self._cache.clear(retry=True)

    def keys(self) -> Any:
        return KeysView(self)

    def values(self) -> Any:
        return ValuesView(self)

    def items(self) -> Any:
        return ItemsView(self)

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: Any) -> bool:
        """With another Index or an OrderedDict the order counts."""
        if len(self) != len(other):
            return False
        if isinstance(other, (Index, OrderedDict)):
            return all(ours == theirs for ours, theirs in zip(self.items(), other.items()))
        return all(value == other.get(key, ENOVAL) for key, value in self.items())

    def __ne__(self, other: Any) -> bool:
        return not self == other

    def memoize(self, name: Optional[str] = None, typed: bool = False, ignore: Any = ()) -> Any:
        return self._cache.memoize(name, typed, ignore=ignore)

    @contextlib.contextmanager
    def transact(self) -> Iterator[None]:
        with self._cache.transact(retry=True):
            yield
