"""The floor of the hub's bench: it has to pass on every message, or its figures mean nothing."""

from pathlib import Path

import pytest

from scripts.bench.compare_hub import FAULTS, run_load, summarise, table
from scripts.bench.peer_floor import FloorPeer
from tests.scripts.test_compare_hub import report


@pytest.mark.parametrize("syncs", [False, True], ids=["without a sync", "with a sync"])
@pytest.mark.parametrize("case", ["plain/2/one", "tls/2/burst"])
def test_the_floor_passes_every_message_on(syncs: bool, case: str, tmp_path: Path) -> None:
    with FloorPeer(tmp_path if syncs else None) as peer:
        seen = run_load(peer, case, 1.0, messages=500)

    assert seen["received"] == seen["acknowledged"] == 1000
    assert not any(seen[fault] for fault in FAULTS)


def test_a_limit_is_what_a_floor_reaches_beside_mosquitto() -> None:
    reports = {"edge": [report(150)], "mosquitto": [report(100)], "floor+sync": [report(180)]}

    summary = summarise("plain/1/burst", reports)

    assert (summary["ratio"], summary["limits"]) == (1.5, {"floor+sync": 1.8})
    assert "floor+sync 1.80" in table([summary])
