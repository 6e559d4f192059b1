"""The measurement of the inspector: its figures and its verdict. The rounds themselves need minutes."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.kernel.cell import ActorCell
from messaging.bus import MemoryBus, make_envelope
from messaging.envelope import encode
from scripts.bench import measure_tap
from scripts.bench.compare_hub import FAULTS
from scripts.bench.measure_tap import (
    CellWithoutSlot,
    NoChildren,
    Probe,
    Taker,
    idle_ns,
    in_words,
    interval,
    summarise,
)
from scripts.bench.peer_mosquitto import PeerUnusable


def loaded(per_s: float, **more: int) -> dict[str, Any]:
    """Return the report of one round."""
    cpu = [{"process": "hub", "us_per_message": 10.0}, {"process": "agent", "us_per_message": 5.0}]
    return {"received_per_s": per_s, "other_cores": 0.0, "cpu": cpu} | dict.fromkeys(FAULTS, 0) | more


def pair_of(ratio: float, **more: int) -> dict[str, Any]:
    with_tap = loaded(1000.0 * ratio, **more)
    return {
        "without": loaded(1000.0),
        "tap": with_tap,
        "ratio": ratio,
        "hub_us": {"without": 10.0, "tap": 12.0},
        "shown": 100,
        "missed": 2,
    }


class NotedTaker(Taker):
    """Notes what it takes."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def on_probe(self, message: Probe) -> None:
        self.taken.append(message.number)


@pytest.mark.parametrize("kind", [ActorCell, CellWithoutSlot])
def test_both_sides_of_the_comparison_do_the_same_work(kind: type[ActorCell]) -> None:
    bus = MemoryBus()
    taker = NotedTaker()
    cell = kind("bench/0", "", lambda: taker, bus, NoChildren())
    cell.start()

    cell.receive(encode(make_envelope(Probe(7), "bench/0", "bench/1", 1, 0, 0, 0.0, 0.0)))
    cell.receive(b"no envelope")

    assert taker.taken == [7]
    assert bus.dead_letters.count == 1


def test_what_an_envelope_costs_is_told_once_a_round() -> None:
    found = idle_ns(2, 20)

    assert len(found) == 2
    assert all(abs(ns) < 1e6 for ns in found)


def test_the_interval_is_that_of_the_mean_and_the_same_each_time() -> None:
    values = [0.5, 0.75, 1.0]

    low, high = interval(values)

    assert values[0] <= low < 0.75 < high <= values[-1]
    assert interval(values) == (low, high)
    assert interval([0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        pytest.param([0.8, 0.9, 0.85], "reached", id="all above the bar"),
        pytest.param([0.5, 0.6, 0.55], "missed", id="all below it"),
        pytest.param([0.5, 0.9, 0.7], "not settled", id="on both sides"),
    ],
)
def test_the_verdict_is_that_of_the_whole_interval(ratios: list[float], verdict: str) -> None:
    about = summarise([pair_of(ratio) for ratio in ratios])

    said = in_words("plain/1/burst", about)

    assert f"(bar 0.7: {verdict})" in said
    assert (about["shown"], about["missed"]) == (300, 6)
    assert "1.20 ×" in said
    assert "!!" not in said


def test_a_fault_of_any_round_is_told() -> None:
    fault = FAULTS[0]

    said = in_words("plain/1/burst", summarise([pair_of(0.9), pair_of(0.9, **{fault: 3})]))

    assert f"!! 3 {fault}" in said


def test_rounds_with_and_without_alternate_on_one_edge_that_was_warmed_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rounds: list[str] = []
    sides = ["without"]

    class Peer:
        home = tmp_path

        def __init__(self, directory: Path) -> None:
            pass

        def __enter__(self) -> Peer:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    @contextmanager
    def tapped(home: Path) -> Any:
        about: dict[str, int] = {}
        sides.append("tap")
        yield about
        sides.pop()
        about |= {"shown": 10, "missed": 1}

    def run_load(peer: Peer, case: str, seconds: float) -> dict[str, Any]:
        rounds.append(sides[-1])
        return loaded(700.0 if sides[-1] == "tap" else 1000.0)

    monkeypatch.setattr(measure_tap, "EdgePeer", Peer)
    monkeypatch.setattr(measure_tap, "tapped", tapped)
    monkeypatch.setattr(measure_tap, "run_load", run_load)

    pairs = measure_tap.measure("plain/1/burst", 2, 0.1, tmp_path)

    assert rounds == ["without", "without", "tap", "tap", "without"]
    assert [pair["ratio"] for pair in pairs] == [0.7, 0.7]
    assert [pair["hub_us"] for pair in pairs] == [{"without": 10.0, "tap": 10.0}] * 2
    assert [(pair["shown"], pair["missed"]) for pair in pairs] == [(10, 1)] * 2


@pytest.mark.parametrize(
    ("ratio", "code"), [pytest.param(0.9, 0, id="reached"), pytest.param(0.5, 1, id="missed")]
)
def test_the_exit_code_is_the_verdict_and_all_rounds_are_there_as_json(
    ratio: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tap", "--case", "plain/1/burst", "--pairs", "2", "--json"])
    monkeypatch.setattr(measure_tap, "idle_ns", lambda rounds, envelopes: [90.0, 100.0, 120.0])
    monkeypatch.setattr(measure_tap, "measure", lambda case, pairs, *_: [pair_of(ratio)] * pairs)

    assert measure_tap.main() == code

    told = json.loads(capsys.readouterr().out)
    assert told["idle_ns"] == {"median": 100.0, "least": 90.0, "most": 120.0}
    assert told["cases"]["plain/1/burst"]["ratio"] == pytest.approx(ratio)
    assert len(told["rounds"]["plain/1/burst"]) == 2


def test_a_tap_that_cannot_begin_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_tap(*_: object) -> None:
        raise PeerUnusable("the tap does not begin: error: no edge runs")

    monkeypatch.setattr(sys, "argv", ["tap"])
    monkeypatch.setattr(measure_tap, "idle_ns", lambda rounds, envelopes: [100.0])
    monkeypatch.setattr(measure_tap, "measure", no_tap)

    assert measure_tap.main() == 2
    assert "scripts/bench/tap: the tap does not begin" in capsys.readouterr().err
