"""The sink that stands for the cloud: whatever a client sends becomes one line, and lines are whole."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import EnvironmentFault
from messaging.message import Message
from runtime.upstream_file import UpstreamFile, _line

JSON = {"contentType": "application/json", "contentEncoding": "utf-8"}


def message(body: bytes, **system_properties: str) -> Message:
    return Message("/messages/", {"a": "ü", "b": None}, system_properties, body)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().decode().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upstream.jsonl"


def test_a_message_is_a_line_with_its_properties(path: Path) -> None:
    UpstreamFile(path).send([message(b"\xff\x00", messageId="1"), message(b'{"t": 21.5}', **JSON)])

    binary, parsed = records(path)
    assert (binary["Properties"], binary["SystemProperties"]) == ({"a": "ü", "b": None}, {"messageId": "1"})
    assert base64.b64decode(binary["Body"]) == b"\xff\x00"
    assert parsed["Body"] == {"t": 21.5}
    assert path.stat().st_mode & 0o777 == 0o600


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
def test_a_body_that_is_not_json_as_it_claims_is_kept_as_base64(path: Path, body: bytes) -> None:
    UpstreamFile(path).send([message(b"1", **JSON), message(body, **JSON), message(b"2", **JSON)])

    before, odd, after = records(path)
    assert (before["Body"], after["Body"]) == (1, 2)
    assert base64.b64decode(odd["Body"]) == body


@pytest.mark.parametrize("depth", range(960, 1000, 3))
def test_json_near_the_limit_of_nesting_is_written_one_way_or_the_other(path: Path, depth: int) -> None:
    body = b"[" * depth + b"]" * depth

    UpstreamFile(path).send([message(body, **JSON)])

    assert path.read_bytes().count(b"\n") == 1


@given(st.binary(max_size=50) | st.text(max_size=50).map(lambda text: json.dumps(text).encode()))
def test_any_body_is_one_line(body: bytes) -> None:

    line = _line(message(body, **JSON), "now")

    assert line.count(b"\n") == 1
    json.loads(line.decode())


def test_a_line_that_a_crash_cut_short_is_removed_and_whole_ones_stay(path: Path) -> None:
    UpstreamFile(path).send([message(b"1", **JSON)])
    with path.open("ab") as file:
        file.write(b'{"EnqueuedTimeUtc": "2026' + b"x" * 2_000_000)

    UpstreamFile(path).send([message(b"2", **JSON)])

    assert [record["Body"] for record in records(path)] == [1, 2]


def test_after_a_write_that_failed_half_way_lines_are_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = UpstreamFile(path)
    link.send([message(b"1", **JSON)])
    real = os.write

    def full_disk(file: int, data: bytes) -> int:
        if len(data) > 10:
            return real(file, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", lambda file, data: full_disk(file, data[:15]))
    with pytest.raises(EnvironmentFault, match=r"upstream\.jsonl: No space left"):
        link.send([message(b"2", **JSON)])
    monkeypatch.setattr(os, "write", real)
    link.send([message(b"2", **JSON)])

    assert [record["Body"] for record in records(path)] == [1, 2]


def test_off_stays_off_for_whoever_opens_it_next(path: Path) -> None:
    UpstreamFile(path).switch(False)

    assert not UpstreamFile(path).is_on()
    UpstreamFile(path).switch(True)
    assert UpstreamFile(path).is_on()
