"""The hub's broker in virtual time, with clients that are bytes of MQTT 3.1.1.

The packets are made and cut here, apart from `messaging/mqtt`, so that a mistake there is not shared.
"""

from __future__ import annotations

import itertools
import sqlite3
import struct
from pathlib import Path

from actors.kernel.memory_system import MemorySystem
from messaging.broker.limits import DEFAULT_LIMITS, Limits
from messaging.broker.policy import Policy
from scripts.mqtt_test_listener import actors_of
from tests.fakes.transport import MemoryListener, MemoryTransport

PINGREQ, PINGRESP, DISCONNECT = b"\xc0\x00", b"\xd0\x00", b"\xe0\x00"
ACCEPTED, ACCEPTED_PRESENT = b"\x20\x02\x00\x00", b"\x20\x02\x01\x00"

Received = tuple[int, bytes]  # first byte, and what follows the length


def text(value: str | bytes) -> bytes:
    """Section 1.5.3."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(raw)) + raw


def packet(first: int, body: bytes = b"") -> bytes:
    """Section 2.2."""
    length, header = len(body), bytearray([first])
    while True:
        length, low = divmod(length, 128)
        header.append(low | (0x80 if length else 0))
        if not length:
            return bytes(header) + body


def connect(
    client_id: str | bytes = "c",
    *,
    clean: bool = True,
    keep_alive_s: int = 0,
    will: tuple[str, bytes, int, bool] | None = None,
    flags: int | None = None,
    payload: bytes | None = None,
    name: str = "MQTT",
    level: int = 4,
) -> bytes:
    """Section 3.1; `will` is (topic, message, QoS, retain), `flags` and `payload` override."""
    bits = clean << 1
    rest = text(client_id)
    if will is not None:
        topic, message, qos, retain = will
        bits |= 0x04 | qos << 3 | retain << 5
        rest += text(topic) + text(message)
    head = text(name) + bytes([level, bits if flags is None else flags]) + struct.pack(">H", keep_alive_s)
    return packet(0x10, head + (rest if payload is None else payload))


def publish(
    topic: str | bytes, body: bytes = b"", qos: int = 0, packet_id: int = 0, *, dup: bool = False,
    retain: bool = False,
) -> bytes:  # fmt: skip
    """Section 3.3."""
    tail = struct.pack(">H", packet_id) if qos else b""
    return packet(0x30 | dup << 3 | qos << 1 | retain, text(topic) + tail + body)


def subscribe(packet_id: int, *filters: tuple[str | bytes, int]) -> bytes:
    """Section 3.8."""
    asked = b"".join(text(name) + bytes([qos]) for name, qos in filters)
    return packet(0x82, struct.pack(">H", packet_id) + asked)


def unsubscribe(packet_id: int, *filters: str) -> bytes:
    """Section 3.10."""
    return packet(0xA2, struct.pack(">H", packet_id) + b"".join(map(text, filters)))


def ack(first: int, packet_id: int) -> bytes:
    """PUBACK 0x40, PUBREC 0x50, PUBREL 0x62, PUBCOMP 0x70, UNSUBACK 0xB0."""
    return bytes([first, 2]) + struct.pack(">H", packet_id)


def cut(data: bytes) -> list[Received]:
    """Cut a stream into packets."""
    found, at = [], 0
    while at < len(data):
        length = shift = 0
        body = at + 1
        while True:
            byte = data[body]
            length |= (byte & 127) << shift
            shift += 7
            body += 1
            if byte < 128:
                break
        found.append((data[at], data[body : body + length]))
        assert body + length <= len(data), "the last packet is not complete"
        at = body + length
    return found


class Message:
    """A PUBLISH as a subscriber sees it."""

    def __init__(self, first: int, body: bytes) -> None:
        assert first & 0xF0 == 0x30, f"not a PUBLISH: {first:#x}"
        self.dup, self.qos, self.retain = bool(first & 8), first >> 1 & 3, bool(first & 1)
        end = 2 + int.from_bytes(body[:2], "big")
        self.topic = body[2:end].decode()
        self.packet_id = 0
        if self.qos:
            self.packet_id = int.from_bytes(body[end : end + 2], "big")
            end += 2
        self.body = body[end:]

    def __repr__(self) -> str:
        return f"{self.topic} {self.body!r} QoS {self.qos} id {self.packet_id} {self.dup=} {self.retain=}"


class Link:
    """One connection, from the client's side."""

    def __init__(self, world: BrokerWorld, port: int) -> None:
        self._world = world
        self.transport = MemoryTransport(f"127.0.0.1:{port}")
        assert world.listener.handler is not None
        self._handler = world.listener.handler
        self._known = self._handler.connected(self.transport)
        self._is_lost = False

    def send(self, *data: bytes) -> Link:
        """Send it as one read of the hub."""
        self._handler.received(self._known, b"".join(data))
        self._world.system.run()
        return self

    def lose(self) -> None:
        """Break without a word."""
        self._is_lost = True
        self._handler.disconnected(self._known, "connection lost")
        self._world.system.run()

    def stop_reading(self) -> None:
        """Take nothing any more: the hub's socket is full."""
        self._handler.writing_paused(self._known)
        self._world.system.run()

    @property
    def is_closed(self) -> bool:
        """Whether the hub has closed it."""
        return self.transport.closed and not self._is_lost

    def take(self) -> bytes:
        """Return what came since the last call."""
        data = bytes(self.transport.written)
        self.transport.written.clear()
        return data

    def packets(self) -> list[Received]:
        """Return it as packets."""
        return cut(self.take())

    def messages(self) -> list[Message]:
        """Return it as messages; nothing else may have come."""
        return [Message(*received) for received in self.packets()]

    def bodies(self) -> list[bytes]:
        """Return the bodies of the messages that came."""
        return [message.body for message in self.messages()]


