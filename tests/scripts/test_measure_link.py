"""The bench of the link: its edge, and what it says of messages that are missing or out of order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.manifest.deployment import parse_deployment
from scripts.bench.measure_link import SOURCES, Arrivals, LinkPeer
from scripts.bench.mqtt_wire import STAMP


def test_its_edge_sends_all_publishers_but_one_to_the_cloud() -> None:
    manifest = json.dumps(LinkPeer(Path("/nowhere"))._manifest()).encode()

    routes = parse_deployment(manifest, "bench.json").hub.routes

    local = [name for name, route in routes.items() if "$upstream" not in route.text]
    assert (len(routes), local) == (SOURCES + 1, [f"pub{SOURCES + 1}"])


@pytest.mark.parametrize(
    ("numbers", "taken", "again", "gaps"),
    [
        pytest.param([0, 1, 2], 3, 0, 0, id="in order"),
        pytest.param([0, 1, 0, 1, 2], 3, 2, 0, id="sent again after a break"),
        pytest.param([0, 2, 3], 3, 0, 1, id="one is missing"),
        pytest.param([0, 2, 1], 2, 1, 1, id="two changed places"),
    ],
)
def test_the_cloud_is_asked_for_each_message_once_and_in_order(
    numbers: list[int], taken: int, again: int, gaps: int
) -> None:
    arrivals = Arrivals(Path("/nowhere"))

    for at_s, number in enumerate(numbers, 1):
        arrivals._take(STAMP.pack(number, 7, 0), float(at_s))

    assert (arrivals.taken, arrivals.again, arrivals.gaps) == (taken, again, gaps)
    assert (arrivals.began_s, arrivals.ended_s) == (1.0, _arrived(numbers)[-1])


def _arrived(numbers: list[int]) -> list[float]:
    """Return when something new came."""
    newest, found = -1, []
    for at_s, number in enumerate(numbers, 1):
        if number > newest:
            newest = number
            found.append(float(at_s))
    return found
