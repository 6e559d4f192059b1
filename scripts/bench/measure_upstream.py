"""Measures the link to the cloud alone: what goes through, what it costs, what it says when it is idle.

The product's connections against the IoT Hub stand-in in a process of its own, over TLS and a line with a
round trip of its own, MQTT beside AMQP; 1 KB a message, each acknowledged after its commit. Flooded: as fast
as it goes, with 1,000 messages under way at most. Paced: so many a second, for the time from `send` to
`done`. Idle: what passes the line while nothing is sent, with keep-alives as they are and tokens that are
renewed soon. Needs ports 8883, 5671 and 443 of the addresses 127.0.0.7 and 127.0.0.8.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from actors.upstream.connection import CloudAccess, CloudConnection, CloudConnections, CloudFault
from actors.upstream.protocol import UpstreamProtocol, parse_protocol
from messaging.envelope import Secret
from messaging.identity import Identity
from messaging.message import Message
from messaging.topics import Feature
from runtime.upstream.connections import UpstreamConnections
from runtime.upstream.shared import TOKEN_LIFE_S, CloudTimes
from scripts.bench.delay_line import DelayLine
from scripts.bench.peer_cloud import KNOWN_PORTS, CloudPeer
from scripts.bench.processes import machine_cpu_s, pss_kb

ADDRESS = "127.0.0.7"
LINE_ADDRESS = "127.0.0.8"
MOST = 20
BODY_BYTES = 1024
WINDOW = 1000
PACE_S = 0.01
LIMIT_S = 60.0
EVERYTHING = frozenset({Feature.METHODS, Feature.DESIRED_PROPERTIES, Feature.C2D})
RENEWED_AT = 0.85  # of a token's life


class Watcher:
    """Observes one connection: when each message was done."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.sent_s: dict[int, float] = {}
        self.times_s: list[float] = []
        self.told = threading.Event()
        self.problem = ""

    def connected(self) -> None:
        self.open.set()

    def lost(self, fault: CloudFault) -> None:
        self.problem = fault.reason
        self.open.set()
        self.told.set()

    def done(self, number: int, answer: bytes) -> None:
        self.times_s.append(time.perf_counter() - self.sent_s.pop(number))
        self.told.set()

    def failed(self, number: int, fault: CloudFault) -> None:
        self.lost(fault)

    def desired_changed(self, patch: bytes) -> None: ...
    def method_called(self, request_id: str, name: str, payload: bytes) -> None: ...
    def message_received(self, message: Message, taken: Callable[[bool], None]) -> None: ...


class Sender:
    """Sends numbered messages through one connection."""

    def __init__(self, connection: CloudConnection, watcher: Watcher) -> None:
        self.watcher = watcher
        self._connection = connection
        self._message = Message("/messages/", {"kind": "bench"}, {}, os.urandom(BODY_BYTES))
        self._next = 0

    def send(self, count: int) -> None:
        now_s = time.perf_counter()
        for number in range(self._next, self._next + count):
            self.watcher.sent_s[number] = now_s
            self._connection.send(number, self._message)
        self._next += count

    def ask(self) -> None:
        """Ask for the twin, so that all there is to be attached or subscribed has been."""
        self.watcher.sent_s[-1] = time.perf_counter()
        self._connection.get_twin(-1)

    def drain(self) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while self.watcher.sent_s:
            assert time.monotonic() < deadline_s, "messages are not acknowledged"
            assert not self.watcher.problem, self.watcher.problem
            self.watcher.told.clear()
            self.watcher.told.wait(PACE_S)


def flood(senders: list[Sender], seconds: float) -> None:
    end_s = time.perf_counter() + seconds
    window = WINDOW // len(senders)
    while time.perf_counter() < end_s:
        for sender in senders:
            sender.send(max(0, window - len(sender.watcher.sent_s)))
        senders[0].watcher.told.clear()
        senders[0].watcher.told.wait(PACE_S)


def pace(senders: list[Sender], seconds: float, per_s: int) -> None:
    start_s = time.perf_counter()
    sent = 0
    while (passed_s := time.perf_counter() - start_s) < seconds:
        while sent < passed_s * per_s:
            senders[sent % len(senders)].send(1)
            sent += 1
        time.sleep(PACE_S)


def run(senders: list[Sender], work: Callable[[], None]) -> dict[str, float]:
    """Do the work; return rate, times and CPU."""
    for sender in senders:
        sender.watcher.times_s.clear()
    start_s, cpu_s, machine_s = time.perf_counter(), time.process_time(), machine_cpu_s()
    work()
    for sender in senders:
        sender.drain()
    took_s = time.perf_counter() - start_s
    own_s = time.process_time() - cpu_s
    times_s = [each for sender in senders for each in sender.watcher.times_s]
    p50_s, p99_s = (statistics.quantiles(times_s, n=100)[at] for at in (49, 98))
    return {
        "per_s": len(times_s) / took_s,
        "p50_ms": p50_s * 1e3,
        "p99_ms": p99_s * 1e3,
        "cpu_us": own_s / len(times_s) * 1e6,
        "cpu_share": own_s / took_s,
        "machine_cores": (machine_cpu_s() - machine_s) / took_s,
    }


