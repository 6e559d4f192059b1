"""Twins over AMQP: requests, answers and changes of desired properties, in both directions.

Source: spec sheet hub-protocols.md section 3.7
"""

from __future__ import annotations

import enum
import json
from typing import Final

from msgspec import Struct

from messaging.amqp.codec import AmqpMessage, Int, Long, MessageId
from messaging.amqp.plain import number_of
from messaging.text import quoted
from messaging.topics import Unknown

_OPERATION: Final = "operation"
_RESOURCE: Final = "resource"
_STATUS: Final = "status"
_VERSION: Final = "version"
_REPORTED: Final = "/properties/reported"
_DESIRED: Final = "/notifications/twin/properties/desired"


class TwinOperation(enum.Enum):
    """What a client asks for; the value is what stands on the wire."""

    GET = "GET"  # the twin
    PATCH = "PATCH"  # merge into the reported properties
    PUT = "PUT"  # tell of changed desired properties from now on
    DELETE = "DELETE"  # do not tell any more


_OPERATIONS: Final = {operation.value: operation for operation in TwinOperation}
_RESOURCES: Final = {
    TwinOperation.PATCH: _REPORTED,
    TwinOperation.PUT: _DESIRED,
    TwinOperation.DELETE: _DESIRED,
}


class TwinRequest(Struct, frozen=True):
    """A request of a client; without a correlation id (a patch) nobody waits for an answer."""

    operation: TwinOperation
    correlation_id: MessageId | None
    patch: bytes  # of PATCH, else b""


class TwinAnswer(Struct, frozen=True):
    """The answer to a request of ours."""

    correlation_id: MessageId
    status: int  # as HTTP has it
    version: int | None  # `$version` of the reported properties, where the cloud tells it
    body: bytes


class DesiredPatch(Struct, frozen=True):
    """The hub tells of changed desired properties: JSON with `$version`."""

    patch: bytes


def parse_twin_request(message: AmqpMessage) -> TwinRequest | Unknown:
    """Read a request. What is unknown is passed over: there is nobody to tell.

    The operation decides alone; what stands in `resource` does not count.
    """
    asked = message.annotations.get(_OPERATION)
    operation = _OPERATIONS.get(asked) if isinstance(asked, str) else None
    if operation is None:
        shown = quoted(asked) if isinstance(asked, str) else "none"
        return Unknown(f"a twin request with the operation {shown}; it can be {', '.join(_OPERATIONS)}")
    correlation_id = None if message.correlation_id == "" else message.correlation_id
    if operation is TwinOperation.PATCH:
        return TwinRequest(operation, correlation_id, message.body)
    if correlation_id is None:
        return Unknown(f"a twin request {operation.value} without a correlation id: nobody can be answered")
    return TwinRequest(operation, correlation_id, b"")


def twin_request(operation: TwinOperation, correlation_id: MessageId, patch: bytes = b"") -> AmqpMessage:
    """Return a request as a client makes it; `patch` is for PATCH alone.

    Other requests have a body of one space, as the SDKs send it.
    """
    annotations: dict[str, object] = {_OPERATION: operation.value}
    resource = _RESOURCES.get(operation)
    if resource is not None:
        annotations[_RESOURCE] = resource
    return AmqpMessage(body=patch or b" ", correlation_id=correlation_id, annotations=annotations)


def twin_answer(
    correlation_id: MessageId, status: int, body: bytes = b"", version: int | None = None
) -> AmqpMessage:
    """Return the answer to a request: 200 with the twin for GET; else no body, 204 for PATCH, 200 for others.

    `version` is what IoT Hub, unlike an edge hub, adds after a reported patch.
    """
    annotations: dict[str, object] = {_STATUS: Int(status)}
    if version is not None:
        annotations[_VERSION] = Long(version)
    return AmqpMessage(body=body, correlation_id=correlation_id, annotations=annotations)


def twin_refusal(correlation_id: MessageId, status: int, reason: str, code: int = 0) -> AmqpMessage:
    """Return the answer to a request that failed; the Node SDK parses its body, so that has to be JSON.

    `code` is IoT Hub's number, where there is one.
    """
    body = json.dumps({"errorCode": code or status, "message": reason}).encode()
    return twin_answer(correlation_id, status, body)


def desired_patch(patch: bytes) -> AmqpMessage:
    """Return what a client is told of changed desired properties; no correlation id is its mark."""
    return AmqpMessage(body=patch)


def parse_twin_answer(message: AmqpMessage) -> TwinAnswer | DesiredPatch | Unknown:
    """Read what the hub sends to a client."""
    if message.correlation_id is None:
        return DesiredPatch(message.body)
    status = number_of(message.annotations.get(_STATUS))
    if status is None:
        return Unknown("an answer to a twin request without a status")
    version = number_of(message.annotations.get(_VERSION))
    return TwinAnswer(message.correlation_id, status, version, message.body)
