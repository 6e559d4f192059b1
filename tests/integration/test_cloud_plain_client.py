"""A plain MQTT client (paho) with an identity of the stand-in, over TLS: no SDK hides what it is told."""

from __future__ import annotations

import queue
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from paho.mqtt import client as paho

from tests.integration.cloud import LIMIT_S, MQTT_PORT, Cloud
from tests.integration.sdk_clients import loopback_address
from tests.waiting import wait_until

EVENTS = "devices/d1/messages/events/"


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud(loopback_address()) as made:
        made.create("d1")
        yield made


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Plain:
    """A paho client whose callbacks are queues."""

    def __init__(self, cloud: Cloud, password: str | None = None, **settings: Any) -> None:
        self.client = paho.Client("d1", **settings)
        self.client.username_pw_set(cloud.user_name("d1"), password or cloud.token("d1"))
        self.client.tls_set_context(ssl.create_default_context(cafile=str(cloud.ca_file)))
        self.connected: queue.Queue[int] = queue.Queue()
        self.subscribed: queue.Queue[tuple[int, ...]] = queue.Queue()
        self.published: queue.Queue[int] = queue.Queue()
        self.gone: queue.Queue[int] = queue.Queue()
        self.messages: queue.Queue[Any] = queue.Queue()
        self.client.on_connect = lambda client, data, flags, code, *_: self.connected.put(code)
        self.client.on_subscribe = lambda client, data, mid, granted: self.subscribed.put(tuple(granted))
        self.client.on_publish = lambda client, data, mid: self.published.put(mid)
        self.client.on_disconnect = lambda client, data, code, *_: self.gone.put(code)
        self.client.on_message = lambda client, data, message: self.messages.put(message)
        self._address = cloud.address

    def connect(self, ending: ExitStack) -> int:
        """Connect and return what CONNACK says."""
        self.client.connect(self._address, MQTT_PORT)
        self.client.loop_start()
        ending.callback(self.client.loop_stop)
        ending.callback(self.client.disconnect)
        return self.connected.get(timeout=LIMIT_S)


def test_it_publishes_subscribes_and_gets_messages(cloud: Cloud, ending: ExitStack) -> None:
    plain = Plain(cloud)
    assert plain.connect(ending) == 0

    plain.client.publish(EVENTS + "k=v", b"retained", qos=1, retain=True)
    plain.published.get(timeout=LIMIT_S)
    plain.client.subscribe([("devices/d1/messages/devicebound/#", 1), ("#", 1)])
    granted = plain.subscribed.get(timeout=LIMIT_S)
    cloud.call(cloud.hub.send_c2d("d1", b"to you", {"a": "b"}))
    message = plain.messages.get(timeout=LIMIT_S)

    assert granted == (1, 0x80)
    (event,) = cloud.call(cloud.hub.events(0))
    assert event.telemetry.properties == {"k": "v", "mqtt-retain": "true"}
    assert (message.payload, message.qos, message.retain) == (b"to you", 1, False)
    assert message.topic.startswith("devices/d1/messages/devicebound/a=b&")


def test_its_will_is_telemetry_when_its_socket_breaks(cloud: Cloud, ending: ExitStack) -> None:
    plain = Plain(cloud)
    plain.client.will_set(EVENTS, b"gone", qos=1)
    assert plain.connect(ending) == 0

    plain.client.socket().shutdown(socket.SHUT_RDWR)

    wait_until(lambda: bool(cloud.call(cloud.hub.events(0))), "the will")
    event = cloud.call(cloud.hub.events(0))[0]
    assert (event.telemetry.body, event.telemetry.properties) == (b"gone", {"iothub-MessageType": "Will"})


@pytest.mark.parametrize(
    ("settings", "password", "code"),
    [({}, "nonsense", 5), ({"protocol": paho.MQTTv31}, None, None)],
    ids=["wrong password", "MQTT 3.1"],
)
def test_it_is_refused_as_the_standard_says(
    cloud: Cloud, ending: ExitStack, settings: dict[str, Any], password: str | None, code: int | None
) -> None:
    plain = Plain(cloud, password, **settings)

    if code is None:
        plain.client.connect(cloud.address, MQTT_PORT)
        plain.client.loop_start()
        ending.callback(plain.client.loop_stop)
        plain.gone.get(timeout=LIMIT_S)
        assert plain.connected.empty()
    else:
        assert plain.connect(ending) == code


def test_a_topic_of_another_device_ends_the_connection_and_others_go_on(
    cloud: Cloud, ending: ExitStack
) -> None:
    plain = Plain(cloud)
    assert plain.connect(ending) == 0

    plain.client.publish("devices/d2/messages/events/", b"forged", qos=1)

    assert plain.gone.get(timeout=LIMIT_S) != 0
    assert cloud.call(cloud.hub.events(0)) == []
