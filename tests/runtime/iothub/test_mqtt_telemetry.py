"""Telemetry over MQTT: what is stored, when it is acknowledged, and what closes the connection."""

from __future__ import annotations

import asyncio
import logging

import pytest

from messaging.errors import StoreError
from messaging.mqtt.packets import Disconnect, Packet, PubAck, Publish, Subscribe, Will
from runtime.iothub.credit import CLIENT_BYTES
from tests.runtime.iothub.mqtt_scene import Scene, events_topic

EVENTS = events_topic("d1")
LIMIT_BYTES = 262_144


def test_properties_arrive_by_their_names_and_the_hub_adds_who_sent_them(scene: Scene) -> None:
    bag = (
        "%24.mid=1&%24.cid=2&%24.ct=application%2Fjson&%24.ce=utf-8&%24.uid=u&%24.cdid=evil&a%20b=%C3%BC%2F&k"
    )
    client = scene.connect("d1")

    client.publish(events_topic("d1", bag), b"{}")

    (event,) = scene.events()
    assert event.identity.id == "d1"
    assert event.telemetry.body == b"{}"
    assert event.telemetry.properties == {"$.cdid": "evil", "a b": "ü/", "k": None}
    assert event.telemetry.system_properties == {
        "messageId": "1",
        "cid": "2",
        "contentType": "application/json",
        "contentEncoding": "utf-8",
        "userId": "u",
    }


@pytest.mark.parametrize(
    ("packet", "mark"),
    [
        (Publish(EVENTS, b"", 1, 1, dup=True), {"mqtt-dup": "true"}),
        (Publish(EVENTS, b"", 1, 1, retain=True), {"mqtt-retain": "true"}),
        (Publish(EVENTS + "?k=v", b"", 1, 1), {"k": "v"}),
        (Publish(EVENTS + "k=v/", b"", 1, 1), {"k": "v"}),
    ],
    ids=["DUP", "RETAIN", "leading ?", "trailing slash"],
)
def test_flags_become_properties(scene: Scene, packet: Packet, mark: dict[str, str]) -> None:
    client = scene.connect("d1")

    client.send(packet)
    client.wait(PubAck)

    assert [event.telemetry.properties for event in scene.events()] == [mark]


def test_many_in_one_read_are_stored_and_acknowledged_in_order(scene: Scene) -> None:
    client = scene.connect("d1")

    client.send(*(Publish(EVENTS, str(n).encode(), n % 2, n if n % 2 else 0) for n in range(1, 100)))

    assert [client.wait(PubAck).packet_id for _ in range(50)] == list(range(1, 100, 2))
    assert scene.bodies() == [str(n).encode() for n in range(1, 100)]


def test_what_arrives_byte_by_byte_is_stored_once(scene: Scene) -> None:
    client = scene.connect("d1")

    for byte in Publish(EVENTS, b"slow", 1, 7).encode():
        client.send_bytes(bytes((byte,)))

    client.wait(PubAck)
    assert scene.bodies() == [b"slow"]


def test_a_client_that_publishes_at_qos_0_and_leaves_at_once_is_heard(scene: Scene) -> None:
    client = scene.connect("d1")

    client.send(Publish(EVENTS, b"bye"), Disconnect())
    client.lose()

    scene.wait(lambda: scene.bodies() == [b"bye"], "the message")


