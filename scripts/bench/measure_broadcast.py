"""Measures a broadcast beside mosquitto: one publisher, 50 subscribers of its topic, 256 bytes, QoS 0 and 1.

Plain TCP and TLS. Rounds of the two sides alternate, so that whatever else the machine does meets both.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from scripts.bench.peer_edge import ROOT, EdgePeer
from scripts.bench.peer_mosquitto import MosquittoPeer, PeerUnusable

SUBSCRIBERS = 50
TOPIC = "news/today"
CASES = [f"{transport}/qos{qos}" for transport in ("plain", "tls") for qos in (0, 1)]
TARGETS = {"plain": 1.0, "tls": 2.0}  # our deliveries/s over mosquitto's


class BroadcastEdge(EdgePeer):
    """An edge whose broker lets its modules and devices publish and subscribe to everything."""

    def __init__(self, parent: Path, subscribers: int, in_flight: int) -> None:
        super().__init__(parent, publishers=1)
        self._subscribers = subscribers
        self._in_flight = in_flight

    def __enter__(self) -> "BroadcastEdge":
        super().__enter__()
        try:
            names = [f"leaf{n}" for n in range(1, self._subscribers + 1)]
            self._devices = [self._run.new_device(name, self.consumer.iothub) for name in names]
        except BaseException:
            self.__exit__()
            raise
        return self

    def _manifest(self) -> dict[str, Any]:
        manifest = super()._manifest()
        hub = manifest["modulesContent"]["$edgeHub"]["properties.desired"]
        operations = ["mqtt:connect", "mqtt:publish", "mqtt:subscribe"]
        everything = {"operations": operations, "resources": ["#"]}
        authorizations = [{"identities": ["{{iot:identity}}"], "allow": [everything]}]
        hub |= {"schemaVersion": "1.2", "routes": {}, "mqttBroker": {"authorizations": authorizations}}
        agent = manifest["modulesContent"]["$edgeAgent"]["properties.desired"]
        agent["systemModules"]["edgeHub"]["env"] = {
            "MqttBroker__MaxInflightMessages": {"value": str(self._in_flight)}
        }
        return manifest

    def broadcast(self, transport: str) -> dict[str, Any]:
        """Return target, publisher and subscribers for the generator."""
        return {
            "target": self.load(transport, 1)["target"],
            "publisher": {**self.consumer.client(), "topic": TOPIC},
            "subscribers": [identity.client() for identity in self._devices],
        }


class BroadcastMosquitto(MosquittoPeer):
    """The other side."""

    def __init__(self, subscribers: int, in_flight: int) -> None:
        super().__init__(in_flight)
        self._subscribers = subscribers

    def broadcast(self, transport: str) -> dict[str, Any]:
        """Return target, publisher and subscribers for the generator."""
        return {
            "target": self.load(transport, 1)["target"],
            "publisher": {"client_id": "publisher", "topic": TOPIC},
            "subscribers": [{"client_id": f"subscriber{n}"} for n in range(self._subscribers)],
        }


def run_load(peer: BroadcastEdge | BroadcastMosquitto, case: str, seconds: float) -> dict[str, Any]:
    """Run the generator once; return its report.

    Raises:
        PeerUnusable: the generator could not use the peer, or a message was lost; says why.
    """
    transport, _, qos = case.partition("/qos")
    pids = [process.pid for process in peer.processes()]
    config = {**peer.broadcast(transport), "qos": int(qos), "seconds": seconds, "pids": pids}
    result = subprocess.run(
        [sys.executable, "-m", "scripts.bench.broadcast_load"],
        cwd=ROOT,
        input=json.dumps(config),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise PeerUnusable(f"{peer.name}, {case}: {result.stderr.strip()}")
    report: dict[str, Any] = json.loads(result.stdout)
    if report["lost"]:
        raise PeerUnusable(f"{peer.name}, {case}: {report['lost']} messages were lost")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/broadcast", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds per case and side (default 3)")
    parser.add_argument("--seconds", type=float, default=3, help="steady window of a round (default 3)")
    parser.add_argument("--subscribers", type=int, default=SUBSCRIBERS)
    parser.add_argument(
        "--in-flight",
        type=int,
        default=16,
        help="messages to a subscriber before it acknowledges, on both sides; 0: any number (default 16)",
    )
    parser.add_argument("--only", action="append", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="for our home; a real disk")
    arguments = parser.parse_args()
    cases = [case for case in CASES if any(fnmatch(case, only) for only in arguments.only or ["*"])]
    if not cases:
        parser.error(f"--only {' '.join(arguments.only)} matches none of {', '.join(CASES)}")
    missed = 0
    try:
        with ExitStack() as stack:
            edge = stack.enter_context(
                BroadcastEdge(arguments.directory, arguments.subscribers, arguments.in_flight)
            )
            mosquitto = stack.enter_context(BroadcastMosquitto(arguments.subscribers, arguments.in_flight))
            print(f"{edge.version}\n{mosquitto.version}\n{mosquitto.configuration}")
            print(
                f"{os.cpu_count()} cores, Python {platform.python_version()}; 1 publisher, "
                f"{arguments.subscribers} subscribers, 256 bytes; median of {arguments.rounds} rounds of "
                f"{arguments.seconds:g} s\n"
            )
            for case in cases:
                rounds = [
                    [run_load(peer, case, arguments.seconds) for peer in (edge, mosquitto)]
                    for _ in range(arguments.rounds)
                ]
                sides = list(zip(*rounds, strict=True))
                for name, reports in zip(("edge", "mosquitto"), sides, strict=True):
                    per_s = statistics.median(report["delivered_per_s"] for report in reports)
                    cpu_us = statistics.median(report["cpu_us"] for report in reports)
                    busy = statistics.median(report["generator_cpu_share"] for report in reports)
                    print(
                        f"{case:12} {name:10} {per_s:12,.0f} deliveries/s  {cpu_us:6.2f} us CPU each  "
                        f"generator {busy:.0%}"
                    )
                pairs = [ours["delivered_per_s"] / theirs["delivered_per_s"] for ours, theirs in rounds]
                ratio, target = statistics.median(pairs), TARGETS[case.partition("/")[0]]
                verdict = "reached" if ratio >= target else "missed"
                missed += ratio < target
                cpu = statistics.median(theirs["cpu_us"] / ours["cpu_us"] for ours, theirs in rounds)
                print(
                    f"{case:12} ratio {ratio:.2f} ({min(pairs):.2f} to {max(pairs):.2f}), "
                    f"target {target} {verdict}; of mosquitto's CPU for each 1/{cpu:.2f}",
                    flush=True,
                )
    except PeerUnusable as error:
        print(f"scripts/bench/broadcast: {error}", file=sys.stderr)
        return 2
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