class BrokerWorld:
    """The actors of the test listener, with databases in a folder."""

    def __init__(self, folder: Path, limits: Limits = DEFAULT_LIMITS, policy: Policy | None = None) -> None:
        self._folder, self._limits, self._policy = folder, limits, policy
        self._ports = itertools.count(40_000)
        self._start()

    def _start(self) -> None:
        self.system = MemorySystem(process="hub")
        self.listener = MemoryListener()
        for address, build in actors_of(self.listener, self._folder, self._limits, self._policy).items():
            self.system.start(address, build)
            self.system.run()

    def kill(self) -> None:
        """End the process without a word, and start it again on what is on disk."""
        self._start()

    def break_disk(self) -> None:
        """Let the broker's database take nothing any more."""
        with sqlite3.connect(self._folder / "broker.db") as connection:
            connection.execute(
                "CREATE TRIGGER broken BEFORE INSERT ON bodies BEGIN SELECT RAISE(ABORT, 'broken'); END"
            )
        connection.close()

    def advance(self, seconds: float) -> None:
        """Let time pass, second by second."""
        for _ in range(int(seconds)):
            self.system.advance(1.0)
        self.system.advance(seconds % 1)

    def open(self) -> Link:
        """Open a connection on which nothing was said yet."""
        return Link(self, next(self._ports))

    def connect(
        self, client_id: str = "c", *, clean: bool = True, keep_alive_s: int = 0,
        will: tuple[str, bytes, int, bool] | None = None,
    ) -> Link:  # fmt: skip
        """Open a connection that is accepted; its CONNACK is taken out."""
        link = self.open()
        link.send(connect(client_id, clean=clean, keep_alive_s=keep_alive_s, will=will))
        data = link.take()
        assert data[:2] == ACCEPTED[:2]
        assert data[3] == 0
        if len(data) > 4:  # what a session was owed
            link.transport.written += data[4:]
        return link

    def subscriber(
        self, *filters: str, qos: int = 2, client_id: str = "subscriber", clean: bool = True
    ) -> Link:
        """Open a connection that is subscribed; what came until then is taken out."""
        link = self.connect(client_id, clean=clean)
        link.send(subscribe(1, *((name, qos) for name in filters)))
        link.take()
        return link
