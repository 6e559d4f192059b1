"""Puts sockets and TLS around the MQTT head: one asyncio protocol per connection, on the head's own loop."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final, cast

from actors.ports import ConnectionHandler

log = logging.getLogger(__name__)

HANDSHAKE_LIMIT_S: Final = 10.0
WRITE_BUFFER_BYTES: Final = 4 * 1024 * 1024


class MqttListener:
    """Implements `actors.ports.Listener` over listening sockets that somebody else owns."""

    def __init__(
        self, tls: Sequence[socket.socket], plain: Sequence[socket.socket], context: ssl.SSLContext
    ) -> None:
        self._tls = tuple(tls)
        self._plain = tuple(plain)
        self._context = context
        self._servers: list[asyncio.Server] = []
        self._opening: asyncio.Task[None] | None = None

    def open(self, handler: ConnectionHandler) -> None:
        """Accept connections on the running loop."""
        self._opening = asyncio.get_event_loop().create_task(self._open(handler))

    async def _open(self, handler: ConnectionHandler) -> None:
        loop = asyncio.get_running_loop()
        for listening in (*self._tls, *self._plain):
            # A copy, because the server closes what it was given, and the backlog must outlive a restart.
            secured = listening in self._tls
            self._servers.append(
                await loop.create_server(
                    lambda: MqttConnection(handler),
                    sock=listening.dup(),
                    ssl=self._context if secured else None,
                    ssl_handshake_timeout=HANDSHAKE_LIMIT_S if secured else None,
                    backlog=1024,
                )
            )
            address = "{}:{}".format(*listening.getsockname()[:2])
            log.info("MQTT %s on %s", "over TLS" if secured else "without TLS", address)

    def close(self) -> None:
        """Accept no more; who comes waits in the backlog."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        for server in self._servers:
            server.close()
        self._servers.clear()


class MqttConnection(asyncio.Protocol):
    """One accepted connection; also the Transport that its head writes to."""

    def __init__(self, handler: ConnectionHandler) -> None:
        self.peer = "?"
        self._handler = handler
        self._transport: asyncio.Transport
        self._client: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        name = transport.get_extra_info("peername")
        self.peer = f"{name[0]}:{name[1]}" if name else "?"
        self._client = self._handler.connected(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._handler.received(self._client, data)
        except Exception as exc:  # one client's bytes must not end the others' connections
            log.exception("%s: its data could not be handled", self.peer)
            self._handler.disconnected(self._client, f"internal error: {exc}")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._client is not None:
            self._handler.disconnected(self._client, f"connection lost{f': {exc}' if exc else ''}")

    # Transport

    def write(self, data: bytes) -> None:
        if data:
            self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()


def server_context(certificate_file: str, key_file: str) -> ssl.SSLContext:
    """Return the TLS settings of the hub: 1.2 and 1.3 (the Python SDK speaks 1.2 only).

    Raises:
        ssl.SSLError, OSError: the files cannot be read or do not fit each other.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate_file, key_file)
    return context
