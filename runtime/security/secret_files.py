"""Files that hold a secret: read whole, and refused when every user of the machine may read or change them.

The group may: a service gets its keys like that. No value that comes in here is shown in an error.

Source: spec sheet security-daemon.md sections 8.1 and 8.2
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from pathlib import Path
from typing import Final

from msgspec import Struct

from messaging.errors import ConfigError

log = logging.getLogger(__name__)

STANDARD_INPUT: Final = Path("-")
LONGEST_FILE_BYTES: Final = 64 * 1024


class NamedFile(Struct, frozen=True):
    """A file, and the setting that names it, for errors."""

    path: Path
    origin: str


def check_closed(path: Path, origin: str) -> None:
    """Check that users who are neither owner nor in the group of a file cannot read or change it.

    Raises:
        ConfigError: they can, or the file is not to be had.
    """
    try:
        _check_mode(path.stat(), path, origin)
    except OSError as exc:
        raise ConfigError(cannot_read(path, origin, exc)) from exc


def read_secret_file(path: Path, origin: str, *, way_out: str = "", may_be_open: bool = False) -> str:
    """Return the text in a file, or on standard input for `-`, without what surrounds it.

    Args:
        origin: Of the setting that named the file, for errors.
        way_out: How to come by what belongs into it, when it is empty.
        may_be_open: One that everybody may read is only warned of: it is read this once and may go then.

    Raises:
        ConfigError: it cannot be read, is empty, too long or no text, or open to everybody.
    """
    name = "standard input" if path == STANDARD_INPUT else f"'{path}'"
    try:
        if path == STANDARD_INPUT:
            data = sys.stdin.buffer.read(LONGEST_FILE_BYTES + 1)
        else:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                data = file.read(LONGEST_FILE_BYTES + 1)
            if may_be_open and is_open(status):
                said = _open_to_all(status, path, origin)
                log.warning("%s; delete it, what it says is kept in the home", said)
            else:
                _check_mode(status, path, origin)
    except OSError as exc:
        raise ConfigError(cannot_read(path, origin, exc)) from exc
    if len(data) > LONGEST_FILE_BYTES:
        raise ConfigError(
            f"{origin}: {name} has more than {LONGEST_FILE_BYTES} bytes; it has to hold one line"
        )
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{origin}: {name} is no text; it has to hold one line of ASCII") from exc
    if not text:
        raise ConfigError(f"{origin}: {name} is empty" + (f"; {way_out}" if way_out else ""))
    return text


def is_open(status: os.stat_result) -> bool:
    """Whether a file is open to users who are neither its owner nor in its group."""
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o006)


def cannot_read(path: Path, origin: str, exc: OSError) -> str:
    """Return the message for a file that cannot be read."""
    name = "standard input" if path == STANDARD_INPUT else f"'{path}'"
    return f"{origin}: {name} cannot be read: {exc.strerror}; name a file that this user may read"


def _check_mode(status: os.stat_result, path: Path, origin: str) -> None:
    if is_open(status):
        raise ConfigError(f"{_open_to_all(status, path, origin)}; close it: chmod o-rw '{path}'")


def _open_to_all(status: os.stat_result, path: Path, origin: str) -> str:
    mode = stat.S_IMODE(status.st_mode)
    return f"{origin}: '{path}' holds a secret and is open to all users of this machine (mode {mode:04o})"
