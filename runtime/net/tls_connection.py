"""TLS around one accepted connection: asyncio's protocol below, its transport above, OpenSSL between them.

The event loops' own does the same and takes twice as long for it: uvloop's takes 256 KiB from the kernel for
each read and ends each with an exception. A read of 16 PUBACKs with 4 KiB in answer takes 14 us of CPU here,
system calls included, and 28 there. What is written at once leaves in records of up to 16 KiB, in one write.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final, cast

RECORD_BYTES: Final = 16 * 1024  # the most that one record holds (RFC 8446 section 5.1)
HELD_BYTES: Final = 64 * 1024  # read from the socket while its protocol does not want to read
CLOSE_LIMIT_S: Final = 10.0  # for a peer to take what it is still owed, and to close


class TlsConnection(asyncio.Protocol, asyncio.Transport):
    """The server's end of one TLS connection.

    `established` has a result when the handshake is over, just before the protocol hears of its connection;
    else why it failed. To give it up before, `abort`.
    """

    def __init__(self, protocol: asyncio.Protocol, context: ssl.SSLContext) -> None:
        """Take who speaks on the connection. On the event loop."""
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self.established: asyncio.Future[None] = self._loop.create_future()
        self._protocol = protocol
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._below: asyncio.Transport
        self._is_open = False  # from the end of the handshake to the end of the connection
        self._is_ending = False
        self._is_paused = False
        self._has_left = False  # the peer, while what it has said before is held
        self._error: Exception | None = None
        self._cut_off: asyncio.TimerHandle | None = None

    # the protocol of the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            return
        self._incoming.write(data)
        if self._is_paused:
            # Only a socket that is read tells of the end of its connection.
            if self._incoming.pending > HELD_BYTES:
                self._below.pause_reading()
        elif self._is_open:
            self._read()
        elif self._shake_hands():
            self._read_again()

    def _read_again(self) -> None:
        """Read what is here already, if that is wanted, and only then more."""
        if not self._is_paused and not self._is_ending:
            self._read()
        if not self._is_paused and not self._is_ending and not self._below.is_reading():
            self._below.resume_reading()

    def _read(self) -> None:
        incoming, read = self._incoming, self._tls.read
        parts = []
        has_left = False
        try:
            while incoming.pending:
                part = read(RECORD_BYTES)
                if not part:
                    has_left = True
                    break
                parts.append(part)
        except ssl.SSLWantReadError:
            pass  # the last record is not complete
        except ssl.SSLError as exc:
            self._error = exc
        if self._outgoing.pending:
            self._send()
        if parts:
            self._protocol.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if self._error is not None:
            self._end()
        elif (has_left or self._has_left) and not self._is_ending:
            self._protocol.eof_received()
            self.close()

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return False
        except ssl.SSLError as exc:
            self._error = exc
            self._send()  # the alert that says so
            self._end()
            return False
        self._send()
        if self.established.done():  # nobody waits for it any more
            self.abort()
            return False
        self._is_open = True
        self.established.set_result(None)
        self._protocol.connection_made(self)
        return True

    def _send(self) -> None:
        data = self._outgoing.read()
        if data:
            self._below.write(data)

    def _end(self) -> None:
        """Close below, once what was written is out."""
        self._is_ending = True
        self._below.close()
        if self._cut_off is None:
            self._cut_off = self._loop.call_later(CLOSE_LIMIT_S, self._below.abort)

    def eof_received(self) -> bool:
        """The connection is closed by that, with or without a word of TLS before; not while something of the
        peer is still to be read.
        """
        if self._is_paused and self._incoming.pending and not self._is_ending:
            self._has_left = True
            return True
        if self._is_open and not self._is_ending:
            self._protocol.eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_ending = True
        if self._cut_off is not None:
            self._cut_off.cancel()
        error = exc or self._error
        if self._is_open:
            self._is_open = False
            self._protocol.connection_lost(error)
        elif not self.established.done():
            self.established.set_exception(error or ConnectionResetError("closed during the handshake"))

    def pause_writing(self) -> None:
        if self._is_open:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._is_open:
            self._protocol.resume_writing()

    # the transport of the protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_ending:
            return
        write = self._tls.write
        try:
            if len(data) <= RECORD_BYTES:
                write(data)
            else:
                rest = memoryview(data)
                while rest:
                    rest = rest[write(rest) :]  # a record at a time
        except ssl.SSLError as exc:
            self._error = exc
            self._end()
            return
        self._below.write(self._outgoing.read())

    def close(self) -> None:
        """Say so, and wait until the peer closes: what it has sent meanwhile would have TCP reset the
        connection, and the peer lose what it was told last.
        """
        if self._is_ending:
            return
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            self._is_ending = True
            self._send()
            self._cut_off = self._loop.call_later(CLOSE_LIMIT_S, self._below.abort)
            if not self._below.is_reading():
                self._below.resume_reading()
            return
        except ssl.SSLError as exc:
            self._error = exc
        self._send()
        self._end()

    def abort(self) -> None:
        self._is_ending = True
        self._below.abort()

    def is_closing(self) -> bool:
        return self._is_ending

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        if self._is_paused and not self._is_ending:
            self._is_paused = False
            if self._incoming.pending:
                self._loop.call_soon(self._read_again)
            elif not self._below.is_reading():
                self._below.resume_reading()

    def is_reading(self) -> bool:
        return not self._is_paused

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls if name == "ssl_object" else self._below.get_extra_info(name, default)
