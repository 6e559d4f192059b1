"""Values of messages as JSON and back. What JSON has no form for is an object with one name that has a $.

`{"$text": …}` are bytes that are UTF-8, `{"$msgpack": …}` those of an array or map in msgpack, as the headers
of messages are, `{"$bytes": …}` other bytes in base64, `{"$secret": …}` a Secret,
`{"$float": …}` nan, inf or -inf, `{"$map": [[key, value], …]}` a map whose keys are not all texts, or that
looks like one of these. Arrays come back as tuples, as they do from envelopes.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgpack

from messaging.envelope import Secret
from messaging.errors import ConfigError
from messaging.text import quoted

_ARRAYS_AND_MAPS: Final = frozenset((*range(0x80, 0xA0), *range(0xDC, 0xE0)))  # how those begin
MASKED: Final = "***"  # in the place of what a Secret holds


def to_json(value: Any) -> Any:
    """Return the JSON value of a message's value; of a Secret only that it is one.

    Raises:
        TypeError: no message can carry it.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, bytes):
        return _bytes(value)
    if isinstance(value, Secret):
        return {"$secret": MASKED}
    if isinstance(value, Mapping):
        if _is_special(value) or not all(isinstance(key, str) for key in value):
            return {"$map": [[to_json(key), to_json(member)] for key, member in value.items()]}
        return {key: to_json(member) for key, member in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(member) for member in value]
    raise TypeError(f"a message cannot carry a {type(value).__name__}")


def from_json(value: Any) -> Any:
    """Return the value that `to_json` wrote so; a Secret holds what is written there.

    Raises:
        ConfigError: an object with a $ makes no sense; says which.
    """
    if isinstance(value, list):
        return tuple(map(from_json, value))
    if not isinstance(value, dict):
        return value
    if not _is_special(value):
        return {key: from_json(member) for key, member in value.items()}
    ((name, content),) = value.items()
    try:
        return _SPECIAL[name](content)
    except (TypeError, ValueError, KeyError) as exc:
        raise ConfigError(f"{quoted(repr(value))} makes no sense: {_WRITTEN.get(name, _ALL)}") from exc


def unpacked(value: bytes) -> Any:
    """Return the array or map that these bytes are in msgpack; None when they are none, or when that would
    not give the same bytes again.
    """
    if not value or value[0] not in _ARRAYS_AND_MAPS:
        return None
    try:
        found = msgpack.unpackb(value, use_list=False, strict_map_key=False)
        return found if msgpack.packb(found) == value else None
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        return None


def _bytes(value: bytes) -> dict[str, Any]:
    try:
        return {"$text": value.decode()}
    except UnicodeDecodeError:
        found = unpacked(value)
        if found is not None:
            written = to_json(found)
            if _packed_of(written) == value:  # no nan with bits of its own, no extension type
                return {"$msgpack": written}
        return {"$bytes": base64.b64encode(value).decode()}


def _is_special(value: Mapping[Any, Any]) -> bool:
    if len(value) != 1:
        return False
    (name,) = value
    return isinstance(name, str) and name.startswith("$")


def _text_of(content: Any) -> bytes:
    if not isinstance(content, str):
        raise TypeError
    return content.encode()


def _bytes_of(content: Any) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as exc:
        raise ValueError from exc


def _packed_of(content: Any) -> bytes:
    packed: bytes = msgpack.packb(from_json(content))
    return packed


def _float_of(content: Any) -> float:
    if content not in ("nan", "inf", "-inf"):
        raise ValueError
    return float(content)


def _map_of(content: Any) -> dict[Any, Any]:
    return {from_json(key): from_json(member) for key, member in content}


_SPECIAL: Final[dict[str, Callable[[Any], Any]]] = {
    "$text": _text_of,
    "$msgpack": _packed_of,
    "$bytes": _bytes_of,
    "$secret": lambda content: Secret(_text_of(content)),
    "$float": _float_of,
    "$map": _map_of,
}
_WRITTEN: Final = {
    "$text": 'bytes are written {"$text": "…"}',
    "$msgpack": 'bytes of msgpack are written {"$msgpack": […]}',
    "$bytes": 'bytes are written {"$bytes": "<base64>"}',
    "$secret": 'a secret is written {"$secret": "…"}',
    "$float": 'such a number is written {"$float": "nan"}, "inf" or "-inf"',
    "$map": 'a map is written {"$map": [[key, value], …]}',
}
_ALL: Final = f"a name that begins with $ is one of {', '.join(_WRITTEN)}"
