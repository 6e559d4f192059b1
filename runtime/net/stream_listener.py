"""Puts sockets and TLS around a protocol head: one asyncio protocol per connection, on its loop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any, Final, cast

from actors.heads.admission import Admission
from actors.ports.connections import ConnectionHandler
from runtime.agent.connection_keeper import GivenConnections
from runtime.net.tcp_listener import TcpListener, Visit
from runtime.net.tls_server import ServerCertificate, peer_certificates

log = logging.getLogger(__name__)

CLOSE_LIMIT_S: Final = 10.0  # for a peer to take what it is still owed
WRITE_BUFFER_BYTES: Final = 4 * 1024 * 1024


class StreamListener:
    """Implements `actors.ports.Listener` over listening sockets that somebody else owns."""

    def __init__(
        self,
        speaks: str,
        tls: Sequence[socket.socket],
        plain: Sequence[socket.socket],
        certificate: ServerCertificate | None,
        admission: Admission | None = None,
        *,
        acknowledges_at_once: bool = False,
        kept: GivenConnections | None = None,
    ) -> None:
        """Take the sockets; `speaks` names the protocol for the log; clients' connections are `kept`.

        With `acknowledges_at_once`, TCP does so for each read: for clients that write twice before they wait.
        """
        self._acknowledges_at_once = acknowledges_at_once
        self._listener = TcpListener(speaks, tls, plain, certificate, admission or Admission(), kept)

    def open(self, handler: ConnectionHandler) -> None:
        """Accept connections on the loop of this thread."""
        self._listener.open(lambda visit: StreamConnection(handler, visit, self._acknowledges_at_once))

    def close(self) -> None:
        """Accept no more; who comes waits in the backlog."""
        self._listener.close()


class StreamConnection(asyncio.Protocol):
    """One accepted connection; also the Transport that its head writes to."""

    def __init__(self, handler: ConnectionHandler, visit: Visit, acknowledges_at_once: bool) -> None:
        self._acknowledges_at_once = acknowledges_at_once
        self.peer = visit.peer
        self._visit = visit
        self._handler = handler
        self._transport: asyncio.Transport
        self._client: Any = None
        self._cut_off: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._client = self._handler.connected(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._handler.received(self._client, data)
        except Exception as exc:  # one client's bytes must not end the others' connections
            log.exception("%s: its data could not be handled", self.peer)
            self._handler.disconnected(self._client, f"internal error: {exc}")
        if self._acknowledges_at_once:
            self._visit.acknowledge_now()

    def pause_writing(self) -> None:
        self._handler.writing_paused(self._client)

    def resume_writing(self) -> None:
        self._handler.writing_resumed(self._client)

    def connection_lost(self, exc: Exception | None) -> None:
        self._visit.end()
        if self._client is not None:
            self._handler.disconnected(self._client, f"connection lost{f': {exc}' if exc else ''}")
        if self._cut_off is not None:
            self._cut_off.cancel()

    # Transport

    @property
    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    @property
    def certificates(self) -> tuple[bytes, ...]:
        return peer_certificates(self._transport.get_extra_info("ssl_object"))

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

    def authenticated(self) -> None:
        self._visit.authenticated()
