"""One HTTP/1.1 connection on asyncio streams, parsed by h11: whole requests in, whole replies out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus

import h11

from runtime.daemon_api import Refusal, Response

_READ_SIZE_BYTES = 16 * 1024
_DISCARD_LIMIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may take up."""

    connections_per_uid: int = 10  # per socket; one more is closed without a reply
    body_bytes: int = 64 * 1024
    head_bytes: int = 16 * 1024
    read_s: float = 5.0  # from the first byte of a request to its last, and for taking a reply
    silent_s: float = 30.0  # a connection that asks nothing for so long is closed


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request that arrived completely."""

    method: str
    target: str  # as sent, still percent-encoded
    content_type: str | None
    body: bytes = field(repr=False)


class HttpConnection:
    """The server's side of one connection. Belongs to the task that serves it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits) -> None:
        """Take the two halves of the connection."""
        self._reader = reader
        self._writer = writer
        self._limits = limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._head_only = False
        self.idle = True  # nothing of a request has arrived: may be closed at any moment

    async def next_request(self) -> HttpRequest | None:
        """Wait for a request; None when the peer hung up, or asked nothing for `silent_s`.

        Raises:
            Refusal: it broke HTTP (400 and others as h11 says), was too large (413) or too slow (408). The
                connection cannot be used further once that is answered.
        """
        if not self._http.trailing_data[0]:  # else the next request came along with the last
            try:
                async with asyncio.timeout(self._limits.silent_s):
                    data = await self._reader.read(_READ_SIZE_BYTES)
            except TimeoutError:
                return None
            if not data:
                return None
            self._http.receive_data(data)
        self.idle = False
        try:
            async with asyncio.timeout(self._limits.read_s):
                return await self._read_request()
        except TimeoutError as exc:
            raise Refusal(408, f"the request was not complete within {self._limits.read_s:g} s") from exc
        except h11.RemoteProtocolError as exc:
            raise Refusal(exc.error_status_hint, "the request is not valid HTTP/1.1") from exc

    async def answer(self, response: Response) -> bool:
        """Send the reply and return whether another request may follow.

        Raises:
            TimeoutError: the peer does not take it within `read_s`.
            OSError: the peer is gone.
        """
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return False
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(response.body)))]
        unread = self._http.their_state in (
            h11.IDLE,
            h11.SEND_BODY,
            h11.ERROR,
        )  # of a request that was refused
        if unread:
            headers.append(("Connection", "close"))
        phrase = HTTPStatus(response.status).phrase  # SDKs put it into their error messages
        self._send(h11.Response(status_code=response.status, headers=headers, reason=phrase))
        if not self._head_only:
            self._send(h11.Data(data=response.body))
        self._send(h11.EndOfMessage())
        async with asyncio.timeout(self._limits.read_s):
            await self._writer.drain()
        if unread:
            await self._discard_rest()
            return False
        try:
            self._http.start_next_cycle()
        except h11.LocalProtocolError:
            return False  # HTTP/1.0, or the peer asked to close
        self.idle = not self._http.trailing_data[0]
        return True

    def hang_up(self) -> None:
        """Close the connection; whoever waits for a request gets None."""
        self._writer.close()

    async def _read_request(self) -> HttpRequest:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[]))
                self._http.receive_data(await self._reader.read(_READ_SIZE_BYTES))
            elif isinstance(event, h11.Request):
                head = event
                self._head_only = head.method == b"HEAD"
                self._check_size(int(_header(head, b"content-length") or 0))
            elif isinstance(event, h11.Data):
                body += event.data
                self._check_size(len(body))
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return HttpRequest(
                    head.method.decode("ascii"),
                    head.target.decode("ascii"),
                    _header(head, b"content-type"),
                    bytes(body),
                )
            else:
                raise Refusal(400, "the request is not complete")

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._limits.body_bytes:
            raise Refusal(413, f"the request body is larger than {self._limits.body_bytes} bytes")

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)

    async def _discard_rest(self) -> None:
        # A peer that is still sending is let finish, or it sees a broken connection instead of our reply.
        try:
            async with asyncio.timeout(_DISCARD_LIMIT_S):
                while await self._reader.read(_READ_SIZE_BYTES):
                    pass
        except (TimeoutError, OSError):
            return


def _header(request: h11.Request, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in request.headers if key == name), None)
