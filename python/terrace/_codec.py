"""What the extension leaves to Python: JSON, pickle, tags."""

import json
import pickle
import pickletools
from typing import Any, Tuple

from . import _terrace

TAG_MAX = 255

# The first character of a stored tag that is no plain text.
_TEXT, _INT, _FLOAT, _BYTES = "\x01", "\x02", "\x03", "\x04"


def _dumps(value: Any, protocol: int) -> bytes:
    return pickletools.optimize(pickle.dumps(value, protocol))


def tag_to_bytes(tag: Any) -> bytes:
    if isinstance(tag, str):
        text = tag if tag and tag[0] >= " " else _TEXT + tag
    elif isinstance(tag, int):
        text = _INT + str(int(tag))
    elif isinstance(tag, float):
        text = _INT + str(int(tag)) if tag.is_integer() else _FLOAT + repr(tag)
    elif isinstance(tag, bytes):
        text = _BYTES + tag.hex()
    else:
        raise TypeError("a tag is str, int, float or bytes, not %s" % type(tag).__qualname__)
    stored = text.encode("utf-8", "surrogatepass")
    if b"\0" in stored:
        raise ValueError("a tag holds no NUL: %r" % (tag,))
    if len(stored) > TAG_MAX:
        raise ValueError("a tag takes at most %d bytes, and this one %d" % (TAG_MAX, len(stored)))
    return stored


def tag_from_bytes(stored: bytes) -> Any:
    text = stored.decode("utf-8", "surrogatepass")
    kind, rest = text[:1], text[1:]
    if kind == _TEXT:
        return rest
    if kind == _INT:
        return int(rest)
    if kind == _FLOAT:
        return float(rest)
    if kind == _BYTES:
        return bytes.fromhex(rest)
    return text


def _tags_to_bytes(tag: Any) -> Tuple[bytes, ...]:
    if isinstance(tag, (tuple, list, set, frozenset)):
        return tuple(tag_to_bytes(one) for one in tag)
    return (tag_to_bytes(tag),)


def _tags_from_bytes(stored: Tuple[bytes, ...]) -> Any:
    tags = tuple(tag_from_bytes(one) for one in stored)
    return tags[0] if len(tags) == 1 else tags


def _encoder(sort_keys: bool) -> Any:
    return json.JSONEncoder(
        ensure_ascii=False, check_circular=False, separators=(",", ":"), sort_keys=sort_keys
    ).encode


_terrace._configure(
    _encoder(False), _encoder(True), json.loads, _dumps, pickle.loads, _tags_to_bytes, _tags_from_bytes
)
