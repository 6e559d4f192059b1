"""Files and NAME=VALUE pairs that users hand to the commands of the stand-in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from messaging.errors import ConfigError

_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"


def read_text(path: Path, what: str) -> str:
    """Return the text of a file; `what` says for errors which option or argument named it.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise ConfigError(f"{what} '{path}' cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{what} '{path}' is not UTF-8 text") from exc


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        value = json.loads(read_text(path, what))
    except json.JSONDecodeError as exc:
        raise ConfigError(
            f"{what} '{path}' is not JSON: line {exc.lineno}, column {exc.colno}: {exc.msg}"
        ) from exc
    except RecursionError as exc:
        raise ConfigError(f"{what} '{path}' is nested too deeply") from exc
    if not isinstance(value, dict):
        raise ConfigError(f"{what} '{path}' is not a JSON object")
    return value


def read_certificate(path: Path, what: str) -> str:
    """Return the first certificate of a PEM file, as PEM.

    Raises:
        ConfigError: it cannot be read, or has none.
    """
    text = read_text(path, what)
    begin = text.find(_BEGIN)
    end = text.find(_END, begin)
    if begin < 0 or end < 0:
        raise ConfigError(f"{what} '{path}' has no certificate in PEM, between '{_BEGIN}' and '{_END}'")
    return text[begin : end + len(_END)] + "\n"


def properties(pairs: Iterable[str], what: str) -> dict[str, Any]:
    """Return NAME=VALUE pairs as nested JSON: `a.b=1` is `{"a": {"b": 1}}`, `a=` removes a.

    A value is JSON if it can be read as such, else text.

    Raises:
        ConfigError: a pair has no `=` or no name, or contradicts another one.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        path = name.split(".")
        if not equals or not all(path):
            raise ConfigError(f"{what}: {pair!r} is not NAME=VALUE, such as interval=5 or location.room=lab")
        place = result
        for part in path[:-1]:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{what}: {name!r} contradicts another one, of which it is a part")
            place = inner
        if path[-1] in place:
            raise ConfigError(f"{what}: {name!r} is there twice")
        place[path[-1]] = json_or_text(text) if text else None
    return result


def json_or_text(text: str) -> Any:
    """Return a value that a user wrote: JSON if it is, else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
