"""MQTT or AMQP over WebSocket: one connection after its upgrade, as the Transport of a protocol head.

wsproto takes half a megabyte, so this is imported with the first upgrade.

Source: RFC 6455; MQTT 3.1.1 chapter 6; spec sheet hub-protocols.md sections 1.16 and 3.8
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any, Final

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Request, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import RemoteProtocolError

from actors.ports.connections import ConnectionHandler
from runtime.net.http_messages import HttpRequest, Refusal
from runtime.net.stream_listener import CLOSE_LIMIT_S, WRITE_BUFFER_BYTES
from runtime.net.tcp_listener import Visit
from runtime.net.tls_server import peer_certificates

log = logging.getLogger(__name__)

FRAMES_AT_ONCE: Final = 512  # of one client; a read may bring 40,000 empty ones, and others wait meanwhile
PROTOCOL_HEADER: Final = "sec-websocket-protocol"


def accept(
    request: HttpRequest, spoken: Collection[str], switched_off: Mapping[str, str]
) -> tuple[str, WSConnection, bytes]:
    """Accept an upgrade; return the subprotocol, the connection and the reply.

    The first one offered that is `spoken` is taken. They are compared without regard to case, and the reply
    has our spelling: the C SDK offers `MQTT`.

    Raises:
        Refusal: 400 or 426, with what the request lacks; 404 with the reason in `switched_off` for a
            subprotocol that could be spoken.
    """
    if request.method != "GET":
        raise Refusal(400, "the WebSocket upgrade is not valid: the method must be GET")
    offered = [
        name.strip()
        for header, value in request.headers
        if header == PROTOCOL_HEADER
        for name in value.lower().split(",")
    ]
    ours = {name.lower(): name for name in spoken}
    subprotocol = next((ours[name] for name in offered if name in ours), None)
    if subprotocol is None:
        for name, reason in switched_off.items():
            if name.lower() in offered:
                raise Refusal(404, reason)
        known = " or ".join(f"'{name}'" for name in spoken)
        raise Refusal(400, f"the WebSocket subprotocol {known} has to be offered")
    headers = [
        (name.encode("ascii"), value.encode("latin-1"))
        for name, value in request.headers
        if name != PROTOCOL_HEADER
    ]
    headers.append((PROTOCOL_HEADER.encode(), subprotocol.encode()))
    connection = WSConnection(ConnectionType.SERVER)
    try:
        connection.initiate_upgrade_connection(headers, request.target)
        if not any(isinstance(event, Request) for event in connection.events()):
            raise Refusal(400, "the WebSocket upgrade is not complete")
        return subprotocol, connection, connection.send(AcceptConnection(subprotocol=subprotocol))
    except RemoteProtocolError as exc:
        status = getattr(exc.event_hint, "status_code", 400)
        raise Refusal(status, f"the WebSocket upgrade is not valid: {exc}") from exc
    except UnicodeError as exc:
        raise Refusal(400, "the WebSocket upgrade is not valid: Host is no host name") from exc


class WebSocket:
    """One upgraded connection. What carries its bytes calls `opened` first and `lost` last."""

    def __init__(
        self,
        connection: WSConnection,
        transport: asyncio.Transport,
        visit: Visit,
        passed_on: tuple[bytes, ...] = (),
    ) -> None:
        """Take the connection; `passed_on` are certificates that a proxy in between had from the client."""
        self._passed_on = passed_on
        self.peer = visit.peer
        self._connection = connection
        self._transport = transport
        self._visit = visit
        self._handler: ConnectionHandler
        self._client: Any = None
        self._cut_off: asyncio.TimerHandle | None = None  # runs once the connection is closing
        self._why = ""  # it is closing by the peer's fault
        self._held = False  # the handler wants no more now
        self._behind = False  # frames that have been read wait for their turn
        self._is_lost = False

    def opened(self, handler: ConnectionHandler, rest: bytes) -> None:
        """Begin, with the bytes that came behind the request."""
        self._handler = handler
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._client = handler.connected(self)
        self.received(rest)

    def received(self, data: bytes) -> None:
        """Take bytes from the peer."""
        if self._connection.state is not ConnectionState.CLOSED:
            self._connection.receive_data(data)
            if not self._behind:
                self._take_frames()

    def writing_paused(self) -> None:
        """The peer does not read."""
        self._handler.writing_paused(self._client)

    def writing_resumed(self) -> None:
        """It reads again."""
        self._handler.writing_resumed(self._client)

    def lost(self, error: str) -> None:
        """The connection below is gone."""
        self._is_lost = True
        if self._cut_off is not None:
            self._cut_off.cancel()
        self._handler.disconnected(self._client, self._why or error)

    # Transport

    @property
    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    @property
    def certificates(self) -> tuple[bytes, ...]:
        return self._passed_on or peer_certificates(self._transport.get_extra_info("ssl_object"))

    def write(self, data: bytes) -> None:
        if data and self._connection.state is ConnectionState.OPEN:
            self._transport.write(self._connection.send(BytesMessage(data=data)))

    def close(self) -> None:
        self._end(CloseReason.NORMAL_CLOSURE)

    def pause_reading(self) -> None:
        self._held = True
        self._read_or_not()

    def resume_reading(self) -> None:
        self._held = False
        self._read_or_not()

    def authenticated(self) -> None:
        self._visit.authenticated()

    # frames

    def _take_frames(self) -> None:
        """Hand on what the next frames brought, in one piece, and do what control frames ask for."""
        if self._is_lost:
            return
        payload: list[bytes] = []
        ping: Ping | None = None
        end: Event | None = None
        frames = 0
        for event in self._connection.events():
            frames += 1
            if isinstance(event, BytesMessage):
                payload.append(bytes(event.data))
            elif isinstance(event, Ping):
                ping = event
            elif isinstance(event, CloseConnection | TextMessage):
                end = event
            if end is not None or frames == FRAMES_AT_ONCE:
                break
        # Of several pings the last is answered (RFC 6455 section 5.5.3), and none if the peer does not read.
        if ping is not None and self._is_open() and self.unsent_bytes < WRITE_BUFFER_BYTES:
            self._transport.write(self._connection.send(ping.response()))
        if self._cut_off is None:
            self._hand_on(b"".join(payload))
        if isinstance(end, CloseConnection):
            self._peer_ends(end)
        elif end is not None:
            self._offended(CloseReason.UNSUPPORTED_DATA, "messages have to come in binary frames")
        behind = end is None and frames == FRAMES_AT_ONCE
        if behind:
            asyncio.get_running_loop().call_soon(self._take_frames)
        if behind != self._behind:
            self._behind = behind
            self._read_or_not()

    def _hand_on(self, data: bytes) -> None:
        if not data:
            return
        try:
            self._handler.received(self._client, data)
        except Exception as exc:  # one client's bytes must not end the others' connections
            log.exception("%s: its data could not be handled", self.peer)
            self._handler.disconnected(self._client, f"internal error: {exc}")

    def _peer_ends(self, end: CloseConnection) -> None:
        if (
            self._connection.state is ConnectionState.OPEN
        ):  # it is no Close frame, but a frame against the rules
            self._offended(CloseReason(end.code), end.reason or "")
            return
        self._end(CloseReason.NORMAL_CLOSURE)
        self._transport.close()

    def _offended(self, code: CloseReason, problem: str) -> None:
        self._why = f"WebSocket error: {problem}"
        self._end(code, problem)
        self._transport.close()  # what else it sends cannot be understood

    def _end(self, code: CloseReason, reason: str | None = None) -> None:
        """Say goodbye, or answer the peer's; it has a while to answer, and to take what it is still owed."""
        if self._cut_off is not None:
            return
        self._cut_off = asyncio.get_running_loop().call_later(CLOSE_LIMIT_S, self._transport.abort)
        if self._connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            self._transport.write(self._connection.send(CloseConnection(code=code, reason=reason)))
        if self._connection.state is ConnectionState.CLOSED:
            self._transport.close()
        self._read_or_not()

    def _read_or_not(self) -> None:
        """Read, unless the handler wants no more or there is much left to do. Who says goodbye is heard."""
        if self._behind or (self._held and self._cut_off is None):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _is_open(self) -> bool:
        return self._connection.state is ConnectionState.OPEN
