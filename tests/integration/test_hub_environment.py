"""Variables of edgeHub at a real hub process."""

from __future__ import annotations

import socket
import ssl

import pytest

from actors.manifest.hub_environment import HubEnvironment
from tests.integration.hub_process import DEVICE, HubProcess
from tests.integration.mqtt_socket import MqttSocket

A = f"{DEVICE}/a"
UPGRADE = (
    "GET /$iothub/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)


def shake_hands(hub: HubProcess, version: ssl.TLSVersion) -> str | None:
    """Connect with one version of TLS; returns what was agreed on."""
    context = ssl.create_default_context(cafile=str(hub.ca_file))
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection((hub.address, hub.port), 20.0) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return connection.version()


@pytest.mark.parametrize(
    ("taken", "good", "bad"),
    [
        (("tls1.2",), ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3),
        (("tls1.3",), ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2),
    ],
    ids=["1.2 alone", "1.3 alone"],
)
def test_only_the_versions_of_tls_that_are_set_are_spoken(
    taken: tuple[str, ...], good: ssl.TLSVersion, bad: ssl.TLSVersion
) -> None:
    with HubProcess({}, environment=HubEnvironment(ssl_protocols=taken)) as hub:
        assert shake_hands(hub, good) == good.name.replace("_", ".")
        with pytest.raises(ssl.SSLError):
            shake_hands(hub, bad)


@pytest.mark.parametrize(
    ("environment", "offered", "variable"),
    [
        (HubEnvironment(mqtt_enabled=False), "mqtt", b"MqttSettings__Enabled"),
        (HubEnvironment(amqp_enabled=False), "AMQPWSB10", b"AmqpSettings__Enabled"),
        (HubEnvironment(mqtt_enabled=False, amqp_enabled=False), "mqtt", b"MqttSettings__Enabled"),
    ],
    ids=["no MQTT", "no AMQP", "neither"],
)
def test_without_a_protocol_the_web_port_takes_no_websocket_for_it_and_says_why(
    environment: HubEnvironment, offered: str, variable: bytes
) -> None:
    with HubProcess({}, environment=environment) as hub:
        context = ssl.create_default_context(cafile=str(hub.ca_file))
        with (
            socket.create_connection((hub.address, hub.web_port), 20.0) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(UPGRADE.replace("Protocol: mqtt", f"Protocol: {offered}").encode())
            answer = connection.recv(65_536)

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert variable + b" of edgeHub is false" in answer


def test_the_log_has_the_level_that_is_set() -> None:
    with HubProcess({}, ("a",), environment=HubEnvironment(log_level="warning")) as hub:
        with MqttSocket(hub) as client:
            assert client.connect(hub, A, password="nonsense").return_code == 5
        hub.wait_for_log("[WRN]")

        assert not [line for line in hub.log_lines() if "[INF]" in line]
