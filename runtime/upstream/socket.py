"""One TLS connection to the cloud for a protocol without I/O: bytes in, bytes out; through WebSocket or not.

`open_socket` blocks and has a thread of its own; what it returns is for the loop (upstream/loop.py).

Source: RFC 6455; spec sheet hub-protocols.md section 3.8
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from messaging.errors import RemoteProtocolError
from runtime.upstream.loop import FAREWELL_S, CloudLoop
from runtime.upstream.shared import Way

if TYPE_CHECKING:
    from wsproto import WSConnection

SUBPROTOCOL: Final = "AMQPWSB10"
TARGET: Final = "/$iothub/websocket?iothub-no-client-cert=true"
_READ_BYTES: Final = 256 * 1024
# More than this is not handed to the kernel at once, so that a twin request or a heart-beat of a slow link
# waits for little telemetry.
_UNSENT_BYTES: Final = 16 * 1024


class Opening:
    """A connection that is being made; any thread may break it off."""

    def __init__(self) -> None:
        self.has_begun = False  # somebody was there to take the connection
        self._handshaking: socket.socket | None = None
        self._is_broken_off = False

    def began(self, connected: socket.socket) -> None:
        """TCP is there. TLS takes the socket over; to break off needs one of our own.

        Raises:
            ConnectionAbortedError: Nobody wants it any more.
        """
        self.has_begun = True
        self._handshaking = connected.dup()
        if self._is_broken_off:
            self._handshaking.close()
            raise ConnectionAbortedError

    def ended(self) -> None:
        """It is made, or is not."""
        handshaking, self._handshaking = self._handshaking, None
        if handshaking is not None:
            handshaking.close()

    def break_off(self) -> None:
        """Let it fail, if it is still being made."""
        self._is_broken_off = True
        handshaking = self._handshaking
        if handshaking is not None:
            try:
                handshaking.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has failed by itself, or ended


def open_socket(
    host_name: str, way: Way, trust: ssl.SSLContext, limit_s: float, opening: Opening
) -> tuple[ssl.SSLSocket, WSConnection | None]:
    """Connect, and upgrade to WebSocket if that is the way. Blocks for at most twice the limit.

    Raises:
        OSError: It cannot be reached, or its certificate is not trusted (ssl.SSLError).
        RemoteProtocolError: It does not take the upgrade.
    """
    connected = socket.create_connection((host_name, way.port), timeout=limit_s)
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        opening.began(connected)
        secured = trust.wrap_socket(connected, server_hostname=host_name)
    except BaseException:
        connected.close()
        opening.ended()
        raise
    try:
        upgraded = _upgrade(secured, host_name, limit_s) if way.is_web_socket else None
        secured.setblocking(False)
    except BaseException:
        secured.close()
        raise
    finally:
        opening.ended()
    return secured, upgraded


def _upgrade(secured: ssl.SSLSocket, host_name: str, limit_s: float) -> WSConnection:
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import AcceptConnection, RejectConnection, Request
    from wsproto.utilities import RemoteProtocolError as NoWebSocket

    refused = f"'{host_name}:443' does not take AMQP over WebSocket"
    deadline_s = time.monotonic() + limit_s
    connection = WSConnection(ConnectionType.CLIENT)
    secured.sendall(connection.send(Request(host=host_name, target=TARGET, subprotocols=[SUBPROTOCOL])))
    while time.monotonic() < deadline_s:
        data = secured.recv(_READ_BYTES)
        try:
            connection.receive_data(data or None)
            for event in connection.events():
                if isinstance(event, AcceptConnection):
                    return connection
                if isinstance(event, RejectConnection):
                    raise RemoteProtocolError(f"{refused}: it answers {event.status_code}")
        except NoWebSocket as exc:
            raise RemoteProtocolError(f"{refused}: {exc}") from exc
        if not data:
            raise RemoteProtocolError(f"{refused}: it closed the connection")
    raise TimeoutError


class CloudSocket:
    """A connection that is open. All methods are for the loop.

    Args:
        received: Called with bytes; b"" when the peer has closed.
        broken: Called once when the connection is no more, with the error if there is one.
        room: Called when there is room: returns what is to be sent, b"" for nothing.
    """

    def __init__(
        self,
        secured: ssl.SSLSocket,
        upgraded: WSConnection | None,
        loop: CloudLoop,
        received: Callable[[bytes], None],
        broken: Callable[[BaseException | None], None],
        room: Callable[[], bytes],
    ) -> None:
        self._socket = secured
        self._upgraded = upgraded
        self._loop = loop
        self._received = received
        self._broken = broken
        self._room = room
        self._unsent = memoryview(b"")
        self._is_ended = False  # nothing is told any more
        self._is_closed = False
        self._answers = b""  # to what WebSocket asks by itself

    def open(self) -> None:
        """Begin to read, also what came behind the upgrade."""
        self._loop.watch(self._socket, self._ready)
        if self._upgraded is not None:
            self._take_frames()

    def has_more(self) -> None:
        """Ask for `room` as soon as there is some."""
        if not self._is_closed:
            self._loop.wants_write(self._socket, True)

    def end(self, farewell: bytes = b"") -> None:
        """Tell nothing any more, send these last bytes, and close: now, or within a second."""
        if self._is_ended:
            return
        self._is_ended = True
        if self._upgraded is not None and not self._is_closed:
            from wsproto.events import CloseConnection
            from wsproto.utilities import LocalProtocolError

            farewell = self._framed(farewell)
            try:
                farewell += self._upgraded.send(CloseConnection(1000))
            except LocalProtocolError:
                pass  # the peer has closed before
        self._unsent = memoryview(bytes(self._unsent) + farewell)
        self._write()
        if not self._is_closed:
            self._loop.later(FAREWELL_S / 2, self._close)

    def _ready(self, is_readable: bool) -> None:
        if is_readable and not self._read():
            return
        self._write()

    def _read(self) -> bool:
        """Take what there is; False when that was the last."""
        cause: BaseException | None = None
        try:
            while True:
                data = self._socket.recv(_READ_BYTES)
                if not data:
                    break
                if not self._is_ended:
                    self._take(data)
                # TLS may keep what the kernel no longer has.
                if self._is_closed or not self._socket.pending():
                    return not self._is_closed
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except OSError as exc:
            cause = exc
        self._break(cause)
        return False

    def _take(self, data: bytes) -> None:
        if self._upgraded is None:
            self._received(data)
            return
        from wsproto.utilities import RemoteProtocolError as NoWebSocket

        try:
            self._upgraded.receive_data(data)
            self._take_frames()
        except NoWebSocket as exc:
            self._break(exc)

    def _take_frames(self) -> None:
        from wsproto.events import BytesMessage, CloseConnection, Ping

        assert self._upgraded is not None
        came: list[bytes] = []
        is_closing = False
        for event in self._upgraded.events():
            if isinstance(event, BytesMessage):
                came.append(bytes(event.data))
            elif isinstance(event, Ping):
                self._answers += self._upgraded.send(event.response())
                self.has_more()
            elif isinstance(event, CloseConnection):
                is_closing = True
        if came:
            self._received(b"".join(came))
        if is_closing:
            self._break(None)

    def _write(self) -> None:
        """Send what is left, then what there is; as much as the kernel takes. More when it is asked again."""
        is_more = False
        try:
            self._send()
            if not self._is_closed and not self._unsent:
                data = b"" if self._is_ended else self._framed(self._room())
                is_more = bool(data)
                data, self._answers = self._answers + data, b""
                self._unsent = memoryview(data)
                self._send()
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError as exc:
            self._break(exc)
        if self._is_closed:
            return
        if self._is_ended and not self._unsent:
            self._close()
        else:
            self._loop.wants_write(self._socket, is_more or bool(self._unsent))

    def _send(self) -> None:
        while self._unsent and not self._is_closed:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def _framed(self, data: bytes) -> bytes:
        if self._upgraded is None or not data:
            return data
        from wsproto.events import BytesMessage

        return self._upgraded.send(BytesMessage(data))

    def _break(self, cause: BaseException | None) -> None:
        told = self._is_ended or self._is_closed
        self._is_ended = True
        self._close()
        if not told:
            self._loop.call(self._broken, cause)  # after what was asked before

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._loop.forget(self._socket)
            self._socket.close()
