"""Messages and their kinds: how a class becomes something that an envelope can carry.

A message is a frozen dataclass made with `@message` (control lane) or `@data_message` (data lane). Its
*kind* is its class name, unique in the whole program. Fields hold what msgpack can carry: None, bool, int,
float, str, bytes, `Secret`, and tuples and dicts of these. Lists become tuples on the way.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, fields
from typing import Any, Final, TypeVar, dataclass_transform

CONTROL: Final = 0  # served first, never dropped silently
DATA: Final = 1  # telemetry and deliveries; bounded by byte credits

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """What the kernel needs to know about one message class."""

    name: str
    lane: int
    build: Callable[..., Any]
    values: Callable[[Any], tuple[Any, ...]]  # the fields of a message, in order


_by_name: dict[str, Kind] = {}
_by_class: dict[type, Kind] = {}


def _values_of(cls: type) -> Callable[[Any], tuple[Any, ...]]:
    names = [field.name for field in fields(cls)]
    if not names:
        return lambda message: ()
    getter = operator.attrgetter(*names)
    if len(names) == 1:
        return lambda message: (getter(message),)
    return getter


def _make_init(made: type) -> Callable[..., None]:
    """Return an `__init__` that fills the slots directly: that of a frozen dataclass takes twice as long."""
    known = fields(made)
    if any(field.default_factory is not MISSING for field in known):
        raise TypeError(f"message {made.__name__}: a default is a value, not default_factory")
    setters = {f"_set_{field.name}": vars(made)[field.name].__set__ for field in known}
    defaults = {f"_default_{field.name}": field.default for field in known if field.default is not MISSING}
    parameters = [
        f"{field.name}=_default_{field.name}" if field.default is not MISSING else field.name
        for field in known
    ]
    body = "\n".join(f"    _set_{field.name}(self, {field.name})" for field in known) or "    pass"
    names: dict[str, Any] = setters | defaults
    exec(f"def __init__({', '.join(['self', *parameters])}):\n{body}", names)
    made_init: Callable[..., None] = names["__init__"]
    return made_init


# What `dataclass` would write anew for each class: 9 kB and half a millisecond, for each of two hundred.


def _refuse_assignment(self: Any, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deletion(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _equals(self: Any, other: object) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    values = _by_class[self.__class__].values
    return values(self) == values(other)


def _hash(self: Any) -> int:
    return hash(_by_class[self.__class__].values(self))


def _show(self: Any) -> str:
    shown = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _state(self: Any) -> tuple[Any, ...]:
    return _by_class[self.__class__].values(self)


def _set_state(self: Any, state: tuple[Any, ...]) -> None:
    for field, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


_SHARED: Final = {
    "__setattr__": _refuse_assignment,
    "__delattr__": _refuse_deletion,
    "__eq__": _equals,
    "__hash__": _hash,
    "__repr__": _show,
    "__getstate__": _state,
    "__setstate__": _set_state,
}


def _register(cls: type[T], lane: int) -> type[T]:
    made = dataclass(slots=True, init=False, repr=False, eq=False)(cls)
    for method, function in {"__init__": _make_init(made), **_SHARED}.items():
        setattr(made, method, function)
    name = made.__name__
    known = _by_name.get(name)
    if known is not None and known.build.__module__ != made.__module__:
        raise TypeError(f"message kind {name!r} is defined in {known.build.__module__} and {made.__module__}")
    kind = Kind(name, lane, made, _values_of(made))
    _by_name[name] = kind
    _by_class[made] = kind
    return made


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
