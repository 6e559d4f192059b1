"""Where the log lines of the agent process go, and those of a stand-in that runs by itself."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from runtime.logs.levels import parse_levels
from runtime.logs.setup import LineFile, PatientHandler, StreamHandler, lines_to, log_through

MAX_FILE_BYTES: Final = 10 * 1024 * 1024
KEPT_FILES: Final = 2
KEPT_WARNINGS: Final = 20


class PrivateLogFile(PatientHandler, RotatingFileHandler):
    """A log file for its owner alone, which begins with its first line.

    So a command that is refused because of bad input leaves no trace in the home.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MAX_FILE_BYTES, backupCount=KEPT_FILES, encoding="utf-8", delay=True)

    def _open(self) -> TextIOWrapper:
        path = Path(self.baseFilename)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return lines_to(LineFile(descriptor, "a"))


class LastWarnings(logging.Handler):
    """Keeps the last warnings and errors for the live picture, each text once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: deque[logging.LogRecord] = deque(maxlen=KEPT_WARNINGS)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        for earlier in [one for one in self.records if one.getMessage() == text]:
            self.records.remove(earlier)
        self.records.append(record)


def log_to(
    path: Path,
    process: str,
    levels: str,
    *,
    log_format: str,
    console: bool,
    level_file: Path | None = None,
) -> None:
    """Send the log to a file, and with `console` to stdout as well; see `log_through` for the rest."""
    handlers: list[logging.Handler] = [PrivateLogFile(path)]
    if console:
        handlers.append(StreamHandler(sys.stdout))
    log_through(handlers, parse_levels(levels), process=process, log_format=log_format, level_file=level_file)
