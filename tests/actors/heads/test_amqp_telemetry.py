"""What AMQP clients send: accepted once it is on disk, in order, or refused with its condition.

Source: hub-protocols.md sections 3.4, 3.5, 3.8 and 7.3
"""

from __future__ import annotations

import json

import pytest

from actors.heads import intake
from actors.heads.amqp_links import TELEMETRY_CREDIT
from actors.heads.intake import STORE_LIMIT_S
from actors.hub.router import Publish
from messaging.amqp.addresses import LinkKind
from messaging.amqp.codec import BATCH_FORMAT, AmqpMessage, encode, join_batch
from messaging.amqp.events import Settled
from messaging.message import LARGEST_MESSAGE_BYTES
from tests.actors.amqp_world import LEAF, SENSOR, AmqpPeer, AmqpWorld, text

THROTTLED = "com.microsoft:device-container-throttled"
TOO_LARGE = "amqp:link:message-size-exceeded"


def send_batch(peer: AmqpPeer, link: object, *messages: AmqpMessage) -> None:
    batch = join_batch([encode(message) for message in messages])
    link.send(batch, b"batch", settled=False, message_format=BATCH_FORMAT)  # type: ignore[attr-defined]
    peer.go()


def test_a_message_is_accepted_when_it_is_on_disk() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)

    peer.send(link, text("1", k="v"), text("2", k="v"))

    [(letter, publish)] = world.published()
    assert [body for _, body in publish.entries] == [b"1", b"2"]
    assert len(publish.headers) == 1
    assert peer.outcomes() == []
    world.store(letter.correlation_id)
    assert peer.outcomes() == [("accepted", ""), ("accepted", "")]


def test_the_sender_is_who_the_link_belongs_to() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS, properties={"com.microsoft:model-id": "dtmi:a;1"})

    message = text("x", **{"iothub-outputname": "out", "iothub-connection-device-id": "other"})
    message.annotations["iothub-connection-device-id"] = "other"
    peer.send(link, message)

    [routed] = world.messages()
    assert routed.source == "/messages/modules/sensor/outputs/out/"
    assert routed.system_properties["connectionDeviceId"] == "edge1"
    assert routed.system_properties["connectionModuleId"] == "sensor"
    assert routed.system_properties["modelId"] == "dtmi:a;1"


def test_a_batch_has_one_outcome_when_all_of_it_is_on_disk() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)

    send_batch(peer, link, text("1"), text("2"), text("3"))

    [(letter, publish)] = world.published()
    assert [body for _, body in publish.entries] == [b"1", b"2", b"3"]
    world.store(letter.correlation_id)
    assert peer.outcomes() == [("accepted", "")]


@pytest.mark.parametrize("in_batch", [False, True], ids=["alone", "in a batch"])
def test_a_message_that_is_too_large_is_rejected_and_what_follows_is_not(in_batch: bool) -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)
    large = AmqpMessage(body=b"x" * (LARGEST_MESSAGE_BYTES + 1))

    if in_batch:
        send_batch(peer, link, text("1"), large)
    else:
        peer.send(link, large)
    peer.send(link, text("2"))

    assert peer.outcomes() == [("rejected", TOO_LARGE)]
    assert [message.body for message in world.messages()] == [b"2"]
    assert peer.detached() == []


def test_a_message_longer_than_the_link_takes_ends_the_link_alone() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)
    link.max_message_bytes = 0  # the client does not care

    link.send(encode(AmqpMessage(body=b"x" * 1_100_000)), b"1", settled=False)

    assert peer.detached() == [(link.address, TOO_LARGE)]
    again = world.link(peer, LinkKind.EVENTS)
    peer.send(again, text("1"))
    assert [message.body for message in world.messages()] == [b"1"]


def test_rubbish_is_rejected_and_the_link_goes_on() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)

    link.send(b"\xff\xff\xff", b"1", settled=False)
    peer.send(link, text("1"))

    assert peer.outcomes() == [("rejected", "amqp:decode-error")]
    assert [message.body for message in world.messages()] == [b"1"]


