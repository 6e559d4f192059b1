"""Keeps many MQTT clients connected over TLS, and a paced flow of messages beside them.

    python -m scripts.bench.many_clients < config.json

What it sees goes to standard output as JSON lines; it ends when standard input closes. A client whose
connection is lost connects again at once, with the session that it has, and does not subscribe again. All
times are seconds on the monotonic clock, which is the same in all processes of a machine.

Configuration, on the first line of standard input because it holds passwords. A broker that
lets anybody in needs none.

    target     {"host", "port", "ca_file", "server_name": "localhost"}
    clients    [{"client_id", "username", "password", "filters"}]
    flow       {"publisher": {…, "topic"}, "subscriber": {…, "filters"}, "per_s"}; instead of clients

Events:

    {"event": "served", "at_s", "first_s", "present"}   all clients have their CONNACK (and SUBACK, the first
                                                        time); when the first had it; how many found a session
    {"event": "flow", "at_s"}                           publisher and subscriber are connected
    {"event": "latencies", "rows": [[sent, µs], …]}     what arrived, every half second
"""

import asyncio
import contextlib
import json
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import uvloop

from scripts.bench import mqtt_wire
from scripts.bench.mqtt_link import Target

RETRY_S = 0.1
HANDSHAKE_LIMIT_S = 60
REPORT_S = 0.5
PAYLOAD_BYTES = 256


def tell(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


class Connection(asyncio.Protocol):
    """One client: CONNECT, SUBSCRIBE where it has to, then whatever comes goes to `received`."""

    def __init__(
        self,
        client: dict[str, Any],
        is_new: bool,
        served: Callable[["Connection", bool], None],
        received: Callable[[bytes], None],
    ) -> None:
        self._client = client
        self._is_new = is_new
        self._served = served
        self._received = received
        self._data = b""
        self._is_served = False
        self._present = False
        self.transport: asyncio.Transport
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        client = self._client
        self.transport.write(
            mqtt_wire.connect(
                client["client_id"], client.get("username"), client.get("password"), clean_session=False
            )
        )

    def data_received(self, data: bytes) -> None:
        if self._is_served:
            self._received(data)
            return
        self._data += data
        while not self._is_served and (place := mqtt_wire.frame(self._data, 0)):
            self._handshake(self._data[0] & 0xF0, self._data[place[0] : place[1]])
            self._data = self._data[place[1] :]
        if self._is_served and self._data:
            self._received(self._data)

    def _handshake(self, kind: int, body: bytes) -> None:
        filters = self._client.get("filters", [])
        if kind == mqtt_wire.CONNACK:
            if body[1]:
                raise mqtt_wire.BadPacket(f"{self._client['client_id']}: refused with {body[1]}")
            self._present = bool(body[0])
            if self._is_new and filters:
                self.transport.write(mqtt_wire.subscribe(1, filters))
                return
        elif kind != mqtt_wire.SUBACK:
            return  # messages that waited come before the SUBACK
        self._is_served = True
        self._served(self, self._present)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


async def stay_connected(
    target: Target,
    context: ssl.SSLContext,
    client: dict[str, Any],
    served: Callable[[Connection, bool], None],
    received: Callable[[bytes], None] = lambda data: None,
) -> None:
    """Be one client until cancelled."""
    loop = asyncio.get_running_loop()
    is_new = True
    while True:
        connection = Connection(client, is_new, served, received)
        try:
            await loop.create_connection(
                lambda: connection,  # noqa: B023 - called before this returns
                target.host,
                target.port,
                ssl=context,
                server_hostname=target.server_name,
                ssl_handshake_timeout=HANDSHAKE_LIMIT_S,
            )
        except OSError:
            await asyncio.sleep(RETRY_S)
            continue
        is_new = False
        await connection.lost


class Crowd:
    """Tells when all clients have been served, once after each time that they were not."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._first_s = 0.0
        self._served = 0
        self._present = 0

    def served(self, connection: Connection, present: bool) -> None:
        now_s = time.monotonic()
        self._first_s = now_s if not self._served else self._first_s
        self._served += 1
        self._present += present
        connection.lost.add_done_callback(lambda _: self._lost())
        if self._served == self._count:
            tell("served", at_s=now_s, first_s=self._first_s, present=self._present)

    def _lost(self) -> None:
        self._served -= 1
        self._present = 0


class Flow:
    """Publishes at a steady pace, whatever the answers, and notes how long each message took to arrive."""

    def __init__(self, publisher: dict[str, Any], per_s: int) -> None:
        self._buffer = mqtt_wire.PublishBuffer(publisher["topic"], PAYLOAD_BYTES, 0, 1)
        self._reader = mqtt_wire.PublishReader()
        self._interval_s = 1 / per_s
        self._ends: dict[str, Connection] = {}
        self._sent = 0
        self._packet_id = 0
        self._rows: list[tuple[float, int]] = []

    def served(self, connection: Connection, name: str) -> None:
        self._ends[name] = connection
        self._reader = mqtt_wire.PublishReader() if name == "subscriber" else self._reader
        connection.lost.add_done_callback(lambda _: self._ends.pop(name, None))
        if len(self._ends) == 2:
            tell("flow", at_s=time.monotonic())

    def arrived(self, data: bytes) -> None:
        rows, acks = self._reader.receive(data)
        now_ns = time.monotonic_ns()
        for _, _, _, sent_ns in rows:
            self._rows.append((sent_ns / 1e9, (now_ns - sent_ns) // 1000))
        end = self._ends.get("subscriber")
        if end is not None and acks:
            end.transport.write(acks)

    async def publish(self) -> None:
        next_s = told_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            if len(self._ends) < 2:
                next_s = now_s + self._interval_s
            while next_s <= now_s:
                self._packet_id = self._packet_id % mqtt_wire.PACKET_IDS + 1
                ids = range(self._packet_id, self._packet_id + 1)
                # Stamped with when it was due: a generator that is late must not make the hub look fast.
                data = bytes(self._buffer.fill(ids, self._sent, int(next_s * 1e9)))
                self._ends["publisher"].transport.write(data)
                self._sent += 1
                next_s += self._interval_s
            if now_s - told_s > REPORT_S:
                told_s = now_s
                rows, self._rows = self._rows, []
                tell("latencies", rows=rows)
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))


async def main() -> None:
    """Run until standard input closes."""
    config = json.loads(sys.stdin.readline())
    target = Target(**config["target"])
    context = target.tls()
    assert context is not None
    if "flow" in config:
        tasks = _flow_tasks(config["flow"], target, context)
    else:
        crowd = Crowd(len(config["clients"]))
        tasks = [stay_connected(target, context, client, crowd.served) for client in config["clients"]]
    running = [asyncio.ensure_future(task) for task in tasks]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in running:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*running)


def _flow_tasks(flow: dict[str, Any], target: Target, context: ssl.SSLContext) -> list[Any]:
    made = Flow(flow["publisher"], flow["per_s"])
    return [
        stay_connected(
            target, context, flow["publisher"], lambda end, present: made.served(end, "publisher")
        ),
        stay_connected(
            target,
            context,
            flow["subscriber"],
            lambda end, present: made.served(end, "subscriber"),
            made.arrived,
        ),
        made.publish(),
    ]


if __name__ == "__main__":
    uvloop.run(main())
