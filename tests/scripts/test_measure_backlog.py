"""The bench of a long outage: its edge and its verdict. The measurement itself needs minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.manifest.deployment import parse_deployment
from scripts.bench.measure_backlog import BacklogPeer, Fill, Others, missed

GOOD: dict[str, Any] = {
    "messages": 1000,
    "waiting": 1000,
    "left": 0,
    "other_faults": 0,
    "full_mb": 100.0,
    "drained_mb": 4.0,
    "drained_per_s": 10_000.0,
    "growth_mb": 49.0,
    "other_p99_ms": 99.0,
    "start_longer_s": 0.9,
}


def test_its_edge_sends_one_publisher_to_the_cloud_and_the_others_to_a_module() -> None:

    deployment = parse_deployment(
        json.dumps(BacklogPeer(Path("/nowhere"))._manifest()).encode(), "bench.json"
    )

    assert [name for name, route in deployment.hub.routes.items() if "$upstream" in route.text] == ["pub1"]
    assert len(deployment.hub.routes) == 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, False),
        ({"waiting": 999}, True),
        ({"left": 1}, True),
        ({"other_faults": 1}, True),
        ({"drained_mb": 60.0}, True),
        ({"drained_per_s": 9_999.0}, True),
        ({"growth_mb": 50.0}, True),
        ({"other_p99_ms": 100.0}, True),
        ({"start_longer_s": 1.0}, True),
    ],
    ids=lambda value: next(iter(value), "all reached") if isinstance(value, dict) else "",
)
def test_whatever_is_missed_makes_the_bench_fail(change: dict[str, Any], expected: bool) -> None:
    assert missed(GOOD | change) is expected


def test_the_loads_are_one_publisher_each(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = BacklogPeer(Path("/nowhere"))
    whole = {"publishers": ["1", "2", "3", "4"][:4], "subscribers": ["s"]}
    monkeypatch.setattr(peer, "load", lambda transport, publishers: whole)

    fill, others = Fill(peer, 7).load("plain", 4), Others(peer).load("plain", 4)

    assert (fill["publishers"], fill["subscribers"], fill["messages"]) == (["1"], [], 7)
    assert (others["publishers"], others["subscribers"]) == (["4"], ["s"])
