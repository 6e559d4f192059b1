"""Measures what the inspector costs: the hub with a tap on everything, and an envelope that nobody taps.

The load is that of scripts/bench/hub: QoS 1 publishers → route → module, 256 bytes, durable. Rounds with and
without the tap alternate in one run on one edge, and their order changes from pair to pair, so that whatever
else the machine does meets both. The tap is `edge-actors inspect tap --json` as a user runs it; its lines
go to nobody.
"""

import argparse
import json
import math
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.kernel.base import ChildSpec, EdgeActor
from actors.kernel.cell import ActorCell
from messaging.bus import MemoryBus, make_envelope
from messaging.dead_letters import DeadLetter
from messaging.envelope import decode, encode
from messaging.errors import EnvelopeError
from messaging.kinds import data_message
from scripts.bench.compare_hub import CASES, DISTURBED, FAULTS, run_load
from scripts.bench.peer_edge import COMMAND, ROOT, EdgePeer
from scripts.bench.peer_mosquitto import PeerUnusable

TARGET = 0.7  # of the throughput without a tap
RESAMPLES = 10_000
STOP_LIMIT_S = 10.0
BLOCKS = 60


@data_message
class Probe:
    """What the actor takes whose cost is measured."""

    number: int


class Taker(EdgeActor):
    """Takes probes and does nothing."""

    def on_probe(self, message: Probe) -> None:
        pass


class CellWithoutSlot(ActorCell):
    """A cell as it would be if nobody could look."""

    def receive(self, frame: bytes) -> None:
        try:
            envelope = decode(frame)
        except EnvelopeError as exc:
            self._bus.dead_letters.add(DeadLetter(None, f"{self.address}: {exc}", "", self.clock.now_s()))
            return
        self.deliver(envelope)


class NoChildren:
    """A system for actors without children."""

    def spawn(self, spec: ChildSpec, address: str, parent: str) -> None:
        raise NotImplementedError(address)


def idle_ns(rounds: int, envelopes: int) -> list[float]:
    """Return what an envelope takes longer for the slot that is empty, in ns, one figure a round."""
    bus = MemoryBus()
    cells = [
        kind(f"bench/{number}", "", Taker, bus, NoChildren())
        for number, kind in enumerate((ActorCell, CellWithoutSlot))
    ]
    for cell in cells:
        cell.start()
    frame = encode(make_envelope(Probe(1), "bench/0", "bench/1", 1, 0, 0, 0.0, 0.0))
    found = []
    for _ in range(rounds):
        least = {cell.address: math.inf for cell in cells}
        for _ in range(BLOCKS):  # short ones in turns: the fastest of each met the machine at its best
            for cell in cells:
                least[cell.address] = min(least[cell.address], _time_of(cell, frame, envelopes))
        found.append((least["bench/0"] - least["bench/1"]) / envelopes * 1e9)
    return found


def _time_of(cell: ActorCell, frame: bytes, envelopes: int) -> float:
    receive = cell.receive
    began = time.perf_counter()
    for _ in range(envelopes):
        receive(frame)
    return time.perf_counter() - began


def _hub_us(report: dict[str, Any]) -> float:
    """Return the CPU time that the hub took for a message, in µs."""
    return float(sum(cpu["us_per_message"] for cpu in report["cpu"] if cpu["process"].startswith("hub")))


