"""Bad input at a running hub, over real sockets: the right answer, one log line, and it serves on."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator

import pytest

from messaging.mqtt.packets import ConnAck, Connect, PubAck, Publish, ReturnCode, Subscribe
from tests.integration.hub_process import HubProcess
from tests.integration.mqtt_socket import LIMIT_S, MqttSocket

UP = {"up": "FROM /messages/* INTO $upstream"}
TOPIC = "devices/leaf/messages/events/"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with HubProcess(UP, modules=("m",), devices=("leaf", "victim")) as hub:
        yield hub


@pytest.fixture(autouse=True)
def _serves_on(hub: HubProcess) -> Iterator[None]:
    """After each case an honest client is served by the same process."""
    yield
    assert hub.process is not None
    assert hub.process.poll() is None
    with MqttSocket(hub) as client:
        assert client.connect(hub, "leaf") == ConnAck(ReturnCode.ACCEPTED)
        client.send(Publish(TOPIC, b"still there", 1, 1))
        assert client.receive() == PubAck(1)


def lines_about(hub: HubProcess, port: int) -> list[str]:
    """Return the log lines at WARNING or above about the client with this port, once there is one."""
    hub.wait_for_log(f":{port}")
    return [line for line in hub.log_lines() if f":{port}" in line and ("[WRN]" in line or "[ERR]" in line)]


def refused(
    hub: HubProcess, client_id: str, password: str | None = None, name: str = ""
) -> tuple[bytes, str]:
    with MqttSocket(hub) as client:
        token = hub.token("leaf") if password is None else password
        client.send(Connect(client_id, True, 60, name or hub.user_name(client_id), token.encode()))
        answer = client.rest()
        [line] = lines_about(hub, client.own_port)
        return answer, line


CONNACK_5 = bytes((0x20, 2, 0, 5))


def test_a_wrong_password_is_refused_for_good(hub: HubProcess) -> None:
    answer, line = refused(hub, "leaf", "let me in")

    assert answer == CONNACK_5
    assert "'leaf': refused with CONNACK 5: the token does not have the form" in line
    assert "let me in" not in line


def test_an_expired_token_is_refused_and_the_log_says_by_how_many_seconds(hub: HubProcess) -> None:
    answer, line = refused(hub, "leaf", hub.token("leaf", life_s=-400))

    assert answer == CONNACK_5
    late_s = int(line.partition("token of 'leaf' expired ")[2].partition(" s ago")[0])
    assert 400 <= late_s <= 405


def test_the_token_of_another_identity_is_refused(hub: HubProcess) -> None:
    answer, line = refused(hub, "victim", hub.token("leaf"))

    assert answer == CONNACK_5
    assert "is another identity's" in line


def test_a_client_id_that_is_not_the_identity_is_refused(hub: HubProcess) -> None:
    answer, line = refused(hub, "victim", name=hub.user_name("leaf"))

    assert answer == CONNACK_5
    assert "the client id is not the identity of the user name, 'leaf'" in line


@pytest.mark.parametrize("tls", [True, False], ids=["TLS", "plain"])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n", id="HTTP"),
        pytest.param(Subscribe(1, (("a", 1),)).encode(), id="SUBSCRIBE first"),
        pytest.param(b"\x10\xff\xff\xff\x7f", id="a CONNECT of 256 MB"),
        pytest.param(random.Random(7).randbytes(3000), id="random bytes"),
    ],
)
def test_what_does_not_begin_with_connect_is_closed(hub: HubProcess, data: bytes, tls: bool) -> None:
    with MqttSocket(hub, tls=tls) as client:
        client.send_bytes(data)

        assert client.rest() == b""
        [line] = lines_about(hub, client.own_port)
    assert "broke the protocol" in line


def oversize(hub: HubProcess, client: MqttSocket) -> None:
    client.send_bytes(b"\x32\xff\xff\x7f" + b"x" * 1000)


def second_connect(hub: HubProcess, client: MqttSocket) -> None:
    client.send_bytes(Connect("leaf", True, 60, hub.user_name("leaf"), b"x").encode())


def server_packet(hub: HubProcess, client: MqttSocket) -> None:
    client.send_bytes(ConnAck(ReturnCode.ACCEPTED).encode())


def reserved_flags(hub: HubProcess, client: MqttSocket) -> None:
    client.send_bytes(b"\x80" + Subscribe(1, (("a", 1),)).encode()[1:])


def bad_filter(hub: HubProcess, client: MqttSocket) -> None:
    client.send_bytes(bytes.fromhex("82 0a 00 01 00 05") + b"a/#/b" + b"\x01")


@pytest.mark.parametrize("offend", [oversize, second_connect, server_packet, reserved_flags, bad_filter])
def test_a_client_that_breaks_the_protocol_later_is_closed_and_what_came_before_counts(
    hub: HubProcess, offend: Callable[[HubProcess, MqttSocket], None]
) -> None:
    before = len(hub.log_lines())
    with MqttSocket(hub) as client:
        client.connect(hub, "victim")
        client.send(Publish("devices/victim/messages/events/", b"good", 1, 1))
        assert client.receive() == PubAck(1)

        offend(hub, client)

        assert client.rest() == b""
    earlier = sum("victim: broke the protocol" in line for line in hub.log_lines()[:before])
    hub.wait_for_log("victim: broke the protocol", earlier + 1)
    assert sum("[WRN]" in line for line in hub.log_lines()[before:]) == 1


def test_plain_http_on_the_tls_port_is_told_to_the_log(hub: HubProcess) -> None:
    with socket.create_connection((hub.address, hub.port), timeout=LIMIT_S) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n")
        try:
            while plain.recv(4096):
                pass  # a TLS alert may come first
        except ConnectionResetError:
            pass
        [line] = lines_about(hub, plain.getsockname()[1])

    assert "TLS handshake failed: HTTP_REQUEST" in line


@pytest.mark.slow
def test_connections_that_say_nothing_end_in_time_and_hold_up_nobody(hub: HubProcess) -> None:
    """A handshake that stalls, silence behind it, half a CONNECT: all at once, for each takes a while."""
    half = Connect("leaf", True, 60, hub.user_name("leaf"), hub.token("leaf").encode()).encode()[:30]
    with (
        socket.create_connection((hub.address, hub.port), timeout=LIMIT_S) as stalled,
        MqttSocket(hub) as silent,
        MqttSocket(hub) as torn,
    ):
        stalled.sendall(b"\x16\x03\x01")
        torn.send_bytes(half)
        with MqttSocket(hub) as honest:
            assert honest.connect(hub, "leaf") == ConnAck(ReturnCode.ACCEPTED)

        assert (silent.rest(), torn.rest(), stalled.recv(10)) == (b"", b"", b"")

        for client in (silent, torn):
            [line] = lines_about(hub, client.own_port)
            assert "no CONNECT within 5 s" in line
        [line] = lines_about(hub, stalled.getsockname()[1])
        assert "TLS handshake failed" in line


def test_random_bytes_at_any_point_never_stop_the_hub(hub: HubProcess) -> None:
    chance = random.Random(2026)
    for number in range(60):
        with MqttSocket(hub, tls=number % 10 == 0) as client:
            if number % 2:
                client.connect(hub, "victim")
            good = Publish("devices/victim/messages/events/", b"x", 1, 1).encode()
            client.send_bytes(good * (number % 3) + chance.randbytes(chance.randrange(1, 400)) + b"\x00\xff")
    assert [line for line in hub.log_lines() if "Traceback" in line or "internal error" in line] == []
