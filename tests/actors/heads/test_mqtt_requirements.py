"""Every requirement of MQTT 3.1.1 that a server has to meet, by its number, in bytes.

One test id a number; the list is that of the spec sheet broker.md section 11. A requirement on clients (C)
is shown by what the server does with one that keeps to it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from messaging.broker.policy import ClientOfBroker, Operation
from scripts.mqtt_test_listener import NOT_TO_SUBSCRIBE, OpenPolicy
from tests.actors.broker_world import (
    ACCEPTED,
    ACCEPTED_PRESENT,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    BrokerWorld,
    Link,
    ack,
    connect,
    packet,
    publish,
    subscribe,
    text,
    unsubscribe,
)

Scenario = Callable[[BrokerWorld], None]
SCENARIOS: dict[str, list[Scenario]] = {}

NUMBERS = [
    "1.5.3-1",
    "1.5.3-2",
    "1.5.3-3",
    "2.2.2-1",
    "2.2.2-2",
    "2.2.3",
    "2.3.1-1",
    "2.3.1-2",
    "2.3.1-3",
    "2.3.1-4",
    "2.3.1-5",
    "2.3.1-6",
    "2.3.1-7",
    "3.1.0-1",
    "3.1.0-2",
    "3.1.2-1",
    "3.1.2-2",
    "3.1.2-3",
    "3.1.2-4",
    "3.1.2-5",
    "3.1.2-6",
    "3.1.2-7",
    "3.1.2-8",
    "3.1.2-9",
    "3.1.2-10",
    "3.1.2-11",
    "3.1.2-12",
    "3.1.2-13",
    "3.1.2-14",
    "3.1.2-15",
    "3.1.2-16",
    "3.1.2-17",
    "3.1.2-18",
    "3.1.2-19",
    "3.1.2-20",
    "3.1.2-21",
    "3.1.2-22",
    "3.1.2-23",
    "3.1.2-24",
    "3.1.3-1",
    "3.1.3-2",
    "3.1.3-3",
    "3.1.3-4",
    "3.1.3-5",
    "3.1.3-6",
    "3.1.3-7",
    "3.1.3-8",
    "3.1.3-9",
    "3.1.3-10",
    "3.1.3-11",
    "3.1.4-1",
    "3.1.4-2",
    "3.1.4-3",
    "3.1.4-4",
    "3.1.4-5",
    "3.2.0-1",
    "3.2.2-1",
    "3.2.2-2",
    "3.2.2-3",
    "3.2.2-4",
    "3.2.2-5",
    "3.2.2-6",
    "3.3.1-1",
    "3.3.1-2",
    "3.3.1-3",
    "3.3.1-4",
    "3.3.1-5",
    "3.3.1-6",
    "3.3.1-7",
    "3.3.1-8",
    "3.3.1-9",
    "3.3.1-10",
    "3.3.1-11",
    "3.3.1-12",
    "3.3.2-1",
    "3.3.2-2",
    "3.3.2-3",
    "3.3.4-1",
    "3.3.5-1",
    "3.3.5-2",
    "3.6.1-1",
    "4.3.1-1",
    "4.3.2-1",
    "4.3.2-2",
    "4.3.3-1",
    "4.3.3-2",
    "4.4.0-1",
    "3.8.1-1",
    "3.8.3-1",
    "3.8.3-2",
    "3.8.3-3",
    "3.8.3-4",
    "3.8.4-1",
    "3.8.4-2",
    "3.8.4-3",
    "3.8.4-4",
    "3.8.4-5",
    "3.8.4-6",
    "3.9.3-1",
    "3.9.3-2",
    "3.10.1-1",
    "3.10.3-1",
    "3.10.3-2",
    "3.10.4-1",
    "3.10.4-2",
    "3.10.4-3",
    "3.10.4-4",
    "3.10.4-5",
    "3.10.4-6",
    "3.12.4-1",
    "3.14.1-1",
    "3.14.4-1",
    "3.14.4-2",
    "3.14.4-3",
    "4.1.0-1",
    "4.1.0-2",
    "4.5.0-1",
    "4.5.0-2",
    "4.6.0-1",
    "4.6.0-2",
    "4.6.0-3",
    "4.6.0-4",
    "4.6.0-5",
    "4.6.0-6",
    "4.7.1-1",
    "4.7.1-2",
    "4.7.1-3",
    "4.7.2-1",
    "4.7.3-1",
    "4.7.3-2",
    "4.7.3-3",
    "4.7.3-4",
    "4.8.0-1",
    "4.8.0-2",
    "7.0.0-1",
]
ELSEWHERE = {  # of WebSocket, in tests/runtime/net/test_web_listener.py
    "6.0.0-1": "test_peer_that_breaks_the_rules_is_told_why_and_nobody_else_notices",
    "6.0.0-2": "test_packets_may_span_and_share_frames",
    "6.0.0-3": "test_upgrade_is_for_mqtt_on_one_path",
    "6.0.0-4": "test_each_subprotocol_has_its_own_handler",
}


def requirement(*numbers: str) -> Callable[[Scenario], Scenario]:
    """Say which requirements a scenario shows."""

    def note(scenario: Scenario) -> Scenario:
        for number in numbers:
            SCENARIOS.setdefault(number, []).append(scenario)
        return scenario

    return note


@pytest.fixture
def world(tmp_path: Path) -> BrokerWorld:
    return BrokerWorld(tmp_path)


def closes(number: str, *data: bytes, after: bytes = b"") -> None:
    """These bytes, on a connection where `after` was sent and answered, end it without an answer."""

    def scenario(world: BrokerWorld) -> None:
        for wrong in data:
            link = world.open()
            if after:
                link.send(after)
                assert link.take() == ACCEPTED
            link.send(wrong)
            assert link.is_closed, wrong
            assert link.take() == b"", wrong

    requirement(number)(scenario)


CONNECTED = connect("breaks rules")

closes(
    "1.5.3-1", publish(b"\xed\xa0\x80"), subscribe(1, (b"\xed\xa0\x80", 0)), publish(b"\xff"), after=CONNECTED
)
closes("1.5.3-2", publish("a\0b"), subscribe(1, ("a\0b", 0)), unsubscribe(1, "a\0b"), after=CONNECTED)
closes("2.2.2-1", b"\x41\x02\x00\x01", b"\xc1\x00", after=CONNECTED)
closes("2.2.2-2", b"\x52\x02\x00\x01", b"\x72\x02\x00\x01", b"\x00\x00", b"\xf0\x00", after=CONNECTED)
closes("2.2.3", b"\x30\xff\xff\xff\xff\x01", after=CONNECTED)
closes("2.3.1-1", publish("a", b"", 1, 0), subscribe(0, ("a", 0)), unsubscribe(0, "a"), after=CONNECTED)
closes("3.1.0-1", PINGREQ, publish("a"), subscribe(1, ("a", 0)), DISCONNECT)
closes("3.1.0-2", connect("again"), after=CONNECTED)
closes("3.1.2-1", connect(name="hj"), connect(name="MQIsdp"), connect(name="mqtt"))
closes("3.1.2-3", connect(flags=0x03))
closes("3.1.2-9", connect(flags=0x06))
closes("3.1.2-11", connect(flags=0x02, payload=text("c") + text("t") + text(b"m")))
closes("3.1.2-13", connect(flags=0x0A))
closes("3.1.2-14", connect(flags=0x1E, payload=text("c") + text("t") + text(b"m")))
closes("3.1.2-15", connect(flags=0x22))
closes("3.1.2-18", connect(flags=0x02, payload=text("c") + text("user")))
closes("3.1.2-19", connect(flags=0x82))
closes("3.1.2-20", connect(flags=0x82, payload=text("c") + text("user") + text(b"password")))
closes("3.1.2-21", connect(flags=0xC2, payload=text("c") + text("user")))
closes("3.1.2-22", connect(flags=0x42, payload=text("c") + text(b"password")))
closes("3.1.3-1", connect(flags=0x06, payload=text("c") + text("t")))
closes("3.1.3-3", connect(payload=b""), connect(payload=b"\x00"))
closes("3.1.3-4", connect(b"\xed\xa0\x80"), connect(b"\xff"), connect("a\0"))
closes("3.1.3-10", connect(flags=0x06, payload=text("c") + text(b"\xff") + text(b"m")))
closes("3.1.3-11", connect(flags=0x82, payload=text("c") + text(b"\xff")))
closes("3.1.4-1", packet(0x10, b"\x00\x04MQTT"), packet(0x10, bytes(range(40))), b"\x12\x00")
closes("3.3.1-2", publish("a", dup=True), after=CONNECTED)
closes("3.3.1-4", b"\x36" + publish("a", b"", 1, 1)[1:], after=CONNECTED)
closes("3.3.2-1", packet(0x30, b"\x00\x05abc"), packet(0x30, b"\x00"), packet(0x30), after=CONNECTED)
closes("3.3.2-2", publish("a/+"), publish("#"), publish("a/#"), after=CONNECTED)
closes("3.6.1-1", b"\x60\x02\x00\x01", b"\x61\x02\x00\x01", after=CONNECTED)
closes("3.8.1-1", b"\x80" + subscribe(1, ("a", 0))[1:], after=CONNECTED)
closes("3.8.3-1", subscribe(1, (b"\xff", 0)), after=CONNECTED)
closes("3.8.3-3", packet(0x82, b"\x00\x01"), after=CONNECTED)
closes("3.8.3-4", subscribe(1, ("a", 3)), subscribe(1, ("a", 4)), subscribe(1, ("a", 0x81)), after=CONNECTED)
closes("3.10.1-1", b"\xa0" + unsubscribe(1, "a")[1:], after=CONNECTED)
closes("3.10.3-1", packet(0xA2, b"\x00\x01" + text(b"\xff")), after=CONNECTED)
closes("3.10.3-2", packet(0xA2, b"\x00\x01"), after=CONNECTED)
closes("3.14.1-1", b"\xe1\x00", b"\xe8\x00", after=CONNECTED)
closes("4.7.1-1", publish("+"), publish("a/+/b"), after=CONNECTED)
closes(
    "4.7.1-2", subscribe(1, ("a#", 0)), subscribe(1, ("a/#/b", 0)), subscribe(1, ("##", 0)), after=CONNECTED
)
closes(
    "4.7.1-3",
    subscribe(1, ("a+", 0)),
    subscribe(1, ("+a/b", 0)),
    subscribe(1, ("a/b+/c", 0)),
    after=CONNECTED,
)
closes("4.7.3-1", subscribe(1, ("", 0)), unsubscribe(1, ""), publish(""), after=CONNECTED)
closes("4.7.3-2", publish("\0"), subscribe(1, ("\0", 0)), after=CONNECTED)
closes(
    "4.8.0-1", b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x00", b"\xd0\x00", b"\xb0\x02\x00\x01", after=CONNECTED
)


@requirement("1.5.3-3")
def a_byte_order_mark_is_a_character(world: BrokerWorld) -> None:
    link = world.subscriber("\ufeffa")
    other = world.connect()

    other.send(publish("a", b"without"), publish("\ufeffa", b"with"))

    assert [(m.topic, m.body) for m in link.messages()] == [("\ufeffa", b"with")]


@requirement("2.3.1-2", "2.3.1-3", "4.5.0-2")
def a_client_may_use_its_packet_ids_again(world: BrokerWorld) -> None:
    link = world.subscriber("a", qos=1, client_id="s")
    other = world.connect()
    for body in (b"1", b"2"):
        other.send(publish("a", body, 1, 7))
        assert other.take() == ack(0x40, 7)

    got = link.messages()
    assert [message.body for message in got] == [b"1", b"2"]
    link.send(*(ack(0x40, message.packet_id) for message in got))
    assert not link.is_closed


@requirement("2.3.1-4")
def packet_ids_of_the_server_are_never_0_nor_used_twice(world: BrokerWorld) -> None:
    link = world.subscriber("a", qos=1, client_id="s")
    other = world.connect()
    other.send(publish("a", b"stays", 1, 1))
    [stays] = link.messages()

    for _ in range(70_000 // 15):
        other.send(*[publish("a", b"", 1, n) for n in range(1, 16)])
        ids = [message.packet_id for message in link.messages()]
        assert len(set(ids)) == 15
        assert 0 not in ids
        assert stays.packet_id not in ids
        link.send(*(ack(0x40, packet_id) for packet_id in ids))


@requirement("2.3.1-5", "4.3.1-1")
def qos_0_has_no_packet_id_and_is_sent_once(world: BrokerWorld) -> None:
    link = world.subscriber("a", qos=2, client_id="s", clean=False)

    world.connect().send(publish("a", b"body"))

    assert link.take() == b"\x30\x07\x00\x01abody"
    link.lose()
    assert world.connect("s", clean=False).take() == b""


@requirement("2.3.1-6", "3.3.4-1")
def answers_echo_the_packet_id_of_the_publish(world: BrokerWorld) -> None:
    link = world.connect()

    assert link.send(publish("a", b"", 0)).take() == b""
    assert link.send(publish("a", b"", 1, 513)).take() == b"\x40\x02\x02\x01"
    assert link.send(publish("a", b"", 2, 514)).take() == b"\x50\x02\x02\x02"
    assert link.send(ack(0x62, 514)).take() == b"\x70\x02\x02\x02"


@requirement("2.3.1-7", "3.8.4-1", "3.8.4-2", "3.10.4-4", "3.10.4-5", "3.10.4-6")
def suback_and_unsuback_echo_the_packet_id(world: BrokerWorld) -> None:
    link = world.connect()

    assert link.send(subscribe(513, ("a", 1))).take() == b"\x90\x03\x02\x01\x01"
    assert link.send(unsubscribe(514, "a", "never/subscribed")).take() == b"\xb0\x02\x02\x02"
    assert link.send(unsubscribe(515, "never/subscribed")).take() == b"\xb0\x02\x02\x03"


@requirement("3.1.2-2")
@requirement("3.2.2-4", "3.2.2-5")
def another_level_is_answered_with_1_and_closed(world: BrokerWorld) -> None:
    for level in (3, 5, 0, 255):
        link = world.open().send(connect(level=level))
        assert link.take() == b"\x20\x02\x00\x01"
        assert link.is_closed


@requirement("3.1.2-4", "4.1.0-1", "4.1.0-2")
def a_session_survives_its_connection_and_the_process(world: BrokerWorld) -> None:
    world.subscriber("a", client_id="s", clean=False).lose()
    world.kill()

    link = world.connect("s", clean=False)
    world.connect().send(publish("a", b"still", 1, 1))

    assert link.bodies() == [b"still"]


@requirement("3.1.2-5", "4.5.0-1")
def messages_for_a_client_that_is_away_are_kept_on_disk(world: BrokerWorld) -> None:
    world.subscriber("+/+", client_id="s", clean=False).send(DISCONNECT)
    other = world.connect()
    other.send(publish("a/b", b"1", 1, 1), publish("a/c", b"2", 2, 2))
    assert other.take() == ack(0x40, 1) + ack(0x50, 2)
    world.kill()

    got = world.connect("s", clean=False).messages()

    assert [(message.topic, message.body, message.qos) for message in got] == [
        ("a/b", b"1", 1),
        ("a/c", b"2", 2),
    ]


@requirement("3.1.2-6", "3.2.2-1")
def a_clean_session_drops_the_state_before_and_ends_with_its_link(world: BrokerWorld) -> None:
    world.subscriber("a", client_id="s", clean=False).lose()

    assert world.open().send(connect("s", clean=True)).take() == ACCEPTED
    world.connect().send(publish("a", b"for nobody", 1, 1))
    last = world.open().send(connect("s", clean=False))

    assert last.take() == ACCEPTED


@requirement("3.1.2-7", "3.3.1-5")
def retained_messages_are_nobodys_session(world: BrokerWorld) -> None:
    world.connect("p").send(publish("a", b"old", 1, 1, retain=True), publish("a", b"new", 0, retain=True))
    world.connect("p", clean=True).lose()
    world.kill()

    link = world.connect("s").send(subscribe(1, ("a", 1)))

    assert link.packets()[0][0] == 0x90
    link = world.connect("t").send(subscribe(1, ("a", 1)))
    assert link.take() == b"\x90\x03\x00\x01\x01" + b"\x31\x06\x00\x01anew"


def will_of(world: BrokerWorld, keep_alive_s: int = 0) -> Link:
    return world.connect("mortal", will=("w", b"gone", 1, False), keep_alive_s=keep_alive_s)


@requirement("3.1.2-8")
def a_will_is_sent_when_the_link_breaks(world: BrokerWorld) -> None:
    heirs = world.subscriber("w")
    will_of(world).lose()
    assert heirs.bodies() == [b"gone"]


@requirement("3.1.2-8", "3.1.2-24")
def a_will_is_sent_when_the_keep_alive_has_passed(world: BrokerWorld) -> None:
    heirs = world.subscriber("w")
    link = will_of(world, keep_alive_s=2)
    world.advance(3)
    assert not link.is_closed
    world.advance(1)
    assert link.is_closed
    assert heirs.bodies() == [b"gone"]


@requirement("3.1.2-8", "3.14.1-1")
def a_will_is_sent_after_a_protocol_error(world: BrokerWorld) -> None:
    heirs = world.subscriber("w")
    will_of(world).send(b"\xe1\x00")
    assert heirs.bodies() == [b"gone"]


@requirement("3.1.2-8", "3.1.4-2")
def a_will_is_sent_when_the_client_connects_again(world: BrokerWorld) -> None:
    heirs = world.subscriber("w")
    link = will_of(world)
    world.connect("mortal")
    assert link.is_closed
    assert heirs.bodies() == [b"gone"]


@requirement("3.1.2-10", "3.14.4-3", "3.14.4-1", "3.14.4-2")
def a_disconnect_removes_the_will_and_ends_the_link(world: BrokerWorld) -> None:
    heirs = world.subscriber("#")
    link = will_of(world).send(DISCONNECT, publish("too/late", b"x"))
    assert link.is_closed
    link.lose()
    world.connect("mortal").lose()
    assert heirs.bodies() == []


@requirement("3.1.2-10")
def a_will_is_sent_once(world: BrokerWorld) -> None:
    heirs = world.subscriber("w")
    link = will_of(world)
    link.send(b"\xf0\x00")
    link.lose()
    world.connect("mortal")
    assert heirs.bodies() == [b"gone"]


@requirement("3.1.2-12")
def without_a_will_nothing_is_sent(world: BrokerWorld) -> None:
    heirs = world.subscriber("#")
    world.connect("mortal").lose()
    assert heirs.take() == b""


@requirement("3.1.2-16")
def a_will_without_retain_is_not_retained(world: BrokerWorld) -> None:
    will_of(world).lose()
    link = world.connect().send(subscribe(1, ("w", 0)))
    assert link.take() == b"\x90\x03\x00\x01\x00"


@requirement("3.1.2-17")
def a_will_with_retain_is_retained(world: BrokerWorld) -> None:
    world.connect("mortal", will=("w", b"gone", 0, True)).lose()
    link = world.connect().send(subscribe(1, ("w", 0)))
    assert link.take() == b"\x90\x03\x00\x01\x00" + b"\x31\x07\x00\x01wgone"


@requirement("3.1.2-23")
def a_client_that_pings_in_time_stays(world: BrokerWorld) -> None:
    link = world.connect(keep_alive_s=2)
    for _ in range(10):
        world.advance(2)
        assert link.send(PINGREQ).take() == PINGRESP
    assert not link.is_closed


@requirement("3.1.2-24")
def without_keep_alive_nobody_is_closed(world: BrokerWorld) -> None:
    link = world.connect(keep_alive_s=0)
    world.advance(3000)
    assert not link.is_closed


@requirement("3.1.3-2")
def state_is_that_of_a_client_id(world: BrokerWorld) -> None:
    world.subscriber("a", client_id="one", clean=False).lose()
    assert world.open().send(connect("two", clean=False)).take() == ACCEPTED
    assert world.open().send(connect("one", clean=False)).take() == ACCEPTED_PRESENT


@requirement("3.1.3-5")
def client_ids_of_1_to_23_letters_and_digits_are_taken(world: BrokerWorld) -> None:
    for client_id in (
        "a",
        "0123456789abcdefghijklm",
        "0123456789ABCDEFGHIJKLM",
        "nopqrstuvwxyz",
        "NOPQRSTUVWXYZ",
    ):
        assert world.open().send(connect(client_id)).take() == ACCEPTED


@requirement("3.1.3-6")
def two_clients_without_an_id_are_two(world: BrokerWorld) -> None:
    first, second = world.open().send(connect("")), world.open().send(connect(""))
    assert first.take() == second.take() == ACCEPTED
    assert first.send(PINGREQ).take() == PINGRESP
    assert not first.is_closed


@requirement("3.1.3-7", "3.1.3-8", "3.1.3-9", "3.2.2-5")
def no_client_id_and_no_clean_session_is_answered_with_2_and_closed(world: BrokerWorld) -> None:
    link = world.open().send(connect("", clean=False))
    assert link.take() == b"\x20\x02\x00\x02"
    assert link.is_closed


@requirement("3.1.4-3", "3.1.4-4", "3.2.0-1")
def connack_comes_first_and_before_what_is_owed(world: BrokerWorld) -> None:
    world.subscriber("a", client_id="s", clean=False).lose()
    world.connect().send(publish("a", b"owed", 1, 1))

    link = world.open().send(connect("s", clean=False), PINGREQ)

    assert [first & 0xF0 for first, _ in link.packets()] == [0x20, 0x30, 0xD0]


@requirement("3.1.4-5", "3.2.2-6")
def after_a_refused_connect_nothing_is_processed(world: BrokerWorld) -> None:
    witness = world.subscriber("#")
    for refused in (connect("", clean=False), connect(level=5), connect(name="hj"), connect(flags=0x03)):
        link = world.open().send(refused, publish("a", b"not to be seen"))
        assert link.is_closed
    assert witness.take() == b""


@requirement("3.2.2-2", "3.2.2-3")
def session_present_says_whether_there_was_state(world: BrokerWorld) -> None:
    first = world.open().send(connect("s", clean=False))
    assert first.take() == ACCEPTED
    first.send(DISCONNECT)
    assert world.open().send(connect("s", clean=False)).take() == ACCEPTED_PRESENT
    world.advance(1)
    world.kill()
    assert world.open().send(connect("s", clean=False)).take() == ACCEPTED_PRESENT


@requirement("3.3.1-1", "3.3.1-3", "4.3.2-1")
def dup_of_a_delivery_is_the_servers_own(world: BrokerWorld) -> None:
    link = world.subscriber("a", qos=1, client_id="s", clean=False)

    world.connect().send(publish("a", b"x", 1, 5, dup=True))
    [first] = link.messages()
    assert not first.dup
    link.lose()
    [again] = world.connect("s", clean=False).messages()

    assert (again.dup, again.packet_id, again.body) == (True, first.packet_id, b"x")


@requirement("3.3.1-6", "3.3.1-8")
def a_new_subscription_gets_the_retained_message_of_each_topic(world: BrokerWorld) -> None:
    publisher = world.connect("p")
    for topic in ("a/1", "a/2", "b/3", "a/1/deep", "$x/y"):
        publisher.send(publish(topic, topic.encode(), 0, retain=True))

    link = world.connect("s").send(subscribe(1, ("+/+", 1)))

    received = link.packets()
    assert received[0] == (0x90, b"\x00\x01\x01")
    assert all(first == 0x31 for first, _ in received[1:])
    assert {body[2:5] for _, body in received[1:]} == {b"a/1", b"a/2", b"b/3"}


@requirement("3.3.1-7")
def a_retained_message_of_qos_0_takes_the_place_of_another(world: BrokerWorld) -> None:
    world.connect("p").send(publish("a", b"1", 2, 1, retain=True), publish("a", b"2", 0, retain=True))
    link = world.connect("s").send(subscribe(1, ("a", 2)))
    assert link.take() == b"\x90\x03\x00\x01\x02" + b"\x31\x04\x00\x01a2"


@requirement("3.3.1-9")
def who_is_subscribed_gets_retained_messages_without_the_flag(world: BrokerWorld) -> None:
    link = world.subscriber("a", qos=0)
    world.connect("p").send(publish("a", b"x", 0, retain=True))
    assert link.take() == b"\x30\x04\x00\x01ax"


@requirement("3.3.1-10", "3.3.1-11")
def an_empty_retained_message_is_forwarded_and_removes_the_one_there_is(world: BrokerWorld) -> None:
    link = world.subscriber("a", qos=0)
    publisher = world.connect("p")
    publisher.send(publish("a", b"x", 0, retain=True), publish("a", b"", 0, retain=True))
    assert link.bodies() == [b"x", b""]
    assert world.connect("s").send(subscribe(1, ("#", 0))).take() == b"\x90\x03\x00\x01\x00"
    world.advance(1)
    world.kill()
    assert world.connect("s").send(subscribe(1, ("#", 0))).take() == b"\x90\x03\x00\x01\x00"


@requirement("3.3.1-12")
def a_message_without_retain_leaves_the_retained_one(world: BrokerWorld) -> None:
    world.connect("p").send(
        publish("a", b"kept", 0, retain=True), publish("a", b"passes", 0), publish("a", b"", 0)
    )
    assert world.connect("s").send(subscribe(1, ("a", 0))).take().endswith(b"\x31\x07\x00\x01akept")


@requirement("3.3.2-3")
def what_is_delivered_matches_the_filter(world: BrokerWorld) -> None:
    topics = ["a", "a/", "a/b", "a/b/c", "/a", "A", "$a/b", "b/a", "a//b", "ab"]
    wanted = {
        "a/#": {"a", "a/", "a/b", "a/b/c", "a//b"},
        "a/+": {"a/", "a/b"},
        "+": {"a", "A", "ab"},
        "+/+": {"a/", "a/b", "/a", "b/a"},
        "/+": {"/a"},
        "#": set(topics) - {"$a/b"},
        "$a/#": {"$a/b"},
        "a/+/b": {"a//b"},
        "+/b/#": {"a/b", "a/b/c"},
    }
    links = {name: world.subscriber(name, qos=0, client_id=f"s{name}") for name in wanted}

    world.connect("p").send(*(publish(topic) for topic in topics))

    assert {name: {message.topic for message in link.messages()} for name, link in links.items()} == wanted


@requirement("3.3.5-1")
def overlapping_filters_bring_one_copy_at_the_highest_qos(world: BrokerWorld) -> None:
    link = world.connect("s").send(subscribe(1, ("TopicA/#", 2), ("TopicA/+", 1), ("#", 0)))
    link.take()
    world.connect("p").send(publish("TopicA/C", b"x", 2, 1))
    assert [message.qos for message in link.messages()] == [2]


class NoSecrets(OpenPolicy):
    """Nobody may publish to `secret`."""

    def may(self, who: ClientOfBroker, operation: Operation, topic_or_filter: str = "") -> bool:
        return not (operation is Operation.PUBLISH and topic_or_filter == "secret")


def test_3_3_5_2_a_publish_that_is_not_allowed_closes_the_link_and_goes_nowhere(tmp_path: Path) -> None:
    world = BrokerWorld(tmp_path, policy=NoSecrets())
    witness = world.subscriber("#")
    link = world.connect("p", will=("w", b"gone", 0, False))

    link.send(publish("a", b"before"), publish("secret", b"x", 1, 1), publish("a", b"after"))

    assert link.is_closed
    assert link.take() == b""
    assert witness.bodies() == [b"before", b"gone"]


@requirement("3.3.5-2")
def a_publish_to_an_iothub_topic_of_somebody_else_closes_the_link(world: BrokerWorld) -> None:
    witness = world.subscriber("#")
    link = world.connect("p").send(publish("devices/other/messages/events/", b"x", 1, 1))
    assert link.is_closed
    assert (link.take(), witness.take()) == (b"", b"")


@requirement("4.3.2-2")
def after_puback_the_packet_id_means_a_new_message(world: BrokerWorld) -> None:
    link = world.subscriber("a", qos=1)
    publisher = world.connect("p")
    publisher.send(publish("a", b"1", 1, 5))
    publisher.send(publish("a", b"2", 1, 5))
    assert publisher.take() == ack(0x40, 5) * 2
    assert link.bodies() == [b"1", b"2"]


@requirement("4.3.3-1")
def a_qos_2_delivery_is_publish_pubrec_pubrel_pubcomp(world: BrokerWorld) -> None:
    link = world.subscriber("a", client_id="s", clean=False)
    world.connect("p").send(publish("a", b"x", 2, 1))
    [message] = link.messages()
    assert (message.qos, message.dup) == (2, False)
    assert link.send(ack(0x50, message.packet_id)).take() == ack(0x62, message.packet_id)
    link.lose()

    link = world.connect("s", clean=False)  # between PUBREC and PUBCOMP: PUBREL alone, under its packet id
    assert link.take() == ack(0x62, message.packet_id)
    link.lose()
    world.kill()
    link = world.connect("s", clean=False)
    assert link.take() == ack(0x62, message.packet_id)
    assert link.send(ack(0x70, message.packet_id)).take() == b""
    link.lose()

    assert world.connect("s", clean=False).take() == b""


@requirement("4.3.3-2")
def a_qos_2_publish_that_comes_twice_is_delivered_once(world: BrokerWorld) -> None:
    link = world.subscriber("a", qos=0)
    publisher = world.connect("p", clean=False)
    publisher.send(publish("a", b"x", 2, 5))
    publisher.send(publish("a", b"x", 2, 5, dup=True))
    assert publisher.take() == ack(0x50, 5) * 2
    publisher.lose()
    world.kill()
    link = world.subscriber("a", qos=0)
    publisher = world.connect("p", clean=False)
    assert publisher.send(publish("a", b"x", 2, 5, dup=True)).take() == ack(0x50, 5)
    assert link.bodies() == []

    assert publisher.send(ack(0x62, 5), publish("a", b"y", 2, 5)).take() == ack(0x70, 5) + ack(0x50, 5)
    assert publisher.send(ack(0x62, 5)).take() == ack(0x70, 5)
    assert publisher.send(ack(0x62, 5)).take() == ack(0x70, 5)  # one that is not known is answered, too

    assert link.bodies() == [b"y"]


@requirement("4.4.0-1", "4.6.0-1")
def what_was_not_acknowledged_is_sent_again_in_order_under_its_ids(world: BrokerWorld) -> None:
    for end in ("lose", "kill"):
        link = world.subscriber("a", client_id=end, clean=False)
        world.connect("p").send(*(publish("a", bytes([n]), 1 + n % 2, n) for n in range(1, 11)))
        first = link.messages()
        link.send(ack(0x40, first[1].packet_id), ack(0x50, first[2].packet_id))
        link.take()
        if end == "lose":
            link.lose()
        else:
            world.advance(1)
            world.kill()

        *again, (release, body) = world.connect(end, clean=False).packets()

        assert (release, int.from_bytes(body, "big")) == (0x62, first[2].packet_id)
        ids = [int.from_bytes(body[3:5], "big") for _, body in again]
        assert ids == [message.packet_id for n, message in enumerate(first) if n not in (1, 2)]
        assert all(head & 0x08 for head, _ in again)


@requirement("3.8.3-2")
def filters_may_have_wildcards(world: BrokerWorld) -> None:
    assert world.connect().send(subscribe(1, ("+/#", 1))).take() == b"\x90\x03\x00\x01\x01"


@requirement("3.8.4-3")
def the_same_filter_again_replaces_the_one_before(world: BrokerWorld) -> None:
    world.connect("p").send(publish("a", b"kept", 0, retain=True))
    link = world.connect("s")
    kept = b"\x31\x07\x00\x01akept"
    assert link.send(subscribe(1, ("a", 0))).take() == b"\x90\x03\x00\x01\x00" + kept
    assert link.send(subscribe(2, ("a", 1))).take() == b"\x90\x03\x00\x02\x01" + kept
    world.connect("p").send(publish("a", b"live", 1, 1))
    assert [(message.body, message.qos) for message in link.messages()] == [(b"live", 1)]


@requirement("3.8.4-4")
def several_filters_in_one_packet_are_as_several_packets(world: BrokerWorld) -> None:
    link = world.connect("s")
    assert link.send(subscribe(1, ("a", 0), ("b", 1), ("a", 2))).take() == b"\x90\x05\x00\x01\x00\x01\x02"
    world.connect("p").send(publish("a", b"x", 2, 1), publish("b", b"y", 2, 2))
    assert [(message.topic, message.qos) for message in link.messages()] == [("a", 2), ("b", 1)]


@requirement("3.8.4-5", "3.9.3-1", "3.9.3-2")
def each_filter_has_its_return_code_in_order(world: BrokerWorld) -> None:
    link = world.connect()
    link.send(
        subscribe(9, ("a", 1), (NOT_TO_SUBSCRIBE, 1), ("b", 2), ("c", 0), ("devices/x/messages/events/#", 1))
    )
    assert link.take() == b"\x90\x07\x00\x09\x01\x80\x02\x00\x80"


@requirement("3.8.4-6")
def delivery_is_at_the_lower_of_both_qos(world: BrokerWorld) -> None:
    links = [world.subscriber("a", qos=qos, client_id=f"s{qos}") for qos in (0, 1, 2)]
    publisher = world.connect("p")
    for qos in (0, 1, 2):
        publisher.send(publish("a", b"x", qos, qos + 1))
        assert [link.messages()[0].qos for link in links] == [min(qos, granted) for granted in (0, 1, 2)]


@requirement("3.10.4-1")
def a_filter_is_removed_by_its_very_text(world: BrokerWorld) -> None:
    link = world.subscriber("a/b", "a/c", qos=0)
    link.send(unsubscribe(2, "a/+", "A/b", "a/b/"))
    link.take()
    world.connect("p").send(publish("a/b", b"x"))
    assert link.bodies() == [b"x"]


@requirement("3.10.4-2", "3.10.4-3")
def after_unsubscribe_comes_nothing_new_and_what_was_begun_is_finished(world: BrokerWorld) -> None:
    link = world.subscriber("a", client_id="s", clean=False)
    publisher = world.connect("p")
    publisher.send(publish("a", b"1", 2, 1))
    [message] = link.messages()
    assert link.send(unsubscribe(2, "a")).take() == ack(0xB0, 2)
    publisher.send(publish("a", b"2", 2, 2))
    assert link.send(ack(0x50, message.packet_id)).take() == ack(0x62, message.packet_id)
    link.lose()
    assert world.connect("s", clean=False).take() == ack(0x62, message.packet_id)


@requirement("3.12.4-1")
def pingreq_is_answered(world: BrokerWorld) -> None:
    assert world.connect().send(PINGREQ).take() == PINGRESP


@requirement("4.6.0-2", "4.6.0-3", "4.6.0-4")
def answers_are_in_the_order_of_what_they_answer(world: BrokerWorld) -> None:
    link = world.connect("s", clean=False)
    sent = [publish("a", b"x", qos, n) for n, qos in enumerate((1, 2, 1, 2, 2, 1, 1, 2, 1, 1), start=1)]
    link.send(*sent)
    assert link.take() == b"".join(
        ack(0x40 if qos == 1 else 0x50, n) for n, qos in enumerate((1, 2, 1, 2, 2, 1, 1, 2, 1, 1), start=1)
    )
    link.send(subscribe(1, ("b", 2)))
    link.take()
    world.connect("p").send(*(publish("b", b"x", 2, n) for n in range(1, 11)))
    ids = [message.packet_id for message in link.messages()]
    link.send(*(ack(0x50, packet_id) for packet_id in reversed(ids)))
    assert link.take() == b"".join(ack(0x62, packet_id) for packet_id in reversed(ids))


@requirement("4.6.0-5", "4.6.0-6")
def messages_of_a_publisher_to_a_topic_are_delivered_in_order(world: BrokerWorld) -> None:
    links = {
        (qos, clean): world.subscriber("a", qos=qos, client_id=f"s{qos}{clean}", clean=clean)
        for qos in (0, 1, 2)
        for clean in (True, False)
    }
    seen: dict[tuple[int, bool], list[int]] = {key: [] for key in links}
    publisher = world.connect("p")
    for first in range(0, 1000, 100):
        publisher.send(*(publish("a", n.to_bytes(2), 2, n + 1) for n in range(first, first + 100)))
        publisher.send(*(ack(0x62, n + 1) for n in range(first, first + 100)))
        for key, link in links.items():
            while data := link.packets():
                for head, body in data:
                    if head & 0xF0 == 0x30:
                        seen[key].append(int.from_bytes(body[-2:], "big"))
                    answer = {0x32: 0x40, 0x34: 0x50, 0x62: 0x70}.get(head)
                    if answer:
                        packet_id = body[3:5] if head & 0xF0 == 0x30 else body
                        link.send(bytes([answer, 2]) + packet_id)

    assert all(numbers == list(range(1000)) for numbers in seen.values())


@requirement("4.7.2-1")
def a_filter_that_starts_with_a_wildcard_matches_no_dollar_topic(world: BrokerWorld) -> None:
    wild, plain = world.subscriber("#", "+/x", qos=0), world.subscriber("$a/+", qos=0, client_id="t")
    world.connect("p").send(publish("$a/x", b"1", retain=True), publish("$SYS", b"2"))
    assert wild.take() == b""
    assert plain.bodies() == [b"1"]
    assert world.connect("u").send(subscribe(1, ("#", 0))).take() == b"\x90\x03\x00\x01\x00"


@requirement("4.7.3-3")
def topics_of_65535_bytes_are_taken(world: BrokerWorld) -> None:
    longest = "t" * 65_535
    link = world.subscriber(longest, qos=0)
    world.connect("p").send(publish(longest, b"x"))
    [message] = link.messages()
    assert message.topic == longest


@requirement("4.7.3-4")
def nothing_is_normalised(world: BrokerWorld) -> None:
    link = world.subscriber("a", "\u00e9", qos=0)
    world.connect("p").send(*(publish(topic) for topic in ("A", "/a", "a/", "e\u0301", "\u00e9", "a")))
    assert [message.topic for message in link.messages()] == ["\u00e9", "a"]


@requirement("4.8.0-2", "7.0.0-1")
def what_cannot_be_kept_closes_the_link_that_brought_it(world: BrokerWorld) -> None:
    world.subscriber("a", client_id="s", clean=False).lose()
    world.break_disk()
    link = world.connect("p").send(publish("a", b"x", 1, 1))
    assert link.is_closed
    assert link.take() == b""


@pytest.mark.parametrize("number", NUMBERS)
def test_requirement(number: str, tmp_path: Path) -> None:
    for at, scenario in enumerate(SCENARIOS[number]):
        folder = tmp_path / str(at)
        folder.mkdir()
        scenario(BrokerWorld(folder))


def test_every_requirement_has_a_scenario_here_or_elsewhere() -> None:
    web = Path(__file__).parents[2] / "runtime" / "net" / "test_web_listener.py"
    there = web.read_text()

    assert sorted(SCENARIOS) == sorted(NUMBERS)
    assert all(f"def {name}(" in there for name in ELSEWHERE.values())
