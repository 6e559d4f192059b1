"""What a client that was let in may not do, on a real hub: it gets its answer, and nobody else notices.

Source: hub-protocols.md sections 1.6 to 1.13, 7.2 and 7.6
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from messaging.mqtt.packets import PubAck, Publish, Subscribe
from tests.integration.hub_process import HubProcess
from tests.integration.mqtt_socket import MqttSocket

ROUTES = {
    "up": "FROM /messages/* INTO $upstream",
    "in": 'FROM /messages/* INTO BrokeredEndpoint("/modules/filter/inputs/in")',
}
OWN = "devices/leaf/messages/events/"
REPORTED = "$iothub/twin/PATCH/properties/reported/?$rid=7"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with HubProcess(ROUTES, modules=("filter", "a"), devices=("leaf", "other")) as made:
        yield made


@pytest.fixture(scope="module")
def bystander(hub: HubProcess) -> Iterator[MqttSocket]:
    """Another client, whose one connection lives through all that follows."""
    with MqttSocket(hub) as client:
        client.connect(hub, "other")
        yield client


@pytest.fixture
def offender(hub: HubProcess, bystander: MqttSocket) -> Iterator[MqttSocket]:
    with MqttSocket(hub) as client:
        client.connect(hub, "leaf")
        client.send(Subscribe(1, (("$iothub/twin/res/#", 1),)))
        client.receive()
        yield client
    began_s = time.monotonic()
    bystander.send(Publish("devices/other/messages/events/", b"well", 1, 9))
    assert bystander.receive() == PubAck(9)
    assert time.monotonic() - began_s < 5.0


def encoded(body: bytes) -> str:
    return base64.b64encode(body).decode()


def bodies_until(hub: HubProcess, body: bytes) -> list[str]:
    """Wait until a message is upstream, and return the bodies of all that are."""
    bodies: list[str] = []
    while encoded(body) not in bodies:
        bodies = [record["Body"] for record in hub.upstream(len(bodies) + 1)]
    return bodies


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    "topic",
    [
        pytest.param("devices/other/messages/events/", id="another device"),
        pytest.param("devices/leaf/modules/a/messages/events/", id="a module of the device"),
        pytest.param("devices/edge1/modules/a/messages/events/", id="a module of the edge"),
        pytest.param("devices/LEAF/messages/events/", id="its own name in other letters"),
        pytest.param("x/devices/leaf/messages/events/", id="something in front"),
        pytest.param("devices/leaf/messages/events/a=b/devices/other/messages/events/", id="two topics"),
        pytest.param("devices/leaf/../other/messages/events/", id="dots"),
        pytest.param("devices/leaf%2F..%2Fother/messages/events/", id="encoded slashes"),
        pytest.param("devices/leaf/messages/devicebound/", id="to a device"),
        pytest.param("devices/edge1/modules/filter/inputs/in/", id="to an input"),
        pytest.param("$iothub/methods/POST/go/?$rid=1", id="a call of a method"),
        pytest.param("$iothub/methods/res/200/?$rid=nobody-asked", id="a reply that nobody asked for"),
        pytest.param("$iothub/methods/res/200/", id="a reply without an id"),
        pytest.param(f"{OWN}a=b&a=c", id="a property twice"),
        pytest.param(f"{OWN}=b", id="a property without a name"),
    ],
)
def test_what_is_no_message_of_this_client_is_dropped_and_acknowledged(
    hub: HubProcess, offender: MqttSocket, topic: str
) -> None:
    own = topic.encode()
    offender.send(Publish(topic, b"forged", 1, 3), Publish(OWN, own, 1, 4))

    assert [offender.receive(), offender.receive()] == [PubAck(3), PubAck(4)]
    assert encoded(b"forged") not in bodies_until(hub, own)


@pytest.mark.parametrize(
    "topic",
    [
        pytest.param("$iothub/twin/foo", id="no request for a twin"),
        pytest.param("$iothub/twin/GET/", id="a twin without an id"),
        pytest.param("$iothub/twin/GET/x/?$rid=1", id="a part of a twin"),
        pytest.param("$iothub/twin/PATCH/properties/reported/x/?$rid=1", id="a part of a patch"),
    ],
)
def test_a_request_that_can_have_no_answer_ends_the_connection(offender: MqttSocket, topic: str) -> None:
    offender.send(Publish(topic, b"", 1, 3))

    assert offender.rest() == b""


@pytest.mark.parametrize("topic", ["devices/+/messages/events/", "#", ""], ids=["+", "#", "none"])
def test_a_topic_with_wildcards_ends_the_connection(offender: MqttSocket, topic: str) -> None:
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + b"\x00\x03forged"

    offender.send_bytes(bytes((0x32, len(body))) + body)

    assert offender.rest() == b""


def test_the_largest_bag_there_can_be_is_a_message_and_one_that_no_input_can_have_holds_up_nobody(
    hub: HubProcess, offender: MqttSocket
) -> None:
    bag = "&".join(f"k{number:04}=" + "v" * 100 for number in range(1000))[: 65_535 - len(OWN)]

    with MqttSocket(hub) as consumer:
        consumer.connect(hub, "edge1/filter")
        offender.send(Publish(OWN + bag, b"giant", 1, 3), Publish(OWN, b"behind it", 1, 4))
        assert [offender.receive(), offender.receive()] == [PubAck(3), PubAck(4)]
        consumer.send(Subscribe(1, (("devices/edge1/modules/filter/inputs/#", 0),)))
        consumer.receive()
        bodies = []
        while b"behind it" not in bodies:
            packet = consumer.receive()
            assert isinstance(packet, Publish)
            bodies.append(packet.payload)

    assert b"giant" not in bodies  # with what the hub adds it has no topic
    assert encoded(b"giant") in bodies_until(hub, b"behind it")


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param({"a": "x" * 4097}, id="a value of 4097 bytes"),
        pytest.param({"x" * 1025: 1}, id="a name of 1025 bytes"),
        pytest.param(nested(11), id="11 levels"),
        pytest.param({"a": 2**52}, id="2^52"),
        pytest.param({"a": [1, None]}, id="null in an array"),
        pytest.param({f"k{number}": "x" * 4000 for number in range(9)}, id="over 32 KiB"),
        pytest.param({"$version": 1}, id="$version"),
        pytest.param({"a.b": 1}, id="a dot in a name"),
        pytest.param([1], id="no object"),
    ],
)
def test_a_twin_beyond_a_limit_is_400_and_stays_what_it_was(offender: MqttSocket, patch: Any) -> None:
    body = json.dumps(patch).encode()
    offender.send(Publish(REPORTED, body, 1, 3), Publish("$iothub/twin/GET/?$rid=8", b" ", 1, 4))

    answers = {}
    while len(answers) < 2:
        packet = offender.receive()
        if isinstance(packet, Publish):
            answers[packet.topic] = packet.payload

    assert "$iothub/twin/res/400/?$rid=7" in answers
    twin = json.loads(answers["$iothub/twin/res/200/?$rid=8"])
    assert twin["reported"] == {"$version": 1}
