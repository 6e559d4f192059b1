"""The web front, port 443: HTTP/1.1 requests, and MQTT and AMQP over WebSocket on one path, all over TLS.

Source: spec sheet hub-protocols.md sections 1.16, 3.8, 4.1 and 6
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

from msgspec import Struct

from actors.heads.admission import Admission
from actors.heads.http_head import PROXIED_CERTIFICATE
from actors.ports.connections import ConnectionHandler
from runtime.agent.connection_keeper import GivenConnections
from runtime.net.http_messages import HttpRequest, Refusal, Response, error_response
from runtime.net.stream_listener import CLOSE_LIMIT_S
from runtime.net.tcp_listener import TcpListener, Visit
from runtime.net.tls_server import ServerCertificate, peer_certificates

if TYPE_CHECKING:
    from runtime.net.web_socket import WebSocket

log = logging.getLogger(__name__)

MQTT: Final = "mqtt"  # subprotocols
AMQP: Final = "AMQPWSB10"
WEBSOCKET_PATH: Final = "/$iothub/websocket"
# Where uamqp, and so the service SDK of Python, and clients of Event Hubs look for it.
_OTHER_PATH: Final = "/$servicebus/websocket/"


class WebLimits(Struct, frozen=True):
    """What one connection may take up, until it speaks WebSocket."""

    head_bytes: int = 32 * 1024
    body_bytes: int = 1024 * 1024
    read_s: float = 10.0  # from the first byte of a request to its last
    silent_s: float = 60.0  # without a request, or without taking the last reply
    discard_s: float = 1.0  # for what a peer goes on sending of a request that was refused


@dataclass(frozen=True, slots=True)
class WebRequest(HttpRequest):
    """A request with who sent it."""

    peer: str  # address and port, for logs
    certificates: tuple[bytes, ...]  # as `runtime.net.tls_server.peer_certificates` has them


HandleRequest = Callable[[WebRequest], Awaitable[Response]]
# Returns the certificates that a proxy passes on with an upgrade; raises Refusal when it may not.
TakePassedOn = Callable[[WebRequest], Awaitable[tuple[bytes, ...]]]


class WebListener:
    """Implements `actors.ports.Listener` for WebSocket, and answers all other requests by `handle`.

    Each subprotocol may have a handler of its own (`part`); connections are accepted while all have theirs,
    and wait in the backlog otherwise.

    `handle` runs on the loop of the thread that opens the listener, once at a time per connection, and is
    cancelled when the peer goes away. A Refusal that it raises is answered with status and message.
    """

    def __init__(
        self,
        tls: Sequence[socket.socket],
        certificate: ServerCertificate,
        handle: HandleRequest,
        admission: Admission | None = None,
        limits: WebLimits | None = None,
        *,
        subprotocols: Sequence[str] = (MQTT,),
        switched_off: Mapping[str, str] = MappingProxyType({}),
        passed_on: TakePassedOn | None = None,
        kept: GivenConnections | None = None,
    ) -> None:
        """Take the sockets.

        Args:
            tls: Listening sockets of somebody else.
            certificate: Of this server.
            handle: Answers requests.
            admission: Who may connect, perhaps shared.
            limits: Of one connection.
            subprotocols: Those that get a handler.
            switched_off: Subprotocols that are not spoken, though this server could, with the reason.
            passed_on: Without it, certificates that a proxy passes on mean nothing.
            kept: Where WebSockets are kept, once their clients are known.
        """
        self._listener = TcpListener(
            "HTTP and WebSocket", tls, (), certificate, admission or Admission(), kept
        )
        self._handle = handle
        self._limits = limits or WebLimits()
        self._subprotocols = tuple(subprotocols)
        self._switched_off = switched_off
        self._passed_on = passed_on
        self._handlers: dict[str, ConnectionHandler] = {}  # by subprotocol
        self._asking: set[WebConnection] = set()  # those that speak HTTP

    def part(self, subprotocol: str) -> WebPart:
        """Return the listener of one subprotocol."""
        return WebPart(self, subprotocol)

    def open(self, handler: ConnectionHandler) -> None:
        """Accept connections on the loop of this thread; `handler` gets all upgraded ones."""
        for subprotocol in self._subprotocols:
            self.open_part(subprotocol, handler)

    def close(self) -> None:
        """Accept no more; who comes waits in the backlog. Upgraded connections are left to their handler."""
        for subprotocol in self._subprotocols:
            self.close_part(subprotocol)

    def open_part(self, subprotocol: str, handler: ConnectionHandler) -> None:
        """Give connections of a subprotocol to a handler."""
        self._handlers[subprotocol] = handler
        if len(self._handlers) == len(self._subprotocols):
            spoken = {name: its for name, its in self._handlers.items() if name not in self._switched_off}
            self._listener.open(lambda visit: self._connection(visit, spoken))

    def close_part(self, subprotocol: str) -> None:
        """Give no more of them to it; nobody is accepted until another handler comes."""
        self._handlers.pop(subprotocol, None)
        self._listener.close()
        for connection in list(self._asking):
            connection.close()

    def _connection(self, visit: Visit, spoken: Mapping[str, ConnectionHandler]) -> WebConnection:
        return WebConnection(
            self._handle, spoken, visit, self._limits, self._asking, self._passed_on, self._switched_off
        )


class WebPart:
    """Implements `actors.ports.Listener` for one subprotocol of a web listener."""

    def __init__(self, listener: WebListener, subprotocol: str) -> None:
        self._listener = listener
        self._subprotocol = subprotocol

    def open(self, handler: ConnectionHandler) -> None:
        """Take the connections of this subprotocol."""
        self._listener.open_part(self._subprotocol, handler)

    def close(self) -> None:
        """Take no more."""
        self._listener.close_part(self._subprotocol)


class WebConnection(asyncio.Protocol):
    """One accepted connection: requests one after the other, until one of them upgrades it."""

    def __init__(
        self,
        handle: HandleRequest,
        handlers: Mapping[str, ConnectionHandler],
        visit: Visit,
        limits: WebLimits,
        asking: set[WebConnection],
        passed_on: TakePassedOn | None = None,
        switched_off: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Take what is needed; the connection is in `asking` until it is upgraded or ends.

        `handlers` are those of the subprotocols; without any nothing is upgraded.
        """
        from runtime.net.http_exchange import HttpExchange  # loads h11

        self._asking = asking
        self._handle = handle
        self._handlers = handlers
        self._take_passed_on = passed_on
        self._switched_off = switched_off
        self._visit = visit
        self._limits = limits
        self._http = HttpExchange(head_bytes=limits.head_bytes, body_bytes=limits.body_bytes)
        self._transport: asyncio.Transport
        self._web_socket: WebSocket | None = None
        self._answering: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_reading = False  # a part of a request is here
        self._is_ending = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._asking.add(self)
        self._set_timer(self._limits.silent_s, self.close)

    def data_received(self, data: bytes) -> None:
        if self._web_socket is not None:
            self._web_socket.received(data)
        elif not self._is_ending:
            self._http.receive_data(data)
            if self._answering is None:
                self._take_request()

    def pause_writing(self) -> None:
        if self._web_socket is not None:
            self._web_socket.writing_paused()

    def resume_writing(self) -> None:
        if self._web_socket is not None:
            self._web_socket.writing_resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._visit.end()
        self._asking.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._answering is not None:
            self._answering.cancel()
        if self._web_socket is not None:
            self._web_socket.lost(f"connection lost{f': {exc}' if exc else ''}")

    def close(self) -> None:
        """Send what was answered, then end; a peer that does not take it is cut off after a while."""
        self._is_ending = True
        self._transport.close()
        self._set_timer(CLOSE_LIMIT_S, self._transport.abort)

    def _take_request(self) -> None:
        try:
            request = self._http.next_request()
            if request is None:
                self._wait_for_rest()
            elif not _is_upgrade(request):
                self._answer_soon(self._answer(request))
            elif self._take_passed_on is None or request.header(PROXIED_CERTIFICATE) is None:
                self._upgrade(request)
            else:
                self._answer_soon(self._upgrade_through_proxy(request, self._take_passed_on))
        except Refusal as refusal:
            self._reply(error_response(refusal.status, refusal.message))

    def _answer_soon(self, answer: Coroutine[Any, Any, None]) -> None:
        self._transport.pause_reading()
        self._set_timer(None)
        self._answering = asyncio.get_running_loop().create_task(answer)

    def _wait_for_rest(self) -> None:
        go_on = self._http.go_on()
        if go_on:
            self._transport.write(go_on)
        if not self._is_reading:
            self._is_reading = True
            self._set_timer(self._limits.read_s, self._too_slow)

    def _too_slow(self) -> None:
        self._reply(error_response(408, f"the request was not complete within {self._limits.read_s:g} s"))

    async def _upgrade_through_proxy(self, request: HttpRequest, take: TakePassedOn) -> None:
        """Upgrade for a proxy between us and the client, with the certificate that the client has shown it.

        A certificate of this connection counts before one that is passed on.
        """
        asked = self._with_sender(request)
        try:
            passed_on = asked.certificates or await take(asked)
            self._answering = None
            self._upgrade(request, passed_on)
            self._transport.resume_reading()
        except Refusal as refusal:
            log.warning("%s: a certificate that was passed on is refused: %s", asked.peer, refusal.message)
            self._answering = None
            self._reply(error_response(refusal.status, refusal.message))
        except Exception:  # as in `_answer`
            log.exception("%s: an upgrade could not be answered", asked.peer)
            self._answering = None
            self._reply(error_response(500, "internal error"))

    def _upgrade(self, request: HttpRequest, passed_on: tuple[bytes, ...] = ()) -> None:
        from runtime.net.web_socket import WebSocket, accept  # loads wsproto

        if unquote(request.target.partition("?")[0]) not in (WEBSOCKET_PATH, _OTHER_PATH):
            raise Refusal(404, f"there is no WebSocket at this path, only at {WEBSOCKET_PATH}")
        subprotocol, connection, reply = accept(request, self._handlers, self._switched_off)
        self._set_timer(None)
        self._asking.discard(self)
        self._transport.write(reply)
        self._web_socket = WebSocket(connection, self._transport, self._visit, passed_on)
        self._web_socket.opened(self._handlers[subprotocol], self._http.rest())

    async def _answer(self, request: HttpRequest) -> None:
        try:
            response = await self._handle(self._with_sender(request))
        except Refusal as refusal:
            response = error_response(refusal.status, refusal.message)
        except Exception:  # the loop serves all clients and outlives one bad request
            log.exception("%s: a request could not be answered", self._visit.peer)
            response = error_response(500, "internal error")
        self._answering = None
        self._reply(response)

    def _with_sender(self, request: HttpRequest) -> WebRequest:
        shown = peer_certificates(self._transport.get_extra_info("ssl_object"))
        return WebRequest(
            request.method, request.target, request.headers, request.body, self._visit.peer, shown
        )

    def _reply(self, response: Response) -> None:
        from email.utils import formatdate

        unread = self._http.has_unread
        date = ("Date", formatdate(usegmt=True))  # clients whose token is refused compare their clock
        self._transport.write(self._http.answer(replace(response, headers=(*response.headers, date))))
        if unread:  # a peer that is still sending is let finish, or it sees a broken connection and no reply
            self._is_ending = True
            self._set_timer(self._limits.discard_s, self.close)
        elif self._http.start_next():
            self._is_reading = False
            self._set_timer(self._limits.silent_s, self.close)
            self._transport.resume_reading()
            if not self._http.is_idle:
                self._take_request()
        else:
            self.close()

    def _set_timer(self, after_s: float | None, then: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if after_s is not None and then is not None:
            self._timer = asyncio.get_running_loop().call_later(after_s, then)


def _is_upgrade(request: HttpRequest) -> bool:
    """Return whether a request asks to speak WebSocket."""
    return (request.header("upgrade") or "").strip().lower() == "websocket"
