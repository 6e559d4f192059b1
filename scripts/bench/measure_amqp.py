"""Measures our hub over AMQP: publisher → route → module, over TLS, durable, messages of 256 bytes.

Each publisher and the module are processes of their own with the client end of our engine; a publisher has so
many messages without an outcome. Every message is accepted by the hub and by the module.
"""

import argparse
import multiprocessing
import socket
import ssl
import statistics
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from messaging.amqp import cbs
from messaging.amqp.addresses import LinkKind, address_of
from messaging.amqp.codec import BATCH_FORMAT, AmqpMessage, encode, join_batch
from messaging.amqp.connection import Connection
from messaging.amqp.events import Event as AmqpEvent
from messaging.amqp.events import LinkAttached, Outcome, Received, Settled
from messaging.amqp.link import Link
from messaging.amqp.sasl import ClientSasl
from messaging.identity import Identity
from scripts.bench.peer_edge import EdgePeer
from scripts.bench.processes import cpu_s

LIMIT_S = 30.0
READ_BYTES = 256 * 1024
PAYLOAD_BYTES = 256


class Client:
    """One connection with one link, blocking."""

    def __init__(self, port: int, ca_file: Path, who: Identity, token: str, audience: str) -> None:
        context = ssl.create_default_context(cafile=str(ca_file))
        plain = socket.create_connection(("127.0.0.1", port), LIMIT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(plain, server_hostname="localhost")
        self._engine = Connection(container_id="bench", sasl=ClientSasl("MSSBCBS"))
        self._who = who
        self._engine.open()
        tokens = self._engine.attach_sender("cbs-sender", "$cbs")
        self._engine.attach_receiver("cbs-receiver", "$cbs").grant(1)
        while not tokens.credit:
            self.read()
        tokens.send(encode(cbs.put_token(audience, token, 1)), b"1", settled=True)
        while not any(isinstance(event, Received) for event in self.read()):
            pass

    def attach(self, kind: LinkKind) -> Link:
        address = address_of(kind, self._who)
        if kind is LinkKind.EVENTS:
            link = self._engine.attach_sender("events", address)
        else:
            link = self._engine.attach_receiver("inputs", address)
            link.grant(1000)
        while not any(isinstance(event, LinkAttached) for event in self.read()):
            pass
        return link

    def read(self) -> list[AmqpEvent]:
        """Write what there is to be written, and return what the next bytes bring."""
        self.write()
        return self._engine.receive_data(self._socket.recv(READ_BYTES))

    def write(self) -> None:
        data = self._engine.data_to_send()
        if data:
            self._socket.sendall(data)


def publish(client: Client, window: int, batch: int, stop: Event, report: Any) -> None:
    """Keep so many messages without an outcome until told to stop; then tell how many were accepted."""
    link = client.attach(LinkKind.EVENTS)
    message = encode(
        AmqpMessage(body=b"x" * PAYLOAD_BYTES, application_properties={"iothub-outputname": "out1"})
    )
    data, message_format = (join_batch([message] * batch), BATCH_FORMAT) if batch > 1 else (message, 0)
    number = accepted = 0
    waits_ms: list[float] = []
    sent_s: dict[int, float] = {}
    while not stop.is_set() or sent_s:
        while link.credit and len(sent_s) * batch < window and not stop.is_set():
            number += 1
            delivery = link.send(
                data, number.to_bytes(4, "big"), settled=False, message_format=message_format
            )
            delivery.context = number
            sent_s[number] = time.perf_counter()
        for event in client.read():
            if isinstance(event, Settled):
                assert event.outcome is Outcome.ACCEPTED, event
                waits_ms.append((time.perf_counter() - sent_s.pop(event.delivery.context)) * 1000)
                accepted += batch
    report.put((accepted, waits_ms))


def consume(client: Client, report: Any, ready: Event, count: Any) -> None:
    """Accept everything; `count` is how many so far."""
    link = client.attach(LinkKind.INPUTS)
    ready.set()
    while True:
        taken = 0
        for event in client.read():
            if isinstance(event, Received):
                event.delivery.accept()
                taken += 1
        link.grant(taken)
        client.write()
        count.value += taken


def measure(peer: EdgePeer, publishers: int, seconds: float, window: int, batch: int) -> str:
    """Run once and return a line about it."""
    ca_file = peer.directory / "ca.pem"
    context = multiprocessing.get_context("fork")
    stop, ready = context.Event(), context.Event()
    report, count = context.Queue(), context.Value("q", 0)

    def client(one: Any) -> Client:
        audience = f"{one.iothub}/{one.path}"
        who = Identity(one.device, one.module)
        return Client(peer.amqp_port, ca_file, who, one.token(time.time()), audience)

    def run_consumer() -> None:
        consume(client(peer.consumer), report, ready, count)

    def run_publisher(number: int) -> None:
        publish(client(peer.publishers[number]), window, batch, stop, report)

    module = context.Process(target=run_consumer, daemon=True)
    module.start()
    ready.wait(LIMIT_S)
    before = {process.pid: cpu_s(process.pid) for process in peer.processes()}
    began_s = time.monotonic()
    processes = [context.Process(target=run_publisher, args=(n,)) for n in range(publishers)]
    for process in processes:
        process.start()
    time.sleep(seconds)
    stop.set()
    results = [report.get(timeout=LIMIT_S) for _ in processes]
    took_s = time.monotonic() - began_s
    accepted = sum(number for number, _ in results)
    ends_s = time.monotonic() + LIMIT_S
    while count.value < accepted and time.monotonic() < ends_s:
        time.sleep(0.01)
    used_s = sum(
        cpu_s(process.pid) - before[process.pid] for process in peer.processes() if process.pid in before
    )
    module.terminate()
    waits_ms = sorted(wait for _, waits in results for wait in waits)
    p50, p99 = statistics.median(waits_ms), waits_ms[int(len(waits_ms) * 0.99)]
    return (
        f"{publishers} publishers, {f'batches of {batch}' if batch > 1 else 'one by one'}: "
        f"{accepted / took_s:,.0f} messages/s, accepted after p50 {p50:.1f} and p99 {p99:.1f} ms, "
        f"hub {used_s * 1e6 / accepted:.0f} us of CPU per message; {count.value - accepted} not arrived"
    )


def main() -> int:
    """Parse the command line and print a line for each case."""
    parser = argparse.ArgumentParser(prog="scripts/bench/amqp", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--window", type=int, default=200, help="messages without an outcome, per publisher")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="for our home; a real disk")
    arguments = parser.parse_args()
    with EdgePeer(arguments.directory) as peer:
        for publishers in (1, 4):
            for batch in (1, 50):
                print(measure(peer, publishers, arguments.seconds, arguments.window, batch), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
