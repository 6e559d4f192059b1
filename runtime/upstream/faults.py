"""What an error of the network, of TLS or of the cloud means, and what a user can do about it.

Pure: errors and numbers in, `CloudFault` out. No reason holds a key, a token or a body.

Source: spec sheet hub-protocols.md sections 1.2, 1.12, 3.2, 3.5 and 7.2; the verify codes of OpenSSL's
x509_vfy.h
"""

from __future__ import annotations

import json
import socket
import ssl
from typing import Final

from actors.upstream.connection import CloudFault, Fault
from messaging.amqp import conditions
from messaging.errors import AuthError, EdgeError, RemoteProtocolError

_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME: Final = (62, 64)  # host name, IP address


def of_connecting(error: BaseException, host_name: str, port: int) -> CloudFault:
    """Return why no TLS connection came about."""
    place = f"'{host_name}:{port}'"
    if isinstance(error, AuthError):
        return CloudFault(Fault.UNAUTHORIZED, str(error))
    if isinstance(error, RemoteProtocolError):
        return CloudFault(Fault.REFUSED, str(error), 400)
    if isinstance(error, EdgeError):
        return CloudFault(Fault.UNTRUSTED, str(error))
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(error, place)
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        detail = getattr(error, "reason", None) or error  # only those of OpenSSL itself have one
        reason = f"{place} does not speak TLS as expected ({detail}); is it an IoT Hub?"
        return CloudFault(Fault.UNTRUSTED, reason)
    if isinstance(error, socket.gaierror):
        reason = (
            f"the host name '{host_name}' cannot be resolved ({error.strerror}); check the name and the DNS"
        )
    elif isinstance(error, ConnectionRefusedError):
        reason = f"nothing listens at {place} (connection refused)"
    elif isinstance(error, TimeoutError):
        reason = f"{place} does not answer; check that a firewall lets TCP port {port} out"
    elif isinstance(error, ssl.SSLError | ConnectionError):
        reason = f"{place} closed the connection during the TLS handshake"
    elif isinstance(error, OSError):
        reason = f"{place} cannot be reached: {error.strerror or type(error).__name__}"
    else:
        reason = f"{place} cannot be reached: {type(error).__name__}"
    return CloudFault(Fault.UNREACHABLE, reason)


def _of_certificate(error: ssl.SSLCertVerificationError, place: str) -> CloudFault:
    what = f"the certificate of {place}"
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        when = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        reason = f"{what} {when}; check the clock of this machine, else the certificate has to be renewed"
        return CloudFault(Fault.CLOCK, reason)
    if error.verify_code in _OTHER_NAME:
        reason = f"{what} is for another name; use a host name that stands in it"
    else:
        reason = (
            f"{what} is not trusted ({error.verify_message}); if the cloud has a CA of its own, as the "
            "stand-in has, name its ca.pem with the setting cloud.ca"
        )
    return CloudFault(Fault.UNTRUSTED, reason)


def of_connack(error: BaseException, identity: str, host_name: str) -> CloudFault:
    """Return what a refused CONNECT means; `error` is the SDK's for the return code."""
    kind = type(error).__name__
    if kind == "UnauthorizedError":  # 4 and 5; MQTT does not say which of these it is
        return not_let_in(identity, host_name)
    if kind == "ConnectionFailedError":  # 3
        reason = f"'{host_name}' does not take connections at the moment (CONNACK 3)"
        return CloudFault(Fault.THROTTLED, reason, 503)
    return CloudFault(Fault.REFUSED, f"'{host_name}' does not accept MQTT 3.1.1: {error}", 400)


def not_let_in(identity: str, host_name: str) -> CloudFault:
    """Return what it means that a token was refused: the cloud does not say for which reason."""
    reason = (
        f"'{host_name}' does not let '{identity}' in: its key is wrong, or it is disabled, or it does "
        "not exist; look it up in the IoT Hub and compare the keys"
    )
    return CloudFault(Fault.UNAUTHORIZED, reason, 401)


def clock_differs(identity: str, host_name: str, behind_s: float) -> CloudFault:
    """Return why a token with a right key was refused: this machine is `behind_s` behind the cloud."""
    hours = abs(behind_s) / 3600
    size = f"{hours:.1f} hours" if hours >= 1 else f"{abs(behind_s) / 60:.0f} minutes"
    side = "behind" if behind_s > 0 else "ahead of"
    reason = (
        f"'{host_name}' does not let '{identity}' in: the clock of this machine is {size} {side} the "
        "cloud's; set it"
    )
    return CloudFault(Fault.CLOCK, reason, 401)


def dropped(host_name: str, cause: BaseException | None) -> CloudFault:
    """Return what it means that a connection ended which stood."""
    detail = f" ({cause})" if cause is not None and str(cause) else ""
    return CloudFault(Fault.UNREACHABLE, f"the connection to '{host_name}' was lost{detail}")


def silent(host_name: str, limit_s: float) -> CloudFault:
    """Return what it means that an open connection does not answer."""
    reason = f"'{host_name}' has not answered for {limit_s:.0f} s; the connection is given up"
    return CloudFault(Fault.UNREACHABLE, reason)


