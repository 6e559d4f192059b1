"""A cloud that only takes telemetry, each message a line of a file: for hub processes without a cloud.

The shape is the one in which IoT Hub writes messages into a storage account. Twins it refuses, so that a hub
goes on with its own.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actors.hub.config import HubConfig
from actors.upstream.connection import CloudAccess, CloudFault, CloudObserver, Fault
from messaging import system_properties as names
from messaging.message import Message
from messaging.topics import Feature

NO_TWINS = CloudFault(Fault.REFUSED, "this cloud has no twins", 404)


class FileCloud:
    """Implements `CloudConnections`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def make(self, access: CloudAccess, observer: CloudObserver) -> FileConnection:
        return FileConnection(self, observer)

    def probe(self, host_name: str, reached: Callable[[], None]) -> None:
        reached()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def write(self, message: Message) -> None:
        """Append a message. A kill of the process leaves what was written, maybe a part of the last line."""
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            os.ftruncate(self._file, self._path.read_bytes().rfind(b"\n") + 1)
        os.write(self._file, _line(message))


class FileConnection:
    """Implements `CloudConnection`."""

    def __init__(self, cloud: FileCloud, observer: CloudObserver) -> None:
        self._cloud = cloud
        self._observer = observer

    def open(self) -> None:
        self._observer.connected()

    def want(self, features: frozenset[Feature]) -> None:
        """Nothing of it ever comes."""

    def send(self, number: int, message: Message) -> None:
        self._cloud.write(message)
        self._observer.done(number, b"")

    def get_twin(self, number: int) -> None:
        self._observer.failed(number, NO_TWINS)

    def patch_reported(self, number: int, patch: bytes) -> None:
        self._observer.failed(number, NO_TWINS)

    def answer_method(self, request_id: str, status: int, payload: bytes) -> None:
        """None is ever called."""

    def close(self) -> None:
        """There is nothing to close."""


def file_cloud(home: Path, config: HubConfig) -> FileCloud:
    """Return the cloud of a hub process: `HOME/upstream.jsonl`."""
    return FileCloud(home / "upstream.jsonl")


def _line(message: Message) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record: dict[str, Any] = {
        "EnqueuedTimeUtc": now,
        "Properties": dict(message.properties),
        "SystemProperties": dict(message.system_properties),
        "Body": base64.b64encode(message.body).decode("ascii"),
    }
    content_type = (message.system_properties.get(names.CONTENT_TYPE) or "").lower()
    if content_type.startswith("application/json"):
        with suppress(ValueError):  # it only says so
            record["Body"] = json.loads(message.body)
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
