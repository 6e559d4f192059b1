"""The MQTT head's limits, in virtual time: what a client can make it keep, and for how long."""

from __future__ import annotations

import pytest

from actors.heads.mqtt_sessions import MOST_FILTER_BYTES, MOST_FILTERS, MOST_SUBSCRIPTION_ANSWERS
from actors.manifest.hub_environment import DEFAULTS
from messaging.identity import Identity
from messaging.mqtt.packets import Connect, PingReq, Subscribe, Unsubscribe
from tests.actors.whole_hub import (
    A_TO_B,
    CONNACK,
    INPUT,
    LEAF,
    PINGRESP,
    PUBACK,
    PUBLISH,
    SUBACK,
    UNSUBACK,
    A,
    B,
    HubWorld,
)


def test_a_connection_that_stays_silent_is_closed_after_five_seconds() -> None:
    world = HubWorld()
    silent, partial = world.open(), world.open()
    partial.send(world.connect_packet(A).encode()[:20])

    world.system.advance(5.0)
    assert not silent.transport.closed
    world.system.advance(1.5)

    assert silent.transport.closed
    assert partial.transport.closed


@pytest.mark.parametrize("whole", [True, False], ids=["behind CONNECT", "instead of CONNECT"])
def test_a_connection_that_sends_more_than_4_kib_before_it_is_known_is_closed(whole: bool) -> None:
    world = HubWorld()
    peer = world.open()
    unknown = world.connect_packet(f"{A}-of-nobody").encode()
    start = unknown if whole else b"\x10\xff\x7f\x00\x04MQTT"  # CONNECT of 16 KiB

    peer.send(start + b"\x30" * 4096)

    assert peer.transport.closed
    assert peer.received() == []


def test_a_client_counts_as_known_only_when_its_token_was_accepted() -> None:
    world = HubWorld()
    good, bad = world.open(), world.open()

    bad.send(world.connect_packet(B, key=b"x" * 32))
    good.connect(A)

    assert bad.received() == [(CONNACK, b"\x00\x05")]
    assert (good.transport.known, bad.transport.known) == (True, False)


def test_a_client_that_does_not_read_is_not_read_either_until_it_does() -> None:
    world = HubWorld()
    peer = world.open().connect(A)

    peer.handler.writing_paused(peer.client)
    assert not peer.transport.reading
    peer.handler.writing_resumed(peer.client)

    assert peer.transport.reading
    peer.send(PingReq())
    assert peer.received() == [(PINGRESP, b"")]


def test_a_client_that_never_reads_is_closed_after_its_keep_alive() -> None:
    world = HubWorld()
    peer = world.open().connect(A, keep_alive_s=20)
    peer.handler.writing_paused(peer.client)

    world.system.advance(30.0)
    assert not peer.transport.closed
    world.system.advance(2.0)

    assert peer.transport.closed


def test_at_qos_0_no_more_than_a_window_is_written_to_a_client_that_does_not_read() -> None:
    world = HubWorld(A_TO_B)
    sender, reader = world.open().connect(A), world.open().connect(B)
    reader.subscribe(INPUT, qos=0)
    reader.received()
    reader.handler.writing_paused(reader.client)

    for number in range(DEFAULTS.max_pending_outbound_messages + 50):
        sender.publish(b"%d" % number, qos=0)
    written = reader.received()

    assert [kind for kind, _ in written] == [PUBLISH] * DEFAULTS.max_pending_outbound_messages
    assert world.disk.contents.queues  # the rest waits on disk
    assert (
        len(world.bodies()) == DEFAULTS.max_pending_outbound_messages + 50
    )  # nothing counts as delivered that still waits here

    reader.handler.writing_resumed(reader.client)
    world.system.advance(0.1)
    assert [kind for kind, _ in reader.received()] == [PUBLISH] * 50
    assert world.bodies() == set()


def test_a_session_is_saved_once_for_many_subscriptions_and_each_is_acknowledged_after_that() -> None:
    world = HubWorld(A_TO_B)
    peer = world.open().connect(B, clean=False)
    asked = [
        Subscribe(number, ((INPUT, number % 2),)) if number % 3 else Unsubscribe(number, (INPUT,))
        for number in range(1, 1001)
    ]

    peer.send(*asked)

    answers = peer.received()
    assert [kind for kind, _ in answers] == [SUBACK if n % 3 else UNSUBACK for n in range(1, 1001)]
    assert [int.from_bytes(body[:2], "big") for _, body in answers] == list(range(1, 1001))
    assert world.disk.contents.sessions.keys() == {B}
    assert len(world.head._deliveries.attached()) == 1


def test_a_client_that_subscribes_faster_than_the_disk_takes_it_is_not_read_meanwhile() -> None:
    world = HubWorld()
    peer = world.open().connect(LEAF, clean=False)
    send = peer.handler.received
    many = [Subscribe(n, ((f"f/{n % 50}", 1),)).encode() for n in range(1, MOST_SUBSCRIPTION_ANSWERS + 3)]

    send(peer.client, many[0])  # on its way to the disk, as nobody runs the store
    send(peer.client, b"".join(many[1:]))
    assert not peer.transport.reading
    world.system.run()

    assert peer.transport.reading
    assert [kind for kind, _ in peer.received()] == [SUBACK] * len(many)


@pytest.mark.parametrize(
    "filters",
    [
        [f"f/{number}" for number in range(MOST_FILTERS + 1)],
        ["x" * (MOST_FILTER_BYTES // 2) + str(number) for number in range(3)],
    ],
    ids=["many", "long"],
)
def test_a_client_has_so_many_filters_and_no_more(filters: list[str]) -> None:
    world = HubWorld()
    peer = world.open().connect(LEAF, clean=False)

    for topic_filter in filters:
        if not peer.transport.closed:
            peer.subscribe(topic_filter)

    assert peer.transport.closed
    kept = world.head._subscriptions._kept
    assert len(kept[LEAF]) <= MOST_FILTERS
    assert sum(map(len, kept[LEAF])) <= MOST_FILTER_BYTES


def test_nothing_of_a_refused_client_is_kept() -> None:
    world = HubWorld()
    peer = world.open()

    peer.send(Connect(str(Identity("nobody")), True, 60, user_name="x", password=b"y"))

    assert peer.transport.closed
    assert world.head.describe() == {
        "connections": 0,
        "clients": (),
        "attached": (),
        "unanswered_bytes": 0,
    }


def test_an_acknowledged_publish_is_on_disk() -> None:
    world = HubWorld()
    peer = world.open().connect(LEAF)

    peer.publish(b"hello", packet_id=7)

    assert peer.received() == [(PUBACK, b"\x00\x07")]
    assert world.bodies() == {b"hello"}
