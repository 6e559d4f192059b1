"""Puts sockets and TLS around the MQTT head: one asyncio protocol per connection, on the head's own loop."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from actors.ports import ConnectionHandler
from runtime.listening_sockets import BACKLOG

log = logging.getLogger(__name__)

HANDSHAKE_LIMIT_S: Final = 10.0
CLOSE_LIMIT_S: Final = 10.0  # for a peer to take what it is still owed
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
        self._handshakes: set[TlsHandshake] = set()

    def open(self, handler: ConnectionHandler) -> None:
        """Accept connections on the running loop."""
        self._opening = asyncio.get_event_loop().create_task(self._open(handler))
        self._opening.add_done_callback(_report_failure)

    async def _open(self, handler: ConnectionHandler) -> None:
        loop = asyncio.get_running_loop()
        for listening in (*self._tls, *self._plain):
            # A copy, because the server closes what it was given, and the backlog must outlive a restart.
            secured = listening in self._tls
            make: Callable[[], asyncio.Protocol] = functools.partial(MqttConnection, handler)
            if secured:
                make = functools.partial(TlsHandshake, self._context, handler, self._handshakes)
            self._servers.append(await loop.create_server(make, sock=listening.dup(), backlog=BACKLOG))
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
        for handshake in list(self._handshakes):
            handshake.cancel()


class TlsHandshake(asyncio.Protocol):
    """A connection until its TLS handshake is done.

    `create_server(ssl=…)` would do without it, but tells nobody of a handshake that failed.
    """

    def __init__(
        self, context: ssl.SSLContext, handler: ConnectionHandler, pending: set[TlsHandshake]
    ) -> None:
        self._context = context
        self._handler = handler
        self._pending = pending  # where this stands while it lasts
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None]
        self._early: list[bytes] = []
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.pause_reading()  # the TLS layer goes on reading
        self._pending.add(self)
        self._task = asyncio.get_running_loop().create_task(self._shake_hands(self._transport))
        self._task.add_done_callback(lambda _: self._pending.discard(self))

    def data_received(self, data: bytes) -> None:
        self._early.append(data)  # it came with the end of the handshake, before `_shake_hands` went on

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True

    def cancel(self) -> None:
        self._task.cancel()
        self._transport.abort()

    async def _shake_hands(self, plain: asyncio.Transport) -> None:
        peer = _peer_of(plain)
        try:
            secured = await asyncio.get_running_loop().start_tls(
                plain, self, self._context, server_side=True, ssl_handshake_timeout=HANDSHAKE_LIMIT_S
            )
            if secured is None:
                raise ConnectionResetError("connection lost")
        except OSError as exc:  # ssl.SSLError and TimeoutError are such
            log.warning("%s: TLS handshake failed: %s", peer, getattr(exc, "reason", None) or exc)
            plain.abort()
            return
        connection = MqttConnection(self._handler)
        secured.set_protocol(connection)
        connection.connection_made(secured)
        if self._early:
            connection.data_received(b"".join(self._early))
        if self._lost:
            connection.connection_lost(None)


class MqttConnection(asyncio.Protocol):
    """One accepted connection; also the Transport that its head writes to."""

    def __init__(self, handler: ConnectionHandler) -> None:
        self.peer = "?"
        self._handler = handler
        self._transport: asyncio.Transport
        self._client: Any = None
        self._cut_off: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.peer = _peer_of(transport)
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

        if self._cut_off is not None:
            self._cut_off.cancel()

    # Transport

    @property
    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        if data:
            self._transport.write(data)

    def close(self) -> None:
        if self._cut_off is None:
            self._transport.close()
            self._cut_off = asyncio.get_running_loop().call_later(CLOSE_LIMIT_S, self._transport.abort)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()


def _peer_of(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if name else "?"


def _report_failure(opening: asyncio.Task[None]) -> None:
    if not opening.cancelled() and (error := opening.exception()) is not None:
        log.critical("MQTT is not served: %s", error, exc_info=error)


def server_context(certificate_file: str, key_file: str) -> ssl.SSLContext:
    """Return the TLS settings of the hub: 1.2 and 1.3 (the Python SDK speaks 1.2 only).

    Raises:
        ssl.SSLError, OSError: the files cannot be read or do not fit each other.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate_file, key_file)
    return context
