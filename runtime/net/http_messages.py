"""Requests and replies as values, for whoever asks and answers; `http_exchange.py` makes bytes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request that arrived completely."""

    method: str
    target: str  # as sent, still percent-encoded
    headers: tuple[tuple[str, str], ...] = field(repr=False)  # names in lower case, in the order of arrival
    body: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        """Return the first header of this name, given in lower case."""
        return next((value for key, value in self.headers if key == name), None)


class Pieces(Protocol):
    """A body that comes piece by piece."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield it; may wait for more."""
        ...

    def stop(self) -> None:
        """Wait for no more. Any thread may call."""
        ...


@dataclass(frozen=True, slots=True)
class Response:
    """What to answer. The body is JSON unless a header `Content-Type` says otherwise.

    With `pieces` these are the body, each sent as it comes, by a server that can.
    """

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, str], ...] = ()
    pieces: Pieces | None = field(default=None, repr=False)


class Refusal(Exception):
    """Ends a request with an error reply. Never leaves the API that raises it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def json_response(status: int, content: object) -> Response:
    """Return a reply with `content` as JSON."""
    return Response(status, msgspec.json.encode(content))


def error_response(status: int, message: str) -> Response:
    """Return an error reply in the form that all SDKs read."""
    return json_response(status, {"message": message})