def not_connected(host_name: str) -> CloudFault:
    """Return why nothing can be sent."""
    return CloudFault(Fault.UNREACHABLE, f"there is no connection to '{host_name}'")


def too_large(size_bytes: int, most_bytes: int, what: str = "a message of") -> CloudFault:
    """Return why something is not even tried."""
    reason = f"{what} {size_bytes} bytes is too large; at most {most_bytes} are allowed"
    return CloudFault(Fault.TOO_LARGE, reason, 413)


def no_answer(request: str, limit_s: float) -> CloudFault:
    """Return that a twin request was not answered in time."""
    return CloudFault(Fault.TIMEOUT, f"{request}: the cloud did not answer within {limit_s:.0f} s", 504)


def of_close(host_name: str, condition: str, description: str) -> CloudFault:
    """Return what it means that the cloud has ended an AMQP connection; "" for what it did not say."""
    detail = f" ({_said(condition, description)})" if condition else ""
    return CloudFault(Fault.UNREACHABLE, f"'{host_name}' has closed the connection{detail}")


def of_token(status: int, identity: str, host_name: str, description: str) -> CloudFault:
    """Return why a token was not taken over AMQP; `status` is as HTTP has it."""
    if status in _NOT_LET_IN:
        return not_let_in(identity, host_name)
    return of_status(status, f"'{host_name}' was shown the token of '{identity}'", description.encode())


def of_detach(identity: str, host_name: str, condition: str, description: str) -> CloudFault:
    """Return what it means that the cloud has ended a link over AMQP, or does not attach it."""
    if condition in _PASSING:
        detail = f" ({_said(condition, description)})" if condition else ""
        return CloudFault(Fault.UNREACHABLE, f"'{host_name}' has ended the link of '{identity}'{detail}")
    status = conditions.status_of(condition)
    if status in _NOT_LET_IN:
        return not_let_in(identity, host_name)
    kind = _KINDS.get(status, Fault.THROTTLED if status >= 500 else Fault.REFUSED)
    said = _said(condition, description)
    return CloudFault(kind, f"the link of '{identity}' was ended: {_MEANINGS[kind]} ({said})", status)


def of_rejection(identity: str, host_name: str, condition: str, description: str) -> CloudFault:
    """Return why the cloud did not take a message over AMQP."""
    status = conditions.status_of(condition)
    if status in (401, 404):
        return not_let_in(identity, host_name)
    kind = _KINDS.get(status, Fault.THROTTLED if status >= 500 else Fault.REFUSED)
    said = _said(condition, description)
    return CloudFault(kind, f"a message of '{identity}' was not taken: {_MEANINGS[kind]} ({said})", status)


def not_taken(identity: str, host_name: str) -> CloudFault:
    """Return what it means that the cloud gave a message back over AMQP, without a reason."""
    return CloudFault(Fault.THROTTLED, f"'{host_name}' gave a message of '{identity}' back", 503)


def _said(condition: str, description: str) -> str:
    code, _ = conditions.reason_in(description)
    return f"{condition}, error {code}" if code else condition


_NOT_LET_IN: Final = (400, 401, 404, 405)
# The link may be attached again: it is another connection of this identity that ended it, or a restart.
_PASSING: Final = (
    "",
    conditions.DETACH_FORCED,
    conditions.CONNECTION_FORCED,
    conditions.STOLEN,
    conditions.INTERNAL_ERROR,
)

_KINDS: Final = {
    401: Fault.UNAUTHORIZED,
    403: Fault.QUOTA,
    408: Fault.TIMEOUT,
    413: Fault.TOO_LARGE,
    429: Fault.THROTTLED,
    504: Fault.TIMEOUT,
}
_MEANINGS: Final = {
    Fault.UNAUTHORIZED: "the identity may not do this, or not any more",
    Fault.QUOTA: "the IoT Hub's messages of the day are used up; more at midnight UTC, or with more units",
    Fault.TOO_LARGE: "it is too large",
    Fault.THROTTLED: "the IoT Hub is asked too often or is busy; it is tried again later",
    Fault.TIMEOUT: "the IoT Hub was not in time",
    Fault.REFUSED: "the IoT Hub refuses it",
}


def of_status(status: int, request: str, body: bytes) -> CloudFault:
    """Return what the status of a twin request means.

    Args:
        status: As HTTP has it, 300 or more.
        request: What was asked, for the reason.
        body: The answer; of it IoT Hub's error number is shown, if there is one.
    """
    kind = _KINDS.get(status, Fault.THROTTLED if status >= 500 else Fault.REFUSED)
    code = _error_code(body)
    number = f"{status}, error {code}" if code else str(status)
    return CloudFault(kind, f"{request}: {_MEANINGS[kind]} ({number})", status)


def _error_code(body: bytes) -> int:
    try:
        answer = json.loads(body)
    except ValueError:
        return 0
    code = answer.get("errorCode") if isinstance(answer, dict) else None
    return code if isinstance(code, int) else 0