def show(label: str, found: dict[str, float]) -> None:
    print(
        f"  {label}: {found['per_s']:,.0f}/s, send to done p50 {found['p50_ms']:.1f} ms, "
        f"p99 {found['p99_ms']:.1f} ms, {found['cpu_us']:.0f} us of CPU a message "
        f"({found['cpu_share']:.0%} of a core; the machine {found['machine_cores']:.1f} cores)",
        flush=True,
    )


def connect(connections: CloudConnections, cloud: CloudPeer) -> list[Sender]:
    """Return a sender for each device of the cloud, the first one last to wait for."""
    senders = []
    for device in cloud.devices:
        watcher = Watcher()
        access = CloudAccess(Identity(device.device), LINE_ADDRESS, Secret(device.key.encode()), cloud.ca_pem)
        connection = connections.make(access, watcher)
        connection.want(EVERYTHING)
        connection.open()
        assert watcher.open.wait(LIMIT_S), "it does not connect"
        assert not watcher.problem, watcher.problem
        senders.append(Sender(connection, watcher))
    for sender in senders:
        sender.ask()
        sender.drain()
    return senders


def measure_load(protocol: UpstreamProtocol, chosen: argparse.Namespace, cloud: CloudPeer) -> None:
    """Print memory, rates and times."""
    line = DelayLine(LINE_ADDRESS, ADDRESS, list(KNOWN_PORTS), chosen.round_trip_ms / 1e3)
    with line, closing(UpstreamConnections(protocol)) as connections:
        before_kb = pss_kb(os.getpid())
        senders = connect(connections, cloud)
        memory_mb = (pss_kb(os.getpid()) - before_kb) / 1024
        counts = line.counts()
        print(
            f"{protocol}, {chosen.round_trip_ms:.0f} ms round trip: {MOST} identities have "
            f"{counts['accepted']} connections, {memory_mb:.1f} MB, {threading.active_count() - 1} threads",
            flush=True,
        )
        for some in (senders[:1], senders):
            name = "1 identity" if len(some) == 1 else f"{len(some)} identities"
            show(f"{name}, flooded", run(some, lambda some=some: flood(some, chosen.seconds)))
            show(f"{name}, paced", run(some, lambda some=some: pace(some, chosen.seconds, chosen.per_s)))


def measure_idle(protocol: UpstreamProtocol, seconds: float, cloud: CloudPeer) -> None:
    """Print what passes when nothing is sent: without renewals, then with them."""
    passed = []
    for life_s in (float(TOKEN_LIFE_S), seconds):
        times = CloudTimes(token_life_s=life_s, renew_before_s=life_s * (1 - RENEWED_AT))
        line = DelayLine(LINE_ADDRESS, ADDRESS, list(KNOWN_PORTS), 0.0)
        with line, closing(UpstreamConnections(protocol, times)) as connections:
            connect(connections, cloud)
            before = line.counts()
            time.sleep(seconds)
            after = line.counts()
            passed.append(sum(after[way] - before[way] for way in ("from_client", "to_client")))
    kept_alive, with_renewals = passed
    renewal = max(0, with_renewals - kept_alive) / MOST
    renewals_h = MOST * 3600 / (RENEWED_AT * TOKEN_LIFE_S)
    per_hour = kept_alive * 3600 / seconds + renewal * renewals_h
    print(
        f"{protocol}, {MOST} idle identities for {seconds:.0f} s, each with all features: {kept_alive:,} "
        f"bytes, {with_renewals:,} with a renewal of each token ({renewal:,.0f} a token): "
        f"{per_hour / 1000:.0f} KB an hour",
        flush=True,
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--per-s", type=int, default=1000, help="messages a second of the paced rounds")
    options.add_argument("--round-trip-ms", type=float, default=50.0)
    options.add_argument("--idle-seconds", type=float, default=120.0, help="0: this is not measured")
    options.add_argument("--protocols", default="Mqtt,Amqp", help="of Amqp, AmqpWs, Mqtt, MqttWs")
    options.add_argument("--directory", type=Path, default=Path("/tmp"))
    chosen = options.parse_args()
    for protocol in map(parse_protocol, chosen.protocols.split(",")):
        with CloudPeer(chosen.directory, MOST, ADDRESS, LINE_ADDRESS) as cloud:
            if chosen.seconds:
                measure_load(protocol, chosen, cloud)
            if chosen.idle_seconds:
                measure_idle(protocol, chosen.idle_seconds, cloud)


if __name__ == "__main__":
    main()
