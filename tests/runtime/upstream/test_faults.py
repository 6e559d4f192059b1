"""What errors and numbers of the cloud mean."""

from __future__ import annotations

import socket
import ssl

import pytest

from actors.upstream.connection import Fault
from messaging.errors import AuthError
from runtime.upstream import faults

HOST = "hub.example"


class UnauthorizedError(Exception):
    """As the SDK calls it for CONNACK 4 and 5."""


class ConnectionFailedError(Exception):
    """As the SDK calls it for CONNACK 3."""


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), Fault.UNREACHABLE, "cannot be resolved"),
        (ConnectionRefusedError(111, "refused"), Fault.UNREACHABLE, "nothing listens at 'hub.example:8883'"),
        (TimeoutError("timed out"), Fault.UNREACHABLE, "firewall lets TCP port 8883 out"),
        (OSError(101, "Network is unreachable"), Fault.UNREACHABLE, "Network is unreachable"),
        (ConnectionResetError(104, "reset"), Fault.UNREACHABLE, "closed the connection"),
        (ssl.SSLEOFError(8, "EOF"), Fault.UNREACHABLE, "closed the connection"),
        (ssl.SSLError(1, "wrong version number"), Fault.UNTRUSTED, "does not speak TLS"),
        (AuthError("a shared access key is empty"), Fault.UNAUTHORIZED, "key is empty"),
        (ValueError("x"), Fault.UNREACHABLE, "ValueError"),
    ],
)
def test_why_no_connection_came_about(error: Exception, kind: Fault, words: str) -> None:
    fault = faults.of_connecting(error, HOST, 8883)

    assert fault.kind is kind
    assert words in fault.reason


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (UnauthorizedError("refused"), Fault.UNAUTHORIZED, 401),
        (ConnectionFailedError("refused"), Fault.THROTTLED, 503),
        (Exception("protocol"), Fault.REFUSED, 400),
    ],
)
def test_what_a_refused_connect_means(error: Exception, kind: Fault, status: int) -> None:
    fault = faults.of_connack(error, "d1", HOST)

    assert (fault.kind, fault.status) == (kind, status)
    assert HOST in fault.reason


def test_the_errors_of_the_sdk_are_called_what_they_are_told_apart_by() -> None:
    from azure.iot.device.common import mqtt_transport

    names = {code: error.__name__ for code, error in mqtt_transport.paho_connack_rc_to_error.items()}

    assert names == {
        1: "ProtocolClientError",
        2: "ProtocolClientError",
        3: ConnectionFailedError.__name__,
        4: UnauthorizedError.__name__,
        5: UnauthorizedError.__name__,
    }


@pytest.mark.parametrize(
    ("status", "body", "kind", "number"),
    [
        (400, b'{"errorCode":400004,"message":"secret"}', Fault.REFUSED, "(400, error 400004)"),
        (401, b"", Fault.UNAUTHORIZED, "(401)"),
        (403, b'{"errorCode":403002}', Fault.QUOTA, "(403, error 403002)"),
        (404, b"not JSON", Fault.REFUSED, "(404)"),
        (413, b"[]", Fault.TOO_LARGE, "(413)"),
        (429, b'{"errorCode":"429001"}', Fault.THROTTLED, "(429)"),
        (500, b"", Fault.THROTTLED, "(500)"),
        (503, b"", Fault.THROTTLED, "(503)"),
        (504, b"", Fault.TIMEOUT, "(504)"),
    ],
)
def test_what_the_status_of_a_twin_request_means(status: int, body: bytes, kind: Fault, number: str) -> None:
    fault = faults.of_status(status, "the twin was asked for", body)

    assert (fault.kind, fault.status) == (kind, status)
    assert fault.reason.endswith(number)
    assert "secret" not in fault.reason


@pytest.mark.parametrize(
    ("behind_s", "words"),
    [(86_400, "24.0 hours behind"), (-7200, "2.0 hours ahead of"), (600, "10 minutes behind")],
)
def test_a_wrong_clock_is_named_with_how_wrong_it_is(behind_s: float, words: str) -> None:
    fault = faults.clock_differs("d1", HOST, behind_s)

    assert fault.kind is Fault.CLOCK
    assert f"the clock of this machine is {words} the cloud's; set it" in fault.reason
