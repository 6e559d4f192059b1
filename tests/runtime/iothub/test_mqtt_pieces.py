"""The parts of an MQTT session, each alone: packet ids, topics that are remembered, subscriptions, credit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import LocalProtocolError, RemoteProtocolError
from messaging.identity import Identity
from messaging.mqtt.packets import Publish
from runtime.iothub.credit import ALL_BYTES, CLIENT_BYTES, Credit
from runtime.iothub.mqtt.incoming import LONGEST_REMEMBERED_BYTES, REMEMBERED_TOPICS, Incoming
from runtime.iothub.mqtt.outgoing import MOST_PACKET_IDS, Outgoing
from runtime.iothub.mqtt.subscriptions import Subscriptions
from runtime.iothub.records import Features, Telemetry
from tests.runtime.iothub.mqtt_scene import Scene, events_topic

D1 = Identity("d1")
METHODS = "$iothub/methods/POST/#"


def test_packet_ids_come_around_and_pass_over_those_in_flight() -> None:
    outgoing = Outgoing()
    outgoing.frame("t", b"", 1, lock="kept")
    for number in range(2, MOST_PACKET_IDS + 1):
        outgoing.frame("t", b"", 1)
        outgoing.acknowledged(number)

    next_frame = outgoing.frame("t", b"", 1)

    assert next_frame[-2:] == b"\x00\x02"
    assert outgoing.acknowledged(1) == "kept"
    assert outgoing.acknowledged(1) == ""


def test_without_a_free_packet_id_there_is_no_frame() -> None:
    outgoing = Outgoing()
    for _ in range(MOST_PACKET_IDS):
        outgoing.frame("t", b"", 1)

    with pytest.raises(OverflowError, match="acknowledges nothing"):
        outgoing.frame("t", b"", 1)

    outgoing.frame("t", b"", 0)


def test_a_topic_that_no_packet_can_hold_is_an_error_and_takes_no_packet_id() -> None:
    outgoing = Outgoing()

    with pytest.raises(LocalProtocolError, match="limit is 65535"):
        outgoing.frame("t" * 65_536, b"", 1)

    assert outgoing.frame("t", b"", 1)[-2:] == b"\x00\x01"


def test_topics_are_remembered_up_to_a_number_and_a_length() -> None:
    incoming = Incoming(D1)
    long = "v" * LONGEST_REMEMBERED_BYTES

    for number in [*range(REMEMBERED_TOPICS + 10), 5, 5]:
        bag = f"n={number}&l={long if number % 7 == 0 else ''}"
        message = incoming.read(Publish(events_topic("d1", bag), b""))
        assert isinstance(message, Telemetry)
        assert message.properties["n"] == str(number)

    assert len(incoming._headers) <= REMEMBERED_TOPICS


@pytest.mark.parametrize("over_bytes", [0, 1])
def test_names_and_values_count_against_the_limit_of_a_message(over_bytes: int) -> None:
    packet = Publish(events_topic("d1", "name=value"), b"x" * (262_144 - 9 + over_bytes))

    if over_bytes:
        with pytest.raises(RemoteProtocolError, match="1 bytes over"):
            Incoming(D1).read(packet)
    else:
        message = Incoming(D1).read(packet)
        assert isinstance(message, Telemetry)
        assert message.size_bytes == 262_144


@given(filters=st.lists(st.tuples(st.sampled_from([METHODS, "$iothub/twin/res/#"]), st.integers(0, 2))))
def test_kept_subscriptions_are_the_same_when_they_are_loaded(filters: list[tuple[str, int]]) -> None:
    before, after = Subscriptions(D1), Subscriptions(D1)
    for topic_filter, qos in filters:
        before.subscribe(topic_filter, qos)

    after.load(before.encode())

    assert after.encode() == before.encode()
    assert after.features == before.features == Features(methods=METHODS in dict(filters))
    assert after.qos_of("$iothub/methods/POST/m/?$rid=1") == before.qos_of("$iothub/methods/POST/m/?$rid=1")


@pytest.mark.parametrize("record", [b"", b"\xc1", b"\x81\xa1a\xa1b", b"\x93\x01\x02\x03"])
def test_a_damaged_session_is_begun_anew(
    scene: Scene, caplog: pytest.LogCaptureFixture, record: bytes
) -> None:
    scene.run(scene.hub.save_session(D1, record))

    client = scene.connect("d1", clean=False, subscribe=METHODS)

    assert not client.session_present
    assert any("is damaged" in line.getMessage() for line in caplog.records)
    client.leave()
    assert scene.connect("d1", clean=False).session_present


class _Client:
    def __init__(self) -> None:
        self.unanswered_bytes = 0
        self.held: list[str] = []

    def hold(self, reason: str) -> None:
        self.held.append(reason)

    def release(self, reason: str) -> None:
        self.held.remove(reason)


def test_all_clients_together_may_have_so_much_on_its_way() -> None:
    credit, greedy, modest = Credit(), _Client(), _Client()
    for _ in range(ALL_BYTES // CLIENT_BYTES):
        credit.take(_Client(), CLIENT_BYTES)
    greedy.unanswered_bytes, modest.unanswered_bytes = CLIENT_BYTES, 1000

    credit.take(greedy, CLIENT_BYTES)
    credit.take(modest, 1000)
    assert (greedy.held, modest.held) == (["credit"], ["credit"])
    credit.give_back(ALL_BYTES // 2 + CLIENT_BYTES + 1000)

    assert (greedy.held, modest.held) == (["credit"], [])
    greedy.unanswered_bytes = 0
    credit.give_back(CLIENT_BYTES)
    assert greedy.held == []
