"""Writes the telemetry that the stand-in took to a file as well, one JSON object a line.

The shape is the one in which IoT Hub writes messages into a storage account: EnqueuedTimeUtc, Properties,
SystemProperties, Body; the body is JSON when the message says so, else base64.

The ring in the database is the truth, and the file is made from it, behind the back of the devices that wait
for their PUBACK. How far it got stands in a small file beside the database: the sequence number of the last
message, and the size that the file then had. After a kill what was written behind that size is cut off and
written again, out of the same rows, so that no message is missing or there twice.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any, Final

import msgspec

from messaging import system_properties as names
from messaging.errors import EdgeError, EnvironmentFault
from messaging.time_text import iso_utc
from runtime.iothub.records import Event, Telemetry
from runtime.iothub.telemetry import events_after, next_seq
from runtime.storage.atomic_file import write_private_file

log = logging.getLogger(__name__)

POSITION_FILE: Final = "upstream.position"  # beside the database
LONGEST_LINE_BYTES: Final = 4 * 1024 * 1024  # a message of 256 KiB; numbers in JSON may be written longer
BATCH: Final = 2000
PACE_S: Final = 0.05  # between two batches: what comes meanwhile shares their syncs
RETRY_S: Final = 5.0


class Position(msgspec.Struct, frozen=True, rename="camel"):
    """How far the file got."""

    sequence_number: int = 0
    size_bytes: int = -1  # of the file after that message; -1: as it was found


class TelemetryFile:
    """Follows the ring in a thread of its own, from `open`, when the database is there, until `close`."""

    def __init__(self, path: Path, database: Path) -> None:
        """Keep what is needed.

        Args:
            path: The file that is written.
            database: That of the stand-in.

        Raises:
            EnvironmentFault: what is written of the position cannot be read.
        """
        self._path = path
        self._database = database
        self._place = database.with_name(POSITION_FILE)
        self._position = _read_position(self._place)
        self._more = threading.Event()
        self._stopping = False
        self._file: int | None = None
        self._failed = ""
        self._thread = threading.Thread(target=self._work, name="telemetry-file", daemon=True)

    @property
    def position(self) -> int:
        """The sequence number up to which the ring may forget; any thread."""
        return self._position.sequence_number

    def more(self) -> None:
        """Tell that the ring has more; any thread."""
        self._more.set()

    def open(self) -> None:
        """Begin to write."""
        self._more.set()
        self._thread.start()

    def close(self) -> None:
        """Write what is still to come, then end. The database may be closed by then."""
        self._stopping = True
        self._more.set()
        if self._thread.is_alive():
            self._thread.join()

    # ---- its thread

    def _work(self) -> None:
        connection = sqlite3.connect(self._database, isolation_level=None, timeout=RETRY_S)
        connection.execute("PRAGMA query_only=ON")
        pause = threading.Event()
        try:
            while True:
                self._more.wait()
                self._more.clear()
                last = self._stopping
                wait_s = PACE_S if self._write_all(connection) else RETRY_S
                if last:
                    return
                if not self._stopping:
                    pause.wait(wait_s)
                if wait_s == RETRY_S:
                    self._more.set()
        finally:
            connection.close()
            self._close_file()

    def _write_all(self, connection: sqlite3.Connection) -> bool:
        """Bring the file to the end of the ring; returns whether that worked."""
        try:
            if self._position.sequence_number >= next_seq(connection):
                self._position = Position()  # of another database, which is gone
            while events := events_after(connection, self._position.sequence_number, BATCH):
                self._append(events)
        except (EdgeError, OSError, sqlite3.Error) as exc:
            self._close_file()  # opened again, it is cut behind the position
            reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            if reason != self._failed:
                log.error("messages are not written to %s for now: %s", self._path, reason)
            self._failed = reason
            return False
        if self._failed:
            log.info("messages are written to %s again", self._path)
        self._failed = ""
        return True

    def _append(self, events: list[Event]) -> None:
        expected = self._position.sequence_number + 1
        if events[0].sequence_number > expected and self._position.sequence_number:
            log.error(
                "%s lacks messages %d to %d: they were forgotten before it could be written",
                self._path,
                expected,
                events[0].sequence_number - 1,
            )
        if self._file is None:
            self._file = self._open_file()
        _write_all(self._file, b"".join(_line(event) for event in events))
        os.fdatasync(self._file)
        self._keep(Position(events[-1].sequence_number, os.fstat(self._file).st_size))

    def _open_file(self) -> int:
        """Open for appending, without what stands behind the position and without half a line."""
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = os.fstat(file).st_size
        if 0 <= self._position.size_bytes < size:
            os.ftruncate(file, self._position.size_bytes)
        elif size and os.pread(file, 1, size - 1) != b"\n":
            os.ftruncate(file, _last_line_start(file, size))
        if self._position.size_bytes < 0:  # or else a kill in the first batch would have it written twice
            self._keep(Position(self._position.sequence_number, os.fstat(file).st_size))
        return file

    def _keep(self, position: Position) -> None:
        write_private_file(self._place, msgspec.json.encode(position))
        self._position = position

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _read_position(path: Path) -> Position:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Position)
    except FileNotFoundError:
        return Position()
    except (OSError, msgspec.DecodeError) as exc:
        raise EnvironmentFault(
            f"{path} does not say how many messages were written: {exc}; remove it to begin anew"
        ) from exc


def _last_line_start(file: int, size: int) -> int:
    """Return where the last, unfinished line starts."""
    at = max(0, size - LONGEST_LINE_BYTES)
    return at + os.pread(file, LONGEST_LINE_BYTES, at).rfind(b"\n") + 1


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _line(event: Event) -> bytes:
    telemetry = event.telemetry
    enqueued = iso_utc(event.enqueued_s)
    stamps = {
        names.CONNECTION_DEVICE_ID: event.identity.device_id,
        "connectionAuthMethod": event.auth_method,
        "connectionDeviceGenerationId": event.generation_id,
        "enqueuedTime": enqueued,
    }
    if event.identity.module_id is not None:
        stamps[names.CONNECTION_MODULE_ID] = event.identity.module_id
    record = {
        "EnqueuedTimeUtc": enqueued,
        "Properties": dict(telemetry.properties),
        "SystemProperties": dict(telemetry.system_properties) | stamps,
    }
    if _says_json(telemetry):
        try:
            return _encoded(record | {"Body": json.loads(telemetry.body)})
        except (ValueError, RecursionError):
            pass  # not JSON, or JSON that cannot be written again: nested too deep, half a surrogate, NaN
    return _encoded(record | {"Body": base64.b64encode(telemetry.body).decode("ascii")})


def _says_json(telemetry: Telemetry) -> bool:
    properties = telemetry.system_properties
    content_type = (properties.get(names.CONTENT_TYPE) or "").lower()
    encoding = (properties.get(names.CONTENT_ENCODING) or "utf-8").lower()
    return content_type.startswith("application/json") and encoding in ("utf-8", "utf8")


def _encoded(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
