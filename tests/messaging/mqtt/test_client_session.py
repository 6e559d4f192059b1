"""What a client of a broker keeps over its connections, and what it asks of each."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from messaging.mqtt.client_session import (
    ANSWER_LIMIT_S,
    IN_FLIGHT,
    QUIET_S,
    REJECTED_RETRY_S,
    STUCK_S,
    ClientSession,
    Received,
)
from messaging.mqtt.connection import ServerConnection
from messaging.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    ReturnCode,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)

KEEP_ALIVE_S = 60


class Broker:
    """The other end of a session, packet by packet, with a clock that is moved by hand."""

    def __init__(self, session: ClientSession | None = None) -> None:
        self.session = session or ClientSession()
        self.now_s = 1000.0
        self.codec = ServerConnection()
        self.sent: list[Packet] = []

    def connect(self, session_present: bool = False, code: ReturnCode = ReturnCode.ACCEPTED) -> Received:
        self.codec = ServerConnection()
        self.sent.clear()
        self.session.connect(Connect("c", False, KEEP_ALIVE_S), self.now_s)
        assert [type(packet) for packet in self.read()] == [Connect]
        answer = self.codec.send(ConnAck(code, session_present))
        if code is ReturnCode.ACCEPTED:
            self.codec.authenticated()
        return self.session.receive(answer, self.now_s)

    def read(self) -> list[Packet]:
        """Return what the session has written since the last call."""
        return self.codec.receive_data(self.session.data_to_send(self.now_s))

    def say(self, *packets: Packet) -> Received:
        return self.session.receive(b"".join(map(self.codec.send, packets)), self.now_s)

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self.session.send(number, Publish("t", b"%d" % number, 1), self.now_s)


def of(packets: Sequence[Packet], kind: type[Packet]) -> list[Packet]:
    return [packet for packet in packets if type(packet) is kind]


@pytest.fixture
def broker() -> Broker:
    broker = Broker()
    broker.connect()
    return broker


def test_messages_are_the_brokers_with_their_acknowledgements(broker: Broker) -> None:
    broker.send(7, 8)
    first, second = broker.read()

    assert isinstance(first, Publish)
    assert isinstance(second, Publish)
    assert broker.say(PubAck(first.packet_id)).taken == [7]
    assert broker.session.unacknowledged == 1
    assert broker.say(PubAck(second.packet_id)).taken == [8]


def test_no_more_are_in_flight_than_sixteen_and_each_acknowledgement_makes_room(broker: Broker) -> None:
    broker.send(*range(IN_FLIGHT))

    assert broker.session.room == 0
    broker.say(PubAck(1), PubAck(2))
    assert broker.session.room == 2


def test_what_is_in_flight_is_sent_again_in_order_before_anything_new(broker: Broker) -> None:
    broker.send(1, 2, 3)
    broker.read()
    broker.say(PubAck(2))
    broker.session.lost()

    broker.connect(session_present=True)
    broker.send(4)

    again = [
        (packet.payload, packet.dup, packet.packet_id)
        for packet in broker.read()
        if isinstance(packet, Publish)
    ]
    assert again == [(b"1", True, 1), (b"3", True, 3), (b"4", False, 4)]


def test_a_broker_that_has_lost_the_session_gets_messages_as_new_ones(broker: Broker) -> None:
    broker.send(1)
    broker.read()
    broker.session.lost()

    broker.connect(session_present=False)

    assert [packet.dup for packet in broker.read() if isinstance(packet, Publish)] == [False]


def test_nothing_may_be_sent_before_the_broker_has_accepted() -> None:
    broker = Broker()

    received = broker.connect(code=ReturnCode.NOT_AUTHORIZED)

    assert received.answer is ReturnCode.NOT_AUTHORIZED
    assert broker.session.room == 0


def test_a_message_at_qos_0_is_done_when_it_is_written(broker: Broker) -> None:
    assert broker.session.send(1, Publish("t", b"x", 0), broker.now_s)
    assert broker.read() == [Publish("t", b"x", 0)]
    assert broker.session.room == IN_FLIGHT


def test_what_arrives_is_acknowledged_when_the_caller_says_so(broker: Broker) -> None:
    received = broker.say(Publish("a", b"1", 1, 5), Publish("a", b"2", 0), Publish("a", b"3", 1, 6))

    assert [message.payload for message in received.arrived] == [b"1", b"2", b"3"]
    assert broker.read() == []
    broker.session.acknowledge(received.arrived)
    assert broker.read() == [PubAck(5), PubAck(6)]


def test_what_was_acknowledged_into_a_lost_connection_does_not_arrive_twice(broker: Broker) -> None:
    received = broker.say(Publish("a", b"1", 1, 5))
    broker.session.acknowledge(received.arrived)
    broker.session.lost()
    broker.connect(session_present=True)

    again = broker.say(Publish("a", b"1", 1, 5, dup=True), Publish("a", b"2", 1, 6))

    assert [message.payload for message in again.arrived] == [b"2"]
    assert of(broker.read(), PubAck) == [PubAck(5)]


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(Publish("a", b"2", 1, 5, dup=True), id="another body"),
        pytest.param(Publish("b", b"1", 1, 5, dup=True), id="another topic"),
        pytest.param(Publish("a", b"1", 1, 5), id="not marked as sent before"),
        pytest.param(Publish("a", b"1", 1, 6, dup=True), id="another packet id"),
    ],
)
def test_only_what_is_certainly_the_same_counts_as_known(broker: Broker, again: Publish) -> None:
    broker.session.acknowledge(broker.say(Publish("a", b"1", 1, 5)).arrived)
    broker.session.lost()
    broker.connect(session_present=True)

    assert broker.say(again).arrived == [again]


def test_a_message_that_was_never_acknowledged_arrives_again(broker: Broker) -> None:
    broker.say(Publish("a", b"1", 1, 5))
    broker.session.lost()
    broker.connect(session_present=True)

    assert len(broker.say(Publish("a", b"1", 1, 5, dup=True)).arrived) == 1


def test_qos_2_is_an_offence_that_names_the_way_out(broker: Broker) -> None:
    received = broker.say(Publish("a", b"0", 1, 4), Publish("a", b"1", 2, 5))

    assert "client id" in received.offence
    assert len(received.arrived) == 1


def test_filters_are_compared_with_what_the_broker_has(broker: Broker) -> None:
    session = broker.session
    session.want(["a/#", "b"], broker.now_s)
    [subscribe] = broker.read()
    assert subscribe == Subscribe(1, (("a/#", 1), ("b", 1)))
    broker.say(SubAck(1, (1, 1)))

    session.want(["b", "c"], broker.now_s)

    assert broker.read() == [Unsubscribe(2, ("a/#",)), Subscribe(3, (("c", 1),))]
    assert session.has_granted("b")
    assert not session.has_granted("c")
    assert session.unanswered == ("c",)
    broker.say(UnsubAck(2), SubAck(3, (0,)))
    assert session.has_granted("c")
    assert session.unanswered == ()
    assert not session.has_granted("a/#")


def test_a_filter_that_changes_its_mind_while_it_is_asked_for_ends_up_as_wanted(broker: Broker) -> None:
    session = broker.session
    session.want(["a"], broker.now_s)
    broker.read()
    session.want([], broker.now_s)
    assert broker.read() == []

    broker.say(SubAck(1, (1,)))
    assert broker.read() == [Unsubscribe(2, ("a",))]
    session.want(["a"], broker.now_s)
    assert broker.read() == []
    broker.say(UnsubAck(2))

    assert broker.read() == [Subscribe(3, (("a", 1),))]


def test_a_session_that_the_broker_kept_is_not_subscribed_again(broker: Broker) -> None:
    broker.session.want(["a"], broker.now_s)
    broker.read()
    broker.say(SubAck(1, (1,)))
    broker.session.lost()

    broker.connect(session_present=True)
    assert broker.read() == []

    broker.session.lost()
    broker.connect(session_present=False)
    assert broker.read() == [Subscribe(2, (("a", 1),))]


def test_what_an_earlier_life_subscribed_to_is_ended_by_the_next() -> None:
    broker = Broker(ClientSession({"old": True, "kept": True, "unsure": False}))
    broker.session.want(["kept", "unsure"], broker.now_s)

    broker.connect(session_present=True)

    assert broker.read() == [Unsubscribe(1, ("old",)), Subscribe(2, (("unsure", 1),))]


def test_what_the_broker_may_know_is_told_before_the_bytes_leave(broker: Broker) -> None:
    assert broker.session.held_if_changed() is None
    broker.session.want(["a"], broker.now_s)
    assert broker.session.held_if_changed() == {"a": False}
    broker.read()
    assert broker.session.held_if_changed() is None
    broker.say(SubAck(1, (1,)))
    assert broker.session.held_if_changed() == {"a": True}


def test_a_rejected_filter_is_tried_again_after_ten_seconds(broker: Broker) -> None:
    broker.session.want(["a", "b"], broker.now_s)
    broker.read()

    received = broker.say(SubAck(1, (0x80, 1)))

    assert received.rejected == ["a"]
    assert (broker.session.rejected, broker.session.unanswered) == (("a",), ())
    broker.now_s += REJECTED_RETRY_S - 1
    broker.session.tick(broker.now_s)
    assert broker.read() == []
    broker.now_s += 1
    broker.session.tick(broker.now_s)
    assert of(broker.read(), Subscribe) == [Subscribe(2, (("a", 1),))]
    broker.say(SubAck(2, (1,)))
    assert broker.session.rejected == ()


def test_many_filters_are_asked_for_a_hundred_at_a_time(broker: Broker) -> None:
    broker.session.want([f"t/{n}" for n in range(250)], broker.now_s)

    asked = broker.read()

    assert [len(packet.topic_filters) for packet in asked if isinstance(packet, Subscribe)] == [100, 100, 50]


def test_a_silent_broker_is_asked_for_a_sign_of_life_and_then_given_up(broker: Broker) -> None:
    broker.now_s += KEEP_ALIVE_S / 2
    assert broker.session.tick(broker.now_s) == ""
    assert broker.read() == [PingReq()]
    broker.say(PingResp())
    broker.now_s += KEEP_ALIVE_S / 2
    broker.session.tick(broker.now_s)
    assert broker.read() == [PingReq()]

    broker.now_s += ANSWER_LIMIT_S + 1

    assert "no sign of life" in broker.session.tick(broker.now_s)


def test_a_broker_that_owes_an_answer_is_asked_sooner(broker: Broker) -> None:
    broker.send(1)
    broker.read()
    broker.now_s += QUIET_S

    assert broker.session.tick(broker.now_s) == ""

    assert broker.read() == [PingReq()]


def test_a_broker_that_lives_and_never_acknowledges_is_left(broker: Broker) -> None:
    broker.send(1)
    broker.read()
    ended = ""
    for _ in range(int(STUCK_S) + 2):
        broker.now_s += 1
        ended = ended or broker.session.tick(broker.now_s)
        for packet in broker.read():
            if isinstance(packet, PingReq):
                broker.say(PingResp())

    assert "not acknowledged" in ended


def test_silence_says_nothing_while_the_socket_is_not_read(broker: Broker) -> None:
    broker.send(1)
    broker.read()
    pings = 0
    for _ in range(100):
        broker.now_s += 1
        assert broker.session.tick(broker.now_s, is_listening=False) == ""
        pings += len(of(broker.read(), PingReq))

    assert pings, "the broker would have given us up"


def test_no_answer_to_connect_ends_the_attempt() -> None:
    broker = Broker()
    broker.session.connect(Connect("c", False, KEEP_ALIVE_S), broker.now_s)

    assert broker.session.tick(broker.now_s + ANSWER_LIMIT_S) == ""
    assert "CONNECT" in broker.session.tick(broker.now_s + ANSWER_LIMIT_S + 1)


def test_goodbye_is_said_once(broker: Broker) -> None:
    broker.session.disconnect()
    broker.session.disconnect()

    assert broker.read() == [Disconnect()]


def test_packet_ids_go_round_without_meeting_one_in_flight(broker: Broker) -> None:
    broker.send(0)
    ids: list[int] = []
    for number in range(70_000):
        broker.session.send(number, Publish("t", b"", 1), broker.now_s)
        ids.append(broker.session._last_id)
        broker.session.data_to_send(broker.now_s)
        broker.say(PubAck(ids[-1]))

    assert 1 not in ids
    assert max(ids) == 65_535
