"""Rules common to the HTTP APIs of the security daemon: versions, routes, bodies, refusals.

Knows no socket.

Source: spec sheet security-daemon.md sections 0.2 and 0.3
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from msgspec import Struct

from runtime.net.http_messages import Refusal, Response

FIRST_VERSION = "2018-06-28"
API_VERSIONS = frozenset(
    (FIRST_VERSION, "2019-01-30", "2019-10-22", "2019-11-05", "2020-07-07", "2021-12-07", "2022-08-03")
)

Body = TypeVar("Body")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    `socket_module` is the module whose socket it came in by, without a leading `$`; `socket_uid` the user
    whose programs may speak in its name by this socket, None when only the module itself may.
    """

    socket_module: str
    method: str
    target: str  # path and query as sent, still percent-encoded
    content_type: str | None = None
    body: bytes = field(default=b"", repr=False)
    socket_uid: int | None = None


class Route(Struct, frozen=True):
    """A path with named segments in braces, such as `/modules/{m}/genid/{g}/sign`, and what answers it.

    For a request of a version before `since` it does not exist.
    """

    method: str
    path: str
    answer: Callable[[Request, Mapping[str, str]], Response]
    since: str = FIRST_VERSION
    any_case: bool = False  # of the words of the path

    def match(self, path: str) -> Mapping[str, str] | None:
        """Return the decoded segments of a request's path, or None when it is another route's."""
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(self.path))
        found = re.fullmatch(pattern, path, re.IGNORECASE if self.any_case else 0)
        if found is None:
            return None
        try:
            segments = {name: unquote_to_bytes(text).decode() for name, text in found.groupdict().items()}
        except UnicodeDecodeError:
            return None
        return None if any("/" in text for text in segments.values()) else segments


def find_route(routes: Sequence[Route], request: Request) -> tuple[Route, Mapping[str, str]]:
    """Return the route a request is for and the segments of its path. The version is checked before the path.

    Raises:
        Refusal: 400 for a bad version or a method the path does not offer, 404 for an unknown path.
    """
    path, _, query = request.target.partition("?")
    version = _checked_version(query)
    known = False
    for route in routes:
        segments = route.match(path)
        if segments is None or version < route.since:
            continue
        if route.method == request.method:
            return route, segments
        known = True
    if known:
        raise Refusal(400, "method not allowed")
    raise Refusal(404, "not found")


def read_body(request: Request, shape: type[Body]) -> Body:
    """Return the JSON body of a POST as a value of type `shape`; members it does not know are ignored.

    A missing Content-Type means JSON (the Python SDK sends none); with any other the body counts as absent.

    Raises:
        Refusal: 400 when there is no body, 422 when it is not JSON of that shape.
    """
    if not request.body or not _is_json(request.content_type):
        raise Refusal(400, "the request needs a JSON body")
    try:
        return msgspec.json.decode(request.body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        # msgspec names the member and the type it expected, never the value.
        raise Refusal(422, f"the request body is not what is expected: {exc}") from exc


def _checked_version(query: str) -> str:
    versions = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "api-version"]
    if not versions:
        raise Refusal(400, "api-version not specified")
    if versions[0] not in API_VERSIONS:
        raise Refusal(400, f'invalid api-version "{versions[0]}"')
    return versions[0]


def _is_json(content_type: str | None) -> bool:
    if content_type is None:
        return True
    return content_type.partition(";")[0].strip().lower() == "application/json"
