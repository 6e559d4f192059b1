"""How a line of the log is written."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from runtime.logs.lines import JsonFormatter, LineFormatter


def record(level: int, text: str, *arguments: object) -> logging.LogRecord:
    made = logging.LogRecord("actors.agent.supervisor", level, "", 1, text, arguments, None)
    made.created, made.msecs = 1_700_000_000.25, 250
    return made


@pytest.mark.parametrize(
    ("level", "head"),
    [
        (logging.CRITICAL, "<0> 2023-11-14 22:13:20.250 +00:00 [FTL] - "),
        (logging.ERROR, "<3> 2023-11-14 22:13:20.250 +00:00 [ERR] - "),
        (logging.WARNING, "<4> 2023-11-14 22:13:20.250 +00:00 [WRN] - "),
        (logging.INFO, "<6> 2023-11-14 22:13:20.250 +00:00 [INF] - "),
    ],
)
def test_a_line_is_that_of_the_reference(level: int, head: str) -> None:
    """Source: spec sheet observability.md section 8, and section 13 row 52."""
    logging.getLogger("actors.agent.supervisor").setLevel(logging.INFO)

    assert LineFormatter().format(record(level, "module %s exited", "a")) == f"{head}module a exited"


def test_a_part_that_logs_at_debug_is_named() -> None:
    """Source: spec sheet observability.md section 13 row 51."""
    log = logging.getLogger("actors.agent.supervisor")
    log.setLevel(logging.DEBUG)
    try:
        found = [LineFormatter().format(record(level, "x")) for level in (logging.DEBUG, logging.WARNING)]
    finally:
        log.setLevel(logging.NOTSET)

    assert found == [
        "<7> 2023-11-14 22:13:20.250 +00:00 [DBG] [actors.agent.supervisor] - x",
        "<4> 2023-11-14 22:13:20.250 +00:00 [WRN] [actors.agent.supervisor] - x",
    ]


def test_no_text_passes_for_a_line_of_its_own() -> None:
    text = "bad\n<3> 2023-11-14 22:13:20.250 +00:00 [ERR] - forged\r\x1b[2Jgone"

    first, *others = LineFormatter().format(record(logging.INFO, "%s", text)).splitlines()

    assert first.endswith("- bad")
    assert others == ["    <3> 2023-11-14 22:13:20.250 +00:00 [ERR] - forged\\x0d\\x1b[2Jgone"]


def test_an_object_has_time_level_process_logger_message_and_traceback() -> None:
    made = record(logging.ERROR, "it %s", "failed\nhere")
    try:
        raise ValueError("boom")
    except ValueError:
        made.exc_info = sys.exc_info()

    values = json.loads(JsonFormatter("edgeHub").format(made))

    assert values.pop("traceback").endswith("ValueError: boom")
    assert values == {
        "at": "2023-11-14T22:13:20.250Z",
        "level": "error",
        "process": "edgeHub",
        "logger": "actors.agent.supervisor",
        "message": "it failed\nhere",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SharedAccessSignature sr=h&sig=AbC%2f%3d&se=1", "SharedAccessSignature sr=h&sig=***&se=1"),
        ("HostName=h;SharedAccessKey=AbC+/==;DeviceId=d", "HostName=h;SharedAccessKey=***;DeviceId=d"),
        ("https://b.example/c?sv=1&sig=xYz%3D", "https://b.example/c?sv=1&sig=***"),
        (
            "-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY----- rest",
            "-----BEGIN EC PRIVATE KEY-----*** rest",
        ),
        ("the signal of module sig stays", "the signal of module sig stays"),
    ],
)
def test_a_secret_in_the_text_of_a_library_is_masked(text: str, shown: str) -> None:
    assert LineFormatter().format(record(logging.INFO, text)).endswith(f"- {shown}")
    assert json.loads(JsonFormatter("x").format(record(logging.INFO, text)))["message"] == shown
