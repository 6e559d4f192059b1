"""The HTTP exchange without I/O: whole, in pieces, and with bytes that are no HTTP."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.net.http_exchange import HttpExchange
from runtime.net.http_messages import HttpRequest, Refusal, Response, error_response

POST = (
    b"POST /a%20b?c=d HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nx-one: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
)
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def exchange() -> HttpExchange:
    return HttpExchange(head_bytes=4096, body_bytes=100)


def asked(http: HttpExchange) -> HttpRequest:
    request = http.next_request()
    assert request is not None
    return request


def test_a_request_is_the_same_whole_and_byte_by_byte() -> None:
    whole, pieces = exchange(), exchange()
    whole.receive_data(POST)
    for at in range(len(POST)):
        assert pieces.next_request() is None
        pieces.receive_data(POST[at : at + 1])

    request = asked(whole)

    assert asked(pieces) == request
    assert (request.method, request.target, request.body) == ("POST", "/a%20b?c=d", b"abcdefg")
    assert [value for name, value in request.headers if name == "x-one"] == ["1", "2"]
    assert request.header("x-one") == "1"
    assert request.header("x-two") is None


def test_what_comes_behind_a_request_waits_for_its_reply() -> None:
    http = exchange()
    http.receive_data(GET + POST)

    asked(http)
    assert http.next_request() is None
    assert not http.is_idle
    http.answer(Response(204))
    assert http.start_next()

    assert asked(http).method == "POST"
    http.answer(Response(204))
    assert http.start_next()
    assert http.is_idle


def test_a_reply_has_length_and_type_and_the_headers_of_the_application() -> None:
    http = exchange()
    http.receive_data(GET)
    asked(http)

    reply = http.answer(Response(200, b"hi", (("Content-Type", "text/plain"), ("ETag", '"1"'))))

    assert reply == b'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: "1"\r\nContent-Length: 2\r\n\r\nhi'


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 101\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 5000, 431),
        (b"GET / HTTP/x\r\nHost: h\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
    ],
    ids=["body too large", "head too large", "version", "no HTTP"],
)
def test_a_bad_request_is_refused_with_its_status_and_the_connection_ends(data: bytes, status: int) -> None:
    http = exchange()
    http.receive_data(data)

    with pytest.raises(Refusal) as refused:
        http.next_request()

    assert refused.value.status == status
    assert http.has_unread
    assert b"Connection: close\r\n" in http.answer(error_response(status, "no"))
    assert not http.start_next()


@given(data=st.binary(min_size=1, max_size=300), rest=st.sampled_from([b"", GET, POST]))
def test_random_bytes_give_a_request_or_a_refusal(data: bytes, rest: bytes) -> None:
    http = exchange()
    http.receive_data(data + rest)

    reply = Response(200)
    try:
        if http.next_request() is None:
            return  # not complete yet
    except Refusal as refusal:
        reply = error_response(refusal.status, refusal.message)

    assert http.answer(reply).startswith(b"HTTP/1.1 %d " % reply.status)
