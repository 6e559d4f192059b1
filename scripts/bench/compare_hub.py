"""Measures our hub beside mosquitto: QoS 1 publisher → route → module, 256 bytes, 100 in flight.

Plain TCP and TLS, one and four publishers, bursts and one by one. Rounds of all sides alternate, so that
whatever else the machine does meets each. Ours is durable, mosquitto keeps nothing. Beside them the floor: a
broker that decides and keeps nothing, and the same with a sync to disk for what each round of reads brought.
What it reaches beside mosquitto is the limit of what any broker can with this generator on this machine.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from scripts.bench.peer_edge import ROOT, EdgePeer
from scripts.bench.peer_floor import FloorPeer
from scripts.bench.peer_mosquitto import MosquittoPeer, PeerUnusable
from scripts.bench.processes import cpu_s, machine_cpu_s
from scripts.bench.raw_limits import fdatasync_ms, file_system

CASES = [
    f"{transport}/{publishers}/{mode}"
    for transport in ("plain", "tls")
    for publishers in (1, 4)
    for mode in ("burst", "one")
]
# Case → the bar of our messages/s over mosquitto's, who keeps nothing.
BARS = {
    "plain/1/burst": 2.0,
    "plain/4/burst": 1.5,
    "tls/1/burst": 2.5,
    "tls/4/burst": 2.5,
    "tls/16/burst": 2.5,
    "tls/100/burst": 2.0,
}
GENERATOR_BUSY = 0.9  # of a core; above it the generator is what is measured
DISTURBED = 0.2  # of a core, taken by neither side nor the generator
FLOORS = ("floor", "floor+sync")
FAULTS = ("unacknowledged", "lost", "duplicated", "out_of_order", "foreign")

Peer = EdgePeer | MosquittoPeer | FloorPeer
Report = dict[str, Any]


def extras_of(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the last parts of a case ask of a peer's load, and what of the generator.

    `1024B` is the size of a body, `10to` the number of subscribers, `json` bodies that a route looks into.
    """
    asked: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for word in words:
        if word == "json":
            asked["json"] = settings["json"] = True
        elif word.endswith("to") and word[:-2].isdigit():
            asked["subscribers"] = int(word[:-2])
        elif word.endswith("B") and word[:-1].isdigit():
            settings["payload_bytes"] = int(word[:-1])
        else:
            raise ValueError(f"{word!r} is not a part of a case, which are 1024B, 10to, json")
    return asked, settings


def run_load(peer: Peer, case: str, seconds: float, **settings: Any) -> Report:
    """Run the generator once; return its report with the CPU time of the peer's processes added.

    `settings` are more of the generator's, or others than the peer and the case ask for.

    Also added is what was neither the peer nor the generator, as cores busy on average: a round that shared
    the machine with something else shows it there.

    Raises:
        PeerUnusable: the generator could not use the peer; says why.
    """
    transport, publishers, mode, *others = case.split("/")
    asked, extras = extras_of(others)
    config = {**peer.load(transport, int(publishers), **asked), "mode": mode, "seconds": seconds}
    config |= extras | settings
    processes = peer.processes()
    before = {process.pid: cpu_s(process.pid) for process in processes}
    machine_s, generator_s, start_s = machine_cpu_s(), children_cpu_s(), time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "scripts.bench.mqtt_load"],
        cwd=ROOT,
        input=json.dumps(config),
        capture_output=True,
        text=True,
        check=False,
    )
    took_s = time.monotonic() - start_s
    if result.returncode:
        raise PeerUnusable(f"{peer.name}, {case}: {result.stderr.strip()}")
    report = json.loads(result.stdout)
    report["unacknowledged"] = report["sent"] - report["acknowledged"]
    used_s = {process.pid: cpu_s(process.pid) - before[process.pid] for process in processes}
    messages = max(1, report["sent"] or report["received"])
    report["cpu"] = [
        {
            "process": process.label,
            "pid": process.pid,
            "us_per_message": used_s[process.pid] * 1e6 / messages,
            "share": used_s[process.pid] / took_s,
        }
        for process in processes
    ]
    known_s = sum(used_s.values()) + children_cpu_s() - generator_s
    report["other_cores"] = max(0.0, machine_cpu_s() - machine_s - known_s) / took_s
    return report


