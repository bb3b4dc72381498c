"""FanoutCache: a Cache whose calls never wait long, and never raise Timeout."""

import contextlib
import os
from typing import Any, Dict, Iterator, Optional, Type, Union

from ._terrace import Timeout
from .cache import Cache, Disk
from .persistent import Deque, Index


class FanoutCache(Cache):
    """
    What python-diskcache splits into shards, so that writers do not wait for each
    other. Terrace needs none for that; what is left is the short timeout, and that
    a call which meets it does nothing instead of raising.
    """

    def __init__(
        self,
        directory: Union[str, "os.PathLike[str]", None] = None,
        shards: int = 8,
        timeout: float = 0.010,
        disk: Type[Disk] = Disk,
        **settings: Any,
    ) -> None:
        super().__init__(directory, timeout, disk, **settings)
        self._shards = shards
        self._parts: Dict[Any, Any] = {}

    def __getstate__(self) -> Any:
        return self._directory, self._shards, self._timeout, type(self._disk), self._pickle, self._name

    def __setstate__(self, state: Any) -> None:
        directory, shards, timeout, disk, pickled, name = state
        FanoutCache.__init__(self, directory, shards, timeout, disk, pickle=pickled, name=name)

    @contextlib.contextmanager
    def transact(self, retry: bool = True) -> Iterator[None]:
        """As Cache.transact(); waits as long as it takes."""
        assert retry, "retry must be True in FanoutCache"
        with self._transact(retry=True):
            yield

    def set(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> bool:
        try:
            return super().set(key, value, *args, **kwargs)
        except Timeout:
            return False

    def add(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> bool:
        try:
            return super().add(key, value, *args, **kwargs)
        except Timeout:
            return False

    def touch(self, key: Any, *args: Any, **kwargs: Any) -> bool:
        try:
            return super().touch(key, *args, **kwargs)
        except Timeout:
            return False

    def delete(self, key: Any, retry: bool = False) -> bool:
        try:
            return super().delete(key, retry)
        except Timeout:
            return False

    def incr(self, key: Any, delta: Any = 1, default: Any = 0, retry: bool = False) -> Any:
        try:
            return super().incr(key, delta, default, retry)
        except Timeout:
            return None

    def pop(
        self, key: Any, default: Any = None, expire_time: bool = False, tag: bool = False, retry: bool = False
    ) -> Any:
        try:
            return super().pop(key, default, expire_time, tag, retry)
        except Timeout:
            return default

    def clear(self, retry: bool = False) -> int:
        return super().clear(retry=True)

    def evict(self, tag: Any, retry: bool = False) -> int:
        return super().evict(tag, retry=True)

    def expire(self, now: Optional[float] = None, retry: bool = False) -> int:
        return super().expire(now, retry=True)

    def cull(self, retry: bool = False) -> int:
        return super().cull(retry=True)

    def cache(self, name: str) -> Cache:
        """A cache in a directory below."""
        return self._part("cache", name, lambda directory: Cache(directory, pickle=self._pickle))

    def deque(self, name: str) -> Deque:
        """A Deque in a directory below."""
        return self._part(
            "deque",
            name,
            lambda directory: Deque.fromcache(Cache(directory, pickle=self._pickle, eviction_policy="none")),
        )

    def index(self, name: str) -> Index:
        """An Index in a directory below."""
        return self._part(
            "index",
            name,
            lambda directory: Index.fromcache(Cache(directory, pickle=self._pickle, eviction_policy="none")),
        )

    def _part(self, kind: str, name: str, make: Any) -> Any:
        if (kind, name) not in self._parts:
            directory = os.path.join(self._directory, kind, *name.split("/"))
            self._parts[kind, name] = make(directory)
        return self._parts[kind, name]

    def close(self) -> None:
        super().close()
        self._parts.clear()
