"""How processes of the edge write their log."""

from __future__ import annotations

import io
import logging

import pytest

from runtime.logging_setup import PatientHandler


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


class Handler(PatientHandler, logging.StreamHandler[io.StringIO]):
    pass


@pytest.mark.parametrize(
    ("stream", "arguments", "is_told"),
    [
        pytest.param(FullDisk(), ("1",), False, id="full disk"),
        pytest.param(io.StringIO(), (), True, id="a mistake in the program"),
    ],
)
def test_a_line_that_cannot_be_written_is_let_go_without_a_traceback(
    stream: io.StringIO, arguments: tuple[str, ...], is_told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    record = logging.LogRecord("area", logging.INFO, __file__, 1, "%s %s", (*arguments, "2"), None)

    Handler(stream).handle(record)

    assert ("Traceback" in capsys.readouterr().err) is is_told
