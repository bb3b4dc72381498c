"""Cache: the API of python-diskcache's Cache on a Terrace store."""

import contextlib
import functools
import math
import os
import tempfile
import threading
import time
import warnings
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple, Type, Union

from . import _codec
from ._terrace import CacheBase, Error, Lease, Reader, Sources, Timeout, Transaction, Value
from .events import Event, Subscription, kinds_to_bits
from .files import PIECE, opened
from .queues import Queue, notes_name
from .settings import DEFAULT_SETTINGS, Settings, attribute, check_policy, check_setting

# A change of these opens the cache anew.
TAKE_EFFECT = (
    "eviction_policy",
    "size_limit",
    "cull_limit",
    "disk_min_file_size",
    "write_behind",
    "check",
    "idle",
)


class _Constant:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> str:
        return self.name


ENOVAL = _Constant("ENOVAL")
UNKNOWN = _Constant("UNKNOWN")


class Disk:
    """Stands for how keys and values are stored: as docs/PYTHON.md says, and not otherwise."""


class JSONDisk(Disk):
    """As Disk: what is neither bytes nor a plain value is JSON there too."""


class Why(NamedTuple):
    """What became of a key. `reason` is "live", "expired", "evicted", "source changed", ..."""

    reason: str
    when: Optional[float]
    detail: str
    info: Optional[Dict[str, Any]]


class _Open:
    """A transaction; `left`, when its block ended on another thread, as a generator's may."""

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self.left = False


class _Last:
    """What only its thread refers to: it goes with the thread, and what is open is undone."""

    def __init__(self, open_here: Dict[str, _Open]) -> None:
        self.open = open_here

    def __del__(self) -> None:
        for mine in self.open.values():
            mine.transaction.rollback()


