"""Plain MQTT clients with identities of the hub, over TLS: paho, and the command line tools of mosquitto."""

from __future__ import annotations

import queue
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from paho.mqtt import client as paho

from actors.addresses import ROUTER
from actors.store.messages import Stored
from actors.upstream.messages import C2dReceived
from messaging.client import Client
from messaging.message import encode_header
from tests.integration.hub_process import HubProcess

MODULE = "edge1/m"
INPUTS = "devices/edge1/modules/m/inputs/#"
C2D = "devices/leaf/messages/devicebound/#"
EVENTS = "devices/{}/messages/events/"
ROUTES = {
    "in": 'FROM /messages/* INTO BrokeredEndpoint("/modules/m/inputs/in")',
    "up": "FROM /messages/* INTO $upstream",
}
LIMIT_S = 20.0

needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto_pub") is None or shutil.which("mosquitto_sub") is None,
    reason="mosquitto_pub and mosquitto_sub are not here; they are in the package mosquitto-clients",
)


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess(ROUTES, modules=("m",), devices=("leaf",)) as made:
        yield made


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Plain:
    """A paho client whose callbacks are queues."""

    def __init__(self, hub: HubProcess, ending: ExitStack, client_id: str, *, clean: bool = True) -> None:
        self._hub = hub
        self.client = paho.Client(client_id, clean_session=clean)
        self.client.username_pw_set(hub.user_name(client_id), hub.token(client_id))
        self.client.tls_set_context(ssl.create_default_context(cafile=str(hub.ca_file)))
        self.connected: queue.Queue[tuple[int, int]] = queue.Queue()  # session present, return code
        self.subscribed: queue.Queue[tuple[int, ...]] = queue.Queue()
        self.gone: queue.Queue[int] = queue.Queue()
        self.messages: queue.Queue[Any] = queue.Queue()
        self.client.on_connect = lambda client, data, flags, code: self.connected.put(
            (flags["session present"], code)
        )
        self.client.on_subscribe = lambda client, data, mid, granted: self.subscribed.put(tuple(granted))
        self.client.on_disconnect = lambda client, data, code: self.gone.put(code)
        self.client.on_message = lambda client, data, message: self.messages.put(message)
        ending.callback(self.close)

    def connect(self) -> int:
        """Connect; return whether a session was present."""
        self.client.connect("127.0.0.1", self._hub.port)
        self.client.loop_start()
        present, code = self.connected.get(timeout=LIMIT_S)
        assert code == 0
        return present

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        self.client.subscribe(topic_filter, qos)
        assert self.subscribed.get(timeout=LIMIT_S) == (qos,)

    def publish(self, topic: str, body: bytes, qos: int = 1, **settings: Any) -> None:
        """Publish; at QoS 1 wait for the acknowledgement."""
        self.client.publish(topic, body, qos, **settings).wait_for_publish(LIMIT_S)

    def bodies(self, count: int) -> list[bytes]:
        return [self.messages.get(timeout=LIMIT_S).payload for _ in range(count)]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def receive_c2d(hub: HubProcess, body: bytes) -> None:
    """Have a message for the device `leaf` come from the cloud."""
    with Client.outside(hub.run_dir) as us:
        us.tell(ROUTER, C2dReceived("leaf", encode_header("", {"a": "b"}, {}), body))
        us.receive(Stored, LIMIT_S)


def test_a_persistent_session_goes_on_without_a_subscribe_also_after_a_kill(
    hub: HubProcess, ending: ExitStack
) -> None:
    """Source: hub-protocols.md section 8.4, rows 10 and 31."""
    module, leaf = Plain(hub, ending, MODULE, clean=False), Plain(hub, ending, "leaf")
    assert (module.connect(), leaf.connect()) == (0, 0)
    module.subscribe(INPUTS)
    module.close()
    for number in range(3):
        leaf.publish(EVENTS.format("leaf"), b"%d" % number)
    hub.kill()
    hub.start()

    again = Plain(hub, ending, MODULE, clean=False)

    assert again.connect() == 1
    assert again.bodies(3) == [b"0", b"1", b"2"]


