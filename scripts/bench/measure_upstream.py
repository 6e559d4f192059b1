"""Measures the link to the cloud alone: what goes through one connection, through twenty, and what it costs.

The product's connections against the IoT Hub stand-in in a process of its own, over TLS, 1 KB a message, each
acknowledged after its commit. Flooded: as fast as it goes, with 1,000 messages under way at most.
Paced: so many a second, for the time from `send` to `done`. Needs port 8883 of the address 127.0.0.7.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from actors.cloud_connection import CloudAccess, CloudConnection, CloudFault
from messaging.envelope import Secret
from messaging.identity import Identity
from messaging.message import Message
from runtime.upstream import UpstreamConnections
from scripts.bench.peer_cloud import CloudPeer
from scripts.bench.processes import machine_cpu_s, pss_kb

ADDRESS = "127.0.0.7"
PORT = 8883
MOST = 20
BODY_BYTES = 1024
WINDOW = 1000
PACE_S = 0.01
LIMIT_S = 60.0


class Watcher:
    """Observes one connection: when each message was done."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.sent_s: dict[int, float] = {}
        self.times_s: list[float] = []
        self.told = threading.Event()

    def connected(self) -> None:
        self.open.set()

    def lost(self, fault: CloudFault) -> None:
        print(f"lost: {fault.reason}", file=sys.stderr)
        os._exit(1)

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

    def drain(self) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while self.watcher.sent_s:
            assert time.monotonic() < deadline_s, "messages are not acknowledged"
            self.watcher.told.clear()
            self.watcher.told.wait(PACE_S)


def flood(senders: list[Sender], seconds: float) -> None:
    end_s = time.perf_counter() + seconds
    window = WINDOW // len(senders) if len(senders) > 1 else WINDOW
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


def run(label: str, senders: list[Sender], work: Callable[[], None]) -> None:
    """Do the work, and print rate, times and CPU."""
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
    print(
        f"{label}: {len(times_s) / took_s:,.0f}/s, send to done p50 {p50_s * 1e3:.1f} ms, "
        f"p99 {p99_s * 1e3:.1f} ms, {own_s / len(times_s) * 1e6:.0f} us of CPU a message "
        f"({own_s / took_s:.0%} of a core; the machine {(machine_cpu_s() - machine_s) / took_s:.1f} cores)",
        flush=True,
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--per-s", type=int, default=1000, help="messages a second of the paced rounds")
    options.add_argument("--directory", type=Path, default=Path("/tmp"))
    chosen = options.parse_args()
    with (
        CloudPeer(chosen.directory, MOST, ADDRESS, PORT) as cloud,
        closing(UpstreamConnections()) as connections,
    ):
        before_kb = pss_kb(os.getpid())
        senders: list[Sender] = []
        for device in cloud.devices:
            watcher = Watcher()
            key = Secret(device.key.encode())
            access = CloudAccess(Identity(device.device), ADDRESS, key, cloud.ca_pem)
            connection = connections.make(access, watcher)
            connection.open()
            assert watcher.open.wait(LIMIT_S), "it does not connect"
            senders.append(Sender(connection, watcher))
            if len(senders) == 1:
                first_kb = pss_kb(os.getpid())
        all_kb = pss_kb(os.getpid())
        print(
            f"memory: SDK and first connection {(first_kb - before_kb) / 1024:.1f} MB, "
            f"each further one {(all_kb - first_kb) / (MOST - 1):.0f} KB; "
            f"{threading.active_count() - 1} threads for {MOST}"
        )
        for some in (senders[:1], senders):
            name = f"{len(some)} connection{'s'[: len(some) - 1]}"
            run(f"{name}, flooded", some, lambda some=some: flood(some, chosen.seconds))
            run(f"{name}, paced", some, lambda some=some: pace(some, chosen.seconds, chosen.per_s))


if __name__ == "__main__":
    main()
