"""WebSocket frames without a network: whatever comes, in whatever pieces, becomes bytes or an end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from actors.heads.admission import Admission
from runtime.net.http_messages import HttpRequest
from runtime.net.tcp_listener import Visit
from runtime.net.web_listener import MQTT
from runtime.net.web_socket import WebSocket, accept
from tests.runtime.web_client import WEBSOCKET, EchoHandler, Heard

UPGRADE = HttpRequest(
    "GET",
    WEBSOCKET,
    (
        ("host", "localhost"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "mqtt"),
    ),
    b"",
)


class MemoryTransport:
    """As much of `asyncio.Transport` as a WebSocket uses."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


def heard_of(pieces: Sequence[bytes]) -> tuple[Heard, MemoryTransport]:
    """Return what a handler hears of a peer that sends these pieces after its upgrade, and then goes."""

    async def main() -> tuple[Heard, MemoryTransport]:
        transport = MemoryTransport()
        handler = EchoHandler(echo=False)
        _, connection, reply = accept(UPGRADE, (MQTT,), {})
        assert reply.startswith(b"HTTP/1.1 101 ")
        admission = Admission()
        admission.enter("127.0.0.1")
        web_socket = WebSocket(
            connection, cast(asyncio.Transport, transport), Visit(admission, "127.0.0.1", 1)
        )
        web_socket.opened(handler, b"")
        for piece in pieces:
            web_socket.received(piece)
            await asyncio.sleep(0)
        web_socket.lost("connection lost")
        return handler.clients[0], transport

    return asyncio.run(main())


def split_at(data: bytes, places: Sequence[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[first:last] for first, last in pairwise(marks)]


@st.composite
def frames(draw: Any) -> tuple[bytes, bytes]:
    """Return payload and frames of messages, fragmented, masked and with pings in between."""
    payload, sent = b"", b""
    for message in draw(st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=3), max_size=4)):
        for number, part in enumerate(message):
            mask = draw(st.binary(min_size=4, max_size=4))
            opcode = 0 if number else 2
            final = 0x80 if number == len(message) - 1 else 0
            size = bytes([0x80 | len(part)]) if len(part) < 126 else b"\xfe" + len(part).to_bytes(2, "big")
            masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(part))
            sent += bytes([final | opcode]) + size + mask + masked
            payload += part
            if draw(st.booleans()):
                sent += b"\x89\x80" + mask  # an empty ping
    return payload, sent


@given(made=frames(), places=st.lists(st.integers(0, 2000), max_size=20))
def test_payload_arrives_whole_and_in_order_however_it_is_cut(
    made: tuple[bytes, bytes], places: list[int]
) -> None:
    payload, sent = made

    heard, transport = heard_of(split_at(sent, places))

    assert bytes(heard.data) == payload
    assert heard.gone == "connection lost"
    assert not transport.closed


@given(data=st.binary(max_size=400), places=st.lists(st.integers(0, 400), max_size=10))
def test_random_bytes_end_in_data_or_a_closed_connection(data: bytes, places: list[int]) -> None:
    heard, transport = heard_of(split_at(data, places))

    assert len(heard.data) <= len(data)
    assert heard.gone == "connection lost" or "WebSocket error" in str(heard.gone)
    if "WebSocket error" in str(heard.gone):
        assert transport.closed
