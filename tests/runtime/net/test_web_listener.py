"""The web front over real TLS connections: requests and replies, upgrades, WebSocket frames, their limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, RejectConnection
from wsproto.frame_protocol import CloseReason

from runtime.net.http_messages import Refusal, Response
from runtime.net.web_listener import WebLimits, WebRequest
from runtime.net.web_socket import FRAMES_AT_ONCE
from runtime.security.certificates import EdgeCa, ensure_edge_ca
from tests.runtime.client_certificates import make_client
from tests.runtime.web_client import LIMIT_S, EchoHandler, Front, WebSocketClient, web_front

NOW_S = 1_790_000_000.0
GET = b"GET /x?y=1 HTTP/1.1\r\nHost: h\r\n\r\n"
LAST_GET = b"GET /x?y=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

Scene = Callable[[Front], Coroutine[Any, Any, None]]


@pytest.fixture
def ca(tmp_path: Path) -> EdgeCa:
    return ensure_edge_ca(tmp_path / "certificates", "edge1", NOW_S)


@pytest.fixture
def play(tmp_path: Path, ca: EdgeCa) -> Callable[..., None]:
    """Run a scene on uvloop, as the hub does, with a front that serves."""

    def run(scene: Scene, **settings: Any) -> None:
        async def main() -> None:
            for name in ("handler", "amqp_handler"):
                if f"make_{name}" in settings:
                    settings[name] = settings.pop(f"make_{name}")()
            async with web_front(tmp_path, ca, NOW_S, **settings) as front:
                await scene(front)

        uvloop.run(main())

    return run


Play = Callable[..., None]


def _body(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


# HTTP


def test_request_reaches_the_application_whole(play: Play) -> None:
    async def scene(front: Front) -> None:
        answer = await front.ask(
            b"POST /twins/d%201/methods?api-version=1 HTTP/1.1\r\nHost: h\r\nAuthorization: a\r\n"
            b"Authorization: b\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
        )

        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        asked = _body(answer)
        assert asked["method"] == "POST"
        assert asked["target"] == "/twins/d%201/methods?api-version=1"
        assert asked["body"] == "hello"
        assert [value for name, value in asked["headers"] if name == "authorization"] == ["a", "b"]

    play(scene)


def test_connection_serves_one_request_after_the_other(play: Play) -> None:
    async def scene(front: Front) -> None:
        answers = await front.ask(GET + GET + LAST_GET)

        assert answers.count(b"HTTP/1.1 200 OK") == 3

    play(scene)


def test_next_request_waits_for_the_reply_to_the_one_before(play: Play) -> None:
    under_way: list[str] = []
    most = 0

    async def handle(request: WebRequest) -> Response:
        nonlocal most
        under_way.append(request.target)
        most = max(most, len(under_way))
        await asyncio.sleep(0)
        under_way.remove(request.target)
        return Response(200, request.target.encode())

    async def scene(front: Front) -> None:
        requests = b"".join(GET.replace(b"/x?y=1", b"/%d" % n) for n in range(20))
        answers = await front.ask(requests + LAST_GET)

        assert [answers.count(b"/%d" % n) > 0 for n in range(20)] == [True] * 20
        assert most == 1

    play(scene, handle=handle)


def test_client_that_waits_before_it_sends_its_body_is_told_to_go_on(play: Play) -> None:
    async def scene(front: Front) -> None:
        reader, writer = await front.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 100 \r\n"
        writer.write(b"ab")
        await reader.readline()
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        writer.close()

    play(scene)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"HEAD /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 200),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x10\x20\x00\x04MQTT\x04\x02\x00\x3c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 40_000, 431),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000\r\n\r\nab", 413),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"10000\r\n%s\r\n" % (b"x" * 65_536) * 17,
            413,
        ),
    ],
    ids=[
        "HEAD",
        "HTTP/1.0",
        "CONNECT",
        "no host",
        "MQTT without WebSocket",
        "length no number",
        "two lengths",
        "unknown encoding",
        "head too large",
        "body too large",
        "chunks too large",
    ],
)
def test_odd_request_gets_its_status_and_the_front_lives(
    play: Play, request_bytes: bytes, status: int
) -> None:
    async def scene(front: Front) -> None:
        answer = await front.ask(request_bytes)

        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert (await front.ask(LAST_GET)).startswith(b"HTTP/1.1 200 OK")

    play(scene, limits=WebLimits(discard_s=0.05))


def test_fault_of_the_application_is_answered_with_500_and_no_detail(play: Play) -> None:
    async def handle(request: WebRequest) -> Response:
        raise RuntimeError("secret")

    async def scene(front: Front) -> None:
        answer = await front.ask(LAST_GET)

        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"secret" not in answer

    play(scene, handle=handle)


def test_refusal_of_the_application_is_answered_with_its_status_and_message(play: Play) -> None:
    async def handle(request: WebRequest) -> Response:
        raise Refusal(404, "device 'd1' is not connected")

    async def scene(front: Front) -> None:
        answer = await front.ask(LAST_GET)

        assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
        assert _body(answer) == {"message": "device 'd1' is not connected"}

    play(scene, handle=handle)


def test_reply_without_body_has_no_length_and_the_connection_lives_on(play: Play) -> None:
    async def handle(request: WebRequest) -> Response:
        return Response(204, headers=(("ETag", '"5"'),))

    async def scene(front: Front) -> None:
        answers = await front.ask(GET + LAST_GET)

        assert answers.count(b'HTTP/1.1 204 No Content\r\nETag: "5"\r\n') == 2
        assert b"Content-" not in answers

    play(scene, handle=handle)


def test_request_that_comes_too_slowly_is_answered_with_408(play: Play) -> None:
    async def scene(front: Front) -> None:
        answer = await front.ask(b"GET / HT")

        assert answer.startswith(b"HTTP/1.1 408 ")

    play(scene, limits=WebLimits(read_s=0.05, discard_s=0.05))


def test_connection_that_asks_nothing_is_closed(play: Play) -> None:
    async def scene(front: Front) -> None:
        assert await front.ask(b"") == b""

    play(scene, limits=WebLimits(silent_s=0.05))


def test_request_is_given_up_when_its_client_is_gone(play: Play) -> None:
    begun = asyncio.Event()
    given_up = asyncio.Event()

    async def handle(request: WebRequest) -> Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        raise AssertionError

    async def scene(front: Front) -> None:
        _, writer = await front.connect()
        writer.write(GET)
        async with asyncio.timeout(LIMIT_S):
            await begun.wait()
            writer.transport.abort()
            await given_up.wait()

    play(scene, handle=handle)


def test_closed_front_ends_connections_that_ask_and_leaves_the_upgraded_to_their_handler(play: Play) -> None:
    async def scene(front: Front) -> None:
        upgraded = await front.web_socket()
        reader, writer = await front.connect()
        writer.write(GET)
        await reader.readuntil(b'"certificates":0}')  # served, and waits for the next request

        front.listener.close()

        async with asyncio.timeout(LIMIT_S):
            assert await reader.read() == b""
        upgraded.send(BytesMessage(b"still here"))
        assert await upgraded.data(10) == b"still here"
        upgraded.writer.close()

    play(scene)


def test_application_sees_the_certificate_of_the_client(play: Play, tmp_path: Path) -> None:
    shown = make_client(tmp_path, "d1")
    seen: list[tuple[bytes, ...]] = []

    async def handle(request: WebRequest) -> Response:
        seen.append(request.certificates)
        return Response(204)

    async def scene(front: Front) -> None:
        await front.ask(LAST_GET)
        front.client_context.load_cert_chain(shown.certificate_file, shown.key_file)
        await front.ask(LAST_GET)

        assert seen == [(), shown.ders]

    play(scene, handle=handle)


# the upgrade


@pytest.mark.parametrize(
    ("target", "offered", "status"),
    [
        ("/$iothub/websocket", ["mqtt"], 101),
        ("/$iothub/websocket?iothub-no-client-cert=true", ["mqtt"], 101),
        ("/%24iothub/websocket", ["mqtt"], 101),
        ("/$iothub/websocket", ["AMQPWSB10", "mqtt"], 101),
        ("/$iothub/websocket", ["foo"], 400),
        ("/$iothub/websocket", ["AMQPWSB10"], 400),
        ("/$iothub/websocket", [], 400),
        ("/$iothub/websockets", ["mqtt"], 404),
        ("/", ["mqtt"], 404),
    ],
    ids=["path", "query", "encoded", "one of two", "unknown", "AMQP", "none offered", "other path", "root"],
)
def test_upgrade_is_for_mqtt_on_one_path(play: Play, target: str, offered: list[str], status: int) -> None:
    """Source: hub-protocols.md section 8.4, row 68; only MQTT has a handler."""

    async def scene(front: Front) -> None:
        client = WebSocketClient(*await front.connect())

        answer = await client.open(target, offered)

        if status == 101:
            assert isinstance(answer, AcceptConnection)
            assert answer.subprotocol == "mqtt"
        else:
            assert isinstance(answer, RejectConnection)
            assert answer.status_code == status
            assert front.handler.clients == []
        client.writer.close()

    play(scene)


@pytest.mark.parametrize(
    ("offered", "spoken"),
    [
        (["mqtt"], "mqtt"),
        (["AMQPWSB10"], "AMQPWSB10"),
        (["foo", "AMQPWSB10", "mqtt"], "AMQPWSB10"),
        (["foo"], None),
    ],
    ids=["MQTT", "AMQP", "the first that is spoken", "unknown"],
)
def test_each_subprotocol_has_its_own_handler(play: Play, offered: list[str], spoken: str | None) -> None:
    """Source: hub-protocols.md section 8.4, row 68"""
    amqp: list[EchoHandler] = []

    async def scene(front: Front) -> None:
        client = WebSocketClient(*await front.connect())

        answer = await client.open(subprotocols=offered)

        if spoken is None:
            assert isinstance(answer, RejectConnection)
            assert answer.status_code == 400
        else:
            assert isinstance(answer, AcceptConnection)
            assert answer.subprotocol == spoken
        assert len(front.handler.clients) == (spoken == "mqtt")
        assert len(amqp[0].clients) == (spoken == "AMQPWSB10")
        client.writer.close()

    def make_amqp() -> EchoHandler:
        amqp.append(EchoHandler())
        return amqp[0]

    play(scene, make_amqp_handler=make_amqp)


def test_a_subprotocol_that_is_switched_off_is_refused_and_the_other_is_not(play: Play) -> None:
    async def scene(front: Front) -> None:
        refused, taken = WebSocketClient(*await front.connect()), WebSocketClient(*await front.connect())

        answers = [await refused.open(subprotocols=["mqtt"]), await taken.open(subprotocols=["AMQPWSB10"])]

        assert [type(answer) for answer in answers] == [RejectConnection, AcceptConnection]
        assert answers[0].status_code == 404  # type: ignore[union-attr]
        refused.writer.close()
        taken.writer.close()

    play(scene, make_amqp_handler=EchoHandler, switched_off={"mqtt": "MQTT is off"})


def test_who_comes_while_a_head_starts_again_waits_and_is_served_then(play: Play) -> None:
    async def scene(front: Front) -> None:
        part = front.listener.part("AMQPWSB10")
        part.close()
        asking = asyncio.ensure_future(front.ask(LAST_GET))
        await asyncio.sleep(0)
        assert not asking.done()

        part.open(EchoHandler())

        assert (await asking).startswith(b"HTTP/1.1 200 ")

    play(scene, make_amqp_handler=EchoHandler)


def _upgrade(**changed: str | None) -> bytes:
    """Return an upgrade request with headers changed, or left out."""
    headers: dict[str, str | None] = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "mqtt",
    }
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return f"GET /$iothub/websocket HTTP/1.1\r\n{''.join(lines)}\r\n".encode()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (_upgrade(Sec_WebSocket_Protocol="MQTT"), 101),
        (_upgrade(Connection="keep-alive, upgrade", Upgrade="WebSocket"), 101),
        (_upgrade(Sec_WebSocket_Key=None), 400),
        (_upgrade(Sec_WebSocket_Version=None), 400),
        (_upgrade(Sec_WebSocket_Version="12"), 426),
        (_upgrade(Connection="keep-alive"), 400),
        (_upgrade(Sec_WebSocket_Protocol=None), 400),
        (_upgrade(Host="\udcff.".encode("utf-8", "surrogateescape").decode("latin-1")), 400),
        (_upgrade().replace(b"GET", b"POST"), 400),
    ],
    ids=[
        "upper case, as the C SDK",
        "token in a list",
        "no key",
        "no version",
        "other version",
        "no Connection",
        "no subprotocol",
        "host no name",
        "POST",
    ],
)
def test_upgrade_has_to_be_complete(play: Play, request_bytes: bytes, status: int) -> None:
    async def scene(front: Front) -> None:
        reader, writer = await front.connect()
        writer.write(request_bytes)
        async with asyncio.timeout(LIMIT_S):
            head = await reader.readuntil(b"\r\n\r\n")

        assert head.startswith(b"HTTP/1.1 %d " % status)
        if status == 101:  # the key and the answer to it are the example of RFC 6455 section 1.3
            assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n" in head.lower()
            assert b"sec-websocket-protocol: mqtt\r\n" in head.lower().replace(b"MQTT", b"mqtt")
        writer.close()

    play(scene)


# frames


def test_packets_may_span_and_share_frames(play: Play) -> None:
    async def scene(front: Front) -> None:
        client = await front.web_socket()
        large = bytes(range(256)) * 1024

        client.send(
            BytesMessage(b"one"),
            BytesMessage(b"tw", message_finished=False),
            Ping(b"in between"),
            BytesMessage(b"o", message_finished=True),
            BytesMessage(b""),
            BytesMessage(large),
        )

        events = [await client.event()]
        while not isinstance(events[-1], Pong):
            events.append(await client.event())
        assert events[-1] == Pong(b"in between")
        early = b"".join(bytes(event.data) for event in events if isinstance(event, BytesMessage))
        rest = await client.data(len(large) + 6 - len(early))
        assert early + rest == b"onetwo" + large
        client.writer.close()

    play(scene)


def test_frames_may_come_byte_by_byte(play: Play) -> None:
    async def scene(front: Front) -> None:
        client = await front.web_socket()
        data = client.connection.send(BytesMessage(b"hello")) + client.connection.send(
            BytesMessage(b"x" * 300)
        )

        for at in range(len(data)):
            client.send_bytes(data[at : at + 1])
            await client.writer.drain()

        assert await client.data(305) == b"hello" + b"x" * 300
        client.writer.close()

    play(scene)


def test_bytes_that_come_together_with_the_upgrade_are_not_lost(play: Play) -> None:
    async def scene(front: Front) -> None:
        client = await front.web_socket()
        frame = client.connection.send(BytesMessage(b"early"))
        _, writer = await front.connect()
        writer.write(_upgrade() + frame)

        await front.handler.until(lambda: len(front.handler.clients) == 2)
        await front.handler.until(lambda: front.handler.clients[1].data == b"early")
        writer.close()
        client.writer.close()

    play(scene)


def test_data_before_the_close_frame_is_heard_and_the_goodbye_is_answered(play: Play) -> None:
    async def scene(front: Front) -> None:
        client = await front.web_socket()

        client.send(BytesMessage(b"last words"), CloseConnection(CloseReason.NORMAL_CLOSURE))

        assert await client.goodbye() == CloseReason.NORMAL_CLOSURE
        await front.handler.until(lambda: front.handler.clients[0].gone is not None)
        assert front.handler.clients[0].data == b"last words"

    play(scene)


def test_server_says_goodbye_after_what_it_has_written(play: Play) -> None:
    async def scene(front: Front) -> None:
        client = await front.web_socket()
        transport = front.handler.clients[0].transport

        transport.write(b"refused")
        transport.close()
        transport.write(b"too late")

        assert await client.data(7) == b"refused"
        assert await client.goodbye() == CloseReason.NORMAL_CLOSURE
        await front.handler.until(lambda: front.handler.clients[0].gone is not None)

    play(scene)


def test_connection_that_was_held_is_closed_in_order_too(play: Play) -> None:
    async def scene(front: Front) -> None:
        client = await front.web_socket()
        transport = front.handler.clients[0].transport

        transport.pause_reading()
        transport.close()

        assert await client.goodbye() == CloseReason.NORMAL_CLOSURE
        await front.handler.until(lambda: front.handler.clients[0].gone is not None)

    play(scene)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x82\x00\x00\x00\x00hi", CloseReason.UNSUPPORTED_DATA),
        (b"\x82\x02hi", CloseReason.PROTOCOL_ERROR),
        (b"\x83\x80\x00\x00\x00\x00", CloseReason.PROTOCOL_ERROR),
        (b"\xc2\x80\x00\x00\x00\x00", CloseReason.PROTOCOL_ERROR),
        (b"\x89\xfe\x00\x7e\x00\x00\x00\x00", CloseReason.PROTOCOL_ERROR),
        (b"\x80\x80\x00\x00\x00\x00", CloseReason.PROTOCOL_ERROR),
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff", CloseReason.PROTOCOL_ERROR),
        (b"\x81\x81\x00\x00\x00\x00\xff", CloseReason.INVALID_FRAME_PAYLOAD_DATA),
        (b"\x88\x81\x00\x00\x00\x00a", CloseReason.PROTOCOL_ERROR),
    ],
    ids=[
        "text",
        "not masked",
        "reserved opcode",
        "reserved bit",
        "large ping",
        "continuation of nothing",
        "63-bit length exceeded",
        "text that is no UTF-8",
        "close frame of one byte",
    ],
)
def test_peer_that_breaks_the_rules_is_told_why_and_nobody_else_notices(
    play: Play, data: bytes, code: CloseReason
) -> None:
    async def scene(front: Front) -> None:
        innocent = await front.web_socket()
        offender = await front.web_socket()

        offender.send_bytes(data)

        assert await offender.goodbye() == code
        await front.handler.until(lambda: front.handler.clients[1].gone is not None)
        assert "WebSocket error" in str(front.handler.clients[1].gone)
        innocent.send(BytesMessage(b"still here"))
        assert await innocent.data(10) == b"still here"
        innocent.writer.close()

    play(scene)


def test_fault_of_the_handler_ends_only_the_connection_that_met_it(play: Play) -> None:
    async def scene(front: Front) -> None:
        innocent = await front.web_socket()
        offender = await front.web_socket()
        front.handler.fails_on = b"bad"

        offender.send(BytesMessage(b"bad"))

        assert await offender.goodbye() == CloseReason.NORMAL_CLOSURE
        innocent.send(BytesMessage(b"still here"))
        assert await innocent.data(10) == b"still here"
        innocent.writer.close()

    play(scene)


def test_many_frames_of_one_client_are_taken_in_slices_in_order(play: Play) -> None:
    async def scene(front: Front) -> None:
        client = await front.web_socket()
        count = 5 * FRAMES_AT_ONCE + 3
        client.send(*(BytesMessage(b"%05d" % number) for number in range(count)))

        expected = b"".join(b"%05d" % number for number in range(count))
        assert await client.data(len(expected)) == expected
        assert max(front.handler.clients[0].calls) <= FRAMES_AT_ONCE * 5
        client.writer.close()

    play(scene)


def test_handler_that_wants_no_more_is_left_alone_until_it_does(play: Play) -> None:
    async def scene(front: Front) -> None:
        client = await front.web_socket()
        heard = front.handler.clients[0]
        heard.transport.pause_reading()
        written = 0
        while client.writer.transport.get_write_buffer_size() == 0:  # until the sockets between us are full
            client.send(BytesMessage(bytes(65_536)))
            written += 65_536
            await asyncio.sleep(0)
        before = len(heard.data)

        heard.transport.resume_reading()
        await front.handler.until(lambda: len(heard.data) == written)

        assert before < written
        client.writer.close()

    play(scene, make_handler=lambda: EchoHandler(echo=False))


def test_handler_is_told_of_a_peer_that_does_not_read(play: Play) -> None:
    async def scene(front: Front) -> None:
        client = await front.web_socket()
        heard = front.handler.clients[0]
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        written = 0
        while not heard.writing:
            heard.transport.write(bytes(1024 * 1024))
            written += 1024 * 1024
            await asyncio.sleep(0)
        assert heard.writing == ["paused"]
        assert heard.transport.unsent_bytes > 0

        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await client.data(written)

        assert heard.writing == ["paused", "resumed"]
        client.writer.close()

    play(scene, make_handler=lambda: EchoHandler(echo=False))


def test_connections_count_as_strangers_until_they_have_said_who_they_are(play: Play) -> None:
    async def scene(front: Front) -> None:
        client = await front.web_socket()
        assert front.admission._strangers == {"127.0.0.1": 1}

        front.handler.clients[0].transport.authenticated()
        assert front.admission._strangers == {}
        assert front.admission._connections == 1

        client.writer.close()
        await front.handler.until(lambda: front.handler.clients[0].gone is not None)
        assert front.admission._connections == 0

    play(scene)
