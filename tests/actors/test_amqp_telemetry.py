"""What AMQP clients send: accepted once it is on disk, in order, or refused with its condition."""

from __future__ import annotations

from messaging.amqp.addresses import LinkKind
from tests.actors.amqp_world import AmqpWorld, text


def test_a_message_is_accepted_when_it_is_on_disk() -> None:
    world = AmqpWorld()
    peer = world.connect()
    link = world.link(peer, LinkKind.EVENTS)

    peer.send(link, text("1", k="v"), text("2", k="v"))

    [(letter, publish)] = world.published()
    assert [body for _, body in publish.entries] == [b"1", b"2"]
    assert peer.outcomes() == []
    world.store(letter.correlation_id)
    assert peer.outcomes() == [("accepted", ""), ("accepted", "")]
