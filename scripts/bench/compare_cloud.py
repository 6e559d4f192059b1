"""Measures what the IoT Hub stand-in accepts durably, beside our own hub under the same load.

20 devices, TLS, QoS 1, 256 bytes, 100 in flight each; nobody reads, so the figure is of accepting alone.
Rounds of the two alternate, so that whatever else the machine does meets both. At the end the stand-in is
stopped, and every acknowledged message has to be on its disk.
"""

import argparse
import json
import os
import platform
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scripts.bench.compare_hub import DISTURBED, median, run_load
from scripts.bench.peer_cloud import CloudPeer
from scripts.bench.peer_edge import EdgePeer
from scripts.bench.peer_mosquitto import PeerUnusable
from scripts.bench.raw_limits import fdatasync_ms, file_system

PUBLISHERS = 20
CASE = f"tls/{PUBLISHERS}/burst"
TARGET_PER_S = 10_000

Peer = CloudPeer | EdgePeer


class Accepting:
    """The hub of an edge whose consumer is away: it only accepts."""

    def __init__(self, peer: EdgePeer) -> None:
        self.name = peer.name
        self.processes = peer.processes
        self._peer = peer

    def load(self, transport: str, publishers: int) -> dict[str, Any]:
        return {**self._peer.load(transport, publishers), "subscribers": []}


def measure(parent: Path, rounds: int, seconds: float, *, alone: bool) -> tuple[dict[str, list[Any]], int]:
    """Return the reports of each side, and how many acknowledged messages the stand-in has not got."""
    reports: dict[str, list[Any]] = {}
    with ExitStack() as stack:
        cloud = stack.enter_context(CloudPeer(parent, PUBLISHERS))
        peers: list[Any] = [cloud]
        if not alone:
            peers.append(Accepting(stack.enter_context(EdgePeer(parent, PUBLISHERS))))
        for number in range(1, rounds + 1):
            for peer in peers:
                report = run_load(peer, CASE, seconds)
                reports.setdefault(peer.name, []).append(report)
                line = f"round {number}: {peer.name} {report['acknowledged_per_s']:,.0f}/s"
                if report["other_cores"] > DISTURBED:
                    line += f" while something else took {report['other_cores']:.0%} of a core"
                print(line, file=sys.stderr, flush=True)
        cloud.stop()
        acknowledged = sum(report["acknowledged"] for report in reports[cloud.name])
        return reports, max(0, acknowledged - cloud.stored())


def summarise(reports: list[Any]) -> dict[str, Any]:
    """Return the medians of one side."""
    return {
        "accepted_per_s": median(reports, "acknowledged_per_s"),
        "ack_ms": {key: median(reports, "ack_ms", key) for key in ("p50", "p99")},
        "generator_cpu_share": median(reports, "generator_cpu_share"),
        "cpu_us_per_message": sum(cpu["us_per_message"] for report in reports for cpu in report["cpu"])
        / len(reports),
        "unacknowledged": sum(report["unacknowledged"] for report in reports),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench/cloud", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds per side (default 5)")
    parser.add_argument("--seconds", type=float, default=3, help="steady window of a round (default 3)")
    parser.add_argument("--alone", action="store_true", help="measure the stand-in without the hub")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("/var/tmp"),
        help="for the homes; a real disk (default /var/tmp)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments = parser.parse_args()
    if not arguments.directory.is_dir():
        parser.error(f"--directory {arguments.directory} is not a directory; name one on a real disk")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    directory = arguments.directory
    try:
        reports, lost = measure(directory, arguments.rounds, arguments.seconds, alone=arguments.alone)
    except PeerUnusable as error:
        print(f"scripts/bench/cloud: {error}", file=sys.stderr)
        return 2
    sides = {name: summarise(rounds) for name, rounds in reports.items()}
    sync_ms = fdatasync_ms(directory)
    if arguments.json:
        about = {"cores": os.cpu_count(), "python": platform.python_version(), "fdatasync_ms": sync_ms}
        print(json.dumps({"machine": about, "sides": sides, "lost": lost, "rounds": reports}, indent=1))
    else:
        print(
            f"{PUBLISHERS} clients, TLS, 256 bytes; {os.cpu_count()} cores, Python "
            f"{platform.python_version()}; {directory} on {file_system(directory)}, fdatasync "
            f"{sync_ms['p50']:.2f} ms p50, {sync_ms['p99']:.2f} ms p99; median of {arguments.rounds} rounds "
            f"of {arguments.seconds:g} s\n"
        )
        for name, side in sides.items():
            print(
                f"{name:6} {side['accepted_per_s']:>8,.0f} messages/s accepted, PUBACK "
                f"{side['ack_ms']['p50']:.1f} ms p50, {side['ack_ms']['p99']:.1f} ms p99, "
                f"CPU {side['cpu_us_per_message']:.1f} us a message, "
                f"generator {side['generator_cpu_share']:.0%} of a core"
            )
        verdict = "reached" if sides["cloud"]["accepted_per_s"] >= TARGET_PER_S else "missed"
        print(f"\ntarget of {TARGET_PER_S:,} messages/s {verdict}; {lost} acknowledged messages lost")
    return int(lost > 0 or sides["cloud"]["unacknowledged"] > 0)


if __name__ == "__main__":
    sys.exit(main())
