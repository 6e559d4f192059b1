"""How the processes of the edge write their log: one plain line each, `time level area: text`."""

from __future__ import annotations

import logging
import sys
import time
from typing import Final, TextIO

FORMAT: Final = "%(asctime)s %(levelname)-7s %(area)s: %(message)s"


class LineFormatter(logging.Formatter):
    """Times in UTC with milliseconds; the area is the file a line comes from, without its package."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        record.area = record.name.rpartition(".")[2]
        return super().format(record)


class PatientHandler(logging.Handler):
    """Lets a line go that cannot be written, on a full disk for example: whoever logs has work to do."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is the library's
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _StreamHandler(PatientHandler, logging.StreamHandler[TextIO]):
    pass


def log_to_stderr(level: str, stream: TextIO | None = None) -> None:
    """Send the log of this process to stderr, or to `stream`; `level` is a setting's: debug, info, …"""
    handler = _StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