class _Transactions(threading.local):
    """This thread's transactions, by the path of their stores; a forked child has none."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.open: Dict[str, _Open] = {}
        self.last = _Last(self.open)

    def of_this_process(self) -> Dict[str, _Open]:
        if self.pid != os.getpid():
            self.__init__()  # type: ignore[misc]
        return self.open


_transactions = _Transactions()


def full_name(function: Callable[..., Any]) -> str:
    return "%s.%s" % (function.__module__, function.__qualname__)


def _type_name(value: Any) -> str:
    return "%s.%s" % (type(value).__module__, type(value).__qualname__)


def args_to_key(
    base: Tuple[Any, ...], args: Tuple[Any, ...], kwargs: Dict[str, Any], typed: bool, ignore: Any
) -> Tuple[Any, ...]:
    """The key of a call: a tuple of the name, the arguments, None, and the named ones in order."""
    args = tuple(arg for index, arg in enumerate(args) if index not in ignore)
    named = sorted((name, value) for name, value in kwargs.items() if name not in ignore)
    key = base + args + (None,) + tuple(part for item in named for part in item)
    if typed:
        key += tuple(_type_name(arg) for arg in args) + tuple(_type_name(value) for _, value in named)
    return key


def _more(value: Any, asked_expire: bool, asked_tag: bool, expire_time: Any, tag: Any) -> Any:
    """A value as get(), pop() and the like return it."""
    if asked_expire and asked_tag:
        return value, expire_time, tag
    if asked_expire:
        return value, expire_time
    return (value, tag) if asked_tag else value


def _order(key: Any) -> Tuple[Any, ...]:
    """Numbers, then text, then bytes, then the rest: as SQLite sorts them."""
    if type(key) in (int, float):
        return 0, key
    if type(key) is str:
        return 1, key
    if type(key) is bytes:
        return 2, key
    return 3, type(key).__qualname__, repr(key)


class Cache(CacheBase):
    """A cache in a directory, shared by all threads and processes that open it."""

    def __init__(
        self,
        directory: Union[str, "os.PathLike[str]", None] = None,
        timeout: float = 60,
        disk: Type[Disk] = Disk,
        *,
        pickle: bool = False,
        name: str = "default",
        **settings: Any,
    ) -> None:
        if disk not in (Disk, JSONDisk):
            raise ValueError(
                "disk is terrace.Disk or terrace.JSONDisk; another class cannot change how values are "
                "stored: encode them before set() instead"
            )
        for key, value in settings.items():
            check_setting(key, value)
        if directory is None:
            directory = tempfile.mkdtemp(prefix="terrace-")
        self._directory = os.path.expandvars(os.path.expanduser(os.fspath(directory)))
        self._path = os.path.realpath(self._directory)
        self._timeout = timeout
        self._disk = disk()
        self._pickle = bool(pickle)
        self._name = name
        self._queue_notes = CacheBase()
        self._subscriptions: Set[Subscription] = set()
        self._settings = Settings(self._path, name)
        os.makedirs(self._path, 0o700, exist_ok=True)
        with self._settings.change() as kept:
            kept.update(settings)
            self._show({**DEFAULT_SETTINGS, **kept})
        self._apply()
        self._open()
        with contextlib.suppress(PermissionError):  # the store is read-only, and no Python made it
            self._queue_notes._open()  # a transaction could not make it

    def _show(self, settings: Dict[str, Any]) -> None:
        for key in DEFAULT_SETTINGS:
            setattr(self, attribute(key), settings[key])

    def _apply(self, limit: Optional[int] = None) -> None:
        """Let the settings take effect, with another limit of the size for a moment."""
        values = vars(self)
        if limit is None:
            limited = values["eviction_policy"] != "none" and values["cull_limit"] > 0
            limit = max(1, int(values["size_limit"])) if limited else 0
        wait_ms = min(max(math.ceil(self._timeout * 1000), 1), 2**53)
        protocol = int(values["disk_pickle_protocol"]) if self._pickle else -1
        # Rows over 16 MiB would only slow SQLite down.
        inline = min(max(1, int(values["disk_min_file_size"])), 2**24)
        behind = bool(values["write_behind"])
        check, interval_ms = check_policy(values["_check"])
        idle_ms = math.ceil((values["idle"] or 0) * 1000)
        # They hold the cache open, as it was.
        subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            subscription.pause()
        self._setup(
            self._path, self._name, wait_ms, protocol, limit, inline, behind, check, interval_ms, idle_ms
        )
        self._queue_notes._setup(self._path, notes_name(self._name), wait_ms, -1, 0, inline, False, 0, 0, 0)
        for subscription in subscriptions:
            subscription.resume()

    # --- what it is ---------------------------------------------------------------------

    @property
    def directory(self) -> str:
        """The directory, as it was given."""
        return self._directory

    @property
    def timeout(self) -> float:
        """How many seconds a call waits for others that write."""
        return self._timeout

    @property
    def disk(self) -> Disk:
        return self._disk

    @property
    def name(self) -> str:
        """Which of the store's caches this is."""
        return self._name

    def __repr__(self) -> str:
        return "%s(%r)" % (type(self).__name__, self._directory)

    def __getstate__(self) -> Any:
        return self._directory, self._timeout, type(self._disk), self._pickle, self._name

    def __setstate__(self, state: Any) -> None:
        directory, timeout, disk, pickled, name = state
        Cache.__init__(self, directory, timeout, disk, pickle=pickled, name=name)

    def __reduce__(self) -> Any:
        return _unpickled, (type(self),), self.__getstate__()

    def __enter__(self) -> "Cache":
        self._open()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the store, and end what subscribe() began. The next call opens the store again."""
        for subscription in list(self._subscriptions):
            subscription.close()
        super().close()
        self._queue_notes.close()

    # --- transactions ---------------------------------------------------------------------

    @contextlib.contextmanager
    def transact(self, retry: bool = False) -> Iterator[None]:
        """
        Do everything in the block as one, or, when it raises, nothing of it.

        No other thread or process writes to the store meanwhile; reading goes on.
        Transactions may be nested, and belong to one thread.
        """
        with self._transact(retry):
            yield

    @contextlib.contextmanager
    def _transact(self, retry: bool = False) -> Iterator[None]:
        here = _transactions.of_this_process()
        if self._path in here and here[self._path].left:
            here.pop(self._path).transaction.rollback()
        if self._path in here:
            yield
            return
        mine = here[self._path] = _Open(self._retrying(retry, self._begin))
        try:
            yield
        except BaseException:
            if self._end_mine(here, mine):
                mine.transaction.rollback()
            raise
        self._end_mine(here, mine)
        mine.transaction.commit()

    def _end_mine(self, here: Dict[str, _Open], mine: _Open) -> bool:
        """Is this the thread that began? Else that one has still to end it."""
        if _transactions.of_this_process() is not here:
            mine.left = True
            return False
        if here.get(self._path) is mine:
            del here[self._path]
        return True

    @staticmethod
    def _retrying(retry: bool, call: Callable[..., Any], *args: Any) -> Any:
        while True:
            try:
                return call(*args)
            except Timeout:
                if not retry:
                    raise

    # --- one key: get, set, add, delete and touch are the extension's -----------------------

    def _put_file(self, key: Any, file: Any, expire: Any, tag: Any, sources: Any, idle: Any, add: int) -> bool:
        writer = self._writer(key, expire, tag, sources, idle)
        # Nothing is stored if somebody else stores it from here on.
        if add and key in self:
            return False
        going = writer.write(b"b")
        while going:
            piece = file.read(PIECE)
            going = writer.write(piece) and len(piece) > 0
        return writer.commit()

    def _file(self, key: Any) -> Optional[Reader]:
        """A reader of a bytes value; None for another, and for none."""
        try:
            reader = self._reader(key)
            return reader if reader is not None and reader.read(0, 1) == b"b" else None
        except Error:
            return None  # damaged, and by now removed

    def _get_more(self, key: Any, default: Any, read: int, expire_time: int, tag: int) -> Any:
        reader = self._file(key) if read else None
        if reader is not None:
            return _more(opened(reader, 1), bool(expire_time), bool(tag), reader.expire_time, reader.tags)
        pinned = self._pin(key, True)
        loaded = pinned.load() if pinned else ()
        if not pinned or not loaded:
            return _more(default, bool(expire_time), bool(tag), None, None)
        return _more(loaded[0], bool(expire_time), bool(tag), pinned.expire_time, pinned.tags)

    def read(self, key: Any, retry: bool = False) -> Any:
        """A file on the bytes under `key`; KeyError where there are none."""
        file = self.get(key, ENOVAL, read=True, retry=retry)
        if file is ENOVAL:
            raise KeyError(key)
        return file

    def view(self, key: Any, default: Any = None) -> Any:
        """
        A memoryview of a bytes value, or of a str value's UTF-8, that copies nothing:
        it pins the value in memory, whatever becomes of the entry.
        """
        pinned: Any = self._pin(key, False)
        if pinned is None:
            return default
        try:
            return memoryview(pinned)
        except BufferError as error:
            raise TypeError("%s; %r holds another" % (error, key)) from None

    def pop(
        self, key: Any, default: Any = None, expire_time: bool = False, tag: bool = False, retry: bool = False
    ) -> Any:
        """Remove an entry, and return its value or `default`."""
        with self._transact(retry):
            pinned = self._pin(key, True)
            loaded = pinned.load() if pinned else ()
            if not pinned or not loaded:
                return _more(default, expire_time, tag, None, None)
            self.delete(key)
        return _more(loaded[0], expire_time, tag, pinned.expire_time, pinned.tags)

    def incr(self, key: Any, delta: Any = 1, default: Any = 0, retry: bool = False) -> Any:
        """
        Add `delta` to a number, and return the sum. What is missing counts as
        `default`; with None it is a KeyError.
        """
        if type(delta) is int and type(default) is int:
            try:
                return self._retrying(retry, self._incr, key, delta, default)
            except (ValueError, OverflowError):
                pass  # a float, a number over 64 bits, or none at all
        with self._transact(retry):
            pinned = self._pin(key, True)
            loaded = pinned.load() if pinned else ()
            if pinned and loaded:
                value = loaded[0] + delta
                left = pinned.expire_time and max(pinned.expire_time - time.time(), 0.001)
                self.set(key, value, left, tag=pinned.tags, idle=pinned.idle)
            elif default is None:
                raise KeyError(key)
            else:
                value = default + delta
                self.set(key, value)
        return value

    def decr(self, key: Any, delta: Any = 1, default: Any = 0, retry: bool = False) -> Any:
        """As incr(), the other way."""
        return self.incr(key, -delta, default, retry)

    def why(self, key: Any) -> Why:
        """What became of a key: why a get() of it would miss, or all about the live entry."""
        return Why(*self._why(key))

    def subscribe(
        self,
        function: Callable[[Event], Any],
        kinds: Union[str, Iterable[str], None] = None,
        queue: int = 1024,
        statistics_every: float = 5,
    ) -> Subscription:
        """
        Have `function` called with an Event for what this process does in the cache,
        in order for each key, on a thread of its own, until close() of what this
        returns, or of the cache.

        kinds: "hit", "miss", "put", "evict", "expire", "error", "batch", "statistics";
        None: all. queue: so many may wait; then the oldest goes, and is counted.
        What the function raises goes to sys.unraisablehook, and nowhere else.
        """
        if not callable(function):
            raise TypeError("a subscription needs a function of an event, not %s" % type(function).__qualname__)
        if isinstance(queue, bool) or not isinstance(queue, int) or not 1 <= queue <= 2**20:
            raise ValueError("queue is a number from 1 to 2**20, not %r" % (queue,))
        if not 0.001 <= statistics_every <= 10**9:
            raise ValueError("statistics_every is a number of seconds from 0.001 on, not %r" % (statistics_every,))
        every_ms = math.ceil(statistics_every * 1000)
        subscription = Subscription(self, UNKNOWN, function, kinds_to_bits(kinds), queue, every_ms)
        self._subscriptions.add(subscription)
        return subscription

    # --- computing ----------------------------------------------------------------------------

    def fetch(
        self,
        key: Any,
        load: Callable[[], Any],
        expire: Optional[float] = None,
        tag: Any = None,
        sources: Any = None,
        idle: Optional[float] = None,
    ) -> Any:
        """
        The value under `key`, or what `load()` returns, which is then stored: computed
        once, however many threads and processes want it at the same time. What is
        written or invalidated meanwhile is not overwritten.
        """
        if sources is not None and not isinstance(sources, Sources):
            sources = Sources(sources)  # as they are before load() reads them
        lease = self._lease(key)
        if isinstance(lease, tuple):
            return lease[0]
        if lease is None:  # load() asked for its own key: there is nobody to wait for
            value = load()
            self.set(key, value, expire, tag=tag, retry=True, sources=sources, idle=idle)
            return value
        try:
            value = load()
            lease.put(value, expire, tag, sources, idle)
        finally:
            lease.drop()
        return value

    def memoize(
        self,
        name: Optional[str] = None,
        typed: bool = False,
        expire: Optional[float] = None,
        tag: Any = None,
        ignore: Any = (),
        idle: Optional[float] = None,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """
        A decorator that keeps what a function returned for its arguments.

        name: instead of the function's own. typed: 3 and 3.0 are different. expire:
        seconds; 0 looks, but never stores. ignore: positions and names that do not count.
        idle: seconds that a result lives without being used.
        """
        if callable(name):
            raise TypeError("name cannot be callable")

        def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
            base = (full_name(function) if name is None else name,)

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                key = make_key(*args, **kwargs)
                value = self.get(key, ENOVAL)
                if value is not ENOVAL:
                    return value
                if expire is not None and expire <= 0:
                    return function(*args, **kwargs)
                return self.fetch(key, lambda: function(*args, **kwargs), expire, tag, idle=idle)

            def make_key(*args: Any, **kwargs: Any) -> Tuple[Any, ...]:
                return args_to_key(base, args, kwargs, typed, ignore)

            wrapper.__cache_key__ = make_key  # type: ignore[attr-defined]
            return wrapper

        return decorator

    # --- queues ---------------------------------------------------------------------------------

    @staticmethod
    def _check_side(side: str) -> None:
        if side not in ("front", "back"):
            raise ValueError("side is 'front' or 'back', not %r" % (side,))

    def push(
        self,
        value: Any,
        prefix: Optional[str] = None,
        side: str = "back",
        expire: Optional[float] = None,
        read: bool = False,
        tag: Any = None,
        retry: bool = False,
    ) -> Any:
        """Put a value on one side of the queue, and return the key that it got."""
        self._check_side(side)
        queue = Queue(self, self._queue_notes, prefix)
        with self._transact(retry):
            return queue.push(side, value, expire=expire, read=read, tag=tag)

    def _end(self, take: bool, prefix: Any, default: Any, side: str, expire: bool, tag: bool, retry: bool) -> Any:
        self._check_side(side)
        queue = Queue(self, self._queue_notes, prefix)
        with self._transact(retry):
            found = queue.end(side, take)
        if not found:
            return _more(default, expire, tag, None, None)
        key, pinned, value = found
        return _more((key, value), expire, tag, pinned.expire_time, pinned.tags)

    def pull(
        self,
        prefix: Optional[str] = None,
        default: Any = (None, None),
        side: str = "front",
        expire_time: bool = False,
        tag: bool = False,
        retry: bool = False,
    ) -> Any:
        """Take key and value from one side of the queue; `default` when it is empty."""
        return self._end(True, prefix, default, side, expire_time, tag, retry)

    def peek(
        self,
        prefix: Optional[str] = None,
        default: Any = (None, None),
        side: str = "front",
        expire_time: bool = False,
        tag: bool = False,
        retry: bool = False,
    ) -> Any:
        """As pull(), and leave it there."""
        return self._end(False, prefix, default, side, expire_time, tag, retry)

    def peekitem(self, last: bool = True, expire_time: bool = False, tag: bool = False, retry: bool = False) -> Any:
        """Key and value of the entry that came last, or first; KeyError when there is none."""
        for key in self._keys(last):
            pinned = self._pin(key, True)
            loaded = pinned.load() if pinned else ()
            if pinned and loaded:
                return _more((key, loaded[0]), expire_time, tag, pinned.expire_time, pinned.tags)
        raise KeyError("dictionary is empty")

    # --- all keys ---------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        """The keys in the order in which they came."""
        return self._keys(False)

    def __reversed__(self) -> Iterator[Any]:
        return self._keys(True)

    def iterkeys(self, reverse: bool = False) -> Iterator[Any]:
        """The keys in their own order: numbers, text, bytes, others."""
        return iter(sorted(self._keys(False), key=_order, reverse=reverse))

    def clear(self, retry: bool = False) -> int:
        """Remove everything; how many entries that was."""
        with self._transact(retry) if self._path in _transactions.of_this_process() else contextlib.nullcontext():
            self._retrying(retry, self._queue_notes._clear)
            return int(self._retrying(retry, self._clear))

    def evict(self, tag: Any, retry: bool = False) -> int:
        """Remove the entries that have the tag; how many that was."""
        return int(self._retrying(retry, self._evict, _codec.tag_to_bytes(tag)))

    def expire(self, now: Optional[float] = None, retry: bool = False) -> int:
        """Remove what has expired, or will have at `now`; how many entries that was."""
        count = int(self._retrying(retry, self._cleanup))
        if now is None:
            return count
        with self._transact(retry):
            for key in list(self._keys(False)):
                pinned = self._pin(key, True)
                if pinned and pinned.expire_time and pinned.expire_time < now:
                    count += self.delete(key)
        return count

    def cull(self, retry: bool = False) -> int:
        """Remove what has expired, and then the coldest until size_limit is kept."""
        values = vars(self)
        if values["eviction_policy"] == "none" or values["cull_limit"] > 0:
            return int(self._retrying(retry, self._cleanup))
        self._apply(max(1, int(values["size_limit"])))  # only now
        try:
            return int(self._retrying(retry, self._cleanup))
        finally:
            self._apply()

    # --- keeping house --------------------------------------------------------------------------------

    def flush(self) -> None:
        """With write_behind: wait until what was set is on disk. Error, when it cannot be."""
        self._flush()

    def volume(self) -> int:
        """How many bytes the entries take on disk, overhead included."""
        return self._usage()[1]

    def check(self, fix: bool = False, retry: bool = False) -> List[warnings.WarningMessage]:
        """Read everything, and warn of what is damaged; with `fix`, remove it."""
        return [
            warnings.WarningMessage(UserWarning(text), UserWarning, __file__, 0)
            for text in self._retrying(retry, self._verify, fix)
        ]

    def check_sources(self) -> int:
        """Look at all sources, and remove what was made from one that changed; how many that was."""
        return self._check_sources()

    def create_tag_index(self) -> None:
        """Tags are always found by index; this sets the setting."""
        self.reset("tag_index", 1)

    def drop_tag_index(self) -> None:
        """Tags are always found by index; this sets the setting."""
        self.reset("tag_index", 0)

    def _hits(self) -> Tuple[int, int]:
        counts = self._stats()
        hits = sum(counts[name] for name in ("hits_l1", "hits_l2", "hits_l3", "hits_encoded"))
        return hits, counts["misses"]

    def stats(self, enable: bool = True, reset: bool = False) -> Tuple[int, int]:
        """Hits and misses while statistics were on; then switch them on or off."""
        now = self._hits()
        with self._settings.change() as kept:
            counted, since = kept.get("_counted", [0, 0]), kept.get("_since", [0, 0])
            if kept.get("statistics"):
                counted = [max(0, c + n - s) for c, n, s in zip(counted, now, since)]
            kept["_counted"] = [0, 0] if reset else counted
            kept["_since"] = list(now)
            kept["statistics"] = int(enable)
        self.statistics = int(enable)
        return counted[0], counted[1]

    def reset(self, key: str, value: Any = ENOVAL, update: bool = True) -> Any:
        """
        Read a setting again, which others may have set; or with a value, set it for
        everybody (for this object alone with update=False).
        """
        if key in ("count", "size", "hits", "misses"):
            return self._reset_counter(key, value)
        if value is ENOVAL:
            value = {**DEFAULT_SETTINGS, **self._settings.read()}.get(key, ENOVAL)
            if value is ENOVAL:
                raise KeyError(key)
        else:
            check_setting(key, value)
            if key == "statistics":
                self.stats(enable=bool(value))
            elif update:
                with self._settings.change() as kept:
                    kept[key] = value
        changed = vars(self)[attribute(key)] != value
        setattr(self, attribute(key), value)
        if changed and key in TAKE_EFFECT:
            self._apply()
        return value

    def _reset_counter(self, key: str, value: Any) -> int:
        if key == "count":
            return len(self)
        if key == "size":
            return self.volume()
        at = 0 if key == "hits" else 1
        counted = self.stats(enable=bool(vars(self)["statistics"]))[at]
        if value is ENOVAL:
            return counted
        with self._settings.change() as kept:
            kept["_counted"][at] = value
        return int(value)


def _unpickled(kind: Type[Cache]) -> Cache:
    return kind.__new__(kind)
