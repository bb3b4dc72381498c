"""Terrace for Python: a cache in memory, SQLite and files, shared by all processes of a machine."""

from ._terrace import Error, Sources, Timeout
from ._terrace import version as __version__
from .cache import ENOVAL, UNKNOWN, Cache, Disk, JSONDisk, Why
from .events import Event, Subscription
from .fanout import FanoutCache
from .persistent import Deque, Index
from .settings import DEFAULT_SETTINGS

__all__ = [
    "Cache",
    "DEFAULT_SETTINGS",
    "Deque",
    "Disk",
    "ENOVAL",
    "Error",
    "Event",
    "FanoutCache",
    "Index",
    "JSONDisk",
    "Sources",
    "Subscription",
    "Timeout",
    "UNKNOWN",
    "Why",
]
