"""Measures what the sample edge costs: exec → first PUBACK, and the memory of every process some time later.

A first start makes the home and warms the file cache; the starts after it are measured. The PUBACK is that of
a leaf device of our own, which connects over TLS as soon as the port answers.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.bench import mqtt_wire
from scripts.bench.mqtt_link import BrokerRefused, Target, open_session
from scripts.bench.peer_edge import ROOT, START_LIMIT_S, EdgeRun, Identity
from scripts.bench.peer_mosquitto import PeerUnusable
from scripts.bench.processes import pss_kb

SAMPLE = ROOT / "scripts" / "samples" / "deployment.json"
LEAF = "footprint-leaf"


def first_puback_s(run: EdgeRun, leaf: Identity, ca_file: Path, since_s: float | None = None) -> float:
    """Return the seconds from exec, or from another moment of the monotonic clock, to the first PUBACK.

    Raises:
        PeerUnusable: none came in time.
    """
    target = Target("127.0.0.1", run.ports["tls"], str(ca_file))
    client = {**leaf.client(), "topic": f"{leaf.path}/messages/events/"}
    try:
        return puback_s(target, client, run.started_s if since_s is None else since_s)
    except PeerUnusable as error:
        raise PeerUnusable(f"edge: {error}{run.said()}") from None


def puback_s(target: Target, client: dict[str, Any], since_s: float) -> float:
    """Connect and publish until it is acknowledged; return the seconds since then.

    Raises:
        PeerUnusable: none came in time.
    """
    context = target.tls()
    telemetry = mqtt_wire.PublishBuffer(client["topic"], 256, 0, 1)
    while True:
        try:
            link, _ = open_session(target, context, client)
            link.socket.settimeout(START_LIMIT_S)
            link.write(telemetry.fill(range(1, 2), 0, 0))
            answer = b""
            while len(answer) < 4:
                answer += link.read()
        except (OSError, BrokerRefused) as error:
            if time.monotonic() - since_s > START_LIMIT_S:
                raise PeerUnusable(f"no PUBACK in {START_LIMIT_S} s: {error}") from None
            time.sleep(0.005)
            continue
        took_s = time.monotonic() - since_s
        link.close()
        if answer != mqtt_wire.pubacks(1, 1):
            raise PeerUnusable(f"{answer.hex()} instead of a PUBACK")
        return took_s


def measure(deployment: Path, directory: Path, starts: int, after_s: float) -> dict[str, Any]:
    """Start the edge once unmeasured and `starts` times measured; return times and memory."""
    home, log = directory / "home", directory / "edge.log"
    with EdgeRun(deployment, home, log) as run:
        run.wait("tls")
        made = run.ask("identity", "create", LEAF, "--out", str(directory))
        if made.returncode:
            raise PeerUnusable(f"edge: {made.stderr.strip()}{run.said()}")
        leaf = run.identity("show", LEAF)
        first_puback_s(run, leaf, directory / "ca.pem")
    took_s = []
    for number in range(1, starts + 1):
        with EdgeRun(deployment, home, log) as run:
            took_s.append(first_puback_s(run, leaf, directory / "ca.pem"))
            print(f"start {number}: first PUBACK after {took_s[-1]:.2f} s", file=sys.stderr, flush=True)
            if number == starts:
                time.sleep(max(0.0, run.started_s + after_s - time.monotonic()))
                processes = [
                    {"pid": p.pid, "role": p.role, "name": p.name, "pss_mb": pss_kb(p.pid) * 1024 / 1e6}
                    for p in run.processes()
                ]
    return {
        "first_puback_s": took_s,
        "median_first_puback_s": statistics.median(took_s),
        "after_s": after_s,
        "processes": processes,
        "own_pss_mb": sum(p["pss_mb"] for p in processes if p["role"] not in ("module", "cloud")),
        "cloud_pss_mb": sum(p["pss_mb"] for p in processes if p["role"] == "cloud"),
        "module_pss_mb": sum(p["pss_mb"] for p in processes if p["role"] == "module"),
    }


def show(result: dict[str, Any]) -> None:
    starts = ", ".join(f"{took_s:.2f}" for took_s in result["first_puback_s"])
    took_s, own_mb = result["median_first_puback_s"], result["own_pss_mb"]
    print(f"exec → first PUBACK: {took_s:.2f} s, median of {starts} ({verdict(took_s, 1.5, 's')})\n")
    print(f"PSS {result['after_s']:g} s after the start:")
    for process in sorted(result["processes"], key=lambda p: (p["role"] in ("module", "cloud"), p["pid"])):
        print(f"  {process['role']:<7} {process['pid']:>8}  {process['pss_mb']:7.1f} MB  {process['name']}")
    print(f"  agent, hub and shims {own_mb:.1f} MB ({verdict(own_mb, 70, 'MB')})")
    print(f"  the stand-in, which an edge with a real IoT Hub has not, {result['cloud_pss_mb']:.1f} MB")
    print(f"  modules {result['module_pss_mb']:.1f} MB")


def verdict(value: float, target: float, unit: str) -> str:
    return f"target < {target:g} {unit}: {'reached' if value < target else 'missed'}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/footprint", description=__doc__)
    parser.add_argument("--deployment", type=Path, default=SAMPLE, help="default: the sample deployment")
    parser.add_argument("--starts", type=int, default=3, help="measured starts (default 3)")
    parser.add_argument("--after", type=float, default=60, help="seconds to the memory reading (default 60)")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="where to make the home")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.deployment.is_file():
        parser.error(f"--deployment {arguments.deployment} is not a file")
    if not arguments.directory.is_dir():
        parser.error(f"--directory {arguments.directory} is not a directory")
    directory = Path(tempfile.mkdtemp(prefix="bench-footprint-", dir=arguments.directory))
    try:
        result = measure(arguments.deployment.resolve(), directory, arguments.starts, arguments.after)
    except PeerUnusable as error:
        print(f"scripts/bench/footprint: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(directory)
    print(json.dumps(result, indent=1)) if arguments.json else show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
