"""Error conditions of AMQP: what a link, a delivery or a connection is refused with, and what that means.

A description is a small JSON text with IoT Hub's number, as IoT Hub and the reference hub write it.

Source: spec sheets hub-protocols.md section 3.5, security-daemon.md section 4.7; AMQP 1.0 part 2.8
"""

from __future__ import annotations

import json
from typing import Final

from msgspec import Struct

from messaging.errors import (
    AuthError,
    ConfigError,
    EdgeError,
    IotHubError,
    RemoteProtocolError,
    StoreFull,
)

INTERNAL_ERROR: Final = "amqp:internal-error"
NOT_FOUND: Final = "amqp:not-found"
UNAUTHORIZED_ACCESS: Final = "amqp:unauthorized-access"
DECODE_ERROR: Final = "amqp:decode-error"
RESOURCE_LIMIT_EXCEEDED: Final = "amqp:resource-limit-exceeded"
NOT_ALLOWED: Final = "amqp:not-allowed"
INVALID_FIELD: Final = "amqp:invalid-field"
NOT_IMPLEMENTED: Final = "amqp:not-implemented"
CONNECTION_FORCED: Final = "amqp:connection:forced"
FRAMING_ERROR: Final = "amqp:connection:framing-error"
DETACH_FORCED: Final = "amqp:link:detach-forced"
TRANSFER_LIMIT_EXCEEDED: Final = "amqp:link:transfer-limit-exceeded"
MESSAGE_SIZE_EXCEEDED: Final = "amqp:link:message-size-exceeded"
STOLEN: Final = "amqp:link:stolen"
REDIRECT: Final = "amqp:link:redirect"
ARGUMENT_ERROR: Final = "com.microsoft:argument-error"
ARGUMENT_OUT_OF_RANGE: Final = "com.microsoft:argument-out-of-range"
DEVICE_ALREADY_EXISTS: Final = "com.microsoft:device-already-exists"
CONTAINER_THROTTLED: Final = "com.microsoft:device-container-throttled"
HUB_SUSPENDED: Final = "com.microsoft:iot-hub-suspended"
HUB_NOT_FOUND: Final = "com.microsoft:iot-hub-not-found-error"
MESSAGE_LOCK_LOST: Final = "com.microsoft:message-lock-lost"
PRECONDITION_FAILED: Final = "com.microsoft:precondition-failed"
QUOTA_EXCEEDED: Final = "com.microsoft:quota-exceeded"
TIMEOUT: Final = "com.microsoft:timeout"

# The status, as HTTP has it, that says the same. Where conditions share one, the first is the answer to it.
_STATUS: Final = {
    ARGUMENT_ERROR: 400,
    ARGUMENT_OUT_OF_RANGE: 400,
    DECODE_ERROR: 400,
    INVALID_FIELD: 400,
    FRAMING_ERROR: 400,
    TRANSFER_LIMIT_EXCEEDED: 400,
    UNAUTHORIZED_ACCESS: 401,
    RESOURCE_LIMIT_EXCEEDED: 403,
    QUOTA_EXCEEDED: 403,
    HUB_SUSPENDED: 403,
    NOT_FOUND: 404,
    HUB_NOT_FOUND: 404,
    NOT_ALLOWED: 405,
    TIMEOUT: 408,
    DEVICE_ALREADY_EXISTS: 409,
    STOLEN: 409,
    PRECONDITION_FAILED: 412,
    MESSAGE_LOCK_LOST: 412,
    MESSAGE_SIZE_EXCEEDED: 413,
    CONTAINER_THROTTLED: 429,
    INTERNAL_ERROR: 500,
    NOT_IMPLEMENTED: 501,
    DETACH_FORCED: 503,
    CONNECTION_FORCED: 503,
}
_CONDITION: Final = {status: condition for condition, status in reversed(_STATUS.items())}
_LOCK_LOST_CODE: Final = 412002
_GATEWAY_TIMEOUT: Final = 504
_UNAVAILABLE: Final = 503


class Refusal(Struct, frozen=True):
    """Why something is refused: the condition, and a reason that names the thing and the value."""

    condition: str
    reason: str
    code: int = 0  # IoT Hub's number; 0: its general number for the condition

    @property
    def description(self) -> str:
        """The text that goes out beside the condition."""
        code = self.code or status_of(self.condition) * 1000
        return json.dumps({"errorCode": code, "message": self.reason})


def refusal_of(error: EdgeError) -> Refusal:
    """Return what a peer is told when its doing has led to this error."""
    if isinstance(error, IotHubError):
        if error.code == _LOCK_LOST_CODE:
            return Refusal(MESSAGE_LOCK_LOST, str(error), error.code)
        return Refusal(condition_of(error.status), str(error), error.code)
    if isinstance(error, AuthError):
        return Refusal(UNAUTHORIZED_ACCESS, str(error))
    if isinstance(error, StoreFull):
        return Refusal(CONTAINER_THROTTLED, str(error))
    if isinstance(error, RemoteProtocolError):
        return Refusal(DECODE_ERROR, str(error))
    if isinstance(error, ConfigError):
        return Refusal(ARGUMENT_ERROR, str(error))
    return Refusal(INTERNAL_ERROR, str(error))


def condition_of(status: int) -> str:
    """Return the condition for a status as HTTP has it; `INTERNAL_ERROR` where there is none."""
    if status in (_GATEWAY_TIMEOUT, _UNAVAILABLE):
        return TIMEOUT  # which SDKs take for something that passes
    return _CONDITION.get(status, INTERNAL_ERROR)


def status_of(condition: str) -> int:
    """Return the status, as HTTP has it, that says what a condition says; 500 for one that is not known."""
    return _STATUS.get(condition, 500)


def reason_in(description: str) -> tuple[int, str]:
    """Return IoT Hub's number (0: none) and the reason in the description of an error from the cloud.

    IoT Hub writes JSON into some descriptions and plain text into others.
    """
    try:
        content = json.loads(description)
    except (ValueError, RecursionError):
        return 0, description
    if not isinstance(content, dict):
        return 0, description
    code, reason = content.get("errorCode"), content.get("message")
    return (
        code if isinstance(code, int) and not isinstance(code, bool) else 0,
        reason if isinstance(reason, str) else description,
    )
