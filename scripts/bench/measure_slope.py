"""Measures whether memory grows: an edge with its stand-in under a steady load for hours.

A module publishes at a steady pace over TLS; each message goes to another module and to the IoT Hub stand-in.
The memory of agent, hub and stand-in is read every ten seconds into a file, a line of JSON each; the slope is
that of a straight line through what came after the warm-up, with a 95 % confidence interval that counts few
samples where each leans on the one before (trend.py). Judged is anonymous memory, which holds what grows by
itself; PSS also moves with other programs that come, go and share libraries with the edge.
`--from FILE` tells it of a file that is there, also of one that is still being written.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scripts.bench.compare_hub import FAULTS, run_load
from scripts.bench.peer_edge import EdgePeer
from scripts.bench.peer_mosquitto import PeerUnusable
from scripts.bench.processes import memory_kb
from scripts.bench.trend import Slope, slope_of

LOOK_S = 10.0
# The arenas of the allocators fill meanwhile: of the agent until minute 35, of the hub until 60. In minute 60
# comes what is done hourly, tokens anew and twins read again: 0.3 MB more in each. The growth is told beside.
WARMUP_MINUTES = 60.0
BAR_MB_PER_H = 1.0  # of agent and hub together
ROLES = ("agent", "hub", "cloud")
PSS, OWN = "Pss", "Anonymous"
JUDGED = "agent and hub, anonymous"
PARTS = {  # of the samples, in the order they are told
    JUDGED: [("agent", OWN), ("hub", OWN)],
    "agent, anonymous": [("agent", OWN)],
    "hub, anonymous": [("hub", OWN)],
    "agent and hub, PSS": [("agent", PSS), ("hub", PSS)],
    "stand-in, anonymous": [("cloud", OWN)],
}
PAUSE_US = 10_000  # what is due within it goes in one write, so that the generator takes little of a core


class SlopePeer(EdgePeer):
    """An edge whose publisher sends to a module and to the cloud."""

    def __init__(self, parent: Path) -> None:
        super().__init__(parent, publishers=1)

    def _manifest(self) -> dict[str, Any]:
        manifest = super()._manifest()
        routes = manifest["modulesContent"]["$edgeHub"]["properties.desired"]["routes"]
        routes["up"] = "FROM /messages/modules/pub1/* INTO $upstream"
        return manifest


def measure(peer: SlopePeer, per_s: float, seconds: float, file: Path) -> dict[str, Any]:
    """Load the edge and write samples until the time is over; return the generator's report.

    Raises:
        PeerUnusable: the load ended early, or one of the processes did.
    """
    members = [(process.role, process.pid) for process in peer.processes() if process.role in ROLES]
    with ThreadPoolExecutor(1) as pool, file.open("w") as samples:
        load = pool.submit(run_load, peer, "tls/1/burst", seconds, per_s=per_s, pause_us=PAUSE_US)
        began_s = time.monotonic()
        while (passed_s := time.monotonic() - began_s) < seconds and not load.done():
            row = {"at_s": passed_s}
            for role, pid in members:
                memory = memory_kb(pid)
                if not memory.get(PSS):
                    raise PeerUnusable(f"edge: a process of {role} ended after {passed_s:.0f} s")
                for kind in (PSS, OWN):
                    column = f"{role}_{kind}_mb"
                    row[column] = row.get(column, 0.0) + memory[kind] * 1024 / 1e6
            samples.write(json.dumps(row) + "\n")
            samples.flush()
            _wait(load, min(LOOK_S, seconds - passed_s))
        return load.result()


def _wait(load: Future[dict[str, Any]], seconds: float) -> None:
    try:
        load.result(timeout=max(0.0, seconds))
    except TimeoutError:
        pass


def read_samples(file: Path) -> list[dict[str, float]]:
    """Return the samples of a file; a line that is still being written is left out."""
    text = file.read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def slopes_of(samples: list[dict[str, float]], warmup_s: float) -> dict[str, Slope]:
    """Return MB an hour of each part, without the warm-up.

    Raises:
        ValueError: too few samples are left.
    """
    settled = [row for row in samples if row["at_s"] >= warmup_s]
    hours = [row["at_s"] / 3600 for row in settled]
    return {name: slope_of(hours, [_sum(row, columns) for row in settled]) for name, columns in PARTS.items()}


def levels_of(samples: list[dict[str, float]], name: str, warmup_s: float) -> tuple[float, float, float]:
    """Return the MB of a part at first, after the warm-up, and at last."""
    warm = next(row for row in samples if row["at_s"] >= warmup_s)
    cold, settled, last = (_sum(row, PARTS[name]) for row in (samples[0], warm, samples[-1]))
    return cold, settled, last


def _sum(row: dict[str, float], columns: list[tuple[str, str]]) -> float:
    return sum(row[f"{role}_{kind}_mb"] for role, kind in columns)


def in_words(samples: list[dict[str, float]], warmup_s: float) -> str:
    """Return what the samples say, a line for each part."""
    settled = [row for row in samples if row["at_s"] >= warmup_s]
    lines = [
        f"{len(settled)} samples over {(settled[-1]['at_s'] - settled[0]['at_s']) / 3600:.2f} h, after "
        f"{warmup_s / 60:g} minutes of warm-up"
    ]
    for name, slope in slopes_of(samples, warmup_s).items():
        cold, warm, last = levels_of(samples, name, warmup_s)
        verdict = ""
        if name == JUDGED:
            word = {True: "held", False: "missed", None: "not settled"}[slope.verdict(BAR_MB_PER_H)]
            verdict = f"; bar < {BAR_MB_PER_H:g}: {word}"
        lines.append(
            f"  {name:24} {cold:6.1f} → {warm:.1f} → {last:.1f} MB  {slope.value:+.2f} MB/h (95 %: "
            f"{slope.low:+.2f} to {slope.high:+.2f}){verdict}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/slope", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120.0, help="how long (default 120)")
    parser.add_argument("--warmup-minutes", type=float, default=WARMUP_MINUTES, help="left out (default 60)")
    parser.add_argument("--per-s", type=float, default=300.0, help="messages a second (default 300)")
    parser.add_argument(
        "--samples", type=Path, default=Path("slope.jsonl"), help="file to write (default slope.jsonl)"
    )
    parser.add_argument("--from", dest="earlier", type=Path, metavar="FILE", help="tell of these samples")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="for the home; a real disk")
    options = parser.parse_args()
    wrong: dict[str, int] = {}
    try:
        if options.earlier is None:
            if options.minutes <= options.warmup_minutes:
                parser.error(
                    f"--minutes {options.minutes:g} ends within --warmup-minutes {options.warmup_minutes:g}"
                )
            directory = Path(tempfile.mkdtemp(prefix="bench-slope-", dir=options.directory))
            try:
                with SlopePeer(directory) as peer:
                    report = measure(peer, options.per_s, options.minutes * 60, options.samples)
            finally:
                shutil.rmtree(directory)
            wrong = {fault: report[fault] for fault in FAULTS if report[fault]}
            print(f"{report['acknowledged_per_s']:,.0f} messages/s, {report['sent']:,} in all")
        print(in_words(read_samples(options.earlier or options.samples), options.warmup_minutes * 60))
    except (PeerUnusable, OSError, ValueError) as error:
        print(f"scripts/bench/slope: {error}", file=sys.stderr)
        return 2
    if wrong:
        print(f"wrong: {wrong}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
