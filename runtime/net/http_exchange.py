"""The server's side of one HTTP/1.1 connection without I/O, on h11: bytes in, whole requests out.

h11 takes 0.4 MB, so whoever serves connections imports this with the first of them.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import h11

from runtime.net.http_messages import HttpRequest, Refusal, Response

WITHOUT_BODY: Final = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class HttpExchange:
    """Requests and replies of one connection, one after the other."""

    def __init__(self, *, head_bytes: int, body_bytes: int) -> None:
        """Take the limits of what a request may bring."""
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=head_bytes)
        self._body_bytes = body_bytes
        self._head: h11.Request | None = None
        self._body = bytearray()

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a request has arrived since the last reply."""
        return self._head is None and not self._http.trailing_data[0]

    @property
    def has_unread(self) -> bool:
        """Whether the peer may still be sending a request that is refused."""
        return self._http.their_state in (h11.IDLE, h11.SEND_BODY, h11.ERROR)

    def receive_data(self, data: bytes) -> None:
        """Take what came; b"" says that nothing more will."""
        self._http.receive_data(data)

    def next_request(self) -> HttpRequest | None:
        """Return a request that is complete, None while it is not.

        Raises:
            Refusal: it broke HTTP (400 and others as h11 says) or was too large (413). The connection cannot
                be used further once that is answered.
        """
        try:
            return self._next_request()
        except h11.RemoteProtocolError as exc:
            raise Refusal(exc.error_status_hint, "the request is not valid HTTP/1.1") from exc

    def go_on(self) -> bytes:
        """Return the bytes for a peer that waits to be told to send its body; b"" when none does."""
        if not self._http.they_are_waiting_for_100_continue:
            return b""
        return self._sent(h11.InformationalResponse(status_code=100, headers=[]))

    def answer(self, response: Response) -> bytes:
        """Return the bytes of a reply to the request, or to what was refused; b"" when none can be given."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return b""
        data = self._begin(response, ("Content-Length", str(len(response.body))))
        if response.body and not (self._head is not None and self._head.method == b"HEAD"):
            data += self.piece(response.body)
        return data + self.end()

    def begin(self, response: Response) -> bytes:
        """Return the head of a reply whose body comes in pieces, each with `piece`, and then `end`.

        It is the last one of its connection.
        """
        return self._begin(response, ("Transfer-Encoding", "chunked"), ("Connection", "close"))

    def piece(self, data: bytes) -> bytes:
        """Return the bytes of the next piece of a body."""
        return self._sent(h11.Data(data=data))

    def end(self) -> bytes:
        """Return the bytes that end a body."""
        return self._sent(h11.EndOfMessage())

    def _begin(self, response: Response, *framing: tuple[str, str]) -> bytes:
        headers = list(response.headers)
        if response.status not in WITHOUT_BODY:
            if not any(name.lower() == "content-type" for name, _ in headers):
                headers.append(("Content-Type", "application/json"))
            headers.extend(framing)
        if self.has_unread:
            headers.append(("Connection", "close"))
        phrase = HTTPStatus(response.status).phrase  # SDKs put it into their error messages
        return self._sent(h11.Response(status_code=response.status, headers=headers, reason=phrase))

    def start_next(self) -> bool:
        """Be ready for another request; False when none may follow on this connection."""
        try:
            self._http.start_next_cycle()
        except h11.LocalProtocolError:
            return False  # HTTP/1.0, a refused request, or the peer asked to close
        self._head = None
        self._body.clear()
        return True

    def rest(self) -> bytes:
        """Return what came behind a request that changes to another protocol."""
        return bytes(self._http.trailing_data[0])

    def _next_request(self) -> HttpRequest | None:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return None
            if isinstance(event, h11.Request):
                self._head = event
                if event.method == b"CONNECT":  # asks a proxy for a tunnel
                    raise Refusal(400, "method not allowed")
                self._check_size(int(_header(event, b"content-length") or 0))
            elif isinstance(event, h11.Data):
                self._body += event.data
                self._check_size(len(self._body))
            elif isinstance(event, h11.EndOfMessage) and self._head is not None:
                return _request(self._head, bytes(self._body))
            else:
                raise Refusal(400, "the request is not complete")

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._body_bytes:
            raise Refusal(413, f"the request body is larger than {self._body_bytes} bytes")

    def _sent(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""


def _request(head: h11.Request, body: bytes) -> HttpRequest:
    headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers)
    return HttpRequest(head.method.decode("ascii"), head.target.decode("ascii"), headers, body)


def _header(request: h11.Request, name: bytes) -> bytes | None:
    return next((value for key, value in request.headers if key == name), None)
