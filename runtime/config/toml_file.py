"""A TOML file of this device: what it says, and in which line.

Whoever reads one tells file and line of whatever is wrong, and never a value that may be a secret.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Final

from messaging.errors import ConfigError, EnvironmentFault
from runtime.config.toml_lines import key_lines

LONGEST_FILE_BYTES: Final = 256 * 1024
_AT_LINE: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class TomlFile:
    """What a file says, and where each key and table stands."""

    path: Path
    document: Mapping[str, Any] = field(repr=False)
    lines: Mapping[tuple[str, ...], int]

    def at(self, key: tuple[str, ...]) -> str:
        """Return where a key or table stands, as FILE:LINE."""
        return f"{self.path}:{self.lines[key]}"


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        FileNotFoundError: there is none.
        EnvironmentFault: it cannot be read.
        ConfigError: it is too long, or no text.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LONGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise EnvironmentFault(
            f"{path}: cannot be read: {exc.strerror}; run as the user of the edge, or repair owner and mode"
        ) from exc
    if len(data) > LONGEST_FILE_BYTES:
        raise ConfigError(f"{path}: has more than {LONGEST_FILE_BYTES} bytes; that is no file of settings")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8; write the file in UTF-8") from exc


def parse_toml(path: Path, text: str) -> TomlFile:
    """Return what the text of a file says.

    Raises:
        ConfigError: it is no TOML; names the line.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError(_not_toml(path, text, exc)) from exc
    return TomlFile(path, document, key_lines(text))


def _not_toml(path: Path, text: str, exc: Exception) -> str:
    found = _AT_LINE.search(str(exc))
    line = text.count("\n") + 1 if found is None or found[1] is None else int(found[1])
    said = _AT_LINE.sub("", str(exc))
    # An expected text is shown by the parser; what stands there may be a secret and is not.
    return f"{path}:{line}: not TOML: {said[:1].lower()}{said[1:]}; see toml.io for its rules"


def shown(value: Any) -> str:
    """Return a value as it stands in the file, cut; not for secrets."""
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, dict):
        return "a table"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else f"{text[:117]}..."
