"""The hub's link to the cloud: on and off, down and up again, and messages that nobody can send."""

from __future__ import annotations

import pytest

from actors.append_guard import AppendGuard
from actors.store import StoreActor
from actors.store_messages import (
    Append,
    Attach,
    Delivered,
    Detach,
    QueuesWaiting,
    Ready,
    Undeliverable,
    WatchQueues,
)
from actors.stored import EndpointLedger
from actors.trail import StorageTrail
from actors.upstream import LONGEST_RETRY_S, RETRY_S, GetLinkState, LinkState, SwitchLink, UpstreamActor
from messaging.lifecycle import ActorRestarted
from messaging.message import encode_header
from messaging.upstream_queues import UPSTREAM, UPSTREAM_QUEUES, upstream_queue
from tests.actors.hub_world import World, to
from tests.fakes.cloud import MemoryLink
from tests.fakes.message_db import MemoryDisk, MemoryMessageDb

UP, STORE = "hub/upstream", "hub/store"
SOURCE = "edge1/m"
QUEUE = upstream_queue(SOURCE)
HEADER = encode_header("/messages/", {}, {})


class UpstreamWorld(World):
    """The actor alone, with a mailbox for the store."""

    def __init__(self, link: MemoryLink | None = None) -> None:
        super().__init__(STORE, "test")
        self.link = link or MemoryLink()
        self.start(UP, lambda: UpstreamActor(self.link, STORE))

    def attachment(self) -> int:
        assert self.told(STORE, WatchQueues) == [WatchQueues(UPSTREAM_QUEUES)]
        self.tell(UP, QueuesWaiting((QUEUE,)), STORE)
        [attach] = self.told(STORE, Attach)
        assert attach.endpoint_id == QUEUE
        return attach.attachment

    def ready(self, attachment: int, first: int, *bodies: bytes, header: bytes = HEADER) -> None:
        run = (first, (header,), tuple((0, body) for body in bodies))
        self.tell(UP, Ready(QUEUE, attachment, (run,)), STORE)


class WholeWorld(World):
    """The actor with a real StoreActor on a store in memory."""

    def __init__(self) -> None:
        super().__init__("test", "hub/mqtt")
        self.link = MemoryLink()
        self.disk = MemoryDisk()
        self.index = 1
        guard = AppendGuard()
        self.start(STORE, lambda: StoreActor(lambda: MemoryMessageDb(self.disk), guard, StorageTrail()))
        self.start(UP, lambda: UpstreamActor(self.link, STORE))

    def publish(self, *bodies: bytes, source: str = SOURCE) -> None:
        entries = tuple((0, body) for body in bodies)
        append = Append(source, self.index, 0, ((HEADER, to(upstream_queue(source))),), entries)
        self.index += 1
        self.turn(STORE, append, sender="hub/mqtt")

    def ledger(self) -> EndpointLedger:
        self.system.advance(1.0)
        return MemoryMessageDb(self.disk).ledger().endpoints[UPSTREAM]


def test_what_the_link_took_is_delivered() -> None:
    world = UpstreamWorld()
    attachment = world.attachment()

    world.ready(attachment, 5, b"a", b"b")

    assert world.link.bodies == [b"a", b"b"]
    assert world.told(STORE, Delivered) == [Delivered(QUEUE, attachment, ((5, 6),))]
    assert world.described(UP)["sent"] == 2


def test_messages_wait_while_the_link_is_off_and_flow_when_it_is_on_again() -> None:
    world = WholeWorld()
    world.publish(b"1")
    world.tell(UP, SwitchLink(False), "test")

    world.publish(b"2", b"3")
    while_off = list(world.link.bodies)
    world.tell(UP, SwitchLink(True), "test")
    world.publish(b"4")
    world.tell(UP, GetLinkState(), "test")

    assert while_off == [b"1"]
    assert world.link.bodies == [b"1", b"2", b"3", b"4"]
    assert world.told("test", LinkState) == [LinkState(False, 1), LinkState(True, 1), LinkState(True, 4)]
    assert world.ledger() == EndpointLedger(accepted=4, delivered=4)


def test_every_sender_is_served_before_and_after_an_outage() -> None:
    world = WholeWorld()
    world.publish(b"a1", source="edge1/a")
    world.publish(b"b1", source="leaf")
    world.tell(UP, SwitchLink(False), "test")
    world.publish(b"a2", b"a3", source="edge1/a")
    world.publish(b"c1", source="another")

    world.tell(UP, SwitchLink(True), "test")
    world.publish(b"b2", source="leaf")

    assert world.link.bodies == [b"a1", b"b1", b"a2", b"a3", b"c1", b"b2"]
    assert world.ledger() == EndpointLedger(accepted=6, delivered=6)


