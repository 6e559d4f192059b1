"""The sample deployment and the parts of its modules that need no hub."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from actors.manifest.deployment import parse_deployment
from actors.manifest.module_spec import ProcessSettings

SAMPLES = Path(__file__).parents[2] / "scripts" / "samples"


def load(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"sample_{name}", SAMPLES / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sensor() -> ModuleType:
    return load("sensor")


@pytest.fixture(scope="module")
def sample_filter() -> ModuleType:
    return load("filter")


def test_the_sample_deployment_is_valid_and_names_programs_that_exist() -> None:
    path = SAMPLES / "deployment.json"

    deployment = parse_deployment(path.read_bytes(), path.name)

    assert deployment.warnings == ()
    assert list(deployment.supervised) == ["edgeHub", "filter", "sensor"]
    for module in deployment.modules.values():
        assert isinstance(module.settings, ProcessSettings)
        assert (SAMPLES / module.settings.command[-1]).is_file()


def test_a_reading_is_a_message_of_json_that_names_its_run_and_sequence(sensor: ModuleType) -> None:
    message = sensor.as_message(sensor.reading(7, "2024-01-01T00:00:00.000Z"))

    body = json.loads(message.data)
    assert (body["sequence"], body["run"]) == (7, "2024-01-01T00:00:00.000Z")
    assert body.keys() == {"sequence", "run", "machine", "ambient", "timeCreated"}
    assert body["machine"]["temperature"] == pytest.approx(24.5, abs=0.3)
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    assert message.message_id == "2024-01-01T00:00:00.000Z-7"


def test_every_reading_passes_a_filter_with_the_default_threshold(
    sensor: ModuleType, sample_filter: ModuleType
) -> None:
    decide = sample_filter.Filter(threshold=0.0, run="f")

    passed = [decide.decide(sensor.as_message(sensor.reading(n, "s")).data.encode()) for n in range(1, 301)]

    bodies = [json.loads(message.data) for message in passed]
    assert [body["sequence"] for body in bodies] == list(range(1, 301))
    assert [body["filterSequence"] for body in bodies] == list(range(1, 301))
    assert {(body["run"], body["filterRun"]) for body in bodies} == {("s", "f")}


@pytest.mark.parametrize(
    ("data", "passes", "unreadable"),
    [
        (b'{"machine": {"temperature": 50.5}}', True, 0),
        (b'{"machine": {"temperature": 50}}', False, 0),
        (b'{"machine": {}}', False, 1),
        (b"[]", False, 1),
        (b"\xff", False, 1),
        (b'{"machine": {"temperature": null}}', False, 1),
    ],
)
def test_what_is_too_cold_or_no_reading_is_not_passed_on(
    sample_filter: ModuleType, data: bytes, passes: bool, unreadable: int
) -> None:
    decide = sample_filter.Filter(threshold=50.0, run="f")

    assert (decide.decide(data) is not None) is passes
    assert decide.unreadable == unreadable


class ClientOfARestartingHub:
    """Takes messages in order, and refuses each one once before."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.taken: list[int] = []

    async def send_message_to_output(self, message: Any, output: str) -> None:
        await asyncio.sleep(0)
        if message.data not in self.refused:
            self.refused.add(message.data)
            raise ConnectionError("the hub is restarting")
        assert output == "filteredOutput"
        self.taken.append(json.loads(message.data)["sequence"])


def test_readings_are_passed_on_in_order_over_failing_sends(
    sample_filter: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_filter, "RETRY_S", 0)
    client = ClientOfARestartingHub()

    async def run() -> None:
        inbox: asyncio.Queue[bytes] = asyncio.Queue()
        for sequence in range(20):
            body = {"sequence": sequence, "machine": {"temperature": 60}}
            inbox.put_nowait(json.dumps(body).encode())
        work = asyncio.create_task(sample_filter.forward(client, inbox, sample_filter.Filter(0.0, "f")))
        await asyncio.wait_for(inbox.join(), timeout=10)
        work.cancel()

    asyncio.run(run())

    assert client.taken == list(range(20))
