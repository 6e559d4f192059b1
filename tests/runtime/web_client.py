"""A web front on a loop of its own, and clients that talk to it byte by byte."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, RejectConnection, Request

from actors.heads.admission import Admission
from actors.ports.connections import Transport
from runtime.config.listen_addresses import parse_address
from runtime.net.http_messages import Response, json_response
from runtime.net.listening_sockets import bind
from runtime.net.tls_server import ServerCertificate
from runtime.net.web_listener import AMQP, MQTT, WebLimits, WebListener, WebRequest
from runtime.security.certificate_issue import issue_server
from runtime.security.certificates import EdgeCa

LIMIT_S = 20.0
WEBSOCKET = "/$iothub/websocket"


async def echo(request: WebRequest) -> Response:
    """Tell what came."""
    return json_response(
        200,
        {
            "method": request.method,
            "target": request.target,
            "headers": request.headers,
            "body": request.body.decode(),
            "certificates": len(request.certificates),
        },
    )


@dataclass
class Heard:
    """What the handler was told about one connection."""

    transport: Transport
    data: bytearray = field(default_factory=bytearray)
    calls: list[int] = field(default_factory=list)  # how many bytes each call brought
    writing: list[str] = field(default_factory=list)
    gone: str | None = None


class EchoHandler:
    """Implements `actors.ports.ConnectionHandler`: says back what it hears, and remembers it."""

    def __init__(self, *, echo: bool = True) -> None:
        self.clients: list[Heard] = []
        self.fails_on = b""
        self._echo = echo
        self._changed = asyncio.Event()

    def connected(self, transport: Transport) -> Heard:
        self.clients.append(Heard(transport))
        self._changed.set()
        return self.clients[-1]

    def received(self, client: Heard, data: bytes) -> None:
        if self.fails_on and self.fails_on in data:
            raise RuntimeError("a fault of the handler")
        client.data += data
        client.calls.append(len(data))
        if self._echo:
            client.transport.write(data)
        self._changed.set()

    def writing_paused(self, client: Heard) -> None:
        client.writing.append("paused")
        self._changed.set()

    def writing_resumed(self, client: Heard) -> None:
        client.writing.append("resumed")
        self._changed.set()

    def disconnected(self, client: Heard, error: str) -> None:
        if client.gone is None:
            client.gone = error
            client.transport.close()
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds; looked at whenever something was heard."""
        async with asyncio.timeout(LIMIT_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


class Front:
    """A web front that serves."""

    def __init__(
        self, port: int, ca: EdgeCa, handler: EchoHandler, admission: Admission, listener: WebListener
    ) -> None:
        self.handler = handler
        self.listener = listener
        self.admission = admission
        self.port = port
        self.client_context = ssl.create_default_context(cadata=ca.certificate_pem)
        self.client_context.verify_flags |= 0x200000  # X509_V_FLAG_NO_CHECK_TIME: our clock stands elsewhere

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.client_context, server_hostname="localhost"
        )

    async def ask(self, data: bytes) -> bytes:
        """Send bytes on a new connection and return all that is answered before it is closed."""
        reader, writer = await self.connect()
        writer.write(data)
        async with asyncio.timeout(LIMIT_S):
            answer = await reader.read()
        writer.close()
        return answer

    async def web_socket(self) -> WebSocketClient:
        client = WebSocketClient(*await self.connect())
        assert isinstance(await client.open(), AcceptConnection)
        return client


@asynccontextmanager
async def web_front(
    folder: Path,
    ca: EdgeCa,
    now_s: float,
    handle: Callable[[WebRequest], Awaitable[Response]] = echo,
    handler: EchoHandler | None = None,
    limits: WebLimits | None = None,
    amqp_handler: EchoHandler | None = None,
    switched_off: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Front]:
    """Serve on a free port until the block ends; with a handler for AMQP, that too is spoken."""
    issued = issue_server(ca, "localhost", ["localhost"], now_s)
    path = folder / "front.pem"
    path.write_text(issued.private_key_pem + issued.chain_pem)
    sockets = bind([parse_address("127.0.0.1:0")])
    admission = Admission()
    certificate = ServerCertificate(str(path), str(path))
    subprotocols = (MQTT,) if amqp_handler is None else (MQTT, AMQP)
    listener = WebListener(
        sockets,
        certificate,
        handle,
        admission,
        limits,
        subprotocols=subprotocols,
        switched_off=switched_off,
    )
    front = Front(sockets[0].getsockname()[1], ca, handler or EchoHandler(), admission, listener)
    listener.part(MQTT).open(front.handler)
    if amqp_handler is not None:
        listener.part(AMQP).open(amqp_handler)
    try:
        yield front
    finally:
        listener.close()
        sockets[0].close()


class WebSocketClient:
    """The client's side of one WebSocket; it can misbehave."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self.connection = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []

    async def open(
        self,
        target: str = WEBSOCKET,
        subprotocols: list[str] | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> Event:
        """Ask for the upgrade; return AcceptConnection or RejectConnection."""
        offered = ["mqtt"] if subprotocols is None else subprotocols
        request = Request(host="localhost", target=target, subprotocols=offered, extra_headers=headers or [])
        self.send(request)
        answer = await self.event()
        assert isinstance(answer, AcceptConnection | RejectConnection)
        return answer

    def send(self, *events: Event) -> None:
        """Send events in one write."""
        self.writer.write(b"".join(self.connection.send(event) for event in events))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes that need not be frames."""
        self.writer.write(data)

    async def event(self) -> Event:
        """Return what comes next.

        Raises:
            EOFError: the server closed the connection.
        """
        async with asyncio.timeout(LIMIT_S):
            while not self._events:
                data = await self._reader.read(65_536)
                if not data:
                    raise EOFError
                self.connection.receive_data(data)
                self._events = list(self.connection.events())
        return self._events.pop(0)

    async def data(self, length: int) -> bytes:
        """Return so many bytes of binary frames."""
        data = b""
        while len(data) < length:
            event = await self.event()
            assert isinstance(event, BytesMessage), event
            data += event.data
        return data

    async def goodbye(self) -> int:
        """Return the code of the server's Close frame, answer it, and see it close the connection."""
        event: Any = await self.event()
        while isinstance(event, BytesMessage):
            event = await self.event()
        assert isinstance(event, CloseConnection)
        if self.connection.state.name == "REMOTE_CLOSING":
            self.send(event.response())
        try:
            await self.event()
        except (EOFError, ConnectionError):
            return event.code
        raise AssertionError("something came behind the Close frame")
