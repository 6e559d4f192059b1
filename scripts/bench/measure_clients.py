"""Measures what many clients cost: memory of each, and how soon all are served again after a killed hub.

All over TLS, with persistent sessions and a subscription each, by one process that connects them all at once;
beside them a flow of 1,000 messages/s from a module to another, by a process of its own. The hub is killed
with SIGKILL; the flow is judged from when it is connected again to when all clients are.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from scripts.bench.peer_edge import ROOT, EdgePeer
from scripts.bench.peer_mosquitto import MosquittoPeer, PeerUnusable
from scripts.bench.processes import cpu_s, machine_cpu_s, pss_kb

LIMIT_S = 60.0
CALM_S = 5.0
PER_S = 1000
METHODS = "$iothub/methods/POST/#"


class Generator:
    """A process of many_clients.py; a context manager."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.bench.many_clients"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(config) + "\n")
        self._process.stdin.flush()
        self._events: Queue[dict[str, Any]] = Queue()
        self.latencies: list[tuple[float, int]] = []  # when it was sent, µs to its arrival
        Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(LIMIT_S)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "latencies":
                self.latencies.extend((sent_s, us) for sent_s, us in event["rows"])
            else:
                self._events.put(event)
        self._events.put({"event": "the end of the generator"})

    def wait(self, event: str) -> dict[str, Any]:
        """Return the next event, which has to be this one."""
        try:
            found = self._events.get(timeout=LIMIT_S)
        except Empty:
            raise PeerUnusable(f"no {event!r} within {LIMIT_S:g} s") from None
        if found["event"] != event:
            raise PeerUnusable(f"{found['event']!r} came, {event!r} was due")
        return found

    def percentiles(self, from_s: float, to_s: float) -> dict[str, float]:
        """Return how long messages of a span of time took, in ms."""
        found = sorted(us for sent_s, us in self.latencies if from_s <= sent_s < to_s)
        if not found:
            return {"messages": 0}
        at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        shown = {name: found[min(len(found) - 1, int(len(found) * part))] / 1000 for name, part in at.items()}
        return {"messages": len(found), **shown}


def measure(directory: Path, count: int) -> dict[str, Any]:
    """Connect so many clients, kill the hub; return memory and times.

    Once for each edge: a hub that crashes twice in a row is started again after a while only.
    """
    with EdgePeer(directory, publishers=1) as peer:
        began_s = time.monotonic()
        clients = [client_of(peer, f"client-{number:05}") for number in range(count)]
        print(f"{count} identities made in {time.monotonic() - began_s:.1f} s", file=sys.stderr)
        load = peer.load("tls", 1)
        target = load["target"]
        flow = {"publisher": load["publishers"][0], "subscriber": load["subscribers"][0], "per_s": PER_S}
        with Generator({"target": target, "flow": flow}) as stream:
            stream.wait("flow")
            time.sleep(CALM_S)
            before_kb = pss_kb(hub_pid(peer))
            with Generator({"target": target, "clients": clients}) as crowd:
                began_s = time.monotonic()
                first = crowd.wait("served")
                time.sleep(CALM_S)
                each_kb = (pss_kb(hub_pid(peer)) - before_kb) / count
                calm = stream.percentiles(first["at_s"] + 1, time.monotonic() - 1)
                storm_ = storm(peer, stream, crowd)
    return {
        "clients": count,
        "each_kb": each_kb,
        "first_connect_s": first["at_s"] - began_s,
        "calm_ms": calm,
        "storm": storm_,
    }


def connected(mosquitto: MosquittoPeer, count: int) -> dict[str, float]:
    """Connect so many clients to mosquitto; return the seconds until all are, and the memory of each."""
    [broker] = mosquitto.processes()
    clients = [{"client_id": f"client-{number:05}", "filters": [METHODS]} for number in range(count)]
    before_kb = pss_kb(broker.pid)
    with Generator({"target": mosquitto.load("tls", 1)["target"], "clients": clients}) as crowd:
        began_s = time.monotonic()
        served = crowd.wait("served")
        time.sleep(CALM_S)
        each_kb = (pss_kb(broker.pid) - before_kb) / count
    return {"connect_s": served["at_s"] - began_s, "each_kb": each_kb}


def client_of(peer: EdgePeer, name: str) -> dict[str, Any]:
    return {**peer.run.new_device(name, peer.consumer.iothub).client(), "filters": [METHODS]}


def hub_pid(peer: EdgePeer) -> int:
    [hub] = [process.pid for process in peer.processes() if process.role == "hub"]
    return hub


def storm(peer: EdgePeer, stream: Generator, crowd: Generator) -> dict[str, Any]:
    """Kill the hub; return how long everybody was away, and how the flow was meanwhile."""
    busy_s = machine_cpu_s()
    killed_s = time.monotonic()
    os.kill(hub_pid(peer), signal.SIGKILL)
    flow = stream.wait("flow")
    served = crowd.wait("served")
    took_s = served["at_s"] - killed_s
    used = {"hub": cpu_s(hub_pid(peer)), "machine": machine_cpu_s() - busy_s}
    time.sleep(CALM_S)
    return {
        "all_served_s": took_s,
        "first_served_s": served["first_s"] - killed_s,
        "flow_back_s": flow["at_s"] - killed_s,
        "sessions": served["present"],
        "cpu_s": used,
        "flow_ms": stream.percentiles(flow["at_s"], served["at_s"]),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="clients", description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as directory:
            found = measure(Path(directory), arguments.clients)
        if arguments.json:
            print(json.dumps(found), flush=True)
            continue
        after = found["storm"]
        print(
            f"{found['clients']} clients over TLS: {found['each_kb']:.1f} KiB of the hub each; connected in "
            f"{found['first_connect_s']:.1f} s; {PER_S} messages/s beside them, calm: "
            f"{shown(found['calm_ms'])}\n  kill -9: first served after {after['first_served_s']:.1f} s, all "
            f"after {after['all_served_s']:.1f} s, {after['sessions']} sessions; flow back after "
            f"{after['flow_back_s']:.1f} s, then {shown(after['flow_ms'])}; CPU of the hub "
            f"{after['cpu_s']['hub']:.1f} s, of the machine {after['cpu_s']['machine']:.1f} s",
            flush=True,
        )
    return 0


def shown(found: dict[str, float]) -> str:
    rest = ", ".join(f"{name} {found[name]:.1f} ms" for name in ("p50", "p99", "max") if name in found)
    return f"{found['messages']:.0f} messages, {rest}"


if __name__ == "__main__":
    sys.exit(main())
