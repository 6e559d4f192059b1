"""The file beside the stand-in: whatever a device sends is one line there, never missing and never twice."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import EnvironmentFault
from messaging.identity import Identity
from runtime.iothub.records import Event, Telemetry
from runtime.iothub.telemetry_file import POSITION_FILE, TelemetryFile, _line
from tests.runtime.iothub.fakes import FakeDevice, opened

JSON = {"contentType": "application/json", "contentEncoding": "utf-8"}


def event(body: bytes, number: int = 1, **system_properties: str) -> Event:
    telemetry = Telemetry({"a": "ü", "b": None}, system_properties, body)
    return Event(number, 1_800_000_000.5, Identity("d", "m"), "637", "{}", telemetry)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upstream.jsonl"


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().decode().splitlines()]


def bodies(path: Path) -> list[Any]:
    return [record["Body"] for record in written(path)]


def send(folder: Path, path: Path, sent: Iterable[int], **settings: Any) -> None:
    """Run a stand-in with the file, have a device send these numbers one by one, and stop in order."""

    async def main() -> None:
        async with opened(folder, **settings) as (hub, _):
            await hub.put(Identity("d"), {}, None) if not (folder / "there").exists() else None
            (folder / "there").touch()
            file = TelemetryFile(path, folder / "cloud.db")
            hub.follow_telemetry(file)
            file.open()
            device = await FakeDevice.connect(hub, "d")
            for number in sent:
                await hub.telemetry(device.grant, [Telemetry({}, JSON, str(number).encode())])
        await asyncio.to_thread(file.close)

    asyncio.run(main())


def test_a_message_is_a_line_with_its_properties_and_who_sent_it() -> None:
    binary, parsed = (
        json.loads(_line(event(b"\xff\x00", messageId="1"))),
        json.loads(_line(event(b'{"t": 1}', **JSON))),
    )

    assert binary["Properties"] == {"a": "ü", "b": None}
    assert binary["SystemProperties"] == {
        "messageId": "1",
        "connectionDeviceId": "d",
        "connectionModuleId": "m",
        "connectionAuthMethod": "{}",
        "connectionDeviceGenerationId": "637",
        "enqueuedTime": binary["EnqueuedTimeUtc"],
    }
    assert binary["EnqueuedTimeUtc"] == "2027-01-15T08:00:00.500000Z"
    assert base64.b64decode(binary["Body"]) == b"\xff\x00"
    assert parsed["Body"] == {"t": 1}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{not json", id="no JSON"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b'"\\ud800"', id="half a surrogate"),
        pytest.param(b"[NaN]", id="NaN"),
        pytest.param(b"[" * 100_000, id="opened a hundred thousand times"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="nested a hundred thousand times"),
        pytest.param(b"1" * 10_000, id="a number of 10,000 digits"),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_body_that_is_not_json_as_it_claims_is_kept_as_base64(body: bytes) -> None:
    assert base64.b64decode(json.loads(_line(event(body, **JSON)))["Body"]) == body


@pytest.mark.parametrize("depth", range(960, 1000, 3))
def test_json_near_the_limit_of_nesting_is_written_one_way_or_the_other(depth: int) -> None:
    assert _line(event(b"[" * depth + b"]" * depth, **JSON)).count(b"\n") == 1


@given(st.binary(max_size=50) | st.text(max_size=50).map(lambda text: json.dumps(text).encode()))
def test_any_body_is_one_line(body: bytes) -> None:
    line = _line(event(body, **JSON))

    assert line.count(b"\n") == 1
    json.loads(line.decode())


def test_what_the_stand_in_took_is_in_the_file_when_it_has_stopped(tmp_path: Path, path: Path) -> None:
    send(tmp_path, path, range(50))
    send(tmp_path, path, range(50, 60))

    assert bodies(path) == list(range(60))
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", [0, 1, 100], ids=["whole lines", "its last line cut short", "half of it"])
def test_what_was_written_behind_the_last_position_is_written_again_and_not_twice(
    cut: int, tmp_path: Path, path: Path
) -> None:
    send(tmp_path, path, range(3))
    position = (tmp_path / POSITION_FILE).read_bytes()
    send(tmp_path, path, range(3, 10))
    whole = path.read_bytes()
    (tmp_path / POSITION_FILE).write_bytes(position)  # as a kill before it was written leaves it
    path.write_bytes(whole[: len(whole) - cut])

    send(tmp_path, path, range(10, 12))

    assert path.read_bytes().startswith(whole)
    assert bodies(path) == list(range(12))


def test_a_kill_in_the_first_batch_leaves_nothing_twice(tmp_path: Path, path: Path) -> None:
    path.write_text('{"Body": "of an earlier version"}\n{"Body": ')
    original = os.fdatasync

    def killed(file: int) -> None:
        raise OSError(5, "Input/output error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", killed)
        send(tmp_path, path, range(3))
    assert os.fdatasync is original

    send(tmp_path, path, range(3, 5))

    assert bodies(path) == ["of an earlier version", *range(5)]


def test_the_ring_keeps_what_is_not_written_yet(
    tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.mkdir()  # cannot be written

    send(tmp_path, path, range(500), ring_bytes=5_000)
    path.rmdir()
    send(tmp_path, path, range(500, 510), ring_bytes=5_000)

    assert "messages are not written to" in caplog.text
    assert bodies(path) == list(range(510))


def test_with_another_database_it_begins_anew(tmp_path: Path, path: Path) -> None:
    send(tmp_path, path, range(5))
    for name in ("cloud.db", "there"):
        (tmp_path / name).unlink()

    send(tmp_path, path, range(5, 7))

    assert bodies(path) == list(range(7))


def test_a_file_that_was_taken_away_is_begun_anew(tmp_path: Path, path: Path) -> None:
    send(tmp_path, path, range(5))
    path.unlink()

    send(tmp_path, path, range(5, 7))

    assert bodies(path) == [5, 6]


def test_a_position_that_makes_no_sense_is_told(tmp_path: Path, path: Path) -> None:
    (tmp_path / POSITION_FILE).write_text("x")

    with pytest.raises(EnvironmentFault, match=r"upstream\.position does not say how many"):
        TelemetryFile(path, tmp_path / "cloud.db")
