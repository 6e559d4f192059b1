"""A non-blocking socket to a broker, plain or TLS, with the MQTT handshakes done.

TLS runs over memory buffers rather than an `SSLSocket`: a broker that writes every packet as a TLS record of
its own would otherwise cost two system calls a record on our side, and the generator would be what is
measured.
"""

import socket
import ssl
import threading
from dataclasses import dataclass
from typing import Any

from scripts.bench import mqtt_wire

READ_BYTES = 256 * 1024
RECORD_BYTES = 16 * 1024  # the largest TLS record; a shorter read would leave decrypted bytes behind
HANDSHAKE_LIMIT_S = 25  # a hub may keep CONNECT waiting for up to 20 s


class _Buffer(threading.local):
    """What all links of a thread read into: to take as much for each read would cost more."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BYTES))


_buffer = _Buffer()


class BrokerRefused(Exception):
    """The broker answered, but not with what was asked for."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a broker listens and, for TLS, whom to trust."""

    host: str
    port: int
    ca_file: str | None = None  # None: plain TCP
    server_name: str = "localhost"

    def tls(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self.ca_file) if self.ca_file else None


class Link:
    """One connection: whole reads in, whole writes out, what the kernel did not take kept for later."""

    def __init__(self, target: Target, context: ssl.SSLContext | None) -> None:
        self.socket = socket.create_connection((target.host, target.port), timeout=HANDSHAKE_LIMIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unsent = bytearray()
        self._tls: ssl.SSLObject | None = None
        if context:
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=target.server_name)
            self._shake_hands(self._tls)

    def _shake_hands(self, tls: ssl.SSLObject) -> None:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self.socket.sendall(self._outgoing.read())
                received = self.socket.recv(READ_BYTES)
                if not received:
                    raise ConnectionResetError("closed during the TLS handshake") from None
                self._incoming.write(received)
            else:
                self.socket.sendall(self._outgoing.read())
                return

    def cipher(self) -> str | None:
        return f"{self._tls.version()} {self._tls.cipher()[0]}" if self._tls else None  # type: ignore[index]

    def read(self) -> bytes:
        """Return what one read of the socket brought; empty when TLS has no whole record yet.

        Raises:
            ConnectionResetError: the broker closed the connection.
        """
        buffer = _buffer.view
        size = self.socket.recv_into(buffer)
        if not size:
            raise ConnectionResetError("the broker closed the connection")
        received = buffer[:size]
        if not self._tls:
            return bytes(received)
        incoming, read = self._incoming, self._tls.read
        incoming.write(received)
        parts = []
        try:
            while incoming.pending:
                parts.append(read(RECORD_BYTES))
        except ssl.SSLWantReadError:
            pass  # the last record is not complete
        return b"".join(parts)

    def write(self, data: bytes | memoryview) -> None:
        """Send now what the kernel takes; `flush` sends the rest."""
        if self._tls:
            rest = memoryview(data)
            while rest:  # one call writes one record at most
                rest = rest[self._tls.write(rest) :]
            data = self._outgoing.read()
        if self.unsent:
            self.unsent += data
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self.unsent += data[sent:]

    def flush(self) -> None:
        """Send more of what is left, once the socket is writable again."""
        try:
            del self.unsent[: self.socket.send(self.unsent)]
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Say DISCONNECT and close; the connection may be gone already."""
        try:
            self.write(mqtt_wire.DISCONNECT)
        except OSError:
            pass
        self.socket.close()


def open_session(
    target: Target, context: ssl.SSLContext | None, client: dict[str, Any]
) -> tuple[Link, bytes]:
    """Connect and subscribe; return the link, non-blocking from here on, and the bytes that came along.

    Args:
        target: The broker.
        context: From `target.tls()`; made once for many clients.
        client: `client_id`, and where they apply `username`, `password`, `clean_session`, `filters`, `qos`.

    Raises:
        BrokerRefused: CONNACK or SUBACK says no.
        OSError: the connection failed or was closed.
    """
    link = Link(target, context)
    name, filters = client["client_id"], client.get("filters", [])
    link.write(
        mqtt_wire.connect(
            name,
            client.get("username"),
            client.get("password"),
            clean_session=client.get("clean_session", True),
        )
    )
    early = _expect(link, name, mqtt_wire.CONNACK, b"")
    if filters:
        link.write(mqtt_wire.subscribe(1, filters, client.get("qos", 1)))
        early = _expect(link, name, mqtt_wire.SUBACK, early)
    link.socket.setblocking(False)
    return link, early


def _expect(link: Link, name: str, kind: int, data: bytes) -> bytes:
    """Read up to the answer of this kind; return all other bytes: messages may come before the SUBACK."""
    at = 0
    while True:
        while place := mqtt_wire.frame(data, at):
            body_at, end = place
            if data[at] & 0xF0 == kind:
                if kind == mqtt_wire.CONNACK and data[body_at + 1]:
                    raise BrokerRefused(f"client {name!r}: CONNECT refused with code {data[body_at + 1]}")
                if kind == mqtt_wire.SUBACK and 0x80 in data[body_at + 2 : end]:
                    raise BrokerRefused(f"client {name!r}: a subscription was refused")
                return data[:at] + data[end:]
            at = end
        data += link.read()