def test_what_cannot_be_stored_ends_the_link_with_all_that_came_behind_it() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)
    for body in ("1", "2", "3"):
        peer.send(link, text(body))
    first, second, third = [letter.correlation_id for letter, _ in world.published()]

    world.refuse(second)
    peer.send(link, text("4"))

    assert world.published() == []  # it must not overtake what comes again
    assert peer.outcomes() == [("rejected", THROTTLED)]
    assert peer.detached() == []
    world.refuse(third, "batch 2 came where 1 was expected")
    world.store(first)
    assert sorted(peer.outcomes()) == [("accepted", ""), ("rejected", THROTTLED), ("rejected", THROTTLED)]
    [(address, condition)] = peer.detached()
    assert (address, condition) == (link.address, THROTTLED)
    assert peer.ended() is None


def test_after_that_another_link_begins_anew() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)
    peer.send(link, text("1"))
    [(letter, before)] = world.published()
    world.refuse(letter.correlation_id)
    peer.go()

    again = world.link(peer, LinkKind.EVENTS)
    peer.send(again, text("1"))

    [(_, after)] = world.published()
    assert after.epoch > before.epoch
    assert (before.index, after.index) == (0, 0)


def test_a_store_that_does_not_answer_ends_the_link_after_a_while() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)
    peer.send(link, text("1"))

    world.system.advance(STORE_LIMIT_S + 2)

    assert peer.outcomes() == [("rejected", "com.microsoft:timeout")]
    assert peer.detached() == [(link.address, "com.microsoft:timeout")]


def test_the_reason_is_told_as_json() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)
    peer.send(link, AmqpMessage(body=b"x" * (LARGEST_MESSAGE_BYTES + 5)))

    [settled] = peer.of(Settled)

    told = json.loads(settled.description)
    assert told["errorCode"] == 413000
    assert "5 bytes over" in told["message"]


def test_what_was_sent_in_the_same_read_as_the_end_is_stored() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)

    link.send(encode(text("last")), b"1", settled=True)
    link.detach()
    peer.engine.close()
    peer.go()

    assert [message.body for message in world.messages()] == [b"last"]
    assert peer.ended() is not None


def test_each_identity_on_a_connection_publishes_for_itself() -> None:
    world = AmqpWorld()
    peer = world.connect()
    peer.put_token(LEAF)
    links = [world.link(peer, LinkKind.EVENTS, who) for who in (SENSOR, LEAF)]

    for link in links:
        link.send(encode(text(link.address)), b"1", settled=False)
    peer.go()

    published: list[Publish] = [publish for _, publish in world.published()]
    assert {publish.identity for publish in published} == {SENSOR, LEAF}
    assert len({publish.epoch for publish in published}) == 2


def test_credit_is_given_back_with_the_outcomes() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)
    assert link.credit == TELEMETRY_CREDIT

    for _ in range(3):
        peer.send(link, *[text("x")] * 200)
    assert link.credit == TELEMETRY_CREDIT - 600
    world.store(*[letter.correlation_id for letter, _ in world.published()])
    peer.go()

    assert link.credit == TELEMETRY_CREDIT


def test_a_client_with_too_much_on_its_way_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "CLIENT_CREDIT_BYTES", 3000)
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)

    peer.send(link, text("x" * 2500))
    assert peer.transport.reading
    peer.send(link, text("x" * 2500))

    assert not peer.transport.reading
    world.store(*[letter.correlation_id for letter, _ in world.published()])
    assert peer.transport.reading


def test_a_link_that_ends_while_its_client_is_not_read_lets_it_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "CLIENT_CREDIT_BYTES", 1000)
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)
    peer.send(link, text("x" * 2500))
    [(letter, _)] = world.published()
    assert not peer.transport.reading

    world.refuse(letter.correlation_id)

    assert peer.transport.reading
    assert world.described("hub/amqp")["unanswered_bytes"] == 0
