"""Events: what happens in a cache, told to a function of the program."""

import atexit
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, NamedTuple, Optional, Set, Union

from ._terrace import SubscriptionBase

if TYPE_CHECKING:
    from .cache import Cache

# In the order of their bits.
KINDS = ("hit", "miss", "put", "evict", "expire", "error", "batch", "statistics")


class Event(NamedTuple):
    """
    What happened. `key` is None where it is of no one key, and UNKNOWN where it was
    pickled and the cache was opened without; `tier` is "l1", "l2", "l3" or None;
    `entries` is how many it is about; `when` is in seconds since 1970; `lost` is how
    many events went unseen before this one; `statistics` is a dict with "statistics",
    and None with the others.
    """

    kind: str
    cache: str
    key: Any
    tier: Optional[str]
    entries: int
    detail: str
    when: float
    lost: int
    statistics: Optional[Dict[str, int]]


def kinds_to_bits(kinds: Union[str, Iterable[str], None]) -> int:
    """A set as the library takes it; 0 is all."""
    if kinds is None:
        return 0
    names = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for name in names:
        if name not in KINDS:
            raise ValueError("there are no events %r; there are %s" % (name, ", ".join(KINDS)))
    if not names:
        raise ValueError("a subscription to no events; None: to all")
    return sum(1 << KINDS.index(name) for name in set(names))


class Subscription:
    """What Cache.subscribe() gives: it ends with close(), or as a context manager."""

    def __init__(self, cache: "Cache", unknown: Any, function: Any, kinds: int, queue: int, every_ms: int) -> None:
        self._cache = cache
        self._asked = (function, Event, unknown, kinds, queue, every_ms)
        self._handle: Optional[SubscriptionBase] = None
        self._ended = False
        self.resume()
        _open.add(self)

    def resume(self) -> None:
        if _at_exit.over:
            raise RuntimeError("the program is ending: nobody would see events any more")
        if self._ended:
            return
        self._handle = self._cache._subscribe(*self._asked)
        if self._ended:  # meanwhile, by a thread that found nothing to end
            self.pause()

    def pause(self) -> None:
        """Deliver what waits, and let go of the store."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    @property
    def closed(self) -> bool:
        return self._ended

    def close(self) -> None:
        """
        Deliver what happened before, and end: the function is not called any more
        when this has returned. Within the function itself, that call is the last.
        """
        self._ended = True
        _open.discard(self)
        self._cache._subscriptions.discard(self)
        self.pause()

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


class _AtExit:
    """The interpreter must not end below a function that is called from another thread."""

    def __init__(self) -> None:
        self.over = False
        atexit.register(self)

    def __call__(self) -> None:
        self.over = True
        for subscription in list(_open):
            subscription.close()


# They go on without anybody who holds them.
_open: Set[Subscription] = set()
_at_exit = _AtExit()
