"""The hub's broker as a process on a real socket: the scenarios of the well-known interoperability suite for
MQTT 3.1.1, told anew, and kills between them.

Source: spec sheet broker.md section 12.1
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from messaging.mqtt.packets import Connect, PubAck, Publish, PubRec, UnsubAck, Unsubscribe, Will
from tests.integration.mqtt_listener import ListenerProcess

A, B = "myclientid", "myclientid2"
T0, T1, T2, T3, T4 = "TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA"
PLUS_PLUS, ALL_A, PLUS_A = "+/+", "TopicA/#", "TopicA/+"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[ListenerProcess]:
    process = ListenerProcess(tmp_path)
    yield process
    process.close()


def test_basic(listener: ListenerProcess) -> None:
    listener.connect(A).leave()
    client = listener.client()
    assert not client.connect(A).session_present
    assert client.subscribe((T0, 2)) == (2,)

    for qos in (0, 1, 2):
        client.publish(T0, b"qos %d" % qos, qos)

    assert [message.payload for message in client.messages(3)] == [b"qos 0", b"qos 1", b"qos 2"]
    client.send_bytes(Connect(A).encode())
    assert client.is_closed()
    stranger = listener.client()
    stranger.send_bytes(Connect(A).encode().replace(b"\x00\x04MQTT", b"\x00\x04hjxx"))
    assert stranger.is_closed()


def test_retained_messages(listener: ListenerProcess) -> None:
    client = listener.connect(A)
    for qos, topic in enumerate((T1, T2, T3)):
        client.publish(topic, b"kept", qos, retain=True)
    client.subscribe((PLUS_PLUS, 2))
    assert {(message.topic, message.retain) for message in client.messages(3)} == {
        (topic, True) for topic in (T1, T2, T3)
    }
    client.leave()

    client = listener.connect(A)
    for qos, topic in enumerate((T1, T2, T3)):
        client.publish(topic, b"", qos, retain=True)
    client.subscribe((PLUS_PLUS, 2))
    assert client.stays_quiet()


def test_zero_length_client_id(listener: ListenerProcess) -> None:
    client = listener.client()
    client.send_bytes(b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x00\x00\x00")
    assert client.rest() == b"\x20\x02\x00\x02"

    assert listener.client().connect("").return_code == 0


def test_offline_message_queueing(listener: ListenerProcess) -> None:
    client = listener.connect(A, clean=False)
    client.subscribe((PLUS_PLUS, 2))
    client.leave()
    other = listener.client()
    assert not other.connect(B).session_present
    for qos, topic in enumerate((T1, T2, T3)):
        other.publish(topic, b"qos %d" % qos, qos)

    back = listener.client()
    assert back.connect(A, clean=False).session_present

    assert {message.payload for message in back.messages(3)} == {b"qos 0", b"qos 1", b"qos 2"}


def test_overlapping_subscriptions(listener: ListenerProcess) -> None:
    client = listener.connect(A)
    client.subscribe((ALL_A, 2), (PLUS_A, 1))

    client.publish(T3, b"overlapping", 2)

    assert [message.qos for message in client.messages(1)] == [2]
    assert client.stays_quiet()


def test_keep_alive(listener: ListenerProcess) -> None:
    heir = listener.connect(B)
    heir.subscribe((T4, 2))
    silent = listener.client()
    silent.connect(A, will=Will(T4, b"keep-alive expiry", 2), keep_alive_s=2)

    begun_s = time.monotonic()
    [will] = heir.messages(1)

    assert 2.5 < time.monotonic() - begun_s < 6.0
    assert will.payload == b"keep-alive expiry"
    assert silent.is_closed()


def test_redelivery_on_reconnect(listener: ListenerProcess) -> None:
    client = listener.connect(B, clean=False)
    client.subscribe((ALL_A, 2))
    client.publish(T1, b"1", 1)
    client.publish(T3, b"2", 2)
    unanswered = [client.receive() for _ in range(2)]
    client.leave()

    again = listener.connect(B, clean=False).messages(2)

    assert [message.packet_id for message in again] == [p.packet_id for p in unanswered]  # type: ignore[union-attr]
    assert all(message.dup for message in again)


def test_subscribe_failure(listener: ListenerProcess) -> None:
    client = listener.connect(A)

    assert client.subscribe(("test/nosubscribe", 2)) == (0x80,)


def test_dollar_topics(listener: ListenerProcess) -> None:
    client = listener.connect(B)
    client.subscribe((PLUS_PLUS, 2))

    client.publish(f"${T1}", b"", 1)

    assert client.stays_quiet()
    client.leave()


def test_unsubscribe(listener: ListenerProcess) -> None:
    client, other = listener.connect(B), listener.connect(A)
    for topic in (T0, T1, T2):
        client.subscribe((topic, 2))
    client.send(Unsubscribe(2, (T0,)))
    assert client.expect(UnsubAck) == UnsubAck(2)

    for topic in (T0, T1, T2):
        other.publish(topic, b"", 1)

    assert [message.topic for message in client.messages(2)] == [T1, T2]
    assert client.stays_quiet()


def test_will_message(listener: ListenerProcess) -> None:
    heir = listener.connect(B, clean=False)
    heir.subscribe((T2, 2))
    listener.connect(A, will=Will(T2, b"client not disconnected", 2)).lose()

    assert [will.payload for will in heir.messages(1)] == [b"client not disconnected"]
    assert heir.stays_quiet()


def test_what_was_acknowledged_survives_kills_for_a_session_that_is_away(listener: ListenerProcess) -> None:
    subscriber = listener.connect("subscriber", clean=False)
    subscriber.subscribe(("t/#", 2))
    subscriber.leave()
    acknowledged: list[bytes] = []
    for round_ in range(3):
        publisher = listener.connect("publisher", clean=False)
        sent = [b"%d/%d" % (round_, number) for number in range(200)]
        for at in range(0, 200, 50):
            # Packet ids of QoS 2 are not used again: no PUBREL has freed them.
            first_id = 1 + round_ * 200 + at
            packets = [Publish(f"t/{n % 2}", sent[at + n], 1 + n % 2, first_id + n) for n in range(50)]
            publisher.send(*packets)
            for _ in packets:
                answer = publisher.receive()
                assert isinstance(answer, PubAck | PubRec)
                acknowledged.append(sent[answer.packet_id - 1 - round_ * 200])
        listener.kill()

    got: list[bytes] = []
    for _ in range(3):  # and while it takes them
        subscriber = listener.connect("subscriber", clean=False)
        got += [message.payload for message in subscriber.messages(150)]
        listener.kill()
    subscriber = listener.connect("subscriber", clean=False)
    while not set(acknowledged) <= set(got):
        got += [message.payload for message in subscriber.messages(1)]

    assert len(acknowledged) == 600


def test_a_retained_message_survives_a_kill(listener: ListenerProcess) -> None:
    listener.connect("p").publish("r", b"kept", 1, retain=True)
    listener.kill()

    client = listener.connect("s")
    client.subscribe(("#", 1))

    assert [(message.payload, message.retain) for message in client.messages(1)] == [(b"kept", True)]