def test_a_clean_session_ends_the_one_before(hub: HubProcess, ending: ExitStack) -> None:
    """Source: hub-protocols.md section 8.4, row 9. What waits for the input stays."""
    kept = Plain(hub, ending, MODULE, clean=False)
    kept.connect()
    kept.subscribe(INPUTS)
    kept.close()
    leaf = Plain(hub, ending, "leaf")
    leaf.connect()
    leaf.publish(EVENTS.format("leaf"), b"waits")

    clean = Plain(hub, ending, MODULE)
    present = clean.connect()
    clean.close()
    after = Plain(hub, ending, MODULE, clean=False)
    present_after = after.connect()
    after.subscribe(INPUTS)

    assert (present, present_after) == (0, 0)
    assert after.bodies(1) == [b"waits"]


def test_messages_from_the_cloud_wait_for_their_device_through_a_kill(
    hub: HubProcess, ending: ExitStack
) -> None:
    hub.wait_for_log("MQTT over TLS")
    for number in range(5):
        receive_c2d(hub, b"%d" % number)
    hub.kill()
    hub.start()

    device = Plain(hub, ending, "leaf")
    device.connect()
    device.subscribe(C2D)

    came = [device.messages.get(timeout=LIMIT_S) for _ in range(5)]
    assert [message.payload for message in came] == [b"0", b"1", b"2", b"3", b"4"]
    assert {(message.topic, message.qos, message.retain) for message in came} == {
        ("devices/leaf/messages/devicebound/a=b", 1, False)
    }


def test_retain_and_qos_2_and_a_will_are_what_iot_hub_makes_of_them(
    hub: HubProcess, ending: ExitStack
) -> None:
    """Source: hub-protocols.md section 8.4, rows 21 and 26."""
    leaf = Plain(hub, ending, "leaf")
    leaf.client.will_set(EVENTS.format("leaf") + "why=lost", b"will", qos=1)
    leaf.connect()

    leaf.publish(EVENTS.format("leaf"), b"retained", retain=True)
    leaf.client.socket().shutdown(socket.SHUT_RDWR)
    leaf.gone.get(timeout=LIMIT_S)
    leaf.connected.get(timeout=LIMIT_S)  # paho comes back by itself
    leaf.client.publish(EVENTS.format("leaf"), b"twice", qos=2)

    assert leaf.gone.get(timeout=LIMIT_S) != 0
    records = hub.upstream(2)
    assert [record["Properties"] for record in records[:2]] == [
        {"mqtt-retain": "true"},
        {"why": "lost", "MessageType": "Will"},
    ]


def mosquitto(hub: HubProcess, program: str, client_id: str, *arguments: str) -> subprocess.Popen[str]:
    """Start mosquitto_pub or mosquitto_sub as an identity."""
    return subprocess.Popen(
        [
            program,
            *("-h", "localhost", "-p", str(hub.port), "--cafile", str(hub.ca_file)),
            *("-i", client_id, "-u", hub.user_name(client_id), "-P", hub.token(client_id)),
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@needs_mosquitto
@pytest.mark.parametrize("qos", ["0", "1"])
def test_mosquitto_publishes_and_subscribes(hub: HubProcess, qos: str) -> None:
    """Source: hub-protocols.md sections 1.17 and 8.4, row 25."""
    listening = mosquitto(hub, "mosquitto_sub", MODULE, "-t", INPUTS, "-q", qos, "-C", "2", "-W", "20")
    hub.wait_for_log(f"{MODULE} connected")

    for body in ("first", "second"):
        topic = EVENTS.format("leaf") + "k=v"
        sent = mosquitto(hub, "mosquitto_pub", "leaf", "-t", topic, "-q", qos, "-m", body)
        assert sent.wait(LIMIT_S) == 0

    said, _ = listening.communicate(timeout=LIMIT_S)
    assert (listening.returncode, said) == (0, "first\nsecond\n")
    assert [record["Properties"] for record in hub.upstream(2)] == [{"k": "v"}, {"k": "v"}]


@needs_mosquitto
def test_mosquitto_gets_messages_from_the_cloud(hub: HubProcess) -> None:
    hub.wait_for_log("MQTT over TLS")
    receive_c2d(hub, b"to you")

    listening = mosquitto(hub, "mosquitto_sub", "leaf", "-t", C2D, "-q", "1", "-C", "1", "-W", "20", "-v")

    said, _ = listening.communicate(timeout=LIMIT_S)
    assert said == "devices/leaf/messages/devicebound/a=b to you\n"
