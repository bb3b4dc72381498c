"""Settings that persist: a file in the store's directory, shared by all who open it."""

import contextlib
import fcntl
import json
import math
import os
import pickle
from typing import Any, Dict, Iterator, Tuple

DEFAULT_SETTINGS: Dict[str, Any] = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "least-recently-used",
    "size_limit": 2**30,
    "cull_limit": 10,
    # Kept, and without effect: Terrace sets up SQLite itself.
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 2**13,
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 2**26,
    "sqlite_synchronous": 1,
    "disk_min_file_size": 2**15,
    "disk_pickle_protocol": pickle.HIGHEST_PROTOCOL,
    # Of Terrace: set() returns before the value is on disk.
    "write_behind": 0,
    # Of Terrace: when sources are looked at, and how long an entry lives that nobody
    # gets. None: as the store's configuration says.
    "check": None,
    "idle": None,
}

EVICTION_POLICIES = ("none", "least-recently-stored", "least-recently-used", "least-frequently-used")

# terrace_check of terrace/policy.h; a number of seconds is the interval's.
CHECKS = {"hit": 1, "manual": 3, "watch": 4}
_CHECK_INTERVAL = 2
# A year; whoever means never says None.
_SECONDS_MOST = 366 * 24 * 3600

FILE = "python-settings.json"


def attribute(name: str) -> str:
    """Where a Cache shows the setting: check() is a method."""
    return "_check" if name == "check" else name


def check_policy(value: Any) -> Tuple[int, int]:
    """(terrace_check, check_interval_ms)"""
    if value is None:
        return 0, 0
    if isinstance(value, str):
        return CHECKS[value], 0
    return _CHECK_INTERVAL, math.ceil(value * 1000)


def _is_time(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and 0 < value <= _SECONDS_MOST


def check_setting(name: str, value: Any) -> None:
    if name not in DEFAULT_SETTINGS:
        raise TypeError("there is no setting %r; there are %s" % (name, ", ".join(sorted(DEFAULT_SETTINGS))))
    if name == "eviction_policy" and value not in EVICTION_POLICIES:
        raise ValueError("eviction_policy is one of %s, not %r" % (", ".join(EVICTION_POLICIES), value))
    if name in ("size_limit", "cull_limit", "disk_min_file_size"):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**62:
            raise ValueError("%s is a number from 0 to 2**62, not %r" % (name, value))
    if name == "check" and value is not None and value not in CHECKS and not _is_time(value):
        raise ValueError('check is "hit", "watch", "manual", or a number of seconds up to a year, not %r' % (value,))
    if name == "idle" and value is not None and not _is_time(value):
        raise ValueError("idle is a number of seconds over 0 and up to a year, or None, not %r" % (value,))


class Settings:
    """The settings of one cache; {} where nothing was ever set."""

    def __init__(self, directory: str, cache: str) -> None:
        self.directory = directory
        self.cache = cache

    def _read_all(self) -> Dict[str, Dict[str, Any]]:
        try:
            with open(os.path.join(self.directory, FILE), encoding="utf-8") as file:
                found = json.load(file)
        except (OSError, ValueError):
            return {}  # damaged is as good as never set: it is a cache's
        return found if isinstance(found, dict) else {}

    def read(self) -> Dict[str, Any]:
        found = self._read_all().get(self.cache)
        return found if isinstance(found, dict) else {}

    @contextlib.contextmanager
    def change(self) -> Iterator[Dict[str, Any]]:
        """Change the dict that is given; nobody else changes it meanwhile."""
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            everything = self._read_all()
            settings = everything.setdefault(self.cache, {})
            before = json.dumps(settings, sort_keys=True)
            yield settings
            if json.dumps(settings, sort_keys=True) != before:
                self._write(everything)
        finally:
            os.close(directory)

    def _write(self, everything: Dict[str, Dict[str, Any]]) -> None:
        path = os.path.join(self.directory, FILE)
        temporary = "%s.%d" % (path, os.getpid())
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(everything, file, indent=1, sort_keys=True)
        os.replace(temporary, path)
