"""One HTTP/1.1 connection on asyncio streams: whole requests in, whole replies out, within time limits."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from runtime.net.http_messages import HttpRequest, Refusal, Response

_READ_SIZE_BYTES = 16 * 1024
_DISCARD_LIMIT_S = 1.0


class Limits(Struct, frozen=True):
    """What one caller may take up."""

    connections_per_uid: int = 10  # per socket; one more is closed without a reply
    body_bytes: int = 1024 * 1024  # a module may have a whole deployment encrypted
    head_bytes: int = 16 * 1024
    read_s: float = 5.0  # from the first byte of a request to its last, and for taking a reply
    silent_s: float = 30.0  # a connection that asks nothing for so long is closed


class HttpConnection:
    """The server's side of one connection. Belongs to the task that serves it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits) -> None:
        """Take the two halves of the connection."""
        from runtime.net.http_exchange import HttpExchange  # loads h11

        self._reader = reader
        self._writer = writer
        self._limits = limits
        self._http = HttpExchange(head_bytes=limits.head_bytes, body_bytes=limits.body_bytes)
        self.idle = True  # nothing of a request has arrived: may be closed at any moment

    async def next_request(self) -> HttpRequest | None:
        """Wait for a request; None when the peer hung up, or asked nothing for `silent_s`.

        Raises:
            Refusal: it broke HTTP (400 and others as h11 says), was too large (413) or too slow (408). The
                connection cannot be used further once that is answered.
        """
        if self._http.is_idle:  # else the next request came along with the last
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
                while (request := self._http.next_request()) is None:
                    self._writer.write(self._http.go_on())
                    self._http.receive_data(await self._reader.read(_READ_SIZE_BYTES))
                return request
        except TimeoutError as exc:
            raise Refusal(408, f"the request was not complete within {self._limits.read_s:g} s") from exc

    async def answer(self, response: Response) -> bool:
        """Send the reply and return whether another request may follow.

        Raises:
            TimeoutError: the peer does not take it within `read_s`.
            OSError: the peer is gone.
        """
        unread = self._http.has_unread
        self._writer.write(self._http.answer(response))
        async with asyncio.timeout(self._limits.read_s):
            await self._writer.drain()
        if unread:
            await self._discard_rest()
            return False
        if not self._http.start_next():
            return False
        self.idle = self._http.is_idle
        return True

    def hang_up(self) -> None:
        """Close the connection; whoever waits for a request gets None."""
        self._writer.close()

    async def _discard_rest(self) -> None:
        # A peer that is still sending is let finish, or it sees a broken connection instead of our reply.
        try:
            async with asyncio.timeout(_DISCARD_LIMIT_S):
                while await self._reader.read(_READ_SIZE_BYTES):
                    pass
        except (TimeoutError, OSError):
            return
