"""Messages and their kinds: how a class becomes something that an envelope can carry.

A message is a frozen struct made with `@message` (control lane) or `@data_message` (data lane). Its *kind* is
its class name, unique in the whole program. Fields hold what msgpack can carry: None, bool, int, float, str,
bytes, `Secret`, and tuples and dicts of these. Lists become tuples on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field
from typing import Any, Final, TypeVar, dataclass_transform

import msgspec

CONTROL: Final = 0  # served first, never dropped silently
DATA: Final = 1  # telemetry and deliveries; bounded by byte credits

T = TypeVar("T")


class Kind(msgspec.Struct, frozen=True):
    """What the kernel needs to know about one message class."""

    name: str
    lane: int
    build: Callable[..., Any]
    values: Callable[[Any], tuple[Any, ...]]  # of the fields of a message, in order
    fields: tuple[str, ...]  # their names


_by_name: dict[str, Kind] = {}
_by_class: dict[type, Kind] = {}


def _register(cls: type[T], lane: int) -> type[T]:
    content = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    if wrong := [name for name, value in content.items() if isinstance(value, Field)]:
        raise TypeError(f"message {cls.__name__}: the default of {', '.join(wrong)} has to be a value")
    made: Any = msgspec.StructMeta(cls.__name__, (msgspec.Struct,), content, frozen=True)
    name = made.__name__
    known = _by_name.get(name)
    if known is not None and known.build.__module__ != made.__module__:
        raise TypeError(f"message kind {name!r} is defined in {known.build.__module__} and {made.__module__}")
    kind = Kind(name, lane, made, msgspec.structs.astuple, made.__struct_fields__)
    _by_name[name] = kind
    _by_class[made] = kind
    return made  # type: ignore[no-any-return]


@dataclass_transform(frozen_default=True)
def message(cls: type[T]) -> type[T]:
    """Make `cls` a frozen message of the control lane."""
    return _register(cls, CONTROL)


@dataclass_transform(frozen_default=True)
def data_message(cls: type[T]) -> type[T]:
    """Make `cls` a frozen message of the data lane."""
    return _register(cls, DATA)


def kind_of(cls: type) -> Kind:
    """Return the kind of a message class.

    Raises:
        TypeError: `cls` was not made with `@message` or `@data_message`.
    """
    try:
        return _by_class[cls]
    except KeyError:
        raise TypeError(f"{cls.__name__} is not a message: decorate it with @message") from None


def kind_named(name: str) -> Kind | None:
    """Return the kind called `name`, or None when this process knows no such message."""
    return _by_name.get(name)


def names() -> list[str]:
    """Return the kinds that this process knows."""
    return list(_by_name)


def message_class(name: str) -> Callable[..., Any]:
    """Return what makes a message of a known kind.

    Raises:
        KeyError: this process knows no such message.
    """
    return _by_name[name].build
