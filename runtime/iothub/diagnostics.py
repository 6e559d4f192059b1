"""What edges tell about how they run: kept apart, so that no reader of messages sees it.

IoT Hub diverts it by its content type. Here the newest of it is in a file of the stand-in's home, where
whoever wants to know what an edge sends can look.

Source: spec sheet observability.md section 4
"""

from __future__ import annotations

import base64
import json
import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from messaging import system_properties as names
from messaging.clock import Clock
from messaging.errors import EdgeError
from messaging.message import DIAGNOSTICS_TYPE
from messaging.time_text import iso_utc
from runtime.iothub.records import Grant, Telemetry
from runtime.storage.atomic_file import write_private_file

log = logging.getLogger(__name__)

FILE: Final = "quality-telemetry.jsonl"
KEPT: Final = 32  # messages, of up to 255 KB


def is_diagnostics(message: Telemetry) -> bool:
    """Say whether a message is none for readers."""
    return message.system_properties.get(names.CONTENT_TYPE) == DIAGNOSTICS_TYPE


class Diagnostics:
    """The newest messages, in a file, one a line."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        """Take the folder."""
        self._path = folder / FILE
        self._clock = clock
        self._lines: deque[str] | None = None

    def take(self, grant: Grant, messages: Sequence[Telemetry]) -> None:
        """Keep these. Losing them harms nobody, so without space there is but a warning."""
        if self._lines is None:
            self._lines = deque(self._kept(), KEPT)
        for message in messages:
            line = {
                "at": iso_utc(self._clock.now_s()),
                "identity": str(grant.identity),
                "properties": dict(message.properties),
                "contentType": message.system_properties.get(names.CONTENT_TYPE),
                "body": base64.b64encode(message.body).decode(),
            }
            self._lines.append(json.dumps(line))
        try:
            write_private_file(
                self._path, "".join(f"{line}\n" for line in self._lines).encode(), durable=False
            )
        except EdgeError as exc:
            log.warning("what %s tells about itself is not kept: %s", grant.identity, exc)

    def _kept(self) -> list[str]:
        try:
            return self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return []