def children_cpu_s() -> float:
    """Return the CPU time of our children that have ended; the generator's, between two calls around it."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure_case(peers: list[Peer], case: str, rounds: int, seconds: float) -> dict[str, list[Report]]:
    reports: dict[str, list[Report]] = {peer.name: [] for peer in peers}
    for number in range(1, rounds + 1):
        for peer in peers:
            report = run_load(peer, case, seconds)
            reports[peer.name].append(report)
            line = f"{case} round {number}: {peer.name} {report['received_per_s']:,.0f}/s"
            if report["other_cores"] > DISTURBED:
                line += f" while something else took {report['other_cores']:.0%} of a core"
            print(line, file=sys.stderr, flush=True)
    return reports


def median(reports: list[Report], *path: str) -> float:
    values = []
    for report in reports:
        value: Any = report
        for name in path:
            value = value[name] if value is not None else None
        if value is not None:
            values.append(value)
    return statistics.median(values) if values else float("nan")


def summarise(case: str, reports: dict[str, list[Report]]) -> dict[str, Any]:
    """Return the medians of one case, the ratio with its spread over the rounds, and what went wrong."""
    sides = {}
    for name, rounds in reports.items():
        sides[name] = {
            "received_per_s": median(rounds, "received_per_s"),
            "acknowledged_per_s": median(rounds, "acknowledged_per_s"),
            "ack_ms": {key: median(rounds, "ack_ms", key) for key in ("p50", "p99")},
            "end_to_end_ms": {key: median(rounds, "end_to_end_ms", key) for key in ("p50", "p99")},
            "generator_cpu_share": median(rounds, "generator_cpu_share"),
            "other_cores": median(rounds, "other_cores"),
            "cpu_us_per_message": {
                label: statistics.median(
                    sum(cpu["us_per_message"] for cpu in report["cpu"] if cpu["process"] == label)
                    for report in rounds
                )
                for label in dict.fromkeys(cpu["process"] for cpu in rounds[0]["cpu"])
            },
            "faults": {fault: sum(report[fault] for report in rounds) for fault in FAULTS},
        }
    summary: dict[str, Any] = {"case": case, "sides": sides}
    per_s = {name: [report["received_per_s"] for report in rounds] for name, rounds in reports.items()}
    if {"edge", "mosquitto"} <= per_s.keys():
        pairs = [mine / other for mine, other in zip(per_s["edge"], per_s["mosquitto"], strict=True)]
        middles = {name: statistics.median(values) for name, values in per_s.items()}
        summary["ratio"] = middles["edge"] / middles["mosquitto"]
        summary["ratio_min"], summary["ratio_max"] = min(pairs), max(pairs)
        summary["target"] = BARS.get(case)
        summary["limits"] = {name: middles[name] / middles["mosquitto"] for name in FLOORS if name in middles}
    return summary


def table(summaries: list[dict[str, Any]]) -> str:
    """Lay the summaries out for a terminal, one line per case and side."""
    heads = (
        "case",
        "side",
        "messages/s",
        "PUBACK ms",
        "end to end ms",
        "generator",
        "others",
        "CPU per message",
    )
    rows = [heads]
    for summary in summaries:
        case = summary["case"]
        for name, side in summary["sides"].items():
            ack, through = side["ack_ms"], side["end_to_end_ms"]
            cpu = ", ".join(f"{label} {us:.1f} us" for label, us in side["cpu_us_per_message"].items())
            busy = side["generator_cpu_share"]
            faults = [f"{count} {fault}" for fault, count in side["faults"].items() if count]
            rows.append(
                (
                    case,
                    name,
                    f"{side['received_per_s']:,.0f}",
                    f"{ack['p50']:.2f} / {ack['p99']:.2f}",
                    f"{through['p50']:.2f} / {through['p99']:.2f}",
                    f"{busy:.0%}{' (limit)' if busy > GENERATOR_BUSY else ''}",
                    f"{side['other_cores']:.0%}",
                    " ".join([cpu, *(f"!! {fault}" for fault in faults)]),
                )
            )
            case = ""
        if "ratio" in summary:
            spread = f"{summary['ratio_min']:.2f} to {summary['ratio_max']:.2f}"
            target = ""
            if summary["target"] is not None:
                verdict = "reached" if summary["ratio"] >= summary["target"] else "missed"
                target = f"target {summary['target']} {verdict}"
            limits = ", ".join(f"{name} {ratio:.2f}" for name, ratio in summary["limits"].items())
            rows.append(("", "ratio", f"{summary['ratio']:.2f}", spread, target, "", "", limits))
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench/hub", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds per case and side (default 5)")
    parser.add_argument("--seconds", type=float, default=3, help="steady window of a round (default 3)")
    parser.add_argument(
        "--only", action="append", metavar="CASE", help=f"pattern of cases, repeatable: {', '.join(CASES)}"
    )
    parser.add_argument("--side", choices=("edge", "mosquitto"), help="measure one side alone")
    parser.add_argument("--no-floor", action="store_true", help="leave the floor out; half the time")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("/var/tmp"),
        help="for our home; a real disk (default /var/tmp)",
    )
    parser.add_argument("--json", action="store_true", help="print all rounds as JSON instead of the table")
    arguments = parser.parse_args()
    if not arguments.directory.is_dir():
        parser.error(f"--directory {arguments.directory} is not a directory; name one on a real disk")
    arguments.cases = [case for case in CASES if any(fnmatch(case, p) for p in arguments.only or ["*"])]
    if not arguments.cases:
        parser.error(f"--only {' '.join(arguments.only)} matches none of {', '.join(CASES)}")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    summaries, rounds = [], {}
    try:
        with ExitStack() as stack:
            peers: list[Peer] = []
            if arguments.side != "mosquitto":
                peers.append(EdgePeer(arguments.directory))
            if arguments.side != "edge":
                peers.append(MosquittoPeer())
            if not (arguments.side or arguments.no_floor):
                peers += [FloorPeer(), FloorPeer(arguments.directory)]
            for peer in peers:
                stack.enter_context(peer)
            for case in arguments.cases:
                rounds[case] = measure_case(peers, case, arguments.rounds, arguments.seconds)
                summaries.append(summarise(case, rounds[case]))
    except PeerUnusable as error:
        print(f"scripts/bench/hub: {error}", file=sys.stderr)
        return 2
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "directory": str(arguments.directory),
        "file_system": file_system(arguments.directory),
        "fdatasync_ms": fdatasync_ms(arguments.directory),
    }
    about = {peer.name: {"version": peer.version, "configuration": peer.configuration} for peer in peers}
    if arguments.json:
        print(
            json.dumps({"machine": machine, "peers": about, "cases": summaries, "rounds": rounds}, indent=1)
        )
    else:
        for name, text in about.items():
            print(f"{name}: {text['version']}\n{text['configuration'].strip()}\n")
        sync_ms = machine["fdatasync_ms"]
        print(
            f"{machine['cores']} cores, Python {machine['python']}; {machine['directory']} on "
            f"{machine['file_system']}, fdatasync {sync_ms['p50']:.2f} ms p50, {sync_ms['p99']:.2f} ms p99; "
            f"median of {arguments.rounds} rounds of {arguments.seconds:g} s; latencies p50 / p99\n"
        )
        print(table(summaries))
    wrong = ("unacknowledged", "lost", "out_of_order")
    return int(any(side["faults"][name] for s in summaries for side in s["sides"].values() for name in wrong))


if __name__ == "__main__":
    sys.exit(main())
