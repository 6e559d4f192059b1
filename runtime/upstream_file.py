"""The embedded sink that stands for the cloud: appends each message to a file, one JSON object a line.

The shape is the one in which IoT Hub writes messages into a storage account: EnqueuedTimeUtc, Properties,
SystemProperties, Body; the body is JSON when the message says so, else base64.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from messaging import system_properties as names
from messaging.errors import EnvironmentFault
from messaging.message import Message

LONGEST_LINE_BYTES: Final = 4 * 1024 * 1024  # a message of 256 KiB; numbers in JSON may be written longer


class UpstreamFile:
    """Implements `actors.ports.CloudLink`. Switched off by a file beside it, so that it stays off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._off = path.with_suffix(".off")
        self._file: int | None = None

    def is_on(self) -> bool:
        """Return whether messages are taken."""
        return not self._off.exists()

    def switch(self, on: bool) -> None:
        """Switch the link on or off, also for the next start."""
        if on:
            self._off.unlink(missing_ok=True)
        else:
            self._off.touch(mode=0o600)

    def send(self, messages: Sequence[Message]) -> None:
        """Append messages; when this returns they are on disk.

        Raises:
            EnvironmentFault: the file cannot be written; nothing of the batch counts as sent.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        lines = b"".join(_line(message, now) for message in messages)
        try:
            if self._file is None:
                self._file = self._open()
            _write_all(self._file, lines)
            os.fdatasync(self._file)
        except OSError as exc:
            self.close()  # opened again, the file is cut behind its last whole line
            raise EnvironmentFault(f"cannot write {self._path}: {exc.strerror}") from exc

    def close(self) -> None:
        """Close the file; the next `send` opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        """Open for appending; a last line that a crash cut short is ended, so that the next one is whole."""
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            os.ftruncate(file, _last_line_start(file, size))
        return file


def _last_line_start(file: int, size: int) -> int:
    """Return where the last, unfinished line starts."""
    at = max(0, size - LONGEST_LINE_BYTES)
    return at + os.pread(file, LONGEST_LINE_BYTES, at).rfind(b"\n") + 1


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _line(message: Message, now: str) -> bytes:
    record = {
        "EnqueuedTimeUtc": now,
        "Properties": dict(message.properties),
        "SystemProperties": dict(message.system_properties),
    }
    properties = message.system_properties
    content_type = (properties.get(names.CONTENT_TYPE) or "").lower()
    encoding = (properties.get(names.CONTENT_ENCODING) or "utf-8").lower()
    if content_type.startswith("application/json") and encoding in ("utf-8", "utf8"):
        try:
            return _encoded(record | {"Body": json.loads(message.body)})
        except (ValueError, RecursionError):
            pass  # not JSON, or JSON that cannot be written again: nested too deep, half a surrogate, NaN
    return _encoded(record | {"Body": base64.b64encode(message.body).decode("ascii")})


def _encoded(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
