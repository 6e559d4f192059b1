"""What an edge tells about itself is kept apart. Source: spec sheet observability.md sections 4 and 13."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from messaging.clock import ManualClock
from messaging.identity import Identity
from messaging.message import DIAGNOSTICS_TYPE
from runtime.iothub.diagnostics import FILE, KEPT, Diagnostics, is_diagnostics
from runtime.iothub.records import Grant, Telemetry

AGENT = Grant(Identity("edge1", "$edgeAgent"), "1", "{}", None)


def told(body: bytes) -> Telemetry:
    return Telemetry({}, {"contentType": DIAGNOSTICS_TYPE}, body)


def kept(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_only_that_content_type_is_kept_apart() -> None:
    assert is_diagnostics(told(b""))
    assert not is_diagnostics(Telemetry({}, {"contentType": "application/json"}, b""))
    assert not is_diagnostics(Telemetry({"contentType": DIAGNOSTICS_TYPE}, {}, b""))


def test_what_was_told_is_a_line_of_a_file_through_a_restart(tmp_path: Path) -> None:
    Diagnostics(tmp_path, ManualClock(0.0)).take(AGENT, [told(b"one")])
    Diagnostics(tmp_path, ManualClock(60.0)).take(AGENT, [told(b"two")])

    first, second = kept(tmp_path)
    assert first["identity"] == "edge1/$edgeAgent"
    assert first["properties"] == {}
    assert base64.b64decode(str(first["body"])) == b"one"
    assert base64.b64decode(str(second["body"])) == b"two"
    assert str(second["at"]).startswith("1970-01-01T00:01:00")


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    diagnostics = Diagnostics(tmp_path, ManualClock())

    for number in range(KEPT + 5):
        diagnostics.take(AGENT, [told(str(number).encode())])

    bodies = [base64.b64decode(str(line["body"])) for line in kept(tmp_path)]
    assert bodies == [str(number).encode() for number in range(5, KEPT + 5)]
