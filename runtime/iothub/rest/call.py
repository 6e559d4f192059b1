"""One REST call: what a request says, read and checked, and how replies look.

Source: spec sheet security-daemon.md section 4.6
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec
from msgspec import Struct

from messaging.errors import IotHubError
from messaging.identity import Identity
from messaging.text import quoted
from messaging.time_text import iso_utc
from runtime.iothub import refusals, registry
from runtime.iothub.hub import IotHub
from runtime.iothub.policies import Permission
from runtime.net.http_messages import HttpRequest, Response, json_response

MOST_ITEMS: Final = 1000

T = TypeVar("T")


class Call(Struct, frozen=True):
    """A request on its way to the function that answers it."""

    hub: IotHub
    request: HttpRequest
    ids: Mapping[str, str]  # the named segments of the path, decoded
    query: Mapping[str, str]

    @property
    def identity(self) -> Identity:
        """The device, or the module, of the path."""
        return registry.identity_of(self.ids["device"], self.ids.get("module"))

    @property
    def if_match(self) -> str | None:
        """The etag that the caller saw, `*` for any, None when the header is missing."""
        return self.request.header("if-match")

    def body(self) -> Any:
        """Return the JSON of the body.

        Raises:
            IotHubError: 400004 it is none; 415000 its type says so.
        """
        content_type = self.request.header("content-type")
        if content_type is not None and self.request.body:
            media_type = content_type.partition(";")[0].strip().lower()
            if media_type != "application/json" and not media_type.endswith("+json"):
                raise refusals.bad_media_type(content_type)
        try:
            return msgspec.json.decode(self.request.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise refusals.argument_invalid("the body is not JSON") from exc

    def object_body(self) -> dict[str, Any]:
        """Return the JSON object of the body. Raises as `body`."""
        body = self.body()
        if not isinstance(body, dict):
            raise refusals.argument_invalid("the body is not a JSON object")
        return body

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """Return a number of the query string.

        Raises:
            IotHubError: 400004 it is none, or out of range.
        """
        return ranged(name, self.query.get(name, default), least, most)


Answer = Callable[[Call], Awaitable[Response]]


class Route(Struct, frozen=True):
    """A path such as `/devices/{device}`, and what answers it.

    `needs` are the permissions of which an account must have one. `by` is the module of the path's device
    that may call without an account, '' for the device itself, None for nobody.
    """

    method: str
    path: str
    answer: Answer
    needs: Permission
    by: str | None = None


def ranged(name: str, value: object, least: int, most: int) -> int:
    """Return a whole number between two limits.

    Raises:
        IotHubError: 400004 it is none.
    """
    number: object = value
    if isinstance(value, str) and value.strip("-").isascii() and value.strip("-").isdecimal():
        number = int(value[:20])
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise refusals.argument_invalid(
            f"{name} is {quoted(str(value))}; a whole number from {least} to {most} is needed"
        )
    return number


def member(body: Mapping[str, Any], name: str, kind: type[T], default: T) -> T:
    """Return a member of an object, `default` when it is missing or null.

    Raises:
        IotHubError: 400004 it is of another type.
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise refusals.argument_invalid(f"{name} is not of the type it must be")
    return value


def split_target(target: str) -> tuple[str, dict[str, str]]:
    """Return path and query of a request's target; the path is still percent-encoded."""
    path, _, query = target.partition("?")
    return path, dict(parse_qsl(query, keep_blank_values=True))


def decoded(segment: str) -> str:
    """Return a segment of a path with its percent signs resolved.

    Raises:
        IotHubError: 400004 it is not UTF-8.
    """
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError as exc:
        raise refusals.argument_invalid(f"{quoted(segment)} in the path is not UTF-8") from exc


def with_etag(content: Mapping[str, Any], status: int = 200) -> Response:
    """Return a reply with an object, and its etag in the header, too."""
    return Response(status, msgspec.json.encode(content), (("ETag", f'"{content["etag"]}"'),))


def no_content() -> Response:
    """Return the reply to what was done and has nothing to show."""
    return Response(204)


def error_reply(error: IotHubError, tracking_id: str, now_s: float) -> Response:
    """Return a refusal in the form that the service SDKs read."""
    text = str(error).replace(";", ",")  # the Node SDK shows what stands between the first two
    content = {
        "Message": f"ErrorCode:{error.name};{text}",
        "ExceptionMessage": f"Tracking ID:{tracking_id}-TimeStamp:{iso_utc(now_s)}",
        "errorCode": error.code,
    }
    reply = json_response(error.status, content)
    return Response(reply.status, reply.body, (("iothub-errorcode", error.name),))


def continuation(text: str) -> str:
    """Return where a page ended as a token for the header."""
    return base64.urlsafe_b64encode(text.encode()).decode()


def from_continuation(token: str | None) -> str:
    """Return what `continuation` was given, '' for no token.

    Raises:
        IotHubError: 400004 it is no token of ours.
    """
    try:
        return base64.b64decode(token or "", altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as exc:
        raise refusals.argument_invalid("the continuation token is not one of this hub") from exc