@contextmanager
def tapped(home: Path) -> Iterator[dict[str, int]]:
    """Run a tap on everything; afterwards it is known how many envelopes it showed and missed."""
    about: dict[str, int] = {}
    command = [*COMMAND, "inspect", "tap", "--json", "--home", str(home)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        _wait_until_tapped(process)
        yield about
    finally:
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise PeerUnusable("the tap did not end at Ctrl-C") from None
        numbers = re.search(r"(\d+) envelopes shown, (\d+) missed", said)
        if numbers is None:
            raise PeerUnusable(f"the tap said {said!r}")
        about |= {"shown": int(numbers[1]), "missed": int(numbers[2])}


def _wait_until_tapped(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    line = process.stderr.readline()
    if "tapping agent and hub" not in line:
        raise PeerUnusable(f"the tap does not begin: {line.strip()}")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean, by resampling, always the same for the same values."""
    draw = random.Random(1).choices
    means = sorted(statistics.fmean(draw(values, k=len(values))) for _ in range(RESAMPLES))
    return means[int(RESAMPLES * 0.025)], means[int(RESAMPLES * 0.975) - 1]


def measure(case: str, pairs: int, seconds: float, directory: Path) -> list[dict[str, Any]]:
    """Return the pairs of rounds of one case."""
    found = []
    with EdgePeer(directory) as peer:
        run_load(peer, case, seconds)  # the first one warms up
        for number in range(pairs):
            pair: dict[str, Any] = {}
            for side in ("without", "tap") if number % 2 == 0 else ("tap", "without"):
                if side == "tap":
                    with tapped(peer.home) as about:
                        pair[side] = run_load(peer, case, seconds)
                    pair |= about
                else:
                    pair[side] = run_load(peer, case, seconds)
            pair["ratio"] = pair["tap"]["received_per_s"] / pair["without"]["received_per_s"]
            found.append(pair)
            pair["hub_us"] = {side: _hub_us(pair[side]) for side in ("without", "tap")}
            others = max(pair[side]["other_cores"] for side in ("without", "tap"))
            print(
                f"{case} pair {number + 1}: {pair['without']['received_per_s']:,.0f}/s without, "
                f"{pair['tap']['received_per_s']:,.0f}/s with a tap ({pair['ratio']:.2f}); "
                f"{pair['shown']} envelopes shown, {pair['missed']} missed"
                + (f"; others took {others:.0%} of a core" if others > DISTURBED else ""),
                file=sys.stderr,
                flush=True,
            )
    return found


def summarise(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the pairs of one case say together."""
    ratios = [pair["ratio"] for pair in pairs]
    rounds = [pair[side] for pair in pairs for side in ("without", "tap")]
    return {
        "ratio": statistics.fmean(ratios),
        "interval": interval(ratios),
        "hub_us": {
            side: statistics.median(pair["hub_us"][side] for pair in pairs) for side in ("without", "tap")
        },
        "shown": sum(pair["shown"] for pair in pairs),
        "missed": sum(pair["missed"] for pair in pairs),
        "faults": {fault: sum(report[fault] for report in rounds) for fault in FAULTS},
    }


def in_words(case: str, about: dict[str, Any]) -> str:
    low, high = about["interval"]
    us = about["hub_us"]
    verdict = "reached" if low >= TARGET else "missed" if high < TARGET else "not settled"
    wrong = "".join(f", !! {count} {fault}" for fault, count in about["faults"].items() if count)
    return (
        f"{case}: {about['ratio']:.2f} × with a tap on everything, 95 % between {low:.2f} and {high:.2f} "
        f"(bar {TARGET}: {verdict}); CPU of the hub {us['without']:.1f} µs a message without, "
        f"{us['tap']:.1f} with ({us['tap'] / us['without']:.2f} ×); {about['shown']} envelopes shown, "
        f"{about['missed']} missed{wrong}"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench/tap", description=__doc__)
    parser.add_argument("--pairs", type=int, default=6, help="rounds with and without a tap (default 6)")
    parser.add_argument("--seconds", type=float, default=3, help="steady window of a round (default 3)")
    parser.add_argument(
        "--case", choices=CASES, action="append", help="default: tls/4/burst and plain/1/burst"
    )
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="for our home; a real disk")
    parser.add_argument("--json", action="store_true", help="print all rounds as JSON")
    arguments = parser.parse_args()
    arguments.case = arguments.case or ["tls/4/burst", "plain/1/burst"]
    return arguments


def main() -> int:
    arguments = parse_arguments()
    idle = idle_ns(5, 2_000)
    cases = {}
    try:
        for case in arguments.case:
            cases[case] = measure(case, arguments.pairs, arguments.seconds, arguments.directory)
    except PeerUnusable as error:
        print(f"scripts/bench/tap: {error}", file=sys.stderr)
        return 2
    summary = {case: summarise(pairs) for case, pairs in cases.items()}
    idle_figures = {"median": statistics.median(idle), "least": min(idle), "most": max(idle)}
    if arguments.json:
        print(json.dumps({"idle_ns": idle_figures, "cases": summary, "rounds": cases}, indent=1))
    else:
        print(f"{os.cpu_count()} cores, Python {platform.python_version()}")
        print(
            f"an envelope that nobody taps: {idle_figures['median']:.0f} ns more than without the slot "
            f"({idle_figures['least']:.0f} to {idle_figures['most']:.0f})"
        )
        for case, about in summary.items():
            print(in_words(case, about))
    return int(any(about["interval"][1] < TARGET for about in summary.values()))


if __name__ == "__main__":
    sys.exit(main())
