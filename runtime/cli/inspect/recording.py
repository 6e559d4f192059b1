"""Recordings: a JSON object a line. The first says what it is, each other is an envelope as `tap` shows it,
or how many were missed there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from messaging.errors import ConfigError
from messaging.plain_json import from_json
from messaging.text import quoted
from messaging.time_text import from_iso
from messaging.version import VERSION

FORMAT: Final = "edge-actors recording"
FORMAT_VERSION: Final = 1
FILE_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class Recorded:
    """One envelope of a recording."""

    line: int  # in the file, from 1
    at_s: float
    values: dict[str, Any]  # as `Shown.values` made them


def message_of(one: Recorded) -> dict[str, Any]:
    """Return the fields of the message of a recorded envelope; none of one that was too large."""
    return {name: from_json(value) for name, value in (one.values["message"] or {}).items()}


def create(path: Path) -> TextIO:
    """Make a recording that only its owner may read.

    Raises:
        ConfigError: there is a file already, or none can be made there.
    """
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, FILE_MODE)
    except FileExistsError:
        raise ConfigError(f"{path} is there already; name another file, or remove it") from None
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc
    os.fchmod(descriptor, FILE_MODE)
    file = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8")  # line by line: it may be killed
    write(file, {"format": FORMAT, "version": FORMAT_VERSION, "program": VERSION})
    return file


def write(file: TextIO, values: dict[str, Any]) -> None:
    """Add one line."""
    file.write(json.dumps(values, ensure_ascii=False) + "\n")


def read(path: Path) -> Iterator[Recorded]:
    """Yield the envelopes of a recording, in their order.

    Raises:
        ConfigError: it cannot be read, is no recording, is of another version, or has a damaged line.
    """
    try:
        with path.open(encoding="utf-8") as file:
            lines = enumerate(file, start=1)
            _check_head(path, next(lines, (1, ""))[1])
            for number, line in lines:
                if not line.endswith("\n"):
                    return  # it was being written when its writer was killed
                recorded = _recorded(path, number, line)
                if recorded is not None:
                    yield recorded
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is no recording of `edge-actors inspect record`") from exc


def _check_head(path: Path, line: str) -> None:
    try:
        head = json.loads(line)
        is_ours = head["format"] == FORMAT
        version = head["version"]
    except (ValueError, KeyError, TypeError):
        is_ours, version = False, None
    if not is_ours:
        raise ConfigError(f"{path} is no recording of `edge-actors inspect record`")
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{path} is a recording of version {quoted(str(version))}; this program reads {FORMAT_VERSION}"
        )


def _recorded(path: Path, number: int, line: str) -> Recorded | None:
    try:
        values = json.loads(line)
        if "missed" in values:
            return None
        at_s = from_iso(values["at"])
        for name in ("kind", "to", "from"):
            if not isinstance(values[name], str):
                raise TypeError
        message = values["message"]
        if not isinstance(message, dict | None):
            raise TypeError
        from_json({"": message})  # whether it can be sent
    except (ValueError, KeyError, TypeError, ConfigError):
        raise ConfigError(f"{path}, line {number}: this is no envelope") from None
    return Recorded(number, at_s, values)
