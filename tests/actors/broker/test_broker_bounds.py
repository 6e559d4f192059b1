"""What clients can do to the broker is bounded and told; topics and IoT Hub messages on one connection."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.broker.user_topics import MOST_FILTER_BYTES, MOST_FILTERS, MOST_LEVELS
from messaging.broker.limits import FIRST_PACKET_ID, Limits
from tests.actors.broker_world import BrokerWorld, ack, publish, subscribe, unsubscribe

HUB_TOPIC = "devices/test-listener/messages/events/"  # own, for everybody at this listener


@pytest.fixture
def world(tmp_path: Path) -> BrokerWorld:
    return BrokerWorld(tmp_path)


def test_a_topic_of_too_many_levels_ends_the_connection_with_the_reason(
    world: BrokerWorld, caplog: pytest.LogCaptureFixture
) -> None:
    witness = world.subscriber("#", qos=0)
    link = world.connect("p").send(publish("/".join("x" * MOST_LEVELS)))
    assert not link.is_closed
    assert len(witness.messages()) == 1

    link.send(publish("/" * 10_000, b"x", 1, 1))

    assert link.is_closed
    assert (link.take(), witness.take()) == (b"", b"")
    assert "10001 levels; the limit is 200" in caplog.text


def test_a_filter_of_too_many_levels_ends_the_connection_with_the_reason(
    world: BrokerWorld, caplog: pytest.LogCaptureFixture
) -> None:
    link = world.connect().send(subscribe(1, ("/" * 10_000, 0)))

    assert link.is_closed
    assert "10001 levels; the limit is 200" in caplog.text


def test_further_filters_are_refused_one_by_one_and_may_come_when_others_go(
    world: BrokerWorld, caplog: pytest.LogCaptureFixture
) -> None:
    link = world.connect()
    link.send(subscribe(1, *((f"f/{n}", 1) for n in range(MOST_FILTERS))))
    assert link.take().endswith(b"\x01" * MOST_FILTERS)

    assert link.send(subscribe(2, ("one/more", 1), ("f/1", 2))).take() == b"\x90\x04\x00\x02\x80\x02"
    assert f"it has {MOST_FILTERS} filters, which is the limit" in caplog.text

    link.send(unsubscribe(3, "f/2"))
    link.take()
    assert link.send(subscribe(4, ("one/more", 1))).take() == b"\x90\x03\x00\x04\x01"


def test_bytes_of_filters_are_limited(world: BrokerWorld, caplog: pytest.LogCaptureFixture) -> None:
    link = world.connect()

    codes = [
        link.send(subscribe(1, (f"{n}{'x' * 65_000}", 0))).take()[-1]
        for n in range(MOST_FILTER_BYTES // 65_000 + 1)
    ]

    assert codes == [0] * (MOST_FILTER_BYTES // 65_000) + [0x80]
    assert "which is the limit" in caplog.text


def test_a_retained_flood_is_forwarded_and_not_retained(tmp_path: Path) -> None:
    world = BrokerWorld(tmp_path, Limits(max_retained=10))
    witness = world.subscriber("#", qos=0, client_id="witness")

    world.connect("p").send(*(publish(f"r/{n}", b"x", 0, retain=True) for n in range(100)))

    assert len(witness.messages()) == 100
    late = world.connect("late").send(subscribe(1, ("#", 0)))
    assert len(late.packets()) == 1 + 10


def test_messages_to_topics_and_to_the_hub_are_answered_in_their_order(world: BrokerWorld) -> None:
    world.subscriber("t", client_id="s", clean=False).lose()  # so that a topic has to wait for the disk, too
    link = world.connect("p")

    link.send(
        publish("t", b"1", 1, 1),
        publish(HUB_TOPIC, b"2", 1, 2),
        publish("t", b"3", 2, 3),
        publish(HUB_TOPIC, b"4", 1, 4),
        publish("nobody", b"5", 1, 5),
    )

    assert link.take() == ack(0x40, 1) + ack(0x40, 2) + ack(0x50, 3) + ack(0x40, 4) + ack(0x40, 5)


def test_iothub_messages_are_nobodys_topic_and_topics_no_iothub_messages(world: BrokerWorld) -> None:
    witness = world.subscriber("#", "devices/#", "+/+/#", qos=0)

    world.connect("p").send(publish(HUB_TOPIC, b"for routes"), publish("devices/x", b"for topics"))

    assert [(message.topic, message.body) for message in witness.messages()] == [("devices/x", b"for topics")]


def test_qos_2_is_for_topics_alone(world: BrokerWorld, caplog: pytest.LogCaptureFixture) -> None:
    link = world.connect("p").send(publish("t", b"x", 2, 1))
    assert link.take() == ack(0x50, 1)

    link.send(publish(HUB_TOPIC, b"x", 2, 2))

    assert link.is_closed
    assert "published at QoS 2, which IoT Hub does not offer" in caplog.text


def test_packet_ids_of_topics_are_in_their_half(world: BrokerWorld) -> None:
    link = world.subscriber("t", qos=1)

    world.connect("p").send(publish("t", b"x", 1, 1))

    [message] = link.messages()
    assert message.packet_id >= FIRST_PACKET_ID


def test_who_does_not_read_is_not_read_and_loses_qos_0_after_a_second(world: BrokerWorld) -> None:
    deaf = world.subscriber("t", qos=0)
    publisher = world.connect("p")
    deaf.stop_reading()

    publisher.send(publish("t", b"1"))
    assert not publisher.transport.reading
    world.advance(3)
    assert publisher.transport.reading

    publisher.send(publish("t", b"2"))
    assert publisher.transport.reading
    assert deaf.bodies() == [b"1"]


def test_a_session_that_expired_is_gone_after_a_restart_too(tmp_path: Path) -> None:
    world = BrokerWorld(tmp_path, Limits(session_expiry_s=60.0))
    world.subscriber("t", client_id="s", clean=False).lose()

    world.advance(70)
    world.kill()

    link = world.open()
    link.send(b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01s")
    assert link.take() == b"\x20\x02\x00\x00"
