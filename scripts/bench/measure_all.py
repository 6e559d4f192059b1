"""Measures everything, each thing beside a peer or a raw limit of the same run, and writes one report.

What fails is named in the report and does not stop the rest. Exit status: 0 everything was measured and all
bars hold, 1 a bar does not, 2 something could not be measured or lost messages.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts.bench import lines_cost, lines_flow, lines_hub, lines_slope, lines_times
from scripts.bench.peer_edge import ROOT, EdgePeer
from scripts.bench.peer_mosquitto import MosquittoPeer, PeerUnusable, configuration
from scripts.bench.plan import Plan, say
from scripts.bench.raw_limits import fdatasync_ms, file_system
from scripts.bench.report import Line, Report, Section, as_json, as_markdown, number

REPORT = ROOT / "tests" / "bench" / "REPORT.md"
PACKAGES = ("pyzmq", "pykka", "msgpack", "uvloop", "cryptography", "sqlitedict", "docker")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One section of the report."""

    about: str
    lines: Callable[[Plan], Iterator[Line]]


MEASUREMENTS = {
    "limits": Measurement("What disk, SQLite and TLS of this machine allow.", lines_flow.limits),
    "kernel": Measurement("Envelopes between actors, beside Pykka's own queue and pyzmq.", lines_flow.kernel),
    "hub": Measurement(
        "Durable QoS 1 from publisher by a route to a module: transport/publishers/…, 100 in flight each, "
        "256 bytes unless it says otherwise. `10to`: ten modules get each message, and deliveries count; "
        "`json`: the route has a condition on the JSON body, mosquitto passes the same bodies on. Mosquitto "
        "keeps nothing.",
        lines_hub.throughput,
    ),
    "latency": Measurement(
        "Open loop, 4 publishers over TLS, at parts of what each side takes at most. Times count from when a "
        "message was due, and hold up to 0.1 ms of the generator's own rest.",
        lines_hub.latency,
    ),
    "durable": Measurement(
        "Open loop, 1,000 messages/s of one publisher over TLS, each on disk before its acknowledgement, "
        "beside the raw disk before each round.",
        lines_hub.durable,
    ),
    "upstream": Measurement(
        "The link to the IoT Hub stand-in: alone, flooded with 1,000 messages under way; and an outage of a "
        "whole edge.",
        lines_flow.upstream,
    ),
    "drain": Measurement("A queue for one module, filled and drained over TLS.", lines_flow.drain),
    "routes": Measurement("Time of the router for a message, of which one route matches.", lines_flow.routes),
    "start": Measurement("Starts of the sample edge, and of its hub.", lines_times.start),
    "processes": Measurement("Process modules that crash, each for the first time.", lines_times.processes),
    "containers": Measurement("Containers that crash, each for the first time.", lines_times.containers),
    "idle": Measurement("An edge without modules that run, with its stand-in.", lines_cost.idle),
    "loaded": Measurement(
        "5,000 messages/s of 256 bytes over TLS, publisher to module; stand-in left out.", lines_cost.loaded
    ),
    "storm": Measurement("Many clients over TLS at once, and a killed hub.", lines_cost.storm),
    "slope": Measurement("Memory under a steady load, from an own run of hours.", lines_slope.slope),
}


def measure(name: str, plan: Plan) -> Section:
    """Make one measurement; what fails becomes the problem of its section."""
    measurement, began_s, lines, problem = MEASUREMENTS[name], time.monotonic(), [], ""
    say(f"== {name}")
    try:
        for line in measurement.lines(plan):
            lines.append(line)
            say(f"{line.name}: {number(line.figure)} {line.unit} {line.verdict or ''}")
    except Exception as error:  # noqa: BLE001 - whatever it was, the others are measured
        problem = str(error) if isinstance(error, PeerUnusable) else f"{type(error).__name__}: {error}"
        say(f"{name}: {problem}")
    return Section(name, measurement.about, time.monotonic() - began_s, tuple(lines), problem)


def machine(directory: Path) -> dict[str, Any]:
    """Return what the figures depend on."""
    sync_ms = fdatasync_ms(directory)
    sync = f"fdatasync {sync_ms['p50']:.2f} ms p50, {sync_ms['p99']:.2f} ms p99"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "disk": f"{file_system(directory)}, {sync}",
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> str:
    """Return the commit that is measured, with a word when the tree has changes."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def peers() -> dict[str, str]:
    """Return version and configuration of whom the edge is measured beside, and its own."""
    found = {EdgePeer.name: f"{EdgePeer.version}\n{EdgePeer.configuration}"}
    with suppress(PeerUnusable):
        found["mosquitto"] = f"{MosquittoPeer().version}\n{configuration('…', '…', '…')}"
    return found


def write(report: Report, markdown: Path, json_file: Path) -> None:
    for file, text in (
        (markdown, as_markdown(report)),
        (json_file, json.dumps(as_json(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench/all", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", default=["*"], help=f"patterns of: {', '.join(MEASUREMENTS)}"
    )
    parser.add_argument("--quick", action="store_true", help="one short round of each; no evidence")
    parser.add_argument(
        "--report", type=Path, default=REPORT, help=f"file to write (default {REPORT.relative_to(ROOT)})"
    )
    parser.add_argument("--json", type=Path, help="file for the JSON (default: beside the report)")
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="for homes; a real disk (default /var/tmp)"
    )
    options = parser.parse_args(arguments)
    if not options.directory.is_dir():
        parser.error(f"--directory {options.directory} is not a directory; name one on a real disk")
    for pattern in options.only:
        if not any(fnmatch(name, pattern) for name in MEASUREMENTS):
            parser.error(f"--only {pattern} matches none of {', '.join(MEASUREMENTS)}")
    options.names = [name for name in MEASUREMENTS if any(fnmatch(name, each) for each in options.only)]
    options.json = options.json or options.report.with_name(f"{options.report.stem.lower()}.json")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    plan = Plan(options.directory, options.quick)
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    about = machine(options.directory)
    report = Report(date, commit(), about, peers(), options.quick)
    for name in options.names:
        section = measure(name, plan)
        report = Report(date, report.commit, about, report.peers, options.quick, (*report.sections, section))
        write(report, options.report, options.json)  # what is measured is kept, whatever comes
    print(as_markdown(report))
    return report.exit_status()


if __name__ == "__main__":
    sys.exit(main())
