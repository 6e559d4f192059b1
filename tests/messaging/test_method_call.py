"""Direct method calls over HTTP: what may be asked for, and how answers read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import RemoteProtocolError
from messaging.method_call import LARGEST_PAYLOAD_BYTES, MethodCall, encode_result, parse_call


def body(**members: object) -> bytes:
    return json.dumps({"methodName": "start", **members}).encode()


@pytest.mark.parametrize(
    ("sent", "call"),
    [
        pytest.param(b'{"methodName":"m"}', MethodCall("m", b"", 30, 0), id="least"),
        pytest.param(
            b'{"methodName":"m","payload":{ },"responseTimeoutInSeconds":5,"connectTimeoutInSeconds":300}',
            MethodCall("m", b"{ }", 5, 300),
            id="all",
        ),
        pytest.param(
            b'{"methodName":"m","timeout":7,"payload":null}', MethodCall("m", b"null", 30, 0), id="C SDK"
        ),
        pytest.param(b'{"methodName":"m","payload":""}', MethodCall("m", b'""', 30, 0), id="Python SDK"),
        pytest.param(
            b'{"methodName":"%s"}' % (b"x" * 100), MethodCall("x" * 100, b"", 30, 0), id="longest name"
        ),
    ],
)
def test_what_sdks_send_is_read_and_the_payload_stays_as_it_came(sent: bytes, call: MethodCall) -> None:
    assert parse_call(sent) == call


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param(b"", "no method call", id="empty"),
        pytest.param(b"not json", "no method call", id="not JSON"),
        pytest.param(b"[1]", "no method call", id="no object"),
        pytest.param(b"[" * 100_000, "no method call", id="deep"),
        pytest.param(b"{}", "methodName is missing", id="no name"),
        pytest.param(body(methodName="  "), "methodName is missing", id="blank name"),
        pytest.param(body(methodName="x" * 101), "101 characters; the limit is 100", id="long name"),
        pytest.param(body(methodName="a/b"), "'a/b' has '/'", id="slash"),
        pytest.param(body(methodName=5), "no method call", id="number as name"),
        pytest.param(body(payload="x" * LARGEST_PAYLOAD_BYTES), "131074 bytes", id="large payload"),
        pytest.param(body(responseTimeoutInSeconds=4), "is 4; it may be 5 to 300", id="short"),
        pytest.param(body(responseTimeoutInSeconds=301), "is 301; it may be 5 to 300", id="long"),
        pytest.param(body(connectTimeoutInSeconds=-1), "is -1; it may be 0 to 300", id="negative"),
        pytest.param(body(connectTimeoutInSeconds=301), "is 301; it may be 0 to 300", id="long connect"),
    ],
)
def test_what_is_not_allowed_is_named(sent: bytes, reason: str) -> None:
    """Source: hub-protocols.md section 8.4, row 38."""
    with pytest.raises(RemoteProtocolError, match=reason.replace("(", r"\(")):
        parse_call(sent)


@pytest.mark.parametrize(
    ("payload", "read"),
    [(b"", None), (b" ", None), (b'{"a":1}', {"a": 1}), (b"text", "text"), (b"\xff", "\ufffd")],
)
def test_an_answer_is_json_whatever_the_client_sent(payload: bytes, read: object) -> None:
    """Source: hub-protocols.md section 8.4, row 42."""
    assert json.loads(encode_result(501, payload)) == {"status": 501, "payload": read}


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_body_makes_anything_but_a_call_or_a_reason(sent: bytes) -> None:
    try:
        call = parse_call(sent)
    except RemoteProtocolError:
        return
    assert call.name


@given(st.binary(max_size=200))
def test_no_payload_makes_an_answer_that_is_not_json(payload: bytes) -> None:
    assert json.loads(encode_result(200, payload))["status"] == 200
