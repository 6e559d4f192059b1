"""Messages by the names of their fields: how they are shown, and made from what somebody wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from messaging import kinds
from messaging.envelope import Secret
from messaging.errors import ConfigError
from messaging.nearest import did_you_mean
from messaging.text import quoted


def field_names(kind: str) -> tuple[str, ...]:
    """Return the names of the fields of a kind, in order; none for a kind that this process does not know."""
    known = kinds.kind_named(kind)
    return known.fields if known is not None else ()


def fields_of(message: object) -> dict[str, Any]:
    """Return the fields of a message by their names, in order."""
    known = kinds.kind_of(type(message))
    return dict(zip(known.fields, known.values(message), strict=True))


def make_message(kind: str, values: Mapping[str, Any]) -> object:
    """Return the message with these fields.

    Raises:
        ConfigError: there is no such kind here; a field is unknown, missing or of a wrong type; says which.
    """
    known = kinds.kind_named(kind)
    if known is None:
        hint = did_you_mean(kind, kinds.names())
        raise ConfigError(f"there is no kind of message {quoted(kind)}{hint}")
    names = known.fields
    for name in values:
        if name not in names:
            there_are = f"; there are {', '.join(names)}" if names else "; it has none"
            hint = did_you_mean(name, names) or there_are
            raise ConfigError(f"{kind} has no field {quoted(name)}{hint}")
    try:
        return msgspec.convert(dict(values), known.build, builtin_types=(bytes,), dec_hook=_own_type)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{kind}: {exc}") from exc


def _own_type(type_: type, value: Any) -> Any:
    if type_ is Secret and isinstance(value, Secret):
        return value
    raise ValueError(f"Expected `{type_.__name__}`, got `{type(value).__name__}`")
