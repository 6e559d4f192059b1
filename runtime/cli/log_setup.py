"""Where the log lines of the agent process go."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import deque
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

from runtime.logging_setup import LineFormatter, PatientHandler

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
        return open(descriptor, "a", encoding="utf-8")


class LastWarnings(logging.Handler):
    """Keeps the last warnings and errors for the live picture."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: deque[logging.LogRecord] = deque(maxlen=KEPT_WARNINGS)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        values: dict[str, Any] = {
            "at": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values, ensure_ascii=False)


def log_to(path: Path, level: str, *, console: bool, as_json: bool = False) -> None:
    """Send the log to a file, and with `console` to stdout as well."""
    handlers: list[logging.Handler] = [PrivateLogFile(path)]
    if console:
        handlers.append(logging.StreamHandler(sys.stdout))
    for handler in handlers:
        handler.setFormatter(JsonFormatter() if as_json else LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=handlers, force=True)
