"""How the processes of the edge log: where to, how much, in which format, and what of repeats."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from runtime.logs.levels import DEFAULT, LogLevels, apply_levels, parse_levels
from runtime.logs.lines import JSON, TEXT, JsonFormatter, LineFormatter
from runtime.logs.repeats import Repeats

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

log = logging.getLogger(__name__)

LEVEL_VARIABLE: Final = "EDGE_ACTORS_LOG_LEVEL"
FORMAT_VARIABLE: Final = "EDGE_ACTORS_LOG_FORMAT"
LOOK_S: Final = 2.0  # how often the levels are looked at, and lines that were left out are told of
MOST_LEVEL_BYTES: Final = 4096


class PatientHandler(logging.Handler):
    """Lets a line go that cannot be written, on a full disk for example: whoever logs has work to do.

    How many these were is told before the next line that can be written.
    """

    lost = 0
    why = ""

    def handle(self, record: logging.LogRecord) -> bool:
        self.acquire()
        try:
            lost, self.lost = self.lost, 0
            if lost:
                self.emit(_lost_lines(lost, self.why))
                if self.lost:
                    self.lost = lost + 1  # this one with them
                    return False
            self.emit(record)
        finally:
            self.release()
        return True

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is the library's
        error = sys.exception()
        if isinstance(error, OSError):
            self.lost += 1
            self.why = error.strerror or "input/output error"
        else:
            super().handleError(record)


def _lost_lines(count: int, why: str) -> logging.LogRecord:
    text = f"{count} lines of this log before this one could not be written: {why}"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (), None)


class LineFile(io.FileIO):
    """Writes each line as a whole, unbuffered: a buffer would try what it has again and again.

    After a line of which only the beginning fitted on the disk, the next one begins on a line of its own.
    """

    _is_cut = False

    def write(self, line: ReadableBuffer, /) -> int:
        rest = (b"\n" if self._is_cut else b"") + bytes(line)
        whole = len(rest)
        try:
            while rest:
                written = super().write(rest)
                if not written:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                rest = rest[written:]
        except OSError:
            self._is_cut = self._is_cut or len(rest) < whole
            raise
        self._is_cut = False
        return len(bytes(line))


def lines_to(file: LineFile) -> io.TextIOWrapper:
    """Return a stream of text that takes any text."""
    return io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", write_through=True)


class StreamHandler(PatientHandler, logging.StreamHandler[TextIO]):
    """Writes lines to a stream."""


class SparingHandler(logging.Handler):
    """Passes lines on to the others, repeats as a count; see logs/repeats.py."""

    def __init__(self, targets: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._targets = tuple(targets)
        self._repeats = Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        for told in self._repeats.take(record, time.monotonic()):
            self._tell(told)

    def tell_due(self) -> None:
        """Tell of what was left out, as far as it is time."""
        self.acquire()
        try:
            for told in self._repeats.due(time.monotonic()):
                self._tell(told)
        finally:
            self.release()

    def flush(self) -> None:
        for target in self._targets:
            target.flush()

    def close(self) -> None:
        for told in self._repeats.rest():
            self._tell(told)
        for target in self._targets:
            target.close()
        super().close()

    def _tell(self, record: logging.LogRecord) -> None:
        for target in self._targets:
            target.handle(record)


class LevelSwitch:
    """The levels of this process: those of its start, unless an operator wrote others to a file meanwhile."""

    def __init__(self, levels: LogLevels, path: Path | None = None) -> None:
        """Take the levels of the start, and the file that goes before them while it is there."""
        self._levels = levels
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        apply_levels(levels)
        self.look()

    def deployed(self, level: str) -> None:
        """Take the level that the deployment has for this process; levels of parts stay."""
        self._levels = LogLevels(level, self._levels.parts)
        if self._seen is None:
            apply_levels(self._levels)

    def look(self) -> None:
        """Take the levels in the file if they are others than at the last look."""
        if self._path is None:
            return
        try:
            found = os.stat(self._path)
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            seen = None
        if seen == self._seen:
            return
        self._seen = seen
        if seen is None:
            apply_levels(self._levels)
            _tell_levels(f"{self._levels}, as set")
            return
        try:
            levels = _read_levels(self._path)
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else f"allowed: {exc}"
            log.warning(
                "the log levels in %s are not taken (%s): set others with `edge-actors log-level`",
                self._path,
                why,
            )
            return
        apply_levels(levels)
        _tell_levels(f"{levels}, until `edge-actors log-level default`")


def _tell_levels(text: str) -> None:
    """Write what counts from now on, whether or not that lets a line like this through."""
    log.handle(logging.LogRecord(__name__, logging.INFO, __file__, 0, "log levels: %s", (text,), None))


def _read_levels(path: Path) -> LogLevels:
    with open(path, "rb") as file:
        return parse_levels(file.read(MOST_LEVEL_BYTES).decode("ascii", "replace").strip())


def log_through(
    targets: Sequence[logging.Handler],
    levels: LogLevels,
    *,
    process: str,
    log_format: str = TEXT,
    level_file: Path | None = None,
) -> LevelSwitch:
    """Have this process log to `targets` from now on, and to nothing else.

    Args:
        targets: Where the lines go.
        levels: How much.
        process: What this process is called in lines that are objects.
        log_format: One of FORMATS.
        level_file: Levels in it count before `levels`, from LOOK_S after they were written at the latest.
    """
    for target in targets:
        target.setFormatter(JsonFormatter(process) if log_format == JSON else LineFormatter())
    sparing = SparingHandler(targets)
    logging.basicConfig(handlers=[sparing], force=True)
    switch = LevelSwitch(levels, level_file)
    threading.Thread(target=_look_after, args=(sparing, switch), name="log", daemon=True).start()
    return switch


def _look_after(sparing: SparingHandler, switch: LevelSwitch) -> None:
    while sparing in logging.getLogger().handlers:
        time.sleep(LOOK_S)
        switch.look()
        sparing.tell_due()


def log_to_stderr(
    process: str,
    levels: LogLevels,
    log_format: str = TEXT,
    level_file: Path | None = None,
) -> LevelSwitch:
    """Send the log of this process to stderr; see `log_through`."""
    handler = StreamHandler(lines_to(LineFile(sys.stderr.fileno(), "w", closefd=False)))
    return log_through([handler], levels, process=process, log_format=log_format, level_file=level_file)


def log_as_told(process: str, level_file: Path) -> LevelSwitch:
    """Send the log of a process of the edge to stderr, as its environment says."""
    levels = parse_levels(os.environ.get(LEVEL_VARIABLE) or DEFAULT)
    return log_to_stderr(process, levels, os.environ.get(FORMAT_VARIABLE) or TEXT, level_file)
