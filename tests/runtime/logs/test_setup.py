"""How processes of the edge write their log."""

from __future__ import annotations

import io
import logging
import resource
import signal
from pathlib import Path

import pytest

from runtime.logs.setup import LineFile, SparingHandler, StreamHandler, lines_to


class Disk(io.StringIO):
    """Takes lines unless it is full."""

    is_full = False

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def record(text: str, *arguments: str) -> logging.LogRecord:
    return logging.LogRecord("area", logging.INFO, __file__, 1, text, arguments, None)


def test_lines_that_cannot_be_written_are_counted_and_told_when_there_is_space(
    capsys: pytest.CaptureFixture[str],
) -> None:
    disk = Disk()
    handler = StreamHandler(disk)

    for number, is_full in enumerate([False, True, True, True, False, False]):
        disk.is_full = is_full
        handler.handle(record("line %s", str(number)))

    assert disk.getvalue().splitlines() == [
        "line 0",
        "3 lines of this log before this one could not be written: No space left on device",
        "line 4",
        "line 5",
    ]
    assert capsys.readouterr().err == ""


def test_a_line_that_was_cut_off_is_ended_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = StreamHandler(lines_to(LineFile(path, "a")))
    handler.handle(record("first"))
    earlier = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal_before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9, earlier[1]))  # the disk has room for nine bytes
    try:
        handler.handle(record("second"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, earlier)
        signal.signal(signal.SIGXFSZ, signal_before)

    handler.handle(record("third"))

    first, cut, told, third = path.read_text().splitlines()
    assert (first, cut, third) == ("first", "sec", "third")
    assert told == "1 lines of this log before this one could not be written: File too large"


def test_a_mistake_in_the_program_is_told_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    StreamHandler(io.StringIO()).handle(record("%s %s", "one"))

    assert "Traceback" in capsys.readouterr().err


def test_repeats_are_passed_on_to_every_target_as_a_count() -> None:
    outs = [io.StringIO(), io.StringIO()]
    sparing = SparingHandler([logging.StreamHandler(out) for out in outs])

    for _ in range(5):
        sparing.handle(record("again"))
    sparing.close()

    for out in outs:
        first, last = out.getvalue().splitlines()
        assert first == "again"
        assert last.startswith("again (again: 4, the last at ")
