"""Direct method calls over HTTP: what a module may ask for, and how the answer reads.

Source: hub-protocols.md section 6.1
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from messaging.errors import RemoteProtocolError
from messaging.text import quoted

LONGEST_NAME: Final = 100
LARGEST_PAYLOAD_BYTES: Final = 131_072
SHORTEST_RESPONSE_S: Final = 5
LONGEST_TIMEOUT_S: Final = 300
DEFAULT_RESPONSE_S: Final = 30

_NO_LEVEL = re.compile(r"[/+#\x00-\x1f\x7f]")  # what cannot stand in one level of an MQTT topic


class MethodCall(Struct, frozen=True):
    """A call as it was asked for."""

    name: str
    payload: bytes  # JSON as it came; empty: none
    response_timeout_s: float
    connect_timeout_s: float


class _Body(msgspec.Struct):
    """The C SDK also sends `timeout`, which means nothing here."""

    methodName: str = ""  # noqa: N815  # the names on the wire
    payload: msgspec.Raw = msgspec.Raw()
    responseTimeoutInSeconds: float | None = None  # noqa: N815
    connectTimeoutInSeconds: float | None = None  # noqa: N815


def parse_call(body: bytes) -> MethodCall:
    """Return what the body of a request asks for.

    Raises:
        RemoteProtocolError: it is not JSON, or a value is not allowed; the message says which.
    """
    try:
        asked = msgspec.json.decode(body, type=_Body)
    except (ValueError, RecursionError) as exc:
        raise RemoteProtocolError(f"the body is no method call: {exc}") from exc
    name = asked.methodName
    if not name.strip():
        raise RemoteProtocolError("methodName is missing")
    if len(name) > LONGEST_NAME:
        raise RemoteProtocolError(f"methodName has {len(name)} characters; the limit is {LONGEST_NAME}")
    if _NO_LEVEL.search(name):
        raise RemoteProtocolError(f"methodName {quoted(name)} has '/', '+', '#' or a control character")
    payload = bytes(asked.payload)
    if len(payload) > LARGEST_PAYLOAD_BYTES:
        raise RemoteProtocolError(f"payload has {len(payload)} bytes; the limit is {LARGEST_PAYLOAD_BYTES}")
    response_s = _ranged(
        "responseTimeoutInSeconds", asked.responseTimeoutInSeconds, DEFAULT_RESPONSE_S, SHORTEST_RESPONSE_S
    )
    connect_s = _ranged("connectTimeoutInSeconds", asked.connectTimeoutInSeconds, 0, 0)
    return MethodCall(name, payload, response_s, connect_s)


def encode_result(status: int, payload: bytes) -> bytes:
    """Return the body of the answer; what a client sent that is no JSON becomes a text."""
    return msgspec.json.encode({"status": status, "payload": _json(payload)})


def _ranged(name: str, value: float | None, default: float, least: float) -> float:
    if value is None:
        return default
    if not least <= value <= LONGEST_TIMEOUT_S:
        raise RemoteProtocolError(f"{name} is {value:g}; it may be {least:g} to {LONGEST_TIMEOUT_S}")
    return value


def _json(payload: bytes) -> Any:
    if not payload.strip():
        return None
    try:
        msgspec.json.decode(payload)
    except (ValueError, RecursionError):
        return payload.decode("utf-8", "replace")
    return msgspec.Raw(payload)