def test_nothing_is_acknowledged_that_could_not_be_stored(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = scene.connect("d1")

    def fail(*_: object) -> asyncio.Future[None]:
        failed = scene.loop.create_future()
        failed.set_exception(StoreError("the disk is full"))
        return failed

    monkeypatch.setattr(scene.hub, "telemetry", fail)
    client.send(Publish(EVENTS, b"lost", 1, 1))

    assert client.wait_for_end() == []


def test_a_publish_that_takes_too_long_to_store_closes_its_connection(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = scene.connect("d1")
    monkeypatch.setattr(scene.hub, "telemetry", lambda *_: scene.loop.create_future())
    client.send(Publish(EVENTS, b"stuck", 1, 1))

    scene.clock.advance(21)
    scene.look()

    assert client.wait_for_end() == []


def test_a_client_that_sends_faster_than_the_disk_takes_is_not_read(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = scene.connect("d1")
    stored: list[asyncio.Future[None]] = []

    def wait(*_: object) -> asyncio.Future[None]:
        stored.append(scene.loop.create_future())
        return stored[-1]

    monkeypatch.setattr(scene.hub, "telemetry", wait)
    count = CLIENT_BYTES // 200_000 + 1
    for packet_id in range(1, count + 1):
        client.send(Publish(EVENTS, b"x" * 200_000, 1, packet_id))
    assert not client.transport.reading

    for one in stored:
        scene.do(one.set_result, None)

    assert [client.wait(PubAck).packet_id for _ in range(count)] == list(range(1, count + 1))
    assert client.transport.reading


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(Publish(events_topic("d2"), b"", 1, 1), id="another identity's topic"),
        pytest.param(Publish(events_topic("d1/m1"), b"", 1, 1), id="a module's topic of this device"),
        pytest.param(Publish("devices/d1/messages/eve/x", b"", 1, 1), id="unknown topic"),
        pytest.param(Publish("$iothub/whatever", b"", 1, 1), id="unknown topic of IoT Hub"),
        pytest.param(Publish("devices/d1/messages/devicebound/", b"", 1, 1), id="the hub's own topic"),
        pytest.param(Publish(EVENTS, b"", 2, 1), id="QoS 2"),
        pytest.param(Publish(EVENTS + "a=1&a=2", b"", 1, 1), id="a property twice"),
        pytest.param(Publish(EVENTS + "a=b=c", b"", 1, 1), id="a raw = in a value"),
        pytest.param(Publish(EVENTS, b"x" * (LIMIT_BYTES - 30), 1, 1), id="packet over the limit"),
        pytest.param(Publish("$iothub/twin/GET/", b"", 1, 1), id="twin GET without rid"),
        pytest.param(Publish("$iothub/twin/GET/x/?$rid=1", b"", 1, 1), id="part of a twin"),
        pytest.param(Publish("$iothub/twin/foo?$rid=1", b"", 1, 1), id="unknown twin topic"),
        pytest.param(Subscribe(1, (("a/#/b", 1),)), id="malformed filter"),
    ],
)
def test_an_offence_closes_with_one_line_and_what_came_before_is_kept(
    scene: Scene, caplog: pytest.LogCaptureFixture, packet: Packet
) -> None:
    client = scene.connect("d1")
    caplog.clear()

    client.send_bytes(Publish(EVENTS, b"before").encode() + _raw(packet))

    assert client.wait_for_end() == []
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert lines[0].startswith("d1: broke the protocol: ")
    assert len(lines[0]) < 600
    scene.connect("d2").publish(events_topic("d2"), b"served as before")
    assert scene.bodies() == [b"before", b"served as before"]


def _raw(packet: Packet) -> bytes:
    """Encode what our own codec refuses to."""
    if isinstance(packet, Subscribe):
        text = packet.topic_filters[0][0].encode()
        return bytes((0x82, len(text) + 5, 0, 1, 0, len(text))) + text + b"\x01"
    return packet.encode()


def test_a_giant_bag_counts_against_the_limit(scene: Scene) -> None:
    client = scene.connect("d1")
    bag = f"k={'v' * 60_000}"
    room_bytes = LIMIT_BYTES - 60_001

    client.publish(events_topic("d1", bag), b"x" * (room_bytes - 200), packet_id=1)
    client.send(Publish(events_topic("d1", "k=" + "%20" * 21_000), b"x" * (LIMIT_BYTES - 20_999), 1, 2))

    assert client.wait_for_end() == []
    assert len(scene.events()) == 1


@pytest.mark.parametrize("how", ["lost", "taken over", "silent", "token expired"])
def test_the_will_of_a_client_that_goes_without_disconnect_is_telemetry(scene: Scene, how: str) -> None:
    client = scene.connect("d1", will=Will(events_topic("d1", "k=v"), b"gone"), keep_alive_s=10)

    if how == "lost":
        client.lose()
    elif how == "taken over":
        scene.connect("d1")
    else:
        scene.clock.advance(16 if how == "silent" else 3601)
        scene.look()

    scene.wait(lambda: bool(scene.events()), "the will")
    (event,) = scene.events()
    assert event.telemetry.body == b"gone"
    assert event.telemetry.properties == {"k": "v", "iothub-MessageType": "Will"}


def test_a_client_that_leaves_has_no_will_any_more(scene: Scene) -> None:
    client = scene.connect("d1", will=Will(EVENTS, b"gone"))

    client.leave()

    scene.connect("d2").publish(events_topic("d2"), b"only this")
    assert scene.bodies() == [b"only this"]


def test_a_will_on_another_identitys_topic_is_dropped(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    client = scene.connect("d1", will=Will(events_topic("d2"), b"forged"))

    client.lose()

    scene.connect("d2").publish(events_topic("d2"), b"only this")
    assert scene.bodies() == [b"only this"]
    assert any("its will is dropped" in record.getMessage() for record in caplog.records)


def test_acknowledged_messages_are_there_after_a_restart(scene: Scene) -> None:
    scene.connect("d1").publish(EVENTS, b"kept")

    scene.stop()
    scene.start()

    assert scene.bodies() == [b"kept"]
