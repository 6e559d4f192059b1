"""A listener and its connections without sockets: bytes in by hand, bytes out to look at."""

from __future__ import annotations

from typing import Any

from actors.ports.connections import ConnectionHandler
from messaging.mqtt.connection import ClientConnection
from messaging.mqtt.packets import Connect, Packet


class MemoryTransport:
    """Implements `actors.ports.Transport`."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.unsent_bytes = 0
        self.certificates: tuple[bytes, ...] = ()
        self.written = bytearray()
        self.closed = False
        self.reading = True
        self.known = False

    def authenticated(self) -> None:
        self.known = True

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.written += data

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class MemoryListener:
    """Implements `actors.ports.Listener`."""

    def __init__(self) -> None:
        self.handler: ConnectionHandler | None = None

    def open(self, handler: ConnectionHandler) -> None:
        self.handler = handler

    def close(self) -> None:
        self.handler = None


class MemoryClient:
    """An MQTT client at the other end of a MemoryTransport."""

    def __init__(self, listener: MemoryListener, port: int) -> None:
        assert listener.handler is not None
        self._handler = listener.handler
        self.transport = MemoryTransport(f"127.0.0.1:{port}")
        self._codec = ClientConnection()
        self._known: Any = self._handler.connected(self.transport)

    def send_bytes(self, data: bytes) -> None:
        self._handler.received(self._known, data)

    def send(self, *packets: Packet) -> None:
        """Send packets in one read of the hub; ours need not be legal."""
        self.expect(packets[0])
        self.send_bytes(b"".join(packet.encode() for packet in packets))

    def expect(self, packet: Packet) -> None:
        """Be ready for the answer to a packet that is sent as bytes."""
        if isinstance(packet, Connect):
            self._codec.send(packet)

    def lose(self) -> None:
        """Go without a word."""
        self._handler.disconnected(self._known, "connection lost")

    def received_bytes(self) -> bytes:
        """Return and forget what the hub has written."""
        data = bytes(self.transport.written)
        self.transport.written.clear()
        return data

    def received(self) -> list[Packet]:
        """Return and forget what the hub has written, as packets."""
        data = self.received_bytes()
        return self._codec.receive_data(data) if data else []

    @property
    def closed(self) -> bool:
        return self.transport.closed