def test_a_link_that_was_switched_off_stays_off_over_a_restart() -> None:
    link = MemoryLink()
    link.switch(False)

    world = UpstreamWorld(link)

    assert world.told(STORE, WatchQueues) == []


def test_while_the_link_is_down_nothing_is_lost_and_the_log_hears_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = WholeWorld()
    world.link.down = "no route to host"
    world.publish(b"1", b"2")

    world.system.advance(RETRY_S * 10)
    world.publish(b"3")
    tries = world.link.sends
    world.link.down = ""
    world.system.advance(RETRY_S)

    assert tries >= 10
    assert world.link.bodies == [b"1", b"2", b"3"]
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1
    assert world.ledger() == EndpointLedger(accepted=3, delivered=3)


def test_a_message_that_cannot_be_sent_is_dropped_and_the_others_go(caplog: pytest.LogCaptureFixture) -> None:
    world = WholeWorld()
    world.link.poison = b"bad"

    world.publish(b"1", b"bad", b"2")
    world.publish(b"3")

    assert world.link.bodies == [b"1", b"2", b"3"]
    assert world.ledger() == EndpointLedger(
        accepted=4, delivered=3, dropped=1, dropped_by_reason={"poison": 1}
    )
    assert "this message cannot be sent" in caplog.text
    assert world.told("test", ActorRestarted) == []


def test_when_not_one_message_goes_through_it_is_the_link_and_nothing_is_dropped() -> None:
    world = WholeWorld()
    world.link.poison = b"bad"

    world.publish(b"bad", b"bad")
    world.system.advance(RETRY_S * 2)
    waiting = world.ledger()
    world.link.poison = b""
    world.system.advance(RETRY_S * 8)

    assert waiting == EndpointLedger(accepted=2, pending=2)
    assert world.link.bodies == [b"bad", b"bad"]


def test_a_link_that_takes_nothing_though_it_is_up_is_tried_less_and_less_often() -> None:
    world = WholeWorld()
    world.link.poison = b"bad"
    world.publish(b"bad")

    tries = []
    for _ in range(5):
        before = world.link.sends
        world.system.advance(LONGEST_RETRY_S)
        tries.append(world.link.sends - before)
    world.link.poison = b""
    world.system.advance(LONGEST_RETRY_S)

    assert tries[0] >= 2 * 6  # the batch, and its message alone
    assert tries[-1] <= 2 * 2
    assert world.link.bodies == [b"bad"]


def test_a_damaged_header_does_not_hold_up_the_queue() -> None:
    world = UpstreamWorld()
    attachment = world.attachment()
    run = (1, (HEADER, b"\xc1 damaged"), ((0, b"1"), (1, b"?"), (0, b"2")))

    world.tell(UP, Ready(QUEUE, attachment, (run,)), STORE)

    assert world.link.bodies == [b"1", b"2"]
    assert world.told(STORE, Undeliverable) == [Undeliverable(QUEUE, attachment, ((2, 2),))]


def test_after_a_restart_of_the_store_it_attaches_anew_and_takes_nothing_for_before() -> None:
    world = UpstreamWorld()
    old = world.attachment()

    world.tell(UP, ActorRestarted(STORE, "boom", 1), STORE)
    new = world.attachment()
    world.ready(old, 1, b"old")
    world.ready(new, 1, b"new")

    assert world.link.bodies == [b"new"]


def test_after_its_own_restart_it_takes_nothing_for_the_attachment_before() -> None:
    world = UpstreamWorld()
    old = world.attachment()
    world.clock.advance(0.001)

    world.tell(UP, Ready(QUEUE, old, (1,)), STORE)  # type: ignore[arg-type]
    new = world.attachment()
    world.ready(old, 500, b"from the middle")

    assert new > old
    assert world.link.bodies == []
    assert world.link.closed == 1
    assert world.told(STORE, Detach) == []


def test_a_restart_of_the_store_under_way_loses_and_reorders_nothing() -> None:
    world = WholeWorld()
    world.publish(b"1")
    world.link.down = "away"
    world.publish(b"2")

    world.turn(STORE, Append("x", None, 0, (), ()), sender="hub/mqtt")  # type: ignore[arg-type]
    world.publish(b"3")
    world.link.down = ""
    world.system.advance(RETRY_S)

    assert world.link.bodies == [b"1", b"2", b"3"]
    assert len(world.told("test", ActorRestarted)) == 1
